"""Reward predictors, which compute reward prediction errors.

Shapes: T steps, E environments.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
from stable_baselines3.common.utils import explained_variance

from sb3_nrl.arrays import Array, Observations, n_rows
from sb3_nrl.buffers import RolloutWindow
from sb3_nrl.checks import check, is_number
from sb3_nrl.normalization import RewardScale
from sb3_nrl.perturbation import PerturbablePolicy

RewardPrediction = Literal["critic", "average"]
RewardTiming = Literal["episode", "step", "nonzero"]

DEFAULT_LAMBDA = 0.95
"""λ of TD(λ) unless ``trace_decay`` is given."""


class RewardErrors(NamedTuple):
    """
    Reward prediction errors of a window.

    :param errors_TE: δ, 0 where no reward counts
    :param restarts_TE: Whether traces are reset to 0 after the step
    :param n_rewards: Number of rewards that count
    :param diagnostics: Numbers to log, by name
    """

    errors_TE: np.ndarray
    restarts_TE: np.ndarray
    n_rewards: int
    diagnostics: dict[str, float]


class RewardPredictor(ABC):
    """Predicts rewards, and computes by how much rewards are better than predicted: the reward prediction error δ."""

    name: ClassVar[str]
    """Value of the argument ``reward_prediction``."""

    has_critic: ClassVar[bool]
    """Whether the policy needs a critic."""

    gamma: float = 1.0
    """Discount γ of later rewards."""

    default_decay: float
    """Factor per step on the traces unless ``trace_decay`` is given."""

    due: bool = False
    """Whether there is a reward that counts and that no update has used yet."""

    @abstractmethod
    def take_over(self, previous: Any) -> None:
        """
        Keep what another predictor of the same class has learned.

        :param previous: The other predictor
        """

    @abstractmethod
    def restart(self) -> None:
        """Drop rewards that no update has used yet. Called when the environments are reset."""

    @abstractmethod
    def check_decay(self, decay: float) -> None:
        """
        Check ``trace_decay``.

        :raises ValueError: If it is out of range
        """

    @abstractmethod
    def observe(self, rewards_E: np.ndarray, dones_E: np.ndarray, infos: Sequence[dict[str, Any]]) -> bool:
        """
        Process the rewards of one step.

        :param rewards_E: Rewards
        :param dones_E: Whether the step ended an episode
        :param infos: The ``info`` dictionary of each environment
        :return: Whether a reward counts now, so that the window ends
        """

    def terminal_values(
        self, policy: PerturbablePolicy, observations: Observations, states: Array | None
    ) -> np.ndarray:
        """
        V(s') of the last observation of episodes that a time limit ended.

        :param policy: The policy
        :param observations: Last observations of B episodes that a time limit ended
        :param states: Hidden states after the last steps of these, shape (B, S); None without recurrent layers
        :return: Their values, shape (B,)
        """
        return np.zeros(n_rows(observations))

    @abstractmethod
    def skip(self) -> None:
        """Use the rewards of dropped steps for the prediction only. No weight changes."""

    @abstractmethod
    def is_ready(self, window_is_full: bool) -> bool:
        """Whether an update can use the steps now. If not, it waits for a reward."""

    @abstractmethod
    def errors(self, policy: PerturbablePolicy, window: RolloutWindow, n_steps_per_batch: int) -> RewardErrors:
        """
        Compute the reward prediction errors of a window.

        :param policy: The policy
        :param window: The steps
        :param n_steps_per_batch: Most steps of one batch of passes
        :return: The errors
        """


class TDCritic(RewardPredictor):
    """
    A critic network V learns the discounted sum of later rewards by TD(λ): δ = r + γ V(s') − V(s) at every step.
    Traces end with the episode. After a time limit V(s') counts, after a termination it does not.

    :param gamma: Discount γ, in [0, 1]
    :param ent_coef: Coefficient of the entropy bonus: −ent_coef · log π(a|s) is added to each reward
    :param norm_reward: Whether to divide rewards by the running standard deviation of the discounted return
    :raises ValueError: If an argument is out of range
    """

    name = "critic"
    has_critic = True

    def __init__(self, gamma: float = 0.99, ent_coef: float = 0.0, norm_reward: bool = True) -> None:
        check("gamma", gamma, gamma == 0 or is_number(gamma, 0, 1), "in [0, 1]")
        check("ent_coef", ent_coef, ent_coef == 0 or is_number(ent_coef, 0), "finite and not negative")
        check("norm_reward", norm_reward, isinstance(norm_reward, bool), "None, True or False")
        self.gamma = gamma
        self.ent_coef = ent_coef
        self.norm_reward = norm_reward
        self.reward_scale = RewardScale(gamma) if norm_reward else None
        self.default_decay = DEFAULT_LAMBDA * gamma

    def take_over(self, previous: Any) -> None:
        if self.reward_scale is not None and getattr(previous, "reward_scale", None) is not None:
            self.reward_scale = previous.reward_scale
            self.reward_scale.gamma = self.gamma

    def restart(self) -> None:
        if self.reward_scale is not None:
            self.reward_scale.restart()

    def check_decay(self, decay: float) -> None:
        valid = decay == 0 or is_number(decay, 0, self.gamma)
        wanted = f"in [0, {self.gamma}], at most gamma, with a critic (None makes it {DEFAULT_LAMBDA} gamma)"
        check("trace_decay", decay, valid, wanted)

    def observe(self, rewards_E: np.ndarray, dones_E: np.ndarray, infos: Sequence[dict[str, Any]]) -> bool:
        return False

    def skip(self) -> None:
        pass

    def is_ready(self, window_is_full: bool) -> bool:
        return True

    def terminal_values(
        self, policy: PerturbablePolicy, observations: Observations, states: Array | None
    ) -> np.ndarray:
        starts_E = None if states is None else np.zeros(len(states), bool)
        return policy.values(observations, states, starts_E)[0]

    def errors(self, policy: PerturbablePolicy, window: RolloutWindow, n_steps_per_batch: int) -> RewardErrors:
        batches, states = [], window.states
        for _, batch in window.batches(n_steps_per_batch):
            values, states = policy.values(batch.observations, states, batch.starts_TE)
            batches.append(values)
        last_starts = None if states is None else window.dones_TE[-1]
        values, _ = policy.values(window.last_observations, states, last_starts)
        values_TE = np.concatenate([*batches, values]).reshape(-1, window.n_envs)
        rewards_TE = window.rewards_TE
        if self.reward_scale is not None:
            rewards_TE = self.reward_scale.update(rewards_TE, window.dones_TE)
        rewards_TE = rewards_TE - self.ent_coef * window.log_probs.reshape(window.rewards_TE.shape).astype(float)
        rewards_TE += self.gamma * window.terminal_values_TE
        errors_TE = rewards_TE + self.gamma * values_TE[1:] * ~window.dones_TE - values_TE[:-1]
        targets_TE = values_TE[:-1] + errors_TE
        diagnostics = {
            "reward_prediction": float(values_TE[:-1].mean()),
            "value_loss": float((errors_TE * errors_TE).mean()),
            "explained_variance": float(explained_variance(values_TE[:-1].ravel(), targets_TE.ravel())),
        }
        return RewardErrors(errors_TE, window.dones_TE, errors_TE.size, diagnostics)


class RunningAverage(RewardPredictor):
    """
    A running average r̄ of the rewards of each environment predicts the next reward, δ = r − r̄ (Eq. 14 and 15). r is
    the sum of the rewards since the last reward that counted. Traces are reset when a reward counts.

    An environment can give the type of a trial as ``info["trial_type"]`` of the step whose reward counts. It then has
    one average for each type (Miconi 2017).

    :param n_envs: Number of environments E
    :param reward_timing: When rewards count. ``"episode"``: at the episode's end, by termination or truncation alike;
        ``"nonzero"``: also at every reward other than 0; ``"step"``: at every step, and r̄ starts again in each episode
    :param reward_smoothing: λ of the running average, in (0, 1]
    :param scale_rpe: Whether to divide δ by the size of r; a δ whose r is 0 stays as it is
    :raises ValueError: If an argument is out of range
    """

    name = "average"
    has_critic = False
    default_decay = 1.0

    def __init__(
        self,
        n_envs: int,
        reward_timing: RewardTiming = "episode",
        reward_smoothing: float = 0.66,
        scale_rpe: bool = True,
    ) -> None:
        known = get_args(RewardTiming)
        check("reward_timing", reward_timing, reward_timing in known, f"one of {known}")
        check("reward_smoothing", reward_smoothing, is_number(reward_smoothing, 0, 1), "in (0, 1]")
        check("scale_rpe", scale_rpe, isinstance(scale_rpe, bool), "True or False")
        self.reward_timing = reward_timing
        self.reward_smoothing = reward_smoothing
        self.scale_rpe = scale_rpe
        self.average_E = np.full(n_envs, np.nan)
        """r̄, NaN before the first reward that counts."""
        self._average_of_type: dict[tuple[int, Any], float] = {}
        self._due_types: list[tuple[int, Any]] = []  # of the trials whose rewards are due, and their environments
        self.restart()

    def take_over(self, previous: Any) -> None:
        """
        Continue with the averages of another predictor. If the number of environments is different, each environment
        starts with the mean of these averages.

        :param previous: The other predictor
        """
        known = previous.average_E[~np.isnan(previous.average_E)]
        if len(previous.average_E) == len(self.average_E):
            for name in ("average_E", "_average_of_type", "_due_types", "_sum_E", "_due_E", "_first_E", "_ended_E"):
                setattr(self, name, getattr(previous, name, getattr(self, name)))
        elif len(known) > 0:
            self.average_E[:] = known.mean()

    @property
    def due(self) -> bool:  # type: ignore[override]
        return bool(np.count_nonzero(self._due_E))

    def restart(self) -> None:
        n_envs = len(self.average_E)
        self._sum_E = np.zeros(n_envs)
        self._due_E = np.zeros(n_envs, dtype=bool)
        self._first_E = self._ended_E = np.ones(n_envs, dtype=bool)

    def check_decay(self, decay: float) -> None:
        check("trace_decay", decay, is_number(decay, 0, 1), "in (0, 1] with a running average")
        lasting = self.reward_timing != "step" or decay == 1
        check("trace_decay", decay, lasting, '1 with reward_timing="step" and a running average')

    def observe(self, rewards_E: np.ndarray, dones_E: np.ndarray, infos: Sequence[dict[str, Any]]) -> bool:
        self._sum_E += rewards_E
        self._first_E, self._ended_E = self._ended_E, dones_E
        if self.reward_timing == "episode":
            self._due_E = dones_E
        elif self.reward_timing == "step":
            self._due_E = np.ones_like(dones_E)
        else:
            self._due_E = dones_E | (rewards_E != 0)
        due = self.due
        if due:
            due_envs = np.flatnonzero(self._due_E).tolist()
            kinds = [(env, infos[env].get("trial_type")) for env in due_envs]
            self._due_types = [(env, kind) for env, kind in kinds if kind is not None]
        return due

    def skip(self) -> None:
        self.claim()

    def is_ready(self, window_is_full: bool) -> bool:
        return window_is_full or self.due

    def errors(self, policy: PerturbablePolicy, window: RolloutWindow, n_steps_per_batch: int) -> RewardErrors:
        errors_TE = np.zeros(window.rewards_TE.shape)
        restarts_TE = np.zeros(window.rewards_TE.shape, dtype=bool)
        errors_TE[-1], restarts_TE[-1] = self.claim()
        n_rewards = int(np.count_nonzero(restarts_TE[-1]))
        prediction = {"reward_prediction": float(self.average_E[~np.isnan(self.average_E)].mean())} if n_rewards else {}
        return RewardErrors(errors_TE, restarts_TE, n_rewards, prediction)

    def claim(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Compute δ = r − r̄ for the rewards that count, and update r̄ ← r̄ + λ (r − r̄).

        The first reward becomes r̄, so the first δ is 0. With ``reward_timing="step"``, this holds for the first reward
        of each episode.

        :return: δ, 0 where no reward counts, and where one does; shape (E,)
        """
        due_E = self._due_E
        for env, kind in self._due_types:
            self.average_E[env] = self._average_of_type.get((env, kind), np.nan)
        unknown_E = self._first_E if self.reward_timing == "step" else np.isnan(self.average_E)
        errors_E = np.where(due_E & ~unknown_E, self._sum_E - self.average_E, 0.0)
        self.average_E = np.where(due_E & unknown_E, self._sum_E, self.average_E + self.reward_smoothing * errors_E)
        self._average_of_type |= {key: float(self.average_E[key[0]]) for key in self._due_types}
        if self.scale_rpe:
            np.divide(errors_E, np.abs(self._sum_E), out=errors_E, where=self._sum_E != 0)
        self._sum_E = np.where(due_E, 0.0, self._sum_E)
        self._due_E = np.zeros_like(due_E)
        return errors_E, due_E


PREDICTORS: dict[str, Any] = {predictor.name: predictor for predictor in (TDCritic, RunningAverage)}
"""Classes by the value of the argument ``reward_prediction``."""

_DEFAULT_VF_COEF = 5.0

_WITHOUT_MEANING = {
    "gamma": 1.0,
    "ent_coef": 0.0,
    "vf_coef": 1.0,
    "reward_timing": "step",
    "reward_smoothing": None,
    "scale_rpe": None,
    "norm_reward": False,
}
"""The value of each argument with a predictor that does not use it."""


def make_predictor(kind: str, arguments: dict[str, Any], n_envs: int) -> tuple[RewardPredictor, dict[str, Any]]:
    """
    Make a reward predictor from an algorithm's arguments.

    :param kind: A key of ``PREDICTORS``
    :param arguments: Arguments of all predictors; None selects a default
    :param n_envs: Number of environments E
    :return: The predictor, and all arguments with defaults filled in
    :raises ValueError: If an argument is out of range, or belongs to another predictor
    """
    check("reward_prediction", kind, kind in tuple(PREDICTORS), f"one of {tuple(PREDICTORS)}")
    predictor_class = PREDICTORS[kind]
    parameters = inspect.signature(predictor_class).parameters
    taken = {*parameters, *(["vf_coef"] if predictor_class.has_critic else [])}
    for name, value in arguments.items():
        neutral = _WITHOUT_MEANING[name]
        valid = name in taken or value is None or value == neutral
        check(name, value, valid, f'{neutral} with reward_prediction="{kind}"')
    given = {name: value for name, value in arguments.items() if name in parameters and value is not None}
    predictor: RewardPredictor = predictor_class(**given, **({"n_envs": n_envs} if "n_envs" in parameters else {}))
    used = {
        name: getattr(predictor, name) if name in parameters else value if name in taken else _WITHOUT_MEANING[name]
        for name, value in arguments.items()
    }
    if used["vf_coef"] is None:
        used["vf_coef"] = _DEFAULT_VF_COEF
    return predictor, used
