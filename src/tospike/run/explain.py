"""What an engine does with each layer, and why."""

from __future__ import annotations

from typing import Any

import torch

from tospike.errors import require_type
from tospike.graph.layers import is_weighted
from tospike.run.arithmetic import SPIKING, Choice
from tospike.run.network import SNN
from tospike.run.schedule import Engine, check_run
from tospike.run.simulate import Run, checked_inputs, last


@torch.no_grad()
def explain(snn: SNN, x: Any = None, *, engine: Engine = "int8") -> list[Choice]:
    """Say how an engine computes each layer of an SNN, and why not in integers or half precision, in the order of execution.

    Args:
        snn: A converted network.
        x: A batch of inputs; one sample of zeros, shaped like the example of the conversion, when None.
        engine: See `tospike.simulate`.

    Raises:
        OptionError: This is no SNN, or the engine does not run it.
        SimulationError: The batch cannot be fed to the network.

    Example:
        >>> import tospike as ts
        >>> linear, relu = torch.nn.Linear, torch.nn.ReLU
        >>> ann = torch.nn.Sequential(linear(2, 4), relu(), linear(4, 4), relu(), linear(4, 2))
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[torch.randn(64, 2)], progress=False)
        >>> [choice.reason for choice in ts.explain(snn, engine="int16")]
        ['once per input: constant in time', '', 'once per read-out: behind the last neuron']
    """
    require_type("snn", snn, SNN, "an SNN", "Pass what ts.convert returned.")
    neuron, plan = snn.conversion.neuron, snn.plan
    steps = neuron.pre_steps + 1
    check_run(snn.conversion, [steps], steps, 0, None, engine)
    if x is None:
        threshold = next(iter(snn.conversion.thresholds.values()))
        like = next(iter(snn.state_dict().values()))
        x = tuple(
            torch.zeros(1, *shape, dtype=threshold.dtype, device=like.device)
            for shape in snn.conversion.inputs.values()
        )
    stepped = {}
    if engine in SPIKING:
        arithmetic = SPIKING[engine]()
        last(Run(snn, checked_inputs(snn, x), arithmetic=arithmetic).read_outs([steps], {steps: steps - 1}, steps))
        stepped = arithmetic.choices
    kernel = "counts of all steps" if neuron.synchronous and engine != "float" else "float"
    phases = (
        (plan.static, "float", "once per input: constant in time"), (plan.body, kernel, ""),
        (plan.tail, "float", "once per read-out: behind the last neuron"),
    )  # fmt: skip
    layers = [
        Choice(node.meta["operation"].path, kernel, reason)
        for nodes, kernel, reason in phases for node in nodes if "operation" in node.meta and is_weighted(snn.graph, node)
    ]  # fmt: skip
    return [stepped.get(choice.layer, choice) for choice in layers]
