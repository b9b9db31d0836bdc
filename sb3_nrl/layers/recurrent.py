"""Recurrent layers: a hidden state that goes through time, and noise that goes with it.

Shapes: B = K · T · E rows of a batch (K copies of T steps of E environments, in this order), R = K · E rows of one
step, I inputs and H hidden units of a layer, M inputs of weight matrices, with one for a bias.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch import nn

from sb3_nrl.arrays import Array, ArrayNamespace, as_float, is_exported
from sb3_nrl.layers.base import CompoundLayer, Layer, LayerNoise, RankOne, RecurrentLayer, per_env
from sb3_nrl.layers.dense import product


class Drive(NamedTuple):
    """
    What recurrent units receive whatever their hidden state is, for all steps of a window.

    :param base: x Wᵀ + b + ξ, shape (K, T, E, H), or (1, T, E, H) if all copies receive the same
    :param recurrent_weight: U, None without recurrent synapses
    :param factor: With noise of rank one: x · a, the part of a's product with all inputs, shape (K, T, E)
    :param post: With noise of rank one: b, shape (K, E, H)
    :param pre: With noise of rank one: the part of a that belongs to the hidden units, shape (K, E, H)
    """

    base: Array
    recurrent_weight: Array | None
    factor: Array | None = None
    post: Array | None = None
    pre: Array | None = None


class RecurrentDense(Layer):
    """
    The pre-activations of recurrent units, x Wᵀ + b + h Uᵀ + ξ, with x the layer's input and h its hidden units.

    :param n_inputs: Number of inputs I
    :param n_hidden: Number of hidden units H
    :param bias: Whether units have biases b
    :param recurrent: Whether there are recurrent synapses U
    """

    connections: th.Tensor | None
    """Which recurrent synapses exist, shape (H, H), from unit j to unit i in row i; None for all."""

    signs: th.Tensor | None
    """1 for excitatory and −1 for inhibitory units, whose recurrent synapses all have this sign; None for neither."""

    def __init__(self, n_inputs: int, n_hidden: int, bias: bool = True, recurrent: bool = True) -> None:
        super().__init__()
        self.register_buffer("connections", None)
        self.register_buffer("signs", None)
        self.weight = nn.Parameter(th.empty(n_hidden, n_inputs))
        """W, from the inputs."""
        self.bias = nn.Parameter(th.zeros(n_hidden)) if bias else None
        """b."""
        self.recurrent_weight = nn.Parameter(th.empty(n_hidden, n_hidden)) if recurrent else None
        """U, from the hidden units."""
        self.n_inputs, self.n_hidden, self.n_units = n_inputs, n_hidden, n_hidden
        self.widths = (n_inputs, *([1] if bias else []), *([n_hidden] if recurrent else []))

    @th.no_grad()
    def initialize(self, gain: float, connectivity: float = 1.0, excitatory: float | None = None) -> None:
        """
        Draw initial recurrent weights: an orthogonal matrix times the gain. Where synapses are missing or have signs,
        the gain is the spectral radius; with signs, excitation and inhibition balance.

        :param gain: Gain
        :param connectivity: Fraction of the recurrent synapses that exist
        :param excitatory: Fraction of the units that are excitatory, None for no signs
        """
        weight, size = self.recurrent_weight, self.n_hidden
        if weight is None:
            return
        nn.init.orthogonal_(weight, gain)
        if connectivity == 1 and excitatory is None:
            return
        connections = None if connectivity == 1 else th.rand(size, size) < connectivity
        signs = None
        if excitatory is not None:
            n_excitatory = min(max(round(excitatory * size), 1), size - 1)
            signs = th.ones(size)
            signs[n_excitatory:] = -1
            strength = th.where(signs > 0, 1.0, n_excitatory / (size - n_excitatory))
            weight.copy_(weight.abs() * strength * signs)
        self.connections, self.signs = connections, signs
        self.constrain()
        radius = th.linalg.eigvals(weight).abs().max()
        if radius > 0:
            weight.mul_(gain / radius)

    def masks(self) -> list[th.Tensor | None]:
        masks = [None, None, self.connections] if self.bias is not None else [None, self.connections]
        return masks if self.recurrent_weight is not None else masks[:-1]

    @th.no_grad()
    def constrain(self) -> None:
        if self.recurrent_weight is None:
            return
        if self.signs is not None:
            self.recurrent_weight.copy_(self.signs * (self.signs * self.recurrent_weight).clamp(min=0))
        if self.connections is not None:
            self.recurrent_weight.mul_(self.connections)

    def drive(
        self, xp: ArrayNamespace, parameters: tuple[Array, ...], x: Array, noise: LayerNoise, n_steps: int, n_envs: int
    ) -> Drive:
        """
        Compute what does not depend on the hidden units, for all steps at once.

        :param xp: ``numpy`` or ``torch``
        :param parameters: As for :meth:`Layer.step`
        :param x: What the layer receives, of B rows, or of T · E if all copies receive the same
        :param noise: The layer's noise
        :param n_steps: Number of steps T
        :param n_envs: Number of environments E
        :return: What units receive at each step
        """
        h = x.reshape(-1, n_steps * n_envs, self.n_inputs) @ parameters[0].swapaxes(-1, -2)
        if self.bias is not None:
            h += parameters[1][..., None, :]
        base = h.reshape(-1, n_steps, n_envs, self.n_hidden)
        recurrent_weight = None if self.recurrent_weight is None else parameters[-1]
        if not isinstance(noise, RankOne):
            if noise is not None and noise.shape[1] > 0:
                base += noise.reshape(base.shape)
            return Drive(base, recurrent_weight)
        if self.n_pre == 0:
            return Drive(base, recurrent_weight)
        post, pre = noise.post[:, 0], noise.pre[:, 0]
        factor = xp.zeros_like(pre[:, None, :, 0])
        if self.learns[0]:
            x_KTEI = x.reshape(-1, n_steps, n_envs, self.n_inputs)
            factor = factor + xp.einsum("ktei,ktei->kte", x_KTEI, pre[:, None, :, : self.n_inputs])
        if self.bias is not None and self.learns[1]:
            factor = factor + pre[:, None, :, self.n_inputs * self.learns[0]]
        factor = xp.broadcast_to(factor, (len(post), n_steps, n_envs))
        if recurrent_weight is None:
            return Drive(base + factor[..., None] * post[:, None], None)
        of_hidden = pre[..., -self.n_hidden :] if self.learns[-1] else None
        return Drive(base, recurrent_weight, factor, post, of_hidden)

    def pre_activations(self, xp: ArrayNamespace, drive: Drive, t: int, hidden_RH: Array | None) -> Array:
        """
        x Wᵀ + b + h Uᵀ + ξ at one step.

        :param xp: ``numpy`` or ``torch``
        :param drive: What units receive
        :param t: The step
        :param hidden_RH: h, None without recurrent synapses
        :return: Shape (R, H)
        """
        if hidden_RH is None:
            return drive.base[:, t].reshape(-1, self.n_hidden)
        n_envs = drive.base.shape[2]
        h = product(hidden_RH, drive.recurrent_weight)
        h_KEH = h.reshape(-1, n_envs, self.n_hidden)
        h_KEH += drive.base[:, t]
        if drive.factor is not None:
            factor_KE = drive.factor[:, t]
            if drive.pre is not None:
                factor_KE = factor_KE + xp.einsum("keh,keh->ke", hidden_RH.reshape(h_KEH.shape), drive.pre)
            h_KEH += factor_KE[..., None] * drive.post
        return h_KEH.reshape(h.shape)

    def outer(self, xp: ArrayNamespace, post_BN: Array, received: Any, n_envs: int) -> list[Array]:
        if self.n_nodes == 0:
            return []
        post_EOB = per_env(post_BN, n_envs).swapaxes(1, 2)
        sums = [post_EOB @ per_env(pre, n_envs) for pre in received]
        if self.recurrent_weight is not None and self.connections is not None:
            sums[1] = sums[1] * (self.connections if xp is th else self.connections.numpy())
        if self.bias is not None:
            sums.insert(1, post_EOB.sum(2))
        return [part.reshape(n_envs, -1) for part, learns in zip(sums, self.learns, strict=True) if learns]


def forget(xp: ArrayNamespace, memory: list[Array], starts_E: Array) -> list[Array]:
    """
    Set what is remembered to 0 where an episode begins.

    :param xp: ``numpy`` or ``torch``
    :param memory: Arrays of R rows
    :param starts_E: Whether an episode begins
    :return: The arrays, the same ones if none begins
    """
    if not is_exported(xp) and not starts_E.any():
        return memory
    keep_E1 = as_float(xp, ~starts_E)[:, None]
    return [(part.reshape(-1, keep_E1.shape[0], part.shape[1]) * keep_E1).reshape(part.shape) for part in memory]


def in_rows(xp: ArrayNamespace, of_steps: Sequence[Array], n_envs: int) -> Array:
    """
    Put steps in the order of a batch.

    :param xp: ``numpy`` or ``torch``
    :param of_steps: An array of R rows for each of T steps
    :param n_envs: Number of environments E
    :return: One array of B rows
    """
    if len(of_steps) == 1:
        return of_steps[0]
    width = of_steps[0].shape[1]
    return xp.stack([part.reshape(-1, n_envs, width) for part in of_steps], 1).reshape(-1, width)


class Step(NamedTuple):
    """
    One step of a layer, R rows.

    :param memory: What the next step needs, the hidden state first
    :param output: The layer's output
    :param hidden: The hidden units that each :class:`RecurrentDense` received
    :param potentials: Pre-activations of all sublayers
    """

    memory: list[Array]
    output: Array
    hidden: list[Array]
    potentials: list[Array]


class UnrolledLayer(CompoundLayer, RecurrentLayer):
    """
    A recurrent layer that computes what does not depend on the hidden state for all steps at once, then goes through
    the steps. A subclass says how one step changes the state.
    """

    def unroll(
        self,
        xp: ArrayNamespace,
        parameters: tuple[Array, ...],
        x: Array,
        noise: LayerNoise,
        states_RS: Array,
        starts_TE: Array,
    ) -> tuple[Array, Any, list[Array], Array]:
        n_steps, n_envs = starts_TE.shape
        n_rows = states_RS.shape[0]
        n_copies = n_rows // n_envs
        is_of_nodes = noise is not None and not isinstance(noise, RankOne)
        drives, inputs = [], []
        for layer, own, own_noise in self.split(parameters, noise):
            if isinstance(layer, RecurrentDense):
                inputs.append(x)
                drives.append(layer.drive(xp, own, x, own_noise, n_steps, n_envs))
            else:  # weights of a constant input
                rows = n_rows * n_steps if is_of_nodes else n_rows
                ones = np.ones((rows, 1), np.float32) if xp is np else x.new_ones(rows, 1)
                inputs.append(ones)
                h = layer.step(xp, own, ones, own_noise)[0].reshape(n_copies, -1, n_envs, self.n_states)
                drives.append(Drive(xp.broadcast_to(h, (n_copies, n_steps, n_envs, self.n_states)), None))
        memory = self.remember(xp, states_RS)
        steps = []
        for t in range(n_steps):
            steps.append(self.advance(xp, drives, t, forget(xp, memory, starts_TE[t])))
            memory = steps[-1].memory
        outputs = in_rows(xp, [step.output for step in steps], n_envs)
        if not is_of_nodes:
            return outputs, None, [], memory[0]
        hidden = [in_rows(xp, parts, n_envs) for parts in zip(*(step.hidden for step in steps), strict=True)]
        received = [
            (pre, hidden.pop(0)) if isinstance(layer, RecurrentDense) else pre
            for layer, pre in zip(self.sublayers, inputs, strict=True)
        ]
        potentials = [in_rows(xp, parts, n_envs) for parts in zip(*(step.potentials for step in steps), strict=True)]
        return outputs, received, potentials, memory[0]

    def remember(self, xp: ArrayNamespace, states_RS: Array) -> list[Array]:
        """What the first step needs of the hidden states, themselves first. All of it is 0 where these are."""
        return [states_RS]

    @abstractmethod
    def advance(self, xp: ArrayNamespace, drives: list[Drive], t: int, memory: list[Array]) -> Step:
        """
        Make one step.

        :param xp: ``numpy`` or ``torch``
        :param drives: What each sublayer receives whatever the hidden state is
        :param t: The step
        :param memory: What the step before left
        :return: The step
        """
