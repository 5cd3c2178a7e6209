"""`verify` finds every kind of damage and names file and jet; `stats` counts what is there."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from source_files import HCAL, Truth, make_truth, ours

from jetmae.data.convert.convert import ConvertOptions, convert
from jetmae.data.convert.source import SourceOptions
from jetmae.data.inspect import channel_statistics, dataset_statistics, example_ids, verify_dataset
from jetmae.data.manifest import read_manifest, write_manifest
from jetmae.data.shards import JetDataset, SparseJets, write_shard
from jetmae.errors import DataError

COMMAND = Path(__file__).parents[2] / "jobs" / "data.py"


@pytest.fixture
def folder(tmp_path) -> Path:
    ours(tmp_path / "source.h5", make_truth(40, side=20))
    convert([str(tmp_path / "source.h5")], tmp_path / "out", options=ConvertOptions(jets_per_shard=20))
    return tmp_path / "out"


def rewrite(folder: Path, split: str, number: int, **changes) -> None:
    """Write a shard again with other content and matching hashes: damage that only a look at the values finds."""
    manifest = read_manifest(folder)
    old = manifest.splits[split][number]
    shard = JetDataset(folder, split).shards[number]
    names = ("count_NC", "index", "value", "row", "label", "mass_gev", "pt_gev")
    jets = SparseJets(**{name: np.array(getattr(shard, name)) for name in names} | changes)
    (folder / old.file).unlink()
    entry = write_shard(folder / old.file, jets, manifest=manifest, tower_channels=old.tower_channels)
    manifest.splits[split][number] = entry
    write_manifest(folder, manifest)


def test_intact_dataset_has_no_problems(folder):
    assert verify_dataset(folder) == []


def test_flipped_byte_is_found_by_both_hashes(folder):
    path = folder / "train-00001.h5"
    with h5py.File(path) as file:
        offset = file["value"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset + 5] ^= 1
    path.write_bytes(content)
    problems = verify_dataset(folder)
    assert len(problems) == 2
    assert all("train-00001.h5" in problem for problem in problems)
    assert "SHA-256" in problems[0]
    assert "/value" in problems[1]


def test_truncated_and_missing_shards_are_reported_together(folder):
    path = folder / "train-00000.h5"
    path.write_bytes(path.read_bytes()[:-1])
    (folder / "test-00000.h5").unlink()
    problems = verify_dataset(folder)
    assert ["train-00000.h5" in problems[0], "test-00000.h5" in problems[1]] == [True, True]
    assert len(problems) == 2


def test_renamed_shard_is_missed_and_noticed(folder):
    (folder / "test-00000.h5").rename(folder / "test-00001.h5")
    unlisted, missing = verify_dataset(folder)
    assert unlisted.startswith("test-00001.h5: not in the manifest")
    assert "test-00000.h5 cannot be read" in missing


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_bad_values_are_named_by_jet_and_channel(folder, value):
    shard = JetDataset(folder, "train").shards[1]
    values = np.array(shard.value)
    stored = shard.indptr[7] + shard.count_NC[7, 0]  # the first value of channel 1
    values[stored] = value
    rewrite(folder, "train", 1, value=values)
    problems = verify_dataset(folder)
    assert len(problems) == 1
    assert problems[0].startswith(f"train-00001.h5: jet 7 (source row {shard.row[7]}), channel 1: value {value} ")


def test_places_out_of_range_or_order_are_found(folder):
    shard = JetDataset(folder, "train").shards[0]
    index = np.array(shard.index)
    swapped, outside, tower = index.copy(), index.copy(), index.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    outside[shard.count_NC[0, 0] - 1] = 60_000
    jet = int(shard.count_NC[:, HCAL].argmax())
    tower[shard.indptr[jet] + int(shard.count_NC[jet, :HCAL].sum())] = 3  # a pixel where places are towers
    for places, words, jet_named in (
        (swapped, "out of order", 0),
        (outside, "outside its image", 0),
        (tower, "outside its image", jet),
    ):
        rewrite(folder, "train", 0, index=places)
        problems = verify_dataset(folder)
        assert words in problems[0]
        assert f"train-00000.h5: jet {jet_named} " in problems[0]


def test_many_bad_values_give_a_short_list(folder):
    shard = JetDataset(folder, "train").shards[0]
    rewrite(folder, "train", 0, value=np.full(len(shard.value), np.nan, np.float32))
    problems = verify_dataset(folder)
    assert len(problems) == 21
    assert "more images" in problems[-1]


def test_label_out_of_range_is_found(folder):
    shard = JetDataset(folder, "train").shards[0]
    label = shard.label.copy()
    label[3] = 2
    rewrite(folder, "train", 0, label=label)
    problems = verify_dataset(folder)
    assert len(problems) == 1
    assert f"label 2 of source row {shard.row[3]} is out of range" in problems[0]


@pytest.mark.parametrize("mixed_storage", [False, True])
def test_duplicates_within_and_between_splits_are_named(tmp_path, mixed_storage):
    truth = make_truth(20, side=20)
    images = truth.images.copy()
    images[5] = images[2]
    images[8], images[9] = 0, 0  # empty images are alike, and no leak
    other = make_truth(20, side=20, seed=1).images
    other[4] = images[3]
    if mixed_storage:  # one pixel breaks the towers of the second file: the same jet is stored in another form
        other[0, HCAL, 0, 0] += 1
    for name, content in (("train", images), ("test", other)):
        ours(tmp_path / f"{name}.h5", Truth(content, truth.label, truth.mass, truth.pt))
    manifest = convert([f"{name}={tmp_path / name}.h5" for name in ("train", "test")], tmp_path / "out").manifest
    assert (manifest.splits["train"][0].tower_channels == manifest.splits["test"][0].tower_channels) != mixed_storage
    assert verify_dataset(tmp_path / "out") == [
        "train-00000.h5: jet 5 (source row 5) is the same image as train-00000.h5: jet 2 (source row 2)",
        "test-00000.h5: jet 4 (source row 4) is the same image as train-00000.h5: jet 3 (source row 3)",
    ]


def test_manifest_without_constants_or_names_is_reported(folder):
    manifest = read_manifest(folder)
    splits = {**manifest.splits, "extra": manifest.splits["test"]}
    write_manifest(folder, replace(manifest, normalisation={}, units=("GeV",), splits=splits))
    problems = verify_dataset(folder)
    assert "1 units for 8 channels" in problems[0]
    assert "no normalisation constants of train" in problems[1]
    assert "listed 2 times" in problems[2]


def test_folder_without_a_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match="no dataset in"):
        verify_dataset(tmp_path)


def test_command_fails_if_there_are_problems(folder):
    command = [sys.executable, str(COMMAND), "verify", str(folder)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.endswith("no problems found\n")
    (folder / "test-00000.h5").unlink()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 65
    assert "test-00000.h5" in result.stdout
    assert "Traceback" not in result.stderr


def test_statistics_equal_those_of_the_dense_images(tmp_path):
    truth = make_truth(30, side=20)
    truth.images[:, 6] = 0
    ours(tmp_path / "source.h5", truth)
    convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out")
    rows = channel_statistics(JetDataset(tmp_path / "out", "train"))
    for channel, row in enumerate(rows):
        image = truth.images[:, channel].astype(np.float64)
        filled = image[image != 0]
        assert row["occupancy"] == pytest.approx((image != 0).mean())
        if channel == 6:
            assert row["median"] is row["min"] is row["mean"] is row["max"] is None
            continue
        assert (row["min"], row["max"]) == (filled.min(), filled.max())
        assert row["mean"] == pytest.approx(filled.mean())
        assert row["median"] == np.quantile(filled, 0.5, method="inverted_cdf")


def test_table_shows_jets_classes_and_sizes(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    dataset_statistics(folder)
    printed = capsys.readouterr().out
    label = JetDataset(folder, "train").column("label")
    assert "train: 32 jets" in printed
    assert f"qcd {(label == 0).sum()}, top {(label == 1).sum()}" in printed
    assert "2/2" in next(row for row in printed.splitlines() if "HCAL" in row)
    assert "test: 4 jets" in printed


def test_pictures_are_written_for_every_channel_and_split(folder, tmp_path):
    dataset_statistics(folder, tmp_path / "pictures")
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert len(pictures) == 3 * 8
    assert "train-4-HCAL.png" in pictures
    assert all((tmp_path / "pictures" / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)


def test_examples_show_both_classes():
    assert example_ids(np.array([0] * 10 + [1] * 10), 20).tolist() == [0, 1, 2, 3, 10, 11, 12, 13]
    assert example_ids(None, 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", ["p$_T", "$", "$x", "$\\frac{$", "a^b_c", "[/]", "[red]", ":smile:", "a\nb", "é"])
def test_any_name_can_be_shown_and_drawn(tmp_path, capsys, monkeypatch, name):
    """A dollar is no mathematics, and a bracket no markup."""
    monkeypatch.setenv("COLUMNS", "200")
    images = np.zeros((4, 3, 8, 8), "f4")
    images[:, :, 2, 2] = 1
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["jet"], file["Y"] = images, np.arange(4) % 2
    options = SourceOptions(channels=(name, "b", "c"), units=(name, "GeV", "GeV"), classes=(name, "top"))
    convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out", source_options=options)
    dataset_statistics(tmp_path / "out", tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    assert name.split("\n")[0] in capsys.readouterr().out
