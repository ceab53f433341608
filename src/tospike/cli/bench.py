"""The command that measures how fast this machine is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from tospike.bench import CASES, Speed, measure
from tospike.bench.pages import chart, markdown, tables
from tospike.bench.speed import ENGINES
from tospike.errors import refuse_unknown
from tospike.files import refuse_unwritable, replacing
from tospike.report.charts import write_chart
from tospike.run.schedule import Engine


def bench(
    what: Literal["speed"],
    networks: list[str] | None = None,
    engines: list[Engine] | None = None,
    time_steps: list[int] | None = None,
    batch: int | None = None,
    rounds: int = 11,
    full: bool = False,
    memory: bool = True,
    scaling: bool = True,
    out: str = "runs/bench",
    seed: int = 0,
    resume: bool = False,
    json: bool = False,
) -> int:
    """Time SNNs beside their ANNs and SpikingJelly, all in turn, on the same batch and threads.

    Example: tospike bench speed --networks resnet18-32 --no_memory --no_scaling

    Args:
        what: What is measured.
        networks: Some of resnet18-224, mobilenetv2-224, vgg16-32, resnet18-32 and fashion-resnet20; all when not given.
        engines: Some of float, int16 and int8; all when not given.
        time_steps: The T; when not given 8, and 32 on small networks.
        batch: Images in a batch, instead of those of the network.
        rounds: How often every contender is timed.
        full: Time T = 32 on large networks too, and SpikingJelly at every T.
        memory: Measure the memory of long and short runs of resnet18-32.
        scaling: Measure how the time of resnet18-32 grows with T, batch and threads.
        out: Folder for speed.json, speed.md and speed.svg, which grow with each network and T.
        seed: Seed of weights and images.
        resume: Go on where an interrupted run with the same settings stopped, whose speed.json is in the folder.
        json: Print the record as JSON.
    """
    refuse_unknown("network", networks or [], CASES)
    cases = [CASES[name] for name in networks or CASES]
    folder = Path(out)
    record = folder / "speed.json"
    refuse_unwritable(record)

    def keep(found: Speed) -> None:
        found.save(record)
        write_chart(chart(found), folder / "speed.svg")
        with replacing(folder / "speed.md") as written:
            written.write_text(markdown(found, f"tospike bench {what}", "speed.svg"), encoding="utf-8")

    before = Speed.read(record) if resume and record.exists() else None
    speed = measure(cases, names=engines or ENGINES, time_steps=time_steps, batch=batch, rounds=rounds, full=full, memory=memory,
                    scaling=scaling, seed=seed, before=before, keep=keep)  # fmt: skip
    keep(speed)
    if json:
        print(speed.to_json())
        return 0
    console = Console()
    for table in tables(speed):
        console.print(table)
    console.print(f"Written: {folder}/speed.md, speed.svg, speed.json", highlight=False)
    return 0
