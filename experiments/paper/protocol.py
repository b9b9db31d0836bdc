"""The paper's protocol (Table 2, Appendix B): tasks, settings, trainings, measurements, and the runs of each figure."""

import sys
from collections.abc import Sequence
from itertools import compress, product
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.monitor import Monitor

import sb3_nrl
from experiments.runs import Columns, Run
from sb3_nrl import PAPER
from sb3_nrl.callbacks import GradientAlignmentCallback

LABELS = {"NRL": "NRL", "BPTT": "BP", "RMHL": "RMHL"}  # the algorithms, and their names in the paper
SETTINGS = {"paper": "as published", "recommended": "recommended"}
SEEDS = (0, 1, 2, 3, 4)
N_LAST = 50  # the final return is the mean return of this number of episodes at the end


class Task(NamedTuple):
    """One of the paper's tasks."""

    env: str  # registered name of the environment
    env_kwargs: dict[str, Any]
    n_episodes: int  # length of a training
    width: int  # nodes of each hidden layer
    worst: float  # worst possible return
    best: float  # best possible return
    goal: float  # the speed of a training is the number of episodes until this return
    seconds: float  # approximate duration of an episode

    def score(self, value: Any) -> Any:
        """Scale returns linearly, so that the worst one becomes 0 and the best one 1."""
        return (value - self.worst) / (self.best - self.worst)


_REACHING = {"dt": 10, "timing": {"fixation": 0, "reach": 3000}}
TASKS = {
    "Reaching": Task("sb3_nrl.envs:neurogym/Reaching1D-v0", _REACHING, 1_000, 128, -30.0, 300.0, 200.0, 0.25),
    "Acrobot": Task("Acrobot-v1", {}, 8_000, 64, -500.0, 0.0, -100.0, 0.06),
    "CartPole": Task("CartPole-v1", {}, 20_000, 64, 0.0, 500.0, 475.0, 0.05),
}
LEARNING_RATES = {
    "Reaching": {"NRL": 1e-2, "BPTT": 1e-2, "RMHL": 1e-1},
    "Acrobot": {"NRL": 5e-2, "BPTT": 5e-3, "RMHL": 5e-2},
    "CartPole": {"NRL": 5e-2, "BPTT": 5e-3, "RMHL": 1e-2},
}
NOISE_STDS = {
    "Reaching": {"NRL": 1e-3, "RMHL": 1e-1},
    "Acrobot": {"NRL": 1e-3, "RMHL": 1e-3},
    "CartPole": {"NRL": 1e-3, "RMHL": 1e-1},
}
PINNED: dict[str, dict[str, Any]] = {
    "NRL": {"noise_distribution": "gaussian", "n_baseline_passes": None},
    "BPTT": {},
    "RMHL": {"n_steps": 128, "trace_decay": 1.0, "max_grad_norm": None, "noise_distribution": "gaussian"},
}
"""Settings that ``PAPER`` leaves to the defaults. They are fixed here, since the defaults may change."""

SMALL_HEAD = 0.01
_WITH_SMALL_HEAD = {"policy_kwargs": {"head_gain": SMALL_HEAD}}
_BP_STEP = {"noise_normalization": "unbiased"}
_PAIRS = {"n_noise_samples": 8, "antithetic": True}
RECOMMENDED: dict[tuple[str, int], dict[str, dict[str, Any]]] = {
    **{("Acrobot", n_hidden): {"NRL": _WITH_SMALL_HEAD, "BPTT": _WITH_SMALL_HEAD} for n_hidden in (1, 2, 3)},
    ("Reaching", 1): {"NRL": _BP_STEP | _PAIRS},
}
"""
Recommended settings, by task and number of hidden layers, where NRL as published does not reach BP with every seed.

Acrobot: with large initial weights in the head, some initial policies brake the swing and never reach the goal. All
returns are then -500, the reward prediction error is 0, and no algorithm changes a weight. With small weights, all
actions have nearly the same probability at first.
Reaching: noise that is normalised per layer makes the update of a layer of n nodes n times smaller than BP's, so NRL is
slow. With updates as large as BP's, a single noise sample is too noisy. The mean of eight antithetic pairs is not.
"""
CHANGES: dict[str, dict[str, Any]] = {
    "": {},
    "2 passes": {"n_baseline_passes": 2},
    "10 passes": {"n_baseline_passes": 10},
    "uniform": {"noise_distribution": "uniform"},
    "rademacher": {"noise_distribution": "rademacher"},
    "poisson": {"noise_distribution": "poisson"},
    "unbiased": _BP_STEP,
    "8 pairs": _PAIRS,
}
"""Changes of NRL's settings, for Figure 4B, for the figure about noise, and for the recommended settings one by one."""


class Cell(NamedTuple):
    """One setting that is trained from every seed: a cell of the table, a line in a figure."""

    task: str
    algorithm: str
    n_hidden: int = 1
    setting: str = "paper"
    change: str = ""

    @property
    def name(self) -> str:
        """The beginning of the names of its files."""
        parts = (self.algorithm, f"{self.n_hidden}-hidden", self.setting, self.change.replace(" ", "-"))
        return f"{self.task}/{'_'.join(filter(None, parts))}"

    @property
    def title(self) -> str:
        """Its name in the table."""
        setting = "" if self.setting == "paper" else self.setting
        return ", ".join(filter(None, (self.task, str(self.n_hidden), setting, self.change)))

    def settings(self, seed: int, n_episodes: int) -> dict[str, Any]:
        """All settings that determine the result of a training."""
        task, algorithm, immediate = TASKS[self.task], self.algorithm, self.task == "Reaching"
        arguments: dict[str, Any] = {
            "reward_timing": "step" if immediate else "episode",
            "scale_rpe": not immediate,
            "reward_smoothing": 0.66,
            "learning_rate": LEARNING_RATES[self.task][algorithm],
            "policy_kwargs": {"net_arch": [task.width] * self.n_hidden},
        }
        if algorithm != "BPTT":
            arguments["noise_std"] = NOISE_STDS[self.task][algorithm]
        if algorithm == "NRL":
            arguments["noise_normalization"] = "layer" if immediate else "network"
        recommended = RECOMMENDED[self.task, self.n_hidden] if self.setting == "recommended" else {}
        everything = (
            PAPER[algorithm],
            PINNED[algorithm],
            arguments,
            recommended.get(algorithm, {}),
            CHANGES[self.change],
        )
        merged: dict[str, Any] = {"policy_kwargs": {}}
        for more in everything:
            merged = {**merged, **more, "policy_kwargs": merged["policy_kwargs"] | more.get("policy_kwargs", {})}
        return {
            "env": task.env,
            "env_kwargs": task.env_kwargs,
            "algorithm": algorithm,
            "arguments": {**merged, "seed": seed},
            "n_episodes": n_episodes,
        }


def make_model(settings: dict[str, Any]) -> tuple[Any, Monitor]:
    """Make the untrained model that the settings describe, and its environment."""
    env = Monitor(gymnasium.make(settings["env"], **settings["env_kwargs"]))
    return getattr(sb3_nrl, settings["algorithm"])("MlpPolicy", env, device="cpu", **settings["arguments"]), env


def learn(model: Any, n_episodes: int, *callbacks: BaseCallback) -> None:
    """Train a model of :func:`make_model` for a number of episodes."""
    model.learn(10**9, [StopTrainingOnMaxEpisodes(n_episodes), *callbacks], log_interval=sys.maxsize)


# Trainings and measurements


def train(settings: dict[str, Any]) -> Columns:
    """
    Train a cell from one seed. Each row of ``episode``, ``return`` and ``length`` is the mean of several episodes. If
    the training diverges, its missing episodes have the worst return and length 0.
    """
    model, env = make_model(settings)
    n_missing = 0
    try:
        learn(model, settings["n_episodes"])
    except FloatingPointError:
        n_missing = settings["n_episodes"] - len(env.get_episode_rewards())
    (worst,) = (task.worst for task in TASKS.values() if task.env == settings["env"])
    n_episodes = settings["n_episodes"]
    longest = max(n_episodes / 80, min(n_episodes / 20, 5), 1)
    size = max(n for n in range(1, N_LAST + 1) if N_LAST % n == n_episodes % n == 0 and n <= longest)
    return {
        "episode": np.arange(size, n_episodes + 1, size),
        "return": np.reshape(env.get_episode_rewards() + [worst] * n_missing, (-1, size)).mean(1),
        "length": np.reshape(env.get_episode_lengths() + [0] * n_missing, (-1, size)).mean(1),
    }


@th.no_grad()
def measure_noisy_passes(settings: dict[str, Any]) -> Columns:
    """
    Figure 4A: |clean output - mean of N noisy outputs| against N, on steps of Acrobot with an untrained policy. The
    outputs are the action probabilities. ``error`` is the mean over actions and steps for each number of ``passes``.
    """
    model, _ = make_model(settings)
    env, policy = model.get_env(), model.policy
    seen = [env.reset()]
    while len(seen) < settings["n_steps"]:
        seen.append(env.step(model.predict(seen[-1])[0])[0])
    obs = th.as_tensor(np.concatenate(seen))
    clean = policy.get_distribution(obs).distribution.probs
    n_actions = clean.shape[1]
    every_action, rows = th.arange(n_actions).repeat_interleave(len(obs)), th.arange(len(obs)).repeat(n_actions)
    total, errors = th.zeros_like(clean, dtype=th.float64), []
    for n_passes in range(1, max(settings["n_passes"]) + 1):
        noise = policy.sample_noise(len(obs), 1)[rows]  # an array or a tensor
        log_probs = th.as_tensor(policy.noisy_pass(obs[rows], every_action, noise).objectives[0])
        total += log_probs.exp().view(n_actions, -1).T
        if n_passes in settings["n_passes"]:
            errors.append((total / n_passes - clean).abs().mean().item())
    return {"passes": np.array(settings["n_passes"]), "error": np.array(errors)}


def measure_alignment(settings: dict[str, Any]) -> Columns:
    """
    Appendix C: the ``cosine`` between NRL's updates and the exact gradient on the same steps, for each σ ``std`` and
    number of noise ``samples`` per step. There is one update per episode. The learning rate is 0, so the network is
    always the same untrained CartPole policy. The cosine is the mean over episodes.
    """
    rows = []
    for std, n_samples in settings["cases"]:
        arguments = settings["arguments"] | {"noise_std": std, "n_noise_samples": n_samples}
        model, _ = make_model(settings | {"arguments": arguments})
        learn(model, settings["n_episodes"], GradientAlignmentCallback())
        rows.append((std, n_samples, model.logger.name_to_value["train/alignment"]))
    return dict(zip(("std", "samples", "cosine"), np.array(rows).T, strict=True))


def measure_untrained(settings: dict[str, Any]) -> Columns:
    """
    Measure untrained policies on Acrobot, with large and small initial weights in the head, to explain why some
    trainings fail. For each policy, ``reached`` is the number of episodes that reached the goal. ``correlation`` is the
    correlation between the torque and the velocity of the second link. Below 0, the torque brakes the swing.
    """
    rows, n_episodes = [], settings["n_episodes"]
    for head_gain, seed in product(settings["head_gains"], range(settings["n_policies"])):
        policy_kwargs = settings["arguments"]["policy_kwargs"] | {"head_gain": head_gain}
        arguments = settings["arguments"] | {"seed": seed, "policy_kwargs": policy_kwargs}
        model, _ = make_model(settings | {"arguments": arguments})
        envs = [gymnasium.make(settings["env"], disable_env_checker=True) for _ in range(n_episodes)]
        seen = [env.reset(seed=n_episodes * seed + place)[0] for place, env in enumerate(envs)]
        n_reached, torques, velocities = 0, [], []
        while envs:  # all episodes at once
            actions, _ = model.predict(np.array(seen))
            torques += list(actions - 1)
            velocities += [obs[5] for obs in seen]
            steps = [env.step(action)[:4] for env, action in zip(envs, actions, strict=True)]
            n_reached += sum(terminated for _, _, terminated, _ in steps)
            going_on = [not (terminated or truncated) for _, _, terminated, truncated in steps]
            envs = list(compress(envs, going_on))
            seen = list(compress((obs for obs, *_ in steps), going_on))
        rows.append((head_gain, seed, n_reached, np.corrcoef(torques, velocities)[0, 1]))
    return dict(zip(("head_gain", "policy", "reached", "correlation"), np.array(rows).T, strict=True))


# The runs of each figure

N_PASSES = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
HEAD_GAINS = [1.0, SMALL_HEAD]
SMALL_NOISE = 1e-3  # the paper's σ
CASES = [*((SMALL_NOISE, n) for n in (1, 10, 100, 1000)), *((std, 1000) for std in (0.01, 0.1, 0.3, 1.0))]
"""σ, and noise samples per step."""


def _benchmark(task: str, n_hidden: int) -> list[Cell]:
    published = [Cell(task, algorithm, n_hidden) for algorithm in LABELS]
    again = RECOMMENDED.get((task, n_hidden), {})
    return published + [Cell(task, algorithm, n_hidden, "recommended") for algorithm in again]


_REPAIRED = Cell("Acrobot", "NRL", setting="recommended")
CELLS: dict[str, list[Cell]] = {
    "fig1": [
        *(cell for task in TASKS for cell in _benchmark(task, 1)),
        *(Cell("Reaching", "NRL", change=change) for change in ("unbiased", "8 pairs")),
    ],
    "fig2": _benchmark("Acrobot", 2) + _benchmark("Acrobot", 3),
    "fig3": _benchmark("CartPole", 2) + _benchmark("CartPole", 3),
    "fig4": [
        cell._replace(change=change)
        for cell in (Cell("Acrobot", "NRL"), _REPAIRED)
        for change in ("", "2 passes", "10 passes")
    ],
    "noise": [_REPAIRED._replace(change=change) for change in ("", "uniform", "rademacher", "poisson")],
}
"""The cells that are trained for each figure."""
QUICK_EPISODES = {"Reaching": 100, "CartPole": 1_500}
QUICK_CELLS = _benchmark("Reaching", 1) + _benchmark("CartPole", 1)  # cells of Figure 1 with --quick


def plan(figure: str, seeds: Sequence[int], quick: bool = False) -> list[Run]:
    """The runs for a figure, which is a key of ``CELLS``. With ``quick``, the short runs for Figure 1."""
    cells, runs = QUICK_CELLS if quick else CELLS[figure], []
    for cell, seed in product(cells, seeds):
        task = TASKS[cell.task]
        n_episodes = QUICK_EPISODES[cell.task] if quick else task.n_episodes
        settings = cell.settings(seed, n_episodes)
        runs.append(Run(f"{cell.name}_seed-{seed}", train, settings, seed, n_episodes * task.seconds, cell))
    for n_hidden in {"fig1": (1,), "fig2": (2, 3)}.get(figure, ()) if not quick else ():
        settings = Cell("Acrobot", "NRL", n_hidden).settings(0, 200) | {"n_policies": 20, "head_gains": HEAD_GAINS}
        runs.append(Run(f"Acrobot/untrained_{n_hidden}-hidden", measure_untrained, settings, 0, 400.0, n_hidden))
    for seed in seeds if figure == "fig4" else ():
        settings = Cell("Acrobot", "NRL").settings(seed, 0) | {"n_steps": 500, "n_passes": N_PASSES}
        runs.append(Run(f"Acrobot/clean-pass-error_seed-{seed}", measure_noisy_passes, settings, seed, 2.0))
    for n_hidden, noise, seed in product((1, 2, 3), CELLS["noise"], seeds) if figure == "noise" else ():
        cell = Cell("CartPole", "NRL", n_hidden, change=noise.change)
        settings = cell.settings(seed, 30) | {"cases": CASES}
        settings["arguments"]["learning_rate"] = 0.0
        runs.append(Run(f"{cell.name}_alignment_seed-{seed}", measure_alignment, settings, seed, 10.0 * n_hidden, cell))
    return runs
