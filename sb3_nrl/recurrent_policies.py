"""Policies with memory: their hidden layers are recurrent, and states are handed on as in sb3-contrib's RecurrentPPO.

Shapes: B rows of a batch, each of another environment; S variables of the hidden states of actor and critic, of which
the first are the actor's.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from sb3_nrl.arrays import Array, ArrayNamespace, Observations, map_observations, n_rows
from sb3_nrl.checks import check, is_number
from sb3_nrl.layers import Gru, Layer, LeakyRnn
from sb3_nrl.recurrent_weights import RecurrentWeightsPolicy


class RnnPolicy(RecurrentWeightsPolicy):
    """
    A :class:`~sb3_nrl.policies.NoisyPolicy` whose hidden layers are recurrent: units with a tanh that receive their own
    activity of the step before.

    Hidden states are 0 when an episode begins. ``predict`` and ``forward`` take states and return those after the step,
    as in RecurrentPPO.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule
    :param recurrent_critic: Whether the critic's hidden layers are recurrent, too
    :param kwargs: Further arguments of :class:`~sb3_nrl.recurrent_weights.RecurrentWeightsPolicy` and of
        :class:`~sb3_nrl.policies.NoisyPolicy`, whose ``activation_fn`` is for layers that are not recurrent
    :raises ValueError: If an argument is out of range
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        recurrent_critic: bool = True,
        **kwargs: Any,
    ) -> None:
        check("recurrent_critic", recurrent_critic, isinstance(recurrent_critic, bool), "True or False")
        self.recurrent_critic = recurrent_critic
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        wanted = "a list with at least one hidden layer for the actor: hidden layers hold the memory"
        check("net_arch", self.net_arch, self.parts[0].n_states > 0, wanted)

    def make_recurrent_layer(self, n_inputs: int, n_hidden: int) -> Layer:
        """
        Make a recurrent layer. Its initial weights are set afterwards.

        :param n_inputs: Number of inputs I
        :param n_hidden: Number of hidden units H
        :return: The layer
        """
        return LeakyRnn(n_inputs, n_hidden, self.use_bias)

    def make_hidden_layers(self, n_inputs: int, widths: Sequence[int], is_critic: bool) -> list[Layer]:
        if is_critic and not self.recurrent_critic:
            return super().make_hidden_layers(n_inputs, widths, is_critic)
        return [self.initialize(self.make_recurrent_layer(*sizes)) for sizes in pairwise([n_inputs, *widths])]

    def forward(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        states: th.Tensor,
        episode_starts: th.Tensor,
        deterministic: bool = False,
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """
        Choose actions, as RecurrentPPO's policies do.

        :param obs: Observations, B rows
        :param states: Hidden states before the step, shape (B, S)
        :param episode_starts: Whether an episode begins with the step, shape (B,)
        :param deterministic: Whether to take the most likely actions instead of sampling
        :return: Actions, shape (B, ...); V(s), shape (B, 1), which is 0 without a critic; log π(a|s), shape (B,); and
            the hidden states after the step
        """
        actor, *critic = self._run(th, obs, None, states, episode_starts.bool()[None])
        parameters = self.action_dist.parameters(th, actor.outputs)
        actions = self._choose(parameters, deterministic)
        log_probs = self.action_dist.log_prob(th, parameters, actions)
        values = critic[0].outputs if critic else log_probs.new_zeros(len(log_probs), 1)
        after = th.cat([passed.states for passed in (actor, *critic) if passed.states is not None], 1)
        return self._as_space(actions), values, log_probs, after

    def _actor_pass(self, xp: ArrayNamespace, obs: Observations, states: Array, starts_E: Array) -> tuple[Array, Array]:
        """Parameters of the action distribution, and the actor's states after the step."""
        own = states[:, self.parts[0].states]
        passed = self.actor.run(xp, obs, None, own, starts_E[None])
        assert passed.states is not None
        return self.action_dist.parameters(xp, passed.outputs), passed.states

    def predict(  # type: ignore[override]
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: np.ndarray | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Choose actions outside of training.

        :param observation: One observation, or one of each environment
        :param state: What this method returned as state for the step before; None at first
        :param episode_start: Whether an episode begins with the step, for each environment; by default none does
        :param deterministic: Whether to take the most likely actions instead of sampling
        :return: The actions, and the state after the step
        :raises ValueError: If ``state`` or ``episode_start`` is of another number of environments, or of another policy
        """
        self.set_training_mode(False)
        obs, is_vectorized = self.obs_to_tensor(observation)
        n_envs = n_rows(obs)
        shape = (n_envs, self.parts[0].n_states)
        if state is None:
            state = np.zeros(shape, np.float32)
        if tuple(np.shape(state)) != shape:
            wanted = f"None, or what predict returned for as many observations, of shape {shape}"
            raise ValueError(f"state is of shape {tuple(np.shape(state))}: must be {wanted}")
        starts = np.zeros(1, bool) if episode_start is None else np.asarray(episode_start, bool).reshape(-1)
        if starts.size not in (1, n_envs):
            raise ValueError(f"episode_start has {starts.size} values: must have one for each of {n_envs} observations")
        starts = np.repeat(starts, n_envs // starts.size)
        self.renew_arrays()
        with th.no_grad():
            xp = self.xp if self.device.type == "cpu" else th
            obs = map_observations(partial(self.array, xp=xp), obs)
            passed = self._actor_pass(xp, obs, self.array(state, xp), self.array(starts, xp))
            parameters, after = map(th.as_tensor, passed)
            drawn = self._choose(parameters, deterministic)
        self._check_outputs(parameters)
        actions = drawn.cpu().numpy().reshape(-1, *(self.action_space.shape or ()))
        if isinstance(self.action_space, spaces.Box):
            actions = np.clip(actions, self.action_space.low, self.action_space.high)
        return (actions if is_vectorized else actions.squeeze(0)), after.cpu().numpy()

    def get_distribution(  # type: ignore[override]
        self, obs: PyTorchObs, states: th.Tensor, episode_starts: th.Tensor
    ) -> tuple[Distribution, th.Tensor]:
        """
        The action distribution π.

        :param obs: Observations, B rows
        :param states: Hidden states before the step
        :param episode_starts: Whether an episode begins with the step
        :return: The distribution, as an object of Stable-Baselines3, and the actor's states after the step
        """
        parameters, after = self._actor_pass(th, obs, states, episode_starts.bool())
        return self.action_dist.to_sb3(parameters), after

    def predict_values(  # type: ignore[override]
        self, obs: PyTorchObs, states: th.Tensor, episode_starts: th.Tensor
    ) -> th.Tensor:
        """
        The critic's V(s).

        :param obs: Observations, B rows
        :param states: Hidden states before the step, shape (B, S)
        :param episode_starts: Whether an episode begins with the step
        :return: Shape (B, 1)
        :raises ValueError: If there is no critic
        """
        self._require_critic()
        return self._run(th, obs, None, states, episode_starts.bool()[None])[1].outputs

    def evaluate_actions(  # type: ignore[override]
        self, obs: PyTorchObs, actions: th.Tensor, states: th.Tensor, episode_starts: th.Tensor
    ) -> tuple[th.Tensor | None, th.Tensor, th.Tensor | None]:
        """
        Evaluate actions of one step.

        :param obs: Observations, B rows
        :param actions: Actions, B rows
        :param states: Hidden states before the step, shape (B, S)
        :param episode_starts: Whether an episode begins with the step
        :return: V(s) of shape (B, 1), None without a critic; log π(a|s), shape (B,); the entropy of π, shape (B,)
        """
        actor, *critic = self._run(th, obs, None, states, episode_starts.bool()[None])
        parameters = self.action_dist.parameters(th, actor.outputs)
        if isinstance(self.action_space, spaces.Box):
            actions = actions.reshape(len(actions), -1)
        log_probs = self.action_dist.log_prob(th, parameters, actions)
        return critic[0].outputs if critic else None, log_probs, self.action_dist.entropy(th, parameters)


class CtrnnPolicy(RnnPolicy):
    """
    A :class:`RnnPolicy` of leaky units, u ← (1 − dt / τ) u + (dt / τ) (input + recurrent input), with activity tanh(u):
    a continuous-time recurrent network in steps of ``dt``.

    :param observation_space: Observation space
    :param action_space: Action space
    :param lr_schedule: Learning rate schedule
    :param dt: Duration of a step, in the units of ``tau``
    :param tau: Time constant of all units, or one for each unit of a layer; at least ``dt``
    :param learn_tau: Whether time constants learn, from ``tau`` on
    :param recurrent_gain: Initial recurrent weights are a random orthogonal matrix times this gain
    :param kwargs: Further arguments of :class:`RnnPolicy`
    :raises ValueError: If an argument is out of range
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        dt: float = 1.0,
        tau: float | Sequence[float] = 2.0,
        learn_tau: bool = False,
        recurrent_gain: float = 1.2,
        **kwargs: Any,
    ) -> None:
        check("dt", dt, is_number(dt, 0), "positive and finite")
        valid = np.ndim(tau) <= 1 and all(is_number(value, 0) and value >= dt for value in np.ravel(tau).tolist())
        check("tau", tau, valid, f"at least dt, which is {dt:g}, and finite: a number or a list")
        check("learn_tau", learn_tau, isinstance(learn_tau, bool), "True or False")
        check("tau", tau, not learn_tau or bool(np.all(np.ravel(tau) > dt)), f"more than dt={dt:g} with learn_tau=True")
        self.dt, self.tau, self.learn_tau = dt, tau, learn_tau
        super().__init__(observation_space, action_space, lr_schedule, recurrent_gain=recurrent_gain, **kwargs)

    def make_recurrent_layer(self, n_inputs: int, n_hidden: int) -> Layer:
        sizes = np.size(self.tau)
        check(
            "tau", self.tau, sizes in (1, n_hidden), f"one number, or one for each of the {n_hidden} units of a layer"
        )
        return LeakyRnn(n_inputs, n_hidden, self.use_bias, self.dt, self.tau, self.learn_tau)


class GruPolicy(RnnPolicy):
    """A :class:`RnnPolicy` of gated recurrent units (:class:`~sb3_nrl.layers.Gru`)."""

    def make_recurrent_layer(self, n_inputs: int, n_hidden: int) -> Layer:
        return Gru(n_inputs, n_hidden, self.use_bias)


class CnnRnnPolicy(RnnPolicy):
    """A :class:`RnnPolicy` for images."""

    default_features_extractor = NatureCNN


class MultiInputRnnPolicy(RnnPolicy):
    """A :class:`RnnPolicy` for ``Dict`` observations."""

    default_features_extractor = CombinedExtractor


class CnnCtrnnPolicy(CtrnnPolicy):
    """A :class:`CtrnnPolicy` for images."""

    default_features_extractor = NatureCNN


class MultiInputCtrnnPolicy(CtrnnPolicy):
    """A :class:`CtrnnPolicy` for ``Dict`` observations."""

    default_features_extractor = CombinedExtractor


class CnnGruPolicy(GruPolicy):
    """A :class:`GruPolicy` for images."""

    default_features_extractor = NatureCNN


class MultiInputGruPolicy(GruPolicy):
    """A :class:`GruPolicy` for ``Dict`` observations."""

    default_features_extractor = CombinedExtractor


RECURRENT_POLICIES: dict[str, type[RnnPolicy]] = {
    "MlpRnnPolicy": RnnPolicy,
    "CnnRnnPolicy": CnnRnnPolicy,
    "MultiInputRnnPolicy": MultiInputRnnPolicy,
    "MlpCtrnnPolicy": CtrnnPolicy,
    "CnnCtrnnPolicy": CnnCtrnnPolicy,
    "MultiInputCtrnnPolicy": MultiInputCtrnnPolicy,
    "MlpGruPolicy": GruPolicy,
    "CnnGruPolicy": CnnGruPolicy,
    "MultiInputGruPolicy": MultiInputGruPolicy,
}
"""Recurrent policies by the names that algorithms take."""
