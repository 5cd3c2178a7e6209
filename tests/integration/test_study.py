"""A label study as a user runs it, with tiny networks: search, choice, runs, report; and the same command again."""

import json
from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY, TINY_DECODER, launch, succeed

pytestmark = pytest.mark.slow

SHORT = [*TINY, *(f"pretrain.{setting}" for setting in TINY_DECODER), "optim.batch_size=8", "pretrain.optim.steps=4"]
LABELS = {
    "labels": [32],
    "label_seeds": [0],
    "pretrain_seeds": [0],
    "methods": ["finetune", "scratch", "probe"],
    "search": {"seeds": [7], "grid": {"optim.lr": [1.0e-3, 1.0e-2], "optim.steps": [4], "optim.layer_decay": [0.8]}},
    "overrides": {"probe": {"optim.steps": 4}},
}
TARGETS = {
    "vary": ["reconstruct.masks"],
    "recipes": {"base": {}, "half": {"reconstruct.masks": [{"kind": "patches", "ratio": 0.5}]}},
    "steps": 4,
    "labels": 32,
    "overrides": {"probe": {"optim.steps": 4}},
}


def study(kind: str, protocol: dict, sample: Path, folder: Path):
    """`python jobs/launch.py study KIND` with a protocol, two runs at a time."""
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(protocol))
    settings = (f"data.path={sample}", *SHORT)
    return launch("study", kind, *settings, "--config", path, "--name", "tiny", "--parallel", 2, runs=folder / "runs")


@pytest.mark.timeout(1800)
def test_a_label_study_chooses_on_validation_jets_and_ends_with_the_report(sample, tmp_path):
    printed = succeed(study("labels", LABELS, sample, tmp_path)).stdout
    root = tmp_path / "runs" / "tiny"
    choices = json.loads((root / "choices.json").read_text())
    assert {labels: list(methods) for labels, methods in choices.items()} == {"n32": ["finetune", "scratch"]}
    for labels, methods in choices.items():
        for method, choice in methods.items():
            best = max(choice["candidates"], key=lambda candidate: candidate["validation_auc"])
            assert choice["chosen"] == best["settings"]
            runs = sorted(root.glob(f"{labels}/{method}-*"))
            assert len(runs) == 1
            assert all(config(run)["optim"]["lr"] == choice["chosen"]["optim.lr"] for run in runs)
    assert_no_test_jet_was_read_before(root / "choices.json", root)
    final = sorted(path.parent.parent for path in root.glob("n*/*/evaluation/predictions_test.npz"))
    assert len(final) == 3
    assert (root / "report" / "report.html").exists()
    assert "n32/finetune-P0-s0" in printed
    assert_the_same_command_trains_only_what_is_missing(root, sample, tmp_path)


def config(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())


def assert_no_test_jet_was_read_before(choices: Path, root: Path) -> None:
    others = [*root.glob("search/*/*"), *root.glob("pretrain-*")]
    assert len(others) == (2 + 2) + 1
    for run in others:
        assert (run / "COMPLETED").exists()
        assert not list(run.glob("evaluation/*_test.npz"))
        assert '"test"' not in (run / "metrics.jsonl").read_text()
    written_ns = choices.stat().st_mtime_ns
    assert all(path.stat().st_mtime_ns > written_ns for path in root.glob("n*/*/config.yaml"))


def assert_the_same_command_trains_only_what_is_missing(root: Path, sample: Path, tmp_path: Path) -> None:
    lost = root / "n32" / "probe-P0-s0"
    (lost / "COMPLETED").unlink()
    before = {path: path.stat().st_mtime_ns for path in root.glob("**/COMPLETED")}
    choices = (root / "choices.json").stat().st_mtime_ns
    printed = succeed(study("labels", LABELS, sample, tmp_path)).stdout
    assert (lost / "COMPLETED").exists()
    assert printed.count(": started") == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (root / "choices.json").stat().st_mtime_ns == choices


@pytest.mark.timeout(1800)
def test_a_study_of_recipes_ends_with_a_table_of_validation_jets(sample, tmp_path):
    printed = succeed(study("targets", TARGETS, sample, tmp_path)).stdout
    root = tmp_path / "runs" / "tiny"
    header, *lines = (root / "report" / "recipes.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["base", "half"]
    assert header.startswith("recipe,steps,cpu_s,probe_auc,")
    assert "explained_variance/loss/hcal" in header
    assert header in printed
    rows = json.loads((root / "report" / "recipes.json").read_text())
    assert all(row["steps"] == 4 and row["cpu_s"] > 1 for row in rows)
    assert list(rows[1]["auc_by_run"]["probe"]) == ["half/probe-P0-s0"]
    assert not list(root.glob("**/*_test.npz"))
