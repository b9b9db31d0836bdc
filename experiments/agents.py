"""
Train an agent for each entry of the configs: the folder ``trained_agents``, for ``sb3-nrl enjoy -f trained_agents``.

Each agent is from seed 0, with the files that the RL Zoo needs to show it. The table has its mean return over 100
episodes with the most likely actions. Film strips show episodes; those of MuJoCo need OpenGL, and are drawn only if
``MUJOCO_GL`` is set, for example to ``egl``. To publish agents, copy ``runs/agents/*.csv`` to ``results/agents`` and
``runs/agents/models`` to ``trained_agents``.
"""

import functools
import hashlib
import importlib
import os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from experiments import mujoco, tables
from experiments.execution import command_line, results_of
from experiments.learning import GOALS, load, trained
from experiments.runs import ROOT, Columns, Results, Run, write_whole
from sb3_nrl.zoo import ALGORITHMS

FOLDER = ROOT / "trained_agents"
DOCUMENT = tables.DOCS / "agents.md"
N_EPISODES = 100
N_FRAMES = 8
N_DIGITS = 12  # digits of a checksum that a result has
FILES = {algo: f"zoo_configs/{algo}.yml" for algo in ALGORITHMS} | {"spiking": "zoo_configs/spiking.yml"}
"""Configs whose agents are trained. Spiking agents have a folder of their own, since NRL is their algorithm too."""
RENDERED = [
    *((kind, task) for kind in ("nrl", "spiking") for task in GOALS if not task.startswith("neurogym/")),
    ("nrl", "CartPoleNoVel-v1"),
]
"""Agents whose episodes are drawn. NeuroGym's tasks have nothing to render."""
MUJOCO = [("nrl", task) for task in mujoco.TASKS]
"""Agents whose episodes are drawn if ``MUJOCO_GL`` says how: MuJoCo needs OpenGL."""
NO_TRACKING_CAMERA = ("InvertedDoublePendulum-v5", "Reacher-v5")
"""Tasks of MuJoCo without a camera that follows the body."""


def entries() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name of the config, task and hyper-parameters of each agent."""
    for kind, file in FILES.items():
        for task, entry in yaml.safe_load((ROOT / file).read_text()).items():
            if task != "default":
                yield kind, task, entry


def plan(out: pathlib.Path, seeds: Sequence[int]) -> list[Run]:
    """One agent for each entry and seed."""
    runs = []
    for kind, task, entry in entries():
        for seed in seeds:
            settings = {"kind": kind, "env": task, "config": entry, "seed": seed}
            measure = functools.partial(train, out / "models")
            name = f"{kind}_{task.replace('/', '-')}_{seed}"
            runs.append(Run(name, measure, settings, seed, entry["n_timesteps"] / 3_000, (kind, task)))
    return runs


def algorithm(kind: str) -> str:
    """The algorithm of a config."""
    return kind if kind in ALGORITHMS else "nrl"


def place(models: pathlib.Path, kind: str, task: str, seed: int) -> pathlib.Path:
    """The folder of an agent, as the RL Zoo names it."""
    logs = models if kind in ALGORITHMS else models / kind
    return logs / algorithm(kind) / f"{task.replace('/', '-')}_{seed + 1}"


def model_of(run: Run, models: pathlib.Path) -> pathlib.Path:
    """The file of an agent's model."""
    kind, task = run.of
    return place(models, kind, task, run.seed) / f"{task.replace('/', '-')}.zip"


def command(kind: str, task: str, seed: int) -> str:
    """The command that trains such an agent."""
    options = ["--algo", algorithm(kind), "--env", task, "--seed", str(seed), "--eval-freq", "-1"]
    return shlex.join(["sb3-nrl", "train", *options, *(["--conf-file", FILES[kind]] if kind not in ALGORITHMS else [])])


def train(models: pathlib.Path, settings: dict[str, Any]) -> Columns:
    """Train an agent, put it into its folder, and evaluate it."""
    kind, task, seed = settings["kind"], settings["env"], settings["seed"]
    folder = place(models, kind, task, seed)
    with trained(task, algorithm(kind), seed, settings["config"]) as (run, _):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run, folder, ignore=shutil.ignore_patterns("*.monitor.csv", "command.txt"))
    model, env = load(folder, task, algorithm(kind), 10_000 + seed)
    returns, _ = evaluate_policy(model, env, N_EPISODES, return_episode_rewards=True)
    digits = int(checksum(folder / f"{task.replace('/', '-')}.zip")[:N_DIGITS], 16)
    numbers = {"mean_return": np.mean(returns), "std_return": np.std(returns), "checksum": digits}
    return {"returns": np.array(returns), **{name: np.array(value, dtype=float) for name, value in numbers.items()}}


def checksum(model: pathlib.Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(model.read_bytes()).hexdigest()


def tabulate(results: Results, models: pathlib.Path) -> str:
    """
    A table with one row for each agent, in Markdown.

    :raises ValueError: If a model is not the one that was evaluated
    """
    rows = []
    for run, result in results.items():
        kind, task = run.of
        model = model_of(run, models)
        mean, std, digits = (float(result.columns[name]) for name in ("mean_return", "std_return", "checksum"))
        if int(checksum(model)[:N_DIGITS], 16) != int(digits):
            raise ValueError(f"{model} is not the model of {run.name}, which was evaluated")
        size = f"{model.stat().st_size / 1024:.0f}"
        rows.append(
            [kind, task, f"{tables.number(mean, 4)} ± {tables.number(std)}", size, f"`{command(kind, task, run.seed)}`"]
        )
    return tables.markdown(("config", "task", "return: mean ± standard deviation", "KiB", "trained by"), rows)


def steps(folder: pathlib.Path, task: str) -> Iterator[VecEnv]:
    """Play an episode, the same one at each call, and yield the environment before each step."""
    camera = {"camera_name": "track"} if task in mujoco.TASKS and task not in NO_TRACKING_CAMERA else {}
    model, env = load(folder, task, "nrl", 0, render_mode="rgb_array", **camera)
    obs, states, starts = env.reset(), None, np.zeros(1, bool)
    while not starts[0]:
        yield env
        actions, states = model.predict(obs, states, starts, deterministic=True)
        obs, _, starts, _ = env.step(actions)
    env.close()


def frames(folder: pathlib.Path, task: str) -> list[Any]:
    """Still frames of an episode at equal distances in time."""
    n_steps = sum(1 for _ in steps(folder, task))
    shown = np.linspace(0, n_steps - 1, N_FRAMES).round().astype(int).tolist()
    pictures = {step: env.render() for step, env in enumerate(steps(folder, task)) if step in shown}
    return [pictures[step] for step in shown]


def draw(shown: Sequence[Run], models: pathlib.Path) -> Figure:
    """A film strip of one episode of each of these agents."""
    figure = Figure(figsize=(1.25 * N_FRAMES, 1.0 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), N_FRAMES, squeeze=False)
    for run, row in zip(shown, rows, strict=True):
        kind, task = run.of
        for axes, frame in zip(row, frames(place(models, kind, task, run.seed), task), strict=True):
            axes.imshow(frame)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        label = task if kind == "nrl" else f"{task}\n({kind})"
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize="small")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then report everything."""
    parser = command_line(__doc__ or "", "agents", range(1), workers=1)
    chosen = parser.parse_args(arguments)
    results, status = results_of(parser, chosen, functools.partial(plan, chosen.out))
    models = FOLDER if chosen.out.resolve() == ROOT / "results" / "agents" else chosen.out / "models"
    tables.publish(tabulate(results, models), chosen.out, "agents", DOCUMENT)
    sums = sorted(f"{checksum(path)}  {path.relative_to(models)}\n" for path in models.rglob("*.zip"))
    write_whole(models / "SHA256SUMS", "".join(sums))
    for name, agents in {"episodes": RENDERED, "mujoco": MUJOCO if "MUJOCO_GL" in os.environ else []}.items():
        if shown := [run for run in results if run.of in agents]:
            tables.save(draw(shown, models), models / f"{name}.png")
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.agents").main())
