"""How a batch of a loader, or an example, becomes the inputs of a network and a target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tospike.errors import DataError, Problem

Inputs = dict[str, Tensor]


def split_batch(batch: Any, names: Sequence[str]) -> tuple[Inputs, Any]:
    """Split a batch into the network's named inputs and whatever else it carries (the target, or None).

    A tensor is the only input; a tuple or list holds the inputs in the order of `forward`, then the target; its first
    element may itself be a tuple or a dict of all inputs; a dict holds inputs by the names that `forward` gives them, and
    the target is what is left (a single left-over value is unwrapped).

    Args:
        batch: What the loader yields; tensors are ``[N, ...]``.
        names: The input names of the network, in order.

    Raises:
        DataError: The batch is none of these, or has too few inputs, or they disagree in N.

    Example:
        >>> inputs, target = split_batch((torch.zeros(2, 3), torch.tensor([0, 1])), ["x"])
        >>> list(inputs), target.tolist()
        (['x'], [0, 1])
    """
    if isinstance(batch, Tensor):
        inputs, target = [batch], None
    elif isinstance(batch, Mapping):
        return _split_mapping(batch, names)
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        if batch and isinstance(batch[0], Mapping):
            return _split_mapping(batch[0], names)[0], _unwrap(batch[1:])
        if batch and isinstance(batch[0], (tuple, list)):
            inputs, target = list(batch[0]), _unwrap(batch[1:])
        else:
            inputs, target = list(batch[: len(names)]), _unwrap(batch[len(names) :])
    else:
        raise DataError(
            "A batch cannot be split into inputs and target",
            got=type(batch).__name__,
            expected=f"a tensor, (input, target), or a dict with the inputs {list(names)}",
            remedy="Let the loader yield one of these, or map it before passing it on.",
        )
    if len(inputs) != len(names):
        raise DataError(
            "A batch has the wrong number of inputs", got=str(len(inputs)), expected=f"{len(names)}: {list(names)}",
            remedy="Order the batch as `forward` does, or yield a dict by name.",
        )  # fmt: skip
    return _checked(dict(zip(names, inputs, strict=True))), target


def _split_mapping(batch: Mapping[str, Any], names: Sequence[str]) -> tuple[Inputs, Any]:
    missing = [name for name in names if name not in batch]
    if missing:
        raise DataError(
            f"A batch lacks the input {', '.join(missing)}", got=f"keys {list(batch)}", expected=f"keys {list(names)}",
            remedy="Rename the keys of the batch as `forward` names its arguments.",
        )  # fmt: skip
    rest = [value for key, value in batch.items() if key not in names]
    return _checked({name: batch[name] for name in names}), _unwrap(rest)


def _unwrap(rest: Sequence[Any]) -> Any:
    return None if not rest else rest[0] if len(rest) == 1 else tuple(rest)


def _checked(inputs: dict[str, Any]) -> Inputs:
    problems = [
        Problem(f"Input `{name}` is not a tensor with a batch axis", got=_describe(value), expected="a tensor [N, ...]",
                remedy="Convert it with torch.as_tensor and stack the samples.")
        for name, value in inputs.items() if not isinstance(value, Tensor) or value.ndim == 0
    ]  # fmt: skip
    if problems:
        raise DataError("A batch cannot be fed to the network", problems=problems)
    if len({value.shape[0] for value in inputs.values()}) > 1:
        raise DataError(
            "The inputs of a batch disagree in their number of samples",
            got=", ".join(f"{name}: {value.shape[0]}" for name, value in inputs.items()),
            expected="the same N on axis 0 of every input",
            remedy="Stack the inputs of one sample at the same index.",
        )
    return inputs


def _describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def move(batch: Any, device: torch.device) -> Any:
    """Copy every tensor of a batch, nested or not, to a device.

    Example:
        >>> move({"x": torch.zeros(1)}, torch.device("cpu"))["x"].device
        device(type='cpu')
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(move(value, device) for value in batch)
    return batch


def divide(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """Split a batch into parts of at most so many samples, of nearly the same size."""
    samples = next(iter(inputs.values())).shape[0]
    parts = {name: value.tensor_split(-(-samples // size)) for name, value in inputs.items()}
    for number in range(-(-samples // size)):
        yield {name: part[number] for name, part in parts.items()}


def join(outputs: Sequence[Any]) -> Any:
    """Put the outputs of the parts of a batch together, whatever holds their tensors.

    Example:
        >>> join([{"out": torch.zeros(2, 3)}, {"out": torch.zeros(1, 3)}])["out"].shape
        torch.Size([3, 3])
    """
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(list(outputs))
    if isinstance(first, dict):
        return {key: join([output[key] for output in outputs]) for key in first}
    if isinstance(first, (tuple, list)):
        joined = [join(values) for values in zip(*outputs, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    return first


def cycle(loader: Iterable[Any], batches: int) -> Iterator[Any]:
    """Yield a fixed number of batches, passing over a short loader as often as needed.

    Raises:
        DataError: The loader is empty, or is an iterator that ran dry before the number was reached.

    Example:
        >>> list(cycle([1, 2], 5))
        [1, 2, 1, 2, 1]
    """
    done = 0
    while done < batches:
        before = done
        for batch in loader:
            yield batch
            done += 1
            if done == batches:
                return
        if done == before:
            raise DataError(
                "The loader ran out of batches", got=f"{done} batches", expected=str(batches),
                remedy="Pass a re-iterable loader (a DataLoader or a list) with at least one batch, not a generator.",
            )  # fmt: skip


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors of an output, nested or not.

    Example:
        >>> len(list(tensors_in({"out": torch.zeros(1), "both": [torch.zeros(2), torch.tensor(3)]})))
        2
    """
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, (Mapping, tuple, list)):
        for value in output.values() if isinstance(output, Mapping) else output:
            yield from tensors_in(value)
