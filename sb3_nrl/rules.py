"""Learning rules, which compute the eligibility of a window of steps.

Shapes: T steps, E environments, K noise samples, B rows of a batch (B = K · T · E), N nodes of the network, W weights
and biases that learn.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, get_args

import numpy as np

from sb3_nrl.arrays import Array, keep_random_state, repeat_batch
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.checks import check, is_count
from sb3_nrl.layers.base import Perturbs
from sb3_nrl.layers.dense import learned_outputs, linear_layer
from sb3_nrl.noise import Noise
from sb3_nrl.passes import NoisyPass
from sb3_nrl.perturbation import PerturbablePolicy


class Eligibility(Protocol):
    """
    The eligibilities g(t, e) of a window: the contribution of each weight to step t of environment e.

    Traces and updates need only weighted sums of these, never a single one.
    """

    def weighted_sum(self, weights_TE: np.ndarray, per_env: bool = False) -> Array:
        """
        Sum the eligibilities of all steps, Σ_t w(t, e) g(t, e).

        :param weights_TE: The factor w of each step and environment
        :param per_env: Whether to return one sum for each environment instead of the sum over all environments
        :return: Shape (W,), or (E, W), in the order of ``policy.learnable``, the list of parameters that learn
        """


class LearningRule(ABC):
    """
    A learning rule, which computes the eligibility of each synapse. The algorithm computes traces, reward prediction
    errors and updates.

    A subclass defines :meth:`eligibility`. It can override five attributes:

    - ``acts_with_noise``: True if actions in training come from a noisy pass, whose noise is then in ``window.noise``.
    - ``noise``: a :class:`~sb3_nrl.Noise`, which ``policy.sample_noise`` draws from; None for none.
    - ``perturbs``: ``"weight"`` if noise is added to weights rather than to nodes, ``"any"`` for a rule that takes
      gradients. Node perturbation refuses modules whose parameters it does not reach.
    - ``n_passes``: number of passes for each step. The algorithm uses it to cut long windows into pieces that fit into
      memory.
    - ``max_steps``: maximum number of steps of a piece of the window with a recurrent policy; None for whole windows,
      which keep the credit of earlier steps.

    State that a rule keeps from window to window must be returned as ``carry``.
    """

    acts_with_noise: ClassVar[bool] = False
    noise: Noise | None = None
    perturbs: Perturbs = "node"
    n_passes: int = 1
    max_steps: int | None = None

    def check(self) -> None:
        """
        Check the rule's arguments.

        :raises ValueError: If one of them is out of range
        """
        name = type(self).__name__
        check(f"{name}.noise", self.noise, self.noise is None or isinstance(self.noise, Noise), "a Noise, or None")
        kinds = get_args(Perturbs)
        check(f"{name}.perturbs", self.perturbs, self.perturbs in kinds, f"one of {kinds}")
        has_noise = self.noise is not None or not self.acts_with_noise
        check(f"{name}.noise", self.noise, has_noise, "a Noise, which a rule that acts with noise needs")
        if self.noise is not None:
            self.noise.check()
        check(f"{name}.n_passes", self.n_passes, is_count(self.n_passes), "a whole number of passes, at least 1")

    @abstractmethod
    def eligibility(self, policy: PerturbablePolicy, window: RolloutWindow, carry: Any) -> tuple[Eligibility, Any]:
        """
        Compute the eligibility of a window, or of a piece of a long window.

        With ``n_epochs`` > 1 this is called again for the same steps, with ``carry=None``, with the weights as they
        have become, and with their ``log_probs``.

        :param policy: The policy, with the weights that acted in the window
        :param window: Successive steps
        :param carry: The second return value of the call for the previous steps; None at the start of training or after
            a reset
        :return: The eligibility, and ``carry`` for the next steps (may be None)
        """


class Piece(NamedTuple):
    """
    What a learning rule finds in a piece of a window.

    :param steps: The steps of the piece
    :param eligibility: Their eligibility
    :param cost_W: The derivative of what the actor's activity costs in all of them, None if it costs nothing
    :param diagnostics: Numbers to log as ``train/<name>``
    :param carry: What the rule needs for the next steps
    """

    steps: slice
    eligibility: Eligibility
    cost_W: Array | None
    diagnostics: dict[str, float]
    carry: Any


def eligibilities(
    policy: PerturbablePolicy, rule: LearningRule, window: RolloutWindow, n_steps: int, carry: Any
) -> Iterator[Piece]:
    """
    Apply a learning rule to a window, piece by piece.

    :param policy: The policy
    :param rule: The learning rule
    :param window: The steps
    :param n_steps: Maximum number of steps of a piece
    :param carry: What the rule kept from the steps before
    :return: The pieces, one after the other
    :raises ValueError: If the actor's activity costs something and the rule does not measure it
    """
    states = window.states
    for steps, batch in window.batches(n_steps):
        batch = batch._replace(states=states)
        eligibility, carry = rule.eligibility(policy, batch, carry)
        costs, cost_W = getattr(eligibility, "costs", None), None
        if costs is not None:
            cost_W = costs.weighted_sum(np.ones_like(batch.rewards_TE))
        elif policy.costs() is not None:
            raise ValueError(f"spike_cost: must be 0 with {type(rule).__name__}, which measures no costs")
        diagnostics = {**policy.diagnostics(len(batch.actions)), **getattr(eligibility, "diagnostics", {})}
        yield Piece(steps, eligibility, cost_W, diagnostics, carry)
        if states is not None and batch.starts_TE is not None and steps.stop < window.n_steps:
            passed = policy.noisy_pass(batch.observations, batch.actions, None, None, states, batch.starts_TE)
            states = passed.states


class PerturbationRule(LearningRule):
    """
    A rule that compares passes that have noise: the base of node and of weight perturbation.

    :param noise: The noise
    :param n_noise_samples: Number K of noise samples
    :param antithetic: Whether each sample is a pair of passes, one with the noise and one with its negative
    :param local_head: Whether the heads learn from their own derivatives, and get no noise
    """

    def __init__(self, noise: Noise, n_noise_samples: int, antithetic: bool, local_head: bool) -> None:
        self.noise: Noise = noise
        self.n_noise_samples = n_noise_samples
        self.antithetic = antithetic
        self.local_head = local_head

    @property
    def n_passes(self) -> int:  # type: ignore[override]
        return 2 * self.n_noise_samples if self.antithetic else self.n_noise_samples

    def check(self) -> None:
        samples = self.n_noise_samples
        check("n_noise_samples", samples, is_count(samples), "a whole number of noise samples, at least 1")
        for name in ("antithetic", "local_head"):
            value = getattr(self, name)
            check(name, value, isinstance(value, bool), "True or False")
        super().check()
        check("noise", self.noise, self.noise is not None, "a Noise with a rule that compares passes")
        probability = self.noise.probability
        check("probability of the noise", probability, probability == 1, "1 with a rule that compares passes")

    def passes(
        self, policy: PerturbablePolicy, window: RolloutWindow, cases: Sequence[tuple[Any, Array | None]]
    ) -> list[NoisyPass]:
        """
        Passes that differ by their noise alone: a Poisson encoder makes the same spikes in all of them.

        :param policy: The policy
        :param window: Successive steps
        :param cases: Noise, and hidden states before the first step, of each pass
        :return: The passes
        """
        obs, actions, starts = window.observations, window.actions, window.starts_TE
        passes = []
        for noise, states in cases[:-1]:
            with keep_random_state(policy.device):
                passes.append(policy.noisy_pass(obs, actions, noise, states=states, starts_TE=starts))
        noise, states = cases[-1]
        return [*passes, policy.noisy_pass(obs, actions, noise, states=states, starts_TE=starts)]


class OuterProducts:
    """
    An eligibility that is an outer product at each synapse, Σ_k post(k, t, e) ⊗ pre(k, t, e), summed over K noise
    samples of a step (Eq. 17 and 21). The input of a bias is 1.

    :param policy: The policy
    :param post_BN: Post-synaptic factor of each node, the actor's nodes first; step t of environment e with sample k is
        in row (k · T + t) · E + e
    :param pre: Pre-synaptic activity of each layer, as ``policy.noisy_pass`` gives it
    :param diagnostics: Numbers to log as ``train/<name>``
    :param costs: The same for what the actor's activity costs, None if nothing
    :raises ValueError: If ``post_BN`` has another number of columns than the policy has nodes
    """

    def __init__(
        self,
        policy: PerturbablePolicy,
        post_BN: Array,
        pre: list[Any],
        diagnostics: dict[str, float] | None = None,
        costs: Eligibility | None = None,
    ) -> None:
        self.policy = policy
        self.post_BN = policy.array(post_BN)
        shape = tuple(self.post_BN.shape)
        wanted = f"of shape (rows, {policy.n_nodes}), a column for each node"
        check("shape of post_BN", shape, len(shape) == 2 and shape[1] == policy.n_nodes, wanted)
        self.pre = pre
        self.diagnostics = diagnostics or {}
        self.costs = costs

    def weighted_sum(self, weights_TE: np.ndarray, per_env: bool = False) -> Array:
        post_BN = self.post_BN
        if (weights_TE != 1).any():
            post_KTEN = post_BN.reshape(-1, *weights_TE.shape, post_BN.shape[1])
            post_BN = (post_KTEN * self.policy.array(weights_TE)[..., None]).reshape(post_BN.shape)
        sum_EW = self.policy.outer(post_BN, self.pre, weights_TE.shape[1] if per_env else 1)
        return sum_EW if per_env else sum_EW[0]


def head_scores(policy: PerturbablePolicy, passed: NoisyPass, actions: Array) -> list[Array]:
    """
    The derivatives of log π(a|s) and V(s) with respect to the outputs of the heads of actor and critic: post-synaptic
    factors that need no backward pass.

    :param policy: The policy
    :param passed: A pass, of which B rows
    :param actions: Actions; if the pass has K copies, the copies have the same
    :return: For actor and critic, of those outputs whose weights or bias learn, B rows
    :raises ValueError: If a head has an activation function
    """
    is_linear = all(linear_layer(network.head).activation is None for network in policy.networks)
    check("local_head", True, is_linear, "False with an activation function in the head")
    parameters, xp = passed.parameters, policy.xp
    n_copies = parameters.shape[policy.action_dist.batch_axis] // len(actions)
    score = policy.action_dist.score(xp, parameters, repeat_batch(xp, policy.array(actions), n_copies))
    scores = [score[:, learned_outputs(policy.actor.head)]]
    if policy.critic is not None:
        scores.append(xp.ones_like(passed.objectives[1])[:, None][:, learned_outputs(policy.critic.head)])
    return scores
