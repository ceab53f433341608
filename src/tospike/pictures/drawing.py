"""Pictures of samples and of what networks say of them: images, masks over them, boxes with names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tospike.errors import require
from tospike.pictures.palette import IGNORE, IGNORED, colours
from tospike.pictures.sheets import fitted, font, pillow

if TYPE_CHECKING:
    from PIL.Image import Image

TEXT = 13  # height of the letters in a box


def to_image(pixels: Tensor, mean: Sequence[float] = (), std: Sequence[float] = ()) -> Image:
    """Return the picture of an image ``[C, H, W]``, with its normalisation undone; C is 1 or 3.

    Args:
        pixels: The image; what is beyond [0, 1] after all is clipped.
        mean: Mean of each channel that was subtracted, on the scale of [0, 1]; empty where the image is not normalised.
        std: Standard deviation of each channel that was divided by.

    Raises:
        OptionError: The shape is another one, or means and deviations do not fit it.
        MissingExtraError: Pillow is not installed.

    Example:
        >>> to_image(torch.ones(1, 4, 6), mean=(0.5,), std=(0.25,)).getpixel((0, 0))  # 0.75 of 255
        (191, 191, 191)
    """
    channels = pixels.shape[0] if pixels.ndim == 3 else 0
    require(
        "pictures",
        ("pixels", tuple(pixels.shape), channels in (1, 3), "an image [1, H, W] or [3, H, W]", (3, 224, 224)),
        ("mean, std", (mean, std), len(mean) == len(std) and len(mean) in (0, channels), "one for each channel, or none", ((), ())),
    )  # fmt: skip
    pixels = pixels.detach().float().cpu()
    if len(mean):
        pixels = pixels * torch.tensor(tuple(std)).view(-1, 1, 1) + torch.tensor(tuple(mean)).view(-1, 1, 1)
    values = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0)
    picture: Image = pillow().Image.fromarray(values.contiguous().numpy())
    return picture


def draw_mask(image: Image, mask: Tensor, opacity: float = 0.6, *, background: int | None = 0) -> Image:
    """Draw a mask of classes ``[H, W]`` over an image, each class in its colour of `colours`, and 255 in white.

    Args:
        image: The image; the mask is scaled to its size.
        mask: Class of each pixel, 0 to 255.
        opacity: Share of the colour in the picture, in [0, 1].
        background: Class where the image is left as it is; None draws all of them.

    Raises:
        OptionError: The shape or the opacity is out of its range.

    Example:
        >>> drawn = draw_mask(to_image(torch.zeros(3, 1, 2)), torch.tensor([[0, 1]]), opacity=1.0)
        >>> drawn.getpixel((0, 0)), drawn.getpixel((1, 0)) == tuple(colours(2)[1].tolist())
        ((0, 0, 0), True)
    """
    require(
        "the drawn mask",
        ("mask", tuple(mask.shape), mask.ndim == 2, "[H, W]", (224, 224)),
        ("opacity", opacity, 0 <= opacity <= 1, "a share in [0, 1]", 0.6),
    )
    images = pillow().Image
    classes = mask.detach().cpu().long()
    table = torch.cat([colours(IGNORE), torch.tensor([IGNORED], dtype=torch.uint8)])
    shown = (
        torch.full_like(classes, round(opacity * 255))
        if background is None
        else (classes != background) * round(opacity * 255)
    )
    colour, share = (
        images.fromarray(values.contiguous().numpy()).resize(image.size, images.Resampling.NEAREST)
        for values in (table[classes.clamp(0, IGNORE)], shown.to(torch.uint8))
    )
    drawn: Image = images.composite(colour, image.convert("RGB"), share)
    return drawn


def draw_boxes(
    image: Image, boxes: Tensor, names: Sequence[str], scores: Tensor | None = None, *, labels: Tensor | None = None
) -> Image:
    """Draw boxes with their names into an image, which is brought to the size of a sheet first, so that names stay readable.

    Args:
        image: The image.
        boxes: ``[K, 4]``: left, top, right and bottom in pixels of the image.
        names: Name of each box.
        scores: ``[K]``, written behind the names.
        labels: Class of each box ``[K]``, which chooses its colour; when not given, equal names have one colour.

    Raises:
        OptionError: The numbers of boxes, names, scores and labels differ.

    Example:
        >>> draw_boxes(to_image(torch.zeros(3, 40, 80)), torch.tensor([[10.0, 5, 30, 20]]), ["dog"], torch.tensor([0.9])).size
        (160, 80)
    """
    require(
        "drawn boxes",
        ("boxes", tuple(boxes.shape), boxes.ndim == 2 and boxes.shape[1] == 4, "[K, 4]", (2, 4)),
        *((what, len(given), len(given) == len(boxes), f"one for each of {len(boxes)} boxes", len(boxes))
          for what, given in (("names", names), ("scores", scores), ("labels", labels)) if given is not None),
    )  # fmt: skip
    drawn = fitted(image.convert("RGB")).copy()
    draw, scale = pillow().ImageDraw.Draw(drawn), drawn.width / image.width
    known = list(dict.fromkeys(names))
    numbers = [known.index(name) for name in names] if labels is None else labels.tolist()
    table = colours(max(numbers, default=0) + 1).tolist()
    texts = (
        list(names)
        if scores is None
        else [f"{name} {score:.2f}" for name, score in zip(names, scores.tolist(), strict=True)]
    )
    colour = [tuple(table[number]) for number in numbers]
    placed = [
        (left, top, max(left, right), max(top, bottom))
        for left, top, right, bottom in (boxes.detach().cpu().float() * scale).tolist()
    ]
    for (left, top, right, bottom), outline in zip(placed, colour, strict=True):
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black", width=4)
        draw.rectangle((left, top, right, bottom), outline=outline, width=2)
    for (left, top, _, _), text, fill in zip(placed, texts, colour, strict=True):  # over all boxes, to stay readable
        width, height = draw.textlength(text, font=font(TEXT)) + 4, TEXT + 4
        left, top = max(min(left, drawn.width - width), 0), top - height if top >= height else top
        draw.rectangle((left, top, left + width, top + height), fill=fill)
        draw.text((left + 2, top), text, font=font(TEXT), fill=_ink(fill))
    return drawn


def _ink(colour: Sequence[int]) -> str:
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "white"
