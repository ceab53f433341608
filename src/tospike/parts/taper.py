"""Phase code over the depth of a network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tospike.parts.refiners import Refiner, SiteView


@dataclass(frozen=True)
class Taper(Refiner):
    """Let phase code be fine in front, where currents are sure, and forgiving behind, where they still change.

    ``ratio = low + (high − low)·d``, d the share of Sites in front; ``first`` where the current is constant. The reach stays:
    ``θ ← θ·Σ old ratio^(t−1) / Σ new ratio^(t−1)``. Neurons without phase code stay as they are.

    Attributes:
        low: Ratio of the first Sites.
        high: Ratio of the last.
        first: Ratio where currents are constant; at 1/2 the steps are the bits of the activation.

    Source: own construction.
    """

    low: float = 0.6
    high: float = 0.75
    first: float = 0.5

    def site(self, view: SiteView) -> None:
        """Set the ratio; the data are not looked at."""
        neuron, steps = view.neuron, len(view.currents[0])
        if neuron.model.code != "phase":
            return
        before = neuron.model.reach(steps)
        ratio = self.first if view.constant else self.low + (self.high - self.low) * view.depth
        neuron.model = replace(neuron.model, ratio=ratio)
        neuron.threshold = neuron.threshold * (before / neuron.model.reach(steps))
