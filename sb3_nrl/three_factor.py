"""The loop that all algorithms share: act, form eligibilities, let traces keep them, modulate the traces by the reward.

Shapes: T steps of a window, E environments, N nodes of the network, W weights and biases that learn.
"""

import inspect
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_nrl import saving
from sb3_nrl.arrays import Array, Observations, map_observations
from sb3_nrl.buffers import RolloutBuffer, RolloutWindow
from sb3_nrl.checks import check, check_finite, check_spaces, is_count, is_number
from sb3_nrl.layers import GaussianHead
from sb3_nrl.policies import NoisyCnnPolicy, NoisyMultiInputPolicy, NoisyPolicy
from sb3_nrl.reward_prediction import PREDICTORS, RewardErrors, RewardPredictor, RunningAverage
from sb3_nrl.rules import LearningRule
from sb3_nrl.traces import EligibilityTraces
from sb3_nrl.updates import apply_update

_MAX_NODES_PER_BATCH = 2**20
"""Nodes, over all rows, of one batch of passes: keeps it within a processor's cache, and bounds the memory."""

_PREDICTOR_ARGUMENTS = {"gamma": 1.0, "ent_coef": 0.0, "reward_timing": None, "reward_smoothing": None, "scale_rpe": None}
"""Arguments that belong to one of the reward predictors, and their values where they mean nothing."""

SelfThreeFactor = TypeVar("SelfThreeFactor", bound="ThreeFactorAlgorithm")


class Update(NamedTuple):
    """
    An update of the weights, for those who watch (see ``ThreeFactorAlgorithm.watchers``).

    :param window: The steps that it learns from
    :param errors: Their reward prediction errors
    :param change_W: The weight change before clipping and learning rate
    """

    window: RolloutWindow
    errors: RewardErrors
    change_W: Array


class ThreeFactorAlgorithm(OnPolicyAlgorithm):
    """
    Three-factor learning, W ← W + η Σ δ · trace: a learning rule says what makes a synapse eligible, traces remember
    it, and the reward prediction error δ turns them into a weight change (Eq. 16).

    ``NRL``, ``RMHL`` and ``BPTT`` are this algorithm with a rule of theirs. With a rule of your own, a
    :class:`~sb3_nrl.LearningRule`, use it directly.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a subclass of
        :class:`~sb3_nrl.policies.NoisyPolicy`
    :param env: Environment, or its registered name
    :param rule: Learning rule
    :param learning_rate: Learning rate η, or a function of the remaining progress (from 1 to 0)
    :param n_steps: Steps of each environment per window. With a critic, weights change after each window, and traces
        last across windows. With a running average, weights change when a reward counts; the window then bounds the
        memory and changes results by rounding and the order of random numbers alone
    :param reward_prediction: ``"critic"``: a critic network, with temporal-difference errors
        (:class:`~sb3_nrl.reward_prediction.TDCritic`). ``"average"``: a running average of the rewards
        (:class:`~sb3_nrl.reward_prediction.RunningAverage`)
    :param gamma: Critic only: discount γ in [0, 1], 0.99 by default
    :param ent_coef: Critic only: entropy bonus, adds −ent_coef · log π(a|s) to each reward, against premature
        convergence
    :param vf_coef: Critic only: the critic's learning rate as a multiple of the actor's
    :param reward_timing: Running average only: when rewards count, ``"episode"`` (at its end, the default),
        ``"nonzero"`` (at every reward other than 0, and at the end) or ``"step"`` (at every step)
    :param reward_smoothing: Running average only: λ in (0, 1] of the average (Eq. 15), 0.66 by default
    :param scale_rpe: Running average only: whether to divide δ by the size of the reward, True by default. It suits
        returns of one sign that vary much, as in CartPole and Acrobot; switch it off where rewards come close to 0
    :param trace_decay: Factor per step on the traces. With a critic it is γλ of TD(λ), in [0, γ], 0.95 γ by default;
        with a running average it is in (0, 1], 1 by default
    :param max_grad_norm: Bound on the norm of the update, of actor and critic each, None for none. Most updates reach
        the default, so that the scale of rewards hardly matters
    :param stats_window_size: Number of episodes that the logged return and length are averaged over
    :param tensorboard_log: Folder for TensorBoard, None for no log
    :param policy_kwargs: Arguments of the policy, see :class:`~sb3_nrl.policies.NoisyPolicy`
    :param verbose: 0 for no output, 1 for information, 2 for debug messages
    :param seed: Seed of all random numbers
    :param device: ``"cpu"``, ``"cuda"``, ... or ``"auto"``
    :param _init_setup_model: Whether to build the networks at once
    :raises ValueError: If an argument is out of range, with its name and what would be right
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": NoisyPolicy,
        "CnnPolicy": NoisyCnnPolicy,
        "MultiInputPolicy": NoisyMultiInputPolicy,
    }
    policy: NoisyPolicy  # type: ignore[assignment]
    rollout_buffer: RolloutBuffer  # type: ignore[assignment]
    n_baseline_passes: int | None = None
    """None, or the number of noisy passes whose mean takes the place of a clean pass."""

    def __init__(
        self,
        policy: str | type[NoisyPolicy],
        env: GymEnv | str,
        rule: LearningRule | None = None,
        learning_rate: float | Schedule = 5e-3,
        n_steps: int = 32,
        reward_prediction: str = "critic",
        gamma: float | None = None,
        ent_coef: float = 0.0,
        vf_coef: float = 1.0,
        reward_timing: str | None = None,
        reward_smoothing: float | None = None,
        scale_rpe: bool | None = None,
        trace_decay: float | None = None,
        max_grad_norm: float | None = 0.5,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
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
        del self.gae_lambda  # trace_decay takes its place
        self.rule = rule
        self.reward_prediction = reward_prediction
        self.reward_timing = reward_timing
        self.reward_smoothing = reward_smoothing
        self.scale_rpe = scale_rpe
        self.trace_decay = trace_decay
        self.predictor: RewardPredictor | None = None
        self.watchers: list[Callable[[Update], None]] = []
        """Functions that are called at each update, just before the weights change; emptied when ``learn`` returns."""
        if _init_setup_model:
            self._setup_model()

    def make_rule(self) -> LearningRule:
        """The learning rule that the arguments describe."""
        check("rule", self.rule, isinstance(self.rule, LearningRule), "a LearningRule")
        assert self.rule is not None
        return self.rule

    def _make_predictor(self) -> RewardPredictor:
        """The reward predictor that the arguments describe; a running average goes on from the one before."""
        known = tuple(PREDICTORS)
        check("reward_prediction", self.reward_prediction, self.reward_prediction in known, f"one of {known}")
        predictor_class = PREDICTORS[self.reward_prediction]
        takes = inspect.signature(predictor_class).parameters
        for name, neutral in {**_PREDICTOR_ARGUMENTS, "vf_coef": 1.0}.items():
            value = getattr(self, name)
            takes_it = predictor_class.has_critic if name == "vf_coef" else name in takes
            wanted = f'{neutral} with reward_prediction="{self.reward_prediction}"'
            check(name, value, takes_it or value is None or value == neutral, wanted)
        arguments: dict[str, Any] = {"n_envs": self.n_envs} if "n_envs" in takes else {}
        given = {name: getattr(self, name) for name in _PREDICTOR_ARGUMENTS if name in takes}
        arguments |= {name: value for name, value in given.items() if value is not None}
        predictor: RewardPredictor = predictor_class(**arguments)
        for name in _PREDICTOR_ARGUMENTS:
            setattr(self, name, getattr(predictor, name, _PREDICTOR_ARGUMENTS[name]))
        if isinstance(predictor, RunningAverage) and isinstance(self.predictor, RunningAverage):
            predictor.take_over(self.predictor)
        return predictor

    @property
    def decay(self) -> float:
        """Factor per step on the traces: ``trace_decay``, or its default."""
        assert self.predictor is not None
        return self.predictor.default_decay if self.trace_decay is None else self.trace_decay

    def _read_arguments(self) -> None:
        """Check all arguments, and make what they describe."""
        check("n_steps", self.n_steps, is_count(self.n_steps), "a whole number of steps, at least 1")
        check("vf_coef", self.vf_coef, is_number(self.vf_coef, 0), "positive and finite")
        norm = self.max_grad_norm
        check("max_grad_norm", norm, norm is None or is_number(norm, 0), "positive, or None for no clipping")
        window = self._stats_window_size
        check("stats_window_size", window, is_count(window), "a whole number of episodes, at least 1")
        for progress in (1.0, 0.5, 0.0):
            self._check_rate(self.lr_schedule(progress))
        kind = self.policy_class
        check("policy", kind, issubclass(kind, NoisyPolicy), "a name or a subclass of sb3_nrl.policies.NoisyPolicy")
        check_spaces(self.observation_space, self.action_space)
        for name in ("critic", "noise", "noise_std", "noise_distribution", "n_baseline_passes"):
            check("policy_kwargs", self.policy_kwargs, name not in self.policy_kwargs, f"without {name}")
        before = self.predictor
        self.predictor = self._make_predictor()
        same = before is None or before.has_critic == self.predictor.has_critic
        check("reward_prediction", self.reward_prediction, same, "what it was when the model was made")
        self.predictor.check_decay(self.decay)
        self.rule = self.make_rule()
        self.rule.check()

    @staticmethod
    def _check_rate(rate: float) -> None:
        check("learning_rate", rate, rate == 0 or is_number(float(rate), 0), "finite and not negative")

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self._read_arguments()
        assert self.rule is not None and self.predictor is not None
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            critic=self.predictor.has_critic,
            noise=self.rule.noise,
            n_baseline_passes=self.n_baseline_passes,
            **self.policy_kwargs,
        ).to(self.device)  # type: ignore[assignment]
        self.policy.refresh()
        self.traces = EligibilityTraces()
        self.rollout_buffer = RolloutBuffer(self.n_steps, self.observation_space)
        self._forget_steps()
        self._maybe_recommend_cpu(NoisyPolicy.__name__)

    def _forget_steps(self) -> None:
        """Start anew with traces, and drop the steps that wait for an update."""
        self.traces.reset()
        self.rollout_buffer.reset()
        self._carry: Any = None
        self._action_noise: np.ndarray | None = None

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        self._read_arguments()
        assert self.rule is not None and self.predictor is not None
        self.policy.noise, self.policy.n_baseline_passes = self.rule.noise, self.n_baseline_passes
        if self.policy.refresh():
            self.policy.optimizer.zero_grad()  # what is frozen now must not move by an old gradient
            self._forget_steps()
        self._check_optimizer()
        if self.rollout_buffer.buffer_size != self.n_steps:
            self._forget_steps()
            self.rollout_buffer = RolloutBuffer(self.n_steps, self.observation_space)
        if reset_num_timesteps or self._last_obs is None:
            self._forget_steps()
            self.predictor.restart()
        setup = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        self.policy.set_training_mode(False)
        check_finite(self._last_obs, np.zeros(self.n_envs), self.num_timesteps)
        return setup

    def _check_optimizer(self) -> None:
        groups = self.policy.optimizer.param_groups
        marked = self.vf_coef == 1 or any(group.get("critic") for group in groups)
        check("vf_coef", self.vf_coef, marked, '1 as long as no group of policy.optimizer has "critic": True')
        optimized = {id(parameter) for group in groups for parameter in group["params"]}
        for name, parameter in self.policy.named_parameters():
            if parameter.requires_grad and id(parameter) not in optimized:
                raise ValueError(f"The parameter '{name}' would never learn: it is not in policy.optimizer.")

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
        Take over the parameters of another model, as in Stable-Baselines3, and drop the traces of the old ones.

        :param load_path_or_dict: File of a model, or what ``get_parameters`` gives
        :param exact_match: Whether to refuse parameters that are not of the policy and its optimizer, or only of some
        :param device: Where to load a file's parameters
        """
        try:
            super().set_parameters(load_path_or_dict, exact_match, device)
        finally:  # it complains of missing names after it has replaced the others
            self._forget_steps()

    def learn(
        self: SelfThreeFactor,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfThreeFactor:
        """
        Train, as in Stable-Baselines3.

        Changes to the model's arguments and to the policy's layers take effect when this starts. After an error or an
        interruption, the next training starts with a reset of the environments.

        :param total_timesteps: Number of environment steps
        :param callback: Callback(s), called at every step
        :param log_interval: Number of iterations between logs; an iteration is one window
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
        :param rollout_buffer: Keeps the steps
        :param n_rollout_steps: Stable-Baselines3's; the buffer knows how long the window is
        :return: Whether to go on training
        """
        callback.on_rollout_start()
        policy, predictor, space = self.policy, self.predictor, self.action_space
        assert predictor is not None and self.rule is not None
        going_on, rewarded = True, predictor.due  # an interrupted training may have left a reward that counts
        while going_on and not rewarded and not rollout_buffer.full and self.num_timesteps < self._total_timesteps:
            obs: Observations = self._last_obs
            noise = policy.sample_noise(self.n_envs) if self.rule.acts_with_noise else None
            actions, log_probs = policy.act(obs, self._sample_action_noise(), noise)
            clipped_actions = actions
            if isinstance(space, spaces.Box):
                clipped_actions = np.clip(actions.reshape(-1, *space.shape), space.low, space.high)

            new_obs, rewards, dones, infos = env.step(clipped_actions)
            # Copies, since some environments use their arrays again; rewards in single precision, as Stable-Baselines3
            # keeps them, whatever kind of VecEnv they come from.
            new_obs, dones = map_observations(np.array, new_obs), dones.astype(bool)
            rewards = rewards.astype(np.float32)
            self.num_timesteps += env.num_envs
            check_finite(new_obs, rewards, self.num_timesteps)

            rollout_buffer.add(
                obs,
                actions=actions,
                log_probs=log_probs,
                rewards_TE=rewards,
                dones_TE=dones,
                **({} if noise is None else {"noise": policy.numpy(noise)}),
            )
            if np.count_nonzero(dones):
                self._bootstrap(dones, infos)
            rewarded = predictor.observe(rewards, dones)
            self._last_obs = new_obs
            self._last_episode_starts = dones

            callback.update_locals(locals())
            going_on = callback.on_step()
            self._update_info_buffer(infos, dones)
        if going_on:
            callback.update_locals(locals())
            callback.on_rollout_end()
        return going_on

    def _sample_action_noise(self) -> np.ndarray:
        """Random numbers to choose actions by, shape (E, A); those of continuous actions may be correlated in time."""
        policy = self.policy
        noise = policy.action_dist.draw(policy.generator, self.n_envs)
        if policy.action_correlation > 0:
            correlation = float(policy.action_correlation)  # NumPy's would make single precision double
            if self._action_noise is not None:
                noise = correlation * self._action_noise + math.sqrt(1 - correlation**2) * noise
            self._action_noise = noise
        return noise

    def _bootstrap(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Add the values of the last observations of those episodes that a time limit ended."""
        cut = [int(env) for env in np.flatnonzero(dones) if infos[env].get("TimeLimit.truncated", False)]
        envs = [env for env in cut if "terminal_observation" in infos[env]]
        if envs:
            rows = [infos[env]["terminal_observation"] for env in envs]
            is_dict = isinstance(rows[0], dict)
            obs = {key: np.stack([row[key] for row in rows]) for key in rows[0]} if is_dict else np.stack(rows)
            check_finite(obs, np.zeros(len(envs)), self.num_timesteps, envs)
            assert self.predictor is not None
            self.rollout_buffer.set_terminal_values(envs, self.predictor.terminal_values(self.policy, obs, len(envs)))

    @np.errstate(all="ignore")  # what is not finite is refused by name
    def train(self) -> None:
        """
        Update the weights by the steps of a window: reward prediction errors, eligibility, traces, weight change.
        """
        self._update_learning_rate(self.policy.optimizer)
        policy, predictor, buffer = self.policy, self.predictor, self.rollout_buffer
        assert predictor is not None and self.rule is not None
        if buffer.pos == 0 or not predictor.is_ready(buffer.full):
            return
        window = buffer.window(self._last_obs)
        n_steps = max(1, _MAX_NODES_PER_BATCH // (self.rule.n_passes * self.n_envs * policy.n_nodes))
        errors = predictor.errors(policy, window, n_steps)
        change_W: Array = 0.0
        for steps, batch in window.batches(n_steps):
            eligibility, self._carry = self.rule.eligibility(policy, batch, self._carry)
            update = self.traces.update(eligibility, errors.errors_TE[steps], errors.restarts_TE[steps], self.decay)
            change_W = change_W + update.change_W
        buffer.reset()
        for watch in self.watchers:
            watch(Update(window, errors, change_W))
        if errors.n_rewards > 0:
            update_norm = apply_update(policy, change_W, self.max_grad_norm)
            self._n_updates += 1
            for name, value in errors.diagnostics.items():
                self.logger.record(f"train/{name}", value)
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            self.logger.record_mean("train/rpe", errors.errors_TE.sum() / errors.n_rewards)
            self.logger.record_mean("train/trace_norm", update.trace_norm)
            self.logger.record_mean("train/update_norm", update_norm)

    def dump_logs(self, iteration: int = 0) -> None:
        head = self.policy.actor.head
        if isinstance(head, GaussianHead):
            self.logger.record("train/std", head.log_std.weight.detach().exp().mean().item())
        super().dump_logs(iteration)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        # The last step of several environments may go beyond the end, where no schedule is defined.
        self._current_progress_remaining = max(self._current_progress_remaining, 0.0)

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        self._check_rate(self.policy.optimizer.param_groups[0]["lr"])
        for group in self.policy.optimizer.param_groups:
            if group.get("critic"):
                group["lr"] *= self.vf_coef

    def save(
        self,
        path: str | pathlib.Path | Any,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save to a zip file, as in Stable-Baselines3, but whole or not at all: an interrupted save leaves the old file.
        Traces are not saved, since loading resets the environments.

        :param path: File to write, with ``.zip`` added if it has no suffix; or a binary stream
        :param exclude: Names of attributes to leave out
        :param include: Names of attributes to save although they would be left out
        """
        saving.save_atomically(super().save, path, exclude, include)
