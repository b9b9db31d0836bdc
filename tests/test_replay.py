"""Windows that are used again: against the gradient of PPO's loss, by autograd."""

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_nrl import BPTT, NRL, RMHL, Noise
from sb3_nrl.bptt import ExactGradient
from sb3_nrl.node_perturbation import NodePerturbation
from sb3_nrl.recurrent_policies import RnnPolicy
from sb3_nrl.replay import replays
from sb3_nrl.reward_prediction import RewardErrors
from tests.conftest import make_model, weights_at_once_and_in_parts
from tests.policies import make_policy
from tests.policies import make_window as make_feed_forward_window
from tests.test_gradient import cosine
from tests.test_recurrent import make_window, objectives

T, E, DECAY, CLIP = 7, 2, 0.9, 0.3


def make_case(policy: Any, window: Any) -> tuple[Any, RewardErrors]:
    """A window whose actions had other probabilities, and its errors."""
    generator = np.random.default_rng(0)
    errors_TE, values_TE = generator.normal(size=(2, T, E))
    restarts_TE = np.zeros((T, E), bool)
    if window.starts_TE is not None:
        restarts_TE[:-1] = window.starts_TE[1:]
    else:
        restarts_TE[2, 0] = True
    clean = policy.noisy_pass(
        window.observations, window.actions, None, states=window.states, starts_TE=window.starts_TE
    )
    drawn = generator.normal(0, 0.5, T * E).astype(np.float32)
    return window._replace(log_probs=policy.numpy(clean.objectives[0]) + drawn), RewardErrors(
        errors_TE, restarts_TE, T * E, {}, values_TE
    )


def loss(log_probs_TE: th.Tensor, values_TE: th.Tensor, window: Any, errors: RewardErrors) -> tuple[th.Tensor, int]:
    """PPO's clipped loss with half of the squared error of the values, and the number of ratios that are clipped."""
    advantages = np.zeros((T + 1, E))
    for t in range(T - 1, -1, -1):
        advantages[t] = errors.errors_TE[t] + DECAY * advantages[t + 1] * ~errors.restarts_TE[t]
    advantages_TE = th.as_tensor(advantages[:T])
    ratio_TE = (log_probs_TE - th.as_tensor(window.log_probs).double().reshape(T, E)).exp()
    clipped_TE = ratio_TE.clamp(1 - CLIP, 1 + CLIP)
    objective_TE = th.minimum(ratio_TE * advantages_TE, clipped_TE * advantages_TE)
    assert errors.values_TE is not None
    targets_TE = th.as_tensor(errors.values_TE) + advantages_TE
    return -(objective_TE - (targets_TE - values_TE) ** 2 / 2).sum(), int((clipped_TE != ratio_TE).sum())


@pytest.mark.parametrize("n_steps", [T, 3])
def test_a_replayed_window_gives_the_gradient_of_ppos_loss(n_steps: int) -> None:
    policy = make_policy(net_arch=[4])
    window, errors = make_case(policy, make_feed_forward_window(policy, T, E))
    values, log_probs, _ = policy.evaluate_actions(th.as_tensor(window.observations), th.as_tensor(window.actions))
    expected, n_clipped = loss(log_probs.double().reshape(T, E), values.double().reshape(T, E), window, errors)
    gradients = th.autograd.grad(expected, policy.learnable)
    settings = window, errors, DECAY, CLIP, n_steps, 1
    ((change, diagnostics),) = replays(policy, ExactGradient(), *settings)
    np.testing.assert_allclose(change, -th.cat([part.flatten() for part in gradients]), rtol=1e-4, atol=1e-5)
    assert 0 < n_clipped < T * E
    assert diagnostics["clip_fraction"] == n_clipped / (T * E)
    ((noisy, _),) = replays(policy, NodePerturbation(Noise(1e-3), n_noise_samples=20_000), *settings)
    assert cosine(th.as_tensor(noisy), th.as_tensor(change)) > 0.99


def test_a_replay_goes_through_hidden_states() -> None:
    policy = make_policy(policy_class=RnnPolicy, net_arch=[4])
    starts_TE = np.zeros((T, E), bool)
    starts_TE[3, 1] = True
    window, errors = make_case(policy, make_window(policy, T, E, starts_TE))
    (log_probs_TE, values_TE), doubles = objectives(policy, window)
    expected, _ = loss(log_probs_TE, values_TE, window, errors)
    gradients = th.autograd.grad(expected, doubles)
    ((change, _),) = replays(policy, ExactGradient(), window, errors, DECAY, CLIP, T, 1)
    np.testing.assert_allclose(change, -th.cat([part.flatten() for part in gradients]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algorithm", [NRL, BPTT])
@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpRnnPolicy", "MlpLifPolicy"])
def test_n_epochs_is_the_number_of_updates_of_a_window(algorithm: Any, policy: str) -> None:
    model = make_model(algorithm, policy=policy, n_steps=16, n_epochs=3, policy_kwargs={"net_arch": [4]})
    model.learn(64)
    assert model._n_updates == 3 * 4


def test_more_epochs_learn_in_fewer_steps() -> None:
    """At a learning rate with which one update of each window is too little."""
    returns = []
    for n_epochs in (1, 8):
        model = make_model(BPTT, "CartPole-v1", n_steps=128, n_epochs=n_epochs, learning_rate=1e-3)
        model.learn(8_000)
        returns.append(np.mean([episode["r"] for episode in list(model.ep_info_buffer)[-20:]]))
    assert returns[1] > 2 * returns[0]


def test_training_in_parts_is_training_at_once() -> None:
    whole, parts = weights_at_once_and_in_parts(lambda: make_model(n_steps=8, n_envs=2, n_epochs=3), 160)
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize(
    ("algorithm", "rule", "arguments", "message"),
    [
        (NRL, "average", {"n_epochs": 2}, "n_epochs=2: must be 1 with a running average"),
        (RMHL, "average", {"n_epochs": 2}, "n_epochs=2: must be 1 with a running average"),
        (
            NRL,
            "critic",
            {"n_epochs": 2, "n_baseline_passes": 2},
            "n_epochs=2: must be 1 with a running average, n_base",
        ),
        (NRL, "critic", {"clip_range": -0.1}, "clip_range=-0.1: must be finite and not negative"),
        (NRL, "critic", {"clip_range": lambda progress: progress - 1}, "clip_range=.*: must be finite and not neg"),
        (
            *(NRL, "critic"),
            {"n_epochs": 2, "policy": "MlpLifPolicy", "policy_kwargs": {"encoding": "poisson"}},
            "n_epochs=2: must be 1 with .* Poisson spikes",
        ),
    ],
)
def test_arguments_are_refused_by_name(algorithm: Any, rule: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(algorithm, rule=rule, **arguments)
