"""The command that hands an SNN on to other software."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

import tospike as ts
from tospike.cli.sources import archive_of
from tospike.errors import require

ENDINGS = (".nir", ".pt2", ".onnx")


def export(
    snn: str,
    out: str | None = None,
    weights: bool = False,
    bits: int = 8,
    target: Literal["sinabs", "snntorch", "norse", "spikingjelly"] = "sinabs",
    encoder: bool = False,
    alone: bool = True,
    force: bool = False,
) -> int:
    """Write an SNN for other software, or print its weights with spikes of 0 and 1.

    Example: tospike export runs/ltb --out net.onnx

    Args:
        snn: A run folder, a file *.tospike, or an SNN of the zoo, e.g. fashion-resnet20-mice-t4.
        out: File to write: *.nir, *.pt2 (PyTorch program) or *.onnx.
        weights: Print the folded weights (spikes 0 or 1, thresholds 1), and those of `bits` bits with their loss.
        bits: Of integer weights and thresholds.
        target: Reader of a NIR file.
        encoder: Begin a NIR file with the currents of the first neurons.
        alone: The reader of a NIR file may read it by itself: refuse what it would do in another way; --no_alone for files that ts.load_nir reads.
        force: Replace an existing file.
    """
    suffix = Path(out).suffix if out else ""
    good = suffix in ENDINGS or (weights and out is None)
    require("the export", ("out", out, good, f"a file *{', *'.join(ENDINGS)}, or --weights", "net.nir"))
    found, console = ts.load(archive_of(snn)), Console()
    if weights:
        folded = ts.fold(found)
        print(folded, ts.to_integers(folded, bits=bits), sep=f"\n\n{bits} bits:\n")
    if out is None:
        return 0
    if suffix == ".nir":
        said = str(ts.export_nir(found, out, target=target, encoder=encoder, alone=alone, force=force))
    else:
        write = ts.export_program if suffix == ".pt2" else ts.export_onnx
        signature = write(found, out, force=force)
        said = (f"{out}: one time step, ({', '.join([*signature.inputs, *signature.state])}) -> ({', '.join(signature.outputs)}, states); "
                "loop it from states of 0.")  # fmt: skip
    console.print(said, markup=False, highlight=False)
    return 0
