"""Spiking actors as NIR graphs: another interpreter gives the same spikes and actions."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_nrl import export
from sb3_nrl.layers import Lif, SpikeEncoder
from tests.conftest import make_model

nir = pytest.importorskip("nir")

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "reset below rest": {"v_reset": -0.4},
    "two layers": {"net_arch": [16, 12]},
    "beta and threshold of each": {"beta": np.linspace(0.5, 0.9, 16).tolist(), "threshold": [0.8, 1.0] * 8},
    "synaptic current": {"tau": 4.0, "tau_synapse": 2.0},
    "recurrent": {"recurrent": True},
    "recurrent, with a synaptic current": {"recurrent": True, "tau_synapse": 2.0},
    "recurrent, sparse, with signs": {"recurrent": True, "connectivity": 0.5, "excitatory": 0.75},
    "membrane": {"read_out": "membrane"},
    "no biases": {"use_bias": False, "threshold": 0.1},
    "latency": {"encoding": "latency"},
}
each_variant = pytest.mark.parametrize("kwargs", VARIANTS.values(), ids=VARIANTS)
STATEFUL = {name: kwargs for name, kwargs in VARIANTS.items() if name != "membrane"}


class Interpreter:
    """Runs a NIR graph tick by tick, by the equations of its nodes, in the order of its edges."""

    def __init__(self, graph: Any) -> None:
        self.nodes, self.dt = graph.nodes, float(graph.metadata["dt"])
        self.sources: dict[str, list[str]] = {name: [] for name in self.nodes}
        for source, target in graph.edges:
            self.sources[target].append(source)
        self.reset()

    def reset(self) -> None:
        self.state: dict[str, dict[str, Any]] = {name: {"v": 0.0, "i": 0.0, "out": np.zeros(16)} for name in self.nodes}

    def tick(self, received: np.ndarray) -> np.ndarray:
        done: set[str] = set()
        recurrent = {name for name in self.nodes if name.startswith("recurrent")}
        for name in recurrent:  # of the spikes of the tick before
            self.state[name]["out"] = self.nodes[name].weight @ self.state[self.sources[name][0]]["out"]
        done |= recurrent
        while len(done) < len(self.nodes):
            for name, node in self.nodes.items():
                if name not in done and all(source in done for source in self.sources[name]):
                    x = received if type(node) is nir.Input else sum(self.state[s]["out"] for s in self.sources[name])
                    self.state[name]["out"] = self.output(node, self.state[name], x)
                    done.add(name)
        return self.state["output"]["out"]

    def output(self, node: Any, state: dict[str, Any], x: Any) -> Any:
        if isinstance(node, nir.Affine):
            return node.weight @ x + node.bias
        if isinstance(node, nir.Linear):
            return node.weight @ x
        if isinstance(node, nir.LI):
            state["v"] = state["v"] + self.dt / node.tau * (node.v_leak - state["v"] + node.r * x)
            return state["v"]
        if isinstance(node, nir.CubaLIF):
            state["i"] = state["i"] + self.dt / node.tau_syn * (node.w_in * x - state["i"])
            v = state["v"] + self.dt / node.tau_mem * (node.v_leak - state["v"] + node.r * state["i"])
        elif isinstance(node, nir.LIF):
            v = state["v"] + self.dt / node.tau * (node.v_leak - state["v"] + node.r * x)
        else:
            return x
        spikes = v > node.v_threshold
        state["v"] = np.where(spikes, node.v_reset, v)
        return spikes.astype(float)


def make_lif_model(kwargs: dict[str, Any], policy: str = "MlpLifPolicy", **settings: Any) -> Any:
    """A policy whose actions depend on the observation, though it is not trained."""
    kwargs = {"net_arch": [16], "head_gain": 1.0, **kwargs}
    model = make_model(env="CartPole-v1", policy=policy, policy_kwargs=kwargs, **{"seed": 3, **settings})
    for layer in model.policy.actor.hidden:
        if isinstance(layer, Lif):
            layer.synapses.weight.data *= 8
    return model


def ticks_of(model: Any, obs: np.ndarray) -> list[np.ndarray]:
    """What the graph receives in each tick of a step."""
    encoder = model.policy.actor.hidden[0]
    if isinstance(encoder, SpikeEncoder):
        return [train[0] for train in encoder.step(np, (), obs[None])[0]]
    return [obs] * model.policy.ticks


def run_episode(model: Any, graph: Any, n_steps: int = 200) -> None:
    """Compare spikes and actions of a policy and a graph in steps of CartPole."""
    env, interpreter = gymnasium.make("CartPole-v1"), Interpreter(graph)
    is_carried = bool(graph.metadata["is_carried"])
    obs, _ = env.reset(seed=3)
    state, starts = None, np.ones(1, bool)
    n_spikes, actions = 0, []
    for _ in range(n_steps):
        action, state = model.predict(obs, state, starts, deterministic=True)
        if starts[0] or not is_carried:
            interpreter.reset()
        outputs, spikes = [], []
        for received in ticks_of(model, obs):
            outputs.append(interpreter.tick(received))
            spikes.append([interpreter.state[name]["out"] for name in sorted(graph.nodes) if "neurons" in name])
        layers = [layer for layer in model.policy.actor.hidden if isinstance(layer, Lif)]
        for place, layer in enumerate(layers):
            ours = np.concatenate(layer.spikes)
            np.testing.assert_array_equal(ours, np.array([of_layers[place] for of_layers in spikes]))
            n_spikes += ours.sum()
        logits = outputs[-1] if graph.metadata["read_out"] in ("membrane", b"membrane") else np.mean(outputs, 0)
        assert action == logits.argmax()
        actions.append(int(action))
        obs, _, terminated, truncated, _ = env.step(action)
        starts = np.array([terminated or truncated])
        if starts[0]:
            obs, _ = env.reset()
    assert n_spikes > n_steps
    assert 0 < np.mean(actions) < 1


@each_variant
def test_graph_gives_the_same_spikes_and_actions(kwargs: dict[str, Any], tmp_path: Any) -> None:
    model = make_lif_model(kwargs)
    export.nir(model, tmp_path / "policy.nir", dt=2e-3)
    run_episode(model, nir.read(str(tmp_path / "policy.nir")))


@pytest.mark.parametrize("kwargs", STATEFUL.values(), ids=STATEFUL)
def test_graph_of_a_carried_state_gives_the_same(kwargs: dict[str, Any], tmp_path: Any) -> None:
    model = make_lif_model(kwargs, "MlpStatefulLifPolicy")
    export.nir(model, tmp_path / "policy.nir")
    run_episode(model, nir.read(str(tmp_path / "policy.nir")))


def test_graph_normalises_as_the_policy_does(tmp_path: Any) -> None:
    model = make_lif_model({}, norm_obs=True).learn(64)
    mean, scale = model.policy.normalizer.scaling()
    assert np.all(scale != 1)
    assert np.all(mean != 0)
    export.nir(model, tmp_path / "policy.nir")
    run_episode(model, nir.read(str(tmp_path / "policy.nir")))
    encoding = make_lif_model({"encoding": "poisson"}, norm_obs=True)
    with pytest.raises(ValueError, match=r"normalised by the weights \(norm_obs=False\)"):
        export.nir(encoding, tmp_path / "other.nir")


@pytest.mark.parametrize("policy", ["MlpLifPolicy", "MlpStatefulLifPolicy"])
@each_variant
def test_what_is_read_back_is_the_same(kwargs: dict[str, Any], policy: str, tmp_path: Any) -> None:
    if policy == "MlpStatefulLifPolicy" and kwargs.get("read_out") == "membrane":
        pytest.skip("is refused")
    model = make_lif_model(kwargs, policy)
    export.nir(model, tmp_path / "policy.nir")
    loaded = export.load_nir(tmp_path / "policy.nir", model.observation_space, model.action_space)
    assert type(loaded) is type(model.policy)
    before, after = model.policy.actor.state_dict(), loaded.actor.state_dict()
    assert before.keys() <= after.keys()
    for name, values in after.items():
        assert name in before or name.endswith("bias")
        expected = before.get(name, th.zeros_like(values))  # biases, which the graph always has
        assert values.equal(expected), name
    loaded.save(tmp_path / "policy.zip")
    again = type(loaded).load(tmp_path / "policy.zip").actor.state_dict()
    assert all(values.equal(again[name]) for name, values in after.items())
    for ours, theirs in zip(model.policy.actor.hidden, loaded.actor.hidden, strict=True):
        if isinstance(ours, Lif):
            assert isinstance(theirs, Lif)
            assert (ours.v_reset, ours.synapse_beta) == (theirs.v_reset, theirs.synapse_beta)


def test_continuous_actions_go_there_and_back(tmp_path: Any) -> None:
    model = make_model(env="Pendulum-v1", policy="MlpLifPolicy", policy_kwargs={"log_std_init": -0.7, "net_arch": [5]})
    export.nir(model, tmp_path / "policy.nir")
    loaded: Any = export.load_nir(tmp_path / "policy.nir", model.observation_space, model.action_space)
    assert loaded.actor.head.log_std.weight.item() == pytest.approx(-0.7)
    obs = model.observation_space.sample()
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])


def test_scales_of_other_packages_go_into_the_weights(tmp_path: Any) -> None:
    """A resistance other than τ / dt multiplies the input."""
    model = make_lif_model({})
    graph = export.nir(model, tmp_path / "policy.nir")
    neurons = graph.nodes["neurons0"]
    neurons.r = 3 * neurons.r
    nir.write(str(tmp_path / "scaled.nir"), graph)
    loaded = export.load_nir(tmp_path / "scaled.nir", model.observation_space, model.action_space)
    synapses: Any = loaded.actor.hidden[0].synapses
    th.testing.assert_close(synapses.weight, 3 * model.policy.actor.hidden[0].synapses.weight)
    th.testing.assert_close(synapses.bias, 3 * model.policy.actor.hidden[0].synapses.bias)


@pytest.mark.parametrize(
    ("policy", "kwargs", "message"),
    [
        ("MlpPolicy", {}, "it has Dense layers"),
        ("MlpGruPolicy", {}, "it has Gru layers"),
        ("MlpLifPolicy", {"v_reset": None}, "not by subtraction"),
        ("MlpLifPolicy", {"refractory": 1}, "no refractory ticks"),
        ("MlpLifPolicy", {"read_out": "first_spike"}, "finds the first spike"),
        ("MlpStatefulLifPolicy", {"read_out": "membrane"}, "starts anew at each step"),
    ],
)
def test_what_nir_cannot_say_is_refused(policy: str, kwargs: dict[str, Any], message: str, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=f"NIR cannot express this policy: .*{message}"):
        export.nir(make_lif_model(kwargs, policy), tmp_path / "policy.nir")
    assert not (tmp_path / "policy.nir").exists()


def test_graphs_that_no_policy_has_are_refused(tmp_path: Any) -> None:
    model = make_lif_model({})
    graph = export.nir(model, tmp_path / "policy.nir")
    with pytest.raises(ValueError, match="shape in the graph"):
        export.load_nir(tmp_path / "policy.nir", spaces.Box(-1, 1, (3,)), model.action_space)
    graph.nodes["neurons0"].v_leak = graph.nodes["neurons0"].v_leak + 0.1
    nir.write(str(tmp_path / "leak.nir"), graph)
    with pytest.raises(ValueError, match="v_leak"):
        export.load_nir(tmp_path / "leak.nir", model.observation_space, model.action_space)
    ones = np.ones(2)
    foreign = nir.NIRGraph(
        {
            "input": nir.Input({"input": np.array([4])}),
            "map": nir.Affine(np.ones((2, 4)), ones),
            "neurons": nir.IF(r=ones, v_threshold=ones),
            "output": nir.Output({"output": np.array([2])}),
        },
        [("input", "map"), ("map", "neurons"), ("neurons", "output")],
    )
    nir.write(str(tmp_path / "foreign.nir"), foreign)
    with pytest.raises(ValueError, match="ticks=0: must be given"):
        export.load_nir(tmp_path / "foreign.nir", model.observation_space, model.action_space)
    with pytest.raises(ValueError, match="node='IF': must be one of"):
        export.load_nir(tmp_path / "foreign.nir", model.observation_space, model.action_space, ticks=4)


@pytest.mark.parametrize("name", ["default", "two layers", "synaptic current", "latency"])
def test_snntorch_reads_the_graph(name: str, tmp_path: Any) -> None:
    pytest.importorskip("nirtorch")
    importer = pytest.importorskip("snntorch.import_nir")
    model = make_lif_model(VARIANTS[name])
    export.nir(model, tmp_path / "policy.nir", for_snntorch=True)
    generator, n_spikes = np.random.default_rng(0), 0.0
    for _ in range(20):
        obs = generator.normal(size=4).astype(np.float32)
        network = importer.import_from_nir(nir.read(str(tmp_path / "policy.nir")))  # at rest
        outputs, state = [], None
        with th.no_grad():
            for received in ticks_of(model, obs):
                output, state = network(th.as_tensor(received)[None], state)
                outputs.append(output[0])
            ours = model.policy.actor(th.as_tensor(obs)[None])[0]
        th.testing.assert_close(th.stack(outputs).mean(0), ours, rtol=1e-4, atol=1e-5)
        n_spikes += sum(float(rates.sum()) for rates in model.policy.spike_rates())
    assert n_spikes > 0


@pytest.mark.parametrize(
    ("kwargs", "dt", "message"),
    [
        ({}, 1e-3, "it takes dt=0.0001 for every graph"),
        ({"v_reset": -0.1}, 1e-4, "it resets neurons to 0"),
        ({"threshold": [0.9, 1.0] * 8}, 1e-4, "one threshold"),
        ({"recurrent": True}, 1e-4, "recurrent weights"),
        ({"read_out": "membrane"}, 1e-4, "no leaky integrator"),
    ],
)
def test_what_snntorch_would_misread_is_refused(kwargs: dict[str, Any], dt: float, message: str, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=f"snnTorch cannot read this policy: .*{message}"):
        export.nir(make_lif_model(kwargs), tmp_path / "policy.nir", dt, for_snntorch=True)
