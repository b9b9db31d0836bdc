"""CartPole and Acrobot with the paper's learning rates and noise (Table 2), a small head gain, and one environment.

    python benchmarks/paper_settings.py --seeds 0 1 2

trains NRL, BPTT and RMHL, keeps each run's returns in ``results/paper_settings/``, and draws and tabulates all that is
there. Runs that are there already are not repeated.
"""

import argparse
import csv
import itertools
import os
import pathlib
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
from records import ROOT, versions, write
from stable_baselines3.common.callbacks import StopTrainingOnMaxEpisodes
from stable_baselines3.common.monitor import Monitor

import sb3_nrl
from sb3_nrl import PAPER

EPISODES = {"CartPole-v1": 10_000, "Acrobot-v1": 3_000}
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("CartPole-v1", "NRL"): PAPER["NRL"],
    ("CartPole-v1", "BPTT"): PAPER["BPTT"],
    ("CartPole-v1", "RMHL"): PAPER["RMHL"],
    ("Acrobot-v1", "NRL"): PAPER["NRL"],
    ("Acrobot-v1", "BPTT"): PAPER["BPTT"],
    ("Acrobot-v1", "RMHL"): {**PAPER["RMHL"], "learning_rate": 5e-2, "noise_std": 1e-3},
}
COLORS = {"NRL": "tab:blue", "BPTT": "black", "RMHL": "tab:orange"}
STYLES = {"NRL": "-", "BPTT": "--", "RMHL": ":"}


def train(task: str, algorithm: str, seed: int, n_episodes: int) -> tuple[list[float], float]:
    """The return of each episode, and the seconds that training took."""
    env = Monitor(gymnasium.make(task))
    arguments = SETTINGS[task, algorithm]
    policy_kwargs = {**arguments["policy_kwargs"], "head_gain": 0.01}
    model = getattr(sb3_nrl, algorithm)("MlpPolicy", env, seed=seed, **{**arguments, "policy_kwargs": policy_kwargs})
    start = time.perf_counter()
    model.learn(n_episodes * 500, StopTrainingOnMaxEpisodes(n_episodes))
    return env.get_episode_rewards(), time.perf_counter() - start


def tabulate(folder: pathlib.Path) -> None:
    """Print and write what all runs in a folder reached."""
    header = ("task", "algorithm", "seed", "episodes", "steps", "first_50", "last_50", "seconds", "versions")
    rows = []
    for path in sorted(folder.glob("*_*_*.csv")):
        with path.open() as file:
            reader = csv.reader(file)
            task, algorithm, seed, seconds, versions = next(reader)
            returns = np.array([float(row[0]) for row in reader])
        first, last = returns[:50].mean(), returns[-50:].mean()
        rows.append((task, algorithm, seed, len(returns), int(np.abs(returns).sum()), first, last, seconds, versions))
        print(
            f"{task:12} {algorithm:5} seed {seed}: {first:7.1f} at first, {last:7.1f} at last, {len(returns)} episodes"
        )
    write(folder.with_suffix(".csv"), [header, *rows])


def draw(folder: pathlib.Path, picture: pathlib.Path) -> None:
    """The return per episode, a moving average over 100 of them, one line per run."""
    figure, panels = plt.subplots(1, len(EPISODES), figsize=(10, 3.4), layout="constrained")
    for panel, task in zip(panels, EPISODES, strict=True):
        for algorithm in COLORS:
            for path in sorted(folder.glob(f"{task}_{algorithm}_*.csv")):
                returns = np.loadtxt(path, skiprows=1, ndmin=1)
                smooth = np.convolve(returns, np.ones(100) / 100, mode="valid")
                label = None if algorithm in panel.get_legend_handles_labels()[1] else algorithm
                panel.plot(
                    np.arange(len(smooth)) + 100,
                    smooth,
                    STYLES[algorithm],
                    color=COLORS[algorithm],
                    alpha=0.8,
                    label=label,
                )
        panel.set(title=task, xlabel="episode", ylabel="return (mean of 100 episodes)")
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150)


def main() -> None:
    """Run what is missing, then report everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0], help="seeds to train (default: 0); none to report only"
    )
    parser.add_argument("--tasks", nargs="*", default=list(EPISODES), choices=list(EPISODES))
    parser.add_argument("--algorithms", nargs="*", default=list(COLORS), choices=list(COLORS))
    parser.add_argument("--episodes", type=int, help="episodes per run (default: 10,000 CartPole, 3,000 Acrobot)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "results" / "paper_settings")
    parser.add_argument("--picture", type=pathlib.Path, default=ROOT / "docs" / "learning_curves.png")
    arguments = parser.parse_args()

    for seed, task, algorithm in itertools.product(arguments.seeds, arguments.tasks, arguments.algorithms):
        path = arguments.out / f"{task}_{algorithm}_{seed}.csv"
        if not path.exists():
            returns, seconds = train(task, algorithm, seed, arguments.episodes or EPISODES[task])
            write(path, [(task, algorithm, seed, f"{seconds:.0f}", versions()), *([value] for value in returns)])
            print(f"{path.name}: {seconds:.0f} s")
    tabulate(arguments.out)
    draw(arguments.out, arguments.picture)


if __name__ == "__main__":
    main()
