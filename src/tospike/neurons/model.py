"""Which neuron stands at a Site: what it may emit in a step, what it remembers, and when it starts to send."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from tospike.errors import is_count, is_within, refuse_together, require

LevelSet = Literal["uniform", "nearest", "successive"]
LEVEL_SETS: tuple[LevelSet, ...] = ("uniform", "nearest", "successive")
Code = Literal["rate", "differential", "phase", "bits", "first"]
CODES: tuple[Code, ...] = ("rate", "differential", "phase", "bits", "first")
FINEST = 2.0**-30  # smallest worth of a spike in phase code
Correction = Literal["silence", "shift"]
CORRECTIONS: tuple[Correction, ...] = ("silence", "shift")


@dataclass(frozen=True)
class PreRun:
    """First steps that a neuron spends on learning how it errs, before the steps that are read out.

    Attributes:
        steps: How many; they are part of T.
        correction: ``"silence"`` a neuron whose potential ends below 0; ``"shift"`` the initial potential until the neuron
            sends as many spikes as its charge is worth. Shifting is done layer by layer: a layer waits for the one before.

    Example:
        >>> PreRun(4, "silence").steps
        4
    """

    steps: int = 4
    correction: Correction = "silence"

    def __post_init__(self) -> None:
        """Check the settings."""
        require(
            "the pre-run",
            ("steps", self.steps, is_count(self.steps), "an integer >= 1", 4),
            ("correction", self.correction, self.correction in CORRECTIONS, f"one of {CORRECTIONS}", "silence"),
        )


@dataclass(frozen=True)
class NeuronModel:
    """The choices that make a neuron; the default is integrate-and-fire with binary spikes.

    Attributes:
        capacity: K. Uniform levels are θ, 2θ … Kθ. Nearest levels are θ, θ/2 … θ/2^(K−1), of which one is emitted in a step;
            successive levels are the same, of which each may be emitted once in a step.
        signed: The neuron remembers what it has sent and takes back, with negative spikes, what was too much.
        levels: ``"uniform"``, or ``"nearest"`` or ``"successive"`` for powers of two.
        rest: What silence is worth, in θ: at every step with rate code, at the first one with codes whose receiver holds the mean. Negative spikes
            then say what is below it, so that the same spikes tell more levels of an activation apart, and silence is not free of meaning.
        total: Largest number of spikes over a whole run, in units of θ; None for no limit.
        synchronous: A layer waits for all T steps of the layer before, then sends the count that all its input is worth.
        code: What a spike at step t is worth: θ (``"rate"``); a change of the mean by θ/t (``"differential"``) or by θ·ratio^(t−1)
            (``"phase"``), which the receiver holds; for synchronous neurons also the bits of the count, the largest first
            (``"bits"``), or all of the count in one spike that comes the earlier the larger it is (``"first"``).
        ratio: Of phase code, in [1/2, 1]: at 1/2 the steps are the bits of a number; above it a later step can still mend what the
            steps before it did too much or too little.
        random: A synchronous neuron fires at random, with what is left of its charge over the steps that are left.
        pre: First steps that correct the neuron; None for none.

    Raises:
        OptionError: A setting is out of range, or two of them exclude each other.

    Example:
        >>> NeuronModel(capacity=7, signed=True).spikes
        'graded'
    """

    capacity: int = 1
    signed: bool = False
    levels: LevelSet = "uniform"
    rest: int = 0
    total: int | None = None
    synchronous: bool = False
    code: Code = "rate"
    random: bool = False
    ratio: float = 0.7
    pre: PreRun | None = None

    def __post_init__(self) -> None:
        """Check the settings, each alone and then against each other."""
        require(
            "the neuron",
            ("capacity", self.capacity, is_count(self.capacity), "an integer >= 1", 1),
            ("levels", self.levels, self.levels in LEVEL_SETS, f"one of {LEVEL_SETS}", "uniform"),
            ("code", self.code, self.code in CODES, f"one of {CODES}", "rate"),
            ("rest", self.rest, self.rest == 0 or is_count(self.rest), "an integer from 0 to the capacity", 0),
            ("total", self.total, self.total is None or is_count(self.total), "an integer >= 1, or None", None),
            ("ratio", self.ratio, self.ratio == 0.5 or is_within(self.ratio, 0.5, 1), "a number in [0.5, 1]", 0.7),
            ("pre", self.pre, self.pre is None or isinstance(self.pre, PreRun), "a PreRun, or None", None),
        )
        tracks = self.signed and not self.synchronous
        binary = self.capacity == 1 and not self.signed
        exclusions = (
            (self.total is not None and not tracks, "total=", "neurons without memory of what they sent", "signed=True"),
            (self.rest > self.capacity, f"rest={self.rest}", f"capacity={self.capacity}: no step sends more", f"rest={self.capacity}"),
            (self.rest > 0 and not tracks, f"rest={self.rest}", "neurons that cannot say that they are below it", "signed=True, synchronous=False"),
            (self.rest > 0 and self.levels != "uniform", f"rest={self.rest}", f"levels={self.levels!r}", "levels='uniform'"),
            (self.holds and not tracks, f"code={self.code!r}", "neurons that cannot send negative changes",
             "signed=True, synchronous=False"),
            (self.code in ("bits", "first") and not self.synchronous, f"code={self.code!r}", "causal neurons, which do not know their count yet",
             "synchronous=True"),
            (self.code in ("bits", "first") and self.capacity > 1, f"code={self.code!r}", f"capacity={self.capacity}: a step carries one bit",
             "capacity=1"),
            (self.levels != "uniform" and self.synchronous, f"levels={self.levels!r}", "synchronous neurons, which send a whole count",
             "levels='uniform'"),
            (self.random and not self.synchronous, "random=True", "causal neurons", "synchronous=True"),
            (self.random and (self.capacity > 1 or self.signed or self.code != "rate"), "random=True", "spikes that are not binary with rate code",
             "capacity=1, signed=False, code='rate'"),
            (self.pre is not None and not (binary and not self.synchronous), "pre=", "neurons other than integrate-and-fire",
             "the default neuron"),
        )  # fmt: skip
        refuse_together("Parts of the neuron", repr(self), exclusions)

    def __repr__(self) -> str:
        """Show what differs from integrate-and-fire with binary spikes."""
        chosen = (
            f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if getattr(self, one.name) != one.default
        )
        return f"NeuronModel({', '.join(chosen)})"

    @property
    def spikes(self) -> Literal["binary", "ternary", "graded"]:
        """What one step of the neuron carries."""
        if self.capacity > 1:
            return "graded"
        return "ternary" if self.signed else "binary"

    @property
    def sizes(self) -> int:
        """How many levels above 0 one step has."""
        return 2**self.capacity - 1 if self.levels == "successive" else self.capacity

    @property
    def finest(self) -> float:
        """What the smallest level is worth, as a share of θ; every emission is a whole number of these."""
        return 1.0 if self.levels == "uniform" else 0.5 ** (self.capacity - 1)

    @property
    def largest(self) -> int:
        """The largest emission of a step, in smallest levels."""
        return 2 ** (self.capacity - 1) if self.levels == "nearest" else self.sizes

    @property
    def zero(self) -> int:
        """Which integer without sign stands for an emission of 0, where levels are written as integers; silence is `rest` above it."""
        return self.largest - self.rest if self.signed else 0

    @property
    def sends_below_zero(self) -> bool:
        """Whether the mean emission can be negative."""
        return self.signed and (self.holds or self.rest < self.capacity)

    @property
    def pre_steps(self) -> int:
        """First steps of a run that are never read out."""
        return self.pre.steps if self.pre is not None else 0

    @property
    def waiting(self) -> int:
        """Steps that a neuron must see at once before it can send, of those before the read-out."""
        return self.pre_steps if self.pre is not None and self.pre.correction == "shift" else 0

    @property
    def has_gradient(self) -> bool:
        """Whether a surrogate gradient can pass through its steps."""
        return not self.synchronous and self.pre is None and self.levels != "nearest"

    @property
    def holds(self) -> bool:
        """Whether the receiver holds the mean that it was sent, so that spikes change it and silence leaves it."""
        return self.code in ("differential", "phase")

    def worth(self, t: int) -> float:
        """Return by how much a spike of θ at step t, from 1, changes the mean that its receiver holds, as a share of θ.

        Phase code does not go below 2^-30, which single precision no longer sees beside θ: from there on it does not get finer.
        """
        return 1.0 / t if self.code == "differential" else max(self.ratio ** (t - 1), FINEST)

    def rest_at(self, t: int) -> int:
        """Return what silence is worth at step t, from 1, in θ; a mean that the receiver holds aside."""
        return self.rest if t == 1 or not self.holds else 0

    def reach(self, time_steps: int) -> float:
        """Return the largest mean emission over T steps, as a share of θ.

        Example:
            >>> NeuronModel(capacity=3).reach(4), NeuronModel(capacity=3, levels="successive").reach(4)
            (3.0, 1.75)
            >>> NeuronModel(signed=True, code="phase", ratio=0.5).reach(4)
            1.875
        """
        powers = 2.0 - 0.5 ** (self.capacity - 1)
        largest = {"uniform": float(self.capacity), "nearest": 1.0, "successive": powers}[self.levels]
        return largest * (sum(map(self.worth, range(1, time_steps + 1))) if self.holds else 1.0) + self.rest

    def depth(self, time_steps: int) -> float:
        """Return how far below 0 the mean emission over T steps can be, as a share of θ; 0 where it cannot.

        Example:
            >>> NeuronModel().depth(4), NeuronModel(signed=True).depth(4), NeuronModel(signed=True, rest=1).depth(4)
            (0.0, 1.0, 0.0)
        """
        return self.reach(time_steps) - 2 * self.rest if self.signed else 0.0

    def counts(self, time_steps: int) -> int:
        """Return N, the number of levels above 0 that the mean emission over T steps can have, equally far apart.

        With codes that hold the mean it is the reach over the smallest change.

        Example:
            >>> [NeuronModel(synchronous=True, code=code).counts(4) for code in ("rate", "bits", "first")]
            [4, 15, 4]
        """
        if self.code == "bits":
            return int(2**time_steps) - 1
        per_step: dict[LevelSet, int] = {
            "uniform": self.capacity + self.rest,
            "nearest": 2 ** (self.capacity - 1),
            "successive": 2**self.capacity - 1,
        }
        if self.holds:
            smallest = self.worth(time_steps) * (1.0 if self.levels == "uniform" else 0.5 ** (self.capacity - 1))
            return round(self.reach(time_steps) / smallest)
        return per_step[self.levels] * time_steps

    def latency(self, time_steps: int, depth: int) -> int:
        """Return the steps from the first input to the last output, for a network of ``depth`` layers of neurons.

        Causal layers run at the same time. Each synchronous layer waits for all T steps of the one before; each layer with
        a shifting pre-run waits for the pre-run of the one before.

        Example:
            >>> NeuronModel().latency(8, depth=5), NeuronModel(synchronous=True).latency(8, depth=5)
            (8, 48)
        """
        return (depth + 1) * time_steps if self.synchronous else time_steps + depth * self.waiting
