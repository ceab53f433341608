import pytest
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.neuron import IFNode

import tospike as ts
from references.exports import converted, spikes
from tospike.errors import ExportError

METHODS = [ts.LTB(batches=3), ts.LightCalibration(time_steps=8), ts.OPI()]
CASES = [(name, method) for name in ("mlp", "vgg", "residual", "concatenated") for method in METHODS] + [
    ("resnet", METHODS[0])
]


@pytest.mark.parametrize(("name", "method"), CASES, ids=lambda v: getattr(v, "name", v))
def test_it_sends_the_same_spikes_at_the_same_steps(name, method):
    snn, x = converted(name, method)
    network, sent = ts.export_spikingjelly(snn), {}
    for path, module in network.named_modules():
        if isinstance(module, IFNode):
            module.register_forward_hook(lambda _, x, y, path=path: sent.setdefault(path, []).append(y != 0))
    for _ in range(2):  # the second time after a reset
        sent.clear()
        functional.reset_net(network)
        with torch.no_grad():
            y = sum(network(x) for _ in range(8)) / 8
        torch.testing.assert_close(y, snn(x, time_steps=8), rtol=1e-4, atol=1e-5)
        ours = {site.replace("#", "_"): s for site, s in spikes(snn, x, 8).items()}  # where its module stands
        assert len(ours) == len(sent)
        assert all(torch.equal(torch.stack(sent[site]), ours[site]) for site in ours)


def test_start_potentials_may_differ_between_neurons():
    snn, x = converted("vgg")
    for site in snn.site_names:
        neuron = snn.graph.get_submodule(site)
        neuron.start = torch.rand_like(neuron.threshold)
    network = ts.export_spikingjelly(snn)
    with torch.no_grad():
        for _ in range(2):
            functional.reset_net(network)
            y = sum(network(x) for _ in range(5)) / 5
            torch.testing.assert_close(y, snn(x, time_steps=5), rtol=1e-4, atol=1e-5)


def test_what_it_cannot_do_is_refused_all_at_once():
    snn, _ = converted("max_pooled", ts.Burst(time_steps=8))
    with pytest.raises(ExportError) as caught:
        ts.export_spikingjelly(snn)
    assert (
        len(caught.value.problems) == len(snn.site_names) + 1
    )  # graded spikes at every Site, and a pool over running sums
    snn, _ = converted("mlp", ts.FTBC(time_steps=4))
    with pytest.raises(ExportError, match="step to step"):
        ts.export_spikingjelly(snn)
    with pytest.raises(ExportError, match="synchronous"):
        ts.export_spikingjelly(converted("mlp", ts.Parallel(time_steps=4))[0])
