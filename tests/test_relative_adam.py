"""Adam with relative steps against its formula, and across checkpoints."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from references.relative_adam import relative_adam
from tospike.relative_adam import RelativeAdam


@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.floats(1e-3, 0.5),
    st.sampled_from([0.0, 1e-5, 1.0, 100.0]),
    st.integers(0, 9),
)
def test_steps_follow_the_formula(length, count, lr, size, seed):
    torch.manual_seed(seed)
    w = nn.Parameter(size * torch.randn(length, dtype=torch.float64))
    grads = torch.randn(count, length, dtype=torch.float64)
    wanted = relative_adam(w.tolist(), grads.tolist(), lr)
    optimizer = RelativeAdam([w], lr)
    for grad in grads:
        w.grad = grad
        optimizer.step()
    np.testing.assert_allclose(w.detach().numpy(), wanted, rtol=1e-6, atol=1e-9)


def test_what_has_no_gradient_stays():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = RelativeAdam([a, b], 0.1)
    a.sum().backward()
    optimizer.step()
    torch.testing.assert_close(a.detach(), torch.full((2,), 0.9))
    assert torch.equal(b.detach(), torch.ones(2))


def test_a_resumed_optimizer_keeps_the_sizes():
    def advance(w, optimizer, steps):
        for _ in range(steps):
            w.grad = 2 * w.detach()
            optimizer.step()

    whole = nn.Parameter(torch.tensor([3.0, 0.2]))
    optimizer = RelativeAdam([whole], 0.3)
    advance(whole, optimizer, 2)
    kept, resumed = copy.deepcopy(optimizer.state_dict()), nn.Parameter(whole.detach().clone())
    again = RelativeAdam([resumed], 0.3)
    again.load_state_dict(kept)
    advance(whole, optimizer, 3)
    advance(resumed, again, 3)
    assert torch.equal(whole, resumed)
    assert float(optimizer.state[whole]["size"]) == pytest.approx(np.sqrt((9 + 0.04) / 2))
