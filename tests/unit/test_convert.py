"""Every layout comes back bit for bit, bad files are refused in one line, and a failure leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from source_files import HCAL, LAYOUTS, Truth, boosted_top, channels_last, labelled, make_truth, ours

from jetmae.data.convert import convert as convert_module
from jetmae.data.convert import hdf5_source
from jetmae.data.convert.convert import ConvertOptions, convert
from jetmae.data.convert.division import divide, parse_source
from jetmae.data.convert.open import open_source
from jetmae.data.convert.source import SourceOptions
from jetmae.data.inspect import verify_dataset
from jetmae.data.shards import JetDataset, read_manifest
from jetmae.data.sparse import densify
from jetmae.errors import DataError, JetmaeError

JETS = 10
COMMAND = Path(__file__).parents[2] / "jobs" / "data.py"


@pytest.fixture(scope="module")
def truth() -> Truth:
    return make_truth(JETS)


@pytest.fixture(scope="module", params=LAYOUTS)
def layout_file(request, truth, tmp_path_factory):
    layout = LAYOUTS[request.param]
    path = tmp_path_factory.mktemp("source") / f"{request.param}.{layout.suffix}"
    layout.write(path, truth)
    return layout, path


def read_back(folder: Path, split: str) -> tuple[np.ndarray, JetDataset]:
    """Dense images (N, C, H, W) of a split in shard order."""
    dataset = JetDataset(folder, split)
    manifest = dataset.manifest
    return densify(dataset.gather(np.arange(len(dataset))), manifest.image_shape, manifest.tower_size), dataset


def same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and first.tobytes() == second.tobytes()


def small_file(path: Path, images: np.ndarray, **arrays) -> Path:
    """Channels first, gzip, one jet per chunk."""
    with h5py.File(path, "w") as file:
        file.create_dataset("jet", data=images, compression="gzip", chunks=(1, *images.shape[1:]))
        for key, array in arrays.items():
            file[key] = array
    return path


# ---- lossless


def test_every_layout_comes_back_bit_for_bit(layout_file, truth, tmp_path):
    layout, path = layout_file
    result = convert([str(path)], tmp_path / "out", verify=True)
    assert result.jets == result.jets_compared == JETS
    seen = []
    for split in result.manifest.splits:
        images, dataset = read_back(tmp_path / "out", split)
        # A file with its own splits counts rows from 0 in each of them; they were written in order.
        rows = dataset.column("row") + (len(seen) if layout.own_splits else 0)
        assert same_bits(images, truth.images[rows, : layout.channels])
        for name, known, column in (
            ("label", layout.label, truth.label),
            ("mass_gev", layout.mass, truth.mass),
            ("pt_gev", layout.mass, truth.pt),
        ):
            stored = dataset.column(name)
            assert (stored is not None) == known
            assert stored is None or np.array_equal(stored, column[rows])
        seen += rows.tolist()
    assert sorted(seen) == list(range(JETS))


def test_layouts_are_recognised_for_what_they_are(layout_file):
    layout, path = layout_file
    parts = open_source(path, SourceOptions())
    assert [part.split for part in parts] == (["train", "validation", "test"] if layout.own_splits else [None])
    for part in parts:
        assert part.image_shape == (layout.channels, 125, 125)
        assert part.channels_last == (path.stem not in ("ours", "parquet_nested"))
        assert (part.label_N is not None) == layout.label


STORAGES = {
    "contiguous": {},
    "gzip": {"compression": "gzip", "chunks": (1, 20, 20, 8)},
    "gzip of shuffled bytes": {"compression": "gzip", "chunks": (1, 20, 20, 8), "shuffle": True},
    "gzip, three jets per chunk": {"compression": "gzip", "chunks": (3, 20, 20, 8)},
    "gzip, more jets per chunk than a block": {"compression": "gzip", "chunks": (20, 20, 20, 8)},
    "gzip, chunks of parts of images": {"compression": "gzip", "chunks": (7, 5, 20, 2)},
    "lzf": {"compression": "lzf", "chunks": (1, 20, 20, 8)},
    "chunked, not compressed": {"chunks": (2, 20, 20, 8)},
}


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "u1"])
def test_every_storage_and_type_comes_back(tmp_path, storage, dtype):
    truth = make_truth(40, side=20)
    images = truth.images.astype(np.float16) if dtype == "<f2" else truth.images
    images = np.abs(images * 50).astype("u1") if dtype == "u1" else images
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file.create_dataset("jet", data=channels_last(images).astype(dtype), **storage)
    convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out")
    assert same_bits(read_back(tmp_path / "out", "train")[0], images.astype(np.float32))


def test_gzip_without_libdeflate_reads_the_same(tmp_path, monkeypatch):
    truth = make_truth(20, side=20)
    ours(tmp_path / "source.h5", truth)
    monkeypatch.setattr(hdf5_source, "_deflate_is_installed", lambda: False)
    result = convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out")
    assert same_bits(read_back(tmp_path / "out", "train")[0], truth.images)
    assert "pip install deflate" in result.plan[0].part.layout


def test_negative_zero_becomes_zero_and_small_values_stay(tmp_path):
    images = np.zeros((2, 8, 20, 20), np.float32)
    images[0, 0, 0, :3] = [-0.0, np.float32(1e-45), np.float32(-3e38)]
    small_file(tmp_path / "source.h5", images)
    convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out", verify=True)
    stored, dataset = read_back(tmp_path / "out", "train")
    assert same_bits(stored, images + 0)
    assert len(dataset.shards[0].index) == 2


def test_float64_that_float32_rounds_needs_leave(tmp_path):
    images = np.zeros((3, 8, 20, 20))
    images[1, 2, 3, 4] = 0.1
    source = str(small_file(tmp_path / "source.h5", images))
    with pytest.raises(DataError, match=r"row 1, channel 2, pixel \(3, 4\) is .*0\.1.*--allow-rounding"):
        convert([source], tmp_path / "out")
    options = ConvertOptions(allow_rounding=True, fractions=(1, 0, 0))
    convert([source], tmp_path / "out", options=options, verify=True)
    assert read_back(tmp_path / "out", "unlabelled_train")[0].max() == np.float32(0.1)


@pytest.mark.parametrize("drop_constant", [False, True])
def test_values_that_rounding_makes_zero_are_not_stored(tmp_path, drop_constant):
    images = np.zeros((3, 8, 20, 20))
    images[0, 0, 0, :3], images[0, 7, 0, 0] = (1e-60, 0.1, 0.5), 1e-60
    images[1, 2, 3, 4] = -1e-60  # nothing else: the image becomes empty
    images[2, 0, 0, 0] = 7
    source = f"train={small_file(tmp_path / 'source.h5', images)}"
    with pytest.raises(DataError, match=r"is .*1e-60.* rounds to .*0\.0.*--allow-rounding"):
        convert([source], tmp_path / "out")
    options = ConvertOptions(allow_rounding=True, drop_constant=drop_constant)
    convert([source], tmp_path / "out", options=options, verify=True)
    stored, dataset = read_back(tmp_path / "out", "train")
    rounded = np.delete(images, 1, axis=0) if drop_constant else images
    assert same_bits(stored, rounded.astype(np.float32) + 0)
    assert len(dataset.shards[0].value) == 3
    assert not verify_dataset(tmp_path / "out")


def test_verify_finds_a_changed_value(tmp_path, monkeypatch):
    ours(tmp_path / "source.h5", make_truth(JETS, side=20))

    def write_with_a_flipped_bit(path, jets, **keywords):
        jets.value.view(np.uint32)[17] ^= 1
        return write_shard(path, jets, **keywords)

    write_shard = convert_module.write_shard
    monkeypatch.setattr(convert_module, "write_shard", write_with_a_flipped_bit)
    with pytest.raises(DataError, match="row 0 differs from its jet in split train"):
        convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out", verify=True)
    assert [path.name for path in tmp_path.iterdir()] == ["source.h5"]


# ---- towers


def test_tower_channel_is_stored_once_per_tower(truth, tmp_path):
    ours(tmp_path / "source.h5", truth)
    per_tower = convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "towers").manifest
    options = ConvertOptions(tower_size=0)
    per_pixel = convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "pixels", options=options).manifest
    assert per_tower.splits["train"][0].tower_channels == (HCAL,)
    assert per_pixel.splits["train"][0].tower_channels == ()
    towers, pixels = (JetDataset(tmp_path / name, "train").shards[0] for name in ("towers", "pixels"))
    assert (25 * towers.count_NC[:, HCAL] == pixels.count_NC[:, HCAL]).all()
    assert same_bits(read_back(tmp_path / "towers", "train")[0], read_back(tmp_path / "pixels", "train")[0])


@pytest.mark.parametrize("change", ["another value", "missing pixel", "shifted by one pixel"])
def test_one_pixel_that_breaks_a_tower_keeps_the_shard_per_pixel(tmp_path, change):
    images = make_truth(40, side=20).images
    jet, row, column = np.argwhere(images[:, HCAL])[-1]
    if change == "shifted by one pixel":
        images[jet, HCAL] = np.roll(images[jet, HCAL], 1, axis=1)
    else:
        images[jet, HCAL, row, column] *= 0 if change == "missing pixel" else 1 + 1e-6
    small_file(tmp_path / "source.h5", images)
    options = ConvertOptions(jets_per_shard=20)
    convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out", options=options)
    entries = read_manifest(tmp_path / "out").splits["train"]
    assert [entry.tower_channels for entry in entries] == [(HCAL,), ()]
    assert same_bits(read_back(tmp_path / "out", "train")[0], images)


# ---- splits


def test_division_is_a_partition_of_exact_sizes():
    split_of_row = divide(1003, (0.8, 0.1, 0.1), seed=3)
    assert np.bincount(split_of_row).tolist() == [802, 101, 100]
    assert (split_of_row == divide(1003, (0.8, 0.1, 0.1), seed=3)).all()
    assert (split_of_row != divide(1003, (0.8, 0.1, 0.1), seed=4)).any()
    assert np.bincount(divide(10, (1.0, 0.0, 0.0), seed=0), minlength=3).tolist() == [10, 0, 0]


def test_same_seed_gives_the_same_bytes(tmp_path):
    ours(tmp_path / "source.h5", make_truth(30, side=20))
    options = ConvertOptions(jets_per_shard=7)
    for name in ("first", "second"):
        convert([str(tmp_path / "source.h5")], tmp_path / name, options=options)
    first, second = (read_manifest(tmp_path / name) for name in ("first", "second"))
    assert first.splits == second.splits
    assert first.normalisation == second.normalisation
    other = convert([str(tmp_path / "source.h5")], tmp_path / "third", options=ConvertOptions(seed=1)).manifest
    assert other.splits != first.splits


def test_shards_hold_exactly_the_jets_asked_for(tmp_path):
    truth = make_truth(50, side=20)
    ours(tmp_path / "source.h5", truth)
    options = ConvertOptions(jets_per_shard=7)
    manifest = convert([f"test={tmp_path / 'source.h5'}"], tmp_path / "out", options=options).manifest
    assert [entry.jets for entry in manifest.splits["test"]] == [7] * 7 + [1]
    assert [entry.file for entry in manifest.splits["test"]][:2] == ["test-00000.h5", "test-00001.h5"]
    assert same_bits(read_back(tmp_path / "out", "test")[0], truth.images)


def test_files_of_one_split_follow_each_other(tmp_path):
    truths = [make_truth(20, side=20, seed=seed) for seed in (1, 2)]
    for number, truth in enumerate(truths):
        ours(tmp_path / f"{number}.h5", truth)
    convert([f"train={tmp_path / f'{number}.h5'}" for number in (0, 1)], tmp_path / "out", verify=True)
    images, dataset = read_back(tmp_path / "out", "train")
    assert same_bits(images, np.concatenate([truth.images for truth in truths]))
    assert (dataset.column("label") == np.concatenate([truth.label for truth in truths])).all()


def test_unlabelled_prefix_leaves_labels_out(tmp_path):
    ours(tmp_path / "source.h5", make_truth(20, side=20))
    source = tmp_path / "source.h5"
    manifest = convert([f"unlabelled={source}", f"unlabelled_extra={source}"], tmp_path / "out").manifest
    assert {split: manifest.jets(split) for split in manifest.splits} == {
        "unlabelled_train": 16, "unlabelled_validation": 2, "unlabelled_test": 2, "unlabelled_extra": 20,
    }  # fmt: skip
    assert manifest.classes is None
    assert all(JetDataset(tmp_path / "out", split).column("label") is None for split in manifest.splits)
    assert JetDataset(tmp_path / "out", "unlabelled_train").column("mass_gev") is not None
    assert list(manifest.normalisation) == ["unlabelled_train"]


def test_own_splits_of_a_file_can_be_renamed_or_joined(tmp_path):
    boosted_top(tmp_path / "source.h5", make_truth(8, side=20))
    unlabelled = convert([f"unlabelled={tmp_path / 'source.h5'}"], tmp_path / "a").manifest
    assert {split: unlabelled.jets(split) for split in unlabelled.splits} == {
        "unlabelled_train": 4, "unlabelled_validation": 2, "unlabelled_test": 2,
    }  # fmt: skip
    joined = convert([f"test={tmp_path / 'source.h5'}"], tmp_path / "b", verify=True).manifest
    assert {split: joined.jets(split) for split in joined.splits} == {"test": 8}
    assert joined.classes == ("class 0", "class 1")


def test_file_names_may_hold_an_equals_sign(tmp_path):
    path = tmp_path / "a=b.h5"
    path.touch()
    assert parse_source(f"train={path}") == ("train", path)
    assert parse_source(str(path)) == (None, path)


def test_labelled_and_unlabelled_files_do_not_mix_in_a_split(tmp_path):
    ours(tmp_path / "labelled.h5", make_truth(8, side=20))
    small_file(tmp_path / "plain.h5", make_truth(8, side=20).images)
    with pytest.raises(DataError, match=r"split train would mix labelled jets with those of .*plain\.h5"):
        convert([f"train={tmp_path / name}" for name in ("labelled.h5", "plain.h5")], tmp_path / "out")


# ---- what the manifest says


def test_names_come_from_the_file_or_the_options(tmp_path):
    truth = make_truth(8, side=20)
    ours(tmp_path / "ours.h5", truth)
    labelled(tmp_path / "plain.h5", truth)
    assert convert([str(tmp_path / "ours.h5")], tmp_path / "a").manifest.classes == ("qcd", "top")
    plain = convert([str(tmp_path / "plain.h5")], tmp_path / "b").manifest
    assert plain.classes == ("class 0", "class 1")
    assert plain.channels[1:3] == ("track d0", "track dz")
    swapped = ("pT", "dz", "d0", "ECAL", "HCAL", "B1", "B2", "B3")
    options = SourceOptions(classes=("a", "b"), channels=swapped)
    named = convert([str(tmp_path / "plain.h5")], tmp_path / "c", source_options=options).manifest
    assert (named.classes, named.channels) == (("a", "b"), swapped)


def test_provenance_says_where_the_jets_came_from(tmp_path):
    ours(tmp_path / "source.h5", make_truth(8, side=20))
    convert([str(tmp_path / "source.h5")], tmp_path / "out", options=ConvertOptions(hash_sources=True))
    source = json.loads((tmp_path / "out" / "manifest.json").read_text())["provenance"]["sources"][0]
    assert source["path"] == str(tmp_path / "source.h5")
    assert source["bytes"] == (tmp_path / "source.h5").stat().st_size
    assert len(source["sha256"]) == 64
    assert source["rows"] == 8
    assert "channels first" in source["layout"]


def test_constant_images_are_counted_and_dropped_on_request(tmp_path):
    images = make_truth(20, side=20).images
    images[3], images[5], images[7] = 0, 4.5, 4.5
    images[7, 0, 0, 0] = 1
    source = f"train={small_file(tmp_path / 'source.h5', images)}"
    kept = convert([source], tmp_path / "kept")
    assert (kept.constant_images, kept.jets) == (2, 20)
    options = ConvertOptions(drop_constant=True)
    dropped = convert([source], tmp_path / "dropped", options=options, verify=True)
    assert (dropped.constant_images, dropped.jets_compared) == (2, 18)
    assert same_bits(read_back(tmp_path / "dropped", "train")[0], np.delete(images, [3, 5], axis=0))


# ---- recognition that needs help, and refusals


def refusal(tmp_path: Path, source: Path, **options) -> str:
    """The message of a refused conversion, after checking that it left nothing."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(JetmaeError) as caught:
        convert([str(source)], tmp_path / "out", source_options=SourceOptions(**options))
    assert sorted(tmp_path.iterdir()) == before
    return str(caught.value)


def test_unknown_keys_are_refused_with_what_was_found(tmp_path):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["pixels"], file["other"] = np.zeros((3, 8, 20, 20), "f4"), np.zeros((3, 8, 20, 20), "f4")
    message = refusal(tmp_path, tmp_path / "source.h5")
    assert "pixels (3, 8, 20, 20) float32" in message
    assert "--image-key" in message
    assert open_source(tmp_path / "source.h5", SourceOptions(image_key="other"))[0].key == "other"
    assert "found: pixels" in refusal(tmp_path, tmp_path / "source.h5", image_key="jet").replace("other", "pixels")


def test_axes_that_cannot_be_told_apart_need_the_layout_option(tmp_path):
    source = small_file(tmp_path / "source.h5", np.ones((3, 8, 8, 8), "f4"))
    assert "--layout channels-last" in refusal(tmp_path, source)
    assert open_source(source, SourceOptions(layout="channels-last"))[0].channels_last


def test_label_column_that_is_not_evident_needs_the_option(tmp_path):
    images, meta = np.ones((4, 8, 20, 20), "f4"), np.array([[0, 90, 1], [1, 80, 0], [1, 85, 0], [0, 70, 0]], "f4")
    source = small_file(tmp_path / "source.h5", images, meta=meta)
    assert "both of the first and last column" in refusal(tmp_path, source)
    part = open_source(source, SourceOptions(label_column="last"))[0]
    assert part.label_N.tolist() == [1, 0, 0, 0]
    assert part.mass_N.tolist() == [90, 80, 85, 70]
    source = small_file(tmp_path / "source.h5", images, meta=meta + 0.5)
    assert "neither of the first and last column" in refusal(tmp_path, source)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (np.array([0, 1, 2, 0]), "label 2 of source row 2 is out of range, expected 0..1"),
        (np.array([0, -1, 1, 0]), "label -1 of source row 1 is out of range"),
        (np.array([[0], [1], [0.5], [1]]), "label 0.5 in row 2 is not a whole number"),
        (np.array([0, np.nan, 1, 0]), "label nan in row 1 is not a whole number"),
        (np.array([0, 1, 1]), "has 3 rows for 4 jets"),
        (np.zeros((4, 1, 2)), "expected (N,) or (N, 1)"),
    ],
)
def test_bad_labels_are_refused(tmp_path, label, expected):
    source = small_file(tmp_path / "source.h5", np.ones((4, 8, 20, 20), "f4"), Y=label)
    assert expected in refusal(tmp_path, source)


def test_label_key_option_names_the_labels(tmp_path):
    images = np.ones((4, 8, 20, 20), "f4")
    source = small_file(tmp_path / "source.h5", images, truth=np.array([0, 2, 1, 2]), Y=np.zeros(4))
    assert "'nothing'" in refusal(tmp_path, source, label_key="nothing")
    options = SourceOptions(label_key="truth", classes=("a", "b", "c"))
    manifest = convert([f"train={source}"], tmp_path / "out", source_options=options).manifest
    assert manifest.classes == ("a", "b", "c")
    assert JetDataset(tmp_path / "out", "train").column("label").tolist() == [0, 2, 1, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("last", [True, False])
def test_pixels_that_are_not_finite_are_named(tmp_path, value, last):
    images = make_truth(40, side=20).images
    images[33, 6, 2, 19] = value
    images = channels_last(images) if last else images
    message = refusal(tmp_path, small_file(tmp_path / "source.h5", images))
    assert "source.h5: jet: row 33, channel 6, pixel (2, 19) is" in message
    assert str(value) in message


def test_missing_empty_foreign_and_truncated_files_are_refused(tmp_path):
    assert "No such file" in refusal(tmp_path, tmp_path / "missing.h5")
    (tmp_path / "text.h5").write_text("no jets here")
    assert "expected HDF5 or Parquet" in refusal(tmp_path, tmp_path / "text.h5")
    small_file(tmp_path / "empty.h5", np.ones((1, 8, 20, 20), "f4"))
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["jet"] = np.zeros((0, 8, 20, 20), "f4")
    assert "has 0 jets" in refusal(tmp_path, tmp_path / "empty.h5")
    for name in ("ours", "labelled", "parquet_flat"):
        LAYOUTS[name].write(tmp_path / name, make_truth(4))
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
        assert "truncated" in refusal(tmp_path, tmp_path / name)


@pytest.mark.parametrize("empty_meta", [np.zeros((0, 3), "f4"), np.zeros(0)])
def test_an_empty_split_of_a_file_is_left_out_and_said(tmp_path, capsys, empty_meta):
    truth = make_truth(8, side=20)
    boosted_top(tmp_path / "source.h5", truth)
    with h5py.File(tmp_path / "source.h5", "a") as file:
        del file["validation_jet"], file["validation_meta"]
        file["validation_jet"], file["validation_meta"] = np.zeros((0, 20, 20, 8), "f4"), empty_meta
    manifest = convert([str(tmp_path / "source.h5")], tmp_path / "out", verify=True).manifest
    assert {split: manifest.jets(split) for split in manifest.splits} == {"train": 4, "test": 2}
    assert JetDataset(tmp_path / "out", "train").column("label").tolist() == truth.label[:4].tolist()
    assert "source.h5: validation_jet has 0 jets: left out" in capsys.readouterr().out


def test_a_file_of_empty_splits_is_refused(tmp_path):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["train_jet"], file["test_jet"] = np.zeros((0, 20, 20, 8), "f4"), np.zeros((0, 20, 20, 8), "f4")
    assert "train_jet has 0 jets, expected at least 1" in refusal(tmp_path, tmp_path / "source.h5")


def test_damaged_gzip_chunk_is_refused(tmp_path):
    source = small_file(tmp_path / "source.h5", make_truth(4, side=20).images)
    with h5py.File(source) as file:
        info = file["jet"].id.get_chunk_info(2)
    with source.open("r+b") as file:
        file.seek(info.byte_offset + info.size // 2)
        file.write(bytes(20))
    assert "damaged or truncated" in refusal(tmp_path, source)


def test_too_large_images_are_refused(tmp_path):
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file.create_dataset("jet", (2, 300, 300, 3), "f4")
    assert "expected fewer than 65536" in refusal(tmp_path, tmp_path / "source.h5")


def test_wrong_number_of_channel_names_is_refused(tmp_path):
    source = small_file(tmp_path / "source.h5", np.ones((2, 8, 20, 20), "f4"))
    assert "2 channels (a, b) for images of 8 channels" in refusal(tmp_path, source, channels=("a", "b"))


def test_bad_options_are_refused():
    for options in ({"fractions": (0.5, 0.2, 0.2)}, {"fractions": (1.2, -0.1, -0.1)}, {"jets_per_shard": 0}):
        with pytest.raises(JetmaeError, match="expected"):
            ConvertOptions(**options)


# ---- all or nothing


@pytest.mark.parametrize("output", ["file/below/out", "file"])
def test_unwritable_output_is_refused(tmp_path, output):
    (tmp_path / "file").touch()
    source = small_file(tmp_path / "source.h5", np.ones((2, 8, 20, 20), "f4"))
    with pytest.raises(JetmaeError, match=r"cannot write into|exists and is no dataset"):
        convert([str(source)], tmp_path / output)


def test_existing_dataset_is_replaced_only_on_request(tmp_path):
    for number, truth in enumerate([make_truth(4, side=20), make_truth(6, side=20)]):
        ours(tmp_path / f"{number}.h5", truth)
    convert([f"train={tmp_path / '0.h5'}"], tmp_path / "out")
    with pytest.raises(JetmaeError, match="--overwrite"):
        convert([f"test={tmp_path / '1.h5'}"], tmp_path / "out")
    assert list(read_manifest(tmp_path / "out").splits) == ["train"]
    convert([f"test={tmp_path / '1.h5'}"], tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "test-00000.h5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.h5", "1.h5", "out"]


def test_failed_overwrite_keeps_the_old_dataset(tmp_path):
    ours(tmp_path / "good.h5", make_truth(4, side=20))
    small_file(tmp_path / "bad.h5", np.full((2, 8, 20, 20), np.nan, "f4"))
    convert([f"train={tmp_path / 'good.h5'}"], tmp_path / "out")
    with pytest.raises(DataError):
        convert([str(tmp_path / "bad.h5")], tmp_path / "out", overwrite=True)
    assert len(read_back(tmp_path / "out", "train")[0]) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.h5", "good.h5", "out"]


def test_old_dataset_is_put_back_if_the_new_one_cannot_be_moved(tmp_path, monkeypatch):
    ours(tmp_path / "source.h5", make_truth(4, side=20))
    convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out")
    rename = os.rename

    def fail_for_the_new_one(source, target):
        if str(source).endswith(".partial"):
            raise OSError("disk is gone")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_for_the_new_one)
    with pytest.raises(JetmaeError, match=r"cannot write .*disk is gone"):
        convert([f"test={tmp_path / 'source.h5'}"], tmp_path / "out", overwrite=True)
    assert list(read_manifest(tmp_path / "out").splits) == ["train"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source.h5"]


def test_a_folder_that_is_no_dataset_is_never_replaced(tmp_path):
    ours(tmp_path / "source.h5", make_truth(4, side=20))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").touch()
    with pytest.raises(JetmaeError, match="is no dataset"):
        convert([str(tmp_path / "source.h5")], tmp_path / "precious", overwrite=True)
    assert (tmp_path / "precious" / "thesis.tex").exists()


def test_full_disk_is_noticed_before_writing(tmp_path, monkeypatch):
    ours(tmp_path / "source.h5", make_truth(4, side=20))
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda folder: _FullDisk())
    with pytest.raises(JetmaeError, match="GB free"):
        convert([str(tmp_path / "source.h5")], tmp_path / "out")


class _FullDisk:
    free = 100


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_killed_conversion_leaves_no_dataset(tmp_path, number):
    """Killed in the middle; the next conversion also clears what even SIGKILL could leave."""
    truth = make_truth(1)
    with h5py.File(tmp_path / "source.h5", "w") as file:
        jets = file.create_dataset("jet", (3000, *truth.images.shape[1:]), "f4", chunks=(1, 8, 125, 125), compression=1)
        _, packed = _packed_chunk(tmp_path, truth)
        for row in range(len(jets)):
            jets.id.write_direct_chunk((row, 0, 0, 0), packed)
    command = [sys.executable, COMMAND, "convert", tmp_path / "source.h5", "--out", tmp_path / "out"]
    options = ["--jets-per-shard", "50"]
    # A shell's background job, as these tests may be, has Ctrl-C ignored and would hand that on.
    heed_ctrl_c = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    process = subprocess.Popen(
        [*map(str, command), *options], stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    )
    while not list(tmp_path.glob(".out.*.partial/*-00001.h5")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()
    (tmp_path / "one").unlink()
    if number != signal.SIGKILL:
        assert [path.name for path in tmp_path.iterdir()] == ["source.h5"]
    ours(tmp_path / "small.h5", make_truth(4, side=20))
    convert([str(tmp_path / "small.h5")], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small.h5", "source.h5"]


def _packed_chunk(folder: Path, truth: Truth) -> tuple[int, bytes]:
    """One image as HDF5 compresses it: thousands of copies are written in no time."""
    small_file(folder / "one", truth.images)
    with h5py.File(folder / "one") as file:
        return file["jet"].id.read_direct_chunk((0, 0, 0, 0))


# ---- the command


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(COMMAND), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def test_command_ends_with_the_next_command(tmp_path):
    ours(tmp_path / "source.h5", make_truth(20, side=20))
    result = run("convert", tmp_path / "source.h5", "--out", tmp_path / "out", "--fractions", "0.5,0.25,0.25")
    assert result.returncode == 0, result.stderr
    assert "train 10, validation 5, test 5 jets" in result.stdout
    assert "KB per jet" in result.stdout
    assert (
        result.stdout.splitlines()[-1]
        == f"next: python {COMMAND.with_name('launch.py')} chain data.path={tmp_path / 'out'}"
    )


def test_command_prints_one_line_for_a_bad_file(tmp_path):
    (tmp_path / "source.h5").write_text("nothing")
    result = run("convert", tmp_path / "source.h5", "--out", tmp_path / "out")
    assert result.returncode == 65
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: source ")


def test_simulate_needs_one_output():
    result = run("simulate", "--jets", "10")
    assert result.returncode == 78
    assert result.stderr == "error: simulate: 0 outputs, expected one: OUT.h5 or --sample FOLDER; give one of them\n"


def test_help_imports_nothing_that_takes_time():
    code = f"import runpy, sys\nsys.argv = ['data.py', '--help']\nrunpy.run_path({str(COMMAND)!r}, run_name='__main__')"
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "argparse" in imported.stderr
    assert "numpy" not in imported.stderr


def test_a_source_that_changes_meanwhile_is_refused(tmp_path, monkeypatch):
    """Where storage has no locks, nothing else shows that another program writes."""
    source = tmp_path / "source.h5"
    ours(source, make_truth(4, side=20))

    def write_while_somebody_touches_the_source(path, jets, **keywords):
        with h5py.File(source, "a") as file:
            file["m"][0] = 1
        return write_shard(path, jets, **keywords)

    write_shard = convert_module.write_shard
    monkeypatch.setattr(convert_module, "write_shard", write_while_somebody_touches_the_source)
    with pytest.raises(DataError, match=r"source\.h5 changed while it was converted"):
        convert([f"train={source}"], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source.h5"]


def test_tables_of_other_widths_in_other_splits_do_not_matter(tmp_path):
    boosted_top(tmp_path / "source.h5", make_truth(16, side=20))
    with h5py.File(tmp_path / "source.h5", "a") as file:
        table = file["test_meta"][()]
        del file["test_meta"]
        file["test_meta"] = table[:, :2]
    manifest = convert([str(tmp_path / "source.h5")], tmp_path / "out").manifest
    assert {split: manifest.jets(split) for split in manifest.splits} == {"train": 8, "validation": 4, "test": 4}
