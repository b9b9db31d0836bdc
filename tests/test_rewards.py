"""Reward times, the running average, and the reward prediction error, compared with sequences computed by hand."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_nrl import BPTT
from sb3_nrl.reward_prediction import RunningAverage
from tests.conftest import make_model
from tests.envs import ClockEnv
from tests.policies import record_updates


def make(n_envs: int = 1, timing: Any = "episode", smoothing: float = 0.5, scale: bool = False) -> RunningAverage:
    return RunningAverage(n_envs, timing, smoothing, scale)


def errors_of(prediction: RunningAverage, steps: Sequence[tuple[float, bool]]) -> list[float]:
    """δ at each reward time of a single environment that gives these rewards and ends."""
    errors = []
    for reward, done in steps:
        if prediction.observe(np.array([reward]), np.array([done]), [{}]):
            error, due = prediction.claim()
            assert due.tolist() == [True]
            errors.append(error.item())
    return errors


def returns(*values: float) -> list[tuple[float, bool]]:
    """Episodes of two steps that sum to these values."""
    return [step for value in values for step in ((value - 1, False), (1, True))]


def test_error_uses_the_average_of_before_and_the_first_reward_sets_it() -> None:
    prediction = make()
    assert errors_of(prediction, returns(10, 20, 0, 10)) == [0, 10, -15, 2.5]
    # 10, then 10 + 5, then 15 - 7.5, then 7.5 + 1.25
    assert prediction.average_E[0] == 8.75


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((10, 20, 5), (0, 10 / 20, -10 / 5)),
        ((-100, -50, -200), (0, 50 / 50, -125 / 200)),
        ((4, 0, 2), (0, -4, 0)),
    ],
    ids=["positive", "negative", "zero"],
)
def test_scaling_divides_by_the_absolute_reward(values: tuple[float, ...], expected: tuple[float, ...]) -> None:
    assert errors_of(make(scale=True), returns(*values)) == pytest.approx(expected)


def test_scaling_leaves_the_average_unscaled() -> None:
    averages = []
    for scale in (False, True):
        prediction = make(smoothing=0.66, scale=scale)
        errors_of(prediction, returns(-80, -500, -90))
        averages.append(prediction.average_E[0])
    assert averages[0] == averages[1] == pytest.approx(-80 - 0.66 * 420 + 0.66 * (-90 + 80 + 0.66 * 420))


STREAM = [(1, False), (0, False), (-2, False), (0, False), (0, True), (3, False), (0, True)]


@pytest.mark.parametrize(
    ("timing", "expected"),
    [
        # returns -1 and 3
        ("episode", [0, 4]),
        # rewards 1, -2, 0 (the end), 3, 0 (the end); averages before each but the first: 1, -0.5, -0.25, 1.375
        ("nonzero", [0, -3, 0.5, 3.25, -1.375]),
        # averages before each step but the first of an episode: 1, 0.5, -0.75, -0.375; and 3
        ("step", [0, -1, -2.5, 0.75, 0.375, 0, -3]),
    ],
)
def test_reward_times(timing: Any, expected: list[float]) -> None:
    assert errors_of(make(timing=timing), STREAM) == expected


def test_environments_are_streams_of_their_own() -> None:
    prediction = make(n_envs=3, smoothing=1.0)
    steps = [
        ([1.0, 5.0, 7.0], [True, False, False]),
        ([4.0, 5.0, 7.0], [True, True, False]),
        ([4.0, 1.0, 7.0], [False, True, False]),
    ]
    seen = []
    for rewards, dones in steps:
        prediction.observe(np.array(rewards), np.array(dones), [{}] * len(rewards))
        errors, due = prediction.claim()
        assert due.tolist() == dones
        seen.append(errors.tolist())
    assert seen == [[0, 0, 0], [3, 0, 0], [0, -9, 0]]
    np.testing.assert_array_equal(prediction.average_E, [4, 1, np.nan])


def test_restart_forgets_rewards_but_not_the_average() -> None:
    prediction = make()
    errors_of(prediction, [*returns(10), (100, False)])
    prediction.restart()
    assert errors_of(prediction, returns(12)) == [2]


@pytest.mark.parametrize(("n_envs", "average"), [(2, [4, np.nan]), (3, [4, 4, 4])])
def test_average_goes_on_from_a_previous_one(n_envs: int, average: list[float]) -> None:
    previous = make(n_envs=2)
    previous.observe(np.array([4.0, 2.0]), np.array([True, False]), [{}, {}])
    previous.claim()
    following = make(n_envs)
    following.take_over(previous)
    np.testing.assert_array_equal(following.average_E, average)


def test_log_has_means_over_the_environments_whose_reward_counts() -> None:
    """
    Three environments with episodes of 2, 2 and 3 steps; λ = 0.5. The first episodes set r̄ to 1, 4 and 6. At the
    second ends the first two have δ = 3 − 1 and 8 − 4, and r̄ becomes 2 and 6; the third gives another 6, and δ is 0.
    """
    rewards: list[Any] = [[[0, 1], [0, 3]], [[0, 4], [0, 8]], [[0, 0, 6], [0, 0, 6]]]
    envs = DummyVecEnv([partial(ClockEnv, of_env, n_inputs=3) for of_env in rewards])
    rpe: list[Any] = []
    predictions: list[Any] = []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        values = model.logger.name_to_value
        rpe.append(values.get("train/rpe"))
        predictions.append(values.get("train/reward_prediction"))
        return True

    model = make_model(BPTT, envs, "average", scale_rpe=False, reward_smoothing=0.5)
    updates = record_updates(model)
    model.learn(3 * 7, watch, log_interval=10**9)
    assert [update.errors.n_rewards for update in updates] == [2, 1, 2, 3]
    # At steps 2, 3, 4 and 6; "train/rpe" is the mean over the updates so far, here of 0, 0 and 3.
    assert rpe[2:5] == [0, 0, pytest.approx(3 / 3)]
    # r̄ of the environments that have one: (1 + 4) / 2, (1 + 4 + 6) / 3, (2 + 6 + 6) / 3
    assert predictions[2:5] == pytest.approx([2.5, 11 / 3, 14 / 3])


def test_each_type_of_trial_has_an_average_of_its_own() -> None:
    """As two predictors would, of which each sees only trials of one type; each environment has averages of its own."""
    prediction = make(n_envs=2)
    trials = [("A", 10, "B"), ("B", 2, "B"), ("A", 20, "A"), ("B", 4, "A"), ("A", 0, "B")]
    seen = []
    for of_first, reward, of_second in trials:
        infos = [{"trial_type": of_first}, {"trial_type": of_second}]
        prediction.observe(np.array([float(reward), 1.0]), np.array([True, True]), infos)
        seen.append(prediction.claim()[0].tolist())
    assert [error for error, _ in seen] == [0, 0, 20 - 10, 4 - 2, 0 - 15]
    assert [error for _, error in seen] == [0, 0, 0, 0, 0]


def test_a_type_that_is_first_seen_within_an_episode_starts_with_its_first_reward() -> None:
    prediction = make(timing="step")
    steps = [(1.0, {}), (2.0, {}), (8.0, {"trial_type": "A"}), (5.0, {"trial_type": "A"})]
    errors = []
    for reward, info in steps:
        prediction.observe(np.array([reward]), np.array([False]), [info])
        errors.append(prediction.claim()[0].item())
    assert errors == [0, 2 - 1, 0, 5 - 8]


def test_rewards_that_count_at_each_step_from_now_on_start_with_the_sum_so_far() -> None:
    previous = make()
    errors_of(previous, [(3, False), (4, False)])
    following = make(timing="step")
    following.take_over(previous)
    assert errors_of(following, [(4, False), (5, False)]) == [0, 5 - (3 + 4 + 4)]
