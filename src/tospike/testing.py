"""For test suites: the contract that every conversion method keeps as a function, and a causal neuron of every kind."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from tospike.archive import load, save
from tospike.convert import convert
from tospike.evaluate import evaluate
from tospike.methods.base import Method
from tospike.neurons.model import NeuronModel
from tospike.result import Result
from tospike.run.simulate import simulate

CAUSAL = {
    "binary": NeuronModel(),
    "uniform": NeuronModel(capacity=3),
    "successive": NeuronModel(capacity=3, levels="successive"),
    "nearest": NeuronModel(capacity=3, levels="nearest"),
    "ternary": NeuronModel(signed=True),
    "uniform, signed": NeuronModel(capacity=3, signed=True),
    "successive, signed": NeuronModel(capacity=3, levels="successive", signed=True),
    "nearest, signed": NeuronModel(capacity=4, levels="nearest", signed=True),
    "limited in total": NeuronModel(signed=True, total=3),
    "differential": NeuronModel(capacity=3, levels="nearest", signed=True, code="differential"),
    "phase": NeuronModel(capacity=2, signed=True, code="phase"),
    "silence worth a spike": NeuronModel(signed=True, rest=1),
    "silence worth two in five, first step of phase code": NeuronModel(capacity=5, signed=True, code="phase", rest=2),
}
"""One causal neuron of every kind, for tests of whatever steps neurons."""


class _Residual(nn.Module):
    """A small network with all that conversion has to get right: batch norm, a join, a pool, a reused ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.conv = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.relu, self.pool, self.fc = nn.ReLU(), nn.AvgPool2d(2), nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(self.conv(x) + x)
        return self.fc(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def check_method(method: Method, *, time_steps: int = 8, error: float = 0.5) -> None:
    """Check what every method promises, on a small residual network.

    The network is left untouched; the same seed gives the same SNN; every activation becomes a Site; the size of a chunk
    changes nothing; no state is left behind; more steps leave less error than the first that is read out; the Result survives JSON; the SNN
    survives a file.

    Args:
        method: The method, made for ``time_steps``.
        time_steps: T.
        error: Largest relative error of the output at T that is accepted.

    Raises:
        AssertionError: A promise is broken; the message says which.

    Example:
        >>> import tospike as ts
        >>> check_method(ts.LTB(batches=20))
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ann = _Residual()
        x = torch.randn(64, 1, 8, 8)
        ann(x)  # running statistics that are not those of a fresh network
        ann.eval()
    before = copy.deepcopy(ann.state_dict())
    snn = convert(ann, method, calibration=[x], progress=False)
    again = convert(ann, method, calibration=[x], progress=False)
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items()), (
        "convert changed the network"
    )
    assert all(
        torch.equal(a, b) for a, b in zip(snn.state_dict().values(), again.state_dict().values(), strict=True)
    ), "one seed, two SNNs"
    assert snn.site_names == ["relu", "relu#2"], f"Sites: {snn.site_names}"
    first = snn.conversion.neuron.pre_steps + 1
    outputs = dict(simulate(snn, x, time_steps=time_steps, checkpoints=(first, time_steps), steps_per_call=1))
    for chunk in (3, time_steps):
        torch.testing.assert_close(
            snn(x, time_steps=time_steps, steps_per_call=chunk), outputs[time_steps], msg="chunks differ"
        )
    assert torch.equal(snn(x, time_steps=time_steps, steps_per_call=1), outputs[time_steps]), "a run left state behind"
    with torch.no_grad():
        wanted = ann(x)
    errors = {t: float((y - wanted).norm() / wanted.norm()) for t, y in outputs.items()}
    assert errors[time_steps] <= errors[first], f"more steps, more error: {errors}"
    assert errors[time_steps] <= error, f"error {errors[time_steps]:.3f} at T = {time_steps}"
    result = evaluate(snn, [(x, wanted.argmax(1))], time_steps=(first, time_steps), progress=False)
    assert Result.from_json(result.to_json()) == result, "the Result does not survive JSON"
    with tempfile.TemporaryDirectory() as folder:
        save(snn, Path(folder, "snn.tospike"))
        loaded = load(Path(folder, "snn.tospike"))
    assert torch.equal(loaded(x, time_steps=time_steps), snn(x, time_steps=time_steps)), (
        "the SNN does not survive a file"
    )
    assert str(loaded.conversion) == str(snn.conversion), "its record does not survive a file"
