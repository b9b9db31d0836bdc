"""The steps between two updates of the weights.

Shapes: T steps, E environments, N nodes of the network. The rows of one step are adjacent, in the order of the
environments.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_nrl.arrays import Array, Observations, map_observations


class RolloutWindow(NamedTuple):
    """
    Successive steps of all environments.

    :param observations: Observations of the policy, shape (T · E, ...)
    :param actions: Actions of the policy, shape (T · E, ...)
    :param log_probs: log π(a|s) of the pass that chose the action, shape (T · E,); of the policy as it is now if the
        window is used again
    :param noise: ξ of the pass that chose the action, shape (T · E, N), None for a clean pass
    :param rewards_TE: Rewards
    :param dones_TE: Whether the step ended an episode
    :param terminal_values_TE: V(s') of the last observation of an episode that a time limit ended, else 0
    :param last_observations: Observations after the last step, shape (E, ...)
    :param states: Hidden states of the policy before the first step, shape (E, S); None without recurrent layers
    :param starts_TE: Whether an episode begins with the step, so that hidden states are 0 before it; None without
        recurrent layers
    """

    observations: Observations
    actions: Array
    log_probs: Array
    noise: Array | None
    rewards_TE: np.ndarray
    dones_TE: np.ndarray
    terminal_values_TE: np.ndarray
    last_observations: Observations
    states: Array | None = None
    starts_TE: np.ndarray | None = None

    @property
    def n_steps(self) -> int:
        """Number of steps T."""
        return len(self.rewards_TE)

    @property
    def n_envs(self) -> int:
        """Number of environments E."""
        return self.rewards_TE.shape[1]

    def batches(self, n_steps: int) -> Iterator[tuple[slice, "RolloutWindow"]]:
        """
        Cut the window into shorter ones. Those after the first have no hidden states.

        :param n_steps: Largest number of steps of each
        :return: The slice of steps, and the window of these steps
        """
        if self.n_steps <= n_steps:
            yield slice(0, self.n_steps), self
            return
        for start in range(0, self.n_steps, n_steps):
            steps = slice(start, min(start + n_steps, self.n_steps))
            rows = slice(steps.start * self.n_envs, steps.stop * self.n_envs)
            yield (
                steps,
                self._replace(
                    observations=map_observations(lambda part, rows=rows: part[rows], self.observations),  # type: ignore[misc]
                    actions=self.actions[rows],
                    log_probs=self.log_probs[rows],
                    noise=None if self.noise is None else self.noise[rows],
                    rewards_TE=self.rewards_TE[steps],
                    dones_TE=self.dones_TE[steps],
                    terminal_values_TE=self.terminal_values_TE[steps],
                    states=self.states if start == 0 else None,
                    starts_TE=None if self.starts_TE is None else self.starts_TE[steps],
                ),
            )


class RolloutBuffer:
    """
    Stores the steps of a window. Unlike Stable-Baselines3's, it can be used before it is full.

    :param buffer_size: Largest number of steps T of a window
    :param observation_space: Observation space
    """

    def __init__(self, buffer_size: int, observation_space: spaces.Space) -> None:
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}
        # Observations that the policy converts to single precision are stored in single precision, since environments
        # may mix integers and floats.
        self._in_single_precision = {
            key for key, part in parts.items() if isinstance(part, spaces.Box) and part.dtype.itemsize > 1
        }
        self.clear(buffer_size)

    @property
    def full(self) -> bool:
        """Whether the window has ``buffer_size`` steps."""
        return self.pos == self.buffer_size

    def clear(self, buffer_size: int) -> None:
        """
        Drop all steps and the arrays that store them.

        :param buffer_size: Largest number of steps T of a window from now on
        """
        self.buffer_size = buffer_size
        self._values: dict[str, np.ndarray] = {}
        self.pos = 0

    def reset(self) -> None:
        """Drop all steps."""
        self.pos = 0

    def add(
        self, observations: Observations, states: Array | None, starts_E: np.ndarray, values: dict[str, np.ndarray]
    ) -> None:
        """
        Add one step of every environment.

        :param observations: Observations of the policy, E rows
        :param states: Hidden states of the policy before the step, None without recurrent layers
        :param starts_E: Whether an episode begins with the step
        :param values: The fields ``actions``, ``log_probs``, ``rewards_TE``, ``dones_TE``, ``terminal_values_TE`` and,
            if any, ``noise`` of :class:`RolloutWindow`, E rows each
        """
        parts = observations if isinstance(observations, dict) else {None: observations}
        if not self._values:
            self._observations = {
                key: self._empty(part, np.float32 if key in self._in_single_precision else part.dtype)
                for key, part in parts.items()
            }
            self._values = {name: self._empty(value, value.dtype) for name, value in values.items()}
        if self.pos == 0:
            self._states, self._starts_E = states, starts_E
        for key, part in parts.items():
            self._observations[key][self.pos] = part
        for name, value in values.items():
            self._values[name][self.pos] = value
        self.pos += 1

    def _empty(self, row: np.ndarray, dtype: Any) -> np.ndarray:
        return np.empty((self.buffer_size, *row.shape), dtype)

    def window(self, last_observations: Observations) -> RolloutWindow:
        """
        The steps that were added since the last reset, at least one.

        :param last_observations: Observations after the last step, E rows
        :return: Views of these steps. Later steps may overwrite them
        """
        pos, values = self.pos, self._values
        observations = {key: _as_rows(array_TE[:pos]) for key, array_TE in self._observations.items()}
        is_recurrent = self._states is not None
        return RolloutWindow(
            observations=observations.get(None, observations),
            actions=_as_rows(values["actions"][:pos]),
            log_probs=_as_rows(values["log_probs"][:pos]),
            noise=_as_rows(values["noise"][:pos]) if "noise" in values else None,
            rewards_TE=values["rewards_TE"][:pos],
            dones_TE=values["dones_TE"][:pos],
            terminal_values_TE=values["terminal_values_TE"][:pos],
            last_observations=last_observations,
            states=self._states,
            starts_TE=np.stack([self._starts_E, *values["dones_TE"][: pos - 1]]) if is_recurrent else None,
        )


def _as_rows(array_TE: np.ndarray) -> np.ndarray:
    return array_TE.reshape(-1, *array_TE.shape[2:])
