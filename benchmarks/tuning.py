"""What a batch of training through time costs: forward and backward through an SNN, beside an ANN and SpikingJelly.

    .venv/bin/python benchmarks/tuning.py        # docs/results/tuning.{json,md}

All that is compared runs in turns within one process, on the same weights; a row holds medians over the rounds. Memory is that of a process of
its own. An interrupted run goes on where it stopped. Run it on a machine that does nothing else.
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
from torch.nn.functional import cross_entropy

import tospike as ts
from common import Rows, made_by
from tospike.bench.cases import CASES
from tospike.bench.contenders import FOLDED, Absent, peers
from tospike.neurons import learning
from tospike.run.plan import channels_last
from tospike.trainable import TrainableSNN

BATCHES = {"fashion-resnet20": 128, "resnet18-32": 32}
STEPS = (2, 4, 8)
ANN, COMPILED, BY_TORCH = "ANN, T passes", "tospike", "tospike, neurons stepped by torch"


def batch_of(name):
    """Return a network, a batch, and labels for it."""
    case = CASES[name]
    return case.network(), channels_last(case.images(BATCHES[name])), torch.arange(BATCHES[name]) % 10


def ways(name, steps, wanted):
    """Return functions that take the gradients of a batch, by label; what does not run has its reason in place of one."""
    ann, x, y = batch_of(name)
    found = {}

    def learn(run, parameters):
        for parameter in parameters:
            parameter.grad = None
        cross_entropy(run(), y).backward()

    if ANN in wanted:
        trained = CASES[name].network().to(memory_format=torch.channels_last).train()

        def passes():
            for _ in range(steps):
                learn(lambda: trained(x), list(trained.parameters()))

        found[ANN] = passes
    if {COMPILED, BY_TORCH} & set(wanted):
        tuning = ts.Tuning(steps, normalise=False, logits=0.0)
        snn = TrainableSNN(CASES[name].convert(ann), tuning).to(memory_format=torch.channels_last).train()
        compiles = learning.fits

        def tuned(fits):
            learning.fits = fits
            try:
                learn(lambda: snn(x), list(snn.parameters()))
            finally:
                learning.fits = compiles

        found |= {COMPILED: partial(tuned, compiles), BY_TORCH: partial(tuned, lambda *_: False)}
    if FOLDED in wanted:
        peer = next(one for one in peers(ann, x, steps) if one.name == FOLDED)
        if isinstance(peer, Absent):
            return {label: found[label] for label in wanted if label in found} | {FOLDED: peer.reason}
        found[FOLDED] = lambda: learn(lambda: peer.run(steps), [])
    return {label: found[label] for label in wanted}


def seconds(name, steps, rounds):
    """Return the median seconds of each way; every round takes all of them, after one that is not counted."""
    calls = ways(name, steps, (ANN, COMPILED, BY_TORCH, FOLDED))
    absent = {label: call for label, call in calls.items() if isinstance(call, str)}
    times = {label: [] for label in calls if label not in absent}
    for _ in range(rounds + 1):
        for label, found in times.items():
            start = perf_counter()
            calls[label]()
            found.append(perf_counter() - start)
    return {"seconds": {label: median(found[1:]) for label, found in times.items()}, "absent": absent}


def resident(kind):
    """Return what Linux says of the memory of this process, in MB."""
    rows = dict(row.split(":") for row in Path("/proc/self/status").read_text().splitlines())
    return int(rows[kind].split()[0]) / 1024


def peak(name, steps, label):
    """Return the memory that a batch takes above what the process took before, in MB; on Linux."""
    call = ways(name, int(steps), (label,))[label]
    if isinstance(call, str):
        return None
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak of converting
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def memory(name, steps):
    """Measure `peak` of each way in a process of its own."""
    found = {}
    for label in (ANN, COMPILED, BY_TORCH, FOLDED):
        call = [sys.executable, __file__, "--peak", name, str(steps), label]
        said = subprocess.run(call, check=True, capture_output=True, text=True).stdout
        found[label] = json.loads(said.splitlines()[-1])
    return {"megabytes": found}


def table(rows):
    """Write the rows as Markdown."""
    lines = [
        "Forward and backward pass of one batch through T steps: cross-entropy, float32, batch norms folded; weights are trained, by tospike",
        "thresholds and initial potentials too. The ANN trains with its batch norms, on as many batches as there are steps. Ratio: to the ANN's time in",
        f"the same run. Memory: above that of the process before, in one of its own. {rows[0]['threads']} threads.",
        made_by("python benchmarks/tuning.py"),
        "", "| network | batch | T | | ms | ratio | MB |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    held = {(row["network"], row["steps"]): row["megabytes"] for row in rows if "megabytes" in row}
    for row in (row for row in rows if "seconds" in row):
        for label in (ANN, COMPILED, BY_TORCH, FOLDED):
            megabytes = held[row["network"], row["steps"]][label]
            if label in row["absent"]:
                cells = f"{row['absent'][label]} | |"
            else:
                taken = row["seconds"][label]
                cells = f"{1e3 * taken:.0f} | {taken / row['seconds'][ANN]:.2f} | {megabytes:.0f}"
            lines.append(f"| {row['network']} | {BATCHES[row['network']]} | {row['steps']} | {label} | {cells} |")
    return "\n".join(lines) + "\n"


def main():
    """Measure, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="of which medians are taken")
    parser.add_argument("--fresh", action="store_true", help="measure rows again that the file has already")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak(*options.peak)))
        return
    kept = Rows(options.out / "tuning.json", fresh=options.fresh)
    for name in BATCHES:
        for steps in STEPS:
            key = {"network": name, "steps": steps, "threads": torch.get_num_threads()}
            kept.measure(key | {"what": "time"}, partial(seconds, name, steps, options.rounds))
            kept.measure(key | {"what": "memory"}, partial(memory, name, steps))
    (options.out / "tuning.md").write_text(table(kept.rows))


if __name__ == "__main__":
    main()
