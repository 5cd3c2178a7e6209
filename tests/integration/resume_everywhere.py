"""One rank of a proof that a run can be resumed from each of its steps.

    python -m tests.integration.resume_everywhere RUN_DIR SCRATCH_DIR

RUN_DIR is frozen to commit at every step and to keep every checkpoint. It is trained without interruption; then, from a
copy of each of its checkpoints alone, the rest is trained again, with a network and an engine of its own. To save time
these do not start processes of their own (tests/chaos does), and leave out the evaluation at the end, which depends on
the best weights alone.
"""

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

from jetmae import run
from jetmae.config import read_experiment
from jetmae.engine.backend import join_process_group, leave_process_group
from jetmae.evaluation import Evaluation
from jetmae.run_folder import RunFolder
from jetmae.runtime.preemption import StopRequest
from jetmae.runtime.rendezvous import meet
from jetmae.runtime.world import World, world_from_environment


def main() -> None:
    folder, scratch = RunFolder(Path(sys.argv[1])), Path(sys.argv[2])
    experiment = read_experiment(folder.config)
    world = world_from_environment("cpu")
    store = meet(folder.root, rank=world.rank, size=world.size, device="cpu")
    join_process_group("cpu", store, rank=world.rank, size=world.size)
    train(folder, world)
    Evaluation.evaluate_best = lambda *_: None
    for step in range(experiment.optim.steps):
        resumed = RunFolder(scratch / f"from-{step:04d}")
        world.on_main(lambda resumed=resumed, step=step: copy_checkpoint(folder, resumed, step))
        train(resumed, world)
    leave_process_group()


def train(folder: RunFolder, world: World) -> None:
    with ExitStack() as held:
        lease = run.take_lease(folder, world, held)
        assert run.attempt(folder, read_experiment(folder.config), world, lease, StopRequest())


def copy_checkpoint(source: RunFolder, target: RunFolder, step: int) -> None:
    target.root.mkdir(parents=True)
    shutil.copy(source.config, target.config)
    name = f"step-{step:08d}"
    shutil.copytree(source.checkpoints / name, target.checkpoints / name)


if __name__ == "__main__":
    main()
