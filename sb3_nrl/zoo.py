"""NRL, RMHL and BPTT in the RL Zoo: registration, shipped configs, experiments, and the zoo's scripts with all that."""

import argparse
import difflib
import importlib
import inspect
import os
import pathlib
import re
import runpy
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partialmethod
from types import ModuleType
from typing import Any, NoReturn
from unittest import mock

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
import rl_zoo3.utils
import yaml
from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rl_zoo3.callbacks import SaveVecNormalizeCallback
from rl_zoo3.exp_manager import EnvironmentName
from sqlalchemy.exc import SQLAlchemyError
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_nrl import BPTT, NRL, RMHL, tuning
from sb3_nrl.callbacks import HyperparametersCallback, PerformanceCallback
from sb3_nrl.checks import check, is_count, is_number

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"nrl": NRL, "rmhl": RMHL, "bptt": BPTT}

_SUGGEST = {"nrl": tuning.suggest_nrl, "rmhl": tuning.suggest_rmhl, "bptt": tuning.suggest_bptt}

_N_EVALUATIONS = 10
"""Times that a trial is evaluated, and may be pruned."""

_N_ATTEMPTS = 20
"""Times that a database is opened, a tenth of a second apart, before it is given up."""

_KEPT = {"policy", "policy_kwargs", "normalize", "stats_window_size"}
"""Hyper-parameters that no run changes when it goes on: they are those of its model and its statistics."""

_WITHOUT_DISPLAY = {"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"}
"""Matplotlib's backends that show nothing."""


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
    :raises ValueError: If the paper has no settings of that algorithm
    """
    check("algo", algo, name != "paper" or algo in ALGORITHMS, "nrl, rmhl or bptt for the settings of the paper")
    if algo not in ALGORITHMS or name not in (None, "paper"):
        return name
    package = pathlib.Path(__file__).parent
    # in a wheel they are part of the package; in the source tree beside it
    shipped = next(path / "zoo_configs" for path in (package, package.parent) if (path / "zoo_configs").is_dir())
    return str(shipped / (name or "") / f"{algo}.yml")


def saved(run: pathlib.Path, file: str) -> dict[str, Any]:
    """
    What the zoo saved of a run.

    :param run: Folder of the run, as ``logs/nrl/CartPole-v1_1``
    :param file: ``"args.yml"`` for the zoo's arguments, ``"config.yml"`` for the hyper-parameters
    :return: They, by their names
    :raises ValueError: If the folder is not that of a run
    """
    files = sorted(run.glob(f"*/{file}"))
    if not files:
        raise ValueError(f"{run} is not the folder of a run: there is no {file} in it")
    return dict(yaml.load(files[0].read_text(), Loader=yaml.UnsafeLoader))  # as the zoo reads it, tuples and all


def last_model(run: pathlib.Path, arguments: dict[str, Any]) -> pathlib.Path:
    """
    The model that a run goes on from.

    :param run: Folder of the run
    :param arguments: The zoo's arguments of that run
    :return: What it saved at its end; if it was killed before that, its checkpoint with the most steps; if it went on
        itself, and has none either, what it started from
    :raises ValueError: If there is none
    """
    at_its_end = run / f"{EnvironmentName(arguments['env'])}.zip"
    if at_its_end.exists():
        return at_its_end
    if checkpoints := list(run.glob("rl_model_*_steps.zip")):
        return max(checkpoints, key=lambda checkpoint: int(checkpoint.stem.split("_")[-2]))
    if arguments.get("resume"):
        return pathlib.Path(arguments["trained_agent"])
    raise ValueError(f"{run} has no model: train with --save-freq to leave some on the way")


def _n_steps(model: pathlib.Path) -> int:
    """The steps that a saved model has done."""
    data, _, _ = load_from_zip_file(model)
    assert data is not None
    return int(data["num_timesteps"])


def _statistics(model: str) -> str:
    """Where the statistics of ``VecNormalize`` are, if they were saved with that model; nowhere for no checkpoint."""
    folder, name = os.path.split(model)
    match = re.fullmatch(r"rl_model_(\d+_steps)\.zip", name)
    return os.path.join(folder, f"rl_model_vecnormalize_{match[1]}.pkl") if match else ""


class ExperimentManager(rl_zoo3.exp_manager.ExperimentManager):
    """
    The zoo's own, where an experiment of NRL, RMHL or BPTT starts from the shipped config, tuning shares one study
    between all processes by default, checkpoints keep their ``VecNormalize`` statistics, TensorBoard has the
    hyper-parameters, and mistakes in a config are named.

    The arguments are the zoo's. With the folder of a run as ``args.resume``, that run goes on from ``trained_agent``:
    its steps count, and its hyper-parameters are the config.
    """

    def __init__(self, args: argparse.Namespace, algo: str, *arguments: Any, **keywords: Any) -> None:
        keywords["config"] = config_file(algo, keywords.get("config"))
        super().__init__(args, algo, *arguments, **keywords)
        self.resume: str | None = getattr(args, "resume", None)
        if self.resume:
            self.config = os.path.join(self.resume, self.env_name, "config.yml")
        if self.storage is None:
            self.storage = f"{self.log_path}study_{self.env_name}.log"
        if self.study_name is None:
            self.study_name = f"{algo}-{self.env_name}"
        if self.n_evaluations is None and algo in ALGORITHMS:
            self.n_evaluations = _N_EVALUATIONS
        self.trial: dict[str, Any] = {}
        if self.trial_id is not None:
            self.trial = self.load_trial(self.storage, self.study_name, self.trial_id)
            self.trial_id = None  # done; the zoo would leave out trial 0

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        is_new = not os.path.exists(self.save_path)
        try:
            return super().setup_experiment()
        except BaseException:
            if is_new:  # else the latest run would be one without a model
                shutil.rmtree(self.save_path, ignore_errors=True)
            raise

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        changed = self.custom_hyperparams or {}
        if self.resume:
            hyperparams = saved(pathlib.Path(self.resume), "config.yml")
            for name in changed.keys() & _KEPT:
                check(name, changed[name], False, f"left out, since {self.resume} goes on with its own")
            hyperparams |= {"env_kwargs": self.env_kwargs} if self.env_kwargs else {}
        else:
            try:
                hyperparams, _ = super().read_hyperparameters()
            except KeyError as error:
                raise ValueError(f"-conf {self.config} has no {error}, to find {self.env_name.gym_id} in") from error
            except (yaml.YAMLError, AttributeError, ImportError, TypeError) as error:
                raise ValueError(
                    f"-conf {self.config} is no table of hyper-parameters by environment: {error}"
                ) from error
        hyperparams = tuning.combine(hyperparams, self.trial) | changed
        for name, value in hyperparams.items():
            if isinstance(value, str):
                with suppress(ValueError):
                    hyperparams[name] = float(value)  # 1e-3 is text for YAML, since it has no dot
        for name in ("n_timesteps", "policy"):
            if name not in hyperparams:
                raise ValueError(f"{self.config} has no {name} for {self.env_name.gym_id}")
        n_timesteps, n_envs = hyperparams["n_timesteps"], hyperparams.get("n_envs", 1)
        check(f"{self.config}: n_timesteps", n_timesteps, is_number(n_timesteps, 0), "a number of steps")
        check("n_envs", n_envs, is_count(n_envs), "a number of environments, at least 1")
        self.entry = dict(hyperparams)
        return hyperparams, self.entry

    def load_trial(
        self, storage: str, study_name: str, trial_id: int | None = None, convert: bool = True
    ) -> dict[str, Any]:
        # looking into a file that is not there would make it
        if not storage.endswith(".log") or os.path.exists(storage):
            with suppress(KeyError, IndexError):
                return super().load_trial(storage, study_name, trial_id, convert)
        raise ValueError(f"there is no trial {trial_id} of study {study_name} in {storage}")

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
        if not self.optimize_hyperparameters:  # which leaves no model either
            super().create_log_folder()

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        return super().create_envs(n_envs, eval_env, no_log or self.optimize_hyperparameters)

    def create_callbacks(self) -> None:
        super().create_callbacks()
        self.callbacks.append(PerformanceCallback())
        for place, callback in enumerate(self.callbacks):
            if isinstance(callback, CheckpointCallback) and callback.save_path == self.save_path:
                # before the model, so that whoever finds a checkpoint finds its statistics
                statistics = SaveVecNormalizeCallback(self.save_freq, self.save_path, "rl_model_vecnormalize")
                self.callbacks.insert(place, statistics)
                break
        if self.tensorboard_log is not None:
            self.callbacks.append(HyperparametersCallback())

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        statistics = _statistics(self.trained_agent)
        if not os.path.exists(statistics):
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
                raise ValueError(f"{self.resume} has all its {wanted} steps: ask for more in all with -n")
            print(f"Going on from {self.trained_agent}: {model.num_timesteps} of {wanted} steps are done")
            normalize = model.get_vec_normalize_env()
            if normalize is not None:
                normalize.gamma = hyperparams.get("gamma", normalize.gamma)
        return model

    def learn(self, model: BaseAlgorithm) -> None:
        patch: AbstractContextManager[Any] = nullcontext()
        if self.resume:
            algorithm = type(model)
            # A TensorBoard run of its own: Stable-Baselines3 would write into the latest, whosever it is.
            model.set_logger(configure_logger(model.verbose, model.tensorboard_log, algorithm.__name__))
            going_on = partialmethod(algorithm.learn, reset_num_timesteps=False)
            patch = mock.patch.object(algorithm, "learn", going_on)  # not of the model, which is saved with all it has
        before = model.num_timesteps
        try:
            with patch:
                super().learn(model)
        except Exception:
            if model.num_timesteps > before:
                self.save_trained_model(model)  # what it had learned until then
            else:
                shutil.rmtree(self.save_path, ignore_errors=True)  # else the latest run would have learned nothing
            raise

    def objective(self, trial: optuna.Trial) -> float:
        try:
            return super().objective(trial)
        except FloatingPointError as error:  # diverged
            raise optuna.TrialPruned(str(error)) from error

    def hyperparameters_optimization(self) -> None:
        os.makedirs(self.log_path, exist_ok=True)
        assert self.storage is not None
        study = optuna.create_study(
            storage=_open(self.storage), study_name=self.study_name, direction="maximize", load_if_exists=True
        )
        self._check_settings(study)
        samplers = rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER
        sample = samplers[self.algo]

        def sample_over_config(*arguments: Any) -> dict[str, Any]:
            found, base = sample(*arguments), self._hyperparams.get("policy_kwargs") or {}
            return {**found, "policy_kwargs": {**base, **found["policy_kwargs"]}}  # the zoo drops those of the config

        try:
            with mock.patch.dict(samplers, {self.algo: sample_over_config} if self.algo in ALGORITHMS else {}):
                super().hyperparameters_optimization()
        except ValueError as error:
            n_pruned = len(study.get_trials(states=[TrialState.PRUNED]))
            if n_pruned < len(study.trials):
                raise
            raise ValueError(f"nothing found: all {n_pruned} trials of {self.study_name} were pruned") from error
        if self.algo in ALGORITHMS:
            page = pathlib.Path(self.log_path) / f"study_{study.study_name.replace('/', '-')}.md"
            entry = {**self.entry, "n_timesteps": self.n_timesteps}
            reported: list[TrialState] = []
            # again if another process ended a trial meanwhile: its report may have been there already
            while (states := [trial.state for trial in study.trials]) != reported:
                reported = states
                page.write_text(tuning.report(study, self.env_name.gym_id, entry, " ".join(sys.argv)))
            print(f"The best trials, and a config of the best: {page}")

    def _check_settings(self, study: optuna.Study) -> None:
        """
        Keep with a new study what its trials start from.

        :raises ValueError: If trials of this study started from something else
        """
        names = ("n_timesteps", "n_evaluations", "n_eval_episodes", "env_kwargs", "eval_env_kwargs")
        settings = {**self.entry, **{name: getattr(self, name) for name in names}}
        start = {name: _as_text(value) for name, value in settings.items()}
        before = study.user_attrs.get("start", start)
        if before != start:
            differing = sorted(name for name in before.keys() | start.keys() if before.get(name) != start.get(name))
            raise ValueError(
                f"study {self.study_name} was started with other settings than these ({', '.join(differing)}): "
                "give this one a --study-name of its own"
            )
        study.set_user_attr("start", start)


def _as_text(value: Any) -> str:
    """A setting, written alike in all processes that have the same."""
    text = str(dict(sorted(value.items())) if isinstance(value, dict) else value)
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _open(storage: str) -> BaseStorage:
    """
    Open a storage of studies, which makes it if need be.

    :raises ValueError: If that fails for good
    """
    if storage.endswith(".log"):
        return JournalStorage(JournalFileBackend(storage))
    attempts = 0
    while True:
        try:
            return get_storage(storage)
        except SQLAlchemyError as error:
            # of processes that make the tables of a database at the same time, all but one fail at first
            attempts += 1
            if attempts == _N_ATTEMPTS:
                raise ValueError(f"the storage {storage} cannot be opened: {error}") from error
            time.sleep(0.1)


_plain_parse_args = argparse.ArgumentParser.parse_args


def _parse_args(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
    """What the parser of a script of the zoo is to do: its own work, and what is added to it here."""
    parser.prog = sys.argv[0]
    if parser.get_default("folder") is not None:
        parser.set_defaults(folder="logs")  # enjoy and record-video look where train writes
    if parser.get_default("algo") is not None:
        parser.set_defaults(algo="nrl")
    try:
        arguments = _plain_parse_args(parser, args, namespace)
    except (NameError, SyntaxError) as error:
        raise ValueError(f"{error}: name:value has text in quotes, as \"noise_distribution:'uniform'\"") from error
    agent = getattr(arguments, "trained_agent", "")
    exists = not agent or os.path.exists(agent)
    check("-i", agent, exists, "the folder of a run to go on with, or a model.zip to start from")
    if agent and os.path.isdir(agent):
        run = pathlib.Path(agent)
        before = saved(run, "args.yml")
        model = last_model(run, before)
        # What its config came from is settled, and its random numbers up to here are spent.
        settled = {"conf_file": None, "hyperparams": None, "trial_id": None}
        parser.set_defaults(**before | settled | {"seed": (before["seed"] + _n_steps(model)) % 2**32})
        arguments = _plain_parse_args(parser, args, namespace)
        check("algo", arguments.algo, arguments.algo == before["algo"], f"{before['algo']}, that of {run}")
        check("env", arguments.env, arguments.env == before["env"], f"{before['env']}, that of {run}")
        for name in ("conf_file", "trial_id"):
            value = getattr(arguments, name)
            check(name, value, value is None, f"left out, since {run} has its hyper-parameters; change them by -params")
        arguments.trained_agent, arguments.resume = str(model.absolute()), agent
    tuning_too = agent and getattr(arguments, "optimize_hyperparameters", False)
    check("-i", agent, not tuning_too, "left out with -optimize, whose trials start from new models")
    environment = getattr(arguments, "env", None)
    if isinstance(environment, list):  # of the plots, which look for folders
        arguments.env = [EnvironmentName(name) for name in environment]
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
    name = command.replace("-", "_")
    with (
        mock.patch.object(sys, "argv", [f"sb3-nrl {command}", *arguments]),
        # the scripts make their parsers themselves
        mock.patch.multiple(argparse.ArgumentParser, parse_args=_parse_args, error=_error),
    ):
        if command == "train":
            rl_zoo3.train.train()
        elif command == "enjoy":
            script = importlib.import_module("rl_zoo3.enjoy")
            with _checkpoints_have_their_statistics(script):
                script.enjoy()
        elif command == "record-video":
            with _checkpoints_have_their_statistics(rl_zoo3.utils):
                runpy.run_module("rl_zoo3.record_video", run_name="__main__")
        else:
            plots = importlib.import_module("rl_zoo3.plots")
            with _figures_are_seen(command):
                getattr(plots, name)()


@contextmanager
def _checkpoints_have_their_statistics(script: ModuleType) -> Iterator[None]:
    """Let a script normalise for a checkpoint by what was saved with it. The zoo's are those of the best model."""
    plain_get_model_path, plain_create_test_env = script.get_model_path, script.create_test_env
    statistics = ""

    def get_model_path(*arguments: Any) -> tuple[str, str, str]:
        nonlocal statistics
        name, model, run = plain_get_model_path(*arguments)
        statistics = _statistics(model)
        return name, model, run

    def create_test_env(*arguments: Any, stats_path: str | None, **keywords: Any) -> VecEnv:
        with tempfile.TemporaryDirectory() as folder:
            if os.path.exists(statistics):
                stats_path = folder
                shutil.copy(statistics, os.path.join(folder, "vecnormalize.pkl"))
            return plain_create_test_env(*arguments, stats_path=stats_path, **keywords)

    with mock.patch.multiple(script, get_model_path=get_model_path, create_test_env=create_test_env):
        yield


@contextmanager
def _figures_are_seen(command: str) -> Iterator[None]:
    """Without a display, save what would be shown."""
    from matplotlib import pyplot as plt  # here, since the zoo needs it for plots alone

    def save() -> None:
        for number in plt.get_fignums():
            file = f"{command}-{number}.png"
            plt.figure(number).savefig(file, dpi=150)
            print(f"No display: see {file}")

    shows = plt.get_backend().lower() not in _WITHOUT_DISPLAY
    with mock.patch.object(plt, "show", plt.show if shows else save):
        yield
