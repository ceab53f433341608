import re
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from tospike import data
from tospike.data import sources
from tospike.errors import DataError, OptionError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("TOSPIKE_DATA", raising=False)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A registered set that needs two files of one layout, or one of another."""
    monkeypatch.setattr(sources, "_sources", dict(sources._sources))

    @data.source(
        "toy",
        layouts=(("a", "b.*"), ("packed",)),
        folders=(".", "toy-files"),
        places=(str(tmp_path / "usual"),),
        origin="Ask the toy maker.",
    )
    def read_toy(folder: Path, *, augment: bool = True, shade: int = 1) -> data.Data:
        part = TensorDataset(torch.zeros(1, 1))
        return data.Data(f"{folder.name} {augment} {shade}", part, part, (), (1,))

    return tmp_path


def write(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_the_names_of_the_field_are_known():
    assert set(data.available()) == {
        "digits", "fashion-mnist", "cifar10", "cifar100", "imagenet", "folder",
        "voc-segmentation", "coco-detection", "coco-segmentation", "kinetics",
        "fashion-scenes", "fashion-detection", "fashion-clips",
    }  # fmt: skip


def test_an_incomplete_layout_is_not_found(toy):
    write(toy / "usual", "a")
    assert data.find("toy") is None
    assert not data.is_available("toy")
    write(toy / "usual", "b.txt")
    assert data.find("toy") == toy / "usual"


def test_either_layout_is_found_in_the_published_folder(toy):
    assert data.find("toy", write(toy / "mine" / "toy-files", "packed").parent) == toy / "mine" / "toy-files"


def test_root_goes_before_environment_before_places(toy, monkeypatch):
    usual, environment, root = (write(toy / name, "packed") for name in ("usual", "environment", "root"))
    assert data.find("toy") == usual
    monkeypatch.setenv("TOSPIKE_DATA", str(environment))
    assert data.find("toy") == environment
    assert data.find("toy", root) == root
    assert data.find("toy", toy / "nowhere") is None


def test_load_passes_options_and_augmentation_on(toy):
    root = write(toy / "root", "packed")
    assert data.load("toy", root, augment=False, shade=3).name == "root False 3"
    assert data.load("toy", str(root)).name == "root True 1"


def test_missing_files_say_what_where_and_how(toy):
    with pytest.raises(DataError) as caught:
        data.load("toy")
    problem = caught.value.problem
    assert problem.what == "The data set toy is not on this machine"
    assert problem.where == f"{toy / 'usual'}; and in each of them in toy-files"
    assert problem.expected == "a, b.*; or packed"
    assert problem.remedy.startswith("Ask the toy maker. Put the files into a folder above")
    assert "TOSPIKE_DATA" in problem.remedy


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fashion-mnist", ["train-images-idx3-ubyte.gz", "dataset-fashion-mnist", "zalandoresearch"]),
        ("cifar10", ["data_batch_5", "test_batch.bin", "cifar-10-batches-py", "cs.toronto.edu"]),
        ("cifar100", ["fine_label_names.txt", "cifar-100-binary", "cs.toronto.edu"]),
        ("imagenet", ["val/n*/*.JPEG", "image-net.org"]),
        ("voc-segmentation", ["SegmentationClass/*.png", "VOCdevkit/VOC2012", "host.robots.ox.ac.uk"]),
        ("coco-detection", ["annotations/instances_val2017.json", "train2017/*.jpg", "cocodataset.org"]),
        ("coco-segmentation", ["annotations/instances_train2017.json", "val2017/*.jpg", "cocodataset.org"]),
        ("kinetics", ["train/*/*.mp4", "val/*/*.webm", "cvdfoundation"]),
        ("folder", ["train/*/*", "*.png", "train/<class>/*"]),
    ],
)
def test_missing_published_sets_name_their_files_and_origin(name, words, tmp_path):
    with pytest.raises(DataError) as caught:
        data.load(name, tmp_path)
    for word in [*words, str(tmp_path), "TOSPIKE_DATA"]:
        assert word in str(caught.value)


def test_a_folder_must_be_named():
    with pytest.raises(DataError, match="no folder was named"):
        data.load("folder")


def test_unknown_names_are_refused_with_a_suggestion():
    for call in (data.load, data.find, data.is_available):
        with pytest.raises(OptionError, match="Did you mean 'cifar10'") as caught:
            call("cifar-10")
        assert "fashion-mnist" in str(caught.value)


def test_unknown_options_are_refused_with_a_suggestion():
    with pytest.raises(OptionError, match=re.escape("option of the data set fashion-mnist")) as caught:
        data.load("fashion-mnist", "nowhere", cutuot=8)
    assert "'cutout'" in str(caught.value)
