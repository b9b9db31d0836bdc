"""Running normalisation of observations and rewards, kept in the model.

Shapes: T steps, E environments, B rows.
"""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from torch import nn

from sb3_nrl.arrays import Array, ArrayNamespace, Observations, as_float

_LARGEST = 10.0
"""Bound on normalised observations and rewards, as in ``VecNormalize``."""

_SMALLEST_VARIANCE = 1e-16

_PRIOR_COUNT = 1e-12
"""Weight of the initial variance of 1, in observations: so little that small observations and rewards count, too."""


class ObservationNormalizer(nn.Module):
    """
    Observations minus their running mean, divided by their running standard deviation, and clipped at ±10. It applies
    to vectors of numbers. Images, bools and discrete observations stay as they are. Nothing is changed before the first
    update.

    :param space: Observation space
    """

    def __init__(self, space: spaces.Space) -> None:
        super().__init__()
        parts = space.spaces if isinstance(space, spaces.Dict) else {None: space}
        self.statistics = {
            key: RunningMeanStd(_PRIOR_COUNT, part.shape or ()) for key, part in parts.items() if _is_numbers(part)
        }
        self.is_empty = True
        """Whether no observation was seen yet."""
        self._constants: dict[Any, tuple[np.ndarray, np.ndarray]] = {}

    def update(self, observations: Observations) -> None:
        """
        Add observations to the statistics.

        :param observations: Observations as the environment gives them, B rows
        """
        for key, statistics in self.statistics.items():
            statistics.update(np.asarray(observations if key is None else observations[key], np.float64))
        self.is_empty = False
        self._constants = {}

    def forward(self, xp: ArrayNamespace, observations: Observations) -> Observations:
        """
        Normalise.

        :param xp: ``numpy`` or ``torch``
        :param observations: Observations, B rows
        :return: The normalised ones, in single precision
        """
        if self.is_empty:
            return observations
        if not isinstance(observations, dict):
            return self._normalize(xp, None, observations) if self.statistics else observations
        return {
            key: self._normalize(xp, key, part) if key in self.statistics else part
            for key, part in observations.items()
        }

    def _normalize(self, xp: ArrayNamespace, key: Any, part: Array) -> Array:
        if key not in self._constants:
            mean, variance = self.statistics[key].mean, self.statistics[key].var
            scale = 1 / np.sqrt(variance + _SMALLEST_VARIANCE)
            self._constants[key] = mean.astype(np.float32), scale.astype(np.float32)
        mean, scale = self._constants[key]
        constants: Any = (mean, scale)
        if xp is th:
            constants = [th.as_tensor(values, device=part.device) for values in constants]
        return ((as_float(xp, part) - constants[0]) * constants[1]).clip(-_LARGEST, _LARGEST)

    def get_extra_state(self) -> dict[str, Any]:
        """The statistics, for ``state_dict``."""
        return {
            str(key): {name: th.as_tensor(getattr(of, name), dtype=th.float64) for name in ("mean", "var", "count")}
            for key, of in self.statistics.items()
            if not self.is_empty
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for key, statistics in self.statistics.items():
            if str(key) in state:
                self.is_empty = False
                for name, values in state[str(key)].items():
                    setattr(statistics, name, values.item() if name == "count" else values.cpu().numpy().copy())
        self._constants = {}


def _is_numbers(space: spaces.Space) -> bool:
    is_image = isinstance(space, spaces.Box) and is_image_space(space, check_channels=False)
    return isinstance(space, spaces.Box) and space.dtype != np.bool_ and not is_image


class RewardScale:
    """
    Rewards divided by the running standard deviation of the discounted return, and clipped at ±10.

    :param gamma: Discount
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self.statistics = RunningMeanStd(_PRIOR_COUNT, ())
        self._returns_E: np.ndarray | None = None

    def restart(self) -> None:
        """Begin the returns again, since the environments were reset."""
        self._returns_E = None

    def update(self, rewards_TE: np.ndarray, dones_TE: np.ndarray) -> np.ndarray:
        """
        Add a window to the statistics, and scale its rewards.

        :param rewards_TE: Rewards
        :param dones_TE: Whether the step ended an episode
        :return: The scaled rewards
        """
        if self._returns_E is None or len(self._returns_E) != rewards_TE.shape[1]:
            self._returns_E = np.zeros(rewards_TE.shape[1])
        returns_TE = np.empty(rewards_TE.shape)
        for rewards_E, dones_E, out_E in zip(rewards_TE, dones_TE, returns_TE, strict=True):
            out_E[:] = self._returns_E * self.gamma + rewards_E
            self._returns_E = out_E * ~dones_E
        self.statistics.update(returns_TE.ravel())
        return (rewards_TE / np.sqrt(self.statistics.var + _SMALLEST_VARIANCE)).clip(-_LARGEST, _LARGEST)
