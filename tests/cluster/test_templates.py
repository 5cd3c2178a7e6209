"""The sbatch templates do what the launcher does: train, survive, come back, and lose nothing."""

from pathlib import Path

import pytest

from jetmae.records.json_lines import read_lines
from tests.cluster.slurm_cluster import SlurmCluster
from tests.cluster.training import START_TIMEOUT_S, Training, losses
from tests.conftest import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
STEPS = "optim.steps=120"
HOSTILE_FOLDER = 'it\'s 100% "$(touch executed)" `touch executed`; a&b'


class TemplateTraining(Training):
    """A run whose folder the launcher freezes and whose job is a template."""

    def submit(self, *options: str) -> "TemplateTraining":
        folder = self.cluster.run(*self._command("--nodes", "2", "--freeze"))
        self.job_id = sbatch(self.cluster, "train.sbatch", folder, *options)
        return self


def sbatch(cluster: SlurmCluster, template: str, *words: str | Path) -> str:
    """Submit a template as its first lines say, in the project's folder; `words` are folders, and options of sbatch."""
    folders = [word for word in words if not str(word).startswith("--")]
    options = [word for word in words if str(word).startswith("--")]
    output = f"--output={cluster.folder}/output/slurm-%A.out"
    script = PROJECT / "slurm" / template
    command = ("env", "--chdir", PROJECT, "sbatch", "--parsable", output, "--mem=3G", *options, script, *folders)
    return cluster.run(*command)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / HOSTILE_FOLDER
    folder.mkdir()
    return folder


def test_a_preempted_template_job_equals_an_uninterrupted_run_here(cluster, sample, runs):
    reference = Training(None, sample, runs, "reference", STEPS).run_here()
    training = TemplateTraining(cluster, sample, runs, "template", STEPS).submit("--partition=low")
    training.await_steps(1)
    preemptor = cluster.preempt(training.job_id)
    cluster.wait_for(training.job_id, lambda job: int(job["Restarts"]) == 1 and job["JobState"] == "PENDING")
    cluster.cancel(preemptor)
    assert training.await_end() == "COMPLETED"
    training.check_like(reference, ["preempted", "completed"])
    assert not any((folder / "executed").exists() for folder in (PROJECT, cluster.folder / "output"))
    first, second = training.ends
    assert first["hosts"] == ["node1", "node2"]
    assert second["resumed_step"] == first["last_committed_step"] == training.steps_of_attempt(1)
    output = (training.run.logs / f"{training.job_id}_0_log.out").read_text()
    assert "attempt 1, 2 rank(s)" in output, "a requeued job has overwritten its log"
    assert "attempt 2, 2 rank(s)" in output
    assert (training.run.logs / f"{training.job_id}_1_log.out").exists()

    again = sbatch(cluster, "train.sbatch", training.run.root)
    cluster.wait_for(again, "COMPLETED")
    assert len(training.starts) == 2, "a complete run was started again"


def test_an_array_element_comes_back_alone(cluster, sample, tmp_path):
    seeds = [Training(cluster, sample, tmp_path, f"pretrain-small-seed-{seed}", STEPS) for seed in (0, 1)]
    words = ["pretrain", *seeds[0].words, "--array", "seed=0..1", "--freeze", "--runs-dir", str(tmp_path)]
    frozen = cluster.run("python", PROJECT / "jobs" / "launch.py", *words).splitlines()
    assert frozen == [str(seed.run.root) for seed in seeds]

    job = sbatch(cluster, "array.sbatch", "--array=0-1", *frozen)
    for element, seed in enumerate(seeds):
        seed.job_id = f"{job}_{element}"
    seeds[0].await_steps(1)
    seeds[0].signal_job("USR2")
    assert [seed.await_end() for seed in seeds] == ["COMPLETED", "COMPLETED"]
    assert [[end["cause"] for end in seed.ends] for seed in seeds] == [["preempted", "completed"], ["completed"]]
    assert [seed.starts[-1]["job_id"] for seed in seeds] == [f"{job}_0", f"{job}_1"]
    assert len(losses(seeds[0].run)) == len(losses(seeds[1].run)) == 120
    assert losses(seeds[0].run) != losses(seeds[1].run)


def test_a_folder_that_is_no_run_is_refused(cluster, tmp_path):
    job = sbatch(cluster, "train.sbatch", tmp_path)
    cluster.wait_for(job, "FAILED")
    assert "is no run folder: expected one that jobs/launch.py --freeze has written" in cluster.output(job)
    assert cluster.job(job)["ExitCode"].startswith("78")


@pytest.mark.soak  # 90 s; its short version is tests/unit/test_templates.py
def test_a_chain_of_templates_ends_with_the_report_and_goes_on_where_it_stopped(cluster, sample, tmp_path):
    """Every stage is two steps long; the second call finds all of it complete."""
    tiny = [word for word in Training(None, sample, tmp_path, "x").words if not word.startswith("reconstruct.")]
    decoder = [f"pretrain.{word}" for word in Training(None, sample, tmp_path, "x").words if "reconstruct." in word]
    words = [*tiny, *decoder, "optim.steps=2", "--name", "chain", "--runs-dir", str(tmp_path), "--nodes", "2"]
    report = tmp_path / "chain" / "report" / "report.html"
    for _ in range(2):
        cluster.run("bash", PROJECT / "slurm" / "chain.sh", *words)
        last = max(cluster.jobs_left(), key=int)
        cluster.wait_for(last, "COMPLETED", timeout_s=5 * START_TIMEOUT_S)
        assert report.exists()
        report.unlink()
    runs = sorted(path.parent for path in (tmp_path / "chain").glob("*/COMPLETED"))
    names = ["finetune", "pretrain", "probe", "probe-observables", "probe-random", "scratch"]
    assert [run.name for run in runs] == names
    assert all(len(read_lines(run / "attempts.jsonl")) == 2 for run in runs)
