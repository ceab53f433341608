import pytest
import torch

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
