"""The source distribution and the wheels of this tree, built aside so that nothing of an earlier build gets in."""

import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import PROJECT

NEEDED = ("pyproject.toml", "README.md", "LICENSE")  # besides src/


@dataclass(frozen=True)
class Distributions:
    """What can be given to others, and two ways to it."""

    sdist: Path
    wheel: Path
    wheel_of_sdist: Path


def build_all(folder: Path) -> Distributions:
    """Build the tree's sdist and wheel, and a wheel of that sdist, below `folder`."""
    tree = copy_tree(folder / "tree")
    (wheel,) = build(tree, folder / "from-tree", "--wheel")
    wheel_of_sdist, sdist = build(tree, folder / "from-sdist")
    return Distributions(sdist, wheel, wheel_of_sdist)


def copy_tree(folder: Path) -> Path:
    """What is built, without what earlier builds and imports have left in it."""
    shutil.copytree(PROJECT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in NEEDED:
        shutil.copy(PROJECT / name, folder)
    return folder


def build(tree: Path, folder: Path, *options: str) -> list[Path]:
    """Build with the setuptools of this environment, so without a network: an sdist, and of that a wheel."""
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", folder, tree]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return sorted(folder.iterdir())


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
