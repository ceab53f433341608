"""Walk an SNN and its ANN side by side over calibration data, and let refiners correct the SNN from front to back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, fx

from tospike.graph.batches import Inputs
from tospike.graph.layers import is_weighted
from tospike.graph.walk import module_of, reach, site_nodes
from tospike.neurons.incremental import Running
from tospike.neurons.modules import Neuron
from tospike.parts.refiners import LayerView, Refiner, SiteView
from tospike.run.plan import call, increment, is_size


@torch.no_grad()
def refine(
    graph: fx.GraphModule,
    refiners: Sequence[Refiner],
    batches: Sequence[Inputs],
    time_steps: int,
    *,
    progress: bool = True,
) -> None:
    """Correct an SNN place by place; each place sees the inputs that the places before it, already corrected, give it.

    All batches are held at the place where the walk stands and nowhere else, so memory grows with batches times T, not with
    the depth of the network.

    Args:
        graph: The network with neurons at its Sites, changed in place.
        refiners: What corrects it, in this order at each place.
        batches: Inputs ``[N, ...]`` by name.
        time_steps: T.
        progress: Show a progress bar.
    """
    walk = _Walk(graph, batches, time_steps)
    for node in track(list(graph.graph.nodes), "refine", transient=True, disable=not progress):
        walk.visit(node, refiners)


class _Walk:
    """The values of every batch where the walk stands: the ANN's, and the SNN's where it differs."""

    def __init__(self, graph: fx.GraphModule, batches: Sequence[Inputs], time_steps: int) -> None:
        self.graph, self.batches, self.steps = graph, batches, time_steps
        sites = site_nodes(graph)
        self.behind, self.before = reach(graph.graph, sites)
        self.stepped = {
            node for node in graph.graph.nodes if node in sites or (node in self.behind and node in self.before)
        }
        self.ann: dict[fx.Node, list[Any]] = {}
        self.snn: dict[fx.Node, list[Any]] = {}  # time folded into the batch axis; averaged behind the last Site
        self.left = {node: len(node.users) for node in graph.graph.nodes}
        self.calls = Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_module")

    def visit(self, node: fx.Node, refiners: Sequence[Refiner]) -> None:
        if "site" in node.meta:
            self._site(node, refiners)
        else:
            self._operation(node, refiners)
        for source in node.all_input_nodes:
            self.left[source] -= 1
            if not self.left[source] and not any(is_size(user) for user in source.users):  # sizes may be read again
                self.ann.pop(source, None)
                self.snn.pop(source, None)

    def _site(self, node: fx.Node, refiners: Sequence[Refiner]) -> None:
        source = node.all_input_nodes[0]
        neuron = module_of(self.graph, node)
        assert isinstance(neuron, Neuron)
        targets = [neuron.function(value) for value in self.ann[source]]
        currents = [self._currents(source, number) for number in range(len(self.batches))]
        view = SiteView(node.meta["site"], neuron, currents, targets)
        for refiner in refiners:
            refiner.site(view)
        self.ann[node] = targets
        self.snn[node] = [view.emissions(number).flatten(0, 1) for number in range(len(self.batches))]

    def _currents(self, source: fx.Node, number: int) -> Tensor:
        if source in self.snn:
            return _unfold(self.snn[source][number], self.steps)
        value: Tensor = self.ann[source][number]
        return value.expand(self.steps, *value.shape)

    def _operation(self, node: fx.Node, refiners: Sequence[Refiner]) -> None:
        if node.op == "placeholder":
            self.ann[node] = [batch[str(node.target)] for batch in self.batches]
            return
        self.ann[node] = [call(self.graph, node, self._values(self.ann, number)) for number in range(len(self.batches))]
        if not any(source in self.snn for source in node.all_input_nodes):
            return
        self._layer(node, refiners)
        self.snn[node] = [self._run(node, self._inputs(node, number)) for number in range(len(self.batches))]

    def _run(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        if node.meta.get("incremental") and node in self.stepped:
            return increment(self.graph, node, values, Running(), self.steps)[0]
        return call(self.graph, node, values)

    def _values(self, table: dict[fx.Node, list[Any]], number: int) -> dict[fx.Node, Any]:
        return {node: values[number] for node, values in table.items()}

    def _inputs(self, node: fx.Node, number: int, *, repeated: bool = False) -> dict[fx.Node, Any]:
        """Return the SNN's inputs of a node, repeated in time or averaged over it, as the node needs them."""
        repeated = repeated or node in self.stepped
        values = {}
        for source in node.all_input_nodes:
            folded = source in self.stepped and source in self.snn
            value = (self.snn if source in self.snn else self.ann)[source][number]
            if repeated and not folded and is_size(source):
                value = call(self.graph, source, self._inputs(source, number, repeated=True))
            elif repeated and not folded and isinstance(value, Tensor) and "operation" in source.meta:
                value = value.expand(self.steps, *value.shape).flatten(0, 1)
            elif not repeated and folded:
                value = _unfold(value, self.steps).mean(0)
            values[source] = value
        return values

    def _mean(self, node: fx.Node, number: int) -> Tensor:
        value: Tensor = (self.snn if node in self.snn else self.ann)[node][number]
        return _unfold(value, self.steps).mean(0) if node in self.stepped and node in self.snn else value

    def _layer(self, node: fx.Node, refiners: Sequence[Refiner]) -> None:
        module = module_of(self.graph, node)
        if module is None or not is_weighted(self.graph, node) or self.calls[str(node.target)] > 1:
            return
        if not any(type(refiner).layer is not Refiner.layer for refiner in refiners):
            return
        source = node.all_input_nodes[0]
        inputs = [self._mean(source, number) for number in range(len(self.batches))]
        missing = [self.ann[node][n] - module(x) + self._other(node, n) for n, x in enumerate(inputs)]
        for refiner in refiners:
            refiner.layer(LayerView(module, inputs, missing))

    def _other(self, node: fx.Node, number: int) -> Tensor | float:
        """Return what the other summand of a join lacks, where it is known already, so that this layer makes up for it."""
        (join, *more) = node.users
        if more or "operation" not in join.meta or join.meta["operation"].verdict.name not in {"add", "iadd"}:
            return 0.0
        others = [source for source in join.all_input_nodes if source is not node and source in self.snn]
        return sum((self.ann[o][number] - self._mean(o, number) for o in others), 0.0)


def _unfold(value: Tensor, steps: int) -> Tensor:
    return value.reshape(steps, -1, *value.shape[1:])
