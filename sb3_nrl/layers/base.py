"""The interface of layers that noise can be added to.

Shapes: B rows of a batch, N nodes that noise is added to, E environments, I inputs and O outputs of a layer, K copies
of a pass that differ in their noise, T steps, M inputs of all weight matrices of a layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch as th
from torch import nn

from sb3_nrl.arrays import Array, ArrayNamespace


class RankOne(NamedTuple):
    """
    Noise b aᵀ on weight matrices, another one for each copy, step and environment. T is 1 where noise is held over all
    steps.

    :param post: b, shape (K, T, E, N)
    :param pre: a, shape (K, T, E, M)
    """

    post: Array
    pre: Array

    def of(self, nodes: slice, inputs: slice) -> "RankOne":
        """The noise of some nodes and of their inputs."""
        return RankOne(self.post[..., nodes], self.pre[..., inputs])


Perturbs = Literal["node", "weight", "any"]
"""What a learning rule perturbs: pre-activations; weights; or none, since it has gradients of everything."""

LayerNoise = Array | RankOne | None
"""Noise of one layer: ξ of its nodes, of shape (B, N); or noise of rank one on its weights; or none."""


def per_env(values_BN: Array, n_envs: int) -> Array:
    """The rows of each environment side by side, shape (E, B / E, N)."""
    return values_BN.reshape(-1, n_envs, values_BN.shape[1]).swapaxes(0, 1)


def spans(widths: Iterable[int]) -> tuple[list[slice], int]:
    """Where parts of these widths lie in a vector, and its length."""
    ends = list(accumulate(widths, initial=0))
    return [slice(start, end) for start, end in pairwise(ends)], ends[-1]


class Layer(nn.Module, ABC):
    """
    A layer that noise can be added to, defined once for NumPy and PyTorch.

    A subclass writes :meth:`step` (a recurrent one :meth:`~RecurrentLayer.unroll`) and :meth:`outer`; both engines use
    them. Parameters live in the module, as in any PyTorch module. NumPy sees them as views, so that an optimizer's
    changes in place are seen at once.
    """

    runs_in_numpy: ClassVar[bool] = True
    """Whether ``step`` can be called with NumPy."""

    is_smooth: ClassVar[bool] = True
    """Whether small noise changes the output little. The two passes of a pair then have nearly the same activity."""

    shares_input: ClassVar[bool] = False
    """Whether a pass of K copies may give it once what all copies receive."""

    perturbs: Perturbs = "node"
    """What the learning rule perturbs."""

    n_nodes: int = 0
    """Number of nodes N that noise is added to; 0 if nothing in the layer learns, or if it has no nodes of its own."""

    n_units: int = 0
    """Number of nodes of the layer if any of its parameters learns."""

    n_pre: int = 0
    """Number of inputs M of the weight matrices that learn, where noise of rank one is supported; a bias has one."""

    n_states: int = 0
    """Number of hidden state variables that a recurrent layer keeps for each row."""

    widths: tuple[int, ...] = ()
    """Number of inputs of each parameter, where noise of rank one is supported."""

    learns: tuple[bool, ...] = ()
    """For each parameter, whether it learns."""

    _views: tuple[Array, ...] | None = None

    def refresh(self) -> None:
        """Update the list of parameters that learn, and drop the NumPy views of parameters."""
        self.learns = tuple(parameter.requires_grad for parameter in self.parameters())
        self.n_nodes = self.n_units if any(self.learns) else 0
        self.n_pre = sum(width for width, learns in zip(self.widths, self.learns, strict=False) if learns)
        self._views = None

    def learnable(self) -> list[nn.Parameter]:
        """The parameters that learn, in the order of the sums that ``outer`` returns."""
        return [parameter for parameter, learns in zip(self.parameters(), self.learns, strict=True) if learns]

    def masks(self) -> list[th.Tensor | None]:
        """For each parameter, which of its entries exist, None for all."""
        return [None for _ in self.parameters()]

    def constrain(self) -> None:
        """Bring the parameters back to where they may be, after each update."""

    def arrays(self, xp: ArrayNamespace) -> tuple[Array, ...]:
        """All parameters: NumPy views of them, or the parameters themselves for PyTorch."""
        if xp is th:
            return tuple(self.parameters())
        if self._views is None:
            self._views = tuple(parameter.detach().numpy() for parameter in self.parameters())
        return self._views

    def renew_arrays(self) -> None:
        """Drop the NumPy views of parameters, whose ``data`` may have been replaced."""
        self._views = None

    def step(
        self, xp: ArrayNamespace, parameters: tuple[Array, ...], x: Any, noise: LayerNoise = None
    ) -> tuple[Array, Any, list[Array]]:
        """
        Process a batch, with noise added to the pre-activations if there is any (Eq. 18 and 19).

        :param xp: ``numpy`` or ``torch``
        :param parameters: The layer's parameters, as ``arrays`` gives them; or K sets of them, each with a dimension
            for K in front, for K equal parts of the batch
        :param x: What the layer receives, B rows
        :param noise: The layer's noise
        :return: The layer's output, B rows; its pre-synaptic activity x̃, as ``outer`` wants it; and its pre-activations
            h with their noise, in arrays of shape (B, n) that together have N columns
        """
        raise NotImplementedError

    def outer(self, xp: ArrayNamespace, post_BN: Array, received: Any, n_envs: int) -> list[Array]:
        """
        Sum post ⊗ pre over the rows of each environment (Eq. 17 and 21).

        :param xp: ``numpy`` or ``torch``
        :param post_BN: Post-synaptic factor of each node; the rows of one time step are adjacent, in the order of the
            environments
        :param received: Pre-synaptic activity of the pass, as ``step`` returned it
        :param n_envs: Number of environments E
        :return: The sums for each parameter that learns, of shape (E, numel)
        """
        return []

    def outer_rank_one(self, xp: ArrayNamespace, post_BN: Array, pre_BM: Array, n_envs: int) -> list[Array]:
        """
        The same for noise of rank one, whose ``pre`` takes the place of the pre-synaptic activity.

        :param xp: ``numpy`` or ``torch``
        :param post_BN: Post-synaptic factor of each node
        :param pre_BM: The factor of each input
        :param n_envs: Number of environments E
        :return: As ``outer``
        """
        if self.n_pre == 0:
            return []
        sums_EOM = per_env(post_BN, n_envs).swapaxes(1, 2) @ per_env(pre_BM, n_envs)
        sums, column = [], 0
        for width, learns, mask in zip(self.widths, self.learns, self.masks(), strict=False):
            if learns:
                part = sums_EOM[..., column : column + width]
                part = part if mask is None else part * (mask if xp is th else mask.numpy())
                sums.append(part.reshape(n_envs, -1))
                column += width
        return sums

    def __getstate__(self) -> dict[str, Any]:
        # A copied or unpickled layer has parameters of its own, which these views do not show.
        return {**self.__dict__, "_views": None}

    def _apply(self, *args: Any, **kwargs: Any) -> "Layer":
        self._views = None
        return super()._apply(*args, **kwargs)


class RecurrentLayer(Layer):
    """A layer with a hidden state, which goes through the steps of a window one after the other."""

    shares_input = True

    @abstractmethod
    def unroll(
        self,
        xp: ArrayNamespace,
        parameters: tuple[Array, ...],
        x: Array,
        noise: LayerNoise,
        states_RS: Array,
        starts_TE: Array,
    ) -> tuple[Array, Any, list[Array], Array]:
        """
        Process T successive steps of E environments, K copies of them (B = K · T · E rows).

        :param xp: ``numpy`` or ``torch``
        :param parameters: As for ``step``
        :param x: What the layer receives; step t of environment e in copy k is in row (k · T + t) · E + e. It has
            T · E rows if all copies receive the same
        :param noise: The layer's noise
        :param states_RS: Hidden states before the first step, R = K · E rows of S variables
        :param starts_TE: Whether an episode begins with the step, so that its state is 0 before it
        :return: Output, pre-synaptic activity and pre-activations as of ``step``, and the states after the last step
        """


class CompoundLayer(Layer):
    """A layer made of others, which are its child modules: noise, sums and parameters are theirs, one after another."""

    @property
    def sublayers(self) -> list[Layer]:
        """The layers that it is made of."""
        return cast("list[Layer]", list(self.children()))

    def refresh(self) -> None:
        for layer in self.sublayers:
            layer.refresh()
        super().refresh()
        self.layer_nodes, self.n_nodes = spans(layer.n_nodes for layer in self.sublayers)
        self.layer_inputs, self.n_pre = spans(layer.n_pre for layer in self.sublayers)

    def learnable(self) -> list[nn.Parameter]:
        return [parameter for layer in self.sublayers for parameter in layer.learnable()]

    def masks(self) -> list[th.Tensor | None]:
        return [mask for layer in self.sublayers for mask in layer.masks()]

    def constrain(self) -> None:
        for layer in self.sublayers:
            layer.constrain()

    def split(
        self, parameters: tuple[Array, ...], noise: LayerNoise
    ) -> list[tuple[Layer, tuple[Array, ...], LayerNoise]]:
        """Each sublayer with its parameters and its noise."""
        parts, place = [], 0
        for layer, nodes, inputs in zip(self.sublayers, self.layer_nodes, self.layer_inputs, strict=True):
            own = noise.of(nodes, inputs) if isinstance(noise, RankOne) else None if noise is None else noise[:, nodes]
            end = place + len(layer.learns)
            parts.append((layer, parameters[place:end], own))
            place = end
        return parts

    def outer(self, xp: ArrayNamespace, post_BN: Array, received: Any, n_envs: int) -> list[Array]:
        parts = zip(self.sublayers, self.layer_nodes, received, strict=True)
        return [part for layer, nodes, pre in parts for part in layer.outer(xp, post_BN[:, nodes], pre, n_envs)]

    def outer_rank_one(self, xp: ArrayNamespace, post_BN: Array, pre_BM: Array, n_envs: int) -> list[Array]:
        sums = []
        for layer, nodes, inputs in zip(self.sublayers, self.layer_nodes, self.layer_inputs, strict=True):
            sums += layer.outer_rank_one(xp, post_BN[:, nodes], pre_BM[:, inputs], n_envs)
        return sums
