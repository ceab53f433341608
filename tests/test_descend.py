"""Descent towards the ANN: the loss is what it says, the SNN comes nearer, and nothing else changes."""

import copy
import sys

import numpy as np
import pytest
import torch
from torch import nn

import tospike as ts
from references.distance import distance
from tospike.descend import descend
from tospike.errors import CalibrationError, OptionError
from tospike.parts.descent import Descent
from tospike.relative_adam import RelativeAdam
from tospike.testing import _Residual

T = 3
METHODS = {
    "binary": ts.Auto(T, spikes="binary"), "binary, one bias": ts.Auto(T, spikes="binary", step_biases=False), "ternary": ts.Ternary(T),
    "phase": ts.Auto(T, code="taper"), "graded": ts.Auto(T, spikes="graded"), "successive": ts.Harmony(T),
    "potential": ts.AdvancedCalibration(T),
}  # fmt: skip
BY_RATE = METHODS | {"synchronous": ts.Parallel(T), "unequal levels": ts.MultiThreshold()}
WAYS = [*((name, "time") for name in METHODS), *((name, "rate") for name in BY_RATE)]
LACKING = [way for way in WAYS if way != ("unequal levels", "rate")]  # these have 12 levels and leave next to nothing


@pytest.fixture(scope="module")
def ann():
    torch.manual_seed(0)
    network = _Residual()
    network(torch.randn(64, 1, 8, 8))
    return network.eval()


@pytest.fixture(scope="module")
def batches():
    torch.manual_seed(1)
    return [torch.randn(32, 1, 8, 8) for _ in range(8)]


def convert(ann, method, batches):
    return ts.convert(ann, method, calibration=batches, progress=False)


def step(snn, ann, batches, iterations=1, steps=T, **settings):
    return descend(snn, ann, Descent(iterations, **settings), batches, steps, progress=False)


@pytest.mark.parametrize(("name", "gradient"), WAYS)
def test_the_loss_is_the_formula(ann, batches, name, gradient):
    snn, x = convert(ann, BY_RATE[name], batches), batches[0]
    record = step(snn, ann, [x], 2, gradient=gradient).conversion.descended
    assert record.losses[0] == pytest.approx(record.before, rel=1e-5)
    assert record.before == pytest.approx(distance(snn, ann, x, T), rel=1e-4)


@pytest.mark.parametrize(("name", "gradient"), LACKING)
def test_the_snn_comes_nearer_on_other_data_and_the_first_one_stays(ann, batches, name, gradient):
    snn = convert(ann, BY_RATE[name], batches[:6])
    before = copy.deepcopy(snn.state_dict())
    nearer = step(snn, ann, batches[:6], 150, gradient=gradient)
    assert all(torch.equal(value, before[key]) for key, value in snn.state_dict().items())
    assert nearer.state_dict().keys() == before.keys()
    assert not any(parameter.requires_grad for parameter in nearer.parameters())
    held = torch.cat(batches[6:])
    assert distance(nearer, ann, held, T) < distance(snn, ann, held, T)
    thresholds = nearer.conversion.thresholds
    assert all((theta > 0).all() for theta in thresholds.values())
    neurons = [module for module in nearer.graph.modules() if isinstance(module, ts.neurons.Neuron)]
    assert all(neuron.threshold is theta for neuron, theta in zip(neurons, thresholds.values(), strict=True))
    record = nearer.conversion.descended
    assert (len(record.losses), record.samples) == (150, 150 * 32)
    assert record.after == pytest.approx(np.mean(record.losses[-15:]))
    assert record.after < record.before


def test_methods_descend_behind_their_refiners(ann, batches):
    plain = convert(ann, ts.Auto(T, spikes="binary"), batches)
    method = ts.Auto(T, spikes="binary", iterations=40)
    with torch.no_grad():  # the caller's mode is no obstacle
        nearer = convert(ann, method, batches)
    same = step(plain, ann, batches, 40)
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in nearer.state_dict().items())
    assert plain.conversion.descended is None
    on_top = ts.LTB(5).using(descent=Descent(40), time_steps=T)
    assert convert(ann, on_top, batches).conversion.descended.samples == 40 * 32


def test_one_of_the_candidates_descends(ann, batches, monkeypatch):
    calls = []
    monkeypatch.setattr(sys.modules["tospike.convert"], "descend", lambda snn, *rest, **more: calls.append(snn) or snn)
    assert convert(ann, ts.Auto(T, iterations=2), batches) is calls[0]
    assert len(calls) == 1


def test_an_snn_that_comes_no_nearer_stays_as_it_was(ann, batches):
    method = ts.Auto(T, spikes="binary").using(descent=Descent(5, lr=20.0))
    plain, kept = convert(ann, ts.Auto(T, spikes="binary"), batches), convert(ann, method, batches)
    assert kept.conversion.descended.after > kept.conversion.descended.before
    assert "undone" in str(kept.conversion.descended)
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in kept.state_dict().items())


@pytest.mark.parametrize("chunk", [1, 2])
def test_computing_steps_again_changes_nothing(ann, batches, chunk):
    snn = convert(ann, METHODS["binary"], batches)
    whole, parts = (step(snn, ann, batches, 5, steps_per_call=count) for count in (None, chunk))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-3, atol=1e-4)


class _Named(nn.Module):
    """Outputs by name, one of which is no number that a gradient could come from."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = torch.relu(self.a(x))
        return {"out": self.b(x), "aux": self.c(x), "best": self.b(x).argmax(1)}


def test_every_output_is_compared(batches):
    torch.manual_seed(0)
    ann = _Named().eval()
    snn = convert(ann, ts.Auto(T, spikes="binary"), batches)
    nearer = step(snn, ann, batches, 100)
    assert nearer.conversion.descended.after < nearer.conversion.descended.before
    for name in ("b", "c"):
        assert not torch.allclose(nearer.graph.get_submodule(name).weight, snn.graph.get_submodule(name).weight)


def test_the_record_says_so_in_a_report(ann, batches, tmp_path):
    method = ts.Auto(T, spikes="binary", iterations=30)
    snn = convert(ann, method, batches)
    result = ts.evaluate(snn, [(x, ann(x).argmax(1)) for x in batches], time_steps=(T,), progress=False)
    ts.write_report({"Auto": result}, tmp_path / "report.html", snns={"Auto": snn})
    assert "in 30 iterations, 960 samples" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("settings", [{"iterations": 0}, {"iterations": 1.5}, {"lr": 0.0}, {"lr": float("nan")}, {"gradient": "both"}, {"surrogate": 1.0}, {"steps_per_call": 0}])  # fmt: skip
def test_settings_out_of_range(settings):
    with pytest.raises(OptionError):
        Descent(**settings)


def test_what_does_not_fit_is_refused(ann, batches):
    with pytest.raises(OptionError, match="iterations"):
        ts.Auto(T, iterations=-1)
    for method in (ts.Parallel(T), ts.SRP(T, pre_steps=1), ts.MultiThreshold().using(time_steps=T)):
        with pytest.raises(OptionError, match="descent"):
            convert(ann, method.using(descent=Descent()), batches)
    with pytest.raises(OptionError, match="descent=None"):
        convert(ann, ts.SRP(T, pre_steps=1).using(descent=Descent(gradient="rate")), batches)
    with pytest.raises(OptionError, match="gradient='rate'"):
        convert(ann, ts.Parallel(T).using(descent=Descent()), batches)
    with pytest.raises(OptionError, match="time_steps"):
        convert(ann, ts.LTB(2).using(descent=Descent()), batches)
    with pytest.raises(OptionError, match="a Descent"):
        convert(ann, ts.Auto(T).using(descent=300), batches)
    with pytest.raises(CalibrationError, match="measures thresholds"):
        ts.convert(ann, ts.Auto(T, iterations=3))


@pytest.mark.parametrize("gradient", ["time", "rate"])
def test_what_goes_wrong_on_the_way_says_where(ann, batches, gradient):
    snn = convert(ann, METHODS["binary"], batches)
    with pytest.raises(CalibrationError, match=r"(?s)iteration 2.*\(32, 1, 16, 16\)"):
        step(snn, ann, [batches[0], torch.randn(32, 1, 16, 16)], 3, gradient=gradient)
    with pytest.raises(CalibrationError, match=r"(?s)not finite.*iteration 1.*NaN or Inf"):
        step(snn, ann, [batches[0] * float("nan")], 3, gradient=gradient)


@pytest.mark.parametrize("far", [0.0025, 1.0])
def test_steps_are_smaller_from_near(ann, batches, monkeypatch, far):
    class Recorded(RelativeAdam):
        def step(self):
            rates.append(self.param_groups[0]["lr"])

    rates = []
    monkeypatch.setattr(sys.modules["tospike.descend"], "RelativeAdam", Recorded)
    monkeypatch.setattr(
        sys.modules["tospike.descend"],
        "distance",
        lambda network, *_: far * network.neurons[network.sites[0]].start.mean() / 0.5,
    )
    step(convert(ann, ts.LTB(2), batches), ann, batches, 40, lr=0.1)
    assert max(rates) == pytest.approx(0.1 * np.sqrt(far), rel=1e-5)
    assert np.argmax(rates) == 11
    assert rates[-1] < 0.01 * max(rates)
