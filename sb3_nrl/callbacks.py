"""Diagnostics: how well an update points along the exact gradient, how well NeuroGym's trials go, and which
hyper-parameters a run has.

Shapes: T steps, E environments, W weights and biases of the network.
"""

import inspect
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam

from sb3_nrl.arrays import Array
from sb3_nrl.reward_modulated import RewardModulatedAlgorithm
from sb3_nrl.traces import PendingSteps

_EVERYWHERE_BUT_TENSORBOARD = ("stdout", "log", "json", "csv")

_NO_HYPERPARAMETERS = {"env", "learning_rate", "policy_kwargs", "tensorboard_log", "verbose", "_init_setup_model"}
"""Arguments of constructors that say nothing of how a run learns, or that are logged in a form of their own."""


class GradientAlignmentCallback(BaseCallback):
    """
    Logs ``train/alignment``: the cosine between the update Σ δ e and the exact policy gradient on the same steps, with
    the same δ; averaged over the updates since the last log. The exact gradient is that of δ Σ log π(a|s) with π the
    clean pass, each log π decayed as the trace is. BPTT's updates have a cosine of 1.

    Costs one backward pass per step and one trace per environment, so use it to look, not to train. It changes neither
    weights nor random numbers. Updates of length 0, and those that credit steps from before this callback was there,
    are left out.
    """

    def _on_training_start(self) -> None:
        if not isinstance(self.model, RewardModulatedAlgorithm):
            raise ValueError(
                f"GradientAlignmentCallback is for NRL, RMHL and BPTT, not for {type(self.model).__name__}."
            )
        self._gradient_EW: th.Tensor | float = 0.0
        self._complete_E = np.full(self.model.n_envs, self.model.num_timesteps == 0)
        self._watch(self.model)

    def _watch(self, model: RewardModulatedAlgorithm) -> None:
        """See what is folded into the traces, and what becomes of them, without a place in the training loop."""
        # The methods of the buffer, since a checkpoint saves all attributes of the model, but not its buffer.
        buffer = model.rollout_buffer
        plain_fold, plain_modulate = type(buffer).fold, type(buffer).modulate

        def fold(credit: Callable[[PendingSteps], Any], *arguments: Any) -> None:
            def watched(steps: PendingSteps) -> Any:
                self._add(model, steps)
                return credit(steps)

            plain_fold(buffer, watched, *arguments)

        def modulate(errors: np.ndarray, rewarded: np.ndarray, *arguments: Any) -> tuple[Array, float]:
            change_W, trace_norm = plain_modulate(buffer, errors, rewarded, *arguments)
            self._compare(th.as_tensor(change_W), errors, rewarded)
            return change_W, trace_norm

        vars(buffer).update(fold=fold, modulate=modulate)

    def _add(self, model: RewardModulatedAlgorithm, steps: PendingSteps) -> None:
        """What ``fold`` does to the traces, for the exact gradient: by autograd alone, nothing shared with the rule."""
        n_steps = len(steps.actions) // model.n_envs
        decay_T = model.trace_decay ** th.arange(n_steps - 1, -1, -1, device=model.device)
        parameters = model.policy.perturbation.parameters
        with th.enable_grad():
            obs = steps.observations if isinstance(steps.observations, dict) else th.as_tensor(steps.observations)
            log_probs = model.policy.get_distribution(obs).log_prob(th.as_tensor(steps.actions))
            total_E = (decay_T[:, None] * log_probs.view(n_steps, model.n_envs)).sum(0)
        each_env = th.eye(model.n_envs, device=model.device)
        gradients = th.autograd.grad(total_E, parameters, each_env, is_grads_batched=True)
        addend_EW = th.cat([gradient.flatten(1) for gradient in gradients], dim=1)
        self._gradient_EW = model.trace_decay**n_steps * self._gradient_EW + addend_EW

    def _compare(self, change_W: th.Tensor, errors: np.ndarray, rewarded: np.ndarray) -> None:
        assert isinstance(self._gradient_EW, th.Tensor)
        rewarded_E = th.as_tensor(rewarded, device=change_W.device)
        delta_R = th.as_tensor(errors[rewarded], dtype=change_W.dtype, device=change_W.device)
        exact_W = delta_R @ self._gradient_EW[rewarded_E]
        norms = th.linalg.vector_norm(change_W) * th.linalg.vector_norm(exact_W)
        if norms > 0 and self._complete_E[rewarded].all():
            self.logger.record_mean("train/alignment", (change_W @ exact_W / norms).item())
        self._gradient_EW[rewarded_E] = 0
        self._complete_E |= rewarded

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        for method in ("fold", "modulate"):
            vars(self.model.rollout_buffer).pop(method, None)  # type: ignore[attr-defined]


class PerformanceCallback(BaseCallback):
    """
    Logs ``rollout/performance``, the mean ``performance`` of the last trials that the environments' ``info`` tells of.

    The number of trials is the algorithm's ``stats_window_size``, as it is for ``rollout/ep_rew_mean``. Nothing is
    logged before a trial has ended, or if the environments tell of none.
    """

    def _on_training_start(self) -> None:
        self.performances: deque[float] = deque(maxlen=self.model._stats_window_size)

    def _on_step(self) -> bool:
        infos = self.locals.get("infos", ())  # ARS tells of none
        self.performances.extend(info["performance"] for info in infos if "performance" in info)
        return True

    def _on_rollout_end(self) -> None:
        if self.performances:
            self.logger.record("rollout/performance", sum(self.performances) / len(self.performances))


class HyperparametersCallback(BaseCallback):
    """
    Shows the hyper-parameters of a run in TensorBoard's HPARAMS tab, beside its mean return, whatever the algorithm.

    They are the arguments of the algorithm's constructor and its ``policy_kwargs``; of a schedule for the learning
    rate, the value at the start.
    """

    def _on_training_start(self) -> None:
        model = self.model
        names = inspect.signature(type(model)).parameters.keys() - _NO_HYPERPARAMETERS
        values: dict[str, Any] = {
            "algorithm": type(model).__name__,
            "n_envs": model.n_envs,
            "learning_rate": model.lr_schedule(1.0),
            **{name: vars(model)[name] for name in names if name in vars(model)},
            **{f"policy_kwargs/{name}": value for name, value in model.policy_kwargs.items()},
            "policy": type(model.policy).__name__,
        }
        plain = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in values.items()}
        metrics = {"rollout/ep_rew_mean": 0.0, "eval/mean_reward": 0.0}
        self.logger.record("hparams", HParam(plain, metrics), exclude=_EVERYWHERE_BUT_TENSORBOARD)

    def _on_step(self) -> bool:
        return True
