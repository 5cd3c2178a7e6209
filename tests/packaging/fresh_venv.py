"""The environment that `pip install jetmae` makes, without a network.

What jetmae says it needs, and what that needs in turn, is linked from the environment of the tests. All else that lies
there (the extras, the tools of the tests, the source tree of an editable install) is not to be seen from the fresh one.
"""

import os
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


class FreshVenv:
    """A virtual environment with a wheel and what it needs."""

    def __init__(self, folder: Path, wheel: Path):
        self.folder = folder
        venv.create(folder, symlinks=True)
        self.site_packages = Path(self.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
        pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, capture_output=True)
        (jetmae,) = Distribution.discover(path=[str(self.site_packages)])
        for needed in needed_by(jetmae):
            self._link(needed)

    def run(self, program: str, *words: object, cwd: Path | None = None) -> str:
        """What one of its programs prints, or the end of the test with all that it printed."""
        command = [self.folder / "bin" / program, *map(str, words)]
        finished = subprocess.run(
            command, cwd=cwd or self.folder, env=environment(), capture_output=True, text=True, timeout=300, check=False
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout.strip()

    def _link(self, needed: Distribution) -> None:
        for name in {file.parts[0] for file in needed.files or ()} - {"..", "__pycache__"}:
            link = self.site_packages / name
            if not link.exists():
                link.symlink_to(Path(str(needed.locate_file(name))))


def environment() -> dict[str, str]:
    """That of the tests, without what could lead a program to the source tree or to another run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JETMAE_", "SLURM_"))}
    return {**kept, "OMP_NUM_THREADS": "1"}


def needed_by(package: Distribution) -> Iterator[Distribution]:
    """All that a package needs on this machine without its extras, each once for each set of extras it is asked for."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(requirements(package, ()))
    while waiting:
        requirement = waiting.pop()
        if (key := (requirement.name, frozenset(requirement.extras))) not in seen:
            seen.add(key)
            needed = distribution(requirement.name)
            waiting += requirements(needed, requirement.extras)
            yield needed


def requirements(package: Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    """What a package with these extras asks for on this machine."""
    for requirement in map(Requirement, package.requires or ()):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement
