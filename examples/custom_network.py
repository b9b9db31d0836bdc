"""A network of your own: a convolutional features extractor that learns by node perturbation.

The task shows a bright column on a small screen. The action is a guess of the third of the screen that has the column.

    python examples/custom_network.py
"""

import argparse
from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_nrl import NRL


class WhereIsTheBar(gymnasium.Env):
    """One guess per episode: the reward is 1 for the third of the 12 x 12 screen that has the bar, and 0 otherwise."""

    observation_space = spaces.Box(0, 255, (1, 12, 12), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Show a bar."""
        super().reset(seed=seed)
        self.column = int(self.np_random.integers(12))
        screen = self.np_random.integers(100, size=(1, 12, 12), dtype=np.uint8)
        screen[:, :, self.column] += 155
        return screen, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Reward the guess and end the episode."""
        return np.zeros((1, 12, 12), np.uint8), float(action == self.column // 4), True, False, {}


class SmallCnn(BaseFeaturesExtractor):
    """Linear and Conv2d layers can be combined as you like. Layers of other types must not have parameters."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=2 * 4 * 4)
        self.net = nn.Sequential(nn.Conv2d(1, 2, kernel_size=3, stride=3), nn.Tanh(), nn.Flatten())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Compute the features of screens."""
        return self.net(observations)


def main() -> None:
    """Evaluate, train, and evaluate again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=20_000, help="environment steps to train for")
    arguments = parser.parse_args()

    env = make_vec_env(WhereIsTheBar, n_envs=8, seed=0)
    policy_kwargs = {
        "features_extractor_class": SmallCnn,
        "net_arch": [32],
        "activation_fn": nn.Tanh,
        "use_bias": True,
        "optimizer_class": th.optim.Adam,
    }
    model = NRL("CnnPolicy", env, learning_rate=3e-3, seed=0, policy_kwargs=policy_kwargs)
    print(model.policy)
    before, _ = evaluate_policy(model, env, n_eval_episodes=300)
    model.learn(arguments.timesteps)
    after, _ = evaluate_policy(model, env, n_eval_episodes=300)
    print(f"right guesses: {before:.0%} before training, {after:.0%} after it; chance level: 33%")


if __name__ == "__main__":
    main()
