"""Fully connected layers, and their activation functions.

Shapes: B rows of a batch, N nodes that noise is added to, E environments, I inputs and O outputs of a layer, K copies
of a pass, T steps, M inputs of weight matrices, with one for a bias.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_nrl.arrays import Array, ArrayNamespace
from sb3_nrl.layers.base import CompoundLayer, Layer, LayerNoise, RankOne, per_env

Activation = Callable[[np.ndarray], np.ndarray]


def _leaky_relu(slope: np.float32, h: np.ndarray) -> np.ndarray:
    scaled = slope * h
    return np.maximum(h, scaled, out=scaled) if slope <= 1 else np.minimum(h, scaled, out=scaled)


def _relu(h: np.ndarray) -> np.ndarray:
    return np.maximum(h, 0)


def _sigmoid(h: np.ndarray) -> np.ndarray:
    return sigmoid(np, h)


def sigmoid(xp: ArrayNamespace, h: Array) -> Array:
    """The logistic function."""
    return 0.5 * (1 + xp.tanh(0.5 * h))


_FUNCTIONS: dict[type, Activation] = {nn.Tanh: np.tanh, nn.ReLU: _relu, nn.Sigmoid: _sigmoid}
"""Activation functions for NumPy, beside that of LeakyReLU. All others are only known to PyTorch."""


def product(x: Array, weight: Array) -> Array:
    """
    x Wᵀ, of shape (B, O).

    :param x: Shape (B, I)
    :param weight: W of shape (O, I), or K of them for K equal parts of the batch
    :return: The product
    """
    if weight.ndim == 2:
        return x.dot(weight.T) if isinstance(x, np.ndarray) else x @ weight.T  # NumPy's dot begins sooner
    return (x.reshape(len(weight), -1, x.shape[1]) @ weight.swapaxes(1, 2)).reshape(len(x), -1)


def add_bias(h_BO: Array, bias: Array) -> None:
    """Add a bias of shape (O,), or K of them for K equal parts of the batch."""
    if bias.ndim == 1:
        h_BO += bias
    else:
        h_BO.reshape(len(bias), -1, bias.shape[1])[...] += bias[:, None]


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
        self.has_bias, self.n_units, self.widths = bias, n_outputs, (n_inputs, 1) if bias else (n_inputs,)
        self.activation = activation
        self._function = _FUNCTIONS.get(type(activation))
        if type(activation) is nn.LeakyReLU:
            self._function = partial(_leaky_relu, np.float32(activation.negative_slope))
        self._may_work_in_place = getattr(activation, "inplace", self._function is None)
        self.runs_in_numpy = activation is None or self._function is not None  # type: ignore[misc]

    def learnable(self) -> list[nn.Parameter]:
        own: list[Any] = [self.weight, self.bias] if self.has_bias else [self.weight]
        return [parameter for parameter in own if parameter.requires_grad]

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.step(th, self.arrays(th), x)[0]

    def step(
        self, xp: ArrayNamespace, parameters: tuple[Array, ...], x: Array, noise: LayerNoise = None
    ) -> tuple[Array, Any, list[Array]]:
        h = product(x, parameters[0])
        if self.has_bias:
            add_bias(h, parameters[1])
        if noise is not None and self.n_nodes > 0:
            self._add_noise(xp, h, x, noise)
        potentials = [h] if self.n_nodes > 0 else []
        if xp is np:
            return h if self._function is None else self._function(h), x, potentials
        if self.activation is None:
            return h, x, potentials
        return self.activation(h.clone() if self._may_work_in_place else h), x, potentials

    def _add_noise(self, xp: ArrayNamespace, h_BO: Array, x_BI: Array, noise: Array | RankOne) -> None:
        """Add ξ, or what noise of rank one on weights and bias does, (x · a) b: the last entry of a is the bias's."""
        if not isinstance(noise, RankOne):
            h_BO += noise
        elif self.n_pre > 0:
            n_copies, _, n_envs, n_outputs = noise.post.shape
            factor: Array = noise.pre[..., -1] if self.has_bias and self.learns[1] else 0.0
            if self.learns[0]:
                x = x_BI.reshape(n_copies, -1, n_envs, self.in_features)
                factor = factor + xp.einsum("ktei,ktei->kte", x, noise.pre[..., : self.in_features])
            h_BO.reshape(n_copies, -1, n_envs, n_outputs)[...] += factor[..., None] * noise.post

    def outer(self, xp: ArrayNamespace, post_BN: Array, received: Array, n_envs: int) -> list[Array]:
        if self.n_nodes == 0:
            return []
        post_EOB = per_env(post_BN, n_envs).swapaxes(1, 2)
        sums = []
        if self.learns[0]:
            sums.append((post_EOB @ per_env(received, n_envs)).reshape(n_envs, -1))
        if self.has_bias and self.learns[1]:
            sums.append(post_EOB.sum(2))
        return sums


class GaussianHead(CompoundLayer):
    """
    Means and log standard deviations of continuous actions. The standard deviations do not depend on the observation.
    They are the outputs of a layer with the constant input 1, which learns like any other layer.

    :param mean: Layer whose outputs are the means
    :param log_std: Layer of one input, whose outputs are the log standard deviations
    """

    def __init__(self, mean: Dense, log_std: Dense) -> None:
        super().__init__()
        self.mean = mean
        self.log_std = log_std

    def step(
        self, xp: ArrayNamespace, parameters: tuple[Array, ...], x: Array, noise: LayerNoise = None
    ) -> tuple[Array, Any, list[Array]]:
        of_mean, of_log_std = self.split(parameters, noise)
        ones = np.ones((x.shape[0], 1), np.float32) if xp is np else x.new_ones(x.shape[0], 1)
        mean, _, potentials = self.mean.step(xp, of_mean[1], x, of_mean[2])
        log_std, _, more_potentials = self.log_std.step(xp, of_log_std[1], ones, of_log_std[2])
        return xp.concatenate((mean, log_std), axis=1), (x, ones), potentials + more_potentials


def linear_layer(head: Layer) -> Any:
    """The :class:`Dense` layer of a head, whose outputs are logits, values, or the means of continuous actions."""
    return head.mean if isinstance(head, GaussianHead) else head


def learned_outputs(head: Layer) -> slice:
    """The outputs of a head whose weights or bias learn, which are its nodes."""
    first = head.mean.out_features if isinstance(head, GaussianHead) and head.mean.n_nodes == 0 else 0
    return slice(first, first + head.n_nodes)
