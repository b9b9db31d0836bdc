"""NRL, RMHL and BPTT train as Stable-Baselines3 documents it for all algorithms."""

import json
import math
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

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
from stable_baselines3.common.vec_env import (
    SubprocVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from sb3_nrl import BPTT, NRL, RMHL, ThreeFactorAlgorithm
from sb3_nrl.bptt import ExactGradient
from tests.conftest import each_algorithm, each_rule, make_model, weights
from tests.envs import ClockEnv, ScriptedEnv
from tests.policies import record_updates

SMALL: dict[str, Any] = {"net_arch": [8], "head_gain": 1.0}
N_STEPS = 16


def make(algorithm: Any = NRL, env: Any = (10,), rule: str = "critic", n_envs: int = 1, **settings: Any) -> Any:
    """A small model that learns fast, by default in episodes of 10 steps."""
    defaults: dict[str, Any] = {"learning_rate": 0.05, "n_steps": N_STEPS, "policy_kwargs": SMALL}
    return make_model(algorithm, env, rule, n_envs, **{**defaults, **settings})


def clock(*rewards: list[float], n_envs: int = 1) -> VecEnv:
    """Episodes whose rewards do not depend on the actions."""
    return make_vec_env(lambda: ClockEnv(rewards), n_envs)


class Recorder(BaseCallback):
    """Stores the results of ``look`` at each step, and counts the events."""

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


def stop_at(num_timesteps: int) -> Callable[[dict[str, Any], dict[str, Any]], bool]:
    return lambda seen, _: seen["self"].num_timesteps < num_timesteps


# Reproducible, divisible


@each_rule
def test_seed_decides_the_weights(algorithm: Any, rule: str) -> None:
    def trained(seed: int) -> np.ndarray:
        model = make(algorithm, make_vec_env("CartPole-v1", 2), rule, seed=seed)
        initial = weights(model)
        assert not np.array_equal(weights(model.learn(120)), initial)
        return weights(model)

    assert np.array_equal(trained(1), trained(1))
    assert not np.array_equal(trained(1), trained(2))


@pytest.mark.parametrize(
    ("algorithm", "rule", "n_envs", "first"),
    [
        *((algorithm, "average", *cut) for algorithm in (NRL, RMHL, BPTT) for cut in ((1, 1), (1, 37), (4, 52))),
        *((algorithm, "critic", n_envs, 84) for algorithm in (NRL, BPTT) for n_envs in (1, 4)),  # between two windows
    ],
)
def test_learning_twice_equals_learning_once(algorithm: Any, rule: str, n_envs: int, first: int) -> None:
    settings: dict[str, Any] = {"rule": rule, "n_envs": n_envs, "trace_decay": 0.9, "n_steps": 7}
    whole = make(algorithm, **settings).learn(160)
    parts = make(algorithm, **settings)
    assert parts.learn(first).num_timesteps == first
    parts.learn(160 - first, reset_num_timesteps=False)
    assert parts.num_timesteps == whole.num_timesteps == 160
    assert np.array_equal(weights(parts), weights(whole))
    if rule == "average":
        assert np.array_equal(parts.predictor.average_E, whole.predictor.average_E)


@each_rule
@pytest.mark.parametrize("n_steps", [2, 10, N_STEPS, 47])
def test_stopping_by_a_callback_loses_nothing(algorithm: Any, rule: str, n_steps: int) -> None:
    whole = make(algorithm, rule=rule, n_envs=2).learn(160)
    parts = make(algorithm, rule=rule, n_envs=2)
    assert parts.learn(160, stop_at(2 * n_steps)).num_timesteps == 2 * n_steps
    parts.learn(160 - 2 * n_steps, reset_num_timesteps=False)
    assert np.array_equal(weights(parts), weights(whole))


def test_correlated_exploration_goes_on_where_it_stopped() -> None:
    kwargs = {**SMALL, "action_correlation": 0.9}
    whole = make(env="Pendulum-v1", policy_kwargs=kwargs).learn(64)
    parts = make(env="Pendulum-v1", policy_kwargs=kwargs).learn(64, stop_at(21)).learn(43, reset_num_timesteps=False)
    assert np.array_equal(weights(parts), weights(whole))


@each_rule
@pytest.mark.parametrize("restart", ["learn", "set_env"])
def test_steps_before_a_restart_earn_no_credit(algorithm: Any, rule: str, restart: str) -> None:
    restarted, fresh = (make(algorithm, rule=rule) for _ in range(2))
    restarted.learn(40, stop_at(8))  # rewards were earned, but nothing was learned from them
    assert np.array_equal(weights(restarted), weights(fresh))
    for model in (restarted, fresh):
        env = make_vec_env(lambda: ScriptedEnv([10])) if restart == "set_env" else model.get_env()
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
    recorder = Recorder(lambda callback: callback.locals["actions"].tobytes())
    make(env=env, learning_rate=0.0).learn(50, recorder)
    assert len({tuple(recorder.seen[start : start + 5]) for start in range(0, 50, 5)}) == 10


# Callbacks


@each_rule
@pytest.mark.parametrize("n_envs", [1, 4])
def test_callbacks_are_called_as_by_a2c(algorithm: Any, rule: str, n_envs: int) -> None:
    ours = make(algorithm, rule=rule, n_envs=n_envs)
    recorders = []
    for model in (ours, A2C("MlpPolicy", make_vec_env(lambda: ScriptedEnv([10]), n_envs), n_steps=5, device="cpu")):
        recorders.append(Recorder())
        model.learn(60, recorders[-1])
    one, other = recorders
    assert one.seen == other.seen == list(range(n_envs, 61, n_envs))
    assert (one.starts, one.ends) == (other.starts, other.ends) == (1, 1)
    length = N_STEPS if rule == "critic" else 10  # of a window, or of an episode
    assert one.rollout_starts == one.rollout_ends == math.ceil(60 / n_envs / length)


def evaluations(model: BaseAlgorithm, folder: Path) -> Any:
    callback = EvalCallback(clock([0.5] * 10), eval_freq=20, n_eval_episodes=2, best_model_save_path=str(folder))
    model.learn(100, callback)
    best = type(model).load(folder / "best_model")
    return callback.n_calls, callback.last_mean_reward, best.num_timesteps


def checkpoints(model: BaseAlgorithm, folder: Path) -> Any:
    model.learn(100, CheckpointCallback(30, str(folder)))
    return {path.name: type(model).load(path).num_timesteps for path in folder.iterdir()}


def every_n_timesteps(model: BaseAlgorithm, folder: Path) -> Any:
    recorder = Recorder()
    model.learn(100, EveryNTimesteps(30, recorder))
    return recorder.seen


def max_episodes(model: BaseAlgorithm, folder: Path) -> Any:
    return model.learn(100, StopTrainingOnMaxEpisodes(3)).num_timesteps


def reward_threshold(model: BaseAlgorithm, folder: Path) -> Any:
    stop = StopTrainingOnRewardThreshold(reward_threshold=4.9)
    return model.learn(
        100, EvalCallback(clock([0.5] * 10), callback_on_new_best=stop, eval_freq=40, verbose=0)
    ).num_timesteps


def progress_bar(model: BaseAlgorithm, folder: Path) -> Any:
    callback = ProgressBarCallback()
    model.learn(50).learn(50, callback, reset_num_timesteps=False)
    return callback.pbar.n, callback.pbar.total


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
    use: Callable[[BaseAlgorithm, Path], Any], expected: Any, tmp_path: Path
) -> None:
    env = clock([0.0] * 4 + [1.0] * 6, [1.0] * 10)
    for rule in ("critic", "average"):
        assert use(make(env=env, rule=rule), tmp_path / rule) == expected
    assert use(A2C("MlpPolicy", env, n_steps=5, device="cpu"), tmp_path / "a2c") == expected


@each_rule
def test_callbacks_see_the_step(algorithm: Any, rule: str) -> None:
    names = ("actions", "rewards", "dones", "new_obs", "infos")
    recorder = Recorder(lambda callback: [callback.locals[name] for name in names])
    make(algorithm, clock([0.0, 1.0, 2.0], n_envs=2), rule).learn(12, recorder)
    for time, (actions, rewards, dones, new_obs, infos) in enumerate(recorder.seen):
        ended = time % 3 == 2
        assert actions.shape == (2,) and set(actions) <= {0, 1}
        assert list(rewards) == [time % 3] * 2
        assert list(dones) == [ended] * 2
        assert np.array_equal(new_obs, np.eye(3)[[(time + 1) % 3] * 2])
        assert [("terminal_observation" in info) for info in infos] == [ended] * 2


@each_algorithm
def test_callbacks_can_differentiate_the_policy(algorithm: Any) -> None:
    def gradient(callback: BaseCallback) -> float:
        policy: Any = callback.model.policy
        obs, actions = (th.as_tensor(callback.locals[name]) for name in ("new_obs", "actions"))
        objective = policy.get_distribution(obs).log_prob(actions).sum()
        if policy.critic:
            objective = objective + policy.predict_values(obs).sum()
        return min(grad.norm().item() for grad in th.autograd.grad(objective, list(policy.parameters())))

    recorder = Recorder(gradient)
    watched = make(algorithm, n_steps=4).learn(30, recorder)
    assert len(recorder.seen) == 30 and min(recorder.seen) > 0
    assert np.array_equal(weights(watched), weights(make(algorithm, n_steps=4).learn(30)))


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
    algorithm: Any, rule: str, wrap: Callable[[VecEnv], VecEnv]
) -> None:
    plain = make(algorithm, rule=rule, n_envs=2).learn(80)
    wrapped = make(algorithm, wrap(make_vec_env(lambda: ScriptedEnv([10]), 2, seed=0)), rule).learn(80)
    assert np.array_equal(weights(wrapped), weights(plain))
    assert [info["r"] for info in wrapped.ep_info_buffer] == [info["r"] for info in plain.ep_info_buffer]


def test_normalized_rewards_and_stacked_frames_are_what_is_learned_from() -> None:
    env = VecNormalize(VecFrameStack(clock([100.0] * 5), n_stack=3), norm_obs=False, clip_reward=0.25)
    model = make(env=env, rule="average").learn(40)
    assert model.predictor.average_E == pytest.approx(5 * 0.25)
    assert model.policy.observation_space.shape == (15,)
    assert model.get_vec_normalize_env() is env


class OneSetOfArrays(VecEnvWrapper):
    """Returns the same arrays at each step, and overwrites them when the next step begins."""

    def reset(self) -> Any:
        if not hasattr(self, "arrays"):
            self.arrays = [
                np.empty((self.num_envs, 4), np.float32),
                np.empty(self.num_envs, np.float32),
                np.empty(self.num_envs, bool),
            ]
        self.arrays[0][:] = self.venv.reset()
        return self.arrays[0]

    def step_async(self, actions: np.ndarray) -> None:
        self.arrays[0][:], self.arrays[1][:], self.arrays[2][:] = 7, -7, True
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        *results, infos = self.venv.step_wait()
        for own, new in zip(self.arrays, results, strict=True):
            own[:] = new
        return (*self.arrays, infos)


@each_rule
@pytest.mark.parametrize("n_steps", [8, 80])
def test_arrays_that_an_environment_uses_again_are_copied(algorithm: Any, rule: str, n_steps: int) -> None:
    """The first update is that of the first four steps, which include the observation of the reset."""
    # With a reward at each step, the average starts anew after what was the end of an episode one step before.
    timing: dict[str, Any] = {} if rule == "critic" else {"reward_timing": "step", "scale_rpe": False}
    plain, reusing = (make_vec_env(lambda: ScriptedEnv([4, 3]), 2, seed=0) for _ in range(2))
    one, other = (
        weights(make(algorithm, env, rule, n_steps=4, **timing).learn(n_steps))
        for env in (plain, OneSetOfArrays(reusing))
    )
    assert np.array_equal(one, other)


class OtherTypes(VecEnvWrapper):
    """
    Whole numbers at the reset, double precision afterwards: environments in processes pass on what they have.

    :param venv: Environments
    :param change: Whether to do this, or only to round what the reset gives
    """

    def __init__(self, venv: VecEnv, change: bool) -> None:
        super().__init__(venv)
        self.change = change

    def reset(self) -> Any:
        obs: Any = self.venv.reset()
        rounded = np.rint(obs)
        return rounded.astype(int) if self.change else rounded

    def step_wait(self) -> Any:
        results: Any = self.venv.step_wait()
        obs, rewards, dones, infos = results
        return (obs.astype(float), rewards.astype(float), dones, infos) if self.change else results


def test_types_of_numbers_change_no_weight() -> None:
    envs = [OtherTypes(make_vec_env(lambda: ScriptedEnv([5, 3]), 2, seed=0), change) for change in (False, True)]
    plain, other = (weights(make(env=env).learn(100)) for env in envs)
    assert np.array_equal(plain, other)


@pytest.mark.slow
def test_environments_in_processes_give_the_same_weights() -> None:
    """SubprocVecEnv returns rewards in double precision, DummyVecEnv in single precision."""
    fork = {"start_method": "fork"}  # which starts soonest
    processes = make_vec_env("Pendulum-v1", 2, vec_env_cls=SubprocVecEnv, vec_env_kwargs=fork)
    try:
        for algorithm, rule in ((NRL, "critic"), (RMHL, "average"), (BPTT, "critic")):
            settings: dict[str, Any] = {} if rule == "critic" else {"reward_timing": "step", "scale_rpe": False}
            envs = (processes, make_vec_env("Pendulum-v1", 2))
            first, second = (weights(make(algorithm, env, rule, **settings).learn(120)) for env in envs)
            assert np.array_equal(first, second)
    finally:
        processes.close()


class Payday(gymnasium.Wrapper):
    """Rewards that are different at each step and do not depend on the actions."""

    n_steps = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        obs, _, terminated, truncated, info = self.env.step(action)
        return obs, float(self.n_steps % 3), terminated, truncated, info


@each_algorithm
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
    algorithm: Any, policy: str, make_env: Callable[[], gymnasium.Env]
) -> None:
    settings: dict[str, Any] = {"reward_timing": "step"} if algorithm is RMHL else {}
    model = make(algorithm, Payday(make_env()), policy=policy, learning_rate=1e-3, n_steps=4, **settings)
    before = {name: parameter.clone() for name, parameter in model.policy.named_parameters()}
    model.learn(8)
    assert not [name for name, parameter in model.policy.named_parameters() if th.equal(parameter, before[name])]
    obs = model.get_env().reset()
    for deterministic in (True, False):
        (action,), _ = model.predict(obs, deterministic=deterministic)
        assert model.action_space.contains(action.astype(model.action_space.dtype))


# Predicting, parameters


def test_predict_takes_the_likeliest_action_or_draws() -> None:
    model = make(env="CartPole-v1").learn(50)
    batch = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    probabilities = model.policy.get_distribution(th.as_tensor(batch)).distribution.probs.detach().numpy()
    actions, state = model.predict(batch, deterministic=True)
    assert state is None
    assert np.array_equal(actions, probabilities.argmax(1))
    for obs, action in zip(batch, actions, strict=True):
        single, _ = model.predict(obs, deterministic=True)
        assert single.shape == () and single == action
    drawn, _ = model.predict(np.repeat(batch[:1], 2000, axis=0))
    assert drawn.mean() == pytest.approx(probabilities[0, 1], abs=0.04)


@each_algorithm
def test_evaluate_policy_sees_the_deterministic_policy(algorithm: Any) -> None:
    model = make(algorithm, policy_kwargs={"head_gain": 1e-3})
    with th.no_grad():
        model.policy.actor.head.bias.copy_(th.tensor([0.0, 0.3, 0.0]))
    env = model.get_env()
    assert evaluate_policy(model, env, n_eval_episodes=3) == (10, 0)
    returns, _ = evaluate_policy(model, env, n_eval_episodes=10, deterministic=False, return_episode_rewards=True)
    assert 0 < np.mean(returns) < 10 and np.std(returns) > 0


@each_rule
def test_parameters_can_be_handed_over(algorithm: Any, rule: str) -> None:
    giver, taker = (make(algorithm, rule=rule, seed=seed).learn(30) for seed in (1, 2))
    assert not np.array_equal(weights(taker), weights(giver))
    # PyTorch's optimizers share their moments with what is loaded.
    taker.set_parameters(deepcopy(giver.get_parameters()))
    assert np.array_equal(weights(taker), weights(giver))
    taker.predictor = deepcopy(giver.predictor)
    for model in (giver, taker):
        model.get_env().seed(3)
        model.set_random_seed(3)
        model.learn(40)
    assert np.array_equal(weights(taker), weights(giver))


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpGruPolicy", "MlpLifPolicy"])
def test_weights_act_from_when_they_are_loaded_as_a_vector(policy: str) -> None:
    """PyTorch's ``vector_to_parameters`` gives each parameter new memory."""
    batch = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    giver, taker = (make(env="CartPole-v1", policy=policy, seed=seed, policy_kwargs={}).learn(64) for seed in (1, 2))
    vector = giver.policy.parameters_to_vector()
    expected = giver.predict(batch, deterministic=True)[0]
    assert not np.array_equal(taker.predict(batch, deterministic=True)[0], expected)
    th.nn.utils.vector_to_parameters(th.as_tensor(vector), taker.policy.parameters())
    assert np.array_equal(taker.predict(batch, deterministic=True)[0], expected)
    taker.policy.load_from_vector(np.zeros_like(vector))
    assert len(set(taker.predict(batch, deterministic=True)[0])) == 1


class Replacing(th.optim.SGD):
    """Gives each parameter new memory at each step."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data = parameter.data.clone()


@each_rule
def test_an_optimizer_may_replace_the_memory_of_parameters(algorithm: Any, rule: str) -> None:
    found = [
        weights(make(algorithm, rule=rule, policy_kwargs={"optimizer_class": kind}).learn(60))
        for kind in (th.optim.SGD, Replacing)
    ]
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("algorithm", [NRL, BPTT])
@pytest.mark.parametrize("by_method", [True, False])
def test_weights_that_a_callback_loads_are_those_that_act(algorithm: Any, by_method: bool) -> None:
    """At once by the policy's method, after the next update by PyTorch's function."""
    differences: list[float] = []

    def load(local: dict[str, Any], _: dict[str, Any]) -> bool:
        policy = model.policy
        obs, actions = th.as_tensor(local["obs"]), th.as_tensor(local["actions"])
        with th.no_grad():
            expected = policy.evaluate_actions(obs, actions)[1].numpy()
        differences.append(float(np.abs(local["log_probs"] - expected).max()))
        if model.num_timesteps == 12:
            vector = np.linspace(-1, 1, policy.parameters_to_vector().size, dtype=np.float32)
            if by_method:
                policy.load_from_vector(vector)
            else:
                th.nn.utils.vector_to_parameters(th.as_tensor(vector), policy.parameters())
        return True

    model = make(algorithm, env="CartPole-v1", norm_obs=False)
    model.learn(50, load)
    until = 12 if by_method else N_STEPS
    assert max(differences[:12]) < 1e-5 and max(differences[until:]) < 1e-5
    assert by_method or max(differences[12:until]) > 1e-3


def test_weights_that_a_callback_tries_out_do_not_stay() -> None:
    """For example averaged ones: predict sees them, and the next update those that are back in place."""

    def try_out(_: dict[str, Any], __: dict[str, Any]) -> bool:
        if model.num_timesteps != N_STEPS + 1:
            return True
        parameters = list(model.policy.parameters())
        own = [parameter.data for parameter in parameters]
        for parameter in parameters:
            parameter.data = parameter.data * 0 + 7
        model.predict(np.zeros((1, 4), np.float32))
        for parameter, before in zip(parameters, own, strict=True):
            parameter.data = before
        return True

    model = make(NRL, env="CartPole-v1")
    model.learn(4 * N_STEPS, try_out)
    for layer in model.policy.layers:
        for parameter, view in zip(layer.parameters(), layer.arrays(np), strict=True):
            np.testing.assert_array_equal(parameter.detach().numpy(), view)


@pytest.mark.parametrize("optimizer", [th.optim.Adam, th.optim.SGD])
def test_the_order_of_parameters_in_memory_does_not_matter(optimizer: Any) -> None:
    found = []
    for is_transposed in (False, True):
        model = make(NRL, env="CartPole-v1", policy_kwargs={"optimizer_class": optimizer})
        weight = model.policy.actor.hidden[0].weight
        if is_transposed:
            weight.data = weight.data.t().contiguous().t()
        assert weight.is_contiguous() != is_transposed
        found.append(weights(model.learn(2 * N_STEPS)))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpGruPolicy"])
def test_a_layer_that_needs_pytorch_may_come_between_trainings(policy: str) -> None:
    model = make(NRL, env="CartPole-v1", policy=policy, n_steps=4).learn(30, stop_at(14))
    before = weights(model)
    model.policy.actor.features.runs_in_numpy = False
    model.learn(40, reset_num_timesteps=False)
    assert model.policy.xp is th and not np.array_equal(weights(model), before)


@each_rule
@pytest.mark.parametrize("refused", [False, True])
def test_set_parameters_drops_the_traces_of_other_parameters(algorithm: Any, rule: str, refused: bool) -> None:
    model = make(algorithm, rule=rule, env=[50], n_steps=4).learn(30, stop_at(14))
    assert model.traces.trace_EW is not None and model.rollout_buffer.pos > 0
    if refused:  # for what is missing, after the rest was taken over
        with pytest.raises(ValueError, match="Names of parameters do not match"):
            model.set_parameters({"policy": model.policy.state_dict()})
    else:
        model.set_parameters(model.get_parameters())
    assert (model.rollout_buffer.pos, model.traces.trace_EW) == (0, None)


@pytest.mark.parametrize("within", [False, True], ids=["between trainings", "in a callback"])
@pytest.mark.parametrize("at", [27, 30], ids=["amid an episode", "at its end"])
def test_set_parameters_leaves_the_sum_of_rewards(within: bool, at: int) -> None:
    def replace(*_: Any) -> bool:
        if model.num_timesteps == at:
            model.set_parameters(model.get_parameters())
        return True

    model = make(env=clock([1.0] * 10), rule="average").learn(20)
    assert model.predictor.average_E == 10
    model.learn(at - 20, replace if within else None, reset_num_timesteps=False)
    if not within:
        replace()
    model.learn(40 - at, reset_num_timesteps=False)
    assert model.predictor.average_E == 10


@each_rule
@pytest.mark.parametrize("n_steps", [4, 64])
def test_another_number_of_steps_waits_for_the_next_training(algorithm: Any, rule: str, n_steps: int) -> None:
    def change(*_: Any) -> bool:
        if model.num_timesteps == 30:
            model.n_steps = n_steps
        return True

    model = make(algorithm, rule=rule, env=[50]).learn(20)
    model.learn(100, change)
    assert model.rollout_buffer.buffer_size == N_STEPS
    model.learn(100, reset_num_timesteps=False)
    assert (model.num_timesteps, model.rollout_buffer.buffer_size) == (200, n_steps)


@each_rule
@pytest.mark.parametrize("every", [1, 3, 10], ids=["at every step", "amid episodes", "at their ends"])
def test_refresh_without_a_change_changes_no_weight(algorithm: Any, rule: str, every: int) -> None:
    def refresh(*_: Any) -> bool:
        if model.num_timesteps % every == 0:
            model.refresh()
        return True

    expected = weights(make(algorithm, rule=rule, env=[10, 7]).learn(100))
    model = make(algorithm, rule=rule, env=[10, 7])
    assert np.array_equal(weights(model.learn(100, refresh)), expected)


@pytest.mark.parametrize("within", [False, True], ids=["between trainings", "in a callback"])
def test_another_learning_rate_takes_effect(within: bool) -> None:
    def change(*_: Any) -> bool:
        if model.num_timesteps == 2 * N_STEPS:
            model.learning_rate = 0.0
            if within:
                model.refresh()
            after.append(weights(model))
        return True

    after: list[np.ndarray] = []
    model = make()
    model.learn(4 * N_STEPS, change)
    assert np.array_equal(weights(model), after[0]) == within
    after[0] = weights(model)
    assert np.array_equal(weights(model.learn(64)), after[0])


def test_a_schedule_of_ones_own_stays() -> None:
    model = make()
    model.lr_schedule = lambda _: 0.0
    before = weights(model)
    assert np.array_equal(weights(model.learn(64)), before)


# Logs


def scalars(folder: Path, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(folder)).Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


@each_algorithm
def test_tensorboard_holds_every_figure_of_a_running_average(algorithm: Any, tmp_path: Path) -> None:
    env = clock([0.0, 1.0, 3.0], [1.0, 1.0, 0.0])
    make(algorithm, env, "average", tensorboard_log=str(tmp_path), scale_rpe=False).learn(30, log_interval=1)
    (run,) = tmp_path.iterdir()
    assert run.name == f"{algorithm.__name__}_1"
    # A line of the log is written before the update that belongs to it.
    rpe, prediction, trace, update = (
        scalars(run, f"train/{name}") for name in ("rpe", "reward_prediction", "trace_norm", "update_norm")
    )
    assert list(rpe) == list(range(6, 31, 3))
    assert [rpe[6], rpe[9]] == pytest.approx([0, 2 - 4])
    assert [prediction[6], prediction[9]] == pytest.approx([4, 4 - 0.66 * 2])
    assert [update[6], update[9]] == pytest.approx([0, 2 * trace[9]], rel=1e-4) and trace[9] > 0
    assert list(scalars(run, "train/learning_rate").values()) == pytest.approx([0.05] * len(rpe))
    assert set(scalars(run, "rollout/ep_len_mean").values()) == {3}
    assert min(scalars(run, "time/fps").values()) > 0


@each_rule
def test_log_counts_steps_and_updates(algorithm: Any, rule: str, tmp_path: Path) -> None:
    model = make(algorithm, clock([0.0, 1.0, 3.0]), rule, n_steps=3)
    model.set_logger(configure(str(tmp_path), ["json"]))
    model.learn(12, log_interval=1)
    model.logger.close()
    lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert [line.get("train/n_updates") for line in lines] == [None, 1, 2, 3]
    assert [line["time/total_timesteps"] for line in lines] == [3, 6, 9, 12]
    if rule == "critic":
        assert {"train/value_loss", "train/explained_variance", "train/rpe"} <= lines[-1].keys()


@each_rule
def test_logged_entropy_loss_is_the_negative_entropy(algorithm: Any, rule: str) -> None:
    """As A2C's is, but estimated from the actions that were taken; the policy is the same in all states."""
    settings: dict[str, Any] = {"noise_std": 1e-6} if algorithm is RMHL else {}
    kwargs = {"use_bias": True}
    model = make_model(algorithm, rule=rule, n_envs=8, learning_rate=0.0, policy_kwargs=kwargs, **settings)
    log_p = th.tensor([0.7, 0.2, 0.1]).log()
    model.policy.actor.head.weight.data.zero_()
    model.policy.actor.head.bias.data.copy_(log_p)
    model.learn(8_000, log_interval=10**9)
    negative_entropy = float((log_p.exp() * log_p).sum())
    error = float(((log_p.exp() * log_p**2).sum() - negative_entropy**2).sqrt()) / math.sqrt(8_000)
    assert model.logger.name_to_value["train/entropy_loss"] == pytest.approx(negative_entropy, abs=5 * error)


@pytest.mark.parametrize("antithetic", [False, True])
def test_logged_spread_of_rho_is_that_of_the_noise_along_the_gradient(antithetic: bool) -> None:
    """ρ = ξ · g for small noise, with g the gradient of log π(a|s): its standard deviation is σ ‖g‖."""
    model = make_model(
        NRL,
        learning_rate=0.0,
        n_steps=1,
        noise_std=1e-3,
        n_noise_samples=2_000,
        antithetic=antithetic,
        policy_kwargs={"head_gain": 1.0},
    )
    updates = record_updates(model)
    model.learn(8, log_interval=10**9)
    spreads = []
    for update in updates:
        exact: Any = ExactGradient().eligibility(model.policy, update.window, None)[0]
        spreads.append(1e-3 * float(np.linalg.norm(exact.post_BN[:, model.policy.parts[0].nodes])))
    # Of 2,000 numbers in each of 8 windows, the standard deviation has an error of 1.6 %, and their mean of 0.6 %.
    assert model.logger.name_to_value["train/rho_std"] == pytest.approx(np.mean(spreads), rel=0.03)


def test_logged_returns_are_means_over_the_last_episodes(tmp_path: Path) -> None:
    env = clock([0.0, 1.0], [2.0, 2.0], [5.0, 5.0])
    make(env=env, n_steps=2, stats_window_size=2, tensorboard_log=str(tmp_path)).learn(8, log_interval=1)
    means = scalars(tmp_path / "NRL_1", "rollout/ep_rew_mean")
    assert means == {2: 1, 4: (1 + 4) / 2, 6: (4 + 10) / 2, 8: (10 + 1) / 2}


# Learning rate, clipping


def halving(progress: float) -> float:
    return 0.05 * (1 + progress)


@each_rule
def test_learning_rate_follows_its_schedule(algorithm: Any, rule: str) -> None:
    recorder = Recorder(lambda callback: [group["lr"] for group in callback.model.policy.optimizer.param_groups])
    settings = {"vf_coef": 2.0, "n_steps": 1} if rule == "critic" else {"reward_timing": "step"}
    make(algorithm, rule=rule, learning_rate=halving, **settings).learn(40, recorder)
    expected = np.array([halving(1 - step / 40) for step in range(1, 40)])
    assert np.array(recorder.seen)[1:, 0] == pytest.approx(expected)
    if rule == "critic":
        assert np.array(recorder.seen)[1:, 1] == pytest.approx(2 * expected)


def test_schedules_end_at_the_end() -> None:
    """The last step of all environments may exceed the number of steps."""
    model = make(n_envs=8, learning_rate=math.sqrt, n_steps=4).learn(41)
    assert model.num_timesteps == 48
    assert model.policy.optimizer.param_groups[0]["lr"] == 0


@pytest.mark.parametrize("rule", ["critic", "average"])
def test_max_grad_norm_bounds_the_change_of_actor_and_critic(rule: str) -> None:
    def largest_changes(max_grad_norm: float | None) -> list[float]:
        recorder = Recorder(lambda callback: weights(cast(ThreeFactorAlgorithm, callback.model)))
        settings = {"n_steps": 1} if rule == "critic" else {"reward_timing": "step", "scale_rpe": False}
        kwargs = {**SMALL, "optimizer_class": th.optim.SGD}
        model = make(rule=rule, n_envs=2, max_grad_norm=max_grad_norm, policy_kwargs=kwargs, **settings)
        model.learn(100, recorder)
        changes = np.diff(recorder.seen, axis=0)
        return [np.linalg.norm(changes[:, part.weights], axis=1).max() for part in model.policy.parts]

    assert largest_changes(1e-3) == pytest.approx([0.05 * 1e-3] * (2 if rule == "critic" else 1), rel=0.01)
    assert min(largest_changes(None)) > 2 * 0.05 * 1e-3


# Forward passes only, devices


@each_algorithm
def test_backward_passes_are_for_bptt_alone(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a backward pass")

    model = make(algorithm)
    before = weights(model)
    for place, name in ((th.autograd, "backward"), (th.autograd, "grad"), (th.Tensor, "backward")):
        monkeypatch.setattr(place, name, forbidden)
    if algorithm is BPTT:
        with pytest.raises(AssertionError, match="a backward pass"):
            model.learn(60)
    else:
        assert not np.array_equal(weights(model.learn(60)), before)


@pytest.mark.skipif(not th.cuda.is_available(), reason="no CUDA")
@each_rule
def test_cuda_is_used_and_gives_the_same_weights(algorithm: Any, rule: str) -> None:
    """The exact gradient is that of the CPU up to rounding; noise is drawn on the device and differs."""
    models = [make(algorithm, rule=rule, device=device, n_envs=2) for device in ("cuda", "auto", "cpu")]
    before = weights(models[0])
    for model in models[:2]:
        assert model.device.type == "cuda"
        assert {parameter.device.type for parameter in model.policy.parameters()} == {"cuda"}
    trained = [weights(model.learn(64)) for model in models]
    assert np.array_equal(trained[0], trained[1])
    assert not np.array_equal(trained[0], before)
    if algorithm is BPTT:
        assert trained[0] == pytest.approx(trained[2], abs=1e-3)
