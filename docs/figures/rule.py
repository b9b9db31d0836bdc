"""
Draw the schematic figure of the page "How it works": a clean pass, a noisy pass, the traces and the error.

    python docs/figures/rule.py
"""

import pathlib

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#555555"


def _network(axes: Axes, x: float, y: float, colour: str, noisy: bool) -> None:
    """Three nodes, two nodes, and their connections; noise reaches each node from above."""
    inputs = [(x - 0.62, y + 0.34 * i) for i in (-1, 0, 1)]
    hidden = [(x, y + 0.34 * i) for i in (-1, 0, 1)]
    outputs = [(x + 0.62, y + 0.34 * i) for i in (-0.5, 0.5)]
    for before, after in ((inputs, hidden), (hidden, outputs)):
        for a in before:
            for b in after:
                axes.plot(*zip(a, b, strict=True), color="#bbbbbb", lw=0.8, zorder=1)
    for place in inputs:
        axes.plot(*place, "o", ms=9, mfc="white", mec=GREY, zorder=2)
    for place in (*hidden, *outputs):
        axes.plot(*place, "o", ms=11, mfc=colour if noisy else "white", mec=colour, mew=1.6, alpha=1, zorder=2)
        if noisy:
            axes.text(place[0] + 0.07, place[1] + 0.1, "+ξ", color=ORANGE, fontsize=10, weight="bold", zorder=3)


def _box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 1.5, height: float = 0.62) -> None:
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, "round,pad=0.02", fc="white", ec=colour, lw=1.6))
    axes.text(x, y, text, ha="center", va="center", fontsize=10.5, linespacing=1.5)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    style = f"arc3,rad={bend}"
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color=GREY, lw=1.2, connectionstyle=style)
    )


def draw() -> Figure:
    """Draw the figure."""
    figure = Figure(figsize=(9.2, 4.0))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 9.2), ylim=(0, 4.0))
    axes.axis("off")
    axes.text(1.5, 3.72, "1. Noise", ha="center", fontsize=12, weight="bold")
    axes.text(5.05, 3.72, "2. Trace", ha="center", fontsize=12, weight="bold")
    axes.text(7.9, 3.72, "3. Error", ha="center", fontsize=12, weight="bold")
    _network(axes, 1.0, 2.85, BLUE, noisy=False)
    axes.text(1.3, 2.17, "clean pass: chooses the action a", ha="center", fontsize=10)
    axes.text(2.08, 2.85, "log π(a|s)", va="center", fontsize=10.5, color=BLUE)
    _network(axes, 1.0, 1.15, BLUE, noisy=True)
    axes.text(1.3, 0.42, "noisy pass: noise ξ at every node", ha="center", fontsize=10)
    axes.text(2.08, 1.15, "log π̃(a|s)", va="center", fontsize=10.5, color=BLUE)
    _box(axes, 4.0, 2.0, "ρ = log π̃ − log π\nDid the noise make\nthe action likelier?", ORANGE, 1.7, 1.0)
    _arrow(axes, (2.75, 2.8), (3.4, 2.57))
    _arrow(axes, (2.8, 1.2), (3.4, 1.43))
    _box(axes, 6.05, 2.0, "trace e of a synapse:\nsum of ρ ξ x̃,\nfading over time", GREEN, 1.75, 1.0)
    _arrow(axes, (4.9, 2.0), (5.13, 2.0))
    _box(axes, 7.9, 3.0, "reward prediction error\nδ = r + γ V(s′) − V(s)", BLUE, 2.0, 0.72)
    _box(axes, 7.9, 1.0, "weight change\nΔW = η Σ δ e", GREEN, 1.6, 0.72)
    _arrow(axes, (6.97, 1.75), (7.3, 1.42))
    _arrow(axes, (7.9, 2.6), (7.9, 1.42))
    return figure


if __name__ == "__main__":
    draw().savefig(pathlib.Path(__file__).with_name("rule.png"), dpi=150)
