"""The lines that a run writes about itself: as they stand in its folder, whoever wrote them, and after a crash."""

import json
from dataclasses import fields

import pytest

from jetmae.engine.recorder import Recorder
from jetmae.errors import JetmaeError
from jetmae.launch.freeze import write_launch_record
from jetmae.records.attempts import (
    EndLine,
    StartLine,
    amend_last_attempt,
    has_ever_committed,
    parse_attempts,
    read_attempts,
)
from jetmae.records.json_lines import append_line, read_lines, readable_lines
from jetmae.records.launch import CodeRecord, LaunchRecord, read_launch, readable_launch, write_launch
from jetmae.records.metrics import EvaluationLine, MetricsLine, number_of, parse_metrics_line, parse_train_lines
from jetmae.records.timeline import FailedSaveLine, RestoreLine, SaveLine, append_timeline, parse_timeline
from jetmae.run_folder import RunFolder

# Lines as they stand in run folders today: every key, its place, and how numbers are written. They are a contract.
START = (
    '{"event": "start", "attempt": 2, "start_token": "9.1.0", "job_id": "7_3", "restart_count": 1, "world_size": 2,'
    ' "hosts": ["node1", "node2"], "committed_step": 20, "time_s": 1764000000.25}'
)
END = (
    '{"event": "end", "attempt": 2, "start_token": "9.1.0", "job_id": "7_3", "restart_count": 1, "world_size": 2,'
    ' "hosts": ["node1", "node2"], "cause": "crashed", "message": "rank 1 on node2 hung", "resumed_step": 20,'
    ' "last_committed_step": 40, "time_s": 1764000100.5}'
)
LOCAL_END = (
    '{"event": "end", "attempt": 1, "start_token": "f00d", "job_id": null, "restart_count": 0, "world_size": 1,'
    ' "hosts": ["here"], "cause": "completed", "message": null, "resumed_step": 0, "last_committed_step": 8,'
    ' "time_s": 1764000000.0}'
)
TRAIN = (
    '{"split": "train", "step": 12, "samples": 768, "epoch": 0.375, "loss": 0.8125, "lr": 1e-06, "grad_norm": 1.0,'
    ' "jets_per_s": 80.5, "attempt": 2, "time_s": 1764000001.5}'
)
VALIDATION = (
    '{"split": "validation", "step": 12, "samples": 768, "epoch": 0.375, "loss": 0.5, "explained_variance":'
    ' {"ECAL": 0.25, "HCAL": 1e-05}, "attempt": 2, "time_s": 1764000002.0}'
)
TEST = (
    '{"split": "test", "step": 12, "samples": 768, "epoch": 0.375, "loss": 0.5, "accuracy": 0.75, "auc": 0.875,'
    ' "attempt": 2, "time_s": 1764000003.0}'
)
RESTORE = '{"event": "restore", "step": 20, "duration_s": 1.5, "attempt": 2, "time_s": 1764000004.0}'
SAVE = (
    '{"event": "save", "step": 40, "stall_s": 0.25, "write_s": 3.5, "bytes": 1048576, "outcome": "committed",'
    ' "attempt": 2, "time_s": 1764000005.0}'
)
FAILED_SAVE = (
    '{"event": "save", "step": 60, "outcome": "failed", "message": "no space", "attempt": 2, "time_s": 1764000006.0}'
)
LAUNCH = """{
 "command": [
  "jobs/launch.py",
  "pretrain"
 ],
 "working_directory": "/home/me",
 "started_at": "2026-01-31T12:00:00+0100",
 "launches_s": [
  1.0,
  2.5
 ],
 "ranks": 2,
 "total_steps": 100,
 "job_id": "7",
 "git_commit": null,
 "git_diff": "",
 "packages": {
  "torch": "2.11"
 },
 "python": "3.12.1",
 "code": [
  {
   "frozen": true,
   "digest": "0a1b",
   "version": "0.1.0",
   "git_commit": null,
   "git_dirty": null,
   "since_s": 2.5
  }
 ]
}
"""


def parse_metrics_lines(objects: list[dict]) -> list[MetricsLine | None]:
    return [parse_metrics_line(content) for content in objects]


PARSED = [
    (parse_attempts, START),
    (parse_attempts, END),
    (parse_attempts, LOCAL_END),
    (parse_metrics_lines, TRAIN),
    (parse_metrics_lines, VALIDATION),
    (parse_metrics_lines, TEST),
    (parse_timeline, RESTORE),
    (parse_timeline, SAVE),
    (parse_timeline, FAILED_SAVE),
]


# -- as they stand in the folder ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parse", "text"), PARSED)
def test_a_line_is_written_as_it_was_read(parse, text):
    (line,) = parse([json.loads(text)])
    assert json.dumps(line.to_json()) == text


@pytest.mark.parametrize(("parse", "text"), PARSED)
def test_a_line_of_a_newer_version_is_read_without_what_it_adds(parse, text):
    content = json.loads(text)
    assert parse([{"new": ["?"], **content, "newer": None}]) == parse([content])


def test_values_of_lines_are_where_they_belong():
    start, end, local_end = parse_attempts(map(json.loads, (START, END, LOCAL_END)))
    assert start == StartLine(
        attempt=2, start_token="9.1.0", job_id="7_3", restart_count=1, world_size=2, hosts=["node1", "node2"],
        committed_step=20, time_s=1764000000.25,
    )  # fmt: skip
    assert isinstance(end, EndLine)
    assert (end.cause, end.message, end.resumed_step, end.last_committed_step) == (
        "crashed", "rank 1 on node2 hung", 20, 40
    )  # fmt: skip
    assert (local_end.job_id, local_end.message, local_end.attempt) == (None, None, 1)
    (train,) = parse_train_lines(map(json.loads, (TRAIN, VALIDATION)))
    assert train.metrics == {"loss": 0.8125, "lr": 1e-6, "grad_norm": 1.0, "jets_per_s": 80.5}
    validation = parse_metrics_line(json.loads(VALIDATION))
    assert validation.metrics == {"loss": 0.5, "explained_variance": {"ECAL": 0.25, "HCAL": 1e-5}}
    assert (number_of(validation, "loss"), number_of(validation, "explained_variance")) == (0.5, None)
    assert parse_timeline(map(json.loads, (RESTORE, SAVE, FAILED_SAVE))) == [
        RestoreLine(step=20, duration_s=1.5, attempt=2, time_s=1764000004.0),
        SaveLine(step=40, stall_s=0.25, write_s=3.5, bytes=1048576, attempt=2, time_s=1764000005.0),
        FailedSaveLine(step=60, message="no space", attempt=2, time_s=1764000006.0),
    ]


def test_the_recorder_and_the_timeline_write_these_lines(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1764000001.5)
    run = RunFolder(tmp_path)
    recorder = Recorder(run.metrics, run.tensorboard, run.logs / "run.log", name="", attempt=2, first_step=0,
                        total_steps=12)  # fmt: skip
    place = {"step": 12, "samples": 768, "epoch": 0.375}
    recorder.train(**place, loss=0.8125, lr=1e-6, grad_norm=1.0, jets_per_s=80.5)
    metrics = {"loss": 0.5, "explained_variance": {"ECAL": 0.25, "HCAL": 1e-5}}
    recorder.evaluation("validation", **place, metrics=metrics)
    recorder.close()
    assert run.metrics.read_text() == f"{TRAIN}\n{VALIDATION}\n".replace("1764000002.0", "1764000001.5")
    lines = (RestoreLine(step=20, duration_s=1.5), SaveLine(step=40, stall_s=0.25, write_s=3.5, bytes=1048576),
             FailedSaveLine(step=60, message="no space"))  # fmt: skip
    for number, (line, text) in enumerate(zip(lines, (RESTORE, SAVE, FAILED_SAVE), strict=True), start=4):
        monkeypatch.setattr("time.time", lambda number=number: 1764000000.0 + number)
        append_timeline(run.timeline, line, attempt=2)
        assert run.timeline.read_text().endswith(text + "\n")


# -- older versions, and other things than lines -----------------------------------------------------------------------


def test_what_an_older_line_lacks_is_not_known():
    start, end = parse_attempts([{"event": "start"}, {"event": "end", "attempt": 3, "cause": "preempted"}])
    assert start == StartLine()
    assert end == EndLine(attempt=3, cause="preempted")
    assert (start.time_s, start.committed_step, end.last_committed_step) == (None, None, None)
    (train,) = parse_train_lines([{"split": "train", "step": 1, "time_s": 2.0}])
    assert (train.samples, train.loss, train.jets_per_s, train.metrics) == (None, None, None, {})
    assert parse_metrics_line({"split": "test", "step": 1, "time_s": 2.0}).metrics == {}
    assert parse_timeline([{"event": "restore", "step": 1, "duration_s": 2.0, "time_s": 3.0}])[0].attempt == 0


@pytest.mark.parametrize(
    "content",
    [
        {"event": "pause", "attempt": 1},
        {"attempt": 1},
        {"event": "save", "step": 1, "stall_s": 1.0, "outcome": "committed", "time_s": 2.0},
        {"event": "save", "step": 1, "stall_s": 1.0, "write_s": 1.0, "time_s": 2.0},
        {"event": "save", "step": 1, "outcome": "failed"},
        {"event": "restore", "duration_s": 1.0, "time_s": 2.0},
        {"split": "train", "time_s": 2.0},
        {"split": "train", "step": 1},
        {"split": "test", "time_s": 2.0},
        {"step": 1, "time_s": 2.0},
    ],
)
def test_a_line_of_another_kind_or_without_what_it_is_for_is_skipped(content):
    assert parse_attempts([content]) == []
    assert parse_timeline([content]) == []
    assert parse_metrics_line(content) is None
    assert parse_train_lines([content]) == []


def test_every_metric_of_an_evaluation_is_kept_but_not_words():
    line = parse_metrics_line(
        {"split": "test", "step": 1, "time_s": 2.0, "loss": 1, "new": 0.5, "note": "text", "none": None}
    )
    assert line == EvaluationLine(split="test", step=1, time_s=2.0, metrics={"loss": 1, "new": 0.5})


# -- attempts.jsonl ----------------------------------------------------------------------------------------------------


def test_attempts_are_read_without_what_is_not_theirs(tmp_path):
    path = tmp_path / "attempts.jsonl"
    assert read_attempts(path) == []
    path.write_text(f'{START}\n{{"event": "pause"}}\n{END}\n{START[:40]}')
    assert [type(line) for line in read_attempts(path)] == [StartLine, EndLine]


def test_the_last_attempt_is_amended_and_everything_else_stays(tmp_path):
    path = tmp_path / "attempts.jsonl"
    newer = END[:-1] + ', "newer": {"a": 1}}'
    path.write_text(f'{START}\n{newer}\n{{"event": "pause"}}\n{START[:40]}')
    amend_last_attempt(path, cause="node_failure", message="why")
    amended = newer.replace("crashed", "node_failure").replace("rank 1 on node2 hung", "why")
    assert path.read_text() == f'{START}\n{amended}\n{{"event": "pause"}}\n'


def test_what_was_ever_committed_is_known_without_any_checkpoint():
    assert not has_ever_committed([])
    assert not has_ever_committed([StartLine(), EndLine(), StartLine(committed_step=0), EndLine(last_committed_step=0)])
    assert has_ever_committed([StartLine(), EndLine(last_committed_step=10)])
    assert has_ever_committed([StartLine(committed_step=10), EndLine(last_committed_step=0)])


# -- launch.json -------------------------------------------------------------------------------------------------------


def test_the_launch_record_is_written_as_it_was_read(tmp_path):
    path = tmp_path / "launch.json"
    path.write_text(LAUNCH)
    record = read_launch(path)
    write_launch(path, record)
    assert path.read_text() == LAUNCH
    assert (record.job_id, record.ranks, record.launches_s) == ("7", 2, [1.0, 2.5])
    assert record.started_at_s == 1769857200.0
    assert record.newest_code == CodeRecord(frozen=True, digest="0a1b", version="0.1.0", since_s=2.5)
    assert {field.name for field in fields(LaunchRecord)} == {*json.loads(LAUNCH), "successor_ids"}


def test_a_launch_without_slurm_has_no_job(tmp_path):
    path = tmp_path / "launch.json"
    write_launch(path, LaunchRecord(ranks=1))
    assert not {"job_id", "successor_ids"} & set(json.loads(path.read_text()))
    assert read_launch(path) == LaunchRecord(ranks=1)


def test_a_launch_record_that_is_missing_older_newer_or_damaged(tmp_path):
    path = tmp_path / "launch.json"
    assert read_launch(path) == readable_launch(path) == LaunchRecord()
    assert LaunchRecord().started_at_s is None
    path.write_text('{"job_id": "7", "newer": 1}')
    assert read_launch(path) == readable_launch(path) == LaunchRecord(job_id="7")
    path.write_text('{"job_id": "7", "code": [7, {"newer": 1}]}')
    assert read_launch(path) == LaunchRecord(job_id="7")
    path.write_text("\0\0\0")
    assert readable_launch(path) == LaunchRecord()
    with pytest.raises(JetmaeError, match=r"launch\.json is not a JSON object: expected .*; move it away"):
        read_launch(path)


def test_every_launch_of_a_run_is_remembered(tmp_path):
    run = RunFolder(tmp_path)
    for job in ("1", "2"):
        write_launch_record(run, ranks=2, total_steps=10, job_id=job)
    record = read_launch(run.launch)
    first_s, second_s = record.launches_s
    assert first_s < second_s
    assert record.started_at_s == int(second_s)
    assert (record.job_id, record.ranks, record.total_steps) == ("2", 2, 10)


# -- files of lines ----------------------------------------------------------------------------------------------------


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


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(JetmaeError, match="line 2 is not a JSON object: 'rubbish'"):
        read_lines(path)


def test_a_torn_line_hides_no_other(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"event": "st{"a": 2, "b": {"c": {}}}\n[3]\n4\n\x00\n{"a": 5}\n{"a": 6, "b')
    assert readable_lines(path) == [{"a": 1}, {"a": 2, "b": {"c": {}}}, {"a": 5}]
    assert readable_lines(tmp_path / "none") == []


def test_the_end_of_a_long_file_is_enough(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(1000)))
    assert readable_lines(path, last_bytes=100)[-1] == {"step": 999}
    assert len(readable_lines(path, last_bytes=100)) < 10
    assert len(readable_lines(path, last_bytes=10**6)) == 1000
