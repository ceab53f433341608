"""The kernel for GPUs against the steps in torch, spike for spike: on a GPU where there is one, else in Triton's interpreter."""

import importlib
import itertools
import re
import sys

import pytest
import torch
from torch import nn

from tospike.graph.rewrite import Rectifier
from tospike.neurons import fused
from tospike.neurons.chunk import Chunk
from tospike.neurons.levels import Levels
from tospike.neurons.model import NeuronModel
from tospike.neurons.modules import Neuron
from tospike.testing import CAUSAL

triton = pytest.importorskip("triton")
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
NAME = "tospike.neurons.triton_kernels"

N, C, H, W = 2, 6, 3, 5
STEPS = 7


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Let Triton step all neurons, in its interpreter where there is no GPU."""
    if not GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setitem(fused.BACKENDS, "cpu", fused.BACKENDS["cuda"])
    monkeypatch.setattr(fused, "SMALLEST", 0)
    found = fresh(monkeypatch)
    monkeypatch.setattr(found, "BLOCK", 64)  # several blocks, the last one not full
    return found


def fresh(monkeypatch):
    """Return the kernels as they are compiled, or interpreted, from now on."""
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    found = importlib.import_module(NAME)
    monkeypatch.setattr("tospike.neurons.triton_kernels", found)
    monkeypatch.setitem(sys.modules, NAME, found)
    return found


def laid_out(x, layout):
    """Return ``[T, N, C, H, W]`` with the same values in another order of memory."""
    if layout == "channels last":
        return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
    return x[:1].expand(x.shape) if layout == "constant" else x


def second(kind, layout, dtype):
    if kind == "none":
        return None
    if kind == "levels":
        values = torch.randint(0, 8, (STEPS, N, C, H, W), dtype=torch.uint8, device=DEVICE)
        unit = torch.rand(C, 1, 1, dtype=dtype, device=DEVICE) * 0.2 + 0.1
        return Levels(laid_out(values, layout), unit, zero=3, largest=4)
    return laid_out(torch.rand(STEPS, N, C, H, W, dtype=dtype, device=DEVICE) - 0.5, layout)


def part(x, first, end):
    return x.with_values(x.values[first:end]) if isinstance(x, Levels) else None if x is None else x[first:end]


def through(neuron, currents, other, cuts, levels=False):
    """Step neurons through chunks that end after these steps."""
    state, parts = neuron.initial(currents[0]), []
    for first, end in itertools.pairwise((0, *cuts, len(currents))):
        emitted, state = neuron(currents[first:end], state, part(other, first, end), levels=levels, overwrite=True)
        parts.append(emitted)
    return torch.cat(parts), state


def assert_equal(neuron, currents, other=None, cuts=(), levels=False):
    assert fused.fits(neuron, currents)
    found, state = through(neuron, currents, other, cuts, levels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "fits", lambda *_: False)
        wanted, expected = through(neuron, currents, other, cuts, levels)
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)
    assert state.steps == expected.steps
    assert torch.equal(state.potential, expected.potential)
    assert (state.sent is None) == (expected.sent is None)
    assert state.sent is None or torch.equal(state.sent, expected.sent)
    assert found.any()


def made(model, grain=(C, 1, 1), function=None, dtype=torch.float32, **settings):
    return Neuron(torch.rand(grain, dtype=dtype) * 0.8 + 0.4, 0.5, model, function, **settings).to(DEVICE)


def currents(layout="plain", dtype=torch.float32):
    return laid_out(torch.rand(STEPS, N, C, H, W, dtype=dtype, device=DEVICE) * 2.5 - 1.0, layout)


@pytest.mark.parametrize("other", ["none", "float", "levels"])
@pytest.mark.parametrize("layout", ["plain", "channels last", "constant"])
@pytest.mark.parametrize("model", CAUSAL.values(), ids=CAUSAL.keys())
def test_each_neuron_in_each_layout_with_each_second_current(model, layout, other):
    assert_equal(made(model), currents(layout), second(other, layout, torch.float32))


@pytest.mark.parametrize("cuts", [(1,), (3,), (2, 3, 6)])
@pytest.mark.parametrize("model", CAUSAL.values(), ids=CAUSAL.keys())
def test_each_neuron_in_chunks(model, cuts):
    assert_equal(made(model), currents("channels last"), second("levels", "plain", torch.float32), cuts)


@pytest.mark.parametrize(
    "model", [m for m in CAUSAL.values() if not m.holds], ids=[k for k, m in CAUSAL.items() if not m.holds]
)
def test_levels_as_integers_and_in_half_precision(model):
    neuron = made(model)
    assert_equal(neuron, currents(), levels=True)
    narrow, other = currents("channels last").half(), second("float", "plain", torch.float32).half()
    assert_equal(neuron, narrow, other, (4,), levels=True)
    assert_equal(neuron, narrow, other, (4,))
    integers, state = through(neuron, narrow, None, (), levels=True)
    assert integers.dtype is torch.float16
    assert state.potential.dtype is torch.float32
    worth = Levels(integers, neuron.unit, 0, model.largest).emission()
    torch.testing.assert_close(worth, through(neuron, narrow, None, ())[0])


@pytest.mark.parametrize("grain", [(), (C, 1, 1), (C, H, W), (1, H, 1)])
@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("model", [CAUSAL["binary"], CAUSAL["nearest, signed"]], ids=["binary", "signed"])
def test_parameters_of_all_grains_with_biases_gains_and_memory(model, rows, grain):
    neuron = made(model, grain, nn.LeakyReLU(0.2) if model.signed else None, remember=True)
    neuron.bias = torch.rand(rows, C, 1, 1, device=DEVICE) * 0.6 - 0.3
    neuron.gain = torch.rand(C, 1, 1, device=DEVICE) + 0.5
    assert_equal(neuron, currents(), cuts=(3,))
    assert_equal(neuron, currents("channels last"), second("float", "channels last", torch.float32), cuts=(3,))


@pytest.mark.parametrize("function", [Rectifier(1.0), nn.LeakyReLU(0.01)], ids=["cap", "slope"])
@pytest.mark.parametrize("model", CAUSAL.values(), ids=CAUSAL.keys())
def test_double_precision(model, function):
    neuron = made(model, function=function, dtype=torch.float64)
    assert_equal(neuron, currents(dtype=torch.float64), second("float", "plain", torch.float64), (2,))


def test_it_is_triton_that_steps(kernels, monkeypatch):
    chunks = []
    monkeypatch.setattr(kernels, "advance", chunks.append)
    neuron, x = made(NeuronModel()), currents()
    neuron(x, neuron.initial(x[0]))
    assert [chunk.cells for chunk in chunks] == [N * C * H * W]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("model", CAUSAL.values(), ids=CAUSAL.keys())
def test_it_compiles_for_a_gpu_without_contraction(model, dtype, monkeypatch):
    """The program for an H100 or H200 is made without one: nothing in it rounds a product and a sum at once."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    compiled = fresh(monkeypatch)
    number = torch.float64 if dtype is torch.float64 else torch.float32
    neuron = made(model, dtype=number)
    neuron.bias = torch.zeros(2, C, 1, 1, dtype=number)
    x = currents(dtype=dtype)
    other = second("levels", "plain", number)
    chunk = Chunk.of(neuron, x, neuron.initial(x[0]), other, not model.holds, False)
    code = program(compiled, chunk, enable_fp_fusion=False)
    assert "ld.global" in code
    assert not re.search(r"\bfma\.rn", code)
    assert number is torch.float64 or "div.full" not in code
    if not model.holds:
        assert ("st.global.b8" in code) == (dtype is not torch.float16)


def program(kernels, chunk, **options):
    """Return the PTX of the kernel for a chunk."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {torch.float32: "*fp32", torch.float64: "*fp64", torch.float16: "*fp16", torch.uint8: "*u8"}
    signature, constants = {}, {}
    given = kernels.arguments(chunk)
    for parameter in kernels._advance.params:
        value = given[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[(parameter.num,)] = "constexpr", value
        else:
            signature[parameter.name] = types[value.dtype] if isinstance(value, torch.Tensor) else "i32"
    source = ASTSource(kernels._advance, signature, constants)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


@pytest.mark.skipif(not GPU, reason="there is no GPU")
def test_a_graph_of_a_chunk_replays(kernels):
    neuron, x = made(CAUSAL["ternary"]), currents()
    neuron(x, neuron.initial(x[0]))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        emitted, _ = neuron(x, neuron.initial(x[0]))
    x.copy_(currents())
    graph.replay()
    wanted, _ = neuron(x, neuron.initial(x[0]))
    assert torch.equal(emitted, wanted)
