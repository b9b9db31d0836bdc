"""Write files atomically, check which algorithm a file is from, and make environments ready to be pickled."""

import inspect
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable
from typing import IO, Any

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

_IDENTIFYING_ATTRIBUTES = {
    "PPO": "target_kl",
    "DQN": "exploration_fraction",
    "SAC": "target_entropy",
    "TD3": "policy_delay",
    "A2C": "normalize_advantage",
}
"""An attribute that identifies the files of each algorithm of Stable-Baselines3, and of algorithms that extend it."""


def check_origin(own_names: list[str], attributes: dict[str, Any]) -> None:
    """
    Check that a model was loaded from a file of the same algorithm.

    :param own_names: Name of the algorithm, and of the algorithms that it extends
    :param attributes: Attributes of the model, including those from the file
    :raises ValueError: If the file is of an algorithm that neither extends this one nor is extended by it
    """
    saved_names = attributes.get("_saved_as") or [
        name for name, attribute in _IDENTIFYING_ATTRIBUTES.items() if attribute in attributes
    ]
    # The last name is the base class of all algorithms, whose file may have any rule.
    if saved_names and own_names[0] not in saved_names and saved_names[0] not in own_names[:-1]:
        raise ValueError(f"The file is of {saved_names[0]}, not of {own_names[0]}: load it with {saved_names[0]}.load.")


def save_atomically(save: Callable[..., None], path: str | pathlib.Path | Any, *arguments: Any) -> None:
    """
    Save a model atomically: an interrupted save leaves the old file.

    :param save: Function that saves to a stream
    :param path: File to write, with ``.zip`` added if it has no suffix; or a binary stream
    :param arguments: Further arguments of ``save``
    """
    if not isinstance(path, str | pathlib.Path):
        save(path, *arguments)
        return
    path = pathlib.Path(path)
    if path.suffix == "":
        path = path.with_name(f"{path.name}.zip")
    write_atomically(path.resolve(), lambda file: save(file, *arguments))  # replaces the target of a link, not the link


def write_atomically(path: pathlib.Path, write: Callable[[IO[bytes]], object]) -> None:
    """
    Write to a temporary file beside the target, and then rename it to the target.

    :param path: File to write
    :param write: Function that writes to a stream
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with unfinished.open("x+b") as file:  # has the permissions of a new file
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


_Wrappers = list[tuple[type[VecEnvWrapper], Any]]
_PLAIN = (None, getattr(object, "__getstate__", None), VecNormalize.__getstate__, VecNormalize.__setstate__)
"""How a class is pickled that has no way of its own. That of VecNormalize leaves out its returns."""


def unwrap_env(env: VecEnv | None) -> tuple[VecEnv | None, _Wrappers]:
    """
    Take the wrappers off an environment, which cannot be pickled with it.

    :param env: The environment, None for none
    :return: The environment without wrappers; class and state of each wrapper, the outermost first
    :raises TypeError: If an attribute of a wrapper is another wrapper
    """
    wrappers: _Wrappers = []
    while isinstance(env, VecEnvWrapper):
        kind = type(env)
        own = getattr(kind, "__getstate__", None) not in _PLAIN
        state = env.__getstate__() if own else {**vars(env), "venv": None, "class_attributes": None}
        for name, value in state.items() if isinstance(state, dict) else ():
            if isinstance(value, VecEnvWrapper):
                raise TypeError(f"{kind.__name__}.{name} is a wrapper: a model with this environment cannot be copied.")
        wrappers.append((kind, state))
        env = env.venv
    return env, wrappers


def wrap_env(env: VecEnv | None, wrappers: _Wrappers) -> VecEnv | None:
    """
    Put the wrappers on an environment again.

    :param env: The environment, None for none
    :param wrappers: As ``unwrap_env`` gives them
    :return: The environment with its wrappers
    """
    for kind, state in reversed(wrappers):
        wrapper: Any = kind.__new__(kind)
        if getattr(kind, "__setstate__", None) in _PLAIN:
            vars(wrapper).update(state)
        else:
            wrapper.__setstate__(state)
        vars(wrapper).update(venv=env, class_attributes=dict(inspect.getmembers(kind)))
        env = wrapper
    return env
