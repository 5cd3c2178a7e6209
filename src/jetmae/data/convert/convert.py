"""From source files to a dataset: sparse shards and a manifest, all of it or nothing.

    python jobs/data.py convert SOURCE... --out DIR

Jets stream through in blocks of some tens: read, keep the non-zero values, check, deal out to the splits, write a shard
whenever one is full. Memory stays flat whatever the size of the source. The result is built in a hidden folder beside
the output and renamed when it is complete.

Which jets go to which split is decided in division.py.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jetmae.data.convert.classes import classes_of, notes_on_classes, numbered
from jetmae.data.convert.compare import compare_with_sources
from jetmae.data.convert.division import PlannedPart, plan_conversion
from jetmae.data.convert.float32 import is_exact
from jetmae.data.convert.listing import listing
from jetmae.data.convert.output import built_aside, find_destination
from jetmae.data.convert.provenance import provenance_of, refuse_changed, states_of
from jetmae.data.convert.source import CHANNEL_NAMES, SourceOptions, SourcePart
from jetmae.data.manifest import Manifest, ShardEntry, write_manifest
from jetmae.data.normalisation import constants_of_split
from jetmae.data.shards import MAX_PLACES, Shard, SparseJets, check_labels, write_shard
from jetmae.data.sparse import concatenate, constant_towers, sparsify, store_per_tower, take, tower_grid, without_zeros
from jetmae.errors import DataError, JetmaeError
from jetmae.progress import Progress

MAX_SHARD_VALUES = 40_000_000  # 240 MB held per split while a shard fills; dense images reach it before jets_per_shard
BYTES_PER_VALUE, BYTES_PER_JET = 6, 64
Normalisations = dict[str, dict[str, dict[str, list[float]]]]  # split, transform, name, value per channel
Scalar = TypeVar("Scalar", bound=np.generic)
Value = TypeVar("Value", bound=tuple[object, ...])


@dataclass(frozen=True)
class ConvertOptions:
    """What to make of the jets; which bytes are the jets is in SourceOptions."""

    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
    """Parts of a divided file that go to train, validation, test."""
    seed: int = 0
    """Seed of the division."""
    tower_size: int = 5
    """Side of a hadron calorimeter tower in pixels; 0 stores every channel per pixel."""
    jets_per_shard: int = 16384
    """Jets of a full shard."""
    drop_constant: bool = False
    """Leave out images in which all pixels of all channels are equal."""
    allow_rounding: bool = False
    """Accept values that float32 cannot hold exactly; those too small for it become 0."""
    hash_sources: bool = False
    """Record the SHA-256 of the source files."""

    def __post_init__(self) -> None:
        if len(self.fractions) != 3 or min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-9:
            raise JetmaeError(
                f"fractions {self.fractions}: expected three numbers from 0 that add up to 1 (train, validation, test);"
                " for example --fractions 0.8,0.1,0.1"
            )
        if self.jets_per_shard < 1 or self.tower_size < 0:
            raise JetmaeError(
                f"jets per shard {self.jets_per_shard}, tower size {self.tower_size}: expected at least 1 and at least"
                " 0; correct the option"
            )


@dataclass
class Conversion:
    """What a conversion did. Constant images were found, and dropped if asked for; compared is None unless verified.

    Notes are what the user should know of the sources.
    """

    manifest: Manifest
    plan: list[PlannedPart]
    constant_images: int
    jets_compared: int | None
    notes: list[str]

    @property
    def jets(self) -> int:
        return sum(self.manifest.jets(split) for split in self.manifest.splits)


def convert(
    sources: Sequence[str],
    output: Path,
    *,
    source_options: SourceOptions | None = None,
    options: ConvertOptions | None = None,
    overwrite: bool = False,
    verify: bool = False,
) -> Conversion:
    """Convert sources into a dataset at `output`; with `verify` compare it with the sources before it takes its place.

    Raises:
        DataError: a source is missing, damaged, not recognised, changes meanwhile, or holds rows that nobody wrote,
            NaN, infinity or a wrong label.
        JetmaeError: the output exists, is taken by others meanwhile, or cannot be written, or the disk is too small.
    """
    source_options, options = source_options or SourceOptions(), options or ConvertOptions()
    destination = find_destination(output, overwrite=overwrite)
    plan = plan_conversion(sources, source_options, fractions=options.fractions, seed=options.seed)
    states, manifest = states_of(plan), _describe_dataset(plan, source_options, options)
    plan = [_checked_labels(numbered(planned, manifest.classes), manifest.classes) for planned in plan]
    notes = _notes(plan, manifest.classes, source_options)
    with built_aside(destination) as folder:
        _check_disk_space(folder, plan)
        entries, constant_images = _write_splits(folder, plan, manifest, options)
        manifest = replace(
            manifest,
            splits=entries,
            normalisation=_normalisation(folder, entries, manifest),
            provenance=provenance_of(
                sources,
                plan,
                options={"source_options": asdict(source_options), "options": asdict(options)},
                hash_sources=options.hash_sources,
            ),
        )
        write_manifest(folder, manifest)
        jets_compared = None
        if verify:
            jets_compared = compare_with_sources(folder, manifest, plan, drop_constant=options.drop_constant)
        refuse_changed(states, states_of(plan))
    return Conversion(manifest, plan, constant_images, jets_compared, notes)


# ---- what the dataset is


def _describe_dataset(plan: list[PlannedPart], source_options: SourceOptions, options: ConvertOptions) -> Manifest:
    """Shape, channels, units and classes, on which all sources must agree; splits are still empty."""
    shape = _agreed(plan, "image_shape", lambda part: part.image_shape, None) or plan[0].part.image_shape
    channels = _agreed(plan, "channels", lambda part: part.channels, source_options.channels) or CHANNEL_NAMES.get(
        shape[0], tuple(f"channel {number}" for number in range(shape[0]))
    )
    units = _agreed(plan, "units", lambda part: part.units, source_options.units) or ("unknown",) * shape[0]
    for name, values in (("channels", channels), ("units", units)):
        if len(values) != shape[0]:
            raise DataError(
                f"{len(values)} {name} ({listing(values)}) for images of {shape[0]} channels in"
                f" {plan[0].part.path}; expected one per channel; correct --{name}"
            )
    named = _agreed(plan, "classes", lambda part: part.classes, source_options.classes)
    return Manifest(
        image_shape=shape,
        channels=channels,
        units=units,
        classes=classes_of(plan, named),
        tower_size=_usable_tower_size(shape, options.tower_size),
        splits={},
    )


def _agreed(
    plan: list[PlannedPart], name: str, of: Callable[[SourcePart], Value | None], wanted: Value | None
) -> Value | None:
    """What the option says, else what all files that say anything say."""
    known = {value: planned.part.path for planned in plan if (value := of(planned.part))}
    if wanted is None and len(known) > 1:
        (first, first_path), (second, second_path) = list(known.items())[:2]
        raise DataError(
            f"{first_path} has {name} ({listing(first)}) and {second_path} has ({listing(second)}); expected the same"
            " in all sources; convert them apart or make them agree by an option"
        )
    return wanted or next(iter(known), None)


def _usable_tower_size(shape: tuple[int, int, int], tower_size: int) -> int:
    """0 where towers do not tile the image, or their places do not fit into two bytes."""
    _, height, width = shape
    if not tower_size or height % tower_size or width % tower_size:
        return 0
    return tower_size if height * width * (1 + tower_size**-2) <= MAX_PLACES else 0


def _notes(plan: list[PlannedPart], classes: tuple[str, ...] | None, source_options: SourceOptions) -> list[str]:
    of_sources = [f"{planned.part.path}: {note}" for planned in plan for note in planned.part.notes]
    of_classes = notes_on_classes(plan, classes, by_user=source_options.classes is not None)
    return list(dict.fromkeys([*of_sources, *of_classes]))


def _checked_labels(planned: PlannedPart, classes: tuple[str, ...] | None) -> PlannedPart:
    label_N = planned.part.label_N
    if label_N is not None:
        check_labels(label_N, np.arange(len(label_N)), classes or (), where=f"source {planned.part.path}")
    return planned


# ---- streaming


def _write_splits(
    folder: Path, plan: list[PlannedPart], manifest: Manifest, options: ConvertOptions
) -> tuple[dict[str, list[ShardEntry]], int]:
    """Write all shards. Returns the entries of each split that got jets, and how many images were constant."""
    names = list(dict.fromkeys(split for planned in plan for split in planned.splits))
    writers = {name: _SplitWriter(folder, name, manifest, options.jets_per_shard) for name in names}
    constant_images = 0
    with Progress("converting", sum(planned.part.rows for planned in plan)) as progress:
        for planned in plan:
            for jets, split_of_jet, constant in sparse_blocks(planned, options):
                constant_images += int(constant.sum())
                for number, split in enumerate(planned.splits):
                    writers[split].add(take(jets, split_of_jet == number))
                progress.advance(len(constant))
    return {name: entries for name, writer in writers.items() if (entries := writer.finish())}, constant_images


def sparse_blocks(
    planned: PlannedPart, options: ConvertOptions
) -> Iterator[tuple[SparseJets, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Checked jets of a part: (jets kept, number of the split of each, which images of the block were constant)."""
    part = planned.part
    for first, block in part.blocks():
        rows = np.arange(first, first + len(block))
        count_BC, index, value = sparsify(block, channels_last=part.channels_last)
        value = _checked_values(part, rows, count_BC, index, value, options)
        count_BC, index, value = without_zeros(count_BC, index, value)  # which rounding may have made
        jets = SparseJets(
            count_BC, index, value, rows, _rows(part.label_N, rows), _rows(part.mass_N, rows), _rows(part.pt_N, rows)
        )
        constant, split_of_jet = _constant_images(jets, block[0].size), planned.split_of_row[rows]
        if options.drop_constant and constant.any():
            jets, split_of_jet = take(jets, ~constant), split_of_jet[~constant]
        yield jets, split_of_jet, constant


def _rows(column_N: NDArray[Scalar] | None, rows: NDArray[np.int64]) -> NDArray[Scalar] | None:
    return None if column_N is None else column_N[rows]


def _checked_values(
    part: SourcePart,
    rows: NDArray[np.int64],
    count_BC: NDArray[np.uint16],
    index: NDArray[np.uint16],
    value: NDArray[Any],
    options: ConvertOptions,
) -> NDArray[np.float32]:
    """Values as float32.

    Raises:
        DataError: one is NaN or infinite, or float32 cannot hold it exactly and rounding is not allowed.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        stored = value.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(stored))
    if len(bad):
        raise DataError(
            f"{_where(part, rows, count_BC, index, bad[0])} is {value[bad[0]]}, expected a finite float32; correct or"
            " remove that jet in the source"
        )
    if value.dtype == np.float32:
        return stored
    bad = np.flatnonzero(~is_exact(value, stored))
    if len(bad) and not options.allow_rounding:
        raise DataError(
            f"{_where(part, rows, count_BC, index, bad[0])} is {value[bad[0]]} ({value.dtype}), which float32 rounds"
            f" to {stored[bad[0]]}; expected values that float32 holds; accept rounding with --allow-rounding"
        )
    return stored


def _where(
    part: SourcePart,
    rows: NDArray[np.int64],
    count_BC: NDArray[np.uint16],
    index: NDArray[np.uint16],
    number: int,
) -> str:
    """Names the stored value of that number: file, row, channel, pixel."""
    image = int(np.searchsorted(np.cumsum(count_BC.reshape(-1)), number, side="right"))
    jet, channel = divmod(image, count_BC.shape[1])
    row, column = divmod(int(index[number]), part.image_shape[2])
    return f"source {part.path}: {part.key}: row {rows[jet]}, channel {channel}, pixel ({row}, {column})"


def _constant_images(jets: SparseJets, pixels: int) -> NDArray[np.bool_]:
    """Which images have one value everywhere (B,); an empty image is one of them."""
    per_jet = jets.count_NC.sum(axis=1, dtype=np.int64)
    constant: NDArray[np.bool_] = per_jet == 0
    for jet in np.flatnonzero(per_jet == pixels):
        value = jets.value[per_jet[:jet].sum() :][:pixels]
        constant[jet] = (value == value[0]).all()
    return constant


class _SplitWriter:
    """Collects the jets of a split and writes a shard whenever there are enough."""

    def __init__(self, folder: Path, split: str, manifest: Manifest, jets_per_shard: int):
        self.folder, self.split, self.manifest, self.jets_per_shard = folder, split, manifest, jets_per_shard
        towers = manifest.tower_size > 0
        self.grid = tower_grid(*manifest.image_shape[1:], manifest.tower_size) if towers else None
        self.entries: list[ShardEntry] = []
        self._start()

    def _start(self) -> None:
        self.parts: list[SparseJets] = []
        self.jets = self.values = 0
        self.per_tower_C = np.full(self.manifest.image_shape[0], self.grid is not None)

    def add(self, jets: SparseJets) -> None:
        while len(jets):
            room = np.arange(len(jets)) < self.jets_per_shard - self.jets
            self._hold(jets if room.all() else take(jets, room))
            if self.jets >= self.jets_per_shard or self.values >= MAX_SHARD_VALUES:
                self._write()
            jets = take(jets, ~room)

    def _hold(self, jets: SparseJets) -> None:
        self.parts.append(jets)
        self.jets, self.values = self.jets + len(jets), self.values + len(jets.index)
        if self.grid is not None and self.per_tower_C.any():
            self.per_tower_C &= constant_towers(jets, self.grid).all(axis=0)

    def _write(self) -> None:
        jets = concatenate(self.parts)
        occupied_C = jets.count_NC.any(axis=0)  # an empty channel is neither; calling it per pixel says less
        tower_channels = tuple(np.flatnonzero(self.per_tower_C & occupied_C).tolist())
        if self.grid is not None and tower_channels:
            jets = store_per_tower(jets, tower_channels, self.grid)
        path = self.folder / f"{self.split}-{len(self.entries):05d}.h5"
        self.entries.append(write_shard(path, jets, manifest=self.manifest, tower_channels=tower_channels))
        self._start()

    def finish(self) -> list[ShardEntry]:
        if self.jets:
            self._write()
        return self.entries


# ---- what the manifest says besides


def _normalisation(folder: Path, entries: dict[str, list[ShardEntry]], manifest: Manifest) -> Normalisations:
    """Constants of the training splits; those of validation and test jets are none of the network's business."""
    return {
        split: constants_of_split([Shard(folder / entry.file, entry, manifest) for entry in shards], manifest)
        for split, shards in entries.items()
        if split == "train" or split.endswith("_train")
    }


# ---- before hours are spent


def _check_disk_space(folder: Path, plan: list[PlannedPart]) -> None:
    """Estimate the dataset's size from the first block of each part, before hours are spent.

    Raises:
        JetmaeError: the disk is too small.
    """
    needed_bytes = 0
    for planned in plan:
        _, block = next(iter(planned.part.blocks()))
        bytes_per_jet = np.count_nonzero(block) / len(block) * BYTES_PER_VALUE + BYTES_PER_JET
        needed_bytes += int(planned.part.rows * bytes_per_jet)
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise JetmaeError(
            f"the dataset needs about {needed_bytes / 1e9:.1f} GB and {folder.parent} has {free_bytes / 1e9:.1f} GB"
            " free; choose another --out"
        )
