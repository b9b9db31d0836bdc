"""Which runs are still to do, and doing them: one after the other or, with Ray, many at once, here or on a cluster."""

import importlib.util
import logging
import os
import pathlib
import random
import secrets
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

from sb3_nrl.reproduce.runs import Result, Results, Run, Unusable, path_of, read, write, write_whole

MAX_RETRIES = 3
"""How often a run is done again whose process died."""

_OBJECT_STORE_BYTES = 10**8
"""Results are small; by default Ray takes a third of the memory."""


class Failure(NamedTuple):
    """
    What went wrong with a run.

    :param error: The error, in a line
    :param traceback: Where it came from, in lines
    """

    error: str
    traceback: str

    @classmethod
    def by(cls, error: Exception) -> "Failure":
        """What there is to keep of an error, which itself might not be sent from one process to another."""
        return cls(" ".join(f"{type(error).__name__}: {error}".split()), "".join(traceback.format_exception(error)))


Failures = dict[Run, Failure]
Completions = Iterator[tuple[Run, Result | Failure]]


class Workers(NamedTuple):
    """
    Who does the runs.

    :param number: How many runs are done at once
    :param do: Does them, and gives back each as it is finished, with its result or with what went wrong; what somebody
        else has finished in the folder meanwhile is not done again
    """

    number: int
    do: Callable[[Sequence[Run], pathlib.Path], Completions]


def find(runs: Sequence[Run], folder: pathlib.Path, console: Console) -> Results:
    """
    Read what is there. What cannot be used is named, and is not among the results.

    :param runs: The runs
    :param folder: Folder of results
    :param console: Where to name it
    :return: The results of finished runs
    """
    results = {}
    for run in runs:
        try:
            result = read(run, folder)
        except Unusable as reason:
            say(console, f"{path_of(run, folder)} {reason}, so it does not count")
        else:
            if result is not None:
                results[run] = result
    return results


def carry_out(
    runs: Sequence[Run], results: Results, folder: pathlib.Path, workers: int, address: str | None, console: Console
) -> Failures:
    """
    Do what is missing, keep each result as soon as it is there, and show how far it got.

    All runs from the first seed come before those from the second, and so on. Among them chance decides, so that two
    commands on one folder share most of the work; only the last runs of a seed may be done by both.

    :param runs: All runs
    :param results: The results of those that are finished; those of the others are added
    :param folder: Folder of results
    :param workers: How many runs to do at once on this machine; a single one needs no Ray
    :param address: Of a Ray cluster to do them on instead
    :param console: Where to show it
    :return: Runs that failed, and why
    """
    missing = [run for run in runs if run not in results]
    todo = sorted(missing, key=lambda run: (run.seed, random.random()))
    failures: Failures = {}
    if not todo:
        return failures
    with _make_workers(workers, address, console) as staff:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # a folder that cannot be written to is no place for results
        clock = Clock(todo, results, failures, staff.number)
        if not console.is_terminal:
            say(console, str(clock))
        with Progress(BarColumn(30), _ClockColumn(clock), console=console) as progress:
            bar = progress.add_task("", total=len(runs), completed=len(results))
            for run, outcome in staff.do(todo, folder.resolve()):
                clock.tick(run)
                where = path_of(run, folder).with_suffix(".traceback")
                if isinstance(outcome, Failure):
                    failures[run] = outcome
                    write_whole(where, outcome.traceback.encode())
                    say(console, f"{run.name} failed: {outcome.error} (see {where})")
                else:
                    write(run, outcome, folder)
                    where.unlink(missing_ok=True)
                    results[run] = outcome
                    say(console, f"{run.name}: {run.summary(outcome.columns)}, {_duration(outcome.seconds)}")
                if not console.is_terminal:
                    say(console, str(clock))
                progress.advance(bar)
    return failures


class Clock:
    """
    How far the work got, and how long the rest will take, judging by what finished runs took.

    :param todo: Runs that are to be done
    :param results: Results of all finished runs, those of an earlier time included; others may be added
    :param failures: Runs that failed; others may be added
    :param workers: How many runs are done at once
    """

    def __init__(self, todo: Sequence[Run], results: Results, failures: Failures, workers: int) -> None:
        self.left = list(todo)
        self.results = results
        self.failures = failures
        self.workers = workers
        self._last = time.monotonic()

    def tick(self, run: Run) -> None:
        """A run is finished."""
        self.left.remove(run)
        self._last = time.monotonic()

    def seconds_left(self) -> float:
        """The time that the rest will take."""
        taken = sum(result.seconds for result in self.results.values())
        expected = sum(run.expected_seconds for run in self.results)
        pace = taken / expected if expected else 1.0
        since = time.monotonic() - self._last
        rest = sum(run.expected_seconds for run in self.left) * pace / min(self.workers, len(self.left) or 1)
        return max(rest - since, 0.0)

    def __str__(self) -> str:
        running = min(self.workers, len(self.left))
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return (
            f"{len(self.results)} done, {running} running, {len(self.left) - running} left{failed}, "
            f"about {_duration(self.seconds_left())} to go"
        )


class _ClockColumn(ProgressColumn):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def render(self, task: Task) -> Text:
        return Text(str(self.clock))


def _make_workers(workers: int, address: str | None, console: Console) -> AbstractContextManager[Workers]:
    if workers == 1 and address is None:
        return _one_after_the_other()
    if importlib.util.find_spec("ray") is not None:
        return _with_ray(workers, address)
    advice = "pip install 'sb3-nrl[reproduce]'"
    if address is not None:
        raise ImportError(f"A cluster needs Ray, which is not installed: {advice}")
    say(console, f"Ray is not installed, so one run is done after the other. For {workers} at once: {advice}")
    return _one_after_the_other()


@contextmanager
def _one_after_the_other() -> Iterator[Workers]:
    def do(runs: Sequence[Run], folder: pathlib.Path) -> Completions:
        for run in runs:
            yield run, _attempt(run, folder)

    yield Workers(1, do)


def _attempt(run: Run, folder: pathlib.Path) -> Result | Failure:
    try:
        with suppress(Unusable):
            if found := read(run, folder):
                return found
        return run.do()
    except Exception as error:
        return Failure.by(error)


@contextmanager
def _with_ray(workers: int, address: str | None) -> Iterator[Workers]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None and "RAY_AUTH_MODE" not in os.environ:
        # A secret for this session alone; Ray would keep one in the home directory.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray  # here, since it is optional and slow to import

    if address is None:
        ray.init(
            "local",
            num_cpus=workers,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    else:
        _check_address(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    attempt = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_attempt)

    def do(runs: Sequence[Run], folder: pathlib.Path) -> Completions:
        running = {attempt.remote(run, folder): run for run in runs}
        while running:
            (reference,), _ = ray.wait(list(running), num_returns=1)
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayError as error:
                outcome = Failure.by(error)
            yield running.pop(reference), outcome

    try:
        yield Workers(int(ray.cluster_resources().get("CPU", 1)), do)
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Ray itself would try for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"There is no Ray cluster at {address}: {error}") from error


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"
