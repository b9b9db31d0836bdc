"""Environment steps per second: the environments alone, this package, Stable-Baselines3, and a plain loop.

    make bench

measures everything in turn, several rounds, on one thread; prints medians, and ratios within a round; writes
``results/throughput.csv`` and ``docs/throughput.png``. Every training includes all that ``learn`` does. "Bare policy"
chooses actions and never learns: what a loop in Python can reach at all. "NRL" is the paper's rule, one noisy pass per
step; "NRL, 8 pairs" averages eight pairs of them; "NRL, critic" has the constructor's defaults. PPO
has its defaults, but collects 2,048 steps from all environments together. How much of the time is the environment's own
depends on the length of its episodes, since each ends with an update: CartPole's are short at first, so NRL is also
measured over a long training.
"""

import argparse
import multiprocessing
import os
import pathlib
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from gymnasium import spaces
from records import ROOT, versions, write
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv
from torch.nn.functional import leaky_relu

from sb3_nrl import BPTT, NRL, PAPER, RMHL


class CueEnv(gymnasium.Env):
    """A reward at each step for following a cue, in episodes of a given length; next to no work of its own."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, episode_length: int = 500) -> None:
        self.episode_length = episode_length

    def _observe(self) -> np.ndarray:
        self.observation = self.np_random.random(4, np.float32) * 2 - 1
        return self.observation

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Pay 1 if the action is the sign of the first input."""
        reward = float((self.observation[0] > 0) == action)
        self.time += 1
        return self._observe(), reward, False, self.time == self.episode_length, {}


class Stopwatch(BaseCallback):
    """Measures a training from the end of its warm-up on."""

    def __init__(self, warm_up: int) -> None:
        super().__init__()
        self.warm_up = warm_up
        self.start: tuple[int, float] | None = None

    def _on_step(self) -> bool:
        if self.start is None and self.num_timesteps >= self.warm_up:
            self.start = self.num_timesteps, time.perf_counter()
        return True

    def rate(self) -> float:
        """Steps per second."""
        assert self.start is not None
        return (self.num_timesteps - self.start[0]) / (time.perf_counter() - self.start[1])


def environment_alone(env: VecEnv, n_steps: int) -> float:
    """Steps per second with random actions."""
    env.reset()
    actions = [np.array([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(100)]
    start = time.perf_counter()
    for step in range(n_steps // env.num_envs):
        env.step(actions[step % 100])
    return n_steps / (time.perf_counter() - start)


def bare_policy(env: VecEnv, n_steps: int) -> float:
    """Steps per second with actions from a network of 64 hidden nodes, in as few lines of NumPy as there can be."""
    assert isinstance(env.action_space, spaces.Discrete) and env.observation_space.shape is not None
    rng = np.random.default_rng(0)
    first = rng.standard_normal((env.observation_space.shape[0], 64), np.float32)
    second = 0.01 * rng.standard_normal((64, int(env.action_space.n)), np.float32)
    obs: Any = env.reset()
    start = time.perf_counter()
    for _ in range(n_steps // env.num_envs):
        hidden = obs @ first
        odds = np.exp(np.maximum(hidden, 0.1 * hidden) @ second).cumsum(axis=1)
        actions = (odds < odds[:, -1:] * rng.random((env.num_envs, 1))).sum(axis=1)
        obs, _, _, _ = env.step(actions)
    return n_steps / (time.perf_counter() - start)


def plain_loop(env: VecEnv, n_steps: int) -> float:
    """Eq. 16 and 17 as one writes them down in PyTorch: two passes and an outer product per layer, at each step."""
    th.manual_seed(0)
    assert isinstance(env.action_space, spaces.Discrete) and env.observation_space.shape is not None
    sizes = [env.observation_space.shape[0], 64, int(env.action_space.n)]
    weights = [th.nn.init.xavier_normal_(th.empty(outputs, inputs)) for inputs, outputs in pairwise(sizes)]
    traces = [[th.zeros_like(weight) for weight in weights] for _ in range(env.num_envs)]
    returns, average = np.zeros(env.num_envs), np.full(env.num_envs, np.nan)

    def forward(x: th.Tensor, noise: list[th.Tensor] | None) -> tuple[th.distributions.Categorical, list[th.Tensor]]:
        received = []
        for layer, weight in enumerate(weights):
            received.append(x)
            h = weight @ x
            if noise is not None:
                h = h + noise[layer]
            x = leaky_relu(h, 0.1) if layer < len(weights) - 1 else h
        return th.distributions.Categorical(logits=x), received

    observations: Any = env.reset()
    start = time.perf_counter()
    for _ in range(n_steps // env.num_envs):
        actions = np.zeros(env.num_envs, dtype=int)
        for i in range(env.num_envs):
            x = th.as_tensor(observations[i])
            clean, _ = forward(x, None)
            action = clean.sample()
            noise = [1e-3 * th.randn(len(weight)) for weight in weights]
            noisy, received = forward(x, noise)
            rho = noisy.log_prob(action) - clean.log_prob(action)
            squared_norm = sum((xi * xi).sum() for xi in noise)
            for trace, xi, pre in zip(traces[i], noise, received, strict=True):
                trace += th.outer(rho * xi / squared_norm, pre)
            actions[i] = action.item()
        observations, rewards, dones, _ = env.step(actions)
        returns += rewards
        for i in np.flatnonzero(dones).tolist():
            error = 0.0 if np.isnan(average[i]) else returns[i] - average[i]
            average[i] = returns[i] if np.isnan(average[i]) else average[i] + 0.66 * error
            for weight, trace in zip(weights, traces[i], strict=True):
                weight += 5e-2 * error / abs(returns[i]) * trace
                trace.zero_()
            returns[i] = 0.0
    return n_steps / (time.perf_counter() - start)


@dataclass(frozen=True)
class Case:
    """
    One measurement.

    :param name: What is measured: an algorithm, or ``environment alone``, ``bare policy`` or ``plain loop``
    :param task: Environment; ``cue`` is :class:`CueEnv`
    :param n_envs: Number of environments
    :param n_steps: Steps to measure, after a quarter as many to warm up
    :param detail: What is varied, if anything
    :param arguments: Of the algorithm
    :param episode_length: Of ``cue``
    """

    name: str
    task: str
    n_envs: int
    n_steps: int
    detail: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    episode_length: int = 500

    def run(self) -> tuple[float, float]:
        """Steps per second, and the peak memory of this process in MiB."""
        env_kwargs = {"episode_length": self.episode_length} if self.task == "cue" else {}
        env = make_vec_env(CueEnv if self.task == "cue" else self.task, self.n_envs, seed=0, env_kwargs=env_kwargs)
        if self.name == "environment alone":
            rate = environment_alone(env, self.n_steps)
        elif self.name == "bare policy":
            rate = bare_policy(env, self.n_steps)
        elif self.name == "plain loop":
            with th.no_grad():
                rate = plain_loop(env, self.n_steps)
        else:
            algorithms: dict[str, tuple[Any, dict[str, Any]]] = {
                "NRL": (NRL, PAPER["NRL"]),
                "NRL, 8 pairs": (NRL, {**PAPER["NRL"], "n_noise_samples": 8, "antithetic": True}),
                "NRL, critic": (NRL, {}),
                "RMHL": (RMHL, PAPER["RMHL"]),
                "BPTT": (BPTT, PAPER["BPTT"]),
                "A2C": (A2C, {}),
                "PPO": (PPO, {"n_steps": 2048 // self.n_envs}),
            }
            algorithm, arguments = algorithms[self.name]
            model = algorithm("MlpPolicy", env, seed=0, device="cpu", **{**arguments, **self.arguments})
            watch = Stopwatch(self.n_steps // 4)
            model.learn(self.n_steps + self.n_steps // 4, watch)
            rate = watch.rate()
        return rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# Steps that take about a second with one environment; more environments step faster, but for the plain loop.
PACE = {
    "environment alone": 20_000,
    "bare policy": 12_000,
    "NRL": 10_000,
    "NRL, 8 pairs": 8_000,
    "NRL, critic": 6_000,
    "RMHL": 8_000,
    "BPTT": 10_000,
    "A2C": 800,
    "PPO": 3 * 2048,
    "plain loop": 1_200,
}
N_ENVS = (1, 8, 32)
LONG = 200_000
WIDTHS, SAMPLES, LENGTHS = (64, 256, 1024), (1, 4, 16, 64), (500, 5_000, 50_000)


def cases(seconds: float) -> list[Case]:
    """All measurements of one round."""

    def n_steps(name: str, n_envs: int) -> int:
        growth = 1 if name in ("plain loop", "PPO") else n_envs**0.7
        return max(int(PACE[name] * seconds * growth), 3 * 2048 if name == "PPO" else 0) // n_envs * n_envs

    chosen = [
        Case(name, task, n_envs, n_steps(name, n_envs))
        for task, n_envs, name in product(("CartPole-v1", "Acrobot-v1"), N_ENVS, PACE)
    ]
    chosen += [Case("NRL", "CartPole-v1", n_envs, LONG, "long training") for n_envs in N_ENVS]
    for width, name in product(WIDTHS, ("NRL", "A2C")):
        policy_kwargs = {**(PAPER["NRL"]["policy_kwargs"] if name == "NRL" else {}), "net_arch": [width]}
        chosen.append(
            Case(name, "CartPole-v1", 8, n_steps(name, 8), f"width {width}", {"policy_kwargs": policy_kwargs})
        )
    for n_samples in SAMPLES:
        varied = {"n_noise_samples": n_samples}
        chosen.append(Case("NRL", "CartPole-v1", 8, n_steps("NRL", 8), f"{n_samples} samples", varied))
    for length in LENGTHS:
        chosen.append(Case("NRL", "cue", 1, 125_000, f"episodes of {length}", episode_length=length))
    for name in ("NRL", "A2C"):
        timing = {"reward_timing": "step"} if name == "NRL" else {}
        chosen.append(Case(name, "cue", 8, n_steps("A2C", 8), "reward at each step", timing))
    return chosen


Results = dict[tuple[str, int, str, str], list[tuple[float, float]]]


def goals(results: Results) -> list[tuple[str, float, float]]:
    """What is to be compared: a description, the median ratio within a round, and the ratio to reach."""

    def rates(name: str, n_envs: int, detail: str = "", task: str = "CartPole-v1", column: int = 0) -> list[float]:
        return [values[column] for values in results[task, n_envs, name, detail]]

    def ratio(one: list[float], two: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(one, two, strict=True))

    alone, step = "environment alone", "reward at each step"
    long, short = (rates("NRL", 1, f"episodes of {length}", "cue", column=1) for length in (50_000, 500))
    return [
        *(
            (
                f"NRL / environment alone, {n} environments{description}",
                ratio(rates("NRL", n, part), rates(alone, n)),
                goal,
            )
            for part, description in (("", ", first steps"), ("long training", f", {LONG:,} steps"))
            for n, goal in zip(N_ENVS, (0.45, 0.65, 0.65), strict=True)
        ),
        *(
            (f"bare policy / environment alone, {n} environments", ratio(rates("bare policy", n), rates(alone, n)), 0)
            for n in N_ENVS
        ),
        ("NRL / plain loop, 1 environment", ratio(rates("NRL", 1), rates("plain loop", 1)), 8),
        ("NRL / A2C, 1 environment", ratio(rates("NRL", 1), rates("A2C", 1)), 8),
        ("NRL / A2C, 8 environments", ratio(rates("NRL", 8), rates("A2C", 8)), 4),
        ("NRL / PPO, 8 environments", ratio(rates("NRL", 8), rates("PPO", 8)), 8),
        (
            "16 samples / 1 sample, 8 environments",
            ratio(rates("NRL", 8, "16 samples"), rates("NRL", 8, "1 samples")),
            0.5,
        ),
        (
            "NRL / A2C, width 1024, 8 environments",
            ratio(rates("NRL", 8, "width 1024"), rates("A2C", 8, "width 1024")),
            1.5,
        ),
        (
            "NRL / A2C, reward at each step, 8 environments",
            ratio(rates("NRL", 8, step, "cue"), rates("A2C", 8, step, "cue")),
            1,
        ),
        ("memory, episodes of 50,000 / of 500 (at most)", ratio(long, short), 1.1),
    ]


def draw(results: Results, picture: pathlib.Path) -> None:
    """Bars of the medians of the first part."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for panel, task in zip(panels, ("CartPole-v1", "Acrobot-v1"), strict=True):
        for place, name in enumerate(PACE):
            heights = [statistics.median(rate for rate, _ in results[task, n_envs, name, ""]) for n_envs in N_ENVS]
            middle = (len(PACE) - 1) / 2
            color = plt.get_cmap("viridis")(place / (len(PACE) - 1))
            panel.bar(np.arange(3) + 0.09 * (place - middle), heights, 0.09, label=name, color=color)
        panel.set(title=task, yscale="log", xticks=range(3), xticklabels=N_ENVS, xlabel="environments")
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("steps per second")
    panels[1].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150)


def main() -> None:
    """Measure, print, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="rough length of one measurement")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "results" / "throughput.csv")
    parser.add_argument("--picture", type=pathlib.Path, default=ROOT / "docs" / "throughput.png")
    arguments = parser.parse_args()

    made_with = versions()
    results: Results = {}
    chosen = cases(arguments.seconds)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    # Each measurement has a process of its own, so that peak memory is its own too; imports are done once for all.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["sb3_nrl", "stable_baselines3", "matplotlib.pyplot"])
    with ProcessPoolExecutor(1, processes, max_tasks_per_child=1) as pool:
        for turn, (place, case) in product(range(arguments.rounds), enumerate(chosen, 1)):
            print(f"\rround {turn + 1}, {place} of {len(chosen)} ", end="", file=sys.stderr, flush=True)
            key = (case.task, case.n_envs, case.name, case.detail)
            results.setdefault(key, []).append(pool.submit(case.run).result())
    print(file=sys.stderr)

    header = ("task", "n_envs", "name", "detail", "round", "steps_per_second", "peak_mib", "versions")
    rows = [
        (*key, turn, f"{rate:.0f}", f"{peak:.0f}", made_with)
        for key, values in results.items()
        for turn, (rate, peak) in enumerate(values)
    ]
    write(arguments.out, [header, *rows])
    for (task, n_envs, name, detail), values in results.items():
        rate, peak = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{task:12} {n_envs:3} x {name:18} {detail:20} {rate:9,.0f} steps/s {peak:6.0f} MiB")
    for description, reached, goal in goals(results):
        print(f"{description:60} {reached:6.2f}" + (f"   goal {goal:g}" if goal else ""))
    draw(results, arguments.picture)


if __name__ == "__main__":
    main()
