"""A run of a few kilobytes on one rank: its state at each step is known, and saved and loaded by the real code."""

from collections.abc import Callable
from functools import lru_cache

import torch

from jetmae.checkpoint.checkpoints import Checkpoints, Identity
from jetmae.checkpoint.pieces import Piece
from jetmae.checkpoint.store import CheckpointStore
from jetmae.checkpoint.train_state import TrainState
from jetmae.runtime.world import World

ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
IDENTITY = Identity(experiment="an experiment", data="some data")
LENGTHS = {"weight/encoder": 211, "moment/encoder": 211, "weight/head": 37}


class Lease:
    """Ours, until somebody takes the run over."""

    def __init__(self, token: int = 1):
        self.token, self.is_held = token, True

    def holds(self) -> bool:
        return self.is_held


class SmallBackend:
    """Stands in for DeepSpeed: float32 tensors, of which rank `rank` of `ranks` holds its part, and one number."""

    def __init__(self, rank: int = 0, ranks: int = 1):
        self.steps = -1
        self._pieces = []
        for name, length in LENGTHS.items():
            first, last = (length * number // ranks for number in (rank, rank + 1))
            self._pieces.append(Piece(name, first, torch.full((last - first,), -1.0)))
        self._pieces.append(Piece("scale", 0, torch.full((5,), -1.0), replicated=True))

    def pieces(self) -> list[Piece]:
        return self._pieces

    def numbers(self) -> dict[str, float]:
        return {"optimizer_steps": self.steps}

    def restore(self, numbers: dict[str, float]) -> None:
        self.steps = int(numbers["optimizer_steps"])

    def train_to(self, step: int) -> TrainState:
        """Have the state of that step."""
        self.steps = step
        for piece in self._pieces:
            piece.values.copy_(values_of(piece.name, step)[piece.start : piece.stop])
        return state_of(step)

    def holds(self, step: int) -> bool:
        """Whether every bit is that of that step."""
        return self.steps == step and all(
            torch.equal(piece.values, values_of(piece.name, step)[piece.start : piece.stop]) for piece in self._pieces
        )


@lru_cache(maxsize=1000)
def values_of(name: str, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * step + len(name))
    return torch.randn(LENGTHS.get(name, 5), generator=generator)


def state_of(step: int) -> TrainState:
    return TrainState(step, best_score=-1 / (1 + step), best_step=step // 2, skipped_steps=[3] if step > 3 else [])


def make_checkpoints(
    store: CheckpointStore,
    backend: SmallBackend,
    *,
    lease: "Lease | None" = None,
    identity: Identity = IDENTITY,
    record: Callable[[dict], None] = lambda line: None,
) -> Checkpoints:
    """Of this rank alone."""
    parts = {"training": backend, "pieces": backend.pieces()}
    return Checkpoints(store, ALONE, lease or Lease(), **parts, identity=identity, record=record)
