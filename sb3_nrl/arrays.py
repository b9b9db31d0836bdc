"""One word for what small networks keep in NumPy's arrays and others in PyTorch's tensors."""

from typing import Any, TypeAlias

Array: TypeAlias = Any
"""
``np.ndarray`` or ``th.Tensor``, of which only operators, indexing, ``reshape`` and ``sum`` are used, so that what is
written for one works for the other. On a few hundred numbers, between the steps of an environment, an operation takes
PyTorch up to ten times as long as NumPy.
"""
