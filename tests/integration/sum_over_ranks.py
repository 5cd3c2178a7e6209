"""One rank that meets the others, sums with them, and prints over which interface and addresses that went.

python -m tests.integration.sum_over_ranks FOLDER
"""

import json
import os
import sys
from pathlib import Path

import psutil
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
    connections = [one for one in psutil.Process().net_connections() if one.status == psutil.CONN_ESTABLISHED]
    used = {one.laddr.ip.removeprefix("::ffff:") for one in connections}  # torch's sockets are for IPv6 and IPv4
    print(json.dumps({"sum": int(total), "interface": os.environ["GLOO_SOCKET_IFNAME"], "used": sorted(used)}))
    dist.barrier()


if __name__ == "__main__":
    exit_with_one_line(main, leave=leave_at_once)
