"""The functions that a saved network may name: operations on tensors and sizes, and nothing that reads files or runs code."""

from __future__ import annotations

import importlib
import inspect
import math
import operator
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch.nn import functional

from tospike.errors import missing_extra
from tospike.graph.kinds import TABLE

ATTRIBUTES = {"shape", "dtype", "device", "ndim", "T", "mT", "H", "mH", "data", "real"}
BUILTINS = (abs, bool, float, getattr, int, len, max, min, round, sum, tuple)
OPERATORS = (
    "abs add and_ eq floordiv ge getitem gt iadd ifloordiv imul index inv invert isub itruediv le lt matmul mod mul ne neg not_ or_ pos pow "
    "sub truediv truth xor"
)
# Functions of other libraries that torch.fx keeps in one piece: loading a network that calls one imports that library.
_SWIN = ("shifted_window_attention", "_get_relative_position_bias", "_patch_merging_pad")
LIBRARIES = {f"torchvision.models.swin_transformer.{name}" for name in _SWIN}
REFUSED = {"from_file"}  # the one operation of torch that opens a file


def _is_operation(name: str) -> bool:
    """Tell whether torch has an operation of this name, in place or not, in the closed list that its compiler works with."""
    schemas = torch._C._jit_get_schemas_for_operator
    return name not in REFUSED and not name.startswith("_") and bool(schemas(f"aten::{name}"))


def _in_functional(name: str, found: Any) -> bool:
    named = not name.startswith("_") and callable(found) and not inspect.isclass(found)
    return named and (getattr(found, "__module__", "") in {functional.__name__, "torch._C._nn"} or _is_operation(name))


@cache
def _functions() -> dict[str, Callable[..., Any]]:
    compiled = {
        *dir(torch._C._VariableFunctions),
        *torch.functional.__all__,
    }  # no function of torch's own Python, which may write files
    homes: list[tuple[ModuleType, list[str]]] = [
        (operator, OPERATORS.split()),
        (math, [name for name in dir(math) if callable(getattr(math, name)) and not name.startswith("_")]),
        (functional, [name for name, found in vars(functional).items() if _in_functional(name, found)]),
        (torch, [name for name in compiled if _is_operation(name) and hasattr(torch, name)]),
        (torch.special, [name for name in torch.special.__all__ if _is_operation(f"special_{name}")]),
    ]
    found = {function.__name__: function for function in BUILTINS}
    return found | {f"{home.__name__}.{name}": getattr(home, name) for home, names in homes for name in names}


@cache
def _names() -> dict[Any, str]:
    return {function: name for name, function in _functions().items()}


@cache
def _methods() -> set[str]:
    listed = {name for names, _, _ in TABLE for name in names.split() if hasattr(torch.Tensor, name)}
    return listed | {name for name in dir(torch.Tensor) if _is_operation(name)}


def name_of(function: Callable[..., Any]) -> str | None:
    """Return the name under which a function is saved; None if it is not one that may be.

    Example:
        >>> name_of(operator.add), name_of(torch.nn.functional.softmax), name_of(torch.load)
        ('operator.add', 'torch.nn.functional.softmax', None)
    """
    try:
        found = _names().get(function)
    except TypeError:  # it cannot be hashed
        return None
    full = f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', '')}"
    return full if found is None and full in LIBRARIES else found


def function_of(name: str) -> Callable[..., Any]:
    """Return the function of a name.

    Raises:
        KeyError: No such function may be named.
        MissingExtraError: Its library is not installed.

    Example:
        >>> function_of("operator.add")(1, 2)
        3
    """
    if name in LIBRARIES:
        module, _, attribute = name.rpartition(".")
        try:
            return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
        except ImportError as error:
            raise missing_extra(name.partition(".")[0], "vision", "running this network") from error
    return _functions()[name]


def is_method(name: str) -> bool:
    """Tell whether a network may call a method of tensors.

    Example:
        >>> is_method("flatten"), is_method("relu_"), is_method("numpy"), is_method("__reduce__")
        (True, True, False, False)
    """
    return name in _methods() or name.removesuffix("_") in _methods()
