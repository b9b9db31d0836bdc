"""A running average of the rewards, as in the paper.

Shapes: T steps, E environments.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.checks import check, is_number
from sb3_nrl.perturbation import PerturbablePolicy
from sb3_nrl.reward_prediction.base import RewardErrors, RewardPredictor

RewardTiming = Literal["episode", "step", "nonzero"]


class RunningAverage(RewardPredictor):
    """
    A running average r̄ of the rewards of each environment predicts the next reward, δ = r − r̄ (Eq. 14 and 15). r is
    the sum of the rewards since the last reward that counted. Traces are reset when a reward counts.

    An environment can give the type of a trial as ``info["trial_type"]`` of the step whose reward counts. It then has
    one average for each type (Miconi 2017).

    :param n_envs: Number of environments E
    :param reward_timing: When rewards count. ``"episode"``: at the episode's end, by termination or truncation alike;
        ``"nonzero"``: also at every reward other than 0; ``"step"``: at every step, and r̄ starts again in each episode
    :param reward_smoothing: α of the running average, in (0, 1] (the paper's λ)
    :param scale_rpe: Whether to divide δ by the size of r; a δ whose r is 0 stays as it is
    :raises ValueError: If an argument is out of range
    """

    has_critic = False
    default_decay = 1.0

    def __init__(
        self,
        n_envs: int,
        reward_timing: RewardTiming = "episode",
        reward_smoothing: float = 0.66,
        scale_rpe: bool = True,
    ) -> None:
        known = get_args(RewardTiming)
        check("reward_timing", reward_timing, reward_timing in known, f"one of {known}")
        check("reward_smoothing", reward_smoothing, is_number(reward_smoothing, 0, 1), "in (0, 1]")
        check("scale_rpe", scale_rpe, isinstance(scale_rpe, bool), "True or False")
        self.reward_timing = reward_timing
        self.reward_smoothing = reward_smoothing
        self.scale_rpe = scale_rpe
        self.average_E = np.full(n_envs, np.nan)
        """r̄, NaN before the first reward that counts."""
        self._average_of_type: dict[tuple[int, Any], float] = {}
        self._due_types: list[tuple[int, Any]] = []  # of the trials whose rewards are due, and their environments
        self.restart()

    def take_over(self, previous: Any) -> None:
        """
        Continue with the averages of another predictor. If the number of environments is different, each environment
        starts with the mean of these averages.

        :param previous: The other predictor
        """
        known = previous.average_E[~np.isnan(previous.average_E)]
        if len(previous.average_E) == len(self.average_E):
            for name in ("average_E", "_average_of_type", "_due_types", "_sum_E", "_due_E", "_first_E", "_ended_E"):
                setattr(self, name, getattr(previous, name))
        elif len(known) > 0:
            self.average_E[:] = known.mean()

    @property
    def due(self) -> bool:  # type: ignore[override]
        return bool(np.count_nonzero(self._due_E))

    def restart(self) -> None:
        n_envs = len(self.average_E)
        self._sum_E = np.zeros(n_envs)
        self._due_E = np.zeros(n_envs, dtype=bool)
        self._first_E = self._ended_E = np.ones(n_envs, dtype=bool)

    def check_decay(self, decay: float) -> None:
        check("trace_decay", decay, is_number(decay, 0, 1), "in (0, 1] with a running average")
        lasting = self.reward_timing != "step" or decay == 1
        check("trace_decay", decay, lasting, '1 with reward_timing="step" and a running average')

    def observe(self, rewards_E: np.ndarray, dones_E: np.ndarray, infos: Sequence[dict[str, Any]]) -> bool:
        self._sum_E += rewards_E
        self._first_E, self._ended_E = self._ended_E, dones_E
        if self.reward_timing == "episode":
            self._due_E = dones_E
        elif self.reward_timing == "step":
            self._due_E = np.ones_like(dones_E)
        else:
            self._due_E = dones_E | (rewards_E != 0)
        if due := self.due:
            due_envs = np.flatnonzero(self._due_E).tolist()
            kinds = [(env, infos[env].get("trial_type")) for env in due_envs]
            self._due_types = [(env, kind) for env, kind in kinds if kind is not None]
        return due

    def skip(self) -> None:
        self.claim()

    def is_ready(self, window_is_full: bool) -> bool:
        return window_is_full or self.due

    def errors(self, policy: PerturbablePolicy, window: RolloutWindow, n_steps_per_batch: int) -> RewardErrors:
        errors_TE = np.zeros(window.rewards_TE.shape)
        restarts_TE = np.zeros(window.rewards_TE.shape, dtype=bool)
        errors_TE[-1], restarts_TE[-1] = self.claim()
        n_rewards = int(np.count_nonzero(restarts_TE[-1]))
        known = self.average_E[~np.isnan(self.average_E)]
        prediction = {"reward_prediction": known.sum() / len(known)} if n_rewards else {}
        return RewardErrors(errors_TE, restarts_TE, n_rewards, prediction)

    def claim(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Compute δ = r − r̄ for the rewards that count, and update r̄ ← r̄ + α (r − r̄).

        The first reward becomes r̄, so the first δ is 0. With ``reward_timing="step"``, this holds for the first reward
        of each episode.

        :return: δ, 0 where no reward counts, and where one does; shape (E,)
        """
        due_E = self._due_E
        for env, kind in self._due_types:
            self.average_E[env] = self._average_of_type.get((env, kind), np.nan)
        unknown_E = np.isnan(self.average_E)
        if self.reward_timing == "step":
            unknown_E |= self._first_E
        errors_E = np.where(due_E & ~unknown_E, self._sum_E - self.average_E, 0.0)
        self.average_E = np.where(due_E & unknown_E, self._sum_E, self.average_E + self.reward_smoothing * errors_E)
        self._average_of_type |= {key: float(self.average_E[key[0]]) for key in self._due_types}
        if self.scale_rpe:
            np.divide(errors_E, np.abs(self._sum_E), out=errors_E, where=self._sum_E != 0)
        self._sum_E = np.where(due_E, 0.0, self._sum_E)
        self._due_E = np.zeros_like(due_E)
        return errors_E, due_E
