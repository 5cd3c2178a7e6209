"""A template that somebody copied before the move still trains, comes back, and loses nothing."""

from pathlib import Path

import pytest

from tests.cluster.test_templates import STEPS, sbatch
from tests.cluster.training import Training
from tests.conftest import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
OLD_NAMES = {
    "jetmae.launch.train_job": "jetmae.runtime.train_job",
    "jetmae.launch.supervisor": "jetmae.supervisor",
}


class OldTraining(Training):
    """A run that the launcher freezes, with the template as it was before the move."""

    def submit(self, *options: str) -> "OldTraining":
        folder = self.cluster.run(*self._command("--nodes", "2", "--freeze"))
        self.job_id = sbatch(self.cluster, str(old_template(self.run.root.parent)), folder, *options)
        return self


def old_template(folder: Path) -> Path:
    """slurm/train.sbatch with the modules' old names."""
    text = (PROJECT / "slurm" / "train.sbatch").read_text()
    for new, old in OLD_NAMES.items():
        assert text.count(f"-m {new} ") == 1
        text = text.replace(f"-m {new} ", f"-m {old} ")
    path = folder / "train.sbatch"
    path.write_text(text)
    return path


def test_a_job_of_the_old_template_is_stopped_comes_back_and_completes(cluster, sample, tmp_path):
    reference = Training(None, sample, tmp_path, "reference", STEPS).run_here()
    training = OldTraining(cluster, sample, tmp_path, "old", STEPS).submit()
    training.await_steps(1)
    training.signal_job("USR2")
    assert training.await_end() == "COMPLETED"
    training.check_like(reference, ["preempted", "completed"])
    first, second = training.ends
    assert second["resumed_step"] == first["last_committed_step"] == training.steps_of_attempt(1)
