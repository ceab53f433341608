"""What a synchronous neuron sends, once it knows all of its input: a count, and how the count is laid out in time."""

from __future__ import annotations

import torch
from torch import Tensor

from tospike.neurons.model import NeuronModel


def count(wanted: Tensor, threshold: Tensor, start: Tensor, model: NeuronModel, time_steps: int) -> Tensor:
    """Return the count that a value is worth: ``n = clip(⌊a/u + φ⌋, 0, N)`` with ``u = θ·reach/N``.

    Without a limit in between, ``n·u`` is the value rounded to N levels: what the quantised ANN computes.

    Args:
        wanted: a, the activation of the mean current over all T steps ``[N, ...]``, in units of the ANN's activation.
        threshold: θ > 0, broadcastable to one sample of a, same unit.
        start: φ, the initial potential as a share of the smallest spike.
        model: A synchronous neuron; a signed one counts from −N.
        time_steps: T.

    Returns:
        n, integers shaped like a, held as floating point.

    Source: Hao et al., "Faster and stronger: when ANN-SNN conversion meets parallel spiking calculation", ICML 2025. Differs from the
    paper in: several levels per step, signs, and other codes.

    Example:
        >>> a, theta, half = torch.tensor([-0.2, 0.3, 0.7, 2.0]), torch.tensor(1.0), torch.tensor(0.5)
        >>> count(a, theta, half, NeuronModel(synchronous=True), 4)
        tensor([0., 1., 3., 4.])
    """
    most = model.counts(time_steps)
    counted = torch.floor(wanted / unit(threshold, model, time_steps) + start)
    return counted.clamp_(-most if model.signed else 0, most)


def random_count(
    wanted: Tensor, threshold: Tensor, start: Tensor, time_steps: int, generator: torch.Generator
) -> Tensor:
    """Draw how many spikes neurons send that fire at random: ``P(s(t) = θ) = clip(v/(θ·(T − t + 1)), 0, 1)``, ``v ← v − s``.

    Args:
        wanted: a, see `count`.
        threshold: θ, see `count`.
        start: v(0) as a share of θ.
        time_steps: T.
        generator: Where the random numbers come from.

    Returns:
        n, integers shaped like a, held as floating point.

    Source: Bojkovic, Wu and Gu, "Temporal misalignment in ANN-SNN conversion and its mitigation via probabilistic spiking neurons",
    ICML 2025. Differs from the paper in: nothing.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> random_count(torch.tensor([0.5, 1.0, -1.0]), torch.tensor(1.0), torch.tensor(0.0), 4, generator)[1:]
        tensor([4., 0.])
    """
    v = wanted * time_steps / threshold + start
    counted = torch.zeros_like(wanted)
    for left in range(time_steps, 0, -1):
        drawn = torch.rand(v.shape, generator=generator, device=v.device, dtype=v.dtype)
        fired = (drawn * left < v).to(v.dtype)
        v, counted = v - fired, counted + fired
    return counted


def unit(threshold: Tensor, model: NeuronModel, time_steps: int) -> Tensor:
    """Return ``u = θ·reach/N``, what a count of one adds to the mean emission over T steps.

    Example:
        >>> unit(torch.tensor(1.0), NeuronModel(synchronous=True), 4)
        tensor(0.2500)
    """
    return threshold * (model.reach(time_steps) / model.counts(time_steps))


def at_step(counted: Tensor, threshold: Tensor, model: NeuronModel, time_steps: int, t: int) -> Tensor:
    """Return the emission of step t of a count; the mean of all T of them is ``n·u``.

    Rate: up to K spikes of θ in each of the first steps. Bits: step t carries bit ``T − t``, worth ``2^(T−t)·u·T``. First: one
    spike worth ``n·u·T`` at step ``T − n + 1``.

    Args:
        counted: n, what `count` returned ``[N, ...]``.
        threshold: θ, see `count`.
        model: A synchronous neuron.
        time_steps: T.
        t: Step, from 1.

    Returns:
        The emission ``[N, ...]``, in units of the ANN's activation.

    Source: rate: Hao et al., ICML 2025; bits: Datta, Liu and Beerel, "When bio-inspired computing meets deep learning", 2023; first:
    Srivatsa et al., "You only spike once", 2020. Differs from the papers in: the value of a spike carries the weight of its
    step, so that every code is read out by the mean over time.

    Example:
        >>> n, theta = torch.tensor([0.0, 5.0, 2.0]), torch.tensor(1.0)
        >>> model = NeuronModel(synchronous=True, code="bits")
        >>> torch.stack([at_step(n, theta, model, 3, t) for t in (1, 2, 3)]).count_nonzero(0)
        tensor([0, 2, 1])
    """
    size = counted.abs()
    if model.code == "bits":
        place = 2.0 ** (time_steps - t)
        sent = torch.floor(size / place).remainder_(2.0) * place
    elif model.code == "first":
        sent = (size == time_steps - t + 1) * size
    else:
        sent = (size - (t - 1) * model.capacity).clamp_(0, model.capacity)
    return sent.copysign_(counted) * (unit(threshold, model, time_steps) * time_steps)
