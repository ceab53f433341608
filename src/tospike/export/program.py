"""One time step as a file for other runtimes: a PyTorch program, or an ONNX graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tospike.errors import Problem, missing_extra
from tospike.export.limits import checked, refuse
from tospike.export.step import SCALARS, Signature, Step, example_of_step, step_problems
from tospike.files import replacing
from tospike.run.network import SNN


def export_program(snn: SNN, path: str | Path, *, example: Any = None, force: bool = False) -> Signature:
    """Write one time step of the SNN as a PyTorch program (``*.pt2``), which runs without this library.

    ``y_t, S_t = step(x, S_{t−1})``, ``S_0 = 0``: y_t is what `simulate` yields at t. The batch may have any size. The file
    carries the signature as the extra file ``tospike.json``.

    Args:
        snn: A causal network; it is not changed.
        path: File to write.
        example: One batch of inputs, where they are not floating-point numbers.
        force: Replace an existing file.

    Returns:
        Names and shapes of what a step takes and returns.

    Raises:
        ExportError: Neurons that one step cannot hold: synchronous ones, and those with a pre-run; all of them are listed.
        OptionError: The file exists already.

    Example:
        >>> import tempfile, tospike as ts
        >>> from torch import nn
        >>> ann = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> snn, x = ts.convert(ann, ts.LTB(batches=10), calibration=[torch.randn(64, 2)]), torch.randn(3, 2)
        >>> folder = tempfile.TemporaryDirectory()
        >>> signature = ts.export_program(snn, f"{folder.name}/net.pt2")
        >>> step = torch.export.load(f"{folder.name}/net.pt2").module()
        >>> state = signature.zeros(3)
        >>> for _ in range(8):
        ...     y, *state = step(x, *state)
        >>> torch.allclose(y, snn(x, time_steps=8), atol=1e-5)
        True
        >>> folder.cleanup()
    """
    target = checked(snn, path, force=force)
    refuse("The SNN cannot be written as a program of one step", step_problems(snn))
    signature, exported = _exported(snn, example)
    with replacing(target) as written, _quiet():
        torch.export.save(exported, written, extra_files={"tospike.json": signature.to_json()})
    return signature


def export_onnx(snn: SNN, path: str | Path, *, example: Any = None, force: bool = False) -> Signature:
    """Write one time step of the SNN as an ONNX graph; see `export_program`.

    Inputs are named as in the signature; outputs are its outputs, then the new states as ``<name>_next``. The metadata of the
    file carries the signature as ``tospike``.

    Args:
        snn: A causal network; it is not changed.
        path: File to write.
        example: One batch of inputs, where they are not floating-point numbers.
        force: Replace an existing file.

    Returns:
        Names and shapes of what a step takes and returns.

    Raises:
        MissingExtraError: ``onnx`` or ``onnxscript`` is not installed.
        ExportError: Neurons that one step cannot hold; all of them are listed.
        OptionError: The file exists already.
    """
    target = checked(snn, path, force=force)
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_extra("onnx with onnxscript", "onnx", "writing ONNX graphs") from error
    problems = step_problems(snn)
    for site, model in snn.conversion.neurons.items():
        if model.levels == "nearest":
            problems.append(Problem("ONNX has no function that finds the nearest power of two", where=f"Site {site}", got='levels="nearest"',
                                    expected="uniform or successive levels", remedy="Use ts.export_program, or another method."))  # fmt: skip
    refuse("The SNN cannot be written as an ONNX graph of one step", problems)
    signature, exported = _exported(snn, example)
    names = [*signature.outputs, *(f"{name}_next" for name in signature.state)]
    with _quiet():
        made: Any = torch.onnx.export(
            exported,
            (),
            input_names=[*signature.inputs, *signature.state],
            output_names=names,
            dynamo=True,
            verbose=False,
        )
        proto = made.model_proto
    onnx.helper.set_model_props(proto, {"tospike": signature.to_json()})
    with replacing(target) as written:
        onnx.save(proto, written)
    return signature


def _exported(snn: SNN, example: Any) -> tuple[Signature, torch.export.ExportedProgram]:
    step = Step(snn).eval()
    arguments = example_of_step(step, example)
    with torch.no_grad():
        outputs = len(step(*arguments)) - len(step.signature.state)
    names = ("output",) if outputs == 1 else tuple(f"output_{number}" for number in range(outputs))
    signature = replace(step.signature, outputs=names)
    batch = torch.export.Dim("batch", min=1)
    given = [*signature.inputs, *signature.state]
    shapes = tuple({} if name in SCALARS else {0: batch} for name in given)
    with torch.no_grad(), _quiet():
        exported = torch.export.export(step, arguments, dynamic_shapes={"args": shapes})
    return signature, exported


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporting warns of its own deprecations, which no user of this library can mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
