"""Compare the results with the paper's claims and with an independent simulation, in a table and in sentences."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from rliable import library, metrics

from experiments import tables
from experiments.paper import protocol
from experiments.paper.protocol import CHANGES, LABELS, N_LAST, RECOMMENDED, SEEDS, SETTINGS, TASKS, Cell
from experiments.runs import Columns, Result, Results, csv_text

LEARNED = 0.5  # A training learned if its final return has this score, from the worst return (0) to the best one (1)
COMPARABLE = 0.95  # NRL reaches BP if its score is at least this fraction of BP's
SAME = 0.05  # a result agrees with the reference if they differ by at most this fraction of the range of returns
N_BOOTSTRAPS = 1_000

REFERENCE = {
    ("Reaching", 1, "paper", ""): {"NRL": (238, ""), "BPTT": (263, ""), "RMHL": (68, "")},
    ("Acrobot", 1, "paper", ""): {"NRL": (-253, "3/5"), "BPTT": (-170, "4/5"), "RMHL": (-487, "")},
    ("Acrobot", 1, "recommended", ""): {"NRL": (-88, "8/8"), "BPTT": (-83, "8/8")},
    ("Acrobot", 2, "paper", ""): {"NRL": (-88, "5/5"), "BPTT": (-81, ""), "RMHL": (-471, "")},
    ("Acrobot", 3, "paper", ""): {"NRL": (-88, "5/5"), "BPTT": (-84, ""), "RMHL": (-495, "")},
    ("CartPole", 1, "paper", ""): {"NRL": (498, "5/5"), "BPTT": (499, ""), "RMHL": (82, "")},
    ("CartPole", 2, "paper", ""): {"NRL": (500, "5/5"), "BPTT": (500, ""), "RMHL": (60, "")},
    ("CartPole", 3, "paper", ""): {"NRL": (402, "4/5"), "BPTT": (500, ""), "RMHL": (36, "")},
}
"""
An independent simulation of the protocol: the mean return of the last 50 episodes and, if it is known, how many seeds
learned. It has five seeds, or eight with the recommended settings.
"""

LEGEND = f"""Each cell has the mean return of the last {N_LAST} episodes and, in brackets, how many seeds learned. A
seed learned if its final return is at least half-way from the worst to the best possible return. The second line has
the interquartile mean with its bootstrap interval (nominally 95 %, somewhat less with so few seeds). BP is `BPTT`, the
exact gradient. NRL reaches BP if both learned from all of {len(SEEDS)} seeds and NRL has at least {COMPARABLE:.0%} of
BP's return, counted from the worst one. NRL beats RMHL if their intervals do not overlap. Episodes are counted until
the mean of the last {N_LAST} passes {", ".join(f"{task.goal:.0f} in {name}" for name, task in TASKS.items())}: the
median of the seeds. The reference is an independent simulation of the same protocol. It is bold where the two differ by
more than {SAME:.0%} of the range of returns."""
_VERDICT = {True: "agrees", False: "differs", None: "cannot be compared, since half of the seeds never got there"}


class Summary(NamedTuple):
    """The results of all seeds of a cell."""

    cell: Cell
    curves: dict[int, Columns]  # learning curves by seed
    finals: np.ndarray  # final return of each training
    learned: np.ndarray  # which of them learned
    mean: float  # mean of the final returns
    score: float  # the mean, scaled from the worst (0) to the best return (1)
    speed: float  # episodes until the goal: the median of the seeds, infinite if half of them never passed it
    iqm: float  # interquartile mean of the final returns
    low: float  # lower end of its confidence interval
    high: float  # upper end of its confidence interval
    made_with: list[str]
    reference: tuple[float, str] | None

    @property
    def tally(self) -> str:
        """How many of how many seeds learned."""
        return f"{self.learned.sum()}/{len(self.finals)}"

    @property
    def agrees(self) -> bool | None:
        """Whether the mean agrees with the reference; None if there is no reference."""
        task = TASKS[self.cell.task]
        return None if self.reference is None else abs(self.mean - self.reference[0]) <= SAME * (task.best - task.worst)


Summaries = dict[Cell, Summary]


def summarize(results: Results) -> Summaries:
    """Summarize the trainings of each cell."""
    trainings: dict[Cell, dict[int, Result]] = {}
    for run, result in results.items():
        if run.measure is protocol.train:
            trainings.setdefault(run.of, {})[run.seed] = result
    summaries = {}
    for cell, by_seed in trainings.items():
        task = TASKS[cell.task]
        curves = {seed: by_seed[seed].columns for seed in sorted(by_seed)}
        finals = np.array([recent_means(columns)[1][-1] for columns in curves.values()])
        learned, mean = task.score(finals) >= LEARNED, float(finals.mean())
        passed = [(episodes[means > task.goal], np.inf) for episodes, means in map(recent_means, curves.values())]
        speed = float(np.median([next(iter(episodes), never) for episodes, never in passed]))
        means = (mean, task.score(mean), speed, *interquartile_mean(finals))
        made_with = sorted({result.made_with for result in by_seed.values()})
        reference = REFERENCE.get((cell.task, cell.n_hidden, cell.setting, cell.change), {}).get(cell.algorithm)
        summaries[cell] = Summary(cell, curves, finals, learned, *means, made_with, reference)
    return summaries


def interquartile_mean(finals: np.ndarray) -> tuple[float, float, float]:
    """The mean of the middle half of some numbers, and both ends of its 95 % bootstrap confidence interval."""
    np.random.seed(0)  # noqa: NPY002 - rliable draws from NumPy's global generator
    points, intervals = library.get_interval_estimates(
        {"": finals[:, None]}, lambda scores: np.array([metrics.aggregate_iqm(scores)]), reps=N_BOOTSTRAPS
    )
    return float(points[""][0]), float(intervals[""][0, 0]), float(intervals[""][1, 0])


def recent_means(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Episodes, and for each the mean return of the last 50 episodes until then."""
    n_rows = min(N_LAST // int(columns["episode"][0]), len(columns["return"]))
    return columns["episode"][n_rows - 1 :], np.convolve(columns["return"], np.full(n_rows, 1 / n_rows), "valid")


def baseline_of(cell: Cell, summaries: Summaries) -> Summary | None:
    """BP with the recommended setting if the cell has it and there is one for BP, otherwise BP as published."""
    own, published = (Cell(cell.task, "BPTT", cell.n_hidden, setting) for setting in (cell.setting, "paper"))
    return summaries.get(own) or summaries.get(published)


def claims(nrl: Summary | None, bp: Summary | None, rmhl: Summary | None) -> str:
    """The verdicts on the paper's claims: that NRL ends where BP does, and that it ends above RMHL."""
    parts = []
    if nrl and bp and not all(bp.learned):
        parts.append(f"cannot be compared with BP (which learned from {bp.tally})")
    elif nrl and bp:
        enough = min(len(nrl.finals), len(bp.finals)) >= len(SEEDS)
        verb = "reaches" if all(nrl.learned) and nrl.score / bp.score >= COMPARABLE else "does not reach"
        parts.append(f"{verb if enough else 'has too few seeds to reach'} BP ({nrl.score / bp.score:.0%})")
    if nrl and rmhl and min(len(nrl.finals), len(rmhl.finals)) >= len(SEEDS):
        parts.append(f"{'beats' if nrl.low > rmhl.high else 'does not beat'} RMHL")
    return f"NRL {', '.join(parts)}" if parts else "–"


def table(summaries: Summaries) -> str:
    """The comparison in Markdown, a line for each task, depth and setting, with its legend."""

    def finals(one: Summary) -> str:
        return f"{one.mean:.0f} ({one.tally})<br>{one.iqm:.0f} [{one.low:.0f}, {one.high:.0f}]"

    def reference(one: Summary) -> str:
        told = "{:.0f} ({})".format(*one.reference).removesuffix(" ()") if one.reference else ""
        return f"**{told}**" if one.agrees is False else told

    def each(tell: Callable[[Summary], str], shown: Sequence[Summary | None]) -> str:
        told = [tell(summary) if summary else "" for summary in shown]
        return "; ".join(part or "–" for part in told) if any(told) else "–"

    tasks, changes = list(TASKS), list(CHANGES)
    cases = {(tasks.index(cell.task), *cell[2:4], changes.index(cell.change)) for cell in summaries}
    lines = []
    for task, n_hidden, setting, change in sorted(cases):
        cell = Cell(tasks[task], "NRL", n_hidden, setting, changes[change])
        rmhl = None if cell.change else summaries.get(cell._replace(algorithm="RMHL"))
        shown = (summaries.get(cell), baseline_of(cell, summaries), rmhl)
        told = (claims(*shown), each(reference, shown), each(lambda one: count(one.speed), shown))
        line = (cell.title, *(each(finals, [one]) for one in shown), *told)
        lines.append([text.replace("-", "−") for text in line])
    what = ("the paper's claims", "reference: NRL, BP, RMHL", "episodes: NRL, BP, RMHL")
    return f"{tables.markdown(('task, hidden layers', *LABELS.values(), *what), lines)}\n\n{LEGEND}"


def count(episodes: float) -> str:
    """Format a number of episodes; a dash if it is infinite."""
    return f"{episodes:,.0f}" if np.isfinite(episodes) else "–"


def csv_table(summaries: Summaries) -> str:
    """The comparison as CSV, a line for each cell."""
    header = "task,hidden_layers,setting,change,algorithm,mean,iqm,ci_low,ci_high,learned,seeds,finals,reference,"
    header += "reference_learned,agrees,goal,episodes_to_goal,made_with"
    lines = []
    for cell, one in summaries.items():
        names = (cell.task, cell.n_hidden, cell.setting, cell.change, LABELS[cell.algorithm])
        numbers = [f"{value:.2f}" for value in (one.mean, one.iqm, one.low, one.high)]
        finals = " ".join(f"{value:.2f}" for value in one.finals)
        agrees = {None: "", True: "yes", False: "no"}[one.agrees]
        beside = (*(one.reference or ("", "")), agrees, f"{TASKS[cell.task].goal:.0f}", f"{one.speed:.0f}")
        seeds = (one.learned.sum(), len(one.finals), finals)
        lines.append((*names, *numbers, *seeds, *beside, "; ".join(one.made_with)))
    return csv_text([header.split(","), *lines])


# Findings


def findings(summaries: Summaries, results: Results) -> Iterator[str]:
    """All findings beside the table, in sentences."""
    for task, n_hidden in dict.fromkeys((cell.task, cell.n_hidden) for cell in summaries if cell.setting != "paper"):
        changes = RECOMMENDED[task, n_hidden].items()
        told = "; ".join(f"{LABELS[algorithm]} with `{arguments}`" for algorithm, arguments in changes)
        yield f"Recommended for {task}, {n_hidden}: {told}."
    followed = [summary for cell, summary in summaries.items() if cell.algorithm != "RMHL"]
    for tell in (lost_seeds, relapses):
        for summary in followed:
            for told in tell(summary):
                yield f"{summary.cell.title}: {LABELS[summary.cell.algorithm]} {told}."
    yield from _depth(summaries)
    yield from _noisy_passes(summaries, results)
    yield from _cosines(results)
    yield from _untrained(results)
    yield provenance(results)


def lost_seeds(summary: Summary) -> Iterator[str]:
    """Explain the seeds that did not learn."""
    seeds_of: dict[str, list[str]] = {}
    for (seed, columns), learned in zip(summary.curves.items(), summary.learned, strict=True):
        if not learned:
            seeds_of.setdefault(_diagnose(columns, summary.cell.task), []).append(str(seed))
    for reason, seeds in seeds_of.items():
        yield f"did not learn from seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: {reason}"


def _diagnose(columns: Columns, task: str) -> str:
    returns, episodes, lengths = columns["return"], columns["episode"], columns["length"]
    best = int(returns.argmax())
    if lengths[-1] == 0:
        return f"the weights diverged soon after episode {episodes[lengths > 0].max(initial=0):.0f}"
    if np.ptp(returns) == 0:
        return f"every return was {returns[0]:.0f}, so that there was nothing to learn from"
    if TASKS[task].score(returns[best]) >= LEARNED:
        return f"it reached {returns[best]:.0f} at episode {episodes[best]:.0f}, and fell to {returns[-1]:.0f}"
    return f"it never came above {returns[best]:.0f}"


def relapses(summary: Summary) -> Iterator[str]:
    """The seeds that passed the goal, fell below half of the range of returns, and learned again."""
    task, fell = TASKS[summary.cell.task], []
    for (seed, columns), learned in zip(summary.curves.items(), summary.learned, strict=True):
        episodes, means = recent_means(columns)
        passed = np.logical_or.accumulate(means > task.goal)
        lowest = np.where(passed, means, np.inf).argmin()
        if learned and passed[lowest] and task.score(means[lowest]) < LEARNED:
            fell.append(f"to {means[lowest]:.0f} at episode {episodes[lowest]:,.0f} (seed {seed})")
    if fell:
        yield f"had passed {task.goal:.0f}, fell {', '.join(fell)}, and came back"


def _complete(summaries: Summaries, *cells: Cell) -> list[Summary]:
    """The summaries of some cells; an empty list if one of them has too few seeds."""
    found = [summaries[cell] for cell in cells if cell in summaries and len(summaries[cell].finals) >= len(SEEDS)]
    return found if len(found) == len(cells) else []


def _depth(summaries: Summaries) -> Iterator[str]:
    for task, setting in dict.fromkeys((cell.task, cell.setting) for cell in summaries if not cell.change):
        nrl, bp = (
            [one.speed for one in _complete(summaries, *(Cell(task, name, n, setting) for n in (1, 2, 3)))]
            for name in ("NRL", "BPTT")
        )
        if nrl:
            slower = nrl[0] < nrl[1] < nrl[2] if np.isfinite(nrl).all() else None
            both = [("NRL", nrl), ("BP", bp)] if bp else [("NRL", nrl)]
            told = "; ".join(f"{name} {', '.join(map(count, speeds))}" for name, speeds in both)
            yield (
                f"The paper: NRL needs more episodes with more hidden layers. Here in {task}, {SETTINGS[setting]}, "
                f"until {TASKS[task].goal:.0f} with one, two and three: {told}: {_VERDICT[slower]}."
            )


def _noisy_passes(summaries: Summaries, results: Results) -> Iterator[str]:
    errors = [one.columns["error"] for run, one in results.items() if run.measure is protocol.measure_noisy_passes]
    if errors:
        mean = np.mean(errors, axis=0)
        slope = np.polyfit(np.log(protocol.N_PASSES), np.log(mean), 1)[0]
        yield (
            "The paper, Figure 4A: the mean of N noisy passes is closer to a clean one the larger N is. Here its error "
            f"goes as N to the {slope:.2f} (1/√N is N to the -0.50): {_VERDICT[bool((np.diff(mean) < 0).all())]}."
        )
    early = TASKS["Acrobot"].n_episodes // 4
    for setting in SETTINGS:
        if both := _complete(summaries, *(Cell("Acrobot", "NRL", 1, setting, f"{n} passes") for n in (2, 10))):
            two, ten = (
                np.array([c["return"][c["episode"] <= early].mean() for c in one.curves.values()]) for one in both
            )
            n_faster, n_seeds = int((ten > two).sum()), len(two)
            faster = bool(ten.mean() > two.mean() and n_faster > n_seeds / 2)
            comparable = (both[0].learned | both[1].learned).sum() > n_seeds / 2
            yield (
                "The paper, Figure 4B: with 10 noisy passes learning is slightly faster at first than with 2. Here the "
                f"mean return of the first {early:,} episodes, {SETTINGS[setting]}, is {ten.mean():.0f} with 10 and "
                f"{two.mean():.0f} with 2, and higher with 10 from {n_faster} of {n_seeds} seeds: "
                f"{_VERDICT[faster if comparable else None]}."
            )


def _cosines(results: Results) -> Iterator[str]:
    measured: dict[Cell, list[Columns]] = {}
    for run, result in results.items():
        if run.measure is protocol.measure_alignment:
            measured.setdefault(run.of, []).append(result.columns)
    if measured:
        means = {cell: np.mean([one["cosine"] for one in of_seeds], axis=0) for cell, of_seeds in measured.items()}
        cell, least = min(means.items(), key=lambda item: item[1].min())
        std, n_samples = (measured[cell][0][name][least.argmin()] for name in ("std", "samples"))
        yield (
            "The paper, Appendix C: whatever the noise, the cosine between updates and the gradient is above 0. Here "
            f"the smallest mean over seeds is {least.min():.3f} ({cell.change or 'gaussian'} noise of {std:g}, hidden "
            f"layers: {cell.n_hidden}, noise samples: {n_samples:.0f}): {_VERDICT[bool(least.min() > 0)]}."
        )


def _untrained(results: Results) -> Iterator[str]:
    for run, (columns, *_) in results.items():
        if run.measure is protocol.measure_untrained:
            n_episodes = run.settings["n_episodes"]
            large, small = (columns["head_gain"] == head_gain for head_gain in protocol.HEAD_GAINS)
            brakes = columns["correlation"] < 0
            braking, others, with_small_head = (
                f"{columns['reached'][rows].sum():,.0f} of {rows.sum() * n_episodes:,}"
                for rows in (large & brakes, large & ~brakes, small)
            )
            yield (
                f"Acrobot, {run.of}: {large.sum()} untrained policies took {n_episodes} episodes each. As published, "
                f"the torque of {(large & brakes).sum()} policies goes against the velocity of the second link, and "
                f"brakes the swing: they reached the goal in {braking} episodes, the others in {others}. Policies with "
                f"a small head reached it in {with_small_head}."
            )


def provenance(results: Results) -> str:
    """The versions and commits with which the results were made."""
    made_with = Counter(tuple(result.made_with.split(", ")) for result in results.values()).most_common()
    alike = [part for part in made_with[0][0] if all(part in parts for parts, _ in made_with)]
    told = [f"{n} with {', '.join(part for part in parts if part not in alike)}" for parts, n in made_with]
    return f"Runs were made with {', '.join(alike)}" + (f": {'; '.join(told)}." if len(told) > 1 else ".")
