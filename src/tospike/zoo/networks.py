"""The networks of the conversion papers, as plain PyTorch modules that any method can prepare or convert.

Every activation is a module of its own, so a converted network has one neuron layer for each of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from torch import Tensor, nn

from tospike.errors import OptionError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a shortcut, then ReLU.

    The shortcut is the identity, or a 1x1 convolution with batch norm where stride or width change.

    Args:
        inputs: Channels of the input ``[N, inputs, H, W]``.
        outputs: Channels of the output ``[N, outputs, H / stride, W / stride]``.
        stride: Stride of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations of the block."""
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A residual network for small images: 3x3 stride-1 stem, groups of `BasicBlock`, average pool, linear.

    Args:
        blocks: Number of blocks of each group; every group but the first starts with stride 2.
        widths: Channels of each group; the stem has the first of them.
        classes: Number of logits.
        channels: Channels of the image.
        stem_pool: Halve the stem's output with a 3x3 max-pool of stride 2.
    """

    def __init__(
        self, blocks: Sequence[int], widths: Sequence[int], classes: int, channels: int, stem_pool: bool = False
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        if stem_pool:
            self.stem.append(nn.MaxPool2d(3, 2, 1))
        self.groups = nn.Sequential()
        inputs = widths[0]
        for group, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for block in range(count):
                self.groups.append(BasicBlock(inputs, width, 2 if group and not block else 1))
                inputs = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, classes]`` for images ``[N, channels, H, W]``."""
        return self.fc(self.flatten(self.pool(self.groups(self.stem(x)))))  # type: ignore[no-any-return]


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def resnet20(
    classes: int = 10, channels: int = 3, widths: Sequence[int] = (16, 32, 64), stem_pool: bool = False
) -> ResNet:
    """Build the CIFAR ResNet-20: three groups of three blocks; ``widths=(64, 128, 256)`` is the wide one."""
    return ResNet((3, 3, 3), widths, classes, channels, stem_pool)
