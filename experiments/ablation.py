"""
What each part of NRL is worth: the shipped settings with one change at a time, on some tasks of ``learning.py``.

A training ends when it passes the bar. The table is ``ablation.md``, or ``docs/ablation.md`` for the committed results.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import median

from experiments import tables
from experiments.execution import command_line, is_committed, results_of
from experiments.learning import PERCEPTUAL, middle, slug, training
from experiments.runs import ROOT, Results, Run, write_whole

CARTPOLE, ACROBOT, MOUNTAIN_CAR, PENDULUM = "CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1"
TASKS = (CARTPOLE, ACROBOT, MOUNTAIN_CAR, PERCEPTUAL, PENDULUM)
BOUNDED = (CARTPOLE, ACROBOT, PERCEPTUAL, PENDULUM)
"""Where ``max_grad_norm`` bounds an update."""
SEEDS = range(5)


@dataclass(frozen=True)
class Change:
    """A row of the table."""

    name: str
    hyperparams: dict[str, object] = field(default_factory=dict)  # braces are replaced by the config's value
    policy_kwargs: str = ""  # added to the config's
    algorithm: str = "nrl"
    tasks: Sequence[str] = TASKS  # where this is a change

    def run(self, task: str, seed: int) -> Run:
        """The training with this change, until the bar."""
        config = {"gamma": 0.99, **training(task, self.algorithm, seed).settings["config"]}
        changes = [f"{name}:{str(value).format(**config)}" for name, value in self.hyperparams.items()]
        if self.policy_kwargs:
            shipped = config.get("policy_kwargs", "dict()")
            changes.append(f"policy_kwargs:'dict({shipped}, {self.policy_kwargs})'")
        run = training(task, self.algorithm, seed, changes, stop=True, n_eval_episodes=0)
        name = f"{slug(task)}/{slug(self.name)}_seed-{seed}"
        return replace(run, name=name, of=(task, self.name))


SHIPPED = Change("as shipped")
AVERAGE = {"reward_prediction": "'average'", "gamma": 1.0, "trace_decay": 1.0, "ent_coef": 0.0, "vf_coef": 1.0}
CHANGES = (
    SHIPPED,
    Change("the exact gradient (BPTT) instead of noisy passes", algorithm="bptt"),
    Change("one pair of noisy passes", {"n_noise_samples": 1}),
    Change("sixteen pairs", {"n_noise_samples": 16}, tasks=TASKS[:-1]),
    Change("66 orthogonal pairs (66 or 67 nodes)", {"noise_distribution": "'orthogonal'", "n_noise_samples": 66}),
    Change("one noisy pass against the clean one", {"n_noise_samples": 1, "antithetic": False}),
    Change("a running average instead of the critic", AVERAGE),
    Change("the same, errors not divided by the reward", {**AVERAGE, "scale_rpe": False}, tasks=(MOUNTAIN_CAR,)),
    Change("traces of a single step", {"trace_decay": 0.0}),
    Change("traces that decay by γ alone", {"trace_decay": "{gamma}"}),
    Change("no bound on the change", {"max_grad_norm": None}, tasks=BOUNDED),
    Change("a bound on the change", {"max_grad_norm": 0.5}, tasks=(MOUNTAIN_CAR,)),
    Change(
        "gradient ascent instead of Adam", {"learning_rate": "'lin_0.5'"}, "optimizer_class=th.optim.SGD", tasks=BOUNDED
    ),
    Change("LeakyReLU", {}, "activation_fn=nn.LeakyReLU", tasks=TASKS[:-1]),
    Change("tanh", {}, "activation_fn=nn.Tanh", tasks=(PENDULUM,)),
    Change("two hidden layers of 32 nodes", {}, "net_arch=[32, 32]", tasks=TASKS[:-1]),
    Change("one hidden layer of 64 nodes", {}, "net_arch=[64]", tasks=(PENDULUM,)),
    Change("no biases", {}, "use_bias=False"),
    Change("a head as large as the other layers", {}, "head_gain=1.0"),
    Change("a critic with the actor's learning rate", {"vf_coef": 1.0}, tasks=(CARTPOLE, MOUNTAIN_CAR, PENDULUM)),
    Change("actions that keep no direction", {}, "action_correlation=0.0", tasks=(MOUNTAIN_CAR, PENDULUM)),
    Change("no entropy term", {"ent_coef": 0.0}, tasks=(ACROBOT,)),
    Change("observations as they come", {"normalize": False}, tasks=(MOUNTAIN_CAR, PERCEPTUAL)),
)

DOCUMENT = """\
# What each part of NRL is worth

Each row changes one thing of the shipped settings (`zoo_configs/nrl.yml`). Nothing else was tuned again.

- A cell is the number of environment steps until the mean return of 100 training episodes passes the bar (as in the
  README): the median over seeds {seeds}. Where not all of these seeds passed, brackets say how many passed of how many
  were run.
- A dash means that half of the seeds or more did not pass. An empty cell means that the row changes nothing there, or
  that it was not run.
- A running average is used without discount and without entropy bonus, and its traces do not decay.
- The last column is the time of a step relative to the shipped settings: the median over tasks and seeds. The runs
  compared are from different times, so these numbers are rough.
- Runs are of several commits. The older ones drew their actions from another random generator. The same seed is
  therefore not always the same training in two rows, nor in the README.

{table}

Made by `python -m experiments.ablation --report --out results/ablation`, from the runs in `results/ablation/`. Each
names the versions and the commit that it was made with. `make ablation` trains everything anew.
"""


def tabulate(results: Results) -> str:
    """A row for each change, in Markdown."""
    shown = [task for task in TASKS if any(run.of[0] == task for run in results)]
    n_seeds = len({run.seed for run in results})
    pace = {(*run.of, run.seed): result.columns["seconds_per_step"].item() for run, result in results.items()}
    rows = []
    for change in CHANGES:
        steps: dict[str, list[float]] = {task: [] for task in shown}
        for run, result in results.items():
            if run.of[1] == change.name:
                steps[run.of[0]].append(result.columns["passed_steps"].item())
        cells = []
        for values in steps.values():
            n_passed = sum(map(math.isfinite, values))
            told = "" if n_passed == n_seeds else f" ({n_passed} of {len(values)})"
            cells.append(f"{middle(values)}{told}" if values else "")
        ratios = [
            seconds / pace[task, SHIPPED.name, seed]
            for (task, name, seed), seconds in pace.items()
            if name == change.name and (task, SHIPPED.name, seed) in pace
        ]
        if any(cells):
            rows.append([change.name, *cells, f"{median(ratios):.2f}" if ratios else "–"])
    names = [task.split("/")[-1].rsplit("-", 1)[0] for task in shown]
    return tables.markdown(("", *names, "time of a step"), rows)


def plan(changes: Sequence[Change], tasks: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """The trainings with some changes."""
    return [change.run(task, seed) for change, task, seed in product(changes, tasks, seeds) if task in change.tasks]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then report everything."""
    parser = command_line(__doc__ or "", "ablation", SEEDS, workers=1)
    names = [change.name for change in CHANGES]
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--changes", nargs="+", default=names, choices=names)
    chosen = parser.parse_args(arguments)
    wanted = plan([change for change in CHANGES if change.name in chosen.changes], chosen.tasks, chosen.seeds)
    results, status = results_of(parser, chosen, wanted, plan(CHANGES, TASKS, SEEDS))
    document = ROOT / "docs" / "ablation.md" if is_committed(chosen.out, "ablation") else chosen.out / "ablation.md"
    seeds = ", ".join(map(str, sorted({run.seed for run in results})))
    write_whole(document, DOCUMENT.format(seeds=seeds, table=tabulate(results)))
    print(f"See {document}")
    return status


if __name__ == "__main__":
    sys.exit(main())
