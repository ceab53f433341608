import sys

import numpy as np
import pytest
import torch

from tospike.errors import MissingExtraError, OptionError
from tospike.pictures import colours, draw_boxes, draw_mask, to_image

Image = pytest.importorskip("PIL.Image")


def pixels(image):
    return torch.from_numpy(np.array(image))


def blank(width, height, colour=(10, 20, 30)):
    return Image.new("RGB", (width, height), colour)


def test_images_come_back_from_their_normalisation():
    original = torch.randint(0, 256, (3, 5, 7))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = (original / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.equal(pixels(to_image(normalised, mean, std)).permute(2, 0, 1), original.to(torch.uint8))
    assert torch.equal(pixels(to_image(original / 255)).permute(2, 0, 1), original.to(torch.uint8))


def test_grey_images_have_three_channels_and_values_are_clipped():
    drawn = pixels(to_image(torch.tensor([[[-1.0, 0.5, 3.0]]])))
    assert drawn.tolist() == [[[0] * 3, [128] * 3, [255] * 3]]


@pytest.mark.parametrize("shape", [(2, 4, 4), (4, 4), (1, 3, 4, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(OptionError, match="`pixels` of pictures"):
        to_image(torch.zeros(shape))


def test_a_normalisation_of_other_channels_is_refused():
    with pytest.raises(OptionError, match="`mean, std` of pictures"):
        to_image(torch.zeros(3, 4, 4), (0.5,), (0.5,))


def test_masks_are_mixed_with_the_image_by_their_opacity():
    mask = torch.tensor([[0, 1], [2, 255]])
    drawn = pixels(draw_mask(blank(2, 2), mask, 0.5)).float()
    base, table = torch.tensor([10.0, 20, 30]), colours(3).float()
    assert torch.equal(drawn[0, 0], base)
    for place, colour in (((0, 1), table[1]), ((1, 0), table[2]), ((1, 1), torch.full((3,), 255.0))):
        torch.testing.assert_close(drawn[place], (base + colour) / 2, atol=1.5, rtol=0)
    assert torch.equal(pixels(draw_mask(blank(2, 2), mask, 0.0)), pixels(blank(2, 2)))


def test_the_background_may_be_another_class_or_none():
    mask = torch.tensor([[0, 1]])
    drawn = pixels(draw_mask(blank(2, 1), mask, 1.0, background=1))
    assert drawn.tolist() == [[colours(1)[0].tolist(), [10, 20, 30]]]
    assert pixels(draw_mask(blank(2, 1), mask, 1.0, background=None)).tolist() == [colours(2).tolist()]


def test_a_mask_is_brought_to_the_size_of_its_image():
    drawn = pixels(draw_mask(blank(4, 2), torch.tensor([[0, 3]]), 1.0))
    assert drawn[:, :2].unique(dim=1).shape[1] == 1
    assert (drawn[:, 2:] == colours(4)[3]).all()
    assert (drawn[:, :2] == torch.tensor([10, 20, 30])).all()


@pytest.mark.parametrize(("mask", "opacity"), [(torch.zeros(1, 2, 2).long(), 0.5), (torch.zeros(2, 2).long(), 1.5)])
def test_masks_out_of_range_are_refused(mask, opacity):
    with pytest.raises(OptionError, match="of the drawn mask is out of range"):
        draw_mask(blank(2, 2), mask, opacity)


def edges(drawn, colour):
    """Left, top, right and bottom of the pixels of a colour."""
    rows, columns = np.where((np.array(drawn) == np.array(colour)).all(-1))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_boxes_lie_where_they_are_said_to_in_an_enlarged_image():
    drawn = draw_boxes(blank(40, 40), torch.tensor([[10.0, 20, 30, 35]]), [""])
    assert drawn.size == (160, 160)
    left, _, right, bottom = edges(drawn, colours(1)[0].tolist())
    assert (left, right, bottom) == (40, 120, 140)
    inside = pixels(drawn)[95:130, 50:110]
    assert (inside == torch.tensor([10, 20, 30])).all()


def test_boxes_lie_where_they_are_said_to_in_a_reduced_image():
    drawn = draw_boxes(blank(640, 480), torch.tensor([[100.0, 200, 300, 400]]), [""])
    assert drawn.size == (320, 240)
    left, _, right, bottom = edges(drawn, colours(1)[0].tolist())
    assert (left, right, bottom) == (50, 150, 200)


def test_equal_names_have_one_colour_and_classes_their_own():
    boxes = torch.tensor([[0.0, 60, 50, 100], [60, 60, 100, 100], [110, 60, 150, 100]])

    def shown(drawn):
        found = {tuple(colour) for colour in pixels(drawn).flatten(0, 1).tolist()}
        return [number for number in range(12) if tuple(colours(12)[number].tolist()) in found]

    assert shown(draw_boxes(blank(160, 160), boxes, ["a", "b", "a"])) == [0, 1]
    assert shown(draw_boxes(blank(160, 160), boxes, ["a", "b", "a"], labels=torch.tensor([3, 9, 3]))) == [3, 9]


def test_scores_are_written_behind_names():
    boxes = torch.tensor([[20.0, 60, 50, 100]])

    def width(drawn):
        left, _, right, _ = edges(drawn, colours(1)[0].tolist())
        return right - left

    bare, scored = (draw_boxes(blank(160, 160), boxes, ["a boot"], scores) for scores in (None, torch.tensor([0.87])))
    assert width(scored) > width(bare) + 20


def test_names_stay_inside_the_image():
    for box in ([150.0, 0, 160, 5], [0.0, 0, 10, 160], [150.0, 150, 200, 170]):
        drawn = draw_boxes(blank(160, 160), torch.tensor([box]), ["Ankle boot"])
        filled = (pixels(drawn) == colours(1)[0]).all(-1)
        assert filled.sum() > 500, box


def test_an_image_without_boxes_is_only_enlarged():
    image = blank(40, 20)
    assert torch.equal(pixels(draw_boxes(image, torch.zeros(0, 4), [])), pixels(image.resize((160, 80))))
    assert image.size == (40, 20)


@pytest.mark.parametrize(
    ("names", "scores", "labels", "word"),
    [
        (["a"], None, None, "names"),
        (["a", "b"], torch.ones(1), None, "scores"),
        (["a", "b"], None, torch.ones(3), "labels"),
    ],
)
def test_counts_that_differ_are_refused(names, scores, labels, word):
    with pytest.raises(OptionError, match=f"`{word}` of drawn boxes is out of range"):
        draw_boxes(blank(8, 8), torch.zeros(2, 4), names, scores, labels=labels)


def test_without_pillow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"tospike\[vision\]"):
        to_image(torch.zeros(1, 2, 2))
