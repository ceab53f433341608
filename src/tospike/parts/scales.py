"""Scales: what watches a Site on calibration data and returns its threshold."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from tospike import processes
from tospike.graph.capture import Site
from tospike.graph.kinds import TrainableActivation
from tospike.graph.rewrite import Rectifier
from tospike.parts.lying import count_above, excess, largest

Granularity = Literal["layer", "channel", "neuron"]
GRANULARITIES: tuple[Granularity, ...] = ("layer", "channel", "neuron")


def reduced_axes(site: Site, granularity: Granularity) -> tuple[int, ...]:
    """Return the axes of ``[N, ...]`` over which a threshold is shared.

    Raises nothing; a Site without axes beyond N has one threshold.
    """
    rank = len(site.shape) + 1
    kept = {"layer": set(), "channel": {site.channel_axis % rank}, "neuron": set(range(1, rank))}[granularity]
    return tuple(axis for axis in range(rank) if axis == 0 or axis not in kept)


class Scale(nn.Module):
    """Base: stands at a Site during calibration, passes the activation on, and learns a threshold from it.

    Args:
        site: Where it stands.
        granularity: What shares a threshold: the layer, each channel (feature of a linear layer), or each neuron alone.

    Attributes:
        function: The activation of the ANN at the Site.
        sums: Sum of the layer's thresholds after each batch, a log of convergence.
    """

    def __init__(self, site: Site, granularity: Granularity) -> None:
        super().__init__()
        self.site = site
        self.axes = reduced_axes(site, granularity)
        shape = [1 if axis in self.axes else size for axis, size in enumerate((1, *site.shape))][1:]
        self.register_buffer("theta", torch.zeros(shape))
        self.function: nn.Module = Rectifier(site.cap)
        self.sums: list[Tensor] = []

    theta: Tensor

    def threshold(self) -> Tensor:
        """Return θ, broadcastable to one sample of the Site, in units of the activation; 0 where nothing was active."""
        return self.theta

    def learn(self, z: Tensor) -> Tensor:
        """Return the new threshold after a batch of `magnitude` ``[N, ...]``."""
        raise NotImplementedError(f"{type(self).__name__} must define `learn`")

    def forward(self, z: Tensor) -> Tensor:
        """Learn from ``z`` and pass the activation on."""
        self.theta = self.learn(self.magnitude(z)).clamp(max=self.site.cap)
        self.sums.append(self.theta.sum())
        return self.activation(z)

    def activation(self, z: Tensor) -> Tensor:
        """Return what later layers see during calibration; the activation of the ANN by default."""
        return self.function(z)  # type: ignore[no-any-return]

    def magnitude(self, z: Tensor) -> Tensor:
        """Return what a threshold has to cover: the pre-activation of a ReLU, the absolute value of any other activation."""
        return z if isinstance(self.function, Rectifier) else self.function(z).abs()


class LocalBalance(Scale):
    """Local threshold balancing: raise θ by twice the mean excess, and clip with the raised θ.

    ``θ ← θ + 2·rate·mean(max(z − θ, 0))``, the mean over every element that shares θ, exceeding or not; output
    ``min(max(z, 0), θ)``. θ starts at 0 and never falls; after K batches about 1/(2K) of the elements exceed it.

    Args:
        site, granularity: See `Scale`.
        rate: Step size, 1 in the paper's code.

    Source: Bu, Li and Yu, "Inference-scale complexity in ANN-SNN conversion", CVPR 2025, section 4.2. Differs from the
    paper in: the mean replaces the sum, as in the authors' code; the cap of a ReLU6 bounds θ.
    """

    def __init__(self, site: Site, granularity: Granularity, rate: float = 1.0) -> None:
        super().__init__(site, granularity)
        self.rate = rate

    def learn(self, z: Tensor) -> Tensor:
        """Take one step of the update."""
        found, shared = excess(z, self.theta, self.axes), z.numel() // self.theta.numel()
        if processes.count() > 1:
            found, shared = processes.total(found), int(processes.total(found.new_tensor(shared)))
        return self.theta + (2.0 * self.rate / shared) * found

    def activation(self, z: Tensor) -> Tensor:
        """Clip with the threshold just learned, so that later layers balance against the clipped network."""
        if isinstance(self.function, Rectifier):  # whose cap bounds θ
            return z.clamp(torch.zeros_like(self.theta), self.theta)
        return self.function(z).minimum(self.theta).maximum(-self.theta)  # type: ignore[no-any-return]


class Percentile(Scale):
    """The largest over batches of a percentile of the activation.

    ``θ = max_batches quantile_p(max(z, 0))``, nearest rank.

    Args:
        site, granularity: See `Scale`.
        percentile: p in (0, 1]; 1 is the maximum.

    Source: Rueckauer et al., "Conversion of continuous-valued deep networks to efficient event-driven networks for image
    classification", Frontiers in Neuroscience 2017, section 2.2.2. Differs from the paper in: the maximum over batches, as
    in the baseline of the LTB paper's code, where the paper takes one percentile over all data.
    """

    def __init__(self, site: Site, granularity: Granularity, percentile: float) -> None:
        super().__init__(site, granularity)
        self.percentile = percentile

    def learn(self, z: Tensor) -> Tensor:
        """Raise θ to this batch's percentile."""
        size = z.numel() // self.theta.numel()
        above = size - round(self.percentile * (size - 1))  # the percentile is the largest value but (above - 1)
        if above == 1:
            return self.theta.maximum(processes.largest(largest(z, self.axes).reshape(self.theta.shape)))
        return self.theta.maximum(processes.largest(self._percentile(z, above)))

    def _percentile(self, z: Tensor, above: int) -> Tensor:
        """Return the percentile where it is above θ, and θ elsewhere; values up to θ need not be sorted."""
        theta = self.theta.to(z.dtype)
        raised = count_above(z, theta, self.axes) >= above
        if not raised.any():
            return theta
        if theta.numel() == 1:
            larger = z[~(z <= theta)]
            return larger.kthvalue(len(larger) - above + 1).values.expand_as(theta)
        kept = [axis for axis in range(z.ndim) if axis not in self.axes]
        groups = z.permute(*kept, *self.axes).flatten(0, len(kept) - 1)[raised.flatten()].flatten(1)
        found = theta.clone()
        found[raised] = groups.kthvalue(groups.shape[1] - above + 1, dim=1).values
        return found


class Learned(Scale):
    """The threshold that training left in the activation.

    ``θ = λ/reach``, λ the largest activation that training allowed.

    Args:
        site: Where it stands.
        trained: The activation.
        reach: Largest mean emission as a share of θ; see `NeuronModel.reach`.
    """

    def __init__(self, site: Site, trained: TrainableActivation, reach: float = 1.0) -> None:
        super().__init__(site, "layer")
        self.trained = trained
        learned = trained.threshold.detach() / reach
        self.theta = (learned if learned.ndim == 0 else learned.reshape(-1, *[1] * (len(site.shape) - 1))).clone()

    def learn(self, z: Tensor) -> Tensor:
        """Keep what was trained."""
        return self.theta

    def activation(self, z: Tensor) -> Tensor:
        """Quantise as in training."""
        return self.trained(z)  # type: ignore[no-any-return]
