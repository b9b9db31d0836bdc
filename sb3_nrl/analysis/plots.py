"""Pictures of recorded activity and of recurrent weights: Matplotlib figures, which ``savefig`` saves.

Shapes: T steps of all trials, L steps of the longest trial, H hidden units, C conditions, U units that are drawn.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_nrl.analysis.linear import pca, recurrent_weights, spectrum
from sb3_nrl.analysis.recording import Recording, condition_means, trial_labels
from sb3_nrl.checks import check, is_count
from sb3_nrl.three_factor import ThreeFactorAlgorithm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

By = str | Sequence[str] | np.ndarray
"""What tells conditions apart: see :func:`~sb3_nrl.analysis.trial_labels`."""

_MARKERS = "osD^vP*X"
"""Symbols of successive periods."""


def plot_activity(recording: Recording, by: By, network: str = "actor", layer: int = 0) -> "Figure":
    """
    Mean activity of all units, a heat map for each condition. Units are sorted by the time of their largest deviation
    from their own mean, alike in all heat maps. Steps that fewer than half of a condition's trials reach are blank.

    :param recording: The recording
    :param by: What tells conditions apart: names of conditions, or an array with one label for each trial
    :param network: ``"actor"`` or ``"critic"``
    :param layer: Which hidden layer, from 0
    :return: The figure
    :raises ImportError: If Matplotlib is not installed
    :raises ValueError: If there is no such layer or condition
    """
    names, means_CLH = condition_means(recording, recording.activity(network, layer), by)
    means_CLH = means_CLH[:, ~np.isnan(means_CLH).all((0, 2))]
    deviation_LH = np.nanmax(np.abs(means_CLH - np.nanmean(means_CLH, (0, 1))), axis=0)
    order = np.argsort(deviation_LH.argmax(0), kind="stable")
    limit = float(np.nanmax(np.abs(means_CLH))) or 1.0
    scale, unit = _time(recording)
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    figure = figure_of(2 + 3 * columns, 1.2 + 3 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    edges = (np.arange(means_CLH.shape[1] + 1) - 0.5) * scale
    labels = trial_labels(recording, by)
    for name, mean_LH, ax in zip(names, means_CLH, panels.flat, strict=False):
        image = np.ma.masked_invalid(mean_LH[:, order].T)
        colours = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "rasterized": True}
        mesh = ax.pcolormesh(edges, np.arange(len(order) + 1) - 0.5, image, **colours)
        ax.set_title(_broken(name) + f"\n({(labels == name).sum()} trials)", fontsize="medium", pad=16)
        _mark_periods(ax, recording, edges[-1])
    for ax in panels.flat[len(names) :]:
        ax.set_visible(False)
    for ax in panels[-1]:
        ax.set_xlabel(f"time in trial ({unit})")
    for ax in panels[:, 0]:
        ax.set_ylabel("unit (sorted)")
    figure.colorbar(mesh, ax=panels, label="mean activity", shrink=0.8, pad=0.01)
    figure.suptitle(f"{network}, hidden layer {layer}: mean activity by condition")
    return figure


def plot_units(
    recording: Recording, by: By, units: int | Sequence[int] = 6, network: str = "actor", layer: int = 0
) -> "Figure":
    """
    Activity of single units: mean over the trials of each condition, and the standard deviation across them as a band.

    :param recording: The recording
    :param by: What tells conditions apart: names of conditions, or an array with one label for each trial
    :param units: Numbers of the units; or how many, at most, of those whose means differ most between conditions
    :param network: ``"actor"`` or ``"critic"``
    :param layer: Which hidden layer, from 0
    :return: The figure
    :raises ImportError: If Matplotlib is not installed
    :raises ValueError: If there is no such layer, unit or condition
    """
    activity_TH = recording.activity(network, layer)
    n_units = activity_TH.shape[1]
    names, means_CLH = condition_means(recording, activity_TH, by)
    squares_CLH = condition_means(recording, activity_TH.astype(float) ** 2, by)[1]
    spreads_CLH = np.sqrt(np.maximum(squares_CLH - means_CLH**2, 0))
    if isinstance(units, int | np.integer):
        check("units", units, is_count(units), "a positive number, or numbers of units")
        shared_LH = means_CLH[:, ~np.isnan(means_CLH).any((0, 2))].std(0)  # steps that all conditions have
        drawn = np.argsort(-(shared_LH**2).sum(0), kind="stable")[:units].tolist()
    else:
        drawn = list(units)
        valid = len(drawn) > 0 and all(is_count(unit, 0) and unit < n_units for unit in drawn)
        check("units", units, valid, f"numbers below {n_units}")
    scale, unit_of_time = _time(recording)
    columns = min(len(drawn), 3)
    rows = -(-len(drawn) // columns)
    figure = figure_of(1 + 3.4 * columns, 1.4 + 2.2 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    times = np.arange(means_CLH.shape[1]) * scale
    colours = _colours(len(names))
    for unit, ax in zip(drawn, panels.flat, strict=False):
        for name, mean_LH, spread_LH, colour in zip(names, means_CLH, spreads_CLH, colours, strict=True):
            mean, spread = mean_LH[:, unit], spread_LH[:, unit]
            ax.plot(times, mean, color=colour, label=name)
            ax.fill_between(times, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
        ax.text(0.02, 0.03, f"unit {unit}", transform=ax.transAxes, fontsize="small", va="bottom")
        ax.axhline(0, color="grey", linewidth=0.5)
        ax.spines[["top", "right"]].set_visible(False)
        last = np.flatnonzero(~np.isnan(means_CLH).all((0, 2)))[-1]
        ax.set_xlim(0, max(times[last], scale))
        _mark_periods(ax, recording, times[last])
    for ax in panels.flat[len(drawn) :]:
        ax.set_visible(False)
    for ax in panels[-1]:
        ax.set_xlabel(f"time in trial ({unit_of_time})")
    for ax in panels[:, 0]:
        ax.set_ylabel("activity")
    handles, shown = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, shown, loc="outside lower center", ncols=min(len(names), 4), frameon=False)
    figure.suptitle(f"{network}, hidden layer {layer}: mean ± standard deviation over trials")
    return figure


def plot_trajectories(recording: Recording, by: By, network: str = "actor", layer: int = 0) -> "Figure":
    """
    Mean trajectory of each condition in the first three principal components of the mean activity of all conditions:
    the first against the second, and the first against the third. Symbols show where trials and their periods start.

    :param recording: The recording
    :param by: What tells conditions apart: names of conditions, or an array with one label for each trial
    :param network: ``"actor"`` or ``"critic"``
    :param layer: Which hidden layer, from 0; it needs two units
    :return: The figure
    :raises ImportError: If Matplotlib is not installed
    :raises ValueError: If there is no such layer or condition, or too little activity for two components
    """
    activity_TH = recording.activity(network, layer)
    names, means_CLH = condition_means(recording, activity_TH, by)
    means_TH = means_CLH[~np.isnan(means_CLH).any(2)]
    n_components = min(3, *means_TH.shape)
    check("layer", layer, n_components >= 2, "one with two units, recorded for two steps")
    components = pca(means_TH, n_components)
    paths_CLP = components.project(means_CLH)
    pairs = [(0, 1), (0, 2)][: n_components - 1]
    figure = figure_of(1 + 4.5 * len(pairs), 5.6)
    starts = _mean_starts(recording) or {"start of the trial": 0.0}
    for ax, (x, y) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        for name, path_LP, colour in zip(names, paths_CLP, _colours(len(names)), strict=True):
            ax.plot(path_LP[:, x], path_LP[:, y], color=colour, label=name, marker=".", markersize=3, linewidth=1.2)
            for marker, step in zip(_MARKERS, starts.values(), strict=False):
                ax.plot(
                    *path_LP[min(round(step), len(path_LP) - 1), [x, y]], marker, color=colour, markersize=7, mec="k"
                )
        for marker, period in zip(_MARKERS, starts, strict=False):
            ax.plot([], [], marker, color="white", mec="k", markersize=7, label=period)
        for set_label, axis in ((ax.set_xlabel, x), (ax.set_ylabel, y)):
            set_label(f"principal component {axis + 1} ({components.variance_ratio[axis]:.0%} of the variance)")
        ax.spines[["top", "right"]].set_visible(False)
    handles, shown = ax.get_legend_handles_labels()
    figure.legend(handles, shown, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    figure.suptitle(f"{network}, hidden layer {layer}: mean trajectories; symbols: a period starts")
    return figure


def plot_recurrent_weights(model: ThreeFactorAlgorithm, network: str = "actor", layer: int = 0) -> "Figure":
    """
    Recurrent weights of a layer, and their eigenvalues in the complex plane with the unit circle. A GRU has three rows:
    candidate units, update gate, reset gate.

    Near activity 0, the vanilla network multiplies a state along an eigenvector by the eigenvalue λ at each step, and
    leaky units by 1 − α + α λ, with α = dt / τ: either way, λ = 1 holds a state.

    :param model: A model with a recurrent policy
    :param network: ``"actor"`` or ``"critic"``
    :param layer: Which hidden layer, from 0
    :return: The figure
    :raises ImportError: If Matplotlib is not installed
    :raises ValueError: If there is no such layer, or it is not recurrent
    """
    matrices = recurrent_weights(model, network, layer)
    figure = figure_of(9.5, 1 + 3.8 * len(matrices))
    rows = figure.subplots(len(matrices), 2, squeeze=False)
    angles = np.linspace(0, 2 * np.pi, 200)
    for (left, right), (name, weight_HH) in zip(rows, matrices.items(), strict=True):
        limit = float(np.abs(weight_HH).max()) or 1.0
        image = left.imshow(weight_HH, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        figure.colorbar(image, ax=left, label="weight", shrink=0.85)
        left.set(xlabel="from unit", ylabel="to unit", title=f"recurrent weights: {name.replace('_', ' ')}")
        values = spectrum(weight_HH)
        right.plot(np.cos(angles), np.sin(angles), color="grey", linewidth=1, label="unit circle")
        right.plot(values.real, values.imag, "o", color="tab:blue", markersize=4, alpha=0.8, label="eigenvalues")
        right.axhline(0, color="lightgrey", linewidth=0.5, zorder=0)
        right.axvline(0, color="lightgrey", linewidth=0.5, zorder=0)
        right.set(xlabel="real part", ylabel="imaginary part", title=f"spectrum, largest |λ| = {np.abs(values[0]):.2f}")
        right.set_aspect("equal", "datalim")
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize="small")
        right.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{network}, hidden layer {layer}")
    return figure


def figure_of(width: float, height: float) -> "Figure":
    """An empty figure, in inches, that pyplot does not know of."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need Matplotlib: pip install 'sb3-nrl[analysis]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _colours(n: int) -> list[Any]:
    from matplotlib import colormaps

    return (
        [colormaps["tab10"](place) for place in range(n)] if n <= 10 else list(colormaps["turbo"](np.linspace(0, 1, n)))
    )


def _time(recording: Recording) -> tuple[float, str]:
    """Duration of a step, and its unit."""
    return (1.0, "steps") if recording.dt is None else (recording.dt, "ms")


def _mean_starts(recording: Recording) -> dict[str, float]:
    """Mean step at which each period starts, in the order of time, of those that a trial has."""
    known = {name: steps[~np.isnan(steps)] for name, steps in recording.periods.items()}
    starts = {name: float(steps.mean()) for name, steps in known.items() if len(steps) > 0}
    return dict(sorted(starts.items(), key=lambda item: item[1]))


def _mark_periods(ax: "Axes", recording: Recording, end: float) -> None:
    """A line where each period starts on average, and its name in the middle."""
    scale, _ = _time(recording)
    starts = {name: start * scale for name, start in _mean_starts(recording).items() if start * scale < end}
    ends = [*starts.values(), end][1:]
    for (name, start), stop in zip(starts.items(), ends, strict=True):
        if start > 0:
            ax.axvline(start, color="black", linewidth=0.8, linestyle=":")
        place = ((start + stop) / 2, 1.01)
        ax.text(*place, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=6.5)


def _broken(label: str) -> str:
    """A label of several conditions with a line for each two of them."""
    parts = label.split(", ")
    return "\n".join(", ".join(parts[place : place + 2]) for place in range(0, len(parts), 2))
