"""What training does with a policy: passes with and without noise, and the outer products that they leave.

Shapes: B rows of a batch, E environments, K noise samples, N nodes of actor and critic, A components of an action, W
weights and biases that learn.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_nrl.arrays import (
    Array,
    ArrayNamespace,
    Observations,
    in_single_precision,
    map_observations,
    n_rows,
    repeat_batch,
)
from sb3_nrl.distributions import ActionDistribution
from sb3_nrl.network import Network
from sb3_nrl.noise import Noise


class Part(NamedTuple):
    """
    Where the actor, or the critic, lies in the vectors of all nodes and of all weights.

    :param nodes: Its nodes
    :param weights: Its weights and biases that learn
    :param layer_nodes: The nodes of each of its layers, from the features to the head
    """

    nodes: slice
    weights: slice
    layer_nodes: list[slice]

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return self.nodes.stop - self.nodes.start


class NoisyPass(NamedTuple):
    """
    What a pass through actor and critic gives.

    :param objectives: log π(a|s) and, with a critic, V(s): what actor and critic are to increase; shape (B,) each
    :param received: Pre-synaptic activity x̃ of each layer, the actor's first: arrays of B rows, or lists of these where
        a layer has parts, or None where nothing learns. :func:`~sb3_nrl.arrays.map_received` applies a function to all
    :param potentials: Pre-activations h of all nodes, noise included: arrays that together have N columns, in the order
        of the nodes
    """

    objectives: list[Array]
    received: list[Any]
    potentials: list[Array]


class PerturbablePolicy(BasePolicy):
    """
    The part of a policy that learning rules use: an actor and perhaps a critic, whose nodes noise can be added to.

    Rules find here ``noisy_pass``, ``sample_noise``, ``values`` and ``array``; ``n_nodes``, the number N of nodes, the
    actor's first; and ``parts``, which says for actor and critic where their nodes and weights lie.

    On the CPU both run in NumPy if all their layers can, else in PyTorch. A subclass makes the networks, and gives them
    the interface of Stable-Baselines3's policies.
    """

    actor: Network
    critic: Network | None
    action_dist: ActionDistribution
    noise: Noise | None
    n_baseline_passes: int | None

    def refresh(self) -> bool:
        """
        Look anew at the networks: which layers they have, what is trainable, and whether NumPy can run them.
        :meth:`ThreeFactorAlgorithm.refresh() <sb3_nrl.ThreeFactorAlgorithm.refresh>` does this.

        :return: Whether other parameters learn than before
        :raises ValueError: If a trainable parameter would never learn, or belongs to two layers
        """
        before = vars(self).get("learnable", [])
        self.learnable: list[nn.Parameter] = []
        self.parts: list[Part] = []
        self.networks: list[Network] = [self.actor, *([] if self.critic is None else [self.critic])]
        """The actor and, if there is one, the critic."""
        node = weight = 0
        for network in self.networks:
            network.refresh()
            self.learnable += network.learnable
            ends = node + network.n_nodes, weight + sum(parameter.numel() for parameter in network.learnable)
            layers = [slice(node + nodes.start, node + nodes.stop) for nodes in network.layer_nodes]
            self.parts.append(Part(slice(node, ends[0]), slice(weight, ends[1]), layers))
            node, weight = ends
        if node == 0:
            raise ValueError("Nothing is left to learn: no layer of the policy has requires_grad.")
        if len(set(self.learnable)) < len(self.learnable):
            raise ValueError("Actor and critic must not share layers, nor two layers a parameter.")
        reached = set(self.learnable)
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and parameter not in reached:
                raise ValueError(
                    f"The parameter '{name}' would never learn: no layer of actor or critic gives a sum for it. Freeze "
                    "it with requires_grad_(False)."
                )
        self.n_nodes, self.n_weights = node, weight
        self._sizes = [part.n_nodes for part in self.parts]
        on_cpu = all(parameter.device.type == "cpu" for parameter in self.parameters())
        self._in_numpy = on_cpu and all(network.runs_in_numpy for network in self.networks)
        return list(map(id, before)) != list(map(id, self.learnable))

    @property
    def xp(self) -> ArrayNamespace:
        """What training computes with: ``numpy`` or ``torch``."""
        return np if self._in_numpy else th

    def array(self, values: np.ndarray | th.Tensor, xp: ArrayNamespace | None = None) -> Array:
        """Values as an array of ``xp`` on the policy's device, floats in single precision; copied only if needed."""
        values = in_single_precision(values)
        if (xp or self.xp) is th:
            return th.as_tensor(values, device=self.learnable[0].device)
        return values.numpy() if isinstance(values, th.Tensor) else values

    def numpy(self, values: Array) -> np.ndarray:
        """The way back."""
        return values if self._in_numpy else values.cpu().numpy()

    def sample_noise(self, n_rows: int, n_samples: int = 1) -> Array:
        """
        Draw the noise ξ of all nodes.

        :param n_rows: Number of rows B of the observations
        :param n_samples: Number of samples K for each
        :return: Shape (K · B, N), all rows of a sample side by side
        :raises ValueError: If the learning rule has no noise
        """
        if self.noise is None:
            raise ValueError("There is no noise to draw: the learning rule's noise is None.")
        return self.array(self.noise.sample(n_samples, n_rows, self._sizes, self.learnable[0].device))

    def act(
        self, obs: Observations, draws_EA: np.ndarray, noise_EN: Array | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Choose actions in training.

        :param obs: Observations of E environments
        :param draws_EA: Random numbers to choose by, as ``action_dist.draw`` gives them
        :param noise_EN: ξ of a noisy pass to choose with; by default the pass is a clean one, or the mean of
            ``n_baseline_passes`` noisy ones
        :return: Actions, shape (E, ...), and log π(a|s), shape (E,)
        :raises FloatingPointError: If the network's outputs are not finite
        """
        if self._in_numpy:
            return self._act(np, obs, draws_EA, noise_EN)
        with th.no_grad():
            actions, log_probs = self._act(th, map_observations(self.array, obs), self.array(draws_EA), noise_EN)
        return self.numpy(actions), self.numpy(log_probs)

    def _act(
        self, xp: ArrayNamespace, obs: Observations, draws_EA: Array, noise_EN: Array | None
    ) -> tuple[Array, Array]:
        if noise_EN is not None:
            outputs, _, _ = self.networks[0].run(xp, obs, noise_EN[:, self.parts[0].nodes])
        elif self.n_baseline_passes is None:
            outputs, _, _ = self.networks[0].run(xp, obs)
        else:
            return self.action_dist.choose(xp, self._action_parameters(xp, obs), draws_EA)
        return self.action_dist.act(xp, outputs, draws_EA)

    def values(self, obs: Observations) -> np.ndarray:
        """
        The critic's V(s) in training.

        :param obs: Observations, B rows
        :return: Shape (B,)
        """
        if self._in_numpy:
            return self._values(np, obs)
        with th.no_grad():
            return self._values(th, map_observations(self.array, obs)).cpu().numpy()

    def noisy_pass(
        self, obs: Observations, actions: Array, noise_BN: Array, xp: ArrayNamespace | None = None
    ) -> NoisyPass:
        """
        A pass with noise through actor and critic (Eq. 18 and 19).

        :param obs: Observations; if the noise has more rows, they are repeated as a whole
        :param actions: Actions, as many
        :param noise_BN: ξ of all nodes
        :param xp: ``torch`` for a pass that autograd can follow; by default ``self.xp``
        :return: The pass
        """
        xp = xp or self.xp
        n_copies = len(noise_BN) // len(actions)
        obs = repeat_batch(xp, map_observations(partial(self.array, xp=xp), obs), n_copies)
        actions = repeat_batch(xp, self.array(actions, xp), n_copies)
        outputs, received, potentials = self.actor.run(xp, obs, noise_BN[:, self.parts[0].nodes])
        objectives = [self.action_dist.log_prob(xp, self.action_dist.parameters(xp, outputs), actions)]
        if self.critic is not None:
            values, *of_critic = self.critic.run(xp, obs, noise_BN[:, self.parts[1].nodes])
            objectives.append(values[:, 0])
            received += of_critic[0]
            potentials += of_critic[1]
        return NoisyPass(objectives, received, potentials)

    def outer(self, post_BN: Array, received: list[Any], n_envs: int) -> Array:
        """
        Sum post ⊗ pre over the rows of each environment (Eq. 17 and 21).

        :param post_BN: Post-synaptic factor of each node; the rows of one time step are adjacent, in the order of the
            environments
        :param received: Pre-synaptic activity of each layer, as ``noisy_pass`` gives it
        :param n_envs: Number of environments E
        :return: The sums, shape (E, W)
        """
        sums, start = [], 0
        for network, part in zip(self.networks, self.parts, strict=True):
            stop = start + len(network.layer_nodes)
            sums += network.outer(self.xp, post_BN[:, part.nodes], received[start:stop], n_envs)
            start = stop
        return self.xp.concatenate(sums, axis=1)

    def _action_parameters(self, xp: ArrayNamespace, obs: Observations) -> Array:
        """Parameters of the distribution that actions come from."""
        if self.n_baseline_passes is None:
            return self.action_dist.parameters(xp, self.actor.run(xp, obs)[0])
        parameters = self.action_dist.parameters(xp, self._baseline_outputs(xp, self.actor, self.parts[0], obs))
        return self.action_dist.mean(xp, parameters, self.n_baseline_passes)

    def _values(self, xp: ArrayNamespace, obs: Observations) -> Array:
        if self.critic is None:
            raise ValueError('This policy predicts no values: only one of reward_prediction="critic" does.')
        if self.n_baseline_passes is None:
            return self.critic.run(xp, obs)[0][:, 0]
        outputs = self._baseline_outputs(xp, self.critic, self.parts[1], obs)
        return outputs.reshape(self.n_baseline_passes, -1).mean(0)

    def _baseline_outputs(self, xp: ArrayNamespace, network: Network, part: Part, obs: Observations) -> Array:
        assert self.n_baseline_passes is not None
        noise = self.sample_noise(self.n_baseline_passes * n_rows(obs))[:, part.nodes]
        noise = th.as_tensor(noise) if xp is th else noise
        return network.run(xp, repeat_batch(xp, obs, self.n_baseline_passes), noise)[0]
