"""The output folder of a conversion: all of it or nothing, and never somebody else's files.

A dataset is built in a hidden folder beside its place and renamed when it is complete. Others may use the place in the
meantime: another conversion, or a person. So nothing is trusted that was seen earlier:

- The last step renames a folder, and POSIX lets a folder take the place of nothing but an empty folder: if a file, a
  link, or a folder with anything in it has the name by then, the rename fails. No look before it is needed, nor
  renameat2, which network file systems do not have.
- A dataset that is to be replaced is moved aside first, and looked at there, where nobody else looks for it: if it is
  not the one that was there at the start, it goes back. Only files of a dataset are removed, never a whole folder.
- A hidden folder's name says which process of which machine makes it. What a dead process of this machine has left is
  removed; what belongs to another node or container is not, for its process cannot be asked.
"""

import errno
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jetmae.data.convert.listing import listing
from jetmae.data.manifest import MANIFEST_NAME
from jetmae.errors import JetmaeError
from jetmae.files import fsync, make_folder
from jetmae.process_identity import is_running, machine_code

SHARD_FILE = r"[A-Za-z][A-Za-z0-9_]*-\d{5,}\.h5"
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)  # what renaming a folder to a name in use ends in


@dataclass(frozen=True)
class Destination:
    """Where a dataset is to be made, links followed, and what was there when the conversion began."""

    path: Path
    manifest: bytes | None = None
    """Of the dataset that is to be replaced."""


def find_destination(output: Path, *, overwrite: bool) -> Destination:
    """Only a dataset, or an empty folder, may be in the way, and a dataset only with --overwrite.

    Raises:
        JetmaeError: something else is there, or something else is in the dataset's folder.
    """
    path = Path(os.path.realpath(output))  # the link stays, and leads to the dataset
    if not os.path.lexists(path):
        return Destination(path)
    try:
        if path.is_dir() and not any(path.iterdir()):
            return Destination(path)
        if not (path / MANIFEST_NAME).is_file():
            raise JetmaeError(f"output {output} exists and is no dataset; expected a new folder; choose another --out")
        if not overwrite:
            raise JetmaeError(f"output {output} already holds a dataset; choose another --out or add --overwrite")
        _refuse_strangers(path)
        return Destination(path, manifest=(path / MANIFEST_NAME).read_bytes())
    except OSError as error:
        raise JetmaeError(f"output {output} cannot be read ({error.strerror}); choose another --out") from error


@contextmanager
def built_aside(destination: Destination) -> Iterator[Path]:
    """Yield a hidden folder beside the destination; it takes the place on success and is removed on failure.

    Raises:
        JetmaeError: another conversion makes the same dataset, the place was taken meanwhile, or cannot be written.
    """
    output = destination.path
    make_folder(output.parent)
    _clear_remains(output)
    folder = _made(_hidden(output, "partial"))
    try:
        yield folder
        fsync(folder)
        _take_place(folder, destination)
        fsync(output.parent)
    except OSError as error:  # those of the sources have become DataErrors where they were read
        raise JetmaeError(f"cannot write {output} ({error}): nothing was kept; choose another --out") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # nobody else makes a folder of this name


def _made(folder: Path) -> Path:
    try:
        folder.mkdir()
    except OSError as error:
        raise JetmaeError(f"cannot write {folder} ({error.strerror}); choose another --out") from error
    return folder


# ---- taking the place


def _take_place(folder: Path, destination: Destination) -> None:
    output = destination.path
    try:
        if destination.manifest is not None and os.path.lexists(output):
            _replace(folder, destination)
        else:
            os.rename(folder, output)
    except OSError as error:
        if error.errno not in TAKEN:
            raise
        raise JetmaeError(
            f"output {output} was taken during the conversion: something is there that was not; it is left as it is,"
            " and nothing of this conversion was kept; choose another --out"
        ) from error


def _replace(folder: Path, destination: Destination) -> None:
    """Exchange the dataset that was there at the start for the new one; whatever else is there stays."""
    output, aside, new = destination.path, _hidden(destination.path, "old"), folder.stat()
    _refuse_changed(output, destination)
    try:
        os.rename(output, aside)
        _refuse_changed(aside, destination)
        os.rename(folder, output)
        fsync(output.parent)  # before the old dataset is removed
    finally:  # also when this process is asked to end between two of these lines
        if _is_same(output, new):
            _remove_dataset(aside)
        else:
            _put_back(aside, output)


def _is_same(place: Path, known: os.stat_result) -> bool:
    try:
        return os.path.samestat(place.lstat(), known)
    except OSError:
        return False


def _refuse_changed(place: Path, destination: Destination) -> None:
    manifest = place / MANIFEST_NAME
    if place.is_symlink() or not manifest.is_file() or manifest.read_bytes() != destination.manifest:
        raise JetmaeError(
            f"output {destination.path} changed during the conversion: it is not the dataset that --overwrite was to"
            " replace; it is left as it is, and nothing of this conversion was kept; choose another --out"
        )
    _refuse_strangers(place)


def _put_back(aside: Path, output: Path) -> None:
    """Give what was moved aside its name again.

    Raises:
        JetmaeError: the name is in use again; says where the thing lies.
    """
    if not os.path.lexists(aside):
        return
    try:
        if aside.is_dir() and not aside.is_symlink():
            os.rename(aside, output)
        else:
            os.link(aside, output, follow_symlinks=False)  # a rename would replace a file that is there
            aside.unlink()
    except OSError as error:
        raise JetmaeError(
            f"what was at {output} lies at {aside} now and could not be put back ({error}): rename it by hand"
        ) from error


# ---- whose files


def _files_of_dataset(folder: Path) -> set[str]:
    """Names that a conversion gave: those in the manifest, or all of that kind where it cannot be read any more."""
    try:
        splits = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))["splits"]
        names = [str(entry["file"]) for entries in splits.values() for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        names = [path.name for path in folder.iterdir()]
    return {MANIFEST_NAME, *(name for name in names if re.fullmatch(SHARD_FILE, name))}


def _refuse_strangers(folder: Path) -> None:
    """A dataset's folder with something else in it is not replaced.

    Raises:
        JetmaeError: names what else is there.
    """
    own = _files_of_dataset(folder)
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in own or not path.is_file())
    if strangers:
        raise JetmaeError(
            f"output {folder} holds {listing(strangers)} besides its dataset, which --overwrite would lose; move that"
            " away, or choose another --out"
        )


def _remove_dataset(folder: Path) -> None:
    """Remove the files of a dataset, and its folder unless somebody has put something into it."""
    with suppress(OSError):
        for name in _files_of_dataset(folder):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    if folder.exists():
        print(f"{folder}: what is left of the dataset that was replaced; remove it when nothing uses it")


def _hidden(output: Path, kind: str) -> Path:
    """The name beside `output` that no other process, node or container uses."""
    return output.with_name(f".{output.name}.{socket.gethostname()}-{os.getpid()}.{machine_code()}.{kind}")


def _clear_remains(output: Path) -> None:
    """Remove what dead conversions to this output have left on this machine.

    Raises:
        JetmaeError: one of them is not dead.
    """
    name = re.compile(re.escape(f".{output.name}.") + r"(.+)-(\d+)\.([0-9a-f]{8})\.(partial|old)")
    for path in sorted(output.parent.iterdir()):
        match = name.fullmatch(path.name)
        if not match:
            continue
        host, process, machine, kind = match.groups()
        is_ours = machine == machine_code()
        if is_ours and is_running(int(process)):
            raise JetmaeError(
                f"another conversion to {output} is at work (process {process}, in {path.name}): wait for it, or"
                " choose another --out"
            )
        if kind == "old":
            print(f"{path}: the dataset that a conversion was replacing when it ended; rename or remove it")
        elif is_ours:
            shutil.rmtree(path, ignore_errors=True)
        else:
            print(f"{path}: of a conversion on {host} (process {process}); remove it if that has ended")
