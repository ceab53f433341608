"""Put a method's trainable activations into a network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, fx, nn

from tospike.calibrate import calibrate
from tospike.check import rewritten
from tospike.errors import CalibrationError, CaptureError, OptionError, UnsupportedOperationError
from tospike.graph.capture import Capture, Site, capture
from tospike.graph.kinds import Kind
from tospike.graph.rewrite import IDENTITIES, place_sites
from tospike.graph.walk import site_nodes
from tospike.methods.base import Method

_AVERAGE = {"maxpool1d": nn.AvgPool1d, "maxpool2d": nn.AvgPool2d, "maxpool3d": nn.AvgPool3d}


def prepare(
    ann: nn.Module, method: Method, *, example: Any, calibration: Iterable[Any] | None = None, progress: bool = True
) -> nn.Module:
    """Return a trainable copy of a network with the method's activation at every Site.

    The copy is captured in eval mode, so branches that exist only in training (auxiliary heads) are not part of it; it is
    returned in training mode, with dropout and batch norm as in the original.

    Args:
        ann: The network; it is not changed, and its weights are the starting point.
        method: A method that trains, e.g. ``ts.QCFS(levels=4)``.
        example: One batch of inputs ``[N, ...]``.
        calibration: Batches of inputs, for methods that measure the thresholds that training starts from.
        progress: Show a progress bar during long measurements.

    Raises:
        OptionError: The method has nothing to train, or no thresholds fit a Site.
        CalibrationError: The method measures thresholds, and there are no data that serve.
        CaptureError: The network cannot be captured, or has no activation.
        UnsupportedOperationError: A max-pool cannot become an average pool.

    Example:
        >>> import torch, tospike as ts
        >>> ann = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU())
        >>> [name for name, _ in ts.prepare(ann, ts.QCFS(), example=torch.zeros(1, 2)).named_parameters()]
        ['0.weight', '0.bias', '1.rho']
    """
    parts = method.parts()
    if parts.activation is None:
        raise OptionError(
            f"The method {method.name!r} is training-free", got=f"{method}", expected="a method that trains, e.g. QCFS",
            remedy="Skip prepare() and call convert(ann, method, calibration=loader).",
        )  # fmt: skip
    thresholds = _measured(ann, parts.initial, method, calibration, example, progress) if parts.initial else {}
    captured = capture(ann, example)
    make = parts.activation

    def slot(site: Site, activation: nn.Module) -> nn.Module:
        if not site.operation.verdict.is_rectifier:
            return activation
        trainable = make(site, thresholds.get(site.name))
        trainable.method = method
        return trainable

    place_sites(captured, slot)
    if not site_nodes(captured.graph):
        raise no_sites(captured)
    if parts.average_pool:
        _average_pools(captured)
    _restore_dropout(captured)
    captured.graph.delete_all_unused_submodules()
    captured.graph.recompile()
    prepared: Any = captured.graph.train()
    prepared.example = {
        name: value[:1].cpu() for name, value in captured.example.items()
    }  # what `convert` captures it with
    return prepared  # type: ignore[no-any-return]


def _measured(
    ann: nn.Module, initial: Method, method: Method, calibration: Iterable[Any] | None, example: Any, progress: bool
) -> dict[str, Tensor]:
    """Return the thresholds that training starts from, by the name of the Site."""
    if calibration is None:
        raise CalibrationError(
            f"The method {method.name!r} measures the thresholds that training starts from", got="calibration=None",
            expected="an iterable of batches", remedy="Pass calibration=loader, or a number: initial=8.0.",
        )  # fmt: skip
    if method.parts().average_pool:
        captured = capture(ann, example)
        _average_pools(captured)
        captured.graph.recompile()
        ann = captured.graph
    # Max-pools stand before the Site there, as they will when the network is converted.
    captured, _ = rewritten(ann, example, "auto")
    captured.graph.recompile()
    return calibrate(captured, initial.parts(), calibration, progress=progress).thresholds


def no_sites(captured: Capture) -> CaptureError:
    """Build the error for a network without any activation that could become a neuron."""
    return CaptureError(
        "The network has no activation that could become a neuron", got="0 Sites",
        expected="at least one ReLU, ReLU6 or clamp(min=0)",
        remedy="Check with ts.check(ann, example) what its activations are, and replace them by ReLU.",
    )  # fmt: skip


def _average_pools(captured: Capture) -> None:
    graph = captured.graph
    for node in captured.nodes(Kind.POOL_MAX):
        module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        kind = _AVERAGE.get(type(module).__name__.lower())
        if module is None or kind is None or module.dilation not in (1, (1, 1), (1, 1, 1)):
            raise UnsupportedOperationError(
                "A max-pool cannot become an average pool", where=node.meta["operation"].where,
                expected="nn.MaxPool1d, 2d or 3d without dilation", remedy="Use such a module, or pass average_pool=False.",
            )  # fmt: skip
        averaged = kind(module.kernel_size, module.stride, module.padding, module.ceil_mode)
        graph.add_submodule(str(node.target), averaged)


class _Dropout(nn.Module):
    """A dropout that was called as a function, following train() and eval() as the network's own call did.

    Args:
        function: The function; its argument `training` is set at each call.
        arguments: Its other arguments behind the input.
    """

    def __init__(self, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.arguments = function, arguments

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **self.arguments, training=self.training)  # type: ignore[no-any-return]


def _restore_dropout(captured: Capture) -> None:
    """Turn functional dropout, whose training flag was fixed at capture, into modules that follow train() and eval()."""
    graph = captured.graph
    for node, operation in list(captured.operations()):
        if node.op == "call_module" or operation.verdict.name not in IDENTITIES:
            continue
        try:
            given = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments  # type: ignore[arg-type]
            given.pop("training")
        except (ValueError, TypeError, KeyError) as error:
            raise UnsupportedOperationError(
                "A dropout would stay off in training", where=operation.where, got=str(node.target),
                expected="nn.Dropout, or a function of torch.nn.functional with training=self.training", remedy="Use one of these.",
            ) from error  # fmt: skip
        source, *_ = given.values()
        arguments = dict(list(given.items())[1:])
        name = f"{node.name}_module"
        graph.add_submodule(name, _Dropout(node.target, arguments))  # type: ignore[arg-type]
        with graph.graph.inserting_after(node):
            placed: fx.Node = graph.graph.call_module(name, (source,))
        placed.meta = dict(node.meta)
        node.replace_all_uses_with(placed)
        graph.graph.erase_node(node)
