"""One rank of doctor's short job.

    python -m jetmae.doctor.ranks FOLDER

Each rank does once what training will do all the time, stage by stage, and before each stage writes all that it has
found so far into FOLDER/rank-3-NODE.json: a rank that hangs or is killed has then said how far it came. FOLDER/ask.json
says what the job is about (`Ask`). A rank that finds a fault still ends with 0: the verdict is reached where the job
was submitted, and srun would kill the other ranks before they have told theirs.
"""

import hashlib
import json
import os
import platform
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jetmae.doctor.machine import shared_memory_mib
from jetmae.errors import exit_with_one_line
from jetmae.files import write_json
from jetmae.launch.train_job import slurm_rank_environment
from jetmae.runtime.addresses import network_identity
from jetmae.runtime.gpus import has_own_gpus
from jetmae.slurm.command import ask
from jetmae.slurm.job import job_id

POLL_S = 0.1
SPEED_WINDOW_S = 1.0
MAX_WRITE_BYTES = 256 * 2**20  # of a rank's share of a checkpoint; the rest is extrapolated
REDUCE_BYTES = {"cpu": 2**22, "cuda": 2**26}
REDUCE_REPEATS = 10
NAMES = 20
FAMILIES = ("HDF5_", "NCCL_", "GLOO_", "TORCH_", "JETMAE_", "OMP_")  # of variables
SINGLE = {"LD_LIBRARY_PATH", "PYTHONPATH"}
GEMM_SIZE = {"cpu": 512, "cuda": 8192}
PACKAGES = ("jetmae", "torch", "deepspeed")
Found = dict[str, Any]  # what a rank has written as JSON


def variables_that_matter(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Names of variables that change what ranks do, and that a job should have as the shell that submits it."""
    return tuple(sorted(name for name in environment if name in SINGLE or name.startswith(FAMILIES)))


@dataclass(frozen=True)
class Ask:
    """What the submitting side wants to know."""

    ranks: int
    gpus_per_node: int
    checkpoint_bytes: int
    wait_s: float
    data: str | None = None  # a dataset's folder, which every node should see
    variables: tuple[str, ...] = ()  # names that are set where the job is submitted, and should be set in it

    def write(self, folder: Path) -> None:
        write_json(folder / "ask.json", asdict(self))


@dataclass(frozen=True)
class RankContext:
    """This rank and what it is asked."""

    folder: Path
    asked: Ask
    rank: int
    local_rank: int
    node: str

    @property
    def size(self) -> int:
        return self.asked.ranks


def main() -> int:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the job's time is short, so its warning may come at once
    folder = Path(sys.argv[1])
    asked = Ask(**json.loads((folder / "ask.json").read_text(encoding="utf-8")))
    missing = complete_environment(asked)
    rank = int(os.environ.get("RANK", os.getpid()))  # without a rank no two may write the same file
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    context = RankContext(folder, asked, rank, int(os.environ.get("LOCAL_RANK", "0")), node)
    go_through(context, {"rank": rank, "node": node, "missing_variables": missing})
    return 0


def complete_environment(asked: Ask) -> list[str]:
    """RANK and its like from Slurm's variables, as a training run has them; returns which are missing.

    Without Slurm they may have been set by whoever starts ranks as plain processes.
    """
    os.environ["JETMAE_RENDEZVOUS_TIMEOUT_S"] = str(asked.wait_s)
    try:
        os.environ.update(slurm_rank_environment(os.environ))
    except KeyError as error:
        return [] if "SLURM_JOB_ID" not in os.environ and "RANK" in os.environ else [str(error.args[0])]
    return []


def go_through(context: RankContext, found: Found) -> None:
    """All stages in their order; the first that fails is the last."""
    path = result_path(context.folder, context.rank, context.node)
    for stage in STAGES:
        found["stage"] = stage.__name__
        write_json(path, found)
        try:
            found |= stage(context, found) or {}
        except Exception as error:  # noqa: BLE001  whatever can go wrong on a node is what this looks for
            write_json(path, {**found, "error": f"{type(error).__name__}: {error}"})
            return
    write_json(path, {**found, "stage": "done"})


def result_path(folder: Path, rank: int, node: str) -> Path:
    return folder / f"rank-{rank}-{node}.json"


def ranks_listed(folder: Path) -> dict[int, str]:
    """Ranks that have come, and their nodes, by listing: shared storage may hide a new name from an exists()."""
    found = (re.fullmatch(r"rank-(\d+)-(.+)\.json", name) for name in os.listdir(folder))
    return {int(match[1]): match[2] for match in found if match}


# ---- the stages: each takes what the earlier ones found and returns what it adds


def introduce(context: RankContext, found: Found) -> Found:
    """Who and where this is, and with what code."""
    if found["missing_variables"]:
        raise RuntimeError(f"{', '.join(found['missing_variables'])} not set: was this started by srun?")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {
        "host": socket.gethostname(),
        "local_rank": context.local_rank,
        "world_size": int(os.environ["WORLD_SIZE"]),
        "visible_gpus": None if visible is None else len([name for name in visible.split(",") if name.strip()]),
        "has_own_gpus": has_own_gpus(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "code": code_digest(),
        "variables_missing": [name for name in context.asked.variables if name not in os.environ],
        "shared_memory_mib": shared_memory_mib(),
    }


def code_digest() -> str:
    """Of all source files: two copies of one version may differ."""
    digest, root = hashlib.sha256(), Path(__file__).resolve().parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def await_companions(context: RankContext, found: Found) -> Found:
    """Wait until every rank's file is visible from here."""
    started_s = time.monotonic()
    while missing := sorted(set(range(context.size)) - ranks_listed(context.folder).keys()):
        if time.monotonic() - started_s > context.asked.wait_s:
            raise RuntimeError(f"after {context.asked.wait_s:.0f} s no sign of rank(s) {', '.join(map(str, missing))}")
        time.sleep(POLL_S)
    return {"companions_s": time.monotonic() - started_s}


def ask_scontrol(context: RankContext, found: Found) -> Found:
    """A job asks it why it is stopped, and requeues itself by it."""
    return {"scontrol": bool(ask("scontrol", "--oneliner", "show", "job", job_id() or ""))}


def resolve_names(context: RankContext, found: Found) -> Found:
    """The address of every rank's node, or why there is none, and in which network the addresses mean something."""
    nodes = sorted(set(ranks_listed(context.folder).values()))
    return {"addresses": {node: address_of(node) for node in nodes}, "network": network_identity()}


def address_of(node: str) -> dict[str, str]:
    try:
        return {"address": str(socket.getaddrinfo(node, None)[0][4][0])}
    except OSError as error:
        return {"error": error.strerror or str(error)}


def look_at_data(context: RankContext, found: Found) -> Found:
    """Does this node see the dataset, and is it the same as elsewhere? The manifest stands for it."""
    if context.asked.data is None:
        return {}
    try:
        return {"data": hashlib.sha256((Path(context.asked.data) / "manifest.json").read_bytes()).hexdigest()[:12]}
    except OSError as error:
        return {"data_error": error.strerror or str(error)}


def find_device(context: RankContext, found: Found) -> Found:
    """The device training would use; if that is none of the GPUs asked for, the other stages go on with the CPU."""
    started_s = time.monotonic()
    import torch

    from jetmae.errors import JetmaeError
    from jetmae.runtime.world import current_gpu, world_from_environment

    imported = {"import_torch_s": time.monotonic() - started_s}
    try:
        device = world_from_environment("cuda" if context.asked.gpus_per_node else "cpu").device
        if device.type == "cuda":
            name = torch.cuda.get_device_properties(device).name
            return {**imported, "device": "cuda", "device_name": name, "device_id": current_gpu()}
    except (JetmaeError, RuntimeError) as error:
        return {**imported, "device": "cpu", "device_error": " ".join(str(error).split())}
    return {**imported, "device": "cpu"}


def meet_others(context: RankContext, found: Found) -> Found:
    """The rendezvous of a training run, and a process group over NCCL if all have a GPU, else over gloo."""
    import torch.distributed as dist

    from jetmae.runtime.rendezvous import meet

    started_s = time.monotonic()
    # Of ranks with a GPU and ranks without, results.py tells which: here the rendezvous is not to refuse them.
    store = meet(context.folder, rank=context.rank, size=context.size, device="cpu")
    store.set(f"device-{context.rank}", str(found["device"]))
    all_have_gpus = all(store.get(f"device-{rank}") == b"cuda" for rank in range(context.size))
    backend = "nccl" if all_have_gpus else "gloo"
    timeout = timedelta(seconds=context.asked.wait_s)
    dist.init_process_group(backend, store=store, rank=context.rank, world_size=context.size, timeout=timeout)
    dist.barrier()
    return {"backend": backend, "rendezvous_s": time.monotonic() - started_s}


def read_clock(context: RankContext, found: Found) -> Found:
    """The time of day, a moment after all have left a barrier: between stages each writes a file, some for seconds."""
    import torch.distributed as dist

    dist.barrier()
    return {"clock_s": time.time()}


def reduce_together(context: RankContext, found: Found) -> Found:
    """An all-reduce: is its sum right, and what bandwidth does it reach (bus bandwidth, as NCCL's own test has it)?"""
    import torch
    import torch.distributed as dist

    device = "cuda" if found["backend"] == "nccl" else "cpu"
    tensor = torch.full((REDUCE_BYTES[device] // 4,), float(context.rank + 1), device=device)
    dist.all_reduce(tensor)
    expected = context.size * (context.size + 1) / 2
    if not bool((tensor == expected).all()):
        raise RuntimeError(f"the all-reduce gave {tensor.min()} to {tensor.max()}, expected {expected}")
    dist.barrier()  # otherwise the first would also wait for the ranks that are still comparing
    elapsed_s = timed(lambda: [dist.all_reduce(tensor) for _ in range(REDUCE_REPEATS)], device) / REDUCE_REPEATS
    moved_bytes = REDUCE_BYTES[device] * 2 * (context.size - 1) / context.size
    return {"reduce_gb_per_s": moved_bytes / elapsed_s / 1e9}


def timed(action: Callable[[], object], device: str) -> float:
    started_s = time.monotonic()
    action()
    synchronise(device)
    return time.monotonic() - started_s


def synchronise(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def multiply_matrices(context: RankContext, found: Found) -> Found:
    """Sustained speed of this rank's device while all the others are busy too."""
    import torch
    import torch.distributed as dist

    device = str(found["device"])
    size, dtype = GEMM_SIZE[device], torch.bfloat16 if device == "cuda" else torch.float32
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    timed(lambda: torch.mm(left, right), device)
    dist.barrier()
    count, elapsed_s = 0, 0.0
    while elapsed_s < SPEED_WINDOW_S:
        elapsed_s += timed(lambda: torch.mm(left, right), device)
        count += 1
    return {"tflops": count * 2 * size**3 / elapsed_s / 1e12}


def create_names(context: RankContext, found: Found) -> Found:
    """All ranks create the same files at the same time, as starts of a run do with its lease: who succeeds?"""
    import torch.distributed as dist

    created = 0
    for number in range(NAMES):
        dist.barrier()
        with suppress(FileExistsError):
            (context.folder / f"lease-{number}").touch(exist_ok=False)
            created += 1
    return {"names_created": created}


def save_together(context: RankContext, found: Found) -> Found:
    """Write this rank's share of a checkpoint while all others write theirs."""
    import torch.distributed as dist

    from jetmae.doctor.storage import write_speed

    share_bytes = max(context.asked.checkpoint_bytes // context.size, 1)
    dist.barrier()
    bytes_per_s = write_speed(context.folder / f"share-{context.rank}", min(share_bytes, MAX_WRITE_BYTES))
    dist.barrier()
    return {"save_s": share_bytes / bytes_per_s, "write_bytes_per_s": bytes_per_s}


def part(context: RankContext, found: Found) -> None:
    import torch.distributed as dist

    dist.destroy_process_group()


STAGES = (
    introduce,
    await_companions,
    ask_scontrol,
    resolve_names,
    look_at_data,
    find_device,
    meet_others,
    read_clock,
    reduce_together,
    multiply_matrices,
    create_names,
    save_together,
    part,
)

if __name__ == "__main__":
    exit_with_one_line(main)
