"""Settings, records and arguments as JSON, and back: plain values as they are, all others under a tag of their kind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from tospike.errors import DataError
from tospike.graph.capture import Operation, Site
from tospike.graph.kinds import Kind, Verdict
from tospike.history import EpochRecord, History
from tospike.neurons.model import NeuronModel, PreRun
from tospike.neurons.surrogate import Surrogate
from tospike.run.network import Conversion, Descended, Tuned

RECORDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Conversion, Descended, EpochRecord, History, NeuronModel, Operation, PreRun, Site, Surrogate, Tuned, Verdict,
    )
}  # fmt: skip
TORCH_VALUES = (torch.dtype, torch.memory_format, torch.layout)


class UnknownValueError(Exception):
    """A value has no form in a file; its text says which."""


class Writer:
    """Turns values into JSON; tensors are collected beside it.

    Attributes:
        tensors: The tensors by the key that stands for them.

    Example:
        >>> writer = Writer()
        >>> writer.write({"size": (1, float("inf"))})
        {'dict': [['size', {'tuple': [1, {'float': 'inf'}]}]]}
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def write(self, value: Any, key: str = "") -> Any:
        """Return a value as JSON; the key names it where it holds tensors.

        Raises:
            UnknownValueError: It has no form in a file.
        """
        if value is None or isinstance(value, (bool, str, int)):
            return {"kind": str(value)} if isinstance(value, Kind) else value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, (list, tuple, set, frozenset)):
            parts = [self.write(part, f"{key}.{number}") for number, part in enumerate(value)]
            return parts if isinstance(value, list) else {"tuple": parts}
        if isinstance(value, dict):
            return {"dict": [[self.write(k), self.write(part, f"{key}.{k}")] for k, part in value.items()]}
        return self._write_tagged(value, key)

    def _write_tagged(self, value: Any, key: str) -> Any:
        if isinstance(value, fx.Node):
            return {"node": value.name}
        if isinstance(value, Tensor):
            self.tensors[key] = value
            return {"tensor": key}
        if isinstance(value, slice):
            return {"slice": [self.write(part) for part in (value.start, value.stop, value.step)]}
        if value is Ellipsis:
            return {"ellipsis": None}
        if isinstance(value, TORCH_VALUES):
            return {"torch": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"device": str(value)}
        if type(value).__name__ in RECORDS:
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return {type(value).__name__: {n: self.write(part, f"{key}.{n}") for n, part in fields.items()}}
        name = getattr(value, "__qualname__", None) or repr(value)
        raise UnknownValueError(f"{getattr(value, '__module__', '')}.{name}".removeprefix(".")[:120])


class Reader:
    """Turns JSON into values again; none of them can be called.

    Args:
        tensors: The tensors by their key.
        nodes: The nodes of the graph by name, as far as they are made.

    Example:
        >>> Reader({}, {}).read({"tuple": [1, {"float": "inf"}, {"torch": "float32"}]})
        (1, inf, torch.float32)
    """

    def __init__(self, tensors: dict[str, Tensor], nodes: dict[str, fx.Node]) -> None:
        self.tensors, self.nodes = tensors, nodes
        self._tags: dict[str, Callable[[Any], Any]] = {
            "kind": Kind,
            "float": float,
            "tuple": lambda parts: tuple(map(self.read, parts)),
            "dict": lambda pairs: {self.read(key): self.read(part) for key, part in pairs},
            "node": nodes.__getitem__,
            "tensor": tensors.__getitem__,
            "slice": lambda parts: slice(*map(self.read, parts)),
            "ellipsis": lambda _: Ellipsis,
            "torch": _torch_value,
            "device": torch.device,
        }

    def read(self, value: Any) -> Any:
        """Return the value that JSON stands for.

        Raises:
            DataError: Its tag is unknown.
        """
        if isinstance(value, list):
            return [self.read(part) for part in value]
        if not isinstance(value, dict):
            return value
        ((tag, content),) = value.items()
        if tag in RECORDS:
            return RECORDS[tag](**{name: self.read(part) for name, part in content.items()})
        if tag not in self._tags:
            raise DataError("The file holds a value of an unknown kind", got=repr(tag)[:80])
        return self._tags[tag](content)


def _torch_value(name: str) -> Any:
    found = getattr(torch, name)
    if not isinstance(found, TORCH_VALUES):
        raise DataError("The file holds a value of an unknown kind", got=repr(name)[:80])
    return found
