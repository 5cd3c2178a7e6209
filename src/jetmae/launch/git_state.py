"""What git says of the code: its commit, and what was changed since."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GitState:
    """All None outside a git clone. `dirty`: some source is not as it was committed."""

    commit: str | None = None
    diff: str | None = None
    dirty: bool | None = None


def git_state(package: Path) -> GitState:
    """Of the clone that a package folder belongs to. A package that only lies in somebody's clone is none of it."""
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return GitState()
    changes = _git(package, "status", "--porcelain", ".")
    return GitState(
        _git(package, "rev-parse", "HEAD"), _git(package, "diff", "HEAD"), None if changes is None else changes != ""
    )


def _git(folder: Path, *words: str) -> str | None:
    if shutil.which("git") is None:
        return None
    finished = subprocess.run(
        ["git", *words], cwd=folder, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
    )
    return finished.stdout.strip() if finished.returncode == 0 else None
