"""An SNN that is tuned: normalised layers, gradients by time or by rate, and the losses that compare it with its ANN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from tospike import processes
from tospike.differentiable import DifferentiableSNN, Teacher, distance, relative_error
from tospike.errors import OptionError, TrainingError
from tospike.graph.batches import Inputs
from tospike.graph.layers import BATCH_NORMS, CONVOLUTIONS, TRANSPOSED, affine, folded, is_weighted
from tospike.graph.walk import module_of
from tospike.methods.tuning import Tuning
from tospike.run.network import SNN
from tospike.run.nodes import Values
from tospike.tasks import Classification, Task

_CLASSIFICATION = Classification()
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


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


class TrainableSNN(DifferentiableSNN):
    """An SNN that is tuned; the loss of its distillation is its penalty.

    Args:
        snn: The SNN, which is copied.
        tuning: How it is tuned.
        task: Which of its outputs the distillation of outputs compares.
    """

    seen: Tensor

    def __init__(self, snn: SNN, tuning: Tuning, task: Task = _CLASSIFICATION) -> None:
        surrogate = tuning.surrogate if tuning.gradient == "time" else None
        super().__init__(snn, tuning.time_steps, tuning.trained, surrogate, tuning.steps_per_call)
        self.task, self.tuning = task, tuning
        self._named_inputs = self.plan.inputs
        self.batches_in_all = 0
        self.register_buffer("seen", torch.tensor(0))
        self.teacher: Teacher | None = None
        self.lacking: list[Tensor] = []

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
        self.choose()

    def watch_ann(self, ann: nn.Module, example: Inputs) -> None:
        """Let the network learn from the ANN."""
        shapes = [node.meta["site"].shape for node in self.sites]
        if self.tuning.maps and not any(len(shape) > 1 for shape in shapes):
            raise OptionError(
                "No Site has a map", got=f"maps={self.tuning.maps}, Sites of shape {shapes[0]}", expected="a network for images",
                remedy="Pass maps=0.0.",
            )  # fmt: skip
        self.teacher = Teacher(ann, example, self.snn)

    def train(self, mode: bool = True) -> TrainableSNN:
        """Switch training on or off; only the batch norms put in by `normalise` take part, by the statistics of whole runs."""
        super().train(mode)
        whole = self.steps_per_call >= self.time_steps
        ours = {id(module.norm) for module in self.modules() if isinstance(module, _Normalised)} if whole else set()
        for module in self.modules():
            if isinstance(module, BATCH_NORMS) and id(module) not in ours:
                module.eval()
        return self

    def forward(self, *inputs: Tensor) -> Any:
        """Return the mean output over T steps."""
        given = dict(zip(self._named_inputs, inputs, strict=True))
        if not self.training:
            return self.by_time(given, set())[0]
        output, sent = self._by_rate(given) if self.tuning.gradient == "rate" else self.by_time(given, self._compared())
        if self.teacher is not None:
            self.lacking += self._distilled(output, sent, *self.teacher(given))
        self.seen += 1
        return output

    def _compared(self) -> set[fx.Node]:
        """Return what the loss wants to see of a run through time: what leaves the Sites, where it compares them."""
        return set(self.sites) if self.tuning.maps or self._follows() else set()

    def _follows(self) -> bool:
        """Tell whether the distance to the ANN is part of the loss at this point of the run."""
        share = self.tuning.distance_share
        over = share < 1 and int(self.seen) >= share * self.batches_in_all
        return bool(self.tuning.distance) and not over

    def penalty(self) -> Tensor | None:
        """Return what the last forward pass adds to the loss, a scalar."""
        found = torch.stack(self.lacking).sum() if self.lacking else None
        self.lacking = []
        return found

    def _by_rate(self, given: Inputs) -> tuple[Any, Values]:
        """Run by rate, in the order in which Sites learn."""
        count = len(self.sites)
        if self.tuning.order == "front-first":
            spiking = int(self.seen) * (count + 1) // self.batches_in_all if self.batches_in_all else count
            return self.by_rate(given, spiking, cut=spiking)
        return self.by_rate(given, cut=count if self.tuning.order == "each" else 0)

    def _distilled(self, output: Any, sent: Values, wanted: Any, activations: dict[str, Tensor]) -> list[Tensor]:
        tuning, losses = self.tuning, []
        if tuning.logits:
            logits, target = (_logits(self.task.prediction(value)) / tuning.temperature for value in (output, wanted))
            divergence = functional.kl_div(logits.log_softmax(1), target.softmax(1), reduction="batchmean")
            losses.append(tuning.logits * tuning.temperature**2 * divergence)
        pairs = [(node.meta["site"], sent[node]) for node in self.sites if node in sent]
        for site, emission in pairs if tuning.maps else ():
            if emission.ndim > 2:
                difference = _map(emission, site.channel_axis) - _map(activations[site.name], site.channel_axis)
                losses.append(tuning.maps * difference.square().sum(1).mean())
        if self._follows():
            losses.append(tuning.distance * distance(self, sent, output, activations, wanted))
        if tuning.order == "each":
            losses += [relative_error(emission, activations[site.name]) for site, emission in pairs]
        return losses

    def finished(self, **record: Any) -> SNN:
        """Return the SNN: batch norms folded, all values fixed, and more in its record."""
        for path, module in list(self.graph.named_modules()):
            if isinstance(module, _Normalised):
                self.graph.set_submodule(path, folded(module.layer, *affine(module.norm)))
        return super().finished(**record)

    def __repr__(self) -> str:
        """Show what a checkpoint is compared by: all that is fixed, and no value that training changes."""
        models = (f"{node.meta['site'].name}: {neuron.model}" for node, neuron in self.neurons.items())
        return "\n".join([repr(self.tuning), *models])


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
