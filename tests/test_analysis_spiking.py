"""Energy of decisions and pictures of spikes, against counts by hand."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.envs import FakeImageEnv

from sb3_nrl.analysis import energy, plot_raster, record
from sb3_nrl.layers import Lif, SpikeEncoder
from tests.conftest import make_model


def make_lif_model(policy: str = "MlpLifPolicy", **kwargs: Any) -> Any:
    policy_kwargs = {"net_arch": [6, 5], "ticks": 4, "threshold": 0.3, **kwargs}
    return make_model(env="CartPole-v1", policy=policy, policy_kwargs=policy_kwargs)


@pytest.mark.parametrize("policy", ["MlpLifPolicy", "MlpStatefulLifPolicy"])
@pytest.mark.parametrize("encoding", ["current", "latency"])
def test_energy_counts_what_each_decision_takes(policy: str, encoding: str) -> None:
    model = make_lif_model(policy, encoding=encoding, recurrent=True)
    recording = record(model, model.env, 3, deterministic=True, seed=0)
    found = energy(model, model.env, 3, joules_per_addition=2.0, joules_per_multiply_accumulate=3.0, seed=0)
    n_spikes, n_operations, n_steps = 0.0, 0.0, len(recording.rewards)
    state = None
    layers = [layer for layer in model.policy.actor.hidden if isinstance(layer, Lif)]
    fan_outs = [6 + 5, 5 + 2]  # own layer and next one
    starts = recording.step == 0
    for obs, start in zip(recording.observations, starts, strict=True):
        _, state = model.predict(obs, state, np.array([start]), deterministic=True)
        for layer, fan_out in zip(layers, fan_outs, strict=True):
            count = float(np.sum(layer.spikes))
            n_spikes += count
            n_operations += count * fan_out
        encoder = model.policy.actor.hidden[0]
        if isinstance(encoder, SpikeEncoder):
            n_operations += 6 * float(np.sum(encoder.step(np, (), obs[None])[0]))
    assert n_spikes > 0
    assert found.spikes == pytest.approx(n_spikes / n_steps)
    assert found.synaptic_operations == pytest.approx(n_operations / n_steps)
    assert found.multiply_accumulates == (4 * 6 if encoding == "current" else 0)
    assert found.membrane_updates == 4 * (6 + 5)
    assert found.rate_multiply_accumulates == 4 * 6 + 6 * (6 + 5) + 5 * (5 + 2)
    additions = found.synaptic_operations + found.membrane_updates
    assert found.joules == pytest.approx(2 * additions + 3 * found.multiply_accumulates)
    assert found.rate_joules == pytest.approx(3 * found.rate_multiply_accumulates)
    assert found.mean_return == pytest.approx(recording.rewards.sum() / 3)


def test_energy_counts_the_expected_spikes_of_a_poisson_encoder() -> None:
    model = make_lif_model(encoding="poisson")
    recording = record(model, model.env, 3, deterministic=True, seed=0)
    found = [energy(model, model.env, 3, seed=0) for _ in range(2)]
    assert found[0] == found[1]
    sizes = np.abs(np.asarray(recording.observations)).clip(0, 1).sum(1).mean()
    expected = 4 * 6 * sizes + sum(spikes.sum() * n for spikes, n in zip(recording.spikes, (5, 2), strict=True)) / len(
        recording.rewards
    )
    assert found[0].synaptic_operations == pytest.approx(expected, rel=1e-5)


def test_energy_counts_the_spikes_that_encode_features_of_images() -> None:
    env = FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, channel_first=True)
    kwargs = {"net_arch": [6], "encoding": "latency", "ticks": 3}
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # many nodes
        model = make_model(env=env, policy="CnnLifPolicy", policy_kwargs=kwargs)
    found = energy(model, model.env, 1, seed=0)
    n_features = model.policy.actor.hidden[0].step(th, (), th.ones(1, 512))[0][0].shape[1] // 2
    assert 0 < found.synaptic_operations - found.spikes * 6 <= n_features * 6


def test_recording_has_spikes_and_potentials_of_each_tick() -> None:
    model = make_lif_model(v_reset=-0.2)
    recording = record(model, model.env, 2, seed=0)
    for activity, spikes, potentials in zip(recording.actor, recording.spikes, recording.potentials, strict=True):
        assert spikes.shape == potentials.shape == (len(recording.rewards), 4, activity.shape[1])
        assert set(np.unique(spikes)) == {0, 1}
        np.testing.assert_allclose(activity, spikes.mean(1), rtol=1e-6)
        np.testing.assert_allclose(potentials[spikes == 1], -0.2, rtol=1e-6)
        assert (potentials[spikes == 0] <= 0.3 + 1e-6).all()
    assert all(layer.potentials == [] for layer in record_layers(model))
    second = recording.select(np.array([False, True]))
    np.testing.assert_array_equal(second.spikes[0], recording.spikes[0][recording.trial == 1])


def record_layers(model: Any) -> list[Lif]:
    """Spiking layers, after a pass of the model."""
    model.predict(model.observation_space.sample())
    return [layer for layer in model.policy.actor.hidden if isinstance(layer, Lif)]


def test_raster_draws_every_spike() -> None:
    pytest.importorskip("matplotlib")
    model = make_lif_model()
    recording = record(model, model.env, 2, seed=0)
    n_steps = recording.lengths[1] - 3
    figure: Any = plot_raster(recording, trial=1, layer=1, steps=(3, 1_000), n_potentials=2)
    raster, first, *_ = figure.axes
    spikes = recording.spikes[1][recording.trial == 1][3:]
    times, neurons = raster.lines[0].get_data()
    assert len(times) == spikes.sum()
    assert 3 <= min(times) <= max(times) < 3 + n_steps
    assert (np.asarray(neurons) == 0).sum() == spikes.sum((0, 1)).max()
    neuron = int(spikes.mean(1).std(0).argmax())
    potentials = recording.potentials[1][recording.trial == 1][3:]
    np.testing.assert_array_equal(first.lines[0].get_ydata(), potentials[..., neuron].ravel())
    assert len(first.lines[1].get_xdata()) == spikes[..., neuron].sum()


def test_policies_without_spikes_are_refused() -> None:
    model = make_model(env="CartPole-v1")
    with pytest.raises(ValueError, match="policy='NoisyPolicy': must be spiking"):
        energy(model, model.env)
    with pytest.raises(ValueError, match="layer=0: must be of a spiking policy"):
        plot_raster(record(model, model.env, 1))
    with pytest.raises(ValueError, match="trial=1: must be one of 1 trials"):
        lif = make_lif_model()
        plot_raster(record(lif, lif.env, 1), trial=1)
