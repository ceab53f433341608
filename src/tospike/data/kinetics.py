"""Kinetics and other sets of videos that lie in one folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tospike.data.base import Data
from tospike.data.folders import require_same_classes
from tospike.data.sources import source
from tospike.data.video import MEAN, STD, ClipPreparation, VideoClips
from tospike.errors import DataError
from tospike.tasks import Video

ENDINGS = (".mp4", ".avi", ".mkv", ".webm")


@source(
    "kinetics",
    layouts=tuple((f"train/*/*{ending}", f"val/*/*{ending}") for ending in ENDINGS),
    folders=(".", "kinetics", "kinetics400", "k400"),
    origin="Take the videos of Kinetics-400 by the scripts of https://github.com/cvdfoundation/kinetics-dataset, and sort them into "
    "train/<class>/* and val/<class>/*.",
)
def read_kinetics(
    folder: Path,
    *,
    augment: bool = True,
    frame_rate: float = 15,
    clip_len: int = 16,
    clips_per_video: int = 5,
    resize: Sequence[int] = (128, 171),
    size: int = 112,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Data:
    """Read Kinetics-400, or videos of your own in its layout: ``(clip [3, 16, 112, 112] normalised, class, video)``.

    The clips of a video follow each other and have its number, so that scores can be averaged over a video. Test clips lie
    evenly over their video; a video that is too short for a clip begins again.

    Args:
        folder: Folder with ``train/<class>/*`` and ``val/<class>/*``: ``.mp4``, ``.avi``, ``.mkv`` or ``.webm``.
        augment: Whether training clips start anywhere in their video, are cut out anywhere, and are mirrored.
        frame_rate: Frames per second of a clip, whatever the video's own.
        clip_len: Frames in a clip.
        clips_per_video: Clips that are taken from each video in a pass.
        resize: Height and width in pixels that frames are scaled to.
        size: Side of the square that is cut out of them, in pixels.
        mean: Mean of each channel, on the scale of [0, 1].
        std: Standard deviation of each channel, on the scale of [0, 1].

    Raises:
        DataError: The parts differ in classes, or a file cannot be decoded (when it is read).
        MissingExtraError: PyAV is not installed (when a clip is read).

    Source: Kay et al. 2017, "The Kinetics Human Action Video Dataset", arXiv 1705.06950; clips as in torchvision's reference
        training of video classification. Differs in videos that are too short, which are left out there, and in that the random
        clips of a video may coincide.
    """
    preparation = ClipPreparation(frame_rate, clip_len, clips_per_video, resize, size, mean, std)
    parts = folder / "train", folder / "val"
    names, held_out_names = (tuple(sorted(path.name for path in part.iterdir() if path.is_dir())) for part in parts)
    require_same_classes(parts[0], names, parts[1], held_out_names)
    train, test = (_listed(part, names) for part in parts)
    plain = VideoClips(train, preparation)
    return Data(
        "kinetics", VideoClips(train, preparation, augment=True) if augment else plain, VideoClips(test, preparation), names,
        preparation.shape, plain, tuple(mean), tuple(std), task=Video(),
        together=clips_per_video,
    )  # fmt: skip


def _listed(part: Path, names: Sequence[str]) -> tuple[tuple[Path, int], ...]:
    listed = [sorted(path for path in (part / name).iterdir() if path.suffix.lower() in ENDINGS) for name in names]
    empty = [name for name, files in zip(names, listed, strict=True) if not files]
    if empty:
        raise DataError(
            "A class of videos is empty", where=str(part), got=f"no video in {', '.join(empty[:8])}{' …' if len(empty) > 8 else ''}",
            expected=f"a video ({', '.join(ENDINGS)}) in every class", remedy="Remove the folder, or put videos into it.",
        )  # fmt: skip
    return tuple((path, label) for label, files in enumerate(listed) for path in files)
