"""Tuning: the SNN itself in the forward pass, gradients that are what they say, and nothing left behind."""

import copy
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tospike as ts
from references.distance import distance
from tospike.errors import OptionError
from tospike.neurons import Neuron
from tospike.run.network import Tuned
from tospike.testing import _Residual
from tospike.trainable import TrainableSNN

T = 3


@pytest.fixture(scope="module")
def ann():
    torch.manual_seed(0)
    network, x = _Residual(), torch.randn(64, 1, 8, 8)
    network(x)
    with torch.no_grad():
        for parameter in network.fc.parameters():
            parameter *= 20  # as sure as a trained network
    return network.eval()


@pytest.fixture(scope="module")
def batches(ann):
    torch.manual_seed(1)
    inputs = [torch.randn(32, 1, 8, 8) for _ in range(4)]
    with torch.no_grad():
        return [(x, ann(x).argmax(1)) for x in inputs]


METHODS = {
    "binary": ts.LightCalibration(time_steps=T), "per-step bias": ts.FTBC(time_steps=T), "ternary": ts.Ternary(time_steps=T),
    "phase": ts.Auto(time_steps=T, code="taper"), "graded": ts.Auto(time_steps=T, spikes="graded"), "successive": ts.Harmony(time_steps=T),
    "potential": ts.AdvancedCalibration(time_steps=T), "scaled": ts.LTB(batches=9),
}  # fmt: skip
SYNCHRONOUS = {"parallel": ts.Parallel(time_steps=T), "bits": ts.BitWeighted(time_steps=T)}
TUNINGS = {
    "time": ts.Tuning(T), "dsr": ts.DSR(T), "ptl": ts.PTL(T), "layer": ts.LayerTuning(T), "lasnn": ts.LaSNN(T), "deep": ts.DeepSNN(T),
    "snn2ann": ts.SNN2ANN(T), "joint": ts.JointErrors(T),
}  # fmt: skip


def convert(ann, batches, method):
    return ts.convert(ann, method, calibration=[x for x, _ in batches], progress=False)


def tune(snn, tuning, batches, ann=None, **options):
    return ts.tune(snn, tuning, batches, ann=ann, **({"epochs": 2, "lr": 0.01, "progress": False} | options))


@pytest.mark.parametrize(
    ("name", "gradient"), [*((name, "time") for name in METHODS), *((name, "rate") for name in METHODS | SYNCHRONOUS)]
)
def test_the_forward_pass_is_the_snn(ann, batches, name, gradient):
    snn = convert(ann, batches, (METHODS | SYNCHRONOUS)[name])
    network = TrainableSNN(snn, ts.Tuning(T, gradient=gradient, normalise=False)).train()
    x = batches[0][0]
    torch.testing.assert_close(network(x), snn(x, time_steps=T), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_normalising_changes_nothing_before_training(ann, batches, name):
    snn = convert(ann, batches, METHODS[name])
    network = TrainableSNN(snn, ts.Tuning(T))
    network.normalise([{"x": x} for x, _ in batches])
    x = batches[0][0]
    torch.testing.assert_close(network.eval()(x), snn(x, time_steps=T), rtol=1e-3, atol=1e-3)
    done = network.finished(tuned=Tuned({}, ts.History("top1")))
    torch.testing.assert_close(done(x, time_steps=T), snn(x, time_steps=T), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_every_tuning_learns_and_leaves_an_snn(ann, batches, tuning):
    snn = convert(ann, batches, ts.LTB(batches=9))
    before = copy.deepcopy(snn.state_dict())
    tuned = tune(snn, TUNINGS[tuning], batches, ann, epochs=12, lr=0.02, test_loader=batches)
    assert all(torch.equal(value, before[name]) for name, value in snn.state_dict().items()), "tune changed its input"
    assert tuned.state_dict().keys() == snn.state_dict().keys()
    assert not any(parameter.requires_grad for parameter in tuned.parameters())
    records = tuned.conversion.tuned.history.records
    assert records[-1].train_loss < records[0].train_loss
    result = ts.evaluate(tuned, batches, time_steps=(T,), progress=False)
    assert result.curve[T] == pytest.approx(records[-1].test_scores["top1"])
    assert result.curve[T] > ts.evaluate(snn, batches, time_steps=(T,), progress=False).curve[T]
    assert tuned.conversion.tuned.settings["name"] == type(TUNINGS[tuning]).__name__


@pytest.mark.parametrize("name", METHODS)
def test_the_distance_is_the_formula(ann, batches, name):
    snn, x = convert(ann, batches, METHODS[name]), batches[0][0]
    network = TrainableSNN(snn, ts.Tuning(T, normalise=False, logits=0.0, distance=2.0)).train()
    network.watch_ann(ann, {"x": x})
    network(x)
    assert network.penalty().item() == pytest.approx(2.0 * distance(snn, ann, x, T), rel=1e-4)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_distance_is_left_out_behind_its_share_of_the_run(ann, batches, share):
    snn, x = convert(ann, batches, METHODS["binary"]), batches[0][0]
    network = TrainableSNN(snn, ts.Tuning(T, normalise=False, logits=0.0, distance=2.0, distance_share=share)).train()
    network.watch_ann(ann, {"x": x})
    network.batches_in_all = 4
    found = []
    for _ in range(4):
        network(x)
        found.append(network.penalty())
    followed = 2.0 * distance(snn, ann, x, T)
    assert [p.item() for p in found if p is not None] == pytest.approx([followed] * round(4 * share), rel=1e-4)
    assert [p is None for p in found] == [place >= 4 * share for place in range(4)]


def test_joint_errors_follow_adam_with_a_warm_up(ann, batches, monkeypatch):
    snn, seen = convert(ann, batches, METHODS["binary"]), []

    def recorded(*args, **options):
        seen.append(options)
        return ts.fit(*args, **options)

    monkeypatch.setattr(sys.modules["tospike.tune"], "fit", recorded)
    for options in ({}, {"lr": 0.5, "weight_decay": 1e-4}):
        ts.tune(snn, ts.JointErrors(T), batches, ann=ann, epochs=2, progress=False, **options)
    wanted = {"optimizer": "adam", "lr": 0.03, "warmup_epochs": 0.2, "weight_decay": 0.0}
    assert [{name: one[name] for name in wanted} for one in seen] == [
        wanted,
        wanted | {"lr": 0.5, "weight_decay": 1e-4},
    ]


@pytest.mark.parametrize("part", ["weights", "biases", "thresholds", "starts"])
def test_only_what_is_named_is_trained(ann, batches, part):
    snn = convert(ann, batches, ts.FTBC(time_steps=T))
    tuned = tune(snn, ts.DSR(T, trained=(part,)), batches)

    def kind(name):
        last = name.rpartition(".")[2]
        return {"threshold": "thresholds", "start": "starts", "bias": "biases"}.get(last, "weights")

    changed = {
        kind(name)
        for name, one in snn.state_dict().items()
        if not torch.allclose(one, tuned.state_dict()[name], atol=1e-7)
    }
    assert changed == {part}


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("method", ["binary", "phase"])
def test_computing_steps_again_changes_no_gradient(ann, batches, chunk, method):
    snn, (x, y) = convert(ann, batches, METHODS[method]), batches[0]
    gradients = []
    for steps_per_call in (None, chunk):
        network = TrainableSNN(snn, ts.Tuning(T, normalise=False, steps_per_call=steps_per_call)).train()
        nn.functional.cross_entropy(network(x), y).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_are_normalised_by_what_was_measured_at_the_beginning(ann, batches, chunk):
    snn, (x, _) = convert(ann, batches, METHODS["binary"]), batches[0]
    network = TrainableSNN(snn, ts.Tuning(T, steps_per_call=chunk))
    network.normalise([{"x": x} for x, _ in batches])
    before = {name: value.clone() for name, value in network.named_buffers() if "running" in name}
    output = network.train()(x)
    output.sum().backward()
    torch.testing.assert_close(output, snn(x, time_steps=T), rtol=1e-3, atol=1e-3)
    assert before
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers() if name in before)


class _Late(nn.Module):
    """Batch norm before its ReLU and behind a join: none of it can be folded."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.first, self.last, self.fc = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Linear(256, 4)

    def forward(self, x):
        x = self.a(x)
        x = x + self.b(self.first(x).relu())
        return self.fc(self.last(x).relu().flatten(1))


@pytest.mark.parametrize("gradient", ["time", "rate"])
def test_batch_norm_that_cannot_be_folded_stays_as_it_is(batches, gradient):
    torch.manual_seed(2)
    ann = _Late()
    ann(batches[0][0] * 2 + 1)
    snn, x = convert(ann.eval(), batches, METHODS["binary"]), batches[0][0]
    network = TrainableSNN(snn, ts.Tuning(T, gradient=gradient, normalise=False)).train()
    torch.testing.assert_close(network(x), snn(x, time_steps=T), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_synchronous_neurons_are_scored_over_whole_runs(ann, batches, name, chunk):
    snn, x = convert(ann, batches, SYNCHRONOUS[name]), batches[0][0]
    network = TrainableSNN(snn, ts.DSR(T, steps_per_call=chunk)).eval()
    torch.testing.assert_close(network(x), snn(x, time_steps=T), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "method",
    [ts.MiCE(time_steps=T), ts.MiCE(time_steps=T, spikes="ternary"), ts.TCL(), ts.QCFS(levels=4, initial=None)],
)
@pytest.mark.parametrize("make", [lambda ann: ann, lambda _: _Functional().eval()])
def test_a_prepared_network_learns_from_the_one_it_was_prepared_from(ann, batches, method, make):
    relu = make(ann)
    x = batches[0][0]
    prepared = ts.prepare(relu, method, example=x, calibration=[x for x, _ in batches])
    snn = ts.convert(prepared.eval(), example=x)
    tuned = tune(snn, ts.Tuning(T, distance=0.1), batches, relu, epochs=1)
    assert tuned.site_names == snn.site_names
    assert all(torch.isfinite(theta).all() for theta in tuned.conversion.thresholds.values())


class _Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x.flatten(1))))))


def test_thresholds_that_were_trained_grow_by_rate_too(batches):
    """The cap that a trained bound left must not hold its own threshold down."""
    torch.manual_seed(0)
    x = batches[0][0]
    prepared = ts.prepare(_Functional(), ts.QCFS(levels=4, initial=0.05), example=x).eval()
    snn = ts.convert(prepared, example=x)
    found = {}
    for gradient in ("time", "rate"):
        network = TrainableSNN(snn, ts.Tuning(8, gradient=gradient, normalise=False, logits=0.0)).train()
        nn.functional.cross_entropy(network(x), batches[0][1]).backward()
        found[gradient] = torch.stack(
            [p.grad for name, p in network.named_parameters() if name.endswith("threshold.original")]
        )
    assert torch.equal(found["time"].sign(), found["rate"].sign())
    assert (found["rate"].abs() > 0.3 * found["time"].abs()).all()


def test_the_seed_alone_decides(ann, batches):
    snn = convert(ann, batches, METHODS["binary"])
    samples = TensorDataset(*(torch.cat(part) for part in zip(*batches, strict=True)))
    results = []
    for before in (7, 8):
        torch.manual_seed(before)
        tuned = tune(snn, ts.Tuning(T), DataLoader(samples, 32, shuffle=True), ann, seed=1)
        results.append((tuned.state_dict(), torch.rand(3)))
    (one, after), (other, later) = results
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not torch.equal(after, later), "the caller's generator was set"


@pytest.mark.parametrize("spiking", [0, 1, 2, None])
def test_sites_behind_those_that_spike_are_the_ann_clipped(spiking):
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)).double().eval()
    x = torch.randn(20, 6, dtype=torch.float64)
    snn = ts.convert(mlp, ts.LTB(batches=2), calibration=[x], progress=False)
    network = TrainableSNN(snn, ts.DSR(T)).eval()
    with torch.no_grad():
        output, sent = network.by_rate({"input": x}, spiking)
        value = x.numpy()
        for place, (layer, found) in enumerate(zip((mlp[0], mlp[2]), sent.values(), strict=True)):
            theta = snn.conversion.thresholds[snn.site_names[place]].numpy()
            value = np.clip(value @ layer.weight.numpy().T + layer.bias.numpy(), 0, theta)
            if spiking is None or place < spiking:  # a constant current, or that of spikes, gives whole spikes
                counts = found.numpy() * T / theta
                np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
                assert np.abs(value - found.numpy()).max() > 0.01
                value = found.numpy()
            np.testing.assert_allclose(found.numpy(), value, atol=1e-9)
        np.testing.assert_allclose(output.numpy(), value @ mlp[4].weight.numpy().T + mlp[4].bias.numpy(), atol=1e-9)


def test_front_first_freezes_what_is_in_front(ann, batches):
    network = TrainableSNN(convert(ann, batches, METHODS["binary"]), ts.PTL(T)).train()
    network.batches_in_all = 3 * 4
    x, y = batches[0]
    found = []
    for stage in range(3):
        network.zero_grad(set_to_none=True)
        network.seen.fill_(4 * stage)
        nn.functional.cross_entropy(network(x), y).backward()
        found.append(
            [name for name in ("stem.0", "conv.0", "fc") if network.graph.get_submodule(name).weight.grad is not None]
        )
    assert found == [["stem.0", "conv.0", "fc"], ["conv.0", "fc"], ["fc"]]


def test_before_anything_spikes_it_is_the_ann(ann, batches):
    snn = convert(ann, batches, ts.RobustNorm(percentile=1.0))
    network = TrainableSNN(snn, ts.PTL(T)).train()
    network.batches_in_all = 1000
    x = batches[0][0]
    torch.testing.assert_close(network(x), ann(x), rtol=1e-3, atol=1e-3)


def test_a_tuning_resumes_to_the_same_weights(ann, batches, tmp_path):
    snn = convert(ann, batches, METHODS["binary"])
    whole = tune(snn, ts.Tuning(T), batches, ann)

    class StopError(Exception):
        pass

    def stop(_):
        raise StopError

    with pytest.raises(StopError):
        tune(snn, ts.Tuning(T), batches, ann, checkpoint=tmp_path / "run.pt", log=stop)
    resumed = tune(snn, ts.Tuning(T), batches, ann, checkpoint=tmp_path / "run.pt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with pytest.raises(ts.errors.TrainingError, match="another training run"):
        tune(snn, ts.Tuning(T + 1), batches, ann, checkpoint=tmp_path / "run.pt")


def test_a_tuned_snn_can_be_tuned_again(ann, batches):
    once = tune(convert(ann, batches, METHODS["binary"]), ts.Tuning(T), batches, ann)
    again = tune(once, ts.DSR(T), batches)
    assert again.conversion.tuned.settings["name"] == "DSR"
    assert all(isinstance(module, Neuron) is ("Neuron" in type(module).__name__) for module in again.modules())


def test_what_does_not_fit_is_refused(ann, batches):
    binary = convert(ann, batches, METHODS["binary"])
    with pytest.raises(OptionError, match="Distillation needs the ANN"):
        tune(binary, ts.Tuning(T), batches)
    with pytest.raises(OptionError, match="not the same network"):
        tune(binary, ts.Tuning(T), batches, _Other())
    with pytest.raises(OptionError, match="pre-run"):
        tune(convert(ann, batches, ts.SRP(T + 1, pre_steps=1)), ts.DSR(T), batches)
    for method in (*SYNCHRONOUS.values(), ts.MultiThreshold()):
        with pytest.raises(OptionError, match="through time does not fit"):
            tune(convert(ann, batches, method), ts.Tuning(T), batches, ann)
    with pytest.raises(ts.errors.TrainingError, match="needs logits"):
        tune(binary, ts.Tuning(T), batches, _Wide())
    with pytest.raises(OptionError, match="compares logits"):
        tune(binary, ts.Tuning(T), batches, ann, task=ts.Regression())
    flat, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)), batches[0][0]
    with pytest.raises(OptionError, match="has a map"):
        tune(ts.convert(flat, ts.LTB(batches=2), calibration=[x]), ts.LaSNN(T), batches, flat)
    for options in ({"epochs": None}, {"epochs": 0}):
        with pytest.raises(OptionError, match="epochs"):
            tune(binary, ts.DSR(T), batches, **options)
    with pytest.raises(OptionError, match="train_loader"):
        tune(binary, ts.DSR(T), None)


class _Other(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.fc = nn.ReLU(), nn.Linear(64, 4)

    def forward(self, x):
        return self.fc(self.act(x).flatten(1))


class _Wide(_Residual):
    def forward(self, x):
        x = self.relu(self.stem(x))
        return self.pool(self.relu(self.conv(x) + x))


@pytest.mark.parametrize("settings", [{"time_steps": 0}, {"gradient": "both"}, {"trained": ()}, {"trained": ("gains",)}, {"logits": -1.0}, {"temperature": 0.0},
                                      {"order": "last"}, {"gradient": "rate"}, {"order": "each"}, {"steps_per_call": 0}, {"surrogate": 1.0},
                                      {"trained": ("thresholds",)}, {"trained": ("weights",)}, {"gradient": "rate", "normalise": False, "distance": 0.1},
                                      {"distance_share": 0.0}, {"distance": 1.0, "distance_share": 1.5}, {"distance_share": 0.5}])  # fmt: skip
def test_settings_out_of_range(settings):
    with pytest.raises(OptionError):
        ts.Tuning(**({"time_steps": T} | settings))


def test_tunings_by_name():
    assert ts.tuning("lasnn", time_steps=4) == ts.LaSNN(4)
    with pytest.raises(OptionError, match="ptl"):
        ts.tuning("ptk", time_steps=4)
    with pytest.raises(OptionError, match="time_steps"):
        ts.tuning("ptl", time_step=4)
