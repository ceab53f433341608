import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tospike as ts
from tospike.errors import CaptureError
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
