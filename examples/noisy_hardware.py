"""Learning without clean passes, as on analog hardware: every pass is noisy, in training and in evaluation.

The mean of a few noisy passes replaces the clean pass. The noise is shot noise.

    python examples/noisy_hardware.py
"""

import argparse

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_nrl import NRL


def main() -> None:
    """Train with 2 and with 10 noisy passes instead of each clean pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", help="environment")
    parser.add_argument("--timesteps", type=int, default=100_000, help="environment steps to train for")
    arguments = parser.parse_args()

    for n_passes in (2, 10):
        env = make_vec_env(arguments.env, seed=0)
        model = NRL("MlpPolicy", env, n_baseline_passes=n_passes, noise_distribution="poisson", noise_std=0.05, seed=0)
        before, _ = evaluate_policy(model, env, n_eval_episodes=20)
        model.learn(arguments.timesteps)
        after, _ = evaluate_policy(model, env, n_eval_episodes=20)
        print(f"{n_passes:2} noisy passes: mean return {before:.1f} before training, {after:.1f} after it")


if __name__ == "__main__":
    main()
