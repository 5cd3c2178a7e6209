"""All batches that one rank of a run reads: to train, to score, to look at."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jetmae.data.batch import Batch
from jetmae.data.loader import Prefetched, Share, evaluation_batches, training_batches
from jetmae.data.order import some_jets
from jetmae.data.shards import JetDataset


@dataclass(frozen=True)
class RankBatches:
    """The jets of a run's splits, as this rank is to see them.

    `selection` (n,) are the ids of the training jets that are used. `evaluation_jets` of a split are scored, all of
    them if it is None.
    """

    datasets: Mapping[str, JetDataset]
    train_split: str
    selection: NDArray[np.int64]
    share: Share
    seed: int
    noise_columns: int
    evaluation_jets: int | None

    def ids(self, split: str) -> NDArray[np.int64]:
        """The jets of a split that the run uses."""
        return self.selection if split == self.train_split else np.arange(len(self.datasets[split]))

    def training(self, first_step: int) -> Prefetched[list[Batch]]:
        """For each step from `first_step` on, without end, this rank's micro-batches."""
        return Prefetched(
            training_batches(
                self.datasets[self.train_split],
                self.selection,
                self.share,
                seed=self.seed,
                noise_columns=self.noise_columns,
                first_step=first_step,
            )
        )

    def of_split(self, split: str, *, limit: int | None = None) -> Prefetched[Batch]:
        """This rank's share of a split's jets, of `limit` at most."""
        return Prefetched(self._evaluation_batches(split, some_jets(self.ids(split), limit), self.share))

    def scored(self, split: str) -> Prefetched[Batch]:
        """This rank's share of the jets on which a run is scored."""
        return self.of_split(split, limit=self.evaluation_jets)

    def alone(self, split: str, ids: NDArray[np.int64]) -> Iterator[Batch]:
        """These jets with the same masks as elsewhere, for this rank alone."""
        return self._evaluation_batches(split, ids, Share(0, 1, self.share.micro_batch_size, 1))

    def _evaluation_batches(self, split: str, ids: NDArray[np.int64], share: Share) -> Iterator[Batch]:
        return evaluation_batches(self.datasets[split], ids, share, seed=self.seed, noise_columns=self.noise_columns)
