"""The exact-gradient baseline."""

from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.perturbation import PerturbablePolicy
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.reward_prediction import RewardPrediction, RewardTiming
from sb3_nrl.rules import Eligibility, LearningRule, OuterProducts
from sb3_nrl.three_factor import ThreeFactorAlgorithm


class ExactGradient(LearningRule):
    """
    Eligibility ∂ log π(a|s) / ∂h ⊗ x (Eq. 20), with h the pre-activations of a clean pass and x what the layers
    received in it; for the critic ∂V(s) / ∂h ⊗ x. Needs a backward pass.
    """

    def eligibility(self, policy: PerturbablePolicy, window: RolloutWindow, carry: Any) -> tuple[Eligibility, Any]:
        # A derivative by noise that is added to a pre-activation is a derivative by the pre-activation.
        noise_BN = th.zeros(len(window.actions), policy.n_nodes, device=policy.device, requires_grad=True)
        with th.enable_grad():
            clean = policy.noisy_pass(window.observations, window.actions, noise_BN, th)
            (post_BN,) = th.autograd.grad(th.stack(clean.objectives).sum(), noise_BN)
        return OuterProducts(policy, policy.array(post_BN), [_detach(policy, pre) for pre in clean.received]), None


def _detach(policy: PerturbablePolicy, pre: Any) -> Any:
    if isinstance(pre, list | tuple):
        return [_detach(policy, part) for part in pre]
    return None if pre is None else policy.array(pre.detach())


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
        n_steps: int = 32,
        reward_prediction: RewardPrediction = "critic",
        reward_timing: RewardTiming | None = None,
        reward_smoothing: float | None = None,
        scale_rpe: bool | None = None,
        gamma: float | None = None,
        ent_coef: float = 0.0,
        vf_coef: float = 1.0,
        trace_decay: float | None = None,
        max_grad_norm: float | None = 0.5,
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
            rule=ExactGradient(),
            learning_rate=learning_rate,
            n_steps=n_steps,
            reward_prediction=reward_prediction,
            gamma=gamma,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            reward_timing=reward_timing,
            reward_smoothing=reward_smoothing,
            scale_rpe=scale_rpe,
            trace_decay=trace_decay,
            max_grad_norm=max_grad_norm,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )
