"""The command that draws samples of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from tospike.cli.sources import data_of
from tospike.data.preview import preview as preview_of
from tospike.errors import require
from tospike.files import refuse_existing, replacing


def preview(
    data: str,
    out: str,
    root: str | None = None,
    data_options: dict[str, Any] | None = None,
    samples: int = 8,
    part: Literal["test", "train"] = "test",
    augment: bool = False,
    seed: int = 0,
    force: bool = False,
) -> int:
    """Draw samples of a data set with their classes, masks or boxes, and clips as rows of frames.

    Example: tospike preview fashion-mnist sheet.png

    Args:
        data: A name of a data set (fashion-mnist, voc-segmentation, coco-detection, kinetics, ...), or a folder of images.
        out: The picture, *.png.
        root: Folder that holds the data set; searched in the usual places when not given.
        data_options: Options of the data set, e.g. --data_options.size 256.
        samples: How many samples, which lie evenly over the part.
        part: The test or the training samples.
        augment: Show training samples as they are augmented.
        seed: Seed of the augmentation.
        force: Replace an existing picture.
    """
    require("the preview", ("out", out, Path(out).suffix == ".png", "a file *.png", "sheet.png"))
    refuse_existing(out, force)
    torch.manual_seed(seed)
    picture = preview_of(data_of(data, root, data_options, augment=augment), samples=samples, part=part)
    with replacing(out) as written:
        picture.save(written)
    Console().print(f"Picture: {out}", highlight=False)
    return 0
