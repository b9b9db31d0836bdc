"""
How many steps and seconds NRL needs with the shipped configs, beside RMHL, A2C and PPO.

Trains what is missing through ``sb3-nrl train``, A2C and PPO with the RL Zoo's configs, and makes tables and a figure:
steps and seconds until the mean return of 100 episodes passes the bar, the lowest such mean after that, and the mean
return of 100 evaluation episodes at the end. NRL and RMHL go on after the bar, to show whether they hold. A2C, PPO, and
NRL with the constructor's defaults and one environment (``defaults``) stop at the bar.
"""

import functools
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from statistics import NormalDist, median
from typing import Any, NamedTuple

import numpy as np
import rl_zoo3
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from rl_zoo3.utils import create_test_env, get_saved_hyperparams
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_nrl.zoo
from experiments import tables
from experiments.execution import command_line, is_committed, results_of
from experiments.runs import ROOT, Columns, Results, Run

N_EPISODES = 100
"""Episodes of a mean."""
N_ROWS = 200
"""Of a learning curve that is kept."""
SEEDS = range(10)
STYLES = {
    "nrl": ("NRL", tables.BLUE, "-"),
    "defaults": ("NRL, defaults", tables.LIGHT_BLUE, "-"),
    "rmhl": ("RMHL", tables.ORANGE, ":"),
    "a2c": ("A2C", tables.GREEN, "-."),
    "ppo": ("PPO", tables.BLACK, "--"),
}
"""Name, colour and line of each algorithm."""
GO_ON = ("nrl", "rmhl")
"""Those that do not stop at the bar."""


class Goal(NamedTuple):
    """What is to be reached on a task."""

    bar: float  # mean return of 100 episodes
    median: int | None = None  # steps within which half of the seeds are to pass the bar, None for those of A2C
    most: int | None = None  # steps within which all of them are, None for twice those of A2C

    @property
    def floor(self) -> float:
        """What counts as holding: 80 % of the bar, or, where returns are costs, a quarter more of them."""
        return self.bar * 0.8 if self.bar > 0 else self.bar / 0.8


PERCEPTUAL = "neurogym/PerceptualDecisionMaking-v0"
_EVIDENCE = np.array([0, 6.4, 12.8, 25.6, 51.2]) / 100 / math.hypot(0.1, 0.1) * math.sqrt(20)
"""Of each coherence: both stimuli's difference in 20 frames, in standard deviations of its noise."""
BEST = float(np.mean([NormalDist().cdf(evidence) for evidence in _EVIDENCE]))
"""Mean reward of choosing the side that the whole stimulus speaks for."""

GOALS = {
    "CartPole-v1": Goal(475, 70_000, 150_000),
    "Acrobot-v1": Goal(-100, 50_000, 150_000),
    "MountainCarContinuous-v0": Goal(90, 60_000, 200_000),
    "Pendulum-v1": Goal(-200, 200_000, 500_000),
    "LunarLander-v3": Goal(200, 500_000, 1_000_000),
    PERCEPTUAL: Goal(0.9 * BEST),
}


class StopAtBar(BaseCallback):
    """Ends a training when the mean return of 100 episodes passes a bar."""

    def __init__(self, bar: float) -> None:
        super().__init__()
        self.bar = bar

    def _on_step(self) -> bool:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        return len(returns) < N_EPISODES or sum(returns) < N_EPISODES * self.bar


def config_file(task: str, algorithm: str) -> pathlib.Path:
    """Where the hyper-parameters of an algorithm are."""
    if algorithm == "defaults" or (algorithm in ("a2c", "ppo") and task == PERCEPTUAL):  # the zoo has none for it
        return ROOT / "experiments" / "defaults.yml"
    if algorithm in ("a2c", "ppo"):
        return pathlib.Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algorithm}.yml"
    return ROOT / "zoo_configs" / f"{algorithm}.yml"


def slug(name: str) -> str:
    """A part of a file name."""
    return re.sub(r"[^a-zA-Z0-9.]+", "-", name.replace("γ", "gamma")).strip("-")


@functools.cache
def read_configs(file: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Hyper-parameters by task."""
    return yaml.safe_load(file.read_text())


def training(task: str, algorithm: str, seed: int, changes: Sequence[str] = (), **settings: Any) -> Run:
    """
    A training from one seed.

    :param task: A key of ``GOALS``
    :param algorithm: A key of ``STYLES``, or ``"bptt"``
    :param seed: Seed
    :param changes: What differs from the config, as ``--hyperparams`` takes it
    :param settings: Other settings
    :return: The run
    """
    configs = read_configs(config_file(task, algorithm))
    settings = {
        "env": task,
        "algorithm": algorithm,
        "config": configs.get(task, configs.get("default")),
        "changes": list(changes),
        "bar": GOALS[task].bar,
        "stop": algorithm not in GO_ON,
        "n_eval_episodes": N_EPISODES,
        "seed": seed,
        **settings,
    }
    name = "_".join([slug(task), algorithm, *map(slug, changes), str(seed)])
    expected_seconds = settings["config"]["n_timesteps"] / 3_000
    return Run(name, train, settings, seed, expected_seconds, (task, algorithm))


def train(settings: dict[str, Any]) -> Columns:
    """Train as a user would, and evaluate: the learning curve, and what :func:`judge` tells of it."""
    task, algorithm, seed = settings["env"], settings["algorithm"], settings["seed"]
    algo = "nrl" if algorithm == "defaults" else algorithm
    stop = [f"callback:{{'experiments.learning.StopAtBar': {{'bar': {settings['bar']}}}}}"] * settings["stop"]
    changes = [*settings["changes"], *stop]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sb3_nrl", "train", "--algo", algo, "--env", task, "--seed", str(seed)]
        command += ["--conf-file", str(config_file(task, algorithm)), "-f", folder, "--eval-freq", "-1"]
        command += ["--verbose", "0", *(["--hyperparams", *changes] if changes else [])]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."})
        (run,) = (pathlib.Path(folder) / algo).glob("*_1")
        curve = learning_curve(run)
        numbers = judge(curve, settings["bar"])
        if settings["n_eval_episodes"]:
            numbers["evaluation"] = evaluate(run, task, algo, seed, settings["n_eval_episodes"])
    kept = np.unique(np.linspace(0, len(curve["steps"]) - 1, N_ROWS).round().astype(int))
    return {name: values[kept] for name, values in curve.items()} | {n: np.array(v) for n, v in numbers.items()}


def learning_curve(folder: pathlib.Path) -> Columns:
    """
    Read the logs of each environment.

    :param folder: Folder of a training
    :return: At each end of an episode, ``steps`` of all environments and ``seconds`` until then, and ``return``, the
        mean return of the last 100 episodes, or of all if there were fewer
    """
    logs = sorted(folder.glob("*.monitor.csv"))
    starts, rows = [], []
    for log in logs:
        header, _, *lines = log.read_text().splitlines()
        starts.append(json.loads(header.removeprefix("#"))["t_start"])
        steps = 0
        for line in lines:
            reward, length, seconds, *_ = map(float, line.split(","))
            steps += int(length)
            rows.append((starts[-1] + seconds, steps * len(logs), reward))
    ends, all_steps, returns = np.array(sorted(rows)).T
    sums = np.concatenate([np.zeros(N_EPISODES), np.cumsum(returns)])
    means = (sums[N_EPISODES:] - sums[:-N_EPISODES]) / np.minimum(np.arange(1, len(returns) + 1), N_EPISODES)
    return {"steps": all_steps, "seconds": ends - min(starts), "return": means}


def judge(curve: Columns, bar: float) -> dict[str, float]:
    """
    Tell what became of a training.

    :param curve: Its learning curve
    :param bar: The bar
    :return: ``passed_steps`` and ``passed_seconds`` when the mean of 100 episodes passed the bar, and the ``lowest``
        mean from then on (all NaN if it never passed); the ``last`` mean, ``n_steps`` and ``seconds_per_step``
    """
    steps, seconds, means = curve["steps"], curve["seconds"], curve["return"]
    passed = N_EPISODES - 1 + np.flatnonzero(means[N_EPISODES - 1 :] >= bar)
    first = passed[0] if len(passed) else None
    return {
        "passed_steps": math.nan if first is None else steps[first],
        "passed_seconds": math.nan if first is None else seconds[first],
        "lowest": math.nan if first is None else means[first:].min(),
        "last": means[-1],
        "n_steps": steps[-1],
        "seconds_per_step": seconds[-1] / steps[-1],
    }


def evaluate(folder: pathlib.Path, task: str, algorithm: str, seed: int, n_episodes: int) -> float:
    """The mean return of the trained policy's likeliest actions."""
    sb3_nrl.zoo.register()
    name = task.replace("/", "-")
    hyperparams, statistics = get_saved_hyperparams(str(folder / name), test_mode=True)
    env = create_test_env(task, stats_path=statistics, seed=10_000 + seed, should_render=False, hyperparams=hyperparams)
    model = rl_zoo3.ALGOS[algorithm].load(folder / f"{name}.zip", device="cpu")
    return float(np.mean(evaluate_policy(model, env, n_episodes)[0]))


def tabulate(results: Results) -> str:
    """One row for each task and algorithm, in Markdown."""
    rows = []
    for task, algorithm in product(GOALS, STYLES):
        runs = [result.columns for run, result in results.items() if run.of == (task, algorithm)]
        if runs:
            steps, seconds = ([run[name].item() for run in runs] for name in ("passed_steps", "passed_seconds"))
            evaluations = [run["evaluation"].item() for run in runs]
            held = [run["lowest"].item() for run in runs if not math.isnan(run["lowest"])]
            goal, first = GOALS[task], algorithm == next(iter(STYLES))
            wanted = "A2C's (twice that)" if goal.median is None else f"{goal.median:,} ({goal.most:,})"
            lowest = f"{sum(low >= goal.floor for low in held)} of {len(held)} ({min(held):.3g})" if held else "–"
            rows.append(
                [
                    task if first else "",
                    f"{goal.bar:.3g}" if first else "",
                    STYLES[algorithm][0],
                    f"{len(held)} of {len(runs)}",
                    f"{middle(steps)} ({middle(steps, max)})",
                    wanted if first else "",
                    middle(seconds),
                    lowest if algorithm in GO_ON else "",
                    f"{np.mean(evaluations):.3g} ({min(evaluations):.3g})",
                ]
            )
    until = "steps until then: median (most)"
    header = ("", "bar", "", "passed", until, "goal", "seconds", "held (lowest mean)", "evaluation")
    return tables.markdown(header, rows)


def middle(values: Sequence[float], take: Any = median) -> str:
    """The median, or another statistic, where NaN is larger than everything and shown as a dash."""
    value = take([math.inf if math.isnan(value) else value for value in values])
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def draw(results: Results) -> Figure:
    """
    The median over seeds and their range, against steps and against seconds, as long as all seeds train. The dots are
    ends of trainings that stopped at the bar. RMHL is shown no longer than the others.
    """
    tasks = [task for task in GOALS if any(run.of[0] == task for run in results)]
    figure = Figure(figsize=(9, 2.3 * len(tasks)), layout="constrained")
    panels = figure.subplots(len(tasks), 2, squeeze=False, sharey="row")
    for (row, task), (column, name) in product(enumerate(tasks), enumerate(("steps", "seconds"))):
        axes = panels[row, column]
        curves = {a: [result.columns for run, result in results.items() if run.of == (task, a)] for a in STYLES}
        longest = max(c[name][-1] for algorithm, own in curves.items() if algorithm != "rmhl" for c in own)
        axes.axhline(GOALS[task].bar, color="0.6", linewidth=0.8, zorder=0)
        for algorithm, (label, color, line) in STYLES.items():
            own = curves[algorithm]
            if not own:
                continue
            grid = np.linspace(0, min(longest, *(curve[name][-1] for curve in own)), N_ROWS)
            means = np.array([np.interp(grid, curve[name], curve["return"], left=np.nan) for curve in own])
            begun = ~np.isnan(means).any(axis=0)
            low, center, high = np.quantile(means[:, begun], (0, 0.5, 1), axis=0)
            axes.plot(grid[begun], center, line, color=color, label=label)
            axes.fill_between(grid[begun], low, high, color=color, alpha=0.15, linewidth=0)
            if algorithm not in GO_ON:
                ends = [(curve[name][-1], curve["return"][-1]) for curve in own]
                axes.plot(*np.transpose(ends), "o", color=color, markersize=4, markerfacecolor="white")
        axes.annotate(f"bar {GOALS[task].bar:.3g}", (1, GOALS[task].bar), xycoords=("axes fraction", "data"))
        axes.set(xlabel=name, title=task.split("/")[-1], xlim=(0, longest))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
    figure.supylabel("mean return of 100 episodes")
    handles = {line.get_label(): line for line in panels[0, 0].get_lines() if not line.get_label().startswith("_")}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then report everything."""
    parser = command_line(__doc__ or "", "learning", SEEDS, workers=1)
    parser.add_argument("--tasks", nargs="+", default=list(GOALS), choices=list(GOALS))
    parser.add_argument("--algorithms", nargs="+", default=list(STYLES), choices=list(STYLES))
    parser.add_argument("--hyperparams", nargs="+", default=[], help="changes to the configs, as sb3-nrl train takes")
    chosen = parser.parse_args(arguments)

    def plan(seeds: Sequence[int], tasks: Sequence[str], algorithms: Sequence[str]) -> list[Run]:
        return [
            training(task, algorithm, seed, chosen.hyperparams)
            for task, algorithm, seed in product(tasks, algorithms, seeds)
            if algorithm != "defaults" or task in ("CartPole-v1", "Acrobot-v1")
        ]

    wanted = plan(chosen.seeds, chosen.tasks, chosen.algorithms)
    results, status = results_of(parser, chosen, wanted, plan(SEEDS, list(GOALS), list(STYLES)))
    tables.save(draw(results), chosen.out.with_suffix(".png"))
    print(table := tabulate(results))
    if is_committed(chosen.out, "learning"):
        tables.replace_section(tables.README, "learning", table)
    return status


if __name__ == "__main__":
    sys.exit(main())
