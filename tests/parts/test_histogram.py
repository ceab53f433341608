import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tospike as ts
from parts.test_scales import site
from references.levels import least_error, rounding_error
from tospike.errors import CalibrationError, OptionError
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


def test_nothing_active_gives_zero():
    assert best_clip(torch.tensor([[5.0, 0.0]]), torch.tensor([0.0]), 4).item() == 0.0
    scale = GaussianPoint(site((1,)), "layer", 4)
    scale(torch.randn(100, 1) - 50)
    assert scale.threshold().item() == 0.0


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
