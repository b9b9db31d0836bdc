"""Layers of leaky integrate-and-fire neurons.

An environment step is simulated in M ticks. Between layers go spike trains: lists of M arrays, one for each tick, with
1 for a spike and 0 for none.

Shapes: B = K · T · E rows of a batch (K copies of T steps of E environments, in this order), I inputs and H neurons of
a layer, R = K · E rows of one tick.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_nrl.arrays import Array, ArrayNamespace, as_float, is_exported
from sb3_nrl.layers.base import CompoundLayer, Layer, LayerNoise, RankOne, RecurrentLayer
from sb3_nrl.layers.coding import mean_of_ticks
from sb3_nrl.layers.recurrent import RecurrentDense, forget, in_rows


class _SurrogateSpike(th.autograd.Function):
    """A spike, whose derivative is taken to be that of arctan(π v) / π (Fang et al. 2021): for backpropagation."""

    @staticmethod
    def forward(ctx: Any, excess: th.Tensor) -> th.Tensor:
        ctx.save_for_backward(excess)
        return (excess > 0).float()

    @staticmethod
    def backward(ctx: Any, gradient: th.Tensor) -> th.Tensor:
        (excess,) = ctx.saved_tensors
        return gradient / (1 + (np.pi * excess) ** 2)


def fire(xp: ArrayNamespace, v: Array, threshold: Array) -> Array:
    """
    Spikes of neurons whose potential exceeds their threshold.

    :param xp: ``numpy`` or ``torch``
    :param v: Potential
    :param threshold: Threshold
    :return: 1 for a spike, 0 for none. Only where autograd records, as in BPTT, it has a derivative: a surrogate
    """
    if xp is th and v.requires_grad and th.is_grad_enabled() and not is_exported(xp):
        return _SurrogateSpike.apply(v - threshold)
    return as_float(xp, v > threshold)


class Lif(CompoundLayer):
    """
    Leaky integrate-and-fire neurons, at rest at the beginning of each step. In each tick v ← β v + x Wᵀ + b + s Uᵀ + ξ,
    where s are the layer's spikes in the tick before. A neuron with v > θ spikes, and then θ is subtracted from v, or v
    is set to a value.

    The input is a constant current, an array of shape (B, I), or a spike train. The output is a spike train.

    :param n_inputs: Number of inputs I
    :param n_neurons: Number of neurons H
    :param bias: Whether neurons have biases b
    :param recurrent: Whether there are recurrent synapses U
    :param ticks: Number of ticks M of a step
    :param beta: Factor β per tick on the potential v, of all neurons or of each
    :param threshold: Threshold θ, of all neurons or of each
    :param v_reset: Potential after a spike; None: the threshold is subtracted
    :param refractory: Number of ticks after a spike in which the potential stays as it is
    :param synapse_beta: Factor per tick on the synaptic current, which then takes the place of its input (CuBa-LIF);
        None for none
    :param holds_noise: Whether noise ξ of nodes is held over the ticks of a step, so that there is one number for each
        neuron, or is drawn in each tick. What is held gets credit for the mean input of the ticks, which is exact for a
        constant input. None: it is held where the input is constant and there are no recurrent synapses
    :param is_input_held: Whether the input is a constant current
    """

    is_smooth = False
    beta: th.Tensor
    threshold: th.Tensor

    def __init__(
        self,
        n_inputs: int,
        n_neurons: int,
        bias: bool = True,
        recurrent: bool = False,
        ticks: int = 8,
        beta: Any = 0.8,
        threshold: Any = 1.0,
        v_reset: float | None = 0.0,
        refractory: int = 0,
        synapse_beta: float | None = None,
        holds_noise: bool | None = None,
        is_input_held: bool = True,
    ) -> None:
        super().__init__()
        self.synapses = RecurrentDense(n_inputs, n_neurons, bias, recurrent)
        self.n_neurons, self.recurrent, self.ticks = n_neurons, recurrent, ticks
        for name, values in (("beta", beta), ("threshold", threshold)):
            of_neurons = np.broadcast_to(np.asarray(values, np.float32), n_neurons).copy()
            self.register_buffer(name, th.as_tensor(of_neurons))
        self.v_reset, self.refractory, self.synapse_beta = v_reset, refractory, synapse_beta
        self._is_constant = is_input_held and not recurrent
        self._wants_held = holds_noise
        self._constants: dict[Any, list[Array]] = {}
        self.spikes: list[Array] = []
        """Spike train of the last pass."""
        self.keeps_potentials, self.potentials = False, list[Array]()
        """Whether the potentials v after each tick of the last pass are kept; and these, shape (B, H) each."""

    @property
    def holds_noise(self) -> bool:
        """Whether noise of nodes is held over the ticks of a step."""
        if self.perturbs == "weight":
            return True
        return self._is_constant if self._wants_held is None or self.perturbs == "any" else self._wants_held

    @property
    def n_variables(self) -> int:
        """Number of variables of a neuron's state."""
        return 1 + (self.synapse_beta is not None) + (self.refractory > 0) + self.recurrent

    def refresh(self) -> None:
        super().refresh()
        self.n_nodes *= 1 if self.holds_noise else self.ticks
        self._constants = {}

    def constants(self, xp: ArrayNamespace) -> list[Array]:
        """β and θ: of each neuron, or one number, which is quicker, if all neurons have the same."""
        if is_exported(xp):
            return [self.beta, self.threshold]
        key = xp, self.beta._version, self.threshold._version
        if key not in self._constants:
            both = [values if xp is th else values.cpu().numpy() for values in (self.beta, self.threshold)]
            self._constants = {key: [float(of[0]) if bool((of == of[0]).all()) else of for of in both]}
        return self._constants[key]

    def step(
        self, xp: ArrayNamespace, parameters: tuple[Array, ...], x: Any, noise: LayerNoise = None
    ) -> tuple[Array, Any, list[Array]]:
        n_copies, n_rows = 1, (x[0] if isinstance(x, list) else x).shape[0]
        if isinstance(noise, RankOne):
            n_copies = len(noise.post)
            noise = RankOne(*(self._of_rows(xp, part, n_rows // n_copies) for part in noise))
        elif parameters[0].ndim == 3:
            n_copies = len(parameters[0])
        return self._simulate(xp, parameters, x, noise, (1, n_rows // n_copies))[:3]

    @staticmethod
    def _of_rows(xp: ArrayNamespace, noise_KTEN: Array, n_rows: int) -> Array:
        """Noise of rank one with another environment in place of each step."""
        n_copies, _, n_envs, width = noise_KTEN.shape
        of_steps = xp.broadcast_to(noise_KTEN, (n_copies, n_rows // n_envs, n_envs, width))
        return of_steps.reshape(n_copies, 1, n_rows, width)

    def _simulate(
        self,
        xp: ArrayNamespace,
        parameters: tuple[Array, ...],
        x: Any,
        noise: LayerNoise,
        n_steps_and_envs: tuple[int, int],
        states_RS: Array | None = None,
        starts_TE: Any = None,
    ) -> tuple[list[Array], Any, list[Array], Array]:
        """As :meth:`RecurrentLayer.unroll`; without states neurons are at rest before the first tick."""
        n_steps, n_envs = n_steps_and_envs
        drives = [
            self.synapses.drive(xp, parameters, received, own, n_steps, n_envs)
            for received, own in self._frames(x, noise)
        ]
        n_copies = drives[0].base.shape[0] if states_RS is None else states_RS.shape[0] // n_envs
        shape = (n_copies * n_envs, self.n_neurons)
        if states_RS is None:
            like = {"dtype": np.float32} if xp is np else {"dtype": th.float32, "device": drives[0].base.device}
            state = [xp.zeros(shape, **like)] * self.n_variables
        else:
            state = [states_RS[:, i * shape[1] : (i + 1) * shape[1]] for i in range(self.n_variables)]
        constants = self.constants(xp)
        before: list[list[Array]] = [[] for _ in range(self.ticks)]
        spikes: list[list[Array]] = [[] for _ in range(self.ticks)]
        potentials: list[list[Array]] = [[] for _ in range(self.ticks)]
        for t in range(n_steps):
            if states_RS is not None:
                state = forget(xp, state, starts_TE[t])
            for m in range(self.ticks):
                received = None
                if self.recurrent:
                    received = state[-1]
                    before[m].append(received)
                current = self.synapses.pre_activations(xp, drives[m % len(drives)], t, received)
                *state, spiked = self._tick(xp, current, state, constants)
                if self.recurrent:
                    state.append(spiked)
                spikes[m].append(spiked)
                if self.keeps_potentials:
                    potentials[m].append(state[0])
        train = [in_rows(xp, of_steps, n_envs) for of_steps in spikes]
        self.spikes = [] if is_exported(xp) else train
        self.potentials = [in_rows(xp, of_steps, n_envs) for of_steps in potentials if of_steps]
        after = xp.concatenate(state, 1) if states_RS is not None else None
        if noise is None or isinstance(noise, RankOne):
            return train, None, [], after
        currents = [drive.base.reshape(-1, shape[1]) for drive in drives]
        all_received = [x, [in_rows(xp, of_steps, n_envs) for of_steps in before]] if self.recurrent else [x]
        return train, all_received, [mean_of_ticks(currents)] if self.holds_noise else currents, after

    def _frames(self, x: Any, noise: LayerNoise) -> list[tuple[Array, LayerNoise]]:
        """What the synapses receive, and their noise: in each tick, or once if both are the same in all ticks."""
        noises = [noise] * self.ticks
        is_drawn = self.n_nodes > self.n_neurons and noise is not None and not isinstance(noise, RankOne)
        if is_drawn:
            noises = list(noise.reshape(-1, self.ticks, self.n_neurons).swapaxes(0, 1))  # type: ignore[union-attr]
        if isinstance(x, list):
            return list(zip(x, noises, strict=True))
        return [(x, own) for own in noises] if is_drawn else [(x, noise)]

    def _tick(self, xp: ArrayNamespace, current: Array, state: list[Array], constants: list[Array]) -> list[Array]:
        """The state after a tick: potential, synaptic current, refractory ticks left (the last two if any), spikes."""
        beta, threshold = constants
        v, *others = state
        after: list[Array] = []
        if self.synapse_beta is not None:
            current = self.synapse_beta * others.pop(0) + current
            after.append(current)
        charged = beta * v
        charged += current
        if self.refractory > 0:
            left = others.pop(0)
            charged = xp.where(left > 0, v, charged)
            spikes = fire(xp, charged, threshold) * (left <= 0)
            spiked = spikes.detach() if xp is th else spikes
            after.append(self.refractory * spiked + (left - 1) * (left > 0))
        else:
            spikes = fire(xp, charged, threshold)
            spiked = spikes.detach() if xp is th else spikes
        if self.v_reset is None:
            charged = charged - threshold * spiked
        else:
            charged = charged * (1 - spiked)
            if self.v_reset != 0:
                charged += self.v_reset * spiked
        return [charged, *after, spikes]

    def outer(self, xp: ArrayNamespace, post_BN: Array, received: Any, n_envs: int) -> list[Array]:
        if self.n_nodes == 0:
            return []
        if self.n_nodes == self.n_neurons:
            pre = [mean_of_ticks(part) if isinstance(part, list) else part for part in received]
            return self.synapses.outer(xp, post_BN, pre, n_envs)
        posts = list(post_BN.reshape(-1, self.ticks, self.n_neurons).swapaxes(0, 1))
        if self._is_constant:
            return self.synapses.outer(xp, sum(posts), received, n_envs)
        pre = [xp.concatenate(part if isinstance(part, list) else [part] * self.ticks) for part in received]
        return self.synapses.outer(xp, xp.concatenate(posts), pre, n_envs)

    def _apply(self, *arguments: Any, **named: Any) -> "Layer":
        self._constants = {}
        return super()._apply(*arguments, **named)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "spikes": [], "potentials": [], "_constants": {}}


class StatefulLif(Lif, RecurrentLayer):
    """:class:`Lif`, whose neurons keep their state from step to step. It is at rest when an episode begins."""

    shares_input = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.n_states = self.n_variables * self.n_neurons

    def unroll(
        self,
        xp: ArrayNamespace,
        parameters: tuple[Array, ...],
        x: Any,
        noise: LayerNoise,
        states_RS: Array,
        starts_TE: Array,
    ) -> tuple[Array, Any, list[Array], Array]:
        return self._simulate(xp, parameters, x, noise, starts_TE.shape, states_RS, starts_TE)


def lif_layers(layers: Iterable[nn.Module]) -> list[Lif]:
    """Those of the layers that spike."""
    return [layer for layer in layers if isinstance(layer, Lif)]
