"""What the paper claims besides final returns, and what explains ours: found in trainings and measurements."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sb3_nrl.reproduce.measurements import HEAD_GAINS, Alignment, CleanPassError, UntrainedPolicies
from sb3_nrl.reproduce.protocol import LABELS, TASKS, Cell
from sb3_nrl.reproduce.runs import Columns
from sb3_nrl.reproduce.schedule import Results
from sb3_nrl.reproduce.summary import Summaries

SLOPE, SLOPE_TOLERANCE = -0.5, 0.05
"""The exponent of the number of passes that the error of their mean falls by."""


class Finding(NamedTuple):
    """
    A claim of the paper beside what was found.

    :param claim: What the paper says
    :param ours: What was found
    :param agrees: Whether that is the same
    """

    claim: str
    ours: str
    agrees: bool

    def __str__(self) -> str:
        return f"{self.claim}. Here {self.ours}: {'agrees' if self.agrees else 'differs'}."


def findings(summaries: Summaries, results: Results) -> Iterator[str]:
    """
    Everything that can be said of what is there.

    :param summaries: What was trained
    :param results: What was trained and measured
    :return: Sentences
    """
    yield from map(str, _depth(summaries))
    yield from map(str, _noisy_passes(summaries, results))
    yield from map(str, _cosines(results))
    yield from _untrained(results)
    if any(cell.task == "Reaching" for cell in summaries):
        yield (
            "Reaching rewards the target that is shown, and has NeuroGym's three actions (stay, left, right), where "
            "the paper counts two outputs."
        )


def _depth(summaries: Summaries) -> Iterator[Finding]:
    cases = dict.fromkeys((cell.task, cell.setting) for cell in summaries if not cell.change)
    for task, setting in cases:
        nrl, bp = (
            [summaries[cell].speed for n in (1, 2, 3) if (cell := Cell(task, algorithm, n, setting)) in summaries]
            for algorithm in ("NRL", "BPTT")
        )
        if len(nrl) == 3:
            ours = [f"{LABELS['NRL']} {_listed(nrl)}", *([f"{LABELS['BPTT']} {_listed(bp)}"] if len(bp) == 3 else [])]
            yield Finding(
                "The paper: NRL needs more episodes with more hidden layers",
                f"in {task}, {setting}, until {TASKS[task].goal:.0f} with one, two and three: {'; '.join(ours)}",
                nrl[0] < nrl[1] < nrl[2],
            )


def _listed(speeds: list[float]) -> str:
    return ", ".join(count(speed) for speed in speeds)


def count(episodes: float) -> str:
    """A number of episodes, or a dash if it is infinite."""
    return f"{episodes:,.0f}" if np.isfinite(episodes) else "–"


def _noisy_passes(summaries: Summaries, results: Results) -> Iterator[Finding]:
    errors = [result.columns for run, result in results.items() if isinstance(run, CleanPassError)]
    if errors:
        mean = np.mean([columns["error"] for columns in errors], axis=0)
        slope = np.polyfit(np.log(errors[0]["passes"]), np.log(mean), 1)[0]
        yield Finding(
            "The paper, Figure 4A: the mean of N noisy passes comes the closer to a clean one the larger N is",
            f"its error falls as N to the {slope:.2f}, and √N would be {SLOPE}",
            abs(slope - SLOPE) <= SLOPE_TOLERANCE,
        )
    for setting in ("paper", "recommended"):
        two, ten = (Cell("Acrobot", "NRL", 1, setting, f"{n} passes") for n in (2, 10))
        if two in summaries and ten in summaries:
            n_episodes = TASKS["Acrobot"].n_episodes // 4
            early = [
                np.mean([_mean_until(n_episodes, columns) for columns in summaries[cell].curves.values()])
                for cell in (two, ten)
            ]
            yield Finding(
                "The paper, Figure 4B: with 10 noisy passes learning is slightly faster at first than with 2",
                f"the mean return of the first {n_episodes:,} episodes, {setting}, is {early[1]:.0f} with 10, "
                f"{early[0]:.0f} with 2",
                bool(early[1] > early[0]),
            )


def _mean_until(episode: int, columns: Columns) -> float:
    return float(columns["return"][columns["episode"] <= episode].mean())


def _cosines(results: Results) -> Iterator[Finding]:
    measured: dict[tuple[int, str], list[np.ndarray]] = {}
    cases = None
    for run, result in results.items():
        if isinstance(run, Alignment):
            measured.setdefault((run.n_hidden, run.change), []).append(result.columns["cosine"])
            cases = run.cases
    if cases is not None:
        means = {key: np.mean(cosines, axis=0) for key, cosines in measured.items()}
        (n_hidden, change), least = min(means.items(), key=lambda item: item[1].min())
        std, n_samples = cases[least.argmin()]
        yield Finding(
            "The paper, Appendix C: whatever the noise, the cosine between updates and the gradient is above 0",
            f"the smallest mean of all seeds is {least.min():.3f} ({change or 'gaussian'} noise of {std:g}, hidden "
            f"layers: {n_hidden}, noise samples: {n_samples}). Cosines are of CartPole as published, whose untrained "
            "policies soon fail, so that updates are quickly measured; returns are of Acrobot as recommended, whose "
            "trainings are short",
            bool(least.min() > 0),
        )


def _untrained(results: Results) -> Iterator[str]:
    for run, (columns, *_) in results.items():
        if isinstance(run, UntrainedPolicies):
            (reached, correlation), (reached_small, correlation_small) = (
                (columns["reached"][rows], columns["correlation"][rows])
                for rows in (columns["head_gain"] == head_gain for head_gain in HEAD_GAINS)
            )
            limit = correlation_small.min()
            braking = correlation < limit
            yield (
                f"Acrobot, {run.n_hidden}: of {run.n_policies} untrained policies {(reached > 0).sum()} ever reached "
                f"the goal in {run.n_episodes} episodes, with a small head {(reached_small > 0).sum()}. The torque of "
                f"{braking.sum()} goes against the velocity of the second link (a correlation below {limit:.2f}, the "
                f"least with a small head) and brakes the swing: they reached it in {reached[braking].sum():.0f} of "
                f"{braking.sum() * run.n_episodes} episodes, those with a small head in {reached_small.sum():.0f} of "
                f"{run.n_policies * run.n_episodes}. While every return is {TASKS['Acrobot'].worst:.0f}, nothing is "
                "learned."
            )
