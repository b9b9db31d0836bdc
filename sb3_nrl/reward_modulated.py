"""The loop that all algorithms share: act, let steps wait, fold them into traces, modulate the traces by the reward.

Shapes: T pending steps, E environments, S noise samples, B rows of a batch, N nodes of the network.
"""

import math
import os
import pathlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv

from sb3_nrl.arrays import Array
from sb3_nrl.checks import check, is_count, is_number
from sb3_nrl.networks import TorchNetwork, make_network
from sb3_nrl.policies import NoisyCnnPolicy, NoisyMultiInputPolicy, NoisyPolicy
from sb3_nrl.reward_prediction import (
    DEFAULT_LAMBDA,
    PREDICTION_DEFAULTS,
    REWARD_TIMINGS,
    RunningAverage,
    temporal_differences,
)
from sb3_nrl.traces import EligibilityTraceBuffer, PendingSteps

_MAX_NODES_AT_ONCE = 2**20
"""Nodes, over all rows, of one batch of noisy passes: keeps it within a processor's cache, and bounds the memory."""

_MAX_LEARNING_RATE = 1e30
"""What optimizers can still compute with in single precision."""

_OBSERVATION_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

SelfRewardModulated = TypeVar("SelfRewardModulated", bound="RewardModulatedAlgorithm")


class RewardModulatedAlgorithm(OnPolicyAlgorithm):
    """
    Three-factor learning: W ← W + η δ e at every reward time, with e = Σ post ⊗ pre since the last one; with a critic,
    W ← W + η Σ δ e over ``n_steps`` steps, or fewer at the end of a training, each of which is a reward time.

    Subclasses say what the post-synaptic factor is. For the parameters see them; all parameters here are theirs.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": NoisyPolicy,
        "CnnPolicy": NoisyCnnPolicy,
        "MultiInputPolicy": NoisyMultiInputPolicy,
    }
    _acts_with_noise: ClassVar[bool] = False
    """Whether actions are chosen by a noisy pass, whose very noise is credited."""
    policy: NoisyPolicy  # type: ignore[assignment]
    rollout_buffer: EligibilityTraceBuffer  # type: ignore[assignment]
    network: TorchNetwork
    reward_predictor: RunningAverage | None
    """None if a critic predicts, which is a part of the policy."""

    def __init__(
        self,
        policy: str | type[NoisyPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule,
        n_steps: int,
        reward_prediction: str,
        reward_timing: str | None,
        reward_smoothing: float | None,
        scale_rpe: bool | None,
        gamma: float | None,
        ent_coef: float,
        vf_coef: float,
        trace_decay: float | None,
        max_grad_norm: float | None,
        stats_window_size: int,
        tensorboard_log: str | None,
        policy_kwargs: dict[str, Any] | None,
        verbose: int,
        seed: int | None,
        device: th.device | str,
    ) -> None:
        super().__init__(
            policy,  # type: ignore[arg-type]
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,  # type: ignore[arg-type]
            gae_lambda=1.0,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,  # type: ignore[arg-type]
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        self.reward_prediction = reward_prediction
        self.reward_timing: Any = reward_timing
        self.reward_smoothing: Any = reward_smoothing
        self.scale_rpe: Any = scale_rpe
        self.trace_decay: Any = trace_decay
        del self.gae_lambda  # trace_decay is in its place
        self._deviations: np.ndarray | None = None

    @abstractmethod
    def _credit(self, steps: PendingSteps) -> tuple[Array, list[Array]]:
        """
        The algorithm: form the two factors of the eligibility trace, for S samples of B = T · E pending steps.

        :param steps: The steps
        :return: The post-synaptic factor of each node, shape (S · B, N), and the pre-synaptic activity that each layer
            received
        """

    def _policy_noise(self) -> dict[str, Any]:
        """The policy's arguments about noise."""
        return {}

    @property
    def _has_critic(self) -> bool:
        return self.reward_prediction == "critic"

    @property
    def decay(self) -> float:
        """Factor per step on the traces: ``trace_decay``, or what it is by default."""
        if self.trace_decay is None:
            return DEFAULT_LAMBDA * self.gamma if self._has_critic else 1.0
        return self.trace_decay

    @property
    def _n_samples(self) -> int:
        """Noisy passes S that each step is credited by."""
        return 1

    def _take_defaults(self) -> None:
        """Replace what is None by what suits who predicts rewards."""
        if self.reward_prediction in tuple(PREDICTION_DEFAULTS):
            for name, value in PREDICTION_DEFAULTS[self.reward_prediction].items():
                if getattr(self, name) is None:
                    setattr(self, name, value)

    def _check_arguments(self) -> None:
        check("n_steps", self.n_steps, is_count(self.n_steps), "a whole number of steps, at least 1")
        prediction = self.reward_prediction
        predictions = tuple(PREDICTION_DEFAULTS)
        check("reward_prediction", prediction, prediction in predictions, f"one of {predictions}")
        same = "reward_predictor" not in vars(self) or (self.reward_predictor is None) == self._has_critic
        check("reward_prediction", prediction, same, "what it was when the model was made")
        check("reward_timing", self.reward_timing, self.reward_timing in REWARD_TIMINGS, f"one of {REWARD_TIMINGS}")
        gamma, decay, entropy, coefficient = self.gamma, self.trace_decay, self.ent_coef, self.vf_coef
        check("gamma", gamma, gamma == 0 or is_number(gamma, 0, 1), "in [0, 1]")
        check("ent_coef", entropy, entropy == 0 or is_number(entropy, 0), "finite and not negative")
        check("vf_coef", coefficient, is_number(coefficient, 0), "positive and finite")
        if self._has_critic:
            with_critic = ' with reward_prediction="critic"'
            check("reward_timing", self.reward_timing, self.reward_timing == "step", f'"step"{with_critic}')
            for name in ("reward_smoothing", "scale_rpe"):
                check(name, getattr(self, name), getattr(self, name) is None, f"None{with_critic}")
            fading = decay is None or decay == 0 or is_number(decay, 0, gamma)
            wanted = f"in [0, {gamma}], at most gamma,{with_critic} (None makes it {DEFAULT_LAMBDA} gamma)"
            check("trace_decay", decay, fading, wanted)
        else:
            with_average = ' with reward_prediction="average"'
            smoothing, scale = self.reward_smoothing, self.scale_rpe
            check("reward_smoothing", smoothing, is_number(smoothing, 0, 1), "in (0, 1]")
            check("scale_rpe", scale, isinstance(scale, bool), "True or False")
            check("gamma", gamma, gamma == 1, f"1{with_average}")
            check("ent_coef", entropy, entropy == 0, f"0{with_average}")
            check("vf_coef", coefficient, coefficient == 1, f"1{with_average}")
            check("trace_decay", decay, decay is None or is_number(decay, 0, 1), "in (0, 1]")
            lasting = self.reward_timing != "step" or self.decay == 1
            check("trace_decay", decay, lasting, '1 with reward_timing="step" and a running average')
        norm = self.max_grad_norm
        check("max_grad_norm", norm, norm is None or is_number(norm, 0), "positive, or None for no clipping")
        for rate in (self.lr_schedule(progress) for progress in (1.0, 0.5, 0.0)):
            check("learning_rate", rate, 0 <= rate < math.inf, "finite and not negative")
        own = self._policy_noise()
        for argument in set(self.policy_kwargs) & {"noise_std", "noise_distribution", "clean_passes"}:
            reason = f"{'an argument of' if argument in own else 'of no use to'} {type(self).__name__} itself"
            check("policy_kwargs", self.policy_kwargs, False, f"without {argument}, {reason}")
        plain = "critic" not in self.policy_kwargs
        check("policy_kwargs", self.policy_kwargs, plain, 'without critic, which reward_prediction="critic" makes')
        window = self._stats_window_size
        check("stats_window_size", window, is_count(window), "a whole number of episodes, at least 1")
        noisy = issubclass(self.policy_class, NoisyPolicy)
        check("policy", self.policy_class, noisy, "a name or a subclass of sb3_nrl.policies.NoisyPolicy")
        space = self.observation_space
        of_keys = space.spaces.items() if isinstance(space, spaces.Dict) else ()
        parts = {f"observation_space[{key!r}]": part for key, part in of_keys} or {"observation_space": space}
        supported = all(isinstance(part, _OBSERVATION_SPACES) for part in parts.values())
        check("observation_space", space, supported, "Box, Discrete, MultiDiscrete, MultiBinary, or a Dict of these")
        for name, part in (*parts.items(), ("action_space", self.action_space)):
            plain = not np.any(getattr(part, "start", 0)) and np.ndim(getattr(part, "nvec", 0)) <= 1
            check(name, part, plain, "numbered from 0 and of one dimension, which a wrapper can make it")

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self._take_defaults()
        self._check_arguments()
        self.set_random_seed(self.seed)
        self.rollout_buffer = EligibilityTraceBuffer(self.n_steps, self.n_envs)
        previous = vars(self).get("reward_predictor")
        self.reward_predictor = None if self._has_critic else RunningAverage(self.n_envs, previous)
        self.policy = self.policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            critic=self._has_critic,
            **self._policy_noise(),
            **self.policy_kwargs,
        ).to(self.device)  # type: ignore[assignment]
        self.network = make_network(self.policy)
        self._maybe_recommend_cpu(NoisyPolicy.__name__)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        self._check_arguments()
        if self.rollout_buffer.n_steps != self.n_steps:
            self.rollout_buffer = EligibilityTraceBuffer(self.n_steps, self.n_envs)
        self._take_over_changes()
        if reset_num_timesteps or self._last_obs is None:
            self.rollout_buffer.reset()
            self._deviations = None
            if self.reward_predictor is not None:
                self.reward_predictor.restart()
        setup = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        self.policy.set_training_mode(False)
        self._check_finite(self._last_obs, np.zeros(self.n_envs))
        return setup

    def _heed_changes(self) -> None:
        """Look whether somebody, such as a callback, changed the noise or the policy."""
        self._hand_over_noise()
        if self.network.policy is not self.policy or self.network.is_outdated():
            self._take_over_changes()

    def _take_over_changes(self) -> None:
        """Let what somebody changed have its effect: arguments, and the policy's layers."""
        self._hand_over_noise()
        if self.policy.find_layers():
            self.policy.optimizer.zero_grad()  # what is frozen now must not move by an old gradient
            self.rollout_buffer.reset()
        self.network = make_network(self.policy)
        if self.rollout_buffer.trace_EW is not None:
            self.rollout_buffer.trace_EW = self.network.array(self.rollout_buffer.trace_EW)
        groups = self.policy.optimizer.param_groups
        heeded = self.vf_coef == 1 or any(group.get("critic") for group in groups)
        check("vf_coef", self.vf_coef, heeded, '1 as long as no group of policy.optimizer has "critic": True')
        optimized = {id(parameter) for group in groups for parameter in group["params"]}
        for name, parameter in self.policy.named_parameters():
            if parameter.requires_grad and id(parameter) not in optimized:
                raise ValueError(f"The parameter '{name}' would never learn: it is not in policy.optimizer.")

    def _hand_over_noise(self) -> None:
        for name, value in self._policy_noise().items():
            if getattr(self.policy, name) != value:
                self._check_arguments()
                setattr(self.policy, name, value)

    def set_random_seed(self, seed: int | None = None) -> None:
        super().set_random_seed(seed)
        if seed is not None and "policy" in vars(self):
            self.policy.generator = np.random.default_rng(seed)

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """
        Take over the parameters of another model, as in Stable-Baselines3, and drop the traces, which are of these.

        :param load_path_or_dict: File of a model, or what ``get_parameters`` gives
        :param exact_match: Whether to refuse parameters that are not of the policy and its optimizer, or only of some
        :param device: Where to load a file's parameters
        """
        try:
            super().set_parameters(load_path_or_dict, exact_match, device)
        finally:  # it complains of missing names after it has replaced the others
            self.rollout_buffer.reset()

    def learn(
        self: SelfRewardModulated,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfRewardModulated:
        """
        Train, as in Stable-Baselines3. After an error or an interruption, the next training starts with a reset of the
        environments.

        :param total_timesteps: Number of environment steps
        :param callback: Callback(s), called at every step
        :param log_interval: Number of iterations between logs; an iteration ends after ``n_steps`` steps or,
            without a critic, at a reward time of any environment
        :param tb_log_name: Name of the TensorBoard run, the algorithm's name by default
        :param reset_num_timesteps: Whether to count steps from 0 and to reset the environments, or to go on
        :param progress_bar: Whether to show a progress bar
        :return: The trained model
        :raises ValueError: If an observation or a reward is not finite
        :raises FloatingPointError: If learning diverged; the model keeps its last finite weights
        """
        try:
            return super().learn(
                total_timesteps,
                callback,
                log_interval,
                tb_log_name or type(self).__name__,
                reset_num_timesteps,
                progress_bar,
            )
        except BaseException:  # half of a step or of an update is no good to go on from
            self._last_obs = None
            raise
        finally:
            self.rollout_buffer.watchers.clear()

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: EligibilityTraceBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Step the environments until a reward time comes to one of them, no further step can wait, or training ends.

        :param env: The training environments
        :param callback: Called at each step, and at the beginning and end
        :param rollout_buffer: Where the steps wait
        :param n_rollout_steps: Stable-Baselines3's; ``rollout_buffer`` knows how many steps can wait
        :return: Whether to go on training
        """
        callback.on_rollout_start()
        bounds = (self.action_space.low, self.action_space.high) if isinstance(self.action_space, spaces.Box) else None
        self._heed_changes()
        # What a stopped training left: a critic's window is to be filled, a reward time is not to be passed over.
        predictor = self.reward_predictor
        going_on, rewarded = True, predictor is not None and bool(predictor.due.any())
        while going_on and not rewarded and not rollout_buffer.full and self.num_timesteps < self._total_timesteps:
            noise = self.network.sample_noise(self.n_envs) if self._acts_with_noise else None
            obs = cast("np.ndarray | dict[str, np.ndarray]", self._last_obs)
            actions, log_probs = self.network.act(obs, noise, self._deviate())
            clipped_actions = (
                actions if bounds is None else np.clip(actions.reshape(-1, *self.action_space.shape), *bounds)  # type: ignore[misc]
            )

            new_obs, rewards, dones, infos = env.step(clipped_actions)
            dones = dones.astype(bool)  # a copy: some environments use theirs again
            self.num_timesteps += env.num_envs
            self._check_finite(new_obs, rewards)

            n_resets = rollout_buffer.n_resets
            callback.update_locals(locals())
            going_on = callback.on_step()
            self._update_info_buffer(infos, dones)

            if predictor is None:
                rewards = rewards.astype(float) - self.ent_coef * log_probs
                if dones.any():
                    rewards += self._bootstrap(dones, infos)
            else:
                rewarded = predictor.observe(rewards, dones, self.reward_timing)
            if rollout_buffer.n_resets == n_resets:  # else this step, too, was made with parameters that are no more
                noise = None if noise is None else self.network.numpy(noise)
                rollout_buffer.add(obs, actions, log_probs, rewards, dones, noise)
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones
        if going_on:
            callback.update_locals(locals())
            callback.on_rollout_end()
        return going_on

    def _deviate(self) -> np.ndarray | None:
        """How far actions in a Box space are to be from their means, in standard deviations, shape (E, A)."""
        if not isinstance(self.action_space, spaces.Box):
            return None
        shape = (self.n_envs, get_action_dim(self.action_space))
        new = self.policy.generator.standard_normal(shape, dtype=np.float32)
        correlation = float(self.policy.action_correlation)  # NumPy's would make single precision double
        if correlation > 0 and self._deviations is not None:
            new = correlation * self._deviations + math.sqrt(1 - correlation**2) * new
        self._deviations = new
        return new

    def _bootstrap(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        """γ V(s) of the last observation of each episode that a time limit ended, else 0, shape (E,)."""
        coming = np.zeros(self.n_envs)
        envs = [int(env) for env in np.flatnonzero(dones) if infos[env].get("TimeLimit.truncated", False)]
        lasts = {env: infos[env]["terminal_observation"] for env in envs if "terminal_observation" in infos[env]}
        if lasts:
            obs = _stack(list(lasts.values()))
            self._check_finite(obs, np.zeros(len(lasts)), list(lasts))
            coming[list(lasts)] = self.gamma * self._predict_values(obs)
        return coming

    @np.errstate(all="ignore")  # what is not finite is refused by name
    def train(self) -> None:
        """
        Fold the waiting steps into the traces and, where a reward time has come, let the reward prediction error turn
        the traces into a weight change (Eq. 16). Without a critic nothing happens before a reward time comes or
        ``n_steps`` steps wait.
        """
        self._update_learning_rate(self.policy.optimizer)
        self._heed_changes()
        buffer, predictor = self.rollout_buffer, self.reward_predictor
        if predictor is not None and not buffer.full and not predictor.due.any():
            return
        if buffer.pos == 0:  # the steps were dropped, their rewards were not
            if predictor is not None:
                predictor.errors(self.reward_timing, self.reward_smoothing, self.scale_rpe)
            return
        errors_TE, restarts_TE = self._errors()
        change_W, trace_norm = buffer.fold(
            self._credit, self.network, self._n_at_once, self.decay, errors_TE, restarts_TE
        )
        n_errors = errors_TE.size if predictor is None else np.count_nonzero(restarts_TE)
        if n_errors > 0:
            update_norm = self._step(change_W)
            self._n_updates += 1
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            if predictor is not None:
                self.logger.record("train/reward_prediction", predictor.prediction)
            self.logger.record_mean("train/rpe", errors_TE.sum() / n_errors)
            self.logger.record_mean("train/trace_norm", trace_norm)
            self.logger.record_mean("train/update_norm", update_norm)

    @property
    def _n_at_once(self) -> int:
        """Steps whose passes fit into one batch."""
        nodes_per_step = self._n_samples * self.n_envs * self.policy.perturbation.n_nodes
        return max(1, _MAX_NODES_AT_ONCE // nodes_per_step)

    def _errors(self) -> tuple[np.ndarray, np.ndarray]:
        """δ of the waiting steps, 0 where no reward counts, and after which of them traces start anew; shape (T, E)."""
        buffer, predictor = self.rollout_buffer, self.reward_predictor
        if predictor is None:
            rewards_TE, dones_TE = buffer.outcomes()
            values_TE = self._values_of_window()
            errors_TE = temporal_differences(rewards_TE, dones_TE, values_TE, self.gamma)
            seen = values_TE[:-1]
            self.logger.record("train/reward_prediction", float(seen.mean()))
            self.logger.record_mean("train/value_loss", float((errors_TE * errors_TE).mean()))
            self.logger.record("train/explained_variance", explained_variance(seen.ravel(), (seen + errors_TE).ravel()))
            return errors_TE, dones_TE
        errors_TE, restarts_TE = np.zeros((buffer.pos, self.n_envs)), np.zeros((buffer.pos, self.n_envs), dtype=bool)
        errors_TE[-1], restarts_TE[-1] = predictor.errors(self.reward_timing, self.reward_smoothing, self.scale_rpe)
        return errors_TE, restarts_TE

    def dump_logs(self, iteration: int = 0) -> None:
        if isinstance(self.action_space, spaces.Box):
            self.logger.record("train/std", self.policy.log_std_net.weight.detach().exp().mean().item())
        super().dump_logs(iteration)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        # The last step of several environments may go beyond the end, where no schedule is defined.
        self._current_progress_remaining = max(self._current_progress_remaining, 0.0)

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        for group in self.policy.optimizer.param_groups:
            if group.get("critic"):
                group["lr"] *= self.vf_coef

    def _values_of_window(self) -> np.ndarray:
        """V of what was observed at the T waiting steps, and after the last, shape (T + 1, E)."""
        buffer, n_at_once = self.rollout_buffer, self._n_at_once
        batches = (buffer.waiting(self.network, slice(t, t + n_at_once)) for t in range(0, buffer.pos, n_at_once))
        values = [self._predict_values(batch.observations) for batch in batches]
        return np.concatenate([*values, self._predict_values(self._last_obs)]).reshape(-1, self.n_envs)

    def _predict_values(self, obs: Any) -> np.ndarray:
        return self.network.numpy(self.network.values(obs))

    def _step(self, change_W: Array) -> float:
        """
        Give the optimizer -Σ δ e for a gradient.

        :param change_W: Σ δ e for all weights, shape (W,)
        :return: Its norm, before clipping
        :raises FloatingPointError: If a weight would not be finite; all weights are then as before, and the optimizer's
            moments start anew
        """
        changes = [change_W[part.weights] for part in self.policy.parts]
        norms = [math.sqrt(float((change * change).sum())) for change in changes]
        norm = math.hypot(*norms)
        for part, change, own_norm in zip(self.policy.parts, changes, norms, strict=True):
            bound = self.max_grad_norm
            clipping = 1.0 if bound is None or own_norm <= bound else bound / own_norm
            self.network.gradient_W[part.weights] = change * -clipping
        for parameter, gradient in zip(self.policy.perturbation.parameters, self.network.gradients, strict=True):
            parameter.grad = gradient
        before = deepcopy(self.network.weights())
        rate = max(group["lr"] for group in self.policy.optimizer.param_groups)
        finite = math.isfinite(norm) and rate < _MAX_LEARNING_RATE
        if finite:
            with th.no_grad():
                self.policy.optimizer.step()
            finite = all(math.isfinite(values.sum()) for values in self.network.weights())
        if not finite:
            for values, values_before in zip(self.network.weights(), before, strict=True):
                values[...] = values_before
            self.policy.optimizer.state.clear()  # moments may hold the refused change
            wanted_rate = self.lr_schedule(self._current_progress_remaining)
            raise FloatingPointError(
                f"Update {self._n_updates + 1} was refused: it would make weights infinite or NaN. The model keeps its "
                f"last finite weights. Lower learning_rate (now {wanted_rate:g}) or set a lower max_grad_norm."
            )
        return norm

    def _check_finite(self, obs: Any, rewards: np.ndarray, envs: Sequence[int] | None = None) -> None:
        """
        Refuse what would spoil the weights.

        :param obs: Observations, a row for each environment
        :param rewards: Rewards, as many
        :param envs: The environments, by default all
        :raises ValueError: If an observation or a reward is not finite, with the environment and the step
        """
        named = {f"observation[{key!r}]": obs[key] for key in obs} if isinstance(obs, dict) else {"observation": obs}
        for name, values in (("reward", rewards), *named.items()):
            # The sum of squares is the quickest to tell; it is infinite also where finite numbers are huge.
            if values.dtype.kind == "f" and not math.isfinite(np.vdot(values, values)):
                if np.isfinite(values).all():
                    continue
                row, *place = (int(index) for index in np.argwhere(~np.isfinite(values))[0])
                env = row if envs is None else envs[row]
                raise ValueError(
                    f"Environment {env} gave {values[(row, *place)]} as {name}{place or ''} at step "
                    f"{self.num_timesteps}: must be finite"
                )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "network"]

    def save(
        self,
        path: str | pathlib.Path | Any,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save to a zip file, as in Stable-Baselines3, but whole or not at all: an interrupted save leaves the file of
        before. Traces in flight are not saved, since loading resets the environments.

        :param path: File to write, with ``.zip`` added if it has no suffix; or a binary stream
        :param exclude: Names of attributes to leave out
        :param include: Names of attributes to save although they would be left out
        """
        if not isinstance(path, str | pathlib.Path):
            super().save(path, exclude, include)
            return
        path = pathlib.Path(path)
        if path.suffix == "":
            path = path.with_name(f"{path.name}.zip")
        path = path.resolve()  # a link stays one
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            super().save(unfinished, exclude, include)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def _stack(observations: list[Any]) -> Any:
    """A batch of observations, each an array or a dictionary of arrays."""
    if isinstance(observations[0], dict):
        return {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
    return np.stack(observations)
