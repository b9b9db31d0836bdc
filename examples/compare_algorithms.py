"""Train NRL, RMHL and the exact gradient (BPTT) on one task, and plot their returns.

python examples/compare_algorithms.py
"""

import argparse
import pathlib

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
from stable_baselines3.common.monitor import Monitor

from sb3_nrl import BPTT, NRL, RMHL


def main() -> None:
    """Train each algorithm from several seeds, and plot the mean and the range of their returns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", help="environment")
    parser.add_argument("--timesteps", type=int, default=150_000, help="environment steps of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--picture", type=pathlib.Path, default=pathlib.Path("runs/compare_algorithms.png"))
    arguments = parser.parse_args()

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    points = np.linspace(0, arguments.timesteps, 101)
    for algorithm, style in ((NRL, "-"), (RMHL, ":"), (BPTT, "--")):
        curves = []
        for seed in arguments.seeds:
            env = Monitor(gymnasium.make(arguments.env))
            algorithm("MlpPolicy", env, seed=seed).learn(arguments.timesteps)
            ends, returns = np.cumsum(env.get_episode_lengths()), np.array(env.get_episode_rewards())
            curves.append(
                [returns[: i + 1][-50:].mean() for i in np.searchsorted(ends, points).clip(max=len(ends) - 1)]
            )
            print(f"{algorithm.__name__}, seed {seed}: {returns[-50:].mean():.1f} over the last 50 episodes")
        axes.plot(points, np.mean(curves, axis=0), style, label=algorithm.__name__)
        axes.fill_between(points, np.min(curves, axis=0), np.max(curves, axis=0), alpha=0.2)
    title = f"{arguments.env}: mean and range of {len(arguments.seeds)} seeds"
    axes.set(xlabel="environment steps", ylabel="return (mean of 50 episodes)", title=title)
    axes.legend(frameon=False)
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.picture, dpi=150)
    print(f"plot: {arguments.picture}")


if __name__ == "__main__":
    main()
