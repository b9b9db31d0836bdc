"""The paper's figures: the protocol, runs that are never done twice or dropped, and what is drawn and told of them."""

import csv
import hashlib
import importlib.util
import inspect
import io
import json
import operator
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch as th
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from rich.console import Console

import sb3_nrl
from sb3_nrl import NRL
from sb3_nrl.cli import main
from sb3_nrl.reproduce import report, runs, summary
from sb3_nrl.reproduce.command import MARKERS
from sb3_nrl.reproduce.figures import ALGORITHM_STYLES, CHANGE_STYLES, NOISE_STYLES, draw
from sb3_nrl.reproduce.findings import findings
from sb3_nrl.reproduce.measurements import N_PASSES, Alignment, CleanPassError, UntrainedPolicies
from sb3_nrl.reproduce.plan import plan
from sb3_nrl.reproduce.protocol import ALGORITHMS, CELLS, LABELS, RECOMMENDED, REFERENCE, SEEDS, TASKS, Cell
from sb3_nrl.reproduce.runs import (
    Columns,
    Result,
    Run,
    Training,
    Unusable,
    block_size,
    blocks,
    final_return,
    make_model,
    path_of,
    read,
    thin,
    write,
)
from sb3_nrl.reproduce.schedule import Clock, Failure, carry_out, find
from sb3_nrl.reproduce.summary import Summaries, episodes_until, interquartile_mean, summarize

PNG = b"\x89PNG"

# Table 2: learning rate η of BP, NRL, RMHL; noise σ of NRL, RMHL. Appendix B: episodes, inputs, hidden units.
# The outputs of Reaching are NeuroGym's three actions.
PAPER = {
    "Acrobot": ((5e-3, 5e-2, 5e-2), (1e-3, 1e-3), 8_000, (6, 64, 3)),
    "CartPole": ((5e-3, 5e-2, 1e-2), (1e-3, 1e-1), 20_000, (4, 64, 2)),
    "Reaching": ((1e-2, 1e-2, 1e-1), (1e-3, 1e-1), 1_000, (32, 128, 3)),
}

ALL_CELLS = list(dict.fromkeys(cell for cells in CELLS.values() for cell in cells))


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def training(
    cell: Cell, seed: int, returns: float | Sequence[float], n_episodes: int | None = None
) -> tuple[Run, Result]:
    """A training as it would be kept for ever, whose return is the same in every row, or given from row to row."""
    run = Training(cell, seed, n_episodes or TASKS[cell.task].n_episodes)
    size = block_size(run.n_episodes)
    episodes = np.arange(size, run.n_episodes + 1, size)
    columns = {"episode": episodes, "return": np.resize(returns, len(episodes)), "length": np.full(len(episodes), 9)}
    return run, Result(columns, 10.0, "some versions")


def results_of(cell: Cell) -> dict[Run, Result]:
    return trainings(cell, [0.0])


def trainings(cell: Cell, finals: Sequence[float]) -> dict[Run, Result]:
    return dict(training(cell, seed, final) for seed, final in enumerate(finals))


# The protocol


def test_papers_arguments_are_changed_one_by_one() -> None:
    networks = [arguments["policy_kwargs"] for arguments in sb3_nrl.PAPER.values()]
    assert networks[0] == networks[1] == networks[2]
    assert len({id(network) for network in networks}) == 3


@pytest.mark.parametrize("task", PAPER)
@pytest.mark.parametrize("n_hidden", [1, 2, 3])
def test_settings_are_the_papers(task: str, n_hidden: int) -> None:
    rates, noises, n_episodes, (n_inputs, width, n_outputs) = PAPER[task]
    assert TASKS[task].n_episodes == n_episodes
    for algorithm, rate, noise in zip(("BPTT", "NRL", "RMHL"), rates, (None, *noises), strict=True):
        settings = Cell(task, algorithm, n_hidden).settings(seed=3, n_episodes=n_episodes)
        assert settings["n_episodes"] == n_episodes
        model: Any
        model, env = make_model(settings)
        assert type(model).__name__ == algorithm
        assert model.learning_rate == rate
        assert getattr(model, "noise_std", None) == noise
        assert (model.seed, model.n_envs, model.reward_smoothing, model.trace_decay) == (3, 1, 0.66, 1.0)
        immediate = task == "Reaching"
        assert (model.reward_timing, model.scale_rpe) == (("step", False) if immediate else ("episode", True))
        assert model.max_grad_norm is None
        assert type(model.policy.optimizer) is th.optim.SGD
        assert model.policy.optimizer.param_groups[0]["momentum"] == 0
        shapes = [tuple(parameter.shape) for parameter in model.policy.parameters()]  # no bias among them
        assert shapes == [(width, n_inputs), *[(width, width)] * (n_hidden - 1), (n_outputs, width)]
        assert model.policy.head_gain == 1.0
        activation = model.policy.hidden_net[1]
        assert (type(activation), activation.negative_slope) == (th.nn.LeakyReLU, 0.1)
        assert model.n_steps == 128
        assert env.spec is not None and env.spec.max_episode_steps == (None if immediate else TASKS[task].n_steps)
        if algorithm == "NRL":
            assert model.noise_normalization == ("layer" if immediate else "network")
            assert (model.n_noise_samples, model.antithetic, model.clean_passes) == (1, False, None)
            assert model.noise_distribution == "gaussian"


def test_reaching_is_a_trial_of_300_steps_to_the_target_that_is_shown() -> None:
    _, env = make_model(Cell("Reaching", "BPTT").settings(0, 1))
    env.reset()
    steps = 1
    while not any(env.step(0)[2:4]):
        steps += 1
    assert steps == TASKS["Reaching"].n_steps == 300
    task: Any = env.unwrapped
    assert (task.task.dt, task.task.published_target) == (10, False)
    rewards = task.task.rewards
    assert (TASKS["Reaching"].worst, TASKS["Reaching"].best) == (300 * rewards["fail"], 300 * rewards["correct"])


@pytest.mark.parametrize("cell", ALL_CELLS, ids=lambda cell: cell.name)
def test_no_default_decides_what_a_training_gives(cell: Cell) -> None:
    arguments = cell.settings(0, 1)["arguments"]
    decides_nothing = {
        *("policy", "env", "stats_window_size", "tensorboard_log", "verbose", "device", "_init_setup_model"),
        *("ent_coef", "vf_coef"),  # for a critic
    }
    assert set(arguments) == set(inspect.signature(getattr(sb3_nrl, cell.algorithm)).parameters) - decides_nothing
    network = {"net_arch", "activation_fn", "use_bias", "head_gain", "optimizer_class"}
    assert set(arguments["policy_kwargs"]) == network


def test_figures_are_made_of_the_papers_cells() -> None:
    assert SEEDS == (0, 1, 2, 3, 4)

    def published(figure: str) -> set[tuple[str, str, int]]:
        return {(cell.task, cell.algorithm, cell.n_hidden) for cell in CELLS[figure] if cell.setting == "paper"}

    assert published("fig1") == {(task, algorithm, 1) for task in TASKS for algorithm in ALGORITHMS}
    assert published("fig2") == {("Acrobot", algorithm, n) for algorithm in ALGORITHMS for n in (2, 3)}
    assert published("fig3") == {("CartPole", algorithm, n) for algorithm in ALGORITHMS for n in (2, 3)}
    passes = [cell.settings(0, 1)["arguments"]["clean_passes"] for cell in CELLS["fig4"] if cell.setting == "paper"]
    assert passes == [None, 2, 10]
    noises = [cell.settings(0, 1)["arguments"]["noise_distribution"] for cell in CELLS["noise"]]
    assert noises == ["gaussian", "uniform", "rademacher", "poisson"]


@pytest.mark.parametrize(("task", "n_hidden"), RECOMMENDED)
def test_what_is_recommended_says_all_that_it_changes(task: str, n_hidden: int) -> None:
    for algorithm, changes in RECOMMENDED[task, n_hidden].items():
        paper, recommended = (
            Cell(task, algorithm, n_hidden, setting).settings(0, 1)["arguments"] for setting in ("paper", "recommended")
        )
        expected = {**paper, **changes, "policy_kwargs": paper["policy_kwargs"] | changes.get("policy_kwargs", {})}
        assert recommended == expected != paper


def test_recommended_are_a_small_head_and_many_samples() -> None:
    def made(task: str, algorithm: str, n_hidden: int) -> Any:
        return make_model(Cell(task, algorithm, n_hidden, "recommended").settings(0, 1))[0]

    for n_hidden in (1, 2, 3):
        for algorithm in ("NRL", "BPTT"):
            assert Cell("Acrobot", algorithm, n_hidden, "recommended") in ALL_CELLS
            assert made("Acrobot", algorithm, n_hidden).policy.head_gain == 0.01
    reaching = made("Reaching", "NRL", 1)
    assert (reaching.noise_normalization, reaching.n_noise_samples, reaching.antithetic) == ("unbiased", 8, True)


def test_every_reference_belongs_to_a_cell() -> None:
    assert set(REFERENCE) <= set(ALL_CELLS)
    assert len(REFERENCE) == 23


def test_no_two_runs_share_a_file() -> None:
    runs = {run for figure in CELLS for run in plan(figure, TASKS, ALGORITHMS, SEEDS)}
    assert len({run.name for run in runs}) == len(runs) > 150
    for run in runs:
        assert run.expected_seconds > 0


def test_untrained_policies_belong_to_what_is_trained_of_acrobot() -> None:
    def depths(figure: str, **narrowed: Any) -> list[int]:
        arguments: dict[str, Any] = {"tasks": TASKS, "algorithms": ALGORITHMS, "seeds": (3,), **narrowed}
        return [run.n_hidden for run in plan(figure, **arguments) if isinstance(run, UntrainedPolicies)]

    assert {figure: depths(figure) for figure in CELLS} == {
        "fig1": [1],
        "fig2": [2, 3],
        "fig3": [],
        "fig4": [],
        "noise": [],
    }
    assert depths("fig2", tasks=["CartPole"]) == depths("fig2", algorithms=["RMHL"]) == []
    (short,) = (run for run in plan("fig1", TASKS, ALGORITHMS, (3,), quick=True) if isinstance(run, UntrainedPolicies))
    assert short.n_policies * short.n_episodes <= 10 < UntrainedPolicies(1).n_policies


# A run and its file


@dataclass(frozen=True)
class Small(Run):
    """
    A run that is done at once, fails, or is killed with its process the first times.

    :param seed: What it gives back
    :param attempts: Where each attempt leaves a line
    :param kills: How many attempts are killed
    :param error: Whether it fails
    """

    seed: int
    attempts: pathlib.Path
    kills: int = 0
    error: bool = False

    @property
    def name(self) -> str:
        return f"small_seed-{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        return {"seed": self.seed, "nested": {"kills": self.kills}}

    @property
    def expected_seconds(self) -> float:
        return 10.0

    def measure(self) -> Columns:
        with self.attempts.open("a") as file:
            file.write(f"{self.seed} {os.getpid()} {th.get_num_threads()}\n")
        if len(self.done()) <= self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.error:
            raise FloatingPointError("diverged,\nas expected")
        return {"seed": np.array([float(self.seed)]), "third": np.array([1 / 3])}

    def done(self) -> list[list[str]]:
        """Seed, process and threads of every attempt."""
        lines = self.attempts.read_text().splitlines() if self.attempts.exists() else []
        return [line.split() for line in lines if line.split()[0] == str(self.seed)]


def test_training_gives_the_same_every_time_and_keeps_it(tmp_path: pathlib.Path) -> None:
    run = Training(Cell("CartPole", "NRL"), 1, n_episodes=12)
    one, two = run.do(), run.do()
    assert one.columns["episode"].tolist() == list(range(1, 13))
    assert one.columns["return"].tolist() == one.columns["length"].tolist()
    assert th.get_num_threads() == 1
    write(run, one, tmp_path)
    kept = read(run, tmp_path)
    assert kept is not None
    for columns in (two.columns, kept.columns):
        assert {name: values.tolist() for name, values in columns.items()} == {
            name: values.tolist() for name, values in one.columns.items()
        }
    assert kept.made_with == one.made_with
    for part in ("sb3_nrl ", "stable-baselines3 ", "torch ", "Python "):
        assert part in kept.made_with
    assert kept.seconds > 0


def test_file_is_a_table_behind_a_line_of_settings(tmp_path: pathlib.Path) -> None:
    run = Small(3, tmp_path / "attempts")
    write(run, run.do(), tmp_path)
    digest, about, *table = path_of(run, tmp_path).read_text().splitlines()
    assert digest.startswith("# sha256 ")
    assert json.loads(about.removeprefix("# "))["settings"] == run.settings
    assert list(csv.reader(table)) == [["seed", "third"], ["3", "0.3333333333"]]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_file_is_written_whole_or_not_at_all(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Small(3, tmp_path / "attempts")
    write(run, run.do(), tmp_path / "results")
    before = path_of(run, tmp_path / "results").read_bytes()

    def interrupted(*arguments: Any) -> None:
        assert path_of(run, tmp_path / "results").read_bytes() == before
        raise KeyboardInterrupt

    monkeypatch.setattr(pathlib.Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(run, Result({"seed": np.arange(100.0)}, 1.0, ""), tmp_path / "results")
    assert [path.read_bytes() for path in (tmp_path / "results").iterdir()] == [before]


def cut_last_line(text: str) -> str:
    return text[: text.rstrip().rfind("\n") + 1]


DAMAGE = {
    "last line missing": cut_last_line,
    "last character missing": lambda text: text[:-1],
    "cut in the last number": lambda text: text[:-4],
    "cut in the first line": lambda text: text[:60],
    "cut in the second line": lambda text: text[:120],
    "another setting": lambda text: text.replace('"seed": 3', '"seed": 4'),
    "another time": lambda text: text.replace('"seconds": ', '"seconds": 1'),
    "empty": lambda text: "",
    "zeros": lambda text: "\0" * len(text),
    "another digit": lambda text: text[:-2] + "4" + text[-1],
    "a line twice": lambda text: text + text.splitlines(keepends=True)[-1],
    "no digest": lambda text: text.partition("\n")[2],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_corrupt_file_is_noticed_and_done_again(damage: Any, tmp_path: pathlib.Path) -> None:
    run = Small(3, tmp_path / "attempts")
    write(run, run.do(), tmp_path)
    path = path_of(run, tmp_path)
    whole = path.read_text()
    assert read(run, tmp_path) is not None
    path.write_text(damage(whole))
    assert path.read_text() != whole
    with pytest.raises(Unusable, match="corrupt"):
        read(run, tmp_path)

    console = quiet()
    results = find([run], tmp_path, console)
    assert results == {}
    assert f"{path} is corrupt, so it does not count" in console.file.getvalue()  # type: ignore[attr-defined]
    assert carry_out([run], results, tmp_path, 1, None, quiet()) == {}
    assert path.read_text().splitlines()[2:] == whole.splitlines()[2:]
    assert len(run.done()) == 2


def test_file_of_other_settings_is_noticed_and_done_again(tmp_path: pathlib.Path) -> None:
    other = Small(3, tmp_path / "attempts", kills=-1)
    write(other, other.do(), tmp_path)
    run = Small(3, tmp_path / "attempts")
    console = quiet()
    assert find([run], tmp_path, console) == {}
    assert "made with other settings (nested.kills -1 instead of 0)" in console.file.getvalue()  # type: ignore[attr-defined]
    assert list(find([other], tmp_path, console)) == [other]


def test_settings_that_json_does_not_know_are_compared_too(tmp_path: pathlib.Path) -> None:
    cell = Cell("CartPole", "NRL")
    run, result = training(cell, 0, 500.0)
    write(run, result, tmp_path)
    path = path_of(run, tmp_path)
    for now, then in (("LeakyReLU'>, 0.1)", "LeakyReLU'>, 0.2)"), ("optim.sgd.SGD", "optim.adam.Adam")):
        body = path.read_text().partition("\n")[2].replace(now, then)
        elsewhere = tmp_path / then / path.relative_to(tmp_path)
        runs.write_whole(elsewhere, f"# sha256 {hashlib.sha256(body.encode()).hexdigest()}\n{body}".encode())
        with pytest.raises(Unusable, match=rf"other settings .*{re.escape(then)}.* instead of .*{re.escape(now)}"):
            read(run, tmp_path / then)
    assert list(find([run], tmp_path, quiet())) == [run]


def test_training_that_ends_too_soon_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    short = TASKS["CartPole"]._replace(n_steps=5)
    monkeypatch.setitem(TASKS, "CartPole", short)
    with pytest.raises(RuntimeError, match=r"ended after \d of 12 episodes"):
        Training(Cell("CartPole", "NRL"), 1, n_episodes=12).do()


def test_training_that_diverges_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["CartPole"]
    too_large = {"NRL": {**task.own_arguments["NRL"], "learning_rate": 1e30}}
    monkeypatch.setitem(TASKS, "CartPole", task._replace(own_arguments=too_large, worst=-3.0))
    run = Training(Cell("CartPole", "NRL"), 1, n_episodes=100)
    columns = run.do().columns
    assert columns["episode"].tolist() == list(range(1, 101))
    played = columns["length"] > 0
    assert 0 < played.sum() < 100 and played[: played.sum()].all()
    assert (columns["return"][played] == columns["length"][played]).all()
    assert (columns["return"][~played] == -3).all()
    (line,) = report.failures(summarize([(run, Result(columns, 1.0, ""))]))
    after = f"its weights diverged soon after episode {played.sum()}, and all later episodes count as -3."
    assert line == f"CartPole, 1: NRL did not learn from seed 1: {after}"


def test_result_names_the_commit_and_whether_there_are_changes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    package = tmp_path / "sb3_nrl"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    monkeypatch.setattr(sb3_nrl, "__file__", str(package / "__init__.py"))
    made_with = runs.made_with.__wrapped__
    committed = f"at {git('rev-parse', '--short=12', 'HEAD')}"
    assert f"{committed}, stable" in made_with()
    (tmp_path / "README.md").write_text("prose")
    assert f"{committed}, stable" in made_with()
    config = tmp_path / "zoo_configs" / "nrl.yml"
    config.parent.mkdir()
    for code in (package / "__init__.py", config):
        code.write_text("1")
        assert f"{committed} with changes, stable" in made_with()
        git("add", str(code))
        git("commit", "-qm", "changed")
        committed = f"at {git('rev-parse', '--short=12', 'HEAD')}"
        assert f"{committed}, stable" in made_with()


def test_quick_results_are_not_taken_for_full_ones(tmp_path: pathlib.Path) -> None:
    cell = Cell("CartPole", "NRL")
    write(*training(cell, 0, 500.0, n_episodes=TASKS["CartPole"].n_quick), tmp_path)
    with pytest.raises(Unusable, match=r"n_episodes \d+ instead of 20000"):
        read(Training(cell, 0, 20_000), tmp_path)


def test_blocks_are_means_and_thinning_keeps_the_final_return(tmp_path: pathlib.Path) -> None:
    returns = np.random.default_rng(0).normal(size=8_000)
    columns = {"episode": np.arange(1, 8_001), "return": returns, "length": np.arange(8_000)}
    run = Training(Cell("Acrobot", "NRL"), 0, 8_000)
    assert [block_size(n) for n in (20_000, 8_000, 1_000, 400, 30)] == [50, 50, 10, 5, 1]
    assert blocks({name: values[:7] for name, values in columns.items()}, 3)["length"].tolist() == [1, 4]

    thinned = thin(run, Result(columns, 1.0, "")).columns
    assert thinned["episode"].tolist() == list(range(50, 8_001, 50))
    assert thinned["return"][1] == pytest.approx(returns[50:100].mean())
    assert final_return(thinned) == pytest.approx(returns[-50:].mean()) == pytest.approx(final_return(columns))
    assert blocks(thinned, 100)["return"][3] == pytest.approx(returns[300:400].mean())
    write(run, Result(thinned, 1.0, ""), tmp_path)
    assert list(find([run], tmp_path, quiet())) == [run]  # thinned results count as finished


# Doing them


def test_nothing_finished_is_repeated_after_kill_9(tmp_path: pathlib.Path) -> None:
    arguments = ["reproduce", "fig3", "--quick", "--algos", "nrl", "--out", str(tmp_path), "--workers", "1"]
    command = [sys.executable, "-m", "sb3_nrl", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    finished: list[pathlib.Path] = []
    while len(finished) < 2 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
        finished = list(tmp_path.glob("quick/CartPole/NRL*.csv"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = list(tmp_path.glob("quick/CartPole/NRL*.csv"))
    assert 2 <= len(finished) < 4
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in finished}

    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in finished} == before
    assert len(list(tmp_path.glob("quick/CartPole/NRL*.csv"))) == 4
    assert output.count("a return of") == 4 - len(finished)
    assert "4 done, 0 running, 0 left" in output
    assert (tmp_path / "quick" / "fig3_NRL.png").read_bytes()[:4] == PNG


def test_ray_does_a_run_again_whose_worker_was_killed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    for variable in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED", "OMP_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    attempts = tmp_path / "attempts"
    killed, sound, failing = Small(1, attempts, kills=1), Small(2, attempts), Small(3, attempts, error=True)
    runs: list[Run] = [killed, sound, failing]
    results: dict[Run, Result] = {}
    console = quiet()
    failures = carry_out(runs, results, tmp_path, 2, None, console)
    assert list(failures) == [failing]
    assert set(results) == set(find(runs, tmp_path, quiet())) == {killed, sound}
    assert results[killed].columns["seed"].tolist() == [1.0]
    assert [len(run.done()) for run in (killed, sound, failing)] == [2, 1, 1]
    (_, first, _), (_, second, _) = killed.done()
    assert first != second
    for run in (killed, sound, failing):
        for _, process, n_threads in run.done():
            assert int(process) != os.getpid()
            assert n_threads == "1"
    where = tmp_path / "small_seed-3.traceback"
    failed = f"small_seed-3 failed: FloatingPointError: diverged, as expected (see {where})"
    assert failed in console.file.getvalue()  # type: ignore[attr-defined]
    assert "in measure" in where.read_text()
    assert list(home.rglob("*")) == []


def test_without_ray_runs_are_done_one_after_the_other(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find_spec(name))
    runs = [Small(seed, tmp_path / "attempts", error=seed == 1) for seed in range(3)]
    results: dict[Run, Result] = {}
    console = quiet()
    assert list(carry_out(runs, results, tmp_path, 2, None, console)) == [runs[1]]
    assert list(results) == [runs[0], runs[2]]
    assert [line.split()[:2] for line in (tmp_path / "attempts").read_text().splitlines()] == [
        [str(seed), str(os.getpid())] for seed in range(3)
    ]
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("Ray is not installed, so one run is done after the other") == 1
    assert said.splitlines()[1].startswith("0 done, 1 running, 2 left, about")  # before anything is done
    assert "1 done, 1 running, 1 left" in said
    with pytest.raises(ImportError, match=r"pip install 'sb3-nrl\[reproduce\]'"):
        carry_out(runs, {}, tmp_path, 1, "auto", quiet())


def test_everything_of_the_first_seed_comes_first(tmp_path: pathlib.Path) -> None:
    planned = [Small(seed, tmp_path / f"{place}") for place, seed in enumerate([3, 0, 2, 0, 1, 2, 3, 1])]
    results: dict[Run, Result] = {}
    carry_out(planned, results, tmp_path, 1, None, quiet())
    assert [run.seed for run in results] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_two_commands_share_the_work(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = tmp_path / "attempts"
    planned: list[Run] = [Small(seed, attempts) for seed in range(3)]
    plainly_do = Small.do

    def do(run: Small) -> Result:
        """While this command does its first run, another one finishes them all."""
        monkeypatch.setattr(Small, "do", plainly_do)
        carry_out(planned, {}, tmp_path / "results", 1, None, quiet())
        return plainly_do(run)

    monkeypatch.setattr(Small, "do", do)
    results: dict[Run, Result] = {}
    assert carry_out(planned, results, tmp_path / "results", 1, None, quiet()) == {}
    assert set(results) == set(planned)
    assert [len(run.done()) for run in planned] == [2, 1, 1]  # type: ignore[attr-defined]


def test_two_commands_seldom_begin_with_the_same_run(tmp_path: pathlib.Path) -> None:
    planned = [Small(0, tmp_path / name) for name in "abcdefgh"]
    firsts = set()
    for turn in range(20):
        results: dict[Run, Result] = {}
        carry_out(planned, results, tmp_path / str(turn), 1, None, quiet())
        firsts.add(next(iter(results)))
    assert len(firsts) > 2


def test_what_a_failed_run_left_is_gone_once_it_is_done(tmp_path: pathlib.Path) -> None:
    attempts = tmp_path / "attempts"
    run = Small(1, attempts)
    folder = tmp_path / "results"
    assert list(carry_out([Small(1, attempts, error=True)], {}, folder, 1, None, quiet())) == [
        Small(1, attempts, error=True)
    ]
    (folder / ".small_seed-1.csv.123.tmp").write_text("what another process is about to write")
    assert carry_out([run], {}, folder, 1, None, quiet()) == {}
    assert sorted(path.name for path in folder.iterdir()) == [".small_seed-1.csv.123.tmp", "small_seed-1.csv"]


def test_a_folder_that_cannot_be_written_to_is_noticed_before_any_work(tmp_path: pathlib.Path) -> None:
    place = tmp_path / "a file"
    place.write_text("")
    with pytest.raises(OSError, match="a file"):
        carry_out([Small(1, tmp_path / "attempts")], {}, place, 1, None, quiet())
    assert not (tmp_path / "attempts").exists()


def test_the_rest_takes_as_long_as_finished_runs_let_expect(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    runs = [Small(seed, tmp_path) for seed in range(5)]
    results: dict[Run, Result] = {}
    failures: dict[Run, Failure] = {}
    clock = Clock(runs, results, failures, workers=2)
    assert clock.seconds_left() == 5 * 10 / 2
    results[runs[0]] = Result({}, 30.0, "")  # three times as long as expected
    clock.tick(runs[0])
    assert clock.seconds_left() == 4 * 30 / 2
    now = 25.0
    assert clock.seconds_left() == 35
    assert str(clock) == "1 done, 2 running, 2 left, about 35 s to go"
    failures[runs[1]] = Failure("", "")
    clock.tick(runs[1])
    assert str(clock) == "1 done, 2 running, 1 left, 1 failed, about 45 s to go"
    for run in runs[2:]:
        clock.tick(run)
    assert clock.seconds_left() == 0


# What comes of them


def test_interquartile_mean_is_that_of_the_middle_half() -> None:
    np.random.seed(5)  # noqa: NPY002
    finals = np.array([10.0, 100.0, 20.0, 0.0, 30.0])
    iqm, low, high = interquartile_mean(finals)
    assert iqm == pytest.approx((10 + 20 + 30) / 3)
    assert 0 <= low < iqm < high <= 100
    drawn = np.random.random()  # noqa: NPY002
    assert interquartile_mean(finals) == (iqm, low, high)
    np.random.seed(5)  # noqa: NPY002
    assert np.random.random() == drawn  # noqa: NPY002 - the global generator was left as it was


def test_interval_covers_most_resamples() -> None:
    """With 5 runs of 0 or 1 the interquartile mean of a resample has 4 values, of known probability."""
    _, low, high = interquartile_mean(np.array([0.0, 1.0, 1.0, 1.0, 1.0]))
    # 5.8 % of resamples have at least three zeros, so that their middle has two or more; 0.7 % have four.
    assert (low, high) == (pytest.approx(1 / 3), 1.0)


def test_summary_counts_every_seed() -> None:
    cell = Cell("Acrobot", "NRL")
    finals = [-90.0, -85.0, -500.0, -95.0, -500.0]
    (made,) = summarize(trainings(cell, finals).items()).values()
    assert made.finals.tolist() == finals
    assert made.mean == pytest.approx(-254)
    assert made.iqm == pytest.approx((-90 - 95 - 500) / 3)
    assert made.learned.tolist() == [True, True, False, True, False]
    assert made.tally == "3/5"
    assert made.score == pytest.approx((500 - 254) / 500)


def test_half_way_counts_as_learned() -> None:
    finals = {"Acrobot": [-250.0, -251.0], "CartPole": [250.0, 249.0], "Reaching": [135.0, 134.0]}
    for task, pair in finals.items():
        (made,) = summarize(trainings(Cell(task, "NRL"), pair).items()).values()
        assert made.learned.tolist() == [True, False]


def test_speed_is_when_the_last_50_episodes_pass_the_goal() -> None:
    returns = np.repeat([10.0, 500.0, 10.0], [7_000, 6_000, 7_000])
    columns = {"episode": np.arange(1, 20_001), "return": returns, "length": returns}
    run = Training(Cell("CartPole", "NRL"), 0, 20_000)
    # 48 of 50 episodes of 500 make a mean of 480.4, and 47 of 470.6; a row is 50 episodes.
    assert episodes_until(475, columns) == episodes_until(475, thin(run, Result(columns, 1.0, "")).columns) == 7_050
    assert episodes_until(500, columns) == np.inf
    reaching = {name: values[6_900:7_900] for name, values in columns.items()} | {"episode": np.arange(1, 1_001)}
    assert episodes_until(475, reaching) == 150  # rows of 10: after five of them at 500
    assert episodes_until(400, reaching) == 140
    assert episodes_until(9, {name: values[:30] for name, values in columns.items()}) == 30

    late = Training(Cell("CartPole", "NRL"), 2, 20_000)
    slow = {**columns, "return": np.repeat([10.0, 500.0], [10_000, 10_000])}
    results: dict[Run, Result] = {run: Result(columns, 1.0, ""), late: Result(slow, 1.0, "")}
    results |= dict([training(Cell("CartPole", "NRL"), 1, 20.0)])
    (made,) = summarize(results.items()).values()
    assert made.speed == 10_050  # the median, and one never did
    del results[late]
    (made,) = summarize(results.items()).values()
    assert made.speed == np.inf


BENCHMARKS = {
    Cell("Acrobot", "NRL"): [-90.0, -85.0, -500.0, -95.0, -500.0],
    Cell("Acrobot", "BPTT"): [-80.0, -500.0, -82.0, -81.0, -83.0],
    Cell("Acrobot", "RMHL"): [-480.0, -490.0, -500.0, -470.0, -485.0],
    Cell("Acrobot", "NRL", setting="recommended"): [-88.0, -87.0, -90.0, -86.0, -89.0],
    Cell("Acrobot", "BPTT", setting="recommended"): [-82.0, -83.0, -84.0, -82.0, -81.0],
    Cell("CartPole", "NRL"): [498.0, 499.0, 499.0, 500.0, 496.0],
    Cell("CartPole", "BPTT"): [500.0] * 5,
    Cell("CartPole", "RMHL"): [80.0, 85.0, 81.0, 79.0, 84.0],
}


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "_N_BOOTSTRAPS", 20)


@pytest.fixture(scope="module")
def benchmarks() -> Summaries:
    results: dict[Run, Result] = {}
    for cell, finals in BENCHMARKS.items():
        results |= trainings(cell, finals)
    return summarize(results.items())


def panel(figure: Figure, title: str) -> Axes:
    (axes,) = (axes for axes in figure.axes if axes.get_title().startswith(title))
    return axes


def drawn(axes: Axes, name: str) -> list[Any]:
    return [line for line in axes.get_lines() if line.get_gid() == name]


def test_figure_shows_every_seed_and_marks_those_that_did_not_learn(benchmarks: Summaries) -> None:
    figure = draw("fig1", benchmarks, {})
    figure.canvas.draw()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        "Acrobot, one hidden layer, as published\nseeds that learned: NRL 3/5, BP 4/5, RMHL 0/5",
        "Acrobot, one hidden layer, recommended\nseeds that learned: NRL 5/5, BP 5/5",
        "last 50 episodes\n(below: seeds that learned)",
        "CartPole, one hidden layer, as published\nseeds that learned: NRL 5/5, BP 5/5, RMHL 0/5",
        "last 50 episodes\n(below: seeds that learned)",
    ]
    for cell, finals in BENCHMARKS.items():
        setting = {"paper": "as published", "recommended": "recommended"}[cell.setting]
        curves = panel(figure, f"{cell.task}, one hidden layer, {setting}")
        bars = figure.axes[2 if cell.task == "Acrobot" else 4]
        for seed, final in enumerate(finals):
            line, *cross = drawn(curves, f"{cell.name} seed {seed}")
            assert set(line.get_ydata()) == {final}
            assert line.get_xdata()[-1] == TASKS[cell.task].n_episodes
            (mark,) = drawn(bars, f"{cell.name} seed {seed}")
            assert mark.get_ydata() == [final]
            learned = final >= {"Acrobot": -250, "CartPole": 250}[cell.task]
            assert [one.get_marker() for one in cross] == ([] if learned else ["x"])
            assert mark.get_marker() == ("o" if learned else "x")
        (mean,) = drawn(curves, f"{cell.name} mean")
        assert mean.get_ydata() == pytest.approx(np.full(len(mean.get_ydata()), np.mean(finals)))
        assert mean.get_linewidth() > line.get_linewidth()
        assert f"mean of {block_size(TASKS[cell.task].n_episodes)} episodes" in curves.get_ylabel()

    bars = figure.axes[2]
    assert [label.get_text() for label in bars.get_xticklabels()] == [
        *("NRL\n3/5", "BP\n4/5", "RMHL\n0/5"),
        *("NRL\nrec.\n5/5", "BP\nrec.\n5/5"),
    ]
    tops = [bar.get_extents().transformed(bars.transData.inverted()).y1 for bar in bars.patches]
    assert tops == pytest.approx([np.mean(finals) for cell, finals in BENCHMARKS.items() if cell.task == "Acrobot"])


def test_interquartile_means_and_intervals_are_beside_the_bars(benchmarks: Summaries) -> None:
    bars = draw("fig1", benchmarks, {}).axes[2]
    diamonds = [np.asarray(line.get_ydata()) for line in bars.get_lines() if line.get_marker() == "D"]
    shown = [made for cell, made in benchmarks.items() if cell.task == "Acrobot"]
    assert [diamond[0] for diamond in diamonds] == [made.iqm for made in shown]
    ends = [tuple(segment[:, 1]) for bar in bars.collections for segment in bar.get_segments()]  # type: ignore[attr-defined]
    assert ends == [(pytest.approx(made.low), pytest.approx(made.high)) for made in shown]


def test_bp_as_published_beside_what_is_recommended_is_called_so() -> None:
    results = trainings(Cell("Reaching", "BPTT"), [263.0]) | trainings(Cell("Reaching", "NRL"), [240.0])
    results |= trainings(Cell("Reaching", "NRL", setting="recommended"), [260.0])
    figure = draw("fig1", summarize(results.items()), {})
    title = panel(figure, "Reaching, one hidden layer, recommended").get_title().replace("\u00a0", " ")
    assert title.endswith("seeds that learned: NRL 1/1, BP as published 1/1")
    assert panel(figure, "Reaching, one hidden layer, as published").get_title().endswith("NRL 1/1")


def test_halves_of_what_is_recommended_are_in_the_table_alone() -> None:
    results = trainings(Cell("Reaching", "NRL"), [240.0])
    whole = draw("fig1", summarize(results.items()), {})
    results |= trainings(Cell("Reaching", "NRL", change="8 pairs"), [250.0])
    both = draw("fig1", summarize(results.items()), {})
    assert [len(axes.get_lines()) for axes in both.axes] == [len(axes.get_lines()) for axes in whole.axes]


@pytest.mark.parametrize("styles", [ALGORITHM_STYLES, CHANGE_STYLES, NOISE_STYLES], ids=["1", "4", "noise"])
def test_lines_can_be_told_apart_without_colour(styles: dict[str, Any]) -> None:
    assert len({style.line for style in styles.values()}) == len(styles)
    assert all(np.dot(to_rgb(style.color), (0.3, 0.59, 0.11)) < 0.7 for style in styles.values())  # not too pale


def test_figure_of_some_seeds_and_tasks_is_drawn_too() -> None:
    results = dict([training(Cell("Acrobot", "RMHL", 3), 4, -500.0, n_episodes=40)])
    figure = draw("fig2", summarize(results.items()), {})
    figure.canvas.draw()
    assert len(drawn(panel(figure, "Acrobot, three hidden layers"), "Acrobot/RMHL_3-hidden_paper seed 4")) == 2


@pytest.mark.usefixtures("few_resamples")
def test_figure_4_shows_the_error_of_each_seed_and_both_settings() -> None:
    results: dict[Run, Result] = {}
    for cell in CELLS["fig4"]:
        results |= trainings(cell, [-90.0, -500.0])
    for seed in range(2):
        errors = (1 + seed) / np.sqrt(N_PASSES)
        results[CleanPassError(seed)] = Result({"passes": np.array(N_PASSES), "error": errors}, 1.0, "")
    figure = draw("fig4", summarize(results.items()), results)
    figure.canvas.draw()
    first = [list(line.get_ydata()) for line in panel(figure, "A  Acrobot").get_lines()]  # type: ignore[arg-type]
    seeds = [list((1 + seed) / np.sqrt(N_PASSES)) for seed in range(2)]
    assert first[:3] == [*seeds, pytest.approx(list(1.5 / np.sqrt(N_PASSES)))]
    for title, setting in (("B", "paper"), ("C", "recommended")):
        for change in ("", "_2-passes", "_10-passes"):
            assert len(drawn(panel(figure, title), f"Acrobot/NRL_1-hidden_{setting}{change} seed 0")) == 1
            assert len(drawn(panel(figure, title), f"Acrobot/NRL_1-hidden_{setting}{change} seed 1")) == 2
        assert all(f"{n} noisy passes 1/2" in panel(figure, title).get_title() for n in (2, 10))
        assert max(map(len, panel(figure, title).get_title().splitlines())) < 50


@pytest.mark.usefixtures("few_resamples")
def test_figure_about_noise_shows_all_depths_and_distributions() -> None:
    results: dict[Run, Result] = {}
    for cell in CELLS["noise"]:
        results |= trainings(cell, [-90.0, -91.0])
    for place, run in enumerate(run for run in plan("noise", TASKS, ALGORITHMS, (0, 1)) if isinstance(run, Alignment)):
        columns = dict(zip(("std", "samples"), np.array([case[:2] for case in run.cases]).T, strict=True))
        results[run] = Result({**columns, "cosine": np.full(len(run.cases), 0.01 * place - 0.1)}, 1.0, "")
    figure = draw("noise", summarize(results.items()), results)
    figure.canvas.draw()
    samples, sizes, curves, finals = figure.axes
    for axes, xs in ((samples, [1, 10, 100, 1000]), (sizes, [0.001, 0.01, 0.1, 0.3, 1])):
        lines = [line for line in axes.get_lines() if line.get_linestyle() != "None" and len(line.get_xdata()) > 1]  # type: ignore[arg-type]
        assert len(lines) == 3 * 4
        places = {tuple(line.get_xdata()) for line in lines}  # type: ignore[arg-type]
        assert len(places) == 4  # none hides another
        assert all(place == pytest.approx(xs, rel=0.2) for place in places)
        # The mean of two seeds that follow each other.
        assert [line.get_ydata()[0] for line in lines] == pytest.approx([0.01 * (2 * i + 0.5) - 0.1 for i in range(12)])  # type: ignore[index]
        assert axes.get_ylim()[0] < -0.1 and axes.get_ylim()[1] == 1
    assert len(drawn(curves, "Acrobot/NRL_1-hidden_recommended_poisson seed 1")) == 1
    assert [label.get_text() for label in finals.get_xticklabels()] == [
        f"{style.label}\n2/2" for style in NOISE_STYLES.values()
    ]


def test_quick_figure_about_noise_has_points_in_all_panels() -> None:
    run = Alignment(1, "", 0, quick=True)
    columns = dict(zip(("std", "samples"), np.array(run.cases).T, strict=True))
    results: dict[Run, Result] = {run: Result({**columns, "cosine": np.full(len(run.cases), 0.5)}, 1.0, "")}
    samples, sizes = draw("noise", {}, results).axes[:2]
    assert samples.get_lines()[0].get_xdata().tolist() == [1, 10, 100]  # type: ignore[union-attr]
    assert sizes.get_lines()[0].get_xdata().tolist() == [0.001, 1]  # type: ignore[union-attr]


# What is told of them


def test_claims_are_judged(benchmarks: Summaries) -> None:
    rows = {row.title: row for row in report.rows(benchmarks)}
    assert list(rows) == ["Acrobot, 1", "Acrobot, 1, recommended", "CartPole, 1"]
    acrobot, recommended, cartpole = rows.values()
    assert acrobot.ratio is None  # BP failed, too
    assert (acrobot.reaches_bp, acrobot.beats_rmhl) == (None, False)  # two of five runs are no better than RMHL's
    assert recommended.ratio == pytest.approx((500 - 88) / (500 - 82.4))
    assert (recommended.reaches_bp, recommended.beats_rmhl) == (True, None)
    assert (cartpole.reaches_bp, cartpole.beats_rmhl) == (True, True)


def test_bp_is_reached_with_every_seed_only() -> None:
    results = trainings(Cell("CartPole", "NRL"), [500.0] * 24 + [11.0])
    results |= trainings(Cell("CartPole", "BPTT"), [500.0] * 25)
    (row,) = report.rows(summarize(results.items()))
    assert row.ratio is not None and row.ratio > report.COMPARABLE
    assert row.reaches_bp is False
    assert row.claims == "NRL does not reach BP (96%)"


def test_bp_that_failed_is_no_measure() -> None:
    results = trainings(Cell("CartPole", "NRL"), [400.0] * 5) | trainings(Cell("CartPole", "BPTT"), [2.0] * 4 + [500.0])
    (row,) = report.rows(summarize(results.items()))
    assert (row.ratio, row.reaches_bp) == (None, None)
    assert row.claims == "NRL cannot be compared with BP, which learned from 1/5"


def test_bp_is_reached_with_five_seeds_only() -> None:
    for n_nrl, n_bp, claims in (
        (5, 5, "NRL reaches BP (98%)"),
        (4, 5, "NRL ends at 98% of BP"),
        (5, 4, "NRL ends at 98% of BP"),
    ):
        results = trainings(Cell("CartPole", "NRL"), [490.0] * n_nrl)
        results |= trainings(Cell("CartPole", "BPTT"), [500.0] * n_bp)
        (row,) = report.rows(summarize(results.items()))
        assert row.claims == claims


def test_rmhl_is_beaten_with_five_seeds_only() -> None:
    for n_nrl, n_rmhl, beats in ((5, 5, True), (4, 5, None), (5, 4, None)):
        results = trainings(Cell("CartPole", "NRL"), [490.0] * n_nrl)
        results |= trainings(Cell("CartPole", "RMHL"), [80.0] * n_rmhl)
        (row,) = report.rows(summarize(results.items()))
        assert row.beats_rmhl is beats
        assert row.claims == ("NRL beats RMHL" if beats else "NRL has too few seeds to be compared with RMHL")


def test_recommended_nrl_is_compared_with_bp_as_published_where_that_is_left_alone() -> None:
    bp = Cell("Reaching", "BPTT")
    results = trainings(bp, [263.0] * 5) | trainings(Cell("Reaching", "NRL", 1, "recommended"), [260.0] * 5)
    rows = {row.title: row for row in report.rows(summarize(results.items()))}
    made = rows["Reaching, 1, recommended"]
    assert made.bp is not None and made.bp.cell == bp
    assert made.reaches_bp is True


def test_what_is_not_repaired_is_named() -> None:
    finals = {
        Cell("CartPole", "NRL", 3): [500.0] * 4 + [11.0],
        Cell("CartPole", "BPTT", 3): [500.0] * 5,
        Cell("CartPole", "NRL", 2): [470.0] * 5,  # 94 %
        Cell("CartPole", "BPTT", 2): [500.0] * 5,
        Cell("CartPole", "NRL", 1): [476.0] * 5,  # 95.2 %
        Cell("CartPole", "BPTT", 1): [500.0] * 5,
        Cell("Acrobot", "NRL", 1): [-500.0] * 5,  # something is recommended, and repairs it
        Cell("Acrobot", "BPTT", 1): [-80.0] * 5,
        Cell("Acrobot", "NRL", 1, "recommended"): [-90.0] * 5,
        Cell("Acrobot", "NRL", 1, "recommended", "2 passes"): [-500.0] * 5,  # which is not what is recommended
        Cell("Acrobot", "NRL", 2): [-500.0] * 5,  # something is recommended, and does not
        Cell("Acrobot", "BPTT", 2): [-80.0] * 5,
        Cell("Acrobot", "NRL", 2, "recommended"): [-90.0] * 4 + [-500.0],
    }
    results: dict[Run, Result] = {}
    for cell, of_seeds in finals.items():
        results |= trainings(cell, of_seeds)
    told = list(report.unrepaired(summarize(results.items())))
    assert [line.partition(":")[0] for line in told] == ["Acrobot, 2, recommended", "CartPole, 2", "CartPole, 3"]
    assert all("nothing is recommended that repairs it" in line for line in told)


def test_seeds_that_were_lost_for_a_while_are_told() -> None:
    fall = [20.0, *[500.0] * 198, 11.0, *[500.0] * 200]
    dip = [20.0, *[500.0] * 198, 251.0, *[500.0] * 200]
    lost = [20.0, *[500.0] * 198, *[11.0] * 201]
    late = [*[11.0] * 300, *[500.0] * 100]
    nrl = dict(training(Cell("CartPole", "NRL", 3), seed, curve) for seed, curve in enumerate([fall, dip, lost, late]))
    bp = dict([training(Cell("CartPole", "BPTT"), 7, dip), training(Cell("CartPole", "RMHL"), 0, fall)])
    summaries = summarize((nrl | bp).items())
    told = "CartPole, 3: NRL had passed 475, fell to 11 at episode 10,000 (seed 0), and came back."
    assert list(report.relapses(summaries)) == [told]
    assert told in report.describe(summaries, nrl | bp)
    whole = Training(Cell("CartPole", "NRL", 3), 0, 20_000)
    columns = {"episode": np.arange(1, 20_001), "return": np.repeat(fall, 50), "length": np.full(20_000, 9)}
    assert list(report.relapses(summarize([(whole, Result(columns, 1.0, ""))]))) == [told]


def test_change_of_the_noise_is_compared_with_bp_as_it_is() -> None:
    bp = Cell("Acrobot", "BPTT", setting="recommended")
    results = trainings(bp, [-80.0]) | trainings(Cell("Acrobot", "NRL", 1, "recommended", "poisson"), [-90.0])
    rows = {row.title: row for row in report.rows(summarize(results.items()))}
    made = rows["Acrobot, 1, recommended, poisson"].bp
    assert made is not None and made.cell == bp


def test_changes_stand_in_the_order_of_their_size() -> None:
    results: dict[Run, Result] = {}
    for change in ("10 passes", "2 passes", ""):
        results |= trainings(Cell("Acrobot", "NRL", change=change), [-90.0])
    titles = [row.title for row in report.rows(summarize(results.items()))]
    assert titles == ["Acrobot, 1", "Acrobot, 1, 2 passes", "Acrobot, 1, 10 passes"]


def test_differences_from_the_reference_are_told(benchmarks: Summaries) -> None:
    told = {cell: report.agrees(made) for cell, made in benchmarks.items()}
    assert told == dict.fromkeys(BENCHMARKS, True)
    (off,) = summarize(trainings(Cell("CartPole", "NRL"), [472.0]).items()).values()
    assert report.agrees(off) is False  # 26 from 498, and 25 are 5 % of 500
    (unknown,) = summarize(trainings(Cell("Acrobot", "NRL", change="2 passes"), [-90.0]).items()).values()
    assert report.agrees(unknown) is None and report.agrees_in_speed(unknown) is None


@pytest.mark.parametrize(
    ("episode", "agrees"),
    [(5_950, False), (6_000, True), (9_000, True), (13_500, True), (13_550, False), (20_000, False)],
)
def test_speed_is_compared_with_the_reference(episode: int, agrees: bool) -> None:
    returns = np.repeat([10.0, 500.0], [episode // 50 - 1, 401 - episode // 50])
    (made,) = summarize(dict([training(Cell("CartPole", "NRL"), 0, list(returns))]).items()).values()
    assert made.speed == (episode if episode < 20_000 else 20_000)
    assert report.agrees_in_speed(made) is agrees
    (line,) = csv.DictReader(io.StringIO(report.table({made.cell: made})))
    assert (line["goal"], line["episodes_to_goal"], line["reference_episodes"]) == ("475", str(episode), "9000")
    assert line["episodes_agree"] == ("yes" if agrees else "no")
    page = report.markdown({made.cell: made}, results_of(made.cell))
    assert f"| {episode:,}; –; – | {'9,000' if agrees else '**9,000**'}; –; – |" in page


def test_lost_seeds_are_told_with_what_became_of_them() -> None:
    cell = Cell("CartPole", "NRL", 3)
    rise_and_fall = [*np.linspace(20, 480, 200), *np.linspace(480, 11, 200)]
    curves: list[Sequence[float]] = [[9.0], rise_and_fall, [20.0, 60.0], [499.0], [9.0]]
    results = dict(training(cell, seed, returns) for seed, returns in enumerate(curves))
    told = list(report.failures(summarize(results.items())))
    assert told == [
        "CartPole, 3: NRL did not learn from seeds 0, 4: every return was 9, so that there was nothing to learn from.",
        "CartPole, 3: NRL did not learn from seed 1: it reached 480 at episode 10000, and fell to 11.",
        "CartPole, 3: NRL did not learn from seed 2: it never came above 60.",
    ]


def test_table_has_a_line_for_each_cell(benchmarks: Summaries) -> None:
    lines = list(csv.DictReader(io.StringIO(report.table(benchmarks))))
    assert len(lines) == len(BENCHMARKS)
    first = lines[0]
    assert (first["task"], first["hidden_layers"], first["setting"], first["algorithm"]) == (
        "Acrobot",
        "1",
        "paper",
        "NRL",
    )
    assert (first["mean"], first["learned"], first["seeds"]) == ("-254.00", "3", "5")
    assert first["finals"] == "-90.00 -85.00 -500.00 -95.00 -500.00"
    assert (first["reference"], first["reference_learned"], first["agrees"]) == ("-253", "3/5", "yes")
    assert first["made_with"] == "some versions"


def test_table_for_the_readme(benchmarks: Summaries) -> None:
    results = dict([training(Cell("Acrobot", "NRL", 2), 0, -300.0)])
    page = report.markdown({**benchmarks, **summarize(results.items())}, results)
    lines = page.splitlines()
    width = lines[0].count("|")
    table = [line for line in lines if line.startswith("| ")]
    assert len(table) == 1 + 4 and all(line.count("|") == width for line in table)
    (acrobot,) = (line for line in table if line.startswith("| Acrobot, 1 |"))
    assert "| −254 (3/5)<br>" in acrobot
    assert "| −253 (3/5); −170 (4/5); −487 |" in acrobot
    assert acrobot.endswith("| 50; 50; – | – |")  # the median passed −100 with the first row, and RMHL never did
    assert "cannot be compared with BP, which learned from 4/5, does not beat RMHL" in acrobot
    (recommended,) = (line for line in table if line.startswith("| Acrobot, 1, recommended |"))
    assert "reaches BP (99%)" in recommended
    assert recommended.endswith("| −88 (8/8); −83 (8/8); – | 50; 50; – | – |")  # each in its place
    assert "**−88 (5/5)**" in page  # NRL with two hidden layers, which ended at -300 here
    assert "- Acrobot, 1: BP did not learn from seed 1: every return was -500" in page
    assert "- Recommended for Acrobot, 1:" in page and "Recommended for Reaching" not in page
    assert "- All runs were made with some versions." in page


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("sb3_nrl 8", "sb3_nrl 9 at abc", "2 with sb3_nrl 8; 1 with sb3_nrl 9 at abc."),
        ("a 8, b 1, c 5", "a 9, b 2, c 5", "2 with a 8, b 1; 1 with a 9, b 2; all with c 5."),
    ],
)
def test_different_versions_are_told(before: str, after: str, told: str) -> None:
    results = trainings(Cell("CartPole", "NRL"), [500.0] * 3)
    versions = dict(zip(results, (before, before, after), strict=True))
    results = {run: result._replace(made_with=versions[run]) for run, result in results.items()}
    summaries = summarize(results.items())
    line = f"Runs were made with different versions: {told}"
    assert line in report.describe(summaries, results)
    assert f"- {line}" in report.markdown(summaries, results).splitlines()


# The paper's other claims


def told(summaries: Summaries, results: dict[Run, Result], start: str) -> str:
    """The one finding that begins so."""
    (line,) = (line for line in findings(summaries, results) if line.startswith(start))
    assert line in report.describe(summaries, results)
    assert f"- {line}" in report.markdown(summaries, results).splitlines()
    return line


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(("last", "verdict"), [(60, "agrees"), (30, "differs"), (400, "cannot be compared")])
def test_depth_is_said_to_be_slow(last: int, verdict: str) -> None:
    results: dict[Run, Result] = {}
    for algorithm, rows in (("NRL", (20, 40, last)), ("BPTT", (5, 6, 7))):
        for n_hidden, n_rows in zip((1, 2, 3), rows, strict=True):
            curve = [*[10.0] * n_rows, *[500.0] * (400 - n_rows)]
            results |= dict(training(Cell("CartPole", algorithm, n_hidden), seed, curve) for seed in SEEDS)
    line = told(summarize(results.items()), results, "The paper: NRL needs more episodes")
    third = "–" if last == 400 else f"{50 * (last + 1):,}"
    ours = f"in CartPole, as published, until 475 with one, two and three: NRL 1,050, 2,050, {third}; BP 300, 350, 400"
    assert f"{ours}: {verdict}" in line
    results.popitem()
    assert "BP" not in told(summarize(results.items()), results, "The paper: NRL needs more episodes")
    del results[Training(Cell("CartPole", "NRL"), 3, 20_000)]
    assert not any("more episodes" in line for line in findings(summarize(results.items()), results))


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(
    ("power", "bump", "verdict"), [(-0.5, 1, "agrees"), (-1.0, 1, "agrees"), (-0.5, 3, "differs"), (0.1, 1, "differs")]
)
def test_more_passes_are_said_to_come_closer(power: float, bump: float, verdict: str) -> None:
    errors = 3 * np.array(N_PASSES, float) ** power
    errors[[0, 3]] *= bump
    columns = {"passes": np.array(N_PASSES), "error": errors}
    results: dict[Run, Result] = {CleanPassError(seed): Result(columns, 1.0, "") for seed in range(2)}
    line = told({}, results, "The paper, Figure 4A")
    assert (bump > 1 or f"N to the {power:.2f}" in line) and line.endswith(f": {verdict}.")


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(
    ("early", "mean", "n_faster", "verdict"),
    [
        ([-200.0] * 5, -200, 5, "agrees"),
        ([-400.0] * 5, -400, 0, "differs"),
        ([-50.0, -50.0, -310.0, -310.0, -310.0], -206, 2, "differs"),
    ],
)
@pytest.mark.parametrize("lost", [0, 2, 3])
def test_ten_passes_are_said_to_be_faster_at_first(
    early: list[float], mean: float, n_faster: int, verdict: str, lost: int
) -> None:
    results: dict[Run, Result] = {}
    for passes, firsts, rest in (("2 passes", [-300.0] * 5, -90.0), ("10 passes", early, -300.0)):
        for seed, first in enumerate(firsts):
            last = -500.0 if seed < lost else rest
            curve = [*[first] * 40, *[last] * 120]  # rows of 50 episodes, and the first 2,000 are meant
            results |= dict([training(Cell("Acrobot", "NRL", change=passes), seed, curve)])
    line = told(summarize(results.items()), results, "The paper, Figure 4B")
    if lost == 3:
        verdict = "cannot be compared, where half of the seeds never got there"
    assert f"is {mean} with 10, -300 with 2, and higher with 10 from {n_faster} of 5 seeds: {verdict}." in line
    results.popitem()
    assert not any("4B" in line for line in findings(summarize(results.items()), results))


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(("least", "verdict"), [(0.02, "agrees"), (-0.02, "differs")])
def test_cosines_are_said_to_be_positive(least: float, verdict: str) -> None:
    results: dict[Run, Result] = {}
    for seed, off in enumerate((-0.1, 0.1)):  # what a single seed gives may be below 0
        for change in ("", "poisson"):
            run = Alignment(2, change, seed)
            cosines = np.full(len(run.cases), 0.5 + off)
            if change == "poisson":
                cosines[1] = least + off
            results[run] = Result({"cosine": cosines}, 1.0, "")
    line = told({}, results, "The paper, Appendix C")
    assert f"is {least:.3f} (poisson noise of 0.001, hidden layers: 2, noise samples: 10)" in line
    assert line.endswith(f": {verdict}.")
    assert "Acrobot as recommended" in told({}, results, "Cosines are of CartPole as published")


@pytest.mark.usefixtures("few_resamples")
def test_untrained_policies_are_told_of() -> None:
    columns = {
        "head_gain": np.repeat([1.0, 0.01], 4),
        "policy": np.tile(np.arange(4), 2),
        "reached": np.array([0, 5, 1, 0, 1, 2, 0, 0]),
        "correlation": np.array([-0.2, 0.3, -0.1, -0.01, -0.03, 0.02, 0.01, 0.0]),
    }
    results: dict[Run, Result] = {UntrainedPolicies(2, 4, 7): Result(columns, 1.0, "")}
    line = told({}, results, "Acrobot, 2")
    assert "4 untrained policies took 7 episodes each. As published, the torque of 3 goes against" in line
    assert "the goal in 1 of 21, the others in 5 of 7; those with a small head in 3 of 28." in line
    results |= trainings(Cell("Acrobot", "NRL", 2), [-90.0, -500.0, -85.0])
    line = told(summarize(results.items()), results, "Acrobot, 2: the untrained policies of seeds 0, 1, 2 ")
    assert "in 0, 5, 1 episodes as published (correlations: -0.20, 0.30, -0.10; NRL then learned from " in line
    assert "learned from seeds 0, 2), in 1, 2, 0 with a small" in line


@pytest.mark.usefixtures("few_resamples")
def test_why_reaching_needs_both_halves_is_told() -> None:
    def nrl(setting: str = "paper", change: str = "") -> Cell:
        return Cell("Reaching", "NRL", 1, setting, change)

    results = trainings(Cell("Reaching", "BPTT"), [270.0] * 5)  # 300 above the worst one
    for cell, final in ((nrl(), 240.0), (nrl(change="unbiased"), 180.0), (nrl(change="8 pairs"), 246.0)):
        results |= trainings(cell, [final] * 5)
    assert not any("BP's step" in line for line in findings(summarize(results.items()), results))
    results |= trainings(nrl("recommended"), [273.0] * 5)
    line = told(summarize(results.items()), results, "Reaching: ")
    for part in ("ends at 90% of BP", "alone it ends at 70%", "pairs of samples alone at 92%", "with both at 101%"):
        assert part in line
    title = "| Reaching, 1, unbiased |"
    assert title in report.markdown(summarize(results.items()), results)


@pytest.mark.usefixtures("few_resamples")
def test_what_differs_in_reaching_is_said() -> None:
    results = trainings(Cell("Reaching", "NRL"), [250.0])
    assert "three actions" in told(summarize(results.items()), results, "Reaching rewards the target that is shown")
    results = trainings(Cell("CartPole", "NRL"), [500.0])
    assert not any("Reaching" in line for line in findings(summarize(results.items()), results))


# The measurements


def test_mean_of_noisy_passes_comes_closer_by_the_root_of_their_number() -> None:
    columns = CleanPassError(0, n_steps=100).do().columns
    assert tuple(columns["passes"]) == N_PASSES
    scaled = columns["error"] * np.sqrt(columns["passes"])
    assert scaled == pytest.approx(np.full(len(scaled), scaled[0]), rel=0.25)
    # Probabilities near 1 / 3 move by about a third of what the outputs' noise and the hidden layer's does.
    assert 1e-4 < scaled[0] < 1e-3


def test_clean_passes_are_compared_where_a_policy_takes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    plainly_predict = NRL.predict
    drawn, likeliest = [], []

    def predict(model: NRL, obs: Any, *arguments: Any, **options: Any) -> Any:
        chosen = plainly_predict(model, obs, *arguments, **options)
        drawn.append(chosen[0][0])
        likeliest.append(plainly_predict(model, obs, deterministic=True)[0][0])
        return chosen

    monkeypatch.setattr(NRL, "predict", predict)
    CleanPassError(0, n_steps=40).do()
    assert len(drawn) == 39
    assert drawn != likeliest


def test_updates_come_closer_to_the_gradient_with_more_samples() -> None:
    columns = Alignment(1, "rademacher", 0, quick=True).do().columns
    few, some, many = columns["cosine"][columns["std"] == 1e-3]
    assert 0 < few < some < many < 1
    assert many > 0.5


def test_cosines_are_all_of_the_untrained_network(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[Any, int]] = []
    plainly_learn = runs.learn

    def learn(model: Any, *arguments: Any) -> None:
        plainly_learn(model, *arguments)
        (returns,) = model.get_env().env_method("get_episode_rewards")
        trained.append((model, len(returns)))

    monkeypatch.setattr("sb3_nrl.reproduce.measurements.learn", learn)
    run = Alignment(2, "uniform", 3, quick=True)
    columns = run.do().columns
    begin = make_model(Cell("CartPole", "NRL", 2).settings(3, 1))[0]
    assert len(trained) == len(run.cases) == len(columns["cosine"])
    for (model, n_episodes), (std, n_samples) in zip(trained, run.cases, strict=True):
        assert (model.noise_distribution, model.noise_std, model.n_noise_samples) == ("uniform", std, n_samples)
        assert n_episodes == run.settings["n_episodes"]
        for one, other in zip(model.policy.parameters(), begin.policy.parameters(), strict=True):
            assert one.equal(other)
    assert Alignment(1, "", 0).settings["n_episodes"] >= 30


def test_torque_against_the_swing_hardly_ever_reaches_the_goal() -> None:
    columns = UntrainedPolicies(1, n_policies=7, n_episodes=2).do().columns
    assert columns["head_gain"].tolist() == [1.0] * 7 + [0.01] * 7
    assert columns["policy"].tolist() == [*range(7), *range(7)]
    reached, correlation = columns["reached"], columns["correlation"]
    assert reached[6] == 2 and correlation[6] > 0.15
    assert (reached[:5] == 0).all() and (correlation[:5] < -0.02).all()
    assert (abs(correlation[7:]) < 0.1).all()


# The command


@pytest.mark.usefixtures("few_resamples")
def test_quick_look(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [
        "reproduce",
        "all",
        "--quick",
        "--tasks",
        "cartpole",
        "--algos",
        "bp",
        "--seeds",
        "1",
        "--workers",
        "1",
    ]
    main(command)
    folder = tmp_path / "runs" / "reproduce" / "quick"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    trained = [f"CartPole/BPTT_{n}-hidden_paper_seed-1.csv" for n in (1, 2, 3)]
    covers = "_CartPole_BPTT_seeds-1"
    made = [
        f"{name}{covers}.{kind}" for name, kind in (("fig1", "png"), ("fig3", "png"), ("table", "csv"), ("table", "md"))
    ]
    assert names == sorted([*trained, *made])
    for name in made[:2]:
        assert (folder / name).read_bytes()[:4] == PNG
    said = capsys.readouterr().out
    assert "too short to be compared" in said
    assert "CartPole/BPTT_2-hidden_paper_seed-1: a return of " in said

    monkeypatch.setattr(Training, "measure", lambda run: pytest.fail(f"{run} was repeated"))
    main(command)
    main(["reproduce", "fig3", "--quick", "--draw-only", "--seeds", "1", "3"])
    assert "from 2 of 12 runs" in capsys.readouterr().out


@pytest.mark.usefixtures("few_resamples")
def test_failed_run_leaves_the_others_and_a_bad_status(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(run: Training) -> Columns:
        if run.seed == 1:
            raise FloatingPointError("it diverged")
        return training(run.cell, run.seed, 20.0, run.n_episodes)[1].columns

    monkeypatch.setattr(Training, "measure", measure)
    command = ["reproduce", "fig1", "--tasks", "CartPole", "--algos", "NRL", "--out", str(tmp_path), "--workers", "1"]
    with pytest.raises(SystemExit, match="1"):
        main(command)
    said = capsys.readouterr().out
    where = tmp_path / "CartPole" / "NRL_1-hidden_paper_seed-1.traceback"
    assert f"CartPole/NRL_1-hidden_paper_seed-1 failed: FloatingPointError: it diverged (see {where})" in said
    assert 'raise FloatingPointError("it diverged")' in where.read_text()
    caveat = "What follows is from 4 of 5 runs."
    assert caveat in said and (tmp_path / "table_fig1_CartPole_NRL.md").read_text().startswith(f"{caveat}\n\n| task,")
    assert "0/4 seeds learned; the reference, 498 (5/5), differs" in said
    assert len(list(tmp_path.glob("CartPole/*.csv"))) == 4


def test_stopping_says_how_to_go_on(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(run: Training) -> Columns:
        if run.seed == 2:
            raise KeyboardInterrupt
        return training(run.cell, run.seed, 20.0, run.n_episodes)[1].columns

    monkeypatch.setattr(Training, "measure", measure)
    with pytest.raises(SystemExit, match="130"):
        main(["reproduce", "fig1", "--tasks", "CartPole", "--algos", "NRL", "--out", str(tmp_path), "--workers", "1"])
    assert "Stopped: 2 of 5 runs are done, the same command goes on with the others." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "FIGURE"),
        ("fig5", "invalid choice: 'fig5'"),
        ("fig1 --seeds one", "invalid int value: 'one'"),
        ("fig1 --seeds 0 -1", "from 0 to 4294967295"),
        ("fig1 --seeds 4294967296", "from 0 to 4294967295"),
        ("fig1 --seeds 2 2", "different"),
        ("fig1 --tasks Pendulum", "invalid choice: 'Pendulum'"),
        ("fig1 --algos PPO", "invalid choice: 'PPO'"),
        ("fig1 --workers 0", "--workers has to be at least 1"),
        ("fig1 --workers 2 --ray-address auto", "--workers is for this machine"),
        ("fig1 --draw-only --ray-address auto", "--draw-only trains nothing"),
        ("fig1 --draw-only --workers 2", "--draw-only trains nothing"),
        ("fig1 --tasks CartPole --ray-address 127.0.0.1:1", "There is no Ray cluster at 127.0.0.1:1"),
        ("fig1 --episodes 7", "--episodes"),
        ("fig2 --tasks CartPole", "fig2 has none of these tasks and algorithms"),
        ("fig4 fig2 --tasks CartPole", "fig4 fig2 has none of these tasks and algorithms"),
        ("fig1 fig6", "invalid choice: 'fig6'"),
        ("fig1 all", "table and all are of all figures, and stand alone"),
        ("fig1 --draw-only", "there is no finished run in"),
        ("table --publish", "--publish is for full results: it goes with figures or all"),
        ("all --publish --quick", "--publish is for full results"),
        ("all --publish --seeds 0", "--publish is for full results"),
        ("all --publish --tasks CartPole CartPole CartPole", "--publish is for full results"),
        ("all --publish --algos NRL NRL NRL", "--publish is for full results"),
        ("all --publish", "in a clone of the repository"),
    ],
)
def test_bad_arguments_get_one_line(
    arguments: str,
    says: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        main(["reproduce", *arguments.split()])
    said = capsys.readouterr()
    if isinstance(error.value.code, str):  # a mistake that is found later, for which Python itself sets the status to 1
        said = said._replace(err=f"{error.value.code}\n")
    else:
        assert error.value.code == 2
    assert said.err.startswith("sb3-nrl reproduce: ") and says in said.err
    assert said.err.count("\n") == 1 and said.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("few_resamples")
def test_narrowed_command_leaves_what_is_made_of_everything(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = plan("fig3", TASKS, ALGORITHMS, SEEDS)
    for run in runs:
        write(*training(run.cell, run.seed, 400.0), tmp_path)  # type: ignore[attr-defined]

    def made_by(*narrowed: str) -> set[str]:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.*")}
        main(["reproduce", "fig3", "--draw-only", "--out", str(tmp_path), *narrowed])
        return {path.name for path in tmp_path.glob("*.*") if before.get(path) != path.stat().st_mtime_ns}

    def files(narrowed: str = "") -> set[str]:
        return {f"fig3{narrowed}.png", f"table_fig3{narrowed}.csv", f"table_fig3{narrowed}.md"}

    assert made_by() == files()
    assert made_by("--seeds", "4", "3", "2", "1", "0", "--tasks", *TASKS) == files()
    assert made_by("--seeds", "1", "0") == files("_seeds-0-1")
    assert made_by("--seeds", *map(str, range(9))) == files("_seeds-0-to-8")
    assert made_by("--algos", "BPTT", "NRL") == files("_NRL-BPTT")
    assert made_by("--tasks", "CartPole", "--seeds", "2") == files("_CartPole_seeds-2")
    assert "from 30 of 54 runs" in capsys.readouterr().out


@pytest.mark.usefixtures("few_resamples")
def test_order_of_the_table_is_not_that_of_the_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_nrl.reproduce.command.FIGURES", ("fig3",))
    monkeypatch.setattr(Training, "measure", lambda run: training(run.cell, run.seed, 20.0)[1].columns)
    first, *others = CELLS["fig3"]
    for cell in others:
        for run, result in trainings(cell, [20.0] * 5).items():
            write(run, result, tmp_path)
    main(["reproduce", "table", "--out", str(tmp_path), "--workers", "1"])
    lines = csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text()))
    cells = [(line["hidden_layers"], line["algorithm"]) for line in lines]
    assert cells == [(str(cell.n_hidden), LABELS[cell.algorithm]) for cell in (first, *others)]


def test_several_figures_share_a_table(tmp_path: pathlib.Path, few_resamples: None) -> None:
    for n_hidden in (1, 2):
        write(*training(Cell("CartPole", "NRL", n_hidden), 0, 20.0, 20_000), tmp_path)
    main(["reproduce", "fig3", "fig1", "--draw-only", "--algos", "NRL", "--out", str(tmp_path)])
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"fig1_NRL.png", "fig3_NRL.png", "table_fig1_fig3_NRL.csv", "table_fig1_fig3_NRL.md"}
    page = (tmp_path / "table_fig1_fig3_NRL.md").read_text()
    assert "| CartPole, 1 |" in page and "| CartPole, 2 |" in page


def test_home_is_found_in_a_folder_that_the_shell_leaves_alone(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["reproduce", "fig1", "--draw-only", "--out=~/results"])
    assert capsys.readouterr().err.endswith(f"there is no finished run in {tmp_path / 'results'}\n")


def test_mistake_keeps_its_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_nrl.reproduce.command.find", operator.neg)  # which takes no three arguments
    with pytest.raises(SystemExit, match=r"sb3-nrl reproduce: .* one argument"):
        main(["reproduce", "fig1"])
    with pytest.raises(TypeError, match="one argument"):
        main(["reproduce", "fig1", "--verbose", "2"])


@pytest.fixture
def a_figure_of_full_results(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, few_resamples: None) -> list[Run]:
    """A clone in which Figure 2, without measurements, stands for all figures, with all its results in ``full``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sb3_nrl.reproduce.command.FIGURES", ("fig2",))
    pathlib.Path("README.md").write_text(f"before\n{MARKERS[0]}to be replaced\n{MARKERS[1]}\nafter\n")
    runs = plan("fig2", TASKS, ALGORITHMS, SEEDS)
    for run in runs:
        if isinstance(run, Training):
            columns = {"episode": np.arange(1, 8_001), "return": RISING, "length": -RISING}
        else:
            columns = {name: np.array([1.0, 0.01]) for name in ("head_gain", "policy", "reached", "correlation")}
        write(run, Result(columns, 1.0, f"sb3_nrl at {run.seed}"), pathlib.Path("full"))
    return runs


RISING = np.linspace(-500, -90, 8_000)


@pytest.mark.parametrize("target", ["all", "fig2"])
def test_publishing_fills_the_readme_and_the_folders_of_the_repository(
    target: str, a_figure_of_full_results: list[Run]
) -> None:
    pathlib.Path("results/reproduction").mkdir(parents=True)
    pathlib.Path("results/reproduction/table_fig3.md").write_text("the table of another day")
    main(["reproduce", target, "--out", "full", "--publish"])
    assert pathlib.Path("results/reproduction/fig2.png").read_bytes()[:4] == PNG
    thinned = find(a_figure_of_full_results, pathlib.Path("results/reproduction"), quiet())
    assert len(thinned) == len(a_figure_of_full_results)
    for run, result in thinned.items():
        if isinstance(run, Training):
            assert len(result.columns["return"]) == 160
            assert final_return(result.columns) == pytest.approx(RISING[-50:].mean())
    page = pathlib.Path("README.md").read_text()
    before, _, rest = page.partition(MARKERS[0])
    table, _, after = rest.partition(MARKERS[1])
    assert (before, after) == ("before\n", "\nafter\n")
    assert "(results/reproduction/fig2.png)\n" in table and f"Made by `sb3-nrl reproduce {target} --publish`" in table
    assert "| Acrobot, 3 |" in table and "to be replaced" not in table
    assert "different versions" in table and "with sb3_nrl at 4" in table
    places = {path: path.read_bytes() for path in pathlib.Path("results/reproduction").glob("*.*")}
    assert sorted(place.name for place in places) == ["fig2.png", "table.csv", "table.md"]
    assert pathlib.Path("results/reproduction/table.csv").read_text().count("\n") == 1 + len(CELLS["fig2"])

    for place in places:
        place.unlink()
    main(["reproduce", target, "--out", "results/reproduction"])
    assert {place: place.read_bytes() for place in places} == places
    main(["reproduce", target, "--out", "results/reproduction", "--publish"])
    assert pathlib.Path("README.md").read_text() == page


@pytest.mark.parametrize("more", [("--workers", "1"), ("--draw-only",)], ids=" ".join)
def test_nothing_is_published_before_everything_is_there(
    more: tuple[str, ...],
    a_figure_of_full_results: list[Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure(run: Training) -> Columns:
        raise FloatingPointError("it diverged")

    monkeypatch.setattr(Training, "measure", measure)
    path_of(a_figure_of_full_results[7], pathlib.Path("full")).unlink()
    n_runs = len(a_figure_of_full_results)
    with pytest.raises(SystemExit) as error:
        main(["reproduce", "all", "--out", "full", "--publish", *more])
    assert error.value.code == (
        f"sb3-nrl reproduce: nothing is published before all runs are there, {n_runs - 1} of {n_runs} are"
    )  # a text is status 1
    assert not pathlib.Path("results").exists()
    assert "to be replaced" in pathlib.Path("README.md").read_text()


def test_readme_has_the_published_table() -> None:
    root = pathlib.Path(__file__).parents[1]
    readme = (root / "README.md").read_text()
    assert all(readme.count(marker) == 1 for marker in MARKERS)
    (table,) = (root / "results" / "reproduction").glob("table*.md")
    assert f"{table.read_text()}{MARKERS[1]}" in readme
