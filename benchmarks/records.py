"""What every benchmark keeps: results written whole or not at all, and what they were made with."""

import csv
import io
import os
import pathlib
from collections.abc import Iterable, Sequence

from sb3_nrl.reproduce.runs import made_with, write_whole

ROOT = pathlib.Path(__file__).parents[1]


def versions() -> str:
    """Versions, commit and machine, in a line."""
    return f"{made_with()}, {os.cpu_count()} cores, one used"


def write(path: pathlib.Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file whole or not at all."""
    table = io.StringIO(newline="")
    csv.writer(table).writerows(rows)
    write_whole(path, table.getvalue().encode())


def add(path: pathlib.Path, columns: Sequence[str], row: Sequence[object]) -> None:
    """Add a row to a CSV file, which other processes may have added to since, and which is made if it is not there."""
    rows: list[list[str]] = []
    if path.exists():
        with path.open() as file:
            _, *rows = csv.reader(file)
    write(path, [columns, *rows, row])
