import gzip
import struct

import pytest
import torch

from tospike import data
from tospike.data.fashion_mnist import FILES, MEAN, STD, read_idx
from tospike.errors import DataError

REAL = data.find("fashion-mnist")
needs_files = pytest.mark.skipif(REAL is None, reason="the files of Fashion-MNIST are not on this machine")


def idx(values):
    return struct.pack(f">I{values.ndim}I", 0x0800 | values.ndim, *values.shape) + bytes(values.flatten().tolist())


def published(folder, packed=True, train=12, test=5, **replaced):
    generator = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, file in (("train", train, FILES[:2]), ("test", test, FILES[2:])):
        pixels = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=generator)
        values = {file[0]: replaced.get(f"{name}_images", pixels),
                  file[1]: replaced.get(f"{name}_labels", torch.arange(count, dtype=torch.uint8) % 10)}  # fmt: skip
        for path, value in values.items():
            content = idx(value)
            (folder / f"{path}.gz").write_bytes(gzip.compress(content)) if packed else (folder / path).write_bytes(
                content
            )
    return folder


@pytest.mark.parametrize(("packed", "below"), [(True, "fashion-mnist"), (False, "FashionMNIST/raw"), (True, ".")])
def test_the_published_layouts_are_read(packed, below, tmp_path):
    published(tmp_path / below, packed)
    fashion = data.load("fashion-mnist", tmp_path, augment=False)
    assert (len(fashion.train), len(fashion.test), fashion.shape) == (12, 5, (1, 28, 28))
    assert fashion.classes[9] == "Ankle boot"
    image, label = fashion.train[3]
    stored = read_idx(tmp_path / below / (FILES[0] + (".gz" if packed else "")))[3]
    torch.testing.assert_close(image[0], (stored / 255 - 0.2860) / 0.3530)
    assert label == 3


def test_training_alone_is_augmented(tmp_path):
    torch.manual_seed(0)
    fashion = data.load("fashion-mnist", published(tmp_path))
    plain = data.load("fashion-mnist", tmp_path, augment=False, cutout=8)
    rows = range(12)
    assert not torch.equal(fashion.train.__getitems__(rows).images, plain.train.__getitems__(rows).images)
    assert torch.equal(fashion.plain.__getitems__(rows).images, plain.train.__getitems__(rows).images)
    assert torch.equal(fashion.test.__getitems__(range(5)).images, plain.test.__getitems__(range(5)).images)


def test_augmentation_is_a_shift_by_two_a_mirror_image_and_no_more(tmp_path):
    torch.manual_seed(0)
    fashion = data.load("fashion-mnist", published(tmp_path))
    stored = torch.nn.functional.pad(fashion.plain.images[:1], (2, 2, 2, 2))
    allowed = {
        tuple(image[..., top : top + 28, left : left + 28].flatten().tolist())
        for image in (stored, torch.nn.functional.pad(fashion.plain.images[:1].flip(-1), (2, 2, 2, 2)))
        for top in range(5)
        for left in range(5)
    }
    pixels = fashion.train.__getitems__([0] * 600).images * STD[0] + MEAN[0]
    seen = {tuple((image * 255).round().byte().flatten().tolist()) for image in pixels}
    assert seen == allowed


def test_cutout_comes_after_normalisation(tmp_path):
    black = torch.zeros(12, 28, 28, dtype=torch.uint8)
    fashion = data.load("fashion-mnist", published(tmp_path, train_images=black), cutout=8)
    values = fashion.train.__getitems__(range(12)).images.unique()
    torch.testing.assert_close(values, torch.tensor([-MEAN[0] / STD[0], 0.0]))


def test_calibration_has_no_augmentation(tmp_path):
    fashion = data.load("fashion-mnist", published(tmp_path), cutout=8)
    (images, _), = fashion.calibration(12)  # fmt: skip
    expected = fashion.plain.__getitems__(range(12)).images
    assert sorted(images.sum((1, 2, 3)).tolist()) == pytest.approx(sorted(expected.sum((1, 2, 3)).tolist()))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (idx(torch.zeros(2, 3, dtype=torch.uint8))[:-1], "5 bytes of data"),
        (idx(torch.zeros(2, 3, dtype=torch.uint8)) + b"\0", "7 bytes of data"),
        (b"\0\0\x0d\x01" + struct.pack(">If", 1, 1.0), "begin with 00 00 0d 01"),
        (b"\x89PNG\r\n", "begin with 89 50 4e 47"),
        (b"\0\0\x08", "3 bytes"),
        (b"\0\0\x08\x03\0\0\0\x01", "8 bytes"),
        (b"", "0 bytes"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_damaged_files_are_refused(content, words, packed, tmp_path):
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=words) as caught:
        read_idx(path)
    assert caught.value.problem.where == str(path)


def test_a_truncated_or_false_archive_is_refused(tmp_path):
    whole = gzip.compress(idx(torch.arange(200, dtype=torch.uint8)))
    for content in (whole[:-20], b"not an archive", whole[:30] + b"\xff" * 40 + whole[70:]):
        (tmp_path / "labels.gz").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_idx(tmp_path / "labels.gz")


@pytest.mark.parametrize(
    "replaced",
    [
        {"train_labels": torch.zeros(11, dtype=torch.uint8)},
        {"test_labels": torch.full((5,), 10, dtype=torch.uint8)},
        {"test_images": torch.zeros(5, 28, 27, dtype=torch.uint8)},
        {"train_images": torch.zeros(12, dtype=torch.uint8)},
    ],
)
def test_files_of_another_set_are_refused(replaced, tmp_path):
    with pytest.raises(DataError, match="not those of Fashion-MNIST"):
        data.load("fashion-mnist", published(tmp_path, **replaced))


def test_an_empty_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="The train part of fashion-mnist holds no sample"):
        data.load("fashion-mnist", published(tmp_path, train=0))


@needs_files
def test_the_real_set_has_its_published_size_and_statistics():
    fashion = data.load("fashion-mnist", REAL)
    assert (len(fashion.train), len(fashion.test)) == (60000, 10000)
    assert torch.bincount(fashion.train.labels).tolist() == [6000] * 10
    assert torch.bincount(fashion.test.labels).tolist() == [1000] * 10
    pixels = fashion.train.images.double() / 255
    assert float(pixels.mean()) == pytest.approx(MEAN[0], abs=5e-5)
    assert float(pixels.std()) == pytest.approx(STD[0], abs=5e-5)


@needs_files
def test_the_real_set_is_normalised_to_zero_mean_and_unit_deviation():
    (images, _), = data.load("fashion-mnist", REAL).calibration(60000)  # fmt: skip
    assert float(images.mean()) == pytest.approx(0, abs=1e-3)
    assert float(images.std()) == pytest.approx(1, abs=1e-3)
