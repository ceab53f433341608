"""The commands that take a network to an SNN, its scores, its diagnosis and a report; each writes to a run folder."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from json import dumps
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from torch import nn

import tospike as ts
from tospike import data as sets
from tospike import zoo
from tospike.cli.folder import Folder
from tospike.cli.sources import ARCHIVE, archive_of, data_of, default_data, digest_of, network_of
from tospike.errors import DataError, OptionError, Problem, require
from tospike.report import curve_table
from tospike.run.schedule import Engine
from tospike.zoo.recipes import recipe

RESULT, DIAGNOSIS, PICTURES = "result.json", "diagnosis.json", "answers.png"
SHARED = ("network", "weights", "data", "root", "data_options")  # what later commands take over from `convert`


def convert(
    network: str,
    out: str,
    method: str | None = None,
    settings: dict[str, Any] | None = None,
    data: str | None = None,
    root: str | None = None,
    data_options: dict[str, Any] | None = None,
    weights: str | None = None,
    batch_size: int = 100,
    analog: list[str] | None = None,
    seed: int = 0,
    force: bool = False,
    json: bool = False,
) -> int:
    """Convert a network and write the SNN to a run folder, for evaluate, diagnose, report and export.

    Example: tospike convert fashion-resnet20 runs/ltb --method ltb --settings.batches 200

    Args:
        network: A name of the zoo, torchvision:NAME, timm:NAME, module.path:callable, or a file *.onnx.
        out: The run folder.
        method: Conversion method, see `tospike methods`; when not given, the one that the network was prepared by, or auto.
        settings: Settings of the method, e.g. --settings.batches 200; see `tospike methods --name METHOD`.
        data: Data to calibrate on: a name (fashion-mnist, cifar10, imagenet, ...), or a folder of images; that of a zoo network when not given.
        root: Folder that holds the data set; searched in the usual places when not given.
        data_options: Options of the data set, e.g. --data_options.size 224.
        weights: Weights of the network, *.safetensors or a state dict.
        batch_size: Calibration images in a batch.
        analog: Operations that may run in analog, e.g. softmax,mul, or auto for all of them.
        seed: Seed of the calibration order.
        force: Replace a run that is there.
        json: Print the record as JSON.
    """
    options = {
        "network": network, "method": method, "settings": settings, "data": data or default_data(network), "root": root,
        "data_options": data_options, "weights": weights, "batch_size": batch_size, "analog": analog, "seed": seed,
    }  # fmt: skip
    folder, console = Folder(out), Console(stderr=json)
    if folder.is_done("convert", options, force, ARCHIVE):
        console.print(f"{folder.path / ARCHIVE} is there already, made with these options.", highlight=False)
        return _told(ts.load(folder.path / ARCHIVE), json)
    chosen = None if method is None else ts.method(method, **(settings or {}))
    if method is None and settings:
        raise OptionError(
            "Settings need a method",
            got=f"settings={settings}",
            expected="--method",
            remedy="Name one: tospike methods.",
        )
    ann = network_of(network, weights)
    source = data or default_data(network)
    found = None if source is None else data_of(source, root, data_options)
    calibration = None
    if found is not None:
        task, ann = found.task.bind(ann)
        calibration = task.batches(found.calibration(batch_size, seed=seed))
    snn = ts.convert(
        ann, chosen, calibration=calibration, analog="auto" if analog == ["auto"] else analog or (), seed=seed
    )
    folder.begin("convert", ARCHIVE)
    ts.save(snn, folder.path / ARCHIVE, force=True)
    folder.done("convert", {"network": network, "out": out, **options})
    console.print(f"Written: {folder.path / ARCHIVE}. Next: tospike evaluate {out}", highlight=False)
    return _told(snn, json)


def _told(snn: ts.SNN, json: bool) -> int:
    made = snn.conversion
    facts = {
        "method": made.method, "sites": len(made.sites), "neurons": sum(site.neurons for site in made.sites), "neurons_added": made.neurons_added,
        "spikes": made.neuron.spikes, "calibration_samples": made.calibration_samples, "delay": made.delay, "analog": list(made.analog),
        "approaches": made.reference, "rebuilt_difference": made.rebuilt_difference,
        **({} if made.descended is None else {"descended": str(made.descended)}),
    }  # fmt: skip
    if json:
        print(dumps(facts, indent=2))
    else:
        Console().print(
            ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in facts.items()),
            highlight=False,
            markup=False,
        )
    return 0


class _Subject:
    """What evaluate and diagnose look at: the SNN, the network beside it, the data, and where the outcome goes."""

    def __init__(self, snn: str, out: str | None, force: bool, given: dict[str, Any]) -> None:
        self.path = archive_of(snn)
        folder = Path(snn) if Path(snn).is_dir() else None
        made = Folder(folder).options("convert") if folder else {}
        if self.path.parent == zoo.WEIGHTS:
            made = {"network": recipe(snn).start, "data": recipe(snn).data}
        self.options: dict[str, Any] = {"snn": snn} | {
            name: given[name] if given[name] is not None else made.get(name) for name in SHARED
        }
        self.hash = digest_of(self.path)
        target = out or folder
        if target is None:
            raise OptionError("There is no folder to write to", got=f"{snn}, an SNN without one", expected="a run folder, or --out",
                              remedy=f"Pass --out {Path(snn).with_suffix('')}.")  # fmt: skip
        self.folder, self.force = Folder(target), force

    def snn(self) -> ts.SNN:
        """Return the SNN."""
        return ts.load(self.path)

    def ann(self) -> nn.Module | None:
        """Return the network beside it, None if none is known or wanted."""
        name = self.options["network"]
        return None if name in (None, "none") else network_of(name, self.options["weights"])

    def data(self) -> sets.Data:
        """Return the data to score on."""
        if self.options["data"] is None:
            raise OptionError("There are no data", got="no --data", expected="a name of a data set, or a folder",
                              remedy=f"Pass --data, one of {', '.join(sets.available())}, or a folder of images.")  # fmt: skip
        found = data_of(*(self.options[name] for name in ("data", "root", "data_options")))
        if not found.classes:
            raise DataError("The data have no labels to score against", where=str(self.options["root"] or self.options["data"]), got="images side by side",
                            expected="test/<class>/* or val/<class>/*", remedy="Sort the images into folders by class.")  # fmt: skip
        return found


def _batches(found: sets.Data, samples: int, batch_size: int) -> Any:
    """Return test batches, so many that they hold the samples; all of them for 0."""
    require("the command", ("samples", samples, samples >= 0, "an integer >= 0", 1000))
    _, test = found.loaders(batch_size)
    return list(islice(test, -(-samples // batch_size))) if samples else test


def evaluate(
    snn: str,
    time_steps: list[int] = [1, 2, 4, 8, 16, 32],  # noqa: B006
    delay: int | Literal["auto"] = 0,
    network: str | None = None,
    weights: str | None = None,
    data: str | None = None,
    root: str | None = None,
    data_options: dict[str, Any] | None = None,
    samples: int = 0,
    batch_size: int = 250,
    device: str | None = None,
    engine: Engine = "auto",
    pictures: bool = False,
    out: str | None = None,
    force: bool = False,
    json: bool = False,
) -> int:
    """Score an SNN on test data at several T, beside the network it was converted from.

    Example: tospike evaluate runs/ltb --samples 1000

    Args:
        snn: A run folder, a file *.tospike, or an SNN of the zoo, e.g. fashion-resnet20-mice-t4.
        time_steps: The T to score.
        delay: First counted step, or auto.
        network: The network beside it; the one that was converted when not given, "none" for none.
        weights: Its weights.
        data: Data to score on; those of the conversion when not given.
        root: Folder that holds the data set.
        data_options: Options of the data set.
        samples: Test images, rounded up to batches; 0 for all of them.
        batch_size: Images in a batch.
        device: Where to run, e.g. cuda.
        engine: auto, float, half, int8, int16 or count; see docs/speed.md.
        pictures: Write a sheet of samples with the answers of both networks, answers.png, too.
        out: Folder for the result; the run folder when not given.
        force: Replace a result that is there.
        json: Print the result as JSON.
    """
    shared = {"network": network, "weights": weights, "data": data, "root": root, "data_options": data_options}
    subject = _Subject(snn, out, force, shared)
    options = {
        **subject.options,
        "time_steps": time_steps,
        "delay": delay,
        "samples": samples,
        "batch_size": batch_size,
        "engine": engine,
        "pictures": pictures,
    }
    path = subject.folder.path / RESULT
    if subject.folder.is_done("evaluate", options, force, RESULT, subject.hash):
        result = ts.Result.read(path)
    else:
        found, ann = subject.data(), subject.ann()
        task, reference = (found.task, None) if ann is None else found.task.bind(ann)
        subject.folder.begin("evaluate", RESULT, subject.hash)
        result = ts.evaluate(
            subject.snn(),
            _batches(found, samples, batch_size),
            task=task,
            time_steps=time_steps,
            delay=delay,
            reference=reference,
            device=device,
            engine=engine,
            save=path,
            pictures=subject.folder.path / PICTURES if pictures else None,
        )
        subject.folder.done("evaluate", options, subject.hash)
    if json:
        print(result.to_json())
        return 0
    console = Console()
    console.print(curve_table({subject.folder.path.name: result}, title=f"{result.samples:,} test samples"))
    console.print(str(ts.energy(result)), highlight=False, markup=False)
    console.print(
        f"Result: {path}. Next: tospike diagnose {snn}{f' --out {out}' if out else ''}, tospike report {subject.folder.path}", highlight=False
    )  # fmt: skip
    return 0


def diagnose(
    snn: str,
    time_steps: int = 8,
    delay: int | Literal["auto"] = 0,
    network: str | None = None,
    weights: str | None = None,
    data: str | None = None,
    root: str | None = None,
    data_options: dict[str, Any] | None = None,
    samples: int = 500,
    batch_size: int = 250,
    out: str | None = None,
    force: bool = False,
    json: bool = False,
) -> int:
    """Show where an SNN loses, stage by stage and Site by Site, and what to try.

    Example: tospike diagnose runs/ltb --time_steps 8

    Args:
        snn: A run folder, a file *.tospike, or an SNN of the zoo, e.g. fashion-resnet20-mice-t4.
        time_steps: T.
        delay: First counted step, or auto.
        network: The network that was converted; known in a run folder.
        weights: Its weights.
        data: Data to look at; those of the conversion when not given.
        root: Folder that holds the data set.
        data_options: Options of the data set.
        samples: Test images, rounded up to batches; 0 for all of them.
        batch_size: Images in a batch.
        out: Folder for the diagnosis; the run folder when not given.
        force: Replace a diagnosis that is there.
        json: Print the diagnosis as JSON.
    """
    shared = {"network": network, "weights": weights, "data": data, "root": root, "data_options": data_options}
    subject = _Subject(snn, out, force, shared)
    options = {
        **subject.options,
        "time_steps": time_steps,
        "delay": delay,
        "samples": samples,
        "batch_size": batch_size,
    }
    path = subject.folder.path / DIAGNOSIS
    if subject.folder.is_done("diagnose", options, force, DIAGNOSIS, subject.hash):
        found = ts.Diagnosis.read(path)
    else:
        ann = subject.ann()
        if ann is None:
            raise OptionError("A diagnosis needs the network that was converted", got="no network", expected="--network",
                              remedy="Pass --network, as it was given to tospike convert.")  # fmt: skip
        source = subject.data()
        task, simulated = source.task.bind(ann)
        batches = _batches(source, samples, batch_size)
        subject.folder.begin("diagnose", DIAGNOSIS, subject.hash)
        found = ts.diagnose(subject.snn(), simulated, batches, task=task, time_steps=time_steps, delay=delay)
        found.save(path)
        subject.folder.done("diagnose", options, subject.hash)
    if json:
        print(found.to_json())
    else:
        found.print(Console())
    return 0


def report(
    folders: list[str],
    out: str | None = None,
    table: str = "horowitz-45nm",
    title: str = "",
    pictures: str | None = None,
    force: bool = False,
) -> int:
    """Write one HTML page about one or several run folders; it opens without a network.

    Example: tospike report runs/ltb runs/auto --out comparison.html

    Args:
        folders: Run folders with results; what else they hold (SNN, diagnosis) is shown too.
        out: The page; report.html in the run folder when there is one folder.
        table: Energy table: horowitz-45nm, horowitz-45nm-int8 or qiao-2015.
        title: Title of the page.
        pictures: Folder for every chart as PNG and SVG.
        force: Replace files that are there.
    """
    paths = {Path(name).name or name: Path(name) for name in folders}
    if len(paths) < len(folders):
        raise OptionError("Two folders have one name, which labels their curves", got=", ".join(folders), expected="names that differ",
                          remedy="Rename one of them.")  # fmt: skip
    if out is None and len(paths) != 1:
        raise OptionError(
            "There is no page to write to",
            got=f"{len(paths)} folders",
            expected="--out, or one folder",
            remedy="Pass --out report.html.",
        )
    lacking = [str(path) for path in paths.values() if not (path / RESULT).exists()]
    if lacking:
        raise DataError("A folder holds no result", where=", ".join(lacking), got=f"no {RESULT}", expected="a run folder that was evaluated",
                        remedy="Run tospike evaluate FOLDER first.")  # fmt: skip
    _refuse_older(paths.values())
    results = {label: ts.Result.read(path / RESULT) for label, path in paths.items()}
    diagnoses = {
        label: ts.Diagnosis.read(path / DIAGNOSIS) for label, path in paths.items() if (path / DIAGNOSIS).exists()
    }  # fmt: skip
    snns = {label: ts.load(path / ARCHIVE) for label, path in paths.items() if (path / ARCHIVE).exists()}
    commands = [f"tospike {name} --config {path / name}.yaml" for path in paths.values() for name in ("convert", "evaluate", "diagnose")
                if (path / f"{name}.yaml").exists()]  # fmt: skip
    page = ts.write_report(
        results, out or next(iter(paths.values())) / "report.html", snns=snns, diagnoses=diagnoses, table=table, title=title,
        command="\n".join([*commands, f"tospike report {' '.join(folders)}"]), pictures=pictures, force=force,
    )  # fmt: skip
    Console().print(f"Report: {page}", highlight=False)
    return 0


def _refuse_older(paths: Iterable[Path]) -> None:
    """Refuse folders whose result or diagnosis is that of an SNN which was replaced."""
    older = [
        Problem("It is of an SNN that was converted anew since", where=str(path / output), remedy=f"Run tospike {command} {path} again.")
        for path in paths for command, output in (("evaluate", RESULT), ("diagnose", DIAGNOSIS))
        if (path / output).exists() and (path / ARCHIVE).exists() and Folder(path).source(command) not in ("", digest_of(path / ARCHIVE))
    ]  # fmt: skip
    if older:
        raise DataError("What the page would show does not belong together", problems=older)
