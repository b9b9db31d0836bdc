"""The callbacks: what they log is what they say, and training does not notice them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TransformReward
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, ConvertCallback
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnvBox, IdentityEnvMultiBinary, SimpleMultiObsEnv
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from sb3_nrl import BPTT, NRL, RMHL
from sb3_nrl.callbacks import GradientAlignmentCallback, HyperparametersCallback
from tests.envs import Algorithm, ScriptedEnv, arguments, each_rule

each_algorithm = pytest.mark.parametrize("algorithm", [NRL, RMHL, BPTT])


class Memory(KVWriter):
    """Keeps what is logged under one name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: list[float] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        if self.name in key_values:
            self.values.append(float(key_values[self.name]))

    def close(self) -> None:
        pass


def make(algorithm: Algorithm, n_envs: int = 1, rule: str = "average", seed: int = 0, **settings: Any) -> Any:
    """A model that acts in episodes of 7, 11 and 5 steps, with rewards for one of three actions."""
    env = DummyVecEnv([lambda: ScriptedEnv([7, 11, 5])] * n_envs)
    kwargs = {"net_arch": [8], "head_gain": 1.0, "use_bias": True}
    return algorithm(
        "MlpPolicy", env, seed=seed, device="cpu", **arguments(algorithm, rule, policy_kwargs=kwargs, **settings)
    )


def alignments(model: Any, n_steps: int, *callbacks: BaseCallback, **learn: Any) -> list[float]:
    """The logged cosine of every single update."""
    memory = Memory("train/alignment")
    model.set_logger(Logger(None, [memory]))
    model.learn(n_steps, [GradientAlignmentCallback(), *callbacks], log_interval=1, **learn)
    model.logger.dump()  # what came after the last log
    return memory.values


SETTINGS: dict[str, dict[str, Any]] = {
    "one environment": {},
    "several, folded before the reward comes": {"n_envs": 3, "n_steps": 2},
    "decaying traces": {"n_envs": 2, "n_steps": 3, "trace_decay": 0.8, "reward_timing": "nonzero"},
    "every step": {"n_envs": 2, "reward_timing": "step"},
}
CRITIC: dict[str, Any] = {"n_envs": 2, "n_steps": 4, "rule": "default"}
with_and_without_critic = pytest.mark.parametrize(
    "settings", [*SETTINGS.values(), CRITIC], ids=[*SETTINGS.keys(), "critic"]
)
with_either_rule = pytest.mark.parametrize("rule", ["default", "average"])


@with_and_without_critic
def test_exact_gradient_has_a_cosine_of_one(settings: dict[str, Any]) -> None:
    values = alignments(make(BPTT, **settings), 200)
    assert len(values) > 5
    assert values == pytest.approx([1.0] * len(values), abs=1e-4)


@with_and_without_critic
def test_many_noise_samples_come_close_to_it(settings: dict[str, Any]) -> None:
    values = alignments(make(NRL, noise_std=1e-3, n_noise_samples=3000, **settings), 100)
    assert len(values) > 2
    assert min(values) > 0.99


def test_few_noise_samples_point_roughly_along_it_and_hebbian_ones_nowhere() -> None:
    """With n = 11 nodes, the cosine of one pair of samples is about 1 / sqrt(n / 2) or less; of mere noise, 0."""
    nrl = np.mean(alignments(make(NRL, n_noise_samples=1, learning_rate=0.0), 1000))
    rmhl = np.mean(alignments(make(RMHL, noise_std=1e-3, learning_rate=0.0), 1000))
    assert 0.2 < nrl < 0.8
    assert abs(rmhl) < 0.1


@pytest.mark.parametrize("change", ["parameters", "frozen layer"])
def test_alignment_starts_anew_with_the_traces(change: str) -> None:
    def drop(seen: dict[str, Any], _: dict[str, Any]) -> bool:
        if model.num_timesteps % 15 == 0:
            if change == "parameters":
                model.set_parameters(model.get_parameters())
            else:
                model.policy.hidden_net[0].requires_grad_(model.num_timesteps % 2 == 0)
        cosines.append(model.logger.name_to_value.get("train/alignment", 1.0))
        return True

    cosines: list[float] = []
    env = ScriptedEnv([10])
    model = BPTT("MlpPolicy", env, n_steps=4, reward_prediction="average", seed=0, device="cpu")
    model.learn(200, [GradientAlignmentCallback(), ConvertCallback(drop)], log_interval=1000)
    assert model.logger.name_to_count["train/alignment"] > 10
    assert np.abs(np.array(cosines) - 1).max() < 1e-4


def test_an_interrupted_training_ends_the_comparison() -> None:
    model, memory = make(NRL), Memory("train/alignment")
    model.set_logger(Logger(None, [memory]))

    def interrupt(*_: Any) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.learn(50, [GradientAlignmentCallback(), ConvertCallback(interrupt)])
    model.learn(50, log_interval=1)
    assert memory.values == []


@each_algorithm
def test_cosine_is_that_of_the_update_and_the_gradient_of_the_steps(algorithm: Algorithm) -> None:
    """Recomputed for the second of two episodes, step by step, from what a callback can see."""
    model = make(algorithm, seed=1, trace_decay=0.9, n_steps=3, scale_rpe=False, learning_rate=0.1)
    seen: list[dict[str, Any]] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            names = ("obs", "actions", "rewards")
            seen.append({name: th.as_tensor(self.locals[name]) for name in names})
            return True

        def _on_rollout_start(self) -> None:
            self.weights = model.policy.parameters_to_vector()

    watch = Watch()
    (value,) = alignments(model, 7 + 11, watch)
    first, second = (th.cat([step["rewards"] for step in seen[part]]).sum() for part in (slice(7), slice(7, None)))
    update = th.as_tensor(model.policy.parameters_to_vector() - watch.weights)
    model.policy.load_from_vector(watch.weights)
    exact = th.zeros_like(update)
    for step in seen[7:]:
        log_prob = model.policy.get_distribution(step["obs"]).log_prob(step["actions"])
        gradients = th.autograd.grad(log_prob.sum(), list(model.policy.parameters()))
        exact = 0.9 * exact + th.cat([gradient.flatten() for gradient in gradients])
    assert second != first
    assert value == pytest.approx(th.cosine_similarity(update, (second - first) * exact, dim=0).item(), abs=1e-4)


@each_algorithm
@with_and_without_critic
def test_training_does_not_notice(algorithm: Algorithm, settings: dict[str, Any]) -> None:
    def train(more: dict[str, Any], *callbacks: BaseCallback) -> np.ndarray:
        model = make(algorithm, **settings, **more)
        model.learn(100, [*callbacks])
        model.learn(50, reset_num_timesteps=False)  # and nothing is left behind
        return model.policy.parameters_to_vector()

    for more in ({}, {"clean_passes": 2}) if algorithm is NRL else ({},):
        assert np.array_equal(train(more, GradientAlignmentCallback()), train(more))


def test_it_goes_with_the_end_of_training() -> None:
    model = make(NRL)
    values = alignments(model, 100)
    n_values = len(values)
    model.learn(100, log_interval=1, reset_num_timesteps=False)
    assert len(values) == n_values > 0


@with_either_rule
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
    envs = DummyVecEnv([lambda: TransformReward(env(), lambda _: rng.normal())] * 2)
    settings = {"n_steps": 4, "reward_timing": "step", "policy_kwargs": {"head_gain": 1.0}}
    model = BPTT(policy, envs, seed=0, device="cpu", **arguments(BPTT, rule, **settings))
    values = alignments(model, 40)
    assert len(values) > 2
    assert values == pytest.approx([1.0] * len(values), abs=1e-3)


@with_either_rule
def test_updates_for_steps_that_it_did_not_see_are_left_out(rule: str) -> None:
    """Both environments are in an episode when the callback comes, with steps of it in their traces."""
    model = make(BPTT, n_envs=2, rule=rule, n_steps=2, learning_rate=0.05)
    model.learn(2 * 12)
    values = alignments(model, 2 * 100, reset_num_timesteps=False)
    assert len(values) > 5
    assert values == pytest.approx([1.0] * len(values), abs=1e-4)


@each_rule
def test_checkpoints_are_saved_beside_it(algorithm: Algorithm, rule: str, tmp_path: Path) -> None:
    model = make(algorithm, rule=rule)
    alignments(model, 30, CheckpointCallback(10, str(tmp_path)))
    loaded = algorithm.load(tmp_path / "rl_model_30_steps.zip", env=model.get_env(), device="cpu")
    assert alignments(loaded, 60)


def test_gradient_alignment_is_for_these_algorithms() -> None:
    with pytest.raises(ValueError, match="NRL, RMHL and BPTT, not for A2C"):
        A2C("MlpPolicy", ScriptedEnv([5])).learn(10, GradientAlignmentCallback())


@pytest.mark.parametrize("algorithm", [NRL, A2C])
def test_hyperparameters_are_in_tensorboard(algorithm: Any, tmp_path: Path) -> None:
    kwargs = {"net_arch": [8]}
    model = algorithm(
        "MlpPolicy", ScriptedEnv([5]), learning_rate=0.03, policy_kwargs=kwargs, tensorboard_log=str(tmp_path), seed=5
    )
    model.learn(50, HyperparametersCallback(), log_interval=1)
    (run,) = tmp_path.iterdir()
    events = EventAccumulator(str(run)).Reload()
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for name in ("learning_rate", "n_envs", "policy_kwargs/net_arch", "n_steps", "max_grad_norm", "seed"):
        assert name.encode() in plugin
    assert b"[8]" in plugin
    assert b"tensorboard_log" not in plugin
