"""
Train what figures of the paper need, draw them, and compare the results with the paper's claims.

figures:
  fig1   Reaching, Acrobot and CartPole with NRL, BP and RMHL, and untrained policies
  fig2   Acrobot with two and three hidden layers, and untrained policies
  fig3   CartPole with two and three hidden layers
  fig4   noisy passes only: how close their mean is to a clean pass, and Acrobot
  noise  four distributions of noise: cosines of updates to the exact gradient, and Acrobot
  all    everything
"""

import sys
from collections.abc import Sequence

from experiments.execution import command_line, is_committed, results_of
from experiments.paper.figures import draw
from experiments.paper.findings import findings
from experiments.paper.measurements import plan
from experiments.paper.protocol import CELLS, LABELS, SEEDS, TASKS, train
from experiments.paper.report import csv_table, summarize, table
from experiments.runs import Run, write_whole
from experiments.tables import README, replace_section, save


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says, and return the exit status."""
    parser = command_line(__doc__ or "", "reproduction", SEEDS)
    parser.add_argument("figures", nargs="+", choices=(*CELLS, "all"), metavar="FIGURE", help="see above")
    parser.add_argument("--quick", action="store_true", help="fewer, shorter trainings from two seeds, in minutes")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="train these only")
    parser.add_argument("--algorithms", nargs="+", choices=list(LABELS), default=list(LABELS), help="train these only")
    chosen = parser.parse_args(arguments)
    figures = list(CELLS) if "all" in chosen.figures else chosen.figures
    seeds = SEEDS[:2] if chosen.quick and chosen.seeds == list(SEEDS) else chosen.seeds
    chosen.out = chosen.out / "quick" if chosen.quick else chosen.out

    def wanted(run: Run) -> bool:
        return run.measure is not train or (run.of.task in chosen.tasks and run.of.algorithm in chosen.algorithms)

    everything = {figure: plan(figure, list(seeds), chosen.quick) for figure in CELLS}
    others = [run for runs in everything.values() for run in runs]
    needed = [run for figure in figures for run in everything[figure] if wanted(run)]
    results, status = results_of(parser, chosen, needed, others)
    summaries = summarize(results)
    for figure in figures:
        here = {cell: summaries[cell] for cell in CELLS[figure] if cell in summaries}
        save(draw(figure, here, results), chosen.out / f"{figure}.png")
    comparison = table(summaries)
    if chosen.quick:
        comparison = f"These trainings are too short to be compared with the paper's.\n\n{comparison}"
    page = "\n".join([comparison, "", *(f"- {line}" for line in findings(summaries, results))])
    print(page)
    write_whole(chosen.out / "table.md", f"{page}\n")
    write_whole(chosen.out / "table.csv", csv_table(summaries))
    if is_committed(chosen.out, "reproduction"):
        replace_section(README, "reproduction", comparison)
    return status


if __name__ == "__main__":
    sys.exit(main())
