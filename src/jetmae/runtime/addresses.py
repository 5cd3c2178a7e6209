"""The network addresses of this machine, the interfaces that have them, and which of them a peer should try.

A machine's own name says little: Debian's installer maps it to 127.0.1.1 in /etc/hosts, and some nodes have none that
resolves. So the kernel is asked, by the calls of netdevice(7) and by /proc/net/if_inet6.
"""

import fcntl
import ipaddress
import os
import socket
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SIOCGIFCONF, SIOCGIFFLAGS = 0x8912, 0x8913
IFF_UP = 1
NAME_BYTES, IFREQ_BYTES, ADDRESS_AT = 16, 40, 20  # of struct ifreq on 64-bit Linux; an IPv4 address stands inside it
MAX_ADDRESSES = 1024


@dataclass(frozen=True)
class LocalAddress:
    """An address of this machine as a number, IPv4 or IPv6."""

    interface: str
    address: str


def local_addresses() -> list[LocalAddress]:
    """All of interfaces that are up, loopback too; IPv4 before IPv6. Link-local IPv6 means nothing to a peer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        found = [*_ipv4_addresses(asked), *_ipv6_addresses()]
        return [local for local in found if _is_up(asked, local.interface)]


def _ipv4_addresses(asked: socket.socket) -> Iterator[LocalAddress]:
    entries = array("B", bytes(MAX_ADDRESSES * IFREQ_BYTES))
    start, length = entries.buffer_info()
    answer = fcntl.ioctl(asked, SIOCGIFCONF, struct.pack("iP", length, start))
    (used_bytes, _) = struct.unpack("iP", answer)
    for at in range(0, used_bytes, IFREQ_BYTES):
        entry = entries[at : at + IFREQ_BYTES].tobytes()
        name = entry[:NAME_BYTES].split(b"\0")[0].decode()
        yield LocalAddress(name, socket.inet_ntoa(entry[ADDRESS_AT : ADDRESS_AT + 4]))


def _ipv6_addresses() -> Iterator[LocalAddress]:
    path = Path("/proc/net/if_inet6")
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        digits, *_, name = line.split()
        address = ipaddress.IPv6Address(bytes.fromhex(digits))
        if not address.is_link_local:
            yield LocalAddress(name, str(address))


def _is_up(asked: socket.socket, interface: str) -> bool:
    request = struct.pack(f"{IFREQ_BYTES}s", interface.encode())
    try:
        answer = fcntl.ioctl(asked, SIOCGIFFLAGS, request)
    except OSError:  # it has just gone
        return False
    return bool(struct.unpack_from("H", answer, NAME_BYTES)[0] & IFF_UP)


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def interface_of(address: str) -> str | None:
    """The interface of this machine that has an address; None if it has no such address."""
    return next((local.interface for local in local_addresses() if local.address == address), None)


def addresses_for_peers(host: str) -> list[str]:
    """Where peers may reach this machine, in the order to try: numbers, and names that each peer looks up by itself.

    First what the user has chosen for the traffic of training, then `host`, the name that the launcher gives.
    """
    outside = [local for local in local_addresses() if not is_loopback(local.address)]
    chosen = [local.address for local in outside if is_chosen(local.interface)]
    return list(dict.fromkeys([*chosen, host, *(local.address for local in outside), socket.gethostname()]))


def is_chosen(interface: str) -> bool:
    """Whether the user has named this interface for gloo (a list of names) or NCCL (a list of prefixes, or `=name`)."""
    if interface in chosen_for_gloo():
        return True
    for_nccl = os.environ.get("NCCL_SOCKET_IFNAME", "")
    if for_nccl.startswith("^"):  # only says what not to take
        return False
    if for_nccl.startswith("="):
        return interface in for_nccl[1:].split(",")
    return any(prefix and interface.startswith(prefix) for prefix in for_nccl.split(","))


def chosen_for_gloo() -> list[str]:
    return [name for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(",") if name]


def network_identity() -> str:
    """Processes with the same one share their loopback: same boot of a kernel, same network namespace of it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot} {Path('/proc/self/ns/net').readlink()}"
