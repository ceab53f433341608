"""The networks of the conversion papers, as plain PyTorch modules that any method can prepare or convert.

Every activation is a module of its own, so a converted network has one neuron layer for each of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from tospike.errors import OptionError, refuse_unknown


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


class VGG(nn.Module):
    """VGG-16 with batch norm: 13 convolutions in five groups, each closed by a 2x2 max-pool, then three linear layers.

    Args:
        classes: Number of logits.
        channels: Channels of the image.
        image_size: Height and width of the image, a multiple of 32.

    Raises:
        OptionError: The image does not survive five halvings.

    Source:
        Bu et al., "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural networks", 2022.
        Differs: the pools are max-pools here; preparing the network replaces them, as the authors do. Dropout, whose
        probability is 0 there, is left out.
    """

    def __init__(self, classes: int, channels: int, image_size: int) -> None:
        super().__init__()
        if image_size < 32 or image_size % 32:
            raise OptionError(
                "VGG-16 halves its image five times", got=f"image_size={image_size}", expected="a multiple of 32",
                remedy="Resize or pad the images, for example to 32 or 224.",
            )  # fmt: skip
        self.features = nn.Sequential()
        inputs = channels
        for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(count):
                self.features.extend([nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()])
                inputs = width
            self.features.append(nn.MaxPool2d(2))
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs * (image_size // 32) ** 2, 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, classes),
        )
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, classes]`` for images ``[N, channels, image_size, image_size]``."""
        return self.classifier(self.features(x))  # type: ignore[no-any-return]


def resnet20(
    classes: int = 10, channels: int = 3, widths: Sequence[int] = (16, 32, 64), stem_pool: bool = False
) -> ResNet:
    """Build the ResNet-20 of small images: three groups of three blocks; ``widths=(64, 128, 256)`` is the wide one.

    Example:
        >>> import torch
        >>> resnet20(channels=1, stem_pool=True)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    return ResNet((3, 3, 3), widths, classes, channels, stem_pool)


def resnet18(classes: int = 10, channels: int = 3, stem_pool: bool = False) -> ResNet:
    """Build the ResNet-18 of small images: 3x3 stem, four groups of two blocks, 64 to 512 channels."""
    return ResNet((2, 2, 2, 2), (64, 128, 256, 512), classes, channels, stem_pool)


def resnet34(classes: int = 10, channels: int = 3, stem_pool: bool = False) -> ResNet:
    """Build the ResNet-34 of the QCFS paper: its 3x3 stem of stride 1 makes it 16 times the usual work on ImageNet."""
    return ResNet((3, 4, 6, 3), (64, 128, 256, 512), classes, channels, stem_pool)


def vgg16(classes: int = 10, channels: int = 3, image_size: int = 32) -> VGG:
    """Build VGG-16 with batch norm, for square images whose side is a multiple of 32."""
    return VGG(classes, channels, image_size)


def digits_net(classes: int = 10, channels: int = 1) -> nn.Sequential:
    """Build three convolutions with batch norm, a max-pool and a linear layer, for 8x8 digits."""
    network = nn.Sequential()
    inputs = channels
    for width in (16, 32, 64):
        network.extend([nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()])
        inputs = width
        if width == 32:
            network.append(nn.MaxPool2d(2))
    network.extend([nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * inputs, classes)])
    _initialise(network)
    return network


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


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    builder.__name__: builder for builder in (resnet20, resnet18, resnet34, vgg16, digits_net, actor)
}


def available() -> tuple[str, ...]:
    """Return the names that `build` knows."""
    return tuple(_BUILDERS)


def build(name: str, **options: Any) -> nn.Module:
    """Build a network by name, with fresh weights.

    Args:
        name: One of `available`.
        options: Keyword arguments of the function of that name.

    Raises:
        OptionError: The name, or an option of it, is unknown.

    Example:
        >>> sum(parameter.numel() for parameter in build("resnet20", classes=100).parameters())
        278324
    """
    refuse_unknown("network", name, _BUILDERS)
    refuse_unknown(f"option of the network {name}", options, inspect.signature(_BUILDERS[name]).parameters)
    return _BUILDERS[name](**options)
