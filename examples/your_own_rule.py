"""A learning rule of your own: that of Miconi (2017). It uses neither the noise nor a second pass, and learns CartPole.

Each neuron computes the fluctuation of its pre-activation h around its running average h̄. Each synapse sums the cube
of its input times this fluctuation, e = Σ (x̃ · (h − h̄))³. If the reward is better than expected, the weights change
so that the fluctuations become more likely. The rule cannot distinguish fluctuations by noise from fluctuations by
observations. As in the paper, the noise is therefore rare and large, so that its cubes dominate the sum.

    python examples/your_own_rule.py

T. Miconi: Biologically plausible learning in recurrent neural networks reproduces neural dynamics observed during
cognitive tasks. eLife 6:e20899, 2017.
"""

import argparse
from typing import Any

import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_nrl import (
    Eligibility,
    LearningRule,
    Noise,
    OuterProducts,
    PerturbablePolicy,
    RolloutWindow,
    ThreeFactorAlgorithm,
)
from sb3_nrl.arrays import map_received


class CubedFluctuations(LearningRule):
    """
    Eligibility (x̃ · (h − h̄))³ at each synapse, with h̄ ← s h̄ + (1 − s) h after each step. h̄ is kept between episodes.

    :param noise: Noise for exploration: actions come from the noisy pass
    :param smoothing: s in [0, 1)
    """

    acts_with_noise = True

    def __init__(self, noise: Noise, smoothing: float) -> None:
        self.noise = noise
        self.smoothing = smoothing

    def eligibility(self, policy: PerturbablePolicy, window: RolloutWindow, carry: Any) -> tuple[Eligibility, Any]:
        assert window.noise is not None
        noisy = policy.noisy_pass(window.observations, window.actions, policy.array(window.noise))
        h_TEN = np.concatenate(noisy.potentials, axis=1).reshape(window.n_steps, window.n_envs, -1)
        average_EN = np.zeros_like(h_TEN[0]) if carry is None else carry
        fluctuations_TEN = np.empty_like(h_TEN)
        for t, h_EN in enumerate(h_TEN):
            fluctuations_TEN[t] = h_EN - average_EN
            average_EN = average_EN + (1 - self.smoothing) * fluctuations_TEN[t]
        post_BN = fluctuations_TEN.reshape(len(window.actions), -1) ** 3
        return OuterProducts(policy, post_BN, map_received(lambda x: x**3, noisy.received)), average_EN


def make_model(seed: int) -> ThreeFactorAlgorithm:
    """A network of two neurons, one for each action. Noise of ±100 decides the action, whatever the observation is."""
    return ThreeFactorAlgorithm(
        "MlpPolicy",
        VecNormalize(make_vec_env("CartPole-v1", n_envs=16, seed=seed), norm_reward=False),
        rule=CubedFluctuations(Noise(100.0, "rademacher", probability=0.1), smoothing=0.99),
        learning_rate=0.01,
        n_steps=128,
        reward_prediction="average",
        scale_rpe=False,
        max_grad_norm=None,
        norm_obs=False,
        policy_kwargs={"net_arch": [], "use_bias": False},
        seed=seed,
        device="cpu",
    )


def main() -> None:
    """Train, and evaluate before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=150_000, help="environment steps to train for")
    arguments = parser.parse_args()

    model = make_model(seed=0)
    env = model.get_env()
    assert env is not None
    before, _ = evaluate_policy(model, env, n_eval_episodes=20)
    model.learn(arguments.timesteps)
    after, _ = evaluate_policy(model, env, n_eval_episodes=20)
    print(f"mean return over 20 episodes: {before:.1f} before training, {after:.1f} after it")


if __name__ == "__main__":
    main()
