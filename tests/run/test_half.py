"""Layers in half precision: against their rounded weights, and whole networks against the float engine."""

import pytest
import torch
from torch import nn

import tospike as ts
from tospike.errors import OptionError
from tospike.neurons.levels import Levels
from tospike.run import arithmetic, half
from tospike.run.half import HalfLayer

NEURONS = {
    "binary": ts.NeuronModel(),
    "graded, signed": ts.NeuronModel(capacity=4, levels="nearest", signed=True),
    "silence worth one of two": ts.NeuronModel(capacity=2, signed=True, rest=1),
    "differential": ts.NeuronModel(signed=True, code="differential"),
}


class Residual(nn.Module):
    """A layer that only neurons read, a sum that neurons add up, and a layer that pooling reads."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (
            nn.Conv2d(2, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 8, 1),
        )
        self.fourth = nn.Conv2d(8, 8, 1)
        self.pool, self.middle, self.last = nn.AvgPool2d(2), nn.Linear(72, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.first(x).relu()
        x = (self.second(x).relu() + self.third(x)).relu()
        x = self.pool(self.fourth(x)).relu()
        return self.last(self.middle(x.flatten(1)).relu())


@pytest.fixture
def x():
    return torch.randn(16, 2, 6, 6)


def converted(x, neuron, ann=None):
    return ts.convert(ann or Residual().eval(), ts.LTB(batches=5).using(neuron=neuron), calibration=[x], progress=False)


def layers():
    yield nn.Linear(6, 5), torch.rand(6)
    yield nn.Linear(6, 5, bias=False), torch.rand(1)
    yield nn.Conv1d(6, 4, 3, stride=2, bias=False), torch.rand(6)
    yield nn.Conv2d(6, 4, 3, padding=1, groups=2), torch.rand(6)
    yield nn.Conv3d(6, 4, 1), torch.rand(6)


@pytest.mark.parametrize("number", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("module", "unit"), list(layers()))
def test_a_layer_computes_with_weights_of_half_precision(module, unit, number):
    rank = 0 if isinstance(module, nn.Linear) else module.weight.ndim - 2
    values = torch.randint(0, 9, (3, 6, *[5] * rank), dtype=torch.uint8)
    y = HalfLayer(module, unit, 4, number, number)(values)
    levels = Levels(values, unit.view(-1, *[1] * rank), zero=4, largest=4)
    assert y.dtype is number
    bits = 8 if number is torch.bfloat16 else 11
    exact = module.double()(levels.emission().double())
    largest = module(levels.emission().double().abs()).abs().max()
    assert (y.double() - exact).abs().max() < largest * 4 * 2.0**-bits
    assert values.max() > 4


def test_bfloat16_holds_all_levels_of_8_bits():
    levels = torch.arange(256)
    assert torch.equal(levels.bfloat16().int(), levels.int())
    assert torch.equal(levels.half().int(), levels.int())


@pytest.mark.parametrize("number", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS.keys())
def test_a_network_is_close_to_the_float_engine(x, neuron, number, monkeypatch):
    snn = converted(x, neuron)
    monkeypatch.setattr(half, "units_for", lambda _: (number, "units"))
    exact, found = (snn(x, time_steps=32, engine=engine) for engine in ("float", "half"))
    assert found.dtype is torch.float32
    assert (found - exact).abs().max() < 0.05 * exact.abs().max()
    assert neuron.holds == torch.equal(found, exact)  # a code whose worth depends on the step stays in float


def test_explain_names_the_units(x, monkeypatch):
    snn = converted(x, NEURONS["binary"])
    kernels = {choice.kernel for choice in ts.explain(snn, engine="half")[1:-1]}
    assert kernels == {half.units_for(torch.device("cpu"))[1]}
    monkeypatch.setattr(torch.cpu, "_is_amx_fp16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for bfloat16, number in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda found=bfloat16: found)
        assert half.units_for(torch.device("cpu"))[0] is number
    assert half.units_for(torch.device("cuda")) == (torch.float16, half.CUDA_UNITS)
    monkeypatch.setattr(torch.cpu, "_is_amx_fp16_supported", lambda: True)
    assert half.units_for(torch.device("cpu"))[0] is torch.float16


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_weights_out_of_range_stay_in_float(x, factor, monkeypatch):
    monkeypatch.setattr(half, "units_for", lambda _: (torch.float16, "units"))
    ann = Residual().eval()
    with torch.no_grad():
        ann.second.weight[0] *= factor
    snn = converted(x, NEURONS["binary"], ann)
    choices = {choice.layer: choice for choice in ts.explain(snn, x, engine="half")}
    assert choices["second"].kernel == "float"
    assert "range of half precision" in choices["second"].reason
    assert choices["third"].kernel == "units"
    assert snn(x, time_steps=4, engine="half").isfinite().all()


def test_weights_are_made_again_when_they_change(x):
    snn = converted(x, NEURONS["binary"])
    before = snn(x, time_steps=4, engine="half")
    with torch.no_grad():
        snn.graph.get_submodule("second").weight.zero_()
    assert not torch.equal(snn(x, time_steps=4, engine="half"), before)


def test_what_only_neurons_read_stays_narrow_and_all_else_does_not(x, monkeypatch):
    """As on a GPU: currents in half precision, levels in half precision, states and read-outs in single precision."""
    snn = converted(x, NEURONS["graded, signed"])
    monkeypatch.setattr(half, "units_for", lambda _: (torch.float16, "units"))
    narrow = {}

    class Gpu(arithmetic.Half):
        def narrow(self, device):
            return torch.float16

        def _written(self, node, levels):
            narrow[node.name] = super()._written(node, levels)
            return narrow[node.name]

    wide = snn(x, time_steps=8, engine="half")
    monkeypatch.setitem(arithmetic.SPIKING, "half", Gpu)
    arithmetic._KEPT.pop(snn)
    found = snn(x, time_steps=8, engine="half")
    assert narrow == {**dict.fromkeys(("second", "third", "middle"), torch.float16), "fourth": torch.float32}
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, wide, rtol=1e-3, atol=1e-3)
    result = ts.evaluate(
        snn, [(x, torch.zeros(len(x), dtype=torch.long))], time_steps=(4,), engine="half", progress=False
    )
    assert {layer.precision for layer in result.layers} == {"float32", "float16"}


def test_synchronous_neurons_have_an_engine_of_their_own(x):
    snn = converted(x, ts.NeuronModel(synchronous=True))
    with pytest.raises(OptionError, match="Synchronous"):
        snn(x, time_steps=4, engine="half")
