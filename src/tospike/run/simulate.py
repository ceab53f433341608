"""Run an SNN through time: chunks of steps, running sums, read-outs at checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import fx

from tospike.errors import DataError, OptionError, Problem, SimulationError
from tospike.graph.batches import Inputs, split_batch
from tospike.run.counts import Counts
from tospike.run.plan import Plan, Values, zeros_like

if TYPE_CHECKING:
    from tospike.run.network import SNN

Delay = int | Literal["auto"]
Engine = Literal["auto", "float"]
ENGINES: tuple[Engine, ...] = ("auto", "float")
MARGIN = 4  # steps that a read-out averages at least when its delay is chosen automatically


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
        delay: t₀, the number of first steps that the read-out leaves out; ``"auto"`` takes the estimate made in conversion,
            or T − 4 for a T below the estimate plus 4.
        steps_per_call: Steps folded into the batch axis of one call. The output does not depend on it; memory grows with it.
        engine: ``"float"`` computes in floating point; ``"auto"`` picks the fastest engine that gives the same result.
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
    marks = ordered(checkpoints or (time_steps,))
    delays = check_run(marks, time_steps, delay, snn.conversion.delay, steps_per_call, engine)
    inputs = _inputs(snn, x)
    samples = next(iter(inputs.values())).shape[0]
    chunk = steps_per_call or max(1, 256 // max(samples, 1))
    return _Run(snn.plan, inputs, counts).read_outs(marks, delays, chunk)


def ordered(marks: Iterable[int]) -> list[int]:
    """Return time steps once each, in their order; what cannot be ordered stands last, for `check_run` to name."""
    return sorted(set(marks), key=lambda t: t if isinstance(t, (int, float)) else float("inf"))


def check_run(
    marks: Sequence[int], time_steps: int, delay: Delay, estimate: int | None, steps_per_call: int | None, engine: str
) -> dict[int, int]:
    """Check the settings of a run and return the delay of each checkpoint.

    Raises:
        OptionError: All that is wrong with them.
    """
    counts = {"time_steps": time_steps, **{f"checkpoint {t!r}": t for t in marks if t != time_steps}}
    counts |= {} if steps_per_call is None else {"steps_per_call": steps_per_call}
    problems = [
        Problem(f"`{name}` must be a positive integer", got=repr(value), expected="an integer >= 1",
                remedy=f"Pass e.g. {name.partition(' ')[0]}={'(8,)' if ' ' in name else 8}.")
        for name, value in counts.items() if not isinstance(value, int) or isinstance(value, bool) or value < 1
    ]  # fmt: skip
    if not problems and marks[-1] > time_steps:
        problems.append(Problem("A checkpoint lies behind the end", got=str(marks[-1]), expected=f"at most time_steps={time_steps}",
                                remedy=f"Pass time_steps={marks[-1]}, or leave the checkpoint out."))  # fmt: skip
    if engine not in ENGINES:
        problems.append(Problem("Unknown engine", got=repr(engine), expected=f"one of {ENGINES}", remedy='Pass engine="auto".'))  # fmt: skip
    if delay == "auto" and estimate is None:
        problems.append(Problem('delay="auto" needs the estimate of a conversion with data', got="no estimate",
                                expected="an SNN converted with data", remedy="Convert with calibration=loader, or pass a number."))  # fmt: skip
    elif delay != "auto" and (not isinstance(delay, int) or delay < 0):
        problems.append(Problem("`delay` is no number of steps", got=repr(delay), expected='an integer >= 0 or "auto"', remedy="Pass delay=0."))  # fmt: skip
    elif delay != "auto" and not problems and delay >= marks[0]:
        problems.append(Problem("`delay` leaves no step to read out", got=f"delay={delay}, T={marks[0]}", expected=f"delay < {marks[0]}",
                                remedy='Pass a smaller delay, a larger T, or delay="auto".'))  # fmt: skip
    if problems:
        raise OptionError("The SNN cannot be run as asked", problems=problems)
    if delay == "auto":
        assert estimate is not None
        return {t: estimate if t >= estimate + MARGIN else max(t - MARGIN, 0) for t in marks}
    return dict.fromkeys(marks, delay)


def _inputs(snn: SNN, x: Any) -> Inputs:
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


class _Run:
    """One batch on its way through time."""

    def __init__(self, plan: Plan, inputs: Inputs, counts: Counts | None) -> None:
        self.plan, self.counts = plan, counts
        self.state: dict[str, Any] = {}
        try:
            self.static = plan.prepare(inputs)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            got = "; ".join(f"{name}: {tuple(v.shape)} {v.dtype}" for name, v in inputs.items())
            raise SimulationError(
                "The network fails on the batch", got=f"{got}; {str(error).splitlines()[0]}",
                expected="a batch shaped, typed and placed like the example of the conversion",
                remedy="Reshape, convert or move the batch; x.float() makes integers numbers.",
            ) from error  # fmt: skip
        if counts is not None:
            counts.begin(next(iter(inputs.values())).shape[0])

    def read_outs(self, marks: Sequence[int], delays: dict[int, int], chunk: int) -> Iterator[tuple[int, Any]]:
        sums: Values = {}
        at_delay: dict[int, Values] = {}
        done, end = 0, marks[-1]
        while done < end:
            steps = min(chunk, end - done)
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

    def _advance(self, steps: int) -> Values:
        watch = self.counts.watch if self.counts is not None else None
        carried = self.plan.step(self.static, self.state, steps, watch)
        if self.counts is not None:
            self.counts.advance(steps)
        return carried

    def _read(self, sums: Values, before: Values, window: int) -> Any:
        means: dict[fx.Node, Any] = {node: (total - before[node]) / window for node, total in sums.items()}
        return self.plan.finish(self.static, means)


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
