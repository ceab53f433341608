"""Video: accuracies of videos by looping over their clips, and what does not fit together."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tospike as ts
from references.scores import video_accuracy
from tospike.errors import DataError
from tospike.tasks import Video


@given(
    videos=st.lists(st.integers(0, 5), min_size=1, max_size=14), classes=st.integers(2, 5), k=st.integers(1, 3), cut=st.integers(0, 14),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_accuracy_agrees_with_a_loop_over_videos(videos, classes, k, cut, seed):
    """The clips of a video may come in any order, and in different batches."""
    random = np.random.default_rng(seed)
    truth = random.integers(classes, size=6)
    logits, labels = 2 * random.normal(size=(len(videos), classes)), [int(truth[video]) for video in videos]
    task = Video(top=(k,))
    metrics = task.metrics(torch.zeros(1, classes))
    for part in (slice(0, cut), slice(cut, None)):
        if videos[part]:
            target = torch.tensor(labels[part]), torch.tensor(videos[part])
            metrics.update(torch.tensor(logits[part]), target)
    found = task.scores(metrics)
    assert found[f"top{k}"] == pytest.approx(100 * video_accuracy(logits, labels, videos, k))
    alone = video_accuracy(logits, labels, list(range(len(videos))), k)
    assert found[f"clip_top{k}"] == pytest.approx(100 * alone)


def test_three_clips_outvote_one_another():
    """Two clips that are nearly undecided lose against one that is sure."""
    logits = torch.tensor([[0.1, 0.0], [0.1, 0.0], [0.0, 9.0]])
    metrics = Video(top=(1,)).metrics(logits)
    metrics.update(logits, (torch.tensor([1, 1, 1]), torch.tensor([4, 4, 4])))
    assert Video(top=(1,)).scores(metrics) == pytest.approx({"top1": 100.0, "clip_top1": 100 / 3})
    metrics.reset()
    metrics.update(logits, (torch.tensor([0, 0, 0]), torch.tensor([4, 5, 6])))
    assert Video(top=(1,)).scores(metrics) == pytest.approx({"top1": 200 / 3, "clip_top1": 200 / 3})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(3, dtype=torch.long), "the number of their video"), (None, "the number of their video"),
        ((torch.zeros(3, dtype=torch.long),), "the number of their video"), ((torch.zeros(3, dtype=torch.long), 1), "the number of their video"),
        ((torch.zeros(3, dtype=torch.long), torch.zeros(2)), "differ in number"), ((torch.full((3,), 2), torch.zeros(3)), "do not fit together"),
        ((torch.zeros(3), torch.zeros(3)), "do not fit together"),
    ],
)  # fmt: skip
def test_targets_that_do_not_fit_are_refused(target, message):
    with pytest.raises(DataError, match=message):
        Video().check_target(torch.zeros(3, 2), target)


def test_clips_are_trained_converted_and_scored():
    """Clips that grow brighter, or darker, from frame to frame; four clips of each video."""
    labels = torch.arange(32) // 4 % 2
    ramps = torch.linspace(0, 1, 4) * (2 * labels[:, None] - 1)
    clips = ramps[:, None, :, None, None] + 0.3 * torch.randn(32, 1, 4, 4, 4)
    videos = torch.arange(32) // 4
    loader = [(clips[:16], labels[:16], videos[:16]), (clips[16:], labels[16:], videos[16:])]
    ann = nn.Sequential(nn.Conv3d(1, 6, (3, 1, 1)), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 2))
    task = Video(top=(1,))
    history = ts.fit(ann, loader, loader, epochs=60, task=task, lr=0.3, progress=False)
    assert history.last.test_scores["top1"] == 100.0
    snn = ts.convert(ann, ts.RobustNorm(percentile=1.0), calibration=loader, progress=False)
    result = ts.evaluate(snn, loader, task=task, time_steps=(64,), confidence=(0.9,), reference=ann, progress=False)
    assert (result.headline, result.unit, result.reference) == ("top1", "%", 100.0)
    assert result.curve[64] == 100.0
    assert result.scores[64]["clip_top1"] > 90
