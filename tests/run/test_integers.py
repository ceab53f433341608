"""Layers on integer units: against exact arithmetic, and whole networks against the float engine."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tospike as ts
from references.integers import digits, value
from tospike.errors import OptionError
from tospike.graph.walk import site_nodes
from tospike.neurons.levels import Levels
from tospike.run import arithmetic, integers
from tospike.run.integers import Digits, IntegerLayer, unit_of_inputs
from tospike.run.simulate import Run

WEIGHTS = st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=12)


@given(weights=WEIGHTS, count=st.sampled_from([1, 2]))
def test_digits_are_those_of_the_reference(weights, count):
    exact = np.array(weights, np.float32).astype(np.float64)
    wanted, scale = digits(exact, count)
    found = Digits.of(torch.tensor(weights)[None], count)
    assert found.first[0].tolist() == [row[0] for row in wanted]
    assert found.second is None if count == 1 else found.second[0].tolist() == [row[1] for row in wanted]
    back = [value(row, scale) for row in wanted]
    np.testing.assert_allclose(found.weight()[0], back, rtol=1e-6, atol=1e-12)
    bound = np.abs(exact).max() * (1 / 254 if count == 1 else 1 / 64_516)
    assert np.abs(np.array(back) - exact).max() <= bound * (1 + 1e-9)


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_layer_is_exact_in_its_integer_weights(data):
    rank = data.draw(st.sampled_from([0, 1, 2, 2, 2, 3]))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    native, count = data.draw(st.booleans()), data.draw(st.sampled_from([1, 2]))
    written = data.draw(st.sampled_from([torch.float32, torch.bfloat16])) if count == 1 else torch.float32
    samples = data.draw(st.sampled_from([1, 2, 3]))
    if rank == 0:
        inputs, outputs = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
        layer, shape = nn.Linear(inputs, outputs, bias=data.draw(st.booleans())), (inputs,)
        shape = (*data.draw(st.sampled_from([(), (3,), (2, 3)])), inputs)
        scale_shape = (inputs,)
    else:
        groups = data.draw(st.sampled_from([1, 2, 4]))
        inputs, outputs = groups * data.draw(st.integers(1, 4)), groups * data.draw(st.integers(1, 4))
        kernel, stride, padding = (data.draw(st.integers(low, high)) for low, high in ((1, 3), (1, 2), (0, 2)))
        dilation = data.draw(st.integers(1, 2))
        layer = CONVOLUTIONS[rank](
            inputs, outputs, kernel, stride, padding, dilation, groups, bias=data.draw(st.booleans())
        )
        shape = (inputs, *(data.draw(st.integers(5, 9)) for _ in range(rank)))
        scale_shape = (inputs, *[1] * rank)
    zero, largest = data.draw(st.sampled_from([(0, 1), (1, 1), (0, 255), (64, 64)]))
    unit = torch.rand(data.draw(st.sampled_from([(), scale_shape]))) + 0.1
    values = torch.randint(0, zero + largest + 1, (samples, *shape), dtype=torch.uint8)
    if rank == 2 and data.draw(st.booleans()):
        values = values.contiguous(memory_format=torch.channels_last)
    levels = Levels(values, unit, zero, largest)
    quantised = IntegerLayer(layer, unit_of_inputs(layer, levels), zero, largest, count, written, native=native)
    with torch.no_grad():
        found = quantised(values)
        exact = copy.deepcopy(layer).double()
        # the weights that stand in the integers are those of levels, so a level counts as 1
        exact.weight.copy_(quantised.digits.weight().double())
        wanted = exact(levels.levels(torch.float64))
        rounded = layer.double()(levels.levels(torch.float64) * unit.double())
    assert found.dtype == written
    relative = 1e-5 if written is torch.float32 else 2.0**-8
    torch.testing.assert_close(found.double(), wanted, rtol=relative, atol=1e-5 * float(wanted.abs().max()) + 1e-6)
    error = float((wanted - rounded).abs().max())
    fan = layer.weight[0].numel() * max(zero, largest) * float((layer.weight.abs().max() * unit.max()).detach())
    assert error <= fan * (1 / 254 if count == 1 else 1 / 64_516) * 1.01 + 1e-9


@pytest.mark.skipif(not integers.vnni(), reason="the CPU has no units for products of 8 bits")
@pytest.mark.parametrize(
    ("layer", "shape", "paired"),
    [(nn.Conv2d(6, 8, 3, 2, 1), (6, 9, 7), True), (nn.Conv2d(6, 4, (1, 2), groups=2, bias=False), (6, 8, 8), True), (nn.Conv2d(6, 4, 1), (6, 8, 8), False),
     (nn.Conv2d(6, 6, 3, groups=6), (6, 8, 8), False), (nn.Conv1d(6, 4, 3), (6, 8), False), (nn.Linear(12, 5), (2, 3, 12), False)],
    ids=["plain", "grouped", "of one place", "depthwise", "of signals", "linear"],
)  # fmt: skip
def test_binary_spikes_meet_both_digits_of_a_weight_in_one_pass(layer, shape, paired):
    torch.manual_seed(0)
    spikes = torch.randint(0, 2, (3, *shape), dtype=torch.uint8)
    unit = torch.tensor([0.7])
    one, two = (IntegerLayer(layer, unit, 0, largest, 2, native=True) for largest in (1, 2))
    assert (one.paired, two.paired) == (paired, False)
    assert torch.equal(one.digits.second, two.digits.second)
    with torch.no_grad():
        torch.testing.assert_close(one(spikes), two(spikes), rtol=1e-6, atol=1e-6)
        exact = copy.deepcopy(layer).double()
        exact.weight.copy_(one.digits.weight().double())
        torch.testing.assert_close(one(spikes).double(), exact(spikes.double()), rtol=1e-6, atol=1e-6)


class Mixed(nn.Module):
    """Convolutions of several kinds, a residual join, average pooling between neurons, a linear layer with neurons behind it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.deep, self.point = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.down, self.hidden, self.last = nn.Conv2d(8, 4, 3, 2, 1), nn.Linear(16, 10), nn.Linear(10, 3)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (self.point(self.deep(x).relu()) + x).relu()
        x = self.pool(self.down(x).relu())
        return self.last(self.hidden(x.flatten(1)).relu())


NEURONS = {
    "binary": ts.NeuronModel(), "graded": ts.NeuronModel(capacity=5), "ternary": ts.NeuronModel(signed=True),
    "silence worth a spike": ts.NeuronModel(signed=True, rest=1),
    "graded, signed": ts.NeuronModel(capacity=3, signed=True), "nearest": ts.NeuronModel(capacity=6, signed=True, levels="nearest"),
    "successive": ts.NeuronModel(capacity=4, levels="successive"),
}  # fmt: skip


def exact_in_eight_bits(snn):
    """Give layers behind neurons weights that are integers of 8 bits once thresholds are folded in, so that nothing is rounded."""
    generator = torch.Generator().manual_seed(0)
    thresholds = {}
    for node in site_nodes(snn.graph):
        neuron = snn.graph.get_submodule(node.target)
        shape = neuron.threshold.shape
        neuron.threshold = 2.0 ** torch.randint(-1, 2, shape, generator=generator)
        thresholds[node.meta["site"].name] = neuron.threshold
    layers = [module for module in snn.graph.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for layer, theta in zip(layers[1:], (*thresholds.values(),), strict=True):
        with torch.no_grad():
            whole = torch.randint(-127, 128, layer.weight.shape, generator=generator).float()
            whole.flatten(1)[:, 0] = 127.0
            layer.weight.copy_(whole / 2.0**9)
            if isinstance(layer, nn.Conv2d) and layer.groups > 1:
                layer.weight.div_(theta.reshape(-1, 1, 1, 1))
            else:
                each = theta.flatten().repeat_interleave(layer.weight.shape[1] // theta.numel())  # of a flattened map
                layer.weight.div_(each.reshape(1, -1, *[1] * (layer.weight.ndim - 2)))
    return snn


@pytest.fixture(scope="module")
def x():
    return torch.randn(7, 2, 8, 8, generator=torch.Generator().manual_seed(3))


def converted(ann, x, neuron, **options):
    return ts.convert(ann, ts.RobustNorm(**options).using(neuron=neuron), calibration=[x], progress=False)


@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("granularity", ["channel", "layer"])
@pytest.mark.parametrize("name", NEURONS)
def test_networks_whose_weights_fit_agree_with_the_float_engine(x, name, granularity, chunk, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(arithmetic.Integers, "narrow", lambda *_: torch.float32)  # that only weights are rounded
    snn = exact_in_eight_bits(converted(Mixed().eval(), x, NEURONS[name], granularity=granularity))
    wanted = dict(
        ts.simulate(copy.deepcopy(snn).double(), x.double(), time_steps=6, checkpoints=(1, 6), steps_per_call=1)
    )
    for engine in ("float", "int8", "int16"):
        found = dict(ts.simulate(snn, x, time_steps=6, checkpoints=(1, 6), steps_per_call=chunk, engine=engine))
        for t, y in found.items():
            torch.testing.assert_close(y.double(), wanted[t], rtol=1e-5, atol=1e-5)


class Rounded(arithmetic.Arithmetic):
    """Exact sums, rounded to bfloat16 where only neurons read them."""

    def compute(self, graph, node, values):
        y = super().compute(graph, node, values)
        return y.bfloat16().to(y.dtype) if node.name in ("deep", "point", "down", "hidden") else y


@pytest.mark.parametrize("chunk", [None, 1, 4])
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", ["binary", "graded, signed", "successive"])
def test_with_weights_of_8_bits_neurons_read_bfloat16(name, native, chunk, monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(200, 2, 8, 8)
    ann = Mixed().eval()
    with torch.no_grad():
        for layer in ann.children():
            if hasattr(layer, "bias"):
                layer.bias.mul_(64).round_().div_(64)
    snn = exact_in_eight_bits(converted(ann, x, NEURONS[name]))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    found = snn(x, time_steps=6, steps_per_call=chunk, engine="int8")
    exact = Run(copy.deepcopy(snn).double(), {"x": x.double()}, arithmetic=Rounded())
    wanted = dict(exact.read_outs((6,), {6: 0}, 1))[6]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, snn(x, time_steps=6, engine="int16"), rtol=1e-5, atol=1e-5)


def test_all_layers_between_neurons_are_computed_in_integers(x):
    snn = converted(Mixed().eval(), x, NEURONS["binary"])
    chosen = {choice.layer: choice for choice in ts.explain(snn, engine="int8")}
    assert list(chosen) == ["stem", "deep", "point", "down", "hidden", "last"]
    assert [chosen[name].kernel for name in ("deep", "point", "down", "hidden")] == [integers.ONEDNN] * 4
    assert [choice.written for choice in chosen.values()] == ["", *["bfloat16"] * 4, ""]
    assert {choice.written for choice in ts.explain(snn, engine="int16")} == {""}
    assert "constant in time" in chosen["stem"].reason
    assert "last neuron" in chosen["last"].reason
    assert {choice.kernel for choice in ts.explain(snn, engine="float")} == {"float"}


class Odd(nn.Module):
    """Layers that have no integer kernel, each for a reason of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.mirrored = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.same, self.up = nn.Conv2d(4, 4, 3, padding="same"), nn.ConvTranspose2d(4, 4, 2, 2)
        self.sums, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.first(x).relu()
        a = self.mirrored(x).relu()
        b = self.up(self.same(a).relu()).relu()
        return self.last(self.sums(nn.functional.avg_pool2d(b, 2) + a).relu())


def test_layers_without_an_integer_kernel_say_why_and_are_computed_in_float(x):
    snn = converted(Odd().eval(), x, NEURONS["binary"])
    reasons = {choice.layer: choice.reason for choice in ts.explain(snn, engine="int16")}
    assert "reflect" in reasons["mirrored"]
    assert "same" in reasons["same"]
    assert "ConvTranspose2d" in reasons["up"]
    assert "no spikes" in reasons["sums"]
    torch.testing.assert_close(snn(x, time_steps=5, engine="int16"), snn(x, time_steps=5))
    own = converted(Mixed().eval(), x, NEURONS["binary"])
    neuron = own.graph.get_submodule(site_nodes(own.graph)[1].target)
    neuron.threshold = neuron.threshold.expand(8, 8, 8).clone()
    assert "within a channel" in {choice.layer: choice.reason for choice in ts.explain(own)}["point"]


def test_codes_whose_worth_depends_on_the_step_stay_in_float(x):
    snn = converted(Mixed().eval(), x, ts.NeuronModel(signed=True, code="differential"))
    assert all("worth depends" in choice.reason for choice in ts.explain(snn)[1:-1])
    torch.testing.assert_close(snn(x, time_steps=5, engine="int8"), snn(x, time_steps=5))


def test_new_weights_and_thresholds_are_seen(x):
    snn = converted(Mixed().eval(), x, NEURONS["binary"])
    before = snn(x, time_steps=4, engine="int16")
    with torch.no_grad():
        snn.graph.get_submodule("point").weight.mul_(2.0)
    doubled = snn(x, time_steps=4, engine="int16")
    assert not torch.equal(before, doubled)
    torch.testing.assert_close(doubled, snn(x, time_steps=4), rtol=1e-2, atol=1e-2)
    neuron = snn.graph.get_submodule(site_nodes(snn.graph)[1].target)
    neuron.threshold = neuron.threshold * 0.5
    assert not torch.equal(snn(x, time_steps=4, engine="int16"), doubled)


def test_without_vnni_levels_that_might_overflow_are_computed_by_float_units(x, monkeypatch):
    snn = exact_in_eight_bits(converted(Mixed().eval(), x, ts.NeuronModel(capacity=100, signed=True)))
    wanted = snn(x, time_steps=4, engine="int8")
    monkeypatch.setattr(integers, "vnni", lambda: False)
    chosen = {choice.layer: choice.kernel for choice in ts.explain(snn)}
    assert chosen["point"].startswith(integers.FLOAT_UNITS)
    torch.testing.assert_close(snn(x, time_steps=4, engine="int8"), wanted, rtol=1e-5, atol=1e-5)
    binary = converted(Mixed().eval(), x, NEURONS["binary"])
    assert {choice.layer: choice.kernel for choice in ts.explain(binary)}["point"] == integers.ONEDNN


def test_counts_do_not_depend_on_the_engine(x):
    torch.manual_seed(0)
    ann = Mixed().eval()
    snn = exact_in_eight_bits(converted(ann, x, NEURONS["graded, signed"]))
    y = torch.zeros(len(x), dtype=torch.long)
    results = [
        ts.evaluate(snn, [(x, y)] * 2, time_steps=(2, 5), engine=engine, progress=False) for engine in ("float", "int8")
    ]
    assert results[0].rates == results[1].rates
    assert results[0].operations == results[1].operations
    assert {layer.precision for layer in results[1].layers} == {"float32", "int8"}


def test_only_an_snn_can_be_explained():
    with pytest.raises(OptionError, match="snn"):
        ts.explain(Mixed().eval())


def test_synchronous_neurons_have_an_engine_of_their_own(x):
    snn = converted(Mixed().eval(), x, ts.NeuronModel(synchronous=True))
    with pytest.raises(OptionError, match="Synchronous"):
        snn(x, time_steps=4, engine="int8")
    assert {choice.kernel for choice in ts.explain(snn, engine="auto")[1:-1]} == {"counts of all steps"}


def test_what_is_kept_for_an_engine_goes_with_the_network(x):
    snn = converted(Mixed().eval(), x, NEURONS["binary"])
    snn(x, time_steps=2, engine="int8")
    assert snn in arithmetic._KEPT
    copied = copy.deepcopy(snn)
    torch.testing.assert_close(copied(x, time_steps=2, engine="int8"), snn(x, time_steps=2, engine="int8"))
    kept = len(arithmetic._KEPT)
    del copied
    assert len(arithmetic._KEPT) == kept - 1
