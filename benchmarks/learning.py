"""How many steps, and how long, NRL takes to learn with the configs that are shipped, beside the RL Zoo's A2C and PPO.

    python benchmarks/learning.py

trains what is not there yet through ``sb3-nrl train``, keeps the episodes of each run in ``results/learning/``, and
prints and writes a table: steps and seconds until the mean return of 100 episodes passed the bar, the least such mean
after that, and the mean return of 100 evaluation episodes of the trained policy.
"""

import argparse
import csv
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import rl_zoo3
from records import ROOT, versions, write
from rl_zoo3.utils import create_test_env, get_saved_hyperparams
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_nrl.zoo

VERSIONS = versions()
BARS = {"CartPole-v1": 475.0, "Acrobot-v1": -100.0}
ALGORITHMS = ("nrl", "a2c", "ppo")
N_EPISODES = 100


class Learned(NamedTuple):
    """
    What became of a run.

    :param steps: Steps of all environments until the mean return of 100 episodes passed the bar, None if it never did
    :param seconds: Time until then
    :param lowest: The least mean of 100 episodes from then on
    :param last: The mean of the last 100 episodes
    :param evaluation: Mean return of 100 evaluation episodes
    """

    steps: int | None
    seconds: float | None
    lowest: float | None
    last: float
    evaluation: float


def train(task: str, algorithm: str, seed: int) -> list[Sequence[object]]:
    """Train as a user would; what the run was, then steps, seconds and return of each episode."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sb3_nrl", "train", "--algo", algorithm, "--env", task, "--seed", str(seed)]
        subprocess.run([*command, "-f", folder, "--eval-freq", "-1", "--verbose", "0"], check=True)
        run = pathlib.Path(folder) / algorithm / f"{task}_1"
        about = (task, algorithm, seed, f"{evaluate(run, task, algorithm, seed):.2f}", VERSIONS)
        return [about, *episodes(run)]


def episodes(run: pathlib.Path) -> list[Sequence[object]]:
    """Steps of all environments, seconds and return of each episode, from the logs of each environment."""
    logs = sorted(run.glob("*.monitor.csv"))
    starts, rows = [], []
    for log in logs:
        header, _, *lines = log.read_text().splitlines()
        starts.append(json.loads(header.removeprefix("#"))["t_start"])
        steps = 0
        for line in lines:
            reward, length, seconds, *_ = map(float, line.split(","))
            steps += int(length)
            rows.append((starts[-1] + seconds, steps * len(logs), reward))
    return [(steps, f"{end - min(starts):.3f}", f"{reward:.6g}") for end, steps, reward in sorted(rows)]


def evaluate(run: pathlib.Path, task: str, algorithm: str, seed: int) -> float:
    """Mean return of the trained policy's likeliest actions."""
    hyperparams, statistics = get_saved_hyperparams(str(run / task), test_mode=True)
    env = create_test_env(task, stats_path=statistics, seed=10_000 + seed, should_render=False, hyperparams=hyperparams)
    model = rl_zoo3.ALGOS[algorithm].load(run / f"{task}.zip", device="cpu")
    return float(np.mean(evaluate_policy(model, env, N_EPISODES)[0]))


def read(path: pathlib.Path) -> tuple[tuple[str, str, int], Learned]:
    """Task, algorithm and seed of a run, and what became of it."""
    with path.open() as file:
        (task, algorithm, seed, evaluation, _), *rows = csv.reader(file)
    steps, seconds, returns = np.array(rows, dtype=float).T
    means = np.convolve(returns, np.full(N_EPISODES, 1 / N_EPISODES), "valid")
    passed = np.flatnonzero(means >= BARS[task])
    first = None if len(passed) == 0 else int(passed[0])
    return (task, algorithm, int(seed)), Learned(
        None if first is None else int(steps[first + N_EPISODES - 1]),
        None if first is None else float(seconds[first + N_EPISODES - 1]),
        None if first is None else float(means[first:].min()),
        float(means[-1]),
        float(evaluation),
    )


def tabulate(folder: pathlib.Path) -> None:
    """Print and write what became of each run that is there, and of each algorithm."""
    runs = dict(map(read, sorted(folder.glob("*.csv"))))
    write(
        folder.with_suffix(".csv"),
        [("task", "algorithm", "seed", *Learned._fields), *((*k, *v) for k, v in runs.items())],
    )
    for (task, algorithm), group in itertools.groupby(runs, key=lambda run: run[:2]):
        learned = [runs[run] for run in group]
        passed = [run for run in learned if run.steps is not None]
        print(f"{task}, {algorithm}: {len(passed)} of {len(learned)} seeds passed {BARS[task]:g}", end="")
        if len(passed) > len(learned) / 2:
            for name in ("steps", "seconds"):
                values = sorted(getattr(run, name) or np.inf for run in learned)
                print(f"; {name} median {np.median(values):,.0f}, most {values[-1]:,.0f}", end="")
        print(f"; evaluations {' '.join(f'{run.evaluation:.0f}' for run in learned)}")


def main() -> None:
    """Run what is missing, one run after the other, then report everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(BARS), choices=list(BARS))
    parser.add_argument("--algorithms", nargs="*", default=list(ALGORITHMS))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(5)), help="none to report only")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "results" / "learning")
    arguments = parser.parse_args()
    sb3_nrl.zoo.register()
    for seed, task, algorithm in itertools.product(arguments.seeds, arguments.tasks, arguments.algorithms):
        path = arguments.out / f"{task}_{algorithm}_{seed}.csv"
        if not path.exists():
            write(path, train(task, algorithm, seed))
            print(f"{path.name}: {read(path)[1]}", flush=True)
    tabulate(arguments.out)


if __name__ == "__main__":
    main()
