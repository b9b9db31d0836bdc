"""Recordings of trials, against a computation step by step; principal components and spectra, against NumPy."""

import builtins
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_nrl import GymnasiumVecEnv
from sb3_nrl.analysis import (
    Recording,
    condition_means,
    pca,
    plot_activity,
    plot_recurrent_weights,
    plot_trajectories,
    plot_units,
    record,
    recurrent_weights,
    spectrum,
    trial_labels,
)
from tests.conftest import make_model
from tests.envs import ScriptedEnv

LENGTHS = (4, 2, 3)
POLICIES: dict[str, dict[str, Any]] = {
    "RNN": {"policy": "MlpRnnPolicy"},
    "CTRNN": {"policy": "MlpCtrnnPolicy", "policy_kwargs": {"tau": 3.0, "net_arch": {"pi": [5, 4], "vf": [3]}}},
    "GRU": {"policy": "MlpGruPolicy"},
    "feed-forward critic": {"policy": "MlpGruPolicy", "policy_kwargs": {"recurrent_critic": False}},
    "feed-forward": {"policy": "MlpPolicy", "policy_kwargs": {"net_arch": [5, 4]}},
}


class TrialsEnv(ScriptedEnv):
    """
    Trials of these lengths, ``n_trials`` to an episode. As NeuroGym, the last step of a trial tells its number, its
    parity, and its performance, which is 1 in even trials.
    """

    def __init__(self, lengths: tuple[int, ...] = LENGTHS, n_trials: int = 1) -> None:
        super().__init__([10**9])
        self.trial_lengths, self.n_trials, self.number, self.since = lengths, n_trials, 0, 0

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, reward, *_ = super().step(action)
        self.since += 1
        if self.since < self.trial_lengths[self.number % len(self.trial_lengths)]:
            return obs, reward, False, False, {"new_trial": False}
        trial = {"number": self.number, "parity": "odd" if self.number % 2 else "even", "pair": [self.number, 1]}
        info = {"new_trial": True, "trial": trial, "performance": float(self.number % 2 == 0)}
        info |= {"dt": 20.0, "periods": {"cue": (0.0, 20.0), "go": (20.0, 40.0)}}
        self.number, self.since = self.number + 1, 0
        return obs, reward, self.number % self.n_trials == 0, False, info


def activity_of(model: Any, network: Any, obs_TI: np.ndarray, resets: list[bool]) -> list[np.ndarray]:
    """Activity of the hidden layers at successive steps of one environment, by the published equations."""

    def drive(units: Any, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        w, b, u = (getattr(units, name).detach().double().numpy() for name in ("weight", "bias", "recurrent_weight"))
        return w @ x + b + u @ h

    rate = getattr(model.policy, "dt", 1.0) / getattr(model.policy, "tau", 1.0)
    states: list[Any] = [0.0] * len(network.hidden)
    found: list[list[np.ndarray]] = [[] for _ in network.hidden]
    for obs, reset in zip(obs_TI, resets, strict=True):
        x = obs.astype(float)
        for place, layer in enumerate(network.hidden):
            n_units = layer.n_states or layer.n_units
            u = np.zeros(n_units) if reset else states[place]
            if type(layer).__name__ == "LeakyRnn":
                u = (1 - rate) * u + rate * drive(layer.units, x, np.tanh(u))
                states[place], x = u, np.tanh(u)
            elif type(layer).__name__ == "Gru":
                z, r = (1 / (1 + np.exp(-drive(gate, x, u))) for gate in (layer.update_gate, layer.reset_gate))
                states[place] = x = z * u + (1 - z) * np.tanh(drive(layer.units, x, r * u))
            else:
                x = np.tanh(layer.weight.detach().double().numpy() @ x + layer.bias.detach().double().numpy())
            found[place].append(x)
    return [np.array(steps) for steps in found]


@pytest.mark.parametrize("n_trials_per_episode", [1, 2])
@pytest.mark.parametrize("arguments", POLICIES.values(), ids=POLICIES)
def test_activity_is_that_of_a_computation_step_by_step(arguments: dict[str, Any], n_trials_per_episode: int) -> None:
    """Hidden states start at 0 with an episode, and go on where only a trial ends."""
    model = make_model(env=(4, 2), **arguments)
    recording = record(model, TrialsEnv(n_trials=n_trials_per_episode), 5, seed=0)
    assert isinstance(recording.observations, np.ndarray)
    resets = [
        step == 0 and trial % n_trials_per_episode == 0
        for trial, step in zip(recording.trial, recording.step, strict=True)
    ]
    assert len(recording.actor) == len(model.policy.actor.hidden) and recording.critic
    for network, layers in ((model.policy.actor, recording.actor), (model.policy.critic, recording.critic)):
        for expected, found in zip(activity_of(model, network, recording.observations, resets), layers, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_actions_are_those_of_predict() -> None:
    model = make_model(policy="MlpCtrnnPolicy", policy_kwargs={"head_gain": 3.0})
    recording = record(model, TrialsEnv(), 4, deterministic=True, seed=0)
    assert isinstance(recording.observations, np.ndarray) and len(set(recording.actions.tolist())) > 1
    state = None
    for place, obs in enumerate(recording.observations):
        start = np.array([recording.step[place] == 0])
        action, state = model.predict(obs[None], state, start, deterministic=True)
        assert action[0] == recording.actions[place]
        np.testing.assert_allclose(np.tanh(state[0]), recording.actor[0][place], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(recording.rewards, recording.actions == 1)


@pytest.mark.parametrize("n_trials_per_episode", [1, 3])
def test_trials_are_cut_where_they_end(n_trials_per_episode: int) -> None:
    recording = record(make_model(), TrialsEnv(n_trials=n_trials_per_episode), 5)
    assert recording.n_trials == 5 and recording.lengths.tolist() == [4, 2, 3, 4, 2]
    assert recording.trial.tolist() == [0] * 4 + [1] * 2 + [2] * 3 + [3] * 4 + [4] * 2
    assert recording.step.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2, 0, 1, 2, 3, 0, 1]
    assert recording.conditions["number"].tolist() == [0, 1, 2, 3, 4]
    assert recording.conditions["parity"].tolist() == ["even", "odd", "even", "odd", "even"]
    assert recording.conditions["pair"].tolist() == [[number, 1] for number in range(5)]
    assert recording.correct.tolist() == [True, False, True, False, True]
    assert recording.dt == 20 and recording.periods["go"].tolist() == [1] * 5
    arranged = recording.by_trial(recording.rewards)
    assert np.isnan(arranged).sum(1).tolist() == [0, 2, 1, 0, 2]
    assert arranged[2, :3].tolist() == recording.rewards[6:9].tolist()


def test_every_environment_contributes_as_many_trials() -> None:
    """Though the second's trials are three times as short. The rows of one never end up in a trial of the other."""
    env = DummyVecEnv([partial(TrialsEnv, (6,)), partial(TrialsEnv, (2,))])
    model = make_model(policy="MlpCtrnnPolicy")
    recording = record(model, env, 5, seed=0)
    assert recording.environment.tolist() == [1, 1, 0, 1, 0]  # in the order in which they ended
    assert recording.lengths.tolist() == [2, 2, 6, 2, 6]
    assert recording.conditions["number"].tolist() == [0, 1, 0, 2, 1]
    assert isinstance(recording.observations, np.ndarray)
    for environment in (0, 1):
        rows = recording.environment[recording.trial] == environment
        resets = (recording.step[rows] == 0).tolist()
        (expected,) = activity_of(model, model.policy.actor, recording.observations[rows], resets)
        np.testing.assert_allclose(recording.actor[0][rows], expected, rtol=1e-4, atol=1e-5)


def test_seed_decides_everything() -> None:
    model = make_model(policy="MlpRnnPolicy")
    before = th.get_rng_state()
    first, again, other = (record(model, TrialsEnv(), 6, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_equal(vars(first), vars(again))
    assert first.actions.tolist() != other.actions.tolist()
    assert not np.array_equal(np.asarray(first.observations), np.asarray(other.observations))
    assert th.equal(th.get_rng_state(), before)


def test_normalised_observations_and_rewards_as_they_are() -> None:
    env: Any = VecNormalize(make_vec_env(TrialsEnv, 2, seed=0), gamma=0.9)
    env.obs_rms.mean[:], env.obs_rms.var[:], env.ret_rms.var = 2.0, 9.0, np.array(25.0)
    model = make_model(env=env, policy="MlpGruPolicy")
    recording = record(model, env, 4, seed=0)
    plain = record(model, make_vec_env(TrialsEnv, 2), 4, seed=0)  # normalised with the model's statistics
    assert env.training and env.obs_rms.count == pytest.approx(1e-4) and env.obs_rms.mean.tolist() == [2.0] * 4
    assert isinstance(recording.observations, np.ndarray)
    assert recording.observations.mean() == pytest.approx(-2 / 3, abs=0.2)
    np.testing.assert_array_equal(recording.observations, plain.observations)
    np.testing.assert_array_equal(recording.actor[0], plain.actor[0])
    assert set(recording.rewards) == {0.0, 1.0}
    np.testing.assert_array_equal(recording.rewards, recording.actions == 1)


def test_episodes_without_conditions_are_trials_too() -> None:
    cut = TimeLimit(TrialsEnv((2, 5)), 3)
    recording = record(make_model(), cut, 3)
    assert recording.lengths.tolist() == [2, 3, 2]  # the second trial is cut, and goes on in the third
    np.testing.assert_equal(recording.conditions["number"], [0, np.nan, 1])
    assert recording.conditions["parity"].tolist() == ["even", None, "odd"]
    np.testing.assert_equal(recording.performance, [1, np.nan, 0])
    assert recording.correct.tolist() == [True, False, False]
    plain = record(make_model(), ScriptedEnv((5, 3)), 3)
    assert plain.lengths.tolist() == [5, 3, 5] and plain.conditions == {} and plain.dt is None


def test_arguments_are_checked() -> None:
    with pytest.raises(TypeError, match="not of PPO"):
        record(PPO("MlpPolicy", "CartPole-v1"), ScriptedEnv((5,)), 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_trials=0"):
        record(make_model(), ScriptedEnv((5,)), 0)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        record(make_model(), ScriptedEnv((5,), n_inputs=7), 3)
    recording = record(make_model(), TrialsEnv(), 3)
    with pytest.raises(ValueError, match="one of the critic's 1 hidden layers"):
        recording.activity("critic", 1)
    with pytest.raises(ValueError, match="one of number, parity, pair, correct, environment"):
        trial_labels(recording, "colour")
    with pytest.raises(ValueError, match="each of the 3 trials"):
        recording.select(np.ones(4, bool))
    with pytest.raises(ValueError, match="nothing was selected"):
        trial_labels(recording.select(np.zeros(3, bool)), "parity")
    many = record(make_model(), TrialsEnv((1,)), 17)
    with pytest.raises(ValueError, match="at most 16 different labels, not 17"):
        trial_labels(many, "number")


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(make_model(policy="MlpCtrnnPolicy", policy_kwargs={"net_arch": [7]}), TrialsEnv(), 12, seed=0)


def test_means_of_conditions(recording: Recording) -> None:
    """Trial n has length 4, 2 or 3, so that each parity has two trials of each length."""
    names, means = condition_means(recording, recording.actor[0], "parity")
    assert names == ["parity=even", "parity=odd"] and means.shape == (2, 4, 7)
    assert np.isnan(means[:, 3]).all() and not np.isnan(means[:, :3]).any()  # one third of the trials last 4 steps
    for parity in (0, 1):
        for step in range(3):
            rows = (recording.step == step) & (recording.conditions["number"][recording.trial] % 2 == parity)
            np.testing.assert_allclose(means[parity, step], recording.actor[0][rows].mean(0), rtol=1e-5)
    assert not np.isnan(condition_means(recording, recording.actor[0], "parity", least=0.3)[1]).any()
    names, _ = condition_means(recording, recording.rewards, ["parity", "correct"])
    assert names == ["parity=even, correct=True", "parity=odd, correct=False"]
    assert trial_labels(recording, recording.lengths / 3)[:3].tolist() == ["1.33", "0.667", "1"]


def test_selected_trials_are_numbered_anew(recording: Recording) -> None:
    odd = recording.select(~recording.correct)
    assert odd.n_trials == 6 and odd.conditions["number"].tolist() == [1, 3, 5, 7, 9, 11]
    assert odd.trial.tolist() == np.repeat(np.arange(6), recording.lengths[1::2]).tolist()
    rows = recording.trial % 2 == 1
    np.testing.assert_array_equal(odd.actor[0], recording.actor[0][rows])
    np.testing.assert_array_equal(odd.periods["go"], [1] * 6)


def test_table_has_a_row_for_each_step(recording: Recording) -> None:
    table = recording.to_dataframe()
    assert len(table) == len(recording.rewards)
    np.testing.assert_array_equal(table["actor0_6"], recording.actor[0][:, 6])
    np.testing.assert_array_equal(table["condition_number"], recording.trial)
    np.testing.assert_array_equal(table["action"], recording.actions)
    assert table.groupby("trial")["performance"].first().tolist() == [1, 0] * 6
    assert {"observation_3", "critic0_6", "environment", "condition_parity"} < set(table)


def test_labelled_arrays(recording: Recording) -> None:
    pytest.importorskip("xarray")
    dataset = recording.to_xarray()
    assert dict(dataset["actor0"].sizes) == {"trial": 12, "step": 4, "actor0_dim0": 7}
    np.testing.assert_array_equal(dataset["actor0"].values, recording.by_trial(recording.actor[0]))
    odd = dataset.where(dataset["condition_parity"] == "odd", drop=True)
    np.testing.assert_array_equal(odd["performance"], np.zeros(6))
    assert dataset.attrs["dt_ms"] == 20


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("pandas", Recording.to_dataframe),
        ("xarray", Recording.to_xarray),
        ("matplotlib", partial(plot_activity, by="parity")),
    ],
)
def test_missing_packages_are_named(
    package: str, use: Any, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"(?i){package}: pip install 'sb3-nrl\[analysis\]'"):
        use(recording)


def test_principal_components() -> None:
    generator = np.random.default_rng(0)
    activity = generator.normal(size=(50, 3)) @ generator.normal(size=(3, 6)) + 2.0  # of rank 3 around its mean
    full, few = pca(activity), pca(activity, 2)
    np.testing.assert_allclose(full.axes @ full.axes.T, np.eye(6), atol=1e-12)
    np.testing.assert_allclose(full.reconstruct(full.project(activity)), activity, atol=1e-12)
    three = pca(activity, 3)
    np.testing.assert_allclose(three.reconstruct(three.project(activity)), activity, atol=1e-12)
    variances = np.linalg.eigvalsh(np.cov(activity.T))[::-1]
    np.testing.assert_allclose(full.variance_ratio, variances / variances.sum(), atol=1e-12)
    residual = activity - few.reconstruct(few.project(activity))
    total = ((activity - activity.mean(0)) ** 2).sum()
    assert (residual**2).sum() / total == pytest.approx(1 - few.variance_ratio.sum())
    np.testing.assert_allclose(np.cov(few.project(activity).T), np.diag(variances[:2]), atol=1e-9)
    assert (np.take_along_axis(full.axes, np.abs(full.axes).argmax(1)[:, None], 1) > 0).all()
    with pytest.raises(ValueError, match="a number up to 6"):
        pca(activity, 7)


@pytest.mark.parametrize(
    ("policy", "matrices"),
    [("MlpCtrnnPolicy", ["units"]), ("MlpGruPolicy", ["update_gate", "reset_gate", "units"])],
)
def test_spectrum_of_recurrent_weights(policy: str, matrices: list[str]) -> None:
    model = make_model(policy=policy, policy_kwargs={"net_arch": {"pi": [6, 5], "vf": [4]}, "recurrent_gain": 1.5})
    found = recurrent_weights(model, layer=1)
    assert list(found) == matrices
    for name, weight in found.items():
        np.testing.assert_array_equal(weight, getattr(model.policy.actor.hidden[1], name).recurrent_weight.detach())
        values = spectrum(weight)
        expected = np.linalg.eigvals(weight)
        np.testing.assert_allclose(np.sort_complex(values), np.sort_complex(expected), rtol=1e-6)
        np.testing.assert_allclose(np.abs(values), 1.5, rtol=1e-5)  # of a random orthogonal matrix times 1.5
    assert recurrent_weights(model, "critic")["units"].shape == (4, 4)
    np.testing.assert_allclose(spectrum(np.diag([0.1, -3.0, 2.0])), [-3, 2, 0.1])


@pytest.mark.parametrize("encoding", ["current", "latency"])
def test_recurrent_weights_of_a_spiking_layer_are_those_of_the_recorded_one(encoding: str) -> None:
    kwargs = {"net_arch": [6, 5], "recurrent": True, "encoding": encoding}
    model = make_model(env="CartPole-v1", policy="MlpLifPolicy", policy_kwargs=kwargs)
    activity = record(model, model.env, 1).actor
    for layer, n_units in enumerate((6, 5)):
        assert activity[layer].shape[1] == n_units
        assert recurrent_weights(model, layer=layer)["synapses"].shape == (n_units, n_units)
    with pytest.raises(ValueError, match="one of the actor's 2 layers"):
        recurrent_weights(model, layer=2)


def test_no_recurrent_weights() -> None:
    with pytest.raises(ValueError, match=r"not recurrent: it is a Dense.*MlpCtrnnPolicy"):
        recurrent_weights(make_model())
    with pytest.raises(ValueError, match="one of the critic's 0 layers"):
        recurrent_weights(make_model(rule="average", policy="MlpRnnPolicy"), "critic")


def test_pictures_show_what_was_recorded(recording: Recording) -> None:
    pytest.importorskip("matplotlib")
    names, means = condition_means(recording, recording.actor[0], "parity")

    heat_maps: Any = plot_activity(recording, "parity")
    panels = heat_maps.axes[:2]
    assert [ax.get_title().split("\n") for ax in panels] == [[name, "(6 trials)"] for name in names]
    shown = np.array([ax.collections[0].get_array().filled(np.nan) for ax in panels])  # (C, H, L)
    assert shown.shape == (2, 7, 3)
    order = [np.flatnonzero(np.isclose(means[0, 0], row[0])).item() for row in shown[0]]
    np.testing.assert_allclose(shown, means[:, :3, order].swapaxes(1, 2))
    assert panels[0].get_xlabel() == "time in trial (ms)" and panels[0].get_xlim() == (-10, 50)

    units = plot_units(recording, "parity", [5, 2])
    for ax, unit in zip(units.axes, (5, 2), strict=True):
        for line, mean in zip(ax.lines, means, strict=False):
            np.testing.assert_array_equal(line.get_ydata(), mean[:, unit])
            np.testing.assert_array_equal(line.get_xdata(), [0, 20, 40, 60])
    most = np.argsort(-(means[:, :3].std(0) ** 2).sum(0))[:3]
    assert [ax.texts[0].get_text() for ax in plot_units(recording, "parity", 3).axes] == [f"unit {i}" for i in most]

    components = pca(means[:, :3].reshape(-1, 7), 3)
    trajectories: Any = plot_trajectories(recording, "parity")
    lines = {line.get_label(): line for line in trajectories.axes[1].lines}
    for name, mean in zip(names, means, strict=True):
        np.testing.assert_allclose(lines[name].get_xydata()[:3], components.project(mean[:3])[:, [0, 2]])
    assert f"3 ({components.variance_ratio[2]:.0%}" in trajectories.axes[1].get_ylabel()

    model = make_model(policy="MlpRnnPolicy", policy_kwargs={"net_arch": [6]})
    (weight,) = recurrent_weights(model).values()
    axes: Any = plot_recurrent_weights(model).axes
    left, right = axes[:2]
    np.testing.assert_array_equal(left.images[0].get_array(), weight)
    circle, eigenvalues = (line.get_xydata() for line in right.lines[:2])
    np.testing.assert_allclose((circle**2).sum(1), 1)
    np.testing.assert_allclose(eigenvalues @ [1, 1j], spectrum(weight))


def test_pictures_of_trials_without_periods() -> None:
    pytest.importorskip("matplotlib")
    model = make_model(policy="MlpRnnPolicy", policy_kwargs={"net_arch": [4]})
    recording = record(model, ScriptedEnv((5, 3)), 4)
    assert recording.periods == {}
    labels = np.array(["long", "short"] * 2)
    for plot in (plot_activity, plot_units, plot_trajectories):
        axes: Any = plot(recording, labels).axes
        assert not any(text.get_text() in ("cue", "go") for ax in axes for text in ax.texts)


def test_periods_that_no_shown_trial_has_are_not_drawn() -> None:
    pytest.importorskip("matplotlib")
    recording = record(make_model(), TimeLimit(TrialsEnv((5, 2)), 3), 4)
    assert np.isnan(recording.periods["go"]).any() and recording.dt == 20  # though the first trial is cut
    cut = recording.select(np.isnan(recording.periods["go"]))
    for plot in (plot_activity, plot_trajectories):
        figure: Any = plot(cut, np.arange(cut.n_trials))
        assert "go" not in [text.get_text() for ax in figure.axes for text in ax.texts]


def test_info_of_other_environments_is_no_condition() -> None:
    class Numbered(ScriptedEnv):
        def step(self, action: Any) -> Any:
            *step, _ = super().step(action)
            return *step, {"trial": 3}

    assert record(make_model(), Numbered((5, 3)), 2).conditions == {}


def test_steps_of_a_reset_belong_to_no_trial() -> None:
    """Gymnasium's mode NEXT_STEP resets within a step of its own."""
    recordings = []
    for mode in AutoresetMode:
        vector = SyncVectorEnv([lambda: ScriptedEnv((5, 3))] * 2, autoreset_mode=mode)
        model = make_model(env=GymnasiumVecEnv(vector), policy="MlpGruPolicy")
        recordings.append(record(model, model.env, 6, deterministic=True))
    for recording in recordings:
        assert recording.lengths.tolist() == [5, 5, 3, 3, 5, 5]
        np.testing.assert_array_equal(recording.rewards, recordings[0].rewards)
        np.testing.assert_array_equal(recording.observations, recordings[0].observations)
        np.testing.assert_allclose(recording.actor[0], recordings[0].actor[0], atol=1e-6)


def test_task_of_neurogym() -> None:
    """Conditions are those of the trials that were observed: the sample is where its stimulus is."""
    pytest.importorskip("sb3_nrl.envs")
    env = make_vec_env("neurogym/DelayMatchSample-v0", 3, env_kwargs={"sigma": 0.01})
    model = make_model(env=env, policy="MlpCtrnnPolicy", policy_kwargs={"net_arch": [4]})
    recording = record(model, env, 20, seed=1)
    assert isinstance(recording.observations, np.ndarray) and recording.dt == 100
    assert {name: steps[0] for name, steps in recording.periods.items()} == {
        **{"fixation": 0, "sample": 3, "delay": 8, "test": 18, "decision": 23},
    }
    in_sample = recording.by_trial(recording.observations)[:, 3, 1:]
    np.testing.assert_array_equal(in_sample.argmax(1), recording.conditions["sample_theta"] > 1)
    last = np.cumsum(recording.lengths) - 1
    decided = recording.actions[last] == recording.conditions["ground_truth"]
    np.testing.assert_array_equal(recording.correct, decided)
    np.testing.assert_array_equal(recording.rewards[last], decided)
