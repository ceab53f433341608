import sys

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tospike import data
from tospike.data import preview
from tospike.errors import DataError, OptionError
from tospike.pictures.palette import colours

pytest.importorskip("PIL.Image")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
CLASSES = ("background", "boot", "dress")


class Samples(Dataset):
    def __init__(self, samples):
        self.samples, self.read = samples, []

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.read.append(index)
        return self.samples[index]


def found(samples, mean=MEAN, std=STD):
    part = Samples(samples)
    return data.Data("own", part, part, CLASSES, (3, 8, 8), None, mean, std)


def image(*shape):
    return torch.zeros(shape or (3, 20, 20))  # 0.5 once its normalisation is undone


def has(picture, colour):
    return bool((np.array(picture) == np.array(colour)).all(-1).any())


@pytest.fixture
def written(monkeypatch):
    """What a sheet was given beside its images."""
    kept = {}
    module = sys.modules["tospike.data.preview"]
    drawn = module.sheet

    def recorded(rows, *titles, **settings):
        kept.update(rows=rows, titles=titles, **settings)
        return drawn(rows, *titles, **settings)

    monkeypatch.setattr(module, "sheet", recorded)
    return kept


def test_images_are_shown_with_their_classes(written):
    samples = [(image(), number % 3) for number in range(6)]
    picture = preview(found(samples))
    assert written["captions"] == [["background", "boot", "dress", "background"], ["boot", "dress"]]
    assert has(picture, (128, 128, 128))


def test_images_without_classes_are_numbered(written):
    preview(found([image() for _ in range(2)]))
    assert written["captions"] == [["0", "1"]]
    preview(found([(image(), torch.tensor(7))]))
    assert written["captions"] == [["7"]]


def test_samples_lie_evenly_over_the_part():
    toy = found([(image(), 0)] * 100)
    preview(toy, samples=4)
    assert toy.test.read == [0, 25, 50, 75]
    few = found([(image(), 0)] * 3)
    preview(few, samples=8)
    assert few.test.read == [0, 1, 2]


def test_the_part_can_be_chosen():
    test, train = Samples([(image(), 0)]), Samples([(image(), 1)])
    preview(data.Data("own", train, test, CLASSES, (3, 20, 20)), part="train")
    assert (test.read, train.read) == ([], [0])


def test_masks_are_drawn_over_images_with_the_classes_that_occur(written):
    mask = torch.zeros(20, 20, dtype=torch.int64)
    mask[5:10] = 2
    mask[10:12] = 255
    picture = preview(found([(image(), mask), (image(), mask * 0)]))
    assert written["legend"] == {2: "dress", 255: "ignored"}
    assert written["captions"] == [["0", "1"], ["", ""]]
    mixed = (colours(3)[2].float() * 153 / 255 + 128 * 102 / 255).round()
    assert any(has(picture, (mixed + shift).tolist()) for shift in (-1, 0, 1))
    assert has(picture, colours(3)[2].tolist())
    assert not has(picture, colours(3)[1].tolist())


def test_boxes_are_drawn_with_names_in_images_of_any_size(written):
    target = {"boxes": torch.tensor([[2.0, 3, 12, 15]]), "labels": torch.tensor([2])}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    picture = preview(found([(image(), target), (image(3, 30, 40), empty)]))
    assert written["captions"] == [["0: 1 box", "1: 0 boxes"]]
    assert has(picture, colours(3)[2].tolist())


def test_clips_are_rows_of_frames(written):
    clip = torch.stack([torch.full((1, 20, 20), (number / 16 - 0.5) / 0.25) for number in range(16)], 1)
    picture = preview(found([(clip, 1, 0), (clip, torch.tensor(2), torch.tensor(5))], (0.5,), (0.25,)))
    frames, titles = written["titles"]
    assert frames == [f"frame {number}" for number in range(0, 16, 2)]
    assert titles == ["0\nboot\nvideo 0", "1\ndress\nvideo 5"]
    assert [len(row) for row in written["rows"]] == [8, 8]
    shades = [row_image.getpixel((0, 0))[0] for row_image in written["rows"][0]]
    assert shades == [round(number / 16 * 255) for number in range(0, 16, 2)]
    assert has(picture, (shades[3],) * 3)


def test_short_clips_show_every_frame(written):
    preview(found([(image(3, 3, 20, 20), 1)]))
    assert written["titles"] == (["frame 0", "frame 1", "frame 2"], ["0\nboot"])


@pytest.mark.parametrize(
    "sample",
    [
        (torch.zeros(2, 20, 20), 1),
        (torch.zeros(5), 1),
        (torch.zeros(3, 20, 20), torch.zeros(20, 20)),
        (torch.zeros(3, 20, 20), {"text": "a"}),
        ("text", 3),
    ],
)
def test_samples_of_other_shapes_are_refused(sample):
    with pytest.raises(DataError, match="Samples of own cannot be drawn"):
        preview(found([sample], (), ()))


@pytest.mark.parametrize("settings", [{"samples": 0}, {"part": "val"}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(OptionError, match="of the preview is out of range"):
        preview(found([(image(), 0)]), **settings)


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
def test_sets_on_this_machine_can_be_looked_at(name, written):
    if not data.is_available(name):
        pytest.skip(f"{name} is not on this machine")
    read = data.load(name, augment=False)
    preview(read, samples=4)
    pixels = np.array(written["rows"][0][0])[..., 0]
    part = read.test.images[0, 0]
    assert np.allclose(pixels, part.numpy() / read.test.scale * 255, atol=1)
