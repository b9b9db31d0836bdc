"""Log a training for TensorBoard, save checkpoints, and resume from the last one.

    python examples/tensorboard_and_resume.py
    tensorboard --logdir runs/resume

The first command resumes from the last checkpoint if there is one.
"""

import argparse
import pathlib

from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_nrl import NRL


def n_steps(checkpoint: pathlib.Path) -> int:
    """The number of training steps of a checkpoint, from its file name."""
    return int(checkpoint.stem.split("_")[-2])


def main() -> None:
    """Train from the last checkpoint if there is one, and save new checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=50_000, help="environment steps to add")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/resume"), help="checkpoints and logs")
    arguments = parser.parse_args()

    env = make_vec_env("CartPole-v1", n_envs=4, seed=0)
    checkpoints = sorted(arguments.out.glob("*_steps.zip"), key=n_steps)
    if checkpoints:
        last = checkpoints[-1]
        model = NRL.load(last, env=env, seed=n_steps(last))  # a new seed: seed 0 would repeat the random numbers
        print(f"resuming from {last}, after {model.num_timesteps} steps")
    else:
        model = NRL("MlpPolicy", env, seed=0, tensorboard_log=str(arguments.out))

    every = max(arguments.timesteps // 5 // env.num_envs, 1)
    checkpoint = CheckpointCallback(every, str(arguments.out), name_prefix="nrl")
    model.learn(arguments.timesteps, checkpoint, log_interval=10, reset_num_timesteps=not checkpoints)
    print(f"{model.num_timesteps} steps so far")


if __name__ == "__main__":
    main()
