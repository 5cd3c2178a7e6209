"""The data folder: manifest, every shard's size and head, labels.

It takes seconds; `data.py verify`, which looks at every value, takes longer.
"""

from collections.abc import Iterator
from pathlib import Path

from jetmae.data.manifest import Manifest, read_manifest
from jetmae.data.shards import JetDataset
from jetmae.doctor.verdict import Verdict, failed, ok
from jetmae.errors import DataError


def check_dataset(folder: Path) -> Iterator[Verdict]:
    """The manifest, then every split as training would open it."""
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        yield _bad("data", error)
        return
    yield ok("data", f"{folder}: {len(manifest.splits)} splits, images {manifest.image_shape}")
    for split in manifest.splits:
        yield check_split(folder, split, manifest)


def check_split(folder: Path, split: str, manifest: Manifest) -> Verdict:
    """One split, opened as training would open it."""
    name = f"data {split}"
    try:
        dataset = JetDataset(folder, split, manifest=manifest)
    except DataError as error:
        return _bad(name, error)
    labelled = "" if dataset.is_labelled else "not "
    return ok(name, f"{len(dataset):,} jets in {len(dataset.shards)} shard(s), {labelled}labelled")


def _bad(name: str, error: DataError) -> Verdict:
    """A DataError says what was found and, behind the last semicolon, what to do."""
    found, _, todo = str(error).rpartition(";")
    return failed(name, found or str(error), "every run with this data stops when it starts", todo.strip())
