"""Noise-based reward-modulated learning."""

import math
import warnings
from typing import Any, Literal, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from typing_extensions import Unpack

from sb3_nrl.arrays import Array, map_received, repeat_batch
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.checks import check, is_count
from sb3_nrl.layers.dense import learned_outputs, linear_layer
from sb3_nrl.noise import ORTHOGONAL, Noise, NoiseDistribution
from sb3_nrl.passes import NoisyPass
from sb3_nrl.perturbation import PerturbablePolicy
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.recurrent_policies import RnnPolicy
from sb3_nrl.rules import Eligibility, LearningRule, OuterProducts
from sb3_nrl.spiking_policies import LifPolicy
from sb3_nrl.three_factor import SharedArguments, ThreeFactorAlgorithm
from sb3_nrl.weight_perturbation import NoiseRank, WeightPerturbation

NoiseNormalization = Literal["network", "layer", "unbiased"]
Perturbation = Literal["node", "weight"]

_TINY = np.finfo(np.float32).tiny

_LEARNING_RATE = 3e-3

_LEARNING_RATE_OF_WEIGHTS = 5e-3

_RATE_OF_MANY_NODES = 5e-2
"""Default learning rate of a network that has as many nodes as noise samples."""


class NodePerturbation(LearningRule):
    """
    Eligibility ρ ξ / ‖ξ‖² ⊗ x̃ (Eq. 17), with noise ξ on every node. For the actor, ρ = log π̃(a|s) − log π(a|s)
    measures whether the noise makes the action more likely. For the critic, ρ = Ṽ(s) − V(s). The rule uses forward
    passes only.

    For the parameters see :class:`NRL`.
    """

    local_head = False  # of rules in files of before

    def __init__(
        self,
        noise: Noise,
        noise_normalization: NoiseNormalization = "unbiased",
        n_noise_samples: int = 8,
        antithetic: bool = True,
        local_head: bool = False,
    ) -> None:
        self.noise = noise
        self.noise_normalization = noise_normalization
        self.n_noise_samples = n_noise_samples
        self.antithetic = antithetic
        self.local_head = local_head
        self.n_passes = 2 * n_noise_samples if antithetic else n_noise_samples

    def check(self) -> None:
        samples = self.n_noise_samples
        check("n_noise_samples", samples, is_count(samples), "a whole number of noise samples, at least 1")
        super().check()
        normalization = self.noise_normalization
        known = get_args(NoiseNormalization)
        check("noise_normalization", normalization, normalization in known, f"one of {known}")
        orthogonal = self.noise is not None and self.noise.distribution == ORTHOGONAL
        valid = normalization != "layer" or not orthogonal
        wanted = "'network' or 'unbiased' with orthogonal noise, which is not orthogonal within a layer"
        check("noise_normalization", normalization, valid, wanted)
        for name in ("antithetic", "local_head"):
            value = getattr(self, name)
            check(name, value, isinstance(value, bool), "True or False")

    def eligibility(self, policy: PerturbablePolicy, window: RolloutWindow, carry: Any) -> tuple[Eligibility, Any]:
        obs, actions = window.observations, window.actions
        time: dict[str, Any] = {"states": window.states, "starts_TE": window.starts_TE}
        if self.local_head:
            is_linear = all(linear_layer(network.head).activation is None for network in policy.networks)
            check("local_head", True, is_linear, "False with an activation function in the head")
        noise_BN = policy.sample_noise(len(actions), self.n_noise_samples)
        for nodes in self._local(policy):
            noise_BN[:, nodes] = 0
        clean: list[Array] = []
        if not policy.is_smooth:  # before the others: diagnostics are those of the last pass, which has noise
            clean = _measured(policy.noisy_pass(obs, actions, 0 * noise_BN[: len(actions)], **time))
        elif not self.antithetic:
            clean = [window.log_probs, *([policy.values(obs, **time)[0]] if policy.critic is not None else [])]
        if self.antithetic:
            device = policy.learnable[0].device
            with th.random.fork_rng([device] if device.type == "cuda" else []):  # so that a Poisson encoder repeats
                passes = [policy.noisy_pass(obs, actions, noise_BN, **time)]
            passes.append(policy.noisy_pass(obs, actions, -noise_BN, **time))
        else:
            passes = [policy.noisy_pass(obs, actions, noise_BN, **time)]
        scores = [self._scores(policy, of, actions) for of in passes]
        measured, n_samples = [_measured(of) for of in passes], self.n_noise_samples
        if not clean:
            rhos = [(plus - minus) / 2 for plus, minus in zip(*measured, strict=True)]
            # With −ξ, ρ has the opposite sign too, so both passes of a pair have the same post-synaptic factor ρ ξ.
            pre = map_received(lambda plus, minus: (plus + minus) / 2, *(of.received for of in passes))
            of_heads = [(plus + minus) / 2 for plus, minus in zip(*scores, strict=True)]
        else:
            rhos = [
                (policy.xp.concatenate(of_passes).reshape(-1, len(actions)) - policy.array(value)).reshape(-1)
                for *of_passes, value in zip(*measured, clean, strict=True)
            ]
            pre = map_received(lambda *of_passes: policy.xp.concatenate(of_passes), *(of.received for of in passes))
            of_heads = [policy.xp.concatenate(of_passes) for of_passes in zip(*scores, strict=True)]
            if self.antithetic:
                noise_BN, n_samples = policy.xp.concatenate([noise_BN, -noise_BN]), self.n_passes
        costs: Eligibility | None = None
        if passes[0].costs is not None:
            of_costs = [rhos.pop(), 0 * rhos[0]]
            costs = self._sums(policy, noise_BN, n_samples, of_costs, [0 * of for of in of_heads], pre, window)
        diagnostics = {"rho_std": math.sqrt(((rhos[0] - rhos[0].mean()) ** 2).mean())}  # PyTorch's std is another
        return self._sums(policy, noise_BN, n_samples, rhos, of_heads, pre, window, diagnostics, costs), None

    def _local(self, policy: PerturbablePolicy) -> list[slice]:
        """The nodes of the heads of actor and critic, if they learn without noise."""
        return [part.layer_nodes[-1] for part in policy.parts] if self.local_head else []

    def _scores(self, policy: PerturbablePolicy, noisy: NoisyPass, actions: Array) -> list[Array]:
        """
        The derivatives of log π(a|s) and V(s) with respect to the outputs of the heads, if these learn without noise.
        """
        if not self.local_head:
            return []
        parameters, xp = noisy.parameters, policy.xp
        n_copies = parameters.shape[policy.action_dist.batch_axis] // len(actions)
        score = policy.action_dist.score(xp, parameters, repeat_batch(xp, policy.array(actions), n_copies))
        scores = [score[:, learned_outputs(policy.actor.head)]]
        if policy.critic is not None:
            scores.append(xp.ones_like(noisy.objectives[1])[:, None][:, learned_outputs(policy.critic.head)])
        return scores

    def _sums(
        self,
        policy: PerturbablePolicy,
        noise_BN: Array,
        n_samples: int,
        rhos: list[Array],
        of_heads: list[Array],
        pre: list[Any],
        window: RolloutWindow,
        diagnostics: dict[str, float] | None = None,
        costs: Eligibility | None = None,
    ) -> Eligibility:
        is_recurrent = policy.n_states > 0
        if is_recurrent:
            assert self.noise is not None
            post_BN = noise_BN / (n_samples * self.noise.std**2)
        else:
            post_BN = self._post_synaptic(policy, noise_BN, n_samples, rhos)
        for nodes, score in zip(self._local(policy), of_heads, strict=True):
            post_BN[:, nodes] = score / n_samples
        if not is_recurrent:
            return OuterProducts(policy, post_BN, pre, diagnostics, costs)
        assert window.starts_TE is not None
        return NoiseThroughTime(policy, post_BN, rhos, pre, window.starts_TE, self.local_head, diagnostics, costs)

    def _post_synaptic(self, policy: PerturbablePolicy, noise_BN: Array, n_samples: int, rhos: list[Array]) -> Array:
        """The post-synaptic factor ρ ξ / ‖ξ‖² of all nodes, normalized according to ``noise_normalization``."""
        post_BN = noise_BN / n_samples
        for part, rho_B in zip(policy.parts, rhos, strict=True):
            nodes = slice(part.nodes.start, part.layer_nodes[-1].start) if self.local_head else part.nodes
            spans = part.layer_nodes if self.noise_normalization == "layer" else [nodes]
            if self.noise_normalization == "unbiased":
                rho_B = rho_B * (nodes.stop - nodes.start)
            for span in spans:
                noise = noise_BN[:, span]
                # The noise of a layer with one node can be exactly 0; _TINY avoids a division by 0.
                post_BN[:, span] *= (rho_B / ((noise * noise).sum(1) + _TINY))[:, None]
        return post_BN


def _measured(noisy: NoisyPass) -> list[Array]:
    """What noise changes: log π(a|s), V(s) if there is a critic, and what activity costs, if anything."""
    return [*noisy.objectives, *([] if noisy.costs is None else [noisy.costs])]


class NoiseThroughTime(OuterProducts):
    """
    Eligibility ρ(t) Σ_{s ≤ t} ξ(s) ⊗ x̃(s) / σ², of noise whose effect the hidden state carries to later steps of the
    episode. Noise on nodes after the last recurrent layer changes its own step alone.

    :param policy: The policy
    :param post_BN: ξ / (K σ²) of each node
    :param rhos: ρ of actor and critic, shape (B,)
    :param pre: Pre-synaptic activity of each layer
    :param starts_TE: Whether an episode begins with each step
    :param local_head: Whether the post-synaptic factors of the heads have their own derivatives, which need no ρ
    :param diagnostics: What to log, by name
    :param costs: The same for what the actor's activity costs, None if nothing
    """

    def __init__(
        self,
        policy: PerturbablePolicy,
        post_BN: Array,
        rhos: list[Array],
        pre: list[Any],
        starts_TE: np.ndarray,
        local_head: bool = False,
        diagnostics: dict[str, float] | None = None,
        costs: Eligibility | None = None,
    ) -> None:
        super().__init__(policy, post_BN, pre, diagnostics, costs)
        self._rhos_KTE = [policy.numpy(rho_B).reshape(-1, *starts_TE.shape) for rho_B in rhos]
        self._starts_TE, self._local_head = starts_TE, local_head

    def weighted_sum(self, weights_TE: np.ndarray, per_env: bool = False) -> Array:
        policy, n_envs = self.policy, weights_TE.shape[1]
        post_KTEN = self.post_BN.reshape(-1, *weights_TE.shape, policy.n_nodes)
        post_KTEN = policy.xp.zeros_like(post_KTEN) + post_KTEN
        for network, part, rho_KTE in zip(policy.networks, policy.parts, self._rhos_KTE, strict=True):
            now_KTE = weights_TE * rho_KTE
            later_KTE = now_KTE.copy()
            for t in range(len(weights_TE) - 2, -1, -1):
                later_KTE[:, t] += later_KTE[:, t + 1] * ~self._starts_TE[t + 1]
            last = part.nodes.start + network.n_remembered
            post_KTEN[..., part.nodes.start : last] *= policy.array(later_KTE)[..., None]
            head = part.layer_nodes[-1].start if self._local_head else part.nodes.stop
            post_KTEN[..., last:head] *= policy.array(now_KTE)[..., None]
            post_KTEN[..., head : part.nodes.stop] *= policy.array(weights_TE)[..., None]
        sum_EW = policy.outer(post_KTEN.reshape(self.post_BN.shape), self.pre, n_envs if per_env else 1)
        return sum_EW if per_env else sum_EW[0]


def default_learning_rate(policy: PerturbablePolicy, n_noise_samples: int) -> float:
    """
    NRL's default learning rate. It is lower for large networks, since the noise of an update, relative to the gradient,
    grows with √(n / K).

    :param policy: The policy. n is the number of nodes of its larger network
    :param n_noise_samples: Number of noise samples K
    :return: The smaller of 3e-3 and 5e-2 √(K / n)
    """
    n_nodes = max(part.n_nodes for part in policy.parts)
    return min(_LEARNING_RATE, _RATE_OF_MANY_NODES * math.sqrt(n_noise_samples / n_nodes))


class NRL(ThreeFactorAlgorithm):
    r"""
    Noise-based reward-modulated learning (García Fernández, Ahmad and van Gerven): no backward pass.

    Actions come from a clean pass. Noisy passes with the same observation add noise ξ to every node. The difference ρ =
    log π̃(a|s) − log π(a|s) measures whether the noise makes the action more likely. The trace of each synapse sums ρ ξ
    / ‖ξ‖² ⊗ x̃, where x̃ is the input of the synapse in the noisy pass (Eq. 17). The reward prediction error δ turns
    the trace into a weight change (Eq. 16).

    With a recurrent policy, such as ``"MlpGruPolicy"``, noise is added to the weights instead and held for many steps.
    Each noisy copy of the network has a hidden state of its own, so that ρ compares the actions after all the noise so
    far: credit reaches back in time without backpropagation through time, and memory does not grow with the length of
    an episode.

    By default a critic predicts rewards, pairs of noisy passes estimate the gradient, and the optimizer is Adam.
    ``NRL(policy, env, **PAPER["NRL"])`` is the paper's rule (Eq. 13 to 17), with one noisy pass, plain SGD and a
    running average.

    The parameters below are NRL's own. :class:`~sb3_nrl.ThreeFactorAlgorithm` documents all others.

    :param learning_rate: Learning rate η, or a function of the remaining progress. With noise on
        nodes, the smaller of 3e-3 and 5e-2 √(K / n) for K noise samples and n nodes. With noise on weights, 5e-3
    :param noise_std: Standard deviation σ of the noise, in the units of the pre-activations or of the weights. By
        default 0.01: it should be small, so that ρ approximates a directional derivative. With spiking neurons 0.2,
        or 0.05 on weights: it has to make and prevent spikes, so its size is that of the distance to the threshold
    :param noise_distribution: ``"gaussian"``, ``"uniform"``, ``"rademacher"`` (random telegraph noise) or ``"poisson"``
        (shot noise), independent in each sample; or ``"orthogonal"``: the samples of a step are orthogonal to one
        another, which multiplies the variance by (n − K) / (n − 1) for K samples and n nodes. With ``local_head``,
        they are so before the nodes of the heads are left out
    :param noise_normalization: The divisor of ρ ξ. ``"network"``: ‖ξ‖² over all nodes of the actor, or of the critic;
        ``"layer"``: ‖ξ‖² over the nodes of the layer; its variance is infinite in layers of one or two nodes;
        ``"unbiased"``: ‖ξ‖² / n over all n nodes, so that the expected eligibility is the gradient of log π
    :param n_noise_samples: Number K of noise samples per step, averaged (Eq. 12); by default 8, and 32 with noise on
        weights. The estimate's variance grows with the number of nodes, or of weights, and falls with K
    :param antithetic: Whether each sample is a pair of passes with ξ and −ξ, and ρ half their difference: a central
        difference, for twice the passes
    :param n_baseline_passes: None: actions and values come from a clean pass. N ≥ 2: they come from the mean of N noisy
        passes, in ``predict`` too (section 3.3). Not available with recurrent policies
    :param perturbation: What receives the noise. ``"node"``: the pre-activations, the default of feed-forward policies.
        ``"weight"``: the weights (Eq. 7 to 12), the default of recurrent policies. Its variance does not grow with
        time, and it trains every module that has parameters. It needs ``noise_normalization="unbiased"``
    :param noise_rank: For noise on weights. ``"one"``, the default: noise of rank one on each weight matrix of this
        package's layers, independent in each environment. ``"full"``: independent noise on each weight, shared by all
        environments
    :param noise_hold: For noise on weights: the number of steps for which noise is held, by default 32 with a recurrent
        policy, else 1. With a recurrent policy, credit reaches this number of steps back, also across windows
    :param local_head: For noise on nodes: whether the output layer learns from its own derivative instead of from
        noise, (∂ log π / ∂z) ⊗ x̃ with its outputs z, which it knows without a backward pass. Then only hidden nodes
        get noise. By default True with spiking policies, and with continuous actions if ``noise_normalization`` is
        ``"unbiased"`` and the policy makes no layers of its own; else False
    :param device: As in Stable-Baselines3. On CUDA, TF32 is switched off for convolutions in the whole process, since
        its precision is too low for small noise
    :raises ValueError: If an argument is out of range. The message has its name and the valid values
    """

    rules = (NodePerturbation, WeightPerturbation)

    def __init__(
        self,
        policy: str | type[NoisyPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule | None = None,
        noise_std: float | None = None,
        noise_distribution: NoiseDistribution = "gaussian",
        noise_normalization: NoiseNormalization = "unbiased",
        n_noise_samples: int | None = None,
        antithetic: bool = True,
        n_baseline_passes: int | None = None,
        perturbation: Perturbation | None = None,
        noise_rank: NoiseRank | None = None,
        noise_hold: int | None = None,
        local_head: bool | None = None,
        _init_setup_model: bool = True,
        clean_passes: int | None = None,
        **shared: Unpack[SharedArguments],
    ) -> None:
        if clean_passes is not None:
            warnings.warn("clean_passes is now n_baseline_passes", DeprecationWarning, stacklevel=2)
            n_baseline_passes = clean_passes
        super().__init__(policy, env, learning_rate, _init_setup_model=False, **shared)  # type: ignore[arg-type]
        self.noise_std: float = noise_std  # type: ignore[assignment]  # make_rule replaces None
        self.noise_distribution: NoiseDistribution = noise_distribution
        self.noise_normalization: NoiseNormalization = noise_normalization
        self.n_noise_samples = n_noise_samples
        self.antithetic = antithetic
        self.n_baseline_passes = n_baseline_passes
        self.perturbation: Perturbation | None = perturbation
        self.noise_rank: NoiseRank | None = noise_rank
        self.noise_hold = noise_hold
        self.local_head = local_head
        if _init_setup_model:
            self._setup_model()

    def make_rule(self) -> LearningRule:
        is_recurrent = issubclass(self.policy_class, RnnPolicy)
        if self.perturbation is None:
            self.perturbation = "weight" if is_recurrent else "node"
        kind = self.perturbation
        check("perturbation", kind, kind in get_args(Perturbation), f"None, or one of {get_args(Perturbation)}")
        if self.n_noise_samples is None:
            self.n_noise_samples = 32 if kind == "weight" else 8
        if self.noise_std is None:
            of_spikes = 0.2 if kind == "node" else 0.05
            self.noise_std = of_spikes if issubclass(self.policy_class, LifPolicy) else 1e-2
        noise = Noise(self.noise_std, self.noise_distribution)
        if kind == "node":
            for name in ("noise_rank", "noise_hold"):
                value = getattr(self, name)
                check(name, value, value is None, 'None but with perturbation="weight"')
            normalization, wanted = self.noise_normalization, "'unbiased' with a recurrent policy"
            check("noise_normalization", normalization, not is_recurrent or normalization == "unbiased", wanted)
            if self.local_head is None:
                is_continuous = isinstance(self.action_space, spaces.Box)
                has_own_layers = self.policy_class.make_layer is not NoisyPolicy.make_layer  # type: ignore[attr-defined]
                suits = is_continuous and not has_own_layers and normalization == "unbiased"
                self.local_head = suits or issubclass(self.policy_class, LifPolicy)
            return NodePerturbation(noise, normalization, self.n_noise_samples, self.antithetic, self.local_head)
        check("local_head", self.local_head, not self.local_head, "None or False with noise on weights")
        if self.noise_rank is None:
            self.noise_rank = "one"
        if self.noise_hold is None:
            self.noise_hold = 32 if is_recurrent else 1
        normalization = self.noise_normalization
        check("noise_normalization", normalization, normalization == "unbiased", "'unbiased' with noise on weights")
        return WeightPerturbation(noise, self.n_noise_samples, self.antithetic, self.noise_rank, self.noise_hold)

    def _setup_model(self) -> None:
        by_default = self.learning_rate is None
        if by_default:
            self.learning_rate = _LEARNING_RATE_OF_WEIGHTS
        super()._setup_model()
        if by_default and isinstance(self.rule, NodePerturbation):
            self.learning_rate = default_learning_rate(self.policy, self.rule.n_noise_samples)
            self._setup_lr_schedule()
        if self.device.type == "cuda":
            th.backends.cudnn.allow_tf32 = False
