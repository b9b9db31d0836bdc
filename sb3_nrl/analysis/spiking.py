"""What a decision of spiking neurons costs, and pictures of their spikes.

Shapes: M ticks of a step, H neurons of a layer, T steps of a trial.
"""

from typing import TYPE_CHECKING, NamedTuple

import gymnasium
import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_nrl.analysis.plots import figure_of
from sb3_nrl.analysis.recorder import record
from sb3_nrl.analysis.recording import Recording
from sb3_nrl.checks import check, is_count, is_number
from sb3_nrl.layers import Lif, SpikeEncoder
from sb3_nrl.layers.dense import linear_layer
from sb3_nrl.layers.spiking import lif_layers
from sb3_nrl.three_factor import ThreeFactorAlgorithm

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Energy(NamedTuple):
    """
    Cost of a decision of the actor, from the hidden layers on, averaged over the steps of some episodes.

    :param spikes: Spikes of all hidden neurons
    :param synaptic_operations: Additions of a weight, one for each spike and each synapse that it reaches
    :param multiply_accumulates: Products with a number that is no spike: of a constant input, once per step
    :param membrane_updates: Leaks of a membrane, one for each neuron and tick
    :param joules: Energy of synaptic operations and membrane updates (additions) and multiply-accumulates
    :param rate_multiply_accumulates: Multiply-accumulates of the same network of rate units
    :param rate_joules: Their energy
    :param mean_return: Mean return of the episodes
    """

    spikes: float
    synaptic_operations: float
    multiply_accumulates: float
    membrane_updates: float
    joules: float
    rate_multiply_accumulates: float
    rate_joules: float
    mean_return: float


def energy(
    model: ThreeFactorAlgorithm,
    env: gymnasium.Env | VecEnv,
    n_episodes: int = 10,
    joules_per_addition: float = 0.9e-12,
    joules_per_multiply_accumulate: float = 4.6e-12,
    seed: int | None = None,
) -> Energy:
    """
    Count what decisions of a spiking actor cost, beside the same network of rate units.

    The default energies are those of 32-bit floating-point arithmetic in 45 nm (Horowitz 2014, ISSCC): 0.9 pJ for an
    addition, 4.6 pJ for a multiplication and an addition. Memory is not counted, and chips have figures of their own.

    :param model: A model with a spiking policy
    :param env: Environment, or several
    :param n_episodes: Number of episodes, with the most likely actions
    :param joules_per_addition: Energy of a synaptic operation, and of a membrane's update
    :param joules_per_multiply_accumulate: Energy of a multiply-accumulate
    :param seed: Seed of the environments
    :return: The cost of a decision
    :raises ValueError: If the policy is not spiking, or an argument is out of range
    """
    layers = lif_layers(model.policy.actor.hidden)
    check("model.policy", type(model.policy).__name__, bool(layers), 'spiking, such as "MlpLifPolicy"')
    check("n_episodes", n_episodes, is_count(n_episodes), "a positive number of episodes")
    for name, value in (
        ("joules_per_addition", joules_per_addition),
        ("joules_per_multiply_accumulate", joules_per_multiply_accumulate),
    ):
        check(name, value, is_number(value, 0), "positive and finite")
    recording = record(model, env, n_episodes, deterministic=True, seed=seed)
    ticks, first = layers[0].ticks, layers[0].synapses
    widths = [layer.n_neurons for layer in layers]
    fan_outs = [*widths[1:], linear_layer(model.policy.actor.head).out_features]
    own_H = [_own_fan_out(layer) for layer in layers]
    spikes_H = [train.sum(1).mean(0) for train in recording.spikes]
    spikes = [float(of_neurons.sum()) for of_neurons in spikes_H]
    synaptic = float(sum(n_H @ (out + own) for n_H, out, own in zip(spikes_H, fan_outs, own_H, strict=True)))
    encoder = model.policy.actor.hidden[0]
    n_inputs, products = first.n_inputs, float(first.n_inputs * first.n_hidden)
    if isinstance(encoder, SpikeEncoder):
        with th.no_grad():
            actor, observations = model.policy.actor, model.policy.obs_to_tensor(recording.observations)[0]
            features = actor.features(actor.normalized(th, observations))
        synaptic += float(encoder.rates(features).sum(1).mean()) * ticks * first.n_hidden
        n_inputs, products = n_inputs // 2, 0.0
    updates = float(sum(widths) * ticks)
    of_rates = n_inputs * widths[0]
    of_rates += int(sum((out + own).sum() for out, own in zip(fan_outs, own_H, strict=True)))
    returns = np.bincount(recording.trial, recording.rewards, recording.n_trials)
    return Energy(
        spikes=sum(spikes),
        synaptic_operations=synaptic,
        multiply_accumulates=products,
        membrane_updates=updates,
        joules=(synaptic + updates) * joules_per_addition + products * joules_per_multiply_accumulate,
        rate_multiply_accumulates=float(of_rates),
        rate_joules=of_rates * joules_per_multiply_accumulate,
        mean_return=float(returns.mean()),
    )


def _own_fan_out(layer: Lif) -> np.ndarray:
    """Number of recurrent synapses that each neuron of a layer reaches, shape (H,)."""
    if not layer.recurrent:
        return np.zeros(layer.n_neurons)
    connections = layer.synapses.connections
    return np.full(layer.n_neurons, layer.n_neurons) if connections is None else connections.sum(0).cpu().numpy()


def plot_raster(
    recording: Recording,
    trial: int = 0,
    layer: int = 0,
    steps: tuple[int, int] = (0, 40),
    n_potentials: int = 3,
) -> "Figure":
    """
    Spikes of a layer in some steps of a trial, the potentials of the neurons that change their firing most, the actions
    and the rewards. Neurons are sorted by their number of spikes; those that stay silent are not drawn.

    :param recording: A recording of a spiking policy
    :param trial: Number of the trial
    :param layer: Which spiking layer, from 0
    :param steps: The first step, and the first one that is not drawn
    :param n_potentials: Number of neurons whose potential is drawn
    :return: The figure
    :raises ImportError: If Matplotlib is not installed
    :raises ValueError: If there is no such trial, layer or step
    """
    n_layers = len(recording.spikes)
    wanted = f"one of {n_layers} spiking layers, from 0" if n_layers else "of a spiking policy, such as MlpLifPolicy"
    check("layer", layer, is_count(layer, 0) and layer < n_layers, wanted)
    valid = is_count(trial, 0) and trial < recording.n_trials
    check("trial", trial, valid, f"one of {recording.n_trials} trials, from 0")
    length = int(recording.lengths[trial])
    valid = np.shape(steps) == (2,) and 0 <= steps[0] < min(steps[1], length)
    check("steps", steps, valid, f"two numbers, the first one below the second and below {length}")
    rows = np.flatnonzero(recording.trial == trial)[slice(*steps)]
    spikes_TMH, potentials_TMH = recording.spikes[layer][rows], recording.potentials[layer][rows]
    n_steps, n_ticks, n_neurons = spikes_TMH.shape
    valid = is_count(n_potentials, 0) and n_potentials <= n_neurons
    check("n_potentials", n_potentials, valid, f"a whole number of neurons, from 0 to {n_neurons}")
    first = steps[0]
    times = first + np.arange(n_steps * n_ticks) / n_ticks
    order = np.argsort(-spikes_TMH.sum((0, 1)), kind="stable")
    spikes = spikes_TMH.reshape(-1, n_neurons)
    n_active = int(spikes.any(0).sum())
    figure = figure_of(9, 4.5 + 0.8 * n_potentials)
    heights = [4, *[0.8] * n_potentials, 1, 1]
    raster, *traces, actions, rewards = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    ticks, neurons = np.nonzero(spikes[:, order])
    raster.plot(times[ticks], neurons, "|", color="black", markersize=4)
    raster.set(ylabel="neuron (sorted)", ylim=(max(n_active, 1) - 0.5, -0.5))
    raster.set_title(
        f"{n_active} of {n_neurons} neurons fire, in {spikes.mean():.1%} of all neurons and ticks", fontsize="medium"
    )
    varying = np.argsort(-spikes_TMH.mean(1).std(0), kind="stable")
    for ax, neuron in zip(traces, varying, strict=False):
        ax.plot(times, potentials_TMH[..., neuron].ravel(), color="tab:blue", linewidth=0.9)
        fired = times[spikes[:, neuron] > 0]
        top = potentials_TMH[..., neuron].max()
        ax.plot(fired, np.full(len(fired), top), "|", color="black", markersize=5)
        ax.set_ylabel(f"v of {neuron}", fontsize="small")
    edges = first + np.arange(n_steps + 1)
    for ax, values, name in ((actions, recording.actions, "action"), (rewards, recording.rewards, "reward")):
        of_steps = values[rows].reshape(n_steps, -1)
        ax.step(edges, np.concatenate([of_steps, of_steps[-1:]]), where="post", linewidth=1)
        ax.set_ylabel(name)
    rewards.set_xlabel("step")
    for ax in (raster, *traces, actions, rewards):
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Spikes of layer {layer} in trial {trial}: {n_ticks} ticks per step")
    return figure
