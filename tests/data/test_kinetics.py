import pytest
import torch

from references.videos import numbers_in, write_video
from tospike import data
from tospike.errors import DataError, OptionError

pytest.importorskip("av")


def kinetics(root, endings=(".mp4", ".mp4")):
    for part, count in (("train", 2), ("val", 1)):
        for name, frames in (("juggling balls", 60), ("archery", 40)):
            for number in range(count):
                write_video(root / part / name / f"clip{number}{endings[number]}", frames)
    return root


def plainly(root, **settings):
    return data.load("kinetics", root, resize=(48, 64), size=48, mean=(0,) * 3, std=(1,) * 3, **settings)


def test_the_published_layout_is_read(tmp_path):
    found = data.load("kinetics", kinetics(tmp_path / "kinetics400").parent, augment=False)
    assert (found.classes, found.shape) == (("archery", "juggling balls"), (3, 16, 112, 112))
    assert (len(found.train), len(found.test)) == (20, 10)
    assert (found.mean, found.std) == ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
    (clips, labels, videos), = found.loaders(20, test_batch_size=10)[1]  # fmt: skip
    assert (clips.shape, clips.dtype) == ((10, 3, 16, 112, 112), torch.float32)
    assert labels.tolist() == [0] * 5 + [1] * 5
    assert videos.tolist() == [0] * 5 + [1] * 5
    assert found.train is found.plain
    assert [found.train[index][2] for index in (0, 4, 5, 19)] == [0, 0, 1, 3]


def test_test_clips_are_those_that_lie_evenly(tmp_path):
    found = plainly(kinetics(tmp_path), clip_len=4, clips_per_video=3)
    clips = [numbers_in(found.test[index][0].transpose(0, 1) * 255) for index in range(6)]
    assert clips[:3] == [[0, 2, 4, 6], [16, 18, 20, 22], [32, 34, 36, 38]]
    assert clips[3:] == [[0, 2, 4, 6], [26, 28, 30, 32], [52, 54, 56, 58]]


def test_augmentation_is_for_training_only(tmp_path):
    found = plainly(kinetics(tmp_path))
    assert (found.train.augment, found.plain.augment, found.test.augment) == (True, False, False)
    torch.manual_seed(0)
    first = next(iter(found.loaders(4, seed=1)[0]))
    torch.manual_seed(0)
    again = next(iter(found.loaders(4, seed=1)[0]))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


def test_videos_are_held_out_whole(tmp_path):
    found = plainly(kinetics(tmp_path))
    search = found.held_out(6, seed=1)
    held, left = ([part[number][2] for number in range(len(part))] for part in (search.test, search.train))
    assert sorted({*held, *left}) == [0, 1, 2, 3]
    assert [held.count(video) for video in sorted(set(held))] == [5, 5]
    assert [left.count(video) for video in sorted(set(left))] == [5, 5]
    with pytest.raises(OptionError, match=r"(?s)held_out.*got: 16.*\[1, 15\]"):
        found.held_out(16)


def test_all_containers_are_listed(tmp_path):
    found = data.load("kinetics", kinetics(tmp_path, (".webm", ".MP4")))
    assert [path.name for path, _ in found.train.files] == ["clip0.webm", "clip1.MP4"] * 2


def test_parts_that_differ_in_their_classes_are_refused(tmp_path):
    write_video(kinetics(tmp_path) / "val" / "yoga" / "clip.mp4", 4)
    with pytest.raises(DataError, match="only in one of them: yoga"):
        data.load("kinetics", tmp_path)


def test_an_empty_class_is_refused(tmp_path):
    kinetics(tmp_path)
    for part in ("train", "val"):
        (tmp_path / part / "yoga").mkdir()
        (tmp_path / part / "yoga" / "notes.txt").write_text("no video")
    with pytest.raises(DataError, match="no video in yoga"):
        data.load("kinetics", tmp_path)


def test_a_broken_video_is_named_when_it_is_read(tmp_path):
    path = kinetics(tmp_path) / "val" / "archery" / "clip0.mp4"
    path.write_bytes(path.read_bytes()[:-200])
    found = data.load("kinetics", tmp_path)
    with pytest.raises(DataError, match="A video cannot be read") as caught:
        found.test[0]
    assert caught.value.problem.where == str(path)
