"""Weight perturbation: noise on the weights themselves, which may last for many steps.

Shapes: T steps, E environments, K noise samples, G groups of successive steps that share their noise, N nodes, M inputs
of weight matrices, W weights and biases that learn.
"""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from sb3_nrl.arrays import Array, ArrayNamespace
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.checks import check, is_count
from sb3_nrl.layers import Layer, RankOne
from sb3_nrl.network import WeightNoise
from sb3_nrl.noise import NOISE_DISTRIBUTIONS, Noise
from sb3_nrl.perturbation import PerturbablePolicy
from sb3_nrl.rules import Eligibility, PerturbationRule, head_scores

NoiseRank = Literal["one", "full"]


class _Carry(NamedTuple):
    """
    Noise that lasts beyond a window, the hidden states of the copies that it perturbs and those of the clean pass
    (None without one), for how long it has lasted, and the arguments of the rule that drew it.
    """

    noise: list[WeightNoise]
    states: Array
    clean_states: Array | None
    n_steps: int
    arguments: dict[str, Any]


class WeightPerturbation(PerturbationRule):
    """
    Eligibility ρ ΔW / σ² (Eq. 7 to 12 with the weights as θ): noise ΔW on the weights, and
    ρ = log π̃(a|s) − log π(a|s), which tells whether the noise made the action likelier. For the critic,
    ρ = Ṽ(s) − V(s). Forward passes alone.

    With a recurrent policy each noisy copy has a hidden state of its own. ρ compares it with the clean one after all
    the noise so far, which carries credit back through time.

    :param noise: Noise of the weights; independent in each weight, or in each factor of a matrix of rank one
    :param n_noise_samples: Number K of noise samples
    :param antithetic: Whether each sample is a pair of copies with ΔW and −ΔW
    :param rank: ``"one"``: ΔW = b aᵀ on each weight matrix, another one for each environment. ``"full"``: every weight
        has noise of its own, shared by all environments. Layers that are no matrices always get full noise
    :param hold: Maximum number of steps that noise is held for. With a recurrent policy credit reaches as far back.
        Full noise without memory is held for the whole window, whatever ``hold`` is
    :param local_head: Whether the heads learn from their own derivatives in a clean pass, and get no noise
    """

    perturbs = "weight"

    def __init__(
        self,
        noise: Noise,
        n_noise_samples: int = 32,
        antithetic: bool = True,
        rank: NoiseRank = "one",
        hold: int = 32,
        local_head: bool = False,
    ) -> None:
        super().__init__(noise, n_noise_samples, antithetic, local_head)
        self.rank = rank
        self.hold = hold

    @property
    def max_steps(self) -> int:  # type: ignore[override]
        return self.hold

    def check(self) -> None:
        super().check()
        known = tuple(NOISE_DISTRIBUTIONS)
        distribution = self.noise.distribution
        check("noise_distribution", distribution, distribution in known, f"one of {known} with noise on weights")
        check("noise_rank", self.rank, self.rank in get_args(NoiseRank), f"one of {get_args(NoiseRank)}")
        check("noise_hold", self.hold, is_count(self.hold), "a whole number of steps, at least 1")

    def eligibility(self, policy: PerturbablePolicy, window: RolloutWindow, carry: Any) -> tuple[Eligibility, Any]:
        n_steps, n_envs = window.n_steps, window.n_envs
        arguments = dict(vars(self))  # after a change of them, new noise is drawn
        goes_on = carry is not None and carry.arguments == arguments and carry.n_steps + n_steps <= self.hold
        group_starts = np.arange(0, n_steps, n_steps if policy.n_states > 0 else self.hold)
        noise = carry.noise if goes_on else self._sample(policy, len(group_starts), n_envs)
        group_T = np.searchsorted(group_starts, np.arange(n_steps), "right") - 1
        copies = [self._copies(policy.xp, of_network, group_T) for of_network in noise]
        cases: list[tuple[Any, Array | None]] = [(copies, carry.states if goes_on else window.states)]
        needs_clean = self.local_head or not self.antithetic
        if needs_clean:  # the first: diagnostics are those of the last pass, which has noise
            cases.insert(0, (None, carry.clean_states if goes_on else window.states))
        *clean, noisy = self.passes(policy, window, cases)
        scores, of_heads = [], []
        if self.local_head:
            scores = head_scores(policy, clean[0], window.actions)
            lasts = np.cumsum([len(network.layers) for network in policy.networks]) - 1
            of_heads = [clean[0].received[last] for last in lasts]
        objectives = [policy.numpy(part).reshape(-1, n_steps, n_envs) for part in noisy.objectives]
        if self.antithetic:
            rhos = [(part[: self.n_noise_samples] - part[self.n_noise_samples :]) / 2 for part in objectives]
        else:
            without = [policy.numpy(part).reshape(n_steps, n_envs) for part in clean[0].objectives]
            rhos = [part - values for part, values in zip(objectives, without, strict=True)]
        if noisy.states is not None:
            clean_states, n_before = clean[0].states if needs_clean else None, carry.n_steps if goes_on else 0
            carry = _Carry(noise, noisy.states, clean_states, n_before + n_steps, arguments)
        sums = _WeightNoiseSums(policy, self, noise, rhos, group_starts, scores, of_heads)
        if noisy.costs is not None:
            check("antithetic", self.antithetic, self.antithetic, "True with a spike_cost")
            of_passes = policy.numpy(noisy.costs).reshape(-1, n_steps, n_envs)
            of_passes = np.broadcast_to(of_passes, (self.n_passes, n_steps, n_envs))  # one pass if no neuron gets noise
            of_costs = (of_passes[: self.n_noise_samples] - of_passes[self.n_noise_samples :]) / 2
            scores = [0 * score for score in scores]
            sums.costs = _WeightNoiseSums(policy, self, noise, [of_costs, 0 * of_costs], group_starts, scores, of_heads)
        return sums, carry

    def _sample(self, policy: PerturbablePolicy, n_groups: int, n_envs: int) -> list[WeightNoise]:
        """Draw noise for K copies: of rank one for each group and environment, and the full one."""
        n_copies, device = self.n_noise_samples, policy.learnable[0].device

        def draw(noise: Noise, n_rows: int, width: int) -> Array:
            return policy.array(noise.sample(n_copies, n_rows, [width], device))

        def change(layer: Layer) -> tuple[Array, ...] | None:
            if not any(layer.learns) or (self.rank == "one" and layer.n_pre > 0):
                return None
            parts = []
            for parameter, learns, mask in zip(layer.parameters(), layer.learns, layer.masks(), strict=True):
                if learns:
                    part = draw(self.noise, 1, parameter.numel()).reshape(n_copies, *parameter.shape)
                    parts.append(part if mask is None else part * policy.array(mask))
                else:
                    parts.append(policy.array(np.zeros((n_copies, *[1] * parameter.ndim), np.float32)))
            return tuple(parts)

        changes = [
            [None if self.local_head and layer is network.head else change(layer) for layer in network.layers]
            for network in policy.networks
        ]
        rank_ones: list[RankOne | None] = [None for _ in policy.parts]
        if self.rank == "one":
            shape = (n_copies, n_groups, n_envs, -1)
            post = draw(self.noise, n_groups * n_envs, policy.n_nodes)
            pre = draw(self.noise._replace(std=1.0), n_groups * n_envs, policy.n_pre)
            for part in policy.parts if self.local_head else ():
                post[:, part.layer_nodes[-1]] = 0
            of_all = RankOne(post.reshape(shape), pre.reshape(shape))
            rank_ones = [of_all.of(part.nodes, part.inputs) for part in policy.parts]
        return [WeightNoise(*parts, n_copies) for parts in zip(rank_ones, changes, strict=True)]

    def _copies(self, xp: ArrayNamespace, noise: WeightNoise, group_T: np.ndarray) -> WeightNoise:
        """The noise of all passes: pairs have noise of opposite sign, and each step the noise of its group."""
        signs = (1, -1) if self.antithetic else (1,)
        changes: list[tuple[Array, ...] | None] = [
            None if layer is None else tuple(xp.concatenate([sign * part for sign in signs]) for part in layer)
            for layer in noise.changes
        ]
        rank_one = noise.rank_one
        if rank_one is not None:
            post, pre = (part if part.shape[1] == 1 else part[:, group_T] for part in rank_one)
            rank_one = RankOne(xp.concatenate([sign * post for sign in signs]), xp.concatenate([pre for _ in signs]))
        return WeightNoise(rank_one, changes, self.n_passes)


class _WeightNoiseSums:
    """Σ_k ρ_k ΔW_k / (K σ²), weighted and summed over steps."""

    def __init__(
        self,
        policy: PerturbablePolicy,
        rule: WeightPerturbation,
        noise: list[WeightNoise],
        rhos_KTE: list[np.ndarray],
        group_starts: np.ndarray,
        scores: list[Array],
        of_heads: list[Any],
    ) -> None:
        self.policy, self.noise, self.rhos_KTE, self.group_starts = policy, noise, rhos_KTE, group_starts
        self.scores, self.of_heads = scores, of_heads
        self.scale = 1 / (rule.n_noise_samples * rule.noise.std**2)
        self.diagnostics = {"rho_std": float(rhos_KTE[0].std())}
        self.costs: Eligibility | None = None

    def weighted_sum(self, weights_TE: np.ndarray, per_env: bool = False) -> Array:
        policy = self.policy
        n_envs = weights_TE.shape[1] if per_env else 1
        sums: list[Array] = []
        for place, (network, noise) in enumerate(zip(policy.networks, self.noise, strict=True)):
            rho_KGE = np.add.reduceat(weights_TE * self.rhos_KTE[place] * self.scale, self.group_starts, axis=1)
            of_copy_EK = rho_KGE.sum(1).T if per_env else rho_KGE.sum((1, 2))[None]
            if noise.rank_one is not None:
                post, pre = noise.rank_one
                post_BN = (post * policy.array(rho_KGE)[..., None]).reshape(rho_KGE.size, post.shape[-1])
                pre_BM = pre.reshape(rho_KGE.size, pre.shape[-1])
            for layer, change, nodes, inputs in zip(
                network.layers, noise.changes, network.layer_nodes, network.layer_inputs, strict=True
            ):
                if self.scores and layer is network.head:
                    score_BN = self.scores[place] * policy.array(weights_TE.reshape(-1, 1))
                    sums += layer.outer(policy.xp, score_BN, self.of_heads[place], n_envs)
                elif change is not None:
                    sums += [
                        policy.array(of_copy_EK) @ values.reshape(len(values), -1)
                        for values, learns in zip(change, layer.learns, strict=True)
                        if learns
                    ]
                elif layer.n_pre > 0:
                    sums += layer.outer_rank_one(policy.xp, post_BN[:, nodes], pre_BM[:, inputs], n_envs)
        sum_EW = policy.xp.concatenate(sums, 1)
        return sum_EW if per_env else sum_EW[0]
