"""What Optuna searches when the RL Zoo tunes NRL, RMHL or BPTT, and what it found, made readable.

A trial's parameters become an entry of a zoo config by ``config_entry``, which ``combine`` lays over the one that the
study starts from: for the model that the trial trains, a run with the settings of a trial (``--trial-id``), and the
report.
"""

from collections.abc import Callable
from typing import Any

import optuna
import torch as th
import yaml
from optuna.trial import FrozenTrial, TrialState
from rl_zoo3.exp_manager import ExperimentManager
from torch import nn

_POLICY_KWARGS: dict[str, list[Any]] = {
    "net_arch": ["[32]", "[64]", "[32, 32]", "[64, 64]"],
    "activation_fn": ["nn.Tanh", "nn.LeakyReLU"],
    "use_bias": [False, True],
    "head_gain": [0.01, 0.1, 1.0],
    "optimizer_class": ["th.optim.SGD", "th.optim.Adam"],
}

_N_BEST = 10

Sampler = Callable[[optuna.Trial, int, int, dict[str, Any]], dict[str, Any]]


def _suggest(trial: optuna.Trial, prediction: str = "critic") -> dict[str, Any]:
    """
    The parameters that all three algorithms have. Who predicts rewards (by default ``prediction``), and when they
    count, is not searched: the study has kept what its config says of it.
    """
    suggested: dict[str, Any] = {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 0.3, log=True),
        "lr_schedule": trial.suggest_categorical("lr_schedule", ["constant", "linear"]),
        "max_grad_norm": trial.suggest_categorical("max_grad_norm", [None, 0.5, 3.0]),
        **{name: trial.suggest_categorical(name, choices) for name, choices in _POLICY_KWARGS.items()},
    }
    config = trial.study.user_attrs.get("start", {})
    if config.get("reward_prediction", prediction) == "critic":
        suggested["gamma"] = trial.suggest_categorical("gamma", [0.9, 0.95, 0.98, 0.99, 0.995])
        suggested["lambda"] = trial.suggest_float("lambda", 0.8, 1.0)
        suggested["n_steps"] = trial.suggest_categorical("n_steps", [4, 8, 16, 32])
        suggested["vf_coef"] = trial.suggest_categorical("vf_coef", [1.0, 3.0, 10.0])
        suggested["ent_coef"] = trial.suggest_categorical("ent_coef", [0.0, 0.001, 0.01, 0.1])
        return suggested
    suggested["reward_smoothing"] = trial.suggest_float("reward_smoothing", 0.02, 1.0, log=True)
    suggested["scale_rpe"] = trial.suggest_categorical("scale_rpe", [False, True])
    if config.get("reward_timing") != "step":  # else a trace lasts one step, and has no decay
        suggested["trace_decay"] = trial.suggest_categorical("trace_decay", [1.0, 0.99, 0.95, 0.9])
    return suggested


def suggest_bptt(trial: optuna.Trial) -> dict[str, Any]:
    """:return: The trial's parameters for BPTT"""
    return _suggest(trial)


def suggest_rmhl(trial: optuna.Trial) -> dict[str, Any]:
    """:return: The trial's parameters for RMHL, whose noise has to explore as well"""
    return {**_suggest(trial, "average"), "noise_std": trial.suggest_float("noise_std", 1e-3, 1.0, log=True)}


def suggest_nrl(trial: optuna.Trial) -> dict[str, Any]:
    """:return: The trial's parameters for NRL"""
    return {
        **_suggest(trial),
        "noise_std": trial.suggest_float("noise_std", 1e-4, 0.1, log=True),
        "n_noise_samples": trial.suggest_categorical("n_noise_samples", [1, 2, 4, 8, 16]),
    }


def config_entry(parameters: dict[str, Any]) -> dict[str, Any]:
    """
    The hyper-parameters that a trial's parameters stand for.

    :param parameters: Parameters of a trial
    :return: Hyper-parameters, written as in a config of the zoo
    """
    entry = dict(parameters)
    if "lambda" in entry:
        entry["trace_decay"] = entry["gamma"] * entry.pop("lambda")
    if entry.pop("lr_schedule") == "linear":
        entry["learning_rate"] = f"lin_{entry['learning_rate']}"
    entry["policy_kwargs"] = f"dict({', '.join(f'{name}={entry.pop(name)}' for name in _POLICY_KWARGS)})"
    return entry


def combine(entry: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """
    Lay the hyper-parameters of a trial over those that it started from. Of ``policy_kwargs`` those stay that the trial
    says nothing of.

    :param entry: Hyper-parameters, as a config of the zoo has them: ``policy_kwargs`` may be a text or a dictionary
    :param found: Those of the trial, by :func:`config_entry`; of another algorithm, or none, they replace the others
    :return: Both
    """
    combined = {**entry, **found}
    base, own = entry.get("policy_kwargs"), found.get("policy_kwargs")
    if base and isinstance(own, str):
        as_text = isinstance(base, str)
        combined["policy_kwargs"] = f"dict({base}, **{own})" if as_text else {**base, **_evaluate(own)}
    return combined


def _evaluate(policy_kwargs: str) -> dict[str, Any]:
    return dict(eval(policy_kwargs, {"th": th, "nn": nn}))


def sampler(suggest: Callable[[optuna.Trial], dict[str, Any]]) -> Sampler:
    """
    A sampler as the zoo wants it.

    :param suggest: Suggests the parameters of a trial
    :return: Function of the trial (and of numbers that are not needed) that returns arguments for the algorithm
    """

    def sample(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
        arguments = ExperimentManager._preprocess_schedules(config_entry(suggest(trial)))
        return {**arguments, "policy_kwargs": _evaluate(arguments["policy_kwargs"])}

    return sample


def report(study: optuna.Study, env_id: str, entry: dict[str, Any], command: str) -> str:
    """
    A study as a page of Markdown: the best trials, which parameters mattered, and an entry for a config.

    :param study: The study; at least one of its trials is complete
    :param env_id: The environment
    :param entry: The hyper-parameters that the trials started from
    :param command: What the user typed
    :return: The page
    """
    complete = study.get_trials(states=[TrialState.COMPLETE])
    n_pruned = len(study.get_trials(states=[TrialState.PRUNED]))
    best = sorted(complete, key=_value, reverse=True)[:_N_BEST]
    names = sorted({name for trial in best for name in trial.params})
    rows = [
        ["trial", "mean return", *names],
        ["---"] * (2 + len(names)),
        *([str(t.number), f"{_value(t):.2f}", *(_show(t.params.get(name)) for name in names)] for t in best),
    ]
    page = [
        f"# {study.study_name}: {len(study.trials)} trials, {len(complete)} of them complete, {n_pruned} pruned",
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
    ]
    if len(complete) > 1:
        importances = optuna.importance.get_param_importances(study)
        page.append("Importance: " + ", ".join(f"{name} {share:.2f}" for name, share in importances.items()))
    base = entry.get("policy_kwargs")
    if isinstance(base, dict):
        kept = {name: value for name, value in base.items() if name not in _POLICY_KWARGS}
        entry = {**entry, "policy_kwargs": str(kept)}
        if "<" in entry["policy_kwargs"]:
            page.append("What stands in angle brackets no config in YAML can name: it needs one in Python.")
    tuned = {env_id: combine(entry, config_entry(best[0].params))}
    page.append(
        f"```yaml\n# Tuned, trial {best[0].number} of {len(study.trials)}: {command}\n{yaml.dump(tuned, width=100)}```"
    )
    return "\n\n".join(page) + "\n"


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _show(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
