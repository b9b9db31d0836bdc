"""Train on CartPole, evaluate before and after, save the model, and load it.

python examples/train_and_evaluate.py
"""

import argparse
import pathlib

from stable_baselines3.common.evaluation import evaluate_policy

from sb3_nrl import NRL


def main() -> None:
    """Evaluate, train, evaluate again, save and load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=150_000, help="environment steps to train for")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs"), help="where the model goes")
    arguments = parser.parse_args()

    model = NRL("MlpPolicy", "CartPole-v1", seed=0, verbose=1)
    env = model.get_env()
    assert env is not None
    before, _ = evaluate_policy(model, env, n_eval_episodes=20)
    model.learn(arguments.timesteps, progress_bar=True)
    after, spread = evaluate_policy(model, env, n_eval_episodes=20)
    print(f"mean return over 20 episodes: {before:.1f} before training, {after:.1f} ± {spread:.1f} after it")

    path = arguments.out / "nrl_cartpole.zip"
    model.save(path)
    loaded = NRL.load(path, env=env)
    again, _ = evaluate_policy(loaded, env, n_eval_episodes=20)
    print(f"{again:.1f} with the model loaded from {path}")


if __name__ == "__main__":
    main()
