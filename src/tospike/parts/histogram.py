"""Scales that fit a threshold to the distribution of an activation and to the number of levels that will be sent."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from tospike import processes
from tospike.errors import CalibrationError
from tospike.graph.capture import Site
from tospike.neurons.fused import NUMBERS, SMALLEST, available
from tospike.neurons.threads import in_parallel
from tospike.parts.lying import largest, spans
from tospike.parts.scales import Granularity, Scale

BINS = 1024
PER_SITE, PER_THRESHOLD = 2**16, 2**12  # values of a batch that are enough for histograms, whichever is more
ENOUGH = 64  # values whose largest say where to clip, however many levels there are: behind a global pool each sample gives but one
SHARE = 2**17  # values from which one more thread pays
TINY = torch.finfo(torch.float32).tiny
CANDIDATES = 160  # clips that are tried, from 1/50 of the largest activation up to it, equally far apart in logarithm


def best_clip(mass: Tensor, top: Tensor, levels: int) -> Tensor:
    """Return the clip c for which rounding to N levels costs least.

    ``argmin_c E[(a − (c/N)·clip(⌊a·N/c + ½⌋, 0, N))²]`` over a grid of c.

    Args:
        mass: Histogram ``[G, B]`` of an activation a ≥ 0 in B equal bins from 0 to its largest value.
        top: Largest value ``[G]``, in units of the activation.
        levels: N, the number of non-zero levels.

    Returns:
        c, ``[G]``, in units of the activation; 0 where the activation is 0 throughout.

    Source: Li et al., "A free lunch from ANN: towards efficient, accurate spiking neural networks calibration", ICML 2021,
    section 4. Differs from the paper in: the search runs over a histogram, not over the activations.

    Example:
        >>> best_clip(torch.ones(1, 1000), torch.tensor([1.0]), levels=2).round(decimals=1)
        tensor([0.8000])
    """
    shares, costs = _costs(mass.shape[1], levels)
    least = (mass.double() @ costs.to(mass.device)).argmin(1)
    return shares.to(top)[least] * top


@functools.lru_cache(maxsize=64)
def _costs(bins: int, levels: int) -> tuple[Tensor, Tensor]:
    """Return the clips that are tried, as shares of the largest value, and what each costs a value in each bin ``[B, clips]``.

    They are the same for all histograms, so that all errors at all clips are one matrix product.
    """
    centres = (torch.arange(bins, dtype=torch.float64)[:, None] + 0.5) / bins
    shares = torch.logspace(math.log10(0.02), 0.0, CANDIDATES, dtype=torch.float64)
    rounded = (centres * (levels / shares) + 0.5).floor_().clamp_(max=levels) * (shares / levels)
    return shares, (centres - rounded).square()


def sampled(z: Tensor, axes: tuple[int, ...], channel_axis: int) -> Tensor:
    """Return enough values of each threshold, evenly from a batch, as ``[values, thresholds]``.

    ``z[0], z[k], z[2k], …`` in the order of samples, places and channels, where k shares no divisor with the number of values of a
    sample: so it is not always the same places that are taken. All values where a batch has at most 2¹⁶ of them, or 2¹² for each threshold.

    Args:
        z: ``[N, ...]``.
        axes: Those that share a threshold.
        channel_axis: Of z.

    Example:
        >>> sampled(torch.arange(24.0).reshape(2, 3, 4), (0, 2), 1)[:2]
        tensor([[0., 4., 8.],
                [1., 5., 9.]])
    """
    channel = channel_axis % z.ndim
    shared = sorted(axes, key=lambda axis: (axis == channel, axis))  # so that no order in memory is turned around
    rows = z.permute(*shared, *(axis for axis in range(z.ndim) if axis not in axes))
    count = math.prod(rows.shape[: len(shared)])
    groups = math.prod(rows.shape[len(shared) :])
    each, step = count // max(len(z), 1), max(1, -(-count // max(PER_THRESHOLD, PER_SITE // groups)))
    while math.gcd(step, each) > 1:
        step += 1
    return rows.reshape(count, groups)[::step]


def add(rows: Tensor, cap: float, scale: Tensor, mass: Tensor) -> None:
    """Add values to the histograms of their thresholds, rectified and capped.

    Args:
        rows: ``[values, thresholds]``.
        cap: Largest value.
        scale: Bins for each unit of the value, ``[thresholds]``.
        mass: ``[thresholds, bins]``, changed in place.
    """
    scale = scale.to(rows.dtype)
    if rows.numel() >= SMALLEST and rows.device.type == "cpu" and rows.dtype in NUMBERS and available("numba"):
        _count(rows.detach().contiguous(), cap, scale, mass)
        return
    groups, bins = mass.shape
    found = (rows.clamp(0.0, cap) * scale).long().clamp_(0, bins - 1) + bins * torch.arange(groups, device=rows.device)
    mass += torch.bincount(found.flatten(), minlength=mass.numel()).reshape(mass.shape)


def _count(rows: Tensor, cap: float, scale: Tensor, mass: Tensor) -> None:
    from tospike.parts import kernels  # compiles, so it is left until it is needed

    row, groups = rows.view(-1).numpy(), len(scale)
    found, counted, per_bin = np.empty(len(row), np.uint16), mass.numpy(), scale.numpy()
    marks = spans(len(row), groups, SHARE)
    parts = len(marks) - 1
    ends = [part * groups // parts for part in range(parts + 1)]

    def bins_of(part: int) -> None:
        own = slice(marks[part], marks[part + 1])
        kernels.bins_of(row[own], row.dtype.type(cap), per_bin, mass.shape[1] - 1, found[own])

    in_parallel(bins_of, parts)
    in_parallel(lambda part: kernels.count(found, ends[part], ends[part + 1], counted), parts)


class MinimalError(Scale):
    """The threshold with which N levels reproduce the activation best, in the mean square; see `best_clip`.

    ``θ = c/reach``. It is made for the T that will be run: 1.2 standard deviations at one binary step, 3.6 at 64. A channel that is seldom
    active on calibration data may be so elsewhere: ``θ_g ← max(θ_g, floor·√mean θ²)``, the mean over all thresholds of the layer above 0.

    Args:
        site, granularity: See `Scale`.
        levels: N, K·T for neurons of K levels; see `NeuronModel.counts`.
        reach: Largest mean emission as a share of θ; see `NeuronModel.reach`.
        floor: Smallest threshold, as a share of the root mean square of those of the layer; 0 for none.

    Source: Li et al., ICML 2021, section 4. Differs from the paper in: see `best_clip`; several levels per step; the floor.
    """

    def __init__(
        self, site: Site, granularity: Granularity, levels: int, reach: float = 1.0, floor: float = 0.0
    ) -> None:
        super().__init__(site, granularity)
        self.levels = min(levels, BINS)  # finer levels than bins cannot be told apart
        self.reach, self.floor = reach, floor
        groups = self.theta.numel()
        self.register_buffer("mass", torch.zeros(groups, BINS, dtype=torch.float64))
        self.register_buffer("top", torch.zeros(groups))
        self.seen = 0

    mass: Tensor
    top: Tensor

    def learn(self, z: Tensor) -> Tensor:
        """Add a batch to the histograms, whose range doubles when a larger activation arrives."""
        self._widen(processes.largest(largest(z, self.axes).clamp_max(self.site.cap)))
        add(sampled(z, self.axes, self.site.channel_axis), self.site.cap, BINS / self.top.clamp_min(TINY), self.mass)
        self.seen += z.numel() // self.theta.numel()
        return self.top.reshape(self.theta.shape)

    def _widen(self, needed: Tensor) -> None:
        if bool((needed <= self.top).all()):
            return
        if not bool(
            needed.isfinite().all()
        ):  # no range holds it; the threshold becomes NaN, which the calibration reports
            self.top = torch.where(needed.isfinite(), self.top, math.nan)
            return
        self.top = torch.where(self.top == 0, needed, self.top)
        while bool((needed > self.top).any()):
            wide = needed > self.top
            halved = self.mass[wide].reshape(-1, BINS // 2, 2).sum(2)
            self.mass[wide] = torch.cat([halved, torch.zeros_like(halved)], 1)
            self.top = torch.where(wide, 2.0 * self.top, self.top)

    def threshold(self) -> Tensor:
        """Return θ for the distribution seen so far.

        Raises:
            CalibrationError: Fewer activations were seen than there are levels, and than the tail of a distribution takes.
        """
        seen, enough = int(processes.total(torch.tensor(self.seen, device=self.top.device))), min(self.levels, ENOUGH)
        if seen < enough:
            raise CalibrationError(
                "Too few calibration data for a histogram", where=f"Site {self.site.name} ({self.site.operation.where})",
                got=f"{seen} activations for each threshold", expected=f"at least {enough}",
                remedy="Calibrate on more samples: raise batches=, or let the loader yield more.",
            )  # fmt: skip
        theta = best_clip(processes.total(self.mass), self.top, self.levels).reshape(self.theta.shape) / self.reach
        live = theta > 0
        lowest = self.floor * theta.square().sum().div(live.sum().clamp_min(1)).sqrt()
        return torch.where(live, theta.maximum(lowest), theta)


class GaussianPoint(Scale):
    """The threshold of `MinimalError` for a normal distribution with the mean and variance of the pre-activation.

    ``z ~ N(μ, σ²)``, ``a = max(z, 0)``; ``θ = c/reach`` with c from `best_clip` for the density of a.

    Args:
        site, granularity: See `Scale`.
        levels: N.
        reach: See `MinimalError`.

    Source: Huang et al., "Differential coding for training-free ANN-to-SNN conversion", ICML 2025. Differs from the paper in:
    a grid search over the density replaces the fixed-point iteration; both find the same minimum.
    """

    def __init__(self, site: Site, granularity: Granularity, levels: int, reach: float = 1.0) -> None:
        super().__init__(site, granularity)
        self.levels, self.reach = levels, reach
        self.register_buffer("moments", torch.zeros(3, *self.theta.shape, dtype=torch.float64))

    moments: Tensor

    def learn(self, z: Tensor) -> Tensor:
        """Add a batch to count, sum and sum of squares."""
        wide = z.double()
        sums = [wide.new_full(self.theta.shape, z.numel() / self.theta.numel())]
        sums += [part.sum(self.axes, keepdim=True)[0] for part in (wide, wide.square())]
        self.moments += torch.stack(sums)
        return (self.moments[1] / self.moments[0]).clamp_min(0.0).to(self.theta.dtype)  # for the log alone

    def threshold(self) -> Tensor:
        """Return θ for the moments seen so far; 0 for a channel whose density has no positive part."""
        count, total, squares = processes.total(self.moments)
        mean = total / count.clamp_min(1)
        deviation = (squares / count.clamp_min(1) - mean.square()).clamp_min(0).sqrt()
        top = (mean + 6.0 * deviation).clamp_min(0.0).clamp_max(self.site.cap).flatten()
        centres = (torch.arange(BINS, device=top.device) + 0.5) / BINS
        # Without spread the density would vanish between the centres; a bin's width of it picks the nearest.
        width = deviation.flatten().maximum(top / BINS).clamp_min(1e-12)
        scaled = (top[:, None] * centres - mean.flatten()[:, None]) / width[:, None]
        found = best_clip(torch.exp(-0.5 * scaled.square()), top, self.levels).reshape(self.theta.shape)
        return (found / self.reach).to(self.theta.dtype)
