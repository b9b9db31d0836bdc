"""Recurrent policies: credit through time against autograd in double precision, and states as RecurrentPPO has them."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_nrl import NRL, Noise, RolloutWindow
from sb3_nrl.bptt import ExactGradient
from sb3_nrl.layers import Dense, GaussianHead, Gru, LeakyRnn
from sb3_nrl.layers.recurrent import RecurrentDense
from sb3_nrl.node_perturbation import NodePerturbation
from sb3_nrl.recurrent_policies import CtrnnPolicy, GruPolicy, RnnPolicy
from sb3_nrl.rules import LearningRule
from sb3_nrl.spiking_policies import StatefulLifPolicy
from sb3_nrl.weight_perturbation import WeightPerturbation
from tests.conftest import make_model
from tests.policies import BOX, batch, in_torch, make_policy

T, E = 7, 3
STARTS_TE = np.zeros((T, E), bool)
STARTS_TE[0, 0] = STARTS_TE[4, 1] = STARTS_TE[3, 2] = STARTS_TE[6, 2] = True
"""One environment is at the start of an episode, in two others episodes begin within the window."""

POLICIES: dict[str, dict[str, Any]] = {
    "RNN": {"policy_class": RnnPolicy},
    "CTRNN": {"policy_class": CtrnnPolicy, "tau": [1.5, 2, 3, 4]},
    "CTRNN that learns τ": {"policy_class": CtrnnPolicy, "dt": 2.0, "tau": 5.0, "learn_tau": True},
    "GRU": {"policy_class": GruPolicy},
    "two layers": {"policy_class": RnnPolicy, "net_arch": {"pi": [4, 3], "vf": [3]}},
    "feed-forward critic": {"policy_class": RnnPolicy, "recurrent_critic": False},
    "no biases": {"policy_class": CtrnnPolicy, "use_bias": False},
    "continuous actions": {"policy_class": CtrnnPolicy, "action_space": BOX},
    "sparse, with Dale's law": {"policy_class": RnnPolicy, "connectivity": 0.6, "excitatory": 0.75, "net_arch": [6]},
    "fixed recurrent weights": {"policy_class": GruPolicy, "learn_recurrent": False},
}
each_policy = pytest.mark.parametrize("arguments", POLICIES.values(), ids=POLICIES)


def make_recurrent_policy(arguments: dict[str, Any]) -> Any:
    return make_policy(**{"net_arch": [4], **arguments})


def n_missing(policy: Any) -> int:
    """Number of recurrent synapses that do not exist."""
    units = [part for part in policy.modules() if isinstance(part, RecurrentDense)]
    return sum(int((~part.connections).sum()) for part in units if part.connections is not None)


def make_window(policy: Any, n_steps: int = T, n_envs: int = E, starts_TE: np.ndarray = STARTS_TE) -> RolloutWindow:
    """Random steps, from random hidden states on."""
    zeros_TE = np.zeros((n_steps, n_envs))
    generator = np.random.default_rng(3)
    return RolloutWindow(
        observations=batch(policy.observation_space, n_steps * n_envs),
        actions=batch(policy.action_space, n_steps * n_envs),
        log_probs=np.zeros(n_steps * n_envs, np.float32),
        noise=None,
        rewards_TE=zeros_TE,
        dones_TE=zeros_TE > 0,
        terminal_values_TE=zeros_TE,
        last_observations=batch(policy.observation_space, n_envs, seed=2),
        states=policy.array(generator.normal(size=(n_envs, policy.n_states)).astype(np.float32)),
        starts_TE=starts_TE,
    )


def test_a_recurrent_policy_asks_for_states() -> None:
    policy = make_recurrent_policy({"policy_class": RnnPolicy})
    window = make_window(policy)
    with pytest.raises(ValueError, match="needs states and starts_TE"):
        policy.noisy_pass(window.observations, window.actions, None)


def unit(layer: Any, weights: dict[Any, th.Tensor], x: th.Tensor, h: th.Tensor) -> th.Tensor:
    bias = 0 if layer.bias is None else weights[layer.bias]
    return x @ weights[layer.weight].T + bias + h @ weights[layer.recurrent_weight].T


def step(layer: Any, weights: dict[Any, th.Tensor], x: th.Tensor, state: th.Tensor, tau: Any) -> tuple[Any, Any]:
    """Output and new state of one layer, by the published equations."""
    if isinstance(layer, Gru):
        z = th.sigmoid(unit(layer.update_gate, weights, x, state))
        r = th.sigmoid(unit(layer.reset_gate, weights, x, state))
        new = z * state + (1 - z) * th.tanh(unit(layer.units, weights, x, r * state))
        return new, new
    if isinstance(layer, LeakyRnn):
        dt, constant = tau
        if layer.tau_offset is not None:
            constant = dt + weights[layer.tau_offset.weight][:, 0].exp()
        new = state + dt / constant * (unit(layer.units, weights, x, state.tanh()) - state)
        return new.tanh(), new
    assert isinstance(layer, Dense)
    h = x @ weights[layer.weight].T + (weights[layer.bias] if layer.has_bias else 0)
    return h.tanh(), state


def objectives(policy: Any, window: RolloutWindow) -> tuple[th.Tensor, list[th.Tensor]]:
    """log π(a|s) and V(s) of each step, shape (2, T, E), in double precision; and the parameters they depend on."""
    doubles = {parameter: parameter.detach().double().requires_grad_() for parameter in policy.parameters()}
    starts_TE = window.starts_TE
    assert starts_TE is not None
    n_steps, n_envs = starts_TE.shape
    obs = th.as_tensor(window.observations).double().reshape(n_steps, n_envs, -1)
    actions = th.as_tensor(window.actions).reshape(n_steps, n_envs, -1)
    tau = getattr(policy, "dt", 1.0), th.as_tensor(getattr(policy, "tau", 1.0)).double()
    states = th.as_tensor(policy.numpy(window.states)).double()
    per_network = []
    for network in policy.networks:
        memory = []
        for layer in network.hidden:
            memory.append(states[:, : layer.n_states])
            states = states[:, layer.n_states :]
        rows = []
        for t in range(n_steps):
            x = obs[t]
            for place, layer in enumerate(network.hidden):
                state = memory[place] * th.as_tensor(~starts_TE[t])[:, None]
                x, memory[place] = step(layer, doubles, x, state, tau)
            head = network.head.mean if isinstance(network.head, GaussianHead) else network.head
            output = x @ doubles[head.weight].T + (doubles[head.bias] if head.has_bias else 0)
            if network is not policy.actor:
                rows.append(output[:, 0])
            elif isinstance(policy.action_space, spaces.Box):
                std = doubles[network.head.log_std.weight][:, 0].exp()
                rows.append(th.distributions.Normal(output, std).log_prob(actions[t].double()).sum(1))
            else:
                rows.append(output.log_softmax(1).gather(1, actions[t].long())[:, 0])
        per_network.append(th.stack(rows))
    return th.stack(per_network), [doubles[parameter] for parameter in policy.learnable]


def exact(policy: Any, window: RolloutWindow, weights_TE: np.ndarray) -> th.Tensor:
    """∂ Σ w(t, e) (log π(a|s) + V(s)) / ∂ all parameters, by autograd through time."""
    both, parameters = objectives(policy, window)
    gradients = th.autograd.grad((th.as_tensor(weights_TE) * both).sum(), parameters)
    masks = [mask for network in policy.networks for layer in network.layers for mask in masks_of(layer)]
    return th.cat(
        [
            (gradient if mask is None else gradient * mask).flatten()
            for gradient, mask in zip(gradients, masks, strict=True)
        ]
    )


def masks_of(layer: Any) -> list[Any]:
    """For each parameter that learns, which of its entries exist."""
    return [mask for mask, parameter in zip(layer.masks(), layer.parameters(), strict=True) if parameter.requires_grad]


def weights_of_steps(n_steps: int = T, n_envs: int = E) -> np.ndarray:
    return np.random.default_rng(4).normal(size=(n_steps, n_envs))


@th.no_grad()
def estimate(policy: Any, window: RolloutWindow, rule: LearningRule, weights_TE: np.ndarray) -> th.Tensor:
    policy.noise = rule.noise
    eligibility, _ = rule.eligibility(policy, window, None)
    return th.as_tensor(eligibility.weighted_sum(weights_TE)).double()


@pytest.mark.parametrize("engine", ["NumPy", "PyTorch"])
@each_policy
def test_bptt_is_backpropagation_through_time(arguments: dict[str, Any], engine: str) -> None:
    policy = make_recurrent_policy(arguments)
    assert policy.xp is np
    if engine == "PyTorch":
        policy = in_torch(policy)
    window, weights_TE = make_window(policy), weights_of_steps()
    expected = exact(policy, window, weights_TE)
    assert (expected == 0).sum() == n_missing(policy)
    th.testing.assert_close(estimate(policy, window, ExactGradient(), weights_TE), expected, rtol=1e-4, atol=1e-5)
    with th.no_grad():
        eligibility, _ = ExactGradient().eligibility(policy, window, None)
        per_env = th.as_tensor(eligibility.weighted_sum(weights_TE, per_env=True)).double()
    for env in range(E):
        alone_TE = weights_TE * (np.arange(E) == env)
        th.testing.assert_close(per_env[env], exact(policy, window, alone_TE), rtol=1e-4, atol=1e-5)


RULES: dict[str, Any] = {
    "node": lambda k: NodePerturbation(Noise(1e-2), n_noise_samples=k),
    "node, local head": lambda k: NodePerturbation(Noise(1e-2), n_noise_samples=k, local_head=True),
    "node, one-sided": lambda k: NodePerturbation(Noise(1e-3), n_noise_samples=k, antithetic=False),
    "weight, rank one": lambda k: WeightPerturbation(Noise(1e-2), k, rank="one"),
    "weight, rank one, Rademacher": lambda k: WeightPerturbation(Noise(1e-2, "rademacher"), k, rank="one"),
    "weight, full rank": lambda k: WeightPerturbation(Noise(1e-2), k, rank="full"),
    "weight, rank one, local head": lambda k: WeightPerturbation(Noise(1e-2), k, local_head=True),
    "weight, full rank, local head": lambda k: WeightPerturbation(Noise(1e-2), k, rank="full", local_head=True),
}


SOME_RULES = ("node, local head", "weight, rank one, local head", "weight, full rank")
CASES = [(kind, name) for kind in POLICIES for name in RULES if kind in ("RNN", "CTRNN", "GRU") or name in SOME_RULES]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind}-{name}" for kind, name in CASES])
def test_expected_update_is_the_gradient_through_time(kind: str, name: str) -> None:
    policy, rule = make_recurrent_policy(POLICIES[kind]), RULES[name]
    weights_TE = weights_of_steps()
    window = make_window(policy)
    if not rule(1).antithetic:
        window = with_clean_log_probs(policy, window)
    th.manual_seed(0)
    n_samples, n_rounds = 1000, 15
    rounds = [estimate(policy, window, rule(n_samples), weights_TE) for _ in range(n_rounds)]
    mean = th.stack(rounds).mean(0)
    expected = exact(policy, window, weights_TE)
    assert th.cosine_similarity(mean, expected, dim=0) > 0.99
    assert (mean @ expected / (expected @ expected)).item() == pytest.approx(1, abs=0.05)


def with_clean_log_probs(policy: Any, window: RolloutWindow) -> RolloutWindow:
    clean = policy.noisy_pass(
        window.observations, window.actions, None, states=window.states, starts_TE=window.starts_TE
    )
    return window._replace(log_probs=policy.numpy(clean.objectives[0]))


@pytest.mark.parametrize("rank", ["one", "full"])
@each_policy
def test_a_local_head_needs_no_noise(arguments: dict[str, Any], rank: Any) -> None:
    """One sample is enough for the heads: their sum is exact, for all environments together and for each."""
    policy, weights_TE = make_recurrent_policy(arguments), weights_of_steps()
    window = make_window(policy)
    of_heads = [
        any(parameter is of_head for network in policy.networks for of_head in network.head.parameters())
        for parameter in policy.learnable
        for _ in range(parameter.numel())
    ]
    rule = WeightPerturbation(Noise(1e-2), 1, rank=rank, local_head=True)
    expected = exact(policy, window, weights_TE)
    th.testing.assert_close(
        estimate(policy, window, rule, weights_TE)[of_heads], expected[of_heads], rtol=1e-4, atol=1e-5
    )
    eligibility, _ = rule.eligibility(policy, window, None)
    per_env = th.as_tensor(eligibility.weighted_sum(weights_TE, per_env=True)).double()
    for env in range(E):
        alone_TE = weights_TE * (np.arange(E) == env)
        th.testing.assert_close(per_env[env, of_heads], exact(policy, window, alone_TE)[of_heads], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", ["one", "full"])
@each_policy
def test_a_local_head_gets_no_noise(arguments: dict[str, Any], rank: Any) -> None:
    """With frozen hidden layers nothing gets noise, so that no noisy pass differs from another."""
    policy = make_recurrent_policy(arguments)
    for network in policy.networks:
        network.hidden.requires_grad_(False)
    policy.refresh()
    policy.noise = Noise(1e-2)
    rule = WeightPerturbation(policy.noise, 4, rank=rank, local_head=True)
    eligibility: Any = rule.eligibility(policy, make_window(policy), None)[0]
    assert eligibility.diagnostics["rho_std"] == 0


@pytest.mark.parametrize("name", ["node", "weight, rank one", "weight, full rank"])
@pytest.mark.parametrize("policy_class", [RnnPolicy, GruPolicy, StatefulLifPolicy])
def test_the_heads_of_a_frozen_network_learn(policy_class: Any, name: str) -> None:
    """As in reservoir computing."""
    rule = RULES[name]
    policy = make_recurrent_policy({"policy_class": policy_class})
    for network in policy.networks:
        network.hidden.requires_grad_(False)
    policy.refresh()
    window, weights_TE = make_window(policy), weights_of_steps()
    expected = estimate(policy, window, ExactGradient(), weights_TE)
    th.manual_seed(0)
    mean = th.stack([estimate(policy, window, rule(1000), weights_TE) for _ in range(10)]).mean(0)
    assert th.cosine_similarity(mean, expected, dim=0) > 0.99
    assert (mean @ expected / (expected @ expected)).item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("frozen", ["actor", "critic"])
@pytest.mark.parametrize("rank", ["one", "full"])
def test_one_of_actor_and_critic_may_be_frozen(frozen: str, rank: Any) -> None:
    policy = make_recurrent_policy({"policy_class": RnnPolicy})
    getattr(policy, frozen).requires_grad_(False)
    policy.refresh()
    window, weights_TE = make_window(policy), weights_of_steps()
    expected = estimate(policy, window, ExactGradient(), weights_TE)
    th.manual_seed(0)
    rule = WeightPerturbation(Noise(1e-2), 1000, rank=rank)
    mean = th.stack([estimate(policy, window, rule, weights_TE) for _ in range(10)]).mean(0)
    assert th.cosine_similarity(mean, expected, dim=0) > 0.99


# Recurrent weights


def recurrent_weights(policy: Any) -> list[th.Tensor]:
    units: list[Any] = [part for part in policy.modules() if isinstance(part, RecurrentDense)]
    return [part.recurrent_weight.detach() for part in units]


@pytest.mark.parametrize("policy_class", [RnnPolicy, CtrnnPolicy, GruPolicy])
def test_initial_recurrent_weights_are_orthogonal_with_a_gain(policy_class: Any) -> None:
    policy = make_policy(policy_class=policy_class, net_arch=[20], recurrent_gain=0.7)
    for weight in recurrent_weights(policy):
        th.testing.assert_close(weight @ weight.T, 0.49 * th.eye(20), atol=1e-5, rtol=0)


def test_initial_weights_of_dales_law_are_balanced_and_have_the_gain() -> None:
    policy = make_policy(policy_class=RnnPolicy, net_arch=[200], recurrent_gain=0.9, excitatory=0.8, connectivity=0.3)
    for weight in recurrent_weights(policy):
        assert th.linalg.eigvals(weight).abs().max().item() == pytest.approx(0.9, abs=1e-4)
        excitation, inhibition = weight[:, :160].sum(), weight[:, 160:].sum()
        assert excitation > 0 > inhibition
        assert (excitation / -inhibition).item() == pytest.approx(1, abs=0.1)
        assert (weight != 0).float().mean().item() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("settings", [{}, {"noise_rank": "full"}, {"perturbation": "node"}], ids=str)
def test_training_keeps_signs_and_missing_synapses(settings: dict[str, Any]) -> None:
    kwargs = {"net_arch": [10], "excitatory": 0.5, "connectivity": 0.5, "head_gain": 1.0}
    model = make_model(NRL, n_envs=2, policy="MlpRnnPolicy", policy_kwargs=kwargs, learning_rate=0.2, **settings)
    before = [weight.clone() for weight in recurrent_weights(model.policy)]
    model.learn(400)
    for old, new in zip(before, recurrent_weights(model.policy), strict=True):
        assert (new[:, :5] >= 0).all()
        assert (new[:, 5:] <= 0).all()
        assert (new[old == 0] == 0).all()
        existing = old != 0
        assert (new[existing] != old[existing]).float().mean() > 0.9
        assert ((new == 0) & existing).any()  # some have reached 0, where their sign stops them


@pytest.mark.parametrize("settings", [{}, {"noise_rank": "full"}, {"perturbation": "node"}], ids=str)
def test_fixed_recurrent_weights_stay(settings: dict[str, Any]) -> None:
    kwargs = {"net_arch": [4], "learn_recurrent": False, "head_gain": 1.0}
    model = make_model(NRL, n_envs=2, policy="MlpGruPolicy", policy_kwargs=kwargs, learning_rate=0.05, **settings)
    before = {name: value.clone() for name, value in model.policy.named_parameters()}
    model.learn(100)
    changed = {name for name, value in model.policy.named_parameters() if not value.equal(before[name])}
    assert changed == {name for name in before if "recurrent" not in name}


def test_time_constants_learn() -> None:
    kwargs = {"net_arch": [4], "tau": 3.0, "learn_tau": True, "head_gain": 1.0}
    model = make_model(NRL, n_envs=2, policy="MlpCtrnnPolicy", policy_kwargs=kwargs, learning_rate=0.05)
    layer = model.policy.actor.hidden[0]
    before = layer.time_constants()
    np.testing.assert_allclose(before, 3.0, rtol=1e-6)
    model.learn(100)
    assert (layer.time_constants() != before).all()
    assert (layer.time_constants() > 1).all()
