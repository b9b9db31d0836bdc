"""Reward times, the running average, and the reward prediction error, on sequences computed by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from sb3_nrl.reward_prediction import RunningAverage


def errors_of(
    prediction: RunningAverage,
    steps: Sequence[tuple[float, bool]],
    timing: str = "episode",
    smoothing: float = 0.5,
    scale: bool = False,
) -> list[float]:
    """δ at each reward time of a single environment that gives these rewards and ends."""
    errors = []
    for reward, done in steps:
        if prediction.observe(np.array([reward]), np.array([done]), timing):
            error, due = prediction.errors(timing, smoothing, scale)
            assert due.tolist() == [True]
            errors.append(error.item())
    return errors


def returns(*values: float) -> list[tuple[float, bool]]:
    """Episodes of two steps that sum to these values."""
    return [step for value in values for step in ((value - 1, False), (1, True))]


def test_error_uses_the_average_of_before_and_the_first_reward_sets_it() -> None:
    prediction = RunningAverage(1)
    assert errors_of(prediction, returns(10, 20, 0, 10)) == [0, 10, -15, 2.5]
    # 10, then 10 + 5, then 15 - 7.5, then 7.5 + 1.25
    assert prediction.average[0] == 8.75


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
    assert errors_of(RunningAverage(1), returns(*values), scale=True) == pytest.approx(expected)


def test_scaling_leaves_the_average_unscaled() -> None:
    averages = []
    for scale in (False, True):
        prediction = RunningAverage(1)
        errors_of(prediction, returns(-80, -500, -90), smoothing=0.66, scale=scale)
        averages.append(prediction.average[0])
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
def test_reward_times(timing: str, expected: list[float]) -> None:
    assert errors_of(RunningAverage(1), STREAM, timing) == expected


def test_environments_are_streams_of_their_own() -> None:
    prediction = RunningAverage(3)
    steps = [
        ([1.0, 5.0, 7.0], [True, False, False]),
        ([4.0, 5.0, 7.0], [True, True, False]),
        ([4.0, 1.0, 7.0], [False, True, False]),
    ]
    seen = []
    for rewards, dones in steps:
        prediction.observe(np.array(rewards), np.array(dones), "episode")
        errors, due = prediction.errors("episode", 1.0, False)
        assert due.tolist() == dones
        seen.append(errors.tolist())
    assert seen == [[0, 0, 0], [3, 0, 0], [0, -9, 0]]
    np.testing.assert_array_equal(prediction.average, [4, 1, np.nan])


def test_restart_forgets_rewards_but_not_the_average() -> None:
    prediction = RunningAverage(1)
    errors_of(prediction, [*returns(10), (100, False)])
    prediction.restart()
    assert errors_of(prediction, returns(12)) == [2]


@pytest.mark.parametrize(("n_envs", "average"), [(2, [4, np.nan]), (3, [4, 4, 4])])
def test_average_goes_on_from_a_previous_one(n_envs: int, average: list[float]) -> None:
    previous = RunningAverage(2)
    previous.observe(np.array([4.0, 2.0]), np.array([True, False]), "episode")
    previous.errors("episode", 0.5, False)
    np.testing.assert_array_equal(RunningAverage(n_envs, previous).average, average)
