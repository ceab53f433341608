"""Segmentation, detection and video: LTB, with and without delay, and Auto for ternary spikes, at T = 4 to 64, on the networks of the zoo.

    python benchmarks/tasks.py                  # docs/results/tasks.{json,md,svg} and a sheet of answers of each network that draws them
    python benchmarks/tasks.py --samples 200    # fewer test samples

An interrupted run goes on where it stopped.
"""

import argparse
from itertools import islice
from pathlib import Path

import altair as alt

import tospike as ts
from common import Rows, made_by
from tospike import data, zoo
from tospike.report.charts import write_chart
from tospike.zoo.recipes import recipe

TIME_STEPS = (4, 8, 16, 32, 64)
# The paper's number of iterations; what they learn does not depend on the size of a batch.
LTB_BATCHES, LTB_BATCH = 1000, 8
MADE, MADE_BATCH, BATCH = 8, 25, 50
EIGHTHS, CHOOSING = (3, 4, 5, 6), 100  # of T that are left out, one of which is chosen on as many training scenes
ITERATIONS, FEW = 100, (4, 8)  # of gradient descent, and the T at which segmenters have it
NETWORKS = ("fashion-scenes-fcn", "fashion-scenes-deeplab", "fashion-detection-fcos", "fashion-clips-clip-net")
LABELS = ("LTB", "LTB, delayed", "LTB, delay chosen", "Auto, ternary", "Auto, ternary, descent")
PUBLISHED = (
    "Reported by the paper of LTB (Bu, Li and Yu, CVPR 2025), for comparison of losses, since networks and data are others: "
    "FCN-ResNet18 on Pascal VOC, ANN 47.30 % mIoU, lost 3.8 / 0.3 at T = 32 / 64; RetinaNet-R50 on COCO, ANN 36.4 mAP, lost 19.8 / 9.1; "
    "MC3-18 on Kinetics-400 (small), ANN 63.52 %, lost 8.3 / 1.9."
)


def runs(found):
    """Yield what to convert with and how to run it: label, method, the T that are scored, and the delay."""
    masks = isinstance(found.task, ts.Segmentation)
    yield "LTB", ts.LTB(batches=LTB_BATCHES), TIME_STEPS, 0
    if masks:  # the paper reads segmentation out from T / 2 on
        yield from (("LTB, delayed", ts.LTB(batches=LTB_BATCHES), (t,), t // 2) for t in TIME_STEPS)
        yield from (("LTB, delay chosen", ts.LTB(batches=LTB_BATCHES), (t,), None) for t in TIME_STEPS)
    else:
        yield "LTB, delayed", ts.LTB(batches=LTB_BATCHES), TIME_STEPS, "auto"
    for t in TIME_STEPS:
        refine = max(2, min(MADE, 16 // t))
        yield "Auto, ternary", ts.Auto(t, spikes="ternary", batches=MADE, refine_batches=refine), (t,), 0
        if masks and t in FEW:
            descending = ts.Auto(t, spikes="ternary", batches=MADE, refine_batches=refine, iterations=ITERATIONS)
            yield "Auto, ternary, descent", descending, (t,), 0


def best_delay(snn, task, steps, batches):
    """Return the number of steps to leave out that gives the best score on some batches."""

    def score(delay):
        result = ts.evaluate(snn, batches, task=task, time_steps=(steps,), delay=delay, progress=False)
        return result.curve[steps]

    return max((eighths * steps // 8 for eighths in EIGHTHS), key=score)


def measure(name, samples, rows, pictures):
    """Measure every row of a network, and draw a sheet of answers."""
    entry, detector = recipe(name), zoo.load(name)
    found = data.load(entry.data, augment=False)
    task, ann = found.task.bind(detector)
    _, test = found.loaders(BATCH)
    batches = list(islice(test, -(-samples // BATCH)))
    made = {}  # LTB is converted once for all of its rows

    def converted(method, size):
        if method not in made:
            calibration = task.batches(found.calibration(size, seed=0))
            made.clear()
            made[method] = ts.convert(
                ann, method, calibration=calibration, analog=getattr(task, "analog", ()), progress=False
            )
        return made[method]

    for label, method, steps, delay in runs(found):

        def row(method=method, steps=steps, delay=delay, label=label):
            snn = converted(method, LTB_BATCH if label.startswith("LTB") else MADE_BATCH)
            sheet = pictures / f"{name}.png" if label == "LTB" and type(task).draw is not ts.Task.draw else None
            seen = islice(found.calibration(BATCH, seed=0), CHOOSING // BATCH)
            chosen = best_delay(snn, task, steps[0], list(seen)) if delay is None else delay
            result = ts.evaluate(
                snn, batches, task=task, time_steps=steps, delay=chosen, reference=ann, pictures=sheet, pictured=4
            )
            return {
                "task": type(task).__name__, "score": result.headline, "samples": result.samples, "ann": result.reference,
                "curve": result.curve, "spikes": {t: n / t for t, n in result.spikes_per_neuron.items()}, "delays": result.delays,
                "operations": result.operations, "analog_operations": result.analog_operations, "analog": len(snn.conversion.analog),
                "neurons": result.neurons, "settings": result.settings, "calibration": result.calibration_samples,
            }  # fmt: skip

        rows.measure({"network": name, "label": label, "steps": list(steps), "wanted": samples}, row)


def merged(rows):
    """Return for each network and label the points lost and the spikes per neuron and step, by T."""
    found = {}
    for row in rows:
        at = found.setdefault((row["network"], row["label"]), {"row": row, "lost": {}, "spikes": {}})
        for t, score in row["curve"].items():
            at["lost"][int(t)], at["spikes"][int(t)] = row["ann"] - score, row["spikes"][t]
    return found


def place(item):
    """Return where a row of the table stands."""
    (name, label), _ = item
    return NETWORKS.index(name), LABELS.index(label)


def table(rows, command):
    """Write the rows as Markdown."""
    lines = [
        "# Segmentation, detection, video", "", made_by(command), "",
        "Networks of the zoo on scenes and clips that are composed of Fashion-MNIST items, with test items in test samples only. "
        "Points lost to the ANN (mIoU, mAP over overlaps 0.5 to 0.95, top-1 of videos); spikes per neuron and step at T = 8. Seed 0. "
        "LTB: 1,000 calibration batches of 8 samples; delayed: read out from T/2 on for segmentation, else by the estimate of the conversion; "
        f"delay chosen: {', '.join(map(str, EIGHTHS))} eighths of T, whichever is best on {CHOOSING} training scenes. "
        f"Auto is made for each T, from 200 samples. Descent: {ITERATIONS} iterations of gradient descent on unlabelled batches of {MADE_BATCH} behind it.",
        "", PUBLISHED, "",
        "| network | samples | ANN | method | " + " | ".join(f"T={t}" for t in TIME_STEPS) + " | spikes | analog operations |",
        "|---|---|---|---|" + "---|" * (len(TIME_STEPS) + 2),
    ]  # fmt: skip
    for (name, label), at in sorted(merged(rows).items(), key=place):
        row = at["row"]
        losses = " | ".join(f"{at['lost'][t]:.1f}" if t in at["lost"] else "–" for t in TIME_STEPS)
        spikes = f"{at['spikes'][8]:.3f}" if 8 in at["spikes"] else "–"
        lines.append(
            f"| {name} | {row['samples']:,} | {row['ann']:.1f} | {label} | {losses} | {spikes} | {row['analog']} |"
        )
    return "\n".join(lines) + "\n"


def chart(rows):
    """Draw the points lost over T, one panel for each network."""
    points = [
        {"network": name, "method": label, "T": t, "points below the ANN": max(lost, 0.05)}
        for (name, label), at in merged(rows).items() for t, lost in at["lost"].items()
    ]  # fmt: skip
    return (
        alt.Chart(alt.Data(values=points)).mark_line(point=True)
        .encode(
            alt.X("T:Q").scale(type="log", base=2), alt.Y("points below the ANN:Q").scale(type="log"),
            alt.Color("method:N").sort(LABELS), alt.Shape("method:N").sort(LABELS),
        )
        .properties(width=220, height=180).facet("network:N", columns=2)
    )  # fmt: skip


def main():
    """Measure every row and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument(
        "--only", nargs="+", default=NETWORKS, help="networks to measure; the table shows all that the file has"
    )
    parser.add_argument("--fresh", action="store_true", help="measure rows again that the file has already")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    rows = Rows(options.out / "tasks.json", fresh=options.fresh)
    for name in options.only:
        if name in zoo.available():
            measure(name, options.samples, rows, options.out / "tasks")
    if rows.rows:
        (options.out / "tasks.md").write_text(table(rows.rows, "python benchmarks/tasks.py"))
        write_chart(chart(rows.rows), options.out / "tasks.svg")


if __name__ == "__main__":
    main()
