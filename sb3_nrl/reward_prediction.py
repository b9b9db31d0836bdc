"""When a reward counts, what was predicted, and by how much the prediction was wrong.

Shapes: T waiting steps, E environments.
"""

import math
from collections.abc import Callable

import numpy as np

REWARD_PREDICTIONS = ("average", "critic")
REWARD_TIMINGS = ("episode", "step", "nonzero")


class RunningAverage:
    """
    The reward times τ, the running average r̄ and the reward prediction error δ of each environment (Eq. 14 and 15).

    Every array has shape (E,), one entry per environment. ``average`` holds r̄, NaN before the first reward time;
    ``reward`` the sum of the rewards since the last reward time; ``due`` whether a reward time has come.

    :param n_envs: Number of environments E
    :param timing: When τ comes. ``"episode"``: at the episode's end, by termination or truncation alike; ``"nonzero"``:
        also at every reward other than 0; ``"step"``: at every step, and r̄ starts anew with each episode
    :param smoothing: λ of the running average, in (0, 1]
    :param scale: Whether to divide δ by \\|r_τ\\|; a δ whose r_τ is 0 stays as it is
    :param previous: A predictor whose r̄ to go on from. If it had another number of environments, each environment
        starts with the mean of what they had learned
    """

    def __init__(
        self, n_envs: int, timing: str, smoothing: float, scale: bool, previous: "RunningAverage | None" = None
    ) -> None:
        self.timing = timing
        self.smoothing = smoothing
        self.scale = scale
        self.average = np.full(n_envs, np.nan)
        if previous is not None:
            known = previous.average[~np.isnan(previous.average)]
            if len(previous.average) == n_envs:
                self.average = previous.average.copy()
            elif len(known) > 0:
                self.average[:] = known.mean()
        self.restart()

    def restart(self) -> None:
        """Forget the rewards that no reward time has claimed, as when the environments were reset; keep r̄."""
        n_envs = len(self.average)
        self.reward = np.zeros(n_envs)
        self.due = np.zeros(n_envs, dtype=bool)
        self._unknown = np.isnan(self.average) | (self.timing == "step")
        self._ended = np.zeros(n_envs, dtype=bool)

    def observe(self, rewards: np.ndarray, dones: np.ndarray) -> bool:
        """
        Take in the rewards of one step, and find out where a reward time has come.

        :param rewards: Shape (E,)
        :param dones: Whether the step ended an episode, shape (E,)
        :return: Whether a reward time has come anywhere
        """
        self.reward += rewards
        self._ended = dones.copy()  # which some environments use again
        if self.timing == "episode":
            self.due = dones
        elif self.timing == "step":
            self.due = np.ones_like(dones)
        else:
            self.due = dones | (rewards != 0)
        return bool(np.count_nonzero(self.due))

    def errors(self, n_steps: int, values: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """
        δ = r_τ - r̄, and only then r̄ ← r̄ + λ (r_τ - r̄), where a reward time has come; claims those rewards.

        The first reward initialises r̄, so that the first δ is 0.

        :param n_steps: Number of waiting steps T
        :param values: Not needed
        :return: δ, which is 0 but for reward times, at the last step; and after which steps traces start anew, at
            reward times; both of shape (T, E)
        """
        known = ~self._unknown
        errors = np.where(self.due & known, self.reward - self.average, 0.0)
        self.average = np.where(self.due & self._unknown, self.reward, self.average + self.smoothing * errors)
        if self.scale:
            np.divide(errors, np.abs(self.reward), out=errors, where=self.reward != 0)
        self._unknown = self._ended if self.timing == "step" else self._unknown & ~self.due
        self.reward = np.where(self.due, 0.0, self.reward)
        errors_TE = np.zeros((n_steps, len(errors)))
        restarts_TE = np.zeros(errors_TE.shape, dtype=bool)
        errors_TE[-1], restarts_TE[-1] = errors, self.due
        self.due = np.zeros_like(self.due)
        return errors_TE, restarts_TE

    @property
    def prediction(self) -> float:
        """r̄, averaged over the environments that know one."""
        return float(np.nanmean(self.average))


class TemporalDifference:
    """
    The reward prediction error δ of a critic that predicts the discounted sum of the rewards to come: every step is a
    reward time, and δ_t = r_t + γ V(s_{t+1}) - V(s_t), without V(s_{t+1}) where the episode ended. ``prediction`` is
    the mean of V over the steps of the last errors, ``mean_square`` the running mean of δ².

    :param n_envs: Number of environments E
    :param gamma: Discount γ
    :param smoothing: λ of the running mean of δ², in (0, 1], by which it moves at every call of ``errors``; the first
        1 / λ have equal weights
    :param scale: Whether to divide δ by the root of the running mean
    :param previous: A predictor whose running mean to go on from
    """

    def __init__(
        self, n_envs: int, gamma: float, smoothing: float, scale: bool, previous: "TemporalDifference | None" = None
    ) -> None:
        self.n_envs = n_envs
        self.gamma = gamma
        self.smoothing = smoothing
        self.scale = scale
        self.mean_square: float = 0.0 if previous is None else previous.mean_square
        self._n_means: int = 0 if previous is None else previous._n_means
        self.prediction = 0.0
        self.restart()

    def restart(self) -> None:
        """Forget the waiting rewards, as when the environments were reset."""
        self._rewards: list[np.ndarray] = []
        self._dones: list[np.ndarray] = []

    @property
    def due(self) -> np.ndarray:
        """Whether rewards wait to be claimed, shape (E,)."""
        return np.full(self.n_envs, len(self._rewards) > 0)

    def observe(self, rewards: np.ndarray, dones: np.ndarray) -> bool:
        """
        Take in the rewards of one step; at a time limit, they include what was to come after it.

        :param rewards: Shape (E,)
        :param dones: Whether the step ended an episode, shape (E,)
        :return: False: no reward has to be claimed at once
        """
        self._rewards.append(np.array(rewards, dtype=float))
        self._dones.append(dones.copy())
        return False

    def errors(self, n_steps: int, values: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """
        δ of the waiting steps; claims their rewards.

        :param n_steps: Number of waiting steps T
        :param values: V of what was observed at each of them and after the last, shape (T + 1, E)
        :return: δ, and after which steps traces start anew, as an episode ended; both of shape (T, E)
        """
        values_TE = values()
        dones_TE = np.array(self._dones)
        errors_TE = np.array(self._rewards) + self.gamma * values_TE[1:] * ~dones_TE - values_TE[:-1]
        self.prediction = float(values_TE[:-1].mean())
        square = float((errors_TE**2).mean())
        if math.isfinite(square):
            self._n_means += 1
            self.mean_square += max(self.smoothing, 1 / self._n_means) * (square - self.mean_square)
        if self.scale and self.mean_square > 0:
            errors_TE /= np.sqrt(self.mean_square)
        self.restart()
        return errors_TE, dones_TE
