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

from experiments.execution import command_line, results_of
from experiments.paper.figures import draw
from experiments.paper.protocol import CELLS, SEEDS, plan
from experiments.paper.report import csv_table, findings, summarize, table
from experiments.runs import write_whole
from experiments.tables import publish, save


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says, and return the exit status."""
    parser = command_line(__doc__ or "", "reproduction", SEEDS)
    parser.add_argument("figures", nargs="+", choices=(*CELLS, "all"), metavar="FIGURE", help="see above")
    parser.add_argument("--quick", action="store_true", help="fewer, shorter trainings from two seeds, in minutes")
    chosen = parser.parse_args(arguments)
    figures = list(CELLS) if "all" in chosen.figures else chosen.figures
    seeds = SEEDS[:2] if chosen.quick and chosen.seeds == list(SEEDS) else chosen.seeds
    chosen.out = chosen.out / "quick" if chosen.quick else chosen.out

    everything = {figure: plan(figure, list(seeds), chosen.quick) for figure in CELLS}
    needed = [run for figure in figures for run in everything[figure]]
    results, status = results_of(parser, chosen, needed, [run for runs in everything.values() for run in runs])
    summaries = summarize(results)
    for figure in figures:
        here = {cell: summaries[cell] for cell in CELLS[figure] if cell in summaries}
        save(draw(figure, here, results), chosen.out / f"{figure}.png")
    comparison = table(summaries)
    if chosen.quick:
        comparison = f"These trainings are too short to be compared with the paper's.\n\n{comparison}"
    told = [f"- {line}" for line in findings(summaries, results)]
    publish(comparison, chosen.out, "reproduction")
    print("", *told, sep="\n")
    write_whole(chosen.out / "table.md", "\n".join([comparison, "", *told, ""]))
    write_whole(chosen.out / "table.csv", csv_table(summaries))
    return status


if __name__ == "__main__":
    sys.exit(main())
