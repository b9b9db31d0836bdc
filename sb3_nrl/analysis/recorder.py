"""Play trials with a model, and record what it observes, what it does, and the activity of its hidden units.

Shapes: T steps of all trials, E environments, H hidden units of a layer.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import gymnasium
import numpy as np
import torch as th
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_nrl.analysis.recording import Recording
from sb3_nrl.arrays import keep_random_state
from sb3_nrl.checks import check, is_count
from sb3_nrl.layers import Lif, SpikeEncoder, SpikeReadOut
from sb3_nrl.layers.coding import mean_of_ticks
from sb3_nrl.layers.spiking import lif_layers
from sb3_nrl.network import Network
from sb3_nrl.three_factor import ThreeFactorAlgorithm


def record(
    model: ThreeFactorAlgorithm,
    env: gymnasium.Env | VecEnv,
    n_trials: int,
    deterministic: bool = False,
    seed: int | None = None,
) -> Recording:
    """
    Let a model act, and record what it sees and does, and the activity of all hidden layers of actor and critic.

    A trial is an episode, or what NeuroGym's ``info["new_trial"]`` ends within one. Hidden states go on until the
    episode ends, as in ``predict``. Each of E environments contributes as many trials as the others (±1), so that short
    trials are not preferred. The environment is reset first. Statistics of ``VecNormalize`` are used and not changed;
    if the model learned with ``VecNormalize`` and ``env`` has none, observations are normalised with the model's.

    Activity is that of a pass without noise, from the same observations and states as the actions. Feed-forward
    policies have activity, too.

    :param model: NRL, RMHL or BPTT, or another algorithm of this package
    :param env: Environment, or several, with the spaces that the model was made for
    :param n_trials: Number of trials N
    :param deterministic: Whether to take the most likely actions rather than to draw them
    :param seed: Seed of the environments and of the drawn actions; by default both go on as they are
    :return: The recording
    :raises TypeError: If the model is of another package
    :raises ValueError: If the spaces differ from the model's, or ``n_trials`` is no positive number
    """
    if not isinstance(model, ThreeFactorAlgorithm):
        raise TypeError(f"record() reads hidden layers of NRL, RMHL and BPTT, not of {type(model).__name__}")
    check("n_trials", n_trials, is_count(n_trials), "a positive number of trials")
    venv = model._wrap_env(env, verbose=0, monitor_wrapper=False)
    check_for_correct_spaces(venv, model.observation_space, model.action_space)
    scaling = unwrap_vec_normalize(venv)
    models_scaling = model.get_vec_normalize_env() if scaling is None else None
    targets = [(n_trials + place) // venv.num_envs for place in range(venv.num_envs)]
    begun, n_ended = [0] * len(targets), [0] * len(targets)
    steps: list[tuple[Any, ...]] = []
    trials: list[tuple[int, range, dict[str, Any]]] = []  # environment, steps, and info of the last

    with ExitStack() as stack:
        if seed is not None:
            stack.enter_context(keep_random_state(model.policy.device))
            th.manual_seed(seed)
            venv.seed(seed)
        if scaling is not None:
            stack.callback(setattr, scaling, "training", scaling.training)
            scaling.training = False
        obs: Any = venv.reset()
        state, starts = None, np.ones(venv.num_envs, bool)
        reader = _ActivityReader(model, venv.num_envs)
        while len(trials) < n_trials:
            seen = obs if models_scaling is None else models_scaling.normalize_obs(obs)
            with keep_random_state(model.policy.device):  # so that a Poisson encoder repeats its spikes
                activity = reader.read(seen, starts)
            actions, state = model.predict(seen, state, starts, deterministic)
            obs, rewards, dones, infos = venv.step(actions)
            rewards = rewards if scaling is None else scaling.get_original_reward()
            steps.append((seen, actions, rewards.astype(float), *activity))
            resets = np.array([info.get("autoreset", False) for info in infos])
            for place, target in enumerate(targets):
                if resets[place]:  # a step between two trials
                    begun[place] = len(steps)
                elif n_ended[place] < target and (dones[place] or infos[place].get("new_trial", False)):
                    trials.append((place, range(begun[place], len(steps)), infos[place]))
                    begun[place] = len(steps)
                    n_ended[place] += 1
            starts = dones.astype(bool) | resets
    return _assemble(trials, steps)


class _ActivityReader:
    """Runs actor and critic beside ``predict``, with hidden states of its own."""

    def __init__(self, model: ThreeFactorAlgorithm, n_envs: int) -> None:
        self.policy = model.policy
        self.spiking = lif_layers(self.policy.actor.hidden)
        self.states: list[Any] = [
            th.zeros(n_envs, network.n_states, device=self.policy.device) for network in self.policy.networks
        ]

    @th.no_grad()
    def read(self, observations: Any, starts_E: np.ndarray) -> list[list[np.ndarray]]:
        """
        Activity of the hidden layers of actor and critic (if any) at the next step, shape (E, H) each, and spikes and
        potentials of the actor's spiking layers in its ticks, shape (E, M, H) each.
        """
        obs, _ = self.policy.obs_to_tensor(observations)
        starts_TE = th.as_tensor(starts_E, device=self.policy.device)[None]
        activity: list[list[np.ndarray]] = [[], []]
        for layer in self.spiking:
            layer.keeps_potentials = True
        for place, network in enumerate(self.policy.networks):
            passed = network.run(th, obs, None, self.states[place], starts_TE)
            activity[place] = _of_hidden(network, passed.activity)
            self.states[place] = passed.states
        for layer in self.spiking:
            layer.keeps_potentials = False
        trains = [[th.stack(of, 1).cpu().numpy() for of in (layer.spikes, layer.potentials)] for layer in self.spiking]
        return [*activity, [spikes for spikes, _ in trains], [potentials for _, potentials in trains]]


def hidden_layers(network: Network) -> list[Any]:
    """The hidden layers that have units: not a spike encoder or a read-out."""
    return [layer for layer in network.hidden if not isinstance(layer, SpikeEncoder | SpikeReadOut)]


def _of_hidden(network: Network, activity: list[Any]) -> list[np.ndarray]:
    """Output of each hidden layer, for a spiking one the mean over the ticks, from the outputs of all layers."""
    outputs = dict(zip(network.hidden, activity[1:-1], strict=True))
    of_layers = [(layer, outputs[layer]) for layer in hidden_layers(network)]
    return [(mean_of_ticks(x) if isinstance(layer, Lif) else x).cpu().numpy() for layer, x in of_layers]


def _assemble(trials: list[tuple[int, range, dict[str, Any]]], steps: list[tuple[Any, ...]]) -> Recording:
    """All trials in arrays."""
    environments, spans, infos = zip(*trials, strict=True)
    rows = [(step, env) for env, span, _ in trials for step in span]
    seen, actions, rewards, *layers = zip(*steps, strict=True)

    def gather(of_steps: Sequence[Any]) -> np.ndarray:
        return np.stack([of_steps[step][env] for step, env in rows])

    is_dict = isinstance(seen[0], dict)
    observations = {key: gather([obs[key] for obs in seen]) for key in seen[0]} if is_dict else gather(seen)
    actor, critic, spikes, potentials = ([gather(of) for of in zip(*kind, strict=True)] for kind in layers)
    lengths = list(map(len, spans))
    dt = next((info["dt"] for info in infos if "dt" in info), None)
    starts = [
        {name: start / info["dt"] for name, (start, _) in info.get("periods", {}).items()} if "dt" in info else {}
        for info in infos
    ]
    return Recording(
        observations=observations,
        actions=gather(actions),
        rewards=gather(rewards),
        trial=np.repeat(np.arange(len(trials)), lengths),
        step=np.concatenate([np.arange(length) for length in lengths]),
        actor=actor,
        critic=critic,
        conditions=_columns([info["trial"] if isinstance(info.get("trial"), dict) else {} for info in infos]),
        performance=np.array([info.get("performance", info.get("is_success", np.nan)) for info in infos], float),
        environment=np.array(environments),
        periods=_columns(starts),
        dt=None if dt is None else float(dt),
        spikes=spikes,
        potentials=potentials,
    )


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Dictionaries as one array for each key: of numbers or strings if all are, else of objects."""
    columns = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows]
        known = [value for value in values if value is not None]
        if all(isinstance(value, (bool, int, float, np.number, np.bool_)) for value in known):
            columns[name] = np.array([np.nan if value is None else value for value in values])
        elif len(known) == len(values) and all(isinstance(value, str) for value in known):
            columns[name] = np.array(values)
        else:
            columns[name] = np.empty(len(values), dtype=object)
            for place, value in enumerate(values):  # at once, NumPy would make rows of lists
                columns[name][place] = value
    return columns
