"""Vectorised environments of Gymnasium, and of libraries with its interface, for Stable-Baselines3.

Shapes: E environments.
"""

import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_nrl.arrays import map_observations
from sb3_nrl.checks import check

_MODES = ("NextStep", "SameStep", "Disabled")
"""Autoreset modes: the values of ``gymnasium.vector.AutoresetMode``, which Gymnasium has since 1.1."""


class GymnasiumVecEnv(VecEnv):
    """
    Makes a ``VecEnv`` of a ``gymnasium.vector.VectorEnv``, which steps many environments at once:

        env = GymnasiumVecEnv(gymnasium.make_vec("CartPole-v1", 256, vectorization_mode="vector_entry_point"))
        env = GymnasiumVecEnv(envpool.make("CartPole-v1", env_type="gymnasium", num_envs=256))

    When an episode ends, a ``VecEnv`` returns the first observation of the next one. With the autoreset modes
    ``SAME_STEP`` and ``DISABLED`` that is what happens. With ``NEXT_STEP`` the environment resets within the next step,
    whatever the action. Meanwhile the agent sees an observation with which an earlier episode began, and the reward of
    this step is 0. The step does not count in ``info["episode"]``, and has ``info["autoreset"]``.

    ``info["episode"]`` has return and length, as with a ``Monitor``, which is not needed.

    :param env: The vectorised environment
    :raises ValueError: If it does not name its autoreset mode
    """

    def __init__(self, env: gymnasium.vector.VectorEnv) -> None:
        check("env", type(env).__name__, isinstance(env, gymnasium.vector.VectorEnv), "a gymnasium.vector.VectorEnv")
        mode = getattr(env.metadata.get("autoreset_mode"), "value", None)
        wanted = f'one of {_MODES}, in env.metadata["autoreset_mode"]'
        check("autoreset mode of env", mode, mode in _MODES, wanted)
        self.env, self._mode = env, mode
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._start = time.time()

    def reset(self) -> VecEnvObs:
        options = self._options[0]
        same = all(other == options for other in self._options)
        check("options", self._options, same, "the same for all environments")
        obs, infos = self.env.reset(seed=self._seeds[0], **({"options": options} if options else {}))
        self.reset_infos = _of_each(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        self._first_obs = map_observations(np.array, obs)
        self._resets = np.zeros(self.num_envs, bool)  # within the next step, in mode NEXT_STEP
        self._returns, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, int)
        return map_observations(np.array, obs)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = np.asarray(actions, self.env.single_action_space.dtype)

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, terminated, truncated, infos = self.env.step(self._actions)
        obs, dones = map_observations(np.array, obs), terminated | truncated  # copies: some reuse their arrays
        of_envs = _of_each(infos, self.num_envs)
        self._returns += rewards
        self._lengths += 1
        if self._resets.any():
            began = np.flatnonzero(self._resets)
            _write(self._first_obs, obs, began)
            self._returns[began], self._lengths[began] = 0.0, 0
            for env in began:
                of_envs[env]["autoreset"] = True
        if dones.any():
            obs = self._end_episodes(np.flatnonzero(dones), truncated & ~terminated, obs, of_envs)
        if self._mode == "NextStep":
            self._resets = dones
        return obs, rewards, dones, of_envs

    def _end_episodes(self, ended: np.ndarray, cut: np.ndarray, obs: Any, infos: list[dict[str, Any]]) -> Any:
        """Write what the infos of the ended episodes must have, and return the first observations of the next ones."""
        if self._mode == "SameStep":
            for env in ended:
                last, of_reset = infos[env].pop("final_obs"), infos[env]
                infos[env] = {**of_reset.pop("final_info", {}), "terminal_observation": last}
                self.reset_infos[env] = of_reset
        else:
            last = map_observations(lambda part: part[ended], obs)
            for place, env in enumerate(ended):
                row = {key: part[place] for key, part in last.items()} if isinstance(last, dict) else last[place]
                infos[env]["terminal_observation"] = row
        for env in ended:
            infos[env]["TimeLimit.truncated"] = bool(cut[env])
            infos[env]["episode"] = {
                "r": round(float(self._returns[env]), 6),
                "l": int(self._lengths[env]),
                "t": round(time.time() - self._start, 6),
            }
        self._returns[ended], self._lengths[ended] = 0.0, 0
        if self._mode == "Disabled":
            mask = np.zeros(self.num_envs, bool)
            mask[ended] = True
            obs, reset_infos = self.env.reset(options={"reset_mask": mask})
            obs, of_resets = map_observations(np.array, obs), _of_each(reset_infos, self.num_envs)
            for env in ended:
                self.reset_infos[env] = of_resets[env]
        elif self._mode == "NextStep":
            _write(obs, self._first_obs, ended)
        return obs

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        if isinstance(self.env, gymnasium.vector.SyncVectorEnv | gymnasium.vector.AsyncVectorEnv):
            values: Sequence[Any] = self.env.get_attr(attr_name)
        else:  # one object
            values = [getattr(self.env, attr_name)] * self.num_envs
        return [values[env] for env in self._get_indices(indices)]

    def has_attr(self, attr_name: str) -> bool:
        # A worker of AsyncVectorEnv ends if it is asked for what its environment does not have.
        is_async = isinstance(self.env, gymnasium.vector.AsyncVectorEnv)
        return hasattr(self.env, attr_name) if is_async else super().has_attr(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise NotImplementedError("GymnasiumVecEnv sets no attributes: set them on the VectorEnv, its attribute `env`.")

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        if not isinstance(self.env, gymnasium.vector.SyncVectorEnv | gymnasium.vector.AsyncVectorEnv):
            raise NotImplementedError("This VectorEnv is one object: call its methods on the attribute `env`.")
        results = self.env.call(method_name, *args, **kwargs)
        return [results[env] for env in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Whether there is this wrapper. ``Monitor`` counts as one, since ``info["episode"]`` is that of a Monitor."""
        return [issubclass(wrapper_class, Monitor) for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        frames: Any = self.env.render()
        return [] if frames is None else list(frames)


def _write(target: Any, source: Any, envs: np.ndarray) -> None:
    """Copy observations of some environments."""
    if isinstance(target, dict):
        for key, part in target.items():
            part[envs] = source[key][envs]
    else:
        target[envs] = source[envs]


def _of_each(infos: dict[str, Any], n_envs: int) -> list[dict[str, Any]]:
    """One ``info`` for each environment, of the arrays with masks that vectorised environments return."""
    of_envs: list[dict[str, Any]] = [{} for _ in range(n_envs)]
    for key, values in infos.items():
        if key.startswith("_"):
            continue
        mask = infos.get(f"_{key}")
        if isinstance(values, dict):
            values = _of_each(values, n_envs)
        elif mask is None and not (isinstance(values, list | tuple | np.ndarray) and len(values) == n_envs):
            values = [values] * n_envs  # of all environments together
        for env in range(n_envs) if mask is None else np.flatnonzero(mask):
            of_envs[env][key] = values[env]
    return of_envs
