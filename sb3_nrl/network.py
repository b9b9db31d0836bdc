"""A sequence of layers from the observations to the outputs of a head.

Shapes: B rows of a batch, N nodes of the network, M inputs of its weight matrices, S variables of its hidden state, E
environments, T steps, K copies, W weights and biases that learn, O outputs.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch as th
from torch import nn

from sb3_nrl.arrays import Array, ArrayNamespace, Observations, repeat_batch
from sb3_nrl.layers import Layer, RankOne, RecurrentLayer
from sb3_nrl.layers.base import LayerNoise, spans
from sb3_nrl.normalization import ObservationNormalizer


class WeightNoise(NamedTuple):
    """
    Noise on the weights of a network, for K copies of a pass.

    :param rank_one: Noise of rank one of those layers that support it, None if none gets it
    :param changes: For each layer, None, or what is added to each of its parameters: arrays with a dimension for K in
        front
    :param n_copies: Number of copies K
    """

    rank_one: RankOne | None
    changes: list[tuple[Array, ...] | None]
    n_copies: int


NetworkNoise = Array | WeightNoise | None
"""Noise of one network: ξ of its nodes, of shape (B, N); or noise on its weights; or none."""


class NetworkPass(NamedTuple):
    """
    The results of a pass through a network. With noise on weights the lists are empty.

    :param outputs: Outputs of the head, shape (B, O)
    :param received: Pre-synaptic activity x̃ of each layer, see :class:`~sb3_nrl.passes.NoisyPass`
    :param potentials: Pre-activations h of all nodes, in arrays that together have N columns
    :param activity: Output of each layer, from the features to the head
    :param states: Hidden state after the last step, None if no layer is recurrent
    """

    outputs: Array
    received: list[Any]
    potentials: list[Array]
    activity: list[Any]
    states: Array | None


class Network(nn.Module):
    """
    An actor or a critic: features, hidden layers and a head, one after the other.

    :param features: Layer that makes features of observations
    :param hidden: Hidden layers
    :param head: Output layer
    :param normalizer: Normalises observations before the features, None for none; actor and critic may share it
    """

    def __init__(
        self, features: Layer, hidden: Iterable[Layer], head: Layer, normalizer: ObservationNormalizer | None = None
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.features = features
        self.hidden = nn.ModuleList(hidden)
        self.head = head
        self.layers: list[Layer] = []
        """All layers, from the features to the head."""

    def refresh(self) -> None:
        """
        Update the list of layers, and of the parameters that learn.

        :raises ValueError: If a trainable parameter would never learn, or a layer's credit would be wrong
        """
        self.layers = [self.features, *self.hidden, self.head]
        for layer in self.layers:
            layer.refresh()
        self.layer_nodes, self.n_nodes = spans(layer.n_nodes for layer in self.layers)
        """Slice of the nodes of each layer in the vector of all nodes."""
        self.layer_inputs, self.n_pre = spans(layer.n_pre for layer in self.layers)
        """Where the inputs of each layer's weight matrices lie in the vector of all."""
        self.layer_states, self.n_states = spans(layer.n_states for layer in self.layers)
        """Where the hidden state of each layer lies in the vector of all."""
        last = max((place for place, layer in enumerate(self.layers) if layer.n_states > 0), default=-1)
        self.n_remembered = self.layer_nodes[last].stop if last >= 0 else 0
        """Number of nodes whose noise changes later steps: those before the last recurrent layer, and its own."""
        self.learnable = [parameter for layer in self.layers for parameter in layer.learnable()]
        """The parameters that learn."""

    def normalized(self, xp: ArrayNamespace, obs: Observations) -> Observations:
        """Observations as the features layer gets them."""
        return obs if self.normalizer is None else self.normalizer.forward(xp, obs)

    def forward(self, obs: Observations) -> th.Tensor:
        return self.run(th, obs).outputs

    def run(
        self,
        xp: ArrayNamespace,
        obs: Observations,
        noise: NetworkNoise = None,
        states: Array | None = None,
        starts_TE: Array | None = None,
    ) -> NetworkPass:
        """
        Process observations (Eq. 18 and 19).

        :param xp: ``numpy`` or ``torch``
        :param obs: Observations, B rows; with noise on weights B / K, since all copies observe the same
        :param noise: Noise, None for a clean pass
        :param states: Hidden states before the first step, K · E rows; for recurrent networks
        :param starts_TE: Whether an episode begins with the step; for recurrent networks
        :return: What the pass gives
        """
        x: Any = self.normalized(xp, obs)
        all_received: list[Any] = []
        all_potentials: list[Array] = []
        activity: list[Any] = []
        if self.n_states == 0 and not isinstance(noise, WeightNoise):  # what happens at every step of most trainings
            for layer, nodes in zip(self.layers, self.layer_nodes, strict=True):
                x, received, potentials = layer.step(
                    xp, layer.arrays(xp), x, None if noise is None else noise[:, nodes]
                )
                all_received.append(received)
                all_potentials += potentials
                activity.append(x)
            return NetworkPass(x, all_received, all_potentials, activity, None)
        new_states: list[Array] = []
        n_missing = noise.n_copies if isinstance(noise, WeightNoise) else 1  # copies that are still the same
        for place, layer in enumerate(self.layers):
            parameters, layer_noise = layer.arrays(xp), self._noise_of(place, noise)
            changes = noise.changes[place] if isinstance(noise, WeightNoise) else None
            if changes is not None:
                parameters = tuple(value + change for value, change in zip(parameters, changes, strict=True))
            has_copies = changes is not None or isinstance(layer_noise, RankOne) or isinstance(layer, RecurrentLayer)
            if n_missing > 1 and has_copies:
                if not layer.shares_input:
                    x = repeat_batch(xp, x, n_missing)
                n_missing = 1
            if isinstance(layer, RecurrentLayer):
                if states is None or starts_TE is None:
                    raise ValueError("A recurrent network needs states and starts_TE, those of the window in a rule.")
                own = states[:, self.layer_states[place]]
                x, received, potentials, own = layer.unroll(xp, parameters, x, layer_noise, own, starts_TE)
                new_states.append(own)
            else:
                x, received, potentials = layer.step(xp, parameters, x, layer_noise)
            if not isinstance(noise, WeightNoise):
                all_received.append(received)
                all_potentials += potentials
                activity.append(x)
        x = repeat_batch(xp, x, n_missing)
        after = None if not new_states else new_states[0] if len(new_states) == 1 else xp.concatenate(new_states, 1)
        return NetworkPass(x, all_received, all_potentials, activity, after)

    def _noise_of(self, place: int, noise: NetworkNoise) -> LayerNoise:
        """What one layer gets of the noise on nodes or of rank one."""
        if noise is None:
            return None
        if isinstance(noise, WeightNoise):
            if noise.rank_one is None or noise.changes[place] is not None:
                return None
            layer_noise = noise.rank_one.of(self.layer_nodes[place], self.layer_inputs[place])
            return layer_noise if self.layers[place].n_pre > 0 else None
        return noise[:, self.layer_nodes[place]]
