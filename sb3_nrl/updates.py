"""The optimizer's step along a weight change that no gradient stands behind.

Shapes: W weights and biases that learn.
"""

import math

import torch as th

from sb3_nrl.arrays import Array
from sb3_nrl.policies import NoisyPolicy

_MAX_LEARNING_RATE = 1e30
"""Largest learning rate that optimizers can compute with in single precision."""


def apply_update(policy: NoisyPolicy, change_W: Array, max_norm: float | None) -> float:
    """
    Give the optimizer −Σ δ · trace for a gradient, clipped for actor and critic separately, and let it make its step.

    :param policy: The policy
    :param change_W: Weight change Σ δ · trace
    :param max_norm: Bound on the norm, None for none
    :return: The norm, before clipping
    :raises FloatingPointError: If a weight would not be finite; all weights are then as before, and the optimizer's
        moments start anew
    """
    gradient_W = th.as_tensor(change_W, device=policy.learnable[0].device).neg()
    norms = []
    for part in policy.parts:
        gradient = gradient_W[part.weights]
        norm = math.sqrt(float((gradient * gradient).sum()))
        norms.append(norm)
        if max_norm is not None and norm > max_norm:
            gradient *= max_norm / norm
    before = [parameter.detach().clone() for parameter in policy.learnable]
    sizes = [parameter.numel() for parameter in policy.learnable]
    for parameter, gradient in zip(policy.learnable, gradient_W.split(sizes), strict=True):
        parameter.grad = gradient.view_as(parameter)
    norm = math.hypot(*norms)
    rate = max(group["lr"] for group in policy.optimizer.param_groups)
    finite = math.isfinite(norm) and rate < _MAX_LEARNING_RATE
    with th.no_grad():
        if finite:
            policy.optimizer.step()
            finite = all(math.isfinite(parameter.sum()) for parameter in policy.learnable)
        if not finite:
            for parameter, old in zip(policy.learnable, before, strict=True):
                parameter.copy_(old)
            policy.optimizer.state.clear()  # moments may hold the refused change
            raise FloatingPointError(
                "An update was refused: it would make weights infinite or NaN. The model keeps its last finite weights. "
                f"Lower learning_rate (now {rate:g}) or set a lower max_grad_norm."
            )
    return norm
