"""The settings of the paper (Table 2 and Appendix B), where they differ from the defaults."""

from functools import partial
from typing import Any

import torch as th
from torch import nn

_NETWORK: dict[str, Any] = {
    "net_arch": [64],
    "activation_fn": partial(nn.LeakyReLU, 0.1),
    "use_bias": False,
    "head_gain": 1.0,
    "action_correlation": 0.0,
    "optimizer_class": th.optim.SGD,
}

_RUNNING_AVERAGE: dict[str, Any] = {
    "n_steps": 128,
    "reward_prediction": "average",
    "reward_timing": "episode",
    "reward_smoothing": 0.66,
    "gamma": 1.0,
    "trace_decay": 1.0,
    "max_grad_norm": None,
    "norm_obs": False,
}

PAPER: dict[str, dict[str, Any]] = {
    "NRL": {
        **_RUNNING_AVERAGE,
        "learning_rate": 5e-2,
        "noise_std": 1e-3,
        "noise_normalization": "network",
        "n_noise_samples": 1,
        "antithetic": False,
        "local_head": False,
        "policy_kwargs": {**_NETWORK},
    },
    "BPTT": {**_RUNNING_AVERAGE, "learning_rate": 5e-3, "policy_kwargs": {**_NETWORK}},
    "RMHL": {"learning_rate": 1e-2, "noise_std": 0.1, "norm_obs": False, "policy_kwargs": {**_NETWORK}},
}
"""
Arguments for each algorithm: ``NRL("MlpPolicy", "CartPole-v1", **PAPER["NRL"])`` is the paper's own rule (Eq. 13 to 17)
with its settings for CartPole.
"""
