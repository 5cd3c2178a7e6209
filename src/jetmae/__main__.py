"""`python -m jetmae` is `jetmae`."""

from jetmae.cli.main import program

program()
