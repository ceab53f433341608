"""What a run did: spikes of every Site and operations of every weighted layer, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from tospike import processes
from tospike.graph.kinds import MOVES, Kind
from tospike.graph.layers import CONVOLUTIONS, TRANSPOSED, WEIGHTED_FUNCTIONS
from tospike.graph.walk import module_of
from tospike.neurons.levels import Levels
from tospike.neurons.modules import Neuron
from tospike.run.arithmetic import FLOAT, Arithmetic
from tospike.run.nodes import call, is_signal
from tospike.run.tally import tally
from tospike.run.work import LayerWork, Meter, Part

# These are multiply-adds and nothing else.
PURE = WEIGHTED_FUNCTIONS | {kind.__name__.lower() for kind in (*CONVOLUTIONS, *TRANSPOSED)}
SUMS = {"add", "iadd"}


@dataclass
class Counts:
    """Counts of one or several runs over the same network; sums over samples, one number per time step.

    A spike is one emission that is not what silence is worth, of whatever level. A synaptic operation is what one non-zero input of a layer causes
    at one of its outputs. Where images are padded, multiply-adds count the padding as data, and so do synaptic operations, at
    the mean rate of the other synapses: their quotient is the exact number of spikes for each synapse. A layer that reads
    anything else than spikes (the input, currents that no neuron has turned into spikes, what analog operations give)
    multiplies at every step. With differential and phase code only changes of the mean are sent: an emission counts where it
    differs from the mean of all before.

    Attributes:
        samples: Samples seen.
        neurons: Neurons of each Site, for one sample.
        spikes: Spikes of each Site at each step.
        parts: Part of each layer; a layer is what has weights, or multiplies two signals.
        dense: Multiply-adds of one dense pass of each layer.
        precisions: Number format in which each layer was computed.
        operations: Synaptic operations of each spiking layer at each step.
        multiply_adds: Multiply-adds of each stepped layer whose input is analog, at each step.
        uncounted: Operations that are not multiply-adds, such as sums, pooling, normalisation and softmax, with their places; also
            those that are more than multiply-adds, such as an attention in one piece, for what else they do.
    """

    samples: int = 0
    neurons: dict[str, int] = field(default_factory=dict)
    spikes: dict[str, list[float]] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    dense: dict[str, float] = field(default_factory=dict)
    precisions: dict[str, str] = field(default_factory=dict)
    operations: dict[str, list[float]] = field(default_factory=dict)
    multiply_adds: dict[str, list[float]] = field(default_factory=dict)
    uncounted: set[str] = field(default_factory=set)
    _t: int = 0
    _sums: dict[str, Tensor] = field(default_factory=dict)  # of all that a node gave, where only changes count
    _tallies: dict[str, Tensor] = field(default_factory=dict, repr=False)  # of what nodes gave in this chunk
    _silences: dict[fx.Node, Any] = field(
        default_factory=dict, repr=False
    )  # what nodes give while all neurons are silent
    _seen: set[str] = field(default_factory=set, repr=False)  # layers whose dense pass over this batch is counted
    _meter: Meter = field(default_factory=Meter, repr=False, compare=False)
    _arithmetic: Arithmetic = field(default=FLOAT, repr=False, compare=False)

    def begin(self, samples: int, arithmetic: Arithmetic = FLOAT) -> None:
        """Start counting another batch from its first step, computed in the numbers of an arithmetic."""
        self._arithmetic = arithmetic
        self.samples += samples
        self._t = 0
        self._sums, self._tallies, self._silences = {}, {}, {}
        self._seen = set()

    def fresh(self) -> Counts:
        """Return empty counts of the same network."""
        return Counts(_meter=self._meter)

    def end(self) -> None:
        """Forget what is only needed within a run."""
        self._sums, self._tallies, self._silences, self._arithmetic = {}, {}, {}, FLOAT

    def reduce(self) -> None:
        """Add what the other processes counted."""
        if processes.count() == 1:
            return
        self.samples = int(processes.total(torch.tensor(self.samples)))
        for name, values in self.dense.items():
            self.dense[name] = float(processes.total(torch.tensor(values, dtype=torch.float64)))
        for table in (self.spikes, self.operations, self.multiply_adds):
            for name, row in table.items():
                table[name] = processes.total(torch.tensor(row, dtype=torch.float64)).tolist()

    def constant(self, node: fx.Node, args: tuple[Any, ...], value: Any, steps: int) -> None:
        """Count one node before the first neuron; see `tospike.run.plan.Plan.prepare`."""
        self._layer(node, args, value, steps, "constant")

    def read_out(self, node: fx.Node, args: tuple[Any, ...], value: Any, steps: int) -> None:
        """Count one node behind the last neuron, once for a batch; see `tospike.run.plan.Plan.finish`."""
        self._layer(node, args, value, steps, "read-out")

    def watch(self, node: fx.Node, args: tuple[Any, ...], value: Any, steps: int) -> None:
        """Count what one node of the body did in a chunk; see `tospike.run.plan.Plan.step`."""
        if "site" in node.meta:
            site = node.meta["site"]
            self.neurons[site.name] = site.neurons
            self._add(self.spikes, site.name, self._tally(node, value, steps).sum(1))
            for source in node.all_input_nodes:  # neurons may have added two currents up themselves
                if is_signal(source) and source.meta["operation"].verdict.name in SUMS:
                    self.uncounted.add(source.meta["operation"].where)
            if site.operation.verdict.analog:
                self.uncounted.add(site.operation.where)
            return
        analog = node.meta.get("incremental") or any(source.meta.get("analog") for source in node.all_input_nodes)
        work = self._layer(node, args, value, steps, "analog" if analog else "spiking")
        name = node.meta["operation"].path if work else ""
        if work and analog:
            self._add(self.multiply_adds, name, torch.full((steps,), float(work)))
        elif work:
            self._add(self.operations, name, self._operations(node, args, work, steps))

    def _layer(self, node: fx.Node, args: tuple[Any, ...], value: Any, steps: int, part: Part) -> float:
        """Note one layer, and return the multiply-adds of a dense pass over the batch; 0 for a node that is none."""
        operation = node.meta.get("operation")
        if operation is None or operation.verdict.kind not in (Kind.LINEAR, Kind.NONLINEAR, Kind.POOL_MAX):
            return 0.0
        if operation.verdict.name in MOVES:
            return 0.0
        graph = node.graph.owning_module
        assert graph is not None
        work = self._meter.work(graph, node, [_numbers(arg) for arg in args], _numbers(value)) / steps
        if not work or operation.verdict.name not in PURE:
            self.uncounted.add(operation.where)
        if work and operation.path not in self._seen:
            self._seen.add(operation.path)
            self.parts[operation.path] = part
            self.dense[operation.path] = self.dense.get(operation.path, 0.0) + work
            self.precisions[operation.path] = next(
                filter(None, (self._precision(operation.path, arg) for arg in args)), ""
            )
        return work

    def _operations(self, node: fx.Node, args: tuple[Any, ...], work: float, steps: int) -> Tensor:
        """Return the synaptic operations of each step: ``n_MAC`` times the share of the synapses at which a spike arrives."""
        graph = node.graph.owning_module
        assert graph is not None
        module = module_of(graph, node)
        at = next(k for k, source in enumerate(node.all_input_nodes) if is_signal(source))
        spikes, each = self._tally(node.all_input_nodes[at], args[at], steps), _numbers(args[at])
        if module is not None and isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
            fan = self._meter.fan_out(node, module, each.shape[2:]).flatten()
            synapses = float(fan.sum()) * (each.numel() / steps / len(fan))
            return spikes.double() @ fan * (work / synapses if synapses else 0.0)
        return spikes.sum(1).double() * work / float(each.numel() / steps)

    def _precision(self, layer: str, value: Any) -> str:
        """Return the number format in which a layer read a value; empty if it is no tensor."""
        if isinstance(value, Levels):
            return str(self._arithmetic.number(layer, value)).removeprefix("torch.")
        return str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else ""

    def _tally(self, source: fx.Node, x: Tensor | Levels, steps: int) -> Tensor:
        """Return how many values a node sent at each step and position ``[steps, positions]``; for several readers they are counted once."""
        if source.name not in self._tallies:
            numbers, silence = (
                (x.values, x.zero + x.rest) if isinstance(x, Levels) else (self._sent(source, x, steps), 0)
            )
            self._tallies[source.name] = tally(numbers, steps, silence)
        return self._tallies[source.name]

    def advance(self, steps: int) -> None:
        """Move on by a chunk of time."""
        self._t += steps
        self._tallies = {}

    def add_run(self, time_steps: int, now: Counts, before: Counts) -> None:
        """Add a run to T steps so that sums over the first T steps come out as its own, beside those of a shorter run.

        Args:
            time_steps: T.
            now: Counts of this run alone.
            before: Counts of the run to the next smaller T, over the same batch; empty for the first.
        """
        self.neurons |= now.neurons
        self.uncounted |= now.uncounted
        for name, work in now.dense.items():
            if name not in self._seen:
                self.dense[name] = self.dense.get(name, 0.0) + work
        self._seen |= now.dense.keys()
        self.parts |= now.parts
        self.precisions |= now.precisions
        self._t = time_steps - 1
        for name in ("spikes", "operations", "multiply_adds"):
            for key, row in getattr(now, name).items():
                more = sum(row) - sum(getattr(before, name).get(key, ()))
                self._add(getattr(self, name), key, torch.tensor([more], dtype=torch.float64))

    def _sent(self, source: fx.Node, x: Tensor, steps: int) -> Tensor:
        """Return ``x`` with zeros where nothing is sent: all that does not differ from what silence is worth, or from the mean that the receiver holds."""
        rests = any(neuron.model.rest for neuron in _neurons(source))
        holds = source.meta.get("holds")
        if not rests and not holds:
            return x
        values = x.reshape(steps, -1, *x.shape[1:])
        held = self._silence(source) if rests else torch.zeros_like(values[0])
        if holds:
            before = self._sums.get(source.name, torch.zeros_like(values[0]))
            sums = torch.cat([before[None], before + values.cumsum(0)])
            self._sums[source.name] = sums[-1]
            done = torch.arange(self._t, self._t + steps, device=x.device).view(-1, *[1] * x.ndim)
            held = torch.where(done > 0, sums[:-1] / done.clamp_min(1), held)
        changes = values - held
        rounding = 32 * torch.finfo(x.dtype).eps * values.abs().amax()  # far below θ/2^(K−1), the smallest spike
        return changes.masked_fill(changes.abs() < rounding, 0.0).reshape(x.shape)

    def _silence(self, node: fx.Node) -> Tensor:
        """Return what a node gives for one sample while all neurons are silent."""
        if node not in self._silences:
            graph = node.graph.owning_module
            assert graph is not None
            neuron = module_of(graph, node)
            if isinstance(neuron, Neuron):
                self._silences[node] = neuron.silence.expand(1, *node.meta["site"].shape)
            else:
                self._silences[node] = call(
                    graph, node, {source: self._silence(source) for source in node.all_input_nodes}
                )
        silence: Tensor = self._silences[node]
        return silence

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

    def layers(self, marks: Iterable[int]) -> list[LayerWork]:
        """Return what each layer did for one sample, in the order of execution.

        Args:
            marks: The T by which operations are given.
        """
        steps, samples = list(marks), max(self.samples, 1)
        stepped = self.operations | self.multiply_adds
        return [
            LayerWork(
                name, self.parts[name], total / samples,
                {t: sum(stepped[name][:t]) / samples if name in stepped else total / samples for t in steps}, self.precisions[name],
            )
            for name, total in self.dense.items()
        ]  # fmt: skip

    def _per_sample(self, table: dict[str, list[float]], time_steps: int) -> float:
        return sum(sum(row[:time_steps]) for row in table.values()) / max(self.samples, 1)


def _neurons(node: fx.Node) -> Iterator[Neuron]:
    """Yield the neurons whose emissions a node is made of."""
    graph = node.graph.owning_module
    assert graph is not None
    neuron = module_of(graph, node)
    if isinstance(neuron, Neuron):
        yield neuron
    else:
        for source in node.all_input_nodes:
            yield from _neurons(source)


def _numbers(value: Any) -> Any:
    """Return the integers of levels, and anything else as it is."""
    return value.values if isinstance(value, Levels) else value
