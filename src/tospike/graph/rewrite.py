"""Passes over a captured graph that leave its function unchanged: place Sites, fold batch norm, pool before the neuron."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from tospike.errors import Problem
from tospike.graph.capture import Capture, Operation, Site
from tospike.graph.kinds import Kind, TrainableActivation

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
IDENTITIES = {"dropout", "identity", "alphadropout", "featurealphadropout", "alpha_dropout", "feature_alpha_dropout",
              "feature_dropout", "stochastic_depth", *(f"dropout{d}d" for d in (1, 2, 3))}  # fmt: skip


class Rectifier(nn.Module):
    """What stands at a Site before its neuron: ``min(max(z, 0), cap)``.

    Args:
        cap: Upper bound, ``inf`` for a plain ReLU, in units of the activation.

    Example:
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
    fold_batch_norm(captured)
    pool_before_neuron(captured)
    captured.graph.graph.eliminate_dead_code()
    captured.graph.delete_all_unused_submodules()
    captured.graph.recompile()


def site_nodes(graph: fx.GraphModule) -> list[fx.Node]:
    """Return the Sites of a graph in the order of execution."""
    return [node for node in graph.graph.nodes if "site" in node.meta]


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
            target = _add_module(graph, site.name, slot(site, called), replaced=str(node.target))
            placed = graph.graph.call_module(target, (node.all_input_nodes[0],))
        placed.meta = {**node.meta, "site": site}
        node.replace_all_uses_with(placed)
        graph.graph.erase_node(node)


def _add_module(graph: fx.GraphModule, path: str, module: nn.Module, replaced: str = "") -> str:
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


def drop_identities(captured: Capture) -> None:
    """Take out what does nothing in evaluation (dropout, identity), so that it hides no pattern from later passes."""
    for node, operation in list(captured.operations()):
        if operation.verdict.kind is Kind.LINEAR and operation.verdict.name in IDENTITIES:
            node.replace_all_uses_with(node.all_input_nodes[0])
            captured.graph.graph.erase_node(node)


def fold_batch_norm(captured: Capture) -> None:
    """Fold every batch norm into the convolution or linear layer before it, where it is that layer's only user.

    ``w ← w·γ/√(σ² + ε)``, ``b ← (b − μ)·γ/√(σ² + ε) + β``, computed in float64.

    Any other batch norm (before a convolution, behind a join) stays as an affine step, which adds its shift at every time
    step and so commutes with the mean over time.
    """
    graph = captured.graph
    for node in list(graph.graph.nodes):
        norm = _module(graph, node)
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        layer = _module(graph, source) if source is not None else None
        if not isinstance(norm, BATCH_NORMS) or source is None or len(source.users) > 1:
            continue
        flat_linear = isinstance(layer, nn.Linear) and len(source.meta["operation"].shape) == 2
        if flat_linear or isinstance(layer, CONVOLUTIONS + TRANSPOSED):
            assert layer is not None
            calls = [
                other for other in graph.graph.nodes if other.op == "call_module" and other.target == source.target
            ]
            folded = _folded(copy.deepcopy(layer), *affine(norm))
            source.target = str(source.target) if len(calls) == 1 else f"{source.target}_folded_{calls.index(source)}"
            graph.add_submodule(source.target, folded)
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)


def _module(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Return scale and shift per channel of a batch norm in evaluation, in float64."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    weight = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    bias = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    scale = weight / torch.sqrt(variance + norm.eps)
    return scale, bias - mean * scale


def _folded(layer: Any, scale: Tensor, shift: Tensor) -> nn.Module:
    weight = layer.weight.detach().double()
    if isinstance(layer, TRANSPOSED):  # [in, out / groups, ...], where group g writes the g-th part of the outputs
        grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
        by_group = scale.reshape(layer.groups, 1, -1, *[1] * (weight.ndim - 2))
        scaled = (grouped * by_group).reshape(weight.shape)
    else:
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    bias = torch.zeros_like(shift) if layer.bias is None else layer.bias.detach().double()
    dtype = layer.weight.dtype
    layer.weight = nn.Parameter(scaled.to(dtype), requires_grad=layer.weight.requires_grad)
    layer.bias = nn.Parameter((bias * scale + shift).to(dtype), requires_grad=layer.weight.requires_grad)
    return layer  # type: ignore[no-any-return]


def pool_before_neuron(captured: Capture) -> None:
    """Move max-pools before the neurons they pool, through concatenations and affine steps that keep the order.

    ``max_i ReLU(z_i) = ReLU(max_i z_i)``, so pooling currents and firing on the largest is exact for the ANN. Where the
    activation has other users too, the pooled copy becomes a Site of its own. A pool of what is constant in time, or at the
    read-out, stays where it is.

    Source: Bu, Li and Yu, "Inference-scale complexity in ANN-SNN conversion", CVPR 2025, section 4.3. Differs from the paper
    in: it also moves through concatenation and batch norm, and copies shared activations. As in the paper, the pool acts on
    the currents of each step, so behind neurons the mean over time of the pooled current is at least the pooled mean.
    """
    graph = captured.graph.graph
    for node in captured.nodes(Kind.POOL_MAX):
        source = node.all_input_nodes[0]
        changing, _ = reach(graph, site_nodes(captured.graph))
        if node not in changing:
            continue
        reason = _obstacle(captured.graph, source, node)
        if reason:
            node.meta["obstacle"] = reason
            continue
        pooled = _pooled(captured.graph, source, node, shared=False)
        node.replace_all_uses_with(pooled)
        graph.erase_node(node)
        graph.eliminate_dead_code()


def _obstacle(graph: fx.GraphModule, source: fx.Node, pool: fx.Node) -> str:
    """Say why a pool cannot move before what it pools; empty if it can."""
    if "site" in source.meta:
        return ""
    operation = source.meta.get("operation")
    name = operation.verdict.name if operation else source.name
    if name in {"cat", "concat", "concatenate"} and _joins_channels(source, pool):
        return next(filter(None, (_obstacle(graph, part, pool) for part in source.all_input_nodes)), "")
    module = _module(graph, source)
    if isinstance(module, BATCH_NORMS):
        scale, _ = affine(module)
        if bool((scale < 0).any()):
            return (
                f"it pools behind the batch norm {source.target}, {int((scale < 0).sum())} of whose scales are negative"
            )
        return _obstacle(graph, source.all_input_nodes[0], pool)
    return f"it pools the output of {operation.where if operation else name}, which is no neuron"


def _joins_channels(cat: fx.Node, pool: fx.Node) -> bool:
    rank = len(cat.meta["operation"].shape)
    dim = cat.kwargs.get("dim", cat.args[1] if len(cat.args) > 1 else 0)
    pooled_axes = int("".join(filter(str.isdigit, pool.meta["operation"].verdict.name)) or 1)
    return isinstance(dim, int) and dim % rank < rank - pooled_axes


def _pooled(graph: fx.GraphModule, source: fx.Node, pool: fx.Node, *, shared: bool) -> fx.Node:
    """Write the pooled version of ``source`` just before ``pool`` and return it; shared values have other users too."""
    shared = shared or len(source.users) > 1
    operation: Operation = source.meta["operation"]
    rank_kept = len(operation.shape) - int("".join(filter(str.isdigit, pool.meta["operation"].verdict.name)) or 1)
    shape = (*operation.shape[:rank_kept], *pool.meta["operation"].shape[rank_kept:])
    meta = {**source.meta, "operation": replace(operation, shape=shape)}
    with graph.graph.inserting_before(pool):
        if "site" not in source.meta:
            parts = {part: _pooled(graph, part, pool, shared=shared) for part in source.all_input_nodes}
            copied = graph.graph.node_copy(source, lambda node: parts.get(node, node))
            copied.meta = meta
            return copied
        current = graph.graph.node_copy(pool, lambda _: source.all_input_nodes[0])
        current.meta = {**pool.meta, "operation": replace(pool.meta["operation"], shape=shape), "before_neuron": True}
        site: Site = source.meta["site"]
        activation = graph.get_submodule(str(source.target))
        target = _add_module(graph, f"{site.name}_pooled", activation) if shared else str(source.target)
        moved = graph.graph.call_module(target, (current,))
        name = f"{site.name}@{pool.meta['operation'].path}" if shared else site.name
        moved.meta = {**meta, "site": replace(site, name=name, shape=shape[1:], copy_of=site.name if shared else "")}
        return moved


def support_problems(captured: Capture) -> list[Problem]:
    """List the operations that cannot be converted where they stand.

    A nonlinear operation is exact before the first weighted layer, where its input is constant in time, and behind the last
    one, where it runs once on the mean; anywhere between it would have to be a neuron.
    """
    graph = captured.graph.graph
    behind_weights, before_weights = reach(graph, [node for node in graph.nodes if _is_weighted(captured.graph, node)])
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


WEIGHTED_FUNCTIONS = {"linear", "matmul", "bmm", "mm", "einsum", "addmm", "baddbmm", "bilinear",
                      *(f"conv{d}d" for d in (1, 2, 3)), *(f"conv_transpose{d}d" for d in (1, 2, 3))}  # fmt: skip


def _is_weighted(graph: fx.GraphModule, node: fx.Node) -> bool:
    module = _module(graph, node)
    if module is not None:
        return isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, nn.Bilinear, nn.MultiheadAttention))
    return "operation" in node.meta and node.meta["operation"].verdict.name in WEIGHTED_FUNCTIONS


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
