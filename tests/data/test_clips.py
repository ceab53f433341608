import numpy as np
import pytest
import torch

from tospike import data
from tospike.data.clips import MOTIONS, FashionClips, film
from tospike.errors import OptionError
from tospike.tasks import Video

ITEM = torch.zeros(28, 28, dtype=torch.uint8)
ITEM[6:22, 10:18] = 255
NOTHING = torch.zeros(28, 28, dtype=torch.uint8)
real = pytest.mark.skipif(not data.is_available("fashion-mnist"), reason="Fashion-MNIST is not on this machine")


def filmed(motion, monkeypatch, seed=0):
    monkeypatch.setattr("tospike.data.clips.NOISE", 0.0)
    return film(ITEM, NOTHING, motion, np.random.default_rng(seed), 24, 48).double()


def moments(frames):
    """Return mass, centre and angle of the bright pixels of each frame."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    mass = frames.sum((1, 2))
    cx, cy = ((frames * axis).sum((1, 2)) / mass for axis in (x, y))
    dx, dy = x - cx[:, None, None], y - cy[:, None, None]
    xx, yy, xy = ((frames * a * b).sum((1, 2)) / mass for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    return mass, cx, cy, 0.5 * torch.atan2(2 * xy, xx - yy)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("motion", "axis", "sign"), [("left", 1, -1), ("right", 1, 1), ("up", 2, -1), ("down", 2, 1)])
def test_items_move_as_they_are_called(motion, axis, sign, seed, monkeypatch):
    found = moments(filmed(motion, monkeypatch, seed))
    assert sign * (found[axis][14] - found[axis][10]) > 0.5  # around the middle the item is in the picture
    assert abs(found[3 - axis][14] - found[3 - axis][10]) < 0.2


@pytest.mark.parametrize(("motion", "sign"), [("growing", 1), ("shrinking", -1)])
def test_items_grow_as_they_are_called(motion, sign, monkeypatch):
    mass = moments(filmed(motion, monkeypatch))[0]
    assert sign * (mass[14] - mass[10]) > 0.03 * mass[12]


@pytest.mark.parametrize(("motion", "sign"), [("clockwise", 1), ("counterclockwise", -1)])
def test_items_turn_as_they_are_called(motion, sign, monkeypatch):
    angle = moments(filmed(motion, monkeypatch))[3]  # rows grow downwards, so clockwise is towards larger angles
    turned = torch.remainder(angle[13] - angle[11] + torch.pi / 2, torch.pi) - torch.pi / 2
    assert 0.03 < sign * turned < 0.4


def test_clips_of_a_test_video_are_spread_evenly():
    videos = torch.arange(24, dtype=torch.uint8)[None, :, None, None].expand(2, 24, 4, 4)
    clips = FashionClips(videos, torch.tensor([3, 5]), 8, 3)
    assert len(clips) == 6
    starts = [round(float(clips[index][0][0, 0, 0, 0] * 0.27 + 0.21) * 255) for index in range(6)]
    assert starts == [0, 8, 16] * 2
    assert [clips[index][1:] for index in range(6)] == [(3, 0)] * 3 + [(5, 1)] * 3
    with pytest.raises(IndexError):
        clips[6]


@real
def test_the_set_asks_for_videos():
    found = data.load("fashion-clips", train_count=4, test_count=2)
    assert isinstance(found.task, Video)
    assert found.classes == MOTIONS
    clips, classes, videos = next(iter(found.loaders(6)[1]))
    assert clips.shape == (6, 1, 8, 32, 32)
    assert videos.tolist() == [0, 0, 0, 1, 1, 1]
    assert classes.tolist() == [c for c in found.test.labels.tolist() for _ in range(3)]
    again = data.load("fashion-clips", train_count=2, test_count=2)
    assert torch.equal(again.train.videos, found.train.videos[:2])


@real
def test_a_clip_cannot_be_longer_than_its_video():
    with pytest.raises(OptionError, match="longer than its video"):
        data.load("fashion-clips", clip_frames=30)
