import h5py
import nir
import numpy as np
import pytest
import torch
from torch import nn

import tospike as ts
from references.exports import converted, spikes
from tospike.errors import ExportError, MissingExtraError, OptionError
from tospike.export.nir import record_of
from tospike.export.profiles import PROFILES

READERS = sorted(PROFILES)


@pytest.mark.parametrize("target", READERS)
@pytest.mark.parametrize("name", ["mlp", "vgg", "oblong", "residual", "resnet"])
def test_the_reader_counts_the_same_spikes(name, target, tmp_path):
    snn, x = converted(name)
    written = ts.export_nir(snn, tmp_path / "net.nir", target=target, encoder=name == "resnet", alone=False)
    network = ts.load_nir(tmp_path / "net.nir")
    current = written.encoder(x) if written.encoder else x
    ours = {site.replace(".", "_"): s.sum(0).float() for site, s in spikes(snn, x, 8).items()}
    for _ in range(2):  # the second run starts again
        y = network(current, time_steps=8)
        torch.testing.assert_close(y, snn(x, time_steps=8), rtol=1e-4, atol=1e-4)
        assert list(network.counts) == list(ours) or sorted(network.counts) == sorted(ours)
        for site, counts in ours.items():
            assert torch.equal(network.counts[site].flatten(1), counts.flatten(1)), site


def exact(start):
    """A neuron with weights 1 that reaches its threshold exactly: 0.25 per step."""
    ann = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    for layer in (ann[0], ann[2]):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    snn = ts.convert(
        ann, ts.RobustNorm(percentile=1.0).using(start=start), calibration=[torch.rand(8, 1)], progress=False
    )
    snn.graph.get_submodule("1").threshold = torch.ones(1)
    return snn


@pytest.mark.parametrize("target", READERS)
@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_threshold_that_is_reached_exactly_fires(target, start, tmp_path):
    snn, x = exact(start), torch.tensor([[0.25], [0.5], [1.0], [2.5], [-3.0]])
    ts.export_nir(snn, tmp_path / "net.nir", target=target, alone=False)
    network = ts.load_nir(tmp_path / "net.nir")
    for t in (1, 2, 3, 4, 7):
        network(x, time_steps=t)
        expected = torch.floor(x * t + start).clamp(0, t)
        assert torch.equal(network.counts["1"].reshape(-1, 1), expected), t


@pytest.mark.parametrize("target", READERS)
def test_what_a_reader_alone_would_do_is_listed_and_refused_when_it_reads_alone(target, tmp_path):
    snn, _ = converted("resnet")
    with pytest.raises(ExportError) as caught:
        ts.export_nir(snn, tmp_path / "net.nir", target=target, encoder=True)
    assert len(caught.value.problems) == len(PROFILES[target].differences)
    assert not list(tmp_path.iterdir())
    written = ts.export_nir(exact(0.0), tmp_path / "net.nir", target=target, alone=False)
    assert not any(d.only_start or d.only_joins for d in written.differences)
    assert all(d.mended in str(written) for d in written.differences)


def alone(target, path, x, steps):
    """Return spikes counted by a reader that nothing mends."""
    network = ts.load_nir(path)
    if target == "sinabs":
        from sinabs.activation import MultiSpike

        for layer in network.module.modules():
            if hasattr(layer, "spike_fn"):
                layer.spike_fn, layer.min_v_mem = MultiSpike, nn.Parameter(torch.tensor(-1.0))
    elif target == "snntorch":
        import snntorch

        for layer in network.module.modules():
            if isinstance(layer, snntorch.Leaky):
                layer.beta = torch.tensor(0.9)
    else:
        from spikingjelly.activation_based.neuron import IFNode

        for layer in network.module.modules():
            if isinstance(layer, IFNode):
                layer.v_reset = 0.0
    network(x, time_steps=steps)
    return network.counts


@pytest.mark.parametrize("target", ["sinabs", "snntorch", "spikingjelly"])
def test_the_differences_are_real(target, tmp_path):
    snn, x = converted("mlp")
    ts.export_nir(snn, tmp_path / "net.nir", target=target, alone=False)
    ours = {site: s.sum(0).float() for site, s in spikes(snn, x, 16).items()}
    theirs = alone(target, tmp_path / "net.nir", x, 16)
    assert any(not torch.equal(theirs[site].flatten(1), ours[site].flatten(1)) for site in ours)


def test_the_file_says_what_nir_cannot():
    snn, _ = converted("vgg")
    with pytest.raises(OptionError, match="Did you mean 'sinabs'"):
        ts.export_nir(snn, "net.nir", target="sinab", alone=False)


def test_the_graph_holds_thresholds_of_one_and_the_record(tmp_path):
    snn, _ = converted("vgg")
    ts.export_nir(snn, tmp_path / "net.nir", target="spikingjelly", alone=False)
    graph = nir.read(tmp_path / "net.nir")
    record = record_of(graph)
    assert (record["target"], record["reset"], record["dt"]) == ("spikingjelly", "subtract", 1.0)
    neurons = [node for node in graph.nodes.values() if isinstance(node, nir.IF)]
    assert len(neurons) == 3
    for node in neurons:
        assert np.all(node.v_threshold == 1)
        assert np.all(node.r == 1)
        assert np.all(node.metadata["start"] == 0.5)
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    assert kinds.count("AvgPool2d") == 2
    assert all(node.groups == 1 for node in graph.nodes.values() if isinstance(node, nir.Conv2d))


@pytest.mark.parametrize("target", ["sinabs", "norse"])
def test_average_pools_become_sums_where_a_reader_has_no_average(target, tmp_path):
    ts.export_nir(converted("vgg")[0], tmp_path / "net.nir", target=target, alone=False)
    kinds = [type(node).__name__ for node in nir.read(tmp_path / "net.nir").nodes.values()]
    assert "AvgPool2d" not in kinds
    assert (
        kinds.count("SumPool2d") == 1
    )  # the other one has a border, which readers would leave out: it is a convolution


def test_all_that_nir_cannot_say_is_listed_at_once(tmp_path):
    snn, _ = converted("concatenated", ts.FTBC(time_steps=4))
    with pytest.raises(ExportError) as caught:
        ts.export_nir(snn, tmp_path / "net.nir", alone=False)
    said = [problem.what for problem in caught.value.problems]
    assert sum("step to step" in what for what in said) == len(snn.site_names)
    assert sum("no such node" in what for what in said) == 1  # the concatenation
    for method, expected in ((ts.SNM(), "spikes"), (ts.Parallel(time_steps=4), "waits")):
        with pytest.raises(ExportError, match=expected):
            ts.export_nir(converted("mlp", method)[0], tmp_path / "net.nir", alone=False)
    with pytest.raises(ExportError, match="maxpool2d"):
        ts.export_nir(converted("resnet")[0], tmp_path / "net.nir", alone=False)
    assert not list(tmp_path.iterdir())


def test_kernels_that_nir_would_take_for_square_ones_are_refused(tmp_path):
    ann = nn.Sequential(nn.Conv2d(1, 2, (2, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(84, 2))
    snn = ts.convert(ann, ts.LTB(batches=2), calibration=[torch.randn(4, 1, 8, 8)], progress=False)
    with pytest.raises(ExportError, match=r"even number, not \(2, 3\)"):
        ts.export_nir(snn, tmp_path / "net.nir", alone=False)


def test_files_of_others_are_refused(tmp_path):
    graph = nir.NIRGraph.from_list(nir.Affine(np.ones((2, 2), np.float32), np.zeros(2, np.float32)))
    graph.metadata = {}
    nir.write(tmp_path / "other.nir", graph)
    with pytest.raises(OptionError, match="not written by export_nir"):
        ts.load_nir(tmp_path / "other.nir")


@pytest.mark.parametrize("missing", ["nir", "snntorch"])
def test_a_missing_package_is_named(missing, tmp_path, monkeypatch):
    snn, _ = converted("mlp")
    ts.export_nir(snn, tmp_path / "net.nir", target="snntorch", alone=False)
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(MissingExtraError, match=missing):
        ts.load_nir(tmp_path / "net.nir")


def test_files_for_sinabs_hold_nothing_that_nir_1_0_4_cannot_read(tmp_path):
    ts.export_nir(converted("mlp")[0], tmp_path / "net.nir", target="sinabs", alone=False)
    with h5py.File(tmp_path / "net.nir") as file:
        assert not any("v_reset" in node for node in file["node"]["nodes"].values())
