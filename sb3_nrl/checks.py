"""Checks of arguments, observations and rewards. Each error names the value, and says which values are valid."""

import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import VecFrameStack, is_vecenv_wrapped
from torch import nn

_MAX_FLOAT = np.float64(np.finfo(np.float32).max)
"""Largest number in single precision. A Python float would become infinite in comparisons with half precision."""

_LARGE = 1e9
"""Size above which a reward or an observation is likely to be the cause of a failed update."""

_OBSERVATION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


_OF_OTHER_ALGORITHMS = {
    "batch_size": ": a window is used as a whole",
    "clip_range_vf": ": values are not clipped",
    "normalize_advantage": ": with a critic, norm_reward normalises rewards instead",
    "use_rms_prop": ": set optimizer_class in policy_kwargs",
    "rms_prop_eps": ": set optimizer_class in policy_kwargs",
    "sde_sample_freq": ": set action_correlation in policy_kwargs",
    "target_kl": ": set a smaller n_epochs",
    "use_sde": ": set action_correlation in policy_kwargs",
}
"""Arguments of A2C and PPO, and what replaces them."""


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
    Raise an error if an argument is not valid.

    :raises ValueError: If ``valid`` is False
    """
    if not valid:
        raise ValueError(f"{argument}={value!r}: must be {wanted}")


def refuse_unknown(algorithm: str, arguments: Iterable[str]) -> None:
    """
    Raise an error if an algorithm does not have an argument.

    :raises TypeError: If there is such an argument
    """
    for name in arguments:
        raise TypeError(f"{algorithm} has no argument {name!r}{_OF_OTHER_ALGORITHMS.get(name, '')}")


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Check that a policy can be made for an observation space and an action space.

    :raises ValueError: If one of them is not supported
    """
    of_keys = observation_space.spaces.items() if isinstance(observation_space, spaces.Dict) else ()
    parts = {f"observation_space[{key!r}]": part for key, part in of_keys} or {"observation_space": observation_space}
    supported = all(isinstance(part, _OBSERVATION_SPACES) for part in parts.values())
    wanted = "Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these"
    check("observation_space", observation_space, supported, wanted)
    for name, part in (*parts.items(), ("action_space", action_space)):
        plain = not np.any(getattr(part, "start", 0)) and np.ndim(getattr(part, "nvec", 0)) <= 1
        check(name, part, plain, "numbered from 0 and of one dimension: wrap the environment to change it")
        check(name, part, 0 not in (part.shape or ()), "of at least one number")


def warn_of_endless_trials(env: Any) -> None:
    """
    Warn of original NeuroGym environments, in which one trial follows another and no episode ends.

    :param env: The training environments
    """
    is_raw = "neurogym" in sys.modules and env.has_attr("num_tr_exp")  # NeuroGym's number of trials, ten million
    if is_raw and not all(env.env_is_wrapped(TimeLimit)):
        warnings.warn(
            "Episodes of this NeuroGym environment never end: the log has no returns, and a running average with "
            'reward_timing="episode" learns nothing. With sb3_nrl.envs each trial is an episode: import it and make '
            '"neurogym/<Task>-v0", or wrap a task of your own as sb3_nrl.envs.NeuroGymEnv(MyTask).',
            stacklevel=5,
        )


def warn_of_missing_memory(env: Any) -> None:
    """
    Warn that the environments need memory. Called for policies without memory. ``needs_memory`` is an attribute of the
    environments.

    :param env: The training environments
    """
    sees_the_past = is_vecenv_wrapped(env, VecFrameStack)
    if not sees_the_past and env.has_attr("needs_memory") and any(env.get_attr("needs_memory")):
        warnings.warn(
            "This task needs memory: a policy that remembers the trial performs better than the best policy that sees "
            'only the current observation. Use a recurrent policy: "MlpRnnPolicy", "MlpCtrnnPolicy" or "MlpGruPolicy".',
            stacklevel=5,
        )


def makes_plain_module(make: Any) -> bool:
    """Whether a call makes a module of PyTorch that has no parameters."""
    try:
        made = None if isinstance(make, nn.Module) else make()
    except TypeError:  # a function of tensors, or no function
        return False
    return isinstance(made, nn.Module) and not any(True for _ in made.parameters())


def check_finite(obs: Any, rewards: np.ndarray, step: int, envs: Sequence[int] | None = None) -> None:
    """
    Check that observations and rewards are finite in single precision.

    :param obs: Observations, one row for each environment
    :param rewards: Rewards, one for each environment
    :param step: Number of steps so far
    :param envs: Numbers of the environments, by default all
    :raises ValueError: If an observation or a reward is not finite, with the environment and the step
    """
    if _is_finite(rewards) and all(map(_is_finite, obs.values() if isinstance(obs, dict) else (obs,))):
        return
    named = {"reward": rewards, **_name_parts(obs)}
    name, values = next(item for item in named.items() if not _is_finite(item[1]))
    row, *place = (int(index) for index in np.argwhere(~(np.abs(values) <= _MAX_FLOAT))[0])
    env, value = row if envs is None else envs[row], values[(row, *place)]
    wanted = f"at most {_MAX_FLOAT:.2g}, for example by VecNormalize" if np.isfinite(value) else "finite"
    raise ValueError(f"Environment {env} gave {value} as {name}{place or ''} at step {step}: must be {wanted}")


def _is_finite(values: np.ndarray) -> bool:
    """Whether all values are finite in single precision."""
    # The sum of squares is the quickest check. Large finite numbers can make it infinite, so they need the second one.
    return (
        values.dtype.kind != "f"
        or bool(np.vdot(values, values) < _MAX_FLOAT)
        or bool((np.abs(values) <= _MAX_FLOAT).all())
    )


def _name_parts(obs: Any) -> dict[str, np.ndarray]:
    return {f"observation[{key!r}]": obs[key] for key in obs} if isinstance(obs, dict) else {"observation": obs}


def name_the_largest(obs: Any, rewards: np.ndarray | None = None) -> str:
    """
    Name the largest observation or reward if it is likely to be the cause of a failed update.

    :param obs: Observations
    :param rewards: Rewards, if any
    :return: A sentence; empty if none is so large
    """
    parts = {**({} if rewards is None else {"reward": rewards}), **_name_parts(obs)}
    sizes = {name: float(np.abs(values).max()) for name, values in parts.items() if values.dtype.kind == "f"}
    name = max(sizes, key=lambda name: sizes[name], default="")
    if sizes.get(name, 0) < _LARGE:
        return ""
    return f"The largest {name} has the size {sizes[name]:g}: scale it, for example with VecNormalize."
