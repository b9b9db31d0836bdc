"""Move trained spiking networks to a chip with flaws, and let NRL train them there, through the flaws.

A surrogate gradient needs a model of every neuron. NRL needs only what comes out of the chip. How much return do
weights lose that BPTT trained for ideal neurons, and what does NRL make of them there? Each chip has one flaw, the last
one has several: mismatch of thresholds and time constants, weights of 8 or 4 bits, dead neurons, noisy synapses.

    python examples/spiking_hardware.py
"""

import argparse
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_nrl import BPTT, NRL, TUNED
from sb3_nrl.layers import Dense, Lif
from sb3_nrl.spiking_policies import LifPolicy

FLAWS: dict[str, dict[str, float]] = {
    "mismatch of 60 %": {"mismatch": 0.6},
    "weights of 8 bits": {"bits": 8},
    "weights of 4 bits": {"bits": 4},
    "80 % of the neurons dead": {"dead": 0.8},
    "noise of 100 % on every synapse": {"synapse_noise": 1.0},
    "4 bits, mismatch, dead neurons and noise": {"bits": 4, "mismatch": 0.6, "dead": 0.5, "synapse_noise": 0.5},
}


class Chip:
    """What happens to weights on the chip, for all layers alike."""

    def __init__(self, mismatch: float = 0, bits: float = 0, dead: float = 0, synapse_noise: float = 0) -> None:
        self.mismatch, self.bits, self.dead, self.synapse_noise = mismatch, bits, dead, synapse_noise

    def store(self, xp: Any, weights: Any) -> Any:
        """Weights as the chip has them in one pass."""
        if self.bits:
            step = abs(weights).max() / (2 ** (self.bits - 1) - 1) + 1e-12
            weights = (weights / step).round() * step
        if self.synapse_noise:
            noise = th.randn(tuple(weights.shape))
            weights = weights * (1 + self.synapse_noise * (noise.numpy() if xp is np else noise.to(weights.device)))
        return weights


class ChipLif(Lif):
    """Neurons on the chip."""

    chip = Chip()

    def arrays(self, xp: Any) -> tuple[Any, ...]:
        return tuple(self.chip.store(xp, weights) for weights in super().arrays(xp))

    def vary(self) -> None:
        """Draw the neurons' flaws, which stay."""
        for values in (self.beta, self.threshold):
            values *= (1 + self.chip.mismatch * th.randn_like(values)).clamp(0.2, 1.8)
        self.beta.clamp_(max=0.99)
        self.threshold[th.rand_like(self.threshold) < self.chip.dead] = 1e9


class ChipHead(Dense):
    """The linear layer of a head on the chip."""

    chip = Chip()

    def arrays(self, xp: Any) -> tuple[Any, ...]:
        return tuple(self.chip.store(xp, weights) for weights in super().arrays(xp))


class ChipPolicy(LifPolicy):
    """A spiking policy on the chip."""

    lif_class = ChipLif

    def make_layer(self, n_inputs: int, n_outputs: int, activation: Any) -> Dense:
        return ChipHead(n_inputs, n_outputs, self.use_bias, activation)


def mean_return(model: Any, env: Any) -> float:
    """Mean return of 50 episodes."""
    return float(np.mean(evaluate_policy(model, env, n_eval_episodes=50)[0]))


def main() -> None:
    """Train an ideal network with a surrogate gradient, then move it to each chip, and train it there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=50_000, help="environment steps of the surrogate gradient")
    parser.add_argument("--on-chip", type=int, default=150_000, help="environment steps of NRL on each chip")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()

    tuned = TUNED["CartPole-v1"]
    env = tuned.make_env(seed=chosen.seed)
    without_noise = {name: value for name, value in tuned.algorithm.items() if name != "n_noise_samples"}
    ideal = BPTT("MlpLifPolicy", env, seed=chosen.seed, **without_noise).learn(chosen.timesteps)
    print(f"surrogate gradient, ideal neurons: mean return {mean_return(ideal, env):.0f}")
    for name, flaw in FLAWS.items():
        ChipLif.chip = ChipHead.chip = Chip(**flaw)
        model = NRL(ChipPolicy, env, seed=chosen.seed, **tuned.algorithm)
        model.policy.load_state_dict(ideal.policy.state_dict())
        for layer in model.policy.modules():
            if isinstance(layer, ChipLif):
                layer.vary()
        model.refresh()
        moved = mean_return(model, env)
        model.learn(chosen.on_chip)
        print(f"{name}: mean return {moved:.0f} after the move, {mean_return(model, env):.0f} after NRL on the chip")


if __name__ == "__main__":
    main()
