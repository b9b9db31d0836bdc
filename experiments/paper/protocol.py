"""The paper's protocol (Table 2, Appendix B): tasks, settings, trainings, what each figure trains."""

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

import sb3_nrl
from experiments.runs import Columns, Run
from sb3_nrl import PAPER

LABELS = {"NRL": "NRL", "BPTT": "BP", "RMHL": "RMHL"}
"""The algorithms, and their names in the paper."""

SETTINGS = {"paper": "as published", "recommended": "recommended"}

SEEDS = (0, 1, 2, 3, 4)
N_LAST = 50
"""The final performance is the mean return of so many episodes at the end."""

BASELINE_PASSES = "clean_passes"
"""The argument that replaces the clean pass by the mean of noisy passes."""


class Task(NamedTuple):
    """One of the paper's tasks."""

    env: str  # registered name of the environment
    env_kwargs: dict[str, Any]
    n_episodes: int  # of a training
    n_quick: int  # of a training with --quick
    width: int  # of the hidden layers
    worst: float  # possible return
    best: float
    goal: float  # the return whose passing tells how fast a training is
    seconds: float  # roughly, per episode

    def score(self, value: Any) -> Any:
        """Where returns lie between the worst (0) and the best one (1)."""
        return (value - self.worst) / (self.best - self.worst)


_REACHING = {"dt": 10, "timing": {"fixation": 0, "reach": 3000}}
TASKS = {
    "Reaching": Task("sb3_nrl.envs:neurogym/Reaching1D-v0", _REACHING, 1_000, 100, 128, -30.0, 300.0, 200.0, 0.25),
    "Acrobot": Task("Acrobot-v1", {}, 8_000, 800, 64, -500.0, 0.0, -100.0, 0.06),
    "CartPole": Task("CartPole-v1", {}, 20_000, 2_000, 64, 0.0, 500.0, 475.0, 0.05),
}

LEARNING_RATES = {
    "Reaching": {"NRL": 1e-2, "BPTT": 1e-2, "RMHL": 1e-1},
    "Acrobot": {"NRL": 5e-2, "BPTT": 5e-3, "RMHL": 5e-2},
    "CartPole": {"NRL": 5e-2, "BPTT": 5e-3, "RMHL": 1e-2},
}
NOISE_STDS = {
    "Reaching": {"NRL": 1e-3, "RMHL": 1e-1},
    "Acrobot": {"NRL": 1e-3, "RMHL": 1e-3},
    "CartPole": {"NRL": 1e-3, "RMHL": 1e-1},
}
_PINNED: dict[str, dict[str, Any]] = {
    "NRL": {"noise_distribution": "gaussian", BASELINE_PASSES: None},
    "BPTT": {},
    "RMHL": {"n_steps": 128, "trace_decay": 1.0, "max_grad_norm": None, "noise_distribution": "gaussian"},
}
"""What ``PAPER`` leaves to the defaults. The defaults may change, these settings do not."""


def published(task: str, algorithm: str) -> dict[str, Any]:
    """The arguments of Table 2 for a task and an algorithm."""
    immediate = task == "Reaching"
    arguments = {
        **PAPER[algorithm],
        **_PINNED[algorithm],
        "reward_timing": "step" if immediate else "episode",
        "scale_rpe": not immediate,
        "reward_smoothing": 0.66,
        "learning_rate": LEARNING_RATES[task][algorithm],
    }
    if algorithm in NOISE_STDS[task]:
        arguments["noise_std"] = NOISE_STDS[task][algorithm]
    if algorithm == "NRL":
        arguments["noise_normalization"] = "layer" if immediate else "network"
    return arguments


SMALL_HEAD = 0.01
_WITH_SMALL_HEAD = {"policy_kwargs": {"head_gain": SMALL_HEAD}}
_BP_STEP = {"noise_normalization": "unbiased"}
_PAIRS = {"n_noise_samples": 8, "antithetic": True}

RECOMMENDED: dict[tuple[str, int], dict[str, dict[str, Any]]] = {
    **{("Acrobot", n_hidden): {"NRL": _WITH_SMALL_HEAD, "BPTT": _WITH_SMALL_HEAD} for n_hidden in (1, 2, 3)},
    ("Reaching", 1): {"NRL": _BP_STEP | _PAIRS},
}
"""
Other settings, by task and number of hidden layers, where NRL as published does not reach BP with every seed.

Acrobot: with a large head, some initial policies brake the swing and never reach the goal. All returns are then -500,
the reward prediction error is 0, and no algorithm changes a weight. A small head starts with all actions alike.
Reaching: noise that is normalised per layer gives a layer of n nodes an n-th of BP's step, so that NRL is slow. With
BP's step, a single noise sample is too noisy. The mean of eight antithetic pairs is not.
"""

CHANGES: dict[str, dict[str, Any]] = {
    "": {},
    "2 passes": {BASELINE_PASSES: 2},
    "10 passes": {BASELINE_PASSES: 10},
    "uniform": {"noise_distribution": "uniform"},
    "rademacher": {"noise_distribution": "rademacher"},
    "poisson": {"noise_distribution": "poisson"},
    "unbiased": _BP_STEP,
    "8 pairs": _PAIRS,
}
"""What is changed of NRL, for Figure 4B, for the figure about noise, and, one at a time, of what is recommended."""


@dataclass(frozen=True)
class Cell:
    """One setting that is trained from every seed: a cell of the table, a line in a figure."""

    task: str
    algorithm: str
    n_hidden: int = 1
    setting: str = "paper"
    change: str = ""

    @property
    def name(self) -> str:
        """The beginning of file names."""
        parts = (self.algorithm, f"{self.n_hidden}-hidden", self.setting, self.change.replace(" ", "-"))
        return f"{self.task}/{'_'.join(part for part in parts if part)}"

    @property
    def title(self) -> str:
        """Its name in the table."""
        parts = (self.task, str(self.n_hidden), "" if self.setting == "paper" else self.setting, self.change)
        return ", ".join(part for part in parts if part)

    def settings(self, seed: int, n_episodes: int) -> dict[str, Any]:
        """Everything that decides the result of a training."""
        task = TASKS[self.task]
        recommended = RECOMMENDED[self.task, self.n_hidden] if self.setting == "recommended" else {}
        arguments: dict[str, Any] = {"policy_kwargs": {"net_arch": [task.width] * self.n_hidden}}
        for more in (
            published(self.task, self.algorithm),
            recommended.get(self.algorithm, {}),
            CHANGES[self.change],
        ):
            policy_kwargs = arguments["policy_kwargs"] | more.get("policy_kwargs", {})
            arguments = {**arguments, **more, "policy_kwargs": policy_kwargs}
        return {
            "env": task.env,
            "env_kwargs": task.env_kwargs,
            "algorithm": self.algorithm,
            "arguments": {**arguments, "seed": seed},
            "n_episodes": n_episodes,
        }


def train(settings: dict[str, Any]) -> Columns:
    """
    Train a cell from one seed.

    :param settings: Those of :meth:`Cell.settings`
    :return: Columns ``episode``, ``return`` and ``length``. A row is the mean of the episodes since the row before. If
        the training diverges, the episodes that it never played have the worst return, and no steps.
    """
    model, env = make_model(settings)
    n_missing = 0
    try:
        learn(model, settings["n_episodes"])
    except FloatingPointError:
        n_missing = settings["n_episodes"] - len(env.get_episode_rewards())
    (worst,) = (task.worst for task in TASKS.values() if task.env == settings["env"])
    size = block_size(settings["n_episodes"])
    return {
        "episode": np.arange(size, settings["n_episodes"] + 1, size),
        "return": np.reshape(env.get_episode_rewards() + [worst] * n_missing, (-1, size)).mean(1),
        "length": np.reshape(env.get_episode_lengths() + [0] * n_missing, (-1, size)).mean(1),
    }


def training(cell: Cell, seed: int, quick: bool = False) -> Run:
    """The training of a cell from one seed."""
    task = TASKS[cell.task]
    n_episodes = task.n_quick if quick else task.n_episodes
    settings = cell.settings(seed, n_episodes)
    return Run(f"{cell.name}_seed-{seed}", train, settings, seed, n_episodes * task.seconds, cell)


def block_size(n_episodes: int) -> int:
    """Episodes to a row of a file and a point of a figure: a divisor of both the training's and the final episodes."""
    sizes = (n for n in range(N_LAST, 0, -1) if N_LAST % n == n_episodes % n == 0 and n <= n_episodes / 80)
    return next(sizes, 1)


def final_return(columns: Columns) -> float:
    """The mean return of the last episodes."""
    return float(columns["return"][-N_LAST // int(columns["episode"][0]) :].mean())


def make_model(settings: dict[str, Any]) -> tuple[OnPolicyAlgorithm, Monitor]:
    """The untrained model that settings describe, and its environment."""
    env = Monitor(gymnasium.make(settings["env"], **settings["env_kwargs"]))
    return getattr(sb3_nrl, settings["algorithm"])("MlpPolicy", env, device="cpu", **settings["arguments"]), env


def learn(model: OnPolicyAlgorithm, n_episodes: int, *callbacks: BaseCallback) -> None:
    """Train a model of :func:`make_model` for a number of episodes."""
    model.learn(10**9, [StopTrainingOnMaxEpisodes(n_episodes), *callbacks], log_interval=sys.maxsize)


# What each figure needs


def _benchmark(task: str, n_hidden: int) -> list[Cell]:
    again = RECOMMENDED.get((task, n_hidden), {})
    return [
        *(Cell(task, algorithm, n_hidden) for algorithm in LABELS),
        *(Cell(task, algorithm, n_hidden, "recommended") for algorithm in again),
    ]


CELLS: dict[str, list[Cell]] = {
    "fig1": [
        *(cell for task in TASKS for cell in _benchmark(task, 1)),
        *(Cell("Reaching", "NRL", change=change) for change in ("unbiased", "8 pairs")),
    ],
    "fig2": [cell for n_hidden in (2, 3) for cell in _benchmark("Acrobot", n_hidden)],
    "fig3": [cell for n_hidden in (2, 3) for cell in _benchmark("CartPole", n_hidden)],
    "fig4": [
        Cell("Acrobot", "NRL", setting=setting, change=change)
        for setting in SETTINGS
        for change in ("", "2 passes", "10 passes")
    ],
    "noise": [
        Cell("Acrobot", "NRL", setting="recommended", change=change)
        for change in ("", "uniform", "rademacher", "poisson")
    ],
}
"""What is trained for each figure."""

QUICK_CELLS: dict[str, list[Cell]] = {
    "fig1": [cell for task in ("Reaching", "CartPole") for cell in _benchmark(task, 1)],
    "fig2": [Cell("Acrobot", algorithm, 2, "recommended") for algorithm in ("NRL", "BPTT")],
    "fig3": [Cell("CartPole", algorithm, 2) for algorithm in LABELS],
    "fig4": [Cell("Acrobot", "NRL", setting="recommended", change=change) for change in ("", "10 passes")],
    "noise": [],
}
"""What is trained for each figure with ``--quick``."""
