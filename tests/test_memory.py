"""Policies with memory in training and use: states travel as RecurrentPPO's do."""

import tracemalloc
import warnings
from copy import deepcopy
from functools import partial
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from sb3_nrl import BPTT, NRL, RMHL
from sb3_nrl.recurrent_policies import RECURRENT_POLICIES, RnnPolicy
from tests.conftest import make_model, weights, weights_at_once_and_in_parts
from tests.envs import RandomEnv, RecallEnv, ScriptedEnv
from tests.policies import ACTION_SPACES, VECTOR, batch, make_policy, record_updates, tensors

each_cell = pytest.mark.parametrize("policy", ["MlpRnnPolicy", "MlpCtrnnPolicy", "MlpGruPolicy"])


def make_envs(n_envs: int = 2, delay: int = 2, limit: bool = False) -> Any:
    return make_vec_env(partial(RecallEnv, delay, limit), n_envs, seed=0)


def make_recurrent(algorithm: Any = NRL, policy: str = "MlpRnnPolicy", env: Any = None, **settings: Any) -> Any:
    settings = {"n_steps": 5, "policy_kwargs": {"net_arch": [6], "head_gain": 1.0}, **settings}
    return make_model(algorithm, make_envs() if env is None else env, policy=policy, **settings)


def test_what_only_memory_can_solve_is_learned() -> None:
    """0.5 per episode is the most without memory; forward passes alone."""
    settings: dict[str, Any] = {
        "n_steps": 8,
        "gamma": 0.9,
        "learning_rate": 0.01,
        "n_noise_samples": 16,
        "ent_coef": 0.01,
    }
    model = NRL("MlpRnnPolicy", make_envs(8), seed=0, device="cpu", policy_kwargs={"net_arch": [16]}, **settings)
    model.learn(20_000)
    assert np.mean(evaluate_policy(model, make_envs(4), n_eval_episodes=100)[0]) > 0.95
    memoryless = NRL("MlpPolicy", make_envs(8), seed=0, device="cpu", **settings)
    memoryless.learn(20_000)
    assert np.mean(evaluate_policy(memoryless, make_envs(4), n_eval_episodes=100)[0]) < 0.75


# States


@each_cell
def test_predict_hands_states_on(policy: str) -> None:
    """Steps one after the other are those of a network that is unrolled; an episode's start forgets what was before."""
    model = make_recurrent(policy=policy)
    obs = batch(model.observation_space, 12).reshape(4, 3, 2)
    starts = np.array([[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
    state: Any = None
    seen = []
    for t in range(4):
        actions, state = model.predict(obs[t], state, starts[t], deterministic=True)
        assert state.shape == (3, 6)
        seen.append(actions)
    whole: Any = model.policy.actor.run(np, obs.reshape(12, 2), None, np.zeros((3, 6), np.float32), starts)
    np.testing.assert_array_equal(np.stack(seen), whole.outputs.argmax(1).reshape(4, 3))
    np.testing.assert_allclose(th.as_tensor(state), whole.states, atol=1e-6)
    fresh, _ = model.predict(obs[2], None, None, deterministic=True)
    _, forgetful = model.predict(obs[2], state, np.ones(3, bool), deterministic=True)
    _, of_start = model.predict(obs[2], None, np.ones(3, bool), deterministic=True)
    np.testing.assert_array_equal(forgetful, of_start)
    one, state = model.predict(obs[2, 0], deterministic=True)
    assert one == fresh[0]
    assert state.shape == (1, 6)


def test_predict_refuses_states_that_are_not_of_these_observations() -> None:
    """They would give actions of other environments, or of a part of the state."""
    model = make_recurrent()
    obs = batch(model.observation_space, 4)
    of_lstm = (np.zeros((1, 4, 6)), np.zeros((1, 4, 6)))
    state: Any
    for state in (np.zeros((8, 6)), np.zeros((1, 6)), np.zeros((4, 12)), np.zeros(6), of_lstm):
        with pytest.raises(ValueError, match=r"state is of shape .* must be None, or what predict .* shape \(4, 6\)"):
            model.predict(obs, state)
    with pytest.raises(ValueError, match="episode_start has 2 values: must have one for each of 4 observations"):
        model.predict(obs, None, np.ones(2, bool))


def test_predict_takes_states_and_starts_of_other_types() -> None:
    model = make_recurrent()
    obs = batch(model.observation_space, 4)
    _, state = model.predict(obs)
    wanted = model.predict(obs, state, np.ones(4, bool), deterministic=True)
    for other, starts in ((state.astype(np.float64), True), (th.as_tensor(state), [1.0] * 4)):
        for one, same in zip(wanted, model.predict(obs, other, starts, deterministic=True), strict=True):
            np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("action_space", ACTION_SPACES.values(), ids=ACTION_SPACES)
def test_actions_of_every_space(action_space: spaces.Space) -> None:
    policy = make_policy(action_space=action_space, policy_class=RnnPolicy)
    actions, state = policy.predict(batch(VECTOR, 4))
    assert all(action_space.contains(action) for action in actions)
    action, _ = policy.predict(batch(VECTOR, 4)[0], state[:1])
    assert action_space.contains(action if isinstance(action_space, spaces.Box) else np.asarray(action, np.int64)[()])


@each_cell
def test_training_acts_as_the_policy_does(policy: str) -> None:
    model = make_recurrent(policy=policy)
    policy_ = model.policy
    obs, starts = batch(model.observation_space, 4), np.array([True, False, False, True])
    states = np.random.default_rng(0).normal(size=(4, policy_.n_states)).astype(np.float32)
    actions, log_probs, after = policy_.act(obs, np.full((4, 1), 0.3), None, states, starts)
    arguments = tensors(obs), th.as_tensor(actions), th.as_tensor(states), th.as_tensor(starts)
    with th.no_grad():
        values, expected, entropy = policy_.evaluate_actions(*arguments)
        distribution, of_actor = policy_.get_distribution(arguments[0], *arguments[2:])
        taken, value, log_prob, full = policy_(arguments[0], *arguments[2:], deterministic=True)
    np.testing.assert_allclose(log_probs, expected, atol=1e-5)
    np.testing.assert_allclose(entropy, distribution.entropy(), atol=1e-5)
    np.testing.assert_array_equal(taken, distribution.mode())
    np.testing.assert_allclose(log_prob, distribution.log_prob(taken), atol=1e-5)
    for found in (values, value, policy_.predict_values(arguments[0], *arguments[2:])):
        np.testing.assert_allclose(found.detach(), policy_.values(obs, states, starts)[0][:, None], atol=1e-5)
    np.testing.assert_allclose(full, after, atol=1e-5)
    np.testing.assert_allclose(of_actor, after[:, :6], atol=1e-5)
    assert np.abs(after).min() > 0


@pytest.mark.parametrize("limit", [False, True])
def test_errors_are_those_of_the_critic_and_its_state(limit: bool) -> None:
    """δ = r + γ V(s') − V(s), with V unrolled from the first step on; a time limit is bootstrapped with its state."""
    model = make_recurrent(env=make_envs(2, 2, limit), learning_rate=0.0, gamma=0.9)
    updates = record_updates(model)
    model.learn(60)
    policy, state = model.policy, th.zeros(2, 12)
    starts, seen = th.ones(2), []
    for update in updates:
        obs = th.as_tensor(update.window.observations).reshape(5, 2, 2)
        for t in range(5):
            with th.no_grad():
                _, values, _, state = policy(obs[t], state, starts)
                starts = th.as_tensor(update.window.dones_TE[t]).float()
                asked = th.tensor([[0.0, 0.0]]).expand(2, 2)  # what is observed after the last step
                terminal = policy.predict_values(asked, state, th.zeros(2))[:, 0] * starts * limit
            seen.append((values[:, 0].numpy(), terminal.numpy()))
    values_TE, terminal_TE = (np.stack(part) for part in zip(*seen, strict=True))
    rewards_TE = np.concatenate([update.window.rewards_TE for update in updates])
    dones_TE = np.concatenate([update.window.dones_TE for update in updates])
    expected = rewards_TE + 0.9 * terminal_TE
    expected[:-1] += 0.9 * values_TE[1:] * ~dones_TE[:-1] - values_TE[:-1]
    found = np.concatenate([update.errors.errors_TE for update in updates])
    np.testing.assert_allclose(found[:-1], expected[:-1], atol=1e-5)
    assert (np.abs(terminal_TE).max() > 0.01) == limit


# Training


SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "NRL": (NRL, {}),
    "NRL, full rank": (NRL, {"noise_rank": "full"}),
    "NRL, node noise": (NRL, {"perturbation": "node"}),
    "NRL, running average": (NRL, {"reward_prediction": "average", "max_grad_norm": None}),
    "BPTT": (BPTT, {}),
    "RMHL": (RMHL, {}),
}
each_setting = pytest.mark.parametrize(("algorithm", "settings"), SETTINGS.values(), ids=SETTINGS)


@each_setting
@each_cell
def test_training_in_parts_is_training_at_once(policy: str, algorithm: Any, settings: dict[str, Any]) -> None:
    """Hidden states, held noise and traces go on. The first part ends within an episode, and within held noise."""
    found = weights_at_once_and_in_parts(lambda: make_recurrent(algorithm, policy, **settings), 60)
    start = weights(make_recurrent(algorithm, policy, **settings))
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != start).mean() > 0.9


@pytest.mark.parametrize("copied", [deepcopy, lambda model: cloudpickle.loads(cloudpickle.dumps(model))])
@each_setting
def test_copies_go_on_in_mid_episode(algorithm: Any, settings: dict[str, Any], copied: Any) -> None:
    model = make_recurrent(algorithm, **settings)
    model.learn(30)
    copy = copied(model)
    found = []
    for one in (model, copy):
        th.manual_seed(0)
        one.learn(30, reset_num_timesteps=False)
        found.append(weights(one))
    np.testing.assert_array_equal(found[0], found[1])


def test_another_window_keeps_what_is_remembered() -> None:
    """Hidden states are those of episodes that go on; only what belongs to the steps of a window is dropped."""
    model = make_recurrent(NRL)
    model.learn(30)
    before = model.policy.numpy(model._last_states).copy()
    assert np.abs(before).min(1).max() > 0
    model.n_steps += 3
    seen: dict[str, np.ndarray] = {}
    model.learn(1, lambda found, _: seen.setdefault("states", found["states"]) is not None, reset_num_timesteps=False)
    np.testing.assert_array_equal(seen["states"], before)


@pytest.mark.parametrize("name", RECURRENT_POLICIES)
@pytest.mark.parametrize("algorithm", [NRL, RMHL, BPTT])
def test_every_policy_is_trained_saved_and_loaded(algorithm: Any, name: str, tmp_path: Any) -> None:
    space: Any = spaces.Dict(a=VECTOR, b=spaces.Discrete(3)) if "MultiInput" in name else VECTOR
    kwargs: dict[str, Any] = {"net_arch": [4, 3], "head_gain": 1.0}
    if "Cnn" in name:
        space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        kwargs |= {"features_extractor_kwargs": {"features_dim": 3}}
    settings = {"n_noise_samples": 2} if algorithm is NRL else {}
    env = make_vec_env(partial(RandomEnv, space), 2, seed=0)
    model = algorithm(name, env, n_steps=4, seed=0, device="cpu", learning_rate=0.01, policy_kwargs=kwargs, **settings)
    before = weights(model)
    model.learn(40)
    assert (weights(model) != before).mean() > 0.1  # some units of a convolution may be silent
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    obs = batch(model.observation_space, 3)
    states = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    for one, other in zip(*(each.predict(obs, states, deterministic=True) for each in (model, loaded)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_processes_give_the_same_training() -> None:
    found = []
    for kind, kwargs in ((DummyVecEnv, {}), (SubprocVecEnv, {"start_method": "fork"})):
        env = make_vec_env(partial(RecallEnv, 2), 2, seed=0, vec_env_cls=kind, vec_env_kwargs=kwargs)
        model = make_recurrent(env=VecNormalize(env))
        model.learn(60)
        found.append(weights(model))
        env.close()
    np.testing.assert_array_equal(found[0], found[1])


def test_evaluations_during_training_keep_the_training_as_it_is() -> None:
    found = []
    for callback in (None, EvalCallback(make_envs(3), eval_freq=7, n_eval_episodes=4, verbose=0)):
        model = make_recurrent()
        model.learn(60, callback)
        found.append(weights(model))
    np.testing.assert_array_equal(found[0], found[1])


def test_changed_parameters_start_with_an_empty_memory() -> None:
    model = make_recurrent()
    model.learn(30)
    other = make_recurrent(seed=1)
    model.set_parameters(other.get_parameters())
    updates = record_updates(model)
    model.learn(20, reset_num_timesteps=False)
    assert np.all(updates[0].window.states == 0)
    assert np.all(updates[1].window.states != 0)


# No backward pass, and memory


def test_no_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a backward pass")

    for target in ("grad", "backward"):
        monkeypatch.setattr(th.autograd, target, refuse)
    monkeypatch.setattr(th.Tensor, "backward", refuse)
    for algorithm, settings in SETTINGS.values():
        model = make_recurrent(algorithm, **settings)
        if algorithm is BPTT:
            with pytest.raises(AssertionError, match="a backward pass"):
                model.learn(30)
        else:
            model.learn(30)


def test_what_is_out_of_range_is_named() -> None:
    for policy, kwargs, message in (
        (
            "MlpGruPolicy",
            {"net_arch": []},
            r"net_arch=\[\]: must be a list with at least one hidden layer for the actor",
        ),
        ("MlpGruPolicy", {"net_arch": {"vf": [8]}}, "at least one hidden layer for the actor"),
        ("MlpRnnPolicy", {"recurrent_gain": 0}, "recurrent_gain=0: must be positive"),
        ("MlpRnnPolicy", {"recurrent_critic": 1}, "recurrent_critic=1: must be True or False"),
        ("MlpCtrnnPolicy", {"tau": 0.5}, "tau=0.5: must be at least dt"),
        ("MlpCtrnnPolicy", {"tau": [[2.0]]}, r"tau=\[\[2.0\]\]: must be at least dt, which is 1, and finite: a number"),
        ("MlpCtrnnPolicy", {"tau": [2, 3]}, "one for each of the 64 units"),
        ("MlpCtrnnPolicy", {"tau": 1.0, "learn_tau": True}, "more than dt=1 with learn_tau=True"),
        ("MlpCtrnnPolicy", {"dt": -1}, "dt=-1: must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            make_model(NRL, policy=policy, policy_kwargs=kwargs)
    for settings, message in (
        ({"n_baseline_passes": 2}, "n_baseline_passes=2: must be None with recurrent or spiking policies"),
        ({"noise_hold": 0}, "noise_hold=0: must be a whole number"),
        ({"noise_rank": "two"}, "noise_rank='two': must be one of"),
        ({"perturbation": "nodes"}, "perturbation='nodes': must be None, or one of"),
        ({"noise_normalization": "network"}, "noise_normalization='network': must be 'unbiased' with noise on weights"),
        ({"noise_distribution": "orthogonal"}, "noise_distribution='orthogonal'"),
        (
            {"perturbation": "node", "noise_normalization": "network"},
            "noise_normalization='network': must be 'unbiased' with a recurrent policy",
        ),
        ({"perturbation": "node", "local_head": 2}, "local_head=2: must be True or False"),
        ({"perturbation": "weight", "local_head": 2}, "local_head=2: must be True or False"),
        ({"perturbation": "node", "noise_hold": 4}, 'noise_hold=4: must be None unless perturbation="weight"'),
    ):
        with pytest.raises(ValueError, match=message):
            make_recurrent(**settings)


def test_defaults_suit_the_kind_of_policy() -> None:
    of_models = [make_model(policy="MlpLifPolicy"), make_model(), make_model(env="Pendulum-v1")]
    assert make_model(policy="MlpGruPolicy", env="Pendulum-v1").policy.net_arch == [64]
    assert [model.rule.local_head for model in of_models] == [True, False, True]
    assert [model.policy.net_arch for model in of_models] == [[64], [64], [32, 32]]
    assert [type(model.policy.activation_fn()).__name__ for model in of_models[1:]] == ["Tanh", "LeakyReLU"]
    assert [model.policy.action_correlation for model in of_models] == [0, 0, 0.9]
    assert make_model(policy="MlpLifPolicy", n_steps=None).n_steps == 32
    assert [make_model(n_steps=None, n_envs=n_envs).n_steps for n_envs in (1, 4, 64)] == [128, 32, 8]
    recurrent, feed_forward = make_recurrent(), make_model()
    kinds = [(model.perturbation, model.n_noise_samples, model.noise_hold) for model in (recurrent, feed_forward)]
    assert kinds == [("weight", 32, 32), ("node", 8, None)]


@pytest.mark.parametrize(
    ("policy", "env_id", "n_frames", "warns"),
    [
        ("MlpPolicy", "neurogym/DelayMatchSample-v0", 1, True),
        ("MlpPolicy", "neurogym/DelayMatchSample-v0", 3, False),
        ("MlpRnnPolicy", "neurogym/DelayMatchSample-v0", 1, False),
        ("MlpPolicy", "neurogym/Reaching1D-v0", 1, False),
        ("MlpPolicy", "CartPole-v1", 1, False),
    ],
)
def test_a_policy_without_memory_is_warned_where_memory_is_needed(
    policy: str, env_id: str, n_frames: int, warns: bool
) -> None:
    pytest.importorskip("neurogym")
    import sb3_nrl.envs  # noqa: F401

    env = make_vec_env(env_id)
    env = env if n_frames == 1 else VecFrameStack(env, n_frames)
    model = NRL(policy, env, device="cpu", n_noise_samples=2, n_steps=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(4)
    assert any("needs memory" in str(warning.message) for warning in caught) == warns


@pytest.mark.parametrize("settings", [{}, {"reward_prediction": "average", "max_grad_norm": None}], ids=str)
def test_memory_does_not_grow_with_the_length_of_episodes(settings: dict[str, Any]) -> None:
    peaks = []
    for length in (50, 400):
        env = DummyVecEnv([partial(ScriptedEnv, [length])])  # Monitor would keep all rewards of an episode
        model = make_recurrent(env=env, **{"n_steps": 16, "n_noise_samples": 2, **settings})
        model.learn(100)  # what is allocated once
        tracemalloc.start()
        model.learn(450, reset_num_timesteps=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_only_bptt_keeps_what_a_backward_pass_needs() -> None:
    """Numbers that autograd keeps: none in NRL; in BPTT as many times more as the window is longer."""

    def kept(algorithm: Any, n_steps: int) -> int:
        total = 0

        def pack(value: th.Tensor) -> th.Tensor:
            nonlocal total
            total += value.numel()
            return value

        model = make_recurrent(algorithm, n_steps=n_steps)
        with th.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            model.learn(2 * n_steps)  # one window of two environments
        return total

    assert [kept(NRL, n_steps) for n_steps in (8, 64)] == [0, 0]
    short, long = (kept(BPTT, n_steps) for n_steps in (8, 64))
    assert long / short == pytest.approx(8, rel=0.1)
