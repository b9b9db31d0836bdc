"""What a learning rule is: it turns a window of steps into an eligibility.

Shapes: T steps, E environments, K noise samples, B rows of a batch (B = K · T · E), N nodes of the network, W weights
and biases that learn.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import numpy as np

from sb3_nrl.arrays import Array, like
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.noise import Noise
from sb3_nrl.perturbation import PerturbablePolicy


class Eligibility(Protocol):
    """
    The eligibilities g(t, e) of a window: how each weight took part in what happened at step t of environment e.

    Traces and updates are weighted sums of these, so that nobody needs them one by one.
    """

    def weighted_sum(self, weights_TE: np.ndarray, per_env: bool = False) -> Array:
        """
        Σ_t w(t, e) g(t, e), summed over the environments or for each of them.

        :param weights_TE: w
        :param per_env: Whether to keep the environments apart
        :return: Shape (W,), or (E, W)
        """


class LearningRule(ABC):
    """
    A rule of learning: what makes a synapse eligible for change. The algorithm does the rest: traces, reward prediction
    errors, updates.

    A rule has no state but what it returns as ``carry``.
    """

    acts_with_noise: ClassVar[bool] = False
    """Whether actions in training come from a noisy pass, whose noise is then in ``window.noise``."""

    noise: Noise | None = None
    """Noise of the policy's nodes, None for none."""

    n_passes: int = 1
    """Passes for each step of a window, by which the algorithm bounds the size of a batch."""

    def check(self) -> None:
        """
        Check the rule's arguments.

        :raises ValueError: If one of them is out of range
        """
        if self.noise is not None:
            self.noise.check()

    @abstractmethod
    def eligibility(self, policy: PerturbablePolicy, window: RolloutWindow, carry: Any) -> tuple[Eligibility, Any]:
        """
        Form the eligibility of a window.

        :param policy: The policy, with the weights that acted in the window
        :param window: The steps
        :param carry: What the rule returned for the window before; None if there was none, or if training starts anew
        :return: The eligibility, and what the rule wants to have with the next window
        """


class OuterProducts:
    """
    An eligibility that is an outer product at each synapse, Σ_k post(k, t, e) ⊗ pre(k, t, e) with K samples of a step
    (Eq. 17 and 21).

    :param policy: The policy
    :param post_BN: Post-synaptic factor of each node
    :param pre: Pre-synaptic activity of each layer, as ``policy.noisy_pass`` gives it
    :param diagnostics: What to log, by name
    """

    def __init__(
        self, policy: PerturbablePolicy, post_BN: Array, pre: list[Any], diagnostics: dict[str, float] | None = None
    ) -> None:
        self.policy = policy
        self.post_BN = post_BN
        self.pre = pre
        self.diagnostics = diagnostics or {}

    def weighted_sum(self, weights_TE: np.ndarray, per_env: bool = False) -> Array:
        post_BN = self.post_BN
        if (weights_TE != 1).any():
            post_KTEN = post_BN.reshape(-1, *weights_TE.shape, post_BN.shape[1])
            post_BN = (post_KTEN * like(weights_TE, post_BN)[..., None]).reshape(post_BN.shape)
        sum_EW = self.policy.outer(post_BN, self.pre, weights_TE.shape[1] if per_env else 1)
        return sum_EW if per_env else sum_EW[0]
