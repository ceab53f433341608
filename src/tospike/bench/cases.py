"""The networks whose speed is measured, and what they are to reach."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import tospike as ts
from tospike import zoo
from tospike.errors import missing_extra
from tospike.run.network import SNN
from tospike.zoo import networks

SETTLING, CALIBRATION, FEW = 3, 2, 8  # passes that measure batch norms, calibration batches, and images in each

# Time of T steps over that of T forward passes of the ANN, at most; on two cores with AVX-512-VNNI.
TARGETS = {
    ("resnet18-224", "int8"): 0.27,
    ("resnet18-224", "int16"): 0.50,
    ("resnet18-224", "float"): 0.95,
    ("resnet18-32", "int8"): 0.35,
}
FASTER = {"int8": 4.0, "float": 1.15}  # than the fastest way to run SpikingJelly, at least


@dataclass(frozen=True)
class Case:
    """A network at one size of images.

    Attributes:
        name: What it is called.
        build: Makes the network; its weights may be random, since all are multiplied whatever they are.
        shape: Of one image.
        batch: Images that run together.
        small: Whether long simulations are measured by default.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    small: bool = True

    def network(self, seed: int = 0) -> nn.Module:
        """Return the network in eval mode, its batch norms measured on random images."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return settled(self.build(), self.shape)

    def images(self, count: int, seed: int = 0) -> Tensor:
        """Return random images ``[count, ...]``."""
        return torch.rand(count, *self.shape, generator=torch.Generator().manual_seed(seed))

    def convert(self, ann: nn.Module, seed: int = 0) -> SNN:
        """Return the SNN by the baseline method: speed does not depend on thresholds."""
        calibration = [self.images(FEW, seed + batch) for batch in range(CALIBRATION)]
        return ts.convert(ann, ts.RobustNorm(), calibration=calibration, seed=seed, progress=False).eval()


def settled(ann: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Return a network in eval mode whose batch norms have the statistics of random images, so that no layer fades away."""
    ann.eval()
    for module in ann.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of all passes
            module.train()
    with torch.no_grad():
        for _ in range(SETTLING):
            ann(torch.rand(FEW, *shape))
    return ann.eval()


def _torchvision(name: str) -> nn.Module:
    try:
        models = importlib.import_module("torchvision.models")
    except ImportError as error:
        raise missing_extra("torchvision", "vision", f"the network {name}") from error
    ann: nn.Module = models.get_model(name, weights=None)
    return ann


CASES = {
    case.name: case
    for case in (
        Case("resnet18-224", lambda: _torchvision("resnet18"), (3, 224, 224), 4, small=False),
        Case("mobilenetv2-224", lambda: _torchvision("mobilenet_v2"), (3, 224, 224), 4, small=False),
        Case("vgg16-32", lambda: networks.build("vgg16"), (3, 32, 32), 32),
        Case("resnet18-32", lambda: networks.build("resnet18"), (3, 32, 32), 32),
        Case("fashion-resnet20", lambda: zoo.load("fashion-resnet20-relu"), (1, 28, 28), 64),
    )
}
