"""A run for the tests of experiments: done at once, failing, or killed with its process the first times."""

import os
import pathlib
import signal
import time
from typing import Any

import numpy as np

from experiments.runs import Columns, Run


def measure(settings: dict[str, Any]) -> Columns:
    """Write the attempt to a file, and then succeed, fail or kill the process, according to the settings."""
    attempts = pathlib.Path(settings["attempts"])
    with attempts.open("a") as file:
        file.write(f"{settings['seed']} {os.getpid()}\n")
    if len(processes_of(attempts, settings["seed"])) <= settings["kills"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if settings["fails"]:
        raise FloatingPointError("diverged")
    time.sleep(settings["sleep"])
    return {"third": np.array([1 / 3]), "seed": np.array(settings["seed"]), "never": np.array(np.nan)}


def small_run(attempts: pathlib.Path, seed: int, **settings: Any) -> Run:
    """A run that writes its attempts to a file."""
    settings = {"attempts": str(attempts), "seed": seed, "kills": 0, "fails": False, "sleep": 0, **settings}
    return Run(f"small/{seed}", measure, settings, seed, expected_seconds=10)


def processes_of(attempts: pathlib.Path, seed: int) -> list[int]:
    """The process id of each attempt."""
    lines = attempts.read_text().splitlines() if attempts.exists() else []
    return [int(line.split()[1]) for line in lines if line.split()[0] == str(seed)]
