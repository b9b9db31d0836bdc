"""What Stable-Baselines3 promises of an algorithm: NRL, RMHL and BPTT have to keep it."""

import io
import json
import math
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.distributions import Distribution, SquashedDiagGaussianDistribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import (
    FakeImageEnv,
    IdentityEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
    SimpleMultiObsEnv,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import nn

from sb3_nrl import BPTT, NRL, RMHL, networks
from sb3_nrl.networks import NumpyNetwork, TorchNetwork, make_network
from sb3_nrl.perturbation import NodePerturbation
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.traces import PendingSteps
from tests.envs import AVERAGE, Algorithm, ClockEnv, ScriptedEnv, arguments, each_rule

each_algorithm = pytest.mark.parametrize("algorithm", [NRL, RMHL, BPTT])
each_without_gradients = pytest.mark.parametrize("algorithm", [NRL, RMHL])

N_STEPS = 16


def make(
    algorithm: Algorithm,
    env: Any = "CartPole-v1",
    policy: str | type[NoisyPolicy] = "MlpPolicy",
    rule: str = "default",
    **settings: Any,
) -> Any:
    defaults: dict[str, Any] = {
        "learning_rate": 0.05,
        "n_steps": N_STEPS,
        "seed": 0,
        "device": "cpu",
        "policy_kwargs": {"net_arch": [8], "head_gain": 1.0},
    }
    return algorithm(policy, env, **arguments(algorithm, rule, **{**defaults, **settings}))


def weights(model: BaseAlgorithm) -> np.ndarray:
    return model.policy.parameters_to_vector()


def learned_of_rewards(model: Any) -> list[float] | None:
    """What a running average knows."""
    predictor = model.reward_predictor
    return None if predictor is None else predictor.average.tolist()


def scripted(n_envs: int = 1) -> DummyVecEnv:
    """Episodes of 10 steps with a reward for action 1 now and then."""
    return DummyVecEnv([lambda: Monitor(ScriptedEnv([10], pay_at=[3, 4, 9]))] * n_envs)


def clock(*rewards: list[float], n_envs: int = 1) -> DummyVecEnv:
    """Episodes whose rewards do not depend on the actions."""
    return DummyVecEnv([lambda: Monitor(ClockEnv(rewards))] * n_envs)


class Recorder(BaseCallback):
    """Keeps what ``look`` returns at each step, and how often each event came."""

    def __init__(self, look: Callable[[BaseCallback], Any] = lambda callback: callback.num_timesteps) -> None:
        super().__init__()
        self.look = look
        self.seen: list[Any] = []
        self.starts = self.ends = self.rollout_starts = self.rollout_ends = 0

    def _on_training_start(self) -> None:
        self.starts += 1

    def _on_rollout_start(self) -> None:
        self.rollout_starts += 1

    def _on_step(self) -> bool:
        self.seen.append(self.look(self))
        return True

    def _on_rollout_end(self) -> None:
        self.rollout_ends += 1

    def _on_training_end(self) -> None:
        self.ends += 1


class StopAt(BaseCallback):
    def __init__(self, num_timesteps: int) -> None:
        super().__init__()
        self.stop_at = num_timesteps

    def _on_step(self) -> bool:
        return self.num_timesteps < self.stop_at


# Reproducible, divisible


@each_rule
@pytest.mark.parametrize("n_envs", [1, 4])
def test_seed_decides_the_weights(algorithm: Algorithm, rule: str, n_envs: int) -> None:
    def trained(seed: int) -> np.ndarray:
        model = make(algorithm, make_vec_env("CartPole-v1", n_envs), rule=rule, seed=seed)
        initial = weights(model)
        trained = weights(model.learn(60 * n_envs))
        assert not np.array_equal(trained, initial)
        return trained

    assert np.array_equal(trained(1), trained(1))
    assert not np.array_equal(trained(1), trained(2))


class BeginsWithWholeNumbers(ScriptedEnv):
    """What processes hand over as it is, environments beside one another in the type of their space."""

    def __init__(self) -> None:
        super().__init__([10], pay_at=[3, 4, 9])

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = super().reset(**arguments)
        return np.rint(observation).astype(int), info


@pytest.mark.parametrize("env", ["CartPole-v1", BeginsWithWholeNumbers])
def test_environments_in_processes_give_the_same_weights(env: Any) -> None:
    processes = make_vec_env(env, 4, vec_env_cls=SubprocVecEnv)
    try:
        for algorithm, rule in ((NRL, "default"), (NRL, "average"), (RMHL, "default"), (BPTT, "default")):
            envs = (processes, make_vec_env(env, 4))
            first, second = (weights(make(algorithm, env, rule=rule).learn(120)) for env in envs)
            assert np.array_equal(first, second)
    finally:
        processes.close()


@each_algorithm
@pytest.mark.parametrize(("n_envs", "first"), [(1, 1), (1, 37), (1, N_STEPS), (1, 60), (4, 52)])
@pytest.mark.parametrize("reward_timing", ["episode", "nonzero"])
def test_learning_twice_equals_learning_once(algorithm: Algorithm, n_envs: int, first: int, reward_timing: str) -> None:
    def untrained() -> Any:
        settings: dict[str, Any] = {"reward_timing": reward_timing, "trace_decay": 0.9, "n_steps": 7}
        return make(algorithm, scripted(n_envs), rule="average", **settings)

    whole = untrained().learn(160)
    parts = untrained().learn(first)
    assert parts.num_timesteps == first
    parts.learn(160 - first, reset_num_timesteps=False)
    assert parts.num_timesteps == whole.num_timesteps == 160
    assert np.array_equal(weights(parts), weights(whole))
    assert np.array_equal(parts.reward_predictor.average, whole.reward_predictor.average)


@pytest.mark.parametrize("algorithm", [NRL, BPTT])
@pytest.mark.parametrize("box", [False, True])
def test_learning_twice_with_a_critic_equals_learning_once_if_no_window_is_cut(algorithm: Algorithm, box: bool) -> None:
    def untrained() -> Any:
        kwargs = {"action_correlation": 0.9, "net_arch": [8]} if box else {"net_arch": [8]}
        return make(algorithm, "Pendulum-v1" if box else scripted(2), policy_kwargs=kwargs, n_steps=7)

    whole = untrained().learn(140)
    parts = untrained().learn(42).learn(98, reset_num_timesteps=False)
    assert np.array_equal(weights(parts), weights(whole))
    assert learned_of_rewards(parts) == learned_of_rewards(whole)


@each_rule
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("stop_at", [2, 10, N_STEPS, 2 * N_STEPS, 47])
def test_stopping_by_a_callback_loses_nothing(algorithm: Algorithm, rule: str, n_envs: int, stop_at: int) -> None:
    whole = make(algorithm, scripted(n_envs), rule=rule).learn(80 * n_envs)
    parts = make(algorithm, scripted(n_envs), rule=rule).learn(80 * n_envs, callback=StopAt(stop_at * n_envs))
    assert parts.num_timesteps == stop_at * n_envs
    parts.learn((80 - stop_at) * n_envs, reset_num_timesteps=False)
    assert parts.num_timesteps == 80 * n_envs
    assert np.array_equal(weights(parts), weights(whole))


@each_rule
@pytest.mark.parametrize("restart", ["learn", "set_env"])
def test_steps_before_a_restart_earn_no_credit(algorithm: Algorithm, rule: str, restart: str) -> None:
    restarted, fresh = (make(algorithm, scripted(), rule=rule) for _ in range(2))
    restarted.learn(40, callback=StopAt(8))  # rewards were earned, but nothing was learned from them
    assert np.array_equal(weights(restarted), weights(fresh))
    for model in (restarted, fresh):
        env = scripted() if restart == "set_env" else model.get_env()
        env.seed(5)
        if restart == "set_env":
            model.set_env(env)
            assert model.get_env() is env
        model.set_random_seed(5)
        model.learn(40, reset_num_timesteps=restart == "learn")
    assert restarted.num_timesteps == (40 if restart == "learn" else 48)
    assert np.array_equal(weights(restarted), weights(fresh))


class Reseeding(ScriptedEnv):
    """Seeds the generators of Python and NumPy that the whole process shares."""

    def reset(self, **keywords: Any) -> Any:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        return super().reset(**keywords)

    def step(self, action: Any) -> Any:
        return super().step(0)


@pytest.mark.parametrize("space", [spaces.Discrete(9), spaces.Box(-1, 1, (2,), np.float32)], ids=["discrete", "box"])
def test_environments_that_seed_everything_do_not_repeat_the_exploration(space: spaces.Space) -> None:
    env = Reseeding([5])
    env.action_space = space
    drawn: list[bytes] = []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        drawn.append(local["actions"].tobytes())
        return True

    make(NRL, env, learning_rate=0.0).learn(50, watch)
    episodes = {tuple(drawn[start : start + 5]) for start in range(0, 50, 5)}
    assert len(episodes) == 10


# Callbacks


@each_rule
@pytest.mark.parametrize("n_envs", [1, 4])
def test_callbacks_are_called_as_by_a2c(algorithm: Algorithm, rule: str, n_envs: int) -> None:
    ours = make(algorithm, scripted(n_envs), rule=rule)
    length = N_STEPS if ours.policy.critic else 10  # of a window, or of an episode
    recorders = []
    for model in (ours, A2C("MlpPolicy", scripted(n_envs), n_steps=5, device="cpu")):
        recorders.append(Recorder())
        model.learn(60, callback=recorders[-1])
    one, other = recorders
    assert one.seen == other.seen == list(range(n_envs, 61, n_envs))
    assert (one.starts, one.ends) == (other.starts, other.ends) == (1, 1)
    assert one.rollout_starts == one.rollout_ends == math.ceil(60 / n_envs / length)


def evaluations(model: BaseAlgorithm, folder: Path) -> Any:
    callback = EvalCallback(clock([0.5] * 10), eval_freq=20, n_eval_episodes=2, best_model_save_path=str(folder))
    model.learn(100, callback=callback)
    best = type(model).load(folder / "best_model")
    return callback.n_calls, callback.last_mean_reward, best.num_timesteps


def checkpoints(model: BaseAlgorithm, folder: Path) -> Any:
    model.learn(100, callback=CheckpointCallback(30, str(folder)))
    return {path.name: type(model).load(path).num_timesteps for path in folder.iterdir()}


def every_n_timesteps(model: BaseAlgorithm, folder: Path) -> Any:
    recorder = Recorder()
    model.learn(100, callback=EveryNTimesteps(30, recorder))
    return recorder.seen


def max_episodes(model: BaseAlgorithm, folder: Path) -> Any:
    model.learn(100, callback=StopTrainingOnMaxEpisodes(3))
    return model.num_timesteps


def reward_threshold(model: BaseAlgorithm, folder: Path) -> Any:
    stop = StopTrainingOnRewardThreshold(reward_threshold=4.9)
    model.learn(100, callback=EvalCallback(clock([0.5] * 10), callback_on_new_best=stop, eval_freq=40))
    return model.num_timesteps


def progress_bar(model: BaseAlgorithm, folder: Path) -> Any:
    callback = ProgressBarCallback()
    model.learn(50)
    model.learn(50, callback=callback, reset_num_timesteps=False)
    return callback.pbar.n, callback.pbar.total


@each_rule
@pytest.mark.filterwarnings("ignore:rich is experimental")
@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (evaluations, (100, 5.0, 20)),
        (checkpoints, {f"rl_model_{n}_steps.zip": n for n in (30, 60, 90)}),
        (every_n_timesteps, [30, 60, 90]),
        (max_episodes, 30),
        (reward_threshold, 40),
        (progress_bar, (50, 50)),
    ],
)
def test_stock_callbacks_do_what_they_do_with_a2c(
    algorithm: Algorithm, rule: str, use: Callable[[BaseAlgorithm, Path], Any], expected: Any, tmp_path: Path
) -> None:
    env = clock([0.0] * 4 + [1.0] * 6, [1.0] * 10)
    assert use(make(algorithm, env, rule=rule), tmp_path / "ours") == expected
    assert use(A2C("MlpPolicy", env, n_steps=5, device="cpu"), tmp_path / "a2c") == expected


@each_rule
def test_callbacks_see_the_step(algorithm: Algorithm, rule: str) -> None:
    names = ("actions", "rewards", "dones", "new_obs", "infos")
    recorder = Recorder(lambda callback: [callback.locals[name] for name in names])
    make(algorithm, clock([0.0, 1.0, 2.0], n_envs=2), rule=rule).learn(12, callback=recorder)
    for time, (actions, rewards, dones, new_obs, infos) in enumerate(recorder.seen):
        ended = time % 3 == 2
        assert actions.shape == (2,)
        assert set(actions) <= {0, 1}
        assert list(rewards) == [time % 3] * 2
        assert list(dones) == [ended] * 2
        assert np.array_equal(new_obs, np.eye(3)[[(time + 1) % 3] * 2])
        assert [("terminal_observation" in info) for info in infos] == [ended] * 2


@each_rule
def test_callbacks_can_differentiate_the_policy(algorithm: Algorithm, rule: str) -> None:
    def gradient(callback: BaseCallback) -> float:
        policy: Any = callback.model.policy
        obs, actions = (th.as_tensor(callback.locals[name]) for name in ("new_obs", "actions"))
        objective = policy.get_distribution(obs).log_prob(actions).sum()
        if policy.critic:
            objective = objective + policy.predict_values(obs).sum()
        return min(grad.norm().item() for grad in th.autograd.grad(objective, list(policy.parameters())))

    recorder = Recorder(gradient)
    settings: dict[str, Any] = {"rule": rule, "reward_timing": "step", "n_steps": 4}
    watched = make(algorithm, scripted(), **settings).learn(30, callback=recorder)
    assert len(recorder.seen) == 30
    assert min(recorder.seen) > 0
    assert np.array_equal(weights(watched), weights(make(algorithm, scripted(), **settings).learn(30)))


# Environments and their wrappers


@each_rule
@pytest.mark.filterwarnings("ignore:The environment is already wrapped")
@pytest.mark.parametrize(
    "wrap",
    [
        VecMonitor,
        lambda env: VecFrameStack(env, n_stack=1),
        lambda env: VecNormalize(env, norm_obs=False, norm_reward=False),
    ],
    ids=["VecMonitor", "VecFrameStack", "VecNormalize"],
)
def test_a_wrapper_that_changes_nothing_changes_no_weight(
    algorithm: Algorithm, rule: str, wrap: Callable[[VecEnv], VecEnv]
) -> None:
    plain = make(algorithm, scripted(2), rule=rule).learn(80)
    wrapped = make(algorithm, wrap(scripted(2)), rule=rule).learn(80)
    assert np.array_equal(weights(wrapped), weights(plain))
    assert [info["r"] for info in wrapped.ep_info_buffer] == [info["r"] for info in plain.ep_info_buffer]


@each_algorithm
def test_normalized_rewards_and_stacked_frames_are_what_is_learned_from(algorithm: Algorithm) -> None:
    env = VecNormalize(VecFrameStack(clock([100.0] * 5), n_stack=3), norm_obs=False, clip_reward=0.25)
    model = make(algorithm, env, rule="average").learn(40)
    assert model.reward_predictor.average == pytest.approx(5 * 0.25)
    assert model.policy.observation_space.shape == (15,)
    assert model.get_vec_normalize_env() is env


class Payday(gymnasium.Wrapper):
    """Rewards that differ from step to step, whatever is done; and actions that are checked."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps = getattr(self, "steps", 0) + 1
        obs, _, terminated, truncated, info = self.env.step(action)
        return obs, float(self.steps % 3), terminated, truncated, info


@each_rule
@pytest.mark.parametrize(
    ("policy", "make_env"),
    [
        ("MlpPolicy", lambda: IdentityEnv(4)),
        ("MlpPolicy", lambda: IdentityEnvBox()),
        ("MlpPolicy", lambda: IdentityEnvMultiDiscrete(3)),
        ("MlpPolicy", lambda: IdentityEnvMultiBinary(3)),
        ("MlpPolicy", lambda: FakeImageEnv(screen_height=8, screen_width=8)),
        ("CnnPolicy", lambda: FakeImageEnv(screen_height=36, screen_width=36)),
        ("CnnPolicy", lambda: FakeImageEnv(screen_height=36, screen_width=36, n_channels=3, discrete=False)),
        ("MultiInputPolicy", SimpleMultiObsEnv),
        ("MultiInputPolicy", lambda: SimpleMultiObsEnv(discrete_actions=False)),
    ],
    ids=["discrete", "box", "multi-discrete", "multi-binary", "pixels", "image", "image-box", "dict", "dict-box"],
)
def test_every_parameter_learns_in_every_space(
    algorithm: Algorithm, rule: str, policy: str, make_env: Callable[[], gymnasium.Env]
) -> None:
    kwargs = {"net_arch": [8], "head_gain": 1.0, "use_bias": True}
    settings = {"reward_timing": "step", "max_grad_norm": 1.0, "learning_rate": 1e-3, "policy_kwargs": kwargs}
    model = make(algorithm, Payday(make_env()), policy, rule, **settings)
    before = {name: parameter.clone() for name, parameter in model.policy.named_parameters()}
    model.learn(8)
    unchanged = [name for name, parameter in model.policy.named_parameters() if th.equal(parameter, before[name])]
    assert not unchanged
    obs = model.get_env().reset()
    for deterministic in (True, False):
        actions, _ = model.predict(obs, deterministic=deterministic)
        assert len(actions) == 1
        assert model.action_space.contains(actions[0].astype(model.action_space.dtype))


# Predicting, parameters


@each_rule
def test_predict_takes_the_likeliest_action_or_draws(algorithm: Algorithm, rule: str) -> None:
    model = make(algorithm, rule=rule).learn(50)
    batch = model.get_env().observation_space.sample()[None] * np.linspace(-0.1, 0.1, 8)[:, None].astype(np.float32)
    batch[:, [0, 2]] = np.random.default_rng(0).normal(size=(8, 2))
    probabilities = model.policy.get_distribution(th.as_tensor(batch)).distribution.probs.detach().numpy()
    actions, state = model.predict(batch, deterministic=True)
    assert state is None
    assert np.array_equal(actions, probabilities.argmax(1))
    for obs, action in zip(batch, actions, strict=True):
        single, _ = model.predict(obs, deterministic=True)
        assert single.shape == ()
        assert single == action
    drawn, _ = model.predict(np.repeat(batch[:1], 2000, axis=0))
    assert drawn.mean() == pytest.approx(probabilities[0, 1], abs=0.04)


@each_algorithm
def test_evaluate_policy_sees_the_deterministic_policy(algorithm: Algorithm) -> None:
    env = DummyVecEnv([lambda: Monitor(ScriptedEnv([10]))])
    model = make(algorithm, env, policy_kwargs={"use_bias": True, "head_gain": 1e-3})
    with th.no_grad():
        model.policy.action_net.bias.copy_(th.tensor([0.0, 0.3, 0.0]))
    assert evaluate_policy(model, env, n_eval_episodes=3) == (10, 0)
    returns, _ = evaluate_policy(model, env, n_eval_episodes=10, deterministic=False, return_episode_rewards=True)
    assert 0 < np.mean(returns) < 10
    assert np.std(returns) > 0


@each_rule
def test_parameters_can_be_handed_over(algorithm: Algorithm, rule: str) -> None:
    giver, taker = (make(algorithm, scripted(), rule=rule, seed=seed).learn(30) for seed in (1, 2))
    assert not np.array_equal(weights(taker), weights(giver))
    taker.set_parameters(
        deepcopy(giver.get_parameters())
    )  # PyTorch's optimizers share their moments with what is loaded
    assert np.array_equal(weights(taker), weights(giver))
    taker.reward_predictor = deepcopy(giver.reward_predictor)
    for model in (giver, taker):
        model.get_env().seed(3)
        model.set_random_seed(3)
        model.learn(40)
    assert np.array_equal(weights(taker), weights(giver))


# Saving


def halving(progress: float) -> float:
    return 0.05 * (1 + progress)


@each_rule
@pytest.mark.parametrize(
    "optimizer",
    [
        {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
        {"optimizer_class": th.optim.Adam, "optimizer_kwargs": {"betas": (0.8, 0.99)}},
    ],
    ids=["momentum", "adam"],
)
def test_a_loaded_model_goes_on_as_the_saved_one(
    algorithm: Algorithm, rule: str, optimizer: dict[str, Any], tmp_path: Path
) -> None:
    kwargs = {"net_arch": [8], "head_gain": 1.0, **optimizer}
    saved = make(algorithm, scripted(2), rule=rule, learning_rate=halving, policy_kwargs=kwargs).learn(100)
    saved.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=scripted(2), device="cpu")
    assert loaded.num_timesteps == 100
    assert np.array_equal(weights(loaded), weights(saved))
    assert learned_of_rewards(loaded) == learned_of_rewards(saved)
    assert loaded.lr_schedule(0.25) == halving(0.25)

    saved.set_env(scripted(2))
    for model in (saved, loaded):
        model.get_env().seed(4)  # type: ignore[union-attr]
        model.set_random_seed(4)
        model.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == 160
    assert np.array_equal(weights(loaded), weights(saved))
    assert learned_of_rewards(loaded) == learned_of_rewards(saved)


@each_algorithm
def test_loading_with_other_environments_keeps_the_mean_prediction(algorithm: Algorithm, tmp_path: Path) -> None:
    envs = DummyVecEnv([lambda: ClockEnv([[0.0, 2.0]]), lambda: ClockEnv([[0.0, 4.0]])])
    make(algorithm, envs, rule="average").learn(20).save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=clock([0.0, 9.0], n_envs=3), device="cpu")
    assert learned_of_rewards(loaded) == [3, 3, 3]
    before = weights(loaded)
    loaded.learn(12, reset_num_timesteps=False)
    assert loaded.num_timesteps == 32
    assert min(learned_of_rewards(loaded) or []) > 3
    assert not np.array_equal(weights(loaded), before)


@each_algorithm
def test_arguments_of_load_take_effect(algorithm: Algorithm, tmp_path: Path) -> None:
    make(algorithm, clock([0.0, 4.0]), rule="average").learn(10).save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=clock([0.0, 8.0]), device="cpu", reward_smoothing=0.5)
    loaded.learn(2, reset_num_timesteps=False)
    assert learned_of_rewards(loaded) == [6]


@pytest.mark.parametrize("name", ["model", "model.zip", "model.v2"])
def test_an_interrupted_save_leaves_the_old_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(NRL, scripted())
    path = tmp_path / "models" / name
    model.save(path)
    files = list(path.parent.iterdir())
    assert [file.name for file in files] == [name if "." in name else f"{name}.zip"]
    old = weights(model)

    def break_down(state: Any, file: Any) -> None:
        file.write(b"half a file")
        raise OSError("no space left")

    model.learn(40)
    assert not np.array_equal(weights(model), old)
    with monkeypatch.context() as patch:
        patch.setattr(th, "save", break_down)
        for place in (path, str(path), path.with_name("new")):
            with pytest.raises(OSError, match="no space left"):
                model.save(place)
    assert list(path.parent.iterdir()) == files
    assert np.array_equal(weights(NRL.load(path, device="cpu")), old)
    model.save(path)
    assert list(path.parent.iterdir()) == files
    assert np.array_equal(weights(NRL.load(path, device="cpu")), weights(model))


def test_saving_to_a_link_leaves_it_a_link(tmp_path: Path) -> None:
    place, link = tmp_path / "place.zip", tmp_path / "latest.zip"
    link.symlink_to(place)
    make(NRL, scripted()).save(link)
    assert link.is_symlink()
    assert not place.is_symlink()
    NRL.load(place, device="cpu")


KILLED_IN_THE_THIRD_SAVE = """
import os, signal, sys
import torch
from stable_baselines3.common.callbacks import CheckpointCallback
from sb3_nrl import NRL

whole_save, n_calls = torch.save, 0

def save(*args):
    global n_calls
    n_calls += 1
    whole_save(*args)
    if n_calls == 8:  # three calls per checkpoint
        args[1].flush()
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = save
NRL("MlpPolicy", "CartPole-v1", policy_kwargs=dict(net_arch=[256]), device="cpu").learn(
    10_000, callback=CheckpointCallback(20, sys.argv[1])
)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_checkpoints_survive_a_kill(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED_IN_THE_THIRD_SAVE, str(tmp_path)], timeout=120)
    assert process.returncode == -signal.SIGKILL
    steps = [NRL.load(path, device="cpu").num_timesteps for path in tmp_path.glob("*.zip")]
    assert sorted(steps) == [20, 40]


@each_rule
def test_save_to_a_stream(algorithm: Algorithm, rule: str) -> None:
    model = make(algorithm, scripted(), rule=rule).learn(40)
    stream = io.BytesIO()
    model.save(stream)
    stream.seek(0)
    assert np.array_equal(weights(algorithm.load(stream, device="cpu")), weights(model))


@pytest.mark.parametrize(
    ("policy", "make_env", "settings"),
    [
        ("MlpPolicy", lambda: ScriptedEnv([10]), {}),
        (
            "MlpPolicy",
            lambda: ScriptedEnv([10]),
            {"clean_passes": 3, "noise_std": 0.5, "noise_distribution": "poisson"},
        ),
        ("MlpPolicy", IdentityEnvBox, {"policy_kwargs": {"activation_fn": nn.Tanh, "use_bias": True}}),
        ("MlpPolicy", IdentityEnvBox, {"rule": "average"}),
        ("CnnPolicy", lambda: FakeImageEnv(screen_height=36, screen_width=36), {}),
        ("MultiInputPolicy", SimpleMultiObsEnv, {"policy_kwargs": {"net_arch": []}}),
    ],
    ids=["discrete", "noisy-passes", "box", "average", "image", "dict"],
)
def test_policy_survives_a_round_trip(
    policy: str, make_env: Callable[[], gymnasium.Env], settings: dict[str, Any], tmp_path: Path
) -> None:
    model = make(NRL, DummyVecEnv([make_env] * 20), policy, **settings)
    model.policy.save(str(tmp_path / "policy"))
    loaded = type(model.policy).load(str(tmp_path / "policy"), device="cpu")
    obs = model.get_env().reset()
    for deterministic in (True, False):
        actions = []
        for either in (model.policy, loaded):
            th.manual_seed(0)
            actions.append(either.predict(obs, deterministic=deterministic)[0])
        assert np.array_equal(*actions)


# Logs


@each_algorithm
def test_tensorboard_holds_every_figure(algorithm: Algorithm, tmp_path: Path) -> None:
    env = clock([0.0, 1.0, 3.0], [1.0, 1.0, 0.0])
    model = make(algorithm, env, rule="average", tensorboard_log=str(tmp_path), scale_rpe=False)
    model.learn(30, log_interval=1)
    assert [path.name for path in tmp_path.iterdir()] == [f"{algorithm.__name__}_1"]
    events = EventAccumulator(str(next(tmp_path.iterdir()))).Reload()

    def values(tag: str) -> dict[int, float]:
        return {event.step: event.value for event in events.Scalars(tag)}

    # A line of the log is written before the update that belongs to it.
    after_episodes = list(range(6, 31, 3))
    assert list(values("train/rpe")) == after_episodes
    assert list(values("train/rpe").values())[:2] == pytest.approx([0, 2 - 4])
    assert list(values("train/reward_prediction").values())[:2] == pytest.approx([4, 4 - 0.66 * 2])
    assert list(values("train/learning_rate").values()) == pytest.approx([0.05] * len(after_episodes))
    assert min(values("train/trace_norm").values()) > 0
    update_norms = list(values("train/update_norm").values())
    assert update_norms[0] == 0
    assert update_norms[1] == pytest.approx(2 * list(values("train/trace_norm").values())[1], rel=1e-4)
    assert set(values("rollout/ep_len_mean").values()) == {3}
    assert values("rollout/ep_rew_mean")[6] == pytest.approx(3)
    assert min(values("time/fps").values()) > 0


@each_rule
def test_log_counts_updates(algorithm: Algorithm, rule: str, tmp_path: Path) -> None:
    model = make(algorithm, clock([0.0, 1.0, 3.0]), rule=rule, n_steps=3)
    model.set_logger(configure(str(tmp_path), ["json"]))
    model.learn(12, log_interval=1)
    model.logger.close()
    lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert [line.get("train/n_updates") for line in lines] == [None, 1, 2, 3]
    assert [line["time/total_timesteps"] for line in lines] == [3, 6, 9, 12]


# Learning rate, clipping


@each_rule
def test_learning_rate_follows_its_schedule(algorithm: Algorithm, rule: str) -> None:
    recorder = Recorder(lambda callback: callback.model.policy.optimizer.param_groups[0]["lr"])
    settings: dict[str, Any] = {"learning_rate": halving, "reward_timing": "step", "n_steps": 1}
    make(algorithm, scripted(), rule=rule, **settings).learn(40, callback=recorder)
    assert recorder.seen == pytest.approx([halving(1 - step / 40) for step in range(40)])


@each_rule
def test_schedules_end_at_the_end(algorithm: Algorithm, rule: str) -> None:
    """Also where the last step of all environments goes beyond it."""
    model = make(algorithm, scripted(8), rule=rule, learning_rate=math.sqrt, n_steps=4)
    model.learn(41)
    assert model.num_timesteps == 48
    assert model.policy.optimizer.param_groups[0]["lr"] == 0


@each_algorithm
def test_max_grad_norm_bounds_the_change_of_the_weights(algorithm: Algorithm) -> None:
    def largest_change(max_grad_norm: float | None) -> float:
        recorder = Recorder(lambda callback: weights(callback.model))
        settings: dict[str, Any] = {"reward_timing": "step", "max_grad_norm": max_grad_norm, "scale_rpe": False}
        model = make(algorithm, scripted(2), rule="average", **settings)
        model.learn(100, callback=recorder)
        return np.linalg.norm(np.diff(recorder.seen, axis=0), axis=1).max()

    bound = 0.05 * 1e-3
    assert largest_change(1e-3) == pytest.approx(bound, rel=0.01)
    assert largest_change(1e-3) <= bound * (1 + 1e-3)
    assert largest_change(None) > 2 * bound


# Forward passes only


@pytest.mark.parametrize(
    "settings",
    [{}, {"rule": "average"}, {"rule": "average", "reward_timing": "step"}],
    ids=["critic", "episode", "step"],
)
@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("hooked", [False, True])
def test_noisy_passes_only(settings: dict[str, Any], box: bool, hooked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(NRL, IdentityEnvBox(ep_length=10) if box else scripted(), clean_passes=3, **settings)
    layer_calls, noises, quick_noises = [], [], []
    run, forward, quick_run = NodePerturbation.run, nn.Linear.forward, networks._run
    if hooked:
        model.policy.action_net.register_forward_hook(lambda *_: None)

    def noisy_quick_run(steps: Any, obs: np.ndarray, noise: np.ndarray, *received: Any) -> np.ndarray:
        quick_noises.append(th.tensor(noise))
        return quick_run(steps, obs, noise, *received)

    def noisy_run(self: NodePerturbation, inputs: Any, noise_BN: th.Tensor) -> Any:
        noises.append(noise_BN.clone())
        return run(self, inputs, noise_BN)

    def counted_forward(self: nn.Linear, x: th.Tensor) -> th.Tensor:
        layer_calls.append(self)
        return forward(self, x)

    monkeypatch.setattr(NodePerturbation, "run", noisy_run)
    monkeypatch.setattr(nn.Linear, "forward", counted_forward)
    monkeypatch.setattr(networks, "_run", noisy_quick_run)
    model.learn(20)
    assert model._n_updates > 0
    n_learning = len(noises)
    learning, idle = (noises, quick_noises) if hooked else (quick_noises, noises)
    assert len(learning) > 20
    assert not idle
    obs = model.get_env().reset()
    for deterministic in (True, False):
        model.predict(obs, deterministic=deterministic)
    with th.no_grad():
        model.policy.get_distribution(th.as_tensor(obs))
    assert [len(noise) for noise in noises[n_learning:]] == [3, 3, 3]
    assert len(layer_calls) == len(noises) * (2 + box + 2 * model.policy.critic)
    for noise in (*noises, *quick_noises):
        assert (noise != 0).all()
        assert len(noise.unique(dim=0)) == len(noise)


@each_without_gradients
@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"rule": "average"}, {"rule": "average", "reward_timing": "step"}],
    ids=["default", "average", "step"],
)
def test_autograd_stays_off(
    algorithm: Algorithm, hooked: bool, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(algorithm, scripted(), **settings)
    modes = []
    forward = nn.Linear.forward

    def watched_forward(self: nn.Linear, x: th.Tensor) -> th.Tensor:
        modes.append(th.is_grad_enabled())
        return forward(self, x)

    forbid_backward(monkeypatch)
    monkeypatch.setattr(nn.Linear, "forward", watched_forward)
    if hooked:
        model.policy.action_net.register_forward_hook(lambda *_: modes.append(th.is_grad_enabled()))
    before = weights(model)
    model.learn(60)
    assert not np.array_equal(weights(model), before)
    assert (len(modes) > 0) == hooked  # without hooks there may be no need to call the modules
    assert not any(modes)


def test_bptt_needs_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(BPTT, scripted())
    forbid_backward(monkeypatch)
    with pytest.raises(AssertionError, match="a backward pass"):
        model.learn(60)


def forbid_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a backward pass")

    monkeypatch.setattr(th.autograd, "backward", forbidden)
    monkeypatch.setattr(th.autograd, "grad", forbidden)
    monkeypatch.setattr(th.Tensor, "backward", forbidden)


# The quick network

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (2, 3), np.float32)
DISCRETE = spaces.Discrete(4)
BOX = spaces.Box(-1, 1, (2,), np.float32)


class DoubleTanh(nn.Tanh):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return 2 * super().forward(x)


def make_policy(action_space: spaces.Space, **kwargs: Any) -> NoisyPolicy:
    th.manual_seed(0)
    policy = NoisyPolicy(OBSERVATIONS, action_space, lambda _: 0.1, **{"head_gain": 1.0, "noise_std": 0.5, **kwargs})
    randomize(policy, seed=1)
    return policy


def randomize(policy: NoisyPolicy, seed: int) -> None:
    generator = np.random.default_rng(seed)
    policy.load_from_vector(generator.normal(scale=0.3, size=len(policy.parameters_to_vector())).astype(np.float32))


def observations(n: int = 50) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(n, *OBSERVATIONS.shape)).astype(np.float32)


def deviations(n: int = 50) -> np.ndarray:
    """For the two components of an action in ``BOX``."""
    return np.random.default_rng(3).normal(size=(n, 2)).astype(np.float32)


def torch_log_probs(policy: NoisyPolicy, obs: np.ndarray, noise: np.ndarray | None, actions: np.ndarray) -> np.ndarray:
    obs_BI, actions_B = th.as_tensor(obs), th.as_tensor(actions)
    with th.no_grad():
        if noise is None:
            return policy.get_distribution(obs_BI).log_prob(actions_B).numpy()
        return policy.noisy_pass(obs_BI, actions_B, th.as_tensor(noise)).objectives[0].numpy()


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("action_space", [DISCRETE, BOX], ids=["discrete", "box"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"net_arch": []},
        {"net_arch": (8, 5, 7)},
        {"activation_fn": nn.LeakyReLU},
        {"activation_fn": nn.ReLU},
        {"activation_fn": lambda: nn.LeakyReLU(1.5)},
        {"activation_fn": lambda: nn.LeakyReLU(0.2, inplace=True)},
    ],
    ids=["default", "shallow", "deep", "leak", "relu", "steep-leak", "inplace"],
)
def test_quick_network_agrees_with_the_policy(
    shape: dict[str, Any], action_space: spaces.Space, use_bias: bool, noisy: bool
) -> None:
    policy = make_policy(action_space, use_bias=use_bias, **shape)
    network = make_network(policy)
    assert isinstance(network, NumpyNetwork)
    obs = observations()
    noise = policy.sample_noise(len(obs)).numpy() if noisy else None
    for rows in (slice(None), *(slice(row, row + 1) for row in range(10))):
        some_noise = None if noise is None else noise[rows]
        actions, log_probs = network.act(obs[rows], some_noise, deviations()[rows])
        assert log_probs == pytest.approx(torch_log_probs(policy, obs[rows], some_noise, actions), rel=1e-5, abs=1e-5)
    assert np.array_equal(obs, observations())


@pytest.mark.parametrize("log_std_is_frozen", [False, True])
@pytest.mark.parametrize("action_space", [DISCRETE, BOX], ids=["discrete", "box"])
@pytest.mark.parametrize("n_envs", [1, 7])
def test_quick_network_takes_the_mean_of_the_same_noisy_passes(
    n_envs: int, action_space: spaces.Space, log_std_is_frozen: bool
) -> None:
    policy = make_policy(action_space, noise_std=0.5, clean_passes=3)
    if log_std_is_frozen and isinstance(action_space, spaces.Box):
        policy.log_std_net.weight.requires_grad_(False)
        policy.find_layers()
    obs, network = observations(n_envs), make_network(policy)
    assert isinstance(network, NumpyNetwork)
    th.manual_seed(1)
    actions, log_probs = network.act(obs, None, deviations(n_envs))
    th.manual_seed(1)
    with th.no_grad():
        mean = policy._mean_of_noisy_passes(th.as_tensor(obs), 3)
    assert log_probs == pytest.approx(mean.log_prob(th.as_tensor(actions)).numpy(), rel=1e-5, abs=1e-5)
    assert log_probs != pytest.approx(torch_log_probs(policy, obs, None, actions), rel=1e-3)


@pytest.mark.parametrize("frozen", [(), ("action_net.bias",), ("hidden_net.0.weight",), ("log_std_net.weight",)])
@pytest.mark.parametrize("action_space", [DISCRETE, BOX], ids=["discrete", "box"])
@pytest.mark.parametrize("n_envs", [1, 5])
def test_quick_network_forms_the_same_traces(n_envs: int, action_space: spaces.Space, frozen: tuple[str, ...]) -> None:
    policy = make_policy(action_space, net_arch=[7, 6], use_bias=True)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name not in frozen)
    policy.find_layers()
    quick, plain = NumpyNetwork(policy), TorchNetwork(policy)
    obs, noise = observations(10), policy.sample_noise(30)
    actions, _ = plain.act(obs)
    post = th.randn(30, noise.shape[1])
    (log_probs,), pre = quick.noisy_pass(obs, actions, noise.numpy())
    (expected_log_probs,), expected_pre = plain.noisy_pass(th.as_tensor(obs), th.as_tensor(actions), noise)
    np.testing.assert_allclose(log_probs, expected_log_probs, rtol=1e-4, atol=1e-5)
    traces, expected = quick.outer(post.numpy(), pre, n_envs), plain.outer(post, expected_pre, n_envs)
    assert traces.shape == (n_envs, len(quick.gradient_W))
    np.testing.assert_allclose(traces, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation_fn", [nn.SiLU, DoubleTanh])
def test_quick_network_steps_aside_for_activations_it_does_not_know(activation_fn: type[nn.Module]) -> None:
    policy = make_policy(DISCRETE, activation_fn=activation_fn)
    network = make_network(policy)
    assert not isinstance(network, NumpyNetwork)
    actions, log_probs = network.act(observations(), None)
    assert log_probs == pytest.approx(torch_log_probs(policy, observations(), None, actions), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("n_envs", [1, 50])
@pytest.mark.parametrize("action_space", [DISCRETE, BOX], ids=["discrete", "box"])
def test_quick_network_draws_from_the_policy(action_space: spaces.Space, n_envs: int) -> None:
    n = 20_000
    policy = make_policy(action_space, **AVERAGE["policy_kwargs"])
    obs = np.repeat(observations(1) / 3, n_envs, axis=0)
    policy.generator = np.random.default_rng(0)
    network = make_network(policy)
    z = np.random.default_rng(1).standard_normal((n // n_envs, n_envs, get_action_dim(action_space)), np.float32)
    actions = np.concatenate([network.act(obs, None, z_now)[0] for z_now in z])
    with th.no_grad():
        distribution: Any = policy.get_distribution(th.as_tensor(obs[:1])).distribution
    if isinstance(action_space, spaces.Discrete):
        counts = np.bincount(actions, minlength=4)[None]
        expected = n * distribution.probs.numpy()
        assert expected.min() > n / 20
    else:
        quantiles = distribution.cdf(th.as_tensor(actions)).numpy()
        counts = np.stack([np.histogram(column, bins=4, range=(0, 1))[0] for column in quantiles.T])
        expected = np.full(4, n / 4)
        assert abs(np.corrcoef(quantiles.T)[0, 1]) < 0.025
    chi_square = ((counts - expected) ** 2 / expected).sum(1)
    assert chi_square.max() < 16.27  # 3 degrees of freedom, p = 0.001


def assign(policy: NoisyPolicy, other: NoisyPolicy) -> None:
    for parameter, value in zip(policy.parameters(), other.parameters(), strict=True):
        parameter.data = value.data.clone()


@pytest.mark.parametrize("action_space", [DISCRETE, BOX], ids=["discrete", "box"])
@pytest.mark.parametrize(
    "replace",
    [
        lambda policy, other: policy.load_from_vector(other.parameters_to_vector()),
        lambda policy, other: policy.load_state_dict(other.state_dict()),
        assign,
    ],
    ids=["load_from_vector", "load_state_dict", "assign"],
)
def test_quick_network_sees_replaced_weights(
    replace: Callable[[NoisyPolicy, NoisyPolicy], None], action_space: spaces.Space
) -> None:
    policy, other = (make_policy(action_space, use_bias=True) for _ in range(2))
    randomize(other, seed=3)
    network, obs = make_network(policy), observations()
    network.act(obs, None, deviations())
    replace(policy, other)
    actions, log_probs = network.act(obs, None, deviations())
    assert log_probs == pytest.approx(torch_log_probs(other, obs, None, actions), rel=1e-5, abs=1e-5)


def test_set_parameters_inside_a_callback_changes_the_actions() -> None:
    model = make(NRL, clock([0.0] * 50), policy_kwargs={"use_bias": True})
    state = model.get_parameters()
    state["policy"]["action_net.bias"] = th.tensor([0.0, 50.0])

    def replace_once(callback: BaseCallback) -> int:
        if callback.num_timesteps == 20:
            model.set_parameters(state)
        return int(callback.locals["actions"][0])

    recorder = Recorder(replace_once)
    model.learn(50, callback=recorder)
    assert set(recorder.seen[:20]) == {0, 1}
    assert set(recorder.seen[20:]) == {1}


@pytest.mark.parametrize("within", [False, True], ids=["between trainings", "in a callback"])
def test_both_terms_of_the_change_by_noise_are_of_the_same_parameters(
    within: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(*_: Any) -> bool:
        if model.num_timesteps in (18, 31):
            model.set_parameters(other)
        return True

    def credit(self: NRL, steps: PendingSteps) -> Any:
        with th.no_grad():
            distribution = self.policy.get_distribution(th.as_tensor(steps.observations))
        off.append(distribution.log_prob(th.as_tensor(steps.actions)).numpy() - steps.log_probs)
        return original(self, steps)

    off: list[np.ndarray] = []
    original = NRL._credit
    monkeypatch.setattr(NRL, "_credit", credit)
    rule = {**AVERAGE, "n_steps": N_STEPS, "antithetic": False}
    model = make(NRL, clock([1.0] * 10), **rule)
    other = make(NRL, clock([1.0] * 10), **{**rule, "seed": 1}).get_parameters()
    model.learn(18)
    if within:
        model.learn(32, replace, reset_num_timesteps=False)
    else:
        model.set_parameters(other)
        model.learn(32, reset_num_timesteps=False)
    assert sum(map(len, off)) >= 40
    assert np.abs(np.concatenate(off)).max() < 1e-5


@each_rule
@pytest.mark.parametrize("how", ["hook", "pre-hook", "subclass"])
def test_hooks_and_overrides_of_the_policy_are_honoured(algorithm: Algorithm, rule: str, how: str) -> None:
    calls = []

    class Watched(NoisyPolicy):
        def extract_features(self, obs: PyTorchObs, features_extractor: Any = None) -> th.Tensor:
            calls.append("subclass")
            return super().extract_features(obs, features_extractor)

    model = make(algorithm, scripted(), Watched if how == "subclass" else "MlpPolicy", rule)
    if how == "hook":
        model.policy.action_net.register_forward_hook(lambda *_: calls.append("hook"))
    elif how == "pre-hook":
        model.policy.action_net.register_forward_pre_hook(lambda *_: calls.append("pre-hook"))
    calls.clear()
    model.learn(20, callback=StopAt(9))
    assert calls == [how] * 9


@pytest.mark.parametrize("method", ["_run_noisy", "_run_noisy_passes", "_mean_of_noisy_passes"])
def test_overrides_of_noisy_passes_are_honoured(method: str) -> None:
    calls = []

    def override(policy: NoisyPolicy, *arguments: Any) -> Any:
        calls.append(method)
        return getattr(NoisyPolicy, method)(policy, *arguments)

    model = make(NRL, scripted(), type("Watched", (NoisyPolicy,), {method: override}), clean_passes=2)
    model.learn(1)
    assert calls


@each_rule
@pytest.mark.parametrize(
    "make_env",
    [scripted, lambda: IdentityEnvMultiDiscrete(3), IdentityEnvBox, lambda: IdentityEnvMultiBinary(3)],
    ids=["discrete", "multi-discrete", "box", "multi-binary"],
)
def test_actions_are_evaluated_as_they_were_chosen(
    algorithm: Algorithm, rule: str, make_env: Callable[[], Any]
) -> None:
    model = make(algorithm, make_env(), rule=rule)
    obs = th.as_tensor(model.get_env().reset())
    with th.no_grad():
        actions, log_probs = model.policy(obs)
    values, evaluated, entropy = model.policy.evaluate_actions(obs, actions)
    assert th.equal(evaluated, log_probs)
    assert entropy.shape == (len(obs),)
    assert (values is None) == (rule == "average" or algorithm is RMHL)
    if values is not None:
        assert th.equal(values, model.policy.predict_values(obs))
    gradients = th.autograd.grad(evaluated.sum(), list(model.policy.action_net.parameters()))
    assert all((gradient != 0).any() for gradient in gradients)


class Squashed(NoisyPolicy):
    def _distribution(self, parameters: th.Tensor) -> Distribution:
        mean, log_std = parameters.chunk(2, dim=1)
        return SquashedDiagGaussianDistribution(mean.shape[1]).proba_distribution(mean, log_std)


@each_rule
def test_actions_are_of_the_policys_own_distribution(algorithm: Algorithm, rule: str) -> None:
    recorder = Recorder(lambda callback: callback.locals["actions"].copy())
    make(algorithm, IdentityEnvBox(ep_length=10), Squashed, rule, learning_rate=1e-6).learn(100, callback=recorder)
    actions = np.abs(recorder.seen)
    assert 0.9 < actions.max() < 1


class Hotter(NoisyPolicy):
    def _distribution(self, parameters: th.Tensor) -> Distribution:
        return super()._distribution(parameters / 5)


@pytest.mark.parametrize(
    "make_env",
    [scripted, lambda: IdentityEnvMultiDiscrete(3), IdentityEnvBox],
    ids=["discrete", "multi-discrete", "box"],
)
def test_another_distribution_is_that_of_noisy_passes_too(make_env: Callable[[], Any]) -> None:
    model = make(NRL, make_env(), Hotter)
    obs = th.as_tensor(model.get_env().reset())
    with th.no_grad():
        actions, log_probs = model.policy(obs)
        without_noise = th.zeros(len(obs), model.policy.perturbation.n_nodes)
        noisy_log_probs, _ = model.policy.noisy_pass(obs, actions, without_noise).objectives
    assert noisy_log_probs.numpy() == pytest.approx(log_probs.numpy())
