"""What does a trained network remember, and how? NRL learns delayed match to sample, and we look at its units.

A sample is shown; after a delay, a test; the network has to say whether they are the same. Some units have to tell the
sample in the delay, while nothing shows it. Needs NeuroGym (docs/neurogym.md says how to install it) and Matplotlib.

    python examples/inspect_memory.py
    python examples/inspect_memory.py --load runs/inspect_memory/model.zip  # look again, without training
"""

import argparse
import pathlib

import numpy as np
from stable_baselines3.common.env_util import make_vec_env

import sb3_nrl.envs  # noqa: F401 — registers NeuroGym's tasks
from sb3_nrl import NRL
from sb3_nrl.analysis import plot_activity, plot_recurrent_weights, plot_trajectories, plot_units, record
from sb3_nrl.callbacks import PerformanceCallback

TASK = "neurogym/DelayMatchSample-v0"


def main() -> None:
    """Train, record trials, and draw what the hidden units do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=400_000, help="environment steps to train for")
    parser.add_argument("--trials", type=int, default=200, help="trials to record")
    parser.add_argument("--load", type=pathlib.Path, help="a model that was saved before, instead of training")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/inspect_memory"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    env = make_vec_env(TASK, 16, seed=0)
    if arguments.load:
        model = NRL.load(arguments.load, env)
    else:
        model = NRL(
            "MlpCtrnnPolicy",
            env,
            learning_rate=lambda progress: progress * 5e-3,
            n_steps=16,
            gamma=0.95,
            ent_coef=0.01,
            seed=0,
            verbose=1,
        )
        model.learn(arguments.timesteps, PerformanceCallback(), log_interval=200)
        model.save(arguments.out / "model.zip")

    recording = record(model, env, arguments.trials, seed=1)
    print(f"right choices in {recording.n_trials} trials: {recording.correct.mean():.0%}")

    right = recording.select(recording.correct)
    shown = np.where(right.conditions["sample_theta"] == 0, "sample A", "sample B")
    match = np.where(right.conditions["ground_truth"] == 1, "match", "non-match")
    by = np.char.add(np.char.add(shown, ", "), match)
    figures = {
        "activity": plot_activity(right, by),
        "units": plot_units(right, by),
        "trajectories": plot_trajectories(right, by),
        "weights": plot_recurrent_weights(model),
    }
    for name, figure in figures.items():
        figure.savefig(arguments.out / f"{name}.png", dpi=150)
    print(f"pictures: {arguments.out}")


if __name__ == "__main__":
    main()
