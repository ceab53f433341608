"""Accuracy on Fashion-MNIST: LTB beside SpikingJelly's recipe on the same weights and batches, QCFS, and RobustNorm.

    make bench                                               # all tables
    python benchmarks/accuracy.py --samples 2000

Writes docs/results/accuracy.json and .md; a run that was interrupted goes on.
"""

import argparse
import copy
from functools import partial
from pathlib import Path

import torch
from rich.progress import track

import tospike as ts
from common import BATCH, Rows, fashion_mnist, made_by
from tospike import zoo
from tospike.parts.activations import ClipFloorShift

TIME_STEPS = (1, 2, 4, 8, 16, 32)
BATCHES = 100
TERNARY = {
    "signed neurons": ts.NeuronModel(signed=True),
    "silence worth a spike": ts.NeuronModel(signed=True, rest=1),
}


def peer(ann, calibration, scored):
    """Convert with SpikingJelly's LTB and average its output over the first T steps, T by T, in one simulation."""
    from spikingjelly.activation_based import ann2snn, functional

    recipe = ann2snn.LocalThresholdBalancingRecipe(dataloader=calibration)
    snn = ann2snn.Converter(recipe=recipe, device="cpu").convert(ann).eval()
    functional.set_step_mode(snn, "s")
    hits = dict.fromkeys(TIME_STEPS, 0)
    with torch.no_grad():
        for x, y in track(scored, "SpikingJelly"):
            functional.reset_net(snn)
            total = 0
            for t in range(1, TIME_STEPS[-1] + 1):
                total = total + snn(x)
                if t in hits:
                    hits[t] += int((total.argmax(1) == y).sum())
    count = sum(len(y) for _, y in scored)
    return {t: 100.0 * n / count for t, n in hits.items()}


def rows(calibration, scored):
    """Yield each row's label, its reference, and a function that measures it."""
    relu = zoo.load("fashion-resnet20-relu")
    for method in (
        ts.LTB(batches=BATCHES),
        ts.RobustNorm(batches=BATCHES),
        ts.RobustNorm(percentile=1.0, granularity="channel", batches=BATCHES),
    ):
        settings = ", ".join(f"{key}={value}" for key, value in method.settings().items())
        for delay in (0, "auto") if method.name == "ltb" else (0,):
            yield (
                f"{method.name} ({settings}), delay={delay}",
                "ReLU ANN",
                partial(ours, relu, method, calibration, scored, delay),
            )
    yield "SpikingJelly LTB, same weights and batches", "ReLU ANN", lambda: {"curve": peer(relu, calibration, scored)}
    for name in zoo.available():
        if "qcfs" in name:
            ann = zoo.load(name)
            yield name, "its quantised ANN", partial(ours, ann, None, calibration, scored)
            yield f"{name}, no timing error", "", partial(untimed, ann, scored)
            for kind, neuron in TERNARY.items():
                method = ts.QCFS().using(neuron=neuron)  # of a trained network: levels and thresholds are its own
                yield f"{name}, {kind}", "its quantised ANN", partial(ours, ann, method, calibration, scored)


def ours(ann, method, calibration, scored, delay=0):
    """Convert with tospike and score every T."""
    snn = ts.convert(ann, method, calibration=calibration if method else None, example=scored[0][0][:4])
    result = ts.evaluate(snn, scored, time_steps=TIME_STEPS, reference=ann, delay=delay)
    return {"curve": result.curve, "ann": result.reference, "spikes": sum(result.rates.values()) / len(result.rates)}


def untimed(ann, scored):
    """Score the network with T levels in place of its own, for every T."""
    return {"curve": {t: accuracy(with_levels(ann, t), scored) for t in TIME_STEPS}}


def with_levels(ann, levels):
    """Return a copy whose activations have other levels: what an SNN of T = levels computes when each layer waits for all spikes."""
    copied = copy.deepcopy(ann)
    for module in copied.modules():
        if isinstance(module, ClipFloorShift):
            module.levels = levels
    return copied


@torch.no_grad()
def accuracy(ann, scored):
    """Return the top-1 accuracy of a network in percent."""
    hits = sum(int((ann(x).argmax(1) == y).sum()) for x, y in scored)
    return 100.0 * hits / sum(len(y) for _, y in scored)


_UNTIMED = (
    "No timing error: every layer waits for all spikes of the one before, so only the quantisation to T levels is left; "
    "the difference to the row above is the timing error."
)


def table(records, samples, command):
    """Write the records as Markdown."""
    lines = [
        f"Fashion-MNIST ResNet-20 (16-32-64), {samples:,} test images, top-1 in %. Calibration: {BATCHES} batches of {BATCH}",
        "training images in one fixed order, seed 0. T counts every simulated step. Spikes: per neuron and step over T = 32, mean over Sites.",
        *([_UNTIMED] if any("no timing" in row["label"] for row in records) else []),
        made_by(command),
        "",
        "| SNN | reference | ANN | " + " | ".join(f"T={t}" for t in TIME_STEPS) + " | spikes |",
        "|---|---|---|" + "---|" * (len(TIME_STEPS) + 1),
    ]
    for row in records:
        curve = " | ".join(f"{row['curve'][str(t)]:.2f}" for t in TIME_STEPS)
        ann, spikes = (
            f"{row[key]:{form}}" if row[key] is not None else "" for key, form in (("ann", ".2f"), ("spikes", ".3f"))
        )
        lines.append(f"| {row['label']} | {row['reference']} | {ann} | {curve} | {spikes} |")
    trained = [row for row in records if row["reference"] == "its quantised ANN"]
    if trained:
        lines += [
            "",
            "Points below the own quantised network:",
            "",
            "| SNN | " + " | ".join(f"T={t}" for t in TIME_STEPS) + " |",
        ]
        lines.append("|---|" + "---|" * len(TIME_STEPS))
    for row in trained:
        losses = " | ".join(f"{row['ann'] - row['curve'][str(t)]:.1f}" for t in TIME_STEPS)
        lines.append(f"| {row['label']} | {losses} |")
    return "\n".join(lines) + "\n"


def main():
    """Run every row and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000, help="test images")
    parser.add_argument("--fresh", action="store_true", help="measure rows again that the file has already")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    calibration, scored = fashion_mnist(options.samples, BATCHES)
    kept = Rows(options.out / "accuracy.json", fresh=options.fresh)
    count = sum(len(y) for _, y in scored)
    for label, reference, measure in rows(calibration, scored):
        key = {"label": label, "reference": reference, "samples": count}
        kept.measure(key, lambda measure=measure: {"ann": None, "spikes": None} | measure())
    command = f"python benchmarks/accuracy.py --samples {count}"
    (options.out / "accuracy.md").write_text(
        table([row for row in kept.rows if row["samples"] == count], count, command)
    )


if __name__ == "__main__":
    main()
