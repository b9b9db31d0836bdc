"""Recorded trials, as arrays and tables.

Shapes: T steps of all trials, one trial after another; N trials; L steps of the longest trial; E environments, H hidden
units of a layer, C conditions.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_nrl.checks import check, is_count

_MOST_CONDITIONS = 16
"""Number of conditions up to which trials are told apart in one picture."""

_MISSING = "pip install 'sb3-nrl[analysis]'"


@dataclasses.dataclass(frozen=True)
class Recording:
    """
    Trials, in the order in which they ended, with their steps in one row.

    :param observations: What the model saw before each action (normalised if it learned from a ``VecNormalize``), shape
        (T, ...); for ``Dict`` observations a dictionary of such arrays
    :param actions: Actions that the environment received, shape (T, ...)
    :param rewards: Rewards, not normalised, shape (T,)
    :param trial: Index of the trial of each step, from 0, shape (T,)
    :param step: Index of each step in its trial, from 0, shape (T,)
    :param actor: Activity of each hidden layer of the actor, shape (T, H) each. It is the layer's output at the step of
        the action: tanh(u) of leaky units, h of a GRU, spikes per tick of spiking neurons
    :param critic: The same for the critic; empty without one
    :param conditions: Conditions of each trial by name, as NeuroGym's ``info["trial"]`` tells them, shape (N,) each.
        Where a trial has none, numbers are NaN and others None
    :param performance: How well each trial went: ``info["performance"]``, else ``info["is_success"]``, else NaN, as for
        a trial of NeuroGym that a time limit cuts; shape (N,)
    :param environment: Index of the environment of each trial, shape (N,)
    :param periods: Step at which each period of a NeuroGym task starts, by name, shape (N,) each; NaN where a trial has
        no such period
    :param dt: Duration of a step in ms for NeuroGym's tasks, else None
    :param spikes: Spikes of each spiking layer of the actor in the M ticks of each step, shape (T, M, H) each. In
        ``actor``, activity is then their mean over the ticks
    :param potentials: Membrane potentials of the same neurons after each tick
    """

    observations: np.ndarray | dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    trial: np.ndarray
    step: np.ndarray
    actor: list[np.ndarray]
    critic: list[np.ndarray]
    conditions: dict[str, np.ndarray]
    performance: np.ndarray
    environment: np.ndarray
    periods: dict[str, np.ndarray]
    dt: float | None
    spikes: list[np.ndarray] = dataclasses.field(default_factory=list)
    potentials: list[np.ndarray] = dataclasses.field(default_factory=list)

    @property
    def n_trials(self) -> int:
        """Number of trials N."""
        return len(self.performance)

    @property
    def lengths(self) -> np.ndarray:
        """Number of steps of each trial, shape (N,)."""
        return np.bincount(self.trial, minlength=self.n_trials)

    @property
    def correct(self) -> np.ndarray:
        """Whether each trial's performance is 1, shape (N,); False where there is none."""
        return self.performance == 1

    def activity(self, network: str = "actor", layer: int = 0) -> np.ndarray:
        """
        Activity of one hidden layer.

        :param network: ``"actor"`` or ``"critic"``
        :param layer: Which hidden layer, from 0
        :return: Shape (T, H)
        :raises ValueError: If there is no such layer
        """
        check("network", network, network in ("actor", "critic"), "'actor' or 'critic'")
        layers = getattr(self, network)
        wanted = f"one of the {network}'s {len(layers)} hidden layers, from 0"
        check("layer", layer, is_count(layer, 0) and layer < len(layers), wanted)
        return layers[layer]

    def by_trial(self, values: np.ndarray) -> np.ndarray:
        """
        Arrange values by trial and step.

        :param values: A value or an array for each step, such as ``rewards`` or ``actor[0]``, shape (T, ...)
        :return: Floats of shape (N, L, ...), NaN after the end of a trial
        """
        shape = (self.n_trials, self.lengths.max(initial=0), *values.shape[1:])
        arranged = np.full(shape, np.nan, values.dtype if values.dtype.kind == "f" else np.float64)
        arranged[self.trial, self.step] = values
        return arranged

    def select(self, trials: np.ndarray) -> "Recording":
        """
        Keep some of the trials: ``recording.select(recording.correct)``.

        :param trials: Whether to keep each trial, shape (N,)
        :return: Those trials, numbered anew
        :raises ValueError: If ``trials`` is not of shape (N,) and type bool
        """
        trials = np.asarray(trials)
        valid = trials.shape == (self.n_trials,) and trials.dtype == bool
        check("trials", trials, valid, f"True or False for each of the {self.n_trials} trials")
        rows = trials[self.trial]
        kept: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            mask = trials if field.name in ("conditions", "performance", "environment", "periods") else rows
            if isinstance(value, dict):
                kept[field.name] = {name: part[mask] for name, part in value.items()}
            elif isinstance(value, list):
                kept[field.name] = [part[mask] for part in value]
            else:
                kept[field.name] = value[mask] if isinstance(value, np.ndarray) else value
        kept["trial"] = (np.cumsum(trials) - 1)[kept["trial"]]
        return Recording(**kept)

    def to_dataframe(self) -> Any:
        """
        All steps as a table.

        :return: A ``pandas.DataFrame`` with a row for each step and columns ``trial``, ``step``, ``environment``,
            ``reward``, ``performance``, ``observation_0``…, ``action`` (or ``action_0``…), ``actor0_0``… (network,
            layer, unit), ``critic0_0``…, and ``condition_<name>``
        :raises ImportError: If pandas is not installed
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(f"to_dataframe needs pandas: {_MISSING}") from error
        columns: dict[str, np.ndarray] = {
            "trial": self.trial,
            "step": self.step,
            "environment": self.environment[self.trial],
            "reward": self.rewards,
            "performance": self.performance[self.trial],
        }
        columns |= {f"condition_{name}": values[self.trial] for name, values in self.conditions.items()}
        for name, values in self._arrays().items():
            rows = values.reshape(len(values), -1)
            if values.ndim == 1:
                columns[name] = values
            else:
                columns |= {f"{name}_{place}": rows[:, place] for place in range(rows.shape[1])}
        return pandas.DataFrame(columns)

    def to_xarray(self) -> Any:
        """
        All trials as labelled arrays.

        :return: An ``xarray.Dataset`` with dimensions ``trial`` and ``step``, in which steps after the end of a trial
            are NaN; variables ``reward``, ``performance``, ``observation``, ``action``, ``actor0``, ``critic0``…, whose
            other dimensions are named ``<variable>_dim0``…; and coordinates ``condition_<name>`` and ``environment``
        :raises ImportError: If xarray is not installed
        """
        try:
            import xarray
        except ImportError as error:
            raise ImportError(f"to_xarray needs xarray: {_MISSING}") from error
        variables: dict[str, Any] = {"performance": ("trial", self.performance)}
        for name, values in {"reward": self.rewards, **self._arrays()}.items():
            dimensions = ("trial", "step", *(f"{name}_dim{place}" for place in range(values.ndim - 1)))
            variables[name] = (dimensions, self.by_trial(values))
        coordinates: dict[str, Any] = {
            "trial": np.arange(self.n_trials),
            "step": np.arange(self.lengths.max(initial=0)),
            "environment": ("trial", self.environment),
        }
        coordinates |= {f"condition_{name}": ("trial", values) for name, values in self.conditions.items()}
        return xarray.Dataset(variables, coordinates, {} if self.dt is None else {"dt_ms": self.dt})

    def _arrays(self) -> dict[str, np.ndarray]:
        """Observations, actions and activity by name, shape (T, ...) each."""
        seen = self.observations
        named = {f"observation_{key}": part for key, part in seen.items()} if isinstance(seen, dict) else {}
        if not isinstance(seen, dict):
            named["observation"] = seen
        named["action"] = self.actions
        for network in ("actor", "critic"):
            named |= {f"{network}{place}": values for place, values in enumerate(getattr(self, network))}
        return named


def trial_labels(recording: Recording, by: str | Sequence[str] | np.ndarray) -> np.ndarray:
    """
    Name the condition of each trial.

    :param recording: The recording
    :param by: Name of a condition, or several, whose combinations are told apart; ``"correct"`` and ``"environment"``
        count as conditions. Or an array with one label for each trial
    :return: Strings such as ``"sample_theta=3.14"``, shape (N,)
    :raises ValueError: If there is no such condition, or there are more than 16 different ones
    """
    check("recording.n_trials", recording.n_trials, recording.n_trials > 0, "at least 1: nothing was selected")
    if isinstance(by, np.ndarray):
        check("by", by, by.shape == (recording.n_trials,), f"one label for each of the {recording.n_trials} trials")
        labels = np.array([_as_text(value) for value in by], dtype=object)
    else:
        known = {
            **recording.conditions,
            "correct": recording.correct,
            "environment": recording.environment,
        }
        names = [by] if isinstance(by, str) else list(by)
        for name in names:
            check("by", name, name in known, f"one of {', '.join(known)}, or an array of labels")
        columns = [[f"{name}={_as_text(value)}" for value in known[name]] for name in names]
        labels = np.array([", ".join(parts) for parts in zip(*columns, strict=True)], dtype=object)
    n_labels = len(set(labels))
    wanted = f"at most {_MOST_CONDITIONS} different labels, not {n_labels}: bin the values"
    check("by", by, n_labels <= _MOST_CONDITIONS, wanted)
    return labels


def condition_means(
    recording: Recording, values: np.ndarray, by: str | Sequence[str] | np.ndarray, least: float = 0.5
) -> tuple[list[str], np.ndarray]:
    """
    Average values over the trials of each condition, step by step.

    :param recording: The recording
    :param values: Values of each step, such as ``recording.actor[0]``, shape (T, ...)
    :param by: What tells conditions apart, as in :func:`trial_labels`
    :param least: A step has a mean if at least this fraction of the condition's trials, more than 0, lasts that long
    :return: Labels of the C conditions, sorted; and means of shape (C, L, ...), NaN where there is none
    :raises ValueError: If ``by`` or ``least`` is not valid
    """
    check("least", least, 0 < least <= 1, "in (0, 1]")
    labels = trial_labels(recording, by)
    names = sorted(set(labels))
    arranged = recording.by_trial(values)
    means = np.full((len(names), *arranged.shape[1:]), np.nan)
    for place, name in enumerate(names):
        chosen = labels == name
        lengths = recording.lengths[chosen]
        present = (lengths[:, None] > np.arange(arranged.shape[1])).mean(0)
        lasting = present >= least
        means[place, lasting] = np.nanmean(arranged[chosen][:, lasting], axis=0)
    return names, means


def _as_text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, (float, np.floating)) else str(value)
