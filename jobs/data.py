#!/usr/bin/env python3
"""jetmae's `data` command, in a clone: the same as the installed one. See src/jetmae/cli/data.py."""

from jetmae.cli.data import main
from jetmae.errors import exit_with_one_line

if __name__ == "__main__":
    exit_with_one_line(main)
