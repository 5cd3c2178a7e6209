"""What `jobs/launch.py` submits when some runs are complete, some have a job, and some have lost theirs."""

import json
import sys
from pathlib import Path

import pytest

from jetmae.cli import launch
from jetmae.errors import JetmaeError
from jetmae.launch import submission
from jetmae.run_folder import RunFolder
from jetmae.slurm import queue as slurm_jobs


@pytest.fixture
def submitted(monkeypatch) -> list[tuple[list[str], str | None]]:
    """Names of the runs of each submission, and what it depends on; Slurm has job 7_1 and nothing else."""
    calls = []

    def submit(roots: list[Path], resources, *, name: str) -> list[str]:
        calls.append(([root.name for root in roots], resources.dependency))
        return [f"9_{number}" for number in range(len(roots))]

    def submit_command(command: list[str], folder: Path, resources) -> str:
        calls.append((["report"], resources.dependency))
        return "10"

    monkeypatch.setattr(submission, "submit", submit)
    monkeypatch.setattr(submission, "submit_command", submit_command)
    monkeypatch.setattr(slurm_jobs, "queue_of", lambda users: {"7_1": slurm_jobs.QueuedJob("RUNNING", "None", None)})
    monkeypatch.setattr(launch, "warn_of_the_cluster", lambda asked: None)
    monkeypatch.setattr(launch, "record_start", lambda member, arguments, job_id: None)
    return calls


def typed(monkeypatch, task: str):
    monkeypatch.setattr(sys, "argv", ["launch.py", task, "--cluster", "slurm"])
    return launch.parse_arguments()


def member(root: Path, job: str | None) -> launch.Member:
    """A run whose last job was `job`; complete if None."""
    root.mkdir(parents=True)
    run = RunFolder(root)
    run.launch.write_text(json.dumps({"job_id": job or "1"}))
    if job is None:
        run.completed.touch()
    return launch.Member(None, run)


def seeds(folder: Path, *jobs: str | None) -> list[launch.Member]:
    return [member(folder / f"finetune-seed-{seed}", job) for seed, job in enumerate(jobs)]


def test_of_an_array_the_dead_members_come_back_beside_the_one_that_runs(submitted, monkeypatch, tmp_path, capsys):
    stage = launch.Stage("finetune", seeds(tmp_path, "7_0", "7_1", "7_2", None))
    launch.submit([stage], typed(monkeypatch, "finetune"))
    assert submitted == [(["finetune-seed-0", "finetune-seed-2"], None)]
    printed = capsys.readouterr().out.splitlines()
    assert "finetune-seed-1: has job 7_1" in printed
    assert "finetune-seed-3: complete" in printed
    assert f"job 9_1 submitted; run folder {tmp_path / 'finetune-seed-2'}" in printed


def test_what_comes_after_waits_for_the_jobs_that_run_and_for_the_new_ones(submitted, monkeypatch, tmp_path, capsys):
    pretrain = launch.Stage("pretrain", [member(tmp_path / "pretrain-0", "5"), member(tmp_path / "pretrain-1", "7_1")])
    finetune = launch.Stage("finetune", seeds(tmp_path, "8_0", "8_1"), after="pretrain")
    launch.submit([pretrain, finetune], typed(monkeypatch, "chain"))
    assert submitted == [
        (["pretrain-0"], None),
        (["finetune-seed-0", "finetune-seed-1"], "afterok:7_1:9_0"),
        (["report"], "afterok:7_1:9_0:9_0:9_1"),
    ]
    assert "pretrain-1: has job 7_1" in capsys.readouterr().out


def test_a_chain_whose_stage_has_all_its_jobs_submits_the_report_alone(submitted, monkeypatch, tmp_path, capsys):
    stages = [launch.Stage("scratch", [member(tmp_path / "scratch", "7_1")])]
    launch.submit(stages, typed(monkeypatch, "chain"))
    assert submitted == [(["report"], "afterok:7_1")]
    assert "scratch: has job 7_1" in capsys.readouterr().out


def test_a_command_with_nothing_to_submit_names_the_run_and_its_own_job(submitted, monkeypatch, tmp_path):
    stage = launch.Stage("finetune", seeds(tmp_path, None, "7_1"))
    with pytest.raises(JetmaeError, match=r"finetune-seed-1 has job 7_1, queued or running: scancel 7_1, or wait"):
        launch.submit([stage], typed(monkeypatch, "finetune"))
    assert not submitted
