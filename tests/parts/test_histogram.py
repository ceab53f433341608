import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tospike as ts
from parts.test_scales import site
from references.levels import least_error, lifted, rounding_error
from tospike.errors import CalibrationError, OptionError
from tospike.parts import histogram
from tospike.parts.histogram import GaussianPoint, MinimalError, best_clip


@given(seed=st.integers(0, 1000), levels=st.sampled_from([1, 2, 4, 8, 16]), batches=st.integers(1, 4))
def test_clip_rounds_as_well_as_the_best_of_a_fine_grid(seed, levels, batches):
    z = (
        torch.randn(batches, 500, 1, generator=torch.Generator().manual_seed(seed))
        * torch.arange(1, batches + 1)[:, None, None]
    )
    scale = MinimalError(site((1,)), "layer", levels)
    for batch in z:
        scale(batch)
    activations = z.clamp_min(0).numpy().ravel().astype(np.float64)
    found = scale.threshold().item()
    best = least_error(activations, levels, np.linspace(0.02, 1, 400) * activations.max())
    assert rounding_error(activations, found, levels) <= 1.03 * best + 1e-6


def test_thresholds_for_a_normal_activation_are_those_of_the_table():
    z = torch.randn(400_000, 1, dtype=torch.float64)
    for levels, wanted in {1: 1.23, 2: 1.68, 4: 2.12, 8: 2.55, 16: 2.92}.items():
        for kind in (MinimalError, GaussianPoint):
            scale = kind(site((1,)), "layer", levels)
            scale(z.float())
            assert scale.threshold().item() == pytest.approx(wanted, rel=0.06), (kind, levels)


def test_each_channel_has_its_own_and_a_shared_threshold_sees_them_all():
    z = torch.randn(4000, 3, 2) * torch.tensor([0.1, 1.0, 10.0])[:, None]
    channel, layer = (MinimalError(site((3, 2)), granularity, 4) for granularity in ("channel", "layer"))
    channel(z)
    layer(z)
    ratios = channel.threshold().flatten() / torch.tensor([0.1, 1.0, 10.0])
    assert ratios.max() / ratios.min() < 1.1
    assert layer.threshold().numel() == 1
    assert layer.threshold().item() > channel.threshold().flatten()[1]


def test_order_of_batches_hardly_matters_although_the_range_grows():
    z = torch.randn(6, 300, 2) * torch.tensor([0.2, 0.5, 1, 2, 4, 8])[:, None, None]
    forward, backward = (MinimalError(site((2,)), "channel", 4) for _ in range(2))
    for first, second in zip(z, z.flip(0), strict=True):
        forward(first)
        backward(second)
    torch.testing.assert_close(forward.threshold(), backward.threshold(), rtol=0.06, atol=0)


def test_capacity_divides_the_clip_and_a_cap_bounds_it():
    z = 50 * torch.rand(1000, 1)
    one, five = MinimalError(site((1,)), "layer", 20, 1), MinimalError(site((1,)), "layer", 20, 5)
    one(z)
    five(z)
    assert five.threshold().item() == pytest.approx(one.threshold().item() / 5)
    capped = MinimalError(site((1,), cap=6.0), "layer", 20)
    capped(z)
    assert capped.threshold().item() <= 6.0


@given(
    seed=st.integers(0, 1000),
    floor=st.floats(0, 1.5),
    sizes=st.lists(st.sampled_from([0.0, 0.01, 1.0, 30.0]), min_size=1, max_size=5),
)
def test_no_channel_that_was_active_lies_below_the_floor_of_its_layer(seed, floor, sizes):
    z = torch.rand(200, len(sizes), generator=torch.Generator().manual_seed(seed)) * torch.tensor(sizes)
    plain, floored = (
        MinimalError(site((len(sizes),)), "channel", 8),
        MinimalError(site((len(sizes),)), "channel", 8, 3.0, floor),
    )
    plain(z)
    floored(z)
    wanted = lifted((plain.threshold().double() / 3).tolist(), floor)
    np.testing.assert_allclose(floored.threshold().tolist(), wanted, rtol=1e-5)


def test_nothing_active_gives_zero():
    assert best_clip(torch.tensor([[5.0, 0.0]]), torch.tensor([0.0]), 4).item() == 0.0
    scale = GaussianPoint(site((1,)), "layer", 4)
    scale(torch.randn(100, 1) - 50)
    assert scale.threshold().item() == 0.0


@pytest.mark.parametrize("granularity", ["layer", "channel", "neuron"])
@pytest.mark.parametrize("cap", [float("inf"), 1.0])
@pytest.mark.parametrize("shape", [(30, 5, 16, 16), (9, 40, 7, 7), (5000, 3, 4, 6)])
def test_histograms_are_those_of_enough_values_in_every_order_of_memory(granularity, cap, shape, monkeypatch):
    batches = (2 * torch.randn(3, *shape)).clamp_min(-1)
    compiled, plain = (MinimalError(site(shape[1:], cap=cap), granularity, 8) for _ in range(2))
    monkeypatch.setattr(histogram, "SHARE", 2**14)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for z in batches:
        compiled(z.contiguous(memory_format=torch.channels_last))
    monkeypatch.setattr(histogram, "SMALLEST", 10**9)
    for z in batches:
        plain(z)
    assert torch.equal(compiled.mass, plain.mass)
    taken = [taken_evenly(z.numpy(), granularity) for z in batches]
    assert compiled.mass.sum(1).tolist() == [sum(len(rows) for rows in taken)] * taken[0].shape[1]
    tops = np.stack([z.numpy().max(reduced(granularity)).ravel() for z in batches]).max(0).clip(0, cap)
    last = MinimalError(site(shape[1:], cap=cap), granularity, 8)
    last.top = torch.from_numpy(tops)
    last(batches[0])  # its range does not grow any more
    for group, values in enumerate(taken[0].T):
        wanted, _ = np.histogram(
            np.minimum((values.clip(0, cap) * (np.float32(1024) / tops[group])).astype(int), 1023), np.arange(1025)
        )
        assert np.array_equal(last.mass[group].numpy(), wanted)


def reduced(granularity):
    return {"layer": (0, 1, 2, 3), "channel": (0, 2, 3), "neuron": (0,)}[granularity]


def taken_evenly(z, granularity):
    """Return every k-th value of each threshold ``[values, thresholds]``, k without a common divisor with the values of a sample."""
    n, c, h, w = z.shape
    groups = {"layer": 1, "channel": c, "neuron": c * h * w}[granularity]
    each = c * h * w // groups
    step = 1
    while n * each > step * max(2**12, 2**16 // groups) or math.gcd(step, each) > 1:
        step += 1
    rows = z.transpose(0, 2, 3, 1) if granularity != "neuron" else z
    return rows.reshape(n * each, groups)[::step]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("cap", [float("inf"), 6.0])
def test_what_is_not_finite_in_any_batch_shows_in_the_threshold(wrong, last, first, cap):
    z = torch.randn(2, 50, 16, 24, 24)
    z[0 if first else 1, 7, 3, 5, 6] = wrong  # whether it is in the sample or not
    scale = MinimalError(site((16, 24, 24), cap=cap), "channel", 8)
    for batch in z:
        scale(batch.contiguous(memory_format=torch.channels_last) if last else batch)
    assert scale.theta.flatten().isfinite().tolist() == [channel != 3 for channel in range(16)]


def test_places_are_taken_evenly():
    z = torch.arange(28 * 28).repeat(600, 1).reshape(600, 1, 28, 28).float()
    found = histogram.sampled(z, (0, 1, 2, 3), 1).flatten().long().bincount(minlength=28 * 28)
    assert found.min() > 0
    assert found.max() <= found.min() + 2
    assert found.sum() == pytest.approx(2**16, rel=0.3)  # steps 8 to 10 share a divisor with 28 · 28


def test_a_sample_gives_the_threshold_of_all_values(monkeypatch):
    z = torch.randn(400, 6, 24, 24) * torch.linspace(0.5, 2, 6)[:, None, None]
    some, all_of_them = (MinimalError(site((6, 24, 24)), "channel", 8) for _ in range(2))
    some(z)
    monkeypatch.setattr(histogram, "PER_THRESHOLD", z.numel())
    all_of_them(z)
    assert all_of_them.mass.sum() == z.numel() > 10 * some.mass.sum()
    torch.testing.assert_close(some.threshold(), all_of_them.threshold(), rtol=0.05, atol=0)


def test_too_few_data_and_a_missing_t_are_errors():
    ann = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    with pytest.raises(CalibrationError, match="Too few"):
        ts.convert(ann, ts.LightCalibration(time_steps=64, batches=1), calibration=[torch.randn(8, 3)])
    for name in ("light-calibration", "advanced-calibration", "ftbc", "ternary", "burst"):
        with pytest.raises(OptionError, match="time_steps"):
            ts.method(name)


@pytest.mark.parametrize("value", [0.3, 1.0, 7.0])
def test_gaussian_point_of_a_channel_without_spread_covers_its_value(value):
    ann = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double()
    with torch.no_grad():
        ann[0].weight[0] = 0.0
        ann[0].bias[0] = value
    x = torch.randn(64, 3, dtype=torch.float64)
    snn = ts.convert(ann, ts.Harmony(time_steps=8), calibration=[x])
    neuron = snn.graph.get_submodule("1")
    current = ann[0](x).detach().expand(8, -1, -1)
    sent = neuron(current, neuron.initial(current[0]))[0].mean(0)[:, 0]
    assert (sent - value).abs().max() < 0.03 * value


@pytest.mark.parametrize("levels", [1, 8, 100])
def test_all_clips_at_once_find_what_trying_each_finds(levels):
    mass, top = torch.rand(7, 512) ** 4, torch.rand(7) + 0.5
    centres = (torch.arange(512) + 0.5).numpy() / 512
    for row, largest, found in zip(
        mass.numpy().astype(np.float64), top.tolist(), best_clip(mass, top, levels).tolist(), strict=True
    ):
        shares = np.geomspace(0.02, 1.0, 160)
        costs = [
            (row * (centres - np.clip(np.floor(centres * levels / s + 0.5), 0, levels) * s / levels) ** 2).sum()
            for s in shares
        ]
        assert found == pytest.approx(shares[np.argmin(costs)] * largest, rel=1e-5)


@pytest.mark.parametrize("levels", [100, 496, 5000])
def test_more_levels_than_values_clip_at_the_largest(levels):
    z = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
    scale = MinimalError(site((3,)), "channel", levels)
    scale(z)
    torch.testing.assert_close(scale.threshold(), z.amax(0), rtol=0.05, atol=0.0)
    few = MinimalError(site((3,)), "channel", levels)
    few(z[:63])
    with pytest.raises(CalibrationError, match="at least 64"):
        few.threshold()


def test_a_branch_behind_a_global_pool_is_calibrated_for_many_steps():
    torch.manual_seed(0)
    pooled = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(4, 4, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    x = torch.rand(100, 1, 8, 8)
    snn = ts.convert(pooled.eval(), ts.Auto(time_steps=16), calibration=[x], progress=False)
    y = pooled(x)
    assert (snn(x, time_steps=16) - y).norm() < 0.05 * y.norm()
