"""A NeuroGym task as an environment for Gymnasium and Stable-Baselines3. One trial is one episode."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from sb3_nrl.checks import check, is_count

_ROUNDING = 1e-6
"""Largest rounding error of a sum of durations, as a fraction of a time step."""


class NeuroGymEnv(gymnasium.Env[np.ndarray, Any]):
    """
    A NeuroGym task, of the library or of your own, whose trials are episodes.

    Every time step of a trial has one observation, one action and one reward. ``reset`` returns the observation of a
    trial's first step, each ``step`` the next one. The last step ends the episode with ``terminated``. It returns the
    trial's last observation again, since there is no later one. The next trial is drawn when it begins.

    ``info`` is NeuroGym's. ``gt`` is the ground truth of the step, rescaled as actions are. ``new_trial`` says whether
    this was the last step of the trial. If so, ``trial`` has its conditions in units of the task, and ``performance``
    says how well it went (for most tasks 1 for a right choice, else 0). The last one also has ``dt``, the duration of
    a step in ms, and ``periods``, the start and end of each period in ms.

    ``reset(seed=...)`` builds a new task and seeds it, so that nothing remains from earlier trials. Changes made to
    ``task`` are lost. Without a seed, the stream of trials continues.

    Spaces are as the task declares them, except that bounds are finite, as Gymnasium recommends, and that a bounded
    ``Box`` of actions becomes [-1, 1], as Stable-Baselines3 recommends.

    :param build: Function or class that makes the task, a ``neurogym.core.TrialEnv``. The task may have wrappers that
        do not change observations. ``reset(seed=...)`` calls ``build`` again
    :param trials_per_episode: Number of trials in an episode; ``None`` for episodes that never end. Training without a
        critic then needs ``reward_timing="step"`` or ``"nonzero"``, and evaluation needs a ``TimeLimit``
    :raises ValueError: If ``build`` is a task instead of a function, or ``trials_per_episode`` is not a valid number
    """

    needs_memory: bool = False
    """Whether a policy performs better if it remembers the trial than if it sees only the current observation."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, build: Callable[[], gymnasium.Env], trials_per_episode: int | None = 1) -> None:
        valid = trials_per_episode is None or is_count(trials_per_episode)
        check("trials_per_episode", trials_per_episode, valid, "a number of trials, or None for no end")
        self.trials_per_episode = trials_per_episode
        check("build", build, callable(build), "a function or class that makes the task")
        self._build = build
        self.task = build()
        self.observation_space = _finite(self.task.observation_space)
        self.action_space, self._to_task, self._to_agent = _actions(self.task.action_space)
        self._running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """
        Begin an episode with a new trial.

        :param seed: Seed with which to restart the task; by default its stream of trials continues
        :param options: Not used
        :return: The observation of the trial's first step, and an empty dictionary
        :raises ValueError: If the trial has no time step
        """
        super().reset(seed=seed)
        if seed is not None:
            self.task = self._build()
            self.task.get_wrapper_attr("seed")(int(self.np_random.integers(2**32)))
        self._n_trials = 0
        self._running = True
        self._begin_trial()
        return self._obs.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        Take an action.

        :param action: The action
        :return: The next observation, the reward of this step, whether the episode ends, and NeuroGym's ``info``
        :raises gymnasium.error.ResetNeeded: If no episode has begun, or the last one has ended
        """
        if not self._running:
            raise ResetNeeded("The episode has ended, or none has begun: call reset() first.")
        obs, reward, terminated, truncated, info = self.task.step(self._to_task(action))
        if "gt" in info:
            info["gt"] = self._to_agent(info["gt"])
        if not info["new_trial"]:
            self._obs = self._as_declared(obs)
        else:
            info["performance"] = float(info["performance"])
            task: Any = self.task.unwrapped
            info["dt"] = float(task.dt)
            info["periods"] = {name: (float(start), float(task.end_t[name])) for name, start in task.start_t.items()}
            self._n_trials += 1
            terminated = terminated or self._n_trials == self.trials_per_episode
            if not terminated:
                self._begin_trial()
        self._running = not (terminated or truncated)
        return self._obs.copy(), float(reward), terminated, truncated, info

    def render(self) -> NoReturn:
        """:raises NotImplementedError: Always"""
        raise NotImplementedError("NeuroGym's tasks have nothing to render; sb3_nrl.envs.plot_trial draws a trial.")

    def _begin_trial(self) -> None:
        """
        Let the task draw a trial, and observe its first time step. NeuroGym itself draws a trial within the last step
        of the previous one, and takes an action of its own in the first step of an episode.
        """
        left: Any = self.task.unwrapped
        left.t = left.t_ind = 0  # not 0 if the previous trial did not reach its end
        left.performance = 0
        new_trial = self.task.get_wrapper_attr("new_trial")
        for times in (left.start_t, left.end_t, left.start_ind, left.end_ind):
            times.clear()  # the next trial may lack a period
        trial = new_trial()
        task: Any = self.task.unwrapped  # may be another task than before: NeuroGym has schedules of tasks
        # The task calls new_trial of its top when a trial ends. This one returns the old trial, so that none is drawn.
        task.set_top(SimpleNamespace(new_trial=lambda: trial))
        # The task adds dt to its time until tmax. A margin avoids the loss of a step if dt is not a whole number.
        task.tmax = (math.floor(task.tmax / task.dt + _ROUNDING) + _ROUNDING) * task.dt
        if not len(getattr(task, "ob", ())):
            raise ValueError(f"a trial of {type(task).__name__} has no time step to observe: it is shorter than dt")
        obs, *_ = task.post_step(task.ob[0], 0.0, False, False, {})
        self._obs = self._as_declared(obs)

    def _as_declared(self, obs: Any) -> np.ndarray:
        return np.array(obs, dtype=self.observation_space.dtype)


def _finite(space: spaces.Space) -> spaces.Space:
    """The same space with finite bounds, as a space of Gymnasium, so that models with it can be saved."""
    if not isinstance(space, spaces.Box):
        return space
    return spaces.Box(np.nan_to_num(space.low), np.nan_to_num(space.high), dtype=space.dtype)


def _actions(space: spaces.Space) -> tuple[spaces.Space, Callable[[Any], Any], Callable[[Any], Any]]:
    """The action space of agents, and functions that convert its actions to those of the task, and back."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n)), int, _unchanged
    if isinstance(space, spaces.Box) and space.is_bounded():
        low, half = space.low, (space.high - space.low) / 2
        rescaled = spaces.Box(-1, 1, space.shape, space.dtype)
        return rescaled, lambda action: low + (action + 1) * half, lambda action: (action - low) / half - 1
    return _finite(space), _unchanged, _unchanged


def _unchanged(action: Any) -> Any:
    return action
