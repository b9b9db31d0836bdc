"""Action distributions, each defined once for NumPy and PyTorch.

Shapes: B rows of a batch, P outputs of the action head, A components of an action, K passes.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution, make_proba_distribution
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_nrl.arrays import Array, ArrayNamespace, as_float, highest, log_softmax, transpose

_MISSING_ACTION_LOGIT = -1e30
"""Logit of an action that does not exist. It is finite, so that p · log p is 0 in an entropy."""

_MAX_LOGITS_IN_PYTHON = 32
"""Largest number of logits in a batch for which Python's floats are quicker than NumPy's arrays."""


class ActionDistribution(ABC):
    """
    A distribution of actions, computed from the outputs of the action head.

    ``parameters`` computes the distribution's parameters from these outputs, once per pass. All other methods take the
    parameters.

    :param space: Action space
    """

    n_outputs: int
    """Number of outputs P that the action head has."""

    n_actions: int
    """Number of components A of an action, each drawn with a random number of its own."""

    def __init__(self, space: spaces.Space) -> None:
        self.space = space
        self.n_actions = get_action_dim(space)

    def draw(self, generator: np.random.Generator, n_rows: int) -> np.ndarray:
        """Random numbers of shape (B, A) to sample actions by: uniform in [0, 1) unless a subclass says otherwise."""
        return generator.random((n_rows, self.n_actions))

    def draw_correlated(
        self, generator: np.random.Generator, n_rows: int, correlation: float, before: np.ndarray | None
    ) -> np.ndarray:
        """
        Random numbers as those of ``draw``, for continuous actions that are correlated in time.

        :param generator: Random generator
        :param n_rows: Number of rows B
        :param correlation: Correlation with the random numbers of the step before, in [0, 1)
        :param before: The random numbers of the step before, None if there was none
        :return: Shape (B, A)
        """
        draws = self.draw(generator, n_rows)
        if correlation == 0 or before is None:
            return draws
        own = float(correlation)  # a NumPy float would give double precision
        return own * before + math.sqrt(1 - own**2) * draws

    def draw_like(self, parameters: th.Tensor) -> th.Tensor:
        """Random numbers as those of ``draw``, from PyTorch's default generator, for the batch of these parameters."""
        return th.rand(parameters.shape[self.batch_axis], self.n_actions, device=parameters.device)

    @abstractmethod
    def parameters(self, xp: ArrayNamespace, outputs_BP: Array) -> Array:
        """Compute the distribution's parameters from the outputs of the head."""

    @abstractmethod
    def sample(self, xp: ArrayNamespace, parameters: Array, draws_BA: Array) -> Array:
        """Sample actions, as the environment takes them, with random numbers from ``draw``."""

    def act(self, xp: ArrayNamespace, outputs_BP: Array, draws_BA: Array) -> tuple[Array, Array]:
        """Sample actions in training, as ``choose`` does, from the outputs of the head."""
        return self.choose(xp, self.parameters(xp, outputs_BP), draws_BA)

    def choose(self, xp: ArrayNamespace, parameters: Array, draws_BA: Array) -> tuple[Array, Array]:
        """
        Sample actions in training.

        :return: Actions, and their log π(a|s)
        :raises FloatingPointError: If the parameters are not finite
        """
        actions = self.sample(xp, parameters, draws_BA)
        log_probs = self.log_prob(xp, parameters, actions)
        _require_finite(float(log_probs.sum()))
        return actions, log_probs

    @abstractmethod
    def mode(self, xp: ArrayNamespace, parameters: Array) -> Array:
        """The most likely actions."""

    @abstractmethod
    def log_prob(self, xp: ArrayNamespace, parameters: Array, actions: Array) -> Array:
        """log π(a|s), shape (B,)."""

    @abstractmethod
    def score(self, xp: ArrayNamespace, parameters: Array, actions: Array) -> Array:
        """The derivative of log π(a|s) with respect to each output of the head, shape (B, P)."""

    @abstractmethod
    def entropy(self, xp: ArrayNamespace, parameters: Array) -> Array:
        """Entropy of π(·|s), shape (B,)."""

    batch_axis: ClassVar[int] = 0
    """The axis of the parameters along which the rows of the batch are."""

    def mean(self, xp: ArrayNamespace, parameters: Array, n_passes: int) -> Array:
        """Average the distributions of K passes, which are K equal parts of the batch (section 3.3)."""
        shape = list(parameters.shape)
        shape[self.batch_axis : self.batch_axis + 1] = [n_passes, -1]
        return self._mean(xp, parameters.reshape(shape), self.batch_axis)

    def _mean(self, xp: ArrayNamespace, parameters: Array, axis: int) -> Array:
        """Average along an axis of the parameters: by default the logarithm of the mean of their exponentials."""
        return _log_mean_exp(xp, parameters, axis)

    def to_sb3(self, parameters: th.Tensor) -> Distribution:
        """The same distribution as an object of Stable-Baselines3."""
        return make_proba_distribution(self.space).proba_distribution(parameters)


class Categorical(ActionDistribution):
    """
    One choice (``Discrete``), or several at once (``MultiDiscrete``). Parameters are log-probabilities, of shape
    (A, most choices, B); an action with fewer choices has entries of probability 0.

    :param space: Action space
    """

    batch_axis = 2

    def __init__(self, space: spaces.Discrete | spaces.MultiDiscrete) -> None:
        super().__init__(space)
        sizes = np.array([space.n] if isinstance(space, spaces.Discrete) else space.nvec)
        self.n_outputs = int(sizes.sum())
        self._is_single = isinstance(space, spaces.Discrete)
        self._may_use_python = self._is_single and type(self) is Categorical  # a subclass may override the methods
        self._components = np.arange(len(sizes))[:, None]
        self._last = (sizes - 1)[:, None]
        self._padding: np.ndarray | None = None
        if sizes.min() != sizes.max():
            # For each choice its row of the transposed outputs; for a missing choice the row after the last.
            choices = np.arange(sizes.max())
            starts = np.cumsum(sizes) - sizes
            self._padding = np.where(choices < sizes[:, None], starts[:, None] + choices, self.n_outputs)

    def act(self, xp: ArrayNamespace, outputs_BP: Array, draws_BA: Array) -> tuple[Array, Array]:
        if xp is np and self._may_use_python and outputs_BP.size <= _MAX_LOGITS_IN_PYTHON:
            return _act_in_python(outputs_BP.tolist(), draws_BA.tolist())
        return super().act(xp, outputs_BP, draws_BA)

    def parameters(self, xp: ArrayNamespace, outputs_BP: Array) -> Array:
        logits = transpose(xp, outputs_BP)
        if self._padding is None:
            logits = logits.reshape(self.n_actions, -1, logits.shape[1])
        else:
            logits = xp.concatenate((logits, 0 * logits[:1] + _MISSING_ACTION_LOGIT))[self._padding]
        return log_softmax(xp, logits, 1)

    def sample(self, xp: ArrayNamespace, parameters: Array, draws_BA: Array) -> Array:
        cumulative = xp.exp(parameters).cumsum(1)
        actions = (cumulative[:, :-1] <= draws_BA.T[:, None] * cumulative[:, -1:]).sum(1)
        if self._padding is not None:  # a random number close to 1 may be rounded to 1
            actions = xp.minimum(actions, self._last if xp is np else th.as_tensor(self._last, device=actions.device))
        return actions[0] if self._is_single else actions.T

    def mode(self, xp: ArrayNamespace, parameters: Array) -> Array:
        actions = parameters.argmax(1)
        return actions[0] if self._is_single else actions.T

    def log_prob(self, xp: ArrayNamespace, parameters: Array, actions: Array) -> Array:
        rows = xp.arange(parameters.shape[2])
        if xp is th:
            actions = actions.long()
        if self._is_single:
            return parameters[0, actions, rows]
        return parameters[self._components, actions.T, rows].sum(0)

    def score(self, xp: ArrayNamespace, parameters: Array, actions: Array) -> Array:
        score = -xp.exp(parameters)
        chosen = actions.long() if xp is th else actions
        score[self._components, chosen[None] if self._is_single else chosen.T, xp.arange(parameters.shape[2])] += 1
        of_outputs = score.reshape(-1, score.shape[2])
        return (of_outputs if self._padding is None else of_outputs[self._padding.ravel() < self.n_outputs]).T

    def entropy(self, xp: ArrayNamespace, parameters: Array) -> Array:
        return -(xp.exp(parameters) * parameters).sum(1).sum(0)

    def to_sb3(self, parameters: th.Tensor) -> Distribution:
        exists = slice(None) if self._padding is None else (self._padding < self.n_outputs).ravel()
        return super().to_sb3(parameters.flatten(0, 1)[exists].T)


def _require_finite(value: float) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(
            "The network's outputs are infinite or NaN. Either an observation is infinite, NaN or too large, or the "
            "weights have become too large. If it is the weights, lower learning_rate or set a max_grad_norm."
        )


def _act_in_python(logits_BP: list[list[float]], draws_BA: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Sample as :class:`Categorical` does. For a few rows, Python's floats are quicker than arrays."""
    actions, log_probs = [], []
    for logits, (draw,) in zip(logits_BP, draws_BA, strict=True):
        highest_logit = max(logits)
        odds = [math.exp(logit - highest_logit) for logit in logits]
        total = sum(odds)
        left = draw * total
        action = 0
        while action < len(odds) - 1 and left >= odds[action]:
            left -= odds[action]
            action += 1
        actions.append(action)
        log_probs.append(math.log(odds[action] / total))
    _require_finite(sum(log_probs))
    return np.array(actions), np.array(log_probs, np.float32)


class Bernoulli(ActionDistribution):
    """
    Several binary choices at once (``MultiBinary``). Parameters are logits, of shape (B, A).

    :param space: Action space
    """

    def __init__(self, space: spaces.MultiBinary) -> None:
        super().__init__(space)
        self.n_outputs = self.n_actions

    def parameters(self, xp: ArrayNamespace, outputs_BP: Array) -> Array:
        return outputs_BP

    def sample(self, xp: ArrayNamespace, parameters: Array, draws_BA: Array) -> Array:
        return as_float(xp, draws_BA < xp.exp(_log_sigmoid(xp, parameters)))

    def mode(self, xp: ArrayNamespace, parameters: Array) -> Array:
        return as_float(xp, parameters > 0)

    def log_prob(self, xp: ArrayNamespace, parameters: Array, actions: Array) -> Array:
        return (actions * parameters + _log_sigmoid(xp, -parameters)).sum(1)

    def score(self, xp: ArrayNamespace, parameters: Array, actions: Array) -> Array:
        return actions - xp.exp(_log_sigmoid(xp, parameters))

    def entropy(self, xp: ArrayNamespace, parameters: Array) -> Array:
        yes, no = _log_sigmoid(xp, parameters), _log_sigmoid(xp, -parameters)
        return -(xp.exp(yes) * yes + xp.exp(no) * no).sum(1)

    def _mean(self, xp: ArrayNamespace, parameters: Array, axis: int) -> Array:
        yes, no = (_log_mean_exp(xp, _log_sigmoid(xp, sign * parameters), axis) for sign in (1, -1))
        return yes - no


class Gaussian(ActionDistribution):
    """
    Continuous actions (``Box``), independent of one another. Parameters are means, then log standard deviations, of
    shape (B, 2 A).

    :param space: Action space
    """

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.n_outputs = 2 * self.n_actions

    def draw(self, generator: np.random.Generator, n_rows: int) -> np.ndarray:
        """Standard normal numbers of shape (B, A): the actions' distances from the means in standard deviations."""
        return generator.standard_normal((n_rows, self.n_actions), dtype=np.float32)

    def draw_like(self, parameters: th.Tensor) -> th.Tensor:
        return th.randn(len(parameters), self.n_actions, device=parameters.device)

    def _split(self, parameters: Array) -> tuple[Array, Array]:
        return parameters[:, : self.n_actions], parameters[:, self.n_actions :]

    def parameters(self, xp: ArrayNamespace, outputs_BP: Array) -> Array:
        return outputs_BP

    def sample(self, xp: ArrayNamespace, parameters: Array, draws_BA: Array) -> Array:
        mean, log_std = self._split(parameters)
        return mean + xp.exp(log_std) * draws_BA

    def mode(self, xp: ArrayNamespace, parameters: Array) -> Array:
        return self._split(parameters)[0]

    def log_prob(self, xp: ArrayNamespace, parameters: Array, actions: Array) -> Array:
        mean, log_std = self._split(parameters)
        z = (actions - mean) / xp.exp(log_std)
        return (-0.5 * (z * z + math.log(2 * math.pi)) - log_std).sum(1)

    def score(self, xp: ArrayNamespace, parameters: Array, actions: Array) -> Array:
        mean, log_std = self._split(parameters)
        z = (actions - mean) / xp.exp(log_std)
        return xp.concatenate((z / xp.exp(log_std), z * z - 1), axis=1)

    def entropy(self, xp: ArrayNamespace, parameters: Array) -> Array:
        return (self._split(parameters)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(1)

    def _mean(self, xp: ArrayNamespace, parameters: Array, axis: int) -> Array:
        """Mean of the means and of the log standard deviations."""
        return parameters.mean(axis)

    def to_sb3(self, parameters: th.Tensor) -> Distribution:
        return make_proba_distribution(self.space).proba_distribution(*self._split(parameters))


def _log_sigmoid(xp: ArrayNamespace, x: Array) -> Array:
    return xp.minimum(x, 0 * x) - xp.log1p(xp.exp(-abs(x)))


def _log_mean_exp(xp: ArrayNamespace, x: Array, axis: int) -> Array:
    most = highest(xp, x, axis)
    return (most + xp.log(xp.exp(x - most).mean(axis, keepdims=True))).squeeze(axis)


def make_distribution(space: spaces.Space) -> ActionDistribution:
    """
    The distribution for an action space.

    :param space: ``Discrete``, ``MultiDiscrete``, ``MultiBinary`` or ``Box``
    :return: The distribution
    """
    if isinstance(space, spaces.Box):
        return Gaussian(space)
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(space)
    assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    return Categorical(space)
