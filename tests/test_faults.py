"""Bad arguments, broken environments and diverging weights: refused by name, and without harm to the model."""

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
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.envs import IdentityEnvMultiBinary, IdentityEnvMultiDiscrete
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_nrl import BPTT, NRL, RMHL
from tests.envs import AVERAGE, Algorithm, ClockEnv, ScriptedEnv, arguments, each_rule

each_algorithm = pytest.mark.parametrize("algorithm", [NRL, RMHL, BPTT])


def make(
    algorithm: Algorithm, env: Any = None, policy: Any = "MlpPolicy", rule: str = "default", **settings: Any
) -> Any:
    defaults: dict[str, Any] = {
        "learning_rate": 0.05,
        "n_steps": 16,
        "seed": 0,
        "device": "cpu",
        "policy_kwargs": {"net_arch": [8], "head_gain": 1.0},
    }
    given = arguments(algorithm, rule, **{**defaults, **settings})
    return algorithm(policy, ScriptedEnv([5]) if env is None else env, **given)


def weights(model: BaseAlgorithm) -> np.ndarray:
    return model.policy.parameters_to_vector()


# Arguments

ALL = (NRL, RMHL, BPTT)
NOISY = (NRL, RMHL)
CRITIC = (NRL, BPTT)

BAD_ARGUMENTS: list[tuple[tuple[Algorithm, ...], str, list[Any]]] = [
    (ALL, "learning_rate", [-1e-3, math.nan, math.inf, lambda progress: -progress]),
    (ALL, "n_steps", [0, -1, 2.5, True]),
    (ALL, "reward_timing", ["", "Episode", "never"]),
    (ALL, "reward_smoothing", [0, -0.1, 1.01, math.nan]),
    (ALL, "scale_rpe", [1, "yes"]),
    (ALL, "trace_decay", [-0.5, 1.01, math.nan]),
    (ALL, "max_grad_norm", [0, -1.0, math.nan]),
    (ALL, "stats_window_size", [0, -1]),
    (NOISY, "noise_std", [0, -1e-3, math.nan, math.inf]),
    (NOISY, "noise_distribution", ["", "Gaussian", "cauchy", None]),
    ((RMHL,), "noise_distribution", ["orthogonal"]),
    ((NRL,), "noise_normalization", ["", "none", "Layer", None]),
    ((NRL,), "n_noise_samples", [0, -1, 1.5, True]),
    ((NRL,), "antithetic", [None, 1, "yes"]),
    ((NRL,), "clean_passes", [0, 1, -2, 2.5, True]),
    (CRITIC, "reward_prediction", ["", "Critic", None]),
    (CRITIC, "gamma", [-0.5, 1.01, math.nan, "half"]),
    (CRITIC, "ent_coef", [-0.1, math.nan, math.inf]),
    (CRITIC, "vf_coef", [0, -1.0, math.nan, math.inf, None]),
]
BAD_WITH_AN_AVERAGE = [*BAD_ARGUMENTS, (ALL, "trace_decay", [0])]

GOOD_ARGUMENTS: list[tuple[tuple[Algorithm, ...], str, list[Any]]] = [
    (ALL, "learning_rate", [0, 1e-6, lambda progress: 0.1 * progress]),
    (ALL, "n_steps", [1, 3]),
    (ALL, "max_grad_norm", [None, 1e-4, 10]),
    (ALL, "stats_window_size", [1]),
    (NOISY, "noise_std", [1e-6, 10]),
    (NOISY, "noise_distribution", ["gaussian", "uniform", "rademacher", "poisson"]),
    ((NRL,), "noise_distribution", ["orthogonal"]),
    ((NRL,), "noise_normalization", ["network", "layer", "unbiased"]),
    ((NRL,), "n_noise_samples", [1, 3]),
    ((NRL,), "antithetic", [True]),
    ((NRL,), "clean_passes", [None, 2]),
]
GOOD_WITH_AN_AVERAGE: list[tuple[tuple[Algorithm, ...], str, list[Any]]] = [
    (ALL, "reward_timing", ["episode", "step", "nonzero", None]),
    (ALL, "reward_smoothing", [1, 1.0, 1e-6, None]),
    (ALL, "scale_rpe", [True, False, None]),
    (ALL, "trace_decay", [1, 1.0, 1e-6, None]),
    *GOOD_ARGUMENTS,
]
GOOD_WITH_A_CRITIC: list[tuple[tuple[Algorithm, ...], str, list[Any]]] = [
    (CRITIC, "reward_timing", ["step", None]),
    (CRITIC, "gamma", [1, 1.0, 0.95, None]),
    (CRITIC, "trace_decay", [0, 0.99, 1e-6, None]),
    (CRITIC, "ent_coef", [0, 10]),
    (CRITIC, "vf_coef", [1, 1e-6, 10]),
    *(
        (tuple(algorithm for algorithm in algorithms if algorithm is not RMHL), argument, values)
        for algorithms, argument, values in GOOD_ARGUMENTS
    ),
]


def rows(rule: str, table: list[tuple[tuple[Algorithm, ...], str, list[Any]]]) -> list[Any]:
    return [
        pytest.param(rule, algorithm, argument, value, id=f"{rule}-{algorithm.__name__}-{argument}-{value!r:.12}")
        for algorithms, argument, values in table
        for algorithm in algorithms
        for value in values
    ]


@pytest.mark.parametrize(
    ("rule", "algorithm", "argument", "value"), [*rows("average", BAD_WITH_AN_AVERAGE), *rows("default", BAD_ARGUMENTS)]
)
def test_argument_out_of_range_is_refused_by_name(rule: str, algorithm: Algorithm, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}\b"):
        make(algorithm, rule=rule, **{argument: value})


@pytest.mark.parametrize(
    ("rule", "algorithm", "argument", "value"),
    [*rows("average", GOOD_WITH_AN_AVERAGE), *rows("default", GOOD_WITH_A_CRITIC)],
)
def test_argument_at_the_edge_of_its_range_learns_finite_weights(
    rule: str, algorithm: Algorithm, argument: str, value: Any
) -> None:
    model = make(algorithm, rule=rule, **{argument: value})
    before = weights(model)
    model.learn(25)
    assert np.isfinite(weights(model)).all()
    assert np.array_equal(weights(model), before) == (argument == "learning_rate" and value == 0)


def test_orthogonal_noise_is_not_normalised_by_layers() -> None:
    with pytest.raises(ValueError, match=r"^noise_normalization='layer': must be 'network' or 'unbiased'"):
        make(NRL, noise_distribution="orthogonal", noise_normalization="layer")


@each_algorithm
def test_trace_decay_needs_traces_that_last(algorithm: Algorithm) -> None:
    with pytest.raises(ValueError, match=r"trace_decay.*reward_timing=.step"):
        make(algorithm, rule="average", reward_timing="step", trace_decay=0.9)


@pytest.mark.parametrize("algorithm", [NRL, BPTT])
@pytest.mark.parametrize(
    ("argument", "value", "wanted"),
    [
        ("reward_timing", "episode", '"step"'),
        ("reward_smoothing", 0.5, "None"),
        ("scale_rpe", True, "None"),
        ("gamma", 0.5, "trace_decay=0.9: must be in .0, 0.5., at most gamma"),
    ],
)
def test_argument_that_a_critic_has_no_use_for_is_refused(
    algorithm: Algorithm, argument: str, value: Any, wanted: str
) -> None:
    with pytest.raises(ValueError, match=wanted):
        make(algorithm, trace_decay=0.9, **{argument: value})


@pytest.mark.parametrize("algorithm", [NRL, BPTT])
def test_running_average_needs_no_other_arguments(algorithm: Algorithm) -> None:
    model = make(algorithm, reward_prediction="average")
    assert (model.reward_timing, model.reward_smoothing, model.scale_rpe) == ("episode", 0.66, True)
    assert (model.gamma, model.decay) == (1, 1)


@pytest.mark.parametrize("algorithm", [NRL, BPTT])
def test_traces_of_a_critic_last_a_little_less_than_its_discount(algorithm: Algorithm) -> None:
    assert make(algorithm).decay == pytest.approx(0.95 * 0.99)
    assert make(algorithm, gamma=0.5).decay == pytest.approx(0.95 * 0.5)


@each_rule
def test_load_checks_arguments_too(algorithm: Algorithm, rule: str, tmp_path: Path) -> None:
    make(algorithm, rule=rule).save(tmp_path / "model")
    with pytest.raises(ValueError, match="trace_decay=7"):
        algorithm.load(tmp_path / "model", device="cpu", trace_decay=7)


@each_algorithm
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("net_arch", {"pi": [64], "vf": [64]}),
        ("net_arch", [{"pi": [64]}]),
        ("net_arch", [0]),
        ("net_arch", [64, -1]),
        ("net_arch", [6.4]),
        ("net_arch", 64),
        ("head_gain", 0),
        ("head_gain", -1.0),
        ("head_gain", math.nan),
        ("head_gain", math.inf),
        ("head_gain", "0.1"),
        ("head_gain", True),
        ("use_bias", "no"),
        ("log_std_init", math.nan),
        ("log_std_init", math.inf),
        ("action_correlation", -0.1),
        ("action_correlation", 1),
        ("action_correlation", math.nan),
        ("action_correlation", None),
    ],
    ids=lambda value: re.sub(r"\W+", "_", str(value)),
)
def test_policy_argument_out_of_range_is_refused_by_name(algorithm: Algorithm, argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}\b"):
        make(algorithm, "Pendulum-v1", rule="average", policy_kwargs={argument: value})


@each_algorithm
@pytest.mark.parametrize(
    ("policy", "message"),
    [("LstmPolicy", "LstmPolicy unknown"), (ActorCriticPolicy, "policy.*ActorCriticPolicy.*NoisyPolicy")],
)
def test_unknown_policy_is_refused_by_name(algorithm: Algorithm, policy: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(algorithm, policy=policy)


@pytest.mark.parametrize(
    ("algorithm", "argument", "reason"),
    [
        (NRL, "noise_std", "an argument of NRL"),
        (RMHL, "clean_passes", "of no use to RMHL"),
        (BPTT, "noise_std", "of no use to BPTT"),
    ],
)
def test_noise_is_not_the_policys_to_choose(algorithm: Algorithm, argument: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"must be without {argument}, {reason}"):
        make(algorithm, policy_kwargs={argument: 2})


class TupleEnv(ScriptedEnv):
    def __init__(self) -> None:
        super().__init__([5])
        vector = self.observation_space
        self.observation_space = spaces.Tuple((vector, vector))


@each_algorithm
@pytest.mark.parametrize("policy", ["MlpPolicy", "MultiInputPolicy"])
def test_tuple_observations_are_refused(algorithm: Algorithm, policy: str) -> None:
    with pytest.raises(ValueError, match="Tuple"):
        make(algorithm, TupleEnv(), policy)


class SpacesEnv(ScriptedEnv):
    def __init__(self, observation_space: spaces.Space | None, action_space: spaces.Space | None) -> None:
        super().__init__([5])
        self.observation_space = observation_space or self.observation_space
        self.action_space = action_space or self.action_space


@each_algorithm
@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(2, start=5),
        spaces.MultiDiscrete([2, 3], start=[0, 1]),
        spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])),
    ],
    ids=str,
)
def test_discrete_spaces_are_numbered_plainly(algorithm: Algorithm, space: spaces.Space) -> None:
    for name, env, policy in (
        ("action_space", SpacesEnv(None, space), "MlpPolicy"),
        ("observation_space", SpacesEnv(space, None), "MlpPolicy"),
        (r"observation_space\['part'\]", SpacesEnv(spaces.Dict(part=space), None), "MultiInputPolicy"),
    ):
        with pytest.raises(ValueError, match=rf"(?s)^{name}=.*: must be numbered from 0 and of one dimension"):
            make(algorithm, env, policy)


# Layers that node perturbation does not reach


class BareParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(th.ones(6))

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x * self.gain


class FirstOutput(nn.Module):
    """A recurrent layer over a sequence of one."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 6)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.gru(x[None])[0][0]


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
        (FirstOutput, r"features_extractor\.tested\.gru"),
        (BareParameter, r"features_extractor\.tested\.gain"),
        (NeverCalled, r"features_extractor\.tested\.spare"),
    ],
    ids=["LayerNorm", "BatchNorm", "PReLU", "GRU", "parameter", "never-called"],
)


def extractor_kwargs(layer: Callable[[], nn.Module], frozen: bool) -> dict[str, Any]:
    return {
        "features_extractor_class": Extractor,
        "features_extractor_kwargs": {"layer": layer, "frozen": frozen},
        "head_gain": 1.0,
    }


@each_rule
@each_unreachable_layer
def test_layer_that_would_never_learn_is_refused_by_name(
    algorithm: Algorithm, rule: str, layer: Callable[[], nn.Module], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        make(algorithm, rule=rule, policy_kwargs=extractor_kwargs(layer, frozen=False))


@each_rule
@each_unreachable_layer
@pytest.mark.parametrize("optimizer_class", [th.optim.SGD, th.optim.AdamW])
def test_frozen_layer_is_accepted_and_stays(
    algorithm: Algorithm,
    rule: str,
    layer: Callable[[], nn.Module],
    named: str,
    optimizer_class: type[th.optim.Optimizer],
) -> None:
    kwargs = {**extractor_kwargs(layer, frozen=True), "optimizer_class": optimizer_class}
    model = make(algorithm, rule=rule, policy_kwargs={**kwargs, "optimizer_kwargs": {"weight_decay": 0.1}})
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(30)
    changed = {name for name, value in model.policy.state_dict().items() if not th.equal(value, before[name])}
    assert changed == {name for name in before if "tested" not in name}


# Environments that break

FAULTY_ENV = 1
OVERFLOW = "ignore:(overflow|invalid value) encountered:RuntimeWarning"
REWARD_TIMES: dict[str, dict[str, Any]] = {
    **{timing: {"rule": "average", "reward_timing": timing} for timing in ("episode", "step", "nonzero")},
    "critic": {"n_steps": 4},
}
Obs = np.ndarray | dict[str, np.ndarray]


class FaultyEnv(gymnasium.Env):
    """
    Random observations, rewards that depend on the action, episodes of 5 steps, and one fault.

    :param fault: What to break: "observation" or "reward"
    :param at: Number of the step, counted over all episodes, 0 being the first reset; None for never
    :param value: The broken value
    :param dictionary: Whether observations are dictionaries
    """

    action_space = spaces.Discrete(3)

    def __init__(self, fault: str, at: int | None, value: float, dictionary: bool) -> None:
        vector = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.dictionary = dictionary
        self.observation_space: spaces.Space = spaces.Dict(a=vector, b=vector) if dictionary else vector
        self.fault, self.at, self.value = fault, at, value
        self.n_steps = 0
        self.before_fault: Callable[[], None] = lambda: None

    def _observation(self) -> Obs:
        vectors = {key: self.np_random.normal(size=3).astype(np.float32) for key in ("a", "b")}
        if self.fault == "observation" and self.n_steps == self.at:
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
            if self.fault == "reward":
                reward = self.value
        return self._observation(), reward, False, self.time == 5, {}


def faulty_envs(fault: str, at: int, value: float, dictionary: bool = False) -> DummyVecEnv:
    """Three environments, of which the second breaks."""
    places = [at if env == FAULTY_ENV else None for env in range(3)]
    return DummyVecEnv([partial(FaultyEnv, fault, place, value, dictionary) for place in places])


def naming(*parts: str) -> str:
    """Matches a message that has all these words, in any order."""
    return "(?i)" + "".join(rf"(?=.*{re.escape(part)}(?!\w))" for part in parts)


@pytest.mark.parametrize(
    ("algorithm", "times"),
    [(algorithm, times) for algorithm in ALL for times in REWARD_TIMES if algorithm is not RMHL or times != "critic"],
)
@pytest.mark.parametrize(
    ("fault", "value"),
    [("reward", math.nan), ("reward", -math.inf), ("observation", math.nan), ("observation", math.inf)],
)
@pytest.mark.parametrize("at", [13, 15], ids=["amid-an-episode", "at-its-end"])
def test_fault_is_named_and_changes_no_weight(
    algorithm: Algorithm, times: str, fault: str, value: float, at: int
) -> None:
    envs = faulty_envs(fault, at, value)
    model = make(algorithm, envs, **REWARD_TIMES[times])
    initial = weights(model)
    before: list[np.ndarray] = []
    predictions: list[np.ndarray] = []

    def prediction() -> np.ndarray:
        return np.array([] if model.reward_predictor is None else model.reward_predictor.average)

    def look() -> None:
        before.append(weights(model))
        predictions.append(prediction())

    envs.envs[FAULTY_ENV].before_fault = look  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=naming(fault, f"environment {FAULTY_ENV}", str(value))):
        model.learn(100)
    assert len(before) == 1
    assert not np.array_equal(before[0], initial)
    assert np.array_equal(weights(model), before[0])
    assert np.array_equal(prediction(), predictions[0], equal_nan=True)


@each_rule
@pytest.mark.parametrize("at", [0, 7], ids=["reset", "step"])
@pytest.mark.parametrize("dictionary", [False, True], ids=["box", "dict"])
def test_fault_of_an_observation_says_where(algorithm: Algorithm, rule: str, at: int, dictionary: bool) -> None:
    envs = faulty_envs("observation", at, math.nan, dictionary)
    policy = "MultiInputPolicy" if dictionary else "MlpPolicy"
    model = make(algorithm, envs, policy, rule, reward_timing="step", n_steps=4)
    initial = weights(model)
    where = ("b", "[2]") if dictionary else ("[2]",)
    with pytest.raises(
        ValueError, match=naming("observation", *where, f"environment {FAULTY_ENV}", f"step {3 * at}", "nan")
    ):
        model.learn(100)
    assert np.array_equal(weights(model), initial) == (at == 0)
    assert np.isfinite(weights(model)).all()


RETURN = 10.0


def learn_returns(algorithm: Algorithm) -> Any:
    """A model that has seen two episodes of ten steps, and knows what all of them return."""
    env = DummyVecEnv([lambda: ClockEnv([[1.0] * 10])])
    settings = {"reward_prediction": "average"} if algorithm is not RMHL else {}
    model = make(algorithm, env, **settings).learn(20)
    assert model.reward_predictor.average == RETURN
    return model


def freeze(model: Any) -> None:
    model.policy.hidden_net[0].requires_grad_(False)


def replace(model: Any) -> None:
    model.set_parameters(model.get_parameters())


@each_algorithm
@pytest.mark.parametrize("at", [27, 30])
@pytest.mark.parametrize("within", [False, True], ids=["between trainings", "in a callback"])
@pytest.mark.parametrize("change", [freeze, replace], ids=["frozen layer", "parameters"])
def test_what_drops_the_traces_leaves_the_sum_of_rewards(
    algorithm: Algorithm, change: Callable[[Any], None], within: bool, at: int
) -> None:
    def callback(*_: Any) -> bool:
        if within and model.num_timesteps == at:
            change(model)
        return True

    model = learn_returns(algorithm)
    model.learn(at - 20, callback, reset_num_timesteps=False)
    if not within:
        change(model)
    model.learn(40 - at, reset_num_timesteps=False)
    assert model.reward_predictor.average == RETURN


@each_algorithm
def test_more_steps_that_can_wait_leave_the_sum_of_rewards(algorithm: Algorithm) -> None:
    model = learn_returns(algorithm)
    model.learn(7, reset_num_timesteps=False)
    model.n_steps = 64
    model.learn(3, reset_num_timesteps=False)
    assert model.reward_predictor.average == RETURN


@each_rule
@pytest.mark.parametrize("n_steps", [4, 64])
def test_another_number_of_steps_waits_for_the_next_training(algorithm: Algorithm, rule: str, n_steps: int) -> None:
    def change(*_: Any) -> bool:
        if model.num_timesteps == 30:
            model.n_steps = n_steps
        return True

    model = make(algorithm, ScriptedEnv([50]), rule=rule)
    model.learn(200, change)
    assert (model.num_timesteps, model.rollout_buffer.n_steps) == (200, 16)
    model.learn(200, reset_num_timesteps=False)
    assert (model.num_timesteps, model.rollout_buffer.n_steps) == (400, n_steps)


@each_rule
def test_parameters_that_are_refused_in_part_drop_the_traces_too(algorithm: Algorithm, rule: str) -> None:
    model = make(algorithm, rule=rule)
    model.learn(20, lambda *_: model.num_timesteps < 18)
    assert model.rollout_buffer.pos > 0
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        model.set_parameters({"policy": model.policy.state_dict()})
    assert (model.rollout_buffer.pos, model.rollout_buffer.trace_EW) == (0, None)


@each_algorithm
@pytest.mark.parametrize("at", [25, 30])
def test_training_goes_on_with_a_new_episode_after_an_interruption(algorithm: Algorithm, at: int) -> None:
    def interrupt(seen: dict[str, Any], _: dict[str, Any]) -> bool:
        if seen["self"].num_timesteps == at:
            raise KeyboardInterrupt
        return True

    model = learn_returns(algorithm)
    with pytest.raises(KeyboardInterrupt):
        model.learn(20, interrupt, reset_num_timesteps=False)
    model.learn(10, reset_num_timesteps=False)
    assert model.reward_predictor.average == RETURN


@each_rule
@pytest.mark.parametrize("fault", ["observation", "reward"])
def test_learning_goes_on_with_sound_environments(algorithm: Algorithm, rule: str, fault: str) -> None:
    model = make(algorithm, faulty_envs(fault, 8, math.nan), rule=rule)
    with pytest.raises(ValueError, match=naming(f"environment {FAULTY_ENV}")):
        model.learn(100)
    before, num_timesteps = weights(model), model.num_timesteps
    model.set_env(faulty_envs(fault, -1, math.nan))
    model.learn(30, reset_num_timesteps=False)
    assert model.num_timesteps == num_timesteps + 30
    assert np.isfinite(weights(model)).all()
    assert not np.array_equal(weights(model), before)


@each_rule
@pytest.mark.filterwarnings("error")
def test_large_but_finite_observation_is_no_fault(algorithm: Algorithm, rule: str) -> None:
    model = make(algorithm, faulty_envs("observation", 0, 1e30), rule=rule)
    # A critic learns from whatever a training leaves, but not if it was stopped.
    assert model.learn(6, callback=lambda *_: False).num_timesteps == 3


# Divergence


class Watch(BaseCallback):
    """Keeps the weights that the model last acted with."""

    def _on_rollout_start(self) -> None:
        self.weights = weights(self.model)

    def _on_step(self) -> bool:
        self.weights = weights(self.model)
        return True


@pytest.mark.filterwarnings(OVERFLOW)
@each_rule
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
    algorithm: Algorithm, rule: str, learning_rate: float, make_env: Callable[[], Any]
) -> None:
    kwargs = {**AVERAGE["policy_kwargs"], "net_arch": [8] * 4}  # which diverges as soon as its learning rate is large
    settings = {"learning_rate": learning_rate, "max_grad_norm": None, "reward_timing": "step"}
    model = make(algorithm, make_env(), rule=rule, policy_kwargs=kwargs, **settings)
    watch = Watch()
    with pytest.raises(FloatingPointError, match="learning_rate"):
        model.learn(1000, callback=watch)
    assert np.isfinite(weights(model)).all()
    assert np.array_equal(weights(model), watch.weights)


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer_class": th.optim.SGD},
    "momentum": {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
    "adam": {"optimizer_class": th.optim.Adam},
}


def moments(model: BaseAlgorithm) -> np.ndarray:
    """The optimizer's memory of earlier updates."""
    states = model.policy.optimizer.state_dict()["state"].values()
    names = ("momentum_buffer", "exp_avg", "exp_avg_sq")
    parts = [state[name].flatten() for state in states for name in names if state.get(name) is not None]
    return th.cat(parts).numpy() if parts else np.zeros(0)


class Explodes(th.optim.Adam):
    """Makes weights infinite, once it is told to."""

    told = False

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        if self.told:
            self.param_groups[0]["params"][0].data.fill_(math.inf)
        return loss


@each_rule
def test_moments_that_hold_a_refused_change_are_forgotten(algorithm: Algorithm, rule: str) -> None:
    env = DummyVecEnv([lambda: ScriptedEnv([5])])
    model = make(algorithm, env, rule=rule, policy_kwargs={"optimizer_class": Explodes}).learn(30)
    before, optimizer = weights(model), model.policy.optimizer
    assert moments(model).any()
    optimizer.told = True
    with pytest.raises(FloatingPointError, match=r"Update \d+ was refused"):
        model.learn(30, reset_num_timesteps=False)
    assert np.array_equal(weights(model), before)
    assert len(moments(model)) == 0
    optimizer.told = False
    model.learn(30, reset_num_timesteps=False)
    assert 0 < np.abs(weights(model) - before).max() < 1


@pytest.mark.filterwarnings(OVERFLOW)
@each_rule
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_with_a_lower_learning_rate(
    algorithm: Algorithm, rule: str, optimizer: str, tmp_path: Path
) -> None:
    env = DummyVecEnv([lambda: ScriptedEnv([5], payment=1e3)])
    kwargs = {"net_arch": [8], "head_gain": 1.0, **OPTIMIZERS[optimizer]}
    model = make(algorithm, env, rule=rule, learning_rate=1e-5, policy_kwargs=kwargs).learn(30)
    before, moments_before = weights(model), moments(model)

    model.lr_schedule = lambda _: 3e38
    with pytest.raises(FloatingPointError, match=r"learning_rate \(now 3e\+38\)"):
        model.learn(30, reset_num_timesteps=False)
    assert np.array_equal(weights(model), before)
    assert np.array_equal(moments(model), moments_before) or not moments(model).any()

    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=env, device="cpu", learning_rate=1e-5)
    model.lr_schedule = lambda _: 1e-5
    for either in (loaded, model):
        assert np.array_equal(weights(either), before)
        either.learn(30, reset_num_timesteps=False)
        assert 0 < np.abs(weights(either) - before).max() < 1
