"""Clips of Fashion-MNIST items that move, turn, grow or shrink: small real videos whose class is the motion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from tospike.data.base import Data
from tospike.data.fashion_mnist import read_fashion_mnist
from tospike.data.memory import MemoryImages
from tospike.data.scenes import FOLDERS, LAYOUTS, ORIGIN, SHOWN_FROM
from tospike.data.sources import source
from tospike.errors import OptionError, is_count, require
from tospike.progress import track
from tospike.tasks import Video

MOTIONS = ("left", "right", "up", "down", "clockwise", "counterclockwise", "growing", "shrinking")
_DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
MEAN, STD = 0.21, 0.27
NOISE = 0.3  # standard deviation in each pixel of each frame, as a share of white


def film(item: Tensor, other: Tensor, motion: str, draw: np.random.Generator, frames: int, size: int) -> Tensor:
    """Film an item that moves before another one that stands still; ``[frames, size, size]``, uint8.

    Speeds are 0.2 to 0.8 pixels, 2 to 8 degrees, or 1 to 3 percent of the size in a frame. Place, angle and size at the middle of the video are
    drawn, so that no single frame tells the motion.

    Args:
        item: ``[28, 28]``, uint8; what moves.
        other: ``[28, 28]``, uint8; what stands still.
        motion: One of `MOTIONS`.
        draw: Source of chance.
        frames: Number of frames.
        size: Height and width in pixels.

    Example:
        >>> item = torch.full((28, 28), 255, dtype=torch.uint8)
        >>> film(item, item, "left", np.random.default_rng(0), 8, 32).shape
        torch.Size([8, 32, 32])
    """
    time = torch.arange(frames) - (frames - 1) / 2
    centre = torch.from_numpy(draw.uniform(-0.15, 0.15, 2) * size).float().expand(frames, 2)
    angle = torch.full((frames,), float(draw.uniform(-0.3, 0.3)))
    scale = torch.full((frames,), float(draw.uniform(0.5, 0.8)))
    if motion in _DIRECTIONS:
        centre = centre + float(draw.uniform(0.2, 0.8)) * time[:, None] * torch.tensor(_DIRECTIONS[motion])
    elif motion in ("growing", "shrinking"):
        rate = float(draw.uniform(0.01, 0.03)) * (1 if motion == "growing" else -1)
        scale = scale * torch.exp(rate * time)
    else:
        turn = math.radians(float(draw.uniform(2, 8))) * (1 if motion == "clockwise" else -1)
        angle = angle + turn * time
    still = _render(
        other,
        torch.from_numpy(draw.uniform(-0.3, 0.3, (1, 2)) * size).float(),
        angle[:1] * 0,
        torch.full((1,), 0.5),
        size,
    )
    moving = _render(item, centre, angle, scale, size)
    noise = torch.from_numpy(draw.normal(0.0, NOISE, (frames, size, size)).astype(np.float32))
    return (torch.maximum(moving, 0.5 * still) + noise).clamp(0, 1).mul(255).round().to(torch.uint8)


def _render(item: Tensor, centre: Tensor, angle: Tensor, scale: Tensor, size: int) -> Tensor:
    """Draw an item at places, angles and scales: ``[F, 2]`` in pixels from the middle, ``[F]`` radians, ``[F]``; returns ``[F, size, size]``."""
    # A pixel of the canvas asks which pixel of the item it shows: the inverse of place, turn and scale, in units of half the item.
    cos, sin = angle.cos() / scale / 14, angle.sin() / scale / 14
    rotation = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    shift = -(rotation @ centre[:, :, None])
    grid = functional.affine_grid(
        torch.cat([rotation * size / 2, shift], 2), [len(angle), 1, size, size], align_corners=False
    )
    planes = (item.float() / 255).expand(len(angle), 1, 28, 28)
    return functional.grid_sample(planes, grid, align_corners=False)[:, 0]


@dataclass(frozen=True, eq=False)
class FashionClips(Dataset[Any]):
    """Clips of videos; a sample is ``(clip [1, F, H, W] normalised, motion, number of the video)``.

    Attributes:
        videos: ``[V, frames, H, W]``, uint8.
        labels: ``[V]``, int64.
        clip_frames: F.
        clips_per_video: Clips of each video, spread evenly; None draws one at random from torch's global generator.
    """

    videos: Tensor
    labels: Tensor
    clip_frames: int
    clips_per_video: int | None = None

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.videos) * (self.clips_per_video or 1)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """Return one clip."""
        video, number = divmod(range(len(self))[index], self.clips_per_video or 1)
        last = self.videos.shape[1] - self.clip_frames
        drawn = self.clips_per_video is None
        start = (
            int(torch.randint(last + 1, ()))
            if drawn
            else round(last * number / max((self.clips_per_video or 1) - 1, 1))
        )
        clip = self.videos[video, start : start + self.clip_frames]
        return (clip.float() / 255 - MEAN)[None] / STD, int(self.labels[video]), video


@source("fashion-clips", layouts=LAYOUTS, folders=FOLDERS, origin=ORIGIN)
def read_clips(
    folder: Path, *, augment: bool = True, train_count: int = 4000, test_count: int = 800, size: int = 32, frames: int = 24,
    clip_frames: int = 8, clips_per_video: int = 3, seed: int = 0,
) -> Data:  # fmt: skip
    """Film Fashion-MNIST items in eight motions; clips are ``[1, clip_frames, size, size]``, normalised.

    Training videos hold training items, test videos test items; a sample also has the number of its video, over whose clips answers are averaged.

    Args:
        folder: Folder with the four IDX files of Fashion-MNIST.
        augment: Whether a training sample is a clip at a random place of its video, or its first one.
        train_count: Training videos.
        test_count: Test videos.
        size: Height and width in pixels.
        frames: Frames of a video.
        clip_frames: Frames of a clip.
        clips_per_video: Clips of each test video, spread evenly.
        seed: Seed; a video depends on it and on its number alone.

    Raises:
        OptionError: A setting is out of range.
        DataError: A file of Fashion-MNIST is damaged.

    Source: own construction from Fashion-MNIST (Xiao, Rasul and Vollgraf 2017).
    """
    counts = {
        "train_count": train_count,
        "test_count": test_count,
        "frames": frames,
        "clip_frames": clip_frames,
        "clips_per_video": clips_per_video,
    }
    require(
        "the clips",
        *((name, value, is_count(value), "an integer >= 1", 8) for name, value in counts.items()),
        ("size", size, is_count(size) and size >= 16, "an integer >= 16, in pixels", 32),
        ("seed", seed, seed == 0 or is_count(seed), "an integer >= 0", 0),
    )  # fmt: skip
    if clip_frames > frames:
        raise OptionError("A clip is longer than its video", got=f"clip_frames={clip_frames}", expected=f"at most frames={frames}",
                          remedy="Pass more frames, or shorter clips.")  # fmt: skip
    items = read_fashion_mnist(folder, augment=False)
    parts = []
    for part, (samples, count) in enumerate(zip((items.train, items.test), (train_count, test_count), strict=True)):
        assert isinstance(samples, MemoryImages)
        videos, labels = [], []
        for number in track(range(count), f"film {('training', 'test')[part]} videos", shown=count > SHOWN_FROM):
            draw = np.random.default_rng([seed, part, number])
            motion = int(draw.integers(len(MOTIONS)))
            one, other = draw.integers(len(samples), size=2).tolist()
            videos.append(film(samples.images[one, 0], samples.images[other, 0], MOTIONS[motion], draw, frames, size))
            labels.append(motion)
        parts.append((torch.stack(videos), torch.tensor(labels)))
    plain = FashionClips(*parts[0], clip_frames, 1)
    train = FashionClips(*parts[0], clip_frames) if augment else plain
    test = FashionClips(*parts[1], clip_frames, clips_per_video)
    return Data(
        "fashion-clips",
        train,
        test,
        MOTIONS,
        (1, clip_frames, size, size),
        plain,
        (MEAN,),
        (STD,),
        task=Video(top=(1, 2)),
    )
