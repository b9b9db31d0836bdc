"""Changes of policies, and subclasses: training uses them, or there is an error that says what to do."""

import pickle
from copy import deepcopy
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from sb3_nrl import BPTT, NRL, RMHL, LearningRule, ThreeFactorAlgorithm
from sb3_nrl.bptt import ExactGradient
from sb3_nrl.layers import Dense
from sb3_nrl.policies import NoisyCnnPolicy, NoisyPolicy
from tests.conftest import each_rule, make_model, weights
from tests.envs import ScriptedEnv
from tests.policies import (
    BOX,
    IMAGE,
    VECTOR,
    SmallCnn,
    batch,
    errors_of,
    make_policy,
    record_updates,
    run_in_torch,
    tensors,
)
from tests.test_layers import Extractor, changed, snapshot

each_engine = pytest.mark.parametrize("torch", [False, True], ids=["NumPy", "PyTorch"])


def make(algorithm: Any, rule: str, torch: bool, **settings: Any) -> Any:
    kwargs = {"net_arch": [5, 5, 5], "head_gain": 1.0, "use_bias": True, **settings.pop("policy_kwargs", {})}
    model = make_model(algorithm, rule=rule, policy_kwargs=kwargs, **{"learning_rate": 0.05, **settings})
    if torch:
        run_in_torch(model.policy)
    return model


def agrees(policy: Any) -> bool:
    """Whether training computes the same actions as a call of the policy."""
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    actions, log_probs, _ = policy.act(obs, np.full((20, 1), 0.5))
    with th.no_grad():
        expected = policy.get_distribution(th.as_tensor(obs)).log_prob(th.as_tensor(actions))
    return bool(np.allclose(log_probs, expected, atol=1e-5))


# Changes of the policy


def replace_layer(policy: Any) -> None:
    """Replace a layer by a wider one with another activation function."""
    th.manual_seed(7)
    policy.actor.hidden[0] = Dense(4, 8, True, nn.ReLU())
    policy.actor.hidden[1] = Dense(8, 5, True, nn.Tanh())


def replace_activation(policy: Any) -> None:
    """Replace an activation function by one that is not available in NumPy."""
    policy.actor.hidden[0] = Dense(4, 5, True, nn.GELU())


def replace_weight(policy: Any) -> None:
    policy.actor.head.weight = nn.Parameter(th.ones(3, 5))


def freeze(policy: Any) -> None:
    policy.actor.hidden[1].requires_grad_(False)


def unfreeze(policy: Any) -> None:
    policy.actor.head.requires_grad_(True)


def swap_frozen(policy: Any) -> None:
    """Freeze one layer and unfreeze another. The number and shapes of parameters that learn stay the same."""
    policy.actor.head.requires_grad_(True)
    freeze(policy)
    policy.actor.hidden[2].requires_grad_(False)


CHANGES = [replace_layer, replace_activation, replace_weight, freeze, unfreeze, swap_frozen]


def apply(change: Any, model: Any) -> dict[str, th.Tensor]:
    """Apply a change, give new parameters to the optimizer, and return all parameters."""
    change(model.policy)
    if change in (replace_layer, replace_activation, replace_weight):
        model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=0.01)
    return snapshot(model.policy)


def assert_learned(model: Any, left: dict[str, th.Tensor]) -> None:
    """Check that all parameters have changed that are not frozen, and no others."""
    learning = {name for name, parameter in model.policy.named_parameters() if parameter.requires_grad}
    assert changed(model.policy, left) == learning
    assert agrees(model.policy)


@pytest.mark.parametrize("change", CHANGES)
@each_engine
@each_rule
def test_changes_between_trainings_take_effect(algorithm: Any, rule: str, torch: bool, change: Any) -> None:
    model = make(algorithm, rule, torch)
    if change in (unfreeze, swap_frozen):
        model.policy.actor.head.requires_grad_(False)
    model.learn(40)
    left = apply(change, model)
    model.learn(40)
    assert_learned(model, left)


@pytest.mark.parametrize("at", [0, 3, 4], ids=["first step", "amid a window", "end of a window or an episode"])
@pytest.mark.parametrize("change", CHANGES)
@each_rule
def test_changes_in_a_callback_take_effect_with_refresh(algorithm: Any, rule: str, change: Any, at: int) -> None:
    model = make(algorithm, rule, False, n_steps=4)
    if change in (unfreeze, swap_frozen):
        model.policy.actor.head.requires_grad_(False)
    left: dict[str, th.Tensor] = {}

    def change_once(*_: Any) -> bool:
        if model.num_timesteps == 8 + at + 1:
            left.update(apply(change, model))
            model.refresh()
        return True

    model.learn(64, change_once)
    assert_learned(model, left)


def test_refresh_finds_out_what_there_is() -> None:
    policy = make_policy(net_arch=[5, 4], critic=False)
    assert (policy.n_nodes, policy.n_weights, policy.xp) == (5 + 4 + 3, 5 * 6 + 4 * 6 + 3 * 5, np)
    policy.actor.hidden[0] = Dense(5, 5, True, nn.SiLU())
    policy.actor.head.requires_grad_(False)
    assert (policy.n_nodes, policy.xp) == (5 + 4 + 3, np)
    policy.refresh()
    assert (policy.n_nodes, policy.n_weights, policy.xp) == (5 + 4, 5 * 6 + 4 * 6, th)
    assert policy.sample_noise(2, 3).shape == (6, 9)


class OwnCnn(NatureCNN):
    """May have weights from elsewhere."""


@pytest.mark.parametrize(("extractor", "orthogonal"), [(NatureCNN, True), (OwnCnn, False)])
def test_weights_of_a_nature_cnn_start_orthogonal_as_in_a2c(extractor: type[NatureCNN], orthogonal: bool) -> None:
    image = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    policy = make_policy(image, policy_class=NoisyCnnPolicy, features_extractor_class=extractor)
    for network in (policy.actor, policy.critic):
        weight = network.features.module.cnn[0].weight.detach().flatten(1)
        assert th.allclose(weight @ weight.T, 2 * th.eye(32), atol=1e-5) == orthogonal


def test_a_layer_whose_forward_is_replaced_later_is_refused() -> None:
    policy = make_policy(IMAGE, features_extractor_class=SmallCnn, features_extractor_kwargs={})
    policy.actor.features.module.net[0].forward = lambda x: x[:, :, :5, :5].repeat(1, 2, 1, 1)
    with pytest.raises(ValueError, match=r"'net\.0\.weight' of SmallCnn would never learn"):
        policy.refresh()


class AddsALayer(NoisyPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skip = nn.Linear(4, 3)


class AddsItToTheOptimizer(AddsALayer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.optimizer.add_param_group({"params": list(self.skip.parameters())})


@pytest.mark.parametrize("policy", [AddsALayer, AddsItToTheOptimizer])
def test_layers_outside_of_actor_and_critic_are_refused(policy: type[NoisyPolicy]) -> None:
    with pytest.raises(ValueError, match=r"'skip\.weight' would never learn: no layer of actor or critic"):
        make_model(NRL, policy=policy)


@each_rule
def test_an_optimizer_that_misses_a_parameter_is_refused(algorithm: Any, rule: str) -> None:
    model = make(algorithm, rule, False)
    replace_weight(model.policy)
    with pytest.raises(ValueError, match=r"'actor\.head\.weight' would never learn: it is not in policy\.optimizer"):
        model.learn(10)


# Subclasses


class ShiftsValues(NoisyPolicy):
    def values(self, *args: Any) -> tuple[np.ndarray, Any]:
        values, states = super().values(*args)
        return values + 10, states


class ActsAlike(NoisyPolicy):
    def act(self, *args: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        actions, log_probs, states = super().act(*args)
        return np.full_like(actions, 2), log_probs - 1, states


class CriticWithZeroSums(NoisyPolicy):
    """The critic's eligibilities are 0."""

    def outer(self, post_BN: Any, received: list[Any], n_envs: int) -> Any:
        sums = super().outer(post_BN, received, n_envs)
        sums[:, self.parts[1].weights] = 0
        return sums


class CriticWithoutNoise(NoisyPolicy):
    """The critic's nodes have no noise, so its eligibilities are 0."""

    def sample_noise(self, n_rows: int, n_samples: int = 1) -> Any:
        noise = super().sample_noise(n_rows, n_samples)
        noise[:, self.parts[1].nodes] = 0
        return noise


def test_what_training_asks_of_a_policy_may_be_overridden() -> None:
    plain, shifted, alike = (
        make_model(NRL, policy=policy, learning_rate=0.0, ent_coef=0.5)
        for policy in ("MlpPolicy", ShiftsValues, ActsAlike)
    )
    updates = [record_updates(model) for model in (plain, shifted, alike)]
    for model in (plain, shifted, alike):
        model.learn(32)
    done = updates[0][0].window.dones_TE
    # γ (V(s') + 10) − (V(s) + 10), or −(V(s) + 10) at the end
    difference = errors_of(updates[1]) - errors_of(updates[0])
    np.testing.assert_allclose(difference, np.where(done, -10, -10 * (1 - 0.99)), atol=1e-4)
    (of_alike,) = updates[2]
    assert (of_alike.window.actions == 2).all()
    assert of_alike.window.log_probs.max() < -1
    for policy_class in (CriticWithZeroSums, CriticWithoutNoise):
        model = make_model(NRL, policy=policy_class)
        before = snapshot(model.policy)
        model.learn(64)
        assert changed(model.policy, before) == {name for name in before if name.startswith("actor")}


class ForUsersOnly(NoisyPolicy):
    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("training needs no such method")

    forward = get_distribution = predict_values = evaluate_actions = _refuse


@each_engine
@each_rule
def test_training_uses_no_method_that_is_for_users(algorithm: Any, rule: str, torch: bool) -> None:
    plain, special = (make_model(algorithm, rule=rule, policy=policy) for policy in ("MlpPolicy", ForUsersOnly))
    for model in (plain, special):
        if torch:
            run_in_torch(model.policy)
        model.set_random_seed(0)
        model.learn(60)
    np.testing.assert_array_equal(weights(plain), weights(special))


class WithExtractor(NoisyPolicy):
    default_features_extractor = Extractor


def test_a_subclass_may_have_another_features_extractor() -> None:
    policy = make_policy(policy_class=WithExtractor)
    obs = tensors(batch(VECTOR, 3))
    assert isinstance(policy.actor.features.module, Extractor)
    th.testing.assert_close(policy.actor.features(obs), policy.actor.features.module(obs))


class OnlyTheHead(ExactGradient):
    """All eligibilities are 0 except those of the actor's head."""

    def eligibility(self, policy: Any, window: Any, carry: Any) -> Any:
        eligibility: Any = super().eligibility(policy, window, carry)[0]
        eligibility.post_BN[:, : policy.parts[0].layer_nodes[-1].start] = 0
        eligibility.post_BN[:, policy.parts[0].nodes.stop :] = 0
        return eligibility, None


class LearnsHeads(NRL):
    def make_rule(self) -> Any:
        return OnlyTheHead()


def test_a_subclass_may_make_another_rule() -> None:
    model = make_model(LearnsHeads)
    before = snapshot(model.policy)
    model.learn(64)
    assert changed(model.policy, before) == {"actor.head.weight", "actor.head.bias"}
    model.rule = None
    model.learn(64)
    assert isinstance(model.rule, OnlyTheHead)


def test_an_algorithm_needs_a_rule() -> None:
    with pytest.raises(ValueError, match="rule=None: must be a LearningRule"):
        make_model(ThreeFactorAlgorithm)


def test_a_subclass_may_have_a_constructor_without_arguments() -> None:
    class OnCartPole(NRL):
        def __init__(self) -> None:
            super().__init__("MlpPolicy", "CartPole-v1", device="cpu")

    assert OnCartPole().learn(32).num_timesteps == 32


class Sums:
    """Ones for an eligibility, in the shapes of the wrong rule."""

    def __init__(self, shape: tuple[int, ...], shape_per_env: tuple[int, ...]) -> None:
        self.shape = shape
        self.shape_per_env = shape_per_env

    def weighted_sum(self, weights_TE: np.ndarray, per_env: bool = False) -> np.ndarray:
        return np.ones(self.shape_per_env if per_env else self.shape, np.float32)


class Wrong(LearningRule):
    """A rule whose sums have a shape of its own: W weights and E environments become ``shape(W, E)``."""

    def __init__(self, *shapes: Any) -> None:
        self.shapes = shapes

    def eligibility(self, policy: Any, window: Any, carry: Any) -> Any:
        return Sums(*(shape(policy.n_weights, window.n_envs) for shape in self.shapes)), None


def with_rule(rule: LearningRule, n_envs: int = 1, prediction: Any = "critic") -> ThreeFactorAlgorithm:
    env = make_vec_env(lambda: ScriptedEnv([5]), n_envs)
    return ThreeFactorAlgorithm(
        "MlpPolicy", env, rule=rule, n_steps=32, reward_prediction=prediction, norm_obs=False, device="cpu"
    )


@pytest.mark.parametrize(
    "shapes",
    [
        (lambda w, e: (w,), lambda w, e: (w,)),
        (lambda w, e: (w + 1,), lambda w, e: (e, w + 1)),
        (lambda w, e: (w - 1,), lambda w, e: (e, w - 1)),
        (lambda w, e: (w,), lambda w, e: (e, 1, w)),
        (lambda w, e: (w,), lambda w, e: (e + 1, w)),
    ],
    ids=["never per environment", "too many", "too few", "another axis", "too many environments"],
)
@pytest.mark.parametrize("prediction", ["critic", "average"])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_weighted_sums_of_a_wrong_shape_are_refused(shapes: Any, prediction: str, n_envs: int) -> None:
    model = with_rule(Wrong(*shapes), n_envs, prediction)
    before = weights(model)
    with pytest.raises(ValueError, match=r"^shape of .*weighted_sum.*=\(.*\): must be \("):
        model.learn(64)
    assert np.array_equal(weights(model), before)


class DrawsNoise(LearningRule):
    def eligibility(self, policy: Any, window: Any, carry: Any) -> Any:
        return policy.sample_noise(len(window.actions))


class Remembers(LearningRule):
    """Carries the number of its windows along, and keeps what it got."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def eligibility(self, policy: Any, window: Any, carry: Any) -> Any:
        self.got.append(carry)
        return Sums((policy.n_weights,), (window.n_envs, policy.n_weights)), 1 + (carry or 0)


def test_what_a_rule_carries_along_ends_with_the_training() -> None:
    rule = Remembers()
    model = with_rule(rule)
    for reset in (True, False, True):
        model.learn(64, reset_num_timesteps=reset)
    model.set_parameters(model.get_parameters())
    model.learn(64, reset_num_timesteps=False)
    assert rule.got == [None, 1, 2, 3, None, 1, None, 1]


class NoPasses(LearningRule):
    n_passes = 0

    def eligibility(self, policy: Any, window: Any, carry: Any) -> Any:
        raise NotImplementedError


class MisspeltPerturbs(NoPasses):
    n_passes, perturbs = 1, "nodes"  # type: ignore[assignment]


def test_what_a_rule_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="the learning rule's noise is None"):
        with_rule(DrawsNoise()).learn(64)
    with pytest.raises(ValueError, match=r"^NoPasses\.n_passes=0: must be a whole number of passes, at least 1"):
        with_rule(NoPasses())
    with pytest.raises(ValueError, match=r"^MisspeltPerturbs\.perturbs='nodes': must be one of \('node'"):
        with_rule(MisspeltPerturbs())


# Forward passes


class Watched(Dense):
    """Records for each pass whether it ran in NumPy, whether there was noise, and whether autograd was on."""

    seen: ClassVar[list[tuple[Any, bool, bool]]] = []

    def step(self, xp: Any, parameters: Any, x: Any, noise_BN: Any = None) -> Any:
        output, received, potentials = super().step(xp, parameters, x, noise_BN)
        tracked = xp is th and (th.is_grad_enabled() or output.requires_grad)
        self.seen.append((xp, noise_BN is not None and bool((noise_BN != 0).all()), tracked))
        return output, received, potentials


class WatchedPolicy(NoisyPolicy):
    def make_layer(self, n_inputs: int, n_outputs: int, activation: nn.Module | None) -> Dense:
        return Watched(n_inputs, n_outputs, self.use_bias, activation)


def passes_of(model: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[set[Any], set[Any], int]:
    """All kinds of passes of a training and of ``predict``, and the number of backward passes."""
    backward: list[Any] = []

    def watch(function: Any) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            backward.append(function)
            return function(*args, **kwargs)

        return watched

    kinds: list[set[Any]] = []
    with monkeypatch.context() as within:
        for owner, name in ((th.Tensor, "backward"), (th.autograd, "grad"), (th.autograd, "backward")):
            within.setattr(owner, name, watch(getattr(owner, name)))
        before = weights(model)
        for use in (lambda: model.learn(60), lambda: model.predict(np.ones(4, np.float32))):
            within.setattr(Watched, "seen", [])
            use()
            kinds.append(set(Watched.seen))
        assert (weights(model) != before).all()
    return kinds[0], kinds[1], len(backward)


@each_engine
@pytest.mark.parametrize(
    ("algorithm", "rule", "settings"),
    [
        (NRL, "critic", {}),
        (NRL, "average", {"antithetic": False}),
        (NRL, "critic", {"n_baseline_passes": 3, "antithetic": False}),
        (NRL, "average", {"n_baseline_passes": 2}),
        (RMHL, "average", {}),
    ],
)
def test_no_backward_pass_and_noisy_passes_only_on_request(
    algorithm: Any, rule: str, settings: dict[str, Any], torch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes the values of last observations before time limits, and ``predict``."""
    env = gymnasium.wrappers.TimeLimit(ScriptedEnv([10**9]), 5)
    kwargs = {"use_bias": True, "optimizer_class": th.optim.Adam}
    model = make_model(algorithm, env, rule, policy=WatchedPolicy, policy_kwargs=kwargs, **settings)
    if torch:
        run_in_torch(model.policy)
    xp = th if torch else np
    of_training, of_predict, n_backward = passes_of(model, monkeypatch)
    assert n_backward == 0
    is_clean = "n_baseline_passes" not in settings
    assert of_training == {(xp, True, False)} | ({(xp, False, False)} if is_clean and algorithm is NRL else set())
    assert of_predict == {(xp, not is_clean, False)}


@each_engine
@pytest.mark.parametrize("rule", ["critic", "average"])
def test_bptt_makes_the_backward_passes(rule: str, torch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """This shows that the test above would detect a backward pass."""
    model = make_model(BPTT, rule=rule, policy=WatchedPolicy)
    if torch:
        run_in_torch(model.policy)
    of_training, _, n_backward = passes_of(model, monkeypatch)
    assert n_backward > 0
    assert (th, False, True) in of_training


# Arguments and copies

OF_BOTH_RULES = {
    "noise_std": 0.5,
    "noise_distribution": "rademacher",
    "n_baseline_passes": 2,
    "trace_decay": 0.5,
    "n_steps": 2,
    "noise_normalization": "layer",
    "n_noise_samples": 1,
    "antithetic": False,
    "max_grad_norm": 1e-3,
}
OF_AN_AVERAGE = {"reward_timing": "nonzero", "reward_smoothing": 0.5, "scale_rpe": False}
OF_A_CRITIC = {"gamma": 0.6, "ent_coef": 0.1, "vf_coef": 3.0}


@pytest.mark.parametrize(
    ("rule", "argument", "value"),
    [
        *(("average", *pair) for pair in {**OF_BOTH_RULES, **OF_AN_AVERAGE}.items()),
        *(("critic", *pair) for pair in {**OF_BOTH_RULES, **OF_A_CRITIC}.items()),
    ],
)
def test_arguments_changed_between_trainings_take_effect(rule: str, argument: str, value: Any) -> None:
    """A changed argument gives the same weights as the same argument in the constructor."""
    sgd = {"optimizer_class": th.optim.SGD}  # Adam makes up for the size of a change
    settings: dict[str, Any] = {"learning_rate": 0.05, "n_steps": 8, "trace_decay": 0.6, "policy_kwargs": sgd}
    had, given, never = (
        make_model(NRL, rule=rule, **{**settings, **({argument: value} if i == 0 else {})}) for i in range(3)
    )
    setattr(given, argument, value)
    start = weights(never)
    for model in (had, given, never):
        model.set_random_seed(1)
        model.learn(60)
    ends = [weights(model) for model in (had, given, never)]
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[0] - ends[2]).max() > 1e-3 * np.abs(start - ends[2]).max()
    setattr(given, argument, "nonsense")
    with pytest.raises(ValueError, match=argument):
        given.learn(10)


@pytest.mark.parametrize("argument", ["noise", "noise_std", "noise_distribution", "n_baseline_passes", "critic"])
def test_what_the_algorithm_says_is_no_argument_of_the_policy(argument: str) -> None:
    with pytest.raises(ValueError, match=f"policy_kwargs.*without {argument}"):
        make_model(NRL, policy_kwargs={argument: 2})


@pytest.mark.parametrize("n_baseline_passes", [None, 2])
def test_numbers_may_be_numpys(n_baseline_passes: int | None) -> None:
    """NumPy's numbers as arguments do not make computations double precision."""
    numbers: dict[str, Any] = {"trace_decay": np.float64(0.9), "noise_std": np.float32(0.25), "vf_coef": np.float64(2)}
    ends = []
    for kind in (float, lambda number: number):
        settings: dict[str, Any] = {name: kind(number) for name, number in numbers.items()}
        ends.append(weights(make_model(NRL, n_baseline_passes=n_baseline_passes, **settings).learn(60)))
    np.testing.assert_array_equal(ends[0], ends[1])


@each_engine
@each_rule
def test_a_pickled_model_goes_on_as_the_model_does(algorithm: Any, rule: str, torch: bool) -> None:
    """This includes traces, steps that wait for an update, and the views of the weights."""
    model = make(algorithm, rule, torch, n_steps=8)
    model.learn(21)
    copy = pickle.loads(pickle.dumps(model))
    for one in (model, copy):
        th.manual_seed(0)
        one.learn(40, reset_num_timesteps=False)
        assert agrees(one.policy)
    np.testing.assert_array_equal(weights(model), weights(copy))


@pytest.mark.parametrize(
    "copy",
    [
        deepcopy,
        lambda policy: pickle.loads(pickle.dumps(policy)),
        lambda policy: policy.double().float(),
    ],
    ids=["copied", "pickled", "moved"],
)
def test_a_copied_policy_sees_weights_of_its_own(copy: Any) -> None:
    policy = make_policy(spaces.Box(-1, 1, (4,)))
    assert agrees(policy)
    other = copy(policy)
    nn.init.normal_(other.actor.head.weight)
    assert agrees(other)
    assert agrees(policy)


@pytest.mark.parametrize("log_std", [100.0, -120.0])
@pytest.mark.parametrize("algorithm", [NRL, BPTT])
def test_a_standard_deviation_of_zero_or_infinity_is_refused(algorithm: Any, log_std: float) -> None:
    env = ScriptedEnv([5])
    env.action_space = BOX
    model = make_model(algorithm, env)
    nn.init.constant_(model.policy.actor.head.log_std.weight, log_std)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="outputs are infinite"):
        model.learn(5)
