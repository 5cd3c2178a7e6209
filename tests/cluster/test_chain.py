"""The whole experiment as dependent jobs."""

import json
import sys
from pathlib import Path

import pytest

from tests.cluster.processes import wait_until
from tests.conftest import PROJECT, TINY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SHORT = (*TINY, "pretrain.reconstruct.decoder_dim=16", "pretrain.reconstruct.decoder_heads=2", "optim.steps=3")


def chain(cluster, sample: Path, runs: Path, *words: str) -> str:
    command = [sys.executable, PROJECT / "jobs" / "launch.py", "chain", *SHORT, f"data.path={sample}", "--name", "all"]
    return cluster.run(*command, "--runs-dir", runs, "--mem", "1500M", *words)


def jobs_of(printed: str) -> list[str]:
    return [line.split()[1] for line in printed.splitlines() if line.startswith("job ")]


def test_a_chain_over_two_seeds_ends_with_the_report_and_goes_on_where_it_stopped(cluster, sample, tmp_path):
    printed = chain(cluster, sample, tmp_path, "--array", "seed=0..1")
    jobs = jobs_of(printed)
    assert len(jobs) == 1 + 5 * 2 + 1
    again = chain(cluster, sample, tmp_path, "--array", "seed=0..1")
    assert "pretrain: has job" in again  # nothing of it is submitted twice; the second report is
    cluster.cancel(jobs_of(again)[-1])
    cluster.wait_for(jobs[-1], "COMPLETED", timeout_s=500)
    page = tmp_path / "all" / "report" / "report.html"
    assert f"{page}" in printed
    assert "probe-random-seed-1" in page.read_text()
    assert len(list((tmp_path / "all").glob("*/COMPLETED"))) == 11

    (tmp_path / "all" / "scratch-seed-1" / "COMPLETED").unlink()
    resumed = jobs_of(chain(cluster, sample, tmp_path, "--array", "seed=0..1"))
    assert len(resumed) == 2  # that run, and the report
    cluster.wait_for(resumed[-1], "COMPLETED", timeout_s=200)


def test_a_failed_parent_leaves_no_child_pending(cluster, sample, tmp_path):
    spoilt = tmp_path / "data"
    spoilt.mkdir()
    for path in sample.iterdir():
        (spoilt / path.name).write_bytes(path.read_bytes())
    printed = chain(cluster, spoilt, tmp_path / "runs", "--partition", "low")
    jobs = jobs_of(printed)
    manifest = json.loads((spoilt / "manifest.json").read_text())
    (spoilt / manifest["splits"]["unlabelled_train"][0]["file"]).unlink()  # found when the job starts
    cluster.wait_for(jobs[0], "FAILED", timeout_s=90)
    wait_until(
        lambda: not cluster.jobs_left(), 60, "the children of the failed job to be cancelled, and the others to end"
    )
    for child in (jobs[1], jobs[-1]):  # finetune, and the report; accounting comes a moment later
        wait_until(
            lambda job=child: cluster.accounting(job, "State")[-1][0].startswith("CANCELLED"),
            30,
            lambda job=child: f"job {job} to be cancelled: {cluster.accounting(job, 'State')}",
        )
    assert "lists it" in (tmp_path / "runs" / "all" / "pretrain" / "attempts.jsonl").read_text()
