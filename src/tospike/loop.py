"""A training run between two batches: its settings, its network, its epochs, its checkpoint."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from operator import length_hint
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import convert_to_fp32, recursively_apply, set_seed  # type: ignore[import-untyped]
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tospike import processes
from tospike.errors import DataError, Problem, TospikeError, TrainingError, is_count, is_within, require
from tospike.files import replacing
from tospike.graph.batches import move, split_batch
from tospike.graph.inputs import required_inputs
from tospike.graph.kinds import TrainableActivation
from tospike.history import EpochRecord, History
from tospike.methods.tuning import OPTIMIZERS
from tospike.neurons.modules import Neuron
from tospike.relative_adam import RelativeAdam
from tospike.tasks import Task

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_STATEFUL = ("ann", "optimizer", "scaler")
DIVERGED = 10.0  # times the least loss so far, or 1 if that is more: a run that is worse by so much does not come back
AT_BOUND = 1e-6  # thresholds below it are at the bound of their parametrisation


@dataclass(frozen=True)
class Settings:
    """The settings of `tospike.fit` that decide what comes out, checked."""

    epochs: int
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    warmup_epochs: float
    clip_norm: float | None
    accumulate: int
    patience: int | None
    mixed_precision: str | None
    channels_last: bool
    seed: int
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        require(
            "fit",
            ("epochs", self.epochs, is_count(self.epochs), "an integer >= 1", 100),
            ("lr", self.lr, is_within(self.lr, 0, sys.float_info.max), "positive and finite", 0.1),
            ("momentum", self.momentum, self.momentum == 0 or (is_within(self.momentum, 0, 1) and self.momentum < 1), "in [0, 1)", 0.9),
            ("nesterov", self.nesterov, not self.nesterov or (self.momentum != 0 and self.optimizer == "sgd"), "False with Adam, or without momentum", False),
            ("weight_decay", self.weight_decay, self.weight_decay == 0 or is_within(self.weight_decay, 0, sys.float_info.max),
             ">= 0 and finite", 5e-4),
            ("warmup_epochs", self.warmup_epochs, self._fits_in(self.warmup_epochs), "in [0, epochs)", 0),
            ("clip_norm", self.clip_norm, self.clip_norm is None or is_within(self.clip_norm, 0, sys.float_info.max), "positive or None", 1.0),
            ("optimizer", self.optimizer, self.optimizer in OPTIMIZERS, f"one of {OPTIMIZERS}", "sgd"),
            ("seed", self.seed, self.seed == 0 or is_count(self.seed), "an integer >= 0", 42),
            ("accumulate", self.accumulate, is_count(self.accumulate), "an integer >= 1", 1),
            ("patience", self.patience, self.patience is None or is_count(self.patience), "an integer >= 1, or None", 5),
            ("mixed_precision", self.mixed_precision, self.mixed_precision in (None, *_DTYPES), "'bf16', 'fp16' or None", None),
        )  # fmt: skip

    def _fits_in(self, epochs: object) -> bool:
        return isinstance(epochs, (int, float)) and (not is_count(self.epochs) or 0 <= epochs < self.epochs)

    def rate(self, done: float) -> float:
        """Learning rate after ``done`` epochs: linear up during the warm-up, then half a cosine down to 0."""
        if done < self.warmup_epochs:
            return self.lr * done / self.warmup_epochs
        part = (done - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * part))


class Run:
    """A training run between two batches: network, optimiser, loaders, and the records so far."""

    def __init__(self, ann: nn.Module, loaders: tuple[Any, Any, Any], task: Task, settings: Settings) -> None:
        self.ann, self.task, self.settings = ann, task, settings
        self.names = required_inputs(ann)
        self.penalised: list[Any] = [module for module in ann.modules() if callable(getattr(module, "penalty", None))]
        processes.count()  # joins the others, before accelerate decides that there are none
        # `_forward` sets the number format: accelerate would patch `ann.forward` and allow one format per process.
        self.accelerator = Accelerator(mixed_precision="no")
        self.device: torch.device = self.accelerator.device
        self.model, self.optimizer, *prepared = self.accelerator.prepare(ann, _optimizer(ann, settings), *loaders)
        self.train_loader, self.test_loader, self.validation_loader = prepared
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.mixed_precision == "fp16")
        self.history = History(task.headline)
        self.best: dict[str, Tensor] = {}  # weights of the best epoch, where early stopping wants them
        self.batches = length_hint(self.train_loader)
        if not self.batches:
            raise _empty("training")

    def epoch(self, epoch: int, show: Callable[..., None]) -> EpochRecord:
        """Train one epoch, score it, and add its record to the history."""
        begin = time.perf_counter()
        self._seed(epoch)
        loss, score = self._train(epoch, show)
        self._refuse_divergence(epoch, loss)
        scores = self._test(self.test_loader, "test")
        validation = self._test(self.validation_loader, "validation")
        headline = self.task.headline
        shown = scores.get(headline, score)
        if shown is not None:
            show(score=f"{'test' if scores else 'train'} {headline} {shown:.4g} {self.task.unit}")
        lr = self.optimizer.param_groups[0]["lr"]
        record = EpochRecord(epoch + 1, loss, score, scores, lr, time.perf_counter() - begin, validation)
        best = self._is_best(record)
        if best and self.settings.patience is not None:
            self.best = {name: value.detach().cpu().clone() for name, value in self.ann.state_dict().items()}
        kept = epoch + 1 if best or self.settings.patience is None else self.history.kept
        self.history = replace(self.history, records=(*self.history.records, record), kept=kept)
        return record

    def _is_best(self, record: EpochRecord) -> bool:
        if not self.history.records:
            return True
        headline, sign = self.task.headline, 1 if self.task.higher_is_better else -1
        old, new = (one.validation_scores.get(headline, 0.0) for one in (self.history.result, record))
        return sign * new > sign * old

    def is_over(self) -> bool:
        """Tell whether the validation score has not risen for as long as patience lasts."""
        patience = self.settings.patience
        return patience is not None and len(self.history.records) - self.history.kept >= patience > 0

    def keep_best(self) -> None:
        """Put the weights of the best epoch into the network, where early stopping kept them."""
        if self.best:
            self.ann.load_state_dict(self.best)

    def _refuse_divergence(self, epoch: int, loss: float) -> None:
        least = min((record.train_loss for record in self.history.records), default=loss)
        if loss > least + DIVERGED * max(abs(least), 1.0):
            raise TrainingError(
                "The loss grows without end", where=f"epoch {epoch + 1}", got=f"{loss:.4g}", expected=f"about the least so far, {least:.4g}",
                remedy="Lower lr, add warmup_epochs= or clip_norm=.",
            )  # fmt: skip
        infinite = [
            name for name, value in self.ann.named_buffers() if value.is_floating_point() and not value.isfinite().all()
        ]
        if infinite:
            raise TrainingError(
                "Running statistics are not finite, so the network is useless in eval mode", where=f"epoch {epoch + 1}: {infinite[0]}",
                got=f"NaN or Inf in {len(infinite)} buffers", expected="finite numbers",
                remedy="Look for Inf in the data; train without mixed_precision=.",
            )  # fmt: skip
        problems = [
            Problem("A threshold reached its bound", where=name or type(module).__name__, got=f"{float(theta.detach().min()):.3g}",
                    expected=f"above {AT_BOUND:g}")
            for name, module in self.ann.named_modules()
            if isinstance(module, (TrainableActivation, Neuron))
            and (theta := module.threshold).requires_grad and bool((theta.detach() <= AT_BOUND).any())
        ]  # fmt: skip
        if problems:
            raise TrainingError(
                "Trained thresholds collapsed: their channels send nothing any more", where=f"epoch {epoch + 1}", problems=problems,
                remedy="Lower lr or the decay of the thresholds, or start from larger ones (initial=).",
            )  # fmt: skip

    def _seed(self, epoch: int) -> None:
        # Seeds of neighbouring runs and epochs must not coincide, as those of seed + epoch would.
        seed = (self.settings.seed * 1_000_003 + epoch) % 2**31
        set_seed(seed, device_specific=True)
        for generator in generators(self.train_loader):
            generator.manual_seed(seed)
        if hasattr(self.train_loader, "set_epoch"):
            self.train_loader.set_epoch(epoch)

    def _train(self, epoch: int, show: Callable[..., None]) -> tuple[float, float | None]:
        self.model.train()
        metrics: MetricCollection | None = None
        total, samples = 0.0, 0
        for index, batch in enumerate(self.train_loader):
            first, last = self._group(index)
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.rate(epoch + (first + last + 1) / 2 / self.batches)
            output, target, context, size = self._forward(batch)
            if self.task.scores_training:
                metrics = self._update(metrics, output, target, context)
            loss = self.task.loss(output, target, context)
            for penalty in (module.penalty() for module in self.penalised):
                loss = loss if penalty is None else loss + penalty
            if not math.isfinite(value := loss.item()):
                raise TrainingError(
                    "The loss is not finite", where=f"epoch {epoch + 1}, batch {index + 1}", got=str(value),
                    remedy="Lower lr, add warmup_epochs= or clip_norm=, and look for NaN or Inf in the data.",
                )  # fmt: skip
            self._descend(loss / (last - first + 1), begin=index == first, end=index == last)
            total, samples = total + value * size, samples + size
            show(advance=1, epoch=epoch + 1, loss=f"{total / samples:.4f}")
        if not samples:
            raise _empty("training")
        processes.from_the_first(self.ann.buffers())  # statistics of the last batch are each process's own
        sums = self.accelerator.reduce(torch.tensor([total, samples], device=self.device))
        score = None if metrics is None else self.task.scores(metrics)[self.task.headline]
        return float(sums[0] / sums[1]), score

    def _group(self, index: int) -> tuple[int, int]:
        """Return the first and the last of the batches that share a step with this one."""
        first = index - index % self.settings.accumulate
        return first, min(first + self.settings.accumulate, self.batches) - 1

    def _descend(self, loss: Tensor, *, begin: bool, end: bool) -> None:
        """Add the gradients of a batch to those of its group, and take a step at the end of the group."""
        if begin:
            self.optimizer.zero_grad()
        with nullcontext() if end else self.accelerator.no_sync(self.model):
            self.accelerator.backward(self.scaler.scale(loss))
        if not end:
            return
        if self.settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            self.accelerator.clip_grad_norm_(self.ann.parameters(), self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _test(self, loader: Any, which: str) -> dict[str, float]:
        if loader is None:
            return {}
        self.model.eval()
        metrics: MetricCollection | None = None
        with torch.no_grad():
            for batch in loader:
                output, target, context, _ = self._forward(batch)
                if self.accelerator.num_processes > 1:  # with one process, its guess of the last batch can drop samples
                    output, target = self.accelerator.gather_for_metrics((output, target))
                    context = context if context is None else self.accelerator.gather_for_metrics(context)
                metrics = self._update(metrics, output, target, context)
        if metrics is None:
            raise _empty(which)
        return self.task.scores(metrics)

    def _forward(self, batch: Any) -> tuple[Any, Any, Any, int]:
        fed, context = self.task.feed(batch)
        inputs, target = move(split_batch(fed, self.names), self.device)
        dtype = _DTYPES.get(self.settings.mixed_precision or "")
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            try:
                output = self.model(*inputs.values())
            except TospikeError:
                raise
            except (RuntimeError, ValueError) as error:
                got = "; ".join(f"{name}: {tuple(value.shape)} {value.dtype}" for name, value in inputs.items())
                remedy = "Reshape or convert the inputs in the loader; with batch norm a batch needs two samples (drop_last=True)."
                if isinstance(error, torch.OutOfMemoryError):
                    remedy = "Take smaller batches and accumulate=; for an SNN also steps_per_call=."
                raise DataError(
                    "The network fails on a batch", got=f"{got}; {str(error).splitlines()[0]}", expected="what ann(inputs) accepts",
                    remedy=remedy,
                ) from error  # fmt: skip
        return convert_to_fp32(output), target, context, next(iter(inputs.values())).shape[0]

    def _update(self, metrics: MetricCollection | None, output: Any, target: Any, context: Any) -> MetricCollection:
        with torch.no_grad():
            prediction = recursively_apply(Tensor.detach, self.task.prediction(output, context))
        if metrics is None:
            self.task.check_target(prediction, target)
            metrics = self.task.metrics(prediction)
        metrics.update(prediction, target)
        return metrics

    def _fingerprint(self) -> list[str]:
        """Everything that must be equal for a resumed run to be the same run, one line each."""
        run = {"batches": self.batches, "processes": self.accelerator.num_processes, "task": self.task}
        settings = (f"{name}={value}" for name, value in (vars(self.settings) | run).items())
        tensors = chain(self.ann.named_parameters(), self.ann.named_buffers())
        shapes = (f"{name}: {tuple(x.shape)} {x.dtype} trained={x.requires_grad}" for name, x in tensors)
        return [re.sub(r"0x[0-9a-f]+", "0x", line) for line in (*settings, *shapes, *repr(self.ann).splitlines())]

    def save(self, path: Path) -> None:
        """Write the run as it stands, in one piece or not at all."""
        if self.accelerator.is_main_process:
            state = {name: getattr(self, name).state_dict() for name in _STATEFUL}
            with replacing(path) as file:
                torch.save(
                    {"run": self._fingerprint(), "history": self.history.to_json(), "best": self.best, **state}, file
                )
        self.accelerator.wait_for_everyone()

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            TrainingError: The file is damaged, or belongs to another run.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            lines, history = state["run"], History.from_json(state["history"])
            best, parts = state.get("best", {}), {name: state[name] for name in _STATEFUL}
        except Exception as error:  # a damaged file makes torch.load raise anything
            raise TrainingError(
                "The checkpoint cannot be read", where=str(path), got=f"{type(error).__name__}: {error}",
                expected="a file that fit wrote", remedy="Delete the file, or pass resume=False.",
            ) from error  # fmt: skip
        pairs = zip_longest(lines, self._fingerprint(), fillvalue="nothing")
        other = [Problem("It differs", got=f"{a} (file)", expected=f"{b} (this call)") for a, b in pairs if a != b]
        if other:
            raise TrainingError(
                "The checkpoint belongs to another training run", where=str(path), problems=other[:4],
                remedy="Delete the file or pass resume=False to begin anew, or repeat the call that wrote it.",
            )  # fmt: skip
        for name, part in parts.items():
            getattr(self, name).load_state_dict(part)
        self.history, self.best = history, best


def _optimizer(ann: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    trained = [parameter for parameter in ann.parameters() if parameter.requires_grad]
    if settings.optimizer == "adam":
        return RelativeAdam(trained, settings.lr, betas=(settings.momentum, 0.999), weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        trained, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay, nesterov=settings.nesterov
    )


def _empty(which: str) -> TrainingError:
    return TrainingError(
        f"The {which} loader gives no batches, or does not say how many", expected="a re-iterable loader with a length",
        remedy="Pass a DataLoader over a data set with a length, or a list; with drop_last=True lower batch_size.",
    )  # fmt: skip


def generators(loader: Any) -> Iterator[torch.Generator]:
    """Yield the random generators that a loader, its sampler and its batch sampler hold."""
    for name in ("generator", "sampler", "batch_sampler"):
        part = getattr(loader, name, None)
        if isinstance(part, torch.Generator):
            yield part
        elif part is not None:
            yield from generators(part)
