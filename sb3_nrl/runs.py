"""Folders of the RL Zoo's runs: read their settings as data, and find their undamaged models."""

import json
import pickle
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.vec_env import VecNormalize

_PYTHON = "tag:yaml.org,2002:python/"


@dataclass(frozen=True)
class Unread:
    """An object in a YAML file that would need code to be made. It is written to a file as it was read."""

    node: yaml.Node


class _Loader(yaml.SafeLoader):
    """Makes plain data, tuples and ordered dictionaries. Every other Python object stays unread."""


_ORDERED_DICT = f"{_PYTHON}object/apply:collections.OrderedDict"
_Loader.add_constructor(_ORDERED_DICT, lambda loader, node: dict(loader.construct_sequence(node, deep=True)[0]))
_Loader.add_constructor(f"{_PYTHON}tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True)))
_Loader.add_multi_constructor(_PYTHON, lambda loader, tag, node: Unread(node))
yaml.add_representer(Unread, lambda dumper, unread: unread.node)


def is_data(value: Any) -> bool:
    """Whether a value contains no :class:`Unread` object."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return not isinstance(value, Unread) and all(map(is_data, parts))


def read(file: Path) -> dict[str, Any]:
    """
    Read a YAML file of the RL Zoo without running code from it.

    :raises ValueError: If the file is damaged
    """
    try:
        return dict(yaml.load(file.read_text(), Loader=_Loader))
    except (yaml.YAMLError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def is_config_of_run(config: str | None) -> bool:
    """Whether a config is the ``config.yml`` of a run, so that this run is resumed."""
    return config is not None and Path(config).name == "config.yml" and Path(config).with_name("args.yml").exists()


def steps_of(model: Path) -> int:
    """The number of steps in the name of a checkpoint, or -1 for any other model."""
    match = re.fullmatch(r"rl_model_(\d+)_steps\.zip", model.name)
    return int(match[1]) if match else -1


def statistics_of(model: Path, env_name: str) -> Path:
    """The file with the statistics of ``VecNormalize`` that were saved with a model."""
    if (steps := steps_of(model)) >= 0:
        return model.with_name(f"rl_model_vecnormalize_{steps}_steps.pkl")
    return model.parent / env_name / "vecnormalize.pkl"


def check(model: Path, statistics: Path | None = None) -> int:
    """
    Check that the files of a model are not damaged. The pickles in the model are not loaded. The pickle with the
    statistics of ``VecNormalize`` is.

    :return: The steps that the model has done
    :raises ValueError: If one of the files is damaged or missing
    """
    file = model
    try:
        with zipfile.ZipFile(model) as archive:
            if (part := archive.testzip()) is not None:
                raise zipfile.BadZipFile(part)
            n_steps = int(json.loads(archive.read("data"))["num_timesteps"])
        if statistics is not None:
            file = statistics
            if not isinstance(pickle.loads(statistics.read_bytes()), VecNormalize):
                raise TypeError("not a VecNormalize")
    except Exception as error:  # a damaged file can raise anything
        problem = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({type(error).__name__}: {error})"
        raise ValueError(f"{file} is {problem}") from error
    return n_steps


class Run:
    """
    The folder of a run.

    :param folder: For example ``logs/nrl/CartPole-v1_1``
    :raises ValueError: If it is not the folder of a run
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("*/args.yml"))
        if not files:
            raise ValueError(f"{folder} is not the folder of a run: none of its folders has an args.yml")
        self.folder = folder
        self.settings = files[0].parent
        self.arguments = read(files[0])
        self.normalizes = bool(read(self.settings / "config.yml").get("normalize"))

    def models(self) -> list[Path]:
        """The last model, the checkpoints in reverse order, and the model from which the run was resumed."""
        models = [self.folder / f"{self.settings.name}.zip"]
        models += sorted(self.folder.glob("rl_model_*_steps.zip"), key=steps_of, reverse=True)
        if is_config_of_run(self.arguments["conf_file"]):
            models.append(Path(self.arguments["trained_agent"]))
        return [model for model in models if model.exists()]

    def first_whole(self, models: Iterable[Path]) -> tuple[Path, int]:
        """
        Find the first model whose file is not damaged and, if the run normalizes, whose statistics are not damaged.

        :return: The model, and the steps that it has done
        :raises ValueError: If there is none
        """
        faults = []
        for model in models:
            try:
                n_steps = check(model, statistics_of(model, self.settings.name) if self.normalizes else None)
            except ValueError as error:
                faults.append(str(error))
            else:
                print(*faults, f"The model is {model}", sep="\n")
                return model, n_steps
        raise ValueError(f"{self.folder} has no model to use: {'; '.join(faults) or 'train with --save-freq'}")
