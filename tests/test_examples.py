"""Short runs of all examples print the expected text and write the expected files."""

import pathlib
import re
import runpy
import sys
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env

from sb3_nrl import Noise, ThreeFactorAlgorithm
from sb3_nrl.updates import Update
from tests.envs import ScriptedEnv

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
PNG = b"\x89PNG"
CASES = [
    (
        "demo.py",
        ["--timesteps", "2000"],
        r"mean return over 20 evaluation episodes: [\d.]+ before training, [\d.]+ after it",
        ["runs/demo/learning_curve.png", "runs/demo/tensorboard/NRL_1/events.*"],
    ),
    (
        "train_and_evaluate.py",
        ["--timesteps", "1000"],
        r"(?s)before training, ([\d.]+) ± [\d.]+ after it.*[\d.]+ with the model loaded from runs.nrl_cartpole\.zip",
        ["runs/nrl_cartpole.zip"],
    ),
    (
        "compare_algorithms.py",
        ["--timesteps", "500", "--seeds", "0", "1"],
        r"(?s)NRL, seed 0: .*RMHL, seed 1: .*BPTT, seed 1: [\d.]+ over the last 50 episodes",
        ["runs/compare_algorithms.png"],
    ),
    (
        "custom_network.py",
        ["--timesteps", "12000"],
        # The bar is found more often than by chance: three digits, or 60 % and more.
        r"right guesses: [\d]+% before training, (100|[6-9]\d)% after it",
        [],
    ),
    (
        "delayed_nonmatch.py",
        ["--trials", "100"],
        # Half is chance.
        r"seed 0: 95 % right after more trials; [67]\d\.\d% of the last 200 right",
        [],
    ),
    (
        "inspect_memory.py",
        ["--timesteps", "2000", "--trials", "40"],
        r"right choices in 40 trials: \d+%",
        [f"runs/inspect_memory/{name}" for name in ("model.zip", "activity.png", "units.png", "weights.png")],
    ),
    (
        "neurogym_task.py",
        ["--timesteps", "1000"],
        r"mean reward of a trial: -?[\d.]+ before training, -?[\d.]+ after it",
        ["runs/trial.png"],
    ),
    (
        "noisy_hardware.py",
        ["--timesteps", "300"],
        r"(?s) 2 noisy passes: mean return [\d.]+ before.*10 noisy passes: mean return [\d.]+ before",
        [],
    ),
    (
        "spiking.py",
        ["--timesteps", "2000"],
        r"(?s)mean return of 20 episodes: \d+ ± \d+.*a decision takes \d+ spikes.* 384 multiply-accumulates",
        ["runs/spiking/raster.png", "runs/spiking/policy.nir"],
    ),
    (
        "spiking_hardware.py",
        ["--timesteps", "300", "--on-chip", "300"],
        r"(?s)ideal neurons: mean return \d+.*4 bits: mean return \d+ after the move, \d+ after NRL on the chip",
        [],
    ),
    (
        "tensorboard_and_resume.py",
        ["--timesteps", "2000"],
        r"2000 steps so far",
        ["runs/resume/nrl_2000_steps.zip", "runs/resume/NRL_1/events.*"],
    ),
    (
        "your_own_rule.py",
        ["--timesteps", "30000"],
        # A random policy reaches 22, and none that ignores the state 100.
        r"mean return over 20 episodes: \d?\d\.\d before training, [1-5]\d\d\.\d after it",
        [],
    ),
]

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an example in its own folder, and returns its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")

    def run_example(script: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    return run_example


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:rich is experimental")
@pytest.mark.parametrize(("script", "arguments", "says", "leaves"), CASES, ids=[case[0] for case in CASES])
def test_example(
    script: str, arguments: list[str], says: str, leaves: list[str], tmp_path: pathlib.Path, run: Run
) -> None:
    output = run(script, *arguments)
    assert re.search(says, output), output
    for pattern in leaves:
        (path,) = tmp_path.glob(pattern)
        if path.suffix == ".png":
            assert path.read_bytes()[:4] == PNG


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {case[0] for case in CASES}


def test_resumes_from_the_last_checkpoint(run: Run) -> None:
    run("tensorboard_and_resume.py", "--timesteps", "1000")
    output = run("tensorboard_and_resume.py", "--timesteps", "1000")
    assert f"resuming from {pathlib.Path('runs/resume/nrl_1000_steps.zip')}, after 1000 steps" in output
    assert "2000 steps so far" in output


def test_rule_of_ones_own_is_what_it_says() -> None:
    """
    Its traces and weighted sums, over the ends of episodes and of windows, are those of a computation step by step:
    each synapse adds (x̃ · (h − h̄))³ to its trace, h̄ ← s h̄ + (1 − s) h.
    """
    rule_class: Any = runpy.run_path(str(EXAMPLES / "your_own_rule.py"))["CubedFluctuations"]
    smoothing, decay, n_envs = 0.9, 0.8, 2
    model = ThreeFactorAlgorithm(
        "MlpPolicy",
        make_vec_env(lambda: ScriptedEnv([5, 7]), n_envs, seed=0),
        rule=rule_class(Noise(0.5), smoothing=smoothing),
        learning_rate=0.0,  # so that weights are the same throughout
        n_steps=4,
        gamma=0.9,
        trace_decay=decay,
        vf_coef=1.0,
        norm_obs=False,
        norm_reward=False,
        policy_kwargs={"net_arch": [3], "head_gain": 1.0},
        seed=0,
        device="cpu",
    )
    updates: list[tuple[Update, np.ndarray]] = []

    def watch(update: Update) -> None:
        updates.append(deepcopy((update, np.array(model.traces.trace_EW))))

    model.watchers.append(watch)
    model.learn(3 * 4 * n_envs)
    assert len(updates) == 3 and any(update.window.dones_TE[:-1].any() for update, _ in updates)

    layers = [
        [
            *(
                (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy(), layer is network.head)
                for layer in (*network.hidden, network.head)
            )
        ]
        for network in model.policy.networks
    ]
    average: Any = np.zeros((n_envs, model.policy.n_nodes))
    trace = np.zeros((n_envs, model.policy.n_weights))
    for update, trace_EW in updates:
        window, errors = update.window, update.errors.errors_TE
        obs = window.observations.reshape(4, n_envs, -1).astype(float)
        noise: Any = window.noise
        noise = noise.reshape(4, n_envs, -1).astype(float)
        change = np.zeros(model.policy.n_weights)
        for t in range(4):
            for env in range(n_envs):
                parts, node = [], 0
                for network_layers in layers:
                    x = obs[t, env]
                    for weight, bias, is_head in network_layers:
                        h = weight @ x + bias + noise[t, env, node : node + len(bias)]
                        fluctuation = h - average[env, node : node + len(h)]
                        average[env, node : node + len(h)] += (1 - smoothing) * fluctuation
                        parts += [np.outer(fluctuation, x).ravel() ** 3, fluctuation**3]
                        x = h if is_head else np.tanh(h)
                        node += len(h)
                trace[env] = decay * trace[env] + np.concatenate(parts)
                change += errors[t, env] * trace[env]
                if window.dones_TE[t, env]:
                    trace[env] = 0
        np.testing.assert_allclose(update.change_W, change, rtol=1e-3, atol=1e-5 * np.abs(change).max())
        np.testing.assert_allclose(trace_EW, trace, rtol=1e-3, atol=1e-5 * np.abs(trace).max())
