"""Start an experiment, or go on with it.

    jetmae pretrain --nodes 2
    jetmae finetune init_from=pretrain-small optim.lr=1e-4 --array seed=0..4
    jetmae chain data.path=data/mine          pretrain, finetune, scratch, both probes, report
    jetmae study labels --config FILE         many runs by one protocol; see jetmae study --help

In a clone: python jobs/launch.py instead of jetmae. The resolved configuration is frozen in the run folder, and the run
is started in it: as a Slurm job where there is Slurm, otherwise as processes of this machine. The same command again
continues the run, or says that it is complete.
"""

import argparse
import sys
from collections.abc import Sequence

from jetmae.cli.dispatch import run_command, set_command
from jetmae.presets import TASKS
from jetmae.slurm.time_limit import minutes

STUDIES = ("labels", "targets", "masks")
STUDY_HELP = """\
Train many runs by one protocol, then make one report. labels: test AUC against the number of labels, with settings
chosen on validation jets. targets, masks: recipes of pretraining side by side. The same command again goes on."""
STARTS = 10  # of a run that cannot be requeued, if not told otherwise


def main(words: Sequence[str] | None = None, program: str | None = None) -> int:
    """`words` are what was typed behind the name of the program."""
    words = sys.argv[1:] if words is None else list(words)
    if words[:1] == ["study"]:
        arguments = make_study_parser(program).parse_intermixed_args(words[1:])
        return run_command(argparse.Namespace(**vars(arguments), words=words))
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
    parser.add_argument("--array", metavar="KEY=VALUES", help="one run per value, e.g. seed=0..4")
    parser.add_argument("--freeze", action="store_true", help="write the run folder, print its path, start nothing")
    slurm = add_start_options(parser)
    slurm.add_argument("--dependency", metavar="DEPENDENCY")
    no_requeue_help = "where jobs cannot be requeued: submit N starts, one after the other (default: %(const)s)"
    slurm.add_argument("--no-requeue", nargs="?", const=STARTS, type=positive, metavar="N", help=no_requeue_help)
    return parser


def make_study_parser(program: str | None = None) -> argparse.ArgumentParser:
    """All options of a study."""
    parser = argparse.ArgumentParser(prog=f"{program or 'launch.py'} study", description=STUDY_HELP)
    set_command(parser, "study")
    parser.add_argument("kind", choices=STUDIES)
    overrides_help = "a setting of all runs, e.g. data.path=data/mine; probe.optim.lr=3e-4 is for that task alone"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=overrides_help)
    parser.add_argument("--config", help="protocol configs/study/NAME.yaml, or a file (default: the study's name)")
    parser.add_argument("--name", help="folder of the study below the runs folder (default: study-KIND)")
    add_start_options(parser)
    parser.set_defaults(dependency=None, no_requeue=None)
    return parser


def add_start_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """What all commands that start runs have; the group of Slurm's options takes more."""
    parser.add_argument("--runs-dir", help="default: $JETMAE_RUNS, or runs/")
    parser.add_argument("--dry-run", action="store_true", help="print what would be started, start nothing")
    code = parser.add_mutually_exclusive_group()
    refresh_help = "freeze today's code in the run folder; otherwise a run keeps the code of its first launch"
    code.add_argument("--refresh-code", action="store_true", help=refresh_help)
    live_help = "freeze no code: whatever the sources are when a job starts or comes back, it runs that"
    code.add_argument("--live-code", action="store_true", help=live_help)
    add_cluster_option(parser)
    parser.add_argument("--nodes", type=positive, help="machines (locally: nodes x ranks processes here)")
    parser.add_argument("--ranks-per-node", type=positive, help="default: one per GPU, or 1")
    parallel_help = "runs of an array or a stage that are trained at the same time on this machine (default: 1)"
    parser.add_argument("--parallel", type=positive, metavar="N", help=parallel_help)
    return add_slurm_options(parser, "what the job asks for; the site's preset gives the rest")


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
