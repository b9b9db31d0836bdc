"""
Execute the runs that are missing in a folder, one after the other or in parallel, and define the options of commands.

A command can be interrupted at any time, also by ``kill -9``, and then resumes: it repeats only the runs that were in
progress.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from math import isfinite
from time import perf_counter
from typing import Any

import torch as th

from experiments.runs import ROOT, Result, Results, Run, Store, Unusable, libraries, source

Attempts = Iterator[tuple[Run, Result | str]]
"""Each finished run, with its result or the traceback of its failure."""


def execute(
    runs: Sequence[Run], store: Store, workers: int = 1, ray_address: str | None = None
) -> tuple[Results, list[Run]]:
    """
    Execute all runs that are missing in a folder. Write each result at once. Return the results and the failed runs.

    Runs of the first seed come first. Runs of the same seed are in a random order. If two commands use the same folder,
    on one machine or on several, they therefore share most of the work.
    """
    results, finished, failed = store.read_all(runs), {}, []
    todo = sorted((run for run in runs if run not in results), key=lambda run: (run.seed, random.random()))
    if todo:
        store.folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=store.folder).close()  # if the folder is not writable, fail before the first run
        source()  # stores the commit of the loaded code, since the clone may change during the runs
        with_ray = workers > 1 or ray_address is not None
        if with_ray and importlib.util.find_spec("ray") is None:
            print("Ray is not installed: runs are executed one after the other. '.[experiments]' installs Ray.")
            with_ray, workers = False, 1
        one_by_one = ((run, _attempt(run, store, source())) for run in todo)
        attempts = _with_ray(todo, store, workers, ray_address) if with_ray else one_by_one
        left = list(todo)
        print(f"{len(results)} of {len(runs)} runs are finished", flush=True)
        try:
            for run, outcome in attempts:
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
            print(f"Stopped: {len(results)} of {len(runs)} runs are finished. The same command does the others.")
            sys.exit(130)
    return {run: results[run] for run in runs if run in results}, failed


def seconds_left(todo: Sequence[Run], done: Results, workers: int) -> float:
    """Estimate the time for some runs: their expected times, scaled by the actual times of finished runs."""
    timed = {run: result.seconds for run, result in done.items() if isfinite(result.seconds)}
    pace = sum(timed.values()) / sum(run.expected_seconds for run in timed) if timed else 1.0
    times = [pace * run.expected_seconds for run in todo]
    return max(sum(times) / workers, *times) if times else 0.0


def duration(seconds: float) -> str:
    """Format a duration as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


def _attempt(run: Run, store: Store, from_source: str) -> Result | str:
    """Execute a run, unless another command has finished it in the meantime."""
    try:
        with suppress(Unusable):
            if found := store.read(run):
                return found
        th.set_num_threads(1)
        start = perf_counter()
        columns = run.measure(run.settings)
        return Result(columns, perf_counter() - start, f"{from_source}, {libraries()}")
    except Exception:
        return traceback.format_exc()


def _with_ray(runs: Sequence[Run], store: Store, workers: int, address: str | None) -> Attempts:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        if "RAY_AUTH_MODE" not in os.environ:
            # A secret for this session only. Ray itself would write one into the home directory.
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        options |= {"address": "local", "num_cpus": workers, "include_dashboard": False}
        options |= {"object_store_memory": 10**8}  # results are small, and by default Ray takes a third of the memory
    else:
        ignored = [".*", "results", "runs", "logs"]  # the cluster gets the code of this clone
        options |= {"address": address, "runtime_env": {"working_dir": str(ROOT), "excludes": ignored}}
    import ray  # imported here, since it is optional and slow to import

    ray.init(**options)
    try:
        attempt = ray.remote(num_cpus=1, max_retries=3)(_attempt)
        store = Store(store.folder.resolve())
        todo = list(runs)
        running: dict[Any, Run] = {}
        while todo or running:
            while todo and len(running) < workers:
                run = todo.pop(0)
                running[attempt.remote(run, store, source())] = run
            (reference,), _ = ray.wait(list(running), num_returns=1)
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayError as error:
                outcome = str(error)
            yield running.pop(reference), outcome
    finally:
        ray.shutdown()


# The command line


def command_line(text: str, name: str, seeds: Sequence[int], workers: int | None = None) -> argparse.ArgumentParser:
    """
    Make a parser with the options of all commands. Defaults are a folder in ``runs/``, ``seeds``, and ``workers``
    (None: all cores).
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    folder, listed = pathlib.Path("runs") / name, " ".join(map(str, seeds))
    add("--out", type=pathlib.Path, default=folder, help=f"folder of results (default: {folder}; committed: results/)")
    add("--seeds", nargs="+", type=int, default=list(seeds), metavar="N", help=f"default: {listed}")
    workers = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    add(
        "--only",
        nargs="+",
        default=[""],
        metavar="TEXT",
        help="execute only runs whose file name contains one of these",
    )
    add("--workers", type=int, default=workers, metavar="N", help="runs at once (default: %(default)s)")
    add("--ray-address", metavar="ADDRESS", help="execute the runs on this Ray cluster, --workers at once")
    add("--report", action="store_true", help="execute no run, make tables and figures from the finished runs")
    return parser


def results_of(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, plan: Callable[[Sequence[int]], list[Run]]
) -> tuple[Results, int]:
    """Execute the planned runs of the chosen seeds. Return all results, also of other seeds, and the exit status."""
    store, failed = Store(arguments.out), list[Run]()
    chosen = dict.fromkeys(plan(arguments.seeds))
    if not arguments.report:
        wanted = [run for run in chosen if any(part in run.name for part in arguments.only)]
        _, failed = execute(wanted, store, max(arguments.workers, 1), arguments.ray_address)
    results = store.read_all(list(chosen | dict.fromkeys(plan(parser.get_default("seeds")))))
    if not results:
        parser.error(f"there is no finished run in {arguments.out}")
    return results, int(bool(failed))
