"""What a result costs in energy: operations times a table's picojoules, and when the SNN costs more than the ANN."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from rich.table import Table

from tospike.errors import DataError, refuse_unknown, require, require_type
from tospike.result import Result
from tospike.run.work import PARTS

FirstLayer = Literal["once", "every step"]


@dataclass(frozen=True)
class EnergyTable:
    """What one operation costs on one kind of hardware.

    Attributes:
        name: Name that `energy` takes.
        multiply_add: Energy of one multiply-add, in picojoules.
        synaptic_operation: Energy of one synaptic operation, in picojoules.
        precision: Number format that the figures hold for; empty if the source does not say.
        source: Where the figures come from, and how they are put together.

    Raises:
        OptionError: A figure is not above 0.

    Example:
        >>> chip = EnergyTable("my chip", multiply_add=2.0, synaptic_operation=0.5, precision="int8", source="measured")
        >>> chip.break_even
        4.0
    """

    name: str
    multiply_add: float
    synaptic_operation: float
    precision: str
    source: str

    def __post_init__(self) -> None:
        """Check the figures."""
        figures = {"multiply_add": self.multiply_add, "synaptic_operation": self.synaptic_operation}
        good = {key: isinstance(value, (int, float)) and 0 < value < math.inf for key, value in figures.items()}
        require("the energy table", *((key, value, good[key], "picojoules > 0", 1.0) for key, value in figures.items()))

    def joules(self, multiply_adds: float = 0.0, synaptic_operations: float = 0.0) -> float:
        """Return the energy of some operations, ``E = (n_MAC·e_MAC + n_SOP·e_SOP)·1e-12``, in joules.

        Source: Bu, Li and Yu, CVPR 2025, appendix F. Differs from the paper in: what multiplies in the SNN is counted too.

        Example:
            >>> round(ENERGY_TABLES["horowitz-45nm"].joules(multiply_adds=1e9, synaptic_operations=1e9), 6)
            0.0055
        """
        return (multiply_adds * self.multiply_add + synaptic_operations * self.synaptic_operation) * 1e-12

    @property
    def break_even(self) -> float:
        """Spikes that a synapse may carry for one input before they cost more than the multiply-add that they replace."""
        return self.multiply_add / self.synaptic_operation


_HOROWITZ = "M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014, 45 nm at 0.9 V"

ENERGY_TABLES = {
    table.name: table
    for table in (
        EnergyTable("horowitz-45nm", 4.6, 0.9, "float32", f"{_HOROWITZ}: multiply 3.7 pJ + add 0.9 pJ; a synaptic operation is one add."),
        EnergyTable("horowitz-45nm-int8", 0.3, 0.1, "int8",
                    f"{_HOROWITZ}: 8-bit multiply 0.2 pJ + 32-bit add 0.1 pJ; a synaptic operation is one 32-bit add."),
        EnergyTable("qiao-2015", 12.5, 0.077, "", "N. Qiao et al., Frontiers in Neuroscience 9:141, 2015, as Bu, Li and Yu, CVPR 2025, appendix F, use it: "
                    "12.5 pJ per FLOP, which there is a multiply-add, and 77 fJ per synaptic operation of a mixed-signal chip."),
    )
}  # fmt: skip


def frames_per_watt(joules: float) -> float:
    """Return the frames per second for each watt, ``1/E``, of a network that takes E joules for one frame.

    Example:
        >>> table = ENERGY_TABLES["qiao-2015"]
        >>> round(frames_per_watt(table.joules(multiply_adds=3.6e9)), 1)
        22.2
    """
    return 1.0 / joules if joules else math.inf


@dataclass(frozen=True)
class Energy:
    """Energy of one sample in the ANN and in the SNN, over all operations that are counted.

    Attributes:
        prices: What one operation costs.
        first_layer: Whether layers before the first neuron are computed ``"once"`` or at ``"every step"``.
        ann: Energy of the ANN, in joules.
        parts: Energy of the SNN by T and part of the network, in joules.
        spikes_per_synapse: Synaptic operations over the multiply-adds that they replace, by T.
        sop90, sop95: Synaptic operations at the first T whose score exceeds 90 % and 95 % of the reference; None if none does, without a
            reference, and where lower scores are better.
        updates: Neuron updates by T, which the energy leaves out.
        uncounted: Other operations that it leaves out: name, and number of places.
        curve: Headline score by T.
        headline: What the score is, with its unit.
        notes: What to know before quoting the figures, in sentences.
        per: What the energy is that of: one ``"sample"``, or one ``"decision"`` of control.
    """

    prices: EnergyTable
    first_layer: FirstLayer
    ann: float
    parts: dict[int, dict[str, float]]
    spikes_per_synapse: dict[int, float]
    sop90: float | None
    sop95: float | None
    updates: dict[int, int]
    uncounted: dict[str, int]
    curve: dict[int, float]
    headline: str
    notes: tuple[str, ...] = ()
    per: str = "sample"

    @property
    def snn(self) -> dict[int, float]:
        """Energy of the SNN by T, in joules."""
        return {t: sum(parts.values()) for t, parts in self.parts.items()}

    @property
    def ratio(self) -> dict[int, float]:
        """Energy of the SNN over that of the ANN, by T."""
        return {t: joules / self.ann for t, joules in self.snn.items()}

    @property
    def ann_frames_per_watt(self) -> float:
        """Frames per second and watt of the ANN."""
        return frames_per_watt(self.ann)

    @property
    def snn_frames_per_watt(self) -> dict[int, float]:
        """Frames per second and watt of the SNN, by T."""
        return {t: frames_per_watt(joules) for t, joules in self.snn.items()}

    @property
    def break_even(self) -> float:
        """Spikes per synapse above which spikes cost more than multiplying."""
        return self.prices.break_even

    def summary(self) -> list[str]:
        """Say in sentences which network costs more, and what the figures leave out."""
        figures = f"{self.prices.name}: {self.prices.multiply_add:g} pJ per multiply-add, {self.prices.synaptic_operation:g} pJ per synaptic operation"
        spikes = _listed(f"{n:.3g} at T={t}" for t, n in self.spikes_per_synapse.items())
        return [
            f"The ANN takes {_joules(self.ann)} for one {self.per}, {rounded(self.ann_frames_per_watt)} FPS/W ({figures}).",
            *self.verdict(),
            f"Spikes pay up to {self.break_even:.3g} per synapse and {self.per}; there are {spikes}.",
            *(f"SOP{share}, the synaptic operations at the first T above {share} % of the reference: {rounded(n)}."
              for share, n in ((90, self.sop90), (95, self.sop95)) if n is not None),
            self._left_out(), *self.notes,
        ]  # fmt: skip

    def verdict(self) -> list[str]:
        """Say which network costs more, and where most of the SNN's energy goes."""
        dearer = {t: ratio for t, ratio in self.ratio.items() if ratio > 1}
        cheaper = {t: ratio for t, ratio in self.ratio.items() if ratio <= 1}
        said = []
        for verb, found, others in (("costs MORE than", dearer, cheaper), ("costs no more than", cheaper, dearer)):
            if found:
                at = " at every T" if not others else ""
                said.append(
                    f"The SNN {verb} the ANN{at}: {_listed(f'{r:.3g} times at T={t}' for t, r in found.items())}."
                )
        last, parts = list(self.parts.items())[-1]
        most = max(PARTS, key=parts.__getitem__)
        share = parts[most] / (self.snn[last] or 1.0)
        return [*said, f"At T={last}, {share:.0%} of the SNN's energy goes to its {most} layers."]

    def _left_out(self) -> str:
        places = (f"{name} ({n} place{'s' if n > 1 else ''})" for name, n in sorted(self.uncounted.items()))
        last, updates = list(self.updates.items())[-1]
        return f"Not covered: {'; '.join(['memory traffic', f'neuron updates ({updates:,} at T={last})', *places])}."

    def table(self) -> Table:
        """Return a table with the ANN in its first row, then one row for each T; what is not covered stands below it."""
        shown = Table(
            title=f"Energy for one {self.per}, {self.prices.name}",
            caption="\n".join(self.summary()),
            caption_justify="left",
        )
        for column in ("", self.headline, *PARTS, "total", "of the ANN", "FPS/W", "spikes per synapse"):
            shown.add_column(column, justify="right" if column else "left")
        ann = rounded(self.ann_frames_per_watt)
        shown.add_row("ANN", *[""] * (len(PARTS) + 1), _joules(self.ann), "1", ann, "")
        for t, parts in self.parts.items():
            shown.add_row(
                f"SNN, T={t}", f"{self.curve[t]:.2f}", *(_joules(parts[part]) for part in PARTS), _joules(self.snn[t]),
                f"{self.ratio[t]:.3g}", rounded(self.snn_frames_per_watt[t]), f"{self.spikes_per_synapse[t]:.3g}",
            )  # fmt: skip
        return shown

    def __str__(self) -> str:
        """Return the summary, one sentence on a line."""
        return "\n".join(self.summary())


def energy(result: Result, table: str | EnergyTable = "horowitz-45nm", *, first_layer: FirstLayer = "once") -> Energy:
    """Return what a result costs in energy, for the ANN and for the SNN at every T.

    ``E_ANN = e_MAC·Σ n_MAC``, ``E_SNN(T) = e_MAC·(n_constant + n_analog(T) + n_read-out) + e_SOP·n_SOP(T)``

    Args:
        result: What `tospike.evaluate` returned.
        table: Name of one of `ENERGY_TABLES`, or a table of your own.
        first_layer: ``"once"``, as tospike computes layers before the first neuron; ``"every step"`` multiplies their energy by T, as
            hardware that feeds the image T times does.

    Raises:
        DataError: The result does not say what its layers did.
        OptionError: The table or the way to count the first layer is unknown.

    Source: Bu, Li and Yu, CVPR 2025, appendix F. Differs from the paper in: layers of the SNN that read no spikes are counted, as multiply-adds.

    Example:
        >>> import torch, tospike as ts
        >>> ann = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
        >>> x = torch.randn(64, 2)
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[x])
        >>> result = ts.evaluate(snn, [(x, torch.zeros(64, dtype=torch.long))], time_steps=(1, 64), progress=False)
        >>> {t: ratio > 1 for t, ratio in ts.energy(result).ratio.items()}
        {1: False, 64: True}
    """
    require_type("result", result, Result, "a Result", "Pass what ts.evaluate returned.")
    require_type("table", table, (str, EnergyTable), "a name or an EnergyTable", 'Pass table="horowitz-45nm".')
    refuse_unknown("first_layer", [str(first_layer)], get_args(FirstLayer))
    if isinstance(table, str):
        refuse_unknown("energy table", table, ENERGY_TABLES, "Pass one of these, or a ts.EnergyTable of your own.")
        table = ENERGY_TABLES[table]
    if not result.layers:
        raise DataError(
            "The result does not say what its layers did", got="no layers", expected="a result of this version of tospike",
            remedy="Evaluate again: ts.evaluate(snn, loader).",
        )  # fmt: skip
    marks = sorted(result.curve)
    replaced = sum(layer.multiply_adds for layer in result.layers if layer.part == "spiking")
    return Energy(
        table, first_layer, table.joules(sum(layer.multiply_adds for layer in result.layers)),
        {t: _parts(result, table, t, t if first_layer == "every step" else 1) for t in marks},
        {t: _done(result, "spiking", t) / replaced if replaced else 0.0 for t in marks},
        _operations_above(result, 0.90), _operations_above(result, 0.95),
        {t: result.neurons * t for t in marks}, dict(Counter(map(_name, result.uncounted))),
        {t: result.curve[t] for t in marks}, f"{result.headline} [{result.unit}]" if result.unit else result.headline,
        tuple(_notes(result, table)), result.per,
    )  # fmt: skip


def _done(result: Result, part: str, t: int) -> float:
    return sum(layer.operations[t] for layer in result.layers if layer.part == part)


def _parts(result: Result, table: EnergyTable, t: int, passes: int) -> dict[str, float]:
    done = {part: _done(result, part, t) * (passes if part == "constant" else 1) for part in PARTS}
    return {
        part: table.joules(synaptic_operations=n) if part == "spiking" else table.joules(n) for part, n in done.items()
    }


def _operations_above(result: Result, share: float) -> float | None:
    """Return the synaptic operations at the first T whose score exceeds a share of the reference."""
    if result.reference is None or not result.higher_is_better or result.reference <= 0:
        return None
    enough = [t for t, score in result.curve.items() if score > share * result.reference]
    return result.operations[min(enough)] if enough else None


def _notes(result: Result, table: EnergyTable) -> Iterable[str]:
    formats = sorted({layer.precision for layer in result.layers})
    if table.precision and formats != [table.precision]:
        yield f"The network was run in {_listed(formats)}; the table is for {table.precision}, in which its score may differ."
    if result.spikes == "graded":
        yield (
            f"Spikes are graded, of up to {result.capacity} levels: each is counted as one synaptic operation, "
            "although its level has to be multiplied, shifted or sent one by one."
        )
    if not result.finished:
        yield f"The evaluation was interrupted after {result.samples} samples."


def _name(place: str) -> str:
    """Return the operation of a place, ``"path (operation, file:line)"``."""
    return place.partition(" (")[2].partition(",")[0].rstrip(")") or place


def _listed(texts: Iterable[str]) -> str:
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def rounded(value: float) -> str:
    """Write a number with four digits, thousands apart.

    Example:
        >>> rounded(25251.7), rounded(0.71828)
        ('25,250', '0.7183')
    """
    short = f"{value:.4g}"
    return f"{float(short):,.0f}" if 1000 <= abs(value) < math.inf else short


def _joules(value: float) -> str:
    """Write joules with the prefix that leaves up to three digits before the point."""
    power = min(max(math.floor(math.log10(value) / 3), -5), 0) if value > 0 else 0
    return f"{value / 1000.0**power:.3g} {('', 'm', 'µ', 'n', 'p', 'f')[-power]}J"
