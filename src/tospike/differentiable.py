"""An SNN whose output has gradients, and the ANN beside it."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from tospike.check import counterpart
from tospike.graph.batches import Inputs, tensors_in
from tospike.graph.walk import module_of, site_nodes
from tospike.methods.tuning import PARTS, Part
from tospike.neurons.modules import Neuron
from tospike.neurons.surrogate import Surrogate
from tospike.run.network import SNN
from tospike.run.nodes import Values, call


class _Positive(nn.Module):
    """θ = softplus(ρ): no step of an optimiser can make a threshold zero or negative."""

    def forward(self, rho: Tensor) -> Tensor:
        return functional.softplus(rho).clamp_min(torch.finfo(rho.dtype).eps)

    def right_inverse(self, theta: Tensor) -> Tensor:
        return theta + torch.log(-torch.expm1(-theta))


class DifferentiableSNN(nn.Module):
    """An SNN with parameters in place of what is fixed otherwise, and gradients through its spikes.

    Args:
        snn: The SNN, which is copied.
        time_steps: T.
        trained: What becomes a parameter with a gradient: weights, biases, thresholds, initial potentials.
        surrogate: For the derivative of a spike; None where no gradient passes through single steps.
        steps_per_call: Steps whose values are kept for the gradient; the others are computed again. None keeps all T.
    """

    def __init__(
        self,
        snn: SNN,
        time_steps: int,
        trained: tuple[Part, ...] = PARTS,
        surrogate: Surrogate | None = None,
        steps_per_call: int | None = None,
    ) -> None:
        super().__init__()
        self.snn = copy.deepcopy(snn)
        self.time_steps, self.steps_per_call, self.trained = time_steps, steps_per_call or time_steps, trained
        self.plan = self.snn.plan
        self.sites = site_nodes(self.graph)
        self.neurons = {node: self._neuron(node) for node in self.sites}
        for neuron in self.neurons.values():
            _train_neuron(neuron, trained)
            neuron.surrogate = surrogate
        self.choose()

    @property
    def graph(self) -> fx.GraphModule:
        """The network with neurons at its Sites."""
        return self.snn.graph

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.parameters()).device

    def _neuron(self, node: fx.Node) -> Neuron:
        neuron = module_of(self.graph, node)
        assert isinstance(neuron, Neuron)
        return neuron

    def choose(self) -> None:
        """Switch gradients on for the parameters that are trained."""
        for name, parameter in self.graph.named_parameters():
            neurons = ".parametrizations." in name or name.endswith(".start")
            part = "biases" if name.endswith("bias") else "weights"
            parameter.requires_grad_(neurons or part in self.trained)

    def by_time(self, given: Inputs, keep: set[fx.Node]) -> tuple[Any, Values]:
        """Step through time; return the output, and the means over time of the nodes to keep."""
        static = self.plan.prepare(given)
        if self.snn.conversion.neuron.synchronous:
            settled, _ = self.plan.settle(static, self.time_steps)
            return self.plan.finish(static, {node: settled[node] for node in self.plan.carried}), settled
        sums: Values = {}
        state: dict[str, Any] = {}
        for done in range(0, self.time_steps, self.steps_per_call):
            count = min(self.steps_per_call, self.time_steps - done)
            if self.steps_per_call < self.time_steps and torch.is_grad_enabled():
                found, state = checkpoint(self._advance, static, state, count, keep, use_reentrant=False)
            else:
                found, state = self._advance(static, state, count, keep)
            sums = {node: sums[node] + value for node, value in found.items()} if sums else found
        means = {node: value / self.time_steps for node, value in sums.items()}
        return self.plan.finish(static, {node: means[node] for node in self.plan.carried}), static | means

    def _advance(
        self, static: Values, state: dict[str, Any], steps: int, keep: set[fx.Node]
    ) -> tuple[Values, dict[str, Any]]:
        """Return sums over a chunk of time, and the state behind it; the state before it is left as it is."""
        sums, after = {}, dict(state)

        def watch(node: fx.Node, _: Any, value: Any, count: int) -> None:
            if node in keep:
                sums[node] = value.unflatten(0, (count, -1)).sum(0)

        carried = self.plan.step(static, after, steps, watch)
        return sums | {node: value.sum(0) for node, value in carried.items()}, after

    def by_rate(self, given: Inputs, spiking: int | None = None, cut: int = 0) -> tuple[Any, Values]:
        """Run on means over time whose values are those of the spikes, and whose gradients are those of clips.

        Args:
            given: The inputs by name.
            spiking: Sites from the front that send spikes; the others are the ANN, clipped. None for all.
            cut: Sites from the front whose gradient does not leave their layer.

        Returns:
            The output, and what the Sites send.
        """
        with torch.no_grad():
            _, emitted = self.by_time(given, set(self.sites))
        static = self.plan.prepare(given)
        values: Values = dict(static)
        sent: Values = {}
        for node in self.plan.body:
            if node not in self.neurons:
                values[node] = call(self.graph, node, values)
                continue
            place, neuron, current = self.sites.index(node), self.neurons[node], values[node.all_input_nodes[0]]
            spikes = spiking is None or place < spiking
            found = emitted[node] if spikes else neuron.clipped(current, self.time_steps)
            sent[node] = neuron.by_rate(current, found, self.time_steps)
            values[node] = sent[node].detach() if place < cut else sent[node]
        return self.plan.finish(static, {node: values[node] for node in self.plan.carried}), sent

    def finished(self, **record: Any) -> SNN:
        """Return the SNN with all values fixed, and more in its record."""
        thresholds = {}
        for node, neuron in self.neurons.items():
            _fix_neuron(neuron)
            thresholds[node.meta["site"].name] = neuron.threshold
        self.graph.eval().requires_grad_(False)
        conversion = dataclasses.replace(self.snn.conversion, thresholds=thresholds, **record)
        return SNN(self.graph, self.plan.inputs, conversion).eval()


class Teacher:
    """The ANN of an SNN, of which every activation can be had.

    Args:
        ann: The network that was converted, or the one that it was prepared from.
        example: A batch of inputs by name; a few samples are used.
        snn: The SNN.

    Raises:
        OptionError: They are not the same network.
    """

    def __init__(self, ann: nn.Module, example: Inputs, snn: SNN) -> None:
        self.graph = counterpart(ann, example, snn.conversion.sites)
        self.names = dict(zip(site_nodes(self.graph), snn.site_names, strict=True))
        self.inputs = snn.plan.inputs

    @torch.no_grad()
    def __call__(self, given: Inputs) -> tuple[Any, dict[str, Tensor]]:
        """Return the output, and the activation of each Site by its name in the SNN."""
        self.graph.to(next(iter(given.values())).device)
        values: Values = {}
        inputs = iter(given[name] for name in self.inputs)
        for node in self.graph.graph.nodes:
            values[node] = next(inputs) if node.op == "placeholder" else call(self.graph, node, values)
        return values[node], {name: values[site] for site, name in self.names.items()}


def distance(
    network: DifferentiableSNN, means: Values, output: Any, activations: dict[str, Tensor], wanted: Any
) -> Tensor:
    """Return what an SNN differs by from its ANN, at all Sites and outputs; see `tospike.parts.descent.Descent`.

    Args:
        network: The SNN.
        means: Mean emissions at its Sites.
        output: Its output.
        activations: Those of the ANN, by the names of the Sites.
        wanted: The output of the ANN.
    """
    sites = [relative_error(means[node], activations[node.meta["site"].name]) for node in network.sites]
    outputs = [relative_error(y, z) for y, z in zip(tensors_in(output), tensors_in(wanted), strict=True)]
    return torch.stack(sites).mean() + torch.stack(outputs).mean()


def relative_error(x: Tensor, wanted: Tensor) -> Tensor:
    """Return ``‖x − w‖²/‖w‖²``, a scalar without gradient in what is wanted."""
    return (x - wanted).square().sum() / wanted.detach().square().sum().clamp_min(torch.finfo(x.dtype).tiny)


def _train_neuron(neuron: Neuron, parts: tuple[Part, ...]) -> None:
    """Turn what is trained of a neuron from buffers into parameters."""
    theta = neuron.threshold
    if "starts" in parts:
        start = (neuron.start + torch.zeros_like(theta)).clone()
        del neuron.start
        neuron.register_parameter("start", nn.Parameter(start))
    if "biases" in parts and neuron.bias is not None:
        bias = neuron.bias
        del neuron.bias
        neuron.register_parameter("bias", nn.Parameter(bias))
    if "thresholds" in parts:
        del neuron.threshold
        neuron.register_parameter("threshold", nn.Parameter(theta))
        parametrize.register_parametrization(neuron, "threshold", _Positive())


def _fix_neuron(neuron: Neuron) -> None:
    """Turn what was trained of a neuron back into buffers."""
    neuron.surrogate = None
    if parametrize.is_parametrized(neuron, "threshold"):
        parametrize.remove_parametrizations(neuron, "threshold")
    for name, value in list(neuron.named_parameters(recurse=False)):
        delattr(neuron, name)
        neuron.register_buffer(name, value.detach())
