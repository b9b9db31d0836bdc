"""
Environment steps per second of one case, in a process that imports the ``sb3_nrl`` of any source tree.

Reads cases as JSON from standard input, one per line, and prints a number for each. It imports no other module of
``experiments``, because these need the ``sb3_nrl`` of the same source tree.
"""

import inspect
import json
import sys
from time import perf_counter
from typing import Any

import gymnasium
import numpy as np
import sb3_contrib
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TransformAction
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_nrl import BPTT, NRL, PAPER, RMHL

ALONE = "environment alone"
PLAIN = {"norm_obs": False, "norm_reward": False}
ALGORITHMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "NRL, defaults": (NRL, {}),
    "NRL, critic": (NRL, {"n_noise_samples": 4, "n_steps": 32, **PLAIN}),
    "NRL": (NRL, PAPER["NRL"]),
    "RMHL": (RMHL, PAPER["RMHL"]),
    "BPTT": (BPTT, PAPER["BPTT"]),
    "A2C": (A2C, {}),
    "PPO": (PPO, {}),
    "NRL, 8 pairs and critic": (NRL, {"n_noise_samples": 8, "n_steps": 8, **PLAIN}),
    "NRL, spiking": (NRL, {"policy": "MlpLifPolicy", "n_noise_samples": 8, "n_steps": 8, **PLAIN}),
    "NRL, recurrent": (NRL, {"policy": "MlpCtrnnPolicy", "n_noise_samples": 32, "n_steps": 16, **PLAIN}),
    "RecurrentPPO": (
        sb3_contrib.RecurrentPPO,  # as in memory.py
        {
            "policy": "MlpLstmPolicy",
            "n_steps": 64,
            "batch_size": 1024,
            "policy_kwargs": {"lstm_hidden_size": 64, "net_arch": []},
        },
    ),
}
ACTION_SPACES = {"MultiDiscrete": spaces.MultiDiscrete([2]), "MultiBinary": spaces.MultiBinary(1)}


class Stopwatch(BaseCallback):
    """Measures rollouts and their updates for some seconds, after a warm-up of a quarter of that time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.begun = seconds, perf_counter()
        self.start, self.end = (0, 0.0), (0, 0.0)

    def _on_rollout_start(self) -> None:
        now = self.num_timesteps, perf_counter()
        if not self.start[0]:
            self.start = now if now[1] - self.begun > self.seconds / 4 else self.start
        elif now[1] - self.start[1] > self.seconds:
            self.end = now

    def _on_step(self) -> bool:
        return not self.end[0]


def make_env(n_envs: int, detail: str) -> Any:
    """CartPole behind an action space, or all copies in one call (``vectorised``); or another task, by its name."""

    def wrap(env: Any) -> Any:
        return TransformAction(env, lambda action: int(action[0]), ACTION_SPACES[detail])

    if detail == "vectorised":
        from sb3_nrl import GymnasiumVecEnv  # which other source trees may not have

        return GymnasiumVecEnv(gymnasium.make_vec("CartPole-v1", n_envs, vectorization_mode="vector_entry_point"))
    task = "CartPole-v1" if detail in ("Discrete", *ACTION_SPACES) else f"sb3_nrl.envs:neurogym/{detail}-v0"
    return make_vec_env(task, n_envs, seed=0, wrapper_class=wrap if detail in ACTION_SPACES else None)


def measure(case: str, seconds: float) -> float:
    """Measure the environment steps per second of a case."""
    name, n_envs, detail = case.split(" / ")
    env = make_env(int(n_envs), detail)
    if name == ALONE:
        env.reset()
        actions = [np.array([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(100)]
        start, n_steps = perf_counter(), 0
        while perf_counter() - start < seconds:
            env.step(actions[n_steps % 100])
            n_steps += 1
        return n_steps * env.num_envs / (perf_counter() - start)
    algorithm, arguments = ALGORITHMS[name]
    more = {"n_steps": 2048 // env.num_envs} if name == "PPO" else {}  # 2048 steps in all
    watch = Stopwatch(seconds)
    arguments = {"policy": "MlpPolicy", **arguments, **more}
    known = inspect.signature(algorithm).parameters  # other source trees may not have normalisation to switch off
    arguments = {name: value for name, value in arguments.items() if name in known or name not in PLAIN}
    algorithm(env=env, seed=0, device="cpu", **arguments).learn(10**9, watch)
    return (watch.end[0] - watch.start[0]) / (watch.end[1] - watch.start[1])


if __name__ == "__main__":
    th.set_num_threads(1)
    for line in sys.stdin:
        print(measure(**json.loads(line)), flush=True)
