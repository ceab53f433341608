"""Detectors: torchvision's FCOS on a small residual backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tospike.errors import missing_extra
from tospike.zoo.networks.dense import convolution
from tospike.zoo.networks.images import BasicBlock, initialise


class PyramidBackbone(nn.Module):
    """Maps of features at strides 4, 8 and 16, each as wide as the others, that hand what they know down to the finer one.

    ``P5 = lateral(C5);  P4 = lateral(C4) + up(P5);  P3 = lateral(C3) + up(P4)``, each smoothed by a 3x3 convolution

    Args:
        channels: Channels of the image ``[N, channels, H, W]``, H and W multiples of 16.
        widths: Channels of stem and groups.
        outputs: Channels of every map.

    Source: Lin et al., "Feature pyramid networks for object detection", CVPR 2017. Differs from the paper in: the backbone.
    """

    def __init__(self, channels: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.out_channels = outputs  # what torchvision's detectors ask for
        self.stem = convolution(channels, widths[0], stride=2)
        self.groups, self.lateral, self.smooth = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        inputs = widths[0]
        for width in widths:
            self.groups.append(nn.Sequential(BasicBlock(inputs, width, 2), BasicBlock(width, width, 1)))
            self.lateral.append(nn.Conv2d(width, outputs, 1))
            self.smooth.append(nn.Conv2d(outputs, outputs, 3, padding=1))
            inputs = width
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        initialise(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the maps, finest first."""
        maps = []
        x = self.stem(x)
        for group in self.groups:
            x = group(x)
            maps.append(x)
        coarser: Tensor | None = None
        found = []
        for level in reversed(range(len(maps))):
            lateral = self.lateral[level](maps[level])
            coarser = lateral if coarser is None else lateral + self.up(coarser)
            found.append(self.smooth[level](coarser))
        return {str(level): one for level, one in enumerate(reversed(found))}


def fcos(
    classes: int = 11, channels: int = 3, widths: Sequence[int] = (16, 32, 64), outputs: int = 64, image_size: int = 96
) -> Any:
    """Build torchvision's FCOS for small images: strides 4, 8, 16, and no resize of images of `image_size`.

    Args:
        classes: Number of classes, background included.
        channels: Channels of the image.
        widths: Channels of stem and groups of the backbone.
        outputs: Channels of the pyramid and the head, a multiple of 32, since the head has group norms of 32 groups.
        image_size: Height and width of the images, a multiple of 32.

    Raises:
        MissingExtraError: torchvision is not installed.

    Source: Tian et al., "FCOS", ICCV 2019, as in torchvision. Differs from it in: backbone and sizes.
    """
    try:
        from torchvision.models.detection import FCOS  # type: ignore[import-untyped]
        from torchvision.models.detection.anchor_utils import AnchorGenerator  # type: ignore[import-untyped]
    except ImportError as error:
        raise missing_extra("torchvision", "vision", "FCOS") from error
    anchors = AnchorGenerator(sizes=((8,), (16,), (32,)), aspect_ratios=((1.0,),) * 3)
    return FCOS(
        PyramidBackbone(channels, widths, outputs), classes, anchor_generator=anchors, min_size=image_size, max_size=image_size,
        image_mean=[0.37] * channels, image_std=[0.14] * channels, topk_candidates=100, detections_per_img=20, score_thresh=0.1,
    )  # fmt: skip
