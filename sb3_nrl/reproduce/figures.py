"""The paper's figures, and one about noise: to be read in colour and in grey, no run left out."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sb3_nrl.reproduce.measurements import SMALL_NOISE, Alignment, CleanPassError
from sb3_nrl.reproduce.protocol import LABELS, N_LAST, SETTINGS, TASKS, Cell
from sb3_nrl.reproduce.runs import Columns, Results, block_size, blocks
from sb3_nrl.reproduce.summary import Summaries, Summary, baseline_of

Line: TypeAlias = Literal["-", "--", "-.", ":"]


class Style(NamedTuple):
    """How a line looks, and what it is called."""

    color: str
    line: Line
    label: str


ALGORITHM_STYLES = {
    "NRL": Style("#0072b2", "-", LABELS["NRL"]),
    "BPTT": Style("#000000", "--", LABELS["BPTT"]),
    "RMHL": Style("#d55e00", ":", LABELS["RMHL"]),
}
CHANGE_STYLES = {
    "": Style("#0072b2", "-", "clean pass"),
    "2 passes": Style("#d55e00", "--", "2 noisy passes"),
    "10 passes": Style("#009e73", ":", "10 noisy passes"),
}
NOISE_STYLES = {
    "": Style("#0072b2", "-", "Gaussian"),
    "uniform": Style("#e69f00", "--", "uniform"),
    "rademacher": Style("#009e73", ":", "telegraph"),
    "poisson": Style("#000000", "-.", "shot"),
}
DEPTHS = {1: "one hidden layer", 2: "two hidden layers", 3: "three hidden layers"}
DEPTH_MARKERS = {1: "o", 2: "s", 3: "^"}

_APART = 1.06
"""Factor between places of different noise, so that none hides another."""

_TITLE_WIDTH = 48
"""Characters, as many as fit over a panel of Figure 4."""

_UNBROKEN = "\u00a0"
"""A space at which a title does not wrap."""


def draw(figure: str, summaries: Summaries, results: Results) -> Figure:
    """
    Draw a figure of whatever is there.

    :param figure: ``"fig1"`` to ``"fig4"``, or ``"noise"``
    :param summaries: What was trained
    :param results: What was trained and measured
    :return: Matplotlib's figure
    """
    if figure == "fig4":
        return _draw_noisy_passes(summaries, results)
    if figure == "noise":
        return _draw_noise(summaries, results)
    return _draw_benchmarks(summaries)


def _draw_benchmarks(summaries: Summaries) -> Figure:
    """Figures 1 to 3: a row for each task and depth, with the returns as published, as recommended, and at last."""
    summaries = {cell: summary for cell, summary in summaries.items() if not cell.change}
    rows = list(dict.fromkeys((cell.task, cell.n_hidden) for cell in summaries))
    wide = any(cell.setting == "recommended" for cell in summaries)
    figure = Figure(figsize=(12 if wide else 9, 0.5 + 3 * len(rows)), layout="constrained")
    grid = figure.add_gridspec(len(rows), 3 if wide else 2, width_ratios=[3, 3, 2.4] if wide else [3, 1.6])
    for row, (task, n_hidden) in enumerate(rows):
        here = [summary for cell, summary in summaries.items() if (cell.task, cell.n_hidden) == (task, n_hidden)]
        settings = [name for name in SETTINGS if any(summary.cell.setting == name for summary in here)]
        axes = None
        for column, setting in enumerate(settings):
            place = grid[row, column] if len(settings) > 1 else grid[row, :-1]
            axes = figure.add_subplot(place, sharey=axes)
            shown = {summary.cell: summary for summary in here if summary.cell.setting == setting}
            baseline = baseline_of(Cell(task, "NRL", n_hidden, setting), summaries)
            if baseline is not None:
                shown[baseline.cell] = baseline
            curves = [(summary, _style_beside(summary, setting)) for summary in shown.values()]
            _draw_curves(axes, curves, f"{task}, {DEPTHS[n_hidden]}, {SETTINGS[setting]}")
        bars = sorted(here, key=lambda summary: settings.index(summary.cell.setting))
        styled = [(summary, ALGORITHM_STYLES[summary.cell.algorithm]) for summary in bars]
        notes = {"paper": "", "recommended": "rec.\n"}
        _draw_finals(
            figure.add_subplot(grid[row, -1]),
            [(summary, style, f"{style.label}\n{notes[summary.cell.setting]}") for summary, style in styled],
        )
    _explain(figure, dict.fromkeys(ALGORITHM_STYLES[cell.algorithm] for cell in summaries), bars=True)
    return figure


def _style_beside(summary: Summary, setting: str) -> Style:
    """An algorithm's style, with its setting in its name where others have another one."""
    style = ALGORITHM_STYLES[summary.cell.algorithm]
    own = summary.cell.setting
    return style if own == setting else style._replace(label=f"{style.label} {SETTINGS[own]}")


def _draw_noisy_passes(summaries: Summaries, results: Results) -> Figure:
    """Figure 4: how close the mean of noisy passes is to a clean one, and learning with nothing else."""
    settings = [name for name in SETTINGS if any(cell.setting == name for cell in summaries)]
    errors = [result.columns for run, result in results.items() if isinstance(run, CleanPassError)]
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(settings), width_ratios=[3, *[4] * len(settings)], squeeze=False)[0]
    if errors:
        passes, table = errors[0]["passes"], np.array([columns["error"] for columns in errors])
        first.loglog(passes, table.T, color="0.6", linewidth=0.8)
        first.loglog(passes, table.mean(0), "o-", color="black", markersize=4, label=f"mean of {len(table)} seeds")
        first.loglog(passes, table[:, 0].mean() / np.sqrt(passes), ":", color="#d55e00", linewidth=2, label="1 / √N")
        first.legend(frameon=False)
    else:
        _leave_empty(first)
    first.set_title("A  Acrobot, 500 steps", fontsize="medium")
    first.set(xlabel="noisy passes N", ylabel="|clean output - mean of noisy outputs|")
    first.grid(alpha=0.3)
    for letter, setting, axes in zip("BC", settings, others, strict=False):
        shown = [summary for cell, summary in summaries.items() if cell.setting == setting]
        styled = [(summary, CHANGE_STYLES[summary.cell.change]) for summary in shown]
        _draw_curves(axes, styled, f"{letter}  Acrobot, {SETTINGS[setting]}")
    _explain(figure, dict.fromkeys(CHANGE_STYLES[cell.change] for cell in summaries))
    return figure


def _draw_noise(summaries: Summaries, results: Results) -> Figure:
    """What the distribution of the noise does to an update, and to learning."""
    measured: dict[tuple[int, str], list[Columns]] = {}
    most = 0  # noise samples per step
    for run, result in results.items():
        if isinstance(run, Alignment):
            measured.setdefault((run.n_hidden, run.change), []).append(result.columns)
            most = max(n_samples for _, n_samples in run.cases)
    figure = Figure(figsize=(11, 8), layout="constrained")
    (samples, sizes), (curves, finals) = figure.subplots(2, 2)
    for axes, x, fixed, value in ((samples, "samples", "std", SMALL_NOISE), (sizes, "std", "samples", most)):
        for (n_hidden, change), tables in measured.items():
            rows = tables[0][fixed] == value
            cosines, style = np.array([columns["cosine"][rows] for columns in tables]), NOISE_STYLES[change]
            middle, low, high = cosines.mean(0), cosines.min(0), cosines.max(0)
            axes.errorbar(
                tables[0][x][rows] * _APART ** list(NOISE_STYLES).index(change),
                middle,
                [middle - low, high - middle],
                fmt=DEPTH_MARKERS[n_hidden],
                linestyle=style.line,
                color=style.color,
                markersize=4,
                elinewidth=0.8,
            )
        axes.set(xscale="log", ylabel="cosine to the exact gradient")
        axes.set_ylim(min(axes.get_ylim()[0], 0), 1)
        axes.grid(alpha=0.3)
        if not measured:
            _leave_empty(axes)
    of_what = "CartPole, as published: mean and range of the seeds"
    samples.set_title(f"A  {of_what}\nσ = {SMALL_NOISE:g}", fontsize="medium")
    samples.set_xlabel("noise samples per step")
    sizes.set_title(f"B  {of_what}\n{most:,} noise samples per step", fontsize="medium")
    sizes.set_xlabel("σ")
    for n_hidden in sorted({n_hidden for n_hidden, _ in measured}):
        sizes.plot([], [], DEPTH_MARKERS[n_hidden], color="0.4", label=DEPTHS[n_hidden])
    if measured:
        sizes.legend(frameon=False)
    styled = [(summary, NOISE_STYLES[cell.change]) for cell, summary in summaries.items()]
    _draw_curves(curves, styled, "C  Acrobot, recommended")
    _draw_finals(finals, [(summary, style, f"{style.label}\n") for summary, style in styled])
    finals.set_title("D  " + finals.get_title(), fontsize="medium")
    shown = {NOISE_STYLES[change] for _, change in measured} | {style for _, style in styled}
    _explain(figure, [style for style in NOISE_STYLES.values() if style in shown], bars=True)
    return figure


def _leave_empty(axes: Axes) -> None:
    axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center", color="0.4")


def _draw_curves(axes: Axes, styled: Sequence[tuple[Summary, Style]], title: str) -> None:
    """
    A thin line for each seed, with a cross at the end of one that did not learn, and a thick line for their mean. Since
    crosses may lie on one another, the title tells how many seeds learned.
    """
    counts = ", ".join(f"{style.label} {summary.tally}".replace(" ", _UNBROKEN) for summary, style in styled)
    lines = textwrap.fill(f"seeds that learned: {counts}", _TITLE_WIDTH).replace(_UNBROKEN, " ")
    axes.set_title(f"{title}\n{lines}" if styled else title, fontsize="medium")
    if not styled:
        _leave_empty(axes)
    n_episodes = max(
        (columns["episode"][-1] for summary, _ in styled for columns in summary.curves.values()), default=1
    )
    size = block_size(int(n_episodes))
    for summary, style in styled:
        rows = {seed: blocks(columns, size) for seed, columns in summary.curves.items()}
        for (seed, row), learned in zip(rows.items(), summary.learned, strict=True):
            name = f"{summary.cell.name} seed {seed}"
            axes.plot(row["episode"], row["return"], style.line, color=style.color, linewidth=0.7, alpha=0.5, gid=name)
            if not learned:
                axes.plot(row["episode"][-1], row["return"][-1], "x", color=style.color, clip_on=False, gid=name)
        mean = np.mean([row["return"] for row in rows.values()], axis=0)
        axes.plot(row["episode"], mean, style.line, color=style.color, linewidth=2.4, gid=f"{summary.cell.name} mean")
    axes.set(xlabel="episode", ylabel=f"return (mean of {size} episodes)" if size > 1 else "return")
    axes.set_xlim(0, n_episodes)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(alpha=0.3)


def _draw_finals(axes: Axes, bars: Sequence[tuple[Summary, Style, str]]) -> None:
    """A bar for the mean of a cell, a mark for each seed, and beside them the interquartile mean and its interval."""
    for place, (summary, style, _) in enumerate(bars):
        worst = TASKS[summary.cell.task].worst
        axes.bar(
            place,
            summary.mean - worst,
            0.75,
            worst,
            facecolor=(*to_rgb(style.color), 0.15),
            edgecolor=style.color,
            linestyle=style.line,
            linewidth=1.2,
        )
        offsets = np.linspace(-0.25, 0.1, len(summary.finals))
        for seed, offset, final, learned in zip(summary.curves, offsets, summary.finals, summary.learned, strict=True):
            name = f"{summary.cell.name} seed {seed}"
            axes.plot(
                place + offset,
                final,
                "o" if learned else "x",
                color=style.color,
                markersize=4.5,
                clip_on=False,
                gid=name,
            )
        interval = [[summary.iqm - summary.low], [summary.high - summary.iqm]]
        axes.errorbar(place + 0.25, summary.iqm, interval, fmt="D", color="black", markersize=4, capsize=2, linewidth=1)
    axes.set_xticks(range(len(bars)), [label + summary.tally for summary, _, label in bars], fontsize="small")
    axes.set_title(f"last {N_LAST} episodes\n(below: seeds that learned)", fontsize="medium")
    axes.set_ylabel("return")
    if not bars:
        _leave_empty(axes)
    axes.grid(axis="y", alpha=0.3)


def _explain(figure: Figure, styles: Iterable[Style], bars: bool = False) -> None:
    """One legend for all panels."""
    handles = [
        *(
            Line2D([], [], color=style.color, linestyle=style.line, linewidth=2.4, label=style.label)
            for style in styles
        ),
        Line2D([], [], color="0.4", linewidth=0.7, label="one seed"),
        Line2D([], [], color="0.4", marker="x", linewidth=0.7, label="did not learn"),
    ]
    if bars:
        handles.append(
            Line2D([], [], color="black", marker="D", markersize=4, linewidth=1, label="interquartile mean, 95 %")
        )
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, handlelength=3)
