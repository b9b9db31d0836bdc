"""
Doing the runs that are missing in a folder, one after the other or many at once, and the options that commands share.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from math import isfinite
from time import perf_counter
from typing import Any

import torch as th

from experiments.runs import ROOT, Result, Results, Run, Store, Unusable, libraries, source

Attempts = Iterator[tuple[Run, Result | str]]
"""Each run once it is finished, with its result or the traceback of its failure."""


def execute(
    runs: Sequence[Run], store: Store, workers: int = 1, ray_address: str | None = None
) -> tuple[Results, list[Run]]:
    """
    Do all runs that are missing in a folder, and keep each result at once: return the results and the failed runs.

    Runs of the first seed come first. Those of one seed come in a random order, so that two commands on one folder, on
    this machine or others, share most of the work.
    """
    results, finished, failed = store.read_all(runs), {}, []
    todo = sorted((run for run in runs if run not in results), key=lambda run: (run.seed, random.random()))
    if todo:
        store.folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=store.folder).close()  # fails here rather than after the first run
        source()  # of the code that is loaded, whatever becomes of the clone meanwhile
        with_ray = workers > 1 or ray_address is not None
        if with_ray and importlib.util.find_spec("ray") is None:
            print("Ray is not installed, so one run is done after the other. Install '.[experiments]' for more.")
            with_ray, workers = False, 1
        one_by_one = ((run, _attempt(run, store, source())) for run in todo)
        attempts = _with_ray(todo, store, workers, ray_address) if with_ray else one_by_one
        left = list(todo)
        print(f"{len(results)} of {len(runs)} runs are there", flush=True)
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
            print(f"Stopped: {len(results)} of {len(runs)} runs are there. The same command does the others.")
            sys.exit(130)
    return {run: results[run] for run in runs if run in results}, failed


def seconds_left(todo: Sequence[Run], done: Results, workers: int) -> float:
    """Estimate how long some runs will take together: their expected times, scaled by what finished runs took."""
    timed = {run: result.seconds for run, result in done.items() if isfinite(result.seconds)}
    pace = sum(timed.values()) / sum(run.expected_seconds for run in timed) if timed else 1.0
    times = [pace * run.expected_seconds for run in todo]
    return max(sum(times) / workers, *times) if times else 0.0


def duration(seconds: float) -> str:
    """A length of time as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


def _attempt(run: Run, store: Store, from_source: str) -> Result | str:
    """Do a run, unless another command has finished it meanwhile."""
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
            # A secret for this session alone. Ray would keep one in the home directory.
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        options |= {"address": "local", "num_cpus": workers, "include_dashboard": False}
        options |= {"object_store_memory": 10**8}  # results are small, and by default Ray takes a third of the memory
    else:
        ignored = [".*", "results", "runs", "logs"]  # the cluster gets the code of this clone
        options |= {"address": address, "runtime_env": {"working_dir": str(ROOT), "excludes": ignored}}
    import ray  # here, since it is optional and slow to import

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
    """The options of all commands, with a folder in ``runs/``, seeds and workers (None: all cores) by default."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    folder, listed = pathlib.Path("runs") / name, " ".join(map(str, seeds))
    add("--out", type=pathlib.Path, default=folder, help=f"folder of results (default: {folder}; committed: results/)")
    add("--seeds", nargs="+", type=int, default=list(seeds), metavar="N", help=f"default: {listed}")
    workers = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    add("--only", nargs="+", default=[""], metavar="TEXT", help="do only runs whose file name has one of these in it")
    add("--workers", type=int, default=workers, metavar="N", help="runs at once (default: %(default)s)")
    add("--ray-address", metavar="ADDRESS", help="do the runs on this Ray cluster, --workers at once")
    add("--report", action="store_true", help="do no run, make tables and figures of those that are there")
    return parser


def results_of(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, plan: Callable[[Sequence[int]], list[Run]]
) -> tuple[Results, int]:
    """Do the planned runs of the chosen seeds, and return all results, those of other seeds too, and the status."""
    store, failed = Store(arguments.out), list[Run]()
    chosen = dict.fromkeys(plan(arguments.seeds))
    if not arguments.report:
        wanted = [run for run in chosen if any(part in run.name for part in arguments.only)]
        _, failed = execute(wanted, store, max(arguments.workers, 1), arguments.ray_address)
    results = store.read_all(list(chosen | dict.fromkeys(plan(parser.get_default("seeds")))))
    if not results:
        parser.error(f"there is no finished run in {arguments.out}")
    return results, int(bool(failed))
