"""Checkpoints whose bytes have changed on the disk: all are found out, and the newest one that is whole is loaded.

A corruption is a change of the checkpoints folder of a small run. Loading has to give the right older checkpoint bit
for bit, set aside what is damaged, with all that is in it, and touch nothing else. If none is whole, it has to end with
a JetmaeError that says what to do, never with a new training.
"""

import random
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jetmae.checkpoint.store import MANIFEST, CheckpointStore, write_file
from jetmae.errors import JetmaeError
from tests.chaos.crash_states import scratch
from tests.chaos.disk import Tree
from tests.chaos.lives import content_of, image_of
from tests.chaos.recorder import put, tree_of
from tests.chaos.small_run import SmallBackend, make_checkpoints, state_of
from tests.chaos.tally import Tally

STEPS = (10, 20, 30)
NEWEST, OLDER = "step-00000030", "step-00000020"
FLIPS = 600  # per file and kind
BLOCK_BYTES = 128


@dataclass(frozen=True)
class Case:
    """A corrupted folder, which of its checkpoints are damaged, and the step of the newest that is whole."""

    kind: str
    tree: Tree
    damaged: tuple[str, ...]
    whole_step: int | None


def corrupt(seed: int = 0) -> Tally:
    """Every case of checkpoints of one file and of two files."""
    tally, draw = Tally("corruptions"), random.Random(seed)
    with scratch() as folder:
        for ranks in ((1, 2, 1), (2, 1, 2)):
            root = folder / f"ranks-{ranks}"
            for step, count in zip(STEPS, ranks, strict=True):
                commit(CheckpointStore(root, keep=len(STEPS)), step, ranks=count)
            for case in cases(tree_of(root), draw):
                tally.tried[case.kind] += 1
                tally.violations += [f"{case.kind}: {what}" for what in shortcomings(folder / "case", case)]
    return tally


def commit(store: CheckpointStore, step: int, *, ranks: int) -> None:
    """A checkpoint as that many ranks write it."""
    partial, files = store.partial_of(step, token=1), {}
    store.make(partial, needed_bytes=1)
    for rank in range(ranks):
        name = f"rank-{rank:05d}.safetensors"
        files[name] = write_file(partial / name, image_of(step, rank=rank, ranks=ranks).content)
    store.commit(partial, step, content=content_of(step, ranks=ranks), files=files)


def cases(whole: Tree, draw: random.Random) -> Iterator[Case]:
    for kind, tree in _changes_of_newest(whole, draw):
        yield Case(kind, tree, (NEWEST,), 20)
    yield Case("a checkpoint gone", _without(whole, NEWEST), (), 20)
    yield Case("LAST gone", _without(whole, "LAST"), (), 30)
    yield Case("LAST wrong", {**whole, "LAST": f"{OLDER}\n".encode()}, (), 30)
    yield from _several(whole, draw)


def _changes_of_newest(whole: Tree, draw: random.Random) -> Iterator[tuple[str, Tree]]:
    files = [path for path in whole if path.startswith(f"{NEWEST}/")]
    for path in files:
        what = "manifest" if path.endswith(MANIFEST) else "state file"
        for kind, content in _changes_of_bytes(whole[path], draw, all_lengths=what == "manifest"):
            yield f"{what}: {kind}", {**whole, path: content}
        yield f"{what}: gone", _without(whole, path)
        yield f"{what}: a folder in its place", {**whole, path: None}
        for other in whole:
            if whole[other] is not None and whole[other] != whole[path]:
                yield f"{what}: another file in its place", {**whole, path: whole[other]}
    for first, second in ((a, b) for a in files for b in files if a < b):
        yield "two files of a checkpoint swapped", {**whole, first: whole[second], second: whole[first]}
    yield "a file in the place of a checkpoint", {**_without(whole, NEWEST), NEWEST: b""}
    yield "an empty folder in the place of a checkpoint", {**_without(whole, NEWEST), NEWEST: None}
    yield (
        "another checkpoint in its place",
        {**_without(whole, NEWEST), **_renamed(_below(whole, OLDER), OLDER, NEWEST)},
    )


def _changes_of_bytes(content: bytes, draw: random.Random, *, all_lengths: bool) -> Iterator[tuple[str, bytes]]:
    size = len(content)
    for length in range(0, size, 1 if all_lengths else 4):
        yield "cut short", content[:length]
    for bit in sorted(draw.sample(range(8 * size), FLIPS)):
        changed = content[bit // 8] ^ (1 << bit % 8)
        yield "one bit flipped", content[: bit // 8] + bytes([changed]) + content[bit // 8 + 1 :]
    for begin in range(0, size, BLOCK_BYTES):
        zeros = bytes(len(content[begin : begin + BLOCK_BYTES]))
        yield "a block of zeros", content[:begin] + zeros + content[begin + BLOCK_BYTES :]
    for extra in (b"\0", b"\n", b" ", bytes(8), content, draw.randbytes(512)):
        yield "bytes appended", content + extra


def _several(whole: Tree, draw: random.Random) -> Iterator[Case]:
    """More than one is damaged, or damage comes twice."""
    names = [f"step-{step:08d}" for step in STEPS]
    for path in (path for path, content in whole.items() if content is not None and path.startswith(OLDER)):
        tree = {**whole, path: _flipped(whole[path], draw), f"{NEWEST}/{MANIFEST}": b""}
        yield Case("two checkpoints damaged", tree, (OLDER, NEWEST), 10)
    aside = _renamed(_below(whole, OLDER), OLDER, f".{NEWEST}.damaged")
    yield Case("one set aside before", {**whole, **aside, f"{NEWEST}/{MANIFEST}": b""}, (NEWEST,), 20)
    for _ in range(50):
        tree = dict(whole)
        for name in names:
            path = draw.choice([path for path in _below(whole, name) if path != name])
            tree[path] = _flipped(whole[path], draw)
        yield Case("all damaged", tree, tuple(names), None)
    only_last = {"LAST": whole["LAST"]}
    yield Case("all gone but LAST", only_last, (), None)
    yield Case("one damaged, the others and LAST gone", {**_below(whole, NEWEST), f"{NEWEST}/{MANIFEST}": b""},
               (NEWEST,), None)  # fmt: skip
    yield Case("only one that was set aside", aside, (), None)


def _flipped(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def _below(tree: Tree, name: str) -> Tree:
    return {path: content for path, content in tree.items() if path.split("/")[0] == name}


def _without(tree: Tree, name: str) -> Tree:
    return {path: content for path, content in tree.items() if path != name and not path.startswith(f"{name}/")}


def _renamed(tree: Tree, old: str, new: str) -> Tree:
    return {new + path.removeprefix(old): content for path, content in tree.items()}


def shortcomings(folder: Path, case: Case) -> list[str]:
    put(case.tree, folder)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            found = list(_wrong_load(folder, case))
        texts = [str(warning.message) for warning in warned]
        silent = [name for name in case.damaged if not any(f"checkpoint {name} is damaged" in text for text in texts)]
        unexpected = [] if tree_of(folder) == _after(case) else [f"the folder is left with {sorted(tree_of(folder))}"]
        return found + unexpected + [f"no warning names {name}: {texts}" for name in silent]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    finally:
        shutil.rmtree(folder)


def _wrong_load(folder: Path, case: Case) -> Iterator[str]:
    backend = SmallBackend()
    checkpoints = make_checkpoints(CheckpointStore(folder, keep=len(STEPS)), backend)
    try:
        state = checkpoints.load_newest()
    except JetmaeError as error:
        if case.whole_step is not None or "restore one from a backup" not in str(error):
            yield f"JetmaeError: {error}"
        return
    if case.whole_step is None or state != state_of(case.whole_step) or not backend.holds(case.whole_step):
        yield f"loaded {state}, expected step {case.whole_step}"


def _after(case: Case) -> Tree:
    """Nothing is changed but names of what is damaged."""
    tree = dict(case.tree)
    for name in case.damaged:
        number = "-2" if f".{name}.damaged" in tree else ""
        tree = {**_without(tree, name), **_renamed(_below(tree, name), name, f".{name}.damaged{number}")}
    return tree
