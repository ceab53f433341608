"""Control loops: potentials carry over from decision to decision, as far as the share says."""

import numpy as np
import pytest
import torch
from torch import nn

import tospike as ts
from tospike.errors import OptionError, SimulationError
from tospike.run.counts import Counts


@pytest.fixture
def policy():
    return nn.Sequential(
        nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2), nn.Tanh()
    ).double()


def observations(count):
    return [0.1 * n + torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3) for n in range(count)]


def test_without_a_carry_every_decision_is_a_run_of_its_own(policy):
    snn = ts.convert(policy, ts.CRPI(carry=0), calibration=[torch.randn(64, 3).double()])
    controller = ts.Controller(snn, time_steps=6)
    for x in observations(3):
        assert torch.equal(controller(x), snn(x, time_steps=6))


def carried_reference(weights, biases, thetas, xs, steps, share):
    """Run an MLP decision by decision, one neuron at a time, from the formula of the paper."""
    starts = [np.full(theta.shape, 0.5) * theta for theta in thetas]
    outputs = []
    for x in xs:
        potentials, sent = [start.copy() for start in starts], [np.zeros_like(start) for start in starts]
        total = 0.0
        for _ in range(steps):
            signal = x
            for number, theta in enumerate(thetas):
                potentials[number] += weights[number] @ signal + biases[number]
                fired = potentials[number] >= theta
                potentials[number] -= fired * theta
                sent[number] += fired * theta
                signal = fired * theta
            total = total + weights[-1] @ signal + biases[-1]
        outputs.append(np.tanh(total / steps))
        for number, theta in enumerate(thetas):
            for i in range(len(theta)):
                left = max(potentials[number][i] - theta[i] / 2, -sent[number][i])
                starts[number][i] = theta[i] / 2 + min(max(share * left, -theta[i] / 2), theta[i] / 2)
    return np.stack(outputs)


def test_carries_what_the_paper_says(policy):
    snn = ts.convert(policy, ts.CRPI(carry=0.5), calibration=[torch.randn(64, 3).double()])
    controller = ts.Controller(snn, time_steps=5)
    got = torch.stack([controller(x) for x in observations(6)])
    layers = [policy[0], policy[2], policy[4]]
    weights, biases = [[getattr(layer, key).detach().numpy() for layer in layers] for key in ("weight", "bias")]
    thetas = [theta.numpy() for theta in snn.conversion.thresholds.values()]
    for environment in range(4):
        xs = [x[environment].numpy() for x in observations(6)]
        wanted = carried_reference(weights, biases, thetas, xs, 5, 0.5)
        np.testing.assert_allclose(got[:, environment].numpy(), wanted, atol=1e-9)


def test_on_a_constant_observation_the_carry_averages_the_error_away():
    errors = {0.0: 0.0, 1.0: 0.0}
    for _ in range(10):
        policy = nn.Sequential(
            nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2), nn.Tanh()
        ).double()
        x = torch.randn(8, 3, dtype=torch.float64)
        for share in errors:
            snn = ts.convert(policy, ts.CRPI(carry=share), calibration=[torch.randn(256, 3).double(), x])
            controller = ts.Controller(snn, time_steps=4)
            mean = torch.stack([controller(x) for _ in range(40)]).mean(0)
            errors[share] += float((mean - policy(x).detach()).abs().mean())
    assert errors[1.0] < 0.5 * errors[0.0]


def test_signed_neurons_carry_too(policy):
    snn = ts.convert(policy, ts.SNM().using(carry=1.0), calibration=[torch.randn(64, 3).double()])
    controller, x = ts.Controller(snn, time_steps=3), observations(1)[0]
    assert not torch.equal(controller(x), controller(x))


def test_a_carry_answers_for_all_steps(policy):
    carrying, plain = (
        ts.convert(policy, ts.CRPI(carry=share), calibration=[torch.randn(64, 3).double()]) for share in (0.5, 0.0)
    )
    for delay in (1, -2):
        with pytest.raises(OptionError, match="carry"):
            ts.Controller(carrying, time_steps=4, delay=delay)
    assert ts.Controller(carrying, time_steps=16, delay="auto").delay == 0
    assert ts.Controller(plain, time_steps=4, delay=-1).delay == 3
    x = observations(1)[0]
    assert torch.equal(ts.Controller(plain, time_steps=6, delay=2)(x), plain(x, time_steps=6, delay=2))


def test_those_that_go_on_keep_what_they_carry(policy):
    for method in (ts.CRPI(carry=1.0), ts.SNM().using(carry=1.0)):
        snn = ts.convert(policy, method, calibration=[torch.randn(64, 3).double()])
        all_of_them, some = (ts.Controller(snn, time_steps=5) for _ in range(2))
        first, second = observations(2)
        assert torch.equal(all_of_them(first), some(first))
        going = torch.tensor([True, False, False, True])
        some.keep(going)
        torch.testing.assert_close(some(second[going]), all_of_them(second)[going])
        with pytest.raises(SimulationError, match="going"):
            some.keep(going)


def test_counts_are_those_of_the_runs(policy):
    snn = ts.convert(policy, ts.CRPI(carry=0.5), calibration=[torch.randn(64, 3).double()])
    counts, alone = Counts(), Counts()
    controller, x = ts.Controller(snn, time_steps=5, counts=counts), observations(1)[0]
    controller(x)
    list(ts.simulate(snn, x, time_steps=5, counts=alone))
    assert (counts.samples, counts.spikes) == (4, alone.spikes)
    controller(x)
    assert counts.samples == 8
    assert all(len(row) == 5 for row in counts.spikes.values())


@pytest.mark.parametrize("code", ["taper", "fit", "rate"])
def test_ternary_spikes_of_any_code_carry_what_was_not_sent(code):
    """On a constant observation the mean over decisions comes nearer to the ANN's answer than a single one."""
    gained = 0
    for seed in range(5):
        torch.manual_seed(seed)
        policy = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).double()
        x = torch.randn(16, 3, dtype=torch.float64)
        method = ts.Auto(4, code=code).using(carry=1.0, refiners=())
        controller = ts.Controller(ts.convert(policy, method, calibration=[x]), time_steps=4)
        answers = torch.stack([controller(x) for _ in range(32)])
        wanted = policy(x).detach()
        gained += float((answers.mean(0) - wanted).abs().mean()) < 0.6 * float((answers[0] - wanted).abs().mean())
    assert gained >= 4


def test_reset_forgets_all_environments_or_some(policy):
    snn = ts.convert(policy, ts.CRPI(carry=1.0), calibration=[torch.randn(64, 3).double()])
    controller, x = ts.Controller(snn, time_steps=5), observations(1)[0]
    fresh = controller(x)
    later = controller(x)
    assert not torch.equal(fresh, later)
    controller.reset()
    assert torch.equal(controller(x), fresh)
    controller.reset(torch.tensor([True, False, True, False]))
    mixed = controller(x)
    torch.testing.assert_close(mixed[::2], fresh[::2])
    torch.testing.assert_close(mixed[1::2], later[1::2])


def test_refuses_what_carries_nothing(policy):
    snn = ts.convert(policy, ts.Parallel(time_steps=4).using(carry=0.5), calibration=[torch.randn(64, 3).double()])
    with pytest.raises(OptionError, match="carried"):
        ts.Controller(snn, time_steps=4)
    with pytest.raises(OptionError, match="time_steps"):
        ts.Controller(snn, time_steps=0)


def test_a_policy_with_a_pool_and_another_number_of_environments():
    policy = nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8, 2)
    )
    snn = ts.convert(policy, ts.CRPI(carry=1.0), calibration=[torch.randn(32, 1, 8)])
    controller = ts.Controller(snn, time_steps=3)
    fresh = controller(torch.ones(2, 1, 8))
    assert not torch.equal(controller(torch.ones(2, 1, 8)), fresh)
    for wrong in (1, 3):
        with pytest.raises(SimulationError, match="environments"):
            controller(torch.ones(wrong, 1, 8))
    for done in (torch.tensor([True]), [True, False]):
        with pytest.raises((SimulationError, OptionError)):
            controller.reset(done)
    controller.reset()
    assert controller(torch.ones(3, 1, 8)).shape == (3, 2)
