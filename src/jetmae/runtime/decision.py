"""What rank 0 decides when all ranks have come: can they train together, and over which of its addresses?

Pure functions of what the ranks say of themselves.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Arrival:
    """What a rank says of itself when it comes."""

    node: str
    network: str
    device: str
    gpu: str | None
    gloo_interfaces: list[str]  # that its user has chosen
    loopback: list[str]  # interfaces of its machine that lead nowhere else
    interfaces: list[str]
    reached: list[str]  # addresses of rank 0, best first


@dataclass(frozen=True)
class Decision:
    """What rank 0 says to all. With a fault nobody goes on; it `may_pass` if other nodes need not have it."""

    address: str | None = None
    fault: str | None = None
    may_pass: bool = False


def decide(arrivals: list[Arrival]) -> Decision:
    """Can these ranks, in their order, train together, and over which address of rank 0?"""
    return (
        _without_gpu(arrivals)
        or _with_one_gpu(arrivals)
        or _on_wrong_interface(arrivals)
        or Decision(address=_most_reached(arrival.reached for arrival in arrivals))
    )


def _without_gpu(arrivals: list[Arrival]) -> Decision | None:
    """A node whose driver is broken would leave the others waiting in their first collective."""
    on_cpu = [arrival.node for arrival in arrivals if arrival.device == "cpu"]
    if len(on_cpu) in {0, len(arrivals)}:
        return None
    return Decision(
        fault=f"{len(on_cpu)} of {len(arrivals)} ranks find no GPU, one of them on {on_cpu[0]}: expected all or none;"
        " leave that node out, or give engine.device=cpu",
        may_pass=True,
    )


def _with_one_gpu(arrivals: list[Arrival]) -> Decision | None:
    ranks_of = defaultdict(list)
    for rank, arrival in enumerate(arrivals):
        if arrival.device == "cuda" and arrival.gpu:
            ranks_of[arrival.gpu].append(rank)
    for gpu, ranks in ranks_of.items():
        if len(ranks) > 1:
            listed = ", ".join(map(str, ranks[:8]))
            return Decision(
                fault=f"ranks {listed} on {arrivals[ranks[0]].node} have one GPU, {gpu}: expected one for each; use as"
                " many ranks per node as GPUs, and let no start-up file set CUDA_VISIBLE_DEVICES"
            )
    return None


def _on_wrong_interface(arrivals: list[Arrival]) -> Decision | None:
    """GLOO_SOCKET_IFNAME of the user is obeyed; where it cannot work, gloo would say so with a traceback, or hang."""
    if any(arrival.device != "cpu" for arrival in arrivals):
        return None  # NCCL does not look at it
    several_machines = len({arrival.network for arrival in arrivals}) > 1
    for rank, arrival in enumerate(arrivals):
        usable = [name for name in arrival.interfaces if not (several_machines and name in arrival.loopback)]
        if unusable := [name for name in arrival.gloo_interfaces if name not in usable]:
            asked = ",".join(arrival.gloo_interfaces)
            return Decision(
                fault=f"GLOO_SOCKET_IFNAME={asked}: rank {rank} on {arrival.node} reaches nobody through {unusable[0]};"
                f" expected of {', '.join(usable) or 'no interface'}, or not set"
            )
    return None


def _most_reached(reached: Iterable[list[str]]) -> str | None:
    """Other ranks of rank 0's node reach addresses that nobody else does, so all are asked; of equals the first."""
    votes = Counter(address for addresses in reached for address in addresses)
    return max(votes, key=votes.__getitem__, default=None)
