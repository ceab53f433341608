"""Phase code over the depth of a network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tospike.parts.refiners import Refiner, SiteView

MORE_REACH = (1.5, 2.2, 3.3, 5.0)  # of phase code
LESS_REACH = (1.0, 0.8, 0.65, 0.5)  # of rate code, which has fewer levels to spend on it


@dataclass(frozen=True)
class Taper(Refiner):
    """Let phase code be fine in front, where currents are sure, and forgiving behind, where they still change.

    ``ratio = low + (high − low)·d``, d the share of Sites in front; ``first`` where the current is constant. The reach stays:
    ``θ ← θ·Σ old ratio^(t−1) / Σ new ratio^(t−1)``. Where currents change by more than the last steps can follow, a Site takes what does
    clearly better on the data: the same ratio with more reach, or rate code.

    Attributes:
        low: Ratio of the first Sites.
        high: Ratio of the last.
        first: Ratio where currents are constant; at 1/2 the steps are the bits of the activation.
        margin: Share of the squared error that another choice may have at most; 0 keeps phase code at this reach everywhere.
        batches: Batches on which choices are compared.

    Source: own construction.
    """

    low: float = 0.6
    high: float = 0.75
    first: float = 0.5
    margin: float = 0.7
    batches: int = 2

    def site(self, view: SiteView) -> None:
        """Choose code and reach of one Site."""
        neuron, steps = view.neuron, len(view.currents[0])
        reach = neuron.threshold * neuron.model.reach(steps)
        ratio = self.first if view.constant else self.low + (self.high - self.low) * view.depth
        phase = replace(neuron.model, ratio=ratio)
        neuron.model, neuron.threshold = phase, reach / phase.reach(steps)
        if not self.margin or steps == 1:
            return
        rate = replace(phase, code="rate")
        choices = [(phase, reach * more / phase.reach(steps)) for more in MORE_REACH]
        choices += [(rate, reach * less / rate.reach(steps)) for less in LESS_REACH]
        best = phase, neuron.threshold
        least = self.margin * self._error(view)
        for choice in choices:
            neuron.model, neuron.threshold = choice
            error = self._error(view)
            if error < least:
                best, least = choice, error
        neuron.model, neuron.threshold = best

    def _error(self, view: SiteView) -> float:
        numbers = range(min(self.batches, len(view.targets)))
        return sum(float((view.emissions(n).mean(0) - view.targets[n]).square().sum()) for n in numbers)
