"""The distributions of the noise ξ that perturbs the nodes: zero mean and variance σ² each."""

import math
from collections.abc import Callable

import torch as th

_SHOT_NOISE_RATE = 2.5
"""Events per draw of the shot noise. Not a whole number, so that no node's noise is ever exactly zero."""


def _gaussian(noise: th.Tensor, std: float) -> th.Tensor:
    return noise.normal_(0, std)


def _uniform(noise: th.Tensor, std: float) -> th.Tensor:
    return noise.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std)


def _rademacher(noise: th.Tensor, std: float) -> th.Tensor:
    return noise.bernoulli_(0.5).sub_(0.5).mul_(2 * std)


def _poisson(noise: th.Tensor, std: float) -> th.Tensor:
    events = th.poisson(noise.fill_(_SHOT_NOISE_RATE))
    return events.sub_(_SHOT_NOISE_RATE).mul_(std / math.sqrt(_SHOT_NOISE_RATE))


NOISE_DISTRIBUTIONS: dict[str, Callable[[th.Tensor, float], th.Tensor]] = {
    "gaussian": _gaussian,
    "uniform": _uniform,
    "rademacher": _rademacher,
    "poisson": _poisson,
}
"""What fills a tensor with noise of a given σ: thermal noise, uniform noise, random telegraph noise, shot noise."""


def sample_noise(distribution: str, std: float, shape: tuple[int, ...], device: th.device) -> th.Tensor:
    """
    Draw independent noise from PyTorch's default generator.

    :param distribution: A key of ``NOISE_DISTRIBUTIONS``
    :param std: Standard deviation σ, in the units of the pre-activations
    :param shape: Shape of the sample
    :param device: Where to draw it
    :return: ξ, of the given shape
    """
    return NOISE_DISTRIBUTIONS[distribution](th.empty(shape, device=device), std)
