"""Running normalisation of observations and rewards: statistics by hand, invariance to scale, saved with the model."""

import copy
import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_nrl import BPTT, NRL, RMHL
from sb3_nrl.analysis import record
from sb3_nrl.normalization import ObservationNormalizer, RewardScale
from sb3_nrl.policies import NoisyPolicy
from tests.conftest import make_model, weights, weights_at_once_and_in_parts
from tests.envs import ScriptedEnv

BOTH: dict[str, Any] = {"norm_obs": True, "norm_reward": True}


class ScaledEnv(gymnasium.Wrapper):
    """Observations and rewards times a factor, and observations shifted."""

    def __init__(self, factor: float, shift: float, reward_factor: float) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        self.factor, self.shift, self.reward_factor = factor, shift, reward_factor
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)

    def _scaled(self, obs: Any) -> np.ndarray:
        return self.factor * obs.astype(np.float64) + self.shift

    def reset(self, **kwargs: Any) -> Any:
        obs, info = self.env.reset(**kwargs)
        return self._scaled(obs), info

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._scaled(obs), self.reward_factor * float(reward), terminated, truncated, info


def test_observations_are_normalised_by_all_before_the_window() -> None:
    """The first 32 observations are only measured: they are seen as they are, and no weight changes."""
    env = DummyVecEnv([lambda: ScriptedEnv([5], n_inputs=3)] * 2)
    model = make_model(env=env, n_steps=16, norm_obs=True)
    seen: list[np.ndarray] = []
    expected: list[tuple[np.ndarray, np.ndarray]] = []
    initial = weights(model)

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        step = len(seen)
        if step == 16:
            np.testing.assert_array_equal(weights(model), initial)
        if step > 0 and step % 16 == 0:
            before = np.concatenate(seen)
            expected.append((before.mean(0), before.std(0)))
        if expected:
            mean, std = expected[-1]
            normalised = model.policy.normalizer.forward(np, local["obs"])
            np.testing.assert_allclose(normalised, (local["obs"] - mean) / std, rtol=1e-3, atol=1e-3)
        else:
            np.testing.assert_array_equal(model.policy.normalizer.forward(np, local["obs"]), local["obs"])
        seen.append(local["obs"])
        return True

    model.learn(2 * 80, watch)
    assert len(expected) == 4
    assert (weights(model) != initial).any()


def test_networks_see_normalised_observations() -> None:
    """Training is that of a policy which gets them normalised by the same constants."""
    policy = NoisyPolicy(spaces.Box(-9, 9, (3,)), spaces.Discrete(2), lambda _: 0.0, critic=True, norm_obs=True)
    plain = NoisyPolicy(spaces.Box(-9, 9, (3,)), spaces.Discrete(2), lambda _: 0.0, critic=True)
    plain.load_state_dict({name: value for name, value in policy.state_dict().items() if "normalizer" not in name})
    rows = np.random.default_rng(0).normal([1, 20, -300], [1, 5, 60], (50, 3)).astype(np.float32)
    assert policy.normalizer is not None
    policy.normalizer.update(rows)
    normalised = (rows - rows.mean(0)) / rows.std(0)
    for module in (policy, plain):
        module.refresh()
    for of_policy, of_plain in zip(
        policy(th.as_tensor(rows), deterministic=True), plain(th.as_tensor(normalised), deterministic=True), strict=True
    ):
        th.testing.assert_close(of_policy, of_plain, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(
        policy.predict(rows, deterministic=True)[0], plain.predict(normalised, deterministic=True)[0]
    )
    far = policy.normalizer.forward(np, np.full((1, 3), 1e6, np.float32))
    np.testing.assert_array_equal(far, 10)


def test_only_vectors_of_numbers_are_normalised() -> None:
    parts: dict[str, spaces.Space] = {
        "numbers": spaces.Box(-1, 1, (2,)),
        "counts": spaces.Box(0, 900, (2,), np.int64),
        "image": spaces.Box(0, 255, (3, 36, 36), np.uint8),
        "bools": spaces.Box(0, 1, (4,), np.bool_),
        "choice": spaces.Discrete(3),
    }
    space = spaces.Dict(parts)
    space.seed(0)
    samples = [space.sample() for _ in range(40)]
    batch = {key: np.stack([sample[key] for sample in samples]) for key in parts}
    normalizer = ObservationNormalizer(space)
    normalizer.update(batch)
    for xp in (np, th):
        given = batch if xp is np else {key: th.as_tensor(part) for key, part in batch.items()}
        seen = normalizer.forward(xp, given)
        for key in ("numbers", "counts"):
            np.testing.assert_allclose(np.asarray(seen[key]).mean(0), 0, atol=1e-2)
            np.testing.assert_allclose(np.asarray(seen[key]).std(0), 1, atol=1e-2)
        for key in ("image", "bools", "choice"):
            assert seen[key] is given[key]


@pytest.mark.parametrize("algorithm", [NRL, BPTT])
def test_scale_of_observations_and_rewards_does_not_matter(algorithm: Any) -> None:
    results = []
    for factor, shift, reward_factor in ((1.0, 0.0, 1.0), (1e3, -500.0, 1e-3), (1e-3, 0.0, 1e3)):
        env = ScaledEnv(factor, shift, reward_factor)
        # Before the first update the network sees observations as they are: hardly, with so small a head.
        model = make_model(algorithm, env=env, n_steps=16, policy_kwargs={"head_gain": 1e-9}, **BOTH)
        model.learn(400)
        results.append(weights(model))
    np.testing.assert_allclose(results[0], results[1], rtol=0.02, atol=2e-3)
    np.testing.assert_allclose(results[0], results[2], rtol=0.02, atol=2e-3)


def test_rewards_are_divided_by_the_spread_of_discounted_returns() -> None:
    scale = RewardScale(0.5)
    rewards_TE = np.array([[1.0, 2.0], [3.0, 0.0], [5.0, 4.0]])
    dones_TE = np.array([[False, False], [True, False], [False, False]])
    first = [1.0, 2.0, 3.5, 1.0, 5.0, 4.5]  # environment 0 begins anew at its last step
    np.testing.assert_allclose(scale.update(rewards_TE, dones_TE), rewards_TE / np.std(first), rtol=1e-3)
    second = [2.5 + 1.0, 2.25 + 1.0]  # returns go on
    np.testing.assert_allclose(
        scale.update(np.ones((1, 2)), np.zeros((1, 2), bool)), 1 / np.std(first + second), rtol=1e-3
    )
    scale.restart()
    third = [1.0, 1.0]
    np.testing.assert_allclose(
        scale.update(np.ones((1, 2)), np.zeros((1, 2), bool)), 1 / np.std(first + second + third), rtol=1e-3
    )
    assert scale.update(np.full((1, 2), 1e9), np.zeros((1, 2), bool)).max() <= 10


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpRnnPolicy", "MlpLifPolicy"])
def test_statistics_are_saved_and_restored_bit_by_bit(policy: str, tmp_path: Any) -> None:
    model: Any = make_model(policy=policy, n_steps=8, **BOTH)
    model.learn(64)
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    expected = model.predict(obs, deterministic=True)[0]
    loaded: Any = NRL.load(tmp_path / "model", device="cpu")
    for other in (
        loaded.policy,
        type(model.policy).load(tmp_path / "policy"),
        pickle.loads(pickle.dumps(model)).policy,
    ):
        own, saved = (of.normalizer.statistics[None] for of in (model.policy, other))
        for name in ("mean", "var", "count"):
            np.testing.assert_array_equal(getattr(own, name), getattr(saved, name))
        np.testing.assert_array_equal(other.predict(obs, deterministic=True)[0], expected)
    of_rewards, saved_rewards = (of.predictor.reward_scale.statistics for of in (model, loaded))
    assert (of_rewards.mean, of_rewards.var, of_rewards.count) == (
        saved_rewards.mean,
        saved_rewards.var,
        saved_rewards.count,
    )


def test_training_in_parts_is_training_at_once() -> None:
    whole, parts = weights_at_once_and_in_parts(lambda: make_model(n_steps=8, n_envs=2, **BOTH), 320)
    np.testing.assert_array_equal(whole, parts)


def test_vec_normalize_and_raw_environments_both_evaluate() -> None:
    model = make_model(env=DummyVecEnv([lambda: gymnasium.make("CartPole-v1")]), n_steps=8, norm_obs=True).learn(64)
    mean_return: Any = evaluate_policy(model, Monitor(gymnasium.make("CartPole-v1")), 1)[0]
    assert mean_return > 0
    model = make_model(env=VecNormalize(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")])), n_steps=8, **BOTH)
    assert model.learn(64).num_timesteps == 64


@pytest.mark.parametrize(
    ("algorithm", "arguments", "message"),
    [
        (NRL, {"norm_obs": 1}, "norm_obs=1: must be True or False"),
        (NRL, {"norm_reward": "yes"}, "norm_reward='yes': must be None, True or False"),
        (RMHL, {"norm_reward": True}, "norm_reward=True: must be False with"),
        (NRL, {"policy_kwargs": {"norm_obs": True}}, "must be without norm_obs"),
    ],
)
def test_wrong_arguments_are_named(algorithm: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        algorithm("MlpPolicy", "CartPole-v1", **arguments)


def test_parameters_of_before_reset_the_statistics() -> None:
    model = make_model(n_steps=8, norm_obs=True)
    before, fresh = copy.deepcopy(model.get_parameters()), weights(model)
    model.learn(64)
    assert model.policy.normalizer is not None and model.policy.normalizer.is_ready
    model.set_parameters(before)
    assert not model.policy.normalizer.is_ready
    np.testing.assert_array_equal(weights(model), fresh)


def test_nothing_to_normalise_costs_no_step() -> None:
    model = make_model(env="FrozenLake-v1", n_steps=4, norm_obs=True)
    before = weights(model)
    model.learn(4)
    assert (weights(model) != before).any()


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLifPolicy", "MlpRnnPolicy"])
def test_recordings_are_of_what_acted(policy: str) -> None:
    kwargs = {"net_arch": [8]}
    model: Any = make_model(env="CartPole-v1", policy=policy, n_steps=8, policy_kwargs=kwargs, norm_obs=True)
    model.learn(400)
    recording = record(model, gymnasium.make("CartPole-v1"), 1, deterministic=True)
    state = None
    head: Any = model.policy.actor.head
    for obs, activity, action in zip(recording.observations, recording.activity(), recording.actions, strict=True):
        expected, state = model.predict(obs, state, deterministic=True)
        assert action == expected
        if policy != "MlpLifPolicy":
            assert int((head.weight.detach().numpy() @ activity + head.bias.detach().numpy()).argmax()) == expected
        else:
            np.testing.assert_allclose(activity, model.policy.spike_rates()[0][0], atol=1e-6)


def test_norm_obs_cannot_be_changed_later() -> None:
    model = make_model(norm_obs=True)
    model.norm_obs = False
    with pytest.raises(ValueError, match="norm_obs=False: must be True, as it was when the model was made"):
        model.learn(8)
