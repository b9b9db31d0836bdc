"""Choosing actions at the pace of the environments: NumPy where the network is a small one, PyTorch elsewhere.

Shapes: E environments, N nodes of the network, A actions.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from sb3_nrl.policies import NoisyPolicy, require_finite

_ACTIVATIONS: dict[type[nn.Module], Callable[[np.ndarray], np.ndarray] | None] = {
    nn.LeakyReLU: None,  # depends on its slope
    nn.ReLU: lambda h: np.maximum(h, 0),
    nn.Tanh: np.tanh,
}
_REPLACED = ("forward", "get_distribution", "extract_features", "_action_parameters", "_distribution")

Actor = Callable[[Any, th.Tensor | None], tuple[np.ndarray, np.ndarray]]
"""From observations of E environments, and noise of shape (E, N) or None, to actions, and log π(a|s) of shape (E,)."""


def make_actor(policy: NoisyPolicy) -> Actor:
    """
    The quickest way to choose the policy's actions, for as long as its modules are not exchanged.

    :param policy: The policy
    :return: A function of observations and noise
    """
    return NumpyActor(policy) if NumpyActor.suits(policy) else _TorchActor(policy)


class _TorchActor:
    def __init__(self, policy: NoisyPolicy) -> None:
        self.policy = policy

    @th.no_grad()
    def __call__(self, obs: Any, noise_EN: th.Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        actions, log_probs = self.policy(obs_as_tensor(obs, self.policy.device), noise_BN=noise_EN)
        return actions.cpu().numpy(), log_probs.cpu().numpy()


class NumpyActor:
    """
    A multi-layer perceptron's pass and choice of action without PyTorch, whose overhead per operation would be most of
    the time with a few environments. Reads the weights where the policy keeps them; draws from NumPy's default
    generator.

    :param policy: A policy that :meth:`suits`
    """

    def __init__(self, policy: NoisyPolicy) -> None:
        modules = [*policy.hidden_net, policy.action_net]
        sites = {site.layer: site.nodes for site in policy.perturbation.sites}
        self.layers = [
            (layer, sites.get(layer), _activation(following))
            for layer, following in zip(modules, [*modules[1:], None], strict=True)
            if isinstance(layer, nn.Linear)
        ]
        self.log_std_net = policy.log_std_net if isinstance(policy.action_space, spaces.Box) else None
        self.log_std_nodes = sites.get(self.log_std_net)  # type: ignore[arg-type]
        self.parameters = list(policy.parameters())
        self.addresses: list[int] = []

    @staticmethod
    def suits(policy: NoisyPolicy) -> bool:
        """Whether the policy is on the CPU, flattens its observations, and was not changed in ways unknown here."""
        space = policy.observation_space
        return (
            all(getattr(type(policy), name) is getattr(NoisyPolicy, name) for name in _REPLACED)
            and policy.action_net.weight.device.type == "cpu"
            and policy.clean_passes is None
            and isinstance(policy.action_space, spaces.Discrete | spaces.Box)
            and type(policy.features_extractor) is FlattenExtractor
            and isinstance(space, spaces.Box)
            and not (policy.normalize_images and is_image_space(space))
            and all(type(module) in (nn.Linear, *_ACTIVATIONS) for module in policy.hidden_net)
            and not any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules())
        )

    def _find_weights(self) -> None:
        """Look at the weights where they are now: training changes them in place, but others may replace them."""
        addresses = [parameter.data_ptr() for parameter in self.parameters]
        if addresses != self.addresses:
            self.addresses = addresses
            self.weights = [
                (
                    layer.weight.data.numpy().T,
                    None if layer.bias is None else layer.bias.data.numpy(),
                    nodes,
                    activation,
                )
                for layer, nodes, activation in self.layers
            ]
            if self.log_std_net is not None:
                self.log_std = self.log_std_net.weight.data.numpy().T

    def __call__(self, obs: np.ndarray, noise_EN: th.Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        self._find_weights()
        noise = None if noise_EN is None else noise_EN.numpy()
        x = obs.reshape(len(obs), -1).astype(np.float32, copy=False)
        for weight, bias, nodes, activation in self.weights:
            x = x @ weight
            if bias is not None:
                x += bias
            if noise is not None and nodes is not None:
                x += noise[:, nodes]
            if activation is not None:
                x = activation(x)
        if self.log_std_net is None:
            return _draw_categorical(x)
        log_std = self.log_std
        if noise is not None and self.log_std_nodes is not None:
            log_std = log_std + noise[:, self.log_std_nodes]
        return _draw_gaussian(x, log_std)


def _activation(module: nn.Module | None) -> Callable[[np.ndarray], np.ndarray] | None:
    if isinstance(module, nn.LeakyReLU):
        slope = module.negative_slope
        extreme = np.maximum if slope <= 1 else np.minimum
        return lambda h: extreme(h, slope * h)
    return None if module is None else _ACTIVATIONS.get(type(module))


def _draw_categorical(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(logits) == 1:
        # Python's numbers are quicker than arrays of a few.
        row = logits[0].tolist()
        highest = max(row)
        odds = [math.exp(logit - highest) for logit in row]
        total = sum(odds)
        require_finite(math.isfinite(total))
        left = np.random.random() * total
        action = 0
        while action < len(odds) - 1 and left >= odds[action]:
            left -= odds[action]
            action += 1
        return np.array([action]), np.array([math.log(odds[action] / total)], np.float32)
    odds_EA = np.exp(logits - np.maximum.reduce(logits, axis=1, keepdims=True))
    cumulative = np.add.accumulate(odds_EA, axis=1)
    total_E = cumulative[:, -1]
    require_finite(bool(np.isfinite(total_E).all()))
    actions = (cumulative > (np.random.random(len(logits)) * total_E)[:, None]).argmax(axis=1)
    return actions, np.log(odds_EA[np.arange(len(logits)), actions] / total_E)


def _draw_gaussian(mean: np.ndarray, log_std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z = np.random.standard_normal(mean.shape).astype(np.float32)
    log_density = -0.5 * (z * z + math.log(2 * math.pi)) - log_std
    log_probs = log_density.sum(axis=1)
    require_finite(bool(np.isfinite(log_probs).all() and np.isfinite(mean).all()))
    return mean + np.exp(log_std) * z, log_probs
