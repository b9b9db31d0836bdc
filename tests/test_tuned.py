"""The shipped configs: every entry trains with its settings, and TUNED has the settings that the RL Zoo uses."""

import importlib
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import yaml
from stable_baselines3.common.vec_env import VecFrameStack

from sb3_nrl import NRL, PAPER, TUNED
from sb3_nrl.zoo import ALGORITHMS, config_file
from tests.test_zoo import manager

CONFIGS = [(algo, name) for algo in ALGORITHMS for name in (None, "paper")]


def text_of(algo: str, name: str | None) -> str:
    return pathlib.Path(str(config_file(algo, name))).read_text()


ENTRIES = [(algo, name, env) for algo, name in CONFIGS for env in yaml.safe_load(text_of(algo, name))]


def skip_without_its_package(env: str) -> None:
    if env.startswith("neurogym/"):
        pytest.importorskip("neurogym")
        importlib.import_module("sb3_nrl.envs")
    elif env.endswith("-v5"):
        pytest.importorskip("mujoco")


@pytest.mark.parametrize(("algo", "name", "env"), ENTRIES, ids=[f"{algo}-{name}-{env}" for algo, name, env in ENTRIES])
def test_every_entry_trains_with_its_hyperparameters(
    algo: str, name: str | None, env: str, tmp_path: pathlib.Path
) -> None:
    skip_without_its_package(env)
    lines = text_of(algo, name).splitlines()
    place = next(place for place, line in enumerate(lines) if line.startswith(f"{env}:"))
    alone = "*" not in lines[place]  # else one of several entries that are the same, with one comment
    origin = lines[place - 1] if alone else next(line for line in reversed(lines[:place]) if line.startswith("#"))
    assert origin.startswith("# Paper, Table 2" if name == "paper" else ("# Tuned, ", "# Not tuned: "))
    entry = yaml.safe_load(text_of(algo, name))[env]
    experiment = manager(tmp_path, algo, "CartPole-v1" if env == "default" else env, name=name)
    made = experiment.setup_experiment()
    assert made is not None
    model, _ = made
    assert (type(model), model.n_envs) == (ALGORITHMS[algo], entry.get("n_envs", 1))
    around = {"n_envs", "n_timesteps", "policy", "policy_kwargs", "learning_rate", "normalize", "callback"}
    for argument in entry.keys() - around - {"env_kwargs", "frame_stack"}:
        assert vars(model)[argument] == entry[argument]
    assert model.lr_schedule(1) == (
        float(str(entry["learning_rate"]).removeprefix("lin_")) if "learning_rate" in entry else model.lr_schedule(1)
    )
    assert (model.get_vec_normalize_env() is not None) == ("normalize" in entry)
    experiment.learn(model)
    assert 64 <= model.num_timesteps < 64 + model.n_envs


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_papers_config_has_the_settings_of_paper(algo: str, tmp_path: pathlib.Path) -> None:
    made = manager(tmp_path, algo, "CartPole-v1", name="paper").setup_experiment()
    assert made is not None
    paper: Any = ALGORITHMS[algo]("MlpPolicy", "CartPole-v1", device="cpu", **PAPER[algo.upper()])
    assert described(made[0], PAPER[algo.upper()]) == described(paper, PAPER[algo.upper()])


def described(model: Any, arguments: Any) -> dict[str, Any]:
    """The arguments that a model was made with, in a form to compare."""
    kwargs = {"net_arch": model.policy.net_arch, **model.policy_kwargs}
    activation = kwargs.pop("activation_fn", None)
    return {
        **{name: vars(model)[name] for name in set(arguments) - {"policy_kwargs", "learning_rate"}},
        **{"learning_rate": [model.lr_schedule(at) for at in (1.0, 0.25, 0.0)], "n_envs": model.n_envs},
        **{"policy_kwargs": kwargs, "activation_fn": activation and repr(activation())},
    }


@pytest.mark.parametrize("env_id", TUNED)
def test_tuned_settings_are_those_that_the_zoo_uses(env_id: str, tmp_path: pathlib.Path) -> None:
    skip_without_its_package(env_id)
    experiment = manager(tmp_path, "nrl", env_id, n_timesteps=-1)
    made = experiment.setup_experiment()
    assert made is not None
    tuned = TUNED[env_id]
    model = NRL(tuned.policy, tuned.make_env(seed=0), seed=0, device="cpu", **tuned.algorithm)
    entry = yaml.safe_load(text_of("nrl", None))[env_id]
    around = {"policy", "n_timesteps", "n_envs", "env_kwargs", "normalize", "frame_stack"}
    assert tuned.algorithm.keys() == entry.keys() - around
    ours, zoos = (described(each, tuned.algorithm) for each in (model, made[0]))
    assert ours.pop("learning_rate") == pytest.approx(zoos.pop("learning_rate"), rel=1e-12)
    assert ours == zoos
    assert (tuned.n_timesteps, tuned.n_envs) == (experiment.n_timesteps, experiment.n_envs)
    assert tuned.env_kwargs == experiment.env_kwargs
    assert tuned.frame_stack == (experiment.frame_stack or 1)
    envs: list[Any] = [model.get_env(), made[0].get_env()]
    assert len({isinstance(env, VecFrameStack) for env in envs}) == 1
    assert len({str(env.observation_space) for env in envs}) == 1
    names = ("norm_obs", "norm_reward", "gamma", "clip_obs", "clip_reward")
    normalized: list[Any] = [each.get_vec_normalize_env() for each in (model, made[0])]
    assert len({env and tuple(getattr(env, name) for name in names) for env in normalized}) == 1
    assert np.array_equal(envs[0].reset(), envs[1].reset())  # same environments, same seeds
    assert np.array_equal(model.policy.parameters_to_vector(), made[0].policy.parameters_to_vector())


def test_tuned_settings_are_new_at_each_access_and_unknown_ones_are_named() -> None:
    TUNED["Pendulum-v1"].algorithm["gamma"] = 0.0
    TUNED["neurogym/Reaching1D-v0"].env_kwargs["timing"].clear()
    assert TUNED["Pendulum-v1"].algorithm["gamma"] == 0.95
    assert TUNED["neurogym/Reaching1D-v0"].env_kwargs["timing"] == {"fixation": 0, "reach": 3000}
    with pytest.raises(KeyError, match=r"Taxi-v3.*CartPole-v1"):
        TUNED["Taxi-v3"]
    code = "import sys; sys.modules['rl_zoo3'] = None; from sb3_nrl import TUNED; TUNED['CartPole-v1'].make_env()"
    subprocess.run([sys.executable, "-c", code], check=True)
