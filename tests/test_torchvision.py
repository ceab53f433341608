import pytest
import torch

import tospike as ts

models = pytest.importorskip("torchvision.models")

CONVERT = [
    "alexnet", "vgg11", "vgg11_bn", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "googlenet",
    "inception_v3", "mnasnet0_5", "mobilenet_v2", "shufflenet_v2_x0_5", "squeezenet1_1", "regnet_x_400mf", "fcn_resnet50",
    "deeplabv3_resnet50", "r3d_18", "mc3_18", "r2plus1d_18",
]  # fmt: skip
REFUSE = ["efficientnet_b0", "mobilenet_v3_small", "vit_b_16", "convnext_tiny"]
VIDEO = {"r3d_18", "mc3_18", "r2plus1d_18"}


def build(name):
    torch.manual_seed(0)
    extra = {"weights_backbone": None} if name.startswith(("fcn", "deeplab")) else {}
    extra |= {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    shape = (1, 3, 4, 32, 32) if name in VIDEO else (1, 3, *[{"inception_v3": 96, "vit_b_16": 224}.get(name, 64)] * 2)
    return models.get_model(name, weights=None, **extra).eval(), torch.randn(shape)


@pytest.mark.parametrize("name", CONVERT)
def test_network_is_supported_and_converts(name):
    ann, x = build(name)
    report = ts.check(ann, x)
    assert report.ok, str(report)
    snn = ts.convert(ann, ts.RobustNorm(percentile=1.0), calibration=[x])
    assert snn.conversion.rebuilt_difference < 1e-3
    assert len(snn.site_names) == len(set(snn.site_names)) == len(report.sites)
    assert len({id(snn.graph.get_submodule(str(n.target))) for n in snn.graph.graph.nodes if "site" in n.meta}) == len(
        report.sites
    )
    with torch.no_grad():
        expected, got = ann(x), snn(x, time_steps=2)
    pairs = [(expected[k], got[k]) for k in expected] if isinstance(expected, dict) else [(expected, got)]
    assert all(theirs.shape == mine.shape and mine.isfinite().all() for theirs, mine in pairs)


@pytest.mark.parametrize("name", REFUSE)
def test_network_is_refused_with_place_and_remedy(name):
    report = ts.check(*build(name))
    assert not report.ok
    placed = [
        problem for problem in report.problems if problem.got != "0 Sites"
    ]  # that one is about the network as a whole
    assert placed
    for problem in placed:
        assert ".py:" in problem.where, problem
        assert problem.remedy, problem
