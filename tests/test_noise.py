"""The noise has the moments that its name promises."""

import pytest
import torch as th

from sb3_nrl.noise import NOISE_DISTRIBUTIONS, sample_noise

SHAPE = (2000, 100)
KURTOSIS = {"gaussian": 3, "uniform": 9 / 5, "rademacher": 1, "poisson": 3 + 1 / 2.5}
SKEWNESS = {"gaussian": 0, "uniform": 0, "rademacher": 0, "poisson": 2.5**-0.5}


@pytest.mark.parametrize("distribution", NOISE_DISTRIBUTIONS)
def test_moments(distribution: str) -> None:
    th.manual_seed(0)
    noise = sample_noise(distribution, 0.01, SHAPE, th.device("cpu")) / 0.01
    assert noise.shape == SHAPE
    # Standard errors of these means over 200,000 draws are below 0.003, and below 0.02 for the fourth moment.
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.square().mean().item() == pytest.approx(1, abs=0.02)
    assert noise.pow(3).mean().item() == pytest.approx(SKEWNESS[distribution], abs=0.05)
    assert noise.pow(4).mean().item() == pytest.approx(KURTOSIS[distribution], abs=0.15)


@pytest.mark.parametrize("distribution", NOISE_DISTRIBUTIONS)
def test_nodes_are_independent(distribution: str) -> None:
    th.manual_seed(1)
    noise = sample_noise(distribution, 1.0, SHAPE, th.device("cpu"))
    correlations = th.corrcoef(noise.T) - th.eye(SHAPE[1])
    # The largest of 4950 correlations of 2000 independent pairs is about 3.7 / sqrt(2000) = 0.08.
    assert correlations.abs().max().item() < 0.12
