"""Seconds to open and check all shards of a dataset: ours, and what one would do with h5py.

    python benchmarks/open_shards.py --markdown benchmarks/results/open_shards_HARDWARE_DATE.md

The launcher and every rank do this at each start. Ours is `JetDataset`: manifest with its hash, size and head of every
shard, labels, memory map. The peers open each file with h5py and read type, shape, place and attributes of every
dataset; the second also reads counts, offsets and labels and compares them, the third also hashes the whole file.
Shards have the default number of jets and thus heads of the true size, but one value per jet only: the pixels, which
ours and the first two peers leave alone, are 0.1 MB here and about 100 MB in life: the third peer is flattered.
Rounds alternate, so that what else the machine does hits all; the medians count.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from jetmae.data.convert.convert import ConvertOptions
from jetmae.data.integrity import sha256_of
from jetmae.data.manifest import Manifest, ShardEntry, read_manifest, write_manifest
from jetmae.data.shards import JetDataset, SparseJets, write_shard

CHANNELS, SIDE = 8, 125
JETS = ConvertOptions().jets_per_shard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hardware", default="2-core x86-64 virtual machine", help="for the result's text")
    parser.add_argument("--markdown", type=Path, help="write the result there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder), arguments.shards)
        warm = measure(Path(folder), arguments.rounds, cold=False)
        cold = measure(Path(folder), arguments.rounds, cold=True)
        text = report(warm, cold, entries_of(Path(folder))[0], arguments)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text)


def make_dataset(folder: Path, shards: int) -> None:
    names = tuple(f"channel {number}" for number in range(CHANNELS))
    manifest = Manifest((CHANNELS, SIDE, SIDE), names, names, ("qcd", "top"), 5, {})
    paths = [folder / f"train-{number:05d}.h5" for number in range(shards)]
    entries = [
        write_shard(path, jets_of(number), manifest=manifest, tower_channels=()) for number, path in enumerate(paths)
    ]
    write_manifest(folder, replace(manifest, splits={"train": entries}))


def jets_of(number: int) -> SparseJets:
    count = np.zeros((JETS, CHANNELS), np.uint16)
    count[:, 0] = 1
    ones = np.ones(JETS, np.float32)
    row = np.arange(JETS) + number * JETS
    return SparseJets(count, np.zeros(JETS, np.uint16), ones, row, row % 2, mass_gev=80 * ones, pt_gev=500 * ones)


def measure(folder: Path, rounds: int, *, cold: bool) -> dict[str, float]:
    """Median seconds of each way of opening; `cold`: with no shard in the page cache."""
    seconds = {name: [] for name in WAYS}
    for _ in range(rounds + 1):  # the first round fills caches and imports
        for name, elapsed in seconds.items():
            if cold:
                evict(folder)
            started_at_s = time.perf_counter()
            WAYS[name](folder)
            elapsed.append(time.perf_counter() - started_at_s)
    return {name: float(np.median(elapsed[1:])) for name, elapsed in seconds.items()}


def evict(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ours(folder: Path) -> None:
    assert len(JetDataset(folder, "train").shards) > 0


def entries_of(folder: Path) -> list[ShardEntry]:
    return read_manifest(folder).splits["train"]


def headers(folder: Path, look: Callable[[Path, h5py.File], None] = lambda _path, _file: None) -> None:
    """Every dataset of every file: is it what a shard has? Then a further look."""
    for entry in entries_of(folder):
        path = folder / entry.file
        with h5py.File(path, "r", locking=False) as file:
            assert file.attrs["jets"] == entry.jets
            for name, offset in entry.offsets.items():
                dataset = file[name]
                assert (dataset.id.get_offset(), len(dataset.shape)) == (offset, 2 if name == "count" else 1)
                assert dataset.dtype.itemsize in (2, 4, 8)
                assert dataset.attrs["xxh3_64"]
            look(path, file)


def headers_and_small_arrays(folder: Path) -> None:
    def look(_path: Path, file: h5py.File) -> None:
        count_NC, indptr, label = (file[name][()] for name in ("count", "indptr", "label"))
        assert np.array_equal(np.diff(indptr), count_NC.sum(axis=1, dtype=np.int64))
        assert ((label >= 0) & (label < 2)).all()

    headers(folder, look)


def headers_and_hash(folder: Path) -> None:
    hashes = {entry.file: entry.sha256 for entry in entries_of(folder)}

    def look(path: Path, _file: h5py.File) -> None:
        assert sha256_of(path) == hashes[path.name]

    headers(folder, look)


OURS = "ours: size, hash of the head, labels, map"
WAYS = {
    OURS: ours,
    "h5py: headers": headers,
    "h5py: headers, counts and labels": headers_and_small_arrays,
    "h5py: headers, SHA-256 of the file": headers_and_hash,
}


def report(warm: dict, cold: dict, entry: ShardEntry, arguments: argparse.Namespace) -> str:
    per_1000 = 1000 / arguments.shards
    lines = [
        "# Opening and checking all shards of a dataset",
        "",
        (
            f"`python benchmarks/open_shards.py --shards {arguments.shards} --rounds {arguments.rounds}` on a"
            f" {arguments.hardware} that other work"
        ),
        (
            f"shares, local disk, one process; medians of {arguments.rounds} alternating rounds. Shards of {JETS:,}"
            f" jets with heads of {entry.head_bytes / 1e6:.2f} MB, of one"
        ),
        (
            f"value per jet: files of {entry.bytes / 1e6:.2f} MB instead of about 100. Ours reads no pixels, nor do the"
            " first two peers; the third is flattered."
        ),
        "Warm: files in the page cache. Cold: evicted before each round.",
        "",
        "| per 1,000 shards | warm, s | times ours | cold, s | times ours |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {warm[name] * per_1000:.2f} | {warm[name] / warm[OURS]:.1f} | {cold[name] * per_1000:.2f} |"
            f" {cold[name] / cold[OURS]:.1f} |"
            for name in WAYS
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
