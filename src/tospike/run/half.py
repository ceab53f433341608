"""Layers in half precision: spikes are exact in it, and weights are rounded to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tospike.run.integers import spread

ROOM = 2.0**-10, 2.0**12  # largest weights of an output that leave half precision room below and above

CUDA_UNITS = "float16, sums in float32"
FLOAT16_UNITS = "oneDNN, float16"
BFLOAT16_UNITS = "oneDNN, bfloat16"
FLOAT_UNITS = "float units, weights in half precision"


class HalfLayer:
    """A convolution or linear layer that reads levels; what a level is worth is folded into its weights.

    Args:
        module: The layer; its weights are not changed.
        unit: Worth of a level, for each input channel of a convolution or each input of a linear layer; or one for all.
        zero: Which integer is worth nothing.
        number: Number format of the units.
        written: That of the output.
    """

    def __init__(self, module: Any, unit: Tensor, zero: int, number: torch.dtype, written: torch.dtype) -> None:
        self.module, self.zero, self.number, self.written = module, zero, number, written
        weight = folded(module, unit)
        self.weight = (weight.half() if number is torch.float32 else weight).to(number)
        if self.weight.ndim == 4:
            self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.bias = None if module.bias is None else module.bias.detach().to(number)

    def __call__(self, values: Tensor) -> Tensor:
        """Return the layer's output ``[N, ...]`` for levels ``[N, ...]``."""
        levels, module = values.to(self.number), self.module
        if self.zero:
            levels = levels.sub_(self.zero)
        if isinstance(module, nn.Linear):
            return functional.linear(levels, self.weight, self.bias).to(self.written)
        convolve: Any = getattr(functional, f"conv{levels.ndim - 2}d")
        y = convolve(levels, self.weight, self.bias, module.stride, module.padding, module.dilation, module.groups)
        return y.to(self.written)  # type: ignore[no-any-return]


def folded(module: Any, unit: Tensor) -> Tensor:
    """Return the weights of a layer times what a level of their input is worth."""
    weight: Tensor = module.weight.detach()
    return weight * spread(unit, weight, getattr(module, "groups", 1))


def leaves_range(module: Any, unit: Tensor, number: torch.dtype) -> bool:
    """Tell whether weights times what a level is worth are too small or too large for a number format; only float16 is that narrow."""
    if number is torch.bfloat16:
        return False
    largest = folded(module, unit).flatten(1).abs().amax(1)
    low, high = ROOM
    return bool(((largest > high) | ((largest < low) & (largest > 0))).any())


def units_for(device: torch.device) -> tuple[torch.dtype, str]:
    """Return the number format of layers that read spikes on a device, and what stands in the report.

    On the CPU it is what its units multiply at least as fast as single precision: float16, else bfloat16, whose weights have 8 bits in place of
    11. Where there are no such units, single precision computes with weights in half precision.
    """
    if device.type == "cuda":
        return torch.float16, CUDA_UNITS
    if device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        if torch.cpu._is_amx_fp16_supported():
            return torch.float16, FLOAT16_UNITS
        if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
            return torch.bfloat16, BFLOAT16_UNITS
    return torch.float32, f"{FLOAT_UNITS}: no units for it on {device.type}"
