"""When a reward counts, what was predicted, and by how much the prediction was wrong."""

import numpy as np

REWARD_TIMINGS = ("episode", "step", "nonzero")


class RewardPrediction:
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
        self, n_envs: int, timing: str, smoothing: float, scale: bool, previous: "RewardPrediction | None" = None
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

    def errors(self) -> np.ndarray:
        """
        δ = r_τ - r̄, and only then r̄ ← r̄ + λ (r_τ - r̄), where a reward time has come; claims those rewards.

        The first reward initialises r̄, so that the first δ is 0.

        :return: δ, 0 where no reward time has come, shape (E,)
        """
        known = ~self._unknown
        errors = np.where(self.due & known, self.reward - self.average, 0.0)
        self.average = np.where(self.due & self._unknown, self.reward, self.average + self.smoothing * errors)
        if self.scale:
            np.divide(errors, np.abs(self.reward), out=errors, where=self.reward != 0)
        self._unknown = self._ended if self.timing == "step" else self._unknown & ~self.due
        self.reward = np.where(self.due, 0.0, self.reward)
        self.due = np.zeros_like(self.due)
        return errors
