"""Dividing thresholds out of a network: which layer absorbs which, and where a synapse has to be put in."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from tospike.export.units import (
    Scale,
    Unit,
    axes,
    backward_unit,
    channels,
    forward_unit,
    is_concatenation,
    is_join,
    is_layer,
    is_norm,
    name_of,
    passes,
    rescaled,
    sample_shape,
)
from tospike.graph.capture import Operation
from tospike.graph.kinds import Kind, Verdict
from tospike.graph.layers import affine
from tospike.graph.walk import add_module, module_of
from tospike.neurons.modules import Neuron
from tospike.run.nodes import call, is_size

NO_WISH = Unit(torch.tensor(float("nan")))  # of what takes its input in any unit


class InUnits(nn.Module):
    """An activation whose input and output are counted in other units: ``f(u·z)/u``.

    Args:
        function: f.
        unit: u > 0, broadcastable to one sample.

    Example:
        >>> InUnits(nn.ReLU6(), torch.tensor(3.0))(torch.tensor([1.0, 4.0]))
        tensor([1., 2.])
    """

    unit: Tensor

    def __init__(self, function: nn.Module, unit: Tensor) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("unit", unit)

    def forward(self, z: Tensor) -> Tensor:
        """Return the activation of ``z``, both in the unit."""
        return self.function(z * self.unit) / self.unit  # type: ignore[no-any-return]


class Folding:
    """One pass backwards for the units that are wanted, one forwards that changes the layers.

    Args:
        graph: A network with neurons at its Sites, changed in place.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.wanted: dict[fx.Node, Unit | None] = {}
        self.units: dict[fx.Node, Unit | None] = {}
        self.thresholds: dict[fx.Node, Unit] = {
            node: Unit(self._neuron(node).threshold, node.meta["site"].name) for node in graph.graph.nodes if "site" in node.meta
        }  # fmt: skip

    def run(self) -> None:
        """Divide every threshold out.

        Layers then know in ``meta["drives"]`` whose threshold they are counted in, and a `Scale` that only adds a bias to what comes in this
        unit already in ``meta["adds"]``.
        """
        nodes = [node for node in self.graph.graph.nodes if "operation" in node.meta]
        for node in reversed(nodes):
            self.wanted[node] = self._wish(node)
        for node in nodes:
            self.units[node] = self._change(node)

    def _neuron(self, node: fx.Node) -> Neuron:
        neuron = module_of(self.graph, node)
        assert isinstance(neuron, Neuron)
        return neuron

    def _wish(self, node: fx.Node) -> Unit | None:
        """Return the unit that all users of a node want it in; None for 1."""
        wishes = [self._wish_of(user, node) for user in node.users]
        first = next((wish for wish in wishes if wish is not NO_WISH), None)
        agree = first is not None and all(wish is NO_WISH or first.same(wish) for wish in wishes)
        return first if agree else None

    def _wish_of(self, user: fx.Node, node: fx.Node) -> Unit | None:
        if user in self.thresholds:
            return self.thresholds[user]
        if is_layer(self.graph, user) or is_norm(self.graph, user) or self._is_scale(user):
            return NO_WISH
        wanted = self.wanted.get(user)
        if is_join(user):
            return wanted
        if passes(user):  # a pool or reshape in front of a layer passes any unit on
            return backward_unit(user, wanted) if wanted is not None else (NO_WISH if self._absorbed(user) else None)
        if is_concatenation(user) and wanted is not None:
            return self._part(user, node, wanted)
        return None

    def _absorbed(self, node: fx.Node) -> bool:
        return all(self._wish_of(user, node) is NO_WISH for user in node.users)

    def _part(self, cat: fx.Node, node: fx.Node, wanted: Unit) -> Unit | None:
        vector = channels(wanted.value, sample_shape(cat), 0)
        if vector is None:
            return None
        parts: Any = cat.args[0]
        begin = sum(sample_shape(part)[0] for part in parts[: parts.index(node)])
        size, rank = sample_shape(node)[0], len(sample_shape(node))
        return Unit(vector[begin : begin + size].reshape(-1, *[1] * (rank - 1)), wanted.site)

    def _change(self, node: fx.Node) -> Unit | None:
        """Change one node, give it its input in the right unit, and return the unit of its output."""
        if is_size(node):
            return None
        if node in self.thresholds:
            return self._change_site(node)
        if is_layer(self.graph, node) or is_norm(self.graph, node):
            return self._change_layer(node)
        if self._is_scale(node):
            return self._change_scale(node)
        if is_join(node):
            for source in set(node.all_input_nodes):
                self._give(node, source, self.wanted[node])
            return self.wanted[node]
        if passes(node):
            return self._pass(node)
        if is_concatenation(node):
            return self._change_concatenation(node)
        for source in node.all_input_nodes:
            self._give(node, source, None)
        return None

    def _pass(self, node: fx.Node) -> Unit | None:
        source = node.all_input_nodes[0]
        unit = self.units[source]
        moved = forward_unit(node, unit) if unit is not None else None
        if moved is None:
            self._give(node, source, None)
        return moved

    def _change_site(self, node: fx.Node) -> Unit:
        neuron, unit = copy.deepcopy(self._neuron(node)), self.thresholds[node]
        self._give(node, node.all_input_nodes[0], unit)
        theta = unit.value
        sent = theta if neuron.gain is None else theta * neuron.gain
        if not (neuron.homogeneous or (not neuron.model.signed and not neuron.model.synchronous)):
            neuron.function = InUnits(neuron.function, theta)
        neuron.threshold, neuron.gain = torch.ones_like(theta).reshape(-1)[0], None
        if neuron.bias is not None:
            neuron.bias = neuron.bias / theta
            if len(neuron.bias) == 1:
                self._put_bias(node, neuron.bias[0])
                neuron.bias = None
        self.graph.set_submodule(str(node.target), neuron)
        return Unit(sent, unit.site)

    def _take_bias(self, source: fx.Node, bias: Tensor) -> bool:
        """Add a constant bias to a layer that drives nothing but this, through sums and pools; tell whether there is one."""
        layer: Any = module_of(self.graph, source)
        if len(source.users) > 1:
            return False
        if passes(source):
            before = self._bias_before(source, bias)
            return before is not None and self._take_bias(source.all_input_nodes[0], before)
        if is_join(source):
            return name_of(source) in ("add", "iadd") and any(
                self._take_bias(part, bias) for part in source.args[:2] if isinstance(part, fx.Node)
            )
        if isinstance(layer, Scale):
            layer.bias = bias if layer.bias is None else layer.bias + bias
            return True
        if not is_layer(self.graph, source):
            return False
        vector = channels(bias, sample_shape(source), axes(layer, source)[1])
        if vector is None:
            return False
        old = torch.zeros_like(vector) if layer.bias is None else layer.bias.detach()
        layer.bias = nn.Parameter((old.double() + vector.double()).to(layer.weight.dtype), requires_grad=False)
        return True

    def _bias_before(self, node: fx.Node, bias: Tensor) -> Tensor | None:
        """Return what has to be added in front of a pool or reshape for a bias behind it; None if nothing does, as with averages over padding."""
        if len(node.all_input_nodes) > 1:  # it reads sizes
            return None
        (source,) = node.all_input_nodes
        moved = backward_unit(node, Unit(bias))
        if moved is None:
            return None
        through = call(self.graph, node, {source: moved.value.expand(1, *sample_shape(source))})[0]
        return moved.value if torch.allclose(through, bias.expand_as(through)) else None

    def _put_bias(self, node: fx.Node, bias: Tensor) -> None:
        """Add a constant bias in front of a Site, in the layer there or in one synapse per neuron of weight 1."""
        (source,) = node.all_input_nodes
        if not self._take_bias(source, bias):
            scaled = self._insert(node, source, Scale(torch.ones_like(bias), bias), self.thresholds[node])
            scaled.meta["adds"] = True

    def _change_layer(self, node: fx.Node) -> Unit | None:
        layer, source, wanted = module_of(self.graph, node), node.all_input_nodes[0], self.wanted[node]
        assert layer is not None
        unit, (axis_in, axis_out) = self.units.get(source), axes(layer, node)
        into = None if unit is None else channels(unit.value, sample_shape(source), axis_in)
        if unit is not None and into is None:
            self._give(node, source, None)
        out = None if wanted is None else channels(wanted.value, sample_shape(node), axis_out)
        if isinstance(layer, (nn.modules.batchnorm._BatchNorm)):
            changed: nn.Module = _norm(layer, into, out, len(sample_shape(node)))
        elif into is None and out is None:
            return None
        else:
            changed = rescaled(layer, into, out)
        node.target = add_module(self.graph, str(node.target), changed, replaced=str(node.target))
        if wanted is None or out is None:
            return None
        node.meta["drives"] = wanted.site
        return wanted

    def _is_scale(self, node: fx.Node) -> bool:
        return isinstance(module_of(self.graph, node), Scale)

    def _change_scale(self, node: fx.Node) -> Unit | None:
        scale, unit, wanted = module_of(self.graph, node), self.units.get(node.all_input_nodes[0]), self.wanted[node]
        assert isinstance(scale, Scale)
        out = torch.ones_like(scale.weight) if wanted is None else wanted.value
        weight = scale.weight if unit is None else scale.weight * unit.value
        changed = Scale(weight / out, None if scale.bias is None else scale.bias / out)
        node.target = add_module(self.graph, str(node.target), changed, replaced=str(node.target))
        node.meta["drives"] = wanted.site if wanted is not None else ""
        return wanted

    def _change_concatenation(self, node: fx.Node) -> Unit | None:
        parts: Any = node.args[0]
        wanted, vectors = self.wanted[node], []
        for part in parts:
            unit = self.units[part]
            value = torch.ones(()) if unit is None else unit.value
            vectors.append(channels(value, sample_shape(part), 0))
        if wanted is not None or any(vector is None for vector in vectors):
            for part in set(parts):
                self._give(node, part, None if wanted is None else self._part(node, part, wanted))
            return wanted
        if all(self.units[part] is None for part in parts):
            return None
        like = next(unit.value for part in parts if (unit := self.units[part]) is not None)
        whole = torch.cat([vector.to(like) for vector in vectors if vector is not None])
        return Unit(whole.reshape(-1, *[1] * (len(sample_shape(node)) - 1)))

    def _give(self, node: fx.Node, source: fx.Node, wanted: Unit | None) -> None:
        """Put a `Scale` between two nodes, unless the one comes in the unit that the other wants."""
        if "operation" not in source.meta or source not in self.units:
            return
        unit = self.units[source]
        if (unit is None and wanted is None) or (unit is not None and unit.same(wanted)):
            return
        one = torch.ones((), dtype=torch.float64)
        ratio = (one if unit is None else unit.value.double()) / (one if wanted is None else wanted.value.double())
        if bool((ratio != 1).any()):
            self._insert(node, source, Scale(ratio.to((unit or wanted or NO_WISH).value.dtype)), wanted)

    def _insert(self, node: fx.Node, source: fx.Node, scale: Scale, unit: Unit | None) -> fx.Node:
        """Put a `Scale` between two nodes, and return its own."""
        operation: Operation = source.meta["operation"]
        path = f"{source.name}_scale"
        with self.graph.graph.inserting_before(node):
            scaled = self.graph.graph.call_module(add_module(self.graph, path, scale), (source,))
        verdict = Verdict(Kind.LINEAR, "scale")
        scaled.meta = {"operation": replace(operation, verdict=verdict, path=path), "drives": unit.site if unit else ""}
        self.units[scaled] = unit
        node.replace_input_with(source, scaled)
        return scaled


def _norm(layer: Any, into: Tensor | None, out: Tensor | None, rank: int) -> Scale:
    """Return a batch norm in evaluation as a scale and shift, in other units."""
    weight, bias = affine(layer)
    if into is not None:
        weight = weight * into.double()
    if out is not None:
        weight, bias = weight / out.double(), bias / out.double()
    dtype = layer.running_mean.dtype
    return Scale(*(value.to(dtype).reshape(-1, *[1] * (rank - 1)) for value in (weight, bias)))
