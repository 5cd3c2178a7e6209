"""data verify: every byte and value of a dataset is read."""

import argparse

from jetmae.data.inspect import verify_dataset
from jetmae.errors import EXIT_BAD_DATA


def run(arguments: argparse.Namespace) -> int:
    """A line for each problem."""
    problems = verify_dataset(arguments.folder)
    for problem in problems:
        print(problem)
    print(f"{arguments.folder}: {f'{len(problems)} problems' if problems else 'no problems found'}")
    return EXIT_BAD_DATA if problems else 0
