"""The search space with which the RL Zoo tunes NRL, RMHL and BPTT, and the study that all processes share."""

import re
from collections.abc import Callable
from typing import Any

import optuna
import torch as th
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rl_zoo3.utils import linear_schedule
from torch import nn

from sb3_nrl import NRL
from sb3_nrl.checks import check, is_number
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.recurrent_policies import RnnPolicy
from sb3_nrl.spiking_policies import LifPolicy

_POLICY_KWARGS: dict[str, list[Any]] = {
    "net_arch": ["[32]", "[64]", "[32, 32]", "[64, 64]"],
    "activation_fn": ["nn.Tanh", "nn.LeakyReLU"],
    "use_bias": [False, True],
    "head_gain": [0.01, 0.1, 1.0],
    "optimizer_class": ["th.optim.SGD", "th.optim.Adam"],
    "recurrent_gain": [0.8, 1.0, 1.2, 1.5],
}

_CHOICES: dict[str, list[Any]] = {
    **_POLICY_KWARGS,
    "lr_schedule": ["constant", "linear"],
    "max_grad_norm": [None, 0.5, 3.0],
    "gamma": [0.9, 0.95, 0.98, 0.99, 0.995],
    "n_steps": [4, 8, 16, 32, 64, 128],
    "vf_coef": [1.0, 5.0, 10.0],
    "ent_coef": [0.0, 0.001, 0.01, 0.1],
    "scale_rpe": [False, True],
    "trace_decay": [1.0, 0.99, 0.95, 0.9],
    "n_noise_samples": [1, 2, 4, 8, 16, 32, 64],
    "noise_hold": [16, 32, 64, 128],
}

_RANGES = {
    "learning_rate": (1e-4, 0.3),
    "reward_smoothing": (0.02, 1.0),
    "noise_std": (1e-4, 1.0),  # the noise of RMHL has to explore as well, and that of spiking neurons to make spikes
    "lambda": (0.8, 1.0),
}


def sampler(algo: str, config: dict[str, Any]) -> Callable[[optuna.Trial, int, int, dict[str, Any]], dict[str, Any]]:
    """
    Make a sampler for the RL Zoo. ``reward_prediction`` and ``reward_timing`` stay those of the config.

    :param algo: ``"nrl"``, ``"rmhl"`` or ``"bptt"``
    :param config: The arguments of the algorithm in the config
    :return: Function of the trial, and of three arguments that it ignores, that returns arguments for the algorithm
    """
    kind = NRL.policy_aliases.get(config.get("policy", ""), NoisyPolicy)
    remembers, spikes = issubclass(kind, RnnPolicy), issubclass(kind, LifPolicy)
    names = ["learning_rate", "lr_schedule", "max_grad_norm", *_POLICY_KWARGS]
    if remembers or spikes:
        names.remove("activation_fn")
    if spikes or not remembers:
        names.remove("recurrent_gain")
    names += {"nrl": ["noise_std", "n_noise_samples"], "rmhl": ["noise_std"], "bptt": []}[algo]
    if algo == "nrl" and remembers and config.get("perturbation") != "node":
        names.append("noise_hold")
    if config.get("reward_prediction", "average" if algo == "rmhl" else "critic") == "critic":
        names += ["gamma", "lambda", "n_steps", "vf_coef", "ent_coef"]
    else:
        names += ["reward_smoothing", "scale_rpe"]
        if config.get("reward_timing") != "step":  # there a trace lasts one step, and has no decay
            names.append("trace_decay")

    def suggest(trial: optuna.Trial, name: str) -> Any:
        if name in _CHOICES:
            return trial.suggest_categorical(name, _CHOICES[name])
        low, high = (1e-4, 0.1) if name == "noise_std" and algo == "nrl" and not spikes else _RANGES[name]
        return trial.suggest_float(name, low, high, log=name != "lambda")

    def sample(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
        found = config_entry({name: suggest(trial, name) for name in names})
        if isinstance(found["learning_rate"], str):
            found["learning_rate"] = linear_schedule(found["learning_rate"].removeprefix("lin_"))
        base = config.get("policy_kwargs") or {}
        return {**found, "policy_kwargs": {**base, **_evaluate(found["policy_kwargs"])}}

    return sample


def config_entry(parameters: dict[str, Any]) -> dict[str, Any]:
    """
    Convert the parameters of a trial to hyper-parameters, written as in a config of the RL Zoo.

    :param parameters: Parameters of a trial. They are checked, since the file of a study may come from anyone
    :return: Hyper-parameters
    :raises ValueError: If a parameter is not in the search space
    """
    for name, value in parameters.items():
        if name in _RANGES:
            low, high = _RANGES[name]
            check(name, value, is_number(value, 0.0) and low <= value <= high, f"from {low} to {high}, as in a trial")
        else:
            choices = _CHOICES.get(name, [])
            check(name, value, value in choices, f"one of {choices}, as in a trial")
    entry = dict(parameters)
    if "lambda" in entry:
        entry["trace_decay"] = entry["gamma"] * entry.pop("lambda")
    if entry.pop("lr_schedule") == "linear":
        entry["learning_rate"] = f"lin_{entry['learning_rate']}"
    of_policy = [f"{name}={entry.pop(name)}" for name in _POLICY_KWARGS if name in entry]
    entry["policy_kwargs"] = f"dict({', '.join(of_policy)})"
    return entry


def combine(entry: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """
    Replace hyper-parameters of a config by those of a trial. ``policy_kwargs`` that are not searched stay.

    :param entry: Hyper-parameters of a config: ``policy_kwargs`` may be text or a dictionary
    :param found: Hyper-parameters of the trial, from :func:`config_entry` or from the RL Zoo
    :return: The combined hyper-parameters
    """
    base, own = entry.get("policy_kwargs"), found.get("policy_kwargs")
    if base and isinstance(own, str):
        own = f"dict({base}, **{own})" if isinstance(base, str) else {**base, **_evaluate(own)}
    return {**entry, **found, **({"policy_kwargs": own} if own else {})}


def _evaluate(policy_kwargs: str) -> dict[str, Any]:
    """Evaluate a text that :func:`config_entry` composed from the search space."""
    return dict(eval(policy_kwargs, {"th": th, "nn": nn}))


def open_study(storage: str, name: str, settings: dict[str, Any]) -> None:
    """
    Create the study that all processes share, or check the one that exists.

    :param storage: Path of a ``.log`` file, or URL of a database
    :param name: Name of the study
    :param settings: Settings that all trials share
    :raises ValueError: If the trials of the study have other settings
    """
    backend = JournalStorage(JournalFileBackend(storage)) if storage.endswith(".log") else storage
    study = optuna.create_study(storage=backend, study_name=name, direction="maximize", load_if_exists=True)
    # Addresses of functions differ between processes.
    start = {key: re.sub(r" at 0x[0-9a-f]+", "", str(value)) for key, value in settings.items()}
    before = study.user_attrs.get("start", start)
    if differing := sorted(key for key in before.keys() | start.keys() if before.get(key) != start.get(key)):
        text = f"study {name} was started with other settings ({', '.join(differing)})"
        raise ValueError(f"{text}: give this one a --study-name of its own")
    study.set_user_attr("start", start)
