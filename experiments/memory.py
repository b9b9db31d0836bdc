"""
Tasks that need memory: recurrent networks trained by NRL, by BPTT and by sb3-contrib's RecurrentPPO.

Trains what is missing and makes a table of three groups of tasks, each with one setting per algorithm: ten NeuroGym
tasks (fraction of the last 1,000 trials of a training that are correct), control tasks without velocities (steps until
the mean return of 100 episodes passes a bar) and popgym's easy tasks (mean return of the last 100 episodes). A training
that was interrupted goes on from a checkpoint of the last 100,000 steps.
"""

import functools
import importlib
import io
import itertools
import math
import pathlib
import pickle
import sys
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import sb3_contrib
from rl_zoo3.utils import linear_schedule
from rl_zoo3.wrappers import MaskVelocityWrapper
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import sb3_nrl
from experiments import tables
from experiments.execution import command_line, results_of
from experiments.runs import Columns, Results, Run, by_case, write_whole

DOCUMENT = tables.DOCS / "memory.md"
N_TRIALS, N_EPISODES = 1_000, 100  # at the end of a training, whose mean is its result: of NeuroGym, and of the others
N_ROWS = 200  # of a learning curve that is kept
CHECKPOINT_STEPS = 100_000
NEUROGYM = (
    "DelayMatchSample",
    "DelayComparison",
    "DelayPairedAssociation",
    "ContextDecisionMaking",
    "PerceptualDecisionMakingDelayResponse",
    "GoNogo",
    "IntervalDiscrimination",
    "DualDelayMatchSample",
    "DelayMatchCategory",
    "MultiSensoryIntegration",
)
BARS = {"CartPole-v1": 475.0, "MountainCarContinuous-v0": 90.0, "Pendulum-v1": -250.0}
"""Control tasks whose velocities are masked, and the mean return of 100 episodes that counts as solved."""
MASKED, CONTINUOUS = "velocity-free", "velocity-free-continuous"
POPGYM = ("RepeatPreviousEasy", "RepeatFirstEasy", "PositionOnlyCartPoleEasy", "CountRecallEasy", "AutoencodeEasy")
GROUPS: dict[str, Sequence[str]] = {
    "neurogym": NEUROGYM,
    MASKED: ("CartPole-v1",),
    CONTINUOUS: ("MountainCarContinuous-v0", "Pendulum-v1"),
    "popgym": POPGYM,
}
_PASSED = "steps until the mean return of 100 episodes passes the bar (median and seeds)"
TABLES = {
    "neurogym": (f"NeuroGym: fraction of the last {N_TRIALS:,} trials that are correct", "task", "chance"),
    MASKED: (f"Without velocities: {_PASSED}", "task", "bar"),
    CONTINUOUS: (f"Without velocities, continuous actions: {_PASSED}", "task", "bar"),
    "popgym": (f"popgym: mean return of the last {N_EPISODES} episodes", "task"),
}
"""Title and first columns of the table of each group."""


class Case(NamedTuple):
    """An algorithm, and how it is trained."""

    label: str
    seeds: Sequence[int]
    n_steps: int  # of a training, over all environments
    settings: dict[str, dict[str, Any]]
    """
    For each group of tasks: ``algorithm``, ``n_envs``, ``normalize`` (arguments of ``VecNormalize``, or None for no
    normalisation), ``arguments`` of the algorithm, ``policy`` and ``policy_kwargs`` among them, and ``continuous``,
    more of them for continuous actions; and ``n_steps``, if it differs. A group without settings is not trained.
    """


_LSTM = {"lstm_hidden_size": 64, "enable_critic_lstm": True, "net_arch": []}
_PPO: dict[str, Any] = {
    "policy": "MlpLstmPolicy",
    "n_steps": 64,
    "batch_size": 1024,
    "n_epochs": 10,
    "learning_rate": 1e-3,
    "ent_coef": 0.01,
    "policy_kwargs": _LSTM,
}
PPO: dict[str, dict[str, Any]] = {
    "neurogym": {
        "algorithm": "RecurrentPPO",
        "n_envs": 32,
        "normalize": None,
        "arguments": {**_PPO, "gamma": 0.95},
        "continuous": {},
    },
    MASKED: {
        "algorithm": "RecurrentPPO",
        "n_envs": 16,
        "normalize": {"gamma": 0.99},
        "arguments": {**_PPO, "n_steps": 128, "gamma": 0.99, "ent_coef": 0.0},
        "continuous": {"use_sde": True, "sde_sample_freq": 8},
    },
    "popgym": {
        "algorithm": "RecurrentPPO",
        "n_envs": 32,
        "normalize": None,
        "arguments": {**_PPO, "gamma": 0.99},
        "continuous": {},
    },
}
PPO[CONTINUOUS] = PPO[MASKED]
OURS: dict[str, dict[str, Any]] = {
    "neurogym": {
        "n_envs": 16,
        "normalize": None,
        "arguments": {
            "policy": "MlpCtrnnPolicy",
            "n_steps": 16,
            "gamma": 0.95,
            "ent_coef": 0.01,
            "learning_rate": "lin_0.005",
            "vf_coef": 5.0,
            "policy_kwargs": {"net_arch": [64]},
        },
        "continuous": {},
    },
    MASKED: {
        "n_steps": 500_000,
        "n_envs": 16,
        "normalize": None,
        "arguments": {
            "policy": "MlpRnnPolicy",
            "n_steps": 8,
            "gamma": 0.99,
            "vf_coef": 5.0,
            "policy_kwargs": {"net_arch": [16], "recurrent_gain": 0.3},
        },
        "continuous": {},
    },
}
"""What NRL and BPTT have in common."""
OURS[CONTINUOUS] = {**OURS[MASKED], "n_steps": 1_000_000}


def _with(algorithm: str, of_groups: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings of an algorithm on some groups of tasks, with arguments of its own."""
    return {
        group: {**OURS[group], "algorithm": algorithm, "arguments": {**OURS[group]["arguments"], **arguments}}
        for group, arguments in of_groups.items()
    }


_SPIKING = {
    "policy": "MlpStatefulLifPolicy",
    "policy_kwargs": {
        "net_arch": [32],
        "ticks": 2,
        "beta": 0.5,
        "tau_synapse": 8.0,
        "threshold": 2.0,
        "recurrent": True,
    },
    "n_noise_samples": 32,
    "noise_std": 0.05,
}
CASES = {
    "ppo": Case("RecurrentPPO", (0, 1, 2), 1_000_000, PPO),
    "bptt": Case(
        "BPTT",
        range(5),
        2_000_000,
        _with(
            "BPTT",
            {
                # With NRL's learning rates, BPTT learns and forgets.
                "neurogym": {"n_steps": 32, "learning_rate": "lin_0.0003"},
                MASKED: {"n_steps": 32, "learning_rate": "lin_0.003"},
                CONTINUOUS: {"n_steps": 32, "learning_rate": "lin_0.003"},
            },
        ),
    ),
    "nrl": Case(
        "NRL",
        range(10),
        2_000_000,
        _with(
            "NRL",
            {
                "neurogym": {"n_noise_samples": 32},
                MASKED: {"n_noise_samples": 64, "local_head": True, "learning_rate": "lin_0.007"},
                CONTINUOUS: {
                    "n_noise_samples": 64,
                    "local_head": True,
                    "n_steps": 32,
                    "learning_rate": "lin_0.003",
                },
            },
        ),
    ),
    "spiking": Case("NRL, spiking", (0, 1, 2), 2_000_000, _with("NRL", {"neurogym": _SPIKING})),
}


# Environments


class FirstAnswers(gymnasium.Wrapper):
    """
    NeuroGym's ``DualDelayMatchSample``, whose ``performance`` becomes the fraction of its two tests that are answered
    correctly. The first answer to a test counts, and none is wrong. NeuroGym's own is 1 if any answer in any time step
    is right: constant answers reach 0.75 on average, alternating ones 1.
    """

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        self.n_right, self.is_answered = 0, False
        return super().reset(**arguments)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        *outcome, info = super().step(action)
        if info["gt"] == 0:  # not a time to answer, as between the tests
            self.is_answered = False
        elif action != 0 and not self.is_answered:
            self.is_answered = True
            self.n_right += int(action == info["gt"])
        if info["new_trial"]:
            info["performance"] = self.n_right / 2
        observation, reward, terminated, truncated = outcome
        return observation, reward, terminated, truncated, info


def make_env(group: str, task: str) -> gymnasium.Env:
    """One environment of a task, with vectors as observations."""
    if group == "neurogym":
        env = gymnasium.make(f"sb3_nrl.envs:neurogym/{task}-v0", disable_env_checker=True)
        return FirstAnswers(env) if task == "DualDelayMatchSample" else env
    if task in BARS:
        return MaskVelocityWrapper(gymnasium.make(task, disable_env_checker=True))
    env = gymnasium.make(f"popgym:popgym-{task}-v0", disable_env_checker=True)
    flat = gymnasium.wrappers.FlattenObservation(env)  # one-hot, where observations are one or several whole numbers
    return gymnasium.wrappers.DtypeObservation(flat, np.float32)


def measure_chance(settings: dict[str, Any]) -> Columns:
    """The fraction ``correct`` of trials in which every step has the same ``action``: for each action."""
    env = make_env("neurogym", settings["task"])
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    actions = np.arange(env.action_space.n)
    correct = []
    for action in actions:
        performances: list[float] = []
        env.reset(seed=settings["seed"])
        while len(performances) < settings["n_trials"]:
            _, _, terminated, _, info = env.step(action)
            if terminated:
                performances.append(info["performance"])
                env.reset()
        correct.append(np.mean(performances))
    return {"action": actions, "correct": np.array(correct)}


# Trainings


class Training(BaseCallback):
    """A training that can be interrupted: records each trial, and saves everything from time to time."""

    def __init__(self, path: pathlib.Path | None, settings: dict[str, Any]) -> None:
        super().__init__()
        self.path, self.settings = path, settings
        self.trials: list[tuple[int, float, float]] = []  # steps until its end, return, performance
        self.start, self.seconds, self.saved_steps, self.n_resumed = perf_counter(), 0.0, 0, 0
        self.model = self._load() or self._make()

    def _make_env(self) -> Any:
        task = functools.partial(make_env, self.settings["group"], self.settings["task"])
        return make_vec_env(task, self.settings["n_envs"])

    def _make(self) -> BaseAlgorithm:
        env, normalize = self._make_env(), self.settings["normalize"]
        env = env if normalize is None else VecNormalize(env, **normalize)
        is_continuous = isinstance(env.action_space, gymnasium.spaces.Box)
        arguments = self.settings["arguments"] | (self.settings["continuous"] if is_continuous else {})
        if isinstance(rate := arguments["learning_rate"], str):  # as in a config of the RL Zoo
            arguments["learning_rate"] = linear_schedule(float(rate.removeprefix("lin_")))
        return self._algorithm()(**arguments, env=env, device="cpu")

    def _algorithm(self) -> Any:
        name = self.settings["algorithm"]
        return getattr(sb3_nrl, name, None) or getattr(sb3_contrib, name)

    def _load(self) -> BaseAlgorithm | None:
        """
        The model as the checkpoint has it. Environments begin a new episode, and random numbers continue with another
        seed: a training that was interrupted is as good as one that was not, but not the same.
        """
        if self.path is None or not self.path.exists():
            return None
        kept = pickle.loads(self.path.read_bytes())
        if kept["settings"] != self.settings:
            return None
        self.trials, self.seconds, self.n_resumed = kept["trials"], kept["seconds"], kept["n_resumed"] + 1
        env = self._make_env()
        if kept["normalize"] is not None:
            normalize, inner = pickle.loads(kept["normalize"]), env
            normalize.set_venv(inner)
            env = normalize
        model = self._algorithm().load(io.BytesIO(kept["model"]), env, device="cpu")
        model.set_random_seed(self.settings["arguments"]["seed"] + 1_000_000 * self.n_resumed)
        self.saved_steps = model.num_timesteps
        return model

    def _on_rollout_start(self) -> None:
        if self.path is not None and self.model.num_timesteps >= self.saved_steps + CHECKPOINT_STEPS:
            self.saved_steps, file = self.model.num_timesteps, io.BytesIO()
            self.model.save(file)
            normalize = self.model.get_vec_normalize_env()
            kept = {
                "settings": self.settings,
                "trials": self.trials,
                "seconds": self.seconds + perf_counter() - self.start,
                "n_resumed": self.n_resumed,
                "normalize": None if normalize is None else pickle.dumps(normalize),
                "model": file.getvalue(),
            }
            write_whole(self.path, pickle.dumps(kept))

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.trials.append((self.num_timesteps, info["episode"]["r"], info.get("performance", math.nan)))
        return True


def train(settings: dict[str, Any], checkpoint: pathlib.Path | None = None) -> Columns:
    """
    Train: the mean ``return`` and fraction ``correct`` of 200 parts of equal numbers of trials and the ``steps`` until
    the end of each, the same of the ``last`` trials, and the steps until the mean return ``passed`` the bar.
    """
    training = Training(checkpoint, settings)
    model = training.model
    model.learn(settings["n_steps"] - model.num_timesteps, training, math.inf, reset_num_timesteps=False)  # type: ignore[arg-type]
    trials = np.array(training.trials)
    parts = [(part[-1, 0], *part[:, 1:].mean(axis=0)) for part in np.array_split(trials, min(N_ROWS, len(trials)))]
    steps, returns, correct = np.array(parts).T
    is_neurogym = settings["group"] == "neurogym"
    last = trials[-N_TRIALS:, 2] if is_neurogym else trials[-N_EPISODES:, 1]
    numbers = {
        "last": last.mean(),
        "passed": passed(trials[:, 0], trials[:, 1], BARS.get(settings["task"], math.inf)),
        "train_seconds": training.seconds + perf_counter() - training.start,
        "n_resumed": training.n_resumed,
    }
    columns = {"steps": steps, "return": returns} | ({"correct": correct} if is_neurogym else {})
    return columns | {name: np.array(value, dtype=float) for name, value in numbers.items()}


def passed(steps: np.ndarray, returns: np.ndarray, bar: float) -> float:
    """Steps until the mean of 100 returns first reaches the bar, NaN if never."""
    if len(returns) < N_EPISODES:
        return math.nan
    reached = np.flatnonzero(np.convolve(returns, np.full(N_EPISODES, 1 / N_EPISODES), "valid") >= bar)
    return float(steps[reached[0] + N_EPISODES - 1]) if len(reached) else math.nan


def plan(seeds: Sequence[int], folder: pathlib.Path) -> list[Run]:
    """Chance of each NeuroGym task, and the trainings from some seeds, as far as cases have settings and seeds."""
    settings: dict[str, Any]
    runs = []
    for task in NEUROGYM:
        settings = {"task": task, "n_trials": 10_000, "seed": 0}
        runs.append(Run(f"chance_{task}", measure_chance, settings, 0, 10, ("chance", task)))
    for (name, case), seed in itertools.product(CASES.items(), seeds):
        for group, its_settings in case.settings.items() if seed in case.seeds else ():
            for task in GROUPS[group]:
                settings = {"group": group, "task": task, "n_steps": case.n_steps, **its_settings}
                settings["arguments"] = its_settings["arguments"] | {"seed": seed}
                file = f"{name}_{group}_{task}_{seed}"
                measure = functools.partial(train, checkpoint=folder / "checkpoints" / f"{file}.pickle")
                runs.append(Run(file, measure, settings, seed, settings["n_steps"] / 1_000, (name, task)))
    return runs


# The report


def tabulate(results: Results) -> str:
    """
    A table for each group of tasks that were trained, in Markdown: the mean of the seeds, and every seed in brackets.
    """
    found = by_case(results)
    parts = []
    for group, (title, *header) in TABLES.items():
        tasks = [task for task in GROUPS[group] if any((case, task) in found for case in CASES)]
        shown = [case for case in CASES if any((case, task) in found for task in tasks)]
        rows = []
        for task in tasks:
            row = [f"`{task}`"]
            if group == "neurogym":
                row += [f"{columns['correct'].max():.2f}" for columns in found.get(("chance", task), [])] or [""]
            elif task in BARS:
                row.append(tables.number(BARS[task]))
            row += [_told(found.get((case, task), []), is_passing=task in BARS) for case in shown]
            rows.append(row)
        if rows:
            parts += [title, tables.markdown((*header, *(CASES[case].label for case in shown)), rows)]
    return "\n\n".join(parts)


def _told(seeds: Sequence[Columns], is_passing: bool) -> str:
    """The median of the steps until the bar was passed, a dash standing for never, or the mean of the results."""
    if not seeds:
        return ""
    if is_passing:
        steps = [math.inf if np.isnan(columns["passed"]) else float(columns["passed"]) for columns in seeds]
        middle, *told = (f"{value / 1_000:.0f} k" if value < math.inf else "–" for value in (median(steps), *steps))
    else:
        last = [float(columns["last"]) for columns in seeds]
        middle, *told = (f"{value:.2f}".replace("-", "−") for value in (np.mean(last), *last))
    return f"{middle} ({' '.join(told)})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then report everything."""
    parser = command_line(__doc__ or "", "memory", range(max(len(case.seeds) for case in CASES.values())))
    chosen = parser.parse_args(arguments)
    results, status = results_of(parser, chosen, lambda seeds: plan(seeds, chosen.out))
    for run in results:
        (chosen.out / "checkpoints" / f"{run.name}.pickle").unlink(missing_ok=True)
    tables.publish(tabulate(results), chosen.out, "memory", DOCUMENT)
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.memory").main())
