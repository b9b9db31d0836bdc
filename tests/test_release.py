"""What a release consists of: one version everywhere, and a conda recipe with the requirements of the wheel."""

import pathlib
import re

import pytest
import yaml

import sb3_nrl

ROOT = pathlib.Path(__file__).parents[1]
OTHER_NAMES = {"torch": "pytorch"}
"""Names in conda-forge of packages that have another name there."""


def test_all_files_have_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    recipe = (ROOT / "conda" / "recipe.yaml").read_text()
    found = re.search(r"^  version: (.+)$", recipe, re.MULTILINE)
    newest = re.search(r"^## \[(\d.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert found is not None and newest is not None
    assert {citation["version"], found[1], newest[1]} == {sb3_nrl.__version__}


def test_conda_recipe_is_valid_and_has_the_requirements_of_the_wheel() -> None:
    rattler_build, tomllib = (pytest.importorskip(name) for name in ("rattler_build", "tomllib"))
    recipe = rattler_build.Stage0Recipe.from_file(str(ROOT / "conda" / "recipe.yaml"))
    (variant,) = recipe.render(rattler_build.VariantConfig())
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, built_with = pyproject["project"], pyproject["build-system"]["requires"]
    wanted = {f"python{project['requires-python']}"}
    for requirement in project["dependencies"]:
        name = re.split("[<>=]", requirement)[0]
        wanted.add(requirement.replace(name, OTHER_NAMES.get(name, name)))
    assert {text.replace(" ", "") for text in variant.recipe.requirements.run} == wanted
    text = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text())
    scripts = [f"{name} = {target}" for name, target in project["scripts"].items()]
    assert text["build"]["python"]["entry_points"] == scripts
    assert {line.replace(" ", "") for line in text["requirements"]["host"]} >= set(built_with)
