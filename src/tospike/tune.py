"""Tune an SNN: gradient descent with the real SNN in the forward pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from itertools import islice
from operator import length_hint
from typing import Any, Unpack

import torch
from torch import nn
from torch.utils.data import DataLoader

from tospike import processes
from tospike.errors import OptionError, is_count, require, require_type
from tospike.graph.batches import move, split_batch
from tospike.loop import generators
from tospike.methods.tuning import Tuning
from tospike.run.network import SNN, Tuned
from tospike.tasks import Classification, Task
from tospike.train import FitOptions, fit
from tospike.trainable import TrainableSNN

ADAM_LR = 0.03  # a share of each tensor
ADAM_WARM_UP = 0.1  # a share of the epochs; the moments of Adam are not known at first
MEASURED = 8  # training batches on which the statistics of a layer are measured before it is normalised
_CLASSIFICATION = Classification()


def tune(
    snn: SNN, tuning: Tuning, train_loader: Iterable[Any], test_loader: Iterable[Any] | None = None, *,
    ann: nn.Module | None = None, epochs: int, task: Task = _CLASSIFICATION, **options: Unpack[FitOptions],
) -> SNN:  # fmt: skip
    """Return an SNN that was trained for T steps from where another one stands; that one is not changed.

    The forward pass is the SNN itself, spike for spike, so that clipping, quantisation and timing errors are all in the loss; `Tuning` says
    what stands for its gradient. Thresholds stay positive: ``θ = softplus(ρ)``. With `normalise` each layer before a neuron gets a batch norm
    that at first changes nothing, and that is folded into the layer at the end.

    Args:
        snn: Where to start: a converted network, refined or not, or one that was tuned before.
        tuning: What to train, and how: ``ts.Tuning(time_steps=4)``, or one of the published ways, e.g. ``ts.DSR(time_steps=8)``.
        train_loader: Batches to train on; see `tospike.fit`.
        test_loader: Batches on which the SNN at T is scored after every epoch.
        epochs: Passes over the training data.
        task: Loss and scores.
        ann: The network that the SNN was converted from, which distillation learns from.
        options: Other arguments of `tospike.fit`: ``lr=0.05``, ``checkpoint="run.pt"``, ``seed=1`` …; without weight decay unless given. Where the
            tuning says Adam, ``lr=0.03`` and a warm-up of a tenth of the epochs.

    Raises:
        OptionError: A setting is out of range, or does not fit the neurons; distillation without ``ann=``.
        DataError, TrainingError: See `tospike.fit`; a threshold reached its bound.

    Example:
        >>> import torch, tospike as ts
        >>> ann = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(64, 2)
        >>> snn = ts.convert(ann, ts.LTB(batches=5), calibration=[x])
        >>> tuned = tune(snn, Tuning(time_steps=2), [(x, (x[:, 0] > 0).long())], ann=ann, epochs=3, progress=False)
        >>> tuned.conversion.tuned.settings["time_steps"]
        2
    """
    require_type("snn", snn, SNN, "an SNN", "Pass what ts.convert returned.")
    require_type("tuning", tuning, Tuning, "a Tuning", "Pass ts.Tuning(time_steps=4).")
    require_type("task", task, Task, "a Task", "Pass e.g. task=ts.Regression().")
    require_type(
        "train_loader", train_loader, Iterable, "an iterable of batches", "Pass a DataLoader or a list of batches."
    )
    require("tune", ("epochs", epochs, is_count(epochs), "an integer >= 1", 4))
    _refuse(snn, tuning, ann, task)
    network = TrainableSNN(snn, tuning, task)
    with torch.random.fork_rng():
        torch.manual_seed(options.get("seed", 42))
        for generator in generators(train_loader):
            generator.manual_seed(options.get("seed", 42))
        first = list(islice(train_loader, MEASURED))
    batches = [move(split_batch(batch, snn.plan.inputs)[0], network.device) for batch in first]
    if tuning.normalise and batches:
        network.normalise(batches)
    if ann is not None and batches and tuning.needs_ann:
        network.watch_ann(ann, batches[0])
    shares = processes.count() if isinstance(train_loader, DataLoader) else 1  # which `fit` divides, and nothing else
    network.batches_in_all = epochs * math.ceil(length_hint(train_loader) / shares)
    history = fit(
        network, train_loader, test_loader, epochs=epochs, task=task, optimizer=tuning.optimizer,
        **(_defaults(tuning, epochs) | options),
    )  # fmt: skip
    return network.finished(tuned=Tuned(_plain(tuning), history))


def _defaults(tuning: Tuning, epochs: int) -> FitOptions:
    if tuning.optimizer == "adam":
        return {"weight_decay": 0.0, "lr": ADAM_LR, "warmup_epochs": ADAM_WARM_UP * epochs}
    return {"weight_decay": 0.0}


def _refuse(snn: SNN, tuning: Tuning, ann: nn.Module | None, task: Task) -> None:
    neuron = snn.conversion.neuron
    if neuron.pre is not None:
        raise OptionError(
            "Neurons that spend a pre-run cannot be tuned", got=repr(neuron), expected="neurons whose steps are all read out",
            remedy="Tune without it: convert(ann, method.using(neuron=ts.NeuronModel())).",
        )  # fmt: skip
    if tuning.logits and not isinstance(task, Classification):
        raise OptionError(
            "Distillation of outputs compares logits", got=f"logits={tuning.logits}, task={type(task).__name__}", expected="a Classification",
            remedy="Pass logits=0.0; order='each' and maps= compare inside the network.",
        )  # fmt: skip
    if tuning.gradient == "time" and (neuron.synchronous or neuron.levels == "nearest"):
        raise OptionError(
            "The gradient through time does not fit the neurons", got=repr(neuron),
            expected="causal neurons with levels that are equally far apart",
            remedy="Tune by rate: ts.DSR(time_steps=8).",
        )  # fmt: skip
    if tuning.needs_ann and ann is None:
        raise OptionError(
            "Distillation needs the ANN to learn from", got="ann=None", expected="the network that was converted",
            remedy="Pass ann=ann; or leave all that compares out: logits=0.0, maps=0.0, distance=0.0.",
        )  # fmt: skip
    if tuning.order == "front-first" and processes.count() > 1:
        raise OptionError(
            "Layers that are frozen one by one cannot be trained by several processes", got=f"{processes.count()} processes",
            expected="one", remedy="Run it without `accelerate launch`, or pass order='together'.",
        )  # fmt: skip


def _plain(tuning: Tuning) -> dict[str, Any]:
    return {"name": type(tuning).__name__} | dataclasses.asdict(tuning)
