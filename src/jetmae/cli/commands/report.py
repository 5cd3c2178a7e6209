"""runs report: one HTML page with its pictures, and the comparison as a table."""

import argparse
import os
from pathlib import Path

import yaml

from jetmae.cli.commands.chosen_runs import chosen_runs
from jetmae.report import comparison, page
from jetmae.run_folder import RunFolder


def run(arguments: argparse.Namespace) -> None:
    """Of the runs that are named, in that order."""
    runs = chosen_runs(arguments)
    folders = [folder.root for folder in [run for run in runs if may_read_test(run)] or runs]
    home = Path(os.path.commonpath([folder.parent for folder in folders]))
    written = page.write_report(folders, arguments.out or home / "report", title=arguments.title or home.name)
    comparison.print_table(comparison.comparison_table(folders))
    print(f"report: {written}")


def may_read_test(run: RunFolder) -> bool:
    """Not those of a search, which would be many rows without a result."""
    content = yaml.safe_load(run.config.read_text(encoding="utf-8", errors="replace"))
    data = content.get("data") if isinstance(content, dict) else None
    return not isinstance(data, dict) or data.get("use_test", True)
