#!/usr/bin/env python3
"""Can this commit be released? `make release-check` runs it.

It looks at the tree, the version, the changelog and the tags, builds the source distribution and the wheel from the
commit alone, into build/release, and prints the two commands that make the tag.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from datetime import date
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import NoReturn

PROJECT = Path(__file__).resolve().parents[1]
RELEASE = PROJECT / "build" / "release"


def main() -> None:
    """Print what is wrong and end with 1, or print how to go on."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    version, tag = project["version"], f"v{project['version']}"
    check_tree()
    check_changelog(version)
    if git("tag", "--list", tag):
        refuse(f"there is a tag {tag}: expected none; raise the version in pyproject.toml")
    built = build()
    for path in built:
        check_metadata(path, project)
    print(*built, "", f"jetmae {version} can be released once .ci/run has passed in a fresh clone:", sep="\n")
    print(f"  git tag --annotate {tag} --message 'jetmae {version}' {git('rev-parse', '--short', 'HEAD')}")
    print(f"  git push origin {tag}")


def check_tree() -> None:
    """What is built is what is committed."""
    if changed := git("status", "--porcelain"):
        names = ", ".join(line[2:].strip() for line in changed.splitlines())
        refuse(f"the tree is not clean: {names}; commit or remove what differs")


def check_changelog(version: str) -> None:
    """The version has a heading with the day of its release."""
    heading = re.compile(rf"^## {re.escape(version)} \((\S+)\)$", re.MULTILINE)
    if not (found := heading.search((PROJECT / "CHANGELOG.md").read_text())):
        refuse(f"CHANGELOG.md has no heading '## {version} (YYYY-MM-DD)': write it above what is new")
    try:
        date.fromisoformat(found[1])
    except ValueError:
        refuse(f"CHANGELOG.md dates {version} with {found[1]!r}: expected YYYY-MM-DD")


def build() -> list[Path]:
    """Both distributions of the last commit, with nothing beside them that is not in it."""
    shutil.rmtree(RELEASE, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        git("clone", "--quiet", str(PROJECT), folder)
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", RELEASE, folder]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        refuse(f"the build failed:\n{finished.stdout}{finished.stderr}")
    return sorted(RELEASE.iterdir())


def check_metadata(path: Path, project: dict) -> None:
    """What a package index would show of a distribution."""
    metadata = metadata_of(path)
    for name, expected in (("Name", project["name"]), ("Version", project["version"]), ("License-File", "LICENSE")):
        if metadata[name] != expected:
            refuse(f"{path.name} says {name}: {metadata[name]}; expected {expected}")
    if metadata.get_payload(decode=True).strip() != (PROJECT / "README.md").read_bytes().strip():
        refuse(f"{path.name} has another text than README.md as its description")


def metadata_of(path: Path) -> Message:
    """PKG-INFO of a source distribution, METADATA of a wheel."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            return BytesParser().parsebytes(wheel.read(name))
    with tarfile.open(path) as sdist:
        root = path.name.removesuffix(".tar.gz")
        return BytesParser().parse(sdist.extractfile(f"{root}/PKG-INFO"))


def git(*words: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *words], cwd=PROJECT, check=True, capture_output=True, text=True).stdout.strip()


def refuse(why: str) -> NoReturn:
    """End with one line."""
    sys.exit(f"error: {why}")


if __name__ == "__main__":
    main()
