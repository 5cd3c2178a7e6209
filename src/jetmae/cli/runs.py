"""Look at runs, and act on their jobs.

    jetmae runs list
    jetmae runs status RUN...        where it is, when it ends, its attempts, where its time went
    jetmae runs logs RUN [-f]        what it prints; -f follows it across requeues until it is complete
    jetmae runs cancel RUN...        end its job; the command that launched it goes on where it stopped
    jetmae runs requeue RUN          stop its job now and let it start again
    jetmae runs tensorboard [RUN...]
    jetmae runs report RUN...        one HTML page with its pictures, and the comparison as a table
    jetmae runs goodput [RUN]        how often to save, and what remains of the time, on 8 to 16,384 GPUs

In a clone: python jobs/runs.py instead of jetmae runs. RUN is a run's name or folder; a folder of runs means all of
them.
"""

import argparse
import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from jetmae.cli.dispatch import run_command, set_command

GOODPUT_TIMES = {  # of a goodput simulation: what a run shows, or an option gives
    "step_s": "an optimizer step",
    "interval_s": "training between two saves at present",
    "save_stall_s": "training is held by a save",
    "save_s": "from the beginning of a save until it is committed",
    "restore_s": "reading a checkpoint",
    "start_s": "from the start of a job to its first step, without restoring",
    "requeue_s": "from the end of a job to its next start",
    "lost_s": "from the last logged step to the end of a job that failed",
}
ABOVE_ZERO = ("step_s", "interval_s")
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  argparse has no public name for it


def main(words: Sequence[str] | None = None, program: str | None = None) -> int:
    """`words` are what was typed behind the name of the program."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a word, as any program
    return run_command(make_parser(program).parse_args(words))


def make_parser(program: str | None = None) -> argparse.ArgumentParser:
    """All options of the commands that concern runs."""
    parser = argparse.ArgumentParser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs-dir", help="default: $JETMAE_RUNS, or runs/")
    commands = parser.add_subparsers(dest="command", required=True)
    _add(commands, "list", "list_runs", "all runs: state, step, ETA, speed, job")
    _add(commands, "status", "status", "everything about a run", runs="+")
    logs = _add(commands, "logs", "logs", "what a run prints", runs="1")
    logs.add_argument("-f", "--follow", action="store_true", help="until the run is complete, across requeues")
    logs.add_argument("--rank", type=_rank, metavar="N", help="all output of one rank instead of the run's log")
    _add(commands, "cancel", "cancel", "end the job of a run", runs="+")
    _add(commands, "requeue", "requeue", "stop the job of a run and let it start again", runs="1")
    board = _add(commands, "tensorboard", "tensorboard", "curves of these or of all runs, through ssh", runs="*")
    board.add_argument("--port", type=_port, help="default: a free one")
    report = _add(commands, "report", "report", "write report/report.html", runs="+")
    report.add_argument("-o", "--out", type=Path, help="folder to write into (default: report/ beside the runs)")
    report.add_argument("--title", help="default: the name of the folder that holds the runs")
    _add_goodput(_add(commands, "goodput", "goodput", "what failures cost, by number of GPUs", runs="?"))
    return parser


def _add(commands: Commands, name: str, module: str, description: str, *, runs: str = "") -> argparse.ArgumentParser:
    """A command on as many runs as `runs` says: none, "1", "?", "+" or "*"."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=description)
    parser.add_argument("--runs-dir", default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # also behind the command
    if runs:
        parser.add_argument("runs", metavar="RUN", nargs=1 if runs == "1" else runs)
    set_command(parser, module)
    return parser


def _add_goodput(parser: argparse.ArgumentParser) -> None:
    for name, meaning in GOODPUT_TIMES.items():
        number = _positive if name in ABOVE_ZERO else _seconds
        help_text = f"{meaning} (default: measured on RUN)"
        parser.add_argument("--" + name.replace("_", "-"), type=number, metavar="S", help=help_text)
    mtbf_help = "mean time between failures of one GPU, in hours (default: 50,700, Llama 3's on 16,384 GPUs)"
    parser.add_argument("--mtbf-gpu-h", type=_positive, metavar="H", help=mtbf_help)


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port, 1 to 65535")
    return int(text)


def _rank(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: expected the number of a rank, from 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value_s = float(text)
    except ValueError:
        value_s = math.nan
    if not 0 <= value_s < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of at least 0")
    return value_s


def _positive(text: str) -> float:
    value = _seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return value
