"""Pure step functions of neurons: potential and current in, emission and potential out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tospike.graph.rewrite import Rectifier
from tospike.neurons.model import NeuronModel


def if_step(v: Tensor, x: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Advance integrate-and-fire neurons by one time step, with reset by subtraction.

    ``u = v + x``;  ``s = θ·1(u ≥ θ)``;  ``v' = u − s``

    Args:
        v: Membrane potential ``[N, ...]``, in units of the ANN's activation.
        x: Input current of this step, shaped like ``v``, same unit.
        threshold: θ > 0, broadcastable to one sample of ``v``, same unit.

    Returns:
        The spikes, 0 or θ, and the new potential, both shaped like ``v``.

    Source: Bu et al., ICLR 2022, equations 1 to 4. Differs from the paper in: nothing.

    Example:
        >>> if_step(torch.tensor([0.5]), torch.tensor([0.7]), torch.tensor(1.0))
        (tensor([1.]), tensor([0.2000]))
    """
    charged = v + x
    spikes = (charged >= threshold) * threshold
    return spikes, charged - spikes


def emit(u: Tensor, threshold: Tensor, model: NeuronModel) -> Tensor:
    """Return what a neuron emits at a potential.

    Uniform: ``θ·clip(⌊u/θ⌋, −K, K)``; nearest: the one of ``0, ±θ, ±θ/2 … ±θ/2^(K−1)`` that is nearest to u; successive: the
    largest sum of different ones of these that is not above u, ``θ'·clip(⌊u/θ'⌋, 1 − 2^K, 2^K − 1)`` with ``θ' = θ/2^(K−1)``.
    Unsigned neurons have no negative levels.

    Args:
        u: Potential ``[N, ...]``, in units of the ANN's activation.
        threshold: θ > 0, broadcastable to one sample of ``u``, same unit.
        model: The neuron.

    Returns:
        The emission, shaped like ``u``, same unit.

    Source: uniform levels: Li and Zeng, "Efficient and accurate conversion of spiking neural network with burst spikes",
    IJCAI 2022; nearest levels: Huang et al., "Towards high-performance spiking transformers from ANN to SNN conversion",
    ACM MM 2024; successive levels: Zhang et al., "Harmony multi-threshold neurons", AAAI 2026. Differs from the papers in:
    levels of every kind can be signed.

    Example:
        >>> u, theta = torch.tensor([-0.4, 0.3, 0.8, 2.9]), torch.tensor(1.0)
        >>> emit(u, theta, NeuronModel(capacity=2, signed=True))
        tensor([-1.,  0.,  0.,  2.])
        >>> emit(u, theta, NeuronModel(capacity=3, levels="nearest", signed=True))
        tensor([-0.5000,  0.2500,  1.0000,  1.0000])
    """
    if model.levels != "nearest":
        most, unit = model.capacity, threshold
        if model.levels == "successive":
            most, unit = 2**model.capacity - 1, threshold * 0.5 ** (model.capacity - 1)
        return (u / unit).floor_().clamp_(-most if model.signed else 0, most).mul_(unit)
    magnitude = u.abs() / threshold if model.signed else u.clamp_min(0.0) / threshold
    # Halfway between 2^k and 2^(k+1) lies 1.5·2^k, so |u|/1.5 rounds up to the right power; frexp rounds exactly.
    power = torch.frexp(magnitude * (2.0 / 3.0))[1].clamp_(1 - model.capacity, 0)
    level = torch.ldexp(torch.ones_like(magnitude), power)
    silent = magnitude < 0.5**model.capacity
    return level.masked_fill_(silent, 0.0).mul_(threshold).copysign_(u)


def track_step(
    charge: Tensor,
    sent: Tensor,
    goal: Tensor,
    threshold: Tensor,
    emission_of: Callable[[Tensor, Tensor], Tensor],
    done: int | None = None,
    rest: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Emit what is missing to a goal that is a function of all charge so far, and remember what was sent.

    ``u = goal(Q_t) + v(0) − S_{t−1} − h``;  ``e = h + emit(u)``;  ``S_t = S_{t−1} + e``. What silence is worth is h: 0, or the rest; with codes whose
    receiver holds the mean so far, ``h = S_{t−1}/(t − 1)`` behind the first step, and spikes only change it. With h = 0, ``goal = max(Q, 0)``, uniform levels
    and no limit per step, ``S_t = θ·max(0, ⌊(Q_t + v(0))/θ⌋)``: a function of the charge alone, so no order of arrival matters.

    Args:
        charge: v(0), the potential before the first step ``[...]``, in units of the ANN's activation.
        sent: S, the sum of what was emitted ``[N, ...]``, same unit.
        goal: What should have been sent by now, ``[N, ...]``, same unit.
        threshold: θ, broadcastable to one sample, same unit.
        emission_of: Returns the emission for a potential and θ: `emit` of a signed neuron, or one that has gradients.
        done: Steps done, t − 1, where the receiver holds the mean; None where it does not.
        rest: What silence is worth at this step, broadcastable to one sample, same unit; None for nothing.

    Returns:
        The emission and the new sum of emissions, both ``[N, ...]``.

    Source: Wang, Zhang, Chen and Qu, "Signed neuron with memory", IJCAI 2022. Differs from the paper in: the goal may be any
    function, so that leaky and smooth activations have neurons too; v(0) = θ/2; several levels per step; silence may be worth something.

    Example:
        >>> ternary = lambda u, theta: emit(u, theta, NeuronModel(signed=True))
        >>> track_step(torch.tensor(0.5), torch.tensor([1.0]), torch.tensor([0.2]), torch.tensor(1.0), ternary)
        (tensor([-1.]), tensor([0.]))
    """
    held = (
        1.0 / done if done else 0.0
    )  # each product is rounded before it is added, so that all ways to compute this agree
    missing = (goal - (sent * (1.0 + held) if held else sent)).add_(charge)
    emission = emission_of(missing if rest is None else missing.sub_(rest), threshold)
    if held:
        emission = emission.add_(sent * held)
    if rest is not None:
        emission = emission.add_(rest)
    return emission, sent + emission


def expected_start(currents: Tensor, start: Tensor, threshold: Tensor) -> Tensor:
    """Return initial potentials from which integrate-and-fire neurons send what their whole charge is worth.

    Wanted is ``n = clip(⌊(Q + v(0))/θ⌋, 0, ρ)``. Where ρ steps give more spikes, v(0) falls by ``max(θ, least potential that
    fired)``; where they give fewer, it rises by ``max(θ, θ − largest potential that did not fire)``; at most ρ times.

    Args:
        currents: Input currents of the pre-run ``[ρ, N, ...]``, in units of the ANN's activation.
        start: v(0), shaped like one step, same unit.
        threshold: θ, broadcastable to one sample, same unit.

    Returns:
        The initial potentials, shaped like one step.

    Source: Hao et al., "Bridging the gap between ANNs and SNNs by calibrating offset spikes", ICLR 2023. Differs from the paper in:
    errors are measured against the charge from the first v(0), so that a shifted start is not taken for an error.

    Example:
        >>> late = torch.tensor([[0.0], [2.0]])  # worth two spikes, but only one step is left when it comes
        >>> expected_start(late, torch.tensor([0.5]), torch.tensor(1.0))
        tensor([1.5000])
    """
    wanted = torch.floor((currents.sum(0) + start) / threshold).clamp_(0, len(currents))
    found = start
    for _ in range(len(currents)):
        v, counted = found, torch.zeros_like(start)
        least, largest = torch.full_like(start, torch.inf), torch.full_like(start, -torch.inf)
        for x in currents:
            charged = v + x
            fired = charged >= threshold
            least = torch.where(fired, least.minimum(charged), least)
            largest = torch.where(fired, largest, largest.maximum(charged))
            counted = counted + fired
            v = charged - fired * threshold
        down = torch.where(counted > wanted, least.maximum(threshold.expand_as(start)), 0.0)
        up = torch.where(counted < wanted, (threshold - largest).maximum(threshold.expand_as(start)), 0.0)
        found = found - down + up
    return found


def goal(charge: Tensor, t: int, function: Callable[[Tensor], Tensor], *, homogeneous: bool) -> Tensor:
    """Return the sum that a neuron should have sent after t steps: ``t·f(Q/t)``, which is ``f(Q)`` where f is homogeneous.

    Args:
        charge: Q, the sum of all currents ``[N, ...]``, in units of the ANN's activation.
        t: Steps done, from 1.
        function: f, the activation of the ANN.
        homogeneous: Whether ``f(tx) = t·f(x)``.

    Example:
        >>> goal(torch.tensor([-4.0, 8.0]), 2, torch.nn.ReLU6(), homogeneous=False)
        tensor([0., 8.])
    """
    if isinstance(function, Rectifier):
        return charge.clamp(0.0, t * function.cap)
    return function(charge) if homogeneous else t * function(charge / t)
