import subprocess
import sys

import torch

from tospike import data


def test_the_split_is_fixed_and_by_class():
    digits = data.load("digits", augment=False)
    assert (len(digits.train), len(digits.test), digits.shape) == (1437, 360, (1, 8, 8))
    train, test = torch.bincount(digits.train.labels), torch.bincount(digits.test.labels)
    assert len(test) == 10
    assert ((test / (train + test) - 360 / 1797).abs() * (train + test) < 1).all()
    assert torch.equal(data.load("digits").test.images, digits.test.images)


def test_pixels_are_those_of_scikit_learn_over_16():
    from sklearn.datasets import load_digits

    digits = data.load("digits", augment=False)
    pairs = {(tuple((image / 16).tolist()), label) for image, label in zip(*load_digits(return_X_y=True), strict=True)}
    ours = [part.__getitems__(range(len(part))) for part in (digits.train, digits.test)]
    rows = [(tuple(image.double().flatten().tolist()), label) for batch in ours for image, label in batch]
    assert set(rows) == pairs
    assert len(rows) == 1797
    assert (ours[0].images.min(), ours[0].images.max()) == (0, 1)


def test_augmentation_shifts_training_images_only():
    torch.manual_seed(0)
    digits = data.load("digits")
    shifted, plain = digits.train.__getitems__(range(100)).images, digits.plain.__getitems__(range(100)).images
    window = torch.nn.functional.pad(plain, (1, 1, 1, 1)).unfold(2, 8, 1).unfold(3, 8, 1)
    same = (window == shifted[:, :, None, None]).flatten(4).all(-1).flatten(1)
    assert same.any(1).all()
    assert not torch.equal(shifted, plain)
    unchanged = data.load("digits", augment=False)
    assert torch.equal(unchanged.train.__getitems__(range(100)).images, plain)


def test_a_root_or_an_environment_does_not_matter(monkeypatch, tmp_path):
    monkeypatch.setenv("TOSPIKE_DATA", str(tmp_path))
    assert data.is_available("digits", tmp_path)
    assert len(data.load("digits", tmp_path / "nowhere").test) == 360


GUARDED = """
import builtins
real = builtins.__import__
def guarded(name, globals=None, *rest, **named):  # other packages may use what they find installed
    asked_by = (globals or {}).get("__name__", "")
    if asked_by.startswith("tospike") and name.split(".")[0] in ("torchvision", "PIL"):
        raise ImportError(name)
    return real(name, globals, *rest, **named)
builtins.__import__ = guarded
from tospike import data
images, _ = next(iter(data.load("digits").loaders(4)[0]))
print(len(images))
"""


def test_neither_torchvision_nor_pillow_is_needed():
    done = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4"
