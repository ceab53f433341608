"""Modules of a saved network: their class and settings, from which they are built again before their tensors are put in."""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
from torch import Tensor, nn

from tospike.archive.values import Reader, UnknownValueError, Writer
from tospike.errors import DataError
from tospike.graph.rewrite import Function, Rectifier
from tospike.neurons.modules import Neuron

# Files of torch.nn with modules that compute one operation: nothing in them runs code from settings.
FILES = {f"torch.nn.modules.{name}" for name in (
    "activation", "batchnorm", "channelshuffle", "conv", "dropout", "flatten", "fold", "instancenorm", "linear", "normalization", "padding",
    "pixelshuffle", "pooling", "sparse", "upsampling",
)}  # fmt: skip
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
        given = {"function": module.function, "args": module.args, "kwargs": module.kwargs}
        return {"class": "Function", "settings": writer.write(given, path)}
    kind = next(
        (cls for cls in type(module).__mro__ if getattr(nn, cls.__name__, None) is cls and cls.__module__ in FILES),
        None,
    )
    if kind is None or type(module).forward is not kind.forward:
        raise UnknownValueError(f"the module {type(module).__module__}.{type(module).__qualname__}")
    settings = _settings(module, kind)
    for name, made in _build(kind, settings).state_dict().items():
        value = operator.attrgetter(name)(module)  # a parametrised weight comes out as what it computes
        if not isinstance(value, Tensor) or value.shape != made.shape:
            raise UnknownValueError(f"`{name}` of {kind.__name__}, which its settings do not explain")
        writer.tensors[f"{path}.{name}"] = value
    return {"class": f"nn.{kind.__name__}", "settings": writer.write(settings)}


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
        assert theta is not None
        neuron = Neuron(theta, function=read_layer(given["function"], f"{path}.function", reader), **settings)
        for name, value in tensors.items():
            setattr(neuron, name, value)
        return neuron
    if given["class"] in ("Rectifier", "Function"):
        return Rectifier(**settings) if given["class"] == "Rectifier" else Function(**settings)
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
