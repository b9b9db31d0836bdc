"""snnTorch's spiking neurons as a features extractor of Stable-Baselines3, to be trained by a surrogate gradient."""

import torch as th
from gymnasium import spaces
from snntorch import Leaky
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class SnnTorchFeatures(BaseFeaturesExtractor):
    """
    The spikes per tick of leaky integrate-and-fire neurons that receive the observation as a constant current: the
    hidden layer of ``MlpLifPolicy``, with its default arguments.

    :param observation_space: Observation space
    :param n_neurons: Number of neurons
    :param ticks: Number of ticks of a step
    :param beta: Factor per tick on the membrane potential
    """

    def __init__(self, observation_space: spaces.Box, n_neurons: int = 64, ticks: int = 8, beta: float = 0.8) -> None:
        super().__init__(observation_space, n_neurons)
        self.ticks = ticks
        self.synapses = nn.Linear(get_flattened_obs_dim(observation_space), n_neurons)
        nn.init.xavier_normal_(self.synapses.weight)
        nn.init.uniform_(self.synapses.bias, -0.5, 0.5)
        self.neurons = Leaky(beta=beta, reset_mechanism="zero", reset_delay=False)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        current = self.synapses(observations.flatten(1))
        membrane = self.neurons.init_leaky()
        trains = []
        for _ in range(self.ticks):
            spikes, membrane = self.neurons(current, membrane)
            trains.append(spikes)
        self.rates = th.stack(trains).mean(0)
        return self.rates
