"""The output folder of a conversion: all of it or nothing, and never somebody else's files."""

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jetmae.data.manifest import MANIFEST_NAME
from jetmae.errors import JetmaeError
from jetmae.files import fsync, make_folder


def refuse_existing(output: Path, overwrite: bool) -> None:
    """Only a dataset, or an empty folder, may be in the way, and only with --overwrite.

    Raises:
        JetmaeError: something else is.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / MANIFEST_NAME).exists():
        raise JetmaeError(f"output {output} exists and is no dataset; expected a new folder; choose another --out")
    if not overwrite:
        raise JetmaeError(f"output {output} already holds a dataset; choose another --out or add --overwrite")


@contextmanager
def built_aside(output: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `output`; it becomes `output` on success and is removed on failure."""
    output = Path(os.path.abspath(output))
    make_folder(output.parent)
    remove_remains(output)
    folder = output.with_name(f".{output.name}.{socket.gethostname()}-{os.getpid()}.partial")
    try:
        folder.mkdir()
        yield folder
        fsync(folder)
        _move_into_place(folder, output)
    except OSError as error:  # those of the sources have become DataErrors where they were read
        raise JetmaeError(f"cannot write {output} ({error}): nothing was kept; choose another --out") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(folder: Path, output: Path) -> None:
    old = folder.with_suffix(".old")
    if output.exists():
        os.rename(output, old)
    try:
        os.rename(folder, output)
    except OSError:
        if old.exists():
            os.rename(old, output)
        raise
    fsync(output.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_remains(output: Path) -> None:
    """Remove what conversions to this output left behind that were killed on this machine."""
    mine = re.compile(re.escape(f".{output.name}.{socket.gethostname()}-") + r"(\d+)\.partial")
    for remains in output.parent.iterdir():
        match = mine.fullmatch(remains.name)
        if match and not Path(f"/proc/{match.group(1)}").exists():
            shutil.rmtree(remains, ignore_errors=True)
