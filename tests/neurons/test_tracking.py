"""Graded and signed neurons against a reference that tries every level."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from references.spiking import level, track
from tospike.errors import OptionError
from tospike.graph.rewrite import Rectifier
from tospike.neurons import Neuron, NeuronModel, emit

# Sixteenths are exact in binary, so a reference that adds in another order meets the same ties.
GRID = st.integers(-80, 80).map(lambda n: n / 16)
CURRENTS = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=GRID)
MODELS = st.builds(
    NeuronModel, capacity=st.integers(1, 5), signed=st.booleans(), levels=st.sampled_from(["uniform", "nearest"])
)


def run(neuron, currents):
    current = torch.as_tensor(currents, dtype=torch.float64)
    emitted, state = neuron(current, neuron.initial(current[0]))
    return emitted.numpy(), state


@given(u=st.lists(GRID, min_size=1, max_size=20), theta=st.sampled_from([0.25, 0.5, 1.0, 2.0]), model=MODELS)
def test_emission_is_the_level_that_the_reference_finds(u, theta, model):
    got = emit(torch.tensor(u, dtype=torch.float64), torch.tensor(theta, dtype=torch.float64), model)
    wanted = [level(value, theta, model.capacity, model.levels, model.signed) for value in u]
    np.testing.assert_array_equal(got.numpy(), wanted)


@given(
    currents=CURRENTS,
    theta=st.sampled_from([0.5, 1.0]),
    capacity=st.integers(1, 3),
    levels=st.sampled_from(["uniform", "nearest"]),
)
def test_signed_neuron_agrees_with_the_reference(currents, theta, capacity, levels):
    start = 0.5 if levels == "uniform" else 0.0
    neuron = Neuron(
        torch.tensor(theta, dtype=torch.float64), start, NeuronModel(capacity=capacity, signed=True, levels=levels)
    )
    emitted, _ = run(neuron, currents)
    np.testing.assert_array_equal(emitted, track(currents, theta, start, lambda q, t: max(q, 0.0), capacity, levels))


@given(currents=CURRENTS, total=st.integers(1, 12))
def test_without_a_limit_per_step_only_the_charge_so_far_counts(currents, total):
    neuron = Neuron(torch.tensor(1.0, dtype=torch.float64), 0.5, NeuronModel(capacity=10_000, signed=True, total=total))
    emitted, _ = run(neuron, currents)
    counts = np.clip(np.floor(np.cumsum(currents, 0) + 0.5), 0, total)
    np.testing.assert_array_equal(np.cumsum(emitted, 0), counts)


@given(currents=CURRENTS)
def test_a_neuron_with_memory_never_owes_more_than_it_sent(currents):
    emitted, _ = run(Neuron(torch.tensor(0.5, dtype=torch.float64), 0.5, NeuronModel(signed=True)), currents)
    assert (np.cumsum(emitted, 0) >= 0).all()


FUNCTIONS = {
    "relu6": (Rectifier(6.0), lambda q, t: min(max(q, 0.0), 6.0 * t)),
    "leaky": (nn.LeakyReLU(0.25), lambda q, t: max(q, 0.25 * q)),
    "gelu": (nn.GELU(), lambda q, t: 0.5 * q * (1 + math.erf(q / t / math.sqrt(2)))),
    "tanh": (nn.Tanh(), lambda q, t: t * math.tanh(q / t)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_mean_emission_follows_any_activation_of_the_mean_current(name):
    function, formula = FUNCTIONS[name]
    currents = torch.randn(200, 40, dtype=torch.float64) + torch.linspace(-3, 3, 40, dtype=torch.float64)
    neuron = Neuron(torch.tensor(0.5, dtype=torch.float64), 0.5, NeuronModel(capacity=100, signed=True), function)
    emitted, state = run(neuron, currents)
    wanted = [formula(q, 200) for q in currents.sum(0).tolist()]
    assert np.abs(emitted.sum(0) - wanted).max() <= 0.25 + 1e-9
    assert state.steps == 200


def test_bias_of_each_step_is_added_and_the_last_one_stays():
    neuron = Neuron(torch.tensor(1.0), 0.0)
    neuron.bias = torch.tensor([[1.0], [0.0], [0.5]])
    emitted, _ = run(neuron.double(), np.zeros((7, 1, 1)))
    assert emitted.ravel().tolist() == [1, 0, 0, 1, 0, 1, 0]


def test_chunks_of_time_continue_each_other():
    neuron = Neuron(torch.tensor(0.5, dtype=torch.float64), 0.5, NeuronModel(capacity=2, signed=True), nn.GELU())
    neuron.bias = torch.randn(5, 3, dtype=torch.float64)
    currents = torch.randn(9, 4, 3, dtype=torch.float64)
    whole, _ = run(neuron, currents)
    first, state = neuron(currents[:4], neuron.initial(currents[0]))
    second, _ = neuron(currents[4:], state)
    np.testing.assert_array_equal(whole, torch.cat([first, second]))


@pytest.mark.parametrize("settings", [{"capacity": 0}, {"levels": "prime"}, {"total": 0, "signed": True}, {"total": 3}])
def test_refuses_settings_out_of_range(settings):
    with pytest.raises(OptionError):
        NeuronModel(**settings)
