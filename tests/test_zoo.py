"""The RL Zoo with NRL, RMHL and BPTT: the command as users type it, resumed runs, tuning, and the configs."""

import argparse
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, ClassVar

import huggingface_hub
import numpy as np
import pytest
import rl_zoo3.exp_manager
import rl_zoo3.train
import rl_zoo3.utils
import yaml
from huggingface_hub.errors import EntryNotFoundError
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[import-untyped]

import sb3_nrl.zoo
from sb3_nrl import NRL
from sb3_nrl.cli import main
from sb3_nrl.zoo import ExperimentManager, config_file

N_ENVS = 4
CARTPOLE = ["train", "--algo", "nrl", "--env", "CartPole-v1", "--eval-freq", "-1"]
SPY = "callback:'tests.test_zoo.Spy'"
NRL_1 = pathlib.Path("logs/nrl/CartPole-v1_1")
NRL_2 = pathlib.Path("logs/nrl/CartPole-v1_2")


class Spy(BaseCallback):
    """Stores the model with which each training starts, and can interrupt the training or make it fail."""

    starts: ClassVar[list[dict[str, Any]]] = []
    raise_at: ClassVar[tuple[int, BaseException] | None] = None

    def _on_training_start(self) -> None:
        normalize: Any = self.model.get_vec_normalize_env()
        self.starts.append(
            {
                "steps": self.model.num_timesteps,
                "goal": self.model._total_timesteps,
                "weights": self.model.policy.parameters_to_vector(),
                "count": normalize and normalize.obs_rms.count,
                "gamma": normalize and normalize.gamma,
            }
        )

    def _on_step(self) -> bool:
        if self.raise_at is not None and self.num_timesteps >= self.raise_at[0]:
            raise self.raise_at[1]
        return True


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty folder to run the command in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Spy, "starts", [])
    monkeypatch.setattr(Spy, "raise_at", None)
    return tmp_path


@pytest.fixture(scope="module")
def normalized(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a run of 96 steps that normalizes, with checkpoints at 32, 64 and 96 steps."""
    folder = tmp_path_factory.mktemp("normalized")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        options = ["-n", "96", "--save-freq", "32", "--seed", "7", "-tb", "tb", "--log-interval", "1"]
        parameters = ["policy_kwargs:dict(net_arch=[8],activation_fn=nn.ReLU)", "max_grad_norm:None", "antithetic:True"]
        main([*CARTPOLE, *options, "-params", f"n_envs:{N_ENVS}", "normalize:True", SPY, *parameters])
    return folder


@pytest.fixture
def run_of(normalized: pathlib.Path, here: pathlib.Path) -> pathlib.Path:
    """A copy of that run, which tests may damage."""
    for folder in ("logs", "tb"):
        shutil.copytree(normalized / folder, here / folder)
    return here / NRL_1


def start(folder: pathlib.Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    environment = {**os.environ, "MPLBACKEND": "svg", "SDL_VIDEODRIVER": "dummy"}
    return subprocess.Popen(
        [sys.executable, "-m", "sb3_nrl", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read(run: pathlib.Path, file: str) -> dict[str, Any]:
    """``config.yml`` or ``args.yml`` of a run."""
    return dict(yaml.unsafe_load((run / "CartPole-v1" / file).read_text()))


def count(statistics: pathlib.Path) -> float:
    """Observations that ``VecNormalize`` had seen when it was saved."""
    return float(pickle.loads(statistics.read_bytes()).obs_rms.count)


def weights(model: pathlib.Path) -> np.ndarray:
    return NRL.load(model, device="cpu").policy.parameters_to_vector()


def mistake(arguments: list[str]) -> str:
    """The error message of a command, which is one line."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    line = str(exit_.value)
    assert line.startswith(f"sb3-nrl {arguments[0]}: ") and "\n" not in line
    assert "--verbose 2" in line
    return line


def manager(
    folder: pathlib.Path, algo: str, env: str, *, name: str | None = None, **arguments: Any
) -> ExperimentManager:
    """An experiment, as the zoo's train makes one."""
    sb3_nrl.zoo.register()
    settings = {"n_timesteps": 64, "eval_freq": -1, "seed": 0, "verbose": 0, "device": "cpu", "log_interval": -1}
    log_folder = str(folder / "logs")
    return rl_zoo3.train.ExperimentManager(
        argparse.Namespace(), algo, env, log_folder, config=name, **{**settings, **arguments}
    )  # type: ignore[return-value]


# Training


def test_train_takes_the_shipped_config_and_what_the_command_line_changes(normalized: pathlib.Path) -> None:
    config = read(normalized / NRL_1, "config.yml")
    shipped = yaml.safe_load(pathlib.Path(str(config_file("nrl"))).read_text())["CartPole-v1"]
    changed = {"n_envs", "normalize", "callback", "policy_kwargs", "max_grad_norm", "antithetic"}
    assert {name: config[name] for name in shipped.keys() - changed} == {
        name: shipped[name] for name in shipped.keys() - changed
    }
    model = NRL.load(normalized / NRL_1 / "CartPole-v1.zip", device="cpu")
    assert (config["n_envs"], model.n_envs, model.num_timesteps) == (N_ENVS, N_ENVS, 96)


def test_tensorboard_has_the_hyperparameters(normalized: pathlib.Path) -> None:
    (run,) = (normalized / "tb" / "CartPole-v1").iterdir()
    events = EventAccumulator(str(run)).Reload()
    assert "rollout/ep_rew_mean" in events.Tags()["scalars"]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = HParamsPluginData.FromString(content).session_start_info.hparams
    found = {name: getattr(value, str(value.WhichOneof("kind"))) for name, value in values.items()}
    expected = {
        **{"algorithm": "NRL", "n_envs": 4, "seed": 7, "gamma": 0.98, "trace_decay": 0.93, "n_steps": 8},
        **{"n_noise_samples": 8, "learning_rate": 0.007, "vf_coef": 3.0, "max_grad_norm": "None", "antithetic": True},
        **{"noise_std": 0.01, "noise_distribution": "gaussian", "ent_coef": 0.0, "policy_kwargs/net_arch": "[8]"},
        "policy_kwargs/activation_fn": "<class 'torch.nn.modules.activation.ReLU'>",
    }
    assert {name: found[name] for name in expected} == expected
    assert not found.keys() & {"env", "tensorboard_log", "verbose", "policy_kwargs"}


def test_two_runs_that_start_at_once_have_folders_of_their_own(here: pathlib.Path) -> None:
    experiments = [manager(here, "nrl", "CartPole-v1") for _ in range(2)]
    for experiment in experiments:
        assert experiment.setup_experiment() is not None
    assert [pathlib.Path(experiment.save_path).name for experiment in experiments] == ["CartPole-v1_1", "CartPole-v1_2"]
    assert (here / NRL_2 / "CartPole-v1" / "config.yml").exists()


def test_algorithms_of_the_zoo_and_own_scripts_work(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["train", "--algo", "ppo", "-n", "32", "-params", "n_envs:1", "n_steps:16", "batch_size:16", "n_epochs:1"])
    assert (here / "logs" / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip").exists()
    sb3_nrl.zoo.register()
    arguments = ["own.py", "--algo", "bptt", "--env", "CartPole-v1", "-n", "64", "-conf", "paper"]
    monkeypatch.setattr(sys, "argv", arguments)
    rl_zoo3.train.train()
    assert read(here / "logs" / "bptt" / "CartPole-v1_1", "config.yml")["learning_rate"] == 5e-3
    main([*CARTPOLE, "-n", "16"])
    assert sys.argv == arguments


def test_environment_of_the_config_is_also_that_of_evaluation_and_of_later_commands(tmp_path: pathlib.Path) -> None:
    config = tmp_path / "heavy.yml"
    config.write_text("Pendulum-v1: {n_timesteps: 1e2, policy: MlpPolicy, learning_rate: 1e-3, env_kwargs: {g: 20.0}}")
    experiment = manager(tmp_path, "nrl", "Pendulum-v1", name=str(config), eval_freq=32, n_timesteps=-1)
    made = experiment.setup_experiment()
    assert made is not None
    for eval_env in (False, True):
        assert experiment.create_envs(1, eval_env=eval_env).get_attr("g") == [20.0]
    arguments = yaml.unsafe_load((pathlib.Path(experiment.params_path) / "args.yml").read_text())
    assert arguments["env_kwargs"] == {"g": 20.0}
    # YAML takes 1e2 for text, since it has no dot.
    assert (experiment.n_timesteps, made[0].lr_schedule(1)) == (100, 1e-3)


def test_failing_training_leaves_what_it_learned(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spy, "raise_at", (40, ValueError("a fault in a callback")))
    with pytest.raises(ValueError, match="a fault in a callback"):  # in a file of the user: with its traceback
        main([*CARTPOLE, "-n", "64", "-params", "n_envs:1", SPY])
    assert NRL.load(here / NRL_1 / "CartPole-v1.zip", device="cpu").num_timesteps == 40


# Resumed runs


def test_run_goes_on_with_its_steps_statistics_and_settings(run_of: pathlib.Path) -> None:
    before = count(run_of / "CartPole-v1" / "vecnormalize.pkl")
    main(["train", "-i", str(NRL_1), "-n", "160", "-params", "gamma:0.95"])
    (state,) = Spy.starts
    assert (state["steps"], state["goal"], state["gamma"]) == (96, 160, 0.95)
    assert state["count"] == pytest.approx(before + N_ENVS)  # a reset adds an observation of each environment
    assert np.array_equal(state["weights"], weights(run_of / "CartPole-v1.zip"))
    model = NRL.load(NRL_2 / "CartPole-v1.zip", device="cpu")
    assert (model.num_timesteps, model.gamma) == (160, 0.95)
    assert read(NRL_2, "config.yml") == read(run_of, "config.yml") | {"gamma": 0.95}
    arguments, old = read(NRL_2, "args.yml"), read(run_of, "args.yml")
    assert arguments["seed"] == 7 + 96
    for name in ("save_freq", "eval_freq", "log_interval", "tensorboard_log", "algo", "env"):
        assert arguments[name] == old[name]
    assert {path.name for path in NRL_2.glob("rl_model_*.zip")} == {f"rl_model_{n}_steps.zip" for n in (128, 160)}
    assert sorted(path.name for path in pathlib.Path("tb/CartPole-v1").iterdir()) == ["NRL_1", "NRL_2"]


def test_interrupted_run_goes_on_from_where_it_was(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spy, "raise_at", (48, KeyboardInterrupt()))
    main([*CARTPOLE, "-n", "96", "--save-freq", "32", "-params", "n_envs:1", SPY])
    monkeypatch.setattr(Spy, "raise_at", None)
    main(["train", "-i", str(NRL_1)])
    assert [state["steps"] for state in Spy.starts] == [0, 48]
    # The second run as if it had been killed at its start: it went on from the model of the first.
    for model in NRL_2.glob("*.zip"):
        model.unlink()
    main(["train", "-i", str(NRL_2), "-n", "64"])
    assert Spy.starts[2]["steps"] == 48


def damage(file: pathlib.Path, how: str) -> None:
    content = file.read_bytes()
    file.unlink()
    if how != "missing":
        file.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "other": pickle.dumps([])}[how])


@pytest.mark.parametrize("command", ["train", "enjoy"])
@pytest.mark.parametrize(
    ("how", "damaged", "source"),
    [
        ("missing", ["CartPole-v1/vecnormalize.pkl"], 96),  # as if killed between the last model and its statistics
        ("empty", ["CartPole-v1/vecnormalize.pkl"], 96),
        ("truncated", ["CartPole-v1/vecnormalize.pkl", "rl_model_vecnormalize_96_steps.pkl"], 64),
        ("other", ["CartPole-v1.zip", "rl_model_vecnormalize_96_steps.pkl"], 64),
        ("truncated", ["CartPole-v1.zip", "rl_model_96_steps.zip"], 64),
        ("empty", ["CartPole-v1.zip", "rl_model_96_steps.zip", "rl_model_64_steps.zip"], 32),
    ],
)
def test_damaged_files_are_named_and_an_older_model_is_used(
    run_of: pathlib.Path, how: str, damaged: list[str], source: int, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in damaged:
        damage(run_of / name, how)
    if command == "enjoy":
        main(["enjoy", "--load-last-checkpoint", "--no-render", "-n", "5"])
        damaged = [name for name in damaged if name.startswith("rl_model")]
    else:
        main(["train", "-i", str(NRL_1), "-n", "112"])
        (state,) = Spy.starts
        assert state["steps"] == source
        assert state["count"] == pytest.approx(count(run_of / f"rl_model_vecnormalize_{source}_steps.pkl") + N_ENVS)
        assert np.array_equal(state["weights"], weights(run_of / f"rl_model_{source}_steps.zip"))
    output = capsys.readouterr().out
    assert f"The model is {NRL_1}/rl_model_{source}_steps.zip\n" in output
    assert all(f"{NRL_1}/{name} is {'missing' if how == 'missing' else 'damaged'}" in output for name in damaged)


def test_run_without_a_whole_model_is_refused(run_of: pathlib.Path) -> None:
    for model in run_of.glob("*.zip"):
        damage(model, "truncated")
    for arguments in (["train", "-i", str(NRL_1)], ["train", "-i", f"{NRL_1}/CartPole-v1.zip"], ["enjoy"]):
        assert f"{NRL_1}/CartPole-v1.zip is damaged" in mistake(arguments)
    for model in run_of.glob("*.zip"):
        model.unlink()
    assert "no model to use: train with --save-freq" in mistake(["train", "-i", str(NRL_1)])


@pytest.mark.parametrize(
    ("file", "models"),
    [
        ("vecnormalize.part", ["rl_model_16_steps.zip", "rl_model_32_steps.zip"]),
        ("rl_model_vecnormalize_32_steps.pkl", ["CartPole-v1.zip", "rl_model_16_steps.zip"]),
    ],
)
def test_model_is_never_saved_without_its_statistics(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch, file: str, models: list[str]
) -> None:
    save = VecNormalize.save

    def fail(self: VecNormalize, path: str) -> None:
        if pathlib.Path(path).name == file:
            raise OSError("disk full")
        save(self, path)

    monkeypatch.setattr(VecNormalize, "save", fail)
    with pytest.raises(OSError, match="disk full"):  # raised in this file: with its traceback
        main([*CARTPOLE, "-n", "32", "--save-freq", "16", "-params", "normalize:True"])
    assert sorted(path.name for path in NRL_1.glob("*.zip")) == models


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--algo", "ppo"], "algo='ppo': must be left out"),
        (["--env", "Acrobot-v1"], "env='Acrobot-v1': must be left out"),
        (["-conf", "paper"], "-params changes some"),
        (["--trial-id", "1"], "-params changes some"),
        (["-optimize"], "left out with -optimize"),
        (["-params", "policy_kwargs:dict(net_arch=[8])"], "must be left out"),
        (["-params", "normalize:False"], "normalize=False: must be left out"),
        (["-params", "noise_sdt:0.1"], "NRL has no hyper-parameter noise_sdt"),
        (["-n", "96"], "already has 96 steps"),
    ],
)
def test_run_does_not_go_on_as_another(run_of: pathlib.Path, options: list[str], says: str) -> None:
    assert says in mistake(["train", "-i", str(NRL_1), "-n", "128", *options])


def test_model_of_a_checkpoint_comes_with_its_statistics(run_of: pathlib.Path) -> None:
    """``-i MODEL.zip`` of the RL Zoo: a new run that starts from a model."""
    main([*CARTPOLE, "-i", f"{NRL_1}/rl_model_64_steps.zip", "-n", "32", "-params", "normalize:True", SPY])
    (state,) = Spy.starts
    assert (state["steps"], state["goal"]) == (0, 32)
    assert state["count"] == pytest.approx(count(run_of / "rl_model_vecnormalize_64_steps.pkl") + 8)


@pytest.mark.slow
def test_killed_run_goes_on(here: pathlib.Path) -> None:
    options = ["-n", "100000000", "--save-freq", "400", "-params", "normalize:True", f"n_envs:{N_ENVS}"]
    process = start(here, *CARTPOLE, *options)
    while not (NRL_1 / "rl_model_1200_steps.zip").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    last = max(int(path.stem.split("_")[-2]) for path in NRL_1.glob("rl_model_*_steps.zip"))
    main(["train", "-i", str(NRL_1), "-n", str(last + 40), "-params", SPY])
    assert Spy.starts[0]["steps"] == last
    assert Spy.starts[0]["count"] == pytest.approx(count(NRL_1 / f"rl_model_vecnormalize_{last}_steps.pkl") + N_ENVS)


# Nothing that a run or a study holds as data is run as code


class Bomb:
    """Makes a folder when its pickle is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("run_as_code",)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("config.yml", "gamma: 0.98", "gamma: !!python/object/apply:os.mkdir [run_as_code]"),
        ("args.yml", "  - - device\n    - auto", "  - - device\n    - !!python/object/apply:os.mkdir [run_as_code]"),
        ("args.yml", "env_kwargs\n    - null", 'env_kwargs\n    - {\'a:__import__("os").mkdir("run_as_code")#\': 1}'),
        (
            "args.yml",
            "wandb_tags\n    - []",
            'wandb_tags\n    - [--hyperparams, \'a:__import__("os").mkdir("run_as_code")\']',
        ),
        ("args.yml", "!!python/object/apply:collections.OrderedDict", "!!python/object/apply:os.mkdir [run_as_code]"),
    ],
)
def test_settings_of_a_run_are_read_as_data(run_of: pathlib.Path, file: str, old: str, new: str) -> None:
    path = run_of / "CartPole-v1" / file
    text = path.read_text()
    path.write_text(text.replace(old, new, 1) if "Ordered" not in old else new)
    assert path.read_text() != text
    line = mistake(["train", "-i", str(NRL_1), "-n", "128"])
    assert any(name in line for name in (file, "device", "env_kwargs", "wandb_tags"))
    assert not pathlib.Path("run_as_code").exists()


def test_text_of_policy_kwargs_is_not_evaluated_when_a_run_goes_on(run_of: pathlib.Path) -> None:
    path = run_of / "CartPole-v1" / "config.yml"
    config = yaml.unsafe_load(path.read_text())
    path.write_text(yaml.dump({**config, "policy_kwargs": "dict(a=__import__('os').mkdir('run_as_code'))"}))
    main(["train", "-i", str(NRL_1), "-n", "100"])
    assert Spy.starts[0]["steps"] == 96
    assert not pathlib.Path("run_as_code").exists()


def test_run_that_does_not_normalize_loads_no_statistics(here: pathlib.Path) -> None:
    main([*CARTPOLE, "-n", "32", "--save-freq", "32"])
    for file in ("rl_model_vecnormalize_32_steps.pkl", "CartPole-v1/vecnormalize.pkl"):
        (NRL_1 / file).write_bytes(pickle.dumps(Bomb()))
    for model in (NRL_1, NRL_1 / "rl_model_32_steps.zip", NRL_1 / "CartPole-v1.zip"):
        main([*CARTPOLE, "-i", str(model), "-n", "40"])
    assert not pathlib.Path("run_as_code").exists()


# Watching


def test_enjoy_takes_the_latest_run_that_has_a_model(run_of: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run_of, NRL_2)
    (NRL_2 / "CartPole-v1.zip").unlink()  # killed after its checkpoints
    (run_of.parent / "CartPole-v1_3" / "CartPole-v1").mkdir(parents=True)  # killed at its start
    main(["enjoy", "--no-render", "-n", "5"])
    assert f"Loading {NRL_1}/CartPole-v1.zip" in capsys.readouterr().out
    main(["enjoy", "--no-render", "-n", "5", "--load-last-checkpoint"])
    assert f"{NRL_2}/rl_model_96_steps.zip" in capsys.readouterr().out
    assert "No model found" in mistake(["enjoy", "--exp-id", "3"])


def test_checkpoint_is_watched_with_its_own_statistics(
    normalized: pathlib.Path, here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    class Spied(VecNormalize):
        @staticmethod
        def load(load_path: str, venv: VecEnv) -> VecNormalize:
            env: Any = VecNormalize.load(load_path, venv)
            seen.append(env.obs_rms.count)
            return env

    monkeypatch.setattr(rl_zoo3.utils, "VecNormalize", Spied)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    logs = ["-f", str(normalized / "logs"), "-n", "5", "--no-render"]
    main(["enjoy", *logs, "--load-checkpoint", "32"])
    main(["record-video", *logs, "--load-checkpoint", "64"])
    main(["enjoy", *logs])
    run = normalized / NRL_1
    files = [*(f"rl_model_vecnormalize_{n}_steps.pkl" for n in (32, 64)), "CartPole-v1/vecnormalize.pkl"]
    assert seen == [count(run / file) for file in files]
    (film,) = (run / "videos").glob("*.mp4")
    assert film.stat().st_size > 1000


class LocalHub:
    """The calls of the Hugging Face Hub that an upload makes, with a folder in its place."""

    folder = pathlib.Path()

    def create_repo(self, repo_id: str, **_: Any) -> str:
        (self.folder / repo_id).mkdir(parents=True)
        return repo_id

    def snapshot_download(self, local_dir: pathlib.Path, **_: Any) -> None:
        local_dir.mkdir(parents=True)

    def upload_folder(self, repo_id: str, folder_path: pathlib.Path, **_: Any) -> None:
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)

    @classmethod
    def download(cls, repo_id: str, filename: str, **_: Any) -> str:
        if not (cls.folder / repo_id / filename).exists():
            raise EntryNotFoundError(filename)
        return str(cls.folder / repo_id / filename)


@pytest.fixture
def hub(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder in place of the Hub."""
    monkeypatch.setattr(LocalHub, "folder", here / "hub-of-others")
    monkeypatch.setattr(huggingface_hub, "HfApi", LocalHub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", LocalHub.download)
    monkeypatch.setenv("TRUST_REMOTE_CODE", "True")
    return LocalHub.folder


def test_checkpoint_comes_back_from_the_hub_with_its_statistics(normalized: pathlib.Path, hub: pathlib.Path) -> None:
    of_us = ["--env", "CartPole-v1", "-orga", "us"]
    main(["push", *of_us, "-f", str(normalized / "logs"), "--no-render", "--load-checkpoint", "32"])
    card = (hub / "us" / "nrl-CartPole-v1" / "README.md").read_text()
    assert (
        "**NRL** Agent playing **CartPole-v1**" in card and "sb3-nrl pull --algo nrl" in card and "rl_zoo3." not in card
    )
    main(["pull", *of_us])
    run, pulled = normalized / NRL_1, NRL_1
    before_W, after_W = (
        NRL.load(model).policy.parameters_to_vector()
        for model in (run / "rl_model_32_steps.zip", pulled / "CartPole-v1.zip")
    )
    assert np.array_equal(before_W, after_W)
    statistics = run / "rl_model_vecnormalize_32_steps.pkl"
    assert count(pulled / "CartPole-v1/vecnormalize.pkl") == count(statistics)
    assert len(list(pulled.glob("*.monitor.csv"))) == len(list(run.glob("*.monitor.csv"))) > 0
    main(["enjoy", *of_us[:2], "-n", "5", "--no-render"])


def test_agent_of_neurogym_without_statistics_comes_back_from_the_hub(hub: pathlib.Path) -> None:
    pytest.importorskip("neurogym")
    task = ["--env", "neurogym/GoNogo-v0"]
    main(["train", *task, "-n", "64", "--eval-freq", "-1", "-f", "ours"])
    main(["push", *task, "-orga", "us", "-f", "ours"])
    main(["pull", *task, "-orga", "us", "-f", "pulled"])
    first_W, second_W = (
        NRL.load(f"{folder}/nrl/neurogym-GoNogo-v0_1/neurogym-GoNogo-v0.zip").policy.parameters_to_vector()
        for folder in ("ours", "pulled")
    )
    assert np.array_equal(first_W, second_W)


@pytest.mark.slow
def test_plots_become_files_without_a_display(normalized: pathlib.Path, here: pathlib.Path) -> None:
    logs = ["-a", "nrl", "-e", "CartPole-v1", "-f", str(normalized / "logs")]
    process = start(here, "plot-train", *logs, "-w", "1")
    assert process.communicate()[1] == "" and process.returncode == 0
    picture = (here / "plot-train-1.png").read_bytes()
    assert picture[:4] == b"\x89PNG"
    for wrong in (["-e", "CartPol-v1"], ["-w", "1000000"]):
        assert "found nothing to draw" in mistake(["plot-train", *logs, *wrong])
    assert (here / "plot-train-1.png").read_bytes() == picture


def test_tasks_of_neurogym_log_their_performance_and_go_on(here: pathlib.Path) -> None:
    pytest.importorskip("neurogym")
    task = ["--algo", "nrl", "--env", "neurogym/GoNogo-v0"]
    main(["train", *task, "-n", "200", "-tb", "tb", "--log-interval", "1", "-params", "n_envs:1"])
    (run,) = here.glob("tb/*/*")
    scalars = EventAccumulator(str(run)).Reload().Scalars("rollout/performance")
    assert all(0 <= event.value <= 1 for event in scalars)
    main(["train", "-i", "logs/nrl/neurogym-GoNogo-v0_1", "-n", "240", "-params", SPY])
    assert Spy.starts[0]["steps"] == 200
    main(["enjoy", *task, "-n", "5"])
    assert "nothing to render" in mistake(["record-video", *task])


# Mistakes

OWN = """
CartPole-v1: {n_timesteps: 64, policy: MlpPolicy, env_wrapper: rl_zoo3.wrappers.HistoryWrapper}
Pendulum-v1: {policy: MlpPolicy}
Acrobot-v1: 3
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--env", "CartPol-v1"], ["CartPol-v1", "CartPole-v1"]),
        (["-conf", "broken.yml"], ["broken.yml", "line 1"]),
        (["-conf", "list.yml"], ["list.yml", "not a table"]),
        *((["-conf", name], [name, "no such file or Python module"]) for name in ("none.yml", "none")),
        (["-conf", "own.yml", "--env", "Pendulum-v1"], ["KeyError", "'n_timesteps'", "exp_manager.py:"]),
        (["-conf", "own.yml", "--env", "Acrobot-v1"], ["own.yml", "not a table"]),
        (["-conf", "own.yml"], ["AssertionError", "wrappers.py:", "assert isinstance(env.action_space"]),
        (["--algo", "ppo", "-conf", "paper"], ["algo='ppo'", "paper"]),
        (["--env-kwargs", "g:1"], ["unexpected keyword argument 'g'"]),
        (["--log-interval", "0"], ["--log-interval=0", "-1", "-2"]),
        (["--eval-episodes", "0"], ["--eval-episodes=0", "at least 1"]),
        (["--n-evaluations", "0"], ["--n-evaluations=0", "at least 1"]),
        (["--trial-id", "3"], ["no trial 3 of nrl-CartPole-v1"]),
        (["-i", "."], ["not the folder of a run"]),
        (["-i", "nowhere"], ["nowhere", "folder of a run"]),
        (["-params", "n_envs:0"], ["n_envs=0"]),
        (["-params", "noise_std:-1"], ["noise_std=-1"]),
        (["-params", "noise_sdt:0.1"], ["NRL", "'noise_sdt'"]),
        (["-params", "noise_distribution:uniform"], ["'uniform'", "text in quotes"]),
        (["-params", "noise_std=0.1"], ["name:value"]),
        (["-params", "callback:'sb3_nrl.callbacks.Nope'"], ["'Nope'"]),
        (["-params", "policy_kwargs:dict(net_arc=[8])"], ["'net_arc'"]),
    ],
    ids=lambda value: " ".join(value[-2:]),
)
def test_mistake_is_one_line(here: pathlib.Path, arguments: list[str], says: list[str]) -> None:
    (here / "own.yml").write_text(OWN)
    (here / "broken.yml").write_text("CartPole-v1: [")
    (here / "list.yml").write_text("- CartPole-v1")
    line = mistake([*CARTPOLE[:1], *arguments])
    assert all(word in line for word in says), line
    with pytest.raises(Exception):  # noqa: B017
        main(["train", *arguments, "--verbose", "2"])


def test_wrong_option_is_one_line(here: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in ((["--algo", "nlr"], "invalid choice: 'nlr'"), (["--algoo", "nrl"], "--algoo")):
        with pytest.raises(SystemExit, match="2"):
            main(["train", *arguments])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("sb3-nrl train: ") and says in line


@pytest.mark.parametrize("place", ["__init__", "step"])
def test_fault_in_the_code_of_the_user_keeps_its_traceback(
    here: pathlib.Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"faulty_{place.strip('_')}"
    code = (
        f"import gymnasium\nclass Faulty(gymnasium.Wrapper):\n    def {place}(self, argument):\n        assert False\n"
    )
    (here / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(here)
    with pytest.raises(AssertionError):
        main([*CARTPOLE, "-n", "64", "-params", f"env_wrapper:'{name}.Faulty'"])


@pytest.mark.slow
def test_missing_zoo_is_one_line_and_help_names_every_command(tmp_path: pathlib.Path) -> None:
    code = "import sys; sys.modules['rl_zoo3'] = None; from sb3_nrl.cli import main; main({})"
    texts = []
    for arguments in (["train"], ["--help"]):
        process = subprocess.run([sys.executable, "-c", code.format(arguments)], capture_output=True, text=True)
        texts.append(process.stdout + process.stderr)
    assert texts[0].startswith("sb3-nrl train: The RL Zoo is not installed: pip install 'sb3-nrl[zoo]'")
    assert len(texts[0].splitlines()) == 1
    assert len(texts[1].splitlines()) <= 35
    for command in ("train", "enjoy", "record-video", "push", "pull", "plot-train", "plot-from-file", "all-plots"):
        assert f"\n  {command} " in texts[1]
