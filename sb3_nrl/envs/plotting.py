"""
A plot of one trial.

Shapes: T time steps, C channels, A actions.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from gymnasium import spaces
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_nrl.envs.trials import NeuroGymEnv
from sb3_nrl.recurrent_policies import RnnPolicy

_MANY = 8
"""Smallest number of channels that are drawn as rows of colour instead of lines."""

Groups = dict[str, list[int]]
"""The names of channels: a name may belong to several channels."""


class _Trial(NamedTuple):
    """The observations, actions and rewards of a trial."""

    observations_TC: np.ndarray
    actions_T: np.ndarray
    probabilities_TA: np.ndarray | None
    truths_T: np.ndarray | None
    rewards_T: np.ndarray
    performance: float | None
    periods: dict[str, tuple[float, float]]


def plot_trial(
    env: str | gymnasium.Env | VecEnv,
    model: BaseAlgorithm | None = None,
    seed: int | None = None,
    deterministic: bool = True,
) -> Figure:
    """
    Run one trial and plot it: observations, actions and ground truth, reward, and the model's probabilities of the
    actions. The figure is a Matplotlib figure: ``plt.show()`` shows it, its ``savefig`` saves it.

    :param env: A NeuroGym task of this package, which is reset and stepped, or its identifier. It may have wrappers.
        Of a ``VecEnv``, the first environment is used, without the frames that the ``VecEnv`` stacks
    :param model: The model that chooses the actions; by default they are random. If the model's actions are
        categorical, their probabilities are drawn. Observations are normalised if ``env`` or the model's own
        environment normalises them, and as many frames are stacked as the model needs
    :param seed: Seed of the trial, and of random actions
    :param deterministic: Whether the model takes its most likely actions instead of sampling them
    :return: The figure
    :raises TypeError: If the environment is not a NeuroGym task of this package, or the model not an algorithm
    """
    if isinstance(env, str):
        env = gymnasium.make(env)
    scaling = None
    if isinstance(env, VecEnv):
        scaling, env = unwrap_vec_normalize(env), _first(env)
    neurogym_env = getattr(env, "unwrapped", None)
    if not isinstance(neurogym_env, NeuroGymEnv):
        raise TypeError(f"env={env}: must be an environment of sb3_nrl.envs, or the identifier of one")
    if not isinstance(model, BaseAlgorithm | None):
        raise TypeError(f"model={model}: must be an algorithm of Stable-Baselines3, or None for random actions")
    if scaling is None and model is not None:
        scaling = model.get_vec_normalize_env()
    trial = _run(env, neurogym_env, model, scaling, seed, deterministic)
    task: Any = neurogym_env.task.unwrapped
    edges = np.arange(len(trial.rewards_T) + 1) * task.dt
    truths = trial.truths_T
    n_choices = int(env.action_space.n) if isinstance(env.action_space, spaces.Discrete) else 0
    truths_are_actions = n_choices > 0 and truths is not None and all(map(env.action_space.contains, truths))

    heights = {"observation": 3.0, "action": 2.0}
    if truths is not None and not truths_are_actions:
        heights["ground truth"] = 1.5
    heights["reward"] = 1.2
    figure, row_of_axes = plt.subplots(
        len(heights),
        sharex=True,
        figsize=(8, 1 + 0.65 * sum(heights.values())),
        height_ratios=list(heights.values()),
        layout="constrained",
    )
    axes: dict[str, Axes] = dict(zip(heights, row_of_axes, strict=True))

    unchanged = env.observation_space == neurogym_env.observation_space  # by wrappers
    _draw_channels(
        axes["observation"], edges, trial.observations_TC, _groups(task.observation_space) if unchanged else {}
    )
    if n_choices:
        shown = truths if truths_are_actions else None
        _draw_choices(axes["action"], edges, trial, shown, _groups(task.action_space), n_choices)
    else:
        _draw_channels(axes["action"], edges, trial.actions_T, {})
    if "ground truth" in axes and truths is not None:
        _draw_channels(axes["ground truth"], edges, truths.reshape(len(truths), -1), {})
    axes["reward"].stairs(trial.rewards_T, edges, fill=True, color="tab:green")
    axes["reward"].axhline(0, color="black", linewidth=0.5)
    for label, ax in axes.items():
        ax.set_ylabel(label)
        ax.spines[["top", "right"]].set_visible(False)
    axes["reward"].set(xlabel="time (ms)", xlim=(0, edges[-1]))
    _draw_periods(list(axes.values()), trial.periods, edges[-1])
    name = neurogym_env.spec.id if neurogym_env.spec else type(task).__name__
    performance = "" if trial.performance is None else f", performance {trial.performance:.2g}"
    figure.suptitle(f"{name}: reward {trial.rewards_T.sum():.3g}{performance}")
    return figure


def _first(env: VecEnv) -> gymnasium.Env:
    envs = getattr(env.unwrapped, "envs", None)
    if envs is None:
        raise TypeError(f"env={env}: its environments are in other processes, so give the identifier of one instead")
    return envs[0]


def _run(
    env: gymnasium.Env,
    neurogym_env: NeuroGymEnv,
    model: BaseAlgorithm | None,
    scaling: VecNormalize | None,
    seed: int | None,
    deterministic: bool,
) -> _Trial:
    obs, _ = env.reset(seed=seed)
    env.action_space.seed(seed)
    task: Any = neurogym_env.task.unwrapped
    periods = {name: (start, task.end_t[name]) for name, start in task.start_t.items()}
    sight = [] if model is None else _sight(model, scaling, env.observation_space)
    memory, starting = None, np.ones(1, dtype=bool)
    steps: list[tuple[Any, ...]] = []
    over = False
    while not over:
        seen = obs
        for look in sight:
            seen = look(seen)
        probabilities = None if model is None else _probabilities(model.policy, seen, memory, starting)
        if model is None:
            action = env.action_space.sample()
        else:
            action, memory = model.predict(seen, memory, starting, deterministic)
        next_obs, reward, terminated, truncated, info = env.step(action)
        steps.append((obs, action, probabilities, info.get("gt"), reward))
        obs, starting = next_obs, np.zeros(1, dtype=bool)
        over = info["new_trial"] or terminated or truncated
    observed, chosen, considered, true, rewarded = zip(*steps, strict=True)
    return _Trial(
        np.array(observed).reshape(len(steps), -1),
        np.array(chosen),
        None if considered[0] is None else np.array(considered),
        None if true[0] is None else np.array(true),
        np.array(rewarded),
        info.get("performance"),
        periods,
    )


def _sight(model: BaseAlgorithm, scaling: VecNormalize | None, space: spaces.Space) -> list[Callable[[Any], Any]]:
    """The normalisation and the stacking of frames before an observation reaches the model, in their order."""
    sight: list[Callable[[Any], Any]] = [] if scaling is None else [scaling.normalize_obs]
    n_frames = math.prod(model.observation_space.shape or ()) // math.prod(space.shape or ())
    if n_frames > 1 and isinstance(space, spaces.Box):
        frames = StackedObservations[np.ndarray](1, n_frames, space)
        sight.append(lambda obs: frames.update(obs[None], np.zeros(1, dtype=bool), [{}])[0][0])
        if scaling is not None and scaling.observation_space == model.observation_space:
            sight.reverse()
    return sight


def _probabilities(policy: Any, obs: Any, memory: Any, starting: np.ndarray) -> np.ndarray | None:
    """π(·|s) of a categorical policy, shape (A,)."""
    if not isinstance(policy.action_space, spaces.Discrete) or not hasattr(policy, "get_distribution"):
        return None
    rows, _ = policy.obs_to_tensor(obs)
    with th.no_grad():
        if hasattr(policy, "lstm_hidden_state_shape"):  # recurrent policies of sb3-contrib
            states = memory or (np.zeros(policy.lstm_hidden_state_shape, np.float32),) * 2
            tensors = [th.as_tensor(value, device=policy.device) for value in (*states, starting.astype(np.float32))]
            distribution, _ = policy.get_distribution(rows, tuple(tensors[:2]), tensors[2])
        elif isinstance(policy, RnnPolicy):
            states = np.zeros((1, policy.parts[0].n_states), np.float32) if memory is None else memory
            tensors = [th.as_tensor(value, device=policy.device) for value in (states, starting)]
            distribution, _ = policy.get_distribution(rows, *tensors)
        else:
            distribution = policy.get_distribution(rows)
    return distribution.distribution.probs[0].cpu().numpy()


def _groups(space: Any) -> Groups:
    """The names that NeuroGym gives to the parts of a space."""
    named = getattr(space, "name", {})
    return {name: np.atleast_1d(channels).astype(int).tolist() for name, channels in named.items()}


def _draw_channels(ax: Axes, edges: np.ndarray, values_TC: np.ndarray, groups: Groups) -> None:
    n_channels = values_TC.shape[1]
    if n_channels >= _MANY:
        mesh = ax.pcolormesh(edges, np.arange(n_channels + 1) - 0.5, values_TC.T, cmap="viridis", rasterized=True)
        ax.figure.colorbar(mesh, ax=ax, pad=0.01)
        _label_rows(ax, groups)
        return
    names = {channel: str(channel) for channel in range(n_channels)} if n_channels > 1 else {}
    for name, channels in groups.items():
        names |= {channel: f"{name} {i}" if len(channels) > 1 else name for i, channel in enumerate(channels, 1)}
    for channel in range(n_channels):
        ax.stairs(values_TC[:, channel], edges, baseline=None, linewidth=1.5, label=names.get(channel))
    if names:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize="small")


def _draw_choices(
    ax: Axes, edges: np.ndarray, trial: _Trial, truths_T: np.ndarray | None, groups: Groups, n_actions: int
) -> None:
    if trial.probabilities_TA is not None:
        rows = np.arange(n_actions + 1) - 0.5
        mesh = ax.pcolormesh(edges, rows, trial.probabilities_TA.T, cmap="Greys", vmin=0, vmax=1, rasterized=True)
        ax.figure.colorbar(mesh, ax=ax, pad=0.01, label="probability")
    if truths_T is not None:
        ax.hlines(truths_T, edges[:-1], edges[1:], color="tab:orange", linewidth=7, alpha=0.6, label="ground truth")
    ax.hlines(trial.actions_T, edges[:-1], edges[1:], color="tab:blue", linewidth=2.5, label="action")
    ax.set_ylim(-0.5, n_actions - 0.5)
    _label_rows(ax, groups)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize="small")


def _label_rows(ax: Axes, groups: Groups) -> None:
    """Write the name of each group of rows at its middle. Rows without names are numbered."""
    for rows in groups.values():
        for edge in (rows[0] - 0.5, rows[-1] + 0.5):
            ax.axhline(edge, color="white", linewidth=1)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if groups:
        ax.set_yticks([np.mean(rows) for rows in groups.values()], list(groups))


def _draw_periods(axes: list[Axes], periods: dict[str, tuple[float, float]], duration: float) -> None:
    """Draw a line where each period starts, and its name if there is room."""
    labelled_until = 0.0
    for name, (start, end) in sorted(periods.items(), key=lambda period: period[1]):
        end = min(end, duration)
        if 0 < start < duration:
            for ax in axes:
                ax.axvline(start, color="black", linewidth=0.8, linestyle=":")
        if start >= labelled_until and end - start > 0.012 * len(name) * duration:
            place = ((start + end) / 2, 1.02)
            axes[0].text(
                *place, name, transform=axes[0].get_xaxis_transform(), ha="center", va="bottom", fontsize="small"
            )
            labelled_until = end
