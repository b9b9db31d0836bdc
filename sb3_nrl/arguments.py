"""The types of the arguments that all algorithms share."""

from typing import Any, TypedDict

import torch as th
from stable_baselines3.common.type_aliases import Schedule

from sb3_nrl.reward_prediction import RewardPrediction, RewardTiming


class SharedArguments(TypedDict, total=False):
    """The arguments that all algorithms share, for the constructors of subclasses: see ThreeFactorAlgorithm."""

    n_steps: int | None
    n_epochs: int
    clip_range: float | Schedule
    reward_prediction: RewardPrediction
    gamma: float | None
    ent_coef: float
    vf_coef: float | None
    reward_timing: RewardTiming | None
    reward_smoothing: float | None
    scale_rpe: bool | None
    trace_decay: float | None
    gae_lambda: float | None
    max_grad_norm: float | None
    norm_obs: bool
    norm_reward: bool | None
    stats_window_size: int
    tensorboard_log: str | None
    policy_kwargs: dict[str, Any] | None
    verbose: int
    seed: int | None
    device: th.device | str
