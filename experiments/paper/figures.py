"""The paper's figures, and one about noise. Every seed is shown. Lines differ in colour and in style."""

import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.paper.measurements import SMALL_NOISE, measure_alignment, measure_noisy_passes
from experiments.paper.protocol import LABELS, N_LAST, SETTINGS, Cell
from experiments.paper.report import Summaries, Summary, baseline_of
from experiments.runs import Columns, Results
from experiments.tables import BLACK, BLUE, GREEN, ORANGE


class Style(NamedTuple):
    """How a line looks, and its name."""

    color: str
    line: str
    label: str


STYLES = {
    "NRL": Style(BLUE, "-", LABELS["NRL"]),
    "BPTT": Style(BLACK, "--", LABELS["BPTT"]),
    "RMHL": Style(ORANGE, ":", LABELS["RMHL"]),
}
PASSES = {
    "": Style(BLUE, "-", "clean pass"),
    "2 passes": Style(ORANGE, "--", "2 noisy passes"),
    "10 passes": Style(GREEN, ":", "10 noisy passes"),
}
NOISES = {
    "": Style(BLUE, "-", "Gaussian"),
    "uniform": Style(ORANGE, "--", "uniform"),
    "rademacher": Style(GREEN, ":", "random telegraph"),
    "poisson": Style(BLACK, "-.", "shot"),
}
DEPTHS = {1: "one hidden layer", 2: "two hidden layers", 3: "three hidden layers"}

Styled = list[tuple[Summary, Style]]


def draw(figure: str, summaries: Summaries, results: Results) -> Figure:
    """Draw whatever is there of a figure: of its cells that were trained, and of all results."""
    if figure == "fig4":
        return _draw_noisy_passes(summaries, results)
    if figure == "noise":
        return _draw_noise(summaries, results)
    return _draw_benchmarks({cell: summary for cell, summary in summaries.items() if not cell.change})


def _draw_benchmarks(summaries: Summaries) -> Figure:
    """Figures 1 to 3: a row for each task and depth, with returns as published, as recommended, and final ones."""
    rows = list(dict.fromkeys((cell.task, cell.n_hidden) for cell in summaries))
    figure = Figure(figsize=(12, 0.5 + 3 * len(rows)), layout="constrained")
    grid = figure.add_gridspec(len(rows), 3, width_ratios=[3, 3, 2.4])
    for row, (task, n_hidden) in enumerate(rows):
        here = [summary for cell, summary in summaries.items() if (cell.task, cell.n_hidden) == (task, n_hidden)]
        settings = [name for name in SETTINGS if any(summary.cell.setting == name for summary in here)]
        styled: Styled = []
        axes = None
        for column, setting in enumerate(settings):
            axes = figure.add_subplot(grid[row, column] if len(settings) > 1 else grid[row, :-1], sharey=axes)
            own = [(summary, STYLES[summary.cell.algorithm]) for summary in here if summary.cell.setting == setting]
            bp = baseline_of(Cell(task, "NRL", n_hidden, setting), summaries)
            others = (
                [(bp, STYLES["BPTT"]._replace(label="BP as published"))] if bp and bp.cell.setting != setting else []
            )
            _draw_curves(axes, own + others, f"{task}, {DEPTHS[n_hidden]}, {SETTINGS[setting]}")
            styled += [(one, style._replace(label=f"{style.label}{' rec.' * column}")) for one, style in own]
        _draw_finals(figure.add_subplot(grid[row, -1]), styled)
    _add_legend(figure, [style for name, style in STYLES.items() if any(cell.algorithm == name for cell in summaries)])
    return figure


def _draw_noisy_passes(summaries: Summaries, results: Results) -> Figure:
    """Figure 4: how close the mean of noisy passes is to a clean pass, and learning without clean passes."""
    settings = [name for name in SETTINGS if any(cell.setting == name for cell in summaries)]
    errors = [result.columns for run, result in results.items() if run.measure is measure_noisy_passes]
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(settings), width_ratios=[3, *[4] * len(settings)], squeeze=False)[0]
    if errors:
        passes, table = errors[0]["passes"], np.array([columns["error"] for columns in errors])
        first.loglog(passes, table.T, color="0.6", linewidth=0.8)
        first.loglog(passes, table.mean(0), "o-", color=BLACK, markersize=4, label=f"mean of {len(table)} seeds")
        first.loglog(passes, table[:, 0].mean() / np.sqrt(passes), ":", color=ORANGE, linewidth=2, label="1 / √N")
        first.legend(frameon=False)
    first.set_title("Acrobot, 500 steps", fontsize="medium")
    first.set(xlabel="noisy passes N", ylabel="|clean output - mean of noisy outputs|")
    first.grid(alpha=0.3)
    for setting, axes in zip(settings, others, strict=True):
        shown = [(summary, PASSES[cell.change]) for cell, summary in summaries.items() if cell.setting == setting]
        _draw_curves(axes, shown, f"Acrobot, {SETTINGS[setting]}")
    _add_legend(figure, [style for name, style in PASSES.items() if any(cell.change == name for cell in summaries)])
    return figure


def _draw_noise(summaries: Summaries, results: Results) -> Figure:
    """What the distribution of the noise does to updates, and to learning."""
    measured: dict[int, dict[str, list[Columns]]] = {}
    for run, result in results.items():
        if run.measure is measure_alignment:
            measured.setdefault(run.of.n_hidden, {}).setdefault(run.of.change, []).append(result.columns)
    figure = Figure(figsize=(9, 9.5), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[2, 1.15])
    panels = halves[0].subplots(2, max(len(measured), 1), squeeze=False, sharey=True, sharex="row")
    for column, (n_hidden, changes) in zip(panels.T, sorted(measured.items()), strict=False):
        for axes, x, fixed, label in zip(
            column, ("samples", "std"), ("std", "samples"), ("noise samples per step", "σ"), strict=True
        ):
            table = next(iter(changes.values()))[0]
            value = SMALL_NOISE if fixed == "std" else table[fixed].max()
            rows = table[fixed] == value
            cosines = {change: np.array([one["cosine"][rows] for one in tables]) for change, tables in changes.items()}
            for change, of_seeds in cosines.items():
                axes.plot(table[x][rows], of_seeds.mean(0), NOISES[change].line, color=NOISES[change].color)
            everything = np.concatenate(list(cosines.values()))
            axes.fill_between(table[x][rows], everything.min(0), everything.max(0), color="0.85", linewidth=0)
            axes.set(xscale="log", ylim=(0, 1), xlabel=label)
            title = f"σ = {value:g}" if fixed == "std" else f"{value:,.0f} samples"
            axes.set_title(f"{DEPTHS[n_hidden]}, {title}", fontsize="medium")
            axes.grid(alpha=0.3)
    halves[0].supylabel("cosine to the exact gradient")
    halves[0].suptitle("CartPole as published. Lines: means of seeds. Grey: the range of all seeds and all noise.")
    if summaries:
        curves, finals = halves[1].subplots(1, 2, width_ratios=[1.3, 1])
        styled = [(summary, NOISES[cell.change]) for cell, summary in summaries.items()]
        _draw_curves(curves, styled, "Acrobot, recommended: means", each_seed=False)
        _draw_finals(finals, styled)
    _add_legend(figure, NOISES.values())
    return figure


def _draw_curves(axes: Axes, styled: Styled, title: str, each_seed: bool = True) -> None:
    """A thin line for each seed, with a cross at the end if it did not learn, and a thick line for their mean."""
    counts = ", ".join(f"{style.label} {summary.tally}".replace(" ", "\u00a0") for summary, style in styled)
    axes.set_title(f"{title}\n{textwrap.fill(f'seeds that learned: {counts}', 48)}", fontsize="medium")
    for summary, style in styled:
        for columns, learned in zip(summary.curves.values(), summary.learned, strict=True):
            x, y = columns["episode"], columns["return"]
            if each_seed:
                axes.plot(x, y, style.line, color=style.color, linewidth=0.7, alpha=0.5)
            if not learned:
                axes.plot(x[-1], y[-1], "x", color=style.color, clip_on=False)
        mean = np.mean([columns["return"] for columns in summary.curves.values()], axis=0)
        axes.plot(x, mean, style.line, color=style.color, linewidth=2.4 if each_seed else 1.8)
        axes.set(xlabel="episode", ylabel=f"return (mean of {x[0]:.0f})" if x[0] > 1 else "return", xlim=(0, x[-1]))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(alpha=0.3)


def _draw_finals(axes: Axes, styled: Styled) -> None:
    """A mark for each seed, and beside them the interquartile mean with its interval."""
    for place, (summary, style) in enumerate(styled):
        offsets = np.linspace(-0.25, 0.1, len(summary.finals))
        for offset, final, learned in zip(offsets, summary.finals, summary.learned, strict=True):
            marker = "o" if learned else "x"
            axes.plot(place + offset, final, marker, color=style.color, markersize=4.5, clip_on=False)
        interval = [[summary.iqm - summary.low], [summary.high - summary.iqm]]
        axes.errorbar(place + 0.25, summary.iqm, interval, fmt="D", color=BLACK, markersize=4, capsize=2, linewidth=1)
    labels = [f"{textwrap.fill(style.label, 9)}\n{summary.tally}" for summary, style in styled]
    axes.set_xticks(range(len(styled)), labels, fontsize="small")
    axes.set_xlim(-0.5, len(styled) - 0.5)
    axes.set_title(f"last {N_LAST} episodes\n(below: seeds that learned)", fontsize="medium")
    axes.set_ylabel("return")
    axes.grid(axis="y", alpha=0.3)


def _add_legend(figure: Figure, styles: Iterable[Style]) -> None:
    handles = [
        *(Line2D([], [], color=style.color, linestyle=style.line, linewidth=2, label=style.label) for style in styles),
        Line2D([], [], color="0.4", linewidth=0.7, label="one seed"),
        Line2D([], [], color="0.4", marker="x", linewidth=0, label="did not learn"),
        Line2D([], [], color=BLACK, marker="D", markersize=4, linewidth=1, label="interquartile mean, 95 %"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6), frameon=False)
