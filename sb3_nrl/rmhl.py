"""Reward-modulated Hebbian learning."""

from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_nrl.arrays import Array
from sb3_nrl.checks import check, check_noise
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.reward_modulated import RewardModulatedAlgorithm
from sb3_nrl.traces import PendingSteps


class RMHL(RewardModulatedAlgorithm):
    r"""
    Reward-modulated Hebbian learning, with the noise explicit: the older and weaker relative of :class:`~sb3_nrl.NRL`.

    Actions come from a noisy pass. The eligibility trace of each synapse sums the noise of the pass times the synapse's
    input in it, ξ ⊗ x̃ (Eq. 21): nothing tells which noise made the action likelier, so the reward alone has to.
    ``predict`` takes a clean pass.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a subclass of
        :class:`~sb3_nrl.policies.NoisyPolicy`
    :param env: The environment, or its registered name
    :param learning_rate: η, or a function of the remaining progress (from 1 to 0)
    :param n_steps: Steps of each environment that can wait before they are folded into the traces. Bounds the memory;
        does not change the result but for rounding
    :param reward_timing: When rewards count: ``"episode"``, at the episode's end; ``"nonzero"``, at every reward other
        than 0 and at the episode's end; ``"step"``, at every step, and the reward prediction starts anew with each
        episode, so that episodes of a single step teach nothing
    :param reward_smoothing: λ in (0, 1] of the running average of rewards that is the reward prediction (Eq. 15)
    :param scale_rpe: Whether to divide δ by \|r\|, for rewards of one sign whose size varies much, as CartPole's and
        Acrobot's. Switch it off where rewards come close to 0, since δ / \|r\| is huge there
    :param trace_decay: Factor per step on the eligibility trace, in (0, 1]; 1 keeps the full history, and is needed for
        rewards at every ``"step"``
    :param max_grad_norm: Largest norm of the change δ e over all weights, None for no bound
    :param noise_std: σ of the noise ξ, in the units of the pre-activations. The noise explores and carries the credit
        at once: it has to be large enough to change what happens
    :param noise_distribution: ``"gaussian"``, ``"uniform"``, ``"rademacher"`` or ``"poisson"``
    :param stats_window_size: Number of episodes that the logged return and length are averaged over
    :param tensorboard_log: Folder for TensorBoard, None for no log
    :param policy_kwargs: Arguments of the policy, see :class:`~sb3_nrl.policies.NoisyPolicy`
    :param verbose: 0 for no output, 1 for information, 2 for debug messages
    :param seed: Seed of all random numbers
    :param device: ``"cpu"``, ``"cuda"``, ... or ``"auto"``
    :param _init_setup_model: Whether to build the network at once
    :raises ValueError: If an argument is out of range, with its name and what it takes
    """

    _acts_with_noise = True

    def __init__(
        self,
        policy: str | type[NoisyPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 128,
        reward_timing: str = "episode",
        reward_smoothing: float = 0.66,
        scale_rpe: bool = True,
        trace_decay: float = 1.0,
        max_grad_norm: float | None = None,
        noise_std: float = 0.1,
        noise_distribution: str = "gaussian",
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
            reward_prediction="average",
            reward_timing=reward_timing,
            reward_smoothing=reward_smoothing,
            scale_rpe=scale_rpe,
            gamma=1.0,
            ent_coef=0.0,
            vf_coef=1.0,
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
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        check("reward_prediction", self.reward_prediction, not self._has_critic, '"average", since RMHL has no critic')
        super()._check_arguments()
        check_noise(self.noise_std, self.noise_distribution)

    def _policy_noise(self) -> dict[str, Any]:
        return {"noise_std": self.noise_std, "noise_distribution": self.noise_distribution}

    def _credit(self, steps: PendingSteps) -> tuple[Array, list[Array]]:
        assert steps.noise is not None
        return steps.noise, self.network.noisy_pass(steps.observations, steps.actions, steps.noise)[1]
