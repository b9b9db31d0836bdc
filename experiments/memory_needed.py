"""
Which NeuroGym tasks need memory: the best policy without memory against the best with, for every registered task.

Two networks learn by supervision what NeuroGym holds to be the right action at each time step (its ground truth): one
sees the current observation alone, the other all observations of the trial so far. Then both play new trials. At each
step they take the likeliest action other than fixation if its probability exceeds a threshold, else they fixate. The
best of six thresholds is chosen on other trials than those that give the score: the mean ``performance`` where a task
reports it, else its mean return. A task needs memory if the second network's score is higher by more than 0.05. Single
trials are compared: what one trial tells of the next is not counted.

Reaching tasks and EconomicDecisionMaking get the ground truth from this file: NeuroGym's is not an action there.
ToneDetection and SpatialSuppressMotion have no rewards: the score is how well the networks predict their ground truth.
The trials of Bandit and DawTwoStep have one observation before the choice that matters, and it is always the same:
within a trial there is nothing to remember. In DelayMatchCategory and PostDecisionWager the second network does not
learn; they need memory by their definition, since the stimulus is not visible when the answer is due.
"""

import functools
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch as th
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

from experiments import memory, tables
from experiments.execution import command_line, results_of
from experiments.runs import Columns, Results, Run
from sb3_nrl.envs import TASKS

DOCUMENT = memory.DOCUMENT
MARGIN = 0.05
THRESHOLDS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
ONE_OBSERVATION = ("Bandit", "DawTwoStep")
NOT_LEARNED = ("DelayMatchCategory", "PostDecisionWager")
NO_REWARDS = ("ToneDetection", "SpatialSuppressMotion")
REACHING = ("Reaching1D", "Reaching1DWithSelfDistraction")
BATCH_SIZE = 512
MAX_STEPS = 100_000  # of the data: fewer trials where they are long

Trials = tuple[np.ndarray, np.ndarray, np.ndarray]

make_env: Callable[[str], Any] = functools.partial(memory.make_env, "neurogym")
"""Makes an environment of a task, whose episodes are trials."""


def collect(env: Any, task: str, n_trials: int, seed: int) -> Trials:
    """
    Trials in which nothing is answered, so that none ends early. In reaching tasks actions are random.

    :return: Observations, shape (T, B, D), right actions, shape (T, B) or (T, B, C), and which steps there were, (T, B)
    """
    is_discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
    fixate = 0 if is_discrete else env.action_space.low
    env.action_space.seed(seed)
    env.reset(seed=seed)
    trials: list[tuple[np.ndarray, np.ndarray]] = []
    while len(trials) < n_trials and sum(len(steps) for steps, _ in trials) < MAX_STEPS:
        observation, _ = env.reset()
        observations, targets, terminated = [], [], False
        while not terminated:
            observations.append(observation)
            right = own_ground_truth(task, env.unwrapped.task.unwrapped)
            action = env.action_space.sample() if task in REACHING else fixate
            observation, _, terminated, _, info = env.step(action)
            targets.append(info["gt"] if right is None else right)
        trials.append((np.array(observations, dtype=np.float32), np.array(targets)))
    n_longest = max(len(steps) for steps, _ in trials)

    def padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([np.pad(a, [(0, n_longest - len(a))] + [(0, 0)] * (a.ndim - 1)) for a in arrays], axis=1)

    exists = padded([np.ones(len(steps), dtype=bool) for steps, _ in trials])
    return padded([steps for steps, _ in trials]), padded([targets for _, targets in trials]), exists


def own_ground_truth(task: str, trial: Any) -> int | None:
    """The right action before a step of a task whose ground truth is none: an angle, or 0. None for other tasks."""
    if task in REACHING:  # the turn towards the target
        return {0: 0, 1: 1, -1: 2}[int(np.sign(np.round(np.sin(trial.gt_now - trial.state), 2)))]
    if task != "EconomicDecisionMaking":
        return None
    if not trial.in_period("decision"):
        return 0
    values = dict(zip("ba", np.multiply(trial.trial["offer"], (trial.R_B, trial.R_A)), strict=True))
    first, second = (values[juice] for juice in trial.trial["juice"])
    return 1 if first > second else 2


class Data:
    """
    Recorded trials, and what a policy with a memory of W observations knows at each step.

    :param trials: Observations, shape (T, B, D), right actions, shape (T, B) or (T, B, C), and which steps there were,
        shape (T, B)
    :param n_seen: W: 1 for a policy without memory
    """

    def __init__(self, trials: Trials, n_seen: int) -> None:
        observations, self.targets, self.exists = trials
        before = np.zeros((n_seen - 1, *observations.shape[1:]), dtype=np.float32)
        self.windows = sliding_window_view(np.concatenate([before, observations]), n_seen, axis=0)  # (T, B, D, W)

    def draw(self, steps: tuple[np.ndarray, ...]) -> tuple[th.Tensor, th.Tensor]:
        """Of some steps of trials: the observations until then, shape (N, D W), and the right actions."""
        return th.as_tensor(self.windows[steps]).flatten(1), th.as_tensor(self.targets[steps])


def fit(data: Data, n_outputs: int, n_updates: int, seed: int) -> nn.Sequential:
    """A network that has learned the right actions of recorded trials, each action from equally many steps."""
    th.manual_seed(seed)
    rng = np.random.default_rng(seed)
    is_discrete = data.targets.ndim == 2
    groups = [np.nonzero(data.exists)]
    if is_discrete:
        groups = [np.nonzero(data.exists & (data.targets == a)) for a in np.unique(data.targets[data.exists])]
    n_inputs = int(np.prod(data.windows.shape[2:]))
    network = nn.Sequential(
        nn.Linear(n_inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, n_outputs)
    )
    optimizer = th.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.1)
    schedule = th.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1 - update / n_updates)
    for _ in range(n_updates):
        chosen = [rng.integers(len(steps[0]), size=BATCH_SIZE // len(groups)) for steps in groups]
        drawn = [[axis[which] for axis in steps] for steps, which in zip(groups, chosen, strict=True)]
        inputs, right = data.draw(tuple(np.concatenate(axes) for axes in zip(*drawn, strict=True)))
        outputs = network(inputs)
        loss = nn.functional.cross_entropy(outputs, right.long()) if is_discrete else ((outputs - right) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


@th.no_grad()
def play(
    network: nn.Sequential, n_seen: int, task: str, thresholds: Sequence[float], n_trials: int, seed: int
) -> np.ndarray:
    """
    Let a network play with each threshold, which continuous actions have no use for.

    :return: Performance and return of each trial, shape (2, thresholds, trials)
    """
    n_envs, n_rounds = 32, n_trials // 32
    space = make_env(task).action_space
    envs = [make_env(task) for _ in thresholds for _ in range(n_envs)]
    lows = np.repeat(thresholds, n_envs)
    outcomes = np.zeros((2, len(envs), n_rounds))
    for number, env in enumerate(envs):
        env.reset(seed=seed + number % n_envs)
    for trial in range(n_rounds):
        seen = np.zeros((len(envs), math.prod(envs[0].observation_space.shape), n_seen), dtype=np.float32)
        seen[..., -1] = [env.reset()[0] for env in envs]
        running = np.ones(len(envs), dtype=bool)
        while running.any():
            outputs = network(th.as_tensor(seen).flatten(1))
            if isinstance(space, gymnasium.spaces.Discrete):
                probabilities = outputs.softmax(dim=1).numpy()
                best = 1 + probabilities[:, 1:].argmax(axis=1)
                actions = np.where(probabilities[np.arange(len(envs)), best] > lows, best, 0)
            else:
                assert isinstance(space, gymnasium.spaces.Box)
                actions = np.clip(outputs.numpy(), space.low, space.high)
            seen[..., :-1] = seen[..., 1:]
            for i in np.flatnonzero(running):
                seen[i, :, -1], reward, terminated, _, info = envs[i].step(actions[i])
                outcomes[1, i, trial] += reward
                if terminated:
                    running[i] = False
                    outcomes[0, i, trial] = info["performance"]
    return outcomes.reshape(2, len(thresholds), -1)


@th.no_grad()
def agreement(network: nn.Sequential, data: Data) -> float:
    """How well a network predicts the ground truth: the fraction right at the end of trials, or R² of all steps."""
    if data.targets.ndim == 2:
        ends = np.full(data.targets.shape[1], len(data.targets) - 1)  # all trials are equally long
        inputs, right = data.draw((ends, np.arange(len(ends))))
        return float((network(inputs).argmax(dim=1) == right).double().mean())
    inputs, right = data.draw(np.nonzero(data.exists))
    return float(1 - ((network(inputs) - right) ** 2).sum() / ((right - right.mean(dim=0)) ** 2).sum())


def measure(settings: dict[str, Any]) -> Columns:
    """The scores ``without`` and ``with`` memory, and whether they are returns."""
    task, seed = settings["task"], settings["seed"]
    env = make_env(task)
    trials = collect(env, task, settings["n_trials"], seed)
    n_outputs = int(env.action_space.n) if trials[1].ndim == 2 else env.action_space.shape[0]
    outcomes = []
    for n_seen in (1, len(trials[0])):
        network = fit(Data(trials, n_seen), n_outputs, settings["n_updates"], seed)
        if task in NO_REWARDS:
            outcomes.append(np.full((2, 1), agreement(network, Data(collect(env, task, 500, seed + 1), n_seen))))
            continue
        tried = play(network, n_seen, task, THRESHOLDS, settings["n_trials_per_threshold"], seed + 1).mean(axis=2)
        best = THRESHOLDS[tried[0 if tried[0].any() else 1].argmax()]
        outcomes.append(play(network, n_seen, task, [best], settings["n_test_trials"], seed + 2)[:, 0])
    scores = np.array(outcomes)  # without and with memory; performance and return; trials
    is_return = bool((scores[:, 0] == 0).all())
    chosen = scores[:, int(is_return)]
    numbers = dict(zip(("without", "with"), chosen.mean(axis=1), strict=True)) | {"is_return": is_return}
    numbers["error"] = np.sqrt((chosen.var(axis=1) / chosen.shape[1]).sum())  # standard, of the difference
    return {name: np.array(value, dtype=float) for name, value in numbers.items()}


def plan(seeds: Sequence[int]) -> list[Run]:
    """One run for each task with a ground truth."""
    runs = []
    for task in sorted(name.removeprefix("neurogym/").removesuffix("-v0") for name in TASKS):
        for seed in seeds if task not in ONE_OBSERVATION else ():
            settings = {"task": task, "n_trials": 2_000, "n_updates": 2_000, "seed": seed}
            settings |= {"n_trials_per_threshold": 256, "n_test_trials": 1_024}
            runs.append(Run(f"{task}_{seed}", measure, settings, seed, 60, task))
    return runs


def needs_memory(task: str, result: Columns) -> bool:
    """Whether a task needs memory."""
    return task in NOT_LEARNED or bool(result["with"] - result["without"] > MARGIN)


def tabulate(results: Results) -> str:
    """Each task's scores, in Markdown."""
    rows = []
    for run, result in sorted(results.items(), key=lambda item: item[0].name):
        told = [f"{result.columns[name]:.2f}".replace("-", "−") for name in ("without", "with")]
        kind = " (return)" * bool(result.columns["is_return"])
        answer = "yes" if needs_memory(run.of, result.columns) else "no"
        rows.append([f"`{run.of}`{kind}", *told, answer + " (by definition)" * (run.of in NOT_LEARNED)])
    rows += [[f"`{task}`", "", "", "no"] for task in ONE_OBSERVATION]
    return tables.markdown(("task", "without memory", "with", "needs memory"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, then report everything."""
    parser = command_line(__doc__ or "", "memory_needed", (0,), workers=1)
    chosen = parser.parse_args(arguments)
    results, status = results_of(parser, chosen, plan)
    tables.publish(tabulate(results), chosen.out, "memory_needed", DOCUMENT)
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.memory_needed").main())
