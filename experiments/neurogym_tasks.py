"""
NeuroGym tasks that a network without memory can do: NRL, BPTT and RMHL from five seeds.

All tasks have the paper's settings for Reaching1D (Table 2): one hidden layer of 128 nodes, rewards that count at every
step, one noisy pass per step, and noise normalised by layer. Two variants of NRL are compared with these. One has
unbiased updates from eight antithetic pairs, which are as large as BPTT's. The other has a critic and the same settings
on all tasks.
"""

import importlib
import sys
from collections.abc import Sequence
from itertools import product, starmap
from typing import Any

import numpy as np
from torch import nn

from experiments import tables
from experiments.execution import command_line, results_of
from experiments.paper.protocol import SEEDS, Cell, make_model
from experiments.paper.protocol import TASKS as PAPERS_TASKS
from experiments.runs import Columns, Results, Run

DOCUMENT = tables.DOCS / "neurogym.md"
N_TRIALS = 50  # trials that are averaged for a row of results
REACHING = PAPERS_TASKS["Reaching"].env_kwargs
TASKS: dict[str, tuple[dict[str, Any], int]] = {
    "Reaching1D": (REACHING, 1_000),
    "Reaching1DWithSelfDistraction": (REACHING, 200),
    "AnnubesEnv": ({}, 3_000),
    "perceptualdecisionmaking.roitman02": ({}, 10_000),
    "yang19.rtgo": ({}, 6_000),
    "yang19.rtanti": ({}, 6_000),
}
"""The arguments of each task, and the number of trials."""
CRITIC = {
    "gamma": 0.9,
    "trace_decay": 0.85,
    "learning_rate": 3e-3,
    "n_steps": 32,
    "n_noise_samples": 4,
    "local_head": False,
    "vf_coef": 1.0,
    "norm_obs": False,
    "norm_reward": False,
    "policy_kwargs": {"net_arch": [128], "activation_fn": nn.Tanh, "action_correlation": 0.0},
}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, Cell("Reaching", name).settings(0, 0)["arguments"]) for name in ("BPTT", "NRL", "RMHL")},
    "NRL-unbiased": ("NRL", Cell("Reaching", "NRL", setting="recommended").settings(0, 0)["arguments"]),
    "NRL-critic": ("NRL", CRITIC),
}


def train(settings: dict[str, Any]) -> Columns:
    """Train, and return the mean ``return`` and ``performance`` of every 50 trials."""
    model, _ = make_model(settings)
    trials: list[tuple[float, float]] = []

    def keep_trial(local: dict[str, Any], _: dict[str, Any]) -> bool:
        trials.extend((info["episode"]["r"], info["performance"]) for info in local["infos"] if "episode" in info)
        return len(trials) < settings["n_trials"]

    model.learn(10**9, keep_trial)
    means = np.reshape(trials[: settings["n_trials"]], (-1, N_TRIALS, 2)).mean(axis=1)
    return {"return": means[:, 0], "performance": means[:, 1]}


def training(task: str, setting: str, seed: int) -> Run:
    """The run of a training from one seed."""
    env_kwargs, n_trials = TASKS[task]
    algorithm, arguments = SETTINGS[setting]
    settings = {
        "env": f"sb3_nrl.envs:neurogym/{task}-v0",
        "env_kwargs": env_kwargs,
        "algorithm": algorithm,
        "arguments": arguments | {"seed": seed},
        "n_trials": n_trials,
    }
    return Run(f"{task}_{setting}_{seed}", train, settings, seed, n_trials / 20, (task, setting))


def tabulate(results: Results) -> str:
    """Make a table of the mean return of the last 50 trials (worst seed), in Markdown."""
    rows = []
    for task, (_, n_trials) in TASKS.items():
        row, digits = [f"`{task}`, {n_trials:,}"], 0 if task.startswith("Reaching") else 2
        for setting in SETTINGS:
            last = [result.columns["return"][-1] for run, result in results.items() if run.of == (task, setting)]
            told = f"{np.mean(last):.{digits}f} ({min(last):.{digits}f})" if last else ""
            row.append(told.replace("-", "−"))
        rows.append(row)
    return tables.markdown(("task, trials", *SETTINGS), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then report everything."""
    parser = command_line(__doc__ or "", "neurogym", SEEDS)
    chosen = parser.parse_args(arguments)
    results, status = results_of(parser, chosen, lambda seeds: list(starmap(training, product(TASKS, SETTINGS, seeds))))
    tables.publish(tabulate(results), chosen.out, "neurogym", DOCUMENT)
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.neurogym_tasks").main())
