"""Where DeepSpeed keeps the float32 weights and AdamW's moments, for each ZeRO stage.

This and backend.py are the only code that knows DeepSpeed from inside.

DeepSpeed's own checkpoints hold what is needed too, but tied to a number of ranks and a stage, pickled, and written
while training waits. The places below are those that its universal checkpoint and its documented accessors read.

    stage 0, fp32        the parameters themselves, and the state of torch's optimizer
    stage 0, bf16/fp16   a float32 copy of each parameter (FP16_UnfusedOptimizer)
    stages 1, 2          all parameters of a group in one flat tensor, an equal part of it on each rank
    stage 3              an equal part of each parameter on each rank, the last ones padded
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from jetmae.checkpoint.pieces import Piece

MOMENTS = ("exp_avg", "exp_avg_sq")


class ZeroState:
    """The optimizer's state behind a DeepSpeed engine."""

    def __init__(self, engine: Any, stage: int, precision: torch.dtype):
        """AdamW makes its moments at the first step; they are made here, so that there is something to restore into.

        For stage 0 in half precision DeepSpeed has made a step with gradients of zero already. It has decayed the
        float32 weights at the full learning rate, and would count in the bias correction: it is undone.
        """
        self._engine, self._stage = engine, stage
        self._adamw = engine.basic_optimizer
        self._copy_of = _copies(engine.optimizer) if stage == 0 and precision != torch.float32 else {}
        for parameter, copy in self._copy_of.items():
            copy.data.copy_(parameter.data)
        for master in self._masters():
            step = torch.zeros((), dtype=torch.float32, device=master.device)
            self._adamw.state[master] = {"step": step, **{name: torch.zeros_like(master) for name in MOMENTS}}
        if stage in (1, 2):
            engine.optimizer._lazy_init_hp_params_optimizer_state()  # noqa: SLF001  no public way

    def pieces(self) -> Iterator[Piece]:
        """Weights and moments that lie on this rank; of stage 0 all of them, on every rank."""
        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad:
                start, parts = self._parts(parameter)
                for kind, values in parts.items():
                    yield Piece(f"{kind}/{name}", start, values.detach(), replicated=self._stage == 0)

    def local_part(self, name: str, parameter: Any) -> Piece:
        """What of a working weight, in the precision of the step, lies on this rank: under stage 3 its part."""
        if self._stage < 3:
            return Piece(name, 0, parameter.data.view(-1), replicated=True)
        start, length = self._place(parameter)
        return Piece(name, start, parameter.ds_tensor.data.view(-1)[:length])

    @property
    def optimizer_steps(self) -> int:
        """Updates that AdamW has made; its bias correction depends on it."""
        return int(self._adamw.state[next(self._masters())]["step"])

    def restored(self, optimizer_steps: int) -> None:
        """To be called when the pieces have been written: bring all that is derived from them up to date."""
        for master in self._masters():
            self._adamw.state[master]["step"].fill_(optimizer_steps)
        optimizer = self._engine.optimizer
        for parameter, copy in self._copy_of.items():
            parameter.data.copy_(copy.data)
        if self._stage in (1, 2):
            optimizer.update_lp_params()
        elif self._stage == 3:
            self._restore_parts(optimizer)

    def parts_changed(self) -> None:
        """To be called when local parts were written: stage 3 keeps small weights gathered on every rank."""
        gathered = self._engine.optimizer.persistent_parameters if self._stage == 3 else []
        if gathered:
            gathered[0].partition(gathered)
            gathered[0].all_gather(gathered)

    def _masters(self) -> Iterator[Tensor]:
        """The float32 tensors that AdamW works on."""
        optimizer = self._engine.optimizer
        if self._stage == 3:
            yield from optimizer.fp32_partitioned_groups_flat
        elif self._stage:
            yield from optimizer.single_partition_of_fp32_groups
        else:
            yield from (parameter for group in self._adamw.param_groups for parameter in group["params"])

    def _parts(self, parameter: Any) -> tuple[int, dict[str, Tensor]]:
        """Where the part of a parameter begins that lies on this rank, and its weight and moments, flat."""
        if self._stage == 3:
            start, length = self._place(parameter)
            optimizer = self._engine.optimizer
            values = {"weight": optimizer.get_local_fp32_param(parameter)}
            values |= {name: optimizer.get_local_fp32_param(parameter, name) for name in MOMENTS}
            return start, {name: value[:length] for name, value in values.items()}
        if self._stage:
            mapping = parameter._hp_mapping  # noqa: SLF001  what DeepSpeed's universal checkpoint reads
            if mapping is None:  # all of it lies on other ranks
                return 0, {}
            moments = {name: mapping.get_optim_state_fragment(name) for name in MOMENTS}
            return mapping.lp_fragment_address.start, {"weight": mapping.get_hp_fragment(), **moments}
        master = self._copy_of.get(parameter, parameter)
        state = self._adamw.state[master]
        return 0, {"weight": master.data.view(-1), **{name: state[name].view(-1) for name in MOMENTS}}

    def _place(self, parameter: Any) -> tuple[int, int]:
        """Stage 3: first element and number of elements, without padding, of this rank's part."""
        size = parameter.ds_tensor.numel()
        start = torch.distributed.get_rank() * size
        return start, max(0, min(size, parameter.ds_numel - start))

    def _restore_parts(self, optimizer: Any) -> None:
        for parameter in self._engine.module.parameters():
            if parameter.requires_grad:
                parameter.ds_tensor.data.copy_(optimizer.get_local_fp32_param(parameter))
        self.parts_changed()


def _copies(optimizer: Any) -> dict[nn.Parameter, Tensor]:
    """The float32 copy of each parameter."""
    groups = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
    return {parameter: copy for group in groups for parameter, copy in zip(*group, strict=True)}
