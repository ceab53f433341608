"""Which inputs a network takes, and where they stand in an example or in a batch of a loader."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, fx, nn

from tospike.errors import CaptureError


def accepted_inputs(ann: nn.Module) -> dict[str, bool]:
    """Return the arguments of `forward` by name, with whether they must be given; ``*args`` are not among them.

    Example:
        >>> accepted_inputs(nn.ConvTranspose1d(1, 1, 3))
        {'input': True, 'output_size': False}
    """
    if isinstance(ann, fx.GraphModule):
        return {str(node.target): not node.args for node in ann.graph.nodes if node.op == "placeholder"}
    if isinstance(names := getattr(ann, "_named_inputs", None), tuple):  # a network that was rebuilt knows them
        return dict.fromkeys(names, True)
    parameters = inspect.signature(ann.forward).parameters.values()
    return {p.name: p.default is p.empty for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def input_names(ann: nn.Module, example: Any) -> tuple[str, ...]:
    """Return the names of the arguments of `forward` that an example fills.

    Raises:
        CaptureError: The example is None or of a kind that cannot be matched with `forward`.

    Example:
        >>> import torch
        >>> input_names(nn.Linear(2, 2), torch.zeros(1, 2))
        ('input',)
    """
    known = list(accepted_inputs(ann))
    if isinstance(example, dict):
        unknown = [name for name in example if name not in known]
        if unknown:
            raise CaptureError(
                "The example names inputs that `forward` does not have",
                got=", ".join(unknown), expected=f"some of {known}", remedy="Use the argument names of `forward` as keys.",
            )  # fmt: skip
        return tuple(name for name in known if name in example)
    if isinstance(example, Tensor):
        return (known[0] if known else "input_0",)
    if isinstance(example, (tuple, list)) and example:
        spare = [f"input_{i}" for i in range(len(known), len(example))]
        return tuple([*known, *spare][: len(example)])
    raise CaptureError(
        "An example input is needed to capture the network", got=repr(example)[:80],
        expected="a tensor [N, ...], a tuple of tensors, or a dict by argument name",
        remedy="Pass example=, or calibration= whose first batch then serves as the example.",
    )  # fmt: skip


def required_inputs(ann: nn.Module) -> list[str]:
    """Return the inputs that every call must give; if none must, the first accepted one, or the first of ``*args``.

    Example:
        >>> required_inputs(nn.Bilinear(1, 1, 1))
        ['input1', 'input2']
    """
    accepted = accepted_inputs(ann)
    return [name for name, required in accepted.items() if required] or [*accepted, "input_0"][:1]


def example_of(ann: nn.Module, batch: Any) -> Any:
    """Take the inputs out of a batch of a loader, which may carry targets too.

    Example:
        >>> example_of(nn.Linear(2, 1), ("inputs", "targets"))
        ('inputs',)
    """
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, dict):
        accepted = accepted_inputs(ann)
        return {key: value for key, value in batch.items() if key in accepted}
    if not isinstance(batch, (tuple, list)):
        raise CaptureError("A batch cannot be read", got=repr(batch)[:80], expected="a tensor, a tuple, a list or a dict",
                           remedy="Let the loader yield (input, target), input alone, or a dict by argument name.")  # fmt: skip
    if batch and isinstance(batch[0], dict):
        return batch[0]
    if batch and isinstance(batch[0], (tuple, list)):
        return tuple(batch[0])
    return tuple(batch[: len(required_inputs(ann))])
