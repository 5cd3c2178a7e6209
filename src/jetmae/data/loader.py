"""Batches for one rank: sparse, packed into one tensor, made ahead of time by a thread.

A batch stays sparse until it is on the device (data/images.py): 6 KB a jet cross over instead of 500. One thread with
memory-mapped shards feeds more than a GPU can take, so there are no worker processes to start, signal or lose.

Shapes: B jets, C channels, nnz stored values, N noise columns.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jetmae.data.order import evaluation_slices, global_batch
from jetmae.data.shards import JetDataset, SparseJets
from jetmae.randomness import Purpose, uniform_rows

PREFETCHED_BATCHES = 4


@dataclass(frozen=True)
class Batch:
    """Some jets on their way into the network.

    `packed` is uint8: nnz float32 values, then B x C uint16 counts, then nnz uint16 places.
    """

    split: str
    packed: Tensor
    jets: int
    nonzeros: int
    ids_B: Tensor
    label_B: Tensor | None
    noise_BN: Tensor
    counts_B: Tensor  # bool: False for the surplus entries of the last evaluation batch

    def to(self, device: torch.device) -> "Batch":
        moved = {
            name: None if tensor is None else tensor.to(device, non_blocking=True)
            for name, tensor in vars(self).items()
            if name not in ("split", "jets", "nonzeros")
        }
        return replace(self, **moved)


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
            places = [(step, position) for position in range(part.start, part.stop)]
            noise = uniform_rows(seed, Purpose.TRAIN_NOISE, places, noise_columns)
            micro_batches.append(make_batch(dataset, selection[positions[part]], noise))
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
        yield make_batch(dataset, jet_ids, noise, counts)


def make_batch(
    dataset: JetDataset, ids: NDArray[np.int64], noise_BN: NDArray, counts_B: NDArray | None = None
) -> Batch:
    jets = dataset.gather(ids)
    return Batch(
        split=dataset.split,
        packed=torch.from_numpy(_pack(jets)),
        jets=len(jets),
        nonzeros=len(jets.value),
        ids_B=torch.from_numpy(np.asarray(ids)),
        label_B=None if jets.label is None else torch.from_numpy(jets.label),
        noise_BN=torch.from_numpy(noise_BN),
        counts_B=torch.ones(len(jets), dtype=torch.bool) if counts_B is None else torch.from_numpy(counts_B),
    )


def _pack(jets: SparseJets) -> NDArray[np.uint8]:
    return np.concatenate([part.ravel().view(np.uint8) for part in (jets.value, jets.count_NC, jets.index)])


class Prefetched:
    """An iterator whose items a thread makes ahead of time. An exception in the thread is raised at its item."""

    _END = object()

    def __init__(self, items: Iterable, depth: int = PREFETCHED_BATCHES):
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(items,), name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> "Prefetched":
        return self

    def __next__(self):
        item, error = self._queue.get()
        if error is not None:
            raise error
        if item is self._END:
            raise StopIteration
        return item

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._closed.set()
        self._thread.join()

    def _fill(self, items: Iterable) -> None:
        try:
            for item in items:
                if not self._put((item, None)):
                    return
            self._put((self._END, None))
        except Exception as error:  # whatever it is, it belongs to the one who asks for the next item
            self._put((None, error))

    def _put(self, entry: tuple) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
