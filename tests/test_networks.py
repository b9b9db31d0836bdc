"""Networks that are unusual, or that change: credit is right, or there is an error that says what to do."""

import pathlib
import re
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_nrl import BPTT, NRL, RMHL
from sb3_nrl.acting import make_actor
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.reward_modulated import RewardModulatedAlgorithm
from tests.envs import Algorithm, ScriptedEnv

each_algorithm = pytest.mark.parametrize("algorithm", [NRL, RMHL, BPTT])


def make(algorithm: Algorithm, **arguments: Any) -> NRL | RMHL | BPTT:
    return algorithm(arguments.pop("policy", "MlpPolicy"), ScriptedEnv([5, 3]), seed=0, **arguments)


def snapshot(model: RewardModulatedAlgorithm) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def changed(model: RewardModulatedAlgorithm, before: dict[str, th.Tensor]) -> set[str]:
    return {name for name, value in model.policy.state_dict().items() if not value.equal(before[name])}


class Extractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)


class OverwritesInput(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        hidden = self.first(x).tanh()
        y = self.second(hidden)
        hidden += y
        return hidden


class BatchSecond(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(x).expand(3, *x.shape)).mean(0)


class BatchSecondOfTwo(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(x).expand(2, *x.shape)).mean(0)


class MixesRows(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        y = self.second(self.first(x))
        return y - y.mean(0)


class CallsByName(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(input=self.first(x))


@each_algorithm
@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        (OverwritesInput, "second' received is overwritten in place"),
        (BatchSecond, "mixes the rows"),
        (BatchSecondOfTwo, "second' must be called with one positional argument, the batch first"),
        (MixesRows, "mixes the rows"),
        (CallsByName, "second' must be called with one positional argument"),
    ],
)
def test_networks_whose_credit_would_be_wrong_are_refused(
    algorithm: Algorithm, extractor: type[BaseFeaturesExtractor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(algorithm, policy_kwargs={"features_extractor_class": extractor})


@each_algorithm
def test_layers_frozen_later_stay_as_they_are(algorithm: Algorithm) -> None:
    model = make(algorithm, learning_rate=0.05)
    model.learn(20)
    model.policy.hidden_net[0].weight.requires_grad_(False)
    before = snapshot(model)
    model.learn(30)
    assert changed(model, before) == {"action_net.weight"}


class AddsTooLate(NoisyPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skip = nn.Linear(4, 3)

    def _action_parameters(self, obs: Any) -> th.Tensor:
        outputs = super()._action_parameters(obs)
        return outputs + self.skip(obs) if hasattr(self, "skip") else outputs


class AddsToTheOptimizer(AddsTooLate):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.optimizer.add_param_group({"params": list(self.skip.parameters())})


@each_algorithm
def test_a_subclass_can_add_layers_if_the_optimizer_knows_them(algorithm: Algorithm) -> None:
    with pytest.raises(ValueError, match=r"'skip\.weight' would never learn: it is not in policy\.optimizer"):
        make(algorithm, policy=AddsTooLate).learn(20)
    model = make(algorithm, policy=AddsToTheOptimizer, learning_rate=0.05)
    before = snapshot(model)
    model.learn(40)
    assert changed(model, before) == set(before)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("noise_std", 0.5),
        ("noise_distribution", "rademacher"),
        ("clean_passes", 2),
        ("trace_decay", 0.5),
        ("reward_timing", "nonzero"),
        ("reward_smoothing", 0.1),
        ("scale_rpe", False),
        ("n_steps", 2),
        ("noise_normalization", "layer"),
        ("n_noise_samples", 1),
        ("antithetic", False),
        ("max_grad_norm", 1e-3),
    ],
)
def test_arguments_changed_between_trainings_take_effect(argument: str, value: Any) -> None:
    """A model that is given the argument later ends where one that had it from the start does."""
    had, given, never = (make(NRL, learning_rate=0.05, **({argument: value} if i == 0 else {})) for i in range(3))
    setattr(given, argument, value)
    for model in (had, given, never):
        model.set_random_seed(1)
        model.learn(60)
    ends = [model.policy.parameters_to_vector() for model in (had, given, never)]
    np.testing.assert_array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[0], ends[2])
    setattr(given, argument, "nonsense")
    with pytest.raises(ValueError, match=argument):
        given.learn(10)


@each_algorithm
@pytest.mark.parametrize("argument", ["noise_std", "noise_distribution", "clean_passes"])
def test_noise_is_no_argument_of_the_policy(algorithm: Algorithm, argument: str) -> None:
    with pytest.raises(ValueError, match=f"policy_kwargs.*{argument}"):
        make(algorithm, policy_kwargs={argument: 2})


@pytest.mark.parametrize(
    ("space", "logits"), [(spaces.Discrete(2), [0.0, 150.0]), (spaces.MultiBinary(2), [-60.0, 60.0])], ids=str
)
def test_the_mean_of_noisy_passes_is_right_where_the_policy_is_certain(
    space: spaces.Space, logits: list[float]
) -> None:
    """With next to no noise it is the clean pass, log-probabilities far in the tails included."""
    env = ScriptedEnv([5])
    env.action_space = space
    model = NRL("MlpPolicy", env, clean_passes=3, noise_std=1e-6, policy_kwargs={"use_bias": True}, seed=0)
    model.policy.action_net.bias.data.copy_(th.tensor(logits))
    obs = th.zeros(1, 4)
    unlikely = th.tensor([0]) if isinstance(space, spaces.Discrete) else th.tensor([[1.0, 0.0]])
    mean = model.policy._mean_of_noisy_passes(obs, 3).log_prob(unlikely)
    assert mean.item() == pytest.approx(-150 if isinstance(space, spaces.Discrete) else -120, rel=1e-4)


def test_a_frozen_standard_deviation_gets_no_noise_when_acting() -> None:
    env = ScriptedEnv([5])
    env.action_space = spaces.Box(-1, 1, (2,), np.float32)
    policy = NRL("MlpPolicy", env, noise_std=0.5, seed=0).policy
    policy.log_std_net.weight.requires_grad_(False)
    policy.find_layers()
    obs, noise = np.ones((3, 4), np.float32), policy.sample_noise(3)
    assert noise.shape == (3, 64 + 2)
    actions, log_probs = make_actor(policy)(obs, noise)
    expected, _ = policy.noisy_pass(th.as_tensor(obs), th.as_tensor(actions), noise)
    np.testing.assert_allclose(log_probs, expected.detach(), rtol=1e-5)


class DividesByZero(Extractor):
    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.second(self.first(x / x.norm(dim=1, keepdim=True)))


def test_a_network_may_be_undefined_at_zero() -> None:
    model = make(NRL, policy_kwargs={"features_extractor_class": DividesByZero}, learning_rate=0.05)
    before = snapshot(model)
    model.learn(40)
    assert changed(model, before) == set(before)


@each_algorithm
def test_hooks_see_every_pass(algorithm: Algorithm) -> None:
    """Also hooks that are added when training has started."""
    model = make(algorithm)
    n_rows = []

    def start_watching(local: dict[str, Any], _: dict[str, Any]) -> bool:
        if model.num_timesteps == 8:
            model.policy.action_net.register_forward_hook(lambda module, args, output: n_rows.append(len(output)))
        return True

    model.learn(40, start_watching)
    # The 32 steps that follow were acted and, but for those that still wait, credited.
    assert sum(n_rows) >= 32 + 24


def test_a_trained_model_runs_as_the_readme_says(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of the README, with fewer steps."""
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(re.sub(r"(\d)00_000", r"\g<1>00", block), names)
    assert names["model"].num_timesteps == 300
    assert names["agent"].num_timesteps >= 500 and (tmp_path / "trial.png").exists()
    assert (tmp_path / "nrl_cartpole.zip").exists()
    assert list(tmp_path.glob("runs/NRL_1/events.*"))
