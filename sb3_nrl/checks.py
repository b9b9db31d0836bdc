"""Checks that name what is wrong, and what would be right."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_nrl.buffers import RolloutWindow

_LARGE = 1e6
"""Size from which a reward or an observation is named where an update fails."""

_OBSERVATION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether a value is a whole number of at least ``least``."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_number(value: Any, above: float, at_most: float = math.inf) -> bool:
    """Whether a value is a finite number in (above, at_most]."""
    return (
        isinstance(value, Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and above < float(value) <= at_most
    )


def check(argument: str, value: Any, valid: bool, wanted: str) -> None:
    """
    Refuse a bad argument.

    :raises ValueError: If the value is not valid
    """
    if not valid:
        raise ValueError(f"{argument}={value!r}: must be {wanted}")


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Refuse spaces that no policy can be made for.

    :raises ValueError: If there are such
    """
    of_keys = observation_space.spaces.items() if isinstance(observation_space, spaces.Dict) else ()
    parts = {f"observation_space[{key!r}]": part for key, part in of_keys} or {"observation_space": observation_space}
    supported = all(isinstance(part, _OBSERVATION_SPACES) for part in parts.values())
    wanted = "Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these"
    check("observation_space", observation_space, supported, wanted)
    for name, part in (*parts.items(), ("action_space", action_space)):
        plain = not np.any(getattr(part, "start", 0)) and np.ndim(getattr(part, "nvec", 0)) <= 1
        check(name, part, plain, "numbered from 0 and of one dimension, which a wrapper can make it")


def check_finite(obs: Any, rewards: np.ndarray, step: int, envs: Sequence[int] | None = None) -> None:
    """
    Refuse observations and rewards that would spoil the weights.

    :param obs: Observations, a row for each environment
    :param rewards: Rewards, as many
    :param step: Number of steps so far
    :param envs: The environments, by default all
    :raises ValueError: If an observation or a reward is not finite, with the environment and the step
    """
    if _is_finite(rewards) and all(map(_is_finite, obs.values() if isinstance(obs, dict) else (obs,))):
        return
    named = {f"observation[{key!r}]": obs[key] for key in obs} if isinstance(obs, dict) else {"observation": obs}
    name, values = next(item for item in (("reward", rewards), *named.items()) if not _is_finite(item[1]))
    row, *place = (int(index) for index in np.argwhere(~np.isfinite(values))[0])
    env = row if envs is None else envs[row]
    raise ValueError(
        f"Environment {env} gave {values[(row, *place)]} as {name}{place or ''} at step {step}: must be finite"
    )


def describe_large(window: RolloutWindow) -> list[str]:
    """A sentence for each of the rewards and observations of a window that may be too large to learn from."""
    obs = window.observations
    named = {f"observation[{key!r}]": obs[key] for key in obs} if isinstance(obs, dict) else {"observation": obs}
    sizes = {name: float(np.abs(values).max()) for name, values in {"reward": window.rewards_TE, **named}.items()}
    return [
        f"The largest {name} since the last update was {size:.3g}: VecNormalize makes it one that suits networks."
        for name, size in sizes.items()
        if size > _LARGE
    ]


def _is_finite(values: np.ndarray) -> bool:
    # The sum of squares is the quickest to tell; it is infinite also where finite numbers are huge.
    return values.dtype.kind != "f" or math.isfinite(np.vdot(values, values)) or bool(np.isfinite(values).all())
