"""When a reward counts, what was predicted, and by how much the prediction was wrong.

Shapes: T steps, E environments.
"""

from typing import Any

import numpy as np

REWARD_TIMINGS = ("episode", "step", "nonzero")

PREDICTION_DEFAULTS: dict[str, dict[str, Any]] = {
    "average": {
        "reward_timing": "episode",
        "reward_smoothing": 0.66,
        "scale_rpe": True,
        "gamma": 1.0,
    },
    "critic": {"reward_timing": "step", "gamma": 0.99},
}
"""What arguments that are None become, by who predicts rewards."""

DEFAULT_LAMBDA = 0.95
"""By how much less than γ the traces of a critic last."""


class RunningAverage:
    """
    The reward times τ, the running average r̄ and the reward prediction error δ of each environment (Eq. 14 and 15).

    Every array has shape (E,), one entry per environment. ``average`` holds r̄, NaN before the first reward time;
    ``reward`` the sum of the rewards since the last reward time; ``due`` whether a reward time has come.

    :param n_envs: Number of environments E
    :param previous: A predictor whose r̄ to go on from. If it had another number of environments, each environment
        starts with the mean of what they had learned
    """

    def __init__(self, n_envs: int, previous: "RunningAverage | None" = None) -> None:
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
        self._first = self._ended = np.ones(n_envs, dtype=bool)

    def observe(self, rewards: np.ndarray, dones: np.ndarray, timing: str) -> bool:
        """
        Take in the rewards of one step, and find out where a reward time has come.

        :param rewards: Shape (E,)
        :param dones: Whether the step ended an episode, booleans of shape (E,), which stay as they are
        :param timing: When τ comes. ``"episode"``: at the episode's end, by termination or truncation alike;
            ``"nonzero"``: also at every reward other than 0; ``"step"``: at every step
        :return: Whether a reward time has come anywhere
        """
        self.reward += rewards
        self._first, self._ended = self._ended, dones
        if timing == "episode":
            self.due = dones
        elif timing == "step":
            self.due = np.ones_like(dones)
        else:
            self.due = dones | (rewards != 0)
        return bool(np.count_nonzero(self.due))

    def errors(self, timing: str, smoothing: float, scale: bool) -> tuple[np.ndarray, np.ndarray]:
        """
        δ = r_τ - r̄, and only then r̄ ← r̄ + λ (r_τ - r̄), where a reward time has come; claims those rewards.

        The first reward initialises r̄, so that the first δ is 0. With a reward at every step each episode does.

        :param timing: When τ comes
        :param smoothing: λ of the running average, in (0, 1]
        :param scale: Whether to divide δ by \\|r_τ\\|; a δ whose r_τ is 0 stays as it is
        :return: δ, 0 where no reward time has come; and where one has, which is where traces start anew
        """
        due, unknown = self.due, self._first if timing == "step" else np.isnan(self.average)
        errors = np.where(due & ~unknown, self.reward - self.average, 0.0)
        self.average = np.where(due & unknown, self.reward, self.average + smoothing * errors)
        if scale:
            np.divide(errors, np.abs(self.reward), out=errors, where=self.reward != 0)
        self.reward = np.where(due, 0.0, self.reward)
        self.due = np.zeros_like(due)
        return errors, due

    @property
    def prediction(self) -> float:
        """r̄, averaged over the environments that know one."""
        return float(np.nanmean(self.average))


def temporal_differences(
    rewards_TE: np.ndarray, dones_TE: np.ndarray, values_TE: np.ndarray, gamma: float
) -> np.ndarray:
    """
    The reward prediction error of a critic, δ_t = r_t + γ V(s_{t+1}) - V(s_t), without V(s_{t+1}) where the episode
    ended.

    :param rewards_TE: Rewards; at a time limit, they include what was to come after it
    :param dones_TE: Whether the step ended an episode, booleans
    :param values_TE: V of what was observed at each step and after the last, shape (T + 1, E)
    :param gamma: Discount γ
    :return: δ, shape (T, E)
    """
    return rewards_TE + gamma * values_TE[1:] * ~dones_TE - values_TE[:-1]
