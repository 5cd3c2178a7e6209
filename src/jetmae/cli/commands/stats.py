"""data stats: what a dataset holds."""

import argparse

from jetmae.data.inspect import dataset_statistics


def run(arguments: argparse.Namespace) -> None:
    """As tables, and as pictures if they are asked for."""
    dataset_statistics(arguments.folder, arguments.pictures)
