"""The best known combination of parts for the T that will be run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from tospike.errors import is_count
from tospike.methods.base import Corrected, LeastError, Method, Parts, Rule, register
from tospike.neurons.model import NeuronModel
from tospike.parts.descent import Descent
from tospike.parts.phase import FitCode, Taper
from tospike.parts.reconstruct import Reconstruct
from tospike.parts.refiners import ChannelBias, Potential, Refiner, StepBias

Spikes = Literal["binary", "ternary", "graded"]
SPIKES: tuple[Spikes, ...] = ("binary", "ternary", "graded")
LEVELS = 15  # of a graded neuron in one step: 0 to 14, or with signs -7 to 7
FEW_STEPS = 3  # up to which ternary spikes are better spent on more levels than on taking back what was too much
FLOOR = 0.7  # of graded spikes, whose fine levels channels can spare for what calibration data did not show


@register("auto")
@dataclass(frozen=True)
class Auto(Corrected):
    """Least-error thresholds for T steps, with the neuron and the corrections that measured best for the kind of spikes.

    Binary: integrate-and-fire, weights fitted to converted inputs, a bias per channel and step. Ternary: signed neurons, weights and
    biases as with binary ones; phase code, finer in front than behind, or the code that fits each layer best, or, at T up to 3, rate code in which
    silence is worth a spike, so that the mean has twice as many levels: whichever comes closest to the ANN on the calibration data. Graded: 15 levels
    per step, no threshold of a channel far below those of its layer; from T = 2 on signed and in phase code of ratio 1/2, whose first step
    reaches all activations, with weights and biases as above.

    Attributes:
        time_steps: T that will be run.
        spikes: What one step of a neuron may carry: ``"binary"``, ``"ternary"`` or ``"graded"``.
        code: Of ternary spikes: ``"taper"`` (see `tospike.parts.phase.Taper`), ``"fit"`` (`FitCode`), ``"rate"``, or ``"rest"``, rate code in which
            silence is worth a spike and a negative one nothing; None tries what is known to be good at T.
        step_biases: Whether biases may differ from step to step. Without, there is one per channel, as chips and NIR files know it, and binary
            neurons have a potential each; this loses more.
        iterations: Steps of gradient descent that bring the whole network closer to the ANN (`tospike.parts.descent.Descent`), each on one calibration
            batch; 0 for none. It loses less, and takes as long as training on as many batches.
        batches: Calibration batches for the thresholds.
        refine_batches: Calibration batches for the corrections.

    Source: own combination; what each part earns is measured in docs/benchmarks.md.

    Example:
        >>> Auto(time_steps=4, spikes="graded").parts().neuron.capacity
        7
    """

    time_steps: int = 8
    spikes: Spikes = "ternary"
    code: Literal["taper", "fit", "rate", "rest"] | None = None
    step_biases: bool = True
    iterations: int = 0

    def limits(self) -> tuple[Rule, ...]:
        """Return the rules of the settings."""
        codes = ("taper", "fit", "rate", "rest", None) if self.spikes == "ternary" else (None,)
        return (
            *super().limits(),
            ("spikes", self.spikes, self.spikes in SPIKES, f"one of {SPIKES}", "ternary"),
            ("step_biases", self.step_biases, isinstance(self.step_biases, bool), "True or False", True),
            ("iterations", self.iterations, self.iterations == 0 or is_count(self.iterations), "an integer >= 0", 300),
            ("code", self.code, self.code in codes, f"one of {codes} with {self.spikes} spikes", None),
        )

    def candidates(self) -> tuple[Method, ...]:
        """Return the codes that are known to be good at T, where none was chosen."""
        if self.spikes != "ternary" or self.code is not None:
            return (self,)
        rest = (replace(self, code="rest"),) if self.time_steps <= FEW_STEPS else ()
        fit = (replace(self, code="fit"),) if self.time_steps > 1 else ()  # one step can be laid out in one way
        return *rest, replace(self, code="taper"), *fit

    def parts(self) -> Parts:
        """Choose neuron and corrections by the kind of spikes; start at half the threshold."""
        neuron, refiners = self._choice()
        levels = reach = None
        floor = 0.0
        if neuron.spikes == "graded":
            reach, floor = float(neuron.capacity), FLOOR  # the reach of one step: later ones refine it
        elif neuron.holds:
            # A clip above that of least error leaves room for what comes late; more steps bring finer changes and allow more.
            levels = self.time_steps * (2 * self.time_steps - 1)
        return Parts(
            scale=LeastError(neuron, self.time_steps, levels, reach, floor=floor), calibration_batches=self.batches, neuron=neuron,
            refiners=refiners, refine_batches=self.refine_batches, descent=Descent(self.iterations) if self.iterations else None,
            time_steps=self.time_steps,
        )  # fmt: skip

    def _choice(self) -> tuple[NeuronModel, tuple[Refiner, ...]]:
        bias = StepBias() if self.step_biases else ChannelBias()
        if self.spikes == "binary":
            return NeuronModel(), (Reconstruct(), bias) if self.step_biases else (Reconstruct(), bias, Potential())
        if self.spikes == "ternary":
            if self.code in ("rate", "rest"):
                return NeuronModel(signed=True, rest=int(self.code == "rest")), (Reconstruct(), bias)
            choice = FitCode() if self.code == "fit" else Taper()
            return NeuronModel(signed=True, code="phase"), (Reconstruct(), choice, bias)
        if self.time_steps == 1:  # there is nothing to take back
            return NeuronModel(capacity=LEVELS - 1), ()
        return NeuronModel(capacity=LEVELS // 2, signed=True, code="phase", ratio=0.5), (Reconstruct(), bias)
