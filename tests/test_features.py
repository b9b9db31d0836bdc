"""Features of grids such as MinAtar's, against a convolution by hand."""

from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN

from sb3_nrl import NRL
from sb3_nrl.features import GridCnn
from tests.conftest import weights

GRID = spaces.Box(0, 1, (5, 4, 3), np.bool_)  # type: ignore[arg-type]


class WhereEnv(gymnasium.Env):
    """A pixel is lit in the left or in the right half of a grid of bools: the action should say which."""

    observation_space = GRID
    action_space = spaces.Discrete(2)

    def _show(self) -> np.ndarray:
        self.side = int(self.np_random.integers(2))
        obs = np.zeros(GRID.shape, bool)
        obs[self.np_random.integers(5), 2 * self.side + self.np_random.integers(2), self.np_random.integers(3)] = True
        return obs

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._show(), {}

    def step(self, action: Any) -> Any:
        reward = float(action == self.side)
        self.time += 1
        return self._show(), reward, self.time == 10, False, {}


def test_convolution_over_channels_that_come_last() -> None:
    extractor = GridCnn(GRID, n_filters=2)
    convolution: Any = extractor.layers[0]
    x = th.rand(2, *GRID.shape)
    expected = th.zeros(2, 2, 3, 2)
    for row in range(3):
        for column in range(2):
            patch = x[:, row : row + 3, column : column + 3].permute(0, 3, 1, 2)
            for out in range(2):
                expected[:, out, row, column] = (patch * convolution.weight[out]).sum((1, 2, 3))
    th.testing.assert_close(extractor(x), (expected + convolution.bias[:, None, None]).relu().flatten(1))
    assert extractor.features_dim == 12


def test_grids_of_bools_are_learned_from_unaided() -> None:
    model = NRL("MlpPolicy", WhereEnv(), 5e-3, n_steps=16, n_noise_samples=16, seed=0, device="cpu")
    before = weights(model)
    model.learn(6_000)
    assert (weights(model) != before).mean() > 0.5
    returns = [info["r"] for info in model.ep_info_buffer or ()]
    assert np.mean(returns[-30:]) > 7  # 5 by chance


def test_images_keep_their_network() -> None:
    grid, image = (NRL("CnnPolicy", env, device="cpu") for env in (WhereEnv(), _image_env()))
    assert grid.policy.features_extractor_class is GridCnn
    assert image.policy.features_extractor_class is NatureCNN


def _image_env() -> gymnasium.Env:
    env = WhereEnv()
    env.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)  # type: ignore[arg-type]
    return env
