"""The algorithms written out as the paper does: one step, one environment and one synapse matrix at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
from torch.nn.functional import leaky_relu

Weights = list[th.Tensor]
Step = dict[str, np.ndarray]


def network(weights: Weights, x: th.Tensor, noise: Sequence[th.Tensor]) -> tuple[th.Tensor, list[th.Tensor]]:
    """Logits, and what each layer received."""
    received = []
    for place, (weight, xi) in enumerate(zip(weights, noise, strict=True)):
        received.append(x)
        h = weight @ x + xi
        x = h if place == len(weights) - 1 else leaky_relu(h, 0.1)
    return x, received


def nrl_trace(
    normalization: str, antithetic: bool
) -> Callable[[Weights, th.Tensor, int, Sequence[th.Tensor]], list[th.Tensor]]:
    """One step's addend to the trace of each layer, given one sample of noise per row."""

    def addend(weights: Weights, x: th.Tensor, action: int, samples: Sequence[th.Tensor]) -> list[th.Tensor]:
        sizes = [len(weight) for weight in weights]
        total = [th.zeros_like(weight) for weight in weights]
        if antithetic:
            samples = samples[: len(samples) // 2]
        for xi in samples:
            layers = xi.split(sizes)
            silence = [th.zeros_like(layer) for layer in layers]
            plus, received = network(weights, x, layers)
            other, other_received = network(weights, x, [-layer for layer in layers] if antithetic else silence)
            rho = plus.log_softmax(0)[action] - other.log_softmax(0)[action]
            if antithetic:
                rho = rho / 2
                received = [(one + two) / 2 for one, two in zip(received, other_received, strict=True)]
            for place, layer in enumerate(layers):
                norm = layer @ layer if normalization == "layer" else xi @ xi
                factor = len(xi) if normalization == "unbiased" else 1
                total[place] += factor * rho / norm * th.outer(layer, received[place]) / len(samples)
        return total

    return addend


def rmhl_trace(weights: Weights, x: th.Tensor, action: int, samples: Sequence[th.Tensor]) -> list[th.Tensor]:
    """ξ ⊗ x̃ of the one noisy pass."""
    layers = samples[0].split([len(weight) for weight in weights])
    _, received = network(weights, x, layers)
    return [th.outer(layer, pre) for layer, pre in zip(layers, received, strict=True)]


def bptt_trace(weights: Weights, x: th.Tensor, action: int, samples: Sequence[th.Tensor]) -> list[th.Tensor]:
    """∂ log π(a|s) / ∂W by autograd."""
    leaves = [weight.clone().requires_grad_() for weight in weights]
    logits, _ = network(leaves, x, [th.zeros(len(weight), dtype=x.dtype) for weight in weights])
    return list(th.autograd.grad(logits.log_softmax(0)[action], leaves))


def train(
    weights: Weights,
    steps: Sequence[Step],
    noise_TESN: Sequence[Any],
    addend: Callable[[Weights, th.Tensor, int, Sequence[th.Tensor]], list[th.Tensor]],
    timing: str,
    decay: float,
    learning_rate: float,
    smoothing: float,
    scale: bool,
) -> Weights:
    """What the weights become over recorded steps, in double precision."""
    weights = [weight.double() for weight in weights]
    n_envs = len(steps[0]["rewards"])
    traces = [[th.zeros_like(weight) for weight in weights] for _ in range(n_envs)]
    reward_sum = [0.0] * n_envs
    average: dict[int, float] = {}
    for step, noise_ESN in zip(steps, noise_TESN, strict=True):
        change = [th.zeros_like(weight) for weight in weights]
        for env in range(n_envs):
            x = th.as_tensor(step["obs"][env]).double()
            new = addend(weights, x, int(step["actions"][env]), [th.as_tensor(xi).double() for xi in noise_ESN[env]])
            traces[env] = [decay * trace + part for trace, part in zip(traces[env], new, strict=True)]
            reward, done = float(step["rewards"][env]), bool(step["dones"][env])
            reward_sum[env] += reward
            if done or timing == "step" or (timing == "nonzero" and reward != 0):
                r = reward_sum[env]
                predicted = average.get(env, r)
                delta = r - predicted
                average[env] = predicted + smoothing * delta
                if done and timing == "step":
                    del average[env]
                if scale and r != 0:
                    delta /= abs(r)
                change = [total + delta * trace for total, trace in zip(change, traces[env], strict=True)]
                traces[env] = [th.zeros_like(weight) for weight in weights]
                reward_sum[env] = 0.0
        weights = [weight + learning_rate * total for weight, total in zip(weights, change, strict=True)]
    return weights
