"""Recipes: how the networks of the papers, and our own, are trained, and which figures were published for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tospike.errors import refuse_unknown

QCFS_PAPER = (
    "Bu et al., 'Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural networks', ICLR 2022"
)
OURS = "tospike"

Figures = Mapping[int | Literal["ann"], float]


@dataclass(frozen=True)
class Recipe:
    """Everything that fixes one training run.

    Attributes:
        name: Name for `recipe`.
        network: Name for `tospike.zoo.networks.build`.
        network_options: Options of the network.
        data: Name for `tospike.data.load`.
        data_options: Options of the data set.
        method: Name of the method that prepares the network, or ``"relu"`` for a plain network.
        method_options: Settings of the method.
        epochs: Passes over the training data.
        batch_size: Images of a training batch.
        lr: Highest learning rate.
        weight_decay: L2 penalty.
        momentum: Momentum of SGD.
        seed: Seed of the run.
        start: Network of the zoo whose weights it starts from; empty for weights drawn from the seed.
        expected: Published top-1 accuracy in percent of the network (``"ann"``) and of the SNN after T steps; a column
            that the paper heads with "T >= 512" stands at 512. Empty where nothing was published.
        source: Where settings and figures are from.
    """

    name: str
    network: str
    network_options: Mapping[str, Any]
    data: str
    method: str
    method_options: Mapping[str, Any]
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    data_options: Mapping[str, Any] = field(default_factory=dict)
    momentum: float = 0.9
    seed: int = 42
    start: str = ""
    expected: Figures = field(default_factory=dict)
    source: str = OURS

    def training(self) -> dict[str, Any]:
        """Return the keyword arguments of `tospike.train.fit`.

        Example:
            >>> recipe("cifar100-resnet20-qcfs-l8").training()["lr"]
            0.02
        """
        names = ("epochs", "lr", "momentum", "weight_decay", "seed")
        return {name: getattr(self, name) for name in names}


# Classes, learning rate and weight decay by data set, as in the paper. Epochs and seed are its authors', the batch is
# that of their first code.
_PAPER: dict[str, tuple[int, float, float]] = {
    "cifar10": (10, 0.1, 5e-4),
    "cifar100": (100, 0.02, 5e-4),
    "imagenet": (1000, 0.1, 1e-4),
}


def _paper(data: str, network: str, levels: int, expected: Figures) -> Recipe:
    classes, lr, weight_decay = _PAPER[data]
    sized = {"image_size": 224} if (data, network) == ("imagenet", "vgg16") else {}
    return Recipe(
        f"{data}-{network}-qcfs-l{levels}", network, {"classes": classes} | sized, data, "qcfs", {"levels": levels},
        epochs=300, batch_size=128, lr=lr, weight_decay=weight_decay, expected=expected, source=QCFS_PAPER,
    )  # fmt: skip


def _fashion(name: str, method: str, epochs: int, lr: float = 0.1, start: str = "", **options: Any) -> Recipe:
    return Recipe(
        f"fashion-resnet20-{name}", "resnet20", {"channels": 1, "stem_pool": True}, "fashion-mnist", method, options,
        epochs=epochs, batch_size=128, lr=lr, weight_decay=5e-4, start=start,
    )  # fmt: skip


def _digits(name: str, method: str, **options: Any) -> Recipe:
    return Recipe(
        f"digits-{name}", "digits_net", {}, "digits", method, options,
        epochs=20, batch_size=64, lr=0.1, weight_decay=5e-4,
    )  # fmt: skip


_ALL = (
    _paper("cifar10", "vgg16", 4, {
        "ann": 95.52, 2: 91.18, 4: 93.96, 8: 94.95, 16: 95.40, 32: 95.54, 64: 95.55, 512: 95.59}),
    _paper("cifar10", "resnet18", 4, {
        "ann": 96.04, 2: 75.44, 4: 90.43, 8: 94.82, 16: 95.92, 32: 96.08, 64: 96.06, 512: 96.06}),
    _paper("cifar10", "resnet20", 4, {
        "ann": 91.77, 2: 73.20, 4: 83.75, 8: 89.55, 16: 91.62, 32: 92.24, 64: 92.35, 512: 92.41}),
    _paper("cifar100", "vgg16", 4, {
        "ann": 76.28, 2: 63.79, 4: 69.62, 8: 73.96, 16: 76.24, 32: 77.01, 64: 77.10, 512: 77.08}),
    _paper("cifar100", "resnet18", 4, {
        "ann": 78.80, 2: 70.79, 4: 75.67, 8: 78.48, 16: 79.48, 32: 79.62, 64: 79.54, 512: 79.61}),
    _paper("cifar100", "resnet20", 8, {
        "ann": 69.94, 2: 19.96, 4: 34.14, 8: 55.37, 16: 67.33, 32: 69.82, 64: 70.49, 512: 70.50}),
    _paper("imagenet", "resnet34", 8, {
        "ann": 74.32, 16: 59.35, 32: 69.37, 64: 72.35, 128: 73.15, 256: 73.37, 1024: 73.39}),
    _paper("imagenet", "vgg16", 16, {
        "ann": 74.29, 16: 50.97, 32: 68.47, 64: 72.85, 128: 73.97, 256: 74.22, 1024: 74.32}),
    _fashion("relu", "relu", 35),
    _fashion("qcfs-l4", "qcfs", 50, levels=4, initial=4.0),
    _fashion("qcfs-l8", "qcfs", 6, lr=0.01, start="fashion-resnet20-qcfs-l4", levels=8, initial=4.0),
    _fashion("qcfs-l8-scratch", "qcfs", 50, levels=8, initial=4.0),
    _digits("relu", "relu"),
    _digits("qcfs-l4", "qcfs", levels=4),
)  # fmt: skip

RECIPES: dict[str, Recipe] = {entry.name: entry for entry in _ALL}


def recipe(name: str) -> Recipe:
    """Return a recipe by its name.

    Raises:
        OptionError: There is no recipe of this name; the message names the nearest ones.

    Example:
        >>> recipe("cifar10-resnet20-qcfs-l4").expected[8]
        89.55
    """
    refuse_unknown("recipe", name, RECIPES)
    return RECIPES[name]
