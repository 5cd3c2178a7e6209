#!/usr/bin/env python3
"""jetmae's `doctor` command, in a clone: the same as the installed one. See src/jetmae/cli/doctor.py."""

from jetmae.cli.doctor import main
from jetmae.errors import exit_with_one_line

if __name__ == "__main__":
    exit_with_one_line(main)
