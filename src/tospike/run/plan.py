"""What of a network is constant in time, what must be stepped, and what runs once per read-out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tospike.errors import SimulationError
from tospike.graph.batches import Inputs
from tospike.graph.kinds import Kind
from tospike.graph.layers import is_weighted
from tospike.graph.walk import max_pool_of, module_of, reach, site_nodes
from tospike.neurons import maximum
from tospike.neurons.incremental import Running
from tospike.neurons.levels import Levels, value_of
from tospike.neurons.modules import Neuron
from tospike.run.arithmetic import FLOAT, Arithmetic
from tospike.run.nodes import Values, call, is_signal, is_size

Watch = Callable[[fx.Node, tuple[Any, ...], Any, int], None]


@dataclass(frozen=True)
class Plan:
    """The nodes of an SNN's graph in three phases.

    The input is the same at every time step, so all before the first neuron is computed once; behind the last neuron nothing
    spikes, so all of that runs once per read-out, on the mean over time. Nodes that only read sizes run again in each
    phase that needs them, because time is folded into the batch axis.

    Attributes:
        graph: The network with neurons at its Sites.
        inputs: Input names, in the order of `forward`.
        static: Nodes that are constant in time.
        body: Nodes that are stepped.
        tail: Nodes behind the last neuron, the output included.
        carried: Nodes of the body that the tail reads.
        joins: For Sites whose current is a sum of two that nothing else reads, the node of this sum: the neurons add the two up.
        spent: For each node of the body, what no later one reads.
    """

    graph: fx.GraphModule
    inputs: tuple[str, ...]
    static: tuple[fx.Node, ...]
    body: tuple[fx.Node, ...]
    tail: tuple[fx.Node, ...]
    carried: tuple[fx.Node, ...]
    joins: dict[fx.Node, fx.Node]
    spent: dict[fx.Node, list[fx.Node]]

    @classmethod
    def of(cls, graph: fx.GraphModule, inputs: tuple[str, ...]) -> Plan:
        """Split a graph at its Sites."""
        behind, _ = reach(graph.graph, site_nodes(graph))
        nodes, body = list(graph.graph.nodes), stepped(graph)
        tail = {node for node in nodes if node in behind and node not in body}
        tail |= {node for node in nodes if node.op == "output"}
        static = [node for node in nodes if node not in behind and node not in body and node not in tail]
        carried = [node for node in nodes if node in body and not is_size(node) and any(u in tail for u in node.users)]
        steps, joins = _with_shapes(nodes, body), _joins(graph)
        return cls(
            graph, inputs, tuple(static), steps, _with_shapes(nodes, tail), tuple(carried), joins, _spent(steps, joins, carried)
        )  # fmt: skip

    def prepare(self, inputs: Inputs, watch: Watch | None = None) -> Values:
        """Compute all that is constant in time; inputs are ``[N, ...]``; for the watch see `step`."""
        given = iter(channels_last(inputs[name]) for name in self.inputs)
        values: Values = {}
        for node in self.static:
            values[node] = next(given) if node.op == "placeholder" else call(self.graph, node, values)
            if watch is not None:
                watch(node, tuple(values[source] for source in node.all_input_nodes), values[node], 1)
        return values

    def step(
        self, static: Values, state: dict[str, Any], steps: int, watch: Watch | None = None, arithmetic: Arithmetic = FLOAT, *,
        whole: bool = True,
    ) -> Values:  # fmt: skip
        """Advance the body by a chunk of time.

        Args:
            static: What `prepare` returned.
            state: What each Site and each incremental operation carries, by name, changed in place; empty before the first chunk.
            steps: Time steps in the chunk, folded into the batch axis of every value.
            watch: Called with each node of the body, its arguments, its value and the number of steps.
            arithmetic: In what numbers nodes are computed. Where emissions stay integers, the watch is shown `Levels`.
            whole: Whether the watch is shown sums that neurons could add up themselves, too.

        Returns:
            The values of the carried nodes, ``[steps, N, ...]``.
        """
        values: Values = {}
        joins = {} if watch is not None and whole else self.joins
        joined = set(joins.values())
        for node in self.body:
            if node in joined:
                continue
            for source in node.all_input_nodes if "site" not in node.meta else ():
                if source not in values:
                    values[source] = _repeat(source, static[source], steps)
            if "site" in node.meta:
                together = joins.get(node)
                value = self._fire(node, together, static, values, state, steps, arithmetic)
            elif node.meta.get("incremental"):
                key = f"incremental {node.name}"
                worth = {source: value_of(values[source]) for source in node.all_input_nodes}
                value, state[key] = increment(self.graph, node, worth, state.get(key) or Running(), steps, arithmetic)
            else:
                value = arithmetic.compute(self.graph, node, values)
            values[node] = value
            if watch is not None:
                watch(node, tuple(map(values.get, node.all_input_nodes)), value, steps)
            for source in self.spent[node]:
                values.pop(source, None)
        return {node: _unfolded(value_of(values[node]), steps) for node in self.carried}

    def _fire(
        self, node: fx.Node, together: fx.Node | None, static: Values, values: Values, state: dict[str, Any], steps: int, arithmetic: Arithmetic
    ) -> Tensor | Levels:  # fmt: skip
        """Step the neurons of a Site; the node of a sum that is left to them says what they read in its place."""
        read = [_through_time(source, static, values, steps) for source in (together or node).all_input_nodes]
        read.sort(key=lambda x: isinstance(x, Levels))  # a sum of two does not depend on their order
        current, *others = read
        if others and current.shape[1:] != _shape(others[0])[1:]:
            current, others = current + value_of(others[0]), []
        current = value_of(current)
        neuron, key = self._neuron(node), str(node.target)
        if key not in state:
            _refuse_other_maps(node, neuron, current[0])
            state[key] = neuron.initial(current[0])
        levels = arithmetic.emits_levels(neuron)
        other = others[0] if others else None
        chunk, state[key] = neuron(current, state[key], other, levels=levels, overwrite=True)
        emitted: Tensor = chunk.flatten(0, 1)
        if not levels:
            return emitted
        model, zero = neuron.model, neuron.model.zero if emitted.dtype is torch.uint8 else 0
        return Levels(emitted, neuron.unit, zero, model.largest + model.rest, model.rest)

    def settle(self, static: Values, time_steps: int) -> tuple[Values, dict[fx.Node, Tensor]]:
        """Run the body of a network of synchronous neurons on means over T steps, without a loop over time.

        Args:
            static: What `prepare` returned.
            time_steps: T.

        Returns:
            The means of all nodes of the body ``[N, ...]``, and what each Site counted.
        """
        means, counted = dict(static), {}
        for node in self.body:
            if "site" in node.meta:
                neuron, current = self._neuron(node), means[node.all_input_nodes[0]]
                _refuse_other_maps(node, neuron, current)
                counted[node] = neuron.count(current, time_steps)
                means[node] = neuron.mean_emission(counted[node], time_steps)
            else:
                means[node] = call(self.graph, node, means)
        return means, counted

    def retrace(self, means: Values, counted: dict[fx.Node, Tensor], time_steps: int, t: int, watch: Watch) -> None:
        """Show a watch what step t of a settled run carries: the spikes, and what becomes of them up to the next layer.

        Behind a layer with weights the mean stands for the step: it is no spike any more, and all of it is non-zero.

        Args:
            means: What `settle` returned.
            counted: What it returned, too.
            time_steps: T.
            t: Step, from 1.
            watch: See `step`.
        """
        values, spiking = dict(means), {*self.static, *counted}
        for node in self.body:
            sources = [source for source in node.all_input_nodes if is_signal(source)]
            if "site" in node.meta:
                values[node] = self._neuron(node).at_step(counted[node], time_steps, t)
            elif not is_weighted(self.graph, node) and all(source in spiking for source in sources):
                values[node] = call(self.graph, node, values)
                spiking.add(node)
            watch(node, tuple(values[source] for source in node.all_input_nodes), values[node], 1)

    def _neuron(self, node: fx.Node) -> Neuron:
        neuron = module_of(self.graph, node)
        assert isinstance(neuron, Neuron)
        return neuron

    def finish(self, static: Values, means: Values, watch: Watch | None = None) -> Any:
        """Run the tail on time-averaged values ``[N, ...]`` and return the network's output; for the watch see `step`."""
        values = {**static, **means}
        for node in self.tail:
            values[node] = call(self.graph, node, values)
            if watch is not None:
                watch(node, tuple(values[source] for source in node.all_input_nodes), values[node], 1)
        return values[self.tail[-1]]


def stepped(graph: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes that are stepped: the Sites, and what lies between them; of a tuple also its parts, which are carried one by one."""
    sites = site_nodes(graph)
    behind, before = reach(graph.graph, sites)
    body = {node for node in graph.graph.nodes if node in sites or (node in behind and node in before)}
    for node in graph.graph.nodes:
        if node.target is operator.getitem and node.all_input_nodes[0] in body:
            body.add(node)
    return body


def _with_shapes(nodes: list[fx.Node], chosen: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
    """Add the size-reading nodes that the chosen ones need, and those that these need."""
    wanted = set(chosen)
    for node in reversed(nodes):
        if is_size(node) and any(user in wanted for user in node.users):
            wanted.add(node)
    return tuple(node for node in nodes if node in wanted)


def _repeat(node: fx.Node, value: Any, steps: int) -> Any:
    """Repeat a signal that is constant in time for every step of a chunk; constants without a batch axis stay."""
    if steps == 1 or not isinstance(value, Tensor) or not is_signal(node):
        return value
    return value.expand(steps, *value.shape).flatten(0, 1)


def _joins(graph: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """Find the Sites that read a sum of two signals which nothing else reads."""
    found = {}
    for site in site_nodes(graph):
        (source,) = site.all_input_nodes
        two = len(source.args) == 2 and not source.kwargs and len(source.all_input_nodes) == 2
        alone = is_signal(source) and len(source.users) == 1 and not source.meta.get("incremental")
        plain = alone and source.meta["operation"].verdict.name in ("add", "iadd")
        if two and plain and all(map(is_signal, source.all_input_nodes)):
            found[site] = source
    return found


def _spent(
    body: tuple[fx.Node, ...], joins: dict[fx.Node, fx.Node], carried: list[fx.Node]
) -> dict[fx.Node, list[fx.Node]]:
    """Return for each node of the body what it is the last to read; a sum is read where the neurons that add it up are."""
    sites = {sum_: site for site, sum_ in joins.items()}
    last: dict[fx.Node, fx.Node] = {}
    order = {node: index for index, node in enumerate(body)}
    for node in body:
        for source in node.all_input_nodes:
            reader = sites.get(node, node)
            if source not in last or order[reader] > order[last[source]]:
                last[source] = reader
    spent: dict[fx.Node, list[fx.Node]] = {node: [] for node in body}
    for source, reader in last.items():
        if source not in carried:
            spent[reader].append(source)
    return spent


def _through_time(node: fx.Node, static: Values, values: Values, steps: int) -> Any:
    """Return a signal ``[steps, N, ...]``; one that is constant in time without a copy for each step."""
    if node not in values:
        return static[node].expand(steps, *static[node].shape)
    value: Tensor | Levels = values[node]
    if isinstance(value, Levels):
        return value.with_values(_unfolded(value.values, steps))
    return _unfolded(value, steps)


def _unfolded(value: Tensor, steps: int) -> Tensor:
    return value.unflatten(0, (steps, -1))  # type: ignore[no-untyped-call,no-any-return]


def _shape(value: Tensor | Levels) -> tuple[int, ...]:
    return tuple(value.values.shape if isinstance(value, Levels) else value.shape)


def channels_last(x: Tensor) -> Tensor:
    """Lay maps ``[N, C, H, W]`` out with their channels side by side, which convolutions read fastest; anything else stays."""
    if x.ndim != 4 or not x.is_floating_point():
        return x
    if x.shape[1] == 1:  # lies in both orders at once, of which the strides name one to the next layer
        x = x.contiguous()
        return x.as_strided(x.shape, (x.stride(0), 1, x.stride(2), 1))
    return x.contiguous(memory_format=torch.channels_last)


def _refuse_other_maps(node: fx.Node, neuron: Neuron, current: Tensor) -> None:
    """Refuse maps of another size than the neurons have values for, which inputs of another size lead to."""
    site = node.meta["site"]
    misfits = [] if tuple(current.shape[1:]) == tuple(site.shape) else neuron.misfits(current)
    if misfits:
        raise SimulationError(
            f"The neurons have values of their own ({', '.join(misfits)}), for maps of one size", where=f"Site {site.name} ({site.operation.where})",
            got=f"a map {tuple(current.shape[1:])}", expected=str(tuple(site.shape)),
            remedy="Pass inputs of the size of the example, or convert with thresholds per channel or layer and without potentials for "
            "single neurons: they fit maps of any size.",
        )  # fmt: skip


def increment(
    graph: fx.GraphModule, node: fx.Node, values: Values, before: Running, steps: int, arithmetic: Arithmetic = FLOAT
) -> tuple[Any, Running]:
    """Run an operation on the running means of its inputs; return what that adds to the sum of its outputs, and the new state.

    The state that is given may be written over.
    """
    if not before.steps:
        before = Running(homogeneous=node.meta["operation"].verdict.kind is Kind.POOL_MAX)
    signals = [source for source in node.all_input_nodes if isinstance(values[source], Tensor) and is_signal(source)]
    pool, narrow = max_pool_of(graph, node), {source for source in signals if arithmetic.is_narrow(source)}
    if pool is not None and maximum.fits(pool, values[signals[0]], narrow=bool(narrow)):
        after, emitted = maximum.advance(pool, signals[0], values[signals[0]], before, steps)
        return emitted, after
    wide = {source: values[source].float() if source in narrow else values[source] for source in signals}
    means, sums = before.means(wide, steps)
    after, emitted = before.increments(call(graph, node, {**values, **means}), sums, steps)
    return emitted, after


def zeros_like(values: Values) -> Values:
    """Return zero sums ``[N, ...]`` for carried values ``[steps, N, ...]``."""
    return {node: torch.zeros_like(value[0]) for node, value in values.items()}
