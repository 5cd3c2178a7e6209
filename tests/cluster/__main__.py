"""Try jetmae on a Slurm cluster of this one machine, with nothing installed but Debian's packages.

python -m tests.cluster up               a shell in which sinfo, sbatch, squeue and `python jobs/launch.py` work
python -m tests.cluster run COMMAND...   one command in a cluster; ends with its exit code
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys

from tests.cluster.configuration import whole_tree_command
from tests.cluster.processes import ClusterError
from tests.cluster.slurm_cluster import SlurmCluster

WELCOME = """\
{sinfo}

sinfo, sbatch, srun, squeue, scontrol and sacct speak to this cluster in this shell; jobs run on this machine.
Partitions: low is preempted by high with 8 s of grace, abrupt with none. `exit` ends the cluster and every job.
"""


def main() -> int:
    arguments = _parse()
    # Ctrl-C is for the shell or command, which gets it too; the other signals must still end the cluster in order.
    signal.signal(signal.SIGINT, lambda *_: None)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    try:
        with SlurmCluster(arguments.nodes, preempt_send_user_signal=arguments.send_user_signal) as cluster:
            if arguments.action == "up":
                print(WELCOME.format(sinfo=cluster.run("sinfo")), flush=True)
            return _run(arguments.command or [os.environ.get("SHELL", "bash")], cluster)
    except ClusterError as error:
        sys.exit(f"error: {error}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=3, help="machines of the cluster (3)")
    parser.add_argument("--send-user-signal", action="store_true", help="preempted jobs get the signal of --signal")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("up", help="a shell").set_defaults(command=None)
    actions.add_parser("run", help="one command").add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.action == "run" and not arguments.command:
        parser.error("run needs a command, as in: run sinfo")
    return arguments


def _run(command: list[str], cluster: SlurmCluster) -> int:
    """The exit code of a command, as shells count it; what it leaves running ends with it or with this process."""
    if shutil.which(command[0], path=cluster.environment["PATH"]) is None:
        raise ClusterError(f"cannot run {command[0]}: no such program")
    tree = whole_tree_command(command)
    process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *tree], env=cluster.environment)
    try:
        return process.wait()
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
