"""Networks to export, and the spikes that they send."""

import torch
from torch import nn

import tospike as ts
from tospike import zoo


class Concatenated(nn.Module):
    """Spikes and currents meet in a concatenation, in front of a batch norm that no layer can take in."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(9, 6, 3, 2)
        self.norm, self.fc = nn.BatchNorm2d(9), nn.Linear(54, 4)
        nn.init.uniform_(self.norm.running_mean, -0.3, 0.3)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, x):
        y = self.a(x).relu()
        y = self.norm(torch.cat([y, self.b(y).relu()], 1)).relu()
        return self.fc(self.c(y).relu().flatten(1))


class Residual(nn.Module):
    """Spikes enter a sum, beside a convolution and alone."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
        )
        self.pool, self.fc = nn.AdaptiveAvgPool2d(2), nn.Linear(16, 4)

    def forward(self, x):
        y = self.a(x).relu()
        y = (self.b(y) + y).relu()
        y = (y + self.c(y)).relu()
        return self.fc(self.pool(y).flatten(1))


def residual():
    return Residual(), (1, 8, 8)


def mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)), (8,)


def vgg():
    layers = [
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.ReLU(),
    ]
    return nn.Sequential(
        *layers, nn.AvgPool2d(3, 1, 1), nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 4)
    ), (1, 8, 8)


def oblong():
    layers = [
        nn.Conv2d(2, 4, (3, 1), (2, 1), (0, 1)),
        nn.ReLU(),
        nn.Conv2d(4, 5, (1, 3), dilation=(1, 2)),
        nn.ReLU(),
        nn.AvgPool2d((1, 2)),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(30, 3)), (2, 7, 7)


def max_pooled():
    layers = [
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 4)), (1, 8, 8)


def resnet():
    return zoo.load("fashion-resnet20"), (1, 28, 28)


def concatenated():
    return Concatenated(), (1, 8, 8)


NETWORKS = {f.__name__: f for f in (mlp, vgg, oblong, max_pooled, residual, resnet, concatenated)}


def converted(name, method=None, dtype=torch.float32, samples=3):
    """Return an SNN of a network and a batch."""
    ann, shape = NETWORKS[name]()
    ann, x = ann.to(dtype).eval(), torch.randn(samples, *shape, dtype=dtype)
    return ts.convert(
        ann,
        method or ts.LTB(batches=3),
        calibration=[torch.cat([x, x + 0.1, x - 0.1, 2 * x, 0.5 * x])] * 2,
        progress=False,
    ), x


def spikes(snn, x, steps):
    """Return whether each neuron sent something at each step, [T, N, ...] by Site."""
    sent = {}

    def watch(node, args, value, steps):
        if "site" in node.meta:
            sent.setdefault(node.meta["site"].name, []).append((value != 0).unflatten(0, (steps, -1)))

    snn.plan.step(snn.plan.prepare({snn.plan.inputs[0]: x}), {}, steps, watch)
    return {site: torch.cat(parts) for site, parts in sent.items()}
