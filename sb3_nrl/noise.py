"""The noise ξ of the nodes. The noise of each node has mean 0 and variance σ².

Shapes: K samples of each row, B rows (steps of environments), n nodes of a network.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch as th

from sb3_nrl.checks import check, is_number

NoiseDistribution = Literal["gaussian", "uniform", "rademacher", "poisson", "orthogonal"]

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
"""Functions that fill a tensor with noise of a given σ: thermal, uniform, random telegraph and shot noise."""

ORTHOGONAL: Literal["orthogonal"] = "orthogonal"
"""Name of noise whose K samples of a row are orthogonal. It is not a distribution of single nodes."""


class Noise(NamedTuple):
    """
    A source of noise.

    :param std: Standard deviation σ, in the units of the pre-activations
    :param distribution: A key of ``NOISE_DISTRIBUTIONS``, or ``ORTHOGONAL``
    :param probability: Probability that a node gets noise at a step, in (0, 1]. σ is the standard deviation of the
        noise of these nodes
    """

    std: float
    distribution: NoiseDistribution = "gaussian"
    probability: float = 1.0

    def check(self) -> None:
        """
        Check all arguments.

        :raises ValueError: If one of them is out of range, with its name in the algorithms' constructors
        """
        check("noise_std", self.std, is_number(self.std, 0), "positive and finite")
        known = (*NOISE_DISTRIBUTIONS, ORTHOGONAL)
        check("noise_distribution", self.distribution, self.distribution in known, f"one of {known}")
        check("noise_probability", self.probability, is_number(self.probability, 0, 1), "in (0, 1]")

    def sample(self, n_samples: int, n_rows: int, sizes: Sequence[int], device: th.device | str = "cpu") -> th.Tensor:
        """
        Draw noise from PyTorch's default generator.

        :param n_samples: Number of samples K of each row
        :param n_rows: Number of rows B
        :param sizes: Number of nodes of each network
        :param device: Where to draw it
        :return: ξ of shape (K · B, sum of the sizes). The rows of one sample are adjacent. Rows are independent unless
            the noise is orthogonal
        """
        if self.distribution == ORTHOGONAL:
            parts = [_orthogonal(n_samples, n_rows, size, self.std, device) for size in sizes if size]
            return th.cat(parts, dim=1, out=_empty(n_samples * n_rows, sum(sizes), device))
        noise = NOISE_DISTRIBUTIONS[self.distribution](_empty(n_samples * n_rows, sum(sizes), device), self.std)
        return noise if self.probability == 1 else noise * (th.rand_like(noise) < self.probability)


def _empty(n_rows: int, n_columns: int, device: th.device | str) -> th.Tensor:
    """
    Make a tensor to fill with noise. On the CPU its memory is NumPy's, since PyTorch's is aligned, and glibc 2.36 does
    not always reuse aligned memory that was freed: a long training grew by up to a megabyte per window.
    """
    if th.device(device).type == "cpu":
        return th.from_numpy(np.empty((n_rows, n_columns), np.float32))
    return th.empty(n_rows, n_columns, device=device)


def _orthogonal(n_samples: int, n_rows: int, n_nodes: int, std: float, device: th.device | str) -> th.Tensor:
    """
    Samples of length σ √n. Up to n samples are orthogonal to one another; further samples repeat them.

    They are the first rows of the Hartley transform. The nodes are randomly permuted, and in each row of the batch
    randomly shifted and multiplied by random signs. The mean of ξ ξᵀ is therefore the identity times σ².
    """
    nodes = th.arange(n_nodes, device=device)
    angles = 2 * math.pi / n_nodes * nodes
    turns = th.outer(th.arange(n_samples, device=device), nodes) % n_nodes
    waves = (angles.cos() + angles.sin())[turns]
    order = th.randperm(n_nodes, device=device) + th.randint(n_nodes, (n_rows, 1), device=device)
    signs = _rademacher(_empty(n_rows, n_nodes, device), std)
    nodes_drawn = (order % n_nodes).flatten()
    noise = th.index_select(waves, 1, nodes_drawn, out=_empty(n_samples, n_rows * n_nodes, device))
    return noise.unflatten(1, order.shape).mul_(signs).flatten(0, 1)
