"""A chain of layers from an observation to the outputs of a head, with the noise of its nodes in one vector.

Shapes: B rows of a batch, N nodes of the network, E environments, W weights and biases that learn, O outputs.
"""

from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import Any

import torch as th
from torch import nn

from sb3_nrl.arrays import Array, ArrayNamespace, Observations
from sb3_nrl.layers import Layer


class Network(nn.Module):
    """
    An actor or a critic: features, hidden layers and a head, one after the other.

    :param features: Layer that makes features of observations
    :param hidden: Hidden layers
    :param head: Output layer
    """

    def __init__(self, features: Layer, hidden: Iterable[Layer], head: Layer) -> None:
        super().__init__()
        self.features = features
        self.hidden = nn.ModuleList(hidden)
        self.head = head
        self._layers: list[Layer] = []

    def refresh(self) -> None:
        """
        Look anew at the layers, and at what is trainable.

        :raises ValueError: If a trainable parameter would never learn, or a layer's credit would be wrong
        """
        self._layers = [self.features, *self.hidden, self.head]
        for layer in self._layers:
            layer.refresh()
        ends = list(accumulate((layer.n_nodes for layer in self._layers), initial=0))
        self.layer_nodes = [slice(start, end) for start, end in pairwise(ends)]
        """Where the nodes of each layer lie in the vector of all nodes."""
        self.n_nodes = ends[-1]
        self.learnable = [parameter for layer in self._layers for parameter in layer.learnable()]
        """The parameters that learn."""

    @property
    def runs_in_numpy(self) -> bool:
        """Whether all layers do."""
        return all(layer.runs_in_numpy for layer in self._layers)

    def forward(self, obs: Observations) -> th.Tensor:
        return self.run(th, obs)[0]

    def run(
        self, xp: ArrayNamespace, obs: Observations, noise_BN: Array | None = None
    ) -> tuple[Array, list[Any], list[Array]]:
        """
        Process observations (Eq. 18 and 19).

        :param xp: ``numpy`` or ``torch``
        :param obs: Observations, B rows
        :param noise_BN: ξ, what is added to each node's pre-activation; None for a clean pass
        :return: Outputs of the head, shape (B, O). If there is noise, also the pre-synaptic activity x̃ of each layer,
            and the pre-activations h of all nodes, in arrays that together have N columns; else two empty lists
        """
        x: Any = obs
        all_received: list[Any] = []
        all_potentials: list[Array] = []
        if noise_BN is None:
            for layer in self._layers:
                x = layer.step(xp, layer.arrays(xp), x)[0]
            return x, all_received, all_potentials
        for layer, nodes in zip(self._layers, self.layer_nodes, strict=True):
            x, received, potentials = layer.step(xp, layer.arrays(xp), x, noise_BN[:, nodes])
            all_received.append(received)
            all_potentials += potentials
        return x, all_received, all_potentials

    def outer(self, xp: ArrayNamespace, post_BN: Array, received: list[Array], n_envs: int) -> list[Array]:
        """
        Sum post ⊗ pre over the rows of each environment (Eq. 17 and 21).

        :param xp: ``numpy`` or ``torch``
        :param post_BN: Post-synaptic factor of each node; the rows of one time step are adjacent, in the order of the
            environments
        :param received: Pre-synaptic activity of each layer
        :param n_envs: Number of environments E
        :return: The sums for each parameter that learns, of shape (E, numel)
        """
        return [
            parameter_sum
            for layer, nodes, pre in zip(self._layers, self.layer_nodes, received, strict=True)
            for parameter_sum in layer.outer(xp, post_BN[:, nodes], pre, n_envs)
        ]
