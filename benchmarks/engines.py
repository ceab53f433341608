"""What the integer engines change: accuracy on the Fashion-MNIST test set, and agreement with the float engine.

    .venv/bin/python benchmarks/engines.py

The float engine in double precision stands beside them: it shows how much rounding alone changes, since a neuron near its threshold may
fire a step earlier or later. Writes docs/results/engines.json and engines.md; an interrupted run goes on where it stopped.
"""

import argparse
import copy
from pathlib import Path

import torch

import tospike as ts
from common import Rows, fashion_mnist, made_by
from tospike import zoo
from tospike.files import replacing

TIME_STEPS = (4, 8, 16)
ENGINES = ("float", "float64", "int16", "int8")
METHODS = {
    "LTB": (lambda: ts.LTB(), "fashion-resnet20-relu"), "Auto ternary": (lambda: ts.Auto(8), "fashion-resnet20-relu"),
    "QCFS, L = 8": (lambda: None, "fashion-resnet20-qcfs-l8"),
}  # fmt: skip


@torch.no_grad()
def measure(label, samples):
    """Return by engine and T: accuracy, agreement with the float engine, and how far logits are from its, all in percent."""
    method, name = METHODS[label]
    calibration, test = fashion_mnist(samples, 200)
    snn = ts.convert(zoo.load(name), method(), calibration=calibration, progress=False)
    double, logits, targets = copy.deepcopy(snn).double(), {(e, t): [] for e in ENGINES for t in TIME_STEPS}, []
    for x, y in test:
        targets.append(y)
        for engine in ENGINES:
            network, images = (double, x.double()) if engine == "float64" else (snn, x)
            given = "float" if engine == "float64" else engine
            read = ts.simulate(network, images, time_steps=TIME_STEPS[-1], checkpoints=TIME_STEPS, engine=given)
            for t, output in read:
                logits[engine, t].append(output.double())
    target, found = torch.cat(targets), {}
    for engine in ENGINES:
        for t in TIME_STEPS:
            own, wanted = torch.cat(logits[engine, t]), torch.cat(logits["float", t])
            apart = (own - wanted).norm(dim=1) / wanted.norm(dim=1)
            found.setdefault(engine, {})[str(t)] = {
                "accuracy": 100 * float((own.argmax(1) == target).double().mean()),
                "agreement": 100 * float((own.argmax(1) == wanted.argmax(1)).double().mean()),
                "median": 100 * float(apart.median()), "mean": 100 * float(apart.mean()),
            }  # fmt: skip
    return {"network": name, "samples": len(target), "engines": found}


def table(rows):
    """Write the rows as Markdown."""
    yield "# Engines\n"
    yield made_by("python benchmarks/engines.py")
    yield "Points of accuracy; per cent of samples with the same first class as by the float engine; and how far logits are from those of the "
    yield "float engine, relative, in per cent: median and mean over samples.\n"
    yield "`float64` is the float engine in double precision: what rounding alone changes.\n"
    yield "| method | samples | T | engine | accuracy | same class | logits, median | logits, mean |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        for t in map(str, TIME_STEPS):
            for engine in ENGINES:
                one = row["engines"][engine][t]
                numbers = f"{one['accuracy']:.2f} | {one['agreement']:.2f} | {one['median']:.4f} | {one['mean']:.4f}"
                yield f"| {row['method']} | {row['samples']:,} | {t} | {engine} | {numbers} |"


def main():
    """Measure what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    rows = Rows(options.out / "engines.json")
    found = [
        rows.measure({"method": label, "wanted": options.samples}, lambda label=label: measure(label, options.samples))
        for label in METHODS
    ]
    with replacing(options.out / "engines.md") as written:
        written.write_text("\n".join(table(found)) + "\n")


if __name__ == "__main__":
    main()
