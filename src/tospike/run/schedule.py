"""What a run is asked to do: its length, its read-outs, and the steps that each of them leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from tospike.errors import OptionError, Problem, is_count

if TYPE_CHECKING:
    from tospike.run.network import Conversion

Delay = int | Literal["auto"]
Engine = Literal["auto", "float", "half", "int8", "int16", "count"]
ENGINES: tuple[Engine, ...] = ("auto", "float", "half", "int8", "int16", "count")
MARGIN = 4  # steps that a read-out averages at least when its delay is chosen automatically


def ordered(marks: Iterable[int]) -> list[int]:
    """Return time steps once each, in their order; what cannot be ordered stands last, for `check_run` to name."""
    return sorted(set(marks), key=lambda t: t if isinstance(t, (int, float)) else float("inf"))


def check_run(
    made: Conversion, marks: Sequence[int], time_steps: int, delay: Delay, steps_per_call: int | None, engine: str
) -> dict[int, int]:
    """Check the settings of a run and return the first steps that each checkpoint leaves out.

    Args:
        made: How the SNN was made.
        marks: The checkpoints, in order.
        time_steps: T.
        delay: See `tospike.simulate`.
        steps_per_call: See `tospike.simulate`.
        engine: See `tospike.simulate`.

    Raises:
        OptionError: All that is wrong with them.
    """
    counts = {"time_steps": time_steps, **{f"checkpoint {t!r}": t for t in marks if t != time_steps}}
    counts |= {} if steps_per_call is None else {"steps_per_call": steps_per_call}
    problems = [
        Problem(f"`{name}` must be a positive integer", got=repr(value), expected="an integer >= 1",
                remedy=f"Pass e.g. {name.partition(' ')[0]}={'(8,)' if ' ' in name else 8}.")
        for name, value in counts.items() if not is_count(value)
    ]  # fmt: skip
    if not problems:
        problems = _misfits(made, marks, time_steps, delay)
    if engine not in ENGINES:
        problems.append(Problem("Unknown engine", got=repr(engine), expected=f"one of {ENGINES}", remedy='Pass engine="auto".'))  # fmt: skip
    elif engine == "count" and not made.neuron.synchronous:
        problems.append(Problem("Causal neurons have to be stepped", got='engine="count"', expected="an engine that steps",
                                remedy='Pass engine="auto", or convert with synchronous neurons.'))  # fmt: skip
    elif engine in ("half", "int8", "int16") and made.neuron.synchronous:
        problems.append(Problem("Synchronous neurons are not stepped, so there are no spikes to compute with", got=f"engine={engine!r}",
                                expected='"auto", "count" or "float"', remedy='Pass engine="auto".'))  # fmt: skip
    if delay == "auto" and made.delay is None:
        problems.append(Problem('delay="auto" needs the estimate of a conversion with data', got="no estimate",
                                expected="an SNN converted with data", remedy="Convert with calibration=loader, or pass a number."))  # fmt: skip
    elif delay != "auto" and (not isinstance(delay, int) or isinstance(delay, bool)):
        problems.append(Problem("`delay` is no number of steps", got=repr(delay), expected='an integer or "auto"', remedy="Pass delay=0."))  # fmt: skip
    if problems:
        raise OptionError("The SNN cannot be run as asked", problems=problems)
    return {t: max(_delay(made, t, delay), made.neuron.pre_steps) for t in marks}


def _misfits(made: Conversion, marks: Sequence[int], time_steps: int, delay: Delay) -> list[Problem]:
    """Return what numbers that are good each alone do wrong together."""
    problems = []
    pre = made.neuron.pre_steps
    if marks[-1] > time_steps:
        problems.append(Problem("A checkpoint lies behind the end", got=str(marks[-1]), expected=f"at most time_steps={time_steps}",
                                remedy=f"Pass time_steps={marks[-1]}, or leave the checkpoint out."))  # fmt: skip
    if marks[0] <= pre:
        problems.append(Problem(f"The method {made.method!r} spends the first {pre} steps on its pre-run and reads out later ones",
                                got=f"T={marks[0]}", expected=f"T > {pre}", remedy=f"Pass time_steps={pre + marks[0]}."))  # fmt: skip
    if isinstance(delay, int) and delay >= marks[0]:
        problems.append(Problem("`delay` leaves no step to read out", got=f"delay={delay}, T={marks[0]}", expected=f"delay < {marks[0]}",
                                remedy='Pass a smaller delay, a larger T, or delay="auto".'))  # fmt: skip
    elif made.neuron.synchronous and delay not in (0, "auto"):
        problems.append(Problem("Synchronous neurons send counts, which only all T steps together say", got=f"delay={delay!r}",
                                expected="delay=0", remedy="Leave delay= out."))  # fmt: skip
    return problems


def _delay(made: Conversion, t: int, delay: Delay) -> int:
    if made.neuron.synchronous:
        return 0
    if delay == "auto":
        assert made.delay is not None
        return made.delay if t >= made.delay + MARGIN else max(t - MARGIN, 0)
    return delay if delay >= 0 else max(t + delay, 0)
