import dataclasses

import pytest
import torch
from torch import nn

import tospike as ts
from tospike.errors import OptionError, SimulationError
from tospike.run.counts import Counts
from tospike.run.simulate import sizes_of_calls


@pytest.fixture
def ann():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3)
    ).double()


@pytest.fixture
def x():
    return torch.randn(5, 1, 8, 8, dtype=torch.float64)


@pytest.fixture
def snn(ann, x):
    return ts.convert(ann, ts.LTB(batches=5), calibration=[x])


def curve(snn, x, steps, **settings):
    return dict(ts.simulate(snn, x, time_steps=steps, checkpoints=range(1, steps + 1), **settings))


@pytest.mark.parametrize("steps_per_call", [1, 2, 3, 5, 16, 100])
def test_steps_per_call_changes_nothing(snn, x, steps_per_call):
    expected, got = curve(snn, x, 16, steps_per_call=1), curve(snn, x, 16, steps_per_call=steps_per_call)
    for t in expected:
        torch.testing.assert_close(got[t], expected[t], rtol=1e-12, atol=1e-12)


def test_state_is_fresh_for_every_batch(snn, x):
    first = snn(x, time_steps=7)
    snn(torch.randn_like(x) * 10, time_steps=3)
    next(ts.simulate(snn, x, time_steps=9, checkpoints=(2, 9)))
    assert torch.equal(snn(x, time_steps=7), first)


def test_samples_do_not_see_each_other(snn, x):
    whole = snn(x, time_steps=7)
    alone = torch.cat([snn(sample[None], time_steps=7) for sample in x.flip(0)]).flip(0)
    torch.testing.assert_close(whole, alone, rtol=1e-12, atol=1e-12)


def test_constant_region_is_computed_once_and_the_read_out_once_per_checkpoint(snn, x):
    calls = {"0": 0, "3": 0, "6": 0}
    for name in calls:
        snn.graph.get_submodule(name).register_forward_hook(
            lambda *_, name=name: calls.__setitem__(name, calls[name] + 1)
        )
    list(ts.simulate(snn, x, time_steps=12, checkpoints=(3, 12), steps_per_call=4))
    assert calls == {"0": 1, "3": 3, "6": 2}


def test_error_falls_with_time(ann, x):
    snn = ts.convert(ann, ts.RobustNorm(percentile=1.0), calibration=[x])
    expected = ann(x)
    errors = {
        t: (y - expected).abs().mean().item() for t, y in ts.simulate(snn, x, time_steps=512, checkpoints=(4, 32, 512))
    }
    assert errors[512] < errors[32] < errors[4]
    assert errors[512] < 0.02 * expected.abs().max()


def steps_of(snn, x, steps):
    """Recover the output of each step from the running means."""
    means = curve(snn, x, steps)
    sums = [torch.zeros_like(means[1]), *(t * means[t] for t in range(1, steps + 1))]
    return torch.stack([after - before for before, after in zip(sums, sums[1:], strict=False)])


def test_delay_leaves_out_the_first_steps(snn, x):
    outputs = steps_of(snn, x, 12)
    for t, y in ts.simulate(snn, x, time_steps=12, checkpoints=(6, 9, 12), delay=5, steps_per_call=4):
        torch.testing.assert_close(y, outputs[5:t].mean(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("estimate", [0, 3, 9])
def test_automatic_delay_averages_at_least_four_steps(snn, x, estimate):
    object.__setattr__(snn.conversion, "delay", estimate)
    outputs = steps_of(snn, x, 16)
    for t, y in curve(snn, x, 16, delay="auto").items():
        start = max(t - 4, 0) if t < estimate + 4 else estimate
        torch.testing.assert_close(y, outputs[start:t].mean(0), rtol=1e-9, atol=1e-9)


def test_estimate_of_the_delay_sums_along_the_chain(ann, x):
    snn = ts.convert(ann, ts.LTB(batches=5), calibration=[x])
    theta = list(snn.conversion.thresholds.values())
    pooled = torch.nn.functional.max_pool2d(ann[0](x), 2)
    first = pooled.clamp_min(0).minimum(theta[0])
    second = ann[3](first)
    waits = [
        (theta[0] / 2).mean() / pooled.clamp_min(0).mean((0, 2, 3)).max(),
        (theta[1] / 2).mean() / second.clamp_min(0).mean((0, 2, 3)).max(),
    ]
    assert snn.conversion.delay == int(sum(waits))


@pytest.mark.parametrize(
    "settings",
    [
        {"time_steps": 0}, {"time_steps": -3}, {"time_steps": 2.5}, {"time_steps": True}, {"time_steps": 4, "delay": 4},
        {"time_steps": 4, "delay": 9}, {"time_steps": 4, "engine": "count"}, {"time_steps": 4, "delay": "later"},
        {"time_steps": 4, "steps_per_call": 0}, {"time_steps": 4, "engine": "gpu"}, {"time_steps": 4, "checkpoints": (5,)},
        {"time_steps": 4, "checkpoints": (0, 4)},
    ],
)  # fmt: skip
def test_refuses_settings_out_of_range(snn, x, settings):
    with pytest.raises(OptionError) as caught:
        ts.simulate(snn, x, **settings)
    assert caught.value.problems


def test_automatic_delay_needs_an_estimate(snn, x):
    snn.conversion = dataclasses.replace(snn.conversion, delay=None)
    with pytest.raises(OptionError, match="calibration=loader"):
        snn(x, time_steps=4, delay="auto")


@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 1, 8), (0, 1, 8, 8), (2, 3, 8, 8), (2, 1, 2, 2)])
def test_refuses_a_batch_that_does_not_fit(snn, shape):
    with pytest.raises(SimulationError):
        snn(torch.zeros(shape, dtype=torch.float64), time_steps=2)


def test_refuses_integer_input(snn):
    with pytest.raises(SimulationError):
        snn(torch.zeros(2, 1, 8, 8, dtype=torch.long), time_steps=2)


def test_pooling_currents_is_exact_where_they_are_constant_and_biased_upward_elsewhere():
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    weights = nn.Conv2d(1, 3, 3).double()
    ann = nn.Sequential(weights, nn.ReLU(), nn.MaxPool2d(2))
    snn = ts.convert(ann, ts.RobustNorm(percentile=1.0), calibration=[x])
    assert (snn(x, time_steps=2000) - ann(x)).abs().max() < 2e-3 * snn.conversion.thresholds["1"].max()
    currents = torch.randn(50, 4, 3, 6, 6, dtype=torch.float64)
    pool = nn.functional.max_pool2d
    assert (torch.stack([pool(c, 2) for c in currents]).mean(0) >= pool(currents.mean(0), 2) - 1e-12).all()


def test_phase_code_stays_finite_for_any_t():
    ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(32, 4)
    snn = ts.convert(
        ann,
        ts.SNM(batches=1).using(neuron=ts.NeuronModel(signed=True, code="phase", ratio=0.5)),
        calibration=[x],
        progress=False,
    )
    outputs = dict(ts.simulate(snn, x, time_steps=256, checkpoints=(64, 256)))
    assert all(y.isfinite().all() for y in outputs.values())
    torch.testing.assert_close(outputs[64], outputs[256], atol=1e-4, rtol=1e-4)


def test_large_maps_are_stepped_in_small_chunks():
    snn = ts.convert(
        nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
        ts.LTB(batches=1),
        calibration=[torch.randn(2, 1, 256, 256)],
        progress=False,
    )
    assert sizes_of_calls(snn, 1, 8) == sizes_of_calls(snn, 9, 8) == (1, 3)
    small = ts.convert(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU()), ts.LTB(batches=1), calibration=[torch.randn(32, 4)], progress=False
    )
    assert sizes_of_calls(small, 1000, 8) == (1000, 8)
    assert sizes_of_calls(small, 10**6, 8) == (6_500_000 // 8 // 8, 8)


@pytest.mark.parametrize("engine", ["float", "int8"])
def test_large_batches_run_in_parts(snn, x, engine, monkeypatch):
    whole, counts = curve(snn, x, 8, engine=engine), Counts()
    monkeypatch.setattr(
        "tospike.run.simulate.VALUES_AT_ONCE", 2 * 8 * 36
    )  # two samples of the first layer, eight steps
    assert sizes_of_calls(snn, 5, 8) == (2, 8)
    parts = curve(snn, x, 8, engine=engine, counts=counts)
    for t in whole:
        torch.testing.assert_close(parts[t], whole[t], rtol=1e-12, atol=1e-12)
    assert counts.samples == 5


def test_a_machine_without_memory_is_told_what_to_do(snn, x, monkeypatch):
    def fail(*_):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried ..."
        )

    monkeypatch.setattr(snn.graph.get_submodule("3"), "forward", fail)
    with pytest.raises(SimulationError, match="steps_per_call"):
        snn(x, time_steps=4)


class _Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 3, 3, 2), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


@pytest.mark.parametrize(
    "method",
    [
        ts.RobustNorm(granularity="neuron"),
        ts.RobustNorm(granularity="neuron").using(neuron=ts.NeuronModel(synchronous=True)),
        ts.AdvancedCalibration(time_steps=4),
    ],
)
@pytest.mark.parametrize("shape", [(9, 13), (3, 3)])
def test_values_of_single_neurons_refuse_maps_of_another_size(method, shape):
    x = torch.randn(8, 1, 9, 9)
    snn = ts.convert(_Maps(), method, calibration=[x], progress=False)
    assert snn(x, time_steps=4).shape == (8, 2, 4, 4)
    with pytest.raises(SimulationError, match="maps of one size") as caught:
        snn(torch.randn(2, 1, *shape), time_steps=4)
    text = str(caught.value)
    assert ("start" if method.name == "advanced-calibration" else "threshold") in text
    assert "Site relu" in text
    assert "(3, 4, 4)" in text
    assert "per channel or layer" in text


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_shared_thresholds_fit_maps_of_any_size(granularity):
    x = torch.randn(8, 1, 9, 9)
    ann = _Maps().eval()
    snn = ts.convert(ann, ts.RobustNorm(percentile=1.0, granularity=granularity), calibration=[x], progress=False)
    other = torch.randn(2, 1, 15, 11)
    with torch.no_grad():
        assert (snn(other, time_steps=512) - ann(other)).norm() < 0.2 * ann(other).norm()
