"""Vectorised environments of Gymnasium: the same episodes as with Stable-Baselines3's own, in each autoreset mode."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_nrl import NRL, GymnasiumVecEnv
from tests.conftest import make_model, weights
from tests.envs import ScriptedEnv

vector = pytest.importorskip("gymnasium.vector")
pytestmark = pytest.mark.skipif(not hasattr(vector, "AutoresetMode"), reason="Gymnasium before 1.1 has one mode only")


class LimitedEnv(ScriptedEnv):
    """Every second episode is cut by a time limit, and every fourth ends in that step anyway. Infos tell the time."""

    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**kwargs)[0], {"episodes": self.n_episodes}

    def step(self, action: Any) -> Any:
        obs, reward, done, _, _ = super().step(action)
        is_cut = done and self.n_episodes % 2 == 1
        return obs, reward, done and (not is_cut or self.n_episodes % 4 == 3), is_cut, {"time": self.time}


class DictEnv(gymnasium.ObservationWrapper):
    """Observations in a dictionary."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict({"x": env.observation_space, "half": env.observation_space})

    def observation(self, observation: Any) -> Any:
        return {"x": observation, "half": observation / 2}


def builders(is_dict: bool = False) -> list[Callable[[], gymnasium.Env]]:
    """Environments whose episodes end at different times."""
    wrap: Callable[[Any], Any] = DictEnv if is_dict else lambda env: env
    return [lambda lengths=lengths: wrap(LimitedEnv(lengths, pay_at=[0, 2])) for lengths in ([2, 4], [3], [1, 5])]  # type: ignore[misc]


def make_vector(mode: str, is_dict: bool = False) -> GymnasiumVecEnv:
    return GymnasiumVecEnv(
        gymnasium.vector.SyncVectorEnv(builders(is_dict), autoreset_mode=getattr(vector.AutoresetMode, mode))
    )


def flat(obs: Any) -> np.ndarray:
    return np.concatenate([obs["x"], obs["half"]], -1) if isinstance(obs, dict) else np.array(obs)


def play(env: Any, n_steps: int = 25) -> list[tuple[Any, ...]]:
    """What the environments return, step by step."""
    env.seed(3)
    seen: list[tuple[Any, ...]] = [(flat(env.reset()),)]
    for _ in range(n_steps):
        obs, rewards, dones, infos = env.step(np.array([1, 1, 2]))
        told = []
        for info in infos:
            info = dict(info)
            if "terminal_observation" in info:
                info["terminal_observation"] = flat(info["terminal_observation"]).tolist()
            if "episode" in info:
                info["episode"] = {key: value for key, value in info["episode"].items() if key != "t"}
            told.append(info)
        seen.append((flat(obs), np.array(rewards), np.array(dones), told, [dict(info) for info in env.reset_infos]))
    return seen


@pytest.mark.parametrize("is_dict", [False, True], ids=["box", "dict"])
@pytest.mark.parametrize("mode", ["SAME_STEP", "DISABLED"])
def test_episodes_are_those_of_dummy_vec_env(mode: str, is_dict: bool) -> None:
    ours = play(make_vector(mode, is_dict))
    theirs = play(DummyVecEnv([lambda build=build: Monitor(build()) for build in builders(is_dict)]))  # type: ignore[misc]
    for step, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        np.testing.assert_array_equal(own[0], other[0])
        if step > 0:
            np.testing.assert_array_equal(own[1], other[1])
            np.testing.assert_array_equal(own[2], other[2])
            for env in range(3):
                wanted = {key: value for key, value in other[3][env].items() if key != "TimeLimit.truncated"}
                got = {key: value for key, value in own[3][env].items() if key != "TimeLimit.truncated"}
                assert got == wanted
                cut = own[3][env].get("TimeLimit.truncated", False)
                assert cut == other[3][env].get("TimeLimit.truncated", False)
                if other[2][env]:
                    assert own[4][env] == other[4][env]


def episodes_of(seen: list[tuple[Any, ...]], env: int) -> list[list[Any]]:
    """The first observation of each episode, and for each of its steps observation, reward, and statistics if any."""
    episodes = [[seen[0][0][env].tolist()]]
    for obs, rewards, dones, infos, _ in seen[1:]:
        info = infos[env]
        episodes[-1].append((info.get("terminal_observation", obs[env].tolist()), rewards[env], info.get("episode")))
        if dones[env]:
            episodes.append([obs[env].tolist()])
    return episodes[:-1]


@pytest.mark.parametrize("is_dict", [False, True], ids=["box", "dict"])
def test_next_step_adds_a_step_without_reward_to_each_episode(is_dict: bool) -> None:
    """All else is the same: observations, rewards, ends, terminal observations, returns and lengths."""
    ours = play(make_vector("NEXT_STEP", is_dict), 60)
    theirs = play(DummyVecEnv([lambda build=build: Monitor(build()) for build in builders(is_dict)]), 40)  # type: ignore[misc]
    for env in range(3):
        first: list[Any] = []
        for own, other in zip(episodes_of(ours, env), episodes_of(theirs, env), strict=False):
            if first:
                assert own.pop(0) == first[-1]  # with which the episode before began
                own[0] = own[0][0] if own[0][1:] == (0.0, None) else None
            assert own == other
            first.append(other[0])
        assert len(first) > 5


def test_training_is_the_same_as_with_dummy_vec_env() -> None:
    trained = []
    for env in (
        make_vector("SAME_STEP"),
        DummyVecEnv([lambda build=build: Monitor(build()) for build in builders()]),  # type: ignore[misc]
    ):
        model = make_model(env=env, n_steps=4)
        model.learn(200)
        trained.append((weights(model), [(info["r"], info["l"]) for info in model.ep_info_buffer or ()]))
    np.testing.assert_array_equal(trained[0][0], trained[1][0])
    assert trained[0][1] == trained[1][1]


def test_many_cartpoles_are_learned_from_and_normalised() -> None:
    env = VecNormalize(
        GymnasiumVecEnv(gymnasium.make_vec("CartPole-v1", 64, vectorization_mode="vector_entry_point")),
        norm_reward=False,
    )
    model = NRL("MlpPolicy", env, n_steps=8, seed=0, device="cpu")
    model.learn(40_000)
    infos = list(model.ep_info_buffer or ())
    returns = [info["r"] for info in infos]
    assert all(info["r"] == info["l"] for info in infos)
    assert np.mean(returns) > 60  # 22 before learning


def test_async_environments_train_and_evaluate_without_a_monitor() -> None:
    """A worker of AsyncVectorEnv ends if it is asked for an attribute that its environment does not have."""
    make = [lambda: gymnasium.make("CartPole-v1")] * 2
    env = GymnasiumVecEnv(gymnasium.vector.AsyncVectorEnv(make, autoreset_mode=vector.AutoresetMode.SAME_STEP))
    model = make_model(env=env, n_steps=4)
    model.learn(64)
    assert env.has_attr("num_envs")
    with warnings.catch_warnings(action="error"):
        mean, _ = evaluate_policy(model, env, 3)
    assert mean > 5  # type: ignore[operator]
    env.close()


def test_observations_are_copies() -> None:
    env = GymnasiumVecEnv(
        gymnasium.vector.SyncVectorEnv(builders(), copy=False, autoreset_mode=vector.AutoresetMode.SAME_STEP)
    )
    first = flat(env.reset())
    kept = first.copy()
    env.step(np.array([1, 1, 1]))
    np.testing.assert_array_equal(first, kept)
    with pytest.raises(ValueError, match=r"options=.*: must be the same for all environments"):
        env.set_options([{"low": 0}, {}, {}])
        env.reset()


def test_infos_of_all_environments_together_go_to_each() -> None:
    class Told(gymnasium.vector.SyncVectorEnv):
        def step(self, actions: Any) -> Any:
            *rest, _ = super().step(actions)
            return *rest, {
                "fps": 60.0,
                "name": "abc",
                "own": np.array([1, 2, 3]),
                "some": [7, 8, 9],
                "_some": [1, 0, 1],
            }

    env = GymnasiumVecEnv(Told(builders()))
    env.reset()
    infos = env.step(np.array([2, 2, 2]))[3]
    assert [info["fps"] for info in infos] == [60.0] * 3
    assert [info["name"] for info in infos] == ["abc"] * 3
    assert [info["own"] for info in infos] == [1, 2, 3]
    assert [info.get("some") for info in infos] == [7, None, 9]


def test_algorithms_of_stable_baselines3_train_on_it() -> None:
    env = GymnasiumVecEnv(gymnasium.make_vec("CartPole-v1", 4, vectorization_mode="vector_entry_point"))
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(256)
    assert model.ep_info_buffer
    assert env.get_attr("num_envs") == [4] * 4
    assert make_vector("SAME_STEP").get_attr("lengths", [1, 2]) == [[3], [1, 5]]


def test_environments_without_a_known_mode_are_refused() -> None:
    env = gymnasium.vector.SyncVectorEnv(builders())
    env.metadata = {}
    with pytest.raises(ValueError, match="autoreset mode of env=None: must be one of"):
        GymnasiumVecEnv(env)
    with pytest.raises(ValueError, match=r"env='LimitedEnv': must be a gymnasium.vector.VectorEnv"):
        GymnasiumVecEnv(LimitedEnv([2]))  # type: ignore[arg-type]
