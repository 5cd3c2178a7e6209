"""One rank of a run in which something goes wrong.

    python -m tests.integration.faulty_run RUN_DIR

FAULT says what:
    nan-loss:IDS        the loss of a batch that holds one of these sample ids is not a number
    nan-gradient:IDS    so is its gradient, and the loss is well
    bit-flip:STEP       after this step one bit of a weight of rank 1 is another
"""

import os

import torch

from jetmae import rank
from jetmae.engine.loop import Fit
from jetmae.tasks.reconstruct import ReconstructionTask


def main() -> int:
    kind, _, numbers = os.environ["FAULT"].partition(":")
    chosen = set(map(int, numbers.split(",")))
    {"nan-loss": poison_loss, "nan-gradient": poison_gradient, "bit-flip": flip_bit}[kind](chosen)
    return rank.main()


def poison_loss(ids: set[int]) -> None:
    spoil_loss(ids, lambda loss: loss * torch.nan)


def poison_gradient(ids: set[int]) -> None:
    """The root of 0 is 0, and its slope is infinite."""
    spoil_loss(ids, lambda loss: loss + (loss * 0).sqrt())


def spoil_loss(ids: set[int], spoil) -> None:
    original = ReconstructionTask.train_loss

    def train_loss(task, network, batch):
        loss = original(task, network, batch)
        return spoil(loss) if ids & set(batch.ids_B.tolist()) else loss

    ReconstructionTask.train_loss = train_loss


def flip_bit(steps: set[int]) -> None:
    original = Fit._update

    def update(fit, micro_batches):
        well = original(fit, micro_batches)
        if fit.state.step + 1 in steps and fit.world.rank == 1:
            weight = next(piece.values for piece in fit.backend.local_parts().values())
            weight.view(torch.int32)[0] ^= 1
        return well

    Fit._update = update


if __name__ == "__main__":
    rank.exit_with_one_line(main, leave=rank.leave_at_once)
