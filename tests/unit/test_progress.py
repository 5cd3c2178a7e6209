"""How far long work is: plain lines in a file, a bar on a terminal, and rich only for the bar."""

import os
import pty
import re
import subprocess
import sys

import pytest

from jetmae import progress
from jetmae.engine.recorder import Recorder
from jetmae.progress import Progress

WORK = """
import sys
from jetmae.progress import Progress
with Progress("converting", 10) as progress:
    progress.advance(4)
    progress.say("a [text]")
    progress.advance(6)
assert ("rich" in sys.modules) == sys.stderr.isatty()
"""


@pytest.fixture
def every_line(monkeypatch):
    """Each update is due to be printed."""
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)


def test_lines_tell_what_is_done_how_fast_and_for_how_long(every_line, capsys):
    with Progress("converting", 2_000) as work:
        work.advance(1_500)
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"converting: 1,500/2,000 jets, [\d,]+ jets/s, 0:00:00 left", first)
    assert last.startswith("converting: 1,500/2,000 jets, ")


def test_lines_come_now_and_then_and_one_at_the_end_unless_there_was_an_error(capsys):
    with Progress("verifying", 3) as work:
        work.advance(1)
        work.advance(2)
    assert capsys.readouterr().err.startswith("verifying: 3/3 jets, ")
    with pytest.raises(ValueError, match="broken"), Progress("verifying", 3):
        raise ValueError("broken")
    assert capsys.readouterr().err == ""


def test_nothing_done_yet_takes_an_unknown_time(capsys):
    with Progress("verifying", 3):
        pass
    assert capsys.readouterr().err == "verifying: 0/3 jets, 0 jets/s, unknown time left\n"


def test_the_rate_is_that_of_this_start_alone(every_line, monkeypatch):
    now_s = iter((0.0, 10.0, 10.0, 10.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now_s))
    work = Progress("run", 100, unit="steps", done=50)
    assert work.update(60, "loss 0.5") == "60/100 steps, loss 0.5, 0:00:40 left"


def test_lines_of_a_training_go_to_stdout_and_into_the_log(every_line, tmp_path, capsys):
    paths = (tmp_path / "metrics.jsonl", tmp_path / "tensorboard", tmp_path / "run.log")
    recorder = Recorder(*paths, name="run", attempt=1, first_step=0, total_steps=8)
    recorder.progress(8, loss=0.5, jets_per_s=1234.0)
    recorder.close()
    line = "8/8 steps, loss 0.5000, 1,234 jets/s, 0:00:00 left"
    assert capsys.readouterr().out == f"run: {line}\n"
    assert (tmp_path / "run.log").read_text().endswith(f" {line}\n")


def test_in_a_file_there_is_no_bar_and_nobody_waits_for_rich():
    finished = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    text, last = finished.stderr.splitlines()
    assert text == "converting: a [text]"
    assert last.startswith("converting: 10/10 jets, ")


def test_on_a_terminal_there_is_a_bar_and_texts_stand_above_it():
    master, terminal = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", WORK], stderr=terminal, check=True, env={**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    )
    os.close(terminal)
    shown = os.read(master, 100_000).decode()
    os.close(master)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "a [text]\r\n" in plain
    assert re.search(r"converting ━+ +10/10 +jets +[\d,]+ jets/s +ETA +0:00:00", plain)
