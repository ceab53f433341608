"""Torchvision's own networks for segmentation, detection and video: what the SNN computes, beside what they compute."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import tospike as ts
from tospike.errors import SimulationError, UnsupportedOperationError
from tospike.graph.batches import tensors_in
from tospike.neurons import Neuron, NeuronModel

models = pytest.importorskip("torchvision.models")
from torchvision.models import detection, segmentation, video  # noqa: E402
from torchvision.models._utils import IntermediateLayerGetter  # noqa: E402
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # noqa: E402
from torchvision.models.segmentation.deeplabv3 import DeepLabHead  # noqa: E402
from torchvision.models.segmentation.fcn import FCNHead  # noqa: E402
from torchvision.ops import FrozenBatchNorm2d  # noqa: E402

CLASSES = 5
ACTIVATIONS = {functional.relu, functional.relu6, functional.hardswish, torch.relu}


def segmenter(kind, name):
    """A segmenter on a ResNet of basic blocks, put together as torchvision does it for ResNet-50."""
    features = IntermediateLayerGetter(getattr(models, name)(weights=None), {"layer4": "out", "layer3": "aux"})
    if kind == "fcn":
        return segmentation.FCN(features, FCNHead(512, CLASSES), FCNHead(256, CLASSES))
    return segmentation.DeepLabV3(features, DeepLabHead(512, CLASSES), FCNHead(256, CLASSES))


def lively(head):
    """Give the layers of a head weights at which more is seen behind it than its biases."""
    for path, layer in head.named_modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.normal_(layer.bias, std=0.1)
            if path.endswith(("cls_logits", "bbox_reg", "bbox_ctrness")):
                layer.weight.data /= 4


def detector(name, **settings):
    made = getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=CLASSES, min_size=64, max_size=96, **settings
    )
    if not name.startswith("ssd"):
        lively(made.head)
    return made


def small(kind, norm=nn.BatchNorm2d, **settings):
    """A detector of torchvision on the smallest of its pyramids, with a max-pool over single elements as last level."""
    features = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=norm, trainable_layers=5)
    made = kind(features, CLASSES, min_size=64, max_size=96, **settings)
    lively(made.head)
    return made


class Net:
    """How a network is made, the size of its input, and what of it is analog."""

    def __init__(self, make, *shape, analog=()):
        self.make, self.shape, self.analog = make, shape or (3, 64, 64), analog


def deeplab50():
    return segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)


def lraspp():
    return segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)


NETWORKS = {
    "fcn_resnet18": Net(lambda: segmenter("fcn", "resnet18")),
    "deeplabv3_resnet34": Net(lambda: segmenter("deeplab", "resnet34"), 3, 32, 32),
    "deeplabv3_resnet50": Net(deeplab50, 3, 32, 32),
    "lraspp_mobilenet_v3_large": Net(lraspp, analog="auto"),
    "retinanet_resnet50_fpn": Net(lambda: ts.Detection(detector("retinanet_resnet50_fpn")).network, 3, 32, 32),
    "fcos_resnet50_fpn": Net(lambda: ts.Detection(detector("fcos_resnet50_fpn")).network, 3, 32, 32, analog=("groupnorm",)),
    "r3d_18": Net(lambda: video.r3d_18(num_classes=CLASSES), 3, 4, 32, 32),
    "r2plus1d_18": Net(lambda: video.r2plus1d_18(num_classes=CLASSES), 3, 4, 32, 32),
}  # fmt: skip


def with_statistics(network, *shape):
    """Let the batch norms of a network take the statistics of two random batches."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(4, *shape))
    return network.eval()


def build(name):
    net = NETWORKS[name]
    return with_statistics(net.make(), *net.shape), torch.randn(1, *net.shape)


def task_of(made):
    task = ts.Detection(made)
    with_statistics(task.network, 3, 64, 64)
    made.eval()
    return task


def run_for(snn, steps):
    """Let exact neurons send T levels and no more, as the quantised network does."""
    for neuron in snn.modules():
        if isinstance(neuron, Neuron):
            neuron.model = dataclasses.replace(neuron.model, total=steps)
    return snn


def exact(percentile=0.99):
    """Signed neurons that may send any number of spikes at each step, so that only the sum of what comes in counts."""
    return ts.RobustNorm(percentile=percentile, granularity="channel").using(
        neuron=NeuronModel(capacity=10_000, signed=True)
    )


class Quantised(TorchFunctionMode):
    """While a network of torchvision runs, the k-th activation that is called rounds to T levels up to the threshold of the k-th Site."""

    def __init__(self, snn, steps):
        super().__init__()
        self.thresholds, self.steps = (
            iter([snn.conversion.thresholds[site.name] for site in snn.conversion.sites]),
            steps,
        )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in ACTIVATIONS:
            return func(*args, **(kwargs or {}))
        theta = next(self.thresholds)
        level = torch.floor(func(args[0].clone()).minimum(theta) * self.steps / theta + 0.5)
        return level * theta / self.steps


def quantised(snn, ann, x, steps):
    with torch.no_grad(), Quantised(snn, steps) as mode:
        outputs = ann(x)
    assert next(mode.thresholds, None) is None  # every Site was met
    return outputs


def distance(output, wanted):
    pairs = list(zip(tensors_in(output), tensors_in(wanted), strict=True))
    return sum(float((y - w).norm() / w.norm()) for y, w in pairs) / len(pairs)


def assert_equal_to_the_quantised_network(snn, ann, x, steps):
    output = run_for(snn, steps)(x, time_steps=steps)
    for mine, theirs in zip(tensors_in(output), tensors_in(quantised(snn, ann, x, steps)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))
    return output


@pytest.mark.parametrize("name", NETWORKS)
def test_unlimited_signed_neurons_equal_the_quantised_network(name):
    """Analog operations between the layers (group norm, gates, hardswish) change nothing: they are exact in the running mean."""
    ann, x = build(name)
    ann, x = ann.double(), x.double()
    snn = ts.convert(ann, exact(), calibration=[x], analog=NETWORKS[name].analog)
    assert bool(snn.conversion.analog) == bool(NETWORKS[name].analog)
    for steps in (4, 16):
        output = assert_equal_to_the_quantised_network(snn, ann, x, steps)
    with torch.no_grad():
        wanted = ann(x)
    if isinstance(wanted, dict):
        assert output.keys() == wanted.keys()
    assert 0 < distance(output, wanted) < 2


FALLING = {
    "fcn_resnet18": ("exact", "robust-norm", "ltb"), "lraspp_mobilenet_v3_large": ("exact",), "r3d_18": ("exact", "robust-norm"),
    "RetinaNet": ("exact", "ltb"), "FCOS": ("exact", "robust-norm"),
}  # fmt: skip
METHODS = {"exact": exact(1.0), "robust-norm": ts.RobustNorm(percentile=1.0), "ltb": ts.LTB(batches=20)}


@pytest.mark.parametrize("name", FALLING)
def test_the_distance_to_the_ann_falls_with_time(name):
    if name in NETWORKS:
        (ann, x), analog = build(name), NETWORKS[name].analog
    else:
        task = task_of(small(getattr(detection, name)))
        ann, x, analog = task.network, torch.randn(1, 3, 32, 32), task.analog
    batch = torch.cat([x, torch.randn(3, *x.shape[1:])])
    with torch.no_grad():
        wanted = ann(x)
    for method in FALLING[name]:
        snn = ts.convert(ann, METHODS[method], calibration=[batch], analog=analog, progress=False)
        read_outs = ts.simulate(snn, x, time_steps=64, checkpoints=(4, 16, 64))
        first, second, third = (distance(output, wanted) for _, output in read_outs)
        assert first > second > third > 0, (method, first, second, third)


def test_a_head_has_neurons_of_its_own_on_every_level():
    task = task_of(small(detection.RetinaNet))
    ann, x = task.network.double(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    snn = ts.convert(ann, exact(), calibration=[x])
    for head in ("classification_head", "regression_head"):
        for layer in range(4):
            path = f"head.{head}.conv.{layer}.1"
            sites = [site for site in snn.conversion.sites if site.name.partition("#")[0] == path]
            assert [site.name for site in sites] == [path, *(f"{path}#{call}" for call in range(2, 6))]
            assert [site.shape[1:] for site in sites] == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    modules = [str(node.target) for node in snn.graph.graph.nodes if "site" in node.meta]
    assert len(modules) == len(set(modules)) == len(snn.conversion.sites)


def test_frozen_batch_norm_is_folded():
    plain = task_of(small(detection.RetinaNet))
    frozen = ts.Detection(small(detection.RetinaNet, FrozenBatchNorm2d).eval())
    frozen.detector.load_state_dict(plain.detector.state_dict())
    assert any(isinstance(module, FrozenBatchNorm2d) for module in frozen.network.modules())
    x = torch.randn(1, 3, 64, 64)
    ours, theirs = (
        ts.convert(task.network, ts.RobustNorm(percentile=1.0), calibration=[x]) for task in (frozen, plain)
    )
    assert not [module for module in ours.modules() if "BatchNorm" in type(module).__name__]
    assert ours.site_names == theirs.site_names
    for mine, other in zip(tensors_in(ours(x, time_steps=4)), tensors_in(theirs(x, time_steps=4)), strict=True):
        torch.testing.assert_close(mine, other)


def test_group_norm_is_refused_without_leave_and_recorded_with_it():
    task = task_of(small(detection.FCOS))
    x = torch.randn(1, 3, 64, 64)
    with pytest.raises(UnsupportedOperationError, match="groupnorm is not linear") as caught:
        ts.convert(task.network, ts.RobustNorm(), calibration=[x])
    assert len(caught.value.problems) == 2 * 4 * 5
    assert all('analog=["groupnorm"]' in problem.remedy for problem in caught.value.problems)
    snn = ts.convert(task.network, ts.RobustNorm(), calibration=[x], analog=["groupnorm"])
    assert len(snn.conversion.analog) == 2 * 4 * 5
    assert all("(groupnorm, " in place for place in snn.conversion.analog)


def test_the_last_rectifiers_of_fcos_run_once_on_the_mean_where_named():
    task = task_of(small(detection.FCOS))
    x = torch.randn(1, 3, 64, 64)
    last = tuple(f"head.regression_head.relu{call}" for call in ("", "#2", "#3", "#4", "#5"))
    assert task.analog == ("groupnorm", *last)
    with torch.no_grad():
        wanted = task.network(x)["bbox_regression"]
    distances = {}
    for leave in (("groupnorm",), task.analog):
        snn = ts.convert(task.network, ts.RobustNorm(percentile=1.0), calibration=[x], analog=leave)
        assert len(snn.conversion.analog) == 40  # the group norms alone
        distances[leave] = float((snn(x, time_steps=8)["bbox_regression"] - wanted).norm())
        in_tail = {node.meta["operation"].path for node in snn.plan.tail if "operation" in node.meta}
        assert in_tail.issuperset(last) == (leave == task.analog)
        assert set(snn.site_names).isdisjoint(last) == (leave == task.analog)
    assert distances[task.analog] < distances[("groupnorm",)]


SETTINGS = {"score_thresh": 0.2, "nms_thresh": 0.6}


def form_of(boxes):
    return [{key: (value.dtype, value.shape[1:]) for key, value in one.items()} for one in boxes]


@pytest.mark.parametrize("kind", [detection.RetinaNet, detection.FCOS])
def test_boxes_of_the_snn_approach_those_of_the_detector(kind):
    """Neurons that count give the T-level quantised network at any T, without a loop over time; every box is kept, so each has its own anchor."""
    every = {"nms_thresh": 1.0, "topk_candidates": 300, "detections_per_img": 1500}
    task = task_of(small(kind, score_thresh=0.2, **every))
    images = [torch.rand(3, 50, 70), torch.rand(3, 90, 60), torch.rand(3, 64, 64)]
    method = ts.RobustNorm(percentile=1.0).using(neuron=NeuronModel(synchronous=True))
    snn = ts.convert(task.network, method, calibration=task.batches([images]), analog=task.analog)
    with torch.no_grad():
        wanted = task.detector(images)
    few, many = (task.spiking(snn, time_steps=steps)(images) for steps in (16, 2**18))
    assert form_of(few) == form_of(many) == form_of(wanted)
    for mine, theirs, image in zip(many, wanted, images, strict=True):
        height, width = image.shape[1:]
        assert bool((mine["boxes"] <= torch.tensor([width, height, width, height])).all())
        assert len(theirs["boxes"]) > 50
        for box, label, score in zip(*(theirs[key][:50] for key in ("boxes", "labels", "scores")), strict=True):
            off = (mine["boxes"] - box).abs().amax(1) + 100 * (mine["scores"] - score).abs()
            assert float(off[mine["labels"] == label].min()) < 1  # pixels, or hundredths of a score


def ssd(**settings):
    return detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES, **settings)


DETECTORS = {
    "FCOS": lambda: small(detection.FCOS, **SETTINGS), "RetinaNet": lambda: small(detection.RetinaNet, **SETTINGS),
    "SSDlite": lambda: ssd(score_thresh=0.1),
}  # fmt: skip


def test_an_ssd_names_the_analog_operations_of_its_backbone():
    task = ts.Detection(ssd())
    assert task.analog == ("hardswish", "hardsigmoid", "mul")
    assert ts.check(task.network, torch.zeros(1, 3, 128, 128), analog=task.analog).ok


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_and_boxes_are_those_of_the_detector(name):
    task = ts.Detection(DETECTORS[name]())
    detector = task.detector
    images = [torch.rand(3, 50, 70), torch.rand(3, 90, 60)]
    targets = [
        {"boxes": torch.tensor([[5.0, 6.0, 40.0, 41.0], [20.0, 10.0, 60.0, 45.0]]), "labels": torch.tensor([1, 4])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
    ]
    detector.train()
    losses = copy.deepcopy(detector)(images, targets)
    (fed, resized), context = task.feed((images, targets))
    loss = task.loss(task.network(fed), resized, context)
    torch.testing.assert_close(loss, sum(losses.values()), rtol=1e-6, atol=0)
    loss.backward()
    assert all(parameter.grad is not None for parameter in task.network.parameters() if parameter.requires_grad)
    detector.eval()
    (fed,), context = task.feed(images)
    with torch.no_grad():
        boxes, wanted = task.prediction(task.network(fed), context), detector(images)
    assert sum(len(one["boxes"]) for one in wanted) > 0
    for mine, theirs in zip(boxes, wanted, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_maps_of_another_size_than_the_example_run(granularity):
    ann, x = build("fcn_resnet18")
    ann, x = ann.double(), x.double()
    method = dataclasses.replace(exact().base, granularity=granularity).using(neuron=exact().parts().neuron)
    snn = ts.convert(ann, method, calibration=[x])
    other = torch.randn(2, 3, 48, 80, dtype=torch.float64)
    output = assert_equal_to_the_quantised_network(snn, ann, other, 8)
    assert output["out"].shape == (2, CLASSES, 48, 80)


@pytest.mark.parametrize("synchronous", [False, True])
def test_thresholds_of_single_neurons_refuse_maps_of_another_size(synchronous):
    ann, x = build("fcn_resnet18")
    method = ts.RobustNorm(granularity="neuron").using(neuron=NeuronModel(synchronous=synchronous))
    snn = ts.convert(ann, method, calibration=[x])
    assert snn(x, time_steps=2)["out"].shape == (1, CLASSES, 64, 64)
    with pytest.raises(SimulationError, match="maps of one size") as caught:
        snn(torch.randn(1, 3, 48, 80), time_steps=2)
    assert "per channel or layer" in str(caught.value)
    assert "(64, 24, 40)" in str(caught.value) or "(64, 12, 20)" in str(caught.value)
