"""The eligibility traces of all environments, and the steps that wait to be folded into them.

Shapes: T pending steps, E environments, S noise samples, N nodes of the network, W weights and biases of the network,
R environments that got a reward.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sb3_nrl.arrays import Array
from sb3_nrl.networks import TorchNetwork

_OBSERVATIONS = "observations/"


class PendingSteps(NamedTuple):
    """
    Steps whose pre- and post-synaptic activity is still to be formed; the rows of one step are adjacent.

    :param observations: Shape (T · E, \\*observation shape), a dictionary of such arrays for a ``Dict`` space
    :param actions: Shape (T · E, \\*action shape)
    :param log_probs: log π(a|s) of the pass that chose the action, shape (T · E,)
    :param noise: ξ of the pass that chose the action, shape (T · E, N), or None if it was a clean pass
    """

    observations: Any
    actions: Array
    log_probs: Array
    noise: Array | None


class EligibilityTraceBuffer:
    """
    One eligibility trace per environment and synapse (Eq. 17).

    A trace is a sum of outer products over time, and such a sum is one matrix product. So steps are kept as they come,
    and folded into the traces many at a time: at a reward time, or when ``n_steps`` of them wait. Provided that no
    weight changes in between, the result is that of a trace updated at every step.

    :param n_steps: How many steps of each environment can wait
    :param n_envs: Number of environments
    :param trace_decay: Factor per step on the traces, in (0, 1]
    """

    def __init__(self, n_steps: int, n_envs: int, trace_decay: float) -> None:
        self.n_steps = n_steps
        self.n_envs = n_envs
        self.trace_decay = trace_decay
        self.reset()

    @property
    def full(self) -> bool:
        """Whether no further step can wait."""
        return self.pos == self.n_steps

    def reset(self) -> None:
        """Forget the traces and the waiting steps of all environments."""
        self.trace_EW: Array | None = None
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
        self, credit: Callable[[PendingSteps], tuple[Array, list[Array]]], network: TorchNetwork, n_at_once: int
    ) -> None:
        """
        Add the waiting steps to the traces: e ← γᵀ e + Σ_t γ^(T-1-t) post(t) ⊗ pre(t), with γ the trace decay.

        :param credit: Forms the factors of T steps: post of shape (S · T · E, N), and what each layer received
        :param network: Sums their outer products
        :param n_at_once: Most steps T to fold at once
        """
        for start in range(0, self.pos, n_at_once):
            n_steps = min(n_at_once, self.pos - start)
            post_BN, pre = credit(self._steps(slice(start, start + n_steps), network))
            if self.trace_decay < 1:
                decay_T = network.array((self.trace_decay ** np.arange(n_steps - 1, -1, -1)).astype(np.float32))
                post_STEN = post_BN.reshape(-1, n_steps, self.n_envs, post_BN.shape[1])
                post_BN = (post_STEN * decay_T[:, None, None]).reshape(post_BN.shape)
            sum_EW = network.outer(post_BN, pre, self.n_envs)
            if self.trace_EW is None:
                self.trace_EW = sum_EW
            else:
                self.trace_EW *= self.trace_decay**n_steps
                self.trace_EW += sum_EW
        self.pos = 0

    def _steps(self, steps: slice, network: TorchNetwork) -> PendingSteps:
        rows = {name: network.array(row[steps].reshape(-1, *row.shape[2:])) for name, row in self._rows.items()}
        observations = {
            name.removeprefix(_OBSERVATIONS): row for name, row in rows.items() if name.startswith(_OBSERVATIONS)
        }
        return PendingSteps(observations.get("", observations), rows["actions"], rows["log_probs"], rows.get("noise"))

    def modulate(self, errors: np.ndarray, rewarded: np.ndarray, network: TorchNetwork) -> tuple[Array, float]:
        """
        The weight change before the learning rate, Σ_i δ_i e_i (Eq. 16). Rewarded traces start anew.

        :param errors: Reward prediction error δ of each environment, 0 where no reward came, shape (E,)
        :param rewarded: Where a reward came, booleans of shape (E,)
        :param network: Whose traces these are: it knows the kind of their arrays
        :return: The change, shape (W,), and the norm of the rewarded traces (root of the mean square)
        """
        assert self.trace_EW is not None
        places = np.flatnonzero(rewarded)
        trace_RW = self.trace_EW[places]
        self.trace_EW[places] = 0
        change_W = network.array(errors[places].astype(np.float32)) @ trace_RW
        return change_W, math.sqrt(float((trace_RW * trace_RW).sum()) / len(places))
