"""Pairs of a run and its control, with the difference of their AUCs on the same test jets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jetmae.metrics import Measurement
from jetmae.report.comparison import auc_difference
from jetmae.report.controls import CONTROL, control_of
from jetmae.report.evaluation_results import Predictions
from jetmae.report.run_reader import RecordedRun


@dataclass(frozen=True)
class Pair:
    """A run and its control (`controls.py`): the same seed, and so the same labels."""

    run: RecordedRun
    control: RecordedRun
    delta: Measurement  # AUC of the run minus that of the control; the uncertainty is that of the test jets
    paired: bool  # both were scored on the same jets

    @property
    def pretraining(self) -> str:
        """Tells pretrainings apart."""
        return str(self.run.config.get("init_from"))


def pairs_of(runs: Sequence[RecordedRun], predictions: Mapping[str, Predictions], kind: str) -> Iterator[Pair]:
    """Evaluated runs of a kind with their controls. `predictions` are those of the runs, by name."""
    for run in runs:
        if run.kind == kind and run.name in predictions:
            control = control_of(run, CONTROL[kind], runs, predictions)
            if control is not None:
                yield Pair(run, control, *auc_difference(predictions[run.name], predictions[control.name]))
