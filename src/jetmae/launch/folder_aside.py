"""A hidden folder beside another one, in which that one is made before it takes its place by a rename."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_aside(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, and remove it afterwards if it is still there.

    What processes of this machine have left that were killed is removed too.
    """
    begin = f".{folder.name}.{socket.gethostname()}-"
    for remains in folder.parent.glob(f"{begin}*.partial"):
        number = remains.name.removeprefix(begin).removesuffix(".partial")
        if number.isdecimal() and not Path("/proc", number).exists():
            shutil.rmtree(remains, ignore_errors=True)
    aside = folder.with_name(f"{begin}{os.getpid()}.partial")
    try:
        aside.mkdir()
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
