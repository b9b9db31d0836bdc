"""Spiking actors as NIR graphs, the neuromorphic intermediate representation that simulators and chips read, and back.

Shapes: M ticks of a step, I inputs and H neurons of a layer.
"""

import pathlib
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_nrl.checks import check, is_count, is_number
from sb3_nrl.layers import FlatFeatures, GaussianHead, Lif, SpikeReadOut
from sb3_nrl.layers.dense import linear_layer
from sb3_nrl.layers.spiking import lif_layers
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.spiking_policies import LifPolicy, StatefulLifPolicy
from sb3_nrl.three_factor import ThreeFactorAlgorithm

SNNTORCH_DT = 1e-4
"""Duration of a tick, in seconds, that snnTorch takes when it reads a graph."""

_CONNECTED = ("connectivity", "excitatory")
"""Arguments of the policy that the metadata have if some synapses are missing, or have signs."""


def _nir() -> Any:
    try:
        import nir
    except ImportError as error:
        raise ImportError("NIR graphs need the nir package: pip install 'sb3-nrl[spiking]'") from error
    return nir


def nir(
    model: ThreeFactorAlgorithm | NoisyPolicy,
    path: str | pathlib.Path,
    dt: float = SNNTORCH_DT,
    for_snntorch: bool = False,
) -> Any:
    """
    Write the actor of a spiking policy as a NIR graph: affine maps, (CuBa-)LIF neurons, recurrent weights, and a head.

    The graph is simulated for M ticks of ``dt`` in each environment step, by v ← v + dt / τ (R I − v). Its input is the
    observation, the same in all ticks, or the spikes of the policy's encoder. With the read-out ``"rate"`` the policy's
    outputs (logits, or means of continuous actions) are the mean over the ticks of the graph's output; with
    ``"membrane"`` they are its output in the last tick. With ``norm_obs=True`` the first map also normalises the
    observation, without the bound of ±10. The metadata have ``ticks``, ``dt``, ``encoding``, ``read_out``,
    whether the state ``is_carried`` from step to step, and which recurrent synapses exist and which signs they have.

    :param model: A model with a spiking policy, or the policy
    :param path: File to write, in HDF5
    :param dt: Duration of a tick in seconds, with which τ = dt / (1 − β)
    :param for_snntorch: Whether to refuse what snnTorch 1.0 reads otherwise than NIR defines it
    :return: The graph, a ``nir.NIRGraph``
    :raises ImportError: If the nir package is not installed
    :raises ValueError: If NIR has no node for something in the actor, or snnTorch would misread it
    """
    package = _nir()
    check("dt", dt, is_number(dt, 0), "positive and finite")
    policy = model if isinstance(model, NoisyPolicy) else model.policy
    _check_expressible(policy)
    assert isinstance(policy, LifPolicy)
    if for_snntorch:
        _check_snntorch(policy, dt)
    actor = policy.actor
    lifs = lif_layers(actor.hidden)
    metadata: dict[str, Any] = {
        "ticks": policy.ticks,
        "dt": dt,
        "encoding": policy.encoding,
        "read_out": policy.read_out,
        "is_carried": isinstance(policy, StatefulLifPolicy),
    }
    metadata |= {name: getattr(policy, name) for name in _CONNECTED if getattr(policy, name) not in (None, 1)}
    nodes: dict[str, Any] = {"input": package.Input({"input": np.array([lifs[0].synapses.n_inputs])})}
    edges: list[tuple[str, str]] = []

    def add(name: str, node: Any, after: str) -> str:
        nodes[name] = node
        edges.append((after, name))
        return name

    last = "input"
    for place, layer in enumerate(lifs):
        synapses = layer.synapses
        weight, bias = _array(synapses.weight), _array(synapses.bias, layer.n_neurons)
        if place == 0 and policy.normalizer is not None:
            mean, scale = policy.normalizer.scaling()
            weight = weight * scale
            bias = bias - weight @ np.broadcast_to(mean, weight.shape[1:])
        last = add(f"synapses{place}", package.Affine(weight, bias), last)
        last = add(f"neurons{place}", _neurons(package, layer, dt), last)
        for name in ("connections", "signs"):
            if (values := getattr(synapses, name)) is not None:
                metadata[f"{name}{place}"] = values.cpu().numpy().astype(float)
        if synapses.recurrent_weight is not None:
            add(f"recurrent{place}", package.Linear(_array(synapses.recurrent_weight)), last)
            edges.append((f"recurrent{place}", last))
    head = linear_layer(policy.actor.head)
    weight, bias = _array(head.weight), _array(head.bias if head.has_bias else None, len(head.weight))
    read_out = actor.hidden[-1]
    assert isinstance(read_out, SpikeReadOut)
    if policy.read_out == "rate":
        last = add("head", package.Affine(weight, bias), last)
    else:
        ones = np.ones(len(weight))
        last = add("head", package.Linear(weight), last)
        last = add("integrator", package.LI(tau=dt / (1 - float(read_out.beta)) * ones, r=ones, v_leak=0 * ones), last)
        last = add("offset", package.Affine(np.eye(len(weight)), bias), last)
    add("output", package.Output({"output": np.array([len(weight)])}), last)
    if isinstance(actor.head, GaussianHead):
        metadata["log_std"] = _array(actor.head.log_std.weight)[:, 0]
    graph = package.NIRGraph(nodes, edges, metadata=metadata)
    package.write(str(path), graph)
    return graph


def _check_expressible(policy: NoisyPolicy) -> None:
    """Refuse what NIR has no node for."""

    def refuse(cause: str) -> None:
        raise ValueError(f"NIR cannot express this policy: {cause}.")

    if not isinstance(policy, LifPolicy):
        kinds = sorted({type(layer).__name__ for layer in policy.actor.hidden})
        refuse(f"it has {', '.join(kinds)} layers, and NIR's neurons are leaky integrators that spike or do not")
    assert isinstance(policy, LifPolicy)
    if not isinstance(policy.actor.features, FlatFeatures):
        refuse("its features extractor is not spiking")
    is_current = isinstance(policy.observation_space, spaces.Box) and policy.encoding == "current"
    if policy.normalizer is not None and policy.normalizer.statistics and not is_current:
        refuse("only a vector that is a current can be normalised by the weights (norm_obs=False)")
    if policy.v_reset is None:
        refuse("NIR's neurons are reset to a value, not by subtraction (v_reset=0.0)")
    if policy.refractory > 0:
        refuse("NIR's neurons have no refractory ticks (refractory=0)")
    if policy.read_out == "first_spike":
        refuse('no node finds the first spike (read_out="rate" or "membrane")')
    if policy.read_out == "membrane" and isinstance(policy, StatefulLifPolicy):
        refuse('its read-out starts anew at each step, while its neurons go on (read_out="rate")')


def _array(values: th.Tensor | None, size: int = 0) -> np.ndarray:
    """A parameter in double precision; zeros for None."""
    return np.zeros(size) if values is None else values.detach().cpu().double().numpy()


def _check_snntorch(policy: LifPolicy, dt: float) -> None:
    """Refuse what snnTorch's ``import_from_nir`` does not read, or reads otherwise than it is meant."""
    thresholds = [len(set(layer.threshold.tolist())) for layer in lif_layers(policy.actor.hidden)]
    for is_misread, cause in (
        (dt != SNNTORCH_DT, f"it takes dt={SNNTORCH_DT:g} for every graph"),
        (policy.v_reset != 0, "it resets neurons to 0, whatever v_reset is"),
        (max(thresholds) > 1, "all neurons of a layer must have one threshold"),
        (policy.recurrent, "it leads the input of recurrent neurons through their recurrent weights"),
        (policy.read_out == "membrane", "it has no leaky integrator without spikes"),
    ):
        if is_misread:
            raise ValueError(f"snnTorch cannot read this policy: {cause}.")


def _neurons(package: Any, layer: Lif, dt: float) -> Any:
    """LIF neurons whose factor on the input is 1: R = τ / dt."""
    assert layer.v_reset is not None
    ones = np.ones(layer.n_neurons)
    tau = dt / (1 - _array(layer.beta))
    shared = {
        "r": tau / dt,
        "v_leak": 0 * ones,
        "v_threshold": _array(layer.threshold),
        "v_reset": layer.v_reset * ones,
    }
    if layer.synapse_beta is None:
        return package.LIF(tau=tau, **shared)
    tau_synapse = dt / (1 - layer.synapse_beta) * ones
    return package.CubaLIF(tau_mem=tau, tau_syn=tau_synapse, w_in=tau_synapse / dt, **shared)


def load_nir(
    path: str | pathlib.Path,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    ticks: int | None = None,
    dt: float | None = None,
) -> LifPolicy:
    """
    Read a NIR graph as a policy without a critic: affine or linear maps and (CuBa-)LIF neurons, one after the other,
    with or without recurrent weights, and a head.

    To train it, give its weights to a model with ``norm_obs=False`` and the same ``policy_kwargs``:
    ``model.policy.actor.load_state_dict(policy.actor.state_dict())``.

    :param path: File that :func:`nir` or another package wrote
    :param observation_space: Observation space
    :param action_space: Action space
    :param ticks: Number of ticks of an environment step; by default what the graph's metadata say
    :param dt: Duration of a tick in seconds; by default what the metadata say, or 1e-4
    :return: The policy
    :raises ImportError: If the nir package is not installed
    :raises ValueError: If the graph has a node or a structure that no policy has, or does not fit the spaces
    """
    package = _nir()
    graph = package.read(str(path))
    metadata: dict[str, Any] = {
        key: value.decode() if isinstance(value, bytes) else value for key, value in graph.metadata.items()
    }
    ticks = int(metadata.get("ticks", 0)) if ticks is None else ticks
    check("ticks", ticks, is_count(ticks), "given, since the graph's metadata have none")
    dt = float(metadata.get("dt", SNNTORCH_DT)) if dt is None else dt
    chain, recurrent = _chain(graph)
    maps: list[Any] = []
    neurons: list[Any] = []
    known = (package.Affine, package.Linear, package.LIF, package.CubaLIF, package.LI)
    for node in chain:
        check("node", type(node).__name__, isinstance(node, known), f"one of {[kind.__name__ for kind in known]}")
        (maps if isinstance(node, package.Affine | package.Linear) else neurons).append(node)
    integrators = [node for node in neurons if isinstance(node, package.LI)]
    lifs = [node for node in neurons if not isinstance(node, package.LI)]
    is_map = [node in maps for node in chain]
    in_turn = is_map == [place % 2 == 0 for place in range(len(chain))] and is_map[-1] and len(lifs) > 0
    alternating = in_turn and integrators == neurons[len(lifs) :] and len(integrators) <= 1
    check("graph", [type(node).__name__ for node in chain], alternating, "maps and neurons in turn, and a head")
    settings = _settings(lifs, dt, package) | {name: metadata[name] for name in _CONNECTED if name in metadata}
    if integrators:
        node, before, after = integrators[0], maps[-2], maps[-1]
        plain = np.allclose(node.r, 1) and not np.any(node.v_leak) and not np.any(getattr(before, "bias", 0))
        is_identity = np.array_equal(after.weight, np.eye(len(after.weight)))
        wanted = "one with R = 1 and no leak, after a map without bias and before one that only adds a bias"
        check("LI", node, plain and is_identity, wanted)
        beta = 1 - dt / np.unique(node.tau)
        wanted = "one time constant, that of the neurons"
        check("LI.tau", node.tau, len(beta) == 1 and np.allclose(beta, np.mean(settings["beta"])), wanted)
    kind = StatefulLifPolicy if metadata.get("is_carried", False) else LifPolicy
    policy = kind(
        observation_space,
        action_space,
        lambda _: 0.0,
        net_arch=[len(node.v_threshold) for node in lifs],
        ticks=ticks,
        encoding=metadata.get("encoding", "current"),
        read_out="membrane" if integrators else "rate",
        recurrent=bool(recurrent),
        **settings,
    )
    layers = lif_layers(policy.actor.hidden)
    head = linear_layer(policy.actor.head)
    for place, (layer, node) in enumerate(zip(layers, lifs, strict=True)):
        scale = node.r * dt / (node.tau if isinstance(node, package.LIF) else node.tau_mem)
        if isinstance(node, package.CubaLIF):
            scale = scale * node.w_in * dt / node.tau_syn
        synapses: Any = layer.synapses
        _copy(synapses.weight, maps[place].weight * scale[:, None])
        _copy(synapses.bias, getattr(maps[place], "bias", np.zeros(len(scale))) * scale)
        if recurrent:
            check("graph", sorted(recurrent), id(node) in recurrent, "recurrent in all layers or in none")
            _copy(synapses.recurrent_weight, recurrent[id(node)] * scale[:, None])
        if f"connections{place}" in metadata:
            synapses.connections = th.as_tensor(metadata[f"connections{place}"]) > 0
        if f"signs{place}" in metadata:
            synapses.signs = th.as_tensor(metadata[f"signs{place}"], dtype=th.float32)
    of_head = maps[len(lifs)]
    _copy(head.weight, of_head.weight)
    _copy(head.bias, getattr(maps[-1], "bias", np.zeros(len(of_head.weight))))
    if "log_std" in metadata and isinstance(policy.actor.head, GaussianHead):
        _copy(policy.actor.head.log_std.weight, metadata["log_std"][:, None])
    policy.refresh()
    return policy


def _copy(parameter: th.Tensor, values: np.ndarray) -> None:
    shape = tuple(parameter.shape)
    check("shape in the graph", values.shape, tuple(values.shape) == shape, f"{shape}, by the given spaces")
    with th.no_grad():
        parameter.copy_(th.as_tensor(values))


def _chain(graph: Any) -> tuple[list[Any], dict[int, np.ndarray]]:
    """The nodes from input to output, and the recurrent weights by the identity of the neurons."""
    after: dict[str, list[str]] = {}
    for source, target in graph.edges:
        after.setdefault(source, []).append(target)
    inputs = [name for name, node in graph.nodes.items() if type(node).__name__ == "Input"]
    check("graph", inputs, len(inputs) == 1, "one with one input")
    chain: list[Any] = []
    recurrent: dict[int, np.ndarray] = {}
    name = inputs[0]
    while type(graph.nodes[name]).__name__ != "Output":
        onward = []
        for target in after.get(name, []):
            if after.get(target) == [name]:
                node = graph.nodes[target]
                wanted = "Linear, or Affine without bias, where neurons excite themselves"
                plain = hasattr(node, "weight") and not np.any(getattr(node, "bias", 0))
                check("node", type(node).__name__, plain, wanted)
                recurrent[id(graph.nodes[name])] = graph.nodes[target].weight
            else:
                onward.append(target)
        check(
            "graph", onward, len(onward) == 1, f"a chain, but for recurrent weights: {name} has {len(onward)} targets"
        )
        name = onward[0]
        chain.append(graph.nodes[name])
    return chain[:-1], recurrent


def _settings(lifs: list[Any], dt: float, package: Any) -> dict[str, Any]:
    """Arguments of the policy for the neurons of all layers, which must be alike."""
    found: dict[str, list[Any]] = {"beta": [], "threshold": [], "v_reset": [], "tau_synapse": []}
    for node in lifs:
        check("v_leak", node.v_leak, not np.any(node.v_leak), "0")
        tau = node.tau if isinstance(node, package.LIF) else node.tau_mem
        found["beta"].append(1 - dt / tau)
        found["threshold"].append(node.v_threshold)
        found["v_reset"].append(node.v_reset)
        found["tau_synapse"].append(node.tau_syn if isinstance(node, package.CubaLIF) else np.array([np.nan]))
    settings: dict[str, Any] = {}
    for name, of_layers in found.items():
        values = np.unique(np.concatenate([np.asarray(part, float).ravel() for part in of_layers]))
        if len(values) == 1:
            settings[name] = float(values[0])
        else:
            alike = all(part.shape == of_layers[0].shape and np.array_equal(part, of_layers[0]) for part in of_layers)
            wanted = "the same in all layers"
            check(name, of_layers, alike and name in ("beta", "threshold"), wanted)
            settings[name] = np.asarray(of_layers[0]).tolist()
    if np.isnan(settings["tau_synapse"]):
        del settings["tau_synapse"]
        return settings
    return {**settings, "dt": dt}


__all__ = ["SNNTORCH_DT", "load_nir", "nir"]
