"""
Doing runs: those that are missing in a folder, one after the other or many at once, and the options that all commands
share.

A command that was interrupted at any time, by ``kill -9`` too, goes on where it was: only runs in progress start anew.
"""

import argparse
import importlib.util
import logging
import os
import pathlib
import random
import secrets
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import isfinite
from time import perf_counter
from typing import Any

import torch as th

from experiments.runs import ROOT, Result, Results, Run, Store, Unusable, made_with, source

MAX_RETRIES = 3
"""How often Ray does a run again whose process died."""

_OBJECT_STORE_BYTES = 10**8
"""Results are small. By default, Ray takes a third of the memory."""

LARGEST_SEED = 2**32 - 1
"""NumPy's."""

Attempts = Iterator[tuple[Run, Result | str, int]]
"""Each run once it is finished, its result or the traceback of its failure, and how many runs are done at once."""


def execute(
    runs: Sequence[Run], store: Store, workers: int = 1, ray_address: str | None = None
) -> tuple[Results, list[Run]]:
    """
    Do all runs that are missing in a folder, and keep each result at once.

    All runs of the first seed come before those of the second, and so on. Runs of one seed come in a random order, so
    that two commands on one folder share most of the work.

    :param runs: The runs
    :param store: The folder
    :param workers: How many runs to do at once on this machine
    :param ray_address: A Ray cluster to do them on instead
    :return: The results, and the runs that failed
    """
    results, finished, failed = store.read_all(runs), {}, []
    todo = sorted((run for run in runs if run not in results), key=lambda run: (run.seed, random.random()))
    if todo:
        store.folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=store.folder).close()  # fails here rather than after the first run
        source()  # of the code that is loaded, whatever becomes of the clone meanwhile
        with_ray = ray_address is not None or workers > 1
        if with_ray and importlib.util.find_spec("ray") is None:
            advice = "pip install '.[experiments]'"
            if ray_address is not None:
                raise ImportError(f"A cluster needs Ray, which is not installed: {advice}")
            print(f"Ray is not installed: one run is done after the other. For {workers} at once: {advice}")
            with_ray, workers = False, 1
        attempts = _with_ray(todo, store, workers, ray_address) if with_ray else _one_by_one(todo, store)
        left = list(todo)
        print(f"{len(results)} of {len(runs)} runs are there", flush=True)
        try:
            for run, outcome, workers in attempts:
                left.remove(run)
                if isinstance(outcome, str):
                    failed.append(run)
                    told = f"failed\n{outcome}"
                else:
                    store.write(run, outcome)
                    results[run] = finished[run] = outcome
                    last = outcome.columns.get("return")
                    told = duration(outcome.seconds) + ("" if last is None else f", at last a return of {last[-1]:.4g}")
                rest = duration(seconds_left(left, finished or results, workers))
                print(f"{run.name}: {told}", f"{len(left)} runs left, about {rest}", sep="\n", flush=True)
        except KeyboardInterrupt:
            print(f"Stopped: {len(results)} of {len(runs)} runs are there. The same command does the others.")
            sys.exit(130)
    return {run: results[run] for run in runs if run in results}, failed


def seconds_left(todo: Sequence[Run], done: Results, workers: int) -> float:
    """
    Estimate how long some runs will take together: their expected times, scaled by what finished runs took.

    :param todo: The runs
    :param done: Finished runs
    :param workers: How many runs are done at once
    :return: Seconds
    """
    timed = {run: result.seconds for run, result in done.items() if isfinite(result.seconds)}
    pace = sum(timed.values()) / sum(run.expected_seconds for run in timed) if timed else 1.0
    times = [pace * run.expected_seconds for run in todo]
    return max(sum(times) / workers, *times) if times else 0.0


def duration(seconds: float) -> str:
    """A length of time, rounded."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def _one_by_one(runs: Sequence[Run], store: Store) -> Attempts:
    for run in runs:
        yield run, _attempt(run, store, source()), 1


def _attempt(run: Run, store: Store, from_source: str) -> Result | str:
    """Do a run, unless another command has finished it meanwhile."""
    try:
        with suppress(Unusable):
            if found := store.read(run):
                return found
        th.set_num_threads(1)
        start = perf_counter()
        columns = run.measure(run.settings)
        _, _, versions = made_with().partition(", ")
        return Result(columns, perf_counter() - start, f"{from_source}, {versions}")
    except Exception:
        return traceback.format_exc()


def _with_ray(runs: Sequence[Run], store: Store, workers: int, address: str | None) -> Attempts:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        if "RAY_AUTH_MODE" not in os.environ:
            # A secret for this session alone. Ray would keep one in the home directory.
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        local = {"num_cpus": workers, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
        options |= {"address": "local", **local}
    else:
        ignored = [".*", "results", "runs", "logs"]  # the cluster gets the code of this clone
        options |= {"address": address, "runtime_env": {"working_dir": str(ROOT), "excludes": ignored}}
    import ray  # here, since it is optional and slow to import

    ray.init(**options)
    try:
        attempt = ray.remote(num_cpus=1, max_retries=MAX_RETRIES)(_attempt)
        at_once = int(ray.cluster_resources().get("CPU", 1))
        store = Store(store.folder.resolve())
        running = {attempt.remote(run, store, source()): run for run in runs}
        while running:
            (reference,), _ = ray.wait(list(running), num_returns=1)
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayError as error:
                outcome = str(error)
            yield running.pop(reference), outcome, at_once
    finally:
        ray.shutdown()


# The command line


def command_line(text: str, name: str, seeds: Sequence[int], workers: int | None = None) -> argparse.ArgumentParser:
    """
    The options of all commands.

    :param text: What the command does
    :param name: The name of its folder of results
    :param seeds: Seeds by default
    :param workers: Runs at once by default, None for the number of cores
    :return: A parser, to add more to
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    folder = pathlib.Path("runs") / name
    add("--out", type=pathlib.Path, default=folder, help=f"folder of results (default: {folder}; committed: results/)")
    add("--seeds", nargs="+", type=seed, default=list(seeds), metavar="N", help=f"default: {' '.join(map(str, seeds))}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    add("--workers", type=count, default=workers or cores, metavar="N", help="runs at once (default: %(default)s)")
    add("--ray-address", metavar="ADDRESS", help="do the runs on this Ray cluster")
    add("--report", action="store_true", help="do no run, make tables and figures of those that are there")
    return parser


def results_of(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, wanted: Sequence[Run], reported: Sequence[Run] = ()
) -> tuple[Results, int]:
    """
    Do what a command line asks for.

    :param parser: The parser
    :param arguments: What it found
    :param wanted: Runs to do
    :param reported: Further runs, which are not done, but read where they are there
    :return: All results, and the exit status
    """
    store = Store(arguments.out)
    everything = list(dict.fromkeys([*wanted, *reported]))
    failed: list[Run] = []
    if arguments.report:
        results = store.read_all(everything)
    else:
        done, failed = execute(wanted, store, arguments.workers, arguments.ray_address)
        results = store.read_all([run for run in everything if run not in done]) | done
    if not results:
        parser.error(f"there is no finished run in {arguments.out}")
    return {run: results[run] for run in everything if run in results}, int(bool(failed))


def is_committed(folder: pathlib.Path, name: str) -> bool:
    """Whether a folder is that of the committed results, from which documents are made."""
    return folder.resolve() == ROOT / "results" / name


def seed(text: str) -> int:
    """A seed on the command line."""
    value = int(text)
    if not 0 <= value <= LARGEST_SEED:
        raise ValueError
    return value


def count(text: str) -> int:
    """A number of things on the command line."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value
