"""Control: what surrounds the network does what Stable-Baselines3 does around it."""

import builtins

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import tospike as ts
from tospike.errors import DataError, MissingExtraError, OptionError
from tospike.tasks.episodes import Episodes

OFF_POLICY = {"buffer_size": 300, "learning_starts": 20}
MODELS = [
    (TD3, "Pendulum-v1", OFF_POLICY), (SAC, "Pendulum-v1", OFF_POLICY), (DDPG, "Pendulum-v1", OFF_POLICY),
    (PPO, "Pendulum-v1", {"n_steps": 32, "batch_size": 32}), (A2C, "Pendulum-v1", {}),
    (PPO, "CartPole-v1", {"n_steps": 32, "batch_size": 32}), (A2C, "CartPole-v1", {}),
    (DQN, "CartPole-v1", OFF_POLICY), (PPO, "FrozenLake-v1", {"n_steps": 32, "batch_size": 32}),
]  # fmt: skip


def small():
    return {
        "policy_kwargs": {"net_arch": [16, 16]},
        "seed": 0,
        "device": "cpu",
    }  # afresh, since Stable-Baselines3 adds to it


def normalised(name):
    return VecNormalize(DummyVecEnv([lambda: gymnasium.make(name)]))


def visited(name, count=60):
    """Observations of an environment under random actions."""
    environment = gymnasium.make(name)
    environment.action_space.seed(0)
    seen = [environment.reset(seed=0)[0]]
    while len(seen) < count:
        observation, _, terminated, truncated, _ = environment.step(environment.action_space.sample())
        seen.append(environment.reset()[0] if terminated or truncated else observation)
    return seen


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("algorithm", "name", "settings"), MODELS)
def test_acts_as_the_model_predicts(algorithm, name, settings, wrapped):
    if wrapped and name == "FrozenLake-v1":
        pytest.skip("numbers of places are not normalised")
    model = algorithm("MlpPolicy", normalised(name) if wrapped else name, **settings, **small()).learn(96)
    torch.manual_seed(1)
    with torch.no_grad():  # so that actions differ, which those of a policy that has hardly learned do not
        for key, parameter in model.policy.named_parameters():
            parameter.normal_(0, 0.0 if "bias" in key else 0.4)
    control, seen = ts.Control.from_sb3(model, name), visited(name)
    batch = np.stack([np.asarray(one) for one in seen])
    if wrapped:
        assert control.statistics is not None
        batch = model.get_vec_normalize_env().normalize_obs(batch)
    wanted, _ = model.predict(batch, deterministic=True)
    got = control.act(control.answer(control.observe(seen)))
    np.testing.assert_allclose(np.stack([np.asarray(one) for one in got]), wanted, rtol=1e-4, atol=1e-5)
    assert len(np.unique(wanted, axis=0)) > 1


@pytest.mark.parametrize(("algorithm", "name", "settings"), [MODELS[0], MODELS[5]])
def test_returns_are_those_of_evaluate_policy(algorithm, name, settings):
    model = algorithm("MlpPolicy", name, **settings, **small()).learn(64)
    episodes = Episodes(ts.Control.from_sb3(model, name), [3, 4, 5])
    assert sum(episodes.decisions(episodes.control.answer)) == episodes.lengths.sum()
    for number, seed in enumerate(episodes.seeds):
        alone = DummyVecEnv([lambda: gymnasium.make(name)])
        alone.seed(seed)
        returns, lengths = evaluate_policy(model, alone, 1, return_episode_rewards=True, warn=False)
        assert episodes.lengths[number] == lengths[0]
        assert episodes.returns[number] == pytest.approx(returns[0], rel=1e-4)


def test_the_statistics_can_be_given_and_may_not_be_of_another_environment():
    model = TD3("MlpPolicy", "Pendulum-v1", **OFF_POLICY, **small())
    normalise = normalised("Pendulum-v1")
    normalise.obs_rms.mean, normalise.obs_rms.var = np.array([0.5, 0.0, 1.0]), np.array([4.0, 1.0, 9.0])
    control = ts.Control.from_sb3(model, "Pendulum-v1", normalise=normalise)
    fed = control.observe([np.array([1.0, 0.0, 4.0], dtype=np.float32)])
    torch.testing.assert_close(fed, torch.tensor([[0.25, 0.0, 1.0]]), atol=1e-6, rtol=0)
    normalise.norm_obs = False
    assert ts.Control.from_sb3(model, "Pendulum-v1", normalise=normalise).statistics is None
    with pytest.raises(OptionError, match="VecNormalize"):
        ts.Control.from_sb3(model, "Pendulum-v1", normalise="statistics.pkl")
    with pytest.raises(DataError, match="statistics"):
        ts.Control("Pendulum-v1", control.network, statistics=ts.Statistics(np.zeros(4), np.ones(4)))


def test_outputs_become_actions():
    space = gymnasium.spaces.Box(np.array([-1.0, 0.0]), np.array([3.0, 10.0]), dtype=np.float64)

    class Place(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2, 2)), space

        def reset(self, seed=None, options=None):
            return np.zeros((2, 2), dtype=np.float32), {}

    policy = nn.Sequential(nn.Linear(4, 2))
    outputs = torch.tensor([[-1.0, 1.0], [0.5, 2.0]])
    wanted = {"clip": [[-1, 1], [0.5, 2]], "scale": [[-1, 10], [2, 15]], "none": [[-1, 1], [0.5, 2]]}
    for bounds, actions in wanted.items():
        control = ts.Control(Place, policy, bounds=bounds)
        np.testing.assert_allclose(np.stack(control.act(outputs)), actions)
        assert control.act(outputs)[0].dtype == np.float64
    assert np.stack(ts.Control(Place, policy).act(100 * outputs)).max() == 10
    assert (control.name, control.limit) == ("Place", None)
    convolution = nn.Sequential(nn.Flatten(), policy)
    assert ts.Control(Place, convolution, flatten=False).observe([np.ones((2, 2))]).shape == (1, 2, 2)
    space = gymnasium.spaces.Discrete(2, start=5)
    Place.action_space = space
    assert ts.Control(Place, policy).act(outputs) == [6, 6]


def test_the_network_is_a_copy():
    policy = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)).train()
    control = ts.Control("CartPole-v1", policy)
    assert policy.training
    with torch.no_grad():
        policy[0].weight.zero_()
    assert control.answer(torch.ones(1, 4)).abs().sum() > 0
    assert torch.equal(control.answer(torch.ones(1, 4)), control.answer(torch.ones(1, 4)))


def test_observations_are_those_of_the_episodes_of_the_network():
    control = ts.Control("CartPole-v1", nn.Sequential(nn.Linear(4, 2)).double(), options={"max_episode_steps": 20})
    batches = control.observations(100, seed=7, batch=32)
    assert [len(batch) for batch in batches] == [32, 32, 32, 4]
    assert batches[0].dtype == torch.float64
    rows = {tuple(row) for row in torch.cat(batches).tolist()}
    assert len(rows) == 100
    environment = gymnasium.make("CartPole-v1", max_episode_steps=20)
    observation, ended = environment.reset(seed=7)[0], False
    while not ended:
        assert tuple(control.observe([observation])[0].tolist()) in rows
        action = control.act(control.answer(control.observe([observation])))[0]
        observation, _, terminated, truncated, _ = environment.step(action)
        ended = terminated or truncated
    again = control.observations(100, seed=7, batch=32)
    assert all(torch.equal(one, other) for one, other in zip(batches, again, strict=True))
    with pytest.raises(OptionError, match="out of range"):
        control.observations(0, batch=0)


def policies():
    class Image(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 255, (36, 36, 3), np.uint8)
        action_space = gymnasium.spaces.Discrete(2)

    class Several(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (3,))
        action_space = gymnasium.spaces.MultiDiscrete([2, 3])

        def reset(self, seed=None, options=None):
            return np.zeros(3, dtype=np.float32), {}

    class Named(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Box(-1, 1, (3,))})
        action_space = gymnasium.spaces.Discrete(2)

    yield "NatureCNN", lambda: PPO("CnnPolicy", Image(), device="cpu"), Image
    yield "images", lambda: PPO("MlpPolicy", Image(), device="cpu"), Image
    yield "MultiCategorical", lambda: PPO("MlpPolicy", Several(), device="cpu"), Several
    yield "CombinedExtractor", lambda: PPO("MultiInputPolicy", Named(), device="cpu"), Named
    yield "gSDE", lambda: SAC("MlpPolicy", "Pendulum-v1", use_sde=True, device="cpu"), "Pendulum-v1"
    yield "Linear", lambda: nn.Linear(3, 1), "Pendulum-v1"


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # of Stable-Baselines3, about the images
@pytest.mark.parametrize(("said", "model", "environment"), list(policies()), ids=[said for said, *_ in policies()])
def test_what_a_policy_has_that_is_not_known_is_named(said, model, environment):
    with pytest.raises(OptionError, match=said):
        ts.Control.from_sb3(model(), environment)


def test_a_policy_that_computes_something_else_is_found_out():
    model = TD3("MlpPolicy", "Pendulum-v1", **OFF_POLICY, **small())
    plain = type(model.actor).forward
    model.actor.forward = lambda observation: -plain(model.actor, observation)
    with pytest.raises(OptionError, match="acts differently"):
        ts.Control.from_sb3(model, "Pendulum-v1")


@pytest.mark.parametrize(
    ("said", "settings"),
    [
        ("cannot be made", {"environment": "Nope-v0"}),
        ("cannot be made", {"options": {"nope": 1}}),
        ("environments that gymnasium makes", {"environment": lambda: gymnasium.make("Pendulum-v1"), "options": {"g": 9.81}}),
        ("does not take the observations", {"network": nn.Linear(4, 1)}),
        ("does not fit the actions", {"network": nn.Linear(3, 2)}),
        ("does not fit the actions", {"network": nn.LSTM(3, 1)}),
        ("Unknown bounds", {"bounds": "squash"}),
        ("`network`", {"network": "policy.pt"}),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(said, settings):
    with pytest.raises(OptionError, match=said):
        ts.Control(**({"environment": "Pendulum-v1", "network": nn.Linear(3, 1)} | settings))


def test_bounds_and_actions_that_cannot_be():
    class Free(gymnasium.Env):
        observation_space = action_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))

    class Both(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (3,))
        action_space = gymnasium.spaces.MultiBinary(3)

    with pytest.raises(OptionError, match="needs actions with bounds"):
        ts.Control(Free, nn.Linear(3, 3), bounds="scale")
    with pytest.raises(OptionError, match="such actions"):
        ts.Control(Both, nn.Linear(3, 3))


def without(monkeypatch, package):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {package!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)


@pytest.mark.parametrize("package", ["gymnasium", "stable_baselines3"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(package, monkeypatch):
    model = TD3("MlpPolicy", "Pendulum-v1", **OFF_POLICY, **small())
    without(monkeypatch, package)
    with pytest.raises(MissingExtraError, match=package) as caught:
        ts.Control.from_sb3(model, "Pendulum-v1")
    assert caught.value.problem.remedy == 'pip install "tospike[control]"'


def test_a_package_that_the_environment_misses_is_named_as_gymnasium_does(monkeypatch):
    def missing(*_, **__):
        raise gymnasium.error.DependencyNotInstalled("Box2D is not installed, you can install it by run `pip install \"gymnasium[box2d]\"`")  # fmt: skip

    monkeypatch.setattr(gymnasium, "make", missing)
    with pytest.raises(MissingExtraError, match="Box2D") as caught:
        ts.Control("LunarLander-v3", nn.Linear(8, 4))
    assert caught.value.problem.remedy == 'pip install "gymnasium[box2d]"'
