"""Node perturbation of any module built of Linear and Conv2d layers.

Shapes: B rows of a batch, N nodes of the whole network, E environments, S rows per environment (B = S · E), P positions
at which a layer is applied, I inputs and O outputs of a layer, W weights and biases of the network.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import torch as th
from torch import nn
from torch.nn.grad import conv2d_weight


class Site(NamedTuple):
    """One application of a layer in the forward pass.

    :param layer: The layer
    :param nodes: Where its pre-activation lies in the flat vector of all nodes
    :param shape: Shape of one row's pre-activation: (P, O) for a linear layer, (P, O, height, width) for a convolution,
        where P is 1 unless the network applies the layer to several parts of an observation
    """

    layer: nn.Linear | nn.Conv2d
    nodes: slice
    shape: tuple[int, ...]


class NodePerturbation:
    """
    Adds noise to the pre-activations of a module's Linear and Conv2d layers, records what each layer received, and
    forms the outer products of post- and pre-synaptic activity that have the shapes of the layers' parameters.

    The noise of all nodes is one vector of N numbers, in the order in which the layers are called. Layers whose
    parameters are all frozen (``requires_grad=False``) are left alone.

    :param module: Owner of the layers
    :param forward: The pass to perturb; a function of one argument, batch first, that calls the module's layers
    :param example: An argument for ``forward`` with a batch of three different rows, to find out which layers are
        called, and with what shapes
    :raises ValueError: If no layer learns; if a trainable parameter would never learn, because it belongs to another
        type of layer or to a layer that ``forward`` does not call; or if a layer's credit would be wrong, because
        ``forward`` draws random numbers, mixes the rows of a batch or overwrites what the layer received
    """

    def __init__(self, module: nn.Module, forward: Callable[[Any], th.Tensor], example: Any) -> None:
        self.forward = forward
        self.layers = [
            layer
            for layer in module.modules()
            if _is_plain(layer) and any(p.requires_grad for p in layer.parameters(recurse=False))
        ]
        self.sites: list[Site] = []
        self.n_nodes = 0
        self._names = {layer: name for name, layer in module.named_modules()}
        self._find_sites(example)
        if self.n_nodes == 0:
            raise ValueError("Nothing is left to learn: no Linear or Conv2d layer of the policy has requires_grad.")

        called = [parameter for site in self.sites for parameter in site.layer.parameters(recurse=False)]
        self.parameters = list(dict.fromkeys(parameter for parameter in called if parameter.requires_grad))
        """Those that learn, in the order in which their layers are called."""
        reached = set(self.parameters)
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and parameter not in reached:
                owner = name.rpartition(".")[0]
                raise ValueError(
                    f"The parameter '{name}' would never learn: node perturbation reaches the weights and biases of "
                    f"nn.Linear and nn.Conv2d layers that the forward pass calls and that compute what these do, and "
                    f"'{owner or type(module).__name__}' ({type(module.get_submodule(owner)).__name__}) is none of "
                    "them. Replace the layer, or freeze it with requires_grad_(False)."
                )

    def _pass_through(self, inputs: Any, instead: Callable[..., th.Tensor]) -> th.Tensor:
        """The pass, with ``instead(layer, *args)`` in the place of each layer's forward. PyTorch's hooks cost more."""
        for layer in self.layers:
            layer.__dict__["forward"] = partial(instead, layer)
        try:
            return self.forward(inputs)
        finally:
            for layer in self.layers:
                del layer.__dict__["forward"]

    @th.no_grad()
    def _find_sites(self, example: Any) -> None:
        received: list[tuple[str, th.Tensor, int]] = []

        def add_site(layer: nn.Linear | nn.Conv2d, *args: th.Tensor, **kwargs: th.Tensor) -> th.Tensor:
            name = self._names[layer]
            pre_activation = _plain_forward(layer, *args, **kwargs)
            if kwargs or len(pre_activation) % 3 != 0:
                raise ValueError(f"Layer '{name}' must be called with one positional argument, the batch first.")
            shape = (3, -1, layer.out_features) if isinstance(layer, nn.Linear) else (3, -1, *pre_activation.shape[1:])
            row = pre_activation.reshape(shape)[0]
            self.sites.append(Site(layer, slice(self.n_nodes, self.n_nodes + row.numel()), tuple(row.shape)))
            self.n_nodes += row.numel()
            received.append((name, args[0], args[0]._version))
            return pre_activation

        clean = self._pass_through(example, add_site)
        for name, value, version in received:
            if value._version != version:
                raise ValueError(
                    f"What layer '{name}' received is overwritten in place later: make a new tensor instead."
                )
        noise = th.zeros(3, self.n_nodes, device=clean.device)
        if not _are_same(clean, self.run(example, noise)[0]):
            raise ValueError(
                "The forward pass draws random numbers: it gives different outputs for the same observation, which "
                "would be taken for an effect of the noise."
            )
        noise[1] = 1
        rows = [0, 2, 2]
        other = {key: part[rows] for key, part in example.items()} if isinstance(example, dict) else example[rows]
        if not _are_same(clean[::2], self.run(other, noise)[0][::2]):
            raise ValueError("The forward pass mixes the rows of a batch: what is in one row changes others' outputs.")

    def run(self, inputs: Any, noise_BN: th.Tensor) -> tuple[th.Tensor, list[th.Tensor]]:
        """
        A noisy pass (Eq. 18 and 19).

        :param inputs: Argument for ``forward``, a batch of B rows
        :param noise_BN: ξ, what is added to each node's pre-activation, shape (B, N)
        :return: What ``forward`` returned, and the pre-synaptic activity x̃ that each site received
        """
        pre: list[th.Tensor] = []

        def perturb(layer: nn.Linear | nn.Conv2d, x: th.Tensor) -> th.Tensor:
            nodes = self.sites[len(pre)].nodes
            pre.append(x)
            pre_activation = _plain_forward(layer, x)
            return pre_activation + noise_BN[:, nodes].reshape(pre_activation.shape)

        return self._pass_through(inputs, perturb), pre

    def outer(self, post_BN: th.Tensor, pre: list[th.Tensor], n_envs: int) -> th.Tensor:
        """
        The sum of post ⊗ pre over each environment's rows (the sums in Eq. 17 and 21).

        A bias is a synapse whose pre-synaptic activity is 1. A layer that is applied at several positions, as a
        convolution is, sums over them.

        :param post_BN: Post-synaptic factor of each node, shape (B, N); the rows of one time step are adjacent, in the
            order of the environments
        :param pre: What each site received, as ``run`` returns it
        :param n_envs: Number of environments E
        :return: The sums for all of ``self.parameters``, one after the other, shape (E, W)
        """
        sums: dict[th.Tensor, th.Tensor] = {}
        for (layer, nodes, shape), received in zip(self.sites, pre, strict=True):
            post = post_BN[:, nodes].reshape(-1, n_envs, *shape)
            for parameter, product in ((layer.weight, _weight_product), (layer.bias, _bias_product)):
                if parameter is not None and parameter.requires_grad:
                    addend = product(layer, post, received)
                    sums[parameter] = sums[parameter] + addend if parameter in sums else addend
        return th.cat([sums[parameter].flatten(1) for parameter in self.parameters], dim=1)

    def split(self, vector_W: th.Tensor) -> list[th.Tensor]:
        """
        Undo the concatenation of all parameters.

        :param vector_W: One number for each weight and bias, shape (W,)
        :return: Views of it with the shapes of ``self.parameters``
        """
        parts = vector_W.split([parameter.numel() for parameter in self.parameters])
        return [part.view_as(parameter) for part, parameter in zip(parts, self.parameters, strict=True)]


def _are_same(one: th.Tensor, other: th.Tensor) -> bool:
    return th.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    """Whether a layer computes what Linear or Conv2d do, of a weight and a bias of its own."""
    methods = {nn.Linear: ("forward",), nn.Conv2d: ("forward", "_conv_forward")}
    kind = next((kind for kind in methods if isinstance(layer, kind)), None)
    return (
        kind is not None
        and all(getattr(type(layer), name) is getattr(kind, name) for name in methods[kind])
        and not any(name in vars(layer) for name in methods[kind])
        and {name for name, _ in layer.named_parameters(recurse=False)} <= {"weight", "bias"}
    )


def _plain_forward(layer: nn.Linear | nn.Conv2d, *args: th.Tensor, **kwargs: th.Tensor) -> th.Tensor:
    forward: Any = type(layer).forward
    return forward(layer, *args, **kwargs)


def _weight_product(layer: nn.Linear | nn.Conv2d, post: th.Tensor, pre: th.Tensor) -> th.Tensor:
    """Sum of the outer products: ``post`` of shape (S, E, P, O, ...), the result of shape (E, \\*weight.shape)."""
    if isinstance(layer, nn.Linear):
        pre = pre.reshape(*post.shape[:3], layer.in_features)
        return post.permute(1, 3, 0, 2).flatten(2) @ pre.transpose(0, 1).flatten(1, 2)
    n_envs, n_positions = post.shape[1:3]
    padding_mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    pre = nn.functional.pad(pre, layer._reversed_padding_repeated_twice, mode=padding_mode)
    pre_SEP = pre.reshape(-1, n_envs, n_positions, *pre.shape[1:])
    # The environments stand side by side as groups of channels, so that one call gives each a correlation of its own.
    return conv2d_weight(
        pre_SEP.transpose(1, 2).reshape(-1, n_envs * layer.in_channels, *pre.shape[2:]),
        (n_envs * layer.out_channels, *layer.weight.shape[1:]),
        post.transpose(1, 2).reshape(-1, n_envs * layer.out_channels, *post.shape[4:]),
        stride=layer.stride,
        dilation=layer.dilation,
        groups=n_envs * layer.groups,
    ).view(n_envs, *layer.weight.shape)


def _bias_product(layer: nn.Linear | nn.Conv2d, post: th.Tensor, pre: th.Tensor) -> th.Tensor:
    """As ``_weight_product``, for a pre-synaptic activity of 1 and a result of shape (E, O)."""
    return post.sum((0, 2, *range(4, post.ndim)))
