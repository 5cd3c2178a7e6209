"""Which code runs are given at a launch, what is said of it, and what stands in launch.json afterwards."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from jetmae.config import load_experiment, read_experiment
from jetmae.errors import FolderBusy, JetmaeError
from jetmae.launch import code_choice, snapshot
from jetmae.launch.code_choice import Choice, give_code
from jetmae.launch.freeze import freeze, write_launch_record
from jetmae.launch.git_state import GitState, git_state
from jetmae.launch.run_code import check_code, code_environment, code_in_shell, described_code, enter_own_code
from jetmae.launch.snapshot import problem_of, read_snapshot, snapshot_of
from jetmae.records.launch import CodeRecord, read_launch
from jetmae.run_folder import RunFolder
from jetmae.runtime.lease import held_lease
from tests.conftest import PROJECT


@pytest.fixture
def live(tmp_path, monkeypatch) -> Path:
    """A source that is edited by the tests, in place of the code that runs."""
    package = tmp_path / "src" / "jetmae"
    package.mkdir(parents=True)
    (package / "rank.py").write_text("1")
    monkeypatch.setattr(code_choice, "running_code", lambda: snapshot_of(package, "0.1.0"))
    monkeypatch.setattr(code_choice, "git_state", lambda _: GitState())
    return package / "rank.py"


def launched(run: RunFolder) -> RunFolder:
    """It has a configuration, as after its first launch."""
    run.root.mkdir(parents=True, exist_ok=True)
    run.config.touch()
    return run


def new(folder: Path, name: str = "a") -> RunFolder:
    """A run that was launched, with the code of then."""
    run = RunFolder(folder / "runs" / name)
    give_code([run], Choice.KEEP)
    return launched(run)


def code_of(run: RunFolder) -> str:
    return (run.code / "jetmae" / "rank.py").read_text()


# -- without options ---------------------------------------------------------------------------------------------------


def test_a_new_run_gets_todays_code_and_nothing_is_said(live, tmp_path, capsys):
    run = new(tmp_path)
    assert code_of(run) == "1"
    (record,) = read_launch(run.launch).code
    assert (record.frozen, record.version) == (True, "0.1.0")
    assert record.digest == read_snapshot(run.code).digest
    give_code([run], Choice.KEEP)
    assert read_launch(run.launch).code == [record]
    assert capsys.readouterr() == ("", "")


def test_a_run_keeps_its_code_and_says_in_one_line_that_there_is_other(live, tmp_path, capsys):
    run = new(tmp_path)
    live.write_text("2")
    give_code([run], Choice.KEEP)
    assert code_of(run) == "1"
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("a: the code has changed since it was frozen (")
    assert err.endswith("going on with the frozen code; --refresh-code takes today's, another --name starts anew\n")
    assert err.count("\n") == 1


def test_runs_of_one_command_get_one_code_even_if_some_come_later(live, tmp_path, capsys):
    first = new(tmp_path)
    live.write_text("2")
    later = [RunFolder(tmp_path / "runs" / name) for name in "bc"]
    give_code([first, *later], Choice.KEEP)
    assert [code_of(run) for run in (first, *later)] == ["1"] * 3
    assert {read_launch(run.launch).newest_code.digest for run in (first, *later)} == {read_snapshot(first.code).digest}
    assert capsys.readouterr().err.count("\n") == 1
    give_code([first, *map(launched, later)], Choice.KEEP)
    assert capsys.readouterr().err.startswith("a and 2 more: the code has changed")


def test_a_complete_run_is_left_as_it_is(live, tmp_path, capsys):
    run = new(tmp_path)
    run.completed.touch()
    before = run.launch.read_text()
    live.write_text("2")
    for choice in Choice:
        give_code([run], choice)
    assert (code_of(run), run.launch.read_text()) == ("1", before)
    assert capsys.readouterr().err == ""


def test_a_run_of_before_code_was_frozen_goes_on_with_the_live_code(live, tmp_path, capsys):
    run = launched(RunFolder(tmp_path / "old"))
    for text in ("its code was never frozen", "it was launched with --live-code"):
        give_code([run], Choice.KEEP)
        assert capsys.readouterr().err.startswith(f"old: {text}: going on with the live code of {snapshot.PACKAGE}")
    assert not run.code.exists()
    (record,) = read_launch(run.launch).code
    assert not record.frozen
    check_code(run)
    assert described_code(run) == f"live code of {snapshot.PACKAGE}"


def test_a_launch_that_was_ended_before_its_record_is_completed(live, tmp_path):
    run = new(tmp_path)
    run.launch.unlink()
    give_code([run], Choice.KEEP)
    assert read_launch(run.launch).newest_code.digest == read_snapshot(run.code).digest


def test_two_first_launches_at_once_do_not_take_the_code_from_each_other(live, tmp_path):
    run = RunFolder(tmp_path / "run")
    for _ in range(2):  # the second has seen no configuration yet
        give_code([run], Choice.KEEP)
    assert [path.name for path in run.root.glob("code*")] == ["code"]
    check_code(run)


def test_a_launch_that_was_ended_before_its_configuration_begins_again(live, tmp_path):
    run = new(tmp_path)
    run.config.unlink()
    live.write_text("2")
    give_code([run], Choice.REFRESH)
    assert code_of(run) == "2"


# -- with options ------------------------------------------------------------------------------------------------------


def test_refreshed_code_is_todays_and_the_old_one_is_kept(live, tmp_path, capsys):
    run = new(tmp_path)
    for text in "23":
        live.write_text(text)
        give_code([run], Choice.REFRESH)
    assert code_of(run) == "3"
    assert [(run.root / f"code-{n}" / "jetmae" / "rank.py").read_text() for n in (1, 2)] == ["1", "2"]
    digests = [code.digest for code in read_launch(run.launch).code]
    assert len(set(digests)) == 3
    assert described_code(run).startswith(f"frozen code {digests[2][:8]} (jetmae 0.1.0), before that {digests[1][:8]}")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"a: frozen code is now {digests[1][:8]}, before {digests[0][:8]}"
    give_code([run], Choice.REFRESH)
    assert capsys.readouterr().err == f"a: its code is today's ({digests[2][:8]}) already\n"
    assert len(read_launch(run.launch).code) == 3


def test_live_code_is_recorded_and_can_be_frozen_again(live, tmp_path):
    run = new(tmp_path)
    give_code([run], Choice.LIVE)
    assert not run.code.exists()
    live.write_text("2")
    give_code([run], Choice.KEEP)
    give_code([run], Choice.REFRESH)
    assert code_of(run) == "2"
    assert [code.frozen for code in read_launch(run.launch).code] == [True, False, False, True]


def test_a_new_run_can_be_live_from_the_start(live, tmp_path):
    run = RunFolder(tmp_path / "run")
    give_code([run], Choice.LIVE)
    assert not run.code.exists()
    assert [code.frozen for code in read_launch(run.launch).code] == [False]


@pytest.mark.parametrize("choice", [Choice.REFRESH, Choice.LIVE])
def test_the_code_of_a_run_that_is_being_trained_is_not_touched(live, tmp_path, monkeypatch, choice):
    run = new(tmp_path)
    live.write_text("2")
    before = run.launch.read_text()
    with held_lease(run.root):
        monkeypatch.setattr("jetmae.runtime.lease._watch", lambda root, seen: _renewed(seen))
        with pytest.raises(FolderBusy, match="is being trained by"):
            give_code([run], choice)
    assert (code_of(run), run.launch.read_text()) == ("1", before)


def _renewed(seen):
    return type(seen)(seen.token, {**seen.content, "renewals": seen.content["renewals"] + 1})


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["file", "package", "all", "other"])
def test_damaged_code_is_refused_until_it_is_refreshed(live, tmp_path, what):
    run = new(tmp_path)
    if what == "file":
        (run.code / "jetmae" / "rank.py").write_text("")
    elif what == "other":
        live.write_text("2")
        other = new(tmp_path, "other")
        shutil.rmtree(run.code)
        shutil.copytree(other.code, run.code)
    else:
        shutil.rmtree(run.code if what == "all" else run.code / "jetmae")
    for refused in (lambda: give_code([run], Choice.KEEP), lambda: enter_own_code(run), lambda: check_code(run)):
        with pytest.raises(JetmaeError, match=r"code is damaged .*: expected .* --refresh-code"):
            refused()
    give_code([run], Choice.REFRESH)
    check_code(run)
    assert code_of(run) == live.read_text()


def test_a_path_that_pythonpath_would_split_is_refused_before_anything_is_written(live, tmp_path):
    run = RunFolder(tmp_path / "a:b" / "run")
    with pytest.raises(JetmaeError, match=r"expected a path without ':'.*--live-code"):
        give_code([run], Choice.KEEP)
    assert not (tmp_path / "a:b").exists()
    give_code([run], Choice.LIVE)


# -- who uses it -------------------------------------------------------------------------------------------------------


def test_the_own_code_comes_before_what_the_user_has_on_the_path(live, tmp_path):
    run = new(tmp_path)
    environment = code_environment(run, {"PYTHONPATH": f"/mine::{run.code}", "A": "b"})
    assert environment["PYTHONPATH"] == f"{run.code}:/mine"
    assert (environment["A"], environment["PYTHONSAFEPATH"]) == ("b", "1")
    (run.code / "SHA256SUMS").unlink()
    assert code_environment(run, {"A": "b"}) == {"A": "b"}


@pytest.mark.parametrize(("element", "damaged", "expected"), [(0, False, "a"), (1, False, "b"), (1, True, None)])
def test_a_batch_shell_uses_whole_code_of_its_own_element_alone(live, tmp_path, element, damaged, expected):
    runs = [new(tmp_path / "it's $(touch here)", name) for name in "ab"]
    if damaged:
        (runs[1].code / "jetmae" / "rank.py").write_text("")
    script = "\n".join([*code_in_shell([run.root for run in runs]), 'echo "$PYTHONPATH"'])
    environment = {"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": str(element), "PYTHONPATH": "/mine"}
    printed = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    code = f"{tmp_path}/it's $(touch here)/runs/{expected}/code:" if expected else ""
    assert printed.stdout == f"{code}/mine\n"
    assert printed.stderr == ""
    assert not (tmp_path / "here").exists()


def test_git_is_asked_for_the_clone_that_the_code_is_of(tmp_path, live):
    assert git_state(live.parent) == GitState()
    state = git_state(PROJECT / "src" / "jetmae")
    assert len(state.commit) == 40
    copy = tmp_path / "clone"
    for words in (["init", "--quiet", copy], ["-C", copy, "add", "."], ["-C", copy, "-c", "user.name=a", "-c",
                  "user.email=a@b", "-c", "commit.gpgsign=false", "commit", "--quiet", "-m", "x"]):  # fmt: skip
        if "add" in words:
            (copy / "jetmae").mkdir()
            (copy / "jetmae" / "__init__.py").touch()
        subprocess.run(["git", *words], check=True)
    assert (git_state(copy / "jetmae").dirty, git_state(copy / "jetmae").diff) == (False, "")
    (copy / "jetmae" / "new.py").touch()
    assert git_state(copy / "jetmae").dirty
    installed = copy / ".venv" / "jetmae"  # in the clone, and none of it
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert git_state(installed) == GitState()


def test_a_later_launch_says_the_commit_and_version_of_the_frozen_code(live, tmp_path, monkeypatch):
    monkeypatch.setattr(code_choice, "git_state", lambda _: GitState("c0", "-old", dirty=True))
    run = new(tmp_path)
    monkeypatch.setattr(code_choice, "git_state", lambda _: GitState("c1", "-new", dirty=True))
    monkeypatch.setattr("jetmae.launch.freeze.version", lambda name: "7.7")
    live.write_text("2")
    give_code([run], Choice.KEEP)
    write_launch_record(run, ranks=1, total_steps=2)
    launch = read_launch(run.launch)
    assert (launch.git_commit, launch.git_diff, launch.packages["jetmae"]) == ("c0", "-old", "0.1.0")
    assert launch.packages["torch"] == "7.7"
    assert isinstance(launch.newest_code, CodeRecord)
    assert launch.newest_code.git_dirty
    assert problem_of(run.code, launch.newest_code.digest) is None


def test_what_may_change_is_changed_in_a_configuration_that_an_older_version_can_still_read(tmp_path, sample):
    experiment = load_experiment("pretrain", "small", [f"data.path={sample}"])
    run = RunFolder(tmp_path / "run")
    freeze(experiment, run)
    older = run.config.read_text().replace("  hang_limit_s: 600.0\n", "")  # a setting that it does not know
    assert older != run.config.read_text()
    run.config.write_text(older)
    freeze(load_experiment("pretrain", "small", [f"data.path={sample}", "log.every_steps=3"]), run)
    assert "hang_limit_s" not in run.config.read_text()
    assert read_experiment(run.config).log.every_steps == 3
