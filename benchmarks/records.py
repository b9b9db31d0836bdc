"""What every benchmark keeps: results written whole or not at all, and what they were made with."""

import csv
import io
import os
import pathlib
from collections.abc import Iterable

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
