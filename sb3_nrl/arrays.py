"""Helpers for code that runs in NumPy and in PyTorch.

A layer, an activation function or an action distribution takes the argument ``xp``, which is the module ``numpy`` or
``torch``, and uses only functions that both modules have. NumPy is several times quicker for small networks and few
environments. PyTorch supports other devices, autograd and the modules of users.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch as th

Array: TypeAlias = Any
"""``np.ndarray`` or ``th.Tensor``."""

ArrayNamespace: TypeAlias = ModuleType
"""``numpy`` or ``torch``."""

Observations: TypeAlias = Any
"""An array whose first dimension is the batch, or a dictionary of such arrays for a ``Dict`` space."""


def map_observations(function: Callable[[Array], Array], obs: Observations) -> Observations:
    """Apply a function to an array of observations, or to each array of a ``Dict`` space."""
    return {key: function(part) for key, part in obs.items()} if isinstance(obs, dict) else function(obs)


def map_received(function: Callable[..., Array], *received: Any) -> Any:
    """
    Apply a function to the inputs of all layers.

    :param function: Function of one array from each of ``received``
    :param received: ``NoisyPass.received`` of one pass or of several
    :return: The results, in lists of the same structure
    """
    first = received[0]
    if isinstance(first, list | tuple):
        return [map_received(function, *parts) for parts in zip(*received, strict=True)]
    return None if first is None else function(*received)


def n_rows(obs: Observations) -> int:
    """Number of rows B of a batch of observations."""
    return len(next(iter(obs.values())) if isinstance(obs, dict) else obs)


def as_float(xp: ArrayNamespace, x: Array) -> Array:
    """An array in single precision, copied only if it is not already."""
    return x.float() if xp is th else x.astype(np.float32, copy=False)


def highest(xp: ArrayNamespace, x: Array, axis: int) -> Array:
    """The maximum along an axis. The axis stays, with length 1."""
    return th.amax(x, axis, keepdim=True) if xp is th else np.maximum.reduce(x, axis, keepdims=True)


def log_softmax(xp: ArrayNamespace, x: Array, axis: int) -> Array:
    """The logarithm of the softmax along an axis."""
    if xp is th:
        return x.log_softmax(axis)  # one step for autograd
    below = x - highest(np, x, axis)
    return below - np.log(np.exp(below).sum(axis, keepdims=True))


def transpose(xp: ArrayNamespace, x: Array) -> Array:
    """The transpose of a matrix, copied so that its rows are contiguous. Reductions over short columns are slow."""
    return x.T.contiguous() if xp is th else x.T.copy()


def norm(x: Array) -> float:
    """Euclidean norm of a vector. The squares of its entries may be too large for single precision."""
    size = math.sqrt(float((x * x).sum()))
    if math.isfinite(size):
        return size
    largest = float(abs(x).max())
    return largest * norm(x / largest) if math.isfinite(largest) else largest


def keep_random_state(device: th.device) -> AbstractContextManager[None]:
    """A context after which PyTorch's random generators continue as if nothing had been drawn."""
    return th.random.fork_rng([device] if device.type == "cuda" else [])


def keep_freed_memory() -> None:
    """
    Let the allocator keep the memory of large arrays for the next ones. Otherwise glibc returns it to the system after
    each update and asks for it again, which took up to a third of an update's time. glibc does so from twice the size
    of the largest block that was freed so far, if that block had 32 MiB at most.
    """
    np.empty(31 * 2**20, np.uint8)


def is_exported(xp: ArrayNamespace) -> bool:
    """Whether PyTorch traces the code, which would keep the branch of the example only."""
    return xp is th and (th.jit.is_tracing() or th.compiler.is_compiling())


def repeat_batch(xp: ArrayNamespace, rows: Observations, n: int) -> Observations:
    """The whole batch ``n`` times, one copy after the other. Lists of arrays are spike trains."""
    if isinstance(rows, list):
        return [repeat_batch(xp, part, n) for part in rows]
    return rows if n == 1 else map_observations(lambda part: xp.concatenate([part] * n), rows)


def in_single_precision(values: Array) -> Array:
    """Convert NumPy arrays of double precision to single precision. Everything else is returned unchanged."""
    return values.astype(np.float32) if isinstance(values, np.ndarray) and values.dtype == np.float64 else values


def empty_as(reference: Array, *shape: int) -> Array:
    """An array to be filled, of the type and device of ``reference``, but at least in single precision."""
    if isinstance(reference, th.Tensor):
        return reference.new_empty(shape, dtype=th.promote_types(reference.dtype, th.float32))
    return np.empty(shape, np.result_type(reference.dtype, np.float32))


def like(values: np.ndarray, reference: Array) -> Array:
    """Convert a NumPy array to the type and device of ``reference``, floats to single precision."""
    values = in_single_precision(values)
    return th.as_tensor(values, device=reference.device) if isinstance(reference, th.Tensor) else values
