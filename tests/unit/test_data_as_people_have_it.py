"""Files as people have them, given to the command: converted equal to the truth, or refused in one helpful line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jetmae.data.shards import JetDataset
from jetmae.data.sparse import densify
from tests.conftest import type_command

JETS = 24
CLASS = np.arange(JETS) % 2


def sparse_images(channels: int, side: int) -> np.ndarray:
    generator = np.random.default_rng(7)
    images = generator.exponential(3.0, size=(JETS, channels, side, side)).astype(np.float32)
    images[generator.random(images.shape) > 0.02] = 0
    return images


IMAGES, SMALL = sparse_images(8, 125), sparse_images(3, 40)


def hdf5(path: Path, *, images=IMAGES, labels=CLASS, image_key="X_jets", label_key="y", **storage) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset(image_key, data=images, **storage)
        file.create_dataset(label_key, data=labels, dtype=h5py.string_dtype() if isinstance(labels, list) else None)


def of_parquet(path: Path, **columns) -> None:
    kind = pa.list_(pa.list_(pa.list_(pa.float32())))
    parquet.write_table(pa.table({"X_jets": pa.array(SMALL.tolist(), type=kind), **columns}), path)


def rows_never_written(path: Path) -> None:
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("X_jets", IMAGES.shape, "f4", chunks=(1, 8, 125, 125), compression="gzip")
        rows[:8] = IMAGES[:8]
        file["y"] = CLASS


def links_into_another_file(path: Path) -> None:
    hdf5(path.with_name("part.h5"))
    with h5py.File(path, "w") as file:
        file["X_jets"], file["y"] = h5py.ExternalLink("part.h5", "/X_jets"), h5py.ExternalLink("part.h5", "/y")


def behind_a_user_block(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        file["X_jets"], file["y"] = IMAGES, CLASS


def an_array_per_jet(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for jet in range(300):
            file.create_dataset(f"jet_{jet:05d}/image", (125, 125, 8), "f4")
            file.create_dataset(f"jet_{jet:05d}/label", data=jet % 2)


@dataclass(frozen=True)
class Case:
    """A way to write a file, and what the command makes of it."""

    write: Callable[[Path], None]
    refused: tuple[str, ...] = ()
    """Words of the one line of the error."""
    says: tuple[str, ...] = ()
    """Words of what a conversion prints."""
    suffix: str = "h5"
    labelled: bool = True
    options: tuple[str, ...] = ()


WORDS = ["qcd", "top"] * 12
LARGE = np.where(IMAGES[:2] != 0, 2**60 + 1, 0).astype(np.int64)
WORDS_SAID = ("label words: 0 = qcd, 1 = top", "--classes")
CASES = {
    "rows never written": Case(rows_never_written, refused=("X_jets", "rows 8-23 were never written", "--allow-unw")),
    "rows never written, allowed": Case(rows_never_written, says=("16 rows are taken as they read", "16 constant"),
                                        options=("--allow-unwritten",)),
    "blosc": Case(lambda path: hdf5(path, **hdf5plugin.Blosc())),
    "zstd": Case(lambda path: hdf5(path, **hdf5plugin.Zstd())),
    "words": Case(lambda path: hdf5(path, labels=WORDS), says=WORDS_SAID),
    "bytes": Case(lambda path: hdf5(path, labels=np.array(WORDS, dtype="S")), says=WORDS_SAID),
    "labels beside the images": Case(
        lambda path: hdf5(path, image_key="all_events/images", label_key="all_events/labels"),
        says=("label all_events/labels",),
    ),
    "is_signal": Case(lambda path: hdf5(path, label_key="is_signal"), says=("label is_signal",)),
    "one-hot of three": Case(lambda path: hdf5(path, labels=np.eye(3, dtype="f4")[np.arange(JETS) % 3]),
                             refused=("y is one-hot of 3 classes",)),
    "integers above 2^53": Case(lambda path: hdf5(path, images=LARGE, labels=CLASS[:2]),
                                refused=("1152921504606846977", "--allow-rounding")),
    "links": Case(links_into_another_file, says=("X_jets is a link to /X_jets in", "part.h5")),
    "user block": Case(behind_a_user_block),
    "an array per jet": Case(an_array_per_jet, refused=("and 598 more", "--image-key")),
    "a constant column": Case(lambda path: of_parquet(path, runId=pa.array([1] * JETS)), says=("no labels",),
                              suffix="parquet", labelled=False),
    "lists of one": Case(lambda path: of_parquet(path, y=pa.array([[int(label)] for label in CLASS])),
                         says=("label y",), suffix="parquet"),
    "words in parquet": Case(lambda path: of_parquet(path, y=pa.array(WORDS)), says=WORDS_SAID, suffix="parquet"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_converted_equal_to_the_truth_or_refused_in_one_line(tmp_path, name):
    case = CASES[name]
    source, out = tmp_path / f"source.{case.suffix}", tmp_path / "out"
    case.write(source)
    finished = type_command("data.py", "convert", source, "--out", out, "--verify", *case.options)
    if case.refused:
        assert finished.returncode == 65, finished.stderr
        assert finished.stderr.count("\n") == 1
        assert all(words in finished.stderr for words in case.refused), finished.stderr
        assert len(finished.stderr.replace(str(tmp_path), "")) < 300
        assert not out.exists()
        return
    assert finished.returncode == 0, finished.stderr
    assert all(words in finished.stdout for words in case.says), finished.stdout
    assert "24 jets compared with the sources bit for bit: equal" in finished.stdout
    assert_equals_the_truth(out, case)


def assert_equals_the_truth(out: Path, case: Case) -> None:
    truth = (SMALL if case.suffix == "parquet" else IMAGES).copy()
    if "--allow-unwritten" in case.options:
        truth[8:] = 0
    prefix = "" if case.labelled else "unlabelled_"
    for split in ("train", "validation", "test"):
        dataset = JetDataset(out, prefix + split)
        rows, shape = dataset.column("row"), dataset.manifest.image_shape
        images = densify(dataset.gather(np.arange(len(dataset))), shape, dataset.manifest.tower_size)
        assert images.tobytes() == truth[rows].tobytes()
        label = dataset.column("label")
        assert np.array_equal(label, CLASS[rows]) if case.labelled else label is None
