"""Weight perturbation: any layer with parameters learns, and held noise carries credit from window to window."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_nrl import BPTT, NRL, Noise, ThreeFactorAlgorithm
from sb3_nrl.bptt import ExactGradient
from sb3_nrl.layers import ForeignModule, Layer
from sb3_nrl.node_perturbation import NodePerturbation
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.recurrent_policies import CtrnnPolicy, RnnPolicy
from sb3_nrl.weight_perturbation import WeightPerturbation
from tests.conftest import make_model, weights
from tests.policies import IMAGE, VECTOR, make_policy
from tests.policies import make_window as make_feed_forward_window
from tests.test_gradient import cosine, exact, flat, split
from tests.test_recurrent import estimate, make_window, weights_of_steps


class Gated(nn.Module):
    """A user's own module, with a parameter that is no matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(th.full((5,), 0.3))

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x * th.sigmoid(5 * self.gate)


class LastOutput(nn.Module):
    """A recurrent layer that reads the entries of an observation one after the other."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.layer(x[..., None])[0][:, -1]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, x: th.Tensor) -> th.Tensor:
        tokens = th.stack([x, x**2], 2)
        return self.layer(tokens, tokens, tokens, need_weights=False)[0].flatten(1)


MODULES: dict[str, tuple[spaces.Space, Callable[[], nn.Module], int]] = {
    "LayerNorm": (VECTOR, lambda: nn.Sequential(nn.LayerNorm(5), nn.Tanh()), 5),
    "Embedding": (spaces.Discrete(4), lambda: nn.Sequential(OneHotToIndex(), nn.Embedding(4, 3)), 3),
    "GRU": (VECTOR, lambda: LastOutput(nn.GRU(1, 3, batch_first=True)), 3),
    "LSTM": (VECTOR, lambda: LastOutput(nn.LSTM(1, 2, batch_first=True)), 2),
    "transposed convolution": (IMAGE, lambda: nn.Sequential(Reduced(), nn.ConvTranspose2d(2, 1, 2)), 16),
    "convolution over time": (VECTOR, lambda: nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3)), 6),
    "a module of one's own": (VECTOR, Gated, 5),
    "PReLU": (VECTOR, lambda: nn.Sequential(nn.Linear(5, 3), nn.PReLU(3)), 3),
    "bilinear layer": (VECTOR, lambda: Squared(nn.Bilinear(5, 5, 2)), 2),
    "group normalization": (VECTOR, lambda: nn.Sequential(nn.Linear(5, 4), nn.GroupNorm(2, 4)), 4),
    "attention": (VECTOR, Attention, 10),
    "convolutions": (IMAGE, lambda: nn.Sequential(nn.Conv2d(2, 2, 4, 2), nn.Tanh(), nn.Conv2d(2, 1, 2)), 4),
}


class OneHotToIndex(nn.Module):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return x.argmax(1)


class Reduced(nn.Module):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 3)


class Squared(nn.Module):
    def __init__(self, layer: nn.Bilinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.layer(x, x)


class ExtractorOf(BaseFeaturesExtractor):
    """A features extractor around any module."""

    def __init__(self, observation_space: spaces.Space, make: Callable[[], nn.Module], features_dim: int) -> None:
        super().__init__(observation_space, features_dim)
        self.module = make()

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.module(observations).flatten(1)


def extractor_of(make: Callable[[], nn.Module], features_dim: int) -> dict[str, Any]:
    """Arguments of a policy with a features extractor around a module."""
    return {
        "features_extractor_class": ExtractorOf,
        "features_extractor_kwargs": {"make": make, "features_dim": features_dim},
    }


NORMALIZED = {**extractor_of(lambda: nn.LayerNorm(4), 4), "head_gain": 1.0}
"""Arguments of a policy whose features extractor is one that node perturbation does not reach."""
AS_WEIGHTS: dict[Any, dict[str, Any]] = {NRL: {"perturbation": "weight"}, BPTT: {}}
"""Arguments with which an algorithm trains it."""


@pytest.mark.parametrize("name", MODULES)
def test_any_layer_with_parameters_learns(name: str) -> None:
    """The expected eligibility of every parameter is its gradient, by noise and by BPTT."""
    space, make, features_dim = MODULES[name]
    extractor = extractor_of(make, features_dim)
    policy = make_policy(space, net_arch=[], critic=False, perturbs="weight", **extractor)
    window = make_feed_forward_window(policy, 6)
    expected = exact(policy, window)
    learned = {key for key, gradient in expected.items() if gradient.abs().max() > 0}
    assert any("features" in key for key in learned)
    ones_TE = np.ones((6, 1))
    th.manual_seed(0)
    rounds = th.stack([estimate(policy, window, WeightPerturbation(Noise(1e-2), 200), ones_TE) for _ in range(20)])
    wanted, errors = flat(expected).double(), rounds.std(0) / 20**0.5
    found = rounds.mean(0)
    assert ((found - wanted).abs() < 6 * errors + 1e-3).all()
    assert cosine(found, wanted) > 0.96
    assert (found @ wanted / (wanted @ wanted)).item() == pytest.approx(1, abs=0.06)

    policy.perturbs = "any"
    policy.refresh()
    th.testing.assert_close(
        split(policy, estimate(policy, window, ExactGradient(), ones_TE).float()), expected, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("algorithm", [NRL, BPTT])
def test_an_extractor_that_node_perturbation_refuses_is_trained(algorithm: Any) -> None:
    model = make_model(algorithm, n_envs=2, policy_kwargs=NORMALIZED, learning_rate=0.05, **AS_WEIGHTS[algorithm])
    before = weights(model)
    model.learn(200)
    assert (weights(model) != before).all()
    if algorithm is NRL:
        with pytest.raises(ValueError, match=r'would never learn.*perturbation="weight"'):
            make_model(NRL, policy_kwargs=NORMALIZED)


class Normalized(NoisyPolicy):
    """A policy with a hidden LayerNorm, after a layer that gets noise of its own."""

    def make_hidden_layers(self, n_inputs: int, widths: Sequence[int], is_critic: bool) -> list[Layer]:
        norm = ForeignModule(nn.LayerNorm(widths[-1]), lambda x: x, th.randn(3, widths[-1]))
        return [*super().make_hidden_layers(n_inputs, widths, is_critic), norm]


@pytest.mark.parametrize("rank", ["one", "full"])
def test_a_hidden_module_learns(rank: Any) -> None:
    policy = make_policy(policy_class=Normalized, net_arch=[4], critic=False, perturbs="weight")
    window = make_feed_forward_window(policy, 6)
    wanted = flat(exact(policy, window)).double()
    th.manual_seed(0)
    rule = WeightPerturbation(Noise(1e-2), 500, rank=rank)
    found = th.stack([estimate(policy, window, rule, np.ones((6, 1))) for _ in range(20)]).mean(0)
    assert cosine(found, wanted) > 0.97
    assert (found @ wanted / (wanted @ wanted)).item() == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpRnnPolicy"])
def test_an_extractor_without_parameters_needs_no_noise(policy: str) -> None:
    """It trains as the extractor that it equals."""
    found = []
    for more in ({}, extractor_of(nn.Flatten, 4)):
        model = make_model(NRL, "CartPole-v1", policy=policy, perturbation="weight", policy_kwargs=more)
        found.append(weights(model.learn(200)))
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


@pytest.mark.parametrize("algorithm", [NRL, BPTT])
def test_a_module_that_learns_alone_is_trained(algorithm: Any) -> None:
    model = make_model(algorithm, policy_kwargs=NORMALIZED, **AS_WEIGHTS[algorithm])
    for name, parameter in model.policy.named_parameters():
        parameter.requires_grad_("features" in name)
    before = model.policy.parameters_to_vector()
    after = model.learn(200).policy.parameters_to_vector()
    assert (before != after).sum() == len(weights(model)) == 2 * 2 * 4  # scale and shift, in actor and critic


# Arguments


@pytest.mark.parametrize("loaded", [False, True])
def test_the_kind_of_perturbation_cannot_change(loaded: bool, tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(ValueError, match="perturbation='weight': must be 'node', as it was when the model was made"):
        if loaded:
            model.save(tmp_path / "model")
            NRL.load(tmp_path / "model", env=model.env, perturbation="weight")
        else:
            model.perturbation = "weight"
            model.refresh()


def test_the_number_of_noise_samples_of_a_rule_can_change() -> None:
    env = make_vec_env("CartPole-v1", 1, seed=0)
    rule = WeightPerturbation(Noise(0.01), n_noise_samples=2)
    model = ThreeFactorAlgorithm("MlpPolicy", env, rule=rule, seed=0, device="cpu").learn(64)
    rule.n_noise_samples, rule.antithetic = 3, False
    before = weights(model)
    model.learn(64, reset_num_timesteps=False)
    assert (weights(model) != before).any()


@pytest.mark.parametrize("kind", [NodePerturbation, WeightPerturbation])
def test_rare_noise_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"probability of the noise=0\.5: must be 1"):
        ThreeFactorAlgorithm("MlpPolicy", "CartPole-v1", rule=kind(Noise(0.01, probability=0.5)))


@pytest.mark.parametrize(
    "arguments", [{"perturbation": "weight"}, {"policy": "MlpRnnPolicy"}, {"policy": "MlpLifPolicy"}]
)
def test_baseline_passes_are_of_smooth_networks_with_noise_on_nodes(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="n_baseline_passes=3: must be None with recurrent or spiking policies, and"):
        make_model(n_baseline_passes=3, **arguments)


# Noise that lasts


@pytest.mark.parametrize("rank", ["one", "full"])
@pytest.mark.parametrize("policy_class", [RnnPolicy, CtrnnPolicy])
def test_short_windows_give_the_update_of_a_long_one(policy_class: Any, rank: Any) -> None:
    """With noise held over all of them, windows of 4 steps give what one of 32 does, and others do not."""
    policy = make_policy(policy_class=policy_class, net_arch=[4])
    starts_TE = np.random.default_rng(5).random((32, 2)) < 0.1
    window = make_window(policy, 32, 2, starts_TE)
    weights_TE = weights_of_steps(32, 2)

    def total(hold: int, n_steps: int) -> Any:
        th.manual_seed(0)
        rule = WeightPerturbation(Noise(0.1), 3, rank=rank, hold=hold)
        carry, states, sums = None, window.states, th.zeros(policy.n_weights)
        for steps, piece in window.batches(n_steps):
            piece = piece._replace(states=states)
            eligibility, carry = rule.eligibility(policy, piece, carry)
            sums = sums + th.as_tensor(eligibility.weighted_sum(weights_TE[steps]))
            states = policy.noisy_pass(piece.observations, piece.actions, None, None, states, piece.starts_TE).states
        return sums

    long = total(32, 32)
    th.testing.assert_close(total(32, 4), long, rtol=1e-3, atol=1e-3)
    assert (total(4, 4) - long).abs().max() > 0.1


def test_noise_is_held_no_longer_than_asked() -> None:
    policy = make_policy(policy_class=RnnPolicy, net_arch=[4])
    window = make_window(policy, 4, 2, np.zeros((4, 2), bool))
    rule, carry, seen = WeightPerturbation(Noise(0.1), 2, hold=11), None, []
    for _ in range(5):
        _, carry = rule.eligibility(policy, window, carry)
        seen.append(carry.noise[0].rank_one.post)
    assert [one is other for one, other in pairwise(seen)] == [True, False, True, False]


@pytest.mark.parametrize(
    ("name", "value"),
    [("noise_std", 0.1), ("n_noise_samples", 8), ("antithetic", False), ("noise_rank", "full"), ("noise_hold", 20)],
)
def test_changed_arguments_end_noise_that_lasts(name: str, value: Any) -> None:
    """Noise of the old arguments would be too little, or of other copies."""
    found = []
    for dropped in (False, True):
        model = make_model(policy="MlpRnnPolicy", n_steps=8, n_noise_samples=4, policy_kwargs={"net_arch": [4]})
        model.learn(8)
        assert model._carry is not None
        setattr(model, name, value)
        if dropped:
            model._carry = None
        model.learn(16, reset_num_timesteps=False)
        found.append(weights(model))
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("hold", [1, 3, 100])
def test_feed_forward_noise_is_shared_by_the_steps_that_hold_it(hold: int) -> None:
    """Eligibilities are Σ_k ρ_k b_k ⊗ a_k with the noise of their group of steps, as a pass for each step says."""
    policy = make_policy(net_arch=[4], critic=False, perturbs="weight")
    window = make_feed_forward_window(policy, 7, 2)
    rule = WeightPerturbation(Noise(0.1), 2, hold=hold)
    eligibility: Any
    eligibility, carry = rule.eligibility(policy, window, None)
    assert carry is None
    post, pre = eligibility.noise[0].rank_one
    assert post.shape[1] == -(-7 // min(hold, 7))
    layer, head = policy.actor.hidden[0], policy.actor.head
    for t, env in [(0, 0), (4, 1), (6, 0)]:
        expected = th.zeros(4, 5)
        for k in range(2):
            b, a = (th.as_tensor(part[k, t // hold, env]) for part in (post, pre))
            log_probs = []
            for sign in (1, -1):
                x = th.as_tensor(window.observations[2 * t + env])
                for place, dense, nodes, inputs in (
                    (0, layer, slice(0, 4), slice(0, 6)),
                    (1, head, slice(4, 7), slice(6, 11)),
                ):
                    delta = sign * th.outer(b[nodes], a[inputs])
                    x = (dense.weight + delta[:, :-1]) @ x + dense.bias + delta[:, -1]
                    x = x.tanh() if place == 0 else x
                log_probs.append(x.log_softmax(0)[int(window.actions[2 * t + env])].item())
            rho = (log_probs[0] - log_probs[1]) / 2
            expected = expected + rho / 2 / 0.1**2 * th.outer(b[:4], a[:5])
        one_TE = np.zeros((7, 2))
        one_TE[t, env] = 1
        found = split(policy, eligibility.weighted_sum(one_TE))["actor.hidden.0.weight"]
        th.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("rank", "factor"), [("one", (6 + 2) * (3 + 2) - 1), ("full", 6 * 3 + 1)])
def test_variance_is_that_of_theory(rank: Any, factor: float) -> None:
    """
    An antithetic sample of Gaussian noise on a matrix with I inputs and O outputs, whose gradient is G, has the
    variance |G|² (I O + 1) with noise of full rank, and |G|² ((I + 2) (O + 2) − 1) with noise of rank one.
    """
    policy = make_policy(spaces.Box(-1, 1, (6,)), spaces.Box(-1, 1, (3,)), net_arch=[], critic=False, use_bias=False)
    policy.actor.head.log_std.weight.requires_grad_(False)
    policy.perturbs = "weight"
    policy.refresh()
    window = make_feed_forward_window(policy, 1)
    gradient, one_TE = flat(exact(policy, window)).double(), np.ones((1, 1))
    rule = WeightPerturbation(Noise(1e-2), 1, rank=rank)
    th.manual_seed(0)
    deviations = th.stack([estimate(policy, window, rule, one_TE) for _ in range(8000)]) - gradient
    variance = deviations.square().sum(1).mean()
    assert (variance / (gradient @ gradient)).item() == pytest.approx(factor, rel=0.1)
