"""The critic: its errors by hand, its traces by brute force, its updates against the exact gradient."""

import math
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from torch import nn

from sb3_nrl import BPTT, NRL, RMHL, networks, reward_modulated
from sb3_nrl.networks import NumpyNetwork, TorchNetwork
from sb3_nrl.perturbation import NodePerturbation
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.reward_modulated import RewardModulatedAlgorithm
from sb3_nrl.reward_prediction import temporal_differences
from sb3_nrl.traces import PendingSteps
from tests.envs import ClockEnv, ScriptedEnv

LENGTHS = ([3, 5, 4, 9], [7, 2, 6], [11, 1, 8])
CRITIC: dict[str, Any] = {
    "reward_prediction": "critic",
    "reward_timing": "step",
    "gamma": 0.9,
    "trace_decay": 0.8,
    "n_steps": 4,
    "seed": 0,
    "device": "cpu",
}
SMALL = {"net_arch": {"pi": [6, 5], "vf": [7]}, "head_gain": 1.0, "use_bias": True, "activation_fn": nn.Tanh}

each_algorithm = pytest.mark.parametrize("algorithm", [NRL, BPTT])


class Shared(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Box, net: nn.Module) -> None:
        super().__init__(observation_space, features_dim=8)
        self.net = net

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.net(x)


class Own(Shared):
    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, nn.Linear(4, 8))


class Altered(VecEnvWrapper):
    """Environments whose steps are changed on the way."""

    def __init__(self, venv: VecEnv, change: Callable[..., Any]) -> None:
        super().__init__(venv)
        self.change = change

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        return self.change(*self.venv.step_wait())


def make(algorithm: type[NRL] | type[BPTT], n_envs: int = 1, space: spaces.Space | None = None, **settings: Any) -> Any:
    def env(place: int) -> ScriptedEnv:
        scripted = ScriptedEnv(LENGTHS[place])
        scripted.action_space = space or scripted.action_space
        return scripted

    envs = DummyVecEnv([partial(env, place) for place in range(n_envs)])
    return algorithm("MlpPolicy", envs, **{**CRITIC, "policy_kwargs": SMALL, **settings})


def predict_constantly(model: RewardModulatedAlgorithm, value: float) -> None:
    model.policy.value_net.weight.data.zero_()
    model.policy.value_net.bias.data.fill_(value)


def record_folds(model: RewardModulatedAlgorithm) -> list[dict[str, Any]]:
    """What is folded into the traces, and what comes of it."""
    folds: list[dict[str, Any]] = []

    def watch(errors_TE: np.ndarray, ends_TE: np.ndarray, change_W: Any) -> None:
        steps = model.rollout_buffer.waiting(model.network)
        folds.append({"steps": steps, "errors": errors_TE, "ends": ends_TE.copy(), "change": np.asarray(change_W)})

    model.rollout_buffer.watchers.append(watch)
    return folds


# The errors


def test_error_is_the_temporal_difference() -> None:
    rewards = np.array([[1, 2], [3, 4], [5, 6]])
    ends = np.array([[False, False], [True, False], [False, False]])
    values = np.array([[10, 20], [30, 40], [50, 60], [70, 80]])
    errors = temporal_differences(rewards, ends, values, gamma=0.5)
    assert errors.tolist() == [[1 + 15 - 10, 2 + 20 - 20], [3 - 30, 4 + 30 - 40], [5 + 35 - 50, 6 + 40 - 60]]


@each_algorithm
@pytest.mark.parametrize("dictionary", [False, True])
def test_time_limits_bootstrap_and_terminations_do_not(algorithm: Any, dictionary: bool) -> None:
    """Rewards of 1, V = 10 everywhere, γ = 0.9; episodes of 5 steps that a limit ends after 3, and of 2 steps."""
    inner = ClockEnv([[1] * 5, [1] * 2, [1] * 5, [1] * 2])
    env: gymnasium.Env = gymnasium.wrappers.TimeLimit(inner, 3)
    policy = "MlpPolicy"
    if dictionary:
        policy = "MultiInputPolicy"
        env = gymnasium.wrappers.TransformObservation(
            env, lambda obs: {"clock": obs}, spaces.Dict(clock=inner.observation_space)
        )
    model = algorithm(policy, env, policy_kwargs={"use_bias": True}, learning_rate=0.0, **CRITIC)
    predict_constantly(model, 10.0)
    folds = record_folds(model)
    model.learn(10)
    # In between and at the limit 1 + 9 - 10, at a termination 1 - 10.
    errors = np.concatenate([fold["errors"] for fold in folds]).ravel()
    assert errors == pytest.approx([0, 0, 0, 0, -9, 0, 0, 0, 0, -9], abs=1e-5)
    ends = np.concatenate([fold["ends"] for fold in folds]).ravel()
    assert ends.tolist() == [False, False, True, False, True] * 2


def test_weights_wait_for_n_steps_and_the_last_steps_count_too() -> None:
    model = make(BPTT, n_envs=2, n_steps=4)
    folds = record_folds(model)
    model.learn(2 * 10)
    assert [len(fold["errors"]) for fold in folds] == [4, 4, 2]
    assert model._n_updates == 3
    assert all(fold["change"].any() for fold in folds)


def errors_and_log_probs(model: RewardModulatedAlgorithm) -> tuple[np.ndarray, np.ndarray]:
    """Of eight steps."""
    folds, log_probs = record_folds(model), []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        log_probs.append(local["log_probs"].item())
        return True

    model.learn(8, watch)
    return np.concatenate([fold["errors"] for fold in folds]).ravel(), np.array(log_probs)


@each_algorithm
@pytest.mark.parametrize("entropy", [0.0, 0.5])
def test_surprising_actions_are_rewarded(algorithm: Any, entropy: float) -> None:
    model = algorithm(
        "MlpPolicy",
        ClockEnv([[1] * 50]),
        ent_coef=entropy,
        learning_rate=0.0,
        policy_kwargs=SMALL,
        **CRITIC,
    )
    predict_constantly(model, 0.0)
    errors, log_probs = errors_and_log_probs(model)
    assert errors == pytest.approx(1 - entropy * log_probs, rel=1e-5)
    assert max(log_probs) < -0.1


@each_algorithm
def test_error_with_a_critic_that_has_not_learned(algorithm: Any) -> None:
    """By hand from what callbacks see: time limits after 4 steps, terminations, two environments, an entropy reward."""
    envs: list[Any] = [
        lambda: gymnasium.wrappers.TimeLimit(ScriptedEnv([9, 3]), 4),
        lambda: gymnasium.wrappers.TimeLimit(ScriptedEnv([2, 7]), 4),
    ]
    settings = {**CRITIC, "n_steps": 5, "ent_coef": 0.3}
    model = algorithm("MlpPolicy", DummyVecEnv(envs), learning_rate=0.0, policy_kwargs=SMALL, **settings)
    folds, expected = record_folds(model), []

    def value(obs: Any) -> float:
        return model.policy.predict_values(th.as_tensor(obs)[None]).item()

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        deltas = []
        for env, info in enumerate(local["infos"]):
            assert local["rewards"][env] == info["reward"]
            coming = 0.0 if local["dones"][env] else value(local["new_obs"][env])
            if info.get("TimeLimit.truncated"):
                coming = value(info["terminal_observation"])
            reward = info["reward"] - 0.3 * local["log_probs"][env]
            deltas.append(reward + CRITIC["gamma"] * coming - value(local["obs"][env]))
        expected.append(deltas)
        return True

    def tell(obs: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> Any:
        return obs, rewards, dones, [{**info, "reward": rewards[env]} for env, info in enumerate(infos)]

    model.set_env(Altered(model.get_env(), tell))
    model.learn(60, watch)
    errors = np.concatenate([fold["errors"] for fold in folds])
    assert np.ptp(errors) > 0.5
    np.testing.assert_allclose(errors, expected, rtol=1e-4, atol=1e-5)


@each_algorithm
def test_surprising_actions_of_a_gaussian_are_rewarded(algorithm: Any) -> None:
    model = make(algorithm, space=spaces.Box(-9, 9, (1,)), ent_coef=0.5, learning_rate=0.0)
    predict_constantly(model, 0.0)
    errors, log_probs = errors_and_log_probs(model)
    assert errors == pytest.approx(-0.5 * log_probs, rel=1e-5)


@each_algorithm
def test_credit_is_for_the_action_that_was_drawn_not_for_the_clipped_one(algorithm: Any) -> None:
    model = make(algorithm, space=spaces.Box(-0.01, 0.01, (1,)), learning_rate=0.0)
    folds, drawn = record_folds(model), []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        assert np.abs(local["clipped_actions"]).max() <= 0.01
        drawn.append(local["actions"])
        return True

    model.learn(4, watch)
    credited = folds[0]["steps"].actions
    assert np.abs(credited).max() > 0.1
    np.testing.assert_array_equal(credited, np.concatenate(drawn))


@each_algorithm
@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float32])
def test_ends_may_be_numbers(algorithm: Any, kind: type) -> None:
    plain, numbers = make(algorithm, n_envs=2), make(algorithm, n_envs=2)
    numbers.set_env(
        Altered(numbers.get_env(), lambda obs, rewards, dones, infos: (obs, rewards, dones.astype(kind), infos))
    )
    for model in (plain, numbers):
        set_random_seed(0)
        model.get_env().seed(0)
        model.learn(60)
    np.testing.assert_array_equal(plain.policy.parameters_to_vector(), numbers.policy.parameters_to_vector())


def test_time_limit_without_a_last_observation_counts_as_an_end() -> None:
    def forget(obs: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> Any:
        for info in infos:
            info.pop("terminal_observation", None)
        return obs, rewards, dones, infos

    envs = DummyVecEnv([lambda: gymnasium.wrappers.TimeLimit(ClockEnv([[1] * 5]), 2)])
    model = BPTT("MlpPolicy", Altered(envs, forget), learning_rate=0.0, policy_kwargs=SMALL, **CRITIC)
    predict_constantly(model, 10.0)
    folds = record_folds(model)
    model.learn(4)
    np.testing.assert_allclose(folds[0]["errors"].ravel(), [0, -9, 0, -9], atol=1e-5)


def test_refused_update_spoils_no_trace() -> None:
    """A reward beyond what weights can follow, then ordinary ones."""
    env = ClockEnv([[1] * 4, [1e38] * 4, [1] * 4, [1] * 4])
    model = BPTT(
        "MlpPolicy", env, max_grad_norm=None, policy_kwargs={**SMALL, "optimizer_class": th.optim.SGD}, **CRITIC
    )
    model.policy.value_net.weight.data.fill_(1e3)
    with pytest.raises(FloatingPointError, match="refused"):
        model.learn(40)
    model.policy.value_net.weight.data.zero_()
    assert np.isfinite(model.learn(4, reset_num_timesteps=False).policy.parameters_to_vector()).all()


def test_initial_predictions_scale_with_the_gain_of_the_head() -> None:
    obs = th.randn(20, 4)
    small, large = (
        make(NRL, policy_kwargs={**SMALL, "head_gain": gain}).policy.predict_values(obs) for gain in (0.1, 1.0)
    )
    th.testing.assert_close(10 * small, large)


@each_algorithm
def test_values_have_the_shape_of_those_of_actor_critics(algorithm: Any) -> None:
    assert make(algorithm).policy.predict_values(th.randn(5, 4)).shape == (5, 1)
    with pytest.raises(ValueError, match="predicts no values"):
        algorithm("MlpPolicy", ScriptedEnv([5]), reward_prediction="average").policy.predict_values(th.randn(5, 4))


def test_values_of_many_steps_are_predicted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make(NRL, n_envs=3, n_steps=7, learning_rate=0.0)
    folds_of_whole = record_folds(whole)
    whole.learn(21)
    model = make(NRL, n_envs=3, n_steps=7, learning_rate=0.0)
    folds, sizes = record_folds(model), []
    monkeypatch.setattr(
        reward_modulated, "_MAX_NODES_AT_ONCE", 2 * 3 * model._n_samples * model.policy.perturbation.n_nodes
    )
    plain_values = NumpyNetwork.values

    def values(network: NumpyNetwork, obs: np.ndarray) -> Any:
        sizes.append(len(obs))
        return plain_values(network, obs)

    monkeypatch.setattr(NumpyNetwork, "values", values)
    model.learn(21)
    assert sizes == [6, 6, 6, 3, 3]
    np.testing.assert_allclose(folds[0]["errors"], folds_of_whole[0]["errors"], rtol=1e-5)


@pytest.mark.parametrize("argument", ["action_correlation", "log_std_init"])
def test_width_and_direction_of_exploration_are_for_continuous_actions(argument: str) -> None:
    with pytest.raises(ValueError, match=rf"{argument}=0\.5: must be 0 but for Box actions"):
        make(NRL, policy_kwargs={argument: 0.5})


def test_model_with_a_critic_is_not_taken_for_one_without(tmp_path: pathlib.Path) -> None:
    make(NRL).save(tmp_path / "model")
    with pytest.raises(ValueError, match="reward_prediction='critic': must be \"average\", since RMHL has no critic"):
        RMHL.load(tmp_path / "model")


def test_default_of_another_discount_is_there_on_loading_too(tmp_path: pathlib.Path) -> None:
    make(NRL, gamma=0.9, trace_decay=0.8).save(tmp_path / "model")
    assert NRL.load(tmp_path / "model", gamma=0.95).decay == 0.8
    assert NRL.load(tmp_path / "model", gamma=0.5, trace_decay=None).decay == pytest.approx(0.95 * 0.5)
    saved = make(NRL, gamma=0.9, trace_decay=None)
    saved.save(tmp_path / "model")
    model = NRL.load(tmp_path / "model", env=saved.get_env(), gamma=0.5)
    assert model.decay == pytest.approx(0.95 * 0.5)
    model.gamma = 0.25
    assert model.decay == pytest.approx(0.95 * 0.25)
    model.learn(10)


def test_each_environment_has_time_limits_of_its_own() -> None:
    envs: list[Any] = [
        lambda: gymnasium.wrappers.TimeLimit(ClockEnv([[1] * 5]), 2),
        lambda: ClockEnv([[1] * 5]),
        lambda: ClockEnv([[1] * 2], n_inputs=5),
    ]
    settings = {**CRITIC, "n_steps": 6}
    model = BPTT("MlpPolicy", DummyVecEnv(envs), learning_rate=0.0, policy_kwargs=SMALL, **settings)
    predict_constantly(model, 10.0)
    folds = record_folds(model)
    model.learn(18)
    np.testing.assert_allclose(folds[0]["errors"].T, [[0] * 6, [0, 0, 0, 0, -9, 0], [0, -9] * 3], atol=1e-5)


class Numbered(gymnasium.Env):
    """Observations that are whole numbers, alone or in a dictionary; infinite ones at the end if asked for."""

    action_space: spaces.Space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space, observation: Any, last: Any) -> None:
        self.observation_space, self.observation, self.last = space, observation, last

    def reset(self, **_: Any) -> Any:
        self.time = 0
        return self.observation, {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return self.last if self.time == 3 else self.observation, 1.0, False, self.time == 3, {}


@pytest.mark.parametrize(
    ("policy", "space", "observation"),
    [
        ("MlpPolicy", spaces.Discrete(3), 1),
        ("MlpPolicy", spaces.MultiDiscrete([2, 3]), [1, 2]),
        ("MlpPolicy", spaces.Box(-1, 1, (2,)), [0.5, 0.25]),
        ("MultiInputPolicy", spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (2,))), {"a": 1, "b": np.ones(2)}),
    ],
    ids=["number", "numbers", "list", "dictionary"],
)
def test_last_observations_may_be_what_environments_give(policy: str, space: spaces.Space, observation: Any) -> None:
    model = NRL(policy, Numbered(space, observation, observation), **CRITIC)
    model.learn(20)
    assert model._n_updates == 5


def test_last_observation_that_is_not_finite_is_refused() -> None:
    space = spaces.Box(-np.inf, np.inf, (2,))
    lasts = (np.zeros(2), np.array([0, np.nan]), np.zeros(2))
    envs = DummyVecEnv([partial(Numbered, space, np.zeros(2), last) for last in lasts])
    model = NRL("MlpPolicy", envs, **CRITIC)
    with pytest.raises(ValueError, match=r"Environment 1 gave nan as observation\[1\] at step 9"):
        model.learn(20)


# The traces


@pytest.mark.parametrize("decay", [1.0, 0.8, 0.0])
@pytest.mark.parametrize("n_at_once", [1, 3, 100])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("hooked", [False, True])
def test_change_is_what_the_errors_of_each_step_make_of_its_trace(
    hooked: bool, n_envs: int, n_at_once: int, decay: float
) -> None:
    """A trace for each environment and synapse, one step after the other, in double precision."""
    model = make(BPTT, n_envs)
    if hooked:
        model.policy.action_net.register_forward_hook(lambda *_: None)
        model.learn(0)
    network, buffer = model.network, model.rollout_buffer
    assert isinstance(network, NumpyNetwork) is not hooked
    generator = np.random.default_rng(0)
    traces = np.zeros((n_envs, len(network.gradient_W)))
    for n_steps in (4, 2, 4):
        errors = generator.normal(size=(n_steps, n_envs))
        ends = generator.random((n_steps, n_envs)) < 0.3
        for _ in range(n_steps):
            buffer.add(
                generator.normal(size=(n_envs, 4)).astype(np.float32),
                generator.integers(3, size=n_envs),
                *np.zeros((2, n_envs), np.float32),
                np.zeros(n_envs, bool),
            )
        expected = np.zeros(traces.shape[1])
        for step in range(n_steps):
            post, pre = model._credit(buffer.waiting(network, slice(step, step + 1)))
            traces = decay * traces + np.asarray(network.outer(post, pre, n_envs), float)
            norm = np.sqrt((traces**2).sum() / n_envs)
            expected += errors[step] @ traces
            traces[ends[step]] = 0
        change, trace_norm = buffer.fold(model._credit, network, n_at_once, decay, errors, ends)
        np.testing.assert_allclose(change, expected, rtol=1e-3, atol=1e-5)
        assert trace_norm == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_exact_updates_are_those_of_double_precision_autograd(n_envs: int) -> None:
    """Weights after a training by W ← W + η Σ δ e, with e ← γ_e e + ∇(log π(a|s) + V(s))."""
    rate, gamma, decay = 0.05, CRITIC["gamma"], CRITIC["trace_decay"]
    sgd = {**SMALL, "optimizer_class": th.optim.SGD}
    model = make(BPTT, n_envs, learning_rate=rate, max_grad_norm=None, policy_kwargs=sgd)
    start = make(BPTT, n_envs).policy.double()
    seen: list[dict[str, np.ndarray]] = []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        seen.append({name: local[name].copy() for name in ("obs", "actions", "rewards", "dones", "new_obs")})
        return True

    model.learn(30 * n_envs, watch)
    weights = list(start.parameters())
    traces = [[th.zeros_like(weight) for weight in weights] for _ in range(n_envs)]
    for first in range(0, 30, CRITIC["n_steps"]):
        change = [th.zeros_like(weight) for weight in weights]
        for step in seen[first : first + CRITIC["n_steps"]]:
            for env in range(n_envs):
                obs, new_obs = (th.as_tensor(step[name][env : env + 1]).double() for name in ("obs", "new_obs"))
                log_prob = start.action_net(start.hidden_net(obs)).log_softmax(1)[0, step["actions"][env]]
                value, new_value = (start.value_net(start.vf_hidden_net(seen)) for seen in (obs, new_obs))
                gradients = th.autograd.grad(log_prob + value.sum(), weights)
                coming = 0.0 if step["dones"][env] else gamma * new_value.item()
                delta = step["rewards"][env] + coming - value.item()
                for place, gradient in enumerate(gradients):
                    traces[env][place] = decay * traces[env][place] + gradient
                    change[place] += delta * traces[env][place]
                    if step["dones"][env]:
                        traces[env][place] = th.zeros_like(gradient)
        with th.no_grad():
            for weight, total in zip(weights, change, strict=True):
                weight += rate * total
    untrained = make(BPTT, n_envs).policy
    for (name, weight), wanted, before in zip(
        model.policy.named_parameters(), weights, untrained.parameters(), strict=True
    ):
        moved = (wanted - before.double()).norm()
        assert moved > 1e-3, name
        assert (weight.double() - wanted).norm() < 1e-3 * moved, name


# The credit

SPACES: list[spaces.Space] = [
    spaces.Discrete(3),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
    spaces.Box(-2, 2, (2,), np.float32),
]


def estimate_and_gradient(nrl: NRL, bptt: BPTT) -> list[list[th.Tensor]]:
    """The traces of a few steps, and what they estimate, by parameters."""
    obs = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    distribution = nrl.policy.get_distribution(th.as_tensor(obs))
    # Alike, so that no parameter's gradient is small by chance.
    actions = (
        distribution.mode() + 2 if isinstance(nrl.action_space, spaces.Box) else th.zeros_like(distribution.sample())
    )
    log_probs = distribution.log_prob(actions)
    array = nrl.network.array
    steps = PendingSteps(array(obs), array(actions.detach()), array(log_probs.detach()), None)
    return [
        model.policy.perturbation.split(th.as_tensor(model.network.outer(*model._credit(steps), 1))[0])
        for model in (nrl, bptt)
    ]


@pytest.mark.parametrize("noise_normalization", ["unbiased", "network", "layer"])
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_mean_estimate_is_the_exact_gradient_of_actor_and_critic(
    space: spaces.Space, antithetic: bool, noise_normalization: str
) -> None:
    """Each network is normalised by its own noise: n of it times too short in the paper's ways."""
    nrl = make(
        NRL,
        space=space,
        noise_std=1e-3,
        n_noise_samples=6_000,
        antithetic=antithetic,
        noise_normalization=noise_normalization,
    )
    estimated, exact = estimate_and_gradient(nrl, make(BPTT, space=space))
    sizes = [part.n_nodes for part in nrl.policy.parts]
    names = {parameter: name for name, parameter in nrl.policy.named_parameters()}
    for parameter, one, two in zip(nrl.policy.perturbation.parameters, estimated, exact, strict=True):
        name = names[parameter]
        of_critic = name.startswith("v")
        n = {"unbiased": 1, "network": sizes[of_critic], "layer": len(parameter)}[noise_normalization]
        if n > 2 or noise_normalization != "layer":  # else the estimate has no finite variance
            assert th.cosine_similarity(one.flatten(), two.flatten(), dim=0) > 0.97, name
            assert n * one.norm() / two.norm() == pytest.approx(1, abs=0.15), name


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_as_many_orthogonal_samples_as_nodes_are_the_exact_gradient(space: spaces.Space) -> None:
    """Or a multiple of that. Actor and critic have different numbers of nodes."""
    nrl = make(NRL, space=space, noise_distribution="orthogonal", noise_std=1e-2)
    actor, critic = (part.n_nodes for part in nrl.policy.parts)
    for n_samples, exactly in ((actor, [True, actor % critic == 0]), (actor * critic, [True, True]), (3, [False] * 2)):
        nrl.n_noise_samples = n_samples
        estimated, exact = estimate_and_gradient(nrl, make(BPTT, space=space))
        for (_, weights), is_exact in zip(nrl.policy.parts, exactly, strict=True):
            one, two = (th.cat([part.flatten() for part in parts])[weights] for parts in (estimated, exact))
            assert ((one - two).norm() < 2e-3 * two.norm()) == is_exact


@pytest.mark.parametrize("space", [SPACES[0], SPACES[3]], ids=["discrete", "box"])
@pytest.mark.parametrize("clean_passes", [None, 3])
def test_quick_network_predicts_and_credits_as_the_policy(space: spaces.Space, clean_passes: int | None) -> None:
    policy = make(NRL, space=space, clean_passes=clean_passes, noise_std=0.3).policy
    quick, plain = NumpyNetwork(policy), TorchNetwork(policy)
    obs = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    actions, _ = plain.act(obs)
    values = []
    for network in (quick, plain):
        th.manual_seed(0)
        values.append(np.asarray(network.values(obs)))
    assert values[0].shape == (9,)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-4, atol=1e-5)
    assert np.ptp(values[0]) > 0.1
    noise = policy.sample_noise(18)
    passes = [
        network.noisy_pass(network.array(obs), network.array(actions), network.array(noise))
        for network in (quick, plain)
    ]
    for one, two in zip(passes[0].objectives, passes[1].objectives, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert len(passes[0].objectives) == 2
    for received, expected in zip(passes[0].pre, passes[1].pre, strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", ["activation", "slope", "method", "extractor"])
def test_quick_network_follows_a_changed_critic(change: str) -> None:
    model = make(NRL, policy_kwargs={"net_arch": [5], "activation_fn": nn.LeakyReLU, "head_gain": 1.0})
    policy = model.policy
    if change == "activation":
        policy.vf_hidden_net[1] = nn.SiLU()
    elif change == "slope":
        policy.vf_hidden_net[1].negative_slope = 0.7
    elif change == "method":
        policy._values = lambda obs: obs[:, :1]
    else:
        policy.vf_features_extractor = nn.Sequential(nn.Flatten(), nn.Tanh())
    assert change == "method" or model.network.is_outdated()
    model.learn(0)
    obs = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    with th.no_grad():
        expected = policy.predict_values(th.as_tensor(obs))[:, 0]
    np.testing.assert_allclose(model.network.values(obs), expected, rtol=1e-4, atol=1e-6)


def test_actor_and_critic_do_not_perturb_each_other() -> None:
    policy = make(NRL, noise_std=0.5).policy
    (actor, actors_weights), (critic, critics_weights) = policy.parts
    assert (actor, critic) == (slice(0, 6 + 5 + 3), slice(14, 14 + 7 + 1))
    n_weights = 5 * 6 + 7 * 5 + 6 * 3
    assert (actors_weights, critics_weights) == (slice(0, n_weights), slice(n_weights, n_weights + 5 * 7 + 8 * 1))
    obs, actions = th.randn(4, 4), th.zeros(4, dtype=th.long)
    clean = policy.noisy_pass(obs, actions, th.zeros(4, 22)).objectives
    for silent, changed in ((actor, 1), (critic, 0)):
        noise = policy.sample_noise(4)
        noise[:, silent] = 0
        objectives = policy.noisy_pass(obs, actions, noise).objectives
        assert (objectives[changed] != clean[changed]).all()
        assert objectives[1 - changed].equal(clean[1 - changed])


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("clean_passes", [None, 3])
def test_forward_passes_only_and_noisy_ones_on_request(
    hooked: bool, clean_passes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(NRL, n_envs=2, clean_passes=clean_passes, noise_std=0.1)
    if hooked:
        model.policy.action_net.register_forward_hook(lambda *_: None)
    quick_run, perturbed_run, value = networks._run, NodePerturbation.run, NoisyPolicy._values
    passes = []

    def watched_quick_run(steps: Any, obs: Any, noise: Any, *received: Any) -> np.ndarray:
        passes.append("clean" if noise is None else "noisy")
        return quick_run(steps, obs, noise, *received)

    def watched_run(self: NodePerturbation, obs: Any, noise_BN: th.Tensor) -> Any:
        with monkeypatch.context() as within:
            within.setattr(NoisyPolicy, "_values", value)
            passes.append("noisy" if noise_BN.all() else "clean")
            return perturbed_run(self, obs, noise_BN)

    def watched_value(self: NoisyPolicy, obs: Any) -> th.Tensor:
        assert not th.is_grad_enabled()
        passes.append("clean")
        return value(self, obs)

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a backward pass")

    monkeypatch.setattr(networks, "_run", watched_quick_run)
    monkeypatch.setattr(NodePerturbation, "run", watched_run)
    monkeypatch.setattr(NoisyPolicy, "_values", watched_value)
    monkeypatch.setattr(th.Tensor, "backward", forbidden)
    monkeypatch.setattr(th.autograd, "grad", forbidden)
    model.learn(40)
    assert model._n_updates > 0
    assert set(passes) == ({"noisy"} if clean_passes else {"noisy", "clean"})


# The step

SGD = {**SMALL, "optimizer_class": th.optim.SGD}


def flat_weights(model: RewardModulatedAlgorithm) -> np.ndarray:
    """All weights that learn, as a change of them is."""
    return np.concatenate([weight.detach().numpy().ravel() for weight in model.policy.perturbation.parameters])


@pytest.mark.parametrize("frozen", [(), ("action_net.bias", "vf_hidden_net.0.weight"), ("log_std_net.weight",)])
def test_weights_of_the_actor_come_before_those_of_the_critic(frozen: tuple[str, ...]) -> None:
    policy = make(NRL, space=SPACES[3]).policy
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name not in frozen)
    policy.find_layers()
    names = {parameter: name for name, parameter in policy.named_parameters()}
    layers = ("hidden_net.0", "hidden_net.2", "action_net", "log_std_net", "vf_hidden_net.0", "value_net")
    in_order = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    in_order.remove("log_std_net.bias")
    learning = [name for name in in_order if name not in frozen]
    assert [names[parameter] for parameter in policy.perturbation.parameters] == learning
    n_actor, n_all = (
        sum(policy.get_parameter(name).numel() for name in learning if not (actor and name.startswith("v")))
        for actor in (True, False)
    )
    assert [part.weights for part in policy.parts] == [slice(0, n_actor), slice(n_actor, n_all)]


@pytest.mark.parametrize(
    ("bound", "actors", "critics"), [(0.5, 0.1, 1.0), (0.03, 0.006, 0.1), (5.0, 1.0, 1.0), (None, 1.0, 1.0)]
)
def test_changes_of_actor_and_critic_are_clipped_apart(bound: float | None, actors: float, critics: float) -> None:
    """The actor's change has a norm of 5, the critic's of 0.3."""
    model = make(NRL, learning_rate=0.1, max_grad_norm=bound, policy_kwargs=SGD)
    actor, critic = (part.weights for part in model.policy.parts)
    change = np.zeros(critic.stop, np.float32)
    change[actor.start], change[actor.stop - 1] = 3, -4
    change[critic.start], change[critic.stop - 1] = 0.1, 0.2 * 2**0.5
    factors = np.where(np.arange(critic.stop) < actor.stop, actors, critics)
    before = flat_weights(model)
    assert model._step(change) == pytest.approx((5**2 + 0.3**2) ** 0.5)
    np.testing.assert_allclose(flat_weights(model) - before, 0.1 * factors * change, rtol=1e-4, atol=1e-6)


@each_algorithm
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("rate", [0.02, lambda progress: 0.02 * progress], ids=["constant", "schedule"])
def test_critic_has_a_learning_rate_of_its_own(algorithm: Any, rate: Any, saved: bool, tmp_path: Any) -> None:
    """One update, at three quarters of what remains to be learned."""

    def change(vf_coef: float) -> tuple[np.ndarray, np.ndarray]:
        model = make(algorithm, learning_rate=rate, vf_coef=vf_coef, policy_kwargs=SGD)
        if saved:
            model.save(tmp_path / "model")
            model = algorithm.load(tmp_path / "model", env=model.get_env(), device="cpu")
            model.set_random_seed(0)
        before = flat_weights(model)
        model.learn(16, lambda *_: model.num_timesteps < 5)
        assert model._n_updates == 1
        assert model.logger.name_to_value["train/learning_rate"] == pytest.approx(0.02 if rate == 0.02 else 0.015)
        actor, critic = (part.weights for part in model.policy.parts)
        return (flat_weights(model) - before)[actor], (flat_weights(model) - before)[critic]

    (actor, critic), (same_actor, faster_critic) = change(1.0), change(3.0)
    assert np.abs(actor).max() > 1e-4
    assert np.abs(critic).max() > 1e-4
    np.testing.assert_array_equal(same_actor, actor)
    np.testing.assert_allclose(faster_critic, 3 * critic, rtol=1e-3, atol=1e-6)


@each_algorithm
def test_critics_learning_rate_can_be_changed_between_trainings(algorithm: Any) -> None:
    model = make(algorithm, learning_rate=0.02)
    for vf_coef in (1.0, 3.0, 0.5):
        model.vf_coef = vf_coef
        model.learn(8, reset_num_timesteps=False)
        assert [group["lr"] for group in model.policy.optimizer.param_groups] == pytest.approx([0.02, 0.02 * vf_coef])


@each_algorithm
def test_an_optimizer_that_does_not_know_the_critic_is_refused_where_it_matters(algorithm: Any) -> None:
    model = make(algorithm, learning_rate=0.02)
    policy = model.policy
    policy.optimizer = th.optim.SGD(policy.parameters(), lr=1.0)
    model.learn(8)
    assert model._n_updates == 2
    model.vf_coef = 2.0
    with pytest.raises(ValueError, match=r"^vf_coef=2.0: must be 1 as long as no group of policy.optimizer has"):
        model.learn(8)
    groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "critic": True}]
    for name, parameter in policy.named_parameters():
        groups[name.startswith("v")]["params"].append(parameter)
    policy.optimizer = th.optim.SGD(groups, lr=1.0)
    model.learn(8)
    assert [group["lr"] for group in policy.optimizer.param_groups] == [0.02, 0.04]


@pytest.mark.parametrize("vf_coef", [1e38, 1e100])
def test_a_critic_that_learns_too_fast_is_refused_and_changes_nothing(vf_coef: float) -> None:
    model = make(NRL, learning_rate=1.0, vf_coef=vf_coef, policy_kwargs=SGD)
    before = flat_weights(model)
    with pytest.raises(FloatingPointError, match="Update 1 was refused"):
        model.learn(8)
    np.testing.assert_array_equal(flat_weights(model), before)


@pytest.mark.parametrize(
    ("algorithm", "settings"), [(NRL, {}), (NRL, {"noise_distribution": "orthogonal"}), (BPTT, {})]
)
@pytest.mark.parametrize("of_critic", [False, True], ids=["actor", "critic"])
def test_a_whole_network_can_be_frozen(algorithm: Any, settings: dict[str, Any], of_critic: bool) -> None:
    model = make(algorithm, learning_rate=0.05, **settings)
    for name, parameter in model.policy.named_parameters():
        parameter.requires_grad_(name.startswith("v") != of_critic)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(16)
    changed = {name for name, value in model.policy.state_dict().items() if not value.equal(before[name])}
    assert changed == {name for name in before if name.startswith("v") != of_critic}


# Exploration


class Still(Numbered):
    """Always the same observation, episodes of three steps, and actions that are never clipped."""

    action_space = spaces.Box(-100, 100, (2,), np.float32)

    def __init__(self) -> None:
        super().__init__(spaces.Box(-1, 1, (4,)), np.ones(4, np.float32), np.ones(4, np.float32))


def make_explorer(correlation: Any = 0.8, hooked: bool = False, **settings: Any) -> Any:
    """Two environments and a policy that does not change, with a standard deviation of its own for each component."""
    kwargs = {**SMALL, "action_correlation": correlation}
    settings = {**CRITIC, "learning_rate": 0.0, "policy_kwargs": kwargs, **settings}
    model = NRL("MlpPolicy", DummyVecEnv([Still] * 2), **settings)
    model.policy.log_std_net.weight.data.copy_(th.tensor([[0.5], [-1.0]]))
    if hooked:
        model.policy.action_net.register_forward_hook(lambda *_: None)
    return model


def explore(model: Any, n_steps: int, **learn: Any) -> tuple[np.ndarray, np.ndarray]:
    """How many standard deviations the actions of a training are from their means, shape (T, E, A), and log π."""
    actions, log_probs = [], []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        assert local["actions"].dtype == np.float32
        actions.append(local["actions"].astype(float))
        log_probs.append(local["log_probs"])
        return True

    model.learn(2 * n_steps, watch, **learn)
    gaussian = model.policy.get_distribution(th.ones(1, 4)).distribution
    mean, std = (values.detach().double().numpy() for values in (gaussian.mean, gaussian.stddev))
    return (np.array(actions) - mean) / std, np.array(log_probs)


def drawn(n_steps: int) -> np.ndarray:
    """What the policy's generator gives after this seed, shape (T, E, A)."""
    return np.random.default_rng(5).standard_normal((n_steps, 2, 2), dtype=np.float32)


@pytest.mark.parametrize("correlation", [0.0, 0.8, np.float64(0.8)], ids=str)
@pytest.mark.parametrize("hooked", [False, True])
def test_deviations_follow_from_those_of_the_step_before(correlation: float, hooked: bool) -> None:
    """z ← c z + √(1 - c²) ε through episodes and trainings; the density of an action is that of the action alone."""
    model = make_explorer(correlation=correlation, hooked=hooked)
    new = drawn(15)
    model.set_random_seed(5)
    parts = [explore(model, 10), explore(model, 5, reset_num_timesteps=False)]
    assert isinstance(model.network, NumpyNetwork) is not hooked
    z, log_probs = (np.concatenate(part) for part in zip(*parts, strict=True))
    expected = new.copy()
    for step in range(1, 15):
        expected[step] = correlation * expected[step - 1] + (1 - correlation**2) ** 0.5 * new[step]
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
    densities = -0.5 * expected**2 - 0.5 * np.log(2 * np.pi) - [0.5, -1.0]
    np.testing.assert_allclose(log_probs, densities.sum(2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("restart", ["learn", "set_env", "load"])
def test_deviations_start_anew_where_the_environments_do(restart: str, tmp_path: Any) -> None:
    model = make_explorer()
    explore(model, 7)
    if restart == "set_env":
        model.set_env(DummyVecEnv([Still] * 2))
    elif restart == "load":
        model.save(tmp_path / "model")
        model = NRL.load(tmp_path / "model", env=DummyVecEnv([Still] * 2), device="cpu")
        assert model.policy.action_correlation == 0.8
    new = drawn(2)
    model.set_random_seed(5)
    z, _ = explore(model, 2, reset_num_timesteps=restart == "learn")
    np.testing.assert_allclose(z, [new[0], 0.8 * new[0] + 0.6 * new[1]], rtol=1e-4, atol=1e-5)


def test_deviations_have_unit_variance_and_components_of_their_own() -> None:
    model = make_explorer(correlation=0.6)
    z = np.array([model._deviate().ravel() for _ in range(20_000)])
    # They tell as much of a variance as 20,000 (1 - 0.36) / (1 + 0.36) = 9,400 independent ones: its error is 0.015.
    assert z.var(axis=0) == pytest.approx(np.ones(4), abs=0.06)
    for lag in (1, 2, 5):
        correlations = np.corrcoef(z[lag:].T, z[:-lag].T)[:4, 4:]
        np.testing.assert_allclose(correlations, 0.6**lag * np.eye(4), atol=0.06)


@pytest.mark.parametrize("clean_passes", [None, 3])
@pytest.mark.parametrize("noisy", [False, True])
def test_networks_agree_on_actions_so_many_standard_deviations_from_their_means(
    clean_passes: int | None, noisy: bool
) -> None:
    policy = make_explorer(clean_passes=clean_passes, noise_std=0.3).policy
    generator = np.random.default_rng(0)
    obs, z = (generator.normal(size=(9, n)).astype(np.float32) for n in (4, 2))
    noise = policy.sample_noise(9) if noisy else None
    seen = []
    for network in (NumpyNetwork(policy), TorchNetwork(policy)):
        th.manual_seed(0)
        seen.append(network.act(obs, None if noise is None else network.array(noise), z))
    for one, other in zip(*seen, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_predictions_are_not_correlated_and_do_not_disturb_a_training() -> None:
    kept = make_explorer(correlation=0.99)
    explore(kept, 4)
    before = kept._deviations.copy()
    gaussian = kept.policy.get_distribution(th.ones(1, 4)).distribution
    mean, std = gaussian.mean.detach().numpy()[0], gaussian.stddev.detach().numpy()[0]
    np.testing.assert_allclose(kept.predict(np.ones(4, np.float32), deterministic=True)[0], mean, rtol=1e-5)
    z = np.array([(kept.predict(np.ones(4, np.float32))[0] - mean) / std for _ in range(1000)])
    assert z.std(axis=0) == pytest.approx([1, 1], abs=0.1)
    assert abs(np.corrcoef(z[1:, 0], z[:-1, 0])[0, 1]) < 0.15
    np.testing.assert_array_equal(kept._deviations, before)


def test_a_saved_policy_keeps_its_correlation(tmp_path: Any) -> None:
    make_explorer().policy.save(tmp_path / "policy")
    assert NoisyPolicy.load(tmp_path / "policy").action_correlation == 0.8


# What a user sees


@each_algorithm
def test_it_learns_the_discounted_sum_of_rewards_to_come(algorithm: Any) -> None:
    rewards = [0.0, 1.0, 0.0, -2.0, 3.0]
    model = algorithm(
        "MlpPolicy",
        DummyVecEnv([lambda: ClockEnv([rewards])] * 4),
        learning_rate=0.02,
        policy_kwargs={"net_arch": [], "use_bias": True},
        **CRITIC,
    )
    model.learn(20_000)
    sums = [0.0]
    for reward in reversed(rewards):
        sums.append(reward + CRITIC["gamma"] * sums[-1])
    values = model.network.values(np.eye(5, dtype=np.float32))
    np.testing.assert_allclose(values, sums[:0:-1], atol=0.1)


@each_algorithm
def test_a_loaded_model_goes_on_with_its_critic(algorithm: Any, tmp_path: Any) -> None:
    model = make(algorithm, n_envs=2)
    model.learn(40)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=model.get_env())
    with pytest.raises(ValueError, match="reward_prediction='average': must be what it was"):
        others = {"reward_prediction": "average", "gamma": 1.0, "trace_decay": 1.0}
        algorithm.load(tmp_path / "model", env=model.get_env(), **others)
    obs = np.ones((1, 4), np.float32)
    assert loaded.network.values(obs) == model.network.values(obs)
    assert loaded.learn(40, reset_num_timesteps=False).num_timesteps == 80


def test_a_saved_policy_keeps_its_critic(tmp_path: Any) -> None:
    policy = make(NRL).policy
    policy.save(tmp_path / "policy")
    obs = th.ones(2, 4)
    assert NoisyPolicy.load(tmp_path / "policy").predict_values(obs).equal(policy.predict_values(obs))


@each_algorithm
def test_log_says_how_well_the_critic_predicts(algorithm: Any) -> None:
    """Rewards are 3 and 5 in turn; V is 2, and γ = 0.5."""
    envs = DummyVecEnv([lambda: ClockEnv([[3, 5] * 25])] * 2)
    settings = {**CRITIC, "gamma": 0.5, "trace_decay": 0.5}
    model = algorithm("MlpPolicy", envs, learning_rate=0.0, policy_kwargs=SMALL, **settings)
    predict_constantly(model, 2.0)
    model.learn(16, log_interval=10**9)
    values = model.logger.name_to_value
    assert values["train/rpe"] == pytest.approx((2 + 4) / 2)
    assert values["train/value_loss"] == pytest.approx((2**2 + 4**2) / 2)
    assert values["train/reward_prediction"] == pytest.approx(2)
    assert values["train/explained_variance"] == pytest.approx(0)


def test_log_has_the_spread_of_continuous_actions() -> None:
    model = make(NRL, space=spaces.Box(-1, 1, (1,)), learning_rate=0.0, policy_kwargs={**SMALL, "log_std_init": -1.0})
    seen: list[dict[str, Any]] = []
    model.set_logger(configure(format_strings=[]))
    plain_dump = model.logger.dump

    def dump(step: int = 0) -> None:
        seen.append(dict(model.logger.name_to_value))
        plain_dump(step)

    model.logger.dump = dump
    model.learn(8, log_interval=1)
    assert [values["train/std"] for values in seen] == pytest.approx([math.exp(-1)] * 2)


@each_algorithm
def test_gamma_changed_between_trainings_takes_effect(algorithm: Any) -> None:
    model = make(algorithm, learning_rate=0.0)
    predict_constantly(model, 1.0)
    model.gamma = model.trace_decay = 0.25
    folds = record_folds(model)
    model.learn(1)
    assert folds[0]["errors"].item() in (pytest.approx(0.25 - 1), pytest.approx(1 + 0.25 - 1))


@each_algorithm
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_timing": "episode"}, "reward_timing='episode': must be \"step\" with reward_prediction"),
        ({"reward_prediction": "nobody"}, "reward_prediction='nobody': must be one of"),
        ({"gamma": -0.1}, "gamma=-0.1: must be in"),
        ({"gamma": 1.5}, "gamma=1.5: must be in"),
        ({"reward_prediction": "average", "trace_decay": 1.0}, "gamma=0.9: must be 1 with reward_prediction"),
        ({"policy_kwargs": {"net_arch": {"pi": [4]}}}, "net_arch=.*must be a list .*or dict"),
        ({"policy_kwargs": {"net_arch": {"pi": [4], "vf": [0]}}}, "net_arch=.*must be a list .*or dict"),
        ({"policy_kwargs": {"critic": False}}, "policy_kwargs=.*without critic"),
        ({"ent_coef": -0.1}, "ent_coef=-0.1: must be finite and not negative"),
        ({"ent_coef": float("inf")}, "ent_coef=inf: must be finite and not negative"),
        (
            {"reward_prediction": "average", "gamma": 1.0, "trace_decay": 1.0, "ent_coef": 0.1},
            "ent_coef=0.1: must be 0 with reward_prediction",
        ),
        (
            {"reward_prediction": "average", "gamma": 1.0, "trace_decay": 1.0, "vf_coef": 2.0},
            "vf_coef=2.0: must be 1 with reward_prediction",
        ),
    ],
)
def test_mistakes_are_named(algorithm: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(algorithm, **settings)


@each_algorithm
def test_networks_may_share_what_does_not_learn(algorithm: Any) -> None:
    frozen = nn.Linear(4, 8).requires_grad_(False)
    extractor = {"features_extractor_class": Shared, "features_extractor_kwargs": {"net": frozen}}
    model = make(algorithm, policy_kwargs={**SMALL, **extractor})
    before, weight = model.policy.parameters_to_vector(), frozen.weight.clone()
    model.learn(40)
    assert not np.array_equal(model.policy.parameters_to_vector(), before)
    assert frozen.weight.equal(weight)


@each_algorithm
@pytest.mark.parametrize(
    "share",
    [
        {"features_extractor_class": Shared, "features_extractor_kwargs": {"net": nn.Linear(4, 8)}},
        None,
    ],
    ids=["features extractor", "hidden layers"],
)
def test_layers_of_both_networks_are_refused(algorithm: Any, share: dict[str, Any] | None) -> None:
    with pytest.raises(ValueError, match="is a part of the critic too: they must not share layers"):
        if share:
            make(algorithm, policy_kwargs=share)
        else:
            model = make(algorithm, policy_kwargs={"net_arch": [5]})
            model.policy.vf_hidden_net = model.policy.hidden_net
            model.learn(10)


@each_algorithm
def test_critic_sees_through_a_features_extractor_of_its_own(algorithm: Any) -> None:
    settings = {"features_extractor_class": Own, "head_gain": 0.5}
    model = make(algorithm, policy_kwargs=settings, learning_rate=0.01)
    assert model.policy.value_net.weight.std() > 0.05
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(40)
    after = model.policy.state_dict()
    assert all(not after[name].equal(value) for name, value in before.items())
    obs = th.ones(2, 4)
    values = model.policy.predict_values(obs)
    model.policy.features_extractor.net.weight.data.zero_()
    assert model.policy.predict_values(obs).equal(values)


@each_algorithm
def test_an_interrupted_update_leaves_nothing_behind(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    model = make(algorithm, n_envs=2)
    model.learn(16)
    with monkeypatch.context() as within, pytest.raises(KeyboardInterrupt):
        within.setattr(algorithm, "_credit", interrupt)
        model.learn(16, reset_num_timesteps=False)
    updates = model._n_updates
    model.learn(16, reset_num_timesteps=False)
    assert model._n_updates == updates + 2


@each_algorithm
@pytest.mark.parametrize("frozen", [False, True])
def test_changes_in_the_middle_of_a_window_start_a_new_one(algorithm: Any, frozen: bool) -> None:
    model = make(algorithm)
    model.learn(20, lambda *_: model.num_timesteps < 6)
    assert model.rollout_buffer.pos == 2
    if frozen:
        model.policy.hidden_net[0].requires_grad_(False)
    else:
        model.n_steps = 16
    updates = model._n_updates
    model.learn(16, reset_num_timesteps=False)
    assert model._n_updates == updates + (4 if frozen else 1)


@each_algorithm
def test_reward_prediction_stays_what_it_was(algorithm: Any) -> None:
    model = make(algorithm)
    model.reward_prediction, model.gamma, model.trace_decay = "average", 1.0, 1.0
    with pytest.raises(ValueError, match="reward_prediction='average': must be what it was when the model was made"):
        model.learn(10)


def test_a_policy_without_critic_has_no_widths_for_one() -> None:
    with pytest.raises(ValueError, match="there is no value network"):
        RMHL("MlpPolicy", ScriptedEnv([5]), policy_kwargs={"net_arch": {"pi": [4], "vf": [4]}})
