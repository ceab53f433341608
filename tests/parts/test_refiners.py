"""Refiners at one place, against loops written from their formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tospike as ts
from tospike.neurons import Neuron, NeuronModel
from tospike.parts.phase import FitCode, Taper
from tospike.parts.reconstruct import Reconstruct
from tospike.parts.refiners import LayerView, ShiftScale, SiteView, ThresholdShift
from tospike.testing import _Residual


@pytest.fixture(scope="module")
def site():
    snn = ts.convert(_Residual().eval(), ts.RMP(), calibration=[torch.randn(8, 1, 8, 8)])
    return snn.conversion.sites[0]


def view(site, neuron, steps=8, **place):
    currents = torch.randn(1, 40, *site.shape).double().expand(steps, -1, -1, -1, -1)
    return SiteView(site, neuron, [currents], [currents[0].clamp_min(0)], **place)


def test_threshold_shift_adds_half_a_threshold_over_all_steps(site):
    neuron = Neuron(torch.rand(6, 1, 1).double() + 0.5, 0.0)
    before = neuron.threshold.clone()
    seen = view(site, neuron)
    shifted = seen.emissions(0)
    ThresholdShift().site(seen)
    torch.testing.assert_close(8 * neuron.bias[0], before / 2)
    assert not torch.equal(seen.emissions(0), shifted)
    started = Neuron(before, 0.5)
    expected, _ = started(seen.currents[0], started.initial(seen.currents[0][0]))
    # The same charge has arrived in the end: counts differ by the order of arrival only.
    assert (seen.emissions(0).sum(0) - expected.sum(0)).abs().mean() < 0.1


def test_shift_and_scale_give_each_channel_the_mean_of_the_ann(site):
    neuron = Neuron(torch.full((6, 1, 1), 0.7).double(), 0.2, NeuronModel(synchronous=True))
    z = torch.randn(40, *site.shape).double() + 0.2
    noisy = (z - 0.4 + 0.1 * torch.randn_like(z)).expand(8, -1, -1, -1, -1)
    halves = [z[:20], z[20:]]
    seen = SiteView(site, neuron, [noisy[:, :20], noisy[:, 20:]], [half.clamp_min(0) for half in halves], halves)
    ShiftScale().site(seen)
    for channel in range(6):
        lacking = np.mean([z[n, channel].mean().item() - noisy[0, n, channel].mean().item() for n in range(40)])
        assert neuron.bias[0, channel].item() == pytest.approx(lacking)
    sent = torch.cat([seen.emissions(0), seen.emissions(1)], 1).mean((0, 1, 3, 4))
    torch.testing.assert_close(sent, z.clamp_min(0).mean((0, 2, 3)))


@pytest.mark.parametrize(
    ("place", "ratio"), [({"depth": 0.5}, 0.7), ({"depth": 1.0}, 0.8), ({"depth": 0.0, "constant": True}, 0.5)]
)
def test_taper_sets_the_ratio_by_depth_and_keeps_the_reach(site, place, ratio):
    neuron = Neuron(torch.rand(6, 1, 1).double(), 0.5, NeuronModel(signed=True, code="phase", ratio=0.9))
    reach = neuron.threshold * neuron.model.reach(8)
    Taper(low=0.6, high=0.8, first=0.5).site(view(site, neuron, **place))
    assert neuron.model.ratio == pytest.approx(ratio)
    torch.testing.assert_close(neuron.threshold * sum(ratio**t for t in range(8)), reach)


def test_fitted_code_errs_least_of_all_that_were_tried(site):
    """Currents that come late; every combination is tried again here, one at a time, on all positions."""
    late = 0.1 * torch.randn(8, 40, *site.shape).double()
    late[5:] += torch.rand(3, 40, *site.shape).double() * 8 / 3
    target = late.mean(0).clamp_min(0)
    reach = torch.full((6, 1, 1), 1.0).double()
    plain = NeuronModel(signed=True, code="phase")
    neuron = Neuron(reach / plain.reach(8), 0.5, plain)
    fit = FitCode(ratios=(0.5, 0.7), reaches=(1.0, 3.0), rates=(1.0,), traces=10**9)
    seen = SiteView(site, neuron, [late], [target], depth=0.5)
    fit.site(seen)
    errors = {}
    for model, multiples in [
        (replace(plain, ratio=0.5), (1, 3)),
        (replace(plain, ratio=0.7), (1, 3)),
        (replace(plain, code="rate"), (1,)),
    ]:
        for multiple in multiples:
            one = Neuron(reach * multiple / model.reach(8), 0.5, model)
            errors[model, multiple] = float((one(late, one.initial(late[0]))[0].mean(0) - target).square().sum())
    model, multiple = min(errors, key=errors.get)
    assert neuron.model == model
    torch.testing.assert_close(neuron.threshold, reach * multiple / model.reach(8))
    assert seen.squared_error() == pytest.approx(min(errors.values()))


def test_thinning_keeps_every_channel_and_samples(site):
    seen = view(site, Neuron(torch.ones(6, 1, 1).double()))
    thinned = FitCode(traces=500)._thinned(seen)
    assert thinned.targets[0].shape[:2] == seen.targets[0].shape[:2]
    assert thinned.targets[0].numel() <= 2 * 500
    torch.testing.assert_close(thinned.currents[0].mean(0).clamp_min(0), thinned.targets[0])


def test_refiners_see_how_deep_they_are_and_what_is_constant():
    places = []

    class Watch(ThresholdShift):
        def site(self, seen):
            places.append((seen.depth, seen.constant))

    ts.convert(
        _Residual().eval(), ts.RMP().using(refiners=(Watch(),), time_steps=4), calibration=[torch.randn(8, 1, 8, 8)]
    )
    assert places == [(0.0, True), (1.0, False)]


def rectified_error(wanted, now, change):
    return ((np.maximum(wanted, 0) - np.maximum(now + change, 0)) ** 2).sum()


def test_reconstruction_behind_a_rectifier_spends_nothing_on_what_is_rightly_silent():
    """Rounds lower the error that a rectifier lets through, below that of the plain fit; the fit itself is a slow loop here."""
    generator = np.random.default_rng(0)
    rows, ridge = generator.normal(size=(300, 4)), 1e-3
    weight, change = generator.normal(size=(3, 4)), 0.3 * generator.normal(size=(3, 4))
    now = rows @ weight.T
    wanted = now + rows @ change.T + 0.8 * generator.normal(size=now.shape)
    ones = np.concatenate([rows, np.ones((300, 1))], 1)
    penalty = (ridge * np.trace(ones.T @ ones) / 5 + 1e-9) * np.eye(5)
    fit = np.linalg.solve(ones.T @ ones + penalty, ones.T @ (wanted - now))
    first = rectified_error(wanted, now, ones @ fit)
    for _ in range(5):
        needed, moved = np.zeros_like(now), ones @ fit
        for i, j in np.ndindex(*now.shape):
            if wanted[i, j] > 0:
                needed[i, j] = wanted[i, j] - now[i, j]
            elif now[i, j] + moved[i, j] > 0:
                needed[i, j] = -now[i, j]
            else:
                needed[i, j] = moved[i, j]
        fit = np.linalg.solve(ones.T @ ones + penalty, ones.T @ needed)
    assert rectified_error(wanted, now, ones @ fit) < 0.97 * first
    layer = nn.Linear(4, 3, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
    x, lacks, target = torch.from_numpy(rows), torch.from_numpy(wanted - now), torch.from_numpy(wanted)
    Reconstruct(ridge=ridge, rounds=6).layer(
        LayerView(layer, [x[:100], x[100:]], [lacks[:100], lacks[100:]], [target[:100], target[100:]])
    )
    np.testing.assert_allclose(layer.weight.detach().numpy() - weight, fit[:-1].T, atol=1e-9)
    np.testing.assert_allclose(layer.bias.detach().numpy(), fit[-1], atol=1e-9)


def test_only_layers_in_front_of_a_rectifier_are_told_what_it_wants():
    told = {}

    class Watch(Reconstruct):
        def layer(self, seen):
            told[seen.layer.out_channels if isinstance(seen.layer, nn.Conv2d) else "fc"] = seen.wanted

    ann, x = _Residual().eval(), torch.randn(8, 1, 8, 8)
    ts.convert(ann, ts.RMP().using(refiners=(Watch(),), time_steps=4, refine_batches=1), calibration=[x])
    assert told["fc"] is None
    sums = []
    ann.relu.register_forward_hook(lambda module, args, out: sums.append(args[0]))
    with torch.no_grad():
        ann(x)
    torch.testing.assert_close(told[6][0], sums[1], rtol=1e-4, atol=1e-5)


def test_tied_weights_and_broadcasting_joins_are_left_alone():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (
                nn.Conv2d(1, 4, 3, padding=1),
                nn.Conv2d(4, 4, 3, padding=1),
                nn.Conv2d(4, 4, 3, padding=1),
            )
            self.c.weight = self.b.weight
            self.squeeze, self.out = nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

        def forward(self, x):
            h = torch.relu(self.a(x))
            h = torch.relu(self.c(torch.relu(self.b(h))))
            h = torch.relu(h + self.squeeze(h.mean((2, 3), keepdim=True)))
            return self.out(h.mean((2, 3)))

    ann, x = Odd().eval(), torch.randn(16, 1, 6, 6)
    snn = ts.convert(ann, ts.AdvancedCalibration(time_steps=4), calibration=[x])
    assert torch.equal(snn.graph.get_submodule("b").weight, ann.b.weight)
    assert not torch.equal(snn.graph.get_submodule("out").weight, ann.out.weight)
