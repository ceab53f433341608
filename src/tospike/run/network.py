"""The SNN: a network with neurons at its Sites, and the record of how it came to be."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from tospike.graph.capture import Site
from tospike.graph.walk import site_nodes
from tospike.history import History
from tospike.neurons.model import NeuronModel
from tospike.run.plan import Plan, channels_last
from tospike.run.schedule import Delay, Engine
from tospike.run.simulate import last, simulate


@dataclass(frozen=True)
class Tuned:
    """How an SNN was tuned.

    Attributes:
        settings: Those of the tuning, its name among them.
        history: The epochs.
    """

    settings: dict[str, Any]
    history: History


@dataclass(frozen=True)
class Descended:
    """How an SNN descended towards its ANN.

    Attributes:
        samples: Samples that were passed, each as often as it was seen.
        losses: Loss of each iteration.
        before: Mean loss of the SNN that it started from, on the batches of the last iterations.
        after: Mean of the losses of these iterations. Where it is no less than before, the SNN stayed as it was.
    """

    samples: int
    losses: tuple[float, ...]
    before: float
    after: float

    def __str__(self) -> str:
        """Show where it began and ended."""
        kept = "" if self.after < self.before else ", which was undone: lower lr, or more iterations"
        return f"loss {self.before:.3g} to {self.after:.3g} in {len(self.losses):,} iterations, {self.samples:,} samples{kept}"


@dataclass(frozen=True)
class Conversion:
    """How an SNN came to be.

    Attributes:
        method: Name of the method.
        settings: Its settings.
        sites: The Sites, in the order of execution.
        thresholds: θ of each Site by name, broadcastable to one sample, in units of the ANN's activation.
        start: Initial potential as a share of θ, before refinement.
        neuron: Which neuron the method places at every Site.
        neurons: Which one stands at each Site by name; refiners may have changed its code.
        reference: What the SNN approaches as T grows: ``"ANN clipped at its thresholds"``, or ``"trained ANN with clips in place of its
            quantisers"``, which at T = L levels is near the quantised network.
        rebuilt_difference: Largest difference between the rebuilt graph before spiking and the ANN, relative to the
            ANN's largest output.
        delay: Estimate of the first step worth reading out; None without calibration data.
        log: Relative change of each Site's mean threshold, one number per calibration batch.
        dead: Number of channels per Site that no calibration sample activated; they took the layer's median threshold.
        neurons_added: Neurons of pooled copies and groups, for one sample.
        calibration_batches, calibration_samples: What the thresholds were measured on; a short loader is passed over several times,
            and counted so.
        seed: Seed of the calibration.
        inputs: Shape of one sample of each input.
        analog: Operations that run in analog, with their places.
        carry: Share of what is left over that `Controller` carries from one input to the next.
        members: Neurons that stand for one activation, computed as one.
        depth: Number of Sites on the longest way through the network.
        descended: How it descended towards the ANN on calibration data; None if it did not.
        tuned: How the SNN was tuned after conversion; None if it was not.
    """

    method: str
    settings: dict[str, Any]
    sites: tuple[Site, ...]
    thresholds: dict[str, Tensor]
    neurons: dict[str, NeuronModel]
    start: float
    neuron: NeuronModel
    reference: str
    rebuilt_difference: float
    inputs: dict[str, tuple[int, ...]]
    delay: int | None = None
    log: dict[str, list[float]] = field(default_factory=dict)
    dead: dict[str, int] = field(default_factory=dict)
    calibration_batches: int = 0
    calibration_samples: int = 0
    seed: int = 0
    analog: tuple[str, ...] = ()
    carry: float = 0.0
    members: int = 1
    depth: int = 0
    descended: Descended | None = None
    tuned: Tuned | None = None

    def __repr__(self) -> str:
        """Show how it was made; what there is of every Site only by number."""
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        more = "".join(
            f", {name}" for name, record in (("descended", self.descended), ("tuned", self.tuned)) if record is not None
        )
        return (
            f"Conversion({self.method}: {settings}; {self.neuron!r} at {len(self.sites)} Site(s); "
            f"{self.calibration_samples:,} calibration samples{more})"
        )

    @property
    def neurons_added(self) -> int:
        """Neurons of pooled copies and of groups beyond one for each activation, for one sample."""
        copies = sum(site.neurons for site in self.sites if site.copy_of)
        return copies + (self.members - 1) * sum(site.neurons for site in self.sites)


def lay_out(graph: nn.Module) -> None:
    """Bring weights into the order in memory that they are computed in, so that it is not made at every call."""
    for module in graph.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = channels_last(module.weight.data)


class SNN(nn.Module):
    """A spiking network. It keeps no state: every call is a run of its own.

    Args:
        graph: The network with neurons at its Sites.
        inputs: Names of the inputs.
        conversion: Record of the conversion.
    """

    def __init__(self, graph: fx.GraphModule, inputs: tuple[str, ...], conversion: Conversion) -> None:
        super().__init__()
        lay_out(graph)
        self.graph = graph
        self.conversion = conversion
        self.plan = Plan.of(graph, inputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> SNN:
        """Copy the network; the plan is made anew, since it names nodes of the graph."""
        copied = SNN(copy.deepcopy(self.graph, memo), self.plan.inputs, copy.deepcopy(self.conversion, memo))
        return copied.train(self.training)

    def forward(
        self,
        *x: Any,
        time_steps: int,
        delay: Delay = 0,
        steps_per_call: int | None = None,
        engine: Engine = "auto",
    ) -> Any:
        """Return the output averaged over the read-out window; see `tospike.simulate`."""
        batch = x[0] if len(x) == 1 else x
        return last(
            simulate(self, batch, time_steps=time_steps, delay=delay, steps_per_call=steps_per_call, engine=engine)
        )

    @property
    def site_names(self) -> list[str]:
        """Names of the Sites in the order of execution."""
        return [node.meta["site"].name for node in site_nodes(self.graph)]
