"""How the ranks of one start find each other, without ssh, a host list, or a port agreed beforehand.

Rank 0 listens on ports that the system gives it, so none can be occupied, and publishes them with all its addresses in
the run folder under the token of this start; the others wait for that file and try the addresses (greeting.py). A late
rank of an earlier start has another token and finds nothing.

When all have come, rank 0 decides for all (decision.py): which of its addresses the traffic of training uses, or why
nobody can go on.
"""

import json
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # not re-exported

from jetmae.errors import JetmaeError, PassingFault
from jetmae.files import write_json
from jetmae.runtime.addresses import (
    addresses_for_peers,
    chosen_for_gloo,
    interface_of,
    is_loopback,
    local_addresses,
    network_identity,
)
from jetmae.runtime.decision import Arrival, Decision, decide
from jetmae.runtime.greeting import LOCALHOST, REACH_S, Greeter, Route, find_rank_0, greeting, listen
from jetmae.runtime.world import current_gpu

TIMEOUT_S = float(os.environ.get("JETMAE_RENDEZVOUS_TIMEOUT_S", "300"))
POLL_S = 0.1
LEAVE_S = 5.0  # for all to hear why nobody goes on, before rank 0 takes the store with it


@dataclass(frozen=True)
class Meeting:
    """One start, as one rank of it takes part."""

    folder: Path
    start: str
    rank: int
    size: int

    @property
    def place(self) -> Path:
        """Where rank 0 says how to reach it."""
        return self.folder / f".rendezvous-{self.start}.json"

    @property
    def complaint(self) -> Path:
        """Where a rank that cannot reach rank 0 says so: there is no other way to tell it."""
        return self.folder / f".unreachable-{self.start}.json"


def meet(folder: Path, *, rank: int, size: int, device: str) -> Store:
    """The store through which the process group is built; `device` is what this rank computes on, cpu or cuda.

    Sets GLOO_SOCKET_IFNAME, if the user has not, to the interface through which this rank and rank 0 reach each other.

    Raises:
        JetmaeError: rank 0 did not publish its address, not all ranks came within TIMEOUT_S, or two have one GPU.
        PassingFault: rank 0 cannot be reached, or some ranks have found a GPU and others none.
    """
    if size == 1:
        return HashStore()
    start = os.environ.get("JETMAE_START", "start")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", start):
        raise JetmaeError(f"JETMAE_START={start!r}: expected letters, digits and . _ -")
    meeting = Meeting(folder, start, rank, size)
    try:
        return _receive(meeting, device) if rank == 0 else _join(meeting, device)
    except dist.DistError as error:
        raise PassingFault(
            f"rank {rank} on {socket.gethostname()} lost rank 0 while the ranks met:"
            f" {str(error).splitlines()[0]}; look at the log of rank 0, and at the network between the nodes"
        ) from error


# ---- rank 0


def _receive(meeting: Meeting, device: str) -> Store:
    host, node = os.environ.get("JETMAE_HOST") or LOCALHOST, socket.gethostname()
    addresses = [LOCALHOST] if host in {LOCALHOST, "localhost"} else addresses_for_peers(host)
    listener = listen(addresses)
    port = listener.getsockname()[1]
    with greeting(node, addresses) as greeter:
        store = PrefixStore(greeter.nonce, _server(listener, port))
        meeting.folder.mkdir(parents=True, exist_ok=True)
        write_json(meeting.place, {**asdict(greeter), "store_port": port})
        _say(store, meeting, _arrival(device, reached=[]))
        decision = _await_all(store, meeting)
        meeting.place.unlink(missing_ok=True)
    store.set("decision", json.dumps(asdict(decision)))
    if decision.fault:
        _leave(store, decision, meeting)
    use_interface_of(decision.address)
    return store


def _server(listener: socket.socket, port: int) -> TCPStore:
    timeout = timedelta(seconds=TIMEOUT_S)
    descriptor = listener.detach()
    return TCPStore(
        LOCALHOST, port, is_master=True, wait_for_workers=False, timeout=timeout, master_listen_fd=descriptor
    )


def _await_all(store: Store, meeting: Meeting) -> Decision:
    """Wait until every rank is here, and decide; or name those that are not, or cannot come."""
    deadline_s = time.monotonic() + TIMEOUT_S
    missing = set(range(meeting.size))
    while missing := {other for other in missing if not store.check([f"here-{other}"])}:
        if complaint := _complaint(meeting):
            return Decision(fault=complaint, may_pass=True)
        if time.monotonic() > deadline_s:
            listed = ", ".join(map(str, sorted(missing)[:8]))
            waited = f"rank 0 waited {TIMEOUT_S:.0f} s for rank(s) {listed} of {meeting.size}"
            return Decision(fault=f"{waited}: all have to start within that time; look at their logs")
        time.sleep(POLL_S)
    keys = [f"here-{rank}" for rank in range(meeting.size)]
    return decide([Arrival(**json.loads(said)) for said in store.multi_get(keys)])


# ---- the other ranks


def _join(meeting: Meeting, device: str) -> Store:
    published = _await_place(meeting)
    port = published.pop("store_port")
    routes = _routes(Greeter(**published), meeting)
    timeout = timedelta(seconds=TIMEOUT_S)
    server = TCPStore(routes[0].address, port, is_master=False, wait_for_workers=False, timeout=timeout)
    store = PrefixStore(published["nonce"], server)
    _say(store, meeting, _arrival(device, reached=[route.address for route in routes]))
    decision = _await_decision(store, meeting)
    if decision.fault:
        _leave(store, decision, meeting)
    use_interface_of(next((r for r in routes if r.address == decision.address), routes[0]).local_address)
    return store


def _await_place(meeting: Meeting) -> dict[str, Any]:
    deadline_s = time.monotonic() + TIMEOUT_S
    while meeting.place.name not in (names := os.listdir(meeting.folder)):  # shared storage may hide it from exists()
        if meeting.complaint.name in names:
            raise PassingFault(_complaint(meeting) or "another rank cannot reach rank 0; look at the other logs")
        if time.monotonic() > deadline_s:
            raise JetmaeError(
                f"rank {meeting.rank} waited {TIMEOUT_S:.0f} s for rank 0 to publish its address in {meeting.place}:"
                " is the run folder on storage that all nodes share, and did rank 0 start?"
            )
        time.sleep(POLL_S)
    published: dict[str, Any] = json.loads(meeting.place.read_text())
    return published


def _routes(greeter: Greeter, meeting: Meeting) -> list[Route]:
    try:
        return find_rank_0(greeter, rank=meeting.rank, timeout_s=min(REACH_S, TIMEOUT_S))
    except PassingFault as fault:
        write_json(meeting.complaint, {"message": str(fault)})
        raise


def _await_decision(store: Store, meeting: Meeting) -> Decision:
    """Wait for it; rank 0 knows who is missing, and gives up first."""
    deadline_s = time.monotonic() + TIMEOUT_S + LEAVE_S
    while not store.check(["decision"]):
        if time.monotonic() > deadline_s:
            raise JetmaeError(
                f"rank {meeting.rank} waited {TIMEOUT_S:.0f} s for rank 0 to say that all are here: look at its log"
            )
        time.sleep(POLL_S)
    return Decision(**json.loads(store.get("decision")))


# ---- every rank


def _arrival(device: str, *, reached: list[str]) -> Arrival:
    local = local_addresses()
    return Arrival(
        node=socket.gethostname(),
        network=network_identity(),
        device=device,
        gpu=current_gpu() if device == "cuda" else None,
        gloo_interfaces=chosen_for_gloo(),
        loopback=sorted({one.interface for one in local if is_loopback(one.address)}),
        interfaces=list(dict.fromkeys(one.interface for one in local)),
        reached=reached,
    )


def _say(store: Store, meeting: Meeting, arrival: Arrival) -> None:
    store.set(f"here-{meeting.rank}", json.dumps(asdict(arrival)))
    store.add("here", 1)


def _complaint(meeting: Meeting) -> str | None:
    if meeting.complaint.name not in os.listdir(meeting.folder):
        return None
    return str(json.loads(meeting.complaint.read_text())["message"])


def _leave(store: Store, decision: Decision, meeting: Meeting) -> NoReturn:
    """All with the same words. Rank 0 waits for the others, which it would else cut off in the middle of them."""
    store.add("heard", 1)
    if meeting.rank == 0:
        _await(lambda: store.add("heard", 0) >= store.add("here", 0))
    raise (PassingFault if decision.may_pass else JetmaeError)(decision.fault)


def _await(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LEAVE_S
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(POLL_S)


def use_interface_of(address: str | None) -> None:
    """Let gloo use the interface that has this address of ours. What the user has set stays.

    Without it gloo listens on whatever this host's own name means, 127.0.1.1 for instance. NCCL_SOCKET_IFNAME is left
    alone: NCCL looks at the interfaces by itself, prefers the fast ones, and takes loopback only if there is no other.
    """
    interface = interface_of(address) if address else None
    if interface and not chosen_for_gloo():
        os.environ["GLOO_SOCKET_IFNAME"] = interface
