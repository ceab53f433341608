"""Where networks, SNNs and data of a command come from: names of the zoo and of libraries, files, folders."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tospike import data, zoo
from tospike.archive.container import digest
from tospike.errors import DataError, OptionError, missing_extra, require, require_type
from tospike.zoo.actors import ACTORS
from tospike.zoo.recipes import recipe

KINDS = "a name of the zoo, torchvision:NAME, timm:NAME, module.path:callable, or a file *.onnx"
SNNS = "a run folder, a file *.tospike, or an SNN of the zoo"
ARCHIVE = "snn.tospike"
NESTED = ("state_dict", "model", "model_state_dict")  # where training scripts put the weights in their checkpoints
SAVING = "Save them by torch.save(ann.state_dict(), path)."
OLDER = "Export it by torch.onnx.export(..., dynamo=False, opset_version=13, do_constant_folding=False), or pass the PyTorch network."
WRAPPERS = (
    "_orig_mod.",
    "module.",
    "_orig_mod.",
)  # what torch.compile and DataParallel put before every name, in either order


def network_of(name: str, weights: str | None = None) -> nn.Module:
    """Return a network in eval mode.

    Args:
        name: One of `KINDS`.
        weights: File with its weights (``*.safetensors``, or a state dict that torch wrote); required where the network comes untrained.

    Raises:
        OptionError: There is no such network, or it cannot be built.
        DataError: The weights cannot be read, or do not fit.
        MissingExtraError: The library that it comes from is not installed.
    """
    kind, found, rest = name.partition(":")
    if Path(name).suffix == ".onnx":
        ann = _from_onnx(Path(name))
    elif not found:
        if name not in zoo.available():
            raise OptionError("There is no such network", got=repr(name), expected=f"{KINDS}; in the zoo: {', '.join(zoo.available())}",
                              remedy="Name e.g. torchvision:resnet18 with --weights, or your own module:function.")  # fmt: skip
        ann = zoo.load(name)
    elif kind in ("torchvision", "timm"):
        ann = _from_library(kind, rest)
    else:
        ann = _from_callable(kind, rest)
    if weights is not None:
        _fill(ann, Path(weights))
    return ann.eval()


def _from_library(library: str, name: str) -> nn.Module:
    try:
        module = importlib.import_module("torchvision.models" if library == "torchvision" else library)
    except ImportError as error:
        raise missing_extra(
            library, "vision" if library == "torchvision" else library, f"the network {library}:{name}"
        ) from error
    try:
        made = (
            module.create_model(name, pretrained=False)
            if library == "timm"
            else _untrained(module.get_model_builder(name))
        )
    except (ValueError, RuntimeError, KeyError) as error:
        raise OptionError(f"{library} has no such network", got=repr(name), expected=f"a name of {library}",
                          remedy="See torchvision.models.list_models() or timm.list_models().") from error  # fmt: skip
    require_type("network", made, nn.Module, "an nn.Module", "Name a network.")
    return made


def _untrained(builder: Callable[..., nn.Module]) -> nn.Module:
    """Build a network of torchvision without asking for weights, of its backbone neither."""
    options = [name for name in ("weights", "weights_backbone") if name in inspect.signature(builder).parameters]
    return builder(**dict.fromkeys(options))


def _from_callable(module: str, attribute: str) -> nn.Module:
    if os.getcwd() not in sys.path:  # as for `python -m`
        sys.path.insert(0, os.getcwd())
    try:
        ann = getattr(importlib.import_module(module), attribute)()
    except ModuleNotFoundError as error:
        raise OptionError(
            "A module cannot be found", where=f"{module}:{attribute}", got=str(error), expected="a module in this folder, or an installed one",
            remedy="Run tospike in the folder that holds it, or install it.",
        ) from error  # fmt: skip
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise OptionError(
            "The network cannot be built", got=f"{module}:{attribute}: {error}", expected="module:callable without arguments",
            remedy="Write a small function that builds it, and name that.",
        ) from error  # fmt: skip
    require_type(
        "network", ann, nn.Module, "a callable that returns an nn.Module", "Name a function that builds the network."
    )
    return ann  # type: ignore[no-any-return]


def _from_onnx(path: Path) -> nn.Module:
    if not path.is_file():
        raise DataError("There is no such file", where=str(path), got="nothing", expected="a file *.onnx",
                        remedy="Look at the path; the network of torch.onnx.export, for one.")  # fmt: skip
    try:
        from onnx2torch import convert
    except ImportError as error:
        raise missing_extra("onnx2torch", "onnx", "reading *.onnx files") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convert(str(path))  # type: ignore[no-any-return]
    except Exception as error:  # the reader raises whatever its operations raise
        raise DataError("The ONNX file cannot be read as a network", where=str(path), got=f"{type(error).__name__}: {error}"[:300],
                        expected="operations onnx2torch knows", remedy=OLDER) from error  # fmt: skip


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _fill(ann: nn.Module, path: Path) -> None:
    """Load the weights of a file into a network, unpacked from what training scripts wrap them in; no code from the file runs."""
    try:
        found: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torch's reader raises whatever its bytes lead it to
        got = (
            "a whole pickled module, or what torch.load does not open without running code"
            if isinstance(error, UnpicklingError)
            else _first_line(error)
        )
        raise DataError("The weights cannot be read", where=str(path), got=got,
                        expected="*.safetensors, or a state dict that torch.save wrote", remedy=SAVING) from error  # fmt: skip
    if isinstance(found, Mapping):
        nested = [
            value
            for value in found.values()
            if isinstance(value, Mapping) and value and all(isinstance(v, Tensor) for v in value.values())
        ]
        found = (
            nested[0]
            if len(nested) == 1
            else next((found[key] for key in NESTED if isinstance(found.get(key), Mapping)), found)
        )
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError("The file holds no state dict", where=str(path), got=type(found).__name__, expected="tensors by name",
                        remedy=SAVING)  # fmt: skip
    state = dict(found)
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    try:
        ann.load_state_dict(state)
    except RuntimeError as error:
        raise DataError("The weights do not fit the network", where=str(path), got="; ".join(line.strip() for line in str(error).splitlines()[1:5])[:400],
                        expected=f"the {len(ann.state_dict())} tensors of {type(ann).__name__}",
                        remedy="Build the network as it was trained: the same classes, widths and input channels.") from error  # fmt: skip


def archive_of(name: str) -> Path:
    """Return the ``.tospike`` file of a run folder, that of an SNN of the zoo, or the file that is named itself.

    Raises:
        DataError: There is none of them.
    """
    if not Path(name).exists():
        if name in zoo.snns():
            return zoo.snn_file(name)
        raise DataError("There is no such run", where=name, got="nothing", expected=f"{SNNS}; in the zoo: {', '.join(zoo.snns())}",
                        remedy=f"Make one: tospike convert NETWORK {name}")  # fmt: skip
    return Path(name) / ARCHIVE if Path(name).is_dir() else Path(name)


def digest_of(path: Path) -> str:
    """Return the hash that a ``.tospike`` file states of itself; empty where there is no file."""
    return digest(path.read_bytes()) if path.is_file() else ""


def data_of(
    name: str, root: str | None = None, options: Mapping[str, Any] | None = None, *, augment: bool = False
) -> data.Data:
    """Return a data set by its name, or the images in a folder, read as they are tested with unless they are augmented."""
    if name not in data.available() and Path(name).is_dir():
        name, root = "folder", name
    elif name not in data.available() and (os.sep in name or name.startswith(".")):
        raise DataError("There is no such folder", where=name, got="nothing", expected=f"a folder of images, or one of {', '.join(data.available())}",
                        remedy="Look at the path.")  # fmt: skip
    return data.load(name, root, augment=augment, **(options or {}))


def default_data(network: str) -> str | None:
    """Return the data that a network of the zoo was trained on; None for any other, and for actors."""
    full = zoo.ALIASES.get(network, network)
    return recipe(full).data if network in zoo.available() and full not in ACTORS else None


def example_of(network: str, shape: list[int] | None) -> Tensor:
    """Return an input of zeros, by the shape that is given, that of the zoo's data, or that of photographs."""
    require("the example", ("shape", shape, not shape or min(shape) >= 1, "sizes >= 1, batch first", [1, 3, 224, 224]))
    known = default_data(network)
    plain = (ACTORS[network].inputs,) if network in ACTORS else (3, 224, 224)
    return torch.zeros(shape or [1, *(zoo.EXAMPLES[known] if known else plain)])
