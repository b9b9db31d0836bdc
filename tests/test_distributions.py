"""Action distributions: frequencies of samples agree with probabilities, and these with Stable-Baselines3's."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution, make_proba_distribution

from sb3_nrl.distributions import ActionDistribution, Categorical, make_distribution
from sb3_nrl.policies import NoisyPolicy
from tests.policies import ACTION_SPACES, each_action_space, in_torch, make_policy

N_DRAWS = 20_000

each_engine = pytest.mark.parametrize("xp", [np, th], ids=["NumPy", "PyTorch"])


def outputs_of(distribution: ActionDistribution, n_rows: int = 1, spread: float = 1.0) -> np.ndarray:
    """Random outputs of an action head."""
    return (spread * np.random.default_rng(0).normal(size=(n_rows, distribution.n_outputs))).astype(np.float32)


def of_sb3(space: spaces.Space, outputs: np.ndarray) -> Distribution:
    """Stable-Baselines3's distribution for the same outputs."""
    parameters = th.as_tensor(outputs)
    made: Any = make_proba_distribution(space)
    if isinstance(space, spaces.Box):
        return made.proba_distribution(*parameters.chunk(2, dim=1))
    return made.proba_distribution(parameters)


def all_actions(space: spaces.Space) -> np.ndarray:
    """Every action of a discrete space, a row each."""
    if isinstance(space, spaces.Discrete):
        return np.arange(space.n)
    if isinstance(space, spaces.MultiBinary):
        return np.array(list(product((0, 1), repeat=space.shape[0])), np.float32)
    return np.array(list(product(*map(range, space.nvec))))  # type: ignore[attr-defined]


def draw(space: spaces.Space, outputs: np.ndarray, how: str) -> np.ndarray:
    """Many actions of one row of outputs."""
    distribution, generator = make_distribution(space), np.random.default_rng(1)
    if how == "few rows":
        rows = [distribution.act(np, outputs, distribution.draw(generator, 1))[0] for _ in range(N_DRAWS)]
        return np.concatenate(rows)
    many = outputs.repeat(N_DRAWS, axis=0)
    if how == "many rows":
        return distribution.act(np, many, distribution.draw(generator, N_DRAWS))[0]
    th.manual_seed(1)
    parameters = distribution.parameters(th, th.as_tensor(many))
    return distribution.sample(th, parameters, distribution.draw_like(parameters)).numpy()


@pytest.mark.parametrize(
    ("name", "how"), [*product(ACTION_SPACES, ("many rows", "PyTorch")), ("Discrete", "few rows"), ("Box", "few rows")]
)
def test_actions_are_as_frequent_as_they_are_probable(name: str, how: str) -> None:
    """All combinations of components, so that the components are independent too."""
    action_space = ACTION_SPACES[name]
    outputs = outputs_of(make_distribution(action_space))
    actions = draw(action_space, outputs, how)
    if isinstance(action_space, spaces.Box):
        mean, log_std = np.split(outputs[0], 2)
        z = (actions - mean) / np.exp(log_std)
        # Standard errors: 1 / √N of the means and correlations, √(2 / N) of the squares, √(96 / N) of fourth powers.
        tolerance = 4 / N_DRAWS**0.5
        np.testing.assert_allclose(z.mean(0), 0, atol=tolerance)
        np.testing.assert_allclose(z.T @ z / N_DRAWS, np.eye(len(mean)), atol=1.5 * tolerance)
        np.testing.assert_allclose((z**4).mean(0), 3, atol=10 * tolerance)
        return
    every = all_actions(action_space)
    probabilities = of_sb3(action_space, outputs).log_prob(th.as_tensor(every)).exp().numpy()
    assert probabilities.sum() == pytest.approx(1)
    equal = actions[:, None] == every if every.ndim == 1 else (actions[:, None] == every).all(2)
    frequencies = equal.mean(0)
    assert frequencies.sum() == pytest.approx(1)
    errors = np.sqrt(probabilities * (1 - probabilities) / N_DRAWS)
    assert (np.abs(frequencies - probabilities) < 4 * errors).all()


@each_engine
@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
@each_action_space
def test_probabilities_and_entropies_are_those_of_stable_baselines3(
    action_space: spaces.Space, spread: float, xp: Any
) -> None:
    """Large logits, and actions of very small probability, are included."""
    distribution = make_distribution(action_space)
    outputs = outputs_of(distribution, 8, spread if not isinstance(action_space, spaces.Box) else min(spread, 3))
    expected: Any = of_sb3(action_space, outputs)
    array = th.as_tensor if xp is th else np.asarray
    parameters = distribution.parameters(xp, array(outputs))
    if isinstance(action_space, spaces.Box):
        several = [expected.mode() + shift for shift in (-3, 0, 0.5)]
    else:
        several = [th.as_tensor(action).expand(8, *np.shape(action)) for action in all_actions(action_space)]
    for actions in several:
        wanted = expected.log_prob(actions)
        given = distribution.log_prob(xp, parameters, array(actions))
        np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-4)
        of_object = distribution.to_sb3(th.as_tensor(parameters)).log_prob(actions)
        np.testing.assert_allclose(of_object, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(distribution.entropy(xp, parameters), expected.entropy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(distribution.mode(xp, parameters), expected.mode())


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_python_chooses_what_numpy_chooses(n_rows: int) -> None:
    """Small batches are sampled with Python's floats. The same random numbers must give the same actions."""
    distribution, generator = make_distribution(spaces.Discrete(3)), np.random.default_rng(0)
    chosen = set()
    for _ in range(300):
        outputs = 3 * generator.normal(size=(n_rows, 3)).astype(np.float32)
        draws = distribution.draw(generator, n_rows)
        few, many = (
            distribution.act(np, outputs, draws),
            distribution.act(np, np.repeat(outputs, 6, axis=0), np.repeat(draws, 6, axis=0)),
        )
        np.testing.assert_array_equal(few[0], many[0][::6])
        np.testing.assert_allclose(few[1], many[1][::6], rtol=1e-5, atol=1e-6)
        assert few[1].dtype == np.float32
        chosen |= set(few[0].tolist())
    assert chosen == {0, 1, 2}


@pytest.mark.parametrize("n_rows", [1, 10])
@pytest.mark.parametrize(
    ("logits", "draw", "action"),
    [
        ([-1000.0, 0.0, 0.0], 0.0, 1),
        ([0.0, 0.0, -1000.0], 1 - 1e-16, 1),
        ([0.0, 0.0], 0.5, 1),
        ([0.0, 0.0], 0.49999, 0),
    ],
)
def test_actions_of_probability_0_are_not_drawn(n_rows: int, logits: list[float], draw: float, action: int) -> None:
    distribution = make_distribution(spaces.Discrete(len(logits)))
    outputs = np.array([logits] * n_rows, np.float32)
    actions, log_probs = distribution.act(np, outputs, np.full((n_rows, 1), draw))
    assert actions.tolist() == [action] * n_rows
    np.testing.assert_allclose(log_probs, np.log(0.5), rtol=1e-5)


@each_engine
def test_actions_that_do_not_exist_are_not_drawn(xp: Any) -> None:
    """Random numbers close to 1 may be rounded to 1."""
    space = spaces.MultiDiscrete([2, 7])
    distribution = make_distribution(space)
    outputs = outputs_of(distribution, 20)
    draws = np.ones((20, 2), np.float32)
    array = th.as_tensor if xp is th else np.asarray
    actions = distribution.sample(xp, distribution.parameters(xp, array(outputs)), array(draws))
    assert (np.asarray(actions) < space.nvec).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@each_action_space
def test_outputs_that_are_no_distribution_are_refused(action_space: spaces.Space, value: float) -> None:
    distribution = make_distribution(action_space)
    for n_rows in (1, 20):
        outputs = outputs_of(distribution, n_rows)
        outputs[-1, 0] = value
        with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="outputs are infinite or NaN"):
            distribution.act(np, outputs, distribution.draw(np.random.default_rng(0), n_rows))


@each_engine
@each_action_space
def test_mean_of_passes_averages_probabilities(action_space: spaces.Space, xp: Any) -> None:
    """Each component's probabilities are averaged. For continuous actions, means and log standard deviations are."""
    distribution = make_distribution(action_space)
    outputs = outputs_of(distribution, 3 * 4, spread=2.0)
    parameters = distribution.parameters(xp, outputs if xp is np else th.as_tensor(outputs))
    mean: Any = distribution.to_sb3(th.as_tensor(distribution.mean(xp, parameters, 3))).distribution
    passes: list[Any] = [of_sb3(action_space, part).distribution for part in np.split(outputs, 3)]

    def average(values: list[th.Tensor]) -> th.Tensor:
        return th.stack(values).mean(0)

    if isinstance(action_space, spaces.Box):
        th.testing.assert_close(mean.mean, average([one.mean for one in passes]))
        th.testing.assert_close(mean.stddev.log(), average([one.stddev.log() for one in passes]))
    elif isinstance(action_space, spaces.MultiDiscrete):
        for place, component in enumerate(mean):
            th.testing.assert_close(component.probs, average([one[place].probs for one in passes]))
    else:
        th.testing.assert_close(mean.probs, average([one.probs for one in passes]))


@pytest.mark.parametrize(
    ("space", "logits", "unlikely", "log_prob"),
    [(spaces.Discrete(2), [0, 150], [0], -150), (spaces.MultiBinary(2), [-60, 60], [[1.0, 0.0]], -120)],
    ids=["Discrete", "MultiBinary"],
)
def test_mean_of_passes_is_right_where_the_policy_is_certain(
    space: spaces.Space, logits: Any, unlikely: Any, log_prob: float
) -> None:
    distribution = make_distribution(space)
    outputs = np.array([logits] * 3, np.float32)
    mean = distribution.mean(np, distribution.parameters(np, outputs), 3)
    assert distribution.log_prob(np, mean, np.array(unlikely)) == pytest.approx(log_prob, rel=1e-4)


class Hotter(Categorical):
    """A distribution whose logits are divided by a temperature."""

    def parameters(self, xp: Any, outputs_BP: Any) -> Any:
        return super().parameters(xp, outputs_BP / 4)


class HotterPolicy(NoisyPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.action_dist = Hotter(self.action_space)  # type: ignore[arg-type]


@pytest.mark.parametrize("n_rows", [1, 9])
@pytest.mark.parametrize("n_baseline_passes", [None, 2])
def test_a_distribution_of_your_own_is_used_everywhere(n_baseline_passes: int | None, n_rows: int) -> None:
    """In NumPy and PyTorch, also for batches that are small enough for Python's floats."""
    policy = make_policy(policy_class=HotterPolicy, n_baseline_passes=n_baseline_passes)
    obs = np.random.default_rng(0).normal(size=(n_rows, 5)).astype(np.float32)
    for engine in (policy, in_torch(policy)):
        th.manual_seed(0)
        actions, log_probs, _ = engine.act(obs, np.full((n_rows, 1), 0.5))
        th.manual_seed(0)
        noise = policy.sample_noise(2 * n_rows)
        rows, noise = (np.concatenate([obs] * 2), noise) if n_baseline_passes else (obs, None)
        with th.no_grad():
            outputs = policy.actor.run(
                th, th.as_tensor(rows), None if noise is None else th.as_tensor(noise[:, policy.parts[0].nodes])
            )[0]
            hot = (outputs / 4).softmax(1).reshape(-1, n_rows, 3).mean(0)
        np.testing.assert_allclose(log_probs, hot.log()[np.arange(n_rows), actions], rtol=1e-4, atol=1e-5)
