"""What the benchmarks conclude from runs, and that every row of the ablation is the change that it is named after."""

import argparse
import csv
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import ablation
import learning
import numpy as np
import pytest
import trials
from rl_zoo3.utils import StoreDict
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_nrl.zoo import ALGORITHMS
from tests.test_zoo import manager


def monitor(path: pathlib.Path, start: float, episodes: list[tuple[float, int, float]]) -> None:
    """The log of one environment: return, length and time of episodes."""
    rows = [f"{reward},{length},{seconds}" for reward, length, seconds in episodes]
    path.write_text("\n".join([f"#{json.dumps({'t_start': start})}", "r,l,t", *rows]) + "\n")


def test_learning_curve_joins_the_environments(tmp_path: pathlib.Path) -> None:
    monitor(tmp_path / "0.monitor.csv", 100.0, [(1, 10, 1.0), (2, 20, 4.0)])
    monitor(tmp_path / "1.monitor.csv", 100.5, [(6, 12, 1.5), (7, 5, 2.5)])
    curve = learning.learning_curve(tmp_path)
    assert curve.steps.tolist() == [20, 24, 34, 60]
    assert curve.seconds.tolist() == [1, 2, 3, 4]
    assert curve.means.tolist() == [1, 3.5, 14 / 3, 4]


def test_learning_curve_is_a_mean_of_a_hundred_episodes(tmp_path: pathlib.Path) -> None:
    monitor(tmp_path / "0.monitor.csv", 0.0, [(place**2, 1, place) for place in range(150)])
    means = learning.learning_curve(tmp_path).means
    assert means[99:] == pytest.approx([np.mean(np.arange(end - 99, end + 1) ** 2) for end in range(99, 150)])


def curve_of(means: list[float]) -> learning.Curve:
    """An episode of ten steps in half a second after the other."""
    return learning.Curve(10 * np.arange(1, len(means) + 1), 0.5 * np.arange(1, len(means) + 1), np.array(means))


def test_bar_is_passed_by_a_hundred_episodes() -> None:
    became = learning.judge(curve_of([9.0] * 60 + [1.0] * 50 + [8.0, 6.0, 7.0]), bar=8, evaluation=5)
    assert became == learning.Learned(1_110, 55.5, 6, 7, 1_130, 5)


def test_bar_that_is_not_passed() -> None:
    became = learning.judge(curve_of([9.0] * 60 + [1.0] * 50), bar=8, evaluation=5)
    assert became == learning.Learned(None, None, None, 1, 1_100, 5)


def test_trial_is_added_to_those_before(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(task: str, algo: str, seed: int, folder: pathlib.Path, changes: Sequence[str]) -> pathlib.Path:
        assert (task, algo, changes) == ("Acrobot-v1", "nrl", ["n_steps:4"])
        episodes: list[tuple[float, int, float]] = [(10 - seed, seed, place) for place in range(100)]
        monitor(folder / "0.monitor.csv", 0.0, [*episodes, (-110, 10, 100)])
        return folder

    monkeypatch.setattr(trials, "train", train)
    for seeds in (["100", "115"], ["105"]):
        options = ["--hyperparams", "n_steps:4", "--out", str(tmp_path / "trials.csv"), "--seeds", *seeds]
        monkeypatch.setattr("sys.argv", ["trials.py", "Acrobot-v1", *options])
        trials.main()
    monkeypatch.setattr("sys.argv", ["trials.py", "Acrobot-v1", "--seeds", "100", "99"])
    with pytest.raises(SystemExit):
        trials.main()
    assert "--seeds: those below 100" in capsys.readouterr().err
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["hyperparams"], row["seed"], row["steps"], row["lowest"], row["last"]) for row in rows] == [
        ("n_steps:4", "100", "10000", "-90.2", "-90.2"),
        ("n_steps:4", "115", "", "", "-105.05"),
        ("n_steps:4", "105", "10500", "-95.15", "-95.15"),
    ]


@pytest.mark.parametrize(("task", "lows"), [("CartPole-v1", (380, 379)), ("Pendulum-v1", (-250, -251))])
def test_holding_is_counted_from_four_fifths_of_the_bar_on(task: str, lows: tuple[float, float]) -> None:
    runs = {
        learning.Run(task, "nrl", seed): learning.Learned(1_000, 1, low, 0, 3_000, 0) for seed, low in enumerate(lows)
    }
    runs[learning.Run(task, "nrl", 2)] = learning.Learned(None, None, None, 0, 3_000, 0)
    assert f"| 1 of 2 ({min(lows)}) |" in learning.tabulate(runs)


ROWS = [
    pytest.param(change, task, id=f"{change.name}, {task}")
    for change in ablation.CHANGES[1:]
    for task in dict.fromkeys((change.tasks[0], change.tasks[-1]))
]


def model_of(change: ablation.Change, task: str, folder: pathlib.Path) -> BaseAlgorithm:
    """The untrained model, from the command line's arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hyperparams", nargs="*", action=StoreDict, default={})
    changes = change.hyperparams(task)
    hyperparams = parser.parse_args(["--hyperparams", *changes] if changes else []).hyperparams
    made = manager(folder, change.algo, task, hyperparams=hyperparams).setup_experiment()
    assert made is not None
    return made[0]


def described(model: BaseAlgorithm) -> dict[str, Any]:
    """All that a row can change, by the names of the arguments."""
    policy: Any = model.policy
    return {
        **vars(model),
        "learning_rate": model.lr_schedule(1),
        "optimizer_class": type(policy.optimizer),
        "activation_fn": type(policy.hidden_net[1]),
        **{name: getattr(policy, name) for name in ("net_arch", "use_bias", "head_gain", "action_correlation")},
        "normalize": model.get_vec_normalize_env() is not None,
    }


COMPARED = (
    *("n_envs", "normalize", "gamma", "trace_decay", "n_steps", "learning_rate", "vf_coef", "ent_coef"),
    *("max_grad_norm", "scale_rpe", "reward_prediction", "reward_timing", "n_noise_samples", "antithetic"),
    *("optimizer_class", "activation_fn", "net_arch", "use_bias", "head_gain", "action_correlation"),
)


@pytest.mark.parametrize(("change", "task"), ROWS)
def test_row_changes_what_it_says_and_nothing_else(change: ablation.Change, task: str, tmp_path: pathlib.Path) -> None:
    shipped = described(model_of(ablation.SHIPPED, task, tmp_path))
    model = model_of(change, task, tmp_path)
    changed = described(model)
    assert type(model) is ALGORITHMS[change.algo]
    implied = ("reward_timing", "scale_rpe") if "reward_prediction" in change.settings else ()
    names = {*change.settings, *implied, *(part.split("=")[0] for part in change.policy_kwargs.split(", ") if part)}
    compared = set(COMPARED) & shipped.keys() & changed.keys()  # BPTT has no noise
    differing = {name for name in compared if shipped[name] != changed[name]}
    assert differing <= names
    assert differing or change.algo != "nrl"


def test_table_of_the_ablation() -> None:
    names = [change.name for change in ablation.CHANGES]
    outcomes = {
        **{("CartPole-v1", names[0], seed): ablation.Outcome(1_000.0 * seed, 2.0) for seed in (1, 2, 3)},
        **{
            ("CartPole-v1", names[2], seed): ablation.Outcome(steps, 1.0)
            for seed, steps in enumerate((5_000.0, 6_000.0), 1)
        },
        **{
            ("CartPole-v1", names[3], seed): ablation.Outcome(10.0 if seed == 2 else math.inf, 3.0 * seed)
            for seed in (1, 2, 3)
        },
    }
    *_, shipped, one, sixteen = ablation.tabulate(outcomes).splitlines()
    assert shipped == f"| {names[0]} | 2,000 | 1.00 |"
    assert one == f"| {names[2]} | 5,500 (2 of 2) | 0.50 |"
    assert sixteen == f"| {names[3]} | – (1 of 3) | 3.00 |"
