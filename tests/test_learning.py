"""The algorithms learn what a policy that does not learn cannot do."""

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_nrl import BPTT, NRL, RMHL
from tests.envs import Algorithm, DelayedChoiceEnv, arguments


@pytest.mark.parametrize("algorithm", [NRL, BPTT])
def test_balances_the_pole(algorithm: Algorithm) -> None:
    """A random policy keeps the pole up for 22 steps on average, and none that ignores the state for 100."""
    env = make_vec_env("CartPole-v1", seed=0)
    model = algorithm("MlpPolicy", env, seed=0)
    model.learn(40_000)
    returns, _ = evaluate_policy(model, env, n_eval_episodes=20, return_episode_rewards=True)
    assert np.mean(returns) > 100


@pytest.mark.parametrize(
    ("algorithm", "delay", "n_steps"), [(NRL, 0, 4_000), (NRL, 10, 30_000), (BPTT, 10, 30_000), (RMHL, 0, 20_000)]
)
def test_finds_the_action_that_pays_later(algorithm: Algorithm, delay: int, n_steps: int) -> None:
    """Without credit that reaches ``delay`` steps back, half of the choices are right."""
    env = make_vec_env(lambda: DelayedChoiceEnv(delay), seed=0)
    settings = {"learning_rate": 0.1, "scale_rpe": False, "reward_smoothing": 0.1}
    model = algorithm("MlpPolicy", env, seed=0, **arguments(algorithm, "average", **settings))
    model.learn(n_steps)
    returns, _ = evaluate_policy(model, env, n_eval_episodes=50, return_episode_rewards=True)
    assert np.mean(returns) > 0.9
