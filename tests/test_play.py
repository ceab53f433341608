"""Playing: closed loops of the SNN and of the ANN on the same seeds."""

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from torch import nn

import tospike as ts
from tospike.errors import OptionError, UnsupportedOperationError
from tospike.report import curve_table
from tospike.tasks.episodes import Episodes


def pole(damping=1.0):
    """A policy that balances the pole: it pushes towards where the pole falls, and without damping it does so for a while."""
    policy = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        for layer in policy[::2]:
            layer.weight.zero_()
            layer.bias.zero_()
        for k in range(4):  # each number of the observation, split by its sign
            policy[0].weight[2 * k, k], policy[0].weight[2 * k + 1, k] = 1.0, -1.0
        policy[2].weight.copy_(torch.eye(8))
        gains = torch.tensor([0.05, 0.3 * damping, 1.0, 0.4 * damping]).repeat_interleave(2) * torch.tensor(
            [1.0, -1.0]
        ).repeat(4)
        policy[4].weight.copy_(torch.stack([-gains, gains]))
    return policy


@pytest.fixture(scope="module")
def control():
    return ts.Control("CartPole-v1", pole(), options={"max_episode_steps": 60})


@pytest.fixture(scope="module")
def snn(control):
    return ts.convert(control.network, ts.CRPI(), calibration=control.observations(200))


def by_hand(snn, control, seed, steps, **settings):
    """One episode with an environment and a controller of its own."""
    environment, controller = (
        gymnasium.make("CartPole-v1", max_episode_steps=60),
        ts.Controller(snn, time_steps=steps, **settings),
    )
    observation, total, decisions, ended = environment.reset(seed=seed)[0], 0.0, 0, False
    while not ended:
        x = torch.as_tensor(observation)[None]
        action = int(controller(x).argmax())
        observation, reward, terminated, truncated, _ = environment.step(action)
        total, decisions, ended = total + reward, decisions + 1, terminated or truncated
    return total, decisions


@pytest.mark.parametrize("carry", [0.0, 0.5])
def test_returns_are_those_of_episodes_played_one_by_one(carry):
    control = ts.Control("CartPole-v1", pole(damping=0.0), options={"max_episode_steps": 60})
    snn = ts.convert(control.network, ts.CRPI(carry=carry), calibration=control.observations(200))
    result = ts.play(snn, control, time_steps=(1, 3), seeds=[5, 2, 9], progress=False)
    for t in (1, 3):
        played = [by_hand(snn, control, seed, t) for seed in (5, 2, 9)]
        returns = np.array([total for total, _ in played])
        assert result.scores[t] == pytest.approx({
            "return": returns.mean(), "std": returns.std(), "lowest": returns.min(), "length": returns.mean(),
            "ratio": 100 * returns.mean() / result.reference,
        })  # fmt: skip
        assert result.curve[t] == returns.mean()
    assert len({total for t in (1, 3) for total, _ in [by_hand(snn, control, seed, t) for seed in (5, 2, 9)]}) > 2


def test_a_delay_leaves_out_the_first_steps_of_each_decision(control):
    snn = ts.convert(control.network, ts.LTB(batches=20), calibration=control.observations(200))
    result = ts.play(snn, control, time_steps=(4, 6), seeds=[1, 2], delay=2, progress=False)
    assert result.delays == {4: 2, 6: 2}
    played = [by_hand(snn, control, seed, 6, delay=2)[0] for seed in (1, 2)]
    assert result.curve[6] == np.mean(played)
    x = torch.linspace(-0.2, 0.2, 12).reshape(3, 4)
    assert torch.equal(ts.Controller(snn, time_steps=6, delay=2)(x), snn(x, time_steps=6, delay=2))
    assert not torch.equal(snn(x, time_steps=6, delay=2), snn(x, time_steps=6))


def test_the_reference_is_the_network_itself(control, snn):
    result = ts.play(snn, control, time_steps=(2,), seeds=range(4), progress=False)
    episodes = Episodes(control, range(4))
    assert max(episodes.decisions(control.answer)) == 4
    assert result.reference_scores == episodes.scores()
    assert (result.headline, result.higher_is_better, result.samples, result.per) == ("return", True, 4, "decision")
    assert (result.task, result.approaches) == ("Control of CartPole-v1", "ANN clipped at its thresholds")
    alone = ts.play(snn, control, time_steps=(2,), seeds=range(4), reference=False, progress=False)
    assert (alone.reference, alone.reference_name, alone.curve) == (None, "", result.curve)
    assert "ratio" not in alone.scores[2]


def test_a_ratio_to_a_return_below_zero_says_nothing():
    policy = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1), nn.Tanh())
    control = ts.Control("Pendulum-v1", policy, options={"max_episode_steps": 10}, bounds="scale")
    snn = ts.convert(control.network, ts.CRPI(), calibration=control.observations(20))
    result = ts.play(snn, control, time_steps=(2,), seeds=[0], progress=False)
    assert result.reference < 0
    assert "ratio" not in result.scores[2]


@pytest.mark.parametrize(
    "method", [ts.CRPI(), ts.CRPI(carry=0), ts.Auto(128), ts.Auto(128).using(carry=0.5), ts.Auto(128, spikes="binary")]
)
def test_with_many_steps_the_return_is_that_of_the_ann(control, method):
    snn = ts.convert(control.network, method, calibration=control.observations(500))
    result = ts.play(snn, control, time_steps=(128,), seeds=range(3), progress=False)
    assert result.reference == 60
    assert result.curve[128] == pytest.approx(result.reference, rel=0.02)


def test_the_inverted_pendulum_of_mujoco():
    control = ts.Control(
        "InvertedDoublePendulum-v4",
        nn.Sequential(nn.Linear(11, 16), nn.ReLU(), nn.Linear(16, 1), nn.Tanh()),
        bounds="scale",
    )
    snn = ts.convert(control.network, ts.CRPI(), calibration=control.observations(100))
    result = ts.play(snn, control, time_steps=(512,), seeds=range(2), progress=False)
    assert result.curve[512] == pytest.approx(result.reference, rel=0.02)


def test_a_policy_with_tanh_inside_is_refused_as_any_network_and_one_with_relu_plays():
    for activation in (nn.Tanh, nn.ReLU):
        model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"activation_fn": activation}, seed=0, device="cpu")
        control = ts.Control.from_sb3(model, "CartPole-v1")
        calibration = control.observations(100)
        if activation is nn.Tanh:
            with pytest.raises(UnsupportedOperationError, match="tanh"):
                ts.convert(control.network, ts.CRPI(), calibration=calibration)
        else:
            snn = ts.convert(control.network, ts.CRPI(carry=0), calibration=calibration)
            wanted = control.answer(calibration[0])
            torch.testing.assert_close(
                snn(calibration[0], time_steps=1024), wanted, rtol=0, atol=0.02 * float(wanted.abs().max())
            )
            assert ts.play(snn, control, time_steps=(4,), seeds=range(3), progress=False).scores[4]["length"] > 5


def test_the_same_call_gives_the_same_result(control, snn):
    first, second = (ts.play(snn, control, time_steps=(2, 4), seeds=range(3), progress=False) for _ in range(2))
    assert first == second


def test_counts_are_those_of_one_decision(control):
    """Without a carry every decision is a run of its own, so an evaluation over the same observations counts the same."""
    snn = ts.convert(control.network, ts.CRPI(carry=0), calibration=control.observations(200))
    seen = []
    episodes, controller = Episodes(control, range(3)), ts.Controller(snn, time_steps=4)

    def answer(x):
        seen.append(x)
        return controller(x)

    assert sum(episodes.decisions(answer, controller.keep)) == sum(map(len, seen))
    x = torch.cat(seen)
    scored = ts.evaluate(snn, [(x, torch.zeros(len(x), dtype=torch.long))], time_steps=(2, 4), progress=False)
    played = ts.play(snn, control, time_steps=(2, 4), seeds=range(3), progress=False)
    assert played.spikes_per_neuron[4] == pytest.approx(scored.spikes_per_neuron[4])
    assert played.operations[4] == pytest.approx(scored.operations[4])
    assert played.rates == pytest.approx(scored.rates)
    assert (played.neurons, played.latency) == (scored.neurons, scored.latency)
    for one, other in zip(played.layers, scored.layers, strict=True):
        assert (one.name, one.part, one.multiply_adds) == (other.name, other.part, pytest.approx(other.multiply_adds))
        assert one.operations[4] == pytest.approx(other.operations[4])
        assert set(one.operations) == {2, 4}


def test_synchronous_neurons_play_too(control):
    snn = ts.convert(control.network, ts.Parallel(time_steps=8), calibration=control.observations(200))
    result = ts.play(snn, control, time_steps=(4, 8), seeds=range(2), progress=False)
    assert result.latency[8] > 8
    assert 0 < result.spikes_per_neuron[4] < result.spikes_per_neuron[8]


def test_the_result_is_saved_and_reported_as_any_other(control, snn, tmp_path):
    result = ts.play(snn, control, time_steps=(2, 4), seeds=range(2), save=tmp_path / "r.json", progress=False)
    assert ts.Result.from_json((tmp_path / "r.json").read_text()) == result
    cost = ts.energy(result)
    assert set(cost.snn) == {2, 4}
    assert "for one decision" in str(cost)
    page = ts.write_report({"CRPI": result}, tmp_path / "report.html", snns={"CRPI": snn}).read_text()
    assert "return over T; 2 episodes" in page
    assert "Energy for one decision" in page
    assert curve_table({"CRPI": result}).row_count == 1


class Stop(gymnasium.Wrapper):
    """An environment whose player presses Ctrl-C."""

    left = 10**9

    def step(self, action):
        Stop.left -= 1
        if Stop.left < 0:
            raise KeyboardInterrupt
        return self.env.step(action)


@pytest.fixture
def stopped(monkeypatch):
    def after(decisions):
        monkeypatch.setattr(Stop, "left", decisions)

    control = ts.Control(lambda: Stop(gymnasium.make("CartPole-v1", max_episode_steps=60)), pole())
    return control, after


def test_an_interrupt_keeps_the_steps_that_were_finished(stopped, snn, tmp_path):
    control, after = stopped
    whole = ts.play(snn, control, time_steps=(2, 4), seeds=range(2), progress=False)
    decisions = [round(2 * scores["length"]) for scores in (whole.reference_scores, *whole.scores.values())]
    after(sum(decisions[:2]) + 3)
    with pytest.raises(ts.Interrupted) as caught:
        ts.play(snn, control, time_steps=(2, 4), seeds=range(2), save=tmp_path / "r.json", progress=False)
    kept = caught.value.result
    assert (kept.finished, kept.curve, kept.reference) == (False, {2: whole.curve[2]}, whole.reference)
    assert ts.Result.from_json((tmp_path / "r.json").read_text()) == kept
    after(decisions[0] + 3)
    with pytest.raises(KeyboardInterrupt) as stopped_early:
        ts.play(snn, control, time_steps=(2, 4), seeds=range(2), progress=False)
    assert not isinstance(stopped_early.value, ts.Interrupted)


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        ("`time_steps` is empty", {"time_steps": ()}),
        ("integers >= 0, each once", {"seeds": []}),
        ("integers >= 0, each once", {"seeds": [1, 1]}),
        ("integers >= 0, each once", {"seeds": [-1]}),
        ("`time_steps`", {"time_steps": (0, 2)}),
        ("`delay`", {"delay": 2.5}),
        ("does not go with a carry", {"delay": 1}),
        ("`control`", {"control": "CartPole-v1"}),
        ("`snn`", {"snn": pole()}),
    ],
)
def test_settings_that_cannot_be_are_named(control, snn, said, settings):
    given = {"snn": snn, "control": control, "time_steps": (2,), "seeds": [0], "progress": False} | settings
    with pytest.raises(OptionError, match=said):
        ts.play(given.pop("snn"), given.pop("control"), **given)


def test_an_snn_of_another_environment_is_refused(control):
    for inputs, outputs, said in ((3, 2, "does not take"), (4, 3, "does not fit the actions")):
        other = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))
        snn = ts.convert(other, ts.CRPI(), calibration=[torch.randn(16, inputs)])
        with pytest.raises(OptionError, match=said):
            ts.play(snn, control, time_steps=(2,), progress=False)
