"""An SNN whose output has gradients, with trained thresholds, normalised layers, and the losses that compare it with its ANN."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from tospike import processes
from tospike.check import counterpart
from tospike.error_terms import wanted
from tospike.errors import OptionError, TrainingError
from tospike.graph.batches import Inputs
from tospike.graph.layers import BATCH_NORMS, CONVOLUTIONS, TRANSPOSED, affine, folded, is_weighted
from tospike.graph.walk import module_of, site_nodes
from tospike.methods.tuning import Part, Tuning
from tospike.neurons.modules import Neuron
from tospike.run.network import SNN, Tuned
from tospike.run.nodes import Values, call
from tospike.tasks import Classification, Task

_CLASSIFICATION = Classification()
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class _Positive(nn.Module):
    """θ = softplus(ρ): no step of an optimiser can make a threshold zero or negative."""

    def forward(self, rho: Tensor) -> Tensor:
        return functional.softplus(rho).clamp_min(torch.finfo(rho.dtype).eps)

    def right_inverse(self, theta: Tensor) -> Tensor:
        return theta + torch.log(-torch.expm1(-theta))


class _Normalised(nn.Module):
    """A layer and the batch norm behind it, which starts as the identity on data of the given mean and variance."""

    def __init__(self, layer: nn.Module, norm: Any, mean: Tensor, variance: Tensor) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm
        with torch.no_grad():
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.copy_(mean)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x))  # type: ignore[no-any-return]


class TrainableSNN(nn.Module):
    """An SNN whose output has gradients; the loss of its distillation is its penalty.

    Args:
        snn: The SNN, which is copied.
        tuning: How it is tuned.
        task: Which of its outputs the distillation of outputs compares.
    """

    seen: Tensor

    def __init__(self, snn: SNN, tuning: Tuning, task: Task = _CLASSIFICATION) -> None:
        super().__init__()
        self.task = task
        self.snn, self.tuning = copy.deepcopy(snn), tuning
        self.plan = self.snn.plan
        self._named_inputs = self.plan.inputs
        self.sites = site_nodes(self.graph)
        self.neurons = {node: self._neuron(node) for node in self.sites}
        self.batches_in_all = 0
        self.register_buffer("seen", torch.tensor(0))
        self.ann: tuple[fx.GraphModule, ...] = ()  # a tuple, so that it is no part of what is trained and saved
        self.lacking: list[Tensor] = []
        for neuron in self.neurons.values():
            _train_neuron(neuron, tuning.trained)
            neuron.surrogate = tuning.surrogate if tuning.gradient == "time" else None
        self._choose()

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

    def _choose(self) -> None:
        """Switch gradients on for the parameters that are trained."""
        for name, parameter in self.graph.named_parameters():
            neurons = ".parametrizations." in name or name.endswith(".start")
            part = "biases" if name.endswith("bias") else "weights"
            parameter.requires_grad_(neurons or part in self.tuning.trained)

    @torch.no_grad()
    def normalise(self, batches: list[Inputs]) -> None:
        """Put a batch norm behind each layer that is followed by a neuron."""
        chosen = {}
        for node in (*self.plan.static, *self.plan.body):
            layer = module_of(self.graph, node)
            if "operation" not in node.meta:  # it acts on a constant
                continue
            flat = isinstance(layer, nn.Linear) and len(node.meta["operation"].shape) == 2
            once = (
                sum(other.target == node.target for other in self.graph.graph.nodes if other.op == "call_module") == 1
            )
            if is_weighted(self.graph, node) and once and (flat or isinstance(layer, CONVOLUTIONS + TRANSPOSED)):
                chosen[str(node.target)] = layer, _NORMS[max(len(node.meta["operation"].shape) - 2, 1)]
        sums: dict[str, list[Tensor]] = {}

        def watch(path: str) -> Any:
            def add(_: nn.Module, __: Any, y: Tensor) -> None:
                axes = [axis for axis in range(y.ndim) if axis != 1]
                sums.setdefault(path, []).append(torch.stack([y.mean(axes), y.square().mean(axes)]))

            return add

        hooks = [layer.register_forward_hook(watch(path)) for path, (layer, _) in chosen.items() if layer is not None]
        try:
            for batch in batches:
                self.snn(batch, time_steps=self.tuning.time_steps, steps_per_call=self.tuning.time_steps)
        finally:
            for hook in hooks:
                hook.remove()
        for path, (layer, kind) in chosen.items():
            assert layer is not None
            mean, square = processes.total(torch.stack(sums[path]).mean(0)) / processes.count()
            norm = kind(len(mean), device=mean.device, dtype=mean.dtype)
            self.graph.set_submodule(path, _Normalised(layer, norm, mean, (square - mean.square()).clamp_min(0.0)))
        self._choose()

    def watch_ann(self, ann: nn.Module, example: Inputs) -> None:
        """Let the network learn from the ANN."""
        ours = [node.meta["site"] for node in self.sites]
        graph = counterpart(ann, example, ours)
        if self.tuning.maps and not any(len(site.shape) > 1 for site in ours):
            raise OptionError(
                "No Site has a map", got=f"maps={self.tuning.maps}, Sites of shape {ours[0].shape}", expected="a network for images",
                remedy="Pass maps=0.0.",
            )  # fmt: skip
        self.ann = (graph,)

    def train(self, mode: bool = True) -> TrainableSNN:
        """Switch training on or off; only the batch norms put in by `normalise` take part, by the statistics of whole runs."""
        super().train(mode)
        whole = (self.tuning.steps_per_call or self.tuning.time_steps) >= self.tuning.time_steps
        ours = {id(module.norm) for module in self.modules() if isinstance(module, _Normalised)} if whole else set()
        for module in self.modules():
            if isinstance(module, BATCH_NORMS) and id(module) not in ours:
                module.eval()
        return self

    def forward(self, *inputs: Tensor) -> Any:
        """Return the mean output over T steps."""
        given = dict(zip(self._named_inputs, inputs, strict=True))
        if not self.training:
            return self._by_time(given)[0]
        by = self._by_time if self.tuning.gradient == "time" else self._by_rate
        output, sent = by(given)
        self.lacking += self._errors(sent)
        if self.ann:
            self.lacking += self._distilled(output, sent, self._of_ann(given))
        self.seen += 1
        return output

    def penalty(self) -> Tensor | None:
        """Return what the last forward pass adds to the loss, a scalar."""
        found = torch.stack(self.lacking).sum() if self.lacking else None
        self.lacking = []
        return found

    def _by_time(self, given: Inputs) -> tuple[Any, Values]:
        """Step through time; return the output, and the means over time of what enters and leaves the Sites, where the loss needs them."""
        steps, chunk = self.tuning.time_steps, self.tuning.steps_per_call or self.tuning.time_steps
        keep: set[fx.Node] = set()
        if self.training and (self.tuning.maps or self.tuning.errors):
            keep |= {*self.sites, *(node.all_input_nodes[0] for node in self.sites)}
        static = self.plan.prepare(given)
        if self.snn.conversion.neuron.synchronous:
            settled, _ = self.plan.settle(static, steps)
            return self.plan.finish(static, {node: settled[node] for node in self.plan.carried}), settled
        state: dict[str, Any] = {}
        sums: Values = {}
        for done in range(0, steps, chunk):
            count = min(chunk, steps - done)
            if chunk < steps and self.training:
                found, state = checkpoint(self._advance, static, state, count, keep, use_reentrant=False)
            else:
                found, state = self._advance(static, state, count, keep)
            sums = {node: sums[node] + value for node, value in found.items()} if sums else found
        means = {node: value / steps for node, value in sums.items()}
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

    def _by_rate(self, given: Inputs) -> tuple[Any, Values]:
        """Run on means whose values are those of the spikes, and whose gradients are those of clips."""
        emitted = self._emitted(given)
        spiking = len(self.sites)
        if self.tuning.order == "front-first" and self.batches_in_all:
            spiking = int(self.seen) * (len(self.sites) + 1) // self.batches_in_all
        static = self.plan.prepare(given)
        values, sent = dict(static), {}
        for node in self.plan.body:
            if node not in emitted:
                values[node] = call(self.graph, node, values)
                continue
            place, neuron, current = self.sites.index(node), self.neurons[node], values[node.all_input_nodes[0]]
            seen = emitted[node] if place < spiking else self._of_clip(neuron, current)
            values[node] = neuron.by_rate(current, seen, self.tuning.time_steps)
            sent[node] = values[node]
            frozen = self.tuning.order == "front-first" and place < spiking
            if frozen or self.tuning.order == "each":
                values[node] = values[node].detach()
        return self.plan.finish(static, {node: values[node] for node in self.plan.carried}), sent

    def _of_clip(self, neuron: Neuron, current: Tensor) -> Tensor:
        """Return the activation of the ANN, clipped at what the neurons can send."""
        reach = neuron.model.reach(self.tuning.time_steps) * neuron.threshold
        return neuron.function(current).minimum(reach).maximum(-reach)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _emitted(self, given: Inputs) -> Values:
        """Return the mean emission of every Site."""
        steps, static = self.tuning.time_steps, self.plan.prepare(given)
        if self.snn.conversion.neuron.synchronous:
            means, _ = self.plan.settle(static, steps)
            return {node: means[node] for node in self.sites}
        sums: Values = {}
        state: dict[str, Any] = {}
        chunk = self.tuning.steps_per_call or steps
        for done in range(0, steps, chunk):
            found, state = self._advance(static, state, min(chunk, steps - done), set(self.sites))
            sums = {node: sums[node] + found[node] for node in self.sites} if sums else found
        return {node: sums[node] / steps for node in self.sites}

    @torch.no_grad()
    def _of_ann(self, given: Inputs) -> Values:
        """Return the output of the ANN, under the output node, and its activations at the Sites, under those of the SNN."""
        (graph,) = self.ann
        graph.to(self.device)
        values: Values = {}
        inputs = iter(given[name] for name in self._named_inputs)
        for node in graph.graph.nodes:
            values[node] = next(inputs) if node.op == "placeholder" else call(graph, node, values)
        theirs = site_nodes(graph)
        return {ours: values[other] for ours, other in zip(self.sites, theirs, strict=True)} | {
            self.plan.tail[-1]: values[node]
        }

    def _errors(self, means: Values) -> list[Tensor]:
        """Return what neurons send beside the activation of their own mean current, relative to it, Site by Site."""
        if not self.tuning.errors:
            return []
        losses = []
        for node, neuron in self.neurons.items():
            current = neuron.biased_mean(means[node.all_input_nodes[0]], self.tuning.time_steps)
            losses.append(self.tuning.errors * _relative_error(means[node], wanted(node, neuron, current)))
        return losses

    def _distilled(self, output: Any, sent: Values, wanted: Values) -> list[Tensor]:
        tuning, losses = self.tuning, []
        if tuning.logits:
            logits, target = (
                _logits(self.task.prediction(value)) / tuning.temperature
                for value in (output, wanted[self.plan.tail[-1]])
            )
            divergence = functional.kl_div(logits.log_softmax(1), target.softmax(1), reduction="batchmean")
            losses.append(tuning.logits * tuning.temperature**2 * divergence)
        for node in self.sites if tuning.maps else ():
            if sent[node].ndim > 2:
                axis = node.meta["site"].channel_axis
                difference = _map(sent[node], axis) - _map(wanted[node], axis)
                losses.append(tuning.maps * difference.square().sum(1).mean())
        if tuning.order == "each":
            losses += [_relative_error(sent[node], wanted[node]) for node in self.sites]
        return losses

    def finished(self, record: Tuned) -> SNN:
        """Return the SNN: batch norms folded, thresholds fixed."""
        for path, module in list(self.graph.named_modules()):
            if isinstance(module, _Normalised):
                self.graph.set_submodule(path, folded(module.layer, *affine(module.norm)))
        thresholds = {}
        for node, neuron in self.neurons.items():
            _fix_neuron(neuron)
            thresholds[node.meta["site"].name] = neuron.threshold
        self.graph.eval().requires_grad_(False)
        conversion = dataclasses.replace(self.snn.conversion, thresholds=thresholds, tuned=record)
        return SNN(self.graph, self._named_inputs, conversion).eval()

    def __repr__(self) -> str:
        """Show what a checkpoint is compared by: all that is fixed, and no value that training changes."""
        models = (f"{node.meta['site'].name}: {neuron.model}" for node, neuron in self.neurons.items())
        return "\n".join([repr(self.tuning), *models])


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


def _logits(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 2:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TrainingError(
            "Distillation of logits needs logits", got=str(got), expected="[N, C]",
            remedy="Pass logits=0.0 to the tuning; order='each' and maps= compare inside the network.",
        )  # fmt: skip
    return value


def _map(x: Tensor, channel_axis: int) -> Tensor:
    """Return the energy of an activation at each place, of length 1: ``[N, places]``."""
    return functional.normalize(x.square().sum(channel_axis).flatten(1), dim=1)


def _relative_error(x: Tensor, wanted: Tensor) -> Tensor:
    return (x - wanted).square().sum() / wanted.detach().square().sum().clamp_min(torch.finfo(x.dtype).tiny)
