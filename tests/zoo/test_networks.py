import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from tospike.data import load
from tospike.errors import OptionError
from tospike.train import fit
from tospike.zoo.networks import available, build
from tospike.zoo.networks.images import BasicBlock

INPUTS = {"actor": (11,), "digits_net": (1, 8, 8), "clip_net": (1, 8, 32, 32)}
OUTPUTS = {"fcn": (11, 32, 32), "deeplab": (11, 32, 32), "clip_net": (8,)}


@pytest.fixture
def one_thread():  # small networks wait for their threads longer than they compute
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


# The head of FCOS is torchvision's, and shares what it calls.
@pytest.mark.parametrize("name", sorted(set(available()) - {"fcos"}))
def test_every_network_gives_logits_and_calls_each_activation_once(name):
    torch.manual_seed(0)
    network = build(name, **({"outputs": 10} if name == "actor" else {})).eval()
    calls = []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda module, *_: calls.append(id(module)))
    assert network(torch.randn(2, *INPUTS.get(name, (3, 32, 32)))).shape == (2, *OUTPUTS.get(name, (10,)))
    expected = {
        "resnet20": 19, "resnet18": 17, "resnet34": 33, "vgg16": 15, "digits_net": 3, "fcn": 20, "deeplab": 26, "clip_net": 7, "actor": 2,
    }[name]  # fmt: skip
    assert len(calls) == len(set(calls)) == expected


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("resnet18", {}, 11_173_962),
        ("resnet34", {}, 21_282_122),
        ("resnet20", {}, 272_474),
        ("vgg16", {"classes": 1000, "image_size": 224}, 138_365_992),
        ("vgg16", {}, 14_723_136 + (512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 10),
    ],
)
def test_parameter_counts_are_those_of_the_published_networks(name, options, count):
    with torch.device("meta"):
        assert parameters(build(name, **options)) == count


def test_imagenet_resnet34_costs_what_a_stride_1_stem_costs():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build("resnet34", classes=1000)(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() / 2 == pytest.approx(56.8e9, rel=2e-3)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 2), (4, 8, 1), (4, 4, 2)])
def test_a_block_adds_its_shortcut_before_the_last_relu(inputs, outputs, stride):
    torch.manual_seed(1)
    block = BasicBlock(inputs, outputs, stride).eval()
    x = torch.randn(2, inputs, 6, 6)
    y = functional.relu(block.bn1(functional.conv2d(x, block.conv1.weight, stride=stride, padding=1)))
    y = block.bn2(functional.conv2d(y, block.conv2.weight, padding=1))
    if stride == 1 and inputs == outputs:
        assert len(block.shortcut) == 0
        y = y + x
    else:
        y = y + block.shortcut[1](functional.conv2d(x, block.shortcut[0].weight, stride=stride))
    assert torch.allclose(block(x), functional.relu(y), atol=1e-6)


def test_strides_and_widths_of_resnet20():
    network = build("resnet20", widths=(64, 128, 256), channels=1)
    shapes = []
    for block in network.groups:
        block.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    network(torch.zeros(1, 1, 32, 32))
    assert shapes == [(64, 32, 32)] * 3 + [(128, 16, 16)] * 3 + [(256, 8, 8)] * 3


def test_stem_pool_halves_the_image():
    network = build("resnet20", channels=1, stem_pool=True)
    assert network.stem(torch.zeros(1, 1, 28, 28)).shape == (1, 16, 14, 14)
    assert build("resnet20", channels=1).stem(torch.zeros(1, 1, 28, 28)).shape == (1, 16, 28, 28)


def test_only_the_convolutions_of_vgg_have_biases():
    def has_bias(name):
        return {module.bias is not None for module in build(name).modules() if isinstance(module, nn.Conv2d)}

    assert has_bias("vgg16") == {True}
    assert has_bias("resnet20") == has_bias("resnet18") == {False}


def test_initial_weights():
    torch.manual_seed(2)
    network = build("resnet18")
    conv = network.groups[-1].conv2
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)
    projection = network.groups[2].shortcut[0]
    assert projection.weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.05)
    assert torch.equal(conv.weight.new_ones(512), network.groups[-1].bn2.weight)
    assert not network.fc.bias.any()


@pytest.mark.usefixtures("one_thread")
def test_the_digits_network_learns_the_digits_in_seconds():
    torch.manual_seed(3)
    data = load("digits")
    network = build("digits_net")
    train = DataLoader(data.train, 64, shuffle=True)
    history = fit(network, train, DataLoader(data.test, 360), epochs=8, progress=False)
    assert history.last.test_scores["top1"] >= 97.0


def test_an_unknown_network_names_the_nearest():
    with pytest.raises(OptionError, match="resnet20") as caught:
        build("resnet-20")
    assert "Did you mean 'resnet20'" in caught.value.problem.remedy
    with pytest.raises(OptionError, match="Choose one of these"):
        build("zzz")


def test_an_unknown_option_names_the_known_ones():
    with pytest.raises(OptionError, match="width") as caught:
        build("resnet20", width=3)
    assert "widths" in caught.value.problem.expected


@pytest.mark.parametrize("size", [28, 0, 33])
def test_vgg_needs_an_image_that_can_be_halved_five_times(size):
    with pytest.raises(OptionError, match="multiple of 32"):
        build("vgg16", image_size=size)
