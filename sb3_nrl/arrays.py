"""One word for what multi-layer perceptrons on the CPU keep in NumPy's arrays and others in PyTorch's tensors."""

from typing import Any, TypeAlias

Array: TypeAlias = Any
"""
``np.ndarray`` or ``th.Tensor``, of which only operators, indexing, ``shape``, ``reshape`` and ``sum`` are used, so that
what is written for one works for the other. On a few hundred numbers, between the steps of an environment, an operation
takes PyTorch up to ten times as long as NumPy.
"""
