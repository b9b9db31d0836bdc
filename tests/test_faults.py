"""Invalid arguments, faulty environments and diverging weights raise clear errors, and do not damage the model."""

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.envs import IdentityEnvMultiBinary, IdentityEnvMultiDiscrete
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from torch import nn

from sb3_nrl import BPTT, NRL, PAPER, RMHL
from sb3_nrl.checks import check_finite
from tests.conftest import each_algorithm, each_rule, make_model, weights
from tests.envs import ClockEnv, ScriptedEnv

SMALL: dict[str, Any] = {"net_arch": [8], "head_gain": 1.0}


def make(algorithm: Any = NRL, env: Any = (5,), rule: str = "critic", **settings: Any) -> Any:
    defaults: dict[str, Any] = {"learning_rate": 0.05, "n_steps": 16, "policy_kwargs": SMALL}
    return make_model(algorithm, env, rule, **{**defaults, **settings})


# Arguments


@each_algorithm
def test_arguments_after_the_learning_rate_are_keywords(algorithm: Any) -> None:
    """In A2C and PPO the next argument is ``n_steps``."""
    with pytest.raises(TypeError, match="positional argument"):
        algorithm("MlpPolicy", "CartPole-v1", 1e-3, 5)


@pytest.mark.parametrize("change", [{"norm_obs": False}, {"reward_prediction": "average"}, {"policy": "MlpPolicy"}])
def test_what_cannot_change_is_refused_by_load(change: dict[str, Any], tmp_path: Path) -> None:
    model = make_model(norm_obs=True)
    model.save(tmp_path / "model")
    ((name, value),) = change.items()
    if name == "policy":  # ignored, as by A2C
        assert NRL.load(tmp_path / "model", device="cpu", seed=1, **change).policy.actor.n_nodes > 0
        return
    with pytest.raises(ValueError, match=f"^{name}={value!r}: must be .*, as it was when the model was made"):
        NRL.load(tmp_path / "model", device="cpu", **change)


BAD: list[tuple[Any, str, str, list[Any]]] = [
    (NRL, "critic", "learning_rate", [-1e-3, math.nan, math.inf, lambda progress: progress - 1]),
    (NRL, "critic", "n_steps", [0, -1, 2.5, True]),
    (NRL, "critic", "n_epochs", [0, 1.5, True]),
    (NRL, "critic", "reward_prediction", ["", "Critic", None]),
    (NRL, "critic", "gamma", [-0.5, 1.01, math.nan, "half"]),
    (NRL, "critic", "ent_coef", [-0.1, math.nan, math.inf]),
    (NRL, "critic", "vf_coef", [0, -1.0, math.nan, math.inf]),
    (NRL, "critic", "trace_decay", [-0.5, 0.995, math.nan]),  # at most gamma
    (NRL, "critic", "gae_lambda", [-0.5, 1.01, math.nan, "half"]),
    (NRL, "critic", "max_grad_norm", [0, -1.0, math.nan]),
    (NRL, "critic", "stats_window_size", [0, -1]),
    (NRL, "critic", "noise_std", [0, -1e-3, math.nan, math.inf]),
    (NRL, "critic", "noise_distribution", ["", "Gaussian", "cauchy", None]),
    (NRL, "critic", "noise_normalization", ["", "none", "Layer", None]),
    (NRL, "critic", "n_noise_samples", [0, -1, 1.5, True]),
    (NRL, "critic", "antithetic", [None, 1, "yes"]),
    (NRL, "critic", "n_baseline_passes", [0, 1, -2, 2.5, True]),
    (NRL, "average", "reward_timing", ["", "Episode", "never"]),
    (NRL, "average", "reward_smoothing", [0, -0.1, 1.01, math.nan]),
    (NRL, "average", "scale_rpe", [1, "yes"]),
    (NRL, "average", "trace_decay", [0, -0.5, 1.01, math.nan]),
    (RMHL, "average", "noise_std", [0, math.nan]),
    (RMHL, "average", "noise_distribution", ["cauchy", "orthogonal"]),
    (RMHL, "average", "reward_timing", ["never"]),
    (BPTT, "critic", "gamma", [1.01]),
    # Those of another reward predictor.
    (NRL, "critic", "reward_timing", ["episode", "nonzero"]),
    (NRL, "critic", "reward_smoothing", [0.66]),
    (NRL, "critic", "scale_rpe", [True, False]),
    (NRL, "average", "gamma", [0.99]),
    (NRL, "average", "ent_coef", [0.1]),
    (NRL, "average", "vf_coef", [0.5]),
]

GOOD: list[tuple[Any, str, str, list[Any]]] = [
    (NRL, "critic", "learning_rate", [1e-6, lambda progress: 0.1 * progress]),
    (NRL, "critic", "n_steps", [1, 3]),
    (NRL, "critic", "gamma", [1, 1.0, 0.95, None]),
    (NRL, "critic", "trace_decay", [0, 0.99, 1e-6, None]),
    (NRL, "critic", "gae_lambda", [0, 1, 0.5, None]),
    (NRL, "critic", "ent_coef", [0, 10]),
    (NRL, "critic", "vf_coef", [1, 1e-6, 10]),
    (NRL, "critic", "max_grad_norm", [None, 1e-4, 10]),
    (NRL, "critic", "stats_window_size", [1]),
    (NRL, "critic", "noise_std", [1e-6, 10]),
    (NRL, "critic", "noise_distribution", ["gaussian", "uniform", "rademacher", "poisson", "orthogonal"]),
    (NRL, "critic", "noise_normalization", ["network", "layer", "unbiased"]),
    (NRL, "critic", "n_noise_samples", [1, 3]),
    (NRL, "critic", "antithetic", [True, False]),
    (NRL, "critic", "n_baseline_passes", [None, 2]),
    (NRL, "average", "reward_timing", ["episode", "step", "nonzero", None]),
    (NRL, "average", "reward_smoothing", [1, 1.0, 1e-6, None]),
    (NRL, "average", "scale_rpe", [True, False, None]),
    (NRL, "average", "trace_decay", [1, 1.0, 1e-6, None]),
]


def rows(table: list[tuple[Any, str, str, list[Any]]]) -> list[Any]:
    return [
        pytest.param(algorithm, rule, argument, value, id=f"{algorithm.__name__}-{rule}-{argument}-{value!r:.12}")
        for algorithm, rule, argument, values in table
        for value in values
    ]


@pytest.mark.parametrize(("algorithm", "rule", "argument", "value"), rows(BAD))
def test_argument_out_of_range_is_refused_by_name(algorithm: Any, rule: str, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}=.*: must be "):
        make(algorithm, rule=rule, **{argument: value})


@pytest.mark.parametrize(("algorithm", "rule", "argument", "value"), rows(GOOD))
def test_argument_at_the_edge_of_its_range_learns_finite_weights(
    algorithm: Any, rule: str, argument: str, value: Any
) -> None:
    model = make(algorithm, [5, 3], rule, **{argument: value})
    before = weights(model)
    model.learn(40)
    assert np.isfinite(weights(model)).all()
    assert not np.array_equal(weights(model), before)


def test_a_learning_rate_of_0_learns_nothing() -> None:
    model = make(learning_rate=0)
    before = weights(model)
    assert np.array_equal(weights(model.learn(40)), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"noise_distribution": "orthogonal", "noise_normalization": "layer"},
            r"^noise_normalization='layer': must be 'network' or 'unbiased'",
        ),
        ({"rule": "average", "reward_timing": "step", "trace_decay": 0.9}, r"^trace_decay=0\.9: .*reward_timing=.step"),
        ({"gamma": 0.5, "trace_decay": 0.9}, r"^trace_decay=0\.9: must be in .0, 0\.5., at most gamma"),
        ({"trace_decay": 0.9, "gae_lambda": 0.9}, r"^gae_lambda=0\.9: must be None if trace_decay is given"),
        ({"rule": "average", "trace_decay": None, "gae_lambda": 0}, r"^trace_decay=0\.0: must be in .0, 1. with a run"),
    ],
)
def test_arguments_that_exclude_one_another_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_defaults_are_those_of_the_reward_predictor() -> None:
    average = make_model(NRL, reward_prediction="average")
    assert (average.reward_timing, average.reward_smoothing, average.scale_rpe) == ("episode", 0.66, True)
    assert (average.gamma, average.decay) == (1, 1)
    assert make_model(NRL).gamma == 0.99
    assert make_model(NRL).decay == pytest.approx(0.95 * 0.99)
    assert make_model(BPTT, gamma=0.5).decay == pytest.approx(0.95 * 0.5)


@each_rule
def test_gae_lambda_times_gamma_is_trace_decay(algorithm: Any, rule: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"env": [5, 3], "rule": rule, "trace_decay": None}
    model = make(algorithm, **given, gae_lambda=0.7).learn(40)
    assert model.decay == pytest.approx(0.7 * (0.99 if rule == "critic" else 1))
    assert np.array_equal(weights(model), weights(make(algorithm, **{**given, "trace_decay": model.decay}).learn(40)))
    assert not np.array_equal(weights(model), weights(make(algorithm, **given).learn(40)))
    model.save(tmp_path / "model")
    assert algorithm.load(tmp_path / "model", device="cpu").decay == model.decay


def test_clean_passes_still_works_and_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="clean_passes is now n_baseline_passes"):
        old = make(clean_passes=3, noise_std=0.5).learn(40)
    assert old.n_baseline_passes == old.policy.n_baseline_passes == 3
    assert np.array_equal(weights(old), weights(make(n_baseline_passes=3, noise_std=0.5).learn(40)))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("net_arch", {"pi": [64], "vf": [64]}),  # there is no critic
        *(
            ("net_arch", value)
            for value in ([64, {"pi": [64]}], [{"pi": [64]}], {"vf": [64]}, [0], [64, -1], [6.4], 64)
        ),
        ("share_features_extractor", True),
        *(("head_gain", value) for value in (0, -1.0, math.nan, math.inf, "0.1", True)),
        ("use_bias", "no"),
        *(("log_std_init", value) for value in (math.nan, math.inf)),
        *(("activation_fn", value) for value in (th.nn.PReLU, th.nn.ReLU(), "relu", math.tanh, dict)),
        *(("action_correlation", value) for value in (-0.1, 1, math.nan)),
    ],
    ids=lambda value: re.sub(r"\W+", "_", str(value)),
)
def test_policy_argument_out_of_range_is_refused_by_name(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}=.*: must be "):
        make(env="Pendulum-v1", rule="average", policy_kwargs={argument: value})


def test_environments_that_gymnasium_vectorises_need_a_wrapper() -> None:
    env: Any = gymnasium.make_vec("CartPole-v1", 2)
    for use in (lambda: NRL("MlpPolicy", env), lambda: make(env="CartPole-v1").set_env(env)):
        with pytest.raises(ValueError, match=r"^env=.*: must be wrapped as GymnasiumVecEnv\(env\)"):
            use()


NET_ARCHS: list[Any] = [[7, 5], [], {"pi": [7], "vf": [5, 4]}, {"pi": [7]}, {"vf": [7]}, {}]


@pytest.mark.parametrize("net_arch", NET_ARCHS, ids=str)
def test_net_arch_means_what_it_means_to_a2c(net_arch: Any) -> None:
    def widths(layers: Any) -> list[int]:
        return [len(layer.weight) for layer in layers if hasattr(layer, "weight")]

    kwargs = {"net_arch": net_arch}
    policy = make(policy_kwargs=kwargs).policy
    of_a2c: Any = A2C("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu").policy.mlp_extractor
    assert widths(policy.actor.hidden) == widths(of_a2c.policy_net)
    assert widths(policy.critic.hidden) == widths(of_a2c.value_net)


def test_net_arch_of_an_actor_alone() -> None:
    assert len(make(rule="average", policy_kwargs={"net_arch": {"pi": [7, 5]}}).policy.actor.hidden) == 2


def test_what_actor_and_critic_are_anyway_can_be_said() -> None:
    said = {**SMALL, "share_features_extractor": False}
    assert np.array_equal(weights(make(policy_kwargs=said)), weights(make()))


@pytest.mark.parametrize("argument", ["log_std_init", "action_correlation"])
def test_arguments_of_continuous_actions_are_refused_for_others(argument: str) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}=0\.5: must be 0 unless actions are a Box"):
        make(policy_kwargs={argument: 0.5})


@pytest.mark.parametrize(
    "name", ["critic", "noise", "noise_std", "noise_distribution", "n_baseline_passes", "ortho_init: .* head_gain"]
)
@each_algorithm
def test_what_the_algorithm_sets_is_not_the_policys_to_choose(algorithm: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"^policy_kwargs=.*: must be without {name}"):
        make_model(algorithm, policy_kwargs={name.partition(":")[0]: 2})


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("MlpLstmPolicy", "^policy='MlpLstmPolicy': must be one of .*MlpGruPolicy"),
        (ActorCriticPolicy, "^policy=.*ActorCriticPolicy.*NoisyPolicy"),
    ],
)
def test_unknown_policy_is_refused_by_name(policy: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(policy=policy)


class SpacesEnv(ScriptedEnv):
    def __init__(self, observation_space: spaces.Space | None = None, action_space: spaces.Space | None = None) -> None:
        super().__init__([5])
        self.observation_space = observation_space or self.observation_space
        self.action_space = action_space or self.action_space


VECTOR = spaces.Box(-1, 1, (3,), np.float32)
EMPTY = spaces.Box(-1, 1, (0,), np.float32)
PLAINLY = "must be numbered from 0 and of one dimension"


@pytest.mark.parametrize(
    ("env", "policy", "error", "message"),
    [
        (SpacesEnv(spaces.Tuple((VECTOR, VECTOR))), "MlpPolicy", ValueError, "^observation_space=Tuple.*: must be Box"),
        (
            SpacesEnv(spaces.Dict(part=spaces.Dict(inner=VECTOR))),
            "MultiInputPolicy",
            (ValueError, NotImplementedError),
            "(?i)dict",
        ),
        (SpacesEnv(None, spaces.Tuple((VECTOR, VECTOR))), "MlpPolicy", AssertionError, "action spaces"),
        (SpacesEnv(EMPTY), "MlpPolicy", ValueError, "^observation_space=Box.*: must be of at least one number"),
        (
            SpacesEnv(spaces.Dict(a=EMPTY, b=VECTOR)),
            "MultiInputPolicy",
            ValueError,
            r"^observation_space\['a'\]=.*one number",
        ),
        (SpacesEnv(None, EMPTY), "MlpPolicy", ValueError, "^action_space=Box.*: must be of at least one number"),
        *(
            (env, policy, ValueError, rf"(?s)^{name}=.*: {PLAINLY}")
            for space in (
                spaces.Discrete(2, start=5),
                spaces.MultiDiscrete([2, 3], start=[0, 1]),
                spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])),
            )
            for name, env, policy in (
                ("action_space", SpacesEnv(None, space), "MlpPolicy"),
                ("observation_space", SpacesEnv(space), "MlpPolicy"),
                (r"observation_space\['part'\]", SpacesEnv(spaces.Dict(part=space)), "MultiInputPolicy"),
            )
        ),
    ],
)
def test_spaces_that_are_not_supported_are_refused(env: Any, policy: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make(env=DummyVecEnv([lambda: env]), policy=policy)


# Layers that node perturbation does not reach


class BareParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(th.ones(6))

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x * self.gain


class NeverCalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(6, 6)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x


class Extractor(BaseFeaturesExtractor):
    """A linear layer, and then a layer to be tested."""

    def __init__(self, observation_space: spaces.Space, layer: Callable[[], nn.Module], frozen: bool) -> None:
        super().__init__(observation_space, features_dim=6)
        self.linear = nn.Linear(observation_space.shape[0], 6)  # type: ignore[index]
        self.tested = layer().requires_grad_(not frozen)

    def forward(self, obs: th.Tensor) -> th.Tensor:
        return self.tested(self.linear(obs))


each_unreachable_layer = pytest.mark.parametrize(
    ("layer", "named"),
    [
        (lambda: nn.LayerNorm(6), "LayerNorm"),
        (lambda: nn.BatchNorm1d(6), "BatchNorm1d"),
        (lambda: nn.PReLU(), "PReLU"),
        (BareParameter, r"tested\.gain"),
        (NeverCalled, r"tested\.spare"),
    ],
    ids=["LayerNorm", "BatchNorm", "PReLU", "parameter", "never-called"],
)


@each_unreachable_layer
def test_layer_that_would_never_learn_is_refused_by_name_or_frozen(layer: Any, named: str) -> None:
    kwargs: dict[str, Any] = {**SMALL, "features_extractor_class": Extractor}
    with pytest.raises(ValueError, match=f"parameter '.*would never learn.*{named}|{named}.*would never learn"):
        make(policy_kwargs={**kwargs, "features_extractor_kwargs": {"layer": layer, "frozen": False}})
    kwargs["features_extractor_kwargs"] = {"layer": layer, "frozen": True}
    for optimizer_class in (th.optim.SGD, th.optim.AdamW):  # weight decay would change what is frozen, too
        optimizer = {"optimizer_class": optimizer_class, "optimizer_kwargs": {"weight_decay": 0.1}}
        model = make(policy_kwargs={**kwargs, **optimizer})
        before = {name: value.clone() for name, value in model.policy.state_dict().items()}
        model.learn(30)
        changed = {name for name, value in model.policy.state_dict().items() if not th.equal(value, before[name])}
        assert changed == {name for name in before if "tested" not in name}


# Environments that break

FAULTY_ENV = 1


class FaultyEnv(gymnasium.Env):
    """
    Random observations, rewards that depend on the action, and one fault. Episodes are cut off after 5 steps, those
    without a fault after 4.

    :param fault: What to break: "observation" or "reward"
    :param at: Number of the step, counted over all episodes, 0 being the first reset; None for never
    :param value: The broken value, or an exception
    :param dictionary: Whether observations are dictionaries
    """

    action_space = spaces.Discrete(3)

    def __init__(self, fault: str, at: int | None, value: Any, dictionary: bool) -> None:
        vector = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.dictionary = dictionary
        self.observation_space: spaces.Space = spaces.Dict(a=vector, b=vector) if dictionary else vector
        self.fault, self.at, self.value = fault, at, value
        self.length = 4 if at is None else 5
        self.time_of_fault = None if at is None else 0 if at == 0 else (at - 1) % 5 + 1  # the next reset is sound
        self.n_steps = 0
        self.before_fault: Callable[[], None] = lambda: None

    def _observation(self) -> np.ndarray | dict[str, np.ndarray]:
        vectors = {key: self.np_random.normal(size=3).astype(np.float32) for key in ("a", "b")}
        if self.fault == "observation" and self.n_steps == self.at and self.time == self.time_of_fault:
            vectors["b"][2] = self.value
        return vectors if self.dictionary else vectors["b"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.n_steps += 1
        reward = float(action) + 1
        if self.n_steps == self.at:
            self.before_fault()
            if isinstance(self.value, BaseException):
                raise self.value
            if self.fault == "reward":
                reward = self.value
        return self._observation(), reward, False, self.time == self.length, {}


def faulty_envs(fault: str = "", at: int | None = None, value: Any = 0.0, dictionary: bool = False) -> DummyVecEnv:
    """Three environments, of which the second breaks."""
    places = [at if env == FAULTY_ENV else None for env in range(3)]
    return DummyVecEnv([partial(FaultyEnv, fault, place, value, dictionary) for place in places])


def naming(*parts: str) -> str:
    """Matches a message that has all these words, in any order."""
    return "(?i)" + "".join(rf"(?=.*{re.escape(part)}(?!\w))" for part in parts)


def average(model: Any) -> np.ndarray:
    return np.array([]) if model.predictor.has_critic else model.predictor.average_E


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        *((algorithm, {"n_steps": 4}) for algorithm in (NRL, BPTT)),
        *((NRL, {"rule": "average", "reward_timing": timing}) for timing in ("episode", "step", "nonzero")),
        (RMHL, {"rule": "average"}),
    ],
)
@pytest.mark.parametrize(
    ("fault", "value"),
    [("reward", math.nan), ("reward", -math.inf), ("observation", math.nan), ("observation", math.inf)],
)
@pytest.mark.parametrize("at", [13, 15], ids=["amid-an-episode", "at-its-end"])
def test_fault_is_named_and_changes_no_weight(
    algorithm: Any, settings: dict[str, Any], fault: str, value: float, at: int
) -> None:
    envs: Any = faulty_envs(fault, at, value)
    model = make(algorithm, envs, **settings)
    initial = weights(model)
    before: list[np.ndarray] = []
    envs.envs[FAULTY_ENV].before_fault = lambda: before.extend((weights(model), average(model)))
    with pytest.raises(ValueError, match=naming(fault, f"environment {FAULTY_ENV}", str(value), "must be finite")):
        model.learn(100)
    assert not np.array_equal(before[0], initial)
    assert np.array_equal(weights(model), before[0])
    assert np.array_equal(average(model), before[1], equal_nan=True)


@each_algorithm
@pytest.mark.parametrize("at", [0, 7], ids=["reset", "step"])
@pytest.mark.parametrize("dictionary", [False, True], ids=["box", "dict"])
def test_fault_of_an_observation_says_where(algorithm: Any, at: int, dictionary: bool) -> None:
    envs = faulty_envs("observation", at, math.nan, dictionary)
    model = make(algorithm, envs, policy="MultiInputPolicy" if dictionary else "MlpPolicy")
    where = ("b", "[2]") if dictionary else ("[2]",)
    message = naming("observation", *where, f"environment {FAULTY_ENV}", f"step {3 * at}", "nan")
    with pytest.raises(ValueError, match=message):
        model.learn(100)
    assert np.isfinite(weights(model)).all()


@each_rule
@pytest.mark.parametrize(
    "stop",
    [
        lambda: (faulty_envs("observation", 8, math.nan), None, ValueError),
        lambda: (faulty_envs("reward", 8, math.nan), None, ValueError),
        lambda: (faulty_envs("", 8, ZeroDivisionError()), None, ZeroDivisionError),
        lambda: (faulty_envs(), KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["observation", "reward", "environment", "callback"],
)
def test_training_goes_on_after_an_exception(algorithm: Any, rule: str, stop: Callable[[], Any]) -> None:
    """The next training starts with a new episode, and from the current weights."""
    envs, in_callback, error = stop()

    def callback(*_: Any) -> bool:
        if in_callback is not None and model.num_timesteps == 24:
            raise in_callback
        return True

    model = make(algorithm, envs, rule)
    with pytest.raises(error):
        model.learn(100, callback)
    before, num_timesteps = weights(model), model.num_timesteps
    assert 21 <= num_timesteps <= 24
    model.set_env(faulty_envs(), force_reset=False)  # which cannot be stepped before a reset
    model.learn(30, reset_num_timesteps=False)
    assert model.num_timesteps == num_timesteps + 30
    assert np.isfinite(weights(model)).all()
    assert not np.array_equal(weights(model), before)


def test_rewards_before_an_exception_do_not_count() -> None:
    def interrupt(*_: Any) -> bool:
        if model.num_timesteps == 26:
            raise KeyboardInterrupt
        return True

    model = make(env=DummyVecEnv([lambda: ClockEnv([[1.0] * 10])]), rule="average").learn(20)
    with pytest.raises(KeyboardInterrupt):
        model.learn(20, interrupt, reset_num_timesteps=False)
    model.learn(10, reset_num_timesteps=False)
    assert model.predictor.average_E == 10


# Large numbers

OVERFLOW = "ignore:(overflow|invalid value) encountered:RuntimeWarning"  # of NumPy, before the error that names it


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_half_and_double_precision_are_checked_like_single(kind: Any) -> None:
    obs, rewards = np.full((2, 3), 300, kind), np.zeros(2)
    check_finite(obs, rewards, 7)
    obs[1, 2] = np.inf
    with pytest.raises(ValueError, match=r"^Environment 1 gave inf as observation\[2\] at step 7: must be finite"):
        check_finite(obs, rewards, 7)


class Scaled(gymnasium.Env):
    """Random observations, and a reward for each action, of given sizes."""

    action_space = spaces.Discrete(3)

    def __init__(self, reward: float, observation: float = 1.0, dtype: Any = np.float32) -> None:
        self.reward, self.observation = reward, observation
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), dtype)

    def _observe(self) -> np.ndarray:
        return (self.observation * self.np_random.normal(size=4)).astype(self.observation_space.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self._observe(), self.reward * (float(action) - 0.75), self.time == 5, False, {}


def scaled(*sizes: Any) -> VecEnv:
    env = DummyVecEnv([lambda: Scaled(*sizes)])
    env.seed(0)
    return env


@each_rule
def test_the_size_of_rewards_does_not_matter_to_clipped_updates(algorithm: Any, rule: str) -> None:
    settings: dict[str, Any] = {"max_grad_norm": 0.5, **({} if rule == "critic" else {"scale_rpe": False})}
    first, *others = [
        weights(make_model(algorithm, scaled(2.0**power), rule, **settings).learn(100)) for power in (30, 60, 90)
    ]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-4, atol=1e-6)


@each_rule
@pytest.mark.parametrize("size", [1e18, 1e19])
def test_large_observations_are_learned_from(algorithm: Any, rule: str, size: float) -> None:
    """The sign of the observation determines the rewarded action. There is no hidden layer."""
    settings: dict[str, Any] = {} if rule == "critic" else {"scale_rpe": False, "reward_timing": "step"}
    kwargs = {"net_arch": [], "head_gain": 1e-19}
    model = make_model(
        algorithm, scaled(1.0, size), rule, learning_rate=1e-20, max_grad_norm=0.5, policy_kwargs=kwargs, **settings
    )
    before = weights(model)
    model.learn(100)
    assert np.isfinite(weights(model)).all()
    assert not np.array_equal(weights(model), before)


LEAKY: dict[str, Any] = PAPER["BPTT"]["policy_kwargs"]


@pytest.mark.filterwarnings(OVERFLOW)
@pytest.mark.parametrize(
    ("sizes", "settings", "error", "message"),
    [
        # Clipping makes one of 1e30, but nothing makes one of 1e38 times what it is multiplied by.
        (
            (1.0, 1e37),
            {},
            FloatingPointError,
            r"not applied.* The largest observation has the size \d.*e\+37.*VecNormalize",
        ),
        ((2e38,), {}, FloatingPointError, r"not applied.* The largest reward has the size 2\.\d*e\+38.*VecNormalize"),
        (
            (1e20,),
            {"max_grad_norm": None},
            FloatingPointError,
            r"not applied.* The largest reward has the size 1\.\d*e\+20.*VecNormalize",
        ),
        (
            (1.0, 1e38),
            {"policy_kwargs": {**LEAKY, "head_gain": 100.0}},
            FloatingPointError,
            r"outputs are infinite.* The largest observation has the size \d.*e\+3[78].*VecNormalize",
        ),
        (
            (1.0, 1e39, np.float64),
            {},
            ValueError,
            r"^Environment 0 gave \S+e\+3\d as observation\[\d\] at step \d+: must be at most 3\.4e\+38.*VecNormalize",
        ),
    ],
)
def test_numbers_that_are_too_large_are_named_with_the_remedy(
    sizes: Any, settings: dict[str, Any], error: Any, message: str
) -> None:
    model = make_model(NRL, scaled(*sizes), **settings)
    with pytest.raises(error, match=message):
        model.learn(300)
    assert np.isfinite(weights(model)).all()


@pytest.mark.parametrize(("sizes", "clip"), [((1e20,), None), ((1e18, 1e20), 0.5)])
def test_normalization_is_the_remedy(sizes: Any, clip: float | None) -> None:
    with pytest.raises(FloatingPointError, match="VecNormalize"):
        make_model(NRL, scaled(*sizes), max_grad_norm=clip).learn(300)
    normalized = make_model(NRL, VecNormalize(scaled(*sizes)), max_grad_norm=clip)
    before = weights(normalized)
    assert 0 < np.abs(weights(normalized.learn(300)) - before).max() < 1


# Divergence


class Watch(BaseCallback):
    """Stores the weights with which the model last acted, or began a window."""

    def _on_rollout_start(self) -> None:
        self.weights = weights(self.model)  # type: ignore[arg-type]

    def _on_step(self) -> bool:
        self.weights = weights(self.model)  # type: ignore[arg-type]
        return True


@each_rule
@pytest.mark.filterwarnings(OVERFLOW)
@pytest.mark.parametrize("learning_rate", [1e20, 3e38, 1e100])
@pytest.mark.parametrize(
    "make_env",
    [
        lambda: ScriptedEnv([5]),
        lambda: IdentityEnvMultiDiscrete(3, ep_length=5),
        lambda: IdentityEnvMultiBinary(3, ep_length=5),
        lambda: "Pendulum-v1",
    ],
    ids=["discrete", "multi-discrete", "multi-binary", "box"],
)
def test_divergence_names_the_learning_rate_and_keeps_the_weights(
    algorithm: Any, rule: str, learning_rate: float, make_env: Callable[[], Any]
) -> None:
    kwargs = {**LEAKY, "net_arch": [8] * 4}  # which diverges as soon as its learning rate is large
    timing = {} if rule == "critic" else {"reward_timing": "step"}
    model = make(
        algorithm, make_env(), rule, learning_rate=learning_rate, max_grad_norm=None, policy_kwargs=kwargs, **timing
    )
    watch = Watch()
    with pytest.raises(FloatingPointError, match="learning_rate"):
        model.learn(1000, watch)
    assert np.isfinite(weights(model)).all()
    assert np.array_equal(weights(model), watch.weights)


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpGruPolicy"])
@pytest.mark.parametrize("action_space", [spaces.Discrete(2), spaces.Box(-1, 1, (2,), np.float32)])
def test_predict_refuses_nan(policy: str, action_space: spaces.Space) -> None:
    model = make(env=SpacesEnv(None, action_space), policy=policy)
    obs = np.full(model.observation_space.shape, np.nan, np.float32)
    for deterministic in (True, False):
        with pytest.raises(ValueError, match="outputs are NaN: observations, states and weights must be finite"):
            model.predict(obs, deterministic=deterministic)


def test_a_network_that_gives_nan_is_refused() -> None:
    for name in ("actor", "critic"):
        model = make()
        with th.no_grad():
            getattr(model.policy, name).hidden[0].weight[0, 0] = math.nan
        expected = "network's outputs are infinite or NaN" if name == "actor" else "update was not applied"
        with pytest.raises(FloatingPointError, match=expected):
            model.learn(40)


def test_a_schedule_that_turns_negative_or_infinite_is_refused_when_it_is_met() -> None:
    for bad in (-0.1, math.nan, math.inf):
        model = make(learning_rate=lambda progress, bad=bad: bad if 0.2 < progress < 0.4 else 0.05, n_steps=4)
        seen: list[np.ndarray] = []
        with pytest.raises(ValueError, match=rf"^learning_rate={bad}: must be finite and not negative$"):
            model.learn(100, lambda *_, model=model, seen=seen: seen.append(weights(model)) or True)
        assert 60 <= model.num_timesteps <= 68
        assert not np.array_equal(seen[-1], seen[0])
        assert np.array_equal(weights(model), seen[-1])


class Explodes(th.optim.Adam):
    """Makes weights infinite when it is switched on."""

    told = False

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        if self.told:
            self.param_groups[0]["params"][0].data.fill_(math.inf)
        return loss


@each_rule
def test_moments_that_hold_a_refused_change_are_forgotten(algorithm: Any, rule: str) -> None:
    model = make(algorithm, [5, 3], rule, policy_kwargs={"optimizer_class": Explodes}).learn(30)
    before, optimizer = weights(model), model.policy.optimizer
    assert len(optimizer.state_dict()["state"]) > 0
    optimizer.told = True
    with pytest.raises(FloatingPointError, match=r"An update was not applied"):
        model.learn(30, reset_num_timesteps=False)
    assert np.array_equal(weights(model), before)
    assert len(optimizer.state_dict()["state"]) == 0
    optimizer.told = False
    model.learn(30, reset_num_timesteps=False)
    assert 0 < np.abs(weights(model) - before).max() < 1


@pytest.mark.parametrize(
    "optimizer",
    [
        {"optimizer_class": th.optim.SGD},
        {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
        {"optimizer_class": th.optim.Adam},
    ],
    ids=["sgd", "momentum", "adam"],
)
def test_training_goes_on_with_a_lower_learning_rate(optimizer: dict[str, Any], tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: ScriptedEnv([5], payment=1e3)])
    model = make(env=env, learning_rate=1e-5, policy_kwargs={**SMALL, **optimizer}).learn(30)
    before = weights(model)
    model.lr_schedule = lambda _: 3e38
    with pytest.raises(FloatingPointError, match=r"learning_rate \(now 3e\+38\)"):
        model.learn(30, reset_num_timesteps=False)
    assert np.array_equal(weights(model), before)
    model.save(tmp_path / "model")
    loaded = NRL.load(tmp_path / "model", env=env, device="cpu", learning_rate=1e-5)
    model.lr_schedule = lambda _: 1e-5
    for either in (loaded, model):
        assert np.array_equal(weights(either), before)
        either.learn(30, reset_num_timesteps=False)
        assert 0 < np.abs(weights(either) - before).max() < 1


# Observations


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([3, 2])], ids=str)
@pytest.mark.parametrize("value", [3, -1])
def test_codes_outside_the_space_are_refused(space: Any, value: int) -> None:
    class Stray(gymnasium.Env[Any, Any]):
        observation_space, action_space = space, spaces.Discrete(2)

        def reset(self, **_: Any) -> Any:
            return 0 * space.sample(), {}

        def step(self, action: Any) -> Any:
            return 0 * space.sample() + value, 0.0, False, False, {}

    with pytest.raises(
        ValueError, match=rf"The observation \[{value}.* is not in its space: must be whole numbers from 0"
    ):
        make(env=Stray()).learn(10)
