"""Move max-pools before the neurons that they pool."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from tospike.graph.capture import Capture, Operation, Site
from tospike.graph.kinds import Kind
from tospike.graph.layers import BATCH_NORMS, affine
from tospike.graph.walk import add_module, module_of, reach, site_nodes


def pool_before_neuron(captured: Capture) -> None:
    """Move max-pools before the neurons they pool, through concatenations and affine steps that keep the order.

    ``max_i ReLU(z_i) = ReLU(max_i z_i)``, so pooling currents and firing on the largest is exact for the ANN. Where the
    activation has other users too, the pooled copy becomes a Site of its own. A pool of what is constant in time, or at the
    read-out, stays where it is.

    Source: Bu, Li and Yu, "Inference-scale complexity in ANN-SNN conversion", CVPR 2025, section 4.3. Differs from the paper
    in: it also moves through concatenation and batch norm, and copies shared activations. Behind neurons the
    pool acts on the sums of all currents so far, unless `Parts.pool` asks for the currents of each step, as in the paper, whose
    mean over time is at least the pooled mean.
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
        verdict = source.meta["operation"].verdict
        return f"it pools {verdict.name}, which is not monotone" if verdict.analog else ""
    operation = source.meta.get("operation")
    name = operation.verdict.name if operation else source.name
    if name in {"cat", "concat", "concatenate"} and _joins_channels(source, pool):
        return next(filter(None, (_obstacle(graph, part, pool) for part in source.all_input_nodes)), "")
    module = module_of(graph, source)
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
        target = add_module(graph, f"{site.name}_pooled", activation) if shared else str(source.target)
        moved = graph.graph.call_module(target, (current,))
        name = f"{site.name}@{pool.meta['operation'].path}" if shared else site.name
        moved.meta = {**meta, "site": replace(site, name=name, shape=shape[1:], copy_of=site.name if shared else "")}
        return moved
