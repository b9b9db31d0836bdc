"""Noise-based reward-modulated learning."""

import math
import warnings
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_nrl.arrays import Array
from sb3_nrl.checks import check, check_noise, is_count
from sb3_nrl.noise import ORTHOGONAL
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.reward_modulated import RewardModulatedAlgorithm
from sb3_nrl.traces import PendingSteps

NOISE_NORMALIZATIONS = ("network", "layer", "unbiased")

_TINY = th.finfo(th.float32).tiny

_MANY_NODES = 200
"""Nodes per noisy pass from which on the default settings are no good advice."""


class NRL(RewardModulatedAlgorithm):
    r"""
    Noise-based reward-modulated learning (García Fernández, Ahmad and van Gerven): no backward pass.

    Actions come from a clean pass. A noisy pass over the same observation adds noise ξ to every node, and tells by
    ρ = log π̃(a|s) - log π(a|s) whether the noise made the action likelier. The eligibility trace of each synapse sums
    ρ ξ / ‖ξ‖² ⊗ x̃ since the last reward (Eq. 17), x̃ being the synapse's input in the noisy pass, and the reward
    prediction error δ turns it into a weight change, W ← W + η δ e (Eq. 16).

    By default a critic predicts the rewards, every step has a temporal-difference error and is credited by several
    pairs of noisy passes, and Adam makes the steps. The paper's own rule, a single noisy pass with plain SGD and a
    running average of the rewards (Eq. 13 to 17), is ``NRL(policy, env, **PAPER["NRL"])``.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a subclass of
        :class:`~sb3_nrl.policies.NoisyPolicy`
    :param env: The environment, or its registered name
    :param learning_rate: η, or a function of the remaining progress (from 1 to 0). With plain SGD and another
        normalisation than ``"unbiased"`` it is larger by the number of nodes than what suits gradient descent; Adam
        does not care for the length of a change
    :param n_steps: Steps of each environment that can wait before they are folded into the traces. With a critic, the
        steps between two changes of the weights, and fewer before the last one of a ``learn`` whose steps it does not
        divide; else it bounds the memory, and does not change the result but for rounding and the order of the noise
    :param reward_prediction: Who predicts rewards. ``"average"``: a running average of them, for each environment.
        ``"critic"``: a network beside the policy's, V, with δ = r + γ V(s') - V(s) at every step; it learns as the
        policy does, by the same δ, with V in the place of log π. Weights then change every ``n_steps`` steps of each
        environment, by Σ δ e over these steps, and traces start anew with each episode
    :param reward_timing: When rewards count: ``"episode"`` (the default), at the episode's end; ``"nonzero"``, at every
        reward other than 0 and at the episode's end; ``"step"``, at every step, and the running average starts anew
        with each episode, so that episodes of a single step teach nothing. With a critic always ``"step"``
    :param reward_smoothing: λ in (0, 1] of the running average of rewards that is the reward prediction (Eq. 15), 0.66
        by default. None with a critic
    :param scale_rpe: Whether to divide δ by \|r\|, for rewards of one sign whose size varies much, as CartPole's and
        Acrobot's; the default with a running average. Switch it off where rewards come close to 0, since δ / \|r\| is
        huge there. None with a critic
    :param gamma: Discount γ of rewards to come, in [0, 1], for a critic, 0.99 by default; a running average has none, 1
    :param ent_coef: Reward for surprising actions, -log π(a|s) times this at each step, for a critic alone: keeps the
        policy from becoming certain too soon. The critic predicts these rewards too
    :param vf_coef: The critic's learning rate, as a multiple of the policy's
    :param trace_decay: Factor per step on the eligibility trace. With a critic γλ, in [0, γ], by default 0.95 γ; else
        in (0, 1], where 1, the default, keeps the full history; always 1 with rewards at every ``"step"``
    :param max_grad_norm: Largest norm of the change Σ δ e that the optimizer is given, of the policy and of the critic
        each, None for no bound: keeps single surprises from spoiling a policy. Nearly every sum over ``n_steps`` steps
        is longer than the default, so that all have the same length, whatever the size of the rewards; Adam then does
        not care which
    :param noise_std: σ of the noise ξ, in the units of the pre-activations. Small: ρ is to be a directional derivative
    :param noise_distribution: ``"gaussian"``, ``"uniform"``, ``"rademacher"`` (random telegraph noise) or ``"poisson"``
        (shot noise), independent in each sample; or ``"orthogonal"``: the samples of a step are orthogonal to one
        another, so that as many as the policy, or the critic, has nodes give its gradient itself, but for terms of
        higher order in σ. With fewer it matters less: the variance is (n - K) / (n - 1) of that of independent ones.
        More than nodes repeat the first ones, to no use
    :param noise_normalization: What ρ ξ is divided by. ``"network"``: ‖ξ‖² over all nodes of the policy, or of the
        critic; ``"layer"``: ‖ξ‖² over the layer's nodes, which has no finite variance in layers of one or two nodes;
        ``"unbiased"``: ‖ξ‖² / n over all n nodes, so that the trace estimates the gradient of log π. The estimate's
        noise grows with n: networks of thousands of nodes, as convolutional ones, want more noise samples or a lower
        learning rate
    :param n_noise_samples: Noisy passes K to average for each step (Eq. 12)
    :param antithetic: Whether each sample is a pair of passes with ξ and -ξ, and ρ half their difference: a central
        difference, for twice the passes
    :param clean_passes: None for a true clean pass. N ≥ 2 replaces it by the mean of N noisy passes, whose action
        probabilities the action is drawn from, also in ``predict`` (section 3.3)
    :param stats_window_size: Number of episodes that the logged return and length are averaged over
    :param tensorboard_log: Folder for TensorBoard, None for no log
    :param policy_kwargs: Arguments of the policy, see :class:`~sb3_nrl.policies.NoisyPolicy`
    :param verbose: 0 for no output, 1 for information, 2 for debug messages
    :param seed: Seed of all random numbers
    :param device: ``"cpu"``, ``"cuda"``, ... or ``"auto"``. On CUDA, TF32 is switched off for convolutions, in all of
        the process: it has too few digits for small noise
    :param _init_setup_model: Whether to build the network at once
    :raises ValueError: If an argument is out of range, with its name and what it takes
    """

    def __init__(
        self,
        policy: str | type[NoisyPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 5e-3,
        n_steps: int = 32,
        reward_prediction: str = "critic",
        reward_timing: str | None = None,
        reward_smoothing: float | None = None,
        scale_rpe: bool | None = None,
        gamma: float | None = None,
        ent_coef: float = 0.0,
        vf_coef: float = 1.0,
        trace_decay: float | None = None,
        max_grad_norm: float | None = 0.5,
        noise_std: float = 1e-2,
        noise_distribution: str = "gaussian",
        noise_normalization: str = "unbiased",
        n_noise_samples: int = 4,
        antithetic: bool = True,
        clean_passes: int | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            reward_prediction=reward_prediction,
            reward_timing=reward_timing,
            reward_smoothing=reward_smoothing,
            scale_rpe=scale_rpe,
            gamma=gamma,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            trace_decay=trace_decay,
            max_grad_norm=max_grad_norm,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
        )
        self.noise_std = noise_std
        self.noise_distribution = noise_distribution
        self.noise_normalization = noise_normalization
        self.n_noise_samples = n_noise_samples
        self.antithetic = antithetic
        self.clean_passes = clean_passes
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_noise(self.noise_std, self.noise_distribution, ORTHOGONAL)
        normalization = self.noise_normalization
        valid = normalization in NOISE_NORMALIZATIONS
        check("noise_normalization", normalization, valid, f"one of {NOISE_NORMALIZATIONS}")
        valid = normalization != "layer" or self.noise_distribution != ORTHOGONAL
        wanted = "'network' or 'unbiased' with orthogonal noise, which is not orthogonal within a layer"
        check("noise_normalization", normalization, valid, wanted)
        check("n_noise_samples", self.n_noise_samples, is_count(self.n_noise_samples), "a whole number, at least 1")
        check("antithetic", self.antithetic, isinstance(self.antithetic, bool), "True or False")
        valid = self.clean_passes is None or is_count(self.clean_passes, least=2)
        check("clean_passes", self.clean_passes, valid, "None, or a whole number of noisy passes, at least 2")

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.device.type == "cuda":
            # TF32 convolutions keep 10 bits of a pre-activation: too few to see small noise.
            th.backends.cudnn.allow_tf32 = False
        n_nodes = max(part.n_nodes for part in self.policy.parts)
        if self.noise_normalization == "unbiased" and n_nodes > _MANY_NODES * self._n_samples:
            warnings.warn(
                f"The network has {n_nodes} nodes. Estimated from {self._n_samples} noisy passes, an update is mostly "
                f"noise, about {math.sqrt(n_nodes / self._n_samples):.0f} times as long as the gradient: raise "
                "n_noise_samples, or lower learning_rate.",
                stacklevel=3,
            )

    def _policy_noise(self) -> dict[str, Any]:
        return {
            "noise_std": self.noise_std,
            "noise_distribution": self.noise_distribution,
            "clean_passes": self.clean_passes,
        }

    @property
    def _n_samples(self) -> int:
        return 2 * self.n_noise_samples if self.antithetic else self.n_noise_samples

    def _credit(self, steps: PendingSteps) -> tuple[Array, list[Array]]:
        obs, actions, network = steps.observations, steps.actions, self.network
        noise = network.sample_noise(len(actions), self.n_noise_samples)
        objectives, pre = network.noisy_pass(obs, actions, noise)
        if self.antithetic:
            opposites, opposite_pre = network.noisy_pass(obs, actions, -noise)
            rhos = [(noisy - opposite) / 2 for noisy, opposite in zip(objectives, opposites, strict=True)]
            # ρ and ξ change their signs together: both passes of a pair have the same post-synaptic factor.
            pre = [(x + opposite_x) / 2 for x, opposite_x in zip(pre, opposite_pre, strict=True)]
        else:
            clean = [steps.log_probs, *([network.values(obs)] if self.policy.critic else [])]
            rhos = [
                (noisy.reshape(self.n_noise_samples, -1) - value).reshape(-1)
                for noisy, value in zip(objectives, clean, strict=True)
            ]
        return self._post_synaptic(noise, rhos), pre

    def _post_synaptic(self, noise_BN: Array, rhos: list[Array]) -> Array:
        """ρ ξ / ‖ξ‖² with each part's ρ, by the rule that ``noise_normalization`` names."""
        post_BN = noise_BN / self.n_noise_samples
        for part, rho_B in zip(self.policy.parts, rhos, strict=True):
            nodes = part.nodes
            spans = [nodes]
            if self.noise_normalization == "unbiased":
                rho_B = rho_B * part.n_nodes
            elif self.noise_normalization == "layer":
                sites = self.policy.perturbation.sites
                spans = [site.nodes for site in sites if nodes.start <= site.nodes.start < nodes.stop]
            for span in spans:
                noise = noise_BN[:, span]
                # All the noise of a layer of one node can be 0.
                post_BN[:, span] *= (rho_B / ((noise * noise).sum(1) + _TINY))[:, None]
        return post_BN
