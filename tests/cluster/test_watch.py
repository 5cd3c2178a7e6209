"""`runs.py` beside jobs that wait, run, are preempted, and end."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.cluster.processes import wait_until
from tests.cluster.slurm_cluster import ClusterError
from tests.cluster.training import Training
from tests.conftest import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
RUNS = PROJECT / "jobs" / "runs.py"


@pytest.fixture
def training(cluster, sample, tmp_path):
    """A run that never completes by itself."""
    trained = Training(cluster, sample, tmp_path, "endless", "optim.steps=100000")
    yield trained
    if trained.job_id in cluster.jobs_left():
        cluster.cancel(trained.job_id)


def type_runs(training: Training, *words: str) -> str:
    return training.cluster.run(sys.executable, RUNS, "--runs-dir", training.run.root.parent, *words)


def listed(training: Training) -> list[str]:
    """The columns of the run's line in `runs.py list`; no column is empty."""
    return re.split(r"\s{2,}", type_runs(training, "list").splitlines()[1].strip())


def fact(training: Training, name: str) -> str:
    """What `runs.py status` says behind a name."""
    return re.search(rf"^{name} +(.*)$", type_runs(training, "status", "endless"), flags=re.MULTILINE)[1]


def test_a_run_is_seen_from_its_submission_to_its_cancellation(training, tmp_path):
    cluster = training.cluster
    for node in cluster.nodes:
        cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    try:
        training.submit()
        assert listed(training)[:3] == ["endless", "pretrain", "queued"]
        assert fact(training, "step") == "0/100000 0 %"
        assert re.fullmatch(r"queued for 0:\d\d:\d\d; Slurm says: .+", fact(training, "state"))
    finally:
        for node in cluster.nodes:
            cluster.run("scontrol", "update", f"nodename={node}", "state=resume")

    output = (tmp_path / "followed").open("w")
    command = [sys.executable, RUNS, "logs", training.run.root, "--follow"]
    follower = subprocess.Popen(command, env=cluster.environment, stdout=output)
    try:
        training.await_steps(1)
        name, task, state, step, eta, speed, starts, job = listed(training)
        assert (name, task, state, starts, job) == ("endless", "pretrain", "running", "1", training.job_id)
        assert int(step.split("/")[0]) >= 12
        assert re.fullmatch(r"(\d+ days?, )?\d+:\d\d:\d\d", eta)
        assert int(speed) > 0
        assert fact(training, "where") == f"job {training.job_id} on node1 node2"

        preemptor = cluster.preempt(training.job_id)
        cluster.wait_for(training.job_id, lambda job: job["JobState"] == "PENDING")
        assert listed(training)[2] == "preempted, waiting"
        cluster.cancel(preemptor)
        training.await_steps(2)
        assert re.match(r"(\d+\.\d s|\d+:\d\d:\d\d) +\d+\.\d+ % ", fact(training, "queued"))
        first, second = type_runs(training, "status", "endless").splitlines()[-2:]
        assert re.match(rf"1 +{training.job_id} +node1 node2 +0:\d\d:\d\d .* preempted ", first)
        assert re.match(rf"2 +{training.job_id} +node1 node2 +0:\d\d:\d\d .* running ", second)

        assert "requeued" in type_runs(training, "requeue", "endless")
        training.await_steps(3, 1)
        done = training.steps_of_attempt(2)
        assert training.ends[1]["last_committed_step"] == training.ends[1]["resumed_step"] + done

        assert follower.poll() is None, "logs -f has not followed across the requeues"
        assert "cancelled" in type_runs(training, "cancel", "endless")
        assert training.await_end().startswith("CANCELLED")
        assert follower.wait(60) == 1  # it did not complete
    finally:
        follower.kill()
        follower.wait()
        output.close()
    followed = (tmp_path / "followed").read_text()
    assert followed == (training.run.logs / "run.log").read_text()
    assert "attempt 3, 2 rank(s)" in followed
    assert listed(training)[2] == "stopped (cancelled)"
    with pytest.raises(ClusterError, match=r"has no job to requeue: start it again: cd .*launch\.py pretrain"):
        type_runs(training, "requeue", "endless")
    assert "nothing to cancel" in type_runs(training, "cancel", "endless")


def test_a_job_that_is_cancelled_before_it_begins_has_not_crashed(training):
    training.submit("--sbatch", "begin=now+1hour")
    training.cluster.cancel(training.job_id)
    assert listed(training)[2] == "cancelled (before it began)"
    assert fact(training, "state") == "cancelled (before it began)"
    assert "nothing to cancel" in type_runs(training, "cancel", "endless")
    training.cluster.wait_for_accounting(training.job_id, ["CANCELLED by 0"])


def test_tensorboard_as_a_job_shows_the_runs_on_loopback(cluster, tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
        with SummaryWriter(str(tmp_path / name / "tensorboard")) as writer:
            writer.add_scalar("loss/train", 1.0, 1)
    words = ("env", "-C", PROJECT, "sbatch", "--parsable", f"--output={cluster.folder}/output/slurm-%j.out")
    job_id = cluster.run(*words, PROJECT / "slurm" / "tensorboard.sbatch", tmp_path)
    printed = cluster.wait_for_output(job_id, "then open:")
    port = re.search(r"ssh -N -L (\d+):127\.0\.0\.1:\1 -J \S+ \S+@node\d$", printed, flags=re.MULTILINE)[1]
    wait_until(lambda: shown_runs(port) == ["one/.", "two/."], 60, lambda: f"both runs: {cluster.output(job_id)}")
    cluster.cancel(job_id)
    assert shown_runs(port) == [], "TensorBoard outlives its job"


def shown_runs(port: str) -> list[str]:
    """What TensorBoard shows; nothing before it listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs", timeout=5) as answer:
            return sorted(json.load(answer))
    except (urllib.error.URLError, ConnectionError):
        return []
