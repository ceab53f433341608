"""What a run did: spikes of every Site and operations of every weighted layer, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from tospike import processes
from tospike.graph.layers import CONVOLUTIONS, TRANSPOSED, is_weighted


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

    A spike is one emission that is not zero, of whatever level. A synaptic operation is what one non-zero input of a weighted
    layer causes at one of its outputs. A layer's operations are counted as its multiply-adds times the share of its inputs that
    are not zero, which is exact but at the border of a padded image. With differential and phase code only changes of the mean
    are sent: an emission counts where it differs from the mean of all before.

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
    _sums: dict[str, Tensor] = field(
        default_factory=dict
    )  # of all that a node sent or received, where only changes count

    def begin(self, samples: int) -> None:
        """Start counting another batch from its first step."""
        self.samples += samples
        self._t = 0
        self._sums = {}

    def end(self) -> None:
        """Forget what is only needed within a run."""
        self._sums = {}

    def reduce(self) -> None:
        """Add what the other processes counted."""
        if processes.count() == 1:
            return
        self.samples = int(processes.total(torch.tensor(self.samples)))
        for table in (self.spikes, self.operations, self.multiply_adds):
            for name, values in table.items():
                table[name] = processes.total(torch.tensor(values, dtype=torch.float64)).tolist()

    def watch(self, node: fx.Node, args: tuple[Any, ...], value: Any, steps: int) -> None:
        """Count what one node of the body did in a chunk."""
        if "site" in node.meta:
            site = node.meta["site"]
            self.neurons[site.name] = site.neurons
            self._add(self.spikes, site.name, self._active(node, node, value, steps))
            return
        owner = node.graph.owning_module
        module = owner.get_submodule(str(node.target)) if owner is not None and node.op == "call_module" else None
        if module is not None and isinstance(value, Tensor) and args and isinstance(args[0], Tensor):
            work = multiply_adds(module, args[0], value) / steps
            if work:
                if node.all_input_nodes[0].meta.get("analog"):
                    self._add(self.multiply_adds, node.meta["operation"].path, torch.full((steps,), float(work)))
                    return
                share = self._active(node, node.all_input_nodes[0], args[0], steps) / (args[0].numel() / steps)
                self._add(self.operations, node.meta["operation"].path, share * work)
                return
        if owner is not None and is_weighted(owner, node):
            self.uncounted.add(node.meta["operation"].where)

    def advance(self, steps: int) -> None:
        """Move on by a chunk of time."""
        self._t += steps

    def add_run(self, time_steps: int, now: Counts, before: Counts) -> None:
        """Add a run to T steps so that sums over the first T steps come out as its own, beside those of a shorter run.

        Args:
            time_steps: T.
            now: Counts of this run alone.
            before: Counts of the run to the next smaller T, over the same batch; empty for the first.
        """
        self.neurons |= now.neurons
        self.uncounted |= now.uncounted
        self._t = time_steps - 1
        for name in ("spikes", "operations", "multiply_adds"):
            for key, row in getattr(now, name).items():
                more = sum(row) - sum(getattr(before, name).get(key, ()))
                self._add(getattr(self, name), key, torch.tensor([more], dtype=torch.float64))

    def _active(self, node: fx.Node, source: fx.Node, x: Tensor, steps: int) -> Tensor:
        """Return the non-zero elements of each step; where the receiver holds the mean, those that differ from it."""
        values = x.reshape(steps, -1)
        if source.meta.get("holds"):
            before = self._sums.get(node.name, torch.zeros_like(values[0]))
            sums = torch.cat([before[None], before + values.cumsum(0)])
            self._sums[node.name] = sums[-1]
            done = torch.arange(self._t, self._t + steps, device=x.device).clamp_min(1)[:, None]
            changes = values - sums[:-1] / done
            rounding = 32 * torch.finfo(x.dtype).eps * values.abs().amax()  # far below θ/2^(K−1), the smallest spike
            values = changes.masked_fill(changes.abs() < rounding, 0.0)
        return torch.count_nonzero(values, dim=1).double().cpu()

    def _add(self, table: dict[str, list[float]], key: str, values: Tensor) -> None:
        row = table.setdefault(key, [])
        row.extend([0.0] * (self._t + len(values) - len(row)))
        for t, value in enumerate(values.tolist(), self._t):
            row[t] += value

    def rates(self) -> dict[str, float]:
        """Return the mean spikes per neuron and step of each Site."""
        return {name: sum(row) / (len(row) * self.neurons[name] * self.samples) for name, row in self.spikes.items()}

    def spikes_per_neuron(self, time_steps: int) -> float:
        """Return the spikes of one neuron in the first steps of one sample, averaged over all neurons."""
        sent = sum(sum(row[:time_steps]) for row in self.spikes.values())
        return sent / max(self.samples * sum(self.neurons.values()), 1)

    def synaptic_operations(self, time_steps: int) -> float:
        """Return the synaptic operations of one sample in its first steps, over all counted layers."""
        return self._per_sample(self.operations, time_steps)

    def analog_operations(self, time_steps: int) -> float:
        """Return the multiply-adds of one sample in its first steps, over all layers with analog input."""
        return self._per_sample(self.multiply_adds, time_steps)

    def _per_sample(self, table: dict[str, list[float]], time_steps: int) -> float:
        return sum(sum(row[:time_steps]) for row in table.values()) / max(self.samples, 1)
