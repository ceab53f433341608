"""Which phase code a Site takes: by its depth, or by what does best on the data."""

from __future__ import annotations

import math
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


@dataclass(frozen=True)
class FitCode(Refiner):
    """Try ratios and reaches of phase code, and rate code, at each Site; keep what errs least on the converted inputs.

    ``argmin Σ (a − φ(T))²`` over ratio and ``θ = m·reach/Σ ratio^(t−1)``, φ the mean emission. Where currents change until late, as in
    networks whose errors grow from layer to layer, a larger reach lets the neuron wait for them, and a larger ratio follows them.

    Attributes:
        ratios: Ratios to try.
        reaches: m of phase code, as multiples of the reach that the scale gave.
        rates: m of rate code, likewise.
        batches: Batches to compare on.
        traces: Neurons to compare on, times samples; images are thinned out to so many.

    Source: own construction.
    """

    ratios: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9)
    reaches: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    rates: tuple[float, ...] = (0.7, 1.0, 2.0)
    batches: int = 2
    traces: int = 200_000

    def site(self, view: SiteView) -> None:
        """Choose code, ratio and threshold."""
        neuron, steps = view.neuron, len(view.currents[0])
        reach = neuron.threshold * neuron.model.reach(steps)
        models = [(replace(neuron.model, code="phase", ratio=ratio), self.reaches) for ratio in self.ratios]
        models.append((replace(neuron.model, code="rate"), self.rates))
        thinned = self._thinned(view)
        best, least = (neuron.model, neuron.threshold), math.inf
        for model, multiples in models:
            for multiple in multiples:
                neuron.model, neuron.threshold = model, reach * (multiple / model.reach(steps))
                error = thinned.squared_error()
                if error < least:
                    best, least = (neuron.model, neuron.threshold), error
        neuron.model, neuron.threshold = best

    def _thinned(self, view: SiteView) -> SiteView:
        """Return a view of fewer positions; every channel keeps some, since thresholds are theirs."""
        currents, targets = view.currents[: self.batches], view.targets[: self.batches]
        shape = view.neuron.threshold.shape
        spatial = [axis for axis in range(len(shape)) if shape[axis] == 1 and view.site.shape[axis] > 1]
        surplus = sum(target.numel() for target in targets) / self.traces
        every = max(round(surplus ** (1 / max(len(spatial), 1))), 1)
        chosen = tuple(slice(None, None, every) if axis in spatial else slice(None) for axis in range(len(shape)))
        return replace(
            view, currents=[c[(slice(None), slice(None), *chosen)] for c in currents], targets=[t[(slice(None), *chosen)] for t in targets]
        )  # fmt: skip
