"""The folder of a run: names, lines that survive a kill, and who may start in it."""

import json
from pathlib import Path

import pytest

from jetmae.errors import JetmaeError
from jetmae.files import written_aside
from jetmae.launch.freeze import write_launch_record
from jetmae.run_folder import RunFolder, append_line, find_run, new_run, read_lines


def test_a_torn_last_line_is_left_out_and_cut_before_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_lines(path) == [{"step": 1}, {"step": 2}]
    append_line(path, {"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


@pytest.mark.parametrize("left", ["", "\n", "{", "{\n", "\0\0\0", "\0\0\0}\n", '{"step": 3'])
def test_what_a_crash_leaves_of_the_last_line_is_left_out_and_cut_before_the_next(tmp_path, left):
    path = tmp_path / "attempts.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n' + left)
    assert read_lines(path) == [{"step": 1}, {"step": 2}]
    append_line(path, {"step": 4})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 4}\n'


def test_zeros_in_place_of_lines_that_were_not_flushed_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\0\0\0\0\0\0\0\0\0: 4}\n{"step": 5}\n')
    assert read_lines(path) == [{"step": 1}, {"step": 5}]


def test_the_last_attempt_is_amended_without_what_a_crash_has_left(tmp_path):
    run = RunFolder(tmp_path)
    run.attempts.write_text('{"event": "end", "cause": "crashed"}\n{"event": "sta')
    run.amend_last_attempt(cause="node_failure")
    assert run.attempts.read_text() == '{"event": "end", "cause": "node_failure"}\n'


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(JetmaeError, match="line 2 is not a JSON object: 'rubbish'"):
        read_lines(path)


def test_attempts_are_numbered_and_know_what_was_committed(tmp_path):
    run = RunFolder(tmp_path)
    place = {"job_id": None, "restart_count": 0, "world_size": 1, "hosts": ["here"]}
    first = run.start_attempt(**place)
    (run.checkpoints / "step-00000020").mkdir(parents=True)
    (run.checkpoints / ".step-00000030.partial").mkdir()
    run.end_attempt(first, cause="crashed", message="why")
    second = run.start_attempt(**place)
    assert (first["attempt"], first["committed_step"]) == (1, 0)
    assert (second["attempt"], second["committed_step"]) == (2, 20)
    end = read_lines(run.attempts)[1]
    assert (end["cause"], end["message"], end["resumed_step"], end["last_committed_step"]) == ("crashed", "why", 0, 20)
    run.amend_last_attempt(hosts=["elsewhere"])
    assert read_lines(run.attempts)[-1]["hosts"] == ["elsewhere"]
    assert len(read_lines(run.attempts)) == 3


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a//b", "a/../b", "-x", "", "a b", "a\nb", "a;b", "$(x)", "a/", ".hidden"]
)
def test_a_run_name_cannot_lead_elsewhere(tmp_path, name):
    with pytest.raises(JetmaeError, match="run name"):
        new_run(name, tmp_path)


def test_runs_are_found_by_name_and_by_path(tmp_path):
    folder = tmp_path / "chain" / "pretrain"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    assert find_run("chain/pretrain", tmp_path).root == folder
    assert find_run(str(folder), Path("/nowhere")).root == folder
    with pytest.raises(JetmaeError, match="expected a run folder or one of: chain/pretrain"):
        find_run("pretrian", tmp_path)


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), written_aside(path) as aside:
        aside.write_text("new \udc80", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_every_launch_of_a_run_is_remembered(tmp_path):
    run = RunFolder(tmp_path)
    for job in ("1", "2"):
        write_launch_record(run, job_id=job)
    record = json.loads(run.launch.read_text())
    first_s, second_s = record["launches_s"]
    assert first_s < second_s
    assert record["job_id"] == "2"
