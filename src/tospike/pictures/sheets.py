"""Images in rows and columns, with titles, at a size at which they can be looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tospike.errors import missing_extra, require
from tospike.pictures.palette import IGNORE, IGNORED, colours

if TYPE_CHECKING:
    from PIL.Image import Image

LEAST, MOST = 160, 320  # pixels of the longer side of an image
SPACE, TITLE, LINE, MARGIN = (
    8,
    15,
    20,
    150,
)  # between images; height of letters and of lines; width of row titles at most


def fitted(image: Image, least: int = LEAST, most: int = MOST) -> Image:
    """Return an image whose longer side has between `least` and `most` pixels; small ones show their pixels as squares.

    Example:
        >>> fitted(_blank(28, 28)).size, fitted(_blank(640, 480)).size
        ((168, 168), (320, 240))
    """
    longer, filters = max(image.size), pillow().Image.Resampling
    if longer < least:
        factor = math.ceil(least / longer)
        return image.resize((image.width * factor, image.height * factor), filters.NEAREST)
    if longer > most:
        width, height = (max(round(side * most / longer), 1) for side in image.size)
        return image.resize((width, height), filters.LANCZOS)
    return image


def sheet(
    rows: Sequence[Sequence[Image]],
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    *,
    captions: Sequence[Sequence[str]] = (),
    legend: Mapping[int, str] | None = None,
) -> Image:
    """Lay images out in rows and columns with titles; each is brought to a size at which it can be looked at.

    Args:
        rows: The images of each row; rows may differ in length.
        column_titles: A title above each column; none leaves them out.
        row_titles: A title to the left of each row; none leaves them out.
        captions: A text above each image, in rows as the images are; none leaves them out.
        legend: Names of classes whose colours are explained below; 255 is what a mask says nothing about.

    Raises:
        OptionError: There is no image, or titles or captions are not as many as what they belong to.

    Example:
        >>> image = _blank(80, 80)
        >>> sheet([[image, image]], ["ANN", "SNN, T = 4"]).size
        (344, 204)
    """
    columns, lengths = max(map(len, rows), default=0), [len(row) for row in rows]
    require(
        "a sheet",
        ("rows", len(rows), columns > 0, "rows with images", 1),
        ("column_titles", len(column_titles), len(column_titles) in (0, columns), f"none, or {columns}", columns),
        ("row_titles", len(row_titles), len(row_titles) in (0, len(rows)), f"none, or {len(rows)}", len(rows)),
        ("captions", [len(row) for row in captions], [len(row) for row in captions] in ([], lengths), f"none, or {lengths}", lengths),
    )  # fmt: skip
    cells = [[fitted(image) for image in row] for row in rows]
    widths = [max([LEAST, *(row[place].width for row in cells if place < len(row))]) for place in range(columns)]
    margin = min(max((round(_length(title)) for title in row_titles), default=-SPACE), MARGIN) + SPACE
    parts = []
    if column_titles:
        titles = [_text(title, width) for title, width in zip(column_titles, widths, strict=True)]
        parts.append(_row(titles, widths, margin))
    for place, images in enumerate(cells):
        if captions:
            images = _captioned(images, captions[place])
        parts.append(_row(images, widths, margin, row_titles[place] if row_titles else ""))
    if legend:
        parts.append(_legend(legend, parts[0].width))
    whole = _blank(parts[0].width + 2 * SPACE, sum(part.height + SPACE for part in parts) + SPACE)
    top = SPACE
    for part in parts:
        whole.paste(part, (SPACE, top))
        top += part.height + SPACE
    return whole


def _row(images: Sequence[Image], widths: Sequence[int], margin: int, title: str = "") -> Image:
    parts = [*images, _text(title, margin - SPACE)] if title else images
    row = _blank(margin + sum(widths) + SPACE * (len(widths) - 1), max(part.height for part in parts))
    if title:
        row.paste(parts[-1], (0, 0))
    left = margin
    for image, width in zip(images, widths, strict=False):
        row.paste(image, (left, 0))
        left += width + SPACE
    return row


def _captioned(images: Sequence[Image], captions: Sequence[str]) -> list[Image]:
    texts = [_text(text, max(image.width, LEAST)) for image, text in zip(images, captions, strict=True)]
    height, whole = max((text.height for text in texts), default=0), []
    for image, text in zip(images, texts, strict=True):
        whole.append(_blank(text.width, height + image.height))
        whole[-1].paste(text, (0, height - text.height))
        whole[-1].paste(image, (0, height))
    return whole


def _legend(names: Mapping[int, str], width: int) -> Image:
    places, left, top = [], 0, 0
    for name in names.values():
        needed = round(_length(name)) + TITLE + 3 * SPACE
        if left and left + needed > width:
            left, top = 0, top + LINE
        places.append((left, top))
        left += needed
    strip, table = _blank(width, top + LINE), colours(IGNORE).tolist()
    draw = pillow().ImageDraw.Draw(strip)
    for (number, name), (left, top) in zip(names.items(), places, strict=True):
        colour = IGNORED if number == IGNORE else tuple(table[number])
        draw.rectangle((left, top + 2, left + TITLE, top + 2 + TITLE), fill=colour, outline="black")
        draw.text((left + TITLE + SPACE, top), name, font=font(TITLE), fill="black")
    return strip


def _text(text: str, width: int) -> Image:
    lines = _wrapped(text, width)
    image = _blank(width, LINE * len(lines))
    draw = pillow().ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((0, number * LINE), line, font=font(TITLE), fill="black")
    return image


def _length(text: str) -> float:
    return max((float(font(TITLE).getlength(line)) for line in text.splitlines()), default=0.0)


def _blank(width: int, height: int) -> Image:
    image: Image = pillow().Image.new("RGB", (width, height), "white")
    return image


def _wrapped(text: str, width: int) -> list[str]:
    """Break a title into lines that fit; a word that does not fit alone is cut."""
    lines: list[str] = []
    for line in text.splitlines() or [""]:
        current = ""
        for word in line.split():
            while len(word) > 1 and _length(word) > width:
                word = word[:-2] + "…"
            longer = f"{current} {word}".strip()
            if current and _length(longer) > width:
                lines.append(current)
                longer = word
            current = longer
        lines.append(current)
    return lines


def font(size: int) -> Any:
    """Return the font of titles, its letters so many pixels high."""
    return pillow().ImageFont.load_default(size)


def pillow() -> Any:
    """Return Pillow with all that drawing needs.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import PIL
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageFont
    except ImportError as error:
        raise missing_extra("Pillow", "vision", "drawing pictures") from error
    return PIL
