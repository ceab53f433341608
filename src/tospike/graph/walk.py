"""Questions that every pass over a graph asks, and how a pass adds a module to it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

_MAX_POOLS = (functional.max_pool2d, torch.max_pool2d)
_POOL_SETTINGS = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")


def site_nodes(graph: fx.GraphModule) -> list[fx.Node]:
    """Return the Sites of a graph in the order of execution."""
    return [node for node in graph.graph.nodes if "site" in node.meta]


def module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls; None if it calls none.

    A run asks this several times for each node: `get_submodule`, which asks each module on the way what it is, takes four times as long.
    """
    if node.op != "call_module":
        return None
    module: Any = graph
    for name in str(node.target).split("."):
        module = module._modules[name]
    return module  # type: ignore[no-any-return]


def max_pool_of(graph: fx.GraphModule, node: fx.Node) -> nn.MaxPool2d | None:
    """Return the max-pool of images that a node computes, as a module; None if it computes something else, or windows that depend on sizes."""
    module = module_of(graph, node)
    if isinstance(module, nn.MaxPool2d):
        return module
    if node.op != "call_function" or node.target not in _MAX_POOLS:
        return None
    settings = dict(zip(_POOL_SETTINGS, node.args[1:], strict=False)) | node.kwargs
    return None if len(node.all_input_nodes) > 1 or "input" in settings else nn.MaxPool2d(**settings)  # type: ignore[arg-type]


def hooked(graph: fx.GraphModule) -> list[str]:
    """Return the paths of modules with hooks, which change what they compute without a trace in the graph."""
    return [path for path, module in graph.named_modules() if module._forward_hooks or module._forward_pre_hooks]


def reach(graph: fx.Graph, marked: Collection[fx.Node]) -> tuple[set[fx.Node], set[fx.Node]]:
    """Return the nodes with a marked ancestor, and the nodes with a marked descendant."""
    behind, before, marks = set[fx.Node](), set[fx.Node](), set(marked)
    for node in graph.nodes:
        if any(source in marks or source in behind for source in node.all_input_nodes):
            behind.add(node)
    for node in reversed(graph.nodes):
        if any(user in marks or user in before for user in node.users):
            before.add(node)
    return behind, before


def add_module(graph: fx.GraphModule, path: str, module: nn.Module, replaced: str = "") -> str:
    """Put a module at a path, or at the next free one beside it, and return where it went.

    Only a module that is about to lose its single call, the ``replaced`` one, may be overwritten.
    """
    base = path.replace("#", "_")
    calls = sum(str(node.target) == base for node in graph.graph.nodes if node.op == "call_module")
    taken = _has(graph, base) and not (base == replaced and calls == 1)
    number = 2
    target = base
    while taken:
        target = f"{base}_{number}"
        taken, number = _has(graph, target), number + 1
    graph.add_submodule(target, module)
    return target


def _has(graph: fx.GraphModule, path: str) -> bool:
    owner: Any = graph
    for name in path.split("."):
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True


def constant_of(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    """Return the value of a node that depends on no input."""
    needed = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for other in graph.graph.nodes:
        if "operation" not in other.meta and all(source in copies for source in other.all_input_nodes):
            copies[other] = needed.node_copy(other, copies.__getitem__)
    needed.output(copies[node])
    needed.eliminate_dead_code()
    return fx.Interpreter(graph, graph=needed).run()  # type: ignore[no-any-return]
