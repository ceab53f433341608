"""One time step of an SNN as a function without memory: inputs and state in, output and state out."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from tospike.errors import Problem
from tospike.graph.rewrite import Rectifier
from tospike.graph.walk import module_of
from tospike.neurons.functional import emit, if_step
from tospike.neurons.modules import Neuron
from tospike.run.network import SNN
from tospike.run.nodes import Values, call, is_signal

STEPS, COUNTED = "steps", "counted"
SCALARS = (STEPS, COUNTED)


@dataclass(frozen=True)
class Signature:
    """What one time step takes and returns, in its order; tensors have a batch axis in front, but for two numbers.

    Attributes:
        inputs: Shape of one sample of each input of the network, by name; the same at every step.
        state: Shape of one sample of each state by name, all zero before the first step. ``steps`` and ``counted`` count all
            steps and those of the read-out; they have no batch axis. Setting ``counted`` and every ``sum_…`` to zero begins the read-out anew.
        outputs: Names of the outputs, read out over all steps so far; behind them come the new states, as ``<name>_next``.
        dtype: Of the states.

    Example:
        >>> signature = Signature({"x": (4,)}, {"steps": (), "v_0": (8,)}, ("output",), "float32")
        >>> [tuple(state.shape) for state in signature.zeros(3)]
        [(), (3, 8)]
    """

    inputs: dict[str, tuple[int, ...]]
    state: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    dtype: str

    def zeros(self, samples: int) -> list[Tensor]:
        """Return the state before the first step of a batch."""
        dtype = getattr(torch, self.dtype)
        return [
            torch.zeros(shape if name in SCALARS else (samples, *shape), dtype=dtype)
            for name, shape in self.state.items()
        ]

    def to_json(self) -> str:
        """Return it as text, which the written file carries."""
        return json.dumps(asdict(self))


class Step(nn.Module):
    """One time step of an SNN.

    ``y_t, S_t = step(x, S_{t−1})`` with ``S_0 = 0`` and y_t the output of the network, read out over steps 1 to t: what `simulate` yields at t.
    State: steps done, and steps read out; potentials, which a first step replaces by v(0); sums of emissions of signed neurons; sums of what the
    tail reads; and sums of inputs and outputs of incremental operators.

    Args:
        snn: A causal network without pre-run.
    """

    def __init__(self, snn: SNN) -> None:
        super().__init__()
        copied = copy.deepcopy(snn).cpu()  # files are read on machines of every kind
        self.network = copied.graph  # not `graph`: a program has an attribute of that name
        self.plan = copied.plan
        shapes = {name: tuple(shape) for name, shape in snn.conversion.inputs.items()}
        dtype = next(iter(snn.conversion.thresholds.values())).dtype
        state = dict([*((name, ()) for name in SCALARS), *self._states()])
        self.signature = Signature(shapes, state, ("output",), str(dtype).removeprefix("torch."))

    def _states(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for node in self.plan.body:
            shape = tuple(node.meta["operation"].shape[1:]) if "operation" in node.meta else ()
            if "site" in node.meta:
                yield f"v_{node.name}", shape
                if self._neuron(node).model.signed:
                    yield f"sent_{node.name}", shape
            elif node.meta.get("incremental"):
                for number, source in enumerate(_signals(node)):
                    yield f"in_{node.name}_{number}", tuple(source.meta["operation"].shape[1:])
                yield f"total_{node.name}", shape
        for node in self.plan.carried:
            yield f"sum_{node.name}", tuple(node.meta["operation"].shape[1:])

    def _neuron(self, node: fx.Node) -> Neuron:
        neuron = module_of(self.network, node)
        assert isinstance(neuron, Neuron)
        return neuron

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        """Run one step; arguments and results are in the order of the signature."""
        count = len(self.signature.inputs)
        state = dict(zip(self.signature.state, args[count:], strict=True))
        after = {name: state[name] + 1 for name in SCALARS}
        values: Values = self.plan.prepare(dict(zip(self.plan.inputs, args[:count], strict=True)))
        static = dict(values)
        for node in self.plan.body:
            if "site" in node.meta:
                values[node] = self._fire(node, values[node.all_input_nodes[0]], state, after)
            elif node.meta.get("incremental"):
                values[node] = self._increment(node, values, state, after)
            else:
                values[node] = call(self.network, node, values)
        for node in self.plan.carried:
            after[f"sum_{node.name}"] = state[f"sum_{node.name}"] + values[node]
        means = {node: after[f"sum_{node.name}"] / after[COUNTED] for node in self.plan.carried}
        outputs = pytree.tree_leaves(self.plan.finish(static, means))
        return (*outputs, *(after[name] for name in self.signature.state))

    def _fire(self, node: fx.Node, x: Tensor, state: dict[str, Tensor], after: dict[str, Tensor]) -> Tensor:
        neuron, done, key = self._neuron(node), state[STEPS], f"v_{node.name}"
        theta = neuron.threshold.to(x.dtype)
        if neuron.bias is not None:
            number = done.clamp(max=len(neuron.bias) - 1).to(torch.int64).reshape(1)
            x = x + neuron.bias.index_select(0, number)[0].to(x.dtype)
        if neuron.model.signed:
            emission = self._track(node, state[key] + x, theta, state, after)
        else:
            start = (neuron.start * neuron.threshold).to(x.dtype).expand_as(x)
            v = torch.where(done == 0, start, state[key])
            if neuron.model.capacity == 1:
                emission, after[key] = if_step(v, x, theta)
            else:
                emission = emit(v + x, theta, neuron.model)
                after[key] = v + x - emission
        return emission if neuron.gain is None else emission * neuron.gain.to(x.dtype)

    def _track(
        self, node: fx.Node, charge: Tensor, theta: Tensor, state: dict[str, Tensor], after: dict[str, Tensor]
    ) -> Tensor:
        """Do what `track_step` does, with the number of steps in a tensor."""
        neuron, t, sent = self._neuron(node), after[STEPS], state[f"sent_{node.name}"]
        if isinstance(neuron.function, Rectifier):
            wanted = charge.clamp_min(0.0).minimum(t * neuron.function.cap)
        else:
            wanted = neuron.function(charge) if neuron.homogeneous else t * neuron.function(charge / t)
        if neuron.model.total is not None:
            wanted = wanted.minimum(neuron.model.total * theta)
        rest = neuron.model.rest * theta
        held = torch.zeros_like(t)
        if neuron.model.holds:
            held = torch.where(t > 1, 1.0 / (t - 1).clamp_min(1.0), held)
            rest = torch.where(t > 1, 0.0, rest)
            theta = theta * (1.0 if neuron.model.code == "differential" else t * neuron.model.ratio ** (t - 1))
        u = wanted - (1.0 + held) * sent + neuron.start.to(charge.dtype) * theta - rest
        emission = emit(u, theta, neuron.model) + held * sent + rest
        after[f"v_{node.name}"], after[f"sent_{node.name}"] = charge, sent + emission
        return emission

    def _increment(self, node: fx.Node, values: Values, state: dict[str, Tensor], after: dict[str, Tensor]) -> Tensor:
        """Do what an incremental operator does in one step."""
        t, means = after[STEPS], dict(values)
        for number, source in enumerate(_signals(node)):
            key = f"in_{node.name}_{number}"
            after[key] = state[key] + values[source]
            means[source] = after[key] / t
        key = f"total_{node.name}"
        after[key] = call(self.network, node, means) * t
        return after[key] - state[key]


def _signals(node: fx.Node) -> list[fx.Node]:
    return [source for source in node.all_input_nodes if is_signal(source)]


def step_problems(snn: SNN) -> list[Problem]:
    """List what keeps a network from being run by a loop over one step."""
    problems = []
    for site, model in snn.conversion.neurons.items():
        if model.synchronous:
            problems.append(Problem("The layer waits for all steps of the one before", where=f"Site {site}", got="a synchronous neuron",
                                    expected="a causal neuron", remedy="Convert by a causal method, e.g. ts.LTB()."))  # fmt: skip
        if model.pre is not None:
            problems.append(Problem("The neuron starts anew after its pre-run", where=f"Site {site}", got=f"{model.pre_steps} steps",
                                    expected="no pre-run", remedy="Convert by a method without one, e.g. ts.LTB()."))  # fmt: skip
    for node in snn.plan.body:
        if node.meta.get("incremental") and not node.meta["operation"].shape:
            problems.append(Problem("An incremental operator returns several tensors", where=node.meta["operation"].where,
                                    got=node.meta["operation"].verdict.name, expected="one tensor", remedy="Take its parts before the neurons."))  # fmt: skip
    return problems


def example_of_step(step: Step, example: Any, samples: int = 2) -> tuple[Tensor, ...]:
    """Return arguments of one step for a batch of zeros, or of an example's first samples."""
    dtype = getattr(torch, step.signature.dtype)
    given = (
        [example] if isinstance(example, Tensor) else list(example.values()) if isinstance(example, dict) else example
    )
    if given is None:
        given = [torch.zeros(samples, *shape, dtype=dtype) for shape in step.signature.inputs.values()]
    repeated = [value[:1].expand(samples, *value.shape[1:]).contiguous() for value in given]
    return (*repeated, *step.signature.zeros(samples))
