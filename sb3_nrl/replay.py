"""Use the steps of a window again, with the weights as they have become.

Shapes: T steps, E environments, W weights and biases that learn.
"""

from collections.abc import Iterator

import numpy as np

from sb3_nrl.arrays import Array
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.perturbation import PerturbablePolicy
from sb3_nrl.reward_prediction import RewardErrors
from sb3_nrl.rules import LearningRule, eligibilities
from sb3_nrl.traces import discounted_errors


def replays(
    policy: PerturbablePolicy,
    rule: LearningRule,
    window: RolloutWindow,
    errors: RewardErrors,
    decay: float,
    clip_range: float,
    n_steps: int,
    n_replays: int,
) -> Iterator[tuple[Array, dict[str, float]]]:
    """
    Compute repeated weight changes, each with the weights as they are when it is asked for.

    The advantage of a step is the decayed sum of the reward prediction errors from it to the end of the window, as they
    were when the window was new. The actor's factors are those of PPO's clipped objective (Schulman et al. 2017): the
    advantage times the ratio π(a|s) / π_old(a|s), and 0 where the ratio has already left the clip range in the
    direction of the advantage. The critic's are the differences between the values that it was to learn and those that
    it has now.

    :param policy: The policy, with a critic
    :param rule: The learning rule
    :param window: The steps
    :param errors: Their reward prediction errors
    :param decay: Factor per step on the traces
    :param clip_range: How far the ratio may be from 1
    :param n_steps: Maximum number of steps of one batch of passes
    :param n_replays: Number of repeated updates
    :return: Weight changes before clipping and learning rate, shape (W,), and numbers to log, by name
    """
    advantages_TE = discounted_errors(errors.errors_TE, errors.restarts_TE, decay)
    for _ in range(n_replays):
        objectives, states = [], window.states
        for _, batch in window.batches(n_steps):
            clean = policy.noisy_pass(batch.observations, batch.actions, None, states=states, starts_TE=batch.starts_TE)
            objectives.append([policy.numpy(part) for part in clean.objectives])
            states = clean.states
        log_probs, values = (np.concatenate(parts) for parts in zip(*objectives, strict=True))
        log_ratio_TE = (log_probs - window.log_probs).reshape(advantages_TE.shape).astype(float)
        ratio_TE = np.exp(log_ratio_TE)
        is_clipped_TE = np.where(advantages_TE > 0, ratio_TE > 1 + clip_range, ratio_TE < 1 - clip_range)
        assert errors.values_TE is not None
        actor_TE = np.where(is_clipped_TE, 0.0, advantages_TE * ratio_TE)
        critic_TE = errors.values_TE + advantages_TE - values.reshape(advantages_TE.shape)
        change_W: Array = 0.0
        for piece in eligibilities(policy, rule, window._replace(log_probs=log_probs), n_steps, None):
            sums = [piece.eligibility.weighted_sum(factors_TE[piece.steps]) for factors_TE in (actor_TE, critic_TE)]
            own = [sum_W[part.weights] for sum_W, part in zip(sums, policy.parts, strict=True)]
            change_W = change_W + policy.xp.concatenate(own)
            if piece.cost_W is not None:
                change_W = change_W - piece.cost_W
        clip_fraction = float((np.abs(ratio_TE - 1) > clip_range).mean())
        yield change_W, {"approx_kl": float((ratio_TE - 1 - log_ratio_TE).mean()), "clip_fraction": clip_fraction}
