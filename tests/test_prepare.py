import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tospike as ts
from tospike.errors import CalibrationError, CaptureError, OptionError
from tospike.parts.activations import ClipFloorShift


def test_replaces_activations_and_pools_of_a_copy():
    ann = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2))
    made = ts.prepare(ann, ts.QCFS(levels=4), example=torch.randn(2, 1, 8, 8))
    kinds = [type(module) for module in made.modules()]
    assert kinds.count(ClipFloorShift) == kinds.count(nn.AvgPool2d) == 1
    assert nn.MaxPool2d not in kinds
    assert made.training
    assert type(ann[1]) is nn.ReLU
    assert torch.equal(made.get_submodule("0").weight, ann[0].weight)
    made(torch.randn(2, 1, 8, 8)).sum().backward()
    assert made.get_submodule("1").rho.grad is not None


class Dropping(nn.Module):
    """Dropout written as a function, as many published networks have it."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(8, 64), nn.Linear(64, 2), function

    def forward(self, x):
        y = self.a(x).relu()
        return self.b(self.function(y[:, :, None], 0.5, training=self.training)[..., 0])


@pytest.mark.parametrize("function", [F.dropout, F.dropout1d, F.alpha_dropout, F.feature_alpha_dropout])
def test_functional_dropout_drops_in_training_and_not_in_evaluation(function):
    x = torch.randn(4, 8)
    made = ts.prepare(Dropping(function), ts.QCFS(levels=4), example=x)
    assert not torch.equal(made(x), made(x))
    made.eval()
    assert torch.equal(made(x), made(x))


def test_network_without_activation():
    with pytest.raises(CaptureError):
        ts.prepare(nn.Linear(3, 2), ts.QCFS(), example=torch.zeros(1, 3))


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_thresholds_start_where_the_data_say(granularity):
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(27, 5),
        nn.ReLU(),
        nn.Linear(5, 2),
    ).eval()
    batches = [torch.randn(64, 1, 8, 8) for _ in range(4)]
    method = ts.QCFS(levels=8, initial=None, average_pool=False, granularity=granularity)
    made = ts.prepare(ann, method, example=batches[0], calibration=batches)
    converted = ts.convert(ann, ts.LightCalibration(time_steps=8, batches=10), calibration=batches)
    for name in ("2", "6"):  # the first stands behind its max-pool, as in the SNN
        wanted = converted.conversion.thresholds[name].flatten()
        found = made.get_submodule(name).threshold
        if granularity == "channel":
            torch.testing.assert_close(found, wanted)
        else:
            assert wanted.min() < found < wanted.max()
    with pytest.raises(CalibrationError, match="thresholds that training starts from"):
        ts.prepare(ann, method, example=batches[0])


def test_channels_must_be_where_they_are_looked_for():
    ann = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(OptionError, match="no channels on axis 1"):
        ts.prepare(ann, ts.QCFS(granularity="channel"), example=torch.zeros(2, 5, 4))


@pytest.mark.parametrize(
    "method",
    [ts.TCL(initial=2.0), ts.RNL(), ts.SlipReLU(initial=2.0), ts.LSQ(initial=2.0), ts.MiCE(time_steps=4, initial=2.0)],
)
def test_what_is_trained_becomes_an_snn(method):
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    y = (x[:, 0] > 0).long()
    made = ts.prepare(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)), method, example=x)
    history = ts.fit(made, [(x, y)] * 8, epochs=6, lr=0.1, progress=False)
    assert history.last.train_score > 90
    snn = ts.convert(made)
    assert snn.conversion.method == method.name
    theta = made.get_submodule("1").threshold
    torch.testing.assert_close(snn.conversion.thresholds["1"].flatten(), theta.detach().flatten())
    result = ts.evaluate(snn, [(x, y)], time_steps=(64,), reference=made, progress=False)
    assert result.curve[64] == pytest.approx(result.reference, abs=3.0)
