"""NRL, RMHL and BPTT in the RL Zoo: registration, shipped configs, experiments, and the zoo's scripts with all that."""

import argparse
import difflib
import importlib
import inspect
import os
import pathlib
import runpy
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any, NoReturn

try:
    import rl_zoo3
except ModuleNotFoundError as error:
    if error.name != "rl_zoo3":
        raise
    raise ImportError("The RL Zoo is not installed: pip install 'sb3-nrl[zoo]'") from error

import optuna
import rl_zoo3.exp_manager
import rl_zoo3.hyperparams_opt
import rl_zoo3.train
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rl_zoo3.callbacks import SaveVecNormalizeCallback
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_nrl import BPTT, NRL, RMHL, tuning
from sb3_nrl.callbacks import HyperparametersCallback

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"nrl": NRL, "rmhl": RMHL, "bptt": BPTT}

_SUGGEST = {"nrl": tuning.suggest_nrl, "rmhl": tuning.suggest_rmhl, "bptt": tuning.suggest_bptt}

_N_EVALUATIONS = 10
"""Times that a trial is evaluated, and may be pruned."""


def register() -> None:
    """
    Make NRL, RMHL and BPTT known to the RL Zoo, to be trained, tuned, resumed and shown by its own functions
    (``rl_zoo3.train.train()`` and so on). More than once does no harm.
    """
    rl_zoo3.ALGOS.update(ALGORITHMS)
    for algo, suggest in _SUGGEST.items():
        rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER[algo] = tuning.sampler(suggest)  # type: ignore[assignment]
        rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER[algo] = tuning.config_entry  # type: ignore[assignment]
    rl_zoo3.train.ExperimentManager = ExperimentManager  # type: ignore[misc]


def config_file(algo: str, name: str | None = None) -> str | None:
    """
    Where the hyper-parameters of an algorithm are.

    :param algo: Name of the algorithm
    :param name: None for the shipped config, ``"paper"`` for the paper's settings, or what the zoo takes
    :return: The file, or the name as it is if it is the zoo's matter
    """
    if algo not in ALGORITHMS or name not in (None, "paper"):
        return name
    package = pathlib.Path(__file__).parent
    # in a wheel they are part of the package; in the source tree beside it
    shipped = next(path / "zoo_configs" for path in (package, package.parent) if (path / "zoo_configs").is_dir())
    return str(shipped / (name or "") / f"{algo}.yml")


def saved_arguments(run: pathlib.Path) -> dict[str, Any]:
    """
    The command line of a run.

    :param run: Folder of the run, as ``logs/nrl/CartPole-v1_1``
    :return: The zoo's arguments by their names
    :raises ValueError: If the folder is not that of a run
    """
    files = sorted(run.glob("*/args.yml"))
    if not files:
        raise ValueError(f"{run} is not the folder of a run: there is no args.yml in it")
    return dict(yaml.load(files[0].read_text(), Loader=yaml.UnsafeLoader))  # as the zoo reads it, tuples and all


def last_checkpoint(run: pathlib.Path) -> str:
    """
    The model that an interrupted run goes on from.

    :param run: Folder of the run
    :return: Path of the checkpoint with the most steps
    :raises ValueError: If there is none
    """
    checkpoints = sorted(run.glob("rl_model_*_steps.zip"), key=lambda path: int(path.stem.split("_")[-2]))
    if not checkpoints:
        raise ValueError(f"{run} has no checkpoint: train with --save-freq to leave some")
    return str(checkpoints[-1])


class ExperimentManager(rl_zoo3.exp_manager.ExperimentManager):
    """
    The zoo's own, where an experiment of NRL, RMHL or BPTT starts from the shipped config, tuning shares one study
    between all processes by default, checkpoints keep their ``VecNormalize`` statistics, TensorBoard has the
    hyper-parameters, and mistakes in a config are named.

    The arguments are the zoo's. With ``args.resume`` the run of ``trained_agent`` goes on: its steps count.
    """

    def __init__(self, args: argparse.Namespace, algo: str, *arguments: Any, **keywords: Any) -> None:
        keywords["config"] = config_file(algo, keywords.get("config"))
        super().__init__(args, algo, *arguments, **keywords)
        self.resume = getattr(args, "resume", False)
        if self.storage is None:
            self.storage = f"{self.log_path}study_{self.env_name}.log"
        if self.study_name is None:
            self.study_name = f"{algo}-{self.env_name}"
        if self.n_evaluations is None and algo in ALGORITHMS:
            self.n_evaluations = _N_EVALUATIONS

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            hyperparams, self.entry = super().read_hyperparameters()
        except (yaml.YAMLError, AttributeError) as error:
            raise ValueError(f"{self.config} is no table of hyper-parameters by environment: {error}") from error
        if "n_timesteps" not in hyperparams:
            raise ValueError(f"{self.config} has no n_timesteps for {self.env_name.gym_id}")
        return hyperparams, self.entry

    def _preprocess_hyperparams(
        self, hyperparams: dict[str, Any]
    ) -> tuple[dict[str, Any], Any, list[BaseCallback], Any]:
        processed = super()._preprocess_hyperparams(hyperparams)
        algorithm = rl_zoo3.ALGOS[self.algo]
        known = set(inspect.signature(algorithm).parameters)
        if "action_noise" in known:
            known |= {"noise_type", "noise_std"}  # the zoo turns them into action_noise later
        for name in processed[0].keys() - known:
            meant = "".join(f", you maybe meant {match}" for match in difflib.get_close_matches(name, known, n=1))
            raise ValueError(f"{algorithm.__name__} has no hyper-parameter {name}{meant} (see {self.config})")
        # The config's environment, for evaluation too, and for the commands that read args.yml later.
        if self._eval_env_kwargs_args is None:
            self.eval_env_kwargs = self.env_kwargs
        self.args.env_kwargs = self.env_kwargs or None
        return processed

    def create_log_folder(self) -> None:
        if not self.optimize_hyperparameters:  # else the latest run would be one without a model
            super().create_log_folder()

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        return super().create_envs(n_envs, eval_env, no_log or self.optimize_hyperparameters)

    def create_callbacks(self) -> None:
        super().create_callbacks()
        for place, callback in enumerate(self.callbacks):
            if isinstance(callback, CheckpointCallback) and callback.save_path == self.save_path:
                # before the model, so that whoever finds a checkpoint finds its statistics
                statistics = SaveVecNormalizeCallback(self.save_freq, self.save_path, "rl_model_vecnormalize")
                self.callbacks.insert(place, statistics)
                break
        if self.tensorboard_log is not None:
            self.callbacks.append(HyperparametersCallback())

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        folder, name = os.path.split(self.trained_agent)
        statistics = os.path.join(folder, name.replace("rl_model_", "rl_model_vecnormalize_").replace(".zip", ".pkl"))
        if not (name.startswith("rl_model_") and os.path.exists(statistics)):
            return super()._maybe_normalize(env, eval_env)
        env = VecNormalize.load(statistics, env)
        if eval_env:
            env.training = env.norm_reward = False
        return env

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        model = super()._load_pretrained_agent(hyperparams, env)
        if self.resume:
            wanted, self.n_timesteps = self.n_timesteps, self.n_timesteps - model.num_timesteps
            if self.n_timesteps <= 0:
                raise ValueError(f"{self.trained_agent} has all its {wanted} steps: ask for more in all with -n")
            print(f"Going on from {self.trained_agent}: {model.num_timesteps} of {wanted} steps are done")
        return model

    def learn(self, model: BaseAlgorithm) -> None:
        if self.resume:
            # A TensorBoard run of its own: Stable-Baselines3 would write into the latest, whosever it is.
            model.set_logger(configure_logger(model.verbose, model.tensorboard_log, type(model).__name__))
            model = SimpleNamespace(learn=partial(model.learn, reset_num_timesteps=False), env=model.env)  # type: ignore[assignment]
        super().learn(model)

    def objective(self, trial: optuna.Trial) -> float:
        try:
            return super().objective(trial)
        except FloatingPointError as error:  # diverged
            raise optuna.TrialPruned(str(error)) from error

    def hyperparameters_optimization(self) -> None:
        super().hyperparameters_optimization()
        if self.algo in ALGORITHMS:
            storage: Any = self.storage
            if storage.endswith(".log"):
                storage = JournalStorage(JournalFileBackend(storage))
            study = optuna.load_study(study_name=self.study_name, storage=storage)
            page = pathlib.Path(self.log_path) / f"study_{self.env_name}.md"
            page.write_text(tuning.report(study, self.env_name.gym_id, self.entry, " ".join(sys.argv)))
            print(f"The best trials, and a config of the best: {page}")


_plain_parse_args = argparse.ArgumentParser.parse_args


def _parse_args(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
    """What the parser of a script of the zoo is to do: its own work, and what is added to it here."""
    if parser.get_default("folder") is not None:
        parser.set_defaults(folder="logs")  # enjoy and record-video look where train writes
    arguments = _plain_parse_args(parser, args, namespace)
    agent = getattr(arguments, "trained_agent", "")
    if agent and os.path.isdir(agent):
        run = pathlib.Path(agent)
        parser.set_defaults(**saved_arguments(run))
        arguments = _plain_parse_args(parser, args, namespace)
        arguments.trained_agent, arguments.resume = last_checkpoint(run), True
    environment = getattr(arguments, "env", None)
    if isinstance(environment, list):  # of the plots, which look for folders
        arguments.env = [name.replace("/", "-") for name in environment]
    elif getattr(environment, "gym_id", environment or "").startswith("neurogym/"):
        importlib.import_module("sb3_nrl.envs")
        if hasattr(arguments, "no_render"):
            arguments.no_render = True  # there is nothing to see
    return arguments


def _error(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """Say what is wrong, without the page of usage that it would drown in."""
    parser.exit(2, f"{parser.prog}: {message}\n")


def run(command: str, arguments: list[str]) -> None:
    """
    Run a script of the zoo, as if from the command line.

    A directory for ``-i`` is a run to go on with: its arguments are the defaults of this one. ``enjoy`` and
    ``record-video`` look into ``logs`` by default, as ``train`` does. Without a display, plots become files.

    :param command: ``"train"``, ``"enjoy"``, ``"record-video"``, ``"plot-train"``, ``"plot-from-file"`` or
        ``"all-plots"``
    :param arguments: What follows the command
    """
    register()
    sys.argv = [f"sb3-nrl {command}", *arguments]
    # the scripts make their parsers themselves
    argparse.ArgumentParser.parse_args = _parse_args  # type: ignore[assignment, method-assign]
    argparse.ArgumentParser.error = _error  # type: ignore[assignment, method-assign]
    name = command.replace("-", "_")
    if command == "record-video":
        runpy.run_module("rl_zoo3.record_video", run_name="__main__")
    elif command in ("train", "enjoy"):
        getattr(importlib.import_module(f"rl_zoo3.{name}"), name)()
    else:
        plots = importlib.import_module("rl_zoo3.plots")
        _save_figures_without_display(command)
        getattr(plots, name)()


def _save_figures_without_display(command: str) -> None:
    from matplotlib import pyplot as plt  # here, since the zoo needs it for plots alone

    def save() -> None:
        for number in plt.get_fignums():
            file = f"{command}-{number}.png"
            plt.figure(number).savefig(file, dpi=150)
            print(f"No display: see {file}")

    if plt.get_backend().lower() == "agg":
        plt.show = save  # type: ignore[assignment]
