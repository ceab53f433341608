"""Turn a network into a spiking one: capture, rewrite, observe, replace."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, fx, nn

from tospike.check import rewritten
from tospike.errors import (
    CalibrationError,
    ConversionError,
    OptionError,
    Problem,
    UnsupportedOperationError,
)
from tospike.graph.batches import Inputs, cycle, move, split_batch
from tospike.graph.capture import Capture, input_names, run_network
from tospike.graph.kinds import TrainableActivation
from tospike.graph.rewrite import site_nodes
from tospike.methods.base import Method, Parts
from tospike.neurons.modules import IntegrateAndFire
from tospike.parts.scales import Learned, Scale
from tospike.run.network import SNN, Conversion

TOLERANCE = 1e-3  # largest relative difference between ANN and rebuilt graph; float32 rounding stays far below
PROGRESS_FROM = 50  # calibration batches from which a progress bar is worth showing


def convert(
    ann: nn.Module,
    method: Method | None = None,
    *,
    calibration: Iterable[Any] | None = None,
    example: Any = None,
    seed: int = 0,
    progress: bool = True,
) -> SNN:
    """Return the spiking version of a network; the network itself is not changed.

    Args:
        ann: A trained network. It is converted as it computes in eval mode.
        method: A conversion method, e.g. ``ts.LTB()``; None for a network made by `prepare`, which brings its own.
        calibration: Batches of inputs, with or without targets; needed by methods that measure thresholds, and by
            ``delay="auto"``.
        example: One batch of inputs ``[N, ...]``; the first calibration batch when None.
        seed: Seed of the random generators during calibration (a shuffling loader draws from them).
        progress: Show a progress bar during long calibrations.

    Raises:
        OptionError: No method was given and the network brings none.
        CaptureError: The network cannot be captured.
        UnsupportedOperationError: Operations that cannot be converted; all of them are listed.
        CalibrationError: The calibration data are missing, not finite, or leave a threshold at zero.
        ConversionError: The rebuilt graph does not compute what the network computes.

    Example:
        >>> import tospike as ts
        >>> ann = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[torch.randn(64, 2)])
        >>> snn.conversion.method, snn.site_names
        ('ltb', ['1'])
    """
    chosen = method or _travelling_method(ann)
    parts = chosen.parts()
    if parts.calibration_batches != 0 and calibration is None:
        raise CalibrationError(
            f"The method {chosen.name!r} measures thresholds on data", got="calibration=None",
            expected="an iterable of batches", remedy="Pass calibration=loader (training images, no labels needed).",
        )  # fmt: skip
    if calibration is not None and example is None:
        example = _first(calibration)
        example = _example(ann, example)
    captured, problems = rewritten(ann, example)
    if problems:
        raise UnsupportedOperationError(f"{type(ann).__name__} cannot be converted", problems=problems)
    difference = _difference(ann, captured)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        observation = _Observation(captured, parts, calibration, progress)
    neurons = _place_neurons(captured, observation.thresholds, parts)
    trained = any(isinstance(scale, Learned) for scale in observation.scales.values())
    conversion = Conversion(
        method=chosen.name,
        settings=chosen.settings(),
        sites=tuple(node.meta["site"] for node in neurons),
        thresholds=observation.thresholds,
        start=parts.start,
        reference="quantised ANN" if trained else "ANN clipped at its thresholds",
        rebuilt_difference=difference,
        inputs={name: tuple(value.shape[1:]) for name, value in captured.example.items()},
        delay=observation.delay,
        log=observation.log,
        dead=observation.dead,
        calibration_batches=observation.batches,
        calibration_samples=observation.samples,
        seed=seed,
    )
    snn = SNN(captured.graph.eval().requires_grad_(False), captured.inputs, conversion)
    return snn.eval()


def _travelling_method(ann: nn.Module) -> Method:
    found: set[Method | None] = {module.method for module in ann.modules() if isinstance(module, TrainableActivation)}
    found.discard(None)
    if len(found) != 1:
        raise OptionError(
            "No method was given" if not found else "The network was prepared by several methods",
            got=", ".join(map(str, found)) or "a network without prepared activations",
            expected="a method, or a network made by ts.prepare", remedy="Pass one, e.g. ts.convert(ann, ts.LTB(), calibration=loader).",
        )  # fmt: skip
    (only,) = found
    assert only is not None
    return only


def _first(calibration: Iterable[Any]) -> Any:
    if iter(calibration) is calibration:
        raise CalibrationError(
            "The calibration data can be read only once", got=type(calibration).__name__,
            expected="a re-iterable loader (a DataLoader or a list)", remedy="Pass list(batches), or the DataLoader itself.",
        )  # fmt: skip
    for batch in calibration:
        return batch
    raise CalibrationError(
        "The calibration loader is empty",
        got="0 batches",
        expected="at least one batch",
        remedy="Pass a loader with data.",
    )


def _example(ann: nn.Module, batch: Any) -> Any:
    """Take the inputs out of a calibration batch that may carry targets too."""
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, dict):
        known = input_names(ann, tuple(range(64)))
        return {key: value for key, value in batch.items() if key in known}
    if batch and isinstance(batch[0], dict):
        return batch[0]
    if batch and isinstance(batch[0], (tuple, list)):
        return tuple(batch[0])
    required = _required_inputs(ann)
    return tuple(batch[:required])


def _required_inputs(ann: nn.Module) -> int:
    if isinstance(ann, fx.GraphModule):
        return sum(node.op == "placeholder" for node in ann.graph.nodes)
    parameters = inspect.signature(ann.forward).parameters.values()
    return max(
        1, sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    )


@contextmanager
def _quantisers_as_clips(network: nn.Module) -> Iterator[None]:
    """Let trained quantisers pass ``clip(z, 0, θ)``, which is continuous: rounding can flip a level, but not a clip."""

    def clip(module: TrainableActivation, args: tuple[Tensor, ...], _: Tensor) -> Tensor:
        return args[0].clamp_min(0.0).minimum(module.threshold)

    trained = [module for module in network.modules() if isinstance(module, TrainableActivation)]
    hooks = [module.register_forward_hook(clip) for module in trained]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _difference(ann: nn.Module, captured: Capture) -> float:
    """Compare the rebuilt graph with the network on the example."""
    network = copy.deepcopy(ann).eval()
    with _quantisers_as_clips(network), _quantisers_as_clips(captured.graph):
        original = list(_tensors(run_network(network, captured.inputs, captured.example)))
        rebuilt = list(_tensors(captured.run(captured.example)))
    worst = 0.0
    for new, old in zip(rebuilt, original, strict=True):
        scale = float(old.abs().max()) or 1.0
        worst = max(worst, float((new - old).abs().max()) / scale)
    if not worst <= TOLERANCE:
        raise ConversionError(
            "The rebuilt network does not compute what the network computes", got=f"relative difference {worst:.3g}",
            expected=f"at most {TOLERANCE:g}", remedy="If the example holds NaN or Inf, repair it; else please report the network.",
        )  # fmt: skip
    return worst


def _tensors(output: Any) -> Iterable[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        return itertools.chain.from_iterable(_tensors(value) for value in output.values())
    if isinstance(output, (tuple, list)):
        return itertools.chain.from_iterable(_tensors(value) for value in output)
    return []


class _Observation:
    """What the scales learned on the calibration data."""

    def __init__(self, captured: Capture, parts: Parts, calibration: Iterable[Any] | None, progress: bool) -> None:
        self.captured = captured
        self.nodes = site_nodes(captured.graph)
        self.batches = self.samples = 0
        self.scales: dict[str, Scale] = {}
        for node in self.nodes:
            site = node.meta["site"]
            activation = captured.graph.get_submodule(str(node.target))
            self.scales[site.name] = parts.scale(site, activation).to(_device(captured))
            captured.graph.set_submodule(str(node.target), self.scales[site.name])
        last = self._watch(parts, calibration, progress) if calibration is not None else None
        self.log = {name: torch.stack(s.changes).tolist() for name, s in self.scales.items() if s.changes}
        self.dead: dict[str, int] = {}
        self.thresholds = self._thresholds()
        self.delay = self._delay(last) if last is not None else None

    def _watch(self, parts: Parts, calibration: Iterable[Any], progress: bool) -> Inputs:
        count = parts.calibration_batches
        source: Iterable[Any] = calibration if count is None else cycle(calibration, max(count, 1))
        shown = progress and (count or 0) >= PROGRESS_FROM
        inputs: Inputs = {}
        for number, batch in enumerate(track(source, "calibrate", total=count, transient=True, disable=not shown), 1):
            inputs = self._inputs(batch, number)
            self.captured.run(inputs)
            self._check_finite(number)
            self.batches, self.samples = number, self.samples + next(iter(inputs.values())).shape[0]
        return inputs

    def _inputs(self, batch: Any, number: int) -> Inputs:
        inputs: Inputs = move(split_batch(batch, self.captured.inputs)[0], _device(self.captured))
        for name, value in inputs.items():
            expected = self.captured.example[name]
            if (
                value.shape[1:].numel() == 0
                or value.ndim != expected.ndim
                or value.is_floating_point() != expected.is_floating_point()
            ):
                raise CalibrationError(
                    "A calibration batch does not fit the network", where=f"batch {number}, input `{name}`",
                    got=f"{tuple(value.shape)} {value.dtype}", expected=f"[N, {', '.join(map(str, expected.shape[1:]))}] {expected.dtype}",
                    remedy="Let the loader yield batches shaped like the example.",
                )  # fmt: skip
            if value.is_floating_point() and not value.isfinite().all():
                raise CalibrationError(
                    "The calibration data hold NaN or Inf", where=f"batch {number}, input `{name}`",
                    got=f"{int((~value.isfinite()).sum())} of {value.numel()} values", expected="finite numbers",
                    remedy="Repair or drop these samples.",
                )  # fmt: skip
        return inputs

    def _check_finite(self, number: int) -> None:
        changes = {name: scale.changes[-1] for name, scale in self.scales.items() if scale.changes}
        finite = torch.stack(list(changes.values())).isfinite().tolist()
        wrong = [name for name, good in zip(changes, finite, strict=True) if not good]
        if wrong:
            raise CalibrationError(
                "An activation is not finite", where=f"batch {number}, Site {wrong[0]}", got="NaN or Inf",
                expected="finite activations", remedy="Look for an overflow in the network, and for outliers in this batch.",
            )  # fmt: skip

    def _thresholds(self) -> dict[str, Tensor]:
        """Fill dead channels with the median of their layer, and refuse a layer that is all dead."""
        filled, problems = {}, []
        for name, scale in self.scales.items():
            theta = scale.threshold().detach()
            live = theta[theta > 0] if theta.ndim else theta.reshape(-1)[theta.reshape(-1) > 0]
            if live.numel() == 0:
                where = f"Site {name} ({scale.site.operation.where})"
                problems.append(Problem("The threshold stayed zero: no calibration sample activated this layer", where=where,
                                        got=f"{self.samples} samples", remedy="Calibrate on real training data, normalised as in training."))  # fmt: skip
                continue
            dead = int((theta <= 0).sum())
            if dead:
                self.dead[name] = dead
            filled[name] = torch.where(theta > 0, theta, live.median())
        if problems:
            raise CalibrationError("The calibration left thresholds at zero", problems=problems)
        return filled

    def _delay(self, inputs: Inputs) -> int:
        """Estimate when the last layer fires first: ``t₀ = ⌊Σ_l mean_c(θ_c − v(0)_c) / max_c E[ReLU(z_c)]⌋``.

        The sum runs along the longest chain of Sites, which for a chain of layers is the sum over all of them.
        """
        means: dict[str, float] = {}
        hooks = []
        for name, scale in self.scales.items():

            def keep(
                _: nn.Module, args: tuple[Tensor, ...], __: Tensor, name: str = name, scale: Scale = scale
            ) -> None:
                axes = tuple(a for a in range(args[0].ndim) if a != scale.site.channel_axis)
                means[name] = float(args[0].clamp_min(0).mean(axes).max())

            hooks.append(scale.register_forward_hook(keep))
        try:
            self.captured.run(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        waits: dict[fx.Node, float] = {}
        for node in self.captured.graph.graph.nodes:
            waits[node] = max((waits[source] for source in node.all_input_nodes), default=0.0)
            if "site" in node.meta:
                name = node.meta["site"].name
                waits[node] += float(0.5 * self.thresholds[name].mean()) / max(means[name], 1e-12)
        return int(max(waits.values()))


def _device(captured: Capture) -> torch.device:
    return next(iter(captured.example.values())).device


def _place_neurons(captured: Capture, thresholds: dict[str, Tensor], parts: Parts) -> list[fx.Node]:
    nodes = site_nodes(captured.graph)
    for node in nodes:
        neuron = IntegrateAndFire(thresholds[node.meta["site"].name], parts.start)
        captured.graph.set_submodule(str(node.target), neuron)
    return nodes
