"""Video files: which frames make a clip, how they are read, and how a clip becomes the input of a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from tospike.errors import DataError, is_count, missing_extra, require

MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)


@dataclass(frozen=True)
class ClipPreparation:
    """How a video becomes clips for a network.

    Attributes:
        frame_rate: Frames per second of a clip, whatever the video's own.
        clip_len: Frames in a clip.
        clips_per_video: Clips that are taken from a video.
        resize: Height and width in pixels that frames are scaled to.
        size: Side of the square that is cut out of them, in pixels.
        mean: Mean of each channel, on the scale of [0, 1].
        std: Standard deviation of each channel, on the scale of [0, 1].

    Raises:
        OptionError: A setting is out of its range.
    """

    frame_rate: float = 15
    clip_len: int = 16
    clips_per_video: int = 5
    resize: Sequence[int] = (128, 171)
    size: int = 112
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD

    def __post_init__(self) -> None:
        """Check the settings."""
        counts = [(name, getattr(self, name), is_count(getattr(self, name)), "an integer >= 1", good)
                  for name, good in (("clip_len", 16), ("clips_per_video", 5), ("size", 112))]  # fmt: skip
        sides = len(self.resize) == 2 and all(is_count(side) and side >= self.size for side in self.resize)
        normal = len(self.mean) == len(self.std) == 3 and min(self.std) > 0
        require(
            "clips",
            ("frame_rate", self.frame_rate, self.frame_rate > 0, "frames per second above 0", 15),
            *counts,
            ("resize", self.resize, sides, "height and width, neither below size", (128, 171)),
            ("mean, std", (self.mean, self.std), normal, "three means and three positive deviations", (MEAN, STD)),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a clip."""
        return 3, self.clip_len, self.size, self.size

    def starts(self, count: int, rate: Fraction) -> int:
        """Return at how many frames a clip may start, counted at `frame_rate`, in a video of `count` frames at `rate`.

        Example:
            >>> ClipPreparation().starts(60, Fraction(30))  # 30 frames remain at 15 per second
            15
        """
        return max(self._resampled(count, rate) - self.clip_len + 1, 1)

    def evenly(self, clip: int, count: int, rate: Fraction) -> int:
        """Return where a clip starts if those of a video lie evenly: the first at its begin, the last at its end.

        Example:
            >>> [ClipPreparation().evenly(clip, 60, Fraction(30)) for clip in range(5)]
            [0, 3, 7, 10, 14]
        """
        return (self.starts(count, rate) - 1) * clip // max(self.clips_per_video - 1, 1)

    def frames(self, start: int, count: int, rate: Fraction) -> list[int]:
        """Return the frames of the video that a clip consists of; a video that is too short begins again.

        Example:
            >>> ClipPreparation(clip_len=4).frames(2, 60, Fraction(30)), ClipPreparation(clip_len=4).frames(0, 5, Fraction(30))
            ([4, 6, 8, 10], [0, 2, 0, 2])
        """
        step, kept = rate / Fraction(self.frame_rate), self._resampled(count, rate)
        return [int((start + place) % kept * step) for place in range(self.clip_len)]

    def _resampled(self, count: int, rate: Fraction) -> int:
        return max(int(count * Fraction(self.frame_rate) / rate), 1)

    def clip(self, frames: Tensor, *, augment: bool) -> Tensor:
        """Return the normalised clip ``[3, F, size, size]`` of frames ``[F, 3, H, W]``, uint8.

        With augmentation the square is cut out anywhere, the same for all frames, and half of the clips are mirrored; both are
        drawn from torch's global generator. Without it is the centre.
        """
        height, width = self.resize
        scaled = functional.interpolate(frames.float(), (height, width), mode="bilinear", align_corners=False).round()
        room = height - self.size, width - self.size
        top, left = (int(torch.randint(0, rest + 1, ())) if augment else round(rest / 2) for rest in room)
        window = scaled[..., top : top + self.size, left : left + self.size] / 255
        if augment and torch.rand(()) < 0.5:
            window = window.flip(-1)
        mean, std = (torch.tensor(tuple(values)).view(3, 1, 1) for values in (self.mean, self.std))
        return ((window - mean) / std).transpose(0, 1).contiguous()


@dataclass(frozen=True, eq=False)
class VideoClips(Dataset[Any]):
    """Clips of video files: ``(clip [3, F, H, W], class, video)``, the clips of a video one after the other.

    A file is opened when a clip of it is read, so that even a large set is listed at once.

    Attributes:
        files: Video files and their classes.
        preparation: How clips are made.
        augment: Whether clips start anywhere, are cut out anywhere, and are mirrored: drawn from torch's global generator.
    """

    files: tuple[tuple[Path, int], ...]
    preparation: ClipPreparation
    augment: bool = False

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.files) * self.preparation.clips_per_video

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """Read one clip, its class, and the number of its video in this part."""
        video, clip = divmod(range(len(self))[index], self.preparation.clips_per_video)
        (path, label), prepare = self.files[video], self.preparation
        facts = facts_of(path)
        start = int(torch.randint(prepare.starts(*facts), ())) if self.augment else prepare.evenly(clip, *facts)
        frames = read_frames(path, prepare.frames(start, *facts))
        return prepare.clip(frames, augment=self.augment), label, video


def facts_of(path: Path) -> tuple[int, Fraction]:
    """Return how many frames a video has, and how many it shows in a second; nothing is decoded.

    Where the container does not say the number (``.mkv``, ``.webm``), its packets are counted.

    Raises:
        DataError: The file is no video.
        MissingExtraError: PyAV is not installed.
    """
    with _opened(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        count = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    if not rate or not count:
        raise _damaged(path, f"{count} frames, {rate} frames per second")
    return int(count), Fraction(rate)


def read_frames(path: Path, numbers: Sequence[int]) -> Tensor:
    """Read frames of a video, by their numbers in any order, uint8 ``[F, 3, H, W]``.

    Decoding begins at the last key frame before them. A frame that the file lacks is the one that was shown at its time.

    Raises:
        DataError: The file cannot be decoded, or ends a second or more before a frame that is asked for.
        MissingExtraError: PyAV is not installed.
    """
    wanted = sorted(set(numbers))
    found: dict[int, Any] = {}
    with _opened(path) as (container, stream):
        rate = Fraction(stream.average_rate or stream.guessed_rate)
        number, shown = -1, None
        for number, frame in _frames_from(container, stream, rate, wanted[0]):
            while len(found) < len(wanted) and wanted[len(found)] < number:
                found[wanted[len(found)]] = frame if shown is None else shown
            shown = frame
            if number >= wanted[-1]:
                break
        if shown is None or wanted[-1] - number > rate:
            raise _damaged(path, f"no frame after number {number}" if number >= 0 else "no frame")
        pictures = {key: torch.from_numpy(found.get(key, shown).to_ndarray(format="rgb24")) for key in wanted}
    return torch.stack([pictures[key] for key in numbers]).permute(0, 3, 1, 2)


def _frames_from(container: Any, stream: Any, rate: Fraction, first: int) -> Iterator[tuple[int, Any]]:
    """Give numbered frames, beginning with the one that is asked for or with an earlier one."""
    if container.format.name == "avi":  # its times are those of the order in which frames are stored
        yield from enumerate(container.decode(stream))
        return
    begin = stream.start_time or 0
    for target in (first, 0):  # a seek may end behind its target, since files are indexed by the time of decoding
        container.seek(begin + int(target / rate / stream.time_base), stream=stream)
        timed = (frame for frame in container.decode(stream) if frame.pts is not None)
        frames = ((round((frame.pts - begin) * stream.time_base * rate), frame) for frame in timed)
        start = next(frames, None)
        if start is not None and (start[0] <= first or target == 0):
            yield start
            yield from frames
            return


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video; whatever its decoder stumbles over is an error that names the file."""
    try:
        import av
    except ImportError as error:
        raise missing_extra("av", "video", "reading videos") from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise _damaged(path, "no video in it")
            yield container, container.streams.video[0]
    except (av.FFmpegError, OSError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}"[:200]) from error


def _damaged(path: Path, got: str) -> DataError:
    return DataError(
        "A video cannot be read", where=str(path), got=got, expected="a video that can be decoded to its end",
        remedy="Fetch the file again, or remove it.",
    )  # fmt: skip
