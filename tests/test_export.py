"""Calls of a policy like those of Stable-Baselines3, and export as in its documentation."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_nrl import BPTT, NRL
from tests.conftest import make_model
from tests.envs import ScriptedEnv


class ActionsEnv(ScriptedEnv):
    """Vectors as observations, and actions of any space."""

    def __init__(self, action_space: spaces.Space) -> None:
        super().__init__([5])
        self.action_space = action_space


ENVS: dict[str, Callable[[], gymnasium.Env]] = {
    "discrete": lambda: ActionsEnv(spaces.Discrete(3)),
    "box": lambda: ActionsEnv(spaces.Box(-1, 1, (2, 3), np.float32)),
    "multi-discrete": lambda: ActionsEnv(spaces.MultiDiscrete([3, 3])),
    "uneven": lambda: ActionsEnv(spaces.MultiDiscrete([2, 4, 3])),
    "multi-binary": lambda: ActionsEnv(spaces.MultiBinary(3)),
    "normalised": lambda: ActionsEnv(spaces.Discrete(3)),
    "spiking": lambda: ActionsEnv(spaces.Discrete(3)),
    "image": lambda: FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, channel_first=True),
}


def make(kind: str, algorithm: Any = NRL, **settings: Any) -> Any:
    """A model with large weights in its heads, so that errors change actions too."""
    policy = {"image": "CnnPolicy", "dict": "MultiInputPolicy", "spiking": "MlpLifPolicy"}.get(kind, "MlpPolicy")
    env = SimpleMultiObsEnv() if kind == "dict" else ENVS[kind]()
    if kind == "normalised":
        settings["norm_obs"] = True
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # many nodes
        model = make_model(algorithm, env, policy=policy, policy_kwargs={"head_gain": 2.0}, **settings)
    if kind == "normalised":
        model.policy.normalizer.update(np.random.default_rng(0).normal(3, 2, (50, 4)))
    return model


def observations(model: Any, n_rows: int, seed: int = 0) -> Any:
    space = model.observation_space
    space.seed(seed)
    return model.policy.obs_to_tensor(
        {key: np.stack([part.sample() for _ in range(n_rows)]) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Dict)
        else np.stack([space.sample() for _ in range(n_rows)])
    )[0]


@pytest.mark.parametrize("kind", [*ENVS, "dict"])
def test_calling_the_policy_is_as_with_an_actor_critic_policy(kind: str) -> None:
    model = make(kind)
    policy, obs = model.policy, observations(model, 50)
    theirs = ActorCriticPolicy(
        model.observation_space,
        model.action_space,
        lambda _: 0.0,
        features_extractor_class=policy.features_extractor_class,
    )
    for deterministic in (True, False):
        results = actions, values, log_probs = policy(obs, deterministic)
        for ours, other in zip(results, theirs(obs, deterministic), strict=True):
            assert ours.shape == other.shape
        distribution = policy.get_distribution(obs)
        flat = actions.flatten(1) if isinstance(model.action_space, spaces.Box) else actions
        assert th.allclose(log_probs, distribution.log_prob(flat), atol=1e-5)
        if deterministic:
            assert th.equal(flat.float(), distribution.mode().float())
        evaluated: Any = policy.evaluate_actions(obs, actions)
        for ours, other, again in zip(
            evaluated, theirs.evaluate_actions(obs, flat), policy.evaluate_actions(obs, flat), strict=True
        ):
            assert other is not None and ours.shape == other.shape
            assert th.equal(ours, again)
        assert th.equal(evaluated[0], values) and th.equal(values, policy.predict_values(obs))
        assert th.allclose(evaluated[1], log_probs, atol=1e-6)
        assert th.allclose(evaluated[2], distribution.entropy(), atol=1e-5)
    assert len(policy(obs)[0].unique(dim=0)) > 1
    values, log_probs, _ = policy.evaluate_actions(obs, actions.detach())
    gradients = th.autograd.grad(log_probs.sum() + values.sum(), list(policy.parameters()))
    assert all((gradient != 0).any() for gradient in gradients)


def test_actions_are_drawn_from_the_distribution_that_is_told() -> None:
    for kind, n in (("discrete", 3), ("box", 2)):
        model = make(kind)
        obs = observations(model, 1).repeat(20_000, 1)
        th.manual_seed(0)
        actions, _, _ = model.policy(obs)
        distribution = model.policy.get_distribution(obs[:1]).distribution
        if kind == "discrete":
            frequencies = np.bincount(actions.numpy(), minlength=n) / len(obs)
            assert frequencies == pytest.approx(distribution.probs[0].detach().numpy(), abs=0.015)
        else:
            flat = actions.flatten(1).detach().numpy()
            assert flat.mean(0) == pytest.approx(distribution.mean[0].detach().numpy(), abs=0.03)
            assert flat.std(0) == pytest.approx(distribution.stddev[0].detach().numpy(), rel=0.03)


def test_a_policy_without_a_critic_has_no_values() -> None:
    model = make("discrete", BPTT, rule="average")
    obs = observations(model, 5)
    actions, values, _ = model.policy(obs)
    assert th.equal(values, th.zeros(5, 1))
    assert model.policy.evaluate_actions(obs, actions)[0] is None
    with pytest.raises(ValueError, match=r'predicts no values: only one of reward_prediction="critic" does'):
        model.policy.predict_values(obs)


# Export


class OnnxablePolicy(nn.Module):
    """As in Stable-Baselines3's documentation, whose batches have one row."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: th.Tensor) -> Any:
        return self.policy(observation, deterministic=True)


def expected(model: Any, obs: th.Tensor) -> list[np.ndarray]:
    with th.no_grad():
        return [result.numpy() for result in model.policy(obs, deterministic=True)]


def assert_same(results: Any, wanted: list[np.ndarray]) -> None:
    for result, other in zip(results, wanted, strict=True):
        assert result.shape == other.shape
        np.testing.assert_allclose(result, other, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", ENVS)
def test_traced_policy_gives_the_same(kind: str) -> None:
    model = make(kind)
    module = OnnxablePolicy(model.policy).eval()
    traced = th.jit.freeze(th.jit.trace(module, observations(model, 1)))
    for n_rows in (1, 7):
        obs = observations(model, n_rows, seed=1)
        assert_same([result.detach().numpy() for result in traced(obs)], expected(model, obs))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Exporting")
@pytest.mark.parametrize(
    ("kind", "dynamo", "dynamic"),
    [
        *((kind, False, True) for kind in ENVS),
        *((kind, True, True) for kind in ("discrete", "box", "uneven", "spiking")),
        ("image", True, False),
        ("box", False, False),
    ],
)
def test_onnx_runs_as_the_policy_does(kind: str, dynamo: bool, dynamic: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = make(kind)
    shapes: dict[str, Any] = {}
    if dynamic and dynamo:
        shapes = {"dynamic_shapes": ({0: th.export.Dim("batch")},)}
    elif dynamic:
        shapes = {"dynamic_axes": {"input": {0: "batch"}}}
    path, n_rows = str(tmp_path / "policy.onnx"), 2 if dynamic else 1
    th.onnx.export(
        OnnxablePolicy(model.policy),
        (observations(model, n_rows),),
        path,
        opset_version=18,
        input_names=["input"],
        dynamo=dynamo,
        **shapes,
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (n_rows, 7) if dynamic else (n_rows,):
        obs = observations(model, n, seed=1)
        assert_same(session.run(None, {"input": obs.numpy()}), expected(model, obs))


# Export with memory


class OnnxableMemory(nn.Module):
    """The same for a policy that takes states and returns them."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: th.Tensor, states: th.Tensor, episode_starts: th.Tensor) -> Any:
        return self.policy(observation, states, episode_starts, deterministic=True)


RECURRENT: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn": ("MlpRnnPolicy", {}),
    "ctrnn": ("MlpCtrnnPolicy", {"tau": [2.0, 3.0, 4.0]}),
    "learned tau": ("MlpCtrnnPolicy", {"learn_tau": True}),
    "gru": ("MlpGruPolicy", {"recurrent_critic": False}),
    "spiking": ("MlpStatefulLifPolicy", {"ticks": 3, "tau_synapse": 2.0, "refractory": 1, "recurrent": True}),
}


def make_with_memory(kind: str) -> tuple[OnnxableMemory, Callable[..., Any]]:
    """A policy to export, and a function that makes inputs of so many rows."""
    policy, kwargs = RECURRENT[kind]
    model = make_model(NRL, ENVS["box"](), policy=policy, policy_kwargs={"net_arch": [3], "head_gain": 2.0, **kwargs})

    def inputs(n_rows: int, starts: bool) -> Any:
        random = th.Generator().manual_seed(n_rows)
        states = th.randn(n_rows, model.policy.n_states, generator=random)
        return observations(model, n_rows, n_rows), states, th.full((n_rows,), starts)

    return OnnxableMemory(model.policy).eval(), inputs


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", RECURRENT)
def test_traced_policy_remembers_and_forgets(kind: str) -> None:
    """The example has no start of an episode, and yet the traced policy forgets where one begins."""
    module, inputs = make_with_memory(kind)
    traced = th.jit.freeze(th.jit.trace(module, inputs(2, False)))
    for n_rows in (1, 2, 7):
        for starts in (False, True):
            given = inputs(n_rows, starts)
            assert_same(
                [result.detach().numpy() for result in traced(*given)], [x.detach().numpy() for x in module(*given)]
            )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Exporting")
@pytest.mark.parametrize(
    ("kind", "dynamo"), [*((kind, False) for kind in RECURRENT), ("learned tau", True), ("spiking", True)]
)
def test_onnx_remembers_and_forgets(kind: str, dynamo: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    module, inputs = make_with_memory(kind)
    path, names = str(tmp_path / "policy.onnx"), ["observation", "states", "episode_starts"]
    th.onnx.export(module, inputs(1, False), path, input_names=names, dynamo=dynamo, verbose=False)
    session = runtime.InferenceSession(path)
    for starts in (False, True):
        given = inputs(1, starts)
        results = session.run(None, {name: part.numpy() for name, part in zip(names, given, strict=True)})
        assert_same(results, [x.detach().numpy() for x in module(*given)])
