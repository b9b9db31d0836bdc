"""Delayed non-match to sample by reward-modulated Hebbian learning, as in Miconi (2017), with one reward per trial.

Two stimuli follow each other with a delay between them. At the end of the trial the network has to put out 1 if they
differ and −1 if they are the same. The only reward comes at the end: minus the mean error of the response. Each kind of
trial has a running average of rewards of its own. Noise is rare and large, so that the network settles between two
perturbations. Only the recurrent weights learn.

    python examples/delayed_nonmatch.py             # one run
    python examples/delayed_nonmatch.py --runs 20   # the median over 20 runs

Differences from the paper: a step lasts 10 ms instead of 1 ms, and the eligibility is the noise times the input of the
synapse, where the paper has the cube of the fluctuations of the activity times the input.

T. Miconi: Biologically plausible learning in recurrent neural networks reproduces neural dynamics observed during
cognitive tasks. eLife 6:e20899, 2017.
"""

import argparse
import math
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from sb3_nrl import RMHL

DT = 10.0
"""Duration of a step in ms."""


class DelayedNonMatch(gymnasium.Env):
    """
    Stimulus of 200 ms, delay of 200 ms, stimulus of 200 ms, delay of 200 ms, response of 200 ms.

    Observations are two channels, one for each stimulus. The action is the response. ``info`` of the last step has
    ``trial_type``, the two stimuli, and ``right``, whether the mean error of the response was below 1.
    """

    observation_space = spaces.Box(0, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    period = round(200 / DT)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        self.errors: list[float] = []
        self.stimuli = tuple(int(stimulus) for stimulus in self.np_random.integers(2, size=2))
        return self._observe(), {}

    def _observe(self) -> np.ndarray:
        shown = np.zeros(2, np.float32)
        if self.time < self.period:
            shown[self.stimuli[0]] = 1
        elif 2 * self.period <= self.time < 3 * self.period:
            shown[self.stimuli[1]] = 1
        return shown

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        target = 1.0 if self.stimuli[0] != self.stimuli[1] else -1.0
        if self.time >= 4 * self.period:
            self.errors.append(abs(float(action[0]) - target))
        self.time += 1
        if self.time < 5 * self.period:
            return self._observe(), 0.0, False, False, {}
        error = float(np.mean(self.errors))
        return self._observe(), -error, True, False, {"trial_type": self.stimuli, "right": error < 1}


class TrialCounter(BaseCallback):
    """Counts trials until 95 of the last 100 are right, and stops after ``n_trials``."""

    def __init__(self, n_trials: int) -> None:
        super().__init__()
        self.n_trials = n_trials
        self.right: list[bool] = []
        self.learned_after: int | None = None

    def _on_step(self) -> bool:
        self.right += [info["right"] for info in self.locals["infos"] if "right" in info]
        if self.learned_after is None and len(self.right) >= 100 and np.mean(self.right[-100:]) >= 0.95:
            self.learned_after = len(self.right)
        return len(self.right) < self.n_trials


def make_model(seed: int) -> RMHL:
    """200 leaky units with a time constant of 30 ms, of which only the recurrent weights learn."""
    model = RMHL(
        "MlpCtrnnPolicy",
        DelayedNonMatch(),
        learning_rate=1e-3,
        noise_std=0.5,
        noise_distribution="uniform",
        noise_probability=0.03,
        reward_smoothing=0.25,
        scale_rpe=False,
        n_steps=100,
        norm_obs=False,
        policy_kwargs={
            "net_arch": [200],
            "dt": DT,
            "tau": 30.0,
            "use_bias": False,
            "log_std_init": -3.0,
            "action_correlation": 0.0,
            "optimizer_class": th.optim.SGD,
        },
        seed=seed,
        device="cpu",
    )
    actor: Any = model.policy.actor
    units, head = actor.hidden[0].units, actor.head.mean
    with th.no_grad():  # initial weights as in the paper
        units.weight.uniform_(-1, 1)
        units.recurrent_weight.normal_(0, 1.5 / math.sqrt(units.n_hidden))
        head.weight.zero_()
        head.weight[0, 0] = 1  # the activity of the first unit is the response
    for name, parameter in model.policy.named_parameters():
        parameter.requires_grad_("recurrent" in name)
    return model


def main() -> None:
    """Train, and tell how many trials it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1, help="number of runs, with seeds 0, 1, ...")
    parser.add_argument("--trials", type=int, default=2_000, help="trials of each run")
    arguments = parser.parse_args()

    learned_after = []
    for seed in range(arguments.runs):
        counter = TrialCounter(arguments.trials)
        make_model(seed).learn(10**9, counter)
        last = float(np.mean(counter.right[-200:]))
        learned = counter.learned_after
        print(f"seed {seed}: 95 % right after {learned or 'more'} trials; {last:.1%} of the last 200 right", flush=True)
        learned_after.append(learned or float("inf"))
    print(f"median of {arguments.runs} runs: {median(learned_after):g} trials; most: {max(learned_after):g}")


if __name__ == "__main__":
    main()
