"""Each eligibility is compared with the exact gradient of PyTorch's autograd."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_nrl import BPTT
from sb3_nrl.bptt import ExactGradient
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.layers import ForeignModule
from sb3_nrl.node_perturbation import NodePerturbation
from sb3_nrl.noise import NOISE_DISTRIBUTIONS, ORTHOGONAL, Noise
from sb3_nrl.policies import NoisyCnnPolicy, NoisyMultiInputPolicy, NoisyPolicy
from sb3_nrl.rules import LearningRule
from tests.conftest import make_model
from tests.policies import (
    ACTION_SPACES,
    IMAGE,
    VECTOR,
    CnnOfTwoHalves,
    SmallCnn,
    TwiceThroughOneLayer,
    each_action_space,
    in_torch,
    make_policy,
    make_window,
    names,
    tensors,
)

ACTOR_ALONE: dict[str, Any] = {"critic": False, "net_arch": [12]}


def split(policy: NoisyPolicy, vector: Any) -> dict[str, th.Tensor]:
    """A vector of all weights as a tensor for each parameter, by name."""
    parts = th.as_tensor(vector).split([parameter.numel() for parameter in policy.learnable])
    of = names(policy)
    return {of[p]: part.reshape(p.shape) for p, part in zip(policy.learnable, parts, strict=True)}


def exact(policy: NoisyPolicy, window: RolloutWindow, weights: th.Tensor | None = None) -> dict[str, th.Tensor]:
    """∂ Σ_i w_i (log π(a_i|s_i) + V(s_i)) / ∂ each parameter, by autograd through Stable-Baselines3's interface."""
    values, log_probs, _ = policy.evaluate_actions(tensors(window.observations), th.as_tensor(window.actions))
    objective = log_probs if values is None else log_probs + values[:, 0]
    total = (objective if weights is None else weights * objective).sum()
    return dict(zip(split(policy, np.zeros(policy.n_weights)), th.autograd.grad(total, policy.learnable), strict=True))


@th.no_grad()
def estimate(policy: NoisyPolicy, window: RolloutWindow, rule: LearningRule) -> dict[str, th.Tensor]:
    """The sum of a rule's eligibilities over the steps of a window."""
    eligibility, _ = rule.eligibility(policy, window, None)
    return split(policy, eligibility.weighted_sum(np.ones(window.rewards_TE.shape)))


def flat(parts: dict[str, th.Tensor]) -> th.Tensor:
    return th.cat([part.flatten() for part in parts.values()])


def cosine(one: th.Tensor, two: th.Tensor) -> float:
    return th.cosine_similarity(one.flatten(), two.flatten(), dim=0).item()


NETWORKS: dict[str, dict[str, Any]] = {
    **{name: {"action_space": space} for name, space in ACTION_SPACES.items()},
    **{f"depth {depth}": {"net_arch": [12] * depth} for depth in (0, 2, 3)},
    "convolutions": {
        "observation_space": IMAGE,
        "features_extractor_class": SmallCnn,
        "features_extractor_kwargs": {},
    },
    "grid": {"policy_class": NoisyCnnPolicy, "observation_space": spaces.Box(0, 1, (4, 4, 2))},
    "convolution at several positions": {"observation_space": IMAGE, "features_extractor_class": CnnOfTwoHalves},
    "linear layer at several positions": {"features_extractor_class": TwiceThroughOneLayer},
    "dictionary": {
        "policy_class": NoisyMultiInputPolicy,
        "observation_space": spaces.Dict(a=VECTOR, b=spaces.Discrete(3)),
    },
    "several numbers": {"observation_space": spaces.MultiDiscrete([2, 3])},
    "without biases": {"use_bias": False},
}
each_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def assert_mean_eligibility_is_exact(policy: NoisyPolicy, antithetic: bool = False) -> None:
    """
    With n nodes and M samples the estimate's variance is about n / M of the squared gradient: its cosine is then about
    1 / sqrt(1 + n / M), here 0.997, and its length 0.3 % too large.
    """
    assert policy.noise is not None
    window = make_window(policy, n_steps=4)
    rule = NodePerturbation(policy.noise, "unbiased", 150 * policy.n_nodes, antithetic)
    estimated, gradient = (flat(parts) for parts in (estimate(policy, window, rule), exact(policy, window)))
    assert cosine(estimated, gradient) > 0.99
    assert (estimated.norm() / gradient.norm()).item() == pytest.approx(1, abs=0.05)


@each_network
def test_mean_nrl_eligibility_is_the_exact_gradient(network: dict[str, Any]) -> None:
    assert_mean_eligibility_is_exact(make_policy(**{**ACTOR_ALONE, "noise": Noise(1e-3), **network}))


@pytest.mark.parametrize(
    ("distribution", "antithetic"), [*((name, False) for name in NOISE_DISTRIBUTIONS), ("poisson", True)]
)
def test_so_it_is_with_each_distribution_of_the_noise(distribution: Any, antithetic: bool) -> None:
    assert_mean_eligibility_is_exact(make_policy(**ACTOR_ALONE, noise=Noise(1e-3, distribution)), antithetic)


def test_so_it_is_with_a_mean_of_noisy_passes_for_the_clean_one() -> None:
    assert_mean_eligibility_is_exact(make_policy(**ACTOR_ALONE, noise=Noise(1e-2), n_baseline_passes=3))


@pytest.mark.parametrize(
    ("network", "antithetic"), [*((network, True) for network in NETWORKS.values()), (NETWORKS["dictionary"], False)]
)
def test_a_local_head_learns_from_its_exact_gradient(network: dict[str, Any], antithetic: bool) -> None:
    """One sample is enough for the heads. The layers before them learn from noise, which only they get."""
    policy = make_policy(**{"noise": Noise(1e-4), "net_arch": [12], **network})
    assert policy.noise is not None
    window = make_window(policy, n_steps=4)
    gradient = exact(policy, window)
    hidden = [name for name in gradient if ".head." not in name]
    for n_samples in (1, 60 * policy.n_nodes):
        rule = NodePerturbation(policy.noise, "unbiased", n_samples, antithetic, local_head=True)
        estimated = estimate(policy, window, rule)
        for name in gradient.keys() - hidden:
            th.testing.assert_close(estimated[name], gradient[name], rtol=2e-2, atol=2e-2)
        if hidden and n_samples > 1:
            assert cosine(*(th.cat([of[name].flatten() for name in hidden]) for of in (estimated, gradient))) > 0.98


@pytest.mark.parametrize("frozen", ["mean", "log_std", None])
def test_a_local_head_may_be_frozen_in_part(frozen: str | None) -> None:
    policy = make_policy(action_space=spaces.Box(-1, 1, (2,)), noise=Noise(1e-4), net_arch=[5])
    head: Any = policy.actor.head
    if frozen is None:
        head.requires_grad_(False)
    else:
        getattr(head, frozen).requires_grad_(False)
    policy.refresh()
    window = make_window(policy, n_steps=4)
    gradient = exact(policy, window)
    estimated = estimate(policy, window, NodePerturbation(Noise(1e-4), local_head=True))
    of_heads = [name for name in estimated if ".head." in name]
    assert len(of_heads) == {"mean": 1, "log_std": 2, None: 0}[frozen] + 2
    for name in of_heads:
        th.testing.assert_close(estimated[name], gradient[name], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("normalization", ["unbiased", "network", "layer"])
@pytest.mark.parametrize("antithetic", [False, True])
@each_action_space
def test_actor_and_critic_are_normalized_by_their_own_noise(
    action_space: spaces.Space, antithetic: bool, normalization: Any
) -> None:
    """The paper's estimates are too short by the number of nodes of the network, or of the layer."""
    policy = make_policy(action_space=action_space, noise=Noise(1e-3), net_arch={"pi": [6, 5], "vf": [7]}, seed=3)
    # Actions that are alike, so that no parameter's gradient is small beside the others, whose noise it shares.
    obs = tensors(make_window(policy, 4).observations)
    actions = policy.get_distribution(obs).mode().detach().numpy()
    window = make_window(policy, 4, actions=actions + 1.5 if isinstance(action_space, spaces.Box) else 0 * actions)
    rule = NodePerturbation(Noise(1e-3), normalization, 10_000, antithetic)
    gradient = exact(policy, window)
    for name, one in estimate(policy, window, rule).items():
        part = policy.parts[name.startswith("critic")]
        n_of_layer = part.layer_nodes[-1].stop - part.layer_nodes[-1].start if "head" in name else len(gradient[name])
        n = {"unbiased": 1, "network": part.n_nodes, "layer": n_of_layer}[normalization]
        if n > 2 or normalization != "layer":  # else the estimate has no finite variance
            assert cosine(one, gradient[name]) > 0.97, name
            assert (n * one.norm() / gradient[name].norm()).item() == pytest.approx(1, abs=0.15), name


@each_action_space
def test_as_many_orthogonal_samples_as_nodes_are_the_exact_gradient(action_space: spaces.Space) -> None:
    """Or a multiple of that. Actor and critic have different numbers of nodes."""
    noise = Noise(1e-2, ORTHOGONAL)
    net_arch = {"pi": [6, 5], "vf": [7]}
    policy = make_policy(action_space=action_space, noise=noise, net_arch=net_arch, activation_fn=nn.Tanh)
    window = make_window(policy, 4)
    actor, critic = (part.n_nodes for part in policy.parts)
    gradient = flat(exact(policy, window))
    for n_samples, exactly in ((actor, [True, actor % critic == 0]), (actor * critic, [True, True]), (3, [False] * 2)):
        estimated = flat(estimate(policy, window, NodePerturbation(noise, "unbiased", n_samples)))
        for part, is_exact in zip(policy.parts, exactly, strict=True):
            one, two = estimated[part.weights], gradient[part.weights]
            assert ((one - two).norm() < 2e-3 * two.norm()) == is_exact


@each_network
@pytest.mark.parametrize("move", [lambda policy: policy, in_torch], ids=["as is", "PyTorch"])
def test_bptt_eligibility_is_the_exact_gradient_of_each_environment(network: dict[str, Any], move: Any) -> None:
    policy = move(make_policy(**network))
    window = make_window(policy, n_steps=4, n_envs=3)
    weights_TE = np.random.default_rng(0).normal(size=(4, 3))
    eligibility, _ = ExactGradient().eligibility(policy, window, None)
    sums_EW = eligibility.weighted_sum(weights_TE, per_env=True)
    np.testing.assert_allclose(sums_EW.sum(0), eligibility.weighted_sum(weights_TE), rtol=1e-3, atol=1e-4)
    for env in range(3):
        mask = th.as_tensor(weights_TE, dtype=th.float32).clone()
        mask[:, [other for other in range(3) if other != env]] = 0
        for name, gradient in exact(policy, window, mask.flatten()).items():
            th.testing.assert_close(split(policy, sums_EW[env])[name], gradient, rtol=1e-4, atol=2e-5)


def test_bptt_update_is_a_descent_on_minus_error_times_log_probability() -> None:
    """W moves by η times the gradient of Σ δ log π(a|s), episode by episode."""
    model = make_model(BPTT, [5], "average", scale_rpe=False, learning_rate=0.1, policy_kwargs={"use_bias": True})
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
    foreign = ForeignModule(layer, lambda x: x, x[:3])
    foreign.refresh()
    output, received, _ = foreign.step(th, (), x, th.zeros(len(x), foreign.n_nodes))
    post = th.randn(len(x), foreign.n_nodes)
    sums = foreign.outer(th, post, received, 3)
    for env in range(3):
        mask = th.arange(len(x)) % 3 == env
        loss = (output.flatten(1) * post)[mask].sum()
        gradients = th.autograd.grad(loss, foreign.learnable(), retain_graph=True)
        for sum_EW, gradient in zip(sums, gradients, strict=True):
            th.testing.assert_close(sum_EW[env].reshape(gradient.shape), gradient, rtol=1e-4, atol=1e-4)
