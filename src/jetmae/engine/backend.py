"""DeepSpeed, and nothing else in the project imports it: ZeRO 0-3, mixed precision, accumulation, clipping.

What DeepSpeed does badly is kept away from callers: it accepts misspelt configuration (ours is typed), compiles an
inference library when it starts on a CPU (switched off), and keeps no gradient norm for stage 0. Its checkpoints are
not used at all: checkpoint/ writes the pieces that zero_state.py finds.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import Store  # type: ignore[attr-defined]  # torch does not re-export it by name

from jetmae.checkpoint.pieces import Piece
from jetmae.data.batch import Batch
from jetmae.engine.zero_state import ZeroState
from jetmae.errors import JetmaeError
from jetmae.runtime.world import World

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
with warnings.catch_warnings(), patch("torch.compile", lambda function=None, **_: function or (lambda f: f)):
    # For ZeRO DeepSpeed imports Muon, an optimizer that is not used here and whose decorators bring in the compiler:
    # without the patch that takes each rank 3 s at every start.
    warnings.simplefilter("ignore")
    import deepspeed
    import deepspeed.runtime.zero.muon.muon_optimizer

deepspeed.logger.setLevel("ERROR")
warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # DeepSpeed's calls, not ours
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def join_process_group(device: str, store: Store, *, rank: int, size: int, timeout_s: float = 1200.0) -> None:
    """Initialise torch.distributed for this rank; the store is where the ranks have met.

    A collective fails after `timeout_s`. The watchdogs are to be faster, for they know who hangs.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # inference only; compiles for a minute
    backend = "gloo" if device == "cpu" or not torch.cuda.is_available() else "nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s))
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


def leave_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass(frozen=True)
class StepResult:
    """Mean loss of the global batch, its gradient's norm before clipping, and losses of this rank's micro-batches."""

    loss: float
    gradient_norm: float
    local_losses: list[Tensor]


class Backend:
    """A network under DeepSpeed. Every method is collective: all ranks call it, in the same order."""

    def __init__(
        self,
        network: nn.Module,
        parameter_groups: list[dict[str, Any]],
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
            raise JetmaeError(
                "engine.precision=fp16: a CPU cannot train in fp16; use bf16 or fp32 in a new --name, or a GPU"
            )
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
        self._state = ZeroState(self._engine, zero_stage, self.dtype)

    @property
    def network(self) -> nn.Module:
        """The network as DeepSpeed runs it; call it for a forward pass."""
        network: nn.Module = self._engine
        return network

    def train_step(
        self,
        loss_of: Callable[[nn.Module, Batch], Tensor],
        micro_batches: list[Batch],
        lr: float,
        *,
        before_update: Callable[[], None],
    ) -> StepResult:
        """One optimizer update; `before_update` is called when all gradients are there and no weight has changed."""
        self._engine.train()
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        losses, gradient_norm, scale = [], None, 1.0
        for batch in micro_batches:
            loss = loss_of(self._engine, batch.to(self.world.device))
            self._engine.backward(loss)
            if self._engine.is_gradient_accumulation_boundary():
                gradient_norm = self._norm_before_step()
                if self._scaler and not self.zero_stage:
                    scale = self._scaler.cur_scale  # which DeepSpeed leaves in the norm
                before_update()
            self._engine.step()
            losses.append(loss.detach().double())
        if gradient_norm is None:
            gradient_norm = self._engine.get_global_grad_norm()
        mean_loss = self.world.sum(torch.stack(losses).sum()) / (len(micro_batches) * self.world.size)
        gradient_norm = torch.as_tensor(gradient_norm, dtype=torch.float64, device=mean_loss.device)
        # Here the host waits for the device, and once only.
        loss, scaled_norm = torch.stack([mean_loss, gradient_norm]).tolist()
        norm = scaled_norm / scale if scaled_norm >= 0 else math.nan  # DeepSpeed says -1 for not finite
        return StepResult(loss, norm, losses)

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The network in evaluation mode, without gradients."""
        self._engine.eval()
        try:
            with torch.no_grad():
                yield self._engine
        finally:
            self._engine.train()

    def whole_weights(self) -> dict[str, Tensor]:
        """All parameters and kept buffers in float32 on the CPU, complete on rank 0; empty on the others."""
        weights, module = {}, self._engine.module
        kept = module.state_dict().keys()
        named = [*module.named_parameters(), *module.named_buffers()]
        for name, tensor in ((name, tensor) for name, tensor in named if name in kept):
            with deepspeed.zero.GatheredParameters([tensor], enabled=self.zero_stage == 3):
                if self.world.is_main:
                    weights[name] = tensor.detach().float().cpu().clone()
        return weights

    def pieces(self) -> list[Piece]:
        """The float32 weights and optimizer moments that lie on this rank; writing into them restores a state."""
        return list(self._state.pieces())

    def local_parts(self) -> dict[str, Piece]:
        """What of each trainable weight lies on this rank, in the precision of the step: a view."""
        named = self._engine.module.named_parameters()
        return {name: self._state.local_part(name, p) for name, p in named if p.requires_grad}

    def parts_changed(self) -> None:
        """To be called when local parts were written."""
        self._state.parts_changed()

    def numbers(self) -> dict[str, float]:
        """What belongs to the pieces and is no tensor."""
        scales = vars(self._scaler) if self._scaler else {}
        kept = {f"loss_scaler.{name}": value for name, value in scales.items() if isinstance(value, int | float)}
        return {"optimizer_steps": self._state.optimizer_steps, **kept}

    def restore(self, numbers: dict[str, float]) -> None:
        """Go on from pieces that have been filled, and from the numbers that belong to them."""
        for name, value in numbers.items():
            if name.startswith("loss_scaler."):
                setattr(self._scaler, name.removeprefix("loss_scaler."), value)
        self._state.restored(int(numbers["optimizer_steps"]))

    def replica_digest(self) -> dict[str, int]:
        """For each weight that every rank holds whole, a sum over its bits. Empty under stage 3.

        It is equal on all ranks, or one of them has gone wrong.
        """
        if self.zero_stage == 3:
            return {}
        whole = {name: piece.values for name, piece in self.local_parts().items()}
        integers = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
        sums = [values.view(integers[values.dtype]).sum(dtype=torch.int64) for values in whole.values()]
        return dict(zip(whole, torch.stack(sums).tolist(), strict=True))

    @property
    def _scaler(self) -> Any:
        """What holds the loss scale of fp16; DeepSpeed's optimizer of stage 0 names it otherwise. None without one."""
        if self.dtype != torch.float16:
            return None
        optimizer = self._engine.optimizer
        return optimizer.loss_scaler if self.zero_stage else optimizer.loss_scale_config

    @property
    def skipped_by_scaler(self) -> bool:
        """Whether the last step made no update because fp16 overflowed, which the loss scaler deals with."""
        return self.dtype == torch.float16 and bool(getattr(self._engine.optimizer, "overflow", False))

    def _norm_before_step(self) -> Tensor | None:
        """Stage 0 in fp32 steps torch's optimizer directly and keeps no norm; the gradients are reduced by now."""
        if self.zero_stage > 0 or self.dtype != torch.float32:
            return None
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)
