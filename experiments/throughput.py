"""
Environment steps per second on CartPole: NRL, RMHL, BPTT, A2C and PPO, beside the environment alone.

A round measures every case once, in random order, on one thread; results are medians over rounds, and ratios within a
round with their range. With ``--against PATH``, every case is measured with the ``sb3_nrl`` of another source tree too,
directly before or after, and the ratio of new to old is reported.
"""

import csv
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

from experiments import tables
from experiments.execution import command_line, results_of
from experiments.runs import ROOT, Columns, Results, Run, csv_text, write_whole

N_ENVS = (1, 8, 32)
ALONE = "environment alone"
LABELS = {
    ALONE: ("the environment alone, random actions", tables.GREY),
    "bare policy": ("the same, actions from a network that never learns, in five lines of NumPy", tables.GREY),
    "NRL": ("NRL by the paper's rule, one noisy pass per step", tables.BLUE),
    "NRL, 8 pairs": ("the same, 8 pairs of noisy passes", tables.BLUE),
    "NRL, critic": ("NRL with its defaults, a critic and 4 pairs", tables.BLUE),
    "RMHL": ("RMHL by the paper's rule", tables.BLUE),
    "BPTT": ("BPTT with the paper's settings", tables.BLUE),
    "A2C": ("A2C", tables.ORANGE),
    "PPO": ("PPO", tables.ORANGE),
    "plain loop": ("the paper's equations in PyTorch, step by step", tables.GREY),
}
"""What is measured, and its colour: this package, Stable-Baselines3, or for comparison."""
MEASURED = (ALONE, "NRL, critic", "NRL", "RMHL", "BPTT", "A2C", "PPO")
CASES = [
    *(f"{name}; {n_envs}; " for n_envs in N_ENVS for name in MEASURED),
    *(f"{name}; 8; {space}" for space in ("MultiDiscrete", "MultiBinary") for name in MEASURED[1:3]),
]
"""Name, number of environments, action space if it is not CartPole's own."""


def measure_round(settings: dict[str, Any]) -> Columns:
    """Measure each case: a column of one number for each, the other source tree's with ``old: `` before its name."""
    start = f"import runpy; runpy.run_path({str(ROOT / 'experiments' / 'pace.py')!r}, run_name='__main__')"
    trees = {"": ROOT, **({"old: ": settings["against"]} if settings["against"] else {})}
    options: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | threads
    processes = {
        tree: subprocess.Popen([sys.executable, "-c", start], cwd=folder, env=env, **options)
        for tree, folder in trees.items()
    }
    columns = {}
    try:
        for case in random.sample(settings["cases"], len(settings["cases"])):
            name, n_envs, action_space = case.split("; ")
            line = {"name": name, "n_envs": int(n_envs), "action_space": action_space, "seconds": settings["seconds"]}
            for tree in random.sample(list(trees), len(trees)):
                stdin, stdout = processes[tree].stdin, processes[tree].stdout
                assert stdin and stdout
                stdin.write(json.dumps(line) + "\n")
                stdin.flush()
                columns[tree + case] = np.array([float(stdout.readline())])
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return columns


def ratios(results: Results) -> list[list[str]]:
    """Ratios within a round: what is compared, the median over rounds, and their range."""
    rounds = [result.columns for result in results.values()]
    pairs = [(f"NRL, critic; {n}; ", f"{name}; {n}; ") for n in N_ENVS for name in (ALONE, "A2C", "PPO")]
    pairs += [(f"{name}; 8; {s}", f"{name}; 8; ") for s in ("MultiDiscrete", "MultiBinary") for name in MEASURED[1:3]]
    pairs += [(case, f"old: {case}") for case in CASES]
    rows = []
    for one, two in pairs:
        values = [(columns[one] / columns[two]).item() for columns in rounds if one in columns and two in columns]
        if values:
            rows.append([f"{one} / {two}", f"{median(values):.2f}", f"{min(values):.2f} to {max(values):.2f}"])
    return rows


def read(path: pathlib.Path) -> dict[tuple[str, int], dict[str, float]]:
    """The median steps per second by task and number of environments, then by name."""
    values: dict[tuple[str, int], dict[str, list[float]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            if not row["detail"]:
                here = values.setdefault((row["task"], int(row["n_envs"])), {})
                here.setdefault(row["name"], []).append(float(row["steps_per_second"]))
    return {key: {name: median(rates) for name, rates in here.items()} for key, here in values.items()}


def tabulate(rates: dict[tuple[str, int], dict[str, float]]) -> str:
    """Steps per second on CartPole in Markdown, rounded to hundreds."""
    cartpole = [rates["CartPole-v1", n_envs] for n_envs in N_ENVS]
    rows = [
        [label, *(f"{round(here[name], -2):,.0f}" for here in cartpole)]
        for name, (label, _) in LABELS.items()
        if name in cartpole[0]
    ]
    return tables.markdown(("", *map(str, N_ENVS)), rows)


def draw(rates: dict[tuple[str, int], dict[str, float]]) -> Figure:
    """A row of dots for each name, one dot for each number of environments."""
    tasks = list(dict.fromkeys(task for task, _ in rates))
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        names = [name for name in LABELS if name in rates[task, 1]]
        for place, name in enumerate(reversed(names)):
            found = [rates[task, n_envs][name] for n_envs in N_ENVS]
            axes.plot(found, [place] * 3, color=LABELS[name][1], alpha=0.4)
            for n_envs, rate, marker in zip(N_ENVS, found, "os^", strict=True):
                label = f"{n_envs} environment{'s' * (n_envs > 1)}" if place == 0 else None
                axes.plot(rate, place, marker, color=LABELS[name][1], markersize=7, label=label)
        axes.set(xscale="log", title=task, xlabel="steps per second")
        axes.set_yticks(range(len(names)), list(reversed(names)))
        axes.grid(axis="x", which="both", alpha=0.25)
        axes.spines[["top", "right", "left"]].set_visible(False)
    legend = panels[0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=3, frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then report everything."""
    parser = command_line(__doc__ or "", "throughput", range(3), workers=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--against", type=pathlib.Path, help="another source tree of sb3_nrl, to compare with")
    chosen = parser.parse_args(arguments)
    table = chosen.out.with_suffix(".csv")
    status = 0
    if not (chosen.report and table.exists()):
        against = str(chosen.against.resolve()) if chosen.against else None
        settings = {"cases": CASES, "seconds": chosen.seconds, "against": against}
        expected = len(CASES) * chosen.seconds * 1.5
        wanted = [Run(f"round-{turn}", measure_round, settings, turn, expected) for turn in chosen.seeds]
        results, status = results_of(parser, chosen, wanted)
        rows = [
            ("CartPole-v1", case.split("; ")[1], case.split("; ")[0], case.split("; ")[2], run.seed, value.item(), made)
            for run, (columns, _, made) in results.items()
            for case, value in columns.items()
            if not case.startswith("old")
        ]
        header = ("task", "n_envs", "name", "detail", "round", "steps_per_second", "versions")
        write_whole(table, csv_text([header, *rows]))
        print(tables.markdown(("ratio within a round", "median", "range"), ratios(results)))
    rates = read(table)
    print(tabulate(rates))
    tables.save(draw(rates), table.with_suffix(".png"))
    return status


if __name__ == "__main__":
    sys.exit(main())
