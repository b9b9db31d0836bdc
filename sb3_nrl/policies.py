"""The policy that can be perturbed: features, hidden layers, action distribution.

Shapes: B rows of a batch, N nodes of the network, A components of an action.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    make_proba_distribution,
)
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.nn.functional import logsigmoid

from sb3_nrl.arrays import Array
from sb3_nrl.checks import check, is_count, is_number
from sb3_nrl.noise import sample_noise
from sb3_nrl.perturbation import NodePerturbation

_EXTENT = 3.0
"""How far examples of observations reach: far enough to differ, too little to saturate an activation function."""


class Part(NamedTuple):
    """
    A part of the policy, the actor or the critic.

    :param nodes: Its nodes, among all nodes
    :param weights: Its weights and biases that learn, among all of them
    """

    nodes: slice
    weights: slice

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return self.nodes.stop - self.nodes.start


class NoisyPass(NamedTuple):
    """
    What a noisy pass gives.

    :param objectives: What each network is to increase: log π̃(a|s) and, with a critic, its prediction Ṽ(s), each of
        shape (B,)
    :param pre: The pre-synaptic activity x̃ that each perturbed layer received, B rows
    """

    objectives: list[Array]
    pre: list[Array]


class NoisyPolicy(BasePolicy):
    """
    An actor whose nodes can be perturbed, and on request a critic.

    The network is a features extractor, hidden layers and an action head, one output for each logit or mean. For a
    ``Box`` action space the log standard deviation of the Gaussian is a layer of its own, fed by a constant 1: it does
    not depend on the observation, and is perturbed and learned like any other layer. The critic, which predicts the
    rewards to come, is a network of its own of the same kind, with a features extractor of its own. All are always in
    evaluation mode: dropout does nothing, and batch normalization goes by the statistics that it came with. A subclass
    that changes logits or means overrides ``_action_parameters``, which all passes share.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule
    :param net_arch: Widths of the hidden layers, ``[64]`` by default; ``[]`` for none. For a critic with others than
        the actor's: ``dict(pi=[...], vf=[...])``
    :param activation_fn: Makes the activation function after each hidden layer, tanh by default
    :param use_bias: Whether hidden layers and heads have biases
    :param head_gain: Factor on the initial weights of the heads. Large values start in a policy that favours some
        actions in some states; if that happens to work against the task, it may never see another return, nor learn
    :param log_std_init: Initial log standard deviation of the actions in a ``Box`` space, in the units of the actions
    :param action_correlation: Correlation, in [0, 1), of the random parts of successive actions in a ``Box`` space, of
        a training: with more, exploration is in one direction for longer. log π(a|s) stays that of a single action, so
        that a state gets credit, too, for the similar actions that followed: a bias, where these do something else
    :param noise_std: Standard deviation σ of the noise ξ
    :param noise_distribution: Distribution of the noise, see :mod:`sb3_nrl.noise`
    :param clean_passes: None: actions come from a clean pass. N: from the mean of N noisy passes, for networks that
        cannot do without noise
    :param critic: Whether there is a critic
    :param features_extractor_class: Features extractor, built of Linear and Conv2d layers if it learns; by default one
        that flattens the observation
    :param features_extractor_kwargs: Keyword arguments of the features extractor
    :param normalize_images: Whether to divide images by 255
    :param optimizer_class: Optimizer, Adam by default
    :param optimizer_kwargs: Keyword arguments of the optimizer, except the learning rate
    :raises ValueError: If an argument is out of range, or if the network has parameters that node perturbation cannot
        reach
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
        noise_std: float = 0.0,
        noise_distribution: str = "gaussian",
        clean_passes: int | None = None,
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
        architectures = self.net_arch if isinstance(self.net_arch, dict) else dict.fromkeys(("pi", "vf"), self.net_arch)
        fits = set(architectures) == {"pi", "vf"} and (critic or not isinstance(self.net_arch, dict))
        widths = architectures.values()
        if not fits or not all(isinstance(own, list | tuple) and all(map(is_count, own)) for own in widths):
            raise ValueError(
                f"net_arch={net_arch!r}: must be a list of hidden layers' widths"
                + (", or dict(pi=[...], vf=[...])" if critic else " (there is no value network)")
            )
        check("use_bias", use_bias, isinstance(use_bias, bool), "True or False")
        check("head_gain", head_gain, is_number(head_gain, 0), "positive, or layers before the head would not learn")
        check("log_std_init", log_std_init, is_number(log_std_init, -math.inf), "finite")
        correlated = is_number(action_correlation, 0) and action_correlation < 1
        check("action_correlation", action_correlation, correlated or action_correlation == 0, "in [0, 1)")
        for name, value in (("log_std_init", log_std_init), ("action_correlation", action_correlation)):
            check(name, value, value == 0 or isinstance(action_space, spaces.Box), "0 but for Box actions")
        self.activation_fn = activation_fn
        self.use_bias = use_bias
        self.head_gain = head_gain
        self.log_std_init = log_std_init
        self.action_correlation = action_correlation
        self.noise_std = noise_std
        self.noise_distribution = noise_distribution
        self.clean_passes = clean_passes
        self.critic = critic

        self.features_extractor = self.make_features_extractor()
        make_layers = partial(_make_layers, activation_fn=activation_fn, use_bias=use_bias, head_gain=head_gain)
        n_outputs = _n_outputs(action_space)
        self.action_dist = make_proba_distribution(action_space)
        self.hidden_net, action_net = make_layers(self.features_extractor.features_dim, architectures["pi"], n_outputs)
        if isinstance(action_space, spaces.Box):
            self.log_std_net = nn.Linear(1, n_outputs, bias=False)
            nn.init.constant_(self.log_std_net.weight, log_std_init)
        self.action_net = action_net
        if critic:
            self.vf_features_extractor = self.make_features_extractor()
            self.vf_hidden_net, self.value_net = make_layers(
                self.vf_features_extractor.features_dim, architectures["vf"], 1
            )

        self.eval()
        self.generator = np.random.default_rng(int(th.randint(2**62, ())))
        """What a training draws in NumPy. Its own: environments that seed NumPy's would repeat the exploration."""
        self._found: tuple[list[tuple[nn.Module, bool]], list[int]] = ([], [])
        self.find_layers()
        critics = {id(parameter) for part in self._critic_parts() for parameter in part.parameters()}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters() if (id(p) in critics) == of_critic], "critic": of_critic}
            for of_critic in (False, True)[: 1 + critic]
        ]
        self.optimizer = optimizer_class(groups, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "lr_schedule": self._dummy_schedule,
            **{
                name: getattr(self, name)
                for name in (
                    "net_arch",
                    "activation_fn",
                    "use_bias",
                    "head_gain",
                    "log_std_init",
                    "action_correlation",
                    "noise_std",
                    "noise_distribution",
                    "clean_passes",
                    "critic",
                    "features_extractor_class",
                    "features_extractor_kwargs",
                    "optimizer_class",
                    "optimizer_kwargs",
                )
            },
        }

    def find_layers(self) -> bool:
        """
        Find out which layers there are to perturb, if modules or what is trainable changed since the last time.

        :return: Whether they did
        :raises ValueError: If a trainable parameter would never learn
        """
        modules = [(module, "forward" in vars(module)) for module in self.modules()]
        trainable = [id(parameter) for parameter in self.parameters() if parameter.requires_grad]
        if (modules, trainable) == self._found:
            return False
        example = _examples(self.observation_space, 3, self.action_net.weight.device)
        self.perturbation = NodePerturbation(self, self._outputs, example)
        learn = {module for module in self.modules() if any(p.requires_grad for p in module.parameters(recurse=False))}
        layers_of_critic = learn & {layer for part in self._critic_parts() for layer in part.modules()}
        for name, layer in self.named_modules(remove_duplicate=False):
            if layer in layers_of_critic and name.split(".")[0] in ("features_extractor", "hidden_net", "action_net"):
                raise ValueError(f"'{name}' is a part of the critic too: they must not share layers.")
        perturbation = self.perturbation
        ends = [(0, 0), (perturbation.n_nodes, sum(p.numel() for p in perturbation.parameters))]
        if self.critic:
            of_actor = [site for site in perturbation.sites if site.layer not in layers_of_critic]
            own = {id(parameter) for site in of_actor for parameter in site.layer.parameters(recurse=False)}
            n_nodes = max((site.nodes.stop for site in of_actor), default=0)
            ends.insert(1, (n_nodes, sum(p.numel() for p in perturbation.parameters if id(p) in own)))
        self.parts = [Part(*map(slice, start, end)) for start, end in pairwise(ends)]
        self._found = modules, trainable  # last, so that what is refused is refused again
        return True

    def _critic_parts(self) -> list[nn.Module]:
        return [self.vf_features_extractor, self.vf_hidden_net, self.value_net] if self.critic else []

    def sample_noise(self, n_rows: int, n_samples: int = 1) -> th.Tensor:
        """
        Draw the noise ξ of the whole network.

        :param n_rows: Number of rows B of the observations
        :param n_samples: Number of samples S for each
        :return: Shape (S · B, N), all rows of a sample side by side
        """
        sizes = [part.n_nodes for part in self.parts]
        device = self.perturbation.parameters[0].device
        return sample_noise(self.noise_distribution, self.noise_std, n_samples, n_rows, sizes, device)

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """
        The action distribution π, by a clean pass or the mean of ``clean_passes`` noisy ones.

        :param obs: Observations, B rows
        :return: The distribution
        """
        if self.clean_passes is None:
            return self._distribution(self._action_parameters(obs))
        return self._mean_of_noisy_passes(obs, self.clean_passes)

    def noisy_pass(self, obs: PyTorchObs, actions: th.Tensor, noise_BN: th.Tensor) -> NoisyPass:
        """
        A noisy pass (Eq. 18 and 19).

        :param obs: Observations, B rows
        :param actions: Actions, B rows
        :param noise_BN: ξ, shape (B, N)
        :return: What comes of it
        """
        parameters, values, pre = self._run_noisy(obs, noise_BN)
        plain = getattr(self._distribution, "__func__", None) is NoisyPolicy._distribution
        if plain and isinstance(self.action_space, spaces.Discrete):  # without the cost of a distribution object
            log_probs = parameters.log_softmax(1).gather(1, actions[:, None])[:, 0]
        else:
            log_probs = self._distribution(parameters).log_prob(actions)
        return NoisyPass([log_probs, *values], pre)

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """
        The critic's prediction V(s), by a clean pass or the mean of ``clean_passes`` noisy ones.

        :param obs: Observations, B rows
        :return: Shape (B, 1)
        :raises ValueError: If there is no critic
        """
        if not self.critic:
            raise ValueError('This policy predicts no values: only one of reward_prediction="critic" does.')
        if self.clean_passes is None:
            return self._values(obs)
        _, values = self._run_noisy_passes(obs, self.clean_passes)
        return values.mean(0)[:, None]

    def evaluate_actions(
        self, obs: PyTorchObs, actions: th.Tensor
    ) -> tuple[th.Tensor | None, th.Tensor, th.Tensor | None]:
        """
        What the policy thinks of actions, as in Stable-Baselines3.

        :param obs: Observations, B rows
        :param actions: Actions, B rows
        :return: V(s) of shape (B, 1), None without a critic; log π(a|s), shape (B,); the entropy of π(·|s), shape (B,),
            None for a distribution that knows none
        """
        distribution = self.get_distribution(obs)
        values = self.predict_values(obs) if self.critic else None
        return values, distribution.log_prob(actions), distribution.entropy()

    def forward(
        self,
        obs: PyTorchObs,
        deterministic: bool = False,
        noise_BN: th.Tensor | None = None,
        deviations_BA: th.Tensor | None = None,
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        Choose actions.

        :param obs: Observations, B rows
        :param deterministic: Whether to take the likeliest actions rather than to draw them
        :param noise_BN: ξ of a noisy pass to choose with, shape (B, N); by default the pass is a clean one, or the mean
            of ``clean_passes`` noisy ones
        :param deviations_BA: How many standard deviations the actions in a ``Box`` space are from their means, shape
            (B, A); by default that is drawn
        :return: Actions, and the logarithm of their probability (density), shape (B,)
        """
        if noise_BN is not None:
            distribution = self._distribution(self._run_noisy(obs, noise_BN)[0])
        else:
            distribution = self.get_distribution(obs)
        if deviations_BA is None or type(distribution) is not DiagGaussianDistribution:
            actions = distribution.get_actions(deterministic=deterministic)
        else:
            gaussian: Any = distribution.distribution
            actions = gaussian.mean + gaussian.stddev * deviations_BA
        return actions, distribution.log_prob(actions)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self(observation, deterministic)[0]

    def _action_parameters(self, obs: PyTorchObs) -> th.Tensor:
        """The output layer's pre-activations: logits, or means followed by log standard deviations."""
        latent = self.hidden_net(self.extract_features(obs, self.features_extractor))
        outputs = self.action_net(latent)
        if isinstance(self.action_space, spaces.Box):
            log_std = self.log_std_net(outputs.new_ones(len(outputs), 1))
            outputs = th.cat((outputs, log_std), dim=1)
        return outputs

    def _values(self, obs: PyTorchObs) -> th.Tensor:
        return self.value_net(self.vf_hidden_net(self.extract_features(obs, self.vf_features_extractor)))

    def _outputs(self, obs: PyTorchObs) -> th.Tensor:
        """The pre-activations of all heads, the critic's last."""
        parameters = self._action_parameters(obs)
        return th.cat((parameters, self._values(obs)), dim=1) if self.critic else parameters

    def _run_noisy(self, obs: PyTorchObs, noise_BN: th.Tensor) -> tuple[th.Tensor, list[th.Tensor], list[th.Tensor]]:
        """Action parameters, values if there is a critic, and what each layer received."""
        outputs, pre = self.perturbation.run(obs, noise_BN)
        return (outputs[:, :-1], [outputs[:, -1]], pre) if self.critic else (outputs, [], pre)

    def _run_noisy_passes(self, obs: PyTorchObs, n_passes: int) -> list[th.Tensor]:
        """Action parameters and, with a critic, values of several passes, one after the other."""
        obs = repeat_rows(obs, n_passes)
        n_rows = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        parameters, values, _ = self._run_noisy(obs, self.sample_noise(n_rows))
        return [part.unflatten(0, (n_passes, -1)) for part in (parameters, *values)]

    def _distribution(self, parameters: th.Tensor) -> Distribution:
        require_finite(bool(parameters.isfinite().all()))
        if not isinstance(self.action_space, spaces.Box):
            return self.action_dist.proba_distribution(parameters)
        mean, log_std = parameters.chunk(2, dim=1)
        std = log_std.exp()
        require_finite(bool((std.isfinite() & (std > 0)).all()))
        return self.action_dist.proba_distribution(mean, log_std)

    def _mean_of_noisy_passes(self, obs: PyTorchObs, n_passes: int) -> Distribution:
        """
        What stands in for the clean pass on hardware without one (section 3.3).

        Averages probabilities (of each sub-action), or the Gaussian's mean and log standard deviation.
        """
        parameters = self._run_noisy_passes(obs, n_passes)[0]
        if isinstance(self.action_space, spaces.Box):
            mean = parameters.mean(0)
        elif isinstance(self.action_dist, CategoricalDistribution):
            mean = parameters.log_softmax(-1).logsumexp(0)
        elif isinstance(self.action_dist, MultiCategoricalDistribution):
            groups = parameters.split(self.action_dist.action_dims, dim=-1)
            mean = th.cat([group.log_softmax(-1).logsumexp(0) for group in groups], dim=-1)
        else:
            mean = logsigmoid(parameters).logsumexp(0) - logsigmoid(-parameters).logsumexp(0)
        return self._distribution(mean)


class NoisyCnnPolicy(NoisyPolicy):
    """A :class:`NoisyPolicy` for images: the default features extractor is ``NatureCNN``."""

    default_features_extractor = NatureCNN


class NoisyMultiInputPolicy(NoisyPolicy):
    """A :class:`NoisyPolicy` for ``Dict`` observations: the default features extractor is ``CombinedExtractor``."""

    default_features_extractor = CombinedExtractor


def _make_layers(
    n_inputs: int,
    widths: Sequence[int],
    n_outputs: int,
    activation_fn: Callable[[], nn.Module],
    use_bias: bool,
    head_gain: float,
) -> tuple[nn.Sequential, nn.Linear]:
    """Hidden layers and a head, initialised."""
    hidden_net = nn.Sequential(*create_mlp(n_inputs, -1, list(widths), activation_fn, with_bias=use_bias))  # type: ignore[arg-type]
    head = nn.Linear(widths[-1] if widths else n_inputs, n_outputs, bias=use_bias)
    for layer in (*hidden_net, head):
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight, gain=head_gain if layer is head else 1.0)
            if use_bias:
                nn.init.zeros_(layer.bias)
    return hidden_net, head


def require_finite(finite: bool) -> None:
    """
    Refuse outputs of the network that make no distribution.

    :raises FloatingPointError: If they are not finite
    """
    if not finite:
        raise FloatingPointError(
            "The network's outputs are infinite or NaN: so is what it observed, or its weights have become too large. "
            "If it is the weights, lower learning_rate or set a max_grad_norm."
        )


def _n_outputs(space: spaces.Space) -> int:
    """Number of logits, or of means."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return get_action_dim(space)


def repeat_rows(rows: PyTorchObs, n: int) -> PyTorchObs:
    """The whole batch ``n`` times over, one copy after the other."""
    if isinstance(rows, dict):
        return {key: th.cat([value] * n) for key, value in rows.items()}
    return th.cat([rows] * n) if n > 1 else rows


def _examples(space: spaces.Space, n_rows: int, device: th.device) -> PyTorchObs:
    """
    A batch of random observations, always the same. Neighbours differ, and none is so large that a network could not
    tell it from others.
    """
    if isinstance(space, spaces.Dict):
        return {key: cast("th.Tensor", _examples(part, n_rows, device)) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        low = np.maximum(space.low, -_EXTENT)
        high = np.maximum(np.minimum(space.high, _EXTENT), low + 1)
        rows = np.random.default_rng(0).uniform(low, high, (n_rows, *space.shape)).astype(np.float32)
    else:
        space = deepcopy(space)  # the environment may draw from it
        space.seed(0)
        drawn = (np.asarray(space.sample()) for _ in range(10 * n_rows))
        different = list({row.tobytes(): row for row in drawn}.values())
        rows = np.stack([different[place % len(different)] for place in range(n_rows)])
    return th.as_tensor(rows, device=device)
