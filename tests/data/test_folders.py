import sys

import numpy as np
import pytest
import torch

from tospike import data
from tospike.data.folders import open_image
from tospike.errors import DataError, MissingExtraError, OptionError

pytest.importorskip("torchvision")
Image = pytest.importorskip("PIL.Image")
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
WNIDS = ("n01440764", "n01443537")


def image(path, colour=(200, 100, 50), size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def gradient(path, size=(64, 48)):
    """An image whose red is its column and whose green is its row, times 4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", size)
    picture.putdata([(4 * column, 4 * row, 0) for row in range(size[1]) for column in range(size[0])])
    picture.save(path)


def imagenet(root, parts=("train", "val")):
    for part in parts:
        for number, wnid in enumerate(WNIDS):
            for count in range(3 if part == "train" else 2):
                image(root / part / wnid / f"{wnid}_{count}.JPEG", (80 * number + 20, 100, 50))
    return root


def own(root, held_out="test", classes=("cat", "dog")):
    for part in ("train", held_out):
        for number, name in enumerate(classes):
            image(root / part / name / "one.png", (50 + 100 * number, 0, 255))
    return root


def test_imagenet_is_read_in_its_published_layout(tmp_path):
    read = data.load("imagenet", imagenet(tmp_path / "imagenet").parent)
    assert (len(read.train), len(read.test), read.shape, read.classes) == (6, 4, (3, 224, 224), WNIDS)
    images, labels = next(iter(read.loaders(6)[0]))
    assert images.shape == (6, 3, 224, 224)
    assert labels.tolist().count(1) == 3
    assert [label for _, labels in read.loaders(6)[1] for label in labels.tolist()] == [0, 0, 1, 1]


def test_test_images_are_normalised_by_the_constants_of_imagenet(tmp_path):
    image(tmp_path / "a.png", (200, 100, 50))
    read = data.load("folder", tmp_path, size=32)
    expected = (torch.tensor([200, 100, 50]) / 255 - MEAN) / STD
    torch.testing.assert_close(read.test[0], expected.view(3, 1, 1).expand(3, 32, 32))


def test_test_images_are_the_centre_of_the_scaled_image(tmp_path):
    gradient(tmp_path / "a.png")
    read = data.load("folder", tmp_path, size=42, mean=(0, 0, 0), std=(1, 1, 1))
    pixels = (read.test[0] * 255).round()
    # the shorter side is 42 * 8 / 7 = 48 already, so the centre is columns 11..52 and rows 3..44 of the image
    assert pixels[0, 0].tolist() == [4 * column for column in range(11, 53)]
    assert pixels[1, :, 0].tolist() == [4 * row for row in range(3, 45)]


def test_the_network_may_prescribe_its_own_preparation(tmp_path):
    gradient(tmp_path / "a.png", (40, 40))
    settings = {"size": 20, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    bicubic = data.load("folder", tmp_path, resize=20, interpolation="bicubic", **settings).test[0]
    picture = Image.open(tmp_path / "a.png").resize((20, 20), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(picture))
    torch.testing.assert_close(bicubic.permute(1, 2, 0), (expected / 255 - 0.5) / 0.25)
    assert not torch.equal(bicubic, data.load("folder", tmp_path, resize=20, **settings).test[0])


def test_training_images_are_windows_mirrored_and_changed_in_colour(tmp_path):
    gradient(tmp_path / "a.png")
    read = data.load("folder", tmp_path, size=24, mean=(0, 0, 0), std=(1, 1, 1))
    steps = [type(step).__name__ for step in read.train.transform.transforms]
    assert steps == ["RandomResizedCrop", "RandomHorizontalFlip", "ColorJitter", "ToTensor", "Normalize"]
    jitter = read.train.transform.transforms[2]
    assert (jitter.brightness, jitter.contrast) == ((0.8, 1.2), (0.8, 1.2))
    assert (jitter.saturation, jitter.hue) == ((0.8, 1.2), (-0.1, 0.1))
    torch.manual_seed(0)
    drawn = [read.train[0] for _ in range(20)]
    directions = {bool(pixels[0, 12, -1] > pixels[0, 12, 0]) for pixels in drawn}
    assert directions == {True, False}
    torch.manual_seed(0)
    assert torch.equal(read.train[0], drawn[0])


def test_calibration_has_no_augmentation(tmp_path):
    for read in (
        data.load("imagenet", imagenet(tmp_path / "imagenet")),
        data.load("folder", own(tmp_path / "own"), size=16),
    ):
        images, _ = next(iter(read.calibration(1)))
        colours = {tuple(read.plain[index][0][:, 0, 0].tolist()) for index in range(len(read.plain))}
        assert tuple(images[0, :, 5, 5].tolist()) in colours
        assert images.flatten(2).std(2).max() < 1e-6
        assert len(read.calibration(1)) == len(read.train)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_folder_of_own_classes_is_read(held_out, tmp_path):
    read = data.load("folder", own(tmp_path, held_out), size=16, augment=False)
    assert (read.classes, read.shape, len(read.train), len(read.test)) == (("cat", "dog"), (3, 16, 16), 2, 2)
    assert read.train is read.plain
    assert [read.test[index][1] for index in range(2)] == [0, 1]
    assert read.test[1][0][0, 0, 0] == pytest.approx((150 / 255 - 0.485) / 0.229)


def test_images_without_labels_are_enough_to_calibrate(tmp_path):
    for number in range(5):
        image(tmp_path / f"{number}.{'jpg' if number else 'PNG'}", (10 * number, 0, 0))
    (tmp_path / "notes.txt").write_text("not an image")
    read = data.load("folder", tmp_path, size=16)
    assert read.classes == ()
    batches = list(read.calibration(2))
    assert [tuple(batch.shape) for batch in batches] == [(2, 3, 16, 16), (2, 3, 16, 16), (1, 3, 16, 16)]
    assert next(iter(read.loaders(5)[0])).shape == (5, 3, 16, 16)


def test_grey_and_transparent_images_become_three_colours(tmp_path):
    Image.new("L", (20, 20), 128).save(tmp_path / "a.png")
    Image.new("RGBA", (20, 20), (1, 2, 3, 4)).save(tmp_path / "b.png")
    assert next(iter(data.load("folder", tmp_path, size=16).calibration(2))).shape == (2, 3, 16, 16)


def test_parts_that_differ_in_their_classes_are_refused(tmp_path):
    own(tmp_path)
    image(tmp_path / "test" / "bird" / "one.png")
    with pytest.raises(DataError, match="only in one of them: bird"):
        data.load("folder", tmp_path)


def test_an_empty_class_is_refused(tmp_path):
    own(tmp_path)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="A class of images is empty"):
        data.load("folder", tmp_path)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    gradient(tmp_path / "whole.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-60])
    for name in ("text.png", "short.png"):
        with pytest.raises(DataError, match="An image cannot be read") as caught:
            open_image(tmp_path / name)
        assert caught.value.problem.where == str(tmp_path / name)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"interpolation": "cubic"}, "Unknown interpolation"),
        ({"size": 0}, "sizes do not fit"),
        ({"size": 64, "resize": 32}, "sizes do not fit"),
        ({"mean": (0.5,)}, "normalisation of images does not fit"),
        ({"std": (1, 0, 1)}, "normalisation of images does not fit"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words, tmp_path):
    image(tmp_path / "a.png")
    with pytest.raises(OptionError, match=words):
        data.load("folder", tmp_path, **settings)


def test_missing_packages_name_the_extra(tmp_path, monkeypatch):
    image(tmp_path / "a.png")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torchvision", None)
        with pytest.raises(MissingExtraError, match=r"torchvision is needed .*\n.*\n.*tospike\[vision\]"):
            data.load("folder", tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match="Pillow is needed"):
        open_image(tmp_path / "a.png")


def test_paths_are_sorted_so_that_an_index_is_the_same_image_everywhere(tmp_path):
    for name in ("c.png", "a.png", "b.png"):
        image(tmp_path / name)
    assert [path.name for path in data.load("folder", tmp_path).train.files] == ["a.png", "b.png", "c.png"]
