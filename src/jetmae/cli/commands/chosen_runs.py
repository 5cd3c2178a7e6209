"""The runs that a command names."""

import argparse
from pathlib import Path

from jetmae.errors import JetmaeError
from jetmae.run_folder import RunFolder, find_run, is_run, runs_below, runs_folder


def chosen_runs(arguments: argparse.Namespace) -> list[RunFolder]:
    """The runs named on the command line, each once, in that order.

    Raises:
        JetmaeError: there is no such run.
    """
    runs_dir = runs_folder(arguments.runs_dir)
    folders = [folder for name in arguments.runs for folder in run_folders(name, runs_dir)]
    return [RunFolder(folder) for folder in dict.fromkeys(folders)]


def only_run(arguments: argparse.Namespace) -> RunFolder:
    """The one run named on the command line.

    Raises:
        JetmaeError: there is no such run, or the name stands for several.
    """
    runs = chosen_runs(arguments)
    if len(runs) != 1:
        names = ", ".join(run.root.name for run in runs)
        raise JetmaeError(f"{arguments.runs[0]} holds {len(runs)} runs: expected one of {names}")
    return runs[0]


def run_folders(name: str, runs_dir: Path) -> list[Path]:
    """The run called `name`, or all runs below a folder of that name, in the order of their first start."""
    for folder in (Path(name), runs_dir / name):
        if not is_run(folder) and (inside := runs_below(folder)):
            return sorted((run.resolve() for run in inside), key=lambda run: (run / "config.yaml").stat().st_mtime)
    return [find_run(name, runs_dir).root]
