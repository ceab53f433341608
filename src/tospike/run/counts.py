"""What a run did: spikes of every Site and operations of every weighted layer, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from tospike.graph.layers import CONVOLUTIONS, TRANSPOSED


def multiply_adds(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return the multiply-adds of a convolution or linear layer on a whole batch; 0 for any other module.

    Each output element of a convolution takes ``(C_in / groups)·∏kernel`` of them, each input element of a transposed
    one ``(C_out / groups)·∏kernel``, each output element of a linear layer ``F_in``. Padding counts as if it were data.

    Example:
        >>> layer = nn.Conv2d(3, 8, 3, padding=1)
        >>> x = torch.zeros(1, 3, 5, 5)
        >>> multiply_adds(layer, x, layer(x))
        5400
    """
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    if isinstance(module, CONVOLUTIONS):
        return y.numel() * module.in_channels // module.groups * math.prod(module.kernel_size)
    if isinstance(module, TRANSPOSED):
        return x.numel() * module.out_channels // module.groups * math.prod(module.kernel_size)
    return 0


@dataclass
class Counts:
    """Counts of one or several runs over the same network; sums over samples, one number per time step.

    A synaptic operation is one addition caused by one non-zero input of a weighted layer. A layer's additions are counted as
    its multiply-adds times the share of its inputs that are not zero, which is exact but at the border of a padded image.

    Attributes:
        samples: Samples seen.
        neurons: Neurons of each Site, for one sample.
        spikes: Spikes of each Site at each step.
        operations: Synaptic operations of each weighted layer at each step.
        multiply_adds: Multiply-adds of each weighted layer whose input is analog, at each step.
        uncounted: Stepped functions with weights that are not modules, whose operations are not counted.
    """

    samples: int = 0
    neurons: dict[str, int] = field(default_factory=dict)
    spikes: dict[str, list[float]] = field(default_factory=dict)
    operations: dict[str, list[float]] = field(default_factory=dict)
    multiply_adds: dict[str, list[float]] = field(default_factory=dict)
    uncounted: set[str] = field(default_factory=set)
    _t: int = 0

    def begin(self, samples: int) -> None:
        """Start counting another batch from its first step."""
        self.samples += samples
        self._t = 0

    def watch(self, node: fx.Node, args: tuple[Any, ...], value: Any, steps: int) -> None:
        """Count what one node of the body did in a chunk."""
        if "site" in node.meta:
            site = node.meta["site"]
            self.neurons[site.name] = site.neurons
            self._add(self.spikes, site.name, _active(value, steps))
            return
        owner = node.graph.owning_module
        module = owner.get_submodule(str(node.target)) if owner is not None and node.op == "call_module" else None
        if module is not None and isinstance(value, Tensor) and args and isinstance(args[0], Tensor):
            work = multiply_adds(module, args[0], value) / steps
            if work:
                if node.all_input_nodes[0].meta.get("analog"):
                    self._add(self.multiply_adds, node.meta["operation"].path, torch.full((steps,), float(work)))
                    return
                share = _active(args[0], steps) / (args[0].numel() / steps)
                self._add(self.operations, node.meta["operation"].path, share * work)
        elif node.op == "call_function" and getattr(node.target, "__name__", "").startswith(("conv", "linear")):
            self.uncounted.add(node.meta["operation"].where)

    def advance(self, steps: int) -> None:
        """Move on by a chunk of time."""
        self._t += steps

    def _add(self, table: dict[str, list[float]], key: str, values: Tensor) -> None:
        row = table.setdefault(key, [])
        row.extend([0.0] * (self._t + len(values) - len(row)))
        for t, value in enumerate(values.tolist(), self._t):
            row[t] += value

    def rates(self) -> dict[str, float]:
        """Return the mean spikes per neuron and step of each Site."""
        return {name: sum(row) / (len(row) * self.neurons[name] * self.samples) for name, row in self.spikes.items()}

    def synaptic_operations(self, time_steps: int) -> float:
        """Return the synaptic operations of one sample in its first steps, over all counted layers."""
        return self._per_sample(self.operations, time_steps)

    def analog_operations(self, time_steps: int) -> float:
        """Return the multiply-adds of one sample in its first steps, over all layers with analog input."""
        return self._per_sample(self.multiply_adds, time_steps)

    def _per_sample(self, table: dict[str, list[float]], time_steps: int) -> float:
        return sum(sum(row[:time_steps]) for row in table.values()) / max(self.samples, 1)


def _active(x: Tensor, steps: int) -> Tensor:
    return torch.count_nonzero(x.reshape(steps, -1), dim=1).double().cpu()
