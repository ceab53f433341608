"""What calibration and counting cost: conversions beside plain passes of the ANN, ts.evaluate beside ts.simulate, memory of the refiners.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/calibration.py

All that is compared runs in turns within one process; a row holds medians over the rounds. Writes docs/results/calibration.json and
docs/results/calibration.md; an interrupted run goes on where it stopped. Run it on a machine that does nothing else.
"""

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torchvision.models import resnet18

import tospike as ts
from common import Rows, fashion_mnist, made_by
from tospike.parts.reconstruct import Reconstruct
from tospike.parts.refiners import ChannelBias, Potential, ShiftScale, StepBias
from tospike.run.plan import channels_last
from tospike.zoo import load

NETWORKS = {  # batches, samples in each
    "Fashion ResNet-20": (100, 100),
    "ResNet-18, 32 x 32": (20, 50),
    "ResNet-18, 224 x 224": (20, 8),
}
REFINERS = {
    "none": (),
    "ChannelBias": (ChannelBias(),),
    "StepBias": (StepBias(),),
    "ShiftScale": (ShiftScale(),),
    "Potential": (Potential(),),
    "Reconstruct": (Reconstruct(),),
}
SCORED = {"Fashion ResNet-20": (100, (1, 2, 4, 8, 16, 32)), "ResNet-18, 32 x 32": (20, (1, 2, 4, 8))}
REFINED, STEPS = 4, 8


def network(name, count):
    """Return a network and batches of its inputs."""
    torch.manual_seed(0)
    _, size = NETWORKS[name]
    if name.startswith("Fashion"):
        return load("fashion-resnet20").eval(), [batch[0] for batch in fashion_mnist(0, count)[0]]
    side = 32 if "32" in name else 224
    ann = resnet18(num_classes=10)
    if side == 32:
        ann.conv1, ann.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    for module in ann.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics as after training: not those of the identity
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return ann.eval(), [torch.randn(size, 3, side, side) for _ in range(count)]


def methods(batches):
    """Return the methods by their labels."""
    return {
        "LTB": ts.LTB(batches=batches),
        "RobustNorm, layer": ts.RobustNorm(batches=batches),
        "RobustNorm, channel": ts.RobustNorm(batches=batches, granularity="channel"),
        "MMSE": ts.Ternary(time_steps=STEPS, batches=batches).using(refiners=()),
    }


def in_turns(calls, rounds):
    """Return the median time of each call in seconds; every round makes all of them, after one that is not counted."""
    times = {label: [] for label in calls}
    for _ in range(rounds + 1):
        for label, call in calls.items():
            start = perf_counter()
            call()
            times[label].append(perf_counter() - start)
    return {label: median(found[1:]) for label, found in times.items()}


@torch.inference_mode()
def forward(ann, batches):
    """Run a network over batches."""
    for x in batches:
        ann(channels_last(x))


def plain(ann):
    """Return the network as it is run for its speed: batch norm folded, channels last."""
    return fuse(ann).to(memory_format=torch.channels_last)


def calibration(name, rounds):
    """Return the seconds of the passes and of each conversion, of all batches and of one."""
    count, _ = NETWORKS[name]
    ann, batches = network(name, count)
    calls = {"passes": partial(forward, plain(ann), batches)}
    for share in (count, 1):
        for label, method in methods(share).items():
            convert = partial(ts.convert, ann, method, calibration=batches[:share], progress=False)
            calls[label if share == count else f"{label}, one batch"] = convert
    return {"batches": count, "seconds": in_turns(calls, rounds)}


def counting(name, engine, rounds):
    """Return the seconds of a simulation, and of an evaluation of the same batches."""
    samples, marks = SCORED[name]
    ann, batches = network(name, 4)
    batches = [x[:samples] for x in batches]
    snn = ts.convert(ann, ts.LTB(batches=4), calibration=batches, progress=False)
    scored = [(x, torch.zeros(len(x), dtype=torch.long)) for x in batches]

    def simulate():
        with torch.no_grad():
            for x in batches:
                list(ts.simulate(snn, x, time_steps=marks[-1], checkpoints=marks, engine=engine))

    evaluate = partial(ts.evaluate, snn, scored, time_steps=marks, engine=engine, progress=False)
    return {"seconds": in_turns({"simulate": simulate, "evaluate": evaluate}, rounds)}


def resident(kind):
    """Return what Linux says of the memory of this process, in MB."""
    rows = dict(row.split(":") for row in Path("/proc/self/status").read_text().splitlines())
    return int(rows[kind].split()[0]) / 1024


def peak(name, refiner):
    """Return the memory that this process takes at most above what it took before, in MB; on Linux."""
    ann, batches = network(name, REFINED)
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak of loading
    before = resident("VmHWM")
    if refiner == "plain pass":
        forward(plain(ann), batches)
    else:
        method = ts.Ternary(time_steps=STEPS, batches=REFINED, refine_batches=REFINED).using(refiners=REFINERS[refiner])
        ts.convert(ann, method, calibration=batches, progress=False)
    return resident("VmHWM") - before


def memory(name, refiner):
    """Measure `peak` in a process of its own."""
    call = [sys.executable, __file__, "--peak", name, refiner]
    said = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    return {"megabytes": json.loads(said.splitlines()[-1])}


def tables(rows):
    """Write the rows as Markdown."""
    lines = [
        "Time of a conversion as a multiple of the ANN's passes over the same batches (fp32, batch norm folded, channels last), all of it: capture, checks",
        f"and placing included. Fixed: a conversion with one batch, in seconds. {made_by('python benchmarks/calibration.py')}",
        "", "| network | batches | method | seconds, ANN | seconds, conversion | ratio | fixed |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in (row for row in rows if row["what"] == "calibration"):
        seconds = row["seconds"]
        for label in methods(1):
            lines.append(
                f"| {row['network']} | {row['batches']} | {label} | {seconds['passes']:.2f} | {seconds[label]:.2f} "
                f"| {seconds[label] / seconds['passes']:.2f} | {seconds[f'{label}, one batch']:.2f} |"
            )
    lines += ["", "`ts.evaluate`, which counts spikes and operations and scores, beside `ts.simulate` of the same batches.", "",
              "| network | engine | seconds, simulate | seconds, evaluate | ratio |", "|---|---|---|---|---|"]  # fmt: skip
    for row in (row for row in rows if row["what"] == "counting"):
        one, other = row["seconds"]["simulate"], row["seconds"]["evaluate"]
        lines.append(f"| {row['network']} | {row['engine']} | {one:.2f} | {other:.2f} | {other / one:.2f} |")
    lines += ["", f"Peak memory above that of the loaded network and data: {REFINED} batches, T = {STEPS}.", "",
              "| network | refiner | MB | times a plain pass |", "|---|---|---|---|"]  # fmt: skip
    peaks = {(row["network"], row["refiner"]): row["megabytes"] for row in rows if row["what"] == "memory"}
    for (name, refiner), megabytes in peaks.items():
        times = megabytes / max(peaks.get((name, "plain pass"), megabytes), 1)
        lines.append(f"| {name} | {refiner} | {megabytes:.0f} | {times:.1f} |")
    return "\n".join(lines) + "\n"


def main():
    """Measure, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are taken")
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), help="networks to measure")
    parser.add_argument("--fresh", action="store_true", help="measure rows again that the file has already")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak(*options.peak)))
        return
    kept = Rows(options.out / "calibration.json", fresh=options.fresh)
    for name in options.only:
        key = {"network": name, "threads": torch.get_num_threads()}
        kept.measure(key | {"what": "calibration"}, partial(calibration, name, options.rounds))
        for engine in ("float", "int8") if name in SCORED else ():
            kept.measure(key | {"what": "counting", "engine": engine}, partial(counting, name, engine, options.rounds))
        for refiner in ("plain pass", *REFINERS):
            kept.measure(key | {"what": "memory", "refiner": refiner}, partial(memory, name, refiner))
    (options.out / "calibration.md").write_text(tables(kept.rows))


if __name__ == "__main__":
    main()
