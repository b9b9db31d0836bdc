"""What the paper claims besides final returns, and what explains ours: found in trainings and measurements."""

from collections.abc import Iterator
from itertools import compress
from typing import NamedTuple

import numpy as np

from sb3_nrl.reproduce.measurements import HEAD_GAINS, Alignment, CleanPassError, UntrainedPolicies
from sb3_nrl.reproduce.protocol import LABELS, SETTINGS, TASKS, Cell
from sb3_nrl.reproduce.runs import Columns, Results
from sb3_nrl.reproduce.summary import Summaries, baseline_of


class Finding(NamedTuple):
    """
    A claim of the paper beside what was found.

    :param claim: What the paper says
    :param ours: What was found
    :param agrees: Whether that is the same, None if that cannot be told
    """

    claim: str
    ours: str
    agrees: bool | None

    def __str__(self) -> str:
        verdict = {
            True: "agrees",
            False: "differs",
            None: "cannot be compared, where half of the seeds never got there",
        }
        return f"{self.claim}. Here {self.ours}: {verdict[self.agrees]}."


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
    if any(isinstance(run, Alignment) for run in results):
        yield (
            "Cosines are of CartPole as published, whose untrained policies soon fail, so that updates are quickly "
            "measured; returns beside them are of Acrobot as recommended, whose trainings are short."
        )
    yield from _untrained(results, summaries)
    yield from _halves(summaries)
    if any(cell.task == "Reaching" for cell in summaries):
        yield (
            "Reaching rewards the target that is shown, and has NeuroGym's three actions (stay, left, right), where "
            "the paper counts two outputs."
        )


def _depth(summaries: Summaries) -> Iterator[Finding]:
    cases = dict.fromkeys((cell.task, cell.setting) for cell in summaries if not cell.change)
    for task, setting in cases:
        nrl, bp = (
            [
                summaries[cell].speed
                for n_hidden in (1, 2, 3)
                if (cell := Cell(task, algorithm, n_hidden, setting)) in summaries and summaries[cell].complete
            ]
            for algorithm in ("NRL", "BPTT")
        )
        if len(nrl) == 3:
            ours = [f"{LABELS['NRL']} {_listed(nrl)}", *([f"{LABELS['BPTT']} {_listed(bp)}"] if len(bp) == 3 else [])]
            yield Finding(
                "The paper: NRL needs more episodes with more hidden layers",
                f"in {task}, {SETTINGS[setting]}, until {TASKS[task].goal:.0f} with one, two and three: "
                f"{'; '.join(ours)}",
                nrl[0] < nrl[1] < nrl[2] if np.isfinite(nrl).all() else None,
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
            f"its error goes as N to the {slope:.2f}, and 1/√N is N to the -0.50",
            bool((np.diff(mean) < 0).all()),
        )
    for setting in ("paper", "recommended"):
        two, ten = (Cell("Acrobot", "NRL", 1, setting, f"{n} passes") for n in (2, 10))
        if all(cell in summaries and summaries[cell].complete for cell in (two, ten)):
            n_episodes = TASKS["Acrobot"].n_episodes // 4
            with_two, with_ten = (
                np.array([_mean_until(n_episodes, columns) for columns in summaries[cell].curves.values()])
                for cell in (two, ten)
            )
            n_faster, n_seeds = int((with_ten > with_two).sum()), len(with_two)
            comparable = (summaries[two].learned | summaries[ten].learned).sum() > n_seeds / 2
            yield Finding(
                "The paper, Figure 4B: with 10 noisy passes learning is slightly faster at first than with 2",
                f"the mean return of the first {n_episodes:,} episodes, {SETTINGS[setting]}, is "
                f"{with_ten.mean():.0f} with 10, {with_two.mean():.0f} with 2, and higher with 10 from {n_faster} of "
                f"{n_seeds} seeds",
                bool(with_ten.mean() > with_two.mean() and n_faster > n_seeds / 2) if comparable else None,
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
            f"layers: {n_hidden}, noise samples: {n_samples})",
            bool(least.min() > 0),
        )


def _untrained(results: Results, summaries: Summaries) -> Iterator[str]:
    for run, (columns, *_) in results.items():
        if isinstance(run, UntrainedPolicies):
            (reached, correlation), (small, _) = (
                (columns["reached"][rows], columns["correlation"][rows])
                for rows in (columns["head_gain"] == head_gain for head_gain in HEAD_GAINS)
            )
            braking = correlation < 0
            published = summaries.get(Cell("Acrobot", "NRL", run.n_hidden))
            seeds = [seed for seed in published.curves if seed < len(reached)] if published else []
            yield (
                f"Acrobot, {run.n_hidden}: {len(reached)} untrained policies took {run.n_episodes} episodes each. As "
                f"published, the torque of {braking.sum()} goes against the velocity of the second link (a correlation "
                f"below 0), and brakes the swing: they reached the goal in {_of(reached[braking], run)}, the others in "
                f"{_of(reached[~braking], run)}; those with a small head in {_of(small, run)}. While every return is "
                f"{TASKS['Acrobot'].worst:.0f}, nothing is learned."
            )
            if published and seeds:
                yield (
                    f"Acrobot, {run.n_hidden}: the untrained policies of seeds {', '.join(map(str, seeds))} reached it "
                    f"in {', '.join(f'{reached[seed]:.0f}' for seed in seeds)} episodes as published (correlations: "
                    f"{', '.join(f'{correlation[seed]:.2f}' for seed in seeds)}; NRL then learned from seeds "
                    f"{', '.join(map(str, compress(published.curves, published.learned))) or '–'}), in "
                    f"{', '.join(f'{small[seed]:.0f}' for seed in seeds)} with a small head."
                )


def _halves(summaries: Summaries) -> Iterator[str]:
    published = Cell("Reaching", "NRL")
    halves = [Cell("Reaching", "NRL", change=change) for change in ("unbiased", "8 pairs")]
    cells = (published, *halves, Cell("Reaching", "NRL", setting="recommended"))
    bp = baseline_of(published, summaries)
    if bp and all(cell in summaries and summaries[cell].complete for cell in cells):
        nothing, step, pairs, both = (f"{summaries[cell].score / bp.score:.0%}" for cell in cells)
        yield (
            "Reaching: normalised per layer, NRL moves a layer of n nodes by an n-th of BP's step, and ends at "
            f"{nothing} of BP. With BP's step alone it ends at {step}, since one noise sample is too noisy for "
            f"that; with eight pairs of samples alone at {pairs}, since the step stays small; with both at {both}, "
            "for 16 noisy passes instead of one."
        )


def _of(reached: np.ndarray, run: UntrainedPolicies) -> str:
    return f"{reached.sum():,.0f} of {len(reached) * run.n_episodes:,}"
