"""Traces that are updated once per window equal traces that are updated at every step."""

from functools import partial
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_nrl import BPTT, NRL, PAPER, RMHL, Eligibility, ThreeFactorAlgorithm
from sb3_nrl.bptt import ExactGradient
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.traces import EligibilityTraces
from tests import reference
from tests.conftest import each_algorithm, make_model, weights
from tests.envs import ClockEnv, ScriptedEnv

LENGTHS = ([3, 5, 4, 9], [7, 2, 6], [11, 1, 8])


class Known:
    """Eligibilities that are given step by step."""

    def __init__(self, g_TEW: np.ndarray) -> None:
        self.g_TEW = g_TEW

    def weighted_sum(self, weights_TE: np.ndarray, per_env: bool = False) -> np.ndarray:
        return np.einsum("te,tew->ew" if per_env else "te,tew->w", weights_TE, self.g_TEW)


@pytest.mark.parametrize("decay", [1.0, 0.8, 0.0])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("p_error", [1.0, 0.2])
@pytest.mark.parametrize("lengths", [[40], [1] * 40, [7, 1, 15, 2, 15]], ids=["whole", "steps", "parts"])
def test_windows_give_what_single_steps_give(lengths: list[int], p_error: float, n_envs: int, decay: float) -> None:
    """trace ← decay · trace + g, change ← change + δ · trace, and a new trace after some steps; 40 steps in all."""
    generator = np.random.default_rng(0)
    errors_TE = generator.normal(size=(40, n_envs)) * (generator.random((40, n_envs)) < p_error)
    restarts_TE = generator.random((40, n_envs)) < 0.2
    g_TEW = generator.normal(size=(40, n_envs, 6))

    traces, trace_EW, start = EligibilityTraces(), np.zeros((n_envs, 6)), 0
    for length in lengths:
        expected_W = np.zeros(6)
        for step in range(start, start + length):
            met = errors_TE[step].astype(bool) | restarts_TE[step]
            trace_EW = decay * trace_EW + g_TEW[step]
            expected_W += errors_TE[step] @ trace_EW
            norm = np.sqrt((trace_EW[met] ** 2).sum() / max(met.sum(), 1))
            trace_EW[restarts_TE[step]] = 0
        steps = slice(start, start + length)
        update = traces.update(Known(g_TEW[steps]), errors_TE[steps], restarts_TE[steps], decay)
        # Weights pass through single precision.
        np.testing.assert_allclose(update.change_W, expected_W, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.asarray(traces.trace_EW), trace_EW, rtol=1e-4, atol=1e-5)
        assert update.trace_norm == pytest.approx(norm, rel=1e-4)
        start += length
    traces.reset()
    assert not traces.update(Known(0 * g_TEW[:1]), errors_TE[:1], restarts_TE[:1], decay).change_W.any()


class CostlyGradient(ExactGradient):
    """A rule with so many passes per step that the algorithm cuts windows into two steps each. It counts its calls."""

    def __init__(self, n_nodes: int) -> None:
        self.n_passes = 2**20 // (2 * n_nodes)
        self.calls: list[tuple[int, Any]] = []

    def eligibility(self, policy: Any, window: RolloutWindow, carry: Any) -> tuple[Eligibility, Any]:
        self.calls.append((window.n_steps, carry))
        return super().eligibility(policy, window, carry)[0], (carry or 0) + 1


@pytest.mark.parametrize("rule", ["critic", "average"])
def test_windows_cut_into_batches_give_the_same_weights(rule: str) -> None:
    settings: dict[str, Any] = {"n_envs": 3, "n_steps": 7, "learning_rate": 0.05}
    whole, cut = (make_model(BPTT, [5, 3, 8], rule, **settings) for _ in range(2))
    cut.rule = costly = CostlyGradient(3 * whole.policy.n_nodes)
    before = weights(whole)
    for model in (whole, cut):
        model.learn(3 * 70)
    assert np.abs(weights(whole) - before).max() > 0.01
    np.testing.assert_allclose(weights(cut), weights(whole), rtol=1e-3, atol=1e-5)
    assert max(length for length, _ in costly.calls) == 2
    assert [carry for _, carry in costly.calls] == [None, *range(1, len(costly.calls))]
    if rule == "critic":
        assert [length for length, _ in costly.calls] == [2, 2, 2, 1] * 10


class Recorder(BaseCallback):
    """Stores the observations, actions, rewards and ends of episodes at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[reference.Step] = []

    def _on_step(self) -> bool:
        self.steps.append({name: self.locals[name].copy() for name in ("obs", "actions", "rewards", "dones")})
        return True


def scripted(n_envs: int) -> VecEnv:
    # Paid in the middle of an episode and at some ends.
    return DummyVecEnv([partial(ScriptedEnv, LENGTHS[i], pay_at=(1, 2, 6), payment=2.0) for i in range(n_envs)])


def record_noise(model: ThreeFactorAlgorithm) -> list[np.ndarray]:
    """The noise of each step, shape (E, K, N), filled in as the model draws it."""
    drawn: list[np.ndarray] = []
    draw = model.policy.sample_noise

    def sample_noise(n_rows: int, n_samples: int = 1) -> np.ndarray:
        noise = draw(n_rows, n_samples)
        noise_KTEN = noise.reshape(n_samples, -1, model.n_envs, noise.shape[1])
        drawn.extend(noise_KTEN.transpose(1, 2, 0, 3).copy())
        return noise

    model.policy.sample_noise = sample_noise  # type: ignore[method-assign]
    return drawn


NRL_CASES: list[Any] = [
    {"noise_normalization": "network", "n_noise_samples": 1, "antithetic": False},
    {"noise_normalization": "layer", "n_noise_samples": 1, "antithetic": False},
    {"noise_normalization": "unbiased", "n_noise_samples": 3, "antithetic": False},
    {"noise_normalization": "network", "n_noise_samples": 2, "antithetic": True},
    {"noise_normalization": "unbiased", "n_noise_samples": 1, "antithetic": True, "noise_distribution": "poisson"},
]


@pytest.mark.parametrize(("timing", "decay"), [("episode", 1.0), ("episode", 0.8), ("nonzero", 0.8), ("step", 1.0)])
@pytest.mark.parametrize(("n_envs", "n_steps"), [(1, 128), (3, 4)])
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [*((NRL, case) for case in NRL_CASES), (RMHL, {}), (BPTT, {})],
    ids=lambda value: value.__name__ if isinstance(value, type) else ",".join(map(str, value.values())),
)
def test_learning_equals_step_by_step_learning(
    algorithm: type[ThreeFactorAlgorithm],
    settings: dict[str, Any],
    n_envs: int,
    n_steps: int,
    timing: str,
    decay: float,
) -> None:
    if algorithm is not BPTT:
        settings = {"noise_std": 0.1, **settings}
    model = make_model(
        algorithm,
        scripted(n_envs),
        "average",
        learning_rate=0.02,
        n_steps=n_steps,
        reward_timing=timing,
        reward_smoothing=0.4,
        scale_rpe=True,
        trace_decay=decay,
        seed=3,
        policy_kwargs={"net_arch": [6, 5]},
        **settings,
    )
    before = [weight.detach().clone() for weight in model.policy.parameters()]
    drawn, recorder = record_noise(model), Recorder()
    model.learn(45 * n_envs, recorder)

    # Steps that still wait for a reward changed nothing. BPTT draws no noise, RMHL at each step, NRL with an update.
    n_learned = len(drawn) if algorithm is NRL else 45
    if algorithm is BPTT:
        drawn = [np.zeros((n_envs, 1, 1))] * 45
    if settings.get("antithetic"):
        drawn = [np.concatenate((noise, -noise), axis=1) for noise in drawn]
    addends: dict[type, Any] = {
        NRL: reference.nrl_trace(settings.get("noise_normalization", ""), settings.get("antithetic", False)),
        RMHL: reference.rmhl_trace,
        BPTT: reference.bptt_trace,
    }
    expected = reference.train(
        before, recorder.steps[:n_learned], drawn[:n_learned], addends[algorithm], timing, decay, 0.02, 0.4, True
    )
    moved = 0.0
    for weight, start, wanted in zip(model.policy.parameters(), before, expected, strict=True):
        change, wanted_change = weight.detach().double() - start, wanted - start
        moved += wanted_change.norm().item()
        assert (change - wanted_change).norm().item() < 2e-4 * max(wanted_change.norm().item(), 1e-3)
    assert moved > 1e-3


def test_papers_arguments_are_equations_13_to_17() -> None:
    """Two episodes in NumPy: ξ is added to each layer, ρ = log π̃ - log π, e = Σ ρ ξ / ‖ξ‖² ⊗ x̃, W ← W + η δ e."""
    model = NRL("MlpPolicy", ScriptedEnv([6, 9]), seed=1, device="cpu", **PAPER["NRL"])
    hidden, head = before = [weight.detach().numpy().astype(float) for weight in model.policy.parameters()]
    noise, recorder = record_noise(model), Recorder()
    model.learn(6 + 9, recorder)
    after = [weight.detach().numpy() for weight in model.policy.parameters()]

    def forward(x: np.ndarray, xi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The input of the head, and log π of all actions."""
        h = hidden @ x + xi[:64]
        y = np.where(h > 0, h, 0.1 * h)
        logits = head @ y + xi[64:]
        return y, logits - np.log(np.exp(logits).sum())

    traces = [np.zeros_like(weight) for weight in before]
    for step, xi_EKN in zip(recorder.steps[6:], noise[6:], strict=True):
        x, action, xi = step["obs"][0].astype(float), step["actions"][0], xi_EKN[0, 0].astype(float)
        y, noisy = forward(x, xi)
        rho = noisy[action] - forward(x, np.zeros_like(xi))[1][action]
        for trace, part, received in zip(traces, (xi[:64], xi[64:]), (x, y), strict=True):
            trace += rho * np.outer(part, received) / (xi @ xi)
    first, second = (sum(step["rewards"][0] for step in part) for part in (recorder.steps[:6], recorder.steps[6:]))
    delta = (second - first) / second  # the running average is the first return
    assert delta != 0
    for start, end, trace in zip(before, after, traces, strict=True):
        change = 5e-2 * delta * trace
        assert np.linalg.norm(change) > 1e-4
        assert np.linalg.norm(end - start - change) < 0.01 * np.linalg.norm(change)


@each_algorithm
def test_only_steps_since_the_last_reward_are_credited(algorithm: type[ThreeFactorAlgorithm]) -> None:
    """With one input per time step and no hidden layer, a synapse column moves if and only if its step is credited."""
    rewards = [0, 0, 1, 0, 0, 0, -1, 0, 0, 0]
    columns = []

    class Columns(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            columns.append(model.policy.actor.head.weight.detach().clone())

    model = make_model(
        algorithm,
        ClockEnv([rewards]),
        "average",
        reward_timing="nonzero",
        scale_rpe=False,
        policy_kwargs={"net_arch": []},
    )
    model.learn(21, Columns())
    moved = [(after - before).abs().sum(0).nonzero().flatten().tolist() for before, after in pairwise(columns)]
    # Reward times of two episodes, and one more step; r̄ starts as the first reward.
    assert moved == [[], [3, 4, 5, 6], [7, 8, 9], [0, 1, 2], [3, 4, 5, 6], [7, 8, 9]]


def test_decay_weights_credit_by_age() -> None:
    decay = 0.7
    model = make_model(
        BPTT,
        ClockEnv([[0, 0, 0, 0, 1], [0, 0, 0, 0, 2]]),
        "average",
        trace_decay=decay,
        scale_rpe=False,
        n_steps=2,
        policy_kwargs={"net_arch": []},
    )
    head = model.policy.actor.head
    head.weight.data.zero_()  # both actions as likely as each other, so that all credit is as large
    model.learn(10)
    credit = head.weight.detach().abs().sum(0)
    np.testing.assert_allclose(credit / credit[-1], decay ** np.arange(4, -1, -1), rtol=1e-5)


@each_algorithm
def test_nothing_leaks_between_environments(algorithm: type[ThreeFactorAlgorithm]) -> None:
    """The first environment's rewards are constant, so only weights of the second one's observations may change."""
    environments: list[Any] = [
        lambda: ClockEnv([[0, 0, 1]], n_inputs=7),
        lambda: ClockEnv([[0, 0, 0, 1], [0, 0, 0, 3]], n_inputs=7, offset=3),
    ]
    envs = DummyVecEnv(environments)
    model = make_model(algorithm, envs, "average", scale_rpe=False, policy_kwargs={"net_arch": []})
    before = model.policy.actor.head.weight.detach().clone()
    model.learn(2 * 24)
    moved = (model.policy.actor.head.weight.detach() - before).abs().sum(0)
    assert (moved[:3] == 0).all()
    assert (moved[3:] > 0).all()


@each_algorithm
def test_a_window_bounds_the_steps_that_wait(algorithm: type[ThreeFactorAlgorithm]) -> None:
    waiting = []

    def watch(*_: Any) -> bool:
        waiting.append(model.rollout_buffer.pos)
        return True

    model = make_model(algorithm, gymnasium.wrappers.TimeLimit(ScriptedEnv([10**9]), 300), "average", n_steps=32)
    model.learn(301, watch)
    assert waiting == [*range(1, 33)] * 9 + [*range(1, 13), 1]


def test_arrays_of_an_eligibility_do_not_become_the_traces() -> None:
    kept: list[np.ndarray] = []

    class Keeping(Known):
        def weighted_sum(self, weights_TE: np.ndarray, per_env: bool = False) -> np.ndarray:
            kept.append(super().weighted_sum(weights_TE, per_env))
            return kept[-1]

    traces, ones = EligibilityTraces(), np.ones((1, 2))
    for _ in range(2):
        traces.update(Keeping(np.ones((1, 2, 3))), ones, ones == 0, 0.5)
    assert all((array == 1).all() for array in kept)
    np.testing.assert_array_equal(np.asarray(traces.trace_EW), np.full((2, 3), 1.5))


def test_sums_of_a_wrong_shape_are_named() -> None:
    class OneForEachEnvironment(Known):
        def weighted_sum(self, weights_TE: np.ndarray, per_env: bool = False) -> np.ndarray:
            return super().weighted_sum(weights_TE, True)

    with pytest.raises(ValueError, match=r"rule's weighted_sum=\(2, 3\): must be \(3,\), a number for each weight"):
        EligibilityTraces().update(
            OneForEachEnvironment(np.ones((2, 2, 3))), np.ones((2, 2)), np.zeros((2, 2), bool), 0.5
        )
