"""What a pass through actor and critic gets and gives.

Shapes: B rows of a batch, E environments, T steps, K noise samples, N nodes of actor and critic, M inputs of their
weight matrices, S variables of their hidden state.
"""

from typing import Any, NamedTuple

from sb3_nrl.arrays import Array


class Part(NamedTuple):
    """
    The position of the actor or of the critic in the vectors of all nodes and of all weights.

    :param nodes: Its nodes
    :param inputs: The inputs of its weight matrices
    :param states: The variables of its hidden state
    :param weights: Its weights and biases that learn
    :param layer_nodes: The nodes of each of its layers, from the features to the head
    """

    nodes: slice
    inputs: slice
    states: slice
    weights: slice
    layer_nodes: list[slice]

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return self.nodes.stop - self.nodes.start

    @property
    def n_states(self) -> int:
        """Number of variables of its hidden state."""
        return self.states.stop - self.states.start


class NoisyPass(NamedTuple):
    """
    The results of a pass through actor and critic.

    :param objectives: log π(a|s) of the actor and, with a critic, V(s), of shape (B,) each. The eligibility is an
        estimate of their gradients
    :param received: Pre-synaptic activity x̃ of each layer, the actor's layers first. It is an array of B rows, a list
        of arrays if the layer consists of several, or None if nothing in it learns.
        :func:`~sb3_nrl.arrays.map_received` applies a function to all. Empty if noise is on weights. Without noise,
        only ``Dense`` layers have it: a pass with noise of zeros gives it for all
    :param potentials: Pre-activations h of all nodes, noise included: arrays that together have N columns, in the order
        of the nodes. Without noise, and with noise on weights, as ``received``
    :param states: Hidden states after the last step, shape (K · E, S); None without recurrent layers
    :param parameters: Parameters of the action distribution
    :param costs: What the actor's activity costs, shape (B,); None if nothing
    """

    objectives: list[Array]
    received: list[Any]
    potentials: list[Array]
    states: Array | None
    parameters: Array
    costs: Array | None = None
