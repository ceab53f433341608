"""Pure step functions of neurons: one potential and one current in, one emission and the new potential out."""

from __future__ import annotations

from torch import Tensor


def if_step(v: Tensor, x: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Advance integrate-and-fire neurons by one time step, with reset by subtraction.

    ``u = v + x``;  ``s = θ·1(u ≥ θ)``;  ``v' = u − s``

    Args:
        v: Membrane potential ``[N, ...]``, in units of the ANN's activation.
        x: Input current of this step, shaped like ``v``, same unit.
        threshold: θ > 0, broadcastable to one sample of ``v``, same unit.

    Returns:
        The spikes, 0 or θ, and the new potential, both shaped like ``v``.

    Source: Bu et al., ICLR 2022, equations 1 to 4. Differs from the paper in: nothing.

    Example:
        >>> import torch
        >>> if_step(torch.tensor([0.5]), torch.tensor([0.7]), torch.tensor(1.0))
        (tensor([1.]), tensor([0.2000]))
    """
    charged = v + x
    spikes = (charged >= threshold) * threshold
    return spikes, charged - spikes
