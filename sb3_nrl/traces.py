"""The eligibility traces of all environments, and the steps that wait to be folded into them.

Shapes: T pending steps, E environments, S noise samples, N nodes of the network, W weights and biases of the network,
R environments that got a reward.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_nrl.perturbation import NodePerturbation

_OBSERVATIONS = "observations/"


class PendingSteps(NamedTuple):
    """
    Steps whose pre- and post-synaptic activity is still to be formed; the rows of one step are adjacent.

    :param observations: Shape (T · E, \\*observation shape), a dictionary of such tensors for a ``Dict`` space
    :param actions: Shape (T · E, \\*action shape)
    :param log_probs: log π(a|s) of the pass that chose the action, shape (T · E,)
    :param noise: ξ of the pass that chose the action, shape (T · E, N), or None if it was a clean pass
    """

    observations: PyTorchObs
    actions: th.Tensor
    log_probs: th.Tensor
    noise: th.Tensor | None


class EligibilityTraceBuffer:
    """
    One eligibility trace per environment and synapse (Eq. 17).

    A trace is a sum of outer products over time, and such a sum is one matrix product. So steps are kept as they come,
    and folded into the traces many at a time: at a reward time, or when ``n_steps`` of them wait. Provided that no
    weight changes in between, the result is that of a trace updated at every step.

    :param n_steps: How many steps of each environment can wait
    :param n_envs: Number of environments
    :param trace_decay: Factor per step on the traces, in (0, 1]
    :param device: Where the traces are kept
    """

    def __init__(self, n_steps: int, n_envs: int, trace_decay: float, device: th.device) -> None:
        self.n_steps = n_steps
        self.n_envs = n_envs
        self.trace_decay = trace_decay
        self.device = device
        self.reset()

    @property
    def full(self) -> bool:
        """Whether no further step can wait."""
        return self.pos == self.n_steps

    def reset(self) -> None:
        """Forget the traces and the waiting steps of all environments."""
        self.trace_EW: th.Tensor | None = None
        self.pos = 0
        self._rows: dict[str, np.ndarray] = {}

    def add(
        self,
        observations: np.ndarray | dict[str, np.ndarray],
        actions: np.ndarray,
        log_probs: np.ndarray,
        noise: np.ndarray | None = None,
    ) -> None:
        """
        Let one step of every environment wait.

        :param observations: What the policy saw, shape (E, \\*observation shape) or a dictionary of such arrays
        :param actions: What it did, shape (E, \\*action shape)
        :param log_probs: log π(a|s), shape (E,)
        :param noise: ξ that the action was chosen with, shape (E, N), if any
        """
        values = {"actions": actions, "log_probs": log_probs}
        if noise is not None:
            values["noise"] = noise
        if isinstance(observations, dict):
            values |= {_OBSERVATIONS + key: value for key, value in observations.items()}
        else:
            values[_OBSERVATIONS] = observations
        if not self._rows:
            self._rows = {name: np.empty((self.n_steps, *value.shape), value.dtype) for name, value in values.items()}
        for name, value in values.items():
            self._rows[name][self.pos] = value
        self.pos += 1

    def fold(
        self,
        credit: Callable[[PendingSteps], tuple[th.Tensor, list[th.Tensor]]],
        perturbation: NodePerturbation,
        n_at_once: int,
    ) -> None:
        """
        Add the waiting steps to the traces: e ← γᵀ e + Σ_t γ^(T-1-t) post(t) ⊗ pre(t), with γ the trace decay.

        :param credit: Forms the factors of T steps: post of shape (S · T · E, N), and what each layer received
        :param perturbation: Forms their outer products
        :param n_at_once: Most steps T to fold at once
        """
        for start in range(0, self.pos, n_at_once):
            n_steps = min(n_at_once, self.pos - start)
            post_BN, pre = credit(self._steps(slice(start, start + n_steps)))
            if self.trace_decay < 1:
                decay_T = self.trace_decay ** th.arange(n_steps - 1, -1, -1, device=self.device)
                post_STEN = post_BN.view(-1, n_steps, self.n_envs, post_BN.shape[1])
                post_BN = (post_STEN * decay_T[:, None, None]).flatten(0, 2)
            sum_EW = perturbation.outer(post_BN, pre, self.n_envs)
            if self.trace_EW is None:
                self.trace_EW = sum_EW
            else:
                self.trace_EW.mul_(self.trace_decay**n_steps).add_(sum_EW)
        self.pos = 0

    def _steps(self, steps: slice) -> PendingSteps:
        rows = {name: th.as_tensor(row[steps], device=self.device).flatten(0, 1) for name, row in self._rows.items()}
        observations = {
            name.removeprefix(_OBSERVATIONS): row for name, row in rows.items() if name.startswith(_OBSERVATIONS)
        }
        return PendingSteps(observations.get("", observations), rows["actions"], rows["log_probs"], rows.get("noise"))

    def modulate(self, errors: np.ndarray, rewarded: np.ndarray) -> tuple[th.Tensor, float]:
        """
        The weight change before the learning rate, Σ_i δ_i e_i (Eq. 16). Rewarded traces start anew.

        :param errors: Reward prediction error δ of each environment, 0 where no reward came, shape (E,)
        :param rewarded: Where a reward came, booleans of shape (E,)
        :return: The change, shape (W,), and the norm of the rewarded traces (root of the mean square)
        """
        assert self.trace_EW is not None
        if rewarded.all():
            trace_RW, self.trace_EW = self.trace_EW, None
        else:
            places = th.as_tensor(np.flatnonzero(rewarded), device=self.device)
            trace_RW = self.trace_EW[places]
            self.trace_EW[places] = 0
        change_W = th.as_tensor(errors[rewarded], dtype=th.float32, device=self.device) @ trace_RW
        return change_W, th.linalg.vector_norm(trace_RW).item() / math.sqrt(len(trace_RW))
