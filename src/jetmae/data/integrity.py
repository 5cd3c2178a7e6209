"""Does a dataset's folder still hold what its manifest says?

    when                what is compared                                         cost
    every start         size and head of every shard in use (shards.py)         benchmarks/open_shards.py
    if asked            the SHA-256 of whole shards: data.verify_hashes, verify  reading everything
    after a SIGBUS      sizes: a shard was cut short while it was mapped         one stat per shard
    when a run resumes  the fingerprint of the data that it began with           nothing

Standard library only: a supervisor uses it in the seconds before a node is taken away.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from jetmae.data.manifest import Manifest, ShardEntry, read_manifest
from jetmae.errors import DataError


def wrong_size(path: Path, entry: ShardEntry) -> str | None:
    """What is wrong with the file if it is missing or not as long as at conversion: then a map would die of SIGBUS."""
    try:
        found_bytes = path.stat().st_size
    except OSError as error:
        return _unreadable(path, error)
    if found_bytes != entry.bytes:
        return (
            f"shard {path} has {found_bytes} bytes, expected {entry.bytes}: truncated or changed after conversion;"
            " restore it from a copy, or convert again"
        )
    return None


def wrong_hash(path: Path, entry: ShardEntry) -> str | None:
    """What is wrong with the file if any of its bytes changed after conversion. Reads all of it."""
    try:
        found = sha256_of(path)
    except OSError as error:
        return _unreadable(path, error)
    if found != entry.sha256:
        return (
            f"shard {path}: SHA-256 is {found}, expected {entry.sha256}: changed bytes; restore it from a copy, or"
            " convert again"
        )
    return None


def check_hashes(folder: Path, entries: Iterable[ShardEntry], before_each: Callable[[], None] = lambda: None) -> None:
    """Read whole shards and compare them with the manifest.

    Raises:
        DataError: names the first that differs.
    """
    for entry in entries:
        before_each()
        if problem := wrong_hash(folder / entry.file, entry):
            raise DataError(problem)


def changed_shards(folder: Path) -> list[str]:
    """One line for each shard that is missing or has another size than at conversion; never raises.

    For the post-mortem of a rank that died of SIGBUS. A manifest that cannot be read is a line as well.
    """
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return [str(error)]
    entries = [entry for entries in manifest.splits.values() for entry in entries]
    return [problem for entry in entries if (problem := wrong_size(folder / entry.file, entry))]


def data_fingerprint(manifest: Manifest, splits: Iterable[str]) -> str:
    """16 hexadecimal digits for all that a run sees of a dataset; where the folder lies is no part of it."""
    seen = {name: getattr(manifest, name) for name in ("image_shape", "channels", "units", "classes", "tower_size")} | {
        split: {
            "shards": [asdict(entry) for entry in manifest.splits[split]],
            "normalisation": manifest.normalisation.get(split),
        }
        for split in splits
    }
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unreadable(path: Path, error: OSError) -> str:
    return (
        f"shard {path} cannot be read ({error.strerror}): the manifest lists it; restore it from a copy, or convert"
        " again"
    )
