"""Batches for one rank, made ahead of time by a thread.

A batch stays sparse until it is on the device (data/images.py): 6 KB a jet cross over instead of 500. One thread with
memory-mapped shards feeds more than a GPU can take, so there are no worker processes to start, signal or lose.

Shapes: B jets, C channels, nnz stored values, N noise columns.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from jetmae.data.batch import Batch, make_batch
from jetmae.data.order import evaluation_slices, global_batch
from jetmae.data.shards import JetDataset
from jetmae.randomness import Purpose, uniform_block, uniform_rows

T = TypeVar("T")
PREFETCHED_BATCHES = 4


@dataclass(frozen=True)
class Share:
    """This rank's share of every global batch."""

    rank: int
    ranks: int
    micro_batch_size: int
    accumulation: int

    @property
    def batch_size(self) -> int:
        return self.ranks * self.micro_batch_size * self.accumulation

    def micro_batches(self) -> list[slice]:
        """Positions in the global batch of each of this rank's micro-batches."""
        first = self.rank * self.micro_batch_size * self.accumulation
        starts = range(first, first + self.micro_batch_size * self.accumulation, self.micro_batch_size)
        return [slice(start, start + self.micro_batch_size) for start in starts]


def training_batches(
    dataset: JetDataset, selection: NDArray[np.int64], share: Share, *, seed: int, noise_columns: int, first_step: int
) -> Iterator[list[Batch]]:
    """For each step from `first_step` on, without end, this rank's micro-batches.

    The noise of a jet depends on (seed, step, position in the global batch).
    """
    step = first_step
    while True:
        positions = global_batch(step, num_jets=len(selection), batch_size=share.batch_size, seed=seed)
        micro_batches = []
        for part in share.micro_batches():
            noise = uniform_block(seed, Purpose.TRAIN_NOISE, step, range(part.start, part.stop), noise_columns)
            ids = selection[positions[part]]
            micro_batches.append(make_batch(dataset.split, dataset.gather(ids), ids, noise, step=step))
        yield micro_batches
        step += 1


def evaluation_batches(
    dataset: JetDataset, ids: NDArray[np.int64], share: Share, *, seed: int, noise_columns: int
) -> Iterator[Batch]:
    """This rank's share of the jets `ids`, in order. A jet's noise depends on (seed, id) alone: the same every time."""
    for positions, counts in evaluation_slices(
        len(ids), rank=share.rank, ranks=share.ranks, batch_size=share.micro_batch_size
    ):
        jet_ids = ids[positions]
        noise = uniform_rows(seed, Purpose.EVALUATION_NOISE, [(int(i), 0) for i in jet_ids], noise_columns)
        yield make_batch(dataset.split, dataset.gather(jet_ids), jet_ids, noise, counts)


@dataclass(frozen=True)
class _Made(Generic[T]):
    """One item, or the error that came in its place."""

    items: list[T]
    error: Exception | None = None


class Prefetched(Generic[T]):
    """An iterator whose items a thread makes ahead of time. An exception in the thread is raised at its item."""

    def __init__(self, items: Iterable[T], depth: int = PREFETCHED_BATCHES):
        self._queue: queue.Queue[_Made[T]] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(items,), name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> "Prefetched[T]":
        return self

    def __next__(self) -> T:
        made = self._queue.get()
        if made.error is not None:
            raise made.error
        return made.items[0]

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._closed.set()
        self._thread.join()

    def _fill(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                if not self._put(_Made([item])):
                    return
            self._put(_Made([], StopIteration()))
        except Exception as error:  # noqa: BLE001  whatever it is, it belongs to the one who asks for the next item
            self._put(_Made([], error))

    def _put(self, entry: "_Made[T]") -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
