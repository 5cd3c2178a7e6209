"""Our own code as a folder that can be imported: read whole, written whole or not at all, and found damaged if it is.

    jetmae/                   sources, presets, the page of the report
    jetmae-VERSION.dist-info  by which the code knows its own version when another one is installed
    SHA256SUMS                of all of it, as `sha256sum --check` reads it

Standard library only.
"""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from jetmae.files import cannot_write, fsync
from jetmae.launch.folder_aside import folder_aside

PACKAGE = Path(__file__).resolve().parents[1]  # that of the running code
SUMS = "SHA256SUMS"
SUFFIXES = frozenset((".py", ".typed", ".yaml", ".html"))  # of what the package consists of
NAME = re.compile(r"\w[\w.+-]*")  # hidden files, and what an editor leaves, are none of ours
TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


@dataclass(frozen=True)
class Snapshot:
    """The bytes of each file by its path below the folder, and the version."""

    files: dict[str, bytes]
    version: str

    @property
    def sums(self) -> str:
        """What stands in SHA256SUMS."""
        return "".join(f"{hashlib.sha256(self.files[name]).hexdigest()}  {name}\n" for name in sorted(self.files))

    @property
    def digest(self) -> str:
        """A name for these sources, the same wherever they lie."""
        return digest_of(self.sums)


def digest_of(sums: str) -> str:
    """SHA-256 of the lines of SHA256SUMS that are about sources."""
    lines = [line for line in sums.splitlines(keepends=True) if line[66:].startswith(f"{PACKAGE.name}/")]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def running_code() -> Snapshot:
    """The code that runs now, as it stands in its folder."""
    return snapshot_of(PACKAGE, version("jetmae"))


def snapshot_of(package: Path, number: str) -> Snapshot:
    """A package folder, of version `number`. Links are followed: what they lead to is code as well."""
    files = {f"{PACKAGE.name}/{name}": (package / name).read_bytes() for name in our_files(package)}
    metadata = f"Metadata-Version: 2.1\nName: jetmae\nVersion: {number}\n"
    return Snapshot({**files, f"jetmae-{number}.dist-info/METADATA": metadata.encode()}, number)


def our_files(folder: Path) -> Iterator[str]:
    """Paths of sources and of what they read, below a folder. A folder that a link leads to twice is read once."""
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        folders[:] = [] if real in seen else sorted(name for name in folders if is_ours(name))
        if real not in seen:
            paths = (Path(where, name) for name in sorted(names) if is_ours(name))
            yield from (str(path.relative_to(folder)) for path in paths if path.suffix in SUFFIXES and path.is_file())
        seen.add(real)


def is_ours(name: str) -> bool:
    """Whether a file or folder may be a part of the package, by its name."""
    return NAME.fullmatch(name) is not None and name != "__pycache__"


def read_snapshot(folder: Path) -> Snapshot:
    """A snapshot that `problem_of` finds no fault with."""
    names = [line[66:] for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()]
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    number = metadata.partition(".dist-info")[0].removeprefix("jetmae-")
    return Snapshot({name: (folder / name).read_bytes() for name in names}, number)


def problem_of(folder: Path, digest: str | None = None) -> str | None:
    """What is wrong with a snapshot, in a few words; None if it is whole. `digest` is what it should be, if known."""
    if not folder.is_dir():
        return "it is missing"
    try:
        sums = (folder / SUMS).read_text(encoding="utf-8")
        listed = {line[66:]: line[:64] for line in sums.splitlines()}
        for name, wanted in listed.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != wanted:
                return f"{name} was changed"
    except (OSError, ValueError) as error:
        path = Path(getattr(error, "filename", None) or folder / SUMS)
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        return f"{path.relative_to(folder)} {why}"
    if more := sorted(set(our_files(folder)) - set(listed)):
        return f"{more[0]} does not belong there"
    if digest not in (None, digest_of(sums)) or not listed:
        return f"it is {digest_of(sums)[:8]}, expected {str(digest)[:8]}"
    return None


def write_snapshot(snapshot: Snapshot, folder: Path) -> None:
    """Write a snapshot whole, or not at all. If another process was faster, its folder stays.

    Files are not flushed one by one, which would take longer than all else: what a power failure takes is found by
    `problem_of` before anything runs.

    Raises:
        JetmaeError: it cannot be written.
    """
    try:
        with folder_aside(folder) as aside:
            for name, content in {**snapshot.files, SUMS: snapshot.sums.encode()}.items():
                path = aside / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            aside.rename(folder)
            fsync(folder.parent)
    except OSError as error:
        if error.errno not in TAKEN:
            raise cannot_write(folder, error) from error
