"""What was reached, beside the paper's claims and an independent simulation: where they agree, and where they don't."""

import csv
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from sb3_nrl.reproduce.protocol import LABELS, N_LAST, RECOMMENDED, REFERENCE, TASKS, Cell
from sb3_nrl.reproduce.runs import Columns, block_size, blocks
from sb3_nrl.reproduce.summary import LEARNED, Summaries, Summary, baseline_of

COMPARABLE = 0.95
"""The part of BP's score from which on NRL's is comparable with it."""

SAME = 0.05
"""The part of a task's range by which a result and the reference may differ."""

LEGEND = f"""Mean return of the last {N_LAST} episodes (seeds that learned, that is, came half-way from the worst to the
best possible return), and below it the interquartile mean with its 95 % confidence interval. NRL reaches BP if it ends
with {COMPARABLE:.0%} of BP's return, counted from the worst one, and learned from every seed; it beats RMHL if their
intervals are apart. The reference is an independent simulation of the same protocol, in bold where the two differ by
more than {SAME:.0%} of the range of returns."""

COLUMNS = (
    *("task", "hidden_layers", "setting", "change", "algorithm"),
    *("mean", "iqm", "ci_low", "ci_high", "learned", "seeds", "finals"),
    *("reference", "agrees", "made_with"),
)


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
        """NRL's score as a part of BP's, both counted from the worst return."""
        return self.nrl.score / self.bp.score if self.nrl and self.bp and self.bp.score > 0 else None

    @property
    def reaches_bp(self) -> bool | None:
        """Whether NRL ends where BP does, and from every seed: the paper's first claim."""
        return None if self.ratio is None or not self.nrl else self.ratio >= COMPARABLE and all(self.nrl.learned)

    @property
    def beats_rmhl(self) -> bool | None:
        """Whether NRL ends above RMHL by more than chance, its second claim."""
        return self.nrl.low > self.rmhl.high if self.nrl and self.rmhl else None

    @property
    def claims(self) -> str:
        """How the paper's claims fare."""
        parts = []
        if self.ratio is not None:
            parts.append(f"{'reaches' if self.reaches_bp else 'does not reach'} BP ({self.ratio:.0%})")
        if self.beats_rmhl is not None:
            parts.append(f"{'beats' if self.beats_rmhl else 'does not beat'} RMHL")
        return f"NRL {', '.join(parts)}" if parts else "nothing to compare with"


def rows(summaries: Summaries) -> Iterator[Row]:
    """All that there is to compare."""
    cases = dict.fromkeys((cell.task, cell.n_hidden, cell.setting, cell.change) for cell in summaries)
    for task, n_hidden, setting, change in sorted(cases, key=lambda case: (list(TASKS).index(case[0]), *case[1:])):
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


def diagnose(columns: Columns, task: str) -> str:
    """
    Tell what became of a training that did not learn.

    :param columns: Of the training
    :param task: Its task
    :return: A few words
    """
    curve = blocks(columns, block_size(int(columns["episode"][-1])))
    returns, episodes = curve["return"], curve["episode"]
    if np.ptp(columns["return"]) == 0:
        return f"every return was {returns[0]:.0f}, so that there was nothing to learn from"
    best = int(returns.argmax())
    if TASKS[task].score(returns[best]) >= LEARNED:
        return f"it reached {returns[best]:.0f} at episode {episodes[best]:.0f}, and fell to {returns[-1]:.0f}"
    return f"it never came above {returns[best]:.0f}"


def describe(summaries: Summaries) -> Iterator[str]:
    """The comparison in lines of plain text."""
    for row in rows(summaries):
        yield row.title
        for summary in row.summaries:
            yield (
                f"  {LABELS[summary.cell.algorithm]:5} {summary.mean:7.1f}, interquartile mean {summary.iqm:.1f} "
                f"[{summary.low:.1f}, {summary.high:.1f}], {summary.tally} seeds learned{_beside_reference(summary)}"
            )
        yield f"  {row.claims}"
    yield from failures(summaries)


def failures(summaries: Summaries) -> Iterator[str]:
    """What became of the seeds of NRL and BP that did not learn."""
    for cell, summary in summaries.items():
        if cell.algorithm != "RMHL":
            for seed, learned in zip(summary.curves, summary.learned, strict=True):
                if not learned:
                    reason = diagnose(summary.curves[seed], cell.task)
                    yield f"{_title(cell)}: {LABELS[cell.algorithm]} did not learn from seed {seed}: {reason}."


def _beside_reference(summary: Summary) -> str:
    same = agrees(summary)
    return "" if same is None else f"; the reference, {REFERENCE[summary.cell]}, {'agrees' if same else 'differs'}"


def markdown(summaries: Summaries) -> str:
    """The comparison as a table for the README, with what it needs to be understood."""
    lines = [
        "| task, hidden layers | NRL | BP | RMHL | the paper's claims | reference: NRL, BP, RMHL |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows(summaries):
        cells = ["–" if summary is None else _in_table(summary) for summary in (row.nrl, row.bp, row.rmhl)]
        references = (
            f"**{REFERENCE[summary.cell]}**" if agrees(summary) is False else str(REFERENCE[summary.cell])
            for summary in row.summaries
            if summary.cell in REFERENCE
        )
        line = " | ".join([row.title, *cells, row.claims, "; ".join(references) or "–"])
        lines.append(f"| {line} |".replace("-", "−"))
    notes = [
        *(f"Recommended for {task}, {n}: {_listed(changes)}." for (task, n), changes in RECOMMENDED.items()),
        *failures(summaries),
    ]
    return "\n".join([*lines, "", LEGEND, "", *(f"- {note}" for note in notes)])


def _in_table(summary: Summary) -> str:
    interval = f"{summary.iqm:.0f} [{summary.low:.0f}, {summary.high:.0f}]"
    return f"{summary.mean:.0f} ({summary.tally})<br>{interval}"


def _listed(changes: dict[str, dict[str, Any]]) -> str:
    """What is recommended, by algorithm."""
    return "; ".join(f"{LABELS[algorithm]} with `{arguments}`" for algorithm, arguments in changes.items())


def table(summaries: Summaries) -> str:
    """The comparison as CSV, a line for each cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell, summary in summaries.items():
        writer.writerow(
            (
                *(cell.task, cell.n_hidden, cell.setting, cell.change, LABELS[cell.algorithm]),
                *(f"{value:.2f}" for value in (summary.mean, summary.iqm, summary.low, summary.high)),
                *(int(summary.learned.sum()), len(summary.finals)),
                " ".join(f"{value:.2f}" for value in summary.finals),
                REFERENCE.get(cell, ""),
                {None: "", True: "yes", False: "no"}[agrees(summary)],
                "; ".join(summary.made_with),
            )
        )
    return text.getvalue()
