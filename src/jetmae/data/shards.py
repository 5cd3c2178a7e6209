"""Sparse shards: jets on disk as they are read during training.

A jet image is 98 % zeros, so a shard keeps the non-zero values alone: per jet and channel how many there are, and for
each its place and its value. It is an HDF5 file whose datasets are contiguous, aligned and uncompressed; h5py reads the
header once and is closed, after that the file is a memory map.

    /count   u2 (n, C)   values stored of each jet and channel
    /indptr  i8 (n + 1)  where a jet's values begin in /index and /value
    /index   u2 (nnz)    place in the image, y * W + x, sorted by channel, then place; H * W + t means "all pixels of
                         tower t", see below
    /value   f4 (nnz)    never 0
    /row     i8 (n)      row of the jet in the source file
    /label   i8 (n), /mass_gev f4 (n), /pt_gev f4 (n)    where known

Towers: a hadron calorimeter tower covers tower_size x tower_size pixels with one value. A channel in which that holds
for every tower of every jet of the shard is stored once per tower (attribute `tower_channels`), with places H * W + t
where t counts towers row by row. A place thus says by itself what it means, and shards of both kinds mix in a batch.

`manifest.json` beside the shards lists them with sizes and hashes, the splits, channel names and units, and the
normalisation constants.

Shapes: N jets, C channels, H rows (phi), W columns (eta), nnz stored values.
"""

import hashlib
import json
import mmap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from jetmae.errors import DataError
from jetmae.files import written_aside

SHARD_FORMAT = "jetmae-shard"
MANIFEST_FORMAT = "jetmae-dataset"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
PAGE_BYTES = 4096  # datasets start on page borders: an unaligned int64 array cannot be viewed in place everywhere
MAX_PLACES = 65536  # places are two bytes
DATASETS = {"count": "<u2", "indptr": "<i8", "index": "<u2", "value": "<f4", "row": "<i8"}
LABEL_DATASETS = {"label": "<i8", "mass_gev": "<f4", "pt_gev": "<f4"}


@dataclass(frozen=True)
class SparseJets:
    """Some jets in sparse form. Places of tower channels are H * W + tower.

    Shapes: count_NC (N, C), index and value (nnz,) in the order jet, channel, place; the rest (N,) or None.
    """

    count_NC: NDArray[np.uint16]
    index: NDArray[np.uint16]
    value: NDArray[np.float32]
    row: NDArray[np.int64]
    label: NDArray[np.int64] | None = None
    mass_gev: NDArray[np.float32] | None = None
    pt_gev: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.count_NC)


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest knows of one shard."""

    file: str
    jets: int
    nonzeros: int
    bytes: int
    tower_channels: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json: everything about a dataset but the jets themselves.

    `normalisation[split][transform]` holds per-channel lists `scale`, `mean`, `std`; see data/normalisation.py.
    """

    image_shape: tuple[int, int, int]
    channels: tuple[str, ...]
    units: tuple[str, ...]
    classes: tuple[str, ...] | None
    tower_size: int
    splits: dict[str, list[ShardEntry]]
    normalisation: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)

    def jets(self, split: str) -> int:
        return sum(entry.jets for entry in self.splits[split])


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json.

    Raises:
        DataError: the file is missing, is not JSON, or was written by another format version.
    """
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(
            f"no dataset in {folder}: expected {MANIFEST_NAME} there; make one with: python jobs/data.py convert"
            f" SOURCE --out {folder}"
        ) from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}); convert the source again") from error
    found = (content.pop("format", None), content.pop("format_version", None)) if isinstance(content, dict) else None
    if found != (MANIFEST_FORMAT, FORMAT_VERSION):
        raise DataError(f"{path} has format {found}, expected {(MANIFEST_FORMAT, FORMAT_VERSION)}; convert again")
    try:
        for key in ("image_shape", "channels", "units", "classes"):
            content[key] = tuple(content[key]) if content[key] is not None else None
        content["splits"] = {
            split: [ShardEntry(**{**entry, "tower_channels": tuple(entry["tower_channels"])}) for entry in entries]
            for split, entries in content["splits"].items()
        }
        return Manifest(**content)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} does not have the keys of a manifest ({error!r}); it was changed by hand or by another program;"
            " convert the source again"
        ) from error


def write_shard(path: Path, jets: SparseJets, *, manifest: Manifest, tower_channels: tuple[int, ...]) -> ShardEntry:
    """Write one shard whole or not at all, and return its manifest entry. `path` must not exist."""
    import h5py

    indptr = np.concatenate([[0], np.cumsum(jets.count_NC.sum(axis=1, dtype=np.int64))])
    arrays = {name: indptr if name == "indptr" else getattr(jets, name if name != "count" else "count_NC")
              for name in DATASETS | LABEL_DATASETS}  # fmt: skip
    with written_aside(path) as aside:
        with h5py.File(
            aside, "x", libver="latest", alignment_threshold=PAGE_BYTES, alignment_interval=PAGE_BYTES
        ) as file:
            file.attrs.update(
                format=SHARD_FORMAT,
                format_version=FORMAT_VERSION,
                jets=len(jets),
                nonzeros=len(jets.index),
                image_shape=manifest.image_shape,
                channels=list(manifest.channels),
                tower_size=manifest.tower_size,
                tower_channels=np.array(tower_channels, dtype=np.int64),
            )
            for name, array in arrays.items():
                if array is not None:
                    stored = np.ascontiguousarray(array, dtype=(DATASETS | LABEL_DATASETS)[name])
                    dataset = file.create_dataset(name, data=stored, track_times=False)
                    dataset.attrs["xxh3_64"] = xxhash.xxh3_64_hexdigest(stored)
        return ShardEntry(
            file=path.name,
            jets=len(jets),
            nonzeros=len(jets.index),
            bytes=aside.stat().st_size,
            tower_channels=tuple(tower_channels),
            sha256=sha256_of(aside),
        )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Shard:
    """A memory-mapped shard. `count_NC`, `indptr` and labels are copied to the heap, the large arrays stay mapped."""

    def __init__(self, path: Path, entry: ShardEntry, manifest: Manifest):
        """Check the file against its manifest entry and map it.

        Raises:
            DataError: missing, of another size than at conversion (a map would die of SIGBUS), not a shard of this
                dataset, compressed or chunked, inconsistent, or with labels that name no class.
        """
        self.path, self.entry = path, entry
        self._check_size()
        arrays = self._map(manifest)
        self.count_NC = np.array(arrays["count"])
        self.indptr = np.array(arrays["indptr"])
        self.index, self.value = arrays["index"], arrays["value"]
        self.row = np.array(arrays["row"])
        self.label, self.mass_gev, self.pt_gev = (
            np.array(arrays[name]) if name in arrays else None for name in LABEL_DATASETS
        )
        self._check_consistency(manifest)

    def __len__(self) -> int:
        return self.entry.jets

    def _check_size(self) -> None:
        try:
            found_bytes = self.path.stat().st_size
        except OSError as error:
            raise DataError(
                f"shard {self.path} cannot be read ({error.strerror}): the manifest lists it; convert again"
            ) from error
        if found_bytes != self.entry.bytes:
            raise DataError(
                f"shard {self.path} has {found_bytes} bytes, expected {self.entry.bytes}: truncated or changed after"
                " conversion; convert again"
            )

    def _map(self, manifest: Manifest) -> dict[str, NDArray]:
        import h5py

        try:
            with h5py.File(self.path, "r", locking=False) as file:
                found = tuple(file.attrs.get("image_shape", ())), file.attrs.get("format"), file.attrs.get("jets")
                expected = manifest.image_shape, SHARD_FORMAT, self.entry.jets
                if found != expected:
                    raise DataError(f"shard {self.path} has (shape, format, jets) {found}, expected {expected}")
                layout = {name: self._place_of(file, name) for name in DATASETS | LABEL_DATASETS if name in file}
        except (OSError, RuntimeError, KeyError) as error:
            raise DataError(f"shard {self.path} is not readable HDF5 ({error}); convert again") from error
        if missing := DATASETS.keys() - layout.keys():
            raise DataError(f"shard {self.path} lacks {sorted(missing)}; convert again")
        with self.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return {
            name: np.frombuffer(mapped, dtype, count=int(np.prod(shape)), offset=offset).reshape(shape)
            for name, (offset, dtype, shape) in layout.items()
        }

    def _place_of(self, file, name: str) -> tuple[int, str, tuple[int, ...]]:
        dataset, dtype = file[name], (DATASETS | LABEL_DATASETS)[name]
        if dataset.dtype != np.dtype(dtype):
            raise DataError(f"shard {self.path}: {name} is {dataset.dtype}, expected {dtype}; convert again")
        if dataset.size == 0:
            return 0, dtype, dataset.shape
        offset = dataset.id.get_offset()
        if offset is None:
            raise DataError(
                f"shard {self.path}: {name} is chunked or compressed and cannot be memory-mapped; make shards with:"
                " python jobs/data.py convert"
            )
        return offset, dtype, dataset.shape

    def _check_consistency(self, manifest: Manifest) -> None:
        per_jet = self.count_NC.sum(axis=1, dtype=np.int64)
        if not np.array_equal(np.diff(self.indptr), per_jet) or self.indptr[0] != 0:
            raise DataError(f"shard {self.path}: counts and indptr disagree; convert again")
        if self.indptr[-1] != len(self.index) or len(self.index) != len(self.value):
            raise DataError(f"shard {self.path}: {len(self.index)} places for {self.indptr[-1]} values; convert again")
        if self.label is not None and manifest.classes is not None:
            check_labels(self.label, self.row, manifest.classes, where=str(self.path))


def check_labels(label_N: NDArray, row_N: NDArray, classes: tuple[str, ...], *, where: str) -> None:
    """Every label must be the number of a class.

    Raises:
        DataError: names the first label that is not, and its row in the source.
    """
    bad = np.flatnonzero((label_N < 0) | (label_N >= len(classes)))
    if len(bad):
        raise DataError(
            f"{where}: label {label_N[bad[0]]} of source row {row_N[bad[0]]} is out of range, expected"
            f" 0..{len(classes) - 1} ({', '.join(classes)}); correct the source and convert again"
        )


class JetDataset:
    """One split of a dataset, addressed by sample id 0..n-1 in manifest order."""

    def __init__(self, folder: Path, split: str, *, manifest: Manifest | None = None):
        """Open all shards of a split.

        Raises:
            DataError: no such split, or a shard is not what the manifest says.
        """
        self.folder, self.split = Path(folder), split
        self.manifest = manifest or read_manifest(self.folder)
        if split not in self.manifest.splits:
            raise DataError(
                f"split {split!r} is not in {self.folder}: expected one of {', '.join(self.manifest.splits)}"
            )
        entries = self.manifest.splits[split]
        self.shards = [Shard(self.folder / entry.file, entry, self.manifest) for entry in entries]
        self.first_id_of_shard = np.concatenate([[0], np.cumsum([len(shard) for shard in self.shards])])

    def __len__(self) -> int:
        return int(self.first_id_of_shard[-1])

    def column(self, name: str) -> NDArray | None:
        """One of `label`, `mass_gev`, `pt_gev`, `row` for all jets in id order (N,), or None where not known."""
        columns = [getattr(shard, name) for shard in self.shards]
        return None if not columns or any(column is None for column in columns) else np.concatenate(columns)

    def gather(self, ids: NDArray[np.int64]) -> SparseJets:
        """The jets of the given ids (N,), in that order.

        Raises:
            DataError: a value is not finite.
        """
        shard_of_id = np.searchsorted(self.first_id_of_shard, ids, side="right") - 1
        places = [(self.shards[s], int(i - self.first_id_of_shard[s])) for s, i in zip(shard_of_id, ids, strict=True)]
        slices = [(shard, slice(shard.indptr[j], shard.indptr[j + 1])) for shard, j in places]
        value = np.concatenate([shard.value[part] for shard, part in slices])
        if not np.isfinite(value).all():
            self._refuse_non_finite(places)
        return SparseJets(
            count_NC=np.stack([shard.count_NC[j] for shard, j in places]),
            index=np.concatenate([shard.index[part] for shard, part in slices]),
            value=value,
            row=np.array([shard.row[j] for shard, j in places]),
            label=None if self.shards[0].label is None else np.array([shard.label[j] for shard, j in places]),
        )

    def _refuse_non_finite(self, places: list[tuple[Shard, int]]) -> None:
        for shard, j in places:
            value = shard.value[shard.indptr[j] : shard.indptr[j + 1]]
            if not np.isfinite(value).all():
                raise DataError(
                    f"shard {shard.path}: jet {j} (source row {shard.row[j]}) has {int((~np.isfinite(value)).sum())}"
                    " pixels that are NaN or infinite; find them all with: python jobs/data.py verify, then convert"
                    " a clean source"
                )
