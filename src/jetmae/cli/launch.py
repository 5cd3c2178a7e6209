"""Start an experiment, or go on with it.

    jetmae pretrain --nodes 2
    jetmae finetune init_from=pretrain-small optim.lr=1e-4 --array seed=0..4
    jetmae chain data.path=data/mine          pretrain, finetune, scratch, both probes, report

In a clone: python jobs/launch.py instead of jetmae. The resolved configuration is frozen in the run folder, and the run
is started in it: as a Slurm job where there is Slurm, otherwise as processes of this machine. The same command again
continues the run, or says that it is complete.
"""

import argparse
from collections.abc import Sequence

from jetmae.cli.dispatch import run_command, set_command
from jetmae.presets import TASKS
from jetmae.slurm.time_limit import minutes

STARTS = 10  # of a run that cannot be requeued, if not told otherwise


def main(words: Sequence[str] | None = None, program: str | None = None) -> int:
    """`words` are what was typed behind the name of the program."""
    return run_command(make_parser(program).parse_intermixed_args(words))


def make_parser(program: str | None = None) -> argparse.ArgumentParser:
    """All options of the training commands."""
    parser = argparse.ArgumentParser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    set_command(parser, "train")
    parser.add_argument("task", choices=(*TASKS, "chain"))
    overrides_help = "a setting, e.g. optim.lr=3e-4; in a chain, pretrain.optim.lr=3e-4 is for that task alone"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=overrides_help)
    parser.add_argument("--config", default="small", help="preset configs/TASK/NAME.yaml, or a file (default: small)")
    parser.add_argument("--name", help="run name below the runs folder (default: TASK-CONFIG)")
    parser.add_argument("--runs-dir", help="default: $JETMAE_RUNS, or runs/")
    parser.add_argument("--array", metavar="KEY=VALUES", help="one run per value, e.g. seed=0..4")
    parser.add_argument("--dry-run", action="store_true", help="print configuration and sbatch script, start nothing")
    parser.add_argument("--freeze", action="store_true", help="write the run folder, print its path, start nothing")
    code = parser.add_mutually_exclusive_group()
    refresh_help = "freeze today's code in the run folder; otherwise a run keeps the code of its first launch"
    code.add_argument("--refresh-code", action="store_true", help=refresh_help)
    live_help = "freeze no code: whatever the sources are when a job starts or comes back, it runs that"
    code.add_argument("--live-code", action="store_true", help=live_help)
    add_cluster_option(parser)
    parser.add_argument("--nodes", type=positive, help="machines (locally: nodes x ranks processes here)")
    parser.add_argument("--ranks-per-node", type=positive, help="default: one per GPU, or 1")
    slurm = add_slurm_options(parser, "what the job asks for; the site's preset gives the rest")
    slurm.add_argument("--dependency", metavar="DEPENDENCY")
    no_requeue_help = "where jobs cannot be requeued: submit N starts, one after the other (default: %(const)s)"
    slurm.add_argument("--no-requeue", nargs="?", const=STARTS, type=positive, metavar="N", help=no_requeue_help)
    return parser


def add_cluster_option(parser: argparse.ArgumentParser) -> None:
    """--cluster, which says where ranks run."""
    known = "local: processes of this machine; slurm, or a site of configs/cluster/; auto: slurm if sbatch exists"
    parser.add_argument("--cluster", default="auto", help=known)


def add_slurm_options(parser: argparse.ArgumentParser, description: str) -> argparse._ArgumentGroup:
    """What a job asks Slurm for beside nodes and ranks; the group takes more options."""
    slurm = parser.add_argument_group("Slurm", description)
    for option in ("partition", "account", "qos", "constraint", "mem"):
        slurm.add_argument(f"--{option}", metavar=option.upper())
    slurm.add_argument("--time", dest="time_min", type=time_limit, metavar="TIME", help="minutes, H:MM:SS or D-H")
    slurm.add_argument("--lead-time-s", type=positive, metavar="S", help="warning before the time limit")
    slurm.add_argument("--gpus-per-node", type=positive, metavar="N")
    slurm.add_argument("--cpus-per-task", type=positive, metavar="N")
    sbatch_help = "a further sbatch option, of an allow-list"
    slurm.add_argument("--sbatch", action="append", default=[], metavar="KEY=VALUE", help=sbatch_help)
    return slurm


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return value


def time_limit(text: str) -> int:
    """Slurm's way to write a time limit, in minutes."""
    try:
        return minutes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
