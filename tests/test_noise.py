"""The noise has the moments and directions of its distribution."""

import pathlib
import subprocess
import sys
from typing import Any

import pytest
import torch as th

from sb3_nrl import NRL
from sb3_nrl.noise import NOISE_DISTRIBUTIONS, ORTHOGONAL, Noise
from tests.conftest import make_model

SHAPE = (2000, 100)
KURTOSIS = {"gaussian": 3, "uniform": 9 / 5, "rademacher": 1, "poisson": 3 + 1 / 2.5}
SKEWNESS = {"gaussian": 0, "uniform": 0, "rademacher": 0, "poisson": 2.5**-0.5}


@pytest.mark.parametrize("distribution", NOISE_DISTRIBUTIONS)
def test_moments(distribution: Any) -> None:
    th.manual_seed(0)
    noise = Noise(0.01, distribution).sample(5, SHAPE[0] // 5, [60, 40]) / 0.01
    assert noise.shape == SHAPE
    # Standard errors of these means over 200,000 draws are below 0.003, and below 0.02 for the fourth moment.
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.square().mean().item() == pytest.approx(1, abs=0.02)
    assert noise.pow(3).mean().item() == pytest.approx(SKEWNESS[distribution], abs=0.05)
    assert noise.pow(4).mean().item() == pytest.approx(KURTOSIS[distribution], abs=0.15)


@pytest.mark.parametrize("distribution", NOISE_DISTRIBUTIONS)
def test_nodes_are_independent(distribution: Any) -> None:
    th.manual_seed(1)
    noise = Noise(1.0, distribution).sample(1, SHAPE[0], [SHAPE[1]])
    correlations = th.corrcoef(noise.T) - th.eye(SHAPE[1])
    # The largest of 4950 correlations of 2000 independent pairs is about 3.7 / sqrt(2000) = 0.08.
    assert correlations.abs().max().item() < 0.12


@pytest.mark.parametrize("n_samples", [1, 4, 7, 20])
def test_orthogonal_samples_share_out_the_directions_of_each_network(n_samples: int) -> None:
    noise = Noise(0.1, ORTHOGONAL).sample(n_samples, 50, [7, 5])
    assert noise.shape == (n_samples * 50, 12)
    for part in noise.view(n_samples, 50, 12).split([7, 5], dim=2):
        n_nodes = part.shape[2]
        for block in part.split(n_nodes):
            products = th.einsum("srn,trn->rst", block, block)
            expected = 0.01 * n_nodes * th.eye(len(block)).expand_as(products)
            th.testing.assert_close(products, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_samples", [1, 2, 5])
def test_orthogonal_noise_has_every_direction_alike(n_samples: int) -> None:
    """E[ξ ξᵀ] = σ², also in single samples, and of neither network's nodes with the other's; rows are independent."""
    th.manual_seed(2)
    noise = Noise(1.0, ORTHOGONAL).sample(n_samples, 40_000, [4, 3])
    for sample in noise.view(n_samples, 40_000, 7):
        assert (sample.T @ sample / len(sample) - th.eye(7)).abs().max() < 0.03
        neighbours = sample[::2].T @ sample[1::2] / 20_000
        assert neighbours.abs().max() < 0.04


def test_orthogonal_noise_permutes_the_nodes() -> None:
    """
    The K samples of a row are orthogonal, so that Σ_ij (Σ_k ξ_ki ξ_kj)² = K n² for n nodes: it is shared out among the
    pairs of nodes. Without a permutation a pair's share would depend on its distance.
    """
    th.manual_seed(3)
    n_nodes, n_samples = 8, 3
    squares = th.zeros(n_nodes, n_nodes)
    for _ in range(4000):
        noise_KRN = Noise(1.0, ORTHOGONAL).sample(n_samples, 2, [n_nodes]).view(n_samples, 2, n_nodes)
        squares += th.einsum("krn,krm->rnm", noise_KRN, noise_KRN).square().mean(0) / 4000
    assert squares.sum().item() == pytest.approx(n_samples * n_nodes**2, rel=1e-4)
    off_diagonal = squares[~th.eye(n_nodes, dtype=th.bool)]
    # One draw lies in [0, 9] and spreads by at most 4.5: the mean of 4000 has an error of 0.07 at most.
    assert (off_diagonal - off_diagonal.mean()).abs().max() < 0.2


@pytest.mark.parametrize(
    ("widths", "settings", "expected"),
    [
        ([64], {}, 3e-3),
        ([2219], {}, 3e-3),
        ([8886], {}, 1.5e-3),
        ([2219], {"n_noise_samples": 2}, 1.5e-3),
        ({"pi": [1], "vf": [8888]}, {}, 1.5e-3),
        ([8886], {"learning_rate": 3e-3}, 3e-3),
    ],
    ids=str,
)
def test_default_learning_rate_falls_with_the_root_of_the_number_of_nodes(
    widths: Any, settings: dict[str, Any], expected: float, tmp_path: pathlib.Path
) -> None:
    """It falls above 277 nodes of one network per noise sample. The actor has three nodes besides its hidden layers."""
    settings = {"learning_rate": None, "n_steps": 4, **settings}
    model = make_model(NRL, (5, 3), policy_kwargs={"net_arch": widths}, **settings).learn(4)
    assert model.learning_rate == pytest.approx(expected, rel=2e-3)
    assert model.policy.optimizer.param_groups[0]["lr"] == model.learning_rate
    model.save(tmp_path / "model")
    assert NRL.load(tmp_path / "model", device="cpu").learning_rate == model.learning_rate
    assert NRL.load(tmp_path / "model", device="cpu", learning_rate=0.1).learning_rate == 0.1


@pytest.mark.parametrize("distribution", NOISE_DISTRIBUTIONS)
def test_rare_noise_is_rare_and_as_large(distribution: Any) -> None:
    th.manual_seed(0)
    noise = Noise(2.0, distribution, probability=0.1).sample(10, 1000, [10])
    given = noise[noise != 0]
    assert len(given) / noise.numel() == pytest.approx(0.1, abs=0.005)
    assert given.std().item() == pytest.approx(2.0, rel=0.05)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)


GROWTH_OF_A_TRAINING = """
import pathlib, torch
from statistics import median
from sb3_nrl import NRL

torch.set_num_threads(1)
model, pages = NRL("MlpPolicy", "LunarLander-v3", seed=0, device="cpu", n_steps=256, n_noise_samples=8), []
for _ in range(6):
    model.learn(2_000, reset_num_timesteps=False)
    pages.append(int(pathlib.Path("/proc/self/statm").read_text().split()[1]))
print(int(median(after - before for before, after in zip(pages, pages[1:]))))
"""

PAGE_FAULTS_OF_A_TRAINING = """
import resource, torch
from sb3_nrl import NRL

torch.set_num_threads(1)
model, faults = NRL("MlpPolicy", "CartPole-v1", seed=0, device="cpu", n_steps=256, n_noise_samples=4), []
for _ in range(3):
    model.learn(2_000, reset_num_timesteps=False)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[2] - faults[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the page faults of a process on Linux")
def test_updates_reuse_memory() -> None:
    """Each update's arrays had been returned to the system: 932 page faults per update, a third of its time."""
    script = [sys.executable, "-c", PAGE_FAULTS_OF_A_TRAINING]
    process = subprocess.run(script, check=True, capture_output=True, text=True)
    assert int(process.stdout) < 8 * 100  # of eight updates


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the size of a process on Linux")
def test_a_training_does_not_grow_with_its_windows() -> None:
    """It grew in each part while Box2D took memory between blocks that were freed and could not be used again."""
    process = subprocess.run([sys.executable, "-c", GROWTH_OF_A_TRAINING], check=True, capture_output=True, text=True)
    assert int(process.stdout) * 4096 < 1e6
