"""A folded network in nodes that NIR has, as one reader reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from tospike.errors import Problem
from tospike.export.profiles import Profile
from tospike.export.units import RESHAPES, Scale, channels, is_join, name_of, sample_shape
from tospike.export.windows import Settings, dense, square, whole_map, window
from tospike.graph.capture import Operation
from tospike.graph.walk import module_of
from tospike.neurons.modules import Neuron
from tospike.run.network import SNN
from tospike.run.nodes import is_size

SLOW = (
    2.0**30
)  # membrane time constant of neurons that only a leaky model can say, in steps: 1 − 1/SLOW is 1 in float32


class Lowering:
    """The nodes and edges of a NIR graph, and what could not be written.

    A sum is written as several edges into one node. Every value of the network is a list of nodes whose outputs add up to it.

    Args:
        snn: A network in the folded form.
        profile: Who will read it.
        nir: The package.
        begin: Node whose value is the input of the graph; the network's own input when None.

    Attributes:
        nodes: By name.
        edges: Pairs of names.
        problems: What NIR or the reader cannot say.
    """

    def __init__(self, snn: SNN, profile: Profile, nir: Any, begin: fx.Node | None = None) -> None:
        self.graph, self.profile, self.nir = snn.graph, profile, nir
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []
        self.problems: list[Problem] = []
        self.sources: dict[fx.Node, list[str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        before = set() if begin is None else set(snn.plan.static)
        for node in snn.graph.graph.nodes:
            if begin is not None and node is begin:
                self._begin(node)
            elif "operation" in node.meta and not is_size(node) and node not in before:
                self._lower(node)

    def _begin(self, node: fx.Node) -> None:
        shape = sample_shape(node)
        self.sources[node] = [self._add("input", self.nir.Input({"input": np.array(shape)}), [], shape)]

    def _lower(self, node: fx.Node) -> None:
        module, name = module_of(self.graph, node), name_of(node)
        if node.op == "placeholder":
            self._begin(node)
        elif node.op == "output":
            self._output(node)
        elif isinstance(module, Neuron):
            self._site(node, module)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            self._convolution(node, module)
        elif isinstance(module, nn.Linear):
            self._linear(node, module)
        elif isinstance(module, Scale):
            self._scale(node, module)
        elif is_join(node) and "add" in name:
            self._join(node)
        elif name in ("avgpool2d", "adaptiveavgpool2d") or (name == "mean" and self._is_global(node)):
            self._average(node, module)
        elif name in RESHAPES and self._keeps_order(node):
            self.sources[node] = self._read(node)
        else:
            self._refuse(node, "NIR has no such node", "one of convolution, linear, average pool, addition, flatten")

    def _refuse(
        self, node: fx.Node, what: str, expected: str, remedy: str = "Replace it, or export a program."
    ) -> None:
        operation: Operation = node.meta["operation"]
        self.problems.append(
            Problem(what, where=operation.where, got=operation.verdict.name, expected=expected, remedy=remedy)
        )
        self.sources[node] = []

    def _read(self, node: fx.Node) -> list[str]:
        return self.sources[node.all_input_nodes[0]]

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return the shape in which the graph holds a node's input: a map where a linear layer reads one."""
        names = self._read(node)
        return self.shapes[names[0]] if names else sample_shape(node.all_input_nodes[0])

    def _add(self, name: str, made: Any, sources: list[str], shape: tuple[int, ...]) -> str:
        name = name.replace(".", "_")
        while name in self.nodes:
            name += "_"
        self.nodes[name], self.shapes[name] = made, shape
        self.edges += [(source, name) for source in sources]
        return name

    def _output(self, node: fx.Node) -> None:
        sources = self._read(node) if node.all_input_nodes else []
        if len(sources) > 1:
            self._refuse(
                node,
                "Readers do not add what enters the output",
                "one node in front of the output",
                "End with a linear layer.",
            )
        elif sources:
            self._add(
                "output",
                self.nir.Output({"output": np.array(self.shapes[sources[0]])}),
                sources,
                self.shapes[sources[0]],
            )

    def _site(self, node: fx.Node, neuron: Neuron) -> None:
        sources, shape = self._read(node), self._shape(node)
        ones = np.ones(shape, dtype=np.float32)
        theta = ones * (np.nextafter(np.float32(1), np.float32(0)) if self.profile.strict else np.float32(1))
        start = neuron.start.expand(sample_shape(node)).reshape(shape).cpu().numpy().astype(np.float32)
        given: dict[str, Any] = {"v_threshold": theta, "metadata": {"start": start}}
        if self.profile.neuron == "IF":
            made = self.nir.IF(r=ones, **given)
        else:
            made = self.nir.CubaLIF(
                tau_syn=ones, tau_mem=SLOW * ones, r=SLOW * ones, v_leak=0 * ones, w_in=ones, **given
            )
        self.sources[node] = [self._add(node.meta["site"].name, made, sources, shape)]

    def _convolution(self, node: fx.Node, layer: nn.Conv1d | nn.Conv2d) -> None:
        if isinstance(layer, nn.Conv1d) and self.profile.name != "spikingjelly":
            self._refuse(node, f"{self.profile.name} cannot read one-dimensional convolutions", "two-dimensional ones")
        elif layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            self._refuse(
                node,
                "NIR pads with zeros, by a number",
                f"padding_mode='zeros', not {layer.padding_mode!r}, {layer.padding!r}",
            )
        else:
            settings: Settings = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
            found = square(dense(layer), settings)
            if found is None:
                self._refuse(
                    node,
                    "NIR takes every kernel for a square one",
                    f"sides that differ by an even number, not {tuple(layer.kernel_size)}",
                )
                return
            weight, settings = found
            bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
            self.sources[node] = [
                self._conv(str(node.target), self._read(node), weight, bias, sample_shape(node), settings)
            ]

    def _conv(
        self,
        name: str,
        sources: list[str],
        weight: Tensor,
        bias: Tensor,
        after: tuple[int, ...],
        settings: dict[str, Any],
    ) -> str:
        before = self.shapes[sources[0]] if sources else (0, 0, 0)
        values = {"weight": _numbers(weight), "bias": _numbers(bias), "groups": 1}
        if weight.ndim == 3:
            settings = {key: value[0] for key, value in settings.items()}
            made = self.nir.Conv1d(input_shape=before[1], **values, **settings)
        else:
            made = self.nir.Conv2d(input_shape=before[1:], **values, **settings)
        return self._add(name, made, sources, after)

    def _linear(self, node: fx.Node, layer: nn.Linear) -> None:
        sources, shape, name = self._read(node), self._shape(node), str(node.target)
        weight = layer.weight.detach()
        bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
        if len(sample_shape(node)) != 1:
            self._refuse(node, "Linear layers of NIR read one axis", "inputs [N, features]", "Flatten them.")
        elif len(shape) == 1 or self.profile.flattens:
            if len(shape) > 1:
                flat = (int(np.prod(shape)),)
                made = self.nir.Flatten({"input": np.array(shape)}, 0, -1)
                sources = [self._add(f"{name}_flatten", made, sources, flat)]
            made = self.nir.Affine(weight=_numbers(weight), bias=_numbers(bias))
            self.sources[node] = [self._add(name, made, sources, sample_shape(node))]
        else:  # the same sum as a convolution with a kernel as large as the map
            kernel, settings = whole_map(weight.reshape(len(weight), *shape))
            self.sources[node] = [self._conv(name, sources, kernel, bias, (len(weight), 1, 1), settings)]

    def _scale(self, node: fx.Node, layer: Scale) -> None:
        shape, sources = self._shape(node), self._read(node)
        weight = channels(layer.weight, sample_shape(node), 0)
        bias = None if layer.bias is None else channels(layer.bias, sample_shape(node), 0)
        if weight is None or (layer.bias is not None and bias is None) or len(shape) not in (1, 3):
            self._refuse(node, "Thresholds differ within a channel, and spikes enter a sum", "one threshold per channel",
                         "Convert with thresholds per channel or layer.")  # fmt: skip
            return
        self.sources[node] = [self._diagonal(str(node.target), sources, weight, bias, shape)]

    def _diagonal(
        self, name: str, sources: list[str], weight: Tensor, bias: Tensor | None, shape: tuple[int, ...]
    ) -> str:
        matrix, bias = torch.diag(weight), torch.zeros_like(weight) if bias is None else bias
        if len(shape) == 1:
            return self._add(name, self.nir.Affine(weight=_numbers(matrix), bias=_numbers(bias)), sources, shape)
        return self._conv(name, sources, matrix[:, :, None, None], bias, shape, dict(_PLAIN))

    def _join(self, node: fx.Node) -> None:
        sources = [name for value in node.args[:2] if isinstance(value, fx.Node) for name in self.sources[value]]
        if len(set(sources)) < len(sources) or node.kwargs.get("alpha", 1) != 1:
            self._refuse(
                node, "NIR knows no second edge between two nodes", "sums of different signals, without factors"
            )
        else:
            self.sources[node] = sources

    def _is_global(self, node: fx.Node) -> bool:
        dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        return isinstance(dims, (tuple, list)) and {dim % 4 for dim in dims} == {2, 3} and len(self._shape(node)) == 3

    def _keeps_order(self, node: fx.Node) -> bool:
        return int(np.prod(sample_shape(node))) == int(np.prod(self._shape(node)))

    def _average(self, node: fx.Node, module: nn.Module | None) -> None:
        shape, sources, name = self._shape(node), self._read(node), node.name
        found = window(node, module, shape)
        if found is None:
            self._refuse(node, "NIR averages over windows of one size that lie within the map or count its border as zeros",
                         "ceil_mode=False, count_include_pad=True, an output size that divides the input's")  # fmt: skip
            return
        kernel, stride, padding = found
        size = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(shape[1:], kernel, stride, padding, strict=True)]
        after, given = (shape[0], *size), {"stride": np.array(stride), "padding": np.array(padding)}
        if self.profile.averages:
            self.sources[node] = [
                self._add(name, self.nir.AvgPool2d(kernel_size=np.array(kernel), **given), sources, after)
            ]
        elif not any(padding):
            summed = self._add(f"{name}_sum", self.nir.SumPool2d(kernel_size=np.array(kernel), **given), sources, after)
            share = torch.full((shape[0],), 1.0 / (kernel[0] * kernel[1]))
            self.sources[node] = [self._diagonal(name, [summed], share, None, after)]
        else:
            weight = torch.eye(shape[0])[:, :, None, None].expand(-1, -1, *kernel) / (kernel[0] * kernel[1])
            settings = {"stride": stride, "padding": padding, "dilation": (1, 1)}
            self.sources[node] = [self._conv(name, sources, weight, torch.zeros(shape[0]), after, settings)]


_PLAIN: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}


def _numbers(value: Tensor) -> Any:
    return value.detach().cpu().float().contiguous().numpy()
