"""Where a conversion loses and why: every Site beside the ANN, and the score at each stage between ANN and SNN."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torchmetrics import MetricCollection

from tospike.check import counterpart
from tospike.diagnosis import STAGES, Diagnosis, SiteDiagnosis, Stage
from tospike.error_terms import Flow, SiteErrors, clip, dissect, follow, neuron_of, portions, root_means, wanted
from tospike.errors import DataError, OptionError, require_type
from tospike.graph.batches import Inputs, move, split_batch, tensors_in
from tospike.graph.trace import run_network
from tospike.graph.walk import site_nodes
from tospike.neurons.modules import Neuron
from tospike.progress import track
from tospike.run.counts import Counts
from tospike.run.network import SNN
from tospike.run.nodes import call
from tospike.run.schedule import Delay, check_run
from tospike.run.simulate import checked_inputs
from tospike.tasks import Classification, Task

_CLASSIFICATION = Classification()


@torch.no_grad()
def diagnose(
    snn: SNN,
    ann: nn.Module,
    loader: Iterable[Any],
    *,
    time_steps: int,
    delay: Delay = 0,
    task: Task = _CLASSIFICATION,
    progress: bool = True,
) -> Diagnosis:
    """Compare an SNN with its ANN at every Site and at every stage of the conversion, and say what to try.

    What a Site sends differs from the ANN's activation a by ``(ē − f(z̄)) + (f(z̄) − a)``: what is made here, which `error_terms` splits
    into clipping, quantisation and timing error, and what was inherited from the layers in front.

    Args:
        snn: A converted network.
        ann: The network that it was converted from, or prepared from.
        loader: Batches of inputs, with targets or without; a few hundred samples are enough.
        time_steps: T.
        delay: First counted step; see `tospike.simulate`.
        task: How outputs are scored, where there are targets.
        progress: Show a progress bar.

    Raises:
        OptionError: T or the delay is out of range, or ANN and SNN are not the same network.
        DataError: There are no batches, or a target does not fit the task.
        SimulationError: A batch does not fit the network.

    Source: the identity is own construction, after Bu et al., QCFS, ICLR 2022.

    Example:
        >>> import tospike as ts
        >>> ann = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> x = torch.randn(64, 2)
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[x])
        >>> [stage.name for stage in ts.diagnose(snn, ann, [x], time_steps=4, progress=False).stages]
        ['ANN', 'rebuilt', 'clipped', 'quantised', 'SNN']
    """
    require_type("snn", snn, SNN, "an SNN", "Pass what ts.convert returned.")
    require_type("ann", ann, nn.Module, "an nn.Module", "Pass the network that was converted.")
    require_type("loader", loader, Iterable, "an iterable of batches", "Pass a DataLoader or a list of batches.")
    first = check_run(snn.conversion, (time_steps,), time_steps, delay, None, "auto")[time_steps]
    patient = _Patient(snn, ann, time_steps, first, task)
    for batch in track(loader, "diagnose", shown=progress):
        patient.see(batch)
    return patient.diagnosis()


class _Patient:
    """Sums over the samples seen so far."""

    def __init__(self, snn: SNN, ann: nn.Module, time_steps: int, first: int, task: Task) -> None:
        self.snn, self.steps, self.first, self.task = snn, time_steps, first, task
        self.device = next(snn.buffers()).device
        self.ann = copy.deepcopy(ann).to(self.device).eval()
        self.rebuilt: fx.GraphModule | None = None
        self.sites = site_nodes(snn.graph)
        self.counts = Counts()
        self.samples, self.sums = 0, dict[fx.Node, Tensor]()
        self.fired, self.active, self.always = (dict[fx.Node, Tensor]() for _ in range(3))
        self.metrics: dict[str, MetricCollection] = {}
        self.distances = dict.fromkeys(STAGES, 0.0)
        self.size = 0.0

    def see(self, batch: Any) -> None:
        """Add one batch."""
        fed, context = self.task.feed(batch)
        given, target = split_batch(move(fed, self.device), self.snn.plan.inputs)
        inputs = checked_inputs(self.snn, given)
        if self.rebuilt is None:
            self.rebuilt = counterpart(self.ann, inputs, self.snn.conversion.sites)
        outputs: dict[str, list[Any]] = {name: [] for name in STAGES}
        for portion in portions(self.snn, inputs):
            for name, output in self._stages(portion).items():
                outputs[name].append(output)
        self.samples += next(iter(inputs.values())).shape[0]
        for name, parts in outputs.items():
            self._compare(name, parts, outputs["ANN"])
            if target is not None:
                self._score(name, parts, target, context)

    def _stages(self, inputs: Inputs) -> dict[str, Any]:
        names, activations = self.snn.plan.inputs, dict[int, Tensor]()
        assert self.rebuilt is not None

        def keep(number: int) -> Callable[..., None]:
            return lambda module, args, output: activations.update({number: output})

        hooks = [
            self.rebuilt.get_submodule(str(node.target)).register_forward_hook(keep(number))
            for number, node in enumerate(site_nodes(self.rebuilt))
        ]
        try:
            rebuilt = self.rebuilt(*(inputs[name] for name in names))
        finally:
            for hook in hooks:
                hook.remove()
        output, flows = follow(self.snn, inputs, self.steps, self.first, self.counts)
        for number, node in enumerate(self.sites):
            self._site(node, flows[node], activations.pop(number))
        return {
            "ANN": run_network(self.ann, names, inputs),
            "rebuilt": rebuilt,
            "clipped": self._through(inputs, lambda node, neuron, z: clip(neuron, wanted(node, neuron, z), self.steps)),
            "quantised": self._through(inputs, lambda node, neuron, z: neuron.for_constant(z, self.steps, self.first)),
            "SNN": output,
        }

    def _through(self, inputs: Inputs, response: Callable[[fx.Node, Neuron, Tensor], Tensor]) -> Any:
        """Return the output of the SNN's layers with a function of the mean current in place of every neuron."""
        plan = self.snn.plan
        values = plan.prepare(inputs)
        for node in plan.body:
            if "site" in node.meta:
                neuron = neuron_of(self.snn, node)
                values[node] = response(
                    node, neuron, neuron.biased_mean(values[node.all_input_nodes[0]], self.steps, self.first)
                )
            else:
                values[node] = call(self.snn.graph, node, values)
        return plan.finish({node: values[node] for node in plan.static}, {node: values[node] for node in plan.carried})

    def _site(self, node: fx.Node, flow: Flow, a: Tensor) -> None:
        neuron = neuron_of(self.snn, node)
        found = dissect(node, neuron, flow, self.steps, self.first)
        f, sent = found.activation, flow.emitted
        beyond = (f - found.clipped).abs() > 1e-6 * neuron.threshold
        squares = ((a.double() * a).sum(), (f - a).double().square().sum(), (sent - a).double().square().sum())
        moments = (a.double().sum(), sent.double().sum(), (a.double() * sent).sum(), sent.double().square().sum())
        sums = torch.cat([found.sums(), torch.stack([*squares, *moments, beyond.double().sum()])])
        self.sums[node] = self.sums.get(node, 0.0) + sums
        for table, value, join in (
            (self.fired, flow.fired.any(0), torch.logical_or), (self.active, (a != 0).any(0), torch.logical_or),
            (self.always, flow.always.all(0), torch.logical_and),
        ):  # fmt: skip
            table[node] = join(table[node], value) if node in table else value

    def _compare(self, name: str, parts: list[Any], ann: list[Any]) -> None:
        for mine, theirs in zip(parts, ann, strict=True):
            pairs = list(zip(tensors_in(mine), tensors_in(theirs), strict=False))
            wrong = next(((y.shape, x.shape) for y, x in pairs if y.shape != x.shape), None)
            if wrong is not None:
                raise OptionError("The outputs of ANN and SNN differ in shape", got=str(tuple(wrong[1])), expected=str(tuple(wrong[0])),
                                  remedy="Pass the network that the SNN was converted from.")  # fmt: skip
            for y, x in pairs:
                self.distances[name] += float((y - x).double().square().sum())
                self.size += float(x.double().square().sum()) if name == "ANN" else 0.0

    def _score(self, name: str, parts: list[Any], target: Any, context: Any) -> None:
        whole = self.task.prediction(_joined(parts), context)
        self.task.check_target(whole, target)
        if name not in self.metrics:
            self.metrics[name] = self.task.metrics(whole)
        self.metrics[name].update(whole, target)

    def diagnosis(self) -> Diagnosis:
        """Return what was found."""
        if not self.samples:
            raise DataError(
                "There are no data to diagnose on",
                got="0 batches",
                expected="at least one",
                remedy="Pass a loader with data.",
            )
        scores = {name: self.task.scores(metrics)[self.task.headline] for name, metrics in self.metrics.items()}
        distance = {name: (total / max(self.size, 1e-300)) ** 0.5 for name, total in self.distances.items()}
        rates = self.counts.rates()
        return Diagnosis(
            self.steps, self.first, self.samples, self.task.headline, self.task.unit, self.task.higher_is_better,
            self.snn.conversion.neuron.spikes, tuple(Stage(name, scores.get(name), distance[name]) for name in STAGES),
            tuple(self._diagnosed(node, rates[node.meta["site"].name]) for node in self.sites),
        )  # fmt: skip

    def _diagnosed(self, node: fx.Node, rate: float) -> SiteDiagnosis:
        site = node.meta["site"]
        means = self.sums[node] / (self.samples * site.neurons)
        a2, inherited, difference, a, sent, product, sent2, beyond = means[6:].tolist()
        spread = (a2 - a * a) * (sent2 - sent * sent)
        dead = (self.active[node] & ~self.fired[node]).double().mean()
        return SiteDiagnosis(
            SiteErrors(site.name, *root_means(means[:6])), a2**0.5, inherited**0.5, difference**0.5,
            (product - a * sent) / spread**0.5 if spread > 1e-24 else None, rate, beyond, float(dead), float(self.always[node].double().mean()),
        )  # fmt: skip


def _joined(parts: list[Any]) -> Any:
    """Put the outputs for portions of a batch together along the batch axis, tensor by tensor."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, dict):
        return {key: _joined([part[key] for part in parts]) for key in first}
    if isinstance(first, (tuple, list)):
        return [_joined(list(same)) for same in zip(*parts, strict=True)]
    return torch.cat(parts)
