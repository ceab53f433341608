"""What a method is: settings, and the parts they choose."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal

from torch import Tensor, nn

from tospike.errors import ConversionError, OptionError, is_count, is_within, refuse_unknown, require, require_type
from tospike.graph.capture import Site
from tospike.graph.kinds import TrainableActivation
from tospike.neurons.model import NeuronModel
from tospike.parts.descent import Descent
from tospike.parts.histogram import MinimalError
from tospike.parts.refiners import Refiner
from tospike.parts.scales import Granularity, Learned, Scale

METHODS: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class Parts:
    """The choices that make a method.

    Attributes:
        scale: Returns what finds the threshold of a Site, given the Site and the activation that stands there.
        calibration_batches: Batches that the scales watch; 0 if they need none, None for one pass over the loader.
        start: Initial potential as a share of the threshold.
        pool: How a max-pool before a neuron pools currents that change in time: ``"running"`` takes the largest sum of all
            currents so far, which is exact in the mean; ``"step"`` the largest current of each step, which is biased upwards.
        neuron: Which neuron stands at every Site.
        refiners: Corrections on the converted network, in the order in which they act at each place.
        descent: Gradient descent towards the ANN behind all refiners; None without it.
        time_steps: T that refiners and descent run; 0 without any.
        carry: Share of what the neurons of one input left over that `Controller` carries over to the next.
        refine_batches: Calibration batches that the refiners see.
        members: Neurons that stand for one activation, computed as one.
        activation: Returns the trainable activation that `prepare` puts at a Site, given the threshold that `initial` measured there;
            None if the method does not train.
        initial: Method whose thresholds training starts from; None where settings say them.
        average_pool: Whether `prepare` replaces max-pools by average pools.
    """

    scale: Chooser
    calibration_batches: int | None
    start: float = 0.5
    pool: Literal["running", "step"] = "running"
    neuron: NeuronModel = NeuronModel()  # noqa: RUF009
    refiners: tuple[Refiner, ...] = ()
    descent: Descent | None = None
    time_steps: int = 0
    refine_batches: int = 4
    carry: float = 0.0
    members: int = 1
    activation: Callable[[Site, Tensor | None], TrainableActivation] | None = None
    initial: Method | None = None
    average_pool: bool = False

    def __post_init__(self) -> None:
        """Check what can be replaced by `Method.using`."""
        if not callable(self.scale):
            raise OptionError("`scale` is of the wrong kind", got=repr(self.scale)[:80], expected="a method, or a function of Site and activation",
                              remedy="Pass scale=ts.LTB(), or write one as CONTRIBUTING.md shows.")  # fmt: skip
        require_type("neuron", self.neuron, NeuronModel, "a NeuronModel", "Pass neuron=ts.NeuronModel(signed=True).")
        require_type("refiners", self.refiners, tuple, "a tuple of refiners", "Pass refiners=(ChannelBias(),).")
        require_type("descent", self.descent, (Descent, NoneType), "a Descent", "Pass descent=Descent(iterations=300).")
        needs_t = not (self.refiners or self.descent) or is_count(self.time_steps)
        by_rate = (
            dataclasses.replace(self.descent, gradient="rate") if self.descent and self.neuron.pre is None else None
        )
        descends = self.descent in (None, by_rate) or self.neuron.has_gradient
        require(
            "the parts",
            ("start", self.start, self.start == 0 or is_within(self.start, 0, 1), "a share of θ in [0, 1]", 0.5),
            ("pool", self.pool, self.pool in ("running", "step"), "'running' or 'step'", "running"),
            ("time_steps", self.time_steps, needs_t, "the T that refiners and descent run, an integer >= 1", 8),
            ("descent", self.descent, descends, "by rate with neurons that are synchronous or have unequal levels, None with a pre-run", by_rate),
            ("refine_batches", self.refine_batches, is_count(self.refine_batches), "an integer >= 1", 4),
            ("members", self.members, is_count(self.members), "an integer >= 1", 4),
            ("carry", self.carry, self.carry == 0 or is_within(self.carry, 0, 1), "a share in [0, 1]", 0.5),
        )  # fmt: skip


Rule = tuple[str, object, bool, str, object]  # see `tospike.errors.Limit`
Chooser = Callable[[Site, nn.Module], Scale]


@dataclass(frozen=True)
class LeastError:
    """Chooses the scale of least error for what a neuron can send in T steps, for every channel; see `MinimalError`.

    Attributes:
        neuron: The neuron; a method with another one put in its place takes the scale for that.
        time_steps: T.
        levels: N; what the neuron can tell apart when None.
        reach: Largest mean emission that the threshold is made for, as a share of θ; that of the neuron over T steps when None.
        keep: Whether trained thresholds stay as they are.
        granularity: One threshold for each channel, or each layer.
        floor: Smallest threshold of a channel, as a share of the root mean square of those of its layer; 0 for none.
    """

    neuron: NeuronModel
    time_steps: int
    levels: int | None = None
    reach: float | None = None
    keep: bool = False
    granularity: Granularity = "channel"
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Check the floor."""
        good = self.floor == 0 or is_within(self.floor, 0, 1)
        require(type(self).__name__, ("floor", self.floor, good, "a share from 0 to 1", 0.7))

    def __call__(self, site: Site, activation: nn.Module) -> Scale:
        """Return the scale of one Site."""
        reach = self.reach or self.neuron.reach(self.time_steps)
        if self.keep and isinstance(activation, TrainableActivation):
            return Learned(site, activation, reach)
        levels = self.levels or self.neuron.counts(self.time_steps)
        return MinimalError(site, self.granularity, levels, reach, self.floor)

    def for_neuron(self, neuron: NeuronModel) -> LeastError:
        """Return the same for another neuron, with its levels and its reach."""
        return dataclasses.replace(self, neuron=neuron, levels=None, reach=None)


@dataclass(frozen=True)
class AsTrained:
    """Chooses the threshold that training left at a Site: ``θ = λ·K/(K + rest)``, so that K spikes above silence are worth λ.

    Attributes:
        neuron: The neuron.
    """

    neuron: NeuronModel = field(default_factory=NeuronModel)

    def __call__(self, site: Site, activation: nn.Module) -> Scale:
        """Return the scale of one Site.

        Raises:
            ConversionError: The Site has no trained activation.
        """
        if not isinstance(activation, TrainableActivation):
            raise ConversionError(
                "A Site has no trained threshold", where=f"{site.name} ({site.operation.where})", got=type(activation).__name__,
                expected="an activation that `prepare` placed", remedy="Call ts.prepare(ann, method, example=x) and train before converting.",
            )  # fmt: skip
        return Learned(site, activation, 1.0 + self.neuron.rest / self.neuron.capacity)

    def for_neuron(self, neuron: NeuronModel) -> AsTrained:
        """Return the same for another neuron."""
        return AsTrained(neuron)


class Method(ABC):
    """A conversion method: a frozen dataclass of settings whose `parts` are all that the library knows of it."""

    name: str = ""

    def __post_init__(self) -> None:
        """Check the settings."""
        require(type(self).__name__, *self.limits())

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules that the settings keep; a subclass adds its own to those of its base."""
        return ()

    @abstractmethod
    def parts(self) -> Parts:
        """Return the parts that these settings choose."""

    def candidates(self) -> tuple[Method, ...]:
        """Return the methods of which `convert` keeps the one whose output is nearest to the ANN's on the calibration data."""
        return (self,)

    def using(self, **parts: Any) -> Using:
        """Return this method with some of its parts replaced.

        Args:
            parts: New values for attributes of `Parts`, or methods that have them; the scale of another method comes with
                its number of calibration batches.

        Raises:
            OptionError: There is no such part.

        Example:
            >>> import tospike as ts
            >>> ts.LTB().using(neuron=ts.NeuronModel(signed=True)).parts().neuron.spikes
            'ternary'
            >>> ts.FTBC(time_steps=8).using(scale=ts.LTB(batches=100)).parts().calibration_batches
            100
        """
        refuse_unknown("part", parts, [field.name for field in dataclasses.fields(Parts)])
        for name, value in list(parts.items()):
            if isinstance(value, Method):
                theirs = value.parts()
                parts[name] = getattr(theirs, name)
                if name == "scale":
                    parts.setdefault("calibration_batches", theirs.calibration_batches)
        return Using(self, parts)

    def settings(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Measured(Method):
    """Base of the methods whose thresholds are largest values on data.

    Attributes:
        batches: Calibration batches; None for one pass over the loader.
    """

    batches: int | None = None

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        good = self.batches is None or is_count(self.batches)
        return (("batches", self.batches, good, "an integer >= 1, or None", 100),)


@dataclass(frozen=True)
class MadeForT(Method):
    """Base of the methods that are made for one T.

    Attributes:
        time_steps: T that will be run.
        batches: Calibration batches for the thresholds.
    """

    time_steps: int = 0
    batches: int = 10

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        return (
            ("time_steps", self.time_steps, is_count(self.time_steps), "the T that will be run, an integer >= 1", 8),
            ("batches", self.batches, is_count(self.batches), "an integer >= 1", 10),
        )


@dataclass(frozen=True)
class Corrected(MadeForT):
    """Base of the methods that are made for one T and correct themselves on data.

    Attributes:
        time_steps: T that will be run.
        batches: Calibration batches for the thresholds.
        refine_batches: Calibration batches for the corrections.
    """

    refine_batches: int = 10

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        rule = ("refine_batches", self.refine_batches, is_count(self.refine_batches), "an integer >= 1", 10)
        return (*super().limits(), rule)


@dataclass(frozen=True)
class Using(Method):
    """A method with some of its parts replaced; see `Method.using`.

    Attributes:
        base: The method.
        changes: The new parts by name.
    """

    base: Method
    changes: dict[str, Any]

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of the method underneath."""
        return self.base.name

    def candidates(self) -> tuple[Method, ...]:
        """Return the candidates of the method underneath, with the changes; one alone where these settle what differs."""
        return (
            (self,) if "neuron" in self.changes else tuple(Using(base, self.changes) for base in self.base.candidates())
        )

    def parts(self) -> Parts:
        """Return the parts of the method underneath, with the changes."""
        parts, changes = self.base.parts(), dict(self.changes)
        if "neuron" in changes and "scale" not in changes and isinstance(parts.scale, (LeastError, AsTrained)):
            changes["scale"] = parts.scale.for_neuron(changes["neuron"])
        return dataclasses.replace(parts, **changes)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the method underneath, and the changes as text."""
        return self.base.settings() | {name: repr(part) for name, part in self.changes.items()}


def register(name: str) -> Callable[[type[Method]], type[Method]]:
    """Give a method the name under which the command line and `method` find it."""

    def add(cls: type[Method]) -> type[Method]:
        cls.name = name
        METHODS[name] = cls
        return cls

    return add


def registered(name: str, classes: Mapping[str, type]) -> str:
    """Return the name under which a method is registered, given that, or the name of its class, in capitals or not; any other as it is."""
    same = (key for key, cls in classes.items() if name.lower() in (key, cls.__name__.lower()))
    return next(same, name)


def method(name: str, **settings: Any) -> Method:
    """Build a method from its name, or that of its class, and settings.

    Raises:
        OptionError: The method or one of the settings is unknown.

    Example:
        >>> import tospike as ts
        >>> ts.method("ltb", batches=100).batches
        100
    """
    require_type("name", name, str, "the name of a method", 'Pass e.g. "ltb"; list them with `tospike methods`.')
    name = registered(name, METHODS)
    refuse_unknown("method", name, sorted(METHODS), remedy="List them with `tospike methods`.")
    fields = [field.name for field in dataclasses.fields(METHODS[name])]  # type: ignore[arg-type]
    refuse_unknown(f"setting of the method {name}", settings, fields, remedy="List them with `tospike methods`.")
    return METHODS[name](**settings)
