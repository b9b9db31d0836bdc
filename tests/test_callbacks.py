"""The callbacks log the documented quantities, and do not change the training."""

import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TransformReward
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, ConvertCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnvBox, IdentityEnvMultiBinary, SimpleMultiObsEnv
from stable_baselines3.common.logger import KVWriter, Logger

from sb3_nrl import BPTT, NRL, RMHL
from sb3_nrl.callbacks import GradientAlignmentCallback
from tests.conftest import each_algorithm, each_rule, make_model, weights
from tests.envs import ClockEnv, ScriptedEnv


class Memory(KVWriter):
    """Stores the values that are logged under one name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: list[float] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        if self.name in key_values:
            self.values.append(float(key_values[self.name]))

    def close(self) -> None:
        pass


def make(algorithm: Any = NRL, rule: str = "average", env: Any = (7, 11, 5), **settings: Any) -> Any:
    """A model that acts in episodes of 7, 11 and 5 steps, with rewards for one of three actions."""
    kwargs = {"net_arch": [8], "head_gain": 1.0, "use_bias": True, **settings.pop("policy_kwargs", {})}
    return make_model(algorithm, env, rule, policy_kwargs=kwargs, **settings)


def alignments(model: Any, n_steps: int, *callbacks: BaseCallback, **learn: Any) -> list[float]:
    """The logged cosine of every single update."""
    memory = Memory("train/alignment")
    model.set_logger(Logger(None, [memory]))
    model.learn(n_steps, [GradientAlignmentCallback(), *callbacks], log_interval=1, **learn)
    model.logger.dump()  # what came after the last log
    return memory.values


SETTINGS: dict[str, dict[str, Any]] = {
    "one environment": {},
    "several, and windows that end before a reward": {"n_envs": 3, "n_steps": 2},
    "decaying traces": {"n_envs": 2, "n_steps": 3, "trace_decay": 0.8, "reward_timing": "nonzero"},
    "every step": {"n_envs": 2, "reward_timing": "step"},
    "critic": {"n_envs": 2, "n_steps": 4, "rule": "critic"},
}
SPIKES: dict[str, Any] = {"policy": "MlpLifPolicy", "policy_kwargs": {"net_arch": [4], "spike_cost": 1.0}}
each_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


@pytest.mark.parametrize(
    "settings", [*SETTINGS.values(), SETTINGS["critic"] | SPIKES], ids=[*SETTINGS, "cost of spikes"]
)
def test_exact_gradient_has_a_cosine_of_one(settings: dict[str, Any]) -> None:
    values = alignments(make(BPTT, **settings), 200)
    assert len(values) > 5
    assert values == pytest.approx([1.0] * len(values), abs=1e-4)


@each_setting
def test_many_noise_samples_come_close_to_it(settings: dict[str, Any]) -> None:
    values = alignments(make(NRL, noise_std=1e-3, n_noise_samples=10_000, **settings), 100)
    assert len(values) > 2
    assert min(values) > 0.99


def test_one_noise_sample_has_the_cosine_of_a_random_direction() -> None:
    """
    With one layer of n nodes and episodes of one step, update and gradient are (ρ ξ) ⊗ x and g ⊗ x, and ρ = g · ξ. So
    the cosine is |ξ · g| / ‖ξ‖ ‖g‖, of mean Γ(n / 2) / √π Γ((n + 1) / 2) for Gaussian ξ. RMHL's small noise is
    independent of g, so its cosine has mean 0.
    """
    env, n_nodes = ScriptedEnv([1]), 8
    env.action_space = gymnasium.spaces.Discrete(n_nodes)

    def mean_cosine(algorithm: Any) -> tuple[float, int]:
        model = make(algorithm, env=env, learning_rate=0.0, noise_std=1e-3, policy_kwargs={"net_arch": []}, **samples)
        model.learn(600, GradientAlignmentCallback(), log_interval=10_000)
        logger = model.logger
        return logger.name_to_value["train/alignment"], logger.name_to_count["train/alignment"]

    samples: dict[str, Any] = {"n_noise_samples": 1}
    mean, n_updates = mean_cosine(NRL)
    expected = math.gamma(n_nodes / 2) / (math.sqrt(math.pi) * math.gamma((n_nodes + 1) / 2))
    assert n_updates > 100  # δ is 0 where the reward is as the one before
    assert mean == pytest.approx(expected, abs=4 * math.sqrt((1 / n_nodes - expected**2) / n_updates))
    samples = {}
    mean, n_updates = mean_cosine(RMHL)
    assert mean == pytest.approx(0, abs=4 / math.sqrt(n_nodes * n_updates))


@each_algorithm
def test_cosine_is_that_of_the_update_and_the_gradient_of_the_steps(algorithm: Any) -> None:
    """The cosine of the second of two episodes is recomputed step by step, from the information of a callback."""
    model = make(algorithm, seed=1, trace_decay=0.9, n_steps=3, scale_rpe=False, learning_rate=0.1)
    seen: list[dict[str, Any]] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            names = ("obs", "actions", "rewards")
            seen.append({name: th.as_tensor(self.locals[name]) for name in names})
            return True

        def _on_rollout_start(self) -> None:
            self.parameters = model.policy.parameters_to_vector()

    watch = Watch()
    (value,) = alignments(model, 7 + 11, watch)
    first, second = (th.cat([step["rewards"] for step in seen[part]]).sum() for part in (slice(7), slice(7, None)))
    update = th.as_tensor(model.policy.parameters_to_vector() - watch.parameters)
    model.policy.load_from_vector(watch.parameters)
    exact = th.zeros_like(update)
    for step in seen[7:]:
        log_prob = model.policy.get_distribution(step["obs"]).log_prob(step["actions"])
        gradients = th.autograd.grad(log_prob.sum(), list(model.policy.parameters()))
        exact = 0.9 * exact + th.cat([gradient.flatten() for gradient in gradients])
    assert second != first
    assert value == pytest.approx(th.cosine_similarity(update, (second - first) * exact, dim=0).item(), abs=1e-4)


@each_rule
def test_training_does_not_notice(algorithm: Any, rule: str) -> None:
    def train(passes: dict[str, Any], *callbacks: BaseCallback) -> tuple[np.ndarray, float]:
        model = make(algorithm, rule, n_envs=3, n_steps=4, **passes)
        model.learn(120, [*callbacks])
        model.learn(60, reset_num_timesteps=False)  # and nothing is left behind
        return weights(model), th.rand(()).item()

    poisson = {"policy": "MlpLifPolicy", "policy_kwargs": {"net_arch": [4], "encoding": "poisson"}}
    for passes in ({}, {"n_baseline_passes": 2}, poisson) if algorithm is NRL else ({},):
        (plain, draw), (watched, next_draw) = train(passes), train(passes, GradientAlignmentCallback())
        assert np.array_equal(watched, plain)
        assert next_draw == draw


@pytest.mark.parametrize("copy", [deepcopy, lambda model: cloudpickle.loads(cloudpickle.dumps(model))])
def test_a_model_that_is_watched_can_be_copied(copy: Any) -> None:
    def copy_once(seen: dict[str, Any], _: Any) -> bool:
        if model.num_timesteps == 37:
            copies.append(copy(seen["self"]))
        return True

    copies: list[Any] = []
    model = make()
    model.learn(64, [GradientAlignmentCallback(), ConvertCallback(copy_once)])
    assert copies[0].watchers == []  # the copy is of the model, not of those who watch it
    copies[0].learn(64 - 37, reset_num_timesteps=False)
    assert copies[0].num_timesteps == model.num_timesteps


def test_it_goes_with_the_end_of_training() -> None:
    model = make()
    values = alignments(model, 100)
    n_values = len(values)
    model.learn(100, log_interval=1, reset_num_timesteps=False)
    assert len(values) == n_values > 0


def test_an_interrupted_training_ends_the_comparison() -> None:
    model, memory = make(), Memory("train/alignment")
    model.set_logger(Logger(None, [memory]))

    def interrupt(*_: Any) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.learn(50, [GradientAlignmentCallback(), ConvertCallback(interrupt)])
    model.learn(50, log_interval=1)
    assert memory.values == []


@pytest.mark.parametrize("rule", ["critic", "average"])
@pytest.mark.parametrize(
    ("policy", "env"),
    [
        ("MlpPolicy", lambda: IdentityEnvBox(ep_length=5)),
        ("MlpPolicy", lambda: IdentityEnvMultiBinary(3, ep_length=5)),
        ("CnnPolicy", lambda: FakeImageEnv(screen_height=36, screen_width=36)),
        ("MultiInputPolicy", SimpleMultiObsEnv),
    ],
    ids=["box", "multi-binary", "image", "dict"],
)
def test_every_kind_of_network_and_action(policy: str, env: Callable[[], gymnasium.Env], rule: str) -> None:
    rng = np.random.default_rng(0)
    envs = make_vec_env(lambda: TransformReward(env(), lambda _: rng.normal()), 2)
    values = alignments(make(BPTT, rule, envs, policy=policy, n_steps=4, reward_timing="step"), 40)
    assert len(values) > 2
    assert values == pytest.approx([1.0] * len(values), abs=1e-3)


@pytest.mark.parametrize("rule", ["critic", "average"])
def test_updates_for_steps_that_it_did_not_see_are_left_out(rule: str) -> None:
    """Both environments are within an episode when the callback starts, and their traces include earlier steps."""
    model = make(BPTT, rule, n_envs=2, n_steps=2, learning_rate=0.05).learn(2 * 12)
    values = alignments(model, 2 * 100, reset_num_timesteps=False)
    assert len(values) > 5
    assert values == pytest.approx([1.0] * len(values), abs=1e-4)


@pytest.mark.parametrize("change", ["parameters", "frozen layer"])
def test_it_starts_anew_with_the_traces(change: str) -> None:
    def drop(*_: Any) -> bool:
        if model.num_timesteps % 15 == 0:
            if change == "parameters":
                model.set_parameters(model.get_parameters())
            else:
                model.policy.actor.hidden[0].requires_grad_(model.num_timesteps % 2 == 0)
                model.refresh()
        return True

    env = ClockEnv([[1.0] * 10, [2.0] * 10])
    model = make(BPTT, env=env, n_steps=4)
    values = alignments(model, 200, ConvertCallback(drop))
    assert len(values) > 10
    assert values == pytest.approx([1.0] * len(values), abs=1e-4)


def test_checkpoints_are_saved_beside_it(tmp_path: Path) -> None:
    model = make()
    alignments(model, 30, CheckpointCallback(10, str(tmp_path)))
    loaded = NRL.load(tmp_path / "rl_model_30_steps.zip", env=model.get_env(), device="cpu")
    assert loaded.num_timesteps == 30 and loaded.watchers == []
    assert len(alignments(loaded, 60)) > 0


def test_gradient_alignment_is_for_these_algorithms() -> None:
    with pytest.raises(ValueError, match="NRL, RMHL and BPTT, not for A2C"):
        A2C("MlpPolicy", ScriptedEnv([5])).learn(10, GradientAlignmentCallback())
