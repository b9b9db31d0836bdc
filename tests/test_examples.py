"""The examples run as a user runs them, for a short time, and leave what they say they leave."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
PNG = b"\x89PNG"
CASES = [
    (
        "demo.py",
        ["--timesteps", "3000"],
        r"mean return over 20 evaluation episodes: [\d.]+ before training, [\d.]+ after it",
        ["runs/demo/learning_curve.png", "runs/demo/tensorboard/NRL_1/events.*"],
    ),
    (
        "train_and_evaluate.py",
        ["--timesteps", "2000"],
        r"[\d.]+ with the model loaded from runs.nrl_cartpole\.zip",
        ["runs/nrl_cartpole.zip"],
    ),
    (
        "compare_algorithms.py",
        ["--timesteps", "1000", "--seeds", "0", "1"],
        r"NRL, seed 0: .*(.|\n)*RMHL, seed 1: .*(.|\n)*BPTT, seed 1: [\d.]+ over the last 50 episodes",
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
        "neurogym_task.py",
        ["--timesteps", "2000"],
        r"mean reward of a trial: -?[\d.]+ before training, -?[\d.]+ after it",
        ["runs/trial.png"],
    ),
    (
        "noisy_hardware.py",
        ["--timesteps", "500"],
        r" 2 noisy passes: mean return [\d.]+ before(.|\n)*10 noisy passes: mean return [\d.]+ before",
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
        ["--timesteps", "60000"],
        r"mean return over 20 episodes: [\d.]+ before training, [2-5]\d\d\.\d after it",
        [],
    ),
]


def run(script: str, arguments: list[str], folder: pathlib.Path) -> str:
    environment = {**os.environ, "MPLBACKEND": "agg"}
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.parametrize(("script", "arguments", "says", "leaves"), CASES, ids=[case[0] for case in CASES])
def test_example(script: str, arguments: list[str], says: str, leaves: list[str], tmp_path: pathlib.Path) -> None:
    output = run(script, arguments, tmp_path)
    assert re.search(says, output), output
    for pattern in leaves:
        (path,) = tmp_path.glob(pattern)
        if path.suffix == ".png":
            assert path.read_bytes()[:4] == PNG


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {case[0] for case in CASES}


def test_resumes_from_the_last_checkpoint(tmp_path: pathlib.Path) -> None:
    run("tensorboard_and_resume.py", ["--timesteps", "1000"], tmp_path)
    output = run("tensorboard_and_resume.py", ["--timesteps", "1000"], tmp_path)
    assert "going on from runs/resume/nrl_1000_steps.zip, after 1000 steps" in output
    assert "2000 steps so far" in output
