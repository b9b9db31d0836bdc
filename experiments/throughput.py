"""
Measure environment steps per second, with NRL, RMHL, BPTT, A2C and PPO, and without any algorithm: on CartPole, and
with recurrent networks on a task that needs memory.

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
from experiments.runs import ROOT, Columns, Run, csv_text, write_whole
from experiments.stepping import ACTION_SPACES, ALONE

DOCUMENT = tables.DOCS / "performance.md"
N_ENVS = (1, 8, 32)
_OURS = ("NRL, critic", "NRL")
_MEMORY = "16 / DelayMatchSample"
_PLAIN = "{} / {} / Discrete".format
CASES = [
    *(
        _PLAIN(name, n_envs)
        for n_envs in N_ENVS
        for name in (ALONE, "NRL, defaults", *_OURS, "RMHL", "BPTT", "A2C", "PPO")
    ),
    *(f"{name} / 8 / {space}" for space in ACTION_SPACES for name in _OURS),
    *(f"{name} / {n_envs} / vectorised" for n_envs in (8, 256) for name in (ALONE, *_OURS)),
    *(_PLAIN(name, 256) for name in _OURS),
    *(_PLAIN(name, 8) for name in ("NRL, spiking", "NRL, 8 pairs and critic")),
    *(f"{name} / {_MEMORY}" for name in (ALONE, "NRL, recurrent", "RecurrentPPO")),
]
"""Name, number of environments, and what is special: see ``stepping.make_env``."""
RATIOS: list[tuple[str, str, int, str, str]] = [
    *(("NRL, the paper's rule", "the environment alone", n, _PLAIN("NRL", n), _PLAIN(ALONE, n)) for n in N_ENVS),
    *(("NRL, critic, 4 pairs", "the environment alone", n, _PLAIN("NRL, critic", n), _PLAIN(ALONE, n)) for n in N_ENVS),
    *(("NRL, defaults", "the environment alone", n, _PLAIN("NRL, defaults", n), _PLAIN(ALONE, n)) for n in N_ENVS),
    *((name, "the environment alone", 8, _PLAIN(name, 8), _PLAIN(ALONE, 8)) for name in ("RMHL", "BPTT")),
    *(
        ("NRL, defaults", name, n, _PLAIN("NRL, defaults", n), _PLAIN(name, n))
        for n in N_ENVS
        for name in ("A2C", "PPO")
    ),
    *(
        (f"NRL, {label}, {space}", "the same, Discrete", 8, f"{name} / 8 / {space}", _PLAIN(name, 8))
        for space in ACTION_SPACES
        for name, label in zip(_OURS, ("critic, 4 pairs", "the paper's rule"), strict=True)
    ),
    *(
        (f"NRL, {label}, in one call", "the same, `DummyVecEnv`", n, f"{name} / {n} / vectorised", _PLAIN(name, n))
        for n in (8, 256)
        for name, label in zip(_OURS, ("critic, 4 pairs", "the paper's rule"), strict=True)
    ),
    (
        *("NRL, 64 spiking neurons", "64 rate units, as many samples", 8),
        *(_PLAIN("NRL, spiking", 8), _PLAIN("NRL, 8 pairs and critic", 8)),
    ),
    *(
        ("NRL, recurrent, DelayMatchSample", label, 16, f"NRL, recurrent / {_MEMORY}", f"{name} / {_MEMORY}")
        for name, label in ((ALONE, "the environment alone"), ("RecurrentPPO", "RecurrentPPO"))
    ),
]
"""Two cases each, whose ratio is reported: their labels, the number of environments, and their names."""
LABELS = {
    ALONE: ("environment alone", tables.GREY),
    "NRL, defaults": ("NRL, defaults", tables.BLUE),
    "NRL": ("NRL, the paper's rule", tables.BLUE),
    "NRL, critic": ("NRL, critic, 4 pairs", tables.BLUE),
    "RMHL": ("RMHL, the paper's rule", tables.BLUE),
    "BPTT": ("BPTT, the paper's settings", tables.BLUE),
    "A2C": ("A2C", tables.ORANGE),
    "PPO": ("PPO", tables.ORANGE),
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


def read(path: pathlib.Path) -> dict[str, dict[int, float]]:
    """Read the steps per second of each case, by round."""
    rates: dict[str, dict[int, float]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            rates.setdefault(row["case"], {})[int(row["round"])] = float(row["steps_per_second"])
    return rates


def compare(rates: dict[str, dict[int, float]]) -> list[list[str]]:
    """Rows of a table of ratios within a round: their median over rounds and their range."""
    rows = []
    old = [(case, "the other tree", int(case.split(" / ")[1]), case, f"old: {case}") for case in CASES]
    for one, two, n_envs, first, second in [*RATIOS, *(pair for pair in old if pair[-1] in rates)]:
        values = [rates[first][number] / rates[second][number] for number in rates[first]]
        rows.append([one, two, str(n_envs), f"{median(values):.2f}", f"{min(values):.2f} to {max(values):.2f}"])
    return rows


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
            (case, run.seed, f"{rate:.0f}", made_with)
            for run, (columns, _, made_with) in results.items()
            for case, rate in columns.items()
        ]
        write_whole(path, csv_text([("case", "round", "steps_per_second", "versions"), *rows]))
    rates = read(path)
    medians = {name: [median(rates[_PLAIN(name, n)].values()) for n in N_ENVS] for name in LABELS}
    lines = [[LABELS[name][0], *(f"{round(rate, -2):,.0f}" for rate in found)] for name, found in medians.items()]
    tables.save(draw(medians), path.with_suffix(".png"))
    of_steps = tables.markdown(("", *(f"{n} at once" for n in N_ENVS)), lines)
    of_ratios = tables.markdown(("ratio of", "to", "environments", "median", "range"), compare(rates))
    tables.publish(f"{of_steps}\n\n{of_ratios}", chosen.out, "throughput", DOCUMENT)
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.throughput").main())
