"""Training-aware conversion of Fashion-MNIST ResNet-20 from the same pre-trained ReLU network, at equal cost.

    python benchmarks/training.py                       # docs/results/training.{json,md}
    python benchmarks/training.py --only "MiCE, T=8"    # some rows; the table shows all that the file has

Cost is counted in passes over the training data: an epoch of an ANN is one, an epoch of an SNN tuned at T is T. Related systems get one (four passes
over a quarter of the data), beside rows of ours that get as little. An interrupted run goes on where it stopped.
"""

import argparse
import dataclasses
import statistics
from functools import partial
from pathlib import Path

import torch

import tospike as ts
from common import Rows, fashion_mnist, made_by
from tospike import data, zoo
from tospike.descend import descend
from tospike.parts.descent import Descent
from tospike.tune import ADAM_LR
from tospike.zoo.recipes import recipe

NETWORK, SHIPPED = "fashion-resnet20-relu", "fashion-resnet20-mice-t4"
TIME_STEPS = (1, 2, 4, 8, 16)
PASSES, MANY, FEW, PART = 16, 64, 4, 15_000
BATCH, LR = 128, 0.05
MEASURED = 15  # calibration batches


class Setting:
    """What every row of one seed shares: the network, the data, and where checkpoints lie."""

    def __init__(self, seed, samples, folder):
        self.seed, self.folder = seed, folder
        self.ann = zoo.load(NETWORK)
        self.calibration, self.scored = fashion_mnist(samples, MEASURED, seed)
        found = data.load("fashion-mnist")
        self.whole, _ = found.loaders(BATCH, seed=seed)
        self.part, _ = found.held_out(len(found.train) - PART, seed=seed).loaders(BATCH, seed=seed)

    def options(self, label):
        name = "".join(letter if letter.isalnum() else "-" for letter in f"{label}-{self.seed}")
        return {"lr": LR, "warmup_epochs": 0, "seed": self.seed, "checkpoint": self.folder / f"{name}.pt", "progress": False,
                "log": lambda record: print(label, record.epoch, f"{record.train_loss:.4f}", f"{record.seconds:.0f} s", flush=True)}  # fmt: skip

    def figures(self, snn, steps, ann=None):
        """Return the points below the ReLU network at each T, and what was spent."""
        device = "cuda" if torch.cuda.is_available() else None
        result = ts.evaluate(snn, self.scored, time_steps=steps, reference=self.ann, device=device, progress=False)
        found = {
            "at": {t: {"score": result.curve[t], "spikes": result.spikes_per_neuron[t]} for t in steps},
            "ann": result.reference,
        }
        if ann is not None:
            found["source"] = ts.evaluate(snn, self.scored, time_steps=(1,), reference=ann, progress=False).reference
        return found

    def trained(self, label, method, epochs):
        """Return the network prepared by a method and trained from the ReLU network's weights."""
        ann = ts.prepare(
            self.ann, method, example=self.calibration[0][0][:4], calibration=self.calibration, progress=False
        )
        loader = self.whole if epochs > FEW else self.part
        ts.fit(ann, loader, epochs=epochs, weight_decay=5e-4, channels_last=True, **self.options(label))
        return ann.eval()

    def tuned(self, label, snn, tuning, passes, **changes):
        """Return an SNN tuned for as many passes."""
        epochs = max(1, passes // tuning.time_steps)
        loader = self.whole if passes > FEW else self.part
        options = self.options(label) | ({} if tuning.normalise else {"lr": LR / 10})
        if tuning.optimizer == "adam":
            del options["lr"], options["warmup_epochs"]  # its own
        return ts.tune(snn, tuning, loader, ann=self.ann, epochs=epochs, channels_last=True, **options | changes)

    def file(self, label):
        """Return where the SNN of a row is kept."""
        return self.folder / f"{label}, seed {self.seed}.tospike"

    def lengthened(self, label, snn, tuning, passes, shorter=(), third=0):
        """Return an SNN tuned for as many passes, and behind what the `shorter` rows have, each longer than the one before, for `third` more.

        These are without the distance, at a third of the rate. SNNs are kept beside the checkpoints; the last of the shorter rows that has one there
        is taken up from it.
        """
        kept = [one for one in shorter if self.file(one).exists()]
        made = ts.load(self.file(kept[-1])) if kept else None
        for one in (*shorter, label)[shorter.index(kept[-1]) + 1 if kept else 0 :]:
            if made is None:
                made = self.tuned(one, snn, tuning, passes)
            else:
                lr = ADAM_LR if tuning.optimizer == "adam" else LR
                later = dataclasses.replace(tuning, distance=0.0, distance_share=1.0)
                made = self.tuned(one, made, later, third, lr=lr / 3)
            ts.save(made, self.file(one), force=True)
        return made


def converted(method, label, setting):
    """Training-free: convert for each T."""
    found = {"at": {}}
    for t in TIME_STEPS:
        made = ts.convert(setting.ann, method(t), calibration=setting.calibration, progress=False)
        one = setting.figures(made, (t,))
        found = one | {"at": found["at"] | one["at"]}
    return found | {"passes": 0}


def trained(method, passes, label, setting, then=None, source=None):
    """Train with an activation, or take what another row trained, convert, and run at each T."""
    ann = setting.trained(source or label, method, passes)
    calibration = setting.calibration if then else None
    snn = ts.convert(ann, then, calibration=calibration, example=setting.calibration[0][0][:4], progress=False)
    return setting.figures(snn, TIME_STEPS, ann) | {"passes": passes if passes > FEW else 1}


def mice(steps, first, second, label, setting, source=None, share=1.0, shorter=(), third=0, spikes="binary"):
    """So many passes with the quantiser, or what another row trained, then so many with the SNN, and more as `Setting.lengthened` says."""
    method = ts.MiCE(time_steps=steps, spikes=spikes)
    ann = setting.trained(f"{source or label}, quantised", method, first)
    snn = ts.convert(ann, example=setting.calibration[0][0][:4], progress=False)
    tuning = dataclasses.replace(method.tuning, distance_share=share)
    made = setting.lengthened(label, snn, tuning, second, shorter, third)
    terms = [ts.error_terms(one, [x for x, _ in setting.scored[:2]], time_steps=steps) for one in (snn, made)]
    errors = [[{**vars(site)} for site in one.sites] for one in terms]
    return setting.figures(made, tuple(t for t in TIME_STEPS if t <= steps), ann) | {
        "passes": first + second + third * len(shorter),
        "errors": errors,
    }


def tuned(make, tuning, passes, label, setting, shorter=(), third=0):
    """Tune what a training-free method gives at one T."""
    snn = ts.convert(setting.ann, make, calibration=setting.calibration, progress=False)
    made = setting.lengthened(label, snn, tuning, passes, shorter, third)
    passes += third * len(shorter)
    return setting.figures(made, (tuning.time_steps,)) | {"passes": passes if passes > FEW else 1}


def shortened(name, tuning, passes, label, setting, shorter=(), third=0):
    """Tune an SNN of the zoo at fewer steps than it was made for."""
    made = setting.lengthened(label, zoo.snn(name), tuning, passes, shorter, third)
    before = recipe(name)
    spent = before.epochs + sum(stage.epochs * stage.options["time_steps"] for stage in before.tunings)
    return setting.figures(made, (tuning.time_steps,)) | {"passes": spent + passes + third * len(shorter)}


def descended(make, steps, passes, label, setting):
    """Descend from what a training-free method gives at one T, without labels."""
    loader = setting.whole if passes > FEW else setting.part
    descent = Descent(passes * len(loader) // steps)
    snn = ts.convert(setting.ann, make, calibration=setting.calibration, progress=False)
    snn = descend(snn, setting.ann, descent, loader, steps, progress=False)
    return setting.figures(snn, (steps,)) | {"passes": passes if passes > FEW else 1}


def every():
    """Return the functions that measure a row, by label."""

    def auto(spikes):
        return lambda t: ts.Auto(t, MEASURED, min(MEASURED, max(64 // t, 2)), spikes=spikes)

    def qcfs(levels, **options):
        return ts.QCFS(levels=levels, initial=None, average_pool=False, **options)

    def longer(label, first, third):
        halved = f"{label}, distance in the first half"
        more = f"{halved}, then {third} without it"
        again = f"{more}, then {third} more"
        chains = {halved: (), more: (halved,), again: (halved, more)}
        return {one: partial(first, shorter=shorter, third=third) for one, shorter in chains.items()}

    rows = {"ReLU + LTB": partial(converted, lambda _: ts.LTB(100))}
    rows |= {f"ReLU + Auto {spikes}": partial(converted, auto(spikes)) for spikes in ("binary", "ternary")}
    rows |= {f"QCFS, L={levels}": partial(trained, qcfs(levels), PASSES) for levels in (8, 4)}
    signed = ts.QCFS(levels=8).using(neuron=ts.NeuronModel(signed=True))
    rows["QCFS, L=8, signed neurons"] = partial(trained, qcfs(8), PASSES, then=signed, source="QCFS, L=8")
    for levels in (8, 4):
        resting = ts.QCFS(levels=levels).using(neuron=ts.NeuronModel(signed=True, rest=1))
        source = f"QCFS, L={levels}"
        rows[f"{source}, silence worth a spike"] = partial(trained, qcfs(levels), PASSES, then=resting, source=source)
    rows |= {f"MiCE, T={t}": partial(mice, t, PASSES // 2, PASSES // 2) for t in (8, 4, 2)}
    rows |= {f"MiCE ternary, T={t}": partial(mice, t, PASSES // 2, PASSES // 2, spikes="ternary") for t in (4, 2, 1)}
    rows |= {f"MiCE, T={t}, {MANY} passes": partial(mice, t, MANY // 4, MANY - MANY // 4) for t in (8, 4, 2)}
    behind = MANY - MANY // 4
    for t, third in ((8, MANY), (4, behind), (2, behind)):
        label = f"MiCE, T={t}, {MANY} passes"
        rows |= longer(label, partial(mice, t, MANY // 4, behind, source=label, share=0.5), third)
    ternary = dataclasses.replace(ts.JointErrors(2), distance_share=0.5)
    rows |= longer(
        f"Auto ternary, joint errors, T=2, {behind} passes",
        partial(tuned, auto("ternary")(2), ternary, behind),
        MANY // 2,
    )
    rows |= {f"QCFS, L={levels}, {MANY} passes": partial(trained, qcfs(levels), MANY) for levels in (8, 4)}
    start = "SNN of the zoo for T=4"
    ways = {"tuned": ts.Tuning(2), "joint errors": ts.JointErrors(2, distance_share=0.5), "LaSNN": ts.LaSNN(2),
            "tuned with the distance in the first half": ts.Tuning(2, distance=4.0, distance_share=0.5)}  # fmt: skip
    rows |= {f"{start}, {way} at T=2, 12 passes": partial(shortened, SHIPPED, how, 12) for way, how in ways.items()}
    chain = {f"{start}, tuned at T=2, 60 passes": ()}
    chain |= {f"{one}, then 28 more": (one,) for one in chain}
    rows |= {
        label: partial(shortened, SHIPPED, ts.Tuning(2), 60, shorter=shorter, third=28)
        for label, shorter in chain.items()
    }
    rows["SNN of the zoo for T=2, tuned, 60 passes"] = partial(shortened, "fashion-resnet20-mice-t2", ts.Tuning(2), 60)
    for spikes, steps in (("binary", (2, 4, 1)), ("ternary", (2, 4))):
        rows |= {f"Auto {spikes}, tuned, T={t}": partial(tuned, auto(spikes)(t), ts.Tuning(t), PASSES) for t in steps}
        rows |= {
            f"Auto {spikes}, joint errors, T={t}": partial(tuned, auto(spikes)(t), ts.JointErrors(t), PASSES)
            for t in steps
        }
        rows |= {f"Auto {spikes}, descent, T={t}": partial(descended, auto(spikes)(t), t, PASSES // 2) for t in steps}
    related = {"QCFS, L=8": qcfs(8), "QCFS per channel, L=8": qcfs(8, granularity="channel"), "TCL": ts.TCL(), "RNL": ts.RNL(),
               "SlipReLU, L=8": ts.SlipReLU(levels=8), "LSQ, L=8": ts.LSQ(levels=8)}  # fmt: skip
    rows |= {f"{label}, 1 pass": partial(trained, method, FEW) for label, method in related.items()}
    bits = ts.BitWeighted(time_steps=4)
    rows["QCFS, L=15, bit-weighted, T=4, 1 pass"] = partial(trained, qcfs(15), FEW, then=bits)
    plain = ts.LightCalibration(4, MEASURED, MEASURED)
    for way in (ts.Tuning, ts.DSR, ts.SNN2ANN, ts.PTL, ts.LayerTuning, ts.LaSNN, ts.DeepSNN):
        rows[f"{way.__name__}, T=4, 1 pass"] = partial(tuned, plain, way(4), FEW)
    rows["Descent, T=4, 1 pass"] = partial(descended, plain, 4, FEW)
    return rows


def table(rows, text):
    """Write the rows as Markdown: mean points below the ReLU network, and their spread over seeds."""
    lines = [*text, "", "| from the same ReLU network | seeds | passes | its own ANN | " + " | ".join(f"T={t}" for t in TIME_STEPS) + " |",
             "|---|---|---|---|" + "---|" * len(TIME_STEPS)]  # fmt: skip
    for label in dict.fromkeys(row["label"] for row in rows):
        group = [row for row in rows if row["label"] == label]

        def cell(values):
            if not values:
                return "–"
            return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")

        cells = [
            cell([row["ann"] - row["at"][str(t)]["score"] for row in group if str(t) in row["at"]]) for t in TIME_STEPS
        ]
        own = cell([row["ann"] - row["source"] for row in group if "source" in row])
        lines.append(f"| {label} | {len(group)} | {group[0]['passes']} | {own} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def errors(rows):
    """Write the error terms of MiCE before and after its second stage."""
    lines = []
    for row in (row for row in rows if "errors" in row and row["seed"] == 0):
        lines += ["", f"{row['label']}: errors in % of the activation, first 500 test images: after training with the quantiser > after tuning with the SNN.",
                  "", "| Site | clipping | quantisation | timing | total |", "|---|---|---|---|---|"]  # fmt: skip
        for before, after in zip(*row["errors"], strict=True):
            shares = []
            for term in ("clipping", "quantisation", "timing", "total"):
                shares.append(" > ".join(f"{100 * one[term] / one['activation']:.1f}" for one in (before, after)))
            lines.append(f"| {before['site']} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def main():
    """Measure every row and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000, help="test images")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--only", nargs="+", help="labels to measure")
    parser.add_argument("--fresh", action="store_true", help="measure rows again that the file has already")
    parser.add_argument("--runs", type=Path, default=Path("runs/training"), help="folder for checkpoints")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    kept = Rows(options.out / "training.json", fresh=options.fresh)
    for seed in options.seeds:
        setting = Setting(seed, options.samples, options.runs)
        for label, function in every().items():
            if options.only is None or label in options.only:
                kept.measure(
                    {"label": label, "seed": seed, "samples": options.samples}, partial(function, label, setting)
                )
    rows = [row for row in kept.rows if row["samples"] == options.samples]
    text = [
        f"Fashion-MNIST ResNet-20, {options.samples:,} test images; points of top-1 below the pre-trained ReLU network (`{NETWORK}`), mean ± standard",
        "deviation over seeds (order of data and of calibration). Every trained row starts from that network. Passes over the training data: an epoch of",
        f"an ANN is one, of an SNN tuned at T it is T; one pass is {FEW} over a quarter of the data. SGD, batch {BATCH}, lr {LR}, half a cosine;",
        f"a tenth of it for tuning by rate, which does not normalise: at {LR} it collapses to chance; joint errors, MiCE's second stage: Adam, {ADAM_LR}.",
        "Its own ANN: what was trained, before conversion. Training-free rows are made for each T; QCFS and its kin are one network at every T; tuned rows",
        "were made for the T that is shown. Descent follows the distance to the ReLU network, without labels, by Adam.",
        made_by("python benchmarks/training.py"),
    ]  # fmt: skip
    (options.out / "training.md").write_text(table(rows, text) + errors(rows))


if __name__ == "__main__":
    main()
