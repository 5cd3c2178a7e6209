"""How long a save holds up training: asynchronous, synchronous, and DeepSpeed's own.

    python benchmarks/checkpoint.py [--dim 768] [--repeats 5]

One rank with the paper-size network (70 million parameters, 840 MB of float32 weights and moments) trains on random
images; the three saves are made in turn. DeepSpeed's files are flushed to the disk too, as ours are, since what is not
on the disk is not saved; it writes neither hashes nor a manifest. Prints medians and ratios of the time that training
is held, and the time lost in all: what the steps meanwhile take longer than undisturbed ones counts too.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from jetmae.checkpoint.checkpoints import Checkpoints, Identity
from jetmae.checkpoint.store import CheckpointStore
from jetmae.checkpoint.train_state import TrainState
from jetmae.engine.backend import Backend, join_process_group
from jetmae.engine.optim import parameter_groups
from jetmae.files import fsync
from jetmae.model.mae import MaskedAutoencoder, View, reconstruction_loss
from jetmae.model.patches import channel_last, patchify, split_patches, take_patches
from jetmae.model.tokens import Tokens
from jetmae.records.timeline import SaveLine, TimelineLine
from jetmae.runtime.rendezvous import meet
from jetmae.runtime.world import World

UNDISTURBED_STEPS = 6


class OnlyOwner:
    """Stands for the lease of a run that nobody else wants."""

    token = 1

    def holds(self) -> bool:
        return True


class Images:
    """A micro-batch of random images."""

    def __init__(self, jets: int):
        self.images_BCHW = torch.rand(jets, 8, 125, 125)
        self.noise_BL = torch.rand(jets, 625)

    def to(self, _device: torch.device) -> "Images":
        return self


def main() -> None:
    arguments = parse()
    os.environ.setdefault("LOCAL_RANK", "0")
    world = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder, timeline = Path(temporary), []
        join_process_group("cpu", meet(folder, rank=0, size=1), rank=0, size=1)
        backend = make_backend(arguments, world)
        checkpoints = Checkpoints(
            CheckpointStore(folder / "checkpoints", keep=2), world, OnlyOwner(),
            training=backend, pieces=backend.pieces(),
            identity=Identity("", ""), record=timeline.append,
        )  # fmt: skip
        train = lambda: train_step(backend, checkpoints)  # noqa: E731
        step_s = statistics.median(timed(train) for _ in range(UNDISTURBED_STEPS))
        saves = {
            "asynchronous": lambda state: asynchronous(checkpoints, state, train, step_s, timeline),
            "synchronous": lambda state: [timed(lambda: checkpoints.save_now(state))] * 2,
            "DeepSpeed": lambda _: [timed(lambda: deepspeed_save(backend, folder / "deepspeed"))] * 2,
        }
        print_result(measure(saves, arguments.repeats), step_s, sum(p.numel() for p in backend.network.parameters()))
        committed_s = statistics.median(line.write_s for line in timeline if isinstance(line, SaveLine))
        restore_s = statistics.median(timed(checkpoints.load_newest) for _ in range(arguments.repeats))
        print(f"begin to commit of a save: {committed_s:.2f} s; verifying and reading one: {restore_s:.2f} s")


def measure(saves: dict[str, Callable], repeats: int) -> dict[str, list[list[float]]]:
    """(held, lost) seconds of each kind of save, without the first round, which touches memory and disk anew."""
    seconds: dict[str, list[list[float]]] = {kind: [] for kind in saves}
    step = 0
    for _ in range(repeats + 1):
        for kind, save in saves.items():
            step += 1
            seconds[kind].append(save(TrainState(step=step)))
    return {kind: values[1:] for kind, values in seconds.items()}


def asynchronous(
    checkpoints: Checkpoints, state: TrainState, train: Callable[[], None], step_s: float, timeline: list[TimelineLine]
) -> list[float]:
    """How long training was held, and how much longer it took than undisturbed steps, as engine/loop.py does it."""
    began_at_s, steps = time.perf_counter(), 0
    checkpoints.begin(state)
    while checkpoints.is_saving:
        train()
        steps += 1
        if not checkpoints.is_busy:
            checkpoints.advance()
    return [timeline[-1].stall_s, time.perf_counter() - began_at_s - steps * step_s]


def deepspeed_save(backend: Backend, folder: Path) -> None:
    backend.network.save_checkpoint(str(folder), tag="peer", save_latest=False)
    for path in folder.rglob("*"):
        fsync(path)


def timed(action: Callable[[], None]) -> float:
    began_at_s = time.perf_counter()
    action()
    return time.perf_counter() - began_at_s


def make_backend(arguments: argparse.Namespace, world: World) -> Backend:
    network = MaskedAutoencoder(
        (8, 125, 125), patch_size=5, dim=arguments.dim, depth=8, heads=1, mlp_ratio=4.0, drop_path=0.0,
        decoder_dim=arguments.dim * 2 // 3, decoder_depth=4, decoder_heads=1,
    )  # fmt: skip
    return Backend(
        network, parameter_groups(network, weight_decay=0.05), world, lr=1e-4, betas=(0.9, 0.999), clip_norm=1.0,
        precision="fp32", zero_stage=arguments.zero_stage, micro_batch_size=1, accumulation=1,
    )  # fmt: skip


def train_step(backend: Backend, checkpoints: Checkpoints) -> None:
    backend.train_step(loss_of, [Images(1)], lr=1e-4, before_update=checkpoints.await_copy)


def loss_of(network: nn.Module, batch: Images) -> Tensor:
    patches_BLP = patchify(batch.images_BCHW, 5)
    kept_BK, masked_BM = split_patches(batch.noise_BL, 0.75)
    target_BMP = channel_last(take_patches(patches_BLP, masked_BM), 8)
    return reconstruction_loss(network(patches_BLP, View(Tokens(kept_BK), masked_BM))[0], target_BMP)


def print_result(seconds: dict[str, list[list[float]]], step_s: float, num_parameters: int) -> None:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    print(f"{num_parameters / 1e6:.1f} M parameters, one step {step_s:.2f} s, {machine}")
    print(f"{'save':14} {'held, s':>9} {'least':>7} {'most':>7} {'of synchronous':>15} {'lost in all, s':>15}")
    median_s = {
        kind: [statistics.median(column) for column in zip(*values, strict=True)] for kind, values in seconds.items()
    }
    for kind, values in seconds.items():
        held_s = [held for held, _ in values]
        share = median_s[kind][0] / median_s["synchronous"][0]
        spread = f"{min(held_s):7.3f} {max(held_s):7.3f}"
        print(f"{kind:14} {median_s[kind][0]:9.3f} {spread} {share:15.1%} {median_s[kind][1]:15.2f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=768, help="width of the encoder; 768 is the paper's")
    parser.add_argument("--zero-stage", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where to write; default: the system's temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
