"""An SNN as a NIR file, written for the reader that will read it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx

from tospike.errors import OptionError, Problem, missing_extra, refuse_unknown
from tospike.export.folded import fold
from tospike.export.limits import checked, neuron_problems, one_input, operation_problems, refuse
from tospike.export.lowering import Lowering
from tospike.export.profiles import PROFILES, Difference, Profile
from tospike.export.units import is_join
from tospike.files import replacing
from tospike.graph.walk import module_of, site_nodes
from tospike.neurons.modules import Neuron
from tospike.run.network import SNN
from tospike.run.nodes import is_size

FORMAT = "tospike"


@dataclass(frozen=True)
class NIRExport:
    """What was written.

    Attributes:
        path: The file.
        target: The reader it was written for.
        nodes: Number of nodes.
        differences: What the reader by itself would do in another way; `load_nir` mends all of it.
        encoder: What computes the input of the file from that of the network; None where they are the same.
    """

    path: Path
    target: str
    nodes: int
    differences: tuple[Difference, ...]
    encoder: fx.GraphModule | None = None

    def __str__(self) -> str:
        """Show what the reader by itself would do in another way, and what mends it."""
        head = f"{self.path}: {self.nodes} nodes for {self.target}. Load it by ts.load_nir; {self.target} by itself"
        return "\n".join([head, *(f"  {d.what}; the SNN {d.ours}; mended by {d.mended}" for d in self.differences)])


def export_nir(
    snn: SNN,
    path: str | Path,
    *,
    target: str = "sinabs",
    encoder: bool = False,
    alone: bool = True,
    force: bool = False,
) -> NIRExport:
    """Write the SNN as a NIR graph that a reader runs with the same spikes at the same steps.

    The graph holds the weights of `fold`, thresholds of 1 and time steps of 1: ``dt = 1``, ``r = 1``. Average pools, grouped convolutions and the
    scales of residual sums are written with nodes that the reader has. NIR's neuron resets to a value and starts at 0; the SNN subtracts, and
    starts at v(0). The file records both, per node (``start``) and for the graph (``tospike``), and `load_nir` sets them in
    the modules that the reader builds. A reader alone does not know them: see `Profile`.

    Args:
        snn: A converted network; it is not changed.
        path: File to write.
        target: Who will read it: ``"sinabs"``, ``"snntorch"``, ``"norse"`` or ``"spikingjelly"``.
        encoder: The file begins with the currents of the first neurons, which are constant in time. What computes
            them from the network's input is returned as a PyTorch module, and may be more than NIR can say, as a max-pool.
        alone: The reader may read the file by itself: refuse all that it would do in another way, which for a neuron that subtracts and
            starts at θ/2 is always something. False writes a file for `load_nir`, which mends these things.
        force: Replace an existing file.

    Raises:
        MissingExtraError: ``nir`` is not installed.
        ExportError: What NIR or the reader cannot say, or would do in another way, all of it listed.
        OptionError: The reader is unknown, or the file exists already.

    Source: Pedersen et al., "Neuromorphic intermediate representation", Nature Communications 2024. Differs from the paper in: reset and start.

    Example:
        >>> import tempfile, torch, tospike as ts
        >>> from torch import nn
        >>> ann = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[torch.randn(64, 2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = ts.export_nir(snn, f"{folder}/net.nir", target="sinabs", alone=False)
        >>> written.nodes, [difference.mended for difference in written.differences]
        (5, ['spike_fn=SingleSpike', 'min_v_mem=None', 'the potential before the first step'])
    """
    refuse_unknown("reader of NIR files", target, PROFILES)
    profile = PROFILES[target]
    found = checked(snn, path, force=force)
    try:
        import nir
    except ImportError as error:
        raise missing_extra("nir", "nir", "writing NIR graphs") from error
    folded = fold(snn).snn
    differences = _differences(folded, profile)
    problems = [*neuron_problems(folded, target), *operation_problems(folded, target), *one_input(folded, target)]
    begin = _boundary(folded, problems) if encoder else None
    lowered = Lowering(folded, profile, nir, begin)
    problems += lowered.problems
    if alone:
        problems += [
            Problem(
                f"{target} {d.what}", got=d.ours, expected="what the SNN does",
                remedy=f"Pass alone=False and load the file by ts.load_nir, which sets {d.mended}.",
            )
            for d in differences
        ]  # fmt: skip
    refuse(f"The SNN cannot be written for {target}", problems)
    record = {"target": target, "reset": "subtract", "fires": "v >= threshold", "dt": 1.0, "start": "metadata of each neuron",
              "output": "mean over time steps", "differences": [d.what for d in differences]}  # fmt: skip
    graph = nir.NIRGraph(lowered.nodes, lowered.edges, metadata={FORMAT: json.dumps(record)})
    with replacing(found) as written:
        nir.write(written, graph)
        if profile.old_file:
            _drop_reset(written)
    before = None if begin is None else _until(folded, begin)
    return NIRExport(found, target, len(lowered.nodes), differences, before)


def _boundary(snn: SNN, problems: list[Problem]) -> fx.Node | None:
    """Return the one node that is constant in time and enters the body or the tail."""
    static = set(snn.plan.static)
    ends = [
        node
        for node in snn.plan.static
        if "operation" in node.meta and not is_size(node) and any(user not in static for user in node.users)
    ]
    if len(ends) == 1:
        return ends[0]
    problems.append(Problem("The first neurons are not driven by one current", got=", ".join(node.name for node in ends), expected="one",
                            remedy="Pass encoder=False, or replace what NIR cannot say."))  # fmt: skip
    return None


def _until(snn: SNN, end: fx.Node) -> fx.GraphModule:
    """Return what a network computes up to a node."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in snn.plan.static:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[end])
    return fx.GraphModule(snn.graph, graph)


def _differences(snn: SNN, profile: Profile) -> tuple[Difference, ...]:
    starts = any(bool((_neuron(snn.graph, node).start != 0).any()) for node in site_nodes(snn.graph))
    joins = any(is_join(node) for node in snn.graph.graph.nodes if "operation" in node.meta)
    return tuple(d for d in profile.differences if (starts or not d.only_start) and (joins or not d.only_joins))


def _neuron(graph: fx.GraphModule, node: fx.Node) -> Neuron:
    neuron = module_of(graph, node)
    assert isinstance(neuron, Neuron)
    return neuron


def _drop_reset(path: Path) -> None:
    """Take out of a file what readers of NIR 1.0.4 stumble over."""
    import h5py

    with h5py.File(path, "r+") as file:
        for node in file["node"]["nodes"].values():
            if "v_reset" in node:
                del node["v_reset"]


def record_of(graph: Any) -> dict[str, Any]:
    """Return what a NIR graph that was written here records about itself.

    Raises:
        OptionError: It was not written here.
    """
    text = graph.metadata.get(FORMAT) if isinstance(graph.metadata, dict) else None
    if text is None:
        raise OptionError("The file was not written by export_nir", got="no record of reset and start", expected="a file of ts.export_nir",
                          remedy="Load it by the reader itself.")  # fmt: skip
    value = text.item() if isinstance(text, np.ndarray) else text
    return json.loads(value.decode() if isinstance(value, bytes) else value)  # type: ignore[no-any-return]
