"""Folding many steps at once gives what a trace updated at every step would give, and credit goes where it is due."""

from functools import partial
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_nrl import BPTT, NRL, PAPER, RMHL
from sb3_nrl.reward_modulated import RewardModulatedAlgorithm
from tests import reference
from tests.envs import Algorithm, ClockEnv, ScriptedEnv, arguments

LENGTHS = ([3, 5, 4, 9], [7, 2, 6], [11, 1, 8])


def make(algorithm: Algorithm, env: gymnasium.Env | VecEnv, **settings: Any) -> Any:
    return algorithm("MlpPolicy", env, **arguments(algorithm, "average", **settings))


class Recorder(BaseCallback):
    """Keeps what happened at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[reference.Step] = []

    def _on_step(self) -> bool:
        self.steps.append({name: self.locals[name].copy() for name in ("obs", "actions", "rewards", "dones")})
        return True


def scripted(n_envs: int) -> VecEnv:
    # Paid in the middle of an episode and at some ends.
    return DummyVecEnv([partial(ScriptedEnv, LENGTHS[i], pay_at=(1, 2, 6), payment=2.0) for i in range(n_envs)])


def record_noise(model: RewardModulatedAlgorithm) -> list[np.ndarray]:
    """The noise of each step, shape (E, S, N), filled in as the model draws it."""
    drawn: list[np.ndarray] = []
    draw = model.policy.sample_noise

    def sample_noise(n_rows: int, n_samples: int = 1) -> th.Tensor:
        noise = draw(n_rows, n_samples)
        noise_STEN = noise.view(n_samples, -1, model.n_envs, noise.shape[1])
        drawn.extend(noise_STEN.permute(1, 2, 0, 3).clone().numpy())
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
@pytest.mark.parametrize(("n_envs", "n_steps"), [(1, 128), (1, 4), (3, 128), (3, 4)])
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [*((NRL, case) for case in NRL_CASES), (RMHL, {}), (BPTT, {})],
    ids=lambda value: value.__name__ if isinstance(value, type) else ",".join(map(str, value.values())),
)
def test_learning_equals_step_by_step_learning(
    algorithm: Algorithm,
    settings: dict[str, Any],
    n_envs: int,
    n_steps: int,
    timing: str,
    decay: float,
) -> None:
    if algorithm is not BPTT:
        settings = {"noise_std": 0.1, **settings}
    model = make(
        algorithm,
        scripted(n_envs),
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
    drawn = record_noise(model)
    recorder = Recorder()
    model.learn(45 * n_envs, recorder)

    # Steps that still wait for a reward changed nothing.
    n_folded = 45 if algorithm is RMHL else len(drawn)
    if algorithm is BPTT:
        n_folded = 45
        drawn = [np.zeros((n_envs, 1, 1))] * 45
    if settings.get("antithetic"):
        drawn = [np.concatenate((noise, -noise), axis=1) for noise in drawn]
    addends: dict[type, Any] = {
        NRL: reference.nrl_trace(settings.get("noise_normalization", ""), settings.get("antithetic", False)),
        RMHL: reference.rmhl_trace,
        BPTT: reference.bptt_trace,
    }
    expected = reference.train(
        before, recorder.steps[:n_folded], drawn[:n_folded], addends[algorithm], timing, decay, 0.02, 0.4, True
    )
    moved = 0.0
    for weight, start, wanted in zip(model.policy.parameters(), before, expected, strict=True):
        change, wanted_change = weight.detach().double() - start, wanted - start
        moved += wanted_change.norm().item()
        assert (change - wanted_change).norm().item() < 2e-4 * max(wanted_change.norm().item(), 1e-3)
    assert model._n_updates > 5
    assert moved > 1e-3


def test_papers_arguments_are_equations_13_to_17() -> None:
    """Two episodes in NumPy: ξ is added to each layer, ρ = log π̃ - log π, e = Σ ρ ξ / ‖ξ‖² ⊗ x̃, W ← W + η δ e."""
    model = NRL("MlpPolicy", ScriptedEnv([6, 9]), seed=1, device="cpu", **PAPER["NRL"])
    hidden, head = before = [weight.detach().numpy().astype(float) for weight in model.policy.parameters()]
    noise, recorder = record_noise(model), Recorder()
    model.learn(6 + 9, recorder)
    after = [weight.detach().numpy() for weight in model.policy.parameters()]

    def forward(x: np.ndarray, xi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the head received, and log π of all actions."""
        h = hidden @ x + xi[:64]
        y = np.where(h > 0, h, 0.1 * h)
        logits = head @ y + xi[64:]
        return y, logits - np.log(np.exp(logits).sum())

    traces = [np.zeros_like(weight) for weight in before]
    for step, xi_ESN in zip(recorder.steps[6:], noise[6:], strict=True):
        x, action, xi = step["obs"][0].astype(float), step["actions"][0], xi_ESN[0, 0].astype(float)
        y, noisy = forward(x, xi)
        rho = noisy[action] - forward(x, np.zeros_like(xi))[1][action]
        for trace, part, received in zip(traces, (xi[:64], xi[64:]), (x, y), strict=True):
            trace += rho * np.outer(part, received) / (xi @ xi)
    first, second = (sum(step["rewards"][0] for step in part) for part in (recorder.steps[:6], recorder.steps[6:]))
    delta = (second - first) / second  # the running average is the first return
    assert delta != 0
    assert model.reward_predictor is not None
    assert model.reward_predictor.average[0] == pytest.approx(first + 0.66 * (second - first))
    for start, end, trace in zip(before, after, traces, strict=True):
        change = 5e-2 * delta * trace
        assert np.linalg.norm(change) > 1e-4
        assert np.linalg.norm(end - start - change) < 0.01 * np.linalg.norm(change)


@pytest.mark.parametrize("algorithm", [NRL, RMHL, BPTT])
def test_only_steps_since_the_last_reward_are_credited(algorithm: Algorithm) -> None:
    """With one input per time step and no hidden layer, a synapse column moves if and only if its step is credited."""
    rewards = [0, 0, 1, 0, 0, 0, -1, 0, 0, 0]
    columns = []

    class Columns(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            columns.append(model.policy.action_net.weight.detach().clone())

    model = make(
        algorithm,
        ClockEnv([rewards]),
        reward_timing="nonzero",
        scale_rpe=False,
        seed=0,
        policy_kwargs={"net_arch": []},
    )
    model.learn(21, Columns())
    moved = [(after - before).abs().sum(0).nonzero().flatten().tolist() for before, after in pairwise(columns)]
    # Reward times of two episodes, and one more step; r̄ starts as the first reward.
    assert moved == [[], [3, 4, 5, 6], [7, 8, 9], [0, 1, 2], [3, 4, 5, 6], [7, 8, 9]]


def test_decay_weights_credit_by_age() -> None:
    decay = 0.7
    model = make(
        BPTT,
        ClockEnv([[0, 0, 0, 0, 1], [0, 0, 0, 0, 2]]),
        trace_decay=decay,
        scale_rpe=False,
        seed=0,
        n_steps=2,
        policy_kwargs={"net_arch": []},
    )
    model.policy.action_net.weight.data.zero_()  # both actions as likely as each other, so that all credit is as large
    model.learn(10)
    credit = model.policy.action_net.weight.detach().abs().sum(0)
    np.testing.assert_allclose(credit / credit[-1], decay ** np.arange(4, -1, -1), rtol=1e-5)


@pytest.mark.parametrize("algorithm", [NRL, RMHL, BPTT])
def test_nothing_leaks_between_environments(algorithm: Algorithm) -> None:
    """The first environment always pays the same, so only what the second one saw may change."""
    environments: list[Any] = [
        lambda: ClockEnv([[0, 0, 1]], n_inputs=7),
        lambda: ClockEnv([[0, 0, 0, 1], [0, 0, 0, 3]], n_inputs=7, offset=3),
    ]
    model = make(algorithm, DummyVecEnv(environments), scale_rpe=False, seed=0, policy_kwargs={"net_arch": []})
    before = model.policy.action_net.weight.detach().clone()
    model.learn(2 * 24)
    moved = (model.policy.action_net.weight.detach() - before).abs().sum(0)
    assert (moved[:3] == 0).all()
    assert (moved[3:] > 0).all()


@pytest.mark.parametrize("algorithm", [NRL, RMHL, BPTT])
def test_memory_does_not_grow_with_the_episode(algorithm: Algorithm) -> None:
    class Waiting(BaseCallback):
        most = 0

        def _on_step(self) -> bool:
            self.most = max(self.most, model.rollout_buffer.pos)
            return True

    env = gymnasium.wrappers.TimeLimit(ScriptedEnv([10**9]), 300)
    model = make(algorithm, env, n_steps=32, seed=0)
    waiting = Waiting()
    model.learn(301, waiting)
    assert waiting.most == 31
    assert all(len(rows) == 32 for rows in model.rollout_buffer._rows.values())
