"""What a reward predictor is.

Shapes: T steps, E environments.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sb3_nrl.arrays import Array, Observations, n_rows
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.perturbation import PerturbablePolicy


class RewardErrors(NamedTuple):
    """
    Reward prediction errors of a window.

    :param errors_TE: δ, 0 where no reward counts
    :param restarts_TE: Whether traces are reset to 0 after the step
    :param n_rewards: Number of rewards that count
    :param diagnostics: Numbers to log, by name
    """

    errors_TE: np.ndarray
    restarts_TE: np.ndarray
    n_rewards: int
    diagnostics: dict[str, float]


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
