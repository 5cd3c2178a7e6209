"""Interruptions on a real cluster: whatever ends a job, it goes on by itself, loses no committed step, and says why.

Every test trains the same tiny run on two nodes and compares its losses with an uninterrupted one in every bit. Several
interruptions share a job, one per start, to keep the suite short.
"""

import re
import signal
from pathlib import Path

import pytest

from tests.cluster.processes import wait_until
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.training import Training, losses

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
STEPS = "optim.steps=120"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def reference(sample, runs) -> Training:
    """The uninterrupted run, on two processes of this machine."""
    return Training(None, sample, runs, "reference", STEPS).run_here()


@pytest.fixture
def training(cluster: SlurmCluster, sample, runs, request):
    """A training that is named after its test and cancelled at the end."""
    trained = Training(cluster, sample, runs, request.node.name.replace("[", "-").replace("]", ""), STEPS)
    yield trained
    if trained.job_id:
        cluster.cancel(trained.job_id)


def test_a_job_on_two_nodes_equals_two_processes_here(training, reference):
    training.submit()
    assert training.await_end() == "COMPLETED"
    training.check_like(reference, ["completed"])
    assert training.starts[0]["hosts"] == ["node1", "node2"]


def test_signals_to_the_whole_job_and_to_single_ranks(training, reference):
    training.submit()
    training.await_steps(1)
    training.signal_job("USR2")
    training.await_steps(2)
    training.signal_job("TERM")
    training.await_steps(3)
    training.signal_rank(1, signal.SIGUSR2)
    training.await_steps(4)
    training.signal_rank(0, signal.SIGTERM)
    assert training.await_end() == "COMPLETED"
    training.check_like(reference, [*["preempted"] * 4, "completed"])
    for end in training.ends[:-1]:  # a stop on request loses nothing
        assert end["last_committed_step"] - end["resumed_step"] >= 12


def test_a_storm_of_signals_and_signals_in_early_phases(training, reference):
    training.submit()
    training.await_steps(1)
    for number in [signal.SIGUSR2, signal.SIGTERM] * 20:
        for rank in (0, 1):
            training.signal_rank_if_there(rank, number)
    for restarts in (1, 2):  # of the next two starts: importing, not yet in the rendezvous
        training.cluster.wait_for(training.job_id, lambda job, n=restarts: int(job["Restarts"]) >= n, 90)
        for rank in (0, 1):
            training.await_process(rank)
        training.signal_job("USR2")
    assert training.await_end() == "COMPLETED"
    assert training.run.completed.exists()
    assert losses(training.run) == losses(reference.run)
    assert {end["cause"] for end in training.ends[:-1]} == {"preempted"}


def test_signals_during_validation_and_during_saves(cluster, sample, runs, reference):
    """One step in two is followed by a validation, every one by a save, so that a signal hardly ever meets a step."""
    words = ("log.checkpoint_steps=1", "log.validate_epochs=0.01")
    busy = Training(cluster, sample, runs, "busy", STEPS, *words).submit()
    for attempt, name in enumerate(("USR2", "TERM", "USR2"), start=1):
        busy.await_steps(attempt, steps=5)
        busy.signal_job(name)
    assert busy.await_end() == "COMPLETED"
    assert losses(busy.run) == losses(reference.run)
    assert [end["cause"] for end in busy.ends] == [*["preempted"] * 3, "completed"]
    for start, end in zip(busy.starts, busy.ends, strict=True):
        assert end["last_committed_step"] - start["committed_step"] >= 5


def test_a_signal_in_the_last_phase_changes_nothing(training, reference):
    """After the last step the best weights are evaluated; a stop request then has nothing left to stop."""
    training.submit()
    wait_until((training.run.checkpoints / "step-00000120").exists, 300, "the last commit")
    training.signal_job("USR2")
    training.signal_job("TERM")
    assert training.await_end() == "COMPLETED"
    training.check_like(reference, ["completed"])


def test_a_time_limit_is_met_with_a_save_and_a_requeue(cluster, sample, runs):
    """Slurm resolves time limits to a minute and warns up to a minute early."""
    slow = Training(cluster, sample, runs, "slow", "optim.steps=4000", "log.every_steps=1")
    slow.submit("--time", "1", "--lead-time-s", "30")
    try:
        cluster.wait_for(slow.job_id, lambda job: int(job["Restarts"]) == 1, 150)
        cluster.run("scontrol", "update", f"JobId={slow.job_id}", "TimeLimit=30")  # the second start has time
        slow.await_steps(2, steps=3)
    finally:
        cluster.cancel(slow.job_id)
    slow.await_end()
    assert [end["cause"] for end in slow.ends] == ["time_limit", "cancelled"]
    first, second = slow.ends
    assert second["resumed_step"] == first["last_committed_step"] == slow.steps_of_attempt(1)


def test_preemption_with_grace_loses_no_step(training, reference):
    training.submit("--partition", "low")
    training.await_steps(1)
    preemptor = training.cluster.preempt(training.job_id)
    training.cluster.wait_for(training.job_id, lambda job: int(job["Restarts"]) == 1 and job["JobState"] == "PENDING")
    training.cluster.cancel(preemptor)
    assert training.await_end() == "COMPLETED"
    training.check_like(reference, ["preempted", "completed"])
    first, second = training.ends
    assert second["resumed_step"] == first["last_committed_step"] == training.steps_of_attempt(1)


def test_preemption_without_grace_goes_on_from_the_last_commit(training, reference):
    printed = training.submit("--partition", "abrupt").printed
    assert "grace in abrupt: GraceTime 0 s" in printed  # said when it was submitted, not when it is too late
    training.await_steps(1)
    preemptor = training.cluster.preempt(training.job_id)
    training.cluster.wait_for(training.job_id, lambda job: int(job["Restarts"]) == 1 and job["JobState"] == "PENDING")
    training.cluster.cancel(preemptor)
    assert training.await_end() == "COMPLETED"
    training.check_like(reference, ["preempted", "completed"])
    assert training.ends[1]["resumed_step"] >= 10


def test_an_administrators_requeue_a_killed_and_a_stopped_rank(cluster, sample, runs, reference):
    training = Training(cluster, sample, runs, "killed", STEPS, "engine.hang_limit_s=10").submit()
    training.await_steps(1)
    training.cluster.run("scontrol", "requeue", training.job_id)
    training.await_steps(2)
    training.signal_rank(1, signal.SIGKILL)
    training.await_steps(3)
    training.signal_rank(0, signal.SIGKILL)
    training.await_steps(4)
    training.signal_rank(1, signal.SIGSTOP)
    assert training.await_end() == "COMPLETED"
    training.check_like(reference, ["preempted", "crashed", "crashed", "crashed", "completed"])
    messages = [end["message"] for end in training.ends[1:4]]
    phase = "'(step|save|validate|draw)\\b"  # of training, and the rest of a step is the most likely one
    assert re.search(f"rank 1 on node2 died in {phase}", messages[0])
    assert re.search(f"rank 0 on node1 died in {phase}", messages[1])
    assert re.search(f"rank 1 on node2 hung in {phase}", messages[2])
    assert "stopped by a signal" in messages[2]


def test_a_lost_node(training, reference):
    training.submit()
    training.await_steps(1)
    training.cluster.power_cut("node2")
    training.await_steps(2)
    training.cluster.power_on("node2")
    assert training.await_end() == "COMPLETED"
    training.check_like(reference, ["node_failure", "completed"])


def test_a_cancelled_job_never_comes_back(training):
    training.submit()
    training.await_steps(1)
    training.cluster.cancel(training.job_id)
    assert training.await_end().startswith("CANCELLED")
    assert [end["cause"] for end in training.ends] == ["cancelled"]
    assert training.ends[0]["last_committed_step"] >= 12
    assert len(training.starts) == 1


def test_a_job_that_dies_at_every_start_ends_after_three(training):
    training.submit()
    for attempt in (1, 2, 3):
        training.cluster.wait_for(training.job_id, lambda job, n=attempt: int(job["Restarts"]) == n - 1, 90)
        training.signal_rank(0, signal.SIGKILL)
    assert training.await_end() == "FAILED"
    assert "not requeued" in "".join(path.read_text() for path in training.run.logs.glob("*.out"))


def test_preemption_on_a_cluster_that_sends_the_user_signal(sample, runs, reference):
    """With preempt_send_user_signal Slurm sends USR2 first, and TERM only when the grace is over."""
    with SlurmCluster(2, preempt_send_user_signal=True) as cluster:
        training = Training(cluster, sample, runs, "user-signal", STEPS).submit("--partition", "low")
        training.await_steps(1)
        preemptor = cluster.preempt(training.job_id)
        cluster.wait_for(training.job_id, lambda job: int(job["Restarts"]) == 1 and job["JobState"] == "PENDING")
        cluster.cancel(preemptor)
        assert training.await_end() == "COMPLETED"
    training.check_like(reference, ["preempted", "completed"])
    first, second = training.ends
    assert second["resumed_step"] == first["last_committed_step"] == training.steps_of_attempt(1)


@pytest.mark.soak
def test_a_job_preempted_ten_times_is_still_alive(training, reference):
    training.submit("--partition", "abrupt")
    for attempt in range(1, 11):
        training.await_steps(attempt, steps=2)
        preemptor = training.cluster.preempt(training.job_id)
        training.cluster.wait_for(training.job_id, lambda job, n=attempt: int(job["Restarts"]) == n)
        training.cluster.cancel(preemptor)
    assert training.await_end(600) == "COMPLETED"
    training.check_like(reference, [*["preempted"] * 10, "completed"])
