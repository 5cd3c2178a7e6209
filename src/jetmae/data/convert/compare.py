"""`convert --verify`: read the sources and the finished shards again and compare them pixel by pixel, bit by bit.

The shards are made dense again by code that shares nothing with the search for non-zero values.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetmae.data.convert.division import PlannedPart
from jetmae.data.convert.source import SourcePart
from jetmae.data.manifest import Manifest
from jetmae.data.shards import JetDataset, SparseJets
from jetmae.data.sparse import densify
from jetmae.errors import DataError
from jetmae.progress import Progress

COLUMNS = {"label": "label_N", "mass_gev": "mass_N", "pt_gev": "pt_N"}


def compare_with_sources(folder: Path, manifest: Manifest, plan: list[PlannedPart], *, drop_constant: bool) -> int:
    """Compare all jets with their sources, and return how many were compared.

    Raises:
        DataError: names the first jet that differs, or a split with jets too many or too few.
    """
    readers = {split: _InOrder(folder, split, manifest) for split in manifest.splits}
    with Progress("comparing", sum(planned.part.rows for planned in plan)) as progress:
        for planned in plan:
            for first, block in planned.part.blocks():
                _compare_block(planned, first, block, readers, manifest, drop_constant)
                progress.advance(len(block))
    for split, reader in readers.items():
        if reader.next_id != len(reader.dataset):
            raise DataError(f"{folder}: split {split} has {len(reader.dataset)} jets, expected {reader.next_id}")
    return sum(reader.next_id for reader in readers.values())


class _InOrder:
    """Reads a split from its first jet to its last, as the sources stream by."""

    def __init__(self, folder: Path, split: str, manifest: Manifest):
        self.dataset = JetDataset(folder, split, manifest=manifest)
        self.columns = {name: self.dataset.column(name) for name in COLUMNS}
        self.next_id = 0

    def read(self, count: int) -> SparseJets:
        ids = np.arange(self.next_id, self.next_id + count)
        if self.next_id + count > len(self.dataset):
            raise DataError(f"{self.dataset.folder}: split {self.dataset.split} has too few jets: {len(self.dataset)}")
        self.next_id += count
        return self.dataset.gather(ids)


def _compare_block(
    planned: PlannedPart,
    first: int,
    block: NDArray[Any],
    readers: dict[str, _InOrder],
    manifest: Manifest,
    drop_constant: bool,
) -> None:
    with np.errstate(over="ignore"):
        block = block.astype(np.float32, copy=False)  # as conversion rounds: an image may become constant by it
    images = np.moveaxis(block, 3, 1) if planned.part.channels_last else block
    flat = block.reshape(len(block), -1)
    kept = ~(flat == flat[:, :1]).all(axis=1) if drop_constant else np.ones(len(block), dtype=bool)
    split_of_jet = planned.split_of_row[first : first + len(block)]
    for number, split in enumerate(planned.splits):
        chosen = np.flatnonzero(kept & (split_of_jet == number))
        if not len(chosen):
            continue
        reader = readers[split]
        ids = slice(reader.next_id, reader.next_id + len(chosen))
        stored = densify(reader.read(len(chosen)), manifest.image_shape, manifest.tower_size)
        _compare_images(images[chosen], stored, first + chosen, planned.part.path, split)
        _compare_columns(planned.part, reader, ids, first + chosen, split)


def _compare_images(
    source: NDArray[np.float32], stored: NDArray[np.float32], rows: NDArray[np.int64], path: Path, split: str
) -> None:
    # Adding zero turns -0.0 into +0.0, the one change that conversion makes, and leaves all other bits.
    expected = np.ascontiguousarray(source) + np.float32(0)
    same = (expected.view(np.uint32) == stored.view(np.uint32)).reshape(len(rows), -1).all(axis=1)
    if not same.all():
        raise DataError(f"source {path}: row {rows[~same][0]} differs from its jet in split {split}; convert again")


def _compare_columns(part: SourcePart, reader: _InOrder, ids: slice, rows: NDArray[np.int64], split: str) -> None:
    for name, source_name in COLUMNS.items():
        source = getattr(part, source_name)
        stored = reader.columns[name]
        if source is None and stored is None:
            continue
        if source is None or stored is None:
            raise DataError(f"source {part.path}: {name} is in only one of source and split {split}; convert again")
        if not np.array_equal(source[rows], stored[ids], equal_nan=True):
            raise DataError(f"source {part.path}: {name} of rows {rows[0]}.. differs in split {split}; convert again")
