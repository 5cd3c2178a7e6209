"""How the ranks of one start find each other, without ssh, a host list, or a port agreed beforehand.

Rank 0 listens on a port that the system gives it, so none can be occupied, and publishes host and port in the run
folder under the token of this start; the others wait for that file. A late rank of an earlier start has another token
and finds nothing.
"""

import json
import os
import re
import socket
import time
from datetime import timedelta
from pathlib import Path

from torch.distributed import HashStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # not re-exported

from jetmae.errors import JetmaeError, PassingFault
from jetmae.files import write_json

TIMEOUT_S = float(os.environ.get("JETMAE_RENDEZVOUS_TIMEOUT_S", "300"))
POLL_S = 0.1


def meet(folder: Path, *, rank: int, size: int, device: str) -> Store:
    """The store through which the process group is built; `device` is what this rank computes on, cpu or cuda.

    Raises:
        JetmaeError: rank 0 did not publish its address, or not all ranks came, within TIMEOUT_S.
        PassingFault: some ranks have found a GPU and others none.
    """
    if size == 1:
        return HashStore()
    token = os.environ.get("JETMAE_START", "start")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", token):
        raise JetmaeError(f"JETMAE_START={token!r}: expected letters, digits and . _ -")
    place = folder / f".rendezvous-{token}.json"
    store = PrefixStore(token, _listen(place) if rank == 0 else _connect(place, rank))
    store.add(device, 1)
    store.set(f"host-{device}", socket.gethostname())
    _await_all(store, rank, size)
    if rank == 0:
        place.unlink(missing_ok=True)
    _check_devices(store, size)
    return store


def _listen(place: Path) -> TCPStore:
    host = os.environ.get("JETMAE_HOST", "127.0.0.1")
    listener = socket.create_server((host, 0), backlog=4096)
    port = listener.getsockname()[1]
    store = TCPStore(
        host,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=TIMEOUT_S),
        master_listen_fd=listener.detach(),
    )
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, {"host": host, "port": port})
    return store


def _connect(place: Path, rank: int) -> TCPStore:
    deadline_s = time.monotonic() + TIMEOUT_S
    while place.name not in os.listdir(place.parent):  # listed, because shared storage may hide a new name from exists
        if time.monotonic() > deadline_s:
            raise JetmaeError(
                f"rank {rank} waited {TIMEOUT_S:.0f} s for rank 0 to publish its address in {place}: is the run folder"
                " on storage that all nodes share, and did rank 0 start?"
            )
        time.sleep(POLL_S)
    address = json.loads(place.read_text())
    timeout = timedelta(seconds=TIMEOUT_S)
    return TCPStore(address["host"], address["port"], is_master=False, wait_for_workers=False, timeout=timeout)


def _check_devices(store: Store, size: int) -> None:
    """A node whose driver is broken would leave the others waiting in their first collective."""
    on_cpu = store.add("cpu", 0)
    if 0 < on_cpu < size:
        raise PassingFault(
            f"{on_cpu} of {size} ranks find no GPU, one of them on {store.get('host-cpu').decode()}: expected all or"
            " none; leave that node out, or give engine.device=cpu"
        )


def _await_all(store: Store, rank: int, size: int) -> None:
    """Wait until every rank is here, and name those that are not."""
    store.set(f"here-{rank}", socket.gethostname())
    deadline_s = time.monotonic() + TIMEOUT_S
    missing = set(range(size))
    while missing := {other for other in missing if not store.check([f"here-{other}"])}:
        if time.monotonic() > deadline_s:
            listed = ", ".join(map(str, sorted(missing)[:8]))
            waited = f"rank {rank} waited {TIMEOUT_S:.0f} s for rank(s) {listed} of {size}"
            raise JetmaeError(f"{waited}: all have to start within that time; look at their logs")
        time.sleep(POLL_S)
