"""One run as a unit of work: what it does, the file that it leaves, and whether a file can be trusted."""

import csv
import functools
import hashlib
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import gymnasium
import numpy as np
import stable_baselines3
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.monitor import Monitor

import sb3_nrl
from sb3_nrl.reproduce.protocol import N_LAST, TASKS, Cell
from sb3_nrl.reward_modulated import RewardModulatedAlgorithm

Columns = dict[str, np.ndarray]
"""What a run measured: columns of equal length, by their names."""


class Result(NamedTuple):
    """
    What a run leaves.

    :param columns: What it measured
    :param seconds: How long it took
    :param made_with: Versions, commit and machine
    """

    columns: Columns
    seconds: float
    made_with: str


Results: TypeAlias = "dict[Run, Result]"
"""What runs left, those that are finished."""


class Unusable(Exception):
    """A file that is there, but does not hold the result of the run that it is named after."""


class Run(ABC):
    """A unit of work: done once, by any process, and kept in a file of its own."""

    seed: int

    @property
    @abstractmethod
    def name(self) -> str:
        """A name that no other run has, and that its file is named after."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result; in the file, what JSON does not know is there by its ``repr``."""

    @property
    @abstractmethod
    def expected_seconds(self) -> float:
        """Roughly how long it takes."""

    @abstractmethod
    def measure(self) -> Columns:
        """Do the work."""

    def summary(self, columns: Columns) -> str:
        """What came out, in a few words."""
        return "measured"

    def do(self) -> Result:
        """Do the work on a single thread, and note what it was done with."""
        th.set_num_threads(1)
        versions, start = made_with(), time.perf_counter()
        columns = self.measure()
        return Result(columns, time.perf_counter() - start, versions)


@dataclass(frozen=True)
class Training(Run):
    """
    One training of a cell; its columns are ``episode``, ``return`` and ``length``.

    A training that diverges is a result, too: the episodes that it never played have the task's worst return and no
    steps.

    :param cell: What is trained
    :param seed: Seed of all random numbers
    :param n_episodes: Number of episodes
    """

    cell: Cell
    seed: int
    n_episodes: int

    @property
    def name(self) -> str:
        return f"{self.cell.name}_seed-{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        return self.cell.settings(self.seed, self.n_episodes)

    @property
    def expected_seconds(self) -> float:
        task = TASKS[self.cell.task]
        if self.n_episodes == task.n_quick:
            return 2.0
        minutes = task.minutes[self.cell.algorithm] * self.n_episodes / task.n_episodes
        return 60 * minutes * (1.6 if "passes" in self.cell.change else 1)

    def measure(self) -> Columns:
        task = TASKS[self.cell.task]
        model, env = make_model(self.settings)
        diverged = False
        try:
            learn(model, self.n_episodes, task.n_steps)
        except FloatingPointError:
            diverged = True
        returns, lengths = env.get_episode_rewards(), env.get_episode_lengths()
        n_missing = self.n_episodes - len(returns)
        if n_missing and not diverged:
            raise RuntimeError(f"The training ended after {len(returns)} of {self.n_episodes} episodes")
        return {
            "episode": np.arange(1, self.n_episodes + 1),
            "return": np.array(returns + [task.worst] * n_missing),
            "length": np.array(lengths + [0] * n_missing),
        }

    def summary(self, columns: Columns) -> str:
        return f"a return of {final_return(columns):.1f} at last"


def make_model(settings: dict[str, Any]) -> tuple[RewardModulatedAlgorithm, Monitor]:
    """The untrained model that settings describe, and its environment."""
    env = Monitor(gymnasium.make(settings["env"], **settings["env_kwargs"]))
    return getattr(sb3_nrl, settings["algorithm"])("MlpPolicy", env, device="cpu", **settings["arguments"]), env


def learn(model: RewardModulatedAlgorithm, n_episodes: int, n_steps: int, *callbacks: BaseCallback) -> None:
    """
    Train a model of :func:`make_model`.

    :param model: The model
    :param n_episodes: Number of episodes
    :param n_steps: Most steps of an episode
    :param callbacks: More to call
    """
    end = StopTrainingOnMaxEpisodes(n_episodes)
    model.learn(n_episodes * n_steps, [end, *callbacks], log_interval=sys.maxsize)


def blocks(columns: Columns, n_episodes: int) -> Columns:
    """
    Make rows of more episodes.

    :param columns: Of a training; each row is the mean over the episodes since the row before
    :param n_episodes: Episodes of a row, a multiple of what they are
    :return: The same columns with fewer rows
    """
    size = n_episodes // int(columns["episode"][0])
    rows = {name: values[: len(values) // size * size].reshape(-1, size) for name, values in columns.items()}
    return {name: values[:, -1] if name == "episode" else values.mean(1) for name, values in rows.items()}


def block_size(n_episodes: int) -> int:
    """Episodes to a point of a figure, or to a row of a thinned file: a divisor of the episodes of the final mean."""
    divisors = (n for n in range(N_LAST, 0, -1) if N_LAST % n == 0 and n <= n_episodes / 80)
    return next(divisors, 1)


def thin(run: Run, result: Result) -> Result:
    """What is worth keeping for ever: of a training, a row for every point of a figure."""
    if not isinstance(run, Training):
        return result
    return result._replace(columns=blocks(result.columns, block_size(run.n_episodes)))


def final_return(columns: Columns) -> float:
    """The mean return of the last 50 episodes, or of all if there are fewer."""
    n_rows = N_LAST // int(columns["episode"][0])
    return float(columns["return"][-n_rows:].mean())


# Files


def path_of(run: Run, folder: pathlib.Path) -> pathlib.Path:
    """Where a run's file is in a folder of results."""
    return folder / f"{run.name}.csv"


def write(run: Run, result: Result, folder: pathlib.Path) -> None:
    """
    Write a run's file, whole or not at all: behind ``#`` a digest of what follows, and a line of JSON about the run;
    then a table.

    :param run: The run
    :param result: Its result
    :param folder: Folder of results
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(result.columns)
    for row in zip(*result.columns.values(), strict=True):
        writer.writerow([f"{value:.10g}" for value in row])
    about = {"settings": run.settings, "made_with": result.made_with, "seconds": round(result.seconds, 3)}
    text = f"# {_to_json(about)}\n{table.getvalue()}"
    write_whole(path_of(run, folder), f"# sha256 {_digest(text)}\n{text}".encode())


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Write a file so that nobody ever finds a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(run: Run, folder: pathlib.Path) -> Result | None:
    """
    Read a run's file.

    :param run: The run
    :param folder: Folder of results
    :return: Its result, None if there is no file
    :raises Unusable: If the file is corrupt, or was made with other settings
    """
    try:
        text = path_of(run, folder).read_text(errors="replace")
    except FileNotFoundError:
        return None
    digest, _, text = text.partition("\n")
    if digest != f"# sha256 {_digest(text)}":
        raise Unusable("is corrupt")
    header, _, table = text.partition("\n")
    about = json.loads(header.removeprefix("# "))
    wanted = json.loads(_to_json(run.settings))
    if about["settings"] != wanted:
        raise Unusable(f"was made with other settings ({_differences(about['settings'], wanted)})")
    names, *rows = csv.reader(io.StringIO(table))
    columns = dict(zip(names, np.array(rows, dtype=float).T, strict=True))
    return Result(columns, about["seconds"], about["made_with"])


def _to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, default=repr)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _differences(found: Any, wanted: Any, name: str = "") -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys())
        parts = (
            _differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
            for key in keys
            if found.get(key) != wanted.get(key)
        )
        return ", ".join(parts)
    return f"{name} {found} instead of {wanted}"


@functools.cache
def made_with() -> str:
    """Versions, commit and machine, in a line."""
    package = pathlib.Path(sb3_nrl.__file__).parent
    version = f"sb3_nrl {sb3_nrl.__version__}"
    commit = _git(package, "rev-parse", "--short=12", "HEAD")
    if commit and _git(package, "ls-files", "__init__.py"):  # else it is a repository that the package merely lies in
        changes = _git(package, "status", "--porcelain", ".", ":/zoo_configs", ":/benchmarks")
        version += f" at {commit}{' with changes' if changes else ''}"
    return (
        f"{version}, stable-baselines3 {stable_baselines3.__version__}, gymnasium {gymnasium.__version__}, "
        f"torch {th.__version__}, numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}"
    )


def _git(folder: pathlib.Path, *arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
