"""The noise has the moments and the directions that its name promises."""

import pytest
import torch as th

from sb3_nrl.noise import NOISE_DISTRIBUTIONS, ORTHOGONAL, sample_noise

CPU = th.device("cpu")
SHAPE = (2000, 100)
KURTOSIS = {"gaussian": 3, "uniform": 9 / 5, "rademacher": 1, "poisson": 3 + 1 / 2.5}
SKEWNESS = {"gaussian": 0, "uniform": 0, "rademacher": 0, "poisson": 2.5**-0.5}


@pytest.mark.parametrize("distribution", NOISE_DISTRIBUTIONS)
def test_moments(distribution: str) -> None:
    th.manual_seed(0)
    noise = sample_noise(distribution, 0.01, 5, SHAPE[0] // 5, [60, 40], CPU) / 0.01
    assert noise.shape == SHAPE
    # Standard errors of these means over 200,000 draws are below 0.003, and below 0.02 for the fourth moment.
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.square().mean().item() == pytest.approx(1, abs=0.02)
    assert noise.pow(3).mean().item() == pytest.approx(SKEWNESS[distribution], abs=0.05)
    assert noise.pow(4).mean().item() == pytest.approx(KURTOSIS[distribution], abs=0.15)


@pytest.mark.parametrize("distribution", NOISE_DISTRIBUTIONS)
def test_nodes_are_independent(distribution: str) -> None:
    th.manual_seed(1)
    noise = sample_noise(distribution, 1.0, 1, SHAPE[0], [SHAPE[1]], CPU)
    correlations = th.corrcoef(noise.T) - th.eye(SHAPE[1])
    # The largest of 4950 correlations of 2000 independent pairs is about 3.7 / sqrt(2000) = 0.08.
    assert correlations.abs().max().item() < 0.12


@pytest.mark.parametrize("n_samples", [1, 4, 7, 20])
def test_samples_share_out_the_directions_of_each_network(n_samples: int) -> None:
    noise = sample_noise(ORTHOGONAL, 0.1, n_samples, 50, [7, 5], CPU)
    assert noise.shape == (n_samples * 50, 12)
    for part in noise.view(n_samples, 50, 12).split([7, 5], dim=2):
        n_nodes = part.shape[2]
        for block in part.split(n_nodes):
            products = th.einsum("srn,trn->rst", block, block)
            expected = 0.01 * n_nodes * th.eye(len(block)).expand_as(products)
            th.testing.assert_close(products, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_samples", [1, 2, 5])
def test_every_direction_is_as_likely_in_each_row(n_samples: int) -> None:
    """E[ξ ξᵀ] = σ², also in single samples, and of neither network's nodes with the other's; rows are independent."""
    th.manual_seed(2)
    noise = sample_noise(ORTHOGONAL, 1.0, n_samples, 40_000, [4, 3], CPU)
    for sample in noise.view(n_samples, 40_000, 7):
        assert (sample.T @ sample / len(sample) - th.eye(7)).abs().max() < 0.03
        neighbours = sample[::2].T @ sample[1::2] / 20_000
        assert neighbours.abs().max() < 0.04
