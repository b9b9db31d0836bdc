"""The ``sb3-nrl`` command."""

import argparse
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import gymnasium

from sb3_nrl import __version__

EXAMPLES = """
examples:
  sb3-nrl train --algo nrl --env CartPole-v1 -P            the shipped hyper-parameters, into logs/nrl/
  sb3-nrl train --algo nrl --env CartPole-v1 -conf paper   the paper's
  sb3-nrl train --algo nrl --env CartPole-v1 -params noise_std:0.1 n_envs:4
  sb3-nrl train --algo nrl --env CartPole-v1 --save-freq 10000 -tb runs
  sb3-nrl train -i logs/nrl/CartPole-v1_1                  go on with that run
  sb3-nrl train --algo nrl --env CartPole-v1 -optimize --n-trials 50 -n 100000
                                                           tune; start it in several processes to share the work
  sb3-nrl enjoy --algo nrl --env CartPole-v1               watch the latest run
  sb3-nrl plot-train -a nrl -e CartPole-v1 -f logs         learning curves

Algorithms: nrl (the default), rmhl, bptt, and those of the RL Zoo. Environments: all of Gymnasium's, and
neurogym/<Task>-v0. Text has quotes of its own: -params "noise_distribution:'uniform'".
Each command has a --help of its own.
"""

_MISTAKES = (
    AssertionError,
    AttributeError,
    FloatingPointError,
    ImportError,
    NameError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    gymnasium.error.Error,
)
"""
What a wrong argument, file or environment raises, or a learning rate that is too high. Arguments of the zoo are
evaluated as Python.
"""

_LIBRARIES = (
    "<",  # no file at all
    *(
        os.path.join(folder, "")
        for folder in (
            sysconfig.get_path("stdlib"),
            *site.getsitepackages(),
            site.getusersitepackages(),
            os.path.dirname(__file__),
        )
    ),
)
"""How the files begin that are not the user's."""


class Command(NamedTuple):
    """
    One command of ``sb3-nrl``.

    :param help: What it does, in a line
    :param run: Does it, given the arguments that follow its name
    """

    help: str
    run: Callable[[list[str]], None]


def _run_zoo(command: str, arguments: list[str]) -> None:
    from sb3_nrl import zoo  # here, since it needs an extra

    zoo.run(command, arguments)


COMMANDS = {
    name: Command(text, partial(_run_zoo, name))
    for name, text in {
        "train": "train an agent, go on with a run (-i), or tune hyper-parameters (-optimize)",
        "enjoy": "watch a trained agent",
        "record-video": "film it",
        "plot-train": "plot the returns of training",
        "all-plots": "plot and tabulate evaluations, of several algorithms and environments",
        "plot-from-file": "plot what all-plots saved",
    }.items()
}


def _is_in_code_of_the_user(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, passed through a file of the user's own."""
    while error is not None:
        if any(not step.filename.startswith(_LIBRARIES) for step in traceback.extract_tb(error.__traceback__)):
            return True
        error = error.__cause__ or error.__context__
    return False


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run a command, and report a mistake in its arguments in one line. What fails in a file of the user's own, such as an
    environment or a callback, keeps its traceback; everything does with ``--verbose 2``.

    :param arguments: What follows ``sb3-nrl`` on the command line, by default that of the process
    """
    table = "\n".join(f"  {name:16}{command.help}" for name, command in COMMANDS.items())
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
    try:
        COMMANDS[chosen.command].run(chosen.arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except _MISTAKES as error:
        options = argparse.ArgumentParser(add_help=False)
        options.add_argument("--verbose", type=int, default=1)
        if options.parse_known_args(chosen.arguments)[0].verbose > 1 or _is_in_code_of_the_user(error):
            raise
        sys.exit(f"sb3-nrl {chosen.command}: {' '.join(str(error).split()) or type(error).__name__}")
