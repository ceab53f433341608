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
    rest=st.integers(0, 3),
)
def test_signed_neuron_agrees_with_the_reference(currents, theta, capacity, levels, rest):
    start = 0.5 if levels == "uniform" else 0.0
    rest = min(rest, capacity) if levels == "uniform" else 0
    model = NeuronModel(capacity=capacity, signed=True, levels=levels, rest=rest)
    emitted, _ = run(Neuron(torch.tensor(theta, dtype=torch.float64), start, model), currents)
    wanted = track(currents, theta, start, lambda q, t: max(q, 0.0), capacity, levels, rest=rest)
    np.testing.assert_array_equal(emitted, wanted)


@given(
    z=st.floats(-1, 3), steps=st.integers(1, 8), capacity=st.integers(1, 3), rest=st.integers(0, 3), code=st.sampled_from(["rate", "phase"])
)  # fmt: skip
def test_what_silence_is_worth_moves_reach_depth_and_levels(z, steps, capacity, rest, code):
    model = NeuronModel(capacity=capacity, signed=True, code=code, ratio=0.5, rest=min(rest, capacity))
    neuron = Neuron(torch.tensor(1.0, dtype=torch.float64), 0.5, model, nn.Identity())
    ends, _ = run(neuron, np.tile([-99.0, 99.0], (steps, 1, 1)))
    low, high = ends.mean(0)[0]
    assert (low, high) == pytest.approx((-model.depth(steps), model.reach(steps)))
    assert model.counts(steps) == round(high * (steps if code == "rate" else 2 ** (steps - 1)))
    emitted, _ = run(neuron, np.full((steps, 1, 1), z))
    assert abs(emitted.mean() - np.clip(z, low, high)) <= 0.5 / (steps if code == "rate" else 2 ** (steps - 1)) + 1e-9


def test_the_first_step_of_phase_code_changes_what_silence_is_worth_and_later_ones_what_was_held():
    model = NeuronModel(signed=True, code="phase", ratio=0.5, rest=1)
    emitted, _ = run(
        Neuron(torch.tensor(1.0, dtype=torch.float64), 0.5, model), np.tile([0.0, 1.0, 1.5, 9.0], (3, 1, 1))
    )
    assert np.cumsum(emitted, 0)[:, 0].tolist() == [[0.0, 1.0, 2.0, 2.0], [0.0, 2.0, 3.0, 5.0], [0.0, 3.0, 4.5, 8.25]]


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


@pytest.mark.parametrize("settings", [{"capacity": 0}, {"levels": "prime"}, {"total": 0, "signed": True}, {"total": 3}, {"rest": 1},
                                      {"rest": 2, "signed": True}, {"rest": 1, "signed": True, "synchronous": True}, {"rest": 0.5, "signed": True},
                                      {"rest": 1, "signed": True, "levels": "nearest"}, {"capacity": "3", "signed": True, "rest": 1}])  # fmt: skip
def test_refuses_settings_out_of_range(settings):
    with pytest.raises(OptionError):
        NeuronModel(**settings)
