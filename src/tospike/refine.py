"""Walk an SNN and its ANN side by side over calibration data, and let refiners correct the SNN from front to back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from tospike.graph.batches import Inputs
from tospike.graph.layers import is_weighted
from tospike.graph.walk import module_of, site_nodes
from tospike.neurons.incremental import Running
from tospike.neurons.modules import Neuron
from tospike.parts.refiners import LayerView, Refiner, SiteView
from tospike.progress import track
from tospike.run.nodes import call, is_size
from tospike.run.plan import increment, stepped


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

    All batches are held at the place where the walk stands and nowhere else, and what a batch gave the place before is let go of as soon as
    it is through: memory grows with batches times T, not with the depth of the network. Of synchronous neurons only means are held.

    Args:
        graph: The network with neurons at its Sites, changed in place.
        refiners: What corrects it, in this order at each place.
        batches: Inputs ``[N, ...]`` by name.
        time_steps: T.
        progress: Show a progress bar.
    """
    walk = _Walk(graph, batches, time_steps)
    for node in track(list(graph.graph.nodes), "refine", shown=progress):
        walk.visit(node, refiners)


class _Walk:
    """The values of every batch where the walk stands: the ANN's, and the SNN's where it differs, of as many steps as are held."""

    def __init__(self, graph: fx.GraphModule, batches: Sequence[Inputs], time_steps: int) -> None:
        self.graph, self.batches, self.time_steps = graph, batches, time_steps
        self.sites = list(site_nodes(graph))
        synchronous = any(self._neuron(node).model.synchronous for node in self.sites)
        self.steps = 1 if synchronous else time_steps  # that are held
        self.stepped = stepped(graph)
        self.ann: dict[fx.Node, list[Any]] = {}
        self.snn: dict[fx.Node, list[Any]] = {}  # steps folded into the batch axis; averaged behind the last Site
        self.left = {node: len(node.users) for node in graph.graph.nodes}
        modules = {
            id(module): module for module in map(partial(module_of, graph), graph.graph.nodes) if module is not None
        }
        self.owners = Counter(id(parameter) for module in modules.values() for parameter in module.parameters())
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
        neuron = self._neuron(node)
        targets = [node.meta["activation"](value) for value in self.ann[source]]
        currents = [self._currents(source, number) for number in range(len(self.batches))]
        depth = self.sites.index(node) / max(len(self.sites) - 1, 1)
        constant = source not in self.snn
        view = SiteView(node.meta["site"], neuron, currents, targets, self.ann[source], depth, constant)
        for refiner in refiners:
            refiner.site(view)
        self.ann[node], self.snn[node] = targets, []
        for number in range(len(self.batches)):
            self.snn[node].append(view.emissions(number)[: self.steps].flatten(0, 1))
            currents[number] = torch.empty(0)
            self._release(node, number)

    def _neuron(self, node: fx.Node) -> Neuron:
        neuron = module_of(self.graph, node)
        assert isinstance(neuron, Neuron)
        return neuron

    def _currents(self, source: fx.Node, number: int) -> Tensor:
        if source in self.snn and self.steps == self.time_steps:
            return _unfold(self.snn[source][number], self.steps)
        value: Tensor = (self.snn if source in self.snn else self.ann)[source][number]
        return value.expand(self.time_steps, *value.shape)

    def _operation(self, node: fx.Node, refiners: Sequence[Refiner]) -> None:
        if node.op == "placeholder":
            self.ann[node] = [batch[str(node.target)] for batch in self.batches]
            return
        self.ann[node] = [call(self.graph, node, self._values(self.ann, number)) for number in range(len(self.batches))]
        if not any(source in self.snn for source in node.all_input_nodes):
            return
        self._layer(node, refiners)
        self.snn[node] = []
        for number in range(len(self.batches)):
            self.snn[node].append(self._run(node, self._inputs(node, number)))
            self._release(node, number)

    def _release(self, node: fx.Node, number: int) -> None:
        """Let go of what one batch gave a node that is the last to read it, before the next batch asks for memory."""
        for source in node.all_input_nodes:
            if self.left[source] == 1 and not any(map(is_size, source.users)):
                for table in (self.ann, self.snn):
                    if source in table:
                        table[source][number] = None

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
        if any(self.owners[id(parameter)] > 1 for parameter in module.parameters()):
            return  # tied to another layer, which has other inputs
        if not any(type(refiner).layer is not Refiner.layer for refiner in refiners):
            return
        source = node.all_input_nodes[0]
        numbers = range(len(self.batches))
        inputs = [self._mean(source, n) for n in numbers]
        # What the other summands of a join lack is known already, so this layer makes up for it.
        join, others = self._join(node)
        missing = [self.ann[node][n] - module(x) for n, x in enumerate(inputs)]
        for other in (other for other in others if other in self.snn):
            missing = [m + self.ann[other][n] - self._mean(other, n) for n, m in enumerate(missing)]
        wanted = None
        if _enters_rectifier(join):
            wanted = [sum((self.ann[other][n] for other in others), self.ann[node][n]) for n in numbers]
        for refiner in refiners:
            refiner.layer(LayerView(module, inputs, missing, wanted))

    def _join(self, node: fx.Node) -> tuple[fx.Node, list[fx.Node]]:
        """Return where the output of a layer arrives: the sum that it alone still lacks, with the other summands, or itself."""
        user = next(iter(node.users), None)
        if user is None or len(node.users) > 1 or "operation" not in user.meta:
            return node, []
        summed = user.meta["operation"].verdict.name in {"add", "iadd"} and not user.kwargs
        two = len(user.args) == 2 and all(isinstance(argument, fx.Node) for argument in user.args)
        others = [source for source in user.all_input_nodes if source is not node]
        if not summed or not two or len(others) != 1 or others[0] not in self.ann:
            return node, []
        alike = all(self.ann[others[0]][n].shape == self.ann[node][n].shape for n in range(len(self.batches)))
        return (user, others) if alike else (node, [])


def _enters_rectifier(node: fx.Node) -> bool:
    """Tell whether a value does nothing but enter neurons that pass no negative sum."""
    return all("site" in user.meta and user.meta["site"].operation.verdict.is_rectifier for user in node.users)


def _unfold(value: Tensor, steps: int) -> Tensor:
    return value.reshape(steps, -1, *value.shape[1:])
