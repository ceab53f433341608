import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tospike as ts
from references.balancing import balance
from tospike.graph.capture import Operation, Site
from tospike.graph.kinds import Kind, Verdict
from tospike.parts.scales import LocalBalance, Percentile


def site(shape, axis=1, cap=math.inf):
    return Site("s", Operation(Verdict(Kind.ACTIVATION, "relu"), "s", "", (1, *shape), axis), shape, axis, cap)


def test_first_step_is_twice_the_mean_of_the_positive_part():
    z = torch.randn(16, 3, 4, 4)
    scale = LocalBalance(site((3, 4, 4)), "channel")
    scale(z)
    torch.testing.assert_close(scale.threshold(), 2 * z.clamp_min(0).mean((0, 2, 3)).reshape(3, 1, 1))


@given(seed=st.integers(0, 1000), granularity=st.sampled_from(["layer", "channel", "neuron"]))
def test_threshold_never_falls_and_the_output_is_clipped_with_the_new_one(seed, granularity):
    generator = torch.Generator().manual_seed(seed)
    scale = LocalBalance(site((3, 4)), granularity)
    for _ in range(5):
        before = scale.threshold()
        z = torch.randn(6, 3, 4, generator=generator)
        out = scale(z)
        assert (scale.threshold() >= before).all()
        assert torch.equal(out, z.clamp_min(0).minimum(scale.threshold()))


@pytest.mark.parametrize(("granularity", "shape"), [("layer", (1, 1)), ("channel", (3, 1)), ("neuron", (3, 4))])
@pytest.mark.parametrize("kind", [LocalBalance, lambda s, g: Percentile(s, g, 0.9)])
def test_granularity_decides_what_shares_a_threshold(kind, granularity, shape):
    scale = kind(site((3, 4)), granularity)
    scale(torch.rand(5, 3, 4))
    assert scale.threshold().shape == shape


def test_features_of_a_linear_layer_lie_on_the_last_axis():
    scale = LocalBalance(site((7, 5), axis=2), "channel")
    scale(torch.rand(2, 7, 5))
    assert scale.threshold().shape == (1, 5)


def test_channels_do_not_see_each_other():
    z = torch.randn(8, 3, 5)
    changed = z.clone()
    changed[:, 1] *= 100
    first, second = LocalBalance(site((3, 5)), "channel"), LocalBalance(site((3, 5)), "channel")
    for _ in range(3):
        first(z)
        second(changed)
    assert torch.equal(first.threshold()[[0, 2]], second.threshold()[[0, 2]])
    assert (first.threshold()[1] != second.threshold()[1]).all()


def test_cap_bounds_threshold_and_output():
    scale = LocalBalance(site((2,), cap=6.0), "channel")
    out = scale(torch.full((4, 2), 50.0))
    assert scale.threshold().tolist() == [6.0, 6.0]
    assert out.max() == 6.0


@pytest.mark.parametrize("passes", [20, 100])
def test_exceedance_falls_as_one_over_twice_the_number_of_batches(passes):
    scale = LocalBalance(site((1,)), "layer")
    for _ in range(passes):
        scale(torch.randn(5000, 1))
    exceeding = (torch.randn(400_000) > scale.threshold()).float().mean().item()
    assert exceeding == pytest.approx(1 / (2 * passes), rel=0.35)


@given(p=st.sampled_from([0.5, 0.9, 0.99, 1.0]), seed=st.integers(0, 100))
def test_percentile_is_the_nearest_rank_and_the_largest_over_batches(p, seed):
    rng = np.random.default_rng(seed)
    batches = [rng.normal(size=(11, 3, 4)).astype(np.float32) for _ in range(3)]
    scale = Percentile(site((3, 4)), "channel", p)
    for batch in batches:
        scale(torch.tensor(batch))
    ranks = [np.sort(np.maximum(b, 0).transpose(1, 0, 2).reshape(3, -1), axis=1)[:, round(p * 43)] for b in batches]
    np.testing.assert_allclose(scale.threshold().flatten().numpy(), np.max(ranks, axis=0), rtol=1e-6)


@pytest.mark.parametrize(("activation", "cap"), [(nn.ReLU, np.inf), (nn.ReLU6, 6.0)])
def test_two_layers_over_several_batches_agree_with_the_reference(activation, cap):
    ann = nn.Sequential(nn.Linear(3, 5), activation(), nn.Linear(5, 4), activation(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        ann[0].weight.mul_(6)
    batches = [torch.randn(20, 3, dtype=torch.float64) for _ in range(4)]
    snn = ts.convert(ann, ts.LTB(batches=9), calibration=batches)
    layers = [(ann[i].weight.detach().numpy(), ann[i].bias.detach().numpy()) for i in (0, 2, 4)]
    expected = balance([batches[k % 4].numpy() for k in range(9)], layers, cap)
    for name, theta in zip(("1", "3"), expected, strict=True):
        live = theta > 0
        np.testing.assert_allclose(snn.conversion.thresholds[name].numpy()[live], theta[live], rtol=1e-9)


def test_dead_channel_takes_the_median_and_is_recorded():
    ann = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        ann[0].weight[2] = 0
        ann[0].bias[2] = -1
    snn = ts.convert(ann, ts.LTB(batches=3), calibration=[torch.randn(32, 3)])
    theta = snn.conversion.thresholds["1"]
    assert snn.conversion.dead == {"1": 1}
    assert theta[2] == theta[[0, 1, 3]].median()


def test_constant_batch_overshoots_to_twice_the_value_at_most():
    scale = LocalBalance(site((1,)), "layer")
    for _ in range(20):
        scale(torch.full((8, 1), 3.0))
    assert scale.threshold().item() == pytest.approx(6.0)


def test_log_holds_one_change_per_batch():
    ann = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    snn = ts.convert(ann, ts.LTB(batches=7), calibration=[torch.randn(32, 3)])
    log = snn.conversion.log["1"]
    assert len(log) == 7
    assert log[0] == pytest.approx(1.0)
    assert all(later < earlier for earlier, later in zip(log, log[1:], strict=False))


@pytest.mark.parametrize("granularity", ["layer", "channel", "neuron"])
@pytest.mark.parametrize("p", [0.9, 0.99, 1.0])
def test_percentile_of_large_maps_is_that_of_sorted_values(granularity, p):
    batches = (torch.randn(4, 60, 8, 12, 12) * torch.tensor([1.0, 1.2, 0.5, 1.3])[:, None, None, None, None]).unbind()
    scale = Percentile(site((8, 12, 12)), granularity, p)
    found = []
    for z in batches:
        scale(z.contiguous(memory_format=torch.channels_last))
        rows = {"layer": z.reshape(1, -1), "channel": z.transpose(0, 1).flatten(1), "neuron": z.flatten(1).mT}[
            granularity
        ]
        found.append(rows.clamp_min(0).sort(1).values[:, round(p * (rows.shape[1] - 1))])
        assert torch.equal(scale.threshold().flatten(), torch.stack(found).amax(0))
