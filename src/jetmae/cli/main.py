"""`jetmae`: one program for all commands. In a clone, jobs/*.py are parts of it."""

import difflib
import sys
from collections.abc import Callable, Sequence

from jetmae.cli import data, doctor, launch, runs
from jetmae.errors import JetmaeError, exit_with_one_line
from jetmae.presets import TASKS

USAGE = """\
usage: jetmae COMMAND ...

  pretrain | finetune | scratch | probe    train a network: locally, or as a Slurm job
  chain                                    pretrain, then the others, then the report
  study   labels | targets | masks         many runs by one protocol, then one report
  data    simulate | convert | verify | stats
  runs    list | status | logs | cancel | requeue | tensorboard | report | goodput
  doctor  is this machine, cluster and storage fit for a long job?

`jetmae COMMAND --help` tells more. The documentation is in docs/ of the project.
"""
Main = Callable[[Sequence[str], str], int]
COMMANDS: dict[str, Main] = {"data": data.main, "runs": runs.main, "doctor": doctor.main}


def main(words: Sequence[str]) -> int:
    """Run the command that the words say.

    Raises:
        JetmaeError: there is no such command.
    """
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if words[0] in (*TASKS, "chain", "study"):
        return launch.main(words, "jetmae")
    if words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:], f"jetmae {words[0]}")
    known = [*TASKS, "chain", "study", *COMMANDS]
    near = difflib.get_close_matches(words[0], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
    raise JetmaeError(f"jetmae has no command {words[0]!r}: {hint} See jetmae --help")


def program() -> None:
    """What is installed as `jetmae`."""
    exit_with_one_line(lambda: main(sys.argv[1:]))
