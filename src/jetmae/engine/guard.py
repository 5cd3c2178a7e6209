"""What must not be believed: losses and gradients that are not finite, and replicas that have come to differ."""

import math
import socket

import torch

from jetmae.data.batch import Batch
from jetmae.engine.backend import Backend, StepResult
from jetmae.errors import EXIT_INTERNAL, JetmaeError
from jetmae.runtime.world import World

NAMED_JETS = 8  # sample ids in a message


class ReplicaError(JetmaeError):
    """Ranks that should hold the same weights do not: a device or its memory errs. A new start may well succeed."""

    exit_code = EXIT_INTERNAL


def is_sound(result: StepResult, backend: Backend) -> bool:
    """All ranks come to the same verdict: both numbers are sums over all ranks."""
    return math.isfinite(result.loss) and (math.isfinite(result.gradient_norm) or backend.skipped_by_scaler)


def suspects(micro_batches: list[Batch], result: StepResult, world: World) -> list[int]:
    """Sample ids of the micro-batches whose loss is not finite, of all ranks. Collective.

    If only the gradient is not finite, those of all micro-batches.
    """
    mine = [(bool(loss.isfinite()), batch.ids_B.tolist())
            for batch, loss in zip(micro_batches, result.local_losses, strict=True)]  # fmt: skip
    everyones = [part for ranks in world.gather(mine) for part in ranks]
    guilty = [ids for finite, ids in everyones if not finite]
    return [sample_id for ids in guilty or [ids for _, ids in everyones] for sample_id in ids]


def check_replicas(backend: Backend, world: World, step: int) -> None:
    """Compare, by a sum over their bits, the weights that every rank holds whole. Collective.

    Raises:
        ReplicaError: they differ; names the first weight, and the ranks and hosts that are in the minority.
    """
    digest = backend.replica_digest() if world.size > 1 else {}
    if not digest:
        return
    sums = torch.tensor(list(digest.values()), dtype=torch.int64, device=world.device)
    differs = (world.maximum(sums) + world.maximum(-sums)).nonzero()
    if len(differs):
        name = list(digest)[int(differs[0])]
        found = world.gather((digest[name], socket.gethostname()))
        values = [value for value, _ in found]
        usual = max(set(values), key=values.count)
        odd = ", ".join(f"rank {rank} on {host}" for rank, (value, host) in enumerate(found) if value != usual)
        raise ReplicaError(
            f"at step {step} the weights {name} of {odd} differ from those of the other ranks: a device or its memory"
            " errs; nothing of this was committed; start again without that node"
        )
