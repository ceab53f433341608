import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tospike as ts
from tospike.neurons.incremental import Running

FUNCTIONS = {
    "softmax": lambda a, b: a.softmax(-1), "product": lambda a, b: a * b, "maximum": lambda a, b: torch.maximum(a, b),
    "matmul": lambda a, b: a @ b.mT,
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
@given(seed=st.integers(0, 1000), chunks=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_running_mean_of_the_output_is_the_function_of_the_running_means(name, seed, chunks):
    generator = torch.Generator().manual_seed(seed)
    function, steps = FUNCTIONS[name], sum(chunks)
    a, b = (torch.randn(steps, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    emitted, done, state = [], 0, Running()
    for chunk in chunks:
        part = slice(done, done + chunk)
        means, sums = state.means({"a": a[part].flatten(0, 1), "b": b[part].flatten(0, 1)}, chunk)
        state, y = state.increments(function(means["a"], means["b"]), sums, chunk)
        emitted.append(y.reshape(chunk, 3, *y.shape[1:]))
        done += chunk
    running = torch.cat(emitted).cumsum(0)
    for t in range(1, steps + 1):
        wanted = function(a[:t].mean(0), b[:t].mean(0))
        np.testing.assert_allclose((running[t - 1] / t).numpy(), wanted.numpy(), atol=1e-9)


def test_outputs_may_be_nested_and_hold_what_is_no_signal():
    x = torch.arange(6.0).reshape(3, 2)
    means, sums = Running().means({"x": x}, 3)
    state, (first, rest) = Running().increments((means["x"], {"index": torch.tensor([1]), "none": None}), sums, 3)
    torch.testing.assert_close(first, x)
    assert rest["none"] is None
    assert rest["index"].item() == 1
    assert state.steps == 3


class Pooling(nn.Module):
    """Max-pools behind neurons: one that moves before them, and one, behind a batch norm of negative scale, that cannot."""

    def __init__(self, movable):
        super().__init__()
        self.a, self.norm, self.b, self.movable = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), movable
        self.fc = nn.Linear(4 * 25, 3)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.0, -1.0, 0.5, -0.5]))

    def forward(self, x):
        x = self.b(self.a(x).relu()).relu()
        x = x if self.movable else self.norm(x)
        return self.fc(nn.functional.max_pool2d(x, 2).flatten(1))


@pytest.mark.parametrize("movable", [True, False])
def test_a_max_pool_inside_a_network_is_exact_in_the_running_mean(movable):
    ann, x = Pooling(movable).eval(), torch.randn(6, 1, 14, 14)
    errors = {}
    for pool in ("running", "step") if movable else ("running",):
        method = ts.RobustNorm(percentile=1.0, granularity="neuron").using(pool=pool)
        snn = ts.convert(ann, method, calibration=[x], analog=[] if movable else ["max_pool2d"])
        with torch.no_grad():
            errors[pool] = float((snn(x, time_steps=512) - ann(x)).norm() / ann(x).norm())
    assert errors["running"] < 0.03
    assert errors.get("step", 1.0) > 2 * errors["running"]
    assert bool(snn.conversion.analog) is not movable
