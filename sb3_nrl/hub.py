"""What the RL Zoo's scripts for the Hugging Face Hub lack to push and pull the agents of this package."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_sb3
import requests

_COMMANDS = {
    "pip install rl_zoo3": "pip install 'sb3-nrl[zoo]'",
    "python -m rl_zoo3.load_from_hub": "TRUST_REMOTE_CODE=True sb3-nrl pull",
    "python -m rl_zoo3.push_to_hub": "sb3-nrl push",
    "python -m rl_zoo3.": "sb3-nrl ",
}
"""Commands of the RL Zoo in its model cards, which do not know this package's algorithms, and those that do."""


@contextmanager
def mended_scripts() -> Iterator[None]:
    """
    Mend three faults of the RL Zoo's scripts while they run: they import ``generate_metadata``, which the Hub's package
    has by another name since 3.2; they expect another error for a file that is missing on the Hub; and model cards name
    commands that do not know the algorithms of this package.
    """
    module: Any = importlib.import_module("huggingface_sb3.push_to_hub")  # the package has a function of this name
    if not hasattr(module, "generate_metadata"):
        module.generate_metadata = lambda *of: module._generate_metadata(*of).to_dict()
    mends = [
        (huggingface_sb3, "load_from_hub", _with_the_expected_error(huggingface_sb3.load_from_hub)),
        (huggingface_hub, "HfApi", _with_our_commands(huggingface_hub.HfApi)),
    ]
    before = [(place, name, getattr(place, name)) for place, name, _ in mends]
    try:
        for place, name, value in mends:
            setattr(place, name, value)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def _with_the_expected_error(load: Callable[[str, str], str]) -> Callable[[str, str], str]:
    def load_from_hub(repo_id: str, filename: str) -> str:
        try:
            return load(repo_id, filename)
        except huggingface_hub.errors.EntryNotFoundError as error:
            raise requests.HTTPError(str(error)) from error

    return load_from_hub


def _with_our_commands(api: type[Any]) -> type[Any]:
    class Api(api):
        def upload_folder(self, *, folder_path: Path, **arguments: Any) -> Any:
            card = Path(folder_path, "README.md")
            text = card.read_text()
            for theirs, ours in _COMMANDS.items():
                text = text.replace(theirs, ours)
            card.write_text(text)
            return super().upload_folder(folder_path=folder_path, **arguments)

    return Api
