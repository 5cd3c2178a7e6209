"""Scores of a network: during training on the validation split, at the end of the best weights on all splits.

What the report needs of each jet goes into evaluation/ of the run folder.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from jetmae.data.order import some_jets
from jetmae.data.rank_batches import RankBatches
from jetmae.engine.recorder import Recorder
from jetmae.files import await_listed, written_aside
from jetmae.plan import Plan
from jetmae.run_folder import RunFolder
from jetmae.runtime.liveness.phases import enter_phase, with_phases
from jetmae.runtime.world import World
from jetmae.tasks.task import Columns, Metrics, Task
from jetmae.weights import read_weights

PICTURED_JETS = 128  # of a split, for the mean image


@dataclass(frozen=True)
class Evaluation:
    """Scores networks of one run. Every method is collective, unless it says otherwise."""

    folder: RunFolder
    plan: Plan
    task: Task
    batches: RankBatches
    world: World

    def validation_score(self, network: nn.Module, stop: Callable[[], bool]) -> tuple[Metrics, float]:
        """Metrics of the validation split, and their score.

        Raises:
            Stopped: `stop` says so on some rank.
        """
        metrics, _ = self.evaluate(network, self.plan.validation_split, "validate", stop=stop)
        return metrics, self.task.score(metrics)

    def evaluate_best(self, step: int, recorder: Recorder | None) -> None:
        """Score the best weights, those of `step`, on the test split, and keep results and pictures for the report."""
        network = self.best_network()
        self.world.on_main(lambda: self.folder.evaluation.mkdir(exist_ok=True))
        if self.task.scores_training_jets:
            self.evaluate_split(network, "train", self.plan.train_split)
            self.learn_reference()
        self.evaluate_split(network, "validation", self.plan.validation_split)
        if self.plan.test_split is not None:
            metrics = self.evaluate_split(network, "test", self.plan.test_split)
            place = self.plan.place(step)
            self.world.together(lambda: recorder.evaluation("test", **place, metrics=metrics) if recorder else None)

    def best_network(self) -> nn.Module:
        """A network of its own, not sharded, with the best weights."""
        self.world.together(lambda: await_listed(self.folder.best_weights))  # rank 0 has written them
        weights, _ = self.world.together(lambda: read_weights(self.folder.best_weights))
        network = self.task.make_network().to(self.world.device).eval()
        network.load_state_dict(weights)
        return network

    def learn_reference(self) -> None:
        """From the training jets that have been scored."""
        with closing(self.batches.scored(self.plan.train_split)) as batches:
            self.task.learn_reference(with_phases(self.world.each(batches), "mean image"))

    def evaluate_split(self, network: nn.Module, kind: str, split: str) -> Metrics:
        """Score a split and keep what the report shows of it; `kind` is train, validation or test."""
        with torch.no_grad():
            metrics, per_jet = self.evaluate(network, split, "evaluate")
        enter_phase("evaluate: pictures", split)
        self.world.on_main(lambda: self.keep(network, kind, split, per_jet))
        return metrics

    def evaluate(
        self, network: nn.Module, split: str, activity: str, *, stop: Callable[[], bool] = lambda: False
    ) -> tuple[Metrics, Columns]:
        """Metrics, and columns of all scored jets of a split.

        Raises:
            Stopped: `stop` says so on some rank.
        """
        with closing(self.batches.scored(split)) as batches:
            return self.task.evaluate(network, with_phases(self.world.each(batches, stop=stop), activity))

    def keep(self, network: nn.Module, kind: str, split: str, per_jet: Columns) -> None:
        """Write what the report shows of a split. For rank 0 alone."""
        with torch.no_grad():
            pictured = self.batches.alone(split, some_jets(per_jet["sample_id"], PICTURED_JETS))
            arrays = self.task.evaluation_arrays(network, per_jet, pictured)
        for name in self.task.jet_columns:
            column = self.batches.datasets[split].column(name)
            if column is not None:
                arrays[name] = column[per_jet["sample_id"]]
        arrays["classes"] = np.array(self.plan.manifest.classes or [])
        arrays["units"] = np.array(self.plan.manifest.units)
        target = self.folder.evaluation / f"{self.task.evaluation_name}_{kind}.npz"
        with written_aside(target) as aside, aside.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
