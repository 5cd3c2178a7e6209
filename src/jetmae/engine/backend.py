"""DeepSpeed, and nothing else in the project imports it: ZeRO 0-3, mixed precision, accumulation, clipping.

What DeepSpeed does badly is kept away from callers: it accepts misspelt configuration (ours is typed), compiles an
inference library when it starts on a CPU (switched off), keeps no gradient norm for stage 0, and leaves scripts beside
its checkpoints (removed).
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import Store

from jetmae.data.loader import Batch
from jetmae.errors import JetmaeError
from jetmae.runtime.world import World

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import deepspeed

deepspeed.logger.setLevel("ERROR")
warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # DeepSpeed's calls, not ours
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CHECKPOINT_TAG = "deepspeed"
COLLECTIVE_TIMEOUT = timedelta(minutes=10)  # torch waits half an hour for a peer that hangs


def join_process_group(device: str, store: Store, *, rank: int, size: int) -> None:
    """Initialise torch.distributed for this rank; the store is where the ranks have met."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # inference only; compiles for a minute
    backend = "gloo" if device == "cpu" or not torch.cuda.is_available() else "nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


def leave_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class Backend:
    """A network under DeepSpeed. Every method is collective: all ranks call it, in the same order."""

    def __init__(
        self,
        network: nn.Module,
        parameter_groups: list[dict],
        world: World,
        *,
        lr: float,
        betas: tuple[float, float],
        clip_norm: float | None,
        precision: str,
        zero_stage: int,
        micro_batch_size: int,
        accumulation: int,
    ):
        """Wrap a network; see `Engine` and `Optim` in config.py for the settings.

        Raises:
            JetmaeError: this device cannot compute in that precision.
        """
        if precision == "fp16" and world.device.type == "cpu":
            raise JetmaeError("engine.precision=fp16: a CPU cannot train in fp16; use bf16 or fp32")
        self.world, self.zero_stage, self.clip_norm = world, zero_stage, clip_norm
        self.dtype = PRECISIONS[precision]
        optimizer = torch.optim.AdamW(parameter_groups, lr=lr, betas=betas, fused=True)
        settings = {
            "train_micro_batch_size_per_gpu": micro_batch_size,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": clip_norm or 0.0,
            "zero_optimization": {"stage": zero_stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
            precision: {"enabled": True},
        }
        settings.pop("fp32", None)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=network, optimizer=optimizer, config=settings, dist_init_required=False
        )

    @property
    def network(self) -> nn.Module:
        """The network as DeepSpeed runs it; call it for a forward pass."""
        return self._engine

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self._engine.module.named_parameters())

    def train_step(
        self, loss_of: Callable[[nn.Module, Batch], Tensor], micro_batches: list[Batch], lr: float
    ) -> tuple[float, float]:
        """One optimizer update.

        Returns:
            the mean loss over the global batch, and the norm of its gradient before clipping.
        """
        self._engine.train()
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.world.device)
        gradient_norm = None
        for batch in micro_batches:
            loss = loss_of(self._engine, batch.to(self.world.device))
            self._engine.backward(loss)
            if self._engine.is_gradient_accumulation_boundary():
                gradient_norm = self._norm_before_step()
            self._engine.step()
            loss_sum += loss.detach().double()
        if gradient_norm is None:
            gradient_norm = self._engine.get_global_grad_norm()
        mean_loss = self.world.sum(loss_sum) / (len(micro_batches) * self.world.size)
        return mean_loss.item(), float(gradient_norm)

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The network in evaluation mode, without gradients."""
        self._engine.eval()
        with torch.no_grad():
            yield self._engine
        self._engine.train()

    def whole_weights(self) -> dict[str, Tensor]:
        """All parameters and buffers in float32 on the CPU, complete on rank 0; empty on the others."""
        weights = {}
        named = [*self._engine.module.named_parameters(), *self._engine.module.named_buffers()]
        for name, tensor in named:
            with deepspeed.zero.GatheredParameters([tensor], enabled=self.zero_stage == 3):
                if self.world.is_main:
                    weights[name] = tensor.detach().float().cpu().clone()
        return weights

    def local_part(self, parameter: nn.Parameter) -> Tensor:
        """The piece of a parameter that lies on this rank: all of it, or this rank's share under ZeRO 3."""
        return getattr(parameter, "ds_tensor", parameter).data

    def save(self, folder: Path) -> None:
        """Write all of the training state below `folder`. Not atomic: see checkpoint.py."""
        self._engine.save_checkpoint(str(folder), tag=CHECKPOINT_TAG, save_latest=False)
        if self.world.is_main:
            for script in folder.glob("*.py"):
                script.unlink()

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, with the same number of ranks and the same stage."""
        path, _ = self._engine.load_checkpoint(str(folder), tag=CHECKPOINT_TAG)
        if path is None:
            raise RuntimeError(f"DeepSpeed found nothing to load in {folder}")

    def _norm_before_step(self) -> float | None:
        """Stage 0 in fp32 steps torch's optimizer directly and keeps no norm; the gradients are reduced by now."""
        if self.zero_stage > 0 or self.dtype != torch.float32:
            return None
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).item()
