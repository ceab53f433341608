import sys

import numpy as np
import pytest
import torch

from tospike.data.targets import TargetPreparation, collate_lists, collate_padded
from tospike.errors import MissingExtraError, OptionError
from tospike.pictures.palette import IGNORE

pytest.importorskip("torchvision")
Image = pytest.importorskip("PIL.Image")
tv_tensors = pytest.importorskip("torchvision.tv_tensors")


def numbered(height, width):
    """An image whose red and green channel are the row and column of each pixel, and a mask that is 100 * row + column."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows, columns, rows * 0], -1).astype(np.uint8)
    return Image.fromarray(pixels), tv_tensors.Mask(torch.from_numpy(100 * rows + columns))


def place_of(image):
    """The mask that belongs to an image of `numbered`, up to rounding."""
    return (image[0] * 255).round().long(), (image[1] * 255).round().long()


@pytest.mark.parametrize("seed", range(8))
def test_images_and_masks_are_cut_and_mirrored_alike(seed):
    torch.manual_seed(seed)
    image, mask = TargetPreparation((40, 40), least=0.25).augmented()(*numbered(40, 40))
    rows, columns = place_of(image)
    assert (image.shape, mask.shape, image.dtype, mask.dtype) == ((3, 40, 40), (40, 40), torch.float32, torch.int64)
    assert (mask // 100 - rows).abs().max() <= 1
    assert (mask % 100 - columns).abs().max() <= 1


def test_both_mirror_images_and_many_windows_come_up():
    transform = TargetPreparation((40, 40), least=0.25).augmented()
    torch.manual_seed(0)
    masks = [transform(*numbered(40, 40))[1] for _ in range(20)]
    assert {bool(mask[0, 0] > mask[0, -1]) for mask in masks} == {True, False}
    assert len({(int(mask.min()), int(mask.max())) for mask in masks}) > 10
    torch.manual_seed(0)
    assert torch.equal(transform(*numbered(40, 40))[1], masks[0])


@pytest.mark.parametrize("seed", range(4))
def test_a_mask_without_a_size_is_mirrored_exactly(seed):
    torch.manual_seed(seed)
    image, mask = TargetPreparation().augmented()(*numbered(6, 9))
    rows, columns = place_of(image)
    assert torch.equal(mask, 100 * rows + columns)
    assert image.shape == (3, 6, 9)


def test_masks_take_the_nearest_pixel_and_images_are_interpolated():
    mask = tv_tensors.Mask(torch.tensor([[1, 255], [3, 4]], dtype=torch.uint8))
    picture = Image.fromarray(np.array([[[0, 0, 0], [200, 0, 0]]] * 2, np.uint8))
    image, labels = TargetPreparation(4).plain()(picture, mask)
    assert labels.tolist() == [[1, 1, 255, 255]] * 2 + [[3, 3, 4, 4]] * 2
    assert (image[0, 0] * 255).round().tolist() == [0, 50, 150, 200]


def test_boxes_are_scaled_and_mirrored_with_their_image():
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[1.0, 2, 3, 4]]), format="XYXY", canvas_size=(30, 40))
    picture = Image.new("RGB", (40, 30))
    picture.paste((255, 255, 255), (1, 2, 3, 4))
    seen = set()
    for seed in range(6):
        torch.manual_seed(seed)
        image, scaled = TargetPreparation((60, 120)).augmented()(picture, boxes)
        seen.add(tuple(scaled[0].tolist()))
        x1, y1, x2, y2 = scaled[0].long().tolist()
        assert image[:, y1:y2, x1:x2].mean() > 0.5
        assert image.sum() == pytest.approx(3 * (x2 - x1) * (y2 - y1), rel=0.3)
    assert seen == {(3, 4, 9, 8), (111, 4, 117, 8)}


def test_images_are_normalised_where_means_are_given():
    picture, mask = numbered(4, 4)
    plain = TargetPreparation().plain()(picture, mask)[0]
    image = TargetPreparation(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2)).plain()(picture, mask)[0]
    expected = (plain - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.25, 2]).view(3, 1, 1)
    torch.testing.assert_close(image, expected)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"size": 0}, "size"),
        ({"size": (4, 5, 6)}, "size"),
        ({"size": (4, 2.5)}, "size"),
        ({"mean": (0.5,)}, "mean, std"),
        ({"mean": (0.5,) * 3, "std": (1, 1, 0)}, "mean, std"),
        ({"least": 0}, "least"),
    ],
)
def test_settings_out_of_range_are_refused(settings, word):
    with pytest.raises(OptionError, match=f"`{word}` of prepared images is out of range"):
        TargetPreparation(**settings)


def test_shapes_are_known_where_images_are_scaled():
    assert TargetPreparation().shape == (3, -1, -1)
    assert TargetPreparation(7).shape == (3, 7, 7)
    assert TargetPreparation([7, 9]).shape == (3, 7, 9)


def test_smaller_images_are_filled_up_and_their_filling_is_ignored():
    samples = [(torch.ones(3, 2, 3), torch.ones(2, 3).long()), (torch.ones(3, 4, 1), torch.ones(4, 1).long())]
    images, masks = collate_padded(samples)
    assert (images.shape, masks.shape) == ((2, 3, 4, 3), (2, 4, 3))
    for (image, mask), batch_image, batch_mask in zip(samples, images, masks, strict=True):
        height, width = mask.shape
        assert torch.equal(batch_image[:, :height, :width], image)
        assert torch.equal(batch_mask[:height, :width], mask)
        assert batch_image.sum() == image.sum()
        assert (batch_mask == IGNORE).sum() == 12 - mask.numel()


def test_lists_keep_what_differs_in_size():
    first, second = (
        (torch.zeros(3, 2, 2), {"boxes": torch.zeros(0, 4)}),
        (torch.zeros(3, 5, 2), {"boxes": torch.zeros(2, 4)}),
    )
    images, targets = collate_lists([first, second])
    assert (images[1] is second[0], targets[0] is first[1]) == (True, True)


def test_without_torchvision_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtraError, match=r"tospike\[vision\]"):
        TargetPreparation(8).plain()
