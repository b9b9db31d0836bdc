"""
Make the trainings for figures of the paper, draw the figures, and compare the results with the paper's claims.

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
from experiments.runs import Run, Store, write_whole
from experiments.tables import DOCS, publish, save

DOCUMENT = DOCS / "reproduction.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return the exit status."""
    parser = command_line(__doc__ or "", "reproduction", SEEDS)
    parser.add_argument("figures", nargs="+", choices=(*CELLS, "all"), metavar="FIGURE", help="see above")
    parser.add_argument("--quick", action="store_true", help="with fig1: few and short trainings, in minutes")
    chosen = parser.parse_args(arguments)
    figures = list(CELLS) if "all" in chosen.figures else chosen.figures
    if chosen.quick:
        if figures != ["fig1"]:
            parser.error("--quick goes with fig1 alone")
        chosen.out, chosen.seeds = chosen.out / "quick", chosen.seeds[:2]

    def runs_of(figures: Sequence[str], seeds: Sequence[int]) -> list[Run]:
        return [run for figure in figures for run in plan(figure, seeds, chosen.quick)]

    _, status = results_of(parser, chosen, lambda seeds: runs_of(figures, seeds))
    seeds = sorted({*chosen.seeds, *SEEDS})
    results = Store(chosen.out).read_all(list(dict.fromkeys(runs_of(figures if chosen.quick else list(CELLS), seeds))))
    summaries = summarize(results)
    for figure in figures:
        here = {cell: summaries[cell] for cell in CELLS[figure] if cell in summaries}
        save(draw(figure, here, results), chosen.out / f"{figure}.png")
    comparison = table(summaries)
    told = [f"- {line}" for line in findings(summaries, results)]
    if chosen.quick:
        told = ["These trainings are too short to be compared with the paper's."]
    publish(comparison, chosen.out, "reproduction", DOCUMENT)
    print("", *told, sep="\n")
    write_whole(chosen.out / "table.md", "\n".join([comparison, "", *told, ""]))
    write_whole(chosen.out / "table.csv", csv_table(summaries))
    return status


if __name__ == "__main__":
    sys.exit(main())
