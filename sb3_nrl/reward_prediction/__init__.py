"""Reward predictors, which compute reward prediction errors."""

from sb3_nrl.reward_prediction.average import RewardTiming, RunningAverage
from sb3_nrl.reward_prediction.base import RewardErrors, RewardPredictor
from sb3_nrl.reward_prediction.critic import TDCritic
from sb3_nrl.reward_prediction.selection import RewardPrediction, make_predictor

__all__ = [
    "RewardErrors",
    "RewardPrediction",
    "RewardPredictor",
    "RewardTiming",
    "RunningAverage",
    "TDCritic",
    "make_predictor",
]
