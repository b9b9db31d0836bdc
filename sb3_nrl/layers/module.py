"""Node perturbation of arbitrary PyTorch modules, such as features extractors.

Shapes: B rows of a batch, N nodes of the whole module, E environments, S rows per environment (B = S · E), P positions
at which a layer is applied, I inputs and O outputs of a layer.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple, TypeGuard, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.func import functional_call
from torch.nn.grad import conv2d_weight

from sb3_nrl.arrays import Array, ArrayNamespace, map_observations
from sb3_nrl.layers.base import Layer

_EXTENT = 3.0
"""Largest absolute value in an example observation, small enough not to saturate activation functions."""


class Site(NamedTuple):
    """
    One application of a Linear or Conv2d layer in the forward pass.

    :param layer: The layer
    :param nodes: Slice of its pre-activation in the vector of all nodes
    :param shape: Shape of one row's pre-activation: (P, O) for a linear layer, (P, O, height, width) for a convolution,
        where P is 1 unless the module applies the layer to several parts of an observation
    """

    layer: nn.Linear | nn.Conv2d
    nodes: slice
    shape: tuple[int, ...]


class ForeignModule(Layer):
    """
    A layer made of any PyTorch module, which runs in PyTorch alone.

    Node perturbation adds noise to the pre-activations of its Linear and Conv2d layers, records what each of them
    received, and forms the outer products that have the shapes of their parameters. The noise of all nodes is one
    vector of N numbers, in the order in which the layers are called. Layers whose parameters are all frozen
    (``requires_grad=False``) get no noise.

    Weight perturbation, and the exact gradient where the module has parameters that node perturbation does not reach,
    take the module as a whole: it has no nodes, and all its parameters learn.

    :param module: The module
    :param preprocess: Function that is applied to the input before the module
    :param example: An input of ``preprocess``, a batch of three different rows, to find out which layers are called,
        and with what shapes
    :param shares_input: Whether all copies of a pass receive the same, as a features extractor does. Only then can
        ``preprocess`` return a dictionary
    """

    runs_in_numpy = False

    def __init__(
        self, module: nn.Module, preprocess: Callable[[Any], Any], example: Any, shares_input: bool = False
    ) -> None:
        super().__init__()
        self.module = module
        self.shares_input = shares_input  # type: ignore[misc]
        self._preprocess = preprocess
        self._example = example

    @property
    def n_units(self) -> int:  # type: ignore[override]
        return sum(len(range(site.nodes.start, site.nodes.stop)) for site in self.sites)

    def learnable(self) -> list[nn.Parameter]:
        if self.is_whole:
            return super().learnable()
        called = [parameter for site in self.sites for parameter in site.layer.parameters(recurse=False)]
        return list(dict.fromkeys(parameter for parameter in called if parameter.requires_grad))

    def refresh(self) -> None:
        """
        Find out which layers are called, and which of them learn.

        :raises ValueError: If nodes are perturbed and a trainable parameter would never learn, because it belongs to
            another type of layer or to a layer that is not called; or if its eligibility would be wrong, because the
            module draws random numbers, mixes the rows of a batch or overwrites what a layer received
        """
        self.layers = [
            layer
            for layer in self.module.modules()
            if _is_plain(layer) and any(p.requires_grad for p in layer.parameters(recurse=False))
        ]
        self.sites: list[Site] = []
        learns = any(parameter.requires_grad for parameter in self.module.parameters())
        self.is_whole = learns and self.perturbs == "weight"
        if learns:
            example = map_observations(lambda part: part.to(next(self.parameters()).device), self._example)
            if not self.is_whole:
                self._find_sites(example)
            self._check(example)
        super().refresh()
        reached = set(self.learnable())
        missed = {
            name: parameter
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad and parameter not in reached
        }
        if missed and self.perturbs == "any":
            self.is_whole, self.layers, self.sites, self.n_nodes = True, [], [], 0
        else:
            for name in missed:
                owner = name.rpartition(".")[0]
                raise ValueError(
                    f"The parameter '{name}' of {type(self.module).__name__} would never learn: node perturbation "
                    "reaches the weights and biases of nn.Linear and nn.Conv2d layers that the forward pass calls and "
                    f"that compute what these do, and '{owner or type(self.module).__name__}' "
                    f"({type(self.module.get_submodule(owner)).__name__}) is none of them. Replace the layer, freeze "
                    'it with requires_grad_(False), or let NRL perturb the weights with perturbation="weight".'
                )

    def _call(self, x: Any, instead: Callable[..., th.Tensor]) -> th.Tensor:
        """The module's pass, with ``instead(layer, *args)`` as each layer's forward. PyTorch's hooks are slower."""
        for layer in self.layers:
            layer.__dict__["forward"] = partial(instead, layer)
        try:
            return self.module(self._preprocess(x))
        finally:
            for layer in self.layers:
                del layer.__dict__["forward"]

    def forward(self, x: Any) -> th.Tensor:
        return self.module(self._preprocess(x))

    def step(
        self, xp: ArrayNamespace, parameters: tuple[Array, ...], x: Any, noise: Array | None = None
    ) -> tuple[Array, Any, list[Array]]:
        if self.is_whole:
            if parameters[0].ndim == next(self.parameters()).ndim:
                return self(x), None, []
            names = [name for name, _ in self.module.named_parameters()]
            copies = [dict(zip(names, values, strict=True)) for values in zip(*parameters, strict=True)]
            received = self._preprocess(x)
            inputs = [received] * len(copies) if self.shares_input else received.chunk(len(copies))
            calls = zip(copies, inputs, strict=True)
            return th.cat([functional_call(self.module, copy, (own,)) for copy, own in calls]), None, []
        if noise is None:
            return self(x), [], []
        all_received: list[th.Tensor] = []
        potentials: list[th.Tensor] = []

        def perturb(layer: nn.Linear | nn.Conv2d, layer_input: th.Tensor) -> th.Tensor:
            own = noise[:, self.sites[len(all_received)].nodes]
            all_received.append(layer_input)
            pre_activation = _plain_forward(layer, layer_input)
            pre_activation = pre_activation + own.reshape(pre_activation.shape)
            potentials.append(pre_activation.reshape(own.shape).clone())  # an activation may work in place
            return pre_activation

        return self._call(x, perturb), all_received, potentials

    def outer(self, xp: ArrayNamespace, post_BN: Array, received: Any, n_envs: int) -> list[Array]:
        if self.is_whole:  # the gradient itself
            return received
        # A bias is a synapse whose pre-synaptic activity is 1. A layer that is applied at several positions, as a
        # convolution is, sums over them.
        sums: dict[th.Tensor, th.Tensor] = {}
        for (layer, nodes, shape), pre in zip(self.sites, received, strict=True):
            post = post_BN[:, nodes].reshape(-1, n_envs, *shape)
            for parameter, product in ((layer.weight, _weight_product), (layer.bias, _bias_product)):
                if parameter is not None and parameter.requires_grad:
                    addend = product(layer, post, pre)
                    sums[parameter] = sums[parameter] + addend if parameter in sums else addend
        return [sums[parameter].flatten(1) for parameter in self.learnable()]

    @th.no_grad()
    def _find_sites(self, example: Any) -> None:
        names = {layer: name for name, layer in self.module.named_modules()}
        received: list[tuple[str, th.Tensor, int]] = []

        def add_site(layer: nn.Linear | nn.Conv2d, *args: th.Tensor, **kwargs: th.Tensor) -> th.Tensor:
            pre_activation = _plain_forward(layer, *args, **kwargs)
            if kwargs or len(pre_activation) % 3 != 0:
                raise ValueError(
                    f"Layer '{names[layer]}' must be called with one positional argument, the batch first."
                )
            shape = (3, -1, layer.out_features) if isinstance(layer, nn.Linear) else (3, -1, *pre_activation.shape[1:])
            row = pre_activation.reshape(shape)[0]
            start = self.n_units
            self.sites.append(Site(layer, slice(start, start + row.numel()), tuple(row.shape)))
            received.append((names[layer], args[0], args[0]._version))
            return pre_activation

        self._call(example, add_site)
        for name, value, version in received:
            if value._version != version:
                raise ValueError(
                    f"The input of layer '{name}' is overwritten in place later: make a new tensor instead."
                )

    @th.no_grad()
    def _check(self, example: Any) -> None:
        clean = self.forward(example)
        noise = th.zeros(3, self.n_units, device=clean.device)
        if not _are_same(clean, self.step(th, self.arrays(th), example, noise)[0]):
            raise ValueError(
                f"{type(self.module).__name__} draws random numbers, or keeps a state between calls. Its outputs for "
                "the same observation differ, and this difference cannot be distinguished from an effect of the noise. "
                'A policy with memory is a recurrent one, such as "CnnGruPolicy" or "MultiInputGruPolicy".'
            )
        noise[1] = 1
        other = map_observations(lambda part: part[[0, 2, 2]], example)
        if not _are_same(clean[::2], self.step(th, self.arrays(th), other, noise)[0][::2]):
            raise ValueError(
                f"{type(self.module).__name__} mixes the rows of a batch: one row affects the outputs of others."
            )


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


def example_observations(space: spaces.Space) -> PyTorchObs:
    """
    A fixed batch of three random observations, to test features extractors. Successive rows differ, and values are
    small enough not to saturate a network.
    """
    if isinstance(space, spaces.Dict):
        return {key: cast("th.Tensor", example_observations(part)) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        low = np.maximum(space.low, -_EXTENT)
        high = np.maximum(np.minimum(space.high, _EXTENT), low + 1)
        rows = np.random.default_rng(0).uniform(low, high, (3, *space.shape)).astype(np.float32)
    else:
        space = deepcopy(space)  # the environment may draw from it
        space.seed(0)
        drawn = (np.asarray(space.sample()) for _ in range(30))
        different = list({row.tobytes(): row for row in drawn}.values())
        rows = np.stack([different[place % len(different)] for place in range(3)])
    return th.as_tensor(rows)
