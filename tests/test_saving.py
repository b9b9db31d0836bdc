"""Saved, copied and pickled models continue as the original does, and files are written atomically."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnvBox, SimpleMultiObsEnv
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecFrameStack, VecNormalize
from torch import nn

from sb3_nrl import BPTT, NRL, RMHL, Noise, OuterProducts, ThreeFactorAlgorithm
from sb3_nrl.rmhl import HebbianExploration
from sb3_nrl.rules import LearningRule
from tests.conftest import each_rule, make_model, weights
from tests.envs import ClockEnv, ScriptedEnv


def trained(algorithm: Any = NRL, rule: str = "critic", n_steps: int = 40, **settings: Any) -> Any:
    return make_model(algorithm, rule=rule, learning_rate=0.05, **settings).learn(n_steps)


def averages(model: Any) -> list[float]:
    """The averages of a running average."""
    return [] if model.predictor.has_critic else model.predictor.average_E.tolist()


# Files


def halving(progress: float) -> float:
    return 0.05 * (1 + progress)


@each_rule
@pytest.mark.parametrize(
    "optimizer",
    [
        {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
        {"optimizer_class": th.optim.Adam, "optimizer_kwargs": {"betas": (0.8, 0.99)}},
    ],
    ids=["momentum", "adam"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["file", "stream"])
def test_a_loaded_model_goes_on_as_the_saved_one(
    algorithm: Any, rule: str, optimizer: dict[str, Any], stream: bool, tmp_path: Path
) -> None:
    saved = make_model(algorithm, rule=rule, n_envs=2, learning_rate=halving, policy_kwargs=optimizer).learn(100)
    place: Any = io.BytesIO() if stream else tmp_path / "model"
    saved.save(place)
    if stream:
        place.seek(0)
    loaded = algorithm.load(place, env=make_vec_env(lambda: ScriptedEnv([5, 3]), 2), device="cpu")
    assert loaded.num_timesteps == 100
    assert np.array_equal(weights(loaded), weights(saved))
    assert averages(loaded) == averages(saved)
    assert loaded.lr_schedule(0.25) == halving(0.25)

    saved.set_env(make_vec_env(lambda: ScriptedEnv([5, 3]), 2))
    before = weights(saved)
    for model in (saved, loaded):
        model.get_env().seed(4)
        model.set_random_seed(4)
        model.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == 160
    assert not np.array_equal(weights(saved), before)
    assert np.array_equal(weights(loaded), weights(saved))
    assert averages(loaded) == averages(saved)


@pytest.mark.parametrize("action_space", [spaces.Discrete(9), spaces.Box(-1, 1, (2,))], ids=["Discrete", "Box"])
def test_a_loaded_model_explores_on_unless_it_gets_another_seed(action_space: spaces.Space, tmp_path: Path) -> None:
    def actions_of(model: Any) -> np.ndarray:
        taken: list[np.ndarray] = []

        def note(step: dict[str, Any], _: Any) -> bool:
            taken.append(step["actions"].copy())
            return True

        model.learn(20, note, reset_num_timesteps=False)
        return np.concatenate(taken)

    env = ScriptedEnv([5], pay_at=[])
    env.action_space = action_space
    model = make_model(env=env, learning_rate=0.0, policy_kwargs={"head_gain": 1e-9, "action_correlation": 0.0})
    first = actions_of(model)
    model.save(tmp_path / "model")
    loaded = NRL.load(tmp_path / "model", env, device="cpu")
    seeded = NRL.load(tmp_path / "model", env, device="cpu", seed=1)
    second = actions_of(model)
    assert np.allclose(actions_of(loaded), second, atol=1e-6)
    assert not np.allclose(actions_of(seeded), second, atol=1e-6)
    assert not np.allclose(first, second, atol=1e-6)


def test_loading_with_other_environments_keeps_the_mean_prediction(tmp_path: Path) -> None:
    envs: list[Any] = [lambda: ClockEnv([[0.0, 2.0]]), lambda: ClockEnv([[0.0, 4.0]])]
    trained(rule="average", env=DummyVecEnv(envs), n_steps=20).save(tmp_path / "m")
    loaded = NRL.load(tmp_path / "m", env=make_vec_env(lambda: ClockEnv([[0.0, 9.0]]), 3), device="cpu")
    assert averages(loaded) == [3, 3, 3]
    before = weights(loaded)
    loaded.learn(12, reset_num_timesteps=False)
    assert loaded.num_timesteps == 32
    assert min(averages(loaded)) > 3
    assert not np.array_equal(weights(loaded), before)


def test_arguments_of_load_take_effect_and_are_checked(tmp_path: Path) -> None:
    env = make_vec_env(lambda: ClockEnv([[0.0, 4.0]]))
    trained(rule="average", env=env, n_steps=10).save(tmp_path / "model")
    other = make_vec_env(lambda: ClockEnv([[0.0, 8.0]]))
    loaded = NRL.load(tmp_path / "model", env=other, device="cpu", reward_smoothing=0.5)
    assert averages(loaded.learn(2, reset_num_timesteps=False)) == [6]
    with pytest.raises(ValueError, match="trace_decay=7"):
        NRL.load(tmp_path / "model", device="cpu", trace_decay=7)


@pytest.mark.parametrize("name", ["model", "model.zip", "model.v2"])
def test_an_interrupted_save_leaves_the_old_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    path = tmp_path / "models" / name
    model.save(path)
    files = list(path.parent.iterdir())
    assert [file.name for file in files] == [name if "." in name else f"{name}.zip"]
    old = weights(model)

    def break_down(state: Any, file: Any) -> None:
        file.write(b"half a file")
        raise OSError("no space left")

    assert not np.array_equal(weights(model.learn(40)), old)
    with monkeypatch.context() as patch:
        patch.setattr(th, "save", break_down)
        for place in (path, str(path), path.with_name("new")):
            with pytest.raises(OSError, match="no space left"):
                model.save(place)
    assert list(path.parent.iterdir()) == files
    assert np.array_equal(weights(NRL.load(path, device="cpu")), old)
    model.save(path)
    assert list(path.parent.iterdir()) == files
    assert np.array_equal(weights(NRL.load(path, device="cpu")), weights(model))


def test_saving_to_a_link_leaves_it_a_link(tmp_path: Path) -> None:
    place, link = tmp_path / "place.zip", tmp_path / "latest.zip"
    link.symlink_to(place)
    model = make_model()
    model.save(link)
    assert link.is_symlink() and not place.is_symlink()
    assert np.array_equal(weights(NRL.load(place, device="cpu")), weights(model))


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_of_any_new_file_or_of_the_old_one(tmp_path: Path) -> None:
    model, path, other = make_model(), tmp_path / "model.zip", tmp_path / "other"
    for mask in (0o022, 0o027):
        old_mask = os.umask(mask)
        try:
            model.save(path)
            other.touch()
        finally:
            os.umask(old_mask)
        assert path.stat().st_mode == other.stat().st_mode
        path.unlink()
        other.unlink()
    model.save(path)
    path.chmod(0o600)
    model.save(path)
    assert path.stat().st_mode & 0o777 == 0o600


class Slow:
    """An object whose pickling waits until ``go`` is set."""

    def __init__(self) -> None:
        self.started, self.go = threading.Event(), threading.Event()

    def __reduce__(self) -> Any:
        self.started.set()
        assert self.go.wait(60)
        return dict, ()


def test_two_threads_can_save_to_one_path(tmp_path: Path) -> None:
    """The second save begins and ends during the first one. Neither removes the other's temporary file."""
    first, second, path = make_model(), make_model(seed=1), tmp_path / "model.zip"
    first.slow = Slow()
    thread = threading.Thread(target=first.save, args=(path,))
    thread.start()
    assert first.slow.started.wait(60)
    assert len(list(tmp_path.iterdir())) == 1
    second.save(path)
    assert np.array_equal(weights(NRL.load(path, device="cpu")), weights(second))
    first.slow.go.set()
    thread.join()
    assert [file.name for file in tmp_path.iterdir()] == ["model.zip"]
    assert np.array_equal(weights(NRL.load(path, device="cpu")), weights(first))


KILLED_IN_THE_THIRD_SAVE = """
import os, signal, sys
import torch
from stable_baselines3.common.callbacks import CheckpointCallback
from sb3_nrl import NRL

whole_save, n_calls = torch.save, 0

def save(*args):
    global n_calls
    n_calls += 1
    whole_save(*args)
    if n_calls == 8:  # three calls per checkpoint
        args[1].flush()
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = save
NRL("MlpPolicy", "CartPole-v1", policy_kwargs=dict(net_arch=[256]), device="cpu").learn(
    10_000, callback=CheckpointCallback(20, sys.argv[1])
)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="no SIGKILL")
def test_checkpoints_survive_a_kill(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED_IN_THE_THIRD_SAVE, str(tmp_path)], timeout=120)
    assert process.returncode == -signal.SIGKILL
    steps = [NRL.load(path, device="cpu").num_timesteps for path in tmp_path.glob("*.zip")]
    assert sorted(steps) == [20, 40]


# Whose file it is


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "SAC", "TD3"])
def test_a_file_of_stable_baselines3_is_refused_by_name(name: str, tmp_path: Path) -> None:
    env = "Pendulum-v1" if name in ("SAC", "TD3") else "CartPole-v1"
    settings = {} if name in ("PPO", "A2C") else {"buffer_size": 10}
    getattr(stable_baselines3, name)("MlpPolicy", env, device="cpu", **settings).save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"^The file is of {name}, not of NRL: load it with {name}.load.$"):
        NRL.load(tmp_path / "model")


class MyNRL(NRL):
    pass


@pytest.mark.parametrize(
    ("saved", "loader", "is_loaded"),
    [
        (RMHL, NRL, False),
        (BPTT, NRL, False),
        (NRL, RMHL, False),
        (NRL, BPTT, False),
        (MyNRL, NRL, True),
        (NRL, MyNRL, True),
        (NRL, ThreeFactorAlgorithm, True),
        (MyNRL, BPTT, False),
    ],
)
def test_a_file_of_another_algorithm_is_refused_by_name(
    saved: Any, loader: Any, is_loaded: bool, tmp_path: Path
) -> None:
    model = make_model(saved)
    model.save(tmp_path / "model")
    if is_loaded:
        assert np.array_equal(weights(loader.load(tmp_path / "model", device="cpu")), weights(model))
    else:
        with pytest.raises(ValueError, match=f"^The file is of {saved.__name__}, not of {loader.__name__}: "):
            loader.load(tmp_path / "model", device="cpu")


# Policies


@pytest.mark.parametrize(
    ("policy", "make_env", "settings"),
    [
        ("MlpPolicy", lambda: ScriptedEnv([10]), {}),
        ("MlpPolicy", lambda: ScriptedEnv([10]), {"n_baseline_passes": 3, "noise_std": 0.5}),
        ("MlpPolicy", IdentityEnvBox, {"policy_kwargs": {"activation_fn": nn.ReLU, "use_bias": False}}),
        ("MlpPolicy", IdentityEnvBox, {"rule": "average"}),
        ("CnnPolicy", lambda: FakeImageEnv(screen_height=36, screen_width=36), {}),
        ("MultiInputPolicy", SimpleMultiObsEnv, {"policy_kwargs": {"net_arch": []}}),
    ],
    ids=["discrete", "noisy-passes", "box", "average", "image", "dict"],
)
def test_policy_survives_a_round_trip(
    policy: str, make_env: Callable[[], gymnasium.Env], settings: dict[str, Any], tmp_path: Path
) -> None:
    model = make_model(NRL, make_vec_env(make_env, 20), policy=policy, **settings)
    model.policy.save(str(tmp_path / "policy"))
    loaded = type(model.policy).load(str(tmp_path / "policy"), device="cpu")
    obs = model.get_env().reset()
    for deterministic in (True, False):
        actions = []
        for either in (model.policy, loaded):
            th.manual_seed(0)
            actions.append(either.predict(obs, deterministic=deterministic)[0])
        assert np.array_equal(*actions)


# Copies


def go_on(model: Any) -> tuple[np.ndarray, list[float], int]:
    """Continue the training of a model, with the same noise each time."""
    th.manual_seed(3)
    model.learn(60, reset_num_timesteps=False)
    return weights(model), averages(model), model.num_timesteps


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return np.array_equal(one[0], other[0]) and one[1:] == other[1:]


def interrupted(
    algorithm: Any, rule: str, box: bool = False, wrap: Callable[[VecEnv], VecEnv] = lambda env: env
) -> Any:
    """A model with traces of two windows, and steps that wait for an update, in the middle of an episode."""
    env = wrap(make_vec_env("Pendulum-v1" if box else (lambda: ScriptedEnv([20, 13])), 3, seed=0))
    kwargs = {"action_correlation": 0.9} if box else {}
    model = make_model(algorithm, env, rule, learning_rate=0.05, n_steps=8, policy_kwargs=kwargs)
    model.learn(300, lambda seen, _: seen["self"].num_timesteps < 3 * 27 or not model.rollout_buffer.pos % 8)
    assert model.rollout_buffer.pos > 0 and (model.traces.trace_EW is not None)
    return model


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": deepcopy,
    "cloudpickle": lambda model: cloudpickle.loads(cloudpickle.dumps(model)),
}
WRAPPERS: dict[str, Callable[[VecEnv], VecEnv]] = {
    "plain": lambda env: env,
    "VecNormalize": VecNormalize,
    "VecFrameStack": lambda env: VecFrameStack(VecNormalize(env), 2),
}


@each_rule
@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_copy_goes_on_as_the_original(algorithm: Any, rule: str, copy: str, wrap: str) -> None:
    model = interrupted(algorithm, rule, wrap=WRAPPERS[wrap])
    copied = COPIES[copy](model)
    before = weights(model)
    assert type(copied.get_env()) is type(model.get_env())
    assert (copied.get_vec_normalize_env() is None) == (wrap == "plain")
    first = go_on(model)
    assert not np.array_equal(first[0], before)
    assert np.array_equal(weights(copied), before)  # nothing is shared
    assert same(go_on(copied), first)


class Scaled(VecEnvWrapper):
    """Has a function that cannot be copied, and says how it is made again."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.__setstate__({"scale": 0.5})

    def __getstate__(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.scale, self.lock = state["scale"], threading.Lock()

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        return obs, self.scale * rewards, dones, infos


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_asks_a_wrapper_how_it_is_copied(copy: str) -> None:
    model = interrupted(NRL, "critic", wrap=Scaled)
    copied = COPIES[copy](model)
    assert same(go_on(model), go_on(copied)) and copied.get_env().scale == 0.5


def test_a_wrapper_that_keeps_another_one_is_named() -> None:
    class Keeps(VecFrameStack):
        def __init__(self, venv: VecEnv) -> None:
            super().__init__(venv, 2)
            self.kept = venv

    with pytest.raises(TypeError, match=r"Keeps\.kept is a wrapper"):
        deepcopy(interrupted(NRL, "critic", wrap=lambda env: Keeps(VecNormalize(env))))


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_explores_on_as_the_original(copy: str) -> None:
    model = interrupted(NRL, "critic", box=True)
    copied = COPIES[copy](model)
    assert same(go_on(model), go_on(copied))


@pytest.mark.parametrize("own", [False, True], ids=["tensorboard_log", "set_logger"])
def test_a_model_with_logs_can_be_copied(own: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained(verbose=1, tensorboard_log=None if own else str(tmp_path))
    if own:
        model.set_logger(configure(str(tmp_path), ["csv"]))
    assert same(go_on(deepcopy(model)), go_on(model))


@pytest.mark.slow
def test_a_model_goes_on_in_another_process() -> None:
    models = [
        interrupted(algorithm, rule, wrap=VecNormalize) for algorithm, rule in ((NRL, "average"), (BPTT, "critic"))
    ]
    expected = [go_on(deepcopy(model)) for model in models]  # PyTorch shares the memory of what is sent
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.map(go_on, models)
    assert all(map(same, there, expected))


# Rules of others


class RandomDirections(LearningRule):
    """The post-synaptic factors are random. The rule counts its windows in ``carry``."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def eligibility(self, policy: Any, window: Any, carry: Any) -> tuple[OuterProducts, int]:
        noise_BN = policy.array(self.scale * th.randn(len(window.actions), policy.n_nodes))
        received = policy.noisy_pass(window.observations, window.actions, noise_BN).received
        return OuterProducts(policy, noise_BN, received), 1 + (carry or 0)


def test_a_rule_of_ones_own_survives_a_round_trip(tmp_path: Path) -> None:
    env = make_vec_env(lambda: ScriptedEnv([5]), 2, seed=0)
    saved = ThreeFactorAlgorithm("MlpPolicy", env, rule=RandomDirections(0.3), seed=0, device="cpu").learn(64)
    saved.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"^The file is of ThreeFactorAlgorithm, not of NRL"):
        NRL.load(tmp_path / "model")
    loaded = ThreeFactorAlgorithm.load(tmp_path / "model", env=env, device="cpu")
    assert isinstance(loaded.rule, RandomDirections) and loaded.rule.scale == 0.3
    before = weights(saved)
    after = []
    for model in (saved, loaded):
        assert np.array_equal(weights(model), before)
        env.seed(4)
        model.set_env(env)
        model.set_random_seed(4)
        after.append(weights(model.learn(64, reset_num_timesteps=False)))
    assert not np.array_equal(after[0], before)
    assert np.array_equal(after[0], after[1])


def test_a_missing_rule_is_refused(tmp_path: Path) -> None:
    env = make_vec_env(lambda: ScriptedEnv([5]))
    for rule in (None, "hebbian", RandomDirections):
        with pytest.raises(ValueError, match=r"^rule=.*: must be a LearningRule"):
            ThreeFactorAlgorithm("MlpPolicy", env, rule=rule)  # type: ignore[arg-type]
    model = ThreeFactorAlgorithm("MlpPolicy", env, rule=RandomDirections(1.0), device="cpu")
    model.save(tmp_path / "model", exclude=["rule"])
    with pytest.raises(ValueError, match=r"^rule=None: must be a LearningRule.*load\(path, rule=\.\.\.\)"):
        ThreeFactorAlgorithm.load(tmp_path / "model")
    loaded = ThreeFactorAlgorithm.load(tmp_path / "model", rule=RandomDirections(2.0), device="cpu")
    assert np.array_equal(weights(loaded), weights(model))


class Counting(RandomDirections):
    """Notes what it is given as ``carry``."""

    def eligibility(self, policy: Any, window: Any, carry: Any) -> tuple[OuterProducts, int]:
        self.carried = carry
        return super().eligibility(policy, window, carry)


def test_another_rule_starts_without_what_the_last_one_kept() -> None:
    env = make_vec_env(lambda: ScriptedEnv([50]), 2, seed=0)
    model = ThreeFactorAlgorithm("MlpPolicy", env, rule=RandomDirections(0.3), n_steps=8, device="cpu", norm_obs=False)
    model.learn(40)
    model.rule = rule = Counting(0.3)
    model.learn(16, reset_num_timesteps=False)
    assert rule.carried is None and model.traces.trace_EW is not None
    model.learn(16, reset_num_timesteps=False)
    assert rule.carried == 1
    model.rule = HebbianExploration(Noise(0.1))  # which stores the noise of each step
    model.learn(16, reset_num_timesteps=False)
