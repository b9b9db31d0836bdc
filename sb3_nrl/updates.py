"""Apply weight changes with an optimizer of PyTorch.

Shapes: W weights and biases that learn.
"""

import math
from typing import NamedTuple

import torch as th

from sb3_nrl.arrays import Array, norm
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.checks import check, name_the_largest
from sb3_nrl.perturbation import PerturbablePolicy
from sb3_nrl.reward_prediction import RewardErrors

_MAX_LEARNING_RATE = 1e30
"""Largest learning rate that optimizers can compute with in single precision."""

_MAX_GRADIENT_NORM = 1e18
"""Largest norm of a gradient whose square optimizers can compute with in single precision."""

_MAX_CHANGE_NORM = 1e37
"""Largest norm of a weight change that can be clipped in single precision."""


class Update(NamedTuple):
    """
    The first update of a window, the argument of the functions in ``ThreeFactorAlgorithm.watchers``.

    :param window: The steps of the update
    :param errors: Their reward prediction errors
    :param change_W: The weight change Σ δ · trace before clipping and learning rate, without the cost of spikes
    :param had_traces: Whether there were traces of steps before the window
    """

    window: RolloutWindow
    errors: RewardErrors
    change_W: Array
    had_traces: bool


def check_optimizer(policy: PerturbablePolicy, vf_coef: float) -> None:
    """
    Check the policy's optimizer, which users may replace.

    :param policy: The policy
    :param vf_coef: The critic's learning rate as a multiple of the actor's
    :raises ValueError: If the optimizer lacks a parameter, or if ``vf_coef`` needs a parameter group of the critic and
        there is none
    """
    groups = policy.optimizer.param_groups
    marked = vf_coef == 1 or any(group.get("critic") for group in groups)
    check("vf_coef", vf_coef, marked, '1 as long as no group of policy.optimizer has "critic": True')
    optimized = {id(parameter) for group in groups for parameter in group["params"]}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad and id(parameter) not in optimized:
            raise ValueError(f"The parameter '{name}' would never learn: it is not in policy.optimizer.")


@th.no_grad()
def apply_update(policy: PerturbablePolicy, change_W: Array, max_norm: float | None, window: RolloutWindow) -> float:
    """
    Make a step of the optimizer, with −Σ δ · trace as the gradient. Actor and critic are clipped separately.

    :param policy: The policy
    :param change_W: Weight change Σ δ · trace
    :param max_norm: Bound on the norm, None for none
    :param window: The steps of the update, for messages
    :return: The norm before clipping
    :raises FloatingPointError: If a weight would not be finite. All weights are then as before, and the optimizer's
        state is reset
    """
    gradient_W, norms = policy.array(-change_W), []
    for part in policy.parts:
        gradient = gradient_W[part.weights]
        norms.append(norm(gradient))
        if max_norm is not None and norms[-1] > max_norm:
            gradient *= max_norm / norms[-1]
    size = math.hypot(*norms)
    parameters = policy.learnable
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, gradient in zip(parameters, th.as_tensor(gradient_W).split(sizes), strict=True):
        parameter.grad = gradient.view_as(parameter)
        if not parameter.is_contiguous():  # optimizers need the gradient in the same order in memory
            parameter.grad = th.empty_like(parameter).copy_(parameter.grad)
    before_W = th.cat([parameter.flatten() for parameter in parameters])
    rate = max(group["lr"] for group in policy.optimizer.param_groups)
    clipped = size if max_norm is None else min(size, max_norm)
    finite = size < _MAX_CHANGE_NORM and clipped < _MAX_GRADIENT_NORM and rate < _MAX_LEARNING_RATE
    if finite:
        policy.optimizer.step()
        policy.renew_moved_arrays()  # some optimizers replace the parameters' memory
        finite = all(math.isfinite(parameter.sum()) for parameter in parameters)
        for layer in policy.layers:
            layer.constrain()
    if not finite:
        for parameter, old in zip(parameters, before_W.split(sizes), strict=True):
            parameter.copy_(old.view_as(parameter))
        policy.optimizer.state.clear()  # its moments may include the refused change
        raise FloatingPointError(
            "An update was not applied: it would make weights infinite or NaN. The model keeps its last finite "
            "weights. "
            + (
                name_the_largest(window.observations, window.rewards_TE)
                or f"Lower learning_rate (now {rate:g}) or set a lower max_grad_norm."
            )
        )
    return size
