"""Make tables and figures, and write them into folders and documents."""

import io
import math
import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure

from experiments.runs import ROOT, write_whole

DOCS = ROOT / "docs"
"""Folder of the pages, each table in one of them."""

BLUE, LIGHT_BLUE, ORANGE, GREEN, BLACK, GREY = "#0072b2", "#56b4e9", "#d55e00", "#009e73", "#000000", "#808080"
"""Colours that people with colour blindness can distinguish."""


def number(value: float, digits: int = 3) -> str:
    """Format a number of a usual size with some significant digits; a dash if it is not finite."""
    return f"{float(f'{value:.{digits}g}'):,.10g}".replace("-", "−") if math.isfinite(value) else "–"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    lines = (" | ".join(row) for row in (header, *rows))
    first, *others = (f"| {line} |" for line in lines)
    return "\n".join([first, "|" + "---|" * len(header), *others])


def section(document: pathlib.Path, name: str) -> tuple[str, str, str]:
    """
    Split a document at a section that a command makes, between two comments: the text before the section, the section,
    and the text after it.
    """
    start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, _, rest = document.read_text().partition(start)
    text, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{document} has no section {name!r}")
    return before + start, text, end + after


def publish(text: str, folder: pathlib.Path, name: str, document: pathlib.Path) -> None:
    """Print a table. If its results are the committed ones, also write it into its section of a document."""
    print(text)
    if folder.resolve() == ROOT / "results" / name:
        before, _, after = section(document, name)
        write_whole(document, before + text + after)


def save(figure: Figure, path: pathlib.Path) -> None:
    """Write a figure atomically, and print its path."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_whole(path, picture.getvalue())
    print(f"See {path}")
