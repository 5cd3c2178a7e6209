"""Shards come back as written, and every way in which a file can be wrong is noticed before it is mapped."""

import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from jetmae.data.shards import (
    FORMAT_VERSION,
    MANIFEST_FORMAT,
    JetDataset,
    Manifest,
    Shard,
    SparseJets,
    read_manifest,
    write_shard,
)
from jetmae.data.sparse import (
    concatenate,
    constant_towers,
    densify,
    sparsify,
    store_per_tower,
    take,
    tower_grid,
)
from jetmae.errors import DataError
from jetmae.files import write_json

SHAPE = (3, 10, 15)
EMPTY = Manifest(SHAPE, ("a", "b", "c"), ("GeV", "cm", "cm"), ("qcd", "top"), 5, {})


def random_images(jets: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(jets, *SHAPE)).astype(np.float32)
    images[generator.random(images.shape) > 0.1] = 0
    return images


def as_sparse(images: np.ndarray, **columns) -> SparseJets:
    return SparseJets(*sparsify(images, channels_last=False), np.arange(len(images)) + 100, **columns)


def write_dataset(folder: Path, images: np.ndarray, per_shard: int = 4, tower_channels=(), **columns) -> Manifest:
    entries = []
    for number, first in enumerate(range(0, len(images), per_shard)):
        part = slice(first, first + per_shard)
        jets = as_sparse(images[part], **{name: column[part] for name, column in columns.items()})
        jets = store_per_tower(jets, tower_channels, tower_grid(*SHAPE[1:], 5)) if tower_channels else jets
        path = folder / f"train-{number:05d}.h5"
        entries.append(write_shard(path, jets, manifest=EMPTY, tower_channels=tuple(tower_channels)))
    manifest = replace(EMPTY, splits={"train": entries})
    write_json(
        folder / "manifest.json", {"format": MANIFEST_FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest)}
    )
    return manifest


# ---- sparse forms


@pytest.mark.parametrize("last", [True, False])
def test_sparse_form_is_sorted_by_jet_channel_place(last):
    images = random_images(5)
    block = np.ascontiguousarray(np.moveaxis(images, 1, 3)) if last else images
    count, index, value = sparsify(block, channels_last=last)
    jet, channel, place = np.nonzero(images.reshape(5, 3, -1))
    assert (index == place).all()
    assert (value == images.reshape(5, 3, -1)[jet, channel, place]).all()
    assert (count == (images != 0).sum(axis=(2, 3))).all()


def test_take_and_concatenate_are_inverse():
    jets = as_sparse(random_images(7), label=np.arange(7))
    chosen = np.array([True, False, True, True, False, False, True])
    both = concatenate([take(jets, chosen), take(jets, ~chosen)])
    order = np.concatenate([np.flatnonzero(chosen), np.flatnonzero(~chosen)])
    assert (densify(both, SHAPE, 5) == random_images(7)[order]).all()
    assert both.label.tolist() == order.tolist()
    assert both.mass_gev is None


def test_constant_towers_agrees_with_the_dense_definition():
    generator = np.random.default_rng(1)
    towers = generator.integers(0, 2, (200, 3, 2, 3)).astype(np.float32)
    images = towers.repeat(5, axis=2).repeat(5, axis=3)
    broken = generator.random(200) < 0.5
    images[broken, 1, generator.integers(0, 10, broken.sum()), generator.integers(0, 15, broken.sum())] += 1
    images[7, 0, 3, 3] *= 1 + 1e-6
    tiles = images.reshape(200, 3, 2, 5, 3, 5)
    expected = (tiles == tiles[:, :, :, :1, :, :1]).all(axis=(2, 3, 4, 5))
    assert 0.2 < expected[:, 1].mean() < 0.8
    assert (constant_towers(as_sparse(images), tower_grid(10, 15, 5)) == expected).all()


def test_towers_count_row_by_row():
    images = np.zeros((1, *SHAPE), np.float32)
    images[0, 1, 5:, 10:] = 3  # the last of 2 x 3 towers
    images[0, 0, 2, 2] = 1
    jets = store_per_tower(as_sparse(images), [1], tower_grid(10, 15, 5))
    assert jets.index.tolist() == [2 * 15 + 2, 150 + 5]
    assert jets.count_NC.tolist() == [[1, 1, 0]]
    assert (densify(jets, SHAPE, 5) == images).all()


# ---- reading and writing


@pytest.mark.parametrize("tower_channels", [(), (2,)])
def test_jets_come_back_in_the_order_asked_for(tmp_path, tower_channels):
    images = random_images(10)
    images[:, 2] = images[:, 2, ::5, ::5].repeat(5, axis=1).repeat(5, axis=2)
    write_dataset(tmp_path, images, tower_channels=tower_channels, label=np.arange(10) % 2)
    dataset = JetDataset(tmp_path, "train")
    ids = np.array([9, 0, 4, 3, 3])
    jets = dataset.gather(ids)
    assert densify(jets, SHAPE, 5).tobytes() == images[ids].tobytes()
    assert (jets.label == ids % 2).all()
    assert len(dataset) == 10
    assert dataset.column("label").tolist() == [0, 1] * 5
    assert dataset.column("mass_gev") is None


def test_written_file_is_aligned_contiguous_and_uncompressed(tmp_path):
    write_dataset(tmp_path, random_images(4), label=np.zeros(4))
    with h5py.File(tmp_path / "train-00000.h5") as file:
        assert set(file) == {"count", "indptr", "index", "value", "row", "label"}
        for dataset in file.values():
            assert dataset.chunks is None
            assert dataset.compression is None
            assert dataset.id.get_offset() % 4096 == 0 or dataset.nbytes < 4096
            assert len(dataset.attrs["xxh3_64"]) == 16


def test_same_jets_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_dataset(tmp_path / name, random_images(4))
    first, second = ((tmp_path / name / "train-00000.h5").read_bytes() for name in ("a", "b"))
    assert first == second


def test_shard_without_any_value_can_be_read(tmp_path):
    write_dataset(tmp_path, np.zeros((3, *SHAPE), np.float32))
    jets = JetDataset(tmp_path, "train").gather(np.array([0, 2]))
    assert len(jets.index) == 0
    assert (densify(jets, SHAPE, 5) == 0).all()


def test_failed_write_leaves_nothing(tmp_path):
    jets = replace(as_sparse(random_images(2)), value=np.array(["no number"]))
    with pytest.raises(ValueError, match="could not convert"):
        write_shard(tmp_path / "train-00000.h5", jets, manifest=EMPTY, tower_channels=())
    assert list(tmp_path.iterdir()) == []


# ---- refusals


def reopen(folder: Path) -> JetDataset:
    return JetDataset(folder, "train")


def change(folder: Path, edit) -> None:
    """Edit the manifest as JSON."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def resize_in_manifest(folder: Path) -> None:
    path = folder / "train-00000.h5"
    change(folder, lambda content: content["splits"]["train"][0].update(bytes=path.stat().st_size))


def test_missing_dataset_and_split_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no dataset in .*convert"):
        reopen(tmp_path)
    write_dataset(tmp_path, random_images(4))
    with pytest.raises(DataError, match=r"split 'test' is not in .* expected one of train"):
        JetDataset(tmp_path, "test")


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content.update(format="other"),
        lambda content: content.update(format_version=99),
        lambda content: content.pop("channels"),
        lambda content: content.update(surprise=1),
        lambda content: content["splits"]["train"][0].pop("sha256"),
    ],
)
def test_foreign_manifest_is_refused(tmp_path, edit):
    write_dataset(tmp_path, random_images(4))
    change(tmp_path, edit)
    with pytest.raises(DataError, match="convert"):
        reopen(tmp_path)


def test_manifest_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        reopen(tmp_path)


def test_truncated_shard_is_refused_before_it_is_mapped(tmp_path):
    write_dataset(tmp_path, random_images(4))
    path = tmp_path / "train-00000.h5"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train-00000\.h5 has \d+ bytes, expected \d+"):
        reopen(tmp_path)
    resize_in_manifest(tmp_path)
    with pytest.raises(DataError, match="not readable HDF5"):
        reopen(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        reopen(tmp_path)


@pytest.mark.parametrize(
    ("name", "replacement", "message"),
    [
        ("value", {"chunks": (5,), "compression": "gzip"}, "chunked or compressed"),
        ("value", {"dtype": "<f8"}, "value is float64, expected <f4"),
        ("index", None, r"lacks \['index'\]"),
    ],
)
def test_shard_of_another_layout_is_refused(tmp_path, name, replacement, message):
    write_dataset(tmp_path, random_images(4))
    with h5py.File(tmp_path / "train-00000.h5", "a") as file:
        values = file[name][()]
        del file[name]
        if replacement is not None:
            file.create_dataset(name, data=values, **replacement)
    resize_in_manifest(tmp_path)
    with pytest.raises(DataError, match=message):
        reopen(tmp_path)


@pytest.mark.parametrize(("name", "message"), [("count", "counts and indptr disagree"), ("indptr", "disagree")])
def test_inconsistent_counts_are_refused(tmp_path, name, message):
    write_dataset(tmp_path, random_images(4))
    with h5py.File(tmp_path / "train-00000.h5", "a") as file:
        file[name][...] = file[name][()] + 1
    with pytest.raises(DataError, match=message):
        reopen(tmp_path)


def test_label_out_of_range_is_named(tmp_path):
    write_dataset(tmp_path, random_images(4), label=np.array([0, 1, 5, 0]))
    with pytest.raises(DataError, match=r"label 5 of source row 102 is out of range, expected 0\.\.1 \(qcd, top\)"):
        reopen(tmp_path)


def test_value_that_is_not_finite_is_named_when_gathered(tmp_path):
    images = random_images(4)
    images[2, 1, 0, 0] = np.nan
    write_dataset(tmp_path, images)
    dataset = reopen(tmp_path)
    dataset.gather(np.array([0, 1, 3]))
    with pytest.raises(DataError, match=r"jet 2 \(source row 102\) has 1 pixels that are NaN"):
        dataset.gather(np.arange(4))


def test_entry_and_shard_must_agree_on_the_image(tmp_path):
    manifest = write_dataset(tmp_path, random_images(4))
    other = replace(manifest, image_shape=(3, 15, 10))
    with pytest.raises(DataError, match=r"expected \(\(3, 15, 10\)"):
        Shard(tmp_path / "train-00000.h5", manifest.splits["train"][0], other)


def test_entries_can_be_pickled(tmp_path):
    manifest = write_dataset(tmp_path, random_images(4))
    assert pickle.loads(pickle.dumps(manifest)) == manifest == read_manifest(tmp_path)
