"""Refiners: corrections of an SNN on its own, converted inputs, from the front of the network to its back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tospike.graph.capture import Site
from tospike.neurons.modules import Neuron


@dataclass(frozen=True)
class SiteView:
    """What a refiner sees of one Site.

    Attributes:
        site: The Site.
        neuron: Its neurons, changed in place.
        currents: Input currents of the SNN ``[T, N, ...]``, one tensor per batch, in units of the activation; in front of synchronous
            neurons, which know no more of them, their mean at every step.
        targets: Activations of the ANN ``[N, ...]``, one tensor per batch, same unit.
        preactivations: What the ANN has in front of them, likewise.
        depth: Share of the network's Sites that lie in front of it, 0 for the first and 1 for the last.
        constant: Whether the currents are the same at every step.
    """

    site: Site
    neuron: Neuron
    currents: Sequence[Tensor]
    targets: Sequence[Tensor]
    preactivations: Sequence[Tensor] = ()
    depth: float = 0.0
    constant: bool = False

    def emissions(self, number: int) -> Tensor:
        """Run the neurons on one batch as they are now, and return their emissions ``[T, N, ...]``; of synchronous ones their mean T times."""
        current = self.currents[number]
        if self.neuron.model.synchronous:
            steps = len(current)
            mean = self.neuron.mean_emission(self.neuron.count(current[0], steps), steps)
            return mean.expand(steps, *mean.shape)
        emissions: Tensor = self.neuron(current, self.neuron.initial(current[0]))[0]
        return emissions

    def squared_error(self) -> float:
        """Return the sum of the squared errors of the mean emissions, over all batches."""
        errors = (self.emissions(n).mean(0) - target for n, target in enumerate(self.targets))
        return sum(float(error.square().sum()) for error in errors)

    def averaged(self, error: Tensor) -> Tensor:
        """Average an error ``[..., N, ...]`` over the samples and over all that shares a channel; one sample's shape."""
        rank = len(self.site.shape)
        channel = error.ndim - 1 - rank + self.site.channel_axis
        axes = [axis for axis in range(error.ndim - rank - 1, error.ndim) if axis != channel]
        return error.mean(axes, keepdim=True).squeeze(error.ndim - rank - 1)


@dataclass(frozen=True)
class LayerView:
    """What a refiner sees of one layer with weights.

    Attributes:
        layer: The layer, changed in place; no other place of the network uses it.
        inputs: Mean input of the layer over time in the SNN ``[N, ...]``, one tensor per batch.
        missing: What its mean output lacks, or the sum that it joins, to what the ANN has there ``[N, ...]``, one tensor per batch.
        wanted: What the ANN has there, where that does nothing but enter a rectifier, for which all values below 0 are the same;
            None elsewhere.
    """

    layer: nn.Module
    inputs: Sequence[Tensor]
    missing: Sequence[Tensor]
    wanted: Sequence[Tensor] | None = None


class Refiner:
    """Base: looks at each Site and each layer once, in the order of execution, and corrects it."""

    def site(self, view: SiteView) -> None:
        """Correct the neurons of a Site."""
        return

    def layer(self, view: LayerView) -> None:
        """Correct the weights of a layer."""
        return


@dataclass(frozen=True)
class ChannelBias(Refiner):
    """Add to each channel's current what its mean emission lacks.

    ``b_c ← b_c + rate·E[a_c − φ_c(T)]``, a the ANN's activation, φ the SNN's mean emission over T steps.

    Attributes:
        rounds: How often.
        rate: Share of the error that each round corrects.

    Source: Li et al., "A free lunch from ANN: towards efficient, accurate spiking neural networks calibration", ICML 2021,
    section 4 (light pipeline). Differs from the paper in: several rounds, since neurons clip.
    """

    rounds: int = 4
    rate: float = 0.7

    def site(self, view: SiteView) -> None:
        """Correct the constant bias."""
        for _ in range(self.rounds):
            errors = [view.averaged(a - view.emissions(i).mean(0)) for i, a in enumerate(view.targets)]
            _add_bias(view.neuron, self.rate * torch.stack(errors).mean(0)[None])


@dataclass(frozen=True)
class StepBias(Refiner):
    """Give each channel a current of its own at every step, so that its mean emission is right at each of them.

    ``b_c(t) ← b_c(t) + rate·E[a_c − s_c(t)]``

    Attributes:
        rounds: How often.
        rate: Share of the error that each round corrects.

    Source: Wu, Bojkovic, Gu, Suo and Zou, "FTBC: forward temporal bias correction for optimizing ANN-SNN conversion", ECCV 2024.
    Differs from the paper in: all calibration batches enter each round.
    """

    rounds: int = 8
    rate: float = 0.5

    def site(self, view: SiteView) -> None:
        """Correct the bias of every step."""
        for _ in range(self.rounds):
            errors = [view.averaged(a - view.emissions(i)) for i, a in enumerate(view.targets)]
            _add_bias(view.neuron, self.rate * torch.stack(errors).mean(0))


@dataclass(frozen=True)
class ThresholdShift(Refiner):
    """Add the current that makes up half a threshold over T steps: ``b ← b + θ/(2T)``.

    Source: Deng and Gu, "Optimal conversion of conventional artificial neural networks to spiking neural networks", ICLR 2021, equation
    13. Differs from the paper in: nothing.
    """

    def site(self, view: SiteView) -> None:
        """Shift the bias; the data are not looked at."""
        _add_bias(view.neuron, (view.neuron.threshold / (2 * len(view.currents[0])))[None])


class ShiftScale(Refiner):
    """Shift the input of each channel to the mean that the ANN has there, then scale its output to the right mean.

    ``b_c ← b_c + E[z_c − I_c]``, ``g_c ← g_c·E[a_c]/E[φ_c]``, z the ANN's pre-activation, I the mean current, φ the mean emission.

    Source: Hao et al., "Faster and stronger: when ANN-SNN conversion meets parallel spiking calculation", ICML 2025 (DA-QCFS). Differs from
    the paper in: both corrections are computed from the calibration data at once, in place of running means with momentum.
    """

    def site(self, view: SiteView) -> None:
        """Correct bias and gain; a channel that sends nothing keeps its gain."""
        neuron, numbers = view.neuron, range(len(view.targets))
        lacks = [view.averaged(view.preactivations[i] - view.currents[i].mean(0)) for i in numbers]
        _add_bias(neuron, torch.stack(lacks).mean(0)[None])
        sent = torch.stack([view.averaged(view.emissions(i).mean(0)) for i in numbers]).mean(0)
        wanted = torch.stack([view.averaged(target) for target in view.targets]).mean(0)
        gain = torch.where(sent.abs() > 0, wanted / sent, 1.0).clamp(*GAINS).to(neuron.threshold.dtype)
        neuron.gain = gain if neuron.gain is None else neuron.gain * gain


GAINS = (0.5, 2.0)  # a channel that hardly ever fires on the calibration data tells no more


def _add_bias(neuron: Neuron, extra: Tensor) -> None:
    extra = extra.to(neuron.threshold.dtype)
    neuron.bias = extra if neuron.bias is None else neuron.bias + extra


@dataclass(frozen=True)
class Potential(Refiner):
    """Start each neuron where its mean emission comes out right.

    ``v_i(0) ← v_i(0) + T·E[a_i − φ_i(T)]``, the mean over samples alone, so that each neuron has its own.

    Attributes:
        limit: Largest change, as a share of θ.

    Source: Li et al., ICML 2021, section 4 (advanced pipeline). Differs from the paper in: the change is limited, since the
    mean of few samples is noisy.
    """

    limit: float = 0.5

    def site(self, view: SiteView) -> None:
        """Correct the initial potential."""
        errors = [(a - view.emissions(i).mean(0)).mean(0) for i, a in enumerate(view.targets)]
        change = len(view.currents[0]) * torch.stack(errors).mean(0) / view.neuron.threshold
        view.neuron.start = (view.neuron.start + change.clamp(-self.limit, self.limit)).to(view.neuron.threshold.dtype)
