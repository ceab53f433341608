"""Recipes: how the networks of the papers, and our own, are trained, and which figures were published for them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from tospike.errors import DataError, OptionError, is_count, is_within, refuse_unknown, require

QCFS_PAPER = (
    "Bu et al., 'Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural networks', ICLR 2022"
)
MICE_PAPER = "Ho and Chang, 'MiCE', IEEE JETCAS 2023; figures of its abstract, network and training ours, since its text is not public"
TCL_PAPER = (
    "Ho and Chang, 'TCL', DAC 2021; figures of its abstract (T = 250), training ours, since its text is not public"
)
OURS = "tospike"

Figures = Mapping[int | Literal["ann"], float]
Made = TypeVar("Made", "Recipe", "Stage")


@dataclass(frozen=True)
class Stage:
    """One tuning of the SNN, from where the one before it ended.

    Attributes:
        tuning: Name of the `tospike.tuning`.
        options: Its settings.
        epochs: Passes over the training data.
        lr: Highest learning rate; None for that of `tospike.tune`.
    """

    tuning: str
    options: Mapping[str, Any]
    epochs: int
    lr: float | None = None


@dataclass(frozen=True)
class Recipe:
    """Everything that fixes one training run.

    Attributes:
        name: Name for `recipe`.
        network: Name for `tospike.zoo.networks.build`.
        network_options: Options of the network.
        data: Name for `tospike.data.load`.
        data_options: Options of the data set.
        method: Name of the method that prepares the network, or ``"relu"`` for a plain network.
        method_options: Settings of the method.
        epochs: Passes over the training data; 0 where weights are taken from `start` as they are.
        batch_size: Images of a training batch.
        lr: Highest learning rate.
        weight_decay: L2 penalty.
        momentum: Momentum of SGD.
        mixed_precision: Number format of products in training; None for float32.
        seed: Seed of the run.
        start: Recipe whose trained weights it starts from; empty for weights drawn from the seed.
        conversion: Name of the method that converts the trained network; empty for what `method` says.
        conversion_options: Its settings.
        tunings: What follows conversion, one behind the other.
        expected: Published top-1 accuracy in percent of the network (``"ann"``) and of the SNN after T steps; a column
            that the paper heads with "T >= 512" stands at 512. Empty where nothing was published.
        source: Where settings and figures are from.
    """

    name: str
    network: str
    network_options: Mapping[str, Any]
    data: str
    method: str
    method_options: Mapping[str, Any]
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    data_options: Mapping[str, Any] = field(default_factory=dict)
    momentum: float = 0.9
    mixed_precision: Literal["bf16", "fp16"] | None = None
    seed: int = 42
    start: str = ""
    conversion: str = ""
    conversion_options: Mapping[str, Any] = field(default_factory=dict)
    tunings: Sequence[Stage] = ()
    expected: Figures = field(default_factory=dict)
    source: str = OURS

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from YAML or JSON, as `to_yaml` writes it.

        Raises:
            DataError: The file cannot be read, or is not a mapping.
            OptionError: It names a field that a recipe does not have, or lacks one that it needs.
        """
        try:
            read = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DataError("The recipe cannot be read", where=str(path), got=str(error).splitlines()[0], expected="YAML or JSON",
                            remedy="Begin with one of ours: tospike recipes --name NAME > my.yaml") from error  # fmt: skip
        if not isinstance(read, dict):
            raise DataError("The recipe is not a mapping", where=str(path), got=type(read).__name__, expected="fields and values",
                            remedy="Begin with one of ours: tospike recipes --name NAME > my.yaml")  # fmt: skip
        staged = read.get("tunings", [])
        if not (isinstance(staged, list) and all(isinstance(one, dict) for one in staged)):
            raise OptionError("The tunings of a recipe are no list", where=str(path), got=repr(staged), expected="a list of mappings: tuning, options, epochs",
                              remedy="See `tospike recipes --name fashion-resnet20-mice-t4`.")  # fmt: skip
        return _made(Recipe, read | {"tunings": tuple(_made(Stage, one, path) for one in staged)}, path)

    def to_yaml(self) -> str:
        """Write the recipe as YAML.

        Example:
            >>> print(recipe("digits-relu").to_yaml().splitlines()[0])
            name: digits-relu
        """
        return yaml.safe_dump(json.loads(json.dumps(asdict(self))), sort_keys=False, allow_unicode=True, width=120)

    def __post_init__(self) -> None:
        """Check what a file may have wrong, and read numbers of steps that it has as text."""
        mappings = {
            key: getattr(self, key)
            for key in ("network_options", "method_options", "data_options", "conversion_options")
        }
        mappings |= {f"tunings[{number}].options": one.options for number, one in enumerate(self.tunings)}
        taken = self.epochs == 0 and bool(self.start) and bool(self.tunings)
        require(
            f"the recipe {self.name!r}",
            ("epochs", self.epochs, taken or is_count(self.epochs), "an integer >= 1; with `start` and `tunings`, 0 too", 100),
            ("batch_size", self.batch_size, is_count(self.batch_size), "an integer >= 1", 128),
            ("expected", self.expected, isinstance(self.expected, Mapping), "a mapping from T to accuracy", {}),
            *((f"tunings[{number}].epochs", one.epochs, is_count(one.epochs), "an integer >= 1", 4) for number, one in enumerate(self.tunings)),
            *((f"tunings[{number}].lr", one.lr, one.lr is None or is_within(one.lr, 0, sys.float_info.max), "positive and finite, or None", 0.01)
              for number, one in enumerate(self.tunings)),
            *((name, value, isinstance(value, Mapping), "a mapping of settings", {}) for name, value in mappings.items()),
        )  # fmt: skip
        steps = {int(t) if str(t).isdigit() else t: value for t, value in self.expected.items()}
        object.__setattr__(self, "expected", steps)

    def training(self) -> dict[str, Any]:
        """Return the keyword arguments of `tospike.train.fit`.

        Example:
            >>> recipe("cifar100-resnet20-qcfs-l8").training()["lr"]
            0.02
        """
        names = ("epochs", "lr", "momentum", "weight_decay", "mixed_precision", "seed")
        return {name: getattr(self, name) for name in names}


def _made(kind: type[Made], read: Mapping[str, Any], path: str | os.PathLike[str]) -> Made:
    """Return a recipe, or a part of one, with the fields that a file has."""
    what = kind.__name__.lower()
    known = {entry.name: entry for entry in fields(kind)}
    refuse_unknown(f"field of a {what}", read, known, remedy="See `tospike recipes --name NAME`.")
    needed = [name for name, entry in known.items() if entry.default is entry.default_factory is MISSING]
    missing = [name for name in needed if name not in read]
    if missing:
        raise OptionError(f"The {what} lacks fields", where=str(path), got=", ".join(read), expected=", ".join(missing),
                          remedy="Add them; `tospike recipes --name NAME` shows all.")  # fmt: skip
    return kind(**read)


# Classes, learning rate and weight decay by data set, as in the paper. Epochs and seed are its authors', the batch is
# that of their first code.
_PAPER: dict[str, tuple[int, float, float]] = {
    "cifar10": (10, 0.1, 5e-4),
    "cifar100": (100, 0.02, 5e-4),
    "imagenet": (1000, 0.1, 1e-4),
}


def _paper(data: str, network: str, levels: int, expected: Figures) -> Recipe:
    classes, lr, weight_decay = _PAPER[data]
    sized = {"image_size": 224} if (data, network) == ("imagenet", "vgg16") else {}
    return Recipe(
        f"{data}-{network}-qcfs-l{levels}", network, {"classes": classes} | sized, data, "qcfs", {"levels": levels},
        epochs=300, batch_size=128, lr=lr, weight_decay=weight_decay, expected=expected, source=QCFS_PAPER,
    )  # fmt: skip


def _wide(data: str, method: str, epochs: int, lr: float, **more: Any) -> Recipe:
    """Return a recipe of the wide ResNet-20 (64-128-256) of the conversion literature."""
    classes, *_ = _PAPER[data]
    name = f"{data}-wide-resnet20-{method}" + ("-t8" if method == "mice" else "")
    return Recipe(
        name, "resnet20", {"classes": classes, "widths": [64, 128, 256]}, data, method, more.pop("method_options", {}),
        epochs=epochs, batch_size=128, lr=lr, weight_decay=5e-4, **more,
    )  # fmt: skip


def _mice(data: str, figure: float) -> Recipe:
    return _wide(
        data, "mice", 100, 0.02, method_options={"time_steps": 8}, start=f"{data}-wide-resnet20-relu",
        tunings=(Stage("joint-errors", {"time_steps": 8}, 10),), expected={8: figure}, source=MICE_PAPER,
    )  # fmt: skip


def _tcl(network: str, figure: float) -> Recipe:
    classes, lr, weight_decay = _PAPER["imagenet"]
    options = {"classes": classes} | ({"image_size": 224} if network == "vgg16" else {})
    return Recipe(
        f"imagenet-{network}-tcl", network, options, "imagenet", "tcl", {"initial": 4.0, "average_pool": True},
        epochs=300, batch_size=128, lr=lr, weight_decay=weight_decay, expected={250: figure}, source=TCL_PAPER,
    )  # fmt: skip


def _joint_errors(steps: int, *epochs: int, **options: Any) -> tuple[Stage, ...]:
    """Return tunings by joint errors: the first as its options say, those behind it without the distance and at a third of the rate."""
    first, *others = epochs
    later = (Stage("joint-errors", {"time_steps": steps, "distance": 0.0}, count, lr=0.01) for count in others)
    return (Stage("joint-errors", {"time_steps": steps} | options, first), *later)


_FASHION = "fashion-resnet20-relu"


def _fashion(name: str, method: str, epochs: int, lr: float = 0.1, start: str = "", **options: Any) -> Recipe:
    return Recipe(
        f"fashion-resnet20-{name}", "resnet20", {"channels": 1, "stem_pool": True}, "fashion-mnist", method, options,
        epochs=epochs, batch_size=128, lr=lr, weight_decay=5e-4, start=start,
    )  # fmt: skip


def _composed(data: str, network: str, epochs: int, **changes: Any) -> Recipe:
    """Return a recipe of a network for scenes or clips that are composed of Fashion-MNIST items."""
    settings: dict[str, Any] = {"batch_size": 64, "lr": 0.1, "weight_decay": 5e-4, "mixed_precision": "bf16"}
    name = f"{data}-{network.replace('_', '-')}"
    return Recipe(name, network, {}, data, "relu", {}, epochs=epochs, **settings | changes)


def _digits(name: str, method: str, **options: Any) -> Recipe:
    return Recipe(
        f"digits-{name}", "digits_net", {}, "digits", method, options,
        epochs=20, batch_size=64, lr=0.1, weight_decay=5e-4,
    )  # fmt: skip


_ALL = (
    _paper("cifar10", "vgg16", 4, {
        "ann": 95.52, 2: 91.18, 4: 93.96, 8: 94.95, 16: 95.40, 32: 95.54, 64: 95.55, 512: 95.59}),
    _paper("cifar10", "resnet18", 4, {
        "ann": 96.04, 2: 75.44, 4: 90.43, 8: 94.82, 16: 95.92, 32: 96.08, 64: 96.06, 512: 96.06}),
    _paper("cifar10", "resnet20", 4, {
        "ann": 91.77, 2: 73.20, 4: 83.75, 8: 89.55, 16: 91.62, 32: 92.24, 64: 92.35, 512: 92.41}),
    _paper("cifar100", "vgg16", 4, {
        "ann": 76.28, 2: 63.79, 4: 69.62, 8: 73.96, 16: 76.24, 32: 77.01, 64: 77.10, 512: 77.08}),
    _paper("cifar100", "resnet18", 4, {
        "ann": 78.80, 2: 70.79, 4: 75.67, 8: 78.48, 16: 79.48, 32: 79.62, 64: 79.54, 512: 79.61}),
    _paper("cifar100", "resnet20", 8, {
        "ann": 69.94, 2: 19.96, 4: 34.14, 8: 55.37, 16: 67.33, 32: 69.82, 64: 70.49, 512: 70.50}),
    _paper("imagenet", "resnet34", 8, {
        "ann": 74.32, 16: 59.35, 32: 69.37, 64: 72.35, 128: 73.15, 256: 73.37, 1024: 73.39}),
    _paper("imagenet", "vgg16", 16, {
        "ann": 74.29, 16: 50.97, 32: 68.47, 64: 72.85, 128: 73.97, 256: 74.22, 1024: 74.32}),
    _tcl("vgg16", 73.87),
    _tcl("resnet34", 70.37),
    _wide("cifar10", "relu", 300, 0.1),
    _wide("cifar100", "relu", 300, 0.1),
    _mice("cifar10", 95.74),
    _mice("cifar100", 79.02),
    _fashion("relu", "relu", 35),
    replace(_fashion("mice-t8", "mice", 16, 0.05, _FASHION, time_steps=8), tunings=_joint_errors(8, 6, 8, distance_share=0.5)),
    replace(_fashion("mice-t4", "mice", 16, 0.05, _FASHION, time_steps=4), tunings=_joint_errors(4, 12, 12, 12, distance_share=0.5)),
    # Fewer steps at the end, with batch norms: better than all of the way at T = 2 (docs/benchmarks.md).
    replace(_fashion("mice-t2", "mice", 16, 0.05, _FASHION, time_steps=4),
            tunings=(*_joint_errors(4, 12, 12, 12, distance_share=0.5), Stage("tuning", {"time_steps": 2}, 30, lr=0.05),
                     Stage("tuning", {"time_steps": 2}, 14, lr=0.05 / 3))),
    replace(
        _fashion("auto-ternary-t2", "relu", 1, start=_FASHION), epochs=0, conversion="auto",
        conversion_options={"time_steps": 2, "batches": 15, "refine_batches": 15}, tunings=_joint_errors(2, 24, 16, distance_share=0.5),
    ),
    _fashion("qcfs-l4", "qcfs", 50, levels=4, initial=4.0),
    _fashion("qcfs-l8", "qcfs", 6, lr=0.01, start="fashion-resnet20-qcfs-l4", levels=8, initial=4.0),
    _fashion("qcfs-l8-scratch", "qcfs", 50, levels=8, initial=4.0),
    _composed("fashion-scenes", "fcn", 40),
    _composed("fashion-scenes", "deeplab", 20),
    _composed("fashion-detection", "fcos", 16, batch_size=32, lr=0.02, weight_decay=1e-4),
    # Three-dimensional convolutions of bfloat16 gave infinite values on a CPU.
    _composed("fashion-clips", "clip_net", 16, lr=0.03, mixed_precision=None),
    _digits("relu", "relu"),
    _digits("qcfs-l4", "qcfs", levels=4),
)  # fmt: skip

RECIPES: dict[str, Recipe] = {entry.name: entry for entry in _ALL}


def recipe(name: str) -> Recipe:
    """Return a recipe by its name, or read one from a file ``*.yaml``, ``*.yml`` or ``*.json``.

    Raises:
        OptionError: There is no recipe of this name; the message names the nearest ones.
        DataError: The file cannot be read.

    Example:
        >>> recipe("cifar10-resnet20-qcfs-l4").expected[8]
        89.55
    """
    if Path(name).suffix in (".yaml", ".yml", ".json"):
        return Recipe.from_file(name)
    refuse_unknown("recipe", name, RECIPES)
    return RECIPES[name]
