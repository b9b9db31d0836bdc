"""Environments with known rewards."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class CountingEnv(gymnasium.Env):
    """Counts its episodes, and the steps in each."""

    n_episodes = -1

    def _observation(self) -> np.ndarray:
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.n_episodes += 1
        self.time = 0
        return self._observation(), {}


class ScriptedEnv(CountingEnv):
    """
    Episodes of given lengths, one after the other, with random observations. The reward is ``payment`` for action 1, at
    the steps since the reset whose number is in ``pay_at``, or at all of them.
    """

    action_space: spaces.Space = spaces.Discrete(3)

    def __init__(
        self, lengths: Sequence[int], n_inputs: int = 4, pay_at: Sequence[int] | None = None, payment: float = 1.0
    ) -> None:
        self.lengths = lengths
        self.pay_at = pay_at
        self.payment = payment
        self.observation_space: spaces.Space = spaces.Box(-np.inf, np.inf, (n_inputs,), np.float32)

    def _observation(self) -> np.ndarray:
        return self.np_random.normal(size=self.observation_space.shape or ()).astype(np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        paid = self.pay_at is None or self.time in self.pay_at
        reward = self.payment if paid and action == 1 else 0.0
        self.time += 1
        done = self.time == self.lengths[self.n_episodes % len(self.lengths)]
        return self._observation(), reward, done, False, {}


class ClockEnv(CountingEnv):
    """
    The observation says, one-hot, which of ``length`` steps it is; rewards are given by ``rewards[episode][step]``,
    whatever the actions.

    :param rewards: One sequence of rewards per episode, repeated for ever
    :param n_inputs: Length of the observation
    :param offset: Place of the first step's input
    """

    action_space = spaces.Discrete(2)

    def __init__(self, rewards: Sequence[Sequence[float]], n_inputs: int | None = None, offset: int = 0) -> None:
        self.rewards = rewards
        self.offset = offset
        self.n_inputs = n_inputs or len(rewards[0])
        self.observation_space = spaces.Box(0, 1, (self.n_inputs,), np.float32)

    def _observation(self) -> np.ndarray:
        observation = np.zeros(self.n_inputs, np.float32)
        if self.time < len(self.rewards[0]):
            observation[self.offset + self.time] = 1
        return observation

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        rewards = self.rewards[self.n_episodes % len(self.rewards)]
        reward = float(rewards[self.time])
        self.time += 1
        return self._observation(), reward, self.time == len(rewards), False, {}


class DelayedChoiceEnv(gymnasium.Env):
    """
    The first action of an episode decides the reward that comes ``delay`` steps later, at the end: 1 if it matches the
    cue that only the first observation shows, else 0. A random policy earns 0.5.
    """

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-1, 1, (3,), np.float32)

    def __init__(self, delay: int) -> None:
        self.delay = delay

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.cue = int(self.np_random.integers(2))
        self.time = 0
        return np.array([1, 2 * self.cue - 1, 0], np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.time == 0:
            self.right = float(action == self.cue)
        done = self.time == self.delay
        self.time += 1
        return np.array([0, 0, 1], np.float32), self.right if done else 0.0, done, False, {}


class RecallEnv(gymnasium.Env):
    """
    A cue, 1 or −1, is shown at the first step of an episode, and asked for at the last one: action 1 for the cue 1,
    else action 0, is paid with 1. No policy without memory earns more than 0.5 per episode.

    :param delay: Number of steps between the cue and the last step
    :param limit: Whether a time limit cuts episodes off after the last step, instead of their ending there
    """

    observation_space: spaces.Space = spaces.Box(-1, 1, (2,), np.float32)
    action_space: spaces.Space = spaces.Discrete(2)

    def __init__(self, delay: int, limit: bool = False) -> None:
        self.delay = delay
        self.limit = limit

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.cue = 0, int(self.np_random.choice((-1, 1)))
        return np.array([self.cue, 0], np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        done = self.time > self.delay + 1
        reward = float(done and int(action) == (self.cue + 1) // 2)
        observation = np.array([0, self.time == self.delay + 1], np.float32)
        return observation, reward, done and not self.limit, done and self.limit, {}


class RandomEnv(RecallEnv):
    """Observations at random from any space, and the rewards of a recall task."""

    def __init__(self, space: spaces.Space) -> None:
        super().__init__(2)
        self.observation_space = space

    def reset(self, **kwargs: Any) -> Any:
        super().reset(**kwargs)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), *super().step(action)[1:]


class LitHalfEnv(gymnasium.Env):
    """Images of 36 × 36, each an episode. The reward is 1 for the number of the half that is lit, left or right."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def _observation(self) -> np.ndarray:
        image = np.zeros(self.observation_space.shape or (), np.uint8)
        image[:, :, 18 * self.half : 18 * (self.half + 1)] = 255
        return image

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.half = int(self.np_random.integers(2))
        return self._observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._observation(), float(action == self.half), True, False, {}
