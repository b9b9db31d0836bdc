"""Diagnostics: how well an update points along the exact gradient, how well NeuroGym's trials go, and which
hyper-parameters a run has.

Shapes: T steps, E environments, W weights and biases of the network.
"""

import inspect
from collections import deque
from typing import Any, cast

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam

from sb3_nrl.arrays import Array
from sb3_nrl.reward_modulated import RewardModulatedAlgorithm

_EVERYWHERE_BUT_TENSORBOARD = ("stdout", "log", "json", "csv")

_NO_HYPERPARAMETERS = {"env", "learning_rate", "policy_kwargs", "tensorboard_log", "verbose", "_init_setup_model"}
"""Arguments of constructors that say nothing of how a run learns, or that are logged in a form of their own."""


class GradientAlignmentCallback(BaseCallback):
    """
    Logs ``train/alignment``: the cosine between the update Σ δ e and the exact gradient, on the same steps and with the
    same δ; averaged over the updates since the last log. The exact gradient is that of Σ δ log π(a|s) with π the clean
    pass, each log π decayed as the trace is; with a critic, of Σ δ (log π(a|s) + V(s)). BPTT's updates have a cosine
    of 1.

    Costs backward passes for each update and one trace per environment, so use it to look, not to train. It changes
    neither weights nor random numbers. Updates of length 0, and those that credit steps from before this callback was
    there, are left out.
    """

    def _on_training_start(self) -> None:
        if not isinstance(self.model, RewardModulatedAlgorithm):
            raise ValueError(
                f"GradientAlignmentCallback is for NRL, RMHL and BPTT, not for {type(self.model).__name__}."
            )
        self._gradient_EW: th.Tensor | float = 0.0
        self._complete_E = np.full(self.model.n_envs, self.model.num_timesteps == 0)
        self._n_resets = self.model.rollout_buffer.n_resets
        self.model.rollout_buffer.watchers.append(self._compare)

    def _compare(self, errors_TE: np.ndarray, restarts_TE: np.ndarray, change_W: Array) -> None:
        n_resets = cast(RewardModulatedAlgorithm, self.model).rollout_buffer.n_resets
        if n_resets != self._n_resets:  # the traces started anew
            self._n_resets, self._gradient_EW = n_resets, 0.0
            self._complete_E[:] = True
        exact_W = self._follow(errors_TE, restarts_TE)
        change = th.as_tensor(change_W)
        norms = th.linalg.vector_norm(change) * th.linalg.vector_norm(exact_W)
        if norms > 0 and self._complete_E[errors_TE.any(axis=0)].all():
            self.logger.record_mean("train/alignment", (change @ exact_W / norms).item())
        self._complete_E |= restarts_TE.any(axis=0)

    def _follow(self, errors_TE: np.ndarray, restarts_TE: np.ndarray) -> th.Tensor:
        """What ``fold`` does, for the exact gradient: by autograd alone, nothing shared with the rule."""
        model = cast(RewardModulatedAlgorithm, self.model)
        steps = model.rollout_buffer.waiting(model.network)
        n_steps, n_envs = errors_TE.shape
        weights_TE, kept_TE = np.empty((2, n_steps, n_envs), np.float32)
        weights_E, kept_E = np.zeros(n_envs), np.ones(n_envs)
        for step in reversed(range(n_steps)):
            lasts_E = ~restarts_TE[step]
            weights_E = weights_TE[step] = errors_TE[step] + lasts_E * weights_E
            kept_E = kept_TE[step] = lasts_E * kept_E
            weights_E, kept_E = model.decay * weights_E, model.decay * kept_E
        weights, kept, weights_of_old, kept_of_old = (
            th.as_tensor(values, dtype=th.float32, device=model.device)
            for values in (weights_TE, kept_TE, weights_E, kept_E)
        )
        parameters = model.policy.perturbation.parameters
        with th.enable_grad():
            obs, actions = steps.tensors()
            clean_parameters = model.policy._action_parameters(obs)
            objective = model.policy._distribution(clean_parameters).log_prob(actions)
            if model.policy.critic:
                objective = objective + model.policy._values(obs)[:, 0]
            objective_TE = objective.view(n_steps, n_envs)
            change = th.autograd.grad((weights * objective_TE).sum(), parameters, retain_graph=True)
            total_E = (kept * objective_TE).sum(0)
        each_env = th.eye(n_envs, device=model.device)
        gradients = th.autograd.grad(total_E, parameters, each_env, is_grads_batched=True)
        addend_EW = th.cat([gradient.flatten(1) for gradient in gradients], dim=1)
        old_EW = th.zeros_like(addend_EW) + self._gradient_EW
        self._gradient_EW = kept_of_old[:, None] * old_EW + addend_EW
        return th.cat([gradient.flatten() for gradient in change]) + weights_of_old @ old_EW

    def _on_step(self) -> bool:
        return True


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
        if isinstance(model, RewardModulatedAlgorithm):
            values["trace_decay"] = model.decay
        plain = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in values.items()}
        metrics = {"rollout/ep_rew_mean": 0.0, "eval/mean_reward": 0.0}
        self.logger.record("hparams", HParam(plain, metrics), exclude=_EVERYWHERE_BUT_TENSORBOARD)

    def _on_step(self) -> bool:
        return True
