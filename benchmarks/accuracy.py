"""Accuracy on Fashion-MNIST: LTB beside SpikingJelly's recipe on the same weights and batches, QCFS, and RobustNorm.

    make bench                                  # all of it
    python benchmarks/accuracy.py --samples 2000

Writes docs/results/accuracy.json and docs/results/accuracy.md.
"""

import argparse
import copy
import json
import platform
from pathlib import Path

import torch
from rich.progress import track

import tospike as ts
from tospike import data, zoo
from tospike.parts.activations import ClipFloorShift

TIME_STEPS = (1, 2, 4, 8, 16, 32)
BATCHES, BATCH = 100, 100


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
    """Yield label, reference network, its accuracy, the curve, and mean spikes per neuron and step."""
    relu = zoo.load("fashion-resnet20-relu")
    for method in (ts.LTB(batches=BATCHES), ts.RobustNorm(batches=BATCHES), ts.RobustNorm(1.0, "channel", BATCHES)):
        for delay in (0, "auto") if method.name == "ltb" else (0,):
            snn = ts.convert(relu, method, calibration=calibration)
            result = ts.evaluate(snn, scored, time_steps=TIME_STEPS, reference=relu, delay=delay)
            settings = ", ".join(f"{key}={value}" for key, value in method.settings().items())
            yield f"{method.name} ({settings}), delay={delay}", "ReLU ANN", result
    yield "SpikingJelly LTB, same weights and batches", "ReLU ANN", peer(relu, calibration, scored)
    for name in zoo.available():
        if "qcfs" in name:
            ann = zoo.load(name)
            snn = ts.convert(ann, example=scored[0][0])
            yield name, "its quantised ANN", ts.evaluate(snn, scored, time_steps=TIME_STEPS, reference=ann)
            yield f"{name}, no timing error", "", {t: accuracy(with_levels(ann, t), scored) for t in TIME_STEPS}


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


def table(records, samples):
    """Write the records as Markdown."""
    lines = [
        f"Fashion-MNIST ResNet-20 (16-32-64), {samples:,} test images, top-1 in %. Calibration: {BATCHES} batches of {BATCH}",
        "training images in one fixed order, seed 0. T counts every simulated step. Spikes are per neuron and step over T = 32.",
        "No timing error: every layer waits for all spikes of the one before, so only the quantisation to T levels is left; the",
        "difference to the row above is the timing error.",
        f"Made by `python benchmarks/accuracy.py` with torch {torch.__version__} on {platform.machine()}.",
        "",
        "| SNN | reference | ANN | " + " | ".join(f"T={t}" for t in TIME_STEPS) + " | spikes |",
        "|---|---|---|" + "---|" * (len(TIME_STEPS) + 1),
    ]
    for row in records:
        curve = " | ".join(f"{row['curve'][t]:.2f}" for t in TIME_STEPS)
        ann, spikes = (
            f"{row[key]:{form}}" if row[key] is not None else "" for key, form in (("ann", ".2f"), ("spikes", ".3f"))
        )
        lines.append(f"| {row['label']} | {row['reference']} | {ann} | {curve} | {spikes} |")
    return "\n".join(lines) + "\n"


def main():
    """Run every row and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000, help="test images")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    found = data.load("fashion-mnist")
    _, test = found.loaders(BATCH, test_batch_size=250)
    scored = [batch for batch, _ in zip(test, range(-(-options.samples // 250)), strict=False)]
    calibration = [batch for batch, _ in zip(found.calibration(BATCH), range(BATCHES), strict=False)]
    records = []
    for label, reference, result in rows(calibration, scored):
        plain = isinstance(result, dict)
        rates = [] if plain else list(result.rates.values())
        records.append({
            "label": label, "reference": reference, "curve": result if plain else result.curve,
            "ann": None if plain else result.reference, "spikes": sum(rates) / len(rates) if rates else None,
        })  # fmt: skip
        print(records[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "accuracy.json").write_text(json.dumps(records, indent=2) + "\n")
    (options.out / "accuracy.md").write_text(table(records, sum(len(y) for _, y in scored)))


if __name__ == "__main__":
    main()
