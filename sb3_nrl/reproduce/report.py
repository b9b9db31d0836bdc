"""What was reached, beside the paper's claims and an independent simulation: where they agree, and where they don't."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sb3_nrl.reproduce.findings import count, findings
from sb3_nrl.reproduce.protocol import CHANGES, LABELS, N_LAST, RECOMMENDED, REFERENCE, SEEDS, TASKS, Cell
from sb3_nrl.reproduce.runs import Columns, Results, block_size, blocks
from sb3_nrl.reproduce.summary import LEARNED, Summaries, Summary, baseline_of, recent_means

COMPARABLE = 0.95
"""The part of BP's score from which on NRL's is comparable with it."""

SAME = 0.05
"""The part of a task's range by which a result and the reference may differ."""

SAME_SPEED = 1.5
"""The factor by which their numbers of episodes may differ."""

LEGEND = f"""Mean return of the last {N_LAST} episodes (seeds that learned, that is, came half-way from the worst to the
best possible return), and below it the interquartile mean with its bootstrap interval, which is to hold 95 %, and holds
somewhat less with so few seeds. BP is `BPTT`, the exact gradient. NRL reaches BP if both learned from all of
{len(SEEDS)} seeds and it ends with {COMPARABLE:.0%} of BP's return, counted from the worst one; it beats RMHL if their
intervals are apart. Episodes are those until the mean of the last {N_LAST} passes
{", ".join(f"{task.goal:.0f} in {name} (every {block_size(task.n_episodes)})" for name, task in TASKS.items())}, looked
at as often as the brackets say: the median of the seeds. The reference is an independent simulation of the same
protocol, in bold where the two differ by more than {SAME:.0%} of the range of returns, or by a factor of {SAME_SPEED}
in episodes."""

COLUMNS = (
    *("task", "hidden_layers", "setting", "change", "algorithm"),
    *("mean", "iqm", "ci_low", "ci_high", "learned", "seeds", "finals", "reference", "reference_learned", "agrees"),
    *("goal", "episodes_to_goal", "reference_episodes", "episodes_agree", "made_with"),
)


_YES = {None: "", True: "yes", False: "no"}


class Row(NamedTuple):
    """
    What there is to compare with each other: a task, a depth, a setting.

    :param title: What it is
    :param nrl: NRL there
    :param bp: The exact gradient to compare it with
    :param rmhl: RMHL, only as published
    """

    title: str
    nrl: Summary | None
    bp: Summary | None
    rmhl: Summary | None

    @property
    def summaries(self) -> list[Summary]:
        """Those that there are."""
        return [summary for summary in (self.nrl, self.bp, self.rmhl) if summary]

    @property
    def ratio(self) -> float | None:
        """NRL's score as a part of BP's, both counted from the worst return; None if BP itself failed."""
        return self.nrl.score / self.bp.score if self.nrl and self.bp and all(self.bp.learned) else None

    @property
    def falls_short(self) -> bool:
        """Whether NRL ends below BP, or did not learn from every seed."""
        return self.nrl is not None and (
            not all(self.nrl.learned) or (self.ratio is not None and self.ratio < COMPARABLE)
        )

    @property
    def reaches_bp(self) -> bool | None:
        """Whether NRL ends where BP does, and from every seed: the paper's first claim. None if too little is there."""
        if self.ratio is None or not (self.nrl and self.bp and self.nrl.complete and self.bp.complete):
            return None
        return not self.falls_short

    @property
    def beats_rmhl(self) -> bool | None:
        """Whether NRL ends above RMHL by more than chance, its second claim. None if too little is there."""
        if not (self.nrl and self.rmhl and self.nrl.complete and self.rmhl.complete):
            return None
        return self.nrl.low > self.rmhl.high

    @property
    def claims(self) -> str:
        """How the paper's claims fare."""
        parts = []
        if self.nrl and self.bp:
            if self.ratio is None:
                parts.append(f"cannot be compared with BP, which learned from {self.bp.tally}")
            elif self.reaches_bp is None:
                parts.append(f"ends at {self.ratio:.0%} of BP")
            else:
                parts.append(f"{'reaches' if self.reaches_bp else 'does not reach'} BP ({self.ratio:.0%})")
        if self.beats_rmhl is not None:
            parts.append(f"{'beats' if self.beats_rmhl else 'does not beat'} RMHL")
        elif self.nrl and self.rmhl:
            parts.append("has too few seeds to be compared with RMHL")
        return f"NRL {', '.join(parts)}" if parts else "nothing to compare with"


def rows(summaries: Summaries) -> Iterator[Row]:
    """All that there is to compare."""
    cases = dict.fromkeys((cell.task, cell.n_hidden, cell.setting, cell.change) for cell in summaries)
    tasks, changes = list(TASKS), list(CHANGES)
    for task, n_hidden, setting, change in sorted(
        cases, key=lambda case: (tasks.index(case[0]), *case[1:3], changes.index(case[3]))
    ):
        cell = Cell(task, "NRL", n_hidden, setting, change)
        rmhl = None if change else summaries.get(Cell(task, "RMHL", n_hidden, setting))
        yield Row(_title(cell), summaries.get(cell), baseline_of(cell, summaries), rmhl)


def _title(cell: Cell) -> str:
    parts = (cell.task, str(cell.n_hidden), "" if cell.setting == "paper" else cell.setting, cell.change)
    return ", ".join(part for part in parts if part)


def agrees(summary: Summary) -> bool | None:
    """Whether a cell ends where the reference does, None if there is none."""
    if summary.cell not in REFERENCE:
        return None
    task = TASKS[summary.cell.task]
    return abs(summary.mean - REFERENCE[summary.cell].mean) <= SAME * (task.best - task.worst)


def agrees_in_speed(summary: Summary) -> bool | None:
    """Whether it took about as many episodes as the reference did, None if there is none."""
    reference = REFERENCE.get(summary.cell)
    if reference is None or reference.speed is None:
        return None
    return 1 / SAME_SPEED <= summary.speed / reference.speed <= SAME_SPEED


def diagnose(columns: Columns, task: str) -> str:
    """
    Tell what became of a training that did not learn.

    :param columns: Of the training
    :param task: Its task
    :return: A few words
    """
    curve = blocks(columns, block_size(int(columns["episode"][-1])))
    returns, episodes = curve["return"], curve["episode"]
    if curve["length"][-1] == 0:
        last = episodes[curve["length"] > 0].max(initial=0)
        return f"its weights diverged soon after episode {last:.0f}, and all later episodes count as {returns[-1]:.0f}"
    if np.ptp(columns["return"]) == 0:
        return f"every return was {returns[0]:.0f}, so that there was nothing to learn from"
    best = int(returns.argmax())
    if TASKS[task].score(returns[best]) >= LEARNED:
        return f"it reached {returns[best]:.0f} at episode {episodes[best]:.0f}, and fell to {returns[-1]:.0f}"
    return f"it never came above {returns[best]:.0f}"


def describe(summaries: Summaries, results: Results) -> Iterator[str]:
    """The comparison in lines of plain text."""
    for row in rows(summaries):
        yield row.title
        for summary in row.summaries:
            goal = TASKS[summary.cell.task].goal
            yield (
                f"  {LABELS[summary.cell.algorithm]:5} {summary.mean:7.1f}, interquartile mean {summary.iqm:.1f} "
                f"[{summary.low:.1f}, {summary.high:.1f}], {summary.tally} seeds learned{_beside_reference(summary)}; "
                f"{goal:.0f} after {count(summary.speed)} episodes{_beside_reference_speed(summary)}"
            )
        yield f"  {row.claims}"
    yield from _notes(summaries, results)


def _beside_reference(summary: Summary) -> str:
    same = agrees(summary)
    return "" if same is None else f"; the reference, {REFERENCE[summary.cell]}, {_agrees(same)}"


def _beside_reference_speed(summary: Summary) -> str:
    same = agrees_in_speed(summary)
    return "" if same is None else f"; the reference, {REFERENCE[summary.cell].speed:,}, {_agrees(same)}"


def _agrees(same: bool) -> str:
    return "agrees" if same else "differs"


def _notes(summaries: Summaries, results: Results) -> Iterator[str]:
    """What a reader of the comparison has to know besides, in sentences."""
    yield from failures(summaries)
    yield from relapses(summaries)
    yield from unrepaired(summaries)
    yield from findings(summaries, results)
    yield provenance(results)


def failures(summaries: Summaries) -> Iterator[str]:
    """What became of the seeds of NRL and BP that did not learn."""
    for cell, summary in summaries.items():
        if cell.algorithm != "RMHL":
            seeds_of: dict[str, list[str]] = {}
            for seed, learned in zip(summary.curves, summary.learned, strict=True):
                if not learned:
                    seeds_of.setdefault(diagnose(summary.curves[seed], cell.task), []).append(str(seed))
            for reason, seeds in seeds_of.items():
                which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
                yield f"{_title(cell)}: {LABELS[cell.algorithm]} did not learn from {which}: {reason}."


def relapses(summaries: Summaries) -> Iterator[str]:
    """Which seeds of NRL and BP had passed the goal, and ended well, but were lost in between."""
    for cell, summary in summaries.items():
        if cell.algorithm != "RMHL":
            task = TASKS[cell.task]
            fell = []
            for seed, learned in zip(summary.curves, summary.learned, strict=True):
                episodes, means = recent_means(summary.curves[seed])
                passed = np.logical_or.accumulate(means > task.goal)
                lowest = np.where(passed, means, np.inf).argmin()
                if learned and passed[lowest] and task.score(means[lowest]) < LEARNED:
                    fell.append(f"to {means[lowest]:.0f} at episode {episodes[lowest]:,.0f} (seed {seed})")
            if fell:
                yield (
                    f"{_title(cell)}: {LABELS[cell.algorithm]} had passed {task.goal:.0f}, fell {', '.join(fell)}, and "
                    "came back."
                )


def unrepaired(summaries: Summaries) -> Iterator[str]:
    """Where NRL falls short, as published without a recommended setting, or with it."""
    for row in rows(summaries):
        cell = row.nrl and row.nrl.cell
        if cell is None or cell.change or (cell.setting == "paper" and (cell.task, cell.n_hidden) in RECOMMENDED):
            continue
        if row.falls_short:
            yield (
                f"{row.title}: NRL ends below {COMPARABLE:.0%} of BP or did not learn from every seed, and nothing is "
                "recommended that repairs it."
            )


def provenance(results: Results) -> str:
    """Which versions and commits made the results."""
    made_with = Counter(tuple(result.made_with.split(", ")) for result in results.values()).most_common()
    (first, _), *others = made_with
    if not others:
        return f"All runs were made with {', '.join(first)}."
    alike = [part for part in first if all(part in parts for parts, _ in others)]
    told = [f"{n} with {', '.join(part for part in parts if part not in alike)}" for parts, n in made_with]
    told += [f"all with {', '.join(alike)}"] * bool(alike)
    return f"Runs were made with different versions: {'; '.join(told)}."


def markdown(summaries: Summaries, results: Results) -> str:
    """The comparison as a table for the README, with what it needs to be understood."""
    lines = []
    for row in rows(summaries):
        shown = (row.nrl, row.bp, row.rmhl)
        cells = (
            *(_each(_in_table, [summary]) for summary in shown),
            row.claims,
            *(_each(tell, shown) for tell in (_reference, lambda summary: count(summary.speed), _reference_speed)),
        )
        lines.append(f"| {' | '.join([row.title, *cells])} |".replace("-", "−"))
    if lines:
        header = (
            "| task, hidden layers | NRL | BP | RMHL | the paper's claims | reference: NRL, BP, RMHL "
            "| episodes: NRL, BP, RMHL | reference |"
        )
        lines = [header, "|---|---|---|---|---|---|---|---|", *lines, "", LEGEND, ""]
    recommended = dict.fromkeys((cell.task, cell.n_hidden) for cell in summaries if cell.setting == "recommended")
    notes = [
        *(f"Recommended for {task}, {n}: {_recommendation(RECOMMENDED[task, n])}." for task, n in recommended),
        *_notes(summaries, results),
    ]
    return "\n".join([*lines, *(f"- {note}" for note in notes)])


def _each(tell: Callable[[Summary], str], summaries: Sequence[Summary | None]) -> str:
    """What there is to tell of each, with a dash in the place of nothing; a single dash if there is nothing at all."""
    told = [tell(summary) if summary else "" for summary in summaries]
    return "; ".join(part or "–" for part in told) if any(told) else "–"


def _reference(summary: Summary) -> str:
    return _bold(str(REFERENCE.get(summary.cell, "")), agrees(summary))


def _reference_speed(summary: Summary) -> str:
    reference = REFERENCE.get(summary.cell)
    return _bold(f"{reference.speed:,}" if reference and reference.speed else "", agrees_in_speed(summary))


def _bold(text: str, agrees: bool | None) -> str:
    return f"**{text}**" if agrees is False else text


def _in_table(summary: Summary) -> str:
    interval = f"{summary.iqm:.0f} [{summary.low:.0f}, {summary.high:.0f}]"
    return f"{summary.mean:.0f} ({summary.tally})<br>{interval}"


def _recommendation(changes: dict[str, dict[str, Any]]) -> str:
    """What is recommended, by algorithm."""
    return "; ".join(f"{LABELS[algorithm]} with `{arguments}`" for algorithm, arguments in changes.items())


def table(summaries: Summaries) -> str:
    """The comparison as CSV, a line for each cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell, summary in summaries.items():
        reference = REFERENCE.get(cell)
        writer.writerow(
            (
                *(cell.task, cell.n_hidden, cell.setting, cell.change, LABELS[cell.algorithm]),
                *(f"{value:.2f}" for value in (summary.mean, summary.iqm, summary.low, summary.high)),
                *(int(summary.learned.sum()), len(summary.finals)),
                " ".join(f"{value:.2f}" for value in summary.finals),
                *((reference.mean, reference.learned) if reference else ("", "")),
                _YES[agrees(summary)],
                *(f"{TASKS[cell.task].goal:.0f}", f"{summary.speed:.0f}"),
                *((reference and reference.speed) or "", _YES[agrees_in_speed(summary)]),
                "; ".join(summary.made_with),
            )
        )
    return text.getvalue()
