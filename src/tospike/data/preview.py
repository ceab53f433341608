"""A sheet of samples of a data set: what a network will see, and what it should say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tospike.data.base import Data
from tospike.errors import DataError, OptionError, is_count, require
from tospike.pictures import draw_boxes, draw_mask, sheet, to_image
from tospike.pictures.palette import IGNORE

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS, FRAMES = 4, 8  # images in a row; frames of a clip that are shown
Sample = tuple[int, tuple[Any, ...]]


def preview(found: Data, *, samples: int = 8, part: str = "test") -> Image:
    """Return a sheet of samples that lie evenly over a part of a set; what is drawn follows from the shape of a sample.

    Images are shown with the name of their class, masks in colours over their image with a legend, boxes with names, clips as
    rows of frames.

    Args:
        found: The set.
        samples: How many; all of them if there are fewer.
        part: "test" or "train".

    Raises:
        OptionError: A setting is out of its range.
        DataError: Samples have another shape.
        MissingExtraError: Pillow is not installed.

    Example:
        >>> from tospike import data
        >>> preview(data.load("digits"), samples=4).size
        (680, 196)
    """
    require(
        "the preview",
        ("samples", samples, is_count(samples), "an integer >= 1", 8),
        ("part", part, part in ("test", "train"), "'test' or 'train'", "test"),
    )
    chosen = found.test if part == "test" else found.train
    size = len(chosen)  # type: ignore[arg-type]
    count = min(samples, size)
    numbers = [place * size // count for place in range(count)]
    drawn = [(number, _parts(chosen[number])) for number in numbers]
    draw = _drawer(found, drawn[0][1])
    try:
        return draw(found, drawn)
    except OptionError as error:
        raise _strange(found, drawn[0][1]) from error


def _parts(sample: Any) -> tuple[Any, ...]:
    return (sample,) if isinstance(sample, Tensor) else tuple(sample)


def _drawer(found: Data, sample: tuple[Any, ...]) -> Callable[[Data, Sequence[Sample]], Image]:
    image, target = sample[0], sample[1] if len(sample) > 1 else None
    if isinstance(image, Tensor) and image.ndim == 4:
        return _clips
    if isinstance(target, Mapping) and {"boxes", "labels"} <= set(target):
        return _boxes
    if isinstance(target, Tensor) and target.ndim == 2 and not target.is_floating_point():
        return _masks
    if isinstance(image, Tensor) and (
        target is None or isinstance(target, int) or (isinstance(target, Tensor) and target.ndim == 0)
    ):
        return _images
    raise _strange(found, sample)


def _images(found: Data, samples: Sequence[Sample]) -> Image:
    names = [_name(found, sample[1]) if len(sample) > 1 else str(number) for number, sample in samples]
    return sheet(_in_rows([_picture(found, sample[0]) for _, sample in samples]), captions=_in_rows(names))


def _boxes(found: Data, samples: Sequence[Sample]) -> Image:
    shown, captions = [], []
    for number, (image, target, *_) in samples:
        names = [_name(found, label) for label in target["labels"]]
        shown.append(draw_boxes(_picture(found, image), target["boxes"], names, labels=target["labels"]))
        captions.append(f"{number}: {len(names)} box{'es' * (len(names) != 1)}")
    return sheet(_in_rows(shown), captions=_in_rows(captions))


def _masks(found: Data, samples: Sequence[Sample]) -> Image:
    rows: list[list[Image]] = []
    captions: list[list[str]] = []
    for band in _in_rows(samples):
        images = [_picture(found, sample[0]) for _, sample in band]
        rows += [images, [draw_mask(image, sample[1]) for image, (_, sample) in zip(images, band, strict=True)]]
        captions += [[str(number) for number, _ in band], [""] * len(band)]
    values = sorted({int(value) for _, sample in samples for value in torch.unique(sample[1])} - {0})
    names = {value: "ignored" if value == IGNORE else _name(found, value) for value in values}
    return sheet(rows, row_titles=["image", "mask"] * (len(rows) // 2), captions=captions, legend=names)


def _clips(found: Data, samples: Sequence[Sample]) -> Image:
    frames = samples[0][1][0].shape[1]
    shown = [place * frames // min(FRAMES, frames) for place in range(min(FRAMES, frames))]
    rows = [[_picture(found, sample[0][:, frame]) for frame in shown] for _, sample in samples]
    titles = [
        "\n".join([str(number), *(_name(found, label) for label in sample[1:2]), *(f"video {int(video)}" for video in sample[2:3])])
        for number, sample in samples
    ]  # fmt: skip
    return sheet(rows, [f"frame {frame}" for frame in shown], titles)


def _in_rows(samples: Sequence[Any]) -> list[Sequence[Any]]:
    return [samples[start : start + COLUMNS] for start in range(0, len(samples), COLUMNS)]


def _picture(found: Data, image: Tensor) -> Image:
    return to_image(image, found.mean, found.std)


def _name(found: Data, label: Any) -> str:
    number = int(label)
    return found.classes[number] if 0 <= number < len(found.classes) else str(number)


def _strange(found: Data, sample: tuple[Any, ...]) -> DataError:
    shapes = ", ".join(
        f"{type(part).__name__} {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
        for part in sample
    )
    return DataError(
        f"Samples of {found.name} cannot be drawn", got=shapes,
        expected="an image [1 or 3, H, W] alone, with a class, a mask [H, W] of integers, or a dict of boxes and labels; or a clip "
        "[1 or 3, F, H, W]", remedy="Draw them by tospike.pictures.",
    )  # fmt: skip
