"""Gradient descent on what an SNN differs by from its ANN: its settings."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from tospike.errors import is_count, is_within, require, require_type
from tospike.neurons.surrogate import GRADIENTS, Gradient, Surrogate


@dataclass(frozen=True)
class Descent:
    """Bring all layers of a converted network closer to the ANN together, on calibration data without labels.

    Loss: ``1/S·Σ_l ‖ē_l − a_l‖²/‖a_l‖² + 1/O·Σ_o ‖y_o − y*_o‖²/‖y*_o‖²``, ē the mean emissions of the S Sites over T steps, a the activations of
    the ANN there, y the O outputs of the SNN and y* those of the ANN. Weights, biases, thresholds and initial potentials follow Adam through
    the real SNN, spike for spike, with a surrogate for the derivative of a spike or of a mean over time. Where the last
    tenth of the batches have no less loss than before, the SNN stays as it was. A thousand different samples are few: what fits them may
    fit no others.

    Attributes:
        iterations: Steps of Adam, each on one batch of the calibration loader, which is passed over as often as needed.
        lr: Largest learning rate, as a share of the root mean square of each tensor, for a loss of 1 at the start; for a loss of ℓ it is √ℓ times
            that, so that an SNN that is near takes small steps. It rises over three tenths of the iterations, and falls as half a cosine.
        gradient: ``"time"``: through all steps, with a surrogate for the derivative of a spike; ``"rate"``: through the mean over time, where
            spikes are taken for clips (`Tuning` has the same). The first sees how spikes come too late. The second costs one pass of the ANN beside
            T steps without gradient, and stays true where a network is so deep that surrogates multiply.
        surrogate: Of the gradient through time.
        steps_per_call: Time-steps whose values are kept for the gradient; the others are computed again. None keeps all T.

    Source: own combination. Weights that follow a gradient on calibration data: Li et al., "A free lunch from ANN", ICML 2021, section 4, layer
    by layer; the reconstruction of whole networks as one of several grains: Li et al., "BRECQ", ICLR 2021. Differs from the papers in: all
    layers at once, each compared with the ANN, through the spikes.

    Example:
        >>> Descent(iterations=100).lr
        0.1
    """

    iterations: int = 300
    lr: float = 0.1
    gradient: Gradient = "time"
    surrogate: Surrogate = field(default_factory=lambda: Surrogate(slope=1.5))
    steps_per_call: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        require_type("surrogate", self.surrogate, Surrogate, "a Surrogate", "Pass surrogate=ts.Surrogate(slope=2.0).")
        chunk = self.steps_per_call
        require(
            "the descent",
            ("iterations", self.iterations, is_count(self.iterations), "an integer >= 1", 300),
            ("lr", self.lr, is_within(self.lr, 0, sys.float_info.max), "positive and finite", 0.1),
            ("gradient", self.gradient, self.gradient in GRADIENTS, f"one of {GRADIENTS}", "rate"),
            ("steps_per_call", chunk, chunk is None or is_count(chunk), "an integer >= 1, or None", 4),
        )
