"""Register NeuroGym's tasks as Gymnasium environments, and make an environment from the name of a task."""

import copy
import functools
import inspect
import math
import pkgutil
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from numbers import Real
from typing import Any, NamedTuple

import gymnasium
from neurogym.envs.registration import ALL_COLLECTIONS_ENVS, ALL_NATIVE_ENVS
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from sb3_nrl.checks import check, is_number
from sb3_nrl.envs.tasks import CORRECTED
from sb3_nrl.envs.trials import NeuroGymEnv

UNAVAILABLE = {
    "Detection": "has no ground truth in trials without a stimulus; NeuroGym does not register it either",
    "Null": "is an empty template: its trials have nothing to observe",
    "perceptualdecisionmaking.ibl20": "needs a wrapper that finds no attribute of its task on Gymnasium 1",
    "priors.priors_v0": "needs a task that NeuroGym no longer has",
    "contrib.AngleReproduction": "writes into an observation that does not exist yet",
    "contrib.CVLearning": "draws its delays from a generator that cannot be seeded",
    "contrib.IBL": "has no timing, which NeuroGym requires",
    "contrib.IBL_Block": "has no timing, which NeuroGym requires",
    "contrib.MatchingPenny": "has no timing, which NeuroGym requires",
    "contrib.MemoryRecall": "has no timing, which NeuroGym requires",
    "contrib.LeverPress": "has no trials, and no step function",
    "contrib.LeverPressWithPoke": "has no trials, and no step function",
    "contrib.LeverPressWithPokeRest": "has no trials, and no step function",
    "contrib.ContextSwitch": "has no trials, and no step function",
    "contrib.Pneumostomeopening": "has no trials",
    "psychopy.RandomDotMotion": "needs PsychoPy and a display",
    "psychopy.SpatialSuppressMotion": "needs PsychoPy and a display",
    "psychopy.VisualSearch": "needs PsychoPy and a display",
}
"""NeuroGym's tasks that are not registered, and why."""

_BUILDERS: dict[str, Callable[..., gymnasium.Env]] = {
    name: pkgutil.resolve_name(entry_point)
    for env_id, entry_point in (ALL_NATIVE_ENVS | ALL_COLLECTIONS_ENVS).items()
    if (name := env_id.removesuffix("-v0")) not in UNAVAILABLE
} | CORRECTED

_DECIDED_BY_NAME = {
    "yang19.go": {"anti"},
    "yang19.anti": {"anti"},
    "yang19.rtgo": {"anti", "reaction"},
    "yang19.rtanti": {"anti", "reaction"},
    "yang19.dlygo": {"anti", "timing"},
    "yang19.dlyanti": {"anti", "timing"},
}
"""Arguments that the name of a task fixes: NeuroGym would accept and overwrite them."""

_WITHOUT_MEMORY = {
    "AnnubesEnv",
    "Bandit",
    "DawTwoStep",
    "Reaching1D",
    "Reaching1DWithSelfDistraction",
    "perceptualdecisionmaking.roitman02",
    "yang19.rtanti",
    "yang19.rtgo",
}
"""Tasks in which the current observation contains all information about the right action."""


class Task(NamedTuple):
    """Properties of a registered task."""

    needs_memory: bool  # whether a policy performs better if it remembers the trial so far


TASKS = {f"neurogym/{task}-v0": Task(task not in _WITHOUT_MEMORY) for task in sorted(_BUILDERS)}
"""
The registered tasks by identifier. Each value says whether the task needs memory.

This was measured with the tasks' default arguments. Two networks learned NeuroGym's ground truth by supervised
learning, and then performed the task. The first network received the current observation, the second one all
observations of the trial so far. A task needs memory if the mean performance of the second network was more than 0.05
higher. The experiment is ``experiments/memory_needed.py``, and its table is in ``docs/memory.md``. Memory of earlier
trials is not counted. It is the only memory that ``Bandit`` and ``DawTwoStep`` can use.
"""


def register() -> None:
    """Register all tasks with Gymnasium, in this process and in the workers of its ``SubprocVecEnv``."""
    for task in _BUILDERS:
        gymnasium.register(f"neurogym/{task}-v0", f"{__name__}:{task}")
    ForkingPickler.register(CloudpickleWrapper, _reduce)


def _reduce(wrapper: CloudpickleWrapper) -> tuple[Callable[[bytes], CloudpickleWrapper], tuple[bytes]]:
    """Pickle a worker's environment function so that unpickling it imports this module, which registers the tasks."""
    return _restore, (wrapper.__getstate__(),)


def _restore(state: bytes) -> CloudpickleWrapper:
    wrapper = CloudpickleWrapper(None)
    wrapper.__setstate__(state)
    return wrapper


def __getattr__(task: str) -> Callable[..., NeuroGymEnv]:
    """The entry point of a task. Users cannot change the task in it, as they could if it were a keyword argument."""
    if task in _BUILDERS:
        return functools.partial(make, task)
    raise AttributeError(f"module {__name__!r} has no attribute {task!r}")


def make(
    task: str, /, trials_per_episode: int | None = 1, render_mode: str | None = None, **arguments: Any
) -> NeuroGymEnv:
    """
    Make a registered task; ``gymnasium.make`` calls this.

    :param task: Name of the task, without ``neurogym/`` and version
    :param trials_per_episode: Number of trials in an episode; ``None`` for episodes that never end
    :param render_mode: ``None``, since there is nothing to render
    :param arguments: Arguments of the task: ``dt`` in ms, ``timing`` of its periods in ms, ``rewards``, and so on
    :return: The environment
    :raises TypeError: If the task takes no such argument, or for another ``render_mode``
    :raises ValueError: If the task cannot run with such a value
    """
    build, env_id = _BUILDERS[task], f"neurogym/{task}-v0"
    if render_mode is not None:
        raise TypeError(f"{env_id} has nothing to render: render_mode={render_mode!r} must be None")
    accepted = _arguments(build, _DECIDED_BY_NAME.get(task, set()))
    described = _listed({"trials_per_episode": 1, **accepted})
    if unknown := sorted(arguments.keys() - accepted.keys()):
        names = ", ".join(map(repr, unknown))
        raise TypeError(f"{env_id} has no argument {names}; its arguments and their defaults are {described}")
    try:
        if "dt" in arguments:
            check("dt", arguments["dt"], is_number(arguments["dt"], 0), "positive, in ms")
        for name in ("timing", "rewards"):
            if isinstance(arguments.get(name), dict):
                others = {other: value for other, value in arguments.items() if other != name}
                _check_entries(name, arguments[name], getattr(build(**others).unwrapped, name))
        build_task = functools.partial(_build, build, arguments)
        NeuroGymEnv(build_task).reset()  # NeuroGym finds many mistakes only in the first reset
        env = NeuroGymEnv(build_task, trials_per_episode)
        env.needs_memory = TASKS[env_id].needs_memory
        return env
    except Exception as error:  # NeuroGym does not check values: a bad one can raise any error
        given = _listed({"trials_per_episode": trials_per_episode, **arguments})
        message = f"{env_id} cannot be made: {error}. It was given {given}; its defaults are {described}"
        raise ValueError(message) from error


def _build(build: Callable[..., gymnasium.Env], arguments: dict[str, Any]) -> gymnasium.Env:
    """Build a task with copies of the arguments: some contain a generator, which two tasks must not share."""
    return build(**copy.deepcopy(arguments))


def _arguments(build: Callable[..., gymnasium.Env], decided: set[str]) -> dict[str, Any]:
    """The arguments of a task and their defaults. NeuroGym's metaclass hides them from ``inspect.signature``."""
    owner = build if inspect.isclass(build) else type(build().unwrapped)
    found: dict[str, inspect.Parameter] = {}
    for ancestor in owner.mro():
        if "__init__" in vars(ancestor):
            _, *parameters = inspect.signature(vars(ancestor)["__init__"]).parameters.values()
            found = {parameter.name: parameter for parameter in parameters} | found
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
                break
    return {
        name: parameter.default
        for name, parameter in found.items()
        if parameter.kind is not parameter.VAR_KEYWORD and name not in decided
    }


def _listed(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def _check_entries(argument: str, given: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Check the entries of ``timing`` or ``rewards``. NeuroGym itself ignores entries with an unknown name."""
    for name, value in given.items():
        check(argument, given, name in defaults, f"a dictionary for {', '.join(defaults) or 'nothing'} only")
        if argument == "rewards":
            check(argument, given, is_number(value, -math.inf), "of finite numbers")
        elif isinstance(value, Real):
            check(argument, given, 0 <= float(value) < math.inf, "of finite durations in ms, none negative")
