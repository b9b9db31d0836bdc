"""What every benchmark keeps: results written whole or not at all, and what they were made with."""

import csv
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterable

import gymnasium
import numpy
import stable_baselines3
import torch

import sb3_nrl

ROOT = pathlib.Path(__file__).parents[1]


def versions() -> str:
    """Versions, commit and machine, in a line."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return (
        f"sb3_nrl {sb3_nrl.__version__} at {git.stdout.strip()}, stable-baselines3 {stable_baselines3.__version__}, "
        f"gymnasium {gymnasium.__version__}, torch {torch.__version__}, numpy {numpy.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, one used"
    )


def write(path: pathlib.Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    unfinished.replace(path)
