"""The environment in which Slurm's programs are asked. Standard library only.

Many variables are options that nobody has typed: SBATCH_PARTITION and SBATCH_SIGNAL come before the lines of a script,
SQUEUE_STATES hides jobs, SLURM_TIME_FORMAT changes what is to be read. And in a job, SLURM_* describe that job, not the
one that is submitted from it. So none of them reaches a program that we start. What stays is what sbatch(1) does not
list among its options: where the cluster is and how one proves who one is. SLURM_CLUSTERS is an option (--clusters),
and the job ids in our records are those of one cluster.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

INPUT = re.compile(r"(SBATCH|SALLOC|SRUN|SQUEUE|SINFO|SACCT|SACCTMGR|SCONTROL|SCANCEL|SLURM|SLURMD)_\w+")
KEPT = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"})
OF_A_JOB = re.compile(r"SLURM_\w+|SLURMD_\w+|SRUN_\w+")  # what a job sets for its processes, or for srun in it


def is_input(name: str) -> bool:
    """Whether a variable tells a Slurm program what somebody might want."""
    return name not in KEPT and INPUT.fullmatch(name) is not None


def plain_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a Slurm program: nothing in it is an option."""
    given = os.environ if environment is None else environment
    return {name: value for name, value in given.items() if not is_input(name)}


@contextmanager
def submitting() -> Iterator[None]:
    """While a library starts sbatch for us, os.environ is plain; the job inherits it."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if is_input(name)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def left_out(environment: Mapping[str, str], *, taken: frozenset[str] = frozenset()) -> str | None:
    """One line that names the options of this environment that a submission does without; None if there are none.

    `taken` are those that count as typed. The many of a job that this process runs in are named together.
    """
    given = {name: value for name, value in environment.items() if is_input(name) and value and name not in taken}
    job = given.get("SLURM_JOB_ID")
    names = sorted(name for name in given if not (job and OF_A_JOB.fullmatch(name)))
    of_job = [f"SLURM_* of job {job}"] if job else []
    return f"left out: {', '.join([*names, *of_job])}; what is wanted has to be typed, see --help" if given else None
