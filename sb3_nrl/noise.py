"""The distributions of the noise ξ that perturbs the nodes: zero mean and variance σ² each."""

import math
from collections.abc import Callable

import torch as th

_SHOT_NOISE_RATE = 2.5
"""Events per draw of the shot noise. Not a whole number, so that no node's noise is ever exactly zero."""


def _gaussian(shape: tuple[int, ...], device: th.device) -> th.Tensor:
    return th.randn(shape, device=device)


def _uniform(shape: tuple[int, ...], device: th.device) -> th.Tensor:
    return th.rand(shape, device=device).sub_(0.5).mul_(math.sqrt(12))


def _rademacher(shape: tuple[int, ...], device: th.device) -> th.Tensor:
    return th.empty(shape, device=device).bernoulli_(0.5).mul_(2).sub_(1)


def _poisson(shape: tuple[int, ...], device: th.device) -> th.Tensor:
    events = th.poisson(th.full(shape, _SHOT_NOISE_RATE, device=device))
    return events.sub_(_SHOT_NOISE_RATE).div_(math.sqrt(_SHOT_NOISE_RATE))


NOISE_DISTRIBUTIONS: dict[str, Callable[[tuple[int, ...], th.device], th.Tensor]] = {
    "gaussian": _gaussian,
    "uniform": _uniform,
    "rademacher": _rademacher,
    "poisson": _poisson,
}
"""Samplers with unit variance by name: thermal noise, uniform noise, random telegraph noise, shot noise."""


def sample_noise(distribution: str, std: float, shape: tuple[int, ...], device: th.device) -> th.Tensor:
    """
    Draw independent noise from PyTorch's default generator.

    :param distribution: A key of ``NOISE_DISTRIBUTIONS``
    :param std: Standard deviation σ, in the units of the pre-activations
    :param shape: Shape of the sample
    :param device: Where to draw it
    :return: ξ, of the given shape
    """
    return NOISE_DISTRIBUTIONS[distribution](shape, device).mul_(std)
