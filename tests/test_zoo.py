"""The RL Zoo with NRL, RMHL and BPTT: the command as a user types it, and what is shipped with it."""

import argparse
import importlib
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import gymnasium
import optuna
import pytest
import rl_zoo3.exp_manager
import rl_zoo3.train
import rl_zoo3.utils
import torch as th
import yaml
from matplotlib import pyplot as plt
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from stable_baselines3.common.callbacks import StopTrainingOnMaxEpisodes
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

import sb3_nrl.tuning
import sb3_nrl.zoo
import tests.envs
from experiments.paper.protocol import TASKS, Cell
from sb3_nrl import NRL, RMHL
from sb3_nrl.callbacks import PerformanceCallback
from sb3_nrl.cli import main
from sb3_nrl.zoo import ALGORITHMS, ExperimentManager, config_file

PNG = b"\x89PNG"

SPY = """
import json
from stable_baselines3.common.callbacks import BaseCallback

class Spy(BaseCallback):
    '''Prints what training starts from.'''

    def _on_training_start(self):
        env, predictor = self.model.get_vec_normalize_env(), self.model.reward_predictor
        state = {
            "steps": self.model.num_timesteps,
            "goal": self.model._total_timesteps,
            "learned": None if predictor is None else predictor.average.tolist(),
            "first": env.get_original_obs().tolist(),
            "observations": env.obs_rms.count,
            "return_variance": float(env.ret_rms.var),
        }
        print("SPY", json.dumps(state), flush=True)

    def _on_step(self):
        return True
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder to work in, with a callback to import."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "spy.py").write_text(SPY)
    return folder


def start(
    folder: pathlib.Path, *arguments: str, code: str | None = None, backend: str = "agg"
) -> subprocess.Popen[str]:
    """The command, or Python code, in a process of its own."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, *(["-m", "sb3_nrl"] if code is None else ["-c", code]), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": backend, "SDL_VIDEODRIVER": "dummy"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: pathlib.Path, *arguments: str, **options: str) -> str:
    """What the command printed, if it ended well."""
    process = start(folder, *arguments, **options)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


def saved(run: pathlib.Path, file: str) -> dict[str, Any]:
    """``config.yml`` or ``args.yml`` of a run."""
    (path,) = run.glob(f"*/{file}")
    return dict(yaml.unsafe_load(path.read_text()))


def statistics(path: pathlib.Path) -> Any:
    """What ``VecNormalize`` saved."""
    with path.open("rb") as file:
        return pickle.load(file)


def spied(output: str) -> dict[str, Any]:
    (line,) = [line for line in output.splitlines() if line.startswith("SPY ")]
    return json.loads(line[4:])


# Training, and what comes after it

N_ENVS = 4
NRL_CARTPOLE = ["train", "--algo", "nrl", "--env", "CartPole-v1"]
TRAIN = [*NRL_CARTPOLE, "-n", "1200", "--eval-freq", "400", "--eval-episodes", "2"]
NORMALIZED = ["normalize:True", f"n_envs:{N_ENVS}"]


@pytest.fixture(scope="module")
def trained(home: pathlib.Path) -> pathlib.Path:
    """The folder after two runs, the second of which starts from a checkpoint of the first."""
    alignment = "callback:'sb3_nrl.callbacks.GradientAlignmentCallback'"
    options = ["--save-freq", "400", "-tb", "tb", "--log-interval", "5", "--seed", "1"]
    run(home, *TRAIN, *options, "-params", *NORMALIZED, alignment)
    checkpoint = "logs/nrl/CartPole-v1_1/rl_model_800_steps.zip"
    (home / "second.txt").write_text(run(home, *TRAIN, "-i", checkpoint, "-params", *NORMALIZED, "callback:'spy.Spy'"))
    return home


def test_train_uses_the_shipped_config_and_what_the_command_line_changes(trained: pathlib.Path) -> None:
    output = (trained / "second.txt").read_text()
    assert f"Loading hyperparameters from: {config_file('nrl')}" in output
    run = trained / "logs" / "nrl" / "CartPole-v1_1"
    model = NRL.load(run / "CartPole-v1.zip", device="cpu")
    assert model.num_timesteps == 1200
    assert saved(run, "config.yml")["n_envs"] == N_ENVS == model.n_envs


def test_tensorboard_tells_what_a_run_did_and_with_what(trained: pathlib.Path) -> None:
    (run,) = (trained / "tb").glob("*/*")
    assert run.relative_to(trained / "tb") == pathlib.Path("CartPole-v1/NRL_1")
    events = EventAccumulator(str(run)).Reload()
    train = {f"train/{name}" for name in ("rpe", "reward_prediction", "trace_norm", "update_norm", "alignment")}
    assert train | {"rollout/ep_rew_mean", "eval/mean_reward"} <= set(events.Tags()["scalars"])
    assert all(0 < event.value <= 1 for event in events.Scalars("train/alignment"))
    hyperparameters = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"noise_normalization" in hyperparameters
    assert b"unbiased" in hyperparameters


def test_model_of_a_checkpoint_comes_with_the_statistics_of_the_checkpoint(trained: pathlib.Path) -> None:
    """The zoo's -i: a new run that starts from a model. Resetting the environments adds an observation of each."""
    state = spied((trained / "second.txt").read_text())
    run = trained / "logs" / "nrl" / "CartPole-v1_1"
    assert (state["steps"], state["goal"]) == (0, 1200)
    model = NRL.load(run / "rl_model_800_steps.zip", device="cpu")
    assert state["learned"] is None is model.reward_predictor
    checkpoint = statistics(run / "rl_model_vecnormalize_800_steps.pkl")
    assert state["observations"] == pytest.approx(checkpoint.obs_rms.count + N_ENVS)
    assert state["return_variance"] == checkpoint.ret_rms.var
    assert statistics(run / "CartPole-v1" / "vecnormalize.pkl").ret_rms.var != checkpoint.ret_rms.var


def test_model_that_is_no_checkpoint_has_no_statistics_of_a_checkpoint(
    trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    model = tmp_path / "final.zip"
    model.write_bytes((trained / "logs" / "nrl" / "CartPole-v1_2" / "CartPole-v1.zip").read_bytes())
    model.with_suffix(".pkl").write_text("of something else")
    assert manager(tmp_path, "nrl", "CartPole-v1", trained_agent=str(model)).setup_experiment() is not None


def test_enjoy_finds_the_latest_run(trained: pathlib.Path) -> None:
    output = run(trained, "enjoy", "--algo", "nrl", "--env", "CartPole-v1", "--no-render", "-n", "600")
    assert "Loading logs/nrl/CartPole-v1_2/CartPole-v1.zip" in output
    assert "Mean reward: " in output


def test_record_video_films_it(trained: pathlib.Path) -> None:
    run(trained, "record-video", "--algo", "nrl", "--env", "CartPole-v1", "-n", "20", "-o", "films")
    (film,) = (trained / "films").glob("*.mp4")
    assert film.stat().st_size > 1000


@pytest.mark.parametrize("command", ["enjoy", "record-video"])
def test_checkpoint_is_watched_with_its_own_statistics(
    trained: pathlib.Path, monkeypatch: pytest.MonkeyPatch, command: str, tmp_path: pathlib.Path
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
    monkeypatch.chdir(trained)
    options = ["--algo", "nrl", "--env", "CartPole-v1", "--exp-id", "1", "--no-render", "-n", "5"]
    options += ["-o", str(tmp_path)] * (command == "record-video")
    run = trained / "logs" / "nrl" / "CartPole-v1_1"
    counts = [statistics(run / f"rl_model_vecnormalize_{steps}_steps.pkl").obs_rms.count for steps in (400, 1200)]
    main([command, *options, "--load-checkpoint", "400"])
    main([command, *options, "--load-last-checkpoint"])
    assert seen == counts
    main([command, *options, "--load-best"])
    assert seen[-1] == statistics(run / "CartPole-v1" / "vecnormalize.pkl").obs_rms.count


def test_plots_become_files_without_a_display(trained: pathlib.Path) -> None:
    run(trained, "plot-train", "-a", "nrl", "-e", "CartPole-v1", "-f", "logs", "-w", "5", backend="svg")
    table = run(trained, "all-plots", "-a", "nrl", "-e", "CartPole-v1", "-f", "logs", "-o", "results", "--no-million")
    assert "|CartPole-v1 |" in table
    run(trained, "plot-from-file", "-i", "results", "--no-million", "-o", "bars.png", "--format", "png")
    for name in ("plot-train-1.png", "all-plots-1.png", "plot-from-file-1.png", "bars.png"):
        assert (trained / name).read_bytes()[:4] == PNG


def test_algorithms_of_the_zoo_still_work(home: pathlib.Path) -> None:
    small = ["n_envs:1", "n_steps:16", "batch_size:16", "n_epochs:1"]
    output = run(home, "train", "--algo", "ppo", "--env", "CartPole-v1", "-n", "64", "-params", *small)
    assert "rl_zoo3/hyperparams/ppo.yml" in output
    assert (home / "logs" / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip").exists()


def test_own_scripts_register_once_or_twice(home: pathlib.Path) -> None:
    code = "import rl_zoo3.train, sb3_nrl.zoo as zoo; zoo.register(); zoo.register(); rl_zoo3.train.train()"
    output = run(home, "--algo", "bptt", "--env", "Acrobot-v1", "-n", "64", "-conf", "paper", code=code)
    assert f"Loading hyperparameters from: {config_file('bptt', 'paper')}" in output
    assert saved(home / "logs" / "bptt" / "Acrobot-v1_1", "config.yml")["learning_rate"] == 5e-3


def test_performance_in_tasks_of_neurogym_is_logged_and_they_go_on(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("neurogym")
    options = ["-n", "300", "--save-freq", "200", "-tb", "tb", "--log-interval", "1"]
    main(["train", "--algo", "nrl", "--env", "neurogym/GoNogo-v0", *options, "-params", "n_envs:1"])
    (run,) = (here / "tb").glob("*/*")
    assert all(0 <= event.value <= 1 for event in EventAccumulator(str(run)).Reload().Scalars("rollout/performance"))
    main(["train", "-i", "logs/nrl/neurogym-GoNogo-v0_1", "-n", "400"])
    assert "neurogym-GoNogo-v0.zip: 300 of 400 steps are done" in capsys.readouterr().out


# A run that was killed


def last_checkpoint(run: pathlib.Path) -> int:
    return max((int(path.stem.split("_")[-2]) for path in run.glob("rl_model_*_steps.zip")), default=0)


def test_killed_run_goes_on_from_its_last_checkpoint(home: pathlib.Path) -> None:
    options = ["--algo", "rmhl", "--env", "CartPole-v1", "-n", "100000000", "--save-freq", "400", "--eval-freq", "-1"]
    process = start(home, "train", *options, "-params", *NORMALIZED, "callback:'spy.Spy'", "learning_rate:'lin_0.01'")
    killed, resumed = (home / "logs" / "rmhl" / f"CartPole-v1_{number}" for number in (1, 2))
    while last_checkpoint(killed) < 1200:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    before = spied(process.communicate()[0])
    assert not (killed / "CartPole-v1.zip").exists()

    last = last_checkpoint(killed)
    model = RMHL.load(killed / f"rl_model_{last}_steps.zip", device="cpu")
    checkpoint = statistics(killed / f"rl_model_vecnormalize_{last}_steps.pkl")
    run(home, "enjoy", *options[:4], "--load-last-checkpoint", "--no-render", "-n", "10")
    output = run(home, "train", "-i", "logs/rmhl/CartPole-v1_1", "-n", str(last + 800), "-params", "trace_decay:0.9")

    assert f"{last} of {last + 800} steps are done" in output
    state = spied(output)
    assert (state["steps"], state["goal"]) == (model.num_timesteps, last + 800) == (last, last + 800)
    assert model.reward_predictor is not None
    assert state["learned"] == model.reward_predictor.average.tolist()
    assert state["observations"] == pytest.approx(checkpoint.obs_rms.count + N_ENVS)
    assert state["return_variance"] == checkpoint.ret_rms.var
    assert state["first"] != before["first"]  # its random numbers are not those of before
    # It kept the arguments of the run that was killed, and left checkpoints that count on.
    config = saved(killed, "config.yml")
    assert config["learning_rate"] == "lin_0.01"
    assert saved(resumed, "config.yml") == config | {"trace_decay": 0.9}
    assert last_checkpoint(resumed) == last + 800 == RMHL.load(resumed / "CartPole-v1.zip", device="cpu").num_timesteps
    assert RMHL.load(resumed / "CartPole-v1.zip", device="cpu").lr_schedule(0.5) == 0.005


def test_interrupted_run_goes_on_from_the_model_that_it_left(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(callback: PerformanceCallback) -> bool:
        if callback.num_timesteps == 48:
            raise KeyboardInterrupt
        return True

    options = ["-n", "96", "--save-freq", "32", "--eval-freq", "-1", "-params", "n_envs:1", "normalize:True"]
    with monkeypatch.context() as patch:
        patch.setattr(PerformanceCallback, "_on_step", interrupt)
        main([*NRL_CARTPOLE, *options])
    starts: list[tuple[int, float, float]] = []

    plain_start = PerformanceCallback._on_training_start

    def spy(callback: PerformanceCallback) -> None:
        plain_start(callback)
        normalize: Any = callback.model.get_vec_normalize_env()
        starts.append((callback.model.num_timesteps, normalize.obs_rms.count, normalize.gamma))

    monkeypatch.setattr(PerformanceCallback, "_on_training_start", spy)
    main(["train", "-i", "logs/nrl/CartPole-v1_1", "-params", "gamma:0.95"])
    first, second = (here / "logs" / "nrl" / f"CartPole-v1_{number}" for number in (1, 2))
    left = statistics(first / "CartPole-v1" / "vecnormalize.pkl").obs_rms.count
    assert starts == [(48, pytest.approx(left + 1), 0.95)]
    assert saved(second, "args.yml")["seed"] == (saved(first, "args.yml")["seed"] + 48) % 2**32
    assert NRL.load(second / "CartPole-v1.zip", device="cpu").num_timesteps == 96


def test_run_goes_on_with_the_config_that_it_began_with(here: pathlib.Path) -> None:
    own = here / "own.yml"
    own.write_text("CartPole-v1: {n_timesteps: 64, policy: MlpPolicy, trace_decay: 0.5}")
    main([*NRL_CARTPOLE, "-conf", "own.yml", "--save-freq", "32", "-params", "noise_std:0.2", "n_envs:2"])
    own.write_text("CartPole-v1: {n_timesteps: 64, policy: MlpPolicy, trace_decay: 0.1, ent_coef: 0.1}")
    main(["train", "-i", "logs/nrl/CartPole-v1_1", "-n", "96", "--save-freq", "1000", "-params", "noise_std:0.3"])
    first, second = (here / "logs" / "nrl" / f"CartPole-v1_{number}" for number in (1, 2))
    assert saved(second, "config.yml") == saved(first, "config.yml") | {"noise_std": 0.3}
    assert saved(second, "args.yml")["seed"] == (saved(first, "args.yml")["seed"] + 64) % 2**32


def test_run_that_left_no_checkpoint_goes_on_from_where_it_went_on_itself(
    here: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*NRL_CARTPOLE, "-n", "64", "--save-freq", "32", "-params", "n_envs:1"])
    (here / "logs" / "nrl" / "CartPole-v1_1" / "CartPole-v1.zip").unlink()  # as if killed
    main(["train", "-i", "logs/nrl/CartPole-v1_1", "-n", "96", "--save-freq", "1000"])
    (here / "logs" / "nrl" / "CartPole-v1_2" / "CartPole-v1.zip").unlink()
    capsys.readouterr()
    main(["train", "-i", "logs/nrl/CartPole-v1_2", "-n", "128"])
    expected = f"Going on from {here}/logs/nrl/CartPole-v1_1/rl_model_64_steps.zip: 64 of 128 steps are done"
    assert expected in capsys.readouterr().out


def test_ars_goes_on_with_several_environments(here: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = ["n_envs:2", "n_delta:1", "n_top:1"]
    main(["train", "--algo", "ars", "--env", "CartPole-v1", "-n", "50", "--save-freq", "20", "-params", *params])
    run = here / "logs" / "ars" / "CartPole-v1_1"
    (run / "CartPole-v1.zip").unlink()  # as if killed
    last = last_checkpoint(run)
    main(["train", "-i", "logs/ars/CartPole-v1_1", "-n", str(last + 50)])
    assert f"{last} of {last + 50} steps are done" in capsys.readouterr().out
    assert (here / "logs" / "ars" / "CartPole-v1_2" / "CartPole-v1.zip").exists()


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--algo", "nlr", "--env", "CartPole-v1"], ["--algo", "'nlr'", "'nrl'"]),
        (["train", "--algo", "nrl", "--env", "CartPol-v1"], ["CartPol-v1", "CartPole-v1"]),
        ([*NRL_CARTPOLE, "-conf", "broken.yml"], ["broken.yml", "line 1"]),
        ([*NRL_CARTPOLE, "-params", "noise_sdt:0.1"], ["noise_sdt", "maybe meant noise_std"]),
    ],
    ids=["algorithm", "environment", "YAML", "hyper-parameter"],
)
def test_mistake_is_named_in_one_line(tmp_path: pathlib.Path, arguments: list[str], says: list[str]) -> None:
    (tmp_path / "broken.yml").write_text("CartPole-v1: [")
    process = start(tmp_path, *arguments)
    _, errors = process.communicate()
    assert process.returncode not in (0, None)
    (line,) = errors.splitlines()
    assert line.startswith("sb3-nrl train: ")
    assert all(word in line for word in says), line


def test_missing_zoo_is_one_line_with_the_command_to_install_it(tmp_path: pathlib.Path) -> None:
    code = "import sys; sys.modules['rl_zoo3'] = None; from sb3_nrl.cli import main; main()"
    process = start(tmp_path, "train", "--algo", "nrl", code=code)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors == "sb3-nrl train: The RL Zoo is not installed: pip install 'sb3-nrl[zoo]'\n"


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder to run the command in without a process of its own, which is quicker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "config", "says"),
    [
        ([*NRL_CARTPOLE, "-conf", "own.yml"], "- CartPole-v1", ["own.yml", "table"]),
        ([*NRL_CARTPOLE, "-conf", "own.yml"], "CartPole-v1: {n_envs: 1}", ["own.yml", "n_timesteps"]),
        ([*NRL_CARTPOLE, "-conf", "none.yml"], "", ["none.yml"]),
        ([*NRL_CARTPOLE, "-conf", "own.yml"], "CartPole-v1: 3", ["own.yml", "table"]),
        ([*NRL_CARTPOLE, "-conf", "own.yml"], "CartPole-v1: {n_timesteps: 64}", ["own.yml", "policy"]),
        (
            [*NRL_CARTPOLE, "-conf", "own.yml"],
            "CartPole-v1: {policy: a, n_timesteps: lots}",
            ["own.yml", "n_timesteps"],
        ),
        (["train", "--algo", "ppo", "-conf", "paper"], "", ["algo='ppo'", "paper"]),
        ([*NRL_CARTPOLE, "--env-kwargs", "g:1"], "", ["unexpected keyword argument 'g'", "CartPole-v1"]),
        ([*NRL_CARTPOLE, "-params", "callback:'sb3_nrl.callbacks.Nope'"], "", ["sb3_nrl.callbacks", "'Nope'"]),
        ([*NRL_CARTPOLE, "-params", "env_wrapper:'gymnasium.wrappers.Nope'"], "", ["gymnasium.wrappers", "'Nope'"]),
        ([*NRL_CARTPOLE, "-params", "policy_kwargs:dict(net_arc=[8])"], "", ["'net_arc'"]),
        ([*NRL_CARTPOLE, "-params", "n_envs:0"], "", ["n_envs=0"]),
        ([*NRL_CARTPOLE, "-params", "noise_std:-1"], "", ["noise_std=-1"]),
        ([*NRL_CARTPOLE, "--trial-id", "3"], "", ["no trial 3 of study nrl-CartPole-v1"]),
        ([*NRL_CARTPOLE, "-optimize", "--storage", "sqlite:///none/of.db"], "", ["sqlite:///none/of.db"]),
        ([*NRL_CARTPOLE, "-params", "noise_distribution:uniform"], "", ["'uniform'", "text in quotes"]),
        ([*NRL_CARTPOLE, "-params", "learning_rate:lin_0.01"], "", ["text in quotes"]),
        ([*NRL_CARTPOLE, "-params", "noise_std=0.1"], "", ["name:value"]),
        (["train", "--env", "CartPole-v1", "-params", "noise_std:-1"], "", ["noise_std=-1"]),
        (["train", "--algo", "ppo", "-params", "n_setps:8"], "", ["n_setps", "maybe meant n_steps"]),
        (["enjoy", "--algo", "bptt", "--env", "CartPole-v1"], "", ["logs/bptt"]),
        (["train", "-i", "."], "", ["not the folder of a run"]),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, list) else None,
)
def test_other_mistakes(here: pathlib.Path, arguments: list[str], config: str, says: list[str]) -> None:
    (here / "own.yml").write_text(config)
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    message = str(exit_.value)
    assert message.startswith(f"sb3-nrl {arguments[0]}: ")
    assert all(word in message for word in says), message
    assert "\n" not in message
    assert not list(here.glob("logs/*/*"))  # no run that enjoy would look for a model in, and no study


def test_game_without_settings_is_refused(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExperimentManager, "is_atari", staticmethod(lambda env_id: True))
    (here / "own.yml").write_text("default: {n_timesteps: 64, policy: MlpPolicy}")
    with pytest.raises(SystemExit, match=r"own\.yml has no 'atari', to find CartPole-v1 in"):
        main([*NRL_CARTPOLE, "-conf", "own.yml"])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_diverging_run_is_one_line_and_leaves_its_model(here: pathlib.Path) -> None:
    with pytest.raises(SystemExit, match=r"^sb3-nrl train: Update \d+ was refused.* learning_rate \(now 1e\+38\)"):
        main([*NRL_CARTPOLE, "-n", "3000", "-params", "learning_rate:1e38", "vf_coef:3.0"])
    main(["enjoy", "--env", "CartPole-v1", "--no-render", "-n", "5"])


def test_plots_complain_under_the_name_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["plot-train", "-a", "nrl"])
    assert capsys.readouterr().err.startswith("sb3-nrl plot-train: ")


def test_tasks_of_neurogym_cannot_be_filmed(here: pathlib.Path) -> None:
    pytest.importorskip("neurogym")
    options = ["--algo", "nrl", "--env", "neurogym/GoNogo-v0"]
    main(["train", *options, "-n", "20"])
    main(["enjoy", *options, "-n", "5"])
    with pytest.raises(SystemExit, match=r"^sb3-nrl record-video: neurogym/GoNogo-v0 has nothing to render"):
        main(["record-video", *options])


def test_run_does_not_go_on_as_another(here: pathlib.Path) -> None:
    main([*NRL_CARTPOLE, "-n", "32", "-params", "normalize:True"])
    for options, says in (
        (["--algo", "ppo"], "must be nrl"),
        (["--env", "Acrobot-v1"], "must be CartPole-v1"),
        (["-conf", "paper"], "change them by -params"),
        (["-optimize"], "left out with -optimize"),
        (["-params", "policy_kwargs:dict(net_arch=[8])"], r"policy_kwargs=\{'net_arch': \[8\]\}: must be left out"),
        (["-params", "normalize:False"], "normalize=False: must be left out"),
        (["-params", "stats_window_size:3"], "stats_window_size=3: must be left out"),
    ):
        with pytest.raises(SystemExit, match=says):
            main(["train", "-i", "logs/nrl/CartPole-v1_1", "-n", "64", *options])
    assert [run.name for run in (here / "logs" / "nrl").iterdir()] == ["CartPole-v1_1"]


def test_failed_start_leaves_no_run_that_would_be_the_latest(here: pathlib.Path) -> None:
    main([*NRL_CARTPOLE, "-n", "32"])
    with pytest.raises(SystemExit, match="noise_std"):
        main([*NRL_CARTPOLE, "-params", "noise_std:-1"])
    main(["enjoy", "--algo", "nrl", "--env", "CartPole-v1", "--no-render", "-n", "5"])


FAULTY_ENV = """
import gymnasium

class Faulty(gymnasium.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        {init}

    def step(self, action):
        {step}
        return super().step(action)

gymnasium.register("Faulty-v0", lambda: Faulty(gymnasium.make("CartPole-v1")))
"""


@pytest.mark.parametrize(
    ("error", "init", "step"),
    [
        (NameError, "misspelt", ""),
        (TypeError, "len(3)", ""),
        (NameError, "", "misspelt"),
        (AttributeError, "", "self.nowhere"),
    ],
)
def test_fault_in_the_code_of_the_user_keeps_its_traceback(
    here: pathlib.Path, error: type[Exception], init: str, step: str
) -> None:
    name = f"faulty_{error.__name__}_{bool(init)}"
    (here / f"{name}.py").write_text(FAULTY_ENV.format(init=init, step=step))
    with pytest.raises(error):
        main(["train", "--algo", "nrl", "--env", "Faulty-v0", "--gym-packages", name, "-n", "64"])
    del gymnasium.registry["Faulty-v0"]


def test_failure_in_training_keeps_its_traceback(here: pathlib.Path) -> None:
    (here / "faulty.py").write_text(SPY.replace("env, ", "raise ValueError('a fault in a callback') #"))
    with pytest.raises(ValueError, match="a fault in a callback"):
        main([*NRL_CARTPOLE, "-n", "64", "-params", "callback:'faulty.Spy'"])


def test_verbose_shows_every_traceback(here: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="noise_std=-1"):
        main([*NRL_CARTPOLE, "-params", "noise_std:-1", "--verbose", "2"])


def test_command_leaves_the_process_as_it_was(here: pathlib.Path) -> None:
    def state() -> list[Any]:
        parser = argparse.ArgumentParser
        return [parser.parse_args, parser.error, sys.argv, plt.show, rl_zoo3.utils.create_test_env]

    before = state()
    for arguments in (["record-video", "--algo", "nrl"], ["plot-train"], [*NRL_CARTPOLE, "-n", "16"]):
        with suppress(SystemExit):
            main(arguments)
        assert state() == before


def test_run_without_a_model_or_without_steps_to_do(here: pathlib.Path) -> None:
    command = ["train", "--algo", "bptt", "--env", "CartPole-v1", "--eval-freq", "-1"]
    first, second = (here / "logs" / "bptt" / f"CartPole-v1_{number}" for number in (1, 2))
    main([*command, "-n", "64", "-params", "n_envs:1"])
    (first / "CartPole-v1.zip").unlink()  # as if killed
    with pytest.raises(SystemExit, match="CartPole-v1_1 has no model: train with --save-freq"):
        main(["train", "-i", str(first)])
    main([*command, "-n", "80", "--save-freq", "64"])  # ends after the last checkpoint
    with pytest.raises(SystemExit, match="CartPole-v1_2 has all its 80 steps"):
        main(["train", "-i", str(second)])
    (second / "CartPole-v1.zip").unlink()
    with pytest.raises(SystemExit, match="CartPole-v1_2 has all its 64 steps"):
        main(["train", "-i", str(second), "-n", "64"])
    assert not (here / "logs" / "bptt" / "CartPole-v1_3").exists()


def test_help_fits_a_screen_and_names_every_command(
    tmp_path: pathlib.Path, here: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = run(tmp_path, "--help")
    assert len(output.splitlines()) <= 40
    for command in ("train", "enjoy", "record-video", "plot-train", "plot-from-file", "all-plots"):
        assert f"\n  {command} " in output
    for arguments, expected in (([], output), (["--version"], f"sb3-nrl {sb3_nrl.__version__}\n")):
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
        assert capsys.readouterr().out == expected


# The configs

CONFIGS = [(algo, name) for algo in ALGORITHMS for name in (None, "paper")]
each_config = pytest.mark.parametrize(("algo", "name"), CONFIGS, ids=[f"{algo}-{name}" for algo, name in CONFIGS])


def text_of(algo: str, name: str | None) -> str:
    path = config_file(algo, name)
    assert path is not None
    return pathlib.Path(path).read_text()


ENTRIES = [(algo, name, env) for algo, name in CONFIGS for env in yaml.safe_load(text_of(algo, name))]


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


@pytest.mark.parametrize(("algo", "name", "env"), ENTRIES, ids=[f"{algo}-{name}-{env}" for algo, name, env in ENTRIES])
def test_every_entry_builds_a_model_that_trains(algo: str, name: str | None, env: str, tmp_path: pathlib.Path) -> None:
    if env.startswith("neurogym/"):
        pytest.importorskip("neurogym")
        importlib.import_module("sb3_nrl.envs")
    entry = yaml.safe_load(text_of(algo, name))[env]
    experiment = manager(tmp_path, algo, "CartPole-v1" if env == "default" else env, name=name)
    made = experiment.setup_experiment()
    assert made is not None
    model, _ = made
    assert type(model) is ALGORITHMS[algo]
    assert model.n_envs == entry.get("n_envs", 1)
    elsewhere = {"n_envs", "n_timesteps", "policy", "policy_kwargs", "learning_rate", "normalize", "callback"}
    for argument in entry.keys() - elsewhere:
        owner = experiment if argument in ("env_kwargs", "frame_stack") else model
        assert vars(owner)[argument] == entry[argument]
    if isinstance(entry.get("learning_rate"), float):
        assert model.lr_schedule(1) == entry["learning_rate"]
    assert (model.get_vec_normalize_env() is not None) == ("normalize" in entry)
    callbacks = [*[StopTrainingOnMaxEpisodes] * ("callback" in entry), PerformanceCallback]
    assert [type(callback) for callback in experiment.callbacks] == callbacks
    experiment.learn(model)
    assert 64 <= model.num_timesteps < 64 + model.n_envs


@each_config
def test_every_entry_says_where_its_numbers_come_from(algo: str, name: str | None) -> None:
    lines = text_of(algo, name).splitlines()
    for env in yaml.safe_load(text_of(algo, name)):
        (place,) = [place for place, line in enumerate(lines) if line.startswith(f"{env}:")]
        said = ("# Paper, Table 2",) if name == "paper" else ("# Tuned, ", "# Not tuned: ")
        assert lines[place - 1].startswith(said), env


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("task", TASKS)
def test_papers_settings_are_those_that_are_reproduced(task: str, algo: str, tmp_path: pathlib.Path) -> None:
    """All but the reward of Reaching, which is NeuroGym's own here."""
    if task == "Reaching":
        pytest.importorskip("neurogym")
        importlib.import_module("sb3_nrl.envs")
    expected = Cell(task, algo.upper()).settings(seed=0, n_episodes=TASKS[task].n_episodes)
    experiment = manager(tmp_path, algo, expected["env"].removeprefix("sb3_nrl.envs:"), name="paper")
    made = experiment.setup_experiment()
    assert made is not None
    model, arguments = made[0], expected["arguments"]
    own, published = model.policy_kwargs, arguments.pop("policy_kwargs")
    assert repr(own.pop("activation_fn")()) == repr(published.pop("activation_fn")())
    assert own == published
    assert model.lr_schedule(1) == arguments.pop("learning_rate")
    assert {name: vars(model)[name] for name in arguments} == arguments
    assert experiment.env_kwargs == expected["env_kwargs"] | ({"published_target": True} if task == "Reaching" else {})
    (end,) = (callback for callback in experiment.callbacks if isinstance(callback, StopTrainingOnMaxEpisodes))
    assert end.max_episodes == expected["n_episodes"]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_reaching_has_the_papers_network_and_reward_times(algo: str) -> None:
    (paper,) = [entry for env, entry in yaml.safe_load(text_of(algo, "paper")).items() if "Reaching" in env]
    reaching = [entry for env, entry in yaml.safe_load(text_of(algo, None)).items() if "Reaching" in env]
    assert len(reaching) == 2
    for entry in reaching:
        for name in ("policy_kwargs", "reward_timing", "scale_rpe"):
            assert entry[name] == paper[name]


def test_numbers_that_yaml_takes_for_text(tmp_path: pathlib.Path) -> None:
    config = tmp_path / "own.yml"
    config.write_text("CartPole-v1: {n_timesteps: 1e3, policy: MlpPolicy, learning_rate: 1e-3, noise_std: 1e-2}")
    experiment = manager(tmp_path, "nrl", "CartPole-v1", name=str(config), n_timesteps=-1)
    made = experiment.setup_experiment()
    assert made is not None and isinstance(made[0], NRL)
    assert (experiment.n_timesteps, made[0].lr_schedule(1), made[0].noise_std) == (1000, 1e-3, 1e-2)


def test_environment_of_the_config_is_also_that_of_evaluation_and_of_later_commands(tmp_path: pathlib.Path) -> None:
    config = tmp_path / "heavy.yml"
    config.write_text("Pendulum-v1: {n_timesteps: 64, policy: MlpPolicy, env_kwargs: {g: 20.0}}")
    experiment = manager(tmp_path, "nrl", "Pendulum-v1", name=str(config), eval_freq=32)
    assert experiment.setup_experiment() is not None
    for eval_env in (False, True):
        assert experiment.create_envs(1, eval_env=eval_env).get_attr("g") == [20.0]
    assert saved(pathlib.Path(experiment.save_path), "args.yml")["env_kwargs"] == {"g": 20.0}


# Tuning


@pytest.mark.parametrize(
    ("options", "differ"),
    [
        (["-params", "n_envs:2"], "n_envs"),
        (["-n", "65"], "n_timesteps"),
        (["-conf", "paper"], "gamma|reward_prediction"),
        (["--env-kwargs", "max_episode_steps:5"], "env_kwargs"),
        (["--eval-episodes", "7"], "n_eval_episodes"),
    ],
)
def test_study_is_of_one_setting(
    here: pathlib.Path, options: list[str], differ: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExperimentManager, "objective", lambda _, trial: float(len(sb3_nrl.tuning.suggest_nrl(trial))))
    tune = [*NRL_CARTPOLE, "-optimize", "--n-trials", "1", "-n", "64"]
    main(tune)
    main(tune)
    with pytest.raises(SystemExit, match=f"was started with other settings than these .*({differ}).*--study-name"):
        main([*tune, *options])
    assert len(study_of(here).trials) == 2
    main([*tune, *options, "--study-name", "another"])


def test_same_settings_are_one_study_however_they_are_written(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExperimentManager, "objective", lambda _, trial: float(len(sb3_nrl.tuning.suggest_nrl(trial))))
    for kwargs in ("activation_fn=lambda: nn.ReLU(),use_bias=True", "use_bias=True,activation_fn=lambda: nn.ReLU()"):
        start = [*NRL_CARTPOLE, "-optimize", "--n-trials", "1", "-n", "64"]
        main([*start, "-params", f"policy_kwargs:dict({kwargs})"])
    assert len(study_of(here).trials) == 2


def study_of(folder: pathlib.Path, url: str | None = None, task: str = "CartPole-v1") -> optuna.Study:
    storage = url or JournalStorage(JournalFileBackend(str(folder / "logs" / "nrl" / f"study_{task}.log")))
    return optuna.create_study(storage=storage, study_name=f"nrl-{task}", direction="maximize", load_if_exists=True)


@pytest.mark.parametrize("database", ["study.db", None], ids=["SQLite", "journal file"])
def test_two_processes_tune_together(tmp_path: pathlib.Path, database: str | None) -> None:
    options = ["-n", "160", "-optimize", "--n-trials", "2", "--eval-episodes", "1", "--pruner", "none"]
    url = f"sqlite:///{tmp_path / database}" if database else None
    if url:
        options += ["--storage", url]
    processes = [start(tmp_path, *NRL_CARTPOLE, *options, "-params", "n_envs:1") for _ in range(2)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    study = study_of(tmp_path, url)
    assert [trial.state.is_finished() for trial in study.trials] == [True] * 4
    trials = study.get_trials(states=[TrialState.COMPLETE])  # some settings diverge, and are pruned for that
    assert [len(trial.intermediate_values) for trial in trials] == [10] * len(trials)
    report = (tmp_path / "logs" / "nrl" / "study_nrl-CartPole-v1.md").read_text()
    best = max(trials, key=lambda trial: trial.value or 0.0)
    assert report.startswith(f"# nrl-CartPole-v1: 4 trials, {len(trials)} of them complete, {4 - len(trials)} pruned")
    assert f"| {best.number} | {best.value:.2f} |" in report
    assert ("Importance: " in report) == (len(trials) > 1)
    config = report.split("```yaml\n")[1].split("```")[0]
    assert config.startswith(f"# Tuned, trial {best.number} of 4: sb3-nrl train --algo nrl --env CartPole-v1 -n 160")
    entry = yaml.safe_load(config)["CartPole-v1"]
    assert (entry["noise_std"], entry["n_timesteps"]) == (best.params["noise_std"], 160)
    assert not list((tmp_path / "logs" / "nrl").glob("CartPole-v1_*"))  # no run without a model


@pytest.fixture
def tuned(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder with two trials that nothing can beat."""
    sb3_nrl.zoo.register()
    sample = rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER["nrl"]

    def objective(trial: optuna.Trial) -> float:
        sample(trial, 2, 1, {})
        for evaluation in range(1, 11):
            trial.report(1e6, evaluation)
        return 1e6

    (tmp_path / "logs" / "nrl").mkdir(parents=True)
    study = study_of(tmp_path)
    study.optimize(objective, n_trials=2)
    yield tmp_path


def test_hopeless_trials_are_pruned(tuned: pathlib.Path) -> None:
    arguments: dict[str, Any] = {"n_evaluations": None, "n_startup_trials": 1, "hyperparams": {"n_envs": 1}}
    experiment = manager(
        tuned, "nrl", "CartPole-v1", n_timesteps=200, n_trials=2, optimize_hyperparameters=True, **arguments
    )
    assert experiment.setup_experiment() is None
    experiment.hyperparameters_optimization()
    assert [trial.state for trial in study_of(tuned).trials] == [TrialState.COMPLETE] * 2 + [TrialState.PRUNED] * 2
    assert "2 of them complete, 2 pruned" in (tuned / "logs" / "nrl" / "study_nrl-CartPole-v1.md").read_text()


def test_report_has_the_trials_that_end_while_it_is_made(tuned: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's report, made at that time, may have had them, and be written first."""
    make, study = sb3_nrl.tuning.report, study_of(tuned)

    def report(*arguments: Any) -> str:
        page = make(*arguments)
        if len(study.trials) == 3:
            study.add_trial(study.trials[0])
        return page

    monkeypatch.setattr(sb3_nrl.tuning, "report", report)
    experiment = manager(tuned, "nrl", "CartPole-v1", n_timesteps=200, n_trials=1, optimize_hyperparameters=True)
    assert experiment.setup_experiment() is None
    experiment.hyperparameters_optimization()
    assert ": 4 trials, " in (tuned / "logs" / "nrl" / "study_nrl-CartPole-v1.md").read_text()


@pytest.mark.parametrize("trial", [0, 1])
def test_run_with_the_settings_of_a_trial(tuned: pathlib.Path, trial: int) -> None:
    parameters = study_of(tuned).trials[trial].params
    made = manager(tuned, "nrl", "CartPole-v1", trial_id=trial).setup_experiment()
    assert made is not None
    model, _ = made
    assert isinstance(model, NRL)
    assert (model.noise_std, model.lr_schedule(1)) == (parameters["noise_std"], parameters["learning_rate"])
    assert model.lr_schedule(0) == (0 if parameters["lr_schedule"] == "linear" else parameters["learning_rate"])
    assert str(model.policy.net_arch) == parameters["net_arch"]
    assert isinstance(
        model.policy.optimizer, {"th.optim.SGD": th.optim.SGD}.get(parameters["optimizer_class"], th.optim.Adam)
    )


@pytest.mark.parametrize(
    ("algo", "fixed"),
    [
        *(
            (algo, tests.envs.arguments(ALGORITHMS[algo], "average", reward_timing=timing))
            for algo in ALGORITHMS
            for timing in ("episode", "step")
        ),
        *((algo, {}) for algo in ("nrl", "bptt")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("reward_timing", "critic"),
)
def test_every_point_of_the_search_space_is_a_model(algo: str, fixed: dict[str, Any]) -> None:
    sb3_nrl.zoo.register()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.set_user_attr("start", {name: fixed[name] for name in fixed.keys() - {"policy_kwargs"}})
    make: Callable[..., Any] = ALGORITHMS[algo]
    seen = set()
    for _ in range(20):
        sampled = rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER[algo](study.ask(), 2, 1, {})
        model = make("MlpPolicy", "CartPole-v1", device="cpu", **{**fixed, **sampled})
        assert ("gamma" in sampled) == model.policy.critic
        seen.add(tuple(model.policy.net_arch))
        for name in sampled.keys() - {"learning_rate", "policy_kwargs"}:
            assert getattr(model, name) == sampled[name]
    assert seen == {(32,), (64,), (32, 32), (64, 64)}


PYTHON_CONFIG = """
from functools import partial
from torch import nn

policy_kwargs = {"action_correlation": 0.9, "log_std_init": 0.5, "activation_fn": partial(nn.LeakyReLU, 0.1)}
hyperparams = {"default": {"policy": "MlpPolicy", "n_timesteps": 80, "policy_kwargs": policy_kwargs}}
"""


@pytest.mark.parametrize("config", [None, "own.py"], ids=["text", "Python"])
def test_trial_keeps_what_the_config_says_of_the_policy_beside_its_own(
    tmp_path: pathlib.Path, config: str | None
) -> None:
    (tmp_path / "own.py").write_text(PYTHON_CONFIG)
    task, name = "MountainCarContinuous-v0", config and str(tmp_path / config)
    settings: dict[str, Any] = {"n_timesteps": 80, "n_trials": 1, "n_evaluations": 1, "n_eval_episodes": 1}
    settings |= {"optimize_hyperparameters": True, "no_optim_plots": True}
    experiment = manager(tmp_path, "nrl", task, name=name, **settings)
    models: list[NRL] = []
    setup = NRL._setup_learn

    def _setup_learn(model: NRL, *arguments: Any, **keywords: Any) -> Any:
        models.append(model)
        return setup(model, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NRL, "_setup_learn", _setup_learn)
        assert experiment.setup_experiment() is None
        experiment.hyperparameters_optimization()
    report = (tmp_path / "logs" / "nrl" / f"study_nrl-{task}.md").read_text()
    (tmp_path / "found.yml").write_text(report.split("```yaml\n")[1].split("```")[0])
    for later in (
        manager(tmp_path, "nrl", task, name=name, trial_id=0),
        manager(tmp_path, "nrl", task, name=f"{tmp_path}/found.yml"),
    ):
        made = later.setup_experiment()
        assert made is not None and isinstance(made[0], NRL)
        models.append(made[0])
    (trial,) = study_of(tmp_path, task=task).trials
    assert len(models) == 3
    for model in models:
        assert (model.policy.action_correlation, model.policy.log_std_init) == (0.9, 0.5)
        chosen = (str(model.policy.net_arch), model.policy.head_gain)
        assert chosen == (trial.params["net_arch"], trial.params["head_gain"])


@pytest.mark.parametrize("config", ["null", "{normalize_images: false}"])
def test_trial_of_a_config_with_other_policy_kwargs_or_none(tmp_path: pathlib.Path, config: str) -> None:
    own = tmp_path / "own.yml"
    own.write_text(f"CartPole-v1: {{policy: MlpPolicy, n_timesteps: 32, policy_kwargs: {config}}}")
    settings: dict[str, Any] = {"name": str(own), "n_trials": 1, "n_evaluations": 1, "n_eval_episodes": 1}
    experiment = manager(tmp_path, "nrl", "CartPole-v1", optimize_hyperparameters=True, **settings)
    assert experiment.setup_experiment() is None
    experiment.hyperparameters_optimization()
    (trial,) = study_of(tmp_path).trials
    made = manager(tmp_path, "nrl", "CartPole-v1", name=str(own), trial_id=0).setup_experiment()
    assert made is not None and isinstance(made[0], NRL)
    assert made[0].policy.head_gain == trial.params["head_gain"]
    assert made[0].policy.normalize_images == (config == "null")


def test_trial_of_an_algorithm_of_the_zoo(tmp_path: pathlib.Path) -> None:
    """Its policy_kwargs replace those of the config, as they do in the zoo."""
    sb3_nrl.zoo.register()
    folder = tmp_path / "logs" / "a2c"
    folder.mkdir(parents=True)
    storage = JournalStorage(JournalFileBackend(str(folder / "study_Pendulum-v1.log")))
    study = optuna.create_study(storage=storage, study_name="a2c-Pendulum-v1")
    study.optimize(lambda trial: len(rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER["a2c"](trial, 1, 1, {})), n_trials=1)
    made = manager(tmp_path, "a2c", "Pendulum-v1", trial_id=0).setup_experiment()
    assert made is not None
    found = rl_zoo3.exp_manager.HYPERPARAMS_CONVERTER["a2c"](study.trials[0].params)["policy_kwargs"]
    assert found == {name: made[0].policy_kwargs[name] for name in found}
    assert "log_std_init" not in made[0].policy_kwargs


def test_trial_that_diverges_is_pruned(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: Any) -> float:
        raise FloatingPointError("diverged")

    monkeypatch.setattr(rl_zoo3.exp_manager.ExperimentManager, "objective", diverge)
    experiment = manager(tmp_path, "nrl", "CartPole-v1", n_trials=2, optimize_hyperparameters=True, n_evaluations=None)
    assert experiment.setup_experiment() is None
    with pytest.raises(ValueError, match="all 2 trials of nrl-CartPole-v1 were pruned"):
        experiment.hyperparameters_optimization()
    assert [trial.state for trial in study_of(tmp_path).trials] == [TrialState.PRUNED] * 2
