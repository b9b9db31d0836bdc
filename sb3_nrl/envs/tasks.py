"""Corrected versions of NeuroGym's tasks, for which seeds, observations or rewards are otherwise wrong."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from neurogym.core import TrialEnv
from neurogym.envs.collections import yang19
from neurogym.envs.contrib import changingenvironment
from neurogym.envs.native import (
    annubes,
    dawtwostep,
    hierarchicalreasoning,
    perceptualdecisionmaking,
    reaching,
    reachingdelayresponse,
)
from neurogym.utils import spaces
from neurogym.wrappers import ReactionTime
from neurogym.wrappers.block import ScheduleEnvs

from sb3_nrl.checks import check


class _Target(TrialEnv):
    """
    A reaching task that rewards the target that it shows.

    NeuroGym stores the target as an integer, as if it were an action. So its reward depends on the distance to the
    target *truncated to a whole number of radians*, which the observation does not show.

    :param published_target: Whether to reward NeuroGym's truncated target, to compare with published curves
    """

    gt: np.ndarray

    def __init__(self, published_target: bool = False, **arguments: Any) -> None:
        check("published_target", published_target, isinstance(published_target, bool), "True or False")
        self.published_target = published_target
        super().__init__(**arguments)

    def _init_gt(self) -> None:
        super()._init_gt()
        if not self.published_target:
            self.gt = self.gt.astype(np.float64)


class Reaching1D(_Target, reaching.Reaching1D):
    """
    NeuroGym's ``Reaching1D``, which here rewards the target that it shows.

    :param published_target: Whether to reward NeuroGym's target, truncated to whole radians, instead
    """


class Reaching1DWithSelfDistraction(_Target, reaching.Reaching1DWithSelfDistraction):
    """NeuroGym's ``Reaching1DWithSelfDistraction``, corrected in the same way."""


class AnnubesEnv(annubes.AnnubesEnv):
    """
    NeuroGym's ``AnnubesEnv`` with a default session, with one generator for all random numbers, and with an observation
    space that contains its noise.
    """

    observation_space: spaces.Box

    def __init__(self, session: dict[Any, float] | None = None, catch_prob: float = 0.5, **arguments: Any) -> None:
        super().__init__({"v": 0.5, "a": 0.5} if session is None else session, catch_prob, **arguments)
        space = self.observation_space
        self.observation_space = spaces.Box(-np.inf, np.inf, name=space.name, shape=space.shape, dtype=space.dtype)

    def seed(self, seed: int | None = None) -> list[int | None]:
        self._rng = np.random.default_rng(seed)
        return super().seed(seed)


class ChangingEnvironment(changingenvironment.ChangingEnvironment):
    """NeuroGym's ``ChangingEnvironment``, with the first context drawn after seeding."""

    def seed(self, seed: int | None = None) -> list[int | None]:
        seeds = super().seed(seed)
        self.curr_cxt = self.rng.choice([0, 1])
        return seeds


class DawTwoStep(dawtwostep.DawTwoStep):
    """NeuroGym's ``DawTwoStep``, with an observation before the first choice: the same as between trials."""

    def _new_trial(self, **conditions: Any) -> dict[str, Any]:
        self.ob = np.array([[1.0, 0.0, 0.0]])
        trial = super()._new_trial(**conditions)
        trial["transition"][0] = 0  # the entry for no choice, which NeuroGym neither sets nor uses
        return trial


class HierarchicalReasoning(hierarchicalreasoning.HierarchicalReasoning):
    """NeuroGym's ``HierarchicalReasoning``, with the first block drawn after seeding."""

    def seed(self, seed: int | None = None) -> list[int | None]:
        seeds = super().seed(seed)
        self.new_block()
        return seeds


class ReachingDelayResponse(reachingdelayresponse.ReachingDelayResponse):
    """NeuroGym's ``ReachingDelayResponse``, without a warning about the precision of its bounds."""

    def __init__(self, **arguments: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*precision lowered")
            super().__init__(**arguments)


def roitman02(**arguments: Any) -> ReactionTime:
    """
    NeuroGym's ``perceptualdecisionmaking.roitman02``, without the wrapper that does not find the attributes of its task
    on Gymnasium 1.
    """
    return ReactionTime(perceptualdecisionmaking.PerceptualDecisionMaking(**arguments))


def _seedable(schedule_tasks: Callable[..., ScheduleEnvs]) -> Callable[..., ScheduleEnvs]:
    """A builder of a schedule of wrapped tasks that can be seeded: on Gymnasium 1 their wrappers have no ``seed``."""

    def build(**arguments: Any) -> ScheduleEnvs:
        schedule = schedule_tasks(**arguments)
        for wrapped in schedule.envs:
            wrapped.seed = wrapped.unwrapped.seed
        return schedule

    return build


CORRECTED: dict[str, Callable[..., gymnasium.Env]] = {
    **{
        task.__name__: task
        for task in (
            AnnubesEnv,
            ChangingEnvironment,
            DawTwoStep,
            HierarchicalReasoning,
            Reaching1D,
            Reaching1DWithSelfDistraction,
            ReachingDelayResponse,
        )
    },
    **{
        f"yang19.{name}": _seedable(getattr(yang19, name))
        for name in ("go", "anti", "rtgo", "rtanti", "dlygo", "dlyanti", "dms", "dnms", "dmc", "dnmc")
    },
    "perceptualdecisionmaking.roitman02": roitman02,
}
"""Builders of the tasks of this module, by NeuroGym's names."""
