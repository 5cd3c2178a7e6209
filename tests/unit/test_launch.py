"""What `jobs/launch.py` submits when some runs are complete, some have a job, and some have lost theirs."""

import json
from pathlib import Path

import pytest

from jetmae.errors import JetmaeError
from jetmae.launch import start, submission
from jetmae.launch.layout import Layout
from jetmae.launch.resources import Resources
from jetmae.launch.stages import Member, Stage
from jetmae.run_folder import RunFolder
from jetmae.slurm import queue as slurm_jobs


@pytest.fixture
def submitted(monkeypatch) -> list[tuple[list[str], str | None]]:
    """Names of the runs of each submission, and what it depends on; Slurm has job 7_1 and nothing else."""
    calls = []

    def submit_runs(roots: list[Path], resources, *, name: str) -> list[str]:
        calls.append(([root.name for root in roots], resources.dependency))
        return [f"9_{number}" for number in range(len(roots))]

    def submit_command(command: list[str], folder: Path, resources, *, code_of: Path) -> str:
        calls.append((["report"], resources.dependency))
        return "10"

    monkeypatch.setattr(submission, "submit", submit_runs)
    monkeypatch.setattr(submission, "submit_command", submit_command)
    monkeypatch.setattr(slurm_jobs, "queue_of", lambda users: {"7_1": slurm_jobs.QueuedJob("RUNNING", "None", None)})
    monkeypatch.setattr(start, "record_start", lambda member, layout, job_id: None)
    return calls


def submit(stages: list[Stage], *, report: bool = False) -> None:
    start.submit(stages, Layout(Resources()), Resources(), report=report)


def member(root: Path, job: str | None) -> Member:
    """A run whose last job was `job`; complete if None."""
    root.mkdir(parents=True)
    run = RunFolder(root)
    run.launch.write_text(json.dumps({"job_id": job or "1"}))
    if job is None:
        run.completed.touch()
    return Member(None, run)


def seeds(folder: Path, *jobs: str | None) -> list[Member]:
    return [member(folder / f"finetune-seed-{seed}", job) for seed, job in enumerate(jobs)]


def test_of_an_array_the_dead_members_come_back_beside_the_one_that_runs(submitted, tmp_path, capsys):
    stage = Stage("finetune", seeds(tmp_path, "7_0", "7_1", "7_2", None))
    submit([stage])
    assert submitted == [(["finetune-seed-0", "finetune-seed-2"], None)]
    printed = capsys.readouterr().out.splitlines()
    assert "finetune-seed-1: has job 7_1" in printed
    assert "finetune-seed-3: complete" in printed
    assert f"job 9_1 submitted; run folder {tmp_path / 'finetune-seed-2'}" in printed


def test_what_comes_after_waits_for_the_jobs_that_run_and_for_the_new_ones(submitted, tmp_path, capsys):
    pretrain = Stage("pretrain", [member(tmp_path / "pretrain-0", "5"), member(tmp_path / "pretrain-1", "7_1")])
    finetune = Stage("finetune", seeds(tmp_path, "8_0", "8_1"), after="pretrain")
    submit([pretrain, finetune], report=True)
    assert submitted == [
        (["pretrain-0"], None),
        (["finetune-seed-0", "finetune-seed-1"], "afterok:7_1:9_0"),
        (["report"], "afterok:7_1:9_0:9_0:9_1"),
    ]
    assert "pretrain-1: has job 7_1" in capsys.readouterr().out


def test_a_chain_whose_stage_has_all_its_jobs_submits_the_report_alone(submitted, tmp_path, capsys):
    stages = [Stage("scratch", [member(tmp_path / "scratch", "7_1")])]
    submit(stages, report=True)
    assert submitted == [(["report"], "afterok:7_1")]
    assert "scratch: has job 7_1" in capsys.readouterr().out


def test_a_command_with_nothing_to_submit_names_the_run_and_its_own_job(submitted, tmp_path):
    stage = Stage("finetune", seeds(tmp_path, None, "7_1"))
    with pytest.raises(JetmaeError, match=r"finetune-seed-1 has job 7_1, queued or running: scancel 7_1, or wait"):
        submit([stage])
    assert not submitted
