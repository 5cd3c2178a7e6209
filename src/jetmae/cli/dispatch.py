"""From what was typed to the module that does it.

Options are defined in modules that import nothing heavy, so that --help answers at once. Each command has a module of
its own below cli/commands, which imports what it needs when it is chosen, and has `run(arguments)`.
"""

import argparse
from importlib import import_module


def set_command(parser: argparse.ArgumentParser, module: str) -> None:
    """The command of this parser is cli/commands/MODULE.py."""
    parser.set_defaults(command_module=f"jetmae.cli.commands.{module}")


def run_command(arguments: argparse.Namespace) -> int:
    """Import the chosen command and run it; its exit code."""
    return import_module(arguments.command_module).run(arguments) or 0
