"""Layer-synchronous runs: without a loop over time they give what spikes laid out in time give, and count the same."""

import numpy as np
import pytest
import torch
from torch import nn

import tospike as ts
from references.synchronous import settled_residual
from tospike.errors import OptionError
from tospike.run.counts import Counts
from tospike.testing import _Residual


class _Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.c(torch.relu(self.b(h) + h))


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_agrees_with_a_network_that_sends_real_spikes_layer_by_layer(steps):
    ann, x = _Mlp().double(), torch.randn(7, 5, dtype=torch.float64)
    snn = ts.convert(ann, ts.Parallel(time_steps=steps, correct=False), calibration=[x])
    layers = (ann.a, ann.b, ann.c)
    weights, biases = [[getattr(layer, key).detach().numpy() for layer in layers] for key in ("weight", "bias")]
    thetas = [theta.numpy() for theta in snn.conversion.thresholds.values()]
    wanted = settled_residual(x.numpy(), weights, biases, thetas, steps)
    np.testing.assert_allclose(snn(x, time_steps=steps).numpy(), wanted, atol=1e-9)


@pytest.mark.parametrize(
    "method",
    [ts.Parallel(time_steps=6), ts.TPP(time_steps=6), ts.BitWeighted(time_steps=6), ts.FirstSpike(time_steps=6)],
)
def test_both_engines_give_the_same_outputs_and_counts(method):
    ann, x = _Residual().double().eval(), torch.randn(9, 1, 8, 8, dtype=torch.float64)
    snn = ts.convert(ann, method, calibration=[x])
    found = {}
    for engine in ("count", "float"):
        counts = Counts()
        found[engine] = (
            counts,
            dict(ts.simulate(snn, x, time_steps=6, checkpoints=(2, 3, 6), engine=engine, counts=counts)),
        )
    (fast, outputs), (slow, expected) = found.values()
    assert sorted(outputs) == sorted(expected) == [2, 3, 6]
    for t in expected:
        torch.testing.assert_close(outputs[t], expected[t], rtol=0, atol=1e-9)
        assert fast.synaptic_operations(t) == pytest.approx(slow.synaptic_operations(t))
    assert fast.rates() == pytest.approx(slow.rates())
    assert fast.synaptic_operations(6) > 0


def test_counts_of_each_t_are_those_of_a_run_of_its_own():
    ann, x = _Residual().eval(), torch.randn(9, 1, 8, 8)
    snn = ts.convert(ann, ts.Parallel(time_steps=4), calibration=[x])
    together, alone = Counts(), Counts()
    list(ts.simulate(snn, x, time_steps=8, checkpoints=(4, 8), counts=together))
    list(ts.simulate(snn, x, time_steps=4, counts=alone))
    assert together.synaptic_operations(4) == pytest.approx(alone.synaptic_operations(4))


def test_a_layer_behind_a_sum_of_currents_multiplies():
    """A linear bottleneck: what the second layer gets is no spike, so every weight costs a multiply-add at every step."""
    ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(10, 4)
    snn, counts = ts.convert(ann, ts.Parallel(time_steps=4), calibration=[x]), Counts()
    list(ts.simulate(snn, x, time_steps=4, counts=counts))
    assert sum(counts.multiply_adds["3"]) == 4 * 10 * 3 * 5
    assert list(counts.operations) == ["2"]


@pytest.mark.parametrize("settings", [{"delay": 2}, {"delay": -2}])
def test_steps_cannot_be_left_out(settings):
    x = torch.randn(9, 1, 8, 8)
    snn = ts.convert(_Residual().eval(), ts.Parallel(time_steps=4), calibration=[x])
    with pytest.raises(OptionError, match="counts"):
        snn(x, time_steps=4, **settings)
    assert snn(x, time_steps=4, delay="auto").equal(snn(x, time_steps=4))


def test_a_run_no_longer_than_its_pre_run_is_refused():
    x = torch.randn(9, 1, 8, 8)
    for method in (ts.SRP(time_steps=8, pre_steps=4), ts.COS(time_steps=8, pre_steps=4)):
        snn = ts.convert(_Residual().eval(), method, calibration=[x])
        with pytest.raises(OptionError, match="pre-run"):
            snn(x, time_steps=4)


def test_the_pre_run_is_never_read_out():
    x = torch.randn(9, 1, 8, 8)
    snn = ts.convert(_Residual().eval(), ts.SRP(time_steps=8, pre_steps=3), calibration=[x])
    torch.testing.assert_close(snn(x, time_steps=8), snn(x, time_steps=8, delay=3))
    torch.testing.assert_close(snn(x, time_steps=8, delay=-2), snn(x, time_steps=8, delay=6))


def test_latency_is_reported():
    x, y = torch.randn(9, 1, 8, 8), torch.zeros(9, dtype=torch.long)
    ann = _Residual().eval()
    found = {}
    for method in (ts.LTB(batches=3), ts.Parallel(time_steps=4), ts.COS(time_steps=6, pre_steps=2)):
        snn = ts.convert(ann, method, calibration=[x])
        found[method.name] = ts.evaluate(snn, [(x, y)], time_steps=(4, 6), progress=False).latency
    assert found == {"ltb": {4: 4, 6: 6}, "parallel": {4: 12, 6: 18}, "cos": {4: 8, 6: 10}}
