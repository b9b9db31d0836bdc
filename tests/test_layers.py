"""Layers of users: their eligibilities are correct, or there is an error that says what to do."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_nrl import BPTT, NRL, ThreeFactorAlgorithm
from sb3_nrl.layers import Dense
from sb3_nrl.policies import NoisyPolicy
from tests.conftest import each_algorithm, each_rule, make_model
from tests.policies import BOX, VECTOR, batch, in_torch, make_policy, names, tensors


class Centred(nn.Linear):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return nn.functional.linear(x, self.weight - self.weight.mean(), self.bias)


class StandardisedConvolution(nn.Conv2d):
    def _conv_forward(self, x: th.Tensor, weight: th.Tensor, bias: th.Tensor | None) -> th.Tensor:
        return super()._conv_forward(x[:, :, None, None], weight - weight.mean(), bias)[:, :, 0, 0]


class Extractor(BaseFeaturesExtractor):
    """Two linear layers, unless one replaces the second, or computes something else with both."""

    def __init__(self, observation_space: spaces.Space, compute: Any = None, second: Any = None) -> None:
        super().__init__(observation_space, features_dim=4)
        self.first = nn.Linear(spaces.flatdim(observation_space), 4)
        self.second: Any = (second or nn.Linear)(4, 4)
        self.compute = compute or (lambda first, second, x: second(first(x)))

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.compute(self.first, self.second, x)


def overwrite_input(first: Any, second: Any, x: th.Tensor) -> th.Tensor:
    hidden = first(x).tanh()
    y = second(hidden)
    hidden += y
    return hidden


def keep_a_state(first: Any, second: Any, x: th.Tensor) -> th.Tensor:
    first.calls = getattr(first, "calls", 0) + 1
    return second(first(x)) + first.calls


def centre_output(first: Any, second: Any, x: th.Tensor) -> th.Tensor:
    y = second(first(x / x.norm(dim=1, keepdim=True)))
    return y - y.mean(0)


def with_forward_of_its_own(n_inputs: int, n_outputs: int) -> nn.Linear:
    layer = nn.Linear(n_inputs, n_outputs)
    layer.forward = lambda x: nn.functional.linear(x, -layer.weight)  # type: ignore[assignment, method-assign]
    return layer


def with_parameter_of_its_own(n_inputs: int, n_outputs: int) -> nn.Linear:
    layer = nn.Linear(n_inputs, n_outputs)
    layer.gain = nn.Parameter(th.ones(n_outputs))
    return layer


NEVER = "' of Extractor would never learn: .*"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "overwrites an input": ({"compute": overwrite_input}, "second' is overwritten in place"),
    "keeps a state": (
        {"compute": keep_a_state},
        r"keeps a state between calls.*A policy with memory is a recurrent one",
    ),
    "draws random numbers": (
        {"compute": lambda first, second, x: second(nn.functional.dropout(first(x), 0.5))},
        "draws random numbers",
    ),
    "mixes rows of the output": ({"compute": centre_output}, "mixes the rows"),
    "mixes rows of the input": ({"compute": lambda first, second, x: second(first(x - x.mean(0)))}, "mixes the rows"),
    "mixes rows a little": (
        {"compute": lambda first, second, x: second(first(x - 0.1 * x.mean(0)).tanh())},
        "mixes the rows",
    ),
    "has the batch second": (
        {"compute": lambda first, second, x: second(first(x).expand(3, len(x), 4)).mean(0)},
        "mixes the rows",
    ),
    "has the batch second, of two": (
        {"compute": lambda first, second, x: second(first(x).expand(2, len(x), 4)).mean(0)},
        "second' must be called with one positional argument, the batch first",
    ),
    "calls by name": (
        {"compute": lambda first, second, x: second(input=first(x))},
        "second' must be called with one positional argument",
    ),
    "never calls a layer": ({"compute": lambda first, second, x: first(x)}, "'second.weight" + NEVER),
    "a subclass of Linear": ({"second": Centred}, rf"'second.weight{NEVER}\(Centred\)"),
    "a subclass of Conv2d": (
        {"second": lambda n, m: StandardisedConvolution(n, m, 1)},
        rf"'second.weight{NEVER}\(StandardisedConvolution\)",
    ),
    "another kind of layer": ({"second": lambda n, m: nn.LayerNorm(n)}, rf"'second.weight{NEVER}\(LayerNorm\)"),
    "spectral norm": ({"second": lambda n, m: nn.utils.spectral_norm(nn.Linear(n, m))}, "'second.bias" + NEVER),
    "a forward of its own": ({"second": with_forward_of_its_own}, rf"'second.weight{NEVER}\(Linear\) is none of them"),
    "a parameter of its own": ({"second": with_parameter_of_its_own}, rf"'second.weight{NEVER}\(Linear\)"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_modules_whose_credit_would_be_wrong_are_refused(arguments: dict[str, Any], message: str) -> None:
    for seed in range(5):
        with pytest.raises(ValueError, match=message):
            make_policy(features_extractor_class=Extractor, features_extractor_kwargs=arguments, seed=seed)


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
    arguments = REFUSED["mixes rows of the input"][0]
    with pytest.raises(ValueError, match="mixes the rows"):
        make_policy(space, features_extractor_class=Extractor, features_extractor_kwargs=arguments)


def snapshot(policy: nn.Module) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in policy.state_dict().items()}


def changed(policy: nn.Module, before: dict[str, th.Tensor]) -> set[str]:
    return {name for name, value in policy.state_dict().items() if not value.equal(before[name])}


def test_a_module_may_be_undefined_at_zero() -> None:
    arguments = {"compute": lambda first, second, x: second(first(x / x.norm(dim=1, keepdim=True)))}
    kwargs = {"features_extractor_class": Extractor, "features_extractor_kwargs": arguments}
    model = make_model(NRL, policy_kwargs=kwargs, learning_rate=0.05)
    before = snapshot(model.policy)
    model.learn(40)
    assert changed(model.policy, before) == set(before)


@pytest.mark.parametrize("reason", ["a subclass of Linear", "another kind of layer", "never calls a layer"])
@each_rule
def test_what_cannot_learn_may_be_frozen(algorithm: type[ThreeFactorAlgorithm], rule: str, reason: str) -> None:
    """The first layer learns through the frozen layer, which does not change."""
    arguments = dict(REFUSED[reason][0])
    replaced = arguments.get("second", nn.Linear)
    arguments["second"] = lambda *sizes: replaced(*sizes).requires_grad_(False)
    kwargs = {"features_extractor_class": Extractor, "features_extractor_kwargs": arguments, "head_gain": 1.0}
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


def test_factors_that_are_no_floats_are_summed_exactly() -> None:
    policy = make_policy(action_space=BOX)
    noise = policy.sample_noise(8)
    received = policy.noisy_pass(batch(VECTOR, 8), np.ones((8, 2), np.float32), noise).received
    sums = [policy.outer(policy.array(post), received, 2) for post in (noise > 0, 1.0 * (noise > 0))]
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-5, atol=1e-6)
    assert np.abs(sums[0] % 1).max() > 0.1  # whole numbers would be truncated ones


def test_a_layer_that_sums_over_environments_is_named() -> None:
    class Summing(Dense):
        def outer(self, xp: Any, post_BN: Any, received: Any, n_envs: int) -> list[Any]:
            return super().outer(xp, post_BN, received, 1)

    class Policy(NoisyPolicy):
        def make_layer(self, n_inputs: int, n_outputs: int, activation: Any) -> Dense:
            return Summing(n_inputs, n_outputs, self.use_bias, activation)

    model = NRL(Policy, make_vec_env("CartPole-v1", 2), seed=0, device="cpu")
    with pytest.raises(ValueError, match=r"shape of a sum of a layer's outer=\(1, 256\): must be \(2, 256\)"):
        model.learn(1_000)


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
    with pytest.raises(ValueError, match="No parameter of the policy can learn"):
        policy.refresh()


# Layers of both networks


def test_actor_and_critic_must_not_share_layers() -> None:
    shared = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="Actor and critic must not share layers"):
        make_policy(features_extractor_class=Extractor, features_extractor_kwargs={"second": lambda *_: shared})
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
    frozen = nn.Linear(4, 4).requires_grad_(False)
    arguments = {"second": lambda *_: frozen}
    kwargs = {"features_extractor_class": Extractor, "features_extractor_kwargs": arguments}
    model = make_model(NRL, policy_kwargs=kwargs)
    before = snapshot(model.policy)
    model.learn(64)
    assert changed(model.policy, before) == {name for name in before if "second" not in name}


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


def in_place(first: Any, second: Any, x: th.Tensor) -> th.Tensor:
    return second(nn.functional.relu(first(x), inplace=True))


def not_in_place(first: Any, second: Any, x: th.Tensor) -> th.Tensor:
    return second(nn.functional.relu(first(x)))


def test_pre_activations_outlast_activations_in_place() -> None:
    potentials = []
    for compute, inplace in ((in_place, True), (not_in_place, False)):
        policy = make_policy(
            features_extractor_class=Extractor,
            features_extractor_kwargs={"compute": compute},
            activation_fn=lambda inplace=inplace: nn.ELU(inplace=inplace),
        )
        obs, actions = batch(VECTOR, 4), np.zeros(4, int)
        with th.no_grad():
            potentials.append(th.cat(policy.noisy_pass(obs, actions, policy.sample_noise(4)).potentials, dim=1))
    assert (potentials[1] < -1).any()
    assert th.equal(*potentials)


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
    policy = make_policy(policy_class=OfSquares, net_arch=[6], activation_fn=nn.Tanh, action_space=BOX)
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
    """A layer that is marked as not available in NumPy."""

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
    """A layer with a parameter for which ``outer`` returns no sum."""

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
