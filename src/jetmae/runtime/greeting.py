"""Which addresses lead to rank 0? It answers each connection with a nonce, and a peer tries all addresses for that.

An address alone proves nothing. Many nodes have 172.17.0.1 or 127.0.1.1, so a peer may reach itself there, or another
job that listens on the same port.
"""

import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread

from jetmae.errors import PassingFault

LOCALHOST = "127.0.0.1"
BACKLOG = 4096  # all ranks may come at once
ROUND_S = 5.0  # for one try of all addresses, names looked up and all
CONNECT_S = 3.0
OTHERS_S = 1.0  # after one address has answered, for better ones
PAUSE_S = 0.5
REACH_S = 10.0  # rank 0 listens before it says so: only a network that is just coming up needs more than one round


@dataclass(frozen=True)
class Greeter:
    """What a peer has to know to look for rank 0: its addresses, best first, and the answer that proves it."""

    node: str
    addresses: list[str]
    port: int
    nonce: str


@dataclass(frozen=True)
class Route:
    """A connection to rank 0 that worked: its address there, and the one on this side. Both are numbers."""

    address: str
    local_address: str


@dataclass(frozen=True)
class Tried:
    """What became of one address or name."""

    routes: list[Route]
    failure: str


def listen(addresses: list[str]) -> socket.socket:
    """A socket on a free port: of this machine alone for LOCALHOST, else on all interfaces.

    What listens is as open as torch's own stores: networks of clusters are trusted.
    """
    if addresses == [LOCALHOST]:
        return socket.create_server((LOCALHOST, 0), backlog=BACKLOG)
    if any(":" in address for address in addresses):  # else IPv6 may be switched off
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("", 0), backlog=BACKLOG)


@contextmanager
def greeting(node: str, addresses: list[str]) -> Iterator[Greeter]:
    """Answer whoever connects, until the context is left."""
    listener, nonce = listen(addresses), secrets.token_hex(16)
    Thread(target=_answer, args=(listener, nonce.encode()), daemon=True).start()
    with listener:
        try:
            yield Greeter(node, addresses, listener.getsockname()[1], nonce)
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread


def _answer(listener: socket.socket, nonce: bytes) -> None:
    with suppress(OSError):  # the listener has been closed
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):  # the peer has gone already
                connection.sendall(nonce)


def find_rank_0(greeter: Greeter, *, rank: int, timeout_s: float) -> list[Route]:
    """All ways to rank 0 that work, best first; there is at least one.

    Raises:
        PassingFault: no address leads there within `timeout_s`. Another node may have a better network.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        tried = _try_all(greeter)
        if routes := [route for one in tried.values() for route in one.routes]:
            return list(dict.fromkeys(routes))
        if time.monotonic() > deadline_s:
            raise PassingFault(_nothing_answers(greeter, rank, tried))
        time.sleep(PAUSE_S)


def _nothing_answers(greeter: Greeter, rank: int, tried: Mapping[str, Tried]) -> str:
    listed = ", ".join(f"{address} ({one.failure})" for address, one in tried.items())
    return (
        f"rank {rank} on {socket.gethostname()} cannot reach rank 0 on {greeter.node} at port {greeter.port}: tried"
        f" {listed}; expected one of them to lead there. Look at the network between these nodes, at firewalls, and at"
        f" {greeter.node} in /etc/hosts; GLOO_SOCKET_IFNAME names the interface to prefer"
    )


def _try_all(greeter: Greeter) -> dict[str, Tried]:
    """One round: all addresses at the same time, in threads, because nothing ends a look-up of a name in time."""
    answers: dict[str, Tried] = {}

    def attempt(address: str) -> None:
        answers[address] = _try(address, greeter)

    for address in greeter.addresses:
        Thread(target=attempt, args=(address,), daemon=True).start()
    deadline_s = time.monotonic() + ROUND_S
    while len(answers) < len(greeter.addresses) and time.monotonic() < deadline_s:
        if any(one.routes for one in list(answers.values())):
            deadline_s = min(deadline_s, time.monotonic() + OTHERS_S)
        time.sleep(0.02)
    late = Tried([], f"no answer within {ROUND_S:.0f} s")
    return {address: answers.get(address, late) for address in greeter.addresses}


def _try(address: str, greeter: Greeter) -> Tried:
    """All that a name stands for, or the one address."""
    routes, failure = [], ""
    try:
        for *_, place in socket.getaddrinfo(address, greeter.port, type=socket.SOCK_STREAM):
            try:
                routes.append(_greet(str(place[0]), greeter))
            except OSError as error:
                failure = f"{place[0]}: {_reason(error)}" if place[0] != address else _reason(error)
    except (OSError, UnicodeError) as error:  # the latter of a name that cannot be one
        failure = _reason(error)
    return Tried(routes, failure)


def _greet(address: str, greeter: Greeter) -> Route:
    with socket.create_connection((address, greeter.port), timeout=CONNECT_S) as connection:
        received = b""
        while len(received) < len(greeter.nonce) and (more := connection.recv(64)):
            received += more
        if received != greeter.nonce.encode():
            raise ConnectionError("another program answers")
        return Route(connection.getpeername()[0], connection.getsockname()[0])


def _reason(error: OSError | UnicodeError) -> str:
    return getattr(error, "strerror", None) or str(error)
