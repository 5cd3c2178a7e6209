"""The four entrypoints are one loop and this table.

| entrypoint | task                | initial weights         | trainable |
|------------|---------------------|-------------------------|-----------|
| pretrain   | ReconstructionTask  | random                  | all       |
| finetune   | ClassificationTask  | a pretrain run          | all       |
| scratch    | ClassificationTask  | random                  | all       |
| probe      | ProbeTask           | a pretrain run, or none | head      |
| probe      | ObservablesProbe    | no encoder              | head      |
"""

from jetmae.config import OBSERVABLES, Experiment
from jetmae.tasks.classify import ClassificationTask
from jetmae.tasks.observables_probe import ObservablesProbe
from jetmae.tasks.probe import ProbeTask
from jetmae.tasks.reconstruct import ReconstructionTask
from jetmae.tasks.task import Task, TaskContext


def make_task(experiment: Experiment, context: TaskContext) -> Task:
    """The task of an experiment, with the initial weights that torch's generator gives now."""
    if experiment.task == "pretrain":
        return ReconstructionTask(experiment, context)
    if experiment.init_from == OBSERVABLES:
        return ObservablesProbe(experiment, context)
    return (ProbeTask if experiment.task == "probe" else ClassificationTask)(experiment, context)
