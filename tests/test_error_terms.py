"""Error terms: the formulas of one neuron, the identity for every neuron, and what has none."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tospike as ts
from references.errors import terms
from tospike.error_terms import Flow, dissect
from tospike.errors import DataError, OptionError
from tospike.graph.kinds import Kind, Verdict
from tospike.graph.walk import site_nodes
from tospike.neurons import Neuron, NeuronModel
from tospike.testing import _Residual


def per_neuron(neuron, currents):
    """Return the squares that `Split` sums, and the sum of the timing error, for currents ``[T, N]``."""
    emitted, _ = neuron(currents, neuron.initial(currents[0]))
    mean = currents.mean(0)
    node = SimpleNamespace(meta={"operation": SimpleNamespace(verdict=Verdict(Kind.ACTIVATION, "relu"))})
    return dissect(node, neuron, Flow(mean, emitted.mean(0), emitted != 0, emitted != 0), len(currents)).sums()


@given(
    currents=st.lists(st.floats(-3, 3), min_size=1, max_size=12),
    theta=st.floats(0.2, 2.0),
    share=st.floats(0.0, 0.99),
)
def test_the_terms_of_one_neuron_agree_with_the_formulas(currents, theta, share):
    steps = len(currents)
    mean = sum(currents) / steps
    edge = (mean * steps + share * theta) / theta
    if abs(edge - round(edge)) < 1e-6:
        return  # rounding decides
    neuron = Neuron(torch.tensor(theta, dtype=torch.float64), share)
    found = per_neuron(neuron, torch.tensor(currents, dtype=torch.float64)[:, None])
    clip, quant, time, total = terms(currents, theta, share * theta)
    wanted = [max(mean, 0) ** 2, clip**2, quant**2, time**2, total**2, time]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), atol=1e-6, rtol=1e-6)
    assert clip + quant + time == pytest.approx(total, abs=1e-12)


MODELS = [NeuronModel(), NeuronModel(signed=True), NeuronModel(capacity=3), NeuronModel(signed=True, code="phase"), NeuronModel(signed=True, rest=1),
          NeuronModel(capacity=4, signed=True, levels="nearest")]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_constant_current_has_no_timing_error(model):
    current = torch.linspace(-1, 3, 41)
    found = per_neuron(Neuron(torch.tensor(0.7), 0.5, model), current.expand(6, -1))
    assert found[3] == found[5] == 0


def test_biases_that_differ_from_step_to_step_are_no_constant():
    neuron, current = Neuron(torch.tensor(0.7)), torch.linspace(-1, 3, 41)
    neuron.bias = torch.tensor([[0.3], [0.0], [-0.3]])
    assert per_neuron(neuron, current.expand(6, -1))[3] > 0
    assert neuron.bias is not None


def test_the_terms_of_a_network():
    torch.manual_seed(0)
    ann, x = _Residual().eval(), torch.randn(64, 1, 8, 8)
    snn = ts.convert(ann, ts.RobustNorm(percentile=1.0), calibration=[x])
    found = {t: ts.error_terms(snn, [x[:40], x[40:]], time_steps=t) for t in (2, 64)}
    assert [site.site for site in found[2].sites] == snn.site_names
    assert found[2].samples == 64
    front, back = found[2].sites
    assert front.timing == pytest.approx(0, abs=1e-6)  # its input is constant
    assert back.timing > 0
    assert found[64].sites[1].total < found[2].sites[1].total
    assert front.clipping == 0 < front.quantisation  # thresholds at the largest activation
    assert all(
        math.isfinite(value) for site in found[2].sites for value in vars(site).values() if isinstance(value, float)
    )
    table = found[2].table(found[64])
    assert [column.header for column in table.columns] == ["Site", "clipping", "quantisation", "timing", "total"]


def test_low_thresholds_clip():
    ann, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(64, 4)
    snn = ts.convert(ann, ts.RobustNorm(percentile=0.8), calibration=[x])
    site = ts.error_terms(snn, [x], time_steps=64).sites[0]
    assert site.clipping > site.quantisation > 1e-6 > site.timing


def test_neurons_that_wait_for_their_input_have_no_timing_error():
    ann, x = _Residual().eval(), torch.randn(8, 1, 8, 8)
    for method in (ts.Parallel(time_steps=4), ts.TPP(time_steps=4)):
        found = ts.error_terms(ts.convert(ann, method, calibration=[x]), [x], time_steps=4)
        assert all(site.timing < 1e-6 < site.total for site in found.sites)


@pytest.mark.parametrize("delay", [0, 3])
def test_a_pre_run_and_a_delay_are_no_part_of_the_terms(delay):
    ann, x = _Residual().eval(), torch.randn(8, 1, 8, 8)
    snn = ts.convert(ann, ts.SRP(time_steps=6, pre_steps=2), calibration=[x])
    found = ts.error_terms(snn, [x], time_steps=6, delay=delay)
    assert found.sites[0].timing == pytest.approx(0, abs=1e-6)
    emitted = []
    neuron = snn.graph.get_submodule(site_nodes(snn.graph)[0].target)
    neuron.register_forward_hook(lambda module, args, out: emitted.append((args[0], out[0])))
    snn(x, time_steps=6, steps_per_call=6)
    current, spikes = emitted[0]
    first = max(delay, 2)
    wanted = (spikes[first:].mean(0) - current[first:].mean(0).relu()).square().mean().sqrt()
    assert found.sites[0].total == pytest.approx(float(wanted), rel=1e-5)


def test_large_batches_are_taken_in_portions(monkeypatch):
    ann, x = _Residual().eval(), torch.randn(8, 1, 8, 8)
    snn = ts.convert(ann, ts.LTB(batches=2), calibration=[x])
    whole = ts.error_terms(snn, [x], time_steps=4)
    monkeypatch.setattr(
        sys.modules["tospike.error_terms"], "MEANS_AT_ONCE", 2 * sum(site.neurons for site in snn.conversion.sites)
    )
    parts = ts.error_terms(snn, [x], time_steps=4)
    assert parts.samples == whole.samples == 8
    for one, other in zip(parts.sites, whole.sites, strict=True):
        assert one.total == pytest.approx(other.total, rel=1e-6)


def test_what_has_no_error_terms():
    ann, x = _Residual().eval(), torch.randn(8, 1, 8, 8)
    snn = ts.convert(ann, ts.LTB(batches=2), calibration=[x])
    with pytest.raises(DataError, match="no data"):
        ts.error_terms(snn, [], time_steps=4)
    with pytest.raises(OptionError):
        ts.error_terms(snn, [x], time_steps=0)
