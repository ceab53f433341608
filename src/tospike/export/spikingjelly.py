"""An SNN as SpikingJelly modules: its own neurons in PyTorch layers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from tospike.errors import missing_extra, require_type
from tospike.export.folded import fold
from tospike.export.limits import neuron_problems, one_input, operation_problems, refuse
from tospike.graph.walk import module_of, site_nodes
from tospike.neurons.modules import Neuron
from tospike.run.network import SNN


def export_spikingjelly(snn: SNN) -> fx.GraphModule:
    """Return the SNN as a module whose neurons are SpikingJelly's, with the same spikes at the same steps.

    One call is one time step: call it T times with the same input and average what it returns. Every neuron layer is an
    `IFNode` with ``v_threshold=1.0``, ``v_reset=None`` (reset by subtraction) and the start potential as its reset value, so
    that ``functional.reset_net`` starts the next batch; the weights are those of `fold`. Monitors and counters of SpikingJelly work on it.

    Args:
        snn: A converted network; it is not changed.

    Raises:
        MissingExtraError: SpikingJelly is not installed.
        ExportError: What an `IFNode` cannot do, all of it listed.

    Source: Fang et al., "SpikingJelly", Science Advances 2023. Differs from its own `ann2snn` in: no scaling modules around neurons.
    """
    require_type("snn", snn, SNN, "a converted network", "Pass what ts.convert returned.")
    try:
        from spikingjelly.activation_based.neuron import IFNode
    except ImportError as error:
        raise missing_extra("spikingjelly", "spikingjelly", "neurons of SpikingJelly") from error
    folded = fold(snn).snn
    problems = [
        *neuron_problems(folded, "SpikingJelly"),
        *operation_problems(folded, "SpikingJelly"),
        *one_input(folded, "SpikingJelly"),
    ]
    refuse("The SNN cannot be written as SpikingJelly modules", problems)
    graph = copy.deepcopy(folded.graph)
    for node in site_nodes(graph):
        neuron = module_of(graph, node)
        assert isinstance(neuron, Neuron)
        graph.set_submodule(str(node.target), _node(IFNode, neuron))
    graph.recompile()
    return graph


def _node(kind: Any, neuron: Neuron) -> nn.Module:
    layer = kind(v_threshold=1.0, v_reset=None)
    # A number becomes a tensor of the right shape by itself; one per channel has to be spread by hand.
    start = float(neuron.start) if neuron.start.numel() == 1 else neuron.start
    layer.set_reset_value("v", start)
    layer.v = start
    if isinstance(start, Tensor):
        layer.register_forward_pre_hook(_spread)
    return layer  # type: ignore[no-any-return]


def _spread(layer: Any, args: tuple[Tensor, ...]) -> None:
    if layer.v.shape != args[0].shape:
        layer.v = torch.broadcast_to(layer.v, args[0].shape).to(args[0]).clone()
