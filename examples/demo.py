"""What ``make demo`` runs: NRL learns to balance a pole, in about two minutes.

python examples/demo.py
"""

import argparse
import pathlib

import matplotlib.pyplot as plt
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.results_plotter import load_results, ts2xy, window_func

from sb3_nrl import NRL


def main() -> None:
    """Evaluate, train, evaluate again, and draw the learning curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=400_000, help="environment steps to train for")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("runs/demo"), help="where pictures and logs go"
    )
    arguments = parser.parse_args()
    tensorboard = arguments.out / "tensorboard"
    picture = arguments.out / "learning_curve.png"

    env = make_vec_env("CartPole-v1", seed=0, monitor_dir=str(arguments.out / "monitor"))
    model = NRL("MlpPolicy", env, seed=0, tensorboard_log=str(tensorboard))
    test_env = make_vec_env("CartPole-v1", seed=1)
    before, _ = evaluate_policy(model, test_env, n_eval_episodes=20)
    model.learn(arguments.timesteps, progress_bar=True)
    after, _ = evaluate_policy(model, test_env, n_eval_episodes=20)

    steps, returns = ts2xy(load_results(str(arguments.out / "monitor")), "timesteps")
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(steps, returns, ".", color="lightsteelblue", markersize=3, label="one episode")
    if len(returns) >= 50:
        axes.plot(*window_func(steps, returns, 50, np.mean), color="tab:blue", label="mean of 50 episodes")
    axes.set(xlabel="environment steps", ylabel="return", title="NRL on CartPole-v1, forward passes only")
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=150)

    print(f"mean return over 20 evaluation episodes: {before:.1f} before training, {after:.1f} after it")
    print(f"learning curve: {picture}")
    print(f"TensorBoard:    tensorboard --logdir {tensorboard}")


if __name__ == "__main__":
    main()
