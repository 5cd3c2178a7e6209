"""A job runs the code it was submitted with: what is edited while it waits, or before it comes back, is not in it."""

from pathlib import Path

import pytest

from tests.cluster.training import Training
from tests.conftest import PROJECT
from tests.source_tree import SourceTree, starts_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = "optim.steps=60"


class EditedTraining(Training):
    """A run on one node, typed in the folder of sources that are edited afterwards."""

    def __init__(self, tree: SourceTree, *place: object):
        super().__init__(*place, STEPS)
        self.in_tree = ("env", "--chdir", str(tree.folder), f"PYTHONPATH={tree.folder}")

    def submit(self, *options: str) -> "EditedTraining":
        """As a job that waits until it is let go."""
        later = ("--mem", "3G", "--sbatch", "begin=now+1hour")
        self.printed = self.cluster.run(*self.in_tree, *self._command(*later, *options))
        self.job_id = next(line.split()[1] for line in self.printed.splitlines() if line.startswith("job "))
        return self

    def let_go(self) -> None:
        self.cluster.run("scontrol", "update", f"JobId={self.job_id}", "StartTime=now")


class EditedTemplateTraining(EditedTraining):
    """The same with the sbatch template."""

    def submit(self, *options: str) -> "EditedTemplateTraining":
        folder = self.cluster.run(*self.in_tree, *self._command("--freeze"))
        output = f"--output={self.cluster.folder}/output/slurm-%A.out"
        sbatch = ("sbatch", "--parsable", output, "--nodes=1", "--mem=3G", "--begin=now+1hour")
        script = PROJECT / "slurm" / "train.sbatch"
        self.job_id = self.cluster.run(*self.in_tree, *sbatch, *options, script, folder)
        return self


def test_what_was_queued_and_comes_back_runs_the_code_it_was_submitted_with(cluster, sample, tmp_path: Path):
    """The launcher's job beside the template's; the tree they were submitted from cannot even be imported."""
    tree = SourceTree(tmp_path / "src")
    tree.edit("SUBMITTED")
    place = (cluster, sample, tmp_path / "runs")
    trainings = [EditedTraining(tree, *place, "launched"), EditedTemplateTraining(tree, *place, "template")]
    for training in trainings:
        training.submit()
    tree.edit("EDITED")
    tree.break_it()
    for training in trainings:
        training.let_go()
    for training in trainings:
        training.await_steps(1)
        training.signal_job("USR2")
    for training in trainings:
        assert training.await_end() == "COMPLETED"
        assert [end["cause"] for end in training.ends] == ["preempted", "completed"]
        assert starts_of(training.run.logs / "run.log") == ["SUBMITTED attempt 1", "SUBMITTED attempt 2"]
        assert not list(training.run.code.rglob("__pycache__"))
