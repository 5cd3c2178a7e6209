"""The source distribution and the wheels of this tree, built aside so that nothing of an earlier build gets in."""

import shutil
import subprocess
import sys
import tarfile
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
    sdist = build(tree, "--sdist", folder / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return Distributions(
        sdist, build(tree, "--wheel", folder / "wheel"), build(unpacked, "--wheel", folder / "wheel-of-sdist")
    )


def copy_tree(folder: Path) -> Path:
    """What is built, without what earlier builds and imports have left in it."""
    shutil.copytree(PROJECT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in NEEDED:
        shutil.copy(PROJECT / name, folder)
    return folder


def build(tree: Path, kind: str, folder: Path) -> Path:
    """Build one distribution with the setuptools of this environment, so without a network."""
    command = [sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", folder, tree]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
