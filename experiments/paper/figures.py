"""The paper's figures, and one about noise. Every seed is shown. Lines differ in colour and in style."""

import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.paper.protocol import LABELS, SETTINGS, SMALL_NOISE, Cell, measure_alignment, measure_noisy_passes
from experiments.paper.report import Summaries, Summary, baseline_of
from experiments.runs import Columns, Results
from experiments.tables import BLACK, BLUE, GREEN, ORANGE

Style = tuple[str, Any, str]  # colour, line, and name
STYLES: dict[str, Style] = {
    "NRL": (BLUE, "-", LABELS["NRL"]),
    "BPTT": (BLACK, "--", LABELS["BPTT"]),
    "RMHL": (ORANGE, ":", LABELS["RMHL"]),
}
PASSES: dict[str, Style] = {
    "": (BLUE, "-", "clean pass"),
    "2 passes": (ORANGE, "--", "2 noisy passes"),
    "10 passes": (GREEN, ":", "10 noisy passes"),
}
NOISES: dict[str, Style] = {
    "": (BLUE, "-", "Gaussian"),
    "uniform": (ORANGE, "--", "uniform"),
    "rademacher": (GREEN, ":", "random telegraph"),
    "poisson": (BLACK, "-.", "shot"),
}
DEPTHS = {1: "one hidden layer", 2: "two hidden layers", 3: "three hidden layers"}


def draw(figure: str, summaries: Summaries, results: Results) -> Figure:
    """Draw a figure from the summaries of its trained cells, and from all results."""
    if figure == "fig4":
        return _draw_noisy_passes(summaries, results)
    if figure == "noise":
        return _draw_noise(summaries, results)
    return _draw_benchmarks({cell: summary for cell, summary in summaries.items() if not cell.change})


def _draw_benchmarks(summaries: Summaries) -> Figure:
    """Figures 1 to 3: a row for each task and depth, with the returns as published and as recommended."""
    rows = list(dict.fromkeys((cell.task, cell.n_hidden) for cell in summaries))
    figure = Figure(figsize=(11, 0.5 + 3 * len(rows)), layout="constrained")
    grid = figure.add_gridspec(len(rows), 2)
    for row, (task, n_hidden) in enumerate(rows):
        here = [one for cell, one in summaries.items() if (cell.task, cell.n_hidden) == (task, n_hidden)]
        settings = [name for name in SETTINGS if any(one.cell.setting == name for one in here)]
        axes = None
        for column, setting in enumerate(settings):
            axes = figure.add_subplot(grid[row, column] if len(settings) > 1 else grid[row, :], sharey=axes)
            styled = [(one, STYLES[one.cell.algorithm]) for one in here if one.cell.setting == setting]
            bp = baseline_of(Cell(task, "NRL", n_hidden, setting), summaries)
            if bp and bp.cell.setting != setting:
                styled.append((bp, (*STYLES["BPTT"][:2], "BP as published")))
            _draw_curves(axes, styled, f"{task}, {DEPTHS[n_hidden]}, {SETTINGS[setting]}")
    _add_legend(figure, STYLES.values())
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
    for setting, axes in zip(settings, others, strict=True):
        styled = [(one, PASSES[cell.change]) for cell, one in summaries.items() if cell.setting == setting]
        _draw_curves(axes, styled, f"Acrobot, {SETTINGS[setting]}")
    _add_legend(figure, PASSES.values())
    return figure


def _draw_noise(summaries: Summaries, results: Results) -> Figure:
    """The effect of the noise distribution on updates and on learning."""
    measured: dict[int, dict[str, list[Columns]]] = {}
    for run, result in results.items():
        if run.measure is measure_alignment:
            measured.setdefault(run.of.n_hidden, {}).setdefault(run.of.change, []).append(result.columns)
    figure = Figure(figsize=(9, 9.5), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[2, 1.15])
    panels = halves[0].subplots(2, max(len(measured), 1), squeeze=False, sharey=True, sharex="row")
    for column, (n_hidden, changes) in zip(panels.T, sorted(measured.items()), strict=False):
        for axes, x, fixed in zip(column, ("samples", "std"), ("std", "samples"), strict=True):
            table = next(iter(changes.values()))[0]
            value = SMALL_NOISE if fixed == "std" else table[fixed].max()
            rows, everything = table[fixed] == value, []
            for change, of_seeds in changes.items():
                (color, line, _), cosines = NOISES[change], np.array([one["cosine"][rows] for one in of_seeds])
                axes.plot(table[x][rows], cosines.mean(0), line, color=color)
                everything += list(cosines)
            low, high = np.min(everything, axis=0), np.max(everything, axis=0)
            axes.fill_between(table[x][rows], low, high, color="0.85", linewidth=0)
            title = f"σ = {value:g}" if fixed == "std" else f"{value:,.0f} samples"
            axes.set_title(f"{DEPTHS[n_hidden]}, {title}", fontsize="medium")
            axes.set(xscale="log", ylim=(0, 1), xlabel="noise samples per step" if x == "samples" else "σ")
            axes.grid(alpha=0.3)
    halves[0].supylabel("cosine to the exact gradient")
    halves[0].suptitle("CartPole as published. Lines: means of seeds. Grey: the range of all seeds and all noise.")
    styled = [(one, NOISES[cell.change]) for cell, one in summaries.items()]
    _draw_curves(halves[1].subplots(), styled, "Acrobot, recommended, means of seeds", each_seed=False)
    _add_legend(figure, NOISES.values())
    return figure


def _draw_curves(axes: Axes, styled: list[tuple[Summary, Style]], title: str, each_seed: bool = True) -> None:
    """Draw a line for each seed and for their mean, and at the right the final returns and their interquartile mean."""
    counts = ", ".join(f"{style[2]} {summary.tally}".replace(" ", "\u00a0") for summary, style in styled)
    axes.set_title(f"{title}\n{textwrap.fill(f'seeds that learned: {counts}', 48)}", fontsize="medium")
    for place, (summary, (color, line, _)) in enumerate(styled):
        x = summary.curves[min(summary.curves)]["episode"]
        curves = np.array([columns["return"] for columns in summary.curves.values()])
        if each_seed:
            axes.plot(x, curves.T, line, color=color, linewidth=0.7, alpha=0.5)
        axes.plot(x, curves.mean(0), line, color=color, linewidth=2.4 if each_seed else 1.8)
        right = x[-1] * (1.03 + 0.06 * place)
        for final, learned in zip(summary.finals, summary.learned, strict=True):
            axes.plot(right, final, "o" if learned else "x", color=color, markersize=4)
        interval = [[summary.iqm - summary.low], [summary.high - summary.iqm]]
        errorbar: dict[str, Any] = {"fmt": "D", "color": color, "markersize": 4, "capsize": 2, "linewidth": 1}
        axes.errorbar(right + 0.025 * x[-1], summary.iqm, interval, markerfacecolor="white", **errorbar)
        axes.set(xlabel="episode", ylabel=f"return (mean of {x[0]:.0f})" if x[0] > 1 else "return")
        axes.set(xlim=(0, right + 0.05 * x[-1]), xticks=np.linspace(0, x[-1], 5))
    axes.grid(alpha=0.3)


def _add_legend(figure: Figure, styles: Iterable[Style]) -> None:
    handles = [
        *(Line2D([], [], color=color, linestyle=line, linewidth=2, label=label) for color, line, label in styles),
        Line2D([], [], color="0.4", marker="o", markersize=4, linewidth=0, label="last 50 episodes of a seed"),
        Line2D([], [], color="0.4", marker="x", linewidth=0, label="did not learn"),
        Line2D([], [], color="0.4", marker="D", markerfacecolor="white", label="interquartile mean, 95 %"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6 if len(handles) == 6 else 4, frameon=False)
