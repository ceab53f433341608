"""The passes over a captured graph that leave its function unchanged, in their order, and what stands in their way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from torch import Tensor, fx, nn

from tospike.errors import Problem
from tospike.graph.capture import Capture, Operation, Site
from tospike.graph.kinds import Kind, TrainableActivation
from tospike.graph.layers import fold_batch_norm, is_weighted, lift_layers
from tospike.graph.pooling import pool_before_neuron
from tospike.graph.walk import add_module, reach, site_nodes

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
        return z.clamp(0.0, self.cap)


def rewrite(captured: Capture) -> None:
    """Run every pass in its order; what cannot be rewritten is added to ``captured.problems``."""
    place_sites(captured)
    drop_identities(captured)
    lift_layers(captured)
    fold_batch_norm(captured)
    pool_before_neuron(captured)
    captured.graph.graph.eliminate_dead_code()
    captured.graph.delete_all_unused_submodules()
    _drop_unused_tensors(captured.graph)
    captured.graph.recompile()


def rectify(site: Site, called: nn.Module | None) -> nn.Module:
    """Return what stands at a Site of the ANN: the trained activation if there is one, else a rectifier."""
    return called if isinstance(called, TrainableActivation) else Rectifier(site.cap)


def place_sites(captured: Capture, slot: Callable[[Site, nn.Module | None], nn.Module] = rectify) -> None:
    """Give every call of an activation a module of its own, so that no two of them can ever share a membrane.

    Args:
        captured: The graph to change.
        slot: Returns what stands at a Site, given the Site and the module that is called there now, if it is one.
    """
    graph = captured.graph
    for node in captured.nodes(Kind.ACTIVATION):
        operation: Operation = node.meta["operation"]
        called = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        site = Site(operation.path, operation, operation.shape[1:], operation.channel_axis, operation.verdict.cap)
        with graph.graph.inserting_after(node):
            target = add_module(graph, site.name, slot(site, called), replaced=str(node.target))
            placed = graph.graph.call_module(target, (node.all_input_nodes[0],))
        placed.meta = {**node.meta, "site": site}
        node.replace_all_uses_with(placed)
        graph.graph.erase_node(node)


def drop_identities(captured: Capture) -> None:
    """Take out what does nothing in evaluation (dropout, identity), so that it hides no pattern from later passes."""
    for node, operation in list(captured.operations()):
        if operation.verdict.kind is Kind.LINEAR and operation.verdict.name in IDENTITIES:
            node.replace_all_uses_with(node.all_input_nodes[0])
            captured.graph.graph.erase_node(node)


def support_problems(captured: Capture) -> list[Problem]:
    """List the operations that cannot be converted where they stand.

    A nonlinear operation is exact before the first weighted layer, where its input is constant in time, and behind the last
    one, where it runs once on the mean; anywhere between it would have to be a neuron.
    """
    graph = captured.graph.graph
    behind_weights, before_weights = reach(graph, [node for node in graph.nodes if is_weighted(captured.graph, node)])
    behind_site, before_site = reach(graph, site_nodes(captured.graph))
    problems = []
    for node, operation in captured.operations():
        verdict = operation.verdict
        reason, remedy = verdict.reason, verdict.remedy
        read_out = node not in before_weights and node not in before_site
        if verdict.kind is Kind.NONLINEAR and node in behind_weights and not read_out:
            pass
        elif (
            verdict.kind is Kind.POOL_MAX and "before_neuron" not in node.meta and node in behind_site and not read_out
        ):
            reason = f"{verdict.name} cannot move before the neuron: {node.meta.get('obstacle', '')}"
            remedy = "Pool directly behind the activation, or use average pooling."
        elif verdict.kind is not Kind.BATCH_MIXING:
            continue
        problems.append(Problem(reason, where=operation.where, remedy=remedy))
    return problems


def _drop_unused_tensors(graph: fx.GraphModule) -> None:
    """Delete weights that no node reads any more, which would only be saved and moved about."""
    read = {str(node.target) for node in graph.graph.nodes if node.op in ("get_attr", "call_module")}
    for name, _ in [*graph.named_parameters(remove_duplicate=False), *graph.named_buffers(remove_duplicate=False)]:
        owners = itertools.accumulate(name.split("."), lambda path, part: f"{path}.{part}")
        if read.isdisjoint(owners):
            owner, _, attribute = name.rpartition(".")
            delattr(graph.get_submodule(owner), attribute)
