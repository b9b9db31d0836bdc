"""
What each part of NRL contributes: the shipped settings with one change at a time, on some tasks of ``learning.py``.

A training ends when it passes the bar. ``docs/ablation.md`` explains the table.
"""

import importlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import median

from experiments import tables
from experiments.execution import command_line, results_of
from experiments.learning import PERCEPTUAL, middle, slug, training
from experiments.runs import Results, Run

CARTPOLE, ACROBOT, MOUNTAIN_CAR, PENDULUM = "CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1"
DOCUMENT = tables.DOCS / "ablation.md"
TASKS = (CARTPOLE, ACROBOT, MOUNTAIN_CAR, PERCEPTUAL, PENDULUM)
BOUNDED = (CARTPOLE, ACROBOT, PERCEPTUAL, PENDULUM)  # where max_grad_norm bounds an update


@dataclass(frozen=True)
class Change:
    """A row of the table: what differs from the shipped settings."""

    hyperparams: dict[str, object] = field(default_factory=dict)  # "{name}" stands for the config's value of a name
    policy_kwargs: str = ""  # arguments that are added to those of the config
    algorithm: str = "nrl"
    tasks: Sequence[str] = TASKS  # tasks whose settings this changes

    def run(self, task: str, name: str, seed: int) -> Run:
        """The training with this change from one seed, which ends at the bar."""
        config = {"gamma": 0.99, **training(task, self.algorithm, seed).settings["config"]}
        changes = [f"{key}:{str(value).format(**config)}" for key, value in self.hyperparams.items()]
        if self.policy_kwargs:
            shipped = config.get("policy_kwargs", "dict()")
            changes.append(f"policy_kwargs:'dict({shipped}, {self.policy_kwargs})'")
        run = training(task, self.algorithm, seed, changes, stop=True, n_eval_episodes=0)
        return replace(run, name=f"{slug(task)}/{slug(name)}_seed-{seed}", of=(task, name))


AVERAGE = {"reward_prediction": "'average'", "gamma": 1.0, "trace_decay": 1.0, "ent_coef": 0.0, "vf_coef": 1.0}
CHANGES: dict[str, Change] = {
    "shipped settings": Change(),
    "the exact gradient (BPTT) instead of noisy passes": Change(algorithm="bptt"),
    "one pair of noisy passes": Change({"n_noise_samples": 1}),
    "sixteen pairs": Change({"n_noise_samples": 16}, tasks=TASKS[:-1]),
    "66 orthogonal pairs (66 or 67 nodes)": Change({"noise_distribution": "'orthogonal'", "n_noise_samples": 66}),
    "one noisy pass compared with the clean pass": Change({"n_noise_samples": 1, "antithetic": False}),
    "a running average instead of the critic": Change(AVERAGE),
    "a running average, scale_rpe=False": Change({**AVERAGE, "scale_rpe": False}, tasks=(MOUNTAIN_CAR,)),
    "traces of a single step": Change({"trace_decay": 0.0}),
    "traces that decay by γ alone": Change({"trace_decay": "{gamma}"}),
    "no max_grad_norm": Change({"max_grad_norm": None}, tasks=BOUNDED),
    "max_grad_norm of 0.5": Change({"max_grad_norm": 0.5}, tasks=(MOUNTAIN_CAR,)),
    "SGD instead of Adam": Change({"learning_rate": "'lin_0.5'"}, "optimizer_class=th.optim.SGD", tasks=BOUNDED),
    "LeakyReLU": Change({}, "activation_fn=nn.LeakyReLU", tasks=TASKS[:-1]),
    "tanh": Change({}, "activation_fn=nn.Tanh", tasks=(PENDULUM,)),
    "two hidden layers of 32 nodes": Change({}, "net_arch=[32, 32]", tasks=TASKS[:-1]),
    "one hidden layer of 64 nodes": Change({}, "net_arch=[64]", tasks=(PENDULUM,)),
    "no biases": Change({}, "use_bias=False"),
    "head_gain of 1": Change({}, "head_gain=1.0"),
    "a critic with the actor's learning rate": Change({"vf_coef": 1.0}, tasks=(CARTPOLE, MOUNTAIN_CAR, PENDULUM)),
    "no action_correlation": Change({}, "action_correlation=0.0", tasks=(MOUNTAIN_CAR, PENDULUM)),
    "no entropy bonus": Change({"ent_coef": 0.0}, tasks=(ACROBOT,)),
    "observations not normalised": Change({"normalize": False}, tasks=(MOUNTAIN_CAR, PERCEPTUAL)),
}


def tabulate(results: Results) -> str:
    """Make a table with one row for each change, in Markdown."""
    shown = [task for task in TASKS if any(run.of[0] == task for run in results)]
    n_seeds = len({run.seed for run in results})
    pace = {(*run.of, run.seed): result.columns["seconds_per_step"].item() for run, result in results.items()}
    rows = []
    for change in CHANGES:
        steps: dict[str, list[float]] = {task: [] for task in shown}
        for run, result in results.items():
            if run.of[1] == change:
                steps[run.of[0]].append(result.columns["passed_steps"].item())
        cells = []
        for values in steps.values():
            n_passed = sum(map(math.isfinite, values))
            told = "" if n_passed == n_seeds else f" ({n_passed} of {len(values)})"
            cells.append(f"{middle(values)}{told}" if values else "")
        ratios = [
            seconds / pace[task, "shipped settings", seed]
            for (task, name, seed), seconds in pace.items()
            if name == change and (task, "shipped settings", seed) in pace
        ]
        if any(cells):
            rows.append([change, *cells, f"{median(ratios):.2f}" if ratios else "–"])
    names = [task.split("/")[-1].rsplit("-", 1)[0] for task in shown]
    return tables.markdown(("", *names, "time of a step"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then report everything."""

    def plan(seeds: Sequence[int]) -> list[Run]:
        cases = product(CHANGES, TASKS, seeds)
        return [CHANGES[name].run(task, name, seed) for name, task, seed in cases if task in CHANGES[name].tasks]

    parser = command_line(__doc__ or "", "ablation", range(5), workers=1)
    chosen = parser.parse_args(arguments)
    results, status = results_of(parser, chosen, plan)
    tables.publish(tabulate(results), chosen.out, "ablation", DOCUMENT)
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.ablation").main())
