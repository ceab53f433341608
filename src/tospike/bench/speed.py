"""Speed of SNNs on this machine, as plain values that are written as JSON and read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from tospike.bench.cases import CASES, FASTER, TARGETS, Case
from tospike.bench.contenders import ANN, Absent, Contender, anns, engines, label, peers
from tospike.bench.machine import Machine, Peaks, peaks
from tospike.bench.memory import Memory, measure_memory
from tospike.bench.scaling import Point, measure_scaling
from tospike.bench.timing import Spread, interleaved
from tospike.errors import is_count, refuse_unknown, require, require_type
from tospike.files import Record
from tospike.run.counts import Counts
from tospike.run.network import SNN
from tospike.run.schedule import Engine
from tospike.run.simulate import last, simulate

ENGINES: tuple[Engine, ...] = ("float", "int16", "int8")
TIME_STEPS = (8, 32)
BRIEF = 8  # T up to which all networks and SpikingJelly are timed by default
SCALED, SCALED_ROUNDS = "resnet18-32", 3  # the network whose memory and growth are measured
SCALED_ENGINES: tuple[Engine, ...] = ("float", "int8")


@dataclass(frozen=True)
class Row:
    """How fast one contender ran one network.

    Attributes:
        network, batch, time_steps: What ran.
        contender: The ANN, an engine, or SpikingJelly.
        setting: How it was set up.
        rounds: Time of T steps on the batch in each round, in milliseconds; of the ANN, of T forward passes.
        ms: Their spread; None for what does not run.
        ratio: Spread of the quotients of the times to those of the ANN in the same round.
        target: Largest ratio that is wanted; None where nothing is.
        speed_up: Median of SpikingJelly's faster mode over this one's; None where it was not timed.
        speed_up_target: Smallest that is wanted.
        work: Multiply-adds of dense layers in 10⁹ for a second, padding counted as data.
        share: ``work`` over the peak of the machine for these numbers.
        reason: Why it does not run; empty if it does.
    """

    network: str
    batch: int
    time_steps: int
    contender: str
    setting: str = ""
    rounds: tuple[float, ...] = ()
    ms: Spread | None = None
    ratio: Spread | None = None
    target: float | None = None
    speed_up: float | None = None
    speed_up_target: float | None = None
    work: float | None = None
    share: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Speed(Record):
    """What the measurements found.

    Attributes:
        machine: Where.
        peaks: What the machine reaches at most, measured in the same run.
        rows: Times, by network, T and contender.
        memory: Memory of long and short runs.
        scaled: Network of the points.
        points: Time by T, batch and threads.
        rounds: How often every contender was timed.
        seed: Of weights and images.
    """

    machine: Machine
    peaks: Peaks
    rows: tuple[Row, ...]
    memory: tuple[Memory, ...] = ()
    scaled: str = ""
    points: tuple[Point, ...] = ()
    rounds: int = 0
    seed: int = 0

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Self:
        """Build the record from the values in its JSON."""

        def spread(values: Any) -> Spread | None:
            return None if values is None else Spread(**values)

        rows = (
            Row(**row | {"rounds": tuple(row["rounds"]), "ms": spread(row["ms"]), "ratio": spread(row["ratio"])}) for row in raw["rows"]
        )  # fmt: skip
        return cls(
            Machine(**raw["machine"]), Peaks(**raw["peaks"]), tuple(rows), tuple(Memory(**one) for one in raw["memory"]), raw["scaled"],
            tuple(Point(**point | {"ms": Spread(**point["ms"])}) for point in raw["points"]), raw["rounds"], raw["seed"],
        )  # fmt: skip


@torch.no_grad()
def measure(
    cases: Sequence[Case] | None = None,
    *,
    names: Sequence[Engine] = ENGINES,
    time_steps: Sequence[int] | None = None,
    batch: int | None = None,
    rounds: int = 11,
    full: bool = False,
    memory: bool = True,
    scaling: bool = True,
    seed: int = 0,
    before: Speed | None = None,
    keep: Callable[[Speed], None] | None = None,
) -> Speed:
    """Time ANN, SNN and SpikingJelly in turn, on the same batch and threads.

    The yardstick is ``(time of T steps of the SNN) / (T · time of one forward pass of the ANN)``, the ANN in float32 with batch norm folded,
    in the faster of both layouts.

    Args:
        cases: Networks; all of `CASES` when None.
        names: Engines, see `tospike.simulate`.
        time_steps: The T; when None 8, and 32 on small networks.
        batch: Images in a batch, instead of those of the network.
        rounds: How often every contender is timed.
        full: Time T = 32 on large networks too, and SpikingJelly at every T, not only up to 8.
        memory: Measure the memory of long and short runs, in processes of their own.
        scaling: Measure how time grows with T, batch and threads.
        seed: Of weights and images.
        before: What an interrupted run found, on this machine with the same rounds and seed; it is not measured again.
        keep: Called with all that was found so far, after each network and T.

    Raises:
        OptionError: A setting is out of range, or other than that of the interrupted run.
        MissingExtraError: A network is torchvision's, which is not installed.
    """
    refuse_unknown("engine", names, ENGINES)
    for case in cases or ():
        require_type("cases", case, Case, "cases", 'Pass e.g. [CASES["resnet18-32"]].')
    require(
        "the benchmark", ("rounds", rounds, is_count(rounds), "an integer >= 1", 11), ("engines", names, bool(names), f"some of {ENGINES}", ENGINES),
        ("batch", batch, batch is None or is_count(batch), "an integer >= 1", 4),
        ("time_steps", time_steps, time_steps is None or (bool(time_steps) and all(map(is_count, time_steps))), "integers >= 1", list(TIME_STEPS)),
    )  # fmt: skip
    here, keep = Machine.here(), keep or (lambda _: None)
    if before is not None:
        _refuse_other_settings(before, here, rounds, seed)
    found = before or Speed(here, peaks(), (), rounds=rounds, seed=seed)
    for case in CASES.values() if cases is None else cases:
        sized = case if batch is None else replace(case, batch=batch)
        wanted = time_steps or [t for t in TIME_STEPS if full or case.small or t <= BRIEF]
        steps = [t for t in sorted(set(wanted)) if not _has(found, sized, t, names)]
        for rows in _rows(sized, names, steps, found, full):
            key = _key(rows[0])
            found = replace(found, rows=(*(row for row in found.rows if _key(row) != key), *rows))
            keep(found)
    kept = [name for name in SCALED_ENGINES if name in names]
    if memory and {one.engine for one in found.memory} != set(kept):
        found = replace(found, memory=tuple(measure_memory(SCALED, kept, seed=seed)))
        keep(found)
    if scaling and not found.points:
        points = measure_scaling(CASES[SCALED], kept, min(rounds, SCALED_ROUNDS), seed=seed)
        found = replace(found, scaled=SCALED, points=tuple(points))
        keep(found)
    return found


def _refuse_other_settings(before: Speed, here: Machine, rounds: int, seed: int) -> None:
    kept = "that of the interrupted run"
    require(
        "the benchmark", ("machine", here.text(), here == before.machine, f"{kept}: {before.machine.text()}", "the same machine and threads"),
        ("rounds", rounds, rounds == before.rounds, kept, before.rounds), ("seed", seed, seed == before.seed, kept, before.seed),
    )  # fmt: skip


def _key(row: Row) -> tuple[str, int, int]:
    return row.network, row.batch, row.time_steps


def _has(found: Speed, case: Case, time_steps: int, names: Sequence[Engine]) -> bool:
    """Tell whether all engines were timed on a network for some T."""
    timed = {row.contender for row in found.rows if _key(row) == (case.name, case.batch, time_steps)}
    return {label(name) for name in names} <= timed


def _rows(case: Case, names: Sequence[Engine], steps: Sequence[int], found: Speed, full: bool) -> Iterator[list[Row]]:
    """Time all contenders on one network, and yield the rows of each T."""
    if not steps:
        return
    ann, x = case.network(found.seed), case.images(case.batch, found.seed)
    snn = case.convert(ann, found.seed)
    once, stepped = multiply_adds_of(snn, x)
    ours = [*anns(ann, x), *engines(snn, x, names)]
    for t in steps:
        others = peers(ann, x, t) if full or t <= BRIEF else []
        able = [*ours, *(one for one in others if isinstance(one, Contender))]
        jobs = {n: _job(one, t) for n, one in enumerate(able)}
        times = interleaved(jobs, found.rounds, f"{case.name}, T = {t}")
        yardstick = min((n for n in jobs if able[n].name == ANN), key=lambda n: Spread.of(times[n]).median)
        peer = min((Spread.of(times[n]).median for n in jobs if _is_peer(able[n])), default=None)
        rows = []
        for n, one in enumerate(able):
            if one.name != ANN or n == yardstick:
                work = case.batch * (t * stepped + (1 if one.engine else t) * once)
                row = Row(case.name, case.batch, t, one.name, one.setting)
                row = replace(row, target=TARGETS.get((case.name, one.engine)), speed_up_target=FASTER.get(one.engine))
                rows.append(timed(row, times[n], times[yardstick], peer, work, found.peaks.of(one.engine)))
        absent = [one for one in others if isinstance(one, Absent)]
        yield rows + [Row(case.name, case.batch, t, one.name, reason=one.reason) for one in absent]


def timed(row: Row, times: Sequence[float], ann: Sequence[float], peer: float | None, work: float, peak: float) -> Row:
    """Fill a row with what was measured.

    Args:
        row: What ran.
        times: Its milliseconds by round.
        ann: Those of the ANN.
        peer: Median of SpikingJelly's faster mode.
        work: Multiply-adds of a run.
        peak: What the machine reaches, in 10⁹ multiply-adds for a second.
    """
    spread = Spread.of(times)
    reached = work / 1e6 / spread.median
    return replace(
        row, rounds=tuple(times), ms=spread, ratio=Spread.of([own / other for own, other in zip(times, ann, strict=True)]),
        speed_up=None if peer is None else peer / spread.median, work=reached, share=reached / peak,
    )  # fmt: skip


def multiply_adds_of(snn: SNN, x: torch.Tensor) -> tuple[float, float]:
    """Return the multiply-adds of one image in layers that run once for an input, and in those that run at every step."""
    counts = Counts()
    last(simulate(snn, x[:1], time_steps=1, engine="float", counts=counts))
    sums = {True: 0.0, False: 0.0}
    for layer in counts.layers([1]):
        sums[layer.part in ("spiking", "analog")] += layer.multiply_adds
    return sums[False], sums[True]


def _is_peer(contender: Contender) -> bool:
    return contender.name != ANN and not contender.engine


def _job(contender: Contender, time_steps: int) -> Callable[[], Any]:
    return lambda: contender.run(time_steps)
