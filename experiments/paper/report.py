"""What was reached, beside the paper's claims and an independent simulation."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from rliable import library, metrics

from experiments import tables
from experiments.paper.protocol import CHANGES, LABELS, N_LAST, SEEDS, TASKS, Cell, final_return, train
from experiments.runs import Columns, Result, Results, csv_text

LEARNED = 0.5
"""A training learned if its final return has this score, from the worst return (0) to the best one (1)."""

COMPARABLE = 0.95
"""NRL reaches BP if its score is at least this part of BP's."""

SAME = 0.05
"""The part of a task's range by which a result and the reference may differ."""

N_BOOTSTRAPS = 1_000


class Reference(NamedTuple):
    """What an independent simulation of the same protocol reached."""

    mean: float  # return of the last 50 episodes
    learned: str = ""  # how many of how many seeds, where that is known

    def __str__(self) -> str:
        return f"{self.mean:.0f}{f' ({self.learned})' if self.learned else ''}"


REFERENCE: dict[Cell, Reference] = {
    Cell(task, algorithm, n_hidden, setting): reference
    for (task, n_hidden, setting), references in {
        ("CartPole", 1, "paper"): (Reference(498, "5/5"), Reference(499), Reference(82)),
        ("CartPole", 2, "paper"): (Reference(500, "5/5"), Reference(500), Reference(60)),
        ("CartPole", 3, "paper"): (Reference(402, "4/5"), Reference(500), Reference(36)),
        ("Acrobot", 1, "paper"): (Reference(-253, "3/5"), Reference(-170, "4/5"), Reference(-487)),
        ("Acrobot", 1, "recommended"): (Reference(-88, "8/8"), Reference(-83, "8/8")),
        ("Acrobot", 2, "paper"): (Reference(-88, "5/5"), Reference(-81), Reference(-471)),
        ("Acrobot", 3, "paper"): (Reference(-88, "5/5"), Reference(-84), Reference(-495)),
        ("Reaching", 1, "paper"): (Reference(238), Reference(263), Reference(68)),
    }.items()
    for algorithm, reference in zip(LABELS, references, strict=False)
}
"""The last 50 episodes of five seeds (eight with the small head), by NRL, BP and RMHL."""

LEGEND = f"""Each cell has the mean return of the last {N_LAST} episodes and, in brackets, how many seeds learned. A
seed learned if its final return is at least half-way from the worst to the best possible return. The second line has
the interquartile mean with its bootstrap interval (nominally 95 %, somewhat less with so few seeds). BP is `BPTT`, the
exact gradient. NRL reaches BP if both learned from all of {len(SEEDS)} seeds and NRL has at least {COMPARABLE:.0%} of
BP's return, counted from the worst one. NRL beats RMHL if their intervals do not overlap. Episodes are counted until
the mean of the last {N_LAST} passes {", ".join(f"{task.goal:.0f} in {name}" for name, task in TASKS.items())}: the
median of the seeds. The reference is an independent simulation of the same protocol. It is bold where the two differ by
more than {SAME:.0%} of the range of returns."""

HEADER = (
    *("task, hidden layers", "NRL", "BP", "RMHL", "the paper's claims"),
    *("reference: NRL, BP, RMHL", "episodes: NRL, BP, RMHL"),
)

COLUMNS = (
    *("task", "hidden_layers", "setting", "change", "algorithm"),
    *("mean", "iqm", "ci_low", "ci_high", "learned", "seeds", "finals", "reference", "reference_learned", "agrees"),
    *("goal", "episodes_to_goal", "made_with"),
)

_YES = {None: "", True: "yes", False: "no"}


class Summary(NamedTuple):
    """What the seeds of a cell reached."""

    cell: Cell
    curves: dict[int, Columns]  # of each training, by seed
    finals: np.ndarray  # final return of each training
    iqm: float  # their interquartile mean
    low: float  # the ends of its confidence interval
    high: float
    made_with: list[str]

    @property
    def mean(self) -> float:
        """Mean final return."""
        return float(self.finals.mean())

    @property
    def score(self) -> float:
        """Where the mean lies between the worst (0) and the best return (1)."""
        return TASKS[self.cell.task].score(self.mean)

    @property
    def learned(self) -> np.ndarray:
        """Which seeds learned."""
        return TASKS[self.cell.task].score(self.finals) >= LEARNED

    @property
    def tally(self) -> str:
        """How many of how many seeds learned."""
        return f"{self.learned.sum()}/{len(self.finals)}"

    @property
    def complete(self) -> bool:
        """Whether there are as many seeds as a verdict needs."""
        return len(self.finals) >= len(SEEDS)

    @property
    def speed(self) -> float:
        """Episodes until the goal: the median of the seeds, infinite if half of them never passed it."""
        goal = TASKS[self.cell.task].goal
        return float(np.median([episodes_until(goal, columns) for columns in self.curves.values()]))

    @property
    def agrees(self) -> bool | None:
        """Whether the mean is that of the reference, None if there is none."""
        task, reference = TASKS[self.cell.task], REFERENCE.get(self.cell)
        return None if reference is None else abs(self.mean - reference.mean) <= SAME * (task.best - task.worst)


Summaries = Mapping[Cell, Summary]


def summarize(results: Results) -> Summaries:
    """Take the trainings of each cell together."""
    trainings: dict[Cell, dict[int, Result]] = {}
    for run, result in results.items():
        if run.measure is train:
            trainings.setdefault(run.of, {})[run.seed] = result
    summaries = {}
    for cell, by_seed in trainings.items():
        curves = {seed: by_seed[seed].columns for seed in sorted(by_seed)}
        finals = np.array([final_return(columns) for columns in curves.values()])
        made_with = sorted({result.made_with for result in by_seed.values()})
        summaries[cell] = Summary(cell, curves, finals, *interquartile_mean(finals), made_with)
    return summaries


def interquartile_mean(finals: np.ndarray) -> tuple[float, float, float]:
    """The mean of the middle half of some numbers, and both ends of its 95 % bootstrap confidence interval."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002 - rliable draws from NumPy's global generator
    try:
        points, intervals = library.get_interval_estimates(
            {"": finals[:, None]}, lambda scores: np.array([metrics.aggregate_iqm(scores)]), reps=N_BOOTSTRAPS
        )
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return float(points[""][0]), float(intervals[""][0, 0]), float(intervals[""][1, 0])


def recent_means(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Episodes, and the mean return of the last 50 up to each."""
    n_rows = min(N_LAST // int(columns["episode"][0]), len(columns["return"]))
    return columns["episode"][n_rows - 1 :], np.convolve(columns["return"], np.full(n_rows, 1 / n_rows), "valid")


def episodes_until(goal: float, columns: Columns) -> float:
    """After how many episodes the mean return of the last 50 was above a goal, infinite if it never was."""
    episodes, means = recent_means(columns)
    return float(next(iter(episodes[means > goal]), np.inf))


def baseline_of(cell: Cell, summaries: Summaries) -> Summary | None:
    """BP with the setting of a cell or, if nothing else is recommended for BP, as published."""
    found = (summaries.get(Cell(cell.task, "BPTT", cell.n_hidden, setting)) for setting in (cell.setting, "paper"))
    return next(filter(None, found), None)


def reaches_bp(nrl: Summary, bp: Summary) -> bool | None:
    """The paper's first claim: NRL ends where BP does, with every seed. None if it cannot be judged."""
    if not (nrl.complete and bp.complete and all(bp.learned)):
        return None
    return bool(all(nrl.learned) and nrl.score / bp.score >= COMPARABLE)


def beats_rmhl(nrl: Summary, rmhl: Summary) -> bool | None:
    """The paper's second claim: NRL ends above RMHL. None if it cannot be judged."""
    return nrl.low > rmhl.high if nrl.complete and rmhl.complete else None


def claims(nrl: Summary | None, bp: Summary | None, rmhl: Summary | None) -> str:
    """Both verdicts in words."""
    parts = []
    if nrl and bp:
        verdict = {True: "reaches BP", False: "does not reach BP", None: "cannot be compared with BP"}
        told = f"{nrl.score / bp.score:.0%}" if all(bp.learned) else f"which learned from {bp.tally}"
        parts.append(f"{verdict[reaches_bp(nrl, bp)]} ({told})")
    if nrl and rmhl and (beats := beats_rmhl(nrl, rmhl)) is not None:
        parts.append(f"{'beats' if beats else 'does not beat'} RMHL")
    return f"NRL {', '.join(parts)}" if parts else "–"


def table(summaries: Summaries) -> str:
    """The comparison in Markdown, a line for each task, depth and setting, with its legend."""
    tasks, changes = list(TASKS), list(CHANGES)
    cases = {(tasks.index(c.task), c.n_hidden, c.setting, changes.index(c.change)) for c in summaries}
    lines = []
    for task, n_hidden, setting, change in sorted(cases):
        cell = Cell(tasks[task], "NRL", n_hidden, setting, changes[change])
        rmhl = None if cell.change else summaries.get(Cell(cell.task, "RMHL", n_hidden, setting))
        shown = (summaries.get(cell), baseline_of(cell, summaries), rmhl)
        finals = (_each(_finals, [summary]) for summary in shown)
        told = (_each(tell, shown) for tell in (_reference, lambda summary: count(summary.speed)))
        lines.append([text.replace("-", "−") for text in (cell.title, *finals, claims(*shown), *told)])
    return f"{tables.markdown(HEADER, lines)}\n\n{LEGEND}"


def _each(tell: Callable[[Summary], str], summaries: Sequence[Summary | None]) -> str:
    told = [tell(summary) if summary else "" for summary in summaries]
    return "; ".join(part or "–" for part in told) if any(told) else "–"


def _finals(summary: Summary) -> str:
    return f"{summary.mean:.0f} ({summary.tally})<br>{summary.iqm:.0f} [{summary.low:.0f}, {summary.high:.0f}]"


def _reference(summary: Summary) -> str:
    text = str(REFERENCE.get(summary.cell, ""))
    return f"**{text}**" if summary.agrees is False else text


def count(episodes: float) -> str:
    """A number of episodes, a dash if it is infinite."""
    return f"{episodes:,.0f}" if np.isfinite(episodes) else "–"


def csv_table(summaries: Summaries) -> str:
    """The comparison as CSV, a line for each cell."""
    lines = []
    for cell, summary in summaries.items():
        reference = REFERENCE.get(cell)
        lines.append(
            (
                *(cell.task, cell.n_hidden, cell.setting, cell.change, LABELS[cell.algorithm]),
                *(f"{value:.2f}" for value in (summary.mean, summary.iqm, summary.low, summary.high)),
                *(int(summary.learned.sum()), len(summary.finals)),
                " ".join(f"{value:.2f}" for value in summary.finals),
                *((reference.mean, reference.learned) if reference else ("", "")),
                _YES[summary.agrees],
                *(f"{TASKS[cell.task].goal:.0f}", f"{summary.speed:.0f}"),
                "; ".join(summary.made_with),
            )
        )
    return csv_text([COLUMNS, *lines])
