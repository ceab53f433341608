import pytest
import torch

from tospike.data import AutoAugment, Cutout, RandomFlip, RandomShift
from tospike.errors import MissingExtraError, OptionError


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def coordinates(count, side):
    """Images whose pixel value is its own place, 1-based, so that padding (0) can be told apart."""
    return (1 + torch.arange(side * side, dtype=torch.uint8)).view(1, 1, side, side).repeat(count, 1, 1, 1)


@pytest.mark.parametrize("padding", [1, 2, 4])
def test_shift_cuts_windows_of_the_padded_image_at_every_place(padding):
    side, images = 10, coordinates(2000, 10)
    shifted = RandomShift(padding)(images)
    padded = torch.nn.functional.pad(images[0, 0], (padding,) * 4)
    window = {
        tuple(padded[top : top + side, left : left + side].flatten().tolist()): (top, left)
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }
    found = [window[tuple(image.flatten().tolist())] for image in shifted]
    assert set(found) == set(window.values())
    assert shifted.dtype == torch.uint8


def test_shift_moves_all_channels_alike():
    images = torch.arange(64.0).view(1, 1, 8, 8).repeat(50, 3, 1, 1)
    shifted = RandomShift(2)(images)
    assert torch.equal(shifted[:, 0], shifted[:, 2])


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_flip_mirrors_the_stated_share_left_and_right(probability, share):
    images = coordinates(2000, 4)
    flipped = RandomFlip(probability)(images)
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert mirrored.float().mean() == pytest.approx(share, abs=0.05)


def test_cutout_is_one_square_clipped_by_the_border():
    size, side = 16, 32
    holes = Cutout(size)(torch.ones(3000, 3, side, side)) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    assert torch.equal(holes[:, 0], holes[:, 2])
    rows, columns = holes[:, 0].any(2), holes[:, 0].any(1)
    assert torch.equal(holes[:, 0], rows[:, :, None] & columns[:, None, :])
    for extent in (rows, columns):
        length, first = extent.sum(1), extent.int().argmax(1)
        last = side - 1 - extent.flip(1).int().argmax(1)
        assert torch.equal(last - first + 1, length)
        clipped = (first == 0) | (last == side - 1)
        assert (length[~clipped] == size).all()
        # centre c covers c - 8 to c + 7: 8 pixels at c = 0, 9 at c = 31
        assert int(length[first == 0].min()) == size // 2
        assert int(length[last == side - 1].min()) == size // 2 + 1


def test_cutout_area_follows_from_a_uniform_centre():
    size, side = 16, 32
    holes = Cutout(size)(torch.ones(20000, 1, side, side)) == 0
    lengths = [min(side, c + size // 2) - max(0, c - size // 2) for c in range(side)]
    assert holes.flatten(1).sum(1).float().mean() == pytest.approx((sum(lengths) / side) ** 2, rel=0.02)


def test_cutout_leaves_its_input_alone_and_the_rest_of_the_image():
    images = torch.rand(10, 1, 8, 8) + 1
    before = images.clone()
    cut = Cutout(4)(images)
    assert torch.equal(images, before)
    assert torch.equal(cut[cut != 0], images[cut != 0])


def test_cutout_refuses_an_empty_square():
    with pytest.raises(OptionError, match="must be positive"):
        Cutout(0)


@pytest.mark.parametrize("transform", [RandomShift(2), RandomFlip(), Cutout(3)])
def test_transforms_follow_the_global_seed(transform):
    images = torch.rand(64, 1, 8, 8)
    torch.manual_seed(1)
    first = transform(images)
    torch.manual_seed(1)
    assert torch.equal(transform(images), first)
    assert not torch.equal(transform(images), first)


def test_auto_augment_changes_each_image_by_its_own_draw():
    pytest.importorskip("torchvision")
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8).repeat(40, 1, 1, 1)
    policy = AutoAugment()
    torch.manual_seed(3)
    changed = policy(images)
    torch.manual_seed(3)
    assert torch.equal(policy(images), changed)
    assert changed.dtype == torch.uint8
    assert changed.shape == images.shape
    assert len({tuple(image.flatten().tolist()) for image in changed}) > 10


def test_auto_augment_fills_with_grey():
    pytest.importorskip("torchvision")
    black = torch.zeros(200, 3, 32, 32, dtype=torch.uint8)
    assert 128 in AutoAugment()(black)


def test_auto_augment_without_torchvision_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision.transforms", None)
    with pytest.raises(MissingExtraError, match=r"tospike\[vision\]"):
        AutoAugment()
