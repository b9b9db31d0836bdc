"""The code in the README and in the pages runs as it stands, with short trainings."""

import ast
import pathlib
import re
from typing import Any

import matplotlib
import pytest
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = {page: re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE) for page in PAGES}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if BLOCKS[page]], ids=lambda page: page.stem)
def test_code_of_a_page_runs(page: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = OnPolicyAlgorithm.learn

    def learn_briefly(self: Any, total_timesteps: int, *args: Any, **kwargs: Any) -> Any:
        return learn(self, min(total_timesteps, 64 * self.n_envs), *args, **kwargs)

    monkeypatch.setattr(OnPolicyAlgorithm, "learn", learn_briefly)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    matplotlib.use("Agg")
    names: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(BLOCKS[page], 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


def imports(file: pathlib.Path) -> set[str]:
    """The modules of the package that a file imports, at its top or in a function."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("sb3_nrl.")}


def test_modules_import_only_those_that_come_later_in_the_list() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = text[text.index("later in this list:") : text.index("The tools import the algorithms")]
    modules = [name.removesuffix(".py").rstrip("/") for name in re.findall(r"`([a-z_]+(?:\.py|/))`", listed)]
    for place, module in enumerate(modules):
        path = ROOT / "sb3_nrl" / module
        files = sorted(path.glob("*.py")) or [path.with_suffix(".py")]
        imported = {name for file in files for name in imports(file)}
        assert imported - {module} <= {*modules[place + 1 :]}, module
    assert len(modules) > 20


def test_links_of_the_readme_exist() -> None:
    """Sphinx checks those of the pages."""
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text())
    relative = [target for target in targets if "://" not in target]
    assert len(relative) > 20
    assert [target for target in relative if not (ROOT / target).exists()] == []


@pytest.mark.parametrize(
    "page, table",
    [
        ("README.md", "benchmarks.md"),
        ("docs/nrl.md", "benchmarks.md"),
        ("docs/rmhl.md", "benchmarks.md"),
        ("docs/bptt.md", "ablation.md"),
    ],
)
def test_excerpts_have_the_numbers_of_the_generated_tables(page: str, table: str) -> None:
    generated = (ROOT / "docs" / table).read_text()
    section = generated[generated.index("<!--") : generated.rindex("<!--")].replace("-", "−")
    rows = re.findall(r"^\| [\w-]+-v\d.*", (ROOT / page).read_text(), re.MULTILINE)
    section = section.replace("1.26e+03", "1,260").replace("1.42e+03", "1,420")
    assert len(rows) >= 5
    numbers = [
        number
        for row in rows
        for number in re.findall(r"(?<![\w,.])−?[\d,]*\d(?:\.\d+)?(?![\w,.])", row.split("|", 2)[2])
    ]
    assert len(numbers) > len(rows)
    assert [number for number in numbers if number not in section] == []
