"""Fully connected layers, and their activation functions.

Shapes: B rows of a batch, N nodes that noise is added to, E environments, I inputs and O outputs of a layer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_nrl.arrays import Array, ArrayNamespace
from sb3_nrl.layers.base import Layer

Activation = Callable[[ArrayNamespace, Array], Array]


def _leaky_relu(slope: float, xp: ArrayNamespace, h: Array) -> Array:
    return xp.maximum(h, slope * h) if slope <= 1 else xp.minimum(h, slope * h)


def _relu(xp: ArrayNamespace, h: Array) -> Array:
    return xp.where(h <= 0, 0.0, h)  # NaN stays NaN


def _tanh(xp: ArrayNamespace, h: Array) -> Array:
    return xp.tanh(h)


def _sigmoid(xp: ArrayNamespace, h: Array) -> Array:
    return 0.5 * (1 + xp.tanh(0.5 * h))


def find_activation(module: nn.Module) -> Activation | None:
    """
    An activation function for NumPy and PyTorch.

    :param module: An activation function of PyTorch
    :return: The function, None if it is only known to PyTorch
    """
    if type(module) is nn.LeakyReLU:
        return partial(_leaky_relu, module.negative_slope)
    return {nn.Tanh: _tanh, nn.ReLU: _relu, nn.Sigmoid: _sigmoid}.get(type(module))


class Dense(nn.Linear, Layer):
    """
    A fully connected layer, f(x Wᵀ + b + ξ).

    :param n_inputs: Number of inputs I
    :param n_outputs: Number of nodes O
    :param bias: Whether the nodes have biases b
    :param activation: The activation function f as a PyTorch module, None for none. Tanh, ReLU, LeakyReLU and Sigmoid
        run in NumPy too
    """

    def __init__(self, n_inputs: int, n_outputs: int, bias: bool = True, activation: nn.Module | None = None) -> None:
        super().__init__(n_inputs, n_outputs, bias=bias)
        self.has_bias = bias
        self.activation = activation
        self._function = None if activation is None else find_activation(activation)
        self.runs_in_numpy = activation is None or self._function is not None  # type: ignore[misc]

    @property
    def n_units(self) -> int:
        return self.out_features

    def learnable(self) -> list[nn.Parameter]:
        own: list[Any] = [self.weight, self.bias] if self.has_bias else [self.weight]
        return [parameter for parameter in own if parameter.requires_grad]

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.step(th, self.arrays(th), x)[0]

    def step(
        self, xp: ArrayNamespace, parameters: tuple[Array, ...], x: Array, noise_BN: Array | None = None
    ) -> tuple[Array, Any, list[Array]]:
        h = x @ parameters[0].T
        if self.has_bias:
            h += parameters[1]
        if noise_BN is not None and noise_BN.shape[1] > 0:
            h += noise_BN
        potentials = [h] if self.n_nodes > 0 else []
        if self._function is not None:
            return self._function(xp, h), x, potentials
        return h if self.activation is None else self.activation(h.clone()), x, potentials  # it may work in place

    def outer(self, xp: ArrayNamespace, post_BN: Array, received: Array, n_envs: int) -> list[Array]:
        if self.n_nodes == 0:
            return []
        post_EOB = post_BN.reshape(-1, n_envs, self.out_features).swapaxes(0, 1).swapaxes(1, 2)
        sums = []
        if self.learns[0]:
            pre_EBI = received.reshape(-1, n_envs, self.in_features).swapaxes(0, 1)
            sums.append((post_EOB @ pre_EBI).reshape(n_envs, -1))
        if self.has_bias and self.learns[1]:
            sums.append(post_EOB.sum(2))
        return sums


class GaussianHead(Layer):
    """
    Means and log standard deviations of continuous actions. The standard deviations do not depend on the observation:
    they are a layer that receives a constant 1, perturbed and learned like any other.

    :param mean: Layer whose outputs are the means
    :param log_std: Layer of one input, whose outputs are the log standard deviations
    """

    def __init__(self, mean: Dense, log_std: Dense) -> None:
        super().__init__()
        self.mean = mean
        self.log_std = log_std

    def refresh(self) -> None:
        for layer in (self.mean, self.log_std):
            layer.refresh()
        super().refresh()
        self.n_nodes = self.mean.n_nodes + self.log_std.n_nodes

    def learnable(self) -> list[nn.Parameter]:
        return [*self.mean.learnable(), *self.log_std.learnable()]

    def step(
        self, xp: ArrayNamespace, parameters: tuple[Array, ...], x: Array, noise_BN: Array | None = None
    ) -> tuple[Array, Any, list[Array]]:
        place = self.mean.n_nodes
        noises = (None, None) if noise_BN is None else (noise_BN[:, :place], noise_BN[:, place:])
        ones = np.ones((x.shape[0], 1), np.float32) if xp is np else x.new_ones(x.shape[0], 1)
        mean, _, of_mean = self.mean.step(xp, parameters[:-1], x, noises[0])
        log_std, _, of_log_std = self.log_std.step(xp, parameters[-1:], ones, noises[1])
        return xp.concatenate((mean, log_std), axis=1), (x, ones), of_mean + of_log_std

    def outer(self, xp: ArrayNamespace, post_BN: Array, received: Any, n_envs: int) -> list[Array]:
        place = self.mean.n_nodes
        return [
            *self.mean.outer(xp, post_BN[:, :place], received[0], n_envs),
            *self.log_std.outer(xp, post_BN[:, place:], received[1], n_envs),
        ]
