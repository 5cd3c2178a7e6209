"""Errors a user can mend, and the one place that prints them.

A message is one line: the value that was found, what was expected, and the next step. Our own broken invariants stay
plain exceptions with a traceback, because those are ours to mend.
"""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from jetmae.streams import name_files_in_utf8, speak_anywhere

EXIT_BAD_DATA = 65
EXIT_BUSY = 69
EXIT_INTERNAL = 70
EXIT_STOPPED = 75  # stopped on request with everything saved: start again to go on
EXIT_BAD_CONFIG = 78
EXIT_INTERRUPTED = 130
NEEDS_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # until a person has mended it
USERS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)  # theirs to choose
MAY_PASS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EREMOTEIO)  # of a server, or of one node


class JetmaeError(Exception):
    """Something the user can put right: configuration, command line, folders."""

    exit_code = EXIT_BAD_CONFIG


class DataError(JetmaeError):
    """Data that is missing, damaged, or not what it claims to be."""

    exit_code = EXIT_BAD_DATA


class PassingFault(JetmaeError):
    """Something wrong with a node or its storage, which another start need not meet."""

    exit_code = EXIT_INTERNAL


class FolderBusy(JetmaeError):
    """A run folder that another start trains in."""

    exit_code = EXIT_BUSY


def leave_at_once(code: int) -> NoReturn:
    """End the process without taking the interpreter apart, for ranks, whose work is on disk by then.

    Threads of torch's process groups still run. One that lets go of its last tensor while the interpreter ends aborts
    the process (one exit in about a thousand; https://github.com/pytorch/pytorch/pull/179291), and code 134 would take
    the place of a code that says whether the job is to come back.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def exit_with_one_line(command: Callable[[], int | None], *, leave: Callable[[int], NoReturn] = sys.exit) -> None:
    """Run a command and end the process: its return value, or one line on stderr and a code that is not 0."""
    name_files_in_utf8()
    speak_anywhere()
    try:
        code = command() or 0
    except JetmaeError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        code = error.exit_code
    except OSError as error:
        if error.errno not in (*NEEDS_SPACE, *MAY_PASS, *USERS):
            raise
        where = f"{error.filename}: " if error.filename else ""
        todo = "mend the storage, then start again to go on"
        if error.errno in USERS:
            todo = "expected a file or folder that this user may use; correct its permissions, or choose another"
        print(f"error: {where}{error.strerror}; {todo}", file=sys.stderr)
        code = EXIT_INTERNAL if error.errno in MAY_PASS else JetmaeError.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    leave(code)
