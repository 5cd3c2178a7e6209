"""What keeps a commit from being released, and what is built if nothing does."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.packaging.distributions import copy_tree

WHO = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")
CHANGELOG = "# Changelog\n\n## 0.1.0 (2026-11-25)\n\nThe first version.\n"


@pytest.fixture
def project(tmp_path) -> Path:
    """A commit that can be released as 0.1.0."""
    folder = copy_tree(tmp_path / "project")
    (folder / ".ci").mkdir()
    for name in (".ci/release_check.py", ".gitignore"):
        shutil.copy(PROJECT / name, folder / name)
    pyproject = folder / "pyproject.toml"
    lines = pyproject.read_text().splitlines()
    pyproject.write_text("\n".join('version = "0.1.0"' if line.startswith("version = ") else line for line in lines))
    (folder / "CHANGELOG.md").write_text(CHANGELOG)
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, *WHO, "commit", "--quiet", "--message", "All")


def release_check(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, folder / ".ci" / "release_check.py"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def is_refused(folder: Path, why: str) -> bool:
    """In one line, with nothing built."""
    finished = release_check(folder)
    assert finished.returncode == 1, finished.stdout
    assert not (folder / "build").exists()
    return finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1 and why in finished.stderr


@pytest.mark.slow
def test_a_commit_that_is_fit_gives_two_files_and_two_commands(project):
    (project / ".venv").mkdir()
    (project / ".venv" / "not-in-the-commit").touch()
    finished = release_check(project)
    assert finished.returncode == 0, finished.stderr
    names = [path.name for path in sorted((project / "build" / "release").iterdir())]
    assert names == ["jetmae-0.1.0-py3-none-any.whl", "jetmae-0.1.0.tar.gz"]
    tag, push = finished.stdout.splitlines()[-2:]
    assert tag.startswith("  git tag --annotate v0.1.0 --message 'jetmae 0.1.0' ")
    assert push == "  git push origin v0.1.0"
    with zipfile.ZipFile(project / "build" / "release" / names[0]) as wheel:
        assert "jetmae/cli/main.py" in wheel.namelist()


@pytest.mark.parametrize("change", ["README.md", "src/jetmae/forgotten.py"])
def test_a_tree_that_is_not_clean_is_refused(project, change):
    with (project / change).open("a") as file:
        file.write("# more\n")
    assert is_refused(project, change)


@pytest.mark.parametrize(
    ("heading", "why"),
    [
        ("## Unreleased", "no heading '## 0.1.0 (YYYY-MM-DD)'"),
        ("## 0.1.0", "no heading"),
        ("## 0.2.0 (2026-11-25)", "no heading"),
        ("## 0.1.0 (2026-11-31)", "'2026-11-31': expected YYYY-MM-DD"),
        ("## 0.1.0 (today)", "'today': expected YYYY-MM-DD"),
    ],
)
def test_a_version_without_a_dated_heading_is_refused(project, heading, why):
    (project / "CHANGELOG.md").write_text(CHANGELOG.replace("## 0.1.0 (2026-11-25)", heading))
    commit(project)
    assert is_refused(project, why)


def test_a_version_that_has_a_tag_is_refused(project):
    git(project, "tag", "v0.1.0")
    assert is_refused(project, "there is a tag v0.1.0: expected none; raise the version")
