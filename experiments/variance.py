"""
The noise of NRL's estimate: the cosine between its updates and the exact gradient, for several numbers of noise
samples, sizes of the network and of observations, steps of an update, and kinds of noise.

A policy with continuous actions is trained on a task made for this: observations are random, and the reward is the
negative squared distance to actions that are a fixed linear function of them. Each update is compared with that of the
exact gradient, of the same steps and with the same reward prediction errors and decay of the traces.
"""

import importlib
import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from experiments import tables
from experiments.execution import command_line, results_of
from experiments.runs import Columns, Results, Run, by_case
from sb3_nrl import NRL
from sb3_nrl.bptt import ExactGradient
from sb3_nrl.traces import EligibilityTraces
from sb3_nrl.updates import Update

DOCUMENT = tables.DOCS / "variance.md"
STANDARD: dict[str, Any] = {
    "samples": 16,
    "width": 64,
    "depth": 1,
    "actions": 2,
    "observations": 8,
    "steps": 64,
    "noise": "node",
}
CHANGES: dict[str, Sequence[Any]] = {
    "samples": (1, 4, 64),
    "width": (16, 256, 1024),
    "depth": (2, 4),
    "actions": (1, 8, 32),
    "observations": (2, 100),
    "steps": (8, 512),
    "noise": (
        *("orthogonal", "local head", "orthogonal, local head", "weight, rank one", "weight, full rank"),
        *("weight, rank one, local head", "weight, full rank, local head"),
    ),
}
"""The standard case, and each other value of its settings."""
NOISE: dict[str, dict[str, Any]] = {
    "node": {"local_head": False},
    "orthogonal": {"noise_distribution": "orthogonal", "local_head": False},
    "local head": {"local_head": True},
    "orthogonal, local head": {"noise_distribution": "orthogonal", "local_head": True},
    "weight, rank one": {"perturbation": "weight"},
    "weight, full rank": {"perturbation": "weight", "noise_rank": "full"},
    "weight, rank one, local head": {"perturbation": "weight", "local_head": True},
    "weight, full rank, local head": {"perturbation": "weight", "noise_rank": "full", "local_head": True},
}
"""Arguments of NRL for each kind of noise."""
N_ENVS = 8
N_STEPS = 20_000


class LinearTask(gymnasium.Env[np.ndarray, np.ndarray]):
    """Random observations; the best action is a linear function of them. Episodes have 50 steps."""

    def __init__(self, n_actions: int, n_observations: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (n_observations,), np.float32)
        self.action_space = spaces.Box(-10, 10, (n_actions,), np.float32)
        self._best = np.random.default_rng(0).standard_normal((n_actions, n_observations)) / n_observations**0.5

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._step = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = -float(np.mean((action - self._best @ self._obs) ** 2))
        self._step += 1
        return self._observe(), reward, False, self._step == 50, {}

    def _observe(self) -> np.ndarray:
        self._obs = self.np_random.standard_normal(self.observation_space.shape).astype(np.float32)
        return self._obs


def plan(seeds: Sequence[int]) -> list[Run]:
    """The standard case and all changes."""
    cases = [STANDARD, *({**STANDARD, name: value} for name, values in CHANGES.items() for value in values)]
    runs = []
    for case in cases:
        for seed in seeds:
            name = "_".join([*(str(value).replace(", ", "-").replace(" ", "-") for value in case.values()), str(seed)])
            runs.append(Run(name, measure, {**case, "seed": seed}, seed, 30, tuple(case.values())))
    return runs


def measure(settings: dict[str, Any]) -> Columns:
    """Train, and compare each update of the actor with the exact one, as a whole and by layer."""
    sizes = {"n_actions": settings["actions"], "n_observations": settings["observations"]}
    env = make_vec_env(LinearTask, N_ENVS, seed=settings["seed"], env_kwargs=sizes)
    n_nodes = settings["depth"] * settings["width"] + 2 * settings["actions"]
    of_nodes = min(5e-3, 5e-2 * math.sqrt(settings["samples"] / n_nodes))
    model = NRL(
        "MlpPolicy",
        env,
        n_steps=settings["steps"] // N_ENVS,
        n_noise_samples=settings["samples"],
        learning_rate=5e-3 if "weight" in settings["noise"] else of_nodes,
        vf_coef=1.0,
        norm_obs=False,
        norm_reward=False,
        policy_kwargs={
            "net_arch": settings["depth"] * [settings["width"]],
            "activation_fn": nn.Tanh,
            "action_correlation": 0.0,
        },
        seed=settings["seed"],
        device="cpu",
        **NOISE[settings["noise"]],
    )
    policy, actor, exact, traces = model.policy, model.policy.actor, ExactGradient(), EligibilityTraces()
    ends = np.cumsum([0, *(sum(p.numel() for p in layer.learnable()) for layer in actor.layers)])
    spans = [slice(0, ends[-1]), *(slice(*of) for of in pairwise(ends) if of[0] < of[1])]
    rows = []

    def compare(update: Update) -> None:
        eligibility, _ = exact.eligibility(policy, update.window, None)
        errors_TE, restarts_TE = update.errors.errors_TE, update.errors.restarts_TE
        exact_W = np.asarray(traces.update(eligibility, errors_TE, restarts_TE, model.decay).change_W)
        rows.append([model.num_timesteps, *(_cosine(update.change_W[span], exact_W[span]) for span in spans)])

    model.watchers.append(compare)
    model.learn(N_STEPS)
    table = np.array(rows).T
    names = ["steps", "cosine", *(f"layer_{number}" for number in range(1, len(table) - 1))]
    numbers = {f"mean_{name}": values.mean() for name, values in zip(names[1:], table[1:], strict=True)}
    n_noisy = actor.n_nodes - (actor.head.n_nodes if settings["noise"].endswith("local head") else 0)
    numbers["n_noisy"] = np.nan if settings["noise"].startswith("weight") else n_noisy
    return dict(zip(names, table, strict=True)) | {name: np.array(value) for name, value in numbers.items()}


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second) + 1e-30))


def tabulate(results: Results) -> str:
    """A table with one row for each case, in Markdown."""
    rows = []
    for case, runs in by_case(results).items():
        settings = dict(zip(STANDARD, case, strict=True))
        n_noisy = float(runs[0]["n_noisy"])
        rule = "–" if np.isnan(n_noisy) else f"{(1 + n_noisy / settings['samples']) ** -0.5:.2f}"
        by_layer = [name for name in runs[0] if name.startswith("mean_layer")]
        at_ends = [[run["cosine"][part].mean() for run in runs] for part in (slice(0, 20), slice(-20, None))]
        changed = [name for name in STANDARD if settings[name] != STANDARD[name]]
        rows.append(
            [
                *(f"{f'**{settings[name]}**' if name in changed else settings[name]}" for name in STANDARD),
                *("–" if np.isnan(n_noisy) else f"{n_noisy:.0f}", rule),
                f"{median(float(run['mean_cosine']) for run in runs):.2f}",
                *(f"{median(map(float, values)):.2f}" for values in at_ends),
                " · ".join(f"{median(float(run[name]) for run in runs):.2f}" for name in by_layer),
            ]
        )
    header = (
        *("samples K", "width", "depth", "actions", "observations", "steps", "noise"),
        "noisy nodes n",
        "1 / √(1 + n / K)",
        "cosine",
    )
    return tables.markdown((*header, "first 20 updates", "last 20 updates", "by layer, the first one first"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then report everything."""
    parser = command_line(__doc__ or "", "variance", range(3), workers=1)
    chosen = parser.parse_args(arguments)
    results, status = results_of(parser, chosen, plan)
    tables.publish(tabulate(results), chosen.out, "variance", DOCUMENT)
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.variance").main())
