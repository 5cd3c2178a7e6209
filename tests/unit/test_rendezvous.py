"""Ranks of one start find each other, and nobody else."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from jetmae.errors import JetmaeError, PassingFault
from jetmae.launch.train_job import slurm_rank_environment
from jetmae.runtime import rendezvous


def meet_all(folder, size: int, devices: dict[int, str] | None = None) -> list:
    def meet(rank: int):
        return rendezvous.meet(folder, rank=rank, size=size, device=(devices or {}).get(rank, "cpu"))

    with ThreadPoolExecutor(size) as ranks:
        return list(ranks.map(meet, range(size)))


def test_all_ranks_share_one_store_and_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("JETMAE_START", "7.0.0")
    first, second, third = meet_all(tmp_path, 3)
    second.set("word", "said by rank 1")
    assert first.get("word") == third.get("word") == b"said by rank 1"
    assert list(tmp_path.iterdir()) == []


def test_a_rank_of_another_start_is_not_met(tmp_path, monkeypatch):
    monkeypatch.setattr(rendezvous, "TIMEOUT_S", 0.5)
    (tmp_path / ".rendezvous-7.0.0.json").write_text('{"host": "127.0.0.1", "port": 1}')
    monkeypatch.setenv("JETMAE_START", "7.1.0")
    with pytest.raises(JetmaeError, match="rank 1 waited 0 s for rank 0 to publish"):
        rendezvous.meet(tmp_path, rank=1, size=2, device="cpu")


def test_a_missing_rank_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(rendezvous, "TIMEOUT_S", 0.5)
    with pytest.raises(JetmaeError, match=r"for rank\(s\) 1, 2 of 3"):
        rendezvous.meet(tmp_path, rank=0, size=3, device="cpu")


def test_a_node_without_its_gpu_is_named_before_the_others_wait_for_it(tmp_path):
    with pytest.raises(PassingFault, match=rf"1 of 3 ranks find no GPU, one of them on {socket.gethostname()}"):
        meet_all(tmp_path, 3, devices={0: "cuda", 2: "cuda"})


def test_slurm_tells_each_task_its_place():
    slurm = {
        "SLURM_JOB_ID": "12",
        "SLURM_RESTART_COUNT": "3",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS": "8",
        "SLURM_NNODES": "2",
        "SLURMD_NODENAME": "gpu7",
        "SLURM_CPUS_PER_TASK": "16",
    }
    environment = slurm_rank_environment(slurm)
    assert {name: environment[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")} == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
    }
    assert (environment["JETMAE_START"], environment["JETMAE_HOST"]) == ("12.3.0", "gpu7")
    assert environment["OMP_NUM_THREADS"] == "16"
    first_start_on_one_node = {**slurm, "SLURM_NNODES": "1"}
    del first_start_on_one_node["SLURM_RESTART_COUNT"]
    environment = slurm_rank_environment(first_start_on_one_node)
    assert (environment["JETMAE_START"], environment["JETMAE_HOST"]) == ("12.0.0", "127.0.0.1")
