"""Gradients of what has none, against their formulas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from references.surrogate import derivative, emission, rate
from tospike.errors import OptionError
from tospike.neurons import Neuron, NeuronModel, emit
from tospike.neurons.surrogate import SHAPES, Surrogate

MODELS = [NeuronModel(), NeuronModel(signed=True), NeuronModel(capacity=5), NeuronModel(capacity=3, signed=True),
          NeuronModel(capacity=3, levels="successive"), NeuronModel(capacity=2, levels="successive", signed=True)]  # fmt: skip


@pytest.mark.parametrize("model", MODELS, ids=repr)
@given(
    values=st.lists(st.floats(-8, 8), min_size=1, max_size=20),
    theta=st.floats(0.1, 3),
    slope=st.floats(0.2, 4),
    shape=st.sampled_from(SHAPES),
)
def test_emission_and_gradients_agree_with_the_formulas(model, values, theta, slope, shape):
    u = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    threshold = torch.full_like(u, theta).requires_grad_()
    got = Surrogate(slope, shape).emit(u, threshold, model)
    assert torch.equal(got, emit(u.detach(), threshold.detach(), model))
    got.sum().backward()
    unit = theta * (0.5 ** (model.capacity - 1) if model.levels == "successive" else 1.0)
    low, high = (-model.sizes if model.signed else 0), model.sizes
    for index, value in enumerate(values):
        ratio = value / unit
        if abs(ratio - round(ratio)) < 1e-9 or abs(ratio % 1 - 0.5) < 1e-9:
            continue  # at a jump, or as far from two of them, rounding decides
        e, du, dunit = emission(value, unit, low, high, slope, shape)
        assert got[index].item() == pytest.approx(e, abs=1e-9)
        assert u.grad[index].item() == pytest.approx(du, abs=1e-9)
        assert threshold.grad[index].item() == pytest.approx(dunit * unit / theta, abs=1e-8)


@given(distance=st.floats(-5, 5), slope=st.floats(0.1, 5), shape=st.sampled_from(SHAPES))
def test_the_derivative_is_that_of_its_shape(distance, slope, shape):
    got = Surrogate(slope, shape).derivative(torch.tensor([distance], dtype=torch.float64)).item()
    assert got == pytest.approx(derivative(distance, slope, shape), abs=1e-12)


@given(current=st.floats(-2, 4), theta=st.floats(0.2, 2), steps=st.integers(1, 8))
def test_a_rate_has_the_gradients_of_a_clip(current, theta, steps):
    if min(abs(current), abs(current - theta)) < 1e-6:
        return  # at a kink
    neuron = Neuron(torch.tensor(theta, dtype=torch.float64))
    for name in ("threshold", "start"):
        value = getattr(neuron, name)
        delattr(neuron, name)
        neuron.register_parameter(name, torch.nn.Parameter(value))
    z = torch.tensor([current], dtype=torch.float64, requires_grad=True)
    emitted = torch.tensor([0.25 * theta], dtype=torch.float64)
    out = neuron.by_rate(z, emitted, steps)
    assert out.item() == pytest.approx(emitted.item())
    out.sum().backward()
    dz, dtheta, dstart = rate(current, emitted.item(), theta, steps)
    assert z.grad.item() == pytest.approx(dz)
    assert neuron.threshold.grad.item() == pytest.approx(dtheta, abs=1e-9)
    assert neuron.start.grad.item() == pytest.approx(dstart if current > 0 else 0.0, abs=1e-9)


def test_gradients_flow_through_all_steps():
    """A current at the first step moves the spikes of later ones: their sum has the gradient of a clip where all is in the window."""
    neuron = Neuron(torch.tensor(1.0))
    neuron.surrogate = Surrogate(slope=0.05)
    currents = torch.full((4, 1, 1), 0.3).requires_grad_()
    emitted, _ = neuron(currents, neuron.initial(currents[0]))
    emitted.sum().backward()
    assert (currents.grad > 0).all()
    early, late = currents.grad[0].item(), currents.grad[-1].item()
    assert early > late  # it acts on four steps, the last on one


def test_levels_of_different_distance_are_refused():
    with pytest.raises(OptionError, match="equally far apart"):
        Surrogate().emit(torch.ones(2), torch.tensor(1.0), NeuronModel(capacity=3, levels="nearest", signed=True))


@pytest.mark.parametrize("settings", [{"slope": 0.0}, {"slope": float("inf")}, {"shape": "box"}])
def test_settings_out_of_range(settings):
    with pytest.raises(OptionError):
        Surrogate(**settings)
