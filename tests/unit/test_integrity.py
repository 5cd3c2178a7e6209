"""What changed in a dataset's folder is found and named: by size, by hash, by fingerprint, after a SIGBUS."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jetmae.data import integrity
from jetmae.data.integrity import changed_shards, check_hashes, data_fingerprint
from jetmae.data.manifest import Manifest, read_manifest
from jetmae.errors import DataError
from tests.unit.test_shards import random_images, write_dataset


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    """Of a dataset of three shards in the test's folder."""
    return write_dataset(tmp_path, random_images(12))


# ---- by size


def test_a_whole_dataset_has_no_changed_shards(manifest, tmp_path):
    assert changed_shards(tmp_path) == []


def test_missing_and_truncated_shards_are_named(manifest, tmp_path):
    os.truncate(tmp_path / "train-00000.h5", 100)
    (tmp_path / "train-00002.h5").unlink()
    truncated, missing = changed_shards(tmp_path)
    assert "train-00000.h5 has 100 bytes, expected" in truncated
    assert "train-00002.h5 cannot be read (No such file" in missing


def test_a_manifest_that_cannot_be_read_is_a_line_as_well(tmp_path):
    (line,) = changed_shards(tmp_path)
    assert "no dataset in" in line


READER = """
import sys, numpy as np
from pathlib import Path
from jetmae.data.shards import JetDataset
dataset = JetDataset(Path(sys.argv[1]), "train")
print("mapped", flush=True)
sys.stdin.readline()
dataset.gather(np.arange(len(dataset)))
"""


@pytest.mark.slow
def test_a_shard_cut_short_under_its_reader_is_named_afterwards(manifest, tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", READER, tmp_path], **pipes) as reader:
        assert reader.stdout.readline() == "mapped\n"
        os.truncate(tmp_path / "train-00001.h5", 4096)
        reader.communicate("go on\n", timeout=60)
    assert reader.returncode == -signal.SIGBUS
    (line,) = changed_shards(tmp_path)
    assert "train-00001.h5 has 4096 bytes" in line


def test_the_post_mortem_needs_the_standard_library_alone():
    """A supervisor has seconds, and runs where nothing else may be installed."""
    code = "import sys, jetmae.data.integrity; print(*{name.split('.')[0] for name in sys.modules})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not set(printed.split()) & {"numpy", "h5py", "xxhash", "torch", "pydantic", "yaml"}


# ---- by hash


def flip_a_bit(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_changed_pixel_is_found_by_hash_alone(manifest, tmp_path):
    entries = manifest.splits["train"]
    check_hashes(tmp_path, entries)
    flip_a_bit(tmp_path / "train-00001.h5", at=entries[1].offsets["value"])
    assert changed_shards(tmp_path) == []
    with pytest.raises(DataError, match=r"train-00001\.h5: SHA-256 is"):
        check_hashes(tmp_path, entries)
    check_hashes(tmp_path, entries[::2])


def test_a_disk_error_names_the_shard(manifest, tmp_path, monkeypatch):
    def read_error(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(integrity, "sha256_of", read_error)
    with pytest.raises(DataError, match=r"train-00000\.h5 cannot be read \(Input/output error\)"):
        check_hashes(tmp_path, manifest.splits["train"])


# ---- by fingerprint


@pytest.fixture
def two_splits(manifest) -> Manifest:
    first, second, third = manifest.splits["train"]
    constants = {"none": {"scale": [1.0], "mean": [0.5], "std": [2.0]}}
    return replace(manifest, splits={"train": [first, second], "test": [third]}, normalisation={"train": constants})


def test_a_fingerprint_survives_writing_and_moving(manifest, tmp_path):
    fingerprint = data_fingerprint(manifest, ["train"])
    assert len(fingerprint) == 16
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert data_fingerprint(read_manifest(moved), ["train"]) == fingerprint
    moved.rename(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"image_shape": (3, 15, 10)},
        {"channels": ("a", "c", "b")},
        {"classes": ("top", "qcd")},
        {"normalisation": {"train": {"none": {"scale": [1.0], "mean": [0.5], "std": [2.5]}}}},
    ],
)
def test_other_data_have_another_fingerprint(two_splits, changed):
    assert data_fingerprint(replace(two_splits, **changed), ["train"]) != data_fingerprint(two_splits, ["train"])


@pytest.mark.parametrize("changed", [{"file": "train-00007.h5"}, {"jets": 3}, {"bytes": 1}, {"sha256": "0" * 64}])
def test_another_shard_changes_the_fingerprint_of_its_split_alone(two_splits, changed):
    first, second = two_splits.splits["train"]
    other = replace(two_splits, splits={**two_splits.splits, "train": [first, replace(second, **changed)]})
    assert data_fingerprint(other, ["train"]) != data_fingerprint(two_splits, ["train"])
    assert data_fingerprint(other, ["test"]) == data_fingerprint(two_splits, ["test"])


def test_order_of_shards_counts_and_order_of_splits_does_not(two_splits):
    assert data_fingerprint(two_splits, ["train", "test"]) == data_fingerprint(two_splits, ["test", "train"])
    turned = replace(two_splits, splits={**two_splits.splits, "train": two_splits.splits["train"][::-1]})
    assert data_fingerprint(turned, ["train"]) != data_fingerprint(two_splits, ["train"])


def test_provenance_is_no_part_of_the_fingerprint(two_splits):
    later = replace(two_splits, provenance={"converted_at": json.dumps("tomorrow")})
    assert data_fingerprint(later, ["train"]) == data_fingerprint(two_splits, ["train"])
