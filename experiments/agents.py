"""
Train an agent for each entry of the configs: the folder ``trained_agents``, for ``sb3-nrl enjoy -f trained_agents``.

Each agent is from seed 0, with the files that the RL Zoo needs to show it. The table has its mean return over 100
episodes with the most likely actions, and the checksum of the model. A film strip shows one episode of each agent whose
task can be rendered.
"""

import functools
import hashlib
import importlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure
from rl_zoo3.utils import create_test_env, get_saved_hyperparams
from stable_baselines3.common.evaluation import evaluate_policy

from experiments import tables
from experiments.execution import command_line, results_of
from experiments.learning import load
from experiments.runs import ROOT, Columns, Results, Run, write_whole
from sb3_nrl.zoo import ALGORITHMS

FOLDER = ROOT / "trained_agents"
DOCUMENT = tables.DOCS / "agents.md"
N_EPISODES = 100
N_FRAMES = 8
FILES = {algo: f"zoo_configs/{algo}.yml" for algo in ALGORITHMS} | {"spiking": "zoo_configs/spiking.yml"}
"""Configs whose agents are trained. Spiking agents have a folder of their own, since NRL is their algorithm too."""


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
            name = f"{kind}_{task.replace('/', '-')}_{seed}"
            measure = functools.partial(train, out)
            runs.append(Run(name, measure, settings, seed, entry["n_timesteps"] / 3_000, (kind, task)))
    return runs


def command(kind: str, task: str, seed: int, folder: str | os.PathLike[str] = FOLDER.name) -> list[str]:
    """The arguments of ``sb3-nrl`` that train an agent."""
    algo = kind if kind in ALGORITHMS else "nrl"
    options = ["train", "--algo", algo, "--env", task, "--seed", str(seed), "--eval-freq", "-1"]
    options += ["--conf-file", FILES[kind]] if kind not in ALGORITHMS else []
    return [*options, "-f", str(folder if kind in ALGORITHMS else pathlib.Path(folder, kind))]


def place(out: pathlib.Path, kind: str, task: str) -> pathlib.Path:
    """The folder of an agent, as the RL Zoo names it."""
    algo = kind if kind in ALGORITHMS else f"{kind}/nrl"
    return out / algo / f"{task.replace('/', '-')}_1"


def train(out: pathlib.Path, settings: dict[str, Any]) -> Columns:
    """Train an agent into a folder beside the results, and evaluate it."""
    kind, task, seed = settings["kind"], settings["env"], settings["seed"]
    models = out / "models"
    folder = place(models, kind, task)
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted training
    options = command(kind, task, seed, os.path.relpath(models, ROOT))
    subprocess.run(
        [sys.executable, "-m", "sb3_nrl", *options, "--verbose", "0"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    for log in folder.glob("*.monitor.csv"):
        log.unlink()
    name = task.replace("/", "-")
    write_whole(folder / name / "command.txt", shlex.join(["sb3-nrl", *command(kind, task, seed)]) + "\n")
    model, env = load(folder, task, kind if kind in ALGORITHMS else "nrl", 10_000 + seed)
    returns, _ = evaluate_policy(model, env, N_EPISODES, return_episode_rewards=True)
    moments = {"mean_return": np.array(np.mean(returns)), "std_return": np.array(np.std(returns))}
    return {"returns": np.array(returns), **moments}


def checksum(model: pathlib.Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(model.read_bytes()).hexdigest()


def tabulate(results: Results, models: pathlib.Path) -> str:
    """A table with one row for each agent, in Markdown."""
    rows = []
    for run, result in results.items():
        kind, task = run.of
        model = place(models, kind, task) / f"{task.replace('/', '-')}.zip"
        mean, std = result.columns["mean_return"], result.columns["std_return"]
        rows.append(
            [
                *(kind, task, f"{mean:.4g} ± {std:.3g}", f"{model.stat().st_size / 1024:.0f}"),
                *(f"`{shlex.join(['sb3-nrl', *command(kind, task, run.seed)])}`", f"`{checksum(model)[:12]}`"),
            ]
        )
    header = ("config", "task", "return: mean ± standard deviation", "KiB", "command", "SHA-256, first digits")
    return tables.markdown(header, rows)


def frames(folder: pathlib.Path, task: str, algo: str) -> list[np.ndarray]:
    """Still frames of an episode at equal distances in time."""
    model, _ = load(folder, task, algo, 0)
    hyperparams, statistics = get_saved_hyperparams(str(folder / task), test_mode=True)
    env = create_test_env(
        *(task, 1, statistics, 0, None, True, hyperparams),
        env_kwargs={**hyperparams.get("env_kwargs", {}), "render_mode": "rgb_array"},
    )
    seen: list[Any] = []
    obs, states, starts = env.reset(), None, np.ones(1, bool)
    while not seen or not starts[0]:
        seen.append(env.render())
        actions, states = model.predict(obs, states, starts, deterministic=True)
        obs, _, starts, _ = env.step(actions)
    env.close()
    return [seen[place] for place in np.linspace(0, len(seen) - 1, N_FRAMES).round().astype(int)]


def draw(results: Results, models: pathlib.Path) -> Figure:
    """A film strip of one episode of NRL's agents and of spiking ones."""
    shown = [run.of for run in results if run.of[0] in ("nrl", "spiking") and not run.of[1].startswith("neurogym/")]
    figure = Figure(figsize=(1.25 * N_FRAMES, 1.0 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), N_FRAMES, squeeze=False)
    for (kind, task), row in zip(shown, rows, strict=True):
        for axes, frame in zip(row, frames(place(models, kind, task), task, "nrl"), strict=True):
            axes.imshow(frame)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        label = task if kind == "nrl" else f"{task}\n(spiking)"
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize="small")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then report everything."""
    parser = command_line(__doc__ or "", "agents", range(1), workers=1)
    chosen = parser.parse_args(arguments)
    results, status = results_of(parser, chosen, functools.partial(plan, chosen.out))
    is_committed = chosen.out.resolve() == ROOT / "results" / "agents"
    models = FOLDER if is_committed else chosen.out / "models"
    sums = [f"{checksum(path)}  {path.relative_to(models)}\n" for path in sorted(models.rglob("*.zip"))]
    write_whole(models / "SHA256SUMS", "".join(sums))
    tables.save(draw(results, models), models / "episodes.png")
    tables.publish(tabulate(results, models), chosen.out, "agents", DOCUMENT)
    return status


if __name__ == "__main__":  # the module by its name, under which Ray's workers find it
    sys.exit(importlib.import_module("experiments.agents").main())
