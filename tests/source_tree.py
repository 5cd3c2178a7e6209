"""A copy of the package that a test edits, as people do between two starts of a run."""

import shutil
from pathlib import Path

from tests.conftest import PROJECT

SAID = 'f"attempt {attempt_number}, '  # by every start, in run.log


class SourceTree:
    """What stands on PYTHONPATH while the test's commands are typed."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copytree(PROJECT / "src" / "jetmae", folder / "jetmae", ignore=shutil.ignore_patterns("__pycache__"))
        self._run = folder / "jetmae" / "run.py"
        self._text = self._run.read_text()
        assert self._text.count(SAID) == 1

    def edit(self, word: str) -> None:
        """Every start says `word` from now on."""
        self._run.write_text(self._text.replace(SAID, f'f"{word} attempt {{attempt_number}}, '))

    def break_it(self) -> None:
        """Whatever imports the package from here from now on fails."""
        (self.folder / "jetmae" / "__init__.py").write_text("raise SystemExit('this tree is being edited')\n")


def starts_of(log: Path) -> list[str]:
    """What each start has said first: `attempt N`, perhaps with a word before it."""
    lines = [line.split(" ", 2)[2] for line in log.read_text().splitlines()]
    return [line.partition(",")[0] for line in lines if "attempt " in line]
