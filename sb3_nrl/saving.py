"""Files that are written whole or not at all."""

import os
import pathlib
from collections.abc import Callable
from typing import Any


def save_atomically(save: Callable[..., None], path: str | pathlib.Path | Any, *arguments: Any) -> None:
    """
    Save a model to a temporary file beside the target, which then takes its place.

    :param save: Saves to a path or a stream
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
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save(unfinished, *arguments)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
