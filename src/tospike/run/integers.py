"""Layers on integer units: spikes of 8 bits times weights of 8 bits, or of 15 bits as two digits, summed exactly."""

# Binary spikes leave most of their 8 bits empty: a spike that is read as 254 beside one that is read as 1 meets both digits of a weight in
# one pass, 254·first + second, where other levels take a pass for each digit.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tospike.graph.layers import CONVOLUTIONS
from tospike.neurons.levels import Levels

DIGIT = 127  # largest integer of a digit
FINER = 2 * DIGIT  # how many units of the second digit make one of the first
PAIR = torch.tensor(
    [FINER + (1 << 8)], dtype=torch.int16
)  # a spike as two bytes, the lower one first: what it counts for in each digit
MOST = 2**31 // (FINER * DIGIT + DIGIT)  # weights of one output whose products with pairs cannot leave 32 bits
SAFE = 128  # largest product of level and weight, over 127, of which two fit into 16 bits

ONEDNN = "oneDNN, u8 x s8"
FLOAT_UNITS = "float units, integer weights"


@dataclass(frozen=True)
class Digits:
    """Weights as integers: ``w ≈ scale·(first + second/254)``, one scale for each output channel.

    Attributes:
        first: Integers in [-127, 127], shaped like the weights.
        second: Those of the second digit; None where weights have one.
        scale: Shape ``[outputs]``, in units of the weights.

    Example:
        >>> Digits.of(torch.tensor([[0.4, -1.0]]), 1).first
        tensor([[  51, -127]], dtype=torch.int8)
    """

    first: Tensor
    second: Tensor | None
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor, digits: int) -> Digits:
        """Round weights ``[outputs, ...]`` to integers of one digit or two; largest error 1/254 or 1/64,516 of the largest of an output."""
        exact = weight.detach().double()
        columns = (-1, *[1] * (weight.ndim - 1))
        scale = exact.flatten(1).abs().amax(1) / DIGIT
        scale = torch.where(scale > 0, scale, 1.0)  # outputs without weights
        first = (exact / scale.view(columns)).round()
        second = None
        if digits == 2:
            second = ((exact / scale.view(columns) - first) * FINER).round().to(torch.int8)
        return cls(first.to(torch.int8), second, scale.float())

    def weight(self) -> Tensor:
        """Return the weights that the integers stand for."""
        digits = self.first.double() if self.second is None else self.first.double() + self.second.double() / FINER
        return (digits * self.scale.double().view(-1, *[1] * (self.first.ndim - 1))).float()


class IntegerLayer:
    """A convolution or linear layer that reads levels; what a level is worth is folded into its weights.

    Args:
        module: The layer; its weights are not changed.
        unit: Worth of a level, for each input channel of a convolution or each input of a linear layer; or one for all.
        zero: Which integer is worth nothing.
        largest: The largest level.
        digits: 1 or 2, of 8 bits each.
        written: Number format of the output, to which exact sums are rounded.
        native: Whether to use integer units; if not, floating point computes the same with the integer weights.
    """

    def __init__(
        self, module: Any, unit: Tensor, zero: int, largest: int, digits: int, written: torch.dtype = torch.float32, *, native: bool
    ) -> None:  # fmt: skip
        self.module, self.zero, self.native, self.written = module, zero, native, written
        direct = written is torch.bfloat16 and torch.cpu._is_avx512_bf16_supported()
        self.number = written if direct else torch.float32  # in which the units write
        weight: Tensor = module.weight.detach()
        self.digits = Digits.of(weight * spread(unit, weight, getattr(module, "groups", 1)), digits)
        self.bias = None if self.module.bias is None else self.module.bias.detach().float()
        self.silent = torch.zeros(len(weight), dtype=torch.int32)  # zero points of the weights
        first, second, scale = self.digits.first, self.digits.second, self.digits.scale
        self.paired = second is not None and native and (zero, largest) == (0, 1) and _takes_pairs(module)
        parts = [(first, scale)]
        if second is not None:
            finer = (second, scale / FINER)
            parts = [(torch.stack([first, second], 2).flatten(1, 2), finer[1])] if self.paired else [*parts, finer]
        if native:
            self.packed = [(self._pack(digit, worth), worth) for digit, worth in parts]
        else:
            self.weight = self.digits.weight()

    def __call__(self, values: Tensor) -> Tensor:
        """Return the layer's output ``[N, ...]`` for integers ``[N, ...]``."""
        if not self.native:
            y = self._call_float(values.float().sub_(self.zero) if self.zero else values.float())
        else:
            given = _pairs(values) if self.paired else values
            y = self._call_linear(given) if isinstance(self.module, nn.Linear) else self._call_convolution(given)
        return y.to(self.written)

    def _call_convolution(self, values: Tensor) -> Tensor:
        module = self.module
        settings = (
            list(module.stride),
            list(module.padding),
            list(module.dilation),
            module.groups,
            1.0,
            0,
            self.number,
        )
        kernels: Any = torch.ops.onednn
        plain = (
            kernels.qconv2d_pointwise
            if values.ndim == 4
            else (kernels.qconv1d_pointwise if values.ndim == 3 else kernels.qconv3d_pointwise)
        )
        (packed, scale), *finer = self.packed
        y = plain(values, 1.0, self.zero, packed, scale, self.silent, self.bias, *settings, "none", [], "")
        for packed, scale in finer:  # added to the output of the first digit, in place where there is a kernel for it
            if values.ndim == 4:
                y = kernels.qconv2d_pointwise.binary(
                    values, 1.0, self.zero, packed, scale, self.silent, y, None, *settings, 1.0, 0, "sum", 1.0, "none", [], ""
                )  # fmt: skip
            else:
                y += plain(values, 1.0, self.zero, packed, scale, self.silent, None, *settings, "none", [], "")
        return y  # type: ignore[no-any-return]

    def _call_linear(self, values: Tensor) -> Tensor:
        rows = values.reshape(-1, values.shape[-1])
        kernels: Any = torch.ops.onednn
        (packed, scale), *finer = self.packed
        y = kernels.qlinear_pointwise(
            rows, 1.0, self.zero, packed, scale, self.silent, self.bias, 1.0, 0, self.number, "none", [], ""
        )
        for packed, scale in finer:
            y += kernels.qlinear_pointwise(
                rows, 1.0, self.zero, packed, scale, self.silent, None, 1.0, 0, self.number, "none", [], ""
            )
        return y.unflatten(0, values.shape[:-1])  # type: ignore[no-any-return]

    def _call_float(self, levels: Tensor) -> Tensor:
        weight, bias, module = self.weight.to(levels.device), self.bias, self.module
        if isinstance(module, nn.Linear):
            return functional.linear(levels, weight, bias)
        convolve: Any = getattr(functional, f"conv{levels.ndim - 2}d")
        return convolve(levels, weight, bias, module.stride, module.padding, module.dilation, module.groups)  # type: ignore[no-any-return]

    def _pack(self, digit: Tensor, scale: Tensor) -> Any:
        module, kernels = self.module, torch.ops.onednn
        if isinstance(module, nn.Linear):
            return kernels.qlinear_prepack(digit, None)
        return kernels.qconv_prepack(
            digit, scale, 1.0, self.zero, list(module.stride), list(module.padding), list(module.dilation), module.groups, None
        )  # fmt: skip


def _takes_pairs(module: Any) -> bool:
    """Tell whether both digits of a layer's weights are multiplied in one pass.

    Where a value is read once for each output, as by linear layers and kernels of one place, pairs cost more than they save; with two inputs in
    a group, no kernel for depthwise layers fits any more.
    """
    wide = isinstance(module, nn.Conv2d) and module.in_channels > module.groups and module.weight[0, 0].numel() > 1
    return wide and vnni() and module.weight[0].numel() <= MOST


def _pairs(spikes: Tensor) -> Tensor:
    """Return each of the integers 0 and 1 as two, of which the first counts `FINER` times: twice as many channels, those of a pair side by side."""
    pairs = torch.mul(spikes.permute(0, 2, 3, 1).contiguous(), PAIR)
    return pairs.view(torch.uint8).permute(0, 3, 1, 2)


def spread(unit: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return the unit of each input for each weight of ``[outputs, inputs / groups, ...]``."""
    if unit.numel() == 1:
        return unit.reshape([1] * weight.ndim)
    if groups == 1:
        return unit.view(1, -1, *[1] * (weight.ndim - 2))
    each = unit.view(groups, -1).repeat_interleave(len(weight) // groups, 0)
    return each.view(len(weight), -1, *[1] * (weight.ndim - 2))


def unit_of_inputs(module: nn.Module, levels: Levels) -> Tensor | None:
    """Return what a level is worth for each input channel, or each input of a linear layer; None where it differs within one."""
    unit, sample = levels.unit.detach(), levels.values.shape[1:]
    if unit.numel() == 1:
        return unit.reshape(1)
    axis = len(sample) - 1 if isinstance(module, nn.Linear) else 0
    shape = (1,) * (len(sample) - unit.ndim) + tuple(unit.shape)
    if any(size != 1 for d, size in enumerate(shape) if d != axis):
        return None
    return unit.reshape(-1)


def obstacle(module: nn.Module | None, levels: Any) -> str:
    """Return why a layer that reads levels cannot fold what these are worth into its weights; empty if it can."""
    if not isinstance(levels, Levels):
        return "it multiplies spikes by what are none"
    if not isinstance(module, (*CONVOLUTIONS, nn.Linear)):
        return f"{'a product of signals' if module is None else type(module).__name__} has no kernel for levels"
    if isinstance(module, CONVOLUTIONS) and (isinstance(module.padding, str) or module.padding_mode != "zeros"):
        return f"padding={module.padding!r}, padding_mode={module.padding_mode!r}"
    if unit_of_inputs(module, levels) is None:
        return "what a spike is worth differs within a channel"
    return ""


def units_for(levels: Levels, device: torch.device) -> tuple[bool, str]:
    """Tell whether integer units can read levels here, and what stands in the report."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False, f"{FLOAT_UNITS}: no integer kernels for {device.type}"
    if not vnni() and levels.zero + levels.largest > SAFE:
        return (
            False,
            f"{FLOAT_UNITS}: without VNNI, sums of levels up to {levels.zero + levels.largest} overflow 16 bits",
        )
    return True, ONEDNN


def vnni() -> bool:
    """Tell whether the CPU multiplies integers of 8 bits into sums of 32 bits."""
    return bool(torch.cpu._is_vnni_supported())
