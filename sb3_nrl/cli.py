"""The ``sb3-nrl`` command. It reports a user's mistake in one line."""

import argparse
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any, TextIO

from sb3_nrl import __version__

COMMANDS = {
    "train": "train an agent, resume a run (-i), or tune hyper-parameters (-optimize)",
    "enjoy": "watch a trained agent",
    "record-video": "record a video of a trained agent",
    "push": "upload a trained agent to the Hugging Face Hub",
    "pull": "download a trained agent from the Hugging Face Hub",
    "plot-train": "plot the returns of training",
    "all-plots": "plot and tabulate evaluations of several algorithms and environments",
    "plot-from-file": "plot the file that all-plots saved",
}

EXAMPLES = """
examples:
  sb3-nrl train --algo nrl --env CartPole-v1 -P            train with the shipped hyper-parameters, into logs/nrl/
  sb3-nrl train -i logs/nrl/CartPole-v1_1                  resume that run
  sb3-nrl enjoy --algo nrl --env CartPole-v1               watch the agent of the latest run

Algorithms: nrl (the default), rmhl, bptt, and those of the RL Zoo. Each command has a --help of its own.
"""

_LIBRARIES = tuple(
    os.path.join(folder, "")
    for folder in (
        *(*site.getsitepackages(), site.getusersitepackages()),
        *(sysconfig.get_path("stdlib"), os.path.dirname(__file__)),
    )
)
"""Folders of this package and of other libraries, whose code is not the user's."""


class _WithoutUsage:
    """Standard error without argparse's usage text, which is too long to find the message below it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith("usage: ") else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _frames(error: BaseException | None) -> list[traceback.FrameSummary]:
    """The stack frames of an error and of the errors that caused it."""
    if error is None:
        return []
    return [*_frames(error.__cause__ or error.__context__), *traceback.extract_tb(error.__traceback__)]


def _describe(error: Exception) -> str:
    """
    Describe an error in one line. If no ``raise`` or ``assert`` raised it, or if it has no text, the line includes its
    type and the line of code.
    """
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    if any(frame.name == "__call__" and "eval(" in (frame.line or "") for frame in frames):
        return f"{text}: in name:value, write text in quotes, as \"noise_distribution:'uniform'\""
    last = frames[-1]
    if text and (last.line or "").startswith(("raise ", "assert ")):
        return text
    return f"{': '.join(filter(None, [type(error).__name__, text]))} ({last.filename}:{last.lineno}: {last.line})"


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run a command, and report a mistake in its arguments in one line. An error in the user's own code, such as an
    environment or a callback, keeps its traceback. With ``--verbose 2``, every error does.

    :param arguments: The arguments after ``sb3-nrl``, by default those of the process
    """
    table = "\n".join(f"  {name:16}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="sb3-nrl",
        usage="sb3-nrl COMMAND ...",
        description=f"Noise-based reward-modulated learning: train, tune and watch agents.\n\ncommands:\n{table}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sb3-nrl {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = parser.parse_args((sys.argv[1:] if arguments is None else arguments) or ["--help"])
    options = argparse.ArgumentParser(prog=f"sb3-nrl {chosen.command}", add_help=False, allow_abbrev=False)
    options.add_argument("--verbose", type=int, default=1)
    given, others = options.parse_known_args(chosen.arguments)
    try:
        from sb3_nrl import scripts  # here, since it needs an extra

        with redirect_stderr(_WithoutUsage(sys.stderr)):
            scripts.run(chosen.command, chosen.arguments if chosen.command in ("train", "enjoy") else others)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if given.verbose > 1 or not all(frame.filename.startswith((*_LIBRARIES, "<")) for frame in _frames(error)):
            raise
        sys.exit(f"sb3-nrl {chosen.command}: {_describe(error)} (--verbose 2 shows the traceback)")
