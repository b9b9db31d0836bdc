"""A critic that predicts the discounted sum of later rewards.

Shapes: T steps, E environments.
"""

from typing import Any

import numpy as np
from stable_baselines3.common.utils import explained_variance

from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.checks import check, is_number
from sb3_nrl.normalization import RewardScale
from sb3_nrl.perturbation import PerturbablePolicy
from sb3_nrl.reward_prediction.base import RewardErrors, RewardPredictor

DEFAULT_LAMBDA = 0.95
"""λ of TD(λ) unless ``trace_decay`` is given."""


class TDCritic(RewardPredictor):
    """
    A critic network V learns the discounted sum of later rewards by TD(λ): δ = r + γ V(s') − V(s) at every step.
    Traces end with the episode. V(s') is used after a time limit, and is 0 after a termination.

    :param gamma: Discount γ, in [0, 1]
    :param ent_coef: Coefficient of the entropy bonus: −ent_coef · log π(a|s) is added to each reward
    :param norm_reward: Whether to divide rewards by the running standard deviation of the discounted return
    :raises ValueError: If an argument is out of range
    """

    has_critic = True

    def __init__(self, gamma: float = 0.99, ent_coef: float = 0.0, norm_reward: bool = True) -> None:
        check("gamma", gamma, gamma == 0 or is_number(gamma, 0, 1), "in [0, 1]")
        check("ent_coef", ent_coef, ent_coef == 0 or is_number(ent_coef, 0), "finite and not negative")
        check("norm_reward", norm_reward, isinstance(norm_reward, bool), "None, True or False")
        self.gamma = gamma
        self.ent_coef = ent_coef
        self.norm_reward = norm_reward
        self.reward_scale = RewardScale(gamma) if norm_reward else None
        self.default_decay = DEFAULT_LAMBDA * gamma

    def take_over(self, previous: Any) -> None:
        if self.reward_scale is not None and getattr(previous, "reward_scale", None) is not None:
            self.reward_scale = previous.reward_scale
            self.reward_scale.gamma = self.gamma

    def restart(self) -> None:
        if self.reward_scale is not None:
            self.reward_scale.restart()

    def check_decay(self, decay: float) -> None:
        valid = decay == 0 or is_number(decay, 0, self.gamma)
        wanted = f"in [0, {self.gamma}], at most gamma, with a critic (None makes it {DEFAULT_LAMBDA} gamma)"
        check("trace_decay", decay, valid, wanted)

    def errors(self, policy: PerturbablePolicy, window: RolloutWindow, n_steps_per_batch: int) -> RewardErrors:
        batches, states = [], window.states
        for _, batch in window.batches(n_steps_per_batch):
            values, states = policy.values(batch.observations, states, batch.starts_TE)
            batches.append(values)
        last_starts = None if states is None else window.dones_TE[-1]
        values, _ = policy.values(window.last_observations, states, last_starts)
        values_TE = np.concatenate([*batches, values]).reshape(-1, window.n_envs)
        rewards_TE = window.rewards_TE
        if self.reward_scale is not None:
            rewards_TE = self.reward_scale.update(rewards_TE, window.dones_TE)
        rewards_TE = rewards_TE - self.ent_coef * window.log_probs.reshape(window.rewards_TE.shape).astype(float)
        rewards_TE += self.gamma * window.terminal_values_TE
        errors_TE = rewards_TE + self.gamma * values_TE[1:] * ~window.dones_TE - values_TE[:-1]
        targets_TE = values_TE[:-1] + errors_TE
        diagnostics = {
            "reward_prediction": float(values_TE[:-1].mean()),
            "value_loss": float((errors_TE * errors_TE).mean()),
            "explained_variance": float(explained_variance(values_TE[:-1].ravel(), targets_TE.ravel())),
        }
        return RewardErrors(errors_TE, window.dones_TE, errors_TE.size, diagnostics, values_TE[:-1])
