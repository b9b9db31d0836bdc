"""``sb3-nrl reproduce``."""

import argparse
import importlib
import io
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn

from rich.console import Console

from sb3_nrl.reproduce.plan import FIGURES, plan
from sb3_nrl.reproduce.protocol import ALGORITHMS, CELLS, LABELS, SEEDS, TASKS
from sb3_nrl.reproduce.runs import Results, Run, Training, thin, write, write_whole
from sb3_nrl.reproduce.schedule import Failures, carry_out, find, say

try:
    from sb3_nrl.reproduce.figures import draw
    from sb3_nrl.reproduce.report import describe, markdown, table
    from sb3_nrl.reproduce.summary import Summaries, summarize
except ModuleNotFoundError as error:
    raise ImportError(f"Figures and tables need more ({error}): pip install 'sb3-nrl[reproduce]'") from error

QUICK_SEEDS = SEEDS[:2]
LARGEST_SEED = 2**32 - 1
"""NumPy's."""

MARKERS = ("<!-- reproduction -->\n", "<!-- end of reproduction -->")
"""What the published table is between, in the README."""

TOO_SHORT = "These trainings are too short to be compared with the paper's."

PLACE = "results/reproduction"
"""Where published results are, in the repository."""

PUBLISHED = f"""![{{figure}}, reproduced]({PLACE}/{{figure}}.png)

Made by `sb3-nrl reproduce {{targets}} --publish`. In `{PLACE}/` are the figures, the tables and the runs, thinned to a
row for each point of a figure: `sb3-nrl reproduce {{targets}} --out {PLACE}` makes figures and tables of them again,
without training."""
"""What stands before the published table."""

DESCRIPTION = """
Train what figures of the paper need, draw them, and compare the results with the paper's claims. Interrupted at any
time, the same command goes on: every finished run has a file of its own, only runs in progress start anew.

figures:
  fig1   Reaching, Acrobot and CartPole with NRL, BP and RMHL, and untrained policies
  fig2   Acrobot with two and three hidden layers, and untrained policies
  fig3   CartPole with two and three hidden layers
  fig4   noisy passes only: how close their mean is to a clean one, and Acrobot
  noise  four distributions of the noise: updates beside the exact gradient, and Acrobot
  all    everything
  table  everything, but the table alone is written
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: list[str]) -> None:
    """
    Do what the command line says.

    :param arguments: What follows ``sb3-nrl reproduce``
    """
    parser = _make_parser()
    chosen = parser.parse_args(arguments)
    _check(parser, chosen)
    figures = [figure for figure in FIGURES if figure in chosen.targets or chosen.targets in (["table"], ["all"])]
    seeds = chosen.seeds or _default_seeds(chosen)
    runs_of = {figure: plan(figure, chosen.tasks, chosen.algos, seeds, chosen.quick) for figure in figures}
    runs = list(dict.fromkeys(run for of_figure in runs_of.values() for run in of_figure))
    if not runs:
        parser.error(f"{' '.join(chosen.targets)} has none of these tasks and algorithms")

    console = Console()
    folder = chosen.out / "quick" if chosen.quick else chosen.out
    results = find(runs, folder, console)
    failures = {} if chosen.draw_only else _work(runs, results, folder, chosen, console)
    if not results:
        parser.error(f"there is no finished run in {folder}")
    results = {run: results[run] for run in runs if run in results}
    caveats = [f"What follows is from {len(results)} of {len(runs)} runs."] if len(results) < len(runs) else []
    caveats += [TOO_SHORT] if chosen.quick else []
    for caveat in caveats:
        say(console, caveat)
    summaries = summarize(results.items())
    page = "\n\n".join([*caveats, markdown(summaries, results)])
    tables = {"csv": table(summaries), "md": f"{page}\n"}
    pictures = {} if chosen.targets == ["table"] else _draw(runs_of, results, summaries)
    if not chosen.quick:
        for line in describe(summaries, results):
            say(console, line)
    stem = "_".join(["table", *([] if len(figures) == len(FIGURES) else figures), *_narrowed(chosen)])
    made = {f"{stem}.{kind}": text.encode() for kind, text in tables.items()}
    made |= {"_".join([figure, *_narrowed(chosen)]) + ".png": picture for figure, picture in pictures.items()}
    for name, content in made.items():
        write_whole(folder / name, content)
        say(console, f"See {folder / name}")
    if chosen.publish:
        if len(results) < len(runs):
            sys.exit(
                f"{parser.prog}: nothing is published before all runs are there, {len(results)} of {len(runs)} are"
            )
        _publish(chosen.targets, made, results, console)
    if failures:
        sys.exit(1)


def _default_seeds(chosen: argparse.Namespace) -> tuple[int, ...]:
    return QUICK_SEEDS if chosen.quick else SEEDS


def _narrowed(chosen: argparse.Namespace) -> list[str]:
    """What the command was narrowed to, for names of files that are not to replace those of all."""
    parts = [
        "-".join(name for name in everything if name in wanted)
        for wanted, everything in ((chosen.tasks, TASKS), (chosen.algos, ALGORITHMS))
        if set(wanted) != set(everything)
    ]
    if chosen.seeds and set(chosen.seeds) != set(_default_seeds(chosen)):
        seeds = sorted(chosen.seeds)
        in_a_row = len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1
        parts.append("-".join(map(str, ("seeds", *((seeds[0], "to", seeds[-1]) if in_a_row else seeds)))))
    return parts


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sb3-nrl reproduce",
        usage="%(prog)s FIGURE [FIGURE ...] [options]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("targets", nargs="+", choices=(*FIGURES, "table", "all"), metavar="FIGURE", help="see above")
    add("--quick", action="store_true", help="a first look: few episodes, two seeds; kept apart from full results")
    add("--seeds", nargs="+", type=int, metavar="N", help="seeds, 0 to 4 by default")
    add(
        "--tasks",
        nargs="+",
        type=_any_case(TASKS),
        default=list(TASKS),
        choices=list(TASKS),
        metavar="TASK",
        help=f"only these: {', '.join(TASKS)}",
    )
    add(
        "--algos",
        nargs="+",
        type=_any_case(ALGORITHMS, LABELS),
        default=list(ALGORITHMS),
        choices=ALGORITHMS,
        metavar="ALGO",
        help=f"only these: {', '.join(LABELS.values())}",
    )
    add(
        "--out",
        type=lambda text: pathlib.Path(text).expanduser(),
        default=pathlib.Path("runs/reproduce"),
        metavar="FOLDER",
        help="where results are kept, and looked for (default: %(default)s)",
    )
    add("--workers", type=int, metavar="N", help="runs at once, by default as many as there are cores")
    add("--ray-address", metavar="ADDRESS", help="do the runs on this Ray cluster, which has sb3_nrl installed")
    add("--draw-only", action="store_true", help="train nothing, show what is there")
    add("--verbose", type=int, default=1, metavar="N", help="2 for the traceback of a mistake, too")
    add(
        "--publish",
        action="store_true",
        help="in a clone of the repository: bring what is made to results/ and the README",
    )
    return parser


def _any_case(names: Iterable[str], labels: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """Find a name by itself or by its label."""
    found = {name.lower(): name for name in names} | {label.lower(): name for name, label in (labels or {}).items()}
    return lambda text: found.get(text.lower(), text)


def _check(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    """Refuse what cannot be done, in a line."""
    seeds = chosen.seeds or []
    if len(set(seeds)) < len(seeds) or not all(0 <= seed <= LARGEST_SEED for seed in seeds):
        parser.error(f"--seeds are to be different whole numbers from 0 to {LARGEST_SEED}")
    if len(chosen.targets) > 1 and {"table", "all"} & set(chosen.targets):
        parser.error("table and all are of all figures, and stand alone")
    if chosen.workers is not None and chosen.workers < 1:
        parser.error("--workers has to be at least 1")
    if chosen.workers and chosen.ray_address:
        parser.error("--workers is for this machine, not for the cluster that --ray-address names")
    if chosen.draw_only and (chosen.workers or chosen.ray_address):
        parser.error("--draw-only trains nothing: it goes without --workers and --ray-address")
    if chosen.publish:
        if chosen.targets == ["table"] or chosen.quick or _narrowed(chosen):
            parser.error(
                "--publish is for full results: it goes with figures or all, without --quick, --seeds, --tasks, --algos"
            )
        readme = pathlib.Path("README.md")
        if not (readme.is_file() and all(marker in readme.read_text() for marker in MARKERS)):
            parser.error("--publish has to be started in a clone of the repository")


def _work(
    runs: list[Run], results: Results, folder: pathlib.Path, chosen: argparse.Namespace, console: Console
) -> Failures:
    if any(isinstance(run, Training) and run.cell.task == "Reaching" for run in runs if run not in results):
        importlib.import_module("sb3_nrl.envs")  # says here, rather than in each run, what it needs
    try:
        return carry_out(runs, results, folder, chosen.workers or _n_cores(), chosen.ray_address, console)
    except KeyboardInterrupt:
        say(console, f"Stopped: {len(results)} of {len(runs)} runs are done, the same command goes on with the others.")
        sys.exit(130)


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _draw(runs_of: Mapping[str, list[Run]], results: Results, summaries: Summaries) -> dict[str, bytes]:
    """Pictures of the figures that have a result, by their names."""
    pictures = {}
    for figure, runs in runs_of.items():
        if any(run in results for run in runs):
            cells = {cell: summaries[cell] for cell in CELLS[figure] if cell in summaries}
            picture = io.BytesIO()
            draw(figure, cells, results).savefig(picture, format="png", dpi=150)
            pictures[figure] = picture.getvalue()
    return pictures


def _publish(targets: Sequence[str], made: Mapping[str, bytes], results: Results, console: Console) -> None:
    """Bring everything to its place in the repository, where the table takes that of the one before."""
    for run, result in results.items():
        write(run, thin(run, result), pathlib.Path(PLACE))
    for name, content in made.items():
        write_whole(pathlib.Path(PLACE) / name, content)
    for table_of_before in set(pathlib.Path(PLACE).glob("table*")) - {pathlib.Path(PLACE) / name for name in made}:
        table_of_before.unlink()
    first = next(name for name in made if name.endswith(".png"))
    table = next(content for name, content in made.items() if name.endswith(".md"))
    readme = pathlib.Path("README.md")
    above, start, rest = readme.read_text().partition(MARKERS[0])
    _, end, below = rest.partition(MARKERS[1])
    published = PUBLISHED.format(figure=first.removesuffix(".png"), targets=" ".join(targets))
    write_whole(readme, f"{above}{start}\n{published}\n\n{table.decode()}{end}{below}".encode())
    say(console, f"Published in {PLACE}/ and the README.")
