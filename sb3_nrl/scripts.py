"""Run the scripts of the RL Zoo, with explicit arguments for the run and the model that they use."""

import argparse
import importlib
import runpy
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sb3_nrl import runs, zoo
from sb3_nrl.checks import check

_CARRIED_ON = (
    *("algo", "env", "tensorboard_log", "n_timesteps", "num_threads", "log_interval", "eval_freq", "eval_episodes"),
    *("n_eval_envs", "save_freq", "save_replay_buffer", "log_folder", "vec_env", "device", "verbose", "progress"),
    *("uuid", "gym_packages", "env_kwargs", "eval_env_kwargs"),
    *("track", "wandb_project_name", "wandb_entity", "wandb_group", "wandb_tags"),
)
"""Arguments of a run that are the defaults when it is resumed."""

_MODULES = {
    "train": "train",
    "enjoy": "enjoy",
    "record-video": "record_video",
    "push": "push_to_hub",
    "pull": "load_from_hub",
}
"""Module of the RL Zoo that does a command; all others are in its module ``plots``."""


def _find(arguments: Sequence[str], *options: Sequence[str], **defaults: Any) -> argparse.Namespace:
    """Find the values of some options of the RL Zoo. A default of False makes a switch."""
    parser = argparse.ArgumentParser(prog=sys.argv[0], add_help=False)
    for flags in options:
        name = flags[-1].removeprefix("--").replace("-", "_")
        default = defaults.get(name)
        parser.add_argument(*flags, default=default, action="store_true" if default is False else "store")
    return parser.parse_known_args(arguments)[0]


def _as_options(arguments: dict[str, Any]) -> list[str]:
    options: list[str] = []
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, dict | list):
            # The RL Zoo evaluates what follows the first colon of a word, and of words that follow --hyperparams.
            valid = all(str(part).isidentifier() if isinstance(value, dict) else str(part)[:1] != "-" for part in value)
            check(name, value, valid, "values by name, or words that are not options")
            words = [f"{key}:{part!r}" for key, part in value.items()] if isinstance(value, dict) else map(str, value)
            options += [flag, *words] if value else []
        elif value is not None and value is not False and value != "":
            options.append(flag if value is True else f"{flag}={value}")
    return options


def train_options(arguments: Sequence[str]) -> list[str]:
    """
    Translate ``-i FOLDER`` into the arguments of that run, its last model that is whole, and its config.

    :param arguments: What the user typed after ``train``
    :return: The arguments for the RL Zoo
    :raises ValueError: If the run cannot be resumed, or not with these arguments
    """
    flags = (["-i", "--trained-agent"], ["--algo"], ["--env"], ["-conf", "--conf-file"], ["--trial-id"])
    switch = ["-optimize", "--optimize-hyperparameters"]
    given = _find(arguments, *flags, switch, optimize_hyperparameters=False)
    if not given.trained_agent:
        return ["--algo=nrl", *arguments]
    agent = Path(given.trained_agent)
    check("-i", given.trained_agent, agent.exists(), "the folder of a run to resume, or a model.zip to start from")
    check("-i", given.trained_agent, not given.optimize_hyperparameters, "left out with -optimize: trials start anew")
    if agent.is_file():
        runs.check(agent)
        return ["--algo=nrl", *arguments]
    run = runs.Run(agent)
    for name in ("algo", "env", "conf_file", "trial_id"):
        value, own = getattr(given, name), run.arguments[name] if name in ("algo", "env") else None
        check(
            name,
            value,
            value in (None, own),
            f"left out: {agent} is resumed with its own settings (-params changes some)",
        )
    model, n_steps = run.first_whole(run.models())
    seed = (run.arguments["seed"] + n_steps) % 2**32  # the same seed would repeat the random numbers of the run
    before = {name: run.arguments[name] for name in _CARRIED_ON if name in run.arguments} | {"seed": seed}
    fixed = {"trained_agent": str(model.absolute()), "conf_file": str(run.settings / "config.yml")}
    return [*_as_options(before), *arguments, *_as_options(fixed)]


def watch_options(arguments: Sequence[str], scratch: Path) -> list[str]:
    """
    Choose the model for ``enjoy``, ``record-video`` and ``push``: that of the latest run with one of the chosen kind.

    :param arguments: What the user typed after the command
    :param scratch: Empty folder. A checkpoint is copied there with its statistics, since the RL Zoo would use those of
        the last model
    :return: The arguments for the RL Zoo
    :raises ValueError: If the model is damaged, or lacks its statistics
    """
    flags = (["--algo"], ["--env"], ["-f", "--folder"], ["--exp-id"], ["--load-checkpoint"])
    switches = (["--load-best"], ["--load-last-checkpoint"])
    defaults = {"algo": "nrl", "env": "CartPole-v1", "folder": "logs", "exp_id": 0}
    given = _find(arguments, *flags, *switches, **defaults, load_best=False, load_last_checkpoint=False)
    options = [f"--algo={given.algo}", f"--folder={given.folder}", *arguments]
    name = given.env.split(":")[-1].replace("/", "-")
    logs, number = Path(given.folder, given.algo), int(given.exp_id)
    pattern = f"{name}.zip"
    if given.load_best:
        pattern = "best_model.zip"
    elif given.load_checkpoint or given.load_last_checkpoint:
        pattern = f"rl_model_{given.load_checkpoint or '*'}_steps.zip"
    numbered = {folder.name.removeprefix(f"{name}_"): folder for folder in logs.glob(f"{name}_*")}
    numbers = sorted((int(text) for text in numbered if text.isdigit()), reverse=True)
    folders = [numbered[str(n)] for n in numbers if number in (0, n)]
    folder = next((folder for folder in folders if any(folder.glob(pattern)) and any(folder.glob("*/args.yml"))), None)
    if folder is None:
        return options  # the RL Zoo reports what is missing
    run = runs.Run(folder)
    model, _ = run.first_whole(sorted(folder.glob(pattern), key=runs.steps_of, reverse=True))
    options.append(f"--exp-id={folder.name.removeprefix(f'{name}_')}")
    if (steps := runs.steps_of(model)) >= 0:
        options.append(f"--load-checkpoint={steps}")
        if run.normalizes:
            copy = scratch / given.algo / folder.name
            shutil.copytree(run.settings, copy / name)
            for file in (model, *folder.glob("*.csv"), *folder.glob("evaluations.npz")):
                shutil.copy(file, copy)
            shutil.copy(runs.statistics_of(model, name), copy / name / "vecnormalize.pkl")
            options.append(f"--folder={scratch}")
            if sys.argv[0].endswith("record-video"):
                options.insert(0, f"--output-folder={folder / 'videos'}")
    return options


def run(command: str, arguments: Sequence[str]) -> None:
    """
    Run a script of the RL Zoo, as if from the command line.

    :param command: ``"train"``, ``"enjoy"``, ``"record-video"``, ``"push"``, ``"pull"``, ``"plot-train"``,
        ``"plot-from-file"`` or ``"all-plots"``
    :param arguments: The arguments after the command
    """
    zoo.register()
    before, module = sys.argv, f"rl_zoo3.{_MODULES.get(command, 'plots')}"
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        try:
            sys.argv = [f"sb3-nrl {command}", *arguments]
            if command == "train":
                sys.argv[1:] = train_options(arguments)
            elif command in ("enjoy", "record-video", "push"):
                sys.argv[1:] = watch_options(arguments, Path(scratch))
            elif command == "pull":
                sys.argv[1:] = ["--algo=nrl", "--folder=logs", *arguments]
            else:
                sys.argv[1:] = [argument.replace("neurogym/", "neurogym-") for argument in arguments]  # as in folders
            if any("neurogym/" in argument for argument in sys.argv):
                importlib.import_module("sb3_nrl.envs")
                sys.argv += ["--no-render"] * (command in ("enjoy", "push"))  # these tasks have nothing to render
            if command in ("push", "pull"):
                from sb3_nrl import hub  # here, since it takes a second to import

                with hub.mended_scripts():
                    runpy.run_module(module, run_name="__main__")
            elif command == "record-video":
                runpy.run_module(module, run_name="__main__")
            else:
                warnings.filterwarnings("ignore", ".*is non-interactive")
                getattr(importlib.import_module(module), command.replace("-", "_"))()
                if command not in _MODULES:
                    _save_figures(command)
        finally:
            sys.argv = before


def _save_figures(command: str) -> None:
    """
    Save the figures if there is no display. Figures that a display has shown are closed and not saved.

    :raises ValueError: If all figures are empty
    """
    from matplotlib import pyplot as plt  # imported here, since the RL Zoo needs it only for plots

    figures = {} if "--no-display" in sys.argv else {number: plt.figure(number) for number in plt.get_fignums()}
    shown = {number: figure for number, figure in figures.items() if any(axes.has_data() for axes in figure.axes)}
    if figures and not shown:
        hint = ", or none with as many episodes as --episode-window (-w)" if command == "plot-train" else ""
        raise ValueError(f"{command} found nothing to draw: there are no such runs{hint}")
    for number, figure in shown.items():
        figure.savefig(f"{command}-{number}.png", dpi=150)
        print(f"No display: see {command}-{number}.png")
