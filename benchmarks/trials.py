"""
What was tried for ``zoo_configs/nrl.yml``: the shipped settings, or others, on seeds from 100 on, which no table has.

    python benchmarks/trials.py Pendulum-v1 --seeds 100 101 --hyperparams n_steps:32

adds a row for each run to ``results/trials.csv``: steps until the bar of ``learning.py``, the least mean return of 100
episodes after that, and the last one. Settings are relative to the config of the commit that the row names.
"""

import argparse
import math
import pathlib
import tempfile

from learning import GOALS, judge, learning_curve, train
from records import ROOT, add, versions


def main() -> None:
    """Train from each seed, and keep what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(GOALS))
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--hyperparams", nargs="*", default=[], help="what to change, as sb3-nrl train takes it")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "results" / "trials.csv")
    arguments = parser.parse_args()
    if min(arguments.seeds) < 100:
        parser.error("argument --seeds: those below 100 are for tables, and must not decide a setting")
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            curve = learning_curve(train(arguments.task, "nrl", seed, pathlib.Path(folder), arguments.hyperparams))
        became = judge(curve, GOALS[arguments.task].bar, math.nan)
        row = (arguments.task, " ".join(arguments.hyperparams), seed, became.steps, became.lowest, became.last)
        columns = ("task", "hyperparams", "seed", "steps", "lowest", "last", "made_with")
        add(arguments.out, columns, (*row, versions()))
        print(*row, flush=True)


if __name__ == "__main__":
    main()
