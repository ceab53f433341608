"""From a network to a graph: every call with its kind, its place in the user's source, and one Site per activation call."""

from __future__ import annotations

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from tospike.errors import CaptureError, Problem
from tospike.graph.batches import Inputs, split_batch
from tospike.graph.inputs import input_names
from tospike.graph.kinds import Kind, Verdict, judge
from tospike.graph.trace import node_source, run_network, trace


@dataclass(frozen=True)
class Operation:
    """One call of the captured network.

    Attributes:
        verdict: Kind and canonical name, and what is wrong with it if anything is.
        path: Module path of the module that is called, or in whose `forward` the call stands.
        source: ``file:line`` of the call in the user's code; empty if it is not known.
        shape: Shape of the output ``[N, ...]``; empty if it is no tensor.
        channel_axis: Which axis of the output counts channels or features.
    """

    verdict: Verdict
    path: str
    source: str
    shape: tuple[int, ...] = ()
    channel_axis: int = 1

    @property
    def where(self) -> str:
        """Place and operation, as they stand in messages."""
        return f"{self.path or '(top level)'} ({', '.join(filter(None, (self.verdict.name, self.source)))})"


@dataclass(frozen=True)
class Site:
    """One call of an activation: the place where a neuron will stand.

    Attributes:
        name: Module path of the activation, or of the module that calls it and the function; ``#2`` marks a second call.
        operation: The call.
        shape: Shape of one sample's activation, without the batch axis.
        channel_axis: Axis of ``[N, ...]`` that counts channels (convolutions) or features (linear layers).
        cap: Upper bound of the activation, ``inf`` if there is none.
        copy_of: Name of the Site that this one repeats behind a max-pool; empty for a Site of the network itself.
    """

    name: str
    operation: Operation
    shape: tuple[int, ...]
    channel_axis: int
    cap: float = math.inf
    copy_of: str = ""

    @property
    def neurons(self) -> int:
        """Number of neurons for one sample."""
        return math.prod(self.shape)


@dataclass
class Capture:
    """A network as a graph, still computing exactly what the network computes in evaluation.

    Attributes:
        graph: The captured network, a copy in eval mode that shares nothing with the original.
        inputs: Names of the inputs, in the order of `forward`.
        example: The inputs that the network was captured with.
        outputs: What the network makes of them.
        problems: What stands in the way of a conversion; operations first seen first.
    """

    graph: fx.GraphModule
    inputs: tuple[str, ...]
    example: Inputs
    outputs: Any
    problems: list[Problem] = field(default_factory=list)

    def operations(self) -> Iterator[tuple[fx.Node, Operation]]:
        """Yield the nodes that carry a signal, in the order of execution."""
        for node in self.graph.graph.nodes:
            if "operation" in node.meta:
                yield node, node.meta["operation"]

    def nodes(self, kind: Kind) -> list[fx.Node]:
        """Return the nodes of one kind, in the order of execution."""
        return [node for node, operation in self.operations() if operation.verdict.kind is kind]

    @property
    def device(self) -> torch.device:
        """Where the network and its example are."""
        return next(iter(self.example.values())).device

    def run(self, inputs: Inputs) -> Any:
        """Run the graph; each input is ``[N, ...]``."""
        with torch.no_grad():
            return self.graph(*(inputs[name] for name in self.inputs))


def capture(ann: nn.Module, example: Any) -> Capture:
    """Turn a network into a graph and judge every operation in it.

    The network is copied, put into eval mode and traced symbolically; then it is run on the example to learn shapes.

    Args:
        ann: Any `nn.Module`.
        example: One batch of inputs ``[N, ...]``: a tensor, a tuple in the order of `forward`, or a dict by name.

    Raises:
        CaptureError: The network cannot be run on the example, or its control flow depends on tensor values.

    Example:
        >>> captured = capture(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.zeros(1, 2))
        >>> [operation.verdict.name for _, operation in captured.operations()]
        ['input', 'linear', 'relu', 'output']
    """
    _refuse_kinds(ann)
    names = input_names(ann, example)
    inputs, _ = split_batch(example if isinstance(example, dict) else (list(_as_tuple(example)),), names)
    _refuse_empty(inputs)
    copied = copy.deepcopy(ann).eval()
    outputs = run_network(copied, names, inputs)  # a network that fails on the example says so here, in its own words
    captured = Capture(trace(copied, names), names, inputs, outputs, _weight_problems(copied))
    _annotate(captured)
    return captured


def _refuse_kinds(ann: object) -> None:
    """Refuse what is no network of plain, initialised float32 or float64 weights."""
    if not isinstance(ann, nn.Module) or isinstance(ann, torch.jit.ScriptModule):
        raise CaptureError("This is no network that can be captured", got=repr(ann)[:80], expected="an nn.Module that is not scripted",
                           remedy="Pass the module itself, built in Python.")  # fmt: skip
    for name, parameter in ann.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise CaptureError("A lazy layer has no weights yet", where=name, got="an uninitialised parameter", expected="a trained network",
                               remedy="Run the network once, ann(example), and load its weights.")  # fmt: skip
        if parameter.is_floating_point() and parameter.dtype not in (torch.float32, torch.float64):
            raise CaptureError("Networks are converted in single or double precision", where=name, got=str(parameter.dtype),
                               expected="float32 or float64", remedy="Pass ann.float(), and inputs x.float().")  # fmt: skip


def _refuse_empty(inputs: Inputs) -> None:
    for name, value in inputs.items():
        if value.numel() == 0:
            raise CaptureError("The example, or the first calibration batch, holds no values", where=f"input `{name}`", got=str(tuple(value.shape)),
                               expected="at least one sample", remedy="Leave empty batches out of the loader.")  # fmt: skip


def _as_tuple(example: Any) -> tuple[Any, ...]:
    return (example,) if isinstance(example, Tensor) else tuple(example)


def _weight_problems(network: nn.Module) -> list[Problem]:
    return [
        Problem(f"The weight `{name}` holds NaN or Inf", where=name, got=f"{int((~value.isfinite()).sum())} of {value.numel()} values",
                expected="finite weights", remedy="Load the checkpoint again, or train with a smaller learning rate.")
        for name, value in network.state_dict().items() if value.is_floating_point() and not value.isfinite().all()
    ]  # fmt: skip


class _Recorder(fx.Interpreter):
    """Run the graph and keep every node's value."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.values[n] = value.clone() if isinstance(value, Tensor) else value
        return value


def _annotate(captured: Capture) -> None:
    """Give every node that carries a signal its `Operation`, found by the table and by running the example."""
    graph, inputs = captured.graph, [captured.example[name] for name in captured.inputs]
    alone, doubled = _Recorder(graph), _Recorder(graph)
    with torch.no_grad():
        alone.run(*(value.clone() for value in inputs))
        with contextlib.suppress(Exception):  # the node it stopped at has no value, and is judged by that
            doubled.run(*(_double(value) for value in inputs))
    paths: Counter[str] = Counter()
    signals: set[fx.Node] = set()
    mixed = False
    for node in graph.graph.nodes:
        module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        verdict = _verdict(node, module, signals)
        if verdict.kind is Kind.CONSTANT:
            continue
        if verdict.kind is not Kind.SHAPE:
            signals.add(node)
            if (
                not mixed
                and verdict.kind is not Kind.BATCH_MIXING
                and _mixes_batch(alone.values.get(node), doubled.values.get(node))
            ):
                mixed, verdict = True, _batch_mixing(verdict)
        value = alone.values[node]
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        path = _path(node, verdict, paths)
        axis = _channel_axis(node, module, shape)
        node.meta["operation"] = Operation(verdict, path, node_source(node), shape, axis)


def _double(value: Tensor) -> Tensor:
    """Append other samples to a batch, to see which operations let them meet."""
    return torch.cat([value, 0.75 * value if value.is_floating_point() else value])


def _mixes_batch(alone: Any, doubled: Any) -> bool:
    """Tell whether the first samples come out differently when others stand behind them."""
    if isinstance(alone, (tuple, list)) and isinstance(doubled, (tuple, list)):
        return any(_mixes_batch(a, d) for a, d in zip(alone, doubled, strict=True))
    if isinstance(alone, dict) and isinstance(doubled, dict):
        return any(_mixes_batch(alone[key], doubled[key]) for key in alone)
    if not isinstance(alone, Tensor):
        return False
    if not isinstance(doubled, Tensor) or doubled.ndim == 0 or doubled.shape != (2 * alone.shape[0], *alone.shape[1:]):
        return True
    first = doubled[: alone.shape[0]]
    same = torch.equal(first, alone)  # most are, and a closer look is slow
    if same or not alone.is_floating_point():
        return not same
    scale = float(alone.nan_to_num().abs().max()) if alone.numel() else 0.0
    return not torch.allclose(first, alone, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)


def _batch_mixing(verdict: Verdict) -> Verdict:
    return Verdict(
        Kind.BATCH_MIXING, verdict.name, reason=f"{verdict.name} moves, mixes or fixes the batch axis, into which time is folded",
        remedy="Keep samples apart on axis 0: use x.size(0) or -1 for the batch, x.flatten(1), and sums over other axes.",
    )  # fmt: skip


def _verdict(node: fx.Node, module: nn.Module | None, signals: set[fx.Node]) -> Verdict:
    if node.op == "placeholder":
        return Verdict(Kind.INPUT, "input")
    if not any(source in signals for source in node.all_input_nodes):
        shapes = any("operation" in source.meta for source in node.all_input_nodes)
        return Verdict(Kind.SHAPE if shapes else Kind.CONSTANT, node.name)
    if node.op == "output":
        return Verdict(Kind.OUTPUT, "output")
    return judge(node, module, lambda value: isinstance(value, fx.Node) and value in signals)


def _path(node: fx.Node, verdict: Verdict, seen: Counter[str]) -> str:
    stack = list(node.meta.get("nn_module_stack", {}))
    owner = str(stack[-1]) if stack else ""
    path = str(node.target) if node.op == "call_module" else ".".join(filter(None, (owner, verdict.name)))
    seen[path] += 1
    return path if seen[path] == 1 else f"{path}#{seen[path]}"


def _channel_axis(node: fx.Node, module: nn.Module | None, shape: tuple[int, ...]) -> int:
    """Return 1 behind convolutions and the last axis behind linear layers, carried along while the rank stays."""
    if isinstance(module, nn.Linear):
        return max(len(shape) - 1, 0)
    if node.op in {"call_function", "call_method"} and getattr(node.target, "__name__", node.target) in {
        "linear",
        "matmul",
    }:
        return max(len(shape) - 1, 0)
    if node.op == "call_module" and hasattr(module, "weight") and not isinstance(module, nn.Embedding):
        return 1
    known = [source.meta["operation"] for source in node.all_input_nodes if "operation" in source.meta]
    return next((o.channel_axis for o in known if len(o.shape) == len(shape) and o.verdict.kind is not Kind.INPUT), 1)
