"""Where jobs cannot be requeued: the reason is told, and later starts that were submitted together go on."""

import signal

import pytest

from tests.cluster.processes import wait_until
from tests.cluster.slurm_cluster import ClusterError
from tests.cluster.test_watch import listed, type_runs
from tests.cluster.training import Training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def training(cluster, sample, tmp_path):
    trained = Training(cluster, sample, tmp_path, "alone", "optim.steps=150")
    yield trained
    if left := cluster.jobs_left():
        cluster.cancel(*left)


def test_a_stopped_start_goes_on_in_the_next_and_a_complete_run_leaves_none(training):
    cluster = training.cluster
    training.submit("--no-requeue", "4")
    array = training.job_id.partition("_")[0]
    assert (training.job_id, cluster.job(f"{array}_0")["Requeue"]) == (f"{array}_0", "0")
    for attempt in (1, 2):
        training.await_steps(attempt, 5)
        training.signal_rank(0, signal.SIGUSR2)
    training.job_id = f"{array}_2"
    assert training.await_end() == "COMPLETED"
    assert training.run.completed.exists()
    assert [end["cause"] for end in training.ends] == ["preempted", "preempted", "completed"]
    assert [end["message"] for end in training.ends] == [None, None, None]
    assert [start["job_id"] for start in training.starts] == [f"{array}_{n}" for n in range(3)]
    assert "warnings" not in training.starts[0]
    cluster.wait_for(f"{array}_3", lambda job: job["JobState"] == "CANCELLED", 30)
    assert cluster.jobs_left() == []


def test_starts_that_wait_are_seen_and_cancelled_as_one(training):
    cluster = training.cluster
    training.submit("--no-requeue", "3", "--sbatch", "begin=now+1hour")
    with pytest.raises(ClusterError, match=f"has job {training.job_id}, queued or running"):
        training.submit("--no-requeue")
    assert listed(training)[2] == "queued"
    type_runs(training, "cancel", "alone")
    assert cluster.jobs_left() == []
    assert listed(training)[2].startswith("cancelled")
    wait_until(lambda: listed(training)[2] == "cancelled (before it began)", 30, "the site's accounting to know it")


def test_a_refused_requeue_is_quoted_and_recorded(training):
    training.submit()
    training.cluster.run("scontrol", "update", f"JobId={training.job_id}", "Requeue=0")
    training.await_steps(1, 5)
    training.signal_job("USR2")
    assert training.await_end() == "FAILED"
    (end,) = training.ends
    assert end["cause"] == "preempted"
    assert end["message"] == f"not requeued: Requested operation is presently disabled for job {training.job_id}"
