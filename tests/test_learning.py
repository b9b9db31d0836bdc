"""The algorithms learn tasks that an untrained policy cannot solve."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_nrl import BPTT, NRL, RMHL
from tests.conftest import make_model
from tests.envs import DelayedChoiceEnv, LitHalfEnv


def mean_return(model: Any, n_episodes: int) -> float:
    returns, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=n_episodes, return_episode_rewards=True)
    return float(np.mean(returns))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [NRL, BPTT])
def test_balances_the_pole(algorithm: Any) -> None:
    """A random policy keeps the pole up for 22 steps on average, and one that ignores the state less than 100."""
    model = make_model(algorithm, "CartPole-v1", n_envs=8).learn(24_000)
    assert mean_return(model, 16) > 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "delay", "n_steps"), [(NRL, 0, 4_000), (NRL, 10, 30_000), (BPTT, 10, 30_000), (RMHL, 0, 20_000)]
)
def test_finds_the_action_that_pays_later(algorithm: Any, delay: int, n_steps: int) -> None:
    """Without credit that reaches ``delay`` steps back, half of the choices are right."""
    env = make_vec_env(lambda: DelayedChoiceEnv(delay), 8, seed=0)
    settings: dict[str, Any] = {"learning_rate": 0.1, "scale_rpe": False, "reward_smoothing": 0.1}
    model = make_model(algorithm, env, "average", **settings)
    assert mean_return(model, 100) < 0.75
    assert mean_return(model.learn(n_steps), 100) > 0.9


@pytest.mark.slow
def test_defaults_learn_from_images() -> None:
    """A policy that ignores the image is right in one half of the steps."""
    model = NRL("CnnPolicy", LitHalfEnv(), seed=0, device="cpu").learn(1_000)
    assert mean_return(model, 100) > 0.9
