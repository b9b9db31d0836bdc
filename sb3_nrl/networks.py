"""The network's passes at the pace of the environments: NumPy for multi-layer perceptrons on the CPU, else PyTorch.

Shapes: E environments, B rows of a batch, N nodes of the network, W weights and biases of the network.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from sb3_nrl.arrays import Array
from sb3_nrl.policies import NoisyPass, NoisyPolicy, repeat_rows, require_finite

_ACTIVATIONS = (nn.LeakyReLU, nn.ReLU, nn.Tanh)
_REPLACED = (
    *("forward", "get_distribution", "predict_values", "extract_features", "noisy_pass"),
    *("_action_parameters", "_values", "_outputs", "_distribution"),
    *("_run_noisy", "_run_noisy_passes", "_mean_of_noisy_passes"),
)

_FEW = 16
"""Logits up to which Python's own numbers are quicker than NumPy's arrays."""


def make_network(policy: NoisyPolicy) -> "TorchNetwork":
    """
    The quickest passes through the policy's network, for as long as its modules are not exchanged.

    :param policy: The policy
    :return: The network
    """
    return NumpyNetwork(policy) if NumpyNetwork.suits(policy) else TorchNetwork(policy)


class TorchNetwork:
    """
    What a training does with a policy's network, in tensors on the policy's device.

    :param policy: The policy
    """

    def __init__(self, policy: NoisyPolicy) -> None:
        self.policy = policy
        flat = th.zeros(sum(p.numel() for p in policy.perturbation.parameters), device=policy.device)
        self.gradients = policy.perturbation.split(flat)
        """Views of ``gradient_W``, one for each parameter that learns."""
        self.gradient_W = self.array(flat)
        self.modules = list(policy.modules())
        self.parameters = list(policy.parameters())
        # The dictionaries in which modules keep what they are made of: looking into them is quick.
        self._contents = [part for module in self.modules for part in (module._modules, module._parameters)]
        self._found = self._look()

    def array(self, values: np.ndarray | th.Tensor) -> Array:
        """Take over values, without a copy where that is possible."""
        return th.as_tensor(values, device=self.policy.device)

    def numpy(self, values: Array) -> np.ndarray:
        """The way back, likewise without a copy where that is possible."""
        return values.cpu().numpy()

    def weights(self) -> list[Array]:
        """The parameters that learn, where they are now."""
        return [parameter.data for parameter in self.policy.perturbation.parameters]

    def sample_noise(self, n_rows: int, n_samples: int = 1) -> Array:
        """See :meth:`NoisyPolicy.sample_noise <sb3_nrl.policies.NoisyPolicy.sample_noise>`."""
        return self.policy.sample_noise(n_rows, n_samples)

    def is_outdated(self) -> bool:
        """
        Whether this network no longer is the policy's: modules or parameters were exchanged, frozen or unfrozen, or
        somebody changed what only PyTorch would see.
        """
        return self._look() != self._found

    def _look(self) -> list[Any]:
        """Which modules and parameters the policy has now, which of these learn, and whose forward was replaced."""
        contents = [id(content) for part in self._contents for content in part.values()]
        learn = [parameter.requires_grad for parameter in self.parameters]
        return [*contents, *learn, *["forward" in vars(module) for module in self.modules]]

    @th.no_grad()
    def act(
        self, obs: Any, noise_EN: Array | None = None, deviations_EA: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Choose actions.

        :param obs: Observations of E environments
        :param noise_EN: ξ of a noisy pass to choose with, shape (E, N); by default it is the policy's clean pass
        :param deviations_EA: How many standard deviations actions are from their means, shape (E, A), for a Box space
        :return: Actions, and log π(a|s) of shape (E,)
        """
        deviations = None if deviations_EA is None else self.array(deviations_EA)
        obs = obs_as_tensor(obs, self.policy.device)
        actions, log_probs = self.policy(obs, noise_BN=noise_EN, deviations_BA=deviations)
        return self.numpy(actions), self.numpy(log_probs)

    @th.no_grad()
    def values(self, obs: Any) -> Array:
        """
        The critic's prediction V(s).

        :param obs: Observations, B rows
        :return: Shape (B,)
        """
        tensors = {key: self.array(part) for key, part in obs.items()} if isinstance(obs, dict) else self.array(obs)
        return self.policy.predict_values(tensors)[:, 0]

    @th.no_grad()
    def noisy_pass(self, obs: Any, actions: Array, noise_BN: Array) -> NoisyPass:
        """
        A noisy pass (Eq. 18 and 19).

        :param obs: Observations, B rows, or a part of them that is to be repeated
        :param actions: Actions, as many
        :param noise_BN: ξ, shape (B, N)
        :return: What comes of it
        """
        n_copies = len(noise_BN) // len(actions)
        return self.policy.noisy_pass(repeat_rows(obs, n_copies), repeat_rows(actions, n_copies), noise_BN)  # type: ignore[arg-type]

    def outer(self, post_BN: Array, pre: list[Array], n_envs: int) -> Array:
        """
        The sum of post ⊗ pre over each environment's rows, see
        :meth:`NodePerturbation.outer <sb3_nrl.perturbation.NodePerturbation.outer>`.
        """
        return self.policy.perturbation.outer(post_BN, pre, n_envs)


class _Layer(NamedTuple):
    """
    One layer of a multi-layer perceptron.

    :param module: The layer
    :param activation: What follows it, if anything
    :param nodes: Where its noise lies in the noise of the whole network, None if it is not perturbed
    :param weights: Where its weights lie in a trace of the whole network, None if they are frozen
    :param biases: Where its biases do, None if there are none or they are frozen
    """

    module: nn.Linear
    activation: Callable[[np.ndarray], np.ndarray] | None
    nodes: slice | None
    weights: slice | None
    biases: slice | None


class NumpyNetwork(TorchNetwork):
    """
    A multi-layer perceptron's passes without PyTorch, whose overhead per operation would be most of the time with a few
    environments. Reads the weights where the policy keeps them.

    :param policy: A policy that :meth:`suits`
    """

    def __init__(self, policy: NoisyPolicy) -> None:
        super().__init__(policy)
        self.addresses: list[int] = []
        perturbation = policy.perturbation
        nodes = {site.layer: site.nodes for site in perturbation.sites}
        places: dict[th.Tensor, slice] = {
            parameter: slice(gradient.storage_offset(), gradient.storage_offset() + gradient.numel())
            for parameter, gradient in zip(perturbation.parameters, self.gradients, strict=True)
        }
        self.actor_layers, self.critic_layers = (
            [
                _Layer(
                    module,
                    _activation(following),
                    nodes.get(module),
                    places.get(module.weight),
                    places.get(module.bias),
                )
                for module, following in zip(modules, [*modules[1:], None], strict=False)
                if isinstance(module, nn.Linear)
            ]
            for modules in (_actor_in_order(policy), _critic_in_order(policy))
        )
        self.log_std: _Layer | None = None
        if isinstance(policy.action_space, spaces.Box):
            module = policy.log_std_net
            self.log_std = _Layer(module, None, nodes.get(module), places.get(module.weight), None)
        self.leaky = [module for module in self.modules if isinstance(module, nn.LeakyReLU)]
        self.slopes = [module.negative_slope for module in self.leaky]

    @staticmethod
    def suits(policy: NoisyPolicy) -> bool:
        """Whether the policy is on the CPU, flattens its observations, and was not changed in ways unknown here."""
        space = policy.observation_space
        return (
            all(getattr(type(policy), name) is getattr(NoisyPolicy, name) for name in _REPLACED)
            and not any(name in vars(policy) for name in _REPLACED)
            and policy.action_net.weight.device.type == "cpu"
            and isinstance(policy.action_space, spaces.Discrete | spaces.Box)
            and type(policy.features_extractor) is FlattenExtractor
            and isinstance(space, spaces.Box)
            and not (policy.normalize_images and is_image_space(space))
            and type(policy.hidden_net) is nn.Sequential
            and _is_perceptron(_actor_in_order(policy))
            and (not policy.critic or _is_plain_critic(policy))
            and not _have_hooks(policy.modules())
            and not any("forward" in vars(module) for module in policy.modules())
        )

    def is_outdated(self) -> bool:
        return (
            super().is_outdated()
            or [module.negative_slope for module in self.leaky] != self.slopes
            or _have_hooks(self.modules)
        )

    def _find_weights(self) -> None:
        """Look at the weights where they are now: training changes them in place, but others may replace them."""
        addresses = [parameter.data_ptr() for parameter in self.parameters]
        if addresses != self.addresses:
            self.addresses = addresses
            self.arrays = [parameter.data.numpy() for parameter in self.policy.perturbation.parameters]
            self.actor_steps, self.critic_steps = (
                [
                    (
                        layer.module.weight.data.numpy().T,
                        None if layer.module.bias is None else layer.module.bias.data.numpy(),
                        layer.nodes,
                        layer.activation,
                    )
                    for layer in layers
                ]
                for layers in (self.actor_layers, self.critic_layers)
            )

    def array(self, values: np.ndarray | th.Tensor) -> Array:
        return np.asarray(values)

    def numpy(self, values: Array) -> np.ndarray:
        return values

    def weights(self) -> list[Array]:
        self._find_weights()
        return self.arrays

    def sample_noise(self, n_rows: int, n_samples: int = 1) -> Array:
        return self.policy.sample_noise(n_rows, n_samples).numpy()

    def _log_std(self, noise: np.ndarray | None) -> np.ndarray:
        assert self.log_std is not None
        log_std = self.log_std.module.weight.data.numpy().T
        return log_std if noise is None or self.log_std.nodes is None else log_std + noise[:, self.log_std.nodes]

    def act(
        self, obs: Any, noise_EN: Array | None = None, deviations_EA: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        self._find_weights()
        n_passes = 1 if noise_EN is not None else self.policy.clean_passes or 1
        if n_passes > 1:
            obs = np.concatenate([obs] * n_passes)
            noise_EN = self.sample_noise(len(obs))
        outputs = _run(self.actor_steps, obs, noise_EN)
        if self.log_std is None:
            logits = _mean_categorical(outputs, n_passes) if n_passes > 1 else outputs
            return _draw_categorical(logits, self.policy.generator.random(len(logits)))
        assert deviations_EA is not None
        log_std = self._log_std(noise_EN)
        if n_passes > 1:
            outputs, log_std = (
                np.broadcast_to(values, outputs.shape).reshape(n_passes, -1, outputs.shape[1]).mean(axis=0)
                for values in (outputs, log_std)
            )
        require_finite(bool(np.isfinite(outputs).all()))
        return outputs + _std(log_std) * deviations_EA, _log_gaussian(deviations_EA, log_std)

    def values(self, obs: Any) -> Array:
        self._find_weights()
        n_passes = self.policy.clean_passes
        if n_passes is None:
            return _run(self.critic_steps, obs, None)[:, 0]
        obs = np.concatenate([obs] * n_passes)
        return _run(self.critic_steps, obs, self.sample_noise(len(obs))).reshape(n_passes, -1).mean(axis=0)

    def noisy_pass(self, obs: Any, actions: Array, noise_BN: Array) -> NoisyPass:
        self._find_weights()
        n_copies = len(noise_BN) // len(actions)
        if n_copies > 1:
            obs, actions = (np.concatenate([rows] * n_copies) for rows in (obs, actions))
        received: list[np.ndarray] = []
        outputs = _run(self.actor_steps, obs, noise_BN, received)
        if self.log_std is None:
            log_probs = _log_categorical(outputs, actions)
        else:
            log_std = self._log_std(noise_BN)
            log_probs = _log_gaussian((actions - outputs) / _std(log_std), log_std)
            if self.log_std.nodes is not None:
                received.append(np.ones((len(outputs), 1), np.float32))
        values = [_run(self.critic_steps, obs, noise_BN, received)[:, 0]] if self.critic_layers else []
        return NoisyPass([log_probs, *values], received)

    def outer(self, post_BN: Array, pre: list[Array], n_envs: int) -> Array:
        sum_EW = np.empty((n_envs, len(self.gradient_W)), np.float32)
        post_ENB = post_BN.reshape(-1, n_envs, post_BN.shape[1]).transpose(1, 2, 0)
        layers = (*self.actor_layers, *([] if self.log_std is None else [self.log_std]), *self.critic_layers)
        perturbed = [layer for layer in layers if layer.nodes is not None]
        for layer, received in zip(perturbed, pre, strict=True):
            post_EOB = post_ENB[:, layer.nodes]
            if layer.weights is not None:
                pre_EBI = received.reshape(-1, n_envs, received.shape[1]).swapaxes(0, 1)
                sum_EW[:, layer.weights] = (post_EOB @ pre_EBI).reshape(n_envs, -1)
            if layer.biases is not None:
                sum_EW[:, layer.biases] = post_EOB.sum(2)
        return sum_EW


def _actor_in_order(policy: NoisyPolicy) -> list[nn.Module]:
    return [*policy.hidden_net, policy.action_net]


def _critic_in_order(policy: NoisyPolicy) -> list[nn.Module]:
    return [*policy.vf_hidden_net, policy.value_net] if policy.critic else []


def _is_plain_critic(policy: NoisyPolicy) -> bool:
    return (
        type(policy.vf_features_extractor) is FlattenExtractor
        and type(policy.vf_hidden_net) is nn.Sequential
        and _is_perceptron(_critic_in_order(policy))
        and not {id(p) for p in policy.vf_hidden_net.parameters()} & {id(p) for p in policy.hidden_net.parameters()}
    )


def _run(
    steps: list[tuple[Any, ...]], obs: np.ndarray, noise: np.ndarray | None, received: list[np.ndarray] | None = None
) -> np.ndarray:
    """A head's pre-activations; notes what each perturbed layer received."""
    x = obs.reshape(len(obs), -1).astype(np.float32, copy=False)
    for weight, bias, nodes, activation in steps:
        if received is not None and nodes is not None:
            received.append(x)
        x = np.dot(x, weight)
        if bias is not None:
            x += bias
        if noise is not None and nodes is not None:
            x += noise[:, nodes]
        if activation is not None:
            x = activation(x)
    return x


def _is_perceptron(modules: list[nn.Module]) -> bool:
    """Whether these are linear layers of their own, each but the last followed by an activation function or none."""
    linear = [module for module in modules if type(module) is nn.Linear]
    weights = {id(parameter) for layer in linear for parameter in layer.parameters()}
    return (
        type(modules[0]) is nn.Linear
        and type(modules[-1]) is nn.Linear
        and all(type(module) in (nn.Linear, *_ACTIVATIONS) for module in modules)
        and all(nn.Linear in (type(one), type(two)) for one, two in pairwise(modules))
        and len(weights) == sum(1 if layer.bias is None else 2 for layer in linear)
    )


def _have_hooks(modules: Iterable[nn.Module]) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def _activation(module: nn.Module | None) -> Callable[[np.ndarray], np.ndarray] | None:
    if isinstance(module, nn.LeakyReLU):
        return partial(_leaky_relu, module.negative_slope)
    if isinstance(module, nn.ReLU):
        return _relu
    return np.tanh if isinstance(module, nn.Tanh) else None


def _leaky_relu(slope: float, h: np.ndarray) -> np.ndarray:
    return np.maximum(h, slope * h) if slope <= 1 else np.minimum(h, slope * h)


def _relu(h: np.ndarray) -> np.ndarray:
    return np.maximum(h, 0)


def _draw(logits: list[float], chance: float) -> tuple[int, float]:
    """The action at a place in [0, 1) of the cumulative probabilities, and the logarithm of its probability."""
    highest = max(logits)
    odds = [math.exp(logit - highest) for logit in logits]
    total = sum(odds)
    require_finite(math.isfinite(total) and min(logits) > -math.inf)
    left = chance * total
    action = 0
    while action < len(odds) - 1 and left >= odds[action]:
        left -= odds[action]
        action += 1
    return action, math.log(odds[action] / total)


def _draw_categorical(logits: np.ndarray, chances_E: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if logits.size <= _FEW:
        drawn = [_draw(row, chance) for row, chance in zip(logits.tolist(), chances_E.tolist(), strict=True)]
        return np.array([action for action, _ in drawn]), np.array([log_prob for _, log_prob in drawn], np.float32)
    require_finite(bool(np.isfinite(logits).all()))
    odds_EA = _exp(logits - np.maximum.reduce(logits, axis=1, keepdims=True))
    cumulative = np.add.accumulate(odds_EA, axis=1)
    total_E = cumulative[:, -1]
    actions = (cumulative > (chances_E * total_E)[:, None]).argmax(axis=1)
    return actions, np.log(odds_EA[np.arange(len(logits)), actions] / total_E)


def _log_categorical(logits: np.ndarray, actions: np.ndarray) -> np.ndarray:
    logits = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
    return logits[np.arange(len(logits)), actions] - np.log(np.add.reduce(_exp(logits), axis=1))


def _mean_categorical(logits: np.ndarray, n_passes: int) -> np.ndarray:
    """Logits of the mean of several passes' probabilities."""
    logits = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
    log_probs = (logits - np.log(np.add.reduce(_exp(logits), axis=1, keepdims=True))).reshape(
        n_passes, -1, logits.shape[1]
    )
    highest = np.maximum.reduce(log_probs, axis=0)
    return highest + np.log(np.add.reduce(_exp(log_probs - highest), axis=0))


def _std(log_std: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        std = _exp(log_std)
    require_finite(bool(np.isfinite(std).all() and (std > 0).all()))
    return std


def _exp(x: np.ndarray) -> np.ndarray:
    """Whoever lets NumPy raise its errors does not mean that improbable actions are one."""
    with np.errstate(under="ignore"):
        return np.exp(x)


def _log_gaussian(z: np.ndarray, log_std: np.ndarray) -> np.ndarray:
    """Logarithm of the density at ``z`` standard deviations from the mean."""
    return (-0.5 * (z * z + math.log(2 * math.pi)) - log_std).sum(axis=1)
