"""How fast is a training step, as the product makes it, beside the usual way?

    python benchmarks/step.py --data data/sample [--device cuda] [--long]

Ours: the loader's thread reads shards, batches cross over sparse, the task makes images and loss, DeepSpeed updates.
The peer: dense images in pinned memory, plain PyTorch (plain_mae.py). Both take turns, round by round; the medians of
the rounds are printed. TFLOP/s count the multiplications and additions of the peer's network, forward and backward:
113.2 GFLOP per jet for the seed network. Fewer are really made by ours, which embeds only what is visible. The share is
of the largest rate of a matrix product that this machine reaches.
"""

import argparse
import gc
import itertools
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from plain_mae import PlainTraining

from jetmae.config import Experiment, Reconstruct, load_experiment
from jetmae.engine.backend import join_process_group, leave_process_group
from jetmae.run import Run
from jetmae.run_folder import RunFolder
from jetmae.runtime.lease import Lease
from jetmae.runtime.numerics import choose_kernels
from jetmae.runtime.rendezvous import meet
from jetmae.runtime.world import World, world_from_environment

ROUNDS_AND_STEPS = {("cuda", False): (5, 5), ("cuda", True): (7, 6), ("cpu", False): (2, 1), ("cpu", True): (7, 2)}
JETS = {  # in a micro-batch, by device and whether there is time
    ("cuda", False): {"bf16": (64, 128, 256), "fp32": (128,)},
    ("cuda", True): {"bf16": (64, 128, 256, 512), "fp32": (64, 128, 256)},
    ("cpu", False): {"fp32": (8,)},
    ("cpu", True): {"fp32": (16, 64)},
}
WARM_UP_STEPS = 3
SIZES = {  # of the seed's recipe; on a CPU a smaller network
    "cuda": (),
    "cpu": ("model.dim=192", "model.depth=4", "reconstruct.decoder_dim=128", "reconstruct.decoder_depth=2"),
}


@dataclass
class Contender:
    """One way to train, and what was measured of it, round by round; bytes of the GPU's memory."""

    name: str
    step: Callable[[], float]
    held_bytes: int
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_bytes: int = 0


class OurTraining:
    """Steps of the product; the time that they wait for the loader is summed up."""

    def __init__(self, folder: Path, experiment: Experiment, world: World):
        self.run = Run(RunFolder(folder), experiment, world, Lease(folder, 0))
        self.run.task.prepare(self.run.batches)
        self.backend = self.run.make_backend()
        self.batches = self.run.batches.training(0)
        self.waited_s, self.world, self.lr = 0.0, world, experiment.optim.lr

    def step(self) -> float:
        """One update; its loss."""
        began_s = time.perf_counter()
        micro_batches = next(self.batches)
        self.waited_s += time.perf_counter() - began_s
        self.world.agree()
        loss_of = self.run.task.train_loss
        return self.backend.train_step(loss_of, micro_batches, self.lr, before_update=lambda: None).loss

    def some_images(self, jets: int) -> torch.Tensor:
        """Dense images (jets, C, H, W) of training jets, on the host."""
        micro_batches = itertools.chain.from_iterable(self.run.batches.training(0))
        images, device = [], self.world.device
        while sum(map(len, images)) < jets:
            images.append(self.run.task.context.images(next(micro_batches).to(device)).cpu())
        return torch.cat(images)[:jets]


def main() -> None:
    arguments = parse()
    os.environ.setdefault("LOCAL_RANK", "0")
    choose_kernels(deterministic=False)
    world = world_from_environment(arguments.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        join_process_group(arguments.device, meet(folder, rank=0, size=1, device=arguments.device), rank=0, size=1)
        peak = matrix_peak(world.device)
        rows = [
            compare(folder, precision, jets, world, arguments, peak)
            for precision, sizes in JETS[arguments.device, arguments.long].items()
            for jets in sizes
        ]
        leave_process_group()
    print(f"\nthe seed's recipe {' '.join(SIZES[arguments.device])}, {machine(world.device)}, torch"
          f" {torch.__version__}; largest matrix product {peak / 1e12:.3g} TFLOP/s")  # fmt: skip
    print(f"{'':26} {'jets/s':>9} {'TFLOP/s':>8} {'of peak':>8} {'jets/CPU s':>11} {'memory, GB':>11} {'waits':>7}")
    print(*itertools.chain.from_iterable(rows), sep="\n")


def compare(
    folder: Path, precision: str, jets: int, world: World, arguments: argparse.Namespace, peak: float
) -> list[str]:
    """The two contenders in turn, and their lines of the table."""
    experiment = load_experiment(
        "pretrain", "seed",
        [*SIZES[arguments.device], f"data.path={arguments.data}", f"engine.precision={precision}",
         f"optim.batch_size={jets}", f"engine.compile={arguments.compile}"],
    )  # fmt: skip
    flop = reference_flop(experiment)
    gc.collect()  # engines that were measured before: DeepSpeed keeps them in circles
    try:
        ours, contenders = make_contenders(folder, experiment, world)
        for _ in range(arguments.rounds):
            for contender in contenders:
                measure(contender, arguments.steps, world.device)
        ours.batches.close()
    except Exception as error:  # noqa: BLE001  such as no memory left: the other sizes are measured all the same
        traceback.print_exc()
        return [f"{precision}, {jets}: {type(error).__name__}"]
    waits = ours.waited_s / (sum(contenders[0].wall_s) * arguments.steps)
    lines = [
        line(f"{contender.name}, {precision}, {jets}", contender, jets, flop, peak, share)
        for contender, share in zip(contenders, (waits, None), strict=True)
    ]
    wall, cpu = (
        statistics.median(getattr(contenders[1], clock)) / statistics.median(getattr(contenders[0], clock))
        for clock in ("wall_s", "cpu_s")
    )
    return [*lines, f"{'':6}ratio {wall:.2f}, in CPU time {cpu:.2f}"]


def make_contenders(folder: Path, experiment: Experiment, world: World) -> tuple[OurTraining, list[Contender]]:
    """Both networks in memory and warm."""
    before = allocated(world.device)
    ours = OurTraining(folder, experiment, world)
    images = ours.some_images(2 * experiment.optim.batch_size)
    contenders = [Contender("ours", ours.step, allocated(world.device) - before)]
    before = allocated(world.device)
    plain = PlainTraining(images, experiment, world.device, experiment.engine.precision)
    contenders.append(Contender("usual way", plain.step, allocated(world.device) - before))
    for contender in contenders:
        before = allocated(world.device)
        for _ in range(WARM_UP_STEPS):
            contender.step()
        contender.held_bytes += allocated(world.device) - before  # the optimizer's state comes with the first step
    ours.waited_s = 0.0
    return ours, contenders


def measure(contender: Contender, steps: int, device: torch.device) -> None:
    """One round: seconds per step, and the memory at most."""
    before = allocated(device)
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for _ in range(steps):
        contender.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
        more = torch.cuda.max_memory_allocated() - before
        contender.peak_bytes = max(contender.peak_bytes, contender.held_bytes + more)
    contender.wall_s.append((time.perf_counter() - wall_s) / steps)
    contender.cpu_s.append((time.process_time() - cpu_s) / steps)


def line(label: str, contender: Contender, jets: int, flop: float, peak: float, waits: float | None) -> str:
    jets_per_s = jets / statistics.median(contender.wall_s)
    share = "" if waits is None else f"{waits:.1%}"
    memory = f"{contender.peak_bytes / 1e9:.2f}" if contender.peak_bytes else ""
    return (f"{label:26} {jets_per_s:9.1f} {jets_per_s * flop / 1e12:8.3g} {jets_per_s * flop / peak:8.1%}"
            f" {jets / statistics.median(contender.cpu_s):11.1f} {memory:>11} {share:>7}")  # fmt: skip


def reference_flop(experiment: Experiment) -> float:
    """Of one jet and training step: the matrix products of the usual network; of the images no gradient is needed.

    A product that adds counts twice. Backward costs twice as much as forward.
    """
    model, task = experiment.model, experiment.reconstruct or Reconstruct()
    patches, values = (125 // model.patch_size) ** 2, 8 * model.patch_size**2
    visible = 1 + int(patches * (1 - task.mask_ratio))

    def blocks(tokens: int, dim: int, depth: int) -> float:
        return depth * (4 * tokens * dim**2 * (2 + model.mlp_ratio) + 4 * tokens**2 * dim)

    embedding = 2 * patches * values * model.dim
    bridge = 2 * visible * model.dim * task.decoder_dim
    prediction = 2 * (patches + 1) * task.decoder_dim * values
    encoder = blocks(visible, model.dim, model.depth)
    decoder = blocks(patches + 1, task.decoder_dim, task.decoder_depth)
    return 3 * (encoder + bridge + decoder + prediction) + 2 * embedding


def matrix_peak(device: torch.device) -> float:
    """FLOP/s of a large square product: bf16 on a GPU, float32 on a CPU; the fastest of ten."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times_s = []
    for _ in range(10):
        began_s = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        times_s.append(time.perf_counter() - began_s)
    return 2 * size**3 / min(times_s)


def allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{len(os.sched_getaffinity(0))} CPU cores, {torch.get_num_threads()} threads"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a converted dataset")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--compile", action="store_true", help="ours with engine.compile=true")
    parser.add_argument("--long", action="store_true", help="more batch sizes and rounds")
    arguments = parser.parse_args()
    arguments.rounds, arguments.steps = ROUNDS_AND_STEPS[arguments.device, arguments.long]
    return arguments


if __name__ == "__main__":
    main()
