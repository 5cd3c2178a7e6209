"""Ranks of machines whose own names mislead: they listen where peers reach them, or say in one line that none can."""

import json
from pathlib import Path

import pytest

from jetmae.errors import PassingFault
from jetmae.run_folder import RunFolder
from tests.conftest import TINY, TINY_DECODER, launch, succeed
from tests.integration.namespaces import add_interface, join_by_cable, run_rank_on_each, two_machines

pytestmark = pytest.mark.slow

DEBIAN = "127.0.1.1 {name}\n"  # what its installer writes
SETTINGS = (*TINY, *TINY_DECODER, "optim.batch_size=8", "optim.steps=3", "optim.warmup_epochs=0")
TORCH_WARNS = "[W"  # that no name server answers here
ADDRESSES = ("10.9.0.1/24", "10.9.0.2/24")


@pytest.fixture
def run(sample, tmp_path) -> RunFolder:
    """A tiny run that has not been started."""
    words = (*SETTINGS, f"data.path={sample}", "--name", "tiny", "--freeze", "--ranks-per-node", 2)
    return RunFolder(Path(succeed(launch("pretrain", *words, runs=tmp_path)).stdout.strip()))


def sums_over(folder: Path, machines: list, **environment: str) -> list[dict]:
    """What both ranks of sum_over_ranks have printed."""
    ended = run_rank_on_each(machines, "tests.integration.sum_over_ranks", folder, **environment)
    assert [rank.code for rank in ended] == [0, 0], ended
    return [json.loads(rank.output.splitlines()[-1]) for rank in ended]


def test_nodes_whose_own_name_is_loopback_train_to_the_end(run, tmp_path):
    """A bridge that both have, with the same address on each, does not lead them astray either."""
    with two_machines(tmp_path, hosts=DEBIAN) as machines:
        for machine in machines:
            add_interface(machine, "docker0", "172.17.0.1/16")
        join_by_cable(machines, "eth7", ADDRESSES)
        ended = run_rank_on_each(machines, "jetmae.rank", run.root)
    assert [rank.code for rank in ended] == [0, 0], ended
    assert run.completed.read_text() == "3\n"
    assert not list(run.root.glob(".rendezvous*"))


@pytest.mark.parametrize("hosts", ["::1 {name}\n", ""], ids=["loopback", "no name"])
def test_nodes_with_nothing_but_ipv6(tmp_path, hosts):
    with two_machines(tmp_path, hosts=hosts) as machines:
        join_by_cable(machines, "eth0", ("fd00:9::1/64", "fd00:9::2/64"))
        found = sums_over(tmp_path, machines)
    assert [rank["sum"] for rank in found] == [3, 3]
    assert [rank["interface"] for rank in found] == ["eth0", "eth0"]
    assert [f"fd00:9::{1 + number}" in rank["used"] for number, rank in enumerate(found)] == [True, True]


def test_the_interface_that_the_user_has_chosen_wins(tmp_path):
    with two_machines(tmp_path, hosts=DEBIAN) as machines:
        join_by_cable(machines, "eth0", ADDRESSES)
        join_by_cable(machines, "ib0", ("10.8.0.1/24", "10.8.0.2/24"))
        found = sums_over(tmp_path, machines, GLOO_SOCKET_IFNAME="ib0")
    assert [rank["interface"] for rank in found] == ["ib0", "ib0"]
    assert [set(rank["used"]) - {"127.0.0.1"} for rank in found] == [{"10.8.0.1"}, {"10.8.0.2"}]


def test_nodes_that_no_network_joins_say_so_in_one_line(run, tmp_path):
    """Both with the same words, and a code with which the job comes back: other nodes may be joined."""
    with two_machines(tmp_path, hosts=DEBIAN) as machines:
        for machine, address in zip(machines, ADDRESSES, strict=True):
            add_interface(machine, "eth0", address)
        ended = run_rank_on_each(machines, "jetmae.rank", run.root)
    assert [rank.code for rank in ended] == [PassingFault.exit_code] * 2, ended
    lines = [[line for line in rank.output.splitlines() if not line.startswith(TORCH_WARNS)] for rank in ended]
    assert lines[0] == lines[1]
    (line,) = lines[0]
    for part in ("rank 1 on gpu2 cannot reach rank 0 on gpu1", "10.9.0.1 (", "gpu1 in /etc/hosts"):
        assert part in line
