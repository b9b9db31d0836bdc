"""
Where the time of a training goes, and how it grows: NRL on CartPole, on one thread.

The first table has the time of each part of a training for several numbers of environments, with the constructor's
defaults. Those of 256 environments are stepped in one call. The second changes one thing of eight environments at a
time. Parts are timed within a training, so that a step of the environments takes longer than in a loop of its own: what
it needs is no longer in the processor's caches.
"""

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch as th

from experiments import tables
from experiments.execution import command_line, results_of
from experiments.runs import Columns, Results, Run, by_case
from experiments.stepping import Stopwatch, make_env
from sb3_nrl import NRL

DOCUMENT = tables.DOCS / "performance.md"
SECONDS = 4.0  # of a measurement, after a warm-up of a quarter of that
PARTS = {
    "environments": "the environments' steps",
    "act": "choosing actions",
    "add": "storing the steps",
    "errors": "reward prediction errors: passes through the critic",
    "noise": "drawing noise",
    "eligibility": "noisy passes, post-synaptic factors",
    "traces": "outer products, traces",
    "optimizer": "the optimizer's step",
    "rest": "the rest of the loop: checks, callbacks, logs",
}
"""Parts of a training, and what each is called in the table."""
N_ENVS = {1: "Discrete", 8: "Discrete", 32: "Discrete", 256: "vectorised"}
"""Numbers of environments of the first table, and how they are stepped: see ``stepping.make_env``."""
BASE = "8 environments"
CHANGES: dict[str, dict[str, Any]] = {
    BASE: {},
    "16 environments": {"n_envs": 16},
    "64 environments": {"n_envs": 64},
    "windows of 4 times as many steps": {"n_steps": 64},
    "2 noise samples": {"n_noise_samples": 2},
    "32 noise samples": {"n_noise_samples": 32},
    "256 units": {"policy_kwargs": {"net_arch": [256]}},
    "1,024 units": {"policy_kwargs": {"net_arch": [1024]}},
    "4 layers of 64 units": {"policy_kwargs": {"net_arch": [64] * 4}},
    "spiking neurons, 8 ticks": {"policy": "MlpLifPolicy"},
    "spiking neurons, 32 ticks": {"policy": "MlpLifPolicy", "policy_kwargs": {"ticks": 32}},
    "leaky units with memory": {"policy": "MlpCtrnnPolicy"},
}
"""Rows of the second table: the arguments that differ. ``n_steps`` is 16 but where it is given."""


class Timer(Stopwatch):
    """Measures the parts of a training too. Nested parts count for themselves only."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds_of = dict.fromkeys(PARTS, 0.0)
        self.inner = 0.0

    def _on_training_start(self) -> None:
        model: Any = self.model
        for owner, method, part in (
            (model.env, "step", "environments"),
            (model.policy, "act", "act"),
            (model.rollout_buffer, "add", "add"),
            (model.predictor, "errors", "errors"),
            (model.policy, "sample_noise", "noise"),
            (model.rule, "eligibility", "eligibility"),
            (model.traces, "update", "traces"),
            (model.policy.optimizer, "step", "optimizer"),
        ):
            setattr(owner, method, self._timed(getattr(owner, method), part))

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self.inner, begun = self.inner, 0.0, perf_counter()
            result = function(*args, **kwargs)
            lasted = perf_counter() - begun
            self.seconds_of[part] += lasted - self.inner
            self.inner = outer + lasted
            return result

        return timed

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        if self.start[0] == self.num_timesteps:  # the warm-up is over
            self.seconds_of = dict.fromkeys(PARTS, 0.0)


def measure(settings: dict[str, Any]) -> Columns:
    """Microseconds per step of one environment that each part takes."""
    th.set_num_threads(1)
    arguments = {"policy": "MlpPolicy", **settings["arguments"]}
    timer = Timer(settings["seconds"])
    NRL(env=make_env(settings["n_envs"], settings["kind"]), seed=settings["seed"], device="cpu", **arguments).learn(
        10**9, timer
    )
    n_steps, lasted = timer.end[0] - timer.start[0], timer.end[1] - timer.start[1]
    timer.seconds_of["rest"] = lasted - sum(timer.seconds_of.values())
    return {part: np.array(1e6 * seconds / n_steps) for part, seconds in timer.seconds_of.items()}


def plan(seeds: Sequence[int]) -> list[Run]:
    """All cases, from each seed."""
    cases: dict[Any, tuple[int, str, dict[str, Any]]] = {n: (n, kind, {}) for n, kind in N_ENVS.items()}
    for name, change in CHANGES.items():
        arguments = {"n_steps": 16, **change}
        cases[name] = arguments.pop("n_envs", 8), "Discrete", arguments
    runs = []
    for (case, (n_envs, kind, arguments)), seed in ((case, seed) for seed in seeds for case in cases.items()):
        settings = {"n_envs": n_envs, "kind": kind, "arguments": arguments, "seconds": SECONDS, "seed": seed}
        name = f"{str(case).replace(' ', '-').replace(',', '')}_{seed}"
        runs.append(Run(name, measure, settings, seed, SECONDS, case))
    return runs


def tabulate(results: Results) -> str:
    """Both tables, in Markdown, as far as there are results: medians over seeds."""
    found = {
        case: {part: float(np.median([run[part] for run in runs])) for part in PARTS}
        for case, runs in by_case(results).items()
    }
    shown = [n_envs for n_envs in N_ENVS if n_envs in found]
    totals = {case: sum(parts.values()) for case, parts in found.items()}
    rows = [
        [label, *(f"{found[n][part]:.1f} ({found[n][part] / totals[n]:.0%})" for n in shown)]
        for part, label in PARTS.items()
    ]
    rows.append(["all", *(f"**{totals[n]:.1f}**" for n in shown)])
    heads = [f"{n} environment{'s' * (n > 1)}{', in one call' * (N_ENVS[n] == 'vectorised')}" for n in shown]
    first = [tables.markdown(("µs per step", *heads), rows)] if shown else []
    base = totals.get(BASE, np.nan)
    rows = [[name, f"{totals[name]:.0f}", f"{totals[name] / base:.2f}"] for name in CHANGES if name in totals]
    second = [tables.markdown(("", "µs per step", "relative"), rows)] if rows else []
    return "\n\n".join(first + second)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then make the tables."""
    parser = command_line(__doc__ or "", "costs", range(3), workers=1)
    chosen = parser.parse_args(arguments)
    results, status = results_of(parser, chosen, plan)
    tables.publish(tabulate(results), chosen.out, "costs", DOCUMENT)
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.costs").main())
