"""Let a whole SNN descend towards its ANN on calibration data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from tospike import processes
from tospike.differentiable import DifferentiableSNN, Teacher, distance
from tospike.errors import CalibrationError
from tospike.graph.batches import Inputs, cycle, move, split_batch
from tospike.parts.descent import Descent
from tospike.progress import track
from tospike.relative_adam import RelativeAdam
from tospike.run.network import SNN, Descended

WARM_UP = 0.3  # share of the iterations; with a shorter one the moments of Adam, not known yet, throw the SNN far off
JUDGED = 0.1  # share of the iterations, the last ones, on whose batches the SNN has to be nearer than the one it started from


@torch.enable_grad()
def descend(
    snn: SNN, ann: nn.Module, descent: Descent, calibration: Iterable[Any], time_steps: int, *, progress: bool = True
) -> SNN:
    """Return an SNN that followed the gradient of its distance to the ANN; the one that is given is not changed.

    Args:
        snn: Where to start.
        ann: The network that it was converted from.
        descent: How far and how fast.
        calibration: Batches of inputs, with or without targets.
        time_steps: T.
        progress: Show a progress bar.

    Raises:
        CalibrationError: The network fails on a batch, or the loss is not finite.

    Example:
        >>> import tospike as ts
        >>> ann, x = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(64, 2)
        >>> snn = ts.convert(ann, ts.Auto(2, spikes="binary"), calibration=[x], progress=False)
        >>> record = descend(snn, ann, Descent(50), [x], 2, progress=False).conversion.descended
        >>> len(record.losses), record.samples
        (50, 3200)
    """

    def given(batch: Any) -> Inputs:
        inputs: Inputs = move(split_batch(batch, snn.plan.inputs)[0], network.device)
        return inputs

    by_time = descent.gradient == "time"
    surrogate = descent.surrogate if by_time else None
    network, start = (
        DifferentiableSNN(snn, time_steps, surrogate=surrogate, steps_per_call=descent.steps_per_call).eval()
        for _ in range(2)
    )
    first = given(next(cycle(calibration, 1)))
    teacher = Teacher(ann, first, snn)
    with torch.no_grad():
        far = _shared(_distance(start, teacher, first, 1))
    lr = descent.lr * math.sqrt(far)  # tensors that are off by a share of s are at a distance of about s²
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = RelativeAdam(trained, lr)
    schedule = OneCycleLR(optimizer, lr, descent.iterations, pct_start=WARM_UP, cycle_momentum=False)
    losses, before, samples = [], [], 0
    last = descent.iterations - math.ceil(JUDGED * descent.iterations)
    batches = track(cycle(calibration, descent.iterations), "descend", total=descent.iterations, shown=progress)
    for number, inputs in enumerate(map(given, batches), 1):
        optimizer.zero_grad()
        loss = _distance(network, teacher, inputs, number, by_time=by_time)
        losses.append(_shared(loss))
        if number > last:
            with torch.no_grad():
                before.append(_shared(_distance(start, teacher, inputs, number)))
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in trained:
            if parameter.grad is not None:
                parameter.grad = processes.total(parameter.grad) / processes.count()
        optimizer.step()
        schedule.step()
        samples += _samples_in(inputs)
    record = Descended(samples, tuple(losses), mean(before), mean(losses[last:]))
    if record.after < record.before:
        return network.finished(descended=record)
    return SNN(snn.graph, snn.plan.inputs, replace(snn.conversion, descended=record)).eval()


def _samples_in(inputs: Inputs) -> int:
    """Return how many samples the batches of all processes have."""
    return len(next(iter(inputs.values()))) * processes.count()


def _shared(loss: Tensor) -> float:
    """Return the mean of a loss over all processes."""
    return float(processes.total(loss.detach())) / processes.count()


def _distance(
    network: DifferentiableSNN, teacher: Teacher, given: Inputs, number: int, *, by_time: bool = True
) -> Tensor:
    """Return the loss of one batch, a scalar, with gradients through time or by rate."""
    try:
        output, means = network.by_time(given, set(network.sites)) if by_time else network.by_rate(given)
    except RuntimeError as error:
        raise CalibrationError(
            "The network fails on a calibration batch", where=f"descent, iteration {number}",
            got=f"{ {name: tuple(value.shape) for name, value in given.items()} }; {str(error).splitlines()[0]}",
            expected="batches shaped like the example", remedy="Let the loader yield batches shaped like the example; "
            "out of memory, let it yield smaller ones, or pass Descent(steps_per_call=1).",
        ) from error  # fmt: skip
    wanted, activations = teacher(given)
    loss = distance(network, means, output, activations, wanted)
    if not loss.isfinite():
        raise CalibrationError(
            "The loss of the descent is not finite", where=f"iteration {number}", got=str(float(loss.detach())), expected="a finite number",
            remedy="Lower lr; look for NaN or Inf in the data.",
        )  # fmt: skip
    return loss
