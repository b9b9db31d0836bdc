"""
What is shown besides returns: how good a mean of noisy passes is, how updates lie to the gradient, and what policies do
before they learn.
"""

from dataclasses import dataclass
from itertools import compress
from typing import Any

import gymnasium
import numpy as np
import torch as th

from sb3_nrl.callbacks import GradientAlignmentCallback
from sb3_nrl.reproduce.protocol import SMALL_HEAD, TASKS, Cell
from sb3_nrl.reproduce.runs import Columns, Run, learn, make_model

N_PASSES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

SMALL_NOISE = 1e-3
"""The paper's σ."""

N_SAMPLES = (1, 10, 100, 1000)
LARGER_NOISE = (0.01, 0.1, 0.3, 1.0)

HEAD_GAINS = (1.0, SMALL_HEAD)
"""The paper's, and the recommended one."""


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
    distribution; against the number of noise samples per step with the paper's small noise, and against the size of the
    noise with many samples.

    An update is that of a whole episode, the cosine its mean over the episodes. Each is of the same network, that of an
    untrained CartPole policy as published, since the learning rate is 0. Columns are ``std``, ``samples`` and
    ``cosine``.

    :param n_hidden: Number of hidden layers
    :param change: The distribution, a key of :data:`~sb3_nrl.reproduce.protocol.CHANGES`
    :param seed: Of the policy, the environment and the noise
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
    def cases(self) -> list[tuple[float, int]]:
        """σ, and noise samples per step."""
        samples, sizes = (N_SAMPLES[:3], LARGER_NOISE[-1:]) if self.quick else (N_SAMPLES, LARGER_NOISE)
        return [*((SMALL_NOISE, n_samples) for n_samples in samples), *((std, samples[-1]) for std in sizes)]

    @property
    def settings(self) -> dict[str, Any]:
        settings = self._cell.settings(self.seed, 4 if self.quick else 30)
        settings["arguments"]["learning_rate"] = 0.0
        return {**settings, "cases": self.cases}

    @property
    def expected_seconds(self) -> float:
        return 2.0 if self.quick else 10.0 * self.n_hidden

    def measure(self) -> Columns:
        rows = []
        for std, n_samples in self.cases:
            settings = self.settings
            settings["arguments"] |= {"noise_std": std, "n_noise_samples": n_samples}
            model, _ = make_model(settings)
            learn(model, settings["n_episodes"], TASKS["CartPole"].n_steps, GradientAlignmentCallback())
            rows.append((std, n_samples, model.logger.name_to_value["train/alignment"]))
        return dict(zip(("std", "samples", "cosine"), np.array(rows).T, strict=True))


@dataclass(frozen=True)
class UntrainedPolicies(Run):
    """
    Why some trainings of Acrobot never begin: what policies do before they learn, with the paper's head or a small one.

    Columns, with a row for each policy: ``head_gain``; ``policy``, its seed; ``reached``, the number of episodes that
    reached the goal; and ``correlation``, that between the torque and the velocity of the second link, which it drives:
    below 0 the torque brakes the swing.

    :param n_hidden: Number of hidden layers
    :param n_policies: Policies with each head; the first have the seeds of the trainings
    :param n_episodes: Episodes of each
    """

    n_hidden: int
    n_policies: int = 20
    n_episodes: int = 200
    seed = 0

    @property
    def name(self) -> str:
        return f"Acrobot/untrained_{self.n_hidden}-hidden"

    @property
    def settings(self) -> dict[str, Any]:
        settings = Cell("Acrobot", "NRL", self.n_hidden).settings(self.seed, self.n_episodes)
        return {**settings, "n_policies": self.n_policies, "head_gains": list(HEAD_GAINS)}

    @property
    def expected_seconds(self) -> float:
        return 0.1 * self.n_policies * self.n_episodes

    def measure(self) -> Columns:
        rows = [
            (head_gain, policy, *self._try(head_gain, policy))
            for head_gain in HEAD_GAINS
            for policy in range(self.n_policies)
        ]
        return dict(zip(("head_gain", "policy", "reached", "correlation"), np.array(rows).T, strict=True))

    def _try(self, head_gain: float, seed: int) -> tuple[int, float]:
        """How many episodes reach the goal, and the correlation: all at once, since that is quicker."""
        settings = self.settings
        settings["arguments"]["seed"] = seed
        settings["arguments"]["policy_kwargs"]["head_gain"] = head_gain
        model, _ = make_model(settings)
        envs = [gymnasium.make(settings["env"], disable_env_checker=True) for _ in range(self.n_episodes)]
        seen = [env.reset(seed=self.n_episodes * seed + place)[0] for place, env in enumerate(envs)]
        n_reached, torques, velocities = 0, [], []
        while envs:
            actions, _ = model.predict(np.array(seen))
            torques += list(actions - 1)
            velocities += [obs[5] for obs in seen]
            steps = [env.step(action)[:4] for env, action in zip(envs, actions, strict=True)]
            n_reached += sum(terminated for _, _, terminated, _ in steps)
            going_on = [not (terminated or truncated) for _, _, terminated, truncated in steps]
            envs = list(compress(envs, going_on))
            seen = list(compress((obs for obs, *_ in steps), going_on))
        return n_reached, np.corrcoef(torques, velocities)[0, 1]
