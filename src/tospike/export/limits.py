"""What a target cannot say: every obstacle of a network, found before anything is written."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import fx

from tospike.errors import ExportError, Problem, require_type
from tospike.files import refuse_existing
from tospike.graph.capture import Operation
from tospike.graph.kinds import Kind
from tospike.graph.walk import hooked, module_of, site_nodes
from tospike.neurons.modules import Neuron
from tospike.run.network import SNN
from tospike.run.nodes import is_size


def neuron_problems(snn: SNN, target: str, *, steps: bool = False) -> list[Problem]:
    """List the neurons that are not integrate-and-fire with one spike of one size per step.

    Args:
        snn: A network in the folded form.
        target: Who reads it, for the messages.
        steps: Whether biases may differ from step to step.
    """
    problems = []
    for node in site_nodes(snn.graph):
        neuron = module_of(snn.graph, node)
        assert isinstance(neuron, Neuron)
        model, where = neuron.model, f"Site {node.meta['site'].name} ({node.meta['site'].operation.where})"
        if model.synchronous:
            problems.append(Problem("The layer waits for all steps of the one before", where=where, got="a synchronous neuron",
                                    expected=f"a causal neuron, which {target} has", remedy="Convert by a causal method, e.g. ts.LTB()."))  # fmt: skip
        elif model.spikes != "binary":
            problems.append(Problem(f"{target} has no neuron that sends these spikes", where=where, got=f"{model.spikes} spikes",
                                    expected="binary spikes", remedy="Convert by a method with binary spikes, e.g. ts.LTB()."))  # fmt: skip
        if model.pre is not None:
            problems.append(Problem("The neuron starts anew after its pre-run", where=where, got=f"{model.pre_steps} steps",
                                    expected="no pre-run", remedy="Convert by a method without one, e.g. ts.LTB()."))  # fmt: skip
        if neuron.bias is not None and len(neuron.bias) > 1 and not steps:
            problems.append(Problem(f"{target} knows no currents that differ from step to step", where=where, got=f"{len(neuron.bias)} biases",
                                    expected="one bias", remedy="Convert without them: step_biases=False of ts.Auto, or ts.LightCalibration."))  # fmt: skip
    return problems


def operation_problems(snn: SNN, target: str) -> list[Problem]:
    """List the operations that a target cannot compute step by step: their mean is not what they make of the mean."""
    problems = []
    for nodes, place in ((snn.plan.body, "between neurons"), (snn.plan.tail, "behind the last neuron")):
        for node in nodes:
            if "operation" not in node.meta or is_size(node) or node.op == "output" or "site" in node.meta:
                continue
            operation: Operation = node.meta["operation"]
            if node.meta.get("incremental"):
                problems.append(Problem(f"{operation.verdict.name} is computed on sums over all steps so far", where=operation.where,
                                        got="an incremental operator", expected=f"an operation of one step, which {target} has",
                                        remedy='Pool averages, or convert with pool="step" or without analog=.'))  # fmt: skip
            elif operation.verdict.kind is not Kind.LINEAR and not _before_neuron(node):
                problems.append(Problem(f"{operation.verdict.name} {place} is not linear, so steps cannot be averaged",
                                        where=operation.where, got=operation.verdict.kind.value, expected="a linear operation",
                                        remedy="Leave it to the reader of the mean output, or replace it."))  # fmt: skip
    return problems


def _before_neuron(node: fx.Node) -> bool:
    """A max-pool of one step's currents, as the method asked for."""
    return bool(node.meta.get("before_neuron"))


def one_input(snn: SNN, target: str) -> list[Problem]:
    """List more than one input or output."""
    problems = []
    if len(snn.plan.inputs) != 1:
        problems.append(Problem(f"{target} takes one input", got=", ".join(snn.plan.inputs), expected="one input", remedy="Wrap the network."))  # fmt: skip
    (returned,) = snn.plan.tail[-1].args
    if not isinstance(returned, fx.Node):
        problems.append(Problem(f"{target} gives one output", got=type(returned).__name__, expected="one tensor", remedy="Return one tensor."))  # fmt: skip
    return problems


def refuse(what: str, problems: Collection[Problem]) -> None:
    """Raise if there is any problem.

    Raises:
        ExportError: There is; all of them are listed.
    """
    if problems:
        raise ExportError(what, problems=list(problems))


def refuse_hooks(snn: SNN) -> None:
    """Raise if modules have hooks.

    Raises:
        ExportError: Some have; all of them are listed.
    """
    refuse("The SNN cannot be exported", [
        Problem("A module has hooks, which may change what it computes", where=path, got="forward hooks", expected="none",
                remedy="Remove them before ts.convert, or write what they do in `forward`.")
        for path in hooked(snn.graph)
    ])  # fmt: skip


def checked(snn: SNN, path: str | Path, *, force: bool) -> Path:
    """Check what every export is given.

    Raises:
        OptionError: It is no SNN, or the file exists already.
    """
    require_type("snn", snn, SNN, "a converted network", "Pass what ts.convert returned.")
    require_type("path", path, (str, Path), "a file name", 'Pass e.g. "net.nir".')
    refuse_existing(path, force)
    refuse_hooks(snn)
    return Path(path)
