"""Recurrent policies: credit through time against autograd in double precision, and states as RecurrentPPO has them."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_nrl import Noise, RolloutWindow
from sb3_nrl.bptt import ExactGradient
from sb3_nrl.layers import Dense, GaussianHead, Gru, LeakyRnn
from sb3_nrl.nrl import NodePerturbation
from sb3_nrl.recurrent_policies import CtrnnPolicy, GruPolicy, RnnPolicy
from sb3_nrl.rules import LearningRule
from sb3_nrl.weight_perturbation import WeightPerturbation
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
}
each_policy = pytest.mark.parametrize("arguments", POLICIES.values(), ids=POLICIES)


def make_recurrent_policy(arguments: dict[str, Any]) -> Any:
    return make_policy(**{"net_arch": [4], **arguments})


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
    """log π(a|s) + V(s) of each step, shape (T, E), in double precision; and the parameters that it depends on."""
    doubles = {parameter: parameter.detach().double().requires_grad_() for parameter in policy.learnable}
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
    return th.stack(per_network).sum(0), list(doubles.values())


def exact(policy: Any, window: RolloutWindow, weights_TE: np.ndarray) -> th.Tensor:
    """∂ Σ w(t, e) (log π(a|s) + V(s)) / ∂ all parameters, by autograd through time."""
    objective_TE, parameters = objectives(policy, window)
    gradients = th.autograd.grad((th.as_tensor(weights_TE) * objective_TE).sum(), parameters)
    return th.cat([gradient.flatten() for gradient in gradients])


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
    assert expected.abs().min() > 0
    th.testing.assert_close(estimate(policy, window, ExactGradient(), weights_TE), expected, rtol=1e-4, atol=1e-5)
    with th.no_grad():
        eligibility, _ = ExactGradient().eligibility(policy, window, None)
        per_env = th.as_tensor(eligibility.weighted_sum(weights_TE, per_env=True)).double()
    for env in range(E):
        alone_TE = weights_TE * (np.arange(E) == env)
        th.testing.assert_close(per_env[env], exact(policy, window, alone_TE), rtol=1e-4, atol=1e-5)


RULES: dict[str, Any] = {
    "node": lambda k: NodePerturbation(Noise(1e-2), n_noise_samples=k),
    "node, one-sided": lambda k: NodePerturbation(Noise(1e-3), n_noise_samples=k, antithetic=False),
    "weight, rank one": lambda k: WeightPerturbation(Noise(1e-2), k, rank="one"),
    "weight, rank one, Rademacher": lambda k: WeightPerturbation(Noise(1e-2, "rademacher"), k, rank="one"),
    "weight, full rank": lambda k: WeightPerturbation(Noise(1e-2), k, rank="full"),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@each_policy
def test_expected_update_is_the_gradient_through_time(arguments: dict[str, Any], rule: Any) -> None:
    policy = make_recurrent_policy(arguments)
    weights_TE = weights_of_steps()
    window = make_window(policy)
    if not rule(1).antithetic:
        window = with_clean_log_probs(policy, window)
    th.manual_seed(0)
    n_samples, n_rounds = 1000, 30
    rounds = [estimate(policy, window, rule(n_samples), weights_TE) for _ in range(n_rounds)]
    mean = th.stack(rounds).mean(0)
    expected = exact(policy, window, weights_TE)
    assert th.cosine_similarity(mean, expected, dim=0) > 0.99
    assert (mean @ expected / (expected @ expected)).item() == pytest.approx(1, abs=0.05)


def with_clean_log_probs(policy: Any, window: RolloutWindow) -> RolloutWindow:
    clean = policy.noisy_pass(
        window.observations,
        window.actions,
        policy.array(np.zeros((len(window.actions), policy.n_nodes), np.float32)),
        states=window.states,
        starts_TE=window.starts_TE,
    )
    return window._replace(log_probs=policy.numpy(clean.objectives[0]))
