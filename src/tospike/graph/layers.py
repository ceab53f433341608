"""Layers with weights: written as modules however the network spells them, with batch norm folded in."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from tospike.graph.capture import Capture
from tospike.graph.kinds import is_frozen_norm
from tospike.graph.walk import add_module, constant_of, module_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
LAYERS: dict[str, type[nn.Module]] = {
    "linear": nn.Linear,
    **{f"conv{d}d": kind for d, kind in enumerate(CONVOLUTIONS, 1)},
    **{f"conv_transpose{d}d": kind for d, kind in enumerate(TRANSPOSED, 1)},
}
# Positional arguments behind input, weight and bias, as the functions order them.
_CONVOLUTION_SETTINGS = ("stride", "padding", "dilation", "groups")
_TRANSPOSED_SETTINGS = ("stride", "padding", "output_padding", "groups", "dilation")


def lift_layers(captured: Capture) -> None:
    """Turn functional convolutions and linear layers whose weights are constant into modules.

    ``F.conv2d(x, self.weight, ...)`` then folds batch norm and has its operations counted as ``self.conv(x)`` does.
    """
    graph = captured.graph
    for node in list(graph.graph.nodes):
        name = node.meta["operation"].verdict.name if "operation" in node.meta else ""
        if node.op != "call_function" or name not in LAYERS:
            continue
        given = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | node.kwargs
        weight, bias = given["weight"], given.get("bias")
        if "operation" in weight.meta or (bias is not None and "operation" in bias.meta):
            continue  # made from a signal
        settings = _CONVOLUTION_SETTINGS if LAYERS[name] in CONVOLUTIONS else _TRANSPOSED_SETTINGS
        options = dict(zip(settings, node.args[3:], strict=False)) | {
            k: node.kwargs[k] for k in settings if k in node.kwargs
        }
        layer = _layer(
            LAYERS[name], constant_of(graph, weight), None if bias is None else constant_of(graph, bias), options
        )
        with graph.graph.inserting_after(node):
            lifted = graph.graph.call_module(add_module(graph, node.meta["operation"].path, layer), (given["input"],))
        lifted.meta = node.meta
        node.replace_all_uses_with(lifted)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()


def _layer(kind: type[nn.Module], weight: Tensor, bias: Tensor | None, options: dict[str, Any]) -> nn.Module:
    shape: dict[str, Any] = {"bias": bias is not None, "device": "meta"}
    if kind is nn.Linear:
        shape |= {"in_features": weight.shape[1], "out_features": weight.shape[0]}
    else:
        groups = options.get("groups", 1)
        first, second = (
            (weight.shape[1] * groups, weight.shape[0])
            if kind in CONVOLUTIONS
            else (weight.shape[0], weight.shape[1] * groups)
        )
        shape |= {"in_channels": first, "out_channels": second, "kernel_size": tuple(weight.shape[2:])}
    layer = kind(**shape, **{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()})
    layer.register_parameter("weight", nn.Parameter(weight.detach(), requires_grad=False))
    layer.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
    return layer


def thaw_batch_norm(captured: Capture) -> None:
    """Turn frozen batch norms into those of torch, which compute the same in evaluation, and which all that comes later knows."""
    for node in captured.graph.graph.nodes:
        frozen: Any = module_of(captured.graph, node)
        if not is_frozen_norm(frozen):
            continue
        norm = nn.BatchNorm2d(len(frozen.weight), eps=frozen.eps)
        norm.weight, norm.bias = nn.Parameter(frozen.weight.detach()), nn.Parameter(frozen.bias.detach())
        norm.running_mean, norm.running_var = frozen.running_mean, frozen.running_var
        captured.graph.set_submodule(str(node.target), norm.requires_grad_(False).eval())


def fold_batch_norm(captured: Capture) -> None:
    """Fold every batch norm into the convolution or linear layer before it, where it is that layer's only user.

    ``w ← w·γ/√(σ² + ε)``, ``b ← (b − μ)·γ/√(σ² + ε) + β``, computed in float64.

    Any other batch norm (before a convolution, behind a join) stays as an affine step, which adds its shift at every time
    step and so commutes with the mean over time.
    """
    graph = captured.graph
    for node in list(graph.graph.nodes):
        norm = module_of(graph, node)
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        layer = module_of(graph, source) if source is not None else None
        if not isinstance(norm, BATCH_NORMS) or source is None or len(source.users) > 1:
            continue
        flat_linear = isinstance(layer, nn.Linear) and len(source.meta["operation"].shape) == 2
        if flat_linear or isinstance(layer, CONVOLUTIONS + TRANSPOSED):
            assert layer is not None
            calls = [
                other for other in graph.graph.nodes if other.op == "call_module" and other.target == source.target
            ]
            merged = folded(copy.deepcopy(layer), *affine(norm))
            source.target = str(source.target) if len(calls) == 1 else f"{source.target}_folded_{calls.index(source)}"
            graph.add_submodule(source.target, merged)
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)


def affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Return scale and shift per channel of a batch norm in evaluation, in float64."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    weight = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
    bias = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
    scale = weight / torch.sqrt(variance + norm.eps)
    return scale, bias - mean * scale


def folded(layer: Any, scale: Tensor, shift: Tensor) -> nn.Module:
    """Change a layer so that its output comes out times ``scale[c]`` plus ``shift[c]``, both in float64; return it."""
    weight = layer.weight.detach().double()
    if isinstance(layer, TRANSPOSED):  # [in, out / groups, ...], where group g writes the g-th part of the outputs
        grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
        by_group = scale.reshape(layer.groups, 1, -1, *[1] * (weight.ndim - 2))
        scaled = (grouped * by_group).reshape(weight.shape)
    else:
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    bias = torch.zeros_like(shift) if layer.bias is None else layer.bias.detach().double()
    dtype = layer.weight.dtype
    layer.weight = nn.Parameter(scaled.to(dtype), requires_grad=layer.weight.requires_grad)
    layer.bias = nn.Parameter((bias * scale + shift).to(dtype), requires_grad=layer.weight.requires_grad)
    return layer  # type: ignore[no-any-return]


WEIGHTED_FUNCTIONS = {*LAYERS, "matmul", "bmm", "mm", "mv", "einsum", "addmm", "baddbmm", "bilinear"}


def is_weighted(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Tell whether a node applies weights, or multiplies signals as if they were."""
    module = module_of(graph, node)
    if module is not None:
        return isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, nn.Bilinear, nn.MultiheadAttention))
    return "operation" in node.meta and node.meta["operation"].verdict.name in WEIGHTED_FUNCTIONS
