"""
What each part of NRL buys and costs: the shipped settings with one thing changed, on some tasks of ``learning.py``.

A run ends when it passes the bar. Each is kept in ``results/ablation.csv``; what is there is not repeated. The table is
``docs/ablation.md``.
"""

import argparse
import csv
import itertools
import math
import pathlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

import yaml
from learning import GOALS, PERCEPTUAL, judge, learning_curve, stop_at_bar, train
from records import ROOT, add, versions

from sb3_nrl.reproduce.runs import write_whole
from sb3_nrl.zoo import config_file

CARTPOLE, ACROBOT, MOUNTAIN_CAR, PENDULUM = "CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1"
TASKS = (CARTPOLE, ACROBOT, MOUNTAIN_CAR, PERCEPTUAL, PENDULUM)
BOUNDED = (CARTPOLE, ACROBOT, PERCEPTUAL, PENDULUM)
"""Where ``max_grad_norm`` bounds a change."""
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Change:
    """
    What is different in a row of the table.

    :param name: What it is called there
    :param settings: Hyper-parameters; what stands in braces is taken from the config
    :param policy_kwargs: Those of the policy, added to the config's
    :param algo: Which algorithm
    :param tasks: Where this is a change
    """

    name: str
    settings: dict[str, object] = field(default_factory=dict)
    policy_kwargs: str = ""
    algo: str = "nrl"
    tasks: Sequence[str] = TASKS

    def hyperparams(self, task: str) -> list[str]:
        """What differs from a task's config, as ``--hyperparams`` takes it."""
        config = {"gamma": 0.99, **CONFIG[task]}
        changes = [f"{name}:{str(value).format(**config)}" for name, value in self.settings.items()]
        if self.policy_kwargs:
            shipped = config.get("policy_kwargs", "dict()")
            changes.append(f"policy_kwargs:'dict({shipped}, {self.policy_kwargs})'")
        return changes


CONFIG = yaml.safe_load(pathlib.Path(str(config_file("nrl"))).read_text())
SHIPPED = Change("as shipped")
AVERAGE = {"reward_prediction": "'average'", "gamma": 1.0, "trace_decay": 1.0, "ent_coef": 0.0, "vf_coef": 1.0}
CHANGES = (
    SHIPPED,
    Change("the exact gradient (BPTT) instead of noisy passes", algo="bptt"),
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

RESULTS = ROOT / "results" / "ablation.csv"

DOCUMENT = """\
# What each part buys and costs

Environment steps until the mean return of 100 training episodes passes the bar (as in the README), where one thing is
other than in `zoo_configs/nrl.yml`: the median over seeds {seeds}, then how many passed of how many were run, where
that is not all of them. A dash means that half or more did not pass; an empty cell, that the row is no change there, or
has not been run. Nothing else was tuned again, so that a row tells what the part is worth to the shipped settings. A
running average goes without discount and entropy term, and with traces that keep all. The last column is the time of a
step, relative to the shipped settings; the median over tasks and seeds, from runs at different times: read it as rough.
Runs are of several commits. The older ones drew their actions from another generator, so that the same seed need not be
the same run in two rows, nor in the README.

{table}

Made by `python benchmarks/ablation.py`, from `results/ablation.csv`, which says what each run was made with.
"""


class Outcome(NamedTuple):
    """
    What became of a run.

    :param steps: Steps until the bar, infinite if it never passed
    :param seconds: Time of a step
    """

    steps: float
    seconds: float


Key = tuple[str, str, int]
"""Task, name of the change, seed."""


def measure(task: str, change: Change, seed: int) -> Outcome:
    """
    Train until the bar.

    :param task: One of ``TASKS``
    :param change: What to change
    :param seed: Seed
    :return: What became of it
    """
    with tempfile.TemporaryDirectory() as folder:
        changes = [*change.hyperparams(task), stop_at_bar(task)]
        curve = learning_curve(train(task, change.algo, seed, pathlib.Path(folder), changes))
    passed = judge(curve, GOALS[task].bar, math.nan).steps
    return Outcome(passed or math.inf, curve.seconds[-1] / curve.steps[-1])


def tabulate(outcomes: dict[Key, Outcome]) -> str:
    """A row for each change, in Markdown."""
    tasks = [task for task in TASKS if any(key[0] == task for key in outcomes)]
    n_seeds = len({seed for _, _, seed in outcomes})
    names = [task.split("/")[-1].rsplit("-", 1)[0] for task in tasks]
    table = [f"| | {' | '.join(names)} | time of a step |", "|---|" + "---|" * (len(tasks) + 1)]
    for change in CHANGES:
        own = {key: outcome for key, outcome in outcomes.items() if key[1] == change.name}
        if own:
            cells = [
                _cell([outcome.steps for key, outcome in own.items() if key[0] == task], n_seeds) for task in tasks
            ]
            ratio = median(
                outcome.seconds / outcomes[task, SHIPPED.name, seed].seconds
                for (task, _, seed), outcome in own.items()
                if (task, SHIPPED.name, seed) in outcomes
            )
            table.append(f"| {change.name} | {' | '.join(cells)} | {ratio:.2f} |")
    return "\n".join(table)


def _cell(steps: list[float], n_seeds: int) -> str:
    if not steps:
        return ""
    n_passed = sum(map(math.isfinite, steps))
    middle = median(steps)
    text = f"{middle:,.0f}" if math.isfinite(middle) else "–"
    return text if n_passed == n_seeds else f"{text} ({n_passed} of {len(steps)})"


def main() -> None:
    """Run what is missing, then make the table of everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [change.name for change in CHANGES]
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--changes", nargs="*", default=names, choices=names)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS), help="none to report only")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    arguments = parser.parse_args()
    outcomes: dict[Key, Outcome] = {}
    if arguments.out.exists():
        with arguments.out.open() as file:
            for task, name, seed, steps, seconds, _ in itertools.islice(csv.reader(file), 1, None):
                outcomes[task, name, int(seed)] = Outcome(float(steps), float(seconds))
    for seed, task, change in itertools.product(arguments.seeds, arguments.tasks, CHANGES):
        key = (task, change.name, seed)
        if change.name in arguments.changes and task in change.tasks and key not in outcomes:
            outcomes[key] = measure(task, change, seed)
            columns = ("task", "change", "seed", *Outcome._fields, "made_with")
            add(arguments.out, columns, (*key, *outcomes[key], versions()))
            print(*key, *outcomes[key], flush=True)
    table = tabulate(outcomes)
    seeds = ", ".join(map(str, sorted({seed for _, _, seed in outcomes})))
    published = arguments.out.resolve() == RESULTS.resolve()
    document = ROOT / "docs" / "ablation.md" if published else arguments.out.with_suffix(".md")
    write_whole(document, DOCUMENT.format(seeds=seeds, table=table).encode())
    print(table)


if __name__ == "__main__":
    main()
