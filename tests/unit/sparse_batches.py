"""Batches of small jets for tests: in half of them HCAL is stored per tower, in the others per pixel."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from source_files import HCAL, TOWER_SIZE, make_truth

from jetmae.data.batch import Batch, make_batch
from jetmae.data.images import ImageMaker
from jetmae.data.normalisation import Normalisation
from jetmae.data.pixels import SparsePixels
from jetmae.data.shards import SparseJets
from jetmae.data.simulation.detector import CHANNELS
from jetmae.data.sparse import concatenate, sparsify, store_per_tower, take, tower_grid

SIDE = 25
SHAPE = (len(CHANNELS), SIDE, SIDE)
CPU = torch.device("cpu")
SCALE = tuple(0.5 + channel for channel in range(len(CHANNELS)))
MEAN = tuple(0.1 * channel - 0.3 for channel in range(len(CHANNELS)))
STD = tuple(1.5 - 0.1 * channel for channel in range(len(CHANNELS)))


@dataclass(frozen=True)
class Jets:
    """The same jets three times."""

    images_BCHW: NDArray[np.float32]
    sparse: SparseJets
    batch: Batch

    @property
    def pixels(self) -> SparsePixels:
        return image_maker("none").sparse(self.batch)


def some_jets(jets: int = 8) -> Jets:
    """Values of both signs; the last jet is empty."""
    images = make_truth(jets, side=SIDE).images
    images[-1] = 0
    counted = sparsify(images, channels_last=False)
    whole = SparseJets(*counted, np.arange(jets))
    odd = np.arange(jets) % 2 == 1
    per_tower = store_per_tower(whole, [HCAL], tower_grid(SIDE, SIDE, TOWER_SIZE))
    sparse = concatenate([one_of(per_tower if odd[j] else whole, j) for j in range(jets)])
    batch = make_batch("train", sparse, np.arange(jets), np.zeros((jets, 0), np.float32))
    return Jets(images, sparse, batch)


def one_of(jets: SparseJets, number: int) -> SparseJets:
    return take(jets, np.arange(len(jets)) == number)


def image_maker(transform: str) -> ImageMaker:
    normalisation = Normalisation(transform, SCALE, MEAN, STD)
    return ImageMaker(SHAPE, normalisation, CPU, tower_size=TOWER_SIZE, tower_channels=(HCAL,))
