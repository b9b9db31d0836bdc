"""The set-up of a model: makes the learning rule, reward predictor, policy and traces from the constructor's arguments.

Shapes: E environments.
"""

import pathlib
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from sb3_nrl.arrays import map_observations
from sb3_nrl.buffers import RolloutBuffer
from sb3_nrl.checks import (
    check,
    check_finite,
    check_spaces,
    is_count,
    is_number,
    warn_of_endless_trials,
    warn_of_missing_memory,
)
from sb3_nrl.layers import GaussianHead, Layer
from sb3_nrl.policies import NoisyCnnPolicy, NoisyMultiInputPolicy, NoisyPolicy
from sb3_nrl.recurrent_policies import RECURRENT_POLICIES
from sb3_nrl.reward_prediction import RewardPrediction, RewardPredictor, make_predictor
from sb3_nrl.rules import LearningRule
from sb3_nrl.saving import check_origin, save_atomically, unwrap_env, wrap_env
from sb3_nrl.spiking_policies import SPIKING_POLICIES
from sb3_nrl.traces import EligibilityTraces
from sb3_nrl.updates import Update, check_optimizer

_FIXED_ARGUMENTS = ("norm_obs", "reward_prediction", "perturbation")
"""Arguments that cannot change after a model is made."""


class ModelSetup(OnPolicyAlgorithm):
    """
    Set-up, saving and loading for :class:`~sb3_nrl.ThreeFactorAlgorithm`, which adds the constructor and the training
    loop.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": NoisyPolicy,
        "CnnPolicy": NoisyCnnPolicy,
        "MultiInputPolicy": NoisyMultiInputPolicy,
        **RECURRENT_POLICIES,
        **SPIKING_POLICIES,
    }
    policy: NoisyPolicy  # type: ignore[assignment]
    rollout_buffer: RolloutBuffer  # type: ignore[assignment]
    rule: LearningRule
    predictor: RewardPredictor
    traces: EligibilityTraces
    n_epochs: int
    clip_range: float | Schedule
    reward_prediction: RewardPrediction
    trace_decay: float | None
    gae_lambda: float | None  # type: ignore[assignment]
    norm_obs: bool
    n_baseline_passes: int | None = None
    """Number of noisy passes that actions and values are averaged over; None for one clean pass."""

    def make_rule(self) -> LearningRule:
        """Make the learning rule from the model's arguments."""
        check(
            "rule", self.rule, isinstance(self.rule, LearningRule), "a LearningRule; load(path, rule=...) takes one too"
        )
        return self.rule

    def _make_predictor(self) -> RewardPredictor:
        """Make the reward predictor from the model's arguments. A running average keeps the averages learned so far."""
        names = ("gamma", "ent_coef", "vf_coef", "reward_timing", "reward_smoothing", "scale_rpe", "norm_reward")
        predictor, used = make_predictor(
            self.reward_prediction, {name: getattr(self, name) for name in names}, self.n_envs
        )
        for name, value in used.items():
            setattr(self, name, value)
        before: RewardPredictor | None = vars(self).get("predictor")
        if before is not None:
            predictor.take_over(before)
        return predictor

    @property
    def decay(self) -> float:
        """Factor per step on the traces: ``trace_decay``, or γ times ``gae_lambda``, or the default."""
        if self.gae_lambda is not None:
            return self.predictor.gamma * self.gae_lambda
        return self.predictor.default_decay if self.trace_decay is None else self.trace_decay

    def _read_arguments(self) -> None:
        """Check all arguments, and make the reward predictor and the learning rule."""
        check_origin(self._names(), vars(self))
        for name, made in vars(self).get("_made_with", {}).items():
            value = made if getattr(self, name) is None else getattr(self, name)
            check(name, value, value == made, f"{made!r}, as it was when the model was made")
            setattr(self, name, value)
        part = self.gae_lambda
        check("gae_lambda", part, part in (None, 0) or is_number(part, 0, 1), "None, or in [0, 1]")
        alone = part is None or self.trace_decay is None
        check("gae_lambda", part, alone, "None if trace_decay is given: trace_decay is gamma times gae_lambda")
        norm = self.max_grad_norm
        check("max_grad_norm", norm, norm is None or is_number(norm, 0), "positive, or None for no clipping")
        check("norm_obs", self.norm_obs, isinstance(self.norm_obs, bool), "True or False")
        window = self._stats_window_size
        check("stats_window_size", window, is_count(window), "a whole number of episodes, at least 1")
        if self.learning_rate != self._scheduled_rate:
            self._setup_lr_schedule()
        passes = self.n_baseline_passes
        check("n_baseline_passes", passes, passes is None or is_count(passes, 2), "None, or a whole number, at least 2")
        for progress in (1.0, 0.5, 0.0):
            self._check_rate(self.lr_schedule(progress))
            clip = FloatSchedule(self.clip_range)(progress)
            check("clip_range", clip, clip == 0 or is_number(clip, 0), "finite and not negative")
        kind = self.policy_class
        check("policy", kind, issubclass(kind, NoisyPolicy), "a policy's name, or a subclass of policies.NoisyPolicy")
        if self.n_steps is None:
            self.n_steps = kind.default_n_steps(self.n_envs)
        check("n_steps", self.n_steps, is_count(self.n_steps), "a whole number of steps, at least 1")
        check("n_epochs", self.n_epochs, is_count(self.n_epochs), "a whole number, at least 1")
        check_spaces(self.observation_space, self.action_space)
        for name in ("critic", "noise", "noise_std", "noise_distribution", "perturbs", "n_baseline_passes", "norm_obs"):
            wanted = f"without {name}, which the algorithm sets"
            check("policy_kwargs", self.policy_kwargs, name not in self.policy_kwargs, wanted)
        wanted = "without ortho_init: make_features_extractor and head_gain decide the initial weights"
        check("policy_kwargs", self.policy_kwargs, "ortho_init" not in self.policy_kwargs, wanted)
        self.predictor = self._make_predictor()
        check("vf_coef", self.vf_coef, is_number(self.vf_coef, 0), "positive and finite")
        self.predictor.check_decay(self.decay)
        before, self.rule = vars(self).get("rule"), self.make_rule()
        same = before is None or type(before) is type(self.rule)
        check("rule", before, same, f"{type(self.rule).__name__}, the rule of {type(self).__name__}")
        self.rule.check()
        other = self.rule.acts_with_noise or passes or self.policy_kwargs.get("encoding") == "poisson"
        once = not self.predictor.has_critic or other
        wanted = "1 with a running average, n_baseline_passes, Poisson spikes, or a rule that acts with noise"
        check("n_epochs", self.n_epochs, self.n_epochs == 1 or not once, wanted)
        self._made_with = {name: vars(self)[name] for name in _FIXED_ARGUMENTS if name in vars(self)}

    @classmethod
    def _names(cls) -> list[str]:
        """Name of the algorithm, and of the algorithms that it extends."""
        return [algorithm.__name__ for algorithm in cls.__mro__[: cls.__mro__.index(ModelSetup)]]

    @staticmethod
    def _check_rate(rate: float) -> None:
        check("learning_rate", rate, rate == 0 or is_number(float(rate), 0), "finite and not negative")

    def _setup_lr_schedule(self) -> None:
        super()._setup_lr_schedule()
        self._scheduled_rate = self.learning_rate

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        # With several environments, the last step may exceed the number of steps, for which no schedule is defined.
        self._current_progress_remaining = max(self._current_progress_remaining, 0.0)

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        self._check_rate(self.policy.optimizer.param_groups[0]["lr"])
        for group in self.policy.optimizer.param_groups:
            if group.get("critic"):
                group["lr"] *= self.vf_coef

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self._read_arguments()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            critic=self.predictor.has_critic,
            noise=self.rule.noise,
            perturbs=self.rule.perturbs,
            n_baseline_passes=self.n_baseline_passes,
            norm_obs=self.norm_obs,
            **self.policy_kwargs,
        ).to(self.device)  # type: ignore[assignment]
        self.policy.refresh()
        seed, generator = vars(self).pop("_saved_generator", (None, None))
        if generator is not None and seed == self.seed:  # unless load was given another seed
            self.policy.generator = generator
        self.traces = EligibilityTraces()
        self.watchers: list[Callable[[Update], None]] = []
        """Functions called at the first update of each window, before weights change. ``learn`` clears this list."""
        self.rollout_buffer = RolloutBuffer(self.n_steps, self.observation_space)
        self._forget_episodes()
        self._maybe_recommend_cpu(NoisyPolicy.__name__)

    def _forget_steps(self) -> None:
        """Reset the traces, and drop the steps that no update has used yet."""
        self.traces.reset()
        self.rollout_buffer.clear(self.n_steps)
        self._rule_of_steps = type(self.rule)
        self._carry: Any = None

    def _forget_episodes(self) -> None:
        """Forget the steps, and reset the hidden states and the correlation of actions."""
        self._forget_steps()
        self._last_states: Any = None
        self._draws: np.ndarray | None = None

    def _layers_with_memory(self) -> list[Layer]:
        return [layer for layer in self.policy.layers if layer.n_states > 0]

    def refresh(self) -> None:
        """
        Make changes to the model's arguments and to the policy's layers take effect. ``learn`` does this at its start.
        Call it after such a change in a callback. If ``n_steps`` has changed, the type of the rule, or the set of
        parameters that learn, the traces are reset.

        :raises ValueError: If an argument is out of range, or if a trainable parameter would never learn
        """
        self._read_arguments()
        self.policy.noise, self.policy.perturbs = self.rule.noise, self.rule.perturbs
        self.policy.n_baseline_passes = self.n_baseline_passes
        xp, with_memory = self.policy.xp, self._layers_with_memory()
        if self.policy.refresh():
            self.policy.optimizer.zero_grad()  # frozen parameters must not change by an old gradient
            self._forget_steps()
        if self.policy.xp is not xp or self._layers_with_memory() != with_memory:
            self._forget_episodes()
        check_optimizer(self.policy, self.vf_coef)
        if self.rollout_buffer.buffer_size != self.n_steps or self._rule_of_steps is not type(self.rule):
            self._forget_steps()

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        self.refresh()
        if reset_num_timesteps or self._last_obs is None:
            self._forget_episodes()
            self.predictor.restart()
        setup = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        self.policy.set_training_mode(False)
        self._last_obs = map_observations(np.array, self._last_obs)  # a copy: some environments reuse their arrays
        check_finite(self._last_obs, np.zeros(self.n_envs), self.num_timesteps)
        warn_of_endless_trials(self.env)
        if self.policy.n_states == 0:
            warn_of_missing_memory(self.env)
        return setup

    def dump_logs(self, iteration: int = 0) -> None:
        head = self.policy.actor.head
        if isinstance(head, GaussianHead):
            self.logger.record("train/std", head.log_std.weight.detach().exp().mean().item())
        super().dump_logs(iteration)

    def set_random_seed(self, seed: int | None = None) -> None:
        super().set_random_seed(seed)
        policy = vars(self).get("policy")
        if seed is not None and isinstance(policy, NoisyPolicy):
            policy.generator = np.random.default_rng(seed)

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        check("policy", policy_name, policy_name in self.policy_aliases, f"one of {tuple(self.policy_aliases)}")
        return self.policy_aliases[policy_name]

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """
        Load the parameters of another model, as in Stable-Baselines3, and reset the traces and hidden states.

        :param load_path_or_dict: File of a model, or the result of ``get_parameters``
        :param exact_match: Whether the names must be exactly those of the policy and its optimizer
        :param device: Device on which to load the parameters of a file
        """
        try:
            super().set_parameters(load_path_or_dict, exact_match, device)
        finally:  # missing names raise an error only after the other parameters are replaced
            self._forget_episodes()

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "watchers": []}  # watchers belong to the training of the original model
        state.pop("_logger", None)  # it has open files, and ``learn`` makes a new one
        state["_custom_logger"] = False
        env, wrappers = unwrap_env(self.env)
        return {**state, "env": env, "_vec_normalize_env": None, "_wrappers": wrappers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        wrappers = state.pop("_wrappers")
        vars(self).update(state)
        self.env = wrap_env(self.env, wrappers)
        self._vec_normalize_env = None if self.env is None else unwrap_vec_normalize(self.env)

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "traces",
            "watchers",
            "_rule_of_steps",
            "_carry",
            "_last_states",
            "_draws",
        ]

    def save(
        self,
        path: str | pathlib.Path | Any,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save to a zip file, as in Stable-Baselines3, but atomically: an interrupted save leaves the old file. Traces,
        and the noise that correlated actions go on from, are not saved, since loading resets the environments. The
        state of the actions' random generator is saved, and loading restores it. The states of PyTorch's random
        generator, which draws the noise, and of the environments' are not saved. Loading a model that has a seed seeds
        these again, as in Stable-Baselines3.

        :param path: File to write, with ``.zip`` added if it has no suffix; or a binary stream
        :param exclude: Names of attributes to leave out
        :param include: Names of attributes to save that are left out by default
        """
        self._saved_as = self._names()
        self._saved_generator = self.seed, self.policy.generator
        save_atomically(super().save, path, exclude, include)
