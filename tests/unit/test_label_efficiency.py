"""AUC against the number of labels: what is averaged, what is paired, and how sure one can be."""

from pathlib import Path

import numpy as np
import pytest

from jetmae.metrics import Measurement, auc, auc_uncertainty
from jetmae.report.bootstrap import auc_replicates, drawn_jets
from jetmae.report.conclusions import headline
from jetmae.report.label_chapter import label_chapter
from jetmae.report.label_efficiency import LabelStudy, label_study, num_labels
from jetmae.report.mean_difference import mean_difference
from jetmae.report.run_reader import KINDS, LOGISTIC, TREES, RecordedRun, read_run, read_runs
from tests.unit.report_runs import add_predictions, make_run, make_study


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RecordedRun]:
    return read_runs(make_study(tmp_path_factory.mktemp("study"), seeds=3, label_counts=(100, 1000), splits=("test",)))


def study_of(runs: list[RecordedRun]) -> LabelStudy | None:
    return label_study(runs, {run.name: found for run in runs if (found := run.predictions())})


def test_there_is_a_curve_for_each_kind_with_the_mean_and_spread_of_its_runs(runs: list[RecordedRun]) -> None:
    study = study_of(runs)
    assert [curve.name for curve in study.curves] == list(KINDS[:-1])
    for curve in study.curves:
        assert [point.num_labels for point in curve.points] == [100, 1000]
        few = [run.predictions() for run in runs if run.kind == curve.kind and num_labels(run) == 100]
        aucs = [auc(found.score, found.label) for found in few]
        assert curve.points[0].mean == pytest.approx(np.mean(aucs))
        assert curve.points[0].spread == pytest.approx(np.std(aucs, ddof=1))
    runs_per_point = {curve.kind: curve.points[0].aucs.size for curve in study.curves}
    assert (runs_per_point["finetune"], runs_per_point["scratch"]) == (6, 3)


def test_the_difference_has_both_scatters(runs: list[RecordedRun]) -> None:
    few, many = study_of(runs).differences
    assert (few.num_labels, many.num_labels) == (100, 1000)
    assert (few.mean.num_runs, few.seeds, few.pretrainings) == (6, 3, 2)
    assert few.mean.delta.value == pytest.approx(few.fine_tuned - few.scratch)
    assert few.mean.delta.uncertainty == pytest.approx(np.hypot(few.training_sigma, few.test_sigma))
    assert 0 < few.test_sigma < 0.01
    assert few.training_sigma > 0


def test_one_number_of_labels_is_no_curve(runs: list[RecordedRun]) -> None:
    few = [run for run in runs if num_labels(run) in (None, 100)]
    assert study_of(few) is None
    assert label_chapter(few, {}) is None


def test_pretrainings_that_differ_in_more_than_the_seed_have_curves_of_their_own(tmp_path: Path) -> None:
    pretrainings = [make_run(tmp_path / name, "pretrain") for name in ("wide", "narrow")]
    (pretrainings[1] / "config.yaml").write_text(
        (pretrainings[1] / "config.yaml").read_text().replace("lr: 0.001", "lr: 0.5")
    )
    folders = list(pretrainings)
    for count in (100, 1000):
        for start in pretrainings:
            folders.append(
                make_run(tmp_path / f"f-{start.name}-{count}", "finetune", init_from=str(start), train_jets=count)
            )
            add_predictions(folders[-1], 1.0)
    names = [curve.name for curve in study_of(read_runs(folders)).curves]
    assert names == ["finetune (pretraining's optim.lr=0.5)", "finetune (pretraining's optim.lr=0.001)"]


def test_all_labels_are_as_many_as_an_epoch_has(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "scratch", "scratch"))  # 64 jets a step, 6 steps an epoch
    assert num_labels(run) == 384


def test_runs_with_all_labels_have_the_same_number_whatever_their_batches(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"scratch-{n}", "scratch", train_jets=n) for n in (100, None)]
    folders.append(make_run(tmp_path / "finetune", "finetune"))
    metrics = folders[-1] / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"samples": 768', '"samples": 762'))
    for folder in folders:
        add_predictions(folder, 1.0)
    curves = study_of(read_runs(folders)).curves
    assert [[point.num_labels for point in curve.points] for curve in curves] == [[384], [100, 384]]


def test_bootstrap_of_an_auc_agrees_with_delong_and_counts_ties_as_half() -> None:
    random = np.random.default_rng(1)
    label = random.integers(0, 2, 2000)
    score = np.round(random.normal(size=2000) + label, 1)
    replicates = auc_replicates(score, label)
    assert replicates.mean() == pytest.approx(auc(score, label), abs=0.002)
    assert replicates.std(ddof=1) == pytest.approx(auc_uncertainty(score, label), rel=0.15)
    first = next(drawn_jets(2000))
    assert replicates[0] == pytest.approx(auc(score[first], label[first]))


def test_a_scatter_between_pretrainings_is_seldom_called_a_result() -> None:
    """Three pretrainings meet the same three controls; pretraining changes nothing on average."""
    random = np.random.default_rng(3)
    claims = 0
    for _ in range(1000):
        of_pretraining, of_control = random.normal(scale=0.02, size=3), random.normal(scale=0.01, size=3)
        deltas = of_pretraining[:, None] + of_control + random.normal(scale=0.005, size=(3, 3))
        per_control = {f"{n}": [Measurement(value, 1e-6) for value in deltas[:, n].tolist()] for n in range(3)}
        mean = mean_difference(per_control, deltas.mean(axis=1).tolist())
        assert mean.num_pretrainings == 3
        claims += abs(mean.delta.value) > mean.half_width
    assert claims / 1000 < 0.05


def test_observables_are_two_rows_and_the_mark_of_the_conclusions(runs: list[RecordedRun]) -> None:
    logistic, trees = ([run for run in runs if run.kind == kind] for kind in (LOGISTIC, TREES))
    assert len(logistic) == len(trees) == 6
    found = logistic[0].predictions()
    assert trees[0].folder == logistic[0].folder
    assert np.array_equal(trees[0].predictions().score, found.score_of_boosted_trees)
    sentences = headline(runs)
    mark = next(text for text in sentences if text.startswith("The mark that a network has to reach"))
    assert "with 1,000 labels" in mark
    assert any("has not reached that of logistic regression on observables" in text for text in sentences)
    assert not any("no run on observables" in text for text in sentences)


def test_a_report_without_observables_warns(runs: list[RecordedRun]) -> None:
    assert headline([run for run in runs if run.kind not in (LOGISTIC, TREES)])[-1].startswith("Warning: no run on")
    assert not any("Warning" in text for text in headline([run for run in runs if run.kind == "pretrain"]))
