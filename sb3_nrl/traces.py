"""The eligibility traces of all environments, and the steps that wait to be folded into them.

Shapes: T pending steps, E environments, S noise samples, N nodes of the network, W weights and biases of the network,
R environments that got a reward.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

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

    def tensors(self) -> tuple[PyTorchObs, th.Tensor]:
        """Observations and actions for PyTorch: a network in NumPy has arrays, but never of a ``Dict`` space."""
        obs = self.observations
        return obs if isinstance(obs, dict) else th.as_tensor(obs), th.as_tensor(self.actions)


class EligibilityTraceBuffer:
    """
    One eligibility trace per environment and synapse (Eq. 17).

    A trace is a sum of outer products over time, and such a sum is one matrix product. So steps are kept as they come,
    and folded into the traces many at a time: at a reward time, or when ``n_steps`` of them wait. Provided that no
    weight changes in between, the result is that of a trace updated at every step.

    :param n_steps: How many steps of each environment can wait
    :param n_envs: Number of environments
    """

    def __init__(self, n_steps: int, n_envs: int) -> None:
        self.n_steps = n_steps
        self.n_envs = n_envs
        self.n_resets = 0
        self.watchers: list[Callable[[np.ndarray, np.ndarray, Array], None]] = []
        """Called after each fold with ``errors_TE``, ``restarts_TE`` and the weight change, until the training ends."""
        self.reset()

    @property
    def full(self) -> bool:
        """Whether no further step can wait."""
        return self.pos == self.n_steps

    def reset(self) -> None:
        """Forget the traces and the waiting steps of all environments."""
        self.n_resets += 1
        self.trace_EW: Array | None = None
        self.pos = 0
        self._rows: dict[str, np.ndarray] = {}

    def add(
        self,
        observations: np.ndarray | dict[str, np.ndarray],
        actions: np.ndarray,
        log_probs: np.ndarray,
        rewards: np.ndarray,
        dones: np.ndarray,
        noise: np.ndarray | None = None,
    ) -> None:
        """
        Let one step of every environment wait.

        :param observations: What the policy saw, shape (E, \\*observation shape) or a dictionary of such arrays
        :param actions: What it did, shape (E, \\*action shape)
        :param log_probs: log π(a|s), shape (E,)
        :param rewards: What came of it, shape (E,)
        :param dones: Whether the episode ended, booleans of shape (E,)
        :param noise: ξ that the action was chosen with, shape (E, N), if any
        """
        values = {"actions": actions, "log_probs": log_probs, "rewards": rewards, "dones": dones}
        if noise is not None:
            values["noise"] = noise
        if isinstance(observations, dict):
            values |= {_OBSERVATIONS + key: value for key, value in observations.items()}
        else:
            values[_OBSERVATIONS] = observations
        if not self._rows:
            self._rows = {name: np.empty((self.n_steps, *value.shape), value.dtype) for name, value in values.items()}
        for name, value in values.items():
            rows = self._rows[name]
            # Observations, say, may have begun with whole numbers. Comparing types first is quicker.
            if value.dtype != rows.dtype and not np.can_cast(value.dtype, rows.dtype):
                rows = self._rows[name] = rows.astype(np.promote_types(value.dtype, rows.dtype))
            rows[self.pos] = value
        self.pos += 1

    def fold(
        self,
        credit: Callable[[PendingSteps], tuple[Array, list[Array]]],
        network: TorchNetwork,
        n_at_once: int,
        trace_decay: float,
        errors_TE: np.ndarray,
        restarts_TE: np.ndarray,
    ) -> tuple[Array, float]:
        """
        Let the waiting steps pass through the traces, e ← decay · e + post(t) ⊗ pre(t), and sum what the reward
        prediction errors make of the traces on the way.

        :param credit: Forms the factors of T steps: post of shape (S · T · E, N), and what each layer received
        :param network: Sums their outer products
        :param n_at_once: Most steps T to fold at once
        :param trace_decay: Factor per step on the traces, in [0, 1]
        :param errors_TE: Reward prediction error δ at each waiting step, 0 where no reward came, shape (T, E)
        :param restarts_TE: After which steps a trace starts anew, booleans of shape (T, E)
        :return: The weight change before the learning rate, Σ_t Σ_i δ_i(t) e_i(t) (Eq. 16), shape (W,); and the norm of
            the traces that met an error or start anew at the last step, just before (root of the mean square)
        """
        change_W, trace_norm = network.array(np.zeros(len(network.gradient_W), np.float32)), 0.0
        for start in range(0, self.pos, n_at_once):
            steps = slice(start, min(start + n_at_once, self.pos))
            errors, restarts = errors_TE[steps], restarts_TE[steps]
            post_BN, pre = credit(self.waiting(network, steps))
            if errors[:-1].any():
                coming_TE, coming_E = _coming(errors, restarts, trace_decay)
                change_W = change_W + network.outer(_weighted(post_BN, coming_TE, network), pre, 1)[0]
                if self.trace_EW is not None:
                    change_W = change_W + network.array(coming_E) @ self.trace_EW
            if trace_decay < 1 or restarts[:-1].any():
                kept_TE, kept_E = _kept(restarts, trace_decay)
                post_BN = _weighted(post_BN, kept_TE, network)
                if self.trace_EW is not None:
                    self.trace_EW *= network.array(kept_E[:, None])
            sum_EW = network.outer(post_BN, pre, self.n_envs)
            if self.trace_EW is None:
                self.trace_EW = sum_EW
            else:
                self.trace_EW += sum_EW
            places = np.flatnonzero(restarts[-1] | (errors[-1] != 0))
            rewarded_RW = self.trace_EW[places]
            change_W = change_W + network.array(errors[-1, places].astype(np.float32)) @ rewarded_RW
            trace_norm = math.sqrt(float((rewarded_RW * rewarded_RW).sum()) / max(len(places), 1))
            self.trace_EW[np.flatnonzero(restarts[-1])] = 0
        for watch in self.watchers:
            watch(errors_TE, restarts_TE, change_W)
        self.pos = 0
        return change_W, trace_norm

    def waiting(self, network: TorchNetwork, steps: slice = slice(None)) -> PendingSteps:
        """
        Look at waiting steps.

        :param network: Knows the kind of arrays
        :param steps: Which of them, by default all
        :return: The steps
        """

        def rows(name: str) -> Array:
            values = self._rows[name][: self.pos][steps]
            return network.array(values.reshape(-1, *values.shape[2:]))

        names = [name for name in self._rows if name.startswith(_OBSERVATIONS)]
        observations = {name.removeprefix(_OBSERVATIONS): rows(name) for name in names}
        noise = rows("noise") if "noise" in self._rows else None
        return PendingSteps(observations.get("", observations), rows("actions"), rows("log_probs"), noise)

    def outcomes(self) -> tuple[np.ndarray, np.ndarray]:
        """The rewards of the waiting steps, and whether episodes ended there; both of shape (T, E)."""
        return self._rows["rewards"][: self.pos], self._rows["dones"][: self.pos]


def _kept(restarts_TE: np.ndarray, trace_decay: float) -> tuple[np.ndarray, np.ndarray]:
    """What is left at the last step of each step's outer product, and of the traces before them."""
    kept_TE = np.ones(restarts_TE.shape, np.float32)
    kept_TE[:-1] = np.cumprod(trace_decay * ~restarts_TE[-2::-1], axis=0)[::-1]
    return kept_TE, kept_TE[0] * np.float32(trace_decay)


def _coming(errors_TE: np.ndarray, restarts_TE: np.ndarray, trace_decay: float) -> tuple[np.ndarray, np.ndarray]:
    """
    The decayed sum of the errors that each step's outer product meets before the last step, and those that the traces
    before them meet.
    """
    coming_TE = np.zeros(errors_TE.shape, np.float32)
    for step in range(len(coming_TE) - 2, -1, -1):
        coming_TE[step] = errors_TE[step] + coming_TE[step + 1] * trace_decay * ~restarts_TE[step]
    return coming_TE, coming_TE[0] * np.float32(trace_decay)


def _weighted(post_BN: Array, weights_TE: np.ndarray, network: TorchNetwork) -> Array:
    """Each step's post-synaptic factors, of all samples, times its weight."""
    post_STEN = post_BN.reshape(-1, *weights_TE.shape, post_BN.shape[1])
    return (post_STEN * network.array(weights_TE)[..., None]).reshape(post_BN.shape)
