"""Networks for clips: three-dimensional convolutions over frames, height and width."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from tospike.zoo.networks.images import initialise


class ClipBlock(nn.Module):
    """Two 3x3x3 convolutions with batch norm, added to a shortcut, then ReLU.

    Args:
        inputs: Channels of the input ``[N, inputs, F, H, W]``.
        outputs: Channels of the output ``[N, outputs, F / stride, H / stride, W / stride]``.
        stride: Stride of the first convolution and of the shortcut, along all three axes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU(),
            nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm3d(outputs),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations of the block."""
        return self.relu(self.body(x) + self.shortcut(x))  # type: ignore[no-any-return]


def clip_net(classes: int = 8, channels: int = 1, widths: Sequence[int] = (16, 32, 64)) -> nn.Sequential:
    """Build a small residual network of 3-d convolutions; its stem halves height and width, every block but the first all axes.

    Source: Tran et al., "A closer look at spatiotemporal convolutions for action recognition", CVPR 2018 (R3D). Differs from the paper in:
        depth and widths.

    Example:
        >>> import torch
        >>> clip_net()(torch.zeros(2, 1, 8, 32, 32)).shape
        torch.Size([2, 8])
    """
    network = nn.Sequential(
        nn.Conv3d(channels, widths[0], 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(widths[0]), nn.ReLU()
    )
    inputs = widths[0]
    for index, width in enumerate(widths):
        network.append(ClipBlock(inputs, width, 2 if index else 1))
        inputs = width
    network.extend([nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(inputs, classes)])
    initialise(network)
    return network
