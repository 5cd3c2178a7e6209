"""Sparse shards: jets on disk as they are read during training.

A jet image is 98 % zeros, so a shard keeps the non-zero values alone: per jet and channel how many there are, and for
each its place and its value. It is an HDF5 file whose datasets are contiguous, aligned and uncompressed:

    /count   u2 (n, C)   values stored of each jet and channel
    /indptr  i8 (n + 1)  where a jet's values begin in /index and /value
    /row     i8 (n)      row of the jet in the source file
    /label   i8 (n), /mass_gev f4 (n), /pt_gev f4 (n)    where known
    /index   u2 (nnz)    place in the image, y * W + x, sorted by channel, then place; H * W + t means "all pixels of
                         tower t", see below
    /value   f4 (nnz)    never 0

in this order, behind the HDF5 header. Any HDF5 program can read it; training never parses it, for a flipped bit in
the header can keep HDF5 busy for ever. The manifest (manifest.py) says where each array begins, and has a hash of the
head, that is of all before /index. A shard is thus opened by one read and one hash of less than 1 % of it, which finds
every change of layout, counts and labels, and also another shard under its name: the header holds the hashes of /index
and /value. Their own bytes are a matter of the SHA-256 (integrity.py).

Towers: a hadron calorimeter tower covers tower_size x tower_size pixels with one value. A channel in which that holds
for every tower of every jet of the shard is stored once per tower (attribute `tower_channels`), with places H * W + t
where t counts towers row by row. A place thus says by itself what it means, and shards of both kinds mix in a batch.

Shapes: N jets, C channels, H rows and W columns (eta and phi in simulated jets), nnz stored values.
"""

import math
import mmap
import os
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from jetmae.command_line import typed
from jetmae.data.integrity import sha256_of, wrong_size
from jetmae.data.manifest import FORMAT_VERSION, Manifest, ShardEntry, read_manifest
from jetmae.errors import DataError
from jetmae.files import written_aside

SHARD_FORMAT = "jetmae-shard"
PAGE_BYTES = 4096  # datasets start on page borders: an unaligned int64 array cannot be viewed in place everywhere
HEADER_BYTES = 16384  # set aside for all of HDF5's own structures, or it would scatter them between the arrays
MAX_PLACES = 65536  # places are two bytes
HEAD_ARRAYS = {"count": "<u2", "indptr": "<i8", "row": "<i8", "label": "<i8", "mass_gev": "<f4", "pt_gev": "<f4"}
ARRAYS = HEAD_ARRAYS | {"index": "<u2", "value": "<f4"}
SPARE_FILES = 256  # a process may have open besides its shards


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


def write_shard(path: Path, jets: SparseJets, *, manifest: Manifest, tower_channels: tuple[int, ...]) -> ShardEntry:
    """Write one shard whole or not at all, and return its manifest entry. `path` must not exist."""
    indptr = np.concatenate([[0], np.cumsum(jets.count_NC.sum(axis=1, dtype=np.int64))])
    arrays = {**vars(jets), "count": jets.count_NC, "indptr": indptr}
    arrays = {
        name: np.ascontiguousarray(arrays[name], dtype=dtype)
        for name, dtype in ARRAYS.items()
        if arrays[name] is not None
    }
    attributes = {
        "format": SHARD_FORMAT,
        "format_version": FORMAT_VERSION,
        "jets": len(jets),
        "nonzeros": len(jets.index),
        "image_shape": manifest.image_shape,
        "channels": list(manifest.channels),
        "tower_size": manifest.tower_size,
        "tower_channels": np.array(tower_channels, dtype=np.int64),
    }
    with written_aside(path) as aside:
        offsets = _write_hdf5(aside, arrays, attributes)
        head_bytes = max(offsets[name] + array.nbytes for name, array in arrays.items() if name in HEAD_ARRAYS)
        return ShardEntry(
            file=path.name,
            jets=len(jets),
            nonzeros=len(jets.index),
            bytes=aside.stat().st_size,
            tower_channels=tuple(tower_channels),
            offsets=offsets,
            head_bytes=head_bytes,
            head_xxh3_64=xxhash.xxh3_64_hexdigest(_first_bytes(aside, head_bytes)),
            sha256=sha256_of(aside),
        )


def _write_hdf5(path: Path, arrays: dict[str, NDArray[Any]], attributes: dict[str, object]) -> dict[str, int]:
    """Returns where each array begins, in bytes; 0 for an empty one."""
    import h5py

    layout = {
        "alignment_threshold": PAGE_BYTES,
        "alignment_interval": PAGE_BYTES,
        "meta_block_size": HEADER_BYTES,
    }
    with h5py.File(path, "x", libver="latest", **layout) as file:
        file.attrs.update(attributes)
        for name, array in arrays.items():
            dataset = file.create_dataset(name, data=array, track_times=False)
            dataset.attrs["xxh3_64"] = xxhash.xxh3_64_hexdigest(array.data)
        return {name: file[name].id.get_offset() or 0 for name in arrays}


def _first_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


class Shard:
    """A memory-mapped shard. Its arrays are read-only views of the map, which the processes of a node share."""

    def __init__(self, path: Path, entry: ShardEntry, manifest: Manifest):
        """Check size and head of the file against its manifest entry, and map it.

        Raises:
            DataError: missing, of another size than at conversion, with a head that changed after conversion, another
                shard under this name, or labels that name no class.
        """
        self.path, self.entry = path, entry
        mapped = self._checked_map()
        jets, values = (entry.jets,), (entry.nonzeros,)
        self.count_NC = self._array(mapped, "count", (entry.jets, manifest.image_shape[0]))
        self.indptr = self._array(mapped, "indptr", (entry.jets + 1,))
        self.index, self.value = self._array(mapped, "index", values), self._array(mapped, "value", values)
        self.row = self._array(mapped, "row", jets)
        self.label, self.mass_gev, self.pt_gev = (
            self._array(mapped, name, jets) if name in entry.offsets else None
            for name in ("label", "mass_gev", "pt_gev")
        )
        if self.label is not None and manifest.classes is not None:
            check_labels(self.label, self.row, manifest.classes, where=f"shard {path}")

    def __len__(self) -> int:
        return self.entry.jets

    def _checked_map(self) -> mmap.mmap:
        if problem := wrong_size(self.path, self.entry):
            raise DataError(problem)
        try:
            with self.path.open("rb") as file:
                head = file.read(self.entry.head_bytes)  # not through the map: a disk error must not be a SIGBUS here
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise DataError(
                f"shard {self.path} cannot be read ({error.strerror}); restore it from a copy, or convert again"
            ) from error
        if xxhash.xxh3_64_hexdigest(head) != self.entry.head_xxh3_64:
            raise DataError(
                f"shard {self.path} is not as it was written: its header, counts or labels changed, or another file has"
                " its name; restore it from a copy, or convert again"
            )
        return mapped

    def _array(self, mapped: mmap.mmap, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        flat = np.frombuffer(mapped, ARRAYS[name], count=math.prod(shape), offset=self.entry.offsets[name])
        return flat.reshape(shape)


def check_labels(label_N: NDArray[np.int64], row_N: NDArray[np.int64], classes: tuple[str, ...], *, where: str) -> None:
    """Every label must be the number of a class.

    Raises:
        DataError: names the first label that is not, and its row in the source.
    """
    bad = np.flatnonzero((label_N < 0) | (label_N >= len(classes)))
    if len(bad):
        raise DataError(
            f"{where}: label {label_N[bad[0]]} of source row {row_N[bad[0]]} is out of range, expected"
            f" 0..{len(classes) - 1} ({', '.join(classes[:8])}); correct the source and convert again"
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
        _allow_open_files(len(entries))
        self.shards = [Shard(self.folder / entry.file, entry, self.manifest) for entry in entries]
        self.first_id_of_shard = np.concatenate([[0], np.cumsum([len(shard) for shard in self.shards])])
        _, height, width = self.manifest.image_shape
        towers = height * width // self.manifest.tower_size**2 if any(e.tower_channels for e in entries) else 0
        self.num_places = height * width + towers

    def __len__(self) -> int:
        return int(self.first_id_of_shard[-1])

    @property
    def is_labelled(self) -> bool:
        return bool(self.shards) and all(shard.label is not None for shard in self.shards)

    def column(self, name: str) -> NDArray[Any] | None:
        """One of `label`, `mass_gev`, `pt_gev`, `row` for all jets in id order (N,), or None where not known."""
        columns = [getattr(shard, name) for shard in self.shards]
        return None if not columns or any(column is None for column in columns) else np.concatenate(columns)

    def gather(self, ids: NDArray[np.int64]) -> SparseJets:
        """The jets of the given ids (N,), in that order.

        Raises:
            DataError: a value is not finite, or its place is outside the image. The device would write such a value
                into another jet, or die.
        """
        shard_of_id = np.searchsorted(self.first_id_of_shard, ids, side="right") - 1
        places = [(self.shards[s], int(i - self.first_id_of_shard[s])) for s, i in zip(shard_of_id, ids, strict=True)]
        slices = [(shard, slice(shard.indptr[j], shard.indptr[j + 1])) for shard, j in places]
        index = np.concatenate([shard.index[part] for shard, part in slices])
        value = np.concatenate([shard.value[part] for shard, part in slices])
        if not np.isfinite(value).all() or index.max(initial=0) >= self.num_places:
            self._refuse_bad_values(places)
        return SparseJets(
            count_NC=np.stack([shard.count_NC[j] for shard, j in places]),
            index=index,
            value=value,
            row=np.array([shard.row[j] for shard, j in places]),
            label=None if self.shards[0].label is None else np.array([shard.label[j] for shard, j in places]),
        )

    def describe(self, ids: Iterable[int]) -> str:
        """Where jets are stored, for a message: `shard train-00000.h5 (jets 3, 17)`."""
        by_file: dict[str, list[str]] = {}
        for sample_id in ids:
            s = int(np.searchsorted(self.first_id_of_shard, sample_id, side="right")) - 1
            by_file.setdefault(self.shards[s].path.name, []).append(str(sample_id - int(self.first_id_of_shard[s])))
        return ", ".join(f"shard {name} (jets {', '.join(jets)})" for name, jets in by_file.items())

    def _refuse_bad_values(self, places: list[tuple[Shard, int]]) -> None:
        for shard, j in places:
            part = slice(shard.indptr[j], shard.indptr[j + 1])
            jet = f"shard {shard.path}: jet {j} (source row {shard.row[j]})"
            if infinite := int((~np.isfinite(shard.value[part])).sum()):
                raise DataError(
                    f"{jet} has {infinite} pixels that are NaN or infinite; find them all with:"
                    f" {typed('data verify')}, then convert a clean source"
                )
            if (highest := shard.index[part].max(initial=0)) >= self.num_places:
                raise DataError(
                    f"{jet} has a value at place {highest}, expected less than {self.num_places}: changed bytes;"
                    f" find all with: {typed('data verify')}, then convert again"
                )


def _allow_open_files(more: int) -> None:
    """Raise this process's own limit if so many more files are too many: a map keeps its file open.

    Raises:
        DataError: the system allows no such limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/proc/self/fd")) + more + SPARE_FILES
    if needed <= soft or soft == resource.RLIM_INFINITY:
        return
    if needed > hard != resource.RLIM_INFINITY:
        raise DataError(
            f"{more} shards need {needed} open files and this system allows {hard}: raise it (ulimit -Hn), or convert"
            " with a larger --jets-per-shard"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
