"""The part of a policy that training uses: passes with and without noise, and outer products.

Shapes: B rows of a batch, E environments, T steps, K noise samples, N nodes of actor and critic, M inputs of their
weight matrices, S variables of their hidden state, A components of an action, W weights and biases that learn.
"""

from functools import partial
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_nrl.arrays import (
    Array,
    ArrayNamespace,
    Observations,
    empty_as,
    in_single_precision,
    map_observations,
    n_rows,
    repeat_batch,
)
from sb3_nrl.checks import check
from sb3_nrl.distributions import ActionDistribution
from sb3_nrl.layers.base import Perturbs, spans
from sb3_nrl.network import Network, NetworkPass, WeightNoise
from sb3_nrl.noise import Noise
from sb3_nrl.passes import NoisyPass, Part


class PerturbablePolicy(BasePolicy):
    """
    The part of a policy that learning rules use: an actor and perhaps a critic, whose nodes noise can be added to.

    Most learning rules need the methods ``noisy_pass``, ``sample_noise``, ``values`` and ``array``, and ``n_nodes``,
    the number N of nodes. ``networks`` are actor and critic, and ``parts`` the positions of their nodes and weights,
    the actor's first. ``learnable`` has the parameters that learn, and ``xp`` is the module that arrays are of.

    On the CPU both run in NumPy if all their layers can, else in PyTorch. A subclass makes the networks, and gives them
    the interface of Stable-Baselines3's policies.
    """

    actor: Network
    critic: Network | None
    action_dist: ActionDistribution
    noise: Noise | None
    perturbs: Perturbs
    n_baseline_passes: int | None

    def refresh(self) -> bool:
        """
        Update the lists of layers and of parameters that learn, and find out whether the networks can run in NumPy.
        :meth:`ThreeFactorAlgorithm.refresh() <sb3_nrl.ThreeFactorAlgorithm.refresh>` does this.

        :return: Whether the set of parameters that learn has changed
        :raises ValueError: If a trainable parameter would never learn, or belongs to two layers
        """
        before = vars(self).get("learnable", [])
        self.networks: list[Network] = [self.actor, *([] if self.critic is None else [self.critic])]
        """The actor and, if there is one, the critic."""
        for network in self.networks:
            for layer in (network.features, *network.hidden, network.head):
                layer.perturbs = self.perturbs
            network.refresh()
        self.layers = [layer for network in self.networks for layer in network.layers]
        """All layers, the actor's first."""
        self.layer_nodes, self.n_nodes = spans(layer.n_nodes for layer in self.layers)
        """Slice of the nodes of each layer in the vector of all nodes."""
        self.learnable: list[nn.Parameter] = [parameter for network in self.networks for parameter in network.learnable]
        nodes, _ = spans(network.n_nodes for network in self.networks)
        inputs, self.n_pre = spans(network.n_pre for network in self.networks)
        states, self.n_states = spans(network.n_states for network in self.networks)
        weights, self.n_weights = spans(sum(p.numel() for p in network.learnable) for network in self.networks)
        of_layers = [self.layer_nodes[: len(self.actor.layers)], self.layer_nodes[len(self.actor.layers) :]]
        self.parts = [Part(*places) for places in zip(nodes, inputs, states, weights, of_layers, strict=False)]
        if self.n_weights == 0:
            raise ValueError("No parameter of the policy can learn: all are frozen (requires_grad=False).")
        if len(set(self.learnable)) < len(self.learnable):
            raise ValueError("Actor and critic must not share layers, nor two layers a parameter.")
        reached = set(self.learnable)
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and parameter not in reached:
                raise ValueError(
                    f"The parameter '{name}' would never learn: no layer of actor or critic computes its update. "
                    "Freeze it with requires_grad_(False)."
                )
        self.is_smooth = all(layer.is_smooth for layer in self.layers)
        """Whether small noise changes the activity of all layers little."""
        passes, supported = self.n_baseline_passes, self.perturbs != "weight" and self.is_smooth and self.n_states == 0
        wanted = "None with recurrent or spiking policies, and with noise on weights"
        check("n_baseline_passes", passes, passes is None or supported, wanted)
        self._sizes = [part.n_nodes for part in self.parts]
        self._all_parameters = list(self.parameters())
        self._memory: list[tuple[int, tuple[int, ...]]] = []
        on_cpu = all(parameter.device.type == "cpu" for parameter in self._all_parameters)
        self._in_numpy = on_cpu and all(layer.runs_in_numpy for layer in self.layers)
        return list(map(id, before)) != list(map(id, self.learnable))

    def renew_arrays(self) -> None:
        """Renew the NumPy views of parameters. PyTorch's ``vector_to_parameters``, for one, replaces their memory."""
        self._memory = []
        for layer in self.layers:
            layer.renew_arrays()

    def renew_moved_arrays(self) -> None:
        """Renew these views if the memory of a parameter has been replaced, or if ``renew_arrays`` was called."""
        memory = [(parameter.data_ptr(), parameter.stride()) for parameter in self._all_parameters]
        if memory != self._memory:
            self.renew_arrays()
            self._memory = memory

    def load_from_vector(self, vector: np.ndarray) -> None:
        super().load_from_vector(vector)
        self.renew_arrays()

    @property
    def xp(self) -> ArrayNamespace:
        """The module that training uses: ``numpy`` or ``torch``."""
        return np if self._in_numpy else th

    def array(self, values: np.ndarray | th.Tensor, xp: ArrayNamespace | None = None) -> Array:
        """Values as an array of ``xp`` on the policy's device, floats in single precision; copied only if needed."""
        values = in_single_precision(values)
        if (xp or self.xp) is th:
            return th.as_tensor(values, device=self.learnable[0].device)
        return values.numpy() if isinstance(values, th.Tensor) else values

    def numpy(self, values: Array) -> np.ndarray:
        """Convert an array of ``xp`` to NumPy."""
        return values if self._in_numpy else values.cpu().numpy()

    def diagnostics(self, n_rows: int) -> dict[str, float]:
        """
        Measure the last pass.

        :param n_rows: Number of rows of each copy
        :return: Numbers to log as ``train/<name>``
        """
        return {}

    def costs(self) -> Array | None:
        """What the actor's activity in the last pass costs, shape (B,); None if nothing. Updates lower its mean."""
        return None

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
        self,
        obs: Observations,
        draws_EA: np.ndarray,
        noise_EN: Array | None = None,
        states: Array | None = None,
        starts_E: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, Array | None]:
        """
        Choose actions in training.

        :param obs: Observations of E environments
        :param draws_EA: Random numbers from ``action_dist.draw``
        :param noise_EN: Noise ξ of the pass. Without it, actions come from a clean pass or from the mean of
            ``n_baseline_passes`` noisy passes
        :param states: Hidden states before the step, shape (E, S); for recurrent policies
        :param starts_E: Whether an episode begins with the step; for recurrent policies
        :return: Actions, shape (E, ...); log π(a|s), shape (E,); and the hidden states after the step
        :raises FloatingPointError: If the network's outputs are not finite
        """
        if self._in_numpy:
            return self._act(np, obs, draws_EA, noise_EN, states, starts_E)
        with th.no_grad():
            obs, draws_EA = map_observations(self.array, obs), self.array(draws_EA)
            actions, log_probs, states = self._act(th, obs, draws_EA, noise_EN, states, starts_E)
        return self.numpy(actions), self.numpy(log_probs), states

    def _act(
        self,
        xp: ArrayNamespace,
        obs: Observations,
        draws_EA: Array,
        noise_EN: Array | None,
        states: Array | None,
        starts_E: np.ndarray | None,
    ) -> tuple[Array, Array, Array | None]:
        if self.n_baseline_passes is not None and noise_EN is None:
            return (*self.action_dist.choose(xp, self._action_parameters(xp, obs), draws_EA), None)
        noise = None if noise_EN is None else noise_EN[:, self.parts[0].nodes]
        if states is None:
            passed = self.networks[0].run(xp, obs, noise)  # quicker than self.actor, which PyTorch looks up
            return (*self.action_dist.act(xp, passed.outputs, draws_EA), None)
        passed, *of_critic = self._run(xp, obs, noise_EN, states, self._starts(xp, starts_E))
        states = xp.concatenate([part.states for part in (passed, *of_critic) if part.states is not None], axis=1)
        return (*self.action_dist.act(xp, passed.outputs, draws_EA), states)

    def _run(
        self,
        xp: ArrayNamespace,
        obs: Observations,
        noise: Any,
        states: Array | None,
        starts_TE: Array | None,
    ) -> list[NetworkPass]:
        """A pass through actor and critic."""
        passes = []
        for place, (network, part) in enumerate(zip(self.networks, self.parts, strict=True)):
            own = noise[place] if isinstance(noise, list) else None if noise is None else noise[:, part.nodes]
            own_states = None if states is None else states[:, part.states]
            passes.append(network.run(xp, obs, own, own_states, starts_TE))
        return passes

    def _starts(self, xp: ArrayNamespace, starts: np.ndarray | None) -> Array | None:
        """Whether episodes begin, of shape (T, E), for a pass."""
        return None if starts is None else self.array(np.atleast_2d(starts), xp)

    def values(
        self, obs: Observations, states: Array | None = None, starts_TE: np.ndarray | None = None
    ) -> tuple[np.ndarray, Array | None]:
        """
        V(s) of the critic, as training uses it (NumPy or PyTorch without autograd).

        :param obs: Observations, B rows
        :param states: Hidden states before the first step, shape (E, S); for recurrent policies
        :param starts_TE: Whether an episode begins with each step; for recurrent policies
        :return: Shape (B,), and the hidden states after the last step, in which the actor's are as before
        """
        if self._in_numpy:
            return self._values(np, obs, states, starts_TE)
        with th.no_grad():
            values, states = self._values(th, map_observations(self.array, obs), states, starts_TE)
        return values.cpu().numpy(), states

    def noisy_pass(
        self,
        obs: Observations,
        actions: Array,
        noise: Array | list[WeightNoise] | None,
        xp: ArrayNamespace | None = None,
        states: Array | None = None,
        starts_TE: np.ndarray | None = None,
    ) -> NoisyPass:
        """
        A pass with noise through actor and critic (Eq. 18 and 19).

        :param obs: Observations. If the noise has K times as many rows, the whole batch is repeated K times
        :param actions: Actions, one for each observation
        :param noise: ξ of all nodes, shape (B, N); or noise on the weights of each network; or None for a clean pass
        :param xp: ``torch`` for a pass that autograd can follow; by default ``self.xp``
        :param states: Hidden states before the first step, of shape (E, S), or (K · E, S) if copies differ; for
            recurrent policies, ``window.states``
        :param starts_TE: Whether an episode begins with each step; for recurrent policies, ``window.starts_TE``
        :return: The pass
        """
        xp = xp or self.xp
        obs = map_observations(partial(self.array, xp=xp), obs)
        if isinstance(noise, list):
            n_copies = noise[0].n_copies
        else:
            n_copies = 1 if noise is None else len(noise) // len(actions)
            obs = repeat_batch(xp, obs, n_copies)
        actions = repeat_batch(xp, self.array(actions, xp), n_copies)
        if states is not None and starts_TE is not None:
            states = repeat_batch(xp, self.array(states, xp), n_copies * starts_TE.shape[1] // len(states))
        passes = self._run(xp, obs, noise, states, self._starts(xp, starts_TE))
        parameters = self.action_dist.parameters(xp, passes[0].outputs)
        objectives = [self.action_dist.log_prob(xp, parameters, actions)]
        objectives += [passed.outputs[:, 0] for passed in passes[1:]]
        after = [passed.states for passed in passes if passed.states is not None]
        return NoisyPass(
            objectives,
            [received for passed in passes for received in passed.received],
            [potential for passed in passes for potential in passed.potentials],
            xp.concatenate(after, 1) if after else None,
            parameters,
            self.costs(),
        )

    def outer(self, post_BN: Array, received: list[Any], n_envs: int) -> Array:
        """
        Sum post ⊗ pre over the rows of each environment (Eq. 17 and 21).

        :param post_BN: Post-synaptic factor of each node; the rows of one time step are adjacent, in the order of the
            environments
        :param received: Pre-synaptic activity of each layer, as ``noisy_pass`` gives it
        :param n_envs: Number of environments E
        :return: The sums, shape (E, W)
        """
        sum_EW = empty_as(post_BN, n_envs, self.n_weights)
        parts = zip(self.layers, self.layer_nodes, received, strict=True)
        sums = (part for layer, nodes, pre in parts for part in layer.outer(self.xp, post_BN[:, nodes], pre, n_envs))
        weight = 0
        for parameter, of_parameter in zip(self.learnable, sums, strict=True):
            shape, wanted = tuple(of_parameter.shape), (n_envs, parameter.numel())
            check("shape of a sum of a layer's outer", shape, shape == wanted, f"{wanted}, (E, numel)")
            sum_EW[:, weight : weight + parameter.numel()] = of_parameter
            weight += parameter.numel()
        return sum_EW

    def _action_parameters(self, xp: ArrayNamespace, obs: Observations) -> Array:
        """Parameters of the action distribution: of a clean pass, or the mean of ``n_baseline_passes`` noisy passes."""
        if self.n_baseline_passes is None:
            return self.action_dist.parameters(xp, self.actor.run(xp, obs).outputs)
        parameters = self.action_dist.parameters(xp, self._baseline_outputs(xp, self.actor, self.parts[0], obs))
        return self.action_dist.mean(xp, parameters, self.n_baseline_passes)

    def _require_critic(self) -> Network:
        if self.critic is None:
            raise ValueError('This policy predicts no values: only one of reward_prediction="critic" does.')
        return self.critic

    def _values(
        self, xp: ArrayNamespace, obs: Observations, states: Array | None = None, starts_TE: np.ndarray | None = None
    ) -> tuple[Array, Array | None]:
        critic = self._require_critic()
        if self.n_baseline_passes is not None:
            outputs = self._baseline_outputs(xp, critic, self.parts[1], obs)
            return outputs.reshape(self.n_baseline_passes, -1).mean(0), None
        if states is None:
            return critic.run(xp, obs).outputs[:, 0], None
        own = self.parts[1].states
        passed = critic.run(xp, obs, None, states[:, own], self._starts(xp, starts_TE))
        if passed.states is not None:
            states = xp.concatenate([states[:, : own.start], passed.states], 1)
        return passed.outputs[:, 0], states

    def _baseline_outputs(self, xp: ArrayNamespace, network: Network, part: Part, obs: Observations) -> Array:
        assert self.n_baseline_passes is not None
        noise = self.sample_noise(self.n_baseline_passes * n_rows(obs))[:, part.nodes]
        noise = th.as_tensor(noise) if xp is th else noise
        return network.run(xp, repeat_batch(xp, obs, self.n_baseline_passes), noise).outputs
