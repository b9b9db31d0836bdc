"""A task of NeuroGym: turn towards the target. NRL learns the task, and one trial is plotted.

This example needs NeuroGym: see docs/neurogym.md. This command makes the picture of that page:

    python examples/neurogym_task.py --picture docs/trial.png
"""

import argparse
import pathlib
from typing import Any

import gymnasium
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_nrl import NRL, PAPER
from sb3_nrl.callbacks import PerformanceCallback
from sb3_nrl.envs import plot_trial

TASK: dict[str, Any] = {"dt": 20, "timing": {"fixation": 300, "reach": 2000}}
SETTINGS: dict[str, Any] = {
    **PAPER["BPTT"],  # a running average of the rewards, and plain SGD
    "learning_rate": 0.02,
    "reward_timing": "step",
    "scale_rpe": False,
}


def main() -> None:
    """Train, evaluate, and plot a trial with the probabilities of the actions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=150_000, help="environment steps to train for")
    parser.add_argument("--picture", type=pathlib.Path, default=pathlib.Path("runs/trial.png"))
    arguments = parser.parse_args()

    env = make_vec_env("neurogym/Reaching1D-v0", 8, seed=0, env_kwargs=TASK)
    model = NRL("MlpPolicy", env, seed=0, verbose=1, **SETTINGS)
    before, _ = evaluate_policy(model, env, n_eval_episodes=80)
    model.learn(arguments.timesteps, PerformanceCallback(), log_interval=2000)
    after, _ = evaluate_policy(model, env, n_eval_episodes=80)
    print(f"mean reward of a trial: {before:.1f} before training, {after:.1f} after it")

    figure = plot_trial(gymnasium.make("neurogym/Reaching1D-v0", **TASK), model, seed=18)
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.picture, dpi=150)
    print(f"plot of a trial: {arguments.picture}")


if __name__ == "__main__":
    main()
