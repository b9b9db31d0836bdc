"""NRL learns to balance a pole (CartPole) in about a minute. ``make demo`` runs this example.

python examples/demo.py
"""

import argparse
import pathlib

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_nrl import NRL


def main() -> None:
    """Evaluate, train, evaluate again, and plot the learning curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=120_000, help="environment steps to train for")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("runs/demo"), help="where pictures and logs go"
    )
    arguments = parser.parse_args()
    tensorboard = arguments.out / "tensorboard"
    picture = arguments.out / "learning_curve.png"

    env, test_env = (Monitor(gymnasium.make("CartPole-v1")) for _ in range(2))
    test_env.reset(seed=1)
    model = NRL("MlpPolicy", env, seed=0, tensorboard_log=str(tensorboard))
    before, _ = evaluate_policy(model, test_env, n_eval_episodes=20)
    model.learn(arguments.timesteps, progress_bar=True)
    after, _ = evaluate_policy(model, test_env, n_eval_episodes=20)

    steps, returns = np.cumsum(env.get_episode_lengths()), env.get_episode_rewards()
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(steps, returns, ".", color="lightsteelblue", markersize=3, label="one episode")
    if len(returns) >= 50:
        smooth = np.convolve(returns, np.ones(50) / 50, mode="valid")
        axes.plot(steps[49:], smooth, color="tab:blue", label="mean of 50 episodes")
    axes.set(xlabel="environment steps", ylabel="return", title="NRL on CartPole-v1, forward passes only")
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=150)

    print(f"mean return over 20 evaluation episodes: {before:.1f} before training, {after:.1f} after it")
    print(f"learning curve: {picture}")
    print(f"TensorBoard:    tensorboard --logdir {tensorboard}")


if __name__ == "__main__":
    main()
