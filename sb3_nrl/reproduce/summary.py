"""What the seeds of a cell reached, together: by rliable's interquartile mean, and by the plain one."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from rliable import library, metrics

from sb3_nrl.reproduce.protocol import N_LAST, SEEDS, TASKS, Cell
from sb3_nrl.reproduce.runs import Columns, Result, Run, Training, block_size, blocks, final_return

LEARNED = 0.5
"""The score, from the worst return (0) to the best one (1), from which on a training counts as one that learned."""

_N_BOOTSTRAPS = 1_000


class Summary(NamedTuple):
    """
    What the seeds of a cell reached.

    :param cell: The cell
    :param curves: Columns of each training, by its seed
    :param finals: Mean return of the last 50 episodes of each training, in the order of the seeds
    :param mean: Their mean
    :param iqm: Their interquartile mean
    :param low: Lower end of its 95 % confidence interval, by the bootstrap
    :param high: Upper end
    :param made_with: Versions, commits and machines
    """

    cell: Cell
    curves: dict[int, Columns]
    finals: np.ndarray
    mean: float
    iqm: float
    low: float
    high: float
    made_with: tuple[str, ...]

    @property
    def learned(self) -> np.ndarray:
        """Which seeds came at least half-way from the worst to the best return."""
        return np.array([TASKS[self.cell.task].score(final) >= LEARNED for final in self.finals])

    @property
    def tally(self) -> str:
        """How many of how many seeds learned."""
        return f"{self.learned.sum()}/{len(self.finals)}"

    @property
    def complete(self) -> bool:
        """Whether there are as many seeds as a verdict wants."""
        return len(self.finals) >= len(SEEDS)

    @property
    def score(self) -> float:
        """Where the mean lies between the worst (0) and the best return (1)."""
        return TASKS[self.cell.task].score(self.mean)

    @property
    def speed(self) -> float:
        """After how many episodes half of the seeds had passed the task's goal, infinite if they never did."""
        goal = TASKS[self.cell.task].goal
        return float(np.median([episodes_until(goal, columns) for columns in self.curves.values()]))


Summaries: TypeAlias = Mapping[Cell, Summary]


def summarize(results: Iterable[tuple[Run, Result]]) -> Summaries:
    """
    Take the trainings of each cell together.

    :param results: Runs and their results, measurements among them
    :return: A summary of each cell that was trained
    """
    trainings: dict[Cell, dict[int, Result]] = {}
    for run, result in results:
        if isinstance(run, Training):
            trainings.setdefault(run.cell, {})[run.seed] = result
    summaries = {}
    for cell, by_seed in trainings.items():
        curves = {seed: by_seed[seed].columns for seed in sorted(by_seed)}
        finals = np.array([final_return(columns) for columns in curves.values()])
        made_with = tuple(sorted({result.made_with for result in by_seed.values()}))
        summaries[cell] = Summary(cell, curves, finals, float(finals.mean()), *interquartile_mean(finals), made_with)
    return summaries


def baseline_of(cell: Cell, summaries: Summaries) -> Summary | None:
    """BP with the setting of a cell or, if what is recommended there leaves BP as it is, as published."""
    settings = (cell.setting, "paper")
    found = (summaries.get(Cell(cell.task, "BPTT", cell.n_hidden, setting)) for setting in settings)
    return next(filter(None, found), None)


def episodes_until(goal: float, columns: Columns) -> float:
    """
    Tell how fast a training was.

    :param goal: A return
    :param columns: Of the training; if they are thinned, the answer is the same
    :return: After how many episodes the mean return of the last 50 was above the goal, infinite if it never was
    """
    episodes, means = recent_means(columns)
    passed = episodes[means > goal]
    return float(passed[0]) if len(passed) else np.inf


def recent_means(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """
    Follow the mean return of the last 50 episodes.

    :param columns: Of a training; if they are thinned, the answer is the same
    :return: Episodes, and the mean of the 50 up to each
    """
    size = block_size(int(columns["episode"][-1]))
    rows = blocks(columns, size)
    n_rows = min(N_LAST // size, len(rows["return"]))
    return rows["episode"][n_rows - 1 :], np.convolve(rows["return"], np.full(n_rows, 1 / n_rows), "valid")


def interquartile_mean(finals: np.ndarray) -> tuple[float, float, float]:
    """
    The mean of the middle half of the runs, which no single run decides.

    :param finals: One number for each run
    :return: The interquartile mean, and both ends of its 95 % confidence interval
    """
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002 - rliable draws from NumPy's global generator
    try:
        points, intervals = library.get_interval_estimates(
            {"": finals[:, None]}, lambda scores: np.array([metrics.aggregate_iqm(scores)]), reps=_N_BOOTSTRAPS
        )
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return float(points[""][0]), float(intervals[""][0, 0]), float(intervals[""][1, 0])
