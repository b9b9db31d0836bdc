"""Callbacks that log the cosine between updates and the exact gradient, NeuroGym's performance, and hyper-parameters.

Shapes: T steps, E environments, W weights and biases that learn.
"""

import inspect
from collections import deque
from typing import Any, cast

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam

from sb3_nrl.arrays import keep_random_state
from sb3_nrl.bptt import ExactGradient
from sb3_nrl.three_factor import ThreeFactorAlgorithm
from sb3_nrl.traces import EligibilityTraces
from sb3_nrl.updates import Update

_EVERYWHERE_BUT_TENSORBOARD = ("stdout", "log", "json", "csv")

_NO_HYPERPARAMETERS = {"env", "learning_rate", "policy_kwargs", "tensorboard_log", "verbose", "_init_setup_model"}
"""Arguments of constructors that do not affect learning, or that are logged separately."""


class GradientAlignmentCallback(BaseCallback):
    """
    Logs ``train/alignment``: the cosine between the first update of a window, Σ δ · trace, and the exact gradient,
    averaged over the windows since the last log. Both are computed from the same steps, with the same δ and the same
    decay of the traces. The exact gradient is BPTT's: that of Σ δ log π(a|s), or with a critic that of
    Σ δ (log π(a|s) + V(s)).

    Each update needs an additional backward pass and a second set of traces. The callback changes neither weights nor
    random numbers. It leaves out updates of length 0, and updates whose traces include steps before the callback
    started.
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
        with keep_random_state(model.policy.device):
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
    Logs ``rollout/performance``, the mean of ``info["performance"]`` over the last trials.

    The number of trials is the algorithm's ``stats_window_size``, as for ``rollout/ep_rew_mean``. Nothing is logged
    before the first trial ends, or if the environments give no ``performance``.
    """

    def _on_training_start(self) -> None:
        self.performances: deque[float] = deque(maxlen=self.model._stats_window_size)

    def _on_step(self) -> bool:
        infos = self.locals.get("infos", ())  # ARS has no infos
        self.performances.extend(info["performance"] for info in infos if "performance" in info)
        return True

    def _on_rollout_end(self) -> None:
        if self.performances:
            self.logger.record("rollout/performance", sum(self.performances) / len(self.performances))


class HyperparametersCallback(BaseCallback):
    """
    Logs the hyper-parameters of a run for TensorBoard's HPARAMS tab, beside its mean return, for any algorithm.

    Hyper-parameters are the arguments of the algorithm's constructor and its ``policy_kwargs``. If the learning rate is
    a schedule, its initial value is logged.
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
