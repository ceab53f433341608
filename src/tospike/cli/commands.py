"""The commands, each a function whose arguments are its options."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from itertools import islice
from json import dumps
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from torch import nn

import tospike as ts
from tospike import data, zoo
from tospike.cli.arguments import as_options
from tospike.cli.bench import bench
from tospike.cli.export import export
from tospike.cli.preview import preview
from tospike.cli.sources import example_of, network_of
from tospike.cli.stages import convert, diagnose, evaluate, report
from tospike.errors import OptionError, refuse_unknown, require
from tospike.files import replacing
from tospike.methods.base import registered
from tospike.report import curve_table, draw_curve
from tospike.tasks.detection import is_detector
from tospike.train import FitOptions
from tospike.zoo import reinforce
from tospike.zoo.actors import ACTORS
from tospike.zoo.recipes import RECIPES, Recipe, recipe

TIME_STEPS = (1, 2, 4, 8, 16, 32)


def demo(out: str = "runs/demo", dataset: str = "auto", batches: int = 200, samples: int = 1000, seed: int = 0) -> int:
    """Convert a trained network by LTB and by QCFS, and show accuracy at T = 1 to 32 beside the ANN's.

    Args:
        out: Folder for the curve (PNG), the report (HTML) and the results (JSON).
        dataset: "fashion-mnist" (networks of the zoo), "digits" (trained on the spot), or "auto": the first that is there.
        batches: Calibration batches of 100 images for LTB.
        samples: Test images to score, rounded up to batches of 250; 0 for all of them.
        seed: Seed of the calibration order.
    """
    console = Console()
    refuse_unknown("demo data", dataset, ("auto", "fashion-mnist", "digits"))
    require(
        "the demo",
        ("samples", samples, samples >= 0, "an integer >= 0", 1000),
        ("batches", batches, batches >= 1, "an integer >= 1", 200),
    )
    if dataset == "auto":
        dataset = "fashion-mnist" if data.is_available("fashion-mnist") and _shipped("fashion-mnist") else "digits"
    found = data.load(dataset)
    _, test = found.loaders(100, test_batch_size=250)
    scored: list[Any] = list(islice(test, -(-samples // 250) or None))
    console.print(f"Data: {dataset}. Calibration: {batches} batches of 100 images.")
    calibration = found.calibration(100, seed=seed)
    results: dict[str, ts.Result] = {}
    snns: dict[str, ts.SNN] = {}
    for label, ann, method in _demo_networks(dataset, batches, console):
        snns[label] = snn = ts.convert(ann, method, calibration=calibration, seed=seed)
        results[label] = ts.evaluate(snn, scored, time_steps=TIME_STEPS, reference=ann, save=Path(out, f"{label}.json"))
    shown = next(iter(results.values())).samples
    console.print(
        curve_table(results, title=f"{dataset}: accuracy of the SNN after T time-steps, {shown:,} test images")
    )
    picture = draw_curve(results, Path(out, "curve.png"), title=f"{dataset}, {shown:,} test images")
    page = ts.write_report(results, Path(out, "report.html"), snns=snns, title=f"tospike demo: {dataset}", force=True)
    console.print(f"Curve: {picture}   Report: {page}   Results: {out}/*.json", highlight=False)
    console.print("Next: `tospike check fashion-resnet20`, `tospike methods`, or convert your own in three lines:")
    console.print(
        "  import tospike as ts\n  snn = ts.convert(ann, ts.Auto(time_steps=8), calibration=loader)\n  y = snn(x, time_steps=8)",
        markup=False,
    )
    return 0


def _shipped(dataset: str) -> list[str]:
    """Return the networks of the zoo that were trained on a data set."""
    return [name for name in zoo.available() if name in RECIPES and RECIPES[name].data == dataset]


def _demo_networks(dataset: str, batches: int, console: Console) -> list[tuple[str, nn.Module, ts.Method | None]]:
    if dataset == "fashion-mnist":
        trained = {name: zoo.load(name) for name in _shipped(dataset)}
    else:
        trained = {}
        for name in ("digits-relu", "digits-qcfs-l4"):
            console.print(f"Training {name} ...")
            trained[name] = _train(recipe(name), found=data.load("digits"), folder=None)[0].eval()
    chosen: list[tuple[str, nn.Module, ts.Method | None]] = []
    for name, ann in trained.items():
        if name.endswith("relu"):
            chosen.append(("LTB", ann, ts.LTB(batches=batches)))
        else:
            chosen.append((f"QCFS {name.rpartition('-')[2].upper().replace('L', 'L=')}", ann, None))
    return chosen


def methods(name: str | None = None) -> int:
    """List the conversion methods, or all about one of them.

    Args:
        name: Method to describe, with its settings, equation and source.
    """
    console = Console()
    if name is None:
        table = Table(
            "name", "class", "spikes", "what it is", title="Methods; `tospike methods --name NAME` tells all about one"
        )
        for key, cls in sorted(ts.METHODS.items()):
            table.add_row(
                f"[bold]{key}", cls.__name__, _example(cls).parts().neuron.spikes, (cls.__doc__ or "").splitlines()[0]
            )
        console.print(table)
        table = Table(
            "name", "gradient", "what it is", title="Tunings of an SNN for ts.tune; `--name` tells all about one too"
        )
        for key, way in sorted(ts.TUNINGS.items()):
            table.add_row(f"[bold]{key}", way(time_steps=8).gradient, (way.__doc__ or "").splitlines()[0])
        console.print(table)
        return 0
    listed: dict[str, type] = ts.TUNINGS | ts.METHODS
    name = registered(name, listed)
    refuse_unknown("method", name, sorted(listed))
    cls = listed[name]
    console.print(f"{name}: ts.{cls.__name__}", style="bold", highlight=False)
    console.print(inspect.getdoc(cls), markup=False, highlight=False)
    table = Table("setting", "default")
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        needed = field.name == "time_steps" and not field.default
        made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        table.add_row(field.name, "required" if needed else repr(made))
    console.print(table)
    return 0


def _example(cls: type[ts.Method]) -> ts.Method:
    """Return a method with the settings it needs."""
    needed = [f.name for f in dataclasses.fields(cls) if f.name == "time_steps" and not f.default]  # type: ignore[arg-type]
    return cls(**dict.fromkeys(needed, 8))


def check(
    network: str,
    shape: list[int] | None = None,
    analog: list[str] | None = None,
    weights: str | None = None,
    json: bool = False,
) -> int:
    """Report whether a network converts, every activation in it, and everything that stands in the way.

    Example: tospike check fashion-resnet20

    Args:
        network: A name of the zoo, torchvision:NAME, timm:NAME, module.path:callable, or a file *.onnx.
        shape: Shape of the example input, batch first; when not given, that of the zoo's data, or [1, 3, 224, 224].
        analog: Operations that may run in analog, e.g. softmax,mul, or auto for all of them.
        weights: Weights of the network, *.safetensors or a state dict.
        json: Print the report as JSON.
    """
    ann = network_of(network, weights)
    if is_detector(ann):  # what of it is simulated
        ann = ts.Detection(ann).network
    report = ts.check(ann, example_of(network, shape), analog="auto" if analog == ["auto"] else analog or ())
    spoken = (dataclasses.replace(problem, remedy=as_options(problem.remedy, check)) for problem in report.problems)
    report = dataclasses.replace(report, problems=tuple(spoken))
    if json:
        print(dumps({
            "ok": report.ok, "network": report.network, "neurons": report.neurons, "neurons_added": report.neurons_added,
            "sites": [{"name": site.name, "shape": site.shape, "operation": site.operation.where} for site in report.sites],
            "problems": [dataclasses.asdict(problem) for problem in report.problems],
            "analog": [operation.where for operation in report.incremental],
        }, indent=2))  # fmt: skip
    else:
        report.print(Console())
    return 0 if report.ok else 1


def recipes(name: str | None = None) -> int:
    """List the recipes with the figures that were published, or write one as YAML, to be changed and trained.

    Args:
        name: Recipe to write.
    """
    console = Console()
    if name is not None:
        refuse_unknown("recipe", name, RECIPES | ACTORS)
        print((ACTORS[name] if name in ACTORS else recipe(name)).to_yaml(), end="")
        return 0
    table = Table(
        Column("recipe", no_wrap=True), Column("epochs", no_wrap=True), "published top-1 in %",
        title="Recipes; `tospike train RECIPE` runs one",
    )  # fmt: skip
    for key, entry in RECIPES.items():
        figures = ", ".join(f"{t if t == 'ann' else f'T={t}'} {value}" for t, value in entry.expected.items())
        spent = " + ".join(str(count) for count in (entry.epochs, *(stage.epochs for stage in entry.tunings)))
        table.add_row(f"[bold]{key}", spent, figures)
    console.print(table)
    table = Table(
        Column("actor", no_wrap=True),
        "environment",
        "at most steps",
        "weights from a return of",
        title="Actors, trained by TD3",
    )
    for key, actor in ACTORS.items():
        table.add_row(f"[bold]{key}", actor.environment, f"{actor.steps:,}", f"{actor.target:g}")
    console.print(table)
    return 0


def train(
    recipe: str,
    out: str = "runs",
    root: str | None = None,
    epochs: int | None = None,
    tuning_epochs: int | None = None,
    resume: bool = True,
) -> int:
    """Train the network of a recipe, tune its SNN if the recipe says so, and write weights, SNN and histories.

    Args:
        recipe: Name of a recipe or of an actor, or a file (*.yaml, *.json); an unknown name lists them all.
        out: Folder for the checkpoint, the metrics, the history and the weights.
        root: Folder that holds the data set; searched in the usual places when not given.
        epochs: Epochs instead of the recipe's own.
        tuning_epochs: Epochs of each tuning instead of the recipe's own.
        resume: Go on from the checkpoint of an interrupted run.
    """
    if recipe in ACTORS:
        require("an actor", *((name, value, value is None, "nothing: an actor has no epochs and no data set", None)
                              for name, value in (("epochs", epochs), ("tuning_epochs", tuning_epochs), ("root", root))))  # fmt: skip
        return _train_actor(recipe, Path(out), resume)
    entry = zoo.recipes.recipe(recipe)
    if epochs is not None:
        entry = dataclasses.replace(entry, epochs=epochs)
    if tuning_epochs is not None:
        if not entry.tunings:
            raise OptionError("The recipe has no tuning", where=entry.name, got=f"tuning_epochs={tuning_epochs}", expected="a recipe with `tunings`",
                              remedy="Leave --tuning_epochs out, or add `tunings` to the recipe.")  # fmt: skip
        entry = dataclasses.replace(
            entry, tunings=tuple(dataclasses.replace(stage, epochs=tuning_epochs) for stage in entry.tunings)
        )
    tunings = [ts.tuning(stage.tuning, **stage.options) for stage in entry.tunings]  # before hours of training
    conversion = ts.method(entry.conversion, **entry.conversion_options) if entry.conversion else None
    learns = bool(entry.start) or not any(tuning.needs_ann for tuning in tunings)
    require(
        "the recipe", ("start", entry.start, learns, "the recipe whose network the tuning learns from", "digits-relu")
    )
    found, folder, console = data.load(entry.data, root, **entry.data_options), Path(out), Console()
    if entry.epochs:
        ann, history = _train(entry, found, folder, resume)
        path = zoo.save(ann, entry.name, folder)
        _write(history, folder / f"{entry.name}.json")
        console.print(f"{path}: {_scores(history)}", highlight=False)
    else:
        ann = zoo.build(entry, calibration=found.calibration(100, seed=entry.seed), folder=folder)
    if tunings:
        snn = ts.convert(ann.eval(), conversion, calibration=found.calibration(100, seed=entry.seed), seed=entry.seed)
        for number, tuning in enumerate(tunings, 1):
            snn, history = _tune(entry, number, snn, tuning, found, folder, resume)
            _write(history, folder / f"{entry.name}-tuned-{number}.json")
            console.print(
                f"tuning {number} of {len(tunings)}, T = {tuning.time_steps}: {_scores(history)}", highlight=False
            )
        path = folder / f"{entry.name}.tospike"
        ts.save(snn, path, force=True)
        console.print(f"{path}, T = {tunings[-1].time_steps}", highlight=False)
    if entry.expected:
        console.print(f"Published: {dict(entry.expected)} ({entry.source})", highlight=False)
    return 0


def _train_actor(name: str, folder: Path, resume: bool) -> int:
    checkpoint = reinforce.train(ACTORS[name], folder, resume=resume)
    path, scores = reinforce.export(ACTORS[name], checkpoint, folder)
    Console().print(f"{path}: {scores}", highlight=False)
    return 0


def _scores(history: ts.History) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in history.last.test_scores.items())


def _write(history: ts.History, path: Path) -> None:
    with replacing(path) as written:
        written.write_text(history.to_json(), encoding="utf-8")


def _train(entry: Recipe, found: data.Data, folder: Path | None, resume: bool = True) -> tuple[nn.Module, ts.History]:
    ann = zoo.build(entry, calibration=found.calibration(100, seed=entry.seed), folder=folder)
    loaders = found.loaders(entry.batch_size, test_batch_size=500, seed=entry.seed)
    kept: FitOptions = {"channels_last": len(found.shape) == 3}  # images, no clips
    if folder is not None:
        kept |= {"checkpoint": folder / f"{entry.name}.pt", "metrics": folder / f"{entry.name}.jsonl", "resume": resume}
    task, trained = found.task.bind(ann)
    history = ts.fit(trained, *loaders, task=task, **kept, **entry.training())
    return ann, history


def _tune(
    entry: Recipe, number: int, snn: ts.SNN, tuning: ts.Tuning, found: data.Data, folder: Path, resume: bool
) -> tuple[ts.SNN, ts.History]:
    """Tune an SNN by one stage of a recipe; a stage that an interrupted run had ended is taken from its checkpoint."""
    before = zoo.load(entry.start, folder) if entry.start else None
    loaders = found.loaders(entry.batch_size, test_batch_size=500, seed=entry.seed)
    stage, name = entry.tunings[number - 1], f"{entry.name}-tuned-{number}"
    options: FitOptions = {
        "seed": entry.seed, "channels_last": True, "checkpoint": folder / f"{name}.pt", "resume": resume, "metrics": folder / f"{name}.jsonl",
    }  # fmt: skip
    if stage.lr is not None:
        options["lr"] = stage.lr
    tuned = ts.tune(snn, tuning, *loaders, ann=before, epochs=stage.epochs, **options)
    assert tuned.conversion.tuned is not None
    return tuned, tuned.conversion.tuned.history


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "methods": methods,
    "check": check,
    "convert": convert,
    "evaluate": evaluate,
    "diagnose": diagnose,
    "report": report,
    "recipes": recipes,
    "train": train,
    "export": export,
    "preview": preview,
    "bench": bench,
}
