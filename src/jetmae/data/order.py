"""Which jets make up the global batch of a step: a pure function of (seed, step).

The global batch is defined first and sliced by rank afterwards, so that every number of ranks sees the same batches.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from jetmae.randomness import Purpose, generator


@lru_cache(maxsize=2)
def epoch_order(num_jets: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of 0..num_jets-1, another one each epoch."""
    return generator(seed, Purpose.ORDER, epoch).permutation(num_jets)


def steps_per_epoch(num_jets: int, batch_size: int) -> int:
    """Whole batches in an epoch; the rest of an epoch's permutation is left out, other jets each time."""
    return num_jets // batch_size


def global_batch(step: int, *, num_jets: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """Positions in the training selection (batch_size,) of optimizer step `step`, counted from 0."""
    epoch, batch = divmod(step, steps_per_epoch(num_jets, batch_size))
    return epoch_order(num_jets, seed, epoch)[batch * batch_size : (batch + 1) * batch_size]


def few_labels(num_jets: int, wanted: int | None, seed: int) -> NDArray[np.int64]:
    """Ids of the training selection: all jets, or `wanted` of them.

    Smaller selections of one seed are contained in larger ones, so that a curve against the number of labels adds
    jets and never swaps them.
    """
    if wanted is None or wanted >= num_jets:
        return np.arange(num_jets)
    return np.sort(generator(seed, Purpose.SUBSET).permutation(num_jets)[:wanted])


def some_jets(ids: NDArray[np.int64], wanted: int | None) -> NDArray[np.int64]:
    """`wanted` of these ids, in their order: all over a split, which may be sorted by class.

    The seed of the run does not matter, so that runs that differ in it are scored on the same jets.
    """
    if wanted is None or wanted >= len(ids):
        return ids
    return ids[np.sort(generator(0, Purpose.EVALUATION_JETS).permutation(len(ids))[:wanted])]


def evaluation_slices(
    num_jets: int, *, rank: int, ranks: int, batch_size: int
) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Batches of ids for one rank, each with a mask of the entries that count.

    All ranks get the same number of equally large batches, because a sharded network computes collectively; the
    surplus entries repeat id 0 and do not count. Together the counting entries are 0..num_jets-1, each once.
    """
    rounds = -(-num_jets // (ranks * batch_size))
    ids = np.arange(rounds * ranks * batch_size)
    blocks = ids.reshape(rounds, ranks, batch_size)[:, rank]
    return [(np.where(block < num_jets, block, 0), block < num_jets) for block in blocks]
