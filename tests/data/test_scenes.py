import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tospike import data
from tospike.data.memory import MemoryImages
from tospike.data.scenes import BoxedScenes, SegmentedScenes, compose
from tospike.errors import OptionError
from tospike.tasks import Detection, Segmentation

ITEMS = MemoryImages(
    torch.randint(0, 256, (12, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    torch.arange(12) % 10, (0.3,), (0.3,),
)  # fmt: skip
real = pytest.mark.skipif(not data.is_available("fashion-mnist"), reason="Fashion-MNIST is not on this machine")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(32, 80), st.integers(1, 6))
def test_masks_and_boxes_say_the_same(seed, size, most):
    scene = compose(ITEMS, np.random.default_rng(seed), size, most)
    assert scene.image.shape == (3, size, size)
    assert 0 <= len(scene.boxes) <= most
    assert len(scene.boxes) == len(scene.classes)
    assert set(scene.mask.unique().tolist()) <= {0, *(scene.classes + 1).tolist()}
    assert bool(((scene.boxes >= 0) & (scene.boxes <= size)).all())
    inside = torch.zeros(size, size, dtype=torch.bool)
    for left, top, right, bottom in scene.boxes.int().tolist():
        inside[top:bottom, left:right] = True
    assert not bool((scene.mask.bool() & ~inside).any())
    for (left, top, right, bottom), label in zip(
        scene.boxes[-1:].int().tolist(), scene.classes[-1:].tolist(), strict=True
    ):
        mine = scene.mask[top:bottom, left:right] == label + 1  # nothing covers the last item, so its box is tight
        assert bool(mine.any(1)[[0, -1]].all() and mine.any(0)[[0, -1]].all())


def test_a_scene_follows_from_its_seed_alone():
    one, same, other = (compose(ITEMS, np.random.default_rng(seed), 64, 4) for seed in (7, 7, 8))
    assert torch.equal(one.image, same.image)
    assert torch.equal(one.mask, same.mask)
    assert not torch.equal(one.image, other.image)


def test_a_mirrored_scene_keeps_its_target_in_step(monkeypatch):
    scene = compose(ITEMS, np.random.default_rng(3), 64, 3)
    monkeypatch.setattr(torch, "rand", lambda *_: torch.tensor(0.0))
    image, mask = SegmentedScenes(scene.image[None], scene.mask[None], flip=True)[0]
    plain, straight = SegmentedScenes(scene.image[None], scene.mask[None])[0]
    assert torch.equal(image.flip(-1), plain)
    assert torch.equal(mask.flip(-1), straight)
    mirrored, target = BoxedScenes((scene,), flip=True)[0]
    for (left, top, right, bottom), (a, b, c, d) in zip(
        target["boxes"].int().tolist(), scene.boxes.int().tolist(), strict=True
    ):
        assert torch.equal(mirrored[:, top:bottom, left:right].flip(-1), scene.image[:, b:d, a:c].float() / 255)


@real
def test_the_sets_are_those_of_their_tasks():
    scenes = data.load("fashion-scenes", train_count=3, test_count=2)
    more = data.load("fashion-scenes", train_count=5, test_count=4)
    assert torch.equal(
        scenes.train.images, more.train.images[:3]
    )  # a scene depends on its number, not on how many there are
    assert not torch.equal(more.train.images[:2], more.test.images[:2])
    assert isinstance(scenes.task, Segmentation)
    assert scenes.task.names == scenes.classes
    boxes = data.load("fashion-detection", train_count=3, test_count=2)
    assert isinstance(boxes.task, Detection)
    images, targets = next(iter(boxes.loaders(3)[0]))
    assert [image.shape for image in images] == [(3, 96, 96)] * 3
    assert all(1 <= label <= 10 for target in targets for label in target["labels"].tolist())


@real
def test_settings_are_checked_at_once():
    with pytest.raises(OptionError) as caught:
        data.load("fashion-scenes", train_count=0, size=8, most=0)
    assert len(caught.value.problems) == 3
