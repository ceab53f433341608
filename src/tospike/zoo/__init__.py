"""Small trained networks, and SNNs that were tuned, that travel with the library, and the recipes that trained them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tospike import archive
from tospike.errors import DataError, OptionError, refuse_unknown
from tospike.files import replacing
from tospike.graph.kinds import TrainableActivation
from tospike.methods import method
from tospike.prepare import prepare
from tospike.run.network import SNN
from tospike.tasks.control import Control
from tospike.zoo import networks
from tospike.zoo.actors import ACTORS
from tospike.zoo.recipes import RECIPES, Recipe, recipe

WEIGHTS = Path(__file__).parent / "weights"
ALIASES = {"fashion-resnet20": "fashion-resnet20-relu"}
EXAMPLES = {"digits": (1, 8, 8), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32),
            "imagenet": (3, 224, 224), "fashion-scenes": (3, 64, 64), "fashion-detection": (3, 96, 96), "fashion-clips": (1, 8, 32, 32)}  # fmt: skip


def build(
    entry: Recipe, *, calibration: Iterable[Any] | None = None, folder: Path | None = None, start: bool = True
) -> nn.Module:
    """Return the network of a recipe before training, prepared by its method, with the weights that training starts from.

    Args:
        entry: The recipe.
        calibration: Batches on which thresholds are measured, for methods that start from measured ones.
        folder: Where to look for the weights of `Recipe.start` besides the zoo.
        start: Load those weights; without, thresholds start from 1: for weights that replace all of them.

    Example:
        >>> from tospike.zoo.recipes import recipe
        >>> sum(p.numel() for p in build(recipe("fashion-resnet20-relu")).parameters())
        272186
    """
    with torch.random.fork_rng():
        torch.manual_seed(entry.seed)
        ann = networks.build(entry.network, **entry.network_options)
        before = load(entry.start, folder) if entry.start and start else None
        plain = before is not None and recipe(ALIASES.get(entry.start, entry.start)).method == "relu"
        if before is not None and plain:
            ann.load_state_dict(before.state_dict())
        if entry.method == "relu":
            return ann
        options = dict(entry.method_options)
        if not start:
            options["initial"] = 1.0
        example = torch.zeros(1, *EXAMPLES[entry.data])
        prepared = prepare(ann, method(entry.method, **options), example=example, calibration=calibration)
    if before is not None and not plain:
        prepared.load_state_dict(before.state_dict())
    return prepared


def available() -> tuple[str, ...]:
    """Return the names of the trained networks that `load` knows."""
    return tuple(sorted([path.stem for path in WEIGHTS.glob("*.safetensors")] + list(ALIASES)))


def snns() -> tuple[str, ...]:
    """Return the names of the tuned SNNs that `snn` knows.

    Example:
        >>> "fashion-resnet20-mice-t4" in snns()
        True
    """
    return tuple(sorted(path.stem for path in WEIGHTS.glob("*.tospike")))


def snn(name: str, folder: Path | None = None) -> SNN:
    """Return an SNN of the zoo that was tuned for the T in its name.

    Args:
        name: One of `snns`.
        folder: Where to look before the zoo, for SNNs that ``tospike train`` wrote.

    Raises:
        OptionError: There is no SNN of this name.
        DataError: The file is damaged.

    Example:
        >>> snn("fashion-resnet20-mice-t4").conversion.tuned.settings["time_steps"]
        4
    """
    return archive.load(snn_file(name, folder))


def snn_file(name: str, folder: Path | None = None) -> Path:
    """Return the file of an SNN of the zoo; see `snn`."""
    path = _found(f"{name}.tospike", folder)
    if path is None:
        raise OptionError("The zoo has no such SNN", got=repr(name), expected=f"one of {', '.join(snns())}",
                          remedy=f"Train it: tospike train {name}" if name in RECIPES and RECIPES[name].tunings else "Choose one of these.")  # fmt: skip
    return path


def load(name: str, folder: Path | None = None) -> nn.Module:
    """Return a trained network of the zoo, in eval mode.

    Args:
        name: One of `available`; ``"fashion-resnet20"`` is the ReLU network.
        folder: Where to look before the zoo, for networks that ``tospike train`` wrote.

    Raises:
        OptionError: There are no weights of this name.
        DataError: The file is damaged.
    """
    full = ALIASES.get(name, name)
    path = _file(full, folder)
    if full in ACTORS:
        ann: nn.Module = networks.build("actor", **ACTORS[full].network_options)
    else:
        entry = recipe(full)
        ann = build(entry, start=False)
        for module in ann.modules():
            if isinstance(module, TrainableActivation):  # as it was prepared, not as it was built to be overwritten
                module.method = method(entry.method, **entry.method_options)
    try:
        ann.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise _damaged(path, error) from error
    return ann.eval()


def control(name: str, folder: Path | None = None, **options: Any) -> Control:
    """Return an actor of the zoo with the environment that it was trained in.

    Args:
        name: An actor, e.g. ``"hopper-td3"``.
        folder: See `load`.
        options: Those of ``gymnasium.make``, e.g. ``max_episode_steps=100``.

    Raises:
        OptionError: There is no such actor, or it has no weights yet.
        MissingExtraError: gymnasium or MuJoCo is not installed.

    Example:
        >>> control("inverted-double-pendulum-td3").limit
        1000
    """
    refuse_unknown("actor", name, ACTORS)
    return Control(ACTORS[name].environment, load(name, folder), options, bounds="scale")


def notes(name: str, folder: Path | None = None) -> dict[str, str]:
    """Return what stands beside the weights of a network: its recipe, and of an actor the return that was measured.

    Raises:
        OptionError: There are no weights of this name.
        DataError: The file is damaged.

    Example:
        >>> float(notes("inverted-double-pendulum-td3")["return"]) > 9000
        True
    """
    path = _file(ALIASES.get(name, name), folder)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _file(full: str, folder: Path | None) -> Path:
    path = _found(f"{full}.safetensors", folder)
    if path is None:
        remedy = f"Train it: tospike train {full}" if full in RECIPES or full in ACTORS else "Choose one of these."
        if full in snns():
            remedy = f"It is an SNN: zoo.snn({full!r}), or {remedy[0].lower()}{remedy[1:]}"
        raise OptionError(
            "The zoo has no such network", got=repr(full), expected=f"one of {', '.join(available())}", remedy=remedy
        )
    return path


def _found(file: str, folder: Path | None) -> Path | None:
    """Return a file of a folder or, where it is not there, of the zoo; None where neither has it."""
    places = (WEIGHTS,) if folder is None else (folder, WEIGHTS)
    return next((where / file for where in places if (where / file).exists()), None)


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError("The weights of a zoo network cannot be read", where=str(path), got=str(error).splitlines()[0],
                     expected="the file that was installed", remedy=f"Install tospike again, or run: tospike train {path.stem}")  # fmt: skip


def save(ann: nn.Module, name: str, folder: Path = WEIGHTS, notes: Mapping[str, str] | None = None) -> Path:
    """Write the weights of a network as safetensors with notes beside them, in one piece or not at all."""
    path = folder / f"{name}.safetensors"
    weights = {key: value.contiguous() for key, value in ann.state_dict().items()}
    with replacing(path) as written:
        save_file(weights, written, metadata={"recipe": name} | dict(notes or {}))
    return path
