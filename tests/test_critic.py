"""The critic: TD errors computed by hand, updates compared with autograd, and logged values."""

import math
import pathlib
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_nrl import BPTT, NRL
from sb3_nrl.updates import apply_update
from tests.conftest import make_model, weights
from tests.envs import ClockEnv, ScriptedEnv
from tests.policies import ACTION_SPACES, AlteredEnvs, batch, errors_of, make_policy, make_window, names, record_updates

LENGTHS = ([3, 5, 4, 9], [7, 2, 6], [11, 1, 8])
SMALL: dict[str, Any] = {"net_arch": {"pi": [6, 5], "vf": [7]}, "head_gain": 1.0}
SGD = {**SMALL, "optimizer_class": th.optim.SGD}

each_algorithm = pytest.mark.parametrize("algorithm", [NRL, BPTT])


def make(algorithm: Any, env: Any = None, n_envs: int = 1, space: spaces.Space | None = None, **settings: Any) -> Any:
    """A model with a critic, γ = 0.9, λγ = 0.8 and windows of 4 steps, by default in ``ScriptedEnv``."""

    def scripted(place: int) -> ScriptedEnv:
        one = ScriptedEnv(LENGTHS[place])
        one.action_space = space or one.action_space
        return one

    env = env or DummyVecEnv([partial(scripted, place) for place in range(n_envs)])
    defaults = {"gamma": 0.9, "trace_decay": 0.8, "n_steps": 4, "policy_kwargs": SMALL}
    return make_model(algorithm, env, **{**defaults, **settings})


def make_still(algorithm: Any, env: Any = None, value: float | None = None, **settings: Any) -> Any:
    """A model that does not learn. Its critic may predict a constant value."""
    model = make(algorithm, env, learning_rate=0.0, **settings)
    if value is not None:
        model.policy.critic.head.weight.data.zero_()
        model.policy.critic.head.bias.data.fill_(value)
    return model


# The errors


@each_algorithm
@pytest.mark.parametrize("dictionary", [False, True])
def test_time_limits_bootstrap_and_terminations_do_not(algorithm: Any, dictionary: bool) -> None:
    """Rewards of 1, V = 10 everywhere, γ = 0.9; episodes of 5 steps that a limit ends after 3, and of 2 steps."""
    inner = ClockEnv([[1] * 5, [1] * 2, [1] * 5, [1] * 2])
    env: gymnasium.Env = gymnasium.wrappers.TimeLimit(inner, 3)
    policy = "MlpPolicy"
    if dictionary:
        policy = "MultiInputPolicy"
        space = spaces.Dict(clock=inner.observation_space)
        env = gymnasium.wrappers.TransformObservation(env, lambda obs: {"clock": obs}, space)
    model = make_still(algorithm, env, 10.0, policy=policy)
    updates = record_updates(model)
    model.learn(10)
    # In between and at the limit 1 + 9 - 10, at a termination 1 - 10.
    assert errors_of(updates).ravel() == pytest.approx([0, 0, 0, 0, -9, 0, 0, 0, 0, -9], abs=1e-5)
    restarts = np.concatenate([update.errors.restarts_TE for update in updates]).ravel()
    assert restarts.tolist() == [False, False, True, False, True] * 2


def test_time_limit_without_a_last_observation_counts_as_an_end() -> None:
    def forget(obs: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> Any:
        for info in infos:
            info.pop("terminal_observation", None)
        return obs, rewards, dones, infos

    envs = DummyVecEnv([lambda: gymnasium.wrappers.TimeLimit(ClockEnv([[1] * 5]), 2)])
    model = make_still(BPTT, AlteredEnvs(envs, forget), 10.0)
    updates = record_updates(model)
    model.learn(4)
    np.testing.assert_allclose(errors_of(updates).ravel(), [0, -9, 0, -9], atol=1e-5)


@each_algorithm
@pytest.mark.parametrize("space", [ACTION_SPACES["Discrete"], spaces.Box(-9, 9, (1,))], ids=["Discrete", "Box"])
def test_error_with_a_critic_that_has_not_learned(algorithm: Any, space: spaces.Space) -> None:
    """The TD error is recomputed from the information of callbacks, with time limits and an entropy bonus."""

    def limited(lengths: list[int]) -> gymnasium.Env:
        env = ScriptedEnv(lengths)
        env.action_space = space
        return gymnasium.wrappers.TimeLimit(env, 4)

    envs = DummyVecEnv([partial(limited, lengths) for lengths in ([9, 3], [2, 7])])
    model = make_still(algorithm, envs, n_steps=5, ent_coef=0.3)
    updates, expected = record_updates(model), []

    def value(obs: Any) -> float:
        return model.policy.predict_values(th.as_tensor(obs)[None]).item()

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        deltas = []
        for env, info in enumerate(local["infos"]):
            coming = 0.0 if local["dones"][env] else value(local["new_obs"][env])
            if info.get("TimeLimit.truncated"):
                coming = value(info["terminal_observation"])
            reward = local["rewards"][env] - 0.3 * local["log_probs"][env]
            deltas.append(reward + 0.9 * coming - value(local["obs"][env]))
        expected.append(deltas)
        return True

    model.learn(60, watch)
    assert np.ptp(errors_of(updates)) > 0.5
    np.testing.assert_allclose(errors_of(updates), expected, rtol=1e-4, atol=1e-5)


@each_algorithm
def test_credit_is_for_the_action_that_was_drawn_not_for_the_clipped_one(algorithm: Any) -> None:
    model = make_still(algorithm, space=spaces.Box(-0.01, 0.01, (1,)))
    updates, drawn = record_updates(model), []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        assert np.abs(local["clipped_actions"]).max() <= 0.01
        drawn.append(local["actions"])
        return True

    model.learn(4, watch)
    credited = updates[0].window.actions
    assert np.abs(credited).max() > 0.1
    np.testing.assert_array_equal(credited, np.concatenate(drawn))


@each_algorithm
@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float32])
def test_ends_may_be_numbers(algorithm: Any, kind: type) -> None:
    plain, numbers = make(algorithm, n_envs=2), make(algorithm, n_envs=2)
    numbers.set_env(
        AlteredEnvs(numbers.get_env(), lambda obs, rewards, dones, infos: (obs, rewards, dones.astype(kind), infos))
    )
    for model in (plain, numbers):
        set_random_seed(0)
        model.get_env().seed(0)
        model.learn(60)
    np.testing.assert_array_equal(weights(plain), weights(numbers))


def test_weights_wait_for_n_steps_and_the_last_steps_count_too() -> None:
    model = make(BPTT, n_envs=2)
    updates = record_updates(model)
    model.learn(2 * 10)
    assert [update.window.n_steps for update in updates] == [4, 4, 2]
    assert [update.had_traces for update in updates] == [False, True, True]
    assert all(np.any(update.change_W) for update in updates)


# The updates


@pytest.mark.parametrize("n_envs", [1, 3])
def test_exact_updates_are_those_of_double_precision_autograd(n_envs: int) -> None:
    """Weights after a training by W ← W + η Σ δ e, with e ← γλ e + ∇(log π(a|s) + V(s)), a step at a time."""
    rate, gamma, decay, n_steps = 0.05, 0.9, 0.8, 4
    model = make(BPTT, n_envs=n_envs, learning_rate=rate, max_grad_norm=None, policy_kwargs=SGD)
    policy = make(BPTT, n_envs=n_envs).policy.double()
    untrained = [parameter.detach().clone() for parameter in policy.parameters()]
    seen: list[dict[str, np.ndarray]] = []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        seen.append({name: local[name].copy() for name in ("obs", "actions", "rewards", "dones", "new_obs")})
        return True

    def forward(network: Any, x: th.Tensor) -> th.Tensor:
        for layer in network.hidden:
            x = nn.functional.linear(x, layer.weight, layer.bias).tanh()
        return nn.functional.linear(x, network.head.weight, network.head.bias)[0]

    model.learn(30 * n_envs, watch)
    parameters = list(policy.parameters())
    traces = [[th.zeros_like(weight) for weight in parameters] for _ in range(n_envs)]
    for first in range(0, 30, n_steps):
        change = [th.zeros_like(weight) for weight in parameters]
        for step in seen[first : first + n_steps]:
            for env in range(n_envs):
                obs, new_obs = (th.as_tensor(step[name][env : env + 1]).double() for name in ("obs", "new_obs"))
                log_prob = forward(policy.actor, obs).log_softmax(0)[step["actions"][env]]
                value, new_value = (forward(policy.critic, one) for one in (obs, new_obs))
                gradients = th.autograd.grad(log_prob + value.sum(), parameters)
                coming = 0.0 if step["dones"][env] else gamma * new_value.item()
                delta = step["rewards"][env] + coming - value.item()
                for place, gradient in enumerate(gradients):
                    traces[env][place] = decay * traces[env][place] + gradient
                    change[place] += delta * traces[env][place]
                    if step["dones"][env]:
                        traces[env][place] = th.zeros_like(gradient)
        with th.no_grad():
            for weight, total in zip(parameters, change, strict=True):
                weight += rate * total
    for (name, weight), wanted, before in zip(model.policy.named_parameters(), parameters, untrained, strict=True):
        moved = (wanted - before).norm()
        assert moved > 1e-3, name
        assert (weight.double() - wanted).norm() < 1e-3 * moved, name


@pytest.mark.parametrize("frozen", [(), ("actor.head.mean.bias", "critic.hidden.0.weight"), ("log_std",)])
def test_weights_of_the_actor_come_before_those_of_the_critic(frozen: tuple[str, ...]) -> None:
    policy = make_policy(action_space=ACTION_SPACES["Box"], **SMALL)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen))
    policy.refresh()
    learning = [names(policy)[parameter] for parameter in policy.learnable]
    of_networks = [[name for name in learning if name.startswith(network)] for network in ("actor", "critic")]
    assert learning == of_networks[0] + of_networks[1]
    n_actor, n_critic = (sum(policy.get_parameter(name).numel() for name in part) for part in of_networks)
    assert [part.weights for part in policy.parts] == [slice(0, n_actor), slice(n_actor, n_actor + n_critic)]
    n_nodes = 6 + 5 + 2 + (0 if "log_std" in frozen else 2)
    assert [part.nodes for part in policy.parts] == [slice(0, n_nodes), slice(n_nodes, n_nodes + 7 + 1)]


def test_actor_and_critic_do_not_perturb_each_other() -> None:
    policy = make_policy(**SMALL)
    obs, actions = batch(policy.observation_space, 4), np.zeros(4, int)
    clean = policy.noisy_pass(obs, actions, np.zeros((4, policy.n_nodes), np.float32)).objectives
    for silent, changed in ((0, 1), (1, 0)):
        noise = policy.sample_noise(4)
        noise[:, policy.parts[silent].nodes] = 0
        objectives = policy.noisy_pass(obs, actions, noise).objectives
        assert (objectives[changed] != clean[changed]).all()
        np.testing.assert_array_equal(objectives[silent], clean[silent])


@pytest.mark.parametrize(
    ("bound", "actors", "critics"), [(0.5, 0.1, 1.0), (0.03, 0.006, 0.1), (5.0, 1.0, 1.0), (None, 1.0, 1.0)]
)
def test_changes_of_actor_and_critic_are_clipped_apart(bound: float | None, actors: float, critics: float) -> None:
    """The actor's weight change has norm 5, the critic's 0.3."""
    model = make(NRL, learning_rate=0.1, policy_kwargs=SGD)
    actor, critic = (part.weights for part in model.policy.parts)
    change = np.zeros(critic.stop, np.float32)
    change[actor.start], change[actor.stop - 1] = 3, -4
    change[critic.start], change[critic.stop - 1] = 0.1, 0.2 * 2**0.5
    factors = np.where(np.arange(critic.stop) < actor.stop, actors, critics)
    before = weights(model)
    window = make_window(model.policy, 1)
    assert apply_update(model.policy, change, bound, window) == pytest.approx((5**2 + 0.3**2) ** 0.5)
    np.testing.assert_allclose(weights(model) - before, 0.1 * factors * change, rtol=1e-4, atol=1e-6)


@each_algorithm
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("rate", [0.02, lambda progress: 0.02 * progress], ids=["constant", "schedule"])
def test_critic_has_a_learning_rate_of_its_own(algorithm: Any, rate: Any, saved: bool, tmp_path: pathlib.Path) -> None:
    """One update, when three quarters of the training remain."""

    def change(vf_coef: float) -> tuple[np.ndarray, np.ndarray]:
        model = make(algorithm, learning_rate=rate, vf_coef=vf_coef, policy_kwargs=SGD)
        if saved:
            model.save(tmp_path / "model")
            model = algorithm.load(tmp_path / "model", env=model.get_env(), device="cpu")
            model.set_random_seed(0)
        before = weights(model)
        model.learn(16, lambda *_: model.num_timesteps < 5)
        assert model.logger.name_to_value["train/n_updates"] == 1
        assert model.logger.name_to_value["train/learning_rate"] == pytest.approx(0.02 if rate == 0.02 else 0.015)
        actor, critic = (part.weights for part in model.policy.parts)
        return (weights(model) - before)[actor], (weights(model) - before)[critic]

    (actor, critic), (same_actor, faster_critic) = change(1.0), change(3.0)
    assert np.abs(actor).max() > 1e-4
    assert np.abs(critic).max() > 1e-4
    np.testing.assert_array_equal(same_actor, actor)
    np.testing.assert_allclose(faster_critic, 3 * critic, rtol=1e-3, atol=1e-6)


def test_an_optimizer_that_does_not_know_the_critic_is_refused_where_it_matters() -> None:
    model = make(NRL, learning_rate=0.02)
    policy, before = model.policy, weights(model)
    policy.optimizer = th.optim.SGD(policy.parameters(), lr=1.0)
    model.learn(8)
    assert (weights(model) != before).any()
    model.vf_coef = 2.0
    with pytest.raises(ValueError, match=r"^vf_coef=2.0: must be 1 as long as no group of policy.optimizer has"):
        model.learn(8)
    groups = [{"params": list(network.parameters()), "critic": network is policy.critic} for network in policy.networks]
    policy.optimizer = th.optim.SGD(groups, lr=1.0)
    model.learn(8)
    assert [group["lr"] for group in policy.optimizer.param_groups] == [0.02, 0.04]


@pytest.mark.parametrize("vf_coef", [1e38, 1e100])
def test_a_critic_that_learns_too_fast_is_refused_and_changes_nothing(vf_coef: float) -> None:
    model = make(NRL, learning_rate=1.0, vf_coef=vf_coef, policy_kwargs=SGD)
    before = weights(model)
    with pytest.raises(FloatingPointError, match="update was not applied"):
        model.learn(8)
    np.testing.assert_array_equal(weights(model), before)


def test_refused_update_spoils_no_trace() -> None:
    """The first reward is too large for a finite update, the others are not."""
    env = ClockEnv([[1] * 4, [1e38] * 4, [1] * 4, [1] * 4])
    model = make(BPTT, env, max_grad_norm=None, policy_kwargs=SGD)
    model.policy.critic.head.weight.data.fill_(1e3)
    with pytest.raises(FloatingPointError, match="not applied"):
        model.learn(40)
    model.policy.critic.head.weight.data.zero_()
    before = weights(model)
    assert np.isfinite(weights(model.learn(4, reset_num_timesteps=False))).all()
    assert (weights(model) != before).any()


# What a user sees


@each_algorithm
def test_it_learns_the_discounted_sum_of_rewards_to_come(algorithm: Any) -> None:
    rewards = [0.0, 1.0, 0.0, -2.0, 3.0]
    env = DummyVecEnv([lambda: ClockEnv([rewards])] * 4)
    model = make(algorithm, env, learning_rate=0.05, policy_kwargs={"net_arch": []})
    model.learn(4_000)
    sums = [0.0]
    for reward in reversed(rewards):
        sums.append(reward + 0.9 * sums[-1])
    np.testing.assert_allclose(model.policy.values(np.eye(5, dtype=np.float32))[0], sums[:0:-1], atol=0.02)


@each_algorithm
def test_log_says_how_well_the_critic_predicts(algorithm: Any) -> None:
    """
    Two environments with rewards of 3 and 5, and of 7 and 9, in turn; V is 2, and γ = 0.5.

    δ is 2, 4, 6 and 8. Predictions that do not vary explain nothing, and what they miss is the target's variance.
    """
    envs = DummyVecEnv([partial(ClockEnv, [rewards * 25]) for rewards in ([3, 5], [7, 9])])
    model = make_still(algorithm, envs, 2.0, gamma=0.5, trace_decay=0.5)
    updates = record_updates(model)
    model.learn(16, log_interval=10**9)
    values = model.logger.name_to_value
    log_probs = [update.window.log_probs.mean() for update in updates]
    assert values["train/entropy_loss"] == pytest.approx(np.mean(log_probs)) and max(log_probs) < 0
    assert values["train/rpe"] == pytest.approx((2 + 4 + 6 + 8) / 4)
    assert values["train/value_loss"] == pytest.approx((2**2 + 4**2 + 6**2 + 8**2) / 4)
    assert values["train/reward_prediction"] == pytest.approx(2)
    assert values["train/explained_variance"] == pytest.approx(0)


@each_algorithm
def test_explained_variance_is_that_of_the_target(algorithm: Any) -> None:
    """
    One input per step and a linear critic: V is 1, 2, 4, 1 and 0 at the five steps of an episode, rewards are 1, 0, 2,
    2 and 3, and γ = 0.5. The target is r + γ V(s'). The window has the first four steps.
    """
    value, reward = np.array([1.0, 2, 4, 1, 0]), np.array([1.0, 0, 2, 2, 3])
    target = reward[:4] + 0.5 * value[1:]
    expected = 1 - np.var(target - value[:4]) / np.var(target)
    settings: dict[str, Any] = {"gamma": 0.5, "trace_decay": 0.5, "policy_kwargs": {"net_arch": []}}
    model = make_still(algorithm, ClockEnv([reward.tolist()]), **settings)
    model.policy.critic.head.weight.data.copy_(th.as_tensor(value)[None])
    model.learn(4, log_interval=10**9)
    logged = model.logger.name_to_value
    assert logged["train/explained_variance"] == pytest.approx(expected, abs=1e-4)
    assert abs(expected) > 0.1
    assert logged["train/reward_prediction"] == pytest.approx(8 / 4)
    assert logged["train/rpe"] == pytest.approx((target - value[:4]).mean(), abs=1e-6)


def test_log_has_the_spread_of_continuous_actions() -> None:
    space = spaces.Box(-1, 1, (1,))
    model = make_still(NRL, space=space, policy_kwargs={**SMALL, "log_std_init": -1.0})
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
def test_values_have_the_shape_of_those_of_actor_critics(algorithm: Any) -> None:
    assert make(algorithm).policy.predict_values(th.randn(5, 4)).shape == (5, 1)
    with pytest.raises(ValueError, match="predicts no values"):
        make_model(algorithm, rule="average").policy.predict_values(th.randn(5, 4))


def test_initial_predictions_scale_with_the_gain_of_the_head() -> None:
    obs = th.randn(20, 4)
    kwargs = [{**SMALL, "head_gain": gain} for gain in (0.1, 1.0)]
    small, large = (make(NRL, policy_kwargs=of_model).policy.predict_values(obs) for of_model in kwargs)
    th.testing.assert_close(10 * small, large)


class NumberedEnv(gymnasium.Env):
    """Observations that are integers, alone or in a dictionary. The last one of an episode is different."""

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
    ("policy", "space", "first", "last"),
    [
        ("MlpPolicy", spaces.Discrete(3), 1, 2),
        ("MlpPolicy", spaces.MultiDiscrete([2, 3]), [1, 2], [0, 1]),
        ("MlpPolicy", spaces.Box(-1, 1, (2,)), [0.5, 0.25], [1.0, -1.0]),
        (
            "MultiInputPolicy",
            spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (2,))),
            {"a": 1, "b": np.ones(2)},
            {"a": 2, "b": np.zeros(2)},
        ),
    ],
    ids=["number", "numbers", "list", "dictionary"],
)
def test_last_observations_may_be_what_environments_give(policy: str, space: Any, first: Any, last: Any) -> None:
    """The TD error includes the value of the last observation before a time limit."""
    model = make_still(NRL, NumberedEnv(space, first, last), policy=policy)
    updates = record_updates(model)
    model.learn(3)

    def rows(obs: Any) -> Any:
        return {key: np.array([part]) for key, part in obs.items()} if isinstance(obs, dict) else np.array([obs])

    before, after = (model.policy.values(rows(obs))[0].item() for obs in (first, last))
    assert before != after
    assert errors_of(updates)[2].item() == pytest.approx(1 + 0.9 * after - before, abs=1e-5)


def test_last_observation_that_is_not_finite_is_refused() -> None:
    space = spaces.Box(-np.inf, np.inf, (2,))
    lasts = (np.zeros(2), np.array([0, np.nan]), np.zeros(2))
    envs = DummyVecEnv([partial(NumberedEnv, space, np.zeros(2), last) for last in lasts])
    with pytest.raises(ValueError, match=r"Environment 1 gave nan as observation\[1\] at step 9"):
        make(NRL, envs).learn(20)


def test_default_of_another_discount_is_there_on_loading_too(tmp_path: pathlib.Path) -> None:
    make(NRL).save(tmp_path / "model")
    assert NRL.load(tmp_path / "model", gamma=0.95).decay == 0.8
    assert NRL.load(tmp_path / "model", gamma=0.5, trace_decay=None).decay == pytest.approx(0.95 * 0.5)
    saved = make(NRL, trace_decay=None)
    saved.save(tmp_path / "model")
    model = NRL.load(tmp_path / "model", env=saved.get_env(), gamma=0.5)
    assert model.decay == pytest.approx(0.95 * 0.5)
    model.gamma = 0.25
    model.learn(10)
    assert model.decay == pytest.approx(0.95 * 0.25)


@each_algorithm
def test_the_kind_of_reward_prediction_stays_what_it_was(algorithm: Any, tmp_path: pathlib.Path) -> None:
    message = "reward_prediction='average': must be 'critic', as it was when the model was made"
    model = make(algorithm)
    model.save(tmp_path / "model")
    others: dict[str, Any] = {"reward_prediction": "average", "gamma": 1.0, "trace_decay": 1.0}
    with pytest.raises(ValueError, match=message):
        algorithm.load(tmp_path / "model", env=model.get_env(), **others)
    for name, value in others.items():
        setattr(model, name, value)
    with pytest.raises(ValueError, match=message):
        model.learn(10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_timing": "episode"}, "reward_timing='episode': must be step with reward_prediction=\"critic\""),
        ({"reward_prediction": "nobody"}, "reward_prediction='nobody': must be one of"),
        ({"gamma": -0.1}, "gamma=-0.1: must be in"),
        ({"gamma": 1.5}, "gamma=1.5: must be in"),
        ({"trace_decay": 0.95}, r"trace_decay=0.95: must be in \[0, 0.9\], at most gamma"),
        ({"reward_prediction": "average", "trace_decay": 1.0}, "gamma=0.9: must be 1.0 with reward_prediction"),
        ({"policy_kwargs": {"net_arch": {"pi": [4], "qf": [4]}}}, "net_arch=.*must be a list .*or dict"),
        ({"policy_kwargs": {"net_arch": {"pi": [4], "vf": [0]}}}, "net_arch=.*must be a list .*or dict"),
        ({"policy_kwargs": {"critic": False}}, "policy_kwargs=.*without critic"),
        ({"ent_coef": -0.1}, "ent_coef=-0.1: must be finite and not negative"),
        ({"ent_coef": float("inf")}, "ent_coef=inf: must be finite and not negative"),
        ({"reward_prediction": "average", "gamma": 1.0, "ent_coef": 0.1}, "ent_coef=0.1: must be 0.0 with"),
        ({"reward_prediction": "average", "gamma": 1.0, "vf_coef": 2.0}, "vf_coef=2.0: must be 1.0 with"),
        ({"reward_prediction": "average", "gamma": 1.0, "trace_decay": 1.0}, r"net_arch=.*\(there is no critic\)"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(NRL, **settings)
