"""attempts.jsonl after a start whose ranks could not complete it: an end line, and a cause that names who and where."""

import signal

import pytest

from jetmae.attempts import complete_record, end_attempt, end_silent_attempt, said_cause, start_attempt
from jetmae.records.attempts import StartLine, read_attempts
from jetmae.records.json_lines import read_lines
from jetmae.run_folder import RunFolder
from jetmae.runtime.liveness import rank_report
from jetmae.runtime.liveness.rank_report import CAUSE, FOLLOWED, RankReport

KNOWN = StartLine(start_token="abc")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setattr(rank_report, "VISIBLE_AFTER_S", 0)
    return RunFolder(tmp_path)


def begin(folder: RunFolder, token: str = "abc") -> StartLine:
    return start_attempt(folder, StartLine(start_token=token, world_size=2, hosts=["here", "here"]))


def complete(folder: RunFolder, code: int) -> dict:
    """The last line after the record has been completed."""
    complete_record(folder, KNOWN, start="abc", code=code, cause=said_cause(folder, KNOWN) or "crashed")
    return read_lines(folder.attempts)[-1]


def report(folder: RunFolder, kind: str, rank: int, message: str, token: str = "abc") -> None:
    RankReport(folder.logs, token, rank).write(kind, message, "")


def test_a_silent_start_gets_its_end(folder):
    begin(folder)
    report(folder, CAUSE, 1, "rank 1 hung")
    end = complete(folder, 137)
    assert (end["event"], end["attempt"], end["cause"], end["message"]) == ("end", 1, "crashed", "rank 1 hung")
    assert (end["world_size"], end["start_token"]) == (2, "abc")


def test_a_start_that_did_not_come_to_its_first_line_gets_both(folder):
    report(folder, CAUSE, 1, "rank 1 died in 'import'")
    assert complete(folder, 137)["message"] == "rank 1 died in 'import'"
    assert [line["event"] for line in read_lines(folder.attempts)] == ["start", "end"]


def test_what_only_a_peer_knows_comes_second(folder):
    begin(folder)
    report(folder, FOLLOWED, 1, "rank 1: Connection closed by peer")
    assert complete(folder, 137)["message"] == "rank 1: Connection closed by peer"
    report(folder, CAUSE, 0, "rank 0 was killed")
    assert complete(folder, 137)["message"] == "rank 0 was killed"


def test_without_any_report_the_exit_code_is_told(folder):
    begin(folder)
    assert "exit code 137" in complete(folder, 137)["message"]


@pytest.mark.parametrize(("code", "cause"), [(75, "preempted"), (78, "crashed"), (65, "crashed")])
def test_an_end_that_the_ranks_agreed_on_stays(folder, code, cause):
    end_attempt(folder, begin(folder), cause=cause, message="rank 1: no such shard")
    before = read_lines(folder.attempts)
    complete(folder, code)
    assert read_lines(folder.attempts) == before


def test_the_record_of_the_next_start_is_left_alone(folder):
    end_attempt(folder, begin(folder), cause="crashed", message="RuntimeError")
    begin(folder, "next")
    report(folder, CAUSE, 1, "rank 1 hung")
    before = read_lines(folder.attempts)
    complete(folder, 1)
    assert read_lines(folder.attempts) == before


def test_a_bus_error_names_the_shard(folder, tmp_path):
    (folder.root / "config.yaml").write_text(f"data:\n  path: {tmp_path / 'data'}\n")
    begin(folder)
    end = complete(folder, 128 + signal.SIGBUS)
    assert f"no dataset in {tmp_path / 'data'}" in end["message"]  # what data/integrity.py says of that folder


def test_the_next_attempt_finds_the_report_of_a_start_that_nobody_saw_ending(folder):
    begin(folder)
    report(folder, CAUSE, 0, "rank 0 was killed")
    end_silent_attempt(folder)
    end = read_lines(folder.attempts)[-1]
    assert (end["event"], end["message"]) == ("end", "ended without a word; rank 0 was killed")


def test_attempts_are_numbered_and_know_what_was_committed(folder):
    place = StartLine(world_size=1, hosts=["here"])
    first = start_attempt(folder, place)
    (folder.checkpoints / "step-00000020").mkdir(parents=True)
    (folder.checkpoints / ".step-00000030.partial").mkdir()
    end_attempt(folder, first, cause="crashed", message="why")
    second = start_attempt(folder, place)
    assert (first.attempt, first.committed_step) == (1, 0)
    assert (second.attempt, second.committed_step) == (2, 20)
    lines = read_attempts(folder.attempts)
    assert lines[0::2] == [first, second]
    end = lines[1]
    assert (end.cause, end.message, end.resumed_step, end.last_committed_step) == ("crashed", "why", 0, 20)


@pytest.mark.parametrize(
    ("cause", "code"), [("completed", 0), ("preempted", 75), ("cancelled", 75), ("time_limit", 75), ("completed", 139)]
)
def test_a_normal_end_has_no_message(folder, cause, code):
    end_attempt(folder, begin(folder), cause=cause, message=None)
    assert complete(folder, code)["message"] is None


def test_a_stop_that_nobody_wrote_down_has_one(folder):
    begin(folder)
    assert "exit code 75" in complete(folder, 75)["message"]
