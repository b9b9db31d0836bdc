"""Reward-modulated Hebbian learning."""

from typing import Any

from stable_baselines3.common.type_aliases import GymEnv, Schedule
from typing_extensions import Unpack

from sb3_nrl.arguments import SharedArguments
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.checks import check
from sb3_nrl.noise import NOISE_DISTRIBUTIONS, Noise, NoiseDistribution
from sb3_nrl.perturbation import PerturbablePolicy
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.rules import Eligibility, LearningRule, OuterProducts
from sb3_nrl.three_factor import ThreeFactorAlgorithm


class HebbianExploration(LearningRule):
    """
    Eligibility ξ ⊗ x̃ (Eq. 21), with ξ the noise of the pass that chose the action.

    :param noise: Noise of the pass that chooses the action
    """

    acts_with_noise = True

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def check(self) -> None:
        super().check()
        assert self.noise is not None
        name, known = self.noise.distribution, tuple(NOISE_DISTRIBUTIONS)
        check("noise_distribution", name, name in known, f"one of {known}")

    def eligibility(self, policy: PerturbablePolicy, window: RolloutWindow, carry: Any) -> tuple[Eligibility, Any]:
        assert window.noise is not None
        noise = policy.array(window.noise)
        received = policy.noisy_pass(
            window.observations, window.actions, noise, states=window.states, starts_TE=window.starts_TE
        ).received
        return OuterProducts(policy, noise, received), None


class RMHL(ThreeFactorAlgorithm):
    """
    Reward-modulated Hebbian learning with explicit noise: an older rule, which learns less than :class:`~sb3_nrl.NRL`.

    Actions in training come from a noisy pass. The trace of each synapse sums the noise times the input of the synapse,
    ξ ⊗ x̃ (Eq. 21). The rule does not measure which noise made the action more likely; only the reward depends on it. A
    running average predicts the rewards. ``predict`` uses a clean pass.

    The parameters below are RMHL's own. :class:`~sb3_nrl.ThreeFactorAlgorithm` documents all others.

    :param noise_std: Standard deviation σ of the noise, in the units of the pre-activations. The noise is both the
        exploration and the post-synaptic factor. It must be large enough to change actions
    :param noise_distribution: ``"gaussian"``, ``"uniform"``, ``"rademacher"`` or ``"poisson"``
    :param noise_probability: Probability that a node gets noise at a step. Rare noise with a large σ lets recurrent
        networks settle between perturbations (Miconi 2017)
    :raises ValueError: If an argument is out of range. The message has its name and the valid values
    """

    shared_defaults = SharedArguments(n_steps=128, reward_prediction="average", max_grad_norm=None)

    def __init__(
        self,
        policy: str | type[NoisyPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        *,
        noise_std: float = 0.1,
        noise_distribution: NoiseDistribution = "gaussian",
        noise_probability: float = 1.0,
        _init_setup_model: bool = True,
        **shared: Unpack[SharedArguments],
    ) -> None:
        arguments: SharedArguments = {**self.shared_defaults, **shared}
        super().__init__(policy, env, learning_rate=learning_rate, _init_setup_model=False, **arguments)
        self.noise_std = noise_std
        self.noise_distribution: NoiseDistribution = noise_distribution
        self.noise_probability = noise_probability
        if _init_setup_model:
            self._setup_model()

    def make_rule(self) -> HebbianExploration:
        prediction = self.reward_prediction
        check("reward_prediction", prediction, prediction == "average", '"average", since RMHL has no critic')
        return HebbianExploration(Noise(self.noise_std, self.noise_distribution, self.noise_probability))
