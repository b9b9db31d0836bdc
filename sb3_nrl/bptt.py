"""The exact-gradient baseline."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from typing_extensions import Unpack

from sb3_nrl.arrays import Array, map_received
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.perturbation import PerturbablePolicy
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.rules import Eligibility, LearningRule, OuterProducts
from sb3_nrl.three_factor import SharedArguments, ThreeFactorAlgorithm


class ExactGradient(LearningRule):
    """
    Eligibility ∂ log π(a|s) / ∂h ⊗ x (Eq. 20), with h the pre-activations of a clean pass and x what the layers
    received in it; for the critic ∂V(s) / ∂h ⊗ x. Needs a backward pass.
    """

    def eligibility(self, policy: PerturbablePolicy, window: RolloutWindow, carry: Any) -> tuple[Eligibility, Any]:
        # A derivative by noise that is added to a pre-activation is a derivative by the pre-activation.
        noise_BN = th.zeros(len(window.actions), policy.n_nodes, device=policy.device, requires_grad=True)
        with th.enable_grad():
            clean = policy.noisy_pass(
                window.observations, window.actions, noise_BN, th, window.states, window.starts_TE
            )
            objective_B = th.stack(clean.objectives).sum(0)
            received = map_received(lambda x: policy.array(x.detach()), clean.received)
            if policy.n_states > 0:
                return GradientThroughTime(policy, objective_B, noise_BN, received), None
            (post_BN,) = th.autograd.grad(objective_B.sum(), noise_BN)
        return OuterProducts(policy, post_BN, received), None


class GradientThroughTime:
    """
    The gradient of Σ_t w(t, e) log π(a|s) through the hidden states of a window: backpropagation through time.

    :param policy: The policy
    :param objective_B: What actor and critic are to increase, with its graph
    :param noise_BN: Zeros that were added to all pre-activations
    :param received: Pre-synaptic activity of each layer
    """

    def __init__(
        self, policy: PerturbablePolicy, objective_B: th.Tensor, noise_BN: th.Tensor, received: list[Any]
    ) -> None:
        self.policy, self.objective_B, self.noise_BN, self.received = policy, objective_B, noise_BN, received

    def weighted_sum(self, weights_TE: np.ndarray, per_env: bool = False) -> Array:
        weights_B = self.policy.array(weights_TE.ravel(), th)
        with th.enable_grad():
            objective = (weights_B * self.objective_B).sum()
        (post_BN,) = th.autograd.grad(objective, self.noise_BN, retain_graph=True)
        sum_EW = self.policy.outer(self.policy.array(post_BN), self.received, weights_TE.shape[1] if per_env else 1)
        return sum_EW if per_env else sum_EW[0]


class BPTT(ThreeFactorAlgorithm):
    """
    The exact policy gradient in the place of :class:`~sb3_nrl.NRL`'s estimate: what backpropagation reaches with the
    same rewards, traces and updates, and the only algorithm here with a backward pass.

    :class:`~sb3_nrl.ThreeFactorAlgorithm` documents all parameters.
    """

    def __init__(
        self,
        policy: str | type[NoisyPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 5e-3,
        _init_setup_model: bool = True,
        **shared: Unpack[SharedArguments],
    ) -> None:
        super().__init__(policy, env, learning_rate, ExactGradient(), _init_setup_model=_init_setup_model, **shared)
