"""
Environment steps per second on CartPole: NRL, RMHL, BPTT, A2C and PPO, beside the environment alone.

A round measures every case once, in random order, on one thread. Results are medians over rounds, and ratios within a
round with their range. With ``--against PATH``, each case is also measured with the ``sb3_nrl`` of another source tree,
directly before or after, and the ratio of this one to that one is reported.
"""

import csv
import importlib
import json
import os
import pathlib
import random
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TransformAction
from matplotlib.figure import Figure
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from experiments import tables
from experiments.execution import command_line, results_of
from experiments.runs import ROOT, Columns, Results, Run, csv_text, write_whole
from sb3_nrl import BPTT, NRL, PAPER, RMHL

N_ENVS = (1, 8, 32)
ALONE = "environment alone"
ALGORITHMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "NRL, critic": (NRL, {}),
    "NRL": (NRL, PAPER["NRL"]),
    "RMHL": (RMHL, PAPER["RMHL"]),
    "BPTT": (BPTT, PAPER["BPTT"]),
    "A2C": (A2C, {}),
    "PPO": (PPO, {}),
}
ACTION_SPACES = {"MultiDiscrete": spaces.MultiDiscrete([2]), "MultiBinary": spaces.MultiBinary(1)}
CASES = [
    *(f"{name} / {n_envs} / Discrete" for n_envs in N_ENVS for name in (ALONE, *ALGORITHMS)),
    *(f"{name} / 8 / {space}" for space in ACTION_SPACES for name in ("NRL, critic", "NRL")),
]
"""Name, number of environments and action space."""
LABELS = {
    ALONE: ("environment alone", tables.GREY),
    "bare policy": ("network that never learns, in NumPy", tables.GREY),
    "NRL": ("NRL, the paper's rule", tables.BLUE),
    "NRL, 8 pairs": ("NRL, the paper's rule with 8 pairs", tables.BLUE),
    "NRL, critic": ("NRL, defaults (critic, 4 pairs)", tables.BLUE),
    "RMHL": ("RMHL, the paper's rule", tables.BLUE),
    "BPTT": ("BPTT, the paper's settings", tables.BLUE),
    "A2C": ("A2C", tables.ORANGE),
    "PPO": ("PPO", tables.ORANGE),
    "plain loop": ("the paper's equations in PyTorch", tables.GREY),
}
"""What is shown, and its colour: for comparison, this package, or Stable-Baselines3."""


class Stopwatch(BaseCallback):
    """Measures rollouts and their updates for some seconds, after a quarter of that time to warm up."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.begun = seconds, perf_counter()
        self.start, self.end = (0, 0.0), (0, 0.0)

    def _on_rollout_start(self) -> None:
        now = self.num_timesteps, perf_counter()
        if not self.start[0]:
            self.start = now if now[1] - self.begun > self.seconds / 4 else self.start
        elif now[1] - self.start[1] > self.seconds:
            self.end = now

    def _on_step(self) -> bool:
        return not self.end[0]


def measure(case: str, seconds: float) -> float:
    """Steps per second of a case."""
    name, n_envs, space = case.split(" / ")

    def wrap(env: Any) -> Any:
        return TransformAction(env, lambda action: int(action[0]), ACTION_SPACES[space])

    env = make_vec_env("CartPole-v1", int(n_envs), seed=0, wrapper_class=wrap if space in ACTION_SPACES else None)
    if name == ALONE:
        env.reset()
        actions = [np.array([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(100)]
        start, n_steps = perf_counter(), 0
        while perf_counter() - start < seconds:
            env.step(actions[n_steps % 100])
            n_steps += 1
        return n_steps * env.num_envs / (perf_counter() - start)
    algorithm, arguments = ALGORITHMS[name]
    more = {"n_steps": 2048 // env.num_envs} if name == "PPO" else {}  # whatever the number of environments
    watch = Stopwatch(seconds)
    algorithm("MlpPolicy", env, seed=0, device="cpu", **arguments, **more).learn(10**9, watch)
    return (watch.end[0] - watch.start[0]) / (watch.end[1] - watch.start[1])


def serve() -> None:
    """Measure the cases that standard input names, in a process of a source tree's own."""
    th.set_num_threads(1)
    for line in sys.stdin:
        print(measure(**json.loads(line)), flush=True)


def measure_round(settings: dict[str, Any]) -> Columns:
    """Measure each case: a number for each, with ``old: `` before the name for the other source tree."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    trees = {"": str(ROOT)} | ({"old: ": settings["against"]} if settings["against"] else {})
    processes: dict[str, Any] = {}
    for tree, folder in trees.items():  # its own sb3_nrl, which the experiments of this tree then import
        start = f"import sys; sys.path.insert(0, {folder!r}); import sb3_nrl; sys.path.insert(0, {str(ROOT)!r})"
        command = [sys.executable, "-c", f"{start}; from experiments.throughput import serve; serve()"]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes[tree] = subprocess.Popen(command, env=os.environ | threads, **pipes)
    columns = {}
    try:
        for case in random.sample(settings["cases"], len(settings["cases"])):
            for tree in random.sample(list(trees), len(trees)):
                processes[tree].stdin.write(json.dumps({"case": case, "seconds": settings["seconds"]}) + "\n")
                processes[tree].stdin.flush()
                columns[tree + case] = np.array(float(processes[tree].stdout.readline()))
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    return columns


def ratios(results: Results) -> str:
    """Ratios within a round, their median over rounds and their range, in Markdown."""
    plain = "{} / {} / Discrete".format
    pairs = [(plain("NRL, critic", n), plain(name, n)) for n in N_ENVS for name in (ALONE, "A2C", "PPO")]
    pairs += [(f"{name} / 8 / {space}", plain(name, 8)) for space in ACTION_SPACES for name in ("NRL, critic", "NRL")]
    pairs += [(case, f"old: {case}") for case in CASES]
    rows = []
    for one, two in pairs:
        rounds = [columns for columns, *_ in results.values() if one in columns and two in columns]
        values = [float(columns[one] / columns[two]) for columns in rounds]
        if values:
            rows.append([one, two, f"{median(values):.2f}", f"{min(values):.2f} to {max(values):.2f}"])
    return tables.markdown(("ratio of", "to", "median", "range"), rows)


def read(path: pathlib.Path) -> dict[str, list[float]]:
    """The median steps per second of each name on CartPole, by number of environments."""
    with path.open() as file:
        rows = [
            row for row in csv.DictReader(file) if row["task"] == "CartPole-v1" and row["detail"] in ("", "Discrete")
        ]
    rates: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        rates.setdefault((row["name"], int(row["n_envs"])), []).append(float(row["steps_per_second"]))
    return {name: [median(rates[name, n]) for n in N_ENVS] for name in LABELS if (name, 1) in rates}


def draw(rates: dict[str, list[float]]) -> Figure:
    """A row for each name, with a mark for each number of environments."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, found) in enumerate(reversed(rates.items())):
        label, color = LABELS[name]
        axes.plot(found, [place] * len(found), color=color, alpha=0.4)
        for rate, marker in zip(found, "os^", strict=True):
            axes.plot(rate, place, marker, color=color, markersize=7)
        axes.annotate(label, (0, place), (-8, 0), ("axes fraction", "data"), "offset points", ha="right", va="center")
    axes.set(xscale="log", xlabel="steps per second on CartPole, with 1 (●), 8 (■) and 32 (▲) environments", yticks=[])
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then report everything."""
    parser = command_line(__doc__ or "", "throughput", range(3), workers=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--against", type=pathlib.Path, help="another source tree, to compare its sb3_nrl")
    chosen = parser.parse_args(arguments)
    path, status = chosen.out.with_suffix(".csv"), 0
    if not (chosen.report and path.exists()):
        against = str(chosen.against.resolve()) if chosen.against else None
        settings = {"cases": CASES, "seconds": chosen.seconds, "against": against}
        results, status = results_of(
            parser, chosen, lambda seeds: [Run(f"round-{seed}", measure_round, settings, seed) for seed in seeds]
        )
        rows = [
            ("CartPole-v1", *case.split(" / "), run.seed, f"{rate:.0f}", made_with)
            for run, (columns, _, made_with) in results.items()
            for case, rate in columns.items()
            if not case.startswith("old")
        ]
        header = ("task", "name", "n_envs", "detail", "round", "steps_per_second", "versions")
        write_whole(path, csv_text([header, *rows]))
        print(ratios(results))
    rates = read(path)
    lines = [[LABELS[name][0], *(f"{round(rate, -2):,.0f}" for rate in found)] for name, found in rates.items()]
    tables.save(draw(rates), path.with_suffix(".png"))
    tables.publish(tables.markdown(("", *(f"{n} at once" for n in N_ENVS)), lines), chosen.out, "throughput")
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.throughput").main())
