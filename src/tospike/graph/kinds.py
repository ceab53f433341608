"""One table from callable to kind: what an operation means for a signal that is a sum over time steps."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional


class Kind(StrEnum):
    """What an operation means for time; see the table in the documentation."""

    LINEAR = "linear"  # commutes with the mean over time: left alone
    ACTIVATION = "activation"  # becomes a neuron
    POOL_MAX = "pool-max"  # moved before the neuron
    NONLINEAR = "nonlinear"  # needs an operator of its own
    BATCH_MIXING = "batch-mixing"  # touches the batch axis: refused
    SHAPE = "shape"  # reads sizes, not values
    CONSTANT = "constant"  # depends on no input
    INPUT = "input"
    OUTPUT = "output"


class TrainableActivation(nn.Module):
    """Base of the activations that carry a threshold learned in training.

    Capture leaves instances in one piece, so that each call of one is a Site. An activation remembers the method that
    put it there, which is how `convert` knows what to do with a prepared network.

    Attributes:
        method: The method whose `prepare` made this activation; None when it was built by hand.
    """

    method: Any = None

    @property
    def threshold(self) -> Tensor:
        """The learned threshold θ > 0, a scalar or ``[C]``, in units of the activation."""
        raise NotImplementedError(f"{type(self).__name__} must define `threshold`")

    def bound(self, z: Tensor) -> Tensor:
        """Return θ, broadcastable to the input ``[N, C, ...]``."""
        theta = self.threshold
        return theta if theta.ndim == 0 else theta.reshape(-1, *[1] * (z.ndim - 2))

    def penalty(self) -> Tensor | None:
        """Return what training adds to the loss for this activation, a scalar; None if nothing."""
        return None


def is_frozen_norm(module: nn.Module | None) -> bool:
    """Tell whether a module is a batch norm whose statistics and weights are all fixed, as torchvision and detectron2 write it."""
    tensors = ("weight", "bias", "running_mean", "running_var")
    return type(module).__name__ == "FrozenBatchNorm2d" and all(hasattr(module, name) for name in tensors)


@dataclass(frozen=True)
class Verdict:
    """What the table says about one operation.

    Attributes:
        kind: What the operation means for time.
        name: Canonical name, e.g. ``"relu"`` for `nn.ReLU`, `F.relu` and ``x.relu_()`` alike.
        cap: Upper bound of an activation, ``inf`` if it has none; in units of the activation.
        reason: Why the operation cannot be converted; empty if it can.
        remedy: What the user can do about it.
        signed: Whether an activation passes negative values, for which a neuron needs negative spikes.
        analog: Whether an activation is computed anew from all input at each step, since it is not piecewise linear.
        trained: Whether an activation carries a threshold learned in training.
    """

    kind: Kind
    name: str
    cap: float = math.inf
    reason: str = ""
    remedy: str = ""
    signed: bool = False
    analog: bool = False
    trained: bool = False

    @property
    def is_rectifier(self) -> bool:
        """Whether the activation is ``min(max(z, 0), cap)``, which every neuron can send."""
        return self.kind is Kind.ACTIVATION and not self.signed and not self.analog


@dataclass(frozen=True)
class Call:
    """One operation with its arguments, however it was written.

    Attributes:
        name: Canonical name.
        module: The module that is called, if it is one.
        args, kwargs: Arguments after the module or method name, with nodes in place of tensors.
        is_signal: Whether a node depends on the values of the network's input.
    """

    name: str
    module: nn.Module | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_signal: Callable[[Any], bool]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return a setting from the module's attribute, the keyword or the position, in this order."""
        if self.module is not None and hasattr(self.module, name):
            return getattr(self.module, name)
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[position] if len(self.args) > position else default

    def signals(self) -> int:
        """Return how many arguments, nested ones included, carry signals."""
        found: list[Any] = []
        fx.map_arg((self.args, self.kwargs), lambda node: found.append(node) if self.is_signal(node) else None)
        return len(found)


Rule = Callable[[Call], Verdict]


def _always(kind: Kind, reason: str = "", remedy: str = "") -> Rule:
    return lambda call: Verdict(
        kind, call.name, reason=reason.format(name=call.name), remedy=remedy.format(name=call.name)
    )


ALLOW = 'Pass analog=["{name}"], or analog="auto", to run it in analog, exact in the running mean.'
REPLACE = 'Pass analog=["{name}"], or analog="auto", for signed neurons that compute it; or replace it by a ReLU and fine-tune.'
_linear = _always(Kind.LINEAR)
_recurrent = _always(Kind.BATCH_MIXING, "{name} loops over an axis of its own with smooth gates inside, which a neuron cannot stand for",
                     "Write the cell out in `forward`, with linear layers, and pass analog=\"auto\" for its gates.")  # fmt: skip
_move = _always(Kind.LINEAR)  # linear, and no arithmetic: values are copied, placed or left as they are
_shape = _always(Kind.SHAPE)
_nonlinear = _always(Kind.NONLINEAR, "{name} is not linear, so it does not commute with the mean over time", ALLOW)


def _signed(call: Call) -> Verdict:
    return Verdict(Kind.ACTIVATION, call.name, signed=True)


def _smooth(call: Call) -> Verdict:
    verdict = _always(
        Kind.ACTIVATION, "{name} is smooth, so spikes can only send it if it is computed at every step", REPLACE
    )(call)
    return replace(verdict, signed=True, analog=True)


def _product(call: Call) -> Verdict:
    """Linear while at most one factor carries a signal (convolution, matmul, times a constant)."""
    if call.signals() <= 1:
        return Verdict(Kind.LINEAR, call.name)
    return Verdict(
        Kind.NONLINEAR, call.name, reason=f"{call.name} multiplies two signals, and a product of means is not the mean of products",
        remedy=ALLOW.format(name=call.name),
    )  # fmt: skip


def _quotient(call: Call) -> Verdict:
    """Linear while only the numerator carries a signal."""
    divisor = call.argument(1, "other")
    return _linear(call) if not call.is_signal(divisor) else _nonlinear(call)


def _clamp(call: Call) -> Verdict:
    """A ReLU if the lower bound is 0; the upper bound caps the threshold."""
    low = call.argument(1, "min_val", call.argument(1, "min"))
    high = call.argument(2, "max_val", call.argument(2, "max"))
    high = math.inf if high is None else high
    if isinstance(low, (int, float)) and low == 0 and isinstance(high, (int, float)) and high > 0:
        return Verdict(Kind.ACTIVATION, call.name, cap=float(high))
    return Verdict(
        Kind.NONLINEAR, call.name, reason=f"{call.name} has bounds ({low}, {high}); only (0, c) with c > 0 is a neuron",
        remedy="Clamp to (0, c), as ReLU and ReLU6 do.",
    )  # fmt: skip


def _hardtanh(call: Call) -> Verdict:
    """`hardtanh` has bounds of its own when none are given."""
    given = replace(
        call, kwargs={"min_val": call.argument(1, "min_val", -1.0), "max_val": call.argument(2, "max_val", 1.0)}
    )
    return _clamp(given)


def _threshold(call: Call) -> Verdict:
    """`threshold(x, 0, 0)` is a ReLU."""
    if call.argument(1, "threshold") == 0 and call.argument(2, "value") == 0:
        return Verdict(Kind.ACTIVATION, call.name)
    return _nonlinear(call)


def _pool_max(call: Call) -> Verdict:
    """Over windows of one element it only leaves elements out, as in the last level of a feature pyramid."""
    if call.argument(6, "return_indices", False):
        return Verdict(
            Kind.NONLINEAR, call.name, reason="max-pooling that returns indices has no spiking counterpart",
            remedy="Pool without return_indices (replace unpooling by interpolation).",
        )  # fmt: skip
    window = () if "adaptive" in call.name else call.argument(1, "kernel_size")
    if window == 1 or window in ((1,), (1, 1), (1, 1, 1)):
        return _linear(call)
    return Verdict(Kind.POOL_MAX, call.name)


def _normalise_batch(call: Call) -> Verdict:
    """Affine in evaluation, unless statistics of the batch are used."""
    if call.argument(1, "running_mean") is None or (call.module is None and call.argument(5, "training", False)):
        return Verdict(
            Kind.BATCH_MIXING, call.name, reason=f"{call.name} normalises by statistics of the batch",
            remedy="Track running statistics (track_running_stats=True) and convert the network in eval mode.",
        )  # fmt: skip
    return Verdict(Kind.LINEAR, call.name)


def _dropout(call: Call) -> Verdict:
    """The identity in evaluation."""
    if call.module is None and call.argument(2, "training", False):
        return Verdict(
            Kind.NONLINEAR, call.name, reason=f"{call.name} is called with training=True, so its output is random",
            remedy="Pass training=self.training, or use nn.Dropout.",
        )  # fmt: skip
    return Verdict(Kind.LINEAR, call.name)


def _attribute(call: Call) -> Verdict:
    return _linear(call) if call.args[1] in {"T", "mT", "H", "mH", "data", "real"} else _shape(call)


def _item(call: Call) -> Verdict:
    """Indexing a tensor picks values; indexing a shape picks a size (which carries no signal and never gets here)."""
    return _nonlinear(call) if call.is_signal(call.args[1]) else _linear(call)


def _where(call: Call) -> Verdict:
    """Linear while the condition is a constant."""
    return _nonlinear(call) if call.is_signal(call.argument(0, "condition")) else _linear(call)


def _masked(call: Call) -> Verdict:
    """Linear while the mask is a constant."""
    return _nonlinear(call) if call.is_signal(call.argument(1, "mask")) else _linear(call)


_DIMENSIONS = (1, 2, 3)


def _each(pattern: str) -> str:
    """``"max_pool{}d"`` -> ``"max_pool1d max_pool2d max_pool3d"``."""
    return " ".join(pattern.format(d) for d in _DIMENSIONS)


SMOOTH = "gelu silu hardswish mish elu celu selu softplus"
TRACKED = {"leaky_relu", "prelu", *SMOOTH.split()}  # what neurons follow that can be called as a function

# Functions and tensor methods by name (in-place forms included), and the modules that do the same.
TABLE: tuple[tuple[str, str, Rule], ...] = (
    ("relu", "ReLU", _always(Kind.ACTIVATION)),
    ("relu6", "ReLU6", lambda call: Verdict(Kind.ACTIVATION, call.name, cap=6.0)),
    ("hardtanh", "Hardtanh", _hardtanh),
    ("clamp clip clamp_min", "", _clamp),
    ("threshold", "Threshold", _threshold),
    ("leaky_relu", "LeakyReLU", _signed),
    ("prelu", "PReLU", _signed),
    (SMOOTH, "GELU SiLU Hardswish Mish ELU CELU SELU Softplus", _smooth),
    (_each("max_pool{}d"), _each("MaxPool{}d"), _pool_max),
    (_each("adaptive_max_pool{}d"), _each("AdaptiveMaxPool{}d"), _pool_max),
    (_each("conv{}d") + " " + _each("conv_transpose{}d"), _each("Conv{}d") + " " + _each("ConvTranspose{}d"), _product),
    ("linear mul imul multiply matmul mm bmm mv einsum addmm baddbmm bilinear", "Linear Bilinear", _product),
    ("div divide true_divide truediv itruediv", "", _quotient),
    ("batch_norm", _each("BatchNorm{}d") + " SyncBatchNorm", _normalise_batch),
    (_each("avg_pool{}d") + " " + _each("adaptive_avg_pool{}d") + " mean sum", "", _linear),
    ("", _each("AvgPool{}d") + " " + _each("AdaptiveAvgPool{}d"), _linear),
    ("add sub subtract neg negative positive rsub iadd isub cumsum", "", _linear),
    ("", "Identity", _move),
    ("cat concat concatenate stack hstack vstack", "", _move),
    ("view view_as reshape flatten unflatten permute transpose swapaxes movedim squeeze unsqueeze expand expand_as", "", _move),
    ("repeat repeat_interleave tile roll flip narrow select index_select chunk split tensor_split unbind t contiguous", "", _move),
    ("clone detach to float double type_as type requires_grad_ diagonal broadcast_to movedim", "Flatten Unflatten", _move),
    ("interpolate upsample fold", "Upsample UpsamplingNearest2d UpsamplingBilinear2d Fold", _linear),
    ("pad unfold pixel_shuffle pixel_unshuffle channel_shuffle embedding", "Embedding", _move),
    ("", "PixelShuffle PixelUnshuffle ChannelShuffle Unfold", _move),
    ("", _each("ZeroPad{}d") + " " + _each("ConstantPad{}d") + " " + _each("ReflectionPad{}d"), _move),
    ("", _each("ReplicationPad{}d") + " " + _each("CircularPad{}d"), _move),
    ("", "LSTM GRU RNN LSTMCell GRUCell RNNCell", _recurrent),
    ("dropout alpha_dropout feature_dropout feature_alpha_dropout " + _each("dropout{}d"), "", _dropout),
    ("", "Dropout AlphaDropout FeatureAlphaDropout " + _each("Dropout{}d"), _dropout),
    ("stochastic_depth", "", lambda call: _dropout(replace(call, args=(*call.args[:2], call.argument(3, "training", True))))),
    ("zeros_like ones_like full_like new_zeros new_ones new_full", "", _move),
    ("getitem", "", _item),
    ("where", "", _where),
    ("masked_fill", "", _masked),
    ("size dim numel ndimension nelement element_size stride is_floating_point get_device len", "", _shape),
    ("getattr", "", _attribute),
)  # fmt: skip

# Names of the operations that do no arithmetic in evaluation.
MOVES = frozenset(
    name for names, classes, rule in TABLE if rule in (_move, _dropout, _item, _where, _masked, _attribute, _shape)
    for name in (*names.split(), *classes.lower().split())
) | {"stochastic_depth"}  # fmt: skip


def _functions(name: str) -> Iterable[Any]:
    """Yield every torch function and operator of this name, its in-place form included."""
    for spelled in (name, f"{name}_"):
        for home in (torch, functional, operator, torch.special):
            found = getattr(home, spelled, None)
            if callable(found) and not inspect.isclass(found):
                yield found


def _build() -> tuple[
    dict[Any, tuple[str, Rule]], dict[str, tuple[str, Rule]], dict[type[nn.Module], tuple[str, Rule]]
]:
    functions: dict[Any, tuple[str, Rule]] = {getattr: ("getattr", _attribute), len: ("len", _shape)}
    methods: dict[str, tuple[str, Rule]] = {}
    modules: dict[type[nn.Module], tuple[str, Rule]] = {}
    for names, classes, rule in TABLE:
        for name in names.split():
            functions.update((function, (name, rule)) for function in _functions(name))
            methods.update({name: (name, rule), f"{name}_": (name, rule)})
        for name in classes.split():
            modules[getattr(nn, name)] = (name.lower(), rule)
    return functions, methods, modules


_FUNCTIONS, _METHODS, _MODULES = _build()


def judge(node: fx.Node, module: nn.Module | None, is_signal: Callable[[Any], bool]) -> Verdict:
    """Look one call up in the table; what is not in it counts as nonlinear.

    Args:
        node: A call in the graph, at least one of whose arguments carries a signal.
        module: The module called, for ``call_module``.
        is_signal: Whether a node depends on the values of the network's input.

    Example:
        >>> graph = fx.symbolic_trace(nn.Sequential(nn.ReLU6()))
        >>> node = list(graph.graph.nodes)[1]
        >>> verdict = judge(node, graph.get_submodule(node.target), lambda _: True)
        >>> verdict.kind.value, verdict.name, verdict.cap
        ('activation', 'relu6', 6.0)
    """
    if isinstance(module, TrainableActivation):
        return Verdict(Kind.ACTIVATION, type(module).__name__.lower(), trained=True)
    if is_frozen_norm(module):
        return Verdict(Kind.LINEAR, "batchnorm2d")
    if module is not None:
        known = next((_MODULES[cls] for cls in type(module).__mro__ if cls in _MODULES), None)
        name = type(module).__name__.lower()
    elif node.op == "call_method":
        known, name = _METHODS.get(str(node.target)), str(node.target)
    else:
        name = getattr(node.target, "__name__", str(node.target))
        known = _FUNCTIONS.get(node.target) or (_METHODS.get(name) if name == "stochastic_depth" else None)
    name, rule = known or (name, _nonlinear)
    return rule(Call(name, module, node.args, dict(node.kwargs), is_signal))
