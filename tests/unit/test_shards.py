"""Shards come back as written, and every way in which a file can be wrong is noticed before it is mapped."""

import json
import pickle
import resource
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from jetmae.data.manifest import SEAL, Manifest, read_manifest, sealed, write_manifest
from jetmae.data.shards import ARRAYS, JetDataset, SparseJets, write_shard
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
    write_manifest(folder, manifest)
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
    (entry,) = write_dataset(tmp_path, random_images(4), label=np.zeros(4)).splits["train"]
    with h5py.File(tmp_path / "train-00000.h5") as file:
        assert set(file) == {"count", "indptr", "index", "value", "row", "label"} == set(entry.offsets)
        for name, dataset in file.items():
            assert dataset.chunks is None
            assert dataset.compression is None
            assert dataset.dtype == ARRAYS[name]
            assert dataset.id.get_offset() == entry.offsets[name]
            assert dataset.id.get_offset() % 4096 == 0 or dataset.nbytes < 4096
            assert len(dataset.attrs["xxh3_64"]) == 16


@pytest.mark.parametrize("jets", [2, 100, 2000])
def test_head_is_all_that_is_not_index_and_value(tmp_path, jets):
    """HDF5 would scatter its structures between the arrays; what the head's hash vouches for must hold them all."""
    columns = {name: np.ones(jets) for name in ("label", "mass_gev", "pt_gev")}
    manifest = replace(EMPTY, channels=tuple(f"channel with quite a long name {number}" for number in range(64)))
    jets = SparseJets(np.full((jets, 64), 4), np.zeros(jets * 256), np.ones(jets * 256), np.arange(jets), **columns)
    entry = write_shard(tmp_path / "train-00000.h5", jets, manifest=manifest, tower_channels=())
    behind = bytearray((tmp_path / "train-00000.h5").read_bytes()[entry.head_bytes :])
    assert entry.bytes - entry.head_bytes < 2 * 4096 + jets.index.size * 6
    for name, width in (("index", 2), ("value", 4)):
        first = entry.offsets[name] - entry.head_bytes
        assert first >= 0
        behind[first : first + jets.index.size * width] = bytes(jets.index.size * width)
    assert not any(behind)


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
    """Edit the manifest as JSON, and seal it again as if it had been written so."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    del content[SEAL]
    edit(content)
    path.write_text(sealed(content))


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


@pytest.mark.parametrize("edit", [lambda content: content.update(classes=["top", "qcd"]), lambda content: None])
def test_manifest_edited_by_hand_is_refused(tmp_path, edit):
    write_dataset(tmp_path, random_images(4))
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content, indent=2))
    with pytest.raises(DataError, match=r"manifest\.json is not as it was written"):
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
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        reopen(tmp_path)


@pytest.mark.parametrize(
    ("name", "replacement"),
    [
        ("value", {"chunks": (5,), "compression": "gzip"}),
        ("value", {"chunks": (5,)}),
        ("value", {"dtype": "<f8"}),
        ("value", {"dtype": ">f4"}),
        ("label", {"dtype": "<f8"}),
        ("index", None),
    ],
)
def test_shard_of_another_layout_is_refused(tmp_path, name, replacement):
    """Also if its size is right: it stands in the manifest here."""
    write_dataset(tmp_path, random_images(4), label=np.array([0, 1, 1, 0]))
    with h5py.File(tmp_path / "train-00000.h5", "a") as file:
        values = file[name][()]
        del file[name]
        if replacement is not None:
            file.create_dataset(name, data=values, **replacement)
    resize_in_manifest(tmp_path)
    with pytest.raises(DataError, match=r"train-00000\.h5 is not as it was written"):
        reopen(tmp_path)


def test_shard_with_another_attribute_is_refused(tmp_path):
    write_dataset(tmp_path, random_images(4))
    with h5py.File(tmp_path / "train-00000.h5", "a") as file:
        file.attrs["image_shape"] = (3, 15, 10)
    resize_in_manifest(tmp_path)
    with pytest.raises(DataError, match=r"train-00000\.h5 is not as it was written"):
        reopen(tmp_path)


@pytest.mark.parametrize("name", ["count", "indptr", "row", "label"])
def test_changed_counts_and_columns_are_refused(tmp_path, name):
    write_dataset(tmp_path, random_images(4), label=np.zeros(4))
    with h5py.File(tmp_path / "train-00000.h5", "a") as file:
        file[name][...] = file[name][()] + 1
    with pytest.raises(DataError, match=r"train-00000\.h5 is not as it was written"):
        reopen(tmp_path)


def test_two_shards_of_equal_size_that_changed_places_are_refused(tmp_path):
    images = random_images(4)
    write_dataset(tmp_path, np.concatenate([images, images[::-1]]))  # the same number of values in both
    first, second = (tmp_path / f"train-0000{number}.h5" for number in (0, 1))
    assert first.stat().st_size == second.stat().st_size
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    with pytest.raises(DataError, match=r"train-00000\.h5 is not as it was written.*another file has its name"):
        reopen(tmp_path)


def test_shard_of_another_dataset_is_refused(tmp_path):
    """Of equal size, with equal counts and rows: one value in it is another."""
    for name, image in (("a", random_images(4)), ("b", random_images(4))):
        (tmp_path / name).mkdir()
        image[image == image.max()] *= 1 if name == "a" else 2
        write_dataset(tmp_path / name, image)
    (tmp_path / "b" / "train-00000.h5").replace(tmp_path / "a" / "train-00000.h5")
    with pytest.raises(DataError, match=r"a/train-00000\.h5 is not as it was written"):
        reopen(tmp_path / "a")


@pytest.mark.parametrize("label", [-1, 2, 255])
def test_label_of_no_class_is_named(tmp_path, label):
    write_dataset(tmp_path, random_images(4), label=np.array([0, 1, label, 0]))
    expected = rf"label {label} of source row 102 is out of range, expected 0\.\.1 \(qcd, top\)"
    with pytest.raises(DataError, match=rf"train-00000\.h5: {expected}"):
        reopen(tmp_path)


def test_value_that_is_not_finite_is_named_when_gathered(tmp_path):
    images = random_images(4)
    images[2, 1, 0, 0] = np.nan
    write_dataset(tmp_path, images)
    dataset = reopen(tmp_path)
    dataset.gather(np.array([0, 1, 3]))
    with pytest.raises(DataError, match=r"jet 2 \(source row 102\) has 1 pixels that are NaN"):
        dataset.gather(np.arange(4))


@pytest.mark.parametrize(("tower_channels", "places"), [((), 150), ((2,), 156)])
def test_place_outside_the_image_is_named_when_gathered(tmp_path, tower_channels, places):
    """On the device it would be written into another channel or jet, or kill the context."""
    images = random_images(4)
    images[:, 2] = images[:, 2, ::5, ::5].repeat(5, axis=1).repeat(5, axis=2)
    (entry,) = write_dataset(tmp_path, images, tower_channels=tower_channels).splits["train"]
    shard = reopen(tmp_path).shards[0]
    last_of_jet_2 = entry.offsets["index"] + 2 * (int(shard.indptr[3]) - 1)
    for place in (places - 1, places, 65535):
        with (tmp_path / "train-00000.h5").open("r+b") as file:
            file.seek(last_of_jet_2)
            file.write(place.to_bytes(2, "little"))
        dataset = reopen(tmp_path)
        assert dataset.gather(np.array([0, 1, 3])).index.max() < places
        if place < places:
            dataset.gather(np.arange(4))
            continue
        message = (
            rf"train-00000\.h5: jet 2 \(source row 102\) has a value at place {place}, expected less than {places}"
        )
        with pytest.raises(DataError, match=message):
            dataset.gather(np.arange(4))


@pytest.fixture
def few_open_files():
    """A limit that a process may raise by itself."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_more_shards_than_files_may_be_open(tmp_path, few_open_files):
    write_dataset(tmp_path, random_images(100), per_shard=1)
    assert len(JetDataset(tmp_path, "train").gather(np.arange(100))) == 100


def test_more_shards_than_the_system_allows_open_files(tmp_path, monkeypatch):
    write_dataset(tmp_path, random_images(4))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    with pytest.raises(DataError, match=r"1 shards need \d+ open files and this system allows 64: .*jets-per-shard"):
        reopen(tmp_path)


def test_entries_can_be_pickled(tmp_path):
    manifest = write_dataset(tmp_path, random_images(4))
    assert pickle.loads(pickle.dumps(manifest)) == manifest == read_manifest(tmp_path)
