"""
Measure environment steps per second on CartPole, with NRL, RMHL, BPTT, A2C and PPO, and without any algorithm.

A round measures every case once, in random order, on one thread. Results are medians over rounds, and ratios within a
round with their range. With ``--against PATH``, each case is also measured with the ``sb3_nrl`` of another source tree,
directly before or after. The ratio of this source tree to the other one is reported.
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
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import stepping, tables
from experiments.execution import command_line, results_of
from experiments.runs import ROOT, Columns, Results, Run, csv_text, write_whole
from experiments.stepping import ACTION_SPACES, ALGORITHMS, ALONE

DOCUMENT = tables.DOCS / "performance.md"
N_ENVS = (1, 8, 32)
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
"""The cases that are shown, with label and colour: grey for comparison, blue for this package, orange for others."""


def measure_round(settings: dict[str, Any]) -> Columns:
    """Measure the steps per second of each case. Names of cases of the other source tree begin with ``old: ``."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    trees = {"": str(ROOT)} | ({"old: ": settings["against"]} if settings["against"] else {})
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes: dict[str, Any] = {
        tree: subprocess.Popen(
            [sys.executable, stepping.__file__], env=os.environ | threads | {"PYTHONPATH": folder}, **pipes
        )
        for tree, folder in trees.items()
    }
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
    """Make a table of ratios within a round, with their median over rounds and their range, in Markdown."""
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
    """Read the median steps per second of each name on CartPole, for each number of environments."""
    with path.open() as file:
        rows = [
            row for row in csv.DictReader(file) if row["task"] == "CartPole-v1" and row["detail"] in ("", "Discrete")
        ]
    rates: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        rates.setdefault((row["name"], int(row["n_envs"])), []).append(float(row["steps_per_second"]))
    return {name: [median(rates[name, n]) for n in N_ENVS] for name in LABELS if (name, 1) in rates}


def draw(rates: dict[str, list[float]]) -> Figure:
    """Draw a row for each name, with a marker for each number of environments."""
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
    tables.publish(tables.markdown(("", *(f"{n} at once" for n in N_ENVS)), lines), chosen.out, "throughput", DOCUMENT)
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.throughput").main())
