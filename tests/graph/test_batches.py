"""Batches in parts: split by samples, and outputs put together again."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tospike.graph.batches import divide, join


@given(samples=st.integers(1, 40), size=st.integers(1, 50))
def test_parts_are_at_most_so_large_and_nearly_equal(samples, size):
    inputs = {"a": torch.arange(samples), "b": torch.arange(2 * samples).view(samples, 2)}
    parts = list(divide(inputs, size))
    sizes = [len(part["a"]) for part in parts]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-samples // size)
    for name, value in inputs.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value)
    assert all(len(part["b"]) == count for part, count in zip(parts, sizes, strict=True))


class Pair(NamedTuple):
    maps: torch.Tensor
    rest: torch.Tensor | None


@pytest.mark.parametrize(
    "nest", [lambda x: x, lambda x: {"out": x, "aux": [x + 1]}, lambda x: (x, x * 2), lambda x: Pair(x, None)]
)
def test_outputs_of_parts_are_put_together_in_the_form_that_they_have(nest):
    x = torch.randn(5, 3)
    found, wanted = join([nest(part) for part in x.split(2)]), nest(x)
    assert type(found) is type(wanted)
    torch.testing.assert_close(found, wanted)
