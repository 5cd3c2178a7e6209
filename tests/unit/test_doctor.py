"""Doctor finds what is wrong: real faults where they can be planted, otherwise the text a faulty system would print."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import h5py
import numpy as np
import pytest

from jetmae.doctor import cluster, machine, results, storage
from jetmae.doctor.dataset import check_dataset
from jetmae.doctor.job import Outcome, log_tail, read_results
from jetmae.doctor.ranks import Ask, variables_that_matter
from jetmae.doctor.verdict import Verdict, exit_code
from jetmae.files import write_json
from jetmae.slurm.cluster_facts import (
    ClusterFacts,
    gpus_of,
    mebibytes_of,
    minutes_of,
    parse_config,
    parse_records,
    seconds_of,
)
from tests.conftest import PROJECT
from tests.unit.test_shards import random_images, write_dataset

CONFIG = """\
Configuration data as of 2026-11-23T15:43:19
AccountingStorageEnforce = associations,limits
JobRequeue              = 1
KillWait                = 30 sec
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
PreemptParameters       = (null)
SlurmctldParameters     = (null)
SlurmUser               = root(0)

Slurmctld(primary) at vm is UP
"""
PARTITION = (
    "PartitionName=low AllowGroups=ALL AllowAccounts=physics AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A"
    " GraceTime=8 Hidden=NO MaxNodes=2 MaxTime=1-12:00:00 MinNodes=0 Nodes=node[1-3] PreemptMode=REQUEUE State=UP"
    " TotalCPUs=6 TotalNodes=3 TRES=cpu=6,mem=24G,node=3,billing=6,gres/gpu=6"
)
NODE = (
    "NodeName=node1 Arch=x86_64 CPUEfctv=2 CPUTot=2 CPULoad=2.38 Gres=gpu:a100:2(S:0-1) NodeHostName=node1"
    " OS=Linux 6.18 #1 SMP PREEMPT_DYNAMIC @0  RealMemory=8192 State=IDLE ThreadsPerCore=1 Partitions=low,high "
)
NORMAL_QOS = {"name": "normal", "maxwall": "02:00:00", "gracetime": "00:00:30", "preemptmode": "cluster"}


def facts(**config: str) -> ClusterFacts:
    partition = parse_records(PARTITION)[0]
    return ClusterFacts(
        config={**parse_config(CONFIG), **config},
        partitions={"low": partition},
        nodes=[*parse_records(NODE), *parse_records(NODE.replace("node1", "node2"))],
        qos={"normal": NORMAL_QOS},
        accounts={"physics"},
    )


def partition(**changes: str) -> dict[str, str]:
    return {**facts().partitions["low"], **changes}


def levels(verdicts) -> dict[str, str]:
    return {verdict.name: verdict.level for verdict in verdicts}


# ---- what Slurm prints


def test_configuration_is_read_line_by_line():
    config = parse_config(CONFIG)
    assert config["SlurmUser"] == "root(0)"
    assert config["KillWait"] == "30 sec"


def test_a_record_keeps_values_with_blanks_and_equal_signs():
    assert parse_records(NODE)[0]["OS"] == "Linux 6.18 #1 SMP PREEMPT_DYNAMIC @0"
    assert parse_records(PARTITION)[0]["TRES"] == "cpu=6,mem=24G,node=3,billing=6,gres/gpu=6"


@pytest.mark.parametrize(
    ("limit", "expected_min"),
    [
        ("UNLIMITED", None),
        ("90", 90),
        ("90:30", 90.5),
        ("01:30:00", 90),
        ("1-12:00:00", 2160),
        ("2-12", 3600),
        ("", None),
    ],
)
def test_time_limits_in_minutes(limit, expected_min):
    assert minutes_of(limit) == expected_min


@pytest.mark.parametrize(
    ("gres", "expected"),
    [("gpu:2", 2), ("gpu:a100:4(S:0-1)", 4), ("gpu:a100:2(S:0,2),gpu:t4:1,shard:8", 3), ("gpu", 1), ("(null)", 0),
     ("shard:gpu:4", 0)],
)  # fmt: skip
def test_gpus_of_a_node(gres, expected):
    assert gpus_of(gres) == expected


def test_other_amounts():
    assert [seconds_of(text) for text in ("30 sec", "8", "00:01:30", "")] == [30, 8, 90, 0]
    assert [mebibytes_of(text) for text in ("64G", "512", "1T", None)] == [65536, 512, 2**20, None]


# ---- the request against the cluster


def test_a_request_that_fits_has_no_fault():
    request = cluster.Request(nodes=2, tasks_per_node=2, gpus_per_node=2, account="physics")
    verdicts = list(cluster.check_cluster(request, facts(), save_s=1.0))
    assert set(levels(verdicts).values()) == {"ok"}
    assert exit_code(verdicts) == 0


@pytest.mark.parametrize(
    ("changes", "name", "level"),
    [
        ({"partition": "lwo"}, "partition lwo", "FAILED"),
        ({"time_min": 3000}, "time in low", "FAILED"),
        ({"nodes": 3}, "nodes of low", "FAILED"),
        ({"cpus_per_task": 4}, "nodes of low", "FAILED"),
        ({"memory_mib": 9000}, "nodes of low", "FAILED"),
        ({"gpus_per_node": 3, "tasks_per_node": 3}, "GPUs of low", "FAILED"),
        ({"gpus_per_node": 1, "tasks_per_node": 2}, "GPUs of low", "FAILED"),
        ({"gpus_per_node": 2, "tasks_per_node": 1}, "GPUs of low", "warning"),
        ({"account": "chemistry"}, "account", "FAILED"),
        ({"account": "chemistry"}, "access to low", "FAILED"),
        ({"qos": "premium"}, "QOS", "FAILED"),
        ({"qos": "normal", "time_min": 180}, "QOS", "FAILED"),
        ({"time_min": 3}, "lead time", "FAILED"),
        ({"lead_time_s": 4}, "lead time", "warning"),
    ],
)
def test_a_request_that_does_not_fit(changes, name, level):
    request = cluster.Request(**{"account": "physics", **changes})
    verdicts = {verdict.name: verdict for verdict in cluster.check_cluster(request, facts(), save_s=2.0)}
    assert verdicts[name].level == level
    assert verdicts[name].meaning
    assert verdicts[name].todo


def test_a_misspelt_partition_is_suggested():
    assert "'low'" in cluster.unknown_partition("lwo", facts()).todo


def test_more_nodes_than_the_partition_gives_to_one_job():
    assert cluster.check_nodes(cluster.Request(nodes=3), partition(), facts().nodes * 2).todo == "--nodes 2"


def test_nodes_that_are_away_are_a_wait_not_a_refusal():
    away = [{**node, "State": "IDLE+DRAIN"} for node in facts().nodes]
    assert cluster.check_nodes(cluster.Request(), partition(), away).level == "warning"


@pytest.mark.parametrize(
    ("changes", "config", "level"),
    [
        ({}, {}, "ok"),
        ({"PreemptMode": "CANCEL"}, {}, "warning"),
        ({"PreemptMode": "GANG,SUSPEND"}, {}, "warning"),
        ({"PreemptMode": "OFF"}, {}, "ok"),
        ({"PreemptMode": "CANCEL"}, {"PreemptType": "preempt/none"}, "ok"),
    ],
)
def test_what_a_preemption_does_to_a_job(changes, config, level):
    assert cluster.check_preemption(partition(**changes), facts(**config), None).level == level


@pytest.mark.parametrize(("grace", "save_s", "level"), [("0", 1, "warning"), ("8", 1, "ok"), ("8", 7, "warning")])
def test_grace_time_against_the_time_of_a_save(grace, save_s, level):
    verdict = cluster.check_grace(partition(GraceTime=grace), facts(), None, save_s)
    assert verdict.level == level
    assert ("KILL after 30 s" in verdict.meaning) == (grace == "0")


def test_grace_time_of_the_qos_counts_where_qos_preempts():
    by_qos = facts(PreemptType="preempt/qos")
    assert cluster.grace_s(partition(), by_qos, NORMAL_QOS) == 30
    assert cluster.preempt_mode(partition(), by_qos, {**NORMAL_QOS, "preemptmode": "cancel"}) == "CANCEL"


@pytest.mark.parametrize("key", ["SlurmctldParameters", "PreemptParameters"])
def test_either_spelling_of_the_preemption_signal_is_seen(key):
    option = {
        "SlurmctldParameters": "idle_on_node_suspend,preempt_send_user_signal",
        "PreemptParameters": "send_user_signal",
    }
    assert "USR2" in cluster.check_user_signal({key: option[key]}).meaning
    assert "TERM" in cluster.check_user_signal({key: "(null)"}).meaning


def test_a_cluster_that_does_not_requeue_by_itself():
    assert cluster.check_requeue({"JobRequeue": "0"}).level == "warning"


def test_the_reason_of_a_refusal_is_found_among_sbatchs_lines():
    message = "sbatch: error: lua: no account\nallocation failure: Invalid account\n"
    assert cluster.check_submission(1, message) == Verdict(
        "sbatch --test-only",
        "FAILED",
        "allocation failure: Invalid account",
        "sbatch refuses the job as it is asked for",
        "see the lines above",
    )


# ---- the machine


def test_an_old_python_is_refused():
    assert machine.check_python((3, 9)).level == "FAILED"


def test_a_module_that_is_missing_or_ends_its_process(tmp_path, monkeypatch):
    (tmp_path / "ends_its_process.py").write_text("import os; os._exit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert machine.check_import("ends_its_process").found == "exit code 3"
    assert "No module named 'no_such_module'" in machine.check_import("no_such_module").found


def test_a_command_that_is_not_on_the_path(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert machine.check_command("scontrol").level == "FAILED"
    assert machine.check_command("sacct").level == "warning"
    assert machine.check_controller(None).level == "FAILED"


def test_a_controller_that_is_down():
    assert machine.check_controller("Slurmctld(primary) at vm is DOWN").level == "FAILED"


@pytest.mark.parametrize(("size_mib", "level"), [(None, "FAILED"), (16, "FAILED"), (1024, "ok")])
def test_shared_memory(size_mib, level):
    assert machine.check_shared_memory(size_mib).level == level


def test_hdf5_needs_locks_or_to_be_told_that_there_are_none():
    assert machine.check_hdf5_locking("not set", locks_work=False).level == "warning"
    assert machine.check_hdf5_locking("FALSE", locks_work=False).level == "ok"


# ---- storage, on file systems that are mounted for the purpose


def verdicts_on_a_mount(tmp_path, options: str, *, checkpoint_bytes: int = 2**20) -> dict[str, dict]:
    """check_storage and measure_save on a fresh tmpfs, in a mount namespace that ends with the process."""
    code = f"""
import json, sys
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from jetmae.doctor import storage
folder, size = Path(sys.argv[1]), {checkpoint_bytes}
verdicts = list(storage.check_storage(folder, checkpoint_bytes=size, num_checkpoints=2, nodes=2, ranks=4))
if len(verdicts) > 1:
    verdicts.append(storage.measure_save(folder, size)[0])
print(json.dumps([asdict(verdict) for verdict in verdicts]))
"""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    mount = 'mount -t tmpfs -o "$1" tmpfs "$2" && exec "$3" -c "$4" "$2"'
    command = ["unshare", "--mount", *as_root, "sh", "-c", mount, "sh", options, tmp_path, sys.executable, code]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return {verdict["name"]: verdict for verdict in json.loads(finished.stdout)}


def test_a_file_system_in_memory_works_and_is_warned_of(tmp_path):
    verdicts = verdicts_on_a_mount(tmp_path, "size=64m")
    assert verdicts["shared storage"]["level"] == "warning"
    assert "tmpfs" in verdicts["shared storage"]["found"]
    assert "memory" in verdicts["shared storage"]["meaning"]
    assert {verdict["level"] for name, verdict in verdicts.items() if name != "shared storage"} == {"ok"}


def test_a_full_disk_and_no_room_for_checkpoints(tmp_path):
    verdicts = verdicts_on_a_mount(tmp_path, "size=1m", checkpoint_bytes=2**24)
    assert verdicts["write speed"]["found"] == os.strerror(errno.ENOSPC)
    assert verdicts["space"]["level"] == "FAILED"


def test_too_few_inodes(tmp_path):
    assert verdicts_on_a_mount(tmp_path, "size=64m,nr_inodes=16")["inodes"]["level"] == "FAILED"


def test_a_read_only_run_folder_ends_the_checks_of_storage(tmp_path):
    verdicts = verdicts_on_a_mount(tmp_path, "ro")
    assert list(verdicts) == ["write"]
    assert verdicts["write"]["found"] == os.strerror(errno.EROFS)


def test_storage_checks_leave_nothing_behind(tmp_path):
    list(storage.check_storage(tmp_path, checkpoint_bytes=1, num_checkpoints=2, nodes=1, ranks=1))
    storage.measure_save(tmp_path, 2**20)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """A mock: no file system of this machine refuses flock, as Lustre does when mounted without it."""

    def refuse(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not storage.flock_works(tmp_path)


def test_a_file_system_whose_locks_exclude_nobody(tmp_path, monkeypatch):
    """A mock, as above: locks that every node gives by itself."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert not storage.flock_works(tmp_path)


def test_a_storage_clock_that_is_off():
    """Given times: nothing here can change one clock alone."""
    assert storage.check_clock(1000.0, 1000.4).level == "ok"
    assert storage.check_clock(1090.0, 1000.0).found == "90 s ahead of this host's"


def test_the_file_system_of_a_folder_is_the_innermost_mount(tmp_path):
    table = "27 1 254:0 / / rw - ext4 /dev/vda rw\n30 27 0:25 / /scratch\\040big rw shared:1 - lustre host:/a rw\n"
    inside = tmp_path.__class__("/scratch big/me")
    assert storage.file_system_of(inside, table) == ("lustre", "/scratch big")
    assert storage.file_system_of(tmp_path, table) == ("ext4", "/")
    assert storage.check_sharing(inside, "lustre", "/scratch big", nodes=2).level == "ok"
    assert storage.check_sharing(tmp_path, "ext4", "/", nodes=2).level == "warning"


# ---- data


@pytest.fixture
def data(tmp_path):
    write_dataset(tmp_path, random_images(6), label=np.array([0, 1, 0, 1, 0, 1]))
    return tmp_path


def test_whole_data(data):
    assert levels(check_dataset(data)) == {"data": "ok", "data train": "ok"}


def test_no_data(tmp_path):
    (verdict,) = check_dataset(tmp_path)
    assert verdict.level == "FAILED"
    assert "data convert" in verdict.todo


def test_a_truncated_shard(data):
    shard = data / "train-00000.h5"
    os.truncate(shard, shard.stat().st_size - 100)
    verdict = list(check_dataset(data))[1]
    assert "truncated" in verdict.found
    assert verdict.todo == "restore it from a copy, or convert again"


def test_a_changed_shard(data):
    with h5py.File(data / "train-00000.h5", "a") as file:
        file["count"][0] += 1
    assert "not as it was written" in list(check_dataset(data))[1].found


def test_a_label_of_no_class(tmp_path):
    write_dataset(tmp_path, random_images(6), label=np.array([0, 7, 0, 1, 0, 1]))
    assert "label 7" in list(check_dataset(tmp_path))[1].found


# ---- what the ranks wrote

ASKED = Ask(ranks=4, gpus_per_node=2, checkpoint_bytes=2**20, wait_s=10, data="data")
HEALTHY = {
    "missing_variables": [],
    "world_size": 4,
    "visible_gpus": 2,
    "versions": {"python": "3.11.7", "jetmae": "0.1.0"},
    "code": "abc",
    "shared_memory_mib": 1024.0,
    "data": "0123",
    "variables_missing": [],
    "scontrol": True,
    "addresses": {"node1": {"address": "10.0.0.1"}, "node2": {"address": "10.0.0.2"}},
    "device": "cuda",
    "device_name": "A100",
    "backend": "nccl",
    "rendezvous_s": 1.0,
    "clock_s": 1000.0,
    "reduce_gb_per_s": 20.0,
    "tflops": 250.0,
    "names_created": results.NAMES / 4,
    "save_s": 3.0,
    "stage": "done",
}


def outcome(changes: dict[int, dict | None]) -> Outcome:
    """Four ranks on two nodes, healthy but for the changes; None: the rank never came."""
    found = {}
    for rank in range(4):
        place = {"rank": rank, "local_rank": rank % 2, "node": f"node{1 + rank // 2}", "device_id": f"uuid-{rank}"}
        if changes.get(rank, {}) is not None:
            found[rank] = {**HEALTHY, **place, **changes.get(rank, {})}
    return Outcome("COMPLETED", "None", found, ["node1", "node1", "node2", "node2"], {2: "Killed"})


def judged(changes: dict[int, dict | None]) -> dict[str, Verdict]:
    return {verdict.name: verdict for verdict in results.judge(outcome(changes), ASKED, warned_s={"lead time": 60.0})}


def test_healthy_ranks_have_no_fault():
    assert {verdict.level for verdict in judged({}).values()} == {"ok"}


@pytest.mark.parametrize(
    ("changes", "name", "level", "words"),
    [
        ({2: None}, "ranks", "FAILED", "rank 2 (node2)"),
        ({2: {"stage": "meet_others"}}, "stages", "FAILED", "first rank 2 in meet others"),
        ({3: {"missing_variables": ["SLURM_PROCID"]}}, "ranks' places", "FAILED", "SLURM_PROCID"),
        ({rank: {"world_size": 1} for rank in range(4)}, "ranks' places", "FAILED", "WORLD_SIZE 1, expected 4"),
        ({3: {"code": "abd"}}, "versions", "FAILED", "source abd on node2"),
        ({0: {"scontrol": False}}, "scontrol in the job", "FAILED", "node1"),
        (
            {0: {"addresses": {"node2": {"error": "Name or service not known"}}}},
            "host names",
            "FAILED",
            "node1 -> node2",
        ),
        (
            {0: {"addresses": {"node1": {"address": "127.0.1.1"}, "node2": {"address": "10.0.0.2"}}}},
            "host names",
            "warning",
            "node1 -> itself (127.0.1.1)",
        ),
        (
            {3: {"addresses": {"node1": {"address": "::1"}, "node2": {"address": "10.0.0.2"}}}},
            "host names",
            "warning",
            "node2 -> node1 (::1)",
        ),
        ({1: {"visible_gpus": 0}}, "GPU per rank", "FAILED", "rank 1 on node1 is number 1 and sees 0"),
        ({3: {"device_id": "uuid-2"}}, "GPU per rank", "FAILED", "uuid-2 on node2"),
        ({3: {"device_error": "driver too old"}}, "GPUs in torch", "FAILED", "driver too old"),
        ({2: {"clock_s": 940.0}}, "clocks", "warning", "60 s behind"),
        ({2: {"tflops": 150.0}}, "speed of A100", "warning", "rank 2 on node2 150"),
        ({2: {"names_created": results.NAMES}}, "lease across nodes", "FAILED", "20 names were created 35"),
        ({2: {"save_s": 90.0}}, "save time", "warning", "rank 2 on node2"),
        ({3: {"shared_memory_mib": None}}, "/dev/shm on nodes", "FAILED", "missing"),
        ({3: {"data": "4567"}}, "data on nodes", "FAILED", "2 different datasets"),
        ({2: {"reduce_gb_per_s": 0.1}}, "all-reduce", "warning", "0.10 GB/s"),
        ({2: {"rendezvous_s": 90.0}}, "rendezvous", "warning", "90.0 s"),
    ],
)
def test_a_rank_that_is_not_healthy(changes, name, level, words):
    verdict = judged(changes)[name]
    assert verdict.level == level
    assert words in verdict.found
    assert verdict.meaning
    assert verdict.todo


def test_a_gpu_per_task_is_one_of_its_own():
    own = {rank: {"visible_gpus": 1} for rank in range(4)}
    assert judged(own)["GPU per rank"].level == "ok"
    one_for_two = Ask(ranks=4, gpus_per_node=1, checkpoint_bytes=2**20, wait_s=10, data="data")
    verdicts = {one.name: one for one in results.judge(outcome(own), one_for_two, warned_s={})}
    assert verdicts["GPU per rank"].found.startswith("rank 1 on node1 is number 1 and sees 1")


def test_nodes_of_one_machine_share_its_loopback():
    everywhere = {node: {"address": "127.0.0.1"} for node in ("node1", "node2")}
    found = {rank: {"addresses": everywhere, "network": "boot net"} for rank in range(4)}
    assert judged(found)["host names"].level == "ok"


def test_a_rank_without_a_last_word_is_blamed_before_those_that_waited_for_it():
    came_further = {"stage": "save_together", "its": 1, "other": 2, "findings": 3}
    changes = {1: {"stage": "read_clock", "error": "peer closed"}, 2: came_further}
    verdict = judged(changes)["stages"]
    assert "first rank 2 in save together" in verdict.found
    assert verdict.meaning == "killed or hung there; last words: Killed"


def test_of_what_no_rank_has_looked_at_there_is_no_verdict():
    """Killed at once: it is not said that names resolve or versions agree."""
    found = {rank: {"rank": rank, "node": "node1", "missing_variables": [], "stage": "introduce"} for rank in range(4)}
    killed = Outcome("FAILED", "NonZeroExitCode", found, ["node1"] * 4, {})
    assert levels(results.judge(killed, ASKED, warned_s={})) == {"ranks": "ok", "stages": "FAILED"}


def test_a_job_that_never_got_nodes():
    waiting = Outcome("", "Resources", {}, [], {})
    (verdict,) = results.judge(waiting, ASKED, warned_s={})
    assert "PENDING (Resources)" in verdict.found


def test_results_and_logs_are_read_back(tmp_path):
    write_json(tmp_path / "rank-3-node-1.eu.json", {"stage": "done"})
    (tmp_path / ".rank-1-node.json.12.partial").touch()
    (tmp_path / "log").write_text("one\n\ntwo\nthree\nfour\n")
    assert read_results(tmp_path) == {3: {"stage": "done"}}
    assert log_tail(tmp_path / "log") == "two | three | four"


def test_help_imports_nothing_heavy():
    command = [sys.executable, "-X", "importtime", PROJECT / "jobs" / "doctor.py", "--help"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in finished.stderr.splitlines()}
    assert "usage" in finished.stdout
    assert not loaded & {"torch", "numpy", "pydantic", "h5py", "rich", "submitit"}


def test_the_verdict_decides_the_exit_code():
    fine, bad = judged({}).values(), judged({2: None}).values()
    assert exit_code(fine) == 0
    assert exit_code(bad) == 78
    assert asdict(replace(next(iter(bad)), todo=""))["level"] == "FAILED"


def test_an_environment_that_does_not_reach_the_ranks_is_named():
    assert results.check_variables({0: {**HEALTHY, "node": "node1"}}).level == "ok"
    lost = results.check_variables(
        {0: {**HEALTHY, "node": "node1", "variables_missing": ["NCCL_SOCKET_IFNAME", "HDF5_X"]}}
    )
    assert lost.level == "FAILED"
    assert lost.found.startswith("HDF5_X, NCCL_SOCKET_IFNAME not set on ")
    assert "--export=NONE" in lost.meaning


def test_what_matters_of_an_environment():
    shell = {"NCCL_DEBUG": "INFO", "PATH": "/bin", "HDF5_USE_FILE_LOCKING": "FALSE", "EDITOR": "vi", "PYTHONPATH": "x"}
    assert variables_that_matter(shell) == ("HDF5_USE_FILE_LOCKING", "NCCL_DEBUG", "PYTHONPATH")
