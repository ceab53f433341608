"""Train a network, prepared for conversion or not: one loop for CPU, GPU and several processes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn
from torch import nn

from tospike.errors import OptionError, TrainingError, require_type
from tospike.history import EpochRecord, History, Metrics
from tospike.loop import Run, Settings
from tospike.methods.tuning import Optimizer
from tospike.tasks import Classification, Task

_CLASSIFICATION = Classification()


class FitOptions(TypedDict, total=False):
    """The arguments of `fit` that say how it trains and what it keeps, for functions that pass them on."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    warmup_epochs: float
    clip_norm: float | None
    accumulate: int
    validation_loader: Iterable[Any] | None
    patience: int | None
    mixed_precision: Literal["bf16", "fp16"] | None
    channels_last: bool
    seed: int
    checkpoint: str | os.PathLike[str] | None
    resume: bool
    metrics: str | os.PathLike[str] | None
    progress: bool
    log: Callable[[EpochRecord], None] | None


def fit(
    ann: nn.Module, train_loader: Iterable[Any], test_loader: Iterable[Any] | None = None, *,
    epochs: int, task: Task = _CLASSIFICATION, optimizer: Optimizer = "sgd", lr: float = 0.1, momentum: float = 0.9, nesterov: bool = False,
    weight_decay: float = 5e-4, warmup_epochs: float = 0, clip_norm: float | None = None, accumulate: int = 1,
    validation_loader: Iterable[Any] | None = None, patience: int | None = None,
    mixed_precision: Literal["bf16", "fp16"] | None = None, channels_last: bool = False, seed: int = 42,
    checkpoint: str | os.PathLike[str] | None = None, resume: bool = True,
    metrics: str | os.PathLike[str] | None = None, progress: bool = True, log: Callable[[EpochRecord], None] | None = None,
) -> History:  # fmt: skip
    """Train a network in place; the weights after the last epoch are the result, unless `patience` says otherwise.

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
        optimizer: ``"sgd"``, or ``"adam"`` with steps in proportion to the root mean square of each tensor as it is at the beginning: for networks
            that have been trained before.
        lr: Highest learning rate; of Adam a share, e.g. 0.03.
        momentum: Momentum of SGD; of Adam how much of the mean gradient is kept.
        nesterov: Use Nesterov momentum; SGD alone.
        weight_decay: L2 penalty.
        warmup_epochs: Epochs of linear warm-up.
        clip_norm: Largest allowed norm of all gradients together.
        accumulate: Batches whose gradients are averaged for one step: the effect of larger batches, but for batch norm.
        validation_loader: Batches to score after every epoch, kept out of training; see `tospike.data.Data.held_out`.
        patience: Stop when the headline score on the validation set has not risen for so many epochs; the weights of the best epoch
            are the result. None trains all epochs. The test set never decides.
        mixed_precision: Format of what torch holds safe in it (fp16: slow on CPUs); weights and loss stay float32.
        channels_last: Keep images ``[N, C, H, W]`` with the channels innermost in memory: faster convolutions.
        seed: Seed of everything random.
        checkpoint: File that holds the run after its last finished epoch.
        resume: Go on from the checkpoint if it exists; with False it is overwritten.
        metrics: Where to write the records: a file ``*.jsonl``, one line per epoch, or a folder, which gets ``metrics.jsonl`` and events for TensorBoard.
        progress: Show a progress bar.
        log: Called with the record of each finished epoch, on the main process only.

    Returns:
        The records of all epochs, those before a resume included.

    Raises:
        OptionError: A setting is out of range.
        DataError: A batch does not fit the network or the task.
        TrainingError: An empty loader, a loss that is not finite or grows without end, a trained threshold at its bound, nothing to train, a
            damaged or foreign checkpoint. The checkpoint keeps the last good epoch.
        MissingExtraError: `metrics` is a folder and TensorBoard is not installed.

    Example:
        >>> batch = torch.eye(4), torch.tensor([0, 1, 2, 3])
        >>> history = fit(nn.Linear(4, 4), [batch] * 8, [batch], epochs=4, lr=2.0, progress=False)
        >>> history.last.test_scores["top1"]
        100.0
    """
    settings = Settings(
        epochs, lr, momentum, nesterov, weight_decay, warmup_epochs, clip_norm, accumulate, patience, mixed_precision,
        channels_last, seed, optimizer,
    )  # fmt: skip
    require_type("task", task, Task, "a Task", "Pass e.g. task=ts.Regression().")
    if patience is not None and validation_loader is None:
        raise OptionError(
            "Early stopping needs a validation set", got=f"patience={patience}, validation_loader=None", expected="validation_loader=",
            remedy="Pass one: train, validation = found.held_out(5000).loaders(128); the test set must not decide.",
        )  # fmt: skip
    with _restored(ann, channels_last):
        run = Run(ann, (train_loader, test_loader, validation_loader), task, settings)
        path = None if checkpoint is None else Path(checkpoint)
        if path and resume and path.exists():
            run.load(path)
        with Metrics(metrics, run.history, on=run.accelerator.is_main_process) as written:
            return _all_epochs(run, path, progress, [written.add, *([log] if log else [])])


def _all_epochs(run: Run, path: Path | None, progress: bool, logs: list[Callable[[EpochRecord], None]]) -> History:
    console = Console(stderr=True, quiet=not run.accelerator.is_main_process)
    shown = TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]}  {task.fields[score]}")
    done, epochs = len(run.history.records), run.settings.epochs
    try:
        with Progress(*Progress.get_default_columns(), shown, console=console, disable=not progress) as bar:
            total, completed = epochs * run.batches, done * run.batches
            line = bar.add_task("train", total=total, completed=completed, epoch=done + 1, loss="-", score="")
            for epoch in range(done, epochs):
                if run.is_over():
                    break
                try:
                    record = run.epoch(epoch, partial(bar.update, line))
                except TrainingError as error:
                    raise _saying_what_is_kept(error, path, epoch) from error
                if path:
                    run.save(path)
                for log in logs if run.accelerator.is_main_process else ():
                    log(record)
    except KeyboardInterrupt:
        how = f"the same call goes on from {path}" if path else "nothing was saved; checkpoint= would keep it"
        console.print(f"Stopped after {len(run.history.records)} of {epochs} epochs: {how}.", highlight=False)
        raise
    run.keep_best()
    return run.history


def _saying_what_is_kept(error: TrainingError, path: Path | None, epoch: int) -> TrainingError:
    """Add to an error where the last good epoch is."""
    kept = f"{path} holds the run after epoch {epoch}" if path and epoch else "nothing was saved before it"
    problem = error.problem
    remedy = f"{problem.remedy} ({kept}; with other settings begin anew: resume=False.)"
    return TrainingError(
        problem.what, where=problem.where, got=problem.got, expected=problem.expected, remedy=remedy, problems=error.problems
    )  # fmt: skip


@contextmanager
def _restored(ann: nn.Module, channels_last: bool) -> Iterator[None]:
    first = next((parameter for parameter in ann.parameters() if parameter.requires_grad), None)
    if first is None:
        raise TrainingError("The network has nothing to train", remedy="Call ann.requires_grad_() before training.")
    modes = [(module, module.training) for module in ann.modules()]
    device, attributes = first.device, set(vars(ann))
    if channels_last and any(parameter.ndim == 5 for parameter in ann.parameters()):
        raise OptionError("`channels_last` is for images", got="weights of a 3-d convolution", expected="at most 2-d convolutions",
                          remedy="Pass channels_last=False.")  # fmt: skip
    if channels_last:
        ann.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generators = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        for module, mode in modes:
            module.training = mode
        for name in set(vars(ann)) - attributes:  # marks of accelerate
            delattr(ann, name)
        ann.to(device).zero_grad()
        if channels_last:
            ann.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
