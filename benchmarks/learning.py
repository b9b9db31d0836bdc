"""How many steps, and how long, NRL takes to learn with the configs that are shipped, beside RMHL, A2C and PPO.

    python benchmarks/learning.py

trains what is not there yet through ``sb3-nrl train``, A2C and PPO as the RL Zoo does, keeps the learning curve of each
run in ``results/learning/``, and makes tables, ``results/learning.csv`` and, printed, a shorter one, and a figure,
``results/learning.png``: steps and seconds until the mean return of 100 episodes passed the bar, the least such mean
after that, and the mean return of 100 evaluation episodes of the trained policy. NRL and RMHL go on after the bar, to
show whether they hold; A2C, PPO, and NRL with the constructor's defaults and one environment (``defaults``) stop there.
A run whose file is there is not made again, whatever the settings are now: delete the file for that.
"""

import argparse
import csv
import itertools
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from statistics import NormalDist, median
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import rl_zoo3
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from records import ROOT, versions, write
from rl_zoo3.utils import create_test_env, get_saved_hyperparams
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_nrl.envs
import sb3_nrl.zoo

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE / "defaults.yml"
BASELINES = ("a2c", "ppo")
DEFAULTS = "defaults"
"""NRL with the constructor's defaults and one environment."""
TASKS_OF_DEFAULTS = ("CartPole-v1", "Acrobot-v1")
ALGORITHMS = ("nrl", DEFAULTS, "rmhl", *BASELINES)
GO_ON = ("nrl", "rmhl")
"""Those that do not stop at the bar."""
N_EPISODES = 100
N_ROWS = 200
"""Of a learning curve that is kept."""


class Goal(NamedTuple):
    """
    What is to be reached on a task.

    :param bar: Mean return of 100 episodes
    :param median: Steps within which half of the seeds are to pass the bar, None for as many as A2C takes
    :param most: Steps within which all of them are, None for twice as many as A2C takes
    """

    bar: float
    median: int | None
    most: int | None

    @property
    def floor(self) -> float:
        """What counts as holding: 80 % of the bar, or, where returns are costs, a quarter more of them."""
        return self.bar * 0.8 if self.bar > 0 else self.bar / 0.8

    @property
    def text(self) -> str:
        """The steps, in the table."""
        return "A2C's (twice that)" if self.median is None else f"{self.median:,} ({self.most:,})"


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
    PERCEPTUAL: Goal(0.9 * BEST, None, None),
}


STYLES = {
    "nrl": ("NRL", "#0072b2", "-"),
    "defaults": ("NRL, defaults", "#56b4e9", "-"),
    "rmhl": ("RMHL", "#d55e00", ":"),
    "a2c": ("A2C", "#009e73", "-."),
    "ppo": ("PPO", "#000000", "--"),
}
"""Name, colour and line of each algorithm."""


class Run(NamedTuple):
    """What is trained."""

    task: str
    algorithm: str
    seed: int


class StopAtBar(BaseCallback):
    """
    Ends a training when the mean return of 100 episodes passes the bar.

    :param bar: The bar
    """

    def __init__(self, bar: float) -> None:
        super().__init__()
        self.bar = bar

    def _on_step(self) -> bool:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        return len(returns) < N_EPISODES or sum(returns) < N_EPISODES * self.bar


class Learned(NamedTuple):
    """
    What became of a run.

    :param steps: Steps of all environments until the mean return of 100 episodes passed the bar, None if it never did
    :param seconds: Time until then
    :param lowest: The least mean of 100 episodes from then on
    :param last: The mean of the last 100 episodes
    :param n_steps: Steps of the whole run
    :param evaluation: Mean return of 100 evaluation episodes
    """

    steps: int | None
    seconds: float | None
    lowest: float | None
    last: float
    n_steps: int
    evaluation: float


class Curve(NamedTuple):
    """
    The mean return of the last 100 episodes, or of all if there were fewer, at the ends of episodes.

    :param steps: Steps of all environments until then
    :param seconds: Time until then
    :param means: The mean return
    """

    steps: np.ndarray
    seconds: np.ndarray
    means: np.ndarray


def measure(task: str, algorithm: str, seed: int) -> list[Sequence[object]]:
    """
    Train, and evaluate what was trained.

    :param task: A key of ``GOALS``
    :param algorithm: One of ``ALGORITHMS``
    :param seed: Seed
    :return: What the run was and what became of it, then its learning curve
    """
    algo = "nrl" if algorithm == DEFAULTS else algorithm
    # which the zoo has no config for
    config = CONFIGS if algorithm == DEFAULTS or (algorithm in BASELINES and task == PERCEPTUAL) else None
    changes = [] if algorithm in GO_ON else [stop_at_bar(task)]
    with tempfile.TemporaryDirectory() as folder:
        run = train(task, algo, seed, pathlib.Path(folder), changes, config)
        curve = learning_curve(run)
        learned = judge(curve, GOALS[task].bar, evaluate(run, task, algo, seed))
    return [(task, algorithm, seed, *learned, versions()), *thin(curve)]


def train(
    task: str, algo: str, seed: int, folder: pathlib.Path, changes: Sequence[str], config: pathlib.Path | None = None
) -> pathlib.Path:
    """
    Train as a user would.

    :param task: Registered name of the environment
    :param algo: One that ``sb3-nrl`` knows
    :param seed: Seed
    :param folder: Where the run is to be
    :param changes: What to set otherwise than the config does, as ``--hyperparams`` takes it
    :param config: The config, by default the shipped one
    :return: Folder of the run
    """
    command = [sys.executable, "-m", "sb3_nrl", "train", "--algo", algo, "--env", task, "--seed", str(seed)]
    options = [*(["--conf-file", str(config)] if config else []), *(["--hyperparams", *changes] if changes else [])]
    subprocess.run(
        [*command, *options, "-f", str(folder), "--eval-freq", "-1", "--verbose", "0"],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.getenv("PYTHONPATH")])])},
    )
    (run,) = (folder / algo).glob("*_1")
    return run


def stop_at_bar(task: str) -> str:
    """What ends a training when it has passed the bar, as ``--hyperparams`` takes it."""
    return f"callback:{{'learning.StopAtBar': {{'bar': {GOALS[task].bar}}}}}"


def learning_curve(run: pathlib.Path) -> Curve:
    """Read the logs of each environment."""
    logs = sorted(run.glob("*.monitor.csv"))
    starts, rows = [], []
    for log in logs:
        header, _, *lines = log.read_text().splitlines()
        starts.append(json.loads(header.removeprefix("#"))["t_start"])
        steps = 0
        for line in lines:
            reward, length, seconds, *_ = map(float, line.split(","))
            steps += int(length)
            rows.append((starts[-1] + seconds, steps * len(logs), reward))
    seconds, steps, returns = np.array(sorted(rows)).T
    sums = np.concatenate([np.zeros(N_EPISODES), np.cumsum(returns)])
    means = (sums[N_EPISODES:] - sums[:-N_EPISODES]) / np.minimum(np.arange(1, len(returns) + 1), N_EPISODES)
    return Curve(steps.astype(int), seconds - min(starts), means)


def judge(curve: Curve, bar: float, evaluation: float) -> Learned:
    """
    What became of a run. The mean is looked at after each episode; ``StopAtBar`` sees only those at the end of a step,
    in which several environments may have ended one. Where all end together, as in Pendulum, it may go on for a while.
    """
    passed = N_EPISODES - 1 + np.flatnonzero(curve.means[N_EPISODES - 1 :] >= bar)
    last = (float(curve.means[-1]), int(curve.steps[-1]), evaluation)
    if len(passed) == 0:
        return Learned(None, None, None, *last)
    first = passed[0]
    return Learned(int(curve.steps[first]), float(curve.seconds[first]), float(curve.means[first:].min()), *last)


def evaluate(run: pathlib.Path, task: str, algorithm: str, seed: int) -> float:
    """Mean return of the trained policy's likeliest actions."""
    name = task.replace("/", "-")
    hyperparams, statistics = get_saved_hyperparams(str(run / name), test_mode=True)
    env = create_test_env(task, stats_path=statistics, seed=10_000 + seed, should_render=False, hyperparams=hyperparams)
    model = rl_zoo3.ALGOS[algorithm].load(run / f"{name}.zip", device="cpu")
    return float(np.mean(evaluate_policy(model, env, N_EPISODES)[0]))


def thin(curve: Curve) -> list[Sequence[object]]:
    """Rows of a learning curve, at most ``N_ROWS``, the last one included."""
    kept = np.unique(np.linspace(0, len(curve.means) - 1, N_ROWS).round().astype(int))
    return [
        (steps, f"{seconds:.2f}", f"{mean:.5g}")
        for steps, seconds, mean in zip(*(part[kept] for part in curve), strict=True)
    ]


def read(folder: pathlib.Path) -> tuple[dict[Run, Learned], dict[Run, Curve]]:
    """What became of all runs that are there, and their learning curves."""
    learned, curves = {}, {}
    for path in sorted(folder.glob("*.csv")):
        with path.open() as file:
            (task, algorithm, seed, *values, _), *rows = csv.reader(file)
        run = Run(task, algorithm, int(seed))
        steps, seconds, lowest, *rest = (float(value) if value else None for value in values)
        learned[run] = Learned(steps, seconds, lowest, *rest)  # type: ignore[arg-type]
        curves[run] = Curve(*np.array(rows, dtype=float).T)
    return learned, curves


def tabulate(learned: dict[Run, Learned]) -> str:
    """One row for each task and algorithm, in Markdown; in NRL's, what is to be reached."""
    table = [
        "| | bar | | passed | steps until then: median (most) | goal | seconds | held (lowest mean) | evaluation |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, algorithm in itertools.product(GOALS, ALGORITHMS):
        runs = [became for run, became in learned.items() if run[:2] == (task, algorithm)]
        if not runs:
            continue
        steps = sorted(run.steps or math.inf for run in runs)
        seconds = median(run.seconds or math.inf for run in runs)
        passed = [run for run in runs if run.steps is not None]
        cells = [
            task if algorithm == ALGORITHMS[0] else "",
            f"{GOALS[task].bar:.3g}" if algorithm == ALGORITHMS[0] else "",
            STYLES[algorithm][0],
            f"{len(passed)} of {len(runs)}",
            f"{_number(median(steps))} ({_number(steps[-1])})",
            GOALS[task].text if algorithm == ALGORITHMS[0] else "",
            _number(seconds),
            _held(passed, GOALS[task].floor) if algorithm in GO_ON else "",
            f"{np.mean([run.evaluation for run in runs]):.3g} ({min(run.evaluation for run in runs):.3g})",
        ]
        table.append(f"| {' | '.join(cells)} |")
    return "\n".join(table)


def _held(passed: list[Learned], floor: float) -> str:
    lowest = [run.lowest for run in passed if run.lowest is not None]
    return f"{sum(low >= floor for low in lowest)} of {len(lowest)} ({min(lowest):.3g})" if lowest else "–"


def _number(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def draw(curves: dict[Run, Curve]) -> Figure:
    """The median over seeds and their range, against steps and against seconds; RMHL no longer than the others."""
    tasks = [task for task in GOALS if any(run.task == task for run in curves)]
    figure = Figure(figsize=(8, 2 * len(tasks)), layout="constrained")
    panels = figure.subplots(len(tasks), 2, squeeze=False, sharey="row")
    for (row, task), (column, name) in itertools.product(enumerate(tasks), enumerate(("steps", "seconds"))):
        axes = panels[row, column]
        axes.axhline(GOALS[task].bar, color="0.6", linewidth=0.8)
        others = [getattr(c, name)[-1] for run, c in curves.items() if run.task == task and run.algorithm != "rmhl"]
        longest = max(others, default=math.inf)
        for algorithm, (label, color, line) in STYLES.items():
            own = [curve for run, curve in curves.items() if run[:2] == (task, algorithm)]
            if not own:
                continue
            end = min(longest, max(getattr(curve, name)[-1] for curve in own))
            grid = np.linspace(0, end, N_ROWS)
            # A training that stopped at the bar stays there in the picture.
            means = np.array([np.interp(grid, getattr(c, name), c.means, left=np.nan) for c in own])
            begun = ~np.isnan(means).any(axis=0)
            low, middle, high = np.quantile(means[:, begun], (0, 0.5, 1), axis=0)
            axes.plot(grid[begun], middle, line, color=color, label=label)
            axes.fill_between(grid[begun], low, high, color=color, alpha=0.15, linewidth=0)
        axes.set_xlabel(name)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_title(task.split("/")[-1], fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    figure.supylabel("mean return of 100 episodes", fontsize="medium")
    shown = {line.get_label(): line for axes in panels[:, 0] for line in axes.get_lines()}
    labels = [label for label, _, _ in STYLES.values() if label in shown]
    figure.legend(
        [shown[label] for label in labels], labels, loc="outside lower center", ncols=len(labels), frameon=False
    )
    return figure


def main() -> None:
    """Run what is missing, one run after the other, then report everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(GOALS), choices=list(GOALS))
    parser.add_argument("--algorithms", nargs="*", default=list(ALGORITHMS), choices=list(ALGORITHMS))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(10)), help="none to report only")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "results" / "learning")
    arguments = parser.parse_args()
    sb3_nrl.zoo.register()
    for seed, task, algorithm in itertools.product(arguments.seeds, arguments.tasks, arguments.algorithms):
        if algorithm == DEFAULTS and task not in TASKS_OF_DEFAULTS:
            continue
        path = arguments.out / f"{task.replace('/', '-')}_{algorithm}_{seed}.csv"
        if not path.exists():
            write(path, measure(task, algorithm, seed))
            print(path.name, flush=True)
    learned, curves = read(arguments.out)
    if not learned:
        parser.error(f"there is no run in {arguments.out}, and none of these can be made")
    write(
        arguments.out.with_suffix(".csv"), [(*Run._fields, *Learned._fields), *((*k, *v) for k, v in learned.items())]
    )
    draw(curves).savefig(arguments.out.with_suffix(".png"), dpi=150)
    print(tabulate(learned))


if __name__ == "__main__":
    main()
