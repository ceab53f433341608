import pytest
import torch
from torch import nn

import tospike as ts
from references.exports import converted
from tospike.errors import OptionError
from tospike.neurons.modules import Neuron


@pytest.mark.parametrize("name", ["mlp", "vgg", "concatenated", "resnet"])
def test_all_that_drives_a_neuron_is_an_integer_within_its_bits(name):
    integers = ts.to_integers(ts.fold(converted(name)[0]))
    modules = dict(integers.snn.graph.named_modules())
    for layer in integers.layers:
        assert layer.weight.abs().max() <= 127
        if layer.drives:
            assert torch.equal(modules[layer.name].weight, layer.weight.float())
            assert modules[layer.name].bias is None or torch.equal(
                modules[layer.name].bias, modules[layer.name].bias.round()
            )
    for neuron in (module for module in modules.values() if isinstance(module, Neuron)):
        assert torch.equal(neuron.threshold, neuron.threshold.round())
        assert 1 <= float(neuron.threshold.min()) <= float(neuron.threshold.max()) <= 255
        torch.testing.assert_close(neuron.start * neuron.threshold, (neuron.start * neuron.threshold).round())


def test_the_loss_is_that_of_rounding_and_falls_with_the_bits():
    snn, x = converted("mlp")
    folded = ts.fold(snn)
    losses, errors = [], []
    for bits in (3, 5, 8, 12):
        integers = ts.to_integers(folded, bits=bits)
        for layer, exact in zip(integers.layers, folded.layers, strict=True):
            back = layer.weight / layer.scale[:, None]
            assert layer.loss == pytest.approx(float((back - exact.weight).norm() / exact.weight.norm()), rel=1e-3)
        losses.append([layer.loss for layer in integers.layers])
        errors.append(integers.agreement(x, time_steps=16).error)
    assert all(list(layer) == sorted(layer, reverse=True) for layer in zip(*losses, strict=True))
    assert errors[-1] < 0.1 < errors[0]
    assert ts.to_integers(folded, bits=12).agreement(x, time_steps=16).same_answer == 1.0


def test_layers_that_meet_in_a_sum_share_their_scale():
    integers = ts.to_integers(ts.fold(converted("resnet")[0]))
    for site, threshold in integers.thresholds.items():
        driving = [layer for layer in integers.layers if layer.drives == site]
        assert driving
        assert all(torch.equal(layer.scale.to(torch.int32), threshold) for layer in driving)


def test_weights_too_large_for_a_threshold_of_one_are_clipped_and_counted():
    snn, _ = converted("mlp")
    snn.graph.get_submodule("1").threshold.mul_(1e-4)
    first = ts.to_integers(ts.fold(snn)).layers[0]
    assert first.clipped > 0
    assert first.weight.abs().max() == 127


def test_printed_it_shows_the_loss():
    shown = str(ts.to_integers(ts.fold(converted("mlp")[0])))
    assert "loss of the weights" in shown
    assert shown.count("%") == 6


@pytest.mark.parametrize("bits", [1, 17, 8.0])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(OptionError, match="bits"):
        ts.to_integers(ts.fold(converted("mlp")[0]), bits=bits)


@pytest.mark.parametrize(
    ("pool", "absorbed"),
    [(nn.MaxPool2d(2), True), (nn.AvgPool2d(2), True), (nn.AvgPool2d(3, 2, 1), False), (nn.MaxPool2d(3, 2, 1), True)],
)
@pytest.mark.parametrize(
    "method",
    [
        ts.Ternary(time_steps=8), ts.LightCalibration(8), ts.Auto(8, step_biases=False),
        ts.Auto(8, spikes="binary", step_biases=False),
    ],
)  # fmt: skip
def test_a_bias_behind_a_pool_is_counted_once(pool, absorbed, method):
    torch.manual_seed(0)
    x = torch.rand(64, 1, 8, 8)
    ann = nn.Sequential(nn.Conv2d(1, 8, 3), pool, nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)).eval()
    snn = ts.convert(ann, method, calibration=[x], progress=False)
    folded = ts.fold(snn)
    assert ("Scale" not in [layer.kind for layer in folded.layers]) == absorbed
    torch.testing.assert_close(folded.snn(x, time_steps=8), snn(x, time_steps=8), rtol=1e-3, atol=1e-3)
    integers = ts.to_integers(folded, bits=16)
    found = integers.agreement(x, time_steps=8)
    assert found.error < 0.02
    assert found.same_answer > 0.95
    for layer in integers.layers:
        if layer.bias is not None and layer.drives:
            module = integers.snn.graph.get_submodule(layer.name)
            assert torch.equal(module.bias, module.bias.round())


@pytest.mark.parametrize("settings", [{"spikes": "binary"}, {}, {"code": "rest"}, {"spikes": "graded"}], ids=str)
def test_biases_of_every_step_are_integers_too(settings):
    torch.manual_seed(0)
    x = torch.rand(64, 1, 8, 8)
    ann = nn.Sequential(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)).eval()
    integers = ts.to_integers(
        ts.fold(ts.convert(ann, ts.Auto(8, **settings), calibration=[x], progress=False)), bits=16
    )
    (neuron,) = (module for module in integers.snn.modules() if isinstance(module, Neuron))
    assert neuron.bias.shape[0] == 8
    assert torch.equal(neuron.bias, neuron.bias.round())
    assert integers.agreement(x, time_steps=8).same_answer > 0.95
