"""
Spiking networks, trained by NRL with hard thresholds, beside rate units and surrogate gradients: steps and spikes.

The first table has the tasks of ``learning.py`` with ``zoo_configs/spiking.yml``; the rate networks' steps are those of
``learning.py``. The second compares NRL with exact gradients through a surrogate: BPTT on the same network, and PPO on
a hidden layer of snnTorch's neurons. It has the peak memory of the whole process, of which the libraries are most. In
the third, spikes have a price.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments import tables
from experiments.execution import command_line, results_of
from experiments.learning import GOALS, N_ROWS, draw_spread, middle, training
from experiments.runs import ROOT, Columns, Results, Run, Store, by_case

DOCUMENT = tables.DOCS / "spikes.md"
BUDGET = {"CartPole-v1": "90 k (200 k)", "Acrobot-v1": "30 k"}
"""Goals for the median (all) of the seeds; elsewhere 1.5 times the rate network's median in 8 of 10 seeds."""
COMPARED = {
    "spiking": "NRL, no surrogate",
    "surrogate": "BPTT, surrogate gradient",
    "snntorch": "PPO on snnTorch's neurons, surrogate gradient",
}
COMPARED_TASKS = ("CartPole-v1", "Acrobot-v1")
COSTS = (0.0, 0.03, 0.1, 0.3)
"""Values of spike_cost with which CartPole is learned."""


def plan(seeds: Sequence[int]) -> list[Run]:
    """NRL on all tasks; from the first three seeds, surrogate gradients on two and prices of spikes on one."""
    runs = [_run(task, "spiking", seed) for task in GOALS for seed in seeds]
    few = [seed for seed in seeds if seed < 3]
    others = [name for name in COMPARED if name != "spiking"]
    runs += [_run(task, name, seed) for name in others for task in COMPARED_TASKS for seed in few]
    for cost, seed in product(COSTS, few):
        changes = [f"policy_kwargs:'dict(spike_cost={cost})'", "n_timesteps:150_000"]
        run = _run(COMPARED_TASKS[0], "spiking", seed, changes)
        runs.append(replace(run, name=f"{COMPARED_TASKS[0]}_cost-{cost}_{seed}", of=("cost", cost)))
    return runs


def _run(task: str, name: str, seed: int, changes: Sequence[str] = ()) -> Run:
    run = training(task, name, seed, changes, is_spiking=True, n_eval_episodes=0)
    return replace(run, expected_seconds=run.settings["config"]["n_timesteps"] / 1_500)


def _rate_results() -> Results:
    """The trainings of rate networks of ``learning.py``."""
    return Store(ROOT / "results" / "learning").read_all(
        [training(*case) for case in product(GOALS, ["nrl"], range(10))]
    )


def tabulate(results: Results) -> str:
    """The three tables, in Markdown."""
    rate, found = by_case(_rate_results()), by_case(results)
    rows = []
    for task in GOALS:
        if runs := found.get((task, "spiking"), []):
            steps = [run["passed_steps"].item() for run in runs]
            of_rate = float(np.median([run["passed_steps"].item() for run in rate[task, "nrl"]]))
            n_within = sum(step <= 1.5 * of_rate for step in steps)
            lowest = [run["lowest"].item() for run in runs if not np.isnan(run["lowest"])]
            rows.append(
                [
                    task,
                    tables.number(GOALS[task].bar),
                    f"{len(lowest)} of {len(runs)}",
                    f"{middle(steps)} ({middle(steps, max)})",
                    BUDGET.get(task, f"{1.5 * of_rate:,.0f}: {n_within} of {len(runs)} within"),
                    f"{of_rate:,.0f}",
                    tables.number(min(lowest)) if lowest else "–",
                    tables.number(float(np.mean([run["mean_return"] for run in runs]))),
                    *_costs(runs),
                ]
            )
    header = ("", "bar", "passed", "steps: median (maximum)", "goal", "rate network", "lowest mean after", "evaluation")
    first = tables.markdown((*header, "spikes", "synaptic operations / MACs of rates", "energy / that of rates"), rows)
    rows = []
    for task in COMPARED_TASKS:
        for name, label in COMPARED.items():
            if runs := found.get((task, name), [])[:3]:
                columns = [
                    [run[key].item() for run in runs] for key in ("passed_steps", "passed_seconds", "seconds_per_step")
                ]
                rows.append(
                    [
                        task if name == "spiking" else "",
                        label,
                        middle(columns[0]),
                        middle(columns[1]),
                        f"{1e6 * np.median(columns[2]):.0f}",
                        f"{np.median([run['peak_mib'] for run in runs]):.0f}",
                        f"{np.median([run['spikes'] for run in runs]):.0f}",
                    ]
                )
    compared = ("", "", "steps until the bar", "seconds until the bar", "µs per step", "peak memory, MiB", "spikes")
    second = tables.markdown(compared, rows)
    rows = [
        [f"{cost:g}", *(_seeds(runs, key) for key in ("last", "mean_return", "spikes")), *_costs(runs)[1:]]
        for cost in COSTS
        if (runs := found.get(("cost", cost), []))
    ]
    priced = ("spike_cost", "last 100 episodes of training", "evaluation", "spikes")
    third = tables.markdown((*priced, "synaptic operations / MACs of rates", "energy / that of rates"), rows)
    return "\n\n".join([first, second, third])


def _seeds(runs: Sequence[Columns], key: str) -> str:
    """The number of each seed, with three digits."""
    return ", ".join(f"{run[key]:.3g}" for run in runs)


def _costs(runs: Sequence[Columns]) -> tuple[str, str, str]:
    operations = [run["synaptic_operations"] / run["rate_multiply_accumulates"] for run in runs]
    energies = [run["joules"] / run["rate_joules"] for run in runs]
    return (
        f"{np.median([run['spikes'] for run in runs]):.0f}",
        f"{np.median(operations):.0%}",
        f"{np.median(energies):.0%}",
    )


def draw(results: Results) -> Figure:
    """Learning curves beside those of rate networks: median of the seeds and their range."""
    tasks = [task for task in GOALS if any(run.of == (task, "spiking") for run in results)]
    figure = Figure(figsize=(10, 2.6 * -(-len(tasks) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(tasks) // 3), 3, squeeze=False).flat
    both = {**_rate_results(), **results}
    kinds = (("nrl", "rate units", tables.GREY), ("spiking", "spiking neurons", tables.BLUE))
    for task, axes in zip(tasks, panels, strict=False):
        for name, label, color in kinds:
            curves = [result.columns for run, result in both.items() if run.of == (task, name)]
            grid = np.linspace(0, min(curve["steps"][-1] for curve in curves), N_ROWS)
            draw_spread(axes, curves, "steps", grid, color, label=label)
        axes.axhline(GOALS[task].bar, color="0.6", linewidth=0.8, zorder=0)
        axes.set(title=task.split("/")[-1], xlabel="steps")
        axes.ticklabel_format(axis="x", style="sci", scilimits=(3, 3))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(panels):
        axes.set_visible(False)
    figure.axes[0].legend(frameon=False, loc="lower right")
    figure.supylabel("mean return of 100 episodes")
    return figure


def draw_costs(results: Results) -> Figure:
    """Return without exploration against synaptic operations per decision, for each price of spikes and each seed."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(COSTS)))
    for cost, colour in zip(COSTS, colours, strict=True):
        runs = [result.columns for run, result in results.items() if run.of == ("cost", cost)]
        ratios = [100 * run["synaptic_operations"] / run["rate_multiply_accumulates"] for run in runs]
        axes.plot(ratios, [run["mean_return"] for run in runs], "o", color=colour, label=f"spike_cost={cost:g}")
    axes.set(xlabel="synaptic operations, % of the rate network's multiply-accumulates", ylabel="return", ylim=(0, 520))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then report everything."""
    parser = command_line(__doc__ or "", "spiking", range(10), workers=1)
    chosen = parser.parse_args(arguments)
    results, status = results_of(parser, chosen, plan)
    tables.save(draw(results), chosen.out.with_suffix(".png"))
    if any(run.of[0] == "cost" for run in results):
        tables.save(draw_costs(results), chosen.out.with_name(f"{chosen.out.name}_costs.png"))
    tables.publish(tabulate(results), chosen.out, "spiking", DOCUMENT)
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.spiking").main())
