"""Counts of spikes by step and position, in every order of memory, against a comparison of all values."""

import pytest
import torch

from tospike.run import tally as module
from tospike.run.tally import tally


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.float16])
@pytest.mark.parametrize("shape", [(12, 5, 9, 7), (3 * 300, 4, 6, 6), (12, 70, 80), (12, 5000), (3 * 15000,)])
@pytest.mark.parametrize("compiled", [True, False])
def test_every_value_that_is_not_silent_counts_once(shape, dtype, compiled, monkeypatch):
    monkeypatch.setattr(module, "SMALLEST", 1 if compiled else 10**9)
    monkeypatch.setattr(module, "SHARE", 1000)
    x = torch.randint(0, 3, shape).to(dtype)
    orders = [x]
    if x.ndim > 2:
        orders += [
            x.movedim(1, -1).contiguous().movedim(-1, 1),
            x.flip(0).flip(0).transpose(0, -1).contiguous().transpose(0, -1),
        ]
    for zero in (0, 1):
        wanted = torch.stack([step.transpose(0, 1).flatten(2).ne(zero).sum((0, 1)) if x.ndim > 2 else step.ne(zero).sum()[None]
                              for step in x.unflatten(0, (3, -1))])  # fmt: skip
        for values in orders:
            assert torch.equal(tally(values, 3, zero), wanted)


def test_a_signal_that_is_constant_in_time_counts_at_every_step():
    x = (torch.rand(2, 3, 80, 80) < 0.3).float()
    counts = tally(x.expand(4, *x.shape).flatten(0, 1), 4)
    assert torch.equal(counts, x.sum((0, 1)).flatten().long().expand(4, -1))
