"""Memory of a run, in a process of its own: how much a long simulation needs beside a short one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from tospike.bench.cases import CASES
from tospike.progress import track
from tospike.run.schedule import Engine

SHORT, LONG, STEPS_PER_CALL = 8, 64, 8
PROCESSES = 3  # for each figure: one moves by a tenth with what the allocator happens to keep
TARGET = 1.15  # of a long run over a short one, at most
STATUS, PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PROGRAM = "import sys; from tospike.bench.memory import report; report(*sys.argv[1:])"


@dataclass(frozen=True)
class Memory:
    """Largest resident memory of a process that runs an SNN, in MB; medians over some processes.

    Attributes:
        network, engine, batch: What ran, 8 steps in each call.
        before: Memory before the run, with network and libraries.
        short: Largest during T = 8.
        long: Largest during T = 64.
    """

    network: str
    engine: str
    batch: int
    before: float
    short: float
    long: float

    @property
    def ratio(self) -> float:
        """Memory of the long run over that of the short one."""
        return self.long / self.short


def measure_memory(name: str, engines: Sequence[Engine], batch: int | None = None, seed: int = 0) -> list[Memory]:
    """Return the memory of short and long runs; nothing where the system does not say how much a process had at most.

    Args:
        name: Network, see `tospike.bench.CASES`.
        engines: See `tospike.simulate`.
        batch: Images; those of the network by default.
        seed: Of weights and images.
    """
    if not PEAK_RESET.exists():
        return []
    found = []
    for engine in track(engines, "memory"):
        before, short = _in_processes(name, engine, SHORT, batch or CASES[name].batch, seed)
        _, long = _in_processes(name, engine, LONG, batch or CASES[name].batch, seed)
        found.append(Memory(name, engine, batch or CASES[name].batch, before, short, long))
    return found


def _in_processes(*arguments: object) -> tuple[float, float]:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments), str(torch.get_num_threads())]
    said = [subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout for _ in range(PROCESSES)]
    before, peak = zip(*(map(float, line.split()) for line in said), strict=True)
    return median(before), median(peak)


@torch.no_grad()
def report(name: str, engine: Engine, time_steps: str, batch: str, seed: str, threads: str) -> None:
    """Run an SNN and print the memory of this process before the run, and the largest during it, in MB."""
    torch.set_num_threads(int(threads))
    case = CASES[name]
    snn, x = case.convert(case.network(int(seed)), int(seed)), case.images(int(batch), int(seed))
    snn(x, time_steps=SHORT, steps_per_call=STEPS_PER_CALL, engine=engine)  # compiles, and makes integer weights
    PEAK_RESET.write_text("5")  # the largest so far is forgotten
    before = _megabytes("VmRSS")
    snn(x, time_steps=int(time_steps), steps_per_call=STEPS_PER_CALL, engine=engine)
    print(before, _megabytes("VmHWM"))


def _megabytes(field: str) -> float:
    """Return a figure of this process; those of `resource` would hold what the process that started it had at most."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024
