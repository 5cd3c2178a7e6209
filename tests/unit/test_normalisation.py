"""Constants computed from sparse shards, against dense numpy over every pixel."""

from dataclasses import replace

import numpy as np
import pytest
from source_files import Truth, make_truth, ours

from jetmae.data import normalisation
from jetmae.data.convert.convert import ConvertOptions, convert
from jetmae.data.convert.source import SourceOptions
from jetmae.data.normalisation import TRANSFORMS, Moments, constants_of_split, transform_values
from jetmae.data.shards import JetDataset, read_manifest
from jetmae.data.simulation.detector import CHANNEL_UNITS, CHANNELS

DENSE_TRANSFORMS = {
    "none": lambda image, scale: image,
    "asinh": lambda image, scale: np.arcsinh(image / scale),
    "log": lambda image, scale: np.sign(image) * np.log(1 + np.abs(image) / scale),
}


@pytest.fixture
def dataset(tmp_path):
    """Three shards; HCAL per tower in two of them and per pixel in the last; an empty channel and a full one."""
    images = make_truth(60, side=20).images
    images[:, 5] = 0
    images[:, 6] = np.random.default_rng(2).normal(1e3, 1e-2, images[:, 6].shape)  # mean much larger than spread
    row, column = np.argwhere(images[-1, 4])[0]
    images[-1, 4, row, column] *= 2
    ours(tmp_path / "source.h5", replace(make_truth(60, side=20), images=images))
    convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out", options=ConvertOptions(jets_per_shard=20))
    return images.astype(np.float64), JetDataset(tmp_path / "out", "train")


def test_constants_equal_those_of_the_dense_images(dataset):
    images, sparse = dataset
    assert [shard.entry.tower_channels for shard in sparse.shards] == [(4,), (4,), ()]
    constants = constants_of_split(sparse.shards, sparse.manifest)
    assert constants == sparse.manifest.normalisation["train"]
    for transform in ("none", "asinh"):
        for channel in range(8):
            image = images[:, channel]
            median = np.quantile(np.abs(image[image != 0]), 0.5, method="inverted_cdf") if image.any() else 1.0
            scale = 1.0 if transform == "none" else median
            dense = DENSE_TRANSFORMS[transform](image, scale)
            found = {name: values[channel] for name, values in constants[transform].items()}
            assert found["scale"] == scale
            assert found["mean"] == pytest.approx(dense.mean(), rel=1e-12, abs=1e-14)
            assert found["std"] == pytest.approx(dense.std() if image.any() else 1.0, rel=1e-11)


def log_constants(images: np.ndarray, scale: float, tower_side: int) -> float:
    """The std of `log`, in plain numpy on dense images of one channel (N, H, W)."""
    occupied = images[images != 0]
    transformed = DENSE_TRANSFORMS["log"](occupied, scale)
    return tower_side * np.sqrt((transformed**2).mean()) if len(occupied) else 1.0


def test_log_of_known_units_has_fixed_scales(dataset):
    images, sparse = dataset
    manifest = replace(sparse.manifest, channels=CHANNELS, units=CHANNEL_UNITS)
    found = constants_of_split(sparse.shards, manifest)["log"]
    assert found["scale"] == [1.0, 0.02, 1.0, 0.3, 2.0 / 25, 1.0, 1.0, 1.0]
    assert found["mean"] == [0.0] * 8
    tower_sides = [5 if name == "hcal" else 1 for name in CHANNELS]
    expected = [log_constants(images[:, c], found["scale"][c], tower_sides[c]) for c in range(8)]
    assert found["std"] == pytest.approx(expected, rel=1e-12)


def test_log_of_other_units_has_the_median(dataset):
    _, sparse = dataset
    other = replace(sparse.manifest, channels=CHANNELS, units=("MeV",) * 8)
    constants = constants_of_split(sparse.shards, other)
    assert constants["log"]["scale"] == constants["asinh"]["scale"]
    no_towers = replace(other, units=("GeV",) * 8, tower_size=0)  # then nobody knows how large a tower is
    constants = constants_of_split(sparse.shards[2:], no_towers)
    assert constants["log"]["scale"][4] == constants["asinh"]["scale"][4]


def test_the_log_of_a_tower_is_that_of_its_energy(tmp_path):
    images = np.zeros((2, 8, 10, 10), dtype=np.float32)
    images[0, 4, :5, 5:] = 50 / 25  # GeV, one tower of 50 GeV, as the simulation stores it
    truth = Truth(images, np.arange(2), np.ones(2, np.float32), np.ones(2, np.float32))
    ours(tmp_path / "source.h5", truth)
    options = SourceOptions(channels=CHANNELS, units=CHANNEL_UNITS)
    convert([f"train={tmp_path / 'source.h5'}"], tmp_path / "out", source_options=options)
    constants = read_manifest(tmp_path / "out").normalisation["train"]["log"]
    t = transform_values(images[0, 4], "log", constants["scale"][4]) / constants["std"][4]
    assert constants["std"][4] == pytest.approx(5 * np.log1p(50 / 2.0))
    assert (t**2).sum() == pytest.approx(1.0)


def test_thinned_median_is_near_the_exact_one(dataset, monkeypatch):
    _, sparse = dataset
    exact = constants_of_split(sparse.shards, sparse.manifest)
    monkeypatch.setattr(normalisation, "MAX_VALUES_FOR_MEDIAN", 400)
    thinned = constants_of_split(sparse.shards, sparse.manifest)
    assert thinned["asinh"]["scale"] != exact["asinh"]["scale"]
    assert thinned["asinh"]["scale"] == pytest.approx(exact["asinh"]["scale"], rel=0.25)
    assert thinned["none"] == exact["none"]


def test_moments_do_not_depend_on_how_the_pixels_are_cut():
    values = np.random.default_rng(0).normal(1e6, 1, 10_000)
    whole, parts = Moments(), Moments()
    whole.add(values, 1, 20_000)
    for part in np.split(values, [10, 11, 5000]):
        parts.add(part, 1, 2 * len(part))
    dense = np.concatenate([values, np.zeros(10_000)])
    for moments in (whole, parts):
        assert moments.pixels == 20_000
        assert moments.mean == pytest.approx(dense.mean(), rel=1e-13)
        assert moments.std == pytest.approx(dense.std(), rel=1e-13)


def test_constant_channel_gets_a_spread_of_one():
    moments = Moments()
    moments.add(np.empty(0), 1, 100)
    assert (moments.mean, moments.std) == (0.0, 1.0)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_keep_zero_and_sign(transform):
    value = np.array([-3.0, -1e-30, 0.0, 1e-30, 3.0])
    transformed = transform_values(value, transform, 0.5)
    assert transformed[2] == 0
    assert (np.sign(transformed) == np.sign(value)).all()
    assert np.allclose(transformed, -transformed[::-1])
    assert np.allclose(transformed[-1], DENSE_TRANSFORMS[transform](3.0, 0.5))


def test_unknown_transform_is_refused():
    with pytest.raises(ValueError, match="'sqrt' is not one of"):
        transform_values(np.ones(1), "sqrt", 1.0)


def test_only_training_splits_have_constants(tmp_path):
    ours(tmp_path / "source.h5", make_truth(40, side=20))
    source = tmp_path / "source.h5"
    convert([str(source), f"unlabelled={source}"], tmp_path / "out")
    assert sorted(read_manifest(tmp_path / "out").normalisation) == ["train", "unlabelled_train"]


def test_constants_know_nothing_of_test_jets(tmp_path):
    truth = make_truth(40, side=20)
    for name, factor in (("plain", 1), ("changed", 1000)):
        images = truth.images.copy()
        images[20:] *= factor
        for split, rows in (("train", slice(0, 20)), ("test", slice(20, 40))):
            part = Truth(images[rows], truth.label[rows], truth.mass[rows], truth.pt[rows])
            ours(tmp_path / f"{split}.h5", part)
        convert([f"{split}={tmp_path / split}.h5" for split in ("train", "test")], tmp_path / name)
    plain, changed = (read_manifest(tmp_path / name) for name in ("plain", "changed"))
    assert plain.normalisation == changed.normalisation
    assert plain.splits["test"] != changed.splits["test"]
