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

_BOUNDS = (np.array(-_LARGEST, np.float32), np.array(_LARGEST, np.float32))  # NumPy would convert numbers at each call

_SMALLEST_VARIANCE = 1e-16

_FEWEST_ROWS = 32

_PRIOR_COUNT = 1e-12
"""Weight of the initial variance of 1, in observations: so little that small observations and rewards count, too."""


class ObservationNormalizer(nn.Module):
    """
    Observations minus their running mean, divided by their running standard deviation, and clipped at ±10. It applies
    to numbers. Images, bools and discrete observations stay as they are. Nothing is changed before 32 observations were
    seen.

    :param space: Observation space
    :param normalize_images: Whether images have numbers from 0 to 255, which the policy divides by 255
    """

    def __init__(self, space: spaces.Space, normalize_images: bool = True) -> None:
        super().__init__()
        parts = space.spaces if isinstance(space, spaces.Dict) else {None: space}
        self.statistics = {
            key: RunningMeanStd(_PRIOR_COUNT, part.shape or ())
            for key, part in parts.items()
            if _is_numbers(part, normalize_images)
        }
        self._compute_constants()

    def update(self, observations: Observations) -> None:
        """
        Add observations to the statistics.

        :param observations: Observations as the environment gives them, B rows
        """
        for key, statistics in self.statistics.items():
            statistics.update(np.asarray(observations if key is None else observations[key], np.float64))
        self._compute_constants()

    def scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Compute what vectors are normalised by, before they are clipped.

        :return: Mean, and 1 / standard deviation, of each number of a vector, in double precision; 0 and 1 before 32
            observations were seen, and if nothing is normalised
        """
        if not self.statistics or not self.is_ready:
            return np.zeros(1), np.ones(1)
        mean, scale = _mean_and_scale(self.statistics[None])
        return mean.ravel(), scale.ravel()

    def forward(self, xp: ArrayNamespace, observations: Observations) -> Observations:
        """
        Normalise.

        :param xp: ``numpy`` or ``torch``
        :param observations: Observations, B rows
        :return: The normalised ones, in single precision
        """
        if not self.is_ready:
            return observations
        if not isinstance(observations, dict):
            return self._normalize(xp, None, observations) if self.statistics else observations
        return {
            key: self._normalize(xp, key, part) if key in self.statistics else part
            for key, part in observations.items()
        }

    def _normalize(self, xp: ArrayNamespace, key: Any, part: Array) -> Array:
        if xp is th:
            self._tensors[key] = tuple(values.to(part.device) for values in self._tensors[key])
        mean, scale = self._constants[key] if xp is np else self._tensors[key]
        bounds = _BOUNDS if xp is np else (-_LARGEST, _LARGEST)
        return ((as_float(xp, part) - mean) * scale).clip(*bounds)

    def _compute_constants(self) -> None:
        self.is_ready = all(of.count >= _FEWEST_ROWS for of in self.statistics.values())
        """Whether enough observations were seen to normalise by them, or nothing is to be normalised."""
        self._constants: dict[Any, Any] = {
            key: tuple(values.astype(np.float32) for values in _mean_and_scale(of))
            for key, of in self.statistics.items()
        }
        # Made here, since tracing warns of tensors that are made of arrays.
        self._tensors = {key: tuple(map(th.as_tensor, both)) for key, both in self._constants.items()}

    def get_extra_state(self) -> th.Tensor:
        """The statistics, for ``state_dict``: count, means and variances of each part."""
        parts = [np.ravel(values) for of in self.statistics.values() for values in (of.count, of.mean, of.var)]
        return th.as_tensor(np.concatenate([np.empty(0), *parts]))

    def set_extra_state(self, state: th.Tensor) -> None:
        values, start = state.cpu().numpy(), 0
        for of in self.statistics.values():
            shape, end = of.mean.shape, start + 1 + 2 * of.mean.size
            of.count = float(values[start])
            of.mean, of.var = (part.reshape(shape).copy() for part in np.split(values[start + 1 : end], 2))
            start = end
        self._compute_constants()


def _mean_and_scale(statistics: RunningMeanStd) -> tuple[np.ndarray, np.ndarray]:
    return statistics.mean, 1 / np.sqrt(statistics.var + _SMALLEST_VARIANCE)


def _is_numbers(space: spaces.Space, normalize_images: bool) -> bool:
    is_image = isinstance(space, spaces.Box) and is_image_space(space, normalized_image=not normalize_images)
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
