"""Find out what is wrong before a job waits in the queue for hours.

    jetmae doctor                                  this machine, the cluster, the run folder
    jetmae doctor --data data/mine --nodes 2 --gpus-per-node 4 --time 12:00:00
    jetmae doctor --job --nodes 2 --gpus-per-node 4     also a short job (two minutes) on such nodes

In a clone: python jobs/doctor.py. Give it the same Slurm options as the job it is for. Every line says ok, warning or
FAILED; below the last two, what it means and what to do. Exit code 0 if nothing failed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jetmae.cli.dispatch import run_command, set_command
from jetmae.cli.launch import add_cluster_option, add_slurm_options, positive


def main(words: Sequence[str] | None = None, program: str | None = None) -> int:
    """`words` are what was typed behind the name of the program."""
    return run_command(make_parser(program).parse_args(words))


def make_parser(program: str | None = None) -> argparse.ArgumentParser:
    """All options of doctor."""
    parser = argparse.ArgumentParser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    set_command(parser, "doctor")
    parser.add_argument("--runs-dir", help="where runs will be kept (default: $JETMAE_RUNS, or runs/)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a converted dataset to look at")
    size_help = "size of the network, for the size of a checkpoint (%(default)s: the seed preset)"
    parser.add_argument("--million-parameters", type=float, default=70.0, metavar="M", help=size_help)
    parser.add_argument("--checkpoints", type=int, default=2, help="checkpoints a run keeps (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--job", action="store_true", help="submit a short job and see what its ranks find")
    parser.add_argument("--wait-min", type=float, default=30.0, help="minutes to wait for that job (%(default)s)")
    add_cluster_option(parser)
    parser.add_argument("--nodes", type=positive, metavar="N", help="as for launch.py, like all options below")
    parser.add_argument("--ranks-per-node", type=positive, metavar="N")
    add_slurm_options(parser, "what the job will ask for")
    return parser
