"""The cluster is what the tests of jetmae believe it to be: real machines, real signals, and gone when it should be."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import processes
from tests.cluster.conftest import clear
from tests.cluster.processes import ClusterError, descendants, is_running, wait_until
from tests.cluster.slurm_cluster import FOLDER_PREFIX, SlurmCluster
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow

# Says which start this is and, in the first, each signal that comes and when; ends at once when it runs again.
SIGNAL_REPORTER = """
import os, signal, time
def report(number, frame):
    print("got", signal.Signals(number).name, "at", time.time(), flush=True)
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, report)
restarts = os.environ.get("SLURM_RESTART_COUNT")
print("restarts:", restarts, flush=True)
while not restarts:
    signal.pause()
"""


@pytest.fixture
def reporter(tmp_path) -> Path:
    """A batch script of one task that reports signals and outlasts them, until it runs again."""
    program = tmp_path / "report.py"
    program.write_text(SIGNAL_REPORTER)
    script = tmp_path / "report.sbatch"
    script.write_text(f"#!/bin/bash\n#SBATCH --open-mode=append --signal=USR2@60\nsrun {sys.executable} {program}\n")
    return script


@pytest.fixture
def owner(tmp_path) -> Iterator[subprocess.Popen]:
    """A process that has a cluster with a running job, and does nothing."""
    command = ["sh", "-c", "srun sleep 1000 & echo $SLURM_CONF; wait"]
    words = [sys.executable, "-m", "tests.cluster", "--nodes", "1", "run", *command]
    process = subprocess.Popen(words, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_every_node_takes_a_job_and_knows_its_size(cluster):
    """Not asked of sinfo: it may show a job that has ended as long as nothing else changes on its node."""
    assert len(cluster.nodes) == 3
    assert cluster.run("srun", "--nodes=3", "--exclusive", "sh", "-c", "echo $SLURM_CPUS_ON_NODE") == "2\n2\n2"
    size = cluster.run("sinfo", "--noheader", "--partition=low", "--format=%D %c %m %G")
    assert size == "3 2 8192 gpu:2"


def test_tasks_run_on_different_machines(cluster):
    name = "hostname" if cluster.has_own_machines else "echo $SLURMD_NODENAME"
    assert set(cluster.run("srun", "--nodes=2", "sh", "-c", name).split()) == set(cluster.nodes[:2])


def test_a_job_resolves_every_node_of_its_list(cluster):
    lookup = "import socket, sys; [print(socket.gethostbyname(name)) for name in sys.argv[1:]]"
    job_id = cluster.submit("--nodes=3", shell=f'python -c "{lookup}" $(scontrol show hostnames $SLURM_JOB_NODELIST)')
    cluster.wait_for(job_id, "COMPLETED")
    addresses = cluster.output(job_id).split()
    assert len(addresses) == 3
    assert all(address.startswith("127.") for address in addresses)


def test_a_job_sees_the_gpus_it_asked_for(cluster):
    assert cluster.run("srun", "--gpus-per-node=2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES") == "0,1"
    assert cluster.run("srun", "sh", "-c", "echo GPUs: $CUDA_VISIBLE_DEVICES") == "GPUs:"


def test_more_gpus_than_a_node_has_are_refused(cluster):
    with pytest.raises(ClusterError, match="Requested node configuration is not available"):
        cluster.submit("--gpus-per-node=3", shell="true")


def test_accounting_tells_success_from_failure(cluster):
    for command, state in (("exit 0", "COMPLETED"), ("exit 3", "FAILED")):
        job_id = cluster.submit(shell=command)
        cluster.wait_for(job_id, state)
        cluster.wait_for_accounting(job_id, [state])
        code = "0:0" if state == "COMPLETED" else "3:0"
        assert cluster.accounting(job_id, "State", "ExitCode") == [[state, code]]


def test_waiting_for_a_job_that_failed_ends_at_once_with_its_output(cluster):
    job_id = cluster.submit(shell="echo the reason; exit 3")
    with pytest.raises(ClusterError, match=f"job {job_id} is FAILED for good; its output:\nthe reason"):
        cluster.wait_for(job_id, "COMPLETED")


def test_preemption_sends_term_and_requeues(cluster, reporter):
    job_id = cluster.submit(reporter)
    cluster.wait_for_output(job_id, "restarts: None")
    preemptor_id = cluster.preempt(job_id)
    began_at_s = time.time()
    output = cluster.wait_for_output(job_id, "got SIGTERM")
    assert "USR2" not in output
    assert came_at_s(output, "SIGTERM") < began_at_s + 5  # not when the grace of 8 s is over
    cluster.wait_for(preemptor_id, "RUNNING")
    cluster.cancel(preemptor_id)
    cluster.wait_for(job_id, "COMPLETED")
    assert "restarts: 1" in cluster.output(job_id)
    cluster.wait_for_accounting(job_id, ["PREEMPTED", "COMPLETED"])


def test_a_preempted_job_that_ends_within_its_grace_is_not_requeued(cluster):
    job_id = cluster.submit(shell="trap 'exit 0' TERM; srun sh -c 'echo started; exec sleep 1000' & wait")
    cluster.wait_for_output(job_id, "started")
    preemptor_id = cluster.preempt(job_id)
    assert cluster.wait_for(job_id, lambda job: job["JobState"] != "RUNNING")["Restarts"] == "0"
    cluster.cancel(job_id, preemptor_id)


def test_preemption_without_grace_takes_the_nodes_at_once(cluster):
    job_id = cluster.submit("--partition=abrupt", shell="trap '' TERM; echo started; while :; do sleep 1; done")
    cluster.wait_for_output(job_id, "started")
    preemptor_id = cluster.preempt(job_id)
    cluster.wait_for(preemptor_id, "RUNNING", timeout_s=20)
    assert cluster.state(job_id) == "PENDING"
    cluster.cancel(job_id, preemptor_id)


def test_preemption_sends_the_user_signal_where_the_cluster_says_so(reporter):
    with SlurmCluster(1, preempt_send_user_signal=True) as cluster:
        job_id = cluster.submit(reporter)
        cluster.wait_for_output(job_id, "restarts: None")
        cluster.preempt(job_id)
        output = cluster.wait_for_output(job_id, "got SIGTERM")
        assert came_at_s(output, "SIGUSR2") < came_at_s(output, "SIGTERM") - 5  # which comes when the grace is over


def came_at_s(output: str, name: str) -> float:
    """When a signal came first, as the reporter says."""
    return float(re.search(rf"got {name} at (\S+)", output)[1])


def test_a_power_cut_ends_one_machine_and_requeues_its_job_elsewhere(cluster):
    shell = "echo restarts: $SLURM_RESTART_COUNT on $(scontrol show hostnames); srun sleep 1000"
    job_id = cluster.submit("--nodes=2", "--open-mode=append", shell=shell)
    wait_until(lambda: len(_sleepers(cluster)) == 2, 20, "both tasks")
    before, node = _sleepers(cluster), cluster.nodes[1]
    cluster.power_cut(node)
    assert sum(map(is_running, before)) == 1
    output = cluster.wait_for_output(job_id, "restarts: 1 on ", timeout_s=90)
    assert node not in output.split("restarts: 1 on ")[1]
    cluster.cancel(job_id)
    cluster.power_on(node)


def test_what_a_test_leaves_is_named_and_cleared(cluster):
    job_id = cluster.submit(shell="exec sleep 1000")
    wait_until(lambda: _sleepers(cluster), 20, "the job's process")
    left = clear(cluster)
    assert left[0] == f"job {job_id}"
    assert left[1].endswith("sleep 1000")
    assert cluster.anything_left() == []


def test_daemons_listen_on_this_host_only(cluster):
    everywhere = "00000000"
    listening = [line.split()[1].split(":") for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    mine = [address for address, port in listening if int(port, 16) in cluster.ports]
    assert mine
    assert everywhere not in mine


def test_a_command_runs_in_a_cluster_of_its_own():
    words = [sys.executable, "-m", "tests.cluster", "--nodes", "1", "run", "sh", "-c", "sinfo -h -o %D; exit 7"]
    finished = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert finished.stderr == ""
    assert finished.stdout.split() == ["1"]
    assert finished.returncode == 7


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_owner_of_a_cluster(owner, signal_number):
    folder = Path(owner.stdout.readline().strip()).parent
    wait_until(lambda: "sleep" in _below_stepd(owner), 30, "the job's process")
    mine = descendants(owner.pid)
    assert {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "slurmstepd"} <= set(mine.values())
    owner.send_signal(signal_number)
    owner.wait()
    wait_until(lambda: not any(map(is_running, mine)), 10, lambda: f"the end of {mine}")
    assert folder.name.startswith(FOLDER_PREFIX)
    assert folder.exists() == (signal_number == signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_wait_returns_the_answer_that_it_has_seen():
    """Asked again, a process may be gone, and 0 in its place would be this process group."""
    answers = iter([None, 7, None])
    assert wait_until(lambda: next(answers), 10, "an answer") == 7


def test_a_missing_slurm_is_an_error_that_names_the_packages(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(processes, "SYSTEM_PATH", "/nonexistent")
    with pytest.raises(RuntimeError, match="apt-get install --no-install-recommends slurmctld slurmd slurm-client"):
        SlurmCluster().start()


def _sleepers(cluster: SlurmCluster) -> list[int]:
    return [pid for pid, command in cluster.processes_left().items() if command.split("/")[-1] == "sleep 1000"]


def _below_stepd(owner: subprocess.Popen) -> set[str]:
    """Names of what runs below every slurmstepd of an owner."""
    stepds = [pid for pid, name in descendants(owner.pid).items() if name == "slurmstepd"]
    return {name for pid in stepds for name in descendants(pid).values()}
