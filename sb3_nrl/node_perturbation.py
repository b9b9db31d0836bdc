"""Node perturbation: noise on every node, and whether it made the action more likely.

Shapes: T steps, E environments, K noise samples, B rows of a batch (B = K · T · E), N nodes of the network.
"""

import math
from typing import Any, Literal, get_args

import numpy as np

from sb3_nrl.arrays import Array, map_received
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.checks import check
from sb3_nrl.noise import ORTHOGONAL, Noise
from sb3_nrl.passes import NoisyPass
from sb3_nrl.perturbation import PerturbablePolicy
from sb3_nrl.rules import Eligibility, OuterProducts, PerturbationRule, head_scores

NoiseNormalization = Literal["network", "layer", "unbiased"]

_TINY = np.finfo(np.float32).tiny


class NodePerturbation(PerturbationRule):
    """
    Eligibility ρ ξ / ‖ξ‖² ⊗ x̃ (Eq. 17), with noise ξ on every node. For the actor, ρ = log π̃(a|s) − log π(a|s)
    measures whether the noise makes the action more likely. For the critic, ρ = Ṽ(s) − V(s). The rule uses forward
    passes only.

    For the parameters see :class:`~sb3_nrl.NRL`.
    """

    def __init__(
        self,
        noise: Noise,
        noise_normalization: NoiseNormalization = "unbiased",
        n_noise_samples: int = 8,
        antithetic: bool = True,
        local_head: bool = False,
    ) -> None:
        super().__init__(noise, n_noise_samples, antithetic, local_head)
        self.noise_normalization = noise_normalization

    def check(self) -> None:
        super().check()
        normalization = self.noise_normalization
        known = get_args(NoiseNormalization)
        check("noise_normalization", normalization, normalization in known, f"one of {known}")
        valid = normalization != "layer" or self.noise.distribution != ORTHOGONAL
        wanted = "'network' or 'unbiased' with orthogonal noise, which is not orthogonal within a layer"
        check("noise_normalization", normalization, valid, wanted)

    def eligibility(self, policy: PerturbablePolicy, window: RolloutWindow, carry: Any) -> tuple[Eligibility, Any]:
        actions = window.actions
        noise_BN = policy.sample_noise(len(actions), self.n_noise_samples)
        for nodes in self._local(policy):
            noise_BN[:, nodes] = 0
        noises = [noise_BN, -noise_BN] if self.antithetic else [noise_BN]
        if not policy.is_smooth:  # the first: diagnostics are those of the last pass, which has noise
            noises.insert(0, None)
        passes = self.passes(policy, window, [(noise, window.states) for noise in noises])
        clean: list[Array] = []
        if not policy.is_smooth:
            clean = _measured(passes.pop(0))
        elif not self.antithetic:
            clean = [window.log_probs]
            if policy.critic is not None:
                clean.append(policy.values(window.observations, window.states, window.starts_TE)[0])
        scores = [head_scores(policy, of, actions) if self.local_head else [] for of in passes]
        measured, n_samples = [_measured(of) for of in passes], self.n_noise_samples
        if not clean:
            rhos = [(plus - minus) / 2 for plus, minus in zip(*measured, strict=True)]
            # With −ξ, ρ has the opposite sign too, so both passes of a pair have the same post-synaptic factor ρ ξ.
            pre = map_received(lambda plus, minus: (plus + minus) / 2, *(of.received for of in passes))
            of_heads = [(plus + minus) / 2 for plus, minus in zip(*scores, strict=True)]
        else:
            rhos = [
                (policy.xp.concatenate(of_passes).reshape(-1, len(actions)) - policy.array(value)).reshape(-1)
                for *of_passes, value in zip(*measured, clean, strict=True)
            ]
            pre = map_received(lambda *of_passes: policy.xp.concatenate(of_passes), *(of.received for of in passes))
            of_heads = [policy.xp.concatenate(of_passes) for of_passes in zip(*scores, strict=True)]
            if self.antithetic:
                noise_BN, n_samples = policy.xp.concatenate([noise_BN, -noise_BN]), self.n_passes
        costs: Eligibility | None = None
        if passes[0].costs is not None:
            of_costs = [rhos.pop(), 0 * rhos[0]]
            costs = self._sums(policy, noise_BN, n_samples, of_costs, [0 * of for of in of_heads], pre, window)
        deviations = rhos[0] - rhos[0].sum() / len(rhos[0])
        diagnostics = {"rho_std": math.sqrt(deviations @ deviations / len(deviations))}
        return self._sums(policy, noise_BN, n_samples, rhos, of_heads, pre, window, diagnostics, costs), None

    def _local(self, policy: PerturbablePolicy) -> list[slice]:
        """The nodes of the heads of actor and critic, if they learn without noise."""
        return [part.layer_nodes[-1] for part in policy.parts] if self.local_head else []

    def _sums(
        self,
        policy: PerturbablePolicy,
        noise_BN: Array,
        n_samples: int,
        rhos: list[Array],
        of_heads: list[Array],
        pre: list[Any],
        window: RolloutWindow,
        diagnostics: dict[str, float] | None = None,
        costs: Eligibility | None = None,
    ) -> Eligibility:
        is_recurrent = policy.n_states > 0
        if is_recurrent:
            assert self.noise is not None
            post_BN = noise_BN / (n_samples * self.noise.std**2)
        else:
            post_BN = self._post_synaptic(policy, noise_BN, n_samples, rhos)
        for nodes, score in zip(self._local(policy), of_heads, strict=True):
            post_BN[:, nodes] = score / n_samples
        if not is_recurrent:
            return OuterProducts(policy, post_BN, pre, diagnostics, costs)
        assert window.starts_TE is not None
        return NoiseThroughTime(policy, post_BN, rhos, pre, window.starts_TE, self.local_head, diagnostics, costs)

    def _post_synaptic(self, policy: PerturbablePolicy, noise_BN: Array, n_samples: int, rhos: list[Array]) -> Array:
        """The post-synaptic factor ρ ξ / ‖ξ‖² of all nodes, normalized according to ``noise_normalization``."""
        post_BN = noise_BN / n_samples
        for part, rho_B in zip(policy.parts, rhos, strict=True):
            nodes = slice(part.nodes.start, part.layer_nodes[-1].start) if self.local_head else part.nodes
            spans = part.layer_nodes if self.noise_normalization == "layer" else [nodes]
            if self.noise_normalization == "unbiased":
                rho_B = rho_B * (nodes.stop - nodes.start)
            for span in spans:
                noise = noise_BN[:, span]
                squares_B = policy.xp.einsum("bn,bn->b", noise, noise)
                # The noise of a layer with one node can be exactly 0; _TINY avoids a division by 0.
                post_BN[:, span] *= (rho_B / (squares_B + _TINY))[:, None]
        return post_BN


def _measured(noisy: NoisyPass) -> list[Array]:
    """What noise changes: log π(a|s), V(s) if there is a critic, and what activity costs, if anything."""
    return [*noisy.objectives, *([] if noisy.costs is None else [noisy.costs])]


class NoiseThroughTime(OuterProducts):
    """
    Eligibility ρ(t) Σ_{s ≤ t} ξ(s) ⊗ x̃(s) / σ², of noise whose effect the hidden state carries to later steps of the
    episode. Noise on nodes after the last recurrent layer changes its own step alone.

    :param policy: The policy
    :param post_BN: ξ / (K σ²) of each node
    :param rhos: ρ of actor and critic, shape (B,)
    :param pre: Pre-synaptic activity of each layer
    :param starts_TE: Whether an episode begins with each step
    :param local_head: Whether the post-synaptic factors of the heads have their own derivatives, which need no ρ
    :param diagnostics: What to log, by name
    :param costs: The same for what the actor's activity costs, None if nothing
    """

    def __init__(
        self,
        policy: PerturbablePolicy,
        post_BN: Array,
        rhos: list[Array],
        pre: list[Any],
        starts_TE: np.ndarray,
        local_head: bool = False,
        diagnostics: dict[str, float] | None = None,
        costs: Eligibility | None = None,
    ) -> None:
        super().__init__(policy, post_BN, pre, diagnostics, costs)
        self._rhos_KTE = [policy.numpy(rho_B).reshape(-1, *starts_TE.shape) for rho_B in rhos]
        self._starts_TE, self._local_head = starts_TE, local_head

    def weighted_sum(self, weights_TE: np.ndarray, per_env: bool = False) -> Array:
        policy, n_envs = self.policy, weights_TE.shape[1]
        post_KTEN = self.post_BN.reshape(-1, *weights_TE.shape, policy.n_nodes)
        post_KTEN = policy.xp.zeros_like(post_KTEN) + post_KTEN
        for network, part, rho_KTE in zip(policy.networks, policy.parts, self._rhos_KTE, strict=True):
            now_KTE = weights_TE * rho_KTE
            later_KTE = now_KTE.copy()
            for t in range(len(weights_TE) - 2, -1, -1):
                later_KTE[:, t] += later_KTE[:, t + 1] * ~self._starts_TE[t + 1]
            last = part.nodes.start + network.n_remembered
            post_KTEN[..., part.nodes.start : last] *= policy.array(later_KTE)[..., None]
            head = part.layer_nodes[-1].start if self._local_head else part.nodes.stop
            post_KTEN[..., last:head] *= policy.array(now_KTE)[..., None]
            post_KTEN[..., head : part.nodes.stop] *= policy.array(weights_TE)[..., None]
        sum_EW = policy.outer(post_KTEN.reshape(self.post_BN.shape), self.pre, n_envs if per_env else 1)
        return sum_EW if per_env else sum_EW[0]
