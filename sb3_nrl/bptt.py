"""The exact-gradient baseline."""

from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_nrl.arrays import Array
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.reward_modulated import RewardModulatedAlgorithm
from sb3_nrl.traces import PendingSteps


class BPTT(RewardModulatedAlgorithm):
    r"""
    The exact policy gradient in the place of :class:`~sb3_nrl.NRL`'s estimate: what backpropagation reaches with the
    same rewards, traces and updates (Eq. 20), and the only algorithm here with a backward pass.

    The eligibility trace of each synapse sums ∂ log π(a|s) / ∂h ⊗ x, with h the pre-activations and x the synapse's
    input in the clean pass.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a subclass of
        :class:`~sb3_nrl.policies.NoisyPolicy`
    :param env: The environment, or its registered name
    :param learning_rate: η, or a function of the remaining progress (from 1 to 0)
    :param n_steps: Steps of each environment that can wait before they are folded into the traces. With a critic, the
        steps between two changes of the weights, and fewer before the last one of a ``learn`` whose steps it does not
        divide; else it bounds the memory, and does not change the result but for rounding
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
    :param max_grad_norm: Largest norm of the change Σ δ e, of the policy and of the critic each, None for no bound. A
        sum over many steps nearly always has a larger one than the default, so that changes have this length whatever
        the size of the rewards; that keeps single surprises from spoiling a policy
    :param stats_window_size: Number of episodes that the logged return and length are averaged over
    :param tensorboard_log: Folder for TensorBoard, None for no log
    :param policy_kwargs: Arguments of the policy, see :class:`~sb3_nrl.policies.NoisyPolicy`
    :param verbose: 0 for no output, 1 for information, 2 for debug messages
    :param seed: Seed of all random numbers
    :param device: ``"cpu"``, ``"cuda"``, ... or ``"auto"``
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
        if _init_setup_model:
            self._setup_model()

    def _credit(self, steps: PendingSteps) -> tuple[Array, list[Array]]:
        # A derivative by noise that is added to a pre-activation is a derivative by the pre-activation.
        noise = th.zeros(len(steps.actions), self.policy.perturbation.n_nodes, device=self.device, requires_grad=True)
        with th.enable_grad():
            objectives, pre = self.policy.noisy_pass(*steps.tensors(), noise)
            (post,) = th.autograd.grad(th.stack(objectives).sum(), noise)
        return self.network.array(post), [self.network.array(x.detach()) for x in pre]
