"""What is measured besides returns: means of noisy passes, cosines to the gradient, policies before they learn."""

from itertools import compress, product
from typing import Any

import gymnasium
import numpy as np
import torch as th

from experiments.paper.protocol import CELLS, QUICK_CELLS, SMALL_HEAD, Cell, learn, make_model, training
from experiments.runs import Columns, Run
from sb3_nrl.callbacks import GradientAlignmentCallback

N_PASSES = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
SMALL_NOISE = 1e-3
"""The paper's σ."""
HEAD_GAINS = [1.0, SMALL_HEAD]
"""As published, and as recommended."""
CASES = [*((SMALL_NOISE, n) for n in (1, 10, 100, 1000)), *((std, 1000) for std in (0.01, 0.1, 0.3, 1.0))]
"""σ, and noise samples per step."""
QUICK_CASES = [(SMALL_NOISE, 1), (SMALL_NOISE, 10), (SMALL_NOISE, 100), (1.0, 100)]


@th.no_grad()
def measure_noisy_passes(settings: dict[str, Any]) -> Columns:
    """
    Figure 4A: |clean output - mean of N noisy outputs| against N, on steps of Acrobot that an untrained policy takes.

    The output is the action probabilities. Columns are ``passes`` and ``error``, the mean over actions and steps.
    """
    model, _ = make_model(settings)
    policy: Any = model.policy
    env = model.get_env()
    assert env is not None
    seen: list[Any] = [env.reset()]
    while len(seen) < settings["n_steps"]:
        seen.append(env.step(model.predict(seen[-1])[0])[0])
    obs = th.as_tensor(np.concatenate(seen))

    clean = policy.get_distribution(obs).distribution.probs
    n_actions = clean.shape[1]
    every_action = th.arange(n_actions).repeat_interleave(len(obs))
    total, errors = th.zeros_like(clean, dtype=th.float64), []
    for n_passes in range(1, max(settings["n_passes"]) + 1):
        noise = policy.sample_noise(len(obs), 1).repeat(n_actions, 1)
        log_probs = policy.noisy_pass(obs.repeat(n_actions, 1), every_action, noise).objectives[0]
        total += log_probs.exp().view(n_actions, -1).T
        if n_passes in settings["n_passes"]:
            errors.append((total / n_passes - clean).abs().mean().item())
    return {"passes": np.array(settings["n_passes"]), "error": np.array(errors)}


def measure_alignment(settings: dict[str, Any]) -> Columns:
    """
    Appendix C: the cosine between NRL's updates and the exact gradient on the same steps, with noise of a given
    distribution, against the number of noise samples per step and against σ.

    Every update is of one episode and of the same network, an untrained CartPole policy: the learning rate is 0. The
    cosine is the mean over episodes. Columns are ``std``, ``samples`` and ``cosine``.
    """
    rows = []
    for std, n_samples in settings["cases"]:
        arguments = settings["arguments"] | {"noise_std": std, "n_noise_samples": n_samples}
        model, _ = make_model(settings | {"arguments": arguments})
        learn(model, settings["n_episodes"], GradientAlignmentCallback())
        rows.append((std, n_samples, model.logger.name_to_value["train/alignment"]))
    return dict(zip(("std", "samples", "cosine"), np.array(rows).T, strict=True))


def measure_untrained(settings: dict[str, Any]) -> Columns:
    """
    Why some trainings of Acrobot never begin: what policies do before they learn, with a large head or a small one.

    Columns, with a row for each policy: ``head_gain``; ``policy``, its seed; ``reached``, the number of episodes that
    reached the goal; ``correlation``, that between the torque and the velocity of the second link, which it drives.
    Below 0, the torque brakes the swing.
    """
    policies = product(settings["head_gains"], range(settings["n_policies"]))
    rows = [(gain, seed, *_try(settings, gain, seed)) for gain, seed in policies]
    return dict(zip(("head_gain", "policy", "reached", "correlation"), np.array(rows).T, strict=True))


def _try(settings: dict[str, Any], head_gain: float, seed: int) -> tuple[int, float]:
    """How many episodes reach the goal, and the correlation. All episodes run at once, which is faster."""
    n_episodes, arguments = settings["n_episodes"], settings["arguments"]
    policy_kwargs = arguments["policy_kwargs"] | {"head_gain": head_gain}
    model, _ = make_model(settings | {"arguments": arguments | {"seed": seed, "policy_kwargs": policy_kwargs}})
    envs = [gymnasium.make(settings["env"], disable_env_checker=True) for _ in range(n_episodes)]
    seen = [env.reset(seed=n_episodes * seed + place)[0] for place, env in enumerate(envs)]
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


def noisy_passes(seed: int) -> Run:
    """The measurement for Figure 4A from one seed."""
    settings = {**Cell("Acrobot", "NRL").settings(seed, 0), "n_steps": 500, "n_passes": N_PASSES}
    return Run(f"Acrobot/clean-pass-error_seed-{seed}", measure_noisy_passes, settings, seed, 2.0)


def alignment(n_hidden: int, change: str, seed: int, quick: bool = False) -> Run:
    """The cosines with one distribution of noise from one seed. The distribution is a key of ``CHANGES``."""
    cell = Cell("CartPole", "NRL", n_hidden, change=change)
    settings = cell.settings(seed, 4 if quick else 30)
    arguments = settings["arguments"] | {"learning_rate": 0.0}
    settings |= {"arguments": arguments, "cases": QUICK_CASES if quick else CASES}
    return Run(f"{cell.name}_alignment_seed-{seed}", measure_alignment, settings, seed, 10.0 * n_hidden, cell)


def untrained(n_hidden: int) -> Run:
    """The measurement of untrained policies of one depth."""
    settings = Cell("Acrobot", "NRL", n_hidden).settings(0, 200)
    settings |= {"n_policies": 20, "head_gains": HEAD_GAINS}
    return Run(f"Acrobot/untrained_{n_hidden}-hidden", measure_untrained, settings, 0, 400.0, n_hidden)


def plan(figure: str, seeds: list[int], quick: bool = False) -> list[Run]:
    """The runs that a figure, a key of ``CELLS``, needs; with ``quick`` fewer and shorter ones."""
    cells = (QUICK_CELLS if quick else CELLS)[figure]
    runs = [training(cell, seed, quick) for cell, seed in product(cells, seeds)]
    if figure in ("fig1", "fig2") and not quick:
        runs += map(untrained, dict.fromkeys(cell.n_hidden for cell in cells if cell.task == "Acrobot"))
    if figure == "fig4":
        runs += map(noisy_passes, seeds)
    if figure == "noise":
        changes = [cell.change for cell in CELLS[figure]]
        runs += [alignment(*case, quick) for case in product((1,) if quick else (1, 2, 3), changes, seeds)]
    return runs
