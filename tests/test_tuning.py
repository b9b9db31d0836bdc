"""Tuning: processes share a study, a study has one setting, and trial parameters are read as data."""

import json
import pathlib
from typing import Any

import optuna
import pytest
import rl_zoo3.exp_manager
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

import sb3_nrl.zoo
from sb3_nrl import NRL
from sb3_nrl.cli import main
from sb3_nrl.zoo import ALGORITHMS
from tests.test_zoo import CARTPOLE, manager, mistake, start


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty folder to run the command in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


TUNE = [*CARTPOLE, "-optimize", "-n", "160", "--eval-episodes", "1", "--no-optim-plots", "--n-trials"]


def study_of(folder: pathlib.Path, algo: str = "nrl", task: str = "CartPole-v1") -> optuna.Study:
    (folder / "logs" / algo).mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(folder / "logs" / algo / f"study_{task}.log")))
    return optuna.create_study(storage=storage, study_name=f"{algo}-{task}", direction="maximize", load_if_exists=True)


@pytest.mark.slow
def test_two_processes_share_one_study(here: pathlib.Path) -> None:
    processes = [start(here, *TUNE, "2", "--pruner", "none", "-params", "n_envs:1") for _ in range(2)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    trials = study_of(here).trials
    assert len(trials) == 4 and all(trial.state.is_finished() for trial in trials)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]  # some settings diverge: pruned
    assert {len(trial.intermediate_values) for trial in complete} == {10}


def test_study_is_of_one_setting(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled: list[dict[str, Any]] = []

    def objective(experiment: Any, trial: optuna.Trial) -> float:
        sampled.append(rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER[experiment.algo](trial, 2, 1, {}))
        return 1.0

    monkeypatch.setattr(rl_zoo3.exp_manager.ExperimentManager, "objective", objective)
    kwargs = ["-params", "policy_kwargs:dict(activation_fn=lambda: nn.ReLU(), log_std_init=0.5)"]
    for _ in range(2):  # functions have other addresses each time
        main([*TUNE, "1", *kwargs])
    assert [found["policy_kwargs"]["log_std_init"] for found in sampled] == [0.5, 0.5]
    for options in (["-params", "n_envs:2"], ["-n", "65"], ["-conf", "paper"], ["--eval-episodes", "7"]):
        line = mistake([*TUNE, "1", *options])
        assert "was started with other settings" in line and "--study-name" in line
    assert len(study_of(here).trials) == 2
    main([*TUNE, "1", "-n", "65", "--study-name", "another"])


def test_hopeless_and_diverging_trials_are_pruned(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def report(trial: optuna.Trial) -> float:
        rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER["nrl"](trial, 2, 1, {})
        for evaluation in range(1, 11):
            trial.report(1e6, evaluation)
        return 1e6

    sb3_nrl.zoo.register()
    study_of(here).optimize(report, n_trials=2)
    main([*TUNE, "1", "--n-startup-trials", "1", "-params", "n_envs:1"])

    def diverge(*_: Any) -> float:
        raise FloatingPointError("diverged")

    monkeypatch.setattr(rl_zoo3.exp_manager.ExperimentManager, "objective", diverge)
    main([*TUNE, "1", "--n-startup-trials", "1", "-params", "n_envs:1"])
    assert [trial.state for trial in study_of(here).trials] == [TrialState.COMPLETE] * 2 + [TrialState.PRUNED] * 2


PYTHON_CONFIG = """
from torch import nn
policy_kwargs = {"action_correlation": 0.9, "log_std_init": 0.5, "activation_fn": lambda: nn.LeakyReLU(0.1)}
hyperparams = {"default": {"policy": "MlpPolicy", "n_timesteps": 80, "policy_kwargs": policy_kwargs}}
"""


@pytest.mark.parametrize("config", [None, "own.py"], ids=["text", "Python"])
@pytest.mark.parametrize("trial_id", [0, 1])
def test_run_with_the_settings_of_a_trial_keeps_the_policy_of_the_config(
    tmp_path: pathlib.Path, config: str | None, trial_id: int
) -> None:
    (tmp_path / "own.py").write_text(PYTHON_CONFIG)
    sb3_nrl.zoo.register()
    task, name = "MountainCarContinuous-v0", config and str(tmp_path / config)
    study = study_of(tmp_path, task=task)
    study.optimize(lambda trial: len(rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER["nrl"](trial, 1, 1, {})), n_trials=2)
    parameters = study.trials[trial_id].params
    changed = {"learning_rate": 0.9, "vf_coef": 2.5}  # as in the search, the values of the trial are used
    made = manager(tmp_path, "nrl", task, name=name, trial_id=trial_id, hyperparams=changed).setup_experiment()
    assert made is not None and isinstance(made[0], NRL)
    model = made[0]
    assert (model.policy.action_correlation, model.policy.log_std_init) == (0.9, 0.5)
    assert (str(model.policy.net_arch), model.policy.head_gain) == (parameters["net_arch"], parameters["head_gain"])
    assert f"th.optim.{type(model.policy.optimizer).__name__}" == parameters["optimizer_class"]
    assert (model.noise_std, model.lr_schedule(1)) == (parameters["noise_std"], parameters["learning_rate"])
    assert model.lr_schedule(0) == (0 if parameters["lr_schedule"] == "linear" else parameters["learning_rate"])
    assert model.trace_decay == parameters["gamma"] * parameters["lambda"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net_arch", "[__import__('os').mkdir('run_as_code')]"),
        ("optimizer_class", "[__import__('os').mkdir('run_as_code')]"),
        ("lr_schedule", "other"),
        ("unknown", "[__import__('os').mkdir('run_as_code')]"),
        ("learning_rate", 5.0),
    ],
)
def test_parameters_of_a_study_are_checked(here: pathlib.Path, name: str, value: Any) -> None:
    sb3_nrl.zoo.register()
    study = study_of(here)
    study.optimize(lambda trial: len(rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER["nrl"](trial, 2, 1, {})), n_trials=1)
    distribution = FloatDistribution(0, 9) if isinstance(value, float) else CategoricalDistribution([value])
    changed = study.trials[0].params | {name: value}, study.trials[0].distributions | {name: distribution}
    study.add_trial(create_trial(value=1.0, params=changed[0], distributions=changed[1]))
    line = mistake([*CARTPOLE, "--trial-id", "1"])
    assert f"{name}={value!r}: must be" in line
    assert not pathlib.Path("run_as_code").exists()


@pytest.mark.parametrize(
    ("algo", "fixed"),
    [
        *((algo, {}) for algo in ALGORITHMS),
        *((algo, {"reward_prediction": "average"}) for algo in ("nrl", "bptt")),
        ("nrl", {"reward_prediction": "average", "reward_timing": "step"}),
        *((algo, {"policy": "MlpCtrnnPolicy"}) for algo in ALGORITHMS),
        *(("nrl", {"policy": policy}) for policy in ("MlpLifPolicy", "MlpStatefulLifPolicy")),
    ],
    ids=str,
)
def test_every_point_of_the_search_space_is_a_model(
    algo: str, fixed: dict[str, Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[dict[str, Any], Any]] = []
    make: Any = ALGORITHMS[algo]

    def objective(experiment: Any, _: optuna.Trial) -> float:
        trials = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _number in range(24):
            sampled = rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER[algo](trials.ask(), 2, 1, {})
            arguments = {"policy": "MlpPolicy", "env": "CartPole-v1", "device": "cpu", **fixed, **sampled}
            made.append((sampled, make(**arguments)))
        return 1.0

    monkeypatch.setattr(rl_zoo3.exp_manager.ExperimentManager, "objective", objective)
    config = tmp_path / "own.yml"
    config.write_text(json.dumps({"CartPole-v1": {"n_timesteps": 64, "policy": "MlpPolicy", **fixed}}))
    experiment = manager(
        tmp_path, algo, "CartPole-v1", name=str(config), optimize_hyperparameters=True, no_optim_plots=True
    )
    assert experiment.setup_experiment() is None
    experiment.hyperparameters_optimization()
    has_critic = algo != "rmhl" and "reward_prediction" not in fixed
    for sampled, model in made:
        assert ("vf_coef" in sampled, "reward_smoothing" in sampled) == (has_critic, not has_critic)
        assert ("trace_decay" in sampled) == ("reward_timing" not in fixed)
        policy = fixed.get("policy", "MlpPolicy")
        assert ("noise_hold" in sampled) == (algo == "nrl" and policy in ("MlpCtrnnPolicy", "MlpStatefulLifPolicy"))
        assert ("recurrent_gain" in sampled["policy_kwargs"]) == (policy == "MlpCtrnnPolicy")
        assert ("activation_fn" in sampled["policy_kwargs"]) == (policy == "MlpPolicy")
        assert sampled.get("noise_std", 0) < 0.1 or algo == "rmhl" or "Lif" in policy
        assert all(vars(model)[name] == sampled[name] for name in sampled.keys() - {"learning_rate", "policy_kwargs"})
    assert policy != "MlpLifPolicy" or any(sampled["noise_std"] > 0.2 for sampled, _ in made)
    assert {str(model.policy.net_arch) for _, model in made} == {"[32]", "[64]", "[32, 32]", "[64, 64]"}
