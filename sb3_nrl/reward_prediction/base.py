"""What a reward predictor is.

Shapes: T steps, E environments.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sb3_nrl.arrays import Array
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

    def observe(self, rewards_E: np.ndarray, dones_E: np.ndarray, infos: Sequence[dict[str, Any]]) -> bool:
        """
        Process the rewards of one step.

        :param rewards_E: Rewards
        :param dones_E: Whether the step ended an episode
        :param infos: The ``info`` dictionary of each environment
        :return: Whether a reward counts now, so that the window ends
        """
        return False

    def values_after_time_limits(
        self,
        policy: PerturbablePolicy,
        dones_E: np.ndarray,
        infos: Sequence[dict[str, Any]],
        states: Array | None,
        step: int,
    ) -> np.ndarray:
        """
        V(s') of the last observation of each episode that a time limit ended, for which a critic is needed.

        :param policy: The policy
        :param dones_E: Whether the step ended an episode
        :param infos: The ``info`` dictionary of each environment
        :param states: Hidden states after the step, shape (E, S); None without recurrent layers
        :param step: Number of steps so far, for the message of an error
        :return: Their values, shape (E,), 0 for other environments
        :raises ValueError: If a last observation is not finite
        """
        cut = [env for env in np.flatnonzero(dones_E).tolist() if infos[env].get("TimeLimit.truncated", False)]
        envs = [env for env in cut if "terminal_observation" in infos[env]]
        values_E = np.zeros(len(dones_E), np.float32)
        if not envs:
            return values_E
        rows = [infos[env]["terminal_observation"] for env in envs]
        is_dict = isinstance(rows[0], dict)
        obs = {key: np.stack([row[key] for row in rows]) for key in rows[0]} if is_dict else np.stack(rows)
        check_finite(obs, np.zeros(len(envs)), step, envs)
        if self.has_critic:
            starts_E = None if states is None else np.zeros(len(envs), bool)
            values_E[envs] = policy.values(obs, None if states is None else states[envs], starts_E)[0]
        return values_E

    def skip(self) -> None:  # noqa: B027  # most predictors have nothing to do
        """Use the rewards of dropped steps for the prediction only. No weight changes."""

    def is_ready(self, window_is_full: bool) -> bool:
        """Whether an update can use the steps now. If not, it waits for a reward."""
        return True

    @abstractmethod
    def errors(self, policy: PerturbablePolicy, window: RolloutWindow, n_steps_per_batch: int) -> RewardErrors:
        """
        Compute the reward prediction errors of a window.

        :param policy: The policy
        :param window: The steps
        :param n_steps_per_batch: Maximum number of steps of one batch of passes
        :return: The errors
        """
