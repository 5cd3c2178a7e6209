"""What a task is to the rest of a run: a network, a loss, and a way to score and to show what was learned.

run.py and evaluation.py know this protocol and no task by name. What a task has no use for, it inherits from here.

Shapes: B jets, R jets of all ranks, C channels, H W image.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jetmae.config import Augment
from jetmae.data.augmentation import Augmentation
from jetmae.data.batch import Batch
from jetmae.data.images import ImageMaker
from jetmae.data.patch_sums import PatchSums, patch_sums
from jetmae.data.pixels import SparsePixels
from jetmae.data.rank_batches import RankBatches
from jetmae.runtime.world import World
from jetmae.tasks.predictors.spaces import SumSpaces

Metrics = dict[str, Any]
"""Numbers by name, `loss` among them; a value may be a mapping, such as one number per channel."""
Columns = dict[str, NDArray[Any]]
"""Results of jets: arrays that are equally long, by name."""


class Task(ABC):
    """One of the rows of tasks/entrypoints.py."""

    network: nn.Module
    """what is trained"""
    encoder: nn.Module
    """the part that a pretrain run hands on"""
    noise_columns: int
    """uniform random numbers that each jet of a batch brings along"""
    evaluation_name: str
    """of the files in evaluation/ of a run folder"""
    jet_columns: Sequence[str] = ()
    """columns of the dataset that the report needs beside the results"""
    scores_training_jets: bool = False
    """whether the training split is evaluated too, before the others"""
    draws_pictures: bool = False
    """whether `pictures` has something to show during training"""

    def prepare(self, batches: RankBatches) -> None:  # noqa: B027 (most tasks have nothing to prepare)
        """What has to be computed once before the first step. Collective."""

    @abstractmethod
    def make_network(self) -> nn.Module:
        """Another network of the same shape."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """For AdamW, each with its `lr_scale`."""

    @abstractmethod
    def train_loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of a micro-batch, a scalar."""

    @abstractmethod
    def evaluate(self, network: nn.Module, batches: Iterable[Batch]) -> tuple[Metrics, Columns]:
        """Metrics over the batches of all ranks, and results of each jet in the order of ids. Collective."""

    def score(self, metrics: Metrics) -> float:
        """What the best weights maximise."""
        return -float(metrics["loss"])

    def learn_reference(self, training_jets: Iterable[Batch]) -> None:  # noqa: B027 (not every task has one)
        """Take from training jets, which have been scored, what the scores of others are compared with. Collective."""

    def pictures(self, network: nn.Module, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """`image`, `reconstruction` (B, C, H, W) and `mask` (B, H, W), if the task `draws_pictures`."""
        raise NotImplementedError(f"{type(self).__name__} draws no pictures")

    @abstractmethod
    def evaluation_arrays(self, network: nn.Module, per_jet: Columns, batches: Iterable[Batch]) -> Columns:
        """What the report needs of a split; `batches` are the pictured jets, `network` is whole on this rank."""


@dataclass(frozen=True)
class Jets:
    """A batch on the device, as images and as sums over patches."""

    batch: Batch
    pixels: SparsePixels
    """source units"""
    images_BCHW: Tensor
    """normalised, in the precision of the network"""
    sums: PatchSums
    """source units"""


@dataclass(frozen=True)
class TaskContext:
    """What every task needs from its surroundings."""

    images: ImageMaker
    world: World
    channels: tuple[str, ...]
    units: tuple[str, ...]
    patch_size: int
    spaces: SumSpaces
    """in which sums over patches are compared"""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.images.image_shape

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_shape[1] // self.patch_size, self.image_shape[2] // self.patch_size

    def look(
        self, batch: Batch, network: nn.Module, change: Callable[[SparsePixels], SparsePixels] = lambda pixels: pixels
    ) -> Jets:
        """The jets of a batch, after `change`."""
        batch = batch.to(self.world.device)
        pixels = change(self.images.sparse(batch))
        return Jets(batch, pixels, self.images.dense(pixels).to(precision_of(network)), self.sums(pixels))

    def augmentation(self, settings: Augment) -> Augmentation:
        return Augmentation(
            self.image_shape,
            self.channels,
            self.world.device,
            flips=settings.flips,
            shift_patches=settings.shift_patches,
            patch_size=self.patch_size,
            tower_size=self.images.tower_size,
        )

    def sums(self, pixels: SparsePixels) -> PatchSums:
        return patch_sums(pixels, self.image_shape, self.patch_size, self.images.tower_size)

    def some_sums(self, batches: Iterable[Batch]) -> Iterator[PatchSums]:
        """Of the jets that count."""
        for batch in batches:
            moved = batch.to(self.world.device)
            yield self.sums(self.images.sparse(moved)).of(moved.counts_B)

    def collect(self, ids: list[Tensor], columns: Mapping[str, list[Tensor]]) -> Columns:
        """Results of the jets of all ranks, ordered by sample id: `sample_id` (R,) and each column (R, ...)."""
        mine = {"sample_id": ids, **columns}
        whole = {name: torch.cat(parts).cpu().numpy() if parts else None for name, parts in mine.items()}
        ranks = [part for part in self.world.gather(whole) if part["sample_id"] is not None]
        merged = {name: np.concatenate([part[name] for part in ranks]) for name in mine}
        order = np.argsort(merged["sample_id"], kind="stable")
        return {name: column[order] for name, column in merged.items()}


def precision_of(network: nn.Module) -> torch.dtype:
    """The type of a network's weights."""
    return next(network.parameters()).dtype
