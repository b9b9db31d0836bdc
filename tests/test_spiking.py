"""Spiking policies: against a scalar simulation, the gradient of the smoothed policy, and autograd with a surrogate."""

import math
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from sb3_nrl import BPTT, NRL, RMHL, Noise, RolloutWindow, ThreeFactorAlgorithm
from sb3_nrl.bptt import ExactGradient
from sb3_nrl.layers import Lif, SpikeEncoder, SpikeReadOut
from sb3_nrl.network import WeightNoise
from sb3_nrl.node_perturbation import NodePerturbation
from sb3_nrl.rmhl import HebbianExploration
from sb3_nrl.spiking_policies import SPIKING_POLICIES, LifPolicy, StatefulLifPolicy
from sb3_nrl.weight_perturbation import WeightPerturbation
from tests.conftest import each_algorithm, make_model, weights, weights_at_once_and_in_parts
from tests.envs import RandomEnv
from tests.policies import VECTOR, batch, in_torch, make_policy, make_window
from tests.test_recurrent import STARTS_TE, E, T, estimate, weights_of_steps
from tests.test_recurrent import make_window as make_window_through_time

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "subtraction": {"v_reset": None},
    "reset below rest": {"v_reset": -0.4, "beta": 0.9},
    "beta and threshold of each": {"beta": [0.5, 0.7, 0.8, 0.9], "threshold": [0.4, 0.6, 0.8, 1.0]},
    "tau and dt": {"tau": 3.0, "dt": 0.5},
    "refractory": {"refractory": 2, "threshold": 0.5},
    "synaptic current": {"tau_synapse": 2.0},
    "recurrent": {"recurrent": True, "recurrent_gain": 1.5},
    "two layers": {"net_arch": {"pi": [4, 3], "vf": [3]}},
    "rate critic": {"spiking_critic": False},
    "everything": {
        **{"refractory": 1, "tau_synapse": 3.0, "recurrent": True, "net_arch": [8, 6], "read_out": "membrane"},
        **{"encoding": "latency", "threshold": 0.2},
    },
    "first spike": {"read_out": "first_spike"},
}
each_variant = pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS)
each_class = pytest.mark.parametrize("policy_class", [LifPolicy, StatefulLifPolicy])


def make_lif_policy(arguments: dict[str, Any], policy_class: Any = LifPolicy, **more: Any) -> Any:
    return make_policy(policy_class=policy_class, **{"net_arch": [4], "ticks": 5, **arguments, **more})


def encode(encoder: SpikeEncoder, x: list[float]) -> list[list[float]]:
    """Latency-coded spikes, in each tick."""
    sizes = [min(max(value, 0), 1) for value in (*x, *(-value for value in x))]
    ticks = encoder.ticks
    times = [min(round((1 - size) * ticks), ticks - 1) if size > 0 else None for size in sizes]
    return [[float(time == m) for time in times] for m in range(ticks)]


def simulate(policy: Any, network: Any, obs: np.ndarray, starts: np.ndarray) -> tuple[list[list[float]], float]:
    """
    Outputs of a network for the steps of one environment, neuron by neuron in double precision; and how close a
    potential came to its threshold.
    """
    is_stateful = isinstance(policy, StatefulLifPolicy)
    outputs, closest = [], math.inf
    memory: dict[Any, dict[str, list[float]]] = {}
    for x_I, starts_here in zip(obs.tolist(), starts, strict=True):
        if starts_here or not is_stateful:
            memory = {}
        x: Any = x_I
        for layer in network.hidden:
            if isinstance(layer, SpikeEncoder):
                x = encode(layer, x)
            elif isinstance(layer, SpikeReadOut):
                x = [read_out(layer, [train[n] for train in x]) for n in range(len(x[0]))]
            elif not isinstance(layer, Lif):
                x = [math.tanh(value) for value in affine(layer, x)]
            else:
                synapses: Any = layer.synapses
                zeros = [0.0] * layer.n_neurons
                kept = memory.setdefault(layer, {name: list(zeros) for name in ("v", "i", "left", "s")})
                trains = []
                for m in range(layer.ticks):
                    current = affine(synapses, x[m] if isinstance(x[0], list) else x)
                    if layer.recurrent:
                        recurrent = synapses.recurrent_weight.tolist()
                        current = [c + dot(row, kept["s"]) for c, row in zip(current, recurrent, strict=True)]
                    spikes = list(zeros)
                    for n in range(layer.n_neurons):
                        if layer.synapse_beta is not None:
                            kept["i"][n] = layer.synapse_beta * kept["i"][n] + current[n]
                            current[n] = kept["i"][n]
                        if kept["left"][n] > 0:
                            kept["left"][n] -= 1
                            continue
                        v = layer.beta[n].item() * kept["v"][n] + current[n]
                        threshold = layer.threshold[n].item()
                        closest = min(closest, abs(v - threshold))
                        if v > threshold:
                            spikes[n], kept["left"][n] = 1.0, layer.refractory
                            v = v - threshold if layer.v_reset is None else layer.v_reset
                        kept["v"][n] = v
                    kept["s"] = spikes
                    trains.append(spikes)
                x = trains
        outputs.append(affine(network.head, x))
    return outputs, closest


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def affine(layer: Any, x: list[float]) -> list[float]:
    return [dot(row, x) + bias for row, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)]


def read_out(layer: SpikeReadOut, train: list[float]) -> float:
    if layer.read_out == "rate":
        return sum(train) / len(train)
    if layer.read_out == "first_spike":
        return (len(train) - train.index(1.0)) / len(train) if 1.0 in train else 0.0
    v, beta = 0.0, float(layer.beta)
    for spike in train:
        v = beta * v + (1 - beta) * spike
    return v


@pytest.mark.parametrize("engine", ["NumPy", "PyTorch"])
@each_class
@each_variant
def test_against_a_scalar_simulation(arguments: dict[str, Any], policy_class: Any, engine: str) -> None:
    policy = make_lif_policy(arguments, policy_class)
    assert policy.xp is np
    if engine == "PyTorch":
        policy = in_torch(policy)
    obs = batch(policy.observation_space, T * E)
    for network, part in zip(policy.networks, policy.parts, strict=True):
        states, starts_TE = None, STARTS_TE
        if part.n_states > 0:
            states = policy.array(np.ones((E, part.n_states), np.float32))
            starts_TE = STARTS_TE | (np.arange(T) == 0)[:, None]
        simulated = [simulate(policy, network, obs[env::E], starts_TE[:, env]) for env in range(E)]
        assert min(closest for _, closest in simulated) > 1e-5  # else rounding might decide about a spike
        expected = np.stack([outputs for outputs, _ in simulated], 1).reshape(T * E, -1)
        with th.no_grad():
            passed = network.run(policy.xp, policy.array(obs), None, states, policy.array(starts_TE))
        np.testing.assert_allclose(policy.numpy(passed.outputs), expected, rtol=1e-4, atol=1e-5)
        trains = [np.stack(list(map(policy.numpy, layer.spikes))) for layer in network.hidden if isinstance(layer, Lif)]
        assert all(0 < train.mean() < 1 for train in trains)


def test_states_are_carried_from_step_to_step_and_window_to_window() -> None:
    policy = make_lif_policy({"recurrent": True, "tau_synapse": 3.0, "refractory": 1}, StatefulLifPolicy)
    obs = batch(policy.observation_space, T * E)
    starts_TE = np.zeros((T, E), bool)
    whole = policy.actor.run(np, obs, None, np.zeros((E, policy.parts[0].n_states), np.float32), starts_TE)
    first = policy.actor.run(np, obs[: 3 * E], None, np.zeros((E, policy.parts[0].n_states), np.float32), starts_TE[:3])
    second = policy.actor.run(np, obs[3 * E :], None, first.states, starts_TE[3:])
    np.testing.assert_array_equal(np.concatenate([first.outputs, second.outputs]), whole.outputs)
    np.testing.assert_array_equal(second.states, whole.states)
    fresh = policy.actor.run(np, obs[3 * E :], None, np.zeros_like(first.states), starts_TE[3:])
    assert not np.array_equal(fresh.outputs, second.outputs)


# Learning rules


@each_variant
def test_bptt_is_the_surrogate_gradient(arguments: dict[str, Any]) -> None:
    """Of parameters themselves, through all ticks."""
    policy = make_lif_policy(arguments)
    window = make_window(policy, T, E)
    _, log_probs, _ = policy.evaluate_actions(th.as_tensor(window.observations), th.as_tensor(window.actions))
    values = policy.predict_values(th.as_tensor(window.observations))[:, 0]
    weights_TE = weights_of_steps()
    objective = (th.as_tensor(weights_TE).ravel() * (log_probs + values)).sum()
    expected = th.cat([part.flatten() for part in th.autograd.grad(objective, policy.learnable)]).double()
    policy.perturbs = "any"
    policy.refresh()
    assert (expected != 0).float().mean() > 0.7
    th.testing.assert_close(estimate(policy, window, ExactGradient(), weights_TE), expected, rtol=1e-4, atol=1e-5)


@each_variant
def test_bptt_of_a_carried_state_is_the_surrogate_gradient_through_time(arguments: dict[str, Any]) -> None:
    policy = make_lif_policy(arguments, StatefulLifPolicy, action_space=spaces.Discrete(3))
    policy.perturbs = "any"
    policy.refresh()
    window, weights_TE = make_window_through_time(policy), weights_of_steps()
    window = window._replace(states=policy.array(np.zeros((E, policy.n_states), np.float32)))
    states, total = th.zeros(E, policy.n_states), th.zeros(())
    for t in range(T):
        rows = slice(t * E, (t + 1) * E)
        obs, actions = th.as_tensor(window.observations[rows]), th.as_tensor(window.actions[rows])
        starts = th.as_tensor(STARTS_TE[t]).float()
        _, log_probs, _ = policy.evaluate_actions(obs, actions, states, starts)
        values = policy.predict_values(obs, states, starts)[:, 0]
        total = total + (th.as_tensor(weights_TE[t]) * (log_probs + values)).sum()
        states = policy(obs, states, starts)[3]
    expected = th.cat([part.flatten() for part in th.autograd.grad(total, policy.learnable)]).double()
    th.testing.assert_close(estimate(policy, window, ExactGradient(), weights_TE), expected, rtol=1e-4, atol=1e-5)


def smoothed_gradient(policy: Any, window: RolloutWindow, std: float) -> th.Tensor:
    """
    ∂ E_ξ[log π(a|s) + V(s)] / ∂ each weight, by central differences, with ξ on all weights or on all nodes. Both sides
    see the same noise.
    """
    n_samples, size = 20_000, 0.05
    policy.noise = Noise(std)
    gradient = []
    for parameter in policy.learnable:
        for place in range(parameter.numel()):
            means = []
            for change in (size, -size):
                parameter.data.view(-1)[place] += change
                th.manual_seed(1)
                noise: Any = policy.sample_noise(1, n_samples)
                if policy.perturbs == "weight":
                    changes = [
                        [tuple(std * np.asarray(th.randn(n_samples, *values.shape)) for values in layer.arrays(np))]
                        for network in policy.networks
                        for layer in network.layers
                    ]
                    flat = [part[0] or None for part in changes]
                    per_network = len(flat) // 2
                    noise = [
                        WeightNoise(None, flat[:per_network], n_samples),
                        WeightNoise(None, flat[per_network:], n_samples),
                    ]
                passed = policy.noisy_pass(window.observations, window.actions, noise)
                means.append(sum(float(part.mean(dtype=np.float64)) for part in passed.objectives))
                parameter.data.view(-1)[place] -= change
            gradient.append((means[0] - means[1]) / (2 * size))
    return th.as_tensor(gradient).double()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "perturbs", "cosine"),
    [
        ({}, "node", 0.99),
        ({"recurrent": True}, "node", 0.99),
        ({"net_arch": [3, 2]}, "node", 0.99),
        ({"net_arch": [3, 2], "recurrent": True, "head_gain": 4.0}, "node", 0.998),  # less with the mean of a pair
        ({"net_arch": [3, 2]}, "weight", 0.99),
    ],
    ids=["held noise", "recurrent", "two layers", "large outputs", "weight noise"],
)
def test_expected_update_is_the_gradient_of_the_smoothed_policy(
    arguments: dict[str, Any], perturbs: Any, cosine: float
) -> None:
    kwargs = {"net_arch": [3], "ticks": 4, "observation_space": spaces.Box(-2, 2, (2,), np.float32), **arguments}
    policy = make_lif_policy(kwargs, perturbs=perturbs)
    window = make_window(policy, 1)
    expected = smoothed_gradient(policy, window, 0.3)
    rule: Any = NodePerturbation(Noise(0.3), n_noise_samples=20_000)
    if perturbs == "weight":
        rule = WeightPerturbation(Noise(0.3), 20_000, rank="full")
    th.manual_seed(0)
    mean = th.stack([estimate(policy, window, rule, np.ones((1, 1))) for _ in range(15)]).mean(0)
    assert th.cosine_similarity(mean, expected, dim=0) > cosine


@pytest.mark.parametrize("recurrent", [False, True])
def test_held_noise_gets_the_sum_of_all_ticks(recurrent: bool) -> None:
    """One outer product with the mean input is the sum over ticks of noise that happens to be the same in each."""
    both = [make_lif_policy({"recurrent": recurrent, "holds_noise": holds}) for holds in (True, False)]
    held = both[0]
    window = make_window(held, T)
    hidden, rest = slice(0, 4), slice(4, 7)
    noise_BN = np.asarray(th.randn(T, held.parts[0].n_nodes)) * 0.3
    repeated_BN = np.concatenate([np.tile(noise_BN[:, hidden], 5), noise_BN[:, rest]], 1)
    noises = (noise_BN, repeated_BN)
    passes = [policy.actor.run(np, window.observations, noise) for policy, noise in zip(both, noises, strict=True)]
    np.testing.assert_array_equal(passes[0].outputs, passes[1].outputs)
    sums = []
    for policy, noise, passed in zip(both, noises, passes, strict=True):
        parts = zip(policy.actor.layers, policy.actor.layer_nodes, passed.received, strict=True)
        of_layers = [layer.outer(np, noise[:, nodes], pre, 1) for layer, nodes, pre in parts]
        sums.append(np.concatenate([*chain.from_iterable(of_layers)], 1))
    one, summed = sums
    n_hidden_weights = sum(parameter.numel() for parameter in held.actor.hidden.parameters())
    np.testing.assert_allclose(5 * one[:, :n_hidden_weights], summed[:, :n_hidden_weights], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one[:, n_hidden_weights:], summed[:, n_hidden_weights:], rtol=1e-5)


# Cost of spikes, and too little noise


@pytest.mark.parametrize("settings", [{}, {"perturbation": "weight"}, {"policy": "MlpStatefulLifPolicy"}], ids=str)
def test_spike_cost_lowers_the_spike_rate(settings: dict[str, Any]) -> None:
    rates = []
    for cost in (0.0, 3.0):
        arguments = {"policy": "MlpLifPolicy", "n_envs": 4, "learning_rate": 2e-2, **settings}
        model = make_model(policy_kwargs={"net_arch": [8], "spike_cost": cost}, **arguments)
        model.learn(3_000)
        rates.append(model.policy.diagnostics(1)["spike_rate"])
    assert rates[1] < 0.3 * rates[0]


def test_spike_cost_is_descended_along_the_gradient_of_the_rate() -> None:
    kwargs = {"net_arch": [3], "ticks": 4, "observation_space": spaces.Box(-2, 2, (2,), np.float32), "spike_cost": 2.0}
    policy = make_lif_policy(kwargs)
    window = make_window(policy, 1)
    policy.noise = Noise(0.6)
    th.manual_seed(0)
    eligibility: Any
    eligibility, _ = NodePerturbation(Noise(0.6), n_noise_samples=200_000).eligibility(policy, window, None)
    bias = policy.actor.hidden[0].synapses.bias
    sums = np.split(eligibility.costs.weighted_sum(np.ones((1, 1))), np.cumsum([p.numel() for p in policy.learnable]))
    (change,) = (part for part, parameter in zip(sums, policy.learnable, strict=False) if parameter is bias)
    expected = []
    for neuron in range(3):
        means = []
        for side in (0.05, -0.05):
            bias.data[neuron] += side
            th.manual_seed(1)
            passed = policy.noisy_pass(window.observations, window.actions, policy.sample_noise(1, 100_000))
            bias.data[neuron] -= side
            means.append(float(passed.costs.mean()))
        expected.append((means[0] - means[1]) / 0.1)
    assert th.cosine_similarity(th.as_tensor(change).double(), th.as_tensor(expected).double(), dim=0) > 0.99
    assert np.linalg.norm(change) == pytest.approx(np.linalg.norm(expected), rel=0.1)


def test_spike_cost_that_nothing_learns_to_avoid_changes_nothing() -> None:
    changes = []
    for cost in (0.0, 3.0):
        model = make_model(BPTT, policy="MlpLifPolicy", policy_kwargs={"net_arch": [4], "spike_cost": cost})
        model.policy.actor.hidden.requires_grad_(False)
        model.refresh()
        before = weights(model)
        model.learn(64)
        changes.append(weights(model) - before)
    assert changes[0].any()
    np.testing.assert_allclose(changes[0], changes[1], atol=1e-6)


@pytest.mark.parametrize(("algorithm", "rule"), [(RMHL, "average"), (NRL, "average")])
def test_spike_cost_needs_a_critic(algorithm: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=r"spike_cost=1\.0: must be 0 without a critic"):
        make_model(algorithm, rule=rule, policy="MlpLifPolicy", policy_kwargs={"spike_cost": 1.0, "net_arch": [4]})


def test_rules_that_measure_no_cost_refuse_it() -> None:
    rule = HebbianExploration(Noise(0.1))
    kwargs = {"spike_cost": 1.0}
    env = make_vec_env("CartPole-v1", 1, seed=0)
    model = ThreeFactorAlgorithm("MlpLifPolicy", env, rule=rule, policy_kwargs=kwargs, seed=0, device="cpu")
    with pytest.raises(ValueError, match="spike_cost: must be 0 with HebbianExploration"):
        model.learn(200)


def test_changed_constants_of_neurons_count_at_once() -> None:
    policy = make_lif_policy({})
    obs = batch(policy.observation_space, 3)
    policy.predict(obs)
    assert max(float(rates.max()) for rates in policy.spike_rates()) > 0
    policy.actor.hidden[0].threshold.fill_(50.0)
    policy.predict(obs)
    assert max(float(rates.max()) for rates in policy.spike_rates()) == 0


def test_noise_that_shifts_spikes_in_time_changes_them() -> None:
    kwargs = {"ticks": 32, "refractory": 40, "read_out": "first_spike", "net_arch": [8]}
    model = make_model(policy="MlpLifPolicy", n_steps=4, noise_std=0.05, policy_kwargs=kwargs)
    synapses: Any = model.policy.actor.hidden[0].synapses
    synapses.bias.data.fill_(0.4)
    synapses.weight.data *= 0.02
    model.learn(40)
    assert model.logger.name_to_value["train/unchanged_spikes"] < 0.5


@pytest.mark.parametrize(
    "settings", [{}, {"perturbation": "weight"}, {"perturbation": "weight", "local_head": True}], ids=str
)
def test_noise_that_changes_no_spike_is_noticed(settings: dict[str, Any]) -> None:
    model = make_model(policy="MlpLifPolicy", n_steps=4, noise_std=1e-6, **settings)
    with pytest.warns(UserWarning, match="noise_std is too small"):
        model.learn(100)
    assert model.logger.name_to_value["train/unchanged_spikes"] == 1
    model = make_model(policy="MlpLifPolicy", n_steps=4, **settings)
    model.learn(100)
    assert model.logger.name_to_value["train/unchanged_spikes"] < 0.9


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"ticks": 0}, "ticks=0: must be a whole number of ticks"),
        ({"beta": 1.0}, r"beta=1.0: must be in \[0, 1\)"),
        ({"beta": 0.5, "tau": 2.0}, "beta=0.5: must be None if tau is given"),
        ({"tau": 0.5}, "tau=0.5: must be at least dt"),
        ({"dt": 0.5}, "dt=0.5: must be 1.0 without tau and tau_synapse"),
        ({"threshold": 0}, "threshold=0: must be positive"),
        ({"threshold": [1.0, 2.0]}, "threshold=.*: must be one number, or one for each of the 64 neurons"),
        ({"v_reset": 1.0}, "v_reset=1.0: must be None, or a number below the threshold"),
        ({"refractory": -1}, "refractory=-1: must be a whole number"),
        ({"encoding": "rate"}, "encoding='rate': must be one of"),
        ({"read_out": "spikes"}, "read_out='spikes': must be one of"),
        ({"connectivity": 0.5}, "connectivity=0.5: must be given with recurrent=True only"),
        ({"net_arch": []}, r"net_arch=\[\]: must be a list with at least one hidden layer"),
        ({"spike_cost": -1.0}, "spike_cost=-1.0: must be 0, or positive"),
    ],
)
def test_arguments_out_of_range_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(policy="MlpLifPolicy", policy_kwargs=kwargs)


def test_noise_on_weights_is_always_held() -> None:
    with pytest.raises(ValueError, match="holds_noise=False: must be None unless noise is on nodes"):
        make_model(policy="MlpLifPolicy", perturbation="weight", policy_kwargs={"holds_noise": False})


# As any policy of Stable-Baselines3


@each_algorithm
@pytest.mark.parametrize("name", SPIKING_POLICIES)
def test_every_policy_is_trained_saved_and_loaded(algorithm: Any, name: str, tmp_path: Any) -> None:
    space: Any = spaces.Dict(a=VECTOR, b=spaces.Discrete(3)) if "MultiInput" in name else VECTOR
    kwargs: dict[str, Any] = {"ticks": 3, "net_arch": [5], "recurrent": True, "excitatory": 0.6, "refractory": 1}
    if "Cnn" in name:
        space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        kwargs |= {"features_extractor_kwargs": {"features_dim": 3}}
    env = make_vec_env(partial(RandomEnv, space), 2, seed=0)
    settings: dict[str, Any] = {"n_noise_samples": 2} if algorithm is NRL else {}
    kwargs |= {"head_gain": 1.0, "tau_synapse": 2.0}
    model = make_model(algorithm, env, policy=name, policy_kwargs=kwargs, n_steps=4, learning_rate=0.01, **settings)
    before = weights(model)
    model.learn(40)
    assert (weights(model) != before).mean() > 0.1
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")
    obs, state = batch(model.observation_space, 3), None
    for _ in range(3):
        action, after = model.predict(obs, state, deterministic=True)
        again, state = loaded.predict(obs, state, deterministic=True)
        np.testing.assert_array_equal(action, again)
        np.testing.assert_array_equal(after, state)


def test_training_in_parts_is_training_at_once() -> None:
    whole, parts = weights_at_once_and_in_parts(
        lambda: make_model(policy="MlpStatefulLifPolicy", n_steps=8, n_envs=2), 160
    )
    np.testing.assert_array_equal(whole, parts)


def test_poisson_spikes_have_the_rate_of_the_input() -> None:
    encoder = SpikeEncoder("poisson", 20_000)
    th.manual_seed(0)
    train, _, _ = encoder.step(np, (), np.array([[0.3, -0.8, 2.0]], np.float32))
    np.testing.assert_allclose(np.mean(train, 0), [[0.3, 0, 1, 0, 0.8, 0]], atol=0.01)
    in_torch, _, _ = encoder.step(th, (), th.tensor([[0.3, -0.8, 2.0]]))
    np.testing.assert_allclose(th.stack(in_torch).mean(0), [[0.3, 0, 1, 0, 0.8, 0]], atol=0.01)


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("kind", [NodePerturbation, WeightPerturbation])
def test_all_passes_of_a_window_see_the_same_poisson_spikes(kind: Any, antithetic: bool) -> None:
    policy = make_lif_policy({"encoding": "poisson"}, perturbs=kind.perturbs)
    window = make_window(policy, T)
    policy.noise = Noise(1e-12)  # too small to change a spike
    eligibility, _ = kind(policy.noise, antithetic=antithetic).eligibility(policy, window, None)
    assert eligibility.diagnostics["rho_std"] == 0
    assert float(np.std([policy.actor.run(np, window.observations).outputs for _ in range(9)], 0).max()) > 1e-3


def test_clean_and_noisy_passes_go_on_from_the_same_poisson_spikes() -> None:
    """Not from those of the actions: these would be a difference that no noise made."""
    policy = make_lif_policy({"encoding": "poisson"}, StatefulLifPolicy, perturbs="weight")
    window = make_window_through_time(policy)
    rule: Any = WeightPerturbation(Noise(1e-12), antithetic=False, hold=3 * T)  # too small to change a spike
    carry: Any = None
    for shift in (0, 0.3, 0.6):
        acted = window._replace(states=policy.array(window.states) + np.float32(shift))
        eligibility, carry = rule.eligibility(policy, acted, carry)
        assert eligibility.diagnostics["rho_std"] == 0
