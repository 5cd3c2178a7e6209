"""The ranks of a job: who they are, and how they agree.

An error is a collective result: when one rank cannot go on, all stop together with the same message, instead of
waiting for it in the next collective until a time-out.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from jetmae.errors import MAY_PASS, JetmaeError, PassingFault
from jetmae.runtime.gpus import device_index, gpu_identity, has_own_gpus

T = TypeVar("T")


class Stopped(Exception):
    """Work that can be done again was given up for a stop request, by all ranks at the same place."""


@dataclass(frozen=True)
class Agreement:
    """What at least one rank says."""

    stop: bool
    busy: bool


@dataclass(frozen=True)
class World:
    """This rank's place in the job. Its methods need an initialised process group."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def gather(self, content: T) -> list[T]:
        """Every rank's object, in rank order, on every rank."""
        if self.size == 1:
            return [content]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, content)
        return gathered

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Every rank's rows, in rank order, on every rank; all ranks have equally many, of one type."""
        if self.size == 1:
            return rows
        gathered = rows.new_empty((self.size * len(rows), *rows.shape[1:]))
        dist.all_gather(list(gathered.chunk(self.size)), rows.contiguous())
        return gathered

    def maximum(self, tensor: Tensor) -> Tensor:
        """Element by element, over all ranks."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def agree(self, *, error: JetmaeError | None = None, stop: bool = False, busy: bool = False) -> Agreement:
        """One verdict for all ranks: raise if any has an error, else whether any wants to stop or is busy.

        Raises:
            JetmaeError: the first failing rank's error, on every rank.
        """
        flags = self.sum(torch.tensor([error is not None, stop, busy], dtype=torch.int32, device=self.device)).tolist()
        if flags[0]:
            failed = [(rank, failure) for rank, failure in enumerate(self.gather(error)) if failure is not None]
            rank, failure = failed[0]
            raise type(failure)(f"rank {rank}: {failure}" if self.size > 1 else str(failure)) from error
        return Agreement(stop=bool(flags[1]), busy=bool(flags[2]))

    def together(self, action: Callable[[], T], *, stop: Callable[[], bool] = lambda: False) -> T:
        """Do something that can fail on some ranks only; all ranks learn of it.

        Raises:
            JetmaeError: as `agree`.
            Stopped: `stop` says so on some rank.
        """
        result, error = None, None
        try:
            result = action()
        except JetmaeError as failure:
            error = failure
        except OSError as failure:
            kind = PassingFault if failure.errno in MAY_PASS else JetmaeError
            error = kind(f"{failure.strerror or failure}: {failure.filename}; mend it and start again to go on")
        if self.agree(error=error, stop=stop()).stop:
            raise Stopped
        return result  # type: ignore[return-value]

    def each(self, items: Iterable[T], *, stop: Callable[[], bool] = lambda: False) -> Iterator[T]:
        """The items, each fetched `together`; all ranks have the same number of them.

        Raises:
            Stopped: `stop` says so on some rank.
        """
        iterator = iter(items)
        while (item := self.together(lambda: next(iterator, None), stop=stop)) is not None:
            yield item

    def on_main(self, action: Callable[[], None]) -> None:
        """Do something on rank 0 alone, while the others wait for its end and share its error."""
        self.together(action if self.is_main else lambda: None)


def world_from_environment(device: str) -> World:
    """Rank, size and device from RANK, WORLD_SIZE, LOCAL_RANK, which the launcher sets; a single rank without them.

    Raises:
        JetmaeError: a GPU is asked for and not there.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return World(
        rank=int(os.environ.get("RANK", "0")),
        size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=local_rank,
        device=choose_device(device, local_rank),
    )


def choose_device(device: str, local_rank: int) -> torch.device:
    """The CPU, or this rank's GPU, which torch and DeepSpeed use from here on."""
    if device == "cuda" and not torch.cuda.is_available():
        raise JetmaeError("engine.device=cuda: torch finds no GPU here; use engine.device=cpu or a GPU node")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    chosen = torch.device("cuda", device_index(local_rank, torch.cuda.device_count(), has_own=has_own_gpus()))
    torch.cuda.set_device(chosen)
    os.environ["LOCAL_RANK"] = str(chosen.index)  # DeepSpeed takes it for the number of the GPU
    return chosen


def current_gpu() -> str | None:
    """The identity of the GPU that this rank has chosen; None without one."""
    if not torch.cuda.is_available():
        return None
    index = torch.cuda.current_device()
    return gpu_identity(index, str(torch.cuda.get_device_properties(index).uuid))
