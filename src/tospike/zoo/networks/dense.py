"""Networks that answer for every pixel: FCN-style and DeepLab-style segmenters on a small residual backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tospike.zoo.networks.images import BasicBlock, initialise


def convolution(inputs: int, outputs: int, kernel: int = 3, dilation: int = 1, stride: int = 1) -> nn.Sequential:
    """Return convolution, batch norm and ReLU that keep the size of a map, but for the stride."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Backbone(nn.Module):
    """The residual groups of a ResNet-20 as a map of features: stride 2 in stem and second group, dilation 2 in the third.

    Args:
        channels: Channels of the image ``[N, channels, H, W]``.
        widths: Channels of stem and groups; the map is ``[N, widths[-1], H / 4, W / 4]``.
        blocks: Blocks of each group.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: int = 3) -> None:
        super().__init__()
        self.stem = convolution(channels, widths[0], stride=2)
        self.groups = nn.Sequential()
        inputs = widths[0]
        for group, width in enumerate(widths):
            for block in range(blocks):
                self.groups.append(
                    BasicBlock(inputs, width, 2 if group == 1 and not block else 1, 2 if group == 2 else 1)
                )
                inputs = width

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of features."""
        return self.groups(self.stem(x))  # type: ignore[no-any-return]


class Pyramid(nn.Module):
    """Views of a map at several distances, side by side: 1x1, dilated 3x3, and the mean over the whole map.

    Args:
        inputs: Channels of the map.
        outputs: Channels of each view, and of their projection ``[N, outputs, H, W]``.
        rates: Dilations.

    Source: Chen et al., "Rethinking atrous convolution for semantic image segmentation", 2017. Differs from the paper in: widths and rates.
    """

    def __init__(self, inputs: int, outputs: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.views = nn.ModuleList(
            [convolution(inputs, outputs, 1), *(convolution(inputs, outputs, 3, rate) for rate in rates)]
        )
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), convolution(inputs, outputs, 1))
        self.project = convolution(outputs * (len(rates) + 2), outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the projected views."""
        mean = functional.interpolate(self.mean(x), size=x.shape[-2:], mode="nearest")
        return self.project(torch.cat([*(view(x) for view in self.views), mean], 1))  # type: ignore[no-any-return]


class Segmenter(nn.Module):
    """A backbone, a head, and a bilinear resize back to the size of the image.

    Args:
        backbone: Images to a map of features.
        head: That map to logits ``[N, classes, H', W']``.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, classes, H, W]`` for images ``[N, channels, H, W]``."""
        return functional.interpolate(
            self.head(self.backbone(x)), size=x.shape[-2:], mode="bilinear", align_corners=False
        )


def fcn(classes: int = 11, channels: int = 3, widths: Sequence[int] = (16, 32, 64)) -> Segmenter:
    """Build a fully convolutional segmenter for small images.

    Source: Long, Shelhamer and Darrell, "Fully convolutional networks for semantic segmentation", CVPR 2015. Differs from the paper in:
        the backbone; the head is that of torchvision, one 3x3 convolution and one 1x1.

    Example:
        >>> fcn()(torch.zeros(2, 3, 64, 48)).shape
        torch.Size([2, 11, 64, 48])
    """
    head = nn.Sequential(convolution(widths[-1], widths[-1] // 2), nn.Conv2d(widths[-1] // 2, classes, 1))
    return Segmenter(Backbone(channels, widths), head)


def deeplab(
    classes: int = 11, channels: int = 3, widths: Sequence[int] = (16, 32, 64), rates: Sequence[int] = (2, 4, 6)
) -> Segmenter:
    """Build a segmenter with a pyramid of dilated convolutions, for small images.

    Example:
        >>> deeplab()(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 11, 64, 64])
    """
    width = widths[-1] // 2
    head = nn.Sequential(Pyramid(widths[-1], width, rates), convolution(width, width), nn.Conv2d(width, classes, 1))
    return Segmenter(Backbone(channels, widths), head)
