"""The networks of the conversion papers and of the zoo, as plain PyTorch modules that any method can prepare or convert.

Every activation is a module of its own, so a converted network has one neuron layer for each of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from tospike.errors import refuse_unknown
from tospike.zoo.networks.boxes import fcos
from tospike.zoo.networks.clips import clip_net
from tospike.zoo.networks.dense import deeplab, fcn
from tospike.zoo.networks.images import digits_net, resnet18, resnet20, resnet34, vgg16
from tospike.zoo.networks.policies import actor

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    builder.__name__: builder
    for builder in (resnet20, resnet18, resnet34, vgg16, digits_net, fcn, deeplab, fcos, clip_net, actor)
}


def available() -> tuple[str, ...]:
    """Return the names that `build` knows."""
    return tuple(_BUILDERS)


def build(name: str, **options: Any) -> nn.Module:
    """Build a network by name, with fresh weights.

    Args:
        name: One of `available`.
        options: Keyword arguments of the function of that name.

    Raises:
        OptionError: The name, or an option of it, is unknown.

    Example:
        >>> sum(parameter.numel() for parameter in build("resnet20", classes=100).parameters())
        278324
    """
    refuse_unknown("network", name, _BUILDERS)
    refuse_unknown(f"option of the network {name}", options, inspect.signature(_BUILDERS[name]).parameters)
    return _BUILDERS[name](**options)
