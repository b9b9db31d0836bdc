"""Noise-based reward-modulated learning: Stable-Baselines3 algorithms that learn from forward passes only."""

from sb3_nrl.bptt import BPTT
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.noise import Noise
from sb3_nrl.nrl import NRL
from sb3_nrl.paper import PAPER
from sb3_nrl.perturbation import PerturbablePolicy
from sb3_nrl.rmhl import RMHL
from sb3_nrl.rules import Eligibility, LearningRule, OuterProducts
from sb3_nrl.three_factor import ThreeFactorAlgorithm
from sb3_nrl.tuned import TUNED
from sb3_nrl.vec_env import GymnasiumVecEnv

__version__ = "0.3.0"

__all__ = [
    "BPTT",
    "NRL",
    "PAPER",
    "RMHL",
    "TUNED",
    "Eligibility",
    "GymnasiumVecEnv",
    "LearningRule",
    "Noise",
    "OuterProducts",
    "PerturbablePolicy",
    "RolloutWindow",
    "ThreeFactorAlgorithm",
    "__version__",
]
