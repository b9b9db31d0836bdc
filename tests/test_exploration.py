"""Continuous actions whose random parts are correlated in time: z ← c z + √(1 − c²) ε."""

import pathlib
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_nrl import NRL
from sb3_nrl.policies import NoisyPolicy
from tests.conftest import make_model, weights
from tests.policies import run_in_torch


class StillEnv(gymnasium.Env):
    """Always the same observation, episodes of three steps, and actions that are never clipped."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Box(-100, 100, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.time = 0
        return np.ones(4, np.float32), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return np.ones(4, np.float32), 1.0, False, self.time == 3, {}


def make_explorer(correlation: Any = 0.8, **settings: Any) -> Any:
    """Two environments and a policy that does not change, with a standard deviation of its own for each component."""
    kwargs = {"head_gain": 1.0, "action_correlation": correlation, "net_arch": [5]}
    model = make_model(NRL, DummyVecEnv([StillEnv] * 2), policy_kwargs=kwargs, **{"learning_rate": 0.0, **settings})
    model.policy.actor.head.log_std.weight.data.copy_(th.tensor([[0.5], [-1.0]]))
    return model


def gaussian_of(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation."""
    gaussian = model.policy.get_distribution(th.ones(1, 4)).distribution
    return gaussian.mean.detach().double().numpy()[0], gaussian.stddev.detach().double().numpy()[0]


def explore(model: Any, n_steps: int, **learn: Any) -> tuple[np.ndarray, np.ndarray]:
    """How many standard deviations the actions of a training are from their means, shape (T, E, A), and log π."""
    actions, log_probs = [], []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        assert local["actions"].dtype == np.float32
        actions.append(local["actions"].astype(float))
        log_probs.append(local["log_probs"])
        return True

    model.learn(2 * n_steps, watch, **learn)
    mean, std = gaussian_of(model)
    return (np.array(actions) - mean) / std, np.array(log_probs)


def drawn(n_steps: int) -> np.ndarray:
    """The random numbers of the policy's generator with this seed, shape (T, E, A)."""
    return np.random.default_rng(5).standard_normal((n_steps, 2, 2), dtype=np.float32)


@pytest.mark.parametrize("correlation", [0.0, 0.8, np.float64(0.8)], ids=str)
@pytest.mark.parametrize("torch", [False, True], ids=["NumPy", "PyTorch"])
def test_random_parts_follow_from_those_of_the_step_before(correlation: float, torch: bool) -> None:
    """This holds across episodes and trainings. log π(a|s) does not include the correlation."""
    model = make_explorer(correlation=correlation)
    if torch:
        run_in_torch(model.policy)
    new = drawn(15)
    model.set_random_seed(5)
    parts = [explore(model, 10), explore(model, 5, reset_num_timesteps=False)]
    z, log_probs = (np.concatenate(part) for part in zip(*parts, strict=True))
    expected = new.copy()
    for step in range(1, 15):
        expected[step] = correlation * expected[step - 1] + (1 - correlation**2) ** 0.5 * new[step]
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
    densities = -0.5 * expected**2 - 0.5 * np.log(2 * np.pi) - [0.5, -1.0]
    np.testing.assert_allclose(log_probs, densities.sum(2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("restart", ["learn", "set_env", "load"])
def test_random_parts_start_anew_where_the_environments_do(restart: str, tmp_path: pathlib.Path) -> None:
    model = make_explorer()
    explore(model, 7)
    if restart == "set_env":
        model.set_env(DummyVecEnv([StillEnv] * 2))
    elif restart == "load":
        model.save(tmp_path / "model")
        model = NRL.load(tmp_path / "model", env=DummyVecEnv([StillEnv] * 2), device="cpu")
    new = drawn(2)
    model.set_random_seed(5)
    z, _ = explore(model, 2, reset_num_timesteps=restart == "learn")
    np.testing.assert_allclose(z, [new[0], 0.8 * new[0] + 0.6 * new[1]], rtol=1e-4, atol=1e-5)


def test_predictions_are_not_correlated_and_do_not_disturb_a_training() -> None:
    disturbed, other = (make_explorer(0.99, learning_rate=0.01) for _ in range(2))
    for model in (disturbed, other):
        th.manual_seed(1)
        model.learn(64)
    mean, std = gaussian_of(disturbed)
    obs = np.ones(4, np.float32)
    np.testing.assert_allclose(disturbed.predict(obs, deterministic=True)[0], mean, rtol=1e-5)
    z = np.array([(disturbed.predict(obs)[0] - mean) / std for _ in range(1000)])
    # Standard errors 0.02 and 0.03.
    assert z.std(axis=0) == pytest.approx([1, 1], abs=0.1)
    assert abs(np.corrcoef(z[1:, 0], z[:-1, 0])[0, 1]) < 0.15
    for model in (disturbed, other):
        th.manual_seed(2)
        model.learn(64, reset_num_timesteps=False)
    np.testing.assert_array_equal(weights(disturbed), weights(other))


def test_a_saved_policy_keeps_its_correlation(tmp_path: pathlib.Path) -> None:
    make_explorer().policy.save(str(tmp_path / "policy"))
    assert NoisyPolicy.load(str(tmp_path / "policy")).action_correlation == 0.8


@pytest.mark.parametrize("argument", ["action_correlation", "log_std_init"])
def test_width_and_direction_of_exploration_are_for_continuous_actions(argument: str) -> None:
    with pytest.raises(ValueError, match=rf"{argument}=0\.5: must be 0 unless actions are a Box"):
        make_model(NRL, policy_kwargs={argument: 0.5})
