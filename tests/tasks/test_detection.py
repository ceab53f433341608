"""Detection: scores known by hand, what a batch must be, and a small detector from training to the curve of its SNN."""

import sys

import pytest
import torch
from torch import nn

import tospike as ts
from tospike.errors import DataError, MissingExtraError, OptionError
from tospike.tasks import Detection

detection = pytest.importorskip("torchvision.models.detection")
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402

needs_coco = pytest.mark.skipif("not __import__('importlib').util.find_spec('pycocotools')")


def scores(predictions, targets):
    task = Detection()
    metrics = task.metrics(predictions)
    metrics.update([boxes_of(*one) for one in predictions], [boxes_of(*one) for one in targets])
    return task.scores(metrics)


def boxes_of(boxes, labels, confidence=None):
    made = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.long),
    }
    return made if confidence is None else {**made, "scores": torch.tensor(confidence)}


A, B, C = [0, 0, 40, 40], [50, 50, 90, 90], [0, 50, 40, 90]


@needs_coco
def test_one_of_two_boxes_found():
    """Precision is 1 up to a recall of 1/2, which 51 of COCO's 101 recalls 0, 0.01, ..., 1 do not exceed."""
    found = scores([([A], [1], [0.9])], [([A, B], [1, 1])])
    half = 100 * 51 / 101
    assert found == pytest.approx({"map": half, "map_50": half, "map_75": half, "mar_100": 50.0}, abs=1e-3)


@needs_coco
def test_a_box_that_fits_badly_counts_at_small_overlaps():
    """An overlap of 0.62 suffices at 0.50, 0.55 and 0.60, three of ten."""
    found = scores([([[0, 0, 100, 62]], [1], [0.9])], [([[0, 0, 100, 100]], [1])])
    assert found == pytest.approx({"map": 30.0, "map_50": 100.0, "map_75": 0.0, "mar_100": 30.0}, abs=1e-3)


@needs_coco
@pytest.mark.parametrize(("sureness", "wanted"), [(0.95, 50.0), (0.5, 100.0)])
def test_a_false_box_costs_precision_where_it_is_surer_than_the_right_one(sureness, wanted):
    assert scores([([A, C], [1, 1], [0.9, sureness])], [([A], [1])])["map"] == pytest.approx(wanted, abs=1e-3)


@needs_coco
def test_precision_is_averaged_over_classes_and_images_without_items_count():
    both = scores([([A, B], [1, 1], [0.9, 0.8])], [([A, B], [1, 2])])
    assert both["map"] == pytest.approx(50.0, abs=1e-3)  # class 1 all found, class 2 not at all
    empty = [([], [])]
    assert scores([([A], [1], [0.9]), ([], [], [])], [([A], [1]), *empty])["map"] == pytest.approx(100.0)
    assert scores([([A], [1], [0.8]), ([A], [1], [0.9])], [([A], [1]), *empty])["map"] == pytest.approx(50.0, abs=1e-3)
    with pytest.raises(DataError, match="no boxes to find"):
        scores([([A], [1], [0.9])], empty)


def test_without_pycocotools_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingExtraError, match="detection"):
        Detection().metrics([])


class Features(nn.Module):
    """Maps of a fourth of the image's size."""

    out_channels = 8

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


def tiny(**settings):
    anchors = AnchorGenerator(((12,),), ((1.0,),))
    made = detection.RetinaNet(Features(), 2, anchor_generator=anchors, min_size=32, max_size=48, **settings)
    for head in (made.head.classification_head, made.head.regression_head):
        for layer in head.conv.modules():
            if isinstance(layer, nn.Conv2d):  # torchvision's start is made for 256 channels
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return made


def squares(count):
    """Images with one bright square of 12 pixels in the dark."""
    images, targets = [], []
    for left, top in torch.randint(0, 20, (count, 2)).tolist():
        image = 0.1 * torch.rand(3, 32, 32)
        image[:, top : top + 12, left : left + 12] = 1.0
        images.append(image)
        targets.append(boxes_of([[left, top, left + 12, top + 12]], [1]))
    return images, targets


@needs_coco
def test_a_detector_is_trained_converted_and_scored():
    loader = [squares(16) for _ in range(4)]
    task, network = Detection().bind(tiny(score_thresh=0.3, nms_thresh=0.3))
    assert isinstance(task, Detection)
    assert network is task.network
    history = ts.fit(network, loader, loader[:1], epochs=25, task=task, lr=0.02, clip_norm=1.0, progress=False)
    assert history.records[0].train_loss > 3 * history.last.train_loss
    assert history.last.test_scores["map_50"] > 90
    snn = ts.convert(
        network, ts.RobustNorm(percentile=1.0), calibration=task.batches(loader), analog=task.analog, progress=False
    )
    result = ts.evaluate(snn, loader[:2], task=task, time_steps=(4, 128), reference=network, progress=False)
    assert (result.headline, result.unit, result.task) == ("map", "%", "Detection")
    assert result.curve[4] < result.curve[128]
    assert result.scores[128]["map_50"] == pytest.approx(result.reference_scores["map_50"], abs=5)
    boxes = task.spiking(snn, time_steps=128)(loader[0][0])
    assert float((boxes[0]["boxes"][0] - loader[0][1][0]["boxes"][0]).abs().max()) < 4
    with pytest.raises(DataError, match="images without targets"):
        ts.evaluate(snn, [loader[0][0]], task=task, time_steps=(4,), progress=False)


def test_a_loader_may_give_images_alone_or_stacked():
    task = Detection(tiny().eval())
    images = torch.rand(2, 3, 32, 48)
    fed = [
        task.feed(batch)[0] for batch in (images, list(images), tuple(images), (list(images), [boxes_of([], [])] * 2))
    ]
    for one in fed:
        assert torch.equal(one[0], fed[0][0])
    assert [len(one) for one in fed] == [1, 1, 1, 2]
    batches = task.batches([images])
    assert [len(list(batches)) for _ in range(2)] == [1, 1]


GOOD = boxes_of([A], [1])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([torch.rand(32, 32)], "Image 0 is none"), ([torch.rand(3, 32, 32), None], "Image 1 is none"),
        (([torch.rand(3, 32, 32)], [GOOD, GOOD]), "1 and 2"), (([torch.rand(3, 32, 32)], [{"boxes": GOOD["boxes"]}]), "Target 0 is none"),
        (([torch.rand(3, 32, 32)], [{**GOOD, "labels": torch.tensor([1, 2])}]), "Target 0 is none"),
        (([torch.rand(3, 32, 32)], [{"boxes": [A], "labels": [1]}]), "Target 0 is none"), (([torch.rand(3, 32, 32)], [7]), "Target 0 is none"),
        (([torch.rand(3, 32, 32)], [{**GOOD, "boxes": torch.zeros(1, 5)}]), "Target 0 is none"), (([], []), "holds no image"),
        (([torch.rand(3, 32, 32)], [{**GOOD, "labels": torch.ones(1)}]), "labels: .1. torch.float32"),
    ],
)  # fmt: skip
def test_batches_that_are_none_are_refused(batch, message):
    with pytest.raises(DataError, match=message):
        Detection(tiny().eval()).feed(batch)


def test_all_that_is_wrong_with_a_batch_is_said_at_once():
    with pytest.raises(DataError) as caught:
        Detection(tiny().eval()).feed(([torch.rand(3, 8), torch.rand(3, 32, 32)], [GOOD, {}]))
    assert len(caught.value.problems) == 2


def test_a_box_without_an_area_is_refused_in_training():
    task = Detection(tiny())
    (fed, targets), context = task.feed(([torch.rand(3, 32, 32)], [boxes_of([[5, 5, 5, 9]], [1])]))
    with pytest.raises(DataError, match="positive height and width"):
        task.loss(task.network(fed), targets, context)


def test_what_is_no_one_stage_detector_is_refused():
    made = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    with pytest.raises(OptionError, match="FasterRCNN without head, anchor_generator") as caught:
        Detection(made)
    assert "convert detector.backbone by itself" in str(caught.value)
    assert ts.check(made.backbone, torch.zeros(1, 3, 64, 64), analog="auto").ok
    with pytest.raises(OptionError, match="Detection needs its detector"):
        Detection().feed([torch.rand(3, 32, 32)])
    with pytest.raises(OptionError, match="Detection needs its detector"):
        Detection().network  # noqa: B018
    with pytest.raises(OptionError, match="detector"):
        Detection(detection)


def test_what_only_feed_knows_is_asked_for():
    task = Detection(tiny().eval())
    (fed, targets), context = task.feed(([torch.rand(3, 32, 32)], [GOOD]))
    output = task.network(fed)
    calls = (lambda: task.prediction(output), lambda: task.loss(output, targets), lambda: task.draw(fed, targets, 0))
    for method, call in zip(("prediction", "loss", "draw"), calls, strict=True):
        with pytest.raises(OptionError, match=rf"Detection\.{method}"):
            call()
    with pytest.raises(OptionError, match="no output of the head"):
        task.prediction(task.detector([torch.rand(3, 32, 32)]), context)


def test_pictures_show_the_best_class_of_a_place_on_top():
    task = Detection(tiny().eval())
    (fed, _), context = task.feed(([torch.zeros(3, 32, 32)], [GOOD]))
    place, other = [2.0, 2, 20, 20], [14.0, 14, 30, 30]
    found = boxes_of([place, other, place], [2, 1, 1], [0.9, 0.6, 0.7])
    kept = {name: values[[1, 0]] for name, values in found.items()}
    assert task.draw(fed, [found], 0, context).tobytes() == task.draw(fed, [kept], 0, context).tobytes()
    plain = {name: values.flip(0) for name, values in kept.items() if name != "scores"}
    assert task.draw(fed, [plain], 0, context).tobytes() != task.draw(fed, [kept], 0, context).tobytes()


def test_pictures_leave_out_boxes_of_low_score():
    task = Detection(tiny().eval())
    (fed, _), context = task.feed(([torch.zeros(3, 32, 32)], [GOOD]))
    found = boxes_of([[2, 2, 20, 20], [4, 4, 30, 30]], [1, 1], [0.8, 0.29])
    sure = {name: values[:1] for name, values in found.items()}
    drawn, alone, target = (task.draw(fed, [one], 0, context) for one in (found, sure, boxes_of([A], [1])))
    assert drawn.tobytes() == alone.tobytes() != target.tobytes()


def test_the_detector_itself_is_not_changed():
    made = tiny().eval()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    parts = dict(made._modules)
    task = Detection(made)
    images = [torch.rand(3, 40, 30)]
    (fed,), context = task.feed(images)
    task.prediction(task.network(fed), context)
    task.network.train()
    (fed, targets), context = task.feed((images, [GOOD]))
    task.loss(task.network(fed), targets, context)
    assert dict(made._modules) == parts
    assert not made.training
    assert not made.transform.training
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
