"""Networks that are unusual, or that change: credit is right, or there is an error that says what to do."""

import pathlib
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_nrl import BPTT, NRL, RMHL
from sb3_nrl.networks import make_network
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.reward_modulated import RewardModulatedAlgorithm
from tests.envs import Algorithm, ScriptedEnv, arguments, each_rule

each_algorithm = pytest.mark.parametrize("algorithm", [NRL, RMHL, BPTT])


def make(
    algorithm: Algorithm, rule: str = "default", policy: str | type[NoisyPolicy] = "MlpPolicy", **settings: Any
) -> NRL | RMHL | BPTT:
    return algorithm(policy, ScriptedEnv([5, 3]), **arguments(algorithm, rule, **{"seed": 0, **settings}))


def snapshot(model: RewardModulatedAlgorithm) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def changed(model: RewardModulatedAlgorithm, before: dict[str, th.Tensor]) -> set[str]:
    return {name for name, value in model.policy.state_dict().items() if not value.equal(before[name])}


class Extractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=4)
        self.first = nn.Linear(4, 4)
        self.second: nn.Module = nn.Linear(4, 4)


class OverwritesInput(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        hidden = self.first(x).tanh()
        y = self.second(hidden)
        hidden += y
        return hidden


class BatchSecond(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(x).expand(3, *x.shape)).mean(0)


class BatchSecondOfTwo(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(x).expand(2, *x.shape)).mean(0)


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


class Centred(nn.Linear):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return nn.functional.linear(x, self.weight - self.weight.mean(), self.bias)


class OfAnotherLayer(Extractor):
    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.second = self.replace(nn.Linear(4, 4))

    def replace(self, layer: nn.Linear) -> nn.Module:
        return Centred(4, 4)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(x))


class WithSpectralNorm(OfAnotherLayer):
    def replace(self, layer: nn.Linear) -> nn.Linear:
        return nn.utils.spectral_norm(layer)


class WithForwardOfItsOwn(OfAnotherLayer):
    def replace(self, layer: nn.Linear) -> nn.Linear:
        layer.forward = lambda x: nn.functional.linear(x, -layer.weight)  # type: ignore[assignment, method-assign]
        return layer


class StandardisedConvolution(nn.Conv2d):
    def _conv_forward(self, x: th.Tensor, weight: th.Tensor, bias: th.Tensor | None) -> th.Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Convolves(Extractor):
    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.convolution = StandardisedConvolution(1, 1, 1)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(self.convolution(x[:, None, None])[:, 0, 0]))


class CallsByName(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(input=self.first(x))


@each_algorithm
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
        (OfAnotherLayer, r"'features_extractor\.second\.weight' would never learn: .*\(Centred\)"),
        (WithSpectralNorm, r"second\.bias' would never learn"),
        (WithForwardOfItsOwn, r"second\.weight' would never learn: .*\(Linear\) is none of them"),
        (Convolves, r"convolution\.weight' would never learn: .*\(StandardisedConvolution\)"),
        (CallsByName, "second' must be called with one positional argument"),
    ],
)
def test_networks_whose_credit_would_be_wrong_are_refused(
    algorithm: Algorithm, extractor: type[BaseFeaturesExtractor], message: str
) -> None:
    for seed in range(5):
        with pytest.raises(ValueError, match=message):
            make(algorithm, seed=seed, policy_kwargs={"features_extractor_class": extractor})


@each_algorithm
def test_a_layer_whose_forward_is_replaced_later_is_refused(algorithm: Algorithm) -> None:
    model = make(algorithm)
    model.policy.hidden_net[0].forward = lambda x: x[:, :1].expand(-1, 64)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"hidden_net\.0\.weight' would never learn"):
            model.learn(10)


@each_algorithm
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ELU], ids=["NumPy", "PyTorch"])
def test_a_layer_whose_forward_a_callback_replaces_is_refused(algorithm: Algorithm, activation: type) -> None:
    def replace(*_: Any) -> bool:
        layer: Any = model.policy.hidden_net[0]
        layer.forward = lambda x: nn.functional.linear(x, -layer.weight)
        return True

    model = make(algorithm, policy_kwargs={"activation_fn": activation})
    with pytest.raises(ValueError, match=r"hidden_net\.0\.weight' would never learn"):
        model.learn(100, replace)


@each_rule
@pytest.mark.parametrize("place", [0, 1], ids=["frozen layer", "activation"])
def test_training_and_predict_know_of_a_replaced_forward(algorithm: Algorithm, rule: str, place: int) -> None:
    model = make(algorithm, rule)
    module = model.policy.hidden_net[place].requires_grad_(False)
    module.forward = lambda x: th.ones(len(x), 64)
    model.learn(40)
    obs = np.ones((1, 4), np.float32)
    one, other = (make_network(model.policy).act(obs + shift)[1] for shift in (0, 5))
    logits = model.policy.action_net(model.policy.hidden_net[place + 1 :](th.ones(1, 64)))
    assert any(np.allclose(log_prob, one) for log_prob in logits.log_softmax(1)[0].tolist())
    assert any(np.allclose(log_prob, other) for log_prob in logits.log_softmax(1)[0].tolist())


class CentresAnyRows(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, features_dim=4)
        self.net = nn.Linear(spaces.flatdim(observation_space), 4)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.net(x - x.mean(0))


@each_algorithm
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
def test_mixed_rows_are_noticed_in_small_spaces(algorithm: Algorithm, space: spaces.Space) -> None:
    env = ScriptedEnv([5, 3])
    env.observation_space = space
    with pytest.raises(ValueError, match="mixes the rows"):
        algorithm("MlpPolicy", env, policy_kwargs={"features_extractor_class": CentresAnyRows})


@each_rule
def test_layers_frozen_later_stay_as_they_are(algorithm: Algorithm, rule: str) -> None:
    model = make(algorithm, rule, learning_rate=0.05)
    model.learn(20)
    model.policy.hidden_net[0].weight.requires_grad_(False)
    before = snapshot(model)
    model.learn(30)
    assert changed(model, before) == set(before) - {"hidden_net.0.weight"}


class AddsTooLate(NoisyPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skip = nn.Linear(4, 3)

    def _action_parameters(self, obs: Any) -> th.Tensor:
        outputs = super()._action_parameters(obs)
        return outputs + self.skip(obs) if hasattr(self, "skip") else outputs


class AddsToTheOptimizer(AddsTooLate):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.optimizer.add_param_group({"params": list(self.skip.parameters())})


@each_rule
def test_a_subclass_can_add_layers_if_the_optimizer_knows_them(algorithm: Algorithm, rule: str) -> None:
    with pytest.raises(ValueError, match=r"'skip\.weight' would never learn: it is not in policy\.optimizer"):
        make(algorithm, rule, AddsTooLate).learn(20)
    model = make(algorithm, rule, AddsToTheOptimizer, learning_rate=0.05)
    before = snapshot(model)
    model.learn(40)
    assert changed(model, before) == set(before)


OF_BOTH_RULES = {
    "noise_std": 0.5,
    "noise_distribution": "rademacher",
    "clean_passes": 2,
    "trace_decay": 0.5,
    "n_steps": 2,
    "noise_normalization": "layer",
    "n_noise_samples": 1,
    "antithetic": False,
    "max_grad_norm": 1e-3,
}
OF_AN_AVERAGE = {"reward_timing": "nonzero", "reward_smoothing": 0.5, "scale_rpe": False}


@pytest.mark.parametrize(
    ("rule", "argument", "value"),
    [
        *(("average", *pair) for pair in {**OF_BOTH_RULES, **OF_AN_AVERAGE}.items()),
        *(("default", *pair) for pair in {**OF_BOTH_RULES, "gamma": 0.6, "ent_coef": 0.1, "vf_coef": 3.0}.items()),
    ],
)
def test_arguments_changed_between_trainings_take_effect(rule: str, argument: str, value: Any) -> None:
    """A model that is given the argument later ends where one that had it from the start does."""
    sgd = {"optimizer_class": th.optim.SGD}  # Adam makes up for the size of a change
    settings: dict[str, Any] = {"learning_rate": 0.05, "n_steps": 8, "trace_decay": 0.6, "policy_kwargs": sgd}
    had, given, never = (make(NRL, rule, **{**settings, **({argument: value} if i == 0 else {})}) for i in range(3))
    setattr(given, argument, value)
    start = never.policy.parameters_to_vector()
    for model in (had, given, never):
        model.set_random_seed(1)
        model.learn(60)
    ends = [model.policy.parameters_to_vector() for model in (had, given, never)]
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[0] - ends[2]).max() > 1e-3 * np.abs(start - ends[2]).max()
    setattr(given, argument, "nonsense")
    with pytest.raises(ValueError, match=argument):
        given.learn(10)


@each_algorithm
@pytest.mark.parametrize("argument", ["noise_std", "noise_distribution", "clean_passes"])
def test_noise_is_no_argument_of_the_policy(algorithm: Algorithm, argument: str) -> None:
    with pytest.raises(ValueError, match=f"policy_kwargs.*{argument}"):
        make(algorithm, policy_kwargs={argument: 2})


@pytest.mark.parametrize(
    ("space", "logits"), [(spaces.Discrete(2), [0.0, 150.0]), (spaces.MultiBinary(2), [-60.0, 60.0])], ids=str
)
def test_the_mean_of_noisy_passes_is_right_where_the_policy_is_certain(
    space: spaces.Space, logits: list[float]
) -> None:
    """With next to no noise it is the clean pass, log-probabilities far in the tails included."""
    env = ScriptedEnv([5])
    env.action_space = space
    model = NRL("MlpPolicy", env, clean_passes=3, noise_std=1e-6, policy_kwargs={"use_bias": True}, seed=0)
    model.policy.action_net.bias.data.copy_(th.tensor(logits))
    obs = th.zeros(1, 4)
    unlikely = th.tensor([0]) if isinstance(space, spaces.Discrete) else th.tensor([[1.0, 0.0]])
    mean = model.policy._mean_of_noisy_passes(obs, 3).log_prob(unlikely)
    assert mean.item() == pytest.approx(-150 if isinstance(space, spaces.Discrete) else -120, rel=1e-4)
    assert np.isfinite(model.network.act(obs.numpy())[1]).all()


def test_a_frozen_standard_deviation_gets_no_noise_when_acting() -> None:
    env = ScriptedEnv([5])
    env.action_space = spaces.Box(-1, 1, (2,), np.float32)
    policy = NRL("MlpPolicy", env, noise_std=0.5, seed=0, **arguments(NRL, "average")).policy
    policy.log_std_net.weight.requires_grad_(False)
    policy.find_layers()
    obs, noise = np.ones((3, 4), np.float32), policy.sample_noise(3)
    assert noise.shape == (3, 64 + 2)
    actions, log_probs = make_network(policy).act(obs, noise.numpy(), np.ones((3, 2), np.float32))
    (expected,), _ = policy.noisy_pass(th.as_tensor(obs), th.as_tensor(actions), noise)
    np.testing.assert_allclose(log_probs, expected.detach(), rtol=1e-5)


class DividesByZero(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(x / x.norm(dim=1, keepdim=True)))


def test_a_network_may_be_undefined_at_zero() -> None:
    model = make(NRL, policy_kwargs={"features_extractor_class": DividesByZero}, learning_rate=0.05)
    before = snapshot(model)
    model.learn(40)
    assert changed(model, before) == set(before)


@each_rule
def test_hooks_see_every_pass(algorithm: Algorithm, rule: str) -> None:
    """Also hooks that are added when training has started."""
    model = make(algorithm, rule, n_steps=8)
    n_rows = []

    def start_watching(local: dict[str, Any], _: dict[str, Any]) -> bool:
        if model.num_timesteps == 8:
            model.policy.action_net.register_forward_hook(lambda module, args, output: n_rows.append(len(output)))
        return True

    model.learn(40, start_watching)
    # The 32 steps that follow were acted and, but for those that still wait, credited.
    assert sum(n_rows) >= 32 + 24


def test_a_trained_model_runs_as_the_readme_says(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of the README, with fewer steps."""
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(re.sub(r"(\d)00_000", r"\g<1>00", block), names)
    assert names["model"].num_timesteps == 100
    assert names["published"].reward_prediction == "average"
    assert names["agent"].num_timesteps >= 500 and (tmp_path / "trial.png").exists()
    assert (tmp_path / "nrl_cartpole.zip").exists()
    assert list(tmp_path.glob("runs/NRL_1/events.*"))


def agrees(model: RewardModulatedAlgorithm) -> bool:
    """Whether training acts as the policy of now does."""
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    actions, log_probs = model.network.act(obs)
    with th.no_grad():
        expected = model.policy.get_distribution(th.as_tensor(obs)).log_prob(th.as_tensor(actions))
    return model.network.policy is model.policy and np.allclose(log_probs, expected, atol=1e-5)


def replace_policy(model: RewardModulatedAlgorithm) -> None:
    th.manual_seed(7)
    model.policy = type(model.policy)(**model.policy._get_constructor_parameters())


def replace_weight(model: RewardModulatedAlgorithm) -> None:
    layer = model.policy.hidden_net[0]
    layer.weight = nn.Parameter(th.ones(5, 4))
    model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=0.01)


def replace_activation(model: RewardModulatedAlgorithm) -> None:
    model.policy.hidden_net[1] = nn.Tanh()


def change_slope(model: RewardModulatedAlgorithm) -> None:
    activation = model.policy.hidden_net[1]
    assert isinstance(activation, nn.LeakyReLU)
    activation.negative_slope = 0.9


class Residual(nn.Sequential):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self[1](self[0](x)) + self[0](x)


def make_residual(model: RewardModulatedAlgorithm) -> None:
    model.policy.hidden_net = Residual(*model.policy.hidden_net)


def begin_with_an_activation(model: RewardModulatedAlgorithm) -> None:
    model.policy.hidden_net = nn.Sequential(nn.Tanh(), *model.policy.hidden_net)


def end_with_two_activations(model: RewardModulatedAlgorithm) -> None:
    model.policy.hidden_net = nn.Sequential(*model.policy.hidden_net, nn.Tanh())


def override_on_the_instance(model: RewardModulatedAlgorithm) -> None:
    plain = model.policy._action_parameters
    model.policy._action_parameters = lambda obs: 2 * plain(obs)  # type: ignore[method-assign]


CHANGES = [
    replace_policy,
    replace_weight,
    replace_activation,
    change_slope,
    make_residual,
    begin_with_an_activation,
    end_with_two_activations,
    override_on_the_instance,
]
LARGE_HEAD = {"head_gain": 5.0, "net_arch": [5], "activation_fn": nn.LeakyReLU}
with_either_rule = pytest.mark.parametrize("rule", ["default", "average"])


@with_either_rule
@pytest.mark.parametrize("change", CHANGES)
def test_training_follows_a_changed_policy(change: Any, rule: str) -> None:
    model = make(NRL, rule, policy_kwargs=LARGE_HEAD)
    model.learn(10)
    assert agrees(model)
    change(model)
    assert not agrees(model)
    model.learn(0)
    assert agrees(model)


@with_either_rule
@pytest.mark.parametrize("change", [replace_weight, replace_activation, change_slope])
def test_training_follows_what_a_callback_changes(change: Any, rule: str) -> None:
    model = make(NRL, rule, policy_kwargs=LARGE_HEAD, learning_rate=0.0)

    def change_once(*_: Any) -> bool:
        if model.num_timesteps == 8:
            change(model)
        return True

    model.learn(40, change_once)
    assert agrees(model)


@with_either_rule
def test_training_follows_a_layer_that_a_callback_adds_where_there_was_none(rule: str) -> None:
    model = make(NRL, rule, policy_kwargs={"net_arch": [], "head_gain": 5.0}, learning_rate=0.0)

    def add_once(*_: Any) -> bool:
        if model.num_timesteps == 8:
            model.policy.hidden_net.append(nn.Tanh())
        return True

    model.learn(40, add_once)
    assert agrees(model)


def freeze(model: RewardModulatedAlgorithm) -> None:
    model.policy.hidden_net[0].requires_grad_(False)


def unfreeze(model: RewardModulatedAlgorithm) -> None:
    model.policy.action_net.requires_grad_(True)


def replace_head(model: RewardModulatedAlgorithm) -> None:
    model.policy.action_net = nn.Linear(5, 3)
    model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=0.01)


@each_rule
@pytest.mark.parametrize("activation", [nn.Tanh, nn.SiLU], ids=["quick", "plain"])
@pytest.mark.parametrize("at", [0, 5, 8], ids=["first step", "between", "last step of a window"])
@pytest.mark.parametrize("change", [freeze, unfreeze, replace_head])
def test_training_goes_on_with_the_layers_that_a_callback_leaves(
    algorithm: Algorithm, rule: str, change: Any, at: int, activation: type[nn.Module]
) -> None:
    kwargs = {"net_arch": [5], "head_gain": 1.0, "activation_fn": activation}
    model: Any = make(algorithm, rule, policy_kwargs=kwargs, n_steps=4)
    if change is unfreeze:
        model.policy.action_net.requires_grad_(False)
    left: dict[str, th.Tensor] = {}

    def change_once(*_: Any) -> bool:
        if model.num_timesteps == 8 + at:
            change(model)
            left.update(snapshot(model))
        return True

    model.learn(80, change_once)
    learned = changed(model, left)
    assert ("hidden_net.0.weight" in learned) is (change is not freeze)
    assert "action_net.weight" in learned
    assert agrees(model)


@each_algorithm
def test_a_weight_of_two_layers_gets_credit_from_both(algorithm: Algorithm) -> None:
    model = make(algorithm, policy_kwargs={"net_arch": [4, 4], "head_gain": 1.0})
    layers = model.policy.hidden_net
    layers[2].weight = layers[0].weight
    model.learn(0)
    with th.no_grad():
        noise = model.policy.sample_noise(6)
        obs, actions = th.rand(6, 4), th.zeros(6, dtype=th.long)
        _, pre = model.policy.noisy_pass(obs, actions, noise)
        expected = model.policy.perturbation.outer(noise, pre, 2)
    array = model.network.array
    _, received = model.network.noisy_pass(array(obs), array(actions), array(noise))
    np.testing.assert_allclose(model.network.outer(array(noise), received, 2), expected, rtol=1e-5)


@pytest.mark.parametrize(("argument", "value"), [("noise_std", 1e-4), ("clean_passes", 2)])
def test_a_callback_can_change_the_noise(argument: str, value: Any) -> None:
    model = make(NRL)

    def change_once(*_: Any) -> bool:
        setattr(model, argument, value)
        return True

    model.learn(40, change_once)
    assert getattr(model.policy, argument) == value


@pytest.mark.parametrize(("argument", "value"), [("noise_std", 0.0), ("clean_passes", 1)])
def test_noise_that_a_callback_sets_is_checked(argument: str, value: Any) -> None:
    model = make(NRL)

    def change(*_: Any) -> bool:
        setattr(model, argument, value)
        return True

    with pytest.raises(ValueError, match=f"^{argument}={value}: must be"):
        model.learn(40, change)


@each_rule
@pytest.mark.parametrize("activation_fn", [nn.LeakyReLU, nn.ReLU, nn.Tanh])
def test_a_model_can_be_pickled(algorithm: Algorithm, rule: str, activation_fn: type[nn.Module]) -> None:
    model = make(algorithm, rule, policy_kwargs={"activation_fn": activation_fn})
    model.learn(10)
    copy = pickle.loads(pickle.dumps(model))
    assert agrees(copy)
    assert not changed(copy, snapshot(model))


@pytest.mark.parametrize("clean_passes", [None, 2])
def test_numbers_may_be_numpys(clean_passes: int | None) -> None:
    numbers: dict[str, Any] = {"trace_decay": np.float64(0.9), "noise_std": np.float32(0.01), "vf_coef": np.float64(2)}
    model = make(NRL, clean_passes=clean_passes, **numbers)
    before = snapshot(model)
    model.learn(20)
    assert changed(model, before) == set(before)


class Rebinds(th.optim.SGD):
    """Puts new tensors in the place of the weights, without asking for autograd to be off."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data = parameter.data * group["factor"]
                parameter.add_(parameter.grad, alpha=-group["lr"])


@with_either_rule
@pytest.mark.parametrize("factor", [1.0, np.inf])
def test_optimizers_may_rebind_weights(factor: float, rule: str) -> None:
    model = make(NRL, rule, policy_kwargs={"optimizer_class": Rebinds})
    for group in model.policy.optimizer.param_groups:
        group["factor"] = factor
    before = snapshot(model)
    if factor == 1:
        model.learn(20)
        assert changed(model, before) == set(before)
    else:
        with pytest.raises(FloatingPointError, match="was refused"):
            model.learn(20)
        assert changed(model, before) == set()


@pytest.mark.parametrize("log_std", [100.0, -120.0])
@pytest.mark.parametrize("algorithm", [NRL, BPTT])
def test_a_standard_deviation_of_zero_or_infinity_is_refused(algorithm: Algorithm, log_std: float) -> None:
    env = ScriptedEnv([5])
    env.action_space = spaces.Box(-1, 1, (2,), np.float32)
    model = algorithm("MlpPolicy", env, seed=0)
    nn.init.constant_(model.policy.log_std_net.weight, log_std)
    with pytest.raises(FloatingPointError, match="outputs are infinite"):
        model.learn(5)


def test_unlikely_actions_are_no_error_of_numpys() -> None:
    model = NRL("MlpPolicy", make_vec_env(lambda: ScriptedEnv([5, 3]), 20), policy_kwargs={"head_gain": 300.0}, seed=0)
    with np.errstate(all="raise"):
        model.learn(200)
    assert model._n_updates > 0
