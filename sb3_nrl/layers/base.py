"""What a layer has to offer to be perturbed and to learn.

Shapes: B rows of a batch, N nodes that noise is added to, E environments, I inputs and O outputs of a layer.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch as th
from torch import nn

from sb3_nrl.arrays import Array, ArrayNamespace


class Layer(nn.Module, ABC):
    """
    A layer that noise can be added to, defined once for NumPy and PyTorch.

    A subclass writes :meth:`step` and :meth:`outer`; both engines use them. Parameters live in the module, as in any
    PyTorch module. NumPy sees them as views, so that an optimizer's changes in place are seen at once.
    """

    runs_in_numpy: ClassVar[bool] = True
    """Whether ``step`` can be called with NumPy."""

    n_nodes: int = 0
    """Number of nodes N that noise is added to; 0 if nothing in the layer learns."""

    learns: tuple[bool, ...] = ()
    """For each parameter, whether it learns."""

    _views: tuple[Array, ...] | None = None

    @property
    def n_units(self) -> int:
        """Number of nodes N of the layer when it learns."""
        return 0

    def refresh(self) -> None:
        """Look anew at the parameters: where they are, and which of them learn."""
        self.learns = tuple(parameter.requires_grad for parameter in self.parameters())
        self.n_nodes = self.n_units if any(self.learns) else 0
        self._views = None

    def learnable(self) -> list[nn.Parameter]:
        """The parameters that ``outer`` has sums for, in its order."""
        return [parameter for parameter, learns in zip(self.parameters(), self.learns, strict=True) if learns]

    def arrays(self, xp: ArrayNamespace) -> tuple[Array, ...]:
        """All parameters: views of them for NumPy, themselves for PyTorch."""
        if xp is th:
            return tuple(self.parameters())
        if self._views is None:
            self._views = tuple(parameter.detach().numpy() for parameter in self.parameters())
        return self._views

    @abstractmethod
    def step(
        self, xp: ArrayNamespace, parameters: tuple[Array, ...], x: Any, noise_BN: Array | None = None
    ) -> tuple[Array, Any, list[Array]]:
        """
        Process a batch, with noise added to the pre-activations if there is any (Eq. 18 and 19).

        :param xp: ``numpy`` or ``torch``
        :param parameters: The layer's parameters, as ``arrays`` gives them
        :param x: What the layer receives, B rows
        :param noise_BN: ξ of the layer's nodes
        :return: The layer's output, B rows; its pre-synaptic activity x̃, as ``outer`` wants it; and its pre-activations
            h with their noise, in arrays of shape (B, n) that together have N columns
        """

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

    def __getstate__(self) -> dict[str, Any]:
        # A copied or unpickled layer has parameters of its own, which these views do not show.
        return {**self.__dict__, "_views": None}

    def _apply(self, *args: Any, **kwargs: Any) -> "Layer":
        self._views = None
        return super()._apply(*args, **kwargs)
