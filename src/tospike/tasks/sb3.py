"""Policies of Stable-Baselines3: the network in them, and what surrounds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from tospike.errors import OptionError, Problem, missing_extra
from tospike.tasks.environments import Bounds, Statistics

if TYPE_CHECKING:
    from tospike.tasks.control import Control

PROBES = 8  # observations on which the task and the model have to agree
TOLERANCE = 1e-4  # of the range of actions; batches of another size are added up in another order


def policy_of(model: Any) -> tuple[nn.Module, Bounds]:
    """Return the deterministic policy of a model as a plain network, and what is done to its outputs.

    Raises:
        OptionError: The policy has parts that are not known; all are named.
        MissingExtraError: Stable-Baselines3 is not installed.
    """
    try:
        from stable_baselines3.common.policies import ActorCriticPolicy
        from stable_baselines3.dqn.policies import DQNPolicy
        from stable_baselines3.sac.policies import SACPolicy
        from stable_baselines3.td3.policies import TD3Policy
    except ImportError as error:
        raise missing_extra("stable_baselines3", "control", "reading its models") from error
    policy = getattr(model, "policy", None)
    if not isinstance(policy, (TD3Policy, SACPolicy, ActorCriticPolicy, DQNPolicy)):
        raise OptionError(
            "The policy is of a kind that the task does not know", got=type(policy if policy is not None else model).__name__,
            expected="that of TD3, DDPG, SAC, PPO, A2C or DQN",
            remedy="Pass its network yourself: ts.Control(environment, network).",
        )  # fmt: skip
    _refuse_unknown_parts(model, policy)
    if isinstance(policy, TD3Policy):
        return policy.actor.mu, "scale"
    if isinstance(policy, SACPolicy):
        return nn.Sequential(*policy.actor.latent_pi, policy.actor.mu, nn.Tanh()), "scale"
    if isinstance(policy, DQNPolicy):
        return policy.q_net.q_net, "none"
    return nn.Sequential(*policy.mlp_extractor.policy_net, policy.action_net), "clip"


def _refuse_unknown_parts(model: Any, policy: Any) -> None:
    from stable_baselines3.common import distributions, preprocessing, torch_layers

    owner = getattr(policy, "actor", None) or getattr(policy, "q_net", None) or policy
    problems = []
    extractor = getattr(owner, "pi_features_extractor", None) or owner.features_extractor
    if type(extractor) is not torch_layers.FlattenExtractor:
        problems.append(Problem("The features extractor computes something", got=type(extractor).__name__, expected="FlattenExtractor",
                                remedy="Pass extractor and policy as one network: ts.Control(environment, network, flatten=False)."))  # fmt: skip
    if preprocessing.is_image_space(model.observation_space):
        problems.append(Problem("Observations are images", got=str(model.observation_space), expected="vectors",
                                remedy="Pass a network that scales them itself: ts.Control(environment, network, flatten=False)."))  # fmt: skip
    if getattr(model, "use_sde", False):
        problems.append(Problem("The policy explores by its state (gSDE)", got="use_sde=True", expected="use_sde=False",
                                remedy="Train without gSDE, or pass the network yourself."))  # fmt: skip
    lstm = [name for name, _ in policy.named_children() if name.startswith("lstm")]
    if lstm:
        problems.append(Problem("The policy remembers", got=", ".join(lstm), expected="a policy without a recurrent part",
                                remedy="Train a policy without one."))  # fmt: skip
    known = (distributions.DiagGaussianDistribution, distributions.CategoricalDistribution)
    shown = getattr(policy, "action_dist", None)
    if shown is not None and not problems and not isinstance(shown, known):
        problems.append(Problem("The distribution of actions is not known", got=type(shown).__name__,
                                expected="a Gaussian or one choice", remedy="Wrap the environment so that it has Box or Discrete actions."))  # fmt: skip
    if problems:
        raise OptionError("The policy cannot be taken over", problems=problems)


def statistics_of(model: Any, normalise: Any) -> Statistics | None:
    """Return the statistics of a ``VecNormalize``, of the model's own when None is given; None without one.

    Raises:
        OptionError: It is something else, or its statistics are of several observations.
    """
    from stable_baselines3.common.vec_env import VecNormalize

    found = model.get_vec_normalize_env() if normalise is None else normalise
    if found is None:
        return None
    if not isinstance(found, VecNormalize) or isinstance(getattr(found, "obs_rms", None), dict):
        raise OptionError(
            "`normalise` is no VecNormalize of one observation", got=type(found).__name__, expected="a VecNormalize",
            remedy="Pass VecNormalize.load(path, vector_environment).",
        )  # fmt: skip
    if not found.norm_obs:
        return None
    return Statistics(found.obs_rms.mean.copy(), found.obs_rms.var.copy(), found.epsilon, found.clip_obs)


def check_agreement(control: Control, model: Any) -> None:
    """Raise unless the task acts as the model predicts, on first observations of the environment.

    Raises:
        OptionError: It acts differently.
    """
    made = control.make()
    try:
        seen = [made.reset(seed=seed)[0] for seed in range(PROBES)]
    finally:
        made.close()
    fed = control.observe(seen)
    got = np.stack([np.asarray(action) for action in control.act(control.answer(fed))])
    batch = np.stack([np.asarray(one) for one in seen])
    if control.statistics is not None:
        batch = control.statistics(batch).astype(np.float32)
    wanted, _ = model.predict(batch, deterministic=True)
    if not np.allclose(got, wanted, atol=TOLERANCE * (float(np.abs(wanted).max()) or 1.0)):
        raise OptionError(
            "The task acts differently from the model", got=f"{got.tolist()[0]} for the first observation", expected=str(wanted.tolist()[0]),
            remedy="The policy computes something that the task does not know; pass its network yourself.",
        )  # fmt: skip
