"""Let the scales of a method watch a network on calibration data, and collect the thresholds they find."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from tospike import processes
from tospike.errors import CalibrationError, Problem
from tospike.graph.batches import Inputs, cycle, move, split_batch
from tospike.graph.capture import Capture
from tospike.graph.kinds import TrainableActivation
from tospike.graph.rewrite import Rectifier
from tospike.graph.walk import site_nodes
from tospike.methods.base import Parts
from tospike.parts.lying import in_cache
from tospike.parts.scales import Learned, Scale
from tospike.progress import track
from tospike.run.network import lay_out
from tospike.run.plan import channels_last

PROGRESS_FROM = 50  # calibration batches from which a progress bar is worth showing


@dataclass(frozen=True)
class Calibration:
    """What the scales of a network found.

    Attributes:
        thresholds: θ of each Site by name, broadcastable to one sample, in units of the activation.
        functions: The activation of the ANN at each Site by name.
        trained: Whether training fixed the thresholds, and the data none of them.
        delay: Estimate of the first step worth reading out; None without data.
        log: Relative change of each Site's mean threshold, one number per batch.
        dead: Channels per Site that no sample activated; they took the median threshold of their layer.
        batches, samples: What the thresholds were measured on.
    """

    thresholds: dict[str, Tensor]
    functions: dict[str, nn.Module]
    trained: bool
    delay: int | None = None
    log: dict[str, list[float]] = field(default_factory=dict)
    dead: dict[str, int] = field(default_factory=dict)
    batches: int = 0
    samples: int = 0


@torch.no_grad()
def calibrate(captured: Capture, parts: Parts, data: Iterable[Any] | None, *, progress: bool = True) -> Calibration:
    """Put the method's scales at the Sites of a rewritten graph, run it on the data, and return what they found.

    Args:
        captured: A rewritten network; its Sites hold scales afterwards.
        parts: The parts of the method.
        data: Batches of inputs ``[N, ...]``; None for a method that measures nothing.
        progress: Show a progress bar when there are many batches.

    Raises:
        CalibrationError: The data do not fit, they or an activation are not finite, or a layer is all dead.

    Example:
        >>> import tospike as ts
        >>> from tospike.check import rewritten
        >>> captured, _ = rewritten(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(1, 2))
        >>> calibrate(captured, ts.LTB(batches=3).parts(), [torch.randn(8, 2)]).samples
        24
    """
    scales = _place_scales(captured, parts)
    lay_out(captured.graph)
    trained = all(isinstance(scale, Learned) for scale in scales.values())
    functions = {name: _tracked(scale.function) for name, scale in scales.items()}
    if data is None:
        return Calibration(_thresholds(scales, 0)[0], functions, trained)
    samples, number = 0, 0
    spread, strongest = _Spread(), _Strongest(scales)
    for number, batch, last in _numbered(data, parts.calibration_batches, progress):
        inputs = inputs_of(captured, batch, number)
        spread.watch(inputs)
        with strongest if last else nullcontext():
            _run(captured, inputs, number)
        _check_finite(scales, number)
        samples += next(iter(inputs.values())).shape[0]
    spread.check(number)
    samples = int(processes.total(torch.tensor(samples, device=captured.device)))
    thresholds, dead = _thresholds(scales, samples)
    log = {name: _changes(torch.stack(scale.sums)) for name, scale in scales.items() if scale.sums}
    delay = _delay(captured, strongest.found, thresholds, parts.start)
    return Calibration(thresholds, functions, trained, delay, log, dead, number, samples)


def _place_scales(captured: Capture, parts: Parts) -> dict[str, Scale]:
    scales = {}
    for node in site_nodes(captured.graph):
        site, path = node.meta["site"], str(node.target)
        activation = captured.graph.get_submodule(path)
        node.meta["activation"] = activation  # what the SNN is compared with where it is refined
        scales[site.name] = parts.scale(site, activation)
        scales[site.name].function = activation
        scales[site.name].to(captured.device)
        captured.graph.set_submodule(path, scales[site.name])
    return scales


def _tracked(activation: nn.Module) -> nn.Module:
    """Return what neurons follow: the activation, or the clip of a trained quantiser, whose rounding is theirs to do."""
    return Rectifier(float(activation.threshold.max())) if isinstance(activation, TrainableActivation) else activation


def _numbered(data: Iterable[Any], count: int | None, progress: bool) -> Iterator[tuple[int, Any, bool]]:
    """Yield number and batch, and whether it is the last one."""
    # A method that measures nothing still sees one batch when there is one: the delay is estimated on it.
    source = data if count is None else cycle(data, max(count, 1))
    shown = progress and (count or 0) >= PROGRESS_FROM
    held: tuple[int, Any] | None = None
    for following in enumerate(track(source, "calibrate", total=count, shown=shown), 1):
        if held is not None:
            yield *held, False
        held = following
    if held is not None:
        yield *held, True


def inputs_of(captured: Capture, batch: Any, number: int) -> Inputs:
    """Return the inputs in a calibration batch, checked against the example; the number is for messages."""
    inputs: Inputs = move(split_batch(batch, captured.inputs)[0], captured.device)
    for name, value in inputs.items():
        expected = captured.example[name]
        if (
            value.numel() == 0
            or value.ndim != expected.ndim
            or value.is_floating_point() != expected.is_floating_point()
        ):
            raise CalibrationError(
                "A calibration batch does not fit the network", where=f"batch {number}, input `{name}`",
                got=f"{tuple(value.shape)} {value.dtype}", expected=f"[N, {', '.join(map(str, expected.shape[1:]))}] {expected.dtype}, N >= 1",
                remedy="Let the loader yield batches shaped like the example.",
            )  # fmt: skip
        if value.is_floating_point() and not value.isfinite().all():
            raise CalibrationError(
                "The calibration data hold NaN or Inf", where=f"batch {number}, input `{name}`",
                got=f"{int((~value.isfinite()).sum())} of {value.numel()} values", expected="finite numbers",
                remedy="Repair or drop these samples.",
            )  # fmt: skip
    return inputs


def _run(captured: Capture, inputs: Inputs, number: int) -> None:
    try:
        captured.run({name: channels_last(value) for name, value in inputs.items()})
    except RuntimeError as error:
        raise CalibrationError(
            "The network fails on a calibration batch", where=f"batch {number}",
            got="; ".join(f"{name}: {tuple(value.shape)}" for name, value in inputs.items()) + f"; {str(error).splitlines()[0]}",
            expected=", ".join(f"{name}: {tuple(value.shape)}" for name, value in captured.example.items()) + " with any batch size",
            remedy="Let the loader yield batches shaped like the example.",
        ) from error  # fmt: skip


class _Spread:
    """The smallest and largest input value, to see data that are the same everywhere."""

    def __init__(self) -> None:
        self.low, self.high, self.values = math.inf, -math.inf, 0

    def watch(self, inputs: Inputs) -> None:
        for value in inputs.values():
            low, high = value.aminmax()
            self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
            self.values += value.numel()

    def check(self, batches: int) -> None:
        if self.low == self.high and self.values > 1:
            raise CalibrationError(
                "The calibration data are constant", where=f"all of {batches} batches", got=f"{self.values} times {self.low:g}",
                expected="inputs that differ", remedy="Pass real training data; look for a division by 0 in the normalisation.",
            )  # fmt: skip


def _check_finite(scales: dict[str, Scale], number: int) -> None:
    sums = {name: scale.sums[-1] for name, scale in scales.items() if scale.sums}
    finite = torch.stack(list(sums.values())).isfinite().tolist()
    wrong = [name for name, good in zip(sums, finite, strict=True) if not good]
    if wrong:
        raise CalibrationError(
            "An activation is not finite", where=f"batch {number}, Site {_where(scales[wrong[0]])}", got="NaN or Inf",
            expected="finite activations", remedy="Look for an overflow in the network, and for outliers in this batch.",
        )  # fmt: skip


def _changes(sums: Tensor) -> list[float]:
    """Return the relative change of a layer's mean threshold made by each batch."""
    steps = sums.diff(prepend=sums.new_zeros(1))
    changes: list[float] = (steps / sums.clamp_min(torch.finfo(sums.dtype).tiny)).tolist()
    return changes


def _where(scale: Scale) -> str:
    return f"{scale.site.name} ({scale.site.operation.where})"


def _thresholds(scales: dict[str, Scale], samples: int) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Fill dead channels with the median of their layer, count them, and refuse a layer that is all dead."""
    thresholds, dead, problems = {}, {}, []
    for name, scale in scales.items():
        theta = scale.threshold().detach()
        live = theta[theta > 0]
        if live.numel() == 0:
            problems.append(
                Problem("The threshold stayed zero: no calibration sample activated this layer", where=f"Site {_where(scale)}",
                        got=f"{samples} samples", expected="a positive activation", remedy="Calibrate on real training data, normalised as in training.")
            )  # fmt: skip
            continue
        if live.numel() < theta.numel():
            dead[name] = theta.numel() - live.numel()
        thresholds[name] = torch.where(theta > 0, theta, live.median())
    if problems:
        raise CalibrationError("The calibration left thresholds at zero", problems=problems)
    return thresholds, dead


def _delay(captured: Capture, strongest: dict[str, float], thresholds: dict[str, Tensor], start: float) -> int:
    """Estimate when the last layer fires first: ``t₀ = ⌊Σ_l mean_c(θ_c − v(0)_c) / max_c E[ReLU(z_c)]⌋``.

    The sum runs along the longest chain of Sites, which for a chain of layers is the sum over all of them.
    """
    waits: dict[fx.Node, float] = {}
    for node in captured.graph.graph.nodes:
        waits[node] = max((waits[source] for source in node.all_input_nodes), default=0.0)
        if "site" in node.meta:
            name = node.meta["site"].name
            waits[node] += (1.0 - start) * float(thresholds[name].mean()) / max(strongest[name], 1e-12)
    return int(max(waits.values()))


class _Strongest:
    """The largest mean rectified current of a channel at each Site, found in the pass over the last batch."""

    def __init__(self, scales: dict[str, Scale]) -> None:
        self.scales = scales
        self.found: dict[str, float] = {}
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        self.hooks = [scale.register_forward_hook(partial(self._keep, name)) for name, scale in self.scales.items()]

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _keep(self, name: str, scale: nn.Module, args: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(scale, Scale)
        axes = tuple(axis for axis in range(args[0].ndim) if axis != scale.site.channel_axis)
        parts = [part.clamp_min(0).sum(axes) for part in in_cache(args[0])]
        shared = args[0].numel() // parts[0].numel()
        self.found[name] = float(processes.total(torch.stack(parts).sum(0)).max()) / shared / processes.count()
