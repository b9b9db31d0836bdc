"""
Measure how many steps and seconds NRL needs with the shipped configs, and compare it with RMHL, A2C and PPO.

All missing trainings are made with ``sb3-nrl train``. A2C and PPO have the RL Zoo's configs. The table and the figure
show the steps and seconds until the mean return of 100 episodes passes a threshold, the bar. They also show the lowest
such mean after that, and the mean return of 100 evaluation episodes at the end. NRL and RMHL train beyond the bar, to
show whether their returns hold. A2C, PPO, and NRL with the constructor's defaults and one environment (``defaults``)
stop at the bar.
"""

import functools
import importlib
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from statistics import NormalDist, median
from typing import Any, NamedTuple

import numpy as np
import rl_zoo3
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter
from rl_zoo3.utils import create_test_env, get_saved_hyperparams
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

import sb3_nrl.analysis
import sb3_nrl.zoo
from experiments import tables
from experiments.execution import command_line, results_of
from experiments.runs import ROOT, Columns, Results, Run

DOCUMENT = tables.DOCS / "benchmarks.md"
N_EPISODES = 100  # number of episodes in a mean
N_ROWS = 200  # number of points of a stored learning curve
STYLES = {
    "nrl": ("NRL", tables.BLUE, "-"),
    "defaults": ("NRL, defaults", tables.LIGHT_BLUE, "-"),
    "rmhl": ("RMHL", tables.ORANGE, ":"),
    "a2c": ("A2C", tables.GREEN, "-."),
    "ppo": ("PPO", tables.BLACK, "--"),
}
"""Name, colour and line of each algorithm."""
ZOO = ("a2c", "ppo")  # algorithms whose configs are the RL Zoo's
BEYOND_BAR = ("nrl", "rmhl", "spiking")  # algorithms that do not stop at the bar
COMMANDS = {"defaults": "nrl", "spiking": "nrl", "surrogate": "bptt", "snntorch": "ppo"}
"""What the command trains, for names that are no algorithm."""
FILES = {
    "defaults": "experiments/defaults.yml",
    "spiking": "zoo_configs/spiking.yml",
    "surrogate": "experiments/surrogate.yml",
    "snntorch": "experiments/snntorch.yml",
}
"""Hyper-parameters of these."""


class Goal(NamedTuple):
    """The goal on a task."""

    bar: float  # threshold of the mean return of 100 episodes
    floor: float  # a seed with a lower mean after the bar does not hold: 80 % of the bar, or 125 % if returns are costs
    steps: str  # number of steps within which half of the seeds (all seeds) should pass the bar


PERCEPTUAL = "neurogym/PerceptualDecisionMaking-v0"
_EVIDENCE = np.array([0, 6.4, 12.8, 25.6, 51.2]) / 100 / math.hypot(0.1, 0.1) * math.sqrt(20)
"""For each coherence: the difference of the two stimuli over 20 frames, in standard deviations of its noise."""
BEST = float(np.mean([NormalDist().cdf(evidence) for evidence in _EVIDENCE]))
"""Mean reward of the best policy, which chooses the side with the larger sum of the stimulus."""
GOALS = {
    "CartPole-v1": Goal(475, 380, "70,000 (150,000)"),
    "Acrobot-v1": Goal(-100, -125, "50,000 (150,000)"),
    "MountainCarContinuous-v0": Goal(90, 72, "60,000 (200,000)"),
    "Pendulum-v1": Goal(-200, -250, "200,000 (500,000)"),
    "LunarLander-v3": Goal(200, 160, "500,000 (1,000,000)"),
    PERCEPTUAL: Goal(0.9 * BEST, 0.72 * BEST, "A2C's (twice that)"),
}


class StopAtBar(BaseCallback):
    """Ends a training when the mean return of 100 episodes passes a bar."""

    def __init__(self, bar: float) -> None:
        super().__init__()
        self.bar = bar

    def _on_step(self) -> bool:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        return len(returns) < N_EPISODES or sum(returns) < N_EPISODES * self.bar


@functools.cache
def config(task: str, algorithm: str) -> dict[str, Any]:
    """The hyper-parameters of an algorithm: those for the task, else for an older version of it, else the default."""
    file = ROOT / FILES.get(algorithm, f"zoo_configs/{algorithm}.yml")
    if algorithm in ZOO:
        file = pathlib.Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algorithm}.yml"
        if task == PERCEPTUAL:  # the RL Zoo has no config
            file = ROOT / FILES["defaults"]
    configs = yaml.safe_load(file.read_text())
    versions = [f"{task[:-1]}{version}" for version in range(int(task[-1]), -1, -1)]
    return next(configs[name] for name in (*versions, "default") if name in configs)


def slug(name: str) -> str:
    """Convert a name to a part of a file name."""
    return re.sub(r"[^a-zA-Z0-9.]+", "-", name.replace("γ", "gamma")).strip("-")


def training(
    task: str, algorithm: str, seed: int, changes: Sequence[str] = (), bar: float | None = None, **settings: Any
) -> Run:
    """The run of a training from one seed, with changes to the config (as for ``--hyperparams``) and other settings."""
    settings = {
        "env": task,
        "algorithm": algorithm,
        "config": config(task, algorithm),
        "changes": list(changes),
        "bar": GOALS[task].bar if bar is None else bar,
        "stop": algorithm not in BEYOND_BAR,
        "n_eval_episodes": N_EPISODES,
        "seed": seed,
        **settings,
    }
    name = "_".join([slug(task), algorithm, *map(slug, changes), str(seed)])
    return Run(name, train, settings, seed, settings["config"]["n_timesteps"] / 3_000, (task, algorithm))


def train(settings: dict[str, Any]) -> Columns:
    """Train with the command, evaluate, and return the learning curve and the numbers of :func:`judge`."""
    task, algorithm, seed = settings["env"], settings["algorithm"], settings["seed"]
    algo = COMMANDS.get(algorithm, algorithm)
    stop = [f"callback:{{'experiments.learning.StopAtBar': {{'bar': {settings['bar']}}}}}"] * settings["stop"]
    with trained(task, algo, seed, settings["config"], [*settings["changes"], *stop]) as (run, peak_mib):
        curve = learning_curve(run)
        numbers = judge(curve, settings["bar"]) | {"peak_mib": peak_mib}
        if settings.get("is_spiking"):
            numbers |= cost(run, task, algo)
        if settings["n_eval_episodes"]:
            numbers["evaluation"] = evaluate(run, task, algo, seed, settings["n_eval_episodes"])
    kept = np.unique(np.linspace(0, len(curve["steps"]) - 1, N_ROWS).round().astype(int))
    return {name: values[kept] for name, values in curve.items()} | {n: np.array(v) for n, v in numbers.items()}


@contextmanager
def trained(
    task: str, algorithm: str, seed: int, entry: dict[str, Any], changes: Sequence[str] = ()
) -> Iterator[tuple[pathlib.Path, float]]:
    """
    Train with the command, in a folder that is removed afterwards. Give the folder of the run, whose files name no path
    of this machine, and the peak memory of the process in MiB.
    """
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.yml").write_text(yaml.safe_dump({task: entry}, sort_keys=False))
        command = [sys.executable, "-m", "sb3_nrl", "train", "--algo", algorithm, "--env", task, "--seed", str(seed)]
        command += ["--conf-file", "config.yml", "-f", ".", "--eval-freq", "-1", "--verbose", "0"]
        command += ["--hyperparams", *changes] if changes else []
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder, env=environ)
        _, status, usage = os.wait4(child.pid, 0)
        if status != 0:
            raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
        yield pathlib.Path(folder, algorithm, f"{task.replace('/', '-')}_1"), usage.ru_maxrss / 1024


def learning_curve(folder: pathlib.Path) -> Columns:
    """
    Compute the learning curve from the logs of a training's environments, with one point at the end of each episode.
    ``steps`` is the number of steps of all environments and ``seconds`` the time until then. ``return`` is the mean
    return of the last 100 episodes, or of all if there are fewer.
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
    Find when the mean of 100 episodes passed the bar, and the lowest mean after that; both are NaN if it never did. The
    other numbers are the last mean, the number of steps, and the time of a step.
    """
    steps, seconds, means = curve["steps"], curve["seconds"], curve["return"]
    passed = N_EPISODES - 1 + np.flatnonzero(means[N_EPISODES - 1 :] >= bar)
    at_bar = (steps[passed[0]], seconds[passed[0]], means[passed[0] :].min()) if len(passed) else [math.nan] * 3
    names = ("passed_steps", "passed_seconds", "lowest", "last", "n_steps", "seconds_per_step")
    return dict(zip(names, (*at_bar, means[-1], steps[-1], seconds[-1] / steps[-1]), strict=True))


def cost(folder: pathlib.Path, task: str, algorithm: str) -> dict[str, float]:
    """What a decision of a trained spiking policy costs, and the mean return of 20 episodes without exploration."""
    model, env = load(folder, task, algorithm, seed=20_000)
    if isinstance(model, sb3_nrl.ThreeFactorAlgorithm):
        mean_return, _ = evaluate_policy(model, env, 20)
        return {**sb3_nrl.analysis.energy(model, env, n_episodes=3)._asdict(), "mean_return": float(mean_return)}  # type: ignore[arg-type]
    extractor, spikes = model.policy.pi_features_extractor, []

    def count(*_: Any) -> None:
        spikes.append(extractor.ticks * float(extractor.rates.sum()))

    mean_return, _ = evaluate_policy(model, env, 20, callback=count)
    return {"spikes": float(np.mean(spikes)), "mean_return": float(mean_return)}  # type: ignore[arg-type]


def evaluate(folder: pathlib.Path, task: str, algorithm: str, seed: int, n_episodes: int) -> float:
    """The mean return of the trained policy with its most likely actions."""
    model, env = load(folder, task, algorithm, 10_000 + seed)
    return float(np.mean(evaluate_policy(model, env, n_episodes)[0]))


def load(folder: pathlib.Path, task: str, algorithm: str, seed: int, **env_kwargs: Any) -> tuple[Any, VecEnv]:
    """A trained model, and an environment to evaluate it in, with further arguments."""
    sb3_nrl.zoo.register()
    if task.startswith("neurogym/"):
        importlib.import_module("sb3_nrl.envs")
    path = folder / task.replace("/", "-")
    hyperparams, statistics = get_saved_hyperparams(str(path), test_mode=True)
    env_kwargs = {**hyperparams.get("env_kwargs", {}), **env_kwargs}
    env = create_test_env(
        *(task, 1, statistics, seed), should_render=False, hyperparams=hyperparams, env_kwargs=env_kwargs
    )
    return rl_zoo3.ALGOS[algorithm].load(path.with_suffix(path.suffix + ".zip"), device="cpu"), env


def tabulate(results: Results) -> str:
    """
    Make a table with one row for each task and algorithm, in Markdown.

    The row has dashes where NRL was not trained with its defaults.
    """
    rows, tasks = [], {run.of[0] for run in results}
    for task, algorithm in product(GOALS, STYLES):
        runs = [result.columns for run, result in results.items() if run.of == (task, algorithm)]
        if runs:
            steps, seconds = ([run[name].item() for run in runs] for name in ("passed_steps", "passed_seconds"))
            evaluations = [run["evaluation"].item() for run in runs]
            lowest = [run["lowest"].item() for run in runs if not math.isnan(run["lowest"])]
            n_held = sum(low >= GOALS[task].floor for low in lowest)
            held = f"{n_held} of {len(lowest)} ({tables.number(min(lowest))})" if lowest else "–"
            is_first = algorithm == "nrl"
            rows.append(
                [
                    *((task, tables.number(GOALS[task].bar)) if is_first else ("", "")),
                    STYLES[algorithm][0],
                    f"{len(lowest)} of {len(runs)}",
                    f"{middle(steps)} ({middle(steps, max)})",
                    GOALS[task].steps if is_first else "",
                    middle(seconds),
                    held if algorithm in BEYOND_BAR else "",
                    f"{tables.number(float(np.mean(evaluations)))} ({tables.number(min(evaluations))})",
                ]
            )
        elif task in tasks and algorithm == "defaults":
            rows.append(["", "", STYLES[algorithm][0], "–", "–", "", "–", "", "–"])
    until = "steps until then: median (maximum)"
    return tables.markdown(
        ("", "bar", "", "passed", until, "goal", "seconds", "held (lowest mean)", "evaluation"), rows
    )


def middle(values: Sequence[float], take: Callable[[list[float]], float] = median) -> str:
    """Format the median or another statistic. NaN counts as infinite, and an infinite value is shown as a dash."""
    value = take([math.inf if math.isnan(value) else value for value in values])
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def draw_spread(
    axes: Axes, curves: Sequence[Columns], x: str, grid: np.ndarray, color: str, line: str = "-", label: str = ""
) -> None:
    """Draw the median of learning curves and their range, where all have begun."""
    means = np.array([np.interp(grid, curve[x], curve["return"], left=np.nan) for curve in curves])
    begun = ~np.isnan(means).any(axis=0)
    low, center, high = np.quantile(means[:, begun], (0, 0.5, 1), axis=0)
    axes.plot(grid[begun], center, line, color=color, label=label)
    axes.fill_between(grid[begun], low, high, color=color, alpha=0.15, linewidth=0)


def draw(results: Results) -> Figure:
    """
    Draw the median over seeds and their range, against steps and seconds, until the first seed ends. Circles are the
    ends of trainings that stopped at the bar. RMHL is shown no longer than the others.
    """
    tasks = [task for task in GOALS if any(run.of[0] == task for run in results)]
    figure = Figure(figsize=(9, 2.3 * len(tasks)), layout="constrained")
    panels = figure.subplots(len(tasks), 2, squeeze=False, sharey="row")
    for (task, row), (column, x) in product(zip(tasks, panels, strict=True), enumerate(("steps", "seconds"))):
        axes, bar = row[column], GOALS[task].bar
        curves = {a: [result.columns for run, result in results.items() if run.of == (task, a)] for a in STYLES}
        longest = max(curve[x][-1] for algorithm, own in curves.items() if algorithm != "rmhl" for curve in own)
        axes.axhline(bar, color="0.6", linewidth=0.8, zorder=0)
        axes.annotate(
            f" bar {tables.number(bar)}", (1, bar), xycoords=("axes fraction", "data"), va="center", fontsize="small"
        )
        for algorithm, (_, color, line) in STYLES.items():
            if own := curves[algorithm]:
                grid = np.linspace(0, min(longest, *(curve[x][-1] for curve in own)), N_ROWS)
                draw_spread(axes, own, x, grid, color, line)
                if algorithm not in BEYOND_BAR:
                    ends = np.array([(curve[x][-1], curve["return"][-1]) for curve in own])
                    axes.plot(*ends.T, "o", color=color, markersize=4, markerfacecolor="white")
        axes.set(xlabel=x, title=task.split("/")[-1], xlim=(0, 1.03 * longest))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.spines[["top", "right"]].set_visible(False)
    figure.supylabel("mean return of 100 episodes")
    handles = [Line2D([], [], color=color, linestyle=line, label=label) for label, color, line in STYLES.values()]  # type: ignore[arg-type]
    end = Line2D([], [], color="0.4", marker="o", linewidth=0, markerfacecolor="white", label="a seed stopped")
    figure.legend(handles=[*handles, end], loc="outside upper center", ncols=6, frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then report everything."""
    parser = command_line(__doc__ or "", "learning", range(10), workers=1)
    parser.add_argument("--hyperparams", nargs="+", default=[], help="changes to the configs, as sb3-nrl train takes")

    chosen = parser.parse_args(arguments)

    def plan(seeds: Sequence[int]) -> list[Run]:
        cases = product(GOALS, STYLES, seeds)
        return [training(*case, chosen.hyperparams) for case in cases]

    results, status = results_of(parser, chosen, plan)
    tables.save(draw(results), chosen.out.with_suffix(".png"))
    tables.publish(tabulate(results), chosen.out, "learning", DOCUMENT)
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.learning").main())
