"""The paper's other claims beside what was found, why seeds were lost, and what the results were made with."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from experiments.paper.measurements import (
    CASES,
    HEAD_GAINS,
    N_PASSES,
    measure_alignment,
    measure_noisy_passes,
    measure_untrained,
)
from experiments.paper.protocol import LABELS, RECOMMENDED, SETTINGS, TASKS, Cell
from experiments.paper.report import LEARNED, Summaries, count, recent_means
from experiments.runs import Columns, Results

_VERDICT = {True: "agrees", False: "differs", None: "cannot be compared, since half of the seeds never got there"}


def findings(summaries: Summaries, results: Results) -> Iterator[str]:
    """Everything that is told beside the table, in sentences."""
    for task, n_hidden in dict.fromkeys((cell.task, cell.n_hidden) for cell in summaries if cell.setting != "paper"):
        changes = RECOMMENDED[task, n_hidden].items()
        told = "; ".join(f"{LABELS[algorithm]} with `{arguments}`" for algorithm, arguments in changes)
        yield f"Recommended for {task}, {n_hidden}: {told}."
    yield from lost_seeds(summaries)
    yield from relapses(summaries)
    yield from _depth(summaries)
    yield from _noisy_passes(summaries, results)
    yield from _cosines(results)
    yield from _untrained(results)
    yield provenance(results)


def lost_seeds(summaries: Summaries) -> Iterator[str]:
    """What became of the seeds of NRL and BP that did not learn."""
    for cell, summary in summaries.items():
        seeds_of: dict[str, list[str]] = {}
        for seed, learned in zip(summary.curves, summary.learned, strict=True):
            if not learned and cell.algorithm != "RMHL":
                seeds_of.setdefault(_diagnose(summary.curves[seed], cell.task), []).append(str(seed))
        for reason, seeds in seeds_of.items():
            which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
            yield f"{cell.title}: {LABELS[cell.algorithm]} did not learn from {which}: {reason}."


def _diagnose(columns: Columns, task: str) -> str:
    returns, episodes, lengths = columns["return"], columns["episode"], columns["length"]
    best = int(returns.argmax())
    if lengths[-1] == 0:
        return f"the weights diverged soon after episode {episodes[lengths > 0].max(initial=0):.0f}"
    if np.ptp(returns) == 0:
        return f"every return was {returns[0]:.0f}, so that there was nothing to learn from"
    if TASKS[task].score(returns[best]) >= LEARNED:
        return f"it reached {returns[best]:.0f} at episode {episodes[best]:.0f}, and fell to {returns[-1]:.0f}"
    return f"it never came above {returns[best]:.0f}"


def relapses(summaries: Summaries) -> Iterator[str]:
    """Seeds of NRL and BP that passed the goal, fell by more than half, and learned again."""
    for cell, summary in summaries.items():
        task, fell = TASKS[cell.task], []
        for seed, learned in zip(summary.curves, summary.learned, strict=True):
            episodes, means = recent_means(summary.curves[seed])
            passed = np.logical_or.accumulate(means > task.goal)
            lowest = np.where(passed, means, np.inf).argmin()
            if learned and passed[lowest] and task.score(means[lowest]) < LEARNED:
                fell.append(f"to {means[lowest]:.0f} at episode {episodes[lowest]:,.0f} (seed {seed})")
        if fell and cell.algorithm != "RMHL":
            yield (
                f"{cell.title}: {LABELS[cell.algorithm]} had passed {task.goal:.0f}, fell {', '.join(fell)}, and came "
                "back."
            )


def _depth(summaries: Summaries) -> Iterator[str]:
    for task, setting in dict.fromkeys((cell.task, cell.setting) for cell in summaries if not cell.change):
        speeds = {}
        for algorithm in ("NRL", "BPTT"):
            cells = [Cell(task, algorithm, n_hidden, setting) for n_hidden in (1, 2, 3)]
            if all(cell in summaries and summaries[cell].complete for cell in cells):
                speeds[algorithm] = [summaries[cell].speed for cell in cells]
        if "NRL" in speeds:
            ours = "; ".join(f"{LABELS[name]} {', '.join(map(count, values))}" for name, values in speeds.items())
            one, two, three = speeds["NRL"]
            yield (
                f"The paper: NRL needs more episodes with more hidden layers. Here in {task}, {SETTINGS[setting]}, "
                f"until {TASKS[task].goal:.0f} with one, two and three: {ours}: "
                f"{_VERDICT[one < two < three if np.isfinite(speeds['NRL']).all() else None]}."
            )


def _noisy_passes(summaries: Summaries, results: Results) -> Iterator[str]:
    errors = [result.columns["error"] for run, result in results.items() if run.measure is measure_noisy_passes]
    if errors:
        mean = np.mean(errors, axis=0)
        slope = np.polyfit(np.log(N_PASSES), np.log(mean), 1)[0]
        yield (
            "The paper, Figure 4A: the mean of N noisy passes is closer to a clean one the larger N is. Here its error "
            f"goes as N to the {slope:.2f} (1/√N is N to the -0.50): {_VERDICT[bool((np.diff(mean) < 0).all())]}."
        )
    early = TASKS["Acrobot"].n_episodes // 4
    for setting in SETTINGS:
        two, ten = (summaries.get(Cell("Acrobot", "NRL", 1, setting, f"{n} passes")) for n in (2, 10))
        if two and ten and two.complete and ten.complete:
            with_two, with_ten = (
                np.array([c["return"][c["episode"] <= early].mean() for c in summary.curves.values()])
                for summary in (two, ten)
            )
            n_faster, n_seeds = int((with_ten > with_two).sum()), len(with_two)
            faster = bool(with_ten.mean() > with_two.mean() and n_faster > n_seeds / 2)
            comparable = (two.learned | ten.learned).sum() > n_seeds / 2
            yield (
                "The paper, Figure 4B: with 10 noisy passes learning is slightly faster at first than with 2. Here the "
                f"mean return of the first {early:,} episodes, {SETTINGS[setting]}, is {with_ten.mean():.0f} with 10 "
                f"and {with_two.mean():.0f} with 2, and higher with 10 from {n_faster} of {n_seeds} seeds: "
                f"{_VERDICT[faster if comparable else None]}."
            )


def _cosines(results: Results) -> Iterator[str]:
    measured: dict[Cell, list[np.ndarray]] = {}
    for run, result in results.items():
        if run.measure is measure_alignment:
            measured.setdefault(run.of, []).append(result.columns["cosine"])
    if measured:
        means = {cell: np.mean(cosines, axis=0) for cell, cosines in measured.items()}
        cell, least = min(means.items(), key=lambda item: item[1].min())
        std, n_samples = CASES[least.argmin()]
        yield (
            "The paper, Appendix C: whatever the noise, the cosine between updates and the gradient is above 0. Here "
            f"the smallest mean over seeds is {least.min():.3f} ({cell.change or 'gaussian'} noise of {std:g}, hidden "
            f"layers: {cell.n_hidden}, noise samples: {n_samples}): {_VERDICT[bool(least.min() > 0)]}."
        )


def _untrained(results: Results) -> Iterator[str]:
    for run, (columns, *_) in results.items():
        if run.measure is measure_untrained:
            n_episodes = run.settings["n_episodes"]
            large, small = (columns["head_gain"] == head_gain for head_gain in HEAD_GAINS)
            brakes = columns["correlation"] < 0
            braking, others, with_small_head = (
                f"{columns['reached'][rows].sum():,.0f} of {rows.sum() * n_episodes:,}"
                for rows in (large & brakes, large & ~brakes, small)
            )
            yield (
                f"Acrobot, {run.of}: {large.sum()} untrained policies took {n_episodes} episodes each. As published, "
                f"the torque of {(large & brakes).sum()} policies goes against the velocity of the second link, and "
                f"brakes the swing: they reached the goal in {braking} episodes, the others in {others}. Policies with "
                f"a small head reached it in {with_small_head}."
            )


def provenance(results: Results) -> str:
    """Which versions and commits made the results."""
    made_with = Counter(tuple(result.made_with.split(", ")) for result in results.values()).most_common()
    alike = [part for part in made_with[0][0] if all(part in parts for parts, _ in made_with)]
    told = [f"{n} with {', '.join(part for part in parts if part not in alike)}" for parts, n in made_with]
    return f"Runs were made with {', '.join(alike)}" + (f": {'; '.join(told)}." if len(told) > 1 else ".")
