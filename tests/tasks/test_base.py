"""What a task gives for free, and a task of a user's own, from training to the curve of the SNN."""

import math

import pytest
import torch
from torch import nn
from torchmetrics import MeanMetric, MetricCollection

import tospike as ts
from tospike.errors import DataError, OptionError
from tospike.tasks import Classification, Regression, Segmentation, Task, Video


@pytest.mark.parametrize("task", [Classification(), Regression(), Segmentation(), Video()])
def test_by_default_a_task_simulates_the_whole_network_on_the_batch_as_it_is(task):
    network, batch = nn.Linear(2, 2), (torch.zeros(1, 2), torch.zeros(1))
    assert task.bind(network) == (task, network)
    assert task.feed(batch) == (batch, None)


def test_batches_start_anew_on_every_pass():
    loader = torch.utils.data.DataLoader(torch.arange(6.0), 2)
    batches = Regression().batches(loader)
    assert iter(batches) is not batches
    for _ in range(2):
        torch.testing.assert_close(torch.cat(list(batches)), torch.arange(6.0))
    snn = ts.convert(nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1)), ts.LTB(batches=7), progress=False,
                     calibration=Regression().batches([torch.randn(8, 1)]))  # fmt: skip
    assert snn.conversion.calibration_samples == 56


def test_the_first_of_several_outputs_is_scored():
    first, second = torch.zeros(1), torch.ones(1)
    for output in (first, {"a": first, "b": second}, (first, second), [first, second]):
        assert Regression().prediction(output) is first


def test_a_task_without_confidence_says_so():
    with pytest.raises(OptionError, match="knows no confidence"):
        Regression().confidence(torch.zeros(1, 1))


class Heading(Task):
    """Directions, fed and answered in degrees; in between a network works with sines and cosines."""

    headline, higher_is_better, unit = "error", False, "degrees"

    def feed(self, batch):
        degrees, target = batch
        quadrants = degrees // 90 * 90
        radians = torch.deg2rad(degrees - quadrants)
        return (torch.stack([radians.cos(), radians.sin()], 1), target), quadrants

    def prediction(self, output, context=None):
        return torch.rad2deg(torch.atan2(output[:, 1], output[:, 0])) + context

    def metrics(self, prediction):
        return MetricCollection({"error": _Turned()})

    def loss(self, output, target, context=None):
        wanted = torch.deg2rad(target - context)
        return (output - torch.stack([wanted.cos(), wanted.sin()], 1)).square().mean()

    def check_target(self, prediction, target):
        if target.shape != prediction.shape:
            raise DataError("Every direction needs a target", got=str(tuple(target.shape)))


class _Turned(MeanMetric):
    """The angle between two directions, at most 180 degrees."""

    def update(self, prediction, target):
        super().update(((prediction - target + 180) % 360 - 180).abs())


def test_a_task_of_ones_own_trains_calibrates_and_scores():
    """The network turns directions by 30 degrees; the quadrant, which only the task knows, goes round the network."""
    degrees = torch.linspace(0, 359, 120)
    loader = [(degrees[part::2], (degrees[part::2] + 30) % 360) for part in range(2)]
    ann = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    task = Heading()
    history = ts.fit(ann, loader, loader, epochs=200, task=task, lr=0.2, weight_decay=0.0, progress=False)
    assert history.last.test_scores["error"] < 2 < history.records[0].test_scores["error"]
    snn = ts.convert(ann, ts.RobustNorm(percentile=1.0), calibration=task.batches(loader), progress=False)
    result = ts.evaluate(snn, loader, task=task, time_steps=(2, 256), reference=ann, progress=False)
    assert (result.headline, result.unit, result.higher_is_better) == ("error", "degrees", False)
    with torch.no_grad():
        x, quadrants = task.feed(loader[0])
        angle = [
            math.degrees(math.atan2(float(b), float(a))) + float(q)
            for (a, b), q in zip(ann(x[0]), quadrants, strict=True)
        ]
    errors = [abs((one - float(other) + 180) % 360 - 180) for one, other in zip(angle, loader[0][1], strict=True)]
    first = ts.evaluate(snn, loader[:1], task=task, time_steps=(1,), reference=ann, progress=False)
    assert first.reference == pytest.approx(sum(errors) / len(errors), abs=1e-3)
    assert result.curve[256] == pytest.approx(result.reference, abs=2)
    assert result.curve[2] > result.curve[256]
    with pytest.raises(DataError, match="needs a target"):
        ts.evaluate(snn, [(degrees, degrees[:2])], task=task, time_steps=(1,), progress=False)
