"""Experiments: runs are executed once and stored, and tables and findings agree with the stored results."""

import argparse
import csv
import hashlib
import importlib.util
import itertools
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch as th
from rl_zoo3.utils import StoreDict
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from experiments import (
    ablation,
    agents,
    costs,
    learning,
    memory,
    memory_needed,
    mujoco,
    neurogym_tasks,
    spiking,
    tables,
    throughput,
    variance,
)
from experiments.execution import execute, seconds_left
from experiments.paper import figures, protocol, report
from experiments.paper.protocol import CELLS, RECOMMENDED, SEEDS, TASKS, Cell, plan
from experiments.runs import ROOT, Columns, Result, Run, Store, write_whole
from tests.small_run import processes_of, small_run

# Files


def test_file_keeps_columns_numbers_and_provenance(tmp_path: pathlib.Path) -> None:
    run, store = small_run(tmp_path / "attempts", 3), Store(tmp_path)
    execute([run], store)
    _, header, *table = store.path(run).read_text().splitlines()
    about = json.loads(header.removeprefix("# "))
    assert (about["settings"], about["numbers"]) == (run.settings, {"seed": 3.0, "never": None})
    assert table == ["third", "0.3333333333"]
    kept = store.read(run)
    assert kept and kept.columns["third"] == pytest.approx([1 / 3], abs=1e-10)
    assert (kept.columns["seed"], math.isnan(kept.columns["never"])) == (3, True)
    assert all(part in kept.made_with for part in ("sb3_nrl ", "stable-baselines3 ", "torch ", "Python "))


def test_file_is_replaced_whole_or_not_at_all(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    write_whole(tmp_path / "file", "before")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", "after")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("file", "before")]


def digested(text: str) -> str:
    return f"# sha256 {hashlib.sha256(text.encode()).hexdigest()}\n{text}"


DAMAGE = {
    "last line missing": lambda text: text[: text.rstrip().rfind("\n") + 1],
    "another setting": lambda text: text.replace('"seed": 3', '"seed": 4'),
    "another digit": lambda text: text[:-2] + "4\n",
    "empty": lambda text: "",
    "no JSON, with its digest": lambda text: digested("# not JSON\nthird\n0.3\n"),
    "no settings, with its digest": lambda text: digested("# {}\nthird\n0.3\n"),
    "no table, with its digest": lambda text: digested(text.split("\n")[1] + "\na,b\n1,2\n3\n"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_corrupt_file_is_named_and_made_again(
    damage: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts, store = tmp_path / "attempts", Store(tmp_path)
    runs = [small_run(attempts, seed) for seed in (3, 5)]
    execute(runs, store)
    path = store.path(runs[0])
    whole = path.read_text()
    path.write_text(damage(whole))
    capsys.readouterr()
    results, failed = execute(runs, store)
    assert f"{path} is " in capsys.readouterr().out
    assert (list(results), failed) == (runs, [])
    assert path.read_text().splitlines()[2:] == whole.splitlines()[2:]
    assert [len(processes_of(attempts, seed)) for seed in (3, 5)] == [2, 1]


def test_changed_settings_are_named_and_made_again(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempts, store = tmp_path / "attempts", Store(tmp_path)
    execute([small_run(attempts, 3, sleep=0.001)], store)
    execute([small_run(attempts, 3)], store)
    assert "made with other settings (sleep 0.001 instead of 0)" in capsys.readouterr().out
    assert len(processes_of(attempts, 3)) == 2


# Doing runs


def test_nothing_finished_is_repeated_after_kill_9(tmp_path: pathlib.Path) -> None:
    script = (
        "import sys, pathlib; from experiments.execution import *; from tests.small_run import *; "
        "folder = pathlib.Path(sys.argv[1]); "
        "execute([small_run(folder / 'attempts', seed, sleep=0.3) for seed in range(5)], Store(folder))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("small/[0-9].csv"))) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: (path.stat().st_ino, path.read_bytes()) for path in tmp_path.glob("small/[0-9].csv")}
    assert 2 <= len(finished) < 5
    results, _ = execute([small_run(tmp_path / "attempts", seed, sleep=0.3) for seed in range(5)], Store(tmp_path))
    assert len(results) == 5
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in finished} == finished
    assert all(len(processes_of(tmp_path / "attempts", seed)) == 1 for seed in range(len(finished)))


def test_ray_repeats_a_run_whose_process_died_and_leaves_no_process(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("ray") is None:  # not imported here: it looks for its token when it is imported
        pytest.skip("needs Ray")
    monkeypatch.setenv("NAME_OF_THIS_TEST", str(tmp_path))
    attempts = tmp_path / "attempts"
    runs = [small_run(attempts, 1, kills=1), small_run(attempts, 2), small_run(attempts, 3, fails=True)]
    results, failed = execute(runs, Store(tmp_path), workers=2)
    assert (list(results), failed) == (runs[:2], runs[2:])
    assert [len(processes_of(attempts, seed)) for seed in (1, 2, 3)] == [2, 1, 1]
    assert os.getpid() not in processes_of(attempts, 1)
    assert "small/3: failed\nTraceback" in capsys.readouterr().out
    until = time.monotonic() + 10
    while (left := processes_with(f"NAME_OF_THIS_TEST={tmp_path}")) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []


def processes_with(variable: str) -> list[str]:
    """Other processes that inherited an environment variable."""
    found = []
    for environ in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable.encode() in environ.read_bytes().split(b"\0") and environ.parent.name != str(os.getpid()):
                found.append((environ.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_rest_takes_as_long_as_finished_runs_let_expect(tmp_path: pathlib.Path) -> None:
    runs = [small_run(tmp_path, seed) for seed in range(5)]
    assert seconds_left(runs, {}, workers=2) == 5 * 10 / 2
    done = {runs[0]: Result({}, 30.0, ""), runs[1]: Result({}, 50.0, "")}  # four times as long as expected
    assert seconds_left(runs[2:], done, workers=2) == 3 * 40 / 2
    assert seconds_left(runs[4:], done, workers=2) == 40


# Learning, ablation, throughput


def monitor(path: pathlib.Path, start: float, episodes: list[tuple[float, int, float]]) -> None:
    """The log of one environment: return, length and time of episodes."""
    rows = [f"{reward},{length},{seconds}" for reward, length, seconds in episodes]
    path.write_text("\n".join([f"#{json.dumps({'t_start': start})}", "r,l,t", *rows]) + "\n")


def test_learning_curve_joins_the_environments(tmp_path: pathlib.Path) -> None:
    monitor(tmp_path / "0.monitor.csv", 100.0, [(1, 10, 1.0), (2, 20, 4.0)])
    monitor(tmp_path / "1.monitor.csv", 100.5, [(6, 12, 1.5), (7, 5, 2.5)])
    curve = {name: values.tolist() for name, values in learning.learning_curve(tmp_path).items()}
    assert curve == {"steps": [20, 24, 34, 60], "seconds": [1, 2, 3, 4], "return": [1, 3.5, 14 / 3, 4]}
    monitor(tmp_path / "0.monitor.csv", 0.0, [(place**2, 1, place) for place in range(150)])
    (tmp_path / "1.monitor.csv").unlink()
    means = learning.learning_curve(tmp_path)["return"]
    assert means[99:] == pytest.approx([np.mean(np.arange(end - 99, end + 1) ** 2) for end in range(99, 150)])


def curve_of(means: Any) -> Columns:
    """A learning curve with episodes of ten steps and half a second."""
    episodes = np.arange(1, len(means) + 1)
    return {"steps": 10 * episodes, "seconds": 0.5 * episodes, "return": np.array(means)}


def test_bar_is_passed_by_a_hundred_episodes() -> None:
    became = learning.judge(curve_of([9.0] * 60 + [1.0] * 50 + [8.0, 6.0, 7.0]), bar=8)
    assert list(became.values()) == [1_110, 55.5, 6, 7, 1_130, 0.05]
    assert math.isnan(learning.judge(curve_of([9.0] * 60 + [1.0] * 50), bar=8)["passed_steps"])


def learned(task: str, algorithm: str, seed: int, *numbers: float) -> tuple[Run, Result]:
    names = ("passed_steps", "passed_seconds", "lowest", "evaluation")
    columns = curve_of(np.linspace(0, 500, 10 + seed)) | dict(zip(names, map(np.array, numbers), strict=False))
    return learning.training(task, algorithm, seed), Result(columns, 1.0, "")


@pytest.mark.parametrize(
    ("task", "lows", "lowest"), [("CartPole-v1", (380, 379), "379"), ("Pendulum-v1", (-250, -251), "−251")]
)
def test_table_counts_seeds_that_passed_and_held(task: str, lows: tuple[float, float], lowest: str) -> None:
    numbers = [*((1_000 + low, 2.0, low, 3.0) for low in lows), (math.nan, math.nan, math.nan, 0.0)]
    results = dict(learned(task, "nrl", seed, *one) for seed, one in enumerate(numbers))
    *_, row, of_defaults = learning.tabulate(results).splitlines()
    assert f"| 2 of 3 | {1_000 + lows[0]:,} (–) |" in row
    assert row.endswith(f"| 2 | 1 of 2 ({lowest}) | 2 (0) |")
    assert of_defaults == "|  |  | NRL, defaults | – | – |  | – |  | – |"  # which were not trained


def test_curve_ends_with_the_first_seed_that_stops_and_each_end_is_marked() -> None:
    results = dict(learned("CartPole-v1", algorithm, seed) for algorithm in ("nrl", "a2c") for seed in (0, 7))
    lines = [(line, np.array(line.get_xydata())) for line in learning.draw(results).axes[0].get_lines()]
    (curve,) = (points for line, points in lines if line.get_color() == tables.GREEN and line.get_linestyle() == "-.")
    assert curve[:, 0].max() == 100
    (ends,) = (points for line, points in lines if line.get_marker() == "o")
    assert ends.tolist() == [[100, 500], [170, 500]]


@pytest.mark.parametrize("name", ablation.CHANGES)
def test_row_of_the_ablation_changes_what_it_says_and_nothing_else(name: str) -> None:
    change = ablation.CHANGES[name]
    for task in change.tasks:
        run = change.run(task, name, 1)
        shipped = learning.training(task, change.algorithm, 1, stop=True, n_eval_episodes=0)
        assert {**run.settings, "changes": []} == shipped.settings
        config, parser = {"gamma": 0.99, **shipped.settings["config"]}, argparse.ArgumentParser()
        parser.add_argument("--hyperparams", nargs="*", action=StoreDict, default={})
        changes = run.settings["changes"]
        parsed = parser.parse_args(["--hyperparams", *changes] if changes else []).hyperparams
        if "policy_kwargs" in parsed:
            texts = (
                parsed.pop("policy_kwargs"),
                config.get("policy_kwargs", "dict()"),
                f"dict({change.policy_kwargs})",
            )
            both, own, added = (eval(text, {"nn": th.nn, "th": th}) for text in texts)
            assert both == {**own, **added} != own
        wanted = {key: str(value).strip("'").format(**config) for key, value in change.hyperparams.items()}
        assert {key: str(value) for key, value in parsed.items()} == wanted


def test_ratios_are_of_one_round() -> None:
    case = "A2C / 8 / Discrete"
    rates = {name: {0: 1.0, 1: 10.0, 2: 100.0} for name in throughput.CASES}
    rates["NRL, defaults / 8 / Discrete"] = {0: 2.0, 1: 30.0, 2: 400.0}
    rates[f"old: {case}"] = {0: 4.0, 1: 40.0, 2: 400.0}
    rows = throughput.compare(rates)
    assert ["NRL, defaults", "A2C", "8", "3.00", "2.00 to 4.00"] in rows
    assert [case, "the other tree", "8", "0.25", "0.25 to 0.25"] in rows
    assert sum(row[3] == "1.00" for row in rows) > 10


# Memory


@pytest.mark.parametrize(("group", "task"), [(group, task) for group, tasks in memory.GROUPS.items() for task in tasks])
def test_tasks_of_the_memory_table_have_vectors_as_observations(group: str, task: str) -> None:
    env = memory.make_env(group, task)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation) and observation.ndim == 1
    assert observation.dtype == np.float32
    assert all(math.isfinite(env.step(env.action_space.sample())[1]) for _ in range(5))


def test_memory_table_needs_no_chance_and_leaves_out_what_was_not_trained() -> None:
    run = next(run for run in memory.plan([0], ROOT) if run.of == ("ppo", "GoNogo"))
    lines = memory.tabulate({run: Result({"last": np.array(0.75)}, 1.0, "")}).splitlines()
    assert lines[2:] == ["| task | chance | RecurrentPPO |", "|---|---|---|", "| `GoNogo` |  | 0.75 (0.75) |"]


def test_first_answers_to_both_tests_are_judged() -> None:
    """NeuroGym counts a trial as right in which any answer in any time step is."""
    env = memory.make_env("neurogym", "DualDelayMatchSample")

    def performance(answers: Sequence[int]) -> tuple[float, float]:
        """Answer the first and the second test, with 1 or 2, or not at all, and in a later step with the other."""
        env.reset(seed=3)
        tests, was_test, right = iter(answers), False, []
        while True:
            truth = int(env.unwrapped.task.unwrapped.gt_now)  # type: ignore[attr-defined]
            if truth == 0:
                action = 0
            elif was_test:
                action = 3 - action if action else 0
            else:
                action = next(tests)
                right.append(action == truth)
            was_test = truth != 0
            *_, terminated, _, info = env.step(action)
            if terminated:
                return info["performance"], float(np.sum(right) / 2)

    found = [performance(answers) for answers in itertools.product((0, 1, 2), repeat=2)]
    assert all(ours == judged for ours, judged in found)
    assert {judged for _, judged in found} == {0.0, 0.5, 1.0}


def test_best_constant_answer_to_unequal_intervals() -> None:
    """Time steps of 80 ms make durations of 300 to 600 ms equal in 23.6 % of the trials, whose answer is 2."""
    columns = memory.measure_chance({"task": "IntervalDiscrimination", "n_trials": 2_000, "seed": 0})
    assert columns["correct"] == pytest.approx([0, 0.382, 0.618], abs=4 * math.sqrt(0.382 * 0.618 / 2_000))


@pytest.mark.slow
def test_interrupted_training_goes_on(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHECKPOINT_STEPS", 256)
    group = "velocity-free"
    settings = {"group": group, "task": "Pendulum-v1", "n_steps": 768, **memory.PPO[group], "n_envs": 2}
    settings["arguments"] = settings["arguments"] | {"seed": 0, "n_epochs": 1, "batch_size": 64}
    checkpoint = tmp_path / "checkpoint"

    record = memory.Training._on_step

    def interrupt(training: memory.Training) -> bool:
        assert training.num_timesteps < 700, "interrupted"
        return record(training)

    with monkeypatch.context() as interrupted, pytest.raises(AssertionError, match="interrupted"):
        interrupted.setattr(memory.Training, "_on_step", interrupt)
        memory.train(settings, checkpoint)
    kept = memory.Training(checkpoint, settings)
    assert kept.model.num_timesteps == 512
    normalize = kept.model.get_vec_normalize_env()
    assert isinstance(normalize, VecNormalize) and isinstance(normalize.obs_rms, RunningMeanStd)
    assert normalize.obs_rms.count > 512
    columns = memory.train(settings, checkpoint)
    assert columns["n_resumed"] == 1
    assert columns["steps"].tolist() == [
        400,
        400,
    ]  # the end of both environments' first episodes, before it was stopped


def test_bar_is_passed_by_the_mean_of_a_hundred_returns() -> None:
    steps, returns = np.arange(1, 301) * 10, np.repeat([0.0, 100.0], [150, 150])
    assert memory.passed(steps, returns, 50) == 2000  # 50 of each among episodes 101 to 200
    assert math.isnan(memory.passed(steps, returns, 101)) and math.isnan(memory.passed(steps[:99], returns[:99], 0))


def test_only_layers_with_noise_have_a_noisy_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variance, "N_STEPS", 640)
    columns = {
        noise: variance.measure({**variance.STANDARD, "noise": noise, "samples": 2, "seed": 0})
        for noise in ("node", "local head", "weight, rank one")
    }
    assert columns["local head"]["mean_layer_2"] == pytest.approx(1, abs=1e-4)
    assert columns["local head"]["mean_layer_1"] < 0.6 and columns["node"]["mean_layer_2"] < 0.9
    assert [float(of["n_noisy"]) for of in columns.values()] == pytest.approx([68, 64, math.nan], nan_ok=True)


def test_window_ends_with_the_current_observation_and_begins_with_the_trial() -> None:
    observations = np.arange(1, 7, dtype=np.float32).reshape(3, 2, 1)  # 3 steps of 2 trials
    trials = observations, np.zeros((3, 2), dtype=int), np.ones((3, 2), dtype=bool)
    steps = np.array([0, 2]), np.array([1, 0])
    assert memory_needed.Data(trials, 3).draw(steps)[0].tolist() == [[0, 0, 2], [1, 3, 5]]
    assert memory_needed.Data(trials, 1).draw(steps)[0].tolist() == [[2], [5]]


# The paper

# Table 2: learning rate η of BP, NRL, RMHL; noise σ of NRL, RMHL. Appendix B: episodes, inputs, hidden units.

# The outputs of Reaching are NeuroGym's three actions.
TABLE_2 = {
    "Acrobot": ((5e-3, 5e-2, 5e-2), (1e-3, 1e-3), 8_000, (6, 64, 3)),
    "CartPole": ((5e-3, 5e-2, 1e-2), (1e-3, 1e-1), 20_000, (4, 64, 2)),
    "Reaching": ((1e-2, 1e-2, 1e-1), (1e-3, 1e-1), 1_000, (32, 128, 3)),
}


@pytest.mark.parametrize("task", TABLE_2)
@pytest.mark.parametrize("n_hidden", [1, 3])
def test_settings_are_the_papers(task: str, n_hidden: int) -> None:
    rates, noises, n_episodes, (n_inputs, width, n_outputs) = TABLE_2[task]
    assert TASKS[task].n_episodes == n_episodes
    for algorithm, rate, noise in zip(("BPTT", "NRL", "RMHL"), rates, (None, *noises), strict=True):
        settings = Cell(task, algorithm, n_hidden).settings(seed=3, n_episodes=n_episodes)
        arguments = settings["arguments"]
        immediate = task == "Reaching"
        expected: dict[str, Any] = {
            "learning_rate": rate,
            "reward_timing": "step" if immediate else "episode",
            "scale_rpe": not immediate,
            "reward_smoothing": 0.66,
            "trace_decay": 1.0,
            "max_grad_norm": None,
            "seed": 3,
        }
        if algorithm != "BPTT":
            expected |= {"noise_std": noise, "noise_distribution": "gaussian"}
        if algorithm == "NRL":
            expected |= {"noise_normalization": "layer" if immediate else "network", "n_noise_samples": 1}
            expected |= {"antithetic": False, "n_baseline_passes": None}
        assert {name: arguments[name] for name in expected} == expected
        model, _ = protocol.make_model(settings)
        assert (type(model).__name__, type(model.policy.optimizer)) == (algorithm, th.optim.SGD)
        shapes = [tuple(parameter.shape) for parameter in model.policy.parameters()]  # no bias among them
        assert shapes == [(width, n_inputs), *[(width, width)] * (n_hidden - 1), (n_outputs, width)]


def test_figures_train_the_papers_cells() -> None:
    def published(figure: str) -> set[tuple[str, str, int]]:
        return {cell[:3] for cell in CELLS[figure] if cell.setting == "paper"}

    algorithms = ("NRL", "BPTT", "RMHL")
    assert published("fig1") == {(task, algorithm, 1) for task in TASKS for algorithm in algorithms}
    assert published("fig2") == {("Acrobot", algorithm, n) for algorithm in algorithms for n in (2, 3)}
    assert published("fig3") == {("CartPole", algorithm, n) for algorithm in algorithms for n in (2, 3)}
    for (task, n_hidden), of_algorithms in RECOMMENDED.items():
        for algorithm, changes in of_algorithms.items():
            cells = (Cell(task, algorithm, n_hidden, setting) for setting in ("paper", "recommended"))
            paper, recommended = (cell.settings(0, 1)["arguments"] for cell in cells)
            policy_kwargs = paper["policy_kwargs"] | changes.get("policy_kwargs", {})
            assert recommended == {**paper, **changes, "policy_kwargs": policy_kwargs} != paper


def test_training_is_repeatable_and_a_row_is_a_mean() -> None:
    settings = Cell("CartPole", "NRL").settings(1, 160)
    one, two = protocol.train(settings), protocol.train(settings)
    assert one["episode"].tolist() == list(range(5, 161, 5))
    assert one["return"].tolist() == two["return"].tolist() == one["length"].tolist()
    assert (one["return"] != np.round(one["return"])).any()  # of five episodes


def test_training_that_diverges_is_a_result() -> None:
    settings = Cell("CartPole", "NRL").settings(1, 70)
    settings["arguments"]["learning_rate"] = 1e30
    columns = protocol.train(settings)
    played = columns["length"] > 0
    assert 0 < played.sum() < 70 and played[: played.sum()].all()
    assert (columns["return"][~played] == TASKS["CartPole"].worst).all()


def test_mean_of_noisy_passes_comes_closer_and_updates_point_along_the_gradient() -> None:
    settings = Cell("Acrobot", "NRL").settings(0, 0) | {"n_steps": 40, "n_passes": [1, 100]}
    one, hundred = protocol.measure_noisy_passes(settings)["error"]
    assert one / hundred == pytest.approx(10, rel=0.3)  # √100
    louder = settings["arguments"] | {"noise_std": 0.01}
    assert protocol.measure_noisy_passes(settings | {"arguments": louder})["error"][0] / one == pytest.approx(
        10, rel=0.1
    )
    settings = Cell("CartPole", "NRL").settings(0, 5) | {"cases": [(1e-3, 1), (1e-3, 1000)]}
    settings["arguments"]["learning_rate"] = 0.0
    few, many = protocol.measure_alignment(settings)["cosine"]
    assert 0 < few < 0.3 < 0.8 < many < 1


def trainings(cell: Cell, curves: Sequence[float | Sequence[float]]) -> dict[Run, Result]:
    """A training from each seed, whose return is the same in every row, or given from row to row."""
    episodes = np.arange(50, TASKS[cell.task].n_episodes + 1, 50)
    results = {}
    for seed, curve in enumerate(curves):
        returns = np.resize(np.array(curve, dtype=float), len(episodes))
        columns = {"episode": episodes, "return": returns, "length": np.full(len(episodes), 9.0)}
        results[Run(f"{cell.name}_{seed}", protocol.train, {}, seed, of=cell)] = Result(columns, 1.0, "versions")
    return results


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "N_BOOTSTRAPS", 20)


def test_interquartile_mean_is_that_of_the_middle_half() -> None:
    iqm, low, high = report.interquartile_mean(np.array([10.0, 100.0, 20.0, 0.0, 30.0]))
    assert iqm == pytest.approx((10 + 20 + 30) / 3)
    assert 0 <= low < iqm < high <= 100


ACROBOT, CARTPOLE, REPAIRED = Cell("Acrobot", "NRL"), Cell("CartPole", "NRL"), Cell("Acrobot", "NRL", 1, "recommended")
VERDICTS = [
    (CARTPOLE, [490] * 5, [500] * 5, [80] * 5, "reaches BP (98%), beats RMHL"),
    (CARTPOLE, [474] * 5, [500] * 5, [], "does not reach BP (95%)"),
    (CARTPOLE, [500] * 4 + [249], [460] * 5, [], "does not reach BP (98%)"),
    (CARTPOLE, [490] * 4, [500] * 5, [80] * 5, "has too few seeds to reach BP (98%)"),
    (ACROBOT, [-90] * 5, [-80] * 4 + [-251], [], "cannot be compared with BP (which learned from 4/5)"),
    (ACROBOT, [-90, -85, -500, -95, -500], [-80] * 5, [-80] * 5, "does not reach BP (59%), does not beat RMHL"),
    (REPAIRED, [-95] * 5, [-80] * 5, [], "reaches BP (96%)"),
]


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(("cell", "nrl", "bp", "rmhl", "verdict"), VERDICTS)
def test_claims_are_judged(cell: Cell, nrl: list[float], bp: list[float], rmhl: list[float], verdict: str) -> None:
    results = trainings(cell, nrl) | trainings(cell._replace(algorithm="BPTT", setting="paper"), bp)
    summaries = report.summarize(results | trainings(cell._replace(algorithm="RMHL"), rmhl))
    (row,) = (line for line in report.table(summaries).splitlines() if line.startswith(f"| {cell.title} |"))
    assert f"| NRL {verdict} |" in row


@pytest.mark.usefixtures("few_resamples")
def test_summary_tells_final_return_speed_and_agreement() -> None:
    results = trainings(CARTPOLE, [[*[10.0] * 200, *[500.0] * 200], 20.0, [*[10.0] * 100, *[500.0] * 300]])
    one = report.summarize(results)[CARTPOLE]
    assert (one.finals.tolist(), one.learned.tolist(), one.tally) == ([500, 20, 500], [True, False, True], "2/3")
    assert (one.mean, one.speed, one.agrees) == (340, 10_050, False)
    for final, agrees in ((473.0, True), (472.0, False)):  # 25 and 26 from the reference, and 25 are 5 % of the range
        assert report.summarize(trainings(CARTPOLE, [final]))[CARTPOLE].agrees is agrees


@pytest.mark.usefixtures("few_resamples")
def test_findings_tell_lost_seeds_relapses_and_depth() -> None:
    rise_and_fall = [*np.linspace(20, 480, 200), *np.linspace(480, 11, 200)]
    relapse = [20.0, *[500.0] * 198, 11.0, *[500.0] * 200]
    results = trainings(Cell("CartPole", "NRL", 3), [9.0, rise_and_fall, [20.0, 60.0], 499.0, relapse])
    for n_hidden, rows in ((1, 20), (2, 0)):
        results |= trainings(Cell("CartPole", "NRL", n_hidden), [[*[10.0] * rows, *[500.0] * (400 - rows)]] * 5)
    told = list(report.findings(report.summarize(results), results))
    assert told[:4] == [
        "CartPole, 3: NRL did not learn from seed 0: every return was 9, so that there was nothing to learn from.",
        "CartPole, 3: NRL did not learn from seed 1: it reached 480 at episode 10000, and fell to 11.",
        "CartPole, 3: NRL did not learn from seed 2: it never came above 60.",
        "CartPole, 3: NRL had passed 475, fell to 11 at episode 10,000 (seed 4), and came back.",
    ]
    assert told[4].endswith("one, two and three: NRL 1,050, 50, 9,900: differs.")
    assert told[5:] == ["Runs were made with versions."]


@pytest.mark.usefixtures("few_resamples")
def test_figure_shows_every_seed_and_marks_those_that_did_not_learn() -> None:
    results = trainings(CARTPOLE, [500.0, 20.0, 480.0]) | trainings(Cell("CartPole", "BPTT"), [490.0])
    (axes,) = figures.draw("fig1", report.summarize(results), results).axes
    lines = [(line, np.array(line.get_xydata())) for line in axes.get_lines()]
    assert sorted(xy[0, 1] for line, xy in lines if len(xy) == 400 and line.get_linewidth() < 1) == [20, 480, 490, 500]
    marks = {xy[0, 1]: line.get_marker() for line, xy in lines if line.get_marker() in ("o", "x")}
    assert marks == {500: "o", 20: "x", 480: "o", 490: "o"}


# What is committed


@pytest.mark.usefixtures("few_resamples")
def test_published_reproduction_is_that_of_the_committed_runs() -> None:
    folder = ROOT / "results" / "reproduction"
    runs = list(dict.fromkeys(run for figure in CELLS for run in plan(figure, list(SEEDS))))
    results = Store(folder).read_all(runs)
    assert len(results) == len(runs) == sum(1 for _ in folder.glob("*/*.csv"))
    page = (folder / "table.md").read_text()
    assert page.startswith(tables.section(tables.DOCS / "reproduction.md", "reproduction")[1])
    summaries = report.summarize(results)
    published = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    ours = list(csv.DictReader(report.csv_table(summaries).splitlines()))
    for row in (*published, *ours):
        del row["ci_low"], row["ci_high"]  # of other resamples
    assert published == ours
    assert all(f"- {line}\n" in page for line in report.findings(summaries, results))


@pytest.mark.parametrize(
    "command",
    [learning, neurogym_tasks, ablation, throughput, costs, memory, memory_needed, spiking, mujoco, variance],
)
def test_published_table_is_that_of_the_committed_runs(
    command: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = command.__name__.removeprefix("experiments.").removesuffix("_tasks")
    results = ROOT / "results" / name
    if results.is_dir():
        shutil.copytree(results, tmp_path / name)
    else:
        shutil.copy(results.with_suffix(".csv"), tmp_path)
    assert command.main(["--report", "--out", str(tmp_path / name)]) == 0
    output = capsys.readouterr().out
    assert "counts as missing" not in output
    _, published, _ = tables.section(command.DOCUMENT, name)
    assert published.count("\n") > 5
    assert published in output


AGENTS = Store(ROOT / "results" / "agents").read_all(agents.plan(pathlib.Path(), [0]))


def test_published_agents_are_those_that_were_evaluated() -> None:
    _, published, _ = tables.section(agents.DOCUMENT, "agents")
    assert agents.tabulate(AGENTS, agents.FOLDER) == published  # raises an error if a model is another
    lines = (agents.FOLDER / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in map(str.split, lines)}
    models = [agents.model_of(run, agents.FOLDER) for run in AGENTS]
    assert sums == {str(model.relative_to(agents.FOLDER)): agents.checksum(model) for model in models}


@pytest.mark.parametrize("run", AGENTS, ids=[run.name for run in AGENTS])
def test_agent_acts(run: Run) -> None:
    kind, task = run.of
    if task.startswith("neurogym/"):
        pytest.importorskip("neurogym")
    model, env = learning.load(agents.model_of(run, agents.FOLDER).parent, task, agents.algorithm(kind), 0)
    actions, _ = model.predict(env.reset(), deterministic=True)
    _, rewards, _, _ = env.step(actions)
    assert np.isfinite(rewards).all()


def test_agent_is_judged_in_the_environment_of_its_config() -> None:
    pytest.importorskip("neurogym")
    run = next(run for run in AGENTS if run.of == ("nrl", "neurogym/Reaching1D-v0"))
    _, env = learning.load(agents.model_of(run, agents.FOLDER).parent, run.of[1], "nrl", 0)
    assert run.settings["config"]["env_kwargs"]["dt"] == 10
    env.reset()
    done, n_steps = False, 0
    while not done:
        _, _, (done,), (info,) = env.step(np.array([0]))
        n_steps += 1
    assert (info["dt"], n_steps) == (10, 300)  # by default 100 and 10


def test_tasks_need_memory_as_measured() -> None:
    """Trials of two tasks, which are not measured, have one observation before the choice."""
    store = Store(ROOT / "results" / "memory_needed")
    results = store.read_all(memory_needed.plan([0])).items()
    measured = {f"neurogym/{run.of}-v0": memory_needed.needs_memory(run.of, result.columns) for run, result in results}
    measured |= {"neurogym/Bandit-v0": False, "neurogym/DawTwoStep-v0": False}
    tasks = importlib.import_module("sb3_nrl.envs").TASKS
    assert {env_id: task.needs_memory for env_id, task in tasks.items()} == measured
