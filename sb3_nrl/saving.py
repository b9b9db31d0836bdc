"""Files that are written whole or not at all."""

import pathlib
import secrets
from collections.abc import Callable
from typing import Any, BinaryIO

try:
    import fcntl
except ModuleNotFoundError:  # on Windows, where leftovers stay
    fcntl = None  # type: ignore[assignment]


def save_atomically(save: Callable[..., None], path: str | pathlib.Path | Any, *arguments: Any) -> None:
    """
    Save a model to a temporary file beside the target, which then takes its place. Temporary files that killed
    processes left are removed.

    :param save: Saves to a stream
    :param path: File to write, with ``.zip`` added if it has no suffix; or a binary stream
    :param arguments: Further arguments of ``save``
    """
    if not isinstance(path, str | pathlib.Path):
        save(path, *arguments)
        return
    path = pathlib.Path(path)
    if path.suffix == "":
        path = path.with_name(f"{path.name}.zip")
    path = path.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        _remove_unless_locked(leftover)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with unfinished.open("xb") as file:
            _lock(file)
            save(file, *arguments)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _lock(file: BinaryIO) -> None:
    """
    Lock a file for as long as it is open. The lock of a process that is killed goes with it.

    :raises OSError: If somebody else has locked it
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_unless_locked(leftover: pathlib.Path) -> None:
    if fcntl is not None:
        try:
            with leftover.open("rb") as file:
                _lock(file)
                leftover.unlink()
        except OSError:
            pass  # it is being written, or is gone
