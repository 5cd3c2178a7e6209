"""A hidden folder beside another one, in which that one is made before it takes its place by a rename."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jetmae.process_identity import is_running, machine_code


@contextmanager
def folder_aside(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, and remove it afterwards if it is still there.

    What killed processes of this machine have left is removed too; those of another machine, or of another container,
    cannot be told from live ones and stay.
    """
    begin = f".{folder.name}.{machine_code()}-"
    for remains in folder.parent.glob(f"{begin}*.partial"):
        number = remains.name.removeprefix(begin).removesuffix(".partial")
        if number.isdecimal() and not is_running(int(number)):
            shutil.rmtree(remains, ignore_errors=True)
    aside = folder.with_name(f"{begin}{os.getpid()}.partial")
    try:
        aside.mkdir()
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
