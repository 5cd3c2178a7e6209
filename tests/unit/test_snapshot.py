"""Our code as a folder: all of it and nothing else, whole or absent, and found damaged whatever is done to it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jetmae.errors import JetmaeError
from jetmae.launch import snapshot as module
from jetmae.launch.snapshot import Snapshot, problem_of, read_snapshot, running_code, snapshot_of, write_snapshot
from tests.conftest import PROJECT

FILES = {
    "__init__.py": "",
    "rank.py": "print('rank')\n",
    "py.typed": "",
    "report/page.html": "<html>",
    "presets/probe/small.yaml": "a: 1\n",
}
FOREIGN = (
    "__pycache__/rank.cpython-311.pyc",
    "report/__pycache__/page.py",
    "rank.pyc",
    "rank.py~",
    ".#rank.py",
    ".rank.py.swp",
    ".ipynb_checkpoints/rank.py",
    "rank.py.orig",
    "events.h5",
    "notes.txt",
)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def package(tmp_path) -> Path:
    return write(tmp_path / "src" / "jetmae", FILES)


@pytest.fixture
def frozen(package, tmp_path) -> Path:
    folder = tmp_path / "run" / "code"
    folder.parent.mkdir()
    write_snapshot(snapshot_of(package, "1.2"), folder)
    return folder


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sha256sum_is_content(folder: Path) -> bool:
    command = ["sha256sum", "--check", "--status", "SHA256SUMS"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


# -- what is in it -----------------------------------------------------------------------------------------------------


def test_all_that_git_has_of_the_package_is_in_it():
    listed = subprocess.run(["git", "ls-files", "src/jetmae"], cwd=PROJECT, capture_output=True, text=True, check=True)
    committed = {name.removeprefix("src/") for name in listed.stdout.split() if (PROJECT / name).exists()}
    assert committed, "these tests run in a clone"
    assert committed - set(snapshot_of(PROJECT / "src" / "jetmae", "1").files) == set()


def test_nothing_foreign_is_in_it(package, frozen, tmp_path):
    write(package, dict.fromkeys(FOREIGN, "foreign"))
    (package / "gone.py").symlink_to(tmp_path / "nowhere")
    snapshot = snapshot_of(package, "1.2")
    assert set(snapshot.files) == {*(f"jetmae/{name}" for name in FILES), "jetmae-1.2.dist-info/METADATA"}
    assert snapshot == read_snapshot(frozen)
    assert {name.removeprefix("jetmae/"): files_below(frozen)[name].decode() for name in snapshot.files if
            name.startswith("jetmae/")} == FILES  # fmt: skip


def test_links_are_followed_and_end_where_they_began(package, tmp_path):
    elsewhere = write(tmp_path / "elsewhere", {"more.py": "MORE = 1\n"})
    (package / "linked").symlink_to(elsewhere)
    (package / "one.py").symlink_to(elsewhere / "more.py")
    (package / "round").symlink_to(package)
    by_link = tmp_path / "link"
    by_link.symlink_to(package)
    snapshot = snapshot_of(by_link, "1")
    assert snapshot.files["jetmae/linked/more.py"] == snapshot.files["jetmae/one.py"] == b"MORE = 1\n"
    assert not [name for name in snapshot.files if "round" in name]
    folder = tmp_path / "code"
    write_snapshot(snapshot, folder)
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    shutil.rmtree(elsewhere)
    assert problem_of(folder, snapshot.digest) is None


def test_the_frozen_code_is_imported_before_any_other_and_knows_its_version(tmp_path):
    folder = tmp_path / "code"
    write_snapshot(Snapshot(running_code().files, "0"), folder)
    (folder / f"jetmae-{running_code().version}.dist-info").rename(folder / "jetmae-99.dist-info")
    (folder / "jetmae-99.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: jetmae\nVersion: 99\n")
    for path in folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    working_directory = write(tmp_path / "cwd", {"jetmae/__init__.py": "raise SystemExit('of the working directory')"})
    code = (
        "import jetmae, jetmae.presets as p, importlib.metadata as m\n"
        "print(jetmae.__file__, p.FOLDER, m.version('jetmae'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", code]
    printed = subprocess.run(
        command, cwd=working_directory, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed == [str(folder / "jetmae" / "__init__.py"), str(folder / "jetmae" / "presets"), "99"]


# -- its digest --------------------------------------------------------------------------------------------------------


def test_the_digest_is_of_the_sources_and_not_of_their_place_time_or_version(package, frozen):
    digest = snapshot_of(package, "1.2").digest
    os.utime(package / "rank.py", (1, 1))
    assert digest == read_snapshot(frozen).digest == snapshot_of(package, "1.3").digest
    assert digest == snapshot_of(frozen / "jetmae", "1.2").digest


@pytest.mark.parametrize("change", ["text", "preset", "new file", "name", "moved"])
def test_every_change_of_the_sources_has_another_digest(package, change):
    digest = snapshot_of(package, "1").digest
    if change == "text":
        (package / "rank.py").write_text("print('rank!')\n")
    elif change == "preset":
        (package / "presets/probe/small.yaml").write_text("a: 2\n")
    elif change == "new file":
        (package / "new.py").touch()
    elif change == "name":
        (package / "rank.py").rename(package / "ranks.py")
    else:
        (package / "rank.py").rename(package / "report" / "rank.py")
    assert snapshot_of(package, "1").digest != digest


# -- damage ------------------------------------------------------------------------------------------------------------


def test_what_was_written_is_whole_for_us_and_for_sha256sum(package, frozen):
    assert problem_of(frozen) is None
    assert problem_of(frozen, snapshot_of(package, "1").digest) is None
    assert sha256sum_is_content(frozen)


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("jetmae/rank.py", "print('other')\n", "jetmae/rank.py was changed"),
        ("jetmae/rank.py", "", "jetmae/rank.py was changed"),
        ("jetmae/presets/probe/small.yaml", None, "jetmae/presets/probe/small.yaml is missing"),
        ("jetmae-1.2.dist-info/METADATA", None, "jetmae-1.2.dist-info/METADATA is missing"),
        ("SHA256SUMS", None, "SHA256SUMS is missing"),
        ("SHA256SUMS", "", "does not belong there"),
        ("SHA256SUMS", "\0" * 500, "is missing|cannot be read"),
    ],
)
def test_damage_is_found_and_named(frozen, path, text, problem):
    if text is None:
        (frozen / path).unlink()
    else:
        (frozen / path).write_text(text)
    assert re.search(problem, problem_of(frozen))
    assert not sha256sum_is_content(frozen)


@pytest.mark.parametrize("name", ["jetmae", "jetmae/report", "."])
def test_a_folder_that_is_gone_is_found(frozen, name):
    shutil.rmtree(frozen / name)
    assert problem_of(frozen).endswith("is missing")


@pytest.mark.parametrize("name", ["torch.py", "jetmae/more.py", "yaml/__init__.py"])
def test_what_was_added_is_found(frozen, name):
    write(frozen, {name: ""})
    assert problem_of(frozen) == f"{name} does not belong there"


def test_another_whole_snapshot_is_not_the_one_that_is_wanted(frozen):
    assert problem_of(frozen, "0" * 64).endswith("expected 00000000")


# -- whole or absent ---------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_nothing(package, tmp_path, monkeypatch):
    written = []

    def fail_late(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) == 4:
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", fail_late)
    with pytest.raises(JetmaeError, match=r"code cannot be written .No space left"):
        write_snapshot(snapshot_of(package, "1"), tmp_path / "code")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_a_writer_that_is_killed_leaves_no_code_and_the_next_one_clears_up(package, tmp_path):
    killed = (
        "import os, sys; from pathlib import Path; from jetmae.launch import snapshot\n"
        "Path.rename = lambda *_: os.kill(os.getpid(), 9)\n"
        "snapshot.write_snapshot(snapshot.snapshot_of(Path(sys.argv[1]), '1'), Path(sys.argv[2]))"
    )
    folder = tmp_path / "code"
    ended = subprocess.run([sys.executable, "-c", killed, package, folder], check=False)
    assert ended.returncode == -9
    assert not folder.exists()
    assert len(list(tmp_path.glob(".code.*.partial"))) == 1
    write_snapshot(snapshot_of(package, "1"), folder)
    assert problem_of(folder) is None
    assert not list(tmp_path.glob(".code.*"))


def test_what_a_process_of_another_container_is_writing_stays(package, tmp_path):
    """It may live: its number means nothing here, and the host's name may be the same."""
    theirs = tmp_path / ".code.0123abcd-999999999.partial"
    theirs.mkdir()
    write_snapshot(snapshot_of(package, "1"), tmp_path / "code")
    assert theirs.is_dir()


def test_a_second_writer_leaves_the_first_ones_folder(package, frozen):
    before = files_below(frozen)
    (package / "rank.py").write_text("other")
    write_snapshot(snapshot_of(package, "1.2"), frozen)
    assert files_below(frozen) == before
    assert sorted(path.name for path in frozen.parent.iterdir()) == ["code"]


def test_the_package_is_where_it_is_looked_for():
    assert module.PACKAGE.name == "jetmae"
    assert (module.PACKAGE / "launch" / "snapshot.py").samefile(module.__file__)
