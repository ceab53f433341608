import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import tospike as ts
from tospike.neurons import fused, maximum
from tospike.neurons.incremental import Running
from tospike.run.arithmetic import arithmetic_of

NUMBERS = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def by_steps(pool, x, chunks):
    """What `Running` emits in chunks ``[t·N, C, H, W]`` of currents ``[T, N, C, H, W]``, as one tensor ``[T, N, ...]``."""
    state, emitted = Running(homogeneous=True), []
    for part in x.split(chunks):
        means, sums = state.means({"x": part.flatten(0, 1)}, len(part))
        state, y = state.increments(pool(means["x"]), sums, len(part))
        emitted.append(y.unflatten(0, (len(part), -1)))
    return torch.cat(emitted)


def by_kernel(pool, x, chunks):
    state, emitted = Running(homogeneous=True), []
    for part in x.split(chunks):
        state, y = maximum.advance(pool, "x", part.flatten(0, 1), state, len(part))
        emitted.append(y.unflatten(0, (len(part), -1)))
    return torch.cat(emitted)


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000), samples=st.integers(1, 3), channels=st.integers(1, 5), size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    window=st.tuples(st.integers(1, 3), st.integers(1, 3)), stride=st.integers(1, 3), padding=st.integers(0, 1), dilation=st.integers(1, 2),
    ceil_mode=st.booleans(), chunks=st.lists(st.integers(1, 3), min_size=1, max_size=3), number=st.sampled_from(sorted(NUMBERS)),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)  # fmt: skip
def test_the_kernel_emits_what_the_steps_in_torch_do(
    seed, samples, channels, size, window, stride, padding, dilation, ceil_mode, chunks, number, layout
):
    assume(2 * padding <= min(window))
    assume(all(length + 2 * padding > dilation * (w - 1) for length, w in zip(size, window, strict=True)))
    pool = nn.MaxPool2d(window, stride, padding, dilation, ceil_mode=ceil_mode)
    x = torch.randn(sum(chunks) * samples, channels, *size, generator=torch.Generator().manual_seed(seed))
    x = x.to(NUMBERS[number]).contiguous(memory_format=layout).unflatten(0, (-1, samples))
    wanted = by_steps(pool, x.float() if number == "bfloat16" else x, chunks)
    assert torch.equal(by_kernel(pool, x, chunks), wanted)


def test_what_is_no_number_is_not_hidden():
    x = torch.zeros(1, 1, 1, 2, 4)
    x[..., 0, 1] = torch.nan
    assert by_kernel(nn.MaxPool2d(2), x, [1]).isnan().flatten().tolist() == [True, False]


class Pooled(nn.Module):
    """A max-pool as a module or as a function, between two layers with neurons."""

    def __init__(self, module):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)
        self.pool = nn.MaxPool2d(3, 2, 1) if module else None

    def forward(self, x):
        x = self.b(self.a(x).relu()).relu()
        x = nn.functional.max_pool2d(x, 3, 2, padding=1) if self.pool is None else self.pool(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("module", [True, False])
@pytest.mark.parametrize("pool", ["running", "step"])
@pytest.mark.parametrize("engine", ["float", "int8", "int16"])
def test_a_network_gives_the_same_with_and_without_the_kernel(monkeypatch, module, pool, engine):
    torch.manual_seed(0)
    ann, x = Pooled(module).eval(), torch.rand(8, 1, 16, 16)
    snn = ts.convert(ann, ts.RobustNorm().using(pool=pool), calibration=[x], progress=False)
    calls = []
    real = maximum.advance
    monkeypatch.setattr(maximum, "advance", lambda *args: calls.append(1) or real(*args))
    outputs = {}
    for name, smallest in (("kernel", 0), ("torch", 2**40)):
        monkeypatch.setattr(fused, "SMALLEST", smallest)
        outputs[name] = [dict(ts.simulate(snn, x, time_steps=6, steps_per_call=n, engine=engine))[6] for n in (2, 6)]
    assert len(calls) == (4 if pool == "running" else 0)  # chunks of 2 and of 6 steps
    for made in (*outputs["kernel"], *outputs["torch"]):
        torch.testing.assert_close(made, outputs["torch"][0], rtol=1e-5, atol=1e-6)  # layouts of maps differ


@pytest.mark.parametrize("pool", ["running", "step"])
def test_a_layer_before_a_max_pool_writes_half_the_memory(pool):
    torch.manual_seed(0)
    ann, x = Pooled(module=True).eval(), torch.rand(8, 1, 16, 16)
    snn = ts.convert(ann, ts.RobustNorm().using(pool=pool), calibration=[x], progress=False)
    list(ts.simulate(snn, x, time_steps=4, engine="int8"))
    assert arithmetic_of(snn, "int8").choices["b"].written == "bfloat16"
