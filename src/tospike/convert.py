"""Turn a network into a spiking one: capture, rewrite, observe, replace."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import NoneType
from typing import Any

import torch
from accelerate.utils import recursively_apply  # type: ignore[import-untyped]
from torch import Tensor, fx, nn

from tospike import processes
from tospike.calibrate import Calibration, calibrate, inputs_of
from tospike.check import EXAMPLE_SAMPLES, rewritten
from tospike.descend import descend
from tospike.errors import (
    CalibrationError,
    ConversionError,
    OptionError,
    Problem,
    UnsupportedOperationError,
    require_type,
)
from tospike.graph.batches import cycle, move, split_batch, tensors_in
from tospike.graph.capture import Capture
from tospike.graph.inputs import example_of
from tospike.graph.kinds import Kind, TrainableActivation
from tospike.graph.layers import is_weighted
from tospike.graph.rewrite import Analog
from tospike.graph.trace import run_network
from tospike.graph.walk import module_of, reach, site_nodes
from tospike.methods.auto import Auto
from tospike.methods.base import Method, Parts
from tospike.neurons.modules import Neuron
from tospike.refine import refine
from tospike.run.network import SNN, Conversion

COMPARED = 2  # batches on which candidates of a method are compared
TOLERANCE = 1e-3  # largest relative difference between ANN and rebuilt graph; float32 rounding stays far below


def convert(
    ann: nn.Module,
    method: Method | None = None,
    *,
    calibration: Iterable[Any] | None = None,
    example: Any = None,
    analog: Analog = (),
    seed: int = 0,
    progress: bool = True,
) -> SNN:
    """Return the spiking version of a network; the network itself is not changed.

    Args:
        ann: A trained network. It is converted as it computes in eval mode.
        method: A conversion method, e.g. ``ts.LTB()``; with None the one that `prepare` left in the network, else ``ts.Auto()``.
        calibration: Batches of inputs, with or without targets; needed by methods that measure thresholds, and by
            ``delay="auto"``. Under several processes each passes its share, as many batches of one size as the others: what is measured is that of
            all, and so is the SNN.
        example: One batch of inputs ``[N, ...]``; with None the first samples of the calibration data, or the one that `prepare` left.
        analog: Names of operations (``"softmax"``) or module paths that may run in analog, or ``"auto"`` for all. Such an
            operation is exact in the running mean, costs multiply-adds at every step, and is listed in the record. The path of a Site
            leaves that activation analog.
        seed: Seed of the random generators during calibration (a shuffling loader draws from them).
        progress: Show a progress bar during long calibrations.

    Raises:
        OptionError: The network was prepared by several methods; or the neurons of the method cannot send what an activation passes.
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
    require_type("ann", ann, nn.Module, "an nn.Module", "Pass the trained network.")
    require_type(
        "method", method, (Method, NoneType), "a method with its settings", "Pass e.g. ts.LTB(), or ts.method(name)."
    )
    chosen = method or _default_method(ann)
    parts = chosen.parts()
    if calibration is None and (parts.calibration_batches != 0 or parts.refiners or parts.descent):
        raise CalibrationError(
            f"The method {chosen.name!r} measures thresholds on data", got="calibration=None",
            expected="an iterable of batches", remedy="Pass calibration=loader (training images, no labels needed).",
        )  # fmt: skip
    if example is None and calibration is not None:
        require_type(
            "calibration", calibration, Iterable, "an iterable of batches", "Pass a DataLoader or a list of batches."
        )
        if isinstance(calibration, Tensor):
            raise CalibrationError("The calibration data are one tensor, not batches", got=str(tuple(calibration.shape)),
                                   expected="an iterable of batches", remedy="Pass calibration=[x], or a DataLoader.")  # fmt: skip
        with _seeded(seed):
            first = example_of(ann, _first(calibration))
        example = recursively_apply(lambda value: value[:EXAMPLE_SAMPLES] if value.ndim else value, first)
    if example is None and calibration is None:
        example = move(getattr(ann, "example", None), _device(ann))  # `prepare` leaves one
    candidates = chosen.candidates()
    if len(candidates) > 1:  # those that fit, if any do
        captured, _ = rewritten(ann, example, analog)
        candidates = tuple(one for one in candidates if not _misfits(captured, one.parts())) or candidates
    found = [_convert(ann, candidate, calibration, example, analog, seed, progress) for candidate in candidates]
    if calibration is None:
        return found[0]
    with _seeded(seed):
        snn = _nearest(ann, found, calibration, parts)
        if parts.descent is None:
            return snn
        return descend(snn, ann, parts.descent, calibration, parts.time_steps, progress=progress)


def _convert(
    ann: nn.Module,
    chosen: Method,
    calibration: Iterable[Any] | None,
    example: Any,
    analog: Analog,
    seed: int,
    progress: bool,
) -> SNN:
    parts = chosen.parts()
    captured, problems = rewritten(ann, example, analog)
    if problems:
        raise UnsupportedOperationError(f"{type(ann).__name__} cannot be converted", problems=problems)
    _refuse(captured, parts)
    difference = _difference(ann, captured)
    in_analog = _mark_analog(captured)
    if parts.pool == "running" or parts.neuron.synchronous:  # counts know no single steps
        _pool_running_sums(captured)
    with _seeded(seed):
        found = calibrate(captured, parts, calibration, progress=progress)
    neurons = _place_neurons(captured, found, parts, seed)
    if parts.refiners:
        _refine(captured, parts, calibration, seed, progress)
    _mark_held(captured)
    conversion = Conversion(
        method=chosen.name,
        settings=chosen.settings(),
        sites=tuple(node.meta["site"] for node in neurons),
        thresholds={node.meta["site"].name: neuron.threshold for node, neuron in neurons.items()},
        neurons={node.meta["site"].name: neuron.model for node, neuron in neurons.items()},
        start=parts.start,
        neuron=parts.neuron,
        reference="trained ANN with clips in place of its quantisers"
        if found.trained
        else "ANN clipped at its thresholds",
        rebuilt_difference=difference,
        inputs={name: tuple(value.shape[1:]) for name, value in captured.example.items()},
        delay=found.delay,
        log=found.log,
        dead=found.dead,
        calibration_batches=found.batches,
        calibration_samples=found.samples,
        seed=seed,
        analog=in_analog,
        carry=parts.carry,
        members=parts.members,
        depth=_depth(captured),
    )
    return SNN(captured.graph.eval().requires_grad_(False), captured.inputs, conversion).eval()


@torch.no_grad()
def _nearest(ann: nn.Module, snns: Sequence[SNN], calibration: Iterable[Any], parts: Parts) -> SNN:
    """Return the SNN whose output at the T of its method has the least squared error on the first calibration batches."""
    if len(snns) == 1:
        return snns[0]
    network, errors = copy.deepcopy(ann).eval(), [0.0] * len(snns)
    for batch in cycle(calibration, min(parts.refine_batches, COMPARED)):
        inputs = move(split_batch(batch, snns[0].plan.inputs)[0], _device(ann))
        wanted = list(tensors_in(run_network(network, snns[0].plan.inputs, inputs)))
        for number, snn in enumerate(snns):
            outputs = tensors_in(snn(inputs, time_steps=parts.time_steps))
            errors[number] += sum(float((y - x).square().sum()) for x, y in zip(wanted, outputs, strict=True))
    errors = processes.total(torch.tensor(errors, dtype=torch.float64, device=_device(ann))).tolist()
    return snns[errors.index(min(errors))]


def _refine(captured: Capture, parts: Parts, calibration: Iterable[Any] | None, seed: int, progress: bool) -> None:
    assert calibration is not None  # refused above
    with _seeded(seed):
        batches = [
            processes.together(inputs_of(captured, batch, n)) for n, batch in enumerate(cycle(calibration, parts.refine_batches), 1)
        ]  # fmt: skip
        try:
            refine(captured.graph, parts.refiners, batches, parts.time_steps, progress=progress)
        except RuntimeError as error:
            raise CalibrationError(
                "The network fails on a calibration batch", where="refinement",
                got=f"batches of {sorted({str(tuple(v.shape)) for batch in batches for v in batch.values()})}; {str(error).splitlines()[0]}",
                expected="batches shaped like the example", remedy="Let the loader yield batches shaped like the example; "
                "out of memory, lower refine_batches or T.",
            ) from error  # fmt: skip


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw random numbers from a seed, and leave the caller's generators as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _device(ann: nn.Module) -> torch.device:
    return next((parameter.device for parameter in ann.parameters()), torch.device("cpu"))


def _default_method(ann: nn.Module) -> Method:
    """Return the method that prepared a network, or `Auto` for a network that none did."""
    found: list[Method] = []
    for module in ann.modules():
        if isinstance(module, TrainableActivation) and module.method is not None and module.method not in found:
            found.append(module.method)
    if not found:
        return Auto()
    if len(found) > 1:
        raise OptionError(
            "The network was prepared by several methods", got=", ".join(map(str, found)), expected="one method",
            remedy="Pass the one that counts, e.g. ts.convert(ann, ts.QCFS(levels=4), example=x).",
        )  # fmt: skip
    return found[0]


def _mark_analog(captured: Capture) -> tuple[str, ...]:
    """Mark what carries no spikes: inputs, currents, what analog operations give. Return these operations.

    A layer with weights that reads such values multiplies, where it would add for spikes.
    """
    for node in captured.graph.graph.nodes:
        carried = "site" not in node.meta and any(source.meta.get("analog") for source in node.all_input_nodes)
        current = node.op == "placeholder" or is_weighted(captured.graph, node)
        node.meta["analog"] = bool(node.meta.get("incremental")) or carried or current
    return tuple(operation.where for node, operation in captured.operations() if node.meta.get("incremental"))


def _mark_held(captured: Capture) -> None:
    """Mark what carries means that the receiver holds, of which only the changes are sent, and forget what only refiners need."""
    for node in captured.graph.graph.nodes:
        neuron = module_of(captured.graph, node)
        held = any(source.meta.get("holds") for source in node.all_input_nodes)
        node.meta["holds"] = neuron.model.holds if isinstance(neuron, Neuron) else held
        node.meta.pop("activation", None)  # that of the ANN has served


def _pool_running_sums(captured: Capture) -> None:
    """Let max-pools before neurons pool the sums of all currents so far, where these change in time."""
    behind, _ = reach(captured.graph.graph, site_nodes(captured.graph))
    for node in captured.nodes(Kind.POOL_MAX):
        if "before_neuron" in node.meta and node in behind:
            node.meta["incremental"] = True


def _misfits(captured: Capture, parts: Parts) -> list[Problem]:
    """List the activations that are more than a rectifier, where neurons have nothing to send for it."""
    if parts.neuron.sends_below_zero:
        return []
    neuron = parts.neuron
    got = f"{neuron.spikes} spikes" + (f", silence worth {neuron.rest} of {neuron.capacity}" if neuron.rest else "")
    sites = [node.meta["site"] for node in site_nodes(captured.graph)]
    return [
        Problem(f"{site.operation.verdict.name} passes more than max(z, 0), which these neurons cannot send",
                where=f"Site {site.name} ({site.operation.where})", got=got, expected="a signed neuron whose silence is worth nothing",
                remedy="Use a signed method, e.g. ts.Ternary(time_steps=8), or .using(neuron=ts.NeuronModel(signed=True)).")
        for site in sites if not site.operation.verdict.is_rectifier
    ]  # fmt: skip


def _refuse(captured: Capture, parts: Parts) -> None:
    problems = _misfits(captured, parts)
    if problems:
        raise OptionError("The method's neurons and the network's activations do not fit together", problems=problems)


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


@contextmanager
def _quantisers_as_clips(network: nn.Module) -> Iterator[None]:
    """Let trained quantisers pass ``clip(z, 0, θ)``, which is continuous: rounding can flip a level, but not a clip."""

    def clip(module: TrainableActivation, args: tuple[Tensor, ...], _: Tensor) -> Tensor:
        return args[0].clamp_min(0.0).minimum(module.bound(args[0]))

    trained = [module for module in network.modules() if isinstance(module, TrainableActivation)]
    hooks = [module.register_forward_hook(clip) for module in trained]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _difference(ann: nn.Module, captured: Capture) -> float:
    """Compare the rebuilt graph with the network on the example."""
    outputs = captured.outputs
    if any(isinstance(module, TrainableActivation) for module in ann.modules()):
        network = copy.deepcopy(ann).eval()
        with _quantisers_as_clips(network):
            outputs = run_network(network, captured.inputs, captured.example)
    with _quantisers_as_clips(captured.graph):
        original = list(tensors_in(outputs))
        rebuilt = list(tensors_in(captured.run(captured.example)))
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


def _depth(captured: Capture) -> int:
    """Return the number of Sites on the longest way through the network."""
    passed: dict[fx.Node, int] = {}
    for node in captured.graph.graph.nodes:
        passed[node] = max((passed[source] for source in node.all_input_nodes), default=0) + ("site" in node.meta)
    return max(passed.values())


def _place_neurons(captured: Capture, found: Calibration, parts: Parts, seed: int) -> dict[fx.Node, Neuron]:
    neurons = {}
    for number, node in enumerate(site_nodes(captured.graph)):
        name = node.meta["site"].name
        neuron = Neuron(
            found.thresholds[name], parts.start, parts.neuron, found.functions[name], seed + number, parts.carry > 0
        )
        captured.graph.set_submodule(str(node.target), neuron)
        neurons[node] = neuron
    return neurons
