"""Weights that fit the inputs which the SNN gives them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tospike.parts.refiners import LayerView, Refiner

_Layer = nn.Linear | nn.Conv1d | nn.Conv2d


@dataclass(frozen=True)
class Reconstruct(Refiner):
    """Fit the weights of each layer to the inputs that the SNN gives it, in closed form.

    ``ΔW = argmin Σ e(ΔW·x̄)² + ridge·E‖x̄‖²·‖ΔW‖²``, x̄ the layer's mean input in the SNN with a constant 1 appended. The error e is
    ``max(z, 0) − max(z' + ΔW·x̄, 0)`` where a rectifier follows, z the ANN's pre-activation and z' the SNN's, and else without the
    maximum. Each round solves a linear problem in which outputs that are rightly below 0 stay where the round before put them.

    Attributes:
        ridge: Strength of the pull to the ANN's weights.
        rounds: Rounds, of which only the first is needed where no rectifier follows.
        positions: Output positions that are sampled from each batch of a convolution.

    Source: own construction, in the spirit of the weight calibration of Li et al., ICML 2021, section 4, which descends a
    gradient instead. Differs from the paper in: a linear fit, so there is nothing to train.
    """

    ridge: float = 0.02
    rounds: int = 4
    positions: int = 5_000

    def layer(self, view: LayerView) -> None:
        """Fit one layer; a layer that is neither linear nor a plain convolution stays."""
        layer = view.layer
        if (
            not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d))
            or getattr(layer, "padding_mode", "zeros") != "zeros"
        ):
            return
        rows, missing, wanted = self._rows(layer, view)
        gram = rows.mT @ rows
        diagonal = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        factor = torch.linalg.cholesky(gram + (self.ridge * diagonal + 1e-9) * eye)
        change = torch.cholesky_solve(rows.mT @ missing, factor)  # [G, K + 1, out / G]
        for _ in range(self.rounds - 1 if wanted is not None else 0):
            assert wanted is not None
            moved = rows @ change
            now = wanted - missing
            needed = torch.where(wanted > 0, missing, torch.where(now + moved > 0, -now, moved))
            change = torch.cholesky_solve(rows.mT @ needed, factor)
        weight = change[:, :-1].mT.reshape(layer.weight.shape)
        with torch.no_grad():
            layer.weight += weight.to(layer.weight.dtype)
            bias = change[:, -1].reshape(-1).to(layer.weight.dtype)
            layer.bias = nn.Parameter(bias if layer.bias is None else layer.bias + bias, requires_grad=False)

    def _rows(self, layer: _Layer, view: LayerView) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return inputs ``[G, P, K + 1]`` with what their outputs ``[G, P, out / G]`` lack, and what the ANN has there."""
        rows, missing, wanted = [], [], []
        for number, x in enumerate(view.inputs):
            inputs = _inputs(layer, x)
            count = inputs.shape[1]
            kept = torch.randperm(count, device=x.device)[: self.positions] if count > self.positions else slice(None)
            rows.append(inputs[:, kept].double())
            missing.append(_outputs(layer, view.missing[number])[:, kept].double())
            if view.wanted is not None:
                wanted.append(_outputs(layer, view.wanted[number])[:, kept].double())
        joined = torch.cat(rows, 1)
        joined = torch.cat([joined, torch.ones_like(joined[..., :1])], -1)
        return joined, torch.cat(missing, 1), torch.cat(wanted, 1) if wanted else None


def _inputs(layer: _Layer, x: Tensor) -> Tensor:
    """Return the inputs of every output position of a layer ``[G, P, K]``, K of each group."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    patches = _patches(layer, x.unsqueeze(2) if isinstance(layer, nn.Conv1d) else x)  # [N, C·k, P]
    return patches.permute(1, 0, 2).reshape(layer.groups, patches.shape[1] // layer.groups, -1).mT


def _outputs(layer: _Layer, y: Tensor) -> Tensor:
    """Return the outputs of a layer ``[N, ...]`` as ``[G, P, out / G]``."""
    if isinstance(layer, nn.Linear):
        return y.reshape(1, -1, y.shape[-1])
    return y.flatten(2).permute(1, 0, 2).reshape(layer.groups, y.shape[1] // layer.groups, -1).mT


def _patches(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """Return the inputs of each output position, ``[N, C·k, P]``; a 1-d layer has its images one pixel high."""
    wide = [(1,) * (2 - len(pair)) + tuple(pair) for pair in (layer.kernel_size, layer.dilation, layer.stride)]
    pads = [0, 0, 0, 0]
    pads[: 2 * len(layer.kernel_size)] = layer._reversed_padding_repeated_twice
    kernel, dilation, stride = wide
    return nn.functional.unfold(nn.functional.pad(x, pads), kernel, dilation, 0, stride)
