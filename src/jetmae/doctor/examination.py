"""Everything that doctor looks at, in its order: this machine, storage, data, the cluster, and a short job.

Each part yields verdicts as they are reached. Progress goes to stderr.
"""

import os
import shutil
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from jetmae.doctor import cluster, machine, storage
from jetmae.doctor.dataset import check_dataset
from jetmae.doctor.job import await_job
from jetmae.doctor.ranks import Ask, variables_that_matter
from jetmae.doctor.results import judge
from jetmae.doctor.verdict import Verdict, failed, has_failed, ok, warning
from jetmae.errors import JetmaeError
from jetmae.files import make_folder
from jetmae.launch import submission
from jetmae.launch.resources import Request, Resources, request_of
from jetmae.launch.train_job import CommandJob
from jetmae.slurm import cluster_facts
from jetmae.slurm.cluster_facts import ClusterFacts
from jetmae.slurm.command import ask

JOB_TIME_MIN = 5  # it takes two; an import from slow storage may take the rest
JOB_LEAD_TIME_S = 30
JOB_WAIT_S = 90.0  # for ranks that do not come, and for collectives that do not end


@dataclass(frozen=True)
class Examination:
    """What is to be examined. `resources` None: runs are processes of this machine."""

    runs_dir: Path
    resources: Resources | None
    checkpoint_bytes: int
    num_checkpoints: int
    data: Path | None = None
    submits_job: bool = False
    job_wait_s: float = 1800.0

    @property
    def num_ranks(self) -> int:
        """Of the request."""
        return self.resources.nodes * self.resources.tasks_per_node if self.resources else 1


def examine(asked: Examination) -> Iterator[Verdict]:
    """All verdicts, as they are reached."""
    yield from machine.check_machine()
    storage_works, save_s = yield from examine_storage(asked)
    if asked.data:
        yield from check_dataset(asked.data)
    if asked.resources is None:
        yield without_slurm(asked)
    else:
        yield from examine_cluster(asked, asked.resources, save_s, storage_works=storage_works)


def without_slurm(asked: Examination) -> Verdict:
    """Of a machine without Slurm, or with --cluster local."""
    if asked.submits_job:
        todo = "load Slurm's module, or leave out --job and --cluster local"
        return failed("Slurm", "no sbatch on PATH, or --cluster local", "no job can be submitted", todo)
    return ok("Slurm", "not used: runs are processes of this machine")


def examine_storage(asked: Examination) -> Generator[Verdict, None, tuple[bool, float | None]]:
    """Yields verdicts; returns whether the folder can be used, and the seconds a save takes from here."""
    nodes = asked.resources.nodes if asked.resources else 1
    found = storage.check_storage(
        asked.runs_dir,
        checkpoint_bytes=asked.checkpoint_bytes,
        num_checkpoints=asked.num_checkpoints,
        nodes=nodes,
        ranks=asked.num_ranks,
    )
    works, save_s = None, None
    for verdict in found:
        yield verdict
        works = not has_failed([verdict]) if works is None else works  # the first says whether one can write
    if works:
        speed, save_s = storage.measure_save(asked.runs_dir, asked.checkpoint_bytes)
        yield speed
        locks_work = storage.flock_works(asked.runs_dir)
        yield machine.check_hdf5_locking(machine.hdf5_locking_setting(), locks_work=locks_work)
    return bool(works), save_s


def examine_cluster(
    asked: Examination, resources: Resources, save_s: float | None, *, storage_works: bool
) -> Iterator[Verdict]:
    """Slurm's commands, its configuration against the request, its own opinion, and the job."""
    verdicts = list(machine.check_slurm())
    yield from verdicts
    facts = None if has_failed(verdicts) else cluster_facts.ask_cluster()
    if facts is None:
        yield failed("cluster", "not examined", "Slurm does not answer from here", "mend what failed above first")
        return
    request = request_of(resources)
    yield from cluster.check_cluster(request, facts, save_s)
    accepted = slurms_opinion(asked.runs_dir, resources)
    yield accepted
    if asked.submits_job and storage_works and not has_failed([accepted]):
        yield from examine_job(asked, resources, warned_s(request, facts))
    elif asked.submits_job:
        yield warning("job", "not submitted", "it could not run", "mend what failed above first")


def slurms_opinion(runs_dir: Path, resources: Resources) -> Verdict:
    """Whether sbatch would take the script of such a job."""
    try:
        script = submission.script([runs_dir], resources, name="doctor")
    except JetmaeError as error:
        return failed("sbatch script", str(error), "launch.py refuses the run", "another --runs-dir")
    return cluster.check_submission(*cluster.ask_sbatch(script))


def warned_s(request: Request, facts: ClusterFacts) -> dict[str, float]:
    """The times, by their names, in which a save must fit; where there is none at all, that has been said."""
    times, qos = {"lead time": float(request.lead_time_s)}, cluster.qos_of(request, facts)
    for name in cluster.partitions_asked(request, facts):
        partition = facts.partitions.get(name)
        if partition and cluster.preempt_mode(partition, facts, qos) != "OFF":
            times[f"GraceTime of {name}"] = cluster.grace_s(partition, facts, qos)
    return {name: time_s for name, time_s in times.items() if time_s}


def examine_job(asked: Examination, resources: Resources, warned_s: dict[str, float]) -> Iterator[Verdict]:
    """Submit, wait, judge. The folder stays if anything failed: the logs are in it."""
    folder = make_folder(asked.runs_dir / f".doctor-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    data = str(asked.data.resolve()) if asked.data else None
    question = Ask(
        asked.num_ranks,
        resources.gpus_per_node,
        asked.checkpoint_bytes,
        JOB_WAIT_S,
        data,
        variables_that_matter(os.environ),
    )
    question.write(folder)
    job = submit_job(folder, resources)
    say(f"job {job} submitted: {asked.num_ranks} rank(s) on {resources.nodes} node(s)")
    try:
        outcome = await_job(job, folder, ranks=asked.num_ranks, wait_s=asked.job_wait_s, say=say)
    except BaseException:  # Ctrl-C too: nobody waits for this job any more
        ask("scancel", job)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    verdicts = list(judge(outcome, question, warned_s=warned_s))
    yield from verdicts
    if has_failed(verdicts):
        say(f"logs and results of the job: {folder}")
    else:
        shutil.rmtree(folder)


def submit_job(folder: Path, resources: Resources) -> str:
    """The short job, with the request's resources but for its time; preempted, it does not come back.

    Raises:
        JetmaeError: sbatch refused.
    """
    time_min = min(resources.time_min, JOB_TIME_MIN)
    short = resources.model_copy(update={"time_min": time_min, "lead_time_s": JOB_LEAD_TIME_S})
    executor = submission.executor_for([folder], short, name="doctor", supervised=False)
    options = {key: value for key, value in executor.parameters["additional_parameters"].items() if key != "requeue"}
    # Other than in training, a rank that is lost must not take the others with it before they have told their part.
    executor.update_parameters(
        additional_parameters={**options, "no-requeue": True}, srun_args=["--export=ALL", "--wait=0"]
    )
    with submission.sbatch_as_asked("doctor's job"):
        job = executor.submit(CommandJob([sys.executable, "-m", "jetmae.doctor.ranks", str(folder)]))
    return str(job.job_id)


def say(text: str) -> None:
    """Progress, kept apart from the verdicts."""
    print(text, file=sys.stderr, flush=True)
