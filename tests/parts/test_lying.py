"""Statistics by the compiled kernels and by torch, in every order of memory, against one formula."""

import pytest
import torch

from tospike.parts import lying
from tospike.parts.lying import count_above, excess, largest, side_by_side, spans

AXES = {"channel": (0, 2, 3), "layer": (0, 1, 2, 3), "neuron": (0,)}


@pytest.mark.parametrize("granularity", AXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("shape", [(40, 3, 17, 19), (9, 1500, 2, 3)])
def test_every_order_of_memory_gives_the_same(granularity, dtype, last, shape):
    z = torch.randn(shape, dtype=dtype)
    z = z.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    axes = AXES[granularity]
    theta = torch.rand_like(z.amax(axes, keepdim=True)[0])
    assert (side_by_side(z, axes) is None) == (granularity == "neuron" or (granularity == "channel" and not last))
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {}
    torch.testing.assert_close(excess(z, theta, axes), (z - theta).clamp_min(0).sum(axes, keepdim=True)[0], **close)
    assert torch.equal(count_above(z, theta, axes), (z > theta).sum(axes, keepdim=True)[0].double())
    assert torch.equal(largest(z, axes), z.amax(axes).flatten().clamp_min(0))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("last", [True, False])
def test_what_is_no_number_is_never_lost(wrong, last):
    z = torch.randn(40, 4, 16, 16)
    z[3, 2, 5, 5] = wrong
    z = z.contiguous(memory_format=torch.channels_last) if last else z
    axes, theta = AXES["channel"], torch.ones(4, 1, 1)
    assert [bool(x.isfinite()) for x in excess(z, theta, axes)] == [True, True, False, True]
    assert [bool(x.isfinite()) for x in largest(z, axes)] == [True, True, False, True]
    z[3, 1, 5, 5] = -float("inf")  # which a rectifier silences
    assert [bool(x.isfinite()) for x in largest(z, axes)] == [True, True, False, True]
    z[3, 1, 5, 5] = 0.0
    assert count_above(z, theta, axes)[2] == count_above(z.nan_to_num(9, 9), theta, axes)[2]


@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_sums_do_not_depend_on_the_number_of_threads(granularity, monkeypatch):
    z = torch.randn(50, 24, 30, 30).contiguous(memory_format=torch.channels_last)
    axes = AXES[granularity]
    theta = torch.rand_like(z.amax(axes, keepdim=True)[0])

    def statistics(parts):
        monkeypatch.setattr(lying, "spans", lambda size, groups: spans(size, groups, size // parts))
        monkeypatch.setattr(torch, "get_num_threads", lambda: parts)
        return excess(z, theta, axes), count_above(z, theta, axes), largest(z, axes)

    alone = statistics(1)
    for parts in (2, 3, 7):
        assert all(torch.equal(one, other) for one, other in zip(statistics(parts), alone, strict=True))
