"""
MuJoCo's tasks without a backward pass: NRL with its shipped settings, beside the exact gradient, A2C and PPO.

A run has a million steps. Its result is the mean return of the last 100 training episodes, and that of 20 episodes with
the most likely actions. A2C and PPO have the RL Zoo's configs. Published returns stand beside those of the runs.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from statistics import median
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import tables
from experiments.execution import command_line, results_of
from experiments.learning import N_ROWS, STYLES, draw_spread, training
from experiments.runs import Results, Run, by_case

DOCUMENT = tables.DOCS / "mujoco.md"


class Task(NamedTuple):
    """A task: the return to reach, published returns of older versions of it, and roughly the steps per second."""

    goal: float | None  # None: to be better than A2C and PPO
    a2c: str  # the RL Zoo's benchmark, version 3, one run
    ppo: str  # cleanrl's, and the RL Zoo's
    ars: str  # the RL Zoo's, after so many steps
    steps_per_second: float


TASKS = {
    "HalfCheetah-v5": Task(5_000, "3,041", "1,443; 5,819", "4,815 (12 M)", 3_500),
    "Hopper-v5": Task(3_000, "733", "2,383; 2,410", "3,344 (7 M)", 1_700),
    "Walker2d-v5": Task(3_000, "582", "2,288; 3,479", "2,994 (75 M)", 1_400),
    "Swimmer-v5": Task(300, "201", "–; 282", "355 (2 M)", 2_500),
    "Ant-v5": Task(1_300, "−44", "–; 1,327", "2,334 (75 M)", 800),
    "InvertedDoublePendulum-v5": Task(None, "–", "–", "–", 3_500),
    "Reacher-v5": Task(None, "–", "–", "–", 3_500),
}
ALGORITHMS = {name: STYLES[name] for name in ("nrl", "a2c", "ppo")} | {
    "bptt": ("exact gradient (BPTT)", tables.ORANGE, ":")
}
"""Name, colour and line of each algorithm."""


def plan(seeds: Sequence[int]) -> list[Run]:
    """NRL from all seeds, the others from the first three."""
    cases = product(TASKS, ALGORITHMS, seeds)
    return [_run(*case) for case in cases if case[1] == "nrl" or case[2] < 3]


def _run(task: str, algorithm: str, seed: int) -> Run:
    goal = TASKS[task].goal
    run = training(task, algorithm, seed, bar=np.inf if goal is None else goal, stop=False, n_eval_episodes=20)
    return replace(run, expected_seconds=1e6 / TASKS[task].steps_per_second)


def tabulate(results: Results) -> str:
    """A table with one row for each task and algorithm, in Markdown."""
    rows, found = [], by_case(results)
    for task, algorithm in product(TASKS, ALGORITHMS):
        if runs := found.get((task, algorithm)):
            goal, *published = TASKS[task][:4]
            is_first = algorithm == next(name for name in ALGORITHMS if (task, name) in found)
            last, evaluation = ([float(run[name]) for run in runs] for name in ("last", "evaluation"))
            rows.append(
                [
                    *([task, "both" if goal is None else f"{goal:,.0f}"] if is_first else ["", ""]),
                    ALGORITHMS[algorithm][0],
                    _middle_and_range(last),
                    _middle_and_range(evaluation),
                    str(len(runs)),
                    f"{median(float(run['seconds_per_step'] * run['n_steps']) for run in runs):,.0f}",
                    *(published if is_first else ["", "", ""]),
                ]
            )
    header = ("", "goal", "", "last 100 episodes: median (range)", "evaluation: median (range)", "seeds", "seconds")
    return tables.markdown((*header, "A2C, published", "PPO, published", "ARS, published (steps)"), rows)


def _middle_and_range(values: Sequence[float]) -> str:
    digits = 0 if max(map(abs, values)) > 100 else 1
    numbers = median(values), min(values), max(values)
    middle, least, most = (f"{number:,.{digits}f}".replace("-", "−") for number in numbers)
    return f"{middle} ({least} to {most})"


def draw(results: Results) -> Figure:
    """Learning curves of each task: median of the seeds and their range."""
    found = by_case(results)
    tasks = [task for task in TASKS if any(case[0] == task for case in found)]
    figure = Figure(figsize=(10, 2.6 * -(-len(tasks) // 3)), layout="constrained")
    panels = list(figure.subplots(-(-len(tasks) // 3), 3, squeeze=False).flat)
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    for task, axes in zip(tasks, panels, strict=False):
        for algorithm, (label, color, line) in ALGORITHMS.items():
            if curves := found.get((task, algorithm)):
                grid = np.linspace(0, min(curve["steps"][-1] for curve in curves), N_ROWS)
                draw_spread(axes, curves, "steps", grid, color, line, label)
        if (goal := TASKS[task].goal) is not None:
            axes.axhline(goal, color="0.6", linewidth=0.8, zorder=0)
        axes.set(title=task, xlabel="steps")
        axes.ticklabel_format(axis="x", style="sci", scilimits=(6, 6))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize="small")
    figure.supylabel("mean return of 100 episodes")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then report everything."""
    parser = command_line(__doc__ or "", "mujoco", range(5), workers=1)
    chosen = parser.parse_args(arguments)
    results, status = results_of(parser, chosen, plan)
    tables.save(draw(results), chosen.out.with_suffix(".png"))
    tables.publish(tabulate(results), chosen.out, "mujoco", DOCUMENT)
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.mujoco").main())
