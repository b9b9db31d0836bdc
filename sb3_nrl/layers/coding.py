"""How numbers become spike trains, and spike trains numbers.

A spike train is a list of M arrays, one for each tick of a step, with 1 for a spike and 0 for none.

Shapes: B rows of a batch, I inputs, H neurons.
"""

from typing import Any, Literal

import numpy as np
import torch as th

from sb3_nrl.arrays import Array, ArrayNamespace, as_float
from sb3_nrl.layers.base import Layer, LayerNoise

Encoding = Literal["current", "poisson", "latency"]
ReadOut = Literal["rate", "membrane", "first_spike"]


def mean_of_ticks(train: list[Array]) -> Array:
    """The mean over the ticks. In this order it is several times quicker than a reduction of one array."""
    total = train[0] + 0
    for of_tick in train[1:]:
        total += of_tick
    total /= len(train)
    return total


class SpikeEncoder(Layer):
    """
    Makes spike trains of numbers. Each number has two inputs, one for its positive and one for its negative part, of
    which the size p counts up to 1.

    :param encoding: ``"poisson"``: a spike in each tick with probability p; all rows of a batch get the same random
        numbers, each pass new ones. ``"latency"``: one spike, the earlier the larger p is, none if it is 0
    :param ticks: Number of ticks M
    """

    def __init__(self, encoding: Encoding, ticks: int) -> None:
        super().__init__()
        self.encoding, self.ticks = encoding, ticks

    def step(
        self, xp: ArrayNamespace, parameters: tuple[Array, ...], x: Array, noise: LayerNoise = None
    ) -> tuple[Array, Any, list[Array]]:
        sizes = self._sizes(xp, x)
        if self.encoding == "poisson":
            draws_MI = th.rand(self.ticks, sizes.shape[1], device=None if xp is np else x.device)
            return [as_float(xp, sizes > draws_I) for draws_I in (draws_MI.numpy() if xp is np else draws_MI)], None, []
        times = ((1 - sizes) * self.ticks).round().clip(0, self.ticks - 1)
        times = xp.where(sizes > 0, times, -1.0)
        return [as_float(xp, times == m) for m in range(self.ticks)], None, []

    @staticmethod
    def _sizes(xp: ArrayNamespace, x: Array) -> Array:
        return xp.concatenate([x, -x], 1).clip(0, 1)

    def rates(self, x: th.Tensor) -> th.Tensor:
        """Expected spikes of each input per tick, shape (B, 2 I)."""
        return self._sizes(th, x) if self.encoding == "poisson" else mean_of_ticks(self.step(th, (), x)[0])


class SpikeReadOut(Layer):
    """
    Makes numbers of spike trains.

    :param read_out: ``"rate"``: spikes per tick. ``"membrane"``: the potential, after the last tick, of a leaky
        integrator, v ← β v + (1 − β) s. ``"first_spike"``: the fraction of ticks from the first spike on, 0 without any
    :param beta: β of the leaky integrator
    """

    beta: th.Tensor

    def __init__(self, read_out: ReadOut, beta: float) -> None:
        super().__init__()
        self.read_out = read_out
        self.register_buffer("beta", th.tensor(beta))

    def step(
        self, xp: ArrayNamespace, parameters: tuple[Array, ...], x: Any, noise: LayerNoise = None
    ) -> tuple[Array, Any, list[Array]]:
        if self.read_out == "rate":
            return mean_of_ticks(x), None, []
        if self.read_out == "membrane":
            beta = self.beta if xp is th else float(self.beta)
            v = (1 - beta) * x[0]
            for spikes in x[1:]:
                v = beta * v + (1 - beta) * spikes
            return v, None, []
        has_fired = [x[0]]
        for spikes in x[1:]:
            has_fired.append(xp.maximum(has_fired[-1], spikes))
        return mean_of_ticks(has_fired), None, []
