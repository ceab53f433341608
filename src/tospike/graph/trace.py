"""Run and trace a network symbolically, with every place that an error names in the user's own source."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from tospike.errors import CaptureError
from tospike.graph.batches import Inputs
from tospike.graph.kinds import TrainableActivation, is_frozen_norm

HARMLESS = {
    "__init__",
    "__repr__",
    "__getattr__",
    "__setstate__",
    "__getstate__",
    "__deepcopy__",
    "extra_repr",
    "reset_parameters",
    "train",
    "eval",
}
_OURS = f"{Path(__file__).parents[1]}/"
_TORCH = f"{Path(torch.__file__).parent}/"
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


class _Tracer(fx.Tracer):
    """Trace `forward` for the arguments that the example gives; all others keep their defaults."""

    record_stack_traces = True

    def __init__(self, arguments: tuple[str, ...]) -> None:
        super().__init__()
        self.arguments = arguments

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        if isinstance(module, TrainableActivation) or is_frozen_norm(module):
            return True
        inherits = type(module).forward.__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
        return inherits and not is_altered(module)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in self.arguments]
        call = _bind(inspect.signature(root_fn), self.arguments)
        return (lambda *given: call(root_fn, self.root, given)), proxies


def is_altered(module: nn.Module) -> bool:
    """Tell whether a module computes something else than the class of torch that it is made from: one of its methods was replaced."""
    kinds = type(module).__mro__
    first = next(number for number, kind in enumerate(kinds) if kind.__module__.startswith("torch.nn.modules"))
    replaced = {
        name for kind in kinds[:first] for name, value in vars(kind).items() if inspect.isfunction(value)
    } - HARMLESS
    theirs = {name for kind in kinds[first:] for name, value in vars(kind).items() if inspect.isfunction(value)}
    return bool(replaced & theirs) or "forward" in vars(module)


def _bind(signature: inspect.Signature, names: tuple[str, ...]) -> Callable[..., Any]:
    """Return a function that calls `forward` with arguments by name, and those of ``*args`` by position."""
    plain = [name for name in names if name in signature.parameters]

    def call(function: Callable[..., Any], root: nn.Module, given: tuple[Any, ...]) -> Any:
        keywords = dict(zip(names, given, strict=True))
        if len(plain) == len(names):
            return function(root, **keywords)
        return function(root, *given)

    return call


def run_network(network: nn.Module, names: tuple[str, ...], inputs: Inputs) -> Any:
    """Run a network on inputs by name.

    Raises:
        CaptureError: It fails; the message has the shapes and the user's source line.
    """
    call = _bind(inspect.signature(type(network).forward), names)
    try:
        with torch.no_grad():
            return call(type(network).forward, network, tuple(inputs[name].clone() for name in names))
    except Exception as error:
        integers = [name for name, value in inputs.items() if not value.is_floating_point()]
        raise CaptureError(
            "The network itself fails on the example",
            where=_source(error),
            got="; ".join(f"{name}: {tuple(value.shape)} {value.dtype}" for name, value in inputs.items())
            + f"; {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            expected="a batch that `ann(example)` accepts",
            remedy="Pass floating-point inputs (x.float())."
            if integers
            else "Pass an example of the right shape and device; without `example=`, it is the first calibration batch.",
        ) from error


def trace(network: nn.Module, names: tuple[str, ...]) -> fx.GraphModule:
    """Trace a network for the inputs named; in-place operations count as if they returned a new tensor.

    Raises:
        CaptureError: Its control flow depends on tensor values; the message has the user's source line.
    """
    tracer = _Tracer(names)
    try:
        graph = tracer.trace(network)
    except Exception as error:
        raise CaptureError(
            f"The network {type(network).__name__} cannot be traced",
            where=_source(error),
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            expected="a `forward` whose control flow does not depend on tensor values",
            remedy="Move that code out of the network and capture the inner module, decide it by an argument with a default, "
            "or wrap the function with torch.fx.wrap.",
        ) from error
    traced = fx.GraphModule(network, graph, class_name=type(network).__name__)
    _follow_in_place(traced)
    return traced


def _source(error: BaseException) -> str:
    """Return the innermost ``file:line`` of a traceback that is the user's own."""
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    return _own_frame(frames)


def _own_frame(frames: list[tuple[str, int]]) -> str:
    own = [frame for frame in frames if not frame[0].startswith((_OURS, _TORCH, "<"))]
    return f"{_short(own[-1][0])}:{own[-1][1]}" if own else ""


def _short(file: str) -> str:
    """Shorten an installed file to its package path, and any other to what stands below the working folder."""
    _, found, below = file.rpartition("site-packages/")
    path = Path(file)
    return below if found else str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def node_source(node: fx.Node) -> str:
    """Return the ``file:line`` of the call in the user's code, empty if it is not known."""
    return _own_frame([(m["file"], int(m["line"])) for m in _FRAME.finditer(node.stack_trace or "")])


def _is_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return bool(
        (node.op != "call_module" and name.endswith("_") and not name.endswith("__"))
        or name in {"iadd", "isub", "imul", "itruediv"}
        or node.kwargs.get("inplace")
        or getattr(module, "inplace", False)
    )


def _follow_in_place(module_graph: fx.GraphModule) -> None:
    """Let the users of a tensor that was changed in place use the changed one, as they do when the network runs."""
    order = {node: number for number, node in enumerate(module_graph.graph.nodes)}
    for node in module_graph.graph.nodes:
        module = module_graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        changed = node.args[0] if node.args else None
        if isinstance(changed, fx.Node) and node.op.startswith("call") and _is_in_place(node, module):
            for user in [user for user in changed.users if order[user] > order[node]]:
                user.replace_input_with(changed, node)
