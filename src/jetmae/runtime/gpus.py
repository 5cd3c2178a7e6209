"""Which GPU a rank takes, and how two ranks notice that they have taken the same one. Needs no torch."""

import os

from jetmae.errors import JetmaeError


def device_index(local_rank: int, visible: int, *, has_own: bool = False) -> int:
    """The number of this rank's GPU among the `visible` ones.

    Ranks that see all GPUs of their node share them out by local rank. A rank that sees one, or whose job was given
    GPUs per task (`has_own`), sees what is its own and takes the first. Whether that is so, the ranks compare when they
    meet (runtime/rendezvous.py).

    Raises:
        JetmaeError: there are fewer GPUs than ranks on this node.
    """
    if local_rank < visible:
        return local_rank
    if visible == 1 or (has_own and visible):
        return 0
    raise JetmaeError(
        f"local rank {local_rank} has no GPU: {visible} visible; use that many ranks per node, or give each rank"
        " its own with --gpus-per-task=1"
    )


def has_own_gpus() -> bool:
    """Whether Slurm was asked for GPUs per task; it sets the variable only then (srun(1))."""
    return bool(os.environ.get("SLURM_GPUS_PER_TASK"))


def gpu_identity(index: int, uuid: str) -> str:
    """A name that no other GPU has, or slice of one: of slices CUDA may report the UUID of the whole."""
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    is_slice = index < len(listed) and listed[index].startswith("MIG-")
    return listed[index] if is_slice else uuid
