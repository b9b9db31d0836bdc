"""
Steps per second of one case after the other: the process that ``throughput.py`` starts in each source tree.

Reads a case from each line of standard input, as JSON, and writes its steps per second to standard output. It imports
nothing of ``experiments``, since it measures the ``sb3_nrl`` of the folder that it is started in.
"""

import json
import sys
from time import perf_counter
from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

import sb3_nrl

ACTION_SPACES = {"MultiDiscrete": spaces.MultiDiscrete([2]), "MultiBinary": spaces.MultiBinary(1)}


class OtherActions(gymnasium.ActionWrapper):
    """CartPole's two actions in another action space."""

    def __init__(self, env: gymnasium.Env, name: str) -> None:
        super().__init__(env)
        self.action_space = ACTION_SPACES[name]

    def action(self, action: Any) -> int:
        """The action of CartPole."""
        return int(action[0])


class Stopwatch(BaseCallback):
    """Measures whole rollouts with their updates for some seconds, after a quarter of them to warm up."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.begun = seconds, perf_counter()
        self.start: tuple[int, float] | None = None
        self.end: tuple[int, float] | None = None

    def _on_rollout_start(self) -> None:
        now = self.num_timesteps, perf_counter()
        if self.start is None:
            if self.num_timesteps and now[1] - self.begun > self.seconds / 4:
                self.start = now
        elif now[1] - self.start[1] > self.seconds:
            self.end = now

    def _on_step(self) -> bool:
        return self.end is None

    def rate(self) -> float:
        """Steps per second."""
        assert self.start and self.end
        return (self.end[0] - self.start[0]) / (self.end[1] - self.start[1])


def measure(name: str, n_envs: int, action_space: str, seconds: float) -> float:
    """Steps per second of an algorithm, or of CartPole alone with random actions."""
    wrapper: Any = {"wrapper_class": OtherActions, "wrapper_kwargs": {"name": action_space}} if action_space else {}
    env = make_vec_env("CartPole-v1", n_envs, seed=0, **wrapper)
    if name == "environment alone":
        env.reset()
        actions = [np.array([env.action_space.sample() for _ in range(n_envs)]) for _ in range(100)]
        start, n_steps = perf_counter(), 0
        while perf_counter() - start < seconds:
            env.step(actions[n_steps % 100])
            n_steps += 1
        return n_steps * n_envs / (perf_counter() - start)
    algorithms: dict[str, tuple[Any, dict[str, Any]]] = {
        "NRL, critic": (sb3_nrl.NRL, {}),
        "NRL": (sb3_nrl.NRL, sb3_nrl.PAPER["NRL"]),
        "RMHL": (sb3_nrl.RMHL, sb3_nrl.PAPER["RMHL"]),
        "BPTT": (sb3_nrl.BPTT, sb3_nrl.PAPER["BPTT"]),
        "A2C": (A2C, {}),
        "PPO": (PPO, {"n_steps": 2048 // n_envs}),
    }
    algorithm, arguments = algorithms[name]
    watch = Stopwatch(seconds)
    algorithm("MlpPolicy", env, seed=0, device="cpu", **arguments).learn(10**9, watch)
    return watch.rate()


if __name__ == "__main__":
    th.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), flush=True)
