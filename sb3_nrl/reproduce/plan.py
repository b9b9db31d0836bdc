"""Which runs each figure needs."""

from collections.abc import Collection, Sequence
from itertools import product

from sb3_nrl.reproduce.measurements import Alignment, CleanPassError, UntrainedPolicies
from sb3_nrl.reproduce.protocol import CELLS, TASKS
from sb3_nrl.reproduce.runs import Run, Training

FIGURES = tuple(CELLS)


def plan(
    figure: str,
    tasks: Collection[str],
    algorithms: Collection[str],
    seeds: Sequence[int],
    quick: bool = False,
) -> list[Run]:
    """
    Find out what a figure needs.

    :param figure: A key of :data:`~sb3_nrl.reproduce.protocol.CELLS`
    :param tasks: Tasks to keep
    :param algorithms: Algorithms to keep
    :param seeds: Seeds
    :param quick: Whether to shorten every run
    :return: The runs
    """
    runs: list[Run] = [
        Training(cell, seed, TASKS[cell.task].n_quick if quick else TASKS[cell.task].n_episodes)
        for cell in CELLS[figure]
        if cell.task in tasks and cell.algorithm in algorithms
        for seed in seeds
    ]
    depths = sorted({cell.n_hidden for cell in CELLS[figure] if cell.task == "Acrobot"})
    if figure in ("fig1", "fig2") and "Acrobot" in tasks and "NRL" in algorithms:
        runs += [UntrainedPolicies(*((n_hidden, 2, 5) if quick else (n_hidden,))) for n_hidden in depths]
    if figure == "fig4" and "Acrobot" in tasks and "NRL" in algorithms:
        runs += [CleanPassError(seed) for seed in seeds]
    if figure == "noise" and "CartPole" in tasks and "NRL" in algorithms:
        distributions = [cell.change for cell in CELLS[figure]]
        runs += [Alignment(*case, quick) for case in product((1, 2, 3), distributions, seeds)]
    return runs
