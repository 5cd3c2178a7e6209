"""The report from synthetic run folders: what the page says, what it embeds, and what it does with imperfect runs."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jetmae.errors import JetmaeError
from jetmae.metrics import Measurement, measure_auc, paired_auc_difference
from jetmae.report import figure_style
from jetmae.report.comparison import MINUS, MISSING, compare, format_measurement, format_rejection
from jetmae.report.conclusions import headline
from jetmae.report.page import comparison_table, print_table, write_report
from jetmae.report.reconstruction_chapter import unit_notes
from jetmae.report.run_reader import read_run, read_runs
from tests.unit.report_runs import (
    CHANNELS,
    add_predictions,
    add_reconstruction,
    make_chain,
    make_run,
    metric_rows,
    write_lines,
)


@pytest.fixture(scope="module", autouse=True)
def coarse_pictures() -> Iterator[None]:
    """A quarter of the pixels: encoding them would take most of the time of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure_style, "PIXELS_PER_INCH", 40)
        yield


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_chain(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(chain: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(chain, tmp_path_factory.mktemp("report"), "Top against QCD")


# --- reading the page ------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags with their attributes, and the visible text; fails on tags closed in the wrong order."""

    VOID = ("meta", "img", "br", "link", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def images(self) -> list[bytes]:
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        prefix = "data:image/png;base64,"
        assert all(source.startswith(prefix) for source in sources)
        return [base64.b64decode(source[len(prefix) :], validate=True) for source in sources]


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_page_carries_every_picture_and_the_same_pictures_lie_beside_it(report: Path) -> None:
    images = read_page(report).images()
    beside = {path.read_bytes() for path in report.parent.glob("*.png")}
    assert set(images) == beside
    assert all(
        image.startswith(b"\x89PNG\r\n\x1a\n") and image.rstrip().endswith(b"IEND\xaeB`\x82") for image in images
    )
    # curves 2, classification 4, bars 1, two jets of two splits, each twice, 8, means 2
    assert len(images) == 17


def test_page_refers_to_nothing_outside(report: Path) -> None:
    page = read_page(report)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        assert not any(key.startswith("on") or key in ("href", "srcset") for key in attributes)
    text = re.sub(r'src="data:[^"]*"', "", report.read_text(encoding="utf-8"))
    assert not re.search(r"https?://|url\(|@import", text)


def test_page_is_in_a_physicists_order(report: Path) -> None:
    text = read_page(report).text
    order = ["network is higher than that of training from scratch", "Of the variance", "One control is no verdict",
             "Comparison", "Training curves", "Classification", "Reconstruction: pretrain", "Single jets",
             "Mean images", "Set-up", "config.yaml of finetune"]  # fmt: skip
    found = [text.index(part) for part in order]
    assert found == sorted(found)


def test_page_reports_every_channel_of_both_splits(report: Path) -> None:
    text = read_page(report).text
    for channel in CHANNELS[:4] + CHANNELS[5:7]:
        assert re.search(rf"{channel} {MINUS}?0\.\d+ ± 0\.\d+ % {MINUS}?0\.\d+ ± 0\.\d+ %", text), channel
    assert re.search(r"hcal (49|50)\.\d+ ± 0\.\d+ % (49|50)\.\d+ ± 0\.\d+ %", text)
    assert f"bpix3 {MISSING} {MISSING}" in text  # no variance, no answer
    assert re.search(r"hcal [^%]+% [^%]+% (19|20)\.\d+ ± 0\.\d+ % \+(29|30)\.\d+ ± 0\.\d+ %", text)
    assert "asinh, then z-score" in text


def test_nothing_half_written_is_left(report: Path) -> None:
    assert {path.suffix for path in report.parent.iterdir()} == {".html", ".png", ".csv", ".json"}
    assert not [path for path in report.parent.iterdir() if path.name.startswith(".")]


# --- the comparison --------------------------------------------------------------------------------------------------


def test_rows_are_in_order_and_carry_the_metrics_of_the_test_jets(chain: list[Path]) -> None:
    rows = comparison_table(reversed(chain))
    assert [row.kind for row in rows] == ["finetune", "scratch", "probe", "random probe", "pretrain"]
    found = read_run(chain[1]).predictions()
    assert rows[1].auc == measure_auc(found.score, found.label)
    assert rows[1].accuracy.value == pytest.approx(((found.score >= 0.5) == found.label).mean())
    assert (rows[0].steps, rows[0].jets_seen, rows[0].state) == (12, 768, "finished")
    assert np.isnan(rows[1].delta_auc.value)  # scratch has no reference but itself
    assert rows[4].explained_variance["test"]["hcal"].value == pytest.approx(0.5, abs=0.02)
    assert rows[4].by_mean_image["hcal"].value == pytest.approx(0.2, abs=0.02)
    assert rows[4].over_mean_image["hcal"].value == pytest.approx(0.3, abs=0.02)


def test_headline_names_the_channels_in_which_pretraining_beats_the_mean_image(chain: list[Path]) -> None:
    sentence = next(text for text in headline(read_runs(chain)) if text.startswith("Of the variance"))
    assert sentence.endswith(
        "more than both a constant and the mean image of the training jets in 1 of 7 channels: hcal."
    )


def test_a_pretraining_evaluated_without_a_mean_image_is_reported_without(chain: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(chain[0], tmp_path / "older")
    path = folder / "evaluation" / "reconstruction_test.npz"
    with np.load(path) as found:
        np.savez(path, **{name: array for name, array in found.items() if name != "sse_of_mean_image"})
    (row,) = comparison_table([folder])
    assert (row.by_mean_image, row.over_mean_image) == ({}, {})
    assert "mean image, test jets" not in read_page(write_report([folder], tmp_path / "out", "Older")).text


def test_difference_is_paired_by_jet_even_when_the_order_differs(tmp_path: Path) -> None:
    finetune, scratch = make_run(tmp_path / "f", "finetune"), make_run(tmp_path / "s", "scratch")
    add_predictions(finetune, 1.2)
    add_predictions(scratch, 0.6, shuffle_seed=3)
    in_order = make_run(tmp_path / "ordered", "scratch")
    add_predictions(in_order, 0.6)
    ours, theirs = read_run(finetune).predictions(), read_run(in_order).predictions()
    row = comparison_table([finetune, scratch])[0]
    expected = paired_auc_difference(ours.score, theirs.score, ours.label)
    assert row.delta_paired
    assert row.delta_auc == pytest.approx(expected)
    assert row.delta_auc.uncertainty < 0.75 * np.hypot(
        row.auc.uncertainty, comparison_table([scratch])[0].auc.uncertainty
    )


def test_difference_on_other_jets_is_not_called_paired(tmp_path: Path) -> None:
    finetune, scratch = make_run(tmp_path / "f", "finetune"), make_run(tmp_path / "s", "scratch")
    add_predictions(finetune, 1.2)
    add_predictions(scratch, 0.6, num_jets=300)
    row, other = comparison_table([finetune, scratch])
    assert not row.delta_paired
    assert row.delta_auc.uncertainty == pytest.approx(np.hypot(row.auc.uncertainty, other.auc.uncertainty))


def test_the_reference_is_the_scratch_run_of_the_same_seed(tmp_path: Path) -> None:
    folders = [
        make_run(tmp_path / f"{task}-{seed}", task, seed=seed) for task in ("scratch", "finetune") for seed in (1, 2)
    ]
    for number, folder in enumerate(folders):
        add_predictions(folder, 0.5 + 0.2 * number)
    references = {row.name: row.delta_reference for row in comparison_table(folders) if row.kind == "finetune"}
    assert references == {"finetune-1": "scratch-1", "finetune-2": "scratch-2"}
    assert "mean over 2 pairs" in headline(read_runs(folders))[0]


@pytest.mark.parametrize(
    ("finetune", "scratch", "expected"),
    [
        (1.2, 0.6, "The AUC of the fine-tuned network is higher than that of training from scratch by +0."),
        (0.6, 1.2, "The AUC of the fine-tuned network is lower than that of training from scratch by \N{MINUS SIGN}0."),
        (0.80, 0.801, "is compatible with that of training from scratch: it differs by"),
    ],
)
def test_headline_of_one_pair_follows_the_numbers(
    tmp_path: Path, finetune: float, scratch: float, expected: str
) -> None:
    for task, separation in (("finetune", finetune), ("scratch", scratch)):
        add_predictions(make_run(tmp_path / task, task), separation)
    runs = read_runs([tmp_path / "finetune", tmp_path / "scratch"])
    assert expected in headline(runs)[0]
    assert headline(runs)[1].startswith("One control is no verdict on pretraining")


@pytest.mark.parametrize(
    ("finetune", "scratch", "expected"),
    [
        (1.2, 0.6, "Pretraining raised the AUC of the fine-tuned network against training from scratch by +0."),
        (0.6, 1.2, f"Pretraining lowered the AUC of the fine-tuned network against training from scratch by {MINUS}0."),
        (0.8, 0.8, "is compatible with that of training from scratch: pretraining changed it by"),
    ],
)
def test_headline_of_several_seeds_is_about_pretraining(
    tmp_path: Path, finetune: float, scratch: float, expected: str
) -> None:
    folders = array_of_pairs(tmp_path, "seed", {n: (finetune + 0.01 * n, scratch + 0.002 * n) for n in range(4)})
    sentences = headline(read_runs(folders))
    assert len(sentences) == 2
    assert "no run on observables" in sentences[1]
    assert expected in sentences[0]
    assert re.search(
        rf"\(mean over 4 pairs of runs; 95 % interval [+{MINUS}]0\.\d+ to [+{MINUS}]0\.\d+\)", sentences[0]
    )


def test_each_number_of_labels_has_its_own_difference_and_sentence(tmp_path: Path) -> None:
    separations = {100: (0.6, 0.3), 1000: (0.9, 0.9), 8000: (1.2, 1.2)}
    folders = array_of_pairs(tmp_path, "train_jets", separations)
    rows = [row for row in comparison_table(folders) if row.kind == "finetune"]
    assert [row.delta_reference for row in rows] == [f"scratch-{n}" for n in separations]
    few, some, many, note, warning = headline(read_runs(folders))
    assert few.startswith("With data.train_jets=100, the AUC of the fine-tuned network is higher than")
    assert some.startswith("With data.train_jets=1000, the AUC of the fine-tuned network is compatible")
    assert many.startswith("With data.train_jets=8000, the AUC of the fine-tuned network is compatible")
    assert note.startswith("One control is no verdict")
    assert warning.startswith("Warning: no run on observables")


def test_a_run_without_a_like_control_has_no_difference_and_the_page_says_why(tmp_path: Path) -> None:
    few = make_run(tmp_path / "scratch-100", "scratch", train_jets=100)
    many = make_run(tmp_path / "finetune-8000", "finetune", train_jets=8000)
    add_predictions(few, 0.3)
    add_predictions(many, 1.2)
    row = comparison_table([few, many])[0]
    assert np.isnan(row.delta_auc.value)
    text = read_page(write_report([few, many], tmp_path / "out", "Report")).text
    why = "the nearest, scratch-100, has data.train_jets=100 instead of 8000."
    assert f"No evaluated scratch run is like finetune-8000: {why}" in text
    assert "Pretraining" not in text


def array_of_pairs(root: Path, key: str, separations: dict[int, tuple[float, float]]) -> list[Path]:
    """A fine-tuning and a scratch run for each value of a setting."""
    folders = []
    for value, (finetune, scratch) in separations.items():
        for task, separation in (("finetune", finetune), ("scratch", scratch)):
            folders.append(make_run(root / f"{task}-{value}", task, **{key: value}))
            add_predictions(folders[-1], separation)
    return folders


def test_numbers_are_written_with_two_digits_of_their_uncertainty() -> None:
    assert format_measurement(Measurement(0.91234, 0.00412)) == "0.9123 ± 0.0041"
    assert format_measurement(Measurement(-0.0123, 0.02), signed=True) == f"{MINUS}0.012 ± 0.020"
    assert format_measurement(Measurement(0.855, 0.011), percent=True) == "85.5 ± 1.1 %"
    assert format_measurement(Measurement(0.0016, 0.00003), percent=True) == "0.160 ± 0.003 %"
    assert format_measurement(Measurement(1.0, 0.0)) == "1.0000 ± 0.0000"
    assert format_measurement(Measurement(float("nan"), float("nan"))) == MISSING
    assert format_rejection(Measurement(float("inf"), float("nan")), 166.9) == "> 167"


@pytest.mark.parametrize(("width", "hidden"), [(200, ()), (80, ("random probe", "jets seen", "(30 %)"))])
def test_terminal_table_fits_and_keeps_the_result(chain: list[Path], width: int, hidden: tuple[str, ...]) -> None:
    stream = io.StringIO()
    print_table(comparison_table(chain), Console(file=stream, width=width, force_terminal=True, color_system=None))
    text = stream.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    row = next(line for line in text.splitlines() if "finetune" in line)
    assert row.count("±") == (5 if width == 200 else 4)  # on one line, nothing folded
    for part in ("random probe", "jets seen", "(30 %)"):
        assert (part in text) == (part not in hidden)
    assert re.search(r"hcal +(49|50)", text)


def test_a_log_file_gets_the_whole_table(chain: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    print_table(comparison_table(chain))
    assert "random probe" in capsys.readouterr().out


# --- imperfect runs --------------------------------------------------------------------------------------------------


def test_a_pretraining_alone_makes_a_report(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "pretrain", "pretrain")
    add_reconstruction(folder, "test")
    page = read_page(write_report([folder], tmp_path / "out", "Only pretraining"))
    assert "no classifier to compare" in page.text
    assert "pretraining explains between" in page.text
    assert len(page.images()) == 8


def test_a_mean_image_tells_of_how_many_jets_it_is(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "pretrain", "pretrain")
    add_reconstruction(folder, "test")
    assert "Mean over test jets, each pixel" in read_page(write_report([folder], tmp_path / "out", "Before")).text
    path = folder / "evaluation" / "reconstruction_test.npz"
    with np.load(path) as archive:
        np.savez(path, **archive, pictured_jets=np.array(128))
    assert "Mean over 128 test jets, each pixel" in read_page(write_report([folder], tmp_path / "out", "Now")).text


def test_unfinished_and_unstarted_runs_are_named_as_such(tmp_path: Path) -> None:
    running = make_run(tmp_path / "finetune", "finetune", completed=False)
    add_predictions(make_run(tmp_path / "scratch", "scratch"), 0.6)
    waiting = make_run(tmp_path / "probe", "probe", init_from="random", completed=False)
    (waiting / "metrics.jsonl").unlink()
    text = read_page(write_report([running, tmp_path / "scratch", waiting], tmp_path / "out", "So far")).text
    assert "cannot be compared with training from scratch: no test scores of both yet" in text
    assert "not finished: step 12, validation AUC 0.800" in text
    assert "not started" in text
    assert "Not final: finetune, probe have not finished." in text


def test_page_tells_where_the_time_of_each_run_went(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "scratch", "scratch")  # 12 lines, 2 s apart; a step takes 1.28 s
    untold = make_run(tmp_path / "finetune", "finetune")  # its attempts have no times
    place = {"attempt": 1, "job_id": None, "hosts": ["here"]}
    attempts = [
        {"event": "start", "time_s": 0.0, **place},
        {"event": "end", "cause": "completed", "time_s": 30.0, **place},
    ]
    write_lines(folder / "attempts.jsonl", attempts)
    save = {"event": "save", "attempt": 1, "step": 12, "stall_s": 3.0, "write_s": 3.0, "outcome": "committed"}
    write_lines(folder / "timeline.jsonl", [{**save, "time_s": 27.0}])
    page = read_page(write_report([folder, untold], tmp_path / "out", "Report"))
    assert "scratch 30.0 s 87.6 % 26.3 s 0 10.0 % 3.0 s 0 2.4 % 0.7 s 0 0 87.6 %" in page.text
    widths = [float(attributes["style"][7:].split("%")[0]) for tag, attributes in page.tags
              if tag == "span" and "width: " in attributes.get("style", "")]  # fmt: skip
    assert widths == pytest.approx([87.6, 0, 10.0, 0, 2.4, 0, 0])
    alone = read_page(write_report([untold], tmp_path / "alone", "Report"))
    assert "Where the time went" not in alone.text


def test_a_hostile_run_name_stays_text(tmp_path: Path) -> None:
    name = "<script>alert(1)<!--&\"'$x$_{"
    folder = make_run(tmp_path / name, "scratch")
    add_predictions(folder, 0.6)
    write_report([folder], tmp_path / "out", "<b>title</b>")
    page = read_page(tmp_path / "out" / "report.html")
    assert name in page.text
    assert "<b>title</b>" in page.text
    assert not {"script", "b"} & {tag for tag, _ in page.tags}


def test_a_name_the_plots_font_lacks_does_not_stop_the_report(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "_喷注 🚀 $\\frac$", "scratch")
    add_predictions(folder, 0.6)
    assert "喷注" in read_page(write_report([folder], tmp_path / "out", "Report")).text


def test_after_a_resume_the_later_line_of_a_step_counts(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "scratch", "scratch")
    again = [
        {**row, "attempt": 2, "loss": 100.0 + step} for step in (11, 12) for row in metric_rows("scratch", step)[:1]
    ]
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in again)
    samples, loss = read_run(folder).series("train", "loss")
    assert samples.tolist() == [64.0 * step for step in range(1, 13)]
    assert loss[-2:].tolist() == [111.0, 112.0]
    assert read_run(folder).series("validation", "auc")[0].size == 2


def test_a_torn_last_line_is_left_out_and_a_torn_middle_is_an_error(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "scratch", "scratch")
    whole = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(whole + '{"split": "train", "step": 13, "lo')
    assert len(read_run(folder).metrics) == len(whole.splitlines())
    (folder / "metrics.jsonl").write_text('{"split": "tr\n' + whole)
    with pytest.raises(JetmaeError, match="line 1 is not a JSON object"):
        read_run(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "config.yaml").unlink(), "is not a run folder: it has no config.yaml"),
        (lambda run: (run / "config.yaml").write_text("task: ["), "is not YAML"),
        (lambda run: (run / "config.yaml").write_text("task: dance"), "has task 'dance', expected pretrain"),
        (lambda run: (run / "metrics.jsonl").unlink(), "no metrics in scratch yet"),
        (lambda run: (run / "metrics.jsonl").write_text('{"step": 1}\n'), "has a line without 'split'"),
        (lambda run: (run / "evaluation" / "predictions_test.npz").write_bytes(b"PK\x03\x04"), "is damaged"),
        (lambda run: np.savez(run / "evaluation" / "predictions_test.npz", score=np.ones(3)), "lacks label, sample_id"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_writes_nothing(tmp_path: Path, damage, message: str) -> None:
    folder = make_run(tmp_path / "scratch", "scratch")
    add_predictions(folder, 0.6)
    damage(folder)
    with pytest.raises(JetmaeError, match=message) as caught:
        write_report([folder], tmp_path / "out", "Report")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_one_class_only_leaves_gaps_and_no_warning(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "scratch", "scratch")
    (folder / "evaluation").mkdir()
    np.savez(
        folder / "evaluation" / "predictions_test.npz",
        score=np.linspace(0, 1, 5, dtype=np.float32),
        label=np.zeros(5, dtype=np.int8),
        sample_id=np.arange(5),
        classes=np.array(["qcd", "top"]),
    )
    row = compare(read_runs([folder]))[0]
    assert np.isnan(row.auc.value)
    assert row.accuracy.value == pytest.approx(0.4)
    assert len(read_page(write_report([folder], tmp_path / "out", "Report")).images()) == 5


def test_data_that_name_no_classes_get_numbers(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "scratch", "scratch")
    add_predictions(folder, 0.6)
    path = folder / "evaluation" / "predictions_test.npz"
    with np.load(path) as archive:
        np.savez(path, **{**archive, "classes": np.array([])})
    assert "Signal: class 1; background: class 0" in read_page(write_report([folder], tmp_path / "out", "Report")).text


def test_units_without_gev_are_pointed_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "pretrain", "pretrain")
    add_reconstruction(folder, "test", units=("scaled 0-255",) * 8)
    (note,) = unit_notes(read_run(folder).reconstruction("test"))
    assert "absolute GeV is lost" in note
    add_reconstruction(folder, "test")
    assert unit_notes(read_run(folder).reconstruction("test")) == []


def test_equal_names_from_two_places_are_told_apart(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / place / "scratch", "scratch") for place in ("laptop", "cluster")]
    assert [run.name for run in read_runs([*folders, folders[0]])] == ["laptop/scratch", "cluster/scratch"]
