"""The training loop that all algorithms share.

It acts, computes eligibilities, sums them in traces, and multiplies the traces by the reward prediction error.

Shapes: T steps of a window, E environments, N nodes of the network, W weights and biases that learn.
"""

import inspect
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv
from typing_extensions import Self

from sb3_nrl.arguments import SharedArguments
from sb3_nrl.arrays import Array, Observations, keep_freed_memory, map_observations
from sb3_nrl.buffers import RolloutBuffer, RolloutWindow
from sb3_nrl.checks import check, check_finite, name_the_largest, refuse_unknown
from sb3_nrl.model_setup import ModelSetup
from sb3_nrl.policies import NoisyPolicy
from sb3_nrl.replay import replays
from sb3_nrl.reward_prediction import RewardPrediction, RewardTiming
from sb3_nrl.rules import LearningRule, eligibilities
from sb3_nrl.updates import Update, apply_update

_MAX_NODES_PER_BATCH = 2**20
"""Nodes, over all rows, of one batch of passes: keeps it within a processor's cache, and bounds the memory."""


class ThreeFactorAlgorithm(ModelSetup):
    """
    Three-factor learning, W ← W + η Σ δ · trace. A learning rule computes the eligibility of each synapse, traces sum
    the eligibilities over time, and the reward prediction error δ turns the traces into weight changes (Eq. 16).

    ``NRL``, ``RMHL`` and ``BPTT`` are this algorithm with different learning rules. Use it directly with a
    :class:`~sb3_nrl.LearningRule` of your own.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, another name in ``policy_aliases``, or a
        subclass of :class:`~sb3_nrl.policies.NoisyPolicy`
    :param env: Environment, or its registered name
    :param learning_rate: Learning rate η, or a function of the remaining progress (from 1 to 0)
    :param rule: Learning rule (required)
    :param n_steps: Steps of each environment per window. With a critic, weights change after each window, and traces
        last across windows. With a running average, weights change when a reward counts, and the window only limits the
        memory. Without ``norm_obs`` and without a recurrent policy, it then affects results only by rounding and by the
        order of random numbers. By default 128 divided by the number of environments, but at least 8; with images,
        ``Dict`` observations, memory or spikes 32
    :param reward_prediction: ``"critic"``: a critic network, with temporal-difference errors
        (:class:`~sb3_nrl.reward_prediction.TDCritic`). ``"average"``: a running average of the rewards
        (:class:`~sb3_nrl.reward_prediction.RunningAverage`)
    :param n_epochs: Critic only: number of updates by each window. Those after the first use its steps again, without
        traces of earlier windows, by PPO's clipped objective. They cost computation, and can save environment steps
    :param clip_range: With ``n_epochs`` > 1: how far the ratio of new and old probabilities may be from 1, as in PPO
    :param gamma: Critic only: discount γ in [0, 1], 0.99 by default
    :param ent_coef: Critic only: entropy bonus, adds −ent_coef · log π(a|s) to each reward, against premature
        convergence
    :param vf_coef: Critic only: the critic's learning rate as a multiple of the actor's, 5 by default
    :param reward_timing: Running average only: when rewards count, ``"episode"`` (at its end, the default),
        ``"nonzero"`` (at every reward other than 0, and at the end) or ``"step"`` (at every step)
    :param reward_smoothing: Running average only: its step α in (0, 1] (λ in Eq. 15), 0.66 by default
    :param scale_rpe: Running average only: whether to divide δ by the size of the reward, True by default. True suits
        returns of one sign and of different sizes, as in CartPole and Acrobot. Use False if rewards can be close to 0
    :param trace_decay: Factor per step on the traces. With a critic it is γλ of TD(λ), in [0, γ], 0.95 γ by default;
        with a running average it is in (0, 1], 1 by default
    :param gae_lambda: λ in [0, 1], as in A2C and PPO, to be given instead of ``trace_decay``, which is then γλ
    :param max_grad_norm: Bound on the norm of the update, for actor and critic separately; None for no bound. With the
        default most updates are clipped
    :param norm_obs: Whether actor and critic normalise observations by their running mean and standard deviation. The
        statistics are saved with the model, and ``predict`` uses them. The first window changes no weight, and no
        window does until 32 observations have been seen
    :param norm_reward: Critic only: whether to divide rewards by the running standard deviation of the discounted
        return, True by default
    :param stats_window_size: Number of episodes that the logged return and length are averaged over
    :param tensorboard_log: Folder for TensorBoard, None for no log
    :param policy_kwargs: Arguments of the policy, see :class:`~sb3_nrl.policies.NoisyPolicy`
    :param verbose: 0 for no output, 1 for information, 2 for debug messages
    :param seed: Seed of all random numbers
    :param device: ``"cpu"``, ``"cuda"``, ... or ``"auto"``
    :param _init_setup_model: Whether to build the networks at once
    :raises ValueError: If an argument is out of range. The message has its name and the valid values
    """

    shared_defaults: ClassVar[SharedArguments] = {}
    """Defaults of a subclass that differ from those of this constructor."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Add the shared arguments, which a subclass's constructor takes as ``**shared``, to its signature."""
        super().__init_subclass__(**kwargs)
        _, *own = inspect.signature(cls.__init__).parameters.values()
        if own and own[-1].kind is inspect.Parameter.VAR_KEYWORD:
            parameters = inspect.signature(ThreeFactorAlgorithm).parameters
            shared = [
                parameters[name].replace(
                    kind=inspect.Parameter.KEYWORD_ONLY,
                    default=cls.shared_defaults.get(name, parameters[name].default),
                )
                for name in SharedArguments.__annotations__
            ]
            cls.__signature__ = inspect.Signature([*own[:-1], *shared])  # type: ignore[attr-defined]

    def __init__(
        self,
        policy: str | type[NoisyPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-3,
        rule: LearningRule | None = None,
        *,
        n_steps: int | None = None,
        n_epochs: int = 1,
        clip_range: float | Schedule = 0.2,
        reward_prediction: RewardPrediction = "critic",
        gamma: float | None = None,
        ent_coef: float = 0.0,
        vf_coef: float | None = None,
        reward_timing: RewardTiming | None = None,
        reward_smoothing: float | None = None,
        scale_rpe: bool | None = None,
        trace_decay: float | None = None,
        gae_lambda: float | None = None,
        max_grad_norm: float | None = 0.5,
        norm_obs: bool = True,
        norm_reward: bool | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self).__name__, unknown)
        super().__init__(
            policy,  # type: ignore[arg-type]
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,  # type: ignore[arg-type]
            gamma=gamma,  # type: ignore[arg-type]
            gae_lambda=gae_lambda,  # type: ignore[arg-type]
            ent_coef=ent_coef,
            vf_coef=vf_coef,  # type: ignore[arg-type]
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
        self.rule = rule  # type: ignore[assignment]  # checked with the other arguments
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.reward_prediction = reward_prediction
        self.reward_timing = reward_timing
        self.reward_smoothing = reward_smoothing
        self.scale_rpe = scale_rpe
        self.trace_decay = trace_decay
        self.norm_obs = norm_obs
        self.norm_reward = norm_reward
        if _init_setup_model:
            self._setup_model()

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        check("env", env, not isinstance(env, VectorEnv), "wrapped as GymnasiumVecEnv(env): it is a VectorEnv")
        return ModelSetup._wrap_env(env, verbose, monitor_wrapper)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """
        Train, as in Stable-Baselines3.

        Changes to the model's arguments and to the policy's layers take effect at the start of this call. After an
        error or an interruption, the next training starts with a reset of the environments.

        :param total_timesteps: Number of environment steps
        :param callback: Callback(s), called at every step
        :param log_interval: Number of iterations between logs; an iteration is one window
        :param tb_log_name: Name of the TensorBoard run, the algorithm's name by default
        :param reset_num_timesteps: Whether to count steps from 0 and to reset the environments. If False, training
            continues
        :param progress_bar: Whether to show a progress bar
        :return: The trained model
        :raises ValueError: If an observation or a reward is not finite
        :raises FloatingPointError: If learning diverged; the model keeps its last finite weights
        """
        keep_freed_memory()
        try:
            return super().learn(
                total_timesteps,
                callback,
                log_interval,
                tb_log_name or type(self).__name__,
                reset_num_timesteps,
                progress_bar,
            )
        except BaseException:
            self._last_obs = None  # the interrupted step or update left an inconsistent state: reset on the next learn
            raise
        finally:
            self.watchers.clear()

    def collect_rollouts(  # type: ignore[override]
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Step the environments until a reward counts, the window is full, or training ends.

        :param env: The training environments
        :param callback: Called at each step, and at the beginning and end
        :param rollout_buffer: Stores the steps
        :param n_rollout_steps: Not used: the buffer has the length of the window
        :return: Whether training continues
        """
        callback.on_rollout_start()
        policy, n_envs, space = self.policy, self.n_envs, self.action_space
        bounds, shape = ((space.low, space.high), space.shape) if isinstance(space, spaces.Box) else (None, ())
        zeros_E = np.zeros(n_envs, np.float32)
        going_on, rewarded = True, self.predictor.due  # an interrupted training may have left a reward that counts
        while going_on and not rewarded and not rollout_buffer.full and self.num_timesteps < self._total_timesteps:
            obs: Observations = self._last_obs
            if self._last_states is None and policy.n_states > 0:
                self._last_states = policy.array(np.zeros((n_envs, policy.n_states), np.float32))
            states, starts = self._last_states, self._last_episode_starts
            assert starts is not None
            noise = policy.sample_noise(n_envs) if self.rule.acts_with_noise else None
            draws = policy.action_dist.draw_correlated(policy.generator, n_envs, policy.action_correlation, self._draws)
            try:
                actions, log_probs, new_states = policy.act(obs, draws, noise, states, starts)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error} {name_the_largest(obs)}".rstrip()) from None
            clipped_actions = actions if bounds is None else np.clip(actions.reshape(n_envs, *shape), *bounds)

            new_obs, rewards, dones, infos = env.step(clipped_actions)
            # Copies, since some environments reuse their arrays. Rewards are in single precision, as in
            # Stable-Baselines3, so that all types of VecEnv give the same results.
            new_obs, dones = map_observations(np.array, new_obs), dones.astype(bool)
            self.num_timesteps += n_envs
            check_finite(new_obs, rewards, self.num_timesteps)
            rewards = rewards.astype(np.float32)

            values = {"actions": actions, "log_probs": log_probs, "rewards_TE": rewards, "dones_TE": dones}
            values["terminal_values_TE"] = zeros_E
            has_ended = np.count_nonzero(dones) > 0
            if has_ended:
                values["terminal_values_TE"] = self.predictor.values_after_time_limits(
                    policy, dones, infos, new_states, self.num_timesteps
                )
            if noise is not None:
                values["noise"] = policy.numpy(noise)
            rollout_buffer.add(obs, states, starts, values)
            self._last_states, self._draws = new_states, draws
            rewarded = self.predictor.observe(rewards, dones, infos)  # a callback's refresh() makes another one
            self._last_obs, self._last_episode_starts = new_obs, dones

            callback.update_locals(locals())
            going_on = callback.on_step()
            if has_ended:
                ended = np.flatnonzero(dones)
                self._update_info_buffer([infos[env] for env in ended], dones[ended])
        if going_on:
            callback.update_locals(locals())
            callback.on_rollout_end()
        return going_on

    @th.no_grad()
    @np.errstate(all="ignore")  # values that are not finite raise an error with a message
    def train(self) -> None:
        """
        Update the weights by the steps of a window: reward prediction errors, eligibility, traces, weight change.
        """
        self._update_learning_rate(self.policy.optimizer)
        policy, predictor, buffer = self.policy, self.predictor, self.rollout_buffer
        if not predictor.is_ready(buffer.full):
            return
        if buffer.pos == 0:
            predictor.skip()
            return
        window = buffer.window(self._last_obs)
        if policy.normalizer is not None and not policy.normalizer.is_ready:
            policy.normalizer.update(window.observations)
            buffer.reset()
            predictor.skip()
            return
        n_steps = max(1, _MAX_NODES_PER_BATCH // (self.rule.n_passes * self.n_envs * max(1, policy.n_nodes)))
        errors = predictor.errors(policy, window, n_steps)
        if policy.n_states > 0:
            n_steps = self.rule.max_steps or window.n_steps  # what is cut loses the credit between its parts
        had_traces = self.traces.trace_EW is not None
        costs_W: list[Array] = []
        for piece in eligibilities(policy, self.rule, window, n_steps, self._carry):
            self._carry, steps = piece.carry, piece.steps
            of_steps = errors.errors_TE[steps], errors.restarts_TE[steps]
            update = self.traces.update(piece.eligibility, *of_steps, self.decay)
            if steps.start == 0:
                change_W: Array = update.change_W
            else:
                change_W += update.change_W
            if piece.cost_W is not None:
                costs_W.append(piece.cost_W)
            self._log_means(piece.diagnostics)
        shape, wanted = tuple(change_W.shape), (policy.n_weights,)
        check("shape of the rule's weighted_sum", shape, shape == wanted, f"{wanted}, a number for each weight")
        for watch in self.watchers:
            watch(Update(window, errors, change_W, had_traces))
        if errors.n_rewards > 0:
            for cost_W in costs_W:
                change_W = change_W - cost_W
            self._update_weights(change_W, window)
            for name, value in errors.diagnostics.items():
                self.logger.record(f"train/{name}", value)
            rpe, loss = errors.errors_TE.sum() / errors.n_rewards, window.log_probs.sum() / len(window.log_probs)
            self._log_means({"entropy_loss": float(loss), "rpe": rpe, "trace_norm": update.trace_norm})
            if self.n_epochs > 1:
                clip_range = FloatSchedule(self.clip_range)(self._current_progress_remaining)
                more = policy, self.rule, window, errors, self.decay, clip_range, n_steps, self.n_epochs - 1
                for change_W, diagnostics in replays(*more):
                    self._log_means(diagnostics)
                    self._update_weights(change_W, window)
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if policy.normalizer is not None:
            policy.normalizer.update(window.observations)
        buffer.reset()

    def _update_weights(self, change_W: Array, window: RolloutWindow) -> None:
        """Apply a weight change of a window."""
        update_norm = apply_update(self.policy, change_W, self.max_grad_norm, window)
        self._n_updates += 1
        self._log_means({"update_norm": update_norm})

    def _log_means(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.logger.record_mean(f"train/{name}", value)
