"""Layers of one's own and of others: credit is right, or there is an error that says what to do."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_nrl import BPTT, NRL, ThreeFactorAlgorithm
from sb3_nrl.layers import Dense
from sb3_nrl.policies import NoisyPolicy
from tests.conftest import each_algorithm, each_rule, make_model
from tests.policies import BOX, VECTOR, batch, in_torch, make_policy, names, tensors


class Extractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, features_dim=4)
        self.first = nn.Linear(spaces.flatdim(observation_space), 4)
        self.second: nn.Module = nn.Linear(4, 4)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(x))


class OverwritesInput(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        hidden = self.first(x).tanh()
        y = self.second(hidden)
        hidden += y
        return hidden


class BatchSecond(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(x).expand(3, len(x), 4)).mean(0)


class BatchSecondOfTwo(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(x).expand(2, len(x), 4)).mean(0)


class MixesRows(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        y = self.second(self.first(x))
        return y - y.mean(0)


class CentresRows(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(x - x.mean(0)))


class ScalesAndMixesRows(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        y = self.second(self.first(x / x.norm(dim=1, keepdim=True)))
        return y - y.mean(0)


class SaturatesAndMixesRows(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(x - 0.1 * x.mean(0)).tanh())


class DrawsRandomNumbers(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(nn.functional.dropout(self.first(x), 0.5))


class KeepsAState(Extractor):
    calls = 0

    def forward(self, x: th.Tensor) -> th.Tensor:
        self.calls += 1
        return self.second(self.first(x)) + self.calls


class NeverCallsOne(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.first(x)


class CallsByName(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(input=self.first(x))


class Centred(nn.Linear):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return nn.functional.linear(x, self.weight - self.weight.mean(), self.bias)


class OfAnotherLayer(Extractor):
    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space)
        self.second = self.replace(nn.Linear(4, 4))

    def replace(self, layer: nn.Linear) -> nn.Module:
        return Centred(4, 4)


class OfLayerNorm(OfAnotherLayer):
    def replace(self, layer: nn.Linear) -> nn.Module:
        return nn.LayerNorm(4)


class WithSpectralNorm(OfAnotherLayer):
    def replace(self, layer: nn.Linear) -> nn.Linear:
        return nn.utils.spectral_norm(layer)


class WithForwardOfItsOwn(OfAnotherLayer):
    def replace(self, layer: nn.Linear) -> nn.Linear:
        layer.forward = lambda x: nn.functional.linear(x, -layer.weight)  # type: ignore[assignment, method-assign]
        return layer


class WithParameterOfItsOwn(OfAnotherLayer):
    def replace(self, layer: nn.Linear) -> nn.Linear:
        layer.gain = nn.Parameter(th.ones(4))
        return layer


class StandardisedConvolution(nn.Conv2d):
    def _conv_forward(self, x: th.Tensor, weight: th.Tensor, bias: th.Tensor | None) -> th.Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Convolves(Extractor):
    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space)
        self.convolution = StandardisedConvolution(1, 1, 1)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(self.convolution(x[:, None, None])[:, 0, 0]))


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        (OverwritesInput, "second' received is overwritten in place"),
        (BatchSecond, "mixes the rows"),
        (BatchSecondOfTwo, "second' must be called with one positional argument, the batch first"),
        (MixesRows, "mixes the rows"),
        (CentresRows, "mixes the rows"),
        (ScalesAndMixesRows, "mixes the rows"),
        (SaturatesAndMixesRows, "mixes the rows"),
        (DrawsRandomNumbers, "draws random numbers"),
        (KeepsAState, "keeps a state between calls"),
        (NeverCallsOne, r"'second\.weight' of NeverCallsOne would never learn"),
        (OfAnotherLayer, r"'second\.weight' of OfAnotherLayer would never learn: .*\(Centred\)"),
        (OfLayerNorm, r"'second\.weight' of OfLayerNorm would never learn: .*\(LayerNorm\)"),
        (WithSpectralNorm, r"second\.bias' of WithSpectralNorm would never learn"),
        (WithForwardOfItsOwn, r"second\.weight' of .* would never learn: .*\(Linear\) is none of them"),
        (WithParameterOfItsOwn, r"second\.gain' of .* would never learn|second\.weight' of .* would never learn"),
        (Convolves, r"convolution\.weight' of .* would never learn: .*\(StandardisedConvolution\)"),
        (CallsByName, "second' must be called with one positional argument"),
    ],
)
def test_modules_whose_credit_would_be_wrong_are_refused(extractor: type[Extractor], message: str) -> None:
    for seed in range(5):
        with pytest.raises(ValueError, match=message):
            make_policy(features_extractor_class=extractor, seed=seed)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(2),
        spaces.Discrete(3),
        spaces.MultiBinary(1),
        spaces.Box(1e4, 1e5, (2,)),
        spaces.Box(-3e38, 3e38, (2,), np.float64),
    ],
    ids=str,
)
def test_mixed_rows_are_noticed_in_small_spaces_too(space: spaces.Space) -> None:
    with pytest.raises(ValueError, match="mixes the rows"):
        make_policy(space, features_extractor_class=CentresRows)


class DividesByZero(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(x / x.norm(dim=1, keepdim=True)))


def snapshot(policy: nn.Module) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in policy.state_dict().items()}


def changed(policy: nn.Module, before: dict[str, th.Tensor]) -> set[str]:
    return {name for name, value in policy.state_dict().items() if not value.equal(before[name])}


def test_a_module_may_be_undefined_at_zero() -> None:
    model = make_model(NRL, policy_kwargs={"features_extractor_class": DividesByZero}, learning_rate=0.05)
    before = snapshot(model.policy)
    model.learn(40)
    assert changed(model.policy, before) == set(before)


@pytest.mark.parametrize("extractor", [OfAnotherLayer, OfLayerNorm, NeverCallsOne])
@each_rule
def test_what_cannot_learn_may_be_frozen(algorithm: type[ThreeFactorAlgorithm], rule: str, extractor: Any) -> None:
    """The first layer learns through the frozen one, the frozen one stays."""

    class Frozen(extractor):
        def __init__(self, observation_space: spaces.Space) -> None:
            super().__init__(observation_space)
            self.second.requires_grad_(False)

    kwargs = {"features_extractor_class": Frozen, "head_gain": 1.0}
    model = make_model(algorithm, rule=rule, policy_kwargs=kwargs, learning_rate=0.05)
    before = snapshot(model.policy)
    model.learn(60)
    assert changed(model.policy, before) == {name for name in before if "second" not in name}


# Frozen layers


@pytest.mark.parametrize("torch", [False, True], ids=["NumPy", "PyTorch"])
@pytest.mark.parametrize(
    ("frozen", "n_nodes"),
    [
        ([], 6 + 5 + 2 + 2),
        (["hidden.0"], 5 + 2 + 2),
        (["hidden.0.weight"], 6 + 5 + 2 + 2),
        (["hidden.0.bias", "hidden.1"], 6 + 2 + 2),
        (["log_std"], 6 + 5 + 2),
        (["mean"], 6 + 5 + 2),
        (["head"], 6 + 5),
    ],
    ids=str,
)
def test_frozen_layers_have_no_nodes_and_give_no_sums(frozen: list[str], n_nodes: int, torch: bool) -> None:
    """A layer has nodes if its weights or its biases learn. The sums are gradients of the layers' Σ post · h."""
    policy = make_policy(action_space=BOX, critic=False)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen))
    policy.refresh()
    policy = in_torch(policy) if torch else policy
    assert policy.n_nodes == n_nodes
    of = names(policy)
    learning = [name for name in of.values() if not any(part in name for part in frozen)]
    assert [of[parameter] for parameter in policy.learnable] == learning
    assert policy.sample_noise(4).shape == (4, n_nodes)

    obs, actions, post = batch(VECTOR, 8), np.ones((8, 2), np.float32), th.randn(8, n_nodes)
    with th.no_grad():
        received = policy.noisy_pass(obs, actions, policy.array(th.zeros(8, n_nodes))).received
        sums_EW = policy.outer(policy.array(post), received, 2)
    head: Any = policy.actor.head
    layers = [layer for layer in (*policy.actor.hidden, head.mean, head.log_std) if layer.n_nodes > 0]
    potentials = policy.noisy_pass(obs, actions, th.zeros(8, n_nodes), th).potentials
    posts = post.split([layer.n_nodes for layer in layers], dim=1)
    for env in range(2):
        rows = th.arange(8) % 2 == env
        gradients: list[th.Tensor] = []
        for layer, h, post_of_layer in zip(layers, potentials, posts, strict=True):
            objective = (h * post_of_layer)[rows].sum()
            gradients += th.autograd.grad(objective, layer.learnable(), retain_graph=True)
        wanted = th.cat([gradient.flatten() for gradient in gradients])
        np.testing.assert_allclose(sums_EW[env], wanted, rtol=1e-4, atol=1e-5)


@each_rule
def test_layers_frozen_later_stay_as_they_are(algorithm: type[ThreeFactorAlgorithm], rule: str) -> None:
    model = make_model(algorithm, rule=rule, learning_rate=0.05)
    model.learn(40)
    model.policy.actor.hidden[0].weight.requires_grad_(False)
    before = snapshot(model.policy)
    model.learn(40)
    assert changed(model.policy, before) == set(before) - {"actor.hidden.0.weight"}


@pytest.mark.parametrize(
    ("algorithm", "settings"), [(NRL, {}), (NRL, {"noise_distribution": "orthogonal"}), (BPTT, {})]
)
@pytest.mark.parametrize("of_critic", [False, True], ids=["actor", "critic"])
def test_a_whole_network_can_be_frozen(algorithm: Any, settings: dict[str, Any], of_critic: bool) -> None:
    model = make_model(algorithm, learning_rate=0.05, **settings)
    model.policy.networks[of_critic].requires_grad_(False)
    before = snapshot(model.policy)
    model.learn(64)
    assert changed(model.policy, before) == {name for name in before if name.startswith("critic") != of_critic}


def test_nothing_left_to_learn_is_refused() -> None:
    policy = make_policy()
    policy.requires_grad_(False)
    with pytest.raises(ValueError, match="Nothing is left to learn"):
        policy.refresh()


# Layers of both networks


class Given(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Space, net: nn.Module) -> None:
        super().__init__(observation_space, features_dim=8)
        self.net = net

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.net(x)


def test_actor_and_critic_must_not_share_layers() -> None:
    given: dict[str, Any] = {"features_extractor_class": Given, "features_extractor_kwargs": {"net": nn.Linear(5, 8)}}
    with pytest.raises(ValueError, match="Actor and critic must not share layers"):
        make_policy(**given)
    policy = make_policy()
    assert policy.critic is not None
    policy.critic.hidden = policy.actor.hidden
    with pytest.raises(ValueError, match="Actor and critic must not share layers"):
        policy.refresh()
    tied = make_policy(net_arch=[5, 5])
    tied.actor.hidden[1].weight = tied.actor.hidden[0].weight
    with pytest.raises(ValueError, match="nor two layers a parameter"):
        tied.refresh()


def test_actor_and_critic_may_share_what_does_not_learn() -> None:
    frozen = nn.Linear(4, 8).requires_grad_(False)
    given: dict[str, Any] = {"features_extractor_class": Given, "features_extractor_kwargs": {"net": frozen}}
    model = make_model(NRL, policy_kwargs=given)
    before = snapshot(model.policy)
    model.learn(64)
    assert changed(model.policy, before) == {name for name in before if "features" not in name}


def test_actor_and_critic_have_features_extractors_of_their_own() -> None:
    policy = make_policy(features_extractor_class=Extractor)
    obs = tensors(batch(VECTOR, 4))
    values, (_, _, log_probs) = policy.predict_values(obs), policy(obs, deterministic=True)
    with th.no_grad():
        for parameter in policy.actor.features.parameters():
            parameter.zero_()
    assert policy.predict_values(obs).equal(values)
    assert not policy(obs, deterministic=True)[2].equal(log_probs)


# Layers of one's own


def test_noise_enters_every_node_as_given() -> None:
    """A noisy pass is the clean one with ξ added to the pre-activations, layer by layer."""
    policy = make_policy(net_arch=[4, 3], critic=False)
    th.manual_seed(0)
    x, noise, actions = th.randn(2, 5), th.randn(2, 10), th.tensor([0, 2])
    (first, second), head = policy.actor.hidden, policy.actor.head
    with th.no_grad():
        h1 = nn.functional.linear(x, first.weight, first.bias) + noise[:, :4]
        h2 = nn.functional.linear(h1.tanh(), second.weight, second.bias) + noise[:, 4:7]
        outputs = nn.functional.linear(h2.tanh(), head.weight, head.bias) + noise[:, 7:]
        passed = policy.noisy_pass(x.numpy(), actions.numpy(), noise.numpy())
    np.testing.assert_allclose(passed.objectives[0], outputs.log_softmax(1)[th.arange(2), actions], rtol=1e-5)
    for received, expected in zip(passed.received[1:], (x, h1.tanh(), h2.tanh()), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-6)
    for potentials, expected in zip(passed.potentials, (h1, h2, outputs), strict=True):
        np.testing.assert_allclose(potentials, expected, rtol=1e-4, atol=1e-6)


class Squared(Dense):
    """A layer of squared inputs, whose outputs are doubled."""

    def step(self, xp: Any, parameters: Any, x: Any, noise_BN: Any = None) -> Any:
        output, received, potentials = super().step(xp, parameters, x * x, noise_BN)
        return 2 * output, received, potentials


class OfSquares(NoisyPolicy):
    def make_layer(self, n_inputs: int, n_outputs: int, activation: nn.Module | None) -> Dense:
        return (Dense if activation is None else Squared)(n_inputs, n_outputs, self.use_bias, activation)


def test_a_step_of_your_own_is_taken_by_both_engines() -> None:
    policy = make_policy(policy_class=OfSquares, net_arch=[6], action_space=BOX)
    assert policy.xp is np
    obs, draws = batch(VECTOR, 4), np.ones((4, 2), np.float32)
    hidden, head = policy.actor.hidden[0], policy.actor.head
    assert isinstance(hidden, Squared)
    with th.no_grad():
        x = 2 * nn.functional.linear(th.as_tensor(obs) ** 2, hidden.weight, hidden.bias).tanh()
        mean = nn.functional.linear(x, head.mean.weight, head.mean.bias)
        for engine in (policy, in_torch(policy)):
            np.testing.assert_allclose(engine.act(obs, draws)[0], mean + 1, rtol=1e-5, atol=1e-5)
            passed = engine.noisy_pass(obs, mean.numpy(), engine.array(th.zeros(4, engine.n_nodes)))
            np.testing.assert_allclose(passed.received[1], obs**2, rtol=1e-5)
        th.testing.assert_close(policy(th.as_tensor(obs), deterministic=True)[0], mean)


class ClampedDense(Dense):
    """Says that NumPy cannot run it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.runs_in_numpy = False  # type: ignore[misc]

    def step(self, xp: Any, parameters: Any, x: Any, noise_BN: Any = None) -> Any:
        assert xp is th
        output, received, potentials = super().step(xp, parameters, x, noise_BN)
        return output.clamp(-0.1, 0.1), received, potentials


class Clamped(NoisyPolicy):
    def make_layer(self, n_inputs: int, n_outputs: int, activation: nn.Module | None) -> Dense:
        return (Dense if activation is None else ClampedDense)(n_inputs, n_outputs, self.use_bias, activation)


@each_algorithm
def test_a_layer_that_numpy_cannot_run_is_run_by_pytorch(algorithm: type[ThreeFactorAlgorithm]) -> None:
    model = make_model(algorithm, policy=Clamped, learning_rate=0.05)
    before = snapshot(model.policy)
    model.learn(60)
    assert model.policy.xp is th
    assert changed(model.policy, before) == set(before)


class WithGain(Dense):
    """Has a parameter that ``outer`` gives no sum for."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gain = nn.Parameter(th.ones(1))


class OfGains(NoisyPolicy):
    def make_layer(self, n_inputs: int, n_outputs: int, activation: nn.Module | None) -> Dense:
        return WithGain(n_inputs, n_outputs, self.use_bias, activation)


def test_a_parameter_that_gets_no_sum_is_refused() -> None:
    for action_space in (BOX, spaces.Discrete(3)):
        with pytest.raises(ValueError, match=r"'actor\.hidden\.0\.gain' would never learn: no layer of actor"):
            make_policy(policy_class=OfGains, action_space=action_space)
