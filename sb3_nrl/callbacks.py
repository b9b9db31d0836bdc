"""Diagnostics: the angle between updates and the exact gradient, the performance in NeuroGym's trials, and a run's
hyper-parameters.

Shapes: T steps, E environments, W weights and biases that learn.
"""

import inspect
from collections import deque
from typing import Any, cast

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam

from sb3_nrl.bptt import ExactGradient
from sb3_nrl.three_factor import ThreeFactorAlgorithm
from sb3_nrl.traces import EligibilityTraces
from sb3_nrl.updates import Update

_EVERYWHERE_BUT_TENSORBOARD = ("stdout", "log", "json", "csv")

_NO_HYPERPARAMETERS = {"env", "learning_rate", "policy_kwargs", "tensorboard_log", "verbose", "_init_setup_model"}
"""Arguments of constructors that say nothing of how a run learns, or that are logged in a form of their own."""


class GradientAlignmentCallback(BaseCallback):
    """
    Logs ``train/alignment``: the cosine between the update Σ δ · trace and the exact gradient, on the same steps and
    with the same δ, averaged over the updates since the last log. The exact gradient is BPTT's, that of
    Σ δ log π(a|s), with a critic of Σ δ (log π(a|s) + V(s)), by traces with the same decay.

    Needs a backward pass for each update and a second set of traces. It changes neither weights nor random numbers.
    Updates of length 0, and those that credit steps from before this callback was there, are left out.
    """

    def _on_training_start(self) -> None:
        if not isinstance(self.model, ThreeFactorAlgorithm):
            raise ValueError(
                f"GradientAlignmentCallback is for NRL, RMHL and BPTT, not for {type(self.model).__name__}."
            )
        self._traces = EligibilityTraces()
        self._complete_E = np.full(self.model.n_envs, self.model.num_timesteps == 0)
        self.model.watchers.append(self._compare)

    def _compare(self, update: Update) -> None:
        model = cast(ThreeFactorAlgorithm, self.model)
        errors_TE, restarts_TE = update.errors.errors_TE, update.errors.restarts_TE
        if not update.had_traces:
            self._traces.reset()
            self._complete_E[:] = True
        eligibility, _ = ExactGradient().eligibility(model.policy, update.window, None)
        exact_W, change_W = (
            th.as_tensor(change, dtype=th.float64)
            for change in (
                self._traces.update(eligibility, errors_TE, restarts_TE, model.decay).change_W,
                update.change_W,
            )
        )
        norms = th.linalg.vector_norm(change_W) * th.linalg.vector_norm(exact_W)
        if norms > 0 and self._complete_E[errors_TE.any(axis=0)].all():
            self.logger.record_mean("train/alignment", (change_W @ exact_W / norms).item())
        self._complete_E |= restarts_TE.any(axis=0)

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
        if isinstance(model, ThreeFactorAlgorithm):
            values["trace_decay"] = model.decay
        plain = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in values.items()}
        metrics = {"rollout/ep_rew_mean": 0.0, "eval/mean_reward": 0.0}
        self.logger.record("hparams", HParam(plain, metrics), exclude=_EVERYWHERE_BUT_TENSORBOARD)

    def _on_step(self) -> bool:
        return True
