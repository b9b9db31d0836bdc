"""Each post-synaptic factor against the exact policy gradient of PyTorch's autograd."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.nn.utils import parameters_to_vector

from sb3_nrl import BPTT, NRL
from sb3_nrl.noise import NOISE_DISTRIBUTIONS
from sb3_nrl.perturbation import NodePerturbation
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.reward_modulated import RewardModulatedAlgorithm
from sb3_nrl.traces import PendingSteps
from tests.envs import ScriptedEnv, arguments

VECTOR = spaces.Box(-1, 1, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (2, 9, 9), np.uint8)
ACTION_SPACES: list[spaces.Space] = [
    spaces.Discrete(3),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
    spaces.Box(-2, 2, (2,), np.float32),
]


class SmallCnn(BaseFeaturesExtractor):
    """Strides, padding, groups, dilation and biases in two convolutions."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=16)
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
            nn.Tanh(),
            nn.Conv2d(4, 4, 2, dilation=3, bias=False),
            nn.Tanh(),
            nn.Flatten(),
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.net(observations)


class TwiceThroughOneLayer(BaseFeaturesExtractor):
    """One linear layer, applied to both halves of each observation and then to its own output."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=4)
        self.layer = nn.Linear(2, 2)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        halves = self.layer(observations[:, :4].unflatten(1, (2, 2)))
        return self.layer(halves.tanh()).flatten(1)


def make(
    algorithm: type[NRL] | type[BPTT],
    observation_space: spaces.Space = VECTOR,
    action_space: spaces.Space = ACTION_SPACES[0],
    policy: str = "MlpPolicy",
    net_arch: tuple[int, ...] = (12,),
    policy_kwargs: dict[str, Any] | None = None,
    **settings: Any,
) -> RewardModulatedAlgorithm:
    """An algorithm with a policy that is not close to uniform, so that every layer has a gradient."""
    env = ScriptedEnv([5])
    env.observation_space, env.action_space = observation_space, action_space
    kwargs = {"net_arch": list(net_arch), "use_bias": True, **(policy_kwargs or {})}
    return algorithm(policy, env, seed=0, **arguments(algorithm, "average", policy_kwargs=kwargs, **settings))


def some_steps(model: RewardModulatedAlgorithm, n_rows: int) -> PendingSteps:
    """Observations and actions as they would wait, with the log-probabilities of the clean pass."""

    def sample(space: spaces.Space) -> th.Tensor:
        space.seed(1)
        return th.as_tensor(np.stack([space.sample() for _ in range(n_rows)]))

    space = model.observation_space
    obs: PyTorchObs = (
        {k: sample(s) for k, s in space.spaces.items()} if isinstance(space, spaces.Dict) else sample(space)
    )
    with th.no_grad():
        actions, log_probs = model.policy(obs)
    array = model.network.array
    waiting = {k: array(part) for k, part in obs.items()} if isinstance(obs, dict) else array(obs)
    return PendingSteps(waiting, array(actions), array(log_probs), None)


def exact(model: RewardModulatedAlgorithm, steps: PendingSteps, weights: th.Tensor | None = None) -> list[th.Tensor]:
    """∂ Σ_i w_i log π(a_i|s_i) / ∂ each parameter."""
    obs = steps.observations if isinstance(steps.observations, dict) else th.as_tensor(steps.observations)
    log_probs = model.policy.get_distribution(obs).log_prob(th.as_tensor(steps.actions))
    total = (log_probs if weights is None else weights * log_probs).sum()
    return list(th.autograd.grad(total, model.policy.perturbation.parameters))


@th.no_grad()
def estimate(model: RewardModulatedAlgorithm, steps: PendingSteps, n_envs: int = 1) -> list[th.Tensor]:
    """The traces after these steps, a tensor of shape (E, *parameter.shape) for each parameter."""
    post, pre = model._credit(steps)
    rows = [model.policy.perturbation.split(th.as_tensor(row)) for row in model.network.outer(post, pre, n_envs)]
    return [th.stack(traces) for traces in zip(*rows, strict=True)]


def traces_of(perturbation: NodePerturbation, post: th.Tensor, pre: list[th.Tensor], n_envs: int) -> list[th.Tensor]:
    rows = [perturbation.split(row) for row in perturbation.outer(post, pre, n_envs)]
    return [th.stack(traces) for traces in zip(*rows, strict=True)]


def cosine(one: list[th.Tensor], two: list[th.Tensor]) -> float:
    return th.cosine_similarity(parameters_to_vector(one), parameters_to_vector(two), dim=0).item()


def norm(parts: list[th.Tensor]) -> float:
    return parameters_to_vector(parts).norm().item()


NETWORKS: list[Any] = [
    *({"action_space": space} for space in ACTION_SPACES),
    *({"net_arch": (12,) * depth} for depth in (0, 2, 3)),
    *({"noise_distribution": distribution} for distribution in NOISE_DISTRIBUTIONS),
    {"noise_distribution": "poisson", "antithetic": True},
    {"clean_passes": 3, "noise_std": 1e-2},
    {
        "observation_space": IMAGE,
        "policy_kwargs": {"features_extractor_class": SmallCnn, "features_extractor_kwargs": {}},
    },
    {"policy_kwargs": {"features_extractor_class": TwiceThroughOneLayer}},
    {"policy": "MultiInputPolicy", "observation_space": spaces.Dict(a=VECTOR, b=spaces.Discrete(3))},
    {"observation_space": spaces.MultiDiscrete([2, 3])},
]


@pytest.mark.parametrize("settings", NETWORKS, ids=str)
def test_mean_nrl_update_is_the_exact_gradient(settings: dict[str, Any]) -> None:
    """
    With n nodes and M samples the estimate's variance is about n / M of the squared gradient: its cosine is then about
    1 / sqrt(1 + n / M), here 0.998, and its length 0.2 % too large.
    """
    n_samples = 250 * make(NRL, **settings).policy.perturbation.n_nodes
    rule = {"noise_std": 1e-3, "noise_normalization": "unbiased", "n_noise_samples": n_samples, "antithetic": False}
    model = make(NRL, **{**rule, **settings})
    steps = some_steps(model, n_rows=4)
    estimated = [trace[0] for trace in estimate(model, steps)]
    gradient = exact(model, steps)
    assert cosine(estimated, gradient) > 0.99
    assert norm(estimated) / norm(gradient) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("noise_normalization", ["network", "layer"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_normalizations_of_the_paper_keep_each_layers_direction(noise_normalization: str, depth: int) -> None:
    model = make(
        NRL,
        net_arch=(12,) * depth,
        noise_normalization=noise_normalization,
        n_noise_samples=40_000,
        noise_std=1e-3,
        antithetic=False,
        policy_kwargs={"use_bias": False},
    )
    perturbation = model.policy.perturbation
    steps = some_steps(model, n_rows=2)
    for site, trace, gradient in zip(perturbation.sites, estimate(model, steps), exact(model, steps), strict=True):
        assert cosine([trace[0]], [gradient]) > 0.99
        n = perturbation.n_nodes if noise_normalization == "network" else site.shape[-1]
        assert n * norm([trace[0]]) / norm([gradient]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "settings",
    [case for case in NETWORKS if not {"noise_distribution", "clean_passes"} & set(case)],
    ids=str,
)
def test_bptt_trace_is_the_exact_gradient_of_each_environment(settings: dict[str, Any]) -> None:
    model = make(BPTT, **settings)
    steps = some_steps(model, n_rows=3 * 4)
    traces = estimate(model, steps, n_envs=3)
    for env in range(3):
        mask = th.zeros(4, 3)
        mask[:, env] = 1
        for trace, gradient in zip(traces, exact(model, steps, mask.flatten()), strict=True):
            th.testing.assert_close(trace[env], gradient, rtol=1e-4, atol=1e-5)


def test_bptt_update_is_a_descent_on_minus_error_times_log_probability() -> None:
    """W moves by η times the gradient of Σ δ log π(a|s), episode by episode."""
    model = make(BPTT, reward_timing="episode", scale_rpe=False, learning_rate=0.1)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    rewards: list[float] = []
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def watch(local: dict[str, Any], _: dict[str, Any]) -> bool:
        rewards.append(float(local["rewards"][0]))
        seen.append((local["obs"], local["actions"]))
        return True

    model.learn(10, watch)
    after = {name: value.clone() for name, value in model.policy.state_dict().items()}
    error = sum(rewards[5:]) - sum(rewards[:5])
    assert error != 0
    model.policy.load_state_dict(before)
    obs, actions = (th.as_tensor(np.concatenate(column[5:])) for column in zip(*seen, strict=True))
    loss = -error * model.policy.get_distribution(obs).log_prob(actions).sum()
    for name, gradient in zip(before, th.autograd.grad(loss, list(model.policy.parameters())), strict=True):
        th.testing.assert_close(after[name], before[name] - 0.1 * gradient)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize("padding", [0, "same", (2, 1)])
def test_convolution_products_are_weight_gradients(padding: Any, padding_mode: Any) -> None:
    th.manual_seed(0)
    layer = nn.Conv2d(4, 6, (3, 2), padding=padding, padding_mode=padding_mode, groups=2, dilation=(1, 2))
    x = th.randn(2 * 3, 4, 7, 8)
    perturbation = NodePerturbation(layer, layer, x[:3])
    noise = th.zeros(len(x), perturbation.n_nodes)
    output, pre = perturbation.run(x, noise)
    post = th.randn_like(noise)
    traces = traces_of(perturbation, post, pre, n_envs=3)
    for env in range(3):
        mask = th.arange(len(x)) % 3 == env
        loss = (output.flatten(1) * post)[mask].sum()
        for trace, gradient in zip(
            traces, th.autograd.grad(loss, list(layer.parameters()), retain_graph=True), strict=True
        ):
            th.testing.assert_close(trace[env], gradient, rtol=1e-4, atol=1e-4)


def test_noise_enters_every_node_as_given() -> None:
    """A noisy pass is the clean one with ξ added to the pre-activations, layer by layer."""
    model = make(NRL, net_arch=(4, 3))
    policy: NoisyPolicy = model.policy
    th.manual_seed(0)
    x, noise = th.randn(2, 5), th.randn(2, 10)
    first, second, head = (policy.hidden_net[0], policy.hidden_net[2], policy.action_net)
    one = nn.functional.leaky_relu(first(x) + noise[:, :4], 0.1)
    two = nn.functional.leaky_relu(second(one) + noise[:, 4:7], 0.1)
    actions = th.tensor([0, 2])
    (log_probs,), pre = policy.noisy_pass(x, actions, noise)
    th.testing.assert_close(log_probs, (head(two) + noise[:, 7:]).log_softmax(1)[th.arange(2), actions])
    for received, expected in zip(pre, (x, one, two), strict=True):
        th.testing.assert_close(received, expected)
