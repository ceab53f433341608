"""Every exception of the library, and the one form in which all of them speak.

A message says what failed, where, what was got, what was expected and what to do about it; a stage that can find several
problems collects them and raises once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import NamedTuple


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in the five parts of every message.

    Attributes:
        what: What is wrong, a sentence without its full stop.
        where: Site, operation and the user's ``file:line``; empty when the place is obvious.
        got: The offending value.
        expected: What would have been accepted.
        remedy: What to do, an imperative sentence.
    """

    what: str
    where: str = ""
    got: str = ""
    expected: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        """Render the parts that are present, one labelled line each."""
        parts = (("where", self.where), ("got", self.got), ("expected", self.expected), ("do this", self.remedy))
        return "\n".join([self.what, *(f"  {label}: {text}" for label, text in parts if text)])


def merged(problems: Iterable[Problem]) -> list[Problem]:
    """Return problems that differ in nothing but their places as one, which names all of these.

    Example:
        >>> [problem.where for problem in merged(Problem("It is smooth", where=name) for name in "abc")]
        ['a; b; c']
    """
    places: dict[Problem, list[str]] = {}
    for problem in problems:
        places.setdefault(replace(problem, where=""), []).append(problem.where)
    return [replace(problem, where="; ".join(filter(None, where))) for problem, where in places.items()]


class TospikeError(Exception):
    """Base of every error that the library raises on purpose.

    Args:
        what: What failed.
        problems: The single problems, when a stage found several of them; the message has them `merged`.
        where, got, expected, remedy: See `Problem`.

    Example:
        >>> print(OptionError("`time_steps` must be positive", got="0", expected="an integer >= 1", remedy="Pass time_steps=8."))
        `time_steps` must be positive
          got: 0
          expected: an integer >= 1
          do this: Pass time_steps=8.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        got: str = "",
        expected: str = "",
        remedy: str = "",
        problems: Sequence[Problem] = (),
    ) -> None:
        self.problem = Problem(what, where, got, expected, remedy)
        self.problems = tuple(problems)
        numbered = (
            f"{number}. {problem}".replace("\n", "\n   ") for number, problem in enumerate(merged(self.problems), 1)
        )
        super().__init__("\n".join([str(self.problem), *(f"  {text}".replace("\n", "\n  ") for text in numbered)]))


class CaptureError(TospikeError, ValueError):
    """The network could not be turned into a graph."""


class UnsupportedOperationError(TospikeError, ValueError):
    """The graph holds operations that cannot be converted; all of them are listed."""


class CalibrationError(TospikeError, ValueError):
    """The calibration data or what was measured on it cannot give thresholds."""


class ConversionError(TospikeError, RuntimeError):
    """A step of the conversion itself went wrong."""


class SimulationError(TospikeError, ValueError):
    """An SNN cannot be run as asked."""


class DataError(TospikeError, ValueError):
    """A data set is missing, damaged, or of the wrong shape."""


class TrainingError(TospikeError, RuntimeError):
    """A training run cannot go on."""


class ExportError(TospikeError, ValueError):
    """A target cannot say what the network does; all that it cannot say is listed."""


class OptionError(TospikeError, ValueError):
    """A setting is unknown or has a value outside its range."""


class MissingExtraError(TospikeError, ImportError):
    """An optional package is needed and not installed."""


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtraError:
    """Build the error that names the install line of an optional package.

    Example:
        >>> print(missing_extra("torchvision", "vision", "reading image folders"))
        torchvision is needed for reading image folders
          got: torchvision cannot be imported
          do this: pip install "tospike[vision]"
    """
    return MissingExtraError(
        f"{package} is needed for {purpose}",
        got=f"{package} cannot be imported",
        remedy=f'pip install "tospike[{extra}]"',
    )


def refuse_unknown(
    what: str, given: str | Iterable[str], known: Iterable[str], remedy: str = "Choose one of these."
) -> None:
    """Raise unless every name that was given is known; the message suggests the nearest ones.

    Raises:
        OptionError: Some name is unknown.

    Example:
        >>> refuse_unknown("method", "ltp", ["ltb", "qcfs"])
        Traceback (most recent call last):
            ...
        tospike.errors.OptionError: Unknown method
          got: 'ltp'
          expected: one of ltb, qcfs
          do this: Did you mean 'ltb'?
    """
    names, choices = [given] if isinstance(given, str) else list(given), list(known)
    unknown = [name for name in names if name not in choices]
    near = [repr(close) for name in unknown for close in get_close_matches(name, choices, n=1, cutoff=0.4)]
    if unknown:
        raise OptionError(
            f"Unknown {what}", got=", ".join(map(repr, unknown)), expected=f"one of {', '.join(choices)}",
            remedy=f"Did you mean {' and '.join(near)}?" if near else remedy,
        )  # fmt: skip


class Limit(NamedTuple):
    """One setting and the rule that it has to keep.

    Attributes:
        setting: Its name.
        value: What was given.
        holds: Whether the rule is kept.
        expected: The rule, in words.
        good: A value that keeps it, for the remedy.
    """

    setting: str
    value: object
    holds: bool
    expected: str
    good: object


def require(where: str, *limits: Limit | tuple[str, object, bool, str, object]) -> None:
    """Raise unless every setting keeps its rule; all broken rules stand in one error.

    Args:
        where: What has the settings, e.g. the name of a method.
        limits: The settings with their rules.

    Raises:
        OptionError: Some rule is broken.

    Example:
        >>> require("ltb", ("batches", 0, False, "an integer >= 1", 1000))
        Traceback (most recent call last):
            ...
        tospike.errors.OptionError: `batches` of ltb is out of range
          got: 0
          expected: an integer >= 1
          do this: Pass batches=1000.
    """
    broken = [limit for limit in map(Limit._make, limits) if not limit.holds]
    problems = [
        Problem(f"`{limit.setting}` of {where} is out of range", got=repr(limit.value), expected=limit.expected,
                remedy=f"Pass {limit.setting}={limit.good!r}.")
        for limit in broken
    ]  # fmt: skip
    if len(problems) == 1:
        (only,) = problems
        raise OptionError(only.what, got=only.got, expected=only.expected, remedy=only.remedy)
    if problems:
        raise OptionError(f"Settings of {where} are out of range", problems=problems)


def is_count(value: object) -> bool:
    """Tell whether a value is an integer >= 1.

    Example:
        >>> is_count(3), is_count(2.5), is_count("3"), is_count(0)
        (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_within(value: object, low: float, high: float) -> bool:
    """Tell whether a value is a number in (low, high].

    Example:
        >>> is_within(0.5, 0, 1), is_within(0, 0, 1), is_within("0.5", 0, 1)
        (True, False, False)
    """
    return isinstance(value, (int, float)) and low < value <= high


def refuse_together(what: str, got: str, exclusions: Iterable[tuple[bool, str, str, str]]) -> None:
    """Refuse settings that exclude each other, all pairs at once.

    Args:
        what: What they are settings of.
        got: All of them.
        exclusions: For each pair whether it is wrong, the one, the other, and what would be right.

    Raises:
        OptionError: A pair is wrong.

    Example:
        >>> refuse_together("Parts of the neuron", "K=3", [(True, "random=True", "capacity=3", "capacity=1")])
        Traceback (most recent call last):
            ...
        tospike.errors.OptionError: Parts of the neuron exclude each other
          1. random=True does not go with capacity=3
               got: K=3
               expected: capacity=1
               do this: Pass capacity=1.
    """
    problems = [
        Problem(f"{one} does not go with {other}", got=got, expected=good, remedy=f"Pass {good}.")
        for wrong, one, other, good in exclusions if wrong
    ]  # fmt: skip
    if problems:
        raise OptionError(f"{what} exclude each other", problems=problems)


def require_type(name: str, value: object, kinds: type | tuple[type, ...], expected: str, remedy: str) -> None:
    """Raise unless an argument is of a kind.

    Raises:
        OptionError: It is not.

    Example:
        >>> require_type("task", "regression", int, "a Task", "Pass task=ts.Regression().")
        Traceback (most recent call last):
            ...
        tospike.errors.OptionError: `task` is of the wrong kind
          got: 'regression'
          expected: a Task
          do this: Pass task=ts.Regression().
    """
    if not isinstance(value, kinds):
        raise OptionError(f"`{name}` is of the wrong kind", got=repr(value)[:80], expected=expected, remedy=remedy)
