"""NRL, RMHL and BPTT in the RL Zoo: their registration, their configs, and extensions of the RL Zoo's experiments."""

import argparse
import inspect
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

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
from rl_zoo3.callbacks import SaveVecNormalizeCallback
from rl_zoo3.utils import get_latest_run_id
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_nrl import BPTT, NRL, RMHL, runs, tuning
from sb3_nrl.callbacks import HyperparametersCallback, PerformanceCallback
from sb3_nrl.checks import check, is_count
from sb3_nrl.tuned import shipped_config

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"nrl": NRL, "rmhl": RMHL, "bptt": BPTT}

_N_EVALUATIONS = 10
"""Number of evaluations of a trial. The trial can be pruned after each of them."""

_OF_THE_MODEL = {"policy", "policy_kwargs", "normalize", "norm_obs", "stats_window_size"}
"""Hyper-parameters that cannot change when a run is resumed: they come from the saved model and its statistics."""


def register() -> None:
    """
    Register NRL, RMHL and BPTT with the RL Zoo. Its functions, such as ``rl_zoo3.train.train()``, can then train and
    tune them. A second call has no effect.
    """
    rl_zoo3.ALGOS.update(ALGORITHMS)
    for algo in ALGORITHMS:
        rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER[algo] = tuning.sampler(algo, {})  # type: ignore[assignment]
        rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER[algo] = tuning.config_entry  # type: ignore[assignment]
    rl_zoo3.train.ExperimentManager = ExperimentManager  # type: ignore[misc]


def config_file(algo: str, name: str | None = None) -> str | None:
    """
    Find the hyper-parameters of an algorithm.

    :param algo: Name of the algorithm
    :param name: None for the shipped config, ``"paper"`` for the paper's settings, or a config of the user
    :return: The file, or ``name`` itself if the RL Zoo finds it
    :raises ValueError: If the paper has no settings of that algorithm
    """
    check("algo", algo, name != "paper" or algo in ALGORITHMS, "nrl, rmhl or bptt for the settings of the paper")
    return str(shipped_config(algo, name or "")) if algo in ALGORITHMS and name in (None, "paper") else name


class ExperimentManager(rl_zoo3.exp_manager.ExperimentManager):
    """
    The experiments of the RL Zoo, with these additions: the shipped configs, one study for all processes that tune, the
    statistics of ``VecNormalize`` for each checkpoint, and the hyper-parameters in TensorBoard.

    The arguments are those of the RL Zoo. If ``config`` is the ``config.yml`` of a run, that run is resumed from
    ``trained_agent``: its steps are counted, and its hyper-parameters are kept.
    """

    def __init__(self, args: argparse.Namespace, algo: str, *arguments: Any, **keywords: Any) -> None:
        keywords["config"] = config_file(algo, keywords.get("config"))
        super().__init__(args, algo, *arguments, **keywords)
        self.goes_on = self.continue_training and runs.is_config_of_run(self.config)
        self.storage: str = self.storage or f"{self.log_path}study_{self.env_name}.log"
        self.study_name: str = self.study_name or f"{algo}-{self.env_name}"
        if self.n_evaluations is None and algo in ALGORITHMS:
            self.n_evaluations = _N_EVALUATIONS

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        wanted = "a number of rollouts or episodes, -1 for the algorithm's own, or -2 for no log"
        check("--log-interval", self.log_interval, self.log_interval != 0, wanted)
        counts = {
            "--eval-episodes": self.n_eval_episodes,
            "--n-eval-envs": self.n_eval_envs,
            "--n-trials": self.n_trials,
            "--n-evaluations": self.n_evaluations,
        }
        for flag, count in counts.items():
            check(flag, count, count is None or is_count(count), "at least 1")
        # Trials are loaded below: the RL Zoo ignores trial 0, and replaces all policy_kwargs.
        trial_id, self.trial_id = self.trial_id, None
        changed = self.custom_hyperparams or {}
        if self.goes_on:
            hyperparams = runs.read(Path(self.config))
            for name in changed.keys() & _OF_THE_MODEL:
                check(name, changed[name], False, f"left out, since a resumed run keeps that of {self.config}")
        else:
            try:
                hyperparams, _ = super().read_hyperparameters()
            except (FileNotFoundError, ModuleNotFoundError) as error:
                text = "there is no such file or Python module, or it needs one that is missing"
                raise ValueError(f"--conf-file {self.config}: {text} ({error})") from error
            except (AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
                text = f"{self.config} is not a table of hyper-parameters by environment"
                raise ValueError(f"{text} ({type(error).__name__}: {error})") from error
        hyperparams |= changed | ({"env_kwargs": self.env_kwargs} if self.env_kwargs else {})
        if trial_id is not None:
            try:
                found = self.load_trial(self.storage, self.study_name, trial_id)
            except (IndexError, KeyError, OSError) as error:
                raise ValueError(f"there is no trial {trial_id} of {self.study_name} in {self.storage}") from error
            if replaced := sorted(changed.keys() & found.keys()):
                print(f"The settings of trial {trial_id} replace those of -params: {', '.join(replaced)}")
            hyperparams = tuning.combine(hyperparams, found)
        for name, value in hyperparams.items():
            if self.goes_on and name not in _OF_THE_MODEL and not runs.is_data(value):
                text = f"{self.config}: {name} is a Python object, which is not read from a file"
                raise ValueError(f"{text}: give it again with -params")
            if isinstance(value, str):
                with suppress(ValueError):
                    hyperparams[name] = float(value)  # 1e-3 is text for YAML, since it has no dot
        check("n_envs", hyperparams.get("n_envs", 1), is_count(hyperparams.get("n_envs", 1)), "at least 1")
        self.saved_hyperparams = dict(hyperparams)
        if self.goes_on:  # else the RL Zoo would evaluate the text of policy_kwargs, which the saved model has
            hyperparams.pop("policy_kwargs", None)
            hyperparams |= {"policy": "", "normalize": bool(hyperparams.get("normalize"))}
        return hyperparams, self.saved_hyperparams

    def _preprocess_hyperparams(
        self, hyperparams: dict[str, Any]
    ) -> tuple[dict[str, Any], Any, list[BaseCallback], Any]:
        processed = super()._preprocess_hyperparams(hyperparams)
        if self.goes_on:  # the load function would accept any name
            algorithm = rl_zoo3.ALGOS[self.algo]
            known = set(inspect.signature(algorithm).parameters)
            if "action_noise" in known:
                known |= {"noise_type", "noise_std"}  # the RL Zoo turns them into action_noise later
            for name in processed[0].keys() - known:
                raise ValueError(f"{algorithm.__name__} has no hyper-parameter {name}")
        # Evaluation and record-video use the environment of the config too. record-video reads only args.yml.
        if self._eval_env_kwargs_args is None:
            self.eval_env_kwargs = self.env_kwargs
        self.args.env_kwargs = self.env_kwargs or None
        return processed

    def create_log_folder(self) -> None:
        while True:
            try:
                os.makedirs(self.save_path)
                return super().create_log_folder()
            except FileExistsError:  # another run started at the same time
                number = get_latest_run_id(self.log_path, self.env_name) + 1
                self.save_path = os.path.join(self.log_path, f"{self.env_name}_{number}")
                self.params_path = f"{self.save_path}/{self.env_name}"

    def create_callbacks(self) -> None:
        super().create_callbacks()
        for place, callback in enumerate(self.callbacks):
            if isinstance(callback, CheckpointCallback) and callback.save_path == self.save_path:
                # saved before the model, so that every checkpoint has its statistics
                statistics = SaveVecNormalizeCallback(self.save_freq, self.save_path, "rl_model_vecnormalize")
                self.callbacks.insert(place, statistics)
                break
        self.callbacks.append(PerformanceCallback())
        if self.tensorboard_log is not None:
            self.callbacks.append(HyperparametersCallback())

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        if not self.normalize:
            return env  # statistics are a pickle, which is loaded only if the run needs it
        model = Path(self.trained_agent)
        statistics = runs.statistics_of(model, self.env_name)
        if not self.continue_training or not statistics.exists():
            if self.continue_training:
                print(f"{model} has no statistics of its own: there is no {statistics}")
            return super()._maybe_normalize(env, eval_env)
        runs.check(model, statistics)
        env = VecNormalize.load(str(statistics), env)
        if eval_env:
            env.training = env.norm_reward = False
        return env

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        model = super()._load_pretrained_agent(hyperparams, env)
        if self.goes_on:
            n_done, n_wanted = model.num_timesteps, self.n_timesteps
            if n_done >= n_wanted:
                raise ValueError(f"{self.trained_agent} already has {n_done} steps: choose a larger -n")
            print(f"Resuming from {self.trained_agent}: {n_done} of {n_wanted} steps are done")
            self.n_timesteps = n_wanted - n_done
            if (normalize := model.get_vec_normalize_env()) is not None:
                normalize.gamma = hyperparams.get("gamma", normalize.gamma)
        return model

    def learn(self, model: BaseAlgorithm) -> None:
        before = model.num_timesteps if self.goes_on else 0
        try:
            if self.goes_on:
                self._go_on(model)
            else:
                super().learn(model)
        except Exception:
            if model.num_timesteps > before:
                self.save_trained_model(model)  # keeps what was learned before the error
            raise

    def _go_on(self, model: BaseAlgorithm) -> None:
        """Train as the RL Zoo does, but count steps from those of the resumed run."""
        # A new TensorBoard run: Stable-Baselines3 would write into the latest one, which may be that of another run.
        model.set_logger(configure_logger(model.verbose, model.tensorboard_log, type(model).__name__))
        interval: dict[str, Any] = (
            {} if self.log_interval == -1 else {"log_interval": max(self.log_interval, 0) or None}
        )
        try:
            with suppress(KeyboardInterrupt):  # the model is saved
                model.learn(self.n_timesteps, self.callbacks, reset_num_timesteps=False, **interval)
        finally:
            self.callbacks[0].on_training_end()  # closes a progress bar
            assert model.env is not None
            model.env.close()

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """Save the model after its statistics, so that a model in the folder always has statistics."""
        print(f"Saving to {self.save_path}")
        if (normalize := model.get_vec_normalize_env()) is not None:
            normalize.save(f"{self.params_path}/vecnormalize.part")
            os.replace(f"{self.params_path}/vecnormalize.part", f"{self.params_path}/vecnormalize.pkl")
        if self.save_replay_buffer and hasattr(model, "save_replay_buffer"):
            model.save_replay_buffer(f"{self.save_path}/replay_buffer.pkl")
        model.save(f"{self.save_path}/{self.env_name}")

    def objective(self, trial: optuna.Trial) -> float:
        try:
            return super().objective(trial)
        except FloatingPointError as error:  # the training diverged
            raise optuna.TrialPruned(str(error)) from error

    def hyperparameters_optimization(self) -> None:
        names = ("n_timesteps", "n_evaluations", "n_eval_episodes", "env_kwargs", "eval_env_kwargs")
        settings = {**self.saved_hyperparams, **{name: getattr(self, name) for name in names}}
        tuning.open_study(self.storage, self.study_name, settings)
        if self.algo in ALGORITHMS:
            sampler = tuning.sampler(self.algo, self._hyperparams)
            rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER[self.algo] = sampler  # type: ignore[assignment]
        super().hyperparameters_optimization()
        print("To train with the settings of a trial, give --trial-id and its number in the place of -optimize.")
