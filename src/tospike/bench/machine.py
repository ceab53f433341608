"""The machine, and how fast it multiplies and copies at most."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from tospike.neurons import fused
from tospike.neurons.levels import Levels
from tospike.run.integers import IntegerLayer, units_for, vnni
from tospike.run.work import multiply_adds

CHANNELS, SIDE, IMAGES = 256, 14, 32  # of the convolution that finds the peaks
COPIED = 2**26  # numbers, 256 MB: more than any cache holds


@dataclass(frozen=True)
class Machine:
    """What the times were measured on.

    Attributes:
        processor: Name of the CPU.
        cores: Those that this process may use.
        threads: Those that torch computes in.
        vnni: Whether the CPU multiplies integers of 8 bits into sums of 32 bits.
        numba: Whether neurons are stepped by compiled code.
        torch: Version.
        system: Operating system and architecture.
    """

    processor: str
    cores: int
    threads: int
    vnni: bool
    numba: bool
    torch: str
    system: str

    @classmethod
    def here(cls) -> Machine:
        """Describe this machine."""
        return cls(
            _processor(), cores(), torch.get_num_threads(), vnni(), fused.available("numba"), str(torch.__version__),
            f"{platform.system()} {platform.machine()}",
        )  # fmt: skip

    def text(self) -> str:
        """Return the description as a sentence."""
        units = "with VNNI" if self.vnni else "without VNNI"
        neurons = "neurons by Numba" if self.numba else "neurons by torch, without Numba"
        return f"{self.processor}, {self.cores} cores, {units}; {self.threads} threads, torch {self.torch}, {neurons}, {self.system}."


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


@dataclass(frozen=True)
class Peaks:
    """What the machine reaches on a task that suits it: a 3x3 convolution of 256 to 256 channels, 32 maps of 14 x 14, channels last.

    Attributes:
        floats: Multiply-adds of float32, in 10⁹ for a second.
        integers: Multiply-adds of spikes (8 bits without sign) and weights (8 bits), in 10⁹ for a second.
        units: What computes the latter.
        copy: Bytes read and written by a copy of 256 MB, in 10⁹ for a second.
    """

    floats: float
    integers: float
    units: str
    copy: float

    def of(self, engine: str) -> float:
        """Return the peak that bounds an engine; weights of two digits are multiplied twice."""
        return {"int8": self.integers, "int16": self.integers / 2}.get(engine, self.floats)


@torch.no_grad()
def peaks(rounds: int = 10) -> Peaks:
    """Measure the peaks: the fastest of some rounds, in which the three take turns.

    Example:
        >>> peaks(rounds=1).floats > 0
        True
    """
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    layer.weight.data = _last(layer.weight.data)
    x = _last(torch.rand(IMAGES, CHANNELS, SIDE, SIDE))
    spikes = _last(torch.randint(0, 2, x.shape, dtype=torch.uint8))
    native, units = units_for(Levels(spikes, torch.ones(1), 0, 1), spikes.device)
    whole = IntegerLayer(layer, torch.ones(1), zero=0, largest=1, digits=1, native=native)
    source, target = torch.ones(COPIED), torch.empty(COPIED)
    jobs: dict[str, Any] = {
        "float": lambda: layer(x),
        "int": lambda: whole(spikes),
        "copy": lambda: target.copy_(source),
    }
    fastest = dict.fromkeys(jobs, float("inf"))
    for turn in range(rounds + 1):  # the first one warms up
        for name, job in jobs.items():
            start = perf_counter()
            job()
            fastest[name] = min(fastest[name], perf_counter() - start if turn else float("inf"))
    work = multiply_adds(layer, x, layer(x)) / 1e9
    return Peaks(work / fastest["float"], work / fastest["int"], units, 2 * source.nbytes / 1e9 / fastest["copy"])


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
