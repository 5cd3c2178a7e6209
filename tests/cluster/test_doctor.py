"""Doctor on a real cluster: a healthy one, and one whose partitions, nodes and ranks are really broken."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path

import pytest

from jetmae.doctor import cluster as checks
from jetmae.doctor import examination, machine, results
from jetmae.doctor.examination import Examination, examine_job
from jetmae.doctor.job import Outcome, read_results
from jetmae.doctor.ranks import Ask, ranks_listed
from jetmae.doctor.verdict import Verdict
from jetmae.launch import submission
from jetmae.launch.resources import Resources, request_of
from jetmae.slurm.cluster_facts import ask_cluster
from tests.cluster.processes import descendants, wait_until
from tests.conftest import type_command

pytestmark = pytest.mark.slow

# A rank on one core, at a low priority: whoever else is on that core makes it slow. torch is imported before.
HANDICAPPED_RANK = """
import os, runpy, sys, torch
os.sched_setaffinity(0, {int(sys.argv[2])})
os.nice(int(sys.argv[3]))
runpy.run_module("jetmae.doctor.ranks", run_name="__main__")
"""


@pytest.fixture
def on_cluster(cluster, monkeypatch):
    """This process's Slurm commands speak to the cluster."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


# ---- the whole command


def test_a_healthy_cluster_has_no_fault(cluster, tmp_path):
    """One job, as a user would type it; the speed of a CPU that others use too is not judged."""
    words = ("--json", "--job", "--nodes", 3, "--million-parameters", 1, "--runs-dir", tmp_path / "runs")
    finished = type_command("doctor.py", *words, **cluster.environment)
    verdicts = {line["name"]: line for line in map(json.loads, finished.stdout.splitlines())}
    assert finished.returncode == 0, finished.stdout + finished.stderr
    not_ok = {name for name, verdict in verdicts.items() if verdict["level"] != "ok"}
    assert not_ok <= {"shared storage", "speed of cpu"}
    assert verdicts["ranks"]["found"] == "all 3 came, job COMPLETED"
    assert verdicts["rendezvous"]["found"].startswith("3 ranks over gloo")
    assert verdicts["host names"]["found"] == "3 node(s) find each other"
    for measured in ("all-reduce", "speed of cpu", "clocks", "lease across nodes", "save time", "sbatch --test-only"):
        assert measured in verdicts
    assert list((tmp_path / "runs").iterdir()) == []


# ---- faults of the configuration


def configuration_verdicts(save_s: float | None = 1.0, **asked: object) -> dict[str, Verdict]:
    request = request_of(Resources(**asked))
    return {verdict.name: verdict for verdict in checks.check_cluster(request, ask_cluster(), save_s)}


@contextmanager
def changed(cluster, words: str, undo: str) -> Iterator[None]:
    """`scontrol update` and back."""
    cluster.run("scontrol", "update", *words.split())
    try:
        yield
    finally:
        cluster.run("scontrol", "update", *undo.split())


def test_a_misspelt_partition(on_cluster):
    verdict = configuration_verdicts(partition="abrubt")["partition abrubt"]
    assert (verdict.level, verdict.todo) == ("FAILED", "did you mean 'abrupt'?")


@pytest.mark.parametrize(
    ("words", "undo", "asked", "name", "level"),
    [
        ("State=DOWN", "State=UP", {}, "partition high", "FAILED"),
        ("MaxTime=10", "MaxTime=UNLIMITED", {"time_min": 60}, "time in high", "FAILED"),
        ("MaxNodes=1", "MaxNodes=UNLIMITED", {"nodes": 2}, "nodes of high", "FAILED"),
        ("AllowQos=urgent", "AllowQos=ALL", {"qos": "normal"}, "access to high", "FAILED"),
    ],
)
def test_a_partition_that_does_not_admit_the_job(on_cluster, words, undo, asked, name, level):
    with changed(on_cluster, f"PartitionName=high {words}", f"PartitionName=high {undo}"):
        assert configuration_verdicts(partition="high", **asked)[name].level == level
    assert configuration_verdicts(partition="high", **asked)[name].level == "ok"


def test_a_node_that_is_drained(on_cluster):
    with changed(on_cluster, "NodeName=node3 State=DRAIN Reason=test", "NodeName=node3 State=RESUME"):
        assert "2 of these up" in configuration_verdicts(nodes=3)["nodes of low"].found


def test_more_gpus_than_a_node_has_and_slurm_agrees(on_cluster, tmp_path):
    asked = Resources(gpus_per_node=3)
    assert configuration_verdicts(gpus_per_node=3)["GPUs of low"].level == "FAILED"
    refused = checks.check_submission(*checks.ask_sbatch(submission.script([tmp_path], asked, name="doctor")))
    assert refused.level == "FAILED"
    assert "not available" in refused.found


def test_grace_time_is_none_or_shorter_than_a_save(on_cluster):
    assert configuration_verdicts(partition="abrupt")["grace in abrupt"].level == "warning"
    assert configuration_verdicts(partition="low", save_s=7.0)["grace in low"].level == "warning"
    assert configuration_verdicts(partition="low", save_s=1.0)["grace in low"].level == "ok"


def test_a_qos_that_does_not_exist(on_cluster):
    assert configuration_verdicts(qos="premium")["QOS"].level == "FAILED"


def test_a_controller_that_does_not_answer(on_cluster, monkeypatch, tmp_path):
    (tmp_path / "slurm.conf").write_text("ClusterName=none\nSlurmctldHost=localhost\nSlurmctldPort=9\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    assert machine.check_controller(machine.ask("scontrol", "ping")).level == "FAILED"


# ---- faults of nodes: each is a machine with mounts of its own


@contextmanager
def hidden(cluster, node: str, place: Path, *, behind: Path | None = None, size: str = "16m") -> Iterator[None]:
    """On one node something else lies at a place: a file, or (None) an empty file system in memory."""
    assert cluster.has_own_machines, "this test has to mount file systems, as root"
    first_process = next(iter(descendants(cluster._machines[node].pid)))
    enter = ("nsenter", "--mount", "--pid", f"--target={first_process}")
    source = ("-t", "tmpfs", "-o", f"size={size}", "tmpfs") if behind is None else ("--bind", str(behind))
    cluster.run(*enter, "mount", *source, str(place))
    try:
        yield
    finally:
        cluster.run(*enter, "umount", "--lazy", str(place))


def examined_job(
    cluster, runs: Path, *, data: Path | None = None, wait_min: float = 2.0, **asked: object
) -> dict[str, Verdict]:
    resources = Resources(**asked)
    examination = Examination(runs, resources, 16_000_000, 2, data=data, submits_job=True, job_wait_s=60 * wait_min)
    found = examine_job(examination, resources, {"lead time": 120.0})
    return {verdict.name: verdict for verdict in found}


def test_every_fault_of_two_nodes_is_found_in_one_job(on_cluster, tmp_path):
    """One node lacks much, and both have fewer GPUs than ranks.

    scontrol and the data are gone from it, it has an older jetmae, little shared memory, and a name that the other
    cannot resolve.
    """
    metadata = Path(str(distribution("jetmae")._path)) / "METADATA"
    scontrol = Path(on_cluster.run("which", "scontrol")).resolve()
    for name, content in (("empty", ""), ("hosts", "127.0.0.1 localhost node1\n")):
        (tmp_path / name).write_text(content)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").touch()
    (tmp_path / "METADATA").write_text(metadata.read_text().replace("\nVersion: ", "\nVersion: 0.0.0+old.", 1))
    with (
        hidden(on_cluster, "node2", scontrol, behind=tmp_path / "empty"),
        hidden(on_cluster, "node2", metadata, behind=tmp_path / "METADATA"),
        hidden(on_cluster, "node2", tmp_path / "data"),
        hidden(on_cluster, "node2", Path("/dev/shm"), size="1m"),
        hidden(on_cluster, "node1", Path("/etc/hosts"), behind=tmp_path / "hosts"),
    ):
        asked = {"nodes": 2, "ranks_per_node": 2, "gpus_per_node": 1}
        verdicts = examined_job(on_cluster, tmp_path / "runs", data=tmp_path / "data", **asked)
    assert verdicts["ranks"].level == "ok"
    assert "0.0.0+old" in verdicts["versions"].found
    assert verdicts["scontrol in the job"].found == "not on node2"
    assert "node1 -> node2" in verdicts["host names"].found
    assert "node2 -> node1" not in verdicts["host names"].found
    assert verdicts["data on nodes"].found == "not on node2 (No such file or directory)"
    assert verdicts["/dev/shm on nodes"].found == "1 MiB"
    assert "rank 1 on node1 is number 1 and sees 1; rank 3 on node2" in verdicts["GPU per rank"].found
    assert "torch finds no GPU" in verdicts["GPUs in torch"].found


def test_a_node_that_does_not_see_the_run_folder(on_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(examination, "JOB_WAIT_S", 5.0)  # for the rank that cannot come
    with hidden(on_cluster, "node2", tmp_path):
        verdicts = examined_job(on_cluster, tmp_path, nodes=2)
    assert verdicts["ranks"].level == "FAILED"
    assert "rank 1 (node2)" in verdicts["ranks"].found
    assert "does not see the run folder" in verdicts["ranks"].meaning


def test_a_job_that_does_not_start_is_cancelled_and_says_what_it_waited_for(on_cluster, tmp_path):
    with changed(on_cluster, "PartitionName=high State=DOWN", "PartitionName=high State=UP"):
        verdicts = examined_job(on_cluster, tmp_path, partition="high", wait_min=0.03)
        assert "PENDING (PartitionDown)" in verdicts["ranks"].found
        assert list(verdicts) == ["ranks"]
        wait_until(lambda: not on_cluster.jobs_left(), 10, "the end of the job")


# ---- faults of ranks, as processes of this machine


@contextmanager
def started_ranks(folder: Path, ranks: dict[int, list[str]], *, size: int, wait_s: float) -> Iterator[dict]:
    """Ranks as srun would start them; each with what comes behind `python`."""
    Ask(ranks=size, gpus_per_node=0, checkpoint_bytes=2**20, wait_s=wait_s).write(folder)
    common = {**os.environ, "WORLD_SIZE": str(size), "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}
    processes = {
        rank: subprocess.Popen([sys.executable, *words], env={**common, "RANK": str(rank)}, stdout=subprocess.DEVNULL)
        for rank, words in ranks.items()
    }
    try:
        yield processes
        for process in processes.values():
            process.wait(90)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def verdicts_of(folder: Path, size: int) -> dict[str, Verdict]:
    asked = Ask(ranks=size, gpus_per_node=0, checkpoint_bytes=2**20, wait_s=0)
    outcome = Outcome("COMPLETED", "None", read_results(folder), [f"node{rank + 1}" for rank in range(size)], {})
    return {verdict.name: verdict for verdict in results.judge(outcome, asked, warned_s={})}


def test_a_rank_that_never_comes(tmp_path):
    plain = ["-m", "jetmae.doctor.ranks", str(tmp_path)]
    with started_ranks(tmp_path, {0: plain, 2: plain}, size=3, wait_s=2):
        pass
    verdicts = verdicts_of(tmp_path, 3)
    assert "1 of 3 missing: rank 1 (node2)" in verdicts["ranks"].found
    assert "no sign of rank(s) 1" in verdicts["stages"].meaning


def test_a_rank_that_is_killed_on_the_way(tmp_path):
    plain = ["-m", "jetmae.doctor.ranks", str(tmp_path)]
    with started_ranks(tmp_path, {0: plain, 1: plain}, size=2, wait_s=4) as processes:
        wait_until(lambda: 1 in ranks_listed(tmp_path), 30, "rank 1's first words")
        processes[1].send_signal(signal.SIGKILL)
    verdict = verdicts_of(tmp_path, 2)["stages"]
    assert verdict.level == "FAILED"
    assert "first rank 1 in" in verdict.found


def test_a_slow_device(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    crowded, free = str(cores[0]), str(cores[-1])
    rank = ["-c", HANDICAPPED_RANK, str(tmp_path)]
    ranks = {0: [*rank, crowded, "0"], 1: [*rank, free, "0"], 2: [*rank, crowded, "15"]}
    with started_ranks(tmp_path, ranks, size=3, wait_s=60):
        pass
    verdict = verdicts_of(tmp_path, 3)["speed of cpu"]
    assert verdict.level == "warning"
    assert "rank 2 on" in verdict.found
