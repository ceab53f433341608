"""Bad input: each kind gets an error of its own class that says what, got what, expected what, and what to do."""

import pytest
import torch
from torch import nn

import tospike as ts
from tospike.errors import (
    CalibrationError,
    CaptureError,
    DataError,
    OptionError,
    Problem,
    SimulationError,
    UnsupportedOperationError,
)
from tospike.parts.refiners import ChannelBias

X = torch.zeros(4, 3) + torch.arange(3.0)
Y = torch.tensor([0, 1, 0, 1])


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


def converted():
    return ts.convert(net(), ts.LTB(batches=3), calibration=[X])


def calibrate(data, ann=None):
    return ts.convert(ann or net(), ts.LTB(batches=3), calibration=data)


def broken(value):
    ann = net()
    with torch.no_grad():
        ann[0].weight[0, 0] = value
    return ann


class Branching(nn.Module):
    def forward(self, x):
        return x.relu() if x.sum() > 0 else x


class Overflowing(nn.Module):
    """Large inputs overflow inside of it, although input and weights are finite."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last((self.first(x) * 1e38).relu())


def never_active():
    ann = net()
    with torch.no_grad():
        ann[0].weight.zero_()
        ann[0].bias.fill_(-1)
    return ann


CASES = {
    "no calibration": (lambda: calibrate(None), CalibrationError, "measures thresholds"),
    "empty first calibration batch": (lambda: calibrate([X[:0], X]), CaptureError, "no values"),
    "empty calibration batch": (lambda: calibrate([X, X[:0]]), CalibrationError, "(?s)batch 2.*N >= 1"),
    "empty calibration loader": (lambda: calibrate([]), CalibrationError, "empty"),
    "calibration iterator": (lambda: calibrate(iter([X])), CalibrationError, "only once"),
    "NaN in a calibration batch": (lambda: calibrate([X, X * torch.nan]), CalibrationError, "batch 2"),
    "Inf in a calibration batch": (lambda: calibrate([X, X + torch.inf]), CalibrationError, "batch 2"),
    "integer calibration batch": (lambda: calibrate([X, X.long()]), CalibrationError, "batch 2"),
    "calibration batch of other rank": (lambda: calibrate([X, X[:, None]]), CalibrationError, "batch 2"),
    "calibration batch of other width": (lambda: calibrate([X, X[:, :2]]), CalibrationError, "batch 2"),
    "constant calibration data": (lambda: calibrate([X * 0 + 2, X * 0 + 2]), CalibrationError, "constant"),
    "threshold that stays zero": (lambda: calibrate([X], never_active()), CalibrationError, "stayed zero"),
    "overflow inside the network": (lambda: calibrate([X, 1e6 * X], Overflowing()), CalibrationError, "relu"),
    "NaN in a weight": (lambda: calibrate([X], broken(torch.nan)), UnsupportedOperationError, r"0\.weight"),
    "Inf in a weight": (lambda: calibrate([X], broken(torch.inf)), UnsupportedOperationError, r"0\.weight"),
    "no activation": (lambda: calibrate([X], nn.Linear(3, 2)), UnsupportedOperationError, "no activation"),
    "untraceable": (lambda: ts.check(Branching(), X), CaptureError, r"test_errors\.py:"),
    "integer example": (lambda: ts.check(net(), X.long()), CaptureError, "floating"),
    "no example": (lambda: ts.check(net(), None), CaptureError, "example"),
    "example of other width": (lambda: ts.check(net(), X[:, :2]), CaptureError, "shape"),
    "unknown method": (lambda: ts.method("ltbb"), OptionError, "Did you mean 'ltb'"),
    "unknown setting": (lambda: ts.method("ltb", batch=3), OptionError, "Did you mean 'batches'"),
    "no batches": (lambda: ts.LTB(batches=0), OptionError, "batches"),
    "rate of zero": (lambda: ts.LTB(rate=0), OptionError, "rate"),
    "percentile of zero": (lambda: ts.RobustNorm(percentile=0), OptionError, "percentile"),
    "no levels": (lambda: ts.QCFS(levels=0), OptionError, "levels"),
    "method by its name": (lambda: ts.convert(net(), "ltb", calibration=[X]), OptionError, "method"),
    "method without settings": (lambda: ts.convert(net(), ts.LTB, calibration=[X]), OptionError, "method"),
    "no network": (lambda: ts.convert(None, calibration=[X]), OptionError, "ann"),
    "lazy network": (lambda: ts.check(nn.Sequential(nn.LazyLinear(2), nn.ReLU()), X), CaptureError, "lazy"),
    "half precision": (lambda: calibrate([X.bfloat16()], net().bfloat16()), CaptureError, "precision"),
    "a tensor for a loader": (lambda: calibrate(X), CalibrationError, r"calibration=\[x\]"),
    "a number for a loader": (lambda: calibrate(5), OptionError, "calibration"),
    "None in a loader": (lambda: calibrate([None]), CaptureError, "batch"),
    "unknown analog operation": (lambda: ts.check(net(), X, analog=["softmx"]), OptionError, "analog"),
    "fractional batches": (lambda: ts.LTB(batches=2.5), OptionError, "batches"),
    "text for a number": (lambda: ts.LTB(batches="x"), OptionError, "batches"),
    "batch that only refiners see": (
        lambda: ts.convert(net(), ts.LightCalibration(time_steps=2).using(calibration_batches=1), calibration=[X, X[:, :2]]), CalibrationError, "fails"),
    "refiners without T": (lambda: ts.LTB().using(refiners=(ChannelBias(),)).parts(), OptionError, "time_steps"),
    "refiners without data": (
        lambda: ts.convert(ts.prepare(net(), ts.QCFS(), example=X), ts.QCFS().using(refiners=(ChannelBias(),), time_steps=4)),
        CalibrationError, "data"),
    "text for the start": (lambda: ts.LTB().using(start="x").parts(), OptionError, "start"),
    "number for a scale": (lambda: ts.LTB().using(scale=1.0).parts(), OptionError, "scale"),
    "one refiner for a tuple": (lambda: ts.LTB().using(refiners=ChannelBias()).parts(), OptionError, "refiners"),
    "text for a neuron": (lambda: ts.LTB().using(neuron="signed").parts(), OptionError, "neuron"),
    "number for levels of confidence": (
        lambda: ts.evaluate(converted(), [(X, Y)], time_steps=(2,), confidence=0.9), OptionError, "confidence"),
    "number for checkpoints": (lambda: list(ts.simulate(converted(), X, time_steps=4, checkpoints=4)), OptionError, "checkpoints"),
    "ANN for a controller": (lambda: ts.Controller(net(), time_steps=4), OptionError, "snn"),
    "unknown pooling": (lambda: ts.LTB().using(pool="max").parts(), OptionError, "pool"),
    "test loader None": (lambda: ts.evaluate(converted(), None), OptionError, "loader"),
    "ANN for an SNN": (lambda: ts.evaluate(net(), [(X, Y)]), OptionError, "snn"),
    "one T": (lambda: ts.evaluate(converted(), [(X, Y)], time_steps=4), OptionError, "time_steps"),
    "task by its name": (lambda: ts.evaluate(converted(), [(X, Y)], task="regression"), OptionError, "task"),
    "text for a checkpoint": (lambda: list(ts.simulate(converted(), X, time_steps=4, checkpoints=[2, "a"])), OptionError, "'a'"),
    "second batch of other targets": (
        lambda: ts.evaluate(converted(), [(X, Y), (X, Y[:, None])], progress=False), DataError, "classes"),
    "training on another width": (lambda: ts.fit(net(), [(X[:, :2], Y)], epochs=1, progress=False), DataError, "network fails"),
    "no method, no data": (lambda: ts.convert(net(), example=X), CalibrationError, "auto"),
    "method that does not train": (lambda: ts.prepare(net(), ts.LTB(), example=X), OptionError, "ltb"),
    "T of zero": (lambda: converted()(X, time_steps=0), OptionError, "time_steps"),
    "negative T": (lambda: ts.evaluate(converted(), [(X, Y)], time_steps=(-1,)), OptionError, "positive"),
    "fractional T": (lambda: converted()(X, time_steps=2.5), OptionError, "time_steps"),
    "no T": (lambda: ts.evaluate(converted(), [(X, Y)], time_steps=()), OptionError, "time_steps"),
    "delay of T": (lambda: converted()(X, time_steps=4, delay=4), OptionError, "delay"),
    "delay above a T": (lambda: ts.evaluate(converted(), [(X, Y)], time_steps=(2, 8), delay=3), OptionError, "delay"),
    "T unknown to a method that needs it": (lambda: ts.FTBC(), OptionError, "time_steps"),
    "code without a choice": (lambda: ts.Auto(spikes="binary", code="taper"), OptionError, "code"),
    "T unknown to pre-runs": (lambda: ts.SRP(time_steps=4, pre_steps=4), OptionError, "pre-run is part of T"),
    "T within the pre-run": (
        lambda: ts.convert(net(), ts.COS(time_steps=6, pre_steps=4), calibration=[X])(X, time_steps=3), OptionError, "pre-run"),
    "text for the pre-run": (lambda: ts.SRP(time_steps=8, pre_steps="4"), OptionError, "pre_steps"),
    "share above one": (lambda: ts.CRPI(carry=2), OptionError, "carry"),
    "ratio below one half": (lambda: ts.NeuronModel(ratio=0.3), OptionError, "ratio"),
    "a method that is no text": (lambda: ts.method(3), OptionError, "tospike methods"),
    "integers of an SNN that is not folded": (lambda: ts.to_integers(converted()), OptionError, "ts.fold"),
    "biases that are neither": (lambda: ts.Auto(step_biases="yes"), OptionError, "step_biases"),
    "too few data for a histogram": (
        lambda: ts.convert(net(), ts.LightCalibration(time_steps=99), calibration=[X]), CalibrationError, "Too few calibration data"),
    "count engine for causal neurons": (lambda: converted()(X, time_steps=4, engine="count"), OptionError, "stepped"),
    "confidence of zero": (lambda: ts.evaluate(converted(), [(X, Y)], time_steps=(2,), confidence=(0,)), OptionError, "confidence"),
    "confidence of a regression": (
        lambda: ts.evaluate(converted(), [(X, X[:, :2])], time_steps=(2,), task=ts.Regression(), confidence=(0.9,)), OptionError, "confidence"),
    "no T for a controller": (lambda: ts.Controller(converted(), time_steps=0), OptionError, "time_steps"),
    "delay that is no number": (lambda: converted()(X, time_steps=4, delay=0.5), OptionError, "delay"),
    "unknown engine": (lambda: converted()(X, time_steps=4, engine="fast"), OptionError, "engine"),
    "no steps per call": (lambda: converted()(X, time_steps=4, steps_per_call=0), OptionError, "steps_per_call"),
    "batch of other rank": (lambda: converted()(X[0], time_steps=4), SimulationError, "rank"),
    "batch of other width": (lambda: converted()(X[:, :2], time_steps=4), SimulationError, "shaped"),
    "integer batch": (lambda: converted()(X.long(), time_steps=4), SimulationError, "int64"),
    "empty batch": (lambda: converted()(X[:0], time_steps=4), SimulationError, "empty"),
    "NaN in a batch": (lambda: converted()(X * torch.nan, time_steps=4), SimulationError, "NaN"),
    "empty test loader": (lambda: ts.evaluate(converted(), [], progress=False), DataError, "no batch"),
    "no targets": (lambda: ts.evaluate(converted(), [X], progress=False), DataError, "target"),
    "classes out of range": (lambda: ts.evaluate(converted(), [(X, Y + 1)], progress=False), DataError, "classes"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name):
    call, kind, said = CASES[name]
    with pytest.raises(kind, match=said) as caught:
        call()
    assert type(caught.value) is kind
    for problem in caught.value.problems or [caught.value.problem]:
        assert isinstance(problem, Problem)
        assert problem.what, problem
        assert problem.got, problem
        assert problem.expected, problem
        assert problem.remedy, problem


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_network_is_refused():
    with pytest.raises(CaptureError, match="scripted"):
        ts.check(torch.jit.script(net()), X)


def test_a_prepared_network_needs_no_example():
    ann = ts.prepare(net(), ts.QCFS(levels=4, initial=1.0), example=X)
    assert ts.convert(ann).site_names == ["1"]


def test_a_mask_of_booleans_is_an_operation_like_others():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.a(x).relu()
            return self.b(torch.where(y > 0.5, y, torch.zeros_like(y)).relu())

    report = ts.check(Masked(), X)
    assert {problem.what.split()[0] for problem in report.problems} == {"gt", "where"}


def test_a_name_of_an_analog_operation_is_no_pattern():
    ann = nn.Sequential(nn.Linear(3, 4), nn.ELU(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))
    assert [p.where for p in ts.check(ann, X, analog="gelu").problems] == ["1 (elu)"]


def test_all_problems_of_a_run_are_listed_at_once():
    with pytest.raises(OptionError) as caught:
        converted()(X, time_steps=0, delay=0.5, engine="fast", steps_per_call=0)
    assert len(caught.value.problems) == 4


def test_a_failed_conversion_leaves_the_network_as_it_was():
    ann = net().train()
    before = {key: value.clone() for key, value in ann.state_dict().items()}
    with pytest.raises(CalibrationError):
        calibrate([X, X * torch.nan], ann)
    assert ann.training
    assert all(torch.equal(value, before[key]) for key, value in ann.state_dict().items())
    assert not any(module._forward_hooks for module in ann.modules())


def test_problems_of_one_kind_are_told_once_with_their_places():
    smooth = nn.Sequential(
        *[layer for _ in range(6) for layer in (nn.Linear(3, 3), nn.GELU())],
        nn.Linear(3, 3),
        nn.SiLU(),
        nn.Linear(3, 3),
    )
    with pytest.raises(UnsupportedOperationError) as caught:
        ts.convert(smooth, ts.LTB(), calibration=[X])
    said = str(caught.value)
    assert len(caught.value.problems) == 7
    assert said.count("gelu is smooth") == 1
    assert all(f"{place} (gelu)" in said for place in (1, 3, 5, 7, 9, 11))
    assert "13 (silu)" in said
