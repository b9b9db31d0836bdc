"""The policy: an actor and a critic whose nodes can be perturbed.

Shapes: B rows of a batch, E environments, K noise samples, N nodes of both networks, A components of an action, W
weights and biases that learn.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_nrl.arrays import Array, ArrayNamespace, Observations, map_observations, n_rows, repeat_batch
from sb3_nrl.checks import check, is_count, is_number
from sb3_nrl.distributions import make_distribution
from sb3_nrl.layers import Dense, FlatFeatures, ForeignModule, GaussianHead, Layer
from sb3_nrl.network import Network
from sb3_nrl.noise import Noise

_EXTENT = 3.0
"""Largest size of an example observation: enough to differ, too little to saturate an activation function."""


class Part(NamedTuple):
    """
    Where the actor, or the critic, lies among all nodes and weights.

    :param nodes: Its nodes
    :param weights: Its weights and biases that learn
    :param layer_nodes: The nodes of each of its layers
    """

    nodes: slice
    weights: slice
    layer_nodes: list[slice]

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return self.nodes.stop - self.nodes.start


class NoisyPass(NamedTuple):
    """
    What a pass through actor and critic gives.

    :param objectives: What each network is to increase: log π(a|s) and, with a critic, its value V(s); shape (B,) each
    :param received: Pre-synaptic activity x̃ of each layer, the actor's first
    :param potentials: Pre-activations h of each layer, the actor's first
    """

    objectives: list[Array]
    received: list[Any]
    potentials: list[Array]


class NoisyPolicy(BasePolicy):
    """
    An actor and, unless a running average predicts the rewards, a critic: two modules that share nothing, made of
    layers that noise can be added to.

    Actor and critic each have features, hidden layers and a head (:class:`~sb3_nrl.network.Network`). On the CPU they
    run in NumPy if all layers do, else in PyTorch; calling the policy always uses PyTorch. Modules stay in evaluation
    mode: dropout does nothing, and batch normalization uses its stored statistics.

    A subclass that wants other layers overrides :meth:`make_layer`.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule
    :param net_arch: Widths of the hidden layers of actor and critic, ``[64]`` by default, ``[]`` for none; or
        ``dict(pi=[...], vf=[...])``
    :param activation_fn: Activation function after each hidden layer, tanh by default
    :param use_bias: Whether hidden layers and heads have biases
    :param head_gain: Factor on the initial weights of the heads. A large one starts in a policy that prefers some
        actions; where these never reach a reward, nothing is learned
    :param log_std_init: Initial log standard deviation of continuous actions, in the units of the actions
    :param action_correlation: Correlation, in [0, 1), between the random parts of successive continuous actions during
        training; larger values explore in one direction for longer. log π(a|s) stays that of a single action, which is
        a bias
    :param noise: Noise of the nodes, None for none
    :param n_baseline_passes: None: actions and values come from a clean pass. N: they come from the mean of N noisy
        passes (section 3.3), for hardware that cannot do without noise
    :param critic: Whether there is a critic
    :param features_extractor_class: Features extractor; by default the observation is flattened
    :param features_extractor_kwargs: Keyword arguments of the features extractor
    :param normalize_images: Whether to divide images by 255
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
        activation_fn: Callable[[], nn.Module] = nn.Tanh,
        use_bias: bool = True,
        head_gain: float = 0.01,
        log_std_init: float = 0.0,
        action_correlation: float = 0.0,
        noise: Noise | None = None,
        n_baseline_passes: int | None = None,
        critic: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class or self.default_features_extractor,
            features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self.net_arch = [64] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.use_bias = use_bias
        self.head_gain = head_gain
        self.log_std_init = log_std_init
        self.action_correlation = action_correlation
        self.noise = noise
        self.n_baseline_passes = n_baseline_passes
        self._check_arguments(critic)

        widths = self.net_arch if isinstance(self.net_arch, dict) else dict.fromkeys(("pi", "vf"), self.net_arch)
        self.action_dist = make_distribution(action_space)
        self.actor = self._make_network(widths["pi"], self.action_dist.n_outputs, isinstance(action_space, spaces.Box))
        self.critic = self._make_network(widths["vf"], 1) if critic else None
        self.eval()
        self.generator = np.random.default_rng(int(th.randint(2**62, ())))
        """Random numbers of the actions in training. An environment that seeds NumPy's would repeat its exploration."""
        groups = [{"params": list(network.parameters()), "critic": network is self.critic} for network in self.networks]
        self.optimizer = optimizer_class(groups, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
        self.refresh()

    def _check_arguments(self, critic: bool) -> None:
        shared = not isinstance(self.net_arch, dict)
        of_networks = [self.net_arch] if shared else list(self.net_arch.values())  # type: ignore[union-attr]
        are_widths = all(isinstance(widths, list | tuple) and all(map(is_count, widths)) for widths in of_networks)
        check(
            "net_arch",
            self.net_arch,
            are_widths and (shared or (critic and set(self.net_arch) == {"pi", "vf"})),
            "a list of hidden layers' widths" + (", or dict(pi=[...], vf=[...])" if critic else " (there is no critic)"),
        )
        check("use_bias", self.use_bias, isinstance(self.use_bias, bool), "True or False")
        positive = is_number(self.head_gain, 0)
        check("head_gain", self.head_gain, positive, "positive, or layers before the head would not learn")
        check("log_std_init", self.log_std_init, is_number(self.log_std_init, -math.inf), "finite")
        correlation = self.action_correlation
        valid = correlation == 0 or (is_number(correlation, 0) and correlation < 1)
        check("action_correlation", correlation, valid, "in [0, 1)")
        if not isinstance(self.action_space, spaces.Box):
            for name in ("log_std_init", "action_correlation"):
                check(name, getattr(self, name), getattr(self, name) == 0, "0 but for Box actions")

    def _make_network(self, widths: Sequence[int], n_outputs: int, is_gaussian: bool = False) -> Network:
        extractor = self.make_features_extractor()
        is_flat = type(extractor) is FlattenExtractor or (
            type(extractor) is CombinedExtractor and not any(True for _ in extractor.parameters())
        )
        features: Layer
        if is_flat:
            features = FlatFeatures(self.observation_space, self.normalize_images)
        else:
            preprocess = partial(
                preprocess_obs, observation_space=self.observation_space, normalize_images=self.normalize_images
            )
            features = ForeignModule(extractor, preprocess, _examples(self.observation_space, 3))
        n_inputs = [extractor.features_dim, *widths]
        hidden = [
            self.make_layer(inputs, outputs, self.activation_fn())
            for inputs, outputs in zip(n_inputs[:-1], widths, strict=True)
        ]
        head = self.make_layer(n_inputs[-1], n_outputs // 2 if is_gaussian else n_outputs, None)
        for layer in (*hidden, head):
            nn.init.xavier_normal_(layer.weight, gain=self.head_gain if layer is head else 1.0)
            if self.use_bias:
                nn.init.zeros_(layer.bias)
        if not is_gaussian:
            return Network(features, hidden, head)
        log_std = Dense(1, n_outputs // 2, bias=False)
        nn.init.constant_(log_std.weight, self.log_std_init)
        return Network(features, hidden, GaussianHead(head, log_std))

    def make_layer(self, n_inputs: int, n_outputs: int, activation: nn.Module | None) -> Dense:
        """
        Make a hidden layer, or the linear layer of a head. Its initial weights are set afterwards.

        :param n_inputs: Number of inputs I
        :param n_outputs: Number of nodes O
        :param activation: Activation function, None for a head
        :return: The layer
        """
        return Dense(n_inputs, n_outputs, self.use_bias, activation)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = (
            *("net_arch", "activation_fn", "use_bias", "head_gain", "log_std_init", "action_correlation"),
            *("noise", "n_baseline_passes", "features_extractor_class", "features_extractor_kwargs"),
            *("optimizer_class", "optimizer_kwargs"),
        )
        return {
            **super()._get_constructor_parameters(),
            "lr_schedule": self._dummy_schedule,
            "critic": self.critic is not None,
            **{name: getattr(self, name) for name in names},
        }

    @property
    def networks(self) -> list[Network]:
        """The actor and, if there is one, the critic."""
        return [self.actor] if self.critic is None else [self.actor, self.critic]

    def refresh(self) -> bool:
        """
        Look anew at the networks: which layers they have, what is trainable, and whether NumPy can run them. ``learn``
        does this at its start. Call it after changing any of that in a callback.

        :return: Whether other parameters learn than before
        :raises ValueError: If a trainable parameter would never learn, or belongs to both networks
        """
        before = self.learnable if "learnable" in vars(self) else None
        self.learnable: list[nn.Parameter] = []
        self.parts: list[Part] = []
        node = weight = 0
        for network in self.networks:
            network.refresh()
            self.learnable += network.learnable
            ends = node + network.n_nodes, weight + sum(parameter.numel() for parameter in network.learnable)
            layers = [slice(node + nodes.start, node + nodes.stop) for nodes in network.layer_nodes]
            self.parts.append(Part(slice(node, ends[0]), slice(weight, ends[1]), layers))
            node, weight = ends
        if node == 0:
            raise ValueError("Nothing is left to learn: no layer of the policy has requires_grad.")
        if len(set(self.learnable)) < len(self.learnable):
            raise ValueError("Actor and critic must not share layers.")
        self.n_nodes, self.n_weights = node, weight
        self._sizes = [part.n_nodes for part in self.parts]
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.parameters())
        self._in_numpy = on_cpu and all(network.runs_in_numpy for network in self.networks)
        shapes = [None if parameters is None else [p.shape for p in parameters] for parameters in (before, self.learnable)]
        return shapes[0] != shapes[1]

    @property
    def xp(self) -> ArrayNamespace:
        """What training computes with: ``numpy`` or ``torch``."""
        return np if self._in_numpy else th

    def array(self, values: np.ndarray | th.Tensor, xp: ArrayNamespace | None = None) -> Array:
        """Values as an array of ``xp`` on the policy's device, without a copy where that is possible."""
        if (xp or self.xp) is th:
            return th.as_tensor(values, device=self.learnable[0].device)
        return values.numpy() if isinstance(values, th.Tensor) else np.asarray(values)

    def numpy(self, values: Array) -> np.ndarray:
        """The way back."""
        return values if self._in_numpy else values.cpu().numpy()

    def sample_noise(self, n_rows: int, n_samples: int = 1) -> Array:
        """
        Draw the noise ξ of all nodes.

        :param n_rows: Number of rows B of the observations
        :param n_samples: Number of samples K for each
        :return: Shape (K · B, N), all rows of a sample side by side
        """
        assert self.noise is not None
        return self.array(self.noise.sample(n_samples, n_rows, self._sizes, self.learnable[0].device))

    def act(
        self, obs: Observations, draws_EA: np.ndarray, noise_EN: Array | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Choose actions in training.

        :param obs: Observations of E environments
        :param draws_EA: Random numbers to choose by, as ``action_dist.draw`` gives them
        :param noise_EN: ξ of a noisy pass to choose with; by default the pass is a clean one, or the mean of
            ``n_baseline_passes`` noisy ones
        :return: Actions, shape (E, ...), and log π(a|s), shape (E,)
        :raises FloatingPointError: If the network's outputs are not finite
        """
        if self._in_numpy:
            return self._act(np, obs, draws_EA, noise_EN)
        with th.no_grad():
            actions, log_probs = self._act(th, map_observations(self.array, obs), self.array(draws_EA), noise_EN)
        return self.numpy(actions), self.numpy(log_probs)

    def _act(
        self, xp: ArrayNamespace, obs: Observations, draws_EA: Array, noise_EN: Array | None
    ) -> tuple[Array, Array]:
        if noise_EN is not None:
            outputs, _, _ = self.actor.run(xp, obs, noise_EN[:, self.parts[0].nodes])
        elif self.n_baseline_passes is None:
            outputs, _, _ = self.actor.run(xp, obs)
        else:
            return self.action_dist.choose(xp, self._action_parameters(xp, obs), draws_EA)
        return self.action_dist.act(xp, outputs, draws_EA)

    def values(self, obs: Observations) -> np.ndarray:
        """
        The critic's V(s) in training.

        :param obs: Observations, B rows
        :return: Shape (B,)
        """
        if self._in_numpy:
            return self._values(np, obs)
        with th.no_grad():
            return self._values(th, map_observations(self.array, obs)).cpu().numpy()

    def noisy_pass(
        self, obs: Observations, actions: Array, noise_BN: Array, xp: ArrayNamespace | None = None
    ) -> NoisyPass:
        """
        A pass with noise through actor and critic (Eq. 18 and 19).

        :param obs: Observations; if the noise has more rows, they are repeated as a whole
        :param actions: Actions, as many
        :param noise_BN: ξ of all nodes
        :param xp: ``torch`` for a pass that autograd can follow; by default ``self.xp``
        :return: The pass
        """
        xp = xp or self.xp
        n_copies = len(noise_BN) // len(actions)
        obs = repeat_batch(xp, map_observations(partial(self.array, xp=xp), obs), n_copies)
        actions = repeat_batch(xp, self.array(actions, xp), n_copies)
        outputs, received, potentials = self.actor.run(xp, obs, noise_BN[:, self.parts[0].nodes])
        objectives = [self.action_dist.log_prob(xp, self.action_dist.parameters(xp, outputs), actions)]
        if self.critic is not None:
            values, *of_critic = self.critic.run(xp, obs, noise_BN[:, self.parts[1].nodes])
            objectives.append(values[:, 0])
            received += of_critic[0]
            potentials += of_critic[1]
        return NoisyPass(objectives, received, potentials)

    def outer(self, post_BN: Array, received: list[Any], n_envs: int) -> Array:
        """
        Sum post ⊗ pre over the rows of each environment (Eq. 17 and 21).

        :param post_BN: Post-synaptic factor of each node; the rows of one time step are adjacent, in the order of the
            environments
        :param received: Pre-synaptic activity of each layer, as ``noisy_pass`` gives it
        :param n_envs: Number of environments E
        :return: The sums, shape (E, W)
        """
        sums, start = [], 0
        for network, part in zip(self.networks, self.parts, strict=True):
            stop = start + len(network.layer_nodes)
            sums += network.outer(self.xp, post_BN[:, part.nodes], received[start:stop], n_envs)
            start = stop
        return self.xp.concatenate(sums, axis=1)

    def _action_parameters(self, xp: ArrayNamespace, obs: Observations) -> Array:
        """Parameters of the distribution that actions come from."""
        if self.n_baseline_passes is None:
            return self.action_dist.parameters(xp, self.actor.run(xp, obs)[0])
        parameters = self.action_dist.parameters(xp, self._baseline_outputs(xp, self.actor, self.parts[0], obs))
        return self.action_dist.mean(xp, parameters, self.n_baseline_passes)

    def _values(self, xp: ArrayNamespace, obs: Observations) -> Array:
        if self.critic is None:
            raise ValueError('This policy predicts no values: only one of reward_prediction="critic" does.')
        if self.n_baseline_passes is None:
            return self.critic.run(xp, obs)[0][:, 0]
        outputs = self._baseline_outputs(xp, self.critic, self.parts[1], obs)
        return outputs.reshape(self.n_baseline_passes, -1).mean(0)

    def _baseline_outputs(self, xp: ArrayNamespace, network: Network, part: Part, obs: Observations) -> Array:
        assert self.n_baseline_passes is not None
        noise = self.sample_noise(self.n_baseline_passes * n_rows(obs))[:, part.nodes]
        noise = th.as_tensor(noise) if xp is th else noise
        return network.run(xp, repeat_batch(xp, obs, self.n_baseline_passes), noise)[0]

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Choose actions, as the actor-critic policies of Stable-Baselines3 do.

        :param obs: Observations, B rows
        :param deterministic: Whether to take the likeliest actions rather than to draw them
        :return: Actions, shape (B, ...); V(s), shape (B, 1), which is 0 without a critic; log π(a|s), shape (B,)
        """
        parameters = self._action_parameters(th, obs)
        if deterministic:
            actions = self.action_dist.mode(th, parameters)
        else:
            actions = self.action_dist.sample(th, parameters, self.action_dist.draw_like(parameters))
        log_probs = self.action_dist.log_prob(th, parameters, actions)
        values = log_probs.new_zeros(len(log_probs), 1) if self.critic is None else self.predict_values(obs)
        if isinstance(self.action_space, spaces.Box):
            actions = actions.reshape(-1, *self.action_space.shape)
        return actions, values, log_probs

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self(observation, deterministic)[0]

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
        return self._values(th, obs)[:, None]

    def evaluate_actions(
        self, obs: PyTorchObs, actions: th.Tensor
    ) -> tuple[th.Tensor | None, th.Tensor, th.Tensor | None]:
        """
        Evaluate actions, as in Stable-Baselines3.

        :param obs: Observations, B rows
        :param actions: Actions, B rows
        :return: V(s) of shape (B, 1), None without a critic; log π(a|s), shape (B,); the entropy of π(·|s), shape (B,)
        """
        parameters = self._action_parameters(th, obs)
        values = None if self.critic is None else self.predict_values(obs)
        if isinstance(self.action_space, spaces.Box):
            actions = actions.flatten(1)
        log_probs = self.action_dist.log_prob(th, parameters, actions)
        return values, log_probs, self.action_dist.entropy(th, parameters)


class NoisyCnnPolicy(NoisyPolicy):
    """A :class:`NoisyPolicy` for images: the default features extractor is ``NatureCNN``."""

    default_features_extractor = NatureCNN


class NoisyMultiInputPolicy(NoisyPolicy):
    """A :class:`NoisyPolicy` for ``Dict`` observations: the default features extractor is ``CombinedExtractor``."""

    default_features_extractor = CombinedExtractor


def _examples(space: spaces.Space, n: int) -> PyTorchObs:
    """
    A batch of random observations, always the same. Neighbours differ, and none is so large that a network could not
    tell it from others.
    """
    if isinstance(space, spaces.Dict):
        return {key: cast("th.Tensor", _examples(part, n)) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        low = np.maximum(space.low, -_EXTENT)
        high = np.maximum(np.minimum(space.high, _EXTENT), low + 1)
        rows = np.random.default_rng(0).uniform(low, high, (n, *space.shape)).astype(np.float32)
    else:
        space = deepcopy(space)  # the environment may draw from it
        space.seed(0)
        drawn = (np.asarray(space.sample()) for _ in range(10 * n))
        different = list({row.tobytes(): row for row in drawn}.values())
        rows = np.stack([different[place % len(different)] for place in range(n)])
    return th.as_tensor(rows)
