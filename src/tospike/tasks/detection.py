"""Detection: boxes scored by COCO's mean average precision, for one-stage detectors as torchvision builds them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tospike.errors import DataError, OptionError, Problem, missing_extra, require_type
from tospike.graph.capture import capture
from tospike.graph.rewrite import analog_leave, rewrite
from tospike.pictures import draw_boxes, to_image
from tospike.tasks.base import Task

if TYPE_CHECKING:
    from PIL.Image import Image

SAME_PLACE = 0.5  # overlap (intersection over union) from which two boxes are shown as one
DRAWN_FROM = 0.3  # score of a box from which pictures show it; detectors return up to a hundred more for the metric
CAPTURED = 128  # side of the image that a network is captured with, in pixels: one pixel of the last level of a pyramid
PARTS = ("transform", "backbone", "head", "anchor_generator")


def is_detector(network: nn.Module) -> bool:
    """Tell whether a network has the parts of a one-stage detector, so that `Detection` knows what of it to simulate.

    Example:
        >>> is_detector(nn.Linear(2, 2))
        False
    """
    return all(isinstance(getattr(network, part, None), nn.Module) for part in PARTS)


class DenseDetector(nn.Module):
    """What of a detector is simulated: images to what its head says of every anchor.

    Args:
        detector: A detector with ``backbone`` and ``head``; both are shared with it.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone: Any = detector.backbone
        self.head: Any = detector.head

    def forward(self, images: Tensor) -> Any:
        """Return the outputs of the head, by name, for images ``[N, 3, H, W]``."""
        features = self.backbone(images)
        return self.head(list(features.values()) if isinstance(features, dict) else [features])


@dataclass(frozen=True)
class Shown:
    """What of a batch only the decoding of boxes needs.

    Attributes:
        images: The images as the network gets them, padded to one size, with the size of each.
        originals: The images of the loader, ``[3, H, W]`` each.
        targets: The targets in the pixels of `images`; None where there are none.
    """

    images: Any
    originals: tuple[Tensor, ...]
    targets: list[dict[str, Tensor]] | None


class _Answer(nn.Module):
    """Stands for a part of a detector and gives what was computed already."""

    def __init__(self, answer: Any, **others: Callable[..., Any] | None) -> None:
        super().__init__()
        self.answer = answer
        for name, other in others.items():
            setattr(self, name, other)

    def forward(self, *_: Any) -> Any:
        return self.answer


@dataclass(frozen=True)
class Detection(Task):
    """Score the boxes of a detector by COCO's mean average precision.

    Backbone and head are simulated, as one network, `network`: a head that is called on five levels of a pyramid has neurons of its own
    on each. What comes before (resizing, normalising, padding) and behind (anchors, decoding, suppression of overlapping boxes) runs once, by the
    detector's own code, on the output averaged over time.

    ``AP = mean over recall of precision``, mean over classes, and over overlaps of 0.50, 0.55, ..., 0.95 (``map``), or at 0.5 (``map_50``)

    A loader yields ``(images, targets)``: a list of ``[3, H, W]`` in [0, 1], of any sizes, and a list of ``{"boxes": [K, 4], "labels": [K]}`` in
    pixels of these images; K may be 0. Networks that only calibrate need no targets.

    Attributes:
        detector: An FCOS, RetinaNet or SSD of torchvision, or a detector with the same parts; it is not changed. None only where a data set
            says what its samples ask for: `bind` puts the detector in.
        names: Names of the classes by label, for pictures; 0 is the background.
        headline: ``"map"``, in percent.

    Raises:
        OptionError: The detector lacks a part.
        MissingExtraError: pycocotools is not installed (when boxes are scored).

    Source: Lin et al., "Microsoft COCO", ECCV 2014; the division into what is simulated and what is not follows Bu, Li and Yu, CVPR 2025,
        which does not describe it: own construction.

    Example:
        >>> from tospike.zoo.networks import build  # any detector of torchvision with these parts; this one is FCOS on a small backbone
        >>> task = Detection(build("fcos").eval())
        >>> (fed,), context = task.feed([torch.rand(3, 96, 96), torch.rand(3, 80, 96)])
        >>> [sorted(found) for found in task.prediction(task.network(fed), context)]
        [['boxes', 'labels', 'scores'], ['boxes', 'labels', 'scores']]
    """

    detector: nn.Module | None = None
    names: tuple[str, ...] = ()
    headline = "map"
    unit = "%"
    scores_training = False  # decoding boxes takes longer than learning from them

    def __post_init__(self) -> None:
        """Check the detector and take out what is simulated."""
        if self.detector is None:
            return
        require_type("detector", self.detector, nn.Module, "a detector", "Pass e.g. fcos_resnet50_fpn().")
        if not is_detector(self.detector):
            missing = [part for part in PARTS if not isinstance(getattr(self.detector, part, None), nn.Module)]
            raise OptionError(
                "The head of the detector cannot be reached", got=f"{type(self.detector).__name__} without {', '.join(missing)}",
                expected=f"a one-stage detector with {', '.join(PARTS)}, as FCOS, RetinaNet and SSD of torchvision have",
                remedy="Detectors that cut regions out of maps, as Faster R-CNN does, cannot be simulated as one network: convert "
                "detector.backbone by itself, or write a task of your own.",
            )  # fmt: skip

    @cached_property
    def network(self) -> DenseDetector:
        """What is simulated: backbone and head of the detector, which it shares.

        Raises:
            OptionError: The task was given no detector.
        """
        return DenseDetector(self._given())

    def bind(self, network: nn.Module) -> tuple[Task, nn.Module]:
        """Return the task for a detector, and its backbone and head as one network."""
        bound = replace(self, detector=network)
        return bound, bound.network

    def feed(self, batch: Any) -> tuple[Any, Shown]:
        """Resize, normalise and pad the images of a batch as the detector does."""
        detector: Any = self._given()
        pair = isinstance(batch, (tuple, list)) and len(batch) == 2 and not isinstance(batch[1], Tensor)
        images, targets = batch if pair else (batch, None)
        images = list(images)
        if not images:
            raise DataError(
                "A batch holds no image",
                got="an empty list",
                expected="at least one image [3, H, W]",
                remedy="Repair the loader.",
            )
        problems = [*_image_problems(images), *_target_problems(images, targets)]
        if problems:
            raise DataError(
                "A batch does not fit the detector",
                problems=problems,
                remedy="Let the loader yield (images, targets), two lists.",
            )
        transform = detector.transform
        mode = transform.training
        transform.training = self.network.training  # a detector may draw the size of training images
        try:
            shown, resized = transform(images, targets)
        finally:
            transform.training = mode
        fed = (shown.tensors,) if targets is None else (shown.tensors, list(targets))
        return fed, Shown(shown, tuple(images), resized)

    @cached_property
    def analog(self) -> tuple[str, ...]:
        """What ``convert(task.network, ..., analog=task.analog)`` should name: operations that no neuron can stand for, and last rectifiers.

        The rectifier behind the last layer of FCOS' boxes runs once, on the averaged output, where a neuron would only round it.
        """
        detector: Any = self._given()
        width, height = getattr(detector.transform, "fixed_size", None) or (CAPTURED, CAPTURED)
        parameter = next(detector.parameters())
        captured = capture(self.network, parameter.new_zeros(1, 3, height, width))
        rewrite(captured)
        return analog_leave(captured)

    def metrics(self, prediction: Any) -> MetricCollection:
        """Return COCO's metrics for a list of ``{"boxes", "scores", "labels"}``."""
        try:
            import pycocotools  # noqa: F401
        except ImportError as error:
            raise missing_extra("pycocotools", "detection", "COCO's mean average precision") from error
        from torchmetrics.detection import MeanAveragePrecision  # is there only where torchvision is

        return MetricCollection({"map": MeanAveragePrecision(backend="pycocotools")}, compute_groups=False)

    def scores(self, metrics: MetricCollection) -> dict[str, float]:
        """Read mean average precision (over all overlaps, at 0.5 and 0.75) and recall with 100 boxes, in percent.

        Raises:
            DataError: No image has a target box, so that there is nothing to find.
        """
        found = metrics.compute()
        if float(found["map"]) < 0:  # COCO's sign for a mean over nothing
            raise DataError("There are no boxes to find", got="targets without boxes", expected="at least one box in all images",
                            remedy="Score on images with items; some may be without.")  # fmt: skip
        return {name: 100.0 * float(found[name]) for name in ("map", "map_50", "map_75", "mar_100")}

    def loss(self, output: Any, target: Any, context: Shown | None = None) -> Tensor:
        """Return the sum of the detector's own losses.

        Raises:
            DataError: The detector refuses a target.
        """
        try:
            losses = self._replay(output, _known(context, "loss"), training=True)
        except AssertionError as error:
            raise DataError("The detector refuses a target", got=str(error), expected="boxes (left, top, right, bottom) with width and height",
                            remedy="Drop boxes without an area in the loader.") from error  # fmt: skip
        return torch.stack(list(losses.values())).sum()

    def prediction(self, output: Any, context: Shown | None = None) -> list[dict[str, Tensor]]:
        """Decode the outputs of the head to boxes, in pixels of the loader's images, by the detector's own code."""
        return self._replay(output, _known(context, "prediction"), training=False)  # type: ignore[no-any-return]

    def check_target(self, prediction: Any, target: Any) -> None:
        """Raise unless there are targets."""
        if target is None:
            raise DataError("The loader gave images without targets", got="images", expected="(images, targets)",
                            remedy='Let the loader yield a list of {"boxes": [K, 4], "labels": [K]} beside the images.')  # fmt: skip

    def draw(self, inputs: Tensor, answer: Any, index: int, context: Shown | None = None) -> Image:
        """Draw the boxes of a target, or the best ones of a prediction with their scores, into the loader's image.

        Those are boxes that score at least `DRAWN_FROM`, and better than any other at the same place, of whatever class.
        """
        found, image = answer[index], to_image(_known(context, "draw").originals[index])
        if "scores" in found:
            from torchvision.ops import nms  # type: ignore[import-untyped]

            found = {key: values[found["scores"] >= DRAWN_FROM] for key, values in found.items()}
            best = nms(found["boxes"], found["scores"], SAME_PLACE).flip(0)  # so that the best one is drawn last
            found = {key: values[best] for key, values in found.items()}
        names = [self.names[label] if label < len(self.names) else str(label) for label in found["labels"].tolist()]
        return draw_boxes(image, found["boxes"], names, found.get("scores"), labels=found["labels"])

    def spiking(self, snn: nn.Module, *, time_steps: int, delay: int = 0) -> nn.Module:
        """Return a detector that answers with the boxes of the SNN: ``model(images)`` as before.

        Args:
            snn: The converted `network`.
            time_steps: Steps T of every call.
            delay: Steps before the outputs are averaged.
        """
        return SpikingDetector(self, snn, {"time_steps": time_steps, "delay": delay})

    def _given(self) -> nn.Module:
        if self.detector is None:
            raise OptionError("Detection needs its detector", got="Detection()", expected="Detection(detector)",
                              remedy="Pass the detector that was converted.")  # fmt: skip
        return self.detector

    def _replay(self, output: Any, context: Shown, *, training: bool) -> Any:
        """Run the detector with a backbone and a head that answer what was computed already."""
        if not isinstance(output, Mapping):
            raise OptionError("This is no output of the head", got=type(output).__name__, expected="what task.network returns, a tensor for each name",
                              remedy="Simulate task.network, and pass reference=task.network where a reference is asked for.")  # fmt: skip
        images = context.images.to(next(iter(output.values())).device)
        detector: Any = copy.copy(self.detector)
        detector.training = training
        transform = _Answer((images, context.targets), postprocess=detector.transform.postprocess)
        head = _Answer(output, compute_loss=getattr(detector.head, "compute_loss", None))
        levels = _Answer(dict(enumerate(self._levels(images.tensors))))
        detector._modules = {**detector._modules, "transform": transform, "backbone": levels, "head": head}
        return detector(list(context.originals), context.targets if training else None)

    def _levels(self, images: Tensor) -> Sequence[Tensor]:
        """Return maps of the sizes that the backbone gives, without computing them."""
        key = tuple(images.shape[-2:])
        if key not in self._sizes:
            with torch.no_grad():
                backbone: Any = copy.deepcopy(self.network.backbone)
                shapes = backbone.to("meta").eval()(torch.empty(1, 3, *key, device="meta"))
            self._sizes[key] = [
                tuple(one.shape) for one in (shapes.values() if isinstance(shapes, Mapping) else [shapes])
            ]
        return [images.new_empty(1).expand(len(images), *shape[1:]) for shape in self._sizes[key]]

    _sizes: dict[tuple[int, ...], list[tuple[int, ...]]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )


class SpikingDetector(nn.Module):
    """A detector whose backbone and head are an SNN; `Detection.spiking` makes it."""

    def __init__(self, task: Detection, snn: nn.Module, run: dict[str, Any]) -> None:
        super().__init__()
        self.task, self.snn, self.run = task, snn, run

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return boxes ``[K, 4]`` in pixels, scores ``[K]`` and labels ``[K]`` of each image ``[3, H, W]``."""
        (fed,), context = self.task.feed(list(images))
        return self.task.prediction(self.snn(fed, **self.run), context)


def _known(context: Shown | None, method: str) -> Shown:
    """Return what `Detection.feed` gave beside a batch, or say that it is missing."""
    if context is None:
        raise OptionError("The sizes of the images are not known", where=f"Detection.{method}", got="no context",
                          expected="what task.feed returned beside the batch", remedy="fed, context = task.feed(batch)")  # fmt: skip
    return context


def _image_problems(images: list[Any]) -> list[Problem]:
    return [
        Problem(f"Image {index} is none", got=str(tuple(image.shape)) if isinstance(image, Tensor) else type(image).__name__, expected="a tensor [3, H, W]",
                remedy="Convert images to tensors in the data set.")
        for index, image in enumerate(images) if not isinstance(image, Tensor) or image.ndim != 3
    ]  # fmt: skip


def _target_problems(images: list[Any], targets: Any) -> list[Problem]:
    if targets is None:
        return []
    if len(targets) != len(images):
        return [
            Problem(
                "Images and targets differ in number",
                got=f"{len(images)} and {len(targets)}",
                expected="as many",
                remedy="Repair the loader.",
            )
        ]
    good = [
        isinstance(target, Mapping) and all(isinstance(target.get(key), Tensor) for key in ("boxes", "labels"))
        and target["boxes"].ndim == 2 and target["boxes"].shape[1] == 4
        and target["labels"].shape == target["boxes"].shape[:1] and not target["labels"].is_floating_point()
        for target in targets
    ]  # fmt: skip
    return [
        Problem(f"Target {index} is none", got=_described(target), expected='{"boxes": [K, 4], "labels": [K] integers}',
                remedy="An image without items has boxes [0, 4] and labels [0].")
        for index, (target, fits) in enumerate(zip(targets, good, strict=True)) if not fits
    ]  # fmt: skip


def _described(target: Any) -> str:
    if not isinstance(target, Mapping):
        return type(target).__name__
    return ", ".join(
        f"{key}: {list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else f"{key}: {type(value).__name__}"
        for key, value in target.items()
    )
