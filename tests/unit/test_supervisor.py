"""Does the job come back? Pure decisions, and the lines that the batch shell writes for ranks that could not."""

import errno
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from jetmae.attempts import end_attempt, start_attempt
from jetmae.errors import EXIT_BUSY, JetmaeError
from jetmae.launch import successors, supervisor
from jetmae.launch.budget import starts_without_progress
from jetmae.launch.supervisor import Ending, cause_of, comes_back
from jetmae.records.attempts import AttemptLine, EndLine, StartLine
from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder
from jetmae.runtime.liveness import rank_report
from jetmae.runtime.liveness.rank_report import CAUSE, RankReport
from jetmae.slurm.command import Answer
from jetmae.slurm.job import cause_of_stop, job_facts
from tests.conftest import PROJECT

RUNNING = {"JobState": "RUNNING", "Restarts": "0"}


def history(*ends: tuple[str, int, int]) -> list[AttemptLine]:
    """Attempts with (cause, step committed before, step committed after)."""
    lines: list[AttemptLine] = []
    for attempt, (cause, before, after) in enumerate(ends, start=1):
        lines.append(StartLine(attempt=attempt, committed_step=before))
        lines.append(EndLine(attempt=attempt, cause=cause, last_committed_step=after))
    return lines


@pytest.mark.parametrize(
    ("facts", "restarts", "cause"),
    [
        ({"JobState": "RUNNING", "Restarts": "0", "EndTime": "2026-01-01T12:01:00"}, 0, "time_limit"),
        ({"JobState": "RUNNING", "Restarts": "0", "EndTime": "2026-01-01T12:10:30"}, 0, "time_limit"),  # Slurm is early
        ({"JobState": "RUNNING", "Restarts": "0", "EndTime": "2026-01-01T18:00:00"}, 0, "preempted"),
        ({"JobState": "RUNNING", "Restarts": "0", "PreemptTime": "2026-01-01T12:00:00"}, 0, "preempted"),
        ({"JobState": "COMPLETING", "Restarts": "0"}, 0, "cancelled"),
        ({"JobState": "COMPLETING", "Restarts": "1"}, 0, "preempted"),
        ({"JobState": "COMPLETING", "Restarts": "1"}, 1, "cancelled"),
        ({}, 0, "preempted"),
    ],
)
def test_cause_of_a_stop(facts, restarts, cause, monkeypatch):
    monkeypatch.setenv("JETMAE_LEAD_TIME_S", "600")
    assert cause_of_stop(facts, restarts=restarts, now=datetime(2026, 1, 1, 12, 0, 0).astimezone()) == cause


def test_what_the_ranks_said_counts_unless_they_said_nothing():
    assert cause_of(Ending(0, RUNNING), said="completed") == "completed"
    assert cause_of(Ending(75, RUNNING), said="time_limit") == "time_limit"
    assert cause_of(Ending(137, RUNNING), said=None) == "crashed"
    assert cause_of(Ending(140, RUNNING), said=None) == "preempted"  # USR2 before our handlers were in place
    assert cause_of(Ending(143, RUNNING), said=None) == "crashed"  # TERM is what srun sends to a dead rank's peers
    taken = {**RUNNING, "PreemptTime": "2026-01-01T12:00:00"}
    assert cause_of(Ending(143, taken), said=None) == "preempted"
    assert cause_of(Ending(143, RUNNING), said="crashed") == "crashed"  # peers of a crashed rank are ended by TERM


def test_a_job_preempted_a_hundred_times_without_progress_comes_back():
    attempts = history(*[("preempted", 10, 10)] * 100)
    assert comes_back(Ending(75, RUNNING), "preempted", attempts)[0]


@pytest.mark.parametrize("cause", ["crashed", "time_limit"])
def test_three_fruitless_starts_are_the_end_whatever_lies_between(cause):
    attempts = history((cause, 10, 10), ("preempted", 10, 10), (cause, 10, 10))
    assert comes_back(Ending(1, RUNNING), cause, attempts)[0]
    requeue, reason = comes_back(Ending(1, RUNNING), cause, [*attempts, *history((cause, 10, 10))])
    assert not requeue
    assert "3 starts in a row" in reason


def test_progress_restores_the_budget():
    attempts = history(("crashed", 0, 0), ("crashed", 0, 0), ("crashed", 0, 10), ("crashed", 10, 10))
    assert comes_back(Ending(1, RUNNING), "crashed", attempts)[0]


def test_an_end_whose_start_line_is_lost_is_measured_from_where_it_resumed():
    advanced = EndLine(attempt=1, cause="crashed", resumed_step=10, last_committed_step=20)
    assert starts_without_progress([advanced]) == 0
    fruitless = [EndLine(attempt=number, cause="crashed", resumed_step=20, last_committed_step=20) for number in (1, 2)]
    assert starts_without_progress([advanced, *fruitless]) == 2


@pytest.mark.parametrize("code", [65, 69, 78])
def test_bad_data_bad_configuration_and_a_busy_folder_do_not_come_back(code):
    assert not comes_back(Ending(code, RUNNING), "crashed", history(("crashed", 0, 0)))[0]


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING"])
def test_a_job_that_slurm_has_taken_away_is_left_to_slurm(state):
    assert not comes_back(Ending(75, {"JobState": state}), "preempted", [])[0]


@pytest.fixture
def silent_slurm(monkeypatch):
    """Outside a cluster: Slurm gives no answer to any question."""
    monkeypatch.setattr(supervisor, "job_facts", lambda job: {})
    monkeypatch.setattr(supervisor, "lost_a_node", lambda: False)
    monkeypatch.setattr(rank_report, "VISIBLE_AFTER_S", 0)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    requeued = []
    monkeypatch.setattr(supervisor, "answer_of", lambda *command: requeued.append(list(command)) or Answer(0))
    return requeued


def test_ranks_that_died_at_once_get_their_two_lines_and_three_starts(tmp_path: Path, silent_slurm, monkeypatch):
    folder = RunFolder(tmp_path)
    monkeypatch.setattr(supervisor, "job_id", lambda: "7")
    for restart in range(3):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        assert supervisor.supervise(folder, 137) == 137
    lines = read_lines(folder.attempts)
    assert [line["event"] for line in lines] == ["start", "end"] * 3
    assert [line["attempt"] for line in lines] == [1, 1, 2, 2, 3, 3]
    assert all("exit code 137" in line["message"] for line in lines if line["event"] == "end")
    assert silent_slurm == [["scontrol", "requeue", "7"]] * 2


def test_the_report_of_the_rank_to_blame_becomes_the_message(tmp_path: Path, silent_slurm, monkeypatch):
    """Rank 0 could only say that a peer has left it; the step of the ranks is not known in the batch shell."""
    folder = RunFolder(tmp_path)
    monkeypatch.setattr(supervisor, "job_id", lambda: "7_3")
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    start = start_attempt(folder, StartLine(start_token="9.0.0", job_id="7_3", world_size=2, hosts=["a", "b"]))
    end_attempt(folder, start, cause="crashed", message="RuntimeError: Connection closed by peer")
    RankReport(folder.logs, "9.0.0", 1).write(CAUSE, "rank 1 on b hung in 'step: fetch'", "stacks")
    RankReport(folder.logs, "9.1.0", 0).write(CAUSE, "rank 0 of another start", "stacks")
    supervisor.supervise(folder, 1)
    end = read_lines(folder.attempts)[-1]
    assert (end["event"], end["cause"], end["message"]) == ("end", "crashed", "rank 1 on b hung in 'step: fetch'")
    assert silent_slurm == [["scontrol", "requeue", "7_3"]]


def test_a_start_that_was_refused_leaves_the_record_to_the_one_that_lives(tmp_path: Path, silent_slurm, monkeypatch):
    folder = RunFolder(tmp_path)
    start_attempt(folder, StartLine(start_token="6.0.0", job_id="6", world_size=2, hosts=["a", "b"]))
    before = folder.attempts.read_text()
    monkeypatch.setattr(supervisor, "job_id", lambda: "7")
    assert supervisor.supervise(folder, EXIT_BUSY) == EXIT_BUSY
    assert folder.attempts.read_text() == before
    assert silent_slurm == []


def test_a_controller_that_is_away_for_a_moment_is_asked_again(tmp_path: Path, silent_slurm, monkeypatch):
    down = "Unable to contact slurm controller (connect failure)"
    answers = iter([Answer(None), Answer(1, error=f"slurm_requeue error: {down}"), Answer(0)])
    monkeypatch.setattr(supervisor, "answer_of", lambda *command: silent_slurm.append(command) or next(answers))
    monkeypatch.setattr(supervisor, "RETRY_S", 0.0)
    monkeypatch.setattr(supervisor, "job_id", lambda: "7")
    supervisor.supervise(RunFolder(tmp_path), 137)
    assert silent_slurm == [("scontrol", "requeue", "7")] * 3


@pytest.mark.parametrize("said", ["Requested operation is presently disabled for job 7",
                                  "Access/permission denied for job 7"])  # fmt: skip
def test_a_refusal_is_quoted_at_once_and_recorded(tmp_path: Path, silent_slurm, monkeypatch, capsys, said):
    refusal = Answer(1, error=f"scontrol: error: {said}")
    monkeypatch.setattr(supervisor, "answer_of", lambda *command: silent_slurm.append(command) or refusal)
    monkeypatch.setattr(supervisor, "job_id", lambda: "7")
    folder = RunFolder(tmp_path)
    start = start_attempt(folder, StartLine(start_token="7.0.0", job_id="7"))
    end_attempt(folder, start, cause="time_limit", message=None)
    supervisor.supervise(folder, 75)
    end = read_lines(folder.attempts)[-1]
    assert silent_slurm == [("scontrol", "requeue", "7")]
    assert (end["cause"], end["message"]) == ("time_limit", f"not requeued: {said}")
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cause", "facts", "cancels"),
    [
        ("time_limit", RUNNING, False),
        ("preempted", {"JobState": "COMPLETING"}, False),
        ("cancelled", {"JobState": "COMPLETING"}, True),
        ("completed", RUNNING, True),
    ],
)
def test_starts_that_were_submitted_together_go_on_or_are_cancelled(
    tmp_path, silent_slurm, monkeypatch, cause, facts, cancels
):
    cancelled: list[tuple[str, ...]] = []
    monkeypatch.setattr(successors, "ask", lambda *command: cancelled.append(command))
    monkeypatch.setattr(supervisor, "job_facts", lambda job: facts)
    monkeypatch.setattr(supervisor, "job_id", lambda: "7_1")
    for name, value in {"JETMAE_SUCCESSORS": 1, **ELEMENT}.items():
        monkeypatch.setenv(name, str(value))
    folder = RunFolder(tmp_path)
    end_attempt(folder, start_attempt(folder, StartLine(job_id="7_1")), cause=cause, message=None)
    supervisor.supervise(folder, 75)
    assert silent_slurm == []
    assert cancelled == ([("scancel", "7_[2-9]")] if cancels else [])


ELEMENT = {"SLURM_ARRAY_JOB_ID": 7, "SLURM_ARRAY_TASK_ID": 1, "SLURM_ARRAY_TASK_MIN": 0, "SLURM_ARRAY_TASK_MAX": 9}


def test_a_later_start_begins_only_if_there_is_something_to_do(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    for name, value in ELEMENT.items():
        monkeypatch.setenv(name, str(value))
    for _ in range(3):
        assert successors.why_not_begin(folder) is None
        end_attempt(folder, start_attempt(folder, StartLine(job_id="7_0")), cause="crashed", message=None)
    assert "3 starts in a row" in (successors.why_not_begin(folder) or "")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")  # somebody has given the command again
    assert successors.why_not_begin(folder) is None
    folder.completed.touch()
    assert successors.why_not_begin(folder) == "the run is complete"


def test_a_job_whose_record_cannot_be_written_comes_back_all_the_same(
    tmp_path: Path, silent_slurm, monkeypatch, capsys
):
    monkeypatch.setattr(supervisor, "job_id", lambda: "7")

    def refuse(*_, **__):
        raise JetmaeError("attempts.jsonl cannot be written (Disk quota exceeded)")

    monkeypatch.setattr(supervisor, "complete_record", refuse)
    for restart in range(3):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        supervisor.supervise(RunFolder(tmp_path), 137)
    assert silent_slurm == [["scontrol", "requeue", "7"]] * 2  # but not for ever
    assert "is not complete: attempts.jsonl cannot be written" in capsys.readouterr().out


def test_a_job_whose_records_cannot_be_read_comes_back_all_the_same(tmp_path: Path, silent_slurm, monkeypatch):
    monkeypatch.setattr(supervisor, "job_id", lambda: "7")

    def refuse(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(supervisor, "read_attempts", refuse)
    monkeypatch.setattr(supervisor, "said_cause", refuse)
    assert supervisor.supervise(RunFolder(tmp_path), 137) == 137
    assert silent_slurm == [["scontrol", "requeue", "7"]]


def test_a_rank_that_fails_on_its_way_out_does_not_make_a_complete_run_a_failure(tmp_path: Path, silent_slurm):
    folder = RunFolder(tmp_path)
    start = start_attempt(folder, StartLine(start_token="6.0.0", job_id="", world_size=1, hosts=["a"]))
    end_attempt(folder, start, cause="completed", message=None)
    assert supervisor.supervise(folder, 139) == 0
    assert read_lines(folder.attempts)[-1]["cause"] == "completed"


def test_the_batch_shell_needs_no_installed_package():
    """It works in the seconds before a node is taken away. -S leaves the standard library alone."""
    code = (
        "from pathlib import Path; from jetmae.launch import supervisor; from jetmae.attempts import changed_shards_of;"
        "assert changed_shards_of(supervisor.RunFolder(Path('.'))) == []"
    )
    subprocess.run([sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(PROJECT / "src")}, check=True)


def test_facts_are_read_from_scontrols_line(monkeypatch):
    line = "JobId=5 JobName=a b Restarts=2 JobState=RUNNING TRES=cpu=4,node=2 EndTime=2026-01-01T12:00:00"
    monkeypatch.setattr("jetmae.slurm.job.ask", lambda *_: line)
    facts = job_facts("5")
    assert (facts["Restarts"], facts["JobState"], facts["EndTime"]) == ("2", "RUNNING", "2026-01-01T12:00:00")
