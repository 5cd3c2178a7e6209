"""A disk in a machine that loses power: what of the operations since the last flush may be lost.

Every file and folder is a node, and every operation changes one node: a file's bytes, or the names in a folder. An
fsync of a node makes everything that was done to that node durable, and nothing else: flushing a file does not flush
its name, flushing a folder flushes its names and not what they name. Of the operations that are not durable yet, a
power failure may lose

- of a folder's names (create, mkdir, rename, replace, unlink, rmdir), in growing weakness of the file system:
    in order             everything after some instant, over all folders: one journal, as ext4 and XFS have it
    in order per folder  in each folder everything after some instant of its own: file systems with several servers
    in any order         any one, all but one, or any two, whatever came after in the same folder
  One operation is done or not: a rename or a replacement never leaves both names or neither. An operation whose
  precondition was lost (a rename of a name that was never made durable) does nothing.
- of a file's bytes: the whole file; all but the first n of the writes and truncations; one of them; and of any write
  that is the last to arrive, blocks of 512 bytes: `torn` has the first n blocks and the size that goes with them, and
  `holes` has the full size already, with zeros (or the old bytes, where there were some) in all but the first n blocks,
  in all but those after the n-th, in all but one, or in one.

Losses of names are combined with all bytes there, none there, and zeros in their place; losses of bytes of one file
with all other bytes there and none there, and with names all there, none there, or lost in order. What a disk may not
do here: show bytes that belonged to another file, undo what was flushed, or change bytes that nobody wrote
(tests/chaos/corruption.py does that).

This is the method, and in its weakest form the default persistence model, of ALICE: Pillai et al., All File Systems Are
Not Created Equal: On the Complexity of Crafting Crash-Consistent Applications, OSDI 2014.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK_BYTES = 512
ROOT = 0

Names = dict[str, int]
Tree = dict[str, bytes | None]  # path to bytes; None for a folder


@dataclass(frozen=True)
class Make:
    """A new, empty file or folder."""

    node: int
    name: str
    made: int
    is_folder: bool


@dataclass(frozen=True)
class Remove:
    node: int
    name: str


@dataclass(frozen=True)
class Rename:
    """Within one folder; what had the new name loses it."""

    node: int
    old: str
    new: str


@dataclass(frozen=True)
class Write:
    node: int
    offset: int
    content: bytes


@dataclass(frozen=True)
class Truncate:
    node: int
    size: int


@dataclass(frozen=True)
class Flush:
    node: int


NameChange = Make | Remove | Rename
ByteChange = Write | Truncate
Operation = NameChange | ByteChange | Flush


@dataclass(frozen=True)
class Loss:
    """One state that a power failure can leave, and what kind of loss leads to it."""

    kind: str
    tree: Tree


class Disk:
    """What is durable, and what was done since."""

    def __init__(self, tree: Tree | None = None):
        """With a tree on it that is durable; folders come before what is in them."""
        self._durable: dict[int, Names | bytes] = {ROOT: {}}
        self._pending: dict[int, list[tuple[int, NameChange | ByteChange]]] = {}
        self._done = 0
        for path, content in (tree or {}).items():
            folder, _, name = path.rpartition("/")
            node = self.new_node()
            self._durable[node] = {} if content is None else content
            self._durable[self.node_at(folder)][name] = node

    def do(self, operation: Operation) -> None:
        self._done += 1
        if isinstance(operation, Flush):
            changes = [change for _, change in self._pending.pop(operation.node, [])]
            self._durable[operation.node] = _changed(self._durable[operation.node], changes)
            return
        if isinstance(operation, Make):
            self._durable[operation.made] = {} if operation.is_folder else b""
        self._pending.setdefault(operation.node, []).append((self._done, operation))

    def new_node(self) -> int:
        return len(self._durable)

    def node_at(self, path: str) -> int | None:
        """As programs see it now, with nothing lost."""
        node = ROOT
        for name in filter(None, path.split("/")):
            names = self.content_of(node)
            if not isinstance(names, dict) or name not in names:
                return None
            node = names[name]
        return node

    def content_of(self, node: int) -> Names | bytes:
        """As programs see it now, with nothing lost."""
        return _changed(self._durable[node], [change for _, change in self._pending.get(node, [])])

    def tree(self) -> Tree:
        """As programs see it now, with nothing lost."""
        return self._tree({node: self.content_of(node) for node in self._pending})

    def losses(self) -> Iterator[Loss]:
        """What a power failure can leave now. The same tree may come more than once."""
        pending = {node: self._pending[node] for node in self._reachable() if node in self._pending}
        names = {node: changes for node, changes in pending.items() if isinstance(self._durable[node], dict)}
        files = {node: [change for _, change in pending[node]] for node in pending.keys() - names.keys()}
        variants = {node: list(_file_losses(self._durable[node], changes)) for node, changes in files.items()}
        full = {node: _changed(self._durable[node], changes) for node, changes in files.items()}
        zeros = {node: self._durable[node].ljust(len(content), b"\0")[: len(content)] for node, content in full.items()}
        for name_kind, kept in _name_losses(names):
            folders = {node: self._with(node, changes, kept) for node, changes in names.items()}
            yield Loss(f"names: {name_kind}", self._tree({**folders, **full}))
            yield Loss("names and bytes", self._tree(folders))
            yield Loss("names and zeros", self._tree({**folders, **zeros}))
            if name_kind in ("nothing lost", "everything lost", "in order"):
                for node, (byte_kind, content) in ((n, v) for n, vs in variants.items() for v in vs):
                    yield Loss(f"bytes: {byte_kind}", self._tree({**folders, **full, node: content}))
                    yield Loss(f"bytes: {byte_kind}", self._tree({**folders, node: content}))

    def _with(self, node: int, changes: list, kept: frozenset[int]) -> Names | bytes:
        return _changed(self._durable[node], [change for number, change in changes if number in kept])

    def _reachable(self) -> set[int]:
        """Nodes that have a name in some state: what was done to others is of no consequence."""
        reachable, new = set(), {ROOT}
        while new:
            reachable |= new
            folders = [names for node in new if isinstance(names := self._durable[node], dict)]
            named = {child for names in folders for child in names.values()}
            changes = [change for node in new for _, change in self._pending.get(node, [])]
            new = (named | {change.made for change in changes if isinstance(change, Make)}) - reachable
        return reachable

    def _tree(self, contents: dict[int, Names | bytes]) -> Tree:
        tree: Tree = {}
        folders: list[tuple[str, int]] = [("", ROOT)]
        while folders:
            prefix, folder = folders.pop()
            for name, node in contents.get(folder, self._durable[folder]).items():  # type: ignore[union-attr]
                content = contents.get(node, self._durable[node])
                if isinstance(content, dict):
                    tree[prefix + name] = None
                    folders.append((f"{prefix}{name}/", node))
                else:
                    tree[prefix + name] = content
        return tree


def _changed(content: Names | bytes, changes: list) -> Names | bytes:
    for change in changes:
        content = _with_names(content, change) if isinstance(content, dict) else _with_bytes(content, change)
    return content


def _with_names(names: Names, change: NameChange) -> Names:
    match change:
        case Make(_, name, made):
            return {**names, name: made}
        case Remove(_, name):
            return {other: node for other, node in names.items() if other != name}
        case Rename(_, old, new) if old in names:
            return {**{other: node for other, node in names.items() if other != old}, new: names[old]}
    return names


def _with_bytes(content: bytes, change: ByteChange) -> bytes:
    if isinstance(change, Truncate):
        return content[: change.size].ljust(change.size, b"\0")
    end = change.offset + len(change.content)
    return content[: change.offset].ljust(change.offset, b"\0") + change.content + content[end:]


def _name_losses(pending: dict[int, list]) -> Iterator[tuple[str, frozenset[int]]]:
    """Which name changes stay, by their numbers."""
    order = sorted(number for changes in pending.values() for number, _ in changes)
    everything = frozenset(order)
    yield "nothing lost", everything
    yield "everything lost", frozenset()
    for count in range(1, len(order)):
        yield "in order", frozenset(order[:count])
    numbers = [[number for number, _ in changes] for changes in pending.values()]
    beginnings = [[folder[:count] for count in range(len(folder) + 1)] for folder in numbers]
    for chosen in itertools.product(*beginnings):
        yield "in order per folder", frozenset(itertools.chain(*chosen))
    for number in order:
        yield "any one", everything - {number}
        yield "all but one", frozenset({number})
    for pair in itertools.combinations(order, 2):
        yield "any two", everything - set(pair)


def _file_losses(durable: bytes, changes: list[ByteChange]) -> Iterator[tuple[str, bytes]]:
    yield "all of a file", durable
    for number, change in enumerate(changes):
        before = _changed(durable, changes[:number])
        yield "later writes", before
        yield "one write", _changed(durable, changes[:number] + changes[number + 1 :])
        if isinstance(change, Write):
            yield from _torn(before, change)


def _torn(before: bytes, write: Write) -> Iterator[tuple[str, bytes]]:
    """A write that reached the disk in part."""
    end = write.offset + len(write.content)
    first, last = write.offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1
    for block in range(first, last):
        yield "torn", _blocks(before, write, range(first, block))[: max(len(before), block * BLOCK_BYTES)]
        yield "holes", _blocks(before, write, range(first, block))
        yield "holes", _blocks(before, write, range(block + 1, last))
        yield "holes", _blocks(before, write, [block])
        yield "holes", _blocks(before, write, [other for other in range(first, last) if other != block])


def _blocks(before: bytes, write: Write, kept) -> bytes:
    """The size after the write, but of its bytes only those in the kept blocks."""
    after = _with_bytes(before, write)
    content = bytearray(before.ljust(len(after), b"\0"))
    for block in kept:
        place = slice(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
        content[place] = after[place]
    return bytes(content)
