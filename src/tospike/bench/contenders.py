"""What is timed: the ANN, the engines, and SpikingJelly, each in the layout in which it is fastest."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import tospike as ts
from tospike.bench.timing import best
from tospike.graph.capture import capture
from tospike.graph.layers import fold_batch_norm
from tospike.graph.walk import module_of
from tospike.run.network import SNN
from tospike.run.schedule import Engine

ANN = "ANN"
STEPWISE, FOLDED = "SpikingJelly, step by step", "SpikingJelly, multi-step"
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


@dataclass(frozen=True)
class Contender:
    """One way to run a network on a batch.

    Attributes:
        name: Which.
        setting: How it was set up.
        run: Computes T time steps; of the ANN, T forward passes.
        engine: Of `tospike.simulate`; empty for others, which run all layers at every step.
    """

    name: str
    setting: str
    run: Callable[[int], Any]
    engine: str = ""


@dataclass(frozen=True)
class Absent:
    """What does not run, and why."""

    name: str
    reason: str


def anns(ann: nn.Module, x: Tensor) -> list[Contender]:
    """Return the ANN in both layouts, with its batch norms folded and its activations in place."""
    return [_ann(folded(ann, x), x, layout) for layout in LAYOUTS]


def _ann(network: nn.Module, x: Tensor, layout: str) -> Contender:
    network, given = _laid_out(network, layout), _laid_out(x, layout)

    def run(passes: int) -> None:
        for _ in range(passes):
            network(given)

    return Contender(ANN, f"batch norm folded, {layout}", run)


def _laid_out(what: Any, layout: str) -> Any:
    return what.to(memory_format=LAYOUTS[layout])


def folded(ann: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy of a network as fast as floating point makes it: batch norms folded, rectifiers in place where nothing else reads what they do."""
    captured = capture(ann, x[:1])
    fold_batch_norm(captured)
    graph = captured.graph
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if isinstance(module, (nn.ReLU, nn.ReLU6)):
            (source,) = node.all_input_nodes
            module.inplace = len(source.users) == 1 and source.op != "placeholder"
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def engines(snn: SNN, x: Tensor, names: Sequence[Engine]) -> list[Contender]:
    """Return the SNN on each engine."""
    return [Contender(label(name), _chosen(snn, name), _simulation(snn, x, name), name) for name in names]


def label(engine: Engine) -> str:
    """Return what the SNN is called on an engine."""
    return f"tospike {engine}"


def _simulation(snn: SNN, x: Tensor, engine: Engine) -> Callable[[int], Any]:
    return lambda time_steps: snn(x, time_steps=time_steps, engine=engine)


def _chosen(snn: SNN, engine: Engine) -> str:
    """Say how many of the stepped layers an engine computes with integer weights."""
    if engine == "float":
        return ""
    stepped = [choice for choice in ts.explain(snn, engine=engine) if not choice.reason.startswith("once")]
    whole = sum(choice.kernel != "float" for choice in stepped)
    kernels = sorted({choice.kernel for choice in stepped if choice.kernel != "float"})
    return (
        f"{whole} of {len(stepped)} stepped layers in integers ({'; '.join(kernels)})"
        if whole
        else "no layer in integers"
    )


def peers(ann: nn.Module, x: Tensor, time_steps: int) -> list[Contender | Absent]:
    """Return SpikingJelly in both of its modes, each with the faster of its recipes and layouts; or why it does not run.

    Source: Fang et al., "SpikingJelly", Science Advances 2023.
    """
    found: list[Contender | Absent] = []
    for name in (STEPWISE, FOLDED):
        ways, reasons = [], []
        for recipe in ("LocalThresholdBalancingRecipe", "RateCodingRecipe"):
            try:
                with _silent():
                    ready = [_peer(name, recipe, ann, x, layout) for layout in LAYOUTS]
                    for way in ready:
                        way.run(1)
                ways += ready
            except ModuleNotFoundError as error:
                reasons.append(f'{error.name} is not installed: pip install "tospike[spikingjelly]"')
            except Exception as error:  # a conversion of others may raise anything
                reasons.append(f"{type(error).__name__}: {error}".splitlines()[0][:200])
        found.append(best(ways, time_steps) if ways else Absent(name, "; ".join(dict.fromkeys(reasons))))
    return found


def _peer(name: str, recipe: str, ann: nn.Module, x: Tensor, layout: str) -> Contender:
    from spikingjelly.activation_based import ann2snn, functional

    calibration = [(x, torch.zeros(len(x)))]
    made = getattr(ann2snn, recipe)(dataloader=calibration)
    snn = ann2snn.Converter(recipe=made, device="cpu").convert(copy.deepcopy(ann)).eval()
    snn, given = _laid_out(snn, layout), _laid_out(x, layout)
    functional.set_step_mode(snn, "s" if name == STEPWISE else "m")

    def stepwise(time_steps: int) -> Tensor:
        functional.reset_net(snn)
        total: Tensor = snn(given)
        for _ in range(1, time_steps):
            total = total + snn(given)
        return total / time_steps

    def multi_step(time_steps: int) -> Tensor:
        functional.reset_net(snn)
        repeated = _laid_out(given.repeat(time_steps, *[1] * (x.ndim - 1)), layout)
        sequence = repeated.unflatten(0, (time_steps, len(x)))
        mean: Tensor = snn(sequence).mean(0)
        return mean

    return Contender(name, f"{recipe.removesuffix('Recipe')}, {layout}", stepwise if name == STEPWISE else multi_step)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the progress bars and messages of a conversion off the screen."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
