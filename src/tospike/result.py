"""What an evaluation found, as plain values that are written as JSON and read again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tospike.files import Record
from tospike.run.network import Conversion
from tospike.run.work import LayerWork


def described(made: Conversion, marks: Sequence[int]) -> dict[str, Any]:
    """Return what a `Result` says of how its SNN was made, by the names of its fields.

    Args:
        made: The record of the conversion.
        marks: The T that were scored.
    """
    return {
        "approaches": made.reference, "method": made.method, "settings": made.settings, "seed": made.seed,
        "spikes": made.neuron.spikes, "capacity": made.neuron.capacity, "calibration_samples": made.calibration_samples,
        "neurons_added": made.neurons_added, "latency": {t: made.neuron.latency(t, made.depth) for t in marks},
    }  # fmt: skip


@dataclass(frozen=True)
class Result(Record):
    """What an evaluation found, as plain values.

    Attributes:
        task: Class of the task.
        headline: Name of the score on the curve.
        unit: Its unit.
        curve: Headline score by T.
        scores: Every score by T.
        delays: First counted step by T.
        reference: Headline score of the reference network; None without one.
        reference_scores: Every score of the reference network.
        reference_name: What the reference is, e.g. ``"ANN"``.
        approaches: What the SNN approaches as T grows.
        rates: Mean spikes per neuron and step of each Site, over the whole simulation.
        spikes_per_neuron: Spikes of one neuron for one sample by T, averaged over all neurons.
        operations: Synaptic operations of one sample by T, over all spiking layers.
        analog_operations: Multiply-adds of one sample by T, over all stepped layers whose input is analog.
        method, settings, seed: How the SNN was made.
        spikes: What one step of a neuron carries: ``"binary"``, ``"ternary"`` or ``"graded"``.
        capacity: How many levels of each sign one step can carry.
        calibration_samples: Samples that the thresholds were measured on, counted each time that they were seen.
        neurons_added: Neurons of pooled copies and groups, for one sample.
        latency: Steps from the first input to the last output by T; more than T where layers wait for each other.
        exits: By confidence: the headline score when each sample stops at the first T of the curve with that much confidence, and
            ``"steps"``, the T at which samples stopped, on average.
        samples: Samples scored; of control, episodes.
        finished: False if the evaluation was interrupted.
        uncounted: Operations that are no layers (sums, pooling, normalisation, softmax, ...), which the counts leave out.
        layers: What each layer did for one sample; empty in results of versions that did not note it.
        neurons: Neurons that are updated at each step, for one sample.
        higher_is_better: Whether a larger headline score is a better network.
        per: What spikes, operations, layers and neurons are given for: ``"sample"``, or ``"decision"`` of control.
    """

    task: str
    headline: str
    unit: str
    curve: dict[int, float]
    scores: dict[int, dict[str, float]]
    delays: dict[int, int]
    reference: float | None
    reference_scores: dict[str, float]
    reference_name: str
    approaches: str
    rates: dict[str, float]
    spikes_per_neuron: dict[int, float]
    operations: dict[int, float]
    analog_operations: dict[int, float]
    method: str
    settings: dict[str, Any]
    seed: int
    spikes: str
    capacity: int
    calibration_samples: int
    neurons_added: int
    latency: dict[int, int]
    samples: int
    finished: bool = True
    exits: dict[float, dict[str, float]] = field(default_factory=dict)
    uncounted: list[str] = field(default_factory=list)
    layers: list[LayerWork] = field(default_factory=list)
    neurons: int = 0
    higher_is_better: bool = True
    per: str = "sample"

    def __str__(self) -> str:
        """Show the curve, and what was run."""
        last = max(self.curve)
        curve = ", ".join(f"T={t} {score:.2f}" for t, score in self.curve.items())
        reference = "" if self.reference is None else f"; {self.reference_name} {self.reference:.2f}"
        spent = f"{self.spikes_per_neuron[last] / last:.3f} per neuron and step"
        ended = "" if self.finished else ", interrupted"
        return f"{self.headline} in {self.unit}: {curve}{reference}\n{self.method}, {self.spikes} spikes, {spent}; {self.samples:,} samples{ended}"

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Result:
        """Build a result from the values in its JSON, whose keys are text."""
        for key in ("curve", "scores", "delays", "operations", "analog_operations", "latency", "spikes_per_neuron"):
            raw[key] = {int(t): value for t, value in raw[key].items()}
        raw["curve"] = {t: math.nan if score is None else float(score) for t, score in raw["curve"].items()}
        if not raw["curve"]:
            raise ValueError("an empty curve")
        raw["exits"] = {float(level): value for level, value in raw.get("exits", {}).items()}
        raw["layers"] = [
            LayerWork(**{**layer, "operations": {int(t): n for t, n in layer["operations"].items()}})
            for layer in raw.get("layers", [])
        ]
        lacking = {t for layer in raw["layers"] for t in raw["curve"] if t not in layer.operations}
        if lacking:
            raise ValueError(f"layers without T = {min(lacking)}")
        return cls(**raw)
