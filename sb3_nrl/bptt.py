"""The exact-gradient baseline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from typing_extensions import Unpack

from sb3_nrl.arguments import SharedArguments
from sb3_nrl.arrays import Array, map_received
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.perturbation import PerturbablePolicy
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.rules import Eligibility, LearningRule, OuterProducts
from sb3_nrl.three_factor import ThreeFactorAlgorithm


class ExactGradient(LearningRule):
    """
    Eligibility ∂ log π(a|s) / ∂h ⊗ x (Eq. 20), with the pre-activations h and the layers' inputs x of a clean pass. For
    the critic it is ∂V(s) / ∂h ⊗ x. Needs a backward pass.
    """

    perturbs = "any"

    def eligibility(self, policy: PerturbablePolicy, window: RolloutWindow, carry: Any) -> tuple[Eligibility, Any]:
        # The derivative with respect to noise that is added to h is the derivative with respect to h.
        noise_BN = th.zeros(len(window.actions), policy.n_nodes, device=policy.device, requires_grad=True)
        with th.enable_grad():
            clean = policy.noisy_pass(
                window.observations, window.actions, noise_BN, th, window.states, window.starts_TE
            )
            objective_B = th.stack(clean.objectives).sum(0)
            received = map_received(lambda x: policy.array(x.detach()), clean.received)
            whole = [layer for layer in policy.layers if layer.n_nodes == 0]
            costs_B, costs = clean.costs, None
            if costs_B is not None:
                costs = GradientThroughTime(policy, costs_B, noise_BN, received)
            if policy.n_states > 0 or costs is not None or any(layer.learnable() for layer in whole):
                return GradientThroughTime(policy, objective_B, noise_BN, received, costs), None
            (post_BN,) = th.autograd.grad(objective_B.sum(), noise_BN)
        return OuterProducts(policy, post_BN, received), None


class GradientThroughTime:
    """
    The gradient of Σ_t w(t, e) log π(a|s) through the hidden states of a window: backpropagation through time.

    :param policy: The policy
    :param objective_B: What actor and critic are to increase, with its graph
    :param noise_BN: Zeros that were added to all pre-activations
    :param received: Pre-synaptic activity of each layer
    :param costs: The same for what the actor's activity costs, None if nothing
    """

    def __init__(
        self,
        policy: PerturbablePolicy,
        objective_B: th.Tensor,
        noise_BN: th.Tensor,
        received: list[Any],
        costs: Eligibility | None = None,
    ) -> None:
        self.policy, self.objective_B, self.noise_BN, self.received = policy, objective_B, noise_BN, received
        self.costs = costs

    def weighted_sum(self, weights_TE: np.ndarray, per_env: bool = False) -> Array:
        policy, n_envs = self.policy, weights_TE.shape[1] if per_env else 1
        received = list(self.received)
        for place, layer in enumerate(policy.layers):
            if layer.n_nodes == 0 and (parameters := layer.learnable()):
                masks = np.eye(n_envs, dtype=bool) if per_env else np.ones((1, 1), bool)
                gradients = [self._gradients(weights_TE * mask_E, parameters) for mask_E in masks]
                received[place] = [th.stack(parts).flatten(1) for parts in zip(*gradients, strict=True)]
        (post_BN,) = self._gradients(weights_TE, [self.noise_BN])
        sum_EW = policy.outer(policy.array(post_BN), received, n_envs)
        return sum_EW if per_env else sum_EW[0]

    def _gradients(self, weights_TE: np.ndarray, variables: Sequence[th.Tensor]) -> tuple[th.Tensor, ...]:
        weights_B = self.policy.array(weights_TE.ravel(), th)
        with th.enable_grad():
            objective = (weights_B * self.objective_B).sum()
        if not objective.requires_grad:  # nothing that learns changes what the actor's activity costs
            return tuple(th.zeros_like(variable) for variable in variables)
        return th.autograd.grad(objective, variables, retain_graph=True, materialize_grads=True)


class BPTT(ThreeFactorAlgorithm):
    """
    The exact policy gradient, by backpropagation, instead of :class:`~sb3_nrl.NRL`'s estimate. Rewards, traces and
    updates are the same. This is the only algorithm here with a backward pass.

    :class:`~sb3_nrl.ThreeFactorAlgorithm` documents all parameters.
    """

    def __init__(
        self,
        policy: str | type[NoisyPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-3,
        *,
        _init_setup_model: bool = True,
        **shared: Unpack[SharedArguments],
    ) -> None:
        super().__init__(policy, env, learning_rate, ExactGradient(), _init_setup_model=_init_setup_model, **shared)
