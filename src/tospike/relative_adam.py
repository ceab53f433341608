"""Adam for tensors of different size: each step is a share of what it changes."""

from __future__ import annotations

from typing import Any

import torch

LEAST = 1e-3  # root mean square that a tensor is taken to have at least, so that zeros can change


class RelativeAdam(torch.optim.Adam):
    """Adam with steps in proportion to the tensors as they were at the first step.

    ``Δw = −lr·s·m̂/(√v̂ + ε)``, ``s = √(mean w²)`` of a tensor at the first step. So weights, thresholds and potentials move at the same pace.

    Args:
        params: What is trained.
        lr: Largest step, as a share.
        options: Other arguments of `torch.optim.Adam`.

    Source: Adam: Kingma and Ba, ICLR 2015; steps in proportion to the size of weights: You et al., "Large batch optimization for deep
    learning", ICLR 2020 (LAMB). Differs from the papers in: sizes are those at the first step, and root mean squares.

    Example:
        >>> w, theta = torch.nn.Parameter(torch.tensor([3.0, -3.0])), torch.nn.Parameter(torch.tensor([0.1]))
        >>> optimizer = RelativeAdam([w, theta], lr=0.1)
        >>> (w.sum() + theta).backward(); optimizer.step()
        >>> w.detach(), theta.detach()
        (tensor([ 2.7000, -3.3000]), tensor([0.0900]))
    """

    def __init__(self, params: Any, lr: float, **options: Any) -> None:
        super().__init__(params, lr=lr, **options)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step."""
        changed = [one for group in self.param_groups for one in group["params"] if one.grad is not None]
        before = [one.detach().clone() for one in changed]
        super().step(closure)
        for one, old in zip(changed, before, strict=True):
            state = self.state[one]  # which checkpoints keep
            if "size" not in state:
                state["size"] = old.square().mean().sqrt().clamp_min(LEAST)
            one.copy_(old + state["size"] * (one - old))
