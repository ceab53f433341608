"""Networks whose values cross the phases of a plan in unusual ways: every chunk and every engine gives the same."""

import pytest
import torch
from torch import nn

import tospike as ts
from tospike.run.counts import Counts


class _Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))


class WritesToAConstant(_Layers):
    def forward(self, x):
        r, h = self.a(x), torch.relu(self.b(x))
        r.add_(self.c(h))
        return self.d(torch.relu(r))


class WritesInTheTail(_Layers):
    def forward(self, x):
        r, h = self.a(x), torch.relu(self.b(x))
        r += self.c(h)
        return r.mul_(2.0)


class ReadsAConstantBeforeItsSite(_Layers):
    def forward(self, x):
        z = self.b(x)
        q = torch.relu(self.c(torch.relu(self.a(x))) + z)
        return self.d(torch.relu(z)) + q


class CarriesATuple(_Layers):
    def __init__(self):
        super().__init__()
        self.e, self.f = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        p, q = torch.relu(self.a(x)).chunk(2, 1)
        return self.f(torch.relu(nn.functional.pad(p, (0, 0)))) + self.e(q)


NETWORKS = [WritesToAConstant, WritesInTheTail, ReadsAConstantBeforeItsSite, CarriesATuple]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", [ts.LTB(batches=5), ts.Parallel(time_steps=8, correct=False), ts.FTBC(time_steps=8)])
def test_chunks_and_checkpoints_change_nothing(network, method):
    ann, x = network().double().eval(), torch.randn(32, 6, dtype=torch.float64)
    snn = ts.convert(ann, method, calibration=[x])
    alone = {t: snn(x, time_steps=t, steps_per_call=1) for t in (2, 4, 8)}
    for chunk in (1, 3, 8):
        for t, y in ts.simulate(snn, x, time_steps=8, checkpoints=(2, 4, 8), steps_per_call=chunk):
            torch.testing.assert_close(y, alone[t], rtol=0, atol=1e-9)
    with torch.no_grad():
        assert (alone[8] - ann(x)).abs().mean() < 0.5 * ann(x).abs().mean()


def test_pooling_of_single_steps_gives_way_to_counts_in_synchronous_networks():
    ann = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 2, 2),
        nn.ReLU(),
        nn.Flatten(),
    )
    ann, x = ann.double(), torch.randn(6, 1, 10, 10, dtype=torch.float64)
    snn = ts.convert(ann, ts.Parallel(time_steps=4, correct=False).using(pool="step"), calibration=[x])
    torch.testing.assert_close(
        snn(x, time_steps=4, engine="count"), snn(x, time_steps=4, engine="float"), rtol=0, atol=1e-9
    )


def test_products_of_two_signals_are_counted_as_multiply_adds():
    class Attention(_Layers):
        def forward(self, x):
            h = torch.relu(self.a(x))
            return self.d(torch.relu((self.b(h) @ self.c(h).transpose(-2, -1)).softmax(-1) @ h))

    ann, x = Attention().eval(), torch.randn(3, 5, 6)
    snn, counts = ts.convert(ann, ts.SNM(), calibration=[x], analog="auto"), Counts()
    list(ts.simulate(snn, x, time_steps=4, counts=counts))
    assert counts.multiply_adds == {"matmul": [3 * 5 * 6 * 5] * 4, "matmul#2": [3 * 5 * 5 * 6] * 4}
    assert [place.partition(" ")[0] for place in counts.uncounted] == ["softmax"]
