"""What the figures show besides returns: how good a mean of noisy passes is, and how updates lie to the gradient."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th

from sb3_nrl.callbacks import GradientAlignmentCallback
from sb3_nrl.reproduce.protocol import TASKS, Cell
from sb3_nrl.reproduce.runs import Columns, Run, make_model, train

N_PASSES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

SMALL_NOISE = 1e-3
"""The paper's σ."""

MANY_SAMPLES = 1000


@dataclass(frozen=True)
class CleanPassError(Run):
    """
    Figure 4A: |clean output - mean of N noisy outputs| against N, over steps of Acrobot that an untrained policy takes.

    The output is the action probabilities, the error its mean over actions and steps; columns are ``passes`` and
    ``error``.

    :param seed: Of the policy, the environment and the noise
    :param n_steps: Steps to average over
    """

    seed: int
    n_steps: int = 500

    @property
    def name(self) -> str:
        return f"Acrobot/clean-pass-error_seed-{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        return {**Cell("Acrobot", "NRL").settings(self.seed, 0), "n_steps": self.n_steps, "n_passes": list(N_PASSES)}

    @property
    def expected_seconds(self) -> float:
        return 1.0

    @th.no_grad()
    def measure(self) -> Columns:
        model, _ = make_model(self.settings)
        policy, env = model.policy, model.get_env()
        assert env is not None
        seen = [env.reset()]
        while len(seen) < self.n_steps:
            seen.append(env.step(model.predict(seen[-1])[0])[0])  # type: ignore[arg-type]
        obs = th.as_tensor(np.concatenate(seen))  # type: ignore[arg-type]

        clean = policy.perturbation.run(obs, th.zeros(len(obs), policy.perturbation.n_nodes))[0].softmax(1)
        total, errors = th.zeros_like(clean, dtype=th.float64), []
        for n_passes in range(1, max(N_PASSES) + 1):
            total += policy.perturbation.run(obs, policy.sample_noise(len(obs)))[0].softmax(1)
            if n_passes in N_PASSES:
                errors.append((total / n_passes - clean).abs().mean().item())
        return {"passes": np.array(N_PASSES), "error": np.array(errors)}


@dataclass(frozen=True)
class Alignment(Run):
    """
    Appendix C: the cosine between NRL's updates and the exact gradient on the same steps, with noise of a given
    distribution, at the beginning of CartPole trainings as the paper's; against the number of noise samples per step
    with the paper's small noise, and against the size of the noise with many samples.

    An update is that of a whole episode, the cosine its mean over the episodes; columns are ``std``, ``samples`` and
    ``cosine``.

    :param n_hidden: Number of hidden layers
    :param change: The distribution, a key of :data:`~sb3_nrl.reproduce.protocol.CHANGES`
    :param seed: Of each training
    :param quick: Whether a few episodes will do
    """

    n_hidden: int
    change: str
    seed: int
    quick: bool = False

    @property
    def name(self) -> str:
        return f"{self._cell.name}_alignment_seed-{self.seed}"

    @property
    def _cell(self) -> Cell:
        return Cell("CartPole", "NRL", self.n_hidden, change=self.change)

    @property
    def cases(self) -> list[tuple[float, int, int]]:
        """σ, noise samples per step, episodes: fewer of them where each is told more exactly."""
        cases = [(SMALL_NOISE, n_samples, 500 // round(n_samples**0.5)) for n_samples in (1, 10, 100, 1000, 10_000)]
        cases += [(std, MANY_SAMPLES, 16) for std in (0.01, 0.1, 0.3, 1.0)]
        return [(std, n_samples, 4) for std, n_samples, _ in cases if n_samples <= 100] if self.quick else cases

    @property
    def settings(self) -> dict[str, Any]:
        return {**self._cell.settings(self.seed, 0), "cases": self.cases}

    @property
    def expected_seconds(self) -> float:
        return 2.0 if self.quick else 25.0

    def measure(self) -> Columns:
        rows = []
        for std, n_samples, n_episodes in self.cases:
            settings = self._cell.settings(self.seed, n_episodes)
            settings["arguments"] |= {"noise_std": std, "n_noise_samples": n_samples}
            model, _ = train(settings, TASKS["CartPole"].n_steps, GradientAlignmentCallback())
            rows.append((std, n_samples, model.logger.name_to_value["train/alignment"]))
        return dict(zip(("std", "samples", "cosine"), np.array(rows).T, strict=True))
