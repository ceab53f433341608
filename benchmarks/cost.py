"""What another point of accuracy costs: accuracy and time of the same SNNs by T, on the float and the 8-bit engine.

    .venv/bin/python benchmarks/cost.py

Fashion-MNIST ResNet-20. Accuracy is that of the test set; times are of batches of 64 test images, all T and engines in turn, as multiples of one
forward pass of the ANN over the same batch. Writes docs/results/cost.{json,md,svg}; an interrupted run goes on where it stopped. Run it on a
machine that does nothing else.
"""

import argparse
from functools import partial
from itertools import pairwise
from pathlib import Path

import altair as alt
import torch

import tospike as ts
from common import Rows, fashion_mnist, made_by
from tospike import zoo
from tospike.bench.contenders import anns
from tospike.bench.timing import best, interleaved
from tospike.files import replacing
from tospike.report.charts import COLOURS, write_chart

TIME_STEPS, ENGINES, BATCH = (1, 2, 4, 8, 16, 32), ("float", "int8"), 64
METHODS = {
    "LTB": (lambda: ts.LTB(batches=100), "fashion-resnet20-relu"),
    "Ternary, T = 8": (lambda: ts.Ternary(time_steps=8), "fashion-resnet20-relu"),
    "QCFS, L = 4": (lambda: None, "fashion-resnet20-qcfs-l4"),
    "QCFS, L = 8": (lambda: None, "fashion-resnet20-qcfs-l8"),
}  # fmt: skip


def accuracy(label, samples):
    """Return the accuracy of the ANN, and by engine and T those of the SNN, in percent."""
    make, name = METHODS[label]
    calibration, test = fashion_mnist(samples, 100)
    ann = zoo.load(name)
    snn = ts.convert(ann, make(), calibration=calibration, progress=False)
    results = {
        engine: ts.evaluate(snn, test, time_steps=TIME_STEPS, reference=ann, engine=engine, progress=False)
        for engine in ENGINES
    }
    return {
        "ann": results["float"].reference,
        "accuracy": {
            engine: {str(t): score for t, score in result.curve.items()} for engine, result in results.items()
        },
    }


@torch.no_grad()
def times(label, rounds):
    """Return by engine and T the median of the time of the SNN over that of one pass of the ANN."""
    make, name = METHODS[label]
    calibration, test = fashion_mnist(250, 100)
    ann, x = zoo.load(name), test[0][0][:BATCH]
    snn = ts.convert(ann, make(), calibration=calibration, progress=False)
    plain = best(anns(zoo.load("fashion-resnet20-relu"), x), 1)  # without the quantiser of QCFS
    jobs = {(engine, t): partial(snn, x, time_steps=t, engine=engine) for engine in ENGINES for t in TIME_STEPS}
    found = interleaved(jobs | {"ann": partial(plain.run, 1)}, rounds, label)
    ratios = {key: torch.tensor(found[key]) / torch.tensor(found["ann"]) for key in jobs}
    return {"times": {e: {str(t): float(ratios[e, t].median()) for t in TIME_STEPS} for e in ENGINES}}


def points(rows):
    """Yield every point of the plot."""
    by = {(row["method"], row["what"]): row for row in rows}
    for method in METHODS:
        if (method, "accuracy") in by and (method, "times") in by:
            for engine in ENGINES:
                for t in TIME_STEPS:
                    share, time = (
                        by[method, "accuracy"]["accuracy"][engine][str(t)],
                        by[method, "times"]["times"][engine][str(t)],
                    )
                    yield {
                        "method": method,
                        "engine": engine,
                        "T": t,
                        "accuracy": share,
                        "time": time,
                        "ann": by[method, "accuracy"]["ann"],
                    }


def table(found, samples):
    """Write the points as Markdown."""
    yield f"Fashion-MNIST ResNet-20, {samples:,} test images. {made_by('python benchmarks/cost.py')}"
    yield "Time: of T steps over one forward pass of the ANN, batch norm folded, in the faster of two layouts; batch 64, medians. Passes for a point: time that"
    yield "is added from the T before, over the points of accuracy that it adds; – where it adds less than a tenth of a point.\n"
    yield "![Accuracy by time](cost.svg)\n"
    yield "| method | engine | T | accuracy | below the ANN | time | passes for a point |"
    yield "|---|---|---|---|---|---|---|"
    for before, point in pairwise([None, *found]):
        first = before is None or point["T"] == TIME_STEPS[0]
        gain = 0.0 if first else point["accuracy"] - before["accuracy"]
        more = f"{(point['time'] - before['time']) / gain:.2f}" if gain >= 0.1 else "–"
        yield (
            f"| {point['method']} | {point['engine']} | {point['T']} | {point['accuracy']:.2f} | {point['ann'] - point['accuracy']:.2f} "
            f"| {point['time']:.2f} | {more} |"
        )


def chart(found):
    """Return accuracy by time, one line for a method and engine."""
    names = list(dict.fromkeys(point["method"] for point in found))
    x = alt.X("time:Q", title="time, in forward passes of the ANN", scale=alt.Scale(type="log"))
    y = alt.Y("accuracy:Q", title="accuracy, %", scale=alt.Scale(zero=False))
    colour = alt.Color("method:N", scale=alt.Scale(domain=names, range=list(COLOURS)), legend=alt.Legend(title=None))
    dash = alt.StrokeDash("engine:N", sort=list(ENGINES), legend=alt.Legend(title="engine", symbolType="stroke"))
    base = alt.Chart(alt.InlineData(values=found)).encode(x=x, y=y, color=colour)
    lines = base.mark_line(point=True).encode(strokeDash=dash)
    labels = base.mark_text(dy=-8, fontSize=9).encode(text="T:Q")
    return alt.layer(lines, labels).properties(width=520, height=360)


def main():
    """Measure what is missing, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    rows = Rows(options.out / "cost.json")
    for label in options.only:
        rows.measure({"what": "times", "method": label}, partial(times, label, options.rounds))
    for label in options.only:
        key = {"what": "accuracy", "method": label, "samples": options.samples}
        rows.measure(key, partial(accuracy, label, options.samples))
    found = list(points(rows.rows))
    write_chart(chart(found), options.out / "cost.svg")
    with replacing(options.out / "cost.md") as written:
        written.write_text("\n".join(table(found, options.samples)) + "\n")


if __name__ == "__main__":
    main()
