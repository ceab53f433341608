"""Train a network, prepared for conversion or not: one loop for CPU, GPU and several processes."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, zip_longest
from operator import length_hint
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import convert_to_fp32, recursively_apply, set_seed  # type: ignore[import-untyped]
from rich.console import Console
from rich.progress import Progress, TextColumn
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tospike.errors import DataError, Problem, TospikeError, TrainingError, is_count, is_within, require
from tospike.files import replacing
from tospike.graph.batches import move, split_batch
from tospike.graph.inputs import required_inputs
from tospike.tasks import Classification, Task

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_CLASSIFICATION = Classification()
_STATEFUL = ("ann", "optimizer", "scaler")


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did.

    Attributes:
        epoch: Number of the epoch, from 1.
        train_loss: Mean loss over the samples, each taken when it was trained on.
        train_score: Headline score of the task over the same outputs, in the task's unit.
        test_scores: Scores on the test set after the epoch; empty without a test loader.
        lr: Learning rate of the last batch.
        seconds: Wall time of the epoch, test included.
    """

    epoch: int
    train_loss: float
    train_score: float
    test_scores: dict[str, float]
    lr: float
    seconds: float


@dataclass(frozen=True)
class History:
    """The epochs of a training run.

    Attributes:
        headline: Name of the score in `EpochRecord.train_score`, and of the one to read first in `test_scores`.
        records: One record per finished epoch.
    """

    headline: str
    records: tuple[EpochRecord, ...] = ()

    @property
    def last(self) -> EpochRecord:
        """The record of the last epoch, which is the result of the run."""
        return self.records[-1]

    def to_json(self) -> str:
        """Write the history as JSON."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> History:
        """Read what `to_json` wrote.

        Raises:
            TrainingError: The text is not a history.
        """
        try:
            raw = json.loads(text)
            return cls(raw["headline"], tuple(EpochRecord(**record) for record in raw["records"]))
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError("This is no training history", got=str(error), expected="what to_json wrote") from error


@dataclass(frozen=True)
class _Settings:
    epochs: int
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    warmup_epochs: int
    clip_norm: float | None
    mixed_precision: str | None
    channels_last: bool
    seed: int

    def __post_init__(self) -> None:
        require(
            "fit",
            ("epochs", self.epochs, is_count(self.epochs), "an integer >= 1", 100),
            ("lr", self.lr, is_within(self.lr, 0, sys.float_info.max), "positive and finite", 0.1),
            ("momentum", self.momentum, self.momentum == 0 or is_within(1 - self.momentum, 0, 1), "in [0, 1)", 0.9),
            ("nesterov", self.nesterov, self.momentum > 0 or not self.nesterov, "False without momentum", False),
            ("weight_decay", self.weight_decay, self.weight_decay == 0 or is_within(self.weight_decay, 0, sys.float_info.max),
             ">= 0 and finite", 5e-4),
            ("warmup_epochs", self.warmup_epochs, 0 <= self.warmup_epochs < max(1, float(self.epochs)), "in [0, epochs)", 0),
            ("clip_norm", self.clip_norm, self.clip_norm is None or self.clip_norm > 0, "positive or None", 1.0),
            ("mixed_precision", self.mixed_precision, self.mixed_precision in (None, *_DTYPES), "'bf16', 'fp16' or None", None),
        )  # fmt: skip

    def rate(self, done: float) -> float:
        """Learning rate after ``done`` epochs: linear up during the warm-up, then half a cosine down to 0."""
        if done < self.warmup_epochs:
            return self.lr * done / self.warmup_epochs
        part = (done - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * part))


class FitOptions(TypedDict, total=False):
    """The arguments of `fit` that say how it trains and what it keeps, for functions that pass them on."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    warmup_epochs: int
    clip_norm: float | None
    mixed_precision: Literal["bf16", "fp16"] | None
    channels_last: bool
    seed: int
    checkpoint: str | os.PathLike[str] | None
    resume: bool
    progress: bool
    log: Callable[[EpochRecord], None] | None


def fit(
    ann: nn.Module, train_loader: Iterable[Any], test_loader: Iterable[Any] | None = None, *,
    epochs: int, task: Task = _CLASSIFICATION, lr: float = 0.1, momentum: float = 0.9, nesterov: bool = False,
    weight_decay: float = 5e-4, warmup_epochs: int = 0, clip_norm: float | None = None,
    mixed_precision: Literal["bf16", "fp16"] | None = None, channels_last: bool = False, seed: int = 42,
    checkpoint: str | os.PathLike[str] | None = None, resume: bool = True,
    progress: bool = True, log: Callable[[EpochRecord], None] | None = None,
) -> History:  # fmt: skip
    """Train a network in place with SGD; the weights after the last epoch are the result, whatever the test scores.

    The learning rate rises linearly over the warm-up, then follows half a cosine to 0; it changes with every batch, not
    in one jump per epoch. Weight decay acts on all parameters, those of batch norm and of trained thresholds included. A
    module with a method `penalty` adds what that returns to the loss.
    Runs on what `accelerate` finds: under ``accelerate launch`` every process takes its share of a `DataLoader` (a list
    is not divided), so the effective batch is batch size times processes. Mode and device are put back at the end.

    On one CPU the same seed gives the same weights, bit for bit, resumed or not: at the start of every epoch the random
    generators of Python, NumPy, torch and the loader are set from seed and epoch. Only workers kept alive by
    ``persistent_workers=True`` are outside of this.

    Args:
        ann: The network; the arguments of its `forward` that have no default name the inputs of a batch.
        train_loader: Re-iterable batches with a length; see `tospike.graph.batches.split_batch`.
        test_loader: Batches to score after every epoch, for the log only.
        epochs: Passes over the training data.
        task: Loss and scores.
        lr: Highest learning rate.
        momentum: Momentum of SGD.
        nesterov: Use Nesterov momentum.
        weight_decay: L2 penalty of SGD.
        warmup_epochs: Epochs of linear warm-up.
        clip_norm: Largest allowed norm of all gradients together.
        mixed_precision: Format of what torch holds safe in it (fp16: slow on CPUs); weights and loss stay float32.
        channels_last: Keep images ``[N, C, H, W]`` with the channels innermost in memory: faster convolutions.
        seed: Seed of everything random.
        checkpoint: File that holds the run after its last finished epoch.
        resume: Go on from the checkpoint if it exists; with False it is overwritten.
        progress: Show a progress bar.
        log: Called with the record of each finished epoch, on the main process only.

    Returns:
        The records of all epochs, those before a resume included.

    Raises:
        OptionError: A setting is out of range.
        DataError: A batch does not fit the network or the task.
        TrainingError: An empty loader, a loss that is not finite, nothing to train, a damaged or foreign checkpoint.

    Example:
        >>> batch = torch.eye(4), torch.tensor([0, 1, 2, 3])
        >>> history = fit(nn.Linear(4, 4), [batch] * 8, [batch], epochs=4, lr=2.0, progress=False)
        >>> history.last.test_scores["top1"]
        100.0
    """
    settings = _Settings(
        epochs, lr, momentum, nesterov, weight_decay, warmup_epochs, clip_norm, mixed_precision, channels_last, seed
    )
    with _restored(ann, channels_last):
        run = _Run(ann, (train_loader, test_loader), task, settings)
        path = None if checkpoint is None else Path(checkpoint)
        if path and resume and path.exists():
            run.load(path)
        return _all_epochs(run, path, progress, log)


def _all_epochs(run: _Run, path: Path | None, progress: bool, log: Callable[[EpochRecord], None] | None) -> History:
    console = Console(stderr=True, quiet=not run.accelerator.is_main_process)
    shown = TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]}  {task.fields[score]}")
    done, epochs = len(run.history.records), run.settings.epochs
    try:
        with Progress(*Progress.get_default_columns(), shown, console=console, disable=not progress) as bar:
            total, completed = epochs * run.batches, done * run.batches
            line = bar.add_task("train", total=total, completed=completed, epoch=done + 1, loss="-", score="")
            for epoch in range(done, epochs):
                record = run.epoch(epoch, partial(bar.update, line))
                if path:
                    run.save(path)
                if log and run.accelerator.is_main_process:
                    log(record)
    except KeyboardInterrupt:
        how = f"the same call goes on from {path}" if path else "nothing was saved; checkpoint= would keep it"
        console.print(f"Stopped after {len(run.history.records)} of {epochs} epochs: {how}.", highlight=False)
        raise
    return run.history


class _Run:
    """A training run between two batches: network, optimiser, loaders, and the records so far."""

    def __init__(self, ann: nn.Module, loaders: tuple[Any, Any], task: Task, settings: _Settings) -> None:
        self.ann, self.task, self.settings = ann, task, settings
        self.names = required_inputs(ann)
        self.penalised: list[Any] = [module for module in ann.modules() if hasattr(module, "penalty")]
        # `_forward` sets the number format: accelerate would patch `ann.forward` and allow one format per process.
        self.accelerator = Accelerator(mixed_precision="no")
        self.device: torch.device = self.accelerator.device
        optimizer = torch.optim.SGD(
            [parameter for parameter in ann.parameters() if parameter.requires_grad], lr=settings.lr,
            momentum=settings.momentum, weight_decay=settings.weight_decay, nesterov=settings.nesterov,
        )  # fmt: skip
        self.model, self.optimizer, *prepared = self.accelerator.prepare(ann, optimizer, *loaders)
        self.train_loader, self.test_loader = prepared
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.mixed_precision == "fp16")
        self.history = History(task.headline)
        self.batches = length_hint(self.train_loader)
        if not self.batches:
            raise _empty("training")

    def epoch(self, epoch: int, show: Callable[..., None]) -> EpochRecord:
        """Train one epoch, score it, and add its record to the history."""
        begin = time.perf_counter()
        self._seed(epoch)
        loss, score = self._train(epoch, show)
        scores = self._test() if self.test_loader is not None else {}
        headline = self.task.headline
        show(score=f"{'test' if scores else 'train'} {headline} {scores.get(headline, score):.4g} {self.task.unit}")
        lr = self.optimizer.param_groups[0]["lr"]
        record = EpochRecord(epoch + 1, loss, score, scores, lr, time.perf_counter() - begin)
        self.history = replace(self.history, records=(*self.history.records, record))
        return record

    def _seed(self, epoch: int) -> None:
        # Seeds of neighbouring runs and epochs must not coincide, as those of seed + epoch would.
        seed = (self.settings.seed * 1_000_003 + epoch) % 2**31
        set_seed(seed, device_specific=True)
        for generator in _generators(self.train_loader):
            generator.manual_seed(seed)
        if hasattr(self.train_loader, "set_epoch"):
            self.train_loader.set_epoch(epoch)

    def _train(self, epoch: int, show: Callable[..., None]) -> tuple[float, float]:
        self.model.train()
        metrics: MetricCollection | None = None
        total, samples = 0.0, 0
        for index, batch in enumerate(self.train_loader):
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.rate(epoch + (index + 0.5) / self.batches)
            output, target, size = self._forward(batch)
            metrics = self._update(metrics, output, target)
            loss = self.task.loss(output, target)
            for penalty in (module.penalty() for module in self.penalised):
                loss = loss if penalty is None else loss + penalty
            if not math.isfinite(value := loss.item()):
                raise TrainingError(
                    "The loss is not finite", where=f"epoch {epoch + 1}, batch {index + 1}", got=str(value),
                    remedy="Lower lr, add warmup_epochs= or clip_norm=, and look for NaN or Inf in the data.",
                )  # fmt: skip
            self._step(loss)
            total, samples = total + value * size, samples + size
            show(advance=1, epoch=epoch + 1, loss=f"{total / samples:.4f}")
        if metrics is None:
            raise _empty("training")
        sums = self.accelerator.reduce(torch.tensor([total, samples], device=self.device))
        return float(sums[0] / sums[1]), self.task.scores(metrics)[self.task.headline]

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        self.accelerator.backward(self.scaler.scale(loss))
        if self.settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            self.accelerator.clip_grad_norm_(self.ann.parameters(), self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _test(self) -> dict[str, float]:
        self.model.eval()
        metrics: MetricCollection | None = None
        with torch.no_grad():
            for batch in self.test_loader:
                output, target, _ = self._forward(batch)
                if self.accelerator.num_processes > 1:  # with one process, its guess of the last batch can drop samples
                    output, target = self.accelerator.gather_for_metrics((output, target))
                metrics = self._update(metrics, output, target)
        if metrics is None:
            raise _empty("test")
        return self.task.scores(metrics)

    def _forward(self, batch: Any) -> tuple[Any, Any, int]:
        inputs, target = move(split_batch(batch, self.names), self.device)
        dtype = _DTYPES.get(self.settings.mixed_precision or "")
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            try:
                output = self.model(*inputs.values())
            except TospikeError:
                raise
            except RuntimeError as error:
                got = "; ".join(f"{name}: {tuple(value.shape)} {value.dtype}" for name, value in inputs.items())
                raise DataError(
                    "The network fails on a batch", got=f"{got}; {str(error).splitlines()[0]}", expected="what ann(inputs) accepts",
                    remedy="Reshape or convert the inputs in the loader.",
                ) from error  # fmt: skip
        return convert_to_fp32(output), target, next(iter(inputs.values())).shape[0]

    def _update(self, metrics: MetricCollection | None, output: Any, target: Any) -> MetricCollection:
        prediction = recursively_apply(Tensor.detach, self.task.prediction(output))
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
        return [*settings, *shapes, *re.sub(r"0x[0-9a-f]+", "0x", repr(self.ann)).splitlines()]

    def save(self, path: Path) -> None:
        if self.accelerator.is_main_process:
            state = {name: getattr(self, name).state_dict() for name in _STATEFUL}
            with replacing(path) as file:
                torch.save({"run": self._fingerprint(), "history": self.history.to_json(), **state}, file)
        self.accelerator.wait_for_everyone()

    def load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            lines, history = state["run"], History.from_json(state["history"])
            parts = {name: state[name] for name in _STATEFUL}
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
        self.history = history


@contextmanager
def _restored(ann: nn.Module, channels_last: bool) -> Iterator[None]:
    first = next((parameter for parameter in ann.parameters() if parameter.requires_grad), None)
    if first is None:
        raise TrainingError("The network has nothing to train", remedy="Call ann.requires_grad_() before training.")
    modes = [(module, module.training) for module in ann.modules()]
    device, attributes = first.device, set(vars(ann))
    if channels_last:
        ann.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for name in set(vars(ann)) - attributes:  # marks of accelerate
            delattr(ann, name)
        ann.to(device).zero_grad()
        if channels_last:
            ann.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _empty(which: str) -> TrainingError:
    return TrainingError(
        f"The {which} loader gives no batches, or does not say how many", expected="a re-iterable loader with a length",
        remedy="Pass a DataLoader over a data set with a length, or a list; with drop_last=True lower batch_size.",
    )  # fmt: skip


def _generators(loader: Any) -> Iterator[torch.Generator]:
    for name in ("generator", "sampler", "batch_sampler"):
        part = getattr(loader, name, None)
        if isinstance(part, torch.Generator):
            yield part
        elif part is not None:
            yield from _generators(part)
