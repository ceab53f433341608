import sys
import wave
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from references.videos import numbers_in, write_video
from tospike.data.video import ClipPreparation, VideoClips, facts_of, read_frames
from tospike.errors import DataError, MissingExtraError, OptionError

av = pytest.importorskip("av")
RATES = st.sampled_from(
    [Fraction(30), Fraction(25), Fraction(15), Fraction(10), Fraction(30000, 1001), Fraction(24000, 1001)]
)


@pytest.mark.parametrize("ending", [".mp4", ".avi", ".mkv", ".webm"])
def test_any_frame_of_any_container_can_be_read(ending, tmp_path):
    path = write_video(tmp_path / f"video{ending}")
    assert facts_of(path) == (60, 30)
    for first in (0, 1, 31, 44, 59):
        assert numbers_in(read_frames(path, [first])) == [first]
    assert numbers_in(read_frames(path, [58, 3, 3, 40])) == [58, 3, 3, 40]
    frames = read_frames(path, [2, 7])
    assert (frames.shape, frames.dtype) == ((2, 3, 48, 64), torch.uint8)


@pytest.mark.parametrize(
    ("codec", "ending"), [("libx264", ".mp4"), ("mpeg4", ".mp4"), ("libx264", ".avi"), ("libx264", ".mkv")]
)
def test_frames_that_are_stored_out_of_order_are_found(codec, ending, tmp_path):
    options = {"bf": "3", "g": "12"} | ({"sc_threshold": "0", "b_strategy": "0"} if codec == "libx264" else {})
    path = write_video(tmp_path / f"video{ending}", codec=codec, **options)
    for first in range(60):
        assert numbers_in(read_frames(path, [first])) == [first]


def test_counting_frames_decodes_nothing(tmp_path, monkeypatch):
    paths = [write_video(tmp_path / name) for name in ("a.mp4", "a.webm")]
    opened = av.open

    class Undecodable:
        def __init__(self, path):
            self.container = opened(path)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.container.close()

        def __getattr__(self, name):
            assert name != "decode"
            return getattr(self.container, name)

    monkeypatch.setattr(av, "open", Undecodable)
    assert [facts_of(path) for path in paths] == [(60, 30)] * 2
    with pytest.raises(AssertionError):
        read_frames(paths[0], [0])


@given(count=st.integers(1, 400), rate=RATES, clip_len=st.integers(1, 20), clips=st.integers(1, 6))
def test_test_clips_lie_evenly_and_inside_their_video(count, rate, clip_len, clips):
    preparation = ClipPreparation(clip_len=clip_len, clips_per_video=clips)
    clip_starts = [preparation.evenly(clip, count, rate) for clip in range(clips)]
    last = preparation.starts(count, rate) - 1
    assert clip_starts[0] == 0
    assert clip_starts[-1] == (last if clips > 1 else 0)
    gaps = [later - earlier for earlier, later in pairwise(clip_starts)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1
    for start in clip_starts:
        frames = preparation.frames(start, count, rate)
        assert len(frames) == clip_len
        assert all(0 <= frame < count for frame in frames)


@pytest.mark.parametrize(
    ("rate", "start", "expected"),
    [
        (Fraction(30), 3, [6, 8, 10, 12]),
        (Fraction(25), 0, [0, 1, 3, 5]),
        (Fraction(25), 3, [5, 6, 8, 10]),
        (Fraction(10), 0, [0, 0, 1, 2]),  # slower than the clip: frames are shown twice
        (Fraction(30000, 1001), 3, [5, 7, 9, 11]),
    ],
)
def test_clips_have_their_own_frame_rate(rate, start, expected):
    assert ClipPreparation(clip_len=4).frames(start, 100, rate) == expected


def test_short_videos_begin_again(tmp_path):
    path = write_video(tmp_path / "short.mp4", frames=12)
    clips = VideoClips(
        ((path, 3),), ClipPreparation(resize=(48, 64), size=48, mean=(0,) * 3, std=(1,) * 3, clips_per_video=2)
    )
    assert ClipPreparation().frames(0, *facts_of(path)) == [0, 2, 4, 6, 8, 10, 0, 2, 4, 6, 8, 10, 0, 2, 4, 6]
    for index in (0, 1):
        clip, label, video = clips[index]
        assert numbers_in(clip.transpose(0, 1) * 255) == [0, 2, 4, 6, 8, 10, 0, 2, 4, 6, 8, 10, 0, 2, 4, 6]
        assert (label, video) == (3, 0)
    single = write_video(tmp_path / "single.webm", frames=1)
    assert VideoClips(((single, 0),), ClipPreparation())[4][0].shape == (3, 16, 112, 112)


def test_test_clips_are_scaled_and_cut_as_torchvision_does():
    presets = pytest.importorskip("torchvision.transforms._presets")
    frames = torch.randint(0, 256, (16, 3, 90, 120), dtype=torch.uint8)
    clip = ClipPreparation().clip(frames, augment=False)
    assert clip.shape == ClipPreparation().shape == (3, 16, 112, 112)
    torch.testing.assert_close(clip, presets.VideoClassification(crop_size=(112, 112), resize_size=(128, 171))(frames))


def test_training_clips_are_cut_and_mirrored_alike_in_all_frames():
    preparation = ClipPreparation(clip_len=2, resize=(20, 30), size=16, mean=(0,) * 3, std=(1,) * 3)
    rows, columns = torch.arange(20).view(20, 1).expand(20, 30), torch.arange(30).expand(20, 30)
    frames = torch.stack([rows, columns, rows * 0]).to(torch.uint8).expand(2, 3, 20, 30)
    seen = set()
    for seed in range(200):
        torch.manual_seed(seed)
        clip = (preparation.clip(frames, augment=True) * 255).round().long()
        assert torch.equal(clip[:, 0], clip[:, 1])
        top, left, right = clip[0, 0, 0, 0], clip[1, 0, 0, 0], clip[1, 0, 0, -1]
        assert abs(int(right - left)) == 15
        seen.add((int(top), int(min(left, right)), bool(left > right)))
    assert {top for top, _, _ in seen} == set(range(5))
    assert {left for _, left, _ in seen} == set(range(15))
    assert {mirrored for _, _, mirrored in seen} == {True, False}


def test_training_clips_start_anywhere_and_follow_the_seed(tmp_path):
    path = write_video(tmp_path / "video.mp4")
    preparation = ClipPreparation(resize=(48, 64), size=48, mean=(0,) * 3, std=(1,) * 3)
    clips = VideoClips(((path, 0),), preparation, augment=True)

    def starts():
        torch.manual_seed(3)
        return [numbers_in(clips[index][0].transpose(0, 1) * 255)[0] for index in [*range(5)] * 6]

    first = starts()
    assert starts() == first
    assert len(set(first)) > 8
    assert set(first) <= set(range(0, 29, 2))


@pytest.mark.parametrize("name", ["text.mp4", "empty.mp4", "cut.mp4", "sound.mp4", "absent.mp4", "folder.mp4"])
def test_a_file_that_is_no_video_is_named(name, tmp_path):
    whole = write_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "text.mp4").write_text("no video " * 50)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "folder.mp4").mkdir()
    with wave.open(str(tmp_path / "sound.mp4"), "wb") as sound:
        sound.setparams((1, 2, 8000, 8000, "NONE", ""))
        sound.writeframes(bytes(16000))
    with pytest.raises(DataError, match="A video cannot be read") as caught:
        VideoClips(((tmp_path / name, 0),), ClipPreparation())[0]
    assert caught.value.problem.where == str(tmp_path / name)


def test_damage_within_a_file_is_named(tmp_path):
    path = write_video(tmp_path / "video.mp4")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start + 20 : start + 900] = bytes(880)
    path.write_bytes(content)
    with pytest.raises(DataError, match="A video cannot be read") as caught:
        read_frames(path, range(0, 60, 2))
    assert caught.value.problem.where == str(path)


def test_a_video_that_ends_early_is_named_and_a_frame_too_few_is_filled_in(tmp_path):
    path = write_video(tmp_path / "video.mp4")
    assert numbers_in(read_frames(path, [59, 60, 80])) == [59, 59, 59]
    with pytest.raises(DataError, match="no frame after number 59"):
        read_frames(path, [59, 100])


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"frame_rate": 0}, "frame_rate"),
        ({"clip_len": 0}, "clip_len"),
        ({"clips_per_video": 1.5}, "clips_per_video"),
        ({"size": 129}, "resize"),
        ({"resize": (128,)}, "resize"),
        ({"mean": ()}, "mean, std"),
        ({"std": (1, 0, 1)}, "mean, std"),
    ],
)
def test_settings_out_of_range_are_refused(settings, word):
    with pytest.raises(OptionError, match=f"`{word}` of clips is out of range"):
        ClipPreparation(**settings)


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"tospike\[video\]"):
        facts_of(tmp_path / "video.mp4")
