"""NeuroGym's tasks: every time step counts once, seeds are reproducible, and Stable-Baselines3 can use the tasks."""

import ast
import csv
import functools
import os
import pathlib
import pickle
import pkgutil
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import gymnasium
import matplotlib.pyplot as plt
import neurogym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from neurogym.core import TrialEnv, TrialWrapper
from neurogym.utils import spaces as neurogym_spaces
from neurogym.utils.ngym_random import TruncExp
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from sb3_nrl import NRL
from sb3_nrl.callbacks import PerformanceCallback
from sb3_nrl.envs import TASKS, UNAVAILABLE, NeuroGymEnv, plot_trial

each_task = pytest.mark.parametrize("env_id", TASKS)

TIMEOUT_REWARD = 1000


class ScriptedTask(TrialEnv):
    """
    Trials numbered from 0, of given lengths in steps; action 2 ends one earlier. The observation is (number of the
    trial, number of the step, how often it went through ``post_step``, a number drawn for the trial). The reward is
    100 · trial + 10 · step + action, and ``TIMEOUT_REWARD`` when time is up. Performance grows by the trial's number
    when the trial is drawn, and by 0.1 with each action 1.
    """

    def __init__(self, lengths: Sequence[int] = (3, 2), dt: int = 10) -> None:
        super().__init__(dt=dt, r_tmax=TIMEOUT_REWARD)
        self.lengths = lengths
        self.timing = {"trial": dt}
        self.observation_space = neurogym_spaces.Box(-np.inf, np.inf, shape=(4,), dtype=np.float32)
        self.action_space = neurogym_spaces.Discrete(3)

    def _new_trial(self, number: int | None = None) -> dict[str, Any]:
        number = self.num_tr if number is None else number
        self.add_period("trial", duration=self.lengths[number % len(self.lengths)] * self.dt)
        ob = self.view_ob()
        ob[:, 0], ob[:, 1], ob[:, 3] = number, np.arange(len(ob)), self.rng.rand()
        self.set_groundtruth(np.arange(len(ob)) % 3)
        self.performance += number
        return {"number": number}

    def _step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = 100 * self.trial["number"] + 10 * self.t_ind + action
        self.performance += 0.1 * (action == 1)
        return self.ob_now, reward, False, False, {"new_trial": action == 2}

    def post_step(self, ob: Any, *rest: Any) -> Any:
        ob[2] += 1
        return ob, *rest


def scripted(*lengths: int, trials_per_episode: int | None = 1) -> NeuroGymEnv:
    return NeuroGymEnv(lambda: ScriptedTask(lengths), trials_per_episode)


def play(env: gymnasium.Env, actions: Sequence[int]) -> list[tuple[Any, ...]]:
    """What each action gives: trial, step and ``post_step`` count of the next observation; reward; terminated."""
    steps = [env.step(action) for action in actions]
    return [(*obs[:3].tolist(), reward, terminated) for obs, reward, terminated, _, _ in steps]


def trials(env: gymnasium.Env, n: int, seed: int | None = None) -> Iterator[list[np.ndarray]]:
    """Everything that n trials show to an agent whose actions depend on the seed of the action space alone."""
    for i in range(n):
        obs, _ = env.reset(seed=seed if i == 0 else None)
        seen, over = [obs], False
        while not over:
            obs, reward, over, truncated, info = env.step(env.action_space.sample())
            assert not truncated
            seen += [obs, np.array(reward), np.array(info.get("gt", 0))]
        yield [*seen, np.array(info["performance"])]


def task_of(env: gymnasium.Env) -> Any:
    """NeuroGym's task."""
    assert isinstance(env.unwrapped, NeuroGymEnv)
    return env.unwrapped.task.unwrapped


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


# --- one trial is one episode ---


def test_every_step_of_a_trial_is_observed_acted_upon_and_rewarded_once() -> None:
    env = scripted(3, 2, 1)
    obs, info = env.reset()
    assert obs[:3].tolist() == [0, 0, 1] and info == {}
    assert play(env, [1, 0, 1]) == [(0, 1, 1, 1, False), (0, 2, 1, 10, False), (0, 2, 1, 21 + TIMEOUT_REWARD, True)]
    obs, _ = env.reset()
    assert obs[:3].tolist() == [1, 0, 1]
    assert play(env, [0, 1]) == [(1, 1, 1, 100, False), (1, 1, 1, 111 + TIMEOUT_REWARD, True)]
    obs, _ = env.reset()
    assert obs[:3].tolist() == [2, 0, 1]
    assert play(env, [1]) == [(2, 0, 1, 201 + TIMEOUT_REWARD, True)]


def test_a_trial_that_an_action_ends_does_not_time_out() -> None:
    env = scripted(3)
    env.reset()
    assert play(env, [0, 2]) == [(0, 1, 1, 0, False), (0, 1, 1, 12, True)]
    assert env.reset()[0][:3].tolist() == [1, 0, 1]
    assert play(env, [0, 0, 0])[-1] == (1, 2, 1, 120 + TIMEOUT_REWARD, True)


def test_info_is_about_the_trial_that_ended() -> None:
    env = scripted(3, 2)
    for number, length in enumerate((3, 2, 3)):
        env.reset()
        infos = [env.step(1)[4] for _ in range(length)]
        assert [info["gt"] for info in infos] == list(range(length))
        assert [info["new_trial"] for info in infos] == [False] * (length - 1) + [True]
        assert all("performance" not in info and "trial" not in info for info in infos[:-1])
        # NeuroGym itself would lose the performance that the task sets at the beginning of the trial.
        assert infos[-1]["performance"] == pytest.approx(number + 0.1 * length)
        assert infos[-1]["trial"] == {"number": number}


def test_an_episode_that_is_left_early_leaves_nothing_behind() -> None:
    env = scripted(3)
    env.reset()
    play(env, [1, 1])
    assert env.reset()[0][:3].tolist() == [1, 0, 1]
    *_, info = [env.step(0) for _ in range(3)][-1]
    assert info["performance"] == 1


def test_a_time_limit_truncates_and_the_next_episode_is_a_new_trial() -> None:
    env = gymnasium.wrappers.TimeLimit(scripted(3), 2)
    env.reset()
    *_, (obs, reward, terminated, truncated, info) = [env.step(0) for _ in range(2)]
    assert obs[:2].tolist() == [0, 2] and reward == 10 and (terminated, truncated) == (False, True)
    assert "performance" not in info
    assert env.reset()[0][:2].tolist() == [1, 0]


def test_a_task_in_the_place_of_its_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"build=.*: must be a function or class that makes the task"):
        NeuroGymEnv(ScriptedTask([2]))


def test_several_trials_per_episode() -> None:
    env = scripted(2, 1, trials_per_episode=3)
    env.reset()
    assert play(env, [0, 0, 1, 0, 1]) == [
        (0, 1, 1, 0, False),
        (1, 0, 1, 10 + TIMEOUT_REWARD, False),
        (2, 0, 1, 101 + TIMEOUT_REWARD, False),
        (2, 1, 1, 200, False),
        (2, 1, 1, 211 + TIMEOUT_REWARD, True),
    ]
    assert env.reset()[0][:2].tolist() == [3, 0]
    infos = [env.step(0)[4] for _ in range(4)]
    assert [info.get("performance") for info in infos] == [3, None, 4, 5]


def test_a_continuing_stream() -> None:
    env = scripted(2, trials_per_episode=None)
    env.reset()
    steps = play(env, [0] * 40)
    assert [step[:2] for step in steps[1::2]] == [(trial, 0) for trial in range(1, 21)]
    assert not any(terminated for *_, terminated in steps)


def test_no_step_before_a_reset() -> None:
    env = scripted(1)
    for _ in range(2):
        with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
            env.step(0)
        env.reset()
        env.step(0)


def test_what_users_do_to_an_observation_does_not_come_back() -> None:
    env = scripted(2, 1)
    for first in (lambda: (env.reset(), env.step(0))[1][0], lambda: env.reset()[0]):
        obs = first()
        before = obs.tolist()
        obs += 1
        last, _, terminated, *_ = env.step(0)
        assert terminated and last.tolist() == before


def test_a_wrapper_that_sets_conditions() -> None:
    class OddNumbers(TrialWrapper):
        def new_trial(self, **conditions: Any) -> Any:
            return self.env.new_trial(number=2 * self.unwrapped.num_tr + 1)

    env = NeuroGymEnv(lambda: OddNumbers(ScriptedTask()), trials_per_episode=2)
    assert env.reset()[0][0] == 1
    assert [step[0] for step in play(env, [2, 2])] == [3, 3]
    assert env.reset(seed=0)[0][0] == 1


# --- spaces ---


def test_spaces_are_finite_and_can_be_saved_without_neurogym() -> None:
    env = scripted(1)
    limit = np.finfo(np.float32).max
    assert env.observation_space == spaces.Box(-limit, limit, (4,), np.float32)
    assert type(env.observation_space) is spaces.Box and type(env.action_space) is spaces.Discrete
    assert env.action_space.n == 3


def test_continuous_actions_are_rescaled_to_those_of_the_task() -> None:
    env = gymnasium.make("neurogym/ReachingDelayResponse-v0", timing={"stimulus": 100, "delay": 0})
    assert env.action_space == spaces.Box(-1, 1, (2,), np.float32)
    env.reset(seed=0)
    env.step(np.array([-1, 0], np.float32))
    target = task_of(env).gt_now[1]  # in [0, 1], where the task's actions are in [-1, 2]
    *_, info = env.step(np.array([1, (target + 1) / 1.5 - 1], np.float32))
    assert info["performance"] == pytest.approx(1)
    assert info["gt"] == pytest.approx([1, (target + 1) / 1.5 - 1]) and info["gt"] in env.action_space


# --- every task ---


def _n_steps(env: gymnasium.Env) -> int:
    """Number of steps of the next trial if all actions are 0."""
    env.reset()
    action = np.zeros(env.action_space.shape or (), env.action_space.dtype)
    n_steps, over = 0, False
    while not over:
        over = env.step(action)[2]
        n_steps += 1
    return n_steps


@each_task
def test_three_trials(env_id: str) -> None:
    env = gymnasium.make(env_id)
    space = env.observation_space
    assert isinstance(space, spaces.Box) and space.dtype == np.float32
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        longest = task_of(env).tmax / task_of(env).dt
        n_steps, over = 0, False
        while not over:
            assert obs in space and obs.dtype == np.float32
            obs, reward, over, truncated, info = env.step(env.action_space.sample())
            n_steps += 1
            assert isinstance(reward, float) and not truncated and info["new_trial"] is over
        assert obs in space
        assert n_steps <= longest
        assert isinstance(info["performance"], float) and 0 <= info["performance"] <= 1
        pickle.dumps(info)


@each_task
def test_passes_the_checkers_without_a_warning(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(env_id)
        check_env(env.unwrapped, skip_render_check=True)
        sb3_check_env(env.unwrapped)
        sb3_check_env(env)


@each_task
def test_a_seed_decides_everything(env_id: str) -> None:
    n = 25
    env, other = gymnasium.make(env_id), gymnasium.make(env_id)
    runs = []
    for each, seed in ((env, 3), (other, 3), (env, 4), (env, 3)):
        each.action_space.seed(0)
        runs.append(list(trials(each, n, seed)))
    first, in_another, with_another_seed, after_other_trials = runs
    assert all(map(same, first, in_another))
    assert all(map(same, first, after_other_trials))
    assert not all(map(same, first, with_another_seed))
    assert not all(same(first[0], trial) for trial in first[1:])


@pytest.mark.parametrize(
    ("task", "first"), [("ChangingEnvironment", "curr_cxt"), ("HierarchicalReasoning", "block_size")]
)
def test_a_seed_decides_what_tasks_draw_when_they_are_made(task: str, first: str) -> None:
    def draw(seed: int) -> int:
        env = gymnasium.make(f"neurogym/{task}-v0")
        env.reset(seed=seed)
        return getattr(task_of(env), first)

    assert len({draw(0) for _ in range(10)}) == 1
    assert len({draw(seed) for seed in range(10)}) > 1


def test_without_a_seed_two_environments_differ() -> None:
    first, second = (gymnasium.make("neurogym/Reaching1D-v0") for _ in range(2))
    assert not np.array_equal(_target(first), _target(second))


def test_generators_among_the_arguments_are_not_shared() -> None:
    timing = {"stimulus": TruncExp(1000, 100, 3000)}
    envs = [gymnasium.make("neurogym/PerceptualDecisionMaking-v0", timing=timing) for _ in range(2)]
    lengths = []
    for env in envs:
        env.reset(seed=0)
    for env in envs:
        lengths.append([_n_steps(env) for _ in range(10)])
    assert lengths[0] == lengths[1] and len(set(lengths[0])) > 3


@pytest.mark.parametrize(
    "task", ["Reaching1D", "ReachingDelayResponse", "SpatialSuppressMotion", "MultiSensoryIntegration"]
)
@pytest.mark.parametrize("dt", [0.1, 8.3, 16.7, 20])
def test_every_observation_of_a_trial_is_seen_whatever_the_rounding(task: str, dt: float) -> None:
    env = gymnasium.make(f"neurogym/{task}-v0", dt=dt)
    env.reset(seed=0)
    for _ in range(2):
        assert _n_steps(env) == len(task_of(env).ob)


def test_room_for_rounding_does_not_add_up() -> None:
    env = gymnasium.make("neurogym/DawTwoStep-v0")  # sets its time limit once, for all trials
    env.reset()
    limit = task_of(env).tmax
    env.reset()
    assert task_of(env).tmax == limit


# --- which tasks there are ---


def _shipped() -> dict[str, str]:
    """Names and entry points of everything that may be a task in NeuroGym's source."""
    shipped = {}
    for path in (pathlib.Path(neurogym.__file__).parent / "envs").glob("*/*.py"):
        folder, module = path.parent.name, f"neurogym.envs.{path.parent.name}.{path.stem}"
        prefix = {"native": "", "collections": f"{path.stem}."}.get(folder, f"{folder}.")
        kind = ast.FunctionDef if folder == "collections" else ast.ClassDef
        for node in ast.parse(path.read_text()).body if path.stem != "__init__" else ():
            if isinstance(node, kind) and not node.name.startswith("_"):
                shipped[prefix + node.name] = f"{module}:{node.name}"
    del shipped["contrib.FullInput"], shipped["psychopy.PsychopyEnv"]  # a wrapper, and a base class
    return shipped


def test_every_task_is_either_registered_or_unavailable() -> None:
    registered = {env_id.removeprefix("neurogym/").removesuffix("-v0") for env_id in TASKS}
    shipped = set(_shipped())
    assert set(UNAVAILABLE) <= shipped
    assert {name.removeprefix("contrib.") for name in shipped - set(UNAVAILABLE)} == registered
    assert len(registered) > 50 and all(env_id in gymnasium.registry for env_id in TASKS)


ERRORS = {
    "has no ground truth": "has no attribute 'gt'",
    "is an empty template": "has no time step to observe",
    "writes into an observation": "does not support item assignment",
    "has no timing": "'timing' dictionary cannot be empty",
    "has no trials": "has no attribute 'new_trial'",
    "needs a wrapper": "requires task to have attribute|call env.step\\(\\) before",  # the latter on Gymnasium 0.29
    "needs a task": "doesn't exist",
    "needs PsychoPy": "No module named 'psychopy'",
}
"""What the published reasons lead to. NeuroGym has no errors of its own."""


@pytest.mark.parametrize("name", sorted(set(UNAVAILABLE) - {"contrib.CVLearning"}))
@pytest.mark.filterwarnings("ignore")
def test_unavailable_tasks_cannot_be_run_for_the_published_reason(name: str) -> None:
    if name.startswith("psychopy.") and find_spec("psychopy"):
        pytest.skip("PsychoPy is there: whether there is a display is not our business")
    (message,) = [message for reason, message in ERRORS.items() if UNAVAILABLE[name].startswith(reason)]
    with pytest.raises(Exception, match=message):
        for seed in range(20):
            list(trials(NeuroGymEnv(pkgutil.resolve_name(_shipped()[name])), 1, seed))


def test_the_task_that_cannot_be_seeded() -> None:
    def delays() -> list[float]:
        task = pkgutil.resolve_name(_shipped()["contrib.CVLearning"])(stages=[3], th_stage=-1)
        task.inc_delays = 1
        task.seed(0)
        return [(task.new_trial(), task.end_t["delay"])[1] for _ in range(40)]

    assert delays() != delays()


# --- arguments ---


def test_arguments_go_to_the_task() -> None:
    env = gymnasium.make("neurogym/Reaching1D-v0", dt=10, timing={"reach": 3000}, dim_ring=8).unwrapped
    assert env.observation_space.shape == (16,)
    (trial,) = trials(env, 1)
    assert len(trial) == 3 * 350 + 2
    ring = gymnasium.make("neurogym/yang19.go-v0", dim_ring=6)
    assert ring.action_space == spaces.Discrete(7)


@pytest.mark.parametrize(
    ("task", "arguments", "error", "message"),
    [
        (
            "Reaching1D",
            {"speed": 2},
            TypeError,
            r"has no argument 'speed'; .*dt=100, .*dim_ring=16, published_target=Fa",
        ),
        ("yang19.go", {"speed": 2}, TypeError, r"has no argument 'speed'; .*dt=100, rewards=None, .*dim_ring=16$"),
        ("yang19.dlygo", {"timing": {"delay": 0}}, TypeError, r"has no argument 'timing'"),
        (
            "Reaching1D",
            {"timing": {"reech": 1}},
            ValueError,
            r"timing={'reech': 1}: must be a dictionary for fixation, reach only",
        ),
        (
            "Reaching1D",
            {"timing": {"reach": -1}},
            ValueError,
            r"timing={'reach': -1}: must be of finite durations in ms",
        ),
        (
            "Reaching1D",
            {"timing": {"reach": "long"}},
            ValueError,
            r"cannot be made: .* given .*timing={'reach': 'long'}",
        ),
        (
            "Reaching1D",
            {"rewards": {"right": 1}},
            ValueError,
            r"rewards={'right': 1}: must be a dictionary for correct, fail only",
        ),
        ("Reaching1D", {"rewards": {"fail": "no"}}, ValueError, r"rewards={'fail': 'no'}: must be of finite numbers"),
        ("Reaching1D", {"dt": 0}, ValueError, r"dt=0: must be positive, in ms"),
        (
            "Reaching1D",
            {"dt": 501},
            ValueError,
            r"a trial of Reaching1D has no time step to observe: it is shorter than",
        ),
        ("Reaching1D", {"published_target": "yes"}, ValueError, r"published_target='yes': must be True or False"),
        (
            "Reaching1D",
            {"trials_per_episode": 0},
            ValueError,
            r"trials_per_episode=0: must be a number of trials, or N",
        ),
        (
            "AnnubesEnv",
            {"catch_prob": 2},
            ValueError,
            r"The catch probability must be between 0 and 1.* catch_prob=0.5",
        ),
    ],
)
def test_bad_arguments(task: str, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"(?s)^neurogym/{task}-v0 .*{message.removesuffix('$')}"):
        gymnasium.make(f"neurogym/{task}-v0", **arguments)
    with pytest.raises(error, match=message.removesuffix("$")):
        make_vec_env(f"neurogym/{task}-v0", env_kwargs=arguments)


def test_all_unknown_arguments_are_named_at_once() -> None:
    with pytest.raises(TypeError, match="has no argument 'speed', 'task'; its arguments"):
        gymnasium.make("neurogym/Reaching1D-v0", task="GoNogo", speed=2)


def test_there_is_nothing_to_render() -> None:
    env = gymnasium.make("neurogym/GoNogo-v0", render_mode=None)
    env.reset()
    with pytest.raises(NotImplementedError, match=r"nothing to render; sb3_nrl\.envs\.plot_trial draws a trial"):
        env.unwrapped.render()
    with pytest.raises(TypeError, match="GoNogo-v0 has nothing to render: render_mode='human' must be None"):
        gymnasium.make("neurogym/GoNogo-v0", render_mode="human")


# --- Reaching1D ---

REACHING = ["Reaching1D", "Reaching1DWithSelfDistraction"]


def _target(env: gymnasium.Env) -> float:
    """The angle that the observation shows, at the first step of the reach."""
    env.reset()
    for _ in range(5):
        obs = env.step(0)[0]
    theta = task_of(env).theta
    # 32: one ring for the own position, π, and for the target. 16: a ring for each of them.
    shown = obs - np.cos(theta - np.pi) if len(theta) == 32 else obs[:16]
    return float(np.arctan2(shown @ np.sin(theta), shown @ np.cos(theta)) % (2 * np.pi))


def _distance(first: float, second: float) -> float:
    return abs((first - second + np.pi) % (2 * np.pi) - np.pi)


@pytest.mark.parametrize("task", REACHING)
@pytest.mark.parametrize("published_target", [False, True])
def test_which_target_is_rewarded(task: str, published_target: bool) -> None:
    env = gymnasium.make(f"neurogym/{task}-v0", published_target=published_target)
    env.reset(seed=0)
    for _ in range(10):
        shown = _target(env)
        rewarded = int(shown) if published_target else shown
        position = np.pi
        for action in (1, 1, 2, 0):
            position += {0: 0, 1: 0.05, 2: -0.05}[action]
            _, reward, *_, info = env.step(action)
            assert info["gt"] == pytest.approx(rewarded, abs=1e-5)
            assert reward == pytest.approx(max(1 - _distance(position, rewarded), -0.1), abs=1e-5)


def test_the_published_target_is_not_the_default() -> None:
    assert task_of(gymnasium.make("neurogym/Reaching1D-v0")).published_target is False


# --- corrected tasks ---


def test_dawtwostep_starts_each_trial_with_the_first_choice() -> None:
    env = gymnasium.make("neurogym/DawTwoStep-v0")
    for action in (0, 1, 1):
        assert env.reset()[0].tolist() == [1, 0, 0]
        obs, reward, terminated, *_ = env.step(action)
        assert terminated is (action == 0)
        if action == 1:
            assert obs.tolist() in ([0, 1, 0], [0, 0, 1]) and reward in (0, 1)
            assert env.step(0)[2]


def test_roitman02_ends_with_the_first_choice_after_the_stimulus_began() -> None:
    env = gymnasium.make("neurogym/perceptualdecisionmaking.roitman02-v0")
    env.reset(seed=0)
    rewards, ends = zip(*[env.step(action)[1:3] for action in (0, 0, 1)], strict=True)
    assert ends == (False, False, True) and rewards[:2] == (0, 0) and rewards[2] in (0, 1)


def test_the_noise_of_annubes_stays_in_its_space() -> None:
    env = gymnasium.make("neurogym/AnnubesEnv-v0", catch_prob=0, noise_std=1)
    env.reset(seed=0)
    seen = np.array([env.step(0)[0] for _ in range(14)])
    assert seen.min() < 0 and seen.max() > 1 and all(obs in env.observation_space for obs in seen)


# --- Stable-Baselines3 ---


def test_vectorised_episodes_begin_and_end_where_they_should() -> None:
    env: Any = DummyVecEnv([lambda: Monitor(scripted(2, 1))])
    assert env.reset()[0, :2].tolist() == [0, 0]
    obs, _, dones, _ = env.step(np.array([0]))
    assert obs[0, :2].tolist() == [0, 1] and not dones[0]
    obs, rewards, dones, infos = env.step(np.array([0]))
    assert obs[0, :2].tolist() == [1, 0] and dones[0] and rewards[0] == 10 + TIMEOUT_REWARD
    assert infos[0]["terminal_observation"][:2].tolist() == [0, 1]
    assert infos[0]["TimeLimit.truncated"] is False
    assert infos[0]["episode"]["r"] == 10 + TIMEOUT_REWARD and infos[0]["episode"]["l"] == 2


def test_vec_normalize_sees_every_observation() -> None:
    env: Any = VecNormalize(DummyVecEnv([lambda: scripted(2)]))
    env.reset()
    for _ in range(39):
        env.step(np.array([0]))
    # 20 trials of two steps: the number of the step was 0 and 1 equally often
    assert env.obs_rms.mean[:2] == pytest.approx([9.5, 0.5], abs=0.01)


def test_seeds_of_make_vec_env() -> None:
    def targets(seed: int) -> np.ndarray:
        env = make_vec_env("neurogym/PerceptualDecisionMaking-v0", 4, seed=seed, env_kwargs={"dt": 50})
        env.reset()
        return np.array([env.step(np.zeros(4, int))[0] for _ in range(60)])

    first = targets(7)
    assert np.array_equal(first, targets(7))
    assert not np.array_equal(first, targets(8))
    assert not np.array_equal(first[:, 0], first[:, 1])


def test_seeds_of_algorithms() -> None:
    def weights() -> np.ndarray:
        return NRL("MlpPolicy", "neurogym/GoNogo-v0", seed=1).learn(200).policy.parameters_to_vector()

    assert np.array_equal(weights(), weights())


@pytest.mark.slow
def test_workers_find_the_tasks_by_their_module() -> None:
    def make(**arguments: Any) -> Any:
        return make_vec_env("sb3_nrl.envs:neurogym/Reaching1D-v0", seed=3, env_kwargs={"dt": 50}, **arguments)

    here, there = make(), make(vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "forkserver"})
    try:
        assert np.array_equal(here.reset(), there.reset())
        for _ in range(45):
            steps = zip(here.step(np.array([1])), there.step(np.array([1])), strict=True)
            assert all(value == pytest.approx(other) for value, other in list(steps)[:3])
    finally:
        there.close()


def published_task() -> gymnasium.Env:
    return neurogym.make("PerceptualDecisionMaking-v0")


@pytest.mark.filterwarnings("ignore::UserWarning:gymnasium")
def test_trials_without_end_are_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"never end: .*sb3_nrl\.envs each trial is an episode") as warned:
        NRL("MlpPolicy", published_task()).learn(40)
    assert [pathlib.Path(warning.filename).name for warning in warned].count("test_envs.py") == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: gymnasium.make("neurogym/PerceptualDecisionMaking-v0"),
        lambda: gymnasium.wrappers.TimeLimit(published_task(), 20),
    ],
    ids=["of this package", "with a time limit"],
)
@pytest.mark.filterwarnings("ignore::UserWarning:gymnasium")
def test_episodes_that_end_are_not_warned_of(make: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*never end")
        NRL("MlpPolicy", make()).learn(40)


def test_evaluation_counts_trials() -> None:
    model = A2C("MlpPolicy", scripted(1))
    env = Monitor(scripted(3))
    returns, lengths = evaluate_policy(model, env, 4, return_episode_rewards=True, deterministic=False)
    assert len(env.get_episode_rewards()) == 4 and lengths == env.get_episode_lengths()
    assert returns == env.get_episode_rewards()


def test_eval_callback(tmp_path: pathlib.Path) -> None:
    # Random actions cannot be good at this; always going is right in one half of the trials.
    callback = EvalCallback(Monitor(gymnasium.make("neurogym/GoNogo-v0")), eval_freq=64, log_path=str(tmp_path))
    PPO("MlpPolicy", "neurogym/GoNogo-v0", n_steps=64, seed=0).learn(128, callback)
    evaluations = np.load(tmp_path / "evaluations.npz")
    assert evaluations["results"].shape == (2, 5) and (evaluations["ep_lengths"] <= 15).all()


class Performances(gymnasium.Env):
    """Trials of one step with given performances."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, performances: Sequence[float]) -> None:
        self.performances = iter(performances)

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(**arguments)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        performance = next(self.performances)
        return np.zeros(1, np.float32), 0.0, True, False, {} if performance is None else {"performance": performance}


def _log(model: BaseAlgorithm, n_steps: int, folder: pathlib.Path, log_interval: int = 1) -> list[dict[str, str]]:
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(n_steps, PerformanceCallback(), log_interval=log_interval)
    with (folder / "progress.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_log_has_the_mean_performance_of_the_last_trials(tmp_path: pathlib.Path) -> None:
    env = Performances([0, 1, 1, 1, 1, 0.5, 0, 0])
    model = A2C("MlpPolicy", env, n_steps=2, stats_window_size=3)
    log = _log(model, 8, tmp_path)
    means = [float(row["rollout/performance"]) for row in log]
    assert means == pytest.approx([1 / 2, 1, 2.5 / 3, 0.5 / 3])


def test_the_log_of_an_algorithm_without_rollouts(tmp_path: pathlib.Path) -> None:
    model = DQN("MlpPolicy", Performances([0.25] * 20), learning_starts=1, train_freq=1)
    assert float(_log(model, 20, tmp_path)[-1]["rollout/performance"]) == 0.25


def test_the_log_of_environments_without_performance(tmp_path: pathlib.Path) -> None:
    (row,) = _log(A2C("MlpPolicy", Performances([None] * 2), n_steps=2), 2, tmp_path)  # type: ignore[list-item]
    assert "rollout/performance" not in row


# --- plot_trial ---


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def _replay(env: gymnasium.Env, act: Callable[[np.ndarray], Any], seed: int) -> tuple[np.ndarray, ...]:
    """Observations, actions, rewards and ground truths of a trial."""
    obs, _ = env.reset(seed=seed)
    steps, over = [], False
    while not over:
        action = act(obs)
        next_obs, reward, over, _, info = env.step(action)
        steps.append((obs, action, reward, info["gt"]))
        obs = next_obs
    return tuple(np.array(column) for column in zip(*steps, strict=True))


def _levels(ax: Axes, label: str) -> list[float]:
    """The heights of the horizontal lines with a label."""
    (lines,) = (collection for collection in ax.collections if collection.get_label() == label)
    return [segment[0, 1] for segment in lines.get_segments()]  # type: ignore[attr-defined]


def _probabilities(ax: Axes) -> np.ndarray:
    """The values that are drawn as colours, one row per time step."""
    (mesh,) = (collection for collection in ax.collections if isinstance(collection, QuadMesh))
    return np.asarray(mesh.get_array()).T


def test_plot_shows_what_happened(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.chdir(tmp_path)
    same_actions = spaces.Discrete(3, seed=6)
    obs, actions, rewards, truths = _replay(scripted(5), lambda _: same_actions.sample(), seed=6)
    assert len(rewards) > 3
    observation, action, reward = plot_trial(scripted(5, 1, trials_per_episode=2), seed=6).axes
    assert [ax.get_ylabel() for ax in (observation, action, reward)] == ["observation", "action", "reward"]
    for channel, patch in enumerate(observation.patches):
        assert patch.get_data().values.tolist() == obs[:, channel].tolist()  # type: ignore[attr-defined]
    assert _levels(action, "action") == actions.tolist() and _levels(action, "ground truth") == truths.tolist()
    (patch,) = reward.patches
    values, edges, _ = patch.get_data()  # type: ignore[attr-defined]
    assert values.tolist() == rewards.tolist() and edges.tolist() == [10 * i for i in range(len(rewards) + 1)]
    assert reward.get_xlabel() == "time (ms)" and reward.get_xlim() == (0, 10 * len(rewards))
    assert f"reward {rewards.sum():.3g}, performance" in reward.figure.get_suptitle()
    assert not list(tmp_path.iterdir())


def test_plot_labels_channels_actions_and_periods() -> None:
    figure = plot_trial("neurogym/PerceptualDecisionMaking-v0", seed=0)
    observation, action, _ = figure.axes
    legend = observation.get_legend()
    assert legend and [text.get_text() for text in legend.get_texts()] == ["fixation", "stimulus 1", "stimulus 2"]
    assert [text.get_text() for text in action.get_yticklabels()] == ["fixation", "choice"]
    assert figure.get_suptitle().startswith("neurogym/PerceptualDecisionMaking-v0: reward ")
    figure = plot_trial("neurogym/Reaching1D-v0", seed=0)
    assert [text.get_text() for text in figure.axes[0].texts] == ["fixation", "reach"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["self", "target"]
    assert [ax.get_ylabel() for ax in figure.axes[:4]] == ["observation", "action", "ground truth", "reward"]


@pytest.mark.parametrize("algorithm", [NRL, PPO])
def test_plot_shows_the_probabilities_of_a_model(algorithm: Any) -> None:
    env = VecNormalize(make_vec_env("neurogym/DelayComparison-v0", seed=0))
    model = algorithm("MlpPolicy", env, seed=0, n_steps=128).learn(256)
    single = gymnasium.make("neurogym/DelayComparison-v0")

    def act(obs: np.ndarray) -> int:
        return int(model.predict(env.normalize_obs(obs), deterministic=True)[0])

    obs, actions, *_ = _replay(single, act, seed=5)
    _, action, _, colorbar = plot_trial(single, model, seed=5).axes
    assert colorbar.get_ylabel() == "probability"
    assert _levels(action, "action") == actions.tolist()
    distribution = model.policy.get_distribution(model.policy.obs_to_tensor(env.normalize_obs(obs))[0])
    assert _probabilities(action) == pytest.approx(distribution.distribution.probs.detach().numpy(), abs=1e-6)


@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "MlpCtrnnPolicy", "MlpGruPolicy"])
def test_plot_of_a_recurrent_model(policy: str) -> None:
    model: Any
    if policy == "MlpLstmPolicy":
        recurrent = pytest.importorskip("sb3_contrib").RecurrentPPO
        model = recurrent(policy, "neurogym/GoNogo-v0", n_steps=64, seed=0)
    else:
        model = NRL(policy, "neurogym/GoNogo-v0", seed=0, policy_kwargs={"head_gain": 1.0})
    action = plot_trial("neurogym/GoNogo-v0", model, seed=0).axes[1]
    shown = _probabilities(action)
    assert shown.sum(1) == pytest.approx(np.ones(len(shown))) and _levels(action, "action") == shown.argmax(1).tolist()
    # Nothing but the memory changes while nothing is shown: after 500 ms, for 500 ms.
    assert len({tuple(row) for row in shown[5:10].tolist()}) == 5


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("order", ["none", "normalized, then stacked", "stacked, then normalized"])
def test_plot_of_a_model_that_sees_several_frames(order: str, vectorized: bool, tmp_path: pathlib.Path) -> None:
    """The plotted actions are those of the model in its own environment."""
    task = "neurogym/PerceptualDecisionMaking-v0"
    env: Any = make_vec_env(task, seed=0)
    if order.startswith("normalized"):
        env = VecNormalize(env)
    env = VecFrameStack(env, 3)
    if order.startswith("stacked"):
        env = VecNormalize(env)
    model = PPO("MlpPolicy", env, seed=0, n_steps=128).learn(128)
    if order != "none":
        model.get_vec_normalize_env().training = False  # type: ignore[union-attr]
    if order == "none" or vectorized:
        model.save(tmp_path / "model")
        model = PPO.load(tmp_path / "model")  # and here it has no environment
    shown = _probabilities(plot_trial(env if vectorized else task, model, seed=5).axes[1])

    env.seed(5)
    obs = env.reset()
    expected = []
    for _ in shown:
        distribution: Any = model.policy.get_distribution(model.policy.obs_to_tensor(obs)[0]).distribution
        expected.append(distribution.probs[0].detach().numpy())
        obs, _, dones, _ = env.step(model.predict(obs, deterministic=True)[0])
    assert dones[0]
    assert shown == pytest.approx(np.array(expected), abs=1e-6)


def test_plot_of_a_model_without_probabilities() -> None:
    model = DQN("MlpPolicy", "neurogym/GoNogo-v0", seed=0)
    assert len(plot_trial("neurogym/GoNogo-v0", model, seed=0).axes) == 3


def test_plot_of_continuous_actions() -> None:
    figure = plot_trial(gymnasium.make("neurogym/ReachingDelayResponse-v0"), seed=0)
    assert [ax.get_ylabel() for ax in figure.axes] == ["observation", "action", "ground truth", "reward"]
    assert [len(ax.patches) for ax in figure.axes] == [2, 2, 2, 1]
    truths = [patch.get_data().values for patch in figure.axes[2].patches]  # type: ignore[attr-defined]
    assert truths[0][0] == -1 and truths[0][-1] == 1  # as actions: wait, then go
    assert truths[1][0] == pytest.approx((-0.5 + 1) / 1.5 - 1)


def test_plot_says_what_to_give_instead_of_environments_in_other_processes() -> None:
    env = SubprocVecEnv([functools.partial(gymnasium.make, "sb3_nrl.envs:neurogym/GoNogo-v0")], "fork")
    with pytest.raises(TypeError, match=r"^env=.*: its environments are in other processes, so give the identifier"):
        plot_trial(env)
    env.close()


@pytest.mark.parametrize("env", ["CartPole-v1", None, 3])
def test_plot_refuses_other_environments(env: Any) -> None:
    with pytest.raises(TypeError, match=rf"{env}.*must be an environment of sb3_nrl\.envs"):
        plot_trial(env)


def test_plot_refuses_what_is_no_model() -> None:
    policy: Any = A2C("MlpPolicy", "neurogym/GoNogo-v0").policy
    with pytest.raises(TypeError, match=r"(?s)model=ActorCritic.*must be an algorithm"):
        plot_trial("neurogym/GoNogo-v0", policy)


def test_periods_are_those_of_the_trial() -> None:
    """Some trials of this task have no sure option, and no period in which it appears."""
    env = gymnasium.make("neurogym/PostDecisionWager-v0")
    env.action_space.seed(0)
    env.reset(seed=0)
    seen: list[tuple[bool, bool]] = []
    while len(seen) < 12:
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        if info["new_trial"]:
            seen.append((info["trial"]["wager"], "pre_sure" in info["periods"]))
        if terminated or truncated:
            env.reset()
    assert {*seen} == {(True, True), (False, False)}


# --- the package ---


def _python(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=os.environ, check=False
    )


@pytest.mark.slow
def test_a_missing_neurogym_is_one_clear_sentence(tmp_path: pathlib.Path) -> None:
    code = "import sys, sb3_nrl; sys.modules['neurogym'] = None; print('fine so far'); import sb3_nrl.envs"
    result = _python(tmp_path, "-c", code)
    assert result.returncode == 1 and result.stdout == "fine so far\n"
    assert re.fullmatch(
        r"ImportError: sb3_nrl\.envs needs NeuroGym 2\.3 or later and what it imports \(.*\): "
        r"pip install 'sb3-nrl\[neurogym\]' && pip install --no-deps 'neurogym>=2\.3'",
        result.stderr.splitlines()[-1],
    )


@pytest.mark.slow
def test_a_script_that_imports_the_tasks_shares_them_with_its_workers(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from stable_baselines3.common.env_util import make_vec_env
            from stable_baselines3.common.vec_env import SubprocVecEnv

            import sb3_nrl.envs

            if __name__ == "__main__":
                workers = {"vec_env_cls": SubprocVecEnv, "vec_env_kwargs": {"start_method": "spawn"}}
                env = make_vec_env("neurogym/GoNogo-v0", seed=0, **workers)
                print(env.reset().tolist())
                env.close()
            """
        )
    )
    result = _python(tmp_path, "-W", "error", str(script))
    assert result.stderr == ""
    assert result.stdout in ("[[1.0, 1.0, 0.0]]\n", "[[1.0, 0.0, 1.0]]\n")
    assert list(tmp_path.iterdir()) == [script]
