"""Recurrent cells: how one step changes the hidden state.

Shapes: I inputs and H hidden units of a layer, R rows of one step.
"""

import math
from typing import Any

import numpy as np
import torch as th

from sb3_nrl.arrays import Array, ArrayNamespace
from sb3_nrl.layers.dense import Dense, sigmoid
from sb3_nrl.layers.recurrent import Drive, RecurrentDense, Step, UnrolledLayer


class LeakyRnn(UnrolledLayer):
    """
    Units that integrate their input with a time constant τ: u ← (1 − α) u + α (x Wᵀ + b + h Uᵀ + ξ), h = tanh(u), with
    α = dt / τ. With α = 1 it is the vanilla recurrent network, with α < 1 the continuous-time one (CTRNN). The state is
    u.

    :param n_inputs: Number of inputs I
    :param n_hidden: Number of hidden units H
    :param bias: Whether units have biases
    :param dt: Duration of a step, in the units of τ
    :param tau: Time constant τ ≥ dt of all units, or of each
    :param learn_tau: Whether time constants learn. They are then τ = dt + exp(θ), with θ a weight of a constant input
    """

    def __init__(
        self, n_inputs: int, n_hidden: int, bias: bool = True, dt: float = 1.0, tau: Any = 1.0, learn_tau: bool = False
    ) -> None:
        super().__init__()
        self.n_states = n_hidden
        self.units = RecurrentDense(n_inputs, n_hidden, bias)
        tau_H = np.broadcast_to(np.asarray(tau, np.float32), n_hidden)
        self.tau_offset: Dense | None = None
        if learn_tau:
            self.tau_offset = Dense(1, n_hidden, bias=False)
            self.tau_offset.weight.data[:, 0] = th.as_tensor(np.log(tau_H - dt))
        self._dt = dt
        self._rate: Any = float(dt / tau_H[0])
        if (tau_H != tau_H[0]).any():
            self.register_buffer("_rates", th.as_tensor(dt / tau_H))
            self._rate = None

    def time_constants(self) -> np.ndarray:
        """τ of each unit, shape (H,), in the units of ``dt``."""
        if self.tau_offset is not None:
            return self._dt + np.exp(self.tau_offset.weight.detach().cpu().numpy()[:, 0])
        rates = self._rate if self._rate is not None else self.get_buffer("_rates").cpu().numpy()
        return np.broadcast_to(self._dt / rates, self.n_states)

    def remember(self, xp: ArrayNamespace, states_RS: Array) -> list[Array]:
        return [states_RS, xp.tanh(states_RS)]

    def advance(self, xp: ArrayNamespace, drives: list[Drive], t: int, memory: list[Array]) -> Step:
        states, hidden = memory
        h = self.units.pre_activations(xp, drives[0], t, hidden)
        potentials = [h]
        rate = self._rate
        if self.tau_offset is not None:
            theta = drives[1].base[:, t].reshape(h.shape)
            rate = sigmoid(xp, math.log(self._dt) - theta)
            potentials.append(theta)
        elif rate is None:
            rate = self.get_buffer("_rates") if xp is th else self.get_buffer("_rates").numpy()
        if isinstance(rate, float) and rate == 1:
            states = h
        else:
            change = h - states
            change *= rate
            states = change + states
        output = xp.tanh(states)
        return Step([states, output], output, [hidden], potentials)


class Gru(UnrolledLayer):
    """
    Gated recurrent units (Cho et al. 2014): z = σ(x Wzᵀ + bz + h Uzᵀ), r = σ(x Wrᵀ + br + h Urᵀ),
    n = tanh(x Wnᵀ + bn + (r h) Unᵀ), h ← z h + (1 − z) n. The state is h.

    :param n_inputs: Number of inputs I
    :param n_hidden: Number of hidden units H
    :param bias: Whether units have biases
    """

    def __init__(self, n_inputs: int, n_hidden: int, bias: bool = True) -> None:
        super().__init__()
        self.n_states = n_hidden
        self.update_gate = RecurrentDense(n_inputs, n_hidden, bias)
        self.reset_gate = RecurrentDense(n_inputs, n_hidden, bias)
        self.units = RecurrentDense(n_inputs, n_hidden, bias)

    def advance(self, xp: ArrayNamespace, drives: list[Drive], t: int, memory: list[Array]) -> Step:
        (states,) = memory
        update = self.update_gate.pre_activations(xp, drives[0], t, states)
        reset = self.reset_gate.pre_activations(xp, drives[1], t, states)
        remembered = sigmoid(xp, reset) * states
        h = self.units.pre_activations(xp, drives[2], t, remembered)
        new = xp.tanh(h)
        new = new + sigmoid(xp, update) * (states - new)
        return Step([new], new, [states, states, remembered], [update, reset, h])
