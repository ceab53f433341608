"""The actors of the zoo as SNNs in their environments: return after T steps per decision, beside the ANN's on the same seeds.

    .venv/bin/python benchmarks/control.py

Thresholds are measured on 10,000 observations of the ANN's own episodes, from other seeds than those that are scored; "beginnings too"
adds 2,000 from the first 20 decisions of a hundred episodes, and mixes them. Writes
docs/results/control.json, control.md and a picture control-ACTOR.png for each actor; an interrupted run goes on where it stopped.
"""

import argparse
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import tospike as ts
from common import Rows, made_by
from tospike import zoo
from tospike.report import draw_curve
from tospike.zoo.actors import ACTORS

TIME_STEPS, SEEDS = (4, 8, 16, 32, 64), range(50)
FEW, ITERATIONS = (4, 8, 16), 1000  # of gradient descent, and the T that have it
BY_T = ("curve", "scores", "delays", "spikes_per_neuron", "operations", "analog_operations", "latency")
TABLE_ONLY = (
    "LTB, delay auto",
    "LTB, beginnings too",
    "Auto binary, beginnings too",
    "Auto ternary, carry 0.5",
    "Auto ternary, beginnings too",
    "Auto ternary, carry 0.5, descent",
)  # the pictures have seven colours


def rows():
    """Yield label, method as a function of T, the T that share an SNN, the delay of its read-out, and what thresholds are measured on."""
    every, each, few = (TIME_STEPS,), [(t,) for t in TIME_STEPS], [(t,) for t in FEW]
    yield "CRPI, carry 0.5", lambda t: ts.CRPI(), every, 0, "episodes"
    yield "CRPI, carry 0", lambda t: ts.CRPI(carry=0), every, 0, "episodes"
    yield "LTB", lambda t: ts.LTB(), every, 0, "episodes"
    yield "LTB, delay auto", lambda t: ts.LTB(), every, "auto", "episodes"
    yield "LTB, beginnings too", lambda t: ts.LTB(), every, 0, "both"
    yield "Auto ternary", ts.Auto, each, 0, "episodes"
    yield "Auto ternary, carry 0.5", lambda t: ts.Auto(t).using(carry=0.5), each, 0, "episodes"
    yield "Auto ternary, beginnings too", ts.Auto, each, 0, "both"
    descending = partial(ts.Auto, iterations=ITERATIONS)
    yield "Auto ternary, descent", descending, few, 0, "episodes"
    yield "Auto ternary, carry 0.5, descent", lambda t: descending(t).using(carry=0.5), few, 0, "episodes"
    yield "Auto binary", partial(ts.Auto, spikes="binary"), each, 0, "episodes"
    yield "Auto binary, descent", partial(descending, spikes="binary"), few, 0, "episodes"
    yield "Auto binary, beginnings too", partial(ts.Auto, spikes="binary"), each, 0, "both"


def calibrations(actor):
    """Return the observations that thresholds are measured on."""
    episodes = zoo.control(actor).observations(10_000)
    seen = torch.cat([*episodes, *zoo.control(actor, max_episode_steps=20).observations(2_000)])
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
    return {"episodes": episodes, "both": list(seen[order].split(256))}


def measure(control, calibration, method, runs, delay):
    """Play every T and return the result; an SNN of its own for each T where the method is made for one."""
    played = []
    for together in runs:
        snn = ts.convert(control.network, method(together[-1]), calibration=calibration, progress=False)
        once = {"reference": not played, "progress": False}
        played.append(ts.play(snn, control, time_steps=together, seeds=SEEDS, delay=delay, **once))
    merged = {name: {t: value for one in played for t, value in getattr(one, name).items()} for name in BY_T}
    return {"result": json.loads(replace(played[0], **merged, layers=[]).to_json())}


def ratio(result, t):
    """Return the share of the ANN's return, and its standard error over the episodes, in percent."""
    both = result.scores[t], result.reference_scores
    share = 100 * both[0]["return"] / both[1]["return"]
    return share, share * math.hypot(*(one["std"] / one["return"] for one in both)) / math.sqrt(len(SEEDS))


def table(found):
    """Write the rows of one actor as Markdown."""
    ann = next(iter(found.values())).reference_scores
    lines = [
        f"ANN: {ann['return']:.0f} ± {ann['std']:.0f}, lowest {ann['lowest']:.0f}, {ann['length']:.0f} decisions.",
        "",
        "| method | spikes | " + " | ".join(f"T={t}" for t in TIME_STEPS) + " | ratio at T=8 | spikes at T=8 |",
        "|---|---|" + "---|" * (len(TIME_STEPS) + 2),
    ]
    for label, result in found.items():
        scores = [
            f"{result.scores[t]['return']:.0f} ± {result.scores[t]['std']:.0f}" if t in result.scores else "–"
            for t in TIME_STEPS
        ]
        share = "{:.1f} ± {:.1f} %".format(*ratio(result, 8))
        lines.append(
            f"| {label} | {result.spikes} | {' | '.join(scores)} | {share} | {result.spikes_per_neuron[8] / 8:.3f} |"
        )
    return lines


def main():
    """Convert, play, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", nargs="+", help="actors to measure; the table shows all that the file has")
    parser.add_argument("--fresh", action="store_true", help="measure rows again that the file has already")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = Rows(options.out / "control.json", fresh=options.fresh)
    for actor in options.actors or [name for name in ACTORS if name in zoo.available()]:
        control = zoo.control(actor)
        found = calibrations(actor)
        for label, method, runs, delay, data in rows():
            key = {"actor": actor, "label": label, "episodes": len(SEEDS)}
            kept.measure(key, partial(measure, control, found[data], method, runs, delay))
    lines = [
        f"Return of one episode for each of {len(SEEDS)} seeds, mean ± standard deviation over the episodes; T steps per decision. Ratio: to the return of",
        f"the ANN on the same seeds ± its standard error over the episodes. Descent: {ITERATIONS:,} iterations on the same observations, without rewards.",
        f"Spikes: per neuron and step. {made_by('python benchmarks/control.py')}",
    ]
    for actor in [name for name in ACTORS if any(row["actor"] == name for row in kept.rows)]:
        labels = [label for label, *_ in rows()]
        mine = {
            row["label"]: row["result"] for row in kept.rows if row["actor"] == actor and row["episodes"] == len(SEEDS)
        }
        found = {label: ts.Result.from_raw(mine[label]) for label in labels if label in mine}
        lines += [
            "",
            f"## {actor}, {ACTORS[actor].environment}",
            "",
            *table(found),
            "",
            f"![Return over T](control-{actor}.png)",
        ]
        shown = {label: result for label, result in found.items() if label not in TABLE_ONLY}
        draw_curve(
            shown,
            options.out / f"control-{actor}.png",
            title=f"{ACTORS[actor].environment}, mean return of {len(SEEDS)} episodes",
        )
    (options.out / "control.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
