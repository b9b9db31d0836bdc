"""Policies without an algorithm, and batches of observations and actions for them."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import nn

from sb3_nrl import ThreeFactorAlgorithm
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.noise import Noise
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.updates import Update

VECTOR = spaces.Box(-1, 1, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (2, 9, 9), np.uint8)
BOX = spaces.Box(-2, 2, (2,), np.float32)

ACTION_SPACES: dict[str, spaces.Space] = {
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([3, 3]),
    "MultiDiscrete-unequal": spaces.MultiDiscrete([2, 4]),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": BOX,
    "Box-two-axes": spaces.Box(-2, 2, (2, 2), np.float32),
}
each_action_space = pytest.mark.parametrize("action_space", ACTION_SPACES.values(), ids=ACTION_SPACES)


class SmallCnn(BaseFeaturesExtractor):
    """Strides, padding, groups, dilation and biases in two convolutions."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=16)
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
            nn.Tanh(),
            nn.Conv2d(4, 4, 2, dilation=3, bias=False),
            nn.Tanh(),
            nn.Flatten(),
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.net(observations)


class CnnOfTwoHalves(BaseFeaturesExtractor):
    """One convolution, applied to each of the two channels of an image, and then to the results."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=2 * 25)
        self.layer = nn.Conv2d(1, 1, 3)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        halves = self.layer(observations.flatten(0, 1)[:, None])
        return self.layer(halves.tanh()).reshape(len(observations), -1)


class TwiceThroughOneLayer(BaseFeaturesExtractor):
    """One linear layer, applied to both halves of each observation and then to its own output."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=4)
        self.layer = nn.Linear(2, 2)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        halves = self.layer(observations[:, :4].unflatten(1, (2, 2)))
        return self.layer(halves.tanh()).flatten(1)


def make_policy(
    observation_space: spaces.Space = VECTOR,
    action_space: spaces.Space = ACTION_SPACES["Discrete"],
    policy_class: type[NoisyPolicy] = NoisyPolicy,
    seed: int = 0,
    **arguments: Any,
) -> Any:
    """
    Make a policy with a critic and weights that are not small, so that every layer has a gradient.

    :param observation_space: Observation space
    :param action_space: Action space
    :param policy_class: Class of the policy
    :param seed: Seed of the initial weights
    :param arguments: Further arguments of the policy
    :return: The policy
    """
    th.manual_seed(seed)
    defaults = {"net_arch": [6, 5], "head_gain": 1.0, "critic": True, "noise": Noise(0.5)}
    policy = policy_class(observation_space, action_space, lambda _: 0.01, **{**defaults, **arguments})
    for name, parameter in policy.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.5)
    return policy


def in_torch(policy: NoisyPolicy) -> Any:
    """A copy of a policy that runs in PyTorch."""
    copy = deepcopy(policy)
    run_in_torch(copy)
    return copy


def run_in_torch(policy: NoisyPolicy) -> None:
    """Mark one layer as not available in NumPy, so that the policy runs in PyTorch."""
    policy.actor.features.runs_in_numpy = False  # type: ignore[misc]
    policy.refresh()
    assert policy.xp is th


def batch(space: spaces.Space, n_rows: int, seed: int = 1) -> Any:
    """Random observations or actions, in the format of a VecEnv."""
    if isinstance(space, spaces.Dict):
        return {key: batch(part, n_rows, seed) for key, part in space.spaces.items()}
    space.seed(seed)
    return np.stack([space.sample() for _ in range(n_rows)])


def tensors(values: Any) -> Any:
    """Arrays as tensors, also those of a dictionary."""
    return (
        {key: th.as_tensor(part) for key, part in values.items()} if isinstance(values, dict) else th.as_tensor(values)
    )


def names(policy: BasePolicy) -> dict[nn.Parameter, str]:
    """The parameters' names."""
    return {parameter: name for name, parameter in policy.named_parameters()}


def make_window(policy: NoisyPolicy, n_steps: int, n_envs: int = 1, actions: np.ndarray | None = None) -> RolloutWindow:
    """A window of random observations, with the actions that the policy takes, or with others."""
    obs = batch(policy.observation_space, n_steps * n_envs)
    draws = policy.action_dist.draw(np.random.default_rng(0), n_steps * n_envs)
    drawn, log_probs, _ = policy.act(obs, draws)
    if actions is not None:
        log_probs = policy.evaluate_actions(tensors(obs), th.as_tensor(actions))[1].detach().numpy()
    zeros_TE = np.zeros((n_steps, n_envs))
    return RolloutWindow(
        observations=obs,
        actions=drawn if actions is None else actions,
        log_probs=log_probs,
        noise=None,
        rewards_TE=zeros_TE,
        dones_TE=zeros_TE > 0,
        terminal_values_TE=zeros_TE,
        last_observations=batch(policy.observation_space, n_envs, seed=2),
    )


def record_updates(model: ThreeFactorAlgorithm) -> list[Update]:
    """The updates of the next training, filled in as they happen."""
    updates: list[Update] = []
    model.watchers.append(lambda update: updates.append(deepcopy(update)))
    return updates


def errors_of(updates: list[Update]) -> np.ndarray:
    """Reward prediction errors of all steps, shape (T, E)."""
    return np.concatenate([update.errors.errors_TE for update in updates])


class AlteredEnvs(VecEnvWrapper):
    """A wrapper that changes the steps of environments."""

    def __init__(self, venv: VecEnv, change: Callable[..., Any]) -> None:
        super().__init__(venv)
        self.change = change

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        return self.change(*self.venv.step_wait())
