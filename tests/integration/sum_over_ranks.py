"""One rank that meets the others, sums with them, and prints over which interface and addresses that went.

python -m tests.integration.sum_over_ranks FOLDER
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from jetmae.errors import exit_with_one_line, leave_at_once
from jetmae.runtime.rendezvous import meet


def main() -> None:
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = meet(Path(sys.argv[1]), rank=rank, size=size, device="cpu")
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    total = torch.tensor(rank + 1)
    dist.all_reduce(total)
    used = sorted(set(own_addresses_of_connections()))
    print(json.dumps({"sum": int(total), "interface": os.environ["GLOO_SOCKET_IFNAME"], "used": used}))
    dist.barrier()


def own_addresses_of_connections() -> Iterator[str]:
    """Of all that this machine has open. torch's sockets are for IPv6, and show IPv4 as a part of it."""
    listed = subprocess.run(["ss", "-tnH", "state", "established"], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        _received, _sent, own, _peer = line.split()[:4]
        yield own.rpartition(":")[0].strip("[]").removeprefix("::ffff:")


if __name__ == "__main__":
    exit_with_one_line(main, leave=leave_at_once)
