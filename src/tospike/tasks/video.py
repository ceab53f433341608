"""Video: accuracy of clips, and of videos whose clips' answers are averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from tospike.errors import DataError
from tospike.tasks.classification import Classification


class VideoAccuracy(Metric):
    """Share of videos whose class is among the k most probable of their clips' mean probabilities.

    ``p(video) = mean over its clips of softmax(logits)``

    Args:
        k: How many classes may be named.

    Source: torchvision's video reference, which Bu, Li and Yu, CVPR 2025, follow. Differs from it in: nothing.

    Example:
        >>> accuracy = VideoAccuracy(1)
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> accuracy.update(logits, (torch.tensor([0, 0, 1]), torch.tensor([7, 7, 8])))
        >>> accuracy.compute()
        tensor(1.)
    """

    higher_is_better = True
    full_state_update = False
    probabilities: list[Tensor]
    classes: list[Tensor]
    videos: list[Tensor]

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        for name in ("probabilities", "classes", "videos"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, target: tuple[Tensor, Tensor]) -> None:
        """Add clips: logits ``[N, C]``, and for each its class and the number of its video, both ``[N]``."""
        classes, videos = target
        self.probabilities.append(logits.detach().softmax(1))
        self.classes.append(classes)
        self.videos.append(videos)

    def compute(self) -> Tensor:
        """Return the share in [0, 1]."""
        probabilities, classes, videos = (
            dim_zero_cat(part) for part in (self.probabilities, self.classes, self.videos)
        )
        _, place = torch.unique(videos, return_inverse=True)
        count = int(place.max()) + 1
        means = probabilities.new_zeros(count, probabilities.shape[1]).index_add_(0, place, probabilities)
        truth = classes.new_zeros(count).index_copy_(0, place, classes)
        named = means.topk(min(self.k, means.shape[1]), 1).indices
        return (named == truth[:, None]).any(1).float().mean()


class _ClipMetric(Metric):
    """A metric of clips that leaves the number of the video alone."""

    full_state_update = False

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric = metric

    def update(self, logits: Tensor, target: tuple[Tensor, Tensor]) -> None:
        self.metric.update(logits, target[0])

    def compute(self) -> Any:
        return self.metric.compute()

    def reset(self) -> None:
        super().reset()
        self.metric.reset()


@dataclass(frozen=True)
class Video(Classification):
    """Score logits ``[N, C]`` of clips against ``(classes [N], numbers of their videos [N])``.

    Frames are an axis of the input ``[N, C, F, H, W]``, as the network has it; the time of the SNN is another one, and every frame of the clip is
    shown at every step.

    Attributes:
        top: The k of every accuracy that is reported, for videos (``"top1"``) and for single clips (``"clip_top1"``); the first of them, for
            videos, is the headline.
        label_smoothing: Mass moved from the true class to all classes in the training loss.

    Example:
        >>> sorted(Video(top=(1,)).metrics(torch.zeros(2, 3)))
        ['clip_top1', 'top1']
    """

    def metrics(self, prediction: Tensor) -> MetricCollection:
        """Return one accuracy of videos and one of clips per k, for logits ``[N, C]``."""
        clips = super().metrics(prediction)
        found: dict[str, Metric | MetricCollection] = {f"top{k}": VideoAccuracy(k) for k in self.top}
        found |= {f"clip_{name}": _ClipMetric(metric) for name, metric in clips.items()}
        return MetricCollection(found, compute_groups=False).to(prediction.device)

    def loss(self, output: Any, target: Any, context: Any = None) -> Tensor:
        """Return the cross-entropy of the clips."""
        return super().loss(output, target[0])

    def check_target(self, prediction: Any, target: Any) -> None:
        """Raise unless there are a class and the number of a video for every clip."""
        if (
            not isinstance(target, (tuple, list))
            or len(target) != 2
            or any(not isinstance(part, Tensor) for part in target)
        ):
            raise DataError(
                "Clips need a class and the number of their video", got=type(target).__name__, expected="batches (clips, classes [N], videos [N])",
                remedy="Let the loader yield the number of the video as third value, or pass task=ts.Classification().",
            )  # fmt: skip
        super().check_target(prediction, target[0])
        if target[1].shape != target[0].shape:
            raise DataError("Classes and numbers of videos differ in number", got=f"{tuple(target[0].shape)} and {tuple(target[1].shape)}",
                            expected="one of each for every clip", remedy="Repair the loader.")  # fmt: skip
