"""Observations as vectors.

Shapes: B rows of a batch, F features of an observation.
"""

from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_nrl.arrays import Array, ArrayNamespace, Observations, as_float, is_exported
from sb3_nrl.layers.base import Layer


class FlatFeatures(Layer):
    """
    Converts observations to vectors, as Stable-Baselines3's ``preprocess_obs`` with ``FlattenExtractor`` or
    ``CombinedExtractor`` does. Numbers are unchanged, images are divided by 255, discrete values become one-hot codes,
    and the entries of a ``Dict`` space are concatenated. Has no parameters.

    :param space: Observation space
    :param normalize_images: Whether to divide images by 255
    """

    def __init__(self, space: spaces.Space, normalize_images: bool) -> None:
        super().__init__()
        parts = space.spaces if isinstance(space, spaces.Dict) else {None: space}
        self._encoders = {key: _encoder(part, normalize_images) for key, part in parts.items()}

    def forward(self, x: Any) -> th.Tensor:
        return self.step(th, (), x)[0]

    def step(
        self, xp: ArrayNamespace, parameters: tuple[Array, ...], x: Observations, noise: Array | None = None
    ) -> tuple[Array, Any, list[Array]]:
        if not isinstance(x, dict):
            return self._encoders[None](xp, x if x.ndim == 2 else x.reshape(x.shape[0], -1)), None, []
        features = [encode(xp, x[key].reshape(x[key].shape[0], -1)) for key, encode in self._encoders.items()]
        return xp.concatenate(features, axis=1), None, []


def _encoder(space: spaces.Space, normalize_images: bool) -> Any:
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        sizes = [int(space.n)] if isinstance(space, spaces.Discrete) else space.nvec.tolist()
        columns = np.repeat(np.arange(len(sizes)), sizes)
        return partial(_one_hot, columns, np.concatenate([np.arange(size) for size in sizes]))
    return _image if normalize_images and is_image_space(space) else as_float


def _image(xp: ArrayNamespace, x: Array) -> Array:
    return as_float(xp, x) / 255


def _one_hot(columns: np.ndarray, values: np.ndarray, xp: ArrayNamespace, x: Array) -> Array:
    codes = x[:, columns] == (values if xp is np else th.as_tensor(values, device=x.device))
    if not is_exported(xp) and codes.sum() < x.shape[0] * x.shape[1]:
        row = x[codes.sum(1) < x.shape[1]][0].tolist()
        highest = (np.bincount(columns) - 1).tolist()
        raise ValueError(f"The observation {row} is not in its space: must be whole numbers from 0 to {highest}.")
    return as_float(xp, codes)
