"""NIR files run by the reader that they were written for, with what it does in another way mended."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tospike.errors import MissingExtraError, missing_extra, require
from tospike.export.nir import record_of
from tospike.export.profiles import PROFILES


class NIRNetwork:
    """A NIR graph in the modules of its reader, which start, fire and reset as the SNN does.

    Args:
        graph: The graph.
        reader: Name of the reader.

    Attributes:
        module: What the reader's own import function returned, for one time step ``[N, ...]``.
        starts: v(0) of each neuron by node name.
        counts: Spikes of each neuron in the last run ``[N, ...]``, by node name.
    """

    def __init__(self, graph: Any, reader: str) -> None:
        self.reader = reader
        names = {name: name.replace(".", "_") for name in graph.nodes}
        self.starts: dict[str, Tensor] = {
            names[name]: torch.as_tensor(node.metadata["start"])
            for name, node in graph.nodes.items()
            if "start" in getattr(node, "metadata", {})
        }
        self.counts: dict[str, Tensor] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # readers call deprecated functions of nirtorch
            module: Any = _IMPORTS[reader](graph)
        if hasattr(module, "execution_order"):
            module.execution_order = _in_order(module)
        self.module: nn.Module = module
        for name in self.starts:
            self.module.get_submodule(name).register_forward_hook(self._count(name))

    def _count(self, name: str) -> Any:
        def count(module: nn.Module, args: Any, output: Any) -> None:
            spikes = output[0] if isinstance(output, tuple) else output
            self.counts[name] = self.counts.get(name, 0) + spikes.detach()

        return count

    @torch.no_grad()
    def __call__(self, x: Tensor, *, time_steps: int) -> Tensor:
        """Return the mean output over T steps of a constant input ``[N, ...]``."""
        require("a run", ("time_steps", time_steps, time_steps >= 1, "an integer >= 1", 8))
        self.counts = {}
        state = _BEGINS[self.reader](self, len(x))
        total: Any = 0
        for _ in range(time_steps):
            output, state = self.module(x) if state is None else self.module(x, state)
            total = total + output
        return total.flatten(1) / time_steps  # type: ignore[no-any-return]


def load_nir(path: str | Path) -> NIRNetwork:
    """Read a file of `export_nir` with the reader that it was written for.

    The reader's own function builds the modules; then the start potentials are set, and what the reader does in
    another way than the SNN (see `Profile.differences`).

    Args:
        path: The file.

    Raises:
        MissingExtraError: ``nir`` or the reader is not installed.
        OptionError: The file was not written by `export_nir`.
    """
    try:
        import nir
    except ImportError as error:
        raise missing_extra("nir", "nir", "reading NIR graphs") from error
    graph = nir.read(str(path))
    reader = record_of(graph)["target"]
    try:
        return NIRNetwork(graph, reader)
    except ImportError as error:
        package, version = PROFILES[reader].package, PROFILES[reader].version
        raise MissingExtraError(f"{reader} is needed to run files that were written for it", got=str(error), expected=f"{package}, as of {version}",
                                remedy=f"pip install {reader}") from error  # fmt: skip


def _in_order(executor: Any) -> list[Any]:
    """Return the nodes of a nirtorch executor so that each comes after all that it reads."""
    waiting = list(executor.execution_order)
    known = set(waiting)
    ordered: list[Any] = []
    while waiting:
        ready = [
            node for node in waiting if not (set(executor.graph.find_source_nodes_of(node)) & known) - set(ordered)
        ]
        ordered += ready
        waiting = [node for node in waiting if node not in ready]
    return ordered


def _sinabs(graph: Any) -> nn.Module:
    from sinabs.activation import SingleSpike
    from sinabs.nir import from_nir

    network: nn.Module = from_nir(graph, batch_size=1)
    layers: Any = network.modules()
    for layer in layers:
        if hasattr(layer, "spike_fn"):
            layer.spike_fn, layer.min_v_mem = SingleSpike, None
    return network


def _snntorch(graph: Any) -> nn.Module:
    import contextlib
    import io

    import snntorch
    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()):
        network: nn.Module = import_from_nir(graph)
    for layer in network.modules():
        if isinstance(layer, snntorch.Leaky):
            layer.init_hidden, layer.beta, layer.mem_reset = True, torch.ones_like(layer.beta), torch.zeros_like
    return network


def _norse(graph: Any) -> nn.Module:
    from norse.torch.functional.reset import reset_subtract
    from norse.torch.utils.import_nir import from_nir

    return from_nir(graph, ignore_warnings=True, reset_method=reset_subtract, dt=1.0)  # type: ignore[no-any-return]


def _spikingjelly(graph: Any) -> nn.Module:
    from spikingjelly.activation_based.neuron import IFNode
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    network: nn.Module = import_from_nir(graph, dt=1.0)
    for layer in network.modules():
        if isinstance(layer, IFNode):
            layer.v_reset = None
    return network


def _begin_sinabs(network: NIRNetwork, samples: int) -> None:
    for name, start in network.starts.items():
        layer: Any = network.module.get_submodule(name)
        layer.batch_size, layer.v_mem = samples, start.expand(samples, *start.shape).clone()


def _begin_snntorch(network: NIRNetwork, samples: int) -> None:
    for name, start in network.starts.items():
        layer: Any = network.module.get_submodule(name)
        layer.mem = start.expand(samples, *start.shape).clone()


def _begin_norse(network: NIRNetwork, samples: int) -> Any:
    from nirtorch.graph_executor import GraphExecutorState
    from norse.torch.functional.lif_box import LIFBoxFeedForwardState

    starts = {name: start.expand(samples, *start.shape).clone() for name, start in network.starts.items()}
    return GraphExecutorState(
        state={name: ((None, LIFBoxFeedForwardState(v=start)),) for name, start in starts.items()}
    )


def _begin_spikingjelly(network: NIRNetwork, samples: int) -> None:
    for name, start in network.starts.items():
        layer: Any = network.module.get_submodule(name)
        layer.module.v = start.expand(samples, *start.shape).clone()


_IMPORTS = {"sinabs": _sinabs, "snntorch": _snntorch, "norse": _norse, "spikingjelly": _spikingjelly}
_BEGINS: dict[str, Any] = {
    "sinabs": _begin_sinabs,
    "snntorch": _begin_snntorch,
    "norse": _begin_norse,
    "spikingjelly": _begin_spikingjelly,
}
