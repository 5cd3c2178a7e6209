"""Opening an HDF5 file of others: may it be read now, and what do the library's errors mean for whoever sees them?"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from jetmae.errors import MAY_PASS, DataError, JetmaeError, PassingFault

SIGNATURE = b"\x89HDF\r\n\x1a\n"
FIRST_USER_BLOCK_BYTES = 512


def is_hdf5(path: Path) -> bool:
    """Whether HDF5's signature is at the beginning, or behind a user block of 512, 1024, 2048, ... bytes."""
    size_bytes, place = path.stat().st_size, 0
    with path.open("rb") as file:
        while place + len(SIGNATURE) <= size_bytes:
            file.seek(place)
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return True
            place = max(FIRST_USER_BLOCK_BYTES, 2 * place)
    return False


@contextmanager
def opened_hdf5(path: Path, reading: str = "", **keywords: Any) -> Iterator[Any]:
    """An h5py file, open for reading; HDF5's errors inside the context become ours, and name what was being read.

    Raises:
        DataError: the file is open for writing elsewhere, was left so, or is damaged.
    """
    refuse_locked(path)
    with translated_errors(path, reading), h5py.File(path, "r", locking=False, **keywords) as file:
        yield file


@contextmanager
def translated_errors(path: Path, reading: str = "") -> Iterator[None]:
    """HDF5's errors as ones that say what to do."""
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        raise _translated(path, reading, " ".join(str(error).split())) from error


def _translated(path: Path, reading: str, message: str) -> JetmaeError:
    where = f"source {path}{': ' if reading else ''}{reading}"
    code = re.search(r"errno = (\d+)", message)
    if code and int(code.group(1)) in MAY_PASS:
        why = os.strerror(int(code.group(1)))
        return PassingFault(f"{where} cannot be read now ({why}): a fault of the storage; try again when it is mended")
    if "unable to lock file" in message:
        return _locked(path)
    if "already open for" in message:
        return DataError(
            f"{where} is marked as open for writing: wait for the program that writes it; if none does, it was left so"
            f" by one that ended early: h5clear -s {path}, and see that all jets are there"
        )
    if "truncated file" in message:
        return DataError(f"{where} is truncated: it ends early ({message}); fetch it again, or await its writer's end")
    return DataError(f"{where} is damaged or truncated HDF5 ({message[:160]}); fetch it again")


def refuse_locked(path: Path) -> None:
    """HDF5 locks a file while it writes. We read without locks, which some storage lacks, but heed those of others.

    Raises:
        DataError: another program writes the file.
    """
    try:
        with path.open("rb") as file:
            for lock in (fcntl.flock, fcntl.lockf):  # which of the two HDF5 takes depends on how it was built
                lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _locked(path) from error
    except OSError:  # no locks here; or the file cannot be opened, which HDF5 says next
        return


def _locked(path: Path) -> DataError:
    return DataError(
        f"source {path} is open for writing in another program (it holds a lock): what it holds is not all there yet;"
        " wait until that program has ended"
    )
