"""Selection of a reward predictor by the arguments of an algorithm."""

import inspect
from typing import Any, Literal

from sb3_nrl.checks import check
from sb3_nrl.reward_prediction.average import RunningAverage
from sb3_nrl.reward_prediction.base import RewardPredictor
from sb3_nrl.reward_prediction.critic import TDCritic

RewardPrediction = Literal["critic", "average"]

PREDICTORS: dict[str, Any] = {"critic": TDCritic, "average": RunningAverage}
"""Classes by the value of the argument ``reward_prediction``."""

_DEFAULT_VF_COEF = 5.0

_WITHOUT_MEANING = {
    "gamma": 1.0,
    "ent_coef": 0.0,
    "vf_coef": 1.0,
    "reward_timing": "step",
    "reward_smoothing": None,
    "scale_rpe": None,
    "norm_reward": False,
}
"""The value of each argument with a predictor that does not use it."""


def make_predictor(kind: str, arguments: dict[str, Any], n_envs: int) -> tuple[RewardPredictor, dict[str, Any]]:
    """
    Make a reward predictor from an algorithm's arguments.

    :param kind: A key of ``PREDICTORS``
    :param arguments: Arguments of all predictors; None selects a default
    :param n_envs: Number of environments E
    :return: The predictor, and all arguments with defaults filled in
    :raises ValueError: If an argument is out of range, or belongs to another predictor
    """
    check("reward_prediction", kind, kind in tuple(PREDICTORS), f"one of {tuple(PREDICTORS)}")
    predictor_class = PREDICTORS[kind]
    parameters = inspect.signature(predictor_class).parameters
    taken = {*parameters, *(["vf_coef"] if predictor_class.has_critic else [])}
    for name, value in arguments.items():
        neutral = _WITHOUT_MEANING[name]
        valid = name in taken or value is None or value == neutral
        check(name, value, valid, f'{neutral} with reward_prediction="{kind}"')
    given = {name: value for name, value in arguments.items() if name in parameters and value is not None}
    predictor: RewardPredictor = predictor_class(**given, **({"n_envs": n_envs} if "n_envs" in parameters else {}))
    used = {
        name: getattr(predictor, name) if name in parameters else value if name in taken else _WITHOUT_MEANING[name]
        for name, value in arguments.items()
    }
    if used["vf_coef"] is None:
        used["vf_coef"] = _DEFAULT_VF_COEF
    return predictor, used
