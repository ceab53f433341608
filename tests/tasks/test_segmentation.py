"""Segmentation: scores by their definition, losses of several maps, and what does not fit together."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import tospike as ts
from references.scores import confusion, mean_iou, pixel_accuracy
from tospike.errors import DataError
from tospike.tasks import Segmentation


def scores(task, *batches):
    metrics = task.metrics(batches[0][0])
    for logits, masks in batches:
        metrics.update(logits, masks)
    return task.scores(metrics)


@given(
    classes=st.integers(2, 6), present=st.integers(1, 6), ignored=st.floats(0, 0.6), sizes=st.tuples(st.integers(1, 5), st.integers(2, 6)),
    batches=st.integers(1, 3), seed=st.integers(0, 2**16), ignore=st.sampled_from([255, 0]),
)  # fmt: skip
def test_scores_agree_with_the_confusion_matrix_by_hand(classes, present, ignored, sizes, batches, seed, ignore):
    """Some classes are in no mask and in no prediction, and some pixels are ignored, whatever is predicted there."""
    random = np.random.default_rng(seed)
    allowed = np.arange(min(present, classes))
    counts, seen = np.zeros((classes, classes), dtype=np.int64), []
    for _ in range(batches):
        shape = (2, *sizes)
        masks, guesses = random.choice(allowed, shape), random.choice(allowed, shape)
        masks[random.random(shape) < ignored] = ignore
        masks[0, 0, 0], guesses[0, 0, 0] = classes - 1, random.choice(allowed)
        counts += confusion(guesses, masks, classes, ignore)
        logits = functional.one_hot(torch.tensor(guesses), classes).movedim(-1, 1).float() + 0.1 * torch.rand(
            2, classes, *sizes
        )
        seen.append((logits, torch.tensor(masks)))
    found = scores(Segmentation(ignore=ignore), *seen)
    assert found["miou"] == pytest.approx(100 * mean_iou_of(counts, ignore), abs=1e-3)
    assert found["pixel_accuracy"] == pytest.approx(100 * pixel_accuracy(counts), abs=1e-3)


def mean_iou_of(counts, ignore):
    """A class that is ignored has no score of its own; pixels taken for it are misses of the others."""
    if ignore >= len(counts):
        return mean_iou(counts)
    shares = [
        counts[c, c] / union for c in range(len(counts))
        if c != ignore and (union := counts[c].sum() + counts[:, c].sum() - counts[c, c])
    ]  # fmt: skip
    return float(np.mean(shares))


def test_scores_of_four_pixels():
    logits = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]], [[-1.0] * 2] * 2]])  # classes 1 1 / 0 0
    masks = torch.tensor([[[1, 0], [0, 255]]])
    assert scores(Segmentation(), (logits, masks)) == pytest.approx({"miou": 50.0, "pixel_accuracy": 200 / 3})


def test_all_maps_are_trained_and_the_first_is_scored():
    out, aux, masks = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    masks[0] = 255
    first, second = (functional.cross_entropy(one[1:], masks[1:]) for one in (out, aux))
    for output in ({"out": out, "aux": aux}, (out, aux), [out, aux]):
        torch.testing.assert_close(Segmentation().loss(output, masks), first + 0.5 * second)
        torch.testing.assert_close(Segmentation(auxiliary=0.2).loss(output, masks), first + 0.2 * second)
        assert Segmentation().prediction(output) is out
    torch.testing.assert_close(Segmentation().loss(out, masks), first)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(2, 5, 4, dtype=torch.long), "do not fit together"), (torch.zeros(2, 4, 4), "do not fit together"),
        (torch.zeros(2, dtype=torch.long), "do not fit together"), (None, "do not fit together"),
        (torch.full((2, 4, 4), 3), "does not know"), (torch.full((2, 4, 4), -1), "does not know"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit_are_refused(target, message):
    with pytest.raises(DataError, match=message):
        Segmentation().check_target(torch.zeros(2, 3, 4, 4), target)
    Segmentation().check_target(torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), 255))


def test_pixels_that_count_are_asked_for():
    metrics = Segmentation().metrics(torch.zeros(2, 3, 4, 4))
    metrics.update(torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), 255))
    with pytest.raises(DataError, match="no pixels to score"):
        Segmentation().scores(metrics)


class TwoMaps(nn.Module):
    """A segmenter that tells bright pixels from dark ones."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.out, self.aux = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        y = self.features(x)
        return {"out": self.out(y), "aux": self.aux(y)}


def test_a_segmenter_is_trained_converted_and_scored():
    images = torch.rand(32, 1, 6, 6)
    masks = (images[:, 0] > 0.5).long()
    loader = [(images[:16], masks[:16]), (images[16:], masks[16:])]
    ann, task = TwoMaps(), Segmentation()
    history = ts.fit(ann, loader, loader, epochs=60, task=task, lr=0.3, progress=False)
    assert history.last.test_scores["miou"] > 85 > history.records[0].test_scores["miou"]
    snn = ts.convert(ann, ts.RobustNorm(percentile=1.0), calibration=loader, progress=False)
    result = ts.evaluate(snn, loader, task=task, time_steps=(1, 64), reference=ann, progress=False)
    assert (result.headline, result.unit, result.task) == ("miou", "%", "Segmentation")
    assert result.curve[64] == pytest.approx(result.reference, abs=3)
    assert result.curve[1] < result.curve[64]
    small = [(images, masks[:, :3])]
    with pytest.raises(DataError, match="Resize images and masks alike"):
        ts.evaluate(snn, small, task=task, time_steps=(1,), progress=False)
