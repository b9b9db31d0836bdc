"""Eligibility traces.

Shapes: T steps, E environments, W weights and biases that learn.
"""

import math
from copy import deepcopy
from typing import NamedTuple

import numpy as np

from sb3_nrl.arrays import Array, like, norm
from sb3_nrl.checks import check
from sb3_nrl.rules import Eligibility


class TraceUpdate(NamedTuple):
    """
    The weight change of a window.

    :param change_W: Weight change before the learning rate, Σ_t Σ_e δ(t, e) · trace(t, e) (Eq. 16)
    :param trace_norm: Root mean square, over environments, of the norm of the trace at the last step. Only environments
        count whose last step has an error or ends a trace
    """

    change_W: Array
    trace_norm: float


class EligibilityTraces:
    """
    One eligibility trace for each environment and synapse, trace ← decay · trace + g(t) (Eq. 17).

    A trace is a weighted sum of eligibilities, and so is the weight change. Both are computed for a whole window at
    once. Since no weight changes within a window, the result is the same as with updates at every step.
    """

    trace_EW: Array | None = None
    """The traces, which updates change in place; None if all are 0."""

    def reset(self) -> None:
        """Set all traces to 0."""
        self.trace_EW = None

    def update(
        self, eligibility: Eligibility, errors_TE: np.ndarray, restarts_TE: np.ndarray, decay: float
    ) -> TraceUpdate:
        """
        Add a window to the traces, and sum its weight changes.

        :param eligibility: Eligibility of the window
        :param errors_TE: Reward prediction error δ at each step, 0 where no reward counts
        :param restarts_TE: Whether the trace is reset to 0 after the step
        :param decay: Factor per step on the traces, in [0, 1]
        :return: The weight change, and the norm of the traces
        :raises ValueError: If the eligibility's sums are not of the shapes that are documented
        """
        change_W: Array = 0.0
        if errors_TE[:-1].any():
            earlier_TE = errors_TE.copy()
            earlier_TE[-1] = 0
            future_TE = discounted_errors(earlier_TE, restarts_TE, decay)
            change_W = eligibility.weighted_sum(future_TE)
            if self.trace_EW is not None:
                change_W = change_W + like(future_TE[0] * decay, self.trace_EW) @ self.trace_EW
        remaining_TE, remaining_E = _remaining_factors(restarts_TE, decay)
        trace_EW = eligibility.weighted_sum(remaining_TE, per_env=True)
        shape, n_envs = np.shape(trace_EW), errors_TE.shape[1]
        valid = len(shape) == 2 and shape[0] == n_envs
        check("shape of weighted_sum(..., per_env=True)", shape, valid, f"({n_envs}, W), a row for each environment")
        shape, wanted = np.shape(change_W), shape[1:]
        check("shape of the rule's weighted_sum", shape, shape in ((), wanted), f"{wanted}, a number for each weight")
        if self.trace_EW is None:
            trace_EW = self.trace_EW = deepcopy(trace_EW)  # later windows change it in place
        else:
            self.trace_EW *= like(remaining_E[:, None], trace_EW)
            self.trace_EW += trace_EW
            trace_EW = self.trace_EW

        envs = np.flatnonzero(restarts_TE[-1] | (errors_TE[-1] != 0))
        rewarded_RW = trace_EW if len(envs) == n_envs else trace_EW[envs]
        trace_norm = norm(rewarded_RW) / math.sqrt(max(len(envs), 1))
        sum_W = like(errors_TE[-1, envs], trace_EW) @ rewarded_RW
        sum_W += change_W  # in place, since all weights of a large network take much memory
        trace_EW[np.flatnonzero(restarts_TE[-1])] = 0
        return TraceUpdate(sum_W, trace_norm)


def _remaining_factors(restarts_TE: np.ndarray, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """
    The factors with which each step's eligibility, and the traces before the window, contribute to the traces at the
    last step.
    """
    remaining_TE = np.ones(restarts_TE.shape)
    if decay < 1 or restarts_TE[:-1].any():
        remaining_TE[:-1] = np.cumprod(decay * ~restarts_TE[-2::-1], axis=0)[::-1]
    return remaining_TE, remaining_TE[0] * decay


def discounted_errors(errors_TE: np.ndarray, restarts_TE: np.ndarray, decay: float) -> np.ndarray:
    """
    Sum the errors from each step on, by the backward recursion of generalised advantage estimation (GAE).

    :param errors_TE: Reward prediction error δ at each step
    :param restarts_TE: Whether the trace is reset to 0 after the step
    :param decay: Factor per step on the traces
    :return: The decayed sum for each step, shape (T, E)
    """
    sums_TE = errors_TE.copy()
    for step in range(len(sums_TE) - 2, -1, -1):
        sums_TE[step] += sums_TE[step + 1] * decay * ~restarts_TE[step]
    return sums_TE
