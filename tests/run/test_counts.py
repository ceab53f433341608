"""Work of every layer, in every part of a network, against counts one by one and by hand."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tospike as ts
from references.operations import conv_operations, transposed_operations
from tospike.neurons import Neuron
from tospike.run import work
from tospike.run.counts import Counts
from tospike.run.work import Meter, fan_out

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def spikes(channels, height, width, seed):
    return (np.random.default_rng(seed).random((2, channels, height, width)) < 0.4).astype(np.float32)


@given(
    kernel=pairs, stride=pairs, padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=pairs, groups=st.integers(1, 3),
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_convolution_causes_the_operations_that_counting_one_by_one_finds(
    kernel, stride, padding, dilation, groups, size, seed
):
    assume(all(s + 2 * p > d * (k - 1) for s, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    layer = nn.Conv2d(2 * groups, 4 * groups, kernel, stride, padding, dilation, groups)
    x = spikes(2 * groups, *size, seed)
    wanted = conv_operations(x, kernel, stride, padding, dilation, groups, 4 * groups)
    assert float((torch.from_numpy(x).sum((0, 1)) * fan_out(layer, size)).sum()) == wanted


@given(
    kernel=pairs, stride=pairs, padding=st.tuples(st.integers(0, 1), st.integers(0, 1)), extra=st.integers(0, 2), dilation=pairs,
    groups=st.integers(1, 2), size=st.tuples(st.integers(2, 5), st.integers(2, 5)), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_transposed_convolution_too(kernel, stride, padding, extra, dilation, groups, size, seed):
    extras = tuple(min(extra, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
    layer = nn.ConvTranspose2d(2 * groups, 3 * groups, kernel, stride, padding, extras, groups, dilation=dilation)
    lengths = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(size, stride, padding, dilation, kernel, extras, strict=True)
    ]
    assume(min(lengths) > 0)
    assert layer(torch.zeros(1, 2 * groups, *size)).shape[2:] == tuple(lengths)
    x = spikes(2 * groups, *size, seed)
    wanted = transposed_operations(x, kernel, stride, padding, extras, dilation, groups, 3 * groups)
    assert float((torch.from_numpy(x).sum((0, 1)) * fan_out(layer, size)).sum()) == wanted


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(1, 1, 4, padding="same"), nn.Conv1d(1, 1, 3, padding="valid", stride=2), nn.Conv1d(1, 1, 3, padding=2, padding_mode="circular"),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect", stride=2), nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate"),
        nn.Conv3d(1, 1, (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 0)), nn.ConvTranspose1d(1, 1, 3, 2, 1, 1), nn.ConvTranspose3d(1, 1, 2, 2),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
def test_the_fan_out_is_the_gradient_of_a_convolution_of_ones(layer):
    """A padded position that repeats another one carries its spike along."""
    nn.init.ones_(layer.weight)
    x = torch.ones(1, 1, *[6] * (layer.weight.ndim - 2), requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(fan_out(layer, x.shape[2:]), x.grad[0, 0].double())


class Residual(nn.Module):
    """Stem, pool before a neuron, a padded and a strided convolution, a join, and a tail; every number can be had by hand."""

    def __init__(self):
        super().__init__()
        self.stem, self.a = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1, stride=2)
        self.b, self.short, self.fc = (
            nn.Conv2d(4, 4, 3, padding=1, groups=2),
            nn.Conv2d(2, 4, 1, stride=2),
            nn.Linear(16, 3),
        )

    def forward(self, x):
        h = nn.functional.max_pool2d(torch.relu(self.stem(x)), 2)
        y = torch.relu(self.a(h))
        y = torch.relu(self.b(y) + self.short(h))
        return self.fc(y.flatten(1))


def run(snn, x, steps=6, **settings):
    counts = Counts()
    list(ts.simulate(snn, x, time_steps=steps, counts=counts, **settings))
    return counts


def test_every_part_of_a_network_is_counted():
    ann, x = Residual().eval(), torch.randn(5, 1, 8, 8)
    snn = ts.convert(ann, ts.LTB(batches=5), calibration=[x])
    seen = {name: [] for name in ("a", "b", "short")}
    for name, inputs in seen.items():
        snn.graph.get_submodule(name).register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0]))
    counts = run(snn, x, 6, steps_per_call=1, checkpoints=(2, 6))
    assert counts.parts == {"stem": "constant", "a": "spiking", "b": "spiking", "short": "spiking", "fc": "read-out"}
    dense = {"stem": 64 * 2 * 9, "a": 4 * 4 * 2 * 9, "b": 4 * 4 * 2 * 9, "short": 4 * 4 * 2, "fc": 16 * 3}
    assert counts.dense == {name: 5 * work for name, work in dense.items()}
    for name, inputs in seen.items():
        layer = getattr(ann, name)
        count = partial(
            conv_operations, kernel=layer.kernel_size, stride=layer.stride, padding=layer.padding, dilation=layer.dilation,
            groups=layer.groups, outputs=4,
        )  # fmt: skip
        synapses = count(np.ones_like(inputs[0]))
        assert counts.operations[name] == pytest.approx(
            [count(x.numpy()) * counts.dense[name] / synapses for x in inputs]
        )
        assert (synapses == counts.dense[name]) == (name == "short")  # which pads nothing
        assert 0 < sum(counts.operations[name]) < 6 * counts.dense[name]
    assert counts.multiply_adds == {}
    assert sorted(place.partition(" ")[2].partition(",")[0] for place in counts.uncounted) == ["(add", "(max_pool2d"]
    assert set(counts.precisions.values()) == {"float32"}


RESTING = [ts.NeuronModel(signed=True, rest=1), ts.NeuronModel(capacity=2, signed=True, code="phase", rest=2)]


@pytest.mark.parametrize("engine", ["float", "int8"])
@pytest.mark.parametrize("neuron", RESTING, ids=["rate", "phase"])
def test_what_silence_is_worth_is_no_spike(neuron, engine):
    ann, x = Residual().eval(), torch.randn(5, 1, 8, 8)
    snn = ts.convert(ann, ts.RobustNorm().using(neuron=neuron), calibration=[x])
    sent = {}
    for name, module in snn.graph.named_modules():
        if isinstance(module, Neuron):
            module.register_forward_hook(lambda neuron, _, found, name=name: sent.__setitem__(name, (neuron, found[0])))
    counts = run(snn, x, 6, steps_per_call=6, engine=engine)
    for (module, emitted), spikes in zip(sent.values(), counts.spikes.values(), strict=True):
        e = emitted.double() / module.threshold
        if emitted.dtype is torch.uint8:
            e = emitted.double() - module.model.zero
        before = [
            torch.full_like(e[0], neuron.rest),
            *((e.cumsum(0)[t] / (t + 1) if neuron.holds else e[0] * 0 + neuron.rest) for t in range(5)),
        ]
        wanted = [float(((now - held).abs() > 1e-4).sum()) for now, held in zip(e, before, strict=True)]
        assert spikes == wanted
        assert 0 < sum(wanted) < e.numel()
    if neuron.holds:
        return
    every = {name: layer for name, layer in counts.operations.items()}
    assert all(0 < sum(row) < 6 * counts.dense[name] for name, row in every.items())


def test_pooled_silence_is_no_spike():
    ann = nn.Sequential(
        nn.Identity(),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, padding=1),
        nn.Conv2d(2, 3, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(75, 2),
    )
    x = torch.rand(4, 2, 10, 10)
    snn = ts.convert(ann.eval(), ts.RobustNorm().using(neuron=RESTING[0]), calibration=[x])
    module = next(module for module in snn.graph.modules() if isinstance(module, Neuron))
    silent = module.threshold.expand(1, 2, 10, 10).repeat(4, 1, 1, 1)  # a constant current that makes every step silent
    assert run(snn, silent, 3, steps_per_call=3, engine="float").operations["3"] == [0.0, 0.0, 0.0]
    silent[0, 0, 5, 5] = 0.0  # read by four windows, each of which is read by three outputs
    assert run(snn, silent, 3, steps_per_call=3, engine="float").operations["3"] == [12.0, 12.0, 12.0]


@pytest.mark.parametrize("method", [
    ts.LTB(batches=5), ts.Differential(6, batches=3), ts.Parallel(time_steps=6), *(ts.RobustNorm().using(neuron=neuron) for neuron in RESTING),
])  # fmt: skip
def test_neither_the_chunk_nor_the_batch_nor_the_checkpoints_change_the_counts(method):
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    snn = ts.convert(Residual().double().eval(), method, calibration=[x])
    whole = run(snn, x, 6, steps_per_call=6).layers((3, 6))
    alone = run(snn, x, 6, steps_per_call=1, checkpoints=(6,)).layers((3, 6))
    parts = Counts()
    for batch in x.split((1, 2, 3)):
        list(ts.simulate(snn, batch, time_steps=6, steps_per_call=4, counts=parts))
    for other in (alone, parts.layers((3, 6))):
        for one, layer in zip(whole, other, strict=True):
            assert (one.name, one.part, one.precision) == (layer.name, layer.part, layer.precision)
            assert layer.multiply_adds == pytest.approx(one.multiply_adds)
            assert layer.operations == pytest.approx(one.operations)


def test_a_dense_pass_is_that_of_the_ann_for_every_t_of_a_synchronous_run():
    x = torch.randn(6, 1, 8, 8)
    snn = ts.convert(Residual().eval(), ts.Parallel(time_steps=4), calibration=[x])
    for engine in ("count", "float"):
        counts = run(snn, x, 8, checkpoints=(2, 4, 8), engine=engine)
        assert counts.dense["a"] == 6 * 4 * 4 * 2 * 9
        assert counts.dense["stem"] == 6 * 64 * 2 * 9
        assert counts.dense["fc"] == 6 * 16 * 3


class Mixed(nn.Module):
    """Attention of every spelling, a bilinear layer and a product with a vector, behind one neuron and before another."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.a, self.d = kind, nn.Linear(6, 6), nn.Linear(6, 2)
        if kind == "multihead":
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        elif kind == "bilinear":
            self.product = nn.Bilinear(6, 6, 6)
        self.vector = nn.Parameter(torch.randn(6))

    def forward(self, x):
        h = torch.relu(self.a(x))
        if self.kind == "multihead":
            h = self.attention(h, h, h, need_weights=False)[0]
        elif self.kind == "bilinear":
            h = self.product(h, h)
        elif self.kind == "vector":
            h = h * (h @ self.vector)[..., None]
        else:
            h = {
                "sdpa": lambda: nn.functional.scaled_dot_product_attention(h, h, h),
                "matmul": lambda: (h @ h.transpose(1, 2)).softmax(-1) @ h,
                "bmm": lambda: torch.bmm(torch.bmm(h, h.transpose(1, 2)).softmax(-1), h),
                "einsum": lambda: torch.einsum("nij,njk->nik", torch.einsum("nik,njk->nij", h, h).softmax(-1), h),
            }[self.kind]()
        return self.d(torch.relu(h))


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("multihead", 5 * 6 * 24 + 2 * 5 * 5 * 6), ("sdpa", 300), ("matmul", 300), ("bmm", 300), ("einsum", 300),
        ("bilinear", 5 * 6 * 36),
    ],
)  # fmt: skip
@pytest.mark.parametrize("chunk", [1, 3])
def test_products_of_two_signals_are_multiply_adds_at_every_step(kind, wanted, chunk):
    ann, x = Mixed(kind).eval(), torch.randn(4, 5, 6)
    snn = ts.convert(ann, ts.Ternary(time_steps=3).using(refiners=()), calibration=[x], analog="auto")
    counts = run(snn, x, 3, steps_per_call=chunk)
    assert np.sum(list(counts.multiply_adds.values()), 0).tolist() == [4 * wanted] * 3
    assert sum(layer.multiply_adds for layer in counts.layers((3,)) if layer.part == "analog") == wanted
    assert counts.parts["a"] == "constant"
    inside = {"multihead": "multiheadattention", "sdpa": "scaled_dot_product_attention", "bilinear": ""}.get(
        kind, "softmax"
    )
    assert any(inside in place for place in counts.uncounted) == bool(inside)


def test_a_product_of_spikes_and_a_constant_counts_spikes():
    ann, x = Mixed("vector").eval(), torch.randn(4, 5, 6)
    snn = ts.convert(ann, ts.Ternary(time_steps=3).using(refiners=()), calibration=[x], analog="auto")
    counts = run(snn, x, 3)
    assert counts.operations["matmul"] == counts.spikes["relu"]
    assert any("mul," in place for place in counts.uncounted)


def test_smooth_activations_are_named():
    ann, x = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(9, 6)
    snn = ts.convert(ann, ts.Ternary(time_steps=3).using(refiners=()), calibration=[x], analog="auto")
    assert [place for place in run(snn, x, 3).uncounted if "gelu" in place]


@pytest.mark.parametrize("layer", [nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ConvTranspose2d(2, 3, 3, 2, 1)], ids=str)
def test_when_every_input_is_a_spike_there_are_as_many_operations_as_multiply_adds(layer):
    ann = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    for weights in (ann[0].weight, ann[0].bias, layer.weight, layer.bias):
        nn.init.ones_(weights)  # nothing is silent
    x = torch.rand(3, 1, 6, 6)
    ann(x)
    counts = run(ts.convert(ann.eval(), ts.RobustNorm(percentile=1.0), calibration=[x]), x + 1, 4)
    assert counts.operations["2"] == pytest.approx([counts.dense["2"]] * 4)


def test_an_image_joined_to_spikes_makes_a_layer_multiply():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(8, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.c(torch.relu(self.b(torch.cat([x, torch.relu(self.a(x))], 1))))

    x = torch.randn(7, 4)
    counts = run(ts.convert(Joined().eval(), ts.LTB(batches=3), calibration=[x]), x, 2)
    assert counts.multiply_adds == {"b": [7 * 8 * 5] * 2}
    assert counts.operations == {}


@pytest.mark.parametrize(
    "method",
    [ts.Ternary(time_steps=3).using(refiners=()), ts.Parallel(time_steps=3, correct=False)],
    ids=["stepped", "settled"],
)
def test_what_is_measured_is_measured_once_for_each_shape_and_shared_by_copies(method, monkeypatch):
    calls = []
    measured = work._measured
    monkeypatch.setattr(work, "_measured", lambda *args: calls.append(args[0].name) or measured(*args))
    x = torch.randn(4, 5, 6)
    snn = ts.convert(Mixed("matmul").eval(), method, calibration=[x], analog="auto")
    counts = Counts()
    for _ in range(3):
        counts = copy.deepcopy(counts)
        list(ts.simulate(snn, x, time_steps=6, steps_per_call=2, checkpoints=(1, 2, 6), counts=counts))
    assert len(calls) == len(set(calls)) > 0
    assert isinstance(counts._meter, Meter)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet", "swin_t", "vit_b_16"])
def test_a_dense_pass_agrees_with_the_operations_of_the_whole_ann(name):
    models = pytest.importorskip("torchvision.models")
    size = 32 if name == "vit_b_16" else 64
    options = {"vit_b_16": {"image_size": 32}, "googlenet": {"init_weights": False, "aux_logits": False}}
    ann, x = getattr(models, name)(weights=None, **options.get(name, {})).eval(), torch.randn(2, 3, size, size)
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        copy.deepcopy(ann).to("meta")(x.to("meta"))
    snn = ts.convert(
        ann, ts.RobustNorm().using(neuron=ts.NeuronModel(signed=True)), calibration=[x], analog="auto", progress=False
    )
    assert 2 * sum(run(snn, x, 1).dense.values()) == counter.get_total_flops()
