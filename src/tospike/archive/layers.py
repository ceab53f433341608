"""Modules of a saved network: their class and settings, from which they are built again before their tensors are put in."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tospike.archive.values import Reader, UnknownValueError, Writer
from tospike.errors import DataError
from tospike.graph.kinds import TRACKED
from tospike.graph.rewrite import Function, Rectifier
from tospike.graph.trace import is_altered
from tospike.neurons.modules import Neuron

# Files of torch.nn with modules that compute one operation: nothing in them runs code from settings.
FILES = {f"torch.nn.modules.{name}" for name in (
    "activation", "batchnorm", "channelshuffle", "conv", "dropout", "flatten", "fold", "instancenorm", "linear", "normalization", "padding",
    "pixelshuffle", "pooling", "sparse", "upsampling",
)}  # fmt: skip
HOMES: dict[str, Any] = {
    "Tensor": Tensor,
    "functional": functional,
    "torch": torch,
}  # of activations that are called as functions
NEURON_TENSORS = ("threshold", "start", "bias", "gain")


def write_layer(module: nn.Module, path: str, writer: Writer) -> dict[str, Any]:
    """Return class and settings of a module, and leave its tensors with the writer under ``path.name``.

    Raises:
        UnknownValueError: It is none of torch's or of this library, or cannot be built again from its settings.
    """
    if isinstance(module, Neuron):
        for name in NEURON_TENSORS:
            if getattr(module, name) is not None:
                writer.tensors[f"{path}.{name}"] = getattr(module, name)
        settings = {"model": module.model, "seed": module.seed, "remember": module.remember}
        function = write_layer(module.function, f"{path}.function", writer)
        return {"class": "Neuron", "settings": writer.write(settings), "function": function}
    if isinstance(module, Rectifier):
        return {"class": "Rectifier", "settings": writer.write({"cap": module.cap})}
    if isinstance(module, Function):
        given = {"args": module.args, "kwargs": module.kwargs}
        return {"class": "Function", "function": _tracked_name(module.function), "settings": writer.write(given, path)}
    if module._forward_hooks or module._forward_pre_hooks:
        raise UnknownValueError(f"the hooks of a module, {type(module).__qualname__}")
    kind = next(
        (cls for cls in type(module).__mro__ if getattr(nn, cls.__name__, None) is cls and cls.__module__ in FILES),
        None,
    )
    if kind is None or is_altered(module):
        raise UnknownValueError(f"the module {type(module).__module__}.{type(module).__qualname__}")
    return _write_torch_layer(module, kind, path, writer)


def _write_torch_layer(module: nn.Module, kind: type[nn.Module], path: str, writer: Writer) -> dict[str, Any]:
    settings = _settings(module, kind)
    fresh = _build(kind, settings).state_dict()
    unknown = [name for name in module.state_dict() if name not in fresh and not name.startswith("parametrizations.")]
    if unknown:
        raise UnknownValueError(f"`{unknown[0]}` of {kind.__name__}, which its settings do not explain")
    for name, made in fresh.items():
        value = operator.attrgetter(name)(module)  # a parametrised weight comes out as what it computes
        if not isinstance(value, Tensor) or value.shape != made.shape:
            raise UnknownValueError(f"`{name}` of {kind.__name__}, which its settings do not explain")
        writer.tensors[f"{path}.{name}"] = value
    return {"class": f"nn.{kind.__name__}", "settings": writer.write(settings)}


def _tracked_name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", "")
    for home, owner in HOMES.items():
        if name.removesuffix("_") in TRACKED and getattr(owner, name, None) is function:
            return f"{home}.{name}"
    raise UnknownValueError(f"the activation {getattr(function, '__module__', '')}.{name}")


def _tracked(full: str) -> Callable[..., Any]:
    home, _, name = full.partition(".")
    if home not in HOMES or name.removesuffix("_") not in TRACKED:
        raise DataError(
            "The file names an unknown activation", got=repr(full)[:80], expected=f"one of {', '.join(sorted(TRACKED))}"
        )
    return getattr(HOMES[home], name)  # type: ignore[no-any-return]


def _settings(module: nn.Module, kind: type[nn.Module]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in list(inspect.signature(kind.__init__).parameters)[1:]:
        if name == "bias":
            found[name] = getattr(module, "bias", getattr(module, "in_proj_bias", None)) is not None
        elif name not in ("device", "dtype", "inplace") and not name.startswith("_") and hasattr(module, name):
            found[name] = getattr(module, name)
    return found


def _build(kind: type[nn.Module], settings: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return kind(**settings).eval()


def read_layer(given: dict[str, Any], path: str, reader: Reader) -> nn.Module:
    """Return the module that `write_layer` described.

    Raises:
        DataError: Its class is unknown.
    """
    settings = reader.read(given["settings"])
    if given["class"] == "Neuron":
        tensors = {name: reader.tensors.get(f"{path}.{name}") for name in NEURON_TENSORS}
        theta = tensors.pop("threshold")
        if theta is None or not theta.is_floating_point() or not bool(((theta > 0) & theta.isfinite()).all()):
            raise DataError(
                "The file holds thresholds that are none", where=path, got="0, negative or not finite", expected="θ > 0"
            )
        neuron = Neuron(theta, function=read_layer(given["function"], f"{path}.function", reader), **settings)
        for name, value in tensors.items():
            setattr(neuron, name, value)
        return neuron
    if given["class"] in ("Rectifier", "Function"):
        return (
            Rectifier(**settings)
            if given["class"] == "Rectifier"
            else Function(_tracked(given["function"]), **settings)
        )
    kind = getattr(nn, given["class"].removeprefix("nn."), None)
    if not inspect.isclass(kind) or not issubclass(kind, nn.Module) or kind.__module__ not in FILES:
        raise DataError(
            "The file names an unknown module",
            where=path,
            got=repr(given["class"])[:80],
            expected="a layer of torch.nn",
        )
    module = _build(kind, settings)
    mine = {
        name.removeprefix(f"{path}."): value for name, value in reader.tensors.items() if name.startswith(f"{path}.")
    }
    module.load_state_dict({name: mine[name] for name in module.state_dict()}, assign=True)
    return module
