"""The policies: construction of actor and critic, and the interface of Stable-Baselines3's policies.

Shapes: B rows of a batch.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_nrl.arrays import map_observations
from sb3_nrl.checks import check, is_count, is_number, makes_plain_module
from sb3_nrl.distributions import make_distribution
from sb3_nrl.features import GridCnn
from sb3_nrl.layers import Dense, FlatFeatures, ForeignModule, GaussianHead, Layer
from sb3_nrl.layers.base import Perturbs
from sb3_nrl.layers.module import example_observations
from sb3_nrl.network import Network
from sb3_nrl.noise import Noise
from sb3_nrl.normalization import ObservationNormalizer
from sb3_nrl.perturbation import PerturbablePolicy


class NoisyPolicy(PerturbablePolicy):
    """
    An actor and, unless a running average predicts the rewards, a critic. The two networks share no parameters that
    learn, and noise can be added to their layers.

    Actor and critic each have features, hidden layers and a head (:class:`~sb3_nrl.network.Network`). On the CPU they
    run in NumPy if all layers do, else in PyTorch; calling the policy always uses PyTorch. Modules stay in evaluation
    mode: dropout does nothing, and batch normalization uses its stored statistics.

    A subclass that wants other layers overrides :meth:`make_layer`. Training calls ``act``, ``values``,
    ``sample_noise``, ``noisy_pass`` and ``outer``. Stable-Baselines3 and users call :meth:`forward`,
    :meth:`get_distribution`, :meth:`predict_values` and :meth:`evaluate_actions`, which training does not use.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule
    :param net_arch: Widths of the hidden layers of actor and critic, ``[]`` for none; or ``dict(pi=[...], vf=[...])``,
        in which a missing entry means no hidden layers. By default ``[32, 32]`` with continuous actions and without
        memory and spikes, else ``[64]``
    :param activation_fn: Activation function after each hidden layer, by default ``nn.LeakyReLU`` with continuous
        actions, else ``nn.Tanh``
    :param use_bias: Whether hidden layers and heads have biases
    :param head_gain: Factor on the initial weights of the heads. With a large factor, the initial policy prefers some
        actions. If these never reach a reward, nothing is learned
    :param log_std_init: Initial log standard deviation of continuous actions, in the units of the actions
    :param action_correlation: Correlation, in [0, 1), between the random parts of successive continuous actions during
        training, by default 0.9; larger values keep the direction of exploration for longer. The updates use log π(a|s)
        without the correlation, which biases them
    :param noise: Noise, None for none
    :param perturbs: What the learning rule perturbs, ``"node"`` or ``"weight"``; ``"any"`` if it has gradients instead
    :param n_baseline_passes: None: actions and values come from a clean pass. N: they come from the mean of N noisy
        passes (section 3.3), for hardware that is always noisy
    :param critic: Whether there is a critic
    :param norm_obs: Whether the networks normalise observations by their running mean and standard deviation
    :param features_extractor_class: Features extractor; by default the observation is flattened
    :param features_extractor_kwargs: Keyword arguments of the features extractor
    :param normalize_images: Whether to divide images by 255
    :param share_features_extractor: Must be False: actor and critic have separate features extractors
    :param optimizer_class: Optimizer, Adam by default
    :param optimizer_kwargs: Keyword arguments of the optimizer, except the learning rate
    :raises ValueError: If an argument is out of range, or if a trainable parameter would never learn
    """

    default_features_extractor: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: Sequence[int] | dict[str, Sequence[int]] | None = None,
        activation_fn: Callable[[], nn.Module] | None = None,
        use_bias: bool = True,
        head_gain: float = 0.01,
        log_std_init: float = 0.0,
        action_correlation: float | None = None,
        noise: Noise | None = None,
        perturbs: Perturbs = "node",
        n_baseline_passes: int | None = None,
        critic: bool = False,
        norm_obs: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        share_features_extractor: bool = False,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if features_extractor_class is None:
            features_extractor_class = self.default_features_extractor
            is_image = is_image_space(observation_space, normalized_image=not normalize_images)
            if features_extractor_class is NatureCNN and not is_image and GridCnn.fits(observation_space):
                features_extractor_class = GridCnn
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        check("share_features_extractor", share_features_extractor, not share_features_extractor, "False")
        is_continuous = isinstance(action_space, spaces.Box)
        self.net_arch = self.default_net_arch() if net_arch is None else net_arch
        self.activation_fn = activation_fn or (nn.LeakyReLU if is_continuous else nn.Tanh)
        self.use_bias = use_bias
        self.head_gain = head_gain
        self.log_std_init = log_std_init
        self.action_correlation = (0.9 if is_continuous else 0.0) if action_correlation is None else action_correlation
        self.noise = noise
        self.perturbs = perturbs
        self.n_baseline_passes = n_baseline_passes
        self._check_arguments(critic)

        shared = [] if isinstance(self.net_arch, dict) else self.net_arch
        widths = {"pi": shared, "vf": shared, **(self.net_arch if isinstance(self.net_arch, dict) else {})}
        self.action_dist = make_distribution(action_space)
        normalizer = ObservationNormalizer(observation_space, normalize_images) if norm_obs else None
        self.actor = self._make_network(widths["pi"], self.action_dist.n_outputs, normalizer, is_critic=False)
        self.critic = self._make_network(widths["vf"], 1, normalizer, is_critic=True) if critic else None
        self.eval()
        self.generator = np.random.default_rng(int(th.randint(2**62, ())))
        """Random generator of actions in training. It is not NumPy's global one, which an environment may seed."""
        self.refresh()
        groups = [{"params": list(self.actor.parameters()), "critic": False}]
        if self.critic is not None:
            of_actor = set(self.actor.parameters())  # actor and critic may share frozen parameters
            groups.append({"params": [p for p in self.critic.parameters() if p not in of_actor], "critic": True})
        kwargs: Any = {"fused": True} if optimizer_class is th.optim.Adam and optimizer_kwargs is None else {}
        self.optimizer = optimizer_class(groups, lr=lr_schedule(1), **kwargs, **self.optimizer_kwargs)  # type: ignore[call-arg]

    @classmethod
    def default_n_steps(cls, n_envs: int) -> int:
        """Steps of each environment between updates unless ``n_steps`` is given."""
        return max(8, 128 // n_envs) if cls.default_features_extractor is FlattenExtractor else 32

    def default_net_arch(self) -> list[int]:
        """Widths of the hidden layers unless ``net_arch`` is given."""
        return [32, 32] if isinstance(self.action_space, spaces.Box) else [64]

    def _check_arguments(self, critic: bool) -> None:
        shared = not isinstance(self.net_arch, dict)
        of_networks = [self.net_arch] if shared else list(self.net_arch.values())  # type: ignore[union-attr]
        are_widths = all(isinstance(widths, list | tuple) and all(map(is_count, widths)) for widths in of_networks)
        check(
            "net_arch",
            self.net_arch,
            are_widths and (shared or set(self.net_arch) <= ({"pi", "vf"} if critic else {"pi"})),
            "a list of the widths of the hidden layers, or "
            + ("dict(pi=[...], vf=[...])" if critic else "dict(pi=[...]) (there is no critic)"),
        )
        wanted = "a class of modules without parameters, such as nn.ReLU"
        check("activation_fn", self.activation_fn, makes_plain_module(self.activation_fn), wanted)
        check("use_bias", self.use_bias, isinstance(self.use_bias, bool), "True or False")
        check("head_gain", self.head_gain, is_number(self.head_gain, 0), "positive, or only the head would learn")
        check("log_std_init", self.log_std_init, is_number(self.log_std_init, -math.inf), "finite")
        correlation = self.action_correlation
        valid = correlation == 0 or (is_number(correlation, 0) and correlation < 1)
        check("action_correlation", correlation, valid, "in [0, 1)")
        if not isinstance(self.action_space, spaces.Box):
            for name in ("log_std_init", "action_correlation"):
                check(name, getattr(self, name), getattr(self, name) == 0, "0 unless actions are a Box")

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """
        Make a features extractor. Initial weights of ``NatureCNN`` are orthogonal, as in A2C and PPO. With PyTorch's
        initial weights, features hardly depend on the image.
        """
        extractor = super().make_features_extractor()
        for module in extractor.modules():
            if type(module) is NatureCNN:
                module.apply(partial(self.init_weights, gain=math.sqrt(2)))
        return extractor

    @property
    def normalizer(self) -> ObservationNormalizer | None:
        """What normalises observations in actor and critic, None for nothing."""
        return self.actor.normalizer

    def _make_network(
        self, widths: Sequence[int], n_outputs: int, normalizer: ObservationNormalizer | None, is_critic: bool
    ) -> Network:
        extractor = self.make_features_extractor()
        is_flat = type(extractor) is FlattenExtractor or (
            type(extractor) is CombinedExtractor and not any(True for _ in extractor.parameters())
        )
        space, scales = self.observation_space, self.normalize_images
        if is_flat:
            features: Layer = FlatFeatures(space, scales)
        else:
            as_input = partial(preprocess_obs, observation_space=space, normalize_images=scales)
            features = ForeignModule(extractor, as_input, example_observations(space), shares_input=True)
        hidden = self.make_hidden_layers(extractor.features_dim, widths, is_critic)
        is_gaussian = isinstance(self.action_space, spaces.Box) and not is_critic
        n_inputs = [extractor.features_dim, *widths][-1]
        head = self.make_layer(n_inputs, n_outputs // 2 if is_gaussian else n_outputs, None)
        nn.init.xavier_normal_(head.weight, gain=self.head_gain)
        if self.use_bias:
            nn.init.zeros_(head.bias)
        if not is_gaussian:
            return Network(features, hidden, head, normalizer)
        log_std = Dense(1, n_outputs // 2, bias=False)
        nn.init.constant_(log_std.weight, self.log_std_init)
        return Network(features, hidden, GaussianHead(head, log_std), normalizer)

    def make_layer(self, n_inputs: int, n_outputs: int, activation: nn.Module | None) -> Dense:
        """
        Make a feed-forward hidden layer, or the linear layer of a head. The policy sets its initial weights.

        :param n_inputs: Number of inputs I
        :param n_outputs: Number of nodes O
        :param activation: Activation function, None for a head
        :return: The layer
        """
        return Dense(n_inputs, n_outputs, self.use_bias, activation)

    def make_hidden_layers(self, n_inputs: int, widths: Sequence[int], is_critic: bool) -> list[Layer]:
        """
        Make the hidden layers of the actor or of the critic, with their initial weights.

        :param n_inputs: Number of inputs I of the first layer
        :param widths: Number of nodes of each layer
        :param is_critic: Whether they are the critic's
        :return: The layers
        """
        layers: list[Layer] = []
        for n_outputs in widths:
            layer = self.make_layer(n_inputs, n_outputs, self.activation_fn())
            nn.init.xavier_normal_(layer.weight)
            if self.use_bias:
                nn.init.zeros_(layer.bias)
            layers.append(layer)
            n_inputs = n_outputs
        return layers

    def _get_constructor_parameters(self) -> dict[str, Any]:
        classes = type(self).__mro__[: type(self).__mro__.index(NoisyPolicy) + 1]
        names = {name for kind in classes for name in inspect.signature(kind).parameters}
        own = {name: vars(self)[name] for name in names & vars(self).keys()}
        both = {"critic": self.critic is not None, "norm_obs": self.normalizer is not None}
        return {**super()._get_constructor_parameters(), "lr_schedule": self._dummy_schedule, **own, **both}

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Choose actions, as the actor-critic policies of Stable-Baselines3 do.

        :param obs: Observations, B rows
        :param deterministic: Whether to take the most likely actions instead of sampling
        :return: Actions, shape (B, ...); V(s), shape (B, 1), which is 0 without a critic; log π(a|s), shape (B,)
        """
        parameters = self._action_parameters(th, obs)
        actions = self._choose(parameters, deterministic)
        log_probs = self.action_dist.log_prob(th, parameters, actions)
        values = log_probs.new_zeros(log_probs.shape[0], 1) if self.critic is None else self.predict_values(obs)
        return self._as_space(actions), values, log_probs

    def _choose(self, parameters: th.Tensor, deterministic: bool) -> th.Tensor:
        """The most likely actions of a distribution, or sampled ones."""
        if deterministic:
            return self.action_dist.mode(th, parameters)
        return self.action_dist.sample(th, parameters, self.action_dist.draw_like(parameters))

    def _as_space(self, actions: th.Tensor) -> th.Tensor:
        """Actions in the shape of the action space."""
        return actions.reshape(-1, *self.action_space.shape) if isinstance(self.action_space, spaces.Box) else actions

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        self.renew_arrays()
        xp = self.xp if self.device.type == "cpu" else th
        parameters = th.as_tensor(
            self._action_parameters(xp, map_observations(partial(self.array, xp=xp), observation))
        )
        self._check_outputs(parameters)
        return self._as_space(self._choose(parameters, deterministic))

    @staticmethod
    def _check_outputs(outputs: th.Tensor) -> None:
        """Refuse to predict from NaN, as the distributions of Stable-Baselines3 do."""
        if outputs.isnan().any():
            raise ValueError("The network's outputs are NaN: observations, states and weights must be finite.")

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """
        The action distribution π, from a clean pass or the mean of ``n_baseline_passes`` noisy ones.

        :param obs: Observations, B rows
        :return: The distribution, as an object of Stable-Baselines3
        """
        return self.action_dist.to_sb3(self._action_parameters(th, obs))

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """
        The critic's V(s), from a clean pass or the mean of ``n_baseline_passes`` noisy ones.

        :param obs: Observations, B rows
        :return: Shape (B, 1)
        :raises ValueError: If there is no critic
        """
        return self._values(th, obs)[0][:, None]

    def evaluate_actions(
        self, obs: PyTorchObs, actions: th.Tensor
    ) -> tuple[th.Tensor | None, th.Tensor, th.Tensor | None]:
        """
        Evaluate actions, as in Stable-Baselines3.

        :param obs: Observations, B rows
        :param actions: Actions, B rows
        :return: V(s) of shape (B, 1), None without a critic; log π(a|s), shape (B,); the entropy of π, shape (B,)
        """
        parameters = self._action_parameters(th, obs)
        values = None if self.critic is None else self.predict_values(obs)
        if isinstance(self.action_space, spaces.Box):
            actions = actions.reshape(len(actions), -1)
        log_probs = self.action_dist.log_prob(th, parameters, actions)
        return values, log_probs, self.action_dist.entropy(th, parameters)


class NoisyCnnPolicy(NoisyPolicy):
    """
    A :class:`NoisyPolicy` for images, whose features are those of ``NatureCNN``; or for small grids, such as those of
    MinAtar, with :class:`~sb3_nrl.features.GridCnn`.
    """

    default_features_extractor = NatureCNN


class NoisyMultiInputPolicy(NoisyPolicy):
    """A :class:`NoisyPolicy` for ``Dict`` observations: the default features extractor is ``CombinedExtractor``."""

    default_features_extractor = CombinedExtractor
