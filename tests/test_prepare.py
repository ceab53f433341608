import pytest
import torch
from torch import nn

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


def test_network_without_activation():
    with pytest.raises(CaptureError):
        ts.prepare(nn.Linear(3, 2), ts.QCFS(), example=torch.zeros(1, 3))
