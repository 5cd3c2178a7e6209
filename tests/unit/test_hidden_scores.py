"""What the network explains beside simple predictors, closure, and the numbers of a report as files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from jetmae.errors import DataError
from jetmae.metrics import expected_calibration_error, explained_variance
from jetmae.report import figure_style
from jetmae.report.closure import split_by_unit, summary
from jetmae.report.evaluation_results import ClosurePair, read_closure, read_hidden_sums
from jetmae.report.explained_variance import hidden_scores, verdict
from jetmae.report.page import write_report
from jetmae.report.run_reader import read_run
from tests.unit.report_runs import CHANNELS, add_closure, add_hidden_sums, add_reconstruction, make_run, make_study


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "pretrain", "pretrain")
    add_reconstruction(folder, "test")
    add_hidden_sums(folder, masks=("patches", "groups"))
    add_closure(folder)
    return folder


def results(folder: Path) -> Path:
    return folder / "evaluation" / "reconstruction_test.npz"


def change(path: Path, **arrays: np.ndarray | None) -> None:
    """Replace arrays; None removes one. Slashes of names are written as two underscores."""
    with np.load(path) as archive:
        known = dict(archive)
    known |= {name.replace("__", "/"): array for name, array in arrays.items()}
    np.savez(path, **{name: array for name, array in known.items() if array is not None})


def test_every_mask_and_space_is_scored_against_every_predictor(pretraining: Path) -> None:
    found = read_hidden_sums(results(pretraining))
    scores = hidden_scores(found)
    assert [(score.mask, score.space) for score in scores] == [
        (mask, space) for mask in ("patches", "groups") for space in ("log_sums", "sums", "pixels")
    ]
    for sums, score in zip(found, scores, strict=True):
        assert list(score.explained) == ["network", "ridge", "scaled mean image", "mean image"]
        expected = explained_variance(sums.sse["network"], sums.sum, sums.sum_of_squares, sums.count)
        for channel, value, sigma in zip(CHANNELS, expected.value_C, expected.uncertainty_C, strict=True):
            assert score.explained["network"][channel].value == pytest.approx(value)
            assert score.explained["network"][channel].uncertainty == pytest.approx(sigma, rel=0.2)  # the jackknife's


def test_paired_differences_are_known_better_than_their_sides(pretraining: Path) -> None:
    score = hidden_scores(read_hidden_sums(results(pretraining)))[0]
    gain, explained = score.gain["ridge"]["ecal"], score.explained
    assert gain.value == pytest.approx(explained["network"]["ecal"].value - explained["ridge"]["ecal"].value)
    assert gain.uncertainty < 0.3 * explained["network"]["ecal"].uncertainty


def test_the_verdict_counts_the_channels_that_are_clearly_better(pretraining: Path) -> None:
    text = verdict(hidden_scores(read_hidden_sums(results(pretraining)))[0])
    assert text.startswith("Patches hidden, log patch sums: by 3 standard deviations or more, the network is better")
    assert "than the ridge in 6 of 8 channels (not d0, dz)" in text


def test_predictors_and_spaces_may_be_missing(pretraining: Path, tmp_path: Path) -> None:
    path = tmp_path / "run" / "evaluation" / "some.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(results(pretraining).read_bytes())
    with np.load(path) as archive:
        pixels = {name.replace("/", "__"): None for name in archive.files if name.startswith("patches/pixels/")}
    change(path, patches__sums__sse_of_ridge=None, **pixels)
    scores = {(score.mask, score.space): score for score in hidden_scores(read_hidden_sums(path))}
    assert ("patches", "pixels") not in scores
    assert list(scores["patches", "sums"].gain) == ["scaled mean image", "mean image"]
    assert read_hidden_sums(tmp_path / "none.npz") == ()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"patches__sums__count": None}, "lacks patches/sums/count"),
        ({"patches__sums__sse": np.ones((3, 8))}, "patches/sums/sse is \\(3, 8\\), expected \\(400, 8\\)"),
        ({"closure__jet_pt_gev__truth": None}, "closure/jet_pt_gev is not one truth and one reconstructed"),
    ],
)
def test_arrays_that_do_not_belong_together_are_one_line(
    pretraining: Path, tmp_path: Path, changed: dict, message: str
) -> None:
    path = tmp_path / "run" / "evaluation" / "some.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(results(pretraining).read_bytes())
    change(path, **changed)
    read = read_closure if message.startswith("closure") else read_hidden_sums
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_closure_is_the_ratio_of_reconstructed_and_truth(pretraining: Path) -> None:
    pairs = read_run(pretraining).closure()
    assert [pair.what for pair in pairs] == ["jet_mass_gev", "jet_pt_gev", "bpix1_hits"]
    for pair in pairs:
        found = summary(pair)
        assert found.num_jets == 600
        assert found.median_ratio == pytest.approx(0.9, abs=0.02)
        assert found.half_width == pytest.approx(0.9 * 0.15, abs=0.02)


def test_closure_of_unknown_units_is_refused_in_one_sentence() -> None:
    pairs = [ClosurePair(what, np.ones(3), np.ones(3)) for what in ("jet_pt_gev", "bpix1_hits", "jet_width")]
    kept, sentence = split_by_unit(pairs, has_gev=True)
    assert [pair.what for pair in kept] == ["jet_pt_gev", "bpix1_hits"]
    assert sentence == "No closure of jet_width: the unit is not known to be GeV or hits."
    kept, sentence = split_by_unit(pairs, has_gev=False)
    assert [pair.what for pair in kept] == ["bpix1_hits"]
    assert "jet_pt_gev, jet_width" in sentence


def test_a_calibration_error_is_the_mean_distance_to_the_diagonal() -> None:
    score = np.repeat([0.25, 0.85], 1000)
    label = np.concatenate([np.repeat([0, 1], (900, 100)), np.repeat([0, 1], (150, 850))])
    assert expected_calibration_error(score, label).value == pytest.approx(0.5 * 0.15)
    assert np.isnan(expected_calibration_error([], []).value)


def test_a_whole_channel_that_was_hidden_is_hidden_in_the_pictures(pretraining: Path, tmp_path: Path) -> None:
    found = read_run(pretraining).reconstruction("test")
    assert found.hidden.shape == found.image.shape
    assert np.array_equal(found.hidden[:, 3], found.mask)
    hidden = np.zeros(found.image.shape, dtype=bool)
    hidden[:, 4] = True
    change(results(pretraining), mask_of_channels=hidden)
    again = read_run(pretraining).reconstruction("test")
    assert again.hidden[:, 4].all()
    assert not again.hidden[:, 3].any()


def test_the_numbers_lie_beside_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure_style, "PIXELS_PER_INCH", 20)
    folders = make_study(tmp_path / "runs", seeds=1, label_counts=(100, 1000), splits=("test",), masks=("groups",))
    page = write_report(folders, tmp_path / "out", "Study")
    content = json.loads((page.parent / "report.json").read_text(), parse_constant=pytest.fail)
    names = {path.stem for path in page.parent.glob("*.csv")}
    assert names == set(content["tables"]) == {
        "comparison", "label_efficiency", "label_differences", "explained_variance", "closure", "calibration"
    }  # fmt: skip
    for name, records in content["tables"].items():
        with (page.parent / f"{name}.csv").open() as stream:
            lines = list(csv.DictReader(stream))
        assert len(lines) == len(records) > 0
        assert list(lines[0]) == list(records[0])
    assert content["conclusions"]
    difference = content["tables"]["label_differences"][0]
    assert difference["labels"] == 100
    assert difference["auc_difference"] == pytest.approx(difference["auc_fine_tuned"] - difference["auc_scratch"])
