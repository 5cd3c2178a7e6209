"""runs report: one HTML page with its pictures, and the comparison as a table."""

import argparse
import os
from pathlib import Path

from jetmae.cli.commands.chosen_runs import chosen_runs
from jetmae.report import comparison, page


def run(arguments: argparse.Namespace) -> None:
    """Of the runs that are named, in that order."""
    folders = [folder.root for folder in chosen_runs(arguments)]
    home = Path(os.path.commonpath([folder.parent for folder in folders]))
    written = page.write_report(folders, arguments.out or home / "report", title=arguments.title or home.name)
    comparison.print_table(comparison.comparison_table(folders))
    print(f"report: {written}")
