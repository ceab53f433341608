"""Single nodes of a network's graph: what they are, and what they compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tospike.graph.kinds import Kind
from tospike.graph.walk import module_of

Values = dict[fx.Node, Any]


def is_size(node: fx.Node) -> bool:
    """Tell whether a node only reads sizes, which change when time is folded into the batch."""
    return "operation" in node.meta and node.meta["operation"].verdict.kind is Kind.SHAPE


def is_signal(node: fx.Node) -> bool:
    """Tell whether a node depends on the values of the input, not only on sizes."""
    return "operation" in node.meta and not is_size(node)


def call(graph: fx.GraphModule, node: fx.Node, values: Values) -> Any:
    """Compute one node from the values of the nodes that it reads."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    if node.op == "output":
        return _plain(args[0])
    if node.op == "get_attr":
        owner: Any = graph
        for name in str(node.target).split("."):
            owner = getattr(owner, name)
        return owner
    module = module_of(graph, node)
    if module is not None:
        return module(*args, **kwargs)
    if node.op == "call_method":
        # A view asks for an order of memory that channels-last maps do not have; shapes alone are what it is about here.
        name = "reshape" if node.target == "view" and not isinstance(args[1], torch.dtype) else str(node.target)
        return getattr(args[0], name)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _plain(output: Any) -> Any:
    """Return an output in Python's own containers instead of the immutable ones of a graph."""
    if isinstance(output, dict):
        return {key: _plain(value) for key, value in output.items()}
    if isinstance(output, (tuple, list)) and not hasattr(output, "_fields"):
        return (list if isinstance(output, list) else tuple)(map(_plain, output))
    return output
