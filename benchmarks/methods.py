"""Every training-free method at every T on Fashion-MNIST, three calibration seeds, with what each spends; and an ablation of Auto.

    python benchmarks/methods.py                      # docs/results/methods.{json,md} and the two plots
    python benchmarks/methods.py --table ablation     # docs/results/ablation.{json,md}
    python benchmarks/methods.py --table auto         # docs/results/auto.{json,md}: Auto on the whole test set

An interrupted run goes on where it stopped.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import tospike as ts
from common import BATCH, Rows, fashion_mnist, made_by
from tospike import zoo
from tospike.methods.auto import SPIKES
from tospike.neurons import NeuronModel
from tospike.parts.phase import Taper
from tospike.parts.reconstruct import Reconstruct
from tospike.parts.refiners import ChannelBias, Potential, StepBias
from tospike.run.work import multiply_adds

TIME_STEPS = (1, 2, 4, 8, 16, 32)
PRE_STEPS = 4
FIXED, MADE = 100, 15  # calibration batches for thresholds: of methods that are not made for a T, and of those that are
DESCENTS = {
    "": (300, FIXED),
    ", long": (1000, FIXED),
    ", all images": (1000, 600),
}  # iterations, and batches they go through in turn
NETWORK = "fashion-resnet20-relu"


def refine(t):
    """Return the calibration batches for corrections at T: fewer where each of them has more steps."""
    return min(MADE, max(64 // t, 2))


def levels_15(t):
    """Return a neuron of 15 levels in rate code: with signs, or without where there is but one step."""
    return NeuronModel(capacity=14) if t == 1 else NeuronModel(capacity=7, signed=True)


def descending(spikes, iterations):
    """Return Auto with gradient descent on all batches that it is given, as a function of T."""
    return lambda t: ts.Auto(t, MADE, refine(t), spikes=spikes, iterations=iterations)


def every():
    """Return each method by its label, as a function of T; those that ignore T come first."""
    fixed = {
        "RobustNorm 99 %, layer": ts.RobustNorm(batches=FIXED),
        "RobustNorm max, channel": ts.RobustNorm(percentile=1.0, granularity="channel", batches=FIXED),
        "RMP": ts.RMP(FIXED), "OPI": ts.OPI(FIXED), "LTB": ts.LTB(FIXED), "SNM": ts.SNM(FIXED), "CRPI": ts.CRPI(batches=FIXED),
        "MultiThreshold": ts.MultiThreshold(batches=FIXED),
    }  # fmt: skip
    made = {
        "RTS": lambda t: ts.RTS(time_steps=t, batches=MADE),
        "LightCalibration": lambda t: ts.LightCalibration(t, MADE, refine(t)),
        "AdvancedCalibration": lambda t: ts.AdvancedCalibration(t, MADE, refine(t)),
        "FTBC": lambda t: ts.FTBC(t, MADE, refine(t)),
        "FTBC, thresholds of LTB": lambda t: ts.FTBC(t, MADE, refine(t)).using(scale=ts.LTB(FIXED)),
        "SRP, 4 pre-steps": lambda t: ts.SRP(t, MADE, pre_steps=PRE_STEPS),
        "COS, 4 pre-steps": lambda t: ts.COS(t, MADE, pre_steps=PRE_STEPS),
        "Parallel": lambda t: ts.Parallel(t, MADE, refine(t)),
        "TPP": lambda t: ts.TPP(t, MADE),
        "FirstSpike": lambda t: ts.FirstSpike(t, MADE),
        "BitWeighted": lambda t: ts.BitWeighted(t, MADE),
        "Auto binary": lambda t: ts.Auto(t, MADE, refine(t), spikes="binary"),
        "Ternary": lambda t: ts.Ternary(t, MADE, refine(t)),
        "Auto ternary": lambda t: ts.Auto(t, MADE, refine(t), spikes="ternary"),
        "Burst, K = 5": lambda t: ts.Burst(t, batches=MADE),
        "Group, 4 members": lambda t: ts.Group(t, batches=MADE),
        "Harmony, n = 4": lambda t: ts.Harmony(t, batches=MADE),
        "Differential, n = 4": lambda t: ts.Differential(t, batches=MADE),
        **{
            f"Auto {spikes}, descent{more}": descending(spikes, iterations)
            for more, (iterations, _) in DESCENTS.items()
            for spikes in SPIKES
        },
        "15 levels, rate code": lambda t: ts.Ternary(t, MADE).using(neuron=levels_15(t), refiners=()),
        "Auto graded": lambda t: ts.Auto(t, MADE, refine(t), spikes="graded"),
    }
    return {label: (lambda _, method=method: method) for label, method in fixed.items()} | made, set(fixed)


def batches_of(label):
    """Return how many calibration batches a row may see."""
    return DESCENTS[label.partition(", descent")[2]][1]


def seen(conversion, given):
    """Return how many different images a conversion looked at, of so many batches."""
    descended = 0 if conversion.descended is None else conversion.descended.samples
    return max(conversion.calibration_samples, min(descended, given * BATCH))


def figures(result, t, snn, given):
    """Return what a table shows of one T."""
    neuron = snn.conversion.neuron
    return {
        "score": result.curve[t], "ann": result.reference, "spikes": result.spikes_per_neuron[t], "operations": result.operations[t],
        "latency": result.latency[t], "levels": neuron.counts(t - neuron.pre_steps), "kind": neuron.spikes, "code": neuron.code,
        "sizes": neuron.sizes * (2 if neuron.signed else 1), "images": seen(snn.conversion, given), "synchronous": neuron.synchronous,
    }  # fmt: skip


def measure(ann, make, steps, calibration, scored):
    """Convert for the largest T, and return the figures of each T; none where it is no more than the pre-run."""
    try:
        method = make(steps[-1])
    except ts.errors.OptionError:
        return {"at": {}}
    snn = ts.convert(ann, method, calibration=calibration, progress=False)
    result = ts.evaluate(snn, scored, time_steps=steps, reference=ann, progress=False)
    return {"at": {t: figures(result, t, snn, len(calibration)) for t in steps}}


def peer_recipes(calibration):
    """Return SpikingJelly's recipes that convert a network of ReLUs, by label."""
    from spikingjelly.activation_based import ann2snn

    return {
        "SpikingJelly LTB": lambda: ann2snn.LocalThresholdBalancingRecipe(dataloader=calibration),
        "SpikingJelly rate, max": lambda: ann2snn.RateCodingRecipe(dataloader=calibration, mode="Max"),
        "SpikingJelly rate, 99.9 %": lambda: ann2snn.RateCodingRecipe(dataloader=calibration, mode="99.9%"),
    }


@torch.no_grad()
def measure_peer(ann, recipe, scored):
    """Convert with SpikingJelly and average its output over the first T steps, T by T, in one simulation."""
    from spikingjelly.activation_based import ann2snn, functional

    snn = ann2snn.Converter(recipe=recipe(), device="cpu").convert(ann).eval()
    functional.set_step_mode(snn, "s")
    hits, reference, count = dict.fromkeys(TIME_STEPS, 0), 0, sum(len(y) for _, y in scored)
    for x, y in scored:
        functional.reset_net(snn)
        reference += int((ann(x).argmax(1) == y).sum())
        total = 0
        for t in range(1, TIME_STEPS[-1] + 1):
            total = total + snn(x)
            if t in hits:
                hits[t] += int((total.argmax(1) == y).sum())
    shared = {"ann": 100 * reference / count, "kind": "binary", "code": "rate", "sizes": 1, "synchronous": False}
    shared |= {"spikes": None, "operations": None, "images": FIXED * 100}
    return {"at": {t: shared | {"score": 100 * n / count, "latency": t, "levels": t} for t, n in hits.items()}}


def parts_of_auto():
    """Return Auto with parts taken away or replaced, by label and kind of spikes."""

    def auto(spikes, **parts):
        return lambda t: ts.Auto(t, MADE, refine(t), spikes=spikes).using(**parts)

    def tapered(**parts):
        return lambda t: ts.Auto(t, MADE, refine(t), code="taper").using(**parts)

    largest = ts.RobustNorm(percentile=1.0, granularity="channel", batches=MADE)
    return {
        "ternary: taper": tapered(),
        "ternary: code fitted to each layer": lambda t: ts.Auto(t, MADE, refine(t), code="fit"),
        "ternary: rate code": lambda t: ts.Auto(t, MADE, refine(t), code="rate"),
        "ternary: rate code, silence worth a spike": lambda t: ts.Auto(t, MADE, refine(t), code="rest"),
        "ternary: taper without its change over depth": tapered(refiners=(Reconstruct(), Taper(0.7, 0.7, 0.7), StepBias())),
        "ternary: taper, weights not fitted": tapered(refiners=(Taper(), StepBias())),
        "ternary: taper, weights fitted without regard to the rectifier": tapered(refiners=(Reconstruct(rounds=1), Taper(), StepBias())),
        "ternary: taper, no bias": tapered(refiners=(Reconstruct(), Taper())),
        "ternary: taper, one bias for all steps": tapered(refiners=(Reconstruct(), Taper(), ChannelBias())),
        "ternary: taper, potential per neuron": tapered(refiners=(Reconstruct(), Taper(), Potential(), StepBias())),
        "ternary: taper, start 0": tapered(start=0.0),
        "binary: Auto": auto("binary"),
        "binary: weights not fitted": auto("binary", refiners=(StepBias(),)),
        "binary: one bias for all steps": auto("binary", refiners=(Reconstruct(), ChannelBias())),
        "binary: one bias for all steps, potential per neuron": auto("binary", refiners=(Reconstruct(), ChannelBias(), Potential())),
        "binary: potential per neuron": auto("binary", refiners=(Reconstruct(), Potential(), StepBias())),
        "binary: no bias": auto("binary", refiners=(Reconstruct(),)),
        "binary: largest activation as threshold": auto("binary", scale=largest),
        "binary: start 0": auto("binary", start=0.0),
    }  # fmt: skip


def loss(at):
    """Return the points that were lost to the ANN."""
    return at["ann"] - at["score"]


def spread(group, t):
    """Return mean and standard deviation over seeds of the points lost at T, as text; a dash where it was not run, or cannot be."""
    losses = [loss(seen[str(t)]) for seen in group if str(t) in seen]
    if not losses:
        return "–"
    deviation = f" ± {statistics.stdev(losses):.1f}" if len(losses) > 1 else ""
    return f"{statistics.mean(losses):.1f}{deviation}"


def grouped(rows):
    """Return by label, in the order of their first, what was measured with each seed: figures by T."""
    found = {}
    for row in rows:
        seeds = found.setdefault(row["label"], {})
        seeds[row["seed"]] = seeds.get(row["seed"], {}) | row["at"]
    return {label: list(seeds.values()) for label, seeds in found.items() if any(seeds.values())}


def stepped_work(ann):
    """Return the multiply-adds for one image of all layers that an SNN steps: those between its first and its last neurons."""
    snn, work = ts.convert(ann, ts.RMP(batches=1), calibration=[torch.rand(2, 1, 28, 28)]), []
    for node in snn.plan.body:
        if node.op == "call_module":
            snn.graph.get_submodule(node.target).register_forward_hook(
                lambda m, args, y: work.append(multiply_adds(m, args[0], y))
            )
    snn(torch.rand(1, 1, 28, 28), time_steps=1)
    return sum(work)


def table(rows, text, work):
    """Write the rows as Markdown."""
    steps = [t for t in TIME_STEPS if any(str(t) in row["at"] for row in rows)]
    marked = 8 if 8 in steps else steps[-1]
    lines = [
        *text, "",
        "| method | spikes | code | levels of one step | images | waits | " + " | ".join(f"T={t}" for t in steps)
        + f" | spikes, T={marked} | SOP/MAC, T={marked} |",
        "|---|---|---|---|---|---|" + "---|" * (len(steps) + 2),
    ]  # fmt: skip
    for label, group in grouped(rows).items():
        facts = group[0]
        at = facts.get(str(marked), facts[max(facts, key=int)])
        spent = [
            f"{at[key] / unit:.2f}" if str(marked) in facts and at[key] is not None else ""
            for key, unit in (("spikes", 1), ("operations", work))
        ]
        losses = " | ".join(spread(group, t) for t in steps)
        waits = "each layer" if at["synchronous"] else ("pre-run" if at["latency"] > marked else "")
        lines.append(
            f"| {label} | {at['kind']} | {at['code']} | {at['sizes']} | {at['images']:,} | {waits} | {losses} | {' | '.join(spent)} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows, axis, path):
    """Draw the points lost over T, or over the number of levels that T steps can tell apart."""
    figure, axes = plt.subplots(figsize=(12, 6), layout="constrained")
    markers = {"binary": "o", "ternary": "s", "graded": "^"}
    for number, (label, group) in enumerate(grouped(rows).items()):
        points = {}
        for seen in group:
            for t, at in seen.items():
                points.setdefault(int(t) if axis == "T" else at["levels"], []).append(loss(at))
        xs = sorted(points)
        ys = [max(statistics.mean(points[x]), 0.03) for x in xs]
        kind = next(iter(group[0].values()))["kind"]
        axes.plot(xs, ys, marker=markers[kind], label=f"{label} ({kind})", color=plt.cm.tab20(number % 20), linewidth=1.2, markersize=4,
                  linestyle="--" if label.startswith("SpikingJelly") else "-")  # fmt: skip
    axes.set(
        xscale="log",
        yscale="log",
        xlabel={"T": "time-steps T", "N": "levels N that T steps can tell apart"}[axis],
        ylabel="points below the ANN",
    )
    axes.set_xscale("log", base=2)
    axes.set_xlim(right={"T": None, "N": 1024}[axis])  # the bits of a count go on to billions
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


def main():
    """Measure every row and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", choices=("methods", "ablation", "auto"), default="methods")
    parser.add_argument("--samples", type=int, help="test images; 2,000, and all 10,000 for the table auto")
    parser.add_argument("--steps", type=int, nargs="+", default=TIME_STEPS, help="the T to run")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--only", nargs="+", help="labels to measure; the table shows all that the file has")
    parser.add_argument("--fresh", action="store_true", help="measure rows again that the file has already")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    samples = options.samples or (10_000 if options.table == "auto" else 2_000)
    ann, kept = zoo.load(NETWORK), Rows(options.out / f"{options.table}.json", fresh=options.fresh)
    methods, fixed = every()
    if options.table == "ablation":
        methods, fixed = parts_of_auto(), set()
    if options.table == "auto":
        labels = [
            f"Auto {spikes}{more}" for more in ("", *(f", descent{more}" for more in DESCENTS)) for spikes in SPIKES
        ]
        methods = {label: methods[label] for label in ("LTB", *labels)}
    for seed in options.seeds:
        images, scored = fashion_mnist(samples, max(batches for _, batches in DESCENTS.values()), seed)
        calibration = images[:FIXED]
        count = sum(len(y) for _, y in scored)
        wanted = [
            (label, together, partial(measure, ann, method, together, images[: batches_of(label)], scored))
            for label, method in methods.items()
            for together in ([tuple(options.steps)] if label in fixed else [(t,) for t in options.steps])
        ]
        if options.table == "methods":
            wanted += [
                (label, TIME_STEPS, partial(measure_peer, ann, recipe, scored))
                for label, recipe in peer_recipes(calibration).items()
            ]
        for label, together, function in wanted:
            if options.only is None or label in options.only:
                kept.measure({"label": label, "seed": seed, "samples": count, "steps": list(together)}, function)
    shown = [row for row in kept.rows if row["samples"] == samples]
    text = [
        f"Fashion-MNIST ResNet-20 (`{NETWORK}`), the first {samples:,} test images; points of top-1 below the same ANN, mean ± standard",
        "deviation over the orders of calibration images that were run. T counts every simulated step. Methods are made for each T, but those that",
        f"do not know T. Descent: {DESCENTS[''][0]} iterations of gradient descent on unlabelled calibration batches, behind all else; long:",
        f"{DESCENTS[', long'][0]:,}; all images: as many on {DESCENTS[', all images'][1] * BATCH:,}. Levels of one step: what a spike",
        "can be, both signs. Waits: each layer waits for all T steps of the layer before, or for its pre-run. Spikes: per neuron for one image.",
        "SOP/MAC: synaptic operations of one image over the multiply-adds of the ANN's spiking layers.",
        made_by(f"python benchmarks/methods.py --table {options.table}"),
    ]  # fmt: skip
    (options.out / f"{options.table}.md").write_text(table(shown, text, stepped_work(ann)))
    if options.table == "methods":
        plot(shown, "T", options.out / "methods-equal-t.png")
        plot(shown, "N", options.out / "methods-equal-levels.png")


if __name__ == "__main__":
    main()
