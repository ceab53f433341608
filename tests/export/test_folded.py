import copy

import pytest
import torch
from torch import nn

import tospike as ts
from references.exports import NETWORKS, converted, spikes
from references.spiking import theta_valued_mlp
from tospike.errors import OptionError
from tospike.export.units import Scale
from tospike.neurons.modules import Neuron

METHODS = [
    ts.LTB(batches=3),
    ts.LightCalibration(time_steps=8),
    ts.FTBC(time_steps=4),
    ts.SNM(),
    ts.SNM().using(neuron=ts.NeuronModel(signed=True, rest=1)),
    ts.Burst(time_steps=8),
    ts.RobustNorm(),
    ts.Parallel(time_steps=4),
]


CASES = [(name, method) for name in sorted(NETWORKS) for method in METHODS if name != "resnet" or method.name == "ltb"]


@pytest.mark.parametrize(("name", "method"), CASES, ids=lambda v: getattr(v, "name", v))
def test_folding_changes_no_spike_and_no_output(name, method):
    snn, x = converted(name, method, torch.float64)
    folded = ts.fold(snn).snn
    for t, (y, z) in enumerate(zip(curve(snn, x, 6), curve(folded, x, 6), strict=True), 1):
        torch.testing.assert_close(z, y, rtol=1e-9, atol=1e-10, msg=f"step {t}")
    for neuron in folded.modules():
        if isinstance(neuron, Neuron):
            assert neuron.threshold.numel() == 1
            assert float(neuron.threshold) == 1.0
            assert neuron.gain is None
    if not snn.conversion.neuron.synchronous:
        ours, theirs = spikes(snn, x, 6), spikes(folded, x, 6)
        assert sum(int(s.sum()) for s in ours.values()) > 0
        assert all(torch.equal(ours[site], theirs[site]) for site in ours)


def curve(snn, x, steps):
    return [y for _, y in ts.simulate(snn, x, time_steps=steps, checkpoints=range(1, steps + 1))]


def test_spikes_are_0_or_1():
    snn, x = converted("resnet")
    folded, sent = ts.fold(snn).snn, set()

    def watch(node, args, value, steps):
        if "site" in node.meta:
            sent.update(value.unique().tolist())

    folded.plan.step(folded.plan.prepare({folded.plan.inputs[0]: x}), {}, 4, watch)
    assert sent == {0.0, 1.0}


def test_weights_are_those_of_the_formula():
    snn, x = converted("mlp", dtype=torch.float64)
    first, second, third = ts.fold(snn).layers
    ann = [module for module in snn.graph.modules() if isinstance(module, nn.Linear)]
    t1, t2 = (theta.flatten() for theta in snn.conversion.thresholds.values())
    torch.testing.assert_close(first.weight, ann[0].weight / t1[:, None])
    torch.testing.assert_close(first.bias, ann[0].bias / t1)
    torch.testing.assert_close(second.weight, ann[1].weight * t1 / t2[:, None])
    torch.testing.assert_close(third.weight, ann[2].weight * t2)
    assert [layer.drives for layer in (first, second, third)] == ["1", "3", ""]
    layers = [(layer.weight.numpy(), layer.bias.numpy()) for layer in (first, second, third)]
    valued = theta_valued_mlp(x.numpy(), layers, [1.0, 1.0], 7)  # an independent simulation of the folded weights
    torch.testing.assert_close(torch.as_tensor(valued.mean(0)), snn(x, time_steps=7))


def test_a_synapse_stands_only_where_spikes_enter_a_sum():
    snn, _ = converted("resnet")
    scales = [layer for layer in ts.fold(snn).layers if layer.kind == "Scale"]
    assert len(scales) == 7  # of 9 blocks, 2 have a convolution on the shortcut
    assert all("relu2" in layer.drives for layer in scales)
    assert not any(isinstance(module, Scale) for module in ts.fold(converted("vgg")[0]).snn.modules())


@pytest.mark.parametrize("name", ["vgg", "residual", "max_pooled"])
def test_constant_biases_of_neurons_become_biases_of_layers(name):
    snn, _ = converted(name, ts.LightCalibration(time_steps=8))
    assert all(neuron.bias is not None for neuron in neurons(snn))
    assert all(neuron.bias is None for neuron in neurons(ts.fold(snn).snn))


def neurons(snn):
    return [module for module in snn.modules() if isinstance(module, Neuron)]


def test_the_snn_is_left_as_it_was():
    snn, _ = converted("concatenated")
    before = copy.deepcopy(snn.state_dict())
    ts.fold(snn)
    assert all(torch.equal(value, before[name]) for name, value in snn.state_dict().items())


def test_folding_twice_changes_nothing():
    snn, x = converted("residual", dtype=torch.float64)
    once = ts.fold(snn)
    twice = ts.fold(once.snn)
    assert [layer.name for layer in once.layers] == [layer.name for layer in twice.layers]
    torch.testing.assert_close(twice.snn(x, time_steps=3), once.snn(x, time_steps=3))


def test_printed_it_shows_every_layer():
    folded = ts.fold(converted("resnet")[0])
    lines = str(folded).splitlines()
    assert len(lines) == len(folded.layers) + 1
    assert "16x1x3x3" in lines[1]
    assert lines[-1].endswith("(output)")


def test_a_plain_network_is_refused():
    with pytest.raises(OptionError, match=r"ts\.convert returned"):
        ts.fold(nn.Linear(2, 2))


def test_biases_behind_a_sum_need_no_synapse_of_their_own():
    folded = ts.fold(converted("residual", ts.LightCalibration(time_steps=8))[0])
    assert sum(layer.kind == "Scale" for layer in folded.layers) == 2  # of the two shortcuts


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.GELU()])
def test_activations_that_know_a_scale_of_their_own_are_folded_too(activation):
    ann = nn.Sequential(nn.Linear(8, 16), activation, nn.Linear(16, 16), activation, nn.Linear(16, 3)).double()
    x = 4 * torch.randn(20, 8, dtype=torch.float64)
    snn = ts.convert(ann, ts.Ternary(time_steps=8), calibration=[x] * 2, analog="auto", progress=False)
    for y, z in zip(curve(snn, x, 6), curve(ts.fold(snn).snn, x, 6), strict=True):
        torch.testing.assert_close(z, y, rtol=1e-9, atol=1e-10)
