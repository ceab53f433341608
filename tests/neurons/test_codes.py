"""Synchronous neurons, pre-runs and the differential code against references written from the papers."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from references import synchronous as reference
from references.spiking import fire
from tospike.errors import OptionError
from tospike.neurons import Neuron, NeuronModel, PreRun, expected_start

SIXTEENTHS = st.integers(-60, 90).map(lambda n: n / 16)  # exact in binary, so that ties fall alike
THETA = st.sampled_from([0.5, 1.0, 2.0])


def neuron(theta, start=0.5, **settings):
    return Neuron(torch.tensor(theta, dtype=torch.float64), start, NeuronModel(**settings))


def run(made, currents):
    x = torch.tensor(currents, dtype=torch.float64)
    return made(x, made.initial(x[0]))[0]


@given(currents=st.lists(SIXTEENTHS, min_size=1, max_size=9), theta=THETA)
def test_rate_code_is_that_of_parallel_conversion(currents, theta):
    sent = run(neuron(theta, synchronous=True), [[[x]] for x in currents]).flatten()
    wanted = reference.parallel(sum(currents), theta, theta / 2, len(currents))
    # The sum is taken as a mean times T, so a tie may fall either way by rounding; ties are left out.
    if ((sum(currents) + theta / 2) / theta) % 1:
        assert (sent / theta).tolist() == wanted


@given(a=SIXTEENTHS, theta=THETA, steps=st.integers(1, 10), code=st.sampled_from(["rate", "bits", "first"]))
def test_every_code_says_the_same_count_in_its_own_spikes(a, theta, steps, code):
    made = neuron(theta, synchronous=True, code=code)
    levels = made.model.counts(steps)
    counted = made.count(torch.tensor([a], dtype=torch.float64), steps)
    sent = torch.stack([made.at_step(counted, steps, t) for t in range(1, steps + 1)]).flatten()
    wanted = reference.quantised(a, theta, levels)
    assert sent.mean().item() == pytest.approx(wanted, abs=1e-9)
    assert made.mean_emission(counted, steps).item() == pytest.approx(wanted, abs=1e-12)
    pattern = {"rate": lambda n, t: [1] * n + [0] * (t - n), "bits": reference.bits, "first": reference.first}[code]
    assert (sent != 0).int().tolist() == [int(bit > 0) for bit in pattern(int(counted), steps)]


@given(n=st.integers(-9, 9), steps=st.integers(1, 4), capacity=st.integers(1, 3))
def test_signed_counts_of_several_levels_per_step(n, steps, capacity):
    made = neuron(1.0, synchronous=True, signed=True, capacity=capacity)
    counted = torch.tensor([float(max(-steps * capacity, min(n, steps * capacity)))], dtype=torch.float64)
    sent = torch.stack([made.at_step(counted, steps, t) for t in range(1, steps + 1)])
    assert sent.sum().item() == counted.item()
    assert sent.abs().max() <= capacity


def test_random_counts_are_distributed_as_spikes_drawn_step_by_step():
    generator, steps, tries = random.Random(0), 6, 20_000
    for charge in (0.3, 1.5, 2.25, 5.9, 7.0, -1.0):
        made = neuron(1.0, 0.0, synchronous=True, random=True)
        counted = made.count(torch.full((tries,), charge / steps, dtype=torch.float64), steps)
        drawn = np.array([reference.probabilistic(charge, 1.0, steps, generator) for _ in range(tries)])
        assert set(counted.unique().tolist()) == set(np.unique(drawn).tolist())
        assert abs(counted.mean().item() - drawn.mean()) < 0.03  # six standard deviations


def test_random_counts_repeat_with_the_seed_and_differ_between_seeds():
    current = torch.full((1000,), 0.3)
    first, again, other = (
        Neuron(torch.tensor(1.0), 0.5, NeuronModel(synchronous=True, random=True), seed=s) for s in (1, 1, 2)
    )
    assert torch.equal(first.count(current, 4), again.count(current, 4))
    assert not torch.equal(first.count(current, 4), other.count(current, 4))


@given(currents=st.lists(SIXTEENTHS, min_size=1, max_size=8), theta=THETA)
def test_start_that_a_pre_run_finds(currents, theta):
    x = torch.tensor(currents, dtype=torch.float64)[:, None]
    found = expected_start(x, torch.tensor([theta / 2], dtype=torch.float64), torch.tensor(theta, dtype=torch.float64))
    assert found.item() == reference.shifted_start(currents, theta / 2, theta)


@given(currents=st.lists(SIXTEENTHS, min_size=5, max_size=12), theta=THETA)
def test_a_neuron_that_ends_its_pre_run_below_zero_stays_silent(currents, theta):
    sent = run(neuron(theta, pre=PreRun(4, "silence")), [[[x]] for x in currents]).flatten() / theta
    before, v = fire(np.array(currents[:4])[:, None], theta, 0.5)
    after, _ = fire(np.array(currents[4:])[:, None], theta, 0.5)
    wanted = np.concatenate([before, after * (v >= 0)]).ravel()
    assert sent.tolist() == wanted.tolist()


@given(currents=st.lists(SIXTEENTHS, min_size=5, max_size=12), theta=THETA)
def test_a_shifting_pre_run_starts_twice_from_the_start_it_found(currents, theta):
    sent = run(neuron(theta, pre=PreRun(4, "shift")), [[[x]] for x in currents]).flatten() / theta
    start = reference.shifted_start(currents[:4], theta / 2, theta) / theta
    parts = [fire(np.array(part)[:, None], theta, start)[0] for part in (currents[:4], currents[4:])]
    assert sent.tolist() == np.concatenate(parts).ravel().tolist()


WORTHS = {"differential": lambda t: 1 / t, "phase": lambda t: 0.625 ** (t - 1)}


@given(
    currents=st.lists(SIXTEENTHS, min_size=1, max_size=12),
    sizes=st.integers(1, 5),
    code=st.sampled_from(sorted(WORTHS)),
)
def test_codes_that_hold_the_mean_follow_their_definition(currents, sizes, code):
    """``r(t) = r(t-1) + w(t)·s(t)``, s the level that is nearest to what the mean lacks, and the receiver's sum is t·r(t)."""
    made = neuron(1.0, 0.0, signed=True, levels="nearest", capacity=sizes, code=code, ratio=0.625)
    sent = run(made, [[[x]] for x in currents]).flatten().tolist()
    levels = [0.0] + [sign * 2.0**-k for k in range(sizes) for sign in (1, -1)]
    r = 0.0
    for t, emission in enumerate(sent, 1):
        lacks = max(sum(currents[:t]), 0.0) / t - r
        s = (emission - r) / t / WORTHS[code](t)
        assert min(abs(s - level) for level in levels) < 1e-9
        assert abs(lacks / WORTHS[code](t) - s) <= min(abs(lacks / WORTHS[code](t) - level) for level in levels) + 1e-9
        r += WORTHS[code](t) * s
        assert t * r == pytest.approx(sum(sent[:t]), abs=1e-9)


@given(z=st.floats(0, 1.99), steps=st.integers(1, 12))
def test_phase_code_at_one_half_writes_a_constant_as_a_binary_number(z, steps):
    sent = run(neuron(1.0, signed=True, code="phase", ratio=0.5), [[[z]]] * steps).flatten()
    reach = 2 - 2.0 ** (1 - steps)
    assert abs(sent.mean().item() - min(z, reach)) <= 2.0**-steps + 1e-9


@given(z=st.floats(0, 1.0), late=st.floats(0, 1.0), ratio=st.sampled_from([0.5, 0.6, 0.7, 0.8]))
def test_a_larger_ratio_follows_a_current_that_changes(z, late, ratio):
    """After a change there are Σ w left to go up or down with; what is within them ends within half the last change."""
    steps, change = 8, 3
    currents = [z] * change + [(late * steps - z * change) / (steps - change)] * (steps - change)
    made = neuron(1.0, signed=True, code="phase", ratio=ratio)
    sent = run(made, [[[x]] for x in currents]).flatten().mean().item()
    left = sum(ratio**t for t in range(change, steps))
    if ratio >= 0.6 and abs(late - z) < 0.3 * left:
        assert abs(sent - late) <= 0.5 * ratio ** (steps - 1) + abs(late - z) / steps + 1e-9


@pytest.mark.parametrize(
    ("settings", "two"),
    [
        ({"code": "bits"}, ("bits", "causal")), ({"code": "first"}, ("first", "causal")), ({"code": "differential"}, ("differential", "negative")),
        ({"code": "bits", "synchronous": True, "capacity": 2}, ("bits", "capacity=2")), ({"random": True}, ("random", "causal")),
        ({"levels": "nearest", "synchronous": True}, ("nearest", "synchronous")), ({"pre": PreRun(2), "signed": True}, ("pre", "integrate-and-fire")),
        ({"total": 3}, ("total", "memory")),
    ],
)  # fmt: skip
def test_parts_that_exclude_each_other_are_both_named(settings, two):
    with pytest.raises(OptionError) as caught:
        NeuronModel(**settings)
    (problem,) = caught.value.problems
    assert all(name in problem.what for name in two)
    assert problem.expected
    assert problem.remedy


@pytest.mark.parametrize("settings", [{"steps": 0}, {"correction": "hope"}, {"steps": 1.5}])
def test_a_pre_run_out_of_range_is_refused(settings):
    with pytest.raises(OptionError):
        PreRun(**settings)
