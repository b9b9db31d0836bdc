"""
The tuned settings of NRL, read from the config that ships for the RL Zoo. They do not need the RL Zoo, except for the
environments without velocities, which it registers.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch as th
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize
from torch import nn


def shipped_config(algo: str, folder: str = "") -> Path:
    """
    Find a config that ships with this package.

    :param algo: ``"nrl"``, ``"rmhl"`` or ``"bptt"``
    :param folder: Empty for the tuned settings, ``"paper"`` for those of the paper
    :return: The YAML file
    """
    package = Path(__file__).parent
    # The configs are inside the package in a wheel, and beside it in the source tree.
    configs = next(path / "zoo_configs" for path in (package, package.parent) if (path / "zoo_configs").is_dir())
    return configs / folder / f"{algo}.yml"


_AROUND = ("policy", "n_timesteps", "n_envs", "env_kwargs", "normalize", "frame_stack")
"""Entries of the config that are not arguments of the algorithm."""

_REGISTERED_BY = {"neurogym/": "sb3_nrl.envs", "NoVel-": "rl_zoo3.import_envs"}
"""The module that registers the environments whose names contain a text."""


@dataclass(frozen=True)
class TunedSettings:
    """
    The settings with which NRL learns one environment.

    :param env_id: Registered name of the environment
    :param policy: Name of the policy, the first argument of ``NRL``
    :param algorithm: Keyword arguments of ``NRL``
    :param n_timesteps: Steps to train for, over all environments
    :param n_envs: Number of environments
    :param env_kwargs: Keyword arguments of the environment
    :param normalize: Keyword arguments of ``VecNormalize``, or None for no normalization
    :param frame_stack: Number of observations that the policy sees at once
    """

    env_id: str
    policy: str
    algorithm: dict[str, Any]
    n_timesteps: int
    n_envs: int = 1
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    normalize: dict[str, Any] | None = None
    frame_stack: int = 1

    def make_env(self, seed: int | None = None) -> VecEnv:
        """
        Make the environments to train in.

        :param seed: Seed of the environments
        :return: ``n_envs`` environments, normalized and with stacked frames where the settings ask for it
        """
        modules = [f"{module}:" for part, module in _REGISTERED_BY.items() if part in self.env_id]
        # Gymnasium imports a module that is named before a colon.
        env_id = "".join([*modules, self.env_id])
        env = make_vec_env(env_id, self.n_envs, seed=seed, env_kwargs=self.env_kwargs)
        if self.normalize is not None:
            env = VecNormalize(env, **self.normalize)
        return VecFrameStack(env, self.frame_stack) if self.frame_stack > 1 else env


class _Tuned(Mapping[str, TunedSettings]):
    """Reads the config at the first access. Each access returns new objects."""

    @cached_property
    def _entries(self) -> dict[str, dict[str, Any]]:
        entries: dict[str, dict[str, Any]] = yaml.safe_load(shipped_config("nrl").read_text(encoding="utf-8"))
        return {env_id: entry for env_id, entry in entries.items() if env_id != "default"}

    def __getitem__(self, env_id: str) -> TunedSettings:
        if env_id not in self._entries:
            raise KeyError(f"no settings for {env_id}: there are some for {', '.join(self)}")
        arguments = {name: _as_object(name, value) for name, value in deepcopy(self._entries[env_id]).items()}
        around = {name: arguments.pop(name) for name in _AROUND if name in arguments}
        if around.get("normalize") is not None and "gamma" in arguments:
            around["normalize"]["gamma"] = arguments["gamma"]
        return TunedSettings(env_id=env_id, algorithm=arguments, **around)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _as_object(name: str, value: Any) -> Any:
    """Convert an entry of the shipped config as the RL Zoo does. Evaluates only text from this package."""
    if name == "learning_rate" and isinstance(value, str):
        return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    if name == "normalize" and value is True:
        return {}
    if name in ("policy_kwargs", "normalize") and isinstance(value, str):
        return eval(value, {"nn": nn, "th": th})
    return value


TUNED: Mapping[str, TunedSettings] = _Tuned()
"""
Settings of NRL by the name of the environment: ``NRL("MlpPolicy", env, **TUNED["Pendulum-v1"].algorithm)``. The comment
above each entry of ``zoo_configs/nrl.yml`` says whether it was tuned, and on which seeds.
"""
