"""Policies in NumPy and in PyTorch give the same results as each other and as Stable-Baselines3."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution, make_proba_distribution
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import nn

from sb3_nrl import BPTT, NRL, RMHL, ThreeFactorAlgorithm
from sb3_nrl.layers import Dense
from sb3_nrl.policies import NoisyMultiInputPolicy, NoisyPolicy
from tests.conftest import each_rule, make_model, weights
from tests.policies import (
    ACTION_SPACES,
    BOX,
    IMAGE,
    VECTOR,
    SmallCnn,
    batch,
    each_action_space,
    in_torch,
    make_policy,
    make_window,
    run_in_torch,
    tensors,
)

OBSERVATION_SPACES: dict[str, spaces.Space] = {
    "Box": VECTOR,
    "Box of two axes": spaces.Box(-9, 9, (2, 3), np.float64),
    "image": IMAGE,
    "Box of whole numbers": spaces.Box(-5, 5, (2, 2), np.int64),
    "Box of truth values": spaces.Box(0, 1, (4,), np.bool_),
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([2, 4, 3]),
    "MultiBinary": spaces.MultiBinary(4),
    "MultiBinary of two axes": spaces.MultiBinary([2, 3]),
    "Dict": spaces.Dict(
        z=VECTOR,
        a=spaces.Discrete(3),
        m=spaces.MultiDiscrete([2, 3]),
        b=spaces.MultiBinary(2),
        i=spaces.Box(0, 9, (2,), int),
    ),
}


class DoubleTanh(nn.Tanh):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return 2 * super().forward(x)


IN_NUMPY: dict[str, Any] = {
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "LeakyReLU": partial(nn.LeakyReLU, 0.1),
    "LeakyReLU, steep": partial(nn.LeakyReLU, 1.5),
    "Sigmoid": nn.Sigmoid,
}
IN_TORCH: dict[str, Any] = {"GELU": nn.GELU, "a subclass of Tanh": DoubleTanh}


def assert_same(one: Any, other: Any) -> None:
    """Arrays, tensors or nested lists of them that agree up to rounding."""
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        for part, other_part in zip(one, other, strict=True):
            assert_same(part, other_part)
    elif one is None:
        assert other is None
    else:
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-4, atol=1e-5)


@th.no_grad()
def expected(policy: Any, obs: Any) -> tuple[Distribution, th.Tensor]:
    """π and V, from Stable-Baselines3's preprocessing, extractors and distributions, and PyTorch's layers."""
    space = policy.observation_space
    extractor = (CombinedExtractor if isinstance(space, spaces.Dict) else FlattenExtractor)(space)
    features = extractor(preprocess_obs(tensors(obs), space))
    of_heads: list[Any] = []
    for network in policy.networks:
        x = features
        for layer in network.hidden:
            assert isinstance(layer, Dense)
            x = policy.activation_fn()(nn.functional.linear(x, layer.weight, layer.bias))
        head: Any = network.head
        linear = getattr(head, "mean", head)
        of_heads.append(nn.functional.linear(x, linear.weight, linear.bias))
    parameters, values = of_heads[:1], of_heads[1]
    if isinstance(policy.action_space, spaces.Box):
        parameters.append(policy.actor.head.log_std.weight[:, 0].expand_as(of_heads[0]))
    made: Any = make_proba_distribution(policy.action_space)
    return made.proba_distribution(*parameters), values


@th.no_grad()
def assert_engines_agree(policy: NoisyPolicy, in_numpy: bool = True) -> None:
    """Compare all methods of a policy that training and users call, for 4 steps of 3 environments."""
    assert policy.xp is (np if in_numpy else th)
    engines = (policy, in_torch(policy))
    obs, n_rows = batch(policy.observation_space, 12), 12
    draws = policy.action_dist.draw(np.random.default_rng(3), n_rows)
    noise = policy.noise.sample(1, n_rows, [part.n_nodes for part in policy.parts])  # type: ignore[union-attr]
    post = th.randn(2 * n_rows, policy.n_nodes)
    seen: list[Any] = []
    for engine in engines:
        acted = engine.act(obs, draws)
        noisy_acted = engine.act(obs, draws, engine.array(noise))
        passed = engine.noisy_pass(obs, acted[0], engine.array(th.cat((noise, 2 * noise))))
        sums = engine.outer(engine.array(post), passed.received, 3)
        assert sums.shape == (3, policy.n_weights)
        seen.append([acted[:2], noisy_acted[:2], engine.values(obs)[0], tuple(passed)[:3], sums])
    assert_same(seen[0], seen[1])
    (actions, log_probs), (noisy_actions, noisy_log_probs), values, (objectives, _, potentials), _ = seen[0]

    distribution, expected_values = expected(policy, obs)
    assert_same(values, expected_values[:, 0])
    assert_same(log_probs, distribution.log_prob(th.as_tensor(actions)))
    in_space = tensors(actions.reshape(n_rows, *policy.action_space.shape))  # type: ignore[misc]
    asked = policy.evaluate_actions(tensors(obs), in_space)
    assert_same(asked, (expected_values, distribution.log_prob(tensors(actions)), distribution.entropy()))
    of_policy = policy.get_distribution(tensors(obs))
    assert_same((of_policy.mode(), of_policy.log_prob(tensors(actions))), (distribution.mode(), tensors(log_probs)))
    mode, _, log_prob_of_mode = policy(tensors(obs), deterministic=True)
    assert_same((mode.flatten(1) if mode.ndim > 1 else mode), distribution.mode())
    assert_same(log_prob_of_mode, distribution.log_prob(distribution.mode()))

    # ξ has the effect that it should have.
    assert not np.allclose(log_probs, noisy_log_probs)
    assert_same(policy.noisy_pass(obs, noisy_actions, policy.array(noise)).objectives[0], noisy_log_probs)
    assert sum(part.shape[1] for part in potentials) == policy.n_nodes
    silent = policy.noisy_pass(obs, actions, policy.array(0 * noise)).objectives
    assert_same(silent, [log_probs, values])
    assert not np.allclose(objectives[1][:n_rows], values)


@pytest.mark.parametrize("observation_space", OBSERVATION_SPACES.values(), ids=OBSERVATION_SPACES)
@each_action_space
def test_engines_agree_in_every_space(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    policy_class = NoisyMultiInputPolicy if isinstance(observation_space, spaces.Dict) else NoisyPolicy
    assert_engines_agree(make_policy(observation_space, action_space, policy_class))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("action_space", [ACTION_SPACES["Discrete"], BOX], ids=["Discrete", "Box"])
@pytest.mark.parametrize("activation", [*IN_NUMPY, *IN_TORCH])
def test_engines_agree_for_every_activation(activation: str, action_space: spaces.Space, use_bias: bool) -> None:
    activation_fn = {**IN_NUMPY, **IN_TORCH}[activation]
    policy = make_policy(action_space=action_space, activation_fn=activation_fn, use_bias=use_bias)
    assert_engines_agree(policy, in_numpy=activation in IN_NUMPY)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("n_hidden", [0, 1, 3])
def test_engines_agree_at_every_depth(n_hidden: int, use_bias: bool) -> None:
    assert_engines_agree(make_policy(net_arch=[7] * n_hidden, use_bias=use_bias))


@pytest.mark.parametrize(
    "frozen", [["head"], ["hidden.0.weight"], ["bias"], ["log_std"], ["mean"], ["actor"], ["hidden"]]
)
def test_engines_agree_on_frozen_layers(frozen: list[str]) -> None:
    policy = make_policy(action_space=BOX)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen))
    policy.refresh()
    obs, noise = batch(VECTOR, 6), policy.sample_noise(6)
    seen = []
    for engine in (policy, in_torch(policy)):
        assert engine.n_weights == sum(p.numel() for p in policy.parameters() if p.requires_grad)
        passed = engine.noisy_pass(obs, np.ones((6, 2), np.float32), engine.array(noise))
        sums = engine.outer(engine.array(noise), passed.received, 2)
        assert sums.shape == (2, engine.n_weights)
        seen.append([engine.act(obs, np.ones((6, 2)), engine.array(noise)), tuple(passed), sums])
        assert sum(part.shape[1] for part in passed.potentials) == engine.n_nodes
    with th.no_grad():
        assert_same(seen[0], seen[1])


@pytest.mark.parametrize("activation", [*IN_NUMPY.values()], ids=IN_NUMPY)
def test_activations_are_those_of_pytorch_at_the_extremes_too(activation: Any) -> None:
    layer = Dense(1, 1, False, activation())
    x = np.array([[np.nan], [-1e4], [-1.0], [-1e-8], [0.0], [1e-8], [1.0], [1e4]], np.float32)
    wanted = activation()(th.as_tensor(x))
    one = layer.step(np, (np.ones((1, 1), np.float32),), x)[0]
    assert one.dtype == np.float32
    np.testing.assert_allclose(one, wanted, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(layer.step(th, (th.ones(1, 1),), th.as_tensor(x))[0], wanted, rtol=1e-6, atol=1e-7)


@each_action_space
def test_engines_agree_on_a_mean_of_noisy_passes(action_space: spaces.Space) -> None:
    """The same noise gives the same actions and values, which are not those of the clean pass."""
    policy = make_policy(action_space=action_space, n_baseline_passes=3)
    obs = batch(VECTOR, 9)
    draws = policy.action_dist.draw(np.random.default_rng(3), 9)
    seen: list[Any] = []
    for engine in (policy, in_torch(policy)):
        th.manual_seed(0)
        seen.append([engine.act(obs, draws)[:2], engine.values(obs)[0]])
    assert_same(*seen)
    clean, clean_values = expected(policy, obs)
    assert not np.allclose(clean_values[:, 0], seen[0][1])
    assert not np.allclose(clean.log_prob(th.as_tensor(seen[0][0][0])), seen[0][0][1])
    th.manual_seed(0)
    with th.no_grad():
        asked = policy.get_distribution(tensors(obs)).log_prob(th.as_tensor(seen[0][0][0]))
    assert_same(asked, seen[0][0][1])


ENGINES: list[Any] = [
    *((np, "MlpPolicy", space, {}) for name, space in OBSERVATION_SPACES.items() if name != "Dict"),
    (np, "MultiInputPolicy", OBSERVATION_SPACES["Dict"], {}),
    (th, "CnnPolicy", spaces.Box(0, 255, (1, 36, 36), np.uint8), {}),
    (th, "MultiInputPolicy", spaces.Dict(a=VECTOR, b=spaces.Box(0, 255, (1, 36, 36), np.uint8)), {}),
    (th, "MlpPolicy", IMAGE, {"features_extractor_class": SmallCnn, "features_extractor_kwargs": {}}),
    (np, "MlpPolicy", spaces.Box(0, 255, (1, 36, 36), np.uint8), {"normalize_images": False}),
]


@pytest.mark.parametrize(("xp", "policy", "space", "arguments"), ENGINES, ids=lambda value: str(value)[:40])
def test_numpy_is_used_where_it_can_be(xp: Any, policy: str, space: spaces.Space, arguments: dict[str, Any]) -> None:
    policy_class: Any = NRL.policy_aliases[policy]
    made = make_policy(space, spaces.MultiDiscrete([2, 3]), policy_class, net_arch=[4], **arguments)
    assert made.xp is xp
    assert isinstance(made.sample_noise(2), np.ndarray if xp is np else th.Tensor)


def test_images_stay_as_they_are_on_request() -> None:
    policy = make_policy(IMAGE, normalize_images=False)
    obs = batch(IMAGE, 3)
    features, _, _ = policy.actor.features.step(np, (), obs)
    np.testing.assert_array_equal(features, obs.reshape(3, -1))


@pytest.mark.parametrize("n_steps", [1, 16])
@pytest.mark.parametrize("torch", [False, True])
def test_rho_std_is_the_spread_of_rho(torch: bool, n_steps: int) -> None:
    model = make_model(NRL, n_noise_samples=1, antithetic=False, noise_std=0.3)
    policy, window = model.policy, make_window(model.policy, n_steps)
    if torch:
        run_in_torch(policy)
    with th.no_grad():
        th.manual_seed(0)
        eligibility, _ = model.rule.eligibility(policy, window, None)
        th.manual_seed(0)
        noisy = policy.noisy_pass(window.observations, window.actions, policy.sample_noise(n_steps))
    rho_B = policy.numpy(noisy.objectives[0]) - window.log_probs
    assert eligibility.diagnostics["rho_std"] == pytest.approx(np.sqrt(np.mean((rho_B - rho_B.mean()) ** 2)))


@each_rule
def test_training_gives_the_same_weights_in_both_engines(algorithm: type[ThreeFactorAlgorithm], rule: str) -> None:
    trained = []
    for move in (None, run_in_torch):
        model = make_model(algorithm, [5, 3, 8], rule, n_envs=2, n_steps=6, learning_rate=0.02)
        start = weights(model)
        if move is not None:
            move(model.policy)
        model.learn(60)
        trained.append(weights(model))
    assert np.abs(trained[0] - start).max() > 0.01
    np.testing.assert_allclose(trained[0], trained[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algorithm", [NRL, RMHL, BPTT])
def test_optimizers_change_what_numpy_sees(algorithm: type[ThreeFactorAlgorithm]) -> None:
    model = make_model(algorithm, learning_rate=0.05)
    obs = batch(model.observation_space, 4)
    before = model.policy.act(obs, np.full((4, 1), 0.5))[1]
    model.learn(40)
    actions, log_probs, _ = model.policy.act(obs, np.full((4, 1), 0.5))
    assert not np.allclose(before, log_probs)
    with th.no_grad():
        assert_same(log_probs, model.policy.get_distribution(tensors(obs)).log_prob(th.as_tensor(actions)))
