import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from references.spiking import count_of_constant, fire
from tospike.neurons import Neuron, if_step

STEPS = st.integers(1, 24)
THETA = st.sampled_from([0.125, 0.5, 0.75, 1.0, 3.0])


def run(currents, theta, start=0.5):
    neuron = Neuron(torch.tensor(theta, dtype=torch.float64), start)
    current = torch.as_tensor(currents, dtype=torch.float64)
    spikes, state = neuron(current, neuron.initial(current[0]))
    return spikes, state.potential


def test_fires_at_equality():
    spikes, v = if_step(torch.tensor([0.25]), torch.tensor([0.75]), torch.tensor(1.0))
    assert spikes.item() == 1.0
    assert v.item() == 0.0


@given(z=st.integers(-96, 160), theta=THETA, steps=STEPS)
def test_constant_input_gives_the_quantised_count(z, theta, steps):
    current = z / 64 * theta
    spikes, _ = run(np.full((steps, 1), current), theta)
    assert spikes.sum().item() / theta == count_of_constant(current, theta, steps)


@given(theta=THETA, steps=STEPS, z=st.floats(-5, 0))
def test_no_positive_input_never_fires(theta, steps, z):
    spikes, _ = run(np.full((steps, 1), z), theta)
    assert not spikes.any()


@given(theta=THETA, steps=STEPS, z=st.floats(1, 4))
def test_input_at_or_above_the_threshold_fires_every_step(theta, steps, z):
    spikes, _ = run(np.full((steps, 1), z * theta), theta)
    assert (spikes == theta).all()


CURRENTS = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=3, max_side=8), elements=st.floats(-3, 3))


@given(currents=CURRENTS, theta=THETA)
def test_mean_emission_is_mean_input_less_the_charge_that_stays(currents, theta):
    spikes, v = run(currents, theta)
    expected = currents.mean(0) - (v.numpy() - 0.5 * theta) / len(currents)
    np.testing.assert_allclose(spikes.mean(0).numpy(), expected, atol=1e-12)


@given(currents=CURRENTS, theta=THETA, start=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_agrees_with_the_scalar_reference(currents, theta, start):
    spikes, v = run(currents, theta, start)
    counts, last = fire(currents, theta, start)
    np.testing.assert_array_equal(spikes.numpy(), counts * theta)
    np.testing.assert_allclose(v.numpy(), last, atol=1e-12)


def test_input_order_changes_the_count():
    arriving = lambda steps: [[1.5 if t in steps else 0.0] for t in (1, 2, 3, 4)]  # noqa: E731
    assert run(arriving((1, 3, 4)), 1.0, start=0.0)[0].sum() == 3
    late, v = run(arriving((3, 4)), 1.0, start=0.0)
    assert (late.sum().item(), v.item()) == (2.0, 1.0)


def test_thresholds_broadcast_per_channel():
    theta = torch.tensor([0.5, 2.0]).reshape(2, 1, 1)
    neuron = Neuron(theta)
    current = torch.full((3, 4, 2, 5, 5), 1.0)
    spikes, _ = neuron(current, neuron.initial(current[0]))
    assert spikes[:, :, 0].unique().tolist() == [0.5]
    assert spikes[:, :, 1].sum(0).unique().tolist() == [4.0]


def test_chunks_continue_each_other():
    currents = torch.randn(9, 4, dtype=torch.float64)
    neuron = Neuron(torch.tensor(0.7, dtype=torch.float64))
    whole, end = neuron(currents, neuron.initial(currents[0]))
    first, state = neuron(currents[:4], neuron.initial(currents[0]))
    second, state = neuron(currents[4:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(state.potential, end.potential)
