"""NeuroGym tasks that a network without memory can solve: NRL, BPTT and RMHL, five seeds each.

    python benchmarks/neurogym_tasks.py

trains what is not there yet, keeps the mean return and performance of every 50 trials in ``results/neurogym/``, and
prints and writes a table of the last 50. The settings are the paper's for Reaching1D (Table 2), on all tasks: one
hidden layer of 128 nodes, every step a reward time, one noisy pass per step, its noise normalised by layer. Beside
them stand NRL with unbiased updates of eight pairs of noisy passes, whose steps are as long as BPTT's, and NRL with a
critic, in one setting for all tasks.
"""

import argparse
import csv
import itertools
import os
import pathlib
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import numpy as np
from records import ROOT, versions, write
from stable_baselines3.common.monitor import Monitor

import sb3_nrl
import sb3_nrl.envs
from sb3_nrl.reproduce.protocol import TASKS as TASKS_OF_THE_PAPER
from sb3_nrl.reproduce.protocol import Cell

N_TRIALS = 50
VERSIONS = versions()  # of the code that is loaded, whatever becomes of the checkout during a training
REACHING = TASKS_OF_THE_PAPER["Reaching"].env_kwargs
TASKS: dict[str, tuple[dict[str, Any], int]] = {
    "Reaching1D": (REACHING, 1_000),
    "Reaching1DWithSelfDistraction": (REACHING, 200),
    "AnnubesEnv": ({}, 3_000),
    "perceptualdecisionmaking.roitman02": ({}, 10_000),
    "yang19.rtgo": ({}, 6_000),
    "yang19.rtanti": ({}, 6_000),
}
"""The arguments of each task, and the number of trials."""

CELLS = {
    **{algorithm: Cell("Reaching", algorithm) for algorithm in ("BPTT", "NRL", "RMHL")},
    "NRL-unbiased": Cell("Reaching", "NRL", setting="recommended"),
}
CRITIC: dict[str, Any] = {
    "gamma": 0.9,
    "trace_decay": 0.85,
    "learning_rate": 3e-3,
    "policy_kwargs": {"net_arch": [128]},
}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (cell.algorithm, cell.settings(0, 0)["arguments"]) for name, cell in CELLS.items()},
    "NRL-critic": ("NRL", CRITIC),
}


def train(task: str, setting: str, seed: int, n_trials: int) -> tuple[list[tuple[float, float]], float]:
    """Return and performance of each trial, and the seconds that training took."""
    env = Monitor(gymnasium.make(f"neurogym/{task}-v0", **TASKS[task][0]), info_keywords=("performance",))
    algorithm, arguments = SETTINGS[setting]
    model = getattr(sb3_nrl, algorithm)("MlpPolicy", env, device="cpu", **{**arguments, "seed": seed})
    trials: list[tuple[float, float]] = []

    def keep_trial(local: dict[str, Any], _: dict[str, Any]) -> bool:
        trials.extend((i["episode"]["r"], i["performance"]) for i in local["infos"] if "episode" in i)
        return len(trials) < n_trials

    start = time.perf_counter()
    model.learn(10**9, keep_trial)
    return trials, time.perf_counter() - start


def run(folder: pathlib.Path, task: str, setting: str, seed: int, n_trials: int) -> None:
    """Train, if that has not been done, and keep the trials."""
    path = folder / f"{task}_{setting}_{seed}.csv"
    if not path.exists():
        trials, seconds = train(task, setting, seed, n_trials)
        means = np.reshape(trials[:n_trials], (-1, N_TRIALS, 2)).mean(axis=1)
        write(path, [(task, setting, seed, f"{seconds:.0f}", VERSIONS), *((f"{r:.4g}", f"{p:.3g}") for r, p in means)])
        print(f"{path.name}: {seconds:.0f} s", flush=True)


def tabulate(folder: pathlib.Path) -> None:
    """Print and write the mean of the last 50 trials of each run that is there."""
    last: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    for path in sorted(folder.glob("*_*_*.csv")):
        with path.open() as file:
            reader = csv.reader(file)
            task, setting, seed, *_ = next(reader)
            *_, (mean_return, performance) = reader
        last.setdefault((task, setting), {})[seed] = float(mean_return), float(performance)
    rows: list[tuple[object, ...]] = [("task", "setting", "seeds", "mean", "worst", "each", "performance")]
    for (task, setting), runs in last.items():
        returns, performances = (np.array(column) for column in zip(*runs.values(), strict=True))
        each = " ".join(f"{value:.3g}" for value in returns)
        rows.append(
            (
                task,
                setting,
                len(runs),
                f"{returns.mean():.3g}",
                f"{returns.min():.3g}",
                each,
                f"{performances.mean():.2f}",
            )
        )
    for row in rows:
        print(" | ".join(map(str, row)))
    write(folder.with_suffix(".csv"), rows)


def main() -> None:
    """Run what is missing, then report everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(5)), help="none to report only")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--workers", type=int, default=1, help="processes at once")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "results" / "neurogym")
    arguments = parser.parse_args()

    with ProcessPoolExecutor(arguments.workers) as pool:
        runs = [
            pool.submit(run, arguments.out, task, setting, seed, TASKS[task][1])
            for seed, task, setting in itertools.product(arguments.seeds, arguments.tasks, arguments.settings)
        ]
        for finished in runs:
            finished.result()
    tabulate(arguments.out)


if __name__ == "__main__":
    main()
