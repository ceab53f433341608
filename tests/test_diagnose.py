"""Diagnosis: what is measured agrees with hooks on ANN and SNN, and what is said names the cause."""

import dataclasses

import pytest
import torch
from torch import nn

import tospike as ts
from tospike.errors import DataError, OptionError
from tospike.graph.walk import site_nodes
from tospike.testing import _Residual


@pytest.fixture(scope="module")
def ann():
    torch.manual_seed(0)
    network = _Residual()
    network(torch.randn(64, 1, 8, 8))
    return network.eval()


@pytest.fixture(scope="module")
def x():
    torch.manual_seed(1)
    return torch.randn(48, 1, 8, 8)


def classes(ann, x):
    with torch.no_grad():
        return ann(x).argmax(1)


def seen_by_hooks(ann, snn, x, steps):
    """Return activations of the ANN, and currents and spikes of the SNN ``[T, N, ...]``, at both Sites."""
    activations, flows = [], []
    hook = ann.relu.register_forward_hook(lambda m, args, out: activations.append(out))
    with torch.no_grad():
        output = ann(x)
    hook.remove()

    def note(module, args, out):
        current, _, other = args  # neurons add up the two branches of a block
        flows.append((current if other is None else current + other, out[0]))

    for node in site_nodes(snn.graph):
        snn.graph.get_submodule(node.target).register_forward_hook(note)
    return output, activations, snn(x, time_steps=steps, steps_per_call=steps), flows


@pytest.mark.parametrize("method", [ts.LTB(batches=5), ts.Auto(6, 2, 2, spikes="ternary")], ids=["ltb", "ternary"])
def test_sites_agree_with_hooks(ann, x, method):
    snn = ts.convert(ann, method, calibration=[x], progress=False)
    found = ts.diagnose(snn, ann, [x[:30], x[30:]], time_steps=6, progress=False)
    output, activations, y, flows = seen_by_hooks(ann, snn, x, 6)
    assert found.stages[-1].distance == pytest.approx(float((y - output).norm() / output.norm()), rel=1e-4)
    for site, a, (currents, spikes), node in zip(found.sites, activations, flows, site_nodes(snn.graph), strict=True):
        z, sent = snn.graph.get_submodule(node.target).biased_mean(currents.mean(0), 6), spikes.mean(0)
        assert site.activation == pytest.approx(float(a.square().mean().sqrt()), rel=1e-4)
        assert site.inherited == pytest.approx(float((z.relu() - a).square().mean().sqrt()), rel=1e-3, abs=1e-6)
        assert site.difference == pytest.approx(float((sent - a).square().mean().sqrt()), rel=1e-3)
        wanted = torch.corrcoef(torch.stack([a.flatten(), sent.flatten()]).double())[0, 1]
        assert site.correlation == pytest.approx(float(wanted), rel=1e-4)
        assert site.always_on == pytest.approx(float((spikes != 0).all(0).all(0).double().mean()))
        silent = ~(spikes != 0).any(0).any(0) & (a > 0).any(0)
        assert site.dead == pytest.approx(float(silent.double().mean()))


def test_rates_are_those_of_an_evaluation(ann, x):
    snn = ts.convert(ann, ts.LTB(batches=5), calibration=[x], progress=False)
    data = [(x, classes(ann, x))]
    found, result = (
        ts.diagnose(snn, ann, data, time_steps=4, progress=False),
        ts.evaluate(snn, data, time_steps=(4,), progress=False),
    )
    assert {site.site: site.rate for site in found.sites} == pytest.approx(result.rates)
    assert found.stages[-1].score == pytest.approx(result.curve[4])
    assert found.stages[0].score == 100.0
    assert found.samples == 48


def test_stages_meet_where_they_must(ann, x):
    largest = ts.RobustNorm(percentile=1.0)
    snn = ts.convert(
        ann, largest.using(neuron=ts.NeuronModel(signed=True, capacity=8)), calibration=[x], progress=False
    )
    long = ts.diagnose(snn, ann, [x], time_steps=64, progress=False)
    assert [stage.distance for stage in long.stages[:3]] == pytest.approx([0, 0, 0], abs=1e-5)  # nothing is clipped
    assert long.stages[3].distance < 0.04
    settled = ts.convert(ann, ts.Parallel(time_steps=4), calibration=[x], progress=False)
    found = ts.diagnose(settled, ann, [x], time_steps=4, progress=False)
    assert found.stages[4].distance == pytest.approx(found.stages[3].distance, abs=1e-6)  # no timing error
    assert found.lost()["SNN"] == pytest.approx(0, abs=1e-6)


class Other(nn.Module):
    def forward(self, x):
        return x.relu().flatten(1)


CAUSES = {
    "clipped": (ts.RobustNorm(percentile=0.7), 64, "larger thresholds"),
    "quantised": (ts.RobustNorm(percentile=1.0).using(neuron=ts.NeuronModel(synchronous=True)), 2, "more steps"),
}


@pytest.mark.parametrize("stage", CAUSES)
def test_advice_names_the_cause(ann, x, stage):
    method, steps, words = CAUSES[stage]
    found = ts.diagnose(
        ts.convert(ann, method, calibration=[x], progress=False), ann, [x], time_steps=steps, progress=False
    )
    said = " ".join(found.advice())
    assert f"to {stage}:" in said
    assert words in said
    assert any(site.site in said for site in found.sites)
    assert found.worst in str(found)


def test_spikes_at_wrong_times_are_told_from_other_errors():
    ann = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    ann.load_state_dict(
        {
            "0.weight": torch.eye(2),
            "2.weight": torch.tensor([[1.0, -1.0]]),
            "4.weight": torch.ones(1, 1),
            "4.bias": torch.ones(1),
        }
    )
    snn = ts.convert(ann, ts.LTB(batches=2), calibration=[torch.rand(32, 2)], progress=False)
    first, second = (snn.graph.get_submodule(node.target) for node in site_nodes(snn.graph))
    first.threshold, first.start = (
        torch.ones(1),
        torch.tensor([0.9, 0.0]),
    )  # both send twice in four steps, one always before the other
    second.threshold = torch.tensor([0.5])
    found = ts.diagnose(snn, ann, [torch.tensor([[0.5, 0.5]])], time_steps=4, progress=False)
    assert [site.errors.timing > 0.1 for site in found.sites] == [False, True]
    assert [stage.distance for stage in found.stages[:4]] == pytest.approx([0] * 4, abs=1e-6)
    said = " ".join(found.advice())
    assert "to SNN:" in said
    assert "take back what was too much" in said
    assert "ts.Auto(T, iterations=300)" in said


def test_no_advice_repeats_what_is_done(ann, x):
    snn = ts.convert(ann, ts.SNM(batches=2), calibration=[x], progress=False)
    assert "ternary" not in " ".join(ts.diagnose(snn, ann, [x], time_steps=3, progress=False).advice())


def test_dead_saturated_and_always_on_neurons_are_named(ann, x):
    snn = ts.convert(ann, ts.LTB(batches=2), calibration=[x], progress=False)
    first, second = (snn.graph.get_submodule(node.target) for node in site_nodes(snn.graph))
    first.threshold = first.threshold * 1e-3
    second.threshold = second.threshold * 1e3
    found = ts.diagnose(snn, ann, [x], time_steps=4, progress=False)
    assert found.sites[0].saturated > 0.4
    assert found.sites[1].dead == pytest.approx(1.0, abs=0.02)
    said = " ".join(found.advice())
    assert "beyond what its neurons can send" in said
    assert "stay silent" in said


def test_every_neuron_and_a_prepared_network(ann, x):
    for method in (
        ts.SRP(time_steps=6, pre_steps=2),
        ts.BitWeighted(time_steps=3),
        ts.TPP(time_steps=4),
        ts.Differential(time_steps=4),
    ):
        snn = ts.convert(ann, method, calibration=[x], progress=False)
        assert len(ts.diagnose(snn, ann, [x], time_steps=6, progress=False).sites) == 2
    prepared = ts.prepare(ann, ts.QCFS(levels=4), example=x, calibration=[x], progress=False).eval()
    for source in (prepared, ann):
        found = ts.diagnose(ts.convert(prepared, example=x), source, [x], time_steps=4, progress=False)
        assert len(found.sites) == 2
        assert found.stages[0].distance == 0


class Headed(nn.Module):
    def __init__(self, body, outputs):
        super().__init__()
        self.body, self.head = body, nn.Linear(4, outputs)

    def forward(self, x):
        return self.head(self.body(x))


def test_networks_that_only_look_alike_are_refused(ann, x):
    snn = ts.convert(Headed(ann, 3).eval(), ts.LTB(batches=2), calibration=[x], progress=False)
    with pytest.raises(OptionError, match="differ in shape"):
        ts.diagnose(snn, Headed(ann, 5).eval(), [x], time_steps=4)


def test_biases_of_steps_that_are_not_read_out_do_not_count(ann, x):
    snn = ts.convert(ann, ts.FTBC(time_steps=8, batches=2, refine_batches=2), calibration=[x], progress=False)
    found = ts.error_terms(snn, [x], time_steps=8, delay=6)
    _, _, _, flows = seen_by_hooks(ann, snn, x, 8)
    for site, (currents, spikes), node in zip(found.sites, flows, site_nodes(snn.graph), strict=True):
        neuron = snn.graph.get_submodule(node.target)
        received = torch.stack([neuron._biased(z, t) for t, z in enumerate(currents)])
        wanted = (spikes[6:].mean(0) - received[6:].mean(0).relu()).square().mean().sqrt()
        assert site.total == pytest.approx(float(wanted), rel=1e-5)


def test_json_and_what_is_refused(ann, x, tmp_path):
    snn = ts.convert(ann, ts.LTB(batches=2), calibration=[x], progress=False)
    found = ts.diagnose(snn, ann, [x], time_steps=4, progress=False)
    assert ts.Diagnosis.from_json(found.to_json()) == found
    found.save(tmp_path / "diagnosis.json")
    with pytest.raises(DataError, match="no Diagnosis"):
        ts.Diagnosis.from_json("{}")
    with pytest.raises(DataError, match="no data"):
        ts.diagnose(snn, ann, [], time_steps=4)
    with pytest.raises(OptionError, match="not the same network"):
        ts.diagnose(snn, Other(), [x], time_steps=4)
    with pytest.raises(OptionError, match="time_steps"):
        ts.diagnose(snn, ann, [x], time_steps=0)
    with pytest.raises(DataError, match="do not fit"):
        ts.diagnose(snn, ann, [(x, torch.full((48,), 9))], time_steps=4)
    assert {f.name for f in dataclasses.fields(found)} >= {"stages", "sites"}
