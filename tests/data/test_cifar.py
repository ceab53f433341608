import pickle
import struct

import numpy as np
import pytest
import torch

from tospike import data
from tospike.errors import DataError

NAMES = {"cifar10": [f"class{n}" for n in range(10)], "cifar100": [f"fine{n}" for n in range(100)]}
FOLDERS = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-batches-bin"),
    "cifar100": ("cifar-100-python", "cifar-100-binary"),
}
FILES = {"cifar10": [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"], "cifar100": ["train", "test"]}
ROWS = 4


class PublishedPickler(pickle._Pickler):
    """Writes as Python 2 did, which is how the sets are published: bytes as STRING, arrays by their old name."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch[bytes] = save_bytes

    def save_str(self, value):
        self.save_bytes(value.encode())

    dispatch[str] = save_str

    def save_global(self, value, name=None):
        module = "numpy.core.multiarray" if value.__name__ == "_reconstruct" else value.__module__
        self.write(pickle.GLOBAL + f"{module}\n{value.__name__}\n".encode())

    dispatch[type] = save_global
    dispatch[type(np.empty)] = save_global


def dump(path, content):
    with path.open("wb") as file:
        PublishedPickler(file, protocol=2).dump(content)


def samples(name, file):
    """Pixels and labels of a file, the same in either layout."""
    generator = np.random.default_rng([FILES[name].index(file), len(name)])
    return generator.integers(0, 256, (ROWS, 3072), np.uint8), generator.integers(0, len(NAMES[name]), ROWS)


def published(root, name, binary=False, **replaced):
    folder = root / FOLDERS[name][binary]
    folder.mkdir(parents=True)
    fine, meta = name == "cifar100", "meta" if name == "cifar100" else "batches.meta"
    names = b"fine_label_names" if fine else b"label_names"
    if binary:
        text = "fine_label_names.txt" if fine else "batches.meta.txt"
        (folder / text).write_text("\n".join(NAMES[name]) + "\n\n")
    else:
        dump(folder / meta, {names: [text.encode() for text in NAMES[name]]})
    for file in FILES[name]:
        pixels, labels = samples(name, file)
        coarse = (labels // 5)[:, None] if fine else np.empty((ROWS, 0))
        if binary:
            np.hstack([coarse, labels[:, None], pixels]).astype(np.uint8).tofile(folder / f"{file}.bin")
        else:
            content = {b"data": pixels, b"fine_labels" if fine else b"labels": labels.tolist(), b"batch_label": b"one"}
            dump(folder / file, {**content, **replaced})
    return folder


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_published_layouts_are_read(name, binary, tmp_path):
    published(tmp_path, name, binary)
    cifar = data.load(name, tmp_path, augment=False)
    assert (len(cifar.train), len(cifar.test)) == (ROWS * (len(FILES[name]) - 1), ROWS)
    assert cifar.shape == (3, 32, 32)
    assert list(cifar.classes) == NAMES[name]
    for part, files in ((cifar.train, FILES[name][:-1]), (cifar.test, FILES[name][-1:])):
        pixels, labels = (np.concatenate(arrays) for arrays in zip(*(samples(name, f) for f in files), strict=True))
        assert part.labels.tolist() == labels.tolist()
        assert np.array_equal(part.images.numpy(), pixels.reshape(-1, 3, 32, 32))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("cifar100", (0.507058824, 0.486666667, 0.440784314), (0.267450980, 0.256470588, 0.276078431)),
    ],
)
def test_normalisation_is_that_of_the_paper(name, mean, std, tmp_path):
    cifar = data.load(name, published(tmp_path, name), augment=False)
    image = cifar.test.images[1].double() / 255
    expected = torch.stack([(image[c] - mean[c]) / std[c] for c in range(3)])
    torch.testing.assert_close(cifar.test[1][0].double(), expected, atol=2e-6, rtol=2e-6)


def test_augmentation_is_that_of_the_paper_and_for_training_only(tmp_path):
    pytest.importorskip("torchvision")
    cifar = data.load("cifar10", published(tmp_path, "cifar10"))
    described = [repr(step) for step in (*cifar.train.before[:2], *cifar.train.after)]
    assert described == ["RandomShift(padding=4)", "RandomFlip(probability=0.5)", "Cutout(size=16)"]
    assert isinstance(cifar.train.before[2], data.AutoAugment)
    assert len(cifar.train.before) == 3
    for part in (cifar.test, cifar.plain):
        assert (part.before, part.after) == ((), ())
    torch.manual_seed(0)
    images, labels = next(iter(cifar.loaders(20)[0]))
    torch.manual_seed(0)
    assert torch.equal(next(iter(cifar.loaders(20)[0]))[0], images)
    holes = (images == 0).all(1).flatten(1).sum(1)
    assert (holes >= 64).all()
    assert (holes <= 256).all()
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_auto_augment_is_part_of_cifar100_too(tmp_path):
    pytest.importorskip("torchvision")
    cifar = data.load("cifar100", published(tmp_path, "cifar100"))
    assert any(isinstance(step, data.AutoAugment) for step in cifar.train.before)


def test_augmentation_can_be_chosen_and_then_needs_no_torchvision(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
    cifar = data.load("cifar10", published(tmp_path, "cifar10"), auto_augment=False, cutout=0)
    assert len(cifar.train.before) == 2
    assert cifar.train.after == ()


def test_calibration_has_no_augmentation(tmp_path):
    cifar = data.load("cifar10", published(tmp_path, "cifar10"), auto_augment=False)
    (images, _), = cifar.calibration(20)  # fmt: skip
    expected = {tuple(image.flatten().tolist()) for image, _ in cifar.plain.__getitems__(range(20))}
    assert {tuple(image.flatten().tolist()) for image in images} == expected


class Payload:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["data", "labels", "meta"])
def test_a_pickle_that_runs_code_is_refused_before_it_runs(place, tmp_path):
    folder, mark = published(tmp_path, "cifar10"), tmp_path / "executed"
    content = {b"data": samples("cifar10", "test_batch")[0], b"labels": [0] * ROWS}
    evil = Payload(open, str(mark), "w")
    content = {b"label_names": evil} if place == "meta" else {**content, place.encode(): evil}
    path = folder / ("batches.meta" if place == "meta" else "test_batch")
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"the file asks for _?io\.open") as caught:
        data.load("cifar10", tmp_path)
    assert str(path) in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    "asked",
    [b"builtins\neval", b"numpy\nload", b"numpy.core.multiarray\nfromfile", b"os\n_reconstruct", b"_codecs\nencode"],
)
def test_nothing_but_arrays_is_admitted(asked, tmp_path):
    (published(tmp_path, "cifar10") / "data_batch_3").write_bytes(b"c" + asked + b"\n.")
    with pytest.raises(DataError, match="the file asks for " + asked.decode().replace("\n", ".")):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        ({b"data": np.zeros((ROWS, 3071), np.uint8)}, r"pixels uint8 \(4, 3071\)"),
        ({b"data": np.zeros((ROWS, 3072), np.float32)}, "pixels float32"),
        ({b"data": np.zeros((ROWS + 1, 3072), np.uint8)}, "and 4 labels"),
        ({b"data": [1, 2]}, "pixels list"),
        ({b"labels": [0, 1, 2, 10]}, "labels from 0 to 10"),
        ({b"labels": [0, 1, 2, -1]}, "labels from -1 to 2"),
    ],
)
def test_false_contents_are_refused(replaced, words, tmp_path):
    folder = published(tmp_path, "cifar10")
    pixels, labels = samples("cifar10", "test_batch")
    dump(folder / "test_batch", {b"data": pixels, b"labels": labels.tolist(), **replaced})
    with pytest.raises(DataError, match=words) as caught:
        data.load("cifar10", tmp_path)
    assert caught.value.problem.where == str(folder / "test_batch")


@pytest.mark.parametrize("content", [[1, 2], {b"labels": [1]}])
def test_a_pickle_without_the_keys_is_refused(content, tmp_path):
    dump(published(tmp_path, "cifar10") / "data_batch_2", content)
    with pytest.raises(DataError, match="a dict with the key b'data'"):
        data.load("cifar10", tmp_path)


def test_a_truncated_pickle_is_refused(tmp_path):
    path = published(tmp_path, "cifar100") / "train"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match="a pickle of plain values and arrays"):
        data.load("cifar100", tmp_path)


@pytest.mark.parametrize(("name", "record"), [("cifar10", 3073), ("cifar100", 3074)])
def test_a_truncated_binary_file_is_refused(name, record, tmp_path):
    path = published(tmp_path, name, binary=True) / f"{FILES[name][-1]}.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"a multiple of {record}"):
        data.load(name, tmp_path)
