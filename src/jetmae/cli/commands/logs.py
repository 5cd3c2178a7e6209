"""runs logs: what a run prints, now or as it comes."""

import argparse
import sys

from jetmae.cli.commands.chosen_runs import only_run
from jetmae.watch.logs import Reader, follow, log_files
from jetmae.watch.status import RunStatus, queue_for, status_of


def run(arguments: argparse.Namespace) -> int:
    """Exit code 1 if it was followed to its end and is not complete."""
    folder = only_run(arguments)

    def status() -> RunStatus:
        return status_of(folder, queue_for([folder]))

    reader = Reader(lambda: log_files(folder, arguments.rank))
    if not arguments.follow:
        if not reader.copy():
            who = "the run" if arguments.rank is None else f"rank {arguments.rank}"
            print(f"{folder.root} is {status().state}; {who} has written nothing", file=sys.stderr)
        return 0
    follow(reader, has_ended=lambda: status().has_ended)
    print(f"{folder.root} is {status().state}", file=sys.stderr)
    return 0 if folder.completed.exists() else 1
