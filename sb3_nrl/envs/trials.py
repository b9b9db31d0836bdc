"""One trial is one episode: a NeuroGym task as an environment that Gymnasium and Stable-Baselines3 understand."""

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
"""Part of a time step that sums of floats may be wrong by."""


class NeuroGymEnv(gymnasium.Env[np.ndarray, Any]):
    """
    A NeuroGym task, the library's or one of your own, whose trials are episodes.

    Every time step of a trial is observed, acted upon and rewarded once. ``reset`` gives the observation of a trial's
    first step, each ``step`` the next one; the last step ends the episode with ``terminated`` and repeats the trial's
    last observation, since there is no later one. The next trial is drawn when it begins, not before.

    ``info`` has what NeuroGym puts there: ``gt``, the ground truth of the step, rescaled as actions are; ``new_trial``,
    whether it was the trial's last, and then also ``trial``, its conditions in units of the task, and ``performance``,
    how well it went (for most tasks 1 for a right choice, else 0). The last one also has ``dt``, the duration of a step
    in ms, and ``periods``, the start and end of each period in ms.

    ``reset(seed=...)`` builds the task anew and seeds it, so that nothing from before is left; changes made to ``task``
    are lost. Without a seed the stream of trials goes on.

    Spaces are as the task declares them, except that bounds are finite, as Gymnasium recommends, and that a bounded
    ``Box`` of actions becomes [-1, 1], as Stable-Baselines3 recommends.

    :param build: Makes the task, as its class does: a ``neurogym.core.TrialEnv``, which its wrappers may change as long
        as they leave observations alone. Called again by ``reset(seed=...)``
    :param trials_per_episode: After how many trials ``terminated`` comes; ``None`` for a stream that never ends, in
        which a running average learns only by ``reward_timing="step"`` or ``"nonzero"`` (a critic does anyway), and
        only a ``TimeLimit`` ends an evaluation
    :raises ValueError: If ``build`` is a task rather than makes one, or ``trials_per_episode`` no number of trials
    """

    needs_memory: bool = False
    """Whether a policy that remembers the trial does better than one that sees only the current observation."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, build: Callable[[], gymnasium.Env], trials_per_episode: int | None = 1) -> None:
        valid = trials_per_episode is None or is_count(trials_per_episode)
        check("trials_per_episode", trials_per_episode, valid, "a number of trials, or None for no end")
        self.trials_per_episode = trials_per_episode
        check("build", build, callable(build), "what makes the task, such as its class")
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

        :param seed: Restarts the task with this seed; by default its stream of trials goes on
        :param options: None are known
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
        Act upon the last observation.

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
        Let the task draw a trial, and observe its first time step. NeuroGym itself would draw it within the last step
        of the trial before, and spend the first step of an episode on an action of its own.
        """
        left: Any = self.task.unwrapped
        left.t = left.t_ind = 0  # of a trial that was left before its end
        left.performance = 0
        trial = self.task.get_wrapper_attr("new_trial")()
        task: Any = self.task.unwrapped  # which task that is may have changed: NeuroGym has schedules of tasks
        # Whom the task asks for a new trial when one ends: it is told of the old one, and has to wait for the next.
        task.set_top(SimpleNamespace(new_trial=lambda: trial))
        # It adds up dt until time is up: some room, so that no step is lost where dt is not a whole number.
        task.tmax = (math.floor(task.tmax / task.dt + _ROUNDING) + _ROUNDING) * task.dt
        if not len(getattr(task, "ob", ())):
            raise ValueError(f"a trial of {type(task).__name__} has no time step to observe: it is shorter than dt")
        obs, *_ = task.post_step(task.ob[0], 0.0, False, False, {})
        self._obs = self._as_declared(obs)

    def _as_declared(self, obs: Any) -> np.ndarray:
        return np.array(obs, dtype=self.observation_space.dtype)


def _finite(space: spaces.Space) -> spaces.Space:
    """The same space without infinite bounds, and of Gymnasium's own type, which models can be saved with."""
    if not isinstance(space, spaces.Box):
        return space
    return spaces.Box(np.nan_to_num(space.low), np.nan_to_num(space.high), dtype=space.dtype)


def _actions(space: spaces.Space) -> tuple[spaces.Space, Callable[[Any], Any], Callable[[Any], Any]]:
    """The actions that agents choose among, and the ways from them to those of the task, and back."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n)), int, _unchanged
    if isinstance(space, spaces.Box) and space.is_bounded():
        low, half = space.low, (space.high - space.low) / 2
        rescaled = spaces.Box(-1, 1, space.shape, space.dtype)
        return rescaled, lambda action: low + (action + 1) * half, lambda action: (action - low) / half - 1
    return _finite(space), _unchanged, _unchanged


def _unchanged(action: Any) -> Any:
    return action
