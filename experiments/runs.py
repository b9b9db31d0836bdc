"""
Runs and their files of results.

A run is one unit of work, such as one training from one seed. Every finished run has a CSV file of its own, with its
settings, versions and commit. ``execution.py`` executes the runs that are missing.
"""

import csv
import functools
import hashlib
import io
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import numpy as np
import stable_baselines3
import torch as th

import sb3_nrl
from sb3_nrl.saving import write_atomically

ROOT = pathlib.Path(__file__).parents[1]

Columns = dict[str, np.ndarray]
"""The results of a run by name: columns of equal length, and single numbers (arrays without a dimension)."""


class Result(NamedTuple):
    """The result of a run."""

    columns: Columns
    seconds: float  # duration of the run
    made_with: str  # versions, commit and machine


@dataclass(frozen=True)
class Run:
    """One unit of work. Its name is unique, and its settings determine its result."""

    name: str  # name of its file, without the suffix
    measure: Callable[[dict[str, Any]], Columns] = field(compare=False)  # function of the settings that does the work
    settings: dict[str, Any] = field(compare=False)  # the file has the repr of values that JSON does not support
    seed: int = field(default=0, compare=False)  # runs of the first seed come first
    expected_seconds: float = field(default=60.0, compare=False)  # roughly, relative to the other runs of a command
    of: Any = field(default=None, compare=False)  # the row, cell or curve that the run belongs to, for reports


Results = dict[Run, Result]


def by_case(results: Results) -> dict[Any, list[Columns]]:
    """The columns of all runs of the same row, cell or curve, in the order of their seeds."""
    found: dict[Any, list[Columns]] = {}
    for run, result in sorted(results.items(), key=lambda item: item[0].seed):
        found.setdefault(run.of, []).append(result.columns)
    return found


class Unusable(Exception):
    """A file exists, but it does not have the result of the run with its name."""


@dataclass(frozen=True)
class Store:
    """A folder of results with one CSV file per run. A file has a digest, a line of JSON about the run, and a table."""

    folder: pathlib.Path

    def path(self, run: Run) -> pathlib.Path:
        """The file of a run."""
        return self.folder / f"{run.name}.csv"

    def write(self, run: Run, result: Result) -> None:
        """Write the file of a run atomically."""

        def none_if_nan(value: Any) -> float | None:
            return float(value) if np.isfinite(value) else None

        table = {name: value for name, value in result.columns.items() if np.ndim(value)}
        rows = [[f"{value:.10g}" for value in row] for row in zip(*table.values(), strict=True)]
        about = {
            "settings": run.settings,
            "made_with": result.made_with,
            "seconds": none_if_nan(round(result.seconds, 3)),
            "numbers": {name: none_if_nan(value) for name, value in result.columns.items() if name not in table},
        }
        text = f"# {json.dumps(about, default=repr)}\n{csv_text([list(table), *rows])}"
        write_whole(self.path(run), f"# sha256 {_digest(text)}\n{text}")

    def read(self, run: Run) -> Result | None:
        """The result of a run; None if there is no file. Raises Unusable if it is corrupt or has other settings."""
        try:
            content = self.path(run).read_text(errors="replace")
        except FileNotFoundError:
            return None
        digest, _, text = content.partition("\n")
        if digest != f"# sha256 {_digest(text)}":
            raise Unusable("is corrupt")
        header, _, table = text.partition("\n")
        try:
            about = json.loads(header.removeprefix("# "))
            found, seconds, made_with = _flat(about["settings"]), about["seconds"], about["made_with"]
            names, *rows = csv.reader(io.StringIO(table))
            columns = dict(zip(names, np.array(rows, dtype=float).reshape(len(rows), len(names)).T, strict=True))
            columns |= {name: np.array(value, dtype=float) for name, value in about.get("numbers", {}).items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Unusable("is not a file of results") from error
        wanted = _flat(json.loads(json.dumps(run.settings, default=repr)))
        differing = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
        if differing:
            told = ", ".join(f"{name} {found.get(name)} instead of {wanted.get(name)}" for name in differing)
            raise Unusable(f"was made with other settings ({told})")
        return Result(columns, np.nan if seconds is None else seconds, made_with)

    def read_all(self, runs: Sequence[Run]) -> Results:
        """Read the results of those runs that are finished. Unusable files are reported, and count as missing."""
        results = {}
        for run in runs:
            try:
                result = self.read(run)
            except Unusable as reason:
                print(f"{self.path(run)} {reason}: it counts as missing", flush=True)
            else:
                if result is not None:
                    results[run] = result
        return results


def csv_text(rows: Sequence[Sequence[object]]) -> str:
    """Write a table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Write a file atomically: if the writer is interrupted, the old content remains."""
    write_atomically(path, lambda file: file.write(content.encode() if isinstance(content, str) else content))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings without nesting."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


@functools.cache
def source() -> str:
    """The version and the commit of this package."""
    version = f"sb3_nrl {sb3_nrl.__version__}"
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit and _git("ls-files", "sb3_nrl/__init__.py"):  # else the clone lies in another repository
        changed = _git("status", "--porcelain", "sb3_nrl", "zoo_configs", "experiments")
        version += f" at {commit}{' with changes' if changed else ''}"
    return version


def libraries() -> str:
    """Versions of the libraries, and the machine."""
    return (
        f"stable-baselines3 {stable_baselines3.__version__}, gymnasium {gymnasium.__version__}, "
        f"torch {th.__version__}, numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}"
    )


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
