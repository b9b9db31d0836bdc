"""What a reward predictor is.

Shapes: T steps, E environments.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sb3_nrl.arrays import Array, Observations, n_rows
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.checks import check_finite
from sb3_nrl.perturbation import PerturbablePolicy


class RewardErrors(NamedTuple):
    """
    Reward prediction errors of a window.

    :param errors_TE: δ, 0 where no reward counts
    :param restarts_TE: Whether traces are reset to 0 after the step
    :param n_rewards: Number of rewards that count
    :param diagnostics: Numbers to log, by name
    :param values_TE: V(s) of the critic, None without one
    """

    errors_TE: np.ndarray
    restarts_TE: np.ndarray
    n_rewards: int
    diagnostics: dict[str, float]
    values_TE: np.ndarray | None = None


class RewardPredictor(ABC):
    """Predicts rewards, and computes by how much rewards are better than predicted: the reward prediction error δ."""

    name: ClassVar[str]
    """Value of the argument ``reward_prediction``."""

    has_critic: ClassVar[bool]
    """Whether the policy needs a critic."""

    gamma: float = 1.0
    """Discount γ of later rewards."""

    default_decay: float
    """Factor per step on the traces unless ``trace_decay`` is given."""

    due: bool = False
    """Whether there is a reward that counts and that no update has used yet."""

    @abstractmethod
    def take_over(self, previous: Any) -> None:
        """
        Keep what another predictor of the same class has learned.

        :param previous: The other predictor
        """

    @abstractmethod
    def restart(self) -> None:
        """Drop rewards that no update has used yet. Called when the environments are reset."""

    @abstractmethod
    def check_decay(self, decay: float) -> None:
        """
        Check ``trace_decay``.

        :raises ValueError: If it is out of range
        """

    @abstractmethod
    def observe(self, rewards_E: np.ndarray, dones_E: np.ndarray, infos: Sequence[dict[str, Any]]) -> bool:
        """
        Process the rewards of one step.

        :param rewards_E: Rewards
        :param dones_E: Whether the step ended an episode
        :param infos: The ``info`` dictionary of each environment
        :return: Whether a reward counts now, so that the window ends
        """

    def terminal_values(
        self, policy: PerturbablePolicy, observations: Observations, states: Array | None
    ) -> np.ndarray:
        """
        V(s') of the last observation of episodes that a time limit ended.

        :param policy: The policy
        :param observations: Last observations of B episodes that a time limit ended
        :param states: Hidden states after the last steps of these, shape (B, S); None without recurrent layers
        :return: Their values, shape (B,)
        """
        return np.zeros(n_rows(observations))

    def values_after_time_limits(
        self,
        policy: PerturbablePolicy,
        dones_E: np.ndarray,
        infos: Sequence[dict[str, Any]],
        states: Array | None,
        step: int,
    ) -> tuple[list[int], np.ndarray]:
        """
        V(s') of the last observation of each episode that a time limit ended.

        :param policy: The policy
        :param dones_E: Whether the step ended an episode
        :param infos: The ``info`` dictionary of each environment
        :param states: Hidden states after the step, shape (E, S); None without recurrent layers
        :param step: Number of steps so far, for the message of an error
        :return: The environments of these episodes, and their values
        :raises ValueError: If a last observation is not finite
        """
        cut = [env for env in np.flatnonzero(dones_E).tolist() if infos[env].get("TimeLimit.truncated", False)]
        envs = [env for env in cut if "terminal_observation" in infos[env]]
        if not envs:
            return [], np.zeros(0)
        rows = [infos[env]["terminal_observation"] for env in envs]
        is_dict = isinstance(rows[0], dict)
        obs = {key: np.stack([row[key] for row in rows]) for key in rows[0]} if is_dict else np.stack(rows)
        check_finite(obs, np.zeros(len(envs)), step, envs)
        return envs, self.terminal_values(policy, obs, None if states is None else states[envs])

    @abstractmethod
    def skip(self) -> None:
        """Use the rewards of dropped steps for the prediction only. No weight changes."""

    @abstractmethod
    def is_ready(self, window_is_full: bool) -> bool:
        """Whether an update can use the steps now. If not, it waits for a reward."""

    @abstractmethod
    def errors(self, policy: PerturbablePolicy, window: RolloutWindow, n_steps_per_batch: int) -> RewardErrors:
        """
        Compute the reward prediction errors of a window.

        :param policy: The policy
        :param window: The steps
        :param n_steps_per_batch: Maximum number of steps of one batch of passes
        :return: The errors
        """
