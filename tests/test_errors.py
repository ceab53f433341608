import pytest
import torch
from torch import nn

import tospike as ts
from tospike.errors import (
    CalibrationError,
    CaptureError,
    ConversionError,
    DataError,
    OptionError,
    UnsupportedOperationError,
)

X = torch.zeros(4, 3) + torch.arange(3.0)


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def convert(data, ann=None):
    return ts.convert(ann or net(), ts.LTB(batches=3), calibration=data)


class Branching(nn.Module):
    def forward(self, x):
        return x.relu() if x.sum() > 0 else x


def test_untraceable_network_names_the_line():
    with pytest.raises(CaptureError) as caught:
        ts.check(Branching(), X)
    assert "test_errors.py:" in caught.value.problem.where


@pytest.mark.parametrize("data", [None, [], iter([X]), [X, X * torch.nan], [X, X + torch.inf], [X, X.long()]])
def test_unusable_calibration_data(data):
    with pytest.raises((CalibrationError, DataError)):
        convert(data)


def test_network_without_sites_and_weights_that_are_nan():
    with pytest.raises(UnsupportedOperationError, match="no activation"):
        convert([X], nn.Linear(3, 2))
    ann = net()
    with torch.no_grad():
        ann[0].weight[0, 0] = torch.nan
    with pytest.raises((UnsupportedOperationError, ConversionError), match=r"0\.weight"):
        convert([X], ann)


def test_integer_example_and_missing_example():
    with pytest.raises(CaptureError, match="floating"):
        ts.check(net(), X.long())
    with pytest.raises(CaptureError):
        ts.check(net(), None)


@pytest.mark.parametrize("call", [
    lambda: ts.method("ltbb"), lambda: ts.method("ltb", batch=3), lambda: ts.LTB(batches=0), lambda: ts.LTB(rate=0),
    lambda: ts.RobustNorm(percentile=0), lambda: ts.RobustNorm(batches=0), lambda: ts.QCFS(levels=0),
    lambda: ts.convert(net(), calibration=[X]), lambda: ts.prepare(net(), ts.LTB(), example=X),
])  # fmt: skip
def test_unknown_and_unfit_options(call):
    with pytest.raises(OptionError):
        call()
