"""Run an SNN through time: chunks of steps, running sums, read-outs at checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from tospike.errors import DataError, Problem, SimulationError, require_type
from tospike.graph.batches import Inputs, divide, join, split_batch
from tospike.run.arithmetic import FLOAT, Arithmetic, arithmetic_of
from tospike.run.counts import Counts
from tospike.run.nodes import Values
from tospike.run.plan import Watch, zeros_like
from tospike.run.schedule import Delay, Engine, check_run, ordered

if TYPE_CHECKING:
    from tospike.run.network import SNN

VALUES_AT_ONCE = 6_500_000  # of a typical layer in one call: below 32 MB, from where C's allocator maps new pages
TIMES_ON_A_GPU = 10  # whose many units small calls leave idle, and which has no such limit


def simulate(
    snn: SNN,
    x: Any,
    *,
    time_steps: int,
    checkpoints: Sequence[int] | None = None,
    delay: Delay = 0,
    steps_per_call: int | None = None,
    engine: Engine = "auto",
    counts: Counts | None = None,
) -> Iterator[tuple[int, Any]]:
    """Run an SNN on one batch and yield its output at each checkpoint.

    ``o(T) = tail( 1/(T − t₀)·Σ_{t₀ < t ≤ T} body(t) )``, with all T from one simulation; only running sums are kept.

    Args:
        snn: A converted network.
        x: One batch of inputs ``[N, ...]``: a tensor, a tuple, or a dict by name, held constant over time.
        time_steps: T, the length of the simulation.
        checkpoints: Steps after which to read out; T alone when None.
        delay: t₀, the number of first steps that the read-out leaves out; −k reads out the last k steps; ``"auto"`` takes the
            estimate made in conversion, or T − 4 for a T below the estimate plus 4. A pre-run is always left out.
        steps_per_call: Steps folded into the batch axis of one call, for all samples of the batch; memory grows with it. Chosen by the size of
            the maps when None, and large batches then run in parts. The output does not depend on it.
        engine: ``"float"`` steps through time in floating point. ``"int8"`` and ``"int16"`` compute what spikes do to layers with weights
            of 8 and of 15 bits, on integer units where there are any; ``"half"`` does so in float16, or bfloat16 on CPUs with units for it
            alone; see `tospike.explain`. ``"count"`` computes what synchronous
            neurons count, without a loop over time. ``"auto"`` picks the fastest engine that gives the same result as ``"float"``.
        counts: Filled with spikes and operations when given.

    Yields:
        ``(t, y)`` with y the output of the network for a window that ends after step t.

    Raises:
        OptionError: A setting is out of range, or ``delay="auto"`` without an estimate.
        SimulationError: The batch cannot be fed to the network.

    Source: Bu, Li and Yu, CVPR 2025, section 4.4 (delayed evaluation). Differs from the paper in: nothing.

    Example:
        >>> import torch, tospike as ts
        >>> ann = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[torch.randn(64, 2)])
        >>> [t for t, y in ts.simulate(snn, torch.randn(3, 2), time_steps=8, checkpoints=(2, 8))]
        [2, 8]
    """
    require_type(
        "checkpoints", checkpoints, (Iterable, NoneType), "steps after which to read out", "Pass checkpoints=(4, 8)."
    )
    marks = ordered(checkpoints or (time_steps,))
    delays = check_run(snn.conversion, marks, time_steps, delay, steps_per_call, engine)
    inputs = checked_inputs(snn, x)
    if snn.conversion.neuron.synchronous:
        return Run(snn, inputs, counts).settled(marks, stepped=engine == "float")
    samples = next(iter(inputs.values())).shape[0]
    size, chunk = sizes_of_calls(snn, samples, marks[-1])
    if steps_per_call is not None:
        size, chunk = samples, steps_per_call
    arithmetic = arithmetic_of(snn, engine)
    if size == samples:
        return Run(snn, inputs, counts, arithmetic=arithmetic).read_outs(marks, delays, chunk)
    parts = (Run(snn, part, counts, arithmetic=arithmetic) for part in divide(inputs, size))
    return _in_parts(parts, marks, delays, chunk)


def _in_parts(
    runs: Iterable[Run], marks: Sequence[int], delays: dict[int, int], chunk: int
) -> Iterator[tuple[int, Any]]:
    outputs = [dict(run.read_outs(marks, delays, chunk)) for run in runs]
    for t in marks:
        yield t, join([output[t] for output in outputs])


def sizes_of_calls(snn: SNN, samples: int, time_steps: int) -> tuple[int, int]:
    """Return how many samples and steps one call takes by default: all steps of few samples rather than few steps of all.

    Neurons then keep their state close by for many steps, and small batches keep the machine busy; large maps still fit into memory.
    """
    neurons = [site.neurons for site in snn.conversion.sites] or [1]
    typical = sum(n * n for n in neurons) // sum(neurons)  # the layer that a neuron is in, on average over neurons
    most = VALUES_AT_ONCE * (TIMES_ON_A_GPU if next(chain(snn.parameters(), snn.buffers())).is_cuda else 1)
    room = max(1, min(most // typical, 4 * most // max(neurons)))
    size = max(1, min(samples, room // time_steps))
    return size, max(1, min(time_steps, room // size))


def checked_inputs(snn: SNN, x: Any) -> Inputs:
    """Return the inputs of a batch by name.

    Raises:
        SimulationError: The batch does not fit the network, is empty, or not finite.
    """
    names = snn.plan.inputs
    batch = x if isinstance(x, dict) else (list(x) if isinstance(x, (tuple, list)) else [x],)
    inputs, _ = split_batch(batch, names)
    problems = []
    for name, value in inputs.items():
        shape = snn.conversion.inputs[name]
        if len(value.shape) != len(shape) + 1:
            problems.append(Problem(f"Input `{name}` has the wrong rank", got=str(tuple(value.shape)), expected=f"[N, {', '.join(map(str, shape))}]",
                                    remedy="Pass a batch shaped like the example of the conversion."))  # fmt: skip
        elif value.shape[0] == 0:
            problems.append(
                Problem(
                    f"Input `{name}` is an empty batch",
                    got=str(tuple(value.shape)),
                    expected="N >= 1",
                    remedy="Skip empty batches.",
                )
            )
        elif value.is_floating_point() and not value.isfinite().all():
            problems.append(Problem(f"Input `{name}` holds NaN or Inf", got=f"{int((~value.isfinite()).sum())} of {value.numel()} values",
                                    expected="finite numbers", remedy="Repair or drop these samples."))  # fmt: skip
    if problems:
        raise SimulationError("The batch cannot be fed to the SNN", problems=problems)
    return inputs


class Run:
    """One batch on its way through time.

    Args:
        snn: The network.
        inputs: The batch, by name.
        counts: Filled with spikes and operations when given.
        state: What neurons start from, by the path of their module; filled as the run goes on; a fresh one when None.
        watch: Shown every node of the body at every chunk, see `tospike.run.plan.Plan.step`; of synchronous neurons the mean over a run,
            as if it were one step.
        arithmetic: In what numbers nodes are computed.
    """

    def __init__(
        self,
        snn: SNN,
        inputs: Inputs,
        counts: Counts | None = None,
        state: dict[str, Any] | None = None,
        watch: Watch | None = None,
        arithmetic: Arithmetic = FLOAT,
    ) -> None:
        self.watches, self.whole = [] if watch is None else [watch], watch is not None
        self.arithmetic = arithmetic
        self.plan, self.counts, self.neuron = snn.plan, counts, snn.conversion.neuron
        self.state = {} if state is None else state
        self.tail_watch = None if counts is None else counts.read_out
        if counts is not None:
            counts.begin(next(iter(inputs.values())).shape[0], arithmetic)
            if not self.neuron.synchronous:
                self.watches.append(counts.watch)
        try:
            self.static = self.plan.prepare(inputs, None if counts is None else counts.constant)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            got = "; ".join(f"{name}: {tuple(v.shape)} {v.dtype}" for name, v in inputs.items())
            raise SimulationError(
                "The network fails on the batch", got=f"{got}; {str(error).splitlines()[0]}",
                expected="a batch shaped, typed and placed like the example of the conversion",
                remedy="Reshape, convert or move the batch; x.float() makes integers numbers.",
            ) from error  # fmt: skip

    def read_outs(self, marks: Sequence[int], delays: dict[int, int], chunk: int) -> Iterator[tuple[int, Any]]:
        """Step through time and yield the output at each checkpoint; see `simulate`."""
        sums: Values = {}
        at_delay: dict[int, Values] = {}
        done, end = 0, marks[-1]
        while done < end:
            # Neurons that wait for their pre-run see all of it at once.
            steps = min(chunk if done else max(chunk, self.neuron.waiting), end - done)
            carried = self._advance(steps)
            sums = sums or zeros_like(carried)
            for offset in range(steps):
                t = done + offset
                if t in delays.values():
                    at_delay[t] = {node: total.clone() for node, total in sums.items()}
                for node, value in carried.items():
                    sums[node] += value[offset]
                if t + 1 in delays:
                    yield t + 1, self._read(sums, at_delay[delays[t + 1]], t + 1 - delays[t + 1])
            done += steps
        if self.counts is not None:
            self.counts.end()

    def settled(self, marks: Sequence[int], *, stepped: bool = False) -> Iterator[tuple[int, Any]]:
        """Yield the output of synchronous neurons for each T, which is a run of its own; step through it when asked to."""
        before = Counts()
        for t in marks:
            now = Counts() if self.counts is None else self.counts.fresh()
            if stepped:
                watch = now.watch if self.counts is not None else None
                means = {node: value.mean(0) for node, value in self.plan.step(self.static, {}, t, watch).items()}
            else:
                means, counted = self.plan.settle(self.static, t)
                for node in counted if self.watches else ():
                    self._show(node, tuple(means[source] for source in node.all_input_nodes), means[node], 1)
                for step in range(1, t + 1 if self.counts is not None else 1):
                    self.plan.retrace(means, counted, t, step, now.watch)
                    now.advance(1)
            if self.counts is not None:
                self.counts.add_run(t, now, before)
                before = now
            yield t, self.plan.finish(self.static, {node: means[node] for node in self.plan.carried}, self.tail_watch)

    def _show(self, node: fx.Node, args: tuple[Any, ...], value: Any, steps: int) -> None:
        for watch in self.watches:
            watch(node, args, value, steps)

    def _advance(self, steps: int) -> Values:
        watch = self._show if self.watches else None
        try:
            carried = self.plan.step(self.static, self.state, steps, watch, self.arithmetic, whole=self.whole)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise SimulationError(
                "The machine has no more memory", got=f"{steps} steps in one call; {str(error).splitlines()[0]}", expected="fewer values at once",
                remedy="Pass a smaller steps_per_call=, down to 1, or smaller batches.",
            ) from error  # fmt: skip
        if self.counts is not None:
            self.counts.advance(steps)
        return carried

    def _read(self, sums: Values, before: Values, window: int) -> Any:
        means: dict[fx.Node, Any] = {node: (total - before[node]) / window for node, total in sums.items()}
        return self.plan.finish(self.static, means, self.tail_watch)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory could not be had; on the CPU torch has no class of its own for it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def last(read_outs: Iterator[tuple[int, Any]]) -> Any:
    """Return the output of the last checkpoint.

    Raises:
        DataError: There was none.
    """
    output: Any = None
    for _, output in read_outs:  # noqa: B007
        pass
    if output is None:
        raise DataError(
            "A simulation gave no read-out", got="no checkpoint", expected="at least one", remedy="Pass time_steps=8."
        )
    return output
