"""Networks that act: from an observation to an action."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def actor(inputs: int = 11, outputs: int = 3, widths: Sequence[int] = (256, 256)) -> nn.Sequential:
    """Build a policy for actions in [−1, 1]: linear layers with ReLU, and a tanh at the end.

    Example:
        >>> import torch
        >>> actor(11, 3)(torch.zeros(2, 11)).shape
        torch.Size([2, 3])
    """
    network = nn.Sequential()
    for width in widths:
        network.extend([nn.Linear(inputs, width), nn.ReLU()])
        inputs = width
    return network.extend([nn.Linear(inputs, outputs), nn.Tanh()])
