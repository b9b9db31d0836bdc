"""What all tests share: one factory of models, and the environments in ``tests/envs.py``."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_nrl import BPTT, NRL, PAPER, RMHL, ThreeFactorAlgorithm
from tests.envs import ScriptedEnv

AVERAGE: dict[str, Any] = {name: value for name, value in PAPER["BPTT"].items() if name != "learning_rate"}
"""Learning from a running average of rewards, on the network of the paper."""

PLAIN: dict[str, Any] = {
    "n_steps": 32,
    "norm_obs": False,
    "norm_reward": False,
    "vf_coef": 1.0,
    "learning_rate": 5e-3,
}
"""A critic that learns from observations and rewards as they are, at the actor's rate: easy to compute by hand."""

each_algorithm = pytest.mark.parametrize("algorithm", [NRL, RMHL, BPTT])

each_rule = pytest.mark.parametrize(
    ("algorithm", "rule"),
    [(NRL, "critic"), (NRL, "average"), (RMHL, "average"), (BPTT, "critic"), (BPTT, "average")],
)
"""Each algorithm with each reward predictor that it has."""


def make_model(
    algorithm: type[ThreeFactorAlgorithm] = NRL,
    env: gymnasium.Env | VecEnv | str | tuple[int, ...] | list[int] = (5, 3),
    rule: str = "critic",
    n_envs: int = 1,
    policy: Any = "MlpPolicy",
    **settings: Any,
) -> Any:
    """
    Make a model on the CPU with seed 0.

    :param algorithm: The algorithm
    :param env: Environment, its registered name, or the lengths of a ``ScriptedEnv``'s episodes
    :param rule: ``"average"`` for the arguments of ``AVERAGE`` that the algorithm has, ``"critic"`` for its defaults
        with ``PLAIN``
    :param n_envs: Number of environments, for a name or lengths
    :param policy: Policy
    :param settings: Further arguments of the algorithm; ``policy_kwargs`` are added to those of the rule
    :return: The model
    """
    if isinstance(env, str):
        env = make_vec_env(env, n_envs, seed=0)
    elif isinstance(env, tuple | list):
        env = make_vec_env(partial(ScriptedEnv, env), n_envs, seed=0)
    shared = AVERAGE if rule == "average" else PLAIN
    shared = {name: shared[name] for name in inspect.signature(algorithm).parameters.keys() & shared.keys()}
    policy_kwargs = shared.pop("policy_kwargs", {}) | settings.pop("policy_kwargs", {})
    return algorithm(policy, env, **{"seed": 0, "device": "cpu", **shared, **settings, "policy_kwargs": policy_kwargs})


def weights_at_once_and_in_parts(
    make: Callable[[], ThreeFactorAlgorithm], n_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights after a training of so many steps, and after two of half as many."""
    found = []
    for parts in ([n_steps], [n_steps // 2] * 2):
        model = make()
        th.manual_seed(0)
        for place, steps in enumerate(parts):
            model.learn(steps, reset_num_timesteps=place == 0)
        found.append(weights(model))
    return found[0], found[1]


def weights(model: ThreeFactorAlgorithm) -> np.ndarray:
    """All weights and biases that learn, in one vector."""
    return th.cat([parameter.detach().flatten() for parameter in model.policy.learnable]).cpu().numpy()
