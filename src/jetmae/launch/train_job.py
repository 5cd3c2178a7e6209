"""What submitit runs on every rank of a Slurm job: it becomes `python -m jetmae.rank RUN_DIR`.

By replacing the process, nothing of submitit stays: neither its signal handlers, which would save on one rank what only
all ranks can save together, nor its pickled state. The run folder is all that a restarted job needs.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path


class TrainJob:
    def __init__(self, run_dir: Path):
        self.run_dir = str(run_dir)

    def __call__(self) -> None:
        os.execve(
            sys.executable, [sys.executable, "-m", "jetmae.rank", self.run_dir], slurm_rank_environment(os.environ)
        )


class CommandJob:
    """A job that becomes another command."""

    def __init__(self, command: list[str]):
        self.command = command

    def __call__(self) -> None:
        os.execv(self.command[0], self.command)


def slurm_rank_environment(slurm: Mapping[str, str]) -> dict[str, str]:
    """This rank's environment, from what Slurm says of its task.

    JETMAE_START names this start of this job: ranks of another start do not meet it (runtime/rendezvous.py).
    """
    start = (slurm["SLURM_JOB_ID"], slurm.get("SLURM_RESTART_COUNT") or "0", slurm.get("SLURM_STEP_ID", "0"))
    single_node = slurm.get("SLURM_NNODES", "1") == "1"
    return {
        "OMP_NUM_THREADS": slurm.get("SLURM_CPUS_PER_TASK", "1"),
        **slurm,
        "RANK": slurm["SLURM_PROCID"],
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "WORLD_SIZE": slurm["SLURM_NTASKS"],
        "JETMAE_START": ".".join(start),
        "JETMAE_HOST": "127.0.0.1" if single_node else slurm.get("JETMAE_HOST") or slurm["SLURMD_NODENAME"],
    }


if __name__ == "__main__":  # python -m jetmae.launch.train_job RUN_DIR: the sbatch templates do without submitit
    TrainJob(Path(sys.argv[1]))()
