"""Where runs are trained, and on how many ranks."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from jetmae.config import Experiment
from jetmae.launch.resources import Resources


@dataclass(frozen=True)
class Layout:
    """Slurm jobs with these resources; or, without, processes of this machine.

    Here these are `nodes` times `ranks_per_node`, by default one per GPU.
    """

    resources: Resources | None = None
    nodes: int = 1
    ranks_per_node: int | None = None

    def num_ranks(self, experiment: Experiment) -> int:
        """Of a run of this experiment."""
        if self.resources is not None:
            return self.resources.nodes * self.resources.tasks_per_node
        default = 1 if experiment.engine.device == "cpu" else max(1, num_gpus())
        return self.nodes * (self.ranks_per_node or default)


def site_of(cluster: str) -> str:
    """What --cluster means here: `local`, or the name of a cluster preset."""
    if cluster == "auto":
        return "slurm" if shutil.which("sbatch") else "local"
    return cluster


def num_gpus() -> int:
    """GPUs of this machine, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return present if visible is None else min(present, len([name for name in visible.split(",") if name.strip()]))
