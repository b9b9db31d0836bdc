"""Noise-based reward-modulated learning."""

import math
import warnings
from typing import Literal, get_args

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from typing_extensions import Unpack

from sb3_nrl.arguments import SharedArguments
from sb3_nrl.checks import check
from sb3_nrl.node_perturbation import NodePerturbation, NoiseNormalization
from sb3_nrl.noise import Noise, NoiseDistribution
from sb3_nrl.perturbation import PerturbablePolicy
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.recurrent_policies import RnnPolicy
from sb3_nrl.rules import LearningRule
from sb3_nrl.spiking_policies import LifPolicy
from sb3_nrl.three_factor import ThreeFactorAlgorithm
from sb3_nrl.weight_perturbation import NoiseRank, WeightPerturbation

Perturbation = Literal["node", "weight"]

_LEARNING_RATE = 3e-3

_LEARNING_RATE_OF_WEIGHTS = 5e-3

_RATE_OF_MANY_NODES = 5e-2
"""Default learning rate of a network that has as many nodes as noise samples."""


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
        another, which multiplies the variance by (n − K) / (n − 1) for K samples and n nodes. With ``local_head``
        they are orthogonal only nearly, since the nodes of the heads are left out
    :param noise_normalization: The divisor of ρ ξ. ``"network"``: ‖ξ‖² over all nodes of the actor, or of the critic;
        ``"layer"``: ‖ξ‖² over the nodes of the layer; its variance is infinite in layers of one or two nodes;
        ``"unbiased"``: ‖ξ‖² / n over all n nodes, so that the expected eligibility is the gradient of log π
    :param n_noise_samples: Number K of noise samples per step, averaged (Eq. 12); by default 8, and 32 with noise on
        weights. The estimate's variance grows with the number of nodes, or of weights, and falls with K
    :param antithetic: Whether each sample is a pair of passes with ξ and −ξ, and ρ half their difference: a central
        difference, for twice the passes
    :param n_baseline_passes: None: actions and values come from a clean pass. N ≥ 2: they come from the mean of N noisy
        passes, in ``predict`` too (section 3.3). Not available with recurrent or spiking policies, nor with noise on
        weights
    :param perturbation: What receives the noise. ``"node"``: the pre-activations, the default of feed-forward policies.
        ``"weight"``: the weights (Eq. 7 to 12), the default of recurrent policies. Its variance does not grow with
        time, and it trains every module that has parameters. It needs ``noise_normalization="unbiased"``
    :param noise_rank: For noise on weights. ``"one"``, the default: noise of rank one on each weight matrix of this
        package's layers, independent in each environment. ``"full"``: independent noise on each weight, shared by all
        environments
    :param noise_hold: For noise on weights: the number of steps for which noise is held, by default 32 with a recurrent
        policy, else 1. With a recurrent policy, credit reaches this number of steps back, also across windows. Full
        noise without memory is held for the whole window
    :param local_head: Whether the output layer learns from its own derivative instead of from noise,
        (∂ log π / ∂z) ⊗ x̃ with its outputs z, which it knows without a backward pass. Then only the layers before it
        get noise. By default False with noise on weights. With noise on nodes, by default True with spiking policies,
        and with continuous actions if ``noise_normalization`` is ``"unbiased"`` and the policy makes no layers of its
        own; else False
    :param device: As in Stable-Baselines3. On CUDA, TF32 is switched off for convolutions in the whole process, since
        its precision is too low for small noise
    :raises ValueError: If an argument is out of range. The message has its name and the valid values
    """

    def __init__(
        self,
        policy: str | type[NoisyPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule | None = None,
        *,
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
                check(name, value, value is None, 'None unless perturbation="weight"')
            normalization, wanted = self.noise_normalization, "'unbiased' with a recurrent policy"
            check("noise_normalization", normalization, not is_recurrent or normalization == "unbiased", wanted)
            if self.local_head is None:
                is_continuous = isinstance(self.action_space, spaces.Box)
                has_own_layers = self.policy_class.make_layer is not NoisyPolicy.make_layer  # type: ignore[attr-defined]
                suits = is_continuous and not has_own_layers and normalization == "unbiased"
                self.local_head = suits or issubclass(self.policy_class, LifPolicy)
            return NodePerturbation(noise, normalization, self.n_noise_samples, self.antithetic, self.local_head)
        if self.local_head is None:
            self.local_head = False
        if self.noise_rank is None:
            self.noise_rank = "one"
        if self.noise_hold is None:
            self.noise_hold = 32 if is_recurrent else 1
        normalization = self.noise_normalization
        check("noise_normalization", normalization, normalization == "unbiased", "'unbiased' with noise on weights")
        return WeightPerturbation(
            noise, self.n_noise_samples, self.antithetic, self.noise_rank, self.noise_hold, self.local_head
        )

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
