"""The passes over a captured graph that leave its function unchanged, in their order, and what stands in their way."""

from __future__ import annotations

import copy
import itertools
import math
import operator
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx, nn

from tospike.errors import Problem, refuse_unknown
from tospike.graph.capture import Capture, Operation, Site
from tospike.graph.kinds import Kind, TrainableActivation
from tospike.graph.layers import fold_batch_norm, is_weighted, lift_layers, thaw_batch_norm
from tospike.graph.pooling import pool_before_neuron
from tospike.graph.walk import add_module, constant_of, module_of, reach, site_nodes

Analog = Collection[str] | str
IDENTITIES = {"dropout", "identity", "alphadropout", "featurealphadropout", "alpha_dropout", "feature_alpha_dropout",
              "feature_dropout", "stochastic_depth", *(f"dropout{d}d" for d in (1, 2, 3))}  # fmt: skip


class Rectifier(nn.Module):
    """What stands at a Site before its neuron: ``min(max(z, 0), cap)``.

    Args:
        cap: Upper bound, ``inf`` for a plain ReLU, in units of the activation.

    Example:
        >>> import torch
        >>> Rectifier(6.0)(torch.tensor([-1.0, 7.0]))
        tensor([0., 6.])
    """

    def __init__(self, cap: float = math.inf) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, z: Tensor) -> Tensor:
        """Rectify ``z``, of any shape."""
        return z.relu() if self.cap == math.inf else z.clamp(0.0, self.cap)


def rewrite(captured: Capture) -> None:
    """Run every pass in its order; what cannot be rewritten is added to ``captured.problems``."""
    write_elsewhere(captured)
    reshape_any_order(captured)
    place_sites(captured)
    drop_identities(captured)
    lift_layers(captured)
    thaw_batch_norm(captured)
    fold_batch_norm(captured)
    pool_before_neuron(captured)
    captured.graph.graph.eliminate_dead_code()
    captured.graph.delete_all_unused_submodules()
    _drop_unused_tensors(captured.graph)
    captured.graph.recompile()


def write_elsewhere(captured: Capture) -> None:
    """Let in-place methods and operators return new tensors: what is constant in time must not be written to at every step."""
    order = {node: number for number, node in enumerate(captured.graph.graph.nodes)}
    for node, _ in captured.operations():
        target = node.target
        if node.op == "call_method" and str(target).endswith("_") and hasattr(Tensor, str(target)[:-1]):
            node.target = str(target)[:-1]
        elif node.op == "call_function" and target in IN_PLACE:
            node.target = IN_PLACE[target]
        else:
            continue
        written = node.args[0]
        if isinstance(written, fx.Node):  # who read what was written to, reads the new tensor
            for user in [user for user in written.users if order[user] > order[node]]:
                user.replace_input_with(written, node)


def reshape_any_order(captured: Capture) -> None:
    """Let views be reshapes: maps may lie in memory with their channels side by side, of which not every shape is a view."""
    for node, _ in captured.operations():
        if node.op == "call_method" and node.target == "view" and len(node.args) > 1:
            node.target = "view" if isinstance(node.args[1], torch.dtype) else "reshape"


IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul, operator.itruediv: operator.truediv,
}  # fmt: skip


class Function(nn.Module):
    """An activation that the network calls as a function or method, with the settings that it passes.

    Args:
        function: The function.
        args, kwargs: What it is given behind its input.

    Example:
        >>> import torch
        >>> Function(torch.nn.functional.leaky_relu, (0.5,), {})(torch.tensor([-1.0, 1.0]))
        tensor([-0.5000,  1.0000])
    """

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.args, self.kwargs = function, args, kwargs

    def forward(self, z: Tensor) -> Tensor:
        """Call the function, never in place."""
        return self.function(z.clone(), *self.args, **self.kwargs)  # type: ignore[no-any-return]


def activation_of(graph: fx.GraphModule, node: fx.Node, operation: Operation) -> nn.Module:
    """Return what stands at a Site of the ANN, as a module of ``z`` alone."""
    called = module_of(graph, node)
    if operation.verdict.is_rectifier and not isinstance(called, TrainableActivation):
        return Rectifier(operation.verdict.cap)
    if called is not None:
        if getattr(called, "inplace", False):  # it would change the charge that a neuron keeps
            out_of_place: Any = copy.copy(called)
            out_of_place.inplace = False
            return out_of_place  # type: ignore[no-any-return]
        return called
    target: Any = node.target
    function = target if callable(target) else getattr(Tensor, target)
    args, kwargs = fx.map_arg((node.args[1:], node.kwargs), lambda other: constant_of(graph, other))
    return Function(function, tuple(args), dict(kwargs))


def place_sites(
    captured: Capture, slot: Callable[[Site, nn.Module], nn.Module] = lambda _, activation: activation
) -> None:
    """Give every call of an activation a module of its own, so that no two of them can ever share a membrane.

    Args:
        captured: The graph to change.
        slot: Returns what stands at a Site, given the Site and the activation of the ANN there.
    """
    graph = captured.graph
    for node in captured.nodes(Kind.ACTIVATION):
        operation: Operation = node.meta["operation"]
        if operation.verdict.analog and not _between_layers(captured, node):
            continue
        activation = activation_of(graph, node, operation)
        site = Site(operation.path, operation, operation.shape[1:], operation.channel_axis, operation.verdict.cap)
        with graph.graph.inserting_after(node):
            target = add_module(graph, site.name, slot(site, activation), replaced=str(node.target))
            placed = graph.graph.call_module(target, (node.all_input_nodes[0],))
        placed.meta = {**node.meta, "site": site}
        node.replace_all_uses_with(placed)
        graph.graph.erase_node(node)


def _between_layers(captured: Capture, node: fx.Node) -> bool:
    weighted = [other for other in captured.graph.graph.nodes if is_weighted(captured.graph, other)]
    behind, before = reach(captured.graph.graph, weighted)
    return node in behind and node in before


def drop_identities(captured: Capture) -> None:
    """Take out what does nothing in evaluation (dropout, identity, assertions), so that it hides no pattern from later passes."""
    for node, operation in list(captured.operations()):
        if operation.verdict.kind is Kind.LINEAR and operation.verdict.name in IDENTITIES:
            node.replace_all_uses_with(node.all_input_nodes[0])
            captured.graph.graph.erase_node(node)
        elif node.target is torch._assert:  # it held when the network was captured
            captured.graph.graph.erase_node(node)


def support_problems(captured: Capture, analog: Analog = ()) -> list[Problem]:
    """List the operations that cannot be converted where they stand, and mark those that run in analog.

    A nonlinear operation is exact before the first weighted layer, where its input is constant in time, and behind the last
    one, where it runs once on the mean. Anywhere between it is refused, unless it is allowed to be analog: then it becomes an
    incremental operator, or a neuron that computes it.

    Args:
        captured: A rewritten network.
        analog: Names of operations or module paths that may run in analog, or ``"auto"`` for all of them. An activation that could be a
            neuron stays analog only where its own path is named; with no layer and no Site behind it, it then runs once, on the mean.
    """
    names = {analog} if isinstance(analog, str) else set(analog)
    known = {text for _, operation in captured.operations() for text in (operation.verdict.name, operation.path)}
    refuse_unknown(
        "operation in `analog`",
        names - {"auto"},
        sorted(known),
        remedy='Name what ts.check lists, or pass analog="auto".',
    )
    graph = captured.graph.graph
    kept = [
        node for node in site_nodes(captured.graph)
        if not node.meta["operation"].verdict.analog and node.meta["operation"].path in names
    ]  # fmt: skip
    for node in kept:  # Sites that are to stay as they are
        del node.meta["site"]
    behind_weights, before_weights = reach(graph, [node for node in graph.nodes if is_weighted(captured.graph, node)])
    behind_site, before_site = reach(graph, site_nodes(captured.graph))
    problems = []
    for node, operation in captured.operations():
        verdict = operation.verdict
        read_out = node not in before_weights and node not in before_site
        if node in kept:
            node.meta["incremental"] = not read_out
            continue
        reason, remedy = verdict.reason, verdict.remedy
        if (verdict.kind is Kind.NONLINEAR or verdict.analog) and node in behind_weights and not read_out:
            pass
        elif (
            verdict.kind is Kind.POOL_MAX and "before_neuron" not in node.meta and node in behind_site and not read_out
        ):
            reason = f"{verdict.name} cannot move before the neuron: {node.meta.get('obstacle', '')}"
            remedy = f'Pass analog=["{verdict.name}"] for an incremental maximum, pool directly behind the activation, or average.'
        elif verdict.kind is not Kind.BATCH_MIXING:
            continue
        if verdict.kind is not Kind.BATCH_MIXING and (analog == "auto" or {verdict.name, operation.path} & names):
            node.meta["incremental"] = "site" not in node.meta
            continue
        problems.append(Problem(reason, where=operation.where, remedy=remedy))
    return problems


def analog_leave(captured: Capture) -> tuple[str, ...]:
    """Return what to name in ``analog=``: operations that would be refused, and Sites with no layer and no Site behind them.

    A neuron there would only round what is read out.

    Args:
        captured: A rewritten network; its operations are marked as by ``analog="auto"``.
    """
    support_problems(captured, "auto")
    names = [operation.verdict.name for node, operation in captured.operations() if "incremental" in node.meta]
    sites = site_nodes(captured.graph)
    weighted = [node for node in captured.graph.graph.nodes if is_weighted(captured.graph, node)]
    _, before = reach(captured.graph.graph, [*weighted, *sites])
    paths = [node.meta["operation"].path for node in sites if node not in before]
    return tuple(dict.fromkeys([*names, *paths]))


def _drop_unused_tensors(graph: fx.GraphModule) -> None:
    """Delete weights that no node reads any more, which would only be saved and moved about."""
    read = {str(node.target) for node in graph.graph.nodes if node.op in ("get_attr", "call_module")}
    for name, _ in [*graph.named_parameters(remove_duplicate=False), *graph.named_buffers(remove_duplicate=False)]:
        owners = itertools.accumulate(name.split("."), lambda path, part: f"{path}.{part}")
        if read.isdisjoint(owners):
            owner, _, attribute = name.rpartition(".")
            delattr(graph.get_submodule(owner), attribute)
