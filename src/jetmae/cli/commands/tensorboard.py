"""runs tensorboard: curves, on loopback, and the ssh line that leads there."""

import argparse
import os

from jetmae.cli.commands.chosen_runs import chosen_runs
from jetmae.run_folder import runs_folder
from jetmae.watch import board


def run(arguments: argparse.Namespace) -> None:
    """Of the runs that are named, or of all of them."""
    if not arguments.runs:
        board.serve(["--logdir", str(runs_folder(arguments.runs_dir))], arguments.port)
    runs = chosen_runs(arguments)
    home = os.path.commonpath([run.root.parent for run in runs])
    board.serve(board.named({os.path.relpath(run.root, home): run.tensorboard for run in runs}), arguments.port)
