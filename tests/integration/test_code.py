"""A run on this machine goes on with the code of its first launch, until somebody wants another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jetmae.records.launch import read_launch
from jetmae.run_folder import RunFolder
from tests.conftest import PROJECT, TINY, TINY_DECODER
from tests.source_tree import SourceTree, starts_of

pytestmark = pytest.mark.slow
SHORT = (*TINY, *TINY_DECODER, "optim.batch_size=8", "optim.steps=2", "optim.warmup_epochs=0")
DIES = "step: fetch=exit"  # at its first step


class Person:
    """Who types the same command again and again, in the folder of the sources."""

    def __init__(self, sample: Path, folder: Path):
        self.tree = SourceTree(folder / "src")
        self.run = RunFolder(folder / "runs" / "a")
        where = ("--name", "a", "--runs-dir", str(folder / "runs"), "--cluster", "local")
        self.command = [str(PROJECT / "jobs" / "launch.py"), "pretrain", *SHORT, f"data.path={sample}", *where]

    def types(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        return self.python(*self.command, *words, **environment)

    def python(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.tree.folder), **environment}
        command = [sys.executable, *words]
        return subprocess.run(
            command, cwd=self.tree.folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    @property
    def log(self) -> list[str]:
        return starts_of(self.run.logs / "run.log")


@pytest.fixture
def person(sample, tmp_path) -> Person:
    return Person(sample, tmp_path)


def test_a_run_keeps_its_code_until_it_is_given_another(person):
    first = person.types(JETMAE_FAILPOINTS=DIES)
    assert "code" not in first.stderr
    person.tree.edit("EDITED")
    again = person.types(JETMAE_FAILPOINTS=DIES)
    assert again.stderr.count("a: the code has changed since it was frozen (") == 1
    refreshed = person.types("--refresh-code", JETMAE_FAILPOINTS=DIES)
    assert "a: frozen code is now " in refreshed.stderr
    person.tree.edit("LIVE")
    live = person.types("--live-code")
    assert live.returncode == 0, live.stderr

    assert person.log == ["attempt 1", "attempt 2", "EDITED attempt 3", "LIVE attempt 4"]
    codes = read_launch(person.run.launch).code
    assert [code.frozen for code in codes] == [True, True, False]
    text = (person.run.logs / "run.log").read_text()
    assert f"frozen code {codes[1].digest[:8]} (jetmae " in text
    assert f"before that {codes[0].digest[:8]}" in text
    assert f"live code of {person.tree.folder / 'jetmae'}" in text
    assert not list(person.run.root.glob("code*/**/__pycache__"))
    assert sorted(path.name for path in person.run.root.glob("code*")) == ["code-1", "code-2"]


def test_a_rank_that_is_started_by_hand_runs_the_code_of_its_run_or_refuses(person):
    person.types("--freeze")
    person.tree.edit("EDITED")
    rank = ("-m", "jetmae.rank", str(person.run.root))
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "JETMAE_START": "x", "JETMAE_HOST": "127.0.0.1"}
    person.python(*rank, **place, JETMAE_FAILPOINTS=DIES)
    assert person.log == ["attempt 1"]

    (person.run.code / "jetmae" / "model" / "vit.py").unlink()
    for refused in (person.python(*rank, **place), person.types(), person.types("--freeze")):
        assert refused.returncode == 78
        assert refused.stdout == ""
        (line,) = refused.stderr.splitlines()
        assert line.startswith(f"error: {person.run.code} is damaged (jetmae/model/vit.py is missing): expected")
        assert "--refresh-code" in line
    assert "vit.py is missing" in (person.run.logs / "cause-x-rank-0.txt").read_text()
    assert person.log == ["attempt 1"]
