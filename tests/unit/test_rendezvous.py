"""Ranks of one start find each other, and nobody else."""

import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest

from jetmae.errors import JetmaeError, PassingFault
from jetmae.launch.train_job import slurm_rank_environment
from jetmae.runtime import addresses, greeting, rendezvous
from jetmae.runtime.decision import Arrival, decide


@pytest.fixture(autouse=True)
def no_chosen_interface(monkeypatch):
    """Meeting sets one, which is not to outlive the test."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)


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


def test_gloo_uses_the_interface_through_which_the_ranks_have_met(tmp_path, monkeypatch):
    monkeypatch.setenv("JETMAE_HOST", "127.0.0.1")
    meet_all(tmp_path, 2)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"


def test_an_interface_that_the_user_has_chosen_stays(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    rendezvous.use_interface_of("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"


def test_an_interface_that_is_not_there_is_said_by_all_ranks(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib7")

    def message(rank: int) -> str:
        with pytest.raises(JetmaeError, match="ib7") as raised:
            rendezvous.meet(tmp_path, rank=rank, size=2, device="cpu")
        return str(raised.value)

    with ThreadPoolExecutor(2) as ranks:
        first, second = ranks.map(message, range(2))
    assert first == second
    assert "GLOO_SOCKET_IFNAME=ib7: rank 0 on " in first


def test_a_rank_that_cannot_be_reached_is_said_by_all_ranks(tmp_path, monkeypatch):
    """Its file leads to a port behind which nobody listens, and a rank that comes later need not try."""
    monkeypatch.setattr(rendezvous, "REACH_S", 0.1)
    monkeypatch.setenv("JETMAE_START", "7.0.0")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    said = {"node": "gpu1", "addresses": ["127.0.0.1"], "port": port, "nonce": "abc", "store_port": port}
    (tmp_path / ".rendezvous-7.0.0.json").write_text(json.dumps(said))
    expected = r"rank 1 on .* cannot reach rank 0 on gpu1 .*: tried 127.0.0.1 \(Connection refused\); .*/etc/hosts"
    with pytest.raises(PassingFault, match=expected):
        rendezvous.meet(tmp_path, rank=1, size=3, device="cpu")
    (tmp_path / ".rendezvous-7.0.0.json").unlink()
    for rank in (2, 0):
        with pytest.raises(PassingFault, match=expected):
            rendezvous.meet(tmp_path, rank=rank, size=3, device="cpu")


def test_a_rank_0_that_ends_while_the_others_connect_is_said_in_one_line(tmp_path, monkeypatch):
    """It answers, and its store is gone: no error of torch reaches the user."""
    monkeypatch.setattr(rendezvous, "TIMEOUT_S", 1.0)
    with (
        greeting.greeting("gpu1", ["127.0.0.1"]) as greeter,
        closing(socket.create_server(("127.0.0.1", 0))) as free,
    ):
        port = free.getsockname()[1]
        free.close()
        said = {**vars(greeter), "store_port": port}
        (tmp_path / ".rendezvous-start.json").write_text(json.dumps(said))
        monkeypatch.delenv("JETMAE_START", raising=False)
        with pytest.raises(PassingFault, match=r"rank 1 on .* lost rank 0 while the ranks met"):
            rendezvous.meet(tmp_path, rank=1, size=2, device="cpu")


# ---- addresses


def test_another_program_at_the_same_address_and_port_is_not_rank_0():
    """It answers something else, or the same nonce of another start."""
    with greeting.greeting("gpu1", ["127.0.0.1"]) as other:
        expected = replace(other, nonce="0" * len(other.nonce))
        with pytest.raises(PassingFault, match="another program answers"):
            greeting.find_rank_0(expected, rank=1, timeout_s=0)


def test_a_silent_program_is_left_for_an_address_that_leads_there(monkeypatch):
    monkeypatch.setattr(greeting, "CONNECT_S", 0.2)
    with greeting.greeting("gpu1", ["127.0.0.1"]) as greeter:
        both = replace(greeter, addresses=["127.0.0.2", "no.such.name.invalid", "127.0.0.1"])
        with closing(socket.create_server(("127.0.0.2", greeter.port))):
            assert greeting.find_rank_0(both, rank=1, timeout_s=5) == [greeting.Route("127.0.0.1", "127.0.0.1")]


def test_what_the_user_has_chosen_is_tried_first(monkeypatch):
    local = [addresses.LocalAddress(*pair) for pair in (("lo", "127.0.0.1"), ("eth0", "10.0.0.1"), ("ib0", "10.1.0.1"))]
    monkeypatch.setattr(addresses, "local_addresses", lambda: local)
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu1")
    assert addresses.addresses_for_peers("gpu1") == ["gpu1", "10.0.0.1", "10.1.0.1"]
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib")
    assert addresses.addresses_for_peers("gpu1") == ["10.1.0.1", "gpu1", "10.0.0.1"]
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "=ib")
    assert addresses.addresses_for_peers("gpu1") == ["gpu1", "10.0.0.1", "10.1.0.1"]
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    assert addresses.addresses_for_peers("gpu1")[0] == "10.1.0.1"


def test_the_kernel_says_the_addresses_of_this_machine():
    assert addresses.LocalAddress("lo", "127.0.0.1") in addresses.local_addresses()
    assert addresses.interface_of("127.0.0.1") == "lo"
    assert addresses.interface_of("192.0.2.199") is None


# ---- what rank 0 decides

HERE = Arrival("gpu1", "boot-1 net", "cpu", None, [], ["lo"], ["lo", "eth0"], [])
THERE = replace(HERE, node="gpu2", network="boot-2 net")


def test_the_address_is_one_that_all_reach():
    """Another rank of rank 0's node also reaches 172.17.0.1, which on other nodes is another machine."""
    neighbour = replace(HERE, reached=["172.17.0.1", "10.0.0.1"])
    far = replace(THERE, reached=["10.0.0.1", "10.1.0.1"])
    assert decide([HERE, neighbour, far]).address == "10.0.0.1"


def test_loopback_is_refused_between_machines_alone():
    on_lo = [replace(HERE, gloo_interfaces=["lo"]), replace(THERE, gloo_interfaces=["lo"])]
    fault = decide(on_lo).fault
    assert fault.startswith("GLOO_SOCKET_IFNAME=lo: rank 0 on gpu1 reaches nobody through lo; expected of eth0")
    assert decide([on_lo[0], on_lo[0]]).fault is None


def test_two_ranks_on_one_gpu_are_named():
    first, second = (replace(HERE, device="cuda", gpu=f"GPU-{number}") for number in (1, 2))
    assert decide([first, second]).fault is None
    decision = decide([first, second, replace(first, node="gpu1")])
    assert decision.fault.startswith("ranks 0, 2 on gpu1 have one GPU, GPU-1: expected one for each")
    assert not decision.may_pass


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
