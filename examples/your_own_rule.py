"""A learning rule of your own: Miconi's (2017), which knows neither the noise nor a second pass.

Each neuron notices how far its pre-activation h is from its running average h̄, and each synapse remembers the cube of
that fluctuation times its input, e = Σ (x̃ · (h − h̄))³. The cube makes large fluctuations, which mostly are exploration,
count more than small ones, which mostly are not. A reward that is better than expected then repeats them.

T. Miconi: Biologically plausible learning in recurrent neural networks reproduces neural dynamics observed during
cognitive tasks. eLife 6:e20899, 2017.
"""

from typing import Any

import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_nrl import Eligibility, LearningRule, OuterProducts, ThreeFactorAlgorithm
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.noise import Noise
from sb3_nrl.policies import NoisyPolicy


class CubedFluctuations(LearningRule):
    """
    Eligibility (x̃ · (h − h̄))³ at each synapse, with h̄ ← s h̄ + (1 − s) h after each step of an episode.

    :param noise: Noise that explores: actions come from the noisy pass
    :param smoothing: s in [0, 1), for MLPs with discrete actions
    """

    acts_with_noise = True

    def __init__(self, noise: Noise, smoothing: float) -> None:
        self.noise = noise
        self.smoothing = smoothing

    def eligibility(self, policy: NoisyPolicy, window: RolloutWindow, carry: Any) -> tuple[Eligibility, Any]:
        noisy = policy.noisy_pass(window.observations, window.actions, policy.array(window.noise))
        h_TEN = np.concatenate(noisy.potentials, axis=1).reshape(window.n_steps, window.n_envs, -1)
        fluctuations_TEN = np.empty_like(h_TEN)
        average_EN = h_TEN[0] if carry is None else np.where(np.isnan(carry), h_TEN[0], carry)
        for t, h_EN in enumerate(h_TEN):
            fluctuations_TEN[t] = h_EN - average_EN
            average_EN = self.smoothing * average_EN + (1 - self.smoothing) * h_EN
            if t + 1 < window.n_steps:
                average_EN[window.dones_TE[t]] = h_TEN[t + 1][window.dones_TE[t]]
        average_EN[window.dones_TE[-1]] = np.nan
        pre = [None if x is None else x**3 for x in noisy.received]
        return OuterProducts(policy, fluctuations_TEN.reshape(len(window.actions), -1) ** 3, pre), average_EN
