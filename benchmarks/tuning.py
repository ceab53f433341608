"""What a batch of training through time costs: forward and backward through an SNN, beside an ANN and SpikingJelly.

    .venv/bin/python benchmarks/tuning.py        # docs/results/tuning.{json,md}

All that is compared runs in turns within one process, on the same weights; a row holds medians over the rounds. An interrupted run goes on where it
stopped. Run it on a machine that does nothing else.
"""

import argparse
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


def ways(name, steps):
    """Return functions that take the gradients of a batch, by label; what does not run has its reason in place of one."""
    ann, x, y = batch_of(name)
    trained = CASES[name].network().to(memory_format=torch.channels_last).train()
    snn = TrainableSNN(CASES[name].convert(ann), ts.Tuning(steps, normalise=False, logits=0.0))
    snn = snn.to(memory_format=torch.channels_last).train()
    peer = next(one for one in peers(ann, x, steps) if one.name == FOLDED)
    compiles = learning.fits

    def learn(network, run):
        network.zero_grad()
        cross_entropy(run(), y).backward()

    def passes():
        for _ in range(steps):
            learn(trained, lambda: trained(x))

    def tuned(fits):
        learning.fits = fits
        try:
            learn(snn, lambda: snn(x))
        finally:
            learning.fits = compiles

    def peers_own():
        cross_entropy(peer.run(steps), y).backward()

    found = {ANN: passes, COMPILED: partial(tuned, compiles), BY_TORCH: partial(tuned, lambda *_: False)}
    return found | {FOLDED: peer.reason if isinstance(peer, Absent) else peers_own}


def kept_for(call):
    """Return what autograd keeps for the backward pass while a call lasts, in MB."""
    seen = {}

    def note(x):
        storage = x.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        call()
    return sum(seen.values()) / 1e6


def batch(name, steps, rounds):
    """Return the median seconds of each way, and what it keeps; every round takes all of them, after one that is not timed."""
    calls = ways(name, steps)
    absent = {label: call for label, call in calls.items() if isinstance(call, str)}
    running = {label: call for label, call in calls.items() if label not in absent}
    megabytes = {label: kept_for(call) for label, call in running.items()}
    times = {label: [] for label in running}
    for _ in range(rounds):
        for label, call in running.items():
            start = perf_counter()
            call()
            times[label].append(perf_counter() - start)
    return {
        "seconds": {label: median(found) for label, found in times.items()},
        "megabytes": megabytes,
        "absent": absent,
    }


def table(rows):
    """Write the rows as Markdown."""
    lines = [
        "Forward and backward pass of one batch through T steps: cross-entropy, float32, batch norms folded; weights are trained, by tospike",
        "thresholds and initial potentials too. The ANN trains with its batch norms, on as many batches as there are steps. Ratio: to the ANN's time in",
        f"the same run. Kept: what autograd holds for the backward pass, weights included. {rows[0]['threads']} threads.",
        made_by("python benchmarks/tuning.py"),
        "", "| network | batch | T | | ms | ratio | kept, MB |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        for label in (ANN, COMPILED, BY_TORCH, FOLDED):
            if label in row["absent"]:
                cells = f"{row['absent'][label]} | |"
            else:
                taken = row["seconds"][label]
                cells = f"{1e3 * taken:.0f} | {taken / row['seconds'][ANN]:.2f} | {row['megabytes'][label]:.0f}"
            lines.append(f"| {row['network']} | {BATCHES[row['network']]} | {row['steps']} | {label} | {cells} |")
    return "\n".join(lines) + "\n"


def main():
    """Measure, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="of which medians are taken")
    parser.add_argument("--fresh", action="store_true", help="measure rows again that the file has already")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    kept = Rows(options.out / "tuning.json", fresh=options.fresh)
    for name in BATCHES:
        for steps in STEPS:
            key = {"network": name, "steps": steps, "threads": torch.get_num_threads()}
            kept.measure(key, partial(batch, name, steps, options.rounds))
    (options.out / "tuning.md").write_text(table(kept.rows))


if __name__ == "__main__":
    main()
