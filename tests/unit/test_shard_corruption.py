"""Ten thousand damaged datasets: each is found at the start or by hash, and the message names the file.

The dataset is small and real. Each damage is done, looked at, and undone. `pytest -s` shows the counts.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from jetmae.data.inspect import verify_dataset
from jetmae.data.integrity import check_hashes
from jetmae.data.manifest import MANIFEST_NAME, read_manifest
from jetmae.data.shards import JetDataset
from jetmae.errors import DataError
from tests.unit.test_shards import random_images, write_dataset

JETS = 12
SHARD, OTHER_SHARD = "train-00001.h5", "train-00002.h5"  # not the first: a message must not just name what comes first
FLIPS_PER_REGION, FLIPS_OF_MANIFEST = 700, 2000
LEAST_DAMAGES = 10_000
ONLY_BY_HASH = {
    *(f"shard, bit flipped in {region}" for region in ("/index", "/value", "any place")),
    "shard, block zeroed",
}  # for some of these; all others have to be found before a job starts
TIMES = ("at the start", "when read, and by hash", "by hash alone", "never")


@dataclass(frozen=True)
class Damage:
    """What was done to a file; it lasts until the next one is asked for."""

    kind: str
    path: Path
    details: object = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A dataset of three shards of equal size and equal counts: nothing but the values tells them apart."""
    folder = tmp_path_factory.mktemp("dataset")
    images = random_images(4)
    columns = {"label": np.arange(JETS) % 2, "mass_gev": np.full(JETS, 80.0), "pt_gev": np.full(JETS, 500.0)}
    write_dataset(folder, np.concatenate([images, 2 * images, 3 * images]), **columns)
    assert len({path.stat().st_size for path in folder.glob("*.h5")}) == 1
    return folder


def test_every_damage_is_found_and_named(folder):
    counts, missed = Counter(), []
    for damage in damages(folder):
        time, message = first_finding(folder)
        counts[damage.kind, time] += 1
        if time == "never" or damage.path.name not in message:
            missed.append((damage, message))
    print(table(counts))
    assert not missed
    assert {kind for kind, time in counts if time != TIMES[0]} == ONLY_BY_HASH
    assert counts.total() >= LEAST_DAMAGES
    assert first_finding(folder)[0] == "never"  # all was undone: each damage was found for itself


def test_verify_finds_them_too(folder):
    whole = verify_dataset(folder)
    for damage in islice(damages(folder), 0, None, 211):
        try:
            problems = verify_dataset(folder)
        except DataError as error:
            problems = [str(error)]
        assert any(damage.path.name in problem for problem in problems), damage
    assert verify_dataset(folder) == whole


def first_finding(folder: Path) -> tuple[str, str]:
    """When a run finds something wrong, and what it says. An exception of another kind is a failed test."""
    try:
        dataset = JetDataset(folder, "train")
    except DataError as error:
        return "at the start", str(error)
    time = "by hash alone"
    try:
        dataset.gather(np.arange(JETS))
    except DataError:
        time = "when read, and by hash"
    try:
        check_hashes(folder, dataset.manifest.splits["train"])
    except DataError as error:
        return time, str(error)
    return "never", ""


def table(counts: Counter) -> str:
    """One line for each kind of damage: how many there were, and when they were found."""
    kinds = list(dict.fromkeys(kind for kind, _ in counts))
    rows = {kind: [counts[kind, time] for time in TIMES] for kind in kinds}
    rows["all"] = [sum(row[column] for row in rows.values()) for column in range(len(TIMES))]
    lines = [f"{kind:36}{sum(row):8}" + "".join(f"{count:24}" for count in row) for kind, row in rows.items()]
    return "\n".join(["\n" + f"{'damage':36}{'made':>8}" + "".join(f"{time:>24}" for time in TIMES), *lines])


# ---- damages


def damages(folder: Path) -> Iterator[Damage]:
    """Does one damage after the other, and undoes it."""
    generator = np.random.default_rng(0)
    shard, manifest = folder / SHARD, folder / MANIFEST_NAME
    for region, places in regions(shard).items():
        yield from flips(shard, f"shard, bit flipped in {region}", places, FLIPS_PER_REGION, generator)
    yield from flips(manifest, "manifest, bit flipped", range(manifest.stat().st_size), FLIPS_OF_MANIFEST, generator)
    for path, name in ((shard, "shard"), (manifest, "manifest")):
        yield from truncations(path, f"{name}, truncated")
        yield from zeroed_blocks(path, f"{name}, block zeroed")
        yield from additions(path, f"{name}, bytes appended")
        yield from losses(path, name)
    yield from exchanges(shard, folder / OTHER_SHARD)


def regions(shard: Path) -> dict[str, range]:
    """Which bytes of the file are what."""
    entry = next(entry for entry in read_manifest(shard.parent).splits["train"] if entry.file == shard.name)
    begins = dict(sorted(entry.offsets.items(), key=lambda item: item[1]))
    ends = [*list(begins.values())[1:], entry.bytes]
    arrays = {f"/{name}": range(begin, end) for (name, begin), end in zip(begins.items(), ends, strict=True)}
    return {"the HDF5 header": range(min(begins.values())), **arrays, "any place": range(entry.bytes)}


def flips(path: Path, kind: str, places: range, count: int, generator: np.random.Generator) -> Iterator[Damage]:
    content = path.read_bytes()
    for at in generator.integers(places.start, places.stop, count).tolist():
        bit = int(generator.integers(8))
        with overwritten(path, at, bytes([content[at] ^ 1 << bit])):
            yield Damage(kind, path, f"bit {bit} of byte {at}")


def truncations(path: Path, kind: str) -> Iterator[Damage]:
    size = path.stat().st_size
    for length in sorted({*range(200), *range(0, size, size // 200), *range(size - 200, size)}):
        with changed(path, lambda path, length=length: os.truncate(path, length)):
            yield Damage(kind, path, f"to {length} bytes")


def zeroed_blocks(path: Path, kind: str) -> Iterator[Damage]:
    content = path.read_bytes()
    for length in (1, 16, 512, 4096):
        for at in range(0, len(content), max(length, len(content) // 500)):
            block = content[at : at + length]
            if any(block):
                with overwritten(path, at, bytes(len(block))):
                    yield Damage(kind, path, f"{length} bytes from {at}")


def additions(path: Path, kind: str) -> Iterator[Damage]:
    content = path.read_bytes()
    for added in (b"\0", b" ", b"\n", b"{}", bytes(4096), content):
        with changed(path, lambda path, added=added: path.write_bytes(content + added)):
            yield Damage(kind, path, f"{len(added)} bytes")


def losses(path: Path, name: str) -> Iterator[Damage]:
    elsewhere = path.with_name("elsewhere")
    for kind, change in (
        ("missing", Path.unlink),
        ("renamed", lambda path: path.rename(elsewhere)),
        ("empty", lambda path: os.truncate(path, 0)),
    ):
        with changed(path, change):
            yield Damage(f"{name}, {kind}", path)
    elsewhere.unlink()


def exchanges(shard: Path, other: Path) -> Iterator[Damage]:
    content = shard.read_bytes()
    with changed(shard, lambda shard: shutil.copyfile(other, shard)):
        yield Damage("shard, replaced by another", shard)
        with changed(other, lambda other: other.write_bytes(content)):
            yield Damage("shard, exchanged with another", shard)


@contextmanager
def overwritten(path: Path, at: int, content: bytes) -> Iterator[None]:
    """Other bytes at one place of a file of the same size."""
    with path.open("r+b", buffering=0) as file:
        original = os.pread(file.fileno(), len(content), at)
        os.pwrite(file.fileno(), content, at)
        yield
        os.pwrite(file.fileno(), original, at)


@contextmanager
def changed(path: Path, change: Callable[[Path], object]) -> Iterator[None]:
    """A file to which something happens as a whole."""
    original = path.read_bytes()
    change(path)
    yield
    path.write_bytes(original)
