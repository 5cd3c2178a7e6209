"""What a job was submitted with, and from where: a job says what it lacks, and an allocation is not taken for a job."""

import json
import sys
from pathlib import Path

import pytest

from jetmae.launch import submission
from jetmae.launch.resources import Resources
from jetmae.records.json_lines import read_lines
from tests.cluster.test_templates import sbatch
from tests.cluster.training import Training
from tests.conftest import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
STEPS = "optim.steps=2"
LAUNCH = PROJECT / "jobs" / "launch.py"


def test_a_template_says_what_its_job_lacks(cluster, sample, tmp_path):
    run = Training(cluster, sample, tmp_path, "lacking", STEPS)
    folder = cluster.run(*run._command("--nodes", "1", "--freeze"))
    run.job_id = sbatch(cluster, "train.sbatch", folder, "--no-requeue", "--nodes=1", "--signal=USR1@300")
    assert run.await_end() == "COMPLETED"
    (start,) = run.starts
    assert len(start["warnings"]) == 2
    log = (run.run.logs / f"{run.job_id}_0_log.out").read_text()
    for words, warning in zip(("--no-requeue", "--signal=USR1@300"), start["warnings"], strict=True):
        assert words in warning
        assert f"warning: {warning}" in log


def test_a_local_run_in_an_allocation_is_no_rank_of_it_and_a_job_from_there_has_its_own_terms(
    cluster, sample, tmp_path
):
    here = Training(cluster, sample, tmp_path, "here", STEPS)
    there = Training(cluster, sample, tmp_path, "there", STEPS)
    allocation = ("salloc", "--nodes=2", "--ntasks-per-node=2", "--time=7", "--no-shell")
    cluster.run(*allocation, "--job-name=mine")
    (outer,) = cluster.jobs_left()
    inside = ("env", f"SLURM_JOB_ID={outer}", "SLURM_NNODES=2", "SLURM_NTASKS_PER_NODE=2", "SLURM_TIMELIMIT=7")
    try:
        cluster.run(*inside, *here._command("--cluster", "local", "--ranks-per-node", "1"), timeout_s=200)
        status = cluster.run(*inside, sys.executable, PROJECT / "jobs/runs.py", "status", here.run.root)
        held = ("--nodes", "1", "--time", "9", "--sbatch", "begin=now+1hour")
        cluster.run(*inside, *there._command(*held))
    finally:
        jobs = {job: cluster.job(job) for job in cluster.jobs_left()}
        cluster.cancel(*jobs)
    assert [line["job_id"] for line in read_lines(here.run.attempts)] == [None, None]
    assert "local processes on" in status
    (inner,) = [job for number, job in jobs.items() if number != outer]
    assert (inner["NumNodes"], inner["NumTasks"], inner["TimeLimit"]) == ("1-1", "1", "00:09:00")
    assert inner["Requeue"] == "1"


SHOW_ENVIRONMENT = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"


def test_ranks_have_the_environment_of_whoever_submits(cluster, tmp_path, monkeypatch):
    shell = {"SBATCH_EXPORT": "NONE", "SLURM_EXPORT_ENV": "NONE", "NCCL_DEBUG": "INFO", "HDF5_PLUGIN_PATH": "/x"}
    for name, value in {**cluster.environment, **shell}.items():
        monkeypatch.setenv(name, value)
    seen = tmp_path / "environment.json"
    command = [sys.executable, "-c", SHOW_ENVIRONMENT, str(seen)]
    job = submission.submit_command(command, tmp_path, Resources(), code_of=tmp_path)
    cluster.wait_for(job, "COMPLETED")
    found = json.loads(seen.read_text())
    assert (found["NCCL_DEBUG"], found["HDF5_PLUGIN_PATH"]) == ("INFO", "/x")
    assert sys.executable.rpartition("/")[0] in found["PATH"].split(":")
    assert "SBATCH_EXPORT" not in found


def test_ranks_of_a_template_have_the_environment_of_its_script_whatever_sbatch_exports(cluster, sample, tmp_path):
    run = Training(cluster, sample, tmp_path, "bare", "optim.steps=100000")
    folder = cluster.run(*run._command("--nodes", "1", "--freeze"))
    exported = f"--export=JETMAE_PYTHON={sys.executable}"
    run.job_id = sbatch(cluster, "train.sbatch", folder, "--nodes=1", exported)
    try:
        rank = Path(f"/proc/{run.await_process(0)}/environ").read_bytes().split(b"\0")
    finally:
        cluster.cancel(run.job_id)
    assert b"JETMAE_LEAD_TIME_S=120" in rank
