"""A features extractor for grids."""

import math

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class GridCnn(BaseFeaturesExtractor):
    """
    A convolution for small grids whose last dimension are channels, such as the bools of shape (10, 10, C) of MinAtar:
    16 filters of 3 × 3 and ReLU, as in the networks of MinAtar's authors (Young and Tian 2019). ``CnnPolicy`` and its
    relatives use it for such observations, up to 32 × 32, if they are no images.

    :param observation_space: A ``Box`` of shape (height, width, channels)
    :param n_filters: Number of filters
    """

    def __init__(self, observation_space: spaces.Box, n_filters: int = 16) -> None:
        height, width, n_channels = observation_space.shape
        super().__init__(observation_space, features_dim=n_filters * (height - 2) * (width - 2))
        convolution = nn.Conv2d(n_channels, n_filters, 3)
        nn.init.orthogonal_(convolution.weight, math.sqrt(2))
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(convolution, nn.ReLU(), nn.Flatten())

    @staticmethod
    def fits(space: spaces.Space) -> bool:
        """Whether observations are grids, from 3 × 3 to 32 × 32, of no more channels than rows and columns."""
        if not isinstance(space, spaces.Box) or len(space.shape) != 3:
            return False
        height, width, n_channels = space.shape
        return 3 <= min(height, width) and max(height, width) <= 32 and n_channels <= min(height, width)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations.permute(0, 3, 1, 2))
