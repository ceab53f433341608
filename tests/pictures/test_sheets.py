import numpy as np
import pytest

from tospike.errors import OptionError
from tospike.pictures.palette import IGNORED, colours
from tospike.pictures.sheets import LINE, SPACE, fitted, sheet

Image = pytest.importorskip("PIL.Image")
RED, GREEN = (255, 0, 0), (0, 255, 0)


def blank(width, height, colour=RED):
    return Image.new("RGB", (width, height), colour)


def where(picture, colour):
    """Left, top, right and bottom of the pixels of a colour; None where there is none."""
    rows, columns = np.where((np.array(picture) == np.array(colour)).all(-1))
    return (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1) if len(rows) else None


def dark(picture, left, top, right, bottom):
    """Whether something is written in a part of a picture."""
    return bool((np.array(picture)[top:bottom, left:right] < 60).all(-1).any())


@pytest.mark.parametrize(
    ("size", "expected"),
    [((28, 28), (168, 168)), ((8, 8), (160, 160)), ((64, 32), (192, 96)), ((160, 90), (160, 90)), ((320, 200), (320, 200)),
     ((640, 480), (320, 240)), ((375, 500), (240, 320)), ((3000, 1), (320, 1))],
)  # fmt: skip
def test_images_have_a_size_at_which_they_can_be_looked_at(size, expected):
    assert fitted(blank(*size)).size == expected


def test_small_images_show_their_pixels_as_squares():
    image = blank(16, 16)
    image.putpixel((3, 5), GREEN)
    assert where(fitted(image), GREEN) == (30, 50, 40, 60)


def test_rows_and_columns_stand_beside_each_other():
    picture = sheet([[blank(200, 100), blank(300, 50, GREEN)], [blank(160, 160)]])
    assert picture.size == (200 + 300 + 3 * SPACE, 100 + 160 + 3 * SPACE)
    assert where(picture, GREEN) == (SPACE + 200 + SPACE, SPACE, SPACE + 200 + SPACE + 300, SPACE + 50)
    assert where(picture, RED) == (SPACE, SPACE, SPACE + 200, 100 + 160 + 2 * SPACE)


def test_titles_stand_above_columns_and_left_of_rows():
    rows = [[blank(160, 160), blank(160, 160)]] * 2
    picture = sheet(rows, ["ANN", "SNN"], ["test 0", ""])
    left, top, right, bottom = where(picture, RED)
    assert (right - left, bottom - top) == (2 * 160 + SPACE, 2 * 160 + SPACE)
    assert top == LINE + 2 * SPACE
    for column in (0, 1):
        start = left + column * (160 + SPACE)
        assert dark(picture, start, 0, start + 60, top)
    assert not dark(picture, left + 80, 0, left + 160, top)
    assert dark(picture, 0, top, left, top + 160)
    assert not dark(picture, 0, top + 160 + SPACE, left, bottom)


def test_long_titles_are_broken_and_long_words_cut():
    image = blank(160, 160)
    short, long = sheet([[image]], ["SNN"]), sheet([[image]], ["SNN after 32 time-steps of the slowest method"])
    assert long.width == short.width
    assert (long.height - short.height) % LINE == 0
    assert long.height > short.height
    word = sheet([[image]], ["w" * 200], ["w" * 200])
    assert word.height == short.height
    assert where(word, RED)[0] <= 160 + SPACE
    assert sheet([[image]], ["two\nlines"]).height == short.height + LINE


def test_captions_stand_above_their_images_which_stay_in_line():
    picture = sheet([[blank(160, 160), blank(160, 160, GREEN)]], captions=[["a", "two\nlines"]])
    assert where(picture, RED)[1] == where(picture, GREEN)[1] == SPACE + 2 * LINE
    assert dark(picture, 0, SPACE + LINE, 160, SPACE + 2 * LINE)
    assert not dark(picture, 0, 0, 160, SPACE + LINE)


def test_a_legend_shows_the_colours_of_its_classes_and_is_broken():
    names = {1: "aeroplane", 20: "tvmonitor", 255: "ignored"}
    picture = sheet([[blank(160, 160)]], legend=names)
    places = {number: where(picture, colours(21)[number].tolist()) for number in (1, 20)}
    below = where(picture, RED)[3]
    assert places[1][1] > below
    assert places[20][1] == places[1][1] + LINE
    assert sheet([[blank(320, 160)]], legend=names).height < picture.height
    assert not where(picture, colours(3)[2].tolist())
    assert IGNORED == (255, 255, 255)


@pytest.mark.parametrize(
    ("rows", "settings", "word"),
    [
        ([], {}, "rows"),
        ([[]], {}, "rows"),
        ([[blank(8, 8)]], {"column_titles": ["a", "b"]}, "column_titles"),
        ([[blank(8, 8)]], {"row_titles": ["a", "b"]}, "row_titles"),
        ([[blank(8, 8)]], {"captions": [["a", "b"]]}, "captions"),
    ],
)
def test_titles_that_do_not_fit_are_refused(rows, settings, word):
    with pytest.raises(OptionError, match=f"`{word}` of a sheet is out of range"):
        sheet(rows, **settings)
