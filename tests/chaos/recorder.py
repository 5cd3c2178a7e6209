"""What a program does to the files below one folder, as a list of operations on a Disk (tests/chaos/disk.py).

The functions of `os` that change files are wrapped, and `open`, whose writes do not pass through them. What a library
writes by itself would be missed, and found to be missed at the end.
"""

import builtins
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import jetmae
from tests.chaos.disk import Disk, Flush, Make, Operation, Remove, Rename, Tree, Truncate, Write

SOURCE = str(Path(jetmae.__file__).parent)
SHOWN_CALLERS = 2
PASSED_THROUGH = {"<lambda>", "together", "on_main", "_forgiving"}
REFUSED = ("link", "symlink", "truncate", "ftruncate", "pwrite", "writev", "sendfile", "copy_file_range", "mknod")


class Recorder:
    """Notes each operation below `root` with its kind; `disk` says what is there already."""

    def __init__(self, root: Path, disk: Disk, note: Callable[[Operation, str], None]):
        self.root, self.disk, self._note = os.path.realpath(root), disk, note
        self._lock = threading.RLock()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While in this context, operations of all threads are noted.

        Raises:
            AssertionError: what is in the folder at the end is not what the operations make.
        """
        self._real = {name: getattr(os, name) for name in (*_WRAPPED, *REFUSED)}
        self._open = builtins.open
        wrapped = {name: self._wrap(getattr(self, f"_{function}")) for name, function in _WRAPPED.items()}
        wrapped |= {name: self._refuse(name) for name in REFUSED}
        opening = patch.object(io, "open", self._open_file), patch.object(builtins, "open", self._open_file)
        with patch.multiple(os, **wrapped), opening[0], opening[1]:
            yield
        assert self.disk.tree() == tree_of(Path(self.root)), "the recorder has missed an operation"

    def _wrap(self, function: Callable) -> Callable:
        def locked(*arguments, **options):
            with self._lock:  # the order of the notes is the order of the effects
                return function(*arguments, **options)

        return locked

    def _refuse(self, name: str) -> Callable:
        def refused(*_, **__):
            raise AssertionError(f"os.{name} is not modelled: add it to tests/chaos")

        return refused

    # -- what is wrapped -----------------------------------------------------------------------------------------------

    def _os_open(self, path, flags, mode=0o777, *, dir_fd=None):
        place = self._place(path, dir_fd)
        before = None if place is None else self.disk.node_at(place)
        descriptor = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        if place is not None and flags & os.O_CREAT:
            self._opened(place, before, truncated=bool(flags & os.O_TRUNC))
        return descriptor

    def _os_write(self, descriptor, content):
        place = self._place(descriptor)
        offset = os.lseek(descriptor, 0, os.SEEK_CUR)
        written = self._real["write"](descriptor, content)
        if place is not None:
            self._done(Write(self._node(place), offset, bytes(content[:written])), place)
        return written

    def _os_fsync(self, descriptor):
        self._real["fsync"](descriptor)
        place = self._place(descriptor)
        if place is not None and os.path.exists(os.path.join(self.root, place)):
            self._done(Flush(self._node(place)), place)

    def _os_mkdir(self, path, mode=0o777, *, dir_fd=None):
        self._real["mkdir"](path, mode, dir_fd=dir_fd)
        if (place := self._place(path, dir_fd)) is not None:
            self._make(place, is_folder=True)

    def _os_remove(self, path, *, dir_fd=None):
        self._real["unlink"](path, dir_fd=dir_fd)
        self._removed(path, dir_fd)

    def _os_rmdir(self, path, *, dir_fd=None):
        self._real["rmdir"](path, dir_fd=dir_fd)
        self._removed(path, dir_fd)

    def _os_rename(self, old, new, *, src_dir_fd=None, dst_dir_fd=None):
        self._real["rename"](old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        source, target = self._place(old, src_dir_fd), self._place(new, dst_dir_fd)
        if source is None and target is None:
            return
        (folder, old_name), (new_folder, new_name) = _split(source), _split(target)
        assert folder == new_folder, f"a rename between folders is not modelled: {source} to {target}"
        self._done(Rename(self._node(folder), old_name, new_name), target)

    def _open_file(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, *more, **options):
        place = None if isinstance(file, int) else self._place(file)
        if place is None or not set(mode) & set("wax+"):
            return self._open(file, mode, buffering, encoding, errors, newline, *more, **options)
        with self._lock:
            before = self.disk.node_at(place)
            raw = _RecordedFile(file, mode.replace("b", "").replace("t", ""), self, place)
            self._opened(place, before, truncated="w" in mode)
        binary = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, encoding, errors, newline)

    # -- what is noted -------------------------------------------------------------------------------------------------

    def written(self, place: str, content: bytes) -> None:
        """To the end of an open file, or to the beginning of an empty one."""
        node = self._node(place)
        self._done(Write(node, len(self.disk.content_of(node)), content), place)

    def truncated(self, place: str, size: int) -> None:
        node = self._node(place)
        if len(self.disk.content_of(node)) != size:
            self._done(Truncate(node, size), place)

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self._lock:
            yield

    def _opened(self, place: str, before: int | None, *, truncated: bool) -> None:
        if before is None:
            self._make(place, is_folder=False)
        elif truncated:
            self.truncated(place, 0)

    def _make(self, place: str, *, is_folder: bool) -> None:
        folder, name = _split(place)
        self._done(Make(self._node(folder), name, self.disk.new_node(), is_folder), place)

    def _removed(self, path, dir_fd) -> None:
        if (place := self._place(path, dir_fd)) is not None:
            folder, name = _split(place)
            self._done(Remove(self._node(folder), name), place)

    def _done(self, operation: Operation, place: str) -> None:
        self._note(operation, f"{type(operation).__name__} {os.path.basename(place)} by {_callers()}")
        self.disk.do(operation)

    # -- where it is ---------------------------------------------------------------------------------------------------

    def _place(self, path, dir_fd: int | None = None) -> str | None:
        """Relative to the root, "" for the root itself; None if it is elsewhere."""
        if isinstance(path, int):
            absolute = os.readlink(f"/proc/self/fd/{path}")
        else:
            folder = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
            absolute = os.path.normpath(os.path.join(folder, os.fsdecode(path)))
        if absolute == self.root:
            return ""
        return absolute[len(self.root) + 1 :] if absolute.startswith(self.root + os.sep) else None

    def _node(self, place: str) -> int:
        node = self.disk.node_at(place)
        assert node is not None, f"{place} was made in a way that the recorder does not see"
        return node


class _RecordedFile(io.FileIO):
    """The bottom of an open file."""

    def __init__(self, file, mode: str, recorder: Recorder, place: str):
        super().__init__(file, mode)
        self._recorder, self._at = recorder, place

    def write(self, content) -> int:
        with self._recorder.locked():
            assert self.tell() == os.fstat(self.fileno()).st_size, "writing over what is there is not modelled"
            written = super().write(content)
            self._recorder.written(self._at, bytes(content[:written]))
        return written

    def truncate(self, size: int | None = None) -> int:
        with self._recorder.locked():
            size = super().truncate(size)
            self._recorder.truncated(self._at, size)
        return size


_WRAPPED = {
    "open": "os_open",
    "write": "os_write",
    "fsync": "os_fsync",
    "fdatasync": "os_fsync",
    "mkdir": "os_mkdir",
    "unlink": "os_remove",
    "remove": "os_remove",
    "rmdir": "os_rmdir",
    "rename": "os_rename",
    "replace": "os_rename",
}


def tree_of(root: Path) -> Tree:
    """What is below a folder."""
    paths = sorted(root.rglob("*"))
    return {str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in paths}


def put(tree: Tree, root: Path) -> None:
    """Make a folder that has exactly this in it."""
    root.mkdir()
    for path, content in tree.items():
        if content is None:
            os.mkdir(f"{root}/{path}")
    for path, content in tree.items():
        if content is not None:
            with open(f"{root}/{path}", "wb", buffering=0) as file:
                file.write(content)


def _split(place: str | None) -> tuple[str, str]:
    assert place, "the recorded folder itself must stay where it is"
    folder, _, name = place.rpartition("/")
    return folder, name


def _callers() -> str:
    frame, functions = sys._getframe(2), []
    while frame is not None and len(functions) < SHOWN_CALLERS:
        function = frame.f_code.co_name
        if frame.f_code.co_filename.startswith(SOURCE) and function not in PASSED_THROUGH:
            functions.append(function)
        frame = frame.f_back
    return " > ".join(reversed(functions)) or "the test"
